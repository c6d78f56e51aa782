//! Producers against a server that these tests play themselves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;

use super::*;
use crate::wire::FrameLimits;
use crate::wire::session::{
    Ack, ClientMessage, Fault, Held, Refused, ServerMessage, SessionFault, Step, WELCOME_BYTES_MAX, Welcome, parse_client,
};

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

const CREDITS: [u32; 3] = [10_000; 3];

/// One side of a connection.
struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
    hello: SeenHello,
    /// The sequence of the next frame.
    next: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct SeenHello {
    level: AckLevel,
    producer: ProducerId,
    lowest_unacked: u64,
    token: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Event { sequence: u64, priority: Priority, topic: String, body: Vec<u8> },
    Hello(SeenHello),
    Mark,
    Bye,
    Ping,
    End,
}

impl Peer {
    /// Takes a connection up to its hello.
    fn accept(listener: &TcpListener) -> Peer {
        let (stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid time-out");
        let hello = SeenHello { level: AckLevel::Accepted, producer: random_id(), lowest_unacked: 0, token: Vec::new() };
        let mut peer = Peer { stream, received: Vec::new(), hello, next: 0 };
        match peer.see() {
            Seen::Hello(hello) => {
                peer.next = hello.lowest_unacked;
                peer.hello = hello;
            }
            other => panic!("{other:?} instead of a hello"),
        }
        peer
    }

    fn see(&mut self) -> Seen {
        loop {
            match parse_client(&self.received, &FrameLimits::FORMAT).expect("the client speaks the protocol") {
                Step::Whole { message, bytes } => {
                    let seen = match message {
                        ClientMessage::Hello(hello) => Seen::Hello(SeenHello {
                            level: hello.level,
                            producer: hello.producer,
                            lowest_unacked: hello.lowest_unacked,
                            token: hello.token.to_vec(),
                        }),
                        ClientMessage::Frame(frame) => {
                            let (topic, body) = (frame.topic.to_string(), frame.body.to_vec());
                            self.next += 1;
                            Seen::Event { sequence: self.next - 1, priority: frame.priority, topic, body }
                        }
                        ClientMessage::Mark(mark) => {
                            assert!(mark.time_ns > 0);
                            self.next = mark.next_sequence;
                            Seen::Mark
                        }
                        ClientMessage::Bye => Seen::Bye,
                        ClientMessage::Ping => Seen::Ping,
                    };
                    self.received.drain(..bytes);
                    return seen;
                }
                Step::Incomplete { .. } => {
                    let mut bytes = [0; 4096];
                    match self.stream.read(&mut bytes) {
                        Ok(0) => return Seen::End,
                        Ok(count) => self.received.extend_from_slice(&bytes[..count]),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
    }

    /// What comes next beside marks.
    fn event(&mut self) -> (u64, Vec<u8>) {
        loop {
            match self.see() {
                Seen::Event { sequence, body, .. } => return (sequence, body),
                Seen::Mark => {}
                other => panic!("{other:?} instead of an event"),
            }
        }
    }

    fn expect(&mut self, sequences: impl IntoIterator<Item = u64>) {
        for sequence in sequences {
            assert_eq!(self.event(), (sequence, body(sequence)));
        }
    }

    fn welcome_with(&mut self, window: u32, credits: [u32; 3], highest: u64, held: &[u8]) {
        let acked = self.hello.lowest_unacked - 1;
        self.welcome_as(Welcome { window, credits, acked, highest, held: Held::new(held).expect("short"), ..self.usual() });
    }

    fn welcome_acked(&mut self, acked: u64) {
        self.welcome_as(Welcome { acked, highest: acked, ..self.usual() });
    }

    fn usual(&self) -> Welcome<'static> {
        Welcome {
            level: self.hello.level,
            overload: 1,
            frame_bytes_max: 1 << 20,
            window: 16_384,
            credits: CREDITS,
            acked: 0,
            highest: 0,
            held: Held::new(&[]).expect("short"),
        }
    }

    fn welcome_as(&mut self, welcome: Welcome<'_>) {
        let mut bytes = [0; WELCOME_BYTES_MAX];
        let count = welcome.encode(&mut bytes);
        self.say(&bytes[..count]);
    }

    fn welcome(&mut self) {
        self.welcome_with(16_384, CREDITS, 0, &[]);
    }

    fn ack(&mut self, acked: u64) {
        self.say(&Ack { acked, credits: CREDITS, overload: 2 }.encode());
    }

    fn refuse(&mut self, first: u64, count: u32, reason: u8) {
        self.say(&Refused { first, count, reason }.encode());
    }

    fn error(&mut self, fault: SessionFault) {
        let mut bytes = [0; 1024];
        let count = Fault { code: fault.code(), text: fault.text() }.encode(&mut bytes);
        self.say(&bytes[..count]);
    }

    fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the client reads");
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

fn quick(address: SocketAddr) -> ClientOptions {
    ClientOptions {
        connect_timeout: PATIENCE,
        silence_max: PATIENCE,
        reconnect_for: PATIENCE,
        backoff_first: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        ..ClientOptions::new(address.to_string())
    }
}

fn connecting(options: ClientOptions) -> JoinHandle<Result<Producer, ClientError>> {
    std::thread::spawn(move || Producer::connect(options))
}

fn connected(connecting: JoinHandle<Result<Producer, ClientError>>) -> Producer {
    connecting.join().expect("no panic").expect("welcomed")
}

/// A welcomed producer and its first connection.
fn pair(listener: &TcpListener, options: ClientOptions) -> (Producer, Peer) {
    let connecting = connecting(options);
    let mut peer = Peer::accept(listener);
    peer.welcome();
    (connected(connecting), peer)
}

/// The body of a sequence: of different lengths, so that a slip would show.
fn body(sequence: u64) -> Vec<u8> {
    vec![sequence as u8; (sequence % 11) as usize + 1]
}

fn send(producer: &Producer, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        assert_eq!(producer.send(Priority::Medium, "t", &body(sequence)).expect("taken"), sequence);
    }
}

#[test]
fn events_travel_with_their_priority_and_topic_and_their_acks_come_back() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, ClientOptions { ack_level: AckLevel::Durable, ..quick(address) });
    assert_eq!((peer.hello.level, peer.hello.producer, peer.hello.lowest_unacked), (AckLevel::Durable, producer.id(), 1));
    let sequence = producer.send(Priority::High, "a/b", b"first").expect("taken");
    assert_eq!(producer.wait_timeout(sequence, Duration::ZERO).expect("alive"), None);
    assert_eq!(peer.see(), Seen::Mark);
    let topic = "a/b".to_owned();
    assert_eq!(peer.see(), Seen::Event { sequence: 1, priority: Priority::High, topic, body: b"first".to_vec() });
    peer.ack(1);
    assert_eq!(producer.wait(1).expect("alive"), Outcome::Acked);
    assert_eq!((producer.acked(), producer.next_sequence(), producer.overload()), (1, 2, 2));
    let statistics = producer.statistics();
    assert_eq!((statistics.given, statistics.acked, statistics.ack_latency_ns.len()), (1, 1, 1));
}

#[test]
fn a_stream_cut_anywhere_is_sent_again_from_the_lowest_unacked_sequence() {
    let (listener, address) = listen();
    for cut in 0..120 {
        let (producer, mut peer) = pair(&listener, quick(address));
        send(&producer, 1..=5);
        let mut bytes = vec![0; cut.min(5 * 8 + 2 + 3 + 4 + 5 + 6)];
        peer.stream.read_exact(&mut bytes).expect("at least so much");
        drop(peer);
        let mut peer = Peer::accept(&listener);
        assert_eq!((peer.hello.producer, peer.hello.lowest_unacked), (producer.id(), 1));
        peer.welcome();
        peer.expect(1..=5);
        peer.ack(5);
        producer.flush().expect("acked");
        let statistics = producer.statistics();
        assert_eq!((statistics.acked, statistics.unacked(), statistics.reconnects), (5, 0, 1), "cut at {cut}");
    }
}

#[test]
fn what_was_acked_or_is_held_is_not_sent_again() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, quick(address));
    send(&producer, 1..=9);
    peer.expect(1..=9);
    peer.ack(2);
    producer.wait(2).expect("acked");
    drop(peer);
    let mut peer = Peer::accept(&listener);
    assert_eq!(peer.hello.lowest_unacked, 3);
    // It holds 3, 5 and 6.
    peer.welcome_with(16_384, CREDITS, 6, &[0b1101]);
    peer.expect([4, 7, 8, 9]);
    peer.ack(9);
    producer.flush().expect("acked");
    let statistics = producer.statistics();
    assert_eq!((statistics.held, statistics.resent), (3, 4));
    assert_eq!(statistics.ack_latency_ns.len(), 9, "all were sent once, so all acks are answers");
}

