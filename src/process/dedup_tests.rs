use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const NOTHING: Progress = Progress { delivered: 0, committed: 0 };

fn table(capacity_keys: usize, window_ns: u64) -> Dedup {
    Dedup::new(&DedupOptions { capacity_keys, window: Nanos(window_ns), ..DedupOptions::default() })
}

/// One that probes further.
fn far_table(capacity_keys: usize, window_ns: u64) -> Dedup {
    Dedup::new(&DedupOptions { capacity_keys, window: Nanos(window_ns), ..DedupOptions::KEYED })
}

/// Places for keys of one home.
const PLACES: u64 = (DedupOptions::KEYED.probe_buckets * WAYS) as u64;

/// Keys that all have the first bucket of any table as their home.
fn colliding(n: u64) -> DedupKey {
    DedupKey::new(u128::from(n) + 1)
}

/// Keys spread over the table (SplitMix64).
fn spread(n: u64) -> DedupKey {
    let mut mixed = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    DedupKey::new((u128::from(mixed ^ mixed >> 31) << 64) | (u128::from(n) + 1))
}

/// Every key as an event that is stored at once.
fn store(table: &mut Dedup, keys: impl Iterator<Item = DedupKey>) {
    for (index, key) in (0..).zip(keys) {
        let done = Progress { delivered: index, committed: index };
        assert_eq!(table.admit(key, done), Seen::New);
        table.hand_over(key, index);
    }
}

