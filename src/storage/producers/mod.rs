//! Who has stored what: for each producer of a session the sequences that are known, so that what comes again is seen to be a duplicate.
//!
//! ```text
//! ProducerTable ─ seat ─ seat ─ …   (bounded; the one that stored least recently gives way)
//!                  └ SequenceWindow:  … known │ floor: not known │ bitmap │ highest │ …
//! ```
//!
//! Invariants:
//! - **P1** A window tells of [`SESSION_WINDOW_MAX`] sequences up to the highest; what is lower is known. A producer sends no sequence that
//!   far beyond one that has no outcome yet, so nothing is called known that may still come for the first time.
//! - **P2** What is known stays known: no call takes a sequence back. Only a producer as a whole is forgotten, by eviction, and that is counted.
//! - **P3** All memory is taken in [`ProducerTable::new`].
//! - **P4** Each segment begins with a snapshot, before any record, whose last part says that it is the last one: so a segment that has
//!   records tells the table by itself, and one whose snapshot was cut off has none. (Not so one that was mended: see `repair`.)
//! - **P5** A snapshot is the table: entries from the least to the most recently stored, so that taking it in gives the same windows, and
//!   the same order of eviction.
//!
//! An entry of a snapshot: producer id (16 bytes), floor `u64`, span `u16` = how many sequences from the floor to the highest, then a bit
//! for each of them, the lowest first, filled up to a byte with zeros. Little-endian, but for the id, which is bytes.

mod rebuild;
mod sequences;

use std::hash::{BuildHasher, RandomState};

pub(super) use rebuild::Rebuild;
pub use sequences::{Seen, SequenceWindow};

use crate::pool::{ProducerId, ProducerStamp};

/// Sequences that a window tells of; a session's window is at most this.
pub const SESSION_WINDOW_MAX: u64 = 16_384;
/// Bytes of a snapshot's entry before its bitmap.
const ENTRY_HEADER_BYTES: usize = 16 + 8 + 2;
/// The longest entry of a snapshot.
pub const SNAPSHOT_ENTRY_BYTES_MAX: usize = ENTRY_HEADER_BYTES + SESSION_WINDOW_MAX as usize / 8;

/// A snapshot is written in parts of about this: encoding one takes as long as a poll of an agent may.
pub(super) const SNAPSHOT_PART_BYTES: usize = 64 << 10;
/// Producers that a table holds, unless said otherwise.
pub const PRODUCERS_DEFAULT: u32 = 1024;

/// What the appender notes beside a seat: where the open batch spells the producer's id out.
pub(super) const PLACE_BYTES: usize = 48;

/// Names a seat of a table, as long as its producer is not evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeatIndex(u32);

impl SeatIndex {
    const NONE: SeatIndex = SeatIndex(u32::MAX);

    /// As an index: less than the table's capacity.
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Debug)]
struct Seat {
    producer: ProducerId,
    window: SequenceWindow,
    /// The next one of the same bucket.
    chained: SeatIndex,
    /// Its neighbours in the order of eviction.
    older: SeatIndex,
    newer: SeatIndex,
}

/// A snapshot's bytes are not those of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotASnapshot;

/// A bounded map from producers to what is known of them. See the module doc.
#[derive(Debug)]
pub struct ProducerTable {
    seats: Vec<Seat>,
    capacity: usize,
    /// The first seat of each bucket; chosen by a keyed hash, as producers choose their ids.
    buckets: Box<[SeatIndex]>,
    keys: RandomState,
    oldest: SeatIndex,
    newest: SeatIndex,
    evicted: u64,
}

impl Clone for ProducerTable {
    /// P3: the copy has room for all its producers, too.
    fn clone(&self) -> Self {
        let mut seats = Vec::with_capacity(self.capacity);
        seats.extend_from_slice(&self.seats);
        Self { seats, buckets: self.buckets.clone(), keys: self.keys.clone(), ..*self }
    }
}

