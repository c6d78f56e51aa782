//! Sessions, the server's side (PROTOCOL.md, section 2): who speaks, which sequences came, what became of them, and telling it.
//!
//! ```text
//!  hello ─► greeting.rs: desk ─► token, level ─► home elsewhere? ─► handover.rs
//!                                     │ here
//!                                     ▼
//!  frames ─► stream.rs ─► seat.rs: numbers, marks ─► outcomes.rs: fresh? ─► intake ─► tiers … ─► the slot comes home with its outcome
//!                            ▲                            │                                                      │
//!                            └── outbox.rs: one send ◄────┴── acked, refusals ◄──────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - **SE1** A producer has at most one seat on its host, at its home reactor, and a seat at most one connection: the one whose hello came last.
//! - **SE2** A sequence becomes an event at most once while its seat lives, or the log's table of producers tells of it: what is in hand is in the
//!   ring, what was stored is in the table too. A seat is given away only when nothing of it is in hand.
//! - **SE3** Each event of a session comes home with an outcome, to the reactor that made it, or is sent there from the retry memory.
//! - **SE4** No memory is taken after [`Sessions::new`]: seats, desks and outboxes are made there. What can't be kept is refused, or not read.
//! - **SE5** A client that doesn't read costs its outbox, and is closed after the frame deadline. Nobody else notices.
//! - **SE6** A drained reactor has told every session the outcomes of what it had taken, as far as they came in time, before it closed it.
//!
//! It does not know levels of overload (it tells what the gate says), and it stores nothing.

mod counters;
mod greeting;
mod handover;
mod outbox;
mod outcomes;
mod seat;
mod stream;
mod token;

#[cfg(test)]
mod tests_outcomes;

use std::collections::HashMap;
use std::sync::Arc;

pub use counters::SessionCounters;
pub use handover::Inbox;
pub use token::SessionToken;

use crate::metrics::latency::{LatencyRecorder, LatencyShared};
use crate::metrics::ledger::DropReason;
use crate::planted::{Bug, is_planted};
use crate::pool::{Ended, Outcome, Returns};
use crate::storage::producers::ProducerTable;
use crate::storage::status::StoreStatus;
use crate::sys::clock::Nanos;
use crate::wire::ProducerId;
use crate::wire::session::{AckLevel, Hello, SessionFault, WINDOW_MAX};
use greeting::{DESKS, Desks};
pub(super) use outbox::ConnectionRef;
use outbox::{OUTBOX_BYTES, Outbox};
use outcomes::Outcomes;
use seat::Seat;
pub(super) use stream::Protocol;

/// The numbers of a reactor's sessions.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Producers with a seat at a time, 1 to 4096.
    pub seats: u16,
    /// Sequences that each may have without an outcome, 64 to [`WINDOW_MAX`].
    pub window: u32,
    /// What every hello must carry; `None`: nothing.
    pub token: Option<SessionToken>,
    /// Whether streams of version 1, which have no token, are taken.
    pub takes_anonymous: bool,
    /// The highest level that can be promised.
    pub level_max: AckLevel,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { seats: 256, window: 4096, token: None, takes_anonymous: true, level_max: AckLevel::Durable }
    }
}

impl SessionOptions {
    /// Bytes that the sessions of a reactor take.
    pub fn memory_bytes(&self) -> u64 {
        let seat = size_of::<Seat>() + Outcomes::memory_bytes(self.window) + OUTBOX_BYTES;
        (usize::from(self.seats) * seat + usize::from(DESKS) * (size_of::<greeting::Desk>() + OUTBOX_BYTES)) as u64
    }
}

/// What the sessions of a reactor are connected to.
#[derive(Debug)]
pub struct SessionWiring {
    /// The number of this reactor among all of the engine.
    pub reactor: usize,
    /// The inboxes of all reactors, by number.
    pub inboxes: Arc<[Inbox]>,
    /// Where outcomes come from that came home elsewhere.
    pub returns: Returns,
    /// What the log knows of the producers that have their home here.
    pub producers: ProducerTable,
    /// The log's watermarks; `None` with storage off.
    pub store: Option<Arc<StoreStatus>>,
    /// This reactor's counters.
    pub counters: Arc<SessionCounters>,
}

