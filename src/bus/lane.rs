//! A lane: one producer's ring into one tier, bounded, wait-free but for eviction.
//!
//! ```text
//! producer: store slots[tail..] ── publish: tail.store(Release) ──►  consumer: read slots[head..tail], CAS head → head + n
//!           evict_oldest: read slots[head], CAS head → head + 1           (on failure: discard what was read, look again)
//! ```
//!
//! Invariants (loom, and a model test against a VecDeque):
//! - **B1** `head <= tail <= head + capacity`; both only grow (64-bit: no wrap, no ABA).
//! - **B2** An event is taken by whoever moves `head` over it with a successful CAS, and by nobody else. What was read before a
//!   failed CAS is a number, not an event.
//! - **B3** Slots are atomics: the producer may overwrite a slot that the consumer is still reading, when it evicted it; the consumer's
//!   CAS then fails (B2).
//! - **B4** Publishing releases, the consumer acquires: all of an event's bytes are visible with its ticket. A CAS of `head`
//!   releases, the producer acquires it before it reuses the slot.

use crossbeam_utils::CachePadded;

use crate::pool::Event;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::sys::wake::Waker;

/// A refused push gives the event back.
#[derive(Debug)]
pub struct Full<T>(pub T);

struct Shared {
    slots: Box<[AtomicU64]>,
    /// Written by the producer.
    tail: CachePadded<AtomicU64>,
    /// Moved by CAS: by the consumer once a batch, by the producer once an eviction.
    head: CachePadded<AtomicU64>,
}

impl Shared {
    fn slot(&self, position: u64) -> &AtomicU64 {
        &self.slots[(position & (self.slots.len() as u64 - 1)) as usize]
    }
}

/// Makes a lane of `capacity_events` (a power of two, all of it usable).
///
/// # Panics
/// If the capacity is not a power of two.
pub fn lane(capacity_events: usize) -> (LaneProducer, LaneConsumer) {
    assert!(capacity_events.is_power_of_two(), "lane capacities are powers of two");
    let shared = Arc::new(Shared {
        slots: (0..capacity_events).map(|_| AtomicU64::new(0)).collect(),
        tail: CachePadded::new(AtomicU64::new(0)),
        head: CachePadded::new(AtomicU64::new(0)),
    });
    let producer = LaneProducer { shared: shared.clone(), tail: 0, published: 0, head_seen: 0, waker: None };
    (producer, LaneConsumer { shared, tail_seen: 0 })
}

/// The sending end.
pub struct LaneProducer {
    shared: Arc<Shared>,
    /// Where the next event goes; ahead of `published` by what is not yet visible.
    tail: u64,
    published: u64,
    /// A lower bound of `head`.
    head_seen: u64,
    waker: Option<Waker>,
}

impl LaneProducer {
    /// Whom to wake on [`LaneProducer::publish`]: the consumer's runner, if that is another thread.
    pub fn set_waker(&mut self, waker: Waker) {
        self.waker = Some(waker);
    }

    /// Puts an event behind the others; the consumer sees it after [`LaneProducer::publish`].
    ///
    /// # Errors
    /// Gives the event back when the lane is full.
    #[inline]
    pub fn push(&mut self, event: Event) -> Result<(), Full<Event>> {
        if self.free() == 0 {
            return Err(Full(event));
        }
        // Relaxed: published by the Release in `publish` (B4).
        self.shared.slot(self.tail).store(event.into_raw(), Ordering::Relaxed);
        self.tail += 1;
        Ok(())
    }

    /// Places left; refreshes its view of the consumer only when it seems full.
    #[inline]
    pub fn free(&mut self) -> usize {
        let capacity = self.shared.slots.len() as u64;
        if self.tail - self.head_seen == capacity {
            // Acquire: pairs with the consumer's CAS (B4).
            self.head_seen = self.shared.head.load(Ordering::Acquire);
        }
        (capacity - (self.tail - self.head_seen)) as usize
    }

