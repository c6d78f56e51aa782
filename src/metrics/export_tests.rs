//! The names on the scrape, and that sums and buckets are right.

use std::sync::Arc;

use super::*;
use crate::metrics::latency::LatencyRecorder;
use crate::metrics::ledger::{DropReason, LedgerCells};
use crate::metrics::telemetry::Telemetry;
use crate::metrics::{Measured, Sample};
use crate::pool::Source;
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::wire::Tier;

struct Part(&'static str, Kind, Vec<(&'static str, &'static str)>, u64);

impl Measured for Part {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        sink(Sample { name: self.0, help: "A test's.", kind: self.1, labels: &self.2, value: self.3 });
    }
}

fn scrape(telemetry: &Telemetry) -> String {
    render(telemetry.read(HostClock.now()))
}

fn line<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("no line starts with {start} in\n{text}"))
}

#[test]
fn the_scrape_has_the_names_of_the_vocabulary_exactly() {
    let mut telemetry = Telemetry::default();
    for tier in Tier::ALL {
        telemetry.latencies.push((tier.metric_name(), LatencyRecorder::new().1));
        let depth = ["queue_depth_realtime", "queue_depth_trans", "queue_depth_batch"][tier.index()];
        telemetry.measured.push(Arc::new(Part(depth, Kind::Gauge, vec![], 3)));
    }
    let text = scrape(&telemetry);
    for start in [
        "eventstream_events_received_total{source=\"tcp\",tier=\"realtime\"} 0",
        "eventstream_events_processed_total{source=\"udp\",tier=\"batch\"} 0",
        "eventstream_events_dropped_total{reason=\"queue_full\",tier=\"transactional\"} 0",
        "eventstream_queue_depth_realtime 3",
        "eventstream_queue_depth_trans 3",
        "eventstream_queue_depth_batch 3",
        "eventstream_latency_ns_realtime_bucket{le=\"1000.0\"} 0",
        "eventstream_latency_ns_trans_count 0",
        "eventstream_latency_ns_batch_sum 0",
        "eventstream_dedup_hits 0",
        "eventstream_backpressure_drops 0",
        "# TYPE eventstream_events_received counter",
        "# TYPE eventstream_dedup_hits unknown",
        "# EOF",
    ] {
        line(&text, start);
    }
    let names = text.lines().filter(|line| !line.starts_with('#'));
    assert!(names.clone().count() > 100 && names.into_iter().all(|line| line.starts_with("eventstream_")), "{text}");
}

#[test]
fn several_agents_parts_are_summed_before_they_are_encoded() {
    let mut telemetry = Telemetry::default();
    for received in [2, 3] {
        let cells = LedgerCells::default();
        cells.cell(Source::Tcp, Tier::Realtime).received.add(received);
        cells.cell(Source::Tcp, Tier::Realtime).lost[DropReason::BackpressureDrop as usize].add(1);
        telemetry.ledgers.push(Arc::new(cells));
        telemetry.measured.push(Arc::new(Part("frames_refused", Kind::Counter, vec![("reason", "topic_empty")], received)));
    }
    let text = scrape(&telemetry);
    assert_eq!(
        line(&text, "eventstream_events_received_total{source=\"tcp\",tier=\"realtime\""),
        "eventstream_events_received_total{source=\"tcp\",tier=\"realtime\"} 5"
    );
    assert_eq!(line(&text, "eventstream_frames_refused_total{"), "eventstream_frames_refused_total{reason=\"topic_empty\"} 5");
    assert_eq!(line(&text, "eventstream_backpressure_drops "), "eventstream_backpressure_drops 2");
    assert_eq!(text.matches("# TYPE eventstream_frames_refused counter").count(), 1);
}

#[test]
fn what_the_ledger_counts_is_not_counted_again_by_a_part() {
    let mut telemetry = Telemetry::default();
    telemetry.measured.push(Arc::new(Part("dedup_hits", Kind::Counter, vec![], 7)));
    assert_eq!(line(&scrape(&telemetry), "eventstream_dedup_hits "), "eventstream_dedup_hits 0");
}

#[test]
fn no_bucket_claims_a_latency_to_be_shorter_than_it_was() {
    let mut telemetry = Telemetry::default();
    let (mut recorder, shared) = LatencyRecorder::new();
    for nanos in [900, 1_001, 1_999, 4_000, 15_000_000_000] {
        recorder.record(Nanos(nanos));
    }
    recorder.publish();
    telemetry.latencies.push(("realtime", shared));
    let text = scrape(&telemetry);
    let bucket = |bound: &str| line(&text, &format!("eventstream_latency_ns_realtime_bucket{{le=\"{bound}\"}}")).to_owned();
    assert!(bucket("1000.0").ends_with(" 1"));
    assert!(bucket("5000.0").ends_with(" 4"));
    assert!(bucket("10000000000.0").ends_with(" 4"));
    assert!(bucket("+Inf").ends_with(" 5"));
    assert_eq!(line(&text, "eventstream_latency_ns_realtime_count"), "eventstream_latency_ns_realtime_count 5");
}

#[test]
fn histograms_of_one_name_are_added() {
    let mut telemetry = Telemetry::default();
    for _ in 0..2 {
        let (mut recorder, shared) = LatencyRecorder::new();
        recorder.record_n(Nanos(1_500), 10);
        recorder.publish();
        telemetry.latencies.push(("batch", shared));
    }
    let text = scrape(&telemetry);
    assert_eq!(line(&text, "eventstream_latency_ns_batch_count"), "eventstream_latency_ns_batch_count 20");
}

#[test]
fn label_values_are_escaped() {
    let mut telemetry = Telemetry::default();
    telemetry.measured.push(Arc::new(Part("odd", Kind::Gauge, vec![("what", "a\"b\\c\nd")], 1)));
    assert_eq!(line(&scrape(&telemetry), "eventstream_odd"), "eventstream_odd{what=\"a\\\"b\\\\c\\nd\"} 1");
}
