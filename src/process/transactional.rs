//! The TRANSACTIONAL processor: each event once, with a handler that may fail and is asked again.
//!
//! ```text
//! lanes ──► batch ──► key ──► seen before? ── yes ──► duplicate
//!                                  │ no
//!              retries, when due ──┴──► handler ──► ok ──► inlet, key handed over
//!                    ▲                    ├──► failed, tries left ──► copy ──► back-off ──┐
//!                    │                    ├──► failed for the last time ──► dead letter   │
//!                    └────────────────────┼───────────────────────────────────────────────┘
//!                                         └──► panicked ──► dead letter
//! ```
//!
//! Invariants, beside those of [`super`]:
//! - **T1** A healthy event never waits for a failing one: retries live in a queue and a memory of their own, and at most
//!   [`RETRIES_PER_POLL`] of them are tried before the next batch.
//! - **T2** A key is carried beside its event through a batch, and made again for an event that was away (a retry, a helper's): some 10 ns for a
//!   small event, against 16 bytes for each in flight.
//! - **T3** A draining agent does not wait for back-offs: what waits is tried at once, with the tries it has left, and
//!   then dead-lettered. So a drain ends after at most `max_retries` more calls per waiting event.
//! - **T4** Events overtake each other only by failing, and with an order by topic (`topic_order.rs`) not even then those of one topic;
//!   with spare handler threads also while these work, which is from level ELEVATED on ([`Transactional::add_spare`]).
//!
//! Without a handler every event that is no duplicate is in good order.

use std::sync::Arc;

use crate::agent::{Agent, Context, Holding, Work};
use crate::bus::TierReceiver;
use crate::control::NodeGate;
use crate::metrics::Measured;
use crate::metrics::latency::LatencyShared;
use crate::metrics::ledger::DropReason;
use crate::pool::{Event, EventView, PoolOwner, Returns, SharedPool};
use crate::process::crew::Crew;
use crate::process::dedup::{DedupKey, DedupOptions};
use crate::process::duplicates::{Duplicates, Keys, Next};
use crate::process::guard::{Called, Guard, HandlerHealth};
use crate::process::handled::HandledLatency;
use crate::process::handler::{HandlerError, HandlerMode, TransactionalHandler};
use crate::process::identity::DedupBy;
use crate::process::offload::{Offload, Verdict};
use crate::process::outlet::Outlet;
use crate::process::retry::{RetryOptions, RetryOrder, RetryQueue};
use crate::process::topic_order::{FailedTopics, TopicHasher};
use crate::process::{BLOCKED_RETRY, POLL_EVENTS_MAX, PollBudget, ProcessCounters, ProcessorWiring, STRETCH_EVENTS};
use crate::storage::dead_letter::Note;
use crate::sys::clock::{Clock, Nanos};
use crate::sys::io::{Completion, Ring};
use crate::sys::wake::Waker;
use crate::wire::Tier;

/// Retries tried in one poll (T1).
pub const RETRIES_PER_POLL: usize = 16;

/// Retries of a poll that may wait in the agent for a place in the inlet, beside a batch.
const HOLD_RETRIES_MAX: usize = POLL_EVENTS_MAX;

/// The numbers of the TRANSACTIONAL processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionalOptions {
    /// By what events without an idempotency key are told to be the same; `None`: they aren't compared.
    pub dedup_by: Option<DedupBy>,
    /// Keys of events without an idempotency key. Default 1,000,000 for an hour.
    pub dedup: DedupOptions,
    /// Idempotency keys remembered. Default 131,072 for an hour.
    pub keyed: DedupOptions,
    /// Tries and back-offs.
    pub retry: RetryOptions,
    /// What an inline handler may take per event, averaged over a batch. Default 10 µs.
    pub handler_budget: Nanos,
    /// Panics in a row that disable the handler, at least 1. Default 100.
    pub handler_panics_max: u32,
    /// Events with an offloaded handler at a time, a power of two. Default 1024.
    pub offload_events_max: usize,
}

impl Default for TransactionalOptions {
    fn default() -> Self {
        Self {
            dedup_by: Some(DedupBy::Content),
            dedup: DedupOptions::default(),
            keyed: DedupOptions::KEYED,
            retry: RetryOptions::default(),
            handler_budget: Nanos::from_micros(10),
            handler_panics_max: 100,
            offload_events_max: 1024,
        }
    }
}

type TransactionGuard = Guard<dyn TransactionalHandler>;

