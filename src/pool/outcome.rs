//! What became of an event of a session: left in its slot's header by the last holder, found there by the owner when the slot comes home.
//!
//! ```text
//! last holder: SharedPool::end ─► release ─► stack ─► owner: collect ─► ended list ─► PoolOwner::ended ─► the session ─► free list
//! ```
//!
//! Invariants:
//! - **O1** Whoever ends an event of a session writes its outcome before it gives the ticket up, exactly once. An event that is released without
//!   one has moved (its copy has the outcome), or its end was never seen (a stop that ran out of time).
//! - **O2** The owner reads the header only of slots whose mark says that a session's event is in it, and only after it took them off the release
//!   stack: S3 of the stack orders the writing before the reading. Other slots go from stack to free list without a look at their header.
//! - **O3** A slot stays on the ended list, out of the free list, until its outcome has been taken: none is overwritten.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::{EventFlags, EventHeader, PoolOwner, ProducerStamp};
use crate::metrics::ledger::DropReason;

/// What became of an event of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is staged for the log, and has this sequence there.
    Stored {
        /// Its sequence in its node's log.
        log_sequence: u64,
    },
    /// It reached its end with `--storage off`.
    Handled,
    /// It was lost.
    Lost(DropReason),
}

/// An event of a session that has come home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose event it was, and its number there.
    pub stamp: ProducerStamp,
    /// What became of it.
    pub outcome: Outcome,
}

/// Outcomes that wait for one reactor at a time; what finds no room waits in its slot (O3).
const RETURNS_MAX: usize = 1024;

/// The way of outcomes whose slots came home to another owner than the producer's home reactor (copies in the retry memory): a bounded queue for each
/// reactor, by its number. Full, an outcome stays in its slot until there is room, so none is lost.
#[derive(Clone, Debug)]
pub struct Returns(Arc<[ArrayQueue<Ended>]>);

impl Returns {
    /// Queues for so many reactors.
    pub fn new(reactors: usize) -> Self {
        Self((0..reactors).map(|_| ArrayQueue::new(RETURNS_MAX)).collect())
    }

    /// How many reactors there are.
    pub fn reactors(&self) -> usize {
        self.0.len()
    }

    /// Sends on what has come home to this owner, as far as there is room.
    pub(crate) fn send_from(&self, owner: &mut PoolOwner) {
        while let Some(ended) = owner.ended() {
            if self.0[ended.stamp.producer.home(self.0.len())].push(ended).is_err() {
                return;
            }
            owner.free_ended();
        }
    }

    /// The next outcome for this reactor.
    pub(crate) fn take(&self, reactor: usize) -> Option<Ended> {
        // The queue's pop is a compare-and-swap loop; a poll without any should not pay for it.
        if self.0[reactor].is_empty() { None } else { self.0[reactor].pop() }
    }
}

const NO_OUTCOME: u8 = 0;
const STORED: u8 = 1;
const HANDLED: u8 = 2;
/// Codes of reasons follow.
const LOST: u8 = 0x10;

impl EventHeader {
    /// Leaves an outcome for the owner, if this is an event of a session (O1). The id gives way to the log's sequence.
    #[inline]
    pub(super) fn leave_outcome(&mut self, outcome: Outcome) {
        if !self.flags.has(EventFlags::SESSION) {
            return;
        }
        debug_assert_eq!(self.reserved, NO_OUTCOME, "O1: an event ends once");
        self.reserved = match outcome {
            Outcome::Stored { log_sequence } => {
                self.id = log_sequence;
                STORED
            }
            Outcome::Handled => HANDLED,
            Outcome::Lost(reason) => LOST + reason.code(),
        };
    }

    /// The outcome that was left; `None`: it has moved, or its end was never seen.
    pub(super) fn left_outcome(&self) -> Option<Ended> {
        let outcome = match self.reserved {
            NO_OUTCOME => return None,
            STORED => Outcome::Stored { log_sequence: self.id },
            HANDLED => Outcome::Handled,
            code => Outcome::Lost(DropReason::from_code(code - LOST)?),
        };
        self.producer().map(|stamp| Ended { stamp, outcome })
    }
}
