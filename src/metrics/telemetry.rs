//! Everything the engine tells, gathered: where it is read from, and what one reading gives.
//!
//! ```text
//! cells, counters, histograms, pulses (Arcs, each with one writer) ── Telemetry::read ──► Snapshot ──► export · status · summary
//! ```
//!
//! Invariants:
//! - **T1** A reading takes no lock that a hot path could wait for (histograms: the recorder only tries).
//! - **T2** Several parts may report one metric with the same labels; a snapshot holds the sum.
//! - **T3** Names made from the ledger come from the ledger only; the same name from a part is left out, so nothing counts twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use hdrhistogram::Histogram;

use super::latency::LatencyShared;
use super::ledger::{DropReason, Ledger, LedgerCells};
use super::pulse::{RunnerPulse, Vitality};
use super::window_gauges::{WindowGauges, WindowReading};
use super::{Kind, Measured, Sample};
use crate::control::{Level, LevelReading};
use crate::pool::Source;
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::wire::Tier;

/// Something that is read late, from any thread, without waiting.
pub type Reading<T> = Box<dyn Fn() -> T + Send + Sync>;

/// How far a node's log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// The node.
    pub node: u8,
    /// Events with a sequence below or at this one are in the file (survive kill -9); 0: none.
    pub written_sequence: u64,
    /// Events with a sequence below or at this one survive a power cut; 0: none.
    pub durable_sequence: u64,
    /// How what is written is made durable, in a few words.
    pub sync: &'static str,
}

/// How the pipeline is, seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineState {
    /// Not yet taking events.
    Starting,
    /// Taking events.
    Running,
    /// Intake of a tier waits.
    Paused,
    /// Taking nothing new, finishing what is held.
    Draining,
    /// Shedding by level.
    Dropping,
    /// Shedding all but the most urgent, or the store can't be written.
    Emergency,
}

impl PipelineState {
    /// The word in JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            PipelineState::Starting => "starting",
            PipelineState::Running => "running",
            PipelineState::Paused => "paused",
            PipelineState::Draining => "draining",
            PipelineState::Dropping => "dropping",
            PipelineState::Emergency => "emergency",
        }
    }

    /// The state of an engine that has started, by its worst node.
    pub fn of(is_draining: bool, is_store_running: bool, level: Level) -> Self {
        match level {
            _ if is_draining => PipelineState::Draining,
            _ if !is_store_running => PipelineState::Emergency,
            Level::Healthy | Level::Elevated => PipelineState::Running,
            Level::Degraded => PipelineState::Paused,
            Level::Critical => PipelineState::Dropping,
            Level::Emergency => PipelineState::Emergency,
        }
    }

    /// Whether events are taken in, at least some.
    pub const fn takes_events(self) -> bool {
        !matches!(self, PipelineState::Starting | PipelineState::Draining)
    }
}

/// Where everything is read from. The engine fills it once, before the admin endpoint starts.
pub struct Telemetry {
    /// The agents' parts of the ledger.
    pub ledgers: Vec<Arc<LedgerCells>>,
    /// Every other block of counters.
    pub measured: Vec<Arc<dyn Measured>>,
    /// Histograms by what follows `latency_ns_` in their metric's name: a tier's [`Tier::metric_name`], or a stage. Those of one name are added.
    pub latencies: Vec<(&'static str, Arc<LatencyShared>)>,
    /// One for each runner.
    pub pulses: Vec<Arc<RunnerPulse>>,
    /// The last closed windows, of each node with a definition that shows them.
    pub windows: Vec<Arc<WindowGauges>>,
    /// One for each node's log; none with `--storage off`.
    pub logs: Vec<Reading<LogPosition>>,
    /// Events held anywhere, counted from slots and copies.
    pub in_flight: Reading<u64>,
    /// The pipeline's state.
    pub state: Reading<PipelineState>,
    /// Each node's level.
    pub levels: Vec<Reading<LevelReading>>,
    /// When the engine started.
    pub started_at: Nanos,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry")
            .field("ledgers", &self.ledgers.len())
            .field("measured", &self.measured.len())
            .field("latencies", &self.latencies.len())
            .field("pulses", &self.pulses)
            .finish_non_exhaustive()
    }
}

impl Default for Telemetry {
    /// Nothing to read: no agents, no log, running and healthy since now.
    fn default() -> Self {
        Self {
            ledgers: Vec::new(),
            measured: Vec::new(),
            latencies: Vec::new(),
            pulses: Vec::new(),
            windows: Vec::new(),
            logs: Vec::new(),
            in_flight: Box::new(|| 0),
            state: Box::new(|| PipelineState::Running),
            levels: Vec::new(),
            started_at: HostClock.now(),
        }
    }
}

/// Why the engine is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unready {
    /// It takes no events in.
    State(PipelineState),
    /// A runner is stuck.
    Runner {
        /// Which.
        name: String,
        /// For how long.
        stuck_for: Nanos,
    },
}

