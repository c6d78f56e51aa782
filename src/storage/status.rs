//! What the rest of the engine sees of a log: watermarks, state, and how far each inlet is written.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crossbeam_utils::CachePadded;

use crate::metrics::ledger::Counter;
use crate::sys::io::Errno;

/// How many events of one inlet are in the log, in the order in which they were pushed: the k-th (from 0) is committed when
/// `get() > k`. Written by the appender alone, when a write has completed.
#[derive(Clone, Debug, Default)]
pub struct InletProgress(Arc<CachePadded<Counter>>);

impl InletProgress {
    /// Nothing written yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Events written so far. A number only: no other memory hangs on it.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.get()
    }

    /// The appender (or a test in its place): the first `events` are written.
    pub fn set(&self, events: u64) {
        debug_assert!(events >= self.get(), "progress only grows");
        self.0.set(events);
    }
}

/// Which operation ended the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StoreOperation {
    /// Writing a batch.
    Write = 1,
    /// Making written batches durable.
    Sync = 2,
    /// Sealing a segment, or giving it its name.
    Seal = 4,
}

impl StoreOperation {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            StoreOperation::Write => "write",
            StoreOperation::Sync => "sync",
            StoreOperation::Seal => "seal a segment",
        }
    }
}

/// Whether the log takes batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// It does.
    Running,
    /// Not at the moment: out of space or quota; tried again by itself.
    NoSpace {
        /// What the kernel said.
        errno: Errno,
    },
    /// Never again in this process: what was not yet written (or durable) is not promised to anybody.
    Failed {
        /// What failed.
        operation: StoreOperation,
        /// What the kernel said.
        errno: Errno,
    },
}

/// Watermarks and state of one log. Written by its appender, read by everybody, late but never torn one by one.
#[derive(Debug, Default)]
pub struct StoreStatus {
    written_sequence: CachePadded<Counter>,
    durable_sequence: Counter,
    segment: Counter,
    written_bytes: Counter,
    chain: Counter,
    in_flight: Counter,
    /// 0 running, else kind << 32 | errno.
    state: Counter,
}

const NO_SPACE: u64 = 3;

impl StoreStatus {
    /// Every record below this sequence is in the file: it survives kill -9.
    pub fn written_sequence(&self) -> u64 {
        self.written_sequence.get()
    }

    /// Every record below this sequence is on stable storage: it survives a power cut.
    pub fn durable_sequence(&self) -> u64 {
        self.durable_sequence.get()
    }

    /// The first sequence of the active segment.
    pub fn segment(&self) -> u64 {
        self.segment.get()
    }

    /// Where the next batch will begin in the active segment's file.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.get()
    }

    /// Whether the log takes batches.
    pub fn state(&self) -> StoreState {
        let packed = self.state.get();
        let errno = Errno(packed as u32 as i32);
        match packed >> 32 {
            0 => StoreState::Running,
            NO_SPACE => StoreState::NoSpace { errno },
            kind if kind == StoreOperation::Write as u64 => StoreState::Failed { operation: StoreOperation::Write, errno },
            kind if kind == StoreOperation::Seal as u64 => StoreState::Failed { operation: StoreOperation::Seal, errno },
            _ => StoreState::Failed { operation: StoreOperation::Sync, errno },
        }
    }

    /// Where the log ends for ever, if its store has failed: no record from this sequence on will be written.
    pub fn failed_at(&self) -> Option<u64> {
        let StoreState::Failed { .. } = self.state() else { return None };
        fence(Ordering::Acquire); // Pairs with the Release in `set_state`: the last completed write is seen.
        Some(self.written_sequence())
    }

    pub(crate) fn set_state(&self, state: StoreState) {
        fence(Ordering::Release); // Pairs with the Acquire in `failed_at`.
        self.state.set(match state {
            StoreState::Running => 0,
            StoreState::NoSpace { errno } => NO_SPACE << 32 | u64::from(errno.0 as u32),
            StoreState::Failed { operation, errno } => (operation as u64) << 32 | u64::from(errno.0 as u32),
        });
    }

    /// The next [`StoreStatus::set_written`] is about this segment.
    pub(super) fn set_segment(&self, first_sequence: u64) {
        self.segment.set(first_sequence);
    }

    /// A write has completed: sequences, file and chain end here now.
    pub(crate) fn set_written(&self, end_sequence: u64, end_bytes: u64, chain: u32) {
        self.written_bytes.set(end_bytes);
        self.chain.set(u64::from(chain));
        self.written_sequence.set(end_sequence);
    }

    pub(crate) fn set_durable(&self, sequence: u64) {
        self.durable_sequence.set(sequence);
    }

    pub(super) fn set_in_flight(&self, operations: u64) {
        self.in_flight.set(operations);
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.get() > 0
    }

    pub(super) fn chain(&self) -> u32 {
        self.chain.get() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_comes_back_as_it_was_set() {
        let status = StoreStatus::default();
        assert_eq!(status.state(), StoreState::Running);
        for state in [
            StoreState::NoSpace { errno: Errno(libc::ENOSPC) },
            StoreState::Failed { operation: StoreOperation::Write, errno: Errno(libc::EIO) },
            StoreState::Failed { operation: StoreOperation::Sync, errno: Errno(libc::EIO) },
            StoreState::Failed { operation: StoreOperation::Seal, errno: Errno(libc::EROFS) },
            StoreState::Running,
        ] {
            status.set_state(state);
            assert_eq!(status.state(), state);
        }
    }
}
