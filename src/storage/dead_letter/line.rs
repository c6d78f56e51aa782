//! A dead letter as a line of JSON: the format of `dlq_log.txt` and of what a replay sends.
//!
//! ```json
//! {"time":"2026-01-31T12:00:00.000000000Z","reason":"queue_full","tier":"batch","priority":"LOW","source":"udp",
//!  "id":4222124650659841,"received":"2026-01-31T11:59:59.999000000Z","topic":"meters/7","body":"aGVsbG8=","note":""}
//! ```
//!
//! (in one line). `time` is when it died, `received` when it came in, both RFC 3339 in UTC; `reason`, `tier`, `priority` and `source` are the
//! words of metrics and `log dump`; `body` is base64 (RFC 4648, padded); `note` is the last error of a handler, or empty. An event with an
//! idempotency key has a field `key` behind its `id`: 32 hexadecimal digits.
//!
//! - **X1** A line is one JSON object in UTF-8, ends with a newline, and has no other one in it.
//! - **X2** All fields are there, in this order as written. A reader takes any order and passes over fields that it does not know.
//! - **X3** A *sample* shows one of many events that were dropped and only counted. Its line begins with `{"sample":`: `"whole"` when it is
//!   all of the event, `"topic"` when there was no slot to keep it in; then `topic` is the topic's first 95 bytes, and `body` is empty.
//! - **X4** `id` is an integer of 64 bits: readers that take numbers for doubles lose its last digits. It is unique in a data folder, but an
//!   event that is sent again and dies again has a second line with the same id.
//! - **X5** A line has at most [`LINE_BYTES_MAX`] bytes, its newline included.
//!
//! A reader must tolerate an unfinished line, also in the middle of a file (a crash, and the next start went on behind it), lines of
//! others, and files that are renamed while it reads.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::limits::DEAD_LETTER_LINE_BYTES_MAX as LINE_BYTES_MAX;
use crate::metrics::ledger::DropReason;
use crate::pool::{EventKey, Source};
use crate::storage::rfc3339::{Rfc3339, parse_rfc3339};
use crate::sys::clock::WallNanos;
use crate::wire::{Priority, TOPIC_BYTES_MAX, Tier, check_topic};

const _: () = assert!(6 * (TOPIC_BYTES_MAX + super::Note::BYTES_MAX) + 1024 < 16 << 10);

/// How a line begins that is a sample's (X3): what is only counted can be told from what is written without parsing.
pub(super) const SAMPLE_START: &[u8] = b"{\"sample\":";
/// How any other letter's line begins.
const LETTER_START: &[u8] = b"{\"time\":";

/// How much of a dropped event a sample has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// All of it.
    Whole,
    /// The first bytes of its topic.
    Topic,
}

impl SampleKind {
    /// The word in the line.
    pub const fn name(self) -> &'static str {
        match self {
            SampleKind::Whole => "whole",
            SampleKind::Topic => "topic",
        }
    }
}

/// What a line says. `T` and `B` are the text and the bytes, borrowed to write them, owned when read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter<T, B> {
    /// When it died.
    pub time: WallNanos,
    /// Of what.
    pub reason: DropReason,
    /// For an event that was dropped and only counted: how much of it this is.
    pub sample: Option<SampleKind>,
    /// As dispatched.
    pub tier: Tier,
    /// As sent.
    pub priority: Priority,
    /// Where it came in.
    pub source: Source,
    /// The event's id.
    pub id: u64,
    /// Its idempotency key, if its producer gave it one.
    pub key: Option<EventKey>,
    /// When its bytes were received.
    pub received: WallNanos,
    /// The topic, possibly cut for [`SampleKind::Topic`].
    pub topic: T,
    /// The body.
    pub body: B,
    /// The last error, or nothing.
    pub note: T,
}

/// A letter that was read.
pub type DeadLetter = Letter<String, Vec<u8>>;

/// A letter to be written.
pub type LetterView<'a> = Letter<&'a str, &'a [u8]>;

impl DeadLetter {
    /// The same, borrowed.
    pub fn view(&self) -> LetterView<'_> {
        let Letter { time, reason, sample, tier, priority, source, id, key, received, .. } = *self;
        let (topic, body, note) = (self.topic.as_str(), self.body.as_slice(), self.note.as_str());
        Letter { time, reason, sample, tier, priority, source, id, key, received, topic, body, note }
    }
}

