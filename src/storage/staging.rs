//! The batch that is being filled: records are encoded straight into the memory that the kernel will read.
//!
//! ```text
//! buffer   [ carry | header | record record record …        | zeros ]      file offset of byte 0: a multiple of 4096
//!            0      start    start+48              ▲ end      ▲ next multiple of 4096
//! carry    the bytes of the file's last block before this batch, repeated exactly: a write covers whole blocks; in the first batch of a
//!          segment the block of the segment's header
//! ```
//!
//! Invariant **G1**: `start < BLOCK_BYTES`, or `start == BLOCK_BYTES` behind a segment header; `start + BATCH_HEADER_BYTES <= crc_end <= end <= buffer.len()`; the CRC covers the payload
//! up to `crc_end`.

use super::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, BatchMark, Contents, FIRST_BATCH_OFFSET, LogKey, RecordHeader, SegmentHeader,
    crc32c_append, encode_record,
};
use crate::pool::Source;
use crate::sys::clock::{Nanos, WallNanos};
use crate::sys::io::Fd;
use crate::sys::memory::StagingBuffer;
use crate::sys::prefetch::prefetch_write;
use crate::wire::Tier;

/// The checksum runs this far behind the records at most: 32 KiB are still in the cache that they were just written to, and the seal
/// of a full batch doesn't stop the core for 2 MiB at once (30 µs at 66 GB/s).
const CRC_STEP_BYTES: usize = 32 << 10;

/// How far ahead of the records the buffer's lines are fetched for writing. The disk, or whoever reads for it, had them since they were last
/// written: some 20 records of 110 bytes are time enough for them to come back from any cache.
const FETCH_AHEAD_BYTES: usize = 2 << 10;
const CACHE_LINE_BYTES: usize = 64;

/// Arrival times kept per batch, for latencies.
pub(super) const SAMPLES_MAX: usize = 64;

/// Events of a batch by source and tier, for the ledger.
pub(super) type Counts = [[u32; Tier::COUNT]; Source::COUNT];

/// Arrival times of some of a batch's events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Samples {
    taken: [(Tier, Nanos); SAMPLES_MAX],
    len: usize,
}

impl Default for Samples {
    fn default() -> Self {
        Self { taken: [(Tier::Batch, Nanos(0)); SAMPLES_MAX], len: 0 }
    }
}

impl Samples {
    /// Keeps one more; when full, what comes later isn't sampled.
    pub(super) fn push(&mut self, tier: Tier, received_at: Nanos) {
        if self.len < SAMPLES_MAX {
            self.taken[self.len] = (tier, received_at);
            self.len += 1;
        }
    }

    pub(super) fn extend(&mut self, more: &Samples) {
        more.iter().for_each(|(tier, at)| self.push(tier, at));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Tier, Nanos)> + '_ {
        self.taken[..self.len].iter().copied()
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }
}

/// What a batch's header says beside what the batch knows itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct SealFacts {
    pub key: LogKey,
    pub epoch: u32,
    pub first_sequence: u64,
    pub sealed_at: WallNanos,
    pub durable_sequence: u64,
    pub durable_bytes: u64,
    pub chain: u32,
}

/// The open batch.
#[derive(Debug)]
pub(super) struct OpenBatch {
    buffer: StagingBuffer,
    file: Fd,
    /// The segment that begins with this batch.
    begins: Option<SegmentHeader>,
    /// Where byte 0 of the buffer belongs in the file.
    offset: u64,
    start: usize,
    end: usize,
    crc: u32,
    crc_end: usize,
    pub(super) records: u32,
    /// Data, or a part of a snapshot.
    mark: BatchMark,
    contents: Contents,
    pub(super) counts: Counts,
    pub(super) samples: Samples,
    /// When the first record came; meaningless without records.
    pub(super) first_staged: Nanos,
}

/// A batch that is ready to be written, without its buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct SealedBatch {
    /// The file that it goes to.
    pub file: Fd,
    /// The segment that begins with it.
    pub begins: Option<SegmentHeader>,
    pub header: BatchHeader,
    pub contents: Contents,
    /// Where byte 0 of the buffer belongs in the file.
    pub offset: u64,
    /// Bytes that matter.
    pub end: usize,
    /// Bytes to write: whole blocks.
    pub padded: usize,
    /// The chain value of the successor.
    pub chain: u32,
    pub counts: Counts,
}

impl OpenBatch {
    /// An empty batch at the place in the file where `carry` ends.
    pub(super) fn new(buffer: StagingBuffer, file: Fd, offset: u64, carry: &[u8]) -> Self {
        let mut batch = Self {
            buffer,
            file,
            begins: None,
            offset: 0,
            start: 0,
            end: 0,
            crc: 0,
            crc_end: 0,
            records: 0,
            mark: BatchMark::Data,
            contents: Contents::default(),
            counts: Counts::default(),
            samples: Samples::default(),
            first_staged: Nanos(0),
        };
        batch.buffer[..carry.len()].copy_from_slice(carry);
        batch.reset(offset, carry.len());
        batch
    }

    fn reset(&mut self, offset: u64, start: usize) {
        let begins_well = start < BLOCK_BYTES || (start == BLOCK_BYTES && offset == 0);
        assert!(begins_well && offset.is_multiple_of(BLOCK_BYTES as u64), "G1: a batch begins in its first block");
        (self.offset, self.start) = (offset, start);
        self.end = start + BATCH_HEADER_BYTES;
        (self.crc, self.crc_end) = (0, self.end);
        (self.records, self.mark, self.contents) = (0, BatchMark::Data, Contents::default());
        self.counts = Counts::default();
        self.samples.clear();
    }

