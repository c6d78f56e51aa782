//! The header of a batch: 48 bytes, so that a batch of one small record is not mostly header.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic `EVBT` |
//! | 4 | 4 | epoch (28 bits); above it the mark (4 bits): 0 data, 1 opened (a new epoch begins), 2 closed in good order, 3 a part of a snapshot of the producers' table, 4 its last part |
//! | 8 | 8 | from the lowest bit on: payload bytes (26 bits), record count (22), how many bytes before the batch the durable ones end (16; all ones: more) |
//! | 16 | 8 | first sequence; record *i* has this plus *i* |
//! | 24 | 8 | sealed at, wall ns |
//! | 32 | 4 | how many sequences before the first one the durable ones end (all ones: more) |
//! | 36 | 4 | chain: the header CRC of the predecessor (for the first batch of a segment: as its header says) |
//! | 40 | 4 | CRC-32C of the payload, mixed with the log's key |
//! | 44 | 4 | CRC-32C of bytes 0..44, so of the payload too, mixed with the log's key |
//!
//! What was durable when the batch was sealed is told as distances back from it: near behind the head of the log, where it matters, they are
//! exact; a distance that does not fit says less than was known, never more. Highest event id and latest receipt are not here: they come
//! from the records ([`super::Contents`]), which whoever needs them reads anyway. The log id is not here either: it is in the checks (F4).

use super::checksum::crc32c;
use super::record::RECORD_HEADER_BYTES;
use super::{BATCH_BYTES_MAX, FormatError, u32_at, u64_at};
use crate::sys::clock::WallNanos;

/// Bytes of a batch header.
pub const BATCH_HEADER_BYTES: usize = 48;
/// The first bytes of every batch.
pub const BATCH_MAGIC: [u8; 4] = *b"EVBT";

/// The last epoch there can be: a log can be opened that often.
pub const EPOCH_MAX: u32 = (1 << EPOCH_BITS) - 1;

const EPOCH_BITS: u32 = 28;
const PAYLOAD_BITS: u32 = 26;
const COUNT_BITS: u32 = 22;

const _: () = assert!(BATCH_BYTES_MAX - BATCH_HEADER_BYTES < 1 << PAYLOAD_BITS);
const _: () = assert!(BATCH_BYTES_MAX / RECORD_HEADER_BYTES < 1 << COUNT_BITS);
const _: () = assert!(PAYLOAD_BITS + COUNT_BITS + u16::BITS == u64::BITS);

/// What the checks of a log's batches are mixed with: its id, folded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogKey(u32);

impl LogKey {
    /// The key of a log with this id.
    pub fn of(log_id: u64) -> Self {
        Self((log_id ^ (log_id >> 32)) as u32)
    }

    /// A log id that has this key, for a log whose own id can't be read any more.
    pub fn some_log_id(self) -> u64 {
        u64::from(self.0)
    }

    /// The key with which these bytes would be a batch header, if any; so far nothing says that it is one.
    pub fn assumed(header: &[u8]) -> Option<Self> {
        let header = header.get(..BATCH_HEADER_BYTES)?;
        let key = Self(u32_at(header, 44) ^ crc32c(&header[..44]));
        header.starts_with(&BATCH_MAGIC).then_some(key)
    }

    fn mix(self, crc: u32) -> u32 {
        crc ^ self.0
    }
}

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
    /// No records: entries of a snapshot of the producers' table, more of it follow.
    Producers = 3,
    /// No records: the last entries of that snapshot, possibly none.
    ProducersEnd = 4,
}

impl BatchMark {
    fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits {
            0 => BatchMark::Data,
            1 => BatchMark::Opened,
            2 => BatchMark::Closed,
            3 => BatchMark::Producers,
            4 => BatchMark::ProducersEnd,
            _ => return None,
        })
    }
}

