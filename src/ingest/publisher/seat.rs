//! The seat of a producer, between its publisher's thread and the engine; and the publisher itself.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};

use super::producer::{Attempt, Producer, Wait};
use super::publication::{Publication, Refusal, Refused};
use crate::control::Patience;
use crate::process::guard::is_inside_handler;
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::sys::wake::Waker;

/// How often a publisher looks whether its node's level has fallen: as often as the level is judged.
const GATE_LOOK_EVERY: Nanos = Nanos::from_millis(10);

/// Holds a producer while the engine takes events.
pub struct ProducerSeat {
    /// `None` when closed (U3).
    producer: Mutex<Option<Producer>>,
    waker: Waker,
}

impl ProducerSeat {
    /// Seats a producer; `waker` is the one that its pool and its tiers know.
    pub fn new(producer: Producer, waker: Waker) -> Arc<Self> {
        Arc::new(Self { producer: Mutex::new(Some(producer)), waker })
    }

    /// A waker for the thread of a seat's publisher.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn waker() -> io::Result<Waker> {
        Waker::new()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Producer>> {
        self.producer.lock().expect("nobody panics with this lock held")
    }

    fn attempt(&self, publication: &Publication<'_>, patience: Patience) -> Attempt {
        match &mut *self.lock() {
            Some(producer) => producer.attempt(publication, patience, HostClock.now(), HostClock.wall()),
            None => Attempt::Refused(Refusal::Closed),
        }
    }

    /// As `attempt`, and asks for a wake-up by the next slot that comes home if there is still no way (U2).
    fn last_look(&self, publication: &Publication<'_>) -> Attempt {
        let mut producer = self.lock();
        let Some(producer) = &mut *producer else { return Attempt::Refused(Refusal::Closed) };
        producer.announce_starved(true);
        let attempt = producer.attempt(publication, Patience::CanWait, HostClock.now(), HostClock.wall());
        if !matches!(attempt, Attempt::MustWait(_)) {
            producer.announce_starved(false);
        }
        attempt
    }

    /// Sleeps until there is a way (U2).
    #[cold]
    fn wait_and_attempt(&self, publication: &Publication<'_>) -> Attempt {
        loop {
            self.waker.state().announce();
            let attempt = self.last_look(publication);
            match attempt {
                Attempt::MustWait(Wait::Room) => self.waker.sleep(None),
                Attempt::MustWait(Wait::Gate) => self.waker.sleep(Some(GATE_LOOK_EVERY)),
                Attempt::Sent(_) | Attempt::Refused(_) => {}
            }
            self.waker.state().resume();
            if !matches!(attempt, Attempt::MustWait(_)) {
                return attempt;
            }
        }
    }

    /// Takes home what was released, for gauges: a publisher that has nothing to say would not do it.
    pub fn look_after(&self) {
        if let Some(producer) = &mut *self.lock() {
            producer.collect();
        }
    }

    /// Ends the producer's time (U3); whoever sleeps in `publish` gets its publication back. `None`: it was closed before.
    pub fn close(&self) -> Option<Producer> {
        let producer = self.lock().take();
        self.waker.notify();
        producer
    }
}

/// Publishes events into an engine of this process, from any one thread at a time.
///
/// An engine started with [`publishers`](crate::engine::EngineBuilder::publishers) hands them out. Events of one publisher and tier are
/// handled in the order in which they were published. Dropping it closes nothing: what it published is handled all the same.
pub struct Publisher {
    seat: Arc<ProducerSeat>,
    /// Not Sync, by intent: a lane has one producer at a time, and waiting is for one thread.
    _not_sync: PhantomData<Cell<()>>,
}

impl Publisher {
    /// The publisher of a seat; there should be one.
    pub(crate) fn new(seat: Arc<ProducerSeat>) -> Self {
        Self { seat, _not_sync: PhantomData }
    }

    /// Publishes; the event's id. Waits where a TCP connection would: for room in a tier whose policy is to block or that is above its
    /// high-water mark, for a slot of its part of the pool, and while the node's level pauses the tier. With flow control off and another
    /// policy, that policy decides. What a level sheds from everybody is shed here too.
    ///
    /// # Errors
    /// See [`Refusal`]; inside a handler [`Refusal::WouldBlock`] instead of waiting.
    pub fn publish<'a>(&mut self, publication: Publication<'a>) -> Result<u64, Refused<'a>> {
        let attempt = match self.seat.attempt(&publication, Patience::CanWait) {
            Attempt::MustWait(_) if is_inside_handler() => Attempt::Refused(Refusal::WouldBlock),
            Attempt::MustWait(_) => self.seat.wait_and_attempt(&publication),
            attempt => attempt,
        };
        answer(attempt, publication)
    }

    /// Publishes without ever waiting; the event's id. Where there is no room the tier's policy decides, as for a datagram: an older event of
    /// this publisher is lost for it (drop-old), or this one is.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn try_publish<'a>(&mut self, publication: Publication<'a>) -> Result<u64, Refused<'a>> {
        answer(self.seat.attempt(&publication, Patience::CannotWait), publication)
    }

    /// Publishes what is kept elsewhere and in no hurry, if there is room at once and no level against it. `None`: nothing was done, and the
    /// publication can be offered again.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn offer<'a>(&mut self, publication: Publication<'a>) -> Option<Result<u64, Refused<'a>>> {
        let attempt = match &mut *self.seat.lock() {
            Some(producer) => producer.attempt_unhurried(&publication, HostClock.now(), HostClock.wall()),
            None => Attempt::Refused(Refusal::Closed),
        };
        match attempt {
            Attempt::MustWait(_) => None,
            attempt => Some(answer(attempt, publication)),
        }
    }
}

fn answer(attempt: Attempt, publication: Publication<'_>) -> Result<u64, Refused<'_>> {
    match attempt {
        Attempt::Sent(id) => Ok(id),
        Attempt::Refused(refusal) => Err(Refused { publication, refusal }),
        Attempt::MustWait(_) => unreachable!("an attempt without patience waits for nothing"),
    }
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("is_closed", &self.seat.lock().is_none()).finish()
    }
}
