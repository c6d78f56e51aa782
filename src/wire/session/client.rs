//! What a client sends.

use super::{
    Fields, HELLO_BYTES_MAX, HELLO_FIXED_BYTES, HELLO_KIND, MARK_BYTES, Put, SESSION_VERSION, SessionFault, Step, TOKEN_BYTES_MAX,
};
use crate::wire::{Frame, FrameLimits, Parsed, ProducerId, parse};

const MARK_KIND: u8 = 0xE0;
const BYE_KIND: u8 = 0xE1;
const PING_KIND: u8 = 0xE2;
const FRAME_KIND: u8 = 0x00;

/// When an event counts as acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum AckLevel {
    /// When the server has taken it: an outcome is promised while its process lives.
    #[default]
    Accepted = 0,
    /// When its write has completed: it survives the end of the process.
    Written = 1,
    /// When a sync that covers it has completed: it survives a power cut.
    Durable = 2,
}

impl AckLevel {
    /// All, by byte.
    pub const ALL: [AckLevel; 3] = [AckLevel::Accepted, AckLevel::Written, AckLevel::Durable];

    /// The level of its byte; `None` beyond 2.
    pub const fn from_byte(byte: u8) -> Option<AckLevel> {
        match byte {
            0 => Some(AckLevel::Accepted),
            1 => Some(AckLevel::Written),
            2 => Some(AckLevel::Durable),
            _ => None,
        }
    }

    /// The name used in flags, labels and text.
    pub const fn name(self) -> &'static str {
        match self {
            AckLevel::Accepted => "accepted",
            AckLevel::Written => "written",
            AckLevel::Durable => "durable",
        }
    }
}

impl std::str::FromStr for AckLevel {
    type Err = String;
    /// Parses a name, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = AckLevel::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(text));
        named.ok_or_else(|| format!("`{text}` is not one of accepted, written, durable"))
    }
}

/// Opens a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// When events shall count as acknowledged.
    pub level: AckLevel,
    /// Who sends.
    pub producer: ProducerId,
    /// The lowest sequence of which the client knows no outcome; from 1. Below it the server may forget.
    pub lowest_unacked: u64,
    /// At most [`TOKEN_BYTES_MAX`] bytes; empty for none.
    pub token: &'a [u8],
}

impl Hello<'_> {
    /// Writes it to the front of `out`; returns its bytes, at most [`HELLO_BYTES_MAX`].
    ///
    /// # Panics
    /// If the token is longer than [`TOKEN_BYTES_MAX`], `lowest_unacked` is 0, or `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        assert!(self.token.len() <= TOKEN_BYTES_MAX && self.lowest_unacked > 0, "V4: nobody could parse that");
        Put::new(out)
            .u8(HELLO_KIND)
            .u8(SESSION_VERSION)
            .u8(self.level as u8)
            .u8(0)
            .bytes(&self.producer.to_bytes())
            .u64(self.lowest_unacked)
            .u16(self.token.len() as u16)
            .bytes(self.token)
            .end()
    }
}

/// Says what the frames behind it are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The next frame's sequence; those behind it count up from there. From 1.
    pub next_sequence: u64,
    /// The producer's time of the frames behind it: nanoseconds since 1970 (UTC); 0 where it has none.
    pub time_ns: u64,
}

impl Mark {
    /// Its bytes.
    ///
    /// # Panics
    /// If `next_sequence` is 0.
    pub fn encode(&self) -> [u8; MARK_BYTES] {
        assert!(self.next_sequence > 0, "V4: nobody could parse that");
        let mut out = [0; MARK_BYTES];
        Put::new(&mut out).u8(MARK_KIND).u64(self.next_sequence).u64(self.time_ns);
        out
    }
}

/// A message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMessage<'a> {
    /// Opens the session: the first message, and only that.
    Hello(Hello<'a>),
    /// An event; its sequence follows from its place.
    Frame(Frame<'a>),
    /// Says what the frames behind it are.
    Mark(Mark),
    /// No more events: the server answers what is left, and closes.
    Bye,
    /// Asks for an ACK now.
    Ping,
}

impl ClientMessage<'_> {
    /// The one byte of [`ClientMessage::Bye`].
    pub const BYE: [u8; 1] = [BYE_KIND];
    /// The one byte of [`ClientMessage::Ping`].
    pub const PING: [u8; 1] = [PING_KIND];
}