/// Why a line is no dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFault {
    /// No JSON object with the fields of one: cut short, or something else.
    Form,
    /// A field has a value that it can't have.
    Value {
        /// Which.
        field: &'static str,
    },
    /// Longer than [`LINE_BYTES_MAX`].
    TooLong,
}

impl std::fmt::Display for LineFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LineFault::Form => f.write_str("not a dead letter in JSON"),
            LineFault::Value { field } => write!(f, "the field `{field}` has no value that it can have"),
            LineFault::TooLong => write!(f, "longer than {LINE_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for LineFault {}

/// Fields in the order in which people read them; `sample` in front (X3).
#[derive(Serialize, Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    sample: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow)]
    tier: Cow<'a, str>,
    #[serde(borrow)]
    priority: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    id: u64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    received: Cow<'a, str>,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    body: Cow<'a, str>,
    #[serde(borrow)]
    note: Cow<'a, str>,
}

/// Appends a letter's line, its newline included. `body_text` is room for the body in base64, kept from line to line.
pub fn write_line(letter: &LetterView<'_>, body_text: &mut String, out: &mut Vec<u8>) {
    body_text.clear();
    BASE64.encode_string(letter.body, body_text);
    let fields = Fields {
        sample: letter.sample.map(|kind| kind.name().into()),
        time: Rfc3339(letter.time).to_string().into(),
        reason: letter.reason.name().into(),
        tier: letter.tier.name().into(),
        priority: letter.priority.name().into(),
        source: letter.source.name().into(),
        id: letter.id,
        key: letter.key.map(|key| format!("{:032x}", key.get()).into()),
        received: Rfc3339(letter.received).to_string().into(),
        topic: letter.topic.into(),
        body: body_text.as_str().into(),
        note: letter.note.into(),
    };
    serde_json::to_writer(&mut *out, &fields).expect("strings and numbers always serialize");
    out.push(b'\n');
}

/// Reads a line, with or without its newline.
///
/// # Errors
/// See [`LineFault`].
pub fn parse_line(line: &[u8]) -> Result<DeadLetter, LineFault> {
    if line.len() > LINE_BYTES_MAX {
        return Err(LineFault::TooLong);
    }
    let fields: Fields<'_> = serde_json::from_slice(line).map_err(|_| LineFault::Form)?;
    let wrong = |field| LineFault::Value { field };
    let sample = match fields.sample.as_deref() {
        None => None,
        Some("whole") => Some(SampleKind::Whole),
        Some("topic") => Some(SampleKind::Topic),
        Some(_) => return Err(wrong("sample")),
    };
    let key = match fields.key.as_deref() {
        None => None,
        Some(digits) if digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            u128::from_str_radix(digits, 16).ok().and_then(EventKey::new)
        }
        Some(_) => return Err(wrong("key")),
    };
    let named = |field, found: Option<usize>| found.ok_or(wrong(field));
    let reason = named("reason", DropReason::ALL.iter().position(|reason| reason.name() == fields.reason))?;
    let tier = named("tier", Tier::ALL.iter().position(|tier| tier.name() == fields.tier))?;
    let priority = named("priority", Priority::ALL.iter().position(|priority| priority.name() == fields.priority))?;
    let source = named("source", Source::ALL.iter().position(|source| source.name() == fields.source))?;
    let topic = check_topic(fields.topic.as_bytes()).map_err(|_| wrong("topic"))?.as_str().to_owned();
    Ok(Letter {
        time: parse_rfc3339(&fields.time).ok_or(wrong("time"))?,
        reason: DropReason::ALL[reason],
        sample,
        tier: Tier::ALL[tier],
        priority: Priority::ALL[priority],
        source: Source::ALL[source],
        id: fields.id,
        key,
        received: parse_rfc3339(&fields.received).ok_or(wrong("received"))?,
        topic,
        body: BASE64.decode(fields.body.as_bytes()).map_err(|_| wrong("body"))?,
        note: fields.note.into_owned(),
    })
}

