//! The figures of one pane of a definition, group by group: a fixed table, filled by the batch processor, read by the thread that writes
//! windows down.
//!
//! ```text
//! index (power of two, half empty)  ──►  rows (groups_max)  ──►  names (one arena)
//!                                          └── same number ──►  values (groups_max), where the definition has a value
//! ```
//!
//! Invariants:
//! - **WT1** All memory is taken at start; counting never allocates.
//! - **WT2** A group that has no row when rows or name bytes are used up gets none in this pane: `find_or_add` says so, the caller counts it.
//!   Others are not affected.
//! - **WT3** The index is at most half full, so every probe ends; its hash is seeded, so that senders can't line names up. All tables of
//!   a definition have one seed: a row's hash finds its group in the other panes.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::process::window::{Counts, ValueCounts, WindowDefinition};
use crate::sys::clock::{Nanos, WallNanos};

/// Marks an empty place of the index.
const EMPTY: u32 = u32::MAX;

/// Bytes of a row, for the budget.
const ROW_BYTES: usize = size_of::<Row>();

/// One group's counts, and where its name is.
#[derive(Clone, Copy, Debug)]
struct Row {
    hash: u64,
    name_start: u32,
    name_len: u16,
    counts: Counts,
}

/// When a closed pane was open. Ends are on the definition's grid: whole slides after the processor's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PaneSpan {
    /// When it began.
    pub(crate) start: Nanos,
    /// The same on the wall clock.
    pub(crate) start_wall: WallNanos,
    /// The end on the grid that it belongs to: a slide after the start, or more where the closing was put off.
    pub(crate) end: Nanos,
    /// When it was closed: at its end, unless put off or cut short by a drain.
    pub(crate) closed_at: Nanos,
    /// The end on the grid that time has come to since: nothing arrived between `end` and this.
    pub(crate) until: Nanos,
    /// When the processor started: no window began before.
    pub(crate) floor: Nanos,
}

/// The open pane, or one on its way to the file.
#[derive(Debug)]
pub(crate) struct WindowTable {
    /// Which definition it belongs to.
    pub(crate) definition: usize,
    /// Set when it is closed.
    pub(crate) span: PaneSpan,
    seed: u64,
    groups_max: usize,
    group_bytes_max: usize,
    rows: Vec<Row>,
    names: Vec<u8>,
    index: Box<[u32]>,
    /// By row; empty where the definition has no value.
    values: Box<[ValueCounts]>,
    /// The row before: streams repeat themselves.
    last_row: usize,
}

impl WindowTable {
    pub(crate) fn new(number: usize, definition: &WindowDefinition, seed: u64) -> Self {
        let values = if definition.value.is_some() { definition.groups_max } else { 0 };
        Self {
            definition: number,
            span: PaneSpan::default(),
            seed,
            groups_max: definition.groups_max,
            group_bytes_max: definition.group_bytes_max,
            rows: Vec::with_capacity(definition.groups_max),
            names: Vec::with_capacity(definition.group_bytes_max),
            index: vec![EMPTY; Self::index_places(definition)].into_boxed_slice(),
            values: vec![ValueCounts::new(); values].into_boxed_slice(),
            last_row: 0,
        }
    }

    fn index_places(definition: &WindowDefinition) -> usize {
        (definition.groups_max * 2).next_power_of_two().max(2)
    }

    /// What a table of this definition takes.
    pub(crate) fn bytes(definition: &WindowDefinition) -> usize {
        let value_bytes = if definition.value.is_some() { size_of::<ValueCounts>() } else { 0 };
        definition.groups_max * (ROW_BYTES + value_bytes)
            + Self::index_places(definition) * size_of::<u32>()
            + definition.group_bytes_max
    }

    /// Counts an event into its group's row, and says which that is. `None`: there is none (WT2). Always inlined: the call alone is 19
    /// instructions an event, of some 350 that the processor has for it in all.
    #[inline(always)]
    pub(crate) fn record(&mut self, group: &[u8], body_bytes: u32, received_at: WallNanos) -> Option<usize> {
        if let Some(row) = self.rows.get_mut(self.last_row)
            && self.names[row.name_start as usize..][..usize::from(row.name_len)] == *group
        {
            row.counts.add(body_bytes, received_at);
            return Some(self.last_row);
        }
        self.last_row = self.find_or_add(group)?;
        self.count(self.last_row, body_bytes, received_at);
        Some(self.last_row)
    }

    /// Counts an event into a row.
    #[inline]
    pub(crate) fn count(&mut self, row: usize, body_bytes: u32, received_at: WallNanos) {
        self.rows[row].counts.add(body_bytes, received_at);
    }

    /// Counts a number into a row of a table with values.
    pub(crate) fn count_value(&mut self, row: usize, value: f64) {
        self.values[row].add(value);
    }

    #[inline]
    fn name_of(&self, row: &Row) -> &[u8] {
        &self.names[row.name_start as usize..][..usize::from(row.name_len)]
    }

