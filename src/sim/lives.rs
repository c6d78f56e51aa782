//! Crashes: a node dies in the middle of whatever it does, and the next one begins on what is left of its disk.
//!
//! ```text
//! load ──► death: kill -9, or a power cut ──► openings that are interrupted themselves ──► an opening that succeeds ──► load goes on
//!            in any step, or between two                kill -9, power cut, unreadable,
//!            changes that the keeper makes              no space
//! ```
//!
//! - **O10** After any death the log opens, and holds the first so many of the records that were there before it, unchanged and each once: after
//!   kill -9 at least those called written, after a power cut those called durable (after a failed sync no more than that is promised to
//!   anybody). What a refused opening left can be opened; recovering twice gives the same bytes; what one opening found is durable to all
//!   later ones. Ids are not given twice in all lives (O3).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::disk::SimDisk;
use super::node;
use super::oracle::{self, Stored};
use super::rng::Rng;
use super::scenario::Scenario;
use super::scheduler::Scheduler;
use super::world::World;
use crate::storage::recovery::recover;
use crate::storage::segments::{LogFault, SegmentFault};
use crate::storage::{LogIdentity, OpenLog, SegmentOptions, StoreOperation, StoreState};
use crate::sys::clock::Clock;
use crate::wire::session::AckLevel;

/// How a life ends before the load does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Steps after which it comes.
    pub after_steps: u64,
    /// The host loses its power; else the process alone is killed.
    pub is_power_cut: bool,
    /// It waits for the keeper to be at work, and comes after so many of its changes.
    pub in_keeper: Option<u64>,
    /// What interrupts the openings that follow.
    pub openings: Vec<Interruption>,
}

/// What ends an opening of the log early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// kill -9 after so many changes.
    Killed(u64),
    /// A power cut after so many changes.
    PowerCut(u64),
    /// Every read but so many fails.
    Unreadable(u64),
    /// No file can grow.
    Full,
}

/// How long a death waits for the keeper, steps.
const KEEPER_STEPS_MAX: u64 = 3_000;

/// Changes that a roll or a recovery makes, about.
const CHANGES_MAX: u64 = 10;

impl Death {
    /// One by chance, within the first `steps_max` steps of a life.
    pub(super) fn by_chance(rng: &mut Rng, steps_max: u64) -> Self {
        let openings = if rng.chance(600) { 0 } else { rng.between(1..=3) };
        Self {
            after_steps: rng.between(1..=steps_max),
            is_power_cut: rng.chance(600),
            in_keeper: rng.chance(400).then(|| rng.below(CHANGES_MAX)),
            openings: (0..openings).map(|_| Interruption::by_chance(rng)).collect(),
        }
    }
}

impl Interruption {
    fn by_chance(rng: &mut Rng) -> Self {
        let changes = rng.below(CHANGES_MAX);
        match rng.below(4) {
            0 => Interruption::Killed(changes),
            1 => Interruption::PowerCut(changes),
            2 => Interruption::Unreadable(rng.below(20)),
            _ => Interruption::Full,
        }
    }
}

/// What was there when a node died.
struct Remains {
    records: Vec<Stored>,
    /// The records below this sequence have to be there after what has happened since.
    promised: u64,
    /// And after a power cut.
    durable: u64,
}

/// Opens the log of a scenario's node.
pub(super) fn open_log(scenario: &Scenario, clock: &impl Clock, disk: &SimDisk) -> Result<OpenLog<SimDisk>, SegmentFault> {
    let segments = SegmentOptions {
        segment_bytes: scenario.segment_bytes,
        retention_bytes: scenario.retention_bytes,
        min_free_bytes: u64::from(scenario.min_free),
        ..SegmentOptions::default()
    };
    OpenLog::open(disk.clone(), identity(scenario, clock), segments)
}

fn identity(scenario: &Scenario, clock: &impl Clock) -> LogIdentity {
    LogIdentity { node: 0, log_id: scenario.seed | 1, wall: clock.wall() }
}

