//! What became of the events so far.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest time from giving an event to its ack that is told apart from longer ones.
const ACK_LATENCY_MAX: Duration = Duration::from_secs(600);

/// Counts of one [`Producer`](super::Producer) since it was made. Every event given is acked, refused or still unacked.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Events given to it.
    pub given: u64,
    /// Events acked: stored at the wanted level, or known to the server before (see `held`).
    pub acked: u64,
    /// Events refused.
    pub refused: u64,
    /// Of `acked`: events that were lost by the server after their ack, and named; only at the level *accepted*.
    pub lost_after_ack: u64,
    /// Of `refused` and `lost_after_ack`: events whose refusal was forgotten, as nobody took it in time.
    pub refusals_forgotten: u64,
    /// Events that a server said it has when a connection began: sent before the last one broke, or by an earlier life of this producer.
    pub held: u64,
    /// Frames written again on a later connection.
    pub resent: u64,
    /// Connections after the first that the server welcomed.
    pub reconnects: u64,
    /// Connections ended because the server sent what can't be true.
    pub protocol_faults: u64,
    /// From giving an event to reading its ack, in nanoseconds: three digits, up to ten minutes. Of events that were sent: those that the server
    /// had already are not in it.
    pub ack_latency_ns: Histogram<u64>,
}

impl Statistics {
    pub(super) fn new() -> Statistics {
        let ack_latency_ns = Histogram::new_with_bounds(1, ACK_LATENCY_MAX.as_nanos() as u64, 3).expect("constant bounds");
        Statistics {
            given: 0,
            acked: 0,
            refused: 0,
            lost_after_ack: 0,
            refusals_forgotten: 0,
            held: 0,
            resent: 0,
            reconnects: 0,
            protocol_faults: 0,
            ack_latency_ns,
        }
    }

    /// Events without an outcome.
    pub fn unacked(&self) -> u64 {
        self.given - self.acked - self.refused
    }

    pub(super) fn record_ack_latency(&mut self, latency: Duration) {
        // 2^64 ns are 584 years.
        self.ack_latency_ns.saturating_record(latency.as_nanos() as u64);
    }
}
