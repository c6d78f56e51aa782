//! From frames to bytes.

use super::{FrameRefusal, HEADER_BYTES, LENGTH_BYTES, LENGTH_MAX, Priority, TOPIC_BYTES_MAX, check_topic};

/// Bytes of a frame with a topic and a body of these lengths (in bytes).
#[inline]
pub const fn encoded_len(topic_bytes: usize, body_bytes: usize) -> usize {
    HEADER_BYTES + topic_bytes + body_bytes
}

/// The header of a frame with a topic and a body of these lengths (in bytes).
///
/// # Errors
/// `TopicEmpty`, `TopicTooLong`, and `LengthTooLong` for what the format can't say. The topic's own bytes are not seen here.
pub fn encode_header(priority: Priority, topic_bytes: usize, body_bytes: usize) -> Result<[u8; HEADER_BYTES], FrameRefusal> {
    if topic_bytes == 0 {
        return Err(FrameRefusal::TopicEmpty);
    }
    let Some(topic_len) = u16::try_from(topic_bytes).ok().filter(|_| topic_bytes <= TOPIC_BYTES_MAX) else {
        return Err(FrameRefusal::TopicTooLong { topic_bytes: u32::try_from(topic_bytes).unwrap_or(u32::MAX) });
    };
    let length = (HEADER_BYTES - LENGTH_BYTES + topic_bytes).saturating_add(body_bytes);
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    if length > LENGTH_MAX {
        return Err(FrameRefusal::LengthTooLong { length });
    }
    let [l0, l1, l2, l3] = length.to_be_bytes();
    let [t0, t1] = topic_len.to_be_bytes();
    Ok([l0, l1, l2, l3, priority as u8, t0, t1])
}

/// Appends a frame. On a refusal nothing is appended.
///
/// ```
/// use eventstream::wire::{Priority, encode_into};
///
/// let mut bytes = Vec::new();
/// encode_into(&mut bytes, Priority::High, "sensors/temp", br#"{"val":23.5}"#).unwrap();
/// assert_eq!(bytes[..7], [0x00, 0x00, 0x00, 0x1b, 0x03, 0x00, 0x0c]);
/// ```
///
/// # Errors
/// What a receiver without limits of its own would refuse.
pub fn encode_into(out: &mut Vec<u8>, priority: Priority, topic: &str, body: &[u8]) -> Result<(), FrameRefusal> {
    let header = encode_header(priority, topic.len(), body.len())?;
    check_topic(topic.as_bytes())?;
    out.reserve(encoded_len(topic.len(), body.len()));
    out.extend_from_slice(&header);
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(body);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_format_cannot_say_is_refused_and_nothing_is_written() {
        let mut out = Vec::new();
        let body = vec![0; LENGTH_MAX as usize];
        let refused = [
            encode_into(&mut out, Priority::Low, "", b""),
            encode_into(&mut out, Priority::Low, &"t".repeat(1025), b""),
            encode_into(&mut out, Priority::Low, "a/#", b""),
            encode_into(&mut out, Priority::Low, "a\tb", b""),
            encode_into(&mut out, Priority::Low, "t", &body[..LENGTH_MAX as usize - 3]),
        ];
        let names = refused.map(|result| result.unwrap_err().name());
        assert_eq!(names, ["topic_empty", "topic_too_long", "topic_wildcard", "topic_control", "length_too_long"]);
        assert!(out.is_empty());
        encode_into(&mut out, Priority::Low, "t", &body[..LENGTH_MAX as usize - 4]).unwrap();
        assert_eq!(out[0], 0);
    }
}
