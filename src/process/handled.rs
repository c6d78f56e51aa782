//! Latency from receive to handled, of every event, and to taken, of one in a batch; handed over in time even when nothing follows.

use std::sync::Arc;

use crate::metrics::latency::{LatencyRecorder, LatencyShared, PUBLISH_EVERY};
use crate::sys::clock::Nanos;

/// A recorder that remembers whether readers know everything it knows.
pub(crate) struct HandledLatency {
    recorder: LatencyRecorder,
    shared: Arc<LatencyShared>,
    /// From receive to taken, where that is known.
    taken: Option<(LatencyRecorder, Arc<LatencyShared>)>,
    /// When what was recorded shall be handed over; `None` when everything is.
    publish_at: Option<Nanos>,
}

impl HandledLatency {
    pub(crate) fn new() -> Self {
        let (recorder, shared) = LatencyRecorder::new();
        Self { recorder, shared, taken: None, publish_at: None }
    }

    /// That of a processor which knows when it took its events.
    pub(crate) fn with_taken() -> Self {
        Self { taken: Some(LatencyRecorder::new()), ..Self::new() }
    }

    pub(crate) fn shared(&self) -> Arc<LatencyShared> {
        self.shared.clone()
    }

    /// From receive to taken; `None` where it is not recorded.
    pub(crate) fn taken(&self) -> Option<Arc<LatencyShared>> {
        self.taken.as_ref().map(|(_, shared)| shared.clone())
    }

    /// A batch was taken, and this is when its first event was received: it stands for the others, which came with it or soon after.
    #[inline]
    pub(crate) fn record_taken(&mut self, received_at: Nanos, taken_at: Nanos) {
        if let Some((recorder, _)) = &mut self.taken {
            recorder.record(taken_at.since(received_at));
        }
    }

    #[inline]
    pub(crate) fn record(&mut self, received_at: Nanos, handled_at: Nanos) -> Nanos {
        let latency = handled_at.since(received_at);
        self.recorder.record(latency);
        latency
    }

    /// At the end of a poll that recorded `recorded` values.
    pub(crate) fn end_poll(&mut self, recorded: u32, now: Nanos) {
        if recorded > 0 && self.publish_at.is_none() {
            self.publish_at = Some(now + PUBLISH_EVERY);
        }
        if self.publish_at.is_some_and(|at| now >= at) {
            self.finish();
        }
    }

    /// Hands everything over now.
    pub(crate) fn finish(&mut self) {
        self.publish_at = None;
        self.recorder.publish();
        self.taken.iter_mut().for_each(|(recorder, _)| recorder.publish());
    }

    pub(crate) fn deadline(&self) -> Option<Nanos> {
        self.publish_at
    }
}
