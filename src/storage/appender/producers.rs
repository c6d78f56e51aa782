//! The producers of the events that were staged: where the open batch spells their ids out (F6), and the snapshot that a segment begins with.

use super::super::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, BatchMark, ID_PLACE_IN_RECORD};
use super::super::producers::{PLACE_BYTES, ProducerTable, SNAPSHOT_ENTRY_BYTES_MAX, SNAPSHOT_PART_BYTES, SeatIndex};
use super::Appender;
use crate::agent::Context;
use crate::pool::{ProducerId, ProducerStamp};
use crate::sys::io::Ring;

const _: () = assert!(size_of::<Option<Place>>() <= PLACE_BYTES);
// The room that the smallest staging buffer leaves behind a segment's header takes any entry: each part has one at least.
const _: () = assert!(BLOCK_BYTES - BATCH_HEADER_BYTES >= SNAPSHOT_ENTRY_BYTES_MAX);

/// Where a producer's id stands in the payload of a batch.
#[derive(Clone, Copy, Debug)]
struct Place {
    producer: ProducerId,
    batch: u64,
    at: u32,
}

/// How far the snapshot of a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Snapshot {
    Done,
    /// Its next part begins with this entry; `None`: with none, as the table is empty.
    From(Option<SeatIndex>),
}

/// What the appender knows of producers. All memory is taken once (A5).
#[derive(Debug)]
pub(super) struct StagedProducers {
    table: ProducerTable,
    /// By seat; a seat may have another producer by now, and a place may be of a batch before.
    places: Box<[Option<Place>]>,
    /// Counts the open batches.
    batch: u64,
    snapshot: Snapshot,
}

impl StagedProducers {
    pub fn new(table: ProducerTable) -> Self {
        Self { places: vec![None; table.capacity()].into(), table, batch: 0, snapshot: Snapshot::Done }
    }

    /// Where the open batch has the id of this producer already.
    #[inline]
    pub fn place(&self, producer: ProducerId) -> Option<u32> {
        let seat = self.table.find(producer)?;
        let place = self.places[seat.get()]?;
        (place.producer == producer && place.batch == self.batch).then_some(place.at)
    }

    /// An event was staged, its record at `record_at` of the payload; it spells the id out, unless that stood there before.
    #[inline]
    pub fn staged(&mut self, stamp: ProducerStamp, record_at: usize, spelt_out: bool) {
        let (seat, _) = self.table.observe(stamp);
        if spelt_out {
            let at = (record_at + ID_PLACE_IN_RECORD) as u32;
            self.places[seat.get()] = Some(Place { producer: stamp.producer, batch: self.batch, at });
        }
    }

    /// What comes goes into another batch.
    pub fn next_batch(&mut self) {
        self.batch += 1;
    }

    /// A segment begins: before any record it gets a snapshot.
    pub fn begin_snapshot(&mut self) {
        self.snapshot = Snapshot::From(self.table.snapshot_begin());
    }
}

impl Appender {
    /// Writes what is left of the snapshot that the segment begins with, part by part, each a batch and a write of its own. Returns whether
    /// all of it is on its way: no record may be staged before (A8).
    pub(super) fn write_snapshot<R: Ring>(&mut self, ctx: &mut Context<'_, R>) -> bool {
        while let Snapshot::From(from) = self.producers.snapshot {
            if self.spare.is_none() {
                return false;
            }
            let out = self.open.snapshot_room(SNAPSHOT_PART_BYTES);
            let (bytes, next) = from.map_or((0, None), |from| self.producers.table.snapshot(from, out));
            let mark = if next.is_some() { BatchMark::Producers } else { BatchMark::ProducersEnd };
            self.open.push_snapshot(mark, bytes);
            self.producers.snapshot = if next.is_some() { Snapshot::From(next) } else { Snapshot::Done };
            let started = self.start_write(ctx);
            debug_assert!(started, "there is a buffer for what comes next");
        }
        true
    }
}
