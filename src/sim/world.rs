//! A run of a seed: a node, its clients, the oracles after every step, the drain, and the reckoning.

use std::collections::BTreeMap;

use super::clients::{Account, TcpClient, UdpClient};
use super::damage;
use super::disk::SimDisk;
use super::lives::{Death, is_sync_failed, open_log};
use super::node::{self, SimNode, seat};
use super::oracle::{self, Arrivals, LogRules};
use super::publishers::SimPublisher;
use super::ring::SimRing;
use super::rng::Rng;
use super::scenario::{FRAME_BYTES_MAX, HandlerManner, Scenario};
use super::scheduler::Scheduler;
use super::session_client::{SessionClient, SessionLoad};
use super::session_oracle::{self, Ground};
use crate::control::Level;
use crate::metrics::ledger::LedgerTerms;
use crate::pool::Source;
use crate::storage::StoreState;
use crate::storage::format::BATCH_HEADER_BYTES;
use crate::storage::node_reader::{NodeReader, verify};
use crate::sys::clock::{Clock, Nanos};
use crate::wire::session::AckLevel;

/// Steps in which a run must have come to its end; the usual is some ten thousand, but a level that holds a connection for a minute takes
/// millions of polls.
const STEPS_MAX: u64 = 60_000_000;

/// The longest that clients are waited for: some never get a descriptor, as silent ones keep them all.
const LIVE_MAX: Nanos = Nanos::from_millis(3_000);

/// The longest that the engine may take to come to rest by itself and back to HEALTHY: what was lost is seen for 10 s, and four levels
/// are left with a dwell each, which doubles with each return.
const CALM_MAX: Nanos = Nanos::from_millis(120_000);

/// The longest time in which a disk stays full.
const FULL_MAX: Nanos = Nanos::from_millis(100);

/// Steps between two looks at the watermarks, which read the whole log.
const WATERMARKS_EVERY: u64 = 500;

/// How often it fills up in a run.
const FILLS_MAX: u32 = 3;

/// What a run came to, for tests that ask whether the simulation reaches what it is there for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The ledger's terms, summed.
    pub terms: LedgerTerms,
    /// All counters of the agents, by name and labels.
    pub counters: BTreeMap<String, u64>,
    /// Steps taken.
    pub steps: u64,
    /// A digest of the log's bytes, so that two runs can be compared.
    pub log_checksum: u32,
}

/// Runs a scenario to its end.
///
/// # Panics
/// If an oracle is violated, an agent makes a mistake towards the kernel, or the run does not come to its end.
pub fn run(scenario: &Scenario) -> Outcome {
    let mut world = World::new(scenario);
    if world.live() {
        world.settle();
    }
    world.drain();
    world.reckon()
}

pub(super) struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) rng: Rng,
    pub(super) ring: SimRing,
    pub(super) scheduler: Scheduler,
    pub(super) node: SimNode,
    account: Account,
    pub(super) tcp: Vec<TcpClient>,
    pub(super) udp: Vec<UdpClient>,
    pub(super) publishers: Vec<SimPublisher>,
    pub(super) sessions: Vec<SessionClient>,
    /// What earlier lives came to.
    pub(super) past: Past,
    /// The deaths that are still to come, the next one last.
    deaths: Vec<&'a Death>,
    life: Life,
    /// When the disk has room again, if it is full.
    full_until: Option<Nanos>,
    /// How often the disk may still fill up.
    fills_left: u32,
    /// When the drain comes, once all clients are done.
    live_until: Option<Nanos>,
    /// Clients hold still.
    clients_rest: bool,
    /// Nothing will happen any more by itself.
    is_stuck: bool,
    /// The seats that are draining.
    stage: &'static [usize],
    steps: u64,
}

/// What is of one life of the node.
#[derive(Debug, Default)]
struct Life {
    /// Steps before it.
    began: u64,
    /// The first sequence of its records.
    first_sequence: u64,
    /// Written and durable, as last seen (O7).
    watermarks: (u64, u64),
}

/// What lives came to that have ended.
#[derive(Debug, Default)]
pub(super) struct Past {
    terms: LedgerTerms,
    counters: BTreeMap<String, u64>,
}

