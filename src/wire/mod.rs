//! The wire formats: pure functions from bytes to frames and back. No I/O, no allocation on the receiving side, no state.
//!
//! Version 1, the same on TCP and UDP, all integers big-endian, never answered:
//!
//! ```text
//!  0         4      5           7
//!  ┌─────────┬──────┬───────────┬──────────────────┬──────────────┐
//!  │ length  │ prio │ topic_len │ topic            │ body         │
//!  │ u32     │ u8   │ u16       │ topic_len bytes  │ the rest     │
//!  └─────────┴──────┴───────────┴──────────────────┴──────────────┘
//!            └───────────────── length bytes ─────────────────────┘
//! ```
//!
//! On TCP frames follow each other and may be cut anywhere; a datagram holds one or more whole frames.
//!
//! Invariants:
//! - **I1** Any cut gives the same: [`parse`] on a prefix of a frame says [`Parsed::Incomplete`] or the very refusal that the
//!   whole frame gets, never another frame.
//! - **I2** A refusal comes as soon as its field is whole: length after 4 bytes, priority after 5, topic length after 7, the
//!   topic when its last byte is there. So nothing needs to be set aside for a claim that would be refused anyway.
//! - **I3** A [`Frame`]'s topic is UTF-8, not empty, at most [`TOPIC_BYTES_MAX`] long, without control characters (Unicode
//!   category Cc: C0, DEL, C1) and without the wildcards `+` and `#`. Whoever prints, splits or matches it may rely on that.
//! - **I4** What [`encode_into`] writes, [`parse`] reads back; what it refuses, `parse` would refuse.
//!
//! Version 2, sessions, is in [`session`]. It does not know connections or tiers' capacities, and keeps no counts: `ingest` does.

#![forbid(unsafe_code)]

mod datagram;
mod encode;
mod frame;
mod priority;
mod producer;
mod refusal;
pub mod session;
mod topic;

pub use datagram::{Datagram, datagram};
pub use encode::{encode_header, encode_into, encoded_len};
#[cfg(feature = "engine")]
pub(crate) use frame::whole_frame;
pub use frame::{Frame, FrameHeader, FrameLimits, Parsed, parse, parse_header};
pub use priority::{Priority, Tier};
pub use producer::ProducerId;
pub use refusal::FrameRefusal;
pub use topic::{Topic, check_topic};

/// Bytes before the topic: length, priority, topic length.
pub const HEADER_BYTES: usize = 7;

/// Bytes of the length field, which does not count itself.
pub const LENGTH_BYTES: usize = 4;

/// The least value of the length field: priority, topic length, and a topic of one byte.
pub const LENGTH_MIN: u32 = 4;

/// The length field stays below 2^24, so that the first byte of a version-1 frame is always 0.
pub const LENGTH_MAX: u32 = (1 << 24) - 1;

/// Bytes of the longest frame that the format can say, its length field included.
pub const FRAME_BYTES_MAX: u32 = LENGTH_MAX + LENGTH_BYTES as u32;

/// Bytes of the longest topic. 1024: such a topic, the event header and a body of half a kilobyte still share a medium slot
/// (2 KiB), and a topic is a name that tables and log readers hold on to, not a place for data.
pub const TOPIC_BYTES_MAX: usize = 1024;

const _: () = assert!(HEADER_BYTES + 1 == LENGTH_BYTES + LENGTH_MIN as usize);
const _: () = assert!(TOPIC_BYTES_MAX <= u16::MAX as usize);
