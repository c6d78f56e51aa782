use std::collections::HashMap;

use super::*;
use crate::process::test_support::{Bench, FakeRing, TestPool};
use crate::wire::Priority;

/// Fails each topic `fail<n>` n times per id, panics on `boom`.
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
        let failures: u32 = event.topic.strip_prefix("fail").map_or(0, |n| n.parse().unwrap());
        if *calls <= failures { Err(HandlerError::new(format_args!("no {calls}"))) } else { Ok(()) }
    }
}

fn options() -> TransactionalOptions {
    TransactionalOptions {
        dedup: Some(DedupOptions { capacity_keys: 1024, window: Nanos::from_millis(8_000) }),
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
        assert_eq!(bench.counters.transactional.dedup_hits.get(), 100);
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
    let options = TransactionalOptions { dedup: None, ..options() };
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