/// Who does the transaction.
enum Worker {
    Nobody,
    Inline(TransactionGuard),
    Offloaded(Crew),
}

/// The agent.
pub struct Transactional {
    options: TransactionalOptions,
    receiver: TierReceiver,
    pool: Arc<SharedPool>,
    outlet: Outlet,
    duplicates: Duplicates,
    retries: RetryQueue,
    worker: Worker,
    /// What failed in the batch in hand, with an inline handler and an order by topic.
    failed: Option<FailedTopics>,
    /// Woken by handler threads. `None`: the agent asks to be polled meanwhile.
    runner: Option<Waker>,
    health: Vec<Arc<HandlerHealth>>,
    gate: Arc<NodeGate>,
    budget: PollBudget,
    counters: Arc<ProcessCounters>,
    latency: HandledLatency,
    /// What follows is scratch of one poll, made at start and empty between polls.
    batch: Vec<Event>,
    keys: Keys,
    /// What of a batch does not wait behind others.
    free: (Vec<Event>, Keys),
    verdicts: Vec<Verdict>,
    draining: bool,
}

impl Transactional {
    /// Wires the processor; `retry_memory` is a partition of the wiring's pool, used by nobody else. Starts a
    /// helper thread if the handler is offloaded.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn new(
        options: TransactionalOptions,
        handler: Option<Box<dyn TransactionalHandler>>,
        retry_memory: PoolOwner,
        wiring: ProcessorWiring,
    ) -> std::io::Result<Self> {
        let ProcessorWiring { receiver, inlet, pool, ledger, dead_letters, counters, duplicates, gate, budget, runner } = wiring;
        let mut health = None;
        let (mut policy, hasher) = (options.retry.policy, TopicHasher::default());
        let mut failed = None;
        let worker = match handler {
            None => Worker::Nobody,
            Some(handler) => {
                let mode = handler.mode();
                policy = handler.retry_policy(policy);
                if options.retry.order == RetryOrder::Topic && policy.max_retries > 0 && mode == HandlerMode::Inline {
                    failed = Some(FailedTopics::new(hasher.clone(), budget.events_max()));
                }
                let guard = Guard::new(handler.name(), handler, options.handler_panics_max);
                health = Some(guard.health());
                match mode {
                    HandlerMode::Inline => Worker::Inline(guard),
                    HandlerMode::Offloaded => {
                        let first = offload("transactional", guard, &options, &pool, runner.clone())?;
                        Worker::Offloaded(Crew::new(first))
                    }
                }
            }
        };
        Ok(Self {
            receiver,
            outlet: Outlet::new(inlet, pool.clone(), ledger, dead_letters, duplicates, budget.events_max() + HOLD_RETRIES_MAX),
            pool,
            duplicates: match options.dedup_by.clone() {
                Some(by) => Duplicates::all(&options.keyed, by, &options.dedup),
                None => Duplicates::keyed_only(&options.keyed),
            },
            retries: RetryQueue::new(options.retry, policy, hasher, retry_memory),
            worker,
            failed,
            runner,
            health: health.into_iter().collect(),
            gate,
            counters,
            latency: HandledLatency::new(),
            batch: Vec::with_capacity(budget.events_max()),
            keys: Vec::with_capacity(budget.events_max()),
            free: (Vec::with_capacity(budget.events_max()), Vec::with_capacity(budget.events_max())),
            verdicts: Vec::with_capacity(budget.events_max()),
            budget,
            draining: false,
            options,
        })
    }

    /// Adds a handler thread that gets work from level ELEVATED on; `handler` runs there whatever its mode. Does nothing beside an inline
    /// handler, nor with an order by topic, which two threads could not keep. Events are not handled in order while spares work.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn add_spare(&mut self, handler: Box<dyn TransactionalHandler>) -> std::io::Result<()> {
        let Worker::Offloaded(crew) = &mut self.worker else { return Ok(()) };
        if self.options.retry.order == RetryOrder::Topic {
            return Ok(());
        }
        let guard = Guard::new(handler.name(), handler, self.options.handler_panics_max);
        self.health.push(guard.health());
        crew.add_spare(offload("transactional-spare", guard, &self.options, &self.pool, self.runner.clone())?);
        Ok(())
    }

    /// Where the outcomes of sessions' events go whose copies were tried again; before it is used.
    pub fn return_outcomes_to(&mut self, returns: Returns) {
        self.retries.return_outcomes_to(returns);
    }

    /// Latency from receive to handled, `latency_ns_trans`.
    pub fn latency(&self) -> Arc<LatencyShared> {
        self.latency.shared()
    }

    /// How its handler fares, and each spare.
    pub fn health(&self) -> &[Arc<HandlerHealth>] {
        &self.health
    }

    /// The handlers' health, for the exporter.
    pub fn measured(&self) -> Vec<Arc<dyn Measured>> {
        self.health.iter().map(|health| health.clone() as Arc<dyn Measured>).collect()
    }

    /// Slots of the retry memory that have not come home; zero after a drain, once dead letters are written.
    pub fn slots_missing(&mut self) -> u64 {
        self.retries.slots_missing()
    }

    fn offloaded(&self) -> usize {
        if let Worker::Offloaded(crew) = &self.worker { crew.in_flight() } else { 0 }
    }

    /// Events that may be started now: with a helper its room, else what the outlet takes.
    fn room(&self) -> usize {
        match &self.worker {
            // One at a time keeps a topic's order whatever fails: nothing is on its way behind it.
            Worker::Offloaded(crew) if self.options.retry.order == RetryOrder::Topic => 1 - crew.in_flight().min(1),
            Worker::Offloaded(crew) => crew.room(),
            Worker::Nobody | Worker::Inline(_) => self.outlet.room(),
        }
    }

    /// Takes what the helper is done with.
    fn collect(&mut self) -> u32 {
        let mut done = 0;
        let max = self.budget.events();
        while (done as usize) < max && self.outlet.room() > 0 {
            let Worker::Offloaded(crew) = &mut self.worker else { break };
            let Some(finished) = crew.collect() else { break };
            let key = self.duplicates.key(&self.pool, &finished.event);
            self.settle(finished.event, key, finished.verdict, finished.handled_at);
            done += 1;
        }
        done
    }

    /// Fills the batch with retries that are due (T1, T3).
    fn take_due(&mut self, now: Nanos) {
        let max = RETRIES_PER_POLL.min(self.room());
        while self.batch.len() < max {
            let Some(event) = self.retries.pop_due(now, self.draining) else { break };
            self.keys.push(self.duplicates.key(&self.pool, &event));
            self.batch.push(event);
        }
        // Those that only waited behind others are tried for the first time.
        let again = self.batch.iter().filter(|event| self.pool.header(event).attempts > 0).count();
        self.counters.transactional.retries.add(again as u64);
    }

    /// Fills the batch with at most so many new events, and takes the duplicates out of it. Returns how many were taken.
    fn take_new(&mut self, next: Next, max: usize) -> u32 {
        let max = max.min(self.room());
        let taken = if max == 0 { 0 } else { self.receiver.pop_batch(&mut self.batch, max) };
        if taken > 0 {
            self.batch.iter().for_each(|event| self.pool.prefetch(event));
            let counters = &self.counters.dedup[Tier::Transactional.index()];
            self.duplicates.screen(&self.pool, &mut self.batch, &mut self.keys, &mut self.outlet, counters, next);
        }
        taken as u32
    }

    /// Sends new events on as they are: nobody handles them. Returns how many were taken and how many of them went on.
    fn pass_on(&mut self, clock: &impl Clock) -> (u32, u32) {
        let (mut taken, mut passed, budget) = (0, 0, self.budget.events());
        while (taken as usize) < budget {
            let new = self.take_new(Next::Delivery, STRETCH_EVENTS);
            if new == 0 {
                break;
            }
            (taken, passed) = (taken + new, passed + self.batch.len() as u32);
            let handled_at = clock.now();
            let mut batch = std::mem::take(&mut self.batch);
            self.deliver_all(&mut batch, handled_at);
            self.batch = batch;
        }
        (taken, passed)
    }

    /// A batch is handled as a whole.
    fn deliver_all(&mut self, batch: &mut Vec<Event>, handled_at: Nanos) {
        self.counters.transactional.processed.add(batch.len() as u64);
        let latency = &mut self.latency;
        self.outlet.deliver_all(batch, |received_at, events| {
            latency.record_n(received_at, handled_at, events);
        });
    }

    /// Has due retries and new events handled. Returns how many were taken and how many are handled.
    fn work_off(&mut self, now: Nanos, clock: &impl Clock) -> (u32, u32) {
        if let Worker::Offloaded(crew) = &mut self.worker {
            crew.begin_poll(self.gate.read().actions().spare_handlers);
        }
        let mut handled = self.collect();
        self.take_due(now);
        let mut taken = self.batch.len() as u32;
        handled += self.work(clock);
        taken += self.take_new(Next::Handling, self.budget.events());
        if self.retries.has_lines() {
            self.queue_up(now);
        }
        handled += self.work(clock);
        if let Worker::Offloaded(crew) = &mut self.worker {
            crew.publish();
        }
        (taken, handled)
    }

    /// Takes the events out of the batch whose topic has one waiting for its next try.
    fn queue_up(&mut self, now: Nanos) {
        let (mut batch, mut keys) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.keys));
        for (event, key) in batch.drain(..).zip(keys.drain(..)) {
            if self.retries.must_wait(&self.pool, &event) {
                self.wait_behind(event, now);
            } else {
                self.free.0.push(event);
                self.free.1.push(key);
            }
        }
        (self.batch, self.keys) = std::mem::replace(&mut self.free, (batch, keys));
    }

    /// The event is not tried before those of its topic that wait.
    fn wait_behind(&mut self, event: Event, now: Nanos) {
        let attempts = self.pool.header(&event).attempts;
        match self.retries.detach(&self.pool, event, attempts) {
            Ok((copy, original)) => {
                original.into_iter().for_each(|event| self.outlet.release_copied(event));
                self.retries.push_behind(&self.pool, copy, now);
            }
            Err(event) => {
                self.lose(event, DropReason::RetryOverflow, Note::new("its topic has an event waiting for its next try"), now)
            }
        }
    }

    /// Has the batch handled, whoever does it. Returns how many events were handled here.
    fn work(&mut self, clock: &impl Clock) -> u32 {
        if self.batch.is_empty() {
            return 0;
        }
        let mut batch = std::mem::take(&mut self.batch);
        if let Worker::Offloaded(crew) = &mut self.worker {
            batch.drain(..).for_each(|event| crew.push(event));
            self.batch = batch;
            self.keys.clear();
            return 0;
        }
        let (mut keys, mut verdicts) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.verdicts));
        let handled_at = self.run_inline(&batch, &mut verdicts, clock);
        let done = batch.len() as u32;
        let is_plain = !self.retries.keeps_order() && verdicts.iter().all(|verdict| matches!(verdict, Verdict::Done));
        if is_plain {
            self.duplicates.hand_over_all(&self.pool, &batch, &keys, &self.outlet);
            self.deliver_all(&mut batch, handled_at);
            keys.clear();
            verdicts.clear();
        }
        for ((event, key), verdict) in batch.drain(..).zip(keys.drain(..)).zip(verdicts.drain(..)) {
            self.settle(event, key, verdict, handled_at);
        }
        (self.batch, self.keys, self.verdicts) = (batch, keys, verdicts);
        done
    }

    fn run_inline(&mut self, batch: &[Event], verdicts: &mut Vec<Verdict>, clock: &impl Clock) -> Nanos {
        let Worker::Inline(guard) = &mut self.worker else { unreachable!("only handlers here are run here") };
        let before = clock.now();
        self.failed.iter_mut().for_each(FailedTopics::clear);
        verdicts.extend(batch.iter().map(|event| attempt_in_order(guard, &mut self.failed, &self.pool.view(event))));
        let after = clock.now();
        guard.check_budget(batch.len(), after.since(before), self.options.handler_budget);
        after
    }

    /// Sends an event on its way (T2).
    fn settle(&mut self, event: Event, key: Option<DedupKey>, verdict: Verdict, handled_at: Nanos) {
        match verdict {
            Verdict::Done => {
                self.latency.record(self.pool.header(&event).received_at, handled_at);
                self.counters.transactional.processed.add(1);
                self.retries.leave(&self.pool, &event, handled_at);
                self.duplicates.deliver(&self.pool, event, key, &mut self.outlet);
            }
            Verdict::Failed(error) => self.fail(event, &error, handled_at),
            Verdict::Behind => self.wait_behind(event, handled_at),
            Verdict::Panicked(error) => self.lose(event, DropReason::HandlerPanic, error.note(), handled_at),
            Verdict::Disabled => {
                let note = Note::new("not tried: the handler is disabled after its panics");
                self.lose(event, DropReason::HandlerPanic, note, handled_at)
            }
        }
    }

    fn fail(&mut self, event: Event, error: &HandlerError, now: Nanos) {
        let (failed_before, leads) = (self.pool.header(&event).attempts, self.pool.header(&event).is_detached());
        if failed_before >= self.retries.max_retries() {
            return self.lose(event, DropReason::ProcessingFailed, error.note(), now);
        }
        let attempts = failed_before + 1;
        match self.retries.detach(&self.pool, event, attempts) {
            Ok((copy, original)) => {
                original.into_iter().for_each(|event| self.outlet.release_copied(event));
                self.retries.push_failed(&self.pool, copy, attempts, leads, now);
            }
            Err(event) => self.lose(event, DropReason::RetryOverflow, error.note(), now),
        }
    }

    fn lose(&mut self, event: Event, reason: DropReason, note: Note, now: Nanos) {
        self.retries.leave(&self.pool, &event, now);
        self.duplicates.lose(&self.pool, event, reason, note, &mut self.outlet);
    }

    fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let must_look_again = self.outlet.held() > 0 || (self.offloaded() > 0 && self.runner.is_none());
        let blocked = must_look_again.then(|| now + BLOCKED_RETRY);
        // Without room a due retry can't be tried; asking for a poll at its time would spin.
        let retry = if self.room() == 0 { None } else { self.retries.deadline() };
        let sweep = self.duplicates.deadline(now);
        [blocked, retry, sweep, self.latency.deadline()].into_iter().flatten().min()
    }
}

