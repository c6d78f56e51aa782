//! Looks at a running engine, and keeps what it saw as a timeline.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::bench::timeline::{Timeline, panels};
use crate::control::Level;
use crate::metrics::status::StatusDocument;
use crate::wire::Tier;

/// The gauges of depth, by tier.
const DEPTHS: [&str; Tier::COUNT] = ["queue_depth_realtime", "queue_depth_trans", "queue_depth_batch"];

/// Everything seen, look by look.
pub(super) struct Watch {
    began: Instant,
    seconds: Vec<f64>,
    levels: Vec<u8>,
    received: Vec<u64>,
    stored: Vec<u64>,
    depths: [Vec<f64>; Tier::COUNT],
    /// Losses by reason: of each as many looks as there were since it was first seen.
    lost: BTreeMap<String, Vec<u64>>,
    resident: Vec<f64>,
}

impl Watch {
    /// The metric that tells a tier's depth.
    pub(super) fn depth_of(tier: Tier) -> &'static str {
        DEPTHS[tier.index()]
    }

    /// Begins now.
    pub(super) fn new() -> Watch {
        Watch {
            began: Instant::now(),
            seconds: Vec::new(),
            levels: Vec::new(),
            received: Vec::new(),
            stored: Vec::new(),
            depths: Default::default(),
            lost: BTreeMap::new(),
            resident: Vec::new(),
        }
    }

    /// Takes in what the engine says, and what memory it has where that is known.
    pub(super) fn look(&mut self, status: &StatusDocument, resident_bytes: Option<u64>) {
        self.seconds.push(self.began.elapsed().as_secs_f64());
        let level = Level::ALL.into_iter().find(|level| level.name() == status.level).unwrap_or_default();
        self.levels.push(level.index() as u8);
        self.received.push(status.total.received);
        self.stored.push(status.total.stored + status.total.handled);
        for (depths, name) in self.depths.iter_mut().zip(DEPTHS) {
            let depth = status.metrics.get(name).copied().unwrap_or_else(|| labelled(&status.metrics, name));
            depths.push(depth as f64);
        }
        let kernel = status.kernel_drops.values().sum::<u64>();
        let total =
            status.total.dead_lettered.iter().chain(&status.total.dropped).map(|(reason, count)| (reason.as_str(), *count));
        for (reason, count) in total.chain([("dropped by the kernel", kernel)]) {
            match self.lost.get_mut(reason) {
                Some(counts) => counts.push(count),
                None if count > 0 => {
                    // Not seen before: none of it until now.
                    let mut counts = vec![0; self.seconds.len() - 1];
                    counts.push(count);
                    self.lost.insert(reason.to_owned(), counts);
                }
                None => {}
            }
        }
        self.resident.extend(resident_bytes.map(|bytes| bytes as f64));
    }

    /// What was seen.
    pub(super) fn timeline(self) -> Timeline {
        let mut timeline = Timeline { seconds: self.seconds, levels: self.levels, ..Timeline::default() };
        for (name, counts) in [("received", &self.received), ("stored", &self.stored)] {
            let rates = timeline.per_second(counts);
            timeline.push(panels::THROUGHPUT, name, "events/s", rates);
        }
        for (tier, depths) in Tier::ALL.into_iter().zip(self.depths) {
            timeline.push(panels::DEPTH, tier.name(), "events", depths);
        }
        for (reason, counts) in self.lost {
            let rates = timeline.per_second(&counts);
            timeline.push(panels::DROPS, reason, "events/s", rates);
        }
        if self.resident.len() == timeline.seconds.len() {
            timeline.push(panels::MEMORY, "resident", "bytes", self.resident);
        }
        timeline
    }
}

/// The sum of a metric over its labels.
fn labelled(metrics: &BTreeMap<String, u64>, name: &str) -> u64 {
    let of_name = |key: &&String| key.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
    metrics.iter().filter(|(key, _)| of_name(key)).map(|(_, value)| value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_first_lost_late_was_not_lost_before() {
        let mut watch = Watch::new();
        let mut status = StatusDocument::default();
        watch.look(&status, None);
        status.total.dropped.insert("emergency_drop".into(), 5);
        status.level = "EMERGENCY".into();
        status.metrics.insert("queue_depth_batch{node=\"0\"}".into(), 3);
        status.metrics.insert("queue_depth_batch{node=\"1\"}".into(), 4);
        watch.look(&status, None);
        assert_eq!(watch.lost["emergency_drop"], [0, 5]);
        let timeline = watch.timeline();
        assert_eq!(timeline.levels, [0, 4]);
        let depth = timeline.series.iter().find(|series| series.name == "BATCH").expect("a tier");
        assert_eq!((depth.panel.as_str(), &depth.values[..]), (panels::DEPTH, &[0.0, 7.0][..]));
        assert!(timeline.series.iter().all(|series| series.values.len() == 2));
    }
}
