//! The log's bytes: segment header, batches, records, footer. Pure encoding and decoding, no I/O, no allocation.
//!
//! ```text
//! active   = segment header (one block of 4096 bytes) , batch , batch , …  , unwritten: zeros, or what an earlier use left
//! sealed   = segment header (one block of 4096 bytes) , batch , batch , …  , footer (128 bytes, the last of the file)
//! batch    = header (96 bytes) , payload = record , record , …
//! ```
//!
//! A log is a row of segments, each a file: sealed ones, and the active one at the end. Sequences, epochs and the chain of checksums go
//! through all of them. Batches follow each other without padding. All integers are little-endian (what every supported host computes
//! with); all bytes not named are zero and are checked to be.
//!
//! Segment header, at offset 0:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `EVSTRLOG` |
//! | 8 | 2 | version, 2 |
//! | 10 | 2 | header bytes, 96 |
//! | 12 | 4 | node |
//! | 16 | 8 | log id: random, the same in every segment and batch of the log |
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
//! Batch header:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `EVSTRBAT` |
//! | 8 | 2 | version, 2 |
//! | 10 | 2 | header bytes, 96 |
//! | 12 | 4 | mark: 0 data, 1 opened (a new epoch begins), 2 closed in good order |
//! | 16 | 8 | log id |
//! | 24 | 4 | payload bytes |
//! | 28 | 4 | record count |
//! | 32 | 8 | first sequence; record *i* has this plus *i* |
//! | 40 | 8 | sealed at, wall ns |
//! | 48 | 8 | durable sequence known when sealed: everything below was on stable storage, in whatever segment |
//! | 56 | 8 | durable bytes known when sealed: everything of this file below was on stable storage |
//! | 64 | 8 | highest event id of the batch, 0 without records |
//! | 72 | 4 | epoch |
//! | 76 | 4 | chain: the header CRC of the predecessor (for the first batch of a segment: as its header says) |
//! | 80 | 8 | latest receipt of its records, wall ns, 0 without records |
//! | 88 | 4 | CRC-32C of the payload |
//! | 92 | 4 | CRC-32C of bytes 0..92, so of the payload too |
//!
//! Footer, right behind the last batch of a sealed segment:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `EVSTREND` |
//! | 8 | 2 | version, 2 |
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
//!
//! Record: `u32` record bytes (all of it), `u64` event id, `u64` received at (wall ns), `u8` priority, `u8` tier, `u8` source, `u8` zero,
//! `u16` topic bytes, topic, body.
//!
//! Invariants:
//! - **F1** All-zero bytes parse as nothing: no magic is zero.
//! - **F2** Nothing is believed before its CRC has been checked, and no length beyond [`BATCH_BYTES_MAX`] even then: a decoder never
//!   allocates on a claimed length.
//! - **F3** Any flipped bit of a batch is found: header bytes by the header CRC, payload bytes by the payload CRC that it covers.
//! - **F4** The log id is secret to senders (a random number), so a body that looks like a batch is not taken for one.
//! - **F5** A batch that an earlier use of its file left is never taken for one of now: all its sequences are lower than the segment's
//!   first, or its epoch is older than that of the batches before it.
//!
//! CRC-32C (Castagnoli) as in RFC 3720 B.4, the `crc32c` crate.

mod segment;

pub use segment::{FOOTER_BYTES, FOOTER_MAGIC, Footer, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, SegmentHeader};

use crate::pool::Source;
use crate::sys::clock::WallNanos;
use crate::wire::{Priority, Tier};

/// The block that direct writes are made of, and that a torn write is assumed not to tear.
pub const BLOCK_BYTES: usize = 4096;
/// Where the first batch begins.
pub const FIRST_BATCH_OFFSET: u64 = BLOCK_BYTES as u64;
/// Bytes of a batch header.
pub const BATCH_HEADER_BYTES: usize = 96;
/// Bytes of a record before its topic.
pub const RECORD_HEADER_BYTES: usize = 26;
/// The largest batch, header included: a reader's buffer is bounded by this. Four of the largest frames that the wire admits (2^24).
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// The version written; others are refused.
pub const FORMAT_VERSION: u16 = 2;

/// The first bytes of every batch.
pub const BATCH_MAGIC: [u8; 8] = *b"EVSTRBAT";

