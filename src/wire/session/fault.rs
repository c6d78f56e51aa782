//! Why a session ends before its time, and why bytes are no message of a server.

use std::fmt;

use super::TOKEN_BYTES_MAX;
use crate::wire::FrameRefusal;

/// Why a server ends a session: what its ERROR says. Codes are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionFault {
    /// 1: a hello of a version that the server doesn't speak.
    UnknownVersion {
        /// The byte.
        version: u8,
    },
    /// 2: a level beyond 2.
    UnknownAckLevel {
        /// The byte.
        level: u8,
    },
    /// 3: flags that the server doesn't know.
    UnknownFlags {
        /// The byte.
        flags: u8,
    },
    /// 4: a producer id of sixteen zeros.
    ProducerZero,
    /// 5: sequence 0, in a hello or a mark.
    SequenceZero,
    /// 6: a token longer than [`TOKEN_BYTES_MAX`].
    TokenTooLong {
        /// The token length field.
        token_bytes: u16,
    },
    /// 7: a token is needed, and this one is missing or wrong.
    TokenRefused,
    /// 8: the server can't acknowledge at this level as it is configured.
    LevelUnavailable,
    /// 9: the hello was not whole in time.
    HelloLate,
    /// 10: bytes came behind the hello before the server had answered it.
    EarlyBytes,
    /// 11: no seat is free.
    NoSeat,
    /// 12: another connection said hello for the same producer.
    Superseded,
    /// 13: a frame's sequence is beyond the window.
    BeyondWindow,
    /// 14: a first byte that starts no message.
    UnknownMessage {
        /// The byte.
        first_byte: u8,
    },
    /// 15: a hello within a session.
    HelloTwice,
    /// 16: a frame that is none.
    MalformedFrame(FrameRefusal),
    /// 17: a message was not whole in time.
    SlowFrame,
    /// 18: nothing came for too long.
    Idle,
    /// 19: the client doesn't read what it is sent.
    SlowReader,
    /// 20: the server stops; everything that it had taken has its outcome.
    Stopping,
}

impl SessionFault {
    /// How many kinds there are.
    pub const COUNT: usize = 20;

    /// One of each kind, in the order of their codes, with zero for its value.
    pub const ALL: [SessionFault; SessionFault::COUNT] = [
        SessionFault::UnknownVersion { version: 0 },
        SessionFault::UnknownAckLevel { level: 0 },
        SessionFault::UnknownFlags { flags: 0 },
        SessionFault::ProducerZero,
        SessionFault::SequenceZero,
        SessionFault::TokenTooLong { token_bytes: 0 },
        SessionFault::TokenRefused,
        SessionFault::LevelUnavailable,
        SessionFault::HelloLate,
        SessionFault::EarlyBytes,
        SessionFault::NoSeat,
        SessionFault::Superseded,
        SessionFault::BeyondWindow,
        SessionFault::UnknownMessage { first_byte: 0 },
        SessionFault::HelloTwice,
        SessionFault::MalformedFrame(FrameRefusal::ALL[0]),
        SessionFault::SlowFrame,
        SessionFault::Idle,
        SessionFault::SlowReader,
        SessionFault::Stopping,
    ];

    /// Its stable code, as in the ERROR message: from 1.
    pub const fn code(self) -> u16 {
        match self {
            SessionFault::UnknownVersion { .. } => 1,
            SessionFault::UnknownAckLevel { .. } => 2,
            SessionFault::UnknownFlags { .. } => 3,
            SessionFault::ProducerZero => 4,
            SessionFault::SequenceZero => 5,
            SessionFault::TokenTooLong { .. } => 6,
            SessionFault::TokenRefused => 7,
            SessionFault::LevelUnavailable => 8,
            SessionFault::HelloLate => 9,
            SessionFault::EarlyBytes => 10,
            SessionFault::NoSeat => 11,
            SessionFault::Superseded => 12,
            SessionFault::BeyondWindow => 13,
            SessionFault::UnknownMessage { .. } => 14,
            SessionFault::HelloTwice => 15,
            SessionFault::MalformedFrame(_) => 16,
            SessionFault::SlowFrame => 17,
            SessionFault::Idle => 18,
            SessionFault::SlowReader => 19,
            SessionFault::Stopping => 20,
        }
    }

    /// The place of its kind in arrays of [`SessionFault::COUNT`] counters.
    pub const fn index(self) -> usize {
        self.code() as usize - 1
    }

