//! Where an event's time goes: until when each stage was done with it, by tier.
//!
//! An engine's histograms of stages all begin at the receipt of the event's bytes; what a stage took by itself is the distance between two.
//! Percentiles have no exact differences: the distance of two medians is near the median of the distances where both are steady.

use serde::{Deserialize, Serialize};

use super::figure::median;
use crate::metrics::status::StatusDocument;
use crate::metrics::telemetry::LatencySummary;
use crate::wire::Tier;

/// The end of a stage, in the order in which an event passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The engine has its bytes. Counted from when they were written; the ends of all others from here.
    Received,
    /// It is an event in its lane, and so is everything that came with it.
    Parsed,
    /// Its processor has taken it. Known of REALTIME only, whose processor reads the clock then; of the others the queue is part of what
    /// follows.
    Taken,
    /// Its handlers are done.
    Handled,
    /// Its bytes are in the log's buffer.
    Staged,
    /// The write of that buffer is done.
    Written,
    /// The sync after it is done.
    Durable,
}

impl Stage {
    /// All, in order.
    pub const ALL: [Stage; 7] =
        [Stage::Received, Stage::Parsed, Stage::Taken, Stage::Handled, Stage::Staged, Stage::Written, Stage::Durable];

    /// What happens until then.
    pub const fn work(self) -> &'static str {
        match self {
            Stage::Received => "receive",
            Stage::Parsed => "parse",
            Stage::Taken => "queue",
            Stage::Handled => "process",
            Stage::Staged => "append",
            Stage::Written => "write",
            Stage::Durable => "make durable",
        }
    }

    /// The name of the engine's histogram, where it has one.
    fn histogram(self, tier: Tier) -> Option<String> {
        let ending = match self {
            Stage::Received => return None,
            // A turn parses for all tiers at once.
            Stage::Parsed => return Some("parsed".to_owned()),
            Stage::Taken => "_taken",
            Stage::Handled => "",
            Stage::Staged => "_staged",
            Stage::Written => "_written",
            Stage::Durable => "_durable",
        };
        Some(format!("{}{ending}", tier.metric_name()))
    }
}

/// When events of a tier came to the end of a stage: a value for each repeat, nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageTime {
    /// The tier's name.
    pub tier: String,
    /// The stage.
    pub stage: Stage,
    /// Half of them at most so long after their receipt.
    pub p50_ns: Vec<f64>,
    /// 99 of 100 at most so long.
    pub p99_ns: Vec<f64>,
}

/// The stages of a point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stages(pub Vec<StageTime>);

/// Which of the two figures of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantile {
    /// The median event.
    P50,
    /// The slowest of a hundred.
    P99,
}

impl Stages {
    /// Adds a repeat: everything that an engine's status says of stages.
    pub fn note(&mut self, status: &StatusDocument) {
        for tier in Tier::ALL {
            // What only sessions or only tiers without events would tell is left out.
            let has_events = status.latency.get(tier.metric_name()).is_some_and(|handled| handled.count > 0);
            for stage in Stage::ALL.into_iter().filter(|_| has_events) {
                let summary = stage.histogram(tier).and_then(|name| status.latency.get(&name)).filter(|seen| seen.count > 0);
                if let Some(LatencySummary { p50_ns, p99_ns, .. }) = summary {
                    self.note_stage(tier, stage, *p50_ns as f64, *p99_ns as f64);
                }
            }
        }
    }

    /// Adds a repeat's value of one stage.
    pub fn note_stage(&mut self, tier: Tier, stage: Stage, p50_ns: f64, p99_ns: f64) {
        let place = self.0.iter().position(|time| time.tier == tier.name() && time.stage == stage).unwrap_or_else(|| {
            self.0.push(StageTime { tier: tier.name().to_owned(), stage, p50_ns: Vec::new(), p99_ns: Vec::new() });
            self.0.len() - 1
        });
        self.0[place].p50_ns.push(p50_ns);
        self.0[place].p99_ns.push(p99_ns);
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The end of a stage, median over repeats, nanoseconds.
    pub fn end(&self, tier: &str, stage: Stage, quantile: Quantile) -> Option<f64> {
        let time = self.0.iter().find(|time| time.tier == tier && time.stage == stage)?;
        Some(median(if quantile == Quantile::P50 { &time.p50_ns } else { &time.p99_ns }))
    }

    /// What each of these stages took by itself, nanoseconds; 0 where nothing is known, and where a later stage was measured as earlier.
    pub fn spans(&self, tier: &str, stages: &[Stage], quantile: Quantile) -> Vec<f64> {
        let mut at = 0.0_f64;
        let span = |stage: &Stage| match self.end(tier, *stage, quantile) {
            // Before everything else, and on a clock of its own.
            Some(took) if *stage == Stage::Received => took,
            Some(end) => {
                let took = (end - at).max(0.0);
                at = at.max(end);
                took
            }
            None => 0.0,
        };
        stages.iter().map(span).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// REALTIME of an engine that leaves out when events were taken.
    pub(in crate::bench) fn stages() -> Stages {
        let mut status = StatusDocument::default();
        for (name, ns) in [("parsed", 300), ("realtime", 900), ("realtime_staged", 1_500), ("realtime_durable", 2_000_000)] {
            status.latency.insert(name.to_owned(), LatencySummary { count: 1, p50_ns: ns, p99_ns: 3 * ns, ..Default::default() });
        }
        let mut stages = Stages::default();
        stages.note(&status);
        stages
    }

    #[test]
    fn stages_of_tiers_without_events_are_left_out() {
        let stages = stages();
        assert_eq!(stages.0.len(), 4);
        assert!(stages.0.iter().all(|time| time.tier == "realtime"));
    }

    #[test]
    fn what_a_stage_took_is_the_distance_from_the_one_before_that_is_known() {
        let mut stages = stages();
        stages.note_stage(Tier::Realtime, Stage::Received, 5_000.0, 6_000.0);
        let spans = stages.spans("realtime", &Stage::ALL, Quantile::P50);
        assert_eq!(spans, [5_000.0, 300.0, 0.0, 600.0, 600.0, 0.0, 1_998_500.0]);
        assert_eq!(stages.end("realtime", Stage::Handled, Quantile::P99), Some(2_700.0));
        assert_eq!(stages.end("batch", Stage::Handled, Quantile::P99), None);
    }

    #[test]
    fn a_later_stage_that_was_measured_as_earlier_took_nothing() {
        let mut stages = stages();
        stages.note_stage(Tier::Realtime, Stage::Taken, 1_000.0, 1_000.0);
        assert_eq!(stages.spans("realtime", &[Stage::Parsed, Stage::Taken, Stage::Handled], Quantile::P50), [300.0, 700.0, 0.0]);
    }
}
