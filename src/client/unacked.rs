//! The frames that have no outcome yet, in a ring of bytes that never grows.

use std::collections::VecDeque;
use std::time::Instant;

use crate::wire::{FrameRefusal, Priority, Tier, check_topic, encode_header, encoded_len};

/// What is known of a frame beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unacked {
    /// When the caller gave it.
    pub given: Instant,
    /// The tier of its priority, whose credits it takes.
    pub tier: Tier,
    /// The server said that it has it: it needs no sending.
    pub held: bool,
    /// It was written to some connection, so that its ack is an answer.
    pub written: bool,
    /// The server said that it does not take it.
    pub refused: bool,
    /// Where its bytes begin, counted from the first byte ever put in.
    at: u64,
    frame_bytes: u32,
}

/// Why a frame is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It is no frame.
    Refused(FrameRefusal),
    /// It has more bytes than the whole ring.
    LongerThanRing {
        /// The bytes of the ring.
        most: usize,
    },
    /// There is no room now.
    Full,
}

/// Frames of consecutive sequences, the oldest first.
#[derive(Debug)]
pub(super) struct UnackedFrames {
    bytes: Box<[u8]>,
    frames: VecDeque<Unacked>,
    frames_max: usize,
    /// The sequence of the oldest, or of the next one while there is none.
    first: u64,
    /// Where the next frame's bytes begin, counted as in [`Unacked::at`].
    end: u64,
}

impl UnackedFrames {
    /// Room for so many frames and bytes; `first` is the sequence of the next frame.
    pub fn new(bytes_max: usize, frames_max: usize, first: u64) -> UnackedFrames {
        let bytes = vec![0; bytes_max].into_boxed_slice();
        UnackedFrames { bytes, frames: VecDeque::with_capacity(frames_max), frames_max, first, end: 0 }
    }

    /// The lowest sequence without an outcome: of the oldest frame, or of the next one.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The sequence that the next frame gets.
    pub fn next(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Unacked> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.frames.get_mut(index)
    }

    pub fn get(&self, sequence: u64) -> Option<&Unacked> {
        let index = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        self.frames.get(index)
    }

    /// Shows each with its sequence.
    pub fn each_mut(&mut self, mut see: impl FnMut(u64, &mut Unacked)) {
        (self.first..).zip(&mut self.frames).for_each(|(sequence, frame)| see(sequence, frame));
    }

    /// Puts a frame in, and says its sequence.
    pub fn push(&mut self, priority: Priority, topic: &str, body: &[u8], given: Instant) -> Result<u64, NotTaken> {
        let header = encode_header(priority, topic.len(), body.len()).map_err(NotTaken::Refused)?;
        check_topic(topic.as_bytes()).map_err(NotTaken::Refused)?;
        let frame_bytes = encoded_len(topic.len(), body.len());
        if frame_bytes > self.bytes.len() {
            return Err(NotTaken::LongerThanRing { most: self.bytes.len() });
        }
        let used = self.frames.front().map_or(0, |oldest| self.end - oldest.at) as usize;
        if self.frames.len() == self.frames_max || self.bytes.len() - used < frame_bytes {
            return Err(NotTaken::Full);
        }
        let at = self.end;
        for part in [&header[..], topic.as_bytes(), body] {
            self.copy_in(part);
        }
        let sequence = self.next();
        // A frame is below 2^25 bytes.
        let frame_bytes = frame_bytes as u32;
        let tier = priority.tier();
        self.frames.push_back(Unacked { given, tier, held: false, written: false, refused: false, at, frame_bytes });
        self.check();
        Ok(sequence)
    }

    fn copy_in(&mut self, part: &[u8]) {
        let start = self.place(self.end);
        let (before, after) = part.split_at(part.len().min(self.bytes.len() - start));
        self.bytes[start..start + before.len()].copy_from_slice(before);
        self.bytes[..after.len()].copy_from_slice(after);
        self.end += part.len() as u64;
    }

    /// Appends the bytes of a frame that [`UnackedFrames::get`] gave.
    pub fn copy_out(&self, frame: &Unacked, out: &mut Vec<u8>) {
        let start = self.place(frame.at);
        let frame_bytes = frame.frame_bytes as usize;
        let before = frame_bytes.min(self.bytes.len() - start);
        out.extend_from_slice(&self.bytes[start..start + before]);
        out.extend_from_slice(&self.bytes[..frame_bytes - before]);
    }

    /// Takes the oldest out.
    pub fn pop(&mut self) -> Option<Unacked> {
        let oldest = self.frames.pop_front()?;
        self.first += 1;
        Some(oldest)
    }

    fn place(&self, at: u64) -> usize {
        (at % self.bytes.len() as u64) as usize
    }

    fn check(&self) {
        debug_assert!(self.frames.len() <= self.frames_max);
        debug_assert!(self.frames.front().is_none_or(|oldest| self.end - oldest.at <= self.bytes.len() as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FrameLimits, Parsed, parse};

    fn body_of(frames: &UnackedFrames, sequence: u64) -> Vec<u8> {
        let mut out = Vec::new();
        frames.copy_out(frames.get(sequence).expect("unacked"), &mut out);
        match parse(&out, &FrameLimits::FORMAT) {
            Ok(Parsed::Frame(frame)) if frame.frame_bytes == out.len() => frame.body.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn frames_come_out_as_they_went_in_wherever_the_ring_wraps() {
        let now = Instant::now();
        for ring_bytes in 40..80 {
            let mut frames = UnackedFrames::new(ring_bytes, 3, 1);
            for round in 0..200_u64 {
                let body = vec![round as u8; (round % 9) as usize];
                while frames.push(Priority::Low, "t", &body, now) == Err(NotTaken::Full) {
                    let oldest = frames.first();
                    assert_eq!(body_of(&frames, oldest).len() as u64, (oldest - 1) % 9);
                    frames.pop().expect("full of something");
                }
                assert_eq!(frames.next(), round + 2);
                assert_eq!(body_of(&frames, round + 1), body);
            }
        }
    }

    #[test]
    fn what_can_never_fit_is_told_from_what_does_not_fit_now() {
        let now = Instant::now();
        let mut frames = UnackedFrames::new(20, 8, 5);
        assert_eq!(frames.push(Priority::Low, "t", &[0; 13], now), Err(NotTaken::LongerThanRing { most: 20 }));
        assert_eq!(frames.push(Priority::Low, "a/#", b"", now).map_err(|e| matches!(e, NotTaken::Refused(_))), Err(true));
        assert_eq!(frames.push(Priority::Low, "t", &[0; 12], now), Ok(5));
        assert_eq!(frames.push(Priority::Low, "t", b"", now), Err(NotTaken::Full));
        assert!(frames.pop().is_some() && frames.is_empty());
        assert_eq!((frames.first(), frames.next()), (6, 6));
    }
}