/// Whether a line that can't be read has at least the beginning of a letter: it was one, and is cut short.
pub(super) fn begins_like_a_letter(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    [SAMPLE_START, LETTER_START].into_iter().any(|start| {
        let len = line.len().min(start.len());
        len > 0 && line[..len] == start[..len]
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any letter that can be written.
    pub(crate) fn any_letter() -> impl Strategy<Value = DeadLetter> {
        let words = (0..DropReason::COUNT, 0..Tier::COUNT, 0..Priority::ALL.len(), 0..Source::COUNT, 0..3usize);
        // Beyond this year times are as good; below 1970 there are none.
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u128>());
        let texts = ("[^+#\\p{Cc}]{1,40}", "\\PC{0,40}|[\\x00-\\x1f\"\\\\]{0,40}", prop::collection::vec(any::<u8>(), 0..200));
        (words, numbers, texts).prop_map(
            |((reason, tier, priority, source, sample), (time, received, id, key), (topic, note, body))| Letter {
                time: WallNanos(time),
                reason: DropReason::ALL[reason],
                sample: [None, Some(SampleKind::Whole), Some(SampleKind::Topic)][sample],
                tier: Tier::ALL[tier],
                priority: Priority::ALL[priority],
                source: Source::ALL[source],
                id,
                key: EventKey::new(key >> (key as u32 % 128)),
                received: WallNanos(received),
                topic,
                body,
                note,
            },
        )
    }

    pub(crate) fn line_of(letter: &DeadLetter) -> Vec<u8> {
        let mut line = Vec::new();
        write_line(&letter.view(), &mut String::new(), &mut line);
        line
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(letter in any_letter()) {
            let line = line_of(&letter);
            prop_assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1), "X1");
            prop_assert_eq!(line.starts_with(SAMPLE_START), letter.sample.is_some(), "X3");
            prop_assert!(begins_like_a_letter(&line));
            prop_assert_eq!(parse_line(&line), Ok(letter));
        }

        #[test]
        fn a_line_cut_anywhere_is_no_letter(letter in any_letter(), at in any::<prop::sample::Index>()) {
            let line = line_of(&letter);
            let cut = &line[..at.index(line.len() - 1)];
            prop_assert_eq!(parse_line(cut), Err(LineFault::Form));
        }

        #[test]
        fn garbage_never_panics(mut line in any_letter().prop_map(|letter| line_of(&letter)), flips in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..8)) {
            for (at, byte) in flips {
                let at = at.index(line.len());
                line[at] = byte;
            }
            let _ = parse_line(&line);
        }
    }

    #[test]
    fn fields_in_any_order_and_unknown_ones_are_taken() {
        let line = br#"{"note":"","later":[1],"body":"aGk=","topic":"a","received":"2026-01-31T12:00:00Z","id":7,"source":"udp",
            "priority":"LOW","tier":"batch","reason":"queue_full","time":"2026-01-31T12:00:01Z"}"#;
        let letter = parse_line(line).unwrap();
        assert_eq!((letter.id, letter.body.as_slice(), letter.sample), (7, b"hi".as_slice(), None));
    }

    #[test]
    fn each_field_with_a_value_that_it_cant_have_is_named() {
        let good = r#"{"sample":"whole","time":"2026-01-31T12:00:01Z","reason":"queue_full","tier":"batch","priority":"LOW","source":"udp","id":7,"key":"0123456789abcdef0123456789abcdef","received":"2026-01-31T12:00:00Z","topic":"a","body":"aGk=","note":""}"#;
        assert!(parse_line(good.as_bytes()).is_ok());
        for (field, value, wrong) in [
            ("sample", "whole", "half"),
            ("time", "2026-01-31T12:00:01Z", "noon"),
            ("reason", "queue_full", "boredom"),
            ("tier", "batch", "best"),
            ("priority", "LOW", "low-ish"),
            ("source", "udp", "post"),
            ("key", "0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcde+"),
            ("received", "2026-01-31T12:00:00Z", "2026-13-31T12:00:00Z"),
            ("topic", "\"a\"", "\"a/+\""),
            ("body", "aGk=", "aGk"),
        ] {
            let line = good.replacen(value, wrong, 1);
            assert_eq!(parse_line(line.as_bytes()), Err(LineFault::Value { field }), "{line}");
        }
        assert_eq!(parse_line(good.replace(":7", ":-7").as_bytes()), Err(LineFault::Form));
        assert_eq!(parse_line(&vec![b' '; LINE_BYTES_MAX + 1]), Err(LineFault::TooLong));
    }
}
