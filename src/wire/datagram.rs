//! The frames of a datagram.

use super::{Frame, FrameLimits, FrameRefusal, Parsed, parse};

/// The whole frames of a datagram, in order. A frame that is cut short or wrong is the last thing it gives; an empty datagram
/// gives nothing.
pub fn datagram<'a>(bytes: &'a [u8], limits: &FrameLimits) -> Datagram<'a> {
    Datagram { rest: bytes, limits: *limits }
}

/// See [`datagram`].
#[derive(Clone, Debug)]
pub struct Datagram<'a> {
    rest: &'a [u8],
    limits: FrameLimits,
}

impl<'a> Iterator for Datagram<'a> {
    type Item = Result<Frame<'a>, FrameRefusal>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let refusal = match parse(self.rest, &self.limits) {
            Ok(Parsed::Frame(frame)) => {
                self.rest = &self.rest[frame.frame_bytes..];
                return Some(Ok(frame));
            }
            // Below 2^25: `needed` is at most a frame.
            Ok(Parsed::Incomplete { needed }) => FrameRefusal::CutShort { missing_bytes: (needed - self.rest.len()) as u32 },
            Err(refusal) => refusal,
        };
        self.rest = &[];
        Some(Err(refusal))
    }
}

impl std::iter::FusedIterator for Datagram<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Priority, encode_into};

    const LIMITS: FrameLimits = FrameLimits { max_frame_bytes: 4096 };

    fn two_frames() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_into(&mut bytes, Priority::High, "a", b"first").unwrap();
        encode_into(&mut bytes, Priority::Low, "b", b"second").unwrap();
        bytes
    }

    #[test]
    fn whole_frames_come_and_a_cut_one_is_refused_at_every_cut() {
        let bytes = two_frames();
        let first_bytes = 7 + 1 + 5;
        for cut in 0..=bytes.len() {
            let items: Vec<_> = datagram(&bytes[..cut], &LIMITS).collect();
            let frames = items.iter().filter(|item| item.is_ok()).count();
            assert_eq!(frames, usize::from(cut >= first_bytes) + usize::from(cut == bytes.len()));
            let cut_short = ![0, first_bytes, bytes.len()].contains(&cut);
            assert_eq!(items.len() - frames, usize::from(cut_short));
            if let Some(Err(refusal)) = items.last() {
                assert!(matches!(refusal, FrameRefusal::CutShort { missing_bytes: 1.. }), "{refusal:?}");
            }
        }
    }

    #[test]
    fn nothing_follows_a_refused_frame() {
        let mut bytes = two_frames();
        bytes[4] = 9;
        let mut frames = datagram(&bytes, &LIMITS);
        assert_eq!(frames.next(), Some(Err(FrameRefusal::UnknownPriority { byte: 9 })));
        assert_eq!(frames.next(), None);
    }
}
