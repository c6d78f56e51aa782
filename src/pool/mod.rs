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
//! - **P2** A ticket names a slot inside the arena of the pool that made it; tickets never meet another pool.
//! - **P3** The arena outlives every ticket's use: the engine joins its threads and quiesces its rings before it unmaps.
//! - **P4** A ticket that is dropped instead of released is a leak; debug builds panic on it.
//! - **P5** Tier quotas bound what a tier may hold of a class, so that BATCH can't take the slots REALTIME needs.
//!
//! What it does not do: grow, block, or hand slots between owners.

mod event;
mod owner;
mod release;
mod shared;

pub use event::{EVENT_HEADER_BYTES, EventHeader, EventView, Source};
pub use owner::{OwnerGauges, PoolOwner};
pub use shared::{Releaser, SharedPool};

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
        Self([320, 2112, large, chunk, chunk])
    }

    /// Bytes of topic and body that an event slot of this class holds.
    pub fn payload_bytes(&self, class: SlotClass) -> usize {
        self.0[class.index()] as usize - EVENT_HEADER_BYTES
    }
}

/// How many slots of each class, and how many of them each use may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerLayout {
    /// Slots by class.
    pub slots: [u32; SlotClass::COUNT],
    /// The most that a use may hold of a class, by use and class (P5).
    pub quota: [[u32; SlotClass::COUNT]; SlotUse::COUNT],
}

impl OwnerLayout {
    /// The standard quotas: each tier may hold what is left after a reserve for those more urgent; the kernel's
    /// and partial frames' shares are bounded too.
    pub fn with_standard_quotas(slots: [u32; SlotClass::COUNT]) -> Self {
        let share = |class: usize, numerator: u32, denominator: u32| -> u32 {
            let slots = slots[class] as u64;
            (slots * u64::from(numerator)).div_ceil(u64::from(denominator)) as u32
        };
        let quota = std::array::from_fn(|used_for| {
            std::array::from_fn(|class| match used_for {
                // REALTIME may take all, TRANSACTIONAL leaves a tenth, BATCH a quarter.
                0 => slots[class],
                1 => share(class, 9, 10).min(slots[class]),
                2 => share(class, 3, 4).min(slots[class]),
                // The kernel's offer and partial frames: half each, so that neither can starve finished events.
                3 if class == SlotClass::Chunk.index() => slots[class],
                3 | 4 => share(class, 1, 2),
                _ => slots[class],
            })
        });
        Self { slots, quota }
    }
}

/// A ticket to a slot, packed: slot number 32 bits, class 8, owner 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Ticket {
    pub(crate) const fn new(slot: u32, class: SlotClass, owner: u8) -> Self {
        Self(slot as u64 | (class as u64) << 32 | (owner as u64) << 40)
    }
    pub(crate) const fn slot(self) -> u32 {
        self.0 as u32
    }
    pub(crate) fn class(self) -> SlotClass {
        SlotClass::ALL[(self.0 >> 32) as u8 as usize]
    }
    pub(crate) const fn owner(self) -> u8 {
        (self.0 >> 40) as u8
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
