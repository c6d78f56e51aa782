//! The engine is killed (SIGKILL) at random moments under load, also while it recovers, and started again; clients that keep their own ledger
//! then look into the log.
//!
//! - At *written* and *durable*: every acknowledged event is there exactly once, nothing else is there, and nothing that was refused.
//! - At *accepted*: every sequence has an outcome, and what is there was sent, once. What a kill took is counted and printed.
//!
//! A few rounds by default; `make test-kill ROUNDS=200` for more. `KILL_SEED` repeats the moments of a run, not its interleaving.

mod support;

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventstream::client::{AckLevel, ClientOptions, Producer, Refusal, Statistics};
use eventstream::storage::log_file::DiskFolder;
use eventstream::storage::node_reader::NodeReader;
use eventstream::wire::Priority;

use support::{DEFAULTS, PATIENCE, Server, binary};

/// Clients at once.
const PRODUCERS: usize = 3;

/// Kills before a chapter ends: all clients wait for their outcomes, the engine drains, and the log is compared with their ledgers.
const ROUNDS_PER_CHAPTER: u64 = 10;

/// What one client knows.
struct Ledger {
    producer: usize,
    given: u64,
    refusals: Vec<Refusal>,
    statistics: Statistics,
}

/// What a chapter showed.
#[derive(Debug, Default)]
struct Figures {
    rounds: u64,
    kills_in_recovery: u64,
    acked: u64,
    refused: u64,
    lost_after_ack: u64,
    resent: u64,
    held: u64,
    reconnects: u64,
    missing: u64,
}

