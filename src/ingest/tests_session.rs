//! What holds of sessions, over a kernel that the test plays.

use std::sync::Arc;

use super::test_support::*;
use super::{CloseReason, Inbox, SessionCounters, SessionOptions, SessionToken, SessionWiring};
use crate::control::Level;
use crate::metrics::ledger::DropReason;
use crate::pool::{Outcome, ProducerStamp, Returns, Source};
use crate::storage::producers::ProducerTable;
use crate::storage::status::{StoreOperation, StoreState, StoreStatus};
use crate::sys::clock::Nanos;
use crate::sys::io::{Errno, Fd};
use crate::wire::session::{
    Ack, AckLevel, ClientMessage, HELLO_BYTES_MAX, Hello, Mark, Refused, ServerMessage, SessionFault, Step, parse_server,
};
use crate::wire::{Priority, ProducerId, Tier};

const WINDOW: u64 = 64;

/// An answer, owned.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Welcome { level: AckLevel, acked: u64, highest: u64, held: Vec<u64> },
    Ack(u64),
    Refused(Refused),
    Level(u8),
    Error(SessionFault),
}

/// A rig with what its sessions are wired to.
struct Server {
    rig: Rig,
    store: Arc<StoreStatus>,
    told: Arc<SessionCounters>,
}

impl Server {
    fn with(change: impl FnOnce(&mut RigOptions)) -> Self {
        let (store, told) = (Arc::new(StoreStatus::default()), Arc::new(SessionCounters::default()));
        let session_wiring = SessionWiring { store: Some(store.clone()), counters: told.clone(), ..SessionWiring::alone() };
        let mut options = RigOptions { session_wiring, ..RigOptions::default() };
        change(&mut options);
        let mut rig = Rig::new(options);
        rig.outcome = Outcome::Stored { log_sequence: 0 };
        Self { rig, store, told }
    }

    fn new() -> Self {
        Self::with(|_| {})
    }

    fn hello(&mut self, producer: u8, level: AckLevel, lowest_unacked: u64) -> Fd {
        let fd = self.rig.connect();
        self.rig.send(fd, &hello(producer, level, lowest_unacked, b""));
        self.rig.settle();
        fd
    }

    fn send(&mut self, fd: Fd, bytes: &[u8]) {
        self.rig.send(fd, bytes);
        self.rig.settle();
    }

    /// Frames of MEDIUM, each with its number as its body.
    fn send_frames(&mut self, fd: Fd, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            self.rig.send(fd, &frame(Priority::Medium, number.to_string().as_bytes()));
        }
        self.rig.settle();
    }

    /// Plays the processor, and the appender with a written log.
    fn store(&mut self) -> Vec<String> {
        let taken = self.rig.bodies(Tier::Transactional);
        if let Outcome::Stored { log_sequence } = self.rig.outcome {
            self.store.set_written(log_sequence, 0, 0);
        }
        self.rig.settle();
        taken.into_iter().map(|body| String::from_utf8(body).expect("a number")).collect()
    }

    /// What has been sent to a client since the last look.
    fn told(&mut self, fd: Fd) -> Vec<Told> {
        let bytes = self.rig.ring.sent.remove(&fd.0).unwrap_or_default();
        let (mut rest, mut told) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            let Ok(Step::Whole { message, bytes }) = parse_server(rest) else { panic!("{rest:02x?}") };
            rest = &rest[bytes..];
            told.push(match message {
                ServerMessage::Welcome(welcome) => Told::Welcome {
                    level: welcome.level,
                    acked: welcome.acked,
                    highest: welcome.highest,
                    held: (0..WINDOW).filter(|k| welcome.held.has(*k)).collect(),
                },
                ServerMessage::Ack(Ack { acked, .. }) => Told::Ack(acked),
                ServerMessage::Refused(refused) => Told::Refused(refused),
                ServerMessage::Level(level) => Told::Level(level),
                ServerMessage::Error(fault) => {
                    let of_code = |other: &SessionFault| other.code() == fault.code;
                    Told::Error(SessionFault::ALL.into_iter().find(of_code).expect("a code of ours"))
                }
            });
        }
        told
    }

    fn fault(&self, fault: SessionFault) -> u64 {
        self.told.faults[fault.index()].get()
    }
}

fn producer(byte: u8) -> ProducerId {
    ProducerId::from_bytes([byte; 16]).expect("not zero")
}

