//! Looks at an engine that runs, to become a timeline: what its statuses say of throughput, depths, losses and the level.

use std::collections::BTreeSet;

use super::timeline::{Timeline, panels};
use crate::control::Level;
use crate::metrics::status::{StatusDocument, Terms};

/// What the kernel dropped, among the causes of loss.
const KERNEL: &str = "dropped by the kernel";

/// The gauges of depth, by tier.
const DEPTHS: [(&str, &str); 3] =
    [("realtime", "queue_depth_realtime"), ("transactional", "queue_depth_trans"), ("batch", "queue_depth_batch")];

/// Statuses at their moments, in order.
#[derive(Debug, Default)]
pub struct Looks {
    seconds: Vec<f64>,
    statuses: Vec<StatusDocument>,
}

impl Looks {
    /// Adds a status, so many seconds after the beginning, unless it is the one of the last look (an engine renders none more often than
    /// four times a second). Whether it was added.
    pub fn add(&mut self, seconds: f64, status: StatusDocument) -> bool {
        let is_new = self.statuses.last().is_none_or(|last| status.uptime_ms > last.uptime_ms);
        if is_new {
            self.seconds.push(seconds);
            self.statuses.push(status);
        }
        is_new
    }

    /// What they show over time; `None` of less than two.
    pub fn timeline(&self) -> Option<Timeline> {
        if self.statuses.len() < 2 {
            return None;
        }
        let level = |status: &StatusDocument| Level::ALL.iter().position(|level| level.name() == status.level).unwrap_or(0);
        let levels = self.statuses.iter().map(|status| level(status) as u8).collect();
        let mut timeline = Timeline { seconds: self.seconds.clone(), levels, ..Timeline::default() };
        let stored = |total: &Terms| total.stored + total.handled;
        for (name, count) in [("received", (|total| total.received) as fn(&Terms) -> u64), ("stored", stored)] {
            timeline.push(panels::THROUGHPUT, name, "events/s", self.rates(|status| count(&status.total)));
        }
        for (tier, gauge) in DEPTHS {
            let depths = self.statuses.iter().map(|status| gauge_sum(status, gauge) as f64).collect();
            timeline.push(panels::DEPTH, tier, "events", depths);
        }
        for cause in self.causes() {
            timeline.push(panels::DROPS, &cause, "events/s", self.rates(|status| lost(status, &cause)));
        }
        Some(timeline)
    }

    /// A count's growth a second, since the look before.
    fn rates(&self, count: impl Fn(&StatusDocument) -> u64) -> Vec<f64> {
        let grown = |place: usize| count(&self.statuses[place]).saturating_sub(count(&self.statuses[place - 1])) as f64;
        let took = |place: usize| (self.seconds[place] - self.seconds[place - 1]).max(1e-3);
        (0..self.statuses.len()).map(|place| if place == 0 { 0.0 } else { grown(place) / took(place) }).collect()
    }

    /// Why events were lost until the end, each cause once.
    fn causes(&self) -> BTreeSet<String> {
        let Some(end) = self.statuses.last() else { return BTreeSet::new() };
        let own = end.total.dead_lettered.keys().chain(end.total.dropped.keys()).cloned();
        own.chain([KERNEL.to_owned()]).filter(|cause| lost(end, cause) > 0).collect()
    }
}

fn lost(status: &StatusDocument, cause: &str) -> u64 {
    match cause {
        KERNEL => status.kernel_drops.values().sum(),
        own => [&status.total.dead_lettered, &status.total.dropped].into_iter().filter_map(|reasons| reasons.get(own)).sum(),
    }
}

/// The sum of a gauge over its labels; 0 where nobody reports it.
fn gauge_sum(status: &StatusDocument, name: &str) -> u64 {
    let is_it = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
    status.metrics.iter().filter(|(key, _)| is_it(key)).map(|(_, value)| *value).sum()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn status(uptime_ms: u64, level: &str, stored: u64, shed: u64) -> StatusDocument {
        let mut status = StatusDocument { uptime_ms, level: level.to_owned(), ..StatusDocument::default() };
        (status.total.received, status.total.stored) = (stored + shed, stored);
        status.total.dropped.insert("backpressure_drop".to_owned(), shed);
        status.metrics.insert("queue_depth_batch{node=\"0\"}".to_owned(), 7);
        status.metrics.insert("queue_depth_batch{node=\"1\"}".to_owned(), 4);
        status
    }

    /// A run of a second and a half that is DEGRADED in its middle, and loses there.
    pub(in crate::bench) fn timeline() -> Timeline {
        let mut looks = Looks::default();
        looks.add(0.0, status(2_000, "HEALTHY", 0, 0));
        looks.add(0.5, status(2_500, "DEGRADED", 1_000, 0));
        looks.add(1.0, status(3_000, "DEGRADED", 1_500, 300));
        looks.add(1.1, status(3_000, "DEGRADED", 1_500, 300));
        looks.add(1.5, status(3_500, "HEALTHY", 2_500, 300));
        looks.timeline().expect("four looks")
    }

    #[test]
    fn counts_become_rates_and_a_status_that_was_seen_is_no_look() {
        let timeline = timeline();
        assert_eq!((&timeline.seconds[..], &timeline.levels[..]), (&[0.0, 0.5, 1.0, 1.5][..], &[0, 2, 2, 0][..]));
        let series = |name: &str| &timeline.series.iter().find(|series| series.name == name).expect("a series").values[..];
        assert_eq!(series("stored"), [0.0, 2_000.0, 1_000.0, 2_000.0]);
        assert_eq!(series("backpressure_drop"), [0.0, 0.0, 600.0, 0.0]);
        assert_eq!(series("batch"), [11.0; 4], "both nodes");
        assert!(!timeline.series.iter().any(|series| series.name == KERNEL), "what lost nothing is left out");
    }

    #[test]
    fn one_look_is_no_timeline() {
        let mut looks = Looks::default();
        looks.add(0.0, status(1, "HEALTHY", 0, 0));
        assert_eq!(looks.timeline(), None);
    }
}
