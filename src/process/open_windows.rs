//! The open panes of all definitions, on the batch processor's thread: each event into its rows, each pane closed on time.
//!
//! ```text
//! event ─► pane of the default definition: row of its topic
//!              └─ resolved once per topic and pane ─► which other definitions match (a bit each)
//!                                                        └─ resolved once per topic and pane of each ─► row of its group there
//! ```
//!
//! Invariants:
//! - **OW1** An event counts into the pane of each matching definition that is open when it is recorded; once, or as `topic_limit`.
//! - **OW2** A pane with rows closes at its end even if nothing arrives, and so do the empty ones after it while windows hold it; panes begin
//!   at whole slides after the start.
//! - **OW3** Closing swaps tables and costs the same whatever they hold; a helper that has no table to spare puts the closing off.
//! - **OW4** What a topic was resolved to is forgotten with the pane it was resolved in: rows of another pane are never used.
//! - **OW5** A definition that does not match a topic costs its events nothing. A topic that has no row itself is resolved again with each
//!   event, so that groups count every event whatever the number of topics.

use crate::bus::{TopicFilter, TopicTable};
use crate::process::json_pointer::JsonPointer;
use crate::process::window::{DEFINITIONS_MAX, WindowDefinition};
use crate::process::window_log::WindowLog;
use crate::process::window_table::{PaneSpan, WindowTable};
use crate::sys::clock::{Nanos, WallNanos};

/// Not resolved yet.
const UNKNOWN: u32 = u32::MAX;
/// Resolved: there is no room for a row.
const NO_ROW: u32 = u32::MAX - 1;

/// What is counted of an event.
pub(crate) struct Recorded<'e> {
    pub(crate) topic: &'e [u8],
    pub(crate) body: &'e [u8],
    pub(crate) received_at: WallNanos,
}

/// What the closing of panes came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Closed {
    /// Panes closed.
    pub(crate) panes: u32,
    /// Rows in them.
    pub(crate) rows: u64,
    /// Closings put off, each counted once.
    pub(crate) extended: u64,
}

/// The open pane of one definition.
struct OpenPane {
    slide: Nanos,
    /// Panes of a window.
    panes: u64,
    table: Box<WindowTable>,
    /// When it began, on both clocks.
    opened_at: Nanos,
    opened_wall: WallNanos,
    /// When the processor started.
    floor: Nanos,
    /// The present closing has been put off (and counted) already.
    is_extended: bool,
    /// Empty panes that still have to be closed, as windows that hold earlier ones end with them.
    tails: u64,
}

impl OpenPane {
    fn new(definition: &WindowDefinition, table: Box<WindowTable>) -> Self {
        let zero = (Nanos(0), WallNanos(0));
        let (slide, panes) = (definition.slide, definition.panes());
        Self { slide, panes, table, opened_at: zero.0, opened_wall: zero.1, floor: zero.0, is_extended: false, tails: 0 }
    }

    fn ends_at(&self) -> Nanos {
        self.opened_at + self.slide
    }

    /// Whether its end matters to anybody.
    fn is_wanted(&self) -> bool {
        self.table.len() > 0 || self.tails > 0
    }

    /// The pane that `now` falls into, in whole slides from the one before.
    fn open(&mut self, now: Nanos, wall: WallNanos) {
        let into = now.since(self.opened_at).0 % self.slide.0;
        self.opened_at = Nanos(now.0 - into);
        self.opened_wall = WallNanos(wall.0.saturating_sub(into));
    }

    /// Closes the pane if it is over (OW2), or now if `at_once`. True if it did.
    fn close_if_over(&mut self, now: Nanos, wall: WallNanos, at_once: bool, log: &mut WindowLog, closed: &mut Closed) -> bool {
        let is_over = now >= self.ends_at();
        if !self.is_wanted() {
            if is_over {
                self.open(now, wall);
            }
            return false;
        }
        if !is_over && self.table.len() == 0 && at_once {
            // All that the windows still to come hold has been in the one before.
            self.tails = 0;
        }
        if !is_over && (!at_once || self.table.len() == 0) {
            return false;
        }
        let Some(spare) = log.take_spare(self.table.definition) else {
            closed.extended += u64::from(!self.is_extended);
            self.is_extended = true;
            return false;
        };
        let mut table = std::mem::replace(&mut self.table, spare);
        let (start, start_wall, on_time) = (self.opened_at, self.opened_wall, self.ends_at());
        self.open(now, wall);
        let was_put_off = std::mem::take(&mut self.is_extended);
        let passed = self.opened_at.max(on_time);
        let end = if was_put_off { passed } else { on_time };
        table.span = PaneSpan {
            start,
            start_wall,
            end,
            // On time it is exactly a slide; put off, or cut short by a drain, what it was.
            closed_at: if was_put_off || at_once { now } else { on_time },
            until: if at_once { end } else { passed },
            floor: self.floor,
        };
        let tails = if table.len() > 0 { self.panes - 1 } else { self.tails - 1 };
        let skipped = (table.span.until - end).0 / self.slide.0;
        self.tails = if at_once { 0 } else { tails.saturating_sub(skipped) };
        closed.panes += 1;
        closed.rows += table.len() as u64;
        log.write(table);
        true
    }
}

