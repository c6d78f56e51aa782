//! A run of a seed: a node, its clients, the oracles after every step, the drain. What they come to: [`super::reckoning`].

use std::collections::BTreeMap;

use super::clients::{Account, TcpClient, UdpClient};
use super::disk::SimDisk;
use super::lives::{LifeEnd, is_sync_failed, open_log};
use super::net::LOCALHOST;
use super::node::{self, SimNode, seat};
use super::oracle;
use super::publishers::SimPublisher;
use super::ring::SimRing;
use super::rng::Rng;
use super::scenario::Scenario;
use super::scheduler::Scheduler;
use super::session_client::SessionClient;
use super::session_oracle::{self, Ground};
use super::source_oracle::{SourceBook, Taken};
use super::tally::Tally;
use crate::control::Level;
use crate::metrics::ledger::{Ledger, LedgerTerms};
use crate::pool::Source;
use crate::storage::node_reader::NodeReader;
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
    /// What went wrong, and how often.
    pub faults: Tally,
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

pub(super) struct World {
    /// The flags in it change with restarts.
    pub(super) scenario: Scenario,
    pub(super) rng: Rng,
    pub(super) ring: SimRing,
    pub(super) scheduler: Scheduler,
    pub(super) node: SimNode,
    pub(super) account: Account,
    pub(super) tcp: Vec<TcpClient>,
    pub(super) udp: Vec<UdpClient>,
    pub(super) publishers: Vec<SimPublisher>,
    pub(super) sessions: Vec<SessionClient>,
    /// What earlier lives came to.
    pub(super) past: Past,
    /// The ends of lives that are still to come, the next one last.
    ends: Vec<LifeEnd>,
    pub(super) life: Life,
    /// When the disk has room again, if it is full.
    full_until: Option<Nanos>,
    /// How often the disk may still fill up.
    pub(super) fills_left: u32,
    /// When the drain comes, once all clients are done.
    live_until: Option<Nanos>,
    /// Clients hold still.
    pub(super) clients_rest: bool,
    /// Nothing will happen any more by itself.
    is_stuck: bool,
    /// The seats that are draining.
    stage: &'static [usize],
    pub(super) steps: u64,
}

/// What is of one life of the node.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// Steps before it.
    began: u64,
    /// The first sequence of its records.
    pub(super) first_sequence: u64,
    /// Written and durable, as last seen (O7).
    watermarks: (u64, u64),
}

/// What lives came to that have ended.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) terms: LedgerTerms,
    pub(super) counters: BTreeMap<String, u64>,
}

impl Past {
    /// Adds a life.
    pub(super) fn add(&mut self, node: &SimNode) {
        self.terms.add(&node.ledger().total());
        self.add_counters(node.counters());
    }

    pub(super) fn add_counters(&mut self, counters: BTreeMap<String, u64>) {
        counters.into_iter().for_each(|(name, count)| *self.counters.entry(name).or_default() += count);
    }
}

impl World {
    fn new(scenario: &Scenario) -> Self {
        let mut rng = Rng::new(scenario.seed);
        let ring = SimRing::new(rng.next_u64(), scenario.faults.clone());
        let mut scheduler = Scheduler::new(ring.clone(), rng.fork(), scenario.pace);
        let log = scenario.storage.then(|| open_log(scenario, &ring, &ring.disk()).expect("an empty disk"));
        let mut node = node::build(scenario, &ring, &mut scheduler, log);
        let mut account = Account::default();
        let mut tcp = Vec::new();
        let mut addresses = scenario.addresses.iter().copied().cycle();
        let mut address = || addresses.next().unwrap_or(LOCALHOST);
        for (manner, frames, mix) in &scenario.tcp {
            let who = (*manner, address());
            tcp.push(TcpClient::new(who, node.listener, *frames, mix.clone(), &mut account, rng.fork()));
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
        let mut sessions = Vec::new();
        for load in &scenario.sessions {
            sessions.push(SessionClient::new(load.clone(), address(), node.listener, &mut account, rng.fork()));
        }
        let fills_left = if scenario.disk_fills { FILLS_MAX } else { 0 };
        Self {
            scenario: scenario.clone(),
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
            ends: scenario.ends.iter().rev().cloned().collect(),
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
        self.ring.disk().forget_failed_sync();
        let status = self.node.log.as_ref().map(|log| log.status().written_sequence());
        self.life = Life { began: self.steps, first_sequence: status.unwrap_or(0), watermarks: (0, 0) };
        (self.full_until, self.live_until, self.is_stuck, self.stage) = (None, None, false, &[]);
    }

    /// Steps since then.
    pub(super) fn steps_of_life(&self) -> u64 {
        self.steps - self.life.began
    }

    /// Until all clients are done, and a while longer on some seeds; through all lives. False: the drain is to come in the middle of it.
    fn live(&mut self) -> bool {
        let early = self.scenario.early_drain.then(|| self.rng.between(50..=8_000));
        let began = self.ring.now();
        while self.ring.now().since(began) < LIVE_MAX {
            if early.is_some_and(|steps| self.steps >= steps) {
                self.ends.clear();
                return false;
            }
            self.step();
            if self.ends.last().is_some_and(|end| self.must_end(end))
                && let Some(end) = self.ends.pop()
            {
                self.end_life(&end);
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
        self.ends.clear();
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

    pub(super) fn drain(&mut self) {
        self.mend_disk();
        self.ring.with_sources(SourceBook::end);
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
        let mut is_changed = true;
        match self.rng.below(16) {
            0..=2 => self.client(),
            3 => drop(self.help()),
            4 => self.fill_disk(),
            // Where no agent was called the ledger has not changed.
            _ => is_changed = self.scheduler.step(),
        }
        if self.ring.disk().has_stopped() {
            return; // Somebody dies now.
        }
        if is_changed {
            let ledger = self.node.ledger();
            if self.scheduler.is_settled() {
                oracle::check_balance(&ledger, self.scheduler.holding());
            }
            self.check_sources(&ledger);
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
        let is_near = |end: &&LifeEnd| self.stage.is_empty() && self.steps_of_life() >= end.after_steps;
        if let Some(changes) = self.ends.last().filter(is_near).and_then(|end| end.how.in_keeper()) {
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

    // -- sources and sessions --

    /// O13, of what was received.
    fn check_sources(&self, ledger: &Ledger) {
        self.ring.with_sources(|book| {
            if book.has_rate() {
                let events = ledger.terms[Source::Tcp.index()].iter().map(|terms| terms.received).sum();
                book.look_at(Taken { events, waits: self.node.ingest.rate_waits.get() }, self.ring.now());
            }
        });
    }

    /// The lowest level whose promise holds as long as the process lives, and if it is killed.
    pub(super) fn sound_level(&self) -> AckLevel {
        let has_failed_sync = self.node.log.as_ref().is_some_and(|log| is_sync_failed(log.status().state(), &self.ring.disk()));
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

    pub(super) fn ground(&self, holds: AckLevel, disk: &SimDisk) -> Ground {
        let faults = &self.scenario.faults;
        Ground {
            holds,
            given_up: NodeReader::open(disk.clone(), 0).expect("a log").next_sequence(),
            store_may_fail: faults.write_error + faults.sync_error > 0,
        }
    }
}
