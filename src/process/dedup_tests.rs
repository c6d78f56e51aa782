use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const NOTHING: Progress = Progress { delivered: 0, committed: 0 };

fn table(capacity_keys: usize, window_ns: u64) -> Dedup {
    Dedup::new(&DedupOptions { capacity_keys, window: Nanos(window_ns) })
}

/// Keys that all fall into the first bucket of any table.
fn colliding(n: u64) -> DedupKey {
    DedupKey(u128::from(n) + 1)
}

#[test]
fn same_bytes_with_another_border_between_topic_and_body_are_another_event() {
    let table = table(16, 800);
    assert_ne!(table.key_of(b"abc", 1), table.key_of(b"abc", 2));
    assert_eq!(table.key_of(b"abc", 1), table.key_of(b"abc", 1));
}

#[test]
fn keys_differ_between_processes() {
    assert_ne!(table(16, 800).key_of(b"abc", 1), table(16, 800).key_of(b"abc", 1));
}

#[test]
fn a_key_is_pending_then_handed_then_committed() {
    let mut table = table(16, 800);
    let key = colliding(1);
    assert_eq!(table.admit(key, NOTHING), Seen::New);
    assert_eq!(table.admit(key, NOTHING), Seen::Pending);
    table.hand_over(key, 7);
    assert_eq!(table.admit(key, Progress { delivered: 8, committed: 7 }), Seen::Pending);
    assert_eq!(table.admit(key, Progress { delivered: 8, committed: 8 }), Seen::Committed);
    assert_eq!(table.admit(key, Progress { delivered: 8 + (1 << 33), committed: 8 + (1 << 33) }), Seen::Committed);
}

#[test]
fn a_forgotten_key_is_new_again() {
    let mut table = table(16, 800);
    table.admit(colliding(1), NOTHING);
    table.forget(colliding(1));
    assert_eq!(table.admit(colliding(1), NOTHING), Seen::New);
}

#[test]
fn a_pending_key_never_expires() {
    let mut table = table(16, 800);
    table.admit(colliding(1), NOTHING);
    for window in 1..100 {
        table.advance(Nanos(window * 800));
        assert_eq!(table.admit(colliding(1), NOTHING), Seen::Pending);
    }
    table.advance(Nanos(1_000_000));
    assert_eq!(table.admit(colliding(1), NOTHING), Seen::Pending);
}

#[test]
fn a_full_bucket_evicts_the_oldest_committed_key_and_spares_pending_ones() {
    let mut table = table(2, 800);
    let done = Progress { delivered: 100, committed: 100 };
    table.admit(colliding(0), done);
    table.admit(colliding(1), done);
    table.hand_over(colliding(1), 1);
    table.advance(Nanos(100));
    table.admit(colliding(2), done);
    table.hand_over(colliding(2), 2);
    assert_eq!(table.admit(colliding(3), done), Seen::New);
    assert_eq!(table.admit(colliding(0), done), Seen::Pending);
    assert_eq!(table.admit(colliding(2), done), Seen::Committed);
    assert_eq!(table.evictions(), (1, 0));
}

#[test]
fn an_uncommitted_key_is_evicted_only_after_committed_ones() {
    let mut table = table(2, 800);
    let progress = Progress { delivered: 3, committed: 1 };
    // Index 1 is handed but not written, though the oldest; index 0 is written.
    for (key, index) in [(1, 1), (0, 0), (2, 2)] {
        table.admit(colliding(key), progress);
        table.hand_over(colliding(key), index);
        table.advance(Nanos((3 - key) * 100));
    }
    table.admit(colliding(3), progress);
    assert_eq!(table.admit(colliding(1), progress), Seen::Pending);
    assert_eq!(table.admit(colliding(2), progress), Seen::Pending);
}

#[test]
fn three_pending_keys_make_room_for_a_fourth_and_that_is_counted() {
    let mut table = table(2, 800);
    (0..4).for_each(|n| assert_eq!(table.admit(colliding(n), NOTHING), Seen::New));
    assert_eq!(table.evictions(), (1, 1));
    (0..4).for_each(|n| table.hand_over(colliding(n), n));
}

