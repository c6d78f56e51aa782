//! Statistics per topic within one window: a fixed table, filled by the batch processor, read by the thread that writes it down.
//!
//! ```text
//! index (power of two, half empty)  ──►  rows (topics_max)  ──►  topic bytes (one arena)
//! ```
//!
//! Invariants:
//! - **WT1** All memory is taken at start; `record` never allocates.
//! - **WT2** A topic that has no row when rows or topic bytes are used up gets none in this window: `record` says so, the caller counts it.
//!   Others are not affected.
//! - **WT3** The index is at most half full, so every probe ends; its hash is seeded, so that senders can't line topics up.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::process::identity::random_u64;
use crate::sys::clock::{Nanos, WallNanos};

/// Marks an empty place of the index.
const EMPTY: u32 = u32::MAX;

/// One topic's figures over one closed window, as handlers and the file get them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedWindow<'a> {
    /// The topic.
    pub topic: &'a str,
    /// When the window began, wall clock.
    pub start: WallNanos,
    /// How long it was, on the monotonic clock.
    pub length: Nanos,
    /// Events.
    pub events: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// The smallest body, bytes.
    pub body_bytes_min: u32,
    /// The largest body, bytes.
    pub body_bytes_max: u32,
    /// When the first one was received, wall clock.
    pub first_at: WallNanos,
    /// When the last one was received, wall clock.
    pub last_at: WallNanos,
}

impl ClosedWindow<'_> {
    /// Events per second of the window.
    pub fn events_per_s(&self) -> f64 {
        self.events as f64 * 1e9 / self.length.0.max(1) as f64
    }

    /// The mean body, bytes.
    pub fn body_bytes_mean(&self) -> f64 {
        self.body_bytes as f64 / self.events.max(1) as f64
    }
}

/// One topic's figures as they grow.
#[derive(Clone, Copy, Debug)]
struct Row {
    hash: u64,
    topic_start: u32,
    topic_len: u16,
    body_bytes_min: u32,
    body_bytes_max: u32,
    events: u64,
    body_bytes: u64,
    first_at: WallNanos,
    last_at: WallNanos,
}

/// The sizes of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowTableLimits {
    pub(crate) topics_max: usize,
    pub(crate) topic_bytes_max: usize,
}

/// The open window, or one on its way to the file.
#[derive(Debug)]
pub(crate) struct WindowTable {
    limits: WindowTableLimits,
    seed: u64,
    rows: Vec<Row>,
    topics: Vec<u8>,
    index: Box<[u32]>,
    /// The row of the topic before: streams repeat themselves.
    last_row: usize,
    /// Set when the window is closed.
    pub(crate) start: WallNanos,
    pub(crate) length: Nanos,
}

impl WindowTable {
    pub(crate) fn new(limits: WindowTableLimits) -> Self {
        Self {
            limits,
            seed: random_u64(),
            rows: Vec::with_capacity(limits.topics_max),
            topics: Vec::with_capacity(limits.topic_bytes_max),
            index: vec![EMPTY; (limits.topics_max * 2).next_power_of_two().max(2)].into_boxed_slice(),
            last_row: 0,
            start: WallNanos(0),
            length: Nanos(0),
        }
    }

    /// Counts an event. False: its topic has no row (WT2).
    #[inline]
    pub(crate) fn record(&mut self, topic: &[u8], body_bytes: u32, received_at: WallNanos) -> bool {
        let is_last = self.rows.get(self.last_row).is_some_and(|row| self.topic_of(row) == topic);
        if !is_last {
            match self.find_or_add(topic, received_at) {
                Some(row) => self.last_row = row,
                None => return false,
            }
        }
        let row = &mut self.rows[self.last_row];
        row.events += 1;
        row.body_bytes += u64::from(body_bytes);
        row.body_bytes_min = row.body_bytes_min.min(body_bytes);
        row.body_bytes_max = row.body_bytes_max.max(body_bytes);
        row.first_at = row.first_at.min(received_at);
        row.last_at = row.last_at.max(received_at);
        true
    }

    fn topic_of(&self, row: &Row) -> &[u8] {
        &self.topics[row.topic_start as usize..][..usize::from(row.topic_len)]
    }

