//! What happens when a tier fills up: overflow policies, flow control, pressure.
//!
//! ```text
//! 0 ········ half the mark ········ high-water mark ················ 73 % ······ 85 % ········ capacity
//!   everyone     │                        │  TCP connections wait      │ HIGH      │ CRITICAL      │ overflow policy
//!   goes on      └── they resume ◄────────┘                            │           │               │
//! ```
//!
//! Invariants:
//! - **F1** Depth is over all lanes of the tier, this producer's unpublished events included. What other producers have not published
//!   nobody sees: so with *n* of them the mark may be passed by what *n* - 1 push in one poll, and by nothing with one. (The service
//!   lane, T4 in [`mod@super::tier`], is no *producer* here: it adds what it holds.)
//! - **F2** Hysteresis: once a sender has said *wait*, it goes on saying so until the depth is below half of the mark. So connections
//!   that wait are served before newcomers fill the tier again.
//! - **F3** An empty tier lets everybody go on: a sender never waits for an event that is not there.
//! - **F4** Every event comes back to the caller or is in the lane; nothing is released or lost here.
//!
//! What it does not do: wake a producer that waits. A reactor looks again after a short deadline of its own; a producer with a thread
//! of its own sleeps, and the tier's consumer wakes it (T5 in [`mod@super::tier`]).

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use super::lane::{Full, LaneGauge, LaneProducer, Losses};
use super::tier::TierOptions;
use crate::pool::Event;
use crate::sys::wake::Waker;
use crate::wire::Tier;

/// Pressure is HIGH from this share of a tier's capacity, percent.
pub const PRESSURE_HIGH_PERCENT: usize = 73;
/// Pressure is CRITICAL from this share of a tier's capacity, percent.
pub const PRESSURE_CRITICAL_PERCENT: usize = 85;

const _: () = assert!(PRESSURE_HIGH_PERCENT < PRESSURE_CRITICAL_PERCENT && PRESSURE_CRITICAL_PERCENT < 100);

/// What a full lane does with the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The producer's own oldest event that nobody took yet makes room.
    DropOld,
    /// The next event is turned away.
    DropNew,
    /// The producer's source waits where it can (a TCP connection, an in-process `publish`); else the next event is turned away.
    BlockProducer,
}

impl Overflow {
    /// All, in the order of the documentation.
    pub const ALL: [Overflow; 3] = [Overflow::DropOld, Overflow::DropNew, Overflow::BlockProducer];

    /// The policy of a tier unless asked otherwise: REALTIME prefers the new, TRANSACTIONAL loses nothing, BATCH keeps what it has.
    pub const fn default_of(tier: Tier) -> Overflow {
        match tier {
            Tier::Realtime => Overflow::DropOld,
            Tier::Transactional => Overflow::BlockProducer,
            Tier::Batch => Overflow::DropNew,
        }
    }

    /// The name in flags and files.
    pub const fn name(self) -> &'static str {
        match self {
            Overflow::DropOld => "drop-old",
            Overflow::DropNew => "drop-new",
            Overflow::BlockProducer => "block-producer",
        }
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How full a tier is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Pressure {
    /// Below [`PRESSURE_HIGH_PERCENT`].
    #[default]
    Normal = 0,
    /// From [`PRESSURE_HIGH_PERCENT`].
    High = 1,
    /// From [`PRESSURE_CRITICAL_PERCENT`].
    Critical = 2,
}

impl Pressure {
    /// The pressure of a depth.
    pub const fn of(depth_events: usize, capacity_events: usize) -> Pressure {
        if depth_events * 100 >= capacity_events * PRESSURE_CRITICAL_PERCENT {
            Pressure::Critical
        } else if depth_events * 100 >= capacity_events * PRESSURE_HIGH_PERCENT {
            Pressure::High
        } else {
            Pressure::Normal
        }
    }

    /// The name in JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Pressure::Normal => "NORMAL",
            Pressure::High => "HIGH",
            Pressure::Critical => "CRITICAL",
        }
    }
}

