//! Events waiting for their next try: detached copies, in the order in which they are due.
//!
//! A failed event is copied into a partition of the pool that belongs to this queue, and its own slot goes home, so that waiting
//! events never hold slots that healthy ones need.
//!
//! Invariants:
//! - **Q1** A copy is known by its header ([`EventHeader::is_detached`]); an event is copied once, whatever comes after.
//! - **Q2** The queue never holds more than the partition has slots, and its heap is made for that many: it never grows.
//! - **Q3** Back-off n is between half of and all of `backoff * 2^(n-1)`, at most `backoff_max`: jitter keeps events that failed
//!   together from coming back together.
//! - **Q4** With an order by topic the heap holds the leaders of lines only ([`super::topic_order`]): at most one event of a topic is due or being
//!   tried.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::pool::{Event, EventHeader, PoolOwner, Releaser, Returns, SharedPool};
use crate::process::topic_order::{Lines, TopicHash, TopicHasher};
use crate::sys::clock::Nanos;

/// How often a handler's event is tried again, and after which waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries after the first, 0 to 254. Default 3.
    pub max_retries: u8,
    /// Back-off before the first retry; doubles with each. Default 50 ms.
    pub backoff: Nanos,
    /// The longest back-off. Default 10 s.
    pub backoff_max: Nanos,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_retries: 3, backoff: Nanos::from_millis(50), backoff_max: Nanos::from_millis(10_000) }
    }
}

/// Who waits for an event that waits for its next try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RetryOrder {
    /// Nobody: later events overtake it.
    #[default]
    None,
    /// Later events of its topic.
    Topic,
}

/// The numbers of retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOptions {
    /// For handlers that don't declare their own.
    pub policy: RetryPolicy,
    /// Whether events of a topic keep their order.
    pub order: RetryOrder,
    /// Seeds the jitter; the simulator fixes it. Default 1.
    pub jitter_seed: u64,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self { policy: RetryPolicy::default(), order: RetryOrder::None, jitter_seed: 1 }
    }
}

/// An event and when it is due; the sequence makes the order total and first come, first served.
struct Due {
    at: Nanos,
    sequence: u64,
    event: Event,
}

