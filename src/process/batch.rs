//! The BATCH processor: counts every event into its topic's window, and passes it on.
//!
//! ```text
//! lanes ──► batch ──► seen before? (idempotency keys) ──► open pane of each definition ──► inlet
//!                          │ at its end, on the monotonic clock, and when drained
//!                          └──► window log: a line and a handler call per group and window
//! ```
//!
//! Invariants, beside those of [`super`] and of the open panes (OW1 …, in `open_windows.rs`):
//! - **BT1** An event counts into the panes that are open when this processor takes it.
//! - **BT2** A poll closes what is over before it takes events; one that has nothing to take is asked for when the next pane ends.
//! - **BT3** A late writer makes windows longer, and loses no event's count.
//! - **BT4** A drained processor has closed its windows, and the writer has written them.

use std::sync::Arc;

use crate::agent::{Agent, Context, Holding, Work};
use crate::bus::TierReceiver;
use crate::metrics::latency::LatencyShared;
use crate::pool::{Event, SharedPool};
use crate::process::dedup::DedupOptions;
use crate::process::duplicates::{Duplicates, Keys, Next};
use crate::process::handled::HandledLatency;
use crate::process::open_windows::{OpenWindows, Recorded};
use crate::process::outlet::Outlet;
use crate::process::window_log::WindowLog;
use crate::process::{BLOCKED_RETRY, PollBudget, ProcessCounters, ProcessorWiring, STRETCH_EVENTS};
use crate::sys::clock::{Clock, Nanos, WallNanos};
use crate::sys::io::{Completion, Ring};
use crate::wire::Tier;

/// How soon a closing that was put off is tried again, and a draining processor looks for its writer.
const WRITER_RETRY: Nanos = Nanos::from_millis(1);

/// The numbers of the BATCH processor; those of its windows are the window log's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Idempotency keys remembered. Default 131,072 for an hour.
    pub keyed: DedupOptions,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { keyed: DedupOptions::KEYED }
    }
}

/// The agent.
pub struct Batch {
    receiver: TierReceiver,
    pool: Arc<SharedPool>,
    outlet: Outlet,
    duplicates: Duplicates,
    windows: OpenWindows,
    counters: Arc<ProcessCounters>,
    latency: HandledLatency,
    /// The batch in hand; empty between polls.
    batch: Vec<Event>,
    keys: Keys,
    budget: PollBudget,
    draining: bool,
}

impl Batch {
    /// Wires the processor. What windows it keeps is the log's to say.
    ///
    /// # Panics
    /// If the log serves another processor already.
    pub fn new(options: BatchOptions, log: WindowLog, wiring: ProcessorWiring) -> Self {
        let ProcessorWiring { receiver, inlet, pool, ledger, dead_letters, counters, duplicates, gate: _, budget, runner: _ } =
            wiring;
        Self {
            receiver,
            outlet: Outlet::new(inlet, pool.clone(), ledger, dead_letters, duplicates, budget.events_max()),
            duplicates: Duplicates::keyed_only(&options.keyed),
            pool,
            windows: OpenWindows::new(log),
            counters,
            latency: HandledLatency::new(),
            batch: Vec::with_capacity(budget.events_max()),
            keys: Vec::with_capacity(budget.events_max()),
            budget,
            draining: false,
        }
    }

    /// Latency from receive to handled, `latency_ns_batch`.
    pub fn latency(&self) -> Arc<LatencyShared> {
        self.latency.shared()
    }

    /// The log of windows: its handler's health.
    pub fn window_log(&self) -> &WindowLog {
        self.windows.log()
    }

    /// Works off a poll's events, stretch by stretch. Returns how many.
    fn take(&mut self, clock: &impl Clock) -> u32 {
        let (mut taken, budget) = (0, self.budget.events());
        while taken < budget {
            match self.take_stretch(clock) {
                0 => break,
                new => taken += new,
            }
        }
        taken as u32
    }

    fn take_stretch(&mut self, clock: &impl Clock) -> usize {
        let max = STRETCH_EVENTS.min(self.outlet.room());
        if max == 0 || self.receiver.pop_batch(&mut self.batch, max) == 0 {
            return 0;
        }
        let taken = self.batch.len();
        self.batch.iter().for_each(|event| self.pool.prefetch(event));
        let counters = &self.counters.dedup[Tier::Batch.index()];
        self.duplicates.screen(&self.pool, &mut self.batch, &mut self.keys, &mut self.outlet, counters, Next::Delivery);
        let without_row = self.windows.record(self.batch.iter().map(|event| {
            let header = self.pool.header(event);
            let (topic, body) = self.pool.payload(event).split_at(usize::from(header.topic_len));
            Recorded { topic, body, received_at: header.received_wall }
        }));
        self.counters.batch.topic_limit.add(without_row);
        self.counters.batch.processed.add(self.batch.len() as u64);
        let (handled_at, latency) = (clock.now(), &mut self.latency);
        self.outlet.deliver_all(&mut self.batch, |received_at, events| {
            latency.record_n(received_at, handled_at, events);
        });
        taken
    }

    /// Closes what is over, or everything now if `at_once`. Returns how many panes.
    fn close_windows(&mut self, now: Nanos, wall: WallNanos, at_once: bool) -> u32 {
        let closed = self.windows.close_those_over(now, wall, at_once);
        self.counters.batch.windows_closed.add(closed.rows);
        self.counters.batch.windows_extended.add(closed.extended);
        closed.panes
    }

    fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let blocked = (self.outlet.held() > 0).then(|| now + BLOCKED_RETRY);
        let closing = self.windows.next_deadline(now, WRITER_RETRY);
        let writing = (self.draining && !self.windows.is_written()).then(|| now + WRITER_RETRY);
        [blocked, closing, writing, self.latency.deadline(), self.duplicates.deadline(now)].into_iter().flatten().min()
    }

    fn events_held(&self) -> usize {
        self.receiver.depth() + self.batch.len() + self.outlet.held()
    }
}

impl<R: Ring> Agent<R> for Batch {
    fn name(&self) -> &'static str {
        "batch"
    }

    fn start(&mut self, ctx: &mut Context<'_, R>) {
        self.windows.start(ctx.now, ctx.wall);
        self.duplicates.begin(ctx.now);
    }

    fn complete(&mut self, completion: Completion, _: &mut Context<'_, R>) {
        unreachable!("the batch processor has no operations: {completion:?}");
    }

    fn poll(&mut self, ctx: &mut Context<'_, R>) -> Work {
        // First: what this poll takes belongs to the panes that `now` is in.
        let closed = self.close_windows(ctx.now, ctx.wall, false);
        self.duplicates.advance(ctx.now);
        let moved = self.outlet.pump();
        let taken = self.take(ctx.ring);
        self.outlet.flush();
        self.latency.end_poll(taken, ctx.now);
        if self.draining && self.events_held() == 0 {
            self.close_windows(ctx.now, ctx.wall, true);
            self.latency.finish();
        }
        Work { done: closed + moved + taken, next_deadline: self.next_deadline(ctx.now) }
    }

    fn drain(&mut self, _: &mut Context<'_, R>) {
        self.draining = true;
        self.latency.finish(); // An idle agent may not be polled again.
    }

    fn is_drained(&self) -> bool {
        self.draining && self.events_held() == 0 && self.windows.is_written()
    }

    fn holding(&self) -> Holding {
        Holding { events: self.events_held() as u64, staged: 0 }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