impl SessionWiring {
    /// Of an engine with one reactor, no log, and no past.
    pub fn alone() -> Self {
        Self {
            reactor: 0,
            inboxes: [Inbox::default()].into(),
            returns: Returns::new(1),
            producers: ProducerTable::new(16),
            store: None,
            counters: Arc::default(),
        }
    }
}

/// All sessions of a reactor.
#[derive(Debug)]
pub struct Sessions {
    options: SessionOptions,
    wiring: SessionWiring,
    seats: Vec<Seat>,
    /// Seats that never had a producer, or whose producer was forgotten.
    free: Vec<u16>,
    /// Which seat a producer has.
    by_producer: HashMap<ProducerId, u16>,
    /// The seat that an outcome was for last: the next is mostly for it too.
    last: u16,
    /// Seats with a connection.
    open: Vec<u16>,
    desks: Desks,
    /// Log sequences below this hold everything that has come home, and everything of before the start.
    log_end: u64,
    /// Log sequences from this on will never be written: the store has failed.
    lost_from: Option<u64>,
    /// From the producers' times to receipt: one value for each mark.
    on_the_way: LatencyRecorder,
    latency: Arc<LatencyShared>,
}

impl Sessions {
    /// All that sessions will ever need (SE4).
    ///
    /// # Errors
    /// Whatever mapping the outboxes says.
    ///
    /// # Panics
    /// If an option is out of its range.
    pub fn new(options: SessionOptions, wiring: SessionWiring) -> std::io::Result<Self> {
        assert!((1..=4096).contains(&options.seats) && (64..=WINDOW_MAX).contains(&options.window), "options out of range");
        let seats = usize::from(options.seats);
        let seat = |number: u16| Ok(Seat::new(options.window, Outbox::new(u32::from(number))?));
        let (on_the_way, latency) = LatencyRecorder::new();
        Ok(Self {
            seats: (0..options.seats).map(seat).collect::<std::io::Result<_>>()?,
            free: (0..options.seats).rev().collect(),
            // Twice as many: entries come and go, and the map never grows.
            by_producer: HashMap::with_capacity(2 * seats),
            last: 0,
            open: Vec::with_capacity(seats),
            desks: Desks::new(u32::from(options.seats))?,
            log_end: wiring.store.as_ref().map_or(0, |store| store.written_sequence()),
            lost_from: None,
            on_the_way,
            latency,
            options,
            wiring,
        })
    }

    /// The readers' side of the latencies from producers to here.
    pub fn latency(&self) -> Arc<LatencyShared> {
        Arc::clone(&self.latency)
    }

    fn counters(&self) -> &SessionCounters {
        &self.wiring.counters
    }

    fn inbox(&self) -> &Inbox {
        &self.wiring.inboxes[self.wiring.reactor]
    }

    /// Whether there is nothing that a poll should look at.
    pub(super) fn rest(&self) -> bool {
        self.open.is_empty() && self.desks.in_use() == 0
    }

    /// Sends of all seats and desks that may be in flight at a time.
    pub fn sends_max(options: &SessionOptions) -> u16 {
        options.seats + DESKS
    }

    // -- seats --

    /// What a hello is refused for, whoever's home this is.
    fn judge_hello(&self, hello: &Hello<'_>) -> Result<(), SessionFault> {
        if self.options.token.as_ref().is_some_and(|token| !token.is(hello.token)) {
            return Err(SessionFault::TokenRefused);
        }
        if hello.level > self.options.level_max {
            return Err(SessionFault::LevelUnavailable);
        }
        Ok(())
    }

    /// The producer's seat, for a new connection; and the connection that had it.
    fn take_seat(
        &mut self,
        hello: &Hello<'_>,
        connection: ConnectionRef,
        now: Nanos,
    ) -> Result<(u16, Option<ConnectionRef>), SessionFault> {
        let number = match self.by_producer.get(&hello.producer) {
            Some(number) => *number,
            None => self.fresh_seat(hello)?,
        };
        let seat = &mut self.seats[usize::from(number)];
        let superseded = seat.connection.take();
        if superseded.is_none() {
            self.open.push(number);
        }
        seat.outbox.clear();
        seat.begin(connection, hello, &self.wiring.producers, now);
        self.counters().welcomed.add(1);
        self.counters().open.set(self.open.len() as u64);
        Ok((number, superseded))
    }

