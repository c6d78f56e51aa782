//! Numbered events: a load of which each event can be recognised in a log, and the account of what must be there after a crash.
//!
//! ```text
//! senders ──► engine ──► log ──── audit: every record, once, byte for byte what a sender handed over
//!               │                   ▲
//!               └─ /status ─► watch ┘  everything below the highest watermark announced
//! ```
//!
//! - **O1** What was announced is there: each node's log holds every sequence below the highest one announced, and leaves none out.
//! - **O2** Nothing is invented: each record is an event that had been handed over, byte for byte.
//! - **O3** Nothing is there twice, however often a session had to send it.
//! - **O4** What a session had acked *written* or *durable* is there; what it had refused is not.
//!
//! An event that was handed over and never announced may be in the log or not: that is what a crash may take. So may one that was acked *accepted*:
//! that is a promise of the process, and ends with it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use eventstream::client::{AckLevel, Refusal};
use eventstream::storage::DiskFolder;
use eventstream::storage::node_reader::NodeReader;
use eventstream::storage::segments::nodes_of;
use serde_json::Value;

use super::{Server, frame, run, status_of};

/// Frames that a sender writes at a time, and how long it waits then: about 16,000 events/s from each connection, so that the logs of many rounds
/// fit on a small disk.
const BURST_FRAMES: u32 = 32;
const BURST_EVERY: Duration = Duration::from_millis(2);

/// Faults that an audit tells; it counts all.
const FAULTS_TOLD: usize = 5;

/// A flag for tests that wait for every event: on a slow machine latency alone would call for shedding.
pub const UNHURRIED: &str = "--max-latency-ms=30000";

/// An event's name: which run of the engine, which connection, which of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The run.
    pub run: u32,
    /// The connection, or producer.
    pub connection: u32,
    /// The event, from 0.
    pub number: u32,
}

impl Number {
    /// The event's body: its name, and a filling that depends on it.
    pub fn body(self) -> Vec<u8> {
        let Number { run, connection, number } = self;
        let mix = number.wrapping_mul(0x9E37_79B1) ^ connection << 8 ^ run;
        let filling = (0..mix % 300).map(|at| b'a' + ((mix >> (at % 25)) % 26) as u8);
        format!("{run}.{connection}.{number} ").into_bytes().into_iter().chain(filling).collect()
    }

    fn of_body(body: &[u8]) -> Option<Self> {
        let name = body.split(|byte| *byte == b' ').next()?;
        let mut parts = std::str::from_utf8(name).ok()?.split('.').map(str::parse);
        let mut part = || parts.next()?.ok();
        let number = Number { run: part()?, connection: part()?, number: part()? };
        (number.body() == body).then_some(number)
    }
}

/// Connections that send numbered events of all priorities until the engine is gone.
pub struct Load {
    run: u32,
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<u32>>,
}

impl Load {
    /// Begins to send; `run` is a number that no earlier load on this log had.
    pub fn start(server: &Server, run: u32, connections: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let senders = (0..connections).map(|connection| {
            let (tcp, stop) = (server.tcp, stop.clone());
            std::thread::spawn(move || send(tcp, run, connection, &stop))
        });
        Self { run, senders: senders.collect(), stop }
    }

    /// Waits for the senders to notice that the engine is gone (or ends them); what they handed over goes to the account.
    pub fn end(self, account: &mut Account) {
        self.stop.store(true, Ordering::Relaxed);
        for (connection, sender) in self.senders.into_iter().enumerate() {
            let events = sender.join().expect("a sender ends by the closed connection");
            account.handed.insert((self.run, connection as u32), events);
        }
    }
}

/// Sends until told to stop or refused; returns how many events were handed to the kernel, at the least in part.
fn send(tcp: SocketAddr, run: u32, connection: u32, stop: &AtomicBool) -> u32 {
    let Ok(mut stream) = TcpStream::connect(tcp) else { return 0 };
    let mut handed = 0;
    while !stop.load(Ordering::Relaxed) {
        let numbers = handed..handed + BURST_FRAMES;
        let frames =
            numbers.flat_map(|number| frame((number % 5) as u8, "numbered/events", &Number { run, connection, number }.body()));
        let bytes: Vec<u8> = frames.collect();
        handed += BURST_FRAMES;
        if stream.write_all(&bytes).is_err() {
            break;
        }
        std::thread::sleep(BURST_EVERY); // the pace, see above
    }
    handed
}

