//! Processing: one agent per tier, between the tier's lanes and the log.
//!
//! ```text
//!                   alert handlers (inline, or on a helper thread); the stock one is [`rules`], or without rules [`alert_log`]
//! REALTIME  ──────► realtime ──────────────────────────────────────────────┐
//!                                                                           │
//! TRANSACTIONAL ──► transactional: seen before? ── yes ──► duplicate        ├──► inlets ──► appender
//!                     │  handler ── fails ──► copy, back-off, again         │
//!                     └─ ok ────────────────────────────────────────────────┤
//! BATCH ──────────► batch: panes of windows ── closed ───► window log       │
//!                     └─────────────────────────────────────────────────────┘
//!                   what cannot be processed ──► dead letters, with its reason
//! ```
//!
//! Invariants, common to the three:
//! - **PR1** A poll takes at most its budget of events, reads the clock once or twice for each 64 of them, publishes its inlet once, and splices its released
//!   slots once. After start it allocates nothing.
//! - **PR2** An agent takes from its lanes only what it has room for; what is full in front of it (inlet, helper lane) makes its
//!   tier's depth rise, and nothing else.
//! - **PR3** Every event it takes leaves by one way, with one count ([`outlet`]).
//! - **PR4** REALTIME handlers go on while the store stalls, until `hold_events_max` handled events wait for it.
//!
//! What it does not do: choose a tier, apply an overflow policy, write the log.

#![forbid(unsafe_code)]

mod alert_line;
pub mod alert_log;
pub mod batch;
pub mod counters;
mod crew;
pub mod dedup;
mod duplicates;
pub mod guard;
mod handled;
pub mod handler;
pub mod identity;
pub mod json_pointer;
#[cfg(test)]
mod level_tests;
mod offload;
mod open_windows;
pub mod outlet;
mod quantiles;
mod rate;
pub mod realtime;
mod retry;
pub mod rules;
#[cfg(test)]
mod test_support;
mod topic_order;
pub mod transactional;
pub mod watch;
pub mod window;
pub mod window_log;
mod window_panes;
mod window_table;

use std::sync::Arc;

use crate::bus::{ClassCounters, TierReceiver, TopicClasses};
use crate::control::NodeGate;
use crate::metrics::ledger::LedgerCells;
use crate::pool::SharedPool;
use crate::storage::dead_letter::DeadLetterSender;
use crate::sys::clock::Nanos;
use crate::sys::wake::Waker;

pub use alert_log::{AlertLog, AlertLogOptions};
pub use batch::{Batch, BatchOptions};
pub use counters::ProcessCounters;
pub use dedup::DedupOptions;
pub use guard::{HandlerHealth, quiet_handler_panics};
pub use handler::{AlertHandler, HandlerError, HandlerMode, TransactionalHandler, WindowHandler};
pub use identity::DedupBy;
pub use json_pointer::{JsonPointer, JsonPointerRefusal, JsonValue};
pub use outlet::Inlet;
pub use realtime::{Realtime, RealtimeOptions};
pub use retry::{RetryOptions, RetryOrder, RetryPolicy};
pub use rules::{AlertRule, Rules, RulesCounters, RulesOptions};
pub use transactional::{Transactional, TransactionalOptions};
pub use watch::ProcessWatch;
pub use window::{ClosedWindow, GroupBy, ValueFigures, ValueSummary, WindowDefinition};
pub use window_log::{WindowLog, WindowLogOptions, WindowWriter};

/// The most events that a processor with handlers on REALTIME's runner takes in one poll, so that the runner gets back to REALTIME (and the
/// next agent) within some ten microseconds, and REALTIME itself.
pub const POLL_EVENTS_MAX: usize = 64;

/// The most events that other processors take in one poll. Without a handler that is as short a time. And it is more than a pressed reactor takes
/// in a turn of its own: queues run empty, and the slots that the next turn fills are still in the cache.
pub const POLL_EVENTS_WIDE: usize = 256;

/// Events that go through a poll together where nobody handles them, one step after the other for all of them: what the steps look at is 12 KiB of slots, and
/// stays in the nearest cache from one to the next. (256 at a time: 0.97 of the events a second, 4 ns more for each.)
pub(crate) const STRETCH_EVENTS: usize = 64;

/// How many events a processor may take in one poll.
#[derive(Clone, Debug)]
pub enum PollBudget {
    /// [`POLL_EVENTS_MAX`]: handlers hold up REALTIME, whose runner it shares.
    Narrow,
    /// [`POLL_EVENTS_WIDE`]: there is no handler that could.
    Wide,
    /// [`POLL_EVENTS_WIDE`] while the node's level says so: it has a runner of its own.
    ByLevel(Arc<NodeGate>),
}

impl PollBudget {
    /// Now.
    #[inline]
    pub(crate) fn events(&self) -> usize {
        match self {
            PollBudget::Narrow => POLL_EVENTS_MAX,
            PollBudget::ByLevel(gate) if !gate.read().actions().wide_budgets => POLL_EVENTS_MAX,
            PollBudget::Wide | PollBudget::ByLevel(_) => POLL_EVENTS_WIDE,
        }
    }

    /// The most it will ever be, for scratch memory.
    pub(crate) fn events_max(&self) -> usize {
        if matches!(self, PollBudget::Narrow) { POLL_EVENTS_MAX } else { POLL_EVENTS_WIDE }
    }
}

/// How soon an agent that waits for a full inlet, or for a helper that cannot wake it, looks again.
pub(crate) const BLOCKED_RETRY: Nanos = Nanos::from_micros(100);

/// Counts one processor's duplicates by topic class.
pub fn duplicates_by_class(classes: &Arc<TopicClasses>) -> Arc<ClassCounters> {
    Arc::new(ClassCounters::new("dedup_hits_by_class", "Duplicates recognised, by topic class.", classes.clone()))
}

/// What joins a processor to the rest of the node.
pub struct ProcessorWiring {
    /// Its tier's lanes.
    pub receiver: TierReceiver,
    /// Its way to the log; `None` with storage off: events then count as handled.
    pub inlet: Option<Inlet>,
    /// The pool its events live in.
    pub pool: Arc<SharedPool>,
    /// Its own part of the ledger.
    pub ledger: Arc<LedgerCells>,
    /// Its own way to the dead letters.
    pub dead_letters: DeadLetterSender,
    /// The node's counters; each processor writes its own part.
    pub counters: Arc<ProcessCounters>,
    /// Its duplicates by topic class; no other agent counts here.
    pub duplicates: Arc<ClassCounters>,
    /// The node's gate, for what the level asks of processors.
    pub gate: Arc<NodeGate>,
    /// Events in one poll.
    pub budget: PollBudget,
    /// Its runner, which an offloaded handler wakes when it is done. `None`: the agent asks to be polled every 100 µs meanwhile.
    pub runner: Option<Waker>,
}
