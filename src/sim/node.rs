//! A whole node of real agents over the simulated ring: pool, tiers, processors, log, dead letters.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::disk::SimDisk;
use super::frames;
use super::ring::SimRing;
use super::scenario::{FRAME_BYTES_MAX, HandlerManner, Scenario, UdpManner};
use super::scheduler::{Scheduler, SharedAgent};
use crate::bus::{self, Dispatch, TierOptions, TierReceiver, TierSender};
use crate::control::NodeGate;
use crate::ingest::{IngestCounters, Reactor, ReactorOptions, ReactorWiring, UdpSocketWiring};
use crate::metrics::ledger::{Ledger, LedgerCells};
use crate::metrics::{Measured, Sample};
use crate::pool::{ClassStrides, EventView, OwnerLayout, PoolOwner, SharedPool};
use crate::process::{
    Batch, BatchOptions, DedupOptions, HandlerError, HandlerMode, Inlet, ProcessCounters, ProcessorWiring, Realtime,
    RealtimeOptions, RetryOptions, Transactional, TransactionalHandler, TransactionalOptions, WindowLog, WindowLogOptions,
    WindowWriter,
};
use crate::storage::appender::{self, Appender, AppenderCounters, AppenderOptions, AppenderParts};
use crate::storage::dead_letter::{Collector, DeadLetterOptions, DeadLetterQueue};
use crate::storage::{LogIdentity, OpenLog, SegmentOptions};
use crate::sys::clock::{Clock, Nanos};
use crate::sys::io::Fd;
use crate::sys::memory::Arena;
use crate::wire::{FrameLimits, Tier};

/// Seats of the agents on the one runner.
pub mod seat {
    /// The reactor.
    pub const REACTOR: usize = 0;
    /// The processors, by tier.
    pub const PROCESSORS: [usize; 3] = [1, 2, 3];
    /// The appender, if there is one.
    pub const APPENDER: usize = 4;
}

/// A running node, with what the world needs of it.
pub struct SimNode {
    /// The listening socket.
    pub listener: Fd,
    /// Where urgent datagrams go, and others; the same where one socket takes all. `None`: no UDP.
    pub udp: Option<(Fd, Fd)>,
    /// The concrete reactor; its agent is seated.
    pub reactor: Rc<RefCell<Reactor>>,
    /// The concrete TRANSACTIONAL processor; its agent is seated.
    pub transactional: Rc<RefCell<Transactional>>,
    /// Each agent's part.
    pub ledgers: Vec<Arc<LedgerCells>>,
    /// The log, if events are stored.
    pub log: Option<OpenLog<SimDisk>>,
    /// Dead letters on their way.
    pub letters: DeadLetterQueue,
    /// Takes dead letters off their queue.
    pub collector: Collector,
    /// Writes closed windows.
    pub windows: WindowWriter,
    /// Every agent's counters.
    pub measured: Vec<Arc<dyn Measured>>,
}

impl SimNode {
    /// All counters by name and labels.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::new();
        let mut sink = |sample: Sample<'_>| {
            let labels: String = sample.labels.iter().map(|(_, value)| format!(" {value}")).collect();
            counters.insert(format!("{}{labels}", sample.name), sample.value);
        };
        self.measured.iter().for_each(|part| part.measure(&mut sink));
        counters
    }

    /// The ledger over all agents.
    pub fn ledger(&self) -> Ledger {
        Ledger::read(self.ledgers.iter().map(|cells| &**cells))
    }
}

/// Makes pool partitions: the reactor's, and the retry memory.
fn pool(scenario: &Scenario) -> (Arc<SharedPool>, PoolOwner, PoolOwner) {
    let strides = ClassStrides::new(FRAME_BYTES_MAX, scenario.chunk_bytes);
    let [small, medium, large] = scenario.slots;
    let gro_chunks = if scenario.udp == UdpManner::Gro { 2 } else { 0 };
    let udp_slots = if matches!(scenario.udp, UdpManner::One | UdpManner::Steered) { u32::from(scenario.udp_slots) } else { 0 };
    let chunks = u32::from(scenario.chunks) + gro_chunks;
    let reactor = OwnerLayout::with_kernel_slots([small, medium + udp_slots, large, chunks, scenario.parking], udp_slots);
    let [small, medium, large] = scenario.retry_slots;
    let layouts = [reactor, OwnerLayout::without_quotas([small, medium, large, 0, 0])];
    let arena = Arena::map(SharedPool::arena_bytes(&strides, &layouts)).expect("a simulated pool is small");
    let (shared, mut owners) = SharedPool::divide(arena, strides, &layouts);
    let retry = owners.pop().expect("two layouts, two owners");
    (shared, owners.pop().expect("two layouts, two owners"), retry)
}

/// Hands out what each part of a node needs.
struct Builder<'a> {
    scenario: &'a Scenario,
    ring: &'a SimRing,
    pool: Arc<SharedPool>,
    letters: DeadLetterQueue,
    process: Arc<ProcessCounters>,
    ingest: Arc<IngestCounters>,
    gate: Arc<NodeGate>,
    ledgers: Vec<Arc<LedgerCells>>,
    inlets: [Vec<appender::Inlet>; Tier::COUNT],
    appended: Arc<AppenderCounters>,
}

