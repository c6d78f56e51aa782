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
use super::source_oracle::SourceBook;
use crate::bus::{self, Dispatch, TierGauge, TierOptions, TierReceiver, TierSender};
use crate::control::{Control, ControlStatus, ControlWiring, NodeGate, ShedByClass};
use crate::ingest::{
    IngestCounters, Producer, ProducerWiring, Reactor, ReactorOptions, ReactorWiring, SessionCounters, SessionOptions,
    SessionWiring, Sessions, UdpSocketWiring,
};
use crate::metrics::latency::LatencyShared;
use crate::metrics::ledger::{Counter, Ledger, LedgerCells};
use crate::metrics::{Measured, Sample};
use crate::pool::{ClassStrides, EventView, OwnerLayout, PoolOwner, Returns, SharedPool};
use crate::process::{
    Batch, BatchOptions, ClosedWindow, DedupBy, DedupOptions, GroupBy, HandlerError, HandlerMode, Inlet, PollBudget,
    ProcessCounters, ProcessorWiring, Realtime, RealtimeOptions, RetryOptions, RetryOrder, RetryPolicy, Transactional,
    TransactionalHandler, TransactionalOptions, WindowDefinition, WindowHandler, WindowLog, WindowLogOptions, WindowWriter,
    duplicates_by_class,
};
use crate::storage::OpenLog;
use crate::storage::appender::{self, Appender, AppenderCounters, AppenderOptions, AppenderParts};
use crate::storage::dead_letter::{Collector, DeadLetterOptions, DeadLetterQueue};
use crate::storage::producers::ProducerTable;
use crate::sys::clock::{Clock, Nanos};
use crate::sys::io::Fd;
use crate::sys::memory::Arena;
use crate::wire::session::AckLevel;
use crate::wire::{FrameLimits, Tier};

/// Small: a hundred runs in a test make a hundred tables.
const KEYED: DedupOptions = DedupOptions { capacity_keys: 1_024, ..DedupOptions::KEYED };

/// Seats of the agents on the one runner.
pub mod seat {
    /// The reactor.
    pub const REACTOR: usize = 0;
    /// The processors, by tier.
    pub const PROCESSORS: [usize; 3] = [1, 2, 3];
    /// Control.
    pub const CONTROL: usize = 4;
    /// The appender, if there is one.
    pub const APPENDER: usize = 5;
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
    /// What control tells.
    pub control: Arc<ControlStatus>,
    /// For publishers, the service's last.
    pub producers: Vec<Producer>,
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
    /// BATCH events that came out of windows.
    pub windowed: Arc<Counter>,
    /// The reactor's counters, which are among all.
    pub ingest: Arc<IngestCounters>,
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

/// Producers that the node's sessions remember: more than there are.
const PRODUCERS: u32 = 16;
/// A batch of some ten events is a bulk write.
const BULK_BYTES: usize = 1 << 10;

/// Events of the service lanes.
const SERVICE_LANE_EVENTS: usize = 4;

/// Makes pool partitions: the reactor's, the retry memory, and the publishers'.
fn pool(scenario: &Scenario) -> (Arc<SharedPool>, PoolOwner, PoolOwner, Vec<PoolOwner>) {
    let strides = ClassStrides::new(FRAME_BYTES_MAX, scenario.chunk_bytes);
    let [small, medium, large] = scenario.slots;
    let gro_chunks = if scenario.udp == UdpManner::Gro { 2 } else { 0 };
    let udp_slots = if matches!(scenario.udp, UdpManner::One | UdpManner::Steered) { u32::from(scenario.udp_slots) } else { 0 };
    let chunks = u32::from(scenario.chunks) + gro_chunks;
    let reactor = OwnerLayout::with_kernel_slots([small, medium + udp_slots, large, chunks, scenario.parking], udp_slots);
    let [small, medium, large] = scenario.retry_slots;
    let mut layouts = vec![reactor, OwnerLayout::without_quotas([small, medium, large, 0, 0])];
    let [small, medium, large] = scenario.publisher_slots;
    let publisher = OwnerLayout::with_kernel_slots([small, medium, large, 0, 0], 0);
    layouts.resize(2 + scenario.publishers.len() + usize::from(scenario.service.is_some()), publisher);
    let arena = Arena::map(SharedPool::arena_bytes(&strides, &layouts)).expect("a simulated pool is small");
    let (shared, mut owners) = SharedPool::divide(arena, strides, &layouts);
    let publishers = owners.split_off(2);
    let retry = owners.pop().expect("an owner for each layout");
    (shared, owners.pop().expect("an owner for each layout"), retry, publishers)
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
    shed: Arc<ShedByClass>,
    ledgers: Vec<Arc<LedgerCells>>,
    inlets: [Vec<appender::Inlet>; Tier::COUNT],
    appended: Arc<AppenderCounters>,
    windowed: Arc<Counter>,
    sessions: Arc<SessionCounters>,
    returns: Returns,
}

/// Builds the node of a scenario over its open log, and seats its agents.
pub fn build(scenario: &Scenario, ring: &SimRing, scheduler: &mut Scheduler, log: Option<OpenLog<SimDisk>>) -> SimNode {
    let (pool, reactor_pool, retry_pool, publisher_pools) = pool(scenario);
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
        shed: Arc::new(ShedByClass::new(&Arc::default())),
        ledgers: Vec::new(),
        inlets: Default::default(),
        appended: Arc::default(),
        windowed: Arc::default(),
        sessions: Arc::default(),
        returns: Returns::new(1),
    };
    let (mut senders, receivers, gauges) = tiers(scenario);
    let (listener, udp, reactor) = builder.reactor(reactor_pool, senders.remove(0), log.as_ref());
    scheduler.seat(reactor.clone());
    let [realtime, transactional, batch] = receivers;
    let wiring = builder.wiring(Tier::Realtime, realtime);
    let options = RealtimeOptions { keyed: KEYED, ..RealtimeOptions::default() };
    let realtime = Realtime::new(options, Vec::new(), wiring).expect("no thread is started");
    let latency = realtime.latency();
    scheduler.seat(shared(realtime));
    let transactional = builder.transactional(transactional, retry_pool);
    scheduler.seat(transactional.clone());
    let (batch, windows) = builder.batch(batch);
    scheduler.seat(batch);
    let (agent, control) = builder.control(gauges, latency);
    scheduler.seat(agent);
    if let Some(log) = &log {
        scheduler.seat(builder.appender(log));
    }
    let producers = publisher_pools.into_iter().zip(senders).enumerate();
    let producers = producers.map(|(number, (pool, tiers))| builder.producer(number, pool, tiers, log.as_ref())).collect();
    let Builder { letters, process, ingest, shed, ledgers, appended, windowed, sessions, .. } = builder;
    let mut measured: Vec<Arc<dyn Measured>> =
        vec![process, ingest.clone(), sessions, shed, appended, letters.counters().clone(), control.clone()];
    measured.extend(log.as_ref().map(|log| log.keeper_counters().clone() as Arc<dyn Measured>));
    SimNode {
        listener,
        udp,
        reactor,
        transactional,
        control,
        producers,
        ledgers,
        log,
        letters,
        collector,
        windows,
        windowed,
        ingest,
        measured,
    }
}

