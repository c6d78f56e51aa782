//! Sessions from outside: over a real socket, with a real log.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use eventstream::config::{Auto, Config, OnOff};
use eventstream::engine::Engine;
use eventstream::report::StartReport;
use eventstream::storage::appender::Durability;
use eventstream::wire::session::{
    AckLevel, ClientMessage, HELLO_BYTES_MAX, Hello, Mark, ServerMessage, SessionFault, Step, Welcome, parse_server,
};
use eventstream::wire::{Priority, ProducerId, encode_into};

/// A test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(folder: &tempfile::TempDir) -> Config {
    Config {
        tcp_listen: Some("127.0.0.1:0".parse().expect("an address")),
        udp_listen: None,
        admin_listen: None,
        data_dir: folder.path().to_owned(),
        pool_small_slots: Auto::Given(16_384),
        pool_medium_slots: Auto::Given(4_096),
        pool_large_slots: Auto::Given(4),
        ..Config::default()
    }
}

fn start(config: Config) -> (Engine, SocketAddr) {
    let (engine, report): (Engine, StartReport) = Engine::builder().config(config).start().expect("it starts");
    let address = report.tcp.expect("TCP is on");
    (engine, address)
}

/// A client as PROTOCOL.md has it, and no more.
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    acked: u64,
    refused: u64,
}

impl Client {
    fn open(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Says hello; what the welcome says is acknowledged and held, or the error.
    fn hello(address: SocketAddr, level: AckLevel, lowest_unacked: u64, token: &[u8]) -> Result<(Client, u64), u16> {
        let mut client = Client { stream: Self::open(address), received: Vec::new(), acked: 0, refused: 0 };
        let producer = ProducerId::from_bytes(*b"a test's client!").expect("not zero");
        let mut bytes = [0; HELLO_BYTES_MAX];
        let len = Hello { level, producer, lowest_unacked, token }.encode(&mut bytes);
        client.stream.write_all(&bytes[..len]).expect("sent");
        client
            .next(|message| match message {
                ServerMessage::Welcome(Welcome { acked, held, .. }) => {
                    Ok((acked, (0..1000).filter(|k| held.has(*k)).count() as u64))
                }
                ServerMessage::Error(fault) => Err(fault.code),
                other => panic!("{other:?} in answer to a hello"),
            })
            .map(|(acked, held)| {
                client.acked = acked;
                (client, held)
            })
    }

    /// Waits for the next message.
    fn next<T>(&mut self, take: impl FnOnce(ServerMessage<'_>) -> T) -> T {
        loop {
            if let Step::Whole { message, bytes } = parse_server(&self.received).expect("an answer") {
                let taken = take(message);
                self.received.drain(..bytes);
                return taken;
            }
            let mut more = [0; 4096];
            let count = match self.stream.read(&mut more) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.expect("an answer in time"),
            };
            assert!(count > 0, "the end of the stream instead of an answer");
            self.received.extend(&more[..count]);
        }
    }

    fn send(&mut self, sequences: std::ops::RangeInclusive<u64>, priority: Priority) {
        let mut bytes = Mark { next_sequence: *sequences.start(), time_ns: 1 }.encode().to_vec();
        for sequence in sequences {
            encode_into(&mut bytes, priority, "sessions/test", format!("event {sequence}").as_bytes()).expect("a frame");
        }
        self.stream.write_all(&bytes).expect("sent");
    }

    /// Reads until everything up to this sequence is acknowledged.
    fn wait_acked(&mut self, sequence: u64) {
        while self.acked < sequence {
            let (acked, refused) = self.next(|message| match message {
                ServerMessage::Ack(ack) => (ack.acked, 0),
                ServerMessage::Refused(refused) => (0, u64::from(refused.count)),
                ServerMessage::Level(_) => (0, 0),
                other => panic!("{other:?} instead of an acknowledgement"),
            });
            self.acked = self.acked.max(acked);
            self.refused += refused;
        }
    }

    /// Reads to the end of the stream: the code of the last word, if there is one.
    fn end(mut self) -> Option<u16> {
        self.stream.read_to_end(&mut self.received).expect("the end of the stream");
        let (mut rest, mut last) = (&self.received[..], None);
        while let Ok(Step::Whole { message, bytes }) = parse_server(rest) {
            rest = &rest[bytes..];
            last = if let ServerMessage::Error(fault) = message { Some(fault.code) } else { None };
        }
        last
    }
}

#[test]
fn events_are_acknowledged_at_each_level_in_each_tier_and_are_in_the_log() {
    for level in AckLevel::ALL {
        let folder = tempfile::tempdir().expect("a folder");
        let (engine, address) = start(config(&folder));
        let (mut client, held) = Client::hello(address, level, 1, b"").expect("welcome");
        assert_eq!(held, 0);
        client.send(1..=200, Priority::High);
        client.send(201..=400, Priority::Medium);
        client.send(401..=600, Priority::Low);
        client.wait_acked(600);
        client.stream.write_all(&ClientMessage::BYE).expect("sent");
        assert_eq!((client.refused, client.end()), (0, None), "{level:?}");
        let summary = engine.stop();
        let total = summary.ledger.total();
        assert!(summary.is_clean(), "{summary}");
        assert_eq!((total.received, total.stored, total.duplicate), (600, 600, 0));
    }
}

#[test]
fn what_is_sent_again_after_a_reconnect_or_a_restart_is_stored_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (engine, address) = start(config(&folder));
    let (mut client, _) = Client::hello(address, AckLevel::Durable, 1, b"").expect("welcome");
    client.send(1..=100, Priority::Medium);
    client.wait_acked(100);
    drop(client);
    let (mut client, held) = Client::hello(address, AckLevel::Durable, 51, b"").expect("welcome");
    assert_eq!((client.acked, held >= 50), (100, true));
    client.send(51..=150, Priority::Medium);
    client.wait_acked(150);
    let summary = engine.stop();
    let total = summary.ledger.total();
    assert_eq!((total.stored, total.duplicate), (150, 50), "{summary}");
    assert_eq!(client.end(), Some(SessionFault::Stopping.code()));