/// The header of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// What it is there for.
    pub mark: BatchMark,
    /// Bytes of the records, or of the snapshot's entries.
    pub payload_bytes: u32,
    /// How many records.
    pub record_count: u32,
    /// Sequence of the first record.
    pub first_sequence: u64,
    /// When it was sealed.
    pub sealed_at: WallNanos,
    /// Every record below this sequence was on stable storage when this was sealed. At most the first sequence; 0 where that is further off
    /// than the header can say.
    pub durable_sequence: u64,
    /// Every byte of the file so many bytes before this batch was on stable storage when this was sealed; `u16::MAX`: nothing is said.
    pub durable_bytes_lag: u16,
    /// Which opening of the log wrote it; at most [`EPOCH_MAX`].
    pub epoch: u32,
    /// The header CRC of the predecessor.
    pub chain: u32,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
}

impl BatchHeader {
    /// The lag of a batch at `offset` of its file, of which everything below `durable_bytes` is on stable storage.
    pub fn lag_of(offset: u64, durable_bytes: u64) -> u16 {
        u16::try_from(offset.saturating_sub(durable_bytes)).unwrap_or(u16::MAX)
    }

    /// Whether it says that the byte at `place` of its file was on stable storage, if it stands at `offset` itself.
    pub fn calls_durable(&self, place: u64, offset: u64) -> bool {
        self.durable_bytes_lag != u16::MAX && place < offset.saturating_sub(u64::from(self.durable_bytes_lag))
    }

    /// The header's bytes, and its CRC: the chain value of the successor.
    pub fn encode(&self, key: LogKey) -> ([u8; BATCH_HEADER_BYTES], u32) {
        assert!(self.epoch <= EPOCH_MAX && self.lengths_fit() && self.durable_sequence <= self.first_sequence);
        let lengths = u64::from(self.payload_bytes)
            | u64::from(self.record_count) << PAYLOAD_BITS
            | u64::from(self.durable_bytes_lag) << (PAYLOAD_BITS + COUNT_BITS);
        let sequence_lag = u32::try_from(self.first_sequence - self.durable_sequence).unwrap_or(u32::MAX);
        let mut out = [0; BATCH_HEADER_BYTES];
        out[0..4].copy_from_slice(&BATCH_MAGIC);
        out[4..8].copy_from_slice(&(self.epoch | (self.mark as u32) << EPOCH_BITS).to_le_bytes());
        out[8..16].copy_from_slice(&lengths.to_le_bytes());
        out[16..24].copy_from_slice(&self.first_sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.sealed_at.0.to_le_bytes());
        out[32..36].copy_from_slice(&sequence_lag.to_le_bytes());
        out[36..40].copy_from_slice(&self.chain.to_le_bytes());
        out[40..44].copy_from_slice(&key.mix(self.payload_crc).to_le_bytes());
        let crc = crc32c(&out[..44]);
        out[44..48].copy_from_slice(&key.mix(crc).to_le_bytes());
        (out, crc)
    }