fn shared(agent: impl crate::agent::Agent<SimRing> + 'static) -> SharedAgent {
    Rc::new(RefCell::new(agent))
}

type Tiers = (Vec<[TierSender; Tier::COUNT]>, [TierReceiver; Tier::COUNT], [TierGauge; Tier::COUNT]);

/// The reactor's senders first, then those of each publisher.
fn tiers(scenario: &Scenario) -> Tiers {
    let (mut receivers, mut gauges) = (Vec::new(), Vec::new());
    let mut by_tier = Tier::ALL.map(|tier| {
        let capacity_events = scenario.capacity[tier.index()];
        let (senders, receiver, gauge) = bus::tier(TierOptions {
            capacity_events,
            producers: 1 + scenario.publishers.len(),
            overflow: scenario.overflow[tier.index()],
            high_water_events: if scenario.flow_control { (capacity_events * 2 / 5).max(1) } else { capacity_events },
            service_lane_events: if scenario.service.is_some() { SERVICE_LANE_EVENTS } else { 0 },
        });
        receivers.push(receiver);
        gauges.push(gauge);
        senders.into_iter()
    });
    let producers = 1 + scenario.publishers.len() + usize::from(scenario.service.is_some());
    let of_producer = |_| by_tier.each_mut().map(|senders| senders.next().expect("a sender for each producer"));
    let senders = (0..producers).map(of_producer).collect();
    let gauges = gauges.try_into().expect("one gauge per tier");
    (senders, receivers.try_into().expect("one receiver per tier"), gauges)
}