#[test]
fn what_the_server_had_before_it_was_given_is_acked_without_an_ack_to_time() {
    let (listener, address) = listen();
    let connecting = connecting(quick(address));
    let mut peer = Peer::accept(&listener);
    // An earlier life of this producer had sent 1 to 5.
    peer.welcome_acked(5);
    let producer = connected(connecting);
    send(&producer, 1..=7);
    peer.expect(6..=7);
    peer.ack(7);
    producer.flush().expect("acked");
    let statistics = producer.statistics();
    assert_eq!((statistics.acked, statistics.held, statistics.resent, statistics.ack_latency_ns.len()), (7, 5, 0, 2));
}

#[test]
fn a_server_that_is_away_and_comes_back_gets_everything() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, quick(address));
    send(&producer, 1..=3);
    peer.expect(1..=3);
    drop((peer, listener));
    send(&producer, 4..=6);
    let listener = TcpListener::bind(address).expect("its port again");
    let mut peer = Peer::accept(&listener);
    peer.welcome();
    peer.expect(1..=6);
    peer.ack(6);
    producer.flush().expect("acked");
}

#[test]
fn refusals_are_told_before_the_ack_and_after_it() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, quick(address));
    send(&producer, 1..=8);
    peer.expect(1..=8);
    peer.refuse(3, 2, 6);
    peer.refuse(5, 1, 6);
    peer.refuse(7, 1, 1);
    peer.ack(8);
    let reason = RefusalReason::of_code(6);
    assert_eq!(producer.wait(4).expect("alive"), Outcome::Refused(reason));
    assert_eq!(producer.wait(6).expect("alive"), Outcome::Acked);
    peer.refuse(1, 2, 5);
    while producer.statistics().lost_after_ack == 0 {
        std::thread::yield_now();
    }
    let refusal = |first, count, code, after_ack| Refusal { first, count, reason: RefusalReason::of_code(code), after_ack };
    assert_eq!(producer.take_refusals(), [refusal(3, 3, 6, false), refusal(7, 1, 1, false), refusal(1, 2, 5, true)]);
    assert_eq!(producer.take_refusals(), []);
    let statistics = producer.statistics();
    assert_eq!((statistics.acked, statistics.refused, statistics.lost_after_ack), (4, 4, 2));
    assert_eq!(reason.to_string(), "emergency_drop");
}

