//! What `/status` answers and `eventstream status` prints: the ledger's terms as fields, and how everything is.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::ledger::{DropReason, Ledger, LedgerTerms};
use super::pulse::Vitality;
use super::telemetry::{LatencySummary, LogPosition, Snapshot};
use crate::control::LevelReading;
use crate::pool::Source;
use crate::sys::clock::Nanos;
use crate::wire::Tier;

/// The ledger's terms: `received = stored + handled + duplicate + dead_lettered + dropped + in_flight`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Frames accepted as events.
    pub received: u64,
    /// Events whose handler is done (not a term of the sum).
    pub processed: u64,
    /// In the log.
    pub stored: u64,
    /// At their end with `--storage off`.
    pub handled: u64,
    /// Recognised as seen before.
    pub duplicate: u64,
    /// By reason, all of them.
    pub dead_lettered: BTreeMap<String, u64>,
    /// By reason, all of them.
    pub dropped: BTreeMap<String, u64>,
    /// Received, and no outcome counted yet in this snapshot.
    pub in_flight: u64,
}

impl Terms {
    /// Of a part of the ledger.
    pub fn of(terms: &LedgerTerms) -> Self {
        let by_reason = |dead_lettered: bool| {
            let reasons = DropReason::ALL.into_iter().filter(|reason| reason.is_dead_lettered() == dead_lettered);
            reasons.map(|reason| (reason.name().to_owned(), terms.lost[reason as usize])).collect()
        };
        Self {
            received: terms.received,
            processed: terms.processed,
            stored: terms.stored,
            handled: terms.handled,
            duplicate: terms.duplicate,
            dead_lettered: by_reason(true),
            dropped: by_reason(false),
            in_flight: terms.received.saturating_sub(terms.outcomes()),
        }
    }
}

/// A node's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// The node.
    pub node: u8,
    /// The last sequence in the file; 0: none.
    pub written_sequence: u64,
    /// The last sequence that survives a power cut; 0: none.
    pub durable_sequence: u64,
    /// How what is written is made durable, in a few words.
    pub sync: String,
}

/// A node's control level.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelStatus {
    /// The node.
    pub node: u8,
    /// `HEALTHY` to `EMERGENCY`.
    pub level: String,
    /// For how long, milliseconds.
    pub for_ms: u64,
    /// Why it was entered.
    pub because: String,
}

/// A runner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunnerStatus {
    /// Its name.
    pub name: String,
    /// `running`, `parked` or `stuck`.
    pub vitality: String,
    /// Turns made.
    pub turns: u64,
}

/// The whole answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusDocument {
    /// The engine's version.
    pub version: String,
    /// The pipeline's state.
    pub state: String,
    /// The worst node's control level.
    pub level: String,
    /// Each node's control level.
    pub levels: Vec<LevelStatus>,
    /// Whether the engine is ready.
    pub ready: bool,
    /// Why not; empty when it is.
    pub unready_because: String,
    /// Since the start, milliseconds.
    pub uptime_ms: u64,
    /// TCP connections open.
    pub connections: u64,
    /// Sum of the written sequences of all nodes (of a one-node host: the sequence).
    pub written_sequence: u64,
    /// Sum of the durable sequences of all nodes.
    pub durable_sequence: u64,
    /// Events held, counted from slots and copies.
    pub held: u64,
    /// All tiers and sources.
    pub total: Terms,
    /// By tier.
    pub tiers: BTreeMap<String, Terms>,
    /// By source.
    pub sources: BTreeMap<String, Terms>,
    /// Frames that never became events, by reason.
    pub refused_frames: BTreeMap<String, u64>,
    /// What the kernel dropped before the engine saw it, by socket.
    pub kernel_drops: BTreeMap<String, u64>,
    /// By tier and stage.
    pub latency: BTreeMap<String, LatencySummary>,
    /// Each node's log.
    pub logs: Vec<LogStatus>,
    /// Each runner.
    pub runners: Vec<RunnerStatus>,
    /// Every other metric, as `name{label="value"}`: pool gauges, lanes, appender and so on.
    pub metrics: BTreeMap<String, u64>,
}

/// Metrics that have fields of their own above. The names are those that the parts report.
mod names {
    pub const CONNECTIONS: &str = "connections_open";
    pub const REFUSED_FRAMES: &str = "frames_refused";
    pub const KERNEL_DROPS: &str = "kernel_drops";
    /// Counters without a reason label that are reasons themselves why bytes never became events.
    pub const REASONS_OF_THEIR_OWN: [&str; 4] = ["partial_frame", "slow_frame", "udp_truncated", "udp_empty"];
}

