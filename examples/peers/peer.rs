//! What a receiver of events is to the sender.

use std::error::Error;
use std::net::TcpStream;
use std::time::Duration;

use eventstream::wire::Priority;

/// Whatever ends a run; it then counts for nothing.
pub type Failure = Box<dyn Error>;

/// What is sent, whatever the protocol makes of it.
pub struct Event<'a> {
    pub priority: Priority,
    /// All have the same length, as bodies have: so do encoded events of a peer.
    pub topic: &'a str,
    /// Text without line feeds.
    pub body: &'a [u8],
}

/// How a peer tells what it has stored.
#[derive(Clone, Copy, Debug)]
pub enum Proof {
    /// It answers for each event, in their order on a connection, on which so many may be without an answer.
    Answers { window_events: u64 },
    /// It says nothing: one has to look, and may do so this often.
    Looks { every: Duration },
}

/// What the front of a stream of answers holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Bytes of whole answers.
    pub bytes: usize,
    /// Events that they answer for.
    pub events: u64,
}

/// A receiver, and how to talk to it. Connections are numbered from 0.
pub trait Peer {
    /// How it tells; asked once connections are open.
    fn proof(&self) -> Proof;

    /// What a new connection begins with; the stream still blocks.
    fn greet(&mut self, _connection: usize, _stream: &mut TcpStream) -> Result<(), Failure> {
        Ok(())
    }

    /// Appends an event as it is sent.
    fn encode(&self, connection: usize, event: &Event<'_>, out: &mut Vec<u8>);

    /// Reads answers. An answer that says no is a failure.
    fn answers(&mut self, _connection: usize, bytes: &[u8]) -> Result<Answers, Failure> {
        Err(format!("an answer where none was asked for: {}", bytes.escape_ascii()).into())
    }

    /// Looks how many events are stored.
    fn stored(&mut self) -> Result<u64, Failure> {
        Err("it answers: there is nothing to look at".into())
    }
}
