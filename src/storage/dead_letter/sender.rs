//! An agent's end of the queue: whole letters, and a few samples of what is dropped.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::{LettersShared, Note, Queued, SenderCounters};
use crate::metrics::ledger::DropReason;
use crate::pool::{Event, EventHeader, Releaser};
use crate::sys::clock::Nanos;

/// Samples a second that one sender sends of what is dropped for one reason. Ten show what a flood consists of; more would cost slots and
/// cycles in the very moment that has none.
const SAMPLES_PER_S_MAX: u8 = 10;

/// How many samples may still be sent in this second, by reason.
#[derive(Debug)]
struct SampleBudget {
    left: [u8; DropReason::COUNT],
    refilled_at: Nanos,
}

/// One agent thread's way to the dead letters.
#[derive(Debug)]
pub struct DeadLetterSender {
    queue: Arc<ArrayQueue<Queued>>,
    shared: Arc<LettersShared>,
    releaser: Releaser,
    counters: Arc<SenderCounters>,
    node: u32,
    samples: SampleBudget,
}

impl DeadLetterSender {
    pub(super) fn new(
        queue: Arc<ArrayQueue<Queued>>,
        shared: Arc<LettersShared>,
        releaser: Releaser,
        counters: Arc<SenderCounters>,
        node: u32,
    ) -> Self {
        let samples = SampleBudget { left: [SAMPLES_PER_S_MAX; DropReason::COUNT], refilled_at: Nanos(0) };
        Self { queue, shared, releaser, counters, node, samples }
    }

    /// Hands an event over; never waits. When the queue is full the letter is lost: counted, its slot sent home at once. The caller
    /// counts the event's outcome in its ledger, either way.
    pub fn send(&mut self, event: Event, reason: DropReason, note: Note) {
        debug_assert!(reason.is_dead_lettered(), "what is only counted is sampled");
        self.counters.sent.add(1);
        if !self.push(Queued::Letter { event, reason, note, node: self.node }) {
            self.counters.lost.add(1);
        }
    }

    /// Begins a new second for samples, if there is one. Once per poll.
    pub fn refill_samples(&mut self, now: Nanos) {
        if now.since(self.samples.refilled_at) >= Nanos::from_millis(1000) {
            self.samples = SampleBudget { left: [SAMPLES_PER_S_MAX; DropReason::COUNT], refilled_at: now };
        }
    }

    /// Whether an event that is dropped for this reason shall be sent as a sample; takes one of this second's few. For the rest of a flood
    /// it is a load and a compare.
    pub fn takes_sample(&mut self, reason: DropReason) -> bool {
        let left = &mut self.samples.left[reason as usize];
        let takes = *left > 0;
        *left = left.saturating_sub(1);
        takes
    }

    /// Hands over an event that was dropped, and counted as such, to show what is dropped. After [`DeadLetterSender::takes_sample`].
    pub fn send_sample(&mut self, event: Event, reason: DropReason) {
        debug_assert!(!reason.is_dead_lettered(), "a letter is no sample");
        self.counters.samples_sent.add(1);
        if !self.push(Queued::Sample { event, reason, node: self.node }) {
            self.counters.samples_lost.add(1);
        }
    }

    /// As [`DeadLetterSender::send_sample`], for an event that there is no slot for: its header, and what a note holds of its topic.
    pub fn send_sample_of_topic(&mut self, header: EventHeader, topic: &str, reason: DropReason) {
        debug_assert!(!reason.is_dead_lettered(), "a letter is no sample");
        self.counters.samples_sent.add(1);
        if !self.push(Queued::TopicSample { header, topic: Note::new(topic), reason }) {
            self.counters.samples_lost.add(1);
        }
    }

    /// False: the queue is full; the slot is on its way home.
    fn push(&mut self, queued: Queued) -> bool {
        let refused = self.queue.push(queued).err();
        let is_queued = refused.is_none();
        if let Some(event) = refused.and_then(Queued::into_event) {
            self.releaser.release(event);
            self.releaser.flush();
        }
        self.shared.wake();
        is_queued
    }
}
