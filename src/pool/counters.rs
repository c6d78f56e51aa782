//! What the pool tells of itself: free slots and refusals, by class.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::SlotClass;
use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};

/// One owner's numbers, written by its thread once per [`collect`](super::PoolOwner::collect).
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// Slots it has, by class.
    pub slots: [Counter; SlotClass::COUNT],
    /// Slots in its free lists, by class; what is on its way home is not counted.
    pub free: [Counter; SlotClass::COUNT],
    /// Slots that hold events (sealed and not yet home).
    pub events_out: Counter,
    /// How often it had no slot to give (quota, reserve or class exhausted), by class.
    pub refused: [Counter; SlotClass::COUNT],
}

/// The sum over owners, for export.
#[derive(Debug)]
pub struct PoolMetrics {
    owners: Vec<Arc<PoolCounters>>,
}

impl PoolMetrics {
    /// Exports these owners' numbers as one sum.
    pub fn new(owners: Vec<Arc<PoolCounters>>) -> Self {
        Self { owners }
    }
}

impl Measured for PoolMetrics {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        type Pick = fn(&PoolCounters) -> &[Counter; SlotClass::COUNT];
        let metrics: [(&'static str, &'static str, Kind, Pick); 3] = [
            ("pool_slots", "Slots of the event pool.", Kind::Gauge, |c| &c.slots),
            ("pool_slots_free", "Slots in the free lists of their owners.", Kind::Gauge, |c| &c.free),
            ("pool_refused", "Times that a slot was asked for and none could be given.", Kind::Counter, |c| &c.refused),
        ];
        for (name, help, kind, pick) in metrics {
            for class in SlotClass::ALL {
                let value = self.owners.iter().map(|owner| pick(owner)[class.index()].get()).sum();
                sink(Sample { name, help, kind, labels: &[("class", class.name())], value });
            }
        }
    }
}
