//! What the reactor counts besides the ledger.

use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};
use crate::wire::{FrameRefusal, Tier};

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// The peer ended its stream.
    Peer = 0,
    /// The connection broke (reset, timed out, unreachable).
    Reset = 1,
    /// A frame was refused; nothing after it can be trusted.
    Refused = 2,
    /// A frame did not become whole within the frame deadline.
    SlowFrame = 3,
    /// No byte came within the idle deadline.
    Idle = 4,
    /// More connections than the table holds.
    OverLimit = 5,
    /// The engine is stopping.
    Drained = 6,
    /// It spoke version 1, which has no token, where one is needed.
    Anonymous = 7,
    /// Its source has all the connections that it may have.
    SourceLimit = 8,
}

impl CloseReason {
    /// How many there are.
    pub const COUNT: usize = 9;
    /// All, by index.
    pub const ALL: [CloseReason; CloseReason::COUNT] = [
        CloseReason::Peer,
        CloseReason::Reset,
        CloseReason::Refused,
        CloseReason::SlowFrame,
        CloseReason::Idle,
        CloseReason::OverLimit,
        CloseReason::Drained,
        CloseReason::Anonymous,
        CloseReason::SourceLimit,
    ];

    /// Its place in arrays indexed by reason.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            CloseReason::Peer => "peer",
            CloseReason::Reset => "reset",
            CloseReason::Refused => "refused",
            CloseReason::SlowFrame => "slow_frame",
            CloseReason::Idle => "idle",
            CloseReason::OverLimit => "over_limit",
            CloseReason::Drained => "drained",
            CloseReason::Anonymous => "anonymous",
            CloseReason::SourceLimit => "source_limit",
        }
    }
}

/// The two transports, as far as counters are kept per transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Transport {
    /// Streams.
    Tcp = 0,
    /// Datagrams.
    Udp = 1,
}

const TRANSPORTS: [(Transport, &str); 2] = [(Transport::Tcp, "tcp"), (Transport::Udp, "udp")];

/// The labels of the two UDP sockets, by [`super::UdpSocketWiring::realtime`].
const SOCKETS: [&str; 2] = ["rest", "realtime"];

/// One reactor's counters (one writer each).
#[derive(Debug, Default)]
pub struct IngestCounters {
    /// Connections in the table now, closing ones included (a gauge).
    pub connections_open: Counter,
    /// Connections accepted into the table.
    pub accepted: Counter,
    /// Connections closed, by [`CloseReason`].
    pub closed: [Counter; CloseReason::COUNT],
    /// Times that accepting stopped for want of descriptors or memory.
    pub accept_backoff: Counter,
    /// Frames refused, by [`Transport`] and [`FrameRefusal::index`].
    pub refused: [[Counter; FrameRefusal::COUNT]; 2],
    /// Frames of which a connection's end left only a part.
    pub partial_frame: Counter,
    /// Frames that missed their deadline.
    pub slow_frame: Counter,
    /// Bytes received, by [`Transport`] (frames, not kernel headers).
    pub received_bytes: [Counter; 2],
    /// Waits of connections for room in a tier, by tier.
    pub waits: [Counter; Tier::COUNT],
    /// Waits of connections for a slot of the pool.
    pub slot_waits: Counter,
    /// Waits of connections for credit of their source.
    pub rate_waits: Counter,
    /// Bytes moved to parking memory.
    pub parked_bytes: Counter,
    /// Chunks that stayed with their connection, as there was no parking memory.
    pub pinned_chunks: Counter,
    /// Receives that ended because no buffer was on offer.
    pub starved: Counter,
    /// Receives and accepts armed again after they ended on their own.
    pub rearmed: Counter,
    /// Completions of operations that are no longer anyone's.
    pub late_completions: Counter,
    /// Datagrams received, empty and truncated ones included.
    pub datagrams: Counter,
    /// Datagrams larger than their buffer: never stored.
    pub udp_truncated: Counter,
    /// Datagrams without a byte.
    pub udp_empty: Counter,
    /// Datagrams that the kernel dropped, by socket (0 = the rest, 1 = REALTIME's). Exact without GRO, a lower bound with it.
    pub kernel_drops: [Counter; 2],
}

