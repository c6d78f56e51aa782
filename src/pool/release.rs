//! The way home: an intrusive stack of slot numbers, pushed by anyone, emptied by the owner.
//!
//! ```text
//! releaser thread:  chain 7 → 3 → 9 (local)  ──one CAS per poll──►  head ──► 7 → 3 → 9 → 12 → …
//! owner thread:     takes the whole stack with one swap, walks it, refills its free lists
//! ```
//!
//! Invariants (loom: `loom_tests`):
//! - **S1** A slot number is in at most one of: a free list, a holder's hands, a local chain, the stack.
//! - **S2** `links[n]` is written only by the thread that holds slot `n` (in a chain that it is building), and read only by
//!   the owner after it took the stack. So a link needs no ordering of its own.
//! - **S3** Push publishes with Release, take acquires: what a holder did to a slot happens before its next use.
//! - There is no ABA: nobody pops a single element; the owner takes all.
//!
//! Never full, no lock, no allocation.

use crate::sync::{AtomicU32, Ordering};

/// Ends a chain: no slot has this number.
pub(crate) const NIL: u32 = u32::MAX;

/// The links of all slots, by slot number (S2).
pub(crate) struct Links(Box<[AtomicU32]>);

impl Links {
    pub(crate) fn new(slots: usize) -> Self {
        assert!(slots < NIL as usize, "slot numbers are below 2^32 - 1");
        Self((0..slots).map(|_| AtomicU32::new(NIL)).collect())
    }

    fn get(&self, slot: u32) -> u32 {
        // Relaxed: S2, ordered by the Acquire of the take (S3).
        self.0[slot as usize].load(Ordering::Relaxed)
    }

    fn set(&self, slot: u32, next: u32) {
        // Relaxed: S2, published by the Release of the splice (S3).
        self.0[slot as usize].store(next, Ordering::Relaxed);
    }
}

/// Slots on their way home, not yet visible to the owner. Nobody counts them.
#[derive(Debug)]
pub(crate) struct Chain {
    head: u32,
    tail: u32,
}

impl Default for Chain {
    fn default() -> Self {
        Self { head: NIL, tail: NIL }
    }
}

impl Chain {
    pub(crate) fn push(&mut self, links: &Links, slot: u32) {
        links.set(slot, self.head);
        if self.is_empty() {
            self.tail = slot;
        }
        self.head = slot;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head == NIL
    }
}

/// One owner's stack of returned slots.
pub(crate) struct ReleaseStack {
    head: AtomicU32,
}

impl ReleaseStack {
    pub(crate) fn new() -> Self {
        Self { head: AtomicU32::new(NIL) }
    }

    /// Puts the whole chain on the stack and empties it.
    pub(crate) fn splice(&self, links: &Links, chain: &mut Chain) {
        if chain.is_empty() {
            return;
        }
        // Relaxed: the value is only a guess for the CAS, nothing is read through it.
        let mut seen = self.head.load(Ordering::Relaxed);
        loop {
            links.set(chain.tail, seen);
            // Release: pairs with the Acquire in `take` (S3).
            match self.head.compare_exchange_weak(seen, chain.head, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        *chain = Chain::default();
    }

    /// Owner only: takes everything, newest first.
    pub(crate) fn take(&self, links: &Links, mut each: impl FnMut(u32)) {
        // A plain look first: the swap takes the cache line exclusively even if there is nothing.
        if self.head.load(Ordering::Relaxed) == NIL {
            return;
        }
        // Acquire: pairs with the Release in `splice` (S3).
        let mut slot = self.head.swap(NIL, Ordering::Acquire);
        while slot != NIL {
            let next = links.get(slot);
            each(slot);
            slot = next;
        }
    }
}
