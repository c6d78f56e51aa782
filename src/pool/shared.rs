//! The part of a pool that every thread may use: reading and editing an event by its ticket, and the way home.

use std::sync::atomic::AtomicU16;
use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;

use super::release::{Chain, Links, ReleaseStack};
use super::{
    ClassStrides, EVENT_HEADER_BYTES, Event, EventHeader, EventView, Outcome, OwnerLayout, PoolOwner, RACK_CLASSES, SlotClass,
    Ticket,
};
use crate::planted::{Bug, is_planted};
use crate::sync::{AtomicBool, Ordering, fence};
use crate::sys::memory::Arena;
use crate::sys::wake::Waker;

/// Each class begins at a multiple of this: a page.
pub(super) const ARENA_CLASS_ALIGN_BYTES: usize = 4096;

/// The next pool's stamp.
static STAMPS: AtomicU16 = AtomicU16::new(0);

/// What other threads see of one owner.
pub(super) struct OwnerShared {
    pub(super) stack: ReleaseStack,
    /// Set by the owner before it parks while it waits for a slot.
    starved: AtomicBool,
    waker: OnceLock<Waker>,
}

/// Where one owner's slots of one class are.
#[derive(Clone, Copy, Default)]
struct Rack {
    /// Where slot number 0 would begin. Wraps below the arena; a real slot's number brings it back.
    bias: usize,
    stride: usize,
}

/// One node's arena and everything needed to resolve tickets in it. `Sync`: all mutation goes through unique tickets (P1).
pub struct SharedPool {
    arena: Arena,
    /// Marks this pool's tickets (P2).
    stamp: u16,
    /// By owner and class.
    racks: Box<[Rack]>,
    strides: ClassStrides,
    pub(super) links: Links,
    pub(super) owners: Box<[CachePadded<OwnerShared>]>,
}

impl SharedPool {
    /// Bytes of arena that these layouts need.
    pub fn arena_bytes(strides: &ClassStrides, owners: &[OwnerLayout]) -> usize {
        (0..SlotClass::COUNT).map(|class| Self::class_bytes(strides, owners, class)).sum()
    }

    /// Divides an arena among its owners.
    ///
    /// # Panics
    /// If the arena is smaller than [`SharedPool::arena_bytes`], or there are more than 255 owners.
    pub fn divide(arena: Arena, strides: ClassStrides, owners: &[OwnerLayout]) -> (Arc<SharedPool>, Vec<PoolOwner>) {
        assert!(arena.len() >= Self::arena_bytes(&strides, owners), "the arena is too small for its layout");
        assert!(owners.len() < 256, "an owner is a byte in a ticket");
        let mut class_start = [0usize; SlotClass::COUNT];
        let mut offset = 0usize;
        for (class, start) in class_start.iter_mut().enumerate() {
            *start = offset;
            offset += Self::class_bytes(&strides, owners, class);
        }
        // Slot numbers run owner by owner, so that an owner finds a slot's entry by one subtraction; the arena runs class by
        // class, so that chunks begin on a page.
        let mut slots = 0u32;
        let mut racks = vec![Rack::default(); owners.len() * RACK_CLASSES];
        let mut first_slots = Vec::with_capacity(owners.len());
        for (owner, layout) in owners.iter().enumerate() {
            first_slots.push(slots);
            for (class, start) in class_start.iter_mut().enumerate() {
                let stride = strides.0[class] as usize;
                racks[Ticket::rack_of(owner as u8, class)] = Rack { bias: start.wrapping_sub(slots as usize * stride), stride };
                *start += layout.slots[class] as usize * stride;
                slots = slots.checked_add(layout.slots[class]).expect("slot numbers are below 2^32");
            }
        }
        let shared = Arc::new(SharedPool {
            arena,
            // Wraps after 2^16 pools: a ticket of a pool that many before this one would pass for ours, which no engine makes.
            stamp: STAMPS.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            racks: racks.into(),
            strides,
            links: Links::new(slots as usize),
            owners: owners.iter().map(|_| CachePadded::new(OwnerShared::new())).collect(),
        });
        let owner = |(id, layout): (usize, &OwnerLayout)| PoolOwner::new(shared.clone(), id as u8, first_slots[id], layout);
        let owners = owners.iter().enumerate().map(owner).collect();
        (shared, owners)
    }

