//! The engine: from a configuration to running threads, and back to a balanced account.
//!
//! ```text
//! start:  host, plan, budget ─► data folder, logs ─► arenas ─► dead letters ─► sockets ─► nodes ─► runner threads ─► admin
//! stop:   publishers, reactors ─► processors ─► appenders ─► runners leave ─► handlers, dead letters ─► logs closed ─► account
//! ```
//!
//! Invariants:
//! - **E1** Nothing outside the data folder's lock is changed before the lock is held, and nothing at all when the start is refused for
//!   the host, the plan or the budget.
//! - **E2** The stop follows the flow: a part is told to drain only when everything before it is drained (or the time is up).
//! - **E3** Arenas are unmapped only after every ring has come to rest (P3 in [`crate::pool`]); where one doesn't, its node's memory is
//!   left to the end of the process.
//! - **E4** The account is made after every agent has ended, from their cells and their hands.
//!
//! What it does not do: handle signals, print, choose exit codes (that is `commands/serve`).

#![forbid(unsafe_code)]

mod builder;
mod error;
mod ground;
mod node;
mod options;
mod replay;
mod sessions;
mod stop;
mod store_facts;
mod store_watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

pub use builder::EngineBuilder;
pub use error::EngineError;
pub use ground::survey;
pub use replay::{ReplayRefusal, Replayer};

use crate::bus::{Dispatch, TopicClasses, TopicFilter};
use crate::config::{Config, OnOff};
use crate::control::LevelReading;
use crate::ingest::{Producer, ProducerSeat, Publisher};
use crate::metrics::admin::{AdminServer, LetterIntake};
use crate::metrics::telemetry::{LogPosition, PipelineState, Reading, Telemetry};
use crate::pool::SharedPool;
use crate::process::{AlertHandler, DedupBy, TransactionalHandler, WindowHandler, quiet_handler_panics};
use crate::report::{DrainCause, DrainSummary, StartReport};
use crate::runner::{DrainControl, RunnerEnd, Seats, Stage};
use crate::storage::appender::Durability;
use crate::storage::dead_letter::DeadLetterQueue;
use crate::storage::folder::DataFolder;
use crate::storage::status::StoreState;
use crate::storage::{DiskFolder, LogIdentity, OpenLog};
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::sys::features::Feature;
use crate::sys::findings::{Finding, Severity};
use crate::sys::io::Errno;
use crate::sys::memory::{Arena, ArenaOptions, HugePages};
use crate::sys::process::{IoWorkers, helper_thread_setup, pin_current_thread};
use crate::sys::socket::{ListenOptions, UDP_PAIRS_MAX, UdpOptions, bind_udp, listen};
use crate::sys::uring::RingRefusal;
use crate::wire::{Priority, Tier};
use ground::{Ground, reactors_of};
use node::{NodeParts, NodeView, ReactorSockets, SeatedRunner};
use store_watch::StoreWatch;

/// How often handlers and duplicates are looked at: a line each at most.
const HANDLERS_LOOK_EVERY: Nanos = Nanos::from_millis(1_000);

/// Makes a handler for each node, by the node's number.
type PerNode<H> = Box<dyn Fn(u8) -> Box<H>>;

/// What runs on events, beside what the engine brings along. Filled by the builder.
struct Handlers {
    /// On every REALTIME event, in this order.
    alerts: Vec<PerNode<dyn AlertHandler>>,
    /// On every TRANSACTIONAL event.
    transactional: Option<PerNode<dyn TransactionalHandler>>,
    /// Spare threads for an offloaded `transactional`, each with a handler of its own from the same maker. They get work while a node's
    /// level is ELEVATED or above; events are not handled in order meanwhile. Default 0.
    spare_transactional_threads: u8,
    /// On every closed window.
    windows: Option<PerNode<dyn WindowHandler>>,
    /// Whether REALTIME events go to the alert log, `alerts.jsonl` in the data folder. Rules of the configuration take its place.
    stock_alert_log: bool,
}

/// One node while it runs.
struct RunningNode {
    view: NodeView,
    log: Option<OpenLog<DiskFolder>>,
    store_watch: StoreWatch,
    pool: Arc<SharedPool>,
}

