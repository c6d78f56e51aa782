//! The BATCH processor: counts every event into its topic's window, and passes it on.
//!
//! ```text
//! lanes ──► batch ──► window table of the open window ──► inlet
//!                          │ every 5 s, on the monotonic clock, and when drained
//!                          └──► window log: a line and a handler call per topic
//! ```
//!
//! Invariants, beside those of [`super`]:
//! - **BT1** An event counts into the window that is open when this processor takes it; each event into one window, or `topic_limit`.
//! - **BT2** A window with rows closes at its end even if nothing arrives; windows begin at whole multiples after the first.
//! - **BT3** Closing swaps tables and costs the same whatever they hold; a writer that still has the other table puts the closing off.
//! - **BT4** A drained processor has closed its window, and the writer has written it.

use std::sync::Arc;

use crate::agent::{Agent, Context, Holding, Work};
use crate::bus::TierReceiver;
use crate::metrics::latency::LatencyShared;
use crate::pool::{Event, SharedPool};
use crate::process::handled::HandledLatency;
use crate::process::outlet::Outlet;
use crate::process::window::WindowTable;
use crate::process::window_log::WindowLog;
use crate::process::{BLOCKED_RETRY, PollBudget, ProcessCounters, ProcessorWiring};
use crate::sys::clock::{Clock, Nanos, WallNanos};
use crate::sys::io::{Completion, Ring};

/// How soon a closing that was put off is tried again, and a draining processor looks for its writer.
const WRITER_RETRY: Nanos = Nanos::from_millis(1);

/// The numbers of the BATCH processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Length of a window, at least 1 ms. Default 5 s.
    pub window: Nanos,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self { window: Nanos::from_millis(5_000) }
    }
}

/// The agent.
pub struct Batch {
    options: BatchOptions,
    receiver: TierReceiver,
    pool: Arc<SharedPool>,
    outlet: Outlet,
    table: Box<WindowTable>,
    log: WindowLog,
    /// When the open window began, on both clocks.
    opened_at: Nanos,
    opened_wall: WallNanos,
    /// The present closing has been put off (and counted) already.
    is_extended: bool,
    counters: Arc<ProcessCounters>,
    latency: HandledLatency,
    /// The batch in hand; empty between polls.
    batch: Vec<Event>,
    budget: PollBudget,
    draining: bool,
}

impl Batch {
    /// Wires the processor.
    ///
    /// # Panics
    /// If the log serves another processor already, or the window is under a millisecond.
    pub fn new(options: BatchOptions, log: WindowLog, wiring: ProcessorWiring) -> Self {
        assert!(options.window >= Nanos::from_millis(1), "a window is at least a millisecond");
        let ProcessorWiring { receiver, inlet, pool, ledger, dead_letters, counters, duplicates, gate: _, budget, runner: _ } =
            wiring;
        Self {
            options,
            receiver,
            outlet: Outlet::new(inlet, pool.clone(), ledger, dead_letters, duplicates, budget.events_max()),
            pool,
            table: log.take_spare().expect("a fresh log has its tables"),
            log,
            opened_at: Nanos(0),
            opened_wall: WallNanos(0),
            is_extended: false,
            counters,
            latency: HandledLatency::new(),
            batch: Vec::with_capacity(budget.events_max()),
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
        &self.log
    }

    fn take(&mut self, clock: &impl Clock) -> u32 {
        let max = self.budget.events().min(self.outlet.room());
        if max == 0 || self.receiver.pop_batch(&mut self.batch, max) == 0 {
            return 0;
        }
        self.batch.iter().for_each(|event| self.pool.prefetch(event));
        let mut without_row = 0;
        for event in &self.batch {
            let header = self.pool.header(event);
            without_row += u64::from(!self.table.record(self.pool.topic(event), header.body_len, header.received_wall));
        }
        let (handled_at, done) = (clock.now(), self.batch.len() as u32);
        for event in self.batch.drain(..) {
            self.latency.record(self.pool.header(&event).received_at, handled_at);
            self.outlet.deliver(event);
        }
        self.counters.batch.processed.add(u64::from(done));
        self.counters.batch.topic_limit.add(without_row);
        done
    }

    /// Closes the open window if it is over (BT2), or now if `at_once`. True if it did.
    fn close_if_over(&mut self, now: Nanos, wall: WallNanos, at_once: bool) -> bool {
        let is_over = now.since(self.opened_at) >= self.options.window;
        if self.table.len() == 0 {
            if is_over {
                self.open_window(now, wall);
            }
            return false;
        }
        if !is_over && !at_once {
            return false;
        }
        let Some(spare) = self.log.take_spare() else {
            if !self.is_extended {
                self.is_extended = true;
                self.counters.batch.windows_extended.add(1);
            }
            return false;
        };
        let mut table = std::mem::replace(&mut self.table, spare);
        table.start = self.opened_wall;
        // On time it is exactly a window; put off, or cut short by a drain, what it was.
        table.length = if self.is_extended || at_once { now.since(self.opened_at) } else { self.options.window };
        self.counters.batch.windows_closed.add(table.len() as u64);
        self.log.write(table);
        self.is_extended = false;
        self.open_window(now, wall);
        true
    }

    /// The window that `now` falls into, in whole windows from the one before.
    fn open_window(&mut self, now: Nanos, wall: WallNanos) {
        let into = now.since(self.opened_at).0 % self.options.window.0;
        self.opened_at = Nanos(now.0 - into);
        self.opened_wall = WallNanos(wall.0.saturating_sub(into));
    }

    fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let blocked = (self.outlet.held() > 0).then(|| now + BLOCKED_RETRY);
        let over_at = self.opened_at + self.options.window;
        let closing = (self.table.len() > 0).then(|| if over_at > now { over_at } else { now + WRITER_RETRY });
        let writing = (self.draining && !self.is_written()).then(|| now + WRITER_RETRY);
        [blocked, closing, writing, self.latency.deadline()].into_iter().flatten().min()
    }

    fn is_written(&self) -> bool {
        self.table.len() == 0 && self.log.is_idle()
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
        (self.opened_at, self.opened_wall) = (ctx.now, ctx.wall);
    }

    fn complete(&mut self, completion: Completion, _: &mut Context<'_, R>) {
        unreachable!("the batch processor has no operations: {completion:?}");
    }

    fn poll(&mut self, ctx: &mut Context<'_, R>) -> Work {
        // First: what this poll takes belongs to the window that `now` is in.
        let closed = self.close_if_over(ctx.now, ctx.wall, false);
        let moved = self.outlet.pump();
        let taken = self.take(ctx.ring);
        self.outlet.flush();
        self.latency.end_poll(taken, ctx.now);
        if self.draining && self.events_held() == 0 {
            self.close_if_over(ctx.now, ctx.wall, true);
            self.latency.finish();
        }
        Work { done: u32::from(closed) + moved + taken, next_deadline: self.next_deadline(ctx.now) }
    }

    fn drain(&mut self, _: &mut Context<'_, R>) {
        self.draining = true;
        self.latency.finish(); // An idle agent may not be polled again.
    }

    fn is_drained(&self) -> bool {
        self.draining && self.events_held() == 0 && self.is_written()
    }

    fn holding(&self) -> Holding {
        Holding { events: self.events_held() as u64, staged: 0 }
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
