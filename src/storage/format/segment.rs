//! The two ends of a segment: the header that says what it continues, and the footer that closes it for good.
//!
//! Segment header, at offset 0:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `EVSTRLOG` |
//! | 8 | 2 | version, 3 |
//! | 10 | 2 | header bytes, 96 |
//! | 12 | 4 | node |
//! | 16 | 8 | log id: random, the same in every segment of the log |
//! | 24 | 8 | created at, wall ns |
//! | 32 | 8 | first sequence |
//! | 40 | 4 | epoch: batches of the segment have this one or a later one |
//! | 44 | 4 | where batches begin, 4096 |
//! | 48 | 8 | follows: the end sequence of the predecessor; below the first sequence only where a loss was accepted |
//! | 56 | 4 | chain: what the first batch carries as its chain; the header CRC of the predecessor's last batch, 0 in a new log |
//! | 60 | 4 | flags: 1 recycled (behind the last batch may lie what an earlier use left), 2 mended (what it follows was repaired, so that the chain may not fit) |
//! | 64 | 8 | latest receipt of all records before this segment, wall ns |
//! | 72 | 20 | zero |
//! | 92 | 4 | CRC-32C of bytes 0..92 |
//!
//! Footer, right behind the last batch of a sealed segment:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `EVSTREND` |
//! | 8 | 2 | version, 3 |
//! | 10 | 2 | footer bytes, 128 |
//! | 12 | 4 | epoch of the last batch |
//! | 16 | 8 | log id |
//! | 24 | 8 | first sequence |
//! | 32 | 8 | end sequence: that of the next segment's first record |
//! | 40 | 8 | its own place: where batches end |
//! | 48 | 8 | batches with records |
//! | 56 | 8 | highest event id, 0 without records |
//! | 64 | 8 | when the first batch with records was sealed, wall ns, 0 without records |
//! | 72 | 8 | when the last one was |
//! | 80 | 8 | latest receipt of all records up to here, in this segment or before: it only grows, so segments can be searched by it |
//! | 88 | 4 | chain: the header CRC of the last batch |
//! | 92 | 4 | node |
//! | 96 | 28 | zero |
//! | 124 | 4 | CRC-32C of bytes 0..124 |

use super::checksum::crc32c;
use super::{
    BatchHeader, BatchMark, Contents, EPOCH_MAX, FIRST_BATCH_OFFSET, FORMAT_VERSION, FormatError, u16_at, u32_at, u64_at,
};
use crate::sys::clock::WallNanos;

/// Bytes of the segment header that mean something; it fills a block of its own.
pub const SEGMENT_HEADER_BYTES: usize = 96;
/// Bytes of the footer.
pub const FOOTER_BYTES: usize = 128;
/// The first bytes of every segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"EVSTRLOG";
/// The first bytes of every footer.
pub const FOOTER_MAGIC: [u8; 8] = *b"EVSTREND";

const _: () = assert!(FIRST_BATCH_OFFSET as usize >= SEGMENT_HEADER_BYTES);

/// The identity of a segment, and what it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The node whose events these are.
    pub node: u32,
    /// Random; every batch's checks are mixed with it (F4).
    pub log_id: u64,
    /// When the segment was begun.
    pub created_at: WallNanos,
    /// Sequence of the first record.
    pub first_sequence: u64,
    /// The first epoch in it.
    pub epoch: u32,
    /// The end sequence of the predecessor. Below `first_sequence` only where the loss of what was between was accepted.
    pub follows: u64,
    /// The chain value of the first batch.
    pub chain: u32,
    /// Whether the file was used before: behind the last batch may lie what was there then.
    pub recycled: bool,
    /// Whether what is before it was repaired: its chain need not be that of what it follows.
    pub mended: bool,
    /// The latest receipt of all records before this segment.
    pub latest_receipt_before: WallNanos,
}

/// Magic, CRC (the last four bytes), version and length of a fixed part, in this order.
fn check_fixed(bytes: &[u8], magic: [u8; 8]) -> Result<(), FormatError> {
    if bytes[..8] != magic {
        return Err(FormatError::Magic);
    }
    // The version first: another one may have its checksum elsewhere.
    let crc_at = bytes.len() - 4;
    let crc_fits = crc32c(&bytes[..crc_at]) == u32_at(bytes, crc_at);
    match (u16_at(bytes, 8), u16_at(bytes, 10) as usize) {
        (FORMAT_VERSION, length) if crc_fits => {
            if length == bytes.len() {
                Ok(())
            } else {
                Err(FormatError::Field)
            }
        }
        (1, 64) => Err(FormatError::Version { found: 1 }),
        (found, _) if crc_fits => Err(FormatError::Version { found }),
        _ => Err(FormatError::Checksum),
    }
}