type RunnerThread = JoinHandle<Result<Seats, RunnerEnd>>;

/// A running engine. Ends by [`Engine::stop`] or [`Engine::drain`], which give its account; one that is dropped is stopped too.
#[must_use = "dropping an engine stops it"]
pub struct Engine {
    nodes: Vec<RunningNode>,
    runners: Vec<(String, RunnerThread)>,
    control: Arc<DrainControl>,
    /// `None` once the engine has stopped.
    dead_letters: Option<DeadLetterQueue>,
    admin: Option<AdminServer>,
    telemetry: Arc<Telemetry>,
    /// Those not yet handed out.
    publishers: Vec<Publisher>,
    /// The engine's own, for dead letters that are sent again: until the admin endpoint has it. Its lanes are beside the tiers' capacities
    /// (T4 in [`crate::bus::tier`]), its part of the pool is small.
    service_publisher: Option<Publisher>,
    /// Open until the reactors are done with them.
    sockets: Vec<Vec<ReactorSockets>>,
    drain_timeout: Nanos,
    udp_drops_are_exact: bool,
    /// When handlers are looked at next.
    handlers_look_at: Nanos,
    io_workers: IoWorkers,
    /// Last: the lock on the data folder.
    _folder: DataFolder,
}

/// Staging buffers that could not be registered cost a page walk for each write, and nothing else.
fn unregistered_staging(errno: Errno) -> Finding {
    Finding::problem(
        Severity::Info,
        "registered staging buffers",
        "pinned once",
        format!("refused: {errno}"),
        "LimitMEMLOCK=infinity in the unit file, or `ulimit -l unlimited`",
    )
}

