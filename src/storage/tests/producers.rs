//! The producers' table against a naive model of it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::pool::{ProducerId, ProducerStamp};
use crate::storage::producers::{ProducerTable, SESSION_WINDOW_MAX, SNAPSHOT_ENTRY_BYTES_MAX, Seen, SequenceWindow};

fn producer(number: u8) -> ProducerId {
    ProducerId::from_bytes([number + 1; 16]).expect("not all zero")
}

/// All known sequences, one by one, above what a window has to remember.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    known: BTreeSet<u64>,
    below: u64,
}

impl Model {
    fn contains(&self, sequence: u64) -> bool {
        sequence == 0 || sequence == u64::MAX || sequence < self.below || self.known.contains(&sequence)
    }

    fn observe(&mut self, sequence: u64) -> Seen {
        if self.contains(sequence) {
            return Seen::Known;
        }
        self.known.insert(sequence);
        self.below = self.below.max((self.known.last().unwrap() + 1).saturating_sub(SESSION_WINDOW_MAX));
        Seen::New
    }

    fn forget_below(&mut self, sequence: u64) {
        self.below = self.below.max(sequence);
    }
}

fn same(window: &SequenceWindow, model: &Model, around: &[u64]) {
    for sequence in around.iter().flat_map(|at| at.saturating_sub(70)..=at.saturating_add(70)) {
        assert_eq!(window.contains(sequence), model.contains(sequence), "sequence {sequence}");
    }
    let held: Vec<u64> = window.held_from(window.floor()).flatten().collect();
    let expected: Vec<u64> = model.known.iter().copied().filter(|sequence| *sequence >= window.floor()).collect();
    assert_eq!(held, expected);
    assert!(!model.contains(window.floor()) || window.floor() == u64::MAX, "the floor is the lowest that is not known");
}

fn round_trip(table: &ProducerTable, piece_bytes: usize) -> ProducerTable {
    let mut copy = ProducerTable::new(table.capacity() as u32);
    let mut piece = vec![0; piece_bytes];
    let mut from = table.snapshot_begin();
    while let Some(at) = from {
        let (bytes, next) = table.snapshot(at, &mut piece);
        copy.take_in(&piece[..bytes]).unwrap();
        from = next;
    }
    copy
}

fn all(table: &ProducerTable) -> Vec<(ProducerId, SequenceWindow)> {
    table.iter().map(|(producer, window)| (producer, window.clone())).collect()
}

/// Steps of a stream: mostly near to the highest so far, now and then far off.
fn steps() -> impl Strategy<Value = Vec<(u8, i64)>> {
    let distance = prop_oneof![6 => 0i64..3, 3 => -100i64..100, 2 => -20_000i64..20_000, 1 => -40_000i64..100_000];
    proptest::collection::vec((0u8..12, distance), 1..300)
}

