//! Version 2: sessions, the pure codec of both directions. PROTOCOL.md is the normative text; its byte examples run through this code.
//!
//! ```text
//! client → server   HELLO  then any mix of  frames (version 1, first byte 0x00) · MARK · PING  and at last  BYE
//! server → client   WELCOME  then any mix of  ACK · REFUSED · LEVEL  and at last, if something is wrong,  ERROR
//! ```
//!
//! Invariants:
//! - **V1** The first byte tells a message's kind, and but for HELLO, frames, WELCOME and ERROR its length. Kinds of clients are below 0xF0, of
//!   servers from there on: a peer that hears its own kind knows that it is talking to a mirror.
//! - **V2** Any cut gives the same: of a prefix a parser says [`Step::Incomplete`], or the very refusal that the whole message gets.
//! - **V3** A refusal comes as soon as its field is whole: nothing needs to be kept for a claim that would be refused anyway.
//! - **V4** What is encoded is parsed back; what can't be parsed can't be encoded.
//! - **V5** No parser allocates; tokens, bitmaps and texts are borrowed from the bytes.
//!
//! It knows no windows, outcomes or deadlines: `ingest` does, and the client.

mod client;
mod fault;
mod server;

pub use client::{AckLevel, ClientMessage, Hello, Mark, parse_client};
pub use fault::{ServerMessageRefusal, SessionFault};
pub use server::{Ack, Fault, Held, Refused, ServerMessage, Welcome, parse_server};

/// The version that HELLO and WELCOME say.
pub const SESSION_VERSION: u8 = 2;

/// The first byte of a session: a HELLO.
pub const HELLO_KIND: u8 = 0xE5;

/// Bytes of a HELLO before its token.
pub const HELLO_FIXED_BYTES: usize = 30;
/// Bytes of the longest token.
pub const TOKEN_BYTES_MAX: usize = 256;
/// Bytes of the longest HELLO.
pub const HELLO_BYTES_MAX: usize = HELLO_FIXED_BYTES + TOKEN_BYTES_MAX;
/// Bytes of a MARK.
pub const MARK_BYTES: usize = 17;

/// The most sequences that a session may have without outcome (`--session-window`).
pub const WINDOW_MAX: u32 = 16_384;

/// Bytes of a WELCOME before its bitmap.
pub const WELCOME_FIXED_BYTES: usize = 43;
/// Bytes of the longest bitmap: a bit for each sequence of the largest window.
pub const HELD_BYTES_MAX: usize = WINDOW_MAX as usize / 8;
/// Bytes of the longest WELCOME.
pub const WELCOME_BYTES_MAX: usize = WELCOME_FIXED_BYTES + HELD_BYTES_MAX;
/// Bytes of an ACK.
pub const ACK_BYTES: usize = 22;
/// Bytes of a REFUSED.
pub const REFUSED_BYTES: usize = 14;
/// Bytes of a LEVEL.
pub const LEVEL_BYTES: usize = 2;
/// Bytes of an ERROR before its text.
pub const ERROR_FIXED_BYTES: usize = 5;
/// Bytes of the longest text of an ERROR.
pub const ERROR_TEXT_BYTES_MAX: usize = 512;
/// Bytes of the longest ERROR.
pub const ERROR_BYTES_MAX: usize = ERROR_FIXED_BYTES + ERROR_TEXT_BYTES_MAX;

/// How far the bytes at the front of a stream go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// A whole message.
    Whole {
        /// The message.
        message: T,
        /// How many bytes it took: the next one starts there.
        bytes: usize,
    },
    /// The start of a message.
    Incomplete {
        /// How many bytes from its start are needed to go on. Always more than were given.
        needed: usize,
    },
}

/// Reads big-endian fields off the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next `N` bytes; the caller has seen to it that they are there.
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (front, rest) = self.0.split_first_chunk::<N>().expect("the caller has measured the message");
        self.0 = rest;
        *front
    }
    fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }
    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }
    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }
    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.array())
    }
}

/// Writes big-endian fields to the front of bytes.
struct Put<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Put<'a> {
    fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.out[self.at..][..bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }
    fn u8(self, value: u8) -> Self {
        self.bytes(&[value])
    }
    fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }
    fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }
    fn u64(self, value: u64) -> Self {
        self.bytes(&value.to_be_bytes())
    }
    /// How many bytes were written.
    fn end(self) -> usize {
        self.at
    }
}
