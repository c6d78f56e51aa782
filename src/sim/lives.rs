//! Several lives: a node ends in the middle of its load, and the next one begins on what is left of its disk.
//!
//! ```text
//!          ┌─ death: kill -9, or a power cut, in any step ─┐
//! load ──► ┤        or between two changes of the keeper   ├─► openings that are interrupted ──► an opening that ──► load goes on
//!          └─ stop in good order ([`super::restart`]) ─────┘   kill -9, power cut, unreadable,    succeeds
//!                                                              no space
//! ```
//!
//! - **O10** After any death the log opens, and holds the first so many of the records that were there before it, unchanged and each once: after
//!   kill -9 at least those called written, after a power cut those called durable (after a failed sync no more than that is promised to
//!   anybody). What a refused opening left can be opened; recovering twice gives the same bytes; what one opening found is durable to all
//!   later ones. Ids are not given twice in all lives (O3).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::disk::SimDisk;
use super::node::{self, SimNode};
use super::oracle::{self, Stored};
use super::restart;
use super::rng::Rng;
use super::scenario::Scenario;
use super::scheduler::Scheduler;
use super::tally::Fault;
use super::world::World;
use crate::ingest::Producer;
use crate::storage::recovery::recover;
use crate::storage::segments::{LogFault, SegmentFault};
use crate::storage::{LogIdentity, OpenLog, SegmentOptions, StoreOperation, StoreState};
use crate::sys::clock::Clock;
use crate::wire::session::AckLevel;

/// How a life ends before the load does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifeEnd {
    /// Steps after which it comes.
    pub after_steps: u64,
    /// What it is.
    pub how: How,
    /// What interrupts the openings that follow.
    pub openings: Vec<Interruption>,
}

/// What ends a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// kill -9. With a number, it waits for the keeper to be at work, and comes after so many of its changes.
    Killed(Option<u64>),
    /// The host loses its power; as [`How::Killed`].
    PowerCut(Option<u64>),
    /// The engine is told to stop, and drains.
    Stopped,
}