/// A definition beside the default one.
struct Grouped {
    definition: WindowDefinition,
    pane: OpenPane,
    /// By row of the topic: the row of its group in `pane`, [`UNKNOWN`] or [`NO_ROW`].
    rows: Box<[u32]>,
}

/// All definitions beside the default one.
struct More {
    grouped: Vec<Grouped>,
    /// By filter: the definitions that have it, a bit each.
    filters: TopicTable<u32>,
    /// By row of the topic: the definitions that match it.
    matching: Vec<u32>,
}

const _: () = assert!(DEFINITIONS_MAX <= u32::BITS as usize, "a definition is a bit of a u32");

impl More {
    fn new(definitions: &[WindowDefinition], topics_max: usize, mut pane: impl FnMut(&WindowDefinition) -> OpenPane) -> Self {
        assert!(definitions.len() <= DEFINITIONS_MAX, "a definition is a bit of a u32");
        let mut filters: Vec<(TopicFilter, u32)> = Vec::new();
        for (number, definition) in definitions.iter().enumerate() {
            match filters.iter_mut().find(|(filter, _)| *filter == definition.filter) {
                Some((_, bits)) => *bits |= 1 << number,
                None => filters.push((definition.filter.clone(), 1 << number)),
            }
        }
        let grouped = definitions.iter().map(|definition| Grouped {
            definition: definition.clone(),
            pane: pane(definition),
            rows: vec![UNKNOWN; topics_max].into_boxed_slice(),
        });
        Self {
            grouped: grouped.collect(),
            filters: TopicTable::compile(filters).expect("equal filters are one entry"),
            matching: Vec::with_capacity(topics_max),
        }
    }

    /// The definitions that match a topic, a bit each; `topic_row` is its row in the default definition's pane.
    #[inline]
    fn matching(&mut self, topic_row: Option<usize>, topic: &[u8]) -> u32 {
        if let Some(bits) = topic_row.and_then(|row| self.matching.get(row)) {
            return *bits;
        }
        self.resolve(topic_row.is_some(), topic)
    }

    #[cold]
    fn resolve(&mut self, has_row: bool, topic: &[u8]) -> u32 {
        let mut all = 0;
        self.filters.for_each_match(topic, |bits| all |= bits);
        if has_row {
            // Rows are given out in order: its row is the next one.
            self.matching.push(all);
        }
        all // OW5: kept only for a topic with a row.
    }

    /// Counts an event into the definitions that match its topic. Returns how many had no row for it.
    fn record(&mut self, mut matching: u32, topic_row: Option<usize>, event: &Recorded<'_>) -> u64 {
        let mut without_row = 0;
        while matching != 0 {
            let grouped = &mut self.grouped[matching.trailing_zeros() as usize];
            matching &= matching - 1;
            without_row += u64::from(!grouped.record(topic_row, event));
        }
        without_row
    }

    /// The default definition has a fresh pane: its rows mean other topics (OW4).
    fn forget_topics(&mut self) {
        self.matching.clear();
        self.grouped.iter_mut().for_each(Grouped::forget_rows);
    }
}

impl Grouped {
    fn forget_rows(&mut self) {
        self.rows.fill(UNKNOWN);
    }

    fn record(&mut self, topic_row: Option<usize>, event: &Recorded<'_>) -> bool {
        let known = topic_row.map_or(UNKNOWN, |row| self.rows[row]);
        let row = if known == UNKNOWN {
            let group = self.definition.group_by.group(event.topic, &self.definition.filter);
            let row = self.pane.table.find_or_add(group).map_or(NO_ROW, |row| row as u32);
            if let Some(topic_row) = topic_row {
                self.rows[topic_row] = row;
            }
            row
        } else {
            known
        };
        if row == NO_ROW {
            return false;
        }
        self.pane.table.count(row as usize, event.body.len() as u32, event.received_at);
        if let Some(value) = self.definition.value.as_ref().and_then(|pointer| number_at(pointer, event.body)) {
            self.pane.table.count_value(row as usize, value);
        }
        true
    }
}