    /// Bytes of arena that one class takes, over all owners.
    fn class_bytes(strides: &ClassStrides, owners: &[OwnerLayout], class: usize) -> usize {
        let slots: usize = owners.iter().map(|o| o.slots[class] as usize).sum();
        // Each class begins on a page, so that chunks can be page-aligned.
        (slots * strides.0[class] as usize).next_multiple_of(ARENA_CLASS_ALIGN_BYTES)
    }

    /// The stamp of this pool's tickets (P2).
    #[inline]
    pub(super) fn stamp(&self) -> u16 {
        self.stamp
    }

    /// The strides of the classes.
    pub fn strides(&self) -> &ClassStrides {
        &self.strides
    }

    /// Bytes of the arena.
    pub fn arena_len(&self) -> usize {
        self.arena.len()
    }

    /// Whom to wake when a slot comes home while this owner is starved. Set once, before threads start.
    pub(crate) fn set_waker(&self, owner: u8, waker: Waker) {
        let set = self.owners[owner as usize].waker.set(waker);
        assert!(set.is_ok(), "an owner has one waker, set once");
    }

    /// The first byte of a ticket's slot and the slot's length.
    #[inline]
    pub(super) fn locate(&self, ticket: Ticket) -> (*mut u8, usize) {
        // One compare, always: a safe caller must not be able to reach beyond the arena with another pool's ticket.
        assert!(ticket.pool() == self.stamp, "P2: a ticket of another pool");
        let Rack { bias, stride } = self.racks[ticket.rack()];
        let offset = bias.wrapping_add(ticket.slot() as usize * stride);
        debug_assert!(offset + stride <= self.arena.len(), "P2: a slot of this arena");
        // SAFETY: P2, the ticket was made from this pool's layout, which `divide` checked against the arena's length.
        (unsafe { self.arena.start().add(offset) }, stride)
    }

    /// The event's header.
    #[inline]
    pub fn header<'a>(&'a self, event: &'a Event) -> &'a EventHeader {
        let (start, _) = self.locate(event.0);
        // SAFETY: P1, the borrowed ticket lends the slot for 'a; a sealed event begins with a valid header, and strides are
        // multiples of 64 in a page-aligned arena.
        unsafe { &*start.cast::<EventHeader>() }
    }

    /// The event's header, to edit (attempts, tier).
    #[inline]
    pub fn header_mut<'a>(&'a self, event: &'a mut Event) -> &'a mut EventHeader {
        let (start, _) = self.locate(event.0);
        // SAFETY: as in `header`; the exclusive borrow of the only ticket makes the access exclusive (P1).
        unsafe { &mut *start.cast::<EventHeader>() }
    }

    /// Notes what became of an event that is about to be given up, for its owner to find (O1 in `outcome`). Nothing for events of no session.
    #[inline]
    pub fn end(&self, event: &mut Event, outcome: Outcome) {
        self.header_mut(event).leave_outcome(outcome);
    }

    /// The header in a slot that has come home to its owner.
    pub(super) fn header_at_home(&self, ticket: Ticket) -> EventHeader {
        let (start, _) = self.locate(ticket);
        // SAFETY: O2, the slot is off the release stack and not yet free: nobody else has it (P1). It was sealed, as its mark says.
        unsafe { start.cast::<EventHeader>().read() }
    }

