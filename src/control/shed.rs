//! What levels shed, counted by what it was about.

use std::sync::Arc;

use crate::bus::{ClassCounters, TopicClasses};
use crate::metrics::ledger::DropReason;
use crate::metrics::{Measured, Sample};

/// One producer's shed events by topic class (one writer). The ledger has their number; this says what they were.
#[derive(Debug)]
pub struct ShedByClass {
    backpressure: ClassCounters,
    emergency: ClassCounters,
}

impl ShedByClass {
    /// Nothing shed yet.
    pub fn new(classes: &Arc<TopicClasses>) -> Self {
        let help = "Events shed by a control level, by topic class.";
        let backpressure = ClassCounters::new("backpressure_drops_by_class", help, classes.clone());
        let help = "Events shed by the level EMERGENCY, by topic class.";
        let emergency = ClassCounters::new("emergency_drops_by_class", help, classes.clone());
        Self { backpressure, emergency }
    }

    /// Counts an event that was dropped at the gate. Other reasons than those of levels are not counted by class.
    pub fn count(&self, reason: DropReason, topic: &[u8]) {
        match reason {
            DropReason::BackpressureDrop => self.backpressure.count(topic),
            DropReason::EmergencyDrop => self.emergency.count(topic),
            _ => {}
        }
    }
}

impl Measured for ShedByClass {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        self.backpressure.measure(sink);
        self.emergency.measure(sink);
    }
}
