//! A tier: its capacity split over one lane per producer, and the one consumer that polls them in turn.
//!
//! Invariants:
//! - **T1** The lanes' capacities are powers of two and add up to the tier's capacity, all of it usable.
//! - **T2** Events of one producer are taken in the order they were sent. Nothing is said of the order between producers.
//! - **T3** Round robin by batches: after a lane was served, all others that have something are served before it is again.
//! - **T4** The service lane is beside all this: it adds to the depth, and to nothing else, so the other lanes, the marks and the pressure
//!   are the same with it and without. When it is full its producer waits, whatever the tier's policy: what it carries was lost once already.
//! - **T5** A producer that sleeps until the tier has room is woken: the consumer wakes sleepers after each batch that leaves the depth
//!   below the mark from which waiting producers go on (W1 in [`crate::sys::wake`]; here the *work* is the room). The last batch of a tier
//!   always does.

#![forbid(unsafe_code)]

use super::lane::{LaneConsumer, lane};
use super::policy::{Overflow, TierGauge, TierSender};
use crate::pool::Event;
use crate::sys::wake::{Waker, wake_all};

/// The numbers of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierOptions {
    /// Events that all lanes hold together: a power of two, at least one per producer.
    pub capacity_events: usize,
    /// Producers, and so lanes: at least 1.
    pub producers: usize,
    /// What a full lane does.
    pub overflow: Overflow,
    /// The depth from which sources that can wait do so; the capacity or more for no flow control.
    pub high_water_events: usize,
    /// Events of one more lane, for what the engine itself sends again (T4): a power of two; 0 for none.
    pub service_lane_events: usize,
}

/// Makes a tier: the senders, one per producer (the service lane's comes last), the consumer's end and a gauge over all lanes.
///
/// # Panics
/// If a capacity is not a power of two or smaller than the number of producers, or there is no producer.
pub fn tier(options: TierOptions) -> (Vec<TierSender>, TierReceiver, TierGauge) {
    let mut lanes = split_capacity(options.capacity_events, options.producers);
    lanes.extend((options.service_lane_events > 0).then_some(options.service_lane_events));
    let (producers, consumers): (Vec<_>, Vec<_>) = lanes.into_iter().map(lane).unzip();
    let gauge = TierGauge::new(consumers.iter().map(LaneConsumer::gauge).collect(), &options);
    let overflow = |lane| if lane < options.producers { options.overflow } else { Overflow::BlockProducer };
    let sender = |(lane, producer)| TierSender::new(producer, overflow(lane), gauge.clone());
    let senders = producers.into_iter().enumerate().map(sender).collect();
    (senders, TierReceiver::new(consumers), gauge)
}

/// Splits a tier's capacity over its producers' lanes: each a power of two, together the capacity (T1). As even as that
/// allows: the largest lanes come first and are at most twice the smallest (three producers of 65,536 get 32,768, 16,384, 16,384).
///
/// # Panics
/// If the capacity is not a power of two or smaller than the number of producers, or there is no producer.
pub fn split_capacity(capacity_events: usize, producers: usize) -> Vec<usize> {
    assert!(capacity_events.is_power_of_two(), "tier capacities are powers of two");
    assert!((1..=capacity_events).contains(&producers), "from one producer to one per event of capacity");
    // With 2^k producers all get the same; each of the rest comes from halving one of those lanes.
    let even = 1usize << producers.ilog2();
    let extra = producers - even;
    let whole = capacity_events / even;
    let mut lanes = vec![whole; even - extra];
    lanes.resize(producers, whole / 2);
    lanes
}

/// The consumer's end of a tier.
#[derive(Debug)]
pub struct TierReceiver {
    lanes: Vec<LaneConsumer>,
    /// The lane to look at first.
    next: usize,
    sleepers: Option<Sleepers>,
}

/// Producers that may sleep until the tier has room (T5).
#[derive(Debug)]
struct Sleepers {
    wakers: Vec<Waker>,
    resume_below_events: usize,
}

impl TierReceiver {
    /// The consumer's end over these lanes.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(lanes: Vec<LaneConsumer>) -> Self {
        assert!(!lanes.is_empty(), "a tier has at least one lane");
        Self { lanes, next: 0, sleepers: None }
    }

    /// Whom to wake when the tier has room again (T5).
    pub fn set_sleepers(&mut self, wakers: Vec<Waker>, gauge: &TierGauge) {
        self.sleepers = Some(Sleepers { wakers, resume_below_events: gauge.resume_below_events() });
    }

    /// Takes up to `max` events to the end of `out`, which should have room for them; each lane's oldest first (T2, T3). Returns
    /// how many; zero only if nothing was published.
    #[inline]
    pub fn pop_batch(&mut self, out: &mut Vec<Event>, max: usize) -> usize {
        let (lanes, start) = (self.lanes.len(), self.next);
        let mut taken = 0;
        for turn in 0..lanes {
            let index = if start + turn < lanes { start + turn } else { start + turn - lanes };
            let count = self.lanes[index].pop_batch(out, max - taken);
            if count > 0 {
                taken += count;
                self.next = if index + 1 < lanes { index + 1 } else { 0 };
            }
            if taken == max {
                break;
            }
        }
        if taken > 0
            && let Some(sleepers) = &self.sleepers
            && self.depth() < sleepers.resume_below_events
        {
            wake_all(&sleepers.wakers);
        }
        taken
    }

    /// Events to take, as last published.
    pub fn depth(&self) -> usize {
        self.lanes.iter().map(LaneConsumer::depth).sum()
    }

    /// Events that all lanes hold together.
    pub fn capacity(&self) -> usize {
        self.lanes.iter().map(LaneConsumer::capacity).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_powers_of_two_that_add_up_and_differ_by_two_at_most() {
        for capacity in [1, 2, 16, 64, 16_384, 65_536] {
            for producers in 1..=capacity.min(70) {
                let lanes = split_capacity(capacity, producers);
                assert_eq!(lanes.len(), producers);
                assert_eq!(lanes.iter().sum::<usize>(), capacity);
                assert!(lanes.iter().all(|lane| lane.is_power_of_two()));
                assert!(lanes[0] <= 2 * lanes[producers - 1]);
            }
        }
        assert_eq!(split_capacity(65_536, 3), [32_768, 16_384, 16_384]);
    }

    #[test]
    fn the_service_lane_waits_where_others_drop() {
        for overflow in [Overflow::DropOld, Overflow::DropNew] {
            let options =
                TierOptions { capacity_events: 4, producers: 1, overflow, high_water_events: 4, service_lane_events: 2 };
            let (senders, _receiver, _gauge) = tier(options);
            assert_eq!(senders.iter().map(TierSender::overflow).collect::<Vec<_>>(), [overflow, Overflow::BlockProducer]);
        }
    }

    #[test]
    fn one_producer_has_the_whole_tier_as_its_ring() {
        assert_eq!(split_capacity(16_384, 1), [16_384]);
    }

    #[test]
    #[should_panic(expected = "from one producer")]
    fn more_producers_than_events_of_capacity_are_refused() {
        split_capacity(4, 5);
    }
}