impl Engine {
    /// What an engine can be told before it starts.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::new()
    }

    /// Starts everything. On return events are taken in.
    fn start(config: &Config, handlers: &Handlers, publishers: u32) -> Result<(Engine, StartReport), EngineError> {
        config.check(publishers).map_err(EngineError::Config)?;
        quiet_handler_panics();
        let mut ground = Ground::survey(config, publishers)?;
        let folder = DataFolder::open(&config.data_dir, ground.plan.nodes.len() as u32).map_err(EngineError::Folder)?;
        let mut report = StartReport { data_dir: Some(config.data_dir.clone()), ..StartReport::default() };
        let logs = open_logs(config, &folder, ground.plan.nodes.len(), &mut report)?;
        let mut divided = divide_arenas(config, &mut ground)?;
        let pools: Vec<_> = divided.iter().map(|(pool, _)| pool.clone()).collect();
        let letters = options::dead_letters(config);
        let dead_letters = DeadLetterQueue::start(&letters, pools.clone(), helper_thread_setup).map_err(EngineError::Folder)?;
        let sockets = open_sockets(config, &mut ground, &mut report)?;
        let control: Arc<DrainControl> = Arc::default();
        let dispatch = dispatch(config)?;
        let classes: Arc<TopicClasses> = Arc::new(config.topic_classes().map_err(EngineError::Config)?);
        let started_epoch = HostClock.wall().0 / 1_000_000_000;

        let reactors = ground.producers.iter().map(|node| node.reactors as usize).sum();
        let sessions = sessions::SharedSessions::new(config, reactors)?;
        let mut past = sessions::of_the_past(config, logs.iter().flatten(), reactors);

        let (mut nodes, mut seated, mut first_reactor) = (Vec::new(), Vec::new(), 0u8);
        let mut next_producer = ground.producers.iter().map(|node| node.reactors as u8).sum();
        for (number, log) in logs.into_iter().enumerate() {
            let (pool, owners) = divided.remove(0);
            let parts = NodeParts {
                number: number as u8,
                config,
                features: &ground.features,
                plan: &ground.plan.nodes[number],
                pool_plan: &ground.pools[number],
                pool: pool.clone(),
                owners,
                sockets: &sockets[number],
                producers: ground.producers[number],
                first_reactor,
                next_producer: &mut next_producer,
                dispatch: &dispatch,
                classes: &classes,
                dead_letters: &dead_letters,
                log: log.as_ref(),
                sessions: &sessions,
                past: &mut past,
                epoch: log.as_ref().map_or(started_epoch as u32, OpenLog::epoch),
                handlers,
                control: &control,
            };
            first_reactor += sockets[number].len() as u8;
            let (runners, mut view) = node::build(parts)?;
            ground.findings.append(&mut view.findings);
            seated.extend(runners);
            nodes.push(RunningNode { view, log, store_watch: StoreWatch::new(number as u8), pool });
        }
        if config.strict == OnOff::On
            && let Some(finding) = ground.findings.iter().find(|finding| finding.severity >= Severity::Warning)
        {
            return Err(EngineError::Strict(finding.clone()));
        }
        let telemetry = Arc::new(telemetry(config.durability, &nodes, &dead_letters, &control));
        let runners = start_runners(seated, &control, config, &mut report)?;
        let publishers = nodes.iter().flat_map(|node| &node.view.publishers).cloned().map(Publisher::new).collect();
        let service_publisher = nodes.iter().find_map(|node| node.view.service.clone()).map(Publisher::new);
        let mut engine = Engine {
            nodes,
            runners,
            control,
            dead_letters: Some(dead_letters),
            admin: None,
            telemetry,
            publishers,
            service_publisher,
            sockets,
            drain_timeout: Nanos::from_millis(config.drain_timeout_ms),
            udp_drops_are_exact: config.udp_gro == OnOff::Off,
            handlers_look_at: Nanos(0),
            io_workers: IoWorkers::default(),
            _folder: folder,
        };
        if let Some(address) = config.admin_listen {
            let replayer = engine.service_publisher.take().map(Replayer::new);
            let letters = replayer.map(|replayer| Box::new(move |line: &[u8]| replayer.offer_line(line)) as LetterIntake);
            match AdminServer::start(address, engine.telemetry.clone(), letters, helper_thread_setup) {
                Ok(admin) => engine.admin = Some(admin),
                Err(refusal) => {
                    engine.drain(DrainCause::RunnerEnded("the admin endpoint could not be started".into()));
                    return Err(EngineError::Admin(refusal));
                }
            }
        }
        report.admin = engine.admin.as_ref().map(AdminServer::address);
        report.plan = ground.plan.to_string();
        report.budget = ground.budget.to_string();
        let worth_saying = ground.findings.iter().filter(|finding| finding.severity != Severity::Ok);
        report.findings = worth_saying.map(ToString::to_string).collect();
        report.notes.extend(dedup_note(config));
        report
            .notes
            .extend((!engine.publishers.is_empty()).then(|| format!("publishers in this process: {}", engine.publishers.len())));
        Ok((engine, report))
    }

    /// Where the admin endpoint listens, if it does.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminServer::address)
    }

    /// The publishers that the builder was told of. Each is handed out once: a second call gives none.
    pub fn publishers(&mut self) -> Vec<Publisher> {
        std::mem::take(&mut self.publishers)
    }

    /// Everything that the engine tells of itself.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Looks after the engine: whether something has ended it, and what is worth a log line (each change of level among it); and sets the
    /// kernel's workers free. Call about four times a second; handlers and duplicates are looked at once a second.
    pub fn watch(&mut self, say: &mut dyn FnMut(log::Level, String)) -> Option<DrainCause> {
        let now = HostClock.now();
        let looks_at_handlers = now >= self.handlers_look_at;
        self.io_workers.set_free();
        if looks_at_handlers {
            self.handlers_look_at = now + HANDLERS_LOOK_EVERY;
        }
        for node in &mut self.nodes {
            if looks_at_handlers {
                node.view.watch.look(say);
            }
            node.view.level_watch.look(say);
            if let Some(log) = &node.log {
                node.store_watch.look(log.status().state(), say);
            }
        }
        self.failure()
    }

    /// Why the engine can't go on, if it can't.
    fn failure(&self) -> Option<DrainCause> {
        for log in self.nodes.iter().filter_map(|node| node.log.as_ref()) {
            if let StoreState::Failed { operation, errno } = log.status().state() {
                return Some(DrainCause::StoreFailed(format!("{} failed: {errno}", operation.name())));
            }
        }
        let ended = self.runners.iter().find(|(_, thread)| thread.is_finished());
        ended.map(|(name, _)| DrainCause::RunnerEnded(name.clone()))
    }

    /// As [`Engine::drain`], because the program says so.
    pub fn stop(self) -> DrainSummary {
        self.drain(DrainCause::Asked)
    }

    fn seats(&self) -> impl Iterator<Item = &Arc<ProducerSeat>> {
        self.nodes.iter().flat_map(|node| node.view.seats())
    }

    /// Stops taking events from publishers (U3 in `ingest::publisher`).
    fn close_publishers(&self) -> Vec<Producer> {
        self.seats().filter_map(|seat| seat.close()).collect()
    }

    /// Stops taking events, finishes what has arrived, closes everything, and makes the account.
    pub fn drain(mut self, cause: DrainCause) -> DrainSummary {
        stop::drain(&mut self, cause)
    }
}

