//! What is seen while a scenario runs: several quantities at the same moments, and what was expected of the whole.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::document::quoted;
use crate::control::Level;

/// Names of the panels that scenarios fill: a series belongs to one of them.
pub mod panels {
    /// Events a second: offered, received, stored.
    pub const THROUGHPUT: &str = "throughput";
    /// Events waiting, by tier.
    pub const DEPTH: &str = "events waiting";
    /// Events a second that were lost, by reason.
    pub const DROPS: &str = "losses";
    /// A percentile of the last second.
    pub const LATENCY: &str = "latency";
    /// Memory resident.
    pub const MEMORY: &str = "memory";
}

/// Quantities over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// When was looked, seconds since the beginning, ascending.
    pub seconds: Vec<f64>,
    /// The control level at each look: 0 (HEALTHY) to 4 (EMERGENCY); empty where nobody asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<u8>,
    /// What was looked at.
    pub series: Vec<Series>,
    /// When parts of the scenario began, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<Phase>,
}

/// One quantity over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Which of [`panels`] it belongs to.
    pub panel: String,
    /// What it is, unique within its panel.
    pub name: String,
    /// `events/s`, `events`, `ns`, `bytes`.
    pub unit: String,
    /// A value for each look.
    pub values: Vec<f64>,
}

/// A part of a scenario.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// When it began, on the timeline's axis.
    pub from_seconds: f64,
    /// Its name.
    pub name: String,
}

/// Something that was expected of a run, and whether it was so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Expectation {
    /// What.
    pub what: String,
    /// Whether it was so.
    pub held: bool,
    /// The figures behind it.
    pub figures: String,
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8}  {}: {}", if self.held { "held" } else { "NOT HELD" }, self.what, self.figures)
    }
}

impl Timeline {
    /// Adds a series.
    pub fn push(&mut self, panel: &str, name: impl Into<String>, unit: &str, values: Vec<f64>) {
        debug_assert_eq!(values.len(), self.seconds.len(), "a value for each look");
        self.series.push(Series { panel: panel.to_owned(), name: name.into(), unit: unit.to_owned(), values });
    }

    /// What a count grew by in the second before each look (or since the first one), a second.
    pub fn per_second(&self, counts: &[u64]) -> Vec<f64> {
        let before = |place: usize| {
            let earlier = self.seconds[..place].iter().rposition(|at| self.seconds[place] - at >= 1.0);
            earlier.unwrap_or(0)
        };
        let rate = |place: usize| {
            let from = before(place);
            let took = self.seconds[place] - self.seconds[from];
            if took > 0.0 { counts[place].saturating_sub(counts[from]) as f64 / took } else { 0.0 }
        };
        (0..counts.len().min(self.seconds.len())).map(rate).collect()
    }
}

impl Timeline {
    /// Its end, seconds.
    pub fn end(&self) -> f64 {
        self.seconds.last().copied().unwrap_or(0.0)
    }

    /// From when until when the level was which; empty where nobody asked. A level holds until the next look.
    pub fn level_spans(&self) -> Vec<(f64, f64, Level)> {
        let mut spans: Vec<(f64, f64, Level)> = Vec::new();
        for (pair, level) in self.seconds.windows(2).zip(&self.levels) {
            let level = Level::ALL.get(usize::from(*level)).copied().unwrap_or_default();
            match spans.last_mut() {
                Some((_, to, last)) if *last == level => *to = pair[1],
                _ => spans.push((pair[0], pair[1], level)),
            }
        }
        spans
    }

    /// One row for each look: seconds, level, and a column for each series, `panel: name, unit`.
    pub fn csv(&self) -> String {
        let heads = self.series.iter().map(|series| quoted(&format!("{}: {}, {}", series.panel, series.name, series.unit)));
        let mut rows = vec!["seconds,level".to_owned()];
        rows[0].extend(heads.map(|head| format!(",{head}")));
        for (place, seconds) in self.seconds.iter().enumerate() {
            let level = self.levels.get(place).and_then(|level| Level::ALL.get(usize::from(*level)));
            let mut row = format!("{seconds:.3},{}", level.map_or("", |level| level.name()));
            let values = self.series.iter().map(|series| series.values.get(place).map(f64::to_string).unwrap_or_default());
            row.extend(values.map(|value| format!(",{value}")));
            rows.push(row);
        }
        rows.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_holds_until_the_look_that_shows_another() {
        let timeline = Timeline { seconds: vec![0.0, 0.5, 1.0, 1.5], levels: vec![0, 2, 2, 0], ..Timeline::default() };
        assert_eq!(timeline.level_spans(), [(0.0, 0.5, Level::Healthy), (0.5, 1.5, Level::Degraded)]);
        assert_eq!(Timeline { levels: Vec::new(), ..timeline }.level_spans(), []);
    }

    #[test]
    fn csv_has_a_column_for_each_series() {
        let mut timeline = Timeline { seconds: vec![0.0, 0.5], levels: vec![0, 4], ..Timeline::default() };
        timeline.push(panels::DROPS, "queue_full", "events/s", vec![0.0, 12.5]);
        assert_eq!(timeline.csv(), "seconds,level,\"losses: queue_full, events/s\"\n0.000,HEALTHY,0\n0.500,EMERGENCY,12.5\n");
    }

    #[test]
    fn a_rate_looks_a_second_back_and_no_further_than_the_beginning() {
        let timeline = Timeline { seconds: vec![0.0, 0.5, 1.0, 1.5], ..Timeline::default() };
        assert_eq!(timeline.per_second(&[0, 50, 200, 250]), [0.0, 100.0, 200.0, 200.0]);
    }

    #[test]
    fn an_expectation_says_whether_it_held() {
        let expectation = Expectation { what: "flat".into(), held: false, figures: "1.3".into() };
        assert_eq!(expectation.to_string(), "NOT HELD  flat: 1.3");
    }
}
