//! Taking events in: one reactor per node (or more), an agent that owns the node's sockets' receiving side and its part of the pool.
//!
//! ```text
//!            accept.rs ──► connection.rs (table)
//! TCP :9000 ──► tcp.rs ──┬─► intake.rs: frame ─► event ─► tier lane      counters.rs: what it counts besides the ledger
//!                  ▲     └─► partial.rs: a frame cut by the chunk's end
//!                  │ waiting.rs: lines    parking.rs: unparsed rests    deadlines.rs: slow frames, idle peers
//!                  └─► session/: numbers, acknowledgements   numbering.rs
//!                  └─► sources.rs: who may have how much
//! UDP :9001 ──► udp.rs ────► intake.rs, or the slot itself becomes the event (message.rs: what the kernel says of it; sources.rs, its own)
//! in process ──► publisher/ ► intake.rs, on the publisher's own thread
//! ```
//!
//! Invariants:
//! - **I1** Order per connection: an event that waits, the partial frame, parked bytes, new bytes. Nothing overtakes.
//! - **I2** No byte that reached us is lost: a TCP frame is an event, or waits with its connection, or its connection is closed with a
//!   counted reason. A datagram's frame is an event, or lost with a [`crate::metrics::ledger::DropReason`], or refused and counted.
//! - **I3** A connection that waits for one tier holds no other connection up, and the reactor never waits: lines are served first come
//!   first served, once per poll, within the budget of a turn.
//! - **I4** No memory is taken on a length that was only claimed (`partial.rs`).
//! - **I5** A place in the connection table, and a descriptor, outlive every operation on them: close comes after the receive's final
//!   completion, reuse after the close's. Tokens carry a generation, so a late completion is told, counted and ignored.
//! - **I6** A multishot that ended is armed again, whatever ended it, or stands in a line that will.
//! - **I7** After the drain nothing is lent: no operation that could use a buffer is in flight when they are taken back.
//! - **I8** Every frame asks the node's gate, by the reading of the start of the poll. One that is turned away is received and lost, in order
//!   with its neighbours; a connection that is to wait does so in its tier's line, and resumes with the first poll that reads otherwise.
//!
//! It does not judge frames (`wire`), overflow policies or depths (`bus`), and it never answers a datagram.

#![forbid(unsafe_code)]

mod accept;
mod connection;
mod counters;
mod deadlines;
mod intake;
mod message;
mod numbering;
mod parking;
mod partial;
mod publisher;
mod reactor;
mod session;
mod sources;
mod tcp;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests_gate;
#[cfg(test)]
mod tests_random;
#[cfg(test)]
mod tests_session;
#[cfg(test)]
mod tests_sources;
#[cfg(test)]
mod tests_tcp;
#[cfg(test)]
mod tests_udp;
mod udp;
mod waiting;

pub use counters::{CloseReason, IngestCounters, Transport};
pub use publisher::{Attempt, Producer, ProducerSeat, ProducerWiring, Publication, Publisher, Refusal, Refused, Wait};
pub use reactor::{Reactor, ReactorOptions, ReactorWiring, UdpSocketWiring};
pub use session::{Inbox, SessionCounters, SessionOptions, SessionToken, SessionWiring, Sessions};
pub use sources::SourceLimits;

/// Bytes of one place in the connection table.
pub const CONNECTION_BYTES: usize = size_of::<connection::Connection>();

/// The reactor's kinds of operation, as they stand in tokens.
mod kind {
    pub(super) const ACCEPT: u8 = 1;
    pub(super) const RECEIVE: u8 = 2;
    pub(super) const MESSAGE: u8 = 3;
    pub(super) const CLOSE: u8 = 4;
    /// Closes a descriptor that never got a place in the table.
    pub(super) const CLOSE_STRAY: u8 = 5;
    pub(super) const CANCEL: u8 = 6;
    pub(super) const CANCEL_ACCEPT: u8 = 7;
    pub(super) const CANCEL_MESSAGE: u8 = 8;
    /// An outbox of a session.
    pub(super) const SEND: u8 = 9;
}