impl std::fmt::Display for Unready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unready::State(state) => write!(f, "{}", state.name()),
            Unready::Runner { name, stuck_for } => write!(f, "runner {name} made no turn for {} ms", stuck_for.0 / 1_000_000),
        }
    }
}

impl Telemetry {
    /// Whether events are taken in and every runner makes progress. Cheap: reads no histogram.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn ready(&self, now: Nanos) -> Result<(), Unready> {
        let state = (self.state)();
        if !state.takes_events() {
            return Err(Unready::State(state));
        }
        for pulse in &self.pulses {
            if let Vitality::Stuck(stuck_for) = pulse.vitality(now) {
                return Err(Unready::Runner { name: pulse.name().to_owned(), stuck_for });
            }
        }
        Ok(())
    }

    /// Reads everything.
    pub fn read(&self, now: Nanos) -> Snapshot {
        let mut snapshot = Snapshot {
            // Log positions first: what they call written is counted as stored in the ledger that is read after them.
            logs: self.logs.iter().map(|read| read()).collect(),
            in_flight: (self.in_flight)(),
            ledger: Ledger::read(self.ledgers.iter().map(|cells| &**cells)),
            series: BTreeMap::new(),
            latencies: Vec::new(),
            windows: self.windows.iter().map(|gauges| gauges.read()).collect(),
            runners: self.pulses.iter().map(|pulse| (pulse.name().to_owned(), pulse.turns(), pulse.vitality(now))).collect(),
            state: (self.state)(),
            levels: self.levels.iter().map(|read| read()).collect(),
            read_at: now,
            uptime: now.since(self.started_at),
            ready: self.ready(now),
        };
        for part in &self.measured {
            part.measure(&mut |sample| snapshot.add_from_part(sample));
        }
        snapshot.add_ledger_series();
        snapshot.add_own_series();
        for (name, shared) in &self.latencies {
            snapshot.add_latency(name, shared.snapshot());
        }
        snapshot
    }
}

/// Label names and values of a series.
pub type Labels = Vec<(&'static str, String)>;

/// All values of one metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// One line for people.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// By labels, summed (T2).
    pub values: BTreeMap<Labels, u64>,
}

/// One reading of everything.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The ledger.
    pub ledger: Ledger,
    /// Events held, counted; read just before the ledger.
    pub in_flight: u64,
    /// All counters and gauges by name, the ledger's among them.
    pub series: BTreeMap<&'static str, Series>,
    /// Histograms by name, nanoseconds.
    pub latencies: Vec<(&'static str, Histogram<u64>)>,
    /// The last closed windows that are shown.
    pub windows: Vec<WindowReading>,
    /// Name, turns and vitality of each runner.
    pub runners: Vec<(String, u64, Vitality)>,
    /// How far the logs are.
    pub logs: Vec<LogPosition>,
    /// The pipeline's state.
    pub state: PipelineState,
    /// Each node's level.
    pub levels: Vec<LevelReading>,
    /// When all this was read.
    pub read_at: Nanos,
    /// Since the start.
    pub uptime: Nanos,
    /// Whether the engine is ready, or why not.
    pub ready: Result<(), Unready>,
}

fn counter<'a>(name: &'static str, help: &'static str, labels: &'a [(&'static str, &'a str)], value: u64) -> Sample<'a> {
    Sample { name, help, kind: Kind::Counter, labels, value }
}

fn gauge<'a>(name: &'static str, help: &'static str, labels: &'a [(&'static str, &'a str)], value: u64) -> Sample<'a> {
    Sample { name, help, kind: Kind::Gauge, labels, value }
}

/// The metrics made from the ledger (T3).
const LEDGER_SERIES: [&str; 8] = [
    "events_received",
    "events_processed",
    "events_stored",
    "events_handled",
    "events_duplicate",
    "events_dropped",
    "dedup_hits",
    "backpressure_drops",
];

impl Snapshot {
    /// The worst node's level.
    pub fn level(&self) -> Level {
        self.levels.iter().map(|reading| reading.level).max().unwrap_or_default()
    }

    /// The sum of a metric over all its labels; 0 where nobody reports it.
    pub fn sum(&self, name: &str) -> u64 {
        self.series.get(name).map_or(0, |series| series.values.values().sum())
    }

