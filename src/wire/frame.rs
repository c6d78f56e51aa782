//! From bytes to frames.

use super::{
    FRAME_BYTES_MAX, FrameRefusal, HEADER_BYTES, LENGTH_BYTES, LENGTH_MAX, LENGTH_MIN, Priority, TOPIC_BYTES_MAX, Topic,
    check_topic,
};

/// What a receiver is willing to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    /// Bytes of the longest frame, its length field included. Values beyond [`FRAME_BYTES_MAX`] mean that.
    pub max_frame_bytes: u32,
}

impl FrameLimits {
    /// As far as the format goes: 16 MiB.
    pub const FORMAT: FrameLimits = FrameLimits { max_frame_bytes: FRAME_BYTES_MAX };
}

impl Default for FrameLimits {
    /// 1 MiB, the default of `--max-frame-bytes`.
    fn default() -> Self {
        FrameLimits { max_frame_bytes: 1 << 20 }
    }
}

/// What a frame says of itself before its topic: every field judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The priority.
    pub priority: Priority,
    /// Bytes of the topic, 1 to [`TOPIC_BYTES_MAX`], within the frame.
    pub topic_bytes: u16,
    /// The length field: bytes after itself.
    pub length: u32,
}

impl FrameHeader {
    /// Bytes of the whole frame, the length field included.
    #[inline]
    pub const fn frame_bytes(self) -> usize {
        self.length as usize + LENGTH_BYTES
    }

    /// Bytes of topic and body.
    #[inline]
    pub const fn payload_bytes(self) -> usize {
        self.frame_bytes() - HEADER_BYTES
    }

    /// Bytes of the body.
    #[inline]
    pub const fn body_bytes(self) -> usize {
        self.payload_bytes() - self.topic_bytes as usize
    }

    /// The frame of this header and its payload, wherever the payload was put together.
    ///
    /// # Errors
    /// What [`check_topic`] refuses.
    ///
    /// # Panics
    /// If the payload is not [`FrameHeader::payload_bytes`] long.
    #[inline]
    pub fn frame(self, payload: &[u8]) -> Result<Frame<'_>, FrameRefusal> {
        assert_eq!(payload.len(), self.payload_bytes(), "the payload of another header");
        let (topic, body) = payload.split_at(self.topic_bytes as usize);
        Ok(Frame { priority: self.priority, topic: check_topic(topic)?, body, payload, frame_bytes: self.frame_bytes() })
    }
}

/// One whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The priority.
    pub priority: Priority,
    /// The topic, as I3 promises.
    pub topic: Topic<'a>,
    /// The body, any bytes, possibly none.
    pub body: &'a [u8],
    /// Topic and body, as they lie: what an event's slot keeps.
    pub payload: &'a [u8],
    /// How many bytes the frame took: the next one starts there.
    pub frame_bytes: usize,
}

/// What bytes are, as far as they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A whole frame at their start.
    Frame(Frame<'a>),
    /// The start of a frame.
    Incomplete {
        /// How many bytes from the frame's start are needed to go on: [`HEADER_BYTES`] while the header is not whole (no
        /// frame is that short), then those of the whole frame. Always more than were given.
        needed: usize,
    },
}

/// The first frame of these bytes.
///
/// ```
/// use eventstream::wire::{FrameLimits, Parsed, Priority, parse};
///
/// let bytes = b"\x00\x00\x00\x1b\x03\x00\x0csensors/temp{\"val\":23.5}";
/// let Ok(Parsed::Frame(frame)) = parse(bytes, &FrameLimits::default()) else { panic!() };
/// assert_eq!(frame.priority, Priority::High);
/// assert_eq!(frame.topic, "sensors/temp");
/// assert_eq!(frame.body, br#"{"val":23.5}"#);
/// assert_eq!(frame.frame_bytes, bytes.len());
/// ```
///
/// # Errors
/// Whatever makes them no frame, as early as the bytes allow (I2). Nothing after a refusal can be trusted: the stream's
/// frames can't be found again.
#[inline]
pub fn parse<'a>(bytes: &'a [u8], limits: &FrameLimits) -> Result<Parsed<'a>, FrameRefusal> {
    let Some(header) = parse_header(bytes, limits)? else {
        return Ok(Parsed::Incomplete { needed: HEADER_BYTES });
    };
    match bytes.get(HEADER_BYTES..header.frame_bytes()) {
        Some(payload) => Ok(Parsed::Frame(header.frame(payload)?)),
        None => judge_cut_payload(header, &bytes[HEADER_BYTES..]),
    }
}

