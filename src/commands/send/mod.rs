//! `eventstream send`: events from files, standard input or a generator, over TCP or UDP.
//!
//! ```text
//!  SendCommand ──► Plan ──► per thread:  Source ──► Piece (one write, one datagram) ──► TCP connections, sessions, UDP sockets
//!  (flags)         (valid)               lines, raw bytes, generated                    in turn, none waits for another
//! ```
//!
//! - **I1** A [`Plan`] can't be wrong: every combination of flags that makes no sense is refused before a socket is opened.
//! - **I2** Generated bodies are unique within a run, and across runs unless `--seed` is repeated: a receiver that drops
//!   duplicates keeps them all.
//! - **I3** The summary counts what the kernel took, by priority. On TCP each connection is then closed for writing and waited
//!   for, so a summary without unconfirmed connections means that the receiver has read everything.
//!
//! - **I4** With `--session` the summary also says what the engine made of every event, and how long its acks took.
//!
//! Without, it does not learn what became of an event: version 1 of the wire has no reply. `eventstream status` tells.

mod error;
mod generate;
mod lines;
mod pace;
mod plan;
mod session;
mod spread;
mod summary;
mod tcp;
mod udp;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use argh::FromArgs;

pub use error::{LineFault, SendError};
pub use plan::{Generate, Input, LineFormat, Mix, Plan, SessionTransport, TcpTransport, Transport, UdpTransport};
pub use spread::{BodySizes, TopicSkew};
pub use summary::{SendSummary, SessionTally, Tally};

use crate::wire::session::AckLevel;
use crate::wire::{Priority, ProducerId};
pub(super) use generate::Generator;
use lines::{Lines, RawBytes};

/// Send events to an engine: lines of files or standard input, raw frames, or generated load.
#[derive(FromArgs, Clone, Debug, Default, PartialEq)]
#[argh(subcommand, name = "send")]
pub struct SendCommand {
    /// send over TCP to this address (the default: 127.0.0.1:9000)
    #[argh(option)]
    pub tcp: Option<SocketAddr>,

    /// send over UDP to this address
    #[argh(option)]
    pub udp: Option<SocketAddr>,

    /// a file whose lines are event bodies; `-` is standard input; may be given several times
    #[argh(option)]
    pub file: Vec<PathBuf>,

    /// lines are JSON: {"topic":…,"priority":"high","body":…}, topic and priority optional; a body that is no string is sent
    /// as compact JSON
    #[argh(switch)]
    pub json_lines: bool,

    /// files hold frames, sent as they are (TCP, one connection)
    #[argh(switch)]
    pub raw: bool,

    /// generate this many events with unique bodies
    #[argh(option)]
    pub generate: Option<u64>,

    /// bytes of a generated body, at least 16 (default: 64); or sizes with their shares, such as 64:90,1024:9,16384:1
    #[argh(option)]
    pub body_bytes: Option<BodySizes>,

    /// how many topics generated events are spread over: TOPIC/0, TOPIC/1, … (default: 16)
    #[argh(option)]
    pub topics: Option<u32>,

    /// how unevenly: the exponent of Zipf's law, by which the n-th topic gets 1/n^X of what the first one gets (default: 0, all alike)
    #[argh(option)]
    pub topic_skew: Option<TopicSkew>,

    /// shares of generated events: HIGH,MEDIUM,LOW or CRITICAL,HIGH,MEDIUM,LOW,BATCH (default: 10,60,30)
    #[argh(option)]
    pub mix: Option<Mix>,

    /// makes generated events repeatable; a second run with the same seed sends duplicates (default: from the clock)
    #[argh(option)]
    pub seed: Option<u64>,

    /// topic of lines (default: events), first level of generated topics (default: load)
    #[argh(option)]
    pub topic: Option<String>,

    /// priority of lines: critical, high, medium, low, batch or 4-0 (default: medium)
    #[argh(option)]
    pub priority: Option<Priority>,

    /// TCP connections or UDP sockets, used in turn (default: 8 for generated events over TCP, else 1)
    #[argh(option)]
    pub connections: Option<usize>,

    /// bytes of one TCP write (default: 65536)
    #[argh(option)]
    pub write_bytes: Option<usize>,

    /// send in sessions, one on each TCP connection: the engine acknowledges every event, and says which it refuses
    #[argh(switch)]
    pub session: bool,

    /// when an event is acknowledged: accepted, written or durable (default: written, needs --session)
    #[argh(option)]
    pub ack: Option<AckLevel>,

    /// who sends: 32 hexadecimal digits (default: random; needs --session, one connection)
    #[argh(option)]
    pub producer_id: Option<ProducerId>,

    /// sequence of the first event of this producer (default: 1; needs --producer-id)
    #[argh(option)]
    pub first_sequence: Option<u64>,

