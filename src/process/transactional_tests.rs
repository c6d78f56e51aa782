use std::collections::HashMap;

use super::*;
use crate::pool::EventKey;
use crate::process::retry::RetryPolicy;
use crate::process::test_support::{Bench, FakeRing, TestPool};
use crate::wire::Priority;

/// Fails each event whose topic (or body) is `fail<n>` n times, panics on `boom`.
#[derive(Default)]
struct Flaky {
    mode: HandlerMode,
    calls: HashMap<u64, u32>,
}

impl TransactionalHandler for Flaky {
    fn name(&self) -> &'static str {
        "flaky"
    }
    fn mode(&self) -> HandlerMode {
        self.mode
    }
    fn handle(&mut self, event: &EventView<'_>) -> Result<(), HandlerError> {
        assert_ne!(event.topic, "boom", "boom");
        let calls = self.calls.entry(event.header.id).or_default();
        *calls += 1;
        assert_eq!(u32::from(event.header.attempts), *calls - 1, "the header tells how often it failed");
        let failing = |text: &str| text.strip_prefix("fail").map(|n| n.parse().unwrap());
        let failures: u32 = failing(event.topic).or(failing(str::from_utf8(event.body).unwrap())).unwrap_or(0);
        if *calls <= failures { Err(HandlerError::new(format_args!("no {calls}"))) } else { Ok(()) }
    }
}

fn options() -> TransactionalOptions {
    TransactionalOptions {
        dedup: DedupOptions { capacity_keys: 1024, window: Nanos::from_millis(8_000), probe_buckets: 1 },
        ..Default::default()
    }
}

fn bench_with(options: TransactionalOptions, mode: HandlerMode, retry_slots: u32, inlet_events: usize) -> (Bench, Transactional) {
    let mut pool = TestPool::with_retry_slots(retry_slots);
    let memory = pool.retry_memory.take().unwrap();
    let (mut bench, wiring) = Bench::new(pool, inlet_events);
    let handler = Box::new(Flaky { mode, ..Default::default() });
    let mut agent = Transactional::new(options, Some(handler), memory, wiring).unwrap();
    bench.start(&mut agent);
    (bench, agent)
}

fn bench() -> (Bench, Transactional) {
    bench_with(options(), HandlerMode::Inline, 8, 256)
}

fn send_keyed(bench: &mut Bench, id: u64, topic: &str, body: &str, key: u128) {
    bench.send_keyed(Priority::Medium, id, topic, body.as_bytes(), EventKey::new(key));
}

fn send(bench: &mut Bench, id: u64, topic: &str, body: &str) {
    bench.send_new(Priority::Medium, id, topic, body.as_bytes());
}

fn holding(agent: &Transactional) -> u64 {
    Agent::<FakeRing>::holding(agent).events
}

#[test]
fn an_event_is_stored_once_however_often_it_is_sent() {
    for mode in [HandlerMode::Inline, HandlerMode::Offloaded] {
        let (mut bench, mut agent) = bench_with(options(), mode, 8, 256);
        for id in 0..100 {
            send(&mut bench, id, "t", &format!("body {}", id % 10));
        }
        bench.drain(&mut agent);
        // Sent again after they are in the log.
        (100..110).for_each(|id| send(&mut bench, id, "t", &format!("body {}", id % 10)));
        bench.drain(&mut agent);
        let terms = bench.pool.terms();
        assert_eq!((terms.stored, terms.duplicate, terms.processed), (10, 100, 10));
        assert_eq!(bench.counters.dedup[Tier::Transactional.index()].by_body.hits.get(), 100);
        assert_eq!(bench.pool.events_out(), 0);
    }
}

#[test]
fn duplicates_leave_the_order_of_the_others_alone() {
    let (mut bench, mut agent) = bench();
    for (id, body) in (0..).zip(["a", "a", "b", "c", "b", "a", "d", "c", "e"]) {
        send(&mut bench, id, "t", body);
    }
    bench.poll_all(&mut agent);
    assert_eq!(bench.store(64), [0, 2, 3, 6, 8]);
    bench.drain(&mut agent);
}