const _: () = assert!(RECORD_HEADER_BYTES == 4 + 8 + 8 + 4 + 2);
const _: () = assert!(BATCH_BYTES_MAX < u32::MAX as usize);

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("a slice of two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"))
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// Fewer bytes than the fixed part needs.
    Short,
    /// Other first bytes; all zero bytes among them (F1).
    Magic,
    /// The CRC does not fit.
    Checksum,
    /// A version of the format that this build does not know.
    Version {
        /// The version found.
        found: u16,
    },
    /// A field outside of its range though the CRC fits: written by something else.
    Field,
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FormatError::Short => write!(f, "it ends too early"),
            FormatError::Magic => write!(f, "its first bytes are other ones"),
            FormatError::Checksum => write!(f, "its checksum does not fit"),
            FormatError::Version { found } => write!(f, "it has format version {found}, this build knows {FORMAT_VERSION}"),
            FormatError::Field => write!(f, "a field is out of its range"),
        }
    }
}

impl std::error::Error for FormatError {}

/// What a batch is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BatchMark {
    /// Records.
    Data = 0,
    /// No records: the log was opened, a new epoch begins, everything before is durable.
    Opened = 1,
    /// No records: the log was closed in good order, everything before is durable.
    Closed = 2,
}

/// The header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// What it is there for.
    pub mark: BatchMark,
    /// As in the segment header.
    pub log_id: u64,
    /// Bytes of the records.
    pub payload_bytes: u32,
    /// How many records.
    pub record_count: u32,
    /// Sequence of the first record.
    pub first_sequence: u64,
    /// When it was sealed.
    pub sealed_at: WallNanos,
    /// Every record below this sequence was on stable storage when this was sealed.
    pub durable_sequence: u64,
    /// Every byte of the file below this was on stable storage when this was sealed.
    pub durable_bytes: u64,
    /// The highest event id in it, 0 without records.
    pub highest_event_id: u64,
    /// Which opening of the log wrote it.
    pub epoch: u32,
    /// The header CRC of the predecessor.
    pub chain: u32,
    /// The latest receipt of its records, 0 without records.
    pub latest_receipt: WallNanos,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
}

impl BatchHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        out[0..8].copy_from_slice(&BATCH_MAGIC);
        out[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[10..12].copy_from_slice(&(BATCH_HEADER_BYTES as u16).to_le_bytes());
        out[12..16].copy_from_slice(&(self.mark as u32).to_le_bytes());
        out[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        out[24..28].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[28..32].copy_from_slice(&self.record_count.to_le_bytes());
        out[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        out[40..48].copy_from_slice(&self.sealed_at.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.durable_sequence.to_le_bytes());
        out[56..64].copy_from_slice(&self.durable_bytes.to_le_bytes());
        out[64..72].copy_from_slice(&self.highest_event_id.to_le_bytes());
        out[72..76].copy_from_slice(&self.epoch.to_le_bytes());
        out[76..80].copy_from_slice(&self.chain.to_le_bytes());
        out[80..88].copy_from_slice(&self.latest_receipt.0.to_le_bytes());
        out[88..92].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..92]);
        out[92..96].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header, and its CRC: the chain value of the successor.
    ///
    /// # Errors
    /// See [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, u32), FormatError> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES).ok_or(FormatError::Short)?;
        if bytes[..8] != BATCH_MAGIC {
            return Err(FormatError::Magic);
        }
        let crc = u32_at(bytes, 92);
        if crc32c::crc32c(&bytes[..92]) != crc {
            return Err(FormatError::Checksum);
        }
        if u16_at(bytes, 8) != FORMAT_VERSION {
            return Err(FormatError::Version { found: u16_at(bytes, 8) });
        }
        let mark = match u32_at(bytes, 12) {
            0 => BatchMark::Data,
            1 => BatchMark::Opened,
            2 => BatchMark::Closed,
            _ => return Err(FormatError::Field),
        };
        let header = Self {
            mark,
            log_id: u64_at(bytes, 16),
            payload_bytes: u32_at(bytes, 24),
            record_count: u32_at(bytes, 28),
            first_sequence: u64_at(bytes, 32),
            sealed_at: WallNanos(u64_at(bytes, 40)),
            durable_sequence: u64_at(bytes, 48),
            durable_bytes: u64_at(bytes, 56),
            highest_event_id: u64_at(bytes, 64),
            epoch: u32_at(bytes, 72),
            chain: u32_at(bytes, 76),
            latest_receipt: WallNanos(u64_at(bytes, 80)),
            payload_crc: u32_at(bytes, 88),
        };
        if u16_at(bytes, 10) as usize != BATCH_HEADER_BYTES || !header.lengths_fit() {
            return Err(FormatError::Field);
        }
        Ok((header, crc))
    }

    /// Whether lengths and counts can belong together (F2).
    fn lengths_fit(&self) -> bool {
        let payload = self.payload_bytes as usize;
        let records = self.record_count as usize;
        let counted = match self.mark {
            BatchMark::Data => records > 0 && payload / RECORD_HEADER_BYTES >= records,
            BatchMark::Opened | BatchMark::Closed => records == 0 && payload == 0,
        };
        counted && payload <= BATCH_BYTES_MAX - BATCH_HEADER_BYTES && self.first_sequence.checked_add(records as u64).is_some()
    }

    /// The sequence after its last record.
    pub fn end_sequence(&self) -> u64 {
        self.first_sequence + u64::from(self.record_count)
    }

    /// Bytes of header and payload.
    pub fn batch_bytes(&self) -> u64 {
        BATCH_HEADER_BYTES as u64 + u64::from(self.payload_bytes)
    }
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The event's id.
    pub id: u64,
    /// When its bytes were received.
    pub received_at: WallNanos,
    /// As sent.
    pub priority: Priority,
    /// As dispatched.
    pub tier: Tier,
    /// Where it came in.
    pub source: Source,
    /// Bytes of the topic.
    pub topic_bytes: u16,
}

