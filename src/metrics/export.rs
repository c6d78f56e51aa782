//! The text that Prometheus scrapes (OpenMetrics 1.0), encoded by prometheus-client from a [`Snapshot`].
//!
//! The encoder writes `_total` behind the name of every counter. Two names of the engine's vocabulary are counters without that
//! ending (`dedup_hits`, `backpressure_drops`): they go out with type `unknown`, which scrapers take as a plain number.

use std::fmt::Write;

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Kind;
use super::telemetry::{Series, Snapshot};
use super::window_gauges;

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of the latency buckets, nanoseconds: 1-2-5 from 1 µs to 10 s. Fixed, so that scrapes of all hosts and versions add up.
pub const LATENCY_BUCKETS_NS: [u64; 22] = {
    let mut bounds = [0; 22];
    let (mut index, mut decade) = (0, 1_000);
    while index < 21 {
        bounds[index] = decade;
        bounds[index + 1] = 2 * decade;
        bounds[index + 2] = 5 * decade;
        decade *= 10;
        index += 3;
    }
    bounds[21] = decade;
    bounds
};

const _: () = assert!(LATENCY_BUCKETS_NS[0] == 1_000 && LATENCY_BUCKETS_NS[21] == 10_000_000_000);

/// Counters whose name has no `_total`.
const WITHOUT_TOTAL: [&str; 2] = ["dedup_hits", "backpressure_drops"];

/// The text of a snapshot, each name with the prefix `eventstream_`.
pub fn render(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("eventstream");
    registry.register_collector(Box::new(Exposition(snapshot)));
    let mut text = String::with_capacity(32 * 1024);
    if prometheus_client::encoding::text::encode(&mut text, &registry).is_err() {
        // Writing to a string can't fail, and the collector below has no failure of its own; a comment is better than a lost endpoint.
        let _ = writeln!(text, "# the snapshot could not be encoded");
    }
    text
}

#[derive(Debug)]
struct Exposition(Snapshot);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, series) in &self.0.series {
            encode_series(&mut encoder, name, series)?;
        }
        for (name, histogram) in &self.0.latencies {
            let name = format!("latency_ns_{name}");
            let help = "Nanoseconds from receive to the end of the tier or stage.";
            let mut metric = encoder.encode_descriptor(&name, help, None, MetricType::Histogram)?;
            let (sum, buckets) = buckets(histogram);
            metric.encode_histogram::<[(&str, &str); 0]>(sum, histogram.len(), &buckets, None)?;
        }
        window_gauges::encode(&self.0.windows, &mut encoder)
    }
}

fn encode_series(encoder: &mut DescriptorEncoder<'_>, name: &str, series: &Series) -> Result<(), std::fmt::Error> {
    let (metric_type, is_counter) = match series.kind {
        Kind::Counter if WITHOUT_TOTAL.contains(&name) => (MetricType::Unknown, false),
        Kind::Counter => (MetricType::Counter, true),
        Kind::Gauge => (MetricType::Gauge, false),
    };
    let mut metric = encoder.encode_descriptor(name, series.help, None, metric_type)?;
    if let [(labels, value)] = *series.values.iter().collect::<Vec<_>>()
        && labels.is_empty()
    {
        return encode_value(metric, is_counter, *value);
    }
    for (labels, value) in &series.values {
        encode_value(metric.encode_family(labels)?, is_counter, *value)?;
    }
    Ok(())
}

fn encode_value(metric: MetricEncoder<'_>, is_counter: bool, value: u64) -> Result<(), std::fmt::Error> {
    match is_counter {
        true => ConstCounter::new(value).encode(metric),
        false => ConstGauge::new(value).encode(metric),
    }
}

/// Bucket counts and sum of a histogram. A value is counted by the upper end of its step (1 % wide at most), so no bucket claims
/// a latency to be shorter than it was; the sum takes the middle of the steps.
fn buckets(histogram: &Histogram<u64>) -> (f64, Vec<(f64, u64)>) {
    let mut counts = [0u64; LATENCY_BUCKETS_NS.len() + 1];
    let mut sum = 0.0;
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to();
        counts[LATENCY_BUCKETS_NS.partition_point(|bound| *bound < value)] += step.count_since_last_iteration();
        sum += histogram.median_equivalent(value) as f64 * step.count_since_last_iteration() as f64;
    }
    let bounds = LATENCY_BUCKETS_NS.iter().map(|bound| *bound as f64).chain([f64::INFINITY]);
    (sum, bounds.zip(counts).collect())
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