impl Past {
    /// Adds a life.
    pub(super) fn add(&mut self, node: &SimNode) {
        self.terms.add(&node.ledger().total());
        self.add_counters(node.counters());
    }

    /// One more of these.
    pub(super) fn count(&mut self, name: &str) {
        *self.counters.entry(name.to_owned()).or_default() += 1;
    }

    fn add_counters(&mut self, counters: BTreeMap<String, u64>) {
        counters.into_iter().for_each(|(name, count)| *self.counters.entry(name).or_default() += count);
    }
}

impl<'a> World<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed);
        let ring = SimRing::new(rng.next_u64(), scenario.faults.clone());
        let mut scheduler = Scheduler::new(ring.clone(), rng.fork(), scenario.pace);
        let log = scenario.storage.then(|| open_log(scenario, &ring, &ring.disk()).expect("an empty disk"));
        let mut node = node::build(scenario, &ring, &mut scheduler, log);
        let mut account = Account::default();
        let mut tcp = Vec::new();
        for (manner, frames, mix) in &scenario.tcp {
            tcp.push(TcpClient::new(*manner, node.listener, *frames, mix.clone(), &mut account, rng.fork()));
        }
        let mut udp = Vec::new();
        for (datagrams, mix) in scenario.udp_clients.iter().filter(|_| node.udp.is_some()) {
            let sockets = node.udp.expect("filtered above");
            udp.push(UdpClient::new(sockets, *datagrams, 2000, mix.clone(), &mut account, rng.fork()));
        }
        let loads = scenario.publishers.iter().chain(&scenario.service).cloned();
        let producers = std::mem::take(&mut node.producers);
        let publisher = |(producer, (frames, mix))| SimPublisher::new(producer, frames, mix, &mut account, rng.fork());
        let publishers = producers.into_iter().zip(loads).map(publisher).collect();
        let session = |load: &SessionLoad| SessionClient::new(load.clone(), node.listener, &mut account, rng.fork());
        let sessions = scenario.sessions.iter().map(session).collect();
        let fills_left = if scenario.disk_fills { FILLS_MAX } else { 0 };
        Self {
            scenario,
            rng,
            ring,
            scheduler,
            node,
            account,
            tcp,
            udp,
            publishers,
            sessions,
            past: Past::default(),
            deaths: scenario.deaths.iter().rev().collect(),
            life: Life::default(),
            full_until: None,
            fills_left,
            live_until: None,
            clients_rest: false,
            is_stuck: false,
            stage: &[],
            steps: 0,
        }
    }

    /// A life has begun.
    pub(super) fn begin_life(&mut self) {
        let status = self.node.log.as_ref().map(|log| log.status().written_sequence());
        self.life = Life { began: self.steps, first_sequence: status.unwrap_or(0), watermarks: (0, 0) };
        (self.full_until, self.live_until, self.is_stuck) = (None, None, false);
    }

    /// Steps since then.
    pub(super) fn steps_of_life(&self) -> u64 {
        self.steps - self.life.began
    }

    /// Until all clients are done, and a while longer on some seeds; through all deaths. False: the drain is to come in the middle of it.
    fn live(&mut self) -> bool {
        let early = self.scenario.early_drain.then(|| self.rng.between(50..=8_000));
        let began = self.ring.now();
        while self.ring.now().since(began) < LIVE_MAX {
            if early.is_some_and(|steps| self.steps >= steps) {
                self.deaths.clear();
                return false;
            }
            self.step();
            if self.deaths.last().is_some_and(|death| self.must_die(death))
                && let Some(death) = self.deaths.pop()
            {
                self.die(death);
            }
            if self.clients_next().is_none() {
                // Long enough for deadlines to pass, on some seeds.
                let patience = *self.rng.pick(&[0, 5, 300]);
                let until = *self.live_until.get_or_insert(self.ring.now() + Nanos::from_millis(patience));
                if self.ring.now() >= until {
                    break;
                }
            }
        }
        self.deaths.clear();
        true
    }

    /// O8: without a drain everything that arrived gets its outcome.
    fn settle(&mut self) {
        self.mend_disk();
        self.live_until = None;
        self.is_stuck = false;
        self.clients_rest = true;
        let began = self.ring.now();
        // A level may hold connections until it is left; that is bounded by its dwell and by how far back it looks.
        while self.rest() > 0 || self.node.control.reading().level > Level::Healthy {
            self.step();
            let is_in_time = self.ring.now().since(began) < CALM_MAX && !self.is_stuck;
            let level = self.node.control.reading().level;
            assert!(is_in_time, "O8: {} without an outcome, {level:?}:\n{}", self.rest(), self.scheduler.describe());
        }
        self.clients_rest = false;
    }

    /// Where it stands, for a failing seed.
    fn describe(&self) -> String {
        let level = self.node.control.reading().level;
        let clients = self.clients_next();
        format!(
            "{level:?}, {} without an outcome, clients next at {clients:?}, full until {:?}\n{}",
            self.rest(),
            self.full_until,
            self.scheduler.describe()
        )
    }

    /// What is unread or in flight.
    fn rest(&self) -> u64 {
        let holding = self.scheduler.holding();
        let is_settled = u64::from(!self.scheduler.is_settled());
        self.ring.unread() as u64 + holding.events + holding.staged + is_settled
    }

    /// From now on the disk has room.
    fn mend_disk(&mut self) {
        self.fills_left = 0;
        self.full_until = None;
        self.ring.disk().set_full(false);
    }

    fn drain(&mut self) {
        self.mend_disk();
        self.live_until = None;
        self.publishers.iter_mut().for_each(SimPublisher::close);
        let stages: [&[usize]; 3] = [&[seat::CONTROL, seat::REACTOR], &seat::PROCESSORS, &[seat::APPENDER]];
        for stage in &stages[..if self.scenario.storage { 3 } else { 2 }] {
            stage.iter().for_each(|seat| self.scheduler.drain(*seat));
            self.stage = stage;
            while !self.is_stage_over() {
                self.step();
            }
        }
        while self.help() {}
    }

    /// Whether the agents of this stage are drained; before the drain, whether the load is over.
    fn is_stage_over(&self) -> bool {
        match self.stage {
            [] => self.clients_next().is_none(),
            stage => stage.iter().all(|seat| self.scheduler.is_drained(*seat)),
        }
    }

    /// One thing happens, and the oracles look.
    fn step(&mut self) {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "does not come to its end: {}", self.describe());
        match self.rng.below(16) {
            0..=2 => self.client(),
            3 => drop(self.help()),
            4 => self.fill_disk(),
            _ => self.scheduler.step(),
        }
        if self.ring.disk().has_stopped() {
            return; // Somebody dies now.
        }
        if self.scheduler.is_settled() {
            oracle::check_balance(&self.node.ledger(), self.scheduler.holding());
        }
        if let Some(log) = self.node.log.as_ref() {
            oracle::check_monotone(log.status(), &mut self.life.watermarks);
            if self.steps.is_multiple_of(WATERMARKS_EVERY) {
                oracle::check_watermarks(log.status(), &self.ring.disk(), &mut self.rng);
                if self.rng.chance(300) {
                    self.check_sessions(self.sound_level(), &self.ring.disk());
                }
            }
        }
        if self.scheduler.is_quiet() {
            self.jump();
        }
    }

    fn client(&mut self) {
        if self.clients_rest {
            return;
        }
        let (tcp, udp) = (self.tcp.len(), self.udp.len());
        let others = tcp + udp + self.publishers.len();
        let who = self.rng.index(others + self.sessions.len());
        if who < tcp {
            self.tcp[who].act(&self.ring, &mut self.account);
        } else if who < tcp + udp {
            self.udp[who - tcp].act(&self.ring, &mut self.account);
        } else if who >= others {
            self.sessions[who - others].act(&self.ring, &mut self.account);
        } else if self.publishers[who - tcp - udp].act(&self.ring, &mut self.account) {
            // Into the lanes, past the ring: any processor may be concerned.
            self.scheduler.stir();
        }
    }

    /// The helper threads' part: a dead letter, or a closed window. False: nothing waits for them.
    fn help(&mut self) -> bool {
        let sink: &mut dyn FnMut(&[u8]) -> bool = &mut |_| true;
        let letter = self.node.collector.collect(self.ring.now(), self.ring.wall(), sink).is_some();
        let (now, wall) = (self.ring.now(), self.ring.wall());
        let death = self.deaths.last().filter(|death| self.steps_of_life() >= death.after_steps);
        if let Some(changes) = death.and_then(|death| death.in_keeper) {
            self.ring.disk().stop_after(changes);
        }
        let kept = self.node.log.as_mut().and_then(|log| log.keeper()).is_some_and(|keeper| keeper.work(now, wall));
        if !kept || !self.ring.disk().has_stopped() {
            self.ring.disk().permit_changes();
        }
        let helped = self.node.windows.write_next() || letter || kept;
        if helped {
            self.scheduler.stir();
        }
        helped
    }

    fn fill_disk(&mut self) {
        match self.full_until {
            None if self.fills_left > 0 && self.rng.chance(5) => {
                self.fills_left -= 1;
                self.full_until = Some(self.ring.now() + Nanos(self.rng.below(FULL_MAX.0)));
                self.ring.disk().set_full(true);
            }
            Some(until) if self.ring.now() >= until => {
                self.full_until = None;
                self.ring.disk().set_full(false);
            }
            _ => {}
        }
    }

    fn clients_next(&self) -> Option<Nanos> {
        let tcp = self.tcp.iter().filter_map(TcpClient::next_at);
        let udp = self.udp.iter().filter_map(UdpClient::next_at);
        let sessions = self.sessions.iter().filter_map(SessionClient::next_at);
        let next = tcp.chain(udp).chain(sessions).chain(self.publishers.iter().filter_map(SimPublisher::next_at)).min();
        next.filter(|_| !self.clients_rest)
    }

    /// Nothing can happen now: on to what happens next (Y1).
    fn jump(&mut self) {
        if self.help() {
            return;
        }
        let next =
            [self.scheduler.next_time(), self.clients_next(), self.full_until, self.live_until].into_iter().flatten().min();
        // Where the stage is over the next one begins in a moment.
        let Some(next) = next else {
            self.is_stuck = true;
            assert!(self.is_stage_over(), "nothing will ever happen again:\n{}", self.scheduler.describe());
            return;
        };
        self.scheduler.jump(next);
    }

    // -- sessions --

    /// The lowest level whose promise holds as long as the process lives, and if it is killed.
    pub(super) fn sound_level(&self) -> AckLevel {
        let has_failed_sync = self.node.log.as_ref().is_some_and(|log| is_sync_failed(log.status().state()));
        if has_failed_sync { AckLevel::Durable } else { AckLevel::Written }
    }

    /// O12, of what this disk has.
    pub(super) fn check_sessions(&self, holds: AckLevel, disk: &SimDisk) {
        if self.sessions.is_empty() {
            return;
        }
        let (stored, ground) = (oracle::read_log(disk), self.ground(holds, disk));
        self.sessions.iter().for_each(|client| session_oracle::check_told(&stored, client, ground));
    }

    fn ground(&self, holds: AckLevel, disk: &SimDisk) -> Ground {
        let faults = &self.scenario.faults;
        Ground {
            holds,
            given_up: NodeReader::open(disk.clone(), 0).expect("a log").next_sequence(),
            store_may_fail: faults.write_error + faults.sync_error > 0,
        }
    }

    // -- the reckoning --

    fn reckon(mut self) -> Outcome {
        self.sessions.iter_mut().for_each(|client| client.hear_the_rest(&self.ring));
        let ledger = self.node.ledger();
        oracle::check_balance(&ledger, self.scheduler.holding());
        let total = ledger.total();
        assert_eq!(total.received, total.outcomes(), "O1: something is still in flight after the drain");
        let (least, most) = self.arrivals();
        oracle::check_receipts(&ledger, &least, &most);
        self.check_letters(&total);
        self.check_rest();
        let counters = self.node.counters();
        assert_eq!(self.node.windowed.get(), counters["events_processed batch"], "O9: BATCH events in windows, and processed");
        let log_checksum = self.check_log();
        self.publishers.iter().for_each(|publisher| self.past.add_counters(publisher.counters().clone()));
        self.sessions.iter().for_each(|client| self.past.add_counters(client.counters()));
        self.past.add_counters(counters);
        self.past.terms.add(&total);
        Outcome { terms: self.past.terms, counters: self.past.counters, steps: self.steps, log_checksum }
    }

    /// What agents must have received, and what they may have: bytes that came after the engine itself ended a connection need not be
    /// looked at.
    fn arrivals(&self) -> (Arrivals, Arrivals) {
        let (mut least, mut most) = (Arrivals::default(), Arrivals::default());
        for conn in self.tcp.iter().filter_map(TcpClient::conn) {
            let delivered = self.ring.delivered(conn);
            least.add(Source::Tcp, &delivered.bytes[..delivered.before_shutdown], FRAME_BYTES_MAX as usize);
            most.add(Source::Tcp, &delivered.bytes, FRAME_BYTES_MAX as usize);
        }
        let sockets = self.node.udp.map_or(Vec::new(), |(urgent, rest)| vec![urgent, rest]);
        for (place, socket) in sockets.iter().enumerate() {
            if sockets[..place].contains(socket) {
                continue;
            }
            for datagram in self.ring.delivered_datagrams(*socket).iter().filter(|datagram| !datagram.truncated) {
                least.add(Source::Udp, &datagram.bytes, FRAME_BYTES_MAX as usize);
                most.add(Source::Udp, &datagram.bytes, FRAME_BYTES_MAX as usize);
            }
        }
        self.sessions.iter().for_each(|client| most.add_all(&client.arrivals(&self.ring)));
        for published in self.publishers.iter().map(SimPublisher::arrivals) {
            least.add_all(published);
            most.add_all(published);
        }
        (least, most)
    }

    fn check_letters(&self, total: &LedgerTerms) {
        let letters = self.node.letters.counters();
        assert_eq!(letters.sent(), total.dead_lettered(), "O6: dead letters sent, and dead-lettered by the ledger");
        assert_eq!(self.node.letters.queued(), 0, "O6: dead letters left in their queue");
    }

    fn check_rest(&mut self) {
        assert_eq!(self.ring.in_flight(), [], "O5: operations in flight after the drain");
        assert_eq!(self.ring.accepted_open(), 0, "O5: connections open after the drain");
        self.ring.close_ring();
        assert_eq!(self.node.reactor.borrow_mut().slots_missing(), 0, "O5: slots of the reactor are missing");
        let missing: u64 = self.publishers.iter_mut().map(SimPublisher::slots_missing).sum();
        assert_eq!(missing, 0, "O5: slots of the publishers are missing");
        assert_eq!(self.node.transactional.borrow_mut().slots_missing(), 0, "O5: slots of the retry memory are missing");
    }

    /// O3 and O4; gives the checksum of the log.
    fn check_log(&mut self) -> u32 {
        let ledger = self.node.ledger();
        let Some(log) = &mut self.node.log else {
            assert_eq!(ledger.total().stored, 0, "O3: stored without a log");
            return 0;
        };
        let disk = self.ring.disk();
        (0..4).for_each(|_| oracle::check_watermarks(log.status(), &disk, &mut self.rng));
        let state = log.status().state();
        let store_failed = matches!(state, StoreState::Failed { .. });
        if !store_failed {
            assert!(log.finish(self.ring.wall()).expect("a simulated file"), "a drained log can be closed");
            assert!(verify(disk.clone(), 0).expect("a log").is_whole(), "O3: the log is not whole");
        }
        let stored = oracle::read_log(&disk);
        let given_up = NodeReader::open(disk.clone(), 0).expect("a log").next_sequence();
        let rules = LogRules {
            dedup: self.scenario.dedup,
            transactional_in_order: self.scenario.handler != HandlerManner::Bad,
            store_failed,
            sync_failed: is_sync_failed(state),
            since: self.life.first_sequence,
            given_up,
        };
        if !store_failed {
            let mark_at = log.status().written_bytes() - BATCH_HEADER_BYTES as u64;
            damage::check_damage(&disk, &stored, mark_at, &mut self.rng);
        }
        oracle::check_log(&stored, &ledger, &self.account, rules);
        self.check_sessions(self.sound_level(), &disk);
        if !store_failed {
            let ground = self.ground(AckLevel::Accepted, &disk);
            self.sessions.iter().for_each(|client| session_oracle::check_told_all(&stored, client, ground));
        }
        disk.content().values().fold(0, |crc, bytes| crc32c::crc32c_append(crc, bytes))
    }
}