#[test]
fn an_event_may_come_again_after_its_window() {
    let (mut bench, mut agent) = bench();
    send(&mut bench, 0, "t", "body");
    bench.poll_all(&mut agent);
    bench.advance(Nanos::from_millis(10_000));
    send(&mut bench, 1, "t", "body");
    bench.poll_all(&mut agent);
    assert_eq!(bench.store(64), [0, 1]);
    bench.drain(&mut agent);
}

#[test]
fn a_failing_event_is_tried_again_from_a_copy_and_healthy_ones_pass_it() {
    let (mut bench, mut agent) = bench();
    send(&mut bench, 0, "fail2", "x");
    (1..50).for_each(|id| send(&mut bench, id, "t", &id.to_string()));
    let work = bench.poll_all(&mut agent);
    assert_eq!(bench.store(64), (1..50).collect::<Vec<_>>());
    assert_eq!(bench.pool.events_out(), 0, "it waits outside the reactor's slots");
    assert_eq!(holding(&agent), 1);
    bench.check_ledger(&agent);
    let due = work.next_deadline.unwrap();
    assert!(due <= Nanos::from_millis(50) && due >= Nanos::from_millis(25));
    bench.advance(due);
    let work = bench.poll_all(&mut agent);
    assert!(bench.store(64).is_empty(), "the second try fails too");
    bench.advance(work.next_deadline.unwrap() - bench.ring.now());
    bench.poll_all(&mut agent);
    assert_eq!(bench.store(64), [0]);
    assert_eq!(bench.counters.transactional.retries.get(), 2);
    bench.drain(&mut agent);
}

#[test]
fn an_event_that_always_fails_is_dead_lettered_with_its_last_error_after_its_tries() {
    for mode in [HandlerMode::Inline, HandlerMode::Offloaded] {
        let (mut bench, mut agent) = bench_with(options(), mode, 8, 256);
        send(&mut bench, 0, "fail9", "x");
        bench.drain(&mut agent);
        assert_eq!(bench.dead_reasons(), [DropReason::ProcessingFailed]);
        assert_eq!(bench.dead[0].1, "no 4");
        assert_eq!(bench.counters.transactional.retries.get(), 3);
        assert_eq!((bench.pool.terms().dead_lettered(), bench.pool.terms().processed), (1, 0));
        bench.check_ledger(&agent);
    }
}

#[test]
fn a_lost_event_may_be_sent_again() {
    let (mut bench, mut agent) = bench();
    send(&mut bench, 0, "fail9", "x");
    bench.drain(&mut agent);
    send(&mut bench, 1, "fail9", "x");
    bench.drain(&mut agent);
    assert_eq!((bench.pool.terms().duplicate, bench.pool.terms().dead_lettered()), (0, 2));
}

#[test]
fn a_duplicate_of_an_event_that_waits_for_its_retry_is_one() {
    let (mut bench, mut agent) = bench();
    send(&mut bench, 0, "fail2", "x");
    bench.poll_all(&mut agent);
    send(&mut bench, 1, "fail2", "x");
    bench.poll_all(&mut agent);
    assert_eq!(bench.pool.terms().duplicate, 1);
    bench.drain(&mut agent);
    assert_eq!(bench.pool.terms().stored, 1);
}

#[test]
fn full_retry_memory_dead_letters_what_finds_no_place() {
    let (mut bench, mut agent) = bench_with(options(), HandlerMode::Inline, 2, 256);
    (0..5).for_each(|id| send(&mut bench, id, "fail1", &id.to_string()));
    bench.poll_all(&mut agent);
    assert_eq!(bench.dead_reasons(), [DropReason::RetryOverflow; 3]);
    bench.drain(&mut agent);
    assert_eq!(bench.pool.terms().stored, 2);
    // The memory came home: two more find a place.
    (5..7).for_each(|id| send(&mut bench, id, "fail1", &id.to_string()));
    bench.drain(&mut agent);
    assert_eq!((bench.pool.terms().stored, bench.dead_reasons().len()), (4, 3));
}

