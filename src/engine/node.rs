//! One node's whole pipeline, made ready to run.
//!
//! ```text
//! partitions of the pool ─► reactors ═ tiers ═► processors ═ inlets ═► appender         seated on runners as the core plan says
//! ```
//!
//! Everything is made on the engine's thread and moved to the runners' threads; nothing is shared but what an Arc shows.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::options::{self, Producers};
use super::sessions::SharedSessions;
use super::{EngineError, Handlers};
use crate::bus::{self, BusCounters, Dispatch, TierGauge, TierReceiver, TierSender, TopicClasses};
use crate::config::{Config, OnOff};
use crate::control::{Control, ControlStatus, ControlWiring, LevelWatch, NodeGate, ShedByClass};
use crate::ingest::{IngestCounters, Producer, ProducerSeat, ProducerWiring, Reactor, ReactorWiring, UdpSocketWiring};
use crate::metrics::Measured;
use crate::metrics::latency::LatencyShared;
use crate::metrics::ledger::LedgerCells;
use crate::metrics::pulse::RunnerPulse;
use crate::metrics::window_gauges::WindowGauges;
use crate::pool::{PoolCounters, PoolMetrics, PoolOwner, PoolPlan, SharedPool, SlotClass};
use crate::process::{
    AlertLog, AlertLogOptions, Batch, Inlet, PollBudget, ProcessCounters, ProcessWatch, ProcessorWiring, Realtime, Rules,
    Transactional, WindowLog, duplicates_by_class,
};
use crate::runner::{AnyAgent, DrainControl, Runner, Seats};
use crate::storage::appender::{self, Appender, AppenderCounters, AppenderOptions, AppenderParts};
use crate::storage::dead_letter::DeadLetterQueue;
use crate::storage::producers::ProducerTable;
use crate::storage::{DiskFolder, OpenLog};
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::sys::features::Features;
use crate::sys::findings::Finding;
use crate::sys::io::{Fd, GroupId};
use crate::sys::plan::{NodePlan, Role, RunnerPlan, Seat};
use crate::sys::uring::Uring;
use crate::sys::wake::Waker;
use crate::wire::{FrameLimits, Tier};

/// Bits of the running number in an event id: a trillion events of one reactor between two starts.
const ID_NUMBER_BITS: u32 = 40;

/// Reactors and in-process producers of one engine: a producer's number is a byte in event ids.
pub(super) const PRODUCERS_MAX: u32 = 256;

/// The first id of a producer: epoch of the log (16 bits), the producer's number on this host (8 bits), running number (40 bits).
pub(super) fn event_id_base(epoch: u32, producer: u8) -> u64 {
    (u64::from(epoch & 0xffff) << 8 | u64::from(producer)) << ID_NUMBER_BITS
}

/// The sockets of one reactor.
pub(super) struct ReactorSockets {
    pub(super) listener: Option<OwnedFd>,
    /// Each with whether it is the one for REALTIME.
    pub(super) udp: Vec<(OwnedFd, bool)>,
}

/// What a node is built from.
pub(super) struct NodeParts<'a> {
    pub(super) number: u8,
    pub(super) config: &'a Config,
    pub(super) features: &'a Features,
    pub(super) plan: &'a NodePlan,
    pub(super) pool_plan: &'a PoolPlan,
    pub(super) pool: Arc<SharedPool>,
    pub(super) owners: Vec<PoolOwner>,
    pub(super) sockets: &'a [ReactorSockets],
    pub(super) producers: Producers,
    /// The number of this node's first reactor on this host.
    pub(super) first_reactor: u8,
    /// The number of the next in-process producer on this host.
    pub(super) next_producer: &'a mut u8,
    pub(super) dispatch: &'a Dispatch,
    /// For what is counted by topic class.
    pub(super) classes: &'a Arc<TopicClasses>,
    pub(super) dead_letters: &'a DeadLetterQueue,
    pub(super) log: Option<&'a OpenLog<DiskFolder>>,
    pub(super) sessions: &'a SharedSessions,
    /// What the logs know of producers, for the reactors that are not built yet.
    pub(super) past: &'a mut Vec<ProducerTable>,
    /// Distinguishes the ids of this start from those of others.
    pub(super) epoch: u32,
    pub(super) handlers: &'a Handlers,
    pub(super) control: &'a Arc<DrainControl>,
}

