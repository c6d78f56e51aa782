//! The processors allocate nothing once they have started: counted by a global allocator, per thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use eventstream::agent::{Agent, Context};
use eventstream::bus::{LaneConsumer, LaneProducer, TierReceiver, lane};
use eventstream::metrics::ledger::LedgerCells;
use eventstream::pool::{
    ClassStrides, Event, EventHeader, EventView, LentBuffer, OwnerLayout, PoolOwner, Releaser, SharedPool, Source,
};
use eventstream::process::{
    AlertLog, AlertLogOptions, Batch, BatchOptions, DedupOptions, HandlerError, HandlerMode, Inlet, PollBudget, ProcessCounters,
    ProcessorWiring, Realtime, RealtimeOptions, Transactional, TransactionalHandler, TransactionalOptions, WindowLog,
    WindowLogOptions, duplicates_by_class,
};
use eventstream::storage::dead_letter::{Collector, DeadLetterOptions, DeadLetterQueue};
use eventstream::storage::status::InletProgress;
use eventstream::sys::clock::{Clock, Nanos, WallNanos};
use eventstream::sys::io::{Fd, GroupId, Ring, Token, WriteSync};
use eventstream::sys::memory::{Arena, StagingBuffer};
use eventstream::wire::Priority;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: hands everything to the system's allocator; the count is a plain thread-local cell without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about `place` and `layout` is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A ring that only tells the time, 1 µs later with each look.
struct TimeOnly(Cell<u64>);

impl Clock for TimeOnly {
    fn now(&self) -> Nanos {
        self.0.set(self.0.get() + 1_000);
        Nanos(self.0.get())
    }
    fn wall(&self) -> WallNanos {
        WallNanos(self.0.get())
    }
}

impl Ring for TimeOnly {
    fn accept_multishot(&mut self, _: Token, _: Fd) {
        unreachable!("processors submit nothing")
    }
    fn recv_multishot(&mut self, _: Token, _: Fd, _: GroupId, _: u32) {
        unreachable!("processors submit nothing")
    }
    fn recvmsg_multishot(&mut self, _: Token, _: Fd, _: GroupId, _: u32) {
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

/// Fails every tenth event for good.
struct Tenth;

impl TransactionalHandler for Tenth {
    fn name(&self) -> &'static str {
        "tenth"
    }
    fn mode(&self) -> HandlerMode {
        HandlerMode::Inline
    }
    fn handle(&mut self, event: &EventView<'_>) -> Result<(), HandlerError> {
        if event.header.id.is_multiple_of(10) { Err(HandlerError::new(format_args!("id {}", event.header.id))) } else { Ok(()) }
    }
}

/// One tier around one processor.
struct Tier {
    priority: Priority,
    agent: Box<dyn Agent<TimeOnly>>,
    to: LaneProducer,
    appender: LaneConsumer,
    progress: InletProgress,
}

struct House {
    reactor: PoolOwner,
    releaser: Releaser,
    tiers: Vec<Tier>,
    letters: (DeadLetterQueue, Collector),
    ring: TimeOnly,
    stored: Vec<Event>,
    sent: u64,
    written: u64,
}

impl House {
    fn new(folder: &std::path::Path) -> Self {
        let layouts = [[4096, 64, 0, 0, 0], [256, 0, 0, 0, 0]].map(OwnerLayout::without_quotas);
        let strides = ClassStrides::new(4096, 4096);
        let arena = Arena::map(SharedPool::arena_bytes(&strides, &layouts)).unwrap();
        let (pool, mut owners) = SharedPool::divide(arena, strides, &layouts);
        let (retry_memory, reactor) = (owners.pop().unwrap(), owners.pop().unwrap());
        let letters = DeadLetterQueue::manual(&DeadLetterOptions::new(folder.join("dlq_log.txt")), vec![pool.clone()]);
        let counters = Arc::new(ProcessCounters::default());
        let mut ends = Vec::new();
        let mut wiring = || {
            let ((to, receiver), (producer, appender), progress) = (lane(1024), lane(1024), InletProgress::default());
            ends.push((to, appender, progress.clone()));
            ProcessorWiring {
                receiver: TierReceiver::new(vec![receiver]),
                inlet: Some(Inlet { producer, progress }),
                pool: pool.clone(),
                ledger: Arc::new(LedgerCells::default()),
                dead_letters: letters.0.sender(0),
                counters: counters.clone(),
                duplicates: duplicates_by_class(&Arc::default()),
                gate: Arc::default(),
                budget: PollBudget::narrow(),
                runner: None,
            }
        };
        let alerts = AlertLog::open(&AlertLogOptions::new(folder.join("alerts.jsonl"))).unwrap();
        let windows = WindowLog::open(&WindowLogOptions::new(folder.join("windows.jsonl")), None, counters.clone()).unwrap();
        let options = TransactionalOptions {
            dedup: Some(DedupOptions { capacity_keys: 10_000, window: Nanos::from_millis(100) }),
            ..Default::default()
        };
        let agents: [Box<dyn Agent<TimeOnly>>; 3] = [
            Box::new(Realtime::new(RealtimeOptions::default(), vec![Box::new(alerts)], wiring()).unwrap()),
            Box::new(Transactional::new(options, Some(Box::new(Tenth)), retry_memory, wiring()).unwrap()),
            Box::new(Batch::new(BatchOptions { window: Nanos::from_millis(2) }, windows, wiring())),
        ];
        let priorities = [Priority::High, Priority::Medium, Priority::Low];
        let tiers = priorities
            .into_iter()
            .zip(agents)
            .zip(ends)
            .map(|((priority, agent), (to, appender, progress))| Tier { priority, agent, to, appender, progress })
            .collect();
        let (releaser, ring) = (Releaser::new(pool.clone()), TimeOnly(Cell::new(1_000_000_000)));
        Self { reactor, releaser, tiers, letters, ring, stored: Vec::with_capacity(1024), sent: 0, written: 0 }
    }