#[test]
fn a_panic_dead_letters_its_event_and_so_does_a_disabled_handler() {
    crate::process::quiet_handler_panics();
    for mode in [HandlerMode::Inline, HandlerMode::Offloaded] {
        let options = TransactionalOptions { handler_panics_max: 2, ..options() };
        let (mut bench, mut agent) = bench_with(options, mode, 8, 256);
        (0..2).for_each(|id| send(&mut bench, id, "boom", &id.to_string()));
        send(&mut bench, 2, "t", "healthy, but nobody is there to say so");
        bench.drain(&mut agent);
        assert_eq!(bench.dead_reasons(), [DropReason::HandlerPanic; 3]);
        assert!(bench.dead[2].1.contains("disabled"));
        assert_eq!(agent.health()[0].disabled.get(), 1);
    }
}

#[test]
fn a_full_inlet_stops_the_processor_and_loses_nothing() {
    let (mut bench, mut agent) = bench_with(options(), HandlerMode::Inline, 8, 16);
    (0..500).for_each(|id| send(&mut bench, id, "t", &id.to_string()));
    bench.poll_all(&mut agent);
    assert!(holding(&agent) >= 500 - 16 && agent.receiver.depth() >= 500 - 16 - POLL_EVENTS_MAX - HOLD_RETRIES_MAX);
    bench.check_ledger(&agent);
    let mut stored = Vec::new();
    while stored.len() < 500 {
        stored.extend(bench.store(5));
        bench.poll(&mut agent);
        bench.check_ledger(&agent);
    }
    assert_eq!(stored, (0..500).collect::<Vec<_>>());
    bench.drain(&mut agent);
    assert_eq!(bench.pool.events_out(), 0);
}

#[test]
fn without_handler_and_dedup_every_event_is_in_good_order() {
    let mut pool = TestPool::new();
    let memory = pool.retry_memory.take().unwrap();
    let (mut bench, wiring) = Bench::new(pool, 0);
    let options = TransactionalOptions { dedup_by: None, ..options() };
    let mut agent = Transactional::new(options, None, memory, wiring).unwrap();
    (0..100).for_each(|id| send(&mut bench, id, "t", "same"));
    bench.drain(&mut agent);
    assert_eq!((bench.pool.terms().handled, bench.pool.events_out()), (100, 0));
}

#[test]
fn an_agent_dropped_in_mid_work_leaks_no_slot() {
    let (mut bench, mut agent) = bench_with(options(), HandlerMode::Inline, 8, 16);
    send(&mut bench, 0, "fail9", "x");
    (1..60).for_each(|id| send(&mut bench, id, "t", &id.to_string()));
    bench.poll_all(&mut agent);
    assert!(holding(&agent) > 0);
    drop(agent);
    bench.store(usize::MAX);
    assert_eq!(bench.pool.events_out(), 0);
}

#[test]
fn an_idempotency_key_counts_instead_of_the_content_and_even_with_dedup_off() {
    for dedup_by in [Some(DedupBy::Content), None] {
        let options = TransactionalOptions { dedup_by: dedup_by.clone(), ..options() };
        let (mut bench, mut agent) = bench_with(options, HandlerMode::Inline, 8, 256);
        send_keyed(&mut bench, 0, "t", "a", 7);
        send_keyed(&mut bench, 1, "t", "b", 7);
        send_keyed(&mut bench, 2, "t", "a", 8);
        send(&mut bench, 3, "t", "a");
        send(&mut bench, 4, "t", "a");
        bench.poll_all(&mut agent);
        send_keyed(&mut bench, 5, "t", "a", 8);
        bench.poll_all(&mut agent);
        let expected: &[u64] = if dedup_by.is_some() { &[0, 2, 3] } else { &[0, 2, 3, 4] };
        assert_eq!(bench.store(64), expected);
        bench.drain(&mut agent);
        assert_eq!(bench.counters.dedup[Tier::Transactional.index()].keyed.hits.get(), 2);
    }
}

#[test]
fn a_keyed_event_that_is_lost_may_be_sent_again_and_one_that_waits_may_not() {
    let (mut bench, mut agent) = bench();
    send_keyed(&mut bench, 0, "fail9", "x", 1);
    bench.poll_all(&mut agent);
    send_keyed(&mut bench, 1, "t", "y", 1);
    bench.poll_all(&mut agent);
    assert_eq!(bench.pool.terms().duplicate, 1, "a duplicate of a pending event takes its outcome");
    bench.drain(&mut agent);
    send_keyed(&mut bench, 2, "t", "z", 1);
    bench.drain(&mut agent);
    assert_eq!((bench.pool.terms().dead_lettered(), bench.pool.terms().stored), (1, 1));
}