/// Asks an engine again and again how far its logs are.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeMap<u64, u64>>,
}

impl Watch {
    /// Begins to ask: for what is durable, or else for what is written.
    pub fn start(server: &Server, level: AckLevel) -> Self {
        let watermark = if level == AckLevel::Durable { "durable_sequence" } else { "written_sequence" };
        let stop = Arc::new(AtomicBool::new(false));
        let (admin, is_over) = (server.admin, stop.clone());
        let thread = std::thread::spawn(move || {
            let mut announced = BTreeMap::new();
            while !is_over.load(Ordering::Relaxed)
                && let Some(status) = status_of(admin)
            {
                for log in status["logs"].as_array().expect("a list") {
                    let (node, sequence) = (number(&log["node"]), number(&log[watermark]));
                    let highest = announced.entry(node).or_insert(sequence);
                    assert!(*highest <= sequence, "the watermark of node {node} fell from {highest} to {sequence}");
                    *highest = sequence;
                }
                std::thread::sleep(Duration::from_millis(1)); // between two questions
            }
            announced
        });
        Self { stop, thread }
    }

    /// Ends; everything announced so far becomes a promise of the account.
    pub fn end(self, account: &mut Account) {
        self.stop.store(true, Ordering::Relaxed);
        account.announced.extend(self.thread.join().expect("it ends when told to, or by an engine that does not answer"));
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// What was handed over, and what was promised, over all runs on one log.
#[derive(Debug, Default)]
pub struct Account {
    /// By run and connection.
    handed: BTreeMap<(u32, u32), u32>,
    /// By node, all sequences below. A later run goes on where recovery ended, so a later watermark is the higher one.
    announced: BTreeMap<u64, u64>,
    /// By run and connection, of which every event has its outcome.
    sessions: BTreeMap<(u32, u32), Outcomes>,
}

/// What a session was told of its events, of which each has its outcome.
#[derive(Debug)]
pub struct Outcomes {
    /// What an ack means.
    pub level: AckLevel,
    /// All others are acked.
    pub refusals: Vec<Refusal>,
    /// How many were sent again on a later connection.
    pub resent: u64,
}

/// What an audit found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Records in the log.
    pub records: u64,
    /// Records that were announced before a crash.
    pub announced: u64,
    /// Events that were acked to a session.
    pub acked: u64,
    /// Events that were refused to a session, some of them after their ack.
    pub refused: u64,
    /// Events that sessions sent again on a later connection.
    pub resent: u64,
    /// Announced or acked, and not in the log.
    pub missing: u64,
    /// Of `missing`: acked *accepted*, which a crash may take.
    pub unpromised: u64,
    /// Records of an event that is there already.
    pub twice: u64,
    /// Records that nobody sent, or whose event was refused.
    pub invented: u64,
    /// The first few things that are wrong.
    faults: Vec<String>,
}

impl std::ops::AddAssign for Audit {
    fn add_assign(&mut self, other: Audit) {
        self.records += other.records;
        self.announced += other.announced;
        self.acked += other.acked;
        self.refused += other.refused;
        self.resent += other.resent;
        self.missing += other.missing;
        self.unpromised += other.unpromised;
        self.twice += other.twice;
        self.invented += other.invented;
        self.faults.extend(other.faults);
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Audit { records, announced, acked, refused, resent, missing, unpromised, twice, invented, .. } = self;
        write!(f, "{announced} announced, {acked} acked to sessions ({resent} sent again), {refused} refused, {records} stored")?;
        write!(f, ", {missing} missing")?;
        if *unpromised > 0 {
            write!(f, " ({unpromised} of them acked accepted, which ends with the process)")?;
        }
        write!(f, ", {twice} twice, {invented} invented")
    }
}

impl Audit {
    /// Everything promised is there, and nothing else.
    #[track_caller]
    pub fn assert_kept(&self) -> &Self {
        assert!(self.faults.is_empty(), "{self}:\n{}", self.faults.join("\n"));
        assert_eq!((self.missing, self.twice, self.invented), (self.unpromised, 0, 0));
        self
    }