impl SegmentHeader {
    /// The bytes at the start of the file.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&(SEGMENT_HEADER_BYTES as u16).to_le_bytes());
        out[12..16].copy_from_slice(&self.node.to_le_bytes());
        out[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.created_at.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        out[40..44].copy_from_slice(&self.epoch.to_le_bytes());
        out[44..48].copy_from_slice(&(FIRST_BATCH_OFFSET as u32).to_le_bytes());
        out[48..56].copy_from_slice(&self.follows.to_le_bytes());
        out[56..60].copy_from_slice(&self.chain.to_le_bytes());
        let flags = u32::from(self.recycled) | u32::from(self.mended) << 1;
        out[60..64].copy_from_slice(&flags.to_le_bytes());
        out[64..72].copy_from_slice(&self.latest_receipt_before.0.to_le_bytes());
        let crc = crc32c(&out[..92]);
        out[92..96].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_BYTES) else {
            return Err(if bytes.len() >= 8 && bytes[..8] != SEGMENT_MAGIC { FormatError::Magic } else { FormatError::Short });
        };
        check_fixed(bytes, SEGMENT_MAGIC)?;
        let header = Self {
            node: u32_at(bytes, 12),
            log_id: u64_at(bytes, 16),
            created_at: WallNanos(u64_at(bytes, 24)),
            first_sequence: u64_at(bytes, 32),
            epoch: u32_at(bytes, 40),
            follows: u64_at(bytes, 48),
            chain: u32_at(bytes, 56),
            recycled: u32_at(bytes, 60) & 1 == 1,
            mended: u32_at(bytes, 60) & 2 == 2,
            latest_receipt_before: WallNanos(u64_at(bytes, 64)),
        };
        let fixed = u64::from(u32_at(bytes, 44)) == FIRST_BATCH_OFFSET && u32_at(bytes, 60) <= 3 && bytes[72..92] == [0; 20];
        if !fixed || header.follows > header.first_sequence || header.epoch > EPOCH_MAX {
            return Err(FormatError::Field);
        }
        Ok(header)
    }
}

/// The end of a sealed segment: what recovery and searches need of it without reading its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// As in the segment header.
    pub node: u32,
    /// As in the segment header.
    pub log_id: u64,
    /// The epoch of the last batch.
    pub epoch: u32,
    /// Sequence of the first record.
    pub first_sequence: u64,
    /// The sequence after the last record.
    pub end_sequence: u64,
    /// Where the batches end, and the footer begins.
    pub offset: u64,
    /// Batches with records.
    pub batches: u64,
    /// The highest event id, 0 without records.
    pub highest_event_id: u64,
    /// When the first and the last batch with records were sealed; 0 without.
    pub sealed_between: (WallNanos, WallNanos),
    /// The latest receipt of all records up to here, those of earlier segments included.
    pub latest_receipt: WallNanos,
    /// The header CRC of the last batch.
    pub chain: u32,
}

impl Footer {
    /// What the footer of a segment without batches says; [`Footer::add`] brings it up to date, batch by batch.
    pub fn of_empty(segment: &SegmentHeader) -> Self {
        Self {
            node: segment.node,
            log_id: segment.log_id,
            epoch: segment.epoch,
            first_sequence: segment.first_sequence,
            end_sequence: segment.first_sequence,
            offset: FIRST_BATCH_OFFSET,
            batches: 0,
            highest_event_id: 0,
            sealed_between: (WallNanos(0), WallNanos(0)),
            latest_receipt: segment.latest_receipt_before,
            chain: segment.chain,
        }
    }

    /// One more batch stands where the footer stood; `chain` is its header CRC.
    pub fn add(&mut self, batch: &BatchHeader, contents: &Contents, chain: u32) {
        self.epoch = batch.epoch;
        self.end_sequence = batch.end_sequence();
        self.offset += batch.batch_bytes();
        self.chain = chain;
        if batch.mark == BatchMark::Data {
            let first = if self.batches == 0 { batch.sealed_at } else { self.sealed_between.0 };
            self.sealed_between = (first, batch.sealed_at);
            self.batches += 1;
            self.highest_event_id = self.highest_event_id.max(contents.highest_event_id);
            self.latest_receipt = self.latest_receipt.max(contents.latest_receipt);
        }
    }

    /// Whether there are records.
    pub fn has_records(&self) -> bool {
        self.end_sequence > self.first_sequence
    }

    /// The header of a segment that goes on behind this one.
    pub fn successor(&self, created_at: WallNanos, epoch: u32) -> SegmentHeader {
        SegmentHeader {
            node: self.node,
            log_id: self.log_id,
            created_at,
            first_sequence: self.end_sequence,
            epoch,
            follows: self.end_sequence,
            chain: self.chain,
            recycled: false,
            mended: false,
            latest_receipt_before: self.latest_receipt,
        }
    }

    /// Whether `next` goes on right behind this one, with no record between.
    pub fn is_followed_by(&self, next: &SegmentHeader) -> bool {
        let is_same_log = next.node == self.node && next.log_id == self.log_id;
        is_same_log && next.follows == self.end_sequence && (next.mended || next.chain == self.chain)
    }

