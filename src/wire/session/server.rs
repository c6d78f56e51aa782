//! What a server answers.

use super::{
    ACK_BYTES, AckLevel, ERROR_FIXED_BYTES, ERROR_TEXT_BYTES_MAX, Fields, HELD_BYTES_MAX, LEVEL_BYTES, Put, REFUSED_BYTES,
    SESSION_VERSION, ServerMessageRefusal, Step, WELCOME_FIXED_BYTES,
};
use crate::wire::Tier;

const WELCOME_KIND: u8 = 0xF0;
const ACK_KIND: u8 = 0xF1;
const REFUSED_KIND: u8 = 0xF2;
const LEVEL_KIND: u8 = 0xF3;
const ERROR_KIND: u8 = 0xF4;

/// Which sequences a server knows, counted from the hello's lowest unacked one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held<'a>(&'a [u8]);

impl<'a> Held<'a> {
    /// Of a bitmap: bit k % 8 (from the least significant) of byte k / 8 is the k-th sequence from the lowest unacked one on.
    ///
    /// # Errors
    /// Gives back a bitmap longer than [`HELD_BYTES_MAX`].
    pub fn new(bitmap: &'a [u8]) -> Result<Held<'a>, &'a [u8]> {
        if bitmap.len() <= HELD_BYTES_MAX { Ok(Held(bitmap)) } else { Err(bitmap) }
    }

    /// Whether the k-th is known.
    pub fn has(self, k: u64) -> bool {
        let byte = usize::try_from(k / 8).ok().and_then(|place| self.0.get(place));
        byte.is_some_and(|byte| byte >> (k % 8) & 1 == 1)
    }

    /// The bitmap.
    pub fn bitmap(self) -> &'a [u8] {
        self.0
    }
}

/// Answers a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The session's level: the one asked for.
    pub level: AckLevel,
    /// How overloaded the server is, 0 (not at all) to 4.
    pub overload: u8,
    /// Bytes of the longest frame that it takes, the length field included.
    pub frame_bytes_max: u32,
    /// How many sequences beyond the acknowledged one may be sent, 1 to [`super::WINDOW_MAX`].
    pub window: u32,
    /// By tier: how many events could be taken at once.
    pub credits: [u32; Tier::COUNT],
    /// Every sequence up to this has an outcome; at least the lowest unacked one less 1.
    pub acked: u64,
    /// The highest sequence that the server knows of this producer; 0 when it knows none.
    pub highest: u64,
    /// What it knows of those from the lowest unacked one on.
    pub held: Held<'a>,
}

impl Welcome<'_> {
    /// Writes it to the front of `out`; returns its bytes, at most [`super::WELCOME_BYTES_MAX`].
    ///
    /// # Panics
    /// If `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        Put::new(out)
            .u8(WELCOME_KIND)
            .u8(SESSION_VERSION)
            .u8(self.level as u8)
            .u8(self.overload)
            .u8(0)
            .u32(self.frame_bytes_max)
            .u32(self.window)
            .u32(self.credits[0])
            .u32(self.credits[1])
            .u32(self.credits[2])
            .u64(self.acked)
            .u64(self.highest)
            .u16(self.held.0.len() as u16)
            .bytes(self.held.0)
            .end()
    }
}

/// Acknowledges, cumulatively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Every sequence up to this has an outcome: acknowledged at the session's level, unless a REFUSED before this said otherwise.
    pub acked: u64,
    /// As in [`Welcome`].
    pub credits: [u32; Tier::COUNT],
    /// As in [`Welcome`].
    pub overload: u8,
}

impl Ack {
    /// Its bytes.
    pub fn encode(&self) -> [u8; ACK_BYTES] {
        let mut out = [0; ACK_BYTES];
        let [a, b, c] = self.credits;
        Put::new(&mut out).u8(ACK_KIND).u64(self.acked).u32(a).u32(b).u32(c).u8(self.overload);
        out
    }
}

/// Says that events were lost, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The first of them.
    pub first: u64,
    /// How many in a row; at least 1.
    pub count: u32,
    /// Why, as [`crate::metrics::ledger::DropReason::code`] has it; one that a client doesn't know is a loss all the same.
    pub reason: u8,
}

impl Refused {
    /// Its bytes.
    ///
    /// # Panics
    /// If `first` or `count` is 0.
    pub fn encode(&self) -> [u8; REFUSED_BYTES] {
        assert!(self.first > 0 && self.count > 0, "V4: nobody could parse that");
        let mut out = [0; REFUSED_BYTES];
        Put::new(&mut out).u8(REFUSED_KIND).u64(self.first).u32(self.count).u8(self.reason);
        out
    }
}

/// The server's last word before it closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// Why, as [`super::SessionFault::code`] has it.
    pub code: u16,
    /// For people: one line.
    pub text: &'a str,
}

impl Fault<'_> {
    /// Writes it to the front of `out`; returns its bytes, at most [`super::ERROR_BYTES_MAX`].
    ///
    /// # Panics
    /// If the text is longer than [`ERROR_TEXT_BYTES_MAX`] or `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        assert!(self.text.len() <= ERROR_TEXT_BYTES_MAX, "V4: nobody could parse that");
        Put::new(out).u8(ERROR_KIND).u16(self.code).u16(self.text.len() as u16).bytes(self.text.as_bytes()).end()
    }
}

