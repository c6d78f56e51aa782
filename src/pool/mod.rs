//! The event pool: one arena per node, one slot per event, each slot with one holder.
//!
//! ```text
//!            acquire             seal                lane … processor … appender        release, splice
//! free list ────────► Slot ─────────────► Event ───────────────────────────────► chain ───────────────► release stack
//!     ▲                │ lend          ▲                                                                    │
//!     │                ▼               │ take_back                                                          │ collect
//!     │           LentBuffer ──kernel──┘                                                                    │
//!     └─────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! An arena holds slots of five classes; each [`PoolOwner`] (a reactor, an in-process producer, the retry memory)
//! has a range of slots in each. Slots, events and lent buffers are move-only tickets: whoever has the ticket is the only one
//! who may touch the bytes.
//!
//! Invariants:
//! - **P1** For each slot there is at most one ticket ([`Slot`], [`Event`], [`LentBuffer`] or [`BufferId`]) at any time, or it is on its
//!   way home, or in its owner's free list.
//! - **P2** A ticket names a slot inside the arena of the pool that made it. It carries that pool's stamp, and a ticket that meets
//!   another pool, or an owner that is not its own, panics instead of touching foreign bytes.
//! - **P3** The arena outlives every ticket's use: whoever resolves a ticket borrows the pool, the engine quiesces its rings before
//!   it unmaps, and an owner dropped while the kernel still has buffers of it leaves the arena mapped for good.
//! - **P4** A ticket that is dropped instead of released is a leak; debug builds panic on it. (A number in a lane is not a ticket: a
//!   lane that is dropped with events in it forgets them.)
//! - **P5** Each use has a quota and a reserve by class: it never holds more than its quota, and never takes one of the last
//!   `reserve` free slots. Reserves shrink with urgency and REALTIME's is zero, so all others together leave it that many.
//!
//! What it does not do: grow, block, or hand slots between owners.

mod budget;
mod counters;
mod event;
#[cfg(all(test, loom))]
mod loom_tests;
mod outcome;
mod owner;
mod plan;
mod release;
mod shared;

pub use budget::{Budget, BudgetLine, BudgetRefusal};
pub use counters::{PoolCounters, PoolMetrics};
pub use event::{EVENT_HEADER_BYTES, EventFlags, EventHeader, EventKey, EventView, ProducerStamp, Source};
pub use outcome::{Ended, Outcome, Returns};
pub use owner::{OwnerGauges, PoolOwner};
pub use plan::{
    CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, MAX_FRAME_BYTES_MAX, MAX_FRAME_BYTES_MIN, OWNERS_MAX, PoolPlan, PoolSizes,
    PoolSizesRefusal, RING_BUFFERS_MAX, UDP_GRO_CHUNKS, UDP_GRO_DATAGRAM_BYTES_MAX, default_pool_bytes_max,
};
pub use shared::{Releaser, SharedPool};

pub use crate::wire::ProducerId;

use crate::sys::io::GroupId;

/// The size classes of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SlotClass {
    /// Events of up to 256 bytes of topic and body.
    Small = 0,
    /// Events of up to 2 KiB; also takes one datagram each.
    Medium = 1,
    /// Events of up to `--max-frame-bytes`.
    Large = 2,
    /// TCP (and UDP GRO) receive chunks.
    Chunk = 3,
    /// The unparsed rest of waiting connections.
    Parking = 4,
}

impl SlotClass {
    /// How many there are.
    pub const COUNT: usize = 5;
    /// All, by index.
    pub const ALL: [SlotClass; 5] = [SlotClass::Small, SlotClass::Medium, SlotClass::Large, SlotClass::Chunk, SlotClass::Parking];

    /// Its place in arrays indexed by class.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name used in metric labels and the budget.
    pub const fn name(self) -> &'static str {
        match self {
            SlotClass::Small => "small",
            SlotClass::Medium => "medium",
            SlotClass::Large => "large",
            SlotClass::Chunk => "chunk",
            SlotClass::Parking => "parking",
        }
    }

    /// Whether its slots hold events (the others hold bytes that are not events yet).
    pub const fn holds_events(self) -> bool {
        matches!(self, SlotClass::Small | SlotClass::Medium | SlotClass::Large)
    }
}

/// What a slot is held for; quotas and gauges are kept per use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SlotUse {
    /// A REALTIME event.
    Realtime = 0,
    /// A TRANSACTIONAL event.
    Transactional = 1,
    /// A BATCH event.
    Batch = 2,
    /// Offered to or filled by the kernel.
    Kernel = 3,
    /// A frame of which not all bytes have come.
    Partial = 4,
    /// Parking memory in use.
    Parked = 5,
}

impl SlotUse {
    /// How many there are.
    pub const COUNT: usize = 6;
    /// All, by index.
    pub const ALL: [SlotUse; 6] =
        [SlotUse::Realtime, SlotUse::Transactional, SlotUse::Batch, SlotUse::Kernel, SlotUse::Partial, SlotUse::Parked];