    let (engine, address) = start(config(&folder));
    let (mut client, held) = Client::hello(address, AckLevel::Durable, 101, b"").expect("welcome");
    assert_eq!(held, 50, "the log knows them");
    client.send(101..=200, Priority::Medium);
    client.wait_acked(200);
    let summary = engine.stop();
    let total = summary.ledger.total();
    assert_eq!((total.stored, total.duplicate), (50, 50), "{summary}");
}

#[test]
fn levels_that_can_not_be_kept_are_refused_at_the_hello() {
    let folder = tempfile::tempdir().expect("a folder");
    let unavailable = SessionFault::LevelUnavailable.code();
    let (engine, address) = start(Config { durability: Durability::None, ..config(&folder) });
    assert_eq!(Client::hello(address, AckLevel::Durable, 1, b"").err(), Some(unavailable));
    let (mut client, _) = Client::hello(address, AckLevel::Written, 1, b"").expect("welcome");
    client.send(1..=10, Priority::Low);
    client.wait_acked(10);
    assert!(engine.stop().is_clean());
    let (engine, address) = start(Config { storage: OnOff::Off, ..config(&folder) });
    assert_eq!(Client::hello(address, AckLevel::Written, 1, b"").err(), Some(unavailable));
    let (mut client, _) = Client::hello(address, AckLevel::Accepted, 11, b"").expect("welcome");
    client.send(11..=20, Priority::High);
    client.wait_acked(20);
    assert!(engine.stop().is_clean());
}

#[test]
fn a_token_lets_in_who_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "open sesame\n").expect("written");
    let with_token = || Config { session_token_file: Auto::Given(secret.path().to_owned()), ..config(&folder) };
    std::fs::set_permissions(secret.path(), std::fs::Permissions::from_mode(0o644)).expect("allowed");
    let refusal = Engine::builder().config(with_token()).start().err().expect("anybody could read it").to_string();
    assert!(refusal.starts_with("error: could not use the token file") && refusal.contains("chmod 0600"), "{refusal}");
    std::fs::set_permissions(secret.path(), std::fs::Permissions::from_mode(0o600)).expect("allowed");
    let (engine, address) = start(with_token());
    for token in [&b""[..], b"open sesamE"] {
        assert_eq!(Client::hello(address, AckLevel::Accepted, 1, token).err(), Some(SessionFault::TokenRefused.code()));
    }
    let (mut client, _) = Client::hello(address, AckLevel::Written, 1, b"open sesame").expect("welcome");
    client.send(1..=10, Priority::High);
    client.wait_acked(10);
    assert!(engine.stop().is_clean());
}

#[test]
fn sessions_find_their_home_among_several_reactors() {
    let folder = tempfile::tempdir().expect("a folder");
    let (engine, address) = start(Config { nodes: Auto::Given(2), reactors_per_node: 2, ..config(&folder) });
    for round in 0..8 {
        let (mut client, _) = Client::hello(address, AckLevel::Written, 1 + 10 * round, b"").expect("welcome");
        client.send(1 + 10 * round..=10 + 10 * round, Priority::Medium);
        client.wait_acked(10 + 10 * round);
    }
    let summary = engine.stop();
    let total = summary.ledger.total();
    assert!(summary.is_clean(), "{summary}");
    assert_eq!((total.stored, total.duplicate), (80, 0));
}

#[test]
fn beyond_this_host_a_token_or_a_word_is_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    let beyond = || Some("0.0.0.0:0".parse().expect("an address"));
    let refused = |config: &Config| config.check(0).err().map(|refusal| refusal.to_string()).unwrap_or_default();
    let tcp = Config { tcp_listen: beyond(), ..config(&folder) };
    assert!(refused(&tcp).contains("--session-token-file"), "{}", refused(&tcp));
    let udp = Config { udp_listen: beyond(), ..config(&folder) };
    assert!(refused(&udp).contains("--allow-anonymous"), "{}", refused(&udp));
    assert_eq!(refused(&Config { allow_anonymous: OnOff::On, udp_listen: beyond(), ..tcp.clone() }), "");
    assert_eq!(refused(&Config { session_token_file: Auto::Given("token".into()), ..tcp }), "");
}
