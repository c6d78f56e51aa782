//! What a node's level asks of its processors: larger batches, spare handler threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use super::test_support::{Bench, TestPool};
use super::{
    HandlerError, HandlerMode, POLL_EVENTS_MAX, POLL_EVENTS_WIDE, PollBudget, Transactional, TransactionalHandler,
    TransactionalOptions,
};
use crate::agent::Agent;
use crate::control::{Level, NodeGate};
use crate::pool::EventView;
use crate::process::test_support::FakeRing;
use crate::wire::Priority;

/// A bench with a processor that does not share its runner with REALTIME, and its node's gate.
fn bench(options: TransactionalOptions, handlers: Vec<Box<dyn TransactionalHandler>>) -> (Bench, Transactional, Arc<NodeGate>) {
    let mut pool = TestPool::new();
    let memory = pool.retry_memory.take().expect("a fresh pool");
    let (bench, mut wiring) = Bench::new(pool, 0);
    let gate = wiring.gate.clone();
    wiring.budget = PollBudget::ByLevel(gate.clone());
    let mut handlers = handlers.into_iter();
    let mut agent = Transactional::new(options, handlers.next(), memory, wiring).expect("a thread");
    handlers.for_each(|spare| agent.add_spare(spare).expect("a thread"));
    (bench, agent, gate)
}

fn send(bench: &mut Bench, events: u64) {
    (0..events).for_each(|id| bench.send_new(Priority::Medium, id, "t", &id.to_be_bytes()));
}

#[test]
fn a_processor_with_a_runner_of_its_own_takes_more_in_a_poll_from_elevated_on() {
    let options = TransactionalOptions { dedup_by: None, ..TransactionalOptions::default() };
    let (mut bench, mut agent, gate) = bench(options, Vec::new());
    send(&mut bench, 1_000);
    assert_eq!(bench.poll(&mut agent).done, POLL_EVENTS_MAX as u32);
    gate.set_level(Level::Elevated);
    assert_eq!(bench.poll(&mut agent).done, POLL_EVENTS_WIDE as u32);
    gate.set_level(Level::Healthy);
    assert_eq!(bench.poll(&mut agent).done, POLL_EVENTS_MAX as u32);
    bench.drain(&mut agent);
    assert_eq!((bench.pool.terms().handled, bench.pool.events_out()), (1_000, 0));
}

#[test]
fn a_processor_without_handlers_takes_more_in_a_poll_at_any_level() {
    let mut pool = TestPool::new();
    let memory = pool.retry_memory.take().expect("a fresh pool");
    let (mut bench, mut wiring) = Bench::new(pool, 0);
    wiring.budget = PollBudget::Wide;
    let options = TransactionalOptions { dedup_by: None, ..TransactionalOptions::default() };
    let mut agent = Transactional::new(options, None, memory, wiring).expect("a thread");
    send(&mut bench, 1_000);
    assert_eq!(bench.poll(&mut agent).done, POLL_EVENTS_WIDE as u32);
    bench.drain(&mut agent);
    assert_eq!((bench.pool.terms().handled, bench.pool.events_out()), (1_000, 0));
}

/// Handles nothing until it is let; counts what it handled.
struct Held {
    is_let: Arc<AtomicBool>,
    handled: Arc<AtomicU64>,
}

impl TransactionalHandler for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    fn mode(&self) -> HandlerMode {
        HandlerMode::Offloaded
    }

    fn handle(&mut self, _: &EventView<'_>) -> Result<(), HandlerError> {
        while !self.is_let.load(SeqCst) {
            std::thread::yield_now();
        }
        self.handled.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[test]
fn spare_handler_threads_get_work_from_elevated_on_and_every_event_is_handled_once() {
    let (is_let, handled) = (Arc::new(AtomicBool::new(false)), [Arc::new(AtomicU64::new(0)), Arc::default()]);
    let handlers = handled
        .iter()
        .map(|handled| Box::new(Held { is_let: is_let.clone(), handled: handled.clone() }) as Box<dyn TransactionalHandler>);
    let options = TransactionalOptions { offload_events_max: 4, ..TransactionalOptions::default() };
    let (mut bench, mut agent, gate) = bench(options, handlers.collect());
    let taken = |agent: &Transactional, bench: &Bench| {
        assert_eq!(Agent::<FakeRing>::holding(agent).events, 20);
        20 - bench.tier.depth()
    };
    send(&mut bench, 20);
    bench.poll_all(&mut agent);
    assert_eq!(taken(&agent, &bench), 4, "the first alone");
    gate.set_level(Level::Elevated);
    bench.poll_all(&mut agent);
    assert_eq!(taken(&agent, &bench), 8, "and the spare");
    gate.set_level(Level::Healthy);
    is_let.store(true, SeqCst);
    bench.drain(&mut agent);
    assert_eq!(handled.map(|handled| handled.load(SeqCst)), [16, 4]);
    assert_eq!((bench.pool.terms().handled, bench.pool.events_out()), (20, 0));
}
