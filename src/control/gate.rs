//! A node's gate: the one word through which the control side reaches producers and processors.
//!
//! ```text
//! control ── level, end of pauses ──┐
//!                                   ├──► NodeGate ── read once a poll ──► reactors · publishers · processors
//! appender ── store unavailable ────┘
//! ```
//!
//! Invariants:
//! - **G1** A reading is one load, and everything that follows from it (the table of [`Level::actions`]) is pure: the same frames with the
//!   same reading are admitted, held and shed alike, whoever asks.
//! - **G2** Priority CRITICAL is never held nor shed by a level.
//! - **G3** Nobody is told to wait once pauses have ended: a drain is not held up by a level. What is shed is shed on.
//! - **G4** `store_unavailable` is not a level: it is raised and taken back by the appender, and only what cannot wait is dropped
//!   for it. Who can wait is admitted, and waits where the lanes are full behind a log that stands still.

use super::level::{Actions, Level, TierIntake};
use crate::metrics::ledger::DropReason;
use crate::sync::{AtomicU32, Ordering};
use crate::wire::{Priority, Tier};

/// The lowest bits hold the level.
const LEVEL_MASK: u32 = 0x7;
const STORE_UNAVAILABLE: u32 = 0x8;
const PAUSES_ENDED: u32 = 0x10;

const _: () = assert!(Level::COUNT <= LEVEL_MASK as usize + 1);

/// Whether the source of an event can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A TCP connection, an in-process `publish`.
    CanWait,
    /// A datagram, an in-process `try_publish`.
    CannotWait,
}

/// What is to become of an event that stands before the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Take it.
    Admit,
    /// Hold its source, and ask again at a later poll. Only who can wait gets this answer.
    Wait,
    /// Count it as received and lost.
    Drop(DropReason),
}

/// What producers of a node may take in at the moment.
#[derive(Debug, Default)]
pub struct NodeGate {
    /// One word, so that a reader needs one load and never sees a level of one moment with a store of another.
    word: AtomicU32,
}

impl NodeGate {
    /// What it says now; once per poll.
    #[inline]
    pub fn read(&self) -> GateReading {
        // Relaxed, here and in the writers: no data hangs on it. A late reader lets a few more events in, or holds them a poll longer.
        GateReading(self.word.load(Ordering::Relaxed))
    }

    /// For who asks once per event, not per poll: [`GateReading::admits`] of a fresh reading.
    #[inline]
    pub fn admits(&self, tier: Tier, priority: Priority, patience: Patience) -> Admission {
        self.read().admits(tier, priority, patience)
    }

    /// Sets the level. Only the control agent may call this: the level has one writer, the word has several.
    pub fn set_level(&self, level: Level) {
        // One step, so that no reader meets a level in between; what the others write meanwhile stays.
        let change = (self.word.load(Ordering::Relaxed) & LEVEL_MASK) ^ level as u32;
        self.word.fetch_xor(change, Ordering::Relaxed);
    }

    /// From now on nobody is told to wait (the control agent, when the drain begins).
    pub fn end_pauses(&self) {
        self.word.fetch_or(PAUSES_ENDED, Ordering::Relaxed);
    }

    /// Says whether the log can be written (the appender, on ENOSPC and after recovery from it).
    pub fn set_store_unavailable(&self, unavailable: bool) {
        if unavailable {
            self.word.fetch_or(STORE_UNAVAILABLE, Ordering::Relaxed);
        } else {
            self.word.fetch_and(!STORE_UNAVAILABLE, Ordering::Relaxed);
        }
    }

    /// Whether events that cannot wait must be dropped with `store_unavailable`.
    #[inline]
    pub fn is_store_unavailable(&self) -> bool {
        self.read().is_store_unavailable()
    }
}

/// The gate at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GateReading(u32);

impl GateReading {
    /// The level.
    #[inline]
    pub fn level(self) -> Level {
        Level::ALL[(self.0 & LEVEL_MASK) as usize]
    }