/// The number that the pointer leads to, if that is what it leads to.
fn number_at(pointer: &JsonPointer, body: &[u8]) -> Option<f64> {
    pointer.find(body)?.as_f64()
}

/// The agent's windows.
pub(crate) struct OpenWindows {
    log: WindowLog,
    topics: OpenPane,
    /// Absent without further definitions: then an event costs what its topic's row costs.
    more: Option<Box<More>>,
}

impl OpenWindows {
    /// Takes the first tables of a fresh log.
    ///
    /// # Panics
    /// If the log serves another processor already.
    pub(crate) fn new(log: WindowLog) -> Self {
        let definitions = log.definitions().clone();
        let mut numbers = 0..;
        let mut pane = |definition: &WindowDefinition| {
            let number = numbers.next().expect("as many as there are definitions");
            OpenPane::new(definition, log.take_spare(number).expect("a fresh log has its tables"))
        };
        let (first, others) = definitions.split_first().expect("a log has the default definition");
        let topics = pane(first);
        let more = (!others.is_empty()).then(|| Box::new(More::new(others, first.groups_max, pane)));
        Self { log, topics, more }
    }

    /// Where closed panes go.
    pub(crate) fn log(&self) -> &WindowLog {
        &self.log
    }

    fn panes(&mut self) -> impl Iterator<Item = &mut OpenPane> {
        let more = self.more.iter_mut().flat_map(|more| more.grouped.iter_mut().map(|grouped| &mut grouped.pane));
        std::iter::once(&mut self.topics).chain(more)
    }

    /// Opens all panes.
    pub(crate) fn start(&mut self, now: Nanos, wall: WallNanos) {
        self.panes().for_each(|pane| (pane.opened_at, pane.opened_wall, pane.floor) = (now, wall, now));
    }

    /// Counts events (OW1). Returns how often a definition had no row for one.
    #[inline]
    pub(crate) fn record<'e>(&mut self, events: impl Iterator<Item = Recorded<'e>>) -> u64 {
        let topics = &mut self.topics.table;
        let mut topics_row = |event: &Recorded<'e>| topics.record(event.topic, event.body.len() as u32, event.received_at);
        match &mut self.more {
            None => events.map(|event| u64::from(topics_row(&event).is_none())).sum(),
            Some(more) => Self::record_more(more, topics_row, events),
        }
    }

    /// Apart, so that the loop of the default windows alone stays as small as it is.
    #[inline(never)]
    fn record_more<'e>(
        more: &mut More,
        mut topics_row: impl FnMut(&Recorded<'e>) -> Option<usize>,
        events: impl Iterator<Item = Recorded<'e>>,
    ) -> u64 {
        let mut without_row = 0;
        for event in events {
            let row = topics_row(&event);
            without_row += u64::from(row.is_none());
            let matching = more.matching(row, event.topic);
            if matching != 0 {
                without_row += more.record(matching, row, &event);
            }
        }
        without_row
    }

    /// Closes the panes that are over, or all of them now if `at_once`.
    pub(crate) fn close_those_over(&mut self, now: Nanos, wall: WallNanos, at_once: bool) -> Closed {
        let mut closed = Closed::default();
        let is_fresh = self.topics.close_if_over(now, wall, at_once, &mut self.log, &mut closed);
        if let Some(more) = &mut self.more {
            if is_fresh {
                more.forget_topics();
            }
            for grouped in &mut more.grouped {
                if grouped.pane.close_if_over(now, wall, at_once, &mut self.log, &mut closed) {
                    grouped.forget_rows();
                }
            }
        }
        closed
    }

    /// When the next pane has to be closed; `retry` from now where that is over already.
    pub(crate) fn next_deadline(&self, now: Nanos, retry: Nanos) -> Option<Nanos> {
        let more = self.more.iter().flat_map(|more| more.grouped.iter().map(|grouped| &grouped.pane));
        let wanted = std::iter::once(&self.topics).chain(more).filter(|pane| pane.is_wanted());
        wanted.map(|pane| if pane.ends_at() > now { pane.ends_at() } else { now + retry }).min()
    }

    /// Whether nothing is open that would have to be written, and all else is written.
    pub(crate) fn is_written(&self) -> bool {
        let more = self.more.iter().flat_map(|more| more.grouped.iter().map(|grouped| &grouped.pane));
        !std::iter::once(&self.topics).chain(more).any(OpenPane::is_wanted) && self.log.is_idle()
    }
}

#[cfg(test)]
#[path = "open_windows_tests.rs"]
mod tests;