impl IngestCounters {
    /// Datagrams that the kernel dropped, over both sockets.
    pub fn kernel_drops_total(&self) -> u64 {
        self.kernel_drops.iter().map(Counter::get).sum()
    }

    fn measure_connections(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        one(sink, "connections_open", "Connections in the table, closing ones included", Kind::Gauge, &self.connections_open);
        one(sink, "connections_accepted", "Connections accepted", Kind::Counter, &self.accepted);
        for reason in CloseReason::ALL {
            let labels = [("reason", reason.name())];
            let value = self.closed[reason.index()].get();
            let help = "Connections closed, by reason";
            sink(Sample { name: "connections_closed", help, kind: Kind::Counter, labels: &labels, value });
        }
        let help = "Times that accepting backed off for want of descriptors or memory";
        one(sink, "accept_backoff", help, Kind::Counter, &self.accept_backoff);
    }

    fn measure_frames(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        for (transport, name) in TRANSPORTS {
            for refusal in FrameRefusal::ALL {
                let labels = [("transport", name), ("reason", refusal.name())];
                let value = self.refused[transport as usize][refusal.index()].get();
                let help = "Frames refused, by transport and reason";
                sink(Sample { name: "frames_refused", help, kind: Kind::Counter, labels: &labels, value });
            }
            let (labels, value) = ([("transport", name)], self.received_bytes[transport as usize].get());
            let help = "Bytes of frames received, by transport";
            sink(Sample { name: "received_bytes", help, kind: Kind::Counter, labels: &labels, value });
        }
        one(sink, "partial_frame", "Frames cut by the end of their connection", Kind::Counter, &self.partial_frame);
        one(sink, "slow_frame", "Frames that missed the frame deadline", Kind::Counter, &self.slow_frame);
    }

    fn measure_flow(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        for tier in Tier::ALL {
            let (labels, value) = ([("tier", tier.name())], self.waits[tier.index()].get());
            let help = "Waits of connections for room in a tier";
            sink(Sample { name: "connection_waits", help, kind: Kind::Counter, labels: &labels, value });
        }
        one(sink, "slot_waits", "Waits of connections for a slot of the pool", Kind::Counter, &self.slot_waits);
        one(sink, "rate_waits", "Waits of connections for their source's rate", Kind::Counter, &self.rate_waits);
        one(sink, "parked_bytes", "Bytes moved to parking memory", Kind::Counter, &self.parked_bytes);
        one(sink, "pinned_chunks", "Chunks kept by a waiting connection", Kind::Counter, &self.pinned_chunks);
        one(sink, "receives_starved", "Receives ended for want of a buffer", Kind::Counter, &self.starved);
        one(sink, "receives_rearmed", "Multishot operations armed again", Kind::Counter, &self.rearmed);
        one(sink, "late_completions", "Completions that nobody waits for", Kind::Counter, &self.late_completions);
    }

    fn measure_datagrams(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        one(sink, "datagrams", "Datagrams received", Kind::Counter, &self.datagrams);
        one(sink, "udp_truncated", "Datagrams larger than their buffer", Kind::Counter, &self.udp_truncated);
        one(sink, "udp_empty", "Datagrams without a byte", Kind::Counter, &self.udp_empty);
        for (socket, counter) in SOCKETS.into_iter().zip(&self.kernel_drops) {
            let (labels, value) = ([("socket", socket)], counter.get());
            let help = "Datagrams dropped by the kernel before us";
            sink(Sample { name: "kernel_drops", help, kind: Kind::Counter, labels: &labels, value });
        }
    }
}

fn one(sink: &mut dyn FnMut(Sample<'_>), name: &'static str, help: &'static str, kind: Kind, counter: &Counter) {
    sink(Sample { name, help, kind, labels: &[], value: counter.get() });
}

impl Measured for IngestCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        self.measure_connections(sink);
        self.measure_frames(sink);
        self.measure_flow(sink);
        self.measure_datagrams(sink);
    }
}
