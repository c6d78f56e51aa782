//! What can go wrong while sending, in three lines for a person.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::Tally;
use crate::client::{ClientError, SendRefusal};
use crate::wire::FrameRefusal;
use crate::wire::session::SessionFault;

/// Why `send` did not do what it was asked to.
#[derive(Debug)]
pub enum SendError {
    /// Neither `--file` nor `--generate`.
    NothingToSend,
    /// Two flags that exclude each other.
    Conflict {
        /// The one.
        flag: &'static str,
        /// The other.
        with: &'static str,
    },
    /// A flag that means nothing without another.
    Lacking {
        /// The flag.
        flag: &'static str,
        /// The one that it needs.
        needs: &'static str,
    },
    /// A number outside its range.
    OutOfRange {
        /// The flag.
        flag: &'static str,
        /// What it was.
        value: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// `--topic` is none.
    Topic {
        /// Why.
        refusal: FrameRefusal,
    },
    /// A file can't be opened or read.
    Read {
        /// The file (`-` is standard input).
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
        /// What was sent before.
        sent: Tally,
    },
    /// A line is no event.
    BadLine {
        /// The file (`-` is standard input).
        path: PathBuf,
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        fault: LineFault,
        /// What was sent before.
        sent: Tally,
    },
    /// No connection, or no socket.
    Connect {
        /// To where.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The receiver went away.
    Lost {
        /// From where.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
        /// What the kernel had taken by then; the receiver may have got less.
        sent: Tally,
    },
    /// A session can't begin or go on.
    Session {
        /// With whom.
        address: SocketAddr,
        /// Why.
        source: ClientError,
        /// What was given to sessions before; some of it may have no outcome.
        sent: Tally,
    },
    /// An event that a session does not take.
    NotTaken {
        /// Why.
        refusal: SendRefusal,
        /// What was given before.
        sent: Tally,
    },
    /// Events that don't fit one datagram.
    DatagramTooLong {
        /// Bytes of the frames that were to go together.
        bytes: usize,
        /// What was sent before.
        sent: Tally,
    },
    /// The summary could not be printed.
    Output {
        /// The system's reason.
        source: io::Error,
    },
}

/// What is wrong with a line.
#[derive(Debug)]
pub enum LineFault {
    /// It is not the JSON that `--json-lines` expects.
    Json(serde_json::Error),
    /// Its priority is none.
    Priority(String),
    /// It can't be a frame.
    Frame(FrameRefusal),
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineFault::Json(error) => error.fmt(f),
            LineFault::Priority(reason) => f.write_str(reason),
            LineFault::Frame(refusal) => refusal.fmt(f),
        }
    }
}

impl SendError {
    /// Whether the command line was wrong, rather than the world.
    pub fn is_usage(&self) -> bool {
        use SendError::{Conflict, Lacking, NothingToSend, OutOfRange, Topic};
        matches!(self, NothingToSend | Conflict { .. } | Lacking { .. } | OutOfRange { .. } | Topic { .. })
    }

    /// The same error with what all threads together had sent.
    pub(super) fn after(mut self, all: Tally) -> SendError {
        if let SendError::Read { sent, .. }
        | SendError::BadLine { sent, .. }
        | SendError::Lost { sent, .. }
        | SendError::Session { sent, .. }
        | SendError::NotTaken { sent, .. }
        | SendError::DatagramTooLong { sent, .. } = &mut self
        {
            *sent = all;
        }
        self
    }