/// A thread for a handler.
fn offload(
    name: &str,
    mut guard: TransactionGuard,
    options: &TransactionalOptions,
    pool: &Arc<SharedPool>,
    runner: Option<Waker>,
) -> std::io::Result<Offload> {
    let job = Box::new(move |event: &EventView<'_>| attempt(&mut guard, event));
    Offload::start(name, options.offload_events_max, pool, runner, job)
}

/// One try.
fn attempt(guard: &mut TransactionGuard, event: &EventView<'_>) -> Verdict {
    match guard.call(|handler| handler.handle(event)) {
        Called::Done(Ok(())) => Verdict::Done,
        Called::Done(Err(error)) => Verdict::Failed(error),
        Called::Panicked(error) => Verdict::Panicked(error),
        Called::Disabled => Verdict::Disabled,
    }
}

/// One try, unless an event of its topic failed in the same batch (TO4).
fn attempt_in_order(guard: &mut TransactionGuard, failed: &mut Option<FailedTopics>, event: &EventView<'_>) -> Verdict {
    let topic = event.topic.as_bytes();
    if failed.as_ref().is_some_and(|failed| failed.has(topic)) {
        return Verdict::Behind;
    }
    let verdict = attempt(guard, event);
    if let (Verdict::Failed(_), Some(failed)) = (&verdict, failed) {
        failed.add(topic);
    }
    verdict
}

impl<R: Ring> Agent<R> for Transactional {
    fn name(&self) -> &'static str {
        "transactional"
    }

    fn start(&mut self, ctx: &mut Context<'_, R>) {
        self.duplicates.begin(ctx.now);
    }

    fn complete(&mut self, completion: Completion, _: &mut Context<'_, R>) {
        unreachable!("the transactional processor has no operations: {completion:?}");
    }

    fn poll(&mut self, ctx: &mut Context<'_, R>) -> Work {
        self.duplicates.advance(ctx.now);
        let moved = self.outlet.pump();
        let (taken, handled) = match &self.worker {
            Worker::Nobody => self.pass_on(ctx.ring),
            Worker::Inline(_) | Worker::Offloaded(_) => self.work_off(ctx.now, ctx.ring),
        };
        self.outlet.flush();
        self.retries.collect();
        self.counters.transactional.retries_waiting.set(self.retries.len() as u64);
        self.latency.end_poll(handled, ctx.now);
        if self.draining && Agent::<R>::is_drained(self) {
            self.latency.finish();
        }
        Work { done: moved + handled.max(taken), next_deadline: self.next_deadline(ctx.now) }
    }

    fn drain(&mut self, _: &mut Context<'_, R>) {
        self.draining = true;
        self.latency.finish(); // An idle agent may not be polled again.
    }

    fn is_drained(&self) -> bool {
        self.draining && Agent::<R>::holding(self).events == 0
    }

    fn holding(&self) -> Holding {
        let own = self.batch.len() + self.outlet.held() + self.retries.len() + self.offloaded();
        Holding { events: (self.receiver.depth() + own) as u64, staged: 0 }
    }
}

#[cfg(test)]
#[path = "transactional_tests.rs"]
mod tests;