    fn fresh_seat(&mut self, hello: &Hello<'_>) -> Result<u16, SessionFault> {
        let number = match self.free.pop() {
            Some(number) => number,
            None => self.evict_seat().ok_or(SessionFault::NoSeat)?,
        };
        let seat = &mut self.seats[usize::from(number)];
        seat.producer = Some(hello.producer);
        seat.outcomes.reset(hello.lowest_unacked, self.wiring.producers.window(hello.producer), self.log_end);
        self.by_producer.insert(hello.producer, number);
        Ok(number)
    }

    /// Takes the seat of the producer that was heard of longest ago, of those without a connection and with nothing in hand. The table of
    /// producers goes on knowing what it has stored (SE2).
    fn evict_seat(&mut self) -> Option<u16> {
        let idle = (0..self.seats.len()).filter(|number| self.seats[*number].is_idle());
        let number = idle.min_by_key(|number| self.seats[*number].used_at)?;
        let producer = self.seats[number].producer.take()?;
        self.by_producer.remove(&producer);
        self.counters().seats_evicted.add(1);
        Some(number as u16)
    }

    /// A connection no longer speaks for its seat.
    fn leave_seat(&mut self, number: u16, now: Nanos) {
        self.seats[usize::from(number)].leave(now);
        self.open.retain(|open| *open != number);
        self.wiring.counters.open.set(self.open.len() as u64);
    }

    // -- outcomes --

    /// An event of a session has come home.
    pub(super) fn ended(&mut self, ended: &Ended) {
        let (producer, sequence) = (ended.stamp.producer, ended.stamp.sequence);
        if self.seats[usize::from(self.last)].producer != Some(producer) {
            // No seat: an event that was given up by a stop that ran out of time.
            let Some(number) = self.by_producer.get(&producer) else { return };
            self.last = *number;
        }
        let outcomes = &mut self.seats[usize::from(self.last)].outcomes;
        match ended.outcome {
            Outcome::Stored { log_sequence } if self.lost_from.is_some_and(|lost| log_sequence >= lost) => {
                outcomes.lose(sequence, DropReason::StoreUnavailable);
            }
            Outcome::Stored { log_sequence } => {
                outcomes.come_home(sequence, log_sequence + 1);
                self.log_end = self.log_end.max(log_sequence + 1);
                self.wiring.producers.observe(ended.stamp);
            }
            Outcome::Handled => {
                outcomes.come_home(sequence, 0);
                self.wiring.producers.observe(ended.stamp);
            }
            Outcome::Lost(reason) => outcomes.lose(sequence, reason),
        }
    }

    /// Takes the outcomes that were sent here from elsewhere.
    pub(super) fn take_returns(&mut self) {
        while let Some(ended) = self.wiring.returns.take(self.wiring.reactor) {
            self.ended(&ended);
        }
    }

    /// Hands the latencies over: no poll follows.
    pub(super) fn publish_latency(&mut self) {
        self.on_the_way.publish();
    }

    /// Once the store has failed, what was staged and will not be written is refused (OC5); what was written and not synced has no answer: whether it
    /// survives, only the next start can tell.
    fn look_at_store(&mut self) {
        let store = self.wiring.store.as_ref().filter(|_| self.lost_from.is_none());
        let Some(written) = store.and_then(|store| store.failed_at()) else { return };
        self.lost_from = Some(written);
        // Those too that nobody has yet: who comes later may have been here before.
        self.seats.iter_mut().for_each(|seat| seat.outcomes.lose_unwritten(written));
    }

    /// Below which log sequence all is at this level. What is only accepted may still be lost until it is written.
    fn watermark(&self, level: AckLevel) -> u64 {
        match (&self.wiring.store, level) {
            (None, _) => u64::MAX,
            _ if is_planted(Bug::EarlyAck) => u64::MAX,
            (Some(store), AckLevel::Accepted | AckLevel::Written) => store.written_sequence(),
            (Some(store), AckLevel::Durable) => store.durable_sequence(),
        }
    }

    /// Whether something is still to be told, or to come home.
    fn has_unsettled(&self) -> bool {
        self.open.iter().any(|number| !self.seats[usize::from(*number)].is_told())
    }

    /// When to look again, if nothing happens before: soon while outcomes or the watermark are waited for.
    pub(super) fn next_look(&self, now: Nanos, soon: Nanos) -> Option<Nanos> {
        if self.rest() {
            return None;
        }
        let after = if self.has_unsettled() { soon } else { super::deadlines::SWEEP_INTERVAL };
        Some(now + after)
    }
}