/// Builds the node of a scenario and seats its agents.
pub fn build(scenario: &Scenario, ring: &SimRing, scheduler: &mut Scheduler) -> SimNode {
    let (pool, reactor_pool, retry_pool) = pool(scenario);
    let options = DeadLetterOptions { queue_letters: scenario.letters, ..DeadLetterOptions::new("unused".into()) };
    let (letters, collector) = DeadLetterQueue::manual(&options, vec![pool.clone()]);
    let mut builder = Builder {
        scenario,
        ring,
        pool,
        letters,
        process: Arc::default(),
        ingest: Arc::default(),
        gate: Arc::default(),
        ledgers: Vec::new(),
        inlets: Default::default(),
        appended: Arc::default(),
    };
    let (senders, receivers) = tiers(scenario);
    let log = scenario.storage.then(|| builder.open_log());
    let (listener, udp, reactor) = builder.reactor(reactor_pool, senders, log.as_ref());
    scheduler.seat(reactor.clone());
    let [realtime, transactional, batch] = receivers;
    let wiring = builder.wiring(Tier::Realtime, realtime);
    scheduler.seat(shared(Realtime::new(RealtimeOptions::default(), Vec::new(), wiring).expect("no thread is started")));
    let transactional = builder.transactional(transactional, retry_pool);
    scheduler.seat(transactional.clone());
    let (batch, windows) = builder.batch(batch);
    scheduler.seat(batch);
    if let Some(log) = &log {
        scheduler.seat(builder.appender(log));
    }
    let Builder { letters, process, ingest, ledgers, appended, .. } = builder;
    let mut measured: Vec<Arc<dyn Measured>> = vec![process, ingest, appended, letters.counters().clone()];
    measured.extend(log.as_ref().map(|log| log.keeper_counters().clone() as Arc<dyn Measured>));
    SimNode { listener, udp, reactor, transactional, ledgers, log, letters, collector, windows, measured }
}

fn shared(agent: impl crate::agent::Agent<SimRing> + 'static) -> SharedAgent {
    Rc::new(RefCell::new(agent))
}

fn tiers(scenario: &Scenario) -> ([TierSender; Tier::COUNT], [TierReceiver; Tier::COUNT]) {
    let mut receivers = Vec::new();
    let senders = Tier::ALL.map(|tier| {
        let capacity_events = scenario.capacity[tier.index()];
        let high_water_events = if scenario.flow_control { (capacity_events * 2 / 5).max(1) } else { capacity_events };
        let overflow = scenario.overflow[tier.index()];
        let options = TierOptions { capacity_events, producers: 1, overflow, high_water_events };
        let (mut senders, receiver, _gauge) = bus::tier(options);
        receivers.push(receiver);
        senders.pop().expect("one producer, one sender")
    });
    (senders, receivers.try_into().expect("one receiver per tier"))
}