impl Drop for Engine {
    /// Its threads use descriptors and memory that it owns, so they end before it does.
    fn drop(&mut self) {
        if self.dead_letters.is_some() {
            let account = stop::drain(self, DrainCause::Asked);
            if !account.is_clean() {
                log::error!("an engine was dropped, and its end was not clean:\n{account}");
            }
        }
    }
}

fn open_logs(
    config: &Config,
    folder: &DataFolder,
    nodes: usize,
    report: &mut StartReport,
) -> Result<Vec<Option<OpenLog<DiskFolder>>>, EngineError> {
    if config.storage == OnOff::Off {
        report.data_dir = None;
        return Ok((0..nodes).map(|_| None).collect());
    }
    let mut logs = Vec::new();
    let (sync_method, probed) = store_facts::sync_method(config, folder.path());
    for node in 0..nodes {
        let identity = LogIdentity::random(node as u32, HostClock.wall());
        if config.accept_data_loss == OnOff::On {
            let mended = folder.mend_log(identity, false).map_err(EngineError::Folder)?;
            report.logs.extend(mended.iter().map(ToString::to_string));
        }
        let mut log = folder.open_log(identity, options::segments(config)).map_err(EngineError::Folder)?;
        log.set_sync_method(sync_method);
        log.start_keeper(helper_thread_setup).map_err(|error| EngineError::io("start the keeper of a log", error))?;
        report.logs.push(log.describe());
        logs.push(Some(log));
    }
    report.logs.extend(probed);
    Ok(logs)
}

type Divided = (Arc<SharedPool>, Vec<crate::pool::PoolOwner>);

fn divide_arenas(config: &Config, ground: &mut Ground) -> Result<Vec<Divided>, EngineError> {
    let mut divided = Vec::new();
    for (node, pool) in ground.plan.nodes.iter().zip(&ground.pools) {
        let wanted = match config.huge_pages {
            HugePages::Auto if !ground.features.has(Feature::HugePages) => HugePages::Off,
            wanted => wanted,
        };
        let (arena, findings) = Arena::reserve(&ArenaOptions {
            bytes: pool.arena_bytes(),
            huge_pages: wanted,
            node: Some((&ground.topology, node.memory_node)),
            prefault: true,
        })
        .map_err(EngineError::Arena)?;
        ground.findings.extend(findings);
        divided.push(SharedPool::divide(arena, pool.strides, &pool.layouts));
    }
    Ok(divided)
}