/// What the engine keeps of a node whose runners run.
pub(super) struct NodeView {
    pub(super) ledgers: Vec<Arc<LedgerCells>>,
    pub(super) measured: Vec<Arc<dyn Measured>>,
    pub(super) latencies: Vec<(&'static str, Arc<LatencyShared>)>,
    pub(super) pulses: Vec<Arc<RunnerPulse>>,
    pub(super) wakers: Vec<Waker>,
    pub(super) owners: Vec<Arc<PoolCounters>>,
    pub(super) appender: Option<Arc<AppenderCounters>>,
    pub(super) watch: ProcessWatch,
    pub(super) control: Arc<ControlStatus>,
    pub(super) level_watch: LevelWatch,
    /// The last closed windows, where a definition shows them.
    pub(super) windows: Option<Arc<WindowGauges>>,
    pub(super) findings: Vec<Finding>,
    /// Agents that report at each stage of the drain.
    pub(super) reactors: u32,
    pub(super) publishers: Vec<Arc<ProducerSeat>>,
    pub(super) service: Option<Arc<ProducerSeat>>,
}

impl NodeView {
    /// Of all in-process producers.
    pub(super) fn seats(&self) -> impl Iterator<Item = &Arc<ProducerSeat>> {
        self.publishers.iter().chain(&self.service)
    }
}

/// A runner and the CPU it belongs on.
pub(super) struct SeatedRunner {
    pub(super) runner: Runner,
    pub(super) name: String,
    pub(super) cpu: u32,
}

/// The lanes of one node.
struct Bus {
    /// Reactors first, then in-process producers, the service last; each by tier.
    senders: Vec<[TierSender; Tier::COUNT]>,
    receivers: [Option<TierReceiver>; Tier::COUNT],
    gauges: [TierGauge; Tier::COUNT],
}

fn make_bus(config: &Config, producers: &Producers, sleepers: &[Waker]) -> Bus {
    let (mut senders, mut receivers, mut gauges) = (Vec::new(), Vec::new(), Vec::new());
    for tier in Tier::ALL {
        let (tier_senders, mut receiver, gauge) = bus::tier(options::tier_options(config, tier, producers));
        if !sleepers.is_empty() {
            receiver.set_sleepers(sleepers.to_vec(), &gauge);
        }
        senders.push(tier_senders.into_iter());
        receivers.push(Some(receiver));
        gauges.push(gauge);
    }
    let array = |parts: Vec<_>| -> [TierSender; Tier::COUNT] { parts.try_into().expect("one sender for each tier") };
    let count = producers.reactors as usize + sleepers.len();
    let by_producer =
        (0..count).map(|_| array(senders.iter_mut().map(|tier| tier.next().expect("one for each producer")).collect()));
    Bus {
        senders: by_producer.collect(),
        receivers: receivers.try_into().expect("one receiver for each tier"),
        gauges: gauges.try_into().expect("one gauge for each tier"),
    }
}

/// Builds a node while its parts are handed out one by one.
struct Builder<'a> {
    parts: NodeParts<'a>,
    view: NodeView,
    process: Arc<ProcessCounters>,
    gate: Arc<NodeGate>,
    /// By reactor.
    ingest: Vec<Arc<IngestCounters>>,
    /// REALTIME's latency, once its processor is there.
    realtime: Option<Arc<LatencyShared>>,
    bus: Bus,
    /// The ends of the inlets, once the processors have taken theirs.
    inlets: [Vec<appender::Inlet>; Tier::COUNT],
    /// By runner: whom to wake.
    wakers: Vec<Waker>,
    /// By in-process producer, the service last.
    sleepers: Vec<Waker>,
    partitions: Vec<Option<PoolOwner>>,
}

