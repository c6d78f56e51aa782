//! The REALTIME processor: alert handlers on every event, within 100 µs of its receipt.
//!
//! ```text
//! lanes ──► batch ──► seen before? (idempotency keys) ──► inline handlers, one after the other over the batch ──► [helper thread] ──► inlet
//! ```
//!
//! Invariants, beside those of [`super`]:
//! - **RT1** Events leave in the order they came in, whether a handler is offloaded or not.
//! - **RT2** A store that stalls does not stop the handlers until `hold_events_max` events wait for it (PR4).
//! - **RT3** A handler's panic dead-letters its event; a disabled handler costs an alert, never an event (G2).

use std::sync::Arc;

use crate::agent::{Agent, Context, Holding, Work};
use crate::bus::TierReceiver;
use crate::metrics::Measured;
use crate::metrics::latency::LatencyShared;
use crate::metrics::ledger::DropReason;
use crate::pool::{Event, EventView, SharedPool};
use crate::process::dedup::{DedupKey, DedupOptions};
use crate::process::duplicates::{Duplicates, Keys};
use crate::process::guard::{Called, Guard, HandlerHealth};
use crate::process::handled::HandledLatency;
use crate::process::handler::{AlertHandler, HandlerError, HandlerMode};
use crate::process::offload::{Job, Offload, Verdict};
use crate::process::outlet::Outlet;
use crate::process::{BLOCKED_RETRY, POLL_EVENTS_MAX, ProcessCounters, ProcessorWiring};
use crate::sys::clock::{Clock, Nanos};
use crate::sys::io::{Completion, Ring};
use crate::wire::Tier;

/// The numbers of the REALTIME processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealtimeOptions {
    /// From receive to handled; later counts as an SLA miss. Default 100 µs.
    pub deadline: Nanos,
    /// What an inline handler may take per event, averaged over a batch. Default 10 µs.
    pub handler_budget: Nanos,
    /// Panics in a row that disable a handler, at least 1. Default 100.
    pub handler_panics_max: u32,
    /// Events with an offloaded handler at a time, a power of two. Default 1024.
    pub offload_events_max: usize,
    /// Handled events that may wait for a stalled store, at least 64. Default 4096.
    pub hold_events_max: usize,
    /// Idempotency keys remembered. Default 131,072 for an hour.
    pub keyed: DedupOptions,
}

impl Default for RealtimeOptions {
    fn default() -> Self {
        Self {
            deadline: Nanos::from_micros(100),
            handler_budget: Nanos::from_micros(10),
            handler_panics_max: 100,
            offload_events_max: 1024,
            hold_events_max: 4096,
            keyed: DedupOptions::KEYED,
        }
    }
}

type AlertGuard = Guard<dyn AlertHandler>;

/// The agent.
pub struct Realtime {
    options: RealtimeOptions,
    receiver: TierReceiver,
    pool: Arc<SharedPool>,
    outlet: Outlet,
    duplicates: Duplicates,
    inline: Vec<AlertGuard>,
    offload: Option<Offload>,
    can_be_woken: bool,
    health: Vec<Arc<HandlerHealth>>,
    counters: Arc<ProcessCounters>,
    latency: HandledLatency,
    /// The batch in hand; empty between polls.
    batch: Vec<Event>,
    keys: Keys,
    /// Panics of the batch in hand, by place in it; almost always empty.
    panicked: Vec<(usize, HandlerError)>,
    draining: bool,
}