    fn round(&mut self) -> u64 {
        let mut allocations = 0;
        for tier in &mut self.tiers {
            for turn in 0..100u64 {
                let body = (self.sent - turn % 3).to_le_bytes(); // Some repeat each other.
                let payload = [b't', b'/', b'0' + (self.sent % 10) as u8, body[0], body[1], body[2], body[3]];
                let header = EventHeader {
                    id: self.sent,
                    received_at: self.ring.now(),
                    received_wall: self.ring.wall(),
                    connection: 0,
                    body_len: 4,
                    topic_len: 3,
                    priority: tier.priority,
                    tier: tier.priority.tier(),
                    source: Source::Tcp,
                    attempts: 0,
                    reserved: [0; 10],
                    key: None,
                };
                let event = self.reactor.store(header, &payload).expect("the round before is home");
                tier.to.push(event).expect("there is room for a round");
                self.sent += 1;
            }
            tier.to.publish();
            for _ in 0..3 {
                let (now, wall) = (self.ring.now(), self.ring.wall());
                let before = ALLOCATIONS.get();
                tier.agent.poll(&mut Context { now, wall, ring: &mut self.ring, seat: 0 });
                allocations += ALLOCATIONS.get() - before;
            }
            tier.appender.pop_batch(&mut self.stored, usize::MAX);
            self.written += self.stored.len() as u64;
            tier.progress.set(tier.progress.get() + self.stored.len() as u64);
            self.stored.drain(..).for_each(|event| self.releaser.release(event));
        }
        while self.letters.1.collect(Nanos(0), WallNanos(0), &mut |_| true).is_some() {}
        self.releaser.flush();
        allocations
    }
}

#[test]
fn processors_allocate_nothing_after_their_first_round() {
    let folder = tempfile::tempdir().unwrap();
    let mut house = House::new(folder.path());
    house.sent = 3;
    for tier in &mut house.tiers {
        let (now, wall) = (house.ring.now(), house.ring.wall());
        tier.agent.start(&mut Context { now, wall, ring: &mut house.ring, seat: 0 });
    }
    house.round();
    let allocations: u64 = (0..200).map(|_| house.round()).sum();
    assert!(house.written > 40_000, "{} of {} written", house.written, house.sent);
    assert_eq!(allocations, 0, "in {} events", house.sent);
    for tier in &mut house.tiers {
        let (now, wall) = (house.ring.now(), house.ring.wall());
        tier.agent.drain(&mut Context { now, wall, ring: &mut house.ring, seat: 0 });
        while !tier.agent.is_drained() {
            let (now, wall) = (house.ring.now(), house.ring.wall());
            tier.agent.poll(&mut Context { now, wall, ring: &mut house.ring, seat: 0 });
            while house.letters.1.collect(Nanos(0), WallNanos(0), &mut |_| true).is_some() {}
            tier.appender.pop_batch(&mut house.stored, usize::MAX);
            house.stored.drain(..).for_each(|event| house.releaser.release(event));
        }
    }
    house.releaser.flush();
    house.reactor.collect();
    assert_eq!(house.reactor.events_out(), 0, "every slot is home");
}