impl Figures {
    fn add(&mut self, other: &Figures) {
        self.rounds += other.rounds;
        self.kills_in_recovery += other.kills_in_recovery;
        self.acked += other.acked;
        self.refused += other.refused;
        self.lost_after_ack += other.lost_after_ack;
        self.resent += other.resent;
        self.held += other.held;
        self.reconnects += other.reconnects;
        self.missing += other.missing;
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// What a client sends as its n-th event: the checker makes it again.
fn body(producer: usize, sequence: u64) -> Vec<u8> {
    let mut body = format!("{producer} {sequence} ").into_bytes();
    body.resize(body.len() + (sequence * 31 % 200) as usize, sequence as u8);
    body
}

fn priority(sequence: u64) -> Priority {
    Priority::ALL[(sequence % 5) as usize]
}

/// Sends until told to stop, then waits for the last outcome.
fn client(address: &str, producer_index: usize, ack_level: AckLevel, stop: &AtomicBool) -> Ledger {
    let producer = Producer::connect(ClientOptions {
        ack_level,
        connect_timeout: PATIENCE,
        reconnect_for: PATIENCE,
        silence_max: PATIENCE,
        backoff_first: Duration::from_millis(2),
        backoff_max: Duration::from_millis(50),
        // Small, so that a round's load is bounded by acks rather than by memory.
        unacked_events_max: 2048,
        ..ClientOptions::new(address)
    })
    .expect("the engine is there");
    let mut given = 0;
    let mut refusals = Vec::new();
    // Relaxed: one more event does no harm.
    while !stop.load(Ordering::Relaxed) {
        let next = given + 1;
        given = producer.send(priority(next), "kill/loop", &body(producer_index, next)).expect("the engine comes back");
        assert_eq!(given, next);
        if given % 256 == 0 {
            refusals.extend(producer.take_refusals());
        }
    }
    producer.flush().expect("every sequence gets its outcome");
    refusals.extend(producer.take_refusals());
    let statistics = producer.close().expect("it is all settled");
    assert_eq!((statistics.unacked(), statistics.refusals_forgotten, statistics.protocol_faults), (0, 0, 0));
    Ledger { producer: producer_index, given, refusals, statistics }
}

fn serve(data: &Path, address: &str) -> Server {
    Server::start_on(data, &[&format!("--tcp-listen={address}")])
}

/// Starts an engine only to kill it a moment later, most likely while it looks over its log.
fn kill_in_recovery(data: &Path, address: &str, after: Duration) {
    let mut child = Command::new(binary())
        .args(["serve", &format!("--tcp-listen={address}"), &format!("--data-dir={}", data.display())])
        .envs(DEFAULTS.iter().copied().filter(|(name, _)| *name != "EVENTSTREAM_TCP_LISTEN"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    std::thread::sleep(after); // the random moment
    child.kill().expect("our child");
    child.wait().expect("our child");
}

/// So many kills under load, then the comparison.
fn chapter(ack_level: AckLevel, rounds: u64, random: &mut Random) -> Figures {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    // A port that stays the same over restarts.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").to_string();
    let stop = AtomicBool::new(false);
    let mut figures = Figures { rounds, ..Figures::default() };
    let first = serve(&data, &address);
    let (server, ledgers) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..PRODUCERS)
            .map(|producer| {
                let (address, stop) = (&address, &stop);
                scope.spawn(move || client(address, producer, ack_level, stop))
            })
            .collect();
        let mut server = first;
        for _ in 0..rounds {
            std::thread::sleep(Duration::from_micros(20_000 + random.below(180_000))); // the random moment
            server.kill();
            if random.below(3) == 0 {
                kill_in_recovery(&data, &address, Duration::from_micros(random.below(40_000)));
                figures.kills_in_recovery += 1;
            }
            server = serve(&data, &address);
        }
        stop.store(true, Ordering::Relaxed);
        let ledgers: Vec<Ledger> =
            clients.into_iter().map(|client| client.join().expect("a client that holds its claims")).collect();
        (server, ledgers)
    });
    server.stop().assert_clean();
    compare(&data, ack_level, &ledgers, &mut figures);
    figures
}

/// The log against the ledgers.
fn compare(data: &Path, ack_level: AckLevel, ledgers: &[Ledger], figures: &mut Figures) {
    let mut stored: HashMap<(usize, u64), u64> = HashMap::new();
    let mut reader = NodeReader::open(DiskFolder::to_read(data), 0).expect("a log");
    while let Some(record) = reader.next().expect("whole") {
        let text = String::from_utf8_lossy(record.body);
        let mut words = text.split(' ').map(|word| word.parse::<u64>().ok());
        let (Some(Some(producer)), Some(Some(sequence))) = (words.next(), words.next()) else {
            panic!("invented: {}", text.escape_debug())
        };
        assert_eq!((record.body, record.priority), (&body(producer as usize, sequence)[..], priority(sequence)), "changed");
        *stored.entry((producer as usize, sequence)).or_default() += 1;
    }
    for ledger in ledgers {
        let Statistics { acked, refused, lost_after_ack, resent, held, reconnects, .. } = ledger.statistics;
        assert_eq!(acked + refused, ledger.given, "every sequence has one outcome");
        figures.acked += acked;
        figures.refused += refused;
        figures.lost_after_ack += lost_after_ack;
        figures.resent += resent;
        figures.held += held;
        figures.reconnects += reconnects;
        for sequence in 1..=ledger.given {
            let times = stored.remove(&(ledger.producer, sequence)).unwrap_or(0);
            let refused = ledger.refusals.iter().any(|refusal| refusal.covers(sequence));
            let name = format!("event {sequence} of client {}", ledger.producer);
            assert!(times <= 1, "{name} is there {times} times");
            assert!(!(refused && times > 0), "{name} was refused, and is there");
            if !refused && times == 0 {
                assert_eq!(ack_level, AckLevel::Accepted, "{name} was acknowledged, and is gone");
                figures.missing += 1;
            }
        }
    }
    assert!(stored.is_empty(), "{} events that nobody sent, such as {:?}", stored.len(), stored.keys().next());
}

fn kill_rounds(ack_level: AckLevel) {
    let rounds = from_environment("KILL_ROUNDS").unwrap_or(3);
    let seed = from_environment("KILL_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let mut random = Random(seed);
    let mut all = Figures::default();
    while all.rounds < rounds {
        all.add(&chapter(ack_level, ROUNDS_PER_CHAPTER.min(rounds - all.rounds), &mut random));
    }
    println!("{} (seed {seed}): {all:?}", ack_level.name());
}

#[test]
fn what_was_acknowledged_as_written_survives_kills_exactly_once() {
    kill_rounds(AckLevel::Written);
}

#[test]
fn what_was_acknowledged_as_durable_survives_kills_exactly_once() {
    kill_rounds(AckLevel::Durable);
}

#[test]
fn what_was_accepted_has_an_outcome_and_is_never_there_twice() {
    kill_rounds(AckLevel::Accepted);
}
