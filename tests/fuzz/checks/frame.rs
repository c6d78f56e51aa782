//! What must hold for any bytes at all, shared by the fuzz target and the replay of its corpus.

use eventstream::wire::{FrameLimits, FrameRefusal, Parsed, datagram, encode_into, parse};

/// Small enough that inputs of a few kilobytes reach it from both sides.
const LIMITS: FrameLimits = FrameLimits { max_frame_bytes: 2048 };

/// Reads the bytes as a stream to its end, a refusal or a cut frame.
///
/// # Panics
/// If the codec breaks a promise.
pub fn check(data: &[u8]) {
    let mut offset = 0;
    let end = loop {
        match parse(&data[offset..], &LIMITS) {
            Ok(Parsed::Frame(frame)) => {
                let bytes = &data[offset..offset + frame.frame_bytes];
                let mut encoded = Vec::new();
                encode_into(&mut encoded, frame.priority, &frame.topic, frame.body).expect("a frame can be encoded");
                assert_eq!(encoded, bytes, "a frame has one encoding");
                assert_eq!([frame.topic.as_bytes(), frame.body].concat(), frame.payload);
                check_prefixes(bytes, None);
                offset += frame.frame_bytes;
            }
            Ok(Parsed::Incomplete { needed }) => {
                let rest = &data[offset..];
                assert!(needed > rest.len(), "says that it needs what it has");
                assert!(needed <= LIMITS.max_frame_bytes as usize, "needs more than the limit");
                break (!rest.is_empty()).then(|| FrameRefusal::CutShort { missing_bytes: (needed - rest.len()) as u32 });
            }
            Err(refusal) => {
                check_prefixes(&data[offset..], Some(refusal));
                break Some(refusal);
            }
        }
    };
    let last = datagram(data, &LIMITS).last();
    assert_eq!(last.and_then(Result::err), end, "a datagram ends as a stream does");
}

/// Every prefix is incomplete, or refused exactly as the whole is.
fn check_prefixes(bytes: &[u8], refusal: Option<FrameRefusal>) {
    for cut in 0..bytes.len() {
        match parse(&bytes[..cut], &LIMITS) {
            Ok(Parsed::Incomplete { needed }) => assert!(needed > cut),
            Ok(Parsed::Frame(frame)) => panic!("{frame:?} in a prefix of another frame"),
            Err(early) => assert_eq!(Some(early), refusal),
        }
    }
}