impl ProducerTable {
    /// An empty table for that many producers (at least one).
    pub fn new(capacity: u32) -> Self {
        let capacity = capacity.max(1) as usize;
        Self {
            seats: Vec::with_capacity(capacity),
            capacity,
            buckets: vec![SeatIndex::NONE; capacity.next_power_of_two()].into(),
            keys: RandomState::new(),
            oldest: SeatIndex::NONE,
            newest: SeatIndex::NONE,
            evicted: 0,
        }
    }

    /// Bytes that a table of that capacity takes, what the appender notes beside each seat included.
    pub fn memory_bytes(capacity: u32) -> u64 {
        let capacity = capacity.max(1) as usize;
        (capacity * (size_of::<Seat>() + PLACE_BYTES) + capacity.next_power_of_two() * size_of::<SeatIndex>()) as u64
    }

    /// Producers that it can hold.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Producers that it holds.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Producers that were evicted.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// What is known of a producer; `None`: nothing.
    pub fn window(&self, producer: ProducerId) -> Option<&SequenceWindow> {
        self.find(producer).map(|seat| &self.seats[seat.get()].window)
    }

    /// Notes a stored event: its producer is the most recent one now.
    pub fn observe(&mut self, stamp: ProducerStamp) -> (SeatIndex, Seen) {
        let seat = self.seat(stamp.producer);
        (seat, self.seats[seat.get()].window.observe(stamp.sequence))
    }

    /// Makes known what `window` knows: the producer is the most recent one now.
    pub fn absorb(&mut self, producer: ProducerId, window: &SequenceWindow) {
        let seat = self.seat(producer);
        self.seats[seat.get()].window.absorb(window);
    }

    /// All producers, the one that stored least recently first.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &SequenceWindow)> + '_ {
        let mut next = self.oldest;
        std::iter::from_fn(move || {
            let seat = self.seats.get(next.get())?;
            next = seat.newer;
            Some((seat.producer, &seat.window))
        })
    }

    /// Forgets all producers; this is no eviction.
    pub fn clear(&mut self) {
        self.seats.clear();
        self.buckets.fill(SeatIndex::NONE);
        (self.oldest, self.newest) = (SeatIndex::NONE, SeatIndex::NONE);
    }

    fn bucket(&self, producer: ProducerId) -> usize {
        self.keys.hash_one(producer) as usize & (self.buckets.len() - 1)
    }

    pub(super) fn find(&self, producer: ProducerId) -> Option<SeatIndex> {
        // The most recent one is asked for again and again.
        if self.seats.get(self.newest.get()).is_some_and(|seat| seat.producer == producer) {
            return Some(self.newest);
        }
        let mut at = self.buckets[self.bucket(producer)];
        while let Some(seat) = self.seats.get(at.get()) {
            if seat.producer == producer {
                return Some(at);
            }
            at = seat.chained;
        }
        None
    }

    /// The producer's seat, taken if it has none; the newest from now on.
    fn seat(&mut self, producer: ProducerId) -> SeatIndex {
        if let Some(seat) = self.find(producer) {
            if seat != self.newest {
                self.unlink(seat);
                self.link_newest(seat);
            }
            return seat;
        }
        let bucket = self.bucket(producer);
        let new =
            |chained| Seat { producer, window: SequenceWindow::new(), chained, older: SeatIndex::NONE, newer: SeatIndex::NONE };
        let seat = if self.seats.len() < self.capacity {
            self.seats.push(new(self.buckets[bucket]));
            SeatIndex(self.seats.len() as u32 - 1)
        } else {
            let seat = self.oldest;
            self.unlink(seat);
            self.unchain(seat);
            self.evicted += 1;
            self.seats[seat.get()] = new(self.buckets[bucket]);
            seat
        };
        self.buckets[bucket] = seat;
        self.link_newest(seat);
        seat
    }

    fn unlink(&mut self, seat: SeatIndex) {
        let Seat { older, newer, .. } = self.seats[seat.get()];
        match self.seats.get_mut(older.get()) {
            Some(seat) => seat.newer = newer,
            None => self.oldest = newer,
        }
        match self.seats.get_mut(newer.get()) {
            Some(seat) => seat.older = older,
            None => self.newest = older,
        }
    }

    fn link_newest(&mut self, seat: SeatIndex) {
        let before = std::mem::replace(&mut self.newest, seat);
        (self.seats[seat.get()].older, self.seats[seat.get()].newer) = (before, SeatIndex::NONE);
        match self.seats.get_mut(before.get()) {
            Some(before) => before.newer = seat,
            None => self.oldest = seat,
        }
    }

    /// Takes a seat out of its bucket.
    fn unchain(&mut self, seat: SeatIndex) {
        let Seat { producer, chained, .. } = self.seats[seat.get()];
        let bucket = self.bucket(producer);
        if self.buckets[bucket] == seat {
            self.buckets[bucket] = chained;
            return;
        }
        let mut at = self.buckets[bucket];
        while self.seats[at.get()].chained != seat {
            at = self.seats[at.get()].chained;
        }
        self.seats[at.get()].chained = chained;
    }

    /// The first entry of a snapshot; `None`: it has none.
    pub fn snapshot_begin(&self) -> Option<SeatIndex> {
        Some(self.oldest).filter(|seat| *seat != SeatIndex::NONE)
    }

    /// Writes the entries of a snapshot from `from` on, as many as fit into `out` whole. Returns the bytes, and the entry to go on with. The
    /// table must not change between the parts of one snapshot. At least one fits into [`SNAPSHOT_ENTRY_BYTES_MAX`].
    pub fn snapshot(&self, from: SeatIndex, out: &mut [u8]) -> (usize, Option<SeatIndex>) {
        let (mut used, mut next) = (0, from);
        while let Some(seat) = self.seats.get(next.get()) {
            let Some(bytes) = encode_entry(seat, &mut out[used..]) else { return (used, Some(next)) };
            (used, next) = (used + bytes, seat.newer);
        }
        (used, None)
    }

    /// Takes in a part of a snapshot: what its windows know is known.
    ///
    /// # Errors
    /// The bytes are not whole entries; those before the bad one have been taken in.
    pub fn take_in(&mut self, mut bytes: &[u8]) -> Result<(), NotASnapshot> {
        while !bytes.is_empty() {
            let (producer, window, used) = decode_entry(bytes).ok_or(NotASnapshot)?;
            self.absorb(producer, &window);
            bytes = &bytes[used..];
        }
        Ok(())
    }
}