#[test]
fn nothing_is_sent_beyond_the_window() {
    let (listener, address) = listen();
    let connecting = connecting(quick(address));
    let mut peer = Peer::accept(&listener);
    peer.welcome_with(3, CREDITS, 0, &[]);
    let producer = connected(connecting);
    send(&producer, 1..=50);
    for acked in 0..47 {
        // Exactly one more with each ack; the first time three.
        peer.expect(if acked == 0 { 1..=3 } else { acked + 3..=acked + 3 });
        assert!(peer.received.is_empty(), "after {acked}: {:02x?}", peer.received);
        peer.ack(acked + 1);
    }
    peer.expect([50]);
    peer.ack(50);
    producer.flush().expect("acked");
}

#[test]
fn a_tier_without_credits_does_not_hold_up_the_others() {
    let (listener, address) = listen();
    let connecting = connecting(quick(address));
    let mut peer = Peer::accept(&listener);
    peer.welcome_with(100, [10, 2, 0], 0, &[]);
    let producer = connected(connecting);
    let sent = |priority| producer.try_send(priority, "t", b"");
    let full = |priority| matches!(sent(priority), Err(SendRefusal::Full));
    // One is let through without a credit: its ack brings new ones.
    assert_eq!(sent(Priority::Batch).expect("the one"), 1);
    assert!(full(Priority::Batch) && full(Priority::Low));
    assert_eq!(sent(Priority::Medium).expect("first"), 2);
    assert_eq!(sent(Priority::Medium).expect("second"), 3);
    assert!(full(Priority::Medium));
    assert_eq!(sent(Priority::Critical).expect("taken"), 4);
    (1..=4).for_each(|sequence| assert_eq!(peer.event().0, sequence));
    peer.ack(1);
    assert_eq!(producer.send(Priority::Low, "t", b"").expect("when there are credits"), 5);
}

#[test]
fn a_full_producer_waits_for_outcomes() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, ClientOptions { unacked_events_max: 2, ..quick(address) });
    send(&producer, 1..=2);
    assert!(matches!(producer.try_send(Priority::Medium, "t", b""), Err(SendRefusal::Full)));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| send(&producer, 3..=4));
        peer.expect(1..=2);
        peer.ack(2);
        peer.expect(3..=4);
        waiting.join().expect("sent");
    });
}

