//! Latency from receive to handled, of every event, handed over in time even when nothing follows.

use std::sync::Arc;

use crate::metrics::latency::{LatencyRecorder, LatencyShared, PUBLISH_EVERY};
use crate::sys::clock::Nanos;

/// A recorder that remembers whether readers know everything it knows.
pub(crate) struct HandledLatency {
    recorder: LatencyRecorder,
    shared: Arc<LatencyShared>,
    /// When what was recorded shall be handed over; `None` when everything is.
    publish_at: Option<Nanos>,
}

impl HandledLatency {
    pub(crate) fn new() -> Self {
        let (recorder, shared) = LatencyRecorder::new();
        Self { recorder, shared, publish_at: None }
    }

    pub(crate) fn shared(&self) -> Arc<LatencyShared> {
        self.shared.clone()
    }

    #[inline]
    pub(crate) fn record(&mut self, received_at: Nanos, handled_at: Nanos) -> Nanos {
        let latency = handled_at.since(received_at);
        self.recorder.record(latency);
        latency
    }

    /// Events that were received together and handled together.
    #[inline]
    pub(crate) fn record_n(&mut self, received_at: Nanos, handled_at: Nanos, events: u64) -> Nanos {
        let latency = handled_at.since(received_at);
        self.recorder.record_n(latency, events);
        latency
    }

    /// At the end of a poll that recorded `recorded` values.
    pub(crate) fn end_poll(&mut self, recorded: u32, now: Nanos) {
        if recorded > 0 && self.publish_at.is_none() {
            self.publish_at = Some(now + PUBLISH_EVERY);
        }
        if self.publish_at.is_some_and(|at| now >= at) {
            self.publish_at = None;
            self.recorder.publish();
        }
    }

    /// Hands everything over now.
    pub(crate) fn finish(&mut self) {
        self.publish_at = None;
        self.recorder.publish();
    }

    pub(crate) fn deadline(&self) -> Option<Nanos> {
        self.publish_at
    }
}
