//! Latencies as a curve over percentiles: what a report draws, and the `.hgrm` text that other tools draw.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency told apart, one minute; longer ones count as that.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Quantiles between two halvings of what is left to 1.
const TICKS_PER_HALF: u32 = 5;

/// A histogram for a sender or a handler of the harness: 1 % steps, as the engine's own.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 2).expect("the bounds are constants and valid")
}

/// Where a curve passes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// 0 to 1.
    pub quantile: f64,
    /// That share of the values is at most this, nanoseconds.
    pub ns: u64,
}

/// One distribution of latencies, nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// From where to where: `due to handled`.
    pub name: String,
    /// Values recorded.
    pub count: u64,
    /// Their mean.
    pub mean_ns: f64,
    /// The greatest.
    pub max_ns: u64,
    /// From quantile 0 to 1, denser towards 1; both ascending.
    pub points: Vec<CurvePoint>,
}

impl Curve {
    /// Of a histogram of nanoseconds.
    pub fn of(name: impl Into<String>, histogram: &Histogram<u64>) -> Self {
        let points = histogram.iter_quantiles(TICKS_PER_HALF);
        let points = points.map(|step| CurvePoint { quantile: step.quantile_iterated_to(), ns: step.value_iterated_to() });
        Self {
            name: name.into(),
            count: histogram.len(),
            mean_ns: histogram.mean(),
            max_ns: histogram.max(),
            points: points.collect(),
        }
    }

    /// That share of the values is at most this, nanoseconds; 0 without values.
    pub fn at(&self, quantile: f64) -> u64 {
        self.points.iter().find(|point| point.quantile >= quantile).map_or(self.max_ns, |point| point.ns)
    }

    /// The text form that HdrHistogram's plotters read: value in microseconds, percentile, count so far, 1/(1 - percentile).
    pub fn hgrm(&self) -> String {
        let mut text = format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
        for point in &self.points {
            let micros = point.ns as f64 / 1e3;
            let so_far = (point.quantile * self.count as f64).round() as u64;
            // Writing to a string can't fail.
            let _ = match point.quantile {
                whole if whole >= 1.0 => writeln!(text, "{micros:>12.3} {:>14.12} {:>10}", 1.0, self.count),
                quantile => writeln!(text, "{micros:>12.3} {quantile:>14.12} {so_far:>10} {:>14.2}", 1.0 / (1.0 - quantile)),
            };
        }
        let _ = writeln!(text, "#[Mean    = {:>12.3}, Total count = {:>12}]", self.mean_ns / 1e3, self.count);
        let _ = writeln!(text, "#[Max     = {:>12.3}]", self.max_ns as f64 / 1e3);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thousand() -> Curve {
        let mut values = histogram();
        (1..=1_000u64).for_each(|micros| values.record(micros * 1_000).expect("within the bounds"));
        Curve::of("x", &values)
    }

    #[test]
    fn a_curve_keeps_the_quantiles_within_its_precision() {
        let curve = thousand();
        assert_eq!(curve.count, 1_000);
        for (quantile, micros) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let off = curve.at(quantile) as f64 / 1e3 / micros;
            // The iterator stops at quantiles of its own: up to half a tick beyond the one asked for.
            assert!((0.99..1.07).contains(&off), "{quantile}: {off}");
        }
        assert!(curve.points.is_sorted_by(|a, b| a.quantile <= b.quantile && a.ns <= b.ns));
    }

    #[test]
    fn the_text_form_ends_at_the_maximum_with_every_value_counted() {
        let text = thousand().hgrm();
        let rows: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).skip(1).collect();
        let last: Vec<&str> = rows.last().expect("rows").split_whitespace().collect();
        assert_eq!(last[1..], ["1.000000000000", "1000"]);
        assert!(rows.iter().all(|row| row.split_whitespace().all(|word| word.parse::<f64>().is_ok())), "{text}");
        assert!(text.contains("Total count =         1000]"), "{text}");
    }

    #[test]
    fn nothing_recorded_is_no_latency() {
        assert_eq!(Curve::of("x", &histogram()).at(0.99), 0);
    }
}