proptest! {
    #[test]
    fn a_window_knows_what_a_set_of_sequences_knows(start in prop_oneof![Just(0u64), 0..40_000u64, Just(u64::MAX - 30_000)], steps in steps()) {
        let (mut window, mut model) = (SequenceWindow::new(), Model::default());
        let mut highest = start;
        for (kind, distance) in steps {
            let sequence = highest.saturating_add_signed(distance);
            if kind == 11 {
                window.forget_below(sequence);
                model.forget_below(sequence.min(u64::MAX - 1));
            } else {
                prop_assert_eq!(window.observe(sequence), model.observe(sequence));
                prop_assert_eq!(window.observe(sequence), Seen::Known);
                highest = highest.max(sequence);
            }
            same(&window, &model, &[sequence, window.floor(), window.highest(), window.highest().saturating_sub(SESSION_WINDOW_MAX)]);
        }
    }

    #[test]
    fn absorbing_a_window_makes_known_what_either_knew(left in steps(), right in steps()) {
        let fill = |steps: Vec<(u8, i64)>| {
            let (mut window, mut highest) = (SequenceWindow::new(), 0u64);
            for (_, distance) in steps {
                highest = highest.saturating_add_signed(distance);
                window.observe(highest);
            }
            window
        };
        let (left, right) = (fill(left), fill(right));
        let mut both = left.clone();
        both.absorb(&right);
        let end = left.highest().max(right.highest());
        let bound = (end + 1).saturating_sub(SESSION_WINDOW_MAX);
        for sequence in (end + 2).saturating_sub(2 * SESSION_WINDOW_MAX)..=end + 1 {
            let expected = left.contains(sequence) || right.contains(sequence) || sequence < bound;
            prop_assert_eq!(both.contains(sequence), expected, "sequence {}", sequence);
        }
    }

    #[test]
    fn a_table_keeps_the_producers_that_stored_last_and_a_snapshot_keeps_the_table(capacity in 1u32..6, steps in steps(), piece in 0usize..3000) {
        let mut table = ProducerTable::new(capacity);
        // The newest last.
        let mut model: Vec<(ProducerId, SequenceWindow)> = Vec::new();
        let (mut evicted, mut sequence) = (0, 20_000u64);
        for (number, distance) in steps {
            let id = producer(number);
            sequence = sequence.saturating_add_signed(distance);
            let (_, seen) = table.observe(ProducerStamp { producer: id, sequence });
            let mut entry = match model.iter().position(|(other, _)| *other == id) {
                Some(at) => model.remove(at),
                None => (id, SequenceWindow::new()),
            };
            prop_assert_eq!(seen, entry.1.observe(sequence));
            model.push(entry);
            if model.len() > capacity as usize {
                model.remove(0);
                evicted += 1;
            }
            prop_assert_eq!((table.len(), table.evicted()), (model.len(), evicted));
        }
        for (id, window) in &model {
            prop_assert_eq!(table.window(*id), Some(window));
        }
        let copy = round_trip(&table, piece.max(SNAPSHOT_ENTRY_BYTES_MAX));
        prop_assert_eq!(all(&copy), model);
    }

    #[test]
    fn any_bytes_are_taken_in_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let mut table = ProducerTable::new(2);
        let _ = table.take_in(&bytes);
    }
}

#[test]
fn a_snapshot_with_a_contradiction_is_refused() {
    let mut table = ProducerTable::new(1);
    for sequence in [1, 2, 5, 9] {
        table.observe(ProducerStamp { producer: producer(1), sequence });
    }
    let mut bytes = vec![0; SNAPSHOT_ENTRY_BYTES_MAX];
    let (used, next) = table.snapshot(table.snapshot_begin().unwrap(), &mut bytes);
    assert_eq!((used, next), (16 + 8 + 2 + 1, None));
    assert_eq!(bytes[26], 0b100_0100);
    let taken = |change: &dyn Fn(&mut [u8])| {
        let mut bytes = bytes[..used].to_vec();
        change(&mut bytes);
        ProducerTable::new(1).take_in(&bytes).is_ok()
    };
    assert!(taken(&|_| ()));
    assert!(!taken(&|bytes| bytes[..16].fill(0)), "an id of zeros");
    assert!(!taken(&|bytes| bytes[16..24].fill(0)), "a floor of zero");
    assert!(!taken(&|bytes| bytes[16..24].fill(255)), "sequences beyond the last one");
    assert!(!taken(&|bytes| bytes[26] |= 1), "a floor that is known");
    assert!(!taken(&|bytes| bytes[26] = 4), "a highest that is not known");
    assert!(!taken(&|bytes| bytes[26] |= 128), "bits above the highest");
    assert!(!taken(&|bytes| bytes[25] = 255), "a span that no window has");
    assert!(ProducerTable::new(1).take_in(&bytes[..used - 1]).is_err(), "cut short");
}

#[test]
fn the_sequences_at_both_ends_of_the_numbers_are_no_events() {
    let mut window = SequenceWindow::new();
    assert_eq!((window.observe(0), window.observe(u64::MAX)), (Seen::Known, Seen::Known));
    assert_eq!(window.observe(u64::MAX - 1), Seen::New);
    assert_eq!(window.highest(), u64::MAX - 1);
    assert!(window.contains(1), "far below");
}
