//! PROTOCOL.md: its byte examples run through the codec, and its tables say what the code says.

use std::collections::BTreeMap;

use eventstream::metrics::ledger::DropReason;
use eventstream::wire::ProducerId;
use eventstream::wire::session::{
    Ack, AckLevel, ClientMessage, Fault, Held, Hello, Mark, Refused, ServerMessage, SessionFault, Step, Welcome, parse_client,
    parse_server,
};
use eventstream::wire::{FrameLimits, Priority, encode_into};

const DOCUMENT: &str = include_str!("../PROTOCOL.md");

/// The examples by the name behind "```hex".
fn examples() -> BTreeMap<&'static str, Vec<u8>> {
    let mut examples = BTreeMap::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```hex ") else { continue };
        let digits: String =
            lines.by_ref().take_while(|line| *line != "```").flat_map(str::chars).filter(|c| *c != ' ').collect();
        let byte = |place: usize| u8::from_str_radix(&digits[place..place + 2], 16).expect("hexadecimal digits");
        let bytes = (0..digits.len()).step_by(2).map(byte).collect();
        assert!(examples.insert(name, bytes).is_none(), "two examples are named {name}");
    }
    examples
}

fn hello() -> Hello<'static> {
    let producer = ProducerId::from_bytes(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210_u128.to_be_bytes()).expect("not zero");
    Hello { level: AckLevel::Written, producer, lowest_unacked: 1, token: b"open sesame" }
}

fn welcome() -> Welcome<'static> {
    Welcome {
        level: AckLevel::Written,
        overload: 0,
        frame_bytes_max: 1 << 20,
        window: 4096,
        credits: [8192, 32_768, 32_768],
        acked: 2,
        highest: 4,
        held: Held::new(&[0b1011]).expect("one byte"),
    }
}

/// What the document says that its examples are, encoded.
fn expected() -> BTreeMap<&'static str, Vec<u8>> {
    let mut out = vec![0; 4096];
    let mut encoded = |encode: &dyn Fn(&mut [u8]) -> usize| {
        let bytes = encode(&mut out);
        out[..bytes].to_vec()
    };
    let superseded = Fault { code: SessionFault::Superseded.code(), text: SessionFault::Superseded.text() };
    let mut frame = Vec::new();
    encode_into(&mut frame, Priority::High, "sensors/temp", br#"{"val":23.5}"#).expect("a frame");
    BTreeMap::from([
        ("frame", frame),
        ("hello", encoded(&|out| hello().encode(out))),
        ("mark", Mark { next_sequence: 7, time_ns: 0x18a5_c1f2_d3e4_0000 }.encode().to_vec()),
        ("bye", ClientMessage::BYE.to_vec()),
        ("ping", ClientMessage::PING.to_vec()),
        ("welcome", encoded(&|out| welcome().encode(out))),
        ("ack", Ack { acked: 7, credits: [8191, 32_768, 32_752], overload: 1 }.encode().to_vec()),
        ("refused", Refused { first: 3, count: 3, reason: DropReason::EmergencyDrop.code() }.encode().to_vec()),
        ("level", ServerMessage::level(3).to_vec()),
        ("error", encoded(&|out| superseded.encode(out))),
    ])
}

#[test]
fn every_example_is_what_the_codec_writes() {
    assert_eq!(examples(), expected());
}

#[test]
fn every_example_is_parsed_as_one_message_of_its_direction() {
    for (name, bytes) in examples() {
        let limits = FrameLimits::default();
        let (client, server) = (parse_client(&bytes, &limits), parse_server(&bytes));
        let whole = match (client, server) {
            (Ok(Step::Whole { bytes, .. }), Err(_)) | (Err(_), Ok(Step::Whole { bytes, .. })) => bytes,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(whole, bytes.len(), "{name}");
    }
    let (bytes, limits) = (examples()["hello"].clone(), FrameLimits::default());
    let step = Step::Whole { message: ClientMessage::Hello(hello()), bytes: bytes.len() };
    assert_eq!(parse_client(&bytes, &limits), Ok(step));
    let bytes = examples()["welcome"].clone();
    assert_eq!(parse_server(&bytes), Ok(Step::Whole { message: ServerMessage::Welcome(welcome()), bytes: bytes.len() }));
    assert_eq!([0, 1, 2, 3, 4].map(|k| welcome().held.has(k)), [true, true, false, true, false]);
}

/// The rows "| number | `name`" of the document's tables, as they stand.
fn table_rows() -> Vec<(u16, &'static str)> {
    let row = |line: &'static str| {
        let (number, rest) = line.strip_prefix("| ")?.split_once(" | `")?;
        Some((number.parse().ok()?, rest.split_once('`')?.0))
    };
    DOCUMENT.lines().filter_map(row).collect()
}

#[test]
fn every_reason_and_every_fault_stands_in_its_table() {
    let reasons = DropReason::ALL.map(|reason| (u16::from(reason.code()), reason.name()));
    let faults = SessionFault::ALL.map(|fault| (fault.code(), fault.name()));
    assert_eq!(table_rows(), [&reasons[..], &faults[..]].concat());
}