impl Due {
    fn order(&self) -> (Nanos, u64) {
        (self.at, self.sequence)
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// The queue and its memory.
pub(crate) struct RetryQueue {
    policy: RetryPolicy,
    memory: PoolOwner,
    returns: Returns,
    heap: BinaryHeap<Reverse<Due>>,
    /// `None`: no order.
    lines: Option<Lines>,
    hasher: TopicHasher,
    next_sequence: u64,
    random: u64,
}

impl RetryQueue {
    /// `memory` is a partition that only this queue takes slots from; `policy` is the handler's.
    pub(crate) fn new(options: RetryOptions, policy: RetryPolicy, hasher: TopicHasher, memory: PoolOwner) -> Self {
        let slots = memory.gauges().total.iter().map(|slots| *slots as usize).sum();
        let lines = (options.order == RetryOrder::Topic).then(|| Lines::new(slots));
        Self {
            policy,
            memory,
            returns: Returns::new(1),
            heap: BinaryHeap::with_capacity(slots),
            lines,
            hasher,
            next_sequence: 0,
            random: options.jitter_seed,
        }
    }

    /// Where outcomes of sessions' copies go; at start.
    pub(crate) fn return_outcomes_to(&mut self, returns: Returns) {
        self.returns = returns;
    }

    pub(crate) fn max_retries(&self) -> u8 {
        self.policy.max_retries
    }

    /// Events waiting.
    pub(crate) fn len(&self) -> usize {
        self.heap.len() + self.lines.as_ref().map_or(0, Lines::waiting)
    }

    /// Slots of its memory that have not come home.
    pub(crate) fn slots_missing(&mut self) -> u64 {
        self.memory.missing()
    }

    /// The event to keep for a next try, `attempts` tries having failed: a copy in the partition, with the original to be
    /// released, or the event itself if it is such a copy (Q1).
    ///
    /// # Errors
    /// Gives the event back when the partition has no slot for it.
    pub(crate) fn detach(&mut self, pool: &SharedPool, mut event: Event, attempts: u8) -> Result<(Event, Option<Event>), Event> {
        let header: EventHeader = *pool.header(&event);
        if header.is_detached() {
            pool.header_mut(&mut event).attempts = attempts;
            return Ok((event, None));
        }
        match self.memory.store(header.detached(attempts), pool.payload(&event)) {
            Some(copy) => Ok((copy, Some(event))),
            None => Err(event),
        }
    }

    fn topic(&self, pool: &SharedPool, event: &Event) -> TopicHash {
        self.hasher.of(pool.topic(event))
    }

    /// Queues a detached event that failed for its next try; `leads`: it has before, and its topic has its line already.
    pub(crate) fn push_failed(&mut self, pool: &SharedPool, event: Event, attempts: u8, leads: bool, now: Nanos) {
        let at = now + self.backoff(attempts);
        match &mut self.lines {
            Some(lines) if !leads => {
                if let Some(leader) = lines.join(self.hasher.of(pool.topic(&event)), event) {
                    self.push(leader, at);
                }
            }
            _ => self.push(event, at),
        }
    }

    /// Queues a detached event behind the one of its topic that failed; if that is gone, it is due at once.
    pub(crate) fn push_behind(&mut self, pool: &SharedPool, event: Event, now: Nanos) {
        let topic = self.topic(pool, &event);
        let lines = self.lines.as_mut().expect("only an order by topic makes events wait for others");
        if let Some(leader) = lines.join(topic, event) {
            self.push(leader, now);
        }
    }

    /// Whether a new event has to wait for one of its topic.
    pub(crate) fn must_wait(&self, pool: &SharedPool, event: &Event) -> bool {
        self.lines.as_ref().is_some_and(|lines| !lines.is_empty() && lines.has(self.topic(pool, event)))
    }

    /// Whether events of a topic keep their order.
    pub(crate) fn keeps_order(&self) -> bool {
        self.lines.is_some()
    }

    /// Whether new events may have to wait for others.
    pub(crate) fn has_lines(&self) -> bool {
        self.lines.as_ref().is_some_and(|lines| !lines.is_empty())
    }

    /// An event is about to leave for good: the next of its line leads.
    pub(crate) fn leave(&mut self, pool: &SharedPool, event: &Event, now: Nanos) {
        if self.lines.is_none() || !pool.header(event).is_detached() {
            return;
        }
        let topic = self.topic(pool, event);
        if let Some(next) = self.lines.as_mut().and_then(|lines| lines.next(topic)) {
            self.push(next, now);
        }
    }

    fn push(&mut self, event: Event, at: Nanos) {
        debug_assert!(self.heap.len() < self.heap.capacity(), "Q2");
        self.heap.push(Reverse(Due { at, sequence: self.next_sequence, event }));
        self.next_sequence += 1;
    }

    /// The next event that is due, or any if `at_once`.
    pub(crate) fn pop_due(&mut self, now: Nanos, at_once: bool) -> Option<Event> {
        let Reverse(first) = self.heap.peek()?;
        if first.at > now && !at_once {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| due.event)
    }

    /// When the next one is due.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse(due)| due.at)
    }

    /// Takes home what was released of the partition, and sends the outcomes of sessions' events on. Once per poll.
    pub(crate) fn collect(&mut self) {
        self.memory.collect();
        self.returns.send_from(&mut self.memory);
    }

    /// Q3.
    fn backoff(&mut self, attempts: u8) -> Nanos {
        let doublings = u32::from(attempts.saturating_sub(1)).min(40);
        let full = (u128::from(self.policy.backoff.0) << doublings).min(u128::from(self.policy.backoff_max.0)) as u64;
        Nanos(full - full / 2 + self.next_random() % (full / 2 + 1))
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

impl Drop for RetryQueue {
    /// A drain that ran out of time leaves events here; the ledger shows them as in flight.
    fn drop(&mut self) {
        let mut releaser = Releaser::new(self.memory.shared().clone());
        self.heap.drain().for_each(|Reverse(due)| releaser.release(due.event));
        self.lines.iter_mut().flat_map(Lines::drain).for_each(|event| releaser.release(event));
        releaser.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::test_support::TestPool;

    fn queue(pool: &mut TestPool, policy: RetryPolicy) -> RetryQueue {
        let memory = pool.retry_memory.take().unwrap();
        RetryQueue::new(RetryOptions::default(), policy, TopicHasher::default(), memory)
    }

    #[test]
    fn events_come_back_when_due_in_order_of_their_time() {
        let mut pool = TestPool::new();
        let policy = RetryPolicy { backoff: Nanos(1000), ..Default::default() };
        let mut queue = queue(&mut pool, policy);
        for id in 0..4 {
            let event = pool.transactional(id, "t", b"body");
            let (copy, original) = queue.detach(&pool.shared, event, 1).unwrap();
            pool.release(original.unwrap());
            queue.push_failed(&pool.shared, copy, 1, false, Nanos(id * 2000));
        }
        assert_eq!(pool.events_out(), 0, "waiting copies hold no slot of the reactor's");
        assert!(queue.pop_due(Nanos(499), false).is_none());
        for id in 0..4 {
            let due = queue.deadline().unwrap();
            assert!((id * 2000 + 500..=id * 2000 + 1000).contains(&due.0), "Q3: {due:?}");
            let event = queue.pop_due(due, false).unwrap();
            assert_eq!((pool.shared.header(&event).id, pool.shared.payload(&event)), (id, b"tbody".as_slice()));
            pool.release(event);
        }
    }

    #[test]
    fn backoff_doubles_up_to_its_maximum() {
        let mut pool = TestPool::new();
        let policy = RetryPolicy { backoff: Nanos(1000), backoff_max: Nanos(5000), ..Default::default() };
        let mut queue = queue(&mut pool, policy);
        for (attempts, full) in [(1, 1000), (2, 2000), (3, 4000), (4, 5000), (200, 5000)] {
            (0..100).for_each(|_| assert!((full / 2..=full).contains(&queue.backoff(attempts).0)));
        }
    }

    #[test]
    fn a_copy_is_not_copied_again_and_a_full_partition_gives_the_event_back() {
        let mut pool = TestPool::new();
        let mut queue = queue(&mut pool, RetryPolicy::default());
        let event = pool.transactional(1, "t", b"b");
        let (copy, original) = queue.detach(&pool.shared, event, 1).unwrap();
        pool.release(original.unwrap());
        let (copy, original) = queue.detach(&pool.shared, copy, 2).unwrap();
        assert!(original.is_none());
        assert_eq!(pool.shared.header(&copy).attempts, 2);
        queue.push_failed(&pool.shared, copy, 2, true, Nanos(0));
        let too_large = pool.transactional(2, "t", &[0; 1000]);
        let refused = queue.detach(&pool.shared, too_large, 1).unwrap_err();
        pool.release(refused);
    }
}
