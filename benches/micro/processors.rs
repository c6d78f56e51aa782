//! Whole processors, from a full lane to slots that are on their way home: dispatching, windows, duplicates, the ledger, latencies. The log
//! is off, so that what was handled is released at once; the clock is the simulator's, which costs next to nothing.

use std::sync::Arc;

use eventstream::agent::{Agent, Context};
use eventstream::bus::{LaneProducer, TierReceiver, lane};
use eventstream::metrics::ledger::LedgerCells;
use eventstream::pool::{ClassStrides, PoolOwner};
use eventstream::process::{
    Batch, BatchOptions, PollBudget, ProcessCounters, ProcessorWiring, Realtime, RealtimeOptions, Transactional,
    TransactionalOptions, WindowLog, WindowLogOptions, duplicates_by_class,
};
use eventstream::sim::faults::Faults;
use eventstream::sim::ring::SimRing;
use eventstream::storage::dead_letter::{DeadLetterOptions, DeadLetterQueue};
use eventstream::sys::clock::{Clock, Nanos};
use eventstream::wire::Priority;

use crate::rig::{BODY_BYTES, Pass, Row, header, pool, timed};

/// Events that wait when a processor is polled: their slots fit into the second cache.
const WAITING: usize = 1024;
const TURNS: usize = 16;
const MANY_TOPICS: usize = 1_000;

pub fn rows() -> Vec<Row> {
    let items = TURNS * WAITING;
    vec![
        Row::new("processor, REALTIME, no handler", items, || processor(Priority::High, 1, realtime)),
        Row::new("processor, TRANSACTIONAL, no dedup", items, || {
            processor(Priority::Medium, 1, |w, r| transactional(false, w, r))
        }),
        Row::new("processor, TRANSACTIONAL", items, || processor(Priority::Medium, 1, |w, r| transactional(true, w, r))),
        Row::new("processor, BATCH, windows of one topic", items, || processor(Priority::Low, 1, batch)),
        Row::new("processor, BATCH, windows of 1,000 topics in turn", items, || processor(Priority::Low, MANY_TOPICS, batch)),
    ]
}

fn realtime(wiring: ProcessorWiring, _: PoolOwner) -> Realtime {
    Realtime::new(RealtimeOptions::default(), Vec::new(), wiring).expect("no handler needs no thread")
}

fn transactional(dedup: bool, wiring: ProcessorWiring, retry_memory: PoolOwner) -> Transactional {
    let mut options = TransactionalOptions::default();
    if !dedup {
        options.dedup_by = None;
    }
    Transactional::new(options, None, retry_memory, wiring).expect("no handler needs no thread")
}

/// No window ends: the clock stands.
fn batch(wiring: ProcessorWiring, _: PoolOwner) -> Batch {
    let options = WindowLogOptions { path: None, ..WindowLogOptions::new("") };
    let (log, _writer) = WindowLog::manual(&options, None, wiring.counters.clone()).expect("nothing to open");
    Batch::new(BatchOptions::default(), log, wiring)
}

/// A pass that fills the lane and lets the processor empty it, again and again; only the latter is timed.
fn processor<A: Agent<SimRing> + 'static>(
    priority: Priority,
    topics: usize,
    make: impl FnOnce(ProcessorWiring, PoolOwner) -> A,
) -> Pass {
    let mut owners = pool(ClassStrides::new(1 << 20, 32 << 10), &[2 * WAITING as u32, 8]);
    let (retry_memory, owner) = (owners.remove(1), owners.remove(0));
    let (lane, receiver) = lane(WAITING);
    let shared = owner.shared().clone();
    let (letters, collector) = DeadLetterQueue::manual(&DeadLetterOptions::new("".into()), vec![shared.clone()]);
    let wiring = ProcessorWiring {
        receiver: TierReceiver::new(vec![receiver]),
        inlet: None,
        pool: shared,
        ledger: Arc::new(LedgerCells::default()),
        dead_letters: letters.sender(0),
        counters: Arc::new(ProcessCounters::default()),
        gate: Arc::default(),
        budget: PollBudget::Narrow,
        duplicates: duplicates_by_class(&Arc::default()),
        runner: None,
    };
    let mut agent = make(wiring, retry_memory);
    let mut ring = SimRing::new(0, Faults::none());
    agent.start(&mut context(&mut ring));
    let topics = (0..topics).map(|number| format!("sensors/{number}")).collect();
    let mut feed = Feed { owner, lane, priority, topics, sent: 0 };
    Box::new(move || {
        let _alive = (&letters, &collector);
        let turn = |_| {
            feed.fill(ring.now());
            timed(|| while agent.poll(&mut context(&mut ring)).done > 0 {})
        };
        (0..TURNS).map(turn).fold(Nanos(0), |sum, took| sum + took)
    })
}

fn context(ring: &mut SimRing) -> Context<'_, SimRing> {
    Context { now: ring.now(), wall: ring.wall(), ring, seat: 0 }
}

/// Of a processor and the lane before it.
struct Feed {
    owner: PoolOwner,
    lane: LaneProducer,
    priority: Priority,
    topics: Vec<String>,
    sent: u64,
}

impl Feed {
    /// Puts events into the lane, no two with the same body.
    fn fill(&mut self, now: Nanos) {
        self.owner.collect();
        for _ in 0..WAITING {
            self.sent += 1;
            let topic = &self.topics[self.sent as usize % self.topics.len()];
            let mut body = [b'x'; BODY_BYTES];
            body[..8].copy_from_slice(&self.sent.to_le_bytes());
            let mut header = header(self.sent, self.priority);
            (header.topic_len, header.received_at) = (topic.len() as u16, Nanos(now.0 - 5_000));
            let event = self.owner.store_split(header, topic.as_bytes(), &body).expect("a slot for each");
            self.lane.push(event).expect("an empty lane takes as many");
        }
        self.lane.publish();
    }
}