    /// The footer's bytes.
    pub fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut out = [0; FOOTER_BYTES];
        out[0..8].copy_from_slice(&FOOTER_MAGIC);
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&(FOOTER_BYTES as u16).to_le_bytes());
        out[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        out[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.end_sequence.to_le_bytes());
        out[40..48].copy_from_slice(&self.offset.to_le_bytes());
        out[48..56].copy_from_slice(&self.batches.to_le_bytes());
        out[56..64].copy_from_slice(&self.highest_event_id.to_le_bytes());
        out[64..72].copy_from_slice(&self.sealed_between.0.0.to_le_bytes());
        out[72..80].copy_from_slice(&self.sealed_between.1.0.to_le_bytes());
        out[80..88].copy_from_slice(&self.latest_receipt.0.to_le_bytes());
        out[88..92].copy_from_slice(&self.chain.to_le_bytes());
        out[92..96].copy_from_slice(&self.node.to_le_bytes());
        let crc = crc32c(&out[..124]);
        out[124..128].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a footer.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let bytes = bytes.get(..FOOTER_BYTES).ok_or(FormatError::Short)?;
        check_fixed(bytes, FOOTER_MAGIC)?;
        let footer = Self {
            epoch: u32_at(bytes, 12),
            log_id: u64_at(bytes, 16),
            first_sequence: u64_at(bytes, 24),
            end_sequence: u64_at(bytes, 32),
            offset: u64_at(bytes, 40),
            batches: u64_at(bytes, 48),
            highest_event_id: u64_at(bytes, 56),
            sealed_between: (WallNanos(u64_at(bytes, 64)), WallNanos(u64_at(bytes, 72))),
            latest_receipt: WallNanos(u64_at(bytes, 80)),
            chain: u32_at(bytes, 88),
            node: u32_at(bytes, 92),
        };
        let in_range =
            footer.epoch <= EPOCH_MAX && footer.offset >= FIRST_BATCH_OFFSET && footer.end_sequence >= footer.first_sequence;
        if in_range && bytes[96..124] == [0; 28] { Ok(footer) } else { Err(FormatError::Field) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::BLOCK_BYTES;
    use super::*;

    fn a_header() -> SegmentHeader {
        SegmentHeader {
            node: 2,
            log_id: 77,
            created_at: WallNanos(5),
            first_sequence: 9,
            epoch: 4,
            follows: 7,
            chain: 0xdead_beef,
            recycled: true,
            mended: false,
            latest_receipt_before: WallNanos(4),
        }
    }

    fn a_footer() -> Footer {
        Footer {
            node: 2,
            log_id: 77,
            epoch: 5,
            first_sequence: 9,
            end_sequence: 1009,
            offset: 123_456,
            batches: 10,
            highest_event_id: 99,
            sealed_between: (WallNanos(6), WallNanos(8)),
            latest_receipt: WallNanos(7),
            chain: 0x0102_0304,
        }
    }

    #[test]
    fn both_ends_come_back_as_they_went() {
        assert_eq!(SegmentHeader::decode(&a_header().encode()).unwrap(), a_header());
        assert_eq!(Footer::decode(&a_footer().encode()).unwrap(), a_footer());
    }

    #[test]
    fn all_zero_bytes_parse_as_nothing() {
        assert_eq!(SegmentHeader::decode(&[0; BLOCK_BYTES]).unwrap_err(), FormatError::Magic);
        assert_eq!(Footer::decode(&[0; BLOCK_BYTES]).unwrap_err(), FormatError::Magic);
    }

    #[test]
    fn every_flipped_bit_of_both_ends_is_found() {
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut bytes = a_header().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bytes).is_err(), "bit {bit} of the header");
        }
        for bit in 0..FOOTER_BYTES * 8 {
            let mut bytes = a_footer().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::decode(&bytes).is_err(), "bit {bit} of the footer");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_even_with_a_fitting_checksum() {
        let worn = SegmentHeader { epoch: EPOCH_MAX + 1, ..a_header() };
        assert_eq!(SegmentHeader::decode(&worn.encode()).unwrap_err(), FormatError::Field);
        let gap = SegmentHeader { follows: 10, ..a_header() };
        assert_eq!(SegmentHeader::decode(&gap.encode()).unwrap_err(), FormatError::Field);
        let backwards = Footer { end_sequence: 8, ..a_footer() };
        assert_eq!(Footer::decode(&backwards.encode()).unwrap_err(), FormatError::Field);
    }

    #[test]
    fn a_file_of_an_earlier_version_is_named_as_one() {
        let mut first = vec![0; BLOCK_BYTES];
        first[..8].copy_from_slice(&SEGMENT_MAGIC);
        (first[8], first[10]) = (1, 64);
        assert_eq!(SegmentHeader::decode(&first).unwrap_err(), FormatError::Version { found: 1 });
        let mut second = a_header().encode();
        second[8] = 2;
        let crc = crc32c::crc32c(&second[..92]);
        second[92..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&second).unwrap_err(), FormatError::Version { found: 2 });
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_something_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SegmentHeader::decode(&bytes);
            let _ = Footer::decode(&bytes);
        }
    }
}