/// Writes a record at the start of `out`; `payload` is topic and body as they follow each other. Returns the record's bytes, or `None`
/// when it does not fit.
#[inline]
pub fn encode_record(out: &mut [u8], header: &RecordHeader, payload: &[u8]) -> Option<usize> {
    debug_assert!(header.topic_bytes as usize <= payload.len(), "the topic is a part of the payload");
    let record_bytes = RECORD_HEADER_BYTES + payload.len();
    // The one bounds check of a record; everything below has constant indexes.
    let (fixed, rest) = out.get_mut(..record_bytes)?.split_first_chunk_mut::<RECORD_HEADER_BYTES>()?;
    fixed[0..4].copy_from_slice(&(record_bytes as u32).to_le_bytes());
    fixed[4..12].copy_from_slice(&header.id.to_le_bytes());
    fixed[12..20].copy_from_slice(&header.received_at.0.to_le_bytes());
    fixed[20..24].copy_from_slice(&[header.priority as u8, header.tier as u8, header.source as u8, 0]);
    fixed[24..26].copy_from_slice(&header.topic_bytes.to_le_bytes());
    rest.copy_from_slice(payload);
    Some(record_bytes)
}

/// A record as it lies in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBytes<'a> {
    /// The fixed part.
    pub header: RecordHeader,
    /// Valid UTF-8, as the wire codec admits nothing else.
    pub topic: &'a str,
    /// Any bytes.
    pub body: &'a [u8],
}