    /// The event's header, and topic and body as they follow each other in the slot: one look for both.
    #[inline]
    pub fn parts<'a>(&'a self, event: &'a Event) -> (&'a EventHeader, &'a [u8]) {
        let (start, stride) = self.locate(event.0);
        // SAFETY: as in `header`.
        let header = unsafe { &*start.cast::<EventHeader>() };
        let len = header.topic_len as usize + header.body_len as usize;
        assert!(EVENT_HEADER_BYTES + len <= stride, "P2: lengths beyond the slot");
        // SAFETY: P1 as in `header`; the assertion keeps the slice inside the slot.
        (header, unsafe { std::slice::from_raw_parts(start.add(EVENT_HEADER_BYTES), len) })
    }

    /// Topic and body, as they follow each other in the slot.
    #[inline]
    pub fn payload<'a>(&'a self, event: &'a Event) -> &'a [u8] {
        self.parts(event).1
    }

    /// The topic's bytes.
    #[inline]
    pub fn topic<'a>(&'a self, event: &'a Event) -> &'a [u8] {
        let (header, payload) = self.parts(event);
        &payload[..header.topic_len as usize]
    }

    /// The event as handlers see it.
    ///
    /// # Panics
    /// If the topic is not UTF-8, which the codec has refused before.
    #[inline]
    pub fn view<'a>(&'a self, event: &'a Event) -> EventView<'a> {
        let (header, payload) = self.parts(event);
        let (topic, body) = payload.split_at(header.topic_len as usize);
        EventView { header, topic: std::str::from_utf8(topic).expect("the codec admits only UTF-8 topics"), body }
    }

    /// Hints the CPU to fetch the first lines of an event that will be looked at soon.
    #[inline]
    pub fn prefetch(&self, event: &Event) {
        let (start, _) = self.locate(event.0);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch has no effect on memory, whatever the address; SSE is part of x86-64.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(start.cast());
            _mm_prefetch::<_MM_HINT_T0>(start.add(64).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = start;
    }
}

impl std::fmt::Debug for SharedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedPool").field("arena_bytes", &self.arena.len()).field("owners", &self.owners.len()).finish()
    }
}

impl OwnerShared {
    pub(super) fn new() -> Self {
        Self { stack: ReleaseStack::new(), starved: AtomicBool::new(false), waker: OnceLock::new() }
    }

    /// Releasing side: puts a chain on the stack. Whether the owner must be woken, because it waits for slots.
    pub(super) fn send_home(&self, links: &Links, chain: &mut Chain) -> bool {
        self.stack.splice(links, chain);
        fence(Ordering::SeqCst); // Pairs with the fence in `announce_starved`.
        // Relaxed: ordered by the two fences; either this sees the flag or the owner's last look sees the splice.
        self.starved.load(Ordering::Relaxed)
    }

    /// Owner only: says that it waits for slots. The caller looks at the stack once more afterwards.
    pub(super) fn announce_starved(&self, starved: bool) {
        self.starved.store(starved, Ordering::Relaxed);
        // Pairs with the fence in `send_home`: either the releaser sees the flag, or we see its splice.
        fence(Ordering::SeqCst);
    }
}

/// One thread's way of giving events back: chains per owner, spliced once per poll.
#[derive(Debug)]
pub struct Releaser {
    pool: Arc<SharedPool>,
    chains: Box<[Chain]>,
}

impl Releaser {
    /// A releaser for one thread.
    pub fn new(pool: Arc<SharedPool>) -> Self {
        let chains = pool.owners.iter().map(|_| Chain::default()).collect();
        Self { pool, chains }
    }

    /// Gives an event's slot up. It reaches its owner at the next [`Releaser::flush`].
    ///
    /// # Panics
    /// If the event belongs to another pool (P2).
    #[inline]
    pub fn release(&mut self, event: Event) {
        let ticket = event.into_ticket();
        assert!(ticket.pool() == self.pool.stamp, "P2: a ticket of another pool");
        let chain = &mut self.chains[ticket.owner() as usize];
        chain.push(&self.pool.links, ticket.slot());
        if is_planted(Bug::DoubleRelease) {
            chain.push(&self.pool.links, ticket.slot());
        }
    }

    /// Sends everything home; one CAS per owner that gets something.
    pub fn flush(&mut self) {
        for (owner, chain) in self.pool.owners.iter().zip(&mut self.chains) {
            if chain.is_empty() {
                continue;
            }
            if owner.send_home(&self.pool.links, chain)
                && let Some(waker) = owner.waker.get()
            {
                waker.wake();
            }
        }
    }
}

impl Drop for Releaser {
    /// What was released but not yet sent home goes home now: a helper thread that ends takes no slot with it.
    fn drop(&mut self) {
        self.flush();
    }
}