    fn find_or_add(&mut self, topic: &[u8], received_at: WallNanos) -> Option<usize> {
        let hash = xxh3_64_with_seed(topic, self.seed);
        let mask = self.index.len() - 1;
        let mut place = hash as usize & mask;
        while self.index[place] != EMPTY {
            let found = self.index[place] as usize;
            if self.rows[found].hash == hash && self.topic_of(&self.rows[found]) == topic {
                return Some(found);
            }
            place = (place + 1) & mask; // WT3
        }
        if self.rows.len() == self.limits.topics_max || self.topics.len() + topic.len() > self.limits.topic_bytes_max {
            return None;
        }
        let row = self.rows.len();
        self.index[place] = row as u32;
        self.rows.push(Row {
            hash,
            topic_start: self.topics.len() as u32,
            topic_len: topic.len() as u16,
            body_bytes_min: u32::MAX,
            body_bytes_max: 0,
            events: 0,
            body_bytes: 0,
            first_at: received_at,
            last_at: received_at,
        });
        self.topics.extend_from_slice(topic);
        Some(row)
    }

    /// Topics with a row.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The rows, in the order in which their topics first came.
    pub(crate) fn closed(&self) -> impl Iterator<Item = ClosedWindow<'_>> {
        self.rows.iter().map(|row| ClosedWindow {
            topic: std::str::from_utf8(self.topic_of(row)).expect("the codec admits only UTF-8 topics"),
            start: self.start,
            length: self.length,
            events: row.events,
            body_bytes: row.body_bytes,
            body_bytes_min: row.body_bytes_min,
            body_bytes_max: row.body_bytes_max,
            first_at: row.first_at,
            last_at: row.last_at,
        })
    }

    /// Forgets everything, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.topics.clear();
        self.index.fill(EMPTY);
        self.last_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn table(topics_max: usize, topic_bytes_max: usize) -> WindowTable {
        WindowTable::new(WindowTableLimits { topics_max, topic_bytes_max })
    }

    #[test]
    fn figures_are_those_of_the_topic_s_events() {
        let mut table = table(4, 64);
        for (topic, bytes, at) in [("a", 10, 5), ("b", 1, 6), ("a", 30, 7), ("a", 20, 3)] {
            assert!(table.record(topic.as_bytes(), bytes, WallNanos(at)));
        }
        table.length = Nanos(500_000_000);
        let rows: Vec<_> = table.closed().collect();
        assert_eq!(rows.len(), 2);
        let a = &rows[0];
        assert_eq!((a.topic, a.events, a.body_bytes, a.body_bytes_min, a.body_bytes_max), ("a", 3, 60, 10, 30));
        assert_eq!((a.first_at, a.last_at), (WallNanos(3), WallNanos(7)));
        assert_eq!((a.events_per_s(), a.body_bytes_mean()), (6.0, 20.0));
    }

    #[test]
    fn topics_beyond_the_bound_have_no_row_and_disturb_nobody() {
        let mut table = table(2, 8);
        assert!(table.record(b"a", 1, WallNanos(1)) && table.record(b"b", 1, WallNanos(1)));
        assert!(!table.record(b"c", 1, WallNanos(1)));
        assert!(table.record(b"a", 1, WallNanos(1)));
        table.clear();
        assert!(table.record(b"12345678", 1, WallNanos(1)));
        assert!(!table.record(b"9", 1, WallNanos(1)), "topic bytes are bounded too");
    }

    proptest! {
        #[test]
        fn table_agrees_with_a_map(events in prop::collection::vec((0u16..200, 0u32..1000), 0..2000)) {
            let mut table = table(256, 4096);
            let mut model: BTreeMap<String, (u64, u64)> = BTreeMap::new();
            for (topic, bytes) in events {
                let topic = format!("t/{topic}");
                prop_assert!(table.record(topic.as_bytes(), bytes, WallNanos(0)));
                let entry = model.entry(topic).or_default();
                *entry = (entry.0 + 1, entry.1 + u64::from(bytes));
            }
            let found: BTreeMap<String, (u64, u64)> =
                table.closed().map(|row| (row.topic.to_owned(), (row.events, row.body_bytes))).collect();
            prop_assert_eq!(found, model);
        }
    }
}