impl Builder<'_> {
    fn ledger(&mut self) -> Arc<LedgerCells> {
        self.ledgers.push(Arc::default());
        self.ledgers[self.ledgers.len() - 1].clone()
    }

    fn open_log(&self) -> OpenLog<SimDisk> {
        let identity = LogIdentity { node: 0, log_id: self.scenario.seed | 1, wall: self.ring.wall() };
        let segments = SegmentOptions {
            segment_bytes: self.scenario.segment_bytes,
            retention_bytes: self.scenario.retention_bytes,
            min_free_bytes: u64::from(self.scenario.min_free),
            ..SegmentOptions::default()
        };
        OpenLog::open(self.ring.disk(), identity, segments).expect("an empty disk")
    }

    #[allow(clippy::type_complexity)] // Three things that only `build` takes apart.
    fn reactor(
        &mut self,
        pool: PoolOwner,
        tiers: [TierSender; Tier::COUNT],
        log: Option<&OpenLog<SimDisk>>,
    ) -> (Fd, Option<(Fd, Fd)>, Rc<RefCell<Reactor>>) {
        let scenario = self.scenario;
        let gro = scenario.udp == UdpManner::Gro;
        let listener = self.ring.listen();
        let udp_sockets: Vec<UdpSocketWiring> = match scenario.udp {
            UdpManner::Absent => Vec::new(),
            UdpManner::One => vec![UdpSocketWiring { fd: self.ring.bind_datagrams(false), realtime: false }],
            UdpManner::Steered | UdpManner::Gro => {
                [true, false].map(|realtime| UdpSocketWiring { fd: self.ring.bind_datagrams(gro), realtime }).to_vec()
            }
        };
        let udp = udp_sockets.first().zip(udp_sockets.last()).map(|(urgent, rest)| (urgent.fd, rest.fd));
        let options = ReactorOptions {
            limits: FrameLimits { max_frame_bytes: FRAME_BYTES_MAX },
            connections_max: scenario.connections_max,
            tcp_flow_control: scenario.flow_control,
            tcp_chunks_offered: scenario.chunks,
            tcp_byte_cap: scenario.byte_cap,
            udp_slots: scenario.udp_slots,
            udp_gro_chunks: if gro { 2 } else { 0 },
            frame_deadline: scenario.frame_deadline,
            idle_deadline: scenario.idle_deadline,
            // Senders stop, so reading always ends by itself.
            drain_read_max: Nanos::from_millis(60_000),
            ..ReactorOptions::default()
        };
        let wiring = ReactorWiring {
            pool,
            listener: Some(listener),
            udp_sockets,
            dispatch: Dispatch::default(),
            tiers,
            dead_letters: self.letters.sender(0),
            gate: self.gate.clone(),
            ledger: self.ledger(),
            counters: self.ingest.clone(),
            id_base: u64::from(log.map_or(1, OpenLog::epoch)) << 48,
        };
        (listener, udp, Rc::new(RefCell::new(Reactor::new(options, wiring))))
    }

    fn wiring(&mut self, tier: Tier, receiver: TierReceiver) -> ProcessorWiring {
        let inlet = self.scenario.storage.then(|| {
            let (producer, consumer) = bus::lane(self.scenario.inlet_events);
            let (inlet, progress) = appender::Inlet::new(consumer);
            self.inlets[tier.index()].push(inlet);
            Inlet { producer, progress }
        });
        ProcessorWiring {
            receiver,
            inlet,
            pool: self.pool.clone(),
            ledger: self.ledger(),
            dead_letters: self.letters.sender(0),
            counters: self.process.clone(),
            runner: None,
        }
    }

    fn transactional(&mut self, receiver: TierReceiver, retry_pool: PoolOwner) -> Rc<RefCell<Transactional>> {
        let handler: Option<Box<dyn TransactionalHandler>> = match self.scenario.handler {
            HandlerManner::Absent => None,
            HandlerManner::Good => Some(Box::new(Moody { is_bad: false })),
            HandlerManner::Bad => Some(Box::new(Moody { is_bad: true })),
        };
        let options = TransactionalOptions {
            // Far more than the frames of a run: nothing is forgotten for lack of room.
            dedup: self.scenario.dedup.then(|| DedupOptions { capacity_keys: 32_768, ..DedupOptions::default() }),
            retry: RetryOptions { backoff: Nanos::from_millis(2), jitter_seed: self.scenario.seed, ..RetryOptions::default() },
            handler_panics_max: 4,
            ..TransactionalOptions::default()
        };
        let wiring = self.wiring(Tier::Transactional, receiver);
        Rc::new(RefCell::new(Transactional::new(options, handler, retry_pool, wiring).expect("no thread is started")))
    }

    fn batch(&mut self, receiver: TierReceiver) -> (SharedAgent, WindowWriter) {
        let options = WindowLogOptions { topics_max: 8, topic_bytes_max: 256, ..WindowLogOptions::new("/dev/null") };
        let (log, windows) = WindowLog::manual(&options, None, self.process.clone()).expect("/dev/null is always there");
        let options = BatchOptions { window: Nanos::from_millis(5) };
        (shared(Batch::new(options, log, self.wiring(Tier::Batch, receiver))), windows)
    }

    fn appender(&mut self, log: &OpenLog<SimDisk>) -> SharedAgent {
        let options = AppenderOptions {
            staging_bytes: AppenderOptions::staging_bytes_min(FRAME_BYTES_MAX as usize + 64),
            flush_events: self.scenario.flush_events,
            durability: self.scenario.durability,
            commit_bytes: 16 << 10,
            allocate_bytes: self.scenario.allocate_bytes,
            ..AppenderOptions::default()
        };
        let parts = AppenderParts {
            position: log.position(),
            status: log.status().clone(),
            inlets: std::mem::take(&mut self.inlets),
            pool: self.pool.clone(),
            ledger: self.ledger(),
            gate: self.gate.clone(),
            counters: self.appended.clone(),
        };
        shared(Appender::new(options, parts).expect("the staging buffers are small"))
    }
}

/// A handler whose mood follows from the frame: most are fine, some fail once or for ever, a few make it panic.
struct Moody {
    is_bad: bool,
}

impl TransactionalHandler for Moody {
    fn name(&self) -> &'static str {
        "moody"
    }

    fn mode(&self) -> HandlerMode {
        HandlerMode::Inline
    }

    fn handle(&mut self, event: &EventView<'_>) -> Result<(), HandlerError> {
        let sequence = frames::key_of(event.body).map_or(0, |key| key.sequence);
        match sequence % 16 {
            // A panic that does not call the panic hook: nothing is printed.
            3 if self.is_bad => std::panic::resume_unwind(Box::new("moody")),
            5 | 6 if self.is_bad => Err(HandlerError::new("never")),
            7..=9 if self.is_bad && event.header.attempts < 2 => Err(HandlerError::new("not yet")),
            _ => Ok(()),
        }
    }
}
