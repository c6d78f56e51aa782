//! The way from a rule to an address or a program: a fixed number of copies, on a thread that may wait.
//!
//! ```text
//! agent: a free copy? ── filled ──► queue ──► thread of the target: send, or run ──► done, failed
//!             └── none: overflowed, counted                          └── the copy is free again
//! ```
//!
//! Invariants:
//! - **RA1** The agent neither allocates nor waits: it fills a copy made at start, or counts.
//! - **RA2** Every alert that was queued ends as `done` or `failed`, also when the engine ends.
//! - **RA3** Targets share nothing: one that hangs fills its own queue and no other.
//! - **RA4** A target says at most a line a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

use crossbeam_queue::ArrayQueue;

use super::counters::{ActionKind, RulesCounters};
use super::targets::{Destination, Target, Turn};
use crate::pool::EventView;
use crate::process::alert_line::AlertFacts;
use crate::storage::rotating_file::Complaints;
use crate::sys::process::helper_thread_setup;
use crate::wire::TOPIC_BYTES_MAX;

/// Alerts that may wait for one target.
pub(super) const ORDERS_MAX: usize = 128;

/// How often a thread looks for alerts, so that the agent pays for no wake-up.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How soon it looks again while the engine ends.
const LOOK_EVERY_AT_THE_END: Duration = Duration::from_millis(5);

/// How long what is queued has at the end of the engine.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// An alert on its way: a bounded copy of the event.
pub(super) struct Order {
    pub(super) facts: AlertFacts,
    topic: String,
    body: Vec<u8>,
}

impl Order {
    fn new(body_bytes_max: usize) -> Self {
        let facts = AlertFacts { rule: None, id: 0, received_unix_ns: 0, priority: "", source: "", topic_len: 0, body_len: 0 };
        Self { facts, topic: String::with_capacity(TOPIC_BYTES_MAX), body: Vec::with_capacity(body_bytes_max) }
    }

    /// Topics are never longer than what there is room for; bodies are cut.
    fn fill(&mut self, event: &EventView<'_>, rule: u8, body_bytes_max: usize) {
        self.facts = AlertFacts::of(event, Some(rule));
        self.topic.clear();
        self.topic.push_str(event.topic);
        self.body.clear();
        self.body.extend_from_slice(&event.body[..event.body.len().min(body_bytes_max)]);
    }

    pub(super) fn rule(&self) -> u8 {
        self.facts.rule.expect("an order is a rule's")
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }
}

/// What a target's queue takes, bytes.
pub(super) const fn outbox_bytes(body_bytes_max: usize) -> usize {
    ORDERS_MAX * (size_of::<Order>() + TOPIC_BYTES_MAX + body_bytes_max)
}

struct Post {
    free: ArrayQueue<Box<Order>>,
    queued: ArrayQueue<Box<Order>>,
    stop: AtomicBool,
    kind: ActionKind,
    counters: Arc<RulesCounters>,
}

/// The agent's side. Dropping it lets the thread finish what is queued, for so long.
pub(super) struct Outbox {
    post: Arc<Post>,
    body_bytes_max: usize,
    thread: Option<JoinHandle<()>>,
}

impl Outbox {
    /// Makes the copies and starts the thread.
    pub(super) fn start(destination: Destination, body_bytes_max: usize, counters: Arc<RulesCounters>) -> io::Result<Self> {
        let post = Arc::new(Post {
            free: ArrayQueue::new(ORDERS_MAX),
            queued: ArrayQueue::new(ORDERS_MAX),
            stop: AtomicBool::new(false),
            kind: destination.kind(),
            counters,
        });
        while post.free.push(Box::new(Order::new(body_bytes_max))).is_ok() {}
        let desk = Desk { post: post.clone(), complaints: Complaints::default() };
        let name = format!("alerts-{}", destination.kind().name());
        let thread = std::thread::Builder::new().name(name).spawn(move || desk.run(Target::new(destination)))?;
        Ok(Self { post, body_bytes_max, thread: Some(thread) })
    }

    /// Queues an alert, or counts that there is no room for it.
    pub(super) fn send(&self, event: &EventView<'_>, rule: u8) {
        let Some(mut order) = self.post.free.pop() else {
            return self.post.counters.action(rule, self.post.kind).overflowed.add(1);
        };
        order.fill(event, rule, self.body_bytes_max);
        let queued = self.post.queued.push(order);
        debug_assert!(queued.is_ok(), "there are no more copies than places");
    }

    /// Tells the thread that the end is near, without waiting for it.
    pub(super) fn stop(&self) {
        self.post.stop.store(true, Ordering::Release);
        self.thread.iter().for_each(|thread| thread.thread().unpark());
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // It only ends early by a panic of our own code, which has been reported on its way.
            let _ = thread.join();
        }
    }
}

/// The thread's side: where a target gets alerts from, and tells what became of them.
pub(super) struct Desk {
    post: Arc<Post>,
    complaints: Complaints,
}

impl Desk {
    /// The next alert.
    pub(super) fn next(&mut self) -> Option<Box<Order>> {
        self.post.queued.pop()
    }

    /// Makes the copy free again.
    pub(super) fn give_back(&mut self, order: Box<Order>) {
        let given_back = self.post.free.push(order);
        debug_assert!(given_back.is_ok(), "there are no more copies than places");
    }

    /// The name of a rule.
    pub(super) fn name(&self, rule: u8) -> &str {
        self.post.counters.name(rule)
    }

    /// An alert of this rule is at its end, and well.
    pub(super) fn done(&mut self, rule: u8) {
        self.post.counters.action(rule, self.post.kind).done.add(1);
    }

    /// An alert of this rule is at its end, and not well (RA4).
    pub(super) fn failed(&mut self, rule: u8, why: impl fmt::Display) {
        let action = self.post.counters.action(rule, self.post.kind);
        action.failed.add(1);
        if self.complaints.is_due() {
            let failed = action.failed.get();
            log::error!("rule `{}`: {why} ({failed} of its alerts have failed so far)", self.name(rule));
        }
    }

    fn run(mut self, mut target: Target) {
        helper_thread_setup();
        let mut stop_by = None;
        loop {
            // Looked at before the queue: what was queued before the stop is handled.
            if self.post.stop.load(Ordering::Acquire) {
                let stop_by = *stop_by.get_or_insert_with(|| Instant::now() + STOP_GRACE);
                let is_over = target.is_at_rest() && self.post.queued.is_empty();
                if is_over || target.is_left_alone() || Instant::now() >= stop_by {
                    return self.finish(&mut target);
                }
            }
            if let Turn::Idle(pause) = target.turn(&mut self) {
                let look_every = if stop_by.is_some() { LOOK_EVERY_AT_THE_END } else { LOOK_EVERY };
                std::thread::park_timeout(pause.min(look_every));
            }
        }
    }

    /// RA2: what can't be handled any more has failed.
    fn finish(mut self, target: &mut Target) {
        target.abandon(&mut self);
        while let Some(order) = self.next() {
            self.failed(order.rule(), "the engine has ended before an alert could be sent");
        }
    }
}
