//! What an appender tells of itself: counters, and latencies by tier and stage.

use std::sync::Arc;

use super::super::staging::Samples;
use crate::metrics::latency::{LatencyRecorder, LatencyShared};
use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};
use crate::sys::clock::Nanos;
use crate::wire::Tier;

/// Counters of one appender (one writer: its thread).
#[derive(Debug, Default)]
pub struct AppenderCounters {
    /// Batches whose write has completed.
    pub batches: Counter,
    /// Events in them.
    pub events: Counter,
    /// Bytes of them: headers and records, without the padding to whole blocks.
    pub bytes: Counter,
    /// Bytes handed to the kernel: whole blocks, the rewritten tail included.
    pub write_bytes: Counter,
    /// Writes submitted, the rests of short ones included.
    pub writes: Counter,
    /// Writes that completed short.
    pub short_writes: Counter,
    /// Writes refused for want of space (tried again).
    pub no_space: Counter,
    /// Writes interrupted or put off by the kernel (tried again).
    pub interrupted: Counter,
    /// Syncs completed.
    pub syncs: Counter,
    /// Allocations ahead that completed.
    pub allocations: Counter,
    /// Allocations ahead that were refused.
    pub allocations_refused: Counter,
    /// Completions that belonged to nothing in flight.
    pub late_completions: Counter,
    /// Gauge: events staged, not yet written.
    pub staged_events: Counter,
    /// Gauge: 0 running, 1 out of space, 2 failed.
    pub store_state: Counter,
    /// Gauge: sequences below are written.
    pub written_sequence: Counter,
    /// Gauge: sequences below are durable.
    pub durable_sequence: Counter,
    /// Gauge: bytes of the log in use.
    pub log_bytes: Counter,
}

impl Measured for AppenderCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        let mut tell = |name, help, kind, counter: &Counter| sink(Sample { name, help, kind, labels: &[], value: counter.get() });
        let (counter, gauge) = (Kind::Counter, Kind::Gauge);
        tell("log_batches", "Batches written to the log", counter, &self.batches);
        tell("log_events", "Events written to the log", counter, &self.events);
        tell("log_bytes_written", "Bytes of batches written to the log", counter, &self.bytes);
        tell("log_write_bytes", "Bytes handed to the kernel, in whole blocks", counter, &self.write_bytes);
        tell("log_writes", "Writes submitted", counter, &self.writes);
        tell("log_short_writes", "Writes that completed short", counter, &self.short_writes);
        tell("log_no_space", "Writes refused for want of space", counter, &self.no_space);
        tell("log_interrupted", "Writes put off by the kernel", counter, &self.interrupted);
        tell("log_syncs", "Syncs of the log", counter, &self.syncs);
        tell("log_allocations", "Allocations ahead of the log", counter, &self.allocations);
        tell("log_allocations_refused", "Allocations ahead that were refused", counter, &self.allocations_refused);
        tell("log_late_completions", "Completions that belonged to nothing", counter, &self.late_completions);
        tell("log_staged_events", "Events staged, not yet written", gauge, &self.staged_events);
        tell("log_store_state", "0 running, 1 out of space, 2 failed", gauge, &self.store_state);
        tell("log_written_sequence", "Records below this are written", gauge, &self.written_sequence);
        tell("log_durable_sequence", "Records below this are durable", gauge, &self.durable_sequence);
        tell("log_size_bytes", "Bytes of the log in use", gauge, &self.log_bytes);
    }
}

/// The readers' side of an appender's latencies, by tier; all from the receipt of the event's bytes on.
#[derive(Clone, Debug)]
pub struct AppenderLatencies {
    /// Until the event was in the staging buffer.
    pub staged: [Arc<LatencyShared>; Tier::COUNT],
    /// Until its write had completed.
    pub written: [Arc<LatencyShared>; Tier::COUNT],
    /// Until the sync that covers it had completed.
    pub durable: [Arc<LatencyShared>; Tier::COUNT],
}

/// The recorders of one stage.
#[derive(Debug)]
pub(super) struct Stage([LatencyRecorder; Tier::COUNT]);

impl Stage {
    fn new() -> (Self, [Arc<LatencyShared>; Tier::COUNT]) {
        let [(a, x), (b, y), (c, z)] = std::array::from_fn(|_| LatencyRecorder::new());
        (Self([a, b, c]), [x, y, z])
    }

    #[inline]
    pub(super) fn record(&mut self, tier: Tier, received_at: Nanos, now: Nanos) {
        self.0[tier.index()].record(now.since(received_at));
    }

    pub(super) fn record_all(&mut self, samples: &Samples, now: Nanos) {
        samples.iter().for_each(|(tier, received_at)| self.record(tier, received_at, now));
    }
}

/// All recorders of an appender.
#[derive(Debug)]
pub(super) struct Stages {
    pub(super) staged: Stage,
    pub(super) written: Stage,
    pub(super) durable: Stage,
}

impl Stages {
    pub(super) fn new() -> (Self, AppenderLatencies) {
        let ((staged, a), (written, b), (durable, c)) = (Stage::new(), Stage::new(), Stage::new());
        (Self { staged, written, durable }, AppenderLatencies { staged: a, written: b, durable: c })
    }

    pub(super) fn publish_if_due(&mut self, now: Nanos) {
        self.all().for_each(|recorder| recorder.publish_if_due(now));
    }

    pub(super) fn publish(&mut self) {
        self.all().for_each(LatencyRecorder::publish);
    }

    fn all(&mut self) -> impl Iterator<Item = &mut LatencyRecorder> {
        [&mut self.staged, &mut self.written, &mut self.durable].into_iter().flat_map(|stage| stage.0.iter_mut())
    }
}