#[test]
fn what_is_no_event_takes_no_sequence() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, ClientOptions { unacked_bytes_max: 100, ..quick(address) });
    assert!(matches!(producer.send(Priority::Low, "a/#", b""), Err(SendRefusal::Frame(_))));
    let too_long = |body_bytes: usize| match producer.send(Priority::Low, "t", &vec![0; body_bytes]) {
        Err(SendRefusal::TooLong { frame_bytes, most }) => (frame_bytes, most),
        other => panic!("{other:?}"),
    };
    assert_eq!(too_long(93), (101, 100));
    assert_eq!(too_long((1 << 20) - 7), ((1 << 20) + 1, 1 << 20));
    send(&producer, 1..=1);
    peer.expect(1..=1);
}

#[test]
fn garbage_in_a_session_ends_the_connection_and_nothing_else() {
    let (listener, address) = listen();
    let never_sent = Ack { acked: 4, credits: CREDITS, overload: 0 }.encode();
    let refused_never = Refused { first: 3, count: 2, reason: 1 }.encode();
    let mut welcome = [0; WELCOME_BYTES_MAX];
    for (faults, garbage) in [&b"HTTP/1.1 200"[..], &never_sent, &refused_never, &[0xF4, 0, 1, 255, 255]].into_iter().enumerate()
    {
        let (producer, mut peer) = pair(&listener, quick(address));
        send(&producer, 1..=3);
        peer.expect(1..=3);
        peer.ack(1);
        peer.say(garbage);
        let mut peer = Peer::accept(&listener);
        assert_eq!(peer.hello.lowest_unacked, 2, "{faults}");
        peer.welcome();
        peer.expect(2..=3);
        // A welcome within a session.
        let count = Welcome {
            level: AckLevel::Written,
            overload: 0,
            frame_bytes_max: 100,
            window: 1,
            credits: CREDITS,
            acked: 3,
            highest: 3,
            held: Held::new(&[]).expect("short"),
        }
        .encode(&mut welcome);
        peer.say(&welcome[..count]);
        let mut peer = Peer::accept(&listener);
        peer.welcome();
        peer.expect(2..=3);
        peer.ack(3);
        producer.flush().expect("acked");
        let statistics = producer.statistics();
        assert_eq!((statistics.acked, statistics.refused, statistics.protocol_faults), (3, 0, 2));
    }
}

#[test]
fn a_server_that_says_nothing_but_garbage_is_given_up() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, ClientOptions { reconnect_for: Duration::ZERO, ..quick(address) });
    send(&producer, 1..=1);
    peer.say(&[0xFF]);
    Peer::accept(&listener).welcome();
    assert!(matches!(producer.flush(), Err(ClientError::Protocol(ProtocolFault::NoMessage(_)))));
}

#[test]
fn a_first_answer_that_is_none_is_an_error_at_once() {
    let (listener, address) = listen();
    for (answer, closed) in [(&b"SSH-2.0"[..], false), (&[], true), (&ServerMessage::level(0)[..], false)] {
        let connecting = connecting(quick(address));
        let mut peer = Peer::accept(&listener);
        peer.say(answer);
        drop(peer);
        match connecting.join().expect("no panic") {
            Err(ClientError::Protocol(_)) => assert!(!closed),
            Err(ClientError::NoServer { .. }) => assert!(closed),
            other => panic!("{other:?}"),
        }
    }
    drop(listener);
    assert!(matches!(Producer::connect(quick(address)), Err(ClientError::NoServer { .. })));
}

#[test]
fn the_token_is_sent_and_its_refusal_is_final() {
    let (listener, address) = listen();
    let options = ClientOptions { token: b"open sesame".to_vec(), ..quick(address) };
    assert!(!format!("{options:?}").contains("sesame"));
    let connecting = connecting(options);
    let mut peer = Peer::accept(&listener);
    assert_eq!(peer.hello.token, b"open sesame");
    peer.error(SessionFault::TokenRefused);
    match connecting.join().expect("no panic") {
        Err(ClientError::Refused { code: 7, text }) => assert_eq!(text, SessionFault::TokenRefused.text()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_final_error_fails_every_later_call_and_a_passing_one_none() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, quick(address));
    send(&producer, 1..=2);
    peer.expect(1..=2);
    peer.error(SessionFault::Stopping);
    drop(peer);
    let mut peer = Peer::accept(&listener);
    peer.error(SessionFault::NoSeat);
    drop(peer);
    let mut peer = Peer::accept(&listener);
    peer.welcome();
    peer.expect(1..=2);
    peer.error(SessionFault::Superseded);
    for _ in 0..2 {
        assert!(matches!(producer.wait(2), Err(ClientError::Refused { code: 12, .. })));
        assert!(matches!(producer.send(Priority::Low, "t", b""), Err(SendRefusal::Failed(_))));
    }
    assert_eq!(producer.statistics().unacked(), 2);
    assert!(producer.close().is_err());
}

#[test]
fn a_server_that_does_not_come_back_in_time_fails_the_producer() {
    let (listener, address) = listen();
    let (producer, peer) = pair(&listener, ClientOptions { reconnect_for: Duration::from_millis(20), ..quick(address) });
    send(&producer, 1..=1);
    drop((peer, listener));
    assert!(matches!(producer.flush(), Err(ClientError::NoServer { .. })));
}

#[test]
fn a_silent_server_is_asked_and_then_left() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, ClientOptions { silence_max: Duration::from_millis(50), ..quick(address) });
    send(&producer, 1..=1);
    peer.expect(1..=1);
    assert_eq!(peer.see(), Seen::Ping);
    assert_eq!(peer.see(), Seen::End);
    let mut peer = Peer::accept(&listener);
    peer.welcome();
    peer.expect(1..=1);
    peer.ack(1);
    producer.flush().expect("acked");
}