    /// Reads a header, and its CRC: the chain value of the successor.
    ///
    /// # Errors
    /// See [`FormatError`]; a batch of another log has another checksum.
    pub fn decode(bytes: &[u8], key: LogKey) -> Result<(Self, u32), FormatError> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES).ok_or(FormatError::Short)?;
        if bytes[..4] != BATCH_MAGIC {
            return Err(FormatError::Magic);
        }
        let crc = crc32c(&bytes[..44]);
        if key.mix(crc) != u32_at(bytes, 44) {
            return Err(FormatError::Checksum);
        }
        let (marked, lengths, first_sequence) = (u32_at(bytes, 4), u64_at(bytes, 8), u64_at(bytes, 16));
        let durable_sequence = match u32_at(bytes, 32) {
            u32::MAX => 0,
            lag => first_sequence.checked_sub(u64::from(lag)).ok_or(FormatError::Field)?,
        };
        let header = Self {
            mark: BatchMark::from_bits(marked >> EPOCH_BITS).ok_or(FormatError::Field)?,
            payload_bytes: (lengths & ((1 << PAYLOAD_BITS) - 1)) as u32,
            record_count: (lengths >> PAYLOAD_BITS & ((1 << COUNT_BITS) - 1)) as u32,
            first_sequence,
            sealed_at: WallNanos(u64_at(bytes, 24)),
            durable_sequence,
            durable_bytes_lag: (lengths >> (PAYLOAD_BITS + COUNT_BITS)) as u16,
            epoch: marked & EPOCH_MAX,
            chain: u32_at(bytes, 36),
            payload_crc: key.mix(u32_at(bytes, 40)),
        };
        if header.lengths_fit() { Ok((header, crc)) } else { Err(FormatError::Field) }
    }

    /// Whether lengths and counts can belong together (F2).
    fn lengths_fit(&self) -> bool {
        let payload = self.payload_bytes as usize;
        let records = self.record_count as usize;
        let counted = match self.mark {
            BatchMark::Data => records > 0 && payload / RECORD_HEADER_BYTES >= records,
            BatchMark::Opened | BatchMark::Closed => records == 0 && payload == 0,
            BatchMark::Producers | BatchMark::ProducersEnd => records == 0,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::BLOCK_BYTES;
    use super::*;

    const KEY: LogKey = LogKey(0xfeed_5eed);

    fn a_batch() -> BatchHeader {
        BatchHeader {
            mark: BatchMark::Data,
            payload_bytes: 1000,
            record_count: 7,
            first_sequence: 42,
            sealed_at: WallNanos(0x1817_1615_1413_1211),
            durable_sequence: 40,
            durable_bytes_lag: 0x0a0b,
            epoch: 3,
            chain: 0xdead_beef,
            payload_crc: 0x0102_0304,
        }
    }

    fn and_back(batch: &BatchHeader) -> BatchHeader {
        let (bytes, crc) = batch.encode(KEY);
        let (back, of_reader) = BatchHeader::decode(&bytes, KEY).unwrap();
        assert_eq!((crc, LogKey::assumed(&bytes)), (of_reader, Some(KEY)));
        back
    }

    #[test]
    fn the_layout_is_byte_for_byte_the_documented_one() {
        let (bytes, crc) = a_batch().encode(KEY);
        let lengths = 1000u64 | 7 << 26 | 0x0a0b << 48;
        assert_eq!(bytes[..8], *b"EVBT\x03\0\0\0");
        assert_eq!(bytes[8..16], lengths.to_le_bytes());
        assert_eq!(bytes[16..40], *b"\x2a\0\0\0\0\0\0\0\x11\x12\x13\x14\x15\x16\x17\x18\x02\0\0\0\xef\xbe\xad\xde");
        assert_eq!(bytes[40..44], (0x0102_0304u32 ^ 0xfeed_5eed).to_le_bytes());
        assert_eq!(bytes[44..], (crc32c::crc32c(&bytes[..44]) ^ 0xfeed_5eed).to_le_bytes());
        assert_eq!(crc, crc32c::crc32c(&bytes[..44]));
    }

    #[test]
    fn all_zero_bytes_parse_as_nothing() {
        assert_eq!(BatchHeader::decode(&[0; BLOCK_BYTES], KEY).unwrap_err(), FormatError::Magic);
    }

    #[test]
    fn marks_and_snapshots_come_back_as_they_went() {
        let marks = [BatchMark::Opened, BatchMark::Closed, BatchMark::Producers, BatchMark::ProducersEnd];
        for mark in marks {
            let batch = BatchHeader { mark, payload_bytes: 0, record_count: 0, ..a_batch() };
            assert_eq!(and_back(&batch), batch);
        }
        let part = BatchHeader { mark: BatchMark::Producers, record_count: 0, ..a_batch() };
        assert_eq!(and_back(&part), part);
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_found() {
        for bit in 0..BATCH_HEADER_BYTES * 8 {
            let mut bytes = a_batch().encode(KEY).0;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&bytes, KEY).is_err(), "bit {bit} of the batch header");
        }
    }

    #[test]
    fn a_batch_of_another_log_is_none() {
        let (bytes, _) = a_batch().encode(KEY);
        assert_eq!(BatchHeader::decode(&bytes, LogKey::of(1)).unwrap_err(), FormatError::Checksum);
        assert_eq!(LogKey::of(KEY.some_log_id()), KEY);
        assert_eq!(LogKey::of(0x1111_2222_3333_4444), LogKey(0x2222_6666));
    }

    #[test]
    fn what_is_too_far_back_to_be_told_is_not_called_durable() {
        let far = BatchHeader { first_sequence: 1 << 40, durable_sequence: 5, ..a_batch() };
        assert_eq!(and_back(&far).durable_sequence, 0);
        let edge = BatchHeader { first_sequence: 1 << 40, durable_sequence: (1 << 40) - u64::from(u32::MAX) + 1, ..a_batch() };
        assert_eq!(and_back(&edge), edge);
        let near = BatchHeader { durable_bytes_lag: BatchHeader::lag_of(10_000, 9_000), ..a_batch() };
        assert!(near.calls_durable(8_999, 10_000) && !near.calls_durable(9_000, 10_000));
        let far = BatchHeader { durable_bytes_lag: BatchHeader::lag_of(1 << 20, 4096), ..a_batch() };
        assert!(!far.calls_durable(0, 1 << 20));
    }

    #[test]
    fn a_length_beyond_the_largest_batch_is_refused_even_with_a_fitting_checksum() {
        let reseal = |change: &dyn Fn(&mut [u8])| {
            let mut bytes = a_batch().encode(KEY).0;
            change(&mut bytes);
            let check = KEY.mix(crc32c::crc32c(&bytes[..44]));
            bytes[44..].copy_from_slice(&check.to_le_bytes());
            BatchHeader::decode(&bytes, KEY)
        };
        let lengths = |payload: u64, records: u64| payload | records << PAYLOAD_BITS;
        let with = |lengths: u64| reseal(&|bytes| bytes[8..16].copy_from_slice(&lengths.to_le_bytes())).map(|_| ());
        assert_eq!(with(lengths(1000, 7)), Ok(()));
        assert_eq!(with(lengths((1 << PAYLOAD_BITS) - 1, 7)), Err(FormatError::Field), "longer than a batch");
        assert_eq!(with(lengths(1000, 1000)), Err(FormatError::Field), "crowded");
        assert_eq!(with(lengths(1000, 0)), Err(FormatError::Field), "data without records");
        assert_eq!(reseal(&|bytes| bytes[16..24].fill(255)).unwrap_err(), FormatError::Field, "sequences beyond the last one");
        assert_eq!(reseal(&|bytes| bytes[32] = 43).unwrap_err(), FormatError::Field, "durable below the first sequence");
        assert_eq!(reseal(&|bytes| bytes[7] = 0x50).unwrap_err(), FormatError::Field, "a mark that there is not");
    }

    proptest! {
        #[test]
        fn headers_come_back_as_they_went(
            payload_bytes in 26u32..1 << 26, first_sequence in 0u64..1 << 60, at in any::<u64>(), lag in 0..u32::MAX,
            durable_bytes_lag in any::<u16>(), epoch in 0u32..1 << 28, chain in any::<u32>(), payload_crc in any::<u32>(),
        ) {
            let payload_bytes = payload_bytes.min((BATCH_BYTES_MAX - BATCH_HEADER_BYTES) as u32);
            let batch = BatchHeader {
                mark: BatchMark::Data, payload_bytes, record_count: payload_bytes / 26, first_sequence, sealed_at: WallNanos(at),
                durable_sequence: first_sequence.saturating_sub(u64::from(lag)), durable_bytes_lag, epoch, chain, payload_crc,
            };
            prop_assert_eq!(and_back(&batch), batch);
        }

        #[test]
        fn any_bytes_decode_to_something_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = BatchHeader::decode(&bytes, KEY);
            let _ = LogKey::assumed(&bytes);
        }
    }
}
