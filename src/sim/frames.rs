//! The sender's view of the wire: builds version-1 frames and walks over them, independently of the engine's codec.
//!
//! Each frame says in its body who sent it and the how-manyth it is, and all its other bytes follow from that; so whatever comes out of
//! the engine can be traced to what went in, and any byte that is not as sent is noticed.

use crate::wire::Priority;

/// Bytes of a frame before its topic.
pub const FRAME_HEADER_BYTES: usize = 7;

/// Bytes of a body that name the frame.
pub const KEY_BYTES: usize = 8;

/// Names a frame: which client sent it, and its place in that client's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameKey {
    /// The sending client.
    pub client: u32,
    /// Rises by one with each new frame of that client.
    pub sequence: u32,
}

/// A frame as its sender made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentFrame {
    /// Its name.
    pub key: FrameKey,
    /// Its priority.
    pub priority: Priority,
    /// Its topic.
    pub topic: String,
    /// Bytes of its body, at least [`KEY_BYTES`].
    pub body_bytes: usize,
}

impl SentFrame {
    /// The body that its name and length give.
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.body_bytes);
        body.extend_from_slice(&self.key.client.to_be_bytes());
        body.extend_from_slice(&self.key.sequence.to_be_bytes());
        let salt = self.key.client.wrapping_mul(31) ^ self.key.sequence.wrapping_mul(7);
        body.extend((KEY_BYTES..self.body_bytes).map(|place| (salt as usize + place) as u8 & 0x7f));
        body
    }

    /// Its bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let after_length = 3 + self.topic.len() + self.body_bytes;
        let mut frame = Vec::with_capacity(4 + after_length);
        frame.extend_from_slice(&(after_length as u32).to_be_bytes());
        frame.push(self.priority as u8);
        frame.extend_from_slice(&(self.topic.len() as u16).to_be_bytes());
        frame.extend_from_slice(self.topic.as_bytes());
        frame.extend_from_slice(&self.body());
        frame
    }
}

/// The name in a body; `None` if it is too short for one.
pub fn key_of(body: &[u8]) -> Option<FrameKey> {
    let word = |at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?));
    Some(FrameKey { client: word(0)?, sequence: word(4)? })
}

/// What the walk over a run of frames found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// The names and priorities of the whole, well-formed frames before the first that is not.
    pub frames: Vec<(FrameKey, Priority)>,
    /// Bytes that are left after them.
    pub rest: usize,
}

/// Walks over frames until one is cut or malformed.
pub fn walk(mut bytes: &[u8], max_frame_bytes: usize) -> Walk {
    let mut frames = Vec::new();
    while let Some((frame, used)) = first_frame(bytes, max_frame_bytes) {
        frames.push(frame);
        bytes = &bytes[used..];
    }
    Walk { frames, rest: bytes.len() }
}

fn first_frame(bytes: &[u8], max_frame_bytes: usize) -> Option<((FrameKey, Priority), usize)> {
    let after_length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let used = 4 + after_length;
    let topic_bytes = u16::from_be_bytes(bytes.get(5..7)?.try_into().ok()?) as usize;
    let fits = used <= max_frame_bytes && topic_bytes > 0 && 3 + topic_bytes <= after_length;
    let frame = bytes.get(..used).filter(|_| fits)?;
    let priority = Priority::from_byte(frame[4])?;
    let topic = std::str::from_utf8(&frame[FRAME_HEADER_BYTES..][..topic_bytes]).ok()?;
    if topic.chars().any(|c| c.is_control() || c == '+' || c == '#') {
        return None;
    }
    let key = key_of(&frame[FRAME_HEADER_BYTES + topic_bytes..])?;
    Some(((key, priority), used))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sequence: u32) -> SentFrame {
        let key = FrameKey { client: 3, sequence };
        SentFrame { key, priority: Priority::High, topic: "a/b".into(), body_bytes: 20 }
    }

    #[test]
    fn a_walk_finds_what_was_encoded_and_stops_at_the_cut() {
        let mut bytes: Vec<u8> = (0..3).flat_map(|n| frame(n).encode()).collect();
        bytes.pop();
        let walk = walk(&bytes, 1024);
        let keys: Vec<u32> = walk.frames.iter().map(|(key, _)| key.sequence).collect();
        assert_eq!(keys, [0, 1]);
        assert_eq!(walk.rest, frame(2).encode().len() - 1);
    }

    #[test]
    fn the_engine_s_codec_reads_what_was_encoded() {
        let bytes = frame(7).encode();
        let limits = crate::wire::FrameLimits { max_frame_bytes: 1024 };
        let Ok(crate::wire::Parsed::Frame(parsed)) = crate::wire::parse(&bytes, &limits) else { panic!("not a frame") };
        assert_eq!((parsed.priority, parsed.topic.as_str(), parsed.body), (Priority::High, "a/b", frame(7).body().as_slice()));
        assert_eq!(parsed.frame_bytes, bytes.len());
    }

    #[test]
    fn a_frame_beyond_the_limit_ends_the_walk() {
        let bytes = frame(0).encode();
        assert_eq!(walk(&bytes, bytes.len()).frames.len(), 1);
        assert_eq!(walk(&bytes, bytes.len() - 1).frames.len(), 0);
    }
}