#[test]
fn closing_waits_for_the_last_outcome_and_says_goodbye() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, quick(address));
    send(&producer, 1..=4);
    let closing = std::thread::spawn(|| producer.close());
    peer.expect(1..=4);
    peer.ack(3);
    drop(peer);
    let mut peer = Peer::accept(&listener);
    peer.welcome();
    peer.expect(4..=4);
    peer.ack(4);
    assert_eq!(peer.see(), Seen::Bye);
    drop(peer);
    let statistics = closing.join().expect("no panic").expect("all acked");
    assert_eq!((statistics.given, statistics.acked), (4, 4));
}

#[test]
fn a_dropped_producer_says_no_goodbye() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, quick(address));
    send(&producer, 1..=1);
    peer.expect(1..=1);
    drop(producer);
    assert_eq!(peer.see(), Seen::End);
}

#[test]
fn a_later_life_goes_on_with_its_id_and_sequence() {
    let (listener, address) = listen();
    let id = ProducerId::from_bytes([9; 16]).expect("not zero");
    let connecting = connecting(ClientOptions { producer: Some(id), first_sequence: 40, ..quick(address) });
    let mut peer = Peer::accept(&listener);
    assert_eq!((peer.hello.producer, peer.hello.lowest_unacked), (id, 40));
    // Its earlier life had sent up to 42, which the server acknowledges before it is sent again.
    peer.welcome_with(100, CREDITS, 42, &[0b111]);
    peer.ack(41);
    let producer = connected(connecting);
    while producer.acked() < 41 {
        std::thread::yield_now();
    }
    send(&producer, 40..=43);
    assert_eq!(producer.wait(41).expect("alive"), Outcome::Acked);
    let mut seen = Vec::new();
    while seen.last() != Some(&43) {
        let (sequence, body_seen) = peer.event();
        assert_eq!(body_seen, body(sequence));
        seen.push(sequence);
    }
    assert!(seen.contains(&42) && !seen.contains(&39));
    peer.ack(43);
    producer.flush().expect("acked");
}

#[test]
fn options_that_cannot_be_are_refused_before_anything_is_done() {
    let base = || ClientOptions::new("nowhere.invalid:1");
    for (options, refusal) in [
        (ClientOptions { first_sequence: 0, ..base() }, OptionsRefusal::FirstSequenceZero),
        (ClientOptions { token: vec![b'x'; 257], ..base() }, OptionsRefusal::TokenTooLong { token_bytes: 257 }),
        (ClientOptions { unacked_bytes_max: 0, ..base() }, OptionsRefusal::NoUnackedBytes),
        (ClientOptions { unacked_events_max: 0, ..base() }, OptionsRefusal::NoUnackedEvents),
    ] {
        assert!(matches!(Producer::connect(options), Err(ClientError::Options(refused)) if refused == refusal));
    }
}

#[test]
fn refusals_that_nobody_takes_are_forgotten_from_the_oldest_and_counted() {
    let (listener, address) = listen();
    let (producer, mut peer) = pair(&listener, quick(address));
    // Every other one, so that none is its neighbour's.
    let count = 2 * (session::REFUSALS_MAX as u64 + 10);
    send(&producer, 1..=count);
    peer.expect(1..=count);
    for sequence in (1..=count).step_by(2) {
        peer.refuse(sequence, 1, 1);
    }
    peer.ack(count);
    producer.flush().expect("outcomes");
    assert_eq!(producer.statistics().refusals_forgotten, 10);
    let refusals = producer.take_refusals();
    assert_eq!((refusals.len(), refusals[0].first), (session::REFUSALS_MAX, 21));
}