/// One listener and one pair of datagram sockets for each reactor, on one port each; the kernel spreads connections and flows.
fn open_sockets(config: &Config, ground: &mut Ground, report: &mut StartReport) -> Result<Vec<Vec<ReactorSockets>>, EngineError> {
    let reactors: u32 = ground.plan.nodes.iter().map(reactors_of).sum();
    let mut tcp = config.tcp_listen;
    let (mut general, mut urgent) = (Vec::new().into_iter(), Vec::new().into_iter());
    if let Some(address) = config.udp_listen {
        let options = UdpOptions {
            pairs: reactors.min(UDP_PAIRS_MAX),
            steered: ground.features.has(Feature::Steering),
            receive_buffer_bytes: config.udp_receive_buffer_bytes.u32(),
            gro: config.udp_gro == OnOff::On,
            ..UdpOptions::default()
        };
        let bound = bind_udp(address, &options).map_err(EngineError::Socket)?;
        report.udp = Some(bound.addr);
        if bound.receive_buffer_bytes < options.receive_buffer_bytes {
            ground.findings.push(Finding::problem(
                Severity::Info,
                "udp receive buffer",
                format!("{} KiB", options.receive_buffer_bytes >> 10),
                format!("{} KiB granted", bound.receive_buffer_bytes >> 10),
                "sysctl -w net.core.rmem_max=…, or CAP_NET_ADMIN",
            ));
        }
        if bound.general.len() < reactors as usize {
            ground.findings.push(Finding::problem(
                Severity::Warning,
                "udp sockets",
                "one for each reactor",
                "the kernel does not let them share the port",
                "a kernel with SO_REUSEPORT for datagrams; until then one reactor takes them all",
            ));
        }
        (general, urgent) = (bound.general.into_iter(), bound.urgent.into_iter());
    }
    let mut nodes = Vec::new();
    for node in &ground.plan.nodes {
        let mut sockets = Vec::new();
        for _ in 0..reactors_of(node) {
            let mut listener = None;
            if let Some(address) = tcp {
                let options = ListenOptions { shared_port: reactors > 1, ..ListenOptions::default() };
                let bound = listen(address, &options).map_err(EngineError::Socket)?;
                (tcp, report.tcp) = (Some(bound.addr), Some(bound.addr));
                listener = Some(bound.fd);
            }
            let datagrams = urgent.next().map(|fd| (fd, true)).into_iter().chain(general.next().map(|fd| (fd, false)));
            sockets.push(ReactorSockets { listener, udp: datagrams.collect() });
        }
        nodes.push(sockets);
    }
    Ok(nodes)
}

fn dispatch(config: &Config) -> Result<Dispatch, EngineError> {
    let overrides: Result<Vec<(TopicFilter, Priority)>, _> =
        config.topics.iter().map(|topic| TopicFilter::parse(&topic.filter).map(|filter| (filter, topic.priority))).collect();
    let overrides = overrides.map_err(|refusal| EngineError::Topics(refusal.to_string()))?;
    Dispatch::new(overrides).map_err(|duplicate| EngineError::Topics(duplicate.to_string()))
}

fn dedup_note(config: &Config) -> Option<String> {
    let options = options::transactional(config, 0);
    let known_by = match options.dedup_by? {
        DedupBy::Content => "content".to_owned(),
        DedupBy::Prefix(bytes) => format!("topic and the first {bytes} bytes of the body"),
        DedupBy::Pointer(pointer) => format!("topic and the body's {pointer}"),
    };
    let rate = 100_000;
    let seconds = options.dedup.effective_window(rate).0 / 1_000_000_000;
    Some(format!(
        "dedup by {known_by} on TRANSACTIONAL: {} keys, {} s at most; at {rate} new events/s that is a window of {seconds} s",
        options.dedup.capacity_keys,
        config.dedup_window_ms / 1000,
    ))
}

