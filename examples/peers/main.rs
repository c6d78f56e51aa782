//! The same events into eventstream and into what else takes events and keeps them: how many a second are stored, and how long after it was
//! due an event is answered for. `bench-scripts/peers.sh` starts the peers, runs this against each, and makes the table.
//!
//! ```text
//!                      ┌─ syslog ─────► rsyslog          looked at: its file
//! events ─► encoded by ┼─ jetstream ──► nats-server      answers, or is asked for its stream
//!  (64-byte bodies,    ├─ redis ──────► redis-server     answers
//!   three priorities,  ├─ eventstream ► eventstream      asked for its status
//!   16 topics)         └─ sessions ───► eventstream      answers at the level asked for
//! ```
//!
//! One thread, which sleeps when no connection moves: its share of a core, beside the server's, tells which of the two a figure is of. Events
//! are encoded before and copied, so that no protocol costs its sender more than its bytes.

#![forbid(unsafe_code)]

mod connection;
mod cpu;
mod events;
mod flat_out;
mod frames;
mod jetstream;
mod paced;
mod peer;
mod redis;
mod session;
mod syslog;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use argh::FromArgs;
use eventstream::wire::session::AckLevel;

use peer::{Failure, Peer};

/// Who gets the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Syslog,
    JetStream { acks: bool },
    Redis,
    Frames,
    Session(AckLevel),
}

impl Kind {
    const ALL: [(&str, Kind); 8] = [
        ("syslog", Kind::Syslog),
        ("jetstream", Kind::JetStream { acks: true }),
        ("jetstream-unacked", Kind::JetStream { acks: false }),
        ("redis", Kind::Redis),
        ("eventstream", Kind::Frames),
        ("session-accepted", Kind::Session(AckLevel::Accepted)),
        ("session-written", Kind::Session(AckLevel::Written)),
        ("session-durable", Kind::Session(AckLevel::Durable)),
    ];
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Kind::ALL.into_iter().find(|(name, _)| *name == text);
        known.map(|(_, kind)| kind).ok_or_else(|| format!("`{text}` is none of {}", Kind::ALL.map(|(name, _)| name).join(", ")))
    }
}

/// Sends events to a peer and prints one line of JSON: flat out without --rate.
#[derive(FromArgs)]
struct Arguments {
    /// syslog, jetstream, jetstream-unacked, redis, eventstream, session-accepted, session-written or session-durable
    #[argh(positional)]
    peer: Kind,
    /// where it takes events
    #[argh(option)]
    address: SocketAddr,
    /// its process, whose CPU time is measured
    #[argh(option)]
    server_pid: u32,
    /// the file that syslog writes
    #[argh(option)]
    file: Option<PathBuf>,
    /// the admin endpoint of eventstream
    #[argh(option)]
    admin: Option<SocketAddr>,
    /// connections of a run flat out (default: 8)
    #[argh(option, default = "8")]
    connections: usize,
    /// events without an answer on each connection, where the peer does not say (default: 4096)
    #[argh(option, default = "4096")]
    window: u64,
    /// for how long events are sent (default: 2)
    #[argh(option, default = "2.0")]
    seconds: f64,
    /// events a second, on one connection, each timed from when it was due to its answer
    #[argh(option)]
    rate: Option<u64>,
}

fn main() -> Result<(), Failure> {
    let arguments: Arguments = argh::from_env();
    let mut peer = peer(&arguments)?;
    let span = Duration::from_secs_f64(arguments.seconds);
    let line = match arguments.rate {
        Some(per_second) => paced::run(&mut *peer, arguments.address, per_second, span)?.to_json(),
        None => {
            let plan = flat_out::Plan {
                address: arguments.address,
                server_pid: arguments.server_pid,
                connections: arguments.connections.max(1),
                span,
            };
            flat_out::run(&mut *peer, &plan)?.to_json()
        }
    };
    println!("{line}");
    Ok(())
}

fn peer(arguments: &Arguments) -> Result<Box<dyn Peer>, Failure> {
    let Arguments { address, window, .. } = *arguments;
    Ok(match arguments.peer {
        Kind::Syslog => Box::new(syslog::Syslog::new(arguments.file.clone().ok_or("--file: which one does it write?")?)),
        Kind::JetStream { acks } => Box::new(jetstream::JetStream::new(address, acks.then_some(window))?),
        Kind::Redis => Box::new(redis::Redis { window_events: window }),
        Kind::Frames => Box::new(frames::Frames { admin: arguments.admin.ok_or("--admin: where is it asked?")? }),
        Kind::Session(level) => Box::new(session::Session::new(level)),
    })
}
