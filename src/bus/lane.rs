//! A lane: one producer's ring into one tier, bounded; push, publish and evict are wait-free.
//!
//! ```text
//! producer: store slots[tail..] ── publish: tail.store(Release) ──►  consumer: read slots[head..tail], CAS head → head + n
//!           evict: read slots[head], CAS head → head + 1        (on failure: forget what was evicted, CAS again with the rest)
//! ```
//!
//! Invariants (loom, and a model test against a VecDeque):
//! - **B1** `head <= tail <= head + capacity`; both only grow (64-bit: no wrap, no ABA).
//! - **B2** An event is taken by whoever moves `head` over it with a successful CAS, and by nobody else. What was read before
//!   that CAS is a number, not an event.
//! - **B3** Slots are atomics. A position is overwritten only after `head` has passed it, so a number read from a position that
//!   `head` has not passed by the time of the CAS is the right one, and one that it has passed is forgotten.
//! - **B4** Publishing releases, the consumer acquires: all of an event's bytes are visible with its ticket. A CAS of `head`
//!   releases, the producer acquires it before it reuses the slot.
//!
//! A producer that evicts once per event can't starve the consumer: a failed CAS loses only what was evicted meanwhile, and the
//! next one follows at once, while this core still has the line.
//!
//! What it does not do: choose between policies (see `policy`), or release events. A lane that is dropped with events in it forgets
//! their numbers; their slots stay out until the pool goes. An orderly stop drains it before.

use crossbeam_utils::CachePadded;

use crate::metrics::ledger::Counter;
use crate::pool::Event;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::sys::wake::Waker;

#[cfg(all(test, loom))]
mod loom_tests;

/// A refused push gives the event back.
#[derive(Debug)]
pub struct Full<T>(pub T);

/// What the producer could not queue, counted by it alone.
#[derive(Debug, Default)]
pub struct Losses {
    /// Events taken back from the lane to make room (drop-old).
    pub evicted: Counter,
    /// Events turned away by a full lane (drop-new).
    pub refused: Counter,
    /// Times that a producer was told to wait: above the high-water mark, or by a full lane (block-producer).
    pub waited: Counter,
}

struct Shared {
    slots: Box<[AtomicU64]>,
    /// Written by the producer.
    tail: CachePadded<AtomicU64>,
    /// Moved by CAS: by the consumer once a batch, by the producer once an eviction.
    head: CachePadded<AtomicU64>,
    losses: CachePadded<Losses>,
}

impl Shared {
    /// Published and not taken. Two looks at two moments, so bounded by hand (B1).
    fn depth(&self) -> usize {
        // Relaxed: a number for people and for flow control; no event is touched through it.
        let head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        (tail.saturating_sub(head) as usize).min(self.slots.len())
    }

    fn slot(&self, position: u64) -> &AtomicU64 {
        &self.slots[self.place(position)]
    }

    #[inline]
    fn place(&self, position: u64) -> usize {
        (position & (self.slots.len() as u64 - 1)) as usize
    }

    /// The slots of `head..end` in their order: in two pieces, as they may go around the end of the memory.
    #[inline]
    fn pieces(&self, head: u64, end: u64) -> [&[AtomicU64]; 2] {
        let (start, count) = (self.place(head), (end - head) as usize);
        let around = (start + count).saturating_sub(self.slots.len());
        [&self.slots[start..start + count - around], &self.slots[..around]]
    }
}