#[test]
fn step_bits_that_came_round_do_not_revive_a_key() {
    let mut table = table(2, 800);
    table.admit(colliding(1), NOTHING);
    table.hand_over(colliding(1), 0);
    // 256 steps of 100 ns later, one step at a time (the sweep) and in one jump (the wipe).
    (1..=256).for_each(|step| table.advance(Nanos(step * 100)));
    assert_eq!(table.admit(colliding(1), NOTHING), Seen::New);
    table.hand_over(colliding(1), 1);
    table.advance(Nanos(512 * 100));
    assert_eq!(table.admit(colliding(1), NOTHING), Seen::New);
}

#[test]
fn sweep_reaches_every_bucket_within_its_bound() {
    let mut table = table(100_000, 800);
    (0..1000u64).for_each(|n| {
        let key = DedupKey(u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | 1);
        table.admit(key, NOTHING);
        table.hand_over(key, n);
    });
    for step in 1..=2 * SWEEP_STEPS {
        table.advance(Nanos(step * 100));
        while table.sweep_due > 0 {
            table.advance(Nanos(step * 100));
        }
    }
    assert!(table.buckets.iter().all(|b| (0..WAYS).all(|way| b.state(way) == State::Empty)));
}

#[test]
fn effective_window_is_the_smaller_of_time_and_capacity() {
    let options = DedupOptions { capacity_keys: 1_000_000, window: Nanos::from_millis(3_600_000) };
    assert_eq!(options.effective_window(0), options.window);
    assert_eq!(options.effective_window(100), options.window);
    assert_eq!(options.effective_window(1_000_000), Nanos::from_millis(1_000));
    assert_eq!(options.table_bytes(), 32_000_000);
}

#[derive(Clone, Debug)]
enum Step {
    Admit(u8),
    HandOver(u8),
    Forget(u8),
    Pass(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        6 => any::<u8>().prop_map(Step::Admit),
        4 => any::<u8>().prop_map(Step::HandOver),
        1 => any::<u8>().prop_map(Step::Forget),
        2 => (0u16..300).prop_map(Step::Pass),
        1 => (0u16..60_000).prop_map(Step::Pass),
    ];
    prop::collection::vec(one, 1..400)
}

proptest! {
    /// In a table large enough that nothing is evicted: exactly what a map of (key → pending, or step of its hand-over) says.
    #[test]
    fn table_agrees_with_a_map_with_expiry(steps in steps()) {
        let mut table = table(64 * 1024, 800);
        let mut model: HashMap<u8, Option<u64>> = HashMap::new();
        let (mut now, mut pushed) = (0u64, 0u64);
        for step in steps {
            table.advance(Nanos(now));
            let age = |handed: &Option<u64>| handed.map_or(0, |at| now / 100 - at);
            model.retain(|_, handed| age(handed) <= STEPS_PER_WINDOW);
            let progress = Progress { delivered: pushed, committed: pushed };
            match step {
                Step::Admit(n) => {
                    let key = table.key_of(&[n], 1);
                    let expected = match model.get(&n) {
                        None => Seen::New,
                        Some(None) => Seen::Pending,
                        Some(Some(_)) => Seen::Committed,
                    };
                    prop_assert_eq!(table.admit(key, progress), expected);
                    model.entry(n).or_insert(None);
                }
                Step::HandOver(n) => {
                    if let Some(handed @ None) = model.get_mut(&n) {
                        table.hand_over(table.key_of(&[n], 1), pushed);
                        pushed += 1;
                        *handed = Some(now / 100);
                    }
                }
                Step::Forget(n) => {
                    table.forget(table.key_of(&[n], 1));
                    model.remove(&n);
                }
                Step::Pass(ns) => now += u64::from(ns),
            }
        }
        prop_assert_eq!(table.evictions(), (0, 0));
    }
}