fn hello(byte: u8, level: AckLevel, lowest_unacked: u64, token: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HELLO_BYTES_MAX];
    let len = Hello { level, producer: producer(byte), lowest_unacked, token }.encode(&mut bytes);
    bytes.truncate(len);
    bytes
}

fn welcome(level: AckLevel, acked: u64, highest: u64, held: &[u64]) -> Told {
    Told::Welcome { level, acked, highest, held: held.to_vec() }
}

fn mark(next_sequence: u64) -> [u8; 17] {
    Mark { next_sequence, time_ns: 0 }.encode()
}

#[test]
fn events_are_numbered_and_acknowledged_at_each_level_when_they_are_that_far() {
    for level in AckLevel::ALL {
        let mut server = Server::new();
        let client = server.hello(1, level, 1);
        assert_eq!(server.told(client), [welcome(level, 0, 0, &[])]);
        server.send_frames(client, 1..=3);
        let accepted = if level == AckLevel::Accepted { vec![Told::Ack(3)] } else { vec![] };
        assert_eq!(server.told(client).last(), accepted.last(), "{level:?}");
        let taken = server.rig.take(Tier::Transactional);
        for (taken, sequence) in taken.iter().zip(1..) {
            assert_eq!(taken.header.producer(), Some(ProducerStamp { producer: producer(1), sequence }));
            assert_eq!(taken.header.source, Source::Tcp);
        }
        server.rig.settle();
        assert_eq!(server.told(client), []);
        server.store.set_written(3, 0, 0);
        server.rig.settle();
        assert_eq!(server.told(client), if level == AckLevel::Written { vec![Told::Ack(3)] } else { vec![] });
        server.store.set_durable(3);
        server.rig.settle();
        assert_eq!(server.told(client), if level == AckLevel::Durable { vec![Told::Ack(3)] } else { vec![] });
        server.rig.drain();
        assert_eq!(server.told(client), [Told::Error(SessionFault::Stopping)]);
    }
}

#[test]
fn a_session_cut_at_every_byte_is_the_session() {
    let frames: Vec<u8> = (2..=4).flat_map(|n: u64| frame(Priority::Medium, n.to_string().as_bytes())).collect();
    let stream = [&mark(2)[..], &frames, &ClientMessage::PING, &mark(1), &frame(Priority::Medium, b"1")].concat();
    for cut in 0..=stream.len() {
        let mut server = Server::new();
        let client = server.hello(1, AckLevel::Written, 1);
        server.rig.send(client, &stream[..cut]);
        server.rig.send(client, &stream[cut..]);
        server.rig.settle();
        assert_eq!(server.store(), ["2", "3", "4", "1"], "cut at {cut}");
        assert_eq!(server.told(client).last(), Some(&Told::Ack(4)), "cut at {cut}");
        server.rig.drain();
    }
}

#[test]
fn a_hello_in_single_bytes_is_welcomed() {
    let mut server = Server::new();
    let client = server.rig.connect();
    for byte in hello(9, AckLevel::Durable, 5, b"whatever") {
        server.rig.send(client, &[byte]);
    }
    server.rig.settle();
    assert_eq!(server.told(client), [welcome(AckLevel::Durable, 4, 4, &[])]);
    server.rig.drain();
}

#[test]
fn what_comes_again_is_no_second_event_and_counts_as_a_duplicate() {
    let mut server = Server::new();
    let client = server.hello(1, AckLevel::Written, 1);
    server.send_frames(client, 1..=3);
    server.send(client, &mark(2));
    server.send_frames(client, 2..=4);
    assert_eq!(server.store(), ["1", "2", "3", "4"]);
    assert_eq!((server.rig.terms().received, server.rig.terms().duplicate), (6, 2));
    assert_eq!(server.told.duplicates.get(), 2);
    assert_eq!(server.told(client).last(), Some(&Told::Ack(4)));
    server.rig.drain();
}

#[test]
fn a_client_that_reconnects_is_told_what_is_held_and_later_its_outcome() {
    let mut server = Server::new();
    let first = server.hello(1, AckLevel::Written, 1);
    server.send_frames(first, 1..=2);
    server.send(first, &mark(4));
    server.send_frames(first, 4..=4);
    server.rig.end(first, Err(libc::ECONNRESET));
    server.rig.settle();
    let second = server.hello(1, AckLevel::Written, 1);
    assert_eq!(server.told(second), [welcome(AckLevel::Written, 0, 4, &[0, 1, 3])]);
    server.send(second, &mark(3));
    server.send_frames(second, 3..=3);
    assert_eq!(server.store(), ["1", "2", "4", "3"]);
    assert_eq!(server.told(second), [Told::Ack(4)]);
    server.rig.drain();
}

