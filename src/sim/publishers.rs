//! Simulated programs around the engine: real [`Producer`]s, polled instead of given a thread.
//!
//! One that must wait tries again a little later, as a publisher does that was woken; that the wake-up comes is for loom and for the
//! publisher's own tests.

use std::collections::BTreeMap;

use super::clients::{Account, FrameMaker, FrameMix};
use super::frames::SentFrame;
use super::oracle::Arrivals;
use super::ring::SimRing;
use super::rng::Rng;
use crate::control::Patience;
use crate::ingest::{Attempt, Producer, Publication, Refusal};
use crate::pool::{EventKey, Source};
use crate::sys::clock::{Clock, Nanos};

/// A program that publishes.
pub struct SimPublisher {
    producer: Producer,
    maker: FrameMaker,
    frames_left: u32,
    /// What could not be sent yet.
    waiting: Option<SentFrame>,
    next_at: Nanos,
    is_closed: bool,
    rng: Rng,
    /// What it counts as received.
    arrivals: Arrivals,
    counters: BTreeMap<String, u64>,
}

impl SimPublisher {
    /// A program that will publish `frames` events.
    pub fn new(producer: Producer, frames: u32, mix: FrameMix, account: &mut Account, mut rng: Rng) -> Self {
        let next_at = Nanos::from_millis(1_000) + Nanos(rng.below(mix.pause_max.0 * 8));
        Self {
            producer,
            maker: FrameMaker::new(mix, account),
            frames_left: frames,
            waiting: None,
            next_at,
            is_closed: false,
            rng,
            arrivals: Arrivals::default(),
            counters: BTreeMap::new(),
        }
    }

    /// When it acts next; `None` when it has nothing more to do.
    pub fn next_at(&self) -> Option<Nanos> {
        let is_over = self.is_closed || (self.frames_left == 0 && self.waiting.is_none());
        (!is_over).then_some(self.next_at)
    }

    /// Publishes a few events, if it is time.
    pub fn act(&mut self, ring: &SimRing, account: &mut Account) -> bool {
        if self.next_at().is_none_or(|at| ring.now() < at) {
            return false;
        }
        self.next_at = ring.now() + Nanos(self.rng.below(self.maker.mix.pause_max.0));
        for _ in 0..self.rng.between(1..=12) {
            let Some(frame) = self.waiting.take().or_else(|| self.make(account)) else { break };
            let patience = if self.rng.chance(500) { Patience::CanWait } else { Patience::CannotWait };
            if !self.publish(&frame, patience, ring) {
                self.waiting = Some(frame);
                break;
            }
        }
        true
    }

    fn make(&mut self, account: &mut Account) -> Option<SentFrame> {
        self.frames_left = self.frames_left.checked_sub(1)?;
        let frame = self.maker.make(&mut self.rng);
        account.note(&frame);
        Some(frame)
    }

    /// False: it has to wait.
    fn publish(&mut self, frame: &SentFrame, patience: Patience, ring: &SimRing) -> bool {
        let body = frame.body();
        let key = EventKey::new(u128::from(frame.key.client) << 32 | u128::from(frame.key.sequence));
        let publication = Publication { key, ..Publication::new(&frame.topic, &body, frame.priority) };
        let attempt = self.producer.attempt(&publication, patience, ring.now(), ring.wall());
        let name = match attempt {
            Attempt::Sent(_) => "publications sent".to_owned(),
            Attempt::MustWait(wait) => format!("publications waiting {wait:?}"),
            Attempt::Refused(Refusal::Lost(reason)) => format!("publications lost {}", reason.name()),
            Attempt::Refused(refusal) => panic!("{frame:?} is an event, and yet: {refusal}"),
        };
        *self.counters.entry(name).or_default() += 1;
        let has_to_wait = matches!(attempt, Attempt::MustWait(_));
        if !has_to_wait {
            self.arrivals.0[Source::InProcess.index()][frame.priority.tier().index()] += 1;
        }
        !has_to_wait
    }

    /// The engine stops: it publishes no more (U3).
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// The engine is another one, with this producer. Gives the old one back.
    pub fn go_on(&mut self, producer: Producer) -> Producer {
        (self.arrivals, self.is_closed) = (Arrivals::default(), false);
        std::mem::replace(&mut self.producer, producer)
    }

    /// What the engine must have received from it.
    pub fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// How often what happened.
    pub fn counters(&self) -> &BTreeMap<String, u64> {
        &self.counters
    }

    /// Slots that have not come home.
    pub fn slots_missing(&mut self) -> u64 {
        self.producer.slots_missing()
    }
}
