use std::sync::mpsc;

use super::*;
use crate::pool::EventKey;
use crate::process::test_support::{Bench, TestPool};
use crate::wire::Priority;

/// Sends the id of every event it sees; panics on topic `boom`.
struct Recorder {
    mode: HandlerMode,
    seen: mpsc::Sender<u64>,
}

impl AlertHandler for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }
    fn mode(&self) -> HandlerMode {
        self.mode
    }
    fn handle(&mut self, event: &EventView<'_>) {
        assert_ne!(event.topic, "boom", "boom");
        self.seen.send(event.header.id).unwrap();
    }
}

fn recorder(mode: HandlerMode) -> (Vec<Box<dyn AlertHandler>>, mpsc::Receiver<u64>) {
    let (seen, ids) = mpsc::channel();
    (vec![Box::new(Recorder { mode, seen })], ids)
}

fn bench(options: RealtimeOptions, mode: HandlerMode, inlet_events: usize) -> (Bench, Realtime, mpsc::Receiver<u64>) {
    let (handlers, ids) = recorder(mode);
    let (mut bench, wiring) = Bench::new(TestPool::new(), inlet_events);
    let mut agent = Realtime::new(options, handlers, wiring).unwrap();
    bench.start(&mut agent);
    (bench, agent, ids)
}

fn send(bench: &mut Bench, ids: std::ops::Range<u64>) {
    ids.for_each(|id| bench.send_new(Priority::High, id, "t", b"body"));
}

#[test]
fn every_event_is_handled_and_stored_in_order_inline_and_offloaded() {
    for mode in [HandlerMode::Inline, HandlerMode::Offloaded] {
        let (mut bench, mut agent, ids) = bench(RealtimeOptions::default(), mode, 1024);
        send(&mut bench, 0..200);
        let mut stored = Vec::new();
        while stored.len() < 200 {
            bench.poll(&mut agent);
            bench.check_ledger(&agent);
            stored.extend(bench.store(64));
        }
        assert_eq!(stored, (0..200).collect::<Vec<_>>());
        bench.drain(&mut agent);
        drop(agent);
        assert_eq!(ids.iter().collect::<Vec<_>>(), (0..200).collect::<Vec<_>>());
        assert_eq!((bench.pool.terms().processed, bench.counters.realtime.processed.get()), (200, 200));
        assert_eq!(bench.pool.events_out(), 0);
    }
}

#[test]
fn a_poll_takes_a_batch_and_no_more() {
    let (mut bench, mut agent, _ids) = bench(RealtimeOptions::default(), HandlerMode::Inline, 1024);
    send(&mut bench, 0..100);
    assert_eq!(bench.poll(&mut agent).done, POLL_EVENTS_MAX as u32);
    assert_eq!(bench.poll(&mut agent).done, 100 - POLL_EVENTS_MAX as u32);
    bench.drain(&mut agent);
}

#[test]
fn handlers_go_on_while_the_store_stalls_until_the_quota_is_held() {
    let options = RealtimeOptions { hold_events_max: 128, ..Default::default() };
    let (mut bench, mut agent, ids) = bench(options, HandlerMode::Inline, 16);
    send(&mut bench, 0..400);
    let work = bench.poll_all(&mut agent);
    assert_eq!(ids.try_iter().count(), 16 + 128, "what the inlet and the quota hold");
    assert!(work.next_deadline.is_some(), "it looks again by itself");
    assert_eq!(agent.holding_for_test(), 400 - 16);
    bench.check_ledger(&agent);
    bench.drain(&mut agent);
    assert_eq!(ids.try_iter().count(), 400 - 144);
    assert_eq!((bench.pool.terms().stored, bench.pool.events_out()), (400, 0));
}

impl Realtime {
    fn holding_for_test(&self) -> u64 {
        Agent::<crate::process::test_support::FakeRing>::holding(self).events
    }
}

#[test]
fn a_panic_dead_letters_its_event_only_and_a_disabled_handler_costs_no_event() {
    for mode in [HandlerMode::Inline, HandlerMode::Offloaded] {
        crate::process::quiet_handler_panics();
        let options = RealtimeOptions { handler_panics_max: 3, ..Default::default() };
        let (mut bench, mut agent, ids) = bench(options, mode, 64);
        for (id, topic) in (0..).zip(["ok", "boom", "boom", "ok", "boom", "boom", "boom", "boom", "ok"]) {
            bench.send_new(Priority::Critical, id, topic, b"");
        }
        bench.drain(&mut agent);
        assert_eq!(bench.dead_reasons(), [DropReason::HandlerPanic; 5]);
        assert!(bench.dead[0].1.contains("boom"));
        let health = agent.health()[0].clone();
        drop(agent);
        assert_eq!(ids.iter().collect::<Vec<_>>(), [0, 3]);
        assert_eq!((health.panics.get(), health.disabled.get(), health.skipped.get()), (5, 1, 2));
        assert_eq!((bench.pool.terms().stored, bench.pool.terms().dead_lettered()), (4, 5));
        assert_eq!(bench.pool.events_out(), 0);
    }
}