    /// The row of this name, or the empty place of the index where it would be. Always inlined, for
    /// the same reason.
    #[inline(always)]
    fn find(&self, hash: u64, name: &[u8]) -> Result<usize, usize> {
        let mask = self.index.len() - 1;
        let mut place = hash as usize & mask;
        while self.index[place] != EMPTY {
            let found = self.index[place] as usize;
            if self.rows[found].hash == hash && self.name_of(&self.rows[found]) == name {
                return Ok(found);
            }
            place = (place + 1) & mask; // WT3
        }
        Err(place)
    }

    /// A group's row, a new one where it has none. `None`: no room (WT2).
    pub(crate) fn find_or_add(&mut self, group: &[u8]) -> Option<usize> {
        let hash = xxh3_64_with_seed(group, self.seed);
        let place = match self.find(hash, group) {
            Ok(row) => return Some(row),
            Err(place) => place,
        };
        let row = self.rows.len();
        if row == self.groups_max || self.names.len() + group.len() > self.group_bytes_max {
            return None;
        }
        self.index[place] = row as u32;
        let (name_start, name_len) = (self.names.len() as u32, group.len() as u16);
        self.rows.push(Row { hash, name_start, name_len, counts: Counts::NONE });
        self.names.extend_from_slice(group);
        if let Some(value) = self.values.get_mut(row) {
            value.clear();
        }
        Some(row)
    }

    /// Groups with a row.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// A row's group.
    pub(crate) fn group(&self, row: usize) -> &str {
        std::str::from_utf8(self.name_of(&self.rows[row])).expect("the codec admits only UTF-8 topics, cut between levels")
    }

    /// The row that the group of another table's row has here.
    pub(crate) fn row_like(&self, other: &WindowTable, row: usize) -> Option<usize> {
        debug_assert_eq!(self.seed, other.seed, "WT3");
        let row = &other.rows[row];
        self.find(row.hash, other.name_of(row)).ok()
    }

    /// A row's counts.
    pub(crate) fn counts(&self, row: usize) -> &Counts {
        &self.rows[row].counts
    }

    /// A row's numbers, where the definition has a value.
    pub(crate) fn values(&self, row: usize) -> Option<&ValueCounts> {
        self.values.get(row)
    }

    /// Forgets everything, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.names.clear();
        self.index.fill(EMPTY);
        self.last_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn table(groups_max: usize, group_bytes_max: usize) -> WindowTable {
        let definition = WindowDefinition { groups_max, group_bytes_max, ..WindowDefinition::topics(Nanos::from_millis(5)) };
        WindowTable::new(0, &definition, 7)
    }

    #[test]
    fn counts_are_those_of_the_group_s_events() {
        let mut table = table(4, 64);
        for (topic, bytes, at) in [("a", 10, 5), ("b", 1, 6), ("a", 30, 7), ("a", 20, 3)] {
            assert!(table.record(topic.as_bytes(), bytes, WallNanos(at)).is_some());
        }
        assert_eq!((table.len(), table.group(0), table.group(1)), (2, "a", "b"));
        let a = table.counts(0);
        assert_eq!((a.events, a.body_bytes, a.body_bytes_min, a.body_bytes_max), (3, 60, 10, 30));
        assert_eq!((a.first_at, a.last_at), (WallNanos(3), WallNanos(7)));
    }

    #[test]
    fn groups_beyond_the_bound_have_no_row_and_disturb_nobody() {
        let mut table = table(2, 8);
        assert!(table.record(b"a", 1, WallNanos(1)).is_some() && table.record(b"b", 1, WallNanos(1)).is_some());
        assert!(table.record(b"c", 1, WallNanos(1)).is_none());
        assert!(table.record(b"a", 1, WallNanos(1)).is_some());
        table.clear();
        assert!(table.record(b"12345678", 1, WallNanos(1)).is_some());
        assert!(table.record(b"9", 1, WallNanos(1)).is_none(), "name bytes are bounded too");
    }

    proptest! {
        #[test]
        fn table_agrees_with_a_map(events in prop::collection::vec((0u16..200, 0u32..1000), 0..2000)) {
            let mut table = table(256, 4096);
            let mut model: BTreeMap<String, (u64, u64)> = BTreeMap::new();
            for (topic, bytes) in events {
                let topic = format!("t/{topic}");
                prop_assert!(table.record(topic.as_bytes(), bytes, WallNanos(0)).is_some());
                let entry = model.entry(topic).or_default();
                *entry = (entry.0 + 1, entry.1 + u64::from(bytes));
            }
            let rows = (0..table.len()).map(|row| {
                let counts = table.counts(row);
                (table.group(row).to_owned(), (counts.events, counts.body_bytes))
            });
            prop_assert_eq!(rows.collect::<BTreeMap<_, _>>(), model);
        }
    }
}