fn telemetry(
    durability: Durability,
    nodes: &[RunningNode],
    dead_letters: &DeadLetterQueue,
    control: &Arc<DrainControl>,
) -> Telemetry {
    let views = || nodes.iter().map(|node| &node.view);
    let mut measured: Vec<_> = views().flat_map(|view| view.measured.iter().cloned()).collect();
    measured.push(dead_letters.counters().clone());
    let logs = nodes.iter().enumerate().filter_map(|(number, node)| node.log.as_ref().map(|log| (number, log)));
    let stores: Vec<_> = logs.clone().map(|(_, log)| log.status().clone()).collect();
    let held: Vec<_> = views().map(|view| (view.owners.clone(), view.appender.clone())).collect();
    let seats: Vec<_> = views().flat_map(NodeView::seats).cloned().collect();
    let control = control.clone();
    let levels: Vec<_> = views().map(|view| view.control.clone()).collect();
    Telemetry {
        ledgers: views().flat_map(|view| view.ledgers.iter().cloned()).collect(),
        measured,
        latencies: views().flat_map(|view| view.latencies.iter().cloned()).collect(),
        pulses: views().flat_map(|view| view.pulses.iter().cloned()).collect(),
        windows: views().filter_map(|view| view.windows.clone()).collect(),
        logs: logs
            .map(|(number, log)| {
                let (status, sync) = (log.status().clone(), store_facts::sync_name(durability, log.sync_method()));
                let read = move || LogPosition {
                    node: number as u8,
                    written_sequence: status.written_sequence(),
                    durable_sequence: status.durable_sequence(),
                    sync,
                };
                Box::new(read) as Box<dyn Fn() -> LogPosition + Send + Sync>
            })
            .collect(),
        in_flight: Box::new(move || {
            // An idle publisher does not look at what came home. It waits for this if it awakes just now, which an agent never does.
            seats.iter().for_each(|seat| seat.look_after());
            let node = |(owners, appender): &(Vec<Arc<crate::pool::PoolCounters>>, _)| {
                let slots: u64 = owners.iter().map(|owner| owner.events_out.get()).sum();
                slots
                    + Option::<&Arc<crate::storage::appender::AppenderCounters>>::map_or(Option::as_ref(appender), 0, |a| {
                        a.staged_events.get()
                    })
            };
            held.iter().map(node).sum()
        }),
        levels: levels.iter().cloned().map(|status| Box::new(move || status.reading()) as Reading<LevelReading>).collect(),
        state: Box::new(move || {
            let is_running = |status: &Arc<crate::storage::status::StoreStatus>| status.state() == StoreState::Running;
            let level = levels.iter().map(|status| status.reading().level).max().unwrap_or_default();
            PipelineState::of(control.stage() != Stage::Running, stores.iter().all(is_running), level)
        }),
        started_at: HostClock.now(),
    }
}

/// Starts the threads, and waits until each has its ring.
fn start_runners(
    seated: Vec<SeatedRunner>,
    control: &Arc<DrainControl>,
    config: &Config,
    report: &mut StartReport,
) -> Result<Vec<(String, RunnerThread)>, EngineError> {
    let mut threads: Vec<(String, RunnerThread)> = Vec::new();
    let mut answers: Vec<Receiver<Result<(), RingRefusal>>> = Vec::new();
    let mut refused = None;
    let wakers: Vec<_> = seated.iter().map(|seated| seated.runner.waker.clone()).collect();
    for SeatedRunner { runner, name, cpu } in seated {
        let (started, answer) = sync_channel(1);
        let strict = config.strict == OnOff::On;
        let (pinned, pin_answer) = sync_channel(1);
        let body = move || {
            let pin = pin_current_thread(cpu);
            let may_run = pin.is_ok() || !strict;
            let _ = pinned.send(pin);
            if may_run { runner.run(&started) } else { Err(RunnerEnd::NotStarted) }
        };
        match std::thread::Builder::new().name(name.clone()).spawn(body) {
            Ok(thread) => threads.push((name, thread)),
            Err(error) => {
                refused = Some(EngineError::io("start a runner's thread", error));
                break;
            }
        }
        if let Ok(Err(refusal)) = pin_answer.recv() {
            if strict {
                refused = Some(EngineError::Pin(refusal));
                break;
            }
            report.notes.push(format!("not pinned: {refusal}"));
        }
        answers.push(answer);
    }
    for answer in answers {
        match answer.recv() {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => refused = Some(EngineError::Ring(refusal)),
            Err(_) => refused = refused.or(Some(EngineError::RunnerPanicked)),
        }
    }
    match refused {
        None => Ok(threads),
        Some(error) => {
            control.advance(Stage::Done);
            // Those that have started may be parked already, and without a deadline for ever.
            wakers.iter().for_each(|waker| waker.notify());
            threads.into_iter().for_each(|(_, thread)| drop(thread.join()));
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;

/// The tiers' names in the account.
const _: () = assert!(Tier::COUNT == 3, "latency names above are given for three tiers");