#[test]
fn what_the_log_knows_of_a_producer_is_a_duplicate() {
    let mut server = Server::with(|options| {
        let mut known = ProducerTable::new(4);
        for sequence in [1, 2, 4] {
            known.observe(ProducerStamp { producer: producer(1), sequence });
        }
        options.session_wiring.producers = known;
    });
    let client = server.hello(1, AckLevel::Written, 1);
    assert_eq!(server.told(client), [welcome(AckLevel::Written, 2, 4, &[0, 1, 3])]);
    server.send_frames(client, 1..=4);
    assert_eq!((server.store(), server.rig.terms().duplicate), (vec!["3".to_owned()], 3));
    assert_eq!(server.told(client).last(), Some(&Told::Ack(4)));
    server.rig.drain();
}

#[test]
fn what_is_refused_at_the_gate_is_told_before_the_acknowledgement_that_covers_it() {
    let mut server = Server::new();
    let client = server.hello(1, AckLevel::Written, 1);
    server.send_frames(client, 1..=1);
    server.rig.gate.set_level(Level::Emergency);
    server.rig.settle();
    server.send_frames(client, 2..=4);
    server.rig.gate.set_level(Level::Healthy);
    server.rig.settle();
    server.send_frames(client, 5..=5);
    assert_eq!(server.store(), ["1", "5"]);
    let told = server.told(client);
    let refused = Refused { first: 2, count: 3, reason: DropReason::EmergencyDrop.code() };
    let refusal = told.iter().position(|told| *told == Told::Refused(refused)).expect("it was told");
    assert!(told[..refusal].iter().all(|told| !matches!(told, Told::Ack(acked) if *acked >= 2)), "{told:?}");
    assert!(told.contains(&Told::Level(4)) || told.iter().any(|told| matches!(told, Told::Ack(_))), "{told:?}");
    assert_eq!(told.last(), Some(&Told::Ack(5)));
    assert_eq!(server.told.refused[DropReason::EmergencyDrop as usize].get(), 3);
    server.rig.drain();
}

#[test]
fn what_is_lost_later_is_told_even_if_it_was_accepted_before() {
    for level in [AckLevel::Accepted, AckLevel::Written] {
        let mut server = Server::new();
        server.rig.outcome = Outcome::Lost(DropReason::ProcessingFailed);
        let client = server.hello(1, level, 1);
        server.send_frames(client, 1..=3);
        server.store();
        let told = server.told(client);
        let refused = Told::Refused(Refused { first: 1, count: 3, reason: DropReason::ProcessingFailed.code() });
        assert!(told.contains(&refused), "{told:?}");
        assert!(told.contains(&Told::Ack(3)), "{told:?}");
        server.rig.drain();
    }
}

#[test]
fn a_sequence_beyond_the_window_ends_the_session_and_nothing_before_it() {
    let mut server = Server::with(|options| options.high_water_events = 1000);
    let client = server.hello(1, AckLevel::Written, 1);
    server.send_frames(client, 1..=WINDOW + 1);
    assert_eq!(server.store().len() as u64, WINDOW);
    let told = server.told(client);
    assert!(told.contains(&Told::Error(SessionFault::BeyondWindow)), "{told:?}");
    assert_eq!(server.fault(SessionFault::BeyondWindow), 1);
    let again = server.hello(1, AckLevel::Written, 1);
    let all: Vec<u64> = (0..WINDOW).collect();
    assert_eq!(server.told(again), [welcome(AckLevel::Written, WINDOW, WINDOW, &all)]);
    server.rig.drain();
}

#[test]
fn a_newer_connection_of_a_producer_wins() {
    let mut server = Server::new();
    let old = server.hello(1, AckLevel::Written, 1);
    server.send_frames(old, 1..=2);
    let new = server.hello(1, AckLevel::Written, 1);
    assert_eq!(server.told(old).last(), Some(&Told::Error(SessionFault::Superseded)));
    assert!(server.rig.ring.ended.contains(&old), "its stream ends behind the last word");
    server.rig.end(old, Ok(0));
    server.rig.settle();
    assert!(server.rig.ring.closed.contains(&old));
    server.send(new, &mark(3));
    server.send_frames(new, 3..=3);
    assert_eq!(server.store(), ["1", "2", "3"]);
    assert_eq!(server.told(new).last(), Some(&Told::Ack(3)));
    server.rig.drain();
}