    /// The empty batch becomes the first of another segment: its write begins with the segment's header.
    pub(super) fn begin_segment(&mut self, file: Fd, header: &SegmentHeader) {
        debug_assert!(self.is_empty(), "a batch belongs to one segment");
        let bytes = header.encode();
        self.buffer[..bytes.len()].copy_from_slice(&bytes);
        self.buffer[bytes.len()..FIRST_BATCH_OFFSET as usize].fill(0);
        (self.file, self.begins) = (file, Some(*header));
        self.reset(0, FIRST_BATCH_OFFSET as usize);
    }

    /// The file that it goes to.
    pub(super) fn file(&self) -> Fd {
        self.file
    }

    /// Where it begins in that file.
    pub(super) fn file_offset(&self) -> u64 {
        self.offset + self.start as u64
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0 && self.mark == BatchMark::Data
    }

    /// Bytes of its payload so far.
    pub(super) fn payload_bytes(&self) -> usize {
        self.end - self.start - BATCH_HEADER_BYTES
    }

    /// Room for a part of a snapshot in the empty batch, of at most so many bytes.
    pub(super) fn snapshot_room(&mut self, bytes: usize) -> &mut [u8] {
        debug_assert!(self.is_empty(), "a batch has records or a snapshot");
        let end = self.buffer.len().min(self.end + bytes);
        &mut self.buffer[self.end..end]
    }

    /// The empty batch is a part of a snapshot now: the first `bytes` of [`OpenBatch::snapshot_room`].
    pub(super) fn push_snapshot(&mut self, mark: BatchMark, bytes: usize) {
        self.mark = mark;
        self.end += bytes;
    }

    /// Copies a record into the batch; `id_place` as in [`encode_record`]. False: it does not fit, nothing has changed.
    #[inline]
    pub(super) fn push(&mut self, header: &RecordHeader, id_place: Option<u32>, payload: &[u8]) -> bool {
        let Some(bytes) = encode_record(&mut self.buffer[self.end..], header, id_place, payload) else { return false };
        self.fetch_ahead(bytes);
        self.end += bytes;
        self.records += 1;
        self.contents.add(header);
        self.counts[header.source.index()][header.tier.index()] += 1;
        true
    }

    /// Fetches as many lines, [`FETCH_AHEAD_BYTES`] further on, as the record of `bytes` that has just been written has.
    #[inline]
    fn fetch_ahead(&self, bytes: usize) {
        let from = self.end + FETCH_AHEAD_BYTES;
        let to = self.buffer.len().min(from + bytes.min(FETCH_AHEAD_BYTES));
        (from..to).step_by(CACHE_LINE_BYTES).for_each(|at| prefetch_write(&self.buffer[at]));
    }

    /// Lets the checksum catch up, when it is a step behind.
    #[inline]
    pub(super) fn fold_checksum(&mut self) {
        if self.end - self.crc_end >= CRC_STEP_BYTES {
            self.checksum_to_end();
        }
    }

    fn checksum_to_end(&mut self) {
        self.crc = crc32c_append(self.crc, &self.buffer[self.crc_end..self.end]);
        self.crc_end = self.end;
    }

    /// Completes the batch and begins the next one in `spare`; the last block's bytes are carried over. Returns the sealed batch and its
    /// buffer.
    pub(super) fn seal(&mut self, facts: &SealFacts, spare: StagingBuffer) -> (SealedBatch, StagingBuffer) {
        debug_assert!(!self.is_empty(), "marks are not written by the appender");
        self.checksum_to_end();
        let header = BatchHeader {
            mark: self.mark,
            payload_bytes: self.payload_bytes() as u32,
            record_count: self.records,
            first_sequence: facts.first_sequence,
            sealed_at: facts.sealed_at,
            durable_sequence: facts.durable_sequence,
            durable_bytes_lag: BatchHeader::lag_of(self.file_offset(), facts.durable_bytes),
            epoch: facts.epoch,
            chain: facts.chain,
            payload_crc: self.crc,
        };
        let (bytes, chain) = header.encode(facts.key);
        self.buffer[self.start..][..BATCH_HEADER_BYTES].copy_from_slice(&bytes);
        let padded = self.end.next_multiple_of(BLOCK_BYTES);
        self.buffer[self.end..padded].fill(0); // What an earlier batch left there must not follow this one.
        let sealed = SealedBatch {
            file: self.file,
            begins: self.begins.take(),
            header,
            contents: self.contents,
            offset: self.offset,
            end: self.end,
            padded,
            chain,
            counts: self.counts,
        };
        let buffer = std::mem::replace(&mut self.buffer, spare);
        let carried = self.end % BLOCK_BYTES;
        let block = self.end - carried;
        self.buffer[..carried].copy_from_slice(&buffer[block..self.end]);
        self.reset(self.offset + block as u64, carried);
        (sealed, buffer)
    }

    /// Gives up what is in it (the store has failed): the batch is empty again.
    pub(super) fn discard(&mut self) {
        self.reset(self.offset, self.start);
    }

    pub(super) fn buffer_mut(&mut self) -> &mut StagingBuffer {
        &mut self.buffer
    }
}
