//! A producer: sends events in a session, and learns what became of each. Nothing of the engine is needed for it: a program takes this
//! crate with `default-features = false, features = ["client"]`. PROTOCOL.md says what travels.
//!
//! ```text
//!  callers ── send ──► unacked frames ──► writing thread ──► TCP ──► server
//!     ▲                (a ring of bytes)        ▲ a new connection when one is lost
//!     └── wait, refusals ◄── session ◄── reading thread ◄────────────┘
//! ```
//!
//! ```no_run
//! use eventstream::client::{AckLevel, ClientOptions, Outcome, Producer};
//! use eventstream::wire::Priority;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = ClientOptions { ack_level: AckLevel::Durable, ..ClientOptions::new("127.0.0.1:9000") };
//! let producer = Producer::connect(options)?;
//! // Many may be on their way at once …
//! for reading in 0..1000 {
//!     producer.send(Priority::Low, "sensors/temp", format!("{{\"val\":{reading}}}").as_bytes())?;
//! }
//! // … and one can be waited for.
//! let order = producer.send(Priority::Medium, "orders/new", b"{\"id\":7}")?;
//! if let Outcome::Refused(reason) = producer.wait(order)? {
//!     println!("order 7 is not stored: {reason}");
//! }
//! println!("{} events acked", producer.close()?.acked);
//! # Ok(())
//! # }
//! ```
//!
//! Why two threads: acks are read, and a lost connection is made again, whatever the callers do meanwhile; and what is given while a
//! write is on its way goes into the next one, so that one event at a time is quick and many are cheap. The standard library cannot
//! wait for a socket and a caller at once, and with a thread for each there is nothing to wait for at once.
//!
//! Invariants:
//! - **C1** A sequence is one frame: it gets its number when it is taken, and its bytes don't change until it has its outcome. What is
//!   refused to a caller has no number.
//! - **C2** A frame stays until its sequence has its outcome. A new connection goes on from the lowest one without; sending again is
//!   nothing but that.
//! - **C3** Nothing is written beyond the acknowledged sequence and the window. Credits hold callers back before an event gets its
//!   sequence, so that a tier without credits does not hold up the others.
//! - **C4** Memory is taken at the start and bounded by the options: frames, two buffers, and [`Refusal`]s, of which the oldest are
//!   forgotten and counted when nobody takes them.
//! - **C5** No lock is held over a system call that can block, and reading never waits for writing: a server that reads no more until
//!   its answers are read is always heard.
//! - **C6** What a server can't truly say changes nothing, and ends the connection.
//! - **C7** A failure is final, and every call tells it. Until then a lost connection is nobody's concern but the threads'.
//!
//! It does not keep events on a disk: those without an outcome are lost with the process, unless the caller gives them again with the
//! same producer id and sequences.

#![forbid(unsafe_code)]

mod backoff;
mod connection;
mod error;
mod keeper;
mod options;
mod refusal;
mod session;
mod statistics;
#[cfg(test)]
mod tests;
mod unacked;

use std::num::NonZeroU128;
use std::sync::{Arc, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use error::{ClientError, ProtocolFault, SendRefusal};
pub use options::{ClientOptions, OptionsRefusal};
pub use refusal::{Outcome, Refusal, RefusalReason};
pub use statistics::Statistics;

pub use crate::wire::ProducerId;
pub use crate::wire::session::AckLevel;

use crate::wire::Priority;
use connection::Connection;
use keeper::{Keeper, Phase, Shared, State};
use session::Session;

/// Sends events in a session. May be shared by threads; the order of their calls is the order of sequences.
///
/// Dropping it without [`Producer::close`] ends it at once: what has no outcome by then may be stored or not.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    id: ProducerId,
    /// Taken when it is closed.
    keeper: Option<JoinHandle<()>>,
}

impl Producer {
    /// Connects, once: a server that is not there at the start is an error at once.
    ///
    /// # Errors
    /// Options that can't be, no server, a server that refuses this producer, no thread.
    pub fn connect(options: ClientOptions) -> Result<Producer, ClientError> {
        options.check().map_err(ClientError::Options)?;
        let id = options.producer.unwrap_or_else(random_id);
        let session = Session::new(&options);
        let lowest_unacked = session.lowest_unacked();
        let shared = Arc::new(Shared::new(session));
        let connection = Connection::open(&options, id, lowest_unacked)
            .and_then(|connection| shared.begin(&connection, lowest_unacked).map(|()| connection))
            .map_err(|not_opened| not_opened.into_error(&options))?;
        let keeper = Keeper { shared: shared.clone(), options, producer: id };
        let keeper = std::thread::Builder::new()
            .name("eventstream-send".into())
            .spawn(move || keeper.run(connection))
            .map_err(|source| ClientError::NoThread(Arc::new(source)))?;
        Ok(Producer { shared, id, keeper: Some(keeper) })
    }

    /// Its id: the one of its options, or a random one.
    pub fn id(&self) -> ProducerId {
        self.id
    }

    /// Gives it an event, and says the event's sequence. Waits while as many events or bytes as allowed have no outcome, or the server
    /// grants no more to the priority's tier. The event is on its way then, and stays with the producer until it has its outcome.
    ///
    /// # Errors
    /// What can't be a frame, a frame that is too long, a producer that has failed. The event has not been taken then.
    pub fn send(&self, priority: Priority, topic: &str, body: &[u8]) -> Result<u64, SendRefusal> {
        let mut state = self.shared.lock();
        loop {
            match self.give(&mut state, priority, topic, body, Instant::now()) {
                Err(SendRefusal::Full) => state = self.shared.caller_waits(state, None),
                outcome => return outcome,
            }
        }
    }

