//! The plainest bounded queue from one thread to another: what a hand-off costs without policies, eviction or wake-ups.
//!
//! Slots are atomics only so that the compiler needs no `unsafe`: a relaxed load or store is a plain move. Indices are cached on
//! both sides; each side publishes when it likes, which is once per batch.
//!
//! - **S1** `head <= tail <= head + capacity`; both only grow.
//! - **S2** A slot is written only by the producer, between a head it has acquired and its own tail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

struct Shared {
    slots: Box<[AtomicU64]>,
    tail: CachePadded<AtomicU64>,
    head: CachePadded<AtomicU64>,
}

impl Shared {
    fn slot(&self, position: u64) -> &AtomicU64 {
        &self.slots[(position & (self.slots.len() as u64 - 1)) as usize]
    }
}

pub(super) struct Sender {
    shared: Arc<Shared>,
    tail: u64,
    head_seen: u64,
}

pub(super) struct Receiver {
    shared: Arc<Shared>,
    head: u64,
    tail_seen: u64,
}

/// A queue of so many numbers, a power of two.
pub(super) fn queue(capacity: usize) -> (Sender, Receiver) {
    assert!(capacity.is_power_of_two(), "positions are masked");
    let shared = Arc::new(Shared {
        slots: (0..capacity).map(|_| AtomicU64::new(0)).collect(),
        tail: CachePadded::new(AtomicU64::new(0)),
        head: CachePadded::new(AtomicU64::new(0)),
    });
    (Sender { shared: shared.clone(), tail: 0, head_seen: 0 }, Receiver { shared, head: 0, tail_seen: 0 })
}

impl Sender {
    /// False when the queue is full.
    #[inline]
    pub(super) fn push(&mut self, value: u64) -> bool {
        let capacity = self.shared.slots.len() as u64;
        if self.tail - self.head_seen == capacity {
            // Acquire: pairs with the Release in `Receiver::publish` (S2).
            self.head_seen = self.shared.head.load(Ordering::Acquire);
            if self.tail - self.head_seen == capacity {
                return false;
            }
        }
        // Relaxed: `publish` releases it.
        self.shared.slot(self.tail).store(value, Ordering::Relaxed);
        self.tail += 1;
        true
    }

    /// Makes what was pushed visible.
    #[inline]
    pub(super) fn publish(&self) {
        self.shared.tail.store(self.tail, Ordering::Release); // Pairs with the Acquire in `Receiver::pop`.
    }
}

impl Receiver {
    /// The oldest, if there is one.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<u64> {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        // Relaxed: the Acquire above saw it published.
        let value = self.shared.slot(self.head).load(Ordering::Relaxed);
        self.head += 1;
        Some(value)
    }

    /// Gives the places of what was popped back.
    #[inline]
    pub(super) fn publish(&self) {
        self.shared.head.store(self.head, Ordering::Release); // Pairs with the Acquire in `Sender::push`.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_arrives_once_and_in_order() {
        let (mut sender, mut receiver) = queue(8);
        let sending = std::thread::spawn(move || {
            for value in 0..10_000 {
                while !sender.push(value) {
                    sender.publish();
                    std::thread::yield_now();
                }
            }
            sender.publish();
        });
        for expected in 0..10_000 {
            let value = loop {
                match receiver.pop() {
                    Some(value) => break value,
                    None => std::thread::yield_now(),
                }
            };
            receiver.publish();
            assert_eq!(value, expected);
        }
        sending.join().expect("no panic");
        assert_eq!(receiver.pop(), None);
    }

    #[test]
    fn a_full_queue_says_so() {
        let (mut sender, _receiver) = queue(2);
        assert!(sender.push(1) && sender.push(2) && !sender.push(3));
    }
}
