//! The closed panes of a definition that windows still need, put together into windows as these close.
//!
//! ```text
//! pane ──push──► tables (at most length / slide) ──each end──► one ClosedWindow per group in any of them
//!                  └── release: what no later window holds
//! ```
//!
//! Invariants:
//! - **WP1** The window with end `e` holds the panes with `e - length < end <= e`, so a pane is in `length / slide` windows in a row.
//! - **WP2** Each group of a window is handed out once, in the order in which the groups first came, with the sum of its panes. No
//!   group is lost to a bound: nothing is merged into a table.
//! - **WP3** A pane whose closing was put off belongs to the end that time had come to by then; the windows that would have ended in
//!   between are not closed, so no window lacks events that came before its end. Those that hold it are longer, and say so.

use std::collections::VecDeque;

use crate::process::window::{ClosedWindow, ValueCounts, WindowDefinition};
use crate::process::window_table::WindowTable;
use crate::sys::clock::{Nanos, WallNanos};

/// The panes of one definition.
pub(crate) struct Panes {
    definition: WindowDefinition,
    /// By age; their ends rise.
    tables: VecDeque<Box<WindowTable>>,
    /// Where a group's numbers are added up.
    values: ValueCounts,
}

impl Panes {
    pub(crate) fn new(definition: WindowDefinition) -> Self {
        let tables = VecDeque::with_capacity(definition.panes() as usize + 1);
        Self { definition, tables, values: ValueCounts::new() }
    }

    pub(crate) fn definition(&self) -> &WindowDefinition {
        &self.definition
    }

    /// Takes the next closed pane. Its windows are those of [`Panes::ends`]; then come [`Panes::release`]s.
    pub(crate) fn push(&mut self, table: Box<WindowTable>) {
        debug_assert!(self.tables.back().is_none_or(|last| last.span.end <= table.span.end));
        self.tables.push_back(table);
    }

    /// The ends of the windows that the pane pushed last closes: its own, and those that passed since without an event.
    pub(crate) fn ends(&self) -> Vec<Nanos> {
        let Some(span) = self.tables.back().map(|newest| newest.span) else { return Vec::new() };
        let latest = self.tables.iter().filter(|table| table.len() > 0).map(|table| table.span.end).max();
        let Some(latest) = latest else { return Vec::new() };
        // WP1: the last window with anything in it.
        let last = span.until.min(latest + self.definition.length - self.definition.slide);
        let mut ends = Vec::new();
        let mut end = span.end;
        while end <= last {
            ends.push(end);
            end = end + self.definition.slide;
        }
        ends
    }

    /// A table that no later window needs.
    pub(crate) fn release(&mut self) -> Option<Box<WindowTable>> {
        let until = self.tables.back()?.span.until;
        let next_end = until + self.definition.slide;
        let is_over = |table: &WindowTable| table.len() == 0 || table.span.end + self.definition.length <= next_end;
        let place = self.tables.iter().position(|table| is_over(table))?;
        self.tables.remove(place)
    }

    /// The first table that is in the window with this end (WP1).
    fn first_member(&self, end: Nanos) -> usize {
        self.tables.partition_point(|table| table.span.end + self.definition.length <= end)
    }

    /// Hands out every group of the window with this end (WP2).
    pub(crate) fn for_each_group(&mut self, end: Nanos, mut each: impl FnMut(&ClosedWindow<'_>)) {
        let first = self.first_member(end);
        let (Some(oldest), Some(newest)) = (self.tables.get(first), self.tables.back()) else { return };
        let (oldest, newest) = (oldest.span, newest.span);
        // WP3: longer where a closing was put off; shorter at the start, and where a drain cut it short.
        let nominal = Nanos(end.0.saturating_sub(self.definition.length.0));
        let start = nominal.min(oldest.start).max(newest.floor);
        let closed_at = if end == newest.end { newest.closed_at } else { end };
        let before_newest = newest.start.since(start).0;
        let after_newest = start.since(newest.start).0;
        let start_wall = WallNanos(newest.start_wall.0.saturating_sub(before_newest) + after_newest);
        for place in first..self.tables.len() {
            for row in 0..self.tables[place].len() {
                let pane = &self.tables[place];
                // Most groups come again and again: the pane just before knows them.
                let is_out = (first..place).rev().any(|earlier| self.tables[earlier].row_like(pane, row).is_some());
                if is_out {
                    continue;
                }
                let mut counts = *pane.counts(row);
                let has_value = pane.values(row).is_some();
                if let Some(values) = pane.values(row) {
                    self.values.clear();
                    self.values.merge(values);
                }
                for later in self.tables.range(place + 1..) {
                    let Some(row) = later.row_like(pane, row) else { continue };
                    counts.merge(later.counts(row));
                    if let Some(values) = later.values(row) {
                        self.values.merge(values);
                    }
                }
                each(&ClosedWindow {
                    definition: &self.definition.name,
                    group: pane.group(row),
                    start: start_wall,
                    length: closed_at.since(start),
                    events: counts.events,
                    body_bytes: counts.body_bytes,
                    body_bytes_min: counts.body_bytes_min,
                    body_bytes_max: counts.body_bytes_max,
                    first_at: counts.first_at,
                    last_at: counts.last_at,
                    value: has_value.then(|| self.values.summary(counts.events)),
                });
            }
        }
    }
}
