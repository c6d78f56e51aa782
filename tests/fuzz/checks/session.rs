//! What must hold for any bytes at all, read as a session's stream in either direction; shared by the fuzz target and the replay of its corpus.

use eventstream::wire::session::{
    ClientMessage, HELLO_BYTES_MAX, ServerMessage, SessionFault, Step, WELCOME_BYTES_MAX, parse_client, parse_server,
};
use eventstream::wire::{FrameLimits, encode_into};

/// Small enough that inputs of a few kilobytes reach it from both sides.
const LIMITS: FrameLimits = FrameLimits { max_frame_bytes: 2048 };

/// Reads the bytes as a stream of either direction, to its end, a refusal or a cut message.
///
/// # Panics
/// If the codec breaks a promise.
pub fn check(data: &[u8]) {
    let needed_max = HELLO_BYTES_MAX.max(LIMITS.max_frame_bytes as usize);
    read(data, needed_max, |bytes| parse_client(bytes, &LIMITS), encode_client);
    read(data, WELCOME_BYTES_MAX, parse_server, encode_server);
}

fn read<'a, M: std::fmt::Debug, E: std::fmt::Debug + PartialEq>(
    data: &'a [u8],
    needed_max: usize,
    parse: impl Fn(&'a [u8]) -> Result<Step<M>, E>,
    encode: impl Fn(&M, &mut Vec<u8>),
) {
    let mut rest = data;
    loop {
        match parse(rest) {
            Ok(Step::Whole { message, bytes }) => {
                let mut encoded = Vec::new();
                encode(&message, &mut encoded);
                assert_eq!(encoded, rest[..bytes], "a message has one encoding: {message:?}");
                check_prefixes(&rest[..bytes], None, &parse);
                rest = &rest[bytes..];
            }
            Ok(Step::Incomplete { needed }) => {
                assert!(needed > rest.len(), "says that it needs what it has");
                return assert!(needed <= needed_max, "needs more than the longest message");
            }
            Err(refusal) => return check_prefixes(rest, Some(&refusal), &parse),
        }
    }
}

/// Every prefix is incomplete, or refused exactly as the whole is.
fn check_prefixes<'a, M: std::fmt::Debug, E: std::fmt::Debug + PartialEq>(
    bytes: &'a [u8],
    refusal: Option<&E>,
    parse: &impl Fn(&'a [u8]) -> Result<Step<M>, E>,
) {
    for cut in 0..bytes.len() {
        match parse(&bytes[..cut]) {
            Ok(Step::Incomplete { needed }) => assert!(needed > cut),
            Ok(Step::Whole { message, .. }) => panic!("{message:?} in a prefix of another message"),
            Err(early) => assert_eq!(Some(&early), refusal),
        }
    }
}

fn encode_client(message: &ClientMessage<'_>, out: &mut Vec<u8>) {
    let mut hello_bytes = [0; HELLO_BYTES_MAX];
    match message {
        ClientMessage::Frame(frame) => {
            encode_into(out, frame.priority, &frame.topic, frame.body).expect("a frame can be encoded");
        }
        ClientMessage::Hello(hello) => {
            let len = hello.encode(&mut hello_bytes);
            out.extend(&hello_bytes[..len]);
        }
        ClientMessage::Mark(mark) => out.extend(mark.encode()),
        ClientMessage::Bye => out.extend(ClientMessage::BYE),
        ClientMessage::Ping => out.extend(ClientMessage::PING),
    }
}

fn encode_server(message: &ServerMessage<'_>, out: &mut Vec<u8>) {
    let mut bytes = [0; WELCOME_BYTES_MAX];
    match message {
        ServerMessage::Welcome(welcome) => {
            let len = welcome.encode(&mut bytes);
            out.extend(&bytes[..len]);
        }
        ServerMessage::Error(fault) => {
            assert_eq!(SessionFault::name_of(fault.code).is_some(), (1..=20).contains(&fault.code));
            let len = fault.encode(&mut bytes);
            out.extend(&bytes[..len]);
        }
        ServerMessage::Ack(ack) => out.extend(ack.encode()),
        ServerMessage::Refused(refused) => out.extend(refused.encode()),
        ServerMessage::Level(level) => out.extend(ServerMessage::level(*level)),
    }
}