/// Makes a lane of `capacity_events` (a power of two, all of it usable).
///
/// # Panics
/// If the capacity is not a power of two.
pub fn lane(capacity_events: usize) -> (LaneProducer, LaneConsumer) {
    assert!(capacity_events.is_power_of_two(), "lane capacities are powers of two");
    let capacity = capacity_events as u64;
    let shared = Arc::new(Shared {
        slots: (0..capacity_events).map(|_| AtomicU64::new(0)).collect(),
        tail: CachePadded::new(AtomicU64::new(0)),
        head: CachePadded::new(AtomicU64::new(0)),
        losses: CachePadded::new(Losses::default()),
    });
    let producer = LaneProducer { shared: shared.clone(), tail: 0, published: 0, head_seen: 0, capacity, waker: None };
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
    /// Kept here too: one look less at the shared part per push.
    capacity: u64,
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

    /// Puts events behind the others, the first one first, as many as there is room for; the rest stays in `events`.
    #[inline]
    pub fn push_batch(&mut self, events: &mut Vec<Event>) {
        let room = self.free_for(events.len() as u64).min(events.len());
        for event in events.drain(..room) {
            // Relaxed: published by the Release in `publish` (B4).
            self.shared.slot(self.tail).store(event.into_raw(), Ordering::Relaxed);
            self.tail += 1;
        }
    }

    /// Puts an event behind the others even if the lane is full: then the oldest that the consumer has not taken makes room, and
    /// is the caller's again.
    #[inline]
    pub fn push_evicting(&mut self, event: Event) -> Option<Event> {
        match self.push(event) {
            Ok(()) => None,
            Err(Full(event)) => {
                let evicted = self.evict_oldest();
                // Evicted or taken by the consumer meanwhile: either way there is room now.
                let Ok(()) = self.push(event) else { unreachable!("B1: a place is free after an eviction") };
                evicted
            }
        }
    }

    /// Places left; refreshes its view of the consumer only when it seems full.
    #[inline]
    pub fn free(&mut self) -> usize {
        self.free_for(1)
    }

    /// Places left; refreshes its view of the consumer only when there seem to be fewer than `events`.
    #[inline]
    fn free_for(&mut self, events: u64) -> usize {
        if self.tail - self.head_seen + events > self.capacity {
            // Acquire: pairs with the consumer's CAS (B4).
            self.head_seen = self.shared.head.load(Ordering::Acquire);
        }
        (self.capacity - (self.tail - self.head_seen)) as usize
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

    /// Takes the oldest event of a full lane back. `None`: the consumer was faster, and there is room. One attempt, so wait-free.
    fn evict_oldest(&mut self) -> Option<Event> {
        let head = self.head_seen;
        debug_assert_eq!(self.tail - head, self.capacity, "only a full lane evicts");
        if head == self.published {
            self.publish(); // B1: `head` never passes the visible tail.
        }
        // Relaxed: this thread wrote it.
        let raw = self.shared.slot(head).load(Ordering::Relaxed);
        // AcqRel: Acquire to reuse the slot after the consumer's turn, Release to stay in one order with it (B4).
        match self.shared.head.compare_exchange(head, head + 1, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                self.head_seen = head + 1;
                // SAFETY: B2, the CAS made this event ours; `push` made the number from an event.
                Some(unsafe { Event::from_raw(raw) })
            }
            Err(now) => {
                self.head_seen = now;
                None
            }
        }
    }

    /// Events in the lane, pushed but unpublished ones included; may still count what the consumer takes at this moment.
    pub fn depth(&self) -> usize {
        // Relaxed: see `Shared::depth`.
        (self.tail - self.shared.head.load(Ordering::Relaxed)) as usize
    }

    /// Events pushed that the consumer does not see yet.
    pub fn unpublished(&self) -> usize {
        (self.tail - self.published) as usize
    }

    /// Events it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// What this producer could not queue; only its thread may add to it.
    pub fn losses(&self) -> &Losses {
        &self.shared.losses
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
    /// Takes up to `max` events, oldest first, to the end of `out`, which should have room for them. Returns how many; zero
    /// only if nothing was published.
    #[inline]
    pub fn pop_batch(&mut self, out: &mut Vec<Event>, max: usize) -> usize {
        // Relaxed: the CAS decides; a stale value only makes it fail (B2).
        let mut head = self.shared.head.load(Ordering::Relaxed);
        loop {
            if self.tail_seen.saturating_sub(head) < max as u64 {
                self.tail_seen = self.shared.tail.load(Ordering::Acquire); // B4: pairs with `publish`.
            }
            // Saturating: the producer may have published and evicted between the two looks.
            let end = head + self.tail_seen.saturating_sub(head).min(max as u64);
            if end == head {
                return 0;
            }
            let before = out.len();
            for piece in self.shared.pieces(head, end) {
                // SAFETY: only a number until the CAS succeeds, forgotten in `claim` if it fails (B2, B3).
                out.extend(piece.iter().map(|slot| unsafe { Event::from_raw(slot.load(Ordering::Relaxed)) }));
            }
            head = self.claim(head, end, out);
            if out.len() > before {
                return out.len() - before;
            }
        }
    }

    /// Makes the numbers at the end of `out`, read from `head..end`, ours; forgets those that the producer evicted before. Returns
    /// where the lane's head is now.
    #[inline]
    fn claim(&self, mut head: u64, end: u64, out: &mut Vec<Event>) -> u64 {
        let first = out.len() - (end - head) as usize;
        while head < end {
            // Release: our reads of the slots come before their reuse (B4). A failure shows how far the producer evicted.
            match self.shared.head.compare_exchange(head, end, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return end,
                Err(now) => {
                    let evicted = (now.min(end) - head) as usize;
                    out.drain(first..first + evicted).for_each(Event::forget);
                    head = now;
                }
            }
        }
        head
    }

    /// Events to take, as last published.
    pub fn depth(&self) -> usize {
        self.shared.depth()
    }

    /// Events the lane can hold.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
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
        self.shared.depth()
    }

    /// Events the lane can hold.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// Events that were published since the start.
    pub fn published(&self) -> u64 {
        // Relaxed: a number to look at.
        self.shared.tail.load(Ordering::Relaxed)
    }

    /// Events that its consumer has taken since the start; may lag behind by those evicted at this moment.
    pub fn taken(&self) -> u64 {
        // Relaxed: a number to look at. Both grow, and an event that was evicted counts as head moved first.
        self.shared.head.load(Ordering::Relaxed).saturating_sub(self.shared.losses.evicted.get())
    }

    /// What its producer could not queue.
    pub fn losses(&self) -> &Losses {
        &self.shared.losses
    }

    /// Whether both are views of one lane.
    pub fn is_same_lane(&self, other: &LaneGauge) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
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
