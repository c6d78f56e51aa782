//! The ledger: one exact account of every event.
//!
//! ```text
//! received = stored (or handled) + duplicate + dead_lettered{reason} + dropped{reason} + in_flight
//! ```
//!
//! per source and tier, where *in flight* is counted from slots and copies, not derived. Refused frames are apart: they never became events.
//!
//! Invariants:
//! - **L1** Each counter has one writer thread; readers see it late, never torn. No shared read-modify-write.
//! - **L2** An event's outcome is counted by the agent that gives up its handle, in the same poll, exactly once.
//! - **L3** A scrape reads outcomes before receipts, so a snapshot under load never shows more outcomes than receipts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::pool::Source;
use crate::wire::Tier;

/// A counter with one writer (L1).
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`; only the owning thread may call this.
    #[inline]
    pub fn add(&self, count: u64) {
        // Relaxed load and store instead of fetch_add: one writer (L1), and no other data hangs on the value.
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Overwrites the value (gauges); only the owning thread may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The value as last seen.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Why an event did not reach its end in good order. One enum drives the counter, the dead letter and the log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// A lane was full and its overflow policy chose this event.
    QueueFull = 0,
    /// The handler failed `--max-retries` times.
    ProcessingFailed = 1,
    /// The handler panicked.
    HandlerPanic = 2,
    /// The retry memory was full.
    RetryOverflow = 3,
    /// Shed by a control level.
    BackpressureDrop = 4,
    /// Shed by the EMERGENCY level.
    EmergencyDrop = 5,
    /// No slot for an event that cannot wait.
    PoolExhausted = 6,
    /// No log for an event that cannot wait.
    StoreUnavailable = 7,
    /// Its source has sent more than it may (`--events-per-source`), and cannot wait.
    SourceRate = 8,
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = 9;
    /// All, by index.
    pub const ALL: [DropReason; DropReason::COUNT] = [
        DropReason::QueueFull,
        DropReason::ProcessingFailed,
        DropReason::HandlerPanic,
        DropReason::RetryOverflow,
        DropReason::BackpressureDrop,
        DropReason::EmergencyDrop,
        DropReason::PoolExhausted,
        DropReason::StoreUnavailable,
        DropReason::SourceRate,
    ];

    /// Its stable code on the wire: from 1.
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The reason of a code; `None` for one that is not ours.
    pub fn from_code(code: u8) -> Option<DropReason> {
        DropReason::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The name in metrics, dead letters and log lines.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::QueueFull => "queue_full",
            DropReason::ProcessingFailed => "processing_failed",
            DropReason::HandlerPanic => "handler_panic",
            DropReason::RetryOverflow => "retry_overflow",
            DropReason::BackpressureDrop => "backpressure_drop",
            DropReason::EmergencyDrop => "emergency_drop",
            DropReason::PoolExhausted => "pool_exhausted",
            DropReason::StoreUnavailable => "store_unavailable",
            DropReason::SourceRate => "source_rate",
        }
    }

    /// Whether an event lost for this reason goes to the dead letters (else it is dropped and only counted).
    pub const fn is_dead_lettered(self) -> bool {
        matches!(
            self,
            DropReason::QueueFull | DropReason::ProcessingFailed | DropReason::HandlerPanic | DropReason::RetryOverflow
        )
    }
}

impl std::str::FromStr for DropReason {
    type Err = String;
    /// Parses a name, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        DropReason::ALL.into_iter().find(|reason| reason.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names = DropReason::ALL.map(DropReason::name).join(", ");
            format!("`{text}` is not one of {names}")
        })
    }
}

/// The ledger's terms as one agent counts them, for one source and tier.
#[derive(Debug, Default)]
pub struct LedgerCell {
    /// Frames accepted as events.
    pub received: Counter,
    /// Events whose handler is done (not a term of the sum).
    pub processed: Counter,
    /// In the log: the write has completed.
    pub stored: Counter,
    /// Reached its end with `--storage off`.
    pub handled: Counter,
    /// Recognised as one that is pending or committed.
    pub duplicate: Counter,
    /// Lost for a reason, dead-lettered or dropped as [`DropReason::is_dead_lettered`] says.
    pub lost: [Counter; DropReason::COUNT],
}

/// One agent's part of the ledger (L1: one writer).
#[derive(Debug, Default)]
pub struct LedgerCells {
    cells: [[LedgerCell; Tier::COUNT]; Source::COUNT],
}

impl LedgerCells {
    /// The cell of a source and tier.
    #[inline]
    pub fn cell(&self, source: Source, tier: Tier) -> &LedgerCell {
        &self.cells[source.index()][tier.index()]
    }
}

/// The ledger's terms as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerTerms {
    /// See [`LedgerCell`].
    pub received: u64,
    /// See [`LedgerCell`].
    pub processed: u64,
    /// See [`LedgerCell`].
    pub stored: u64,
    /// See [`LedgerCell`].
    pub handled: u64,
    /// See [`LedgerCell`].
    pub duplicate: u64,
    /// By reason.
    pub lost: [u64; DropReason::COUNT],
}

impl LedgerTerms {
    /// Everything that left the engine, by any door.
    pub fn outcomes(&self) -> u64 {
        self.stored + self.handled + self.duplicate + self.lost.iter().sum::<u64>()
    }

    /// Lost to dead letters.
    pub fn dead_lettered(&self) -> u64 {
        DropReason::ALL.iter().filter(|r| r.is_dead_lettered()).map(|r| self.lost[*r as usize]).sum()
    }

    /// Lost with a count only.
    pub fn dropped(&self) -> u64 {
        self.lost.iter().sum::<u64>() - self.dead_lettered()
    }

    fn add_outcomes(&mut self, cell: &LedgerCell) {
        self.stored += cell.stored.get();
        self.handled += cell.handled.get();
        self.duplicate += cell.duplicate.get();
        self.processed += cell.processed.get();
        for (sum, counter) in self.lost.iter_mut().zip(&cell.lost) {
            *sum += counter.get();
        }
    }

    /// Adds another's terms to these.
    pub fn add(&mut self, other: &LedgerTerms) {
        self.received += other.received;
        self.processed += other.processed;
        self.stored += other.stored;
        self.handled += other.handled;
        self.duplicate += other.duplicate;
        for (sum, more) in self.lost.iter_mut().zip(&other.lost) {
            *sum += more;
        }
    }
}

/// A snapshot over several agents' cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// By source and tier.
    pub terms: [[LedgerTerms; Tier::COUNT]; Source::COUNT],
}

impl Ledger {
    /// Sums the cells, outcomes before receipts (L3).
    pub fn read<'a>(cells: impl Iterator<Item = &'a LedgerCells> + Clone) -> Self {
        let mut ledger = Self::default();
        for part in cells.clone() {
            for (terms, cell) in ledger.terms.iter_mut().flatten().zip(part.cells.iter().flatten()) {
                terms.add_outcomes(cell);
            }
        }
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire); // L3
        for part in cells {
            for (terms, cell) in ledger.terms.iter_mut().flatten().zip(part.cells.iter().flatten()) {
                terms.received += cell.received.get();
            }
        }
        ledger
    }

    /// The sum over sources and tiers.
    pub fn total(&self) -> LedgerTerms {
        let mut total = LedgerTerms::default();
        self.terms.iter().flatten().for_each(|terms| total.add(terms));
        total
    }

    /// The sum over sources, of one tier.
    pub fn tier(&self, tier: Tier) -> LedgerTerms {
        let mut total = LedgerTerms::default();
        self.terms.iter().for_each(|tiers| total.add(&tiers[tier.index()]));
        total
    }

    /// Whether receipts equal outcomes plus what is still in flight.
    pub fn balances(&self, in_flight: u64) -> bool {
        let total = self.total();
        total.received == total.outcomes() + in_flight
    }
}