#[test]
fn a_flood_of_ordinary_events_leaves_the_idempotency_keys_alone() {
    let options = TransactionalOptions { dedup: DedupOptions { capacity_keys: 64, ..DedupOptions::default() }, ..options() };
    let (mut bench, mut agent) = bench_with(options, HandlerMode::Inline, 8, 256);
    (0..50).for_each(|id| send_keyed(&mut bench, id, "t", "x", u128::from(id) + 1));
    for id in 50..2_000 {
        send(&mut bench, id, "t", &id.to_string());
        bench.poll_all(&mut agent);
        bench.store(64);
    }
    (0..50).for_each(|id| send_keyed(&mut bench, id, "t", "x", u128::from(id) + 1));
    bench.drain(&mut agent);
    let tables = &bench.counters.dedup[Tier::Transactional.index()];
    assert!(tables.by_body.evictions.get() > 1_000 && tables.keyed.evictions.get() == 0);
    assert_eq!(bench.pool.terms().duplicate, 50);
}

#[test]
fn with_a_key_in_the_body_a_second_try_of_an_order_is_a_duplicate() {
    let pointer = crate::process::JsonPointer::parse("/id").unwrap();
    let options = TransactionalOptions { dedup_by: Some(DedupBy::Pointer(pointer)), ..options() };
    let (mut bench, mut agent) = bench_with(options, HandlerMode::Inline, 8, 256);
    send(&mut bench, 0, "paid", r#"{"id":7,"at":1}"#);
    send(&mut bench, 1, "paid", r#"{"id":7,"at":2}"#);
    send(&mut bench, 2, "paid", r#"{"id":8,"at":2}"#);
    send(&mut bench, 3, "paid", "no id");
    bench.poll_all(&mut agent);
    assert_eq!(bench.store(64), [0, 2, 3]);
    assert_eq!(bench.counters.dedup[Tier::Transactional.index()].by_body.fallbacks.get(), 1);
    bench.drain(&mut agent);
}

#[test]
fn a_storm_of_failing_events_takes_no_turn_from_healthy_ones() {
    // The same events with and without failures among them: healthy ones are stored after the same number of polls.
    let polls_until_stored = |failing: bool| {
        let (mut bench, mut agent) = bench_with(options(), HandlerMode::Inline, 64, 1024);
        for id in 0..1_000 {
            let topic = if failing && id % 2 == 1 { "fail9" } else { "t" };
            send(&mut bench, id, topic, &id.to_string());
        }
        let (mut polls, mut healthy) = (0, 0);
        while healthy < 500 {
            bench.poll(&mut agent);
            // Every retry is due at once, and yet:
            bench.advance(Nanos::from_millis(60_000));
            healthy += bench.store(1024).iter().filter(|id| *id % 2 == 0).count();
            polls += 1;
        }
        bench.drain(&mut agent);
        bench.check_ledger(&agent);
        polls
    };
    assert_eq!(polls_until_stored(true), polls_until_stored(false));
}

#[test]
fn a_handler_may_declare_its_own_retries() {
    struct Eager;
    impl TransactionalHandler for Eager {
        fn name(&self) -> &'static str {
            "eager"
        }
        fn mode(&self) -> HandlerMode {
            HandlerMode::Inline
        }
        fn retry_policy(&self, configured: RetryPolicy) -> RetryPolicy {
            RetryPolicy { max_retries: configured.max_retries + 4, ..configured }
        }
        fn handle(&mut self, _: &EventView<'_>) -> Result<(), HandlerError> {
            Err(HandlerError::new("never"))
        }
    }
    let mut pool = TestPool::new();
    let memory = pool.retry_memory.take().unwrap();
    let (mut bench, wiring) = Bench::new(pool, 16);
    let mut agent = Transactional::new(options(), Some(Box::new(Eager)), memory, wiring).unwrap();
    send(&mut bench, 0, "t", "x");
    bench.drain(&mut agent);
    assert_eq!(bench.counters.transactional.retries.get(), 7);
    assert_eq!(bench.dead_reasons(), [DropReason::ProcessingFailed]);
}

fn in_order() -> TransactionalOptions {
    let retry = RetryOptions { order: RetryOrder::Topic, ..RetryOptions::default() };
    TransactionalOptions { dedup_by: None, retry, ..options() }
}

#[test]
fn with_an_order_by_topic_later_events_of_a_failed_one_s_topic_wait_and_others_go_on() {
    let (mut bench, mut agent) = bench_with(in_order(), HandlerMode::Inline, 8, 256);
    for (id, topic) in (0..).zip(["fail2", "a", "fail2", "b", "a"]) {
        send(&mut bench, id, topic, "x");
    }
    let work = bench.poll_all(&mut agent);
    send(&mut bench, 5, "fail2", "x");
    bench.poll_all(&mut agent);
    assert_eq!(bench.store(64), [1, 3, 4]);
    assert_eq!((holding(&agent), bench.pool.events_out()), (3, 0), "all three wait outside the reactor's slots");
    bench.check_ledger(&agent);
    bench.advance(work.next_deadline.unwrap());
    bench.poll_all(&mut agent);
    assert!(bench.store(64).is_empty(), "the first is tried alone, and fails again");
    bench.drain(&mut agent);
    let stored: Vec<u64> = bench.stored.iter().copied().filter(|id| [0, 2, 5].contains(id)).collect();
    assert_eq!(stored, [0, 2, 5]);
    assert_eq!(bench.counters.transactional.retries.get(), 6, "two for each; their first tries are none");
}

#[test]
fn what_finds_no_place_behind_a_failed_event_is_lost_as_retry_overflow() {
    let (mut bench, mut agent) = bench_with(in_order(), HandlerMode::Inline, 2, 256);
    (0..5).for_each(|id| send(&mut bench, id, "fail1", &id.to_string()));
    bench.poll_all(&mut agent);
    assert_eq!(bench.dead_reasons(), [DropReason::RetryOverflow; 3]);
    bench.drain(&mut agent);
    assert_eq!(bench.stored, [0, 1]);
    assert_eq!(bench.pool.events_out(), 0);
}

#[test]
fn a_line_moves_up_when_its_leader_is_lost() {
    let (mut bench, mut agent) = bench_with(in_order(), HandlerMode::Inline, 8, 256);
    (0..3).for_each(|id| send(&mut bench, id, "fail9", &id.to_string()));
    bench.drain(&mut agent);
    assert_eq!(bench.dead_reasons(), [DropReason::ProcessingFailed; 3]);
    assert_eq!(bench.counters.transactional.retries.get(), 9);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

    /// Whatever fails and whenever time passes: of each topic, what is stored is stored in the order of arrival, and the ledger balances.
    #[test]
    fn the_order_of_a_topic_survives_failures(
        steps in proptest::collection::vec((0u64..4, 0u32..6, 0u64..40), 1..200),
        offloaded in proptest::bool::ANY,
        retry_slots in 4u32..40,
    ) {
        let mode = if offloaded { HandlerMode::Offloaded } else { HandlerMode::Inline };
        let (mut bench, mut agent) = bench_with(in_order(), mode, retry_slots, 256);
        let mut topics = Vec::new();
        for (id, (topic, failures, pass)) in (0..).zip(steps) {
            let topic = format!("order{topic}");
            send(&mut bench, id, &topic, &format!("fail{}", failures.saturating_sub(2)));
            topics.push(topic);
            if pass > 10 {
                bench.poll(&mut agent);
                bench.advance(Nanos::from_millis(pass));
            }
            if pass > 30 {
                bench.store(64);
            }
            proptest::prop_assert!(holding(&agent) <= id + 1);
        }
        bench.drain(&mut agent);
        let terms = bench.pool.terms();
        proptest::prop_assert_eq!(terms.received, terms.stored + terms.dead_lettered());
        for topic in 0..4 {
            let of_topic = |id: &&u64| topics[**id as usize] == format!("order{topic}");
            let stored: Vec<u64> = bench.stored.iter().filter(of_topic).copied().collect();
            proptest::prop_assert!(stored.is_sorted(), "{:?}", stored);
        }
        proptest::prop_assert_eq!(bench.pool.events_out(), 0);
    }
}