#[test]
fn a_token_that_is_missing_wrong_or_late_lets_nobody_in() {
    let with_token = |options: &mut RigOptions| {
        options.sessions.token = SessionToken::new(b"open sesame");
    };
    let mut server = Server::with(with_token);
    for token in [&b""[..], b"open sesamf", b"open"] {
        let client = server.rig.connect();
        server.send(client, &hello(1, AckLevel::Accepted, 1, token));
        assert_eq!(server.told(client), [Told::Error(SessionFault::TokenRefused)]);
    }
    let right = server.rig.connect();
    server.send(right, &hello(1, AckLevel::Accepted, 1, b"open sesame"));
    assert_eq!(server.told(right), [welcome(AckLevel::Accepted, 0, 0, &[])]);
    let late = server.rig.connect();
    server.send(late, &hello(2, AckLevel::Accepted, 1, b"open sesame")[..35]);
    server.rig.pass(Nanos::from_millis(10_100));
    server.rig.settle();
    assert_eq!(server.told(late), [Told::Error(SessionFault::HelloLate)]);
    assert_eq!((server.fault(SessionFault::TokenRefused), server.fault(SessionFault::HelloLate)), (3, 1));
    server.rig.drain();
}

#[test]
fn a_level_that_can_not_be_kept_is_refused_at_the_hello() {
    let mut server = Server::with(|options| options.sessions.level_max = AckLevel::Written);
    let client = server.hello(1, AckLevel::Durable, 1);
    assert_eq!(server.told(client), [Told::Error(SessionFault::LevelUnavailable)]);
    server.rig.drain();
}

#[test]
fn version_1_is_turned_away_where_strangers_need_a_token() {
    let mut server = Server::with(|options| options.sessions.takes_anonymous = false);
    let client = server.rig.connect();
    server.send(client, &frame(Priority::High, b"who?"));
    assert!(server.rig.is_closed(client));
    assert_eq!(server.rig.counters.closed[CloseReason::Anonymous.index()].get(), 1);
    assert_eq!(server.rig.terms().received, 0);
    server.rig.drain();
}

#[test]
fn whatever_is_no_session_ends_it_with_its_name() {
    let bad_frame = {
        let mut bytes = frame(Priority::High, b"x");
        bytes[4] = 9;
        bytes
    };
    let cases: [(&[u8], SessionFault); 4] = [
        (&[0xE3], SessionFault::UnknownMessage { first_byte: 0 }),
        (&hello(1, AckLevel::Written, 1, b""), SessionFault::HelloTwice),
        (&[0xE0, 0, 0, 0, 0, 0, 0, 0, 0], SessionFault::SequenceZero),
        (&bad_frame, SessionFault::MalformedFrame(crate::wire::FrameRefusal::ALL[0])),
    ];
    for (bytes, fault) in cases {
        let mut server = Server::new();
        let client = server.hello(1, AckLevel::Written, 1);
        server.send_frames(client, 1..=1);
        server.send(client, bytes);
        let told = server.told(client);
        assert!(matches!(told.last(), Some(Told::Error(told)) if told.code() == fault.code()), "{fault:?}: {told:?}");
        assert_eq!(server.store(), ["1"]);
        server.rig.drain();
    }
    let mut server = Server::new();
    let early = server.rig.connect();
    server.send(early, &[&hello(1, AckLevel::Written, 1, b"")[..], &frame(Priority::High, b"x")].concat());
    assert_eq!(server.told(early), [Told::Error(SessionFault::EarlyBytes)]);
    server.rig.drain();
}

#[test]
fn a_peer_that_does_not_read_is_closed_and_others_do_not_notice() {
    let mut server = Server::new();
    let (deaf, other) = (server.hello(1, AckLevel::Written, 1), server.hello(2, AckLevel::Written, 1));
    server.rig.ring.deaf.push(deaf);
    server.send_frames(deaf, 1..=2);
    server.send_frames(other, 1..=2);
    server.store();
    assert_eq!(server.told(other).last(), Some(&Told::Ack(2)));
    server.rig.pass(Nanos::from_millis(9_000));
    assert_eq!(server.fault(SessionFault::SlowReader), 0);
    server.rig.pass(Nanos::from_millis(1_100));
    server.rig.settle();
    assert_eq!(server.fault(SessionFault::SlowReader), 1);
    assert!(server.rig.is_closed(deaf));
    server.rig.drain();
}