/// The first frame of these bytes if it is whole and its topic plain, as nearly all are. `None` says nothing: [`parse`] judges.
///
/// The header is one load, and nothing of it goes through memory: in `parse`, loads that waited for narrower stores took 12 of the 115 ns that an
/// event cost from socket to log.
#[cfg(feature = "engine")]
#[inline(always)]
pub(crate) fn whole_frame<'a>(bytes: &'a [u8], limits: &FrameLimits) -> Option<Frame<'a>> {
    // The shortest frame has a header and a topic of one byte.
    let head = u64::from_be_bytes(*bytes.first_chunk::<{ HEADER_BYTES + 1 }>()?);
    let (length, priority, topic_bytes) = ((head >> 32) as usize, (head >> 24) as u8, usize::from((head >> 8) as u16));
    let frame_bytes = length + LENGTH_BYTES;
    let payload = bytes.get(HEADER_BYTES..frame_bytes)?;
    let priority = Priority::from_byte(priority)?;
    let (topic, body) = payload.split_at_checked(topic_bytes)?;
    let is_plain =
        frame_bytes <= limits.max_frame_bytes as usize && topic_bytes <= TOPIC_BYTES_MAX && length <= LENGTH_MAX as usize;
    let topic = super::topic::plain_topic(topic).filter(|_| is_plain)?;
    Some(Frame { priority, topic, body, payload, frame_bytes })
}

/// The header at the start of these bytes; `None` while fewer than [`HEADER_BYTES`] are there and none of them is wrong.
///
/// # Errors
/// Everything but what only the topic's own bytes show.
#[inline]
pub fn parse_header(bytes: &[u8], limits: &FrameLimits) -> Result<Option<FrameHeader>, FrameRefusal> {
    let Some(&[l0, l1, l2, l3, priority, t0, t1]) = bytes.first_chunk::<HEADER_BYTES>() else {
        return judge_cut_header(bytes, limits);
    };
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    check_length(length, limits)?;
    let priority = check_priority(priority)?;
    let topic_bytes = u16::from_be_bytes([t0, t1]);
    if topic_bytes == 0 {
        return Err(FrameRefusal::TopicEmpty);
    }
    if usize::from(topic_bytes) > TOPIC_BYTES_MAX {
        return Err(FrameRefusal::TopicTooLong { topic_bytes: u32::from(topic_bytes) });
    }
    let header = FrameHeader { priority, topic_bytes, length };
    if usize::from(topic_bytes) > header.payload_bytes() {
        return Err(FrameRefusal::TopicBeyondFrame { topic_bytes: u32::from(topic_bytes), length });
    }
    Ok(Some(header))
}

#[inline]
fn check_length(length: u32, limits: &FrameLimits) -> Result<(), FrameRefusal> {
    if length > LENGTH_MAX {
        return Err(FrameRefusal::UnknownProtocol { first_byte: length.to_be_bytes()[0] });
    }
    if length < LENGTH_MIN {
        return Err(FrameRefusal::LengthTooShort { length });
    }
    // No overflow: both summands are below 2^25.
    if length + LENGTH_BYTES as u32 > limits.max_frame_bytes {
        return Err(FrameRefusal::LengthTooLong { length });
    }
    Ok(())
}

#[inline]
fn check_priority(byte: u8) -> Result<Priority, FrameRefusal> {
    Priority::from_byte(byte).ok_or(FrameRefusal::UnknownPriority { byte })
}

/// A header that is not whole: refused already if one of its whole fields is wrong.
#[cold]
fn judge_cut_header(bytes: &[u8], limits: &FrameLimits) -> Result<Option<FrameHeader>, FrameRefusal> {
    if let Some(&first_byte) = bytes.first().filter(|byte| **byte != 0) {
        return Err(FrameRefusal::UnknownProtocol { first_byte });
    }
    if let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() {
        check_length(u32::from_be_bytes(*length), limits)?;
    }
    if let Some(&priority) = bytes.get(LENGTH_BYTES) {
        check_priority(priority)?;
    }
    Ok(None)
}

