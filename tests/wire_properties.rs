//! The codec's promises over generated streams, cuts and noise.

use eventstream::wire::ProducerId;
use eventstream::wire::session::{Ack, AckLevel, Fault, HELLO_BYTES_MAX, Held, Hello, Mark, Refused, WELCOME_BYTES_MAX, Welcome};
use eventstream::wire::{FrameLimits, FrameRefusal, Parsed, Priority, encode_into, encoded_len, parse, parse_header};
use proptest::collection::vec;
use proptest::prelude::*;

#[path = "fuzz/checks/frame.rs"]
mod frame;
#[path = "fuzz/checks/session.rs"]
mod session;

const LIMITS: FrameLimits = FrameLimits { max_frame_bytes: 4096 };

/// A frame, owned.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    priority: Priority,
    topic: String,
    body: Vec<u8>,
}

fn sent() -> impl Strategy<Value = Sent> {
    let topic = "[a-zA-Z0-9_./ äß温🚲-]{1,40}";
    (0..5_usize, topic, vec(any::<u8>(), 0..300)).prop_map(|(index, topic, body)| Sent {
        priority: Priority::ALL[index],
        topic,
        body,
    })
}

fn encode(frames: &[Sent]) -> Vec<u8> {
    let mut stream = Vec::new();
    for frame in frames {
        encode_into(&mut stream, frame.priority, &frame.topic, &frame.body).expect("valid");
    }
    stream
}

/// The least a receiver can do: keep what is not yet a frame, look again when more comes.
#[derive(Default)]
struct Reassembler {
    held: Vec<u8>,
    frames: Vec<Sent>,
    refusal: Option<FrameRefusal>,
}

impl Reassembler {
    fn receive(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
        let mut taken = 0;
        while self.refusal.is_none() {
            match parse(&self.held[taken..], &LIMITS) {
                Ok(Parsed::Frame(frame)) => {
                    taken += frame.frame_bytes;
                    self.frames.push(Sent {
                        priority: frame.priority,
                        topic: frame.topic.as_str().to_owned(),
                        body: frame.body.to_vec(),
                    });
                }
                Ok(Parsed::Incomplete { needed }) => {
                    assert!(needed > self.held.len() - taken);
                    break;
                }
                Err(refusal) => self.refusal = Some(refusal),
            }
        }
        self.held.drain(..taken);
    }

    fn of(stream: &[u8], mut pieces: impl Iterator<Item = usize>) -> Reassembler {
        let mut reassembler = Reassembler::default();
        let mut rest = stream;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(pieces.next().unwrap_or(usize::MAX).clamp(1, rest.len()));
            reassembler.receive(piece);
            rest = after;
        }
        reassembler
    }
}

#[test]
fn a_stream_in_single_bytes_is_the_stream() {
    let frames: Vec<_> = (0..5_usize)
        .map(|index| Sent { priority: Priority::ALL[index], topic: format!("t/{index}"), body: vec![index as u8; index * 7] })
        .collect();
    assert_eq!(Reassembler::of(&encode(&frames), std::iter::repeat(1)).frames, frames);
}

