//! Where the unparsed rest of a waiting connection stays, so that it pins no receive chunk.
//!
//! Each connection has a row of segments, oldest first; a segment is a range of bytes in a parking slot (copied there) or, where
//! parking memory has run out, in the receive chunk itself. There are as many segments as slots that could be in one, so a
//! segment is never wanting.

use std::ops::Range;
use std::sync::Arc;

use crate::pool::{PoolOwner, SharedPool, Slot, SlotClass, SlotUse};

const NONE: u32 = u32::MAX;

/// One connection's row of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parked {
    first: u32,
    last: u32,
    segments: u32,
}

impl Parked {
    /// Nothing parked.
    pub(super) const NONE: Parked = Parked { first: NONE, last: NONE, segments: 0 };

    pub(super) fn is_empty(&self) -> bool {
        self.segments == 0
    }

    pub(super) fn segments(&self) -> u32 {
        self.segments
    }
}

#[derive(Debug)]
struct Segment {
    slot: Option<Slot>,
    start: u32,
    end: u32,
    next: u32,
}

/// What became of a chunk whose bytes were parked.
#[derive(Debug)]
pub(super) enum ChunkAfter {
    /// Its bytes were copied: the chunk is free.
    Free(Slot),
    /// It stays with the connection.
    Pinned,
}

/// All segments of a reactor.
#[derive(Debug)]
pub(super) struct ParkingLot {
    shared: Arc<SharedPool>,
    segments: Vec<Segment>,
    free: Vec<u32>,
}

impl ParkingLot {
    /// A segment for each chunk and each parking slot of the owner.
    pub(super) fn new(pool: &PoolOwner) -> Self {
        let total = pool.gauges().total;
        let count = total[SlotClass::Chunk.index()] + total[SlotClass::Parking.index()];
        Self {
            shared: Arc::clone(pool.shared()),
            segments: (0..count).map(|_| Segment { slot: None, start: 0, end: 0, next: NONE }).collect(),
            free: (0..count).rev().collect(),
        }
    }

    /// Puts the chunk's bytes in `range` behind what the row has.
    pub(super) fn park(&mut self, row: &mut Parked, pool: &mut PoolOwner, chunk: Slot, range: Range<usize>) -> ChunkAfter {
        debug_assert!(!range.is_empty(), "there is something to park");
        let shared = Arc::clone(&self.shared);
        if self.append(row, pool, &PoolOwner::bytes(&shared, &chunk)[range.clone()]) {
            return ChunkAfter::Free(chunk);
        }
        match pool.acquire(SlotClass::Parking, SlotUse::Parked) {
            Some(mut slot) => {
                let bytes = &PoolOwner::bytes(&shared, &chunk)[range];
                pool.bytes_mut(&mut slot)[..bytes.len()].copy_from_slice(bytes);
                self.push_back(row, slot, 0..bytes.len());
                ChunkAfter::Free(chunk)
            }
            None => {
                self.push_back(row, chunk, range);
                ChunkAfter::Pinned
            }
        }
    }

    /// Fills the last parking slot up, if the bytes fit there: small receives don't take a slot each.
    fn append(&mut self, row: &mut Parked, pool: &mut PoolOwner, bytes: &[u8]) -> bool {
        if row.is_empty() {
            return false;
        }
        let segment = &mut self.segments[row.last as usize];
        let slot = segment.slot.as_mut().expect("a segment in a row has its slot");
        if slot.class() != SlotClass::Parking {
            return false;
        }
        let Some(room) = pool.bytes_mut(slot).get_mut(segment.end as usize..segment.end as usize + bytes.len()) else {
            return false;
        };
        room.copy_from_slice(bytes);
        segment.end += bytes.len() as u32;
        true
    }

    fn segment(&mut self, slot: Slot, range: Range<usize>, next: u32) -> u32 {
        let index = self.free.pop().expect("as many segments as slots that could be parked");
        self.segments[index as usize] = Segment { slot: Some(slot), start: range.start as u32, end: range.end as u32, next };
        index
    }

    fn push_back(&mut self, row: &mut Parked, slot: Slot, range: Range<usize>) {
        let index = self.segment(slot, range, NONE);
        match row.last {
            NONE => row.first = index,
            last => self.segments[last as usize].next = index,
        }
        row.last = index;
        row.segments += 1;
    }

    /// Puts back what [`ParkingLot::take_first`] took, less what was parsed of it.
    pub(super) fn put_first(&mut self, row: &mut Parked, slot: Slot, range: Range<usize>) {
        let index = self.segment(slot, range, row.first);
        if row.is_empty() {
            row.last = index;
        }
        row.first = index;
        row.segments += 1;
    }

    /// The oldest bytes of the row: the slot they are in, and where.
    pub(super) fn take_first(&mut self, row: &mut Parked) -> Option<(Slot, Range<usize>)> {
        if row.is_empty() {
            return None;
        }
        let index = row.first;
        let segment = &mut self.segments[index as usize];
        let slot = segment.slot.take().expect("a segment in a row has its slot");
        let range = segment.start as usize..segment.end as usize;
        row.first = segment.next;
        row.segments -= 1;
        if row.is_empty() {
            *row = Parked::NONE;
        }
        self.free.push(index);
        Some((slot, range))
    }
}
