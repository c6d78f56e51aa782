//! A producer's own half: from a publication to an event in a lane, in one attempt that never waits.

use std::sync::Arc;

use super::publication::{Publication, Refusal};
use crate::bus::{Dispatch, Sent, TierSender};
use crate::control::{Admission, NodeGate, Patience, ShedByClass};
use crate::ingest::intake::Intake;
use crate::metrics::ledger::{DropReason, LedgerCells};
use crate::pool::{EventFlags, EventHeader, PoolOwner, Source};
use crate::storage::dead_letter::DeadLetterSender;
use crate::sys::clock::{Nanos, WallNanos};
use crate::wire::{FrameLimits, HEADER_BYTES, Tier};

/// Everything a producer is connected to.
pub struct ProducerWiring {
    /// Its part of the node's pool.
    pub pool: PoolOwner,
    /// The longest event taken.
    pub limits: FrameLimits,
    /// By priority or topic to a tier.
    pub dispatch: Dispatch,
    /// By tier.
    pub tiers: [TierSender; Tier::COUNT],
    /// Where overflow goes.
    pub dead_letters: DeadLetterSender,
    /// The node's gate.
    pub gate: Arc<NodeGate>,
    /// This producer's part of the ledger.
    pub ledger: Arc<LedgerCells>,
    /// What levels make it shed, by topic class.
    pub shed: Arc<ShedByClass>,
    /// The first event's id; they go up by one from there.
    pub id_base: u64,
}

/// What an attempt would have to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Room in its tier, or a slot: whoever makes it wakes (U2).
    Room,
    /// A lower level: the gate wakes nobody.
    Gate,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is an event, of this id, in its lane.
    Sent(u64),
    /// Nothing was done. Only for who can wait.
    MustWait(Wait),
    /// Nothing was sent.
    Refused(Refusal),
}

/// A producer without a thread.
pub struct Producer {
    intake: Intake,
    gate: Arc<NodeGate>,
}

impl Producer {
    /// A producer over its wiring.
    ///
    /// # Panics
    /// If the pool has no slot for the longest event.
    pub fn new(wiring: ProducerWiring) -> Self {
        let ProducerWiring { pool, limits, dispatch, tiers, dead_letters, gate, ledger, shed, id_base } = wiring;
        let longest = limits.max_frame_bytes as usize - HEADER_BYTES;
        assert!(pool.class_for(longest).is_some(), "the pool has no class for the longest event");
        Self { intake: Intake::new(pool, limits, true, (dispatch, tiers, ledger, shed, dead_letters), id_base), gate }
    }

    /// Tries to make an event of a publication and to send it; visible to the tier's consumer on return.
    pub fn attempt(&mut self, publication: &Publication<'_>, patience: Patience, now: Nanos, wall: WallNanos) -> Attempt {
        let topic = match publication.check(&self.intake.limits) {
            Ok(topic) => topic,
            Err(refusal) => return Attempt::Refused(Refusal::Frame(refusal)),
        };
        let tier = self.intake.dispatch.tier(publication.priority, topic.as_bytes());
        let header = EventHeader {
            id: publication.id.unwrap_or(self.intake.next_id),
            received_at: now,
            received_wall: wall,
            connection: 0,
            body_len: publication.body.len() as u32,
            topic_len: topic.len() as u16,
            priority: publication.priority,
            tier,
            source: Source::InProcess,
            attempts: 0,
            flags: EventFlags::NONE,
            reserved: 0,
            producer_sequence: 0,
            key: publication.key,
        };
        let can_wait = patience == Patience::CanWait;
        match self.gate.admits(tier, publication.priority, patience) {
            Admission::Admit if can_wait && self.intake.tiers[tier.index()].must_wait() => return Attempt::MustWait(Wait::Room),
            Admission::Admit => {}
            Admission::Wait => return Attempt::MustWait(Wait::Gate),
            Admission::Drop(reason) => {
                self.intake.shed.count(reason, topic.as_bytes());
                return self.lose_unstored(header, publication, reason);
            }
        }
        let stored = self.intake.pool.store_split(header, topic.as_bytes(), publication.body);
        let Some(event) = stored else {
            return match patience {
                Patience::CanWait => Attempt::MustWait(Wait::Room),
                Patience::CannotWait => self.lose_unstored(header, publication, DropReason::PoolExhausted),
            };
        };
        self.intake.next_id += 1;
        // Before the event can be seen by anyone (L3 in the ledger).
        self.intake.ledger.cell(Source::InProcess, tier).received.add(1);
        let sent = self.intake.tiers[tier.index()].send(event);
        self.intake.tiers[tier.index()].publish();
        match sent {
            Sent::Queued => Attempt::Sent(header.id),
            Sent::Evicted(oldest) => {
                self.intake.lose(oldest, DropReason::QueueFull);
                Attempt::Sent(header.id)
            }
            // The latter without patience only: `must_wait` has seen a full lane before.
            Sent::Refused(event) | Sent::Wait(event) => {
                self.intake.lose(event, DropReason::QueueFull);
                Attempt::Refused(Refusal::Lost(DropReason::QueueFull))
            }
        }
    }

    /// As [`Producer::attempt`] with patience, for what is kept elsewhere and in no hurry: what a level sheds waits too.
    pub fn attempt_unhurried(&mut self, publication: &Publication<'_>, now: Nanos, wall: WallNanos) -> Attempt {
        let tier = self.intake.dispatch.tier(publication.priority, publication.topic.as_bytes());
        match self.gate.admits(tier, publication.priority, Patience::CanWait) {
            Admission::Drop(_) => Attempt::MustWait(Wait::Gate),
            Admission::Admit | Admission::Wait => self.attempt(publication, Patience::CanWait, now, wall),
        }
    }

    #[cold]
    fn lose_unstored(&mut self, header: EventHeader, publication: &Publication<'_>, reason: DropReason) -> Attempt {
        self.intake.dead_letters.refill_samples(header.received_at);
        self.intake.lose_unstored(header, publication.topic.as_bytes(), publication.body, reason);
        Attempt::Refused(Refusal::Lost(reason))
    }

    /// Says to releasing threads whether somebody sleeps until a slot comes home. Attempt once more after this.
    pub(super) fn announce_starved(&mut self, starved: bool) {
        self.intake.pool.announce_starved(starved);
    }

    /// Takes home what was released, so that gauges show it.
    pub fn collect(&mut self) {
        self.intake.pool.collect();
    }

    /// The numbers of its part of the pool.
    #[cfg(test)]
    pub(super) fn pool_counters(&self) -> Arc<crate::pool::PoolCounters> {
        self.intake.pool.counters()
    }

    /// Slots that have not come home; zero after a drain, once dead letters are written.
    pub fn slots_missing(&mut self) -> u64 {
        self.intake.pool.missing()
    }
}