    /// What failed.
    pub fn error(&self) -> String {
        match self {
            SendError::NothingToSend => "nothing to send".into(),
            SendError::Conflict { flag, with } => format!("{flag} can't go with {with}"),
            SendError::Lacking { flag, needs } => format!("{flag} needs {needs}"),
            SendError::OutOfRange { flag, value, .. } => format!("{flag} {value} is out of range"),
            SendError::Topic { .. } => "--topic is not a topic".into(),
            SendError::Read { path, sent, .. } => format!("can't read {} ({})", path.display(), so_far(sent)),
            SendError::BadLine { path, line, sent, .. } => {
                format!("line {line} of {} is not an event ({})", path.display(), so_far(sent))
            }
            SendError::Connect { address, .. } => format!("can't connect to {address}"),
            SendError::Lost { address, sent, .. } => format!("lost the receiver at {address} ({})", so_far(sent)),
            SendError::Session { address, sent, .. } => format!("no session with {address} ({})", so_far(sent)),
            SendError::NotTaken { sent, .. } => format!("an event can't be sent ({})", so_far(sent)),
            SendError::DatagramTooLong { sent, .. } => format!("events don't fit a datagram ({})", so_far(sent)),
            SendError::Output { .. } => "everything was sent, but the summary can't be printed".into(),
        }
    }

    /// Why.
    pub fn cause(&self) -> String {
        match self {
            SendError::NothingToSend => "neither --file nor --generate was given".into(),
            SendError::Conflict { flag, with } => format!("{flag} and {with} exclude each other"),
            SendError::Lacking { flag, needs } => format!("{flag} means nothing without {needs}"),
            SendError::OutOfRange { least, most, .. } => format!("it must be from {least} to {most}"),
            SendError::Topic { refusal } => refusal.to_string(),
            SendError::BadLine { fault, .. } => fault.to_string(),
            SendError::Session { source, .. } => source.to_string(),
            SendError::NotTaken { refusal, .. } => refusal.to_string(),
            SendError::DatagramTooLong { bytes, .. } => {
                format!("{bytes} bytes of frames, a datagram takes {}", super::udp::DATAGRAM_BYTES_MAX)
            }
            SendError::Read { source, .. }
            | SendError::Connect { source, .. }
            | SendError::Lost { source, .. }
            | SendError::Output { source } => source.to_string(),
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> String {
        match self {
            SendError::NothingToSend => "--generate 1000, --file events.txt, or --file - for standard input".into(),
            SendError::Conflict { with, .. } => format!("leave {with} out, or run send twice"),
            SendError::Lacking { needs, .. } => format!("add {needs}, or leave it out"),
            SendError::OutOfRange { flag, least, .. } => format!("{flag} {least}, or leave it out for its default"),
            SendError::Topic { .. } => "a name such as --topic sensors/temp: UTF-8, no control characters, no + and #".into(),
            SendError::Read { path, .. } => format!("check that the file is there and readable: ls -l {}", path.display()),
            SendError::BadLine { path, line, .. } => format!("look at it with: sed -n {line}p {}", path.display()),
            SendError::Connect { address, .. } => format!("start the engine with: eventstream serve --tcp-listen {address}"),
            SendError::Lost { .. } => {
                "look into the engine's log and at `eventstream status`: it says which frames it refused and why".into()
            }
            SendError::Session { source: ClientError::NoServer { .. }, address, .. } => {
                format!("start the engine with: eventstream serve --tcp-listen {address}")
            }
            SendError::Session { source: ClientError::Refused { code, .. }, .. } => match SessionFault::name_of(*code) {
                Some("token_refused") => "--token-file with the engine's --session-token-file".into(),
                Some("level_unavailable") => "a lower level with --ack, or an engine with another --durability".into(),
                _ => "look into the engine's log and at `eventstream status`".into(),
            },
            SendError::Session { .. } => "check that an engine of this version listens there, and its log".into(),
            SendError::NotTaken { .. } => "shorter events, or an engine with a larger --max-frame-bytes".into(),
            SendError::DatagramTooLong { .. } => "lower --datagram-events, or send over TCP".into(),
            SendError::Output { .. } => "check where standard output goes".into(),
        }
    }
}

fn so_far(sent: &Tally) -> String {
    format!("after {} events, {} bytes", sent.events(), sent.bytes)
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\ncause: {}\nfix: {}", self.error(), self.cause(), self.fix())
    }
}

impl std::error::Error for SendError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SendError::Read { source, .. }
            | SendError::Connect { source, .. }
            | SendError::Lost { source, .. }
            | SendError::Output { source } => Some(source),
            SendError::Topic { refusal } => Some(refusal),
            SendError::Session { source, .. } => Some(source),
            SendError::NotTaken { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}