    /// Makes all pushed events visible, and wakes the consumer's runner if it sleeps. Once per batch.
    #[inline]
    pub fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        self.published = self.tail;
        self.shared.tail.store(self.tail, Ordering::Release); // B4: pairs with the Acquire in `pop_batch`.
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }

    /// Takes the oldest event back that the consumer has not taken (drop-old).
    pub fn evict_oldest(&mut self) -> Option<Event> {
        self.publish();
        let mut head = self.shared.head.load(Ordering::Acquire);
        while head < self.tail {
            let raw = self.shared.slot(head).load(Ordering::Relaxed);
            // AcqRel: Acquire to reuse the slot after the consumer's turn, Release to stay in one order with it (B4).
            match self.shared.head.compare_exchange(head, head + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.head_seen = head + 1;
                    // SAFETY: B2, the CAS made this event ours; `push` made the number from an event.
                    return Some(unsafe { Event::from_raw(raw) });
                }
                Err(now) => head = now,
            }
        }
        self.head_seen = head;
        None
    }

    /// Events in the lane, pushed ones included; exact for this thread up to what the consumer takes meanwhile.
    pub fn depth(&self) -> usize {
        (self.tail - self.shared.head.load(Ordering::Relaxed)) as usize
    }

    /// Events it can hold.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// A view of the depth for other threads.
    pub fn gauge(&self) -> LaneGauge {
        LaneGauge { shared: self.shared.clone() }
    }
}

/// The receiving end.
pub struct LaneConsumer {
    shared: Arc<Shared>,
    /// A lower bound of `tail`.
    tail_seen: u64,
}

impl LaneConsumer {
    /// Takes up to `max` events, oldest first, into `out`. Returns how many.
    #[inline]
    pub fn pop_batch(&mut self, out: &mut Vec<Event>, max: usize) -> usize {
        // Relaxed: the CAS below decides; a stale value only makes it fail (B2).
        let mut head = self.shared.head.load(Ordering::Relaxed);
        loop {
            if self.tail_seen <= head {
                self.tail_seen = self.shared.tail.load(Ordering::Acquire); // B4: pairs with `publish`.
            }
            // A head read long ago may lie beyond what we know of the tail: the producer evicted meanwhile.
            let count = self.tail_seen.saturating_sub(head).min(max as u64);
            if count == 0 {
                return 0;
            }
            let before = out.len();
            for position in head..head + count {
                // SAFETY: only a number until the CAS succeeds; taken back below if it fails (B2, B3).
                out.push(unsafe { Event::from_raw(self.shared.slot(position).load(Ordering::Relaxed)) });
            }
            match self.shared.head.compare_exchange(head, head + count, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return count as usize,
                Err(now) => {
                    out.drain(before..).for_each(|not_ours| std::mem::forget(not_ours.into_raw()));
                    head = now;
                }
            }
        }
    }

    /// Events to take, as last published.
    pub fn depth(&self) -> usize {
        let head = self.shared.head.load(Ordering::Relaxed);
        (self.shared.tail.load(Ordering::Relaxed).saturating_sub(head)) as usize
    }

    /// A view of the depth for other threads.
    pub fn gauge(&self) -> LaneGauge {
        LaneGauge { shared: self.shared.clone() }
    }
}

/// The depth of a lane, for flow control, levels and metrics.
#[derive(Clone)]
pub struct LaneGauge {
    shared: Arc<Shared>,
}

impl LaneGauge {
    /// Published events that nobody took yet.
    pub fn depth(&self) -> usize {
        let head = self.shared.head.load(Ordering::Relaxed);
        (self.shared.tail.load(Ordering::Relaxed).saturating_sub(head)) as usize
    }

    /// Events the lane can hold.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }
}

impl std::fmt::Debug for LaneProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneProducer").field("tail", &self.tail).field("capacity", &self.capacity()).finish()
    }
}

impl std::fmt::Debug for LaneConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneConsumer").field("depth", &self.depth()).finish()
    }
}

impl std::fmt::Debug for LaneGauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneGauge").field("depth", &self.depth()).finish()
    }
}