/// Builds all agents of a node and seats them.
///
/// # Errors
/// What a ring, a thread or a file refuses.
pub(super) fn build(mut parts: NodeParts<'_>) -> Result<(Vec<SeatedRunner>, NodeView), EngineError> {
    let reactors = parts.sockets.len();
    let owners = std::mem::take(&mut parts.owners);
    let wakers = parts.plan.runners.iter().map(|_| Waker::new()).collect::<Result<Vec<_>, _>>();
    let wakers = wakers.map_err(|error| EngineError::io("make a runner's wake-up descriptor", error))?;
    let in_process = parts.producers.publishers + u32::from(parts.producers.service);
    let sleepers = (0..in_process).map(|_| Waker::new()).collect::<Result<Vec<_>, _>>();
    let sleepers = sleepers.map_err(|error| EngineError::io("make a publisher's wake-up descriptor", error))?;
    let process: Arc<ProcessCounters> = Arc::default();
    let counters: Vec<_> = owners.iter().map(PoolOwner::counters).collect();
    let thresholds = options::thresholds(parts.config);
    let control = Arc::new(ControlStatus::new(parts.number, thresholds, HostClock.now(), HostClock.wall()));
    let mut builder = Builder {
        bus: make_bus(parts.config, &parts.producers, &sleepers),
        view: NodeView {
            ledgers: Vec::new(),
            measured: vec![process.clone(), Arc::new(PoolMetrics::new(counters.clone())), control.clone()],
            latencies: Vec::new(),
            pulses: Vec::new(),
            wakers: wakers.clone(),
            owners: counters,
            appender: None,
            watch: ProcessWatch::new(process.clone(), Vec::new()),
            level_watch: LevelWatch::new(control.clone()),
            control,
            windows: None,
            findings: Vec::new(),
            reactors: reactors as u32,
            publishers: Vec::new(),
            service: None,
        },
        process,
        gate: Arc::default(),
        ingest: Vec::new(),
        realtime: None,
        inlets: Default::default(),
        wakers,
        sleepers,
        partitions: owners.into_iter().map(Some).collect(),
        parts,
    };
    let runners = builder.build()?;
    builder.view.measured.push(Arc::new(BusCounters::new(builder.bus.gauges.map(|gauge| vec![gauge]))));
    Ok((runners, builder.view))
}