    /// What is done on the level.
    #[inline]
    pub fn actions(self) -> &'static Actions {
        self.level().actions()
    }

    /// Whether everything is admitted, so that nobody needs to ask event by event.
    #[inline]
    pub fn is_open(self) -> bool {
        self.level() < Level::Degraded && !self.is_store_unavailable()
    }

    /// Whether the log can't be written at the moment.
    #[inline]
    pub fn is_store_unavailable(self) -> bool {
        self.0 & STORE_UNAVAILABLE != 0
    }

    /// What is to become of an event. A look-up: no clock, no load.
    #[inline]
    pub fn admits(self, tier: Tier, priority: Priority, patience: Patience) -> Admission {
        if self.is_open() { Admission::Admit } else { self.judge(tier, priority, patience) }
    }

    /// Whether who can wait must do so before this tier's events (below priority CRITICAL).
    #[inline]
    pub fn pauses(self, tier: Tier) -> bool {
        self.actions().intake[tier.index()] == TierIntake::Paused && self.0 & PAUSES_ENDED == 0
    }

    #[cold]
    fn judge(self, tier: Tier, priority: Priority, patience: Patience) -> Admission {
        let can_wait = patience == Patience::CanWait;
        if self.is_store_unavailable() && !can_wait {
            return Admission::Drop(DropReason::StoreUnavailable);
        }
        if priority == Priority::Critical {
            return Admission::Admit;
        }
        match self.actions().intake[tier.index()] {
            TierIntake::Open => Admission::Admit,
            TierIntake::Patient | TierIntake::Paused if !can_wait => Admission::Drop(DropReason::BackpressureDrop),
            TierIntake::Paused if self.pauses(tier) => Admission::Wait,
            TierIntake::Patient | TierIntake::Paused => Admission::Admit,
            TierIntake::Shed(reason) => Admission::Drop(reason),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use Admission::{Admit, Drop, Wait};
    use Patience::{CanWait, CannotWait};

    fn at(level: Level) -> NodeGate {
        let gate = NodeGate::default();
        gate.set_level(level);
        gate
    }

    #[test]
    fn each_level_admits_exactly_what_the_table_says() {
        let shed = Drop(DropReason::BackpressureDrop);
        let emergency = Drop(DropReason::EmergencyDrop);
        // By level: REALTIME, TRANSACTIONAL, BATCH, each for who can wait and what cannot.
        let table = [
            [Admit, Admit, Admit, Admit, Admit, Admit],
            [Admit, Admit, Admit, Admit, Admit, Admit],
            [Admit, Admit, Wait, shed, Admit, shed],
            [Admit, Admit, Wait, shed, shed, shed],
            [emergency; 6],
        ];
        for (level, row) in Level::ALL.into_iter().zip(table) {
            let gate = at(level);
            for (place, expected) in row.into_iter().enumerate() {
                let (tier, patience) = (Tier::ALL[place / 2], [CanWait, CannotWait][place % 2]);
                let priority = [Priority::High, Priority::Medium, Priority::Low][tier.index()];
                assert_eq!(gate.admits(tier, priority, patience), expected, "{level:?} {tier:?} {patience:?}");
                assert_eq!(gate.admits(tier, Priority::Critical, patience), Admit, "G2");
            }
        }
    }

    #[test]
    fn the_end_of_pauses_ends_waiting_and_nothing_else() {
        for level in Level::ALL {
            let (gate, before) = (at(level), at(level));
            gate.end_pauses();
            for tier in Tier::ALL {
                for patience in [CanWait, CannotWait] {
                    let (then, now) = (before.admits(tier, Priority::Low, patience), gate.admits(tier, Priority::Low, patience));
                    assert_eq!(now, if then == Wait { Admit } else { then }, "G3: {level:?} {tier:?} {patience:?}");
                }
            }
        }
    }

    #[test]
    fn a_store_that_is_unavailable_is_beside_the_level() {
        let gate = at(Level::Critical);
        gate.set_store_unavailable(true);
        assert_eq!(gate.admits(Tier::Realtime, Priority::Critical, CannotWait), Drop(DropReason::StoreUnavailable));
        assert_eq!(gate.admits(Tier::Realtime, Priority::High, CanWait), Admit);
        gate.set_level(Level::Healthy);
        assert!(gate.is_store_unavailable() && !gate.read().is_open());
        gate.set_store_unavailable(false);
        assert!(gate.read().is_open());
        gate.set_level(Level::Emergency);
        gate.end_pauses();
        assert_eq!(gate.read().level(), Level::Emergency, "the bits don't touch each other");
    }
}