/// Reads the record at the start of a batch's (verified) payload. Returns it and its bytes.
///
/// # Errors
/// [`FormatError::Short`] or [`FormatError::Field`]: the payload was not written by [`encode_record`].
pub fn decode_record(bytes: &[u8]) -> Result<(RecordBytes<'_>, usize), FormatError> {
    let (fixed, _) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>().ok_or(FormatError::Short)?;
    let record_bytes = u32_at(fixed, 0) as usize;
    let topic_bytes = u16_at(fixed, 24);
    if record_bytes < RECORD_HEADER_BYTES + topic_bytes as usize || fixed[23] != 0 {
        return Err(FormatError::Field);
    }
    let record = bytes.get(..record_bytes).ok_or(FormatError::Short)?;
    let (topic, body) = record[RECORD_HEADER_BYTES..].split_at(topic_bytes as usize);
    let header = RecordHeader {
        id: u64_at(fixed, 4),
        received_at: WallNanos(u64_at(fixed, 12)),
        priority: Priority::from_byte(fixed[20]).ok_or(FormatError::Field)?,
        tier: Tier::from_byte(fixed[21]).ok_or(FormatError::Field)?,
        source: Source::from_byte(fixed[22]).ok_or(FormatError::Field)?,
        topic_bytes,
    };
    let topic = std::str::from_utf8(topic).map_err(|_| FormatError::Field)?;
    Ok((RecordBytes { header, topic, body }, record_bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a_batch() -> BatchHeader {
        BatchHeader {
            mark: BatchMark::Data,
            log_id: 0x1122_3344_5566_7788,
            payload_bytes: 1000,
            record_count: 7,
            first_sequence: 42,
            sealed_at: WallNanos(1_700_000_000_000_000_000),
            durable_sequence: 40,
            durable_bytes: 8192,
            highest_event_id: 99,
            epoch: 3,
            chain: 0xdead_beef,
            latest_receipt: WallNanos(1_699_999_999_000_000_000),
            payload_crc: 0x0102_0304,
        }
    }

    /// Both CRCs fit; only the ranges of the fields stand between these bytes and the reader.
    fn reseal(mut bytes: [u8; BATCH_HEADER_BYTES]) -> [u8; BATCH_HEADER_BYTES] {
        let crc = crc32c::crc32c(&bytes[..92]);
        bytes[92..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn all_zero_bytes_parse_as_nothing() {
        assert_eq!(BatchHeader::decode(&[0; BLOCK_BYTES]).unwrap_err(), FormatError::Magic);
        assert_eq!(decode_record(&[0; 64]).unwrap_err(), FormatError::Field);
    }

    #[test]
    fn headers_come_back_as_they_went() {
        assert_eq!(BatchHeader::decode(&a_batch().encode()).unwrap().0, a_batch());
        for mark in [BatchMark::Opened, BatchMark::Closed] {
            let batch = BatchHeader { mark, payload_bytes: 0, record_count: 0, ..a_batch() };
            assert_eq!(BatchHeader::decode(&batch.encode()).unwrap().0, batch);
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        for bit in 0..BATCH_HEADER_BYTES * 8 {
            let mut bytes = a_batch().encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&bytes).is_err(), "bit {bit} of the batch header");
        }
    }

    #[test]
    fn a_length_beyond_the_largest_batch_is_refused_even_with_a_fitting_checksum() {
        for claimed in [BATCH_BYTES_MAX as u32, u32::MAX] {
            let batch = BatchHeader { payload_bytes: claimed, ..a_batch() };
            assert_eq!(BatchHeader::decode(&batch.encode()).unwrap_err(), FormatError::Field);
        }
        let crowded = BatchHeader { record_count: 1000, ..a_batch() };
        assert_eq!(BatchHeader::decode(&crowded.encode()).unwrap_err(), FormatError::Field);
        let beyond = BatchHeader { first_sequence: u64::MAX - 1, ..a_batch() };
        assert_eq!(BatchHeader::decode(&beyond.encode()).unwrap_err(), FormatError::Field);
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = a_batch().encode();
        bytes[8] = 9;
        assert_eq!(BatchHeader::decode(&reseal(bytes)).unwrap_err(), FormatError::Version { found: 9 });
    }

    #[test]
    fn the_layout_is_byte_for_byte_the_documented_one() {
        let mut out = [0xAA; 64];
        let header = RecordHeader {
            id: 0x0807_0605_0403_0201,
            received_at: WallNanos(0x1817_1615_1413_1211),
            priority: Priority::High,
            tier: Tier::Realtime,
            source: Source::Udp,
            topic_bytes: 2,
        };
        assert_eq!(encode_record(&mut out, &header, b"abXYZ"), Some(31));
        let expected = [
            31, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 3, 0, 1, 0, 2, 0, b'a', b'b',
            b'X', b'Y', b'Z', 0xAA,
        ];
        assert_eq!(out[..32], expected);
    }

    #[test]
    fn a_record_that_does_not_fit_is_not_begun() {
        let header = RecordHeader {
            id: 1,
            received_at: WallNanos(1),
            priority: Priority::Low,
            tier: Tier::Batch,
            source: Source::Tcp,
            topic_bytes: 1,
        };
        let mut out = [0xAA; RECORD_HEADER_BYTES + 2];
        assert_eq!(encode_record(&mut out, &header, b"abc"), None);
        assert_eq!(out, [0xAA; RECORD_HEADER_BYTES + 2]);
        assert_eq!(encode_record(&mut out, &header, b"ab"), Some(RECORD_HEADER_BYTES + 2));
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_went(
            id in any::<u64>(), at in any::<u64>(), priority in 0u8..5, tier in 0u8..3, source in 0u8..3,
            topic in "[a-zé/]{0,40}", body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let header = RecordHeader {
                id, received_at: WallNanos(at), priority: Priority::from_byte(priority).unwrap(),
                tier: Tier::from_byte(tier).unwrap(), source: Source::from_byte(source).unwrap(), topic_bytes: topic.len() as u16,
            };
            let payload = [topic.as_bytes(), &body].concat();
            let mut out = vec![0; 512];
            let bytes = encode_record(&mut out, &header, &payload).unwrap();
            let (record, used) = decode_record(&out).unwrap();
            prop_assert_eq!(used, bytes);
            prop_assert_eq!(record, RecordBytes { header, topic: &topic, body: &body });
        }

        #[test]
        fn any_bytes_decode_to_something_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = BatchHeader::decode(&bytes);
            if let Ok((record, used)) = decode_record(&bytes) {
                prop_assert!(used <= bytes.len());
                prop_assert_eq!(record.topic.len() + record.body.len() + RECORD_HEADER_BYTES, used);
            }
        }
    }
}