impl Builder<'_> {
    fn ledger(&mut self) -> Arc<LedgerCells> {
        self.ledgers.push(Arc::default());
        self.ledgers[self.ledgers.len() - 1].clone()
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
            source_limits: scenario.source_limits,
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
        self.ring.with_sources(|book| *book = SourceBook::new(scenario.source_limits, scenario.connections_max));
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
            shed: self.shed.clone(),
            id_base: id_base(log, 0),
            sessions: self.sessions(log),
        };
        (listener, udp, Rc::new(RefCell::new(Reactor::new(options, wiring))))
    }

    /// The sessions of the one reactor. What outcomes take the way over the retry memory is the same queue at both ends.
    fn sessions(&mut self, log: Option<&OpenLog<SimDisk>>) -> Sessions {
        let mut producers = ProducerTable::new(PRODUCERS);
        let known = log.into_iter().flat_map(|log| log.producers().iter());
        known.for_each(|(producer, window)| producers.absorb(producer, window));
        let wiring = SessionWiring {
            producers,
            returns: self.returns.clone(),
            store: log.map(|log| log.status().clone()),
            counters: self.sessions.clone(),
            ..SessionWiring::alone()
        };
        let scenario = self.scenario;
        let level_max = if log.is_some() { AckLevel::Durable } else { AckLevel::Accepted };
        let options =
            SessionOptions { seats: scenario.seats, window: scenario.session_window, level_max, ..SessionOptions::default() };
        Sessions::new(options, wiring).expect("a few small mappings")
    }

    fn producer(
        &mut self,
        number: usize,
        pool: PoolOwner,
        tiers: [TierSender; Tier::COUNT],
        log: Option<&OpenLog<SimDisk>>,
    ) -> Producer {
        Producer::new(ProducerWiring {
            pool,
            limits: FrameLimits { max_frame_bytes: FRAME_BYTES_MAX },
            dispatch: Dispatch::default(),
            tiers,
            dead_letters: self.letters.sender(0),
            gate: self.gate.clone(),
            ledger: self.ledger(),
            shed: Arc::new(ShedByClass::new(&Arc::default())),
            id_base: id_base(log, 1 + number as u64),
        })
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
            duplicates: duplicates_by_class(&Arc::default()),
            gate: self.gate.clone(),
            budget: match (self.scenario.wide_budgets, tier) {
                (true, _) => PollBudget::ByLevel(self.gate.clone()),
                (false, Tier::Batch) => PollBudget::Wide,
                (false, _) => PollBudget::Narrow,
            },
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
            dedup_by: self.scenario.dedup.then_some(DedupBy::Content),
            dedup: DedupOptions { capacity_keys: 32_768, ..DedupOptions::default() },
            keyed: KEYED,
            retry: RetryOptions {
                policy: RetryPolicy { backoff: Nanos::from_millis(2), ..RetryPolicy::default() },
                // Drawn apart from the scenario, so that all else stays as it was.
                order: if self.scenario.seed.is_multiple_of(3) { RetryOrder::Topic } else { RetryOrder::None },
                jitter_seed: self.scenario.seed,
            },
            handler_panics_max: 4,
            ..TransactionalOptions::default()
        };
        let wiring = self.wiring(Tier::Transactional, receiver);
        let mut agent = Transactional::new(options, handler, retry_pool, wiring).expect("no thread is started");
        agent.return_outcomes_to(self.returns.clone());
        Rc::new(RefCell::new(agent))
    }

    fn batch(&mut self, receiver: TierReceiver) -> (SharedAgent, WindowWriter) {
        let options = WindowLogOptions { path: None, definitions: windows_of(self.scenario.seed), ..WindowLogOptions::new("") };
        let handler = Box::new(CountWindowed(self.windowed.clone()));
        let (log, windows) = WindowLog::manual(&options, Some(handler), self.process.clone()).expect("no file is opened");
        (shared(Batch::new(BatchOptions { keyed: KEYED }, log, self.wiring(Tier::Batch, receiver))), windows)
    }

    fn control(&self, tiers: [TierGauge; Tier::COUNT], realtime: Arc<LatencyShared>) -> (SharedAgent, Arc<ControlStatus>) {
        let thresholds = self.scenario.thresholds;
        let status = Arc::new(ControlStatus::new(0, thresholds, self.ring.now(), self.ring.wall()));
        let wiring = ControlWiring {
            tiers,
            ledgers: self.ledgers.clone(),
            ingest: vec![self.ingest.clone()],
            realtime,
            gate: self.gate.clone(),
            status: status.clone(),
        };
        (shared(Control::new(thresholds, wiring)), status)
    }

    fn appender(&mut self, log: &OpenLog<SimDisk>) -> SharedAgent {
        let options = AppenderOptions {
            staging_bytes: AppenderOptions::staging_bytes_min(FRAME_BYTES_MAX as usize + 64),
            flush_events: self.scenario.flush_events,
            bulk_bytes: BULK_BYTES,
            durability: self.scenario.durability,
            sync_method: self.scenario.sync_method,
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

/// The first id of a producer: the log's epoch, the producer's number, a running number.
fn id_base(log: Option<&OpenLog<SimDisk>>, producer: u64) -> u64 {
    u64::from(log.map_or(1, OpenLog::epoch)) << 48 | producer << 40
}

/// The name of the definition that counts every BATCH event once.
const EVERY_EVENT: &str = "every-event";

/// The windows of a node: topics, too many for their rows, side by side or sliding by the seed; and all as one.
fn windows_of(seed: u64) -> Vec<WindowDefinition> {
    let slide = Nanos::from_millis(5);
    let length = if seed.is_multiple_of(2) { slide } else { Nanos(slide.0 * 3) };
    let topics = WindowDefinition { slide, groups_max: 8, group_bytes_max: 256, ..WindowDefinition::topics(length) };
    let every = WindowDefinition {
        name: EVERY_EVENT.to_owned(),
        group_by: GroupBy::Filter,
        length: Nanos::from_millis(7),
        slide: Nanos::from_millis(7),
        ..topics.clone()
    };
    vec![topics, every]
}

/// Counts the events of windows that lie side by side, each of which holds an event once.
struct CountWindowed(Arc<Counter>);

impl WindowHandler for CountWindowed {
    fn name(&self) -> &'static str {
        "count_windowed"
    }

    fn window_closed(&mut self, window: &ClosedWindow<'_>) {
        if window.definition == EVERY_EVENT {
            self.0.add(window.events);
        }
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
