//! What the bus tells of itself, for export.

#![forbid(unsafe_code)]

use super::lane::Losses;
use super::policy::TierGauge;
use crate::metrics::{Kind, Measured, Sample};
use crate::wire::Tier;

/// Depths, pressures and losses of the tiers, summed over nodes. Reads the lanes when asked; nothing is counted twice.
#[derive(Debug)]
pub struct BusCounters {
    /// By tier: its gauge on each node.
    tiers: [Vec<TierGauge>; Tier::COUNT],
}

impl BusCounters {
    /// Exports these gauges, by tier and node.
    pub fn new(tiers: [Vec<TierGauge>; Tier::COUNT]) -> Self {
        Self { tiers }
    }

    fn gauges(&self, tier: Tier) -> &[TierGauge] {
        &self.tiers[tier.index()]
    }

    /// Events waiting in a tier, over all nodes.
    pub fn depth(&self, tier: Tier) -> usize {
        self.gauges(tier).iter().map(TierGauge::depth).sum()
    }

    fn losses(&self, tier: Tier, pick: fn(&Losses) -> u64) -> u64 {
        self.gauges(tier).iter().flat_map(TierGauge::losses).map(pick).sum()
    }
}

impl Measured for BusCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        type Read = fn(&BusCounters, Tier) -> u64;
        const DEPTHS: [&str; Tier::COUNT] = ["queue_depth_realtime", "queue_depth_trans", "queue_depth_batch"];
        for (tier, name) in Tier::ALL.into_iter().zip(DEPTHS) {
            let (help, value) = ("Events waiting in the lanes of the tier.", self.depth(tier) as u64);
            sink(Sample { name, help, kind: Kind::Gauge, labels: &[], value });
        }
        let by_tier: [(&'static str, &'static str, Kind, Read); 5] = [
            ("queue_capacity", "Events that the lanes of the tier hold.", Kind::Gauge, |bus, tier| {
                bus.gauges(tier).iter().map(|gauge| gauge.capacity() as u64).sum()
            }),
            ("queue_pressure", "Pressure of the fullest node: 0 normal, 1 high, 2 critical.", Kind::Gauge, |bus, tier| {
                bus.gauges(tier).iter().map(|gauge| gauge.pressure() as u64).max().unwrap_or(0)
            }),
            ("queue_evicted", "Events that made room for newer ones (drop-old).", Kind::Counter, |bus, tier| {
                bus.losses(tier, |losses| losses.evicted.get())
            }),
            ("queue_refused", "Events turned away by a full lane (drop-new).", Kind::Counter, |bus, tier| {
                bus.losses(tier, |losses| losses.refused.get())
            }),
            ("queue_waited", "Times that a producer was told to wait for the tier.", Kind::Counter, |bus, tier| {
                bus.losses(tier, |losses| losses.waited.get())
            }),
        ];
        for (name, help, kind, read) in by_tier {
            for tier in Tier::ALL {
                sink(Sample { name, help, kind, labels: &[("tier", tier.metric_name())], value: read(self, tier) });
            }
        }
    }
}
