//! Provided buffers of one group, as the kernel takes them: a ring of entries in shared memory, or a plain list.
//!
//! ```text
//! provide ──► entries[tail] … tail += 1 ── publish (once per turn): shared tail, Release ──► kernel takes from its own head
//! ```
//!
//! Invariants:
//! - **U1** At most `entries` buffers are on offer at a time, so the tail never laps the kernel's head.
//! - **U2** Only this side writes entries and tail; the kernel only reads them, and only below the published tail.
//! - **U3** Buffer ids on the wire are `first_id + id`: ranges of different groups don't overlap, so a completion names its group.
//!
//! Format of the ring: `struct io_uring_buf_ring` of the kernel's `io_uring.h`.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::pool::{BufferId, LentBuffer};
use crate::sys::io::GroupId;

/// The most entries that the kernel allows in one ring.
pub(super) const ENTRIES_MAX: u16 = 32_768;

/// A lent buffer in the ring's hands.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawBuffer {
    pub(super) start: *mut u8,
    pub(super) bytes: u32,
    pub(super) group: GroupId,
    pub(super) id: u16,
}

impl RawBuffer {
    fn of(buffer: LentBuffer) -> Self {
        let (start, bytes, group, id) = buffer.into_raw_parts();
        Self { start, bytes, group, id }
    }

    /// Gives it back with a completion.
    pub(super) fn into_id(self) -> BufferId {
        // SAFETY: R2, the caller's completion ended the kernel's turn with this buffer, and `self` was its only record.
        unsafe { BufferId::from_kernel(self.group, self.id) }
    }
}

/// The shared memory of a group's ring.
#[derive(Debug)]
pub(super) struct BufferRing {
    map: memmap2::MmapMut,
    entries: u16,
    /// Where the next entry goes; ahead of `published` by what the kernel doesn't see yet.
    tail: u16,
    published: u16,
    first_id: u16,
    /// Buffers that the kernel has.
    offered: u16,
}

impl BufferRing {
    /// Maps a ring of `entries` (a power of two, at most [`ENTRIES_MAX`]) whose ids on the wire begin with `first_id`.
    pub(super) fn map(entries: u16, first_id: u16) -> io::Result<Self> {
        assert!(entries.is_power_of_two() && entries <= ENTRIES_MAX, "buffer rings have 1 to 32768 entries, a power of two");
        let map = memmap2::MmapMut::map_anon(entries as usize * size_of::<BufRingEntry>())?;
        Ok(Self { map, entries, tail: 0, published: 0, first_id, offered: 0 })
    }

    pub(super) fn address(&self) -> u64 {
        self.map.as_ptr() as u64
    }

    pub(super) fn offered(&self) -> u16 {
        self.offered
    }

    /// Whether an id on the wire is one of this group's (U3).
    pub(super) fn owns(&self, wire_id: u16) -> bool {
        wire_id.wrapping_sub(self.first_id) < self.entries
    }

    /// The pool's id behind an id on the wire; one buffer less on offer.
    pub(super) fn take_back(&mut self, wire_id: u16) -> u16 {
        assert!(self.offered > 0, "U1: a buffer came back that was not on offer");
        self.offered -= 1;
        wire_id - self.first_id
    }

    /// Puts a buffer behind the others; the kernel sees it after [`BufferRing::publish`].
    pub(super) fn push(&mut self, buffer: LentBuffer) {
        let buffer = RawBuffer::of(buffer);
        assert!(self.offered < self.entries, "U1: more buffers lent than the group has entries");
        assert!(buffer.id < self.entries, "U3: buffer ids are below the group's entries");
        self.offered += 1;
        let index = (self.tail & (self.entries - 1)) as usize;
        // SAFETY: U1 and U2, the index is inside the mapping, and the kernel doesn't look at entries at or beyond the tail.
        let entry = unsafe { &mut *self.map.as_mut_ptr().cast::<BufRingEntry>().add(index) };
        entry.set_addr(buffer.start as u64);
        entry.set_len(buffer.bytes);
        entry.set_bid(self.first_id + buffer.id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes what was pushed visible. Once per turn: the tail's cache line is shared with the kernel.
    pub(super) fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        self.published = self.tail;
        // SAFETY: the tail overlays the reserved field of the first entry, inside the mapping.
        let tail = unsafe { BufRingEntry::tail(self.map.as_ptr().cast()) };
        // SAFETY: U2, an aligned u16 in a mapping that lives as long as `self`; only this thread writes it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release); // Pairs with the kernel's smp_load_acquire when it selects a buffer.
    }
}

/// A group: a ring that the kernel takes from, or a list that single-shot operations take from.
#[derive(Debug)]
pub(super) enum Group {
    Ring(BufferRing),
    List(VecDeque<RawBuffer>),
}

impl Group {
    pub(super) fn push(&mut self, buffer: LentBuffer) {
        match self {
            Group::Ring(ring) => ring.push(buffer),
            Group::List(list) => list.push_back(RawBuffer::of(buffer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_on_the_wire_name_their_group() {
        let (low, high) = (BufferRing::map(8, 0).unwrap(), BufferRing::map(16, 8).unwrap());
        for id in 0..32u16 {
            assert_eq!(low.owns(id), id < 8);
            assert_eq!(high.owns(id), (8..24).contains(&id));
        }
    }
}