/// The first message of these bytes.
///
/// # Errors
/// Whatever makes them none, as early as the bytes allow (V3). Nothing behind it can be trusted.
#[inline]
pub fn parse_client<'a>(bytes: &'a [u8], limits: &FrameLimits) -> Result<Step<ClientMessage<'a>>, SessionFault> {
    let Some(&kind) = bytes.first() else { return Ok(Step::Incomplete { needed: 1 }) };
    match kind {
        FRAME_KIND => match parse(bytes, limits).map_err(SessionFault::MalformedFrame)? {
            Parsed::Frame(frame) => Ok(Step::Whole { message: ClientMessage::Frame(frame), bytes: frame.frame_bytes }),
            Parsed::Incomplete { needed } => Ok(Step::Incomplete { needed }),
        },
        MARK_KIND => parse_mark(bytes),
        BYE_KIND => Ok(Step::Whole { message: ClientMessage::Bye, bytes: 1 }),
        PING_KIND => Ok(Step::Whole { message: ClientMessage::Ping, bytes: 1 }),
        HELLO_KIND => parse_hello(bytes),
        first_byte => Err(SessionFault::UnknownMessage { first_byte }),
    }
}

fn parse_mark(bytes: &[u8]) -> Result<Step<ClientMessage<'_>>, SessionFault> {
    if bytes.get(1..9).is_some_and(|sequence| sequence == [0; 8]) {
        return Err(SessionFault::SequenceZero);
    }
    if bytes.len() < MARK_BYTES {
        return Ok(Step::Incomplete { needed: MARK_BYTES });
    }
    let mut fields = Fields(&bytes[1..]);
    let mark = Mark { next_sequence: fields.u64(), time_ns: fields.u64() };
    Ok(Step::Whole { message: ClientMessage::Mark(mark), bytes: MARK_BYTES })
}

fn parse_hello(bytes: &[u8]) -> Result<Step<ClientMessage<'_>>, SessionFault> {
    if let Some(&version) = bytes.get(1).filter(|version| **version != SESSION_VERSION) {
        return Err(SessionFault::UnknownVersion { version });
    }
    let level = match bytes.get(2) {
        Some(&level) => AckLevel::from_byte(level).ok_or(SessionFault::UnknownAckLevel { level })?,
        None => AckLevel::default(),
    };
    if let Some(&flags) = bytes.get(3).filter(|flags| **flags != 0) {
        return Err(SessionFault::UnknownFlags { flags });
    }
    let producer = match bytes.get(4..20).and_then(<[u8]>::first_chunk) {
        Some(id) => ProducerId::from_bytes(*id).ok_or(SessionFault::ProducerZero)?,
        None => return Ok(Step::Incomplete { needed: HELLO_FIXED_BYTES }),
    };
    let lowest_unacked = match bytes.get(20..28).and_then(<[u8]>::first_chunk) {
        Some(sequence) => u64::from_be_bytes(*sequence),
        None => return Ok(Step::Incomplete { needed: HELLO_FIXED_BYTES }),
    };
    if lowest_unacked == 0 {
        return Err(SessionFault::SequenceZero);
    }
    let Some(token_bytes) = bytes.get(28..HELLO_FIXED_BYTES).and_then(<[u8]>::first_chunk) else {
        return Ok(Step::Incomplete { needed: HELLO_FIXED_BYTES });
    };
    let token_bytes = usize::from(u16::from_be_bytes(*token_bytes));
    if token_bytes > TOKEN_BYTES_MAX {
        return Err(SessionFault::TokenTooLong { token_bytes: token_bytes as u16 });
    }
    let needed = HELLO_FIXED_BYTES + token_bytes;
    match bytes.get(HELLO_FIXED_BYTES..needed) {
        Some(token) => {
            let hello = Hello { level, producer, lowest_unacked, token };
            Ok(Step::Whole { message: ClientMessage::Hello(hello), bytes: needed })
        }
        None => Ok(Step::Incomplete { needed }),
    }
}

const _: () = assert!(HELLO_BYTES_MAX <= 1024, "a server keeps a hello that is not whole");