    /// The same, without waiting.
    ///
    /// # Errors
    /// As [`Producer::send`]; [`SendRefusal::Full`] instead of waiting.
    pub fn try_send(&self, priority: Priority, topic: &str, body: &[u8]) -> Result<u64, SendRefusal> {
        self.give(&mut self.shared.lock(), priority, topic, body, Instant::now())
    }

    /// The same for an event that was due at a moment, which may have passed: that is its time, and what its ack's latency counts from. For
    /// measuring at a steady rate, where a sender that was held up must hide nothing.
    ///
    /// # Errors
    /// As [`Producer::try_send`].
    pub fn try_send_due(&self, priority: Priority, topic: &str, body: &[u8], due: Instant) -> Result<u64, SendRefusal> {
        self.give(&mut self.shared.lock(), priority, topic, body, due)
    }

    fn give(
        &self,
        state: &mut MutexGuard<'_, State>,
        priority: Priority,
        topic: &str,
        body: &[u8],
        due: Instant,
    ) -> Result<u64, SendRefusal> {
        check(state)?;
        let sequence = state.session.give(priority, topic, body, due)?;
        self.shared.wake_writer(state);
        Ok(sequence)
    }

    /// Waits for an event's outcome. Refusals that were taken ([`Producer::take_refusals`]) or forgotten before are not known any more.
    ///
    /// # Errors
    /// A producer that has failed.
    ///
    /// # Panics
    /// If there is no event of this sequence yet.
    pub fn wait(&self, sequence: u64) -> Result<Outcome, ClientError> {
        self.outcome(sequence, None).map(|outcome| outcome.expect("without a deadline there is an outcome"))
    }

    /// The same; `None` when there is no outcome in time.
    ///
    /// # Errors
    /// A producer that has failed.
    ///
    /// # Panics
    /// If there is no event of this sequence yet.
    pub fn wait_timeout(&self, sequence: u64, most: Duration) -> Result<Option<Outcome>, ClientError> {
        self.outcome(sequence, Some(Instant::now() + most))
    }

    fn outcome(&self, sequence: u64, deadline: Option<Instant>) -> Result<Option<Outcome>, ClientError> {
        let mut state = self.shared.lock();
        assert!(sequence < state.session.next_sequence(), "sequence {sequence} has not been given yet");
        loop {
            if let Some(outcome) = state.session.outcome(sequence) {
                return Ok(Some(outcome));
            }
            check(&state)?;
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(None);
            }
            state = self.shared.caller_waits(state, deadline);
        }
    }

    /// Waits until every event given so far has its outcome.
    ///
    /// # Errors
    /// A producer that has failed.
    pub fn flush(&self) -> Result<(), ClientError> {
        let mut state = self.shared.lock();
        let end = state.session.next_sequence();
        while state.session.lowest_unacked() < end {
            check(&state)?;
            state = self.shared.caller_waits(state, None);
        }
        Ok(())
    }

    /// Every sequence up to this has its outcome.
    pub fn acked(&self) -> u64 {
        self.shared.lock().session.acked()
    }

    /// The sequence that the next event gets. Kept together with [`Producer::id`], it lets a later life of this producer go on.
    pub fn next_sequence(&self) -> u64 {
        self.shared.lock().session.next_sequence()
    }

    /// How overloaded the server says it is: 0 (not at all) to 4 (it drops all but CRITICAL).
    pub fn overload(&self) -> u8 {
        self.shared.lock().session.overload()
    }

    /// The refusals since the last call, in the order in which they came; adjacent ones for the same reason are one.
    pub fn take_refusals(&self) -> Vec<Refusal> {
        self.shared.lock().session.take_refusals()
    }

    /// What became of its events so far.
    pub fn statistics(&self) -> Statistics {
        self.shared.lock().session.statistics.clone()
    }

    /// Waits until every event has its outcome, says goodbye, and waits for the server to close.
    ///
    /// # Errors
    /// A producer that has failed, now or before.
    pub fn close(mut self) -> Result<Statistics, ClientError> {
        let mut state = self.shared.lock();
        state.closing = true;
        self.shared.wake_writer(&mut state);
        while !matches!(state.phase, Phase::Ended | Phase::Failed(_)) {
            state = self.shared.caller_waits(state, None);
        }
        let ended = check(&state).map(|()| state.session.statistics.clone());
        drop(state);
        if let Some(keeper) = self.keeper.take() {
            keeper.join().expect("the thread of a producer does not panic");
        }
        ended
    }
}

impl Drop for Producer {
    /// The threads end by themselves; one that is connecting just now only when that has come to its end.
    fn drop(&mut self) {
        let Some(mut state) = self.shared.lock_if_sound() else { return };
        state.abandoned = true;
        self.shared.wake_writer(&mut state);
        if let Phase::Connected(stream) = &state.phase {
            // It may be gone already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// The error that ended it (C7).
fn check(state: &State) -> Result<(), ClientError> {
    match &state.phase {
        Phase::Failed(error) => Err(error.clone()),
        _ => Ok(()),
    }
}

fn random_id() -> ProducerId {
    let number = u128::from(backoff::random()) << 64 | u128::from(backoff::random());
    ProducerId::new(NonZeroU128::new(number).unwrap_or(NonZeroU128::MIN))
}
