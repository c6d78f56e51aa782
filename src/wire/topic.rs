//! What a topic may be (I3), judged eight bytes at a time where it is plain ASCII, which nearly all topics are.

use std::fmt;
use std::ops::Deref;

use super::{FrameRefusal, TOPIC_BYTES_MAX};

/// A topic that keeps I3; a string wherever one is wanted.
///
/// It holds the bytes and becomes a string only on use: the standard library's UTF-8 check goes byte by byte through anything
/// as short as a topic, which cost 10 of the 25 ns that a frame took to parse. The receiving side needs bytes only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic<'a>(&'a [u8]);

impl<'a> Topic<'a> {
    /// Its bytes.
    #[inline]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Its length in bytes, 1 to [`TOPIC_BYTES_MAX`].
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "I3: never empty")]
    pub const fn len(self) -> usize {
        self.0.len()
    }

    /// The same as a string.
    pub fn as_str(self) -> &'a str {
        std::str::from_utf8(self.0).expect("I3: judged when it was made")
    }
}

impl Deref for Topic<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Topic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for Topic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq<str> for Topic<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Topic<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

/// The topic in these bytes, or why they are none.
///
/// # Errors
/// `TopicEmpty`, `TopicTooLong`, `TopicNotUtf8`, `TopicControl`, `TopicWildcard`, judged in this order.
#[inline]
pub fn check_topic(bytes: &[u8]) -> Result<Topic<'_>, FrameRefusal> {
    if bytes.is_empty() {
        return Err(FrameRefusal::TopicEmpty);
    }
    if bytes.len() > TOPIC_BYTES_MAX {
        return Err(FrameRefusal::TopicTooLong { topic_bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX) });
    }
    if !is_plain(bytes) {
        judge_characters(bytes)?;
    }
    Ok(Topic(bytes))
}

/// The topic in these bytes, if it is plain ASCII, which is all that [`check_topic`] would ask of it. The length is the caller's to judge.
#[cfg(feature = "engine")]
#[inline(always)]
pub(super) fn plain_topic(bytes: &[u8]) -> Option<Topic<'_>> {
    (!bytes.is_empty() && is_plain(bytes)).then_some(Topic(bytes))
}

/// The slow path: a topic with characters beyond ASCII, or with one that is refused.
#[cold]
fn judge_characters(bytes: &[u8]) -> Result<(), FrameRefusal> {
    let topic = std::str::from_utf8(bytes).map_err(|_| FrameRefusal::TopicNotUtf8)?;
    for character in topic.chars() {
        // C1 too: U+009B does to a terminal what ESC [ does.
        if character.is_control() {
            return Err(FrameRefusal::TopicControl { character });
        }
        if character == '+' || character == '#' {
            return Err(FrameRefusal::TopicWildcard { character });
        }
    }
    Ok(())
}

/// Whether all bytes are printable ASCII other than the wildcards.
#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk::<8>() else {
        return suspicious(short_word(bytes)) == 0;
    };
    // The last word overlaps the one before rather than leave a tail to be looked at byte by byte.
    let mut found = suspicious(u64::from_le_bytes(*last));
    let (words, _) = bytes.as_chunks::<8>();
    for word in words {
        found |= suspicious(u64::from_le_bytes(*word));
    }
    found == 0
}

/// One to seven bytes as a word, some of them twice: a copy of unknown length would cost a call.
#[inline]
fn short_word(bytes: &[u8]) -> u64 {
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        return u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last));
    }
    let [first, middle, last] = [bytes[0], bytes[bytes.len() / 2], bytes[bytes.len() - 1]];
    u64::from_le_bytes([first, middle, last, first, first, first, first, first])
}

/// Non-zero if any of the eight bytes is a control character, DEL, a wildcard, or beyond ASCII. Zero-byte and less-than
/// tests within a word are from Sean Anderson's "Bit Twiddling Hacks" (public domain).
#[inline]
const fn suspicious(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const TOPS: u64 = u64::from_le_bytes([0x80; 8]);
    // Adding one lifts DEL (0x7f) to 0x80; a carry between bytes needs a byte beyond ASCII, which `word` itself shows.
    let beyond_or_del = word | word.wrapping_add(ONES);
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    // `#` is 0x23 and `+` is 0x2b: the same but for bit 3, so one comparison finds both.
    let difference = (word & !(ONES * 0x08)) ^ (ONES * b'#' as u64);
    let wildcard = difference.wrapping_sub(ONES) & !difference;
    (beyond_or_del | below_space | wildcard) & TOPS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule in its plainest words.
    fn expected(bytes: &[u8]) -> Result<&str, &'static str> {
        let topic = std::str::from_utf8(bytes).map_err(|_| "topic_not_utf8")?;
        match topic.chars().find(|c| c.is_control() || "+#".contains(*c)) {
            None => Ok(topic),
            Some(c) if c.is_control() => Err("topic_control"),
            Some(_) => Err("topic_wildcard"),
        }
    }

    #[test]
    fn every_byte_is_judged_alike_at_every_place_of_a_word() {
        for byte in 0..=u8::MAX {
            for length in 1..=25 {
                for place in 0..length {
                    let mut topic = vec![b'/'; length];
                    topic[place] = byte;
                    assert_eq!(
                        check_topic(&topic).map(Topic::as_str).map_err(FrameRefusal::name),
                        expected(&topic),
                        "{topic:02x?}"
                    );
                }
            }
        }
    }

    #[test]
    fn overlong_forms_and_surrogates_are_not_utf8() {
        for bytes in [&b"\xc0\xaf"[..], b"\xe0\x80\xaf", b"\xed\xa0\x80", b"a\xff", b"\xf4\x90\x80\x80", b"caf\xc3"] {
            assert_eq!(check_topic(bytes), Err(FrameRefusal::TopicNotUtf8), "{bytes:02x?}");
        }
    }

    #[test]
    fn c1_control_characters_are_refused_and_other_scripts_are_not() {
        assert_eq!(check_topic("a\u{9b}31m".as_bytes()), Err(FrameRefusal::TopicControl { character: '\u{9b}' }));
        for topic in ["größe/wert", "温度/東京", "🚲", "a//b/", "$sys"] {
            assert_eq!(check_topic(topic.as_bytes()).map(Topic::as_str), Ok(topic));
        }
    }

    #[test]
    fn the_longest_topic_is_allowed_and_one_more_byte_is_not() {
        assert!(check_topic(&[b'a'; TOPIC_BYTES_MAX]).is_ok());
        let refusal = FrameRefusal::TopicTooLong { topic_bytes: TOPIC_BYTES_MAX as u32 + 1 };
        assert_eq!(check_topic(&[b'a'; TOPIC_BYTES_MAX + 1]), Err(refusal));
        assert_eq!(check_topic(b""), Err(FrameRefusal::TopicEmpty));
    }

    proptest! {
        #[test]
        fn the_fast_path_agrees_with_the_rule(text in "\\PC{0,12}[ -~]{0,12}[\\x00-\\x7f\u{80}-\u{a0}]{0,3}[ -~]{1,12}") {
            prop_assert_eq!(check_topic(text.as_bytes()).map(Topic::as_str).map_err(FrameRefusal::name), expected(text.as_bytes()));
        }
    }
}