impl World<'_> {
    /// Whether it is time for this death.
    pub(super) fn must_die(&self, death: &Death) -> bool {
        let late = self.steps_of_life().saturating_sub(death.after_steps);
        match death.in_keeper {
            None => late > 0,
            Some(_) => late > KEEPER_STEPS_MAX || self.ring.disk().has_stopped(),
        }
    }

    /// The node dies, and another one begins on what is left.
    pub(super) fn die(&mut self, death: &Death) {
        let mut disk = self.ring.disk();
        self.past.count(if death.is_power_cut { "deaths by a power cut" } else { "deaths by kill" });
        if disk.has_stopped() {
            self.past.count("deaths in the keeper");
        }
        disk.mend();
        self.ring.die();
        let mut survives = self.sound_level();
        let mut remains = self.remains(&disk);
        let cuts = death.openings.iter().any(|interruption| matches!(interruption, Interruption::PowerCut(_)));
        if death.is_power_cut || cuts {
            survives = AckLevel::Durable;
        }
        if death.is_power_cut {
            disk = self.cut_power(&disk, &mut remains);
        }
        for interruption in &death.openings {
            disk = self.open_in_vain(*interruption, disk, &mut remains);
        }
        self.recover_twice(&disk);
        if self.rng.chance(200) {
            disk.shorten_reads(self.rng.between(100..=5_000) as usize);
        }
        let log =
            open_log(self.scenario, &self.ring, &disk).unwrap_or_else(|fault| panic!("O10: the log does not open: {fault:?}"));
        self.check_sessions(survives, &disk);
        remains.check(&disk, log.report().next_sequence);
        if log.report().cut_bytes > 0 {
            self.past.count("deaths that tore the log");
        }
        disk.mend();
        self.ring = self.ring.reborn(self.rng.next_u64(), disk);
        self.rebuild(log, survives);
    }

    /// What is on the disk now, and what was promised of it.
    fn remains(&self, disk: &SimDisk) -> Remains {
        let log = self.node.log.as_ref().expect("only a node with a log dies");
        let status = log.status();
        let durable = status.durable_sequence();
        let written = if is_sync_failed(status.state()) { durable } else { status.written_sequence() };
        Remains { records: oracle::read_log(disk), promised: written, durable }
    }

    fn cut_power(&mut self, disk: &SimDisk, remains: &mut Remains) -> SimDisk {
        remains.promised = remains.durable;
        disk.after_power_cut(&mut self.rng)
    }

    /// An opening that something interrupts; should it get through all the same, what it found is durable (B2).
    fn open_in_vain(&mut self, interruption: Interruption, disk: SimDisk, remains: &mut Remains) -> SimDisk {
        match interruption {
            Interruption::Killed(changes) | Interruption::PowerCut(changes) => disk.stop_after(changes),
            Interruption::Unreadable(reads) => disk.fail_reads_after(reads),
            Interruption::Full => disk.set_full(true),
        }
        let opened = open_log(self.scenario, &self.ring, &disk);
        disk.mend();
        match opened {
            Ok(log) => {
                remains.check(&disk, log.report().next_sequence);
                remains.promised = log.report().next_sequence;
                remains.durable = remains.promised;
            }
            Err(SegmentFault { fault: LogFault::Io { .. }, .. }) => self.past.count("openings interrupted"),
            Err(fault) => panic!("O10: {interruption:?} can't be told from {fault:?}"),
        }
        match interruption {
            Interruption::PowerCut(_) => self.cut_power(&disk, remains),
            _ => disk,
        }
    }

    fn recover_twice(&self, disk: &SimDisk) {
        let disk = disk.fork();
        let [once, twice] = [(); 2].map(|()| {
            let report = recover(&disk, &identity(self.scenario, &self.ring));
            let report = report.unwrap_or_else(|fault| panic!("O10: the log can't be recovered: {fault:?}"));
            (report.next_sequence, disk.content())
        });
        assert!(once == twice, "O10: recovering twice gives other bytes");
    }

    /// The next life, over `self.ring`.
    fn rebuild(&mut self, log: OpenLog<SimDisk>, survives: AckLevel) {
        let mut scheduler = Scheduler::new(self.ring.clone(), self.rng.fork(), self.scenario.pace);
        let mut node = node::build(self.scenario, &self.ring, &mut scheduler, Some(log));
        let producers = std::mem::take(&mut node.producers);
        let (listener, udp) = (node.listener, node.udp);
        let dead = (std::mem::replace(&mut self.node, node), std::mem::replace(&mut self.scheduler, scheduler));
        self.past.add(&dead.0);
        dead.0.reactor.borrow_mut().forget_kernel();
        let producers: Vec<_> = self.publishers.iter_mut().zip(producers).map(|(publisher, new)| publisher.go_on(new)).collect();
        bury((dead, producers));
        self.tcp.iter_mut().for_each(|client| client.go_on(listener));
        self.udp.iter_mut().zip(udp.iter().cycle()).for_each(|(client, sockets)| client.go_on(*sockets));
        self.sessions.iter_mut().for_each(|client| client.go_on(listener, survives));
        self.begin_life();
    }
}

impl Remains {
    /// O10, of the records.
    fn check(&self, disk: &SimDisk, next_sequence: u64) {
        let promised = self.promised;
        assert!(next_sequence >= promised, "O10: records below {promised} are promised, those below {next_sequence} are left");
        let left = oracle::read_log(disk);
        let end = left.last().map_or(next_sequence, |last| last.sequence + 1);
        assert_eq!(end, next_sequence, "O10: the opening found what can be read");
        // What the retention was giving up may come back.
        let first = self.records.first().map_or(end, |first| first.sequence);
        let left = &left[left.partition_point(|record| record.sequence < first)..];
        let same = left.len() <= self.records.len() && *left == self.records[..left.len()];
        assert!(same, "O10: of {} records {} are left, and not the first ones as they were", self.records.len(), left.len());
    }
}

pub(super) fn is_sync_failed(state: StoreState) -> bool {
    matches!(state, StoreState::Failed { operation: StoreOperation::Sync, .. })
}

/// Drops what a dead process had. Nothing of it is released or closed first, which tickets would complain of (P4), except while their thread
/// unwinds: so this is done while it does.
fn bury<T>(dead: T) {
    let buried = catch_unwind(AssertUnwindSafe(move || {
        let _dead = dead;
        resume_unwind(Box::new("buried"));
    }));
    debug_assert!(buried.is_err(), "nothing else ends it");
}
