//! A pool, a clock and wiring for tests of processors: no kernel, no threads, time by hand.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use crate::agent::{Agent, Context, Holding, Work};
use crate::bus::TierReceiver;
use crate::bus::lane::{LaneConsumer, LaneProducer, lane};
use crate::metrics::ledger::{DropReason, Ledger, LedgerCells, LedgerTerms};
use crate::pool::{
    ClassStrides, Event, EventFlags, EventHeader, EventKey, LentBuffer, OwnerLayout, PoolOwner, Releaser, SharedPool, Source,
};
use crate::process::outlet::{Inlet, Outlet};
use crate::process::{PollBudget, ProcessCounters, ProcessorWiring, duplicates_by_class};
use crate::storage::dead_letter::{Collector, DeadLetterOptions, DeadLetterQueue};
use crate::storage::status::InletProgress;
use crate::sys::clock::{Clock, Nanos, WallNanos};
use crate::sys::io::{Fd, GroupId, MessageRoom, Ring, Token, WriteSync};
use crate::sys::memory::{Arena, StagingBuffer};
use crate::wire::Priority;

/// A pool with a reactor's part and a retry partition, and the ledger that goes with it.
pub(crate) struct TestPool {
    pub(crate) shared: Arc<SharedPool>,
    pub(crate) reactor: PoolOwner,
    pub(crate) retry_memory: Option<PoolOwner>,
    pub(crate) ledger: Arc<LedgerCells>,
    pub(crate) now_ns: u64,
    releaser: Releaser,
}

impl TestPool {
    pub(crate) fn new() -> Self {
        Self::with_retry_slots(8)
    }

    pub(crate) fn with_retry_slots(retry_slots: u32) -> Self {
        let layouts = [[2048, 64, 0, 0, 0], [retry_slots, 0, 0, 0, 0]].map(OwnerLayout::without_quotas);
        let strides = ClassStrides::new(4096, 4096);
        let arena = Arena::map(SharedPool::arena_bytes(&strides, &layouts)).unwrap();
        let (shared, mut owners) = SharedPool::divide(arena, strides, &layouts);
        let (retry_memory, reactor) = (owners.pop(), owners.pop().unwrap());
        Self { releaser: Releaser::new(shared.clone()), shared, reactor, retry_memory, ledger: Arc::default(), now_ns: 0 }
    }

    pub(crate) fn event(&mut self, priority: Priority, id: u64, topic: &str, body: &[u8]) -> Event {
        self.keyed_event(priority, id, topic, body, None)
    }

    fn keyed_event(&mut self, priority: Priority, id: u64, topic: &str, body: &[u8], key: Option<EventKey>) -> Event {
        let header = EventHeader {
            id,
            received_at: Nanos(self.now_ns),
            received_wall: WallNanos(1_000_000_000_000 + self.now_ns),
            connection: 0,
            body_len: body.len() as u32,
            topic_len: topic.len() as u16,
            priority,
            tier: priority.tier(),
            source: Source::Tcp,
            attempts: 0,
            flags: EventFlags::NONE,
            reserved: 0,
            producer_sequence: 0,
            key,
        };
        self.ledger.cell(Source::Tcp, priority.tier()).received.add(1);
        let payload = [topic.as_bytes(), body].concat();
        self.reactor.store(header, &payload).expect("the test pool is large enough")
    }

    pub(crate) fn realtime(&mut self, id: u64, topic: &str, body: &[u8]) -> Event {
        self.event(Priority::High, id, topic, body)
    }

    pub(crate) fn transactional(&mut self, id: u64, topic: &str, body: &[u8]) -> Event {
        self.event(Priority::Medium, id, topic, body)
    }

    pub(crate) fn release(&mut self, event: Event) {
        self.releaser.release(event);
        self.releaser.flush();
    }

    /// Slots of the reactor's that hold events.
    pub(crate) fn events_out(&mut self) -> u64 {
        self.reactor.collect();
        self.reactor.events_out()
    }

    pub(crate) fn terms(&self) -> LedgerTerms {
        Ledger::read([&*self.ledger].into_iter()).total()
    }

    pub(crate) fn outlet(&self, inlet: Option<Inlet>, hold_events_max: usize) -> Outlet {
        let (letters, _) = DeadLetterQueue::manual(&DeadLetterOptions::new("unused".into()), vec![self.shared.clone()]);
        let dead_letters = letters.sender(0);
        Outlet::new(
            inlet,
            self.shared.clone(),
            self.ledger.clone(),
            dead_letters,
            duplicates_by_class(&Arc::default()),
            hold_events_max,
        )
    }
}