    fn fault(&mut self, what: impl FnOnce() -> String) {
        if self.faults.len() < FAULTS_TOLD {
            self.faults.push(what());
        }
    }
}

impl Account {
    /// Events that were handed to the kernel: all of them arrive where the engine goes on reading.
    pub fn handed_over(&self) -> u64 {
        self.handed.values().map(|events| u64::from(*events)).sum()
    }

    /// A session has ended, after so many events.
    pub fn told(&mut self, run: u32, connection: u32, events: u32, outcomes: Outcomes) {
        self.handed.insert((run, connection), events);
        self.sessions.insert((run, connection), outcomes);
    }

    /// Reads the whole log (which no engine has open) and counts what is there and what is wrong by O1 to O4; `log verify` finds nothing.
    pub fn audit(&self, data: &Path) -> Audit {
        let verify = run(&["log", "verify", "--data-dir", &data.display().to_string()]);
        assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
        let nodes = nodes_of(&DiskFolder::to_read(data)).expect("a data folder");
        let mut is_there: BTreeMap<_, _> =
            self.handed.iter().map(|(name, events)| (*name, vec![false; *events as usize])).collect();
        let mut audit = Audit::default();
        for node in nodes {
            let records = audit_node(data, node, &mut is_there, &mut audit);
            let announced = self.announced.get(&u64::from(node)).copied().unwrap_or(0);
            if records < announced {
                audit.missing += announced - records;
                audit.fault(|| format!("O1: node {node} announced {announced} records, and {records} are there"));
            }
            audit.records += records;
            audit.announced += announced;
        }
        for (name, outcomes) in &self.sessions {
            audit.resent += outcomes.resent;
            audit_session(*name, outcomes, &is_there[name], &mut audit);
        }
        audit
    }
}

/// Reads one node's log, and notes which events are there; its records.
fn audit_node(data: &Path, node: u32, is_there: &mut BTreeMap<(u32, u32), Vec<bool>>, audit: &mut Audit) -> u64 {
    let mut reader = NodeReader::open(DiskFolder::to_read(data), node).expect("a log");
    let mut next = 0;
    while let Some(record) = reader.next().expect("readable to its end") {
        assert_eq!(record.sequence, next, "O1: sequences leave no gap");
        next += 1;
        let number = Number::of_body(record.body);
        let place =
            number.and_then(|Number { run, connection, number }| is_there.get_mut(&(run, connection))?.get_mut(number as usize));
        match place {
            Some(place) if !*place => *place = true,
            Some(_) => {
                audit.twice += 1;
                audit.fault(|| format!("O3: {number:?} is there twice"));
            }
            None => {
                audit.invented += 1;
                audit.fault(|| format!("O2: nobody sent `{}`", String::from_utf8_lossy(record.body)));
            }
        }
    }
    next
}

/// What a session was told against what is there (O4).
fn audit_session((run, connection): (u32, u32), outcomes: &Outcomes, is_there: &[bool], audit: &mut Audit) {
    for (sequence, is_there) in (1..).zip(is_there) {
        let is_refused = outcomes.refusals.iter().any(|refusal| refusal.covers(sequence));
        *if is_refused { &mut audit.refused } else { &mut audit.acked } += 1;
        if is_refused && *is_there {
            audit.invented += 1;
            audit.fault(|| format!("O4: event {sequence} of session {run}.{connection} was refused, and is there"));
        }
        if !is_refused && !*is_there {
            audit.missing += 1;
            if outcomes.level == AckLevel::Accepted {
                audit.unpromised += 1;
            } else {
                audit.fault(|| format!("O4: event {sequence} of session {run}.{connection} was acked, and is not there"));
            }
        }
    }
}

/// How many rounds a test of crashes makes: `default`, or what the environment says under `name`.
pub fn rounds(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// The seed of a test's random moments: printed, and taken from `SEED` to have the same ones again.
pub fn seed() -> u64 {
    let drawn = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), "a seed");
    let seed = std::env::var("SEED").map_or_else(|_| drawn(), |text| text.parse().expect("SEED is a number"));
    eprintln!("SEED={seed}");
    seed
}