/// A payload that is not whole: refused already if its topic is there and wrong.
#[cold]
fn judge_cut_payload(header: FrameHeader, payload: &[u8]) -> Result<Parsed<'_>, FrameRefusal> {
    if let Some(topic) = payload.get(..usize::from(header.topic_bytes)) {
        check_topic(topic)?;
    }
    Ok(Parsed::Incomplete { needed: header.frame_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode_into;

    const LIMITS: FrameLimits = FrameLimits { max_frame_bytes: 4096 };

    fn refusal(bytes: &[u8]) -> FrameRefusal {
        match parse(bytes, &LIMITS) {
            Err(refusal) => refusal,
            Ok(parsed) => panic!("{bytes:02x?} is {parsed:?}"),
        }
    }

    /// A header whose fields are as given, whatever they are.
    fn header(length: u32, priority: u8, topic_bytes: u16) -> Vec<u8> {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.push(priority);
        bytes.extend(topic_bytes.to_be_bytes());
        bytes
    }

    #[test]
    fn lengths_are_judged_from_the_first_four_bytes() {
        for length in [0, 1, 2, 3] {
            assert_eq!(refusal(&u32::to_be_bytes(length)), FrameRefusal::LengthTooShort { length });
        }
        for length in [4093, 5000, LENGTH_MAX] {
            assert_eq!(refusal(&u32::to_be_bytes(length)), FrameRefusal::LengthTooLong { length });
        }
        assert_eq!(refusal(&u32::MAX.to_be_bytes()), FrameRefusal::UnknownProtocol { first_byte: 0xff });
        assert_eq!(parse(&4092_u32.to_be_bytes(), &LIMITS), Ok(Parsed::Incomplete { needed: HEADER_BYTES }));
    }

    #[test]
    fn a_frame_of_exactly_the_limit_is_taken() {
        let mut bytes = Vec::new();
        encode_into(&mut bytes, Priority::Low, "t", &[7; 4096 - HEADER_BYTES - 1]).unwrap();
        assert_eq!(bytes.len(), 4096);
        assert!(matches!(parse(&bytes, &LIMITS), Ok(Parsed::Frame(frame)) if frame.frame_bytes == 4096));
        assert!(matches!(
            parse(&bytes, &FrameLimits { max_frame_bytes: 4095 }),
            Err(FrameRefusal::LengthTooLong { length: 4092 })
        ));
    }

    #[test]
    fn a_first_byte_other_than_zero_is_refused_alone() {
        for first_byte in 1..=u8::MAX {
            assert_eq!(refusal(&[first_byte]), FrameRefusal::UnknownProtocol { first_byte });
        }
        assert_eq!(refusal(b"GET / HTTP/1.1\r\n"), FrameRefusal::UnknownProtocol { first_byte: b'G' });
    }

    #[test]
    fn priorities_are_judged_at_the_fifth_byte() {
        for byte in 5..=u8::MAX {
            assert_eq!(refusal(&[0, 0, 0, 10, byte]), FrameRefusal::UnknownPriority { byte });
        }
    }

    #[test]
    fn topic_lengths_are_judged_at_the_seventh_byte() {
        assert_eq!(refusal(&header(10, 0, 0)), FrameRefusal::TopicEmpty);
        assert_eq!(refusal(&header(10, 0, 8)), FrameRefusal::TopicBeyondFrame { topic_bytes: 8, length: 10 });
        assert_eq!(refusal(&header(4000, 0, 1025)), FrameRefusal::TopicTooLong { topic_bytes: 1025 });
        assert_eq!(refusal(&header(10, 0, u16::MAX)), FrameRefusal::TopicTooLong { topic_bytes: 65_535 });
        assert_eq!(parse(&header(10, 0, 7), &LIMITS), Ok(Parsed::Incomplete { needed: 14 }));
    }

    #[test]
    fn topics_are_judged_before_their_body_comes() {
        for (topic, name) in [
            (b"a\0b", "topic_control"),
            (b"a\nb", "topic_control"),
            (b"a/+", "topic_wildcard"),
            (b"\xed\xa0\x80", "topic_not_utf8"),
        ] {
            let mut bytes = header(100, 2, 3);
            bytes.extend(&topic[..2]);
            assert_eq!(parse(&bytes, &LIMITS), Ok(Parsed::Incomplete { needed: 104 }));
            bytes.push(topic[2]);
            assert_eq!(refusal(&bytes).name(), name);
        }
    }

    #[test]
    fn an_empty_body_is_a_frame() {
        let bytes = b"\0\0\0\x04\x04\0\x01t";
        let topic = check_topic(b"t").unwrap();
        let frame = Frame { priority: Priority::Critical, topic, body: b"", payload: b"t", frame_bytes: 8 };
        assert_eq!(parse(bytes, &LIMITS), Ok(Parsed::Frame(frame)));
    }

    #[cfg(feature = "engine")]
    #[test]
    fn the_quick_way_finds_nothing_else() {
        let mut whole = Vec::new();
        encode_into(&mut whole, Priority::Medium, "sensors/temp", b"body").unwrap();
        let cut = |bytes: usize| whole[..bytes].to_vec();
        let changed = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            bytes
        };
        let mut cases: Vec<Vec<u8>> = (0..=whole.len()).map(cut).collect();
        cases.extend(
            (0..whole.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))).map(|(at, byte)| changed(at, byte)),
        );
        cases.push([whole.as_slice(), b"more"].concat());
        for bytes in cases {
            if let Some(frame) = whole_frame(&bytes, &LIMITS) {
                assert_eq!(parse(&bytes, &LIMITS), Ok(Parsed::Frame(frame)), "{bytes:02x?}");
            } else {
                let is_plain = matches!(parse(&bytes, &LIMITS), Ok(Parsed::Frame(frame)) if frame.topic.as_bytes().is_ascii());
                assert!(!is_plain, "{bytes:02x?}");
            }
        }
    }

    #[test]
    fn no_bytes_need_a_header() {
        assert_eq!(parse(b"", &LIMITS), Ok(Parsed::Incomplete { needed: HEADER_BYTES }));
    }
}