#[test]
fn a_peer_that_does_not_read_is_closed_too_when_it_was_to_be_told_what_it_did_wrong() {
    let mut server = Server::new();
    let deaf = server.hello(1, AckLevel::Written, 1);
    server.rig.ring.deaf.push(deaf);
    server.send_frames(deaf, 1..=2);
    server.store();
    server.send(deaf, &hello(1, AckLevel::Written, 1, b""));
    assert_eq!(server.fault(SessionFault::HelloTwice), 1);
    server.rig.pass(Nanos::from_millis(9_000));
    assert!(!server.rig.is_closed(deaf), "it may read on");
    server.rig.pass(Nanos::from_millis(1_100));
    server.rig.settle();
    assert!(server.rig.is_closed(deaf));
    server.rig.drain();
}

#[test]
fn a_newer_connection_is_not_closed_for_what_the_older_one_does_not_read() {
    let mut server = Server::new();
    let deaf = server.hello(1, AckLevel::Written, 1);
    server.rig.ring.deaf.push(deaf);
    server.send_frames(deaf, 1..=2);
    server.store();
    let newer = server.rig.connect();
    server.send(newer, &hello(1, AckLevel::Written, 3, b""));
    for _ in 0..12 {
        server.rig.pass(Nanos::from_millis(1_000));
        server.rig.settle();
    }
    assert!(server.rig.is_closed(deaf) && !server.rig.is_closed(newer));
    let told = server.told(newer);
    assert!(matches!(told[..], [Told::Welcome { .. }, ..]), "as soon as the outbox is free: {told:?}");
    server.rig.drain();
}

#[test]
fn bye_is_answered_with_everything_and_the_end_of_the_stream() {
    let mut server = Server::new();
    let client = server.hello(1, AckLevel::Written, 1);
    server.send_frames(client, 1..=3);
    server.send(client, &ClientMessage::BYE);
    assert!(!server.rig.ring.ended.contains(&client));
    server.store();
    assert_eq!(server.told(client).last(), Some(&Told::Ack(3)));
    assert!(server.rig.ring.ended.contains(&client));
    server.rig.end(client, Ok(0));
    server.rig.settle();
    assert!(server.rig.ring.closed.contains(&client));
    assert_eq!(server.rig.counters.closed[CloseReason::Peer.index()].get(), 1);
    server.rig.drain();
}

#[test]
fn a_drain_tells_every_outcome_before_it_closes() {
    let mut server = Server::new();
    let client = server.hello(1, AckLevel::Written, 1);
    server.send_frames(client, 1..=3);
    server.rig.begin_drain();
    for _ in 0..20 {
        server.rig.pass(Nanos::from_millis(1));
    }
    assert!(server.told(client).iter().all(|told| !matches!(told, Told::Error(_))), "three events are in hand");
    server.store();
    server.rig.drain();
    assert_eq!(server.told(client), [Told::Ack(3), Told::Error(SessionFault::Stopping)]);
}

#[test]
fn seats_go_to_those_who_come_and_the_log_goes_on_knowing_the_others() {
    let mut server = Server::new();
    let first = server.hello(1, AckLevel::Written, 1);
    server.send_frames(first, 1..=2);
    let _second = server.hello(2, AckLevel::Written, 1);
    let third = server.hello(3, AckLevel::Written, 1);
    assert_eq!(server.told(third), [Told::Error(SessionFault::NoSeat)], "two seats, both with a connection");
    server.rig.end(first, Err(libc::ECONNRESET));
    server.rig.settle();
    let third = server.hello(3, AckLevel::Written, 1);
    assert_eq!(server.told(third), [Told::Error(SessionFault::NoSeat)], "SE2: events of the first are in hand");
    server.store();
    let third = server.hello(3, AckLevel::Written, 1);
    assert_eq!(server.told(third), [welcome(AckLevel::Written, 0, 0, &[])]);
    server.rig.end(third, Err(libc::ECONNRESET));
    server.rig.settle();
    let first = server.hello(1, AckLevel::Written, 1);
    assert_eq!(server.told(first), [welcome(AckLevel::Written, 2, 2, &[0, 1])]);
    assert_eq!(server.told.seats_evicted.get(), 2);
    server.rig.drain();
}

