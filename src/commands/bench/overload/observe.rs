//! What is looked at while it runs, ten times a second: level, depths, losses by reason, the probe's latency.

use std::collections::VecDeque;
use std::fs;

use hdrhistogram::Histogram;

use super::super::probe::{Arrival, Arrivals};
use crate::bench::looks::Looks;
use crate::bench::timeline::{Phase, Timeline, panels};
use crate::control::Level;
use crate::engine::Engine;
use crate::metrics::ledger::DropReason;
use crate::metrics::status::StatusDocument;
use crate::sys::clock::{Clock, HostClock, Nanos};

/// The probe's p99 at a moment is that of so long before it: 1000 events at 1000 a second.
const P99_WINDOW: Nanos = Nanos::from_millis(1_000);

/// The engine at a moment, as phases are steered and judged by it. Counts are since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// Since the observer began.
    pub(super) at: Nanos,
    /// What the scenario was doing.
    pub(super) phase: &'static str,
    /// The control level.
    pub(super) level: Level,
    /// Events that wait in TRANSACTIONAL.
    pub(super) transactional_depth: u64,
    /// Events received.
    pub(super) received: u64,
    /// Events stored.
    pub(super) stored: u64,
    /// Events lost, by reason.
    pub(super) lost: [u64; DropReason::COUNT],
    /// Datagrams that the engine received.
    pub(super) datagrams: u64,
    /// Of the last second's probes; 0 where there was none.
    pub(super) probe_p99: Nanos,
    /// Events offered by all floods.
    pub(super) offered: u64,
    /// Of these, datagrams.
    pub(super) udp_offered: u64,
    /// For how long the engine's threads were ready to run while others had their core, by the kernel's account; zero where it keeps none.
    pub(super) core_taken: Nanos,
}

impl Sample {
    /// Shed by levels.
    pub(super) fn shed(&self) -> u64 {
        self.lost[DropReason::BackpressureDrop as usize] + self.lost[DropReason::EmergencyDrop as usize]
    }

    /// Dropped by the kernel until now, by the sender's count: the engine asks the kernel only once a second. Holds what is still queued.
    pub(super) fn kernel_drops_now(&self) -> u64 {
        self.udp_offered.saturating_sub(self.datagrams)
    }

    /// Lost for want of room inside the engine.
    pub(super) fn overflown(&self) -> u64 {
        self.lost[DropReason::QueueFull as usize] + self.lost[DropReason::PoolExhausted as usize]
    }
}

/// Looks, and keeps what it saw.
pub(super) struct Observer {
    began: Nanos,
    arrivals: Arrivals,
    last_second: VecDeque<Arrival>,
    looks: Looks,
    phases: Vec<Phase>,
    /// All looks.
    pub(super) samples: Vec<Sample>,
    /// How often each level was entered, by the engine's own count.
    pub(super) entered: [u64; Level::COUNT],
}

impl Observer {
    /// Begins now.
    pub(super) fn new(arrivals: Arrivals) -> Self {
        Self {
            began: HostClock.now(),
            arrivals,
            last_second: VecDeque::new(),
            looks: Looks::default(),
            phases: Vec::new(),
            samples: Vec::new(),
            entered: [0; Level::COUNT],
        }
    }

    /// A phase begins.
    pub(super) fn begin(&mut self, phase: &'static str) {
        let from_seconds = HostClock.now().since(self.began).0 as f64 / 1e9;
        self.phases.push(Phase { from_seconds, name: phase.to_owned() });
    }

    /// Looks once; the probe's latencies since the last look go into `latencies`. `offered` is what the floods say: all of them, and datagrams.
    pub(super) fn look(
        &mut self,
        engine: &mut Engine,
        phase: &'static str,
        (offered, udp_offered): (u64, u64),
        latencies: &mut Histogram<u64>,
    ) -> &Sample {
        let now = HostClock.now();
        // What it has to say is in the timeline.
        engine.watch(&mut |_, _| {});
        while let Some(arrival) = self.arrivals.pop() {
            latencies.saturating_record(arrival.from_written.0);
            self.last_second.push_back(arrival);
        }
        while self.last_second.front().is_some_and(|arrival| now.since(arrival.at) > P99_WINDOW) {
            self.last_second.pop_front();
        }
        let snapshot = engine.telemetry().read(now);
        let at = now.since(self.began);
        let is_new = self.looks.add(at.0 as f64 / 1e9, StatusDocument::of(&snapshot));
        debug_assert!(is_new, "looks are further apart than the status's milliseconds");
        let total = snapshot.ledger.total();
        let entered = snapshot.by_label("control_transitions", "level");
        self.entered = Level::ALL.map(|level| entered.get(level.name()).copied().unwrap_or(0));
        self.samples.push(Sample {
            at,
            phase,
            level: snapshot.level(),
            transactional_depth: snapshot.sum("queue_depth_trans"),
            received: total.received,
            stored: total.stored,
            lost: total.lost,
            datagrams: snapshot.sum("datagrams"),
            probe_p99: self.p99(),
            offered,
            udp_offered,
            core_taken: core_taken(),
        });
        self.samples.last().expect("just pushed")
    }

    fn p99(&self) -> Nanos {
        let mut latencies: Vec<u64> = self.last_second.iter().map(|arrival| arrival.from_written.0).collect();
        latencies.sort_unstable();
        // The rank of the 99th percentile, rounded up.
        let rank = (latencies.len() * 99).div_ceil(100);
        Nanos(rank.checked_sub(1).map_or(0, |place| latencies[place]))
    }

    /// What was seen, over time; `None` of a single look.
    pub(super) fn timeline(self) -> Option<Timeline> {
        let mut timeline = Timeline { phases: self.phases, ..self.looks.timeline()? };
        let offered: Vec<u64> = self.samples.iter().map(|sample| sample.offered).collect();
        let offered = timeline.per_second(&offered);
        timeline.push(panels::THROUGHPUT, "offered", "events/s", offered);
        let p99 = self.samples.iter().map(|sample| sample.probe_p99.0 as f64).collect();
        timeline.push(panels::LATENCY, "REALTIME written to handled, p99 of the last second", "ns", p99);
        Some(timeline)
    }
}

/// The second number of `/proc/<pid>/task/<tid>/schedstat` is the time spent waiting on a run queue. Runners are called `n0-…`.
fn core_taken() -> Nanos {
    let waited = |task: fs::DirEntry| -> Option<u64> {
        let is_runner = fs::read_to_string(task.path().join("comm")).ok()?.starts_with("n0-");
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        is_runner.then(|| schedstat.split_whitespace().nth(1)?.parse().ok())?
    };
    Nanos(fs::read_dir("/proc/self/task").into_iter().flatten().flatten().filter_map(waited).sum())
}
