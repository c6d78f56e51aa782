//! What can go wrong between a producer and its server.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::OptionsRefusal;
use crate::wire::FrameRefusal;
use crate::wire::session::{AckLevel, ServerMessageRefusal, SessionFault};

/// Why a producer can't go on. It is final: every later call gives the same.
#[derive(Clone, Debug)]
pub enum ClientError {
    /// The options can't be.
    Options(OptionsRefusal),
    /// No connection: at the start, or for [`reconnect_for`](super::ClientOptions::reconnect_for) since the last was lost.
    NoServer {
        /// The server.
        server: String,
        /// What the last try met.
        source: Arc<io::Error>,
    },
    /// The server does not want this producer.
    Refused {
        /// Why, as [`SessionFault::code`] has it.
        code: u16,
        /// The same, in the server's words.
        text: String,
    },
    /// What answers is no server of this protocol.
    Protocol(ProtocolFault),
    /// The system gives no thread.
    NoThread(Arc<io::Error>),
}

/// What a server must not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolFault {
    /// Bytes that are no message.
    NoMessage(ServerMessageRefusal),
    /// A message that has no place there.
    OutOfPlace {
        /// Its first byte.
        kind: u8,
    },
    /// A welcome at another level than the one asked for.
    OtherLevel {
        /// The level.
        level: AckLevel,
    },
    /// An ack or a refusal of what was never sent.
    NeverSent {
        /// The sequence.
        sequence: u64,
    },
}

/// Why an event was not taken.
#[derive(Clone, Debug)]
pub enum SendRefusal {
    /// It can't be a frame.
    Frame(FrameRefusal),
    /// It is longer than the server or [`unacked_bytes_max`](super::ClientOptions::unacked_bytes_max) allow.
    TooLong {
        /// Bytes of the frame.
        frame_bytes: usize,
        /// Bytes allowed.
        most: usize,
    },
    /// As many events or bytes as allowed wait for their acks: only from `try_send`.
    Full,
    /// The producer has failed.
    Failed(ClientError),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Options(refusal) => refusal.fmt(f),
            ClientError::NoServer { server, source } => write!(f, "no connection to {server}: {source}"),
            ClientError::Refused { code, text } => {
                let name = SessionFault::name_of(*code).unwrap_or("a reason that this client does not know");
                write!(f, "the server refuses this producer: {name} ({code}): {text}")
            }
            ClientError::Protocol(fault) => write!(f, "what answers is no server of this protocol: {fault}"),
            ClientError::NoThread(source) => write!(f, "no thread for the connection: {source}"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Options(refusal) => Some(refusal),
            ClientError::NoServer { source, .. } | ClientError::NoThread(source) => Some(&**source),
            ClientError::Protocol(fault) => Some(fault),
            ClientError::Refused { .. } => None,
        }
    }
}

impl fmt::Display for ProtocolFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolFault::NoMessage(refusal) => write!(f, "no message: {refusal}"),
            ProtocolFault::OutOfPlace { kind } => write!(f, "a message of kind {kind:#04x} has no place here"),
            ProtocolFault::OtherLevel { level } => write!(f, "acks at level {}, which was not asked for", level.name()),
            ProtocolFault::NeverSent { sequence } => write!(f, "an outcome of sequence {sequence}, which was never sent"),
        }
    }
}

impl std::error::Error for ProtocolFault {}

impl fmt::Display for SendRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendRefusal::Frame(refusal) => refusal.fmt(f),
            SendRefusal::TooLong { frame_bytes, most } => write!(f, "a frame of {frame_bytes} bytes, {most} are allowed"),
            SendRefusal::Full => write!(f, "as much as is allowed waits for its acks"),
            SendRefusal::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SendRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SendRefusal::Frame(refusal) => Some(refusal),
            SendRefusal::Failed(error) => Some(error),
            SendRefusal::TooLong { .. } | SendRefusal::Full => None,
        }
    }
}

impl From<ClientError> for SendRefusal {
    fn from(error: ClientError) -> SendRefusal {
        SendRefusal::Failed(error)
    }
}