#[test]
fn a_hello_away_from_home_is_handed_over_and_one_at_home_is_taken() {
    // A producer whose home is reactor 1 of two.
    let away = (1..=255).find(|byte| producer(*byte).home(2) == 1).expect("half of them");
    let inboxes: Arc<[Inbox]> = [Inbox::default(), Inbox::default()].into();
    let server = |reactor: usize| {
        Server::with(|options| {
            options.session_wiring.inboxes = inboxes.clone();
            options.session_wiring.returns = Returns::new(2);
            options.session_wiring.reactor = reactor;
        })
    };
    let (mut elsewhere, mut home) = (server(0), server(1));
    let client = elsewhere.rig.connect();
    elsewhere.send(client, &hello(away, AckLevel::Written, 1, b""));
    assert_eq!((elsewhere.told(client), elsewhere.told.handed_over.get()), (vec![], 1));
    assert!(elsewhere.rig.ring.closed.is_empty() && elsewhere.rig.ring.armed_on(client).is_none());
    home.rig.settle();
    assert_eq!(home.told(client), [welcome(AckLevel::Written, 0, 0, &[])]);
    home.send_frames(client, 1..=1);
    assert_eq!(home.store(), ["1"]);
    assert_eq!(home.told(client), [Told::Ack(1)]);
    home.rig.drain();
    let late = elsewhere.rig.connect();
    elsewhere.send(late, &hello(away, AckLevel::Written, 1, b""));
    assert_eq!(elsewhere.told(late), [Told::Error(SessionFault::Stopping)], "HO1: nobody takes it there any more");
    elsewhere.rig.drain();
}

#[test]
fn a_ping_is_answered_and_a_change_of_level_is_told() {
    let mut server = Server::new();
    let client = server.hello(1, AckLevel::Written, 1);
    server.told(client);
    server.send(client, &ClientMessage::PING);
    assert_eq!(server.told(client), [Told::Ack(0)]);
    server.rig.gate.set_level(Level::Degraded);
    server.rig.settle();
    assert_eq!(server.told(client), [Told::Level(2)]);
    server.rig.drain();
}

#[test]
fn default_options_are_in_their_range() {
    assert!(SessionOptions::default().memory_bytes() > 0);
}

#[test]
fn when_the_store_fails_what_it_did_not_write_is_refused_by_name_and_the_rest_is_acknowledged() {
    for level in [AckLevel::Accepted, AckLevel::Written] {
        let mut server = Server::new();
        let client = server.hello(1, level, 1);
        server.send_frames(client, 1..=3);
        server.store();
        server.send_frames(client, 4..=6);
        // Staged, and home with a place in the log that it will not get; 6 is still on its way there.
        server.rig.take_some(Tier::Transactional, 2);
        server.rig.settle();
        server.told(client);
        let failed = StoreState::Failed { operation: StoreOperation::Write, errno: Errno(libc::EIO) };
        server.store.set_state(failed);
        server.rig.settle();
        server.rig.take(Tier::Transactional);
        server.rig.settle();
        let refused: Vec<_> = server.told(client);
        let unavailable = |first, count| Told::Refused(Refused { first, count, reason: DropReason::StoreUnavailable.code() });
        assert!(refused.contains(&unavailable(4, 2)) && refused.contains(&unavailable(6, 1)), "{level:?}: {refused:?}");
        if level == AckLevel::Written {
            assert_eq!(refused.last(), Some(&Told::Ack(6)));
        }
        server.rig.drain();
    }
}

#[test]
fn a_marks_time_is_measured_once_and_none_or_one_in_the_future_is_not() {
    let mut server = Server::new();
    let latency = server.rig.reactor.session_latency();
    let client = server.hello(1, AckLevel::Written, 1);
    let now = crate::sys::clock::Clock::wall(&server.rig.ring).0;
    for (sequence, time_ns) in [(1, now - 5_000), (2, 0), (3, now + 1_000_000_000)] {
        server.send(client, &Mark { next_sequence: sequence, time_ns }.encode());
        server.send_frames(client, sequence..=sequence);
    }
    server.store();
    server.rig.drain();
    let values = latency.snapshot();
    assert_eq!(values.len(), 1);
    assert!(values.equivalent(values.max(), 5_000), "{}", values.max());
}

#[test]
fn a_log_that_takes_nothing_is_told_as_the_highest_level_until_it_does_again() {
    let mut server = Server::new();
    let client = server.hello(1, AckLevel::Written, 1);
    server.told(client);
    for (is_unavailable, level) in [(true, Level::Emergency), (false, Level::Healthy)] {
        server.rig.gate.set_store_unavailable(is_unavailable);
        server.rig.settle();
        assert_eq!(server.told(client), [Told::Level(level as u8)]);
    }
    server.rig.drain();
}