    /// The values of a metric by the value of one of its labels.
    pub fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (labels, value) in self.series.get(name).into_iter().flat_map(|series| &series.values) {
            if let Some((_, key)) = labels.iter().find(|(name, _)| *name == label) {
                *sums.entry(key.clone()).or_default() += value;
            }
        }
        sums
    }

    fn add_from_part(&mut self, sample: Sample<'_>) {
        if !LEDGER_SERIES.contains(&sample.name) {
            self.add(sample);
        }
    }

    fn add(&mut self, sample: Sample<'_>) {
        let series = self.series.entry(sample.name).or_insert_with(|| Series {
            help: sample.help,
            kind: sample.kind,
            values: BTreeMap::new(),
        });
        let labels = sample.labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        *series.values.entry(labels).or_default() += sample.value;
    }

    fn add_ledger_series(&mut self) {
        let ledger = self.ledger.clone();
        for source in Source::ALL {
            for tier in Tier::ALL {
                let terms = ledger.terms[source.index()][tier.index()];
                let labels = &[("source", source.name()), ("tier", tier.name())];
                self.add(counter("events_received", "Frames accepted as events.", labels, terms.received));
                self.add(counter("events_processed", "Events whose handler is done.", labels, terms.processed));
                self.add(counter("events_stored", "Events in the log: their write has completed.", labels, terms.stored));
                self.add(counter("events_handled", "Events that reached their end with storage off.", labels, terms.handled));
                self.add(counter("events_duplicate", "Events recognised as seen before.", labels, terms.duplicate));
            }
        }
        for tier in Tier::ALL {
            let terms = ledger.tier(tier);
            for reason in DropReason::ALL {
                let labels = &[("reason", reason.name()), ("tier", tier.name())];
                let help = "Events that did not reach their end in good order, dead-lettered and dropped.";
                self.add(counter("events_dropped", help, labels, terms.lost[reason as usize]));
            }
        }
        let total = ledger.total();
        self.add(counter("dedup_hits", "Duplicates recognised.", &[], total.duplicate));
        let shed = total.lost[DropReason::BackpressureDrop as usize];
        self.add(counter("backpressure_drops", "Events shed by a control level.", &[], shed));
    }

    fn add_own_series(&mut self) {
        self.add(gauge("events_in_flight", "Events held, counted from slots and copies.", &[], self.in_flight));
        self.add(gauge("uptime_seconds", "Since the start.", &[], self.uptime.0 / 1_000_000_000));
        self.add(gauge("ready", "1: takes events, and every runner makes progress.", &[], u64::from(self.ready.is_ok())));
        self.add(gauge("pipeline_state", "1 for the state the pipeline is in.", &[("state", self.state.name())], 1));
        self.add(gauge("control_level", "1 for the level the worst node is in.", &[("level", self.level().name())], 1));
        for (name, turns, vitality) in self.runners.clone() {
            let labels = &[("runner", name.as_str())];
            self.add(counter("runner_turns", "Turns made.", labels, turns));
            let parked = u64::from(vitality == Vitality::Parked);
            self.add(gauge("runner_parked", "1: sleeps, having nothing to do.", labels, parked));
        }
        for log in self.logs.clone() {
            let node = log.node.to_string();
            let labels = &[("node", node.as_str())];
            self.add(gauge("log_written_sequence", "The last sequence in the file.", labels, log.written_sequence));
            self.add(gauge("log_durable_sequence", "The last sequence that survives a power cut.", labels, log.durable_sequence));
        }
    }

    fn add_latency(&mut self, name: &'static str, histogram: Histogram<u64>) {
        match self.latencies.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => sum.add(&histogram).expect("all histograms have the same bounds"),
            None => self.latencies.push((name, histogram)),
        }
    }
}

/// A histogram in a few numbers, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LatencySummary {
    /// Values recorded.
    pub count: u64,
    /// Half of them are at most this.
    pub p50_ns: u64,
    /// 99 % are at most this.
    pub p99_ns: u64,
    /// 99.9 % are at most this.
    pub p999_ns: u64,
    /// The greatest.
    pub max_ns: u64,
}

impl LatencySummary {
    /// Of a histogram.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            count: histogram.len(),
            p50_ns: histogram.value_at_quantile(0.5),
            p99_ns: histogram.value_at_quantile(0.99),
            p999_ns: histogram.value_at_quantile(0.999),
            max_ns: histogram.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_the_drain_before_the_store_before_the_level() {
        let by_level = Level::ALL.map(|level| PipelineState::of(false, true, level).name());
        assert_eq!(by_level, ["running", "running", "paused", "dropping", "emergency"]);
        assert_eq!(PipelineState::of(false, false, Level::Healthy), PipelineState::Emergency);
        assert_eq!(PipelineState::of(true, false, Level::Emergency), PipelineState::Draining);
    }

    #[test]
    fn the_worst_node_gives_the_level() {
        let reading = |node: u8, level: Level| -> Reading<LevelReading> {
            Box::new(move || LevelReading { node, level, ..LevelReading::default() })
        };
        let levels = vec![reading(0, Level::Elevated), reading(1, Level::Critical), reading(2, Level::Healthy)];
        let snapshot = Telemetry { levels, ..Telemetry::default() }.read(HostClock.now());
        assert_eq!(snapshot.level(), Level::Critical);
        assert_eq!(snapshot.series["control_level"].values.keys().next().map(|labels| labels[0].1.as_str()), Some("CRITICAL"));
    }
}
