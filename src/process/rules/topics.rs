//! Which rules a topic concerns: a set of bits, found with one hash and, for the topic before, with none.
//!
//! ```text
//! topic ─► the one before? ─► index (power of two, half empty) ─► row: topic, rules     known: nothing else is looked at
//!                                   └─ not there ─► trie of filters ─► a new row, while there is room
//! ```
//!
//! Invariants:
//! - **RQ1** All memory is taken at start: [`TOPICS_MAX`] topics of [`TOPIC_BYTES_MAX`] bytes together. A topic beyond that is searched for in
//!   the trie each time; the answer is the same.
//! - **RQ2** Topics are compared whole, not by their hash. The hash is seeded, so that senders can't line topics up.
//! - **RQ3** The index is at most half full, so every probe ends.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::bus::topic::{TopicFilter, TopicTable};
use crate::process::identity::random_u64;

/// Topics that have a row.
pub(super) const TOPICS_MAX: usize = 4096;

/// Bytes of their topics together.
pub(super) const TOPIC_BYTES_MAX: usize = 256 << 10;

const INDEX_PLACES: usize = (2 * TOPICS_MAX).next_power_of_two();

/// Marks an empty place of the index.
const EMPTY: u16 = u16::MAX;

const _: () = assert!(TOPICS_MAX < EMPTY as usize);

/// What the table takes, bytes.
pub(super) const TABLE_BYTES: usize = TOPICS_MAX * size_of::<Row>() + TOPIC_BYTES_MAX + INDEX_PLACES * size_of::<u16>();

/// A set of rules: bit n is the rule at place n.
pub(super) type RuleSet = u64;

#[derive(Clone, Copy)]
struct Row {
    hash: u64,
    rules: RuleSet,
    topic_start: u32,
    topic_len: u16,
}

/// The table.
pub(super) struct TopicRules {
    filters: TopicTable<RuleSet>,
    seed: u64,
    rows: Vec<Row>,
    topics: Vec<u8>,
    index: Box<[u16]>,
    /// The row of the topic before: streams repeat themselves.
    last_row: usize,
}

/// The rules of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Concerned {
    pub(super) rules: RuleSet,
    /// False: searched for in the trie, as there is no room for a row.
    pub(super) has_row: bool,
}

impl TopicRules {
    /// Compiles the filters of rules, in the order of the rules.
    pub(super) fn new<'a>(filters: impl Iterator<Item = &'a TopicFilter>) -> Self {
        let mut merged: Vec<(TopicFilter, RuleSet)> = Vec::new();
        for (place, filter) in filters.enumerate() {
            match merged.iter_mut().find(|(known, _)| known == filter) {
                Some((_, rules)) => *rules |= 1 << place,
                None => merged.push((filter.clone(), 1 << place)),
            }
        }
        Self {
            filters: TopicTable::compile(merged).expect("each filter is there once"),
            seed: random_u64(),
            rows: Vec::with_capacity(TOPICS_MAX),
            topics: Vec::with_capacity(TOPIC_BYTES_MAX),
            index: vec![EMPTY; INDEX_PLACES].into_boxed_slice(),
            last_row: 0,
        }
    }

    /// The rules whose filter matches the topic.
    #[inline]
    pub(super) fn concerned(&mut self, topic: &[u8]) -> Concerned {
        let is_last = self.rows.get(self.last_row).is_some_and(|row| self.topic_of(row) == topic);
        if !is_last {
            let hash = xxh3_64_with_seed(topic, self.seed);
            let mut place = hash as usize & (INDEX_PLACES - 1);
            loop {
                let Some(row) = self.rows.get(usize::from(self.index[place])) else { return self.search(topic, hash, place) };
                if row.hash == hash && self.topic_of(row) == topic {
                    break;
                }
                place = (place + 1) & (INDEX_PLACES - 1);
            }
            self.last_row = usize::from(self.index[place]);
        }
        Concerned { rules: self.rows[self.last_row].rules, has_row: true }
    }

    fn topic_of(&self, row: &Row) -> &[u8] {
        &self.topics[row.topic_start as usize..][..usize::from(row.topic_len)]
    }

    /// Asks the trie, and remembers the answer at an empty place of the index while there is room.
    #[cold]
    fn search(&mut self, topic: &[u8], hash: u64, place: usize) -> Concerned {
        let mut rules = 0;
        self.filters.for_each_match(topic, |set| rules |= set);
        let topic_start = self.topics.len();
        let has_row = self.rows.len() < TOPICS_MAX && topic_start + topic.len() <= TOPIC_BYTES_MAX;
        if has_row {
            self.last_row = self.rows.len();
            self.index[place] = self.last_row as u16;
            self.topics.extend_from_slice(topic);
            self.rows.push(Row { hash, rules, topic_start: topic_start as u32, topic_len: topic.len() as u16 });
        }
        Concerned { rules, has_row }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(filters: &[&str]) -> TopicRules {
        let filters: Vec<TopicFilter> = filters.iter().map(|text| TopicFilter::parse(text).unwrap()).collect();
        TopicRules::new(filters.iter())
    }

    #[test]
    fn a_topic_concerns_the_rules_whose_filter_matches() {
        let mut table = table(&["a/#", "a/+", "b", "a/#", "#"]);
        for _ in 0..2 {
            for (topic, rules) in [("a/x", 0b11011), ("b", 0b10100), ("c", 0b10000), ("c", 0b10000), ("a/x/y", 0b11001)] {
                assert_eq!(table.concerned(topic.as_bytes()), Concerned { rules, has_row: true }, "{topic}");
            }
        }
        assert_eq!(table.rows.len(), 4);
    }

    #[test]
    fn a_million_topics_take_no_more_memory_and_find_their_rules() {
        let mut table = table(&["a/+/even", "a/#"]);
        let before = (table.rows.capacity(), table.topics.capacity());
        let mut without_row = 0;
        for round in 0..2 {
            for number in 0..500_000 {
                let (topic, rules) =
                    if number % 2 == 0 { (format!("a/{number}/even"), 0b11) } else { (format!("a/{number}/odd"), 0b10) };
                let concerned = table.concerned(topic.as_bytes());
                assert_eq!(concerned.rules, rules);
                assert!(concerned.has_row || number >= TOPICS_MAX, "the first ones keep their rows, in round {round} too");
                without_row += usize::from(!concerned.has_row);
            }
        }
        assert_eq!(without_row, 2 * (500_000 - TOPICS_MAX));
        assert_eq!((table.rows.capacity(), table.topics.capacity()), before);
    }

    #[test]
    fn topic_bytes_are_bounded_too() {
        let mut table = table(&["#"]);
        let long = "x".repeat(1020);
        let with_row = (0..1000).filter(|number| table.concerned(format!("{number:04}{long}").as_bytes()).has_row).count();
        assert_eq!(with_row, TOPIC_BYTES_MAX / 1024);
        assert!(table.concerned(b"0000").rules == 1);
    }
}