impl Realtime {
    /// Wires the processor; starts a helper thread if a handler is offloaded.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn new(options: RealtimeOptions, handlers: Vec<Box<dyn AlertHandler>>, wiring: ProcessorWiring) -> std::io::Result<Self> {
        assert!(options.hold_events_max >= POLL_EVENTS_MAX, "a batch must fit into what may be held");
        let ProcessorWiring { receiver, inlet, pool, ledger, dead_letters, counters, duplicates, gate: _, budget: _, runner } =
            wiring;
        let can_be_woken = runner.is_some();
        let (inline, offloaded): (Vec<_>, Vec<_>) =
            handlers.into_iter().partition(|handler| handler.mode() == HandlerMode::Inline);
        let guard = |handler: Box<dyn AlertHandler>| Guard::new(handler.name(), handler, options.handler_panics_max);
        let inline: Vec<AlertGuard> = inline.into_iter().map(guard).collect();
        let offloaded: Vec<AlertGuard> = offloaded.into_iter().map(guard).collect();
        let health = inline.iter().chain(&offloaded).map(Guard::health).collect();
        let offload = if offloaded.is_empty() {
            None
        } else {
            Some(Offload::start("realtime", options.offload_events_max, &pool, runner, alert_job(offloaded))?)
        };
        Ok(Self {
            receiver,
            outlet: Outlet::new(inlet, pool.clone(), ledger, dead_letters, duplicates, options.hold_events_max),
            duplicates: Duplicates::keyed_only(&options.keyed),
            pool,
            inline,
            offload,
            can_be_woken,
            health,
            counters,
            latency: HandledLatency::with_taken(),
            batch: Vec::with_capacity(POLL_EVENTS_MAX),
            keys: Vec::with_capacity(POLL_EVENTS_MAX),
            panicked: Vec::with_capacity(POLL_EVENTS_MAX),
            draining: false,
            options,
        })
    }

    /// Latency from receive to handled, `latency_ns_realtime`.
    pub fn latency(&self) -> Arc<LatencyShared> {
        self.latency.shared()
    }

    /// Latency from receive to taken, `latency_ns_realtime_taken`.
    pub fn taken_latency(&self) -> Arc<LatencyShared> {
        self.latency.taken().expect("made with it")
    }

    /// How its handlers fare.
    pub fn health(&self) -> &[Arc<HandlerHealth>] {
        &self.health
    }

    /// The handlers' health, for the exporter.
    pub fn measured(&self) -> Vec<Arc<dyn Measured>> {
        self.health.iter().map(|health| health.clone() as Arc<dyn Measured>).collect()
    }

    /// Takes what the helper is done with.
    fn collect(&mut self) -> u32 {
        let mut done = 0;
        while (done as usize) < POLL_EVENTS_MAX && self.outlet.room() > 0 {
            let Some(finished) = self.offload.as_mut().and_then(Offload::collect) else { break };
            match finished.verdict {
                Verdict::Panicked(error) => self.lose(finished.event, &error),
                // An alert handler has no way to fail but to panic.
                Verdict::Done | Verdict::Failed(_) | Verdict::Disabled | Verdict::Behind => {
                    let key = self.duplicates.key(&self.pool, &finished.event);
                    self.finish(finished.event, key, finished.handled_at, finished.handled_at);
                }
            }
            done += 1;
        }
        done
    }

    /// Takes a batch and runs the inline handlers over it.
    fn take(&mut self, clock: &impl Clock) -> u32 {
        // What goes to the helper needs its place in the outlet only when it comes back (`collect` looks).
        let room = self.offload.as_ref().map_or_else(|| self.outlet.room(), Offload::room);
        let max = POLL_EVENTS_MAX.min(room);
        let mut batch = std::mem::take(&mut self.batch);
        if max == 0 || self.receiver.pop_batch(&mut batch, max) == 0 {
            self.batch = batch;
            return 0;
        }
        let taken = batch.len() as u32;
        batch.iter().for_each(|event| self.pool.prefetch(event));
        let counters = &self.counters.dedup[Tier::Realtime.index()];
        self.duplicates.screen(&self.pool, &mut batch, &mut self.keys, &mut self.outlet, counters);
        if batch.is_empty() {
            self.batch = batch;
            return taken;
        }
        let taken_at = clock.now();
        self.latency.record_taken(self.pool.header(&batch[0]).received_at, taken_at);
        let handled_at = self.run_inline(&batch, taken_at, clock);
        for (place, event) in batch.drain(..).enumerate() {
            if let Some((_, error)) = self.panicked.iter().find(|(panicked, _)| *panicked == place) {
                let error = *error;
                self.lose(event, &error);
            } else if let Some(offload) = &mut self.offload {
                offload.push(event);
            } else {
                self.finish(event, self.keys[place], taken_at, handled_at);
            }
        }
        self.panicked.clear();
        self.keys.clear();
        self.batch = batch;
        taken
    }

    /// Handler by handler over the whole batch: the code stays hot, and one clock read per handler tells which one is slow.
    fn run_inline(&mut self, batch: &[Event], taken_at: Nanos, clock: &impl Clock) -> Nanos {
        let mut before = taken_at;
        for guard in &mut self.inline {
            for (place, event) in batch.iter().enumerate() {
                let view = self.pool.view(event);
                if let Called::Panicked(error) = guard.call(|handler| handler.handle(&view))
                    && !self.panicked.iter().any(|(panicked, _)| *panicked == place)
                {
                    self.panicked.push((place, error));
                }
            }
            let after = clock.now();
            guard.check_budget(batch.len(), after.since(before), self.options.handler_budget);
            before = after;
        }
        before
    }

    fn lose(&mut self, event: Event, error: &HandlerError) {
        self.duplicates.lose(&self.pool, event, DropReason::HandlerPanic, error.note(), &mut self.outlet);
    }

    fn finish(&mut self, event: Event, key: Option<DedupKey>, taken_at: Nanos, handled_at: Nanos) {
        let received_at = self.pool.header(&event).received_at;
        let counters = &self.counters.realtime;
        if self.latency.record(received_at, handled_at) > self.options.deadline {
            let late_when_taken = taken_at.since(received_at) > self.options.deadline;
            let stage =
                if late_when_taken && self.offload.is_none() { &counters.sla_misses_queue } else { &counters.sla_misses_process };
            stage.add(1);
        }
        counters.processed.add(1);
        self.duplicates.deliver(&self.pool, event, key, &mut self.outlet);
    }

    fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        self.latency.deadline().into_iter().chain(self.duplicates.deadline(now)).min()
    }

    fn offloaded(&self) -> usize {
        self.offload.as_ref().map_or(0, Offload::in_flight)
    }
}