#[test]
fn a_stream_cut_in_two_at_every_byte_is_the_stream() {
    let body = br#"{"val":23.5}"#.to_vec();
    let frames = vec![Sent { priority: Priority::High, topic: "sensors/temp".into(), body }; 3];
    let stream = encode(&frames);
    for cut in 1..stream.len() {
        assert_eq!(Reassembler::of(&stream, std::iter::once(cut)).frames, frames, "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_parsed_back(frame in sent()) {
        let bytes = encode(std::slice::from_ref(&frame));
        prop_assert_eq!(bytes.len(), encoded_len(frame.topic.len(), frame.body.len()));
        let header = parse_header(&bytes, &LIMITS).unwrap().unwrap();
        prop_assert_eq!(header.body_bytes(), frame.body.len());
        prop_assert_eq!(header.frame_bytes(), bytes.len());
        prop_assert_eq!(Reassembler::of(&bytes, std::iter::empty()).frames, vec![frame]);
    }

    #[test]
    fn any_cut_of_any_stream_gives_the_same_frames(frames in vec(sent(), 0..12), pieces in vec(1..200_usize, 0..60)) {
        let received = Reassembler::of(&encode(&frames), pieces.into_iter());
        prop_assert_eq!(received.refusal, None);
        prop_assert_eq!(received.frames, frames);
        prop_assert!(received.held.is_empty());
    }

    #[test]
    fn any_cut_of_a_damaged_stream_ends_the_same_way(
        frames in vec(sent(), 1..6),
        damage in any::<prop::sample::Index>(),
        bits in 1..=u8::MAX,
        pieces in vec(1..80_usize, 0..60),
    ) {
        let mut stream = encode(&frames);
        let place = damage.index(stream.len());
        stream[place] ^= bits;
        let whole = Reassembler::of(&stream, std::iter::empty());
        let cut = Reassembler::of(&stream, pieces.into_iter());
        prop_assert_eq!(cut.frames, whole.frames);
        prop_assert_eq!(cut.refusal, whole.refusal);
    }

    #[test]
    fn arbitrary_bytes_break_no_promise(data in vec(any::<u8>(), 0..200)) {
        frame::check(&data);
    }

    #[test]
    fn arbitrary_fields_break_no_promise(
        length in prop_oneof![0..64_u32, Just(2044), Just(2045), any::<u32>()],
        priority in 0..7_u8,
        topic_bytes in prop_oneof![0..40_u16, any::<u16>()],
        payload in vec(prop_oneof![Just(b'a'), Just(b'/'), any::<u8>()], 0..64),
    ) {
        let mut data = length.to_be_bytes().to_vec();
        data.push(priority);
        data.extend(topic_bytes.to_be_bytes());
        data.extend(payload);
        frame::check(&data);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_break_no_promise_of_sessions(kind in 0xdf..=0xff_u8, data in vec(any::<u8>(), 0..120)) {
        session::check(&[&[kind][..], &data].concat());
    }

    #[test]
    fn a_damaged_session_breaks_no_promise(
        marks in vec((1..=u64::MAX, any::<u64>()), 0..4),
        frames in vec(sent(), 0..4),
        token in vec(any::<u8>(), 0..=256),
        damage in any::<prop::sample::Index>(),
        bits in 0..=u8::MAX,
    ) {
        let producer = ProducerId::from_bytes([7; 16]).expect("not zero");
        let mut stream = vec![0; HELLO_BYTES_MAX];
        let hello = Hello { level: AckLevel::Durable, producer, lowest_unacked: 9, token: &token };
        let bytes = hello.encode(&mut stream);
        stream.truncate(bytes);
        for (next_sequence, time_ns) in marks {
            stream.extend(Mark { next_sequence, time_ns }.encode());
            stream.extend(encode(&frames));
        }
        let place = damage.index(stream.len());
        stream[place] ^= bits;
        session::check(&stream);
    }

    #[test]
    fn damaged_answers_break_no_promise(
        acked in any::<u64>(),
        held in vec(any::<u8>(), 0..80),
        refusals in vec((1..=u64::MAX, 1..=u32::MAX, any::<u8>()), 0..4),
        code in any::<u16>(),
        text in "[a-zäß温🚲 ]{0,60}",
        damage in any::<prop::sample::Index>(),
        bits in 0..=u8::MAX,
    ) {
        let (mut stream, mut out) = (Vec::new(), [0; WELCOME_BYTES_MAX]);
        let (held, credits) = (Held::new(&held).expect("short"), [1, 2, u32::MAX]);
        let level = AckLevel::Accepted;
        let welcome = Welcome { level, overload: 4, frame_bytes_max: 9, window: 1, credits, acked, highest: acked, held };
        let bytes = welcome.encode(&mut out);
        stream.extend(&out[..bytes]);
        for (first, count, reason) in refusals {
            stream.extend(Refused { first, count, reason }.encode());
            stream.extend(Ack { acked, credits, overload: 2 }.encode());
        }
        let bytes = Fault { code, text: &text }.encode(&mut out);
        stream.extend(&out[..bytes]);
        let place = damage.index(stream.len());
        stream[place] ^= bits;
        session::check(&stream);
    }
}