impl StatusDocument {
    /// With the ledger's terms only.
    pub fn of_ledger(ledger: &Ledger) -> Self {
        Self {
            total: Terms::of(&ledger.total()),
            tiers: Tier::ALL.into_iter().map(|tier| (tier.name().to_owned(), Terms::of(&ledger.tier(tier)))).collect(),
            sources: Source::ALL.into_iter().map(|source| (source.name().to_owned(), source_terms(ledger, source))).collect(),
            ..Self::default()
        }
    }

    /// Of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let logs = &snapshot.logs;
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: snapshot.state.name().to_owned(),
            level: snapshot.level().name().to_owned(),
            levels: snapshot.levels.iter().map(|reading| level_status(reading, snapshot.read_at)).collect(),
            ready: snapshot.ready.is_ok(),
            unready_because: snapshot.ready.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            uptime_ms: snapshot.uptime.0 / 1_000_000,
            connections: snapshot.sum(names::CONNECTIONS),
            written_sequence: logs.iter().map(|log| log.written_sequence).sum(),
            durable_sequence: logs.iter().map(|log| log.durable_sequence).sum(),
            held: snapshot.in_flight,
            refused_frames: refused_frames(snapshot),
            kernel_drops: snapshot.by_label(names::KERNEL_DROPS, "socket"),
            latency: snapshot.latencies.iter().map(|(name, values)| ((*name).to_owned(), LatencySummary::of(values))).collect(),
            logs: logs.iter().map(log_status).collect(),
            runners: snapshot.runners.iter().map(|(name, turns, vitality)| runner_status(name, *turns, *vitality)).collect(),
            metrics: metrics(snapshot),
            ..Self::of_ledger(&snapshot.ledger)
        }
    }
}

fn refused_frames(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    let mut refused = snapshot.by_label(names::REFUSED_FRAMES, "reason");
    for name in names::REASONS_OF_THEIR_OWN.into_iter().filter(|name| snapshot.series.contains_key(name)) {
        *refused.entry(name.to_owned()).or_default() += snapshot.sum(name);
    }
    refused
}

fn source_terms(ledger: &Ledger, source: Source) -> Terms {
    let mut sum = LedgerTerms::default();
    ledger.terms[source.index()].iter().for_each(|terms| sum.add(terms));
    Terms::of(&sum)
}

fn log_status(log: &LogPosition) -> LogStatus {
    let LogPosition { node, written_sequence, durable_sequence, sync } = *log;
    LogStatus { node, written_sequence, durable_sequence, sync: sync.to_owned() }
}

fn level_status(reading: &LevelReading, now: Nanos) -> LevelStatus {
    let LevelReading { node, level, since, reason } = reading;
    let (level, because) = (level.name().to_owned(), reason.to_string());
    LevelStatus { node: *node, level, for_ms: now.since(*since).0 / 1_000_000, because }
}

fn runner_status(name: &str, turns: u64, vitality: Vitality) -> RunnerStatus {
    RunnerStatus { name: name.to_owned(), vitality: vitality.name().to_owned(), turns }
}

fn metrics(snapshot: &Snapshot) -> BTreeMap<String, u64> {
    let mut metrics = BTreeMap::new();
    for (name, series) in &snapshot.series {
        for (labels, value) in &series.values {
            let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
            let key = if labels.is_empty() { (*name).to_owned() } else { format!("{name}{{{}}}", labels.join(",")) };
            metrics.insert(key, *value);
        }
    }
    metrics
}

/// One row of the ledger's table: sums by name.
fn write_row(f: &mut fmt::Formatter<'_>, name: &str, terms: &Terms) -> fmt::Result {
    let (dead_lettered, dropped) = (terms.dead_lettered.values().sum::<u64>(), terms.dropped.values().sum::<u64>());
    writeln!(
        f,
        "  {name:<14}{:>14}{:>14}{:>12}{:>12}{:>14}{:>12}{:>12}",
        terms.received, terms.stored, terms.handled, terms.duplicate, dead_lettered, dropped, terms.in_flight
    )
}

/// The ledger as a table, by tier and source, each term a column, and under it what was lost by reason.
pub fn write_ledger(
    f: &mut fmt::Formatter<'_>,
    total: &Terms,
    tiers: &BTreeMap<String, Terms>,
    sources: &BTreeMap<String, Terms>,
) -> fmt::Result {
    writeln!(
        f,
        "  {:<14}{:>14}{:>14}{:>12}{:>12}{:>14}{:>12}{:>12}",
        "", "received", "stored", "handled", "duplicate", "dead-lettered", "dropped", "in flight"
    )?;
    for name in Tier::ALL.map(Tier::name) {
        tiers.get(name).map_or(Ok(()), |terms| write_row(f, name, terms))?;
    }
    for name in Source::ALL.map(Source::name) {
        // A source without events says nothing.
        sources.get(name).filter(|terms| terms.received > 0).map_or(Ok(()), |terms| write_row(f, name, terms))?;
    }
    write_row(f, "total", total)?;
    write_counts(f, "dead-lettered", &total.dead_lettered)?;
    write_counts(f, "dropped", &total.dropped)
}

