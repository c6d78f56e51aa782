//! How a producer is to be.

use std::fmt;
use std::time::Duration;

use crate::wire::ProducerId;
use crate::wire::session::{AckLevel, TOKEN_BYTES_MAX, WINDOW_MAX};

/// How a [`Producer`](super::Producer) connects, what it asks for, and how much it holds.
///
/// ```
/// use eventstream::client::{AckLevel, ClientOptions};
///
/// let options = ClientOptions { ack_level: AckLevel::Durable, ..ClientOptions::new("127.0.0.1:9000") };
/// ```
#[derive(Clone)]
pub struct ClientOptions {
    /// Host and port, looked up at each connection.
    pub server: String,
    /// When an event counts as acked. Default: *written*.
    pub ack_level: AckLevel,
    /// Who sends. `None`, the default, draws an id, which is good for as long as the producer lives. One that is to be told apart from
    /// others after a restart, so that what it sends again counts once, keeps its id and its next sequence where they survive.
    pub producer: Option<ProducerId>,
    /// The sequence of the first event, at least 1: every one below it is acked or given up. Default: 1.
    pub first_sequence: u64,
    /// What the server asks for, at most [`TOKEN_BYTES_MAX`] bytes. Default: none.
    pub token: Vec<u8>,
    /// Bytes of frames that wait for their acks, at most; `send` waits beyond. Default: 4 MiB.
    pub unacked_bytes_max: usize,
    /// Events that wait for their acks, at most. Default: as many as a server can allow.
    pub unacked_events_max: usize,
    /// How long a connection may take until the server has answered. Default: 5 s.
    pub connect_timeout: Duration,
    /// While events wait for acks, how long the server may say nothing until the connection counts as dead. It also bounds how long
    /// a server may be held up by its disk before it is asked again. Default: 30 s.
    pub silence_max: Duration,
    /// How long to try for a connection once one is lost and events wait for acks, before the producer fails. Default: 60 s.
    pub reconnect_for: Duration,
    /// The first wait between two tries; each later one is twice as long. Default: 50 ms.
    pub backoff_first: Duration,
    /// The longest wait between two tries. Default: 5 s.
    pub backoff_max: Duration,
}

/// What options can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionsRefusal {
    /// `first_sequence` is 0.
    FirstSequenceZero,
    /// `token` is too long.
    TokenTooLong {
        /// Its bytes.
        token_bytes: usize,
    },
    /// `unacked_bytes_max` is 0.
    NoUnackedBytes,
    /// `unacked_events_max` is 0.
    NoUnackedEvents,
}

impl ClientOptions {
    /// The defaults, for the server at `host:port`.
    pub fn new(server: impl Into<String>) -> ClientOptions {
        ClientOptions {
            server: server.into(),
            ack_level: AckLevel::Written,
            producer: None,
            first_sequence: 1,
            token: Vec::new(),
            unacked_bytes_max: 4 << 20,
            unacked_events_max: WINDOW_MAX as usize,
            connect_timeout: Duration::from_secs(5),
            silence_max: Duration::from_secs(30),
            reconnect_for: Duration::from_secs(60),
            backoff_first: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
        }
    }

    pub(super) fn check(&self) -> Result<(), OptionsRefusal> {
        if self.first_sequence == 0 {
            return Err(OptionsRefusal::FirstSequenceZero);
        }
        if self.token.len() > TOKEN_BYTES_MAX {
            return Err(OptionsRefusal::TokenTooLong { token_bytes: self.token.len() });
        }
        if self.unacked_bytes_max == 0 {
            return Err(OptionsRefusal::NoUnackedBytes);
        }
        if self.unacked_events_max == 0 {
            return Err(OptionsRefusal::NoUnackedEvents);
        }
        Ok(())
    }
}

/// Without the token: options end up in logs.
impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("server", &self.server)
            .field("ack_level", &self.ack_level)
            .field("producer", &self.producer)
            .field("first_sequence", &self.first_sequence)
            .field("token_bytes", &self.token.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for OptionsRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionsRefusal::FirstSequenceZero => write!(f, "sequences begin at 1"),
            OptionsRefusal::TokenTooLong { token_bytes } => {
                write!(f, "a token of {token_bytes} bytes, at most {TOKEN_BYTES_MAX} are allowed")
            }
            OptionsRefusal::NoUnackedBytes => write!(f, "no room for the bytes of a frame"),
            OptionsRefusal::NoUnackedEvents => write!(f, "no room for an event"),
        }
    }
}

impl std::error::Error for OptionsRefusal {}