#[test]
fn lateness_is_counted_by_the_stage_that_was_late() {
    let (mut bench, mut agent, _ids) = bench(RealtimeOptions::default(), HandlerMode::Inline, 64);
    send(&mut bench, 0..1);
    bench.advance(Nanos::from_micros(101));
    bench.poll(&mut agent);
    // Taken in time; the look at the clock after the handler is 120 µs later.
    bench.ring.look_costs = Nanos::from_micros(120);
    send(&mut bench, 1..2);
    bench.advance(Nanos::from_micros(1));
    bench.poll(&mut agent);
    let counters = &bench.counters.realtime;
    assert_eq!((counters.sla_misses_queue.get(), counters.sla_misses_process.get()), (1, 1));
    bench.ring.look_costs = Nanos(0);
    bench.drain(&mut agent);
    assert_eq!(agent.latency().snapshot().len(), 2);
}

#[test]
fn an_inline_handler_over_its_budget_is_counted_by_name() {
    let (mut bench, mut agent, _ids) = bench(RealtimeOptions::default(), HandlerMode::Inline, 64);
    bench.ring.look_costs = Nanos::from_micros(30);
    send(&mut bench, 0..4);
    bench.poll(&mut agent);
    assert_eq!(agent.health()[0].over_budget_batches.get(), 0, "30 µs for four is within 10 µs each");
    send(&mut bench, 4..6);
    bench.poll(&mut agent);
    assert_eq!(agent.health()[0].over_budget_batches.get(), 1);
    bench.ring.look_costs = Nanos(0);
    bench.drain(&mut agent);
}

#[test]
fn latencies_are_handed_over_even_if_nothing_follows() {
    let (mut bench, mut agent, _ids) = bench(RealtimeOptions::default(), HandlerMode::Inline, 64);
    send(&mut bench, 0..1);
    bench.poll(&mut agent);
    let deadline = bench.poll_all(&mut agent).next_deadline.expect("to hand the latency over");
    bench.advance(deadline);
    assert_eq!(bench.poll_all(&mut agent).next_deadline, None, "an idle processor asks for nothing");
    assert_eq!(agent.latency().snapshot().len(), 1);
    bench.drain(&mut agent);
}

#[test]
fn a_handler_that_blocks_fills_its_lane_and_then_only_depth_rises() {
    struct Blocks(mpsc::Receiver<()>);
    impl AlertHandler for Blocks {
        fn name(&self) -> &'static str {
            "blocks"
        }
        fn handle(&mut self, _: &EventView<'_>) {
            // Ends when the test drops its side.
            let _ = self.0.recv();
        }
    }
    let (go, wait) = mpsc::channel();
    let (mut bench, wiring) = Bench::new(TestPool::new(), 64);
    let options = RealtimeOptions { offload_events_max: 32, ..Default::default() };
    let mut agent = Realtime::new(options, vec![Box::new(Blocks(wait))], wiring).unwrap();
    send(&mut bench, 0..100);
    bench.poll_all(&mut agent);
    assert_eq!(agent.receiver.depth(), 100 - 32);
    assert_eq!(agent.holding_for_test(), 100);
    drop(go);
    bench.drain(&mut agent);
    assert_eq!(bench.pool.terms().stored, 100);
}

#[test]
fn a_replayed_event_is_handled_and_stored_once_and_one_that_was_lost_may_come_again() {
    crate::process::quiet_handler_panics();
    for mode in [HandlerMode::Inline, HandlerMode::Offloaded] {
        let (mut bench, mut agent, ids) = bench(RealtimeOptions::default(), mode, 256);
        let send = |bench: &mut Bench, id, topic, key| {
            bench.send_keyed(Priority::High, id, topic, b"body", EventKey::new(key));
        };
        send(&mut bench, 0, "t", 7);
        send(&mut bench, 1, "t", 7);
        send(&mut bench, 2, "boom", 8);
        bench.drain(&mut agent);
        send(&mut bench, 3, "t", 7);
        send(&mut bench, 4, "t", 8);
        bench.drain(&mut agent);
        bench.send_new(Priority::High, 5, "t", b"body");
        bench.send_new(Priority::High, 6, "t", b"body");
        bench.drain(&mut agent);
        assert_eq!(bench.stored, [0, 4, 5, 6], "without a key nothing is compared");
        assert_eq!(bench.pool.terms().duplicate, 2);
        assert_eq!(agent.health()[0].over_budget_batches.get(), 0, "a batch of duplicates is none");
        bench.check_ledger(&agent);
        drop(agent);
        assert_eq!(ids.iter().collect::<Vec<_>>(), [0, 4, 5, 6]);
    }
}
