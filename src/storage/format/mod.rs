//! The log's bytes: segment header, batches, records, footer. Pure encoding and decoding, no I/O, no allocation.
//!
//! ```text
//! active   = segment header (one block of 4096 bytes) , batch , batch , …  , unwritten: zeros, or what an earlier use left
//! sealed   = segment header (one block of 4096 bytes) , batch , batch , …  , footer (128 bytes, the last of the file)
//! batch    = header (48 bytes) , payload = record , record , …     or  entries of a snapshot of the producers' table
//! ```
//!
//! A log is a row of segments, each a file: sealed ones, and the active one at the end. Sequences, epochs and the chain of checksums go
//! through all of them. Batches follow each other without padding. All integers are little-endian (what every supported host computes
//! with); all bytes not named are zero and are checked to be.
//!
//! The layouts: [`SegmentHeader`] and [`Footer`] in `segment`, [`BatchHeader`] in `batch`, [`RecordHeader`] in `record`.
//!
//! Invariants:
//! - **F1** All-zero bytes parse as nothing: no magic is zero.
//! - **F2** Nothing is believed before its CRC has been checked, and no length beyond [`BATCH_BYTES_MAX`] even then: a decoder never
//!   allocates on a claimed length. So a batch header has a CRC of its own, which is checked before its payload is read.
//! - **F3** Any flipped bit of a batch is found: header bytes by the header CRC, payload bytes by the payload CRC that it covers.
//! - **F4** The log id is secret to senders (a random number), and both CRCs of a batch are stored mixed with it ([`LogKey`]), so a body that
//!   looks like a batch is not taken for one: it would have to guess 32 bits that it is never told of.
//! - **F5** A batch that an earlier use of its file left is never taken for one of now: all its sequences are lower than the segment's
//!   first, or its epoch is older than that of the batches before it.
//! - **F6** A batch explains itself: what a record refers to (its producer's id) is in the same payload, before it.
//!
//! CRC-32C (Castagnoli) as in RFC 3720 B.4 ([`crc32c`]).

mod batch;
mod checksum;
mod record;
mod segment;

pub use batch::{BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, BatchMark, EPOCH_MAX, LogKey};
pub use checksum::{crc32c, crc32c_append};
pub(in crate::storage) use record::ID_PLACE_IN_RECORD;
pub use record::{Contents, RECORD_HEADER_BYTES, RECORD_HEADER_BYTES_MAX, RecordBytes, RecordHeader, Records, encode_record};
pub use segment::{FOOTER_BYTES, FOOTER_MAGIC, Footer, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, SegmentHeader};

/// The block that direct writes are made of, and that a torn write is assumed not to tear.
pub const BLOCK_BYTES: usize = 4096;
/// Where the first batch begins.
pub const FIRST_BATCH_OFFSET: u64 = BLOCK_BYTES as u64;
/// The largest batch, header included: a reader's buffer is bounded by this. Four of the largest frames that the wire admits (2^24).
pub const BATCH_BYTES_MAX: usize = 64 << 20;
/// The version written; others are refused.
pub const FORMAT_VERSION: u16 = 3;

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
