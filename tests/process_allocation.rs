//! The processors allocate nothing once they have started: counted by a global allocator, per thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use eventstream::agent::{Agent, Context};
use eventstream::bus::{LaneConsumer, LaneProducer, TierReceiver, lane};
use eventstream::metrics::ledger::LedgerCells;
use eventstream::pool::{
    ClassStrides, Event, EventFlags, EventHeader, EventView, LentBuffer, OwnerLayout, PoolOwner, Releaser, SharedPool, Source,
};
use eventstream::process::rules::{AlertRule, Comparison, Condition, JsonCondition, JsonTest, Needle, Operand, Pattern};
use eventstream::process::{
    AlertHandler, AlertLog, AlertLogOptions, Batch, BatchOptions, DedupOptions, GroupBy, HandlerError, HandlerMode, Inlet,
    PollBudget, ProcessCounters, ProcessorWiring, Realtime, RealtimeOptions, Rules, RulesOptions, Transactional,
    TransactionalHandler, TransactionalOptions, WindowDefinition, WindowLog, WindowLogOptions, duplicates_by_class,
};
use eventstream::storage::dead_letter::{Collector, DeadLetterOptions, DeadLetterQueue};
use eventstream::storage::status::InletProgress;
use eventstream::sys::clock::{Clock, Nanos, WallNanos};
use eventstream::sys::io::{Fd, GroupId, MessageRoom, Ring, Token, WriteSync};
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

/// Windows of every kind: side by side and sliding, with groups and values, and with fewer rows than topics.
fn definitions() -> Vec<WindowDefinition> {
    let slide = Nanos::from_millis(2);
    let topics = WindowDefinition { groups_max: 8, ..WindowDefinition::topics(slide) };
    let sliding = WindowDefinition {
        name: "sliding".into(),
        filter: "t/+".parse().unwrap(),
        group_by: GroupBy::Levels(1),
        length: Nanos(slide.0 * 3),
        value: Some("".parse().unwrap()),
        ..topics.clone()
    };
    let all = WindowDefinition { name: "all".into(), group_by: GroupBy::Filter, length: slide, ..sliding.clone() };
    vec![topics, sliding, all]
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
                budget: PollBudget::Narrow,
                runner: None,
            }
        };
        let alerts = AlertLog::open(&AlertLogOptions::new(folder.join("alerts.jsonl"))).unwrap();
        let windows = WindowLogOptions { definitions: definitions(), ..WindowLogOptions::new(folder.join("windows.jsonl")) };
        let windows = WindowLog::open(&windows, None, counters.clone()).unwrap();
        let options = TransactionalOptions {
            dedup: DedupOptions { capacity_keys: 10_000, window: Nanos::from_millis(100), ..DedupOptions::default() },
            ..Default::default()
        };
        let agents: [Box<dyn Agent<TimeOnly>>; 3] = [
            Box::new(Realtime::new(RealtimeOptions::default(), vec![Box::new(alerts)], wiring()).unwrap()),
            Box::new(Transactional::new(options, Some(Box::new(Tenth)), retry_memory, wiring()).unwrap()),
            Box::new(Batch::new(BatchOptions::default(), windows, wiring())),
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
                let digits = body.map(|byte| b'0' + byte % 10);
                let topic = [b't', b'/', b'0' + (self.sent % 10) as u8];
                // BATCH bodies are numbers.
                let body = if tier.priority == Priority::Low {
                    [b'1', digits[0], digits[1], digits[2]]
                } else {
                    [body[0], body[1], body[2], body[3]]
                };
                let payload = [topic[0], topic[1], topic[2], body[0], body[1], body[2], body[3]];
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
                    flags: EventFlags::NONE,
                    reserved: 0,
                    producer_sequence: 0,
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

/// Rules of each kind of condition, and with each kind of limit, on a table of topics that overflows.
#[test]
fn rules_allocate_nothing_from_the_first_event_on() {
    let folder = tempfile::tempdir().unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let rule = |name: &str, topic: &str, condition| AlertRule {
        condition,
        udp: socket.local_addr().ok(),
        alerts_per_s_max: 1_000_000,
        ..AlertRule::new(name, topic.parse().unwrap())
    };
    let test = JsonTest::Compare(Comparison::Eq, Operand::Text("hot\n".to_owned()));
    let json = JsonCondition { pointer: "/a/1/state".parse().unwrap(), tests: vec![test] };
    let rules = [
        rule("contains", "t/#", Condition { contains: Needle::new("state"), ..Condition::default() }),
        rule("regex", "t/+/+", Condition { regex: Pattern::new(r"(?i)HOT\b").ok(), ..Condition::default() }),
        rule("json", "#", Condition { json: Some(json), ..Condition::default() }),
        AlertRule { cool_down: Nanos::from_millis(1), ..rule("cool", "t/+/even", Condition::default()) },
    ];
    let mut rules = Rules::start(&rules, &RulesOptions::new(folder.path().join("alerts.jsonl"))).unwrap();
    let body = br#"{"deep":[[[{"a":{}}]]],"a":[0,{"state":"\u0068ot\n"}]} hot "#;
    let topics: Vec<String> = (0..10_000).map(|number| format!("t/{number}/{}", ["even", "odd"][number % 2])).collect();
    let mut header = EventHeader {
        id: 0,
        received_at: Nanos(0),
        received_wall: WallNanos(0),
        connection: 0,
        body_len: body.len() as u32,
        topic_len: 0,
        priority: Priority::High,
        tier: Priority::High.tier(),
        source: Source::Tcp,
        attempts: 0,
        flags: EventFlags::NONE,
        reserved: 0,
        producer_sequence: 0,
        key: None,
    };
    let before = ALLOCATIONS.get();
    for topic in topics.iter().cycle().take(30_000) {
        (header.id, header.topic_len) = (header.id + 1, topic.len() as u16);
        header.received_at = header.received_at + Nanos::from_micros(10);
        rules.handle(&EventView { header: &header, topic, body });
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    let counters = rules.counters();
    for (place, matched) in [30_000, 30_000, 30_000, 15_000].into_iter().enumerate() {
        assert_eq!(counters.rule(place as u8).matched.get(), matched, "rule {place}");
    }
    assert!(counters.topic_limit.get() > 0 && counters.rule(3).cooled_down.get() > 0);
}