    /// The use of an event of a tier.
    pub const fn of_tier(tier: crate::wire::Tier) -> SlotUse {
        match tier {
            crate::wire::Tier::Realtime => SlotUse::Realtime,
            crate::wire::Tier::Transactional => SlotUse::Transactional,
            crate::wire::Tier::Batch => SlotUse::Batch,
        }
    }

    /// Its place in arrays indexed by use.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Strides of the classes, bytes. Not powers of two: slots a power of two apart share cache sets and cost
/// 2-3 times as much at depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassStrides(pub [u32; SlotClass::COUNT]);

impl ClassStrides {
    /// The usual strides: 320 (64 + 256), 2112 (64 + 2048), and as asked for the others (rounded up to 64, plus one line).
    pub fn new(max_frame_bytes: u32, chunk_bytes: u32) -> Self {
        let large = (EVENT_HEADER_BYTES as u32 + max_frame_bytes).next_multiple_of(64) + 64;
        // A chunk's extra line takes the recvmsg header and control bytes of aggregated datagrams.
        let chunk = chunk_bytes.next_multiple_of(64) + 64;
        let event = |payload_bytes: u32| EVENT_HEADER_BYTES as u32 + payload_bytes;
        Self([event(SMALL_PAYLOAD_BYTES), event(MEDIUM_PAYLOAD_BYTES), large, chunk, chunk])
    }

    /// Bytes of topic and body that an event slot of this class holds.
    pub fn payload_bytes(&self, class: SlotClass) -> usize {
        self.0[class.index()] as usize - EVENT_HEADER_BYTES
    }
}

/// Payload bytes of a small slot.
pub const SMALL_PAYLOAD_BYTES: u32 = 256;
/// Payload bytes of a medium slot.
pub const MEDIUM_PAYLOAD_BYTES: u32 = 2048;
/// Strides are multiples of this, so that every slot's header is aligned and alone on its first cache line.
pub const STRIDE_BYTES_MULTIPLE: u32 = 64;

const _: () = assert!((EVENT_HEADER_BYTES as u32 + SMALL_PAYLOAD_BYTES).is_multiple_of(STRIDE_BYTES_MULTIPLE));
const _: () = assert!((EVENT_HEADER_BYTES as u32 + MEDIUM_PAYLOAD_BYTES).is_multiple_of(STRIDE_BYTES_MULTIPLE));
const _: () = assert!(EVENT_HEADER_BYTES.is_multiple_of(align_of::<EventHeader>()));

/// How many slots of each class an owner has, and what each use may take of them (P5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerLayout {
    /// Slots by class.
    pub slots: [u32; SlotClass::COUNT],
    /// The most that a use may hold of a class, by use and class.
    pub quota: [[u32; SlotClass::COUNT]; SlotUse::COUNT],
    /// Free slots of a class that a use must leave untouched, by use and class.
    pub reserve: [[u32; SlotClass::COUNT]; SlotUse::COUNT],
}

impl OwnerLayout {
    /// The standard quotas with half of the medium slots open to the kernel; see [`OwnerLayout::with_kernel_slots`].
    pub fn with_standard_quotas(slots: [u32; SlotClass::COUNT]) -> Self {
        let mut layout = Self::with_kernel_slots(slots, 0);
        for class in SlotClass::ALL.into_iter().filter(|class| class.holds_events()) {
            layout.quota[SlotUse::Kernel.index()][class.index()] = slots[class.index()].div_ceil(2);
        }
        layout
    }

    /// The standard quotas, with `kernel_slots` of the medium class set apart for datagrams the kernel is to fill.
    ///
    /// Of what remains REALTIME may take all; TRANSACTIONAL leaves the last tenth free; BATCH and frames that are not complete
    /// leave the last fifth, and incomplete frames take half at most. A class of one slot has no reserve, one of more at
    /// least one slot.
    pub fn with_kernel_slots(slots: [u32; SlotClass::COUNT], kernel_slots: u32) -> Self {
        let mut layout = Self::without_quotas(slots);
        for class in SlotClass::ALL.into_iter().filter(|class| class.holds_events()) {
            let kernel = if class == SlotClass::Medium { kernel_slots.min(slots[class.index()]) } else { 0 };
            let events = slots[class.index()] - kernel;
            let last = |share: u32| events.div_ceil(share).min(events.saturating_sub(1));
            let mut set = |used_for: SlotUse, quota: u32, reserve: u32| {
                layout.quota[used_for.index()][class.index()] = quota;
                layout.reserve[used_for.index()][class.index()] = reserve;
            };
            set(SlotUse::Realtime, events, 0);
            set(SlotUse::Transactional, events, last(10));
            set(SlotUse::Batch, events, last(5));
            set(SlotUse::Kernel, kernel, 0);
            set(SlotUse::Partial, events.div_ceil(2), last(5));
        }
        layout
    }

    /// No quota below the number of slots and no reserve: for an owner that serves one tier only (the retry memory).
    pub fn without_quotas(slots: [u32; SlotClass::COUNT]) -> Self {
        Self { slots, quota: [slots; SlotUse::COUNT], reserve: [[0; SlotClass::COUNT]; SlotUse::COUNT] }
    }
}

