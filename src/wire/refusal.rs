//! Why bytes are not a frame.

use std::fmt;

use super::{LENGTH_MIN, TOPIC_BYTES_MAX};

/// Why a frame was refused, with the value that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameRefusal {
    /// The first byte is not 0: no version-1 frame starts like this, whatever its length.
    UnknownProtocol {
        /// The byte.
        first_byte: u8,
    },
    /// The length field is below [`LENGTH_MIN`].
    LengthTooShort {
        /// The length field.
        length: u32,
    },
    /// The length field leads beyond [`super::FrameLimits::max_frame_bytes`].
    LengthTooLong {
        /// The length field; when encoding, what it would have to be (saturated).
        length: u32,
    },
    /// The priority byte is above 4.
    UnknownPriority {
        /// The byte.
        byte: u8,
    },
    /// A topic of no bytes.
    TopicEmpty,
    /// A topic longer than [`TOPIC_BYTES_MAX`].
    TopicTooLong {
        /// The topic length field; when encoding, the topic's bytes (saturated).
        topic_bytes: u32,
    },
    /// The topic would end after the frame does.
    TopicBeyondFrame {
        /// The topic length field.
        topic_bytes: u32,
        /// The length field.
        length: u32,
    },
    /// The topic is not UTF-8 (overlong forms and surrogates are not).
    TopicNotUtf8,
    /// The topic holds a control character (NUL, newline, escape, DEL, C1 …).
    TopicControl {
        /// The character.
        character: char,
    },
    /// The topic holds `+` or `#`, which only filters may.
    TopicWildcard {
        /// The character.
        character: char,
    },
    /// A datagram ended within a frame.
    CutShort {
        /// How many bytes were missing at least.
        missing_bytes: u32,
    },
}

impl FrameRefusal {
    /// How many kinds there are.
    pub const COUNT: usize = 11;

    /// One of each kind, by index, with zero for its value.
    pub const ALL: [FrameRefusal; FrameRefusal::COUNT] = [
        FrameRefusal::UnknownProtocol { first_byte: 0 },
        FrameRefusal::LengthTooShort { length: 0 },
        FrameRefusal::LengthTooLong { length: 0 },
        FrameRefusal::UnknownPriority { byte: 0 },
        FrameRefusal::TopicEmpty,
        FrameRefusal::TopicTooLong { topic_bytes: 0 },
        FrameRefusal::TopicBeyondFrame { topic_bytes: 0, length: 0 },
        FrameRefusal::TopicNotUtf8,
        FrameRefusal::TopicControl { character: '\0' },
        FrameRefusal::TopicWildcard { character: '\0' },
        FrameRefusal::CutShort { missing_bytes: 0 },
    ];

    /// The place of its kind in arrays of [`FrameRefusal::COUNT`] counters.
    pub const fn index(self) -> usize {
        match self {
            FrameRefusal::UnknownProtocol { .. } => 0,
            FrameRefusal::LengthTooShort { .. } => 1,
            FrameRefusal::LengthTooLong { .. } => 2,
            FrameRefusal::UnknownPriority { .. } => 3,
            FrameRefusal::TopicEmpty => 4,
            FrameRefusal::TopicTooLong { .. } => 5,
            FrameRefusal::TopicBeyondFrame { .. } => 6,
            FrameRefusal::TopicNotUtf8 => 7,
            FrameRefusal::TopicControl { .. } => 8,
            FrameRefusal::TopicWildcard { .. } => 9,
            FrameRefusal::CutShort { .. } => 10,
        }
    }

    /// The name of its kind, for counters and JSON.
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; FrameRefusal::COUNT] = [
            "unknown_protocol",
            "length_too_short",
            "length_too_long",
            "unknown_priority",
            "topic_empty",
            "topic_too_long",
            "topic_beyond_frame",
            "topic_not_utf8",
            "topic_control",
            "topic_wildcard",
            "cut_short",
        ];
        NAMES[self.index()]
    }
}

impl fmt::Display for FrameRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            FrameRefusal::UnknownProtocol { first_byte } => {
                write!(f, "first byte {first_byte:#04x} where a frame starts with 0x00")
            }
            FrameRefusal::LengthTooShort { length } => write!(f, "length field {length}, at least {LENGTH_MIN} is needed"),
            FrameRefusal::LengthTooLong { length } => write!(f, "length field {length} is beyond the frame limit"),
            FrameRefusal::UnknownPriority { byte } => write!(f, "priority {byte}, known are 0 to 4"),
            FrameRefusal::TopicEmpty => write!(f, "empty topic"),
            FrameRefusal::TopicTooLong { topic_bytes } => {
                write!(f, "topic of {topic_bytes} bytes, at most {TOPIC_BYTES_MAX} are allowed")
            }
            FrameRefusal::TopicBeyondFrame { topic_bytes, length } => {
                write!(f, "topic of {topic_bytes} bytes in a frame whose length field is {length}")
            }
            FrameRefusal::TopicNotUtf8 => write!(f, "topic is not UTF-8"),
            FrameRefusal::TopicControl { character } => {
                write!(f, "control character U+{:04X} in the topic", u32::from(character))
            }
            FrameRefusal::TopicWildcard { character } => write!(f, "wildcard `{character}` in the topic"),
            FrameRefusal::CutShort { missing_bytes } => write!(f, "datagram ends {missing_bytes} bytes before its last frame"),
        }
    }
}

impl std::error::Error for FrameRefusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_index_and_name() {
        for (index, refusal) in FrameRefusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal.index(), index);
        }
        let names: std::collections::HashSet<_> = FrameRefusal::ALL.into_iter().map(FrameRefusal::name).collect();
        assert_eq!(names.len(), FrameRefusal::COUNT);
    }

    #[test]
    fn refusals_print_on_one_line_without_raw_control_characters() {
        for refusal in FrameRefusal::ALL {
            let text = refusal.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
        }
        let text = FrameRefusal::TopicControl { character: '\u{1b}' }.to_string();
        assert_eq!(text, "control character U+001B in the topic");
    }
}