    /// file with the token that the engine asks for (needs --session)
    #[argh(option)]
    pub token_file: Option<PathBuf>,

    /// events in one datagram (default: 1)
    #[argh(option)]
    pub datagram_events: Option<u64>,

    /// events per second at most, 0 for no limit (default: 0 over TCP, 50000 over UDP)
    #[argh(option)]
    pub rate: Option<u64>,

    /// threads that generate and send, each with its part of the connections (default: 1)
    #[argh(option)]
    pub threads: Option<usize>,

    /// milliseconds to wait at the end for the engine to have read everything (default: 30000, TCP)
    #[argh(option)]
    pub close_wait_ms: Option<u64>,

    /// print the summary as one line of JSON
    #[argh(switch)]
    pub json: bool,
}

impl SendCommand {
    /// Sends, and prints the summary to standard output.
    ///
    /// # Errors
    /// Flags that make no sense together ([`SendError::is_usage`]), an input that can't be read, a receiver that isn't there
    /// or goes away.
    pub fn run(self) -> Result<(), SendError> {
        let json = self.json;
        let summary = send(&Plan::try_from(self)?)?;
        let text = if json { summary.to_json() } else { summary.to_string() };
        let mut out = std::io::stdout().lock();
        std::io::Write::write_all(&mut out, format!("{text}\n").as_bytes()).map_err(|source| SendError::Output { source })
    }
}

/// Sends all that the plan says. Blocks until it is sent (and on TCP read by the receiver).
///
/// # Errors
/// See [`SendCommand::run`]; never [`SendError::is_usage`].
pub fn send(plan: &Plan) -> Result<SendSummary, SendError> {
    let begun = Instant::now();
    // Raised by the thread that fails, so that the others stop too.
    let stop = AtomicBool::new(false);
    let parts = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..plan.threads)
            .map(|thread| {
                scope.spawn({
                    let stop = &stop;
                    move || send_part(plan, thread, stop)
                })
            })
            .collect();
        parts.into_iter().map(|part| part.join().expect("a sending thread does not panic")).collect::<Vec<_>>()
    });
    let mut sent = Tally::default();
    let mut unconfirmed = 0;
    let mut session = None;
    let mut failure = None;
    for part in parts {
        sent.add(&part.sent);
        unconfirmed += part.unconfirmed_connections;
        session = SessionTally::sum(session, part.session);
        failure = failure.or(part.failure);
    }
    match failure {
        Some(failure) => Err(failure.after(sent)),
        None => Ok(SendSummary::new(plan, sent, unconfirmed, session, begun.elapsed())),
    }
}

/// What one thread did, whether it came to its end or not.
#[derive(Debug, Default)]
struct Part {
    sent: Tally,
    unconfirmed_connections: usize,
    session: Option<SessionTally>,
    failure: Option<SendError>,
}

fn send_part(plan: &Plan, thread: usize, stop: &AtomicBool) -> Part {
    let source = Source::new(plan, thread);
    let part = match &plan.transport {
        Transport::Tcp(tcp) => tcp::send(plan, *tcp, thread, source, stop),
        Transport::Udp(udp) => udp::send(plan, *udp, thread, source, stop),
        Transport::Session(session) => session::send(plan, session, thread, source, stop),
    };
    if part.failure.is_some() {
        // Relaxed: the others may well send a little more.
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    }
    part
}

/// The bytes of one write or one datagram, and what they hold.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) tally: Tally,
}

impl Piece {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.tally = Tally::default();
    }
}

/// Where events come from.
#[derive(Debug)]
enum Source {
    Lines(Lines),
    Raw(RawBytes),
    Generated(Generator),
}

impl Source {
    fn new(plan: &Plan, thread: usize) -> Source {
        match &plan.input {
            Input::Lines { files, format, topic, priority } => {
                Source::Lines(Lines::new(files.clone(), *format, topic.clone(), *priority))
            }
            Input::Raw { files } => Source::Raw(RawBytes::new(files.clone())),
            Input::Generated(generate) => Source::Generated(Generator::new(generate, plan.piece_bytes(), thread, plan.threads)),
        }
    }

    /// Appends events to an empty piece: at most `events_max` (at least 1), and about `bytes_max`. An empty piece afterwards
    /// means the end.
    fn fill(&mut self, piece: &mut Piece, bytes_max: usize, events_max: u64) -> Result<(), SendError> {
        debug_assert!(piece.bytes.is_empty() && events_max > 0);
        match self {
            Source::Lines(lines) => lines.fill(piece, bytes_max, events_max),
            Source::Raw(raw) => raw.fill(piece, bytes_max),
            Source::Generated(generator) => {
                generator.fill(piece, events_max);
                Ok(())
            }
        }
    }
}