/// What the invariants say of a table at rest.
fn check(table: &Dedup) {
    let mut held = 0;
    for (at, bucket) in table.buckets.iter().enumerate() {
        for way in 0..WAYS {
            assert_eq!(bucket.keys[way] == 0, bucket.state(way) == State::Empty, "D1");
            let Some(key) = NonZeroU128::new(bucket.keys[way]).map(DedupKey) else { continue };
            held += 1;
            let home = table.home(key);
            assert!((home..home + table.options.probe_buckets).contains(&at), "D1");
            assert!(table.buckets[home..at].iter().all(|passed| passed.has_spilled() && passed.find(key).is_none()), "D1");
        }
    }
    assert_eq!(table.held, held);
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
fn in_a_flood_the_newest_keys_of_a_bucket_are_known() {
    let mut table = table(2, 800);
    store(&mut table, (0..20).map(colliding));
    let done = Progress { delivered: 20, committed: 20 };
    (17..20).for_each(|n| assert_eq!(table.admit(colliding(n), done), Seen::Committed));
    assert_eq!(table.evictions(), (17, 0));
    check(&table);
}

#[test]
fn in_a_flood_nearly_nine_of_ten_of_the_last_keys_that_fit_are_known() {
    const KEYS: u64 = 10_000;
    let mut table = table(KEYS as usize, 800_000);
    store(&mut table, (0..10 * KEYS).map(spread));
    let held = |n: &u64| table.locate(spread(*n)).is_some();
    let known = (9 * KEYS..10 * KEYS).filter(held).count();
    assert!(known >= 8_700, "{known}");
}

#[test]
fn keys_handed_over_when_they_are_admitted_are_those_handed_over_later() {
    let (mut at_once, mut later) = (table(1_024, 800), table(1_024, 800));
    // Batches of 16 keys, of which each third was there before; what is two batches old is written.
    for batch in 0..400u64 {
        let pushed = batch * 16;
        let progress = Progress { delivered: pushed, committed: pushed.saturating_sub(32) };
        let beyond = Progress { delivered: pushed + 16, ..progress };
        let keys = (0..16).map(|n| if n % 3 == 0 { spread(pushed.saturating_sub(n)) } else { spread(pushed + n) });
        let (mut index, mut new) = (pushed, Vec::new());
        for key in keys {
            let is_new = at_once.admit_handed(key, beyond, index) == Seen::New;
            assert_eq!(later.admit(key, progress) == Seen::New, is_new);
            if is_new {
                new.push(key);
                index += 1;
            }
        }
        (pushed..).zip(new).for_each(|(index, key)| later.hand_over(key, index));
        at_once.advance(Nanos(batch * 7));
        later.advance(Nanos(batch * 7));
        check(&at_once);
    }
    assert_eq!(at_once.held(), later.held());
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
fn keys_that_collide_find_room_in_the_next_buckets_and_a_sweep_forgets_the_way_there() {
    let mut table = far_table(1000, 800);
    store(&mut table, (0..PLACES).map(colliding));
    check(&table);
    let done = Progress { delivered: PLACES, committed: PLACES };
    (0..PLACES).for_each(|n| assert_eq!(table.admit(colliding(n), done), Seen::Committed));
    assert_eq!(table.evictions(), (0, 0));
    assert_eq!(table.admit(colliding(PLACES), done), Seen::New);
    assert_eq!(table.evictions(), (1, 0), "all places were taken");
    table.forget(colliding(PLACES));
    check(&table);
    // One that never expires keeps the sweep going. Each pass finds the last mark of the chain without need.
    table.admit(spread(0), done);
    for step in 1..=400 {
        table.advance(Nanos(step * 100));
        while table.sweep_due > 0 {
            table.advance(Nanos(step * 100));
        }
    }
    assert!(table.held == 1 && table.buckets.iter().all(|bucket| !bucket.has_spilled()));
}

#[test]
fn a_pending_key_is_evicted_only_where_all_are_pending_and_that_is_counted() {
    let mut table = far_table(2, 800);
    (0..PLACES).for_each(|n| assert_eq!(table.admit(colliding(n), NOTHING), Seen::New));
    assert_eq!(table.evictions(), (0, 0));
    assert_eq!(table.admit(colliding(PLACES), NOTHING), Seen::New);
    assert_eq!(table.evictions(), (1, 1));
    (0..=PLACES).for_each(|n| table.hand_over(colliding(n), n));
    check(&table);
}

#[test]
fn up_to_its_capacity_a_table_evicts_next_to_nothing_and_beyond_it_what_is_counted() {
    const KEYS: u64 = 100_000;
    let done = Progress { delivered: KEYS, committed: KEYS };
    let mut table = far_table(KEYS as usize, 800_000);
    store(&mut table, (0..KEYS / 4 * 3).map(spread));
    assert_eq!(table.evictions(), (0, 0), "three quarters: none");
    (0..KEYS / 4 * 3).for_each(|n| assert_eq!(table.admit(spread(n), done), Seen::Committed));
    store(&mut table, (KEYS / 4 * 3..KEYS).map(spread));
    let (evicted, _) = table.evictions();
    assert!(evicted <= KEYS / 2_000, "full: {evicted}");
    store(&mut table, (KEYS..4 * KEYS).map(spread));
    check(&table);
    let (evicted, pending) = table.evictions();
    assert_eq!((evicted + table.held(), pending), (4 * KEYS, 0), "each key is here, or was counted when it left");
    assert!(table.held() <= KEYS * 3 / 2 + PLACES);
}

#[test]
fn with_one_bucket_probed_a_half_full_table_has_evicted_two_in_a_hundred() {
    let mut table = table(100_000, 800_000);
    store(&mut table, (0..50_000).map(spread));
    let (evicted, _) = table.evictions();
    assert!((500..2_000).contains(&evicted), "{evicted}");
    check(&table);
}

#[test]
fn the_real_window_is_the_configured_one_until_more_keys_came_within_it_than_fit() {
    let mut table = table(1_000, 8_000);
    table.begin(Nanos(8_000_000));
    assert_eq!(table.real_window(), Nanos(8_000));
    store(&mut table, (0..1_000).map(spread));
    table.advance(Nanos(8_000_500));
    assert_eq!(table.real_window(), Nanos(8_000), "a thousand fit");
    store(&mut table, (1_000..2_000).map(spread));
    assert_eq!(table.real_window(), Nanos(250), "2,000 in 500 ns, so the last thousand took half of that");
    // Six steps of 1,000 ns later: 500 in this one, of the other 500 a quarter of the 2,000 six steps ago.
    table.advance(Nanos(8_006_000));
    store(&mut table, (2_000..2_500).map(spread));
    table.advance(Nanos(8_006_600));
    assert_eq!(table.real_window(), Nanos(600 + 5_000 + 250));
    table.advance(Nanos(8_009_000));
    assert_eq!(table.real_window(), Nanos(8_000), "out of the window");
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
fn sweep_reaches_every_bucket_within_a_window() {
    let mut table = table(100_000, 800);
    store(&mut table, (0..1000).map(spread));
    for step in 1..=2 * STEPS_PER_WINDOW + 1 {
        table.advance(Nanos(step * 100));
        while table.sweep_due > 0 {
            table.advance(Nanos(step * 100));
        }
    }
    assert_eq!(table.held(), 0);
    check(&table);
}

#[test]
fn effective_window_is_the_smaller_of_time_and_capacity() {
    let options = DedupOptions::default();
    assert_eq!(options.effective_window(0), options.window);
    assert_eq!(options.effective_window(100), options.window);
    assert_eq!(options.effective_window(1_000_000), Nanos::from_millis(1_000));
    assert_eq!(options.table_bytes(), 500_000 * 64);
}

#[derive(Clone, Debug)]
enum Step {
    Admit(u8),
    HandOver(u8),
    Forget(u8),
    Pass(u16),
}

/// Steps with keys below a number.
fn steps(keys: u8) -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        6 => (0..keys).prop_map(Step::Admit),
        4 => (0..keys).prop_map(Step::HandOver),
        1 => (0..keys).prop_map(Step::Forget),
        2 => (0u16..300).prop_map(Step::Pass),
        1 => (0u16..60_000).prop_map(Step::Pass),
    ];
    prop::collection::vec(one, 1..400)
}

/// Exactly what a map of (key → pending, or step of its hand-over) says, as long as nothing has to be evicted.
fn table_agrees_with_a_map(steps: Vec<Step>, key: impl Fn(u8) -> DedupKey) -> Result<(), TestCaseError> {
    let mut table = far_table(1_024, 800);
    let mut model: HashMap<u8, Option<u64>> = HashMap::new();
    let (mut now, mut pushed) = (0u64, 0u64);
    for step in steps {
        table.advance(Nanos(now));
        let age = |handed: &Option<u64>| handed.map_or(0, |at| now / 100 - at);
        model.retain(|_, handed| age(handed) <= STEPS_PER_WINDOW);
        let progress = Progress { delivered: pushed, committed: pushed };
        match step {
            Step::Admit(n) => {
                let expected = match model.get(&n) {
                    None => Seen::New,
                    Some(None) => Seen::Pending,
                    Some(Some(_)) => Seen::Committed,
                };
                prop_assert_eq!(table.admit(key(n), progress), expected);
                model.entry(n).or_insert(None);
            }
            Step::HandOver(n) => {
                if let Some(handed @ None) = model.get_mut(&n) {
                    table.hand_over(key(n), pushed);
                    pushed += 1;
                    *handed = Some(now / 100);
                }
            }
            Step::Forget(n) => {
                table.forget(key(n));
                model.remove(&n);
            }
            Step::Pass(ns) => now += u64::from(ns),
        }
        check(&table);
    }
    prop_assert_eq!(table.evictions(), (0, 0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn table_agrees_with_a_map_with_expiry(steps in steps(255)) {
        table_agrees_with_a_map(steps, |n| spread(u64::from(n)))?;
    }

    /// All homes are the first bucket, so that keys spill, expire and are forgotten along one chain.
    #[test]
    fn table_agrees_with_a_map_where_keys_spill(steps in steps(PLACES as u8)) {
        table_agrees_with_a_map(steps, |n| colliding(u64::from(n)))?;
    }
}