    /// The name of its kind, for counters and documents.
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; SessionFault::COUNT] = [
            "unknown_version",
            "unknown_ack_level",
            "unknown_flags",
            "producer_zero",
            "sequence_zero",
            "token_too_long",
            "token_refused",
            "level_unavailable",
            "hello_late",
            "early_bytes",
            "no_seat",
            "superseded",
            "beyond_window",
            "unknown_message",
            "hello_twice",
            "malformed_frame",
            "slow_frame",
            "idle",
            "slow_reader",
            "stopping",
        ];
        NAMES[self.index()]
    }

    /// The name of a code; `None` for one that is not ours.
    pub fn name_of(code: u16) -> Option<&'static str> {
        SessionFault::ALL.into_iter().find(|fault| fault.code() == code).map(SessionFault::name)
    }

    /// The text of its ERROR: fixed for each kind, so that who sends it formats nothing; a frame's says what is wrong with it.
    pub const fn text(self) -> &'static str {
        match self {
            SessionFault::UnknownVersion { .. } => "this server speaks version 2",
            SessionFault::UnknownAckLevel { .. } => "levels are 0 accepted, 1 written, 2 durable",
            SessionFault::UnknownFlags { .. } => "flags must be 0",
            SessionFault::ProducerZero => "a producer id is not all zeros",
            SessionFault::SequenceZero => "sequences start at 1",
            SessionFault::TokenTooLong { .. } => "a token has 256 bytes at most",
            SessionFault::TokenRefused => "the token is missing or wrong",
            SessionFault::LevelUnavailable => "this level needs a log (and durable one that is synced)",
            SessionFault::HelloLate => "the hello was not whole in time",
            SessionFault::EarlyBytes => "nothing may follow a hello before its answer",
            SessionFault::NoSeat => "no seat is free, try again later",
            SessionFault::Superseded => "a newer connection speaks for this producer",
            SessionFault::BeyondWindow => "a sequence beyond the acknowledged one plus the window",
            SessionFault::UnknownMessage { .. } => "no message starts with this byte",
            SessionFault::HelloTwice => "one hello opens a session",
            SessionFault::MalformedFrame(refusal) => refusal.name(),
            SessionFault::SlowFrame => "a message was not whole in time",
            SessionFault::Idle => "nothing came for too long",
            SessionFault::SlowReader => "answers were not read in time",
            SessionFault::Stopping => "the server stops, everything it took has its outcome",
        }
    }
}

impl fmt::Display for SessionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            SessionFault::UnknownVersion { version } => write!(f, "session version {version}"),
            SessionFault::UnknownAckLevel { level } => write!(f, "acknowledgement level {level}, known are 0 to 2"),
            SessionFault::UnknownFlags { flags } => write!(f, "flags {flags:#04x} in a hello"),
            SessionFault::TokenTooLong { token_bytes } => {
                write!(f, "token of {token_bytes} bytes, at most {TOKEN_BYTES_MAX} are allowed")
            }
            SessionFault::UnknownMessage { first_byte } => write!(f, "first byte {first_byte:#04x} starts no message"),
            SessionFault::MalformedFrame(refusal) => refusal.fmt(f),
            other => f.write_str(other.text()),
        }
    }
}

impl std::error::Error for SessionFault {}

/// Why bytes are no message of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerMessageRefusal {
    /// A first byte that starts none.
    UnknownMessage {
        /// The byte.
        first_byte: u8,
    },
    /// A welcome of another version.
    UnknownVersion {
        /// The byte.
        version: u8,
    },
    /// A level beyond 2.
    UnknownAckLevel {
        /// The byte.
        level: u8,
    },
    /// Flags in a welcome.
    UnknownFlags {
        /// The byte.
        flags: u8,
    },
    /// A bitmap longer than [`super::HELD_BYTES_MAX`].
    BitmapTooLong {
        /// Its length field.
        bitmap_bytes: u16,
    },
    /// A refusal of no sequence, or of sequence 0.
    EmptyRange,
    /// A text longer than [`super::ERROR_TEXT_BYTES_MAX`].
    TextTooLong {
        /// Its length field.
        text_bytes: u16,
    },
    /// A text that is not UTF-8.
    TextNotUtf8,
}

impl fmt::Display for ServerMessageRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ServerMessageRefusal::UnknownMessage { first_byte } => write!(f, "first byte {first_byte:#04x} starts no message"),
            ServerMessageRefusal::UnknownVersion { version } => write!(f, "welcome of session version {version}"),
            ServerMessageRefusal::UnknownAckLevel { level } => write!(f, "acknowledgement level {level}"),
            ServerMessageRefusal::UnknownFlags { flags } => write!(f, "flags {flags:#04x} in a welcome"),
            ServerMessageRefusal::BitmapTooLong { bitmap_bytes } => write!(f, "bitmap of {bitmap_bytes} bytes"),
            ServerMessageRefusal::EmptyRange => write!(f, "a refusal of nothing"),
            ServerMessageRefusal::TextTooLong { text_bytes } => write!(f, "text of {text_bytes} bytes"),
            ServerMessageRefusal::TextNotUtf8 => write!(f, "text is not UTF-8"),
        }
    }
}

impl std::error::Error for ServerMessageRefusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_own_code_name_and_one_line_of_text() {
        for (index, fault) in SessionFault::ALL.into_iter().enumerate() {
            assert_eq!((fault.index(), usize::from(fault.code())), (index, index + 1));
            assert_eq!(SessionFault::name_of(fault.code()), Some(fault.name()));
            assert!(!fault.text().is_empty() && !fault.text().contains('\n') && fault.text().len() < 100);
            assert!(!fault.to_string().is_empty());
        }
        let names: std::collections::HashSet<_> = SessionFault::ALL.into_iter().map(SessionFault::name).collect();
        assert_eq!(names.len(), SessionFault::COUNT);
        assert_eq!(SessionFault::name_of(0), None);
    }
}