/// `label: reason 3, other 4`, without the zeros; nothing at all where all are zero.
pub fn write_counts(f: &mut fmt::Formatter<'_>, label: &str, counts: &BTreeMap<String, u64>) -> fmt::Result {
    let counts: Vec<String> =
        counts.iter().filter(|(_, count)| **count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    if counts.is_empty() { Ok(()) } else { writeln!(f, "  {label}: {}", counts.join(", ")) }
}

/// Latencies as a table, microseconds.
pub fn write_latencies<'a>(
    f: &mut fmt::Formatter<'_>,
    latencies: impl Iterator<Item = (&'a str, LatencySummary)> + Clone,
) -> fmt::Result {
    if latencies.clone().all(|(_, latency)| latency.count == 0) {
        return Ok(());
    }
    writeln!(f, "  {:<14}{:>14}{:>12}{:>12}{:>12}{:>12}", "latency, us", "count", "p50", "p99", "p99.9", "max")?;
    for (name, latency) in latencies.filter(|(_, latency)| latency.count > 0) {
        let us = |ns: u64| ns as f64 / 1_000.0;
        let (p50, p99, p999, max) = (us(latency.p50_ns), us(latency.p99_ns), us(latency.p999_ns), us(latency.max_ns));
        writeln!(f, "  {name:<14}{:>14}{p50:>12.1}{p99:>12.1}{p999:>12.1}{max:>12.1}", latency.count)?;
    }
    Ok(())
}

impl fmt::Display for StatusDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = if self.ready { "ready".to_owned() } else { format!("NOT READY ({})", self.unready_because) };
        let seconds = self.uptime_ms as f64 / 1_000.0;
        writeln!(f, "eventstream {}: {}, level {}, {ready}, up {seconds:.1} s", self.version, self.state, self.level)?;
        writeln!(f, "  connections {}, events held {}", self.connections, self.held)?;
        for LevelStatus { node, level, for_ms, because } in &self.levels {
            writeln!(f, "  node {node}: {level} for {:.1} s: {because}", *for_ms as f64 / 1_000.0)?;
        }
        for log in &self.logs {
            let LogStatus { node, written_sequence, durable_sequence, sync } = log;
            writeln!(f, "  log of node {node}: written to {written_sequence}, durable to {durable_sequence} ({sync})")?;
        }
        for runner in &self.runners {
            writeln!(f, "  runner {}: {}, {} turns", runner.name, runner.vitality, runner.turns)?;
        }
        writeln!(f)?;
        write_ledger(f, &self.total, &self.tiers, &self.sources)?;
        write_counts(f, "refused frames", &self.refused_frames)?;
        write_counts(f, "dropped by the kernel", &self.kernel_drops)?;
        write_latencies(f, self.latency.iter().map(|(name, latency)| (name.as_str(), *latency)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metrics::telemetry::Telemetry;
    use crate::metrics::{Kind, Measured, Sample};
    use crate::sys::clock::{Clock, HostClock};

    struct Intake;

    impl Measured for Intake {
        fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
            let mut tell = |name, labels: &[(&'static str, &str)], value| {
                sink(Sample { name, help: "A test's.", kind: Kind::Counter, labels, value });
            };
            tell("frames_refused", &[("transport", "tcp"), ("reason", "topic_empty")], 2);
            tell("frames_refused", &[("transport", "udp"), ("reason", "topic_empty")], 3);
            tell("slow_frame", &[], 4);
            tell("kernel_drops", &[("socket", "realtime")], 5);
            tell("connections_open", &[], 6);
        }
    }

    #[test]
    fn refusals_of_all_transports_are_one_sum_per_reason() {
        let telemetry = Telemetry { measured: vec![Arc::new(Intake), Arc::new(Intake)], ..Telemetry::default() };
        let document = StatusDocument::of(&telemetry.read(HostClock.now()));
        let expected = [("slow_frame".to_owned(), 8), ("topic_empty".to_owned(), 10)];
        assert_eq!(document.refused_frames, expected.into());
        assert_eq!((document.kernel_drops["realtime"], document.connections), (10, 12));
        assert_eq!(document.metrics["frames_refused{transport=\"udp\",reason=\"topic_empty\"}"], 6);
    }

    #[test]
    fn a_document_survives_its_own_json() {
        let document = StatusDocument::of(&Telemetry::default().read(HostClock.now()));
        let text = serde_json::to_string(&document).expect("a JSON form");
        assert_eq!(serde_json::from_str::<StatusDocument>(&text).expect("the same form"), document);
    }
}
