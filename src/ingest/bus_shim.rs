//! Stands where the tiers' side of `bus` joins: same names, same signatures.

use crate::bus::lane::{Full, LaneGauge, LaneProducer};
use crate::pool::Event;
use crate::wire::{Priority, Tier};

/// What a full lane does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// Evicts the oldest.
    DropOld,
    /// Refuses the newest.
    DropNew,
    /// Makes the producer wait.
    BlockProducer,
}

/// What became of an event.
#[derive(Debug)]
pub enum Sent {
    /// In the lane.
    Queued,
    /// In the lane, in the place of this one.
    Evicted(Event),
    /// Not in the lane.
    Refused(Event),
    /// Not in the lane: wait.
    Wait(Event),
}

/// A tier's depth.
#[derive(Clone, Debug)]
pub struct TierGauge {
    lanes: Vec<LaneGauge>,
    high_water_events: usize,
}

impl TierGauge {
    /// Over these lanes.
    pub fn new(lanes: Vec<LaneGauge>, high_water_events: usize) -> Self {
        Self { lanes, high_water_events }
    }
}

/// One producer's way into a tier.
pub struct TierSender {
    lane: LaneProducer,
    overflow: Overflow,
    gauge: TierGauge,
}

impl TierSender {
    /// A sender.
    pub fn new(lane: LaneProducer, overflow: Overflow, gauge: TierGauge) -> Self {
        Self { lane, overflow, gauge }
    }

    /// Whether the tier is above its high-water mark.
    pub fn must_wait(&mut self) -> bool {
        self.depth() >= self.gauge.high_water_events
    }

    /// Whether it is below half of it.
    pub fn may_resume(&self) -> bool {
        self.depth() < self.gauge.high_water_events.div_ceil(2)
    }

    /// Sends.
    pub fn send(&mut self, event: Event) -> Sent {
        match (self.lane.push(event), self.overflow) {
            (Ok(()), _) => Sent::Queued,
            (Err(Full(event)), Overflow::DropNew) => Sent::Refused(event),
            (Err(Full(event)), Overflow::BlockProducer) => Sent::Wait(event),
            (Err(Full(event)), Overflow::DropOld) => {
                let oldest = self.lane.evict_oldest();
                let pushed = self.lane.push(event);
                assert!(pushed.is_ok(), "there is room now");
                oldest.map_or(Sent::Queued, Sent::Evicted)
            }
        }
    }

    /// Makes visible.
    pub fn publish(&mut self) {
        self.lane.publish();
    }

    /// Events in the tier.
    pub fn depth(&self) -> usize {
        self.gauge.lanes.iter().map(LaneGauge::depth).sum::<usize>().max(self.lane.depth())
    }
}

/// By priority only.
pub struct Dispatch;

impl Dispatch {
    /// Where it goes.
    #[inline]
    pub fn tier(&self, priority: Priority, _topic: &[u8]) -> Tier {
        priority.tier()
    }
}