/// An inlet and the appender's ends of it.
pub(crate) fn inlet(capacity_events: usize) -> (Inlet, LaneConsumer, InletProgress) {
    let ((producer, consumer), progress) = (lane(capacity_events), InletProgress::default());
    (Inlet { producer, progress: progress.clone() }, consumer, progress)
}

/// Everything around one processor.
pub(crate) struct Bench {
    pub(crate) pool: TestPool,
    pub(crate) ring: FakeRing,
    pub(crate) tier: LaneProducer,
    pub(crate) appender: Option<LaneConsumer>,
    pub(crate) progress: InletProgress,
    pub(crate) counters: Arc<ProcessCounters>,
    /// Dead letters so far: reason and note.
    pub(crate) dead: Vec<(DropReason, String)>,
    letters: (DeadLetterQueue, Collector),
    /// Ids of what was stored, in order.
    pub(crate) stored: Vec<u64>,
}

impl Bench {
    /// A bench and the wiring of the processor on it; `inlet_events` 0 is storage off.
    pub(crate) fn new(pool: TestPool, inlet_events: usize) -> (Self, ProcessorWiring) {
        let (tier, receiver) = lane(1024);
        let counters = Arc::new(ProcessCounters::default());
        let letters = DeadLetterQueue::manual(&DeadLetterOptions::new("unused".into()), vec![pool.shared.clone()]);
        let (inlet, appender, progress) = match inlet_events {
            0 => (None, None, InletProgress::default()),
            events => {
                let (inlet, appender, progress) = inlet(events);
                (Some(inlet), Some(appender), progress)
            }
        };
        let wiring = ProcessorWiring {
            receiver: TierReceiver::new(vec![receiver]),
            inlet,
            pool: pool.shared.clone(),
            ledger: pool.ledger.clone(),
            dead_letters: letters.0.sender(0),
            counters: counters.clone(),
            gate: Arc::default(),
            budget: PollBudget::Narrow,
            duplicates: duplicates_by_class(&Arc::default()),
            runner: None,
        };
        (
            Self {
                pool,
                ring: FakeRing::default(),
                tier,
                appender,
                progress,
                counters,
                dead: Vec::new(),
                letters,
                stored: Vec::new(),
            },
            wiring,
        )
    }

    pub(crate) fn send(&mut self, event: Event) {
        self.tier.push(event).expect("the tier's lane is large enough");
        self.tier.publish();
    }

    pub(crate) fn send_new(&mut self, priority: Priority, id: u64, topic: &str, body: &[u8]) {
        self.send_keyed(priority, id, topic, body, None);
    }

    pub(crate) fn send_keyed(&mut self, priority: Priority, id: u64, topic: &str, body: &[u8], key: Option<EventKey>) {
        self.pool.now_ns = self.ring.now.get().0;
        let event = self.pool.keyed_event(priority, id, topic, body, key);
        self.send(event);
    }

    pub(crate) fn advance(&mut self, by: Nanos) {
        self.ring.now.set(self.ring.now.get() + by);
    }