impl How {
    /// After how many changes of the keeper it comes, if it waits for that.
    pub(super) fn in_keeper(self) -> Option<u64> {
        match self {
            How::Killed(changes) | How::PowerCut(changes) => changes,
            How::Stopped => None,
        }
    }
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

impl LifeEnd {
    /// One by chance, within the first `steps_max` steps of a life.
    pub(super) fn by_chance(rng: &mut Rng, steps_max: u64) -> Self {
        let openings = if rng.chance(600) { 0 } else { rng.between(1..=3) };
        let in_keeper = rng.chance(400).then(|| rng.below(CHANGES_MAX));
        Self {
            after_steps: rng.between(1..=steps_max),
            how: match rng.below(10) {
                0..=2 => How::Killed(in_keeper),
                3..=6 => How::PowerCut(in_keeper),
                _ => How::Stopped,
            },
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

/// What was there when a life ended.
pub(super) struct Remains {
    pub(super) records: Vec<Stored>,
    /// The records below this sequence have to be there after what has happened since.
    pub(super) promised: u64,
    /// And after a power cut.
    pub(super) durable: u64,
}

/// What a life leaves to the next one.
pub(super) struct Legacy {
    pub(super) disk: SimDisk,
    pub(super) remains: Remains,
    /// The lowest level whose promise holds.
    pub(super) holds: AckLevel,
    /// The log was closed in good order.
    pub(super) is_closed: bool,
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

impl World {
    /// Whether it is time for this end.
    pub(super) fn must_end(&self, end: &LifeEnd) -> bool {
        let late = self.steps_of_life().saturating_sub(end.after_steps);
        match end.how.in_keeper() {
            None => late > 0,
            Some(_) => late > KEEPER_STEPS_MAX || self.ring.disk().has_stopped(),
        }
    }

    /// The life ends, and another one begins on what is left.
    pub(super) fn end_life(&mut self, end: &LifeEnd) {
        let Legacy { mut disk, mut remains, mut holds, is_closed } = match end.how {
            How::Killed(_) => self.die(false),
            How::PowerCut(_) => self.die(true),
            How::Stopped => self.stop(),
        };
        for interruption in &end.openings {
            disk = self.open_in_vain(*interruption, disk, &mut remains);
            if matches!(interruption, Interruption::PowerCut(_)) && !is_closed {
                holds = AckLevel::Durable;
            }
        }
        self.recover_twice(&disk);
        if self.rng.chance(200) {
            disk.shorten_reads(self.rng.between(100..=5_000) as usize);
        }
        let log =
            open_log(&self.scenario, &self.ring, &disk).unwrap_or_else(|fault| panic!("O10: the log does not open: {fault:?}"));
        self.check_sessions(holds, &disk);
        remains.check(&disk, log.report().next_sequence);
        if log.report().cut_bytes > 0 {
            self.ring.note(Fault::LogTorn);
        }
        if is_closed && end.openings.is_empty() {
            restart::check_closed(log.report(), &remains);
        }
        disk.mend();
        self.ring = self.ring.reborn(self.rng.next_u64(), disk);
        let old = self.rebuild(log, holds);
        match end.how {
            How::Killed(_) | How::PowerCut(_) => bury(old),
            // A node that is drained goes without a word.
            How::Stopped => drop(old),
        }
    }

    /// The process dies, perhaps with its host.
    fn die(&mut self, is_power_cut: bool) -> Legacy {
        let mut disk = self.ring.disk();
        self.ring.note(if is_power_cut { Fault::PowerCut } else { Fault::Killed });
        if disk.has_stopped() {
            self.ring.note(Fault::DeathInKeeper);
        }
        disk.mend();
        self.ring.die();
        let mut holds = self.sound_level();
        let mut remains = self.remains(&disk);
        if is_power_cut {
            holds = AckLevel::Durable;
            disk = self.cut_power(&disk, &mut remains);
        }
        Legacy { disk, remains, holds, is_closed: false }
    }

    /// What is on the disk now, and what was promised of it.
    pub(super) fn remains(&self, disk: &SimDisk) -> Remains {
        let log = self.node.log.as_ref().expect("only a node with a log has several lives");
        let status = log.status();
        let durable = status.durable_sequence();
        let written = if is_sync_failed(status.state(), disk) { durable } else { status.written_sequence() };
        Remains { records: oracle::read_log(disk), promised: written, durable }
    }

    fn cut_power(&mut self, disk: &SimDisk, remains: &mut Remains) -> SimDisk {
        remains.promised = remains.durable;
        disk.after_power_cut(&mut self.rng, &self.ring.met())
    }

    /// An opening that something interrupts; should it get through all the same, what it found is durable (B2).
    fn open_in_vain(&mut self, interruption: Interruption, disk: SimDisk, remains: &mut Remains) -> SimDisk {
        match interruption {
            Interruption::Killed(changes) | Interruption::PowerCut(changes) => disk.stop_after(changes),
            Interruption::Unreadable(reads) => disk.fail_reads_after(reads),
            Interruption::Full => disk.set_full(true),
        }
        let opened = open_log(&self.scenario, &self.ring, &disk);
        disk.mend();
        match opened {
            Ok(log) => {
                remains.check(&disk, log.report().next_sequence);
                remains.promised = log.report().next_sequence;
                remains.durable = remains.promised;
            }
            Err(SegmentFault { fault: LogFault::Io { .. }, .. }) => self.ring.note(Fault::OpeningInterrupted),
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
            let report = recover(&disk, &identity(&self.scenario, &self.ring));
            let report = report.unwrap_or_else(|fault| panic!("O10: the log can't be recovered: {fault:?}"));
            (report.next_sequence, disk.content())
        });
        assert!(once == twice, "O10: recovering twice gives other bytes");
    }

    /// The next life, over `self.ring`. Gives what is left of the old one.
    fn rebuild(&mut self, log: OpenLog<SimDisk>, holds: AckLevel) -> OldLife {
        let mut scheduler = Scheduler::new(self.ring.clone(), self.rng.fork(), self.scenario.pace);
        let mut node = node::build(&self.scenario, &self.ring, &mut scheduler, Some(log));
        let producers = std::mem::take(&mut node.producers);
        let (listener, udp) = (node.listener, node.udp);
        let node = std::mem::replace(&mut self.node, node);
        let scheduler = std::mem::replace(&mut self.scheduler, scheduler);
        self.past.add(&node);
        node.reactor.borrow_mut().forget_kernel();
        let producers = self.publishers.iter_mut().zip(producers).map(|(publisher, new)| publisher.go_on(new)).collect();
        self.tcp.iter_mut().for_each(|client| client.go_on(listener));
        self.udp.iter_mut().zip(udp.iter().cycle()).for_each(|(client, sockets)| client.go_on(*sockets));
        self.sessions.iter_mut().for_each(|client| client.go_on(listener, holds));
        self.begin_life();
        (node, scheduler, producers)
    }
}

/// A node that nobody polls any more.
type OldLife = (SimNode, Scheduler, Vec<Producer>);

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

/// Whether what was written and not durable may be gone: a sync has failed, even if the store has not been told yet.
pub(super) fn is_sync_failed(state: StoreState, disk: &SimDisk) -> bool {
    disk.has_failed_sync() || matches!(state, StoreState::Failed { operation: StoreOperation::Sync, .. })
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
