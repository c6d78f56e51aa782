//! What the engine tells of itself: the ledger, counters and gauges, latency histograms, and their export.
//!
//! Hot paths only touch [`ledger::Counter`]s (one writer each) and a thread's own histogram; everything else reads late.

#![forbid(unsafe_code)]

#[cfg(not(loom))]
pub mod admin;
#[cfg(not(loom))]
mod admin_replay;
pub mod export;
pub mod latency;
pub mod ledger;
pub mod pulse;
pub mod status;
pub mod telemetry;
pub mod window_gauges;

/// How a value behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One value of one metric, as handed to an exporter.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Without the `eventstream_` prefix; counters without `_total`, which the text format adds.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Label names and values; never a peer's address.
    pub labels: &'a [(&'static str, &'a str)],
    /// The value now.
    pub value: u64,
}

/// A block of counters and gauges that knows how to list itself.
pub trait Measured: Send + Sync {
    /// Hands every value to the sink.
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>));
}