/// A message of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerMessage<'a> {
    /// Answers the hello.
    Welcome(Welcome<'a>),
    /// Acknowledges.
    Ack(Ack),
    /// Says what was lost.
    Refused(Refused),
    /// How overloaded the server is now, 0 to 4.
    Level(u8),
    /// Ends the session.
    Error(Fault<'a>),
}

impl ServerMessage<'_> {
    /// The bytes of a [`ServerMessage::Level`].
    pub const fn level(overload: u8) -> [u8; LEVEL_BYTES] {
        [LEVEL_KIND, overload]
    }
}

/// The first message of these bytes.
///
/// # Errors
/// Whatever makes them none. Nothing behind it can be trusted.
pub fn parse_server(bytes: &[u8]) -> Result<Step<ServerMessage<'_>>, ServerMessageRefusal> {
    let Some(&kind) = bytes.first() else { return Ok(Step::Incomplete { needed: 1 }) };
    match kind {
        WELCOME_KIND => parse_welcome(bytes),
        ACK_KIND => Ok(fixed(bytes, ACK_BYTES, |fields| {
            ServerMessage::Ack(Ack { acked: fields.u64(), credits: credits(fields), overload: fields.u8() })
        })),
        REFUSED_KIND => parse_refused(bytes),
        LEVEL_KIND => Ok(fixed(bytes, LEVEL_BYTES, |fields| ServerMessage::Level(fields.u8()))),
        ERROR_KIND => parse_error(bytes),
        first_byte => Err(ServerMessageRefusal::UnknownMessage { first_byte }),
    }
}

/// A message of a length that its kind tells.
fn fixed<'a>(bytes: &'a [u8], len: usize, read: impl FnOnce(&mut Fields<'a>) -> ServerMessage<'a>) -> Step<ServerMessage<'a>> {
    match bytes.get(1..len) {
        Some(body) => Step::Whole { message: read(&mut Fields(body)), bytes: len },
        None => Step::Incomplete { needed: len },
    }
}

fn credits(fields: &mut Fields<'_>) -> [u32; Tier::COUNT] {
    std::array::from_fn(|_| fields.u32())
}

fn parse_welcome(bytes: &[u8]) -> Result<Step<ServerMessage<'_>>, ServerMessageRefusal> {
    if let Some(&version) = bytes.get(1).filter(|version| **version != SESSION_VERSION) {
        return Err(ServerMessageRefusal::UnknownVersion { version });
    }
    let level = match bytes.get(2) {
        Some(&level) => AckLevel::from_byte(level).ok_or(ServerMessageRefusal::UnknownAckLevel { level })?,
        None => AckLevel::default(),
    };
    if let Some(&flags) = bytes.get(4).filter(|flags| **flags != 0) {
        return Err(ServerMessageRefusal::UnknownFlags { flags });
    }
    let Some(fixed) = bytes.get(5..WELCOME_FIXED_BYTES) else {
        return Ok(Step::Incomplete { needed: WELCOME_FIXED_BYTES });
    };
    let mut fields = Fields(fixed);
    let (frame_bytes_max, window, credits) = (fields.u32(), fields.u32(), credits(&mut fields));
    let (acked, highest, held_bytes) = (fields.u64(), fields.u64(), usize::from(fields.u16()));
    if held_bytes > HELD_BYTES_MAX {
        return Err(ServerMessageRefusal::BitmapTooLong { bitmap_bytes: held_bytes as u16 });
    }
    let needed = WELCOME_FIXED_BYTES + held_bytes;
    let Some(held) = bytes.get(WELCOME_FIXED_BYTES..needed) else { return Ok(Step::Incomplete { needed }) };
    let welcome = Welcome { level, overload: bytes[3], frame_bytes_max, window, credits, acked, highest, held: Held(held) };
    Ok(Step::Whole { message: ServerMessage::Welcome(welcome), bytes: needed })
}

fn parse_refused(bytes: &[u8]) -> Result<Step<ServerMessage<'_>>, ServerMessageRefusal> {
    let is_zero = |field: Option<&[u8]>| field.is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
    if is_zero(bytes.get(1..9)) || is_zero(bytes.get(9..13)) {
        return Err(ServerMessageRefusal::EmptyRange);
    }
    Ok(fixed(bytes, REFUSED_BYTES, |fields| {
        ServerMessage::Refused(Refused { first: fields.u64(), count: fields.u32(), reason: fields.u8() })
    }))
}

fn parse_error(bytes: &[u8]) -> Result<Step<ServerMessage<'_>>, ServerMessageRefusal> {
    let Some(fixed) = bytes.get(1..ERROR_FIXED_BYTES) else { return Ok(Step::Incomplete { needed: ERROR_FIXED_BYTES }) };
    let mut fields = Fields(fixed);
    let (code, text_bytes) = (fields.u16(), usize::from(fields.u16()));
    if text_bytes > ERROR_TEXT_BYTES_MAX {
        return Err(ServerMessageRefusal::TextTooLong { text_bytes: text_bytes as u16 });
    }
    let needed = ERROR_FIXED_BYTES + text_bytes;
    let Some(text) = bytes.get(ERROR_FIXED_BYTES..needed) else { return Ok(Step::Incomplete { needed }) };
    let text = std::str::from_utf8(text).map_err(|_| ServerMessageRefusal::TextNotUtf8)?;
    Ok(Step::Whole { message: ServerMessage::Error(Fault { code, text }), bytes: needed })
}