/// Whether bytes are whole entries of a snapshot.
pub fn is_snapshot(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Some((_, _, used)) = decode_entry(bytes) else { return false };
        bytes = &bytes[used..];
    }
    true
}

/// Writes an entry if there is room for it.
fn encode_entry(seat: &Seat, out: &mut [u8]) -> Option<usize> {
    let span = seat.window.span();
    let bytes = ENTRY_HEADER_BYTES + span.div_ceil(8) as usize;
    let out = out.get_mut(..bytes)?;
    out[..16].copy_from_slice(&seat.producer.to_bytes());
    out[16..24].copy_from_slice(&seat.window.floor().to_le_bytes());
    out[24..26].copy_from_slice(&(span as u16).to_le_bytes());
    for (index, byte) in out[ENTRY_HEADER_BYTES..].iter_mut().enumerate() {
        *byte = seat.window.byte(index as u64);
    }
    Some(bytes)
}

fn decode_entry(bytes: &[u8]) -> Option<(ProducerId, SequenceWindow, usize)> {
    let (id, rest) = bytes.split_first_chunk::<16>()?;
    let (floor, rest) = rest.split_first_chunk::<8>()?;
    let (span, rest) = rest.split_first_chunk::<2>()?;
    let span = u64::from(u16::from_le_bytes(*span));
    let bitmap = rest.get(..span.div_ceil(8) as usize)?;
    let window = SequenceWindow::from_parts(u64::from_le_bytes(*floor), span, bitmap)?;
    Some((ProducerId::from_bytes(*id)?, window, ENTRY_HEADER_BYTES + bitmap.len()))
}
