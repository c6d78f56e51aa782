//! Latency histograms: each agent thread records into one of its own and hands it over now and then.
//!
//! Recording is a few nanoseconds and touches no shared memory. Once in [`PUBLISH_EVERY`] the recorder adds its histogram to the shared
//! one, if nobody reads that just then (a try_lock; it never waits), and starts afresh.

use std::sync::{Arc, Mutex};

use hdrhistogram::Histogram;

use super::ledger::Counter;
use crate::sys::clock::Nanos;

/// How often a recorder hands its values over.
pub const PUBLISH_EVERY: Nanos = Nanos::from_millis(500);

/// The longest latency told apart: one minute. Longer ones count as one minute.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;

fn histogram() -> Histogram<u64> {
    // 2 significant digits: 1 % steps in 40 KiB; a hand-over stays in the tens of microseconds.
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 2).expect("the bounds are constants and valid")
}

/// The latencies between two hand-overs of a recorder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentLatency {
    /// Hand-overs so far: tells whether the rest is new.
    pub hand_overs: u64,
    /// Values in it.
    pub events: u64,
    /// 99 % of them are at most this.
    pub p99: Nanos,
}

/// What readers see.
#[derive(Debug)]
pub struct LatencyShared {
    all: Mutex<Histogram<u64>>,
    /// The last hand-over by itself, for readers that may not wait: hand-overs, values, p99.
    recent: [Counter; 3],
}

impl LatencyShared {
    /// A copy of everything handed over so far.
    pub fn snapshot(&self) -> Histogram<u64> {
        self.all.lock().expect("recorders never panic while they hold it").clone()
    }

    /// What was handed over last. Takes no lock; at the moment of a hand-over it may mix the old and the new.
    pub fn recent(&self) -> RecentLatency {
        let [hand_overs, events, p99] = &self.recent;
        RecentLatency { hand_overs: hand_overs.get(), events: events.get(), p99: Nanos(p99.get()) }
    }

    fn note_recent(&self, local: &Histogram<u64>) {
        let [hand_overs, events, p99] = &self.recent;
        events.set(local.len());
        p99.set(local.value_at_quantile(0.99));
        hand_overs.add(1);
    }
}

/// One thread's recorder.
#[derive(Debug)]
pub struct LatencyRecorder {
    local: Histogram<u64>,
    shared: Arc<LatencyShared>,
    publish_at: Nanos,
}

impl LatencyRecorder {
    /// A recorder and the reader's side of it.
    pub fn new() -> (Self, Arc<LatencyShared>) {
        let shared = Arc::new(LatencyShared { all: Mutex::new(histogram()), recent: Default::default() });
        (Self { local: histogram(), shared: shared.clone(), publish_at: Nanos(0) }, shared)
    }

    /// Records one latency.
    #[inline]
    pub fn record(&mut self, latency: Nanos) {
        self.local.saturating_record(latency.0);
    }

    /// Records the same latency for several events.
    #[inline]
    pub fn record_n(&mut self, latency: Nanos, events: u64) {
        self.local.saturating_record_n(latency.0, events);
    }

    /// Hands the values over when it is time. Call once per poll.
    #[inline]
    pub fn publish_if_due(&mut self, now: Nanos) {
        if now >= self.publish_at {
            self.publish_at = now + PUBLISH_EVERY;
            self.publish();
        }
    }

    /// Hands the values over now (at the end of a drain).
    pub fn publish(&mut self) {
        if self.local.is_empty() {
            return;
        }
        self.shared.note_recent(&self.local);
        if let Ok(mut shared) = self.shared.all.try_lock() {
            shared.add(&self.local).expect("both histograms have the same bounds");
            drop(shared);
            self.local.reset();
        }
    }
}