impl Builder<'_> {
    fn build(&mut self) -> Result<Vec<SeatedRunner>, EngineError> {
        let plans = &self.parts.plan.runners;
        let mut seats: Vec<Vec<(Seat, AnyAgent)>> = plans.iter().map(|_| Vec::new()).collect();
        let mut health = Vec::new();
        // Upstream first: the appender comes when all inlets are known, control when everything is that it looks at, publishers among it.
        for role in Role::ALL {
            for (runner, plan) in plans.iter().enumerate() {
                for seat in plan.seats.iter().filter(|seat| seat.role == role) {
                    let agent = match role {
                        Role::Reactor => Some(self.reactor(*seat, runner)?),
                        Role::Realtime => Some(self.realtime(runner, &mut health)?),
                        Role::Transactional => Some(self.transactional(runner, &mut health)?),
                        Role::Batch => Some(self.batch(runner, &mut health)?),
                        Role::Appender => self.appender()?,
                        Role::Control => {
                            self.seat_producers();
                            Some(self.control())
                        }
                    };
                    seats[runner].extend(agent.map(|agent| (*seat, agent)));
                }
            }
        }
        self.view.watch = ProcessWatch::new(self.process.clone(), health);
        seats.into_iter().enumerate().map(|(index, seats)| self.runner(index, seats)).collect()
    }

    fn runner_of(&self, role: Role) -> usize {
        let has = |plan: &RunnerPlan| plan.seats.iter().any(|seat| seat.role == role);
        self.parts.plan.runners.iter().position(has).expect("C1: a plan has every role")
    }

    /// The waker of the runner with this role, unless that is `from` itself.
    fn waker_to(&self, role: Role, from: usize) -> Option<Waker> {
        let to = self.runner_of(role);
        (to != from).then(|| self.wakers[to].clone())
    }

    fn ledger(&mut self) -> Arc<LedgerCells> {
        let ledger: Arc<LedgerCells> = Arc::default();
        self.view.ledgers.push(ledger.clone());
        ledger
    }

    fn file(&self, name: &str) -> PathBuf {
        let file = match self.parts.number {
            0 => format!("{name}.jsonl"),
            node => format!("{name}.node{node}.jsonl"),
        };
        self.parts.config.data_dir.join(file)
    }

    fn reactor(&mut self, seat: Seat, runner: usize) -> Result<AnyAgent, EngineError> {
        let instance = usize::from(seat.instance);
        let mut senders = self.bus.senders.remove(0);
        self.wake_processors(&mut senders, Some(runner));
        let pool =
            self.partitions[self.parts.pool_plan.reactors().start + instance].take().expect("a partition for each reactor");
        self.parts.pool.set_waker(pool.id(), self.wakers[runner].clone());
        let counters = Arc::new(IngestCounters::default());
        self.ingest.push(counters.clone());
        let shed = Arc::new(ShedByClass::new(self.parts.classes));
        self.view.measured.extend([counters.clone() as Arc<dyn Measured>, shed.clone()]);
        let number = usize::from(self.parts.first_reactor) + instance;
        let past = self.parts.past.remove(0);
        let (sessions, told) = self
            .parts
            .sessions
            .of_reactor(number, self.wakers[runner].clone(), self.parts.log, past)
            .map_err(|error| EngineError::io("map the buffers of sessions", error))?;
        self.view.measured.push(told);
        self.view.latencies.push(("session", sessions.latency()));
        let sockets = &self.parts.sockets[instance];
        let wiring = ReactorWiring {
            pool,
            listener: sockets.listener.as_ref().map(|fd| Fd(fd.as_raw_fd())),
            udp_sockets: sockets
                .udp
                .iter()
                .map(|(fd, realtime)| UdpSocketWiring { fd: Fd(fd.as_raw_fd()), realtime: *realtime })
                .collect(),
            tiers: senders,
            dispatch: self.parts.dispatch.clone(),
            dead_letters: self.parts.dead_letters.sender(u32::from(self.parts.number)),
            gate: self.gate.clone(),
            ledger: self.ledger(),
            counters,
            shed,
            id_base: event_id_base(self.parts.epoch, self.parts.first_reactor + seat.instance),
            sessions,
        };
        let options = options::reactor(self.parts.config, self.parts.features);
        let agent = Reactor::new(options, wiring);
        self.view.latencies.push(("parsed", agent.parsed_latency()));
        Ok(AnyAgent::Reactor(Box::new(agent)))
    }

    /// Whoever wants to know that events are there for a tier's processor, on another thread.
    fn wake_processors(&self, senders: &mut [TierSender; Tier::COUNT], from: Option<usize>) {
        for (tier, role) in
            [(Tier::Realtime, Role::Realtime), (Tier::Transactional, Role::Transactional), (Tier::Batch, Role::Batch)]
        {
            let to = self.runner_of(role);
            if from != Some(to) {
                senders[tier.index()].set_waker(self.wakers[to].clone());
            }
        }
    }

    /// After the reactors, which have taken their lanes.
    fn seat_producers(&mut self) {
        let places: Vec<usize> = self.parts.pool_plan.producers().chain(self.parts.pool_plan.service()).collect();
        for (place, waker) in places.into_iter().zip(std::mem::take(&mut self.sleepers)) {
            let mut tiers = self.bus.senders.remove(0);
            self.wake_processors(&mut tiers, None);
            let pool = self.partitions[place].take().expect("a partition for each producer");
            self.parts.pool.set_waker(pool.id(), waker.clone());
            let shed = Arc::new(ShedByClass::new(self.parts.classes));
            self.view.measured.push(shed.clone());
            let producer = Producer::new(ProducerWiring {
                pool,
                limits: FrameLimits { max_frame_bytes: self.parts.config.max_frame_bytes.u32() },
                dispatch: self.parts.dispatch.clone(),
                tiers,
                dead_letters: self.parts.dead_letters.sender(u32::from(self.parts.number)),
                gate: self.gate.clone(),
                ledger: self.ledger(),
                shed,
                id_base: event_id_base(self.parts.epoch, *self.parts.next_producer),
            });
            // Wraps after the very last number only, which nobody gets then.
            *self.parts.next_producer = self.parts.next_producer.wrapping_add(1);
            let seat = ProducerSeat::new(producer, waker);
            if Some(place) == self.parts.pool_plan.service() {
                self.view.service = Some(seat);
            } else {
                self.view.publishers.push(seat);
            }
        }
    }

    /// What joins a processor to its tier and to the log.
    fn processor(&mut self, tier: Tier, runner: usize) -> ProcessorWiring {
        let inlet = self.parts.log.is_some().then(|| {
            let (mut producer, consumer) = bus::lane(options::INLET_EVENTS);
            if let Some(waker) = self.waker_to(Role::Appender, runner) {
                producer.set_waker(waker);
            }
            let (inlet, progress) = appender::Inlet::new(consumer);
            self.inlets[tier.index()].push(inlet);
            Inlet { producer, progress }
        });
        let duplicates = duplicates_by_class(self.parts.classes);
        self.view.measured.push(duplicates.clone());
        ProcessorWiring {
            receiver: self.bus.receivers[tier.index()].take().expect("a tier has one processor"),
            inlet,
            pool: self.parts.pool.clone(),
            ledger: self.ledger(),
            dead_letters: self.parts.dead_letters.sender(u32::from(self.parts.number)),
            counters: self.process.clone(),
            duplicates,
            gate: self.gate.clone(),
            budget: match runner == self.runner_of(Role::Realtime) {
                true => PollBudget::narrow(),
                false => PollBudget::by_level(self.gate.clone()),
            },
            runner: Some(self.wakers[runner].clone()),
        }
    }

    fn realtime(&mut self, runner: usize, health: &mut Vec<Arc<crate::process::HandlerHealth>>) -> Result<AnyAgent, EngineError> {
        let mut handlers: Vec<_> = self.parts.handlers.alerts.iter().map(|make| make(self.parts.number)).collect();
        let path = self.file("alerts");
        if !self.parts.config.rules.is_empty() {
            let options = options::rules(self.parts.config, path.clone());
            let rules = Rules::start(&self.parts.config.rules, &options)
                .map_err(|error| EngineError::file("start the rules, or open", &path, error))?;
            self.view.measured.extend(rules.measured());
            handlers.push(Box::new(rules));
        } else if self.parts.handlers.stock_alert_log {
            let log = AlertLog::open(&AlertLogOptions::new(&path)).map_err(|error| EngineError::file("open", &path, error))?;
            self.view.measured.push(log.counters());
            handlers.push(Box::new(log));
        }
        let wiring = self.processor(Tier::Realtime, runner);
        let agent = Realtime::new(options::realtime(self.parts.config), handlers, wiring)
            .map_err(|error| EngineError::io("start the helper of REALTIME", error))?;
        self.view.latencies.extend([("realtime", agent.latency()), ("realtime_taken", agent.taken_latency())]);
        self.realtime = Some(agent.latency());
        self.view.measured.extend(agent.measured());
        health.extend(agent.health().iter().cloned());
        Ok(AnyAgent::Realtime(Box::new(agent)))
    }

    fn transactional(
        &mut self,
        runner: usize,
        health: &mut Vec<Arc<crate::process::HandlerHealth>>,
    ) -> Result<AnyAgent, EngineError> {
        let (handlers, number) = (self.parts.handlers, self.parts.number);
        let make = handlers.transactional.as_ref();
        let place = self.parts.pool_plan.retry().expect("the plan of a node has retry memory");
        let retry_memory = self.partitions[place].take().expect("the retry memory has one user");
        let wiring = self.processor(Tier::Transactional, runner);
        // Any number that differs between starts: jitter only has to differ between hosts.
        let seed = HostClock.wall().0 ^ u64::from(self.parts.number);
        let refused = |error| EngineError::io("start the helper of TRANSACTIONAL", error);
        let handler = make.map(|make| make(number));
        let options = options::transactional(self.parts.config, seed);
        let mut agent = Transactional::new(options, handler, retry_memory, wiring).map_err(refused)?;
        agent.return_outcomes_to(self.parts.sessions.returns());
        for make in make.into_iter().cycle().take(usize::from(handlers.spare_transactional_threads)) {
            agent.add_spare(make(number)).map_err(refused)?;
        }
        self.view.latencies.push(("trans", agent.latency()));
        self.view.measured.extend(agent.measured());
        health.extend(agent.health().iter().cloned());
        Ok(AnyAgent::Transactional(Box::new(agent)))
    }

    fn batch(&mut self, runner: usize, health: &mut Vec<Arc<crate::process::HandlerHealth>>) -> Result<AnyAgent, EngineError> {
        let handler = self.parts.handlers.windows.as_ref().map(|make| make(self.parts.number));
        let path = self.file("windows");
        let log = WindowLog::open(
            &options::window_log(self.parts.config, path.clone(), self.parts.number),
            handler,
            self.process.clone(),
        )
        .map_err(|error| EngineError::file("open", &path, error))?;
        health.extend(log.health().cloned());
        self.view.measured.extend(log.measured());
        self.view.windows = log.gauges().cloned();
        let wiring = self.processor(Tier::Batch, runner);
        let agent = Batch::new(options::batch(self.parts.config), log, wiring);
        self.view.latencies.push(("batch", agent.latency()));
        Ok(AnyAgent::Batch(Box::new(agent)))
    }

    fn appender(&mut self) -> Result<Option<AnyAgent>, EngineError> {
        let Some(log) = self.parts.log else { return Ok(None) };
        let counters: Arc<AppenderCounters> = Arc::default();
        let largest = self.parts.pool.strides().payload_bytes(SlotClass::Large);
        let parts = AppenderParts {
            position: log.position(),
            status: log.status().clone(),
            inlets: std::mem::take(&mut self.inlets),
            pool: self.parts.pool.clone(),
            ledger: self.ledger(),
            gate: self.gate.clone(),
            counters: counters.clone(),
        };
        let options = AppenderOptions { sync_method: log.sync_method(), ..options::appender(self.parts.config, largest) };
        let agent = Appender::new(options, parts).map_err(|error| EngineError::io("map the staging buffers", error))?;
        let stages = agent.latencies();
        let names = [
            ["realtime_staged", "trans_staged", "batch_staged"],
            ["realtime_written", "trans_written", "batch_written"],
            ["realtime_durable", "trans_durable", "batch_durable"],
        ];
        for (names, histograms) in names.iter().zip([&stages.staged, &stages.written, &stages.durable]) {
            self.view.latencies.extend(names.iter().copied().zip(histograms.iter().cloned()));
        }
        self.view.measured.push(counters.clone());
        self.view.measured.push(log.keeper_counters().clone());
        self.view.appender = Some(counters);
        Ok(Some(AnyAgent::Appender(Box::new(agent))))
    }

    fn control(&mut self) -> AnyAgent {
        let wiring = ControlWiring {
            tiers: self.bus.gauges.clone(),
            ledgers: self.view.ledgers.clone(),
            ingest: self.ingest.clone(),
            realtime: self.realtime.clone().expect("C1: a plan has every role, and REALTIME's is built before"),
            gate: self.gate.clone(),
            status: self.view.control.clone(),
        };
        AnyAgent::Control(Box::new(Control::new(options::thresholds(self.parts.config), wiring)))
    }

    fn runner(&mut self, index: usize, mut seats: Vec<(Seat, AnyAgent)>) -> Result<SeatedRunner, EngineError> {
        seats.sort_by_key(|(seat, _)| *seat);
        let plan = &self.parts.plan.runners[index];
        let config = self.parts.config;
        // Control sits with somebody else, and does not give a runner its name.
        let roles: Vec<String> = plan.seats.iter().filter(|seat| seat.role != Role::Control).map(Seat::to_string).collect();
        let name = match roles.len() {
            1 => format!("n{}-{}", self.parts.number, roles[0].replace(' ', "")),
            _ => format!("n{}-runner{index}", self.parts.number),
        };
        let has_reactor = plan.seats.iter().any(|seat| seat.role == Role::Reactor);
        let mut ring = Uring::new(&options::ring_options(config, name.clone(), has_reactor), self.parts.features)
            .map_err(EngineError::Ring)?;
        self.view.measured.push(ring.counters());
        if has_reactor {
            let group_entries = |buffers: u32| u16::try_from(buffers.next_power_of_two()).expect("bounded by the configuration");
            ring.register_group(GroupId::Tcp, group_entries(options::chunks_on_offer(config))).map_err(EngineError::Ring)?;
            if config.udp_gro == OnOff::On {
                ring.register_group(GroupId::UdpGro, group_entries(crate::pool::UDP_GRO_CHUNKS)).map_err(EngineError::Ring)?;
            } else {
                ring.register_group(GroupId::Udp, group_entries(config.udp_slots)).map_err(EngineError::Ring)?;
            }
        }
        for (_, agent) in &mut seats {
            if let AnyAgent::Appender(appender) = agent {
                let mut buffers: Vec<_> = appender.staging_buffers().collect();
                if let Err(errno) = ring.register_staging(&mut buffers) {
                    self.view.findings.push(super::unregistered_staging(errno));
                }
            }
        }
        let pulse = Arc::new(RunnerPulse::new(name.clone(), HostClock.now()));
        self.view.pulses.push(pulse.clone());
        let runner = Runner {
            ring,
            seats: Seats::new(seats.into_iter().map(|(_, agent)| agent).collect()),
            waker: self.wakers[index].clone(),
            pulse,
            control: self.parts.control.clone(),
            idle: options::idle(config),
            min_wait: Nanos::from_micros(u64::from(config.min_wait_us)),
        };
        Ok(SeatedRunner { runner, name, cpu: plan.cpu })
    }
}
