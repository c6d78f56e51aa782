//! What the processors count beside the ledger. Each part has one writer thread (L1) and cache lines of its own.

use crossbeam_utils::CachePadded;

use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};
use crate::wire::Tier;

/// Written by the realtime processor.
#[derive(Debug, Default)]
pub struct RealtimeCounters {
    /// Events handled and passed on.
    pub processed: Counter,
    /// Events that were late already when they were taken from their lane.
    pub sla_misses_queue: Counter,
    /// Events taken in time, but handled late.
    pub sla_misses_process: Counter,
}

/// Written by the transactional processor.
#[derive(Debug, Default)]
pub struct TransactionalCounters {
    /// Events handled and passed on.
    pub processed: Counter,
    /// Tries after the first.
    pub retries: Counter,
    /// Events waiting for their next try (a gauge).
    pub retries_waiting: Counter,
}

/// One table of keys; written by the processor that owns it.
#[derive(Debug, Default)]
pub struct DedupCounters {
    /// Events asked about.
    pub lookups: Counter,
    /// Duplicates found.
    pub hits: Counter,
    /// Events known by their content because the body lacks what it should be known by.
    pub fallbacks: Counter,
    /// Keys still within their window that made room for others.
    pub evictions: Counter,
    /// Of these, keys of events still being processed.
    pub pending_evictions: Counter,
    /// Places taken (a gauge).
    pub held: Counter,
    /// How far back the table reaches at the rate of the last window (a gauge), milliseconds; 0 before the first event.
    pub window_ms: Counter,
    /// The configured window (a gauge), milliseconds; 0 before the first event.
    pub window_configured_ms: Counter,
}

/// A tier's tables.
#[derive(Debug, Default)]
pub struct TierDedupCounters {
    /// Of events with an idempotency key.
    pub keyed: DedupCounters,
    /// Of the others; TRANSACTIONAL only.
    pub by_body: DedupCounters,
}

impl TierDedupCounters {
    /// Those of the table for an event.
    pub fn of(&self, is_keyed: bool) -> &DedupCounters {
        if is_keyed { &self.keyed } else { &self.by_body }
    }
}

/// Written by the batch processor.
#[derive(Debug, Default)]
pub struct BatchCounters {
    /// Events counted into windows and passed on.
    pub processed: Counter,
    /// Events without a row in a definition's pane: too many groups, or too long names. Counted once for each definition.
    pub topic_limit: Counter,
    /// Groups in closed panes; a window that does not slide is one pane.
    pub windows_closed: Counter,
    /// Closings put off because the writer still had the window before.
    pub windows_extended: Counter,
}

/// Written by the thread that writes windows.
#[derive(Debug, Default)]
pub struct WindowLogCounters {
    /// Lines written.
    pub written: Counter,
    /// Lines lost to a refused write.
    pub lost: Counter,
}

/// Everything that the processors of a node count.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    /// See [`RealtimeCounters`].
    pub realtime: CachePadded<RealtimeCounters>,
    /// See [`TransactionalCounters`].
    pub transactional: CachePadded<TransactionalCounters>,
    /// See [`BatchCounters`].
    pub batch: CachePadded<BatchCounters>,
    /// Tables of keys, by tier; each written by its processor.
    pub dedup: [CachePadded<TierDedupCounters>; Tier::COUNT],
    /// See [`WindowLogCounters`].
    pub window_log: CachePadded<WindowLogCounters>,
}

impl Measured for ProcessCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        let (realtime, trans, batch) = (&self.realtime, &self.transactional, &self.batch);
        let mut labelled = |name, help, label: (&'static str, &str), counter: &Counter| {
            sink(Sample { name, help, kind: Kind::Counter, labels: &[label], value: counter.get() });
        };
        for (tier, counter) in Tier::ALL.into_iter().zip([&realtime.processed, &trans.processed, &batch.processed]) {
            labelled("events_processed", "Events whose handler is done", ("tier", tier.metric_name()), counter);
        }
        let help = "REALTIME events handled later than their deadline, by the stage that was late";
        labelled("sla_misses", help, ("stage", "queue"), &realtime.sla_misses_queue);
        labelled("sla_misses", help, ("stage", "process"), &realtime.sla_misses_process);
        let mut plain =
            |name, help, kind, counter: &Counter| sink(Sample { name, help, kind, labels: &[], value: counter.get() });
        plain("retries", "Tries of a handler after the first", Kind::Counter, &trans.retries);
        plain("retries_waiting", "Events waiting for their next try", Kind::Gauge, &trans.retries_waiting);
        plain(
            "topic_limit",
            "Events without a statistics row, once for each definition of windows",
            Kind::Counter,
            &batch.topic_limit,
        );
        plain("windows_closed", "Groups in closed panes of windows", Kind::Counter, &batch.windows_closed);
        plain("windows_extended", "Closings put off by a slow writer", Kind::Counter, &batch.windows_extended);
        plain("windows_written", "Lines of the windows file written", Kind::Counter, &self.window_log.written);
        plain("windows_lost", "Lines of the windows file lost to a refused write", Kind::Counter, &self.window_log.lost);
        for (tier, tables) in Tier::ALL.into_iter().zip(&self.dedup) {
            measure_table(tier, "key", &tables.keyed, sink);
            if tier == Tier::Transactional {
                measure_table(tier, "body", &tables.by_body, sink);
            }
        }
    }
}

/// One table's samples; `known_by` is what its events are known by.
fn measure_table(tier: Tier, known_by: &str, counters: &DedupCounters, sink: &mut dyn FnMut(Sample<'_>)) {
    let labels = [("tier", tier.metric_name()), ("known_by", known_by)];
    let mut one = |name, help, kind, counter: &Counter| sink(Sample { name, help, kind, labels: &labels, value: counter.get() });
    one("dedup_lookups", "Events looked up in a table of seen keys", Kind::Counter, &counters.lookups);
    one("dedup_table_hits", "Duplicates found in a table of seen keys", Kind::Counter, &counters.hits);
    one("dedup_fallbacks", "Events known by content for want of their key in the body", Kind::Counter, &counters.fallbacks);
    one("dedup_evictions", "Keys that left the table before their window ended", Kind::Counter, &counters.evictions);
    one("dedup_pending_evictions", "Evicted keys of unfinished events", Kind::Counter, &counters.pending_evictions);
    one("dedup_keys", "Keys held", Kind::Gauge, &counters.held);
    one("dedup_window_configured_ms", "The configured window, summed over nodes", Kind::Gauge, &counters.window_configured_ms);
    one(
        "dedup_window_ms",
        "How far back the table reaches at the rate of the last window, summed over nodes",
        Kind::Gauge,
        &counters.window_ms,
    );
}