/// What became of an event that was sent.
#[derive(Debug)]
#[must_use = "an event that was not queued is the caller's again (P4)"]
pub enum Sent {
    /// In the lane.
    Queued,
    /// In the lane; this older one made room and goes to the dead letters.
    Evicted(Event),
    /// Turned away; goes to the dead letters.
    Refused(Event),
    /// No room, and the policy is to wait: hold it and send it again, or, where the source can't wait, to the dead letters.
    Wait(Event),
}

/// A tier's depth and limits, for its producers, the control level and metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TierGauge {
    inner: Arc<TierGaugeInner>,
}

#[derive(Debug)]
struct TierGaugeInner {
    lanes: Box<[LaneGauge]>,
    /// Those that share the capacity: all but the service lane.
    producers: usize,
    capacity_events: usize,
    high_water_events: usize,
}

impl TierGauge {
    /// The gauge over a tier's lanes. A mark at or above the capacity means no flow control; the least mark is 1.
    ///
    /// # Panics
    /// If there are fewer lanes than producers.
    pub(super) fn new(lanes: Vec<LaneGauge>, options: &TierOptions) -> Self {
        assert!(lanes.len() >= options.producers, "a lane for each producer");
        let TierOptions { capacity_events, producers, .. } = *options;
        let high_water_events = options.high_water_events.max(1);
        Self { inner: Arc::new(TierGaugeInner { lanes: lanes.into(), producers, capacity_events, high_water_events }) }
    }

    /// Published events of all lanes that nobody took yet.
    pub fn depth(&self) -> usize {
        self.inner.lanes.iter().map(LaneGauge::depth).sum()
    }

    /// Events that were put into the tier since the start.
    pub fn published(&self) -> u64 {
        self.inner.lanes.iter().map(LaneGauge::published).sum()
    }

    /// Events that the tier's consumer has taken since the start.
    pub fn taken(&self) -> u64 {
        self.inner.lanes.iter().map(LaneGauge::taken).sum()
    }

    /// Events that the producers' lanes hold together.
    pub fn capacity(&self) -> usize {
        self.inner.capacity_events
    }

    /// The depth from which producers wait.
    pub fn high_water_events(&self) -> usize {
        self.inner.high_water_events
    }

    /// Whether producers wait at the mark at all.
    pub fn has_flow_control(&self) -> bool {
        self.inner.high_water_events < self.inner.capacity_events
    }

    /// How full the tier is.
    pub fn pressure(&self) -> Pressure {
        Pressure::of(self.depth(), self.capacity())
    }

    /// What its producers could not queue, lane by lane.
    pub fn losses(&self) -> impl Iterator<Item = &Losses> {
        self.inner.lanes.iter().map(LaneGauge::losses)
    }

    /// The depth below which producers that wait go on: half of the mark, or of the capacity without flow control.
    pub(super) fn resume_below_events(&self) -> usize {
        (self.inner.high_water_events.min(self.inner.capacity_events) / 2).max(1)
    }
}

/// One producer's end of a tier: its lane, and what to do when that or the tier is full.
#[derive(Debug)]
pub struct TierSender {
    producer: LaneProducer,
    overflow: Overflow,
    gauge: TierGauge,
    /// Events that may still be sent before the depth has to be looked at again: reading it costs a cache line that the
    /// consumer writes, so that is done once per so many events.
    unchecked: usize,
    /// F2: said *wait*, and the depth has not been below half of the mark since.
    waiting: bool,
}

impl TierSender {
    /// The producer's end over its lane, which is one of the gauge's.
    pub fn new(producer: LaneProducer, overflow: Overflow, gauge: TierGauge) -> Self {
        debug_assert!(gauge.inner.lanes.iter().any(|lane| lane.is_same_lane(&producer.gauge())), "a lane of this tier");
        Self { producer, overflow, gauge, unchecked: 0, waiting: false }
    }

    /// Whom to wake on [`TierSender::publish`]: the consumer's runner, if that is another thread.
    pub fn set_waker(&mut self, waker: Waker) {
        self.producer.set_waker(waker);
    }

