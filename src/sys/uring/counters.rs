//! What a ring counts. One writer (its thread), read at scrape.

use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};

/// A ring's counters.
#[derive(Debug)]
pub struct RingCounters {
    runner: String,
    /// System calls.
    pub enters: Counter,
    /// Entries pushed.
    pub submissions: Counter,
    /// Completions reaped, the ring's own included.
    pub completions: Counter,
    /// Enters that a signal or a lack of memory ended; their entries went out with a later one.
    pub interrupted: Counter,
    /// Entries that met a full submission queue; they waited, none was lost.
    pub queue_full: Counter,
    /// Turns that found the completion queue overflown; the kernel kept what didn't fit, multishots ended.
    pub overflows: Counter,
    /// Receives that found no buffer on offer.
    pub starved: Counter,
    /// Wake-ups by other threads.
    pub wakes: Counter,
    /// Operations in flight now.
    pub in_flight: Counter,
}

impl RingCounters {
    pub(super) fn new(runner: String) -> Self {
        Self {
            runner,
            enters: Counter::default(),
            submissions: Counter::default(),
            completions: Counter::default(),
            interrupted: Counter::default(),
            queue_full: Counter::default(),
            overflows: Counter::default(),
            starved: Counter::default(),
            wakes: Counter::default(),
            in_flight: Counter::default(),
        }
    }
}

impl Measured for RingCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        let labels = [("runner", self.runner.as_str())];
        let counters = [
            ("ring_enters", "io_uring_enter calls.", &self.enters),
            ("ring_submissions", "Operations submitted.", &self.submissions),
            ("ring_completions", "Completions reaped.", &self.completions),
            ("ring_interrupted", "Enters cut short by a signal or a lack of memory.", &self.interrupted),
            ("ring_queue_full", "Operations that met a full submission queue and waited.", &self.queue_full),
            ("ring_overflows", "Turns that found the completion queue overflown.", &self.overflows),
            ("ring_starved", "Receives that found no buffer on offer.", &self.starved),
            ("ring_wakes", "Wake-ups of a parked runner.", &self.wakes),
        ];
        for (name, help, counter) in counters {
            sink(Sample { name, help, kind: Kind::Counter, labels: &labels, value: counter.get() });
        }
        let help = "Operations in flight.";
        sink(Sample { name: "ring_in_flight", help, kind: Kind::Gauge, labels: &labels, value: self.in_flight.get() });
    }
}