    fn with_context<T>(&mut self, call: impl FnOnce(&mut Context<'_, FakeRing>) -> T) -> T {
        let (now, wall) = (self.ring.now.get(), self.ring.wall());
        call(&mut Context { now, wall, ring: &mut self.ring, seat: 0 })
    }

    pub(crate) fn start(&mut self, agent: &mut impl Agent<FakeRing>) {
        self.with_context(|ctx| agent.start(ctx));
    }

    pub(crate) fn poll(&mut self, agent: &mut impl Agent<FakeRing>) -> Work {
        let work = self.with_context(|ctx| agent.poll(ctx));
        self.read_letters();
        work
    }

    /// Plays the writer of dead letters.
    fn read_letters(&mut self) {
        let dead = &mut self.dead;
        let mut read = |line: &[u8]| {
            let line: serde_json::Value = serde_json::from_slice(line).unwrap();
            let reason = DropReason::ALL.into_iter().find(|reason| line["reason"] == reason.name()).unwrap();
            dead.push((reason, line["note"].as_str().unwrap_or("").to_owned()));
            true
        };
        while self.letters.1.collect(Nanos(0), WallNanos(0), &mut read).is_some() {}
    }

    /// Polls until a poll does nothing.
    pub(crate) fn poll_all(&mut self, agent: &mut impl Agent<FakeRing>) -> Work {
        loop {
            let work = self.poll(agent);
            if work.done == 0 {
                return work;
            }
        }
    }

    /// Drains the agent, playing the appender, until it is drained.
    pub(crate) fn drain(&mut self, agent: &mut impl Agent<FakeRing>) {
        self.with_context(|ctx| agent.drain(ctx));
        while !agent.is_drained() {
            self.poll(agent);
            self.store(usize::MAX);
            std::thread::yield_now();
        }
        self.store(usize::MAX);
        assert_eq!(agent.holding(), Holding::default());
    }

    /// Plays the appender: takes up to `max` events, counts them as stored, and returns their ids.
    pub(crate) fn store(&mut self, max: usize) -> Vec<u64> {
        let mut taken = Vec::new();
        if let Some(appender) = &mut self.appender {
            appender.pop_batch(&mut taken, max);
        }
        let ids: Vec<u64> = taken.iter().map(|event| self.pool.shared.header(event).id).collect();
        self.stored.extend(&ids);
        self.progress.set(self.stored.len() as u64);
        for event in taken {
            let header = *self.pool.shared.header(&event);
            self.pool.ledger.cell(header.source, header.tier).stored.add(1);
            self.pool.release(event);
        }
        ids
    }

    /// The ledger balances with what the agent holds and what lies in the inlet.
    pub(crate) fn check_ledger(&self, agent: &impl Agent<FakeRing>) {
        let inlet = self.appender.as_ref().map_or(0, LaneConsumer::depth) as u64;
        let terms = self.pool.terms();
        assert_eq!(terms.received, terms.outcomes() + agent.holding().events + inlet, "{terms:?}");
    }

    pub(crate) fn dead_reasons(&self) -> Vec<DropReason> {
        self.dead.iter().map(|(reason, _)| *reason).collect()
    }
}

/// A ring that only tells the time; each look at the clock may cost some.
#[derive(Debug, Default)]
pub(crate) struct FakeRing {
    pub(crate) now: Cell<Nanos>,
    pub(crate) look_costs: Nanos,
}

impl Clock for FakeRing {
    fn now(&self) -> Nanos {
        let now = self.now.get();
        self.now.set(now + self.look_costs);
        now
    }

    fn wall(&self) -> WallNanos {
        WallNanos(1_000_000_000_000 + self.now.get().0)
    }
}

impl Ring for FakeRing {
    fn accept_multishot(&mut self, _: Token, _: Fd) {
        unreachable!("processors submit nothing")
    }
    fn recv_multishot(&mut self, _: Token, _: Fd, _: GroupId, _: u32) {
        unreachable!("processors submit nothing")
    }
    fn recvmsg_multishot(&mut self, _: Token, _: Fd, _: GroupId, _: MessageRoom) {
        unreachable!("processors submit nothing")
    }
    fn provide(&mut self, _: LentBuffer) {
        unreachable!("processors submit nothing")
    }
    fn cancel(&mut self, _: Token, _: Token) {
        unreachable!("processors submit nothing")
    }
    fn write(&mut self, _: Token, _: Fd, _: StagingBuffer, _: Range<usize>, _: u64, _: WriteSync) {
        unreachable!("processors submit nothing")
    }
    fn reclaim(&mut self, _: Token) -> StagingBuffer {
        unreachable!("processors submit nothing")
    }
    fn sync(&mut self, _: Token, _: Fd) {
        unreachable!("processors submit nothing")
    }
    fn allocate(&mut self, _: Token, _: Fd, _: Range<u64>) {
        unreachable!("processors submit nothing")
    }
    fn give_back(&mut self, _: Token, _: Fd, _: Range<u64>) {
        unreachable!("processors submit nothing")
    }
    fn send(&mut self, _: Token, _: Fd, _: StagingBuffer, _: Range<usize>) {
        unreachable!("processors submit nothing")
    }
    fn end_sending(&mut self, _: Fd) {
        unreachable!("processors submit nothing")
    }
    fn shutdown(&mut self, _: Fd) {
        unreachable!("processors submit nothing")
    }
    fn close(&mut self, _: Token, _: Fd) {
        unreachable!("processors submit nothing")
    }
    fn socket_drops(&mut self, _: Fd) -> Option<u32> {
        unreachable!("processors submit nothing")
    }
}