    /// The policy.
    pub fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// The tier's gauge.
    pub fn gauge(&self) -> &TierGauge {
        &self.gauge
    }

    /// Whether a source that can wait must do so before it sends its next event here. Ask before each event; an answer of
    /// `false` costs a comparison in most cases.
    #[inline]
    pub fn must_wait(&mut self) -> bool {
        if self.unchecked > 0 {
            return false;
        }
        self.look()
    }

    /// The rare part of `must_wait`: looks at the depth and decides (F1, F2).
    fn look(&mut self) -> bool {
        if self.waiting {
            self.waiting = !self.may_resume();
        } else if self.is_above_mark() {
            self.waiting = true;
            self.producer.losses().waited.add(1);
        }
        if !self.waiting {
            self.unchecked = self.room_below_mark();
        }
        self.waiting
    }

    fn is_above_mark(&mut self) -> bool {
        let must_not_overflow = self.gauge.has_flow_control() || self.overflow == Overflow::BlockProducer;
        let above = self.gauge.has_flow_control() && self.depth() >= self.gauge.high_water_events();
        above || (must_not_overflow && self.producer.free() == 0)
    }

    /// Events that may be sent before the next look: this lane's room, and this producer's part of what is left below the mark, since
    /// all producers may be counting on the rest at the same time (F1). At least one: the caller has just been told to go on.
    fn room_below_mark(&mut self) -> usize {
        let producers = self.gauge.inner.producers;
        let below = self.gauge.high_water_events().saturating_sub(self.depth()) / producers;
        below.min(self.producer.free()).max(1)
    }

    /// Whether a source that was told to wait may go on: the depth is below half of the mark.
    pub fn may_resume(&self) -> bool {
        let lane_resumes = self.producer.depth() < (self.producer.capacity() / 2).max(1);
        lane_resumes && self.depth() < self.gauge.resume_below_events()
    }

    /// Puts an event into the lane, as the policy says if that is full. Seen by the consumer after [`TierSender::publish`].
    #[inline]
    pub fn send(&mut self, event: Event) -> Sent {
        self.unchecked = self.unchecked.saturating_sub(1);
        match self.producer.push(event) {
            Ok(()) => Sent::Queued,
            Err(Full(event)) => self.send_to_full(event),
        }
    }

    #[cold]
    fn send_to_full(&mut self, event: Event) -> Sent {
        match self.overflow {
            Overflow::DropOld => match self.producer.push_evicting(event) {
                Some(oldest) => {
                    self.producer.losses().evicted.add(1);
                    Sent::Evicted(oldest)
                }
                None => Sent::Queued,
            },
            Overflow::DropNew => {
                self.producer.losses().refused.add(1);
                Sent::Refused(event)
            }
            Overflow::BlockProducer => {
                self.producer.losses().waited.add(1);
                Sent::Wait(event)
            }
        }
    }

    /// Makes everything sent visible and wakes the consumer if it sleeps. Once per poll.
    #[inline]
    pub fn publish(&mut self) {
        self.producer.publish();
    }

    /// Events that this producer's lane could take now, as far as it has seen.
    pub fn room(&self) -> usize {
        self.producer.capacity() - self.producer.depth().min(self.producer.capacity())
    }

    /// Events of the whole tier that nobody took yet, this producer's unpublished ones included.
    pub fn depth(&self) -> usize {
        self.gauge.depth() + self.producer.unpublished()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_changes_exactly_at_its_shares() {
        assert_eq!(Pressure::of(72, 100), Pressure::Normal);
        assert_eq!(Pressure::of(73, 100), Pressure::High);
        assert_eq!(Pressure::of(84, 100), Pressure::High);
        assert_eq!(Pressure::of(85, 100), Pressure::Critical);
        assert_eq!(Pressure::of(100, 100), Pressure::Critical);
        assert!(Pressure::Normal < Pressure::High && Pressure::High < Pressure::Critical);
    }
}