/// All offloaded alert handlers, one after the other on the helper thread.
fn alert_job(mut handlers: Vec<AlertGuard>) -> Job {
    Box::new(move |event: &EventView<'_>| {
        let mut verdict = Verdict::Done;
        for guard in &mut handlers {
            if let Called::Panicked(error) = guard.call(|handler| handler.handle(event)) {
                verdict = Verdict::Panicked(error);
            }
        }
        verdict
    })
}

impl<R: Ring> Agent<R> for Realtime {
    fn name(&self) -> &'static str {
        "realtime"
    }

    fn start(&mut self, ctx: &mut Context<'_, R>) {
        self.duplicates.begin(ctx.now);
    }

    fn complete(&mut self, completion: Completion, _: &mut Context<'_, R>) {
        unreachable!("the realtime processor has no operations: {completion:?}");
    }

    fn poll(&mut self, ctx: &mut Context<'_, R>) -> Work {
        self.duplicates.advance(ctx.now);
        let moved = self.outlet.pump();
        let collected = self.collect();
        let taken = self.take(ctx.ring);
        self.offload.iter_mut().for_each(Offload::publish);
        self.outlet.flush();
        self.latency.end_poll(collected + taken, ctx.now);
        if self.draining && Agent::<R>::is_drained(self) {
            self.latency.finish();
        }
        let must_look_again = self.outlet.held() > 0 || (self.offloaded() > 0 && !self.can_be_woken);
        let blocked = Work { done: moved + collected + taken, next_deadline: must_look_again.then(|| ctx.now + BLOCKED_RETRY) };
        blocked.and(Work { done: 0, next_deadline: self.next_deadline(ctx.now) })
    }

    fn drain(&mut self, _: &mut Context<'_, R>) {
        self.draining = true;
        self.latency.finish(); // An idle agent may not be polled again.
    }

    fn is_drained(&self) -> bool {
        self.draining && Agent::<R>::holding(self).events == 0
    }

    fn holding(&self) -> Holding {
        let events = self.receiver.depth() + self.batch.len() + self.outlet.held() + self.offloaded();
        Holding { events: events as u64, staged: 0 }
    }
}

#[cfg(test)]
#[path = "realtime_tests.rs"]
mod tests;