/// Racks of an owner: a power of two, for the sake of the arithmetic.
pub(crate) const RACK_CLASSES: usize = SlotClass::COUNT.next_power_of_two();

/// A ticket to a slot, packed: slot number 32 bits, its rack 16 (class 3 bits, owner 8), the pool's stamp 16 (P2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Ticket {
    pub(crate) const fn new(slot: u32, class: SlotClass, owner: u8, pool: u16) -> Self {
        Self(slot as u64 | (Self::rack_of(owner, class as usize) as u64) << 32 | (pool as u64) << 48)
    }
    pub(crate) const fn slot(self) -> u32 {
        self.0 as u32
    }
    /// One owner's slots of one class: a place in tables that have one for each owner and class.
    pub(crate) const fn rack(self) -> usize {
        (self.0 >> 32) as u16 as usize
    }
    pub(crate) const fn rack_of(owner: u8, class: usize) -> usize {
        owner as usize * RACK_CLASSES + class
    }
    pub(crate) fn class(self) -> SlotClass {
        SlotClass::ALL[self.rack() % RACK_CLASSES]
    }
    pub(crate) const fn owner(self) -> u8 {
        (self.rack() / RACK_CLASSES) as u8
    }
    pub(crate) const fn pool(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// Makes P4 visible: the ticket types below forget themselves when they are handed on.
macro_rules! drop_bomb {
    ($type:ident) => {
        #[cfg(debug_assertions)]
        impl Drop for $type {
            fn drop(&mut self) {
                if !std::thread::panicking() {
                    panic!(concat!(stringify!($type), " {:?} dropped without being released (P4)"), self.0);
                }
            }
        }
    };
}

/// A slot in its owner's hands, not yet an event.
#[derive(Debug)]
#[must_use = "a slot must be sealed, lent or given back (P4)"]
pub struct Slot(pub(crate) Ticket);
drop_bomb!(Slot);

impl Slot {
    /// Its size class.
    pub fn class(&self) -> SlotClass {
        self.0.class()
    }

    pub(crate) fn into_ticket(self) -> Ticket {
        let ticket = self.0;
        std::mem::forget(self);
        ticket
    }
}

/// An event: the 8-byte ticket that travels on the bus.
#[derive(Debug)]
#[must_use = "an event must be handed on or released (P4)"]
pub struct Event(pub(crate) Ticket);
drop_bomb!(Event);

const _: () = assert!(size_of::<Event>() == 8);

impl Event {
    /// Its size class.
    pub fn class(&self) -> SlotClass {
        self.0.class()
    }

    pub(crate) fn into_ticket(self) -> Ticket {
        let ticket = self.0;
        std::mem::forget(self);
        ticket
    }

    /// For the lane: a number that turned out not to be ours is no event, and takes nothing with it.
    pub(crate) fn forget(self) {
        let _ = self.into_raw();
    }

    /// For the lane: the ticket as a number. The event is now the number's.
    pub(crate) fn into_raw(self) -> u64 {
        self.into_ticket().0
    }

    /// For the lane: the reverse of [`Event::into_raw`].
    ///
    /// # Safety
    /// `raw` came from `into_raw`, and this is the only call for it (P1).
    pub(crate) unsafe fn from_raw(raw: u64) -> Self {
        Self(Ticket(raw))
    }
}

/// A buffer on offer to the kernel (or to the simulated one, which may write through it).
#[derive(Debug)]
#[must_use = "a lent buffer must go to the ring (P4)"]
pub struct LentBuffer {
    start: *mut u8,
    len: u32,
    id: (GroupId, u16),
}

impl LentBuffer {
    /// The group it belongs to.
    pub fn group(&self) -> GroupId {
        self.id.0
    }

    /// Its id within the group.
    pub fn buffer_id(&self) -> u16 {
        self.id.1
    }

    /// Bytes it can take.
    pub fn capacity_bytes(&self) -> usize {
        self.len as usize
    }

    /// Where the kernel shall write. The ring that takes this must keep R2.
    pub(crate) fn into_raw_parts(self) -> (*mut u8, u32, GroupId, u16) {
        (self.start, self.len, self.id.0, self.id.1)
    }

    /// Plays the kernel: the bytes of the buffer, for writing.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        // SAFETY: P1, this ticket is the only way to these bytes; P3, the arena is mapped.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len as usize) }
    }

    /// Plays the kernel: gives the buffer back with a completion.
    pub fn into_id(self) -> BufferId {
        BufferId { group: self.id.0, id: self.id.1 }
    }
}

/// A provided buffer that came back with a completion.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the buffer is ours again: take it back (P4)"]
pub struct BufferId {
    group: GroupId,
    id: u16,
}

impl BufferId {
    /// The buffer of a completion.
    ///
    /// # Safety
    /// The kernel has ended its turn with this buffer of this group, and this is the only id made for that turn (R2).
    pub(crate) unsafe fn from_kernel(group: GroupId, id: u16) -> Self {
        Self { group, id }
    }

    /// The group it belongs to.
    pub fn group(&self) -> GroupId {
        self.group
    }
}
