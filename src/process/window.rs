//! What a window is: its definition, and one group's figures over a closed one.
//!
//! ```text
//! definition ── filter: which topics ── group by: topic, first levels, all as one ── length, slide ── value: a number in the body
//!
//! panes     │  p1  │  p2  │  p3  │  p4  │          each as long as the slide
//! windows   └──────── w3 ────────┘                 length = 3 slides: a window closes with each pane
//!                  └──────── w4 ────────┘          length = slide: tumbling, one pane a window
//! ```

use crate::bus::TopicFilter;
use crate::process::json_pointer::JsonPointer;
use crate::process::quantiles::Quantiles;
use crate::sys::clock::{Nanos, WallNanos};

/// The name of the definition that is always there: every topic by itself.
pub const DEFAULT_DEFINITION: &str = "default";

/// The most definitions beside the default one: what matches a topic is a set of 32 bits.
pub const DEFINITIONS_MAX: usize = 32;

/// The most panes of a window, each a table of its own in memory.
pub const PANES_MAX: u64 = 60;

/// What events of a definition are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Those of one topic.
    Topic,
    /// Those whose topics have these first levels in common; a topic with fewer is its own group. At least 1.
    Levels(u8),
    /// All that the filter matches.
    Filter,
}

impl GroupBy {
    /// The name of the group that a topic is in.
    pub(crate) fn group<'a>(self, topic: &'a [u8], filter: &'a TopicFilter) -> &'a [u8] {
        match self {
            GroupBy::Topic => topic,
            GroupBy::Filter => filter.as_str().as_bytes(),
            GroupBy::Levels(levels) => {
                let mut ends = topic.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
                ends.nth(usize::from(levels) - 1).map_or(topic, |end| &topic[..end])
            }
        }
    }
}

/// Which events are counted, how they are grouped, and over what time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowDefinition {
    /// For files, metrics and handlers.
    pub name: String,
    /// Topics that belong to it.
    pub filter: TopicFilter,
    /// What is counted together.
    pub group_by: GroupBy,
    /// Length of a window: 1 to [`PANES_MAX`] times the slide.
    pub length: Nanos,
    /// From the start of a window to that of the next, at least 1 ms. The length itself: a tumbling window.
    pub slide: Nanos,
    /// Where in the body, as JSON, the number is whose figures are wanted.
    pub value: Option<JsonPointer>,
    /// Groups in one pane, at least 1; a further one has no row, and its events are counted as `topic_limit`.
    pub groups_max: usize,
    /// Bytes of the names of these groups.
    pub group_bytes_max: usize,
    /// Whether the last closed window is shown as metrics.
    pub metrics: bool,
}

impl WindowDefinition {
    /// Every topic by itself, in tumbling windows of this length: 4096 topics, 256 KiB of names.
    pub fn topics(length: Nanos) -> Self {
        Self {
            name: DEFAULT_DEFINITION.to_owned(),
            filter: TopicFilter::parse("#").expect("`#` is a filter"),
            group_by: GroupBy::Topic,
            length,
            slide: length,
            value: None,
            groups_max: 4096,
            group_bytes_max: 256 * 1024,
            metrics: false,
        }
    }

    /// Panes of a window.
    pub fn panes(&self) -> u64 {
        self.length.0 / self.slide.0
    }

    /// Whether the rows are all topics: what the first definition of a log has to be.
    pub(crate) fn is_all_topics(&self) -> bool {
        self.filter.as_str() == "#" && self.group_by == GroupBy::Topic && self.value.is_none()
    }
}

/// The figures of the numbers found in one group's bodies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueFigures {
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// All of them added up.
    pub sum: f64,
    /// Half of them are not above this.
    pub p50: f64,
    /// 99 % of them are not above this.
    pub p99: f64,
    /// By how much `p50` and `p99` may differ from the true ones, as a share of them; 0.8 % unless the values spread far.
    pub relative_error: f64,
}

/// What was found where a definition's value should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueSummary {
    /// Events with a number there.
    pub events: u64,
    /// Events without: nothing there, or something else, or no JSON.
    pub events_without: u64,
    /// The numbers' figures; `None` where there was none.
    pub figures: Option<ValueFigures>,
}

impl ValueSummary {
    /// The mean of the numbers.
    pub fn mean(&self) -> Option<f64> {
        self.figures.map(|figures| figures.sum / self.events as f64)
    }
}

/// One group's figures over one closed window, as handlers and the file get them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClosedWindow<'a> {
    /// The name of its definition; [`DEFAULT_DEFINITION`] for the one that is always there.
    pub definition: &'a str,
    /// The topic; or its first levels, or the filter, where the definition groups by these.
    pub group: &'a str,
    /// When the window began, wall clock.
    pub start: WallNanos,
    /// How long it was, on the monotonic clock.
    pub length: Nanos,
    /// Events.
    pub events: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// The smallest body, bytes.
    pub body_bytes_min: u32,
    /// The largest body, bytes.
    pub body_bytes_max: u32,
    /// When the first one was received, wall clock.
    pub first_at: WallNanos,
    /// When the last one was received, wall clock.
    pub last_at: WallNanos,
    /// The figures of the value, where the definition has one.
    pub value: Option<ValueSummary>,
}

impl ClosedWindow<'_> {
    /// Events per second of the window.
    pub fn events_per_s(&self) -> f64 {
        self.events as f64 * 1e9 / self.length.0.max(1) as f64
    }

    /// The mean body, bytes.
    pub fn body_bytes_mean(&self) -> f64 {
        self.body_bytes as f64 / self.events.max(1) as f64
    }
}

/// One group's counts as they grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) body_bytes: u64,
    pub(crate) first_at: WallNanos,
    pub(crate) last_at: WallNanos,
    pub(crate) body_bytes_min: u32,
    pub(crate) body_bytes_max: u32,
}

impl Counts {
    pub(crate) const NONE: Self = Self {
        events: 0,
        body_bytes: 0,
        first_at: WallNanos(u64::MAX),
        last_at: WallNanos(0),
        body_bytes_min: u32::MAX,
        body_bytes_max: 0,
    };

    #[inline]
    pub(crate) fn add(&mut self, body_bytes: u32, received_at: WallNanos) {
        self.events += 1;
        self.body_bytes += u64::from(body_bytes);
        self.body_bytes_min = self.body_bytes_min.min(body_bytes);
        self.body_bytes_max = self.body_bytes_max.max(body_bytes);
        self.first_at = self.first_at.min(received_at);
        self.last_at = self.last_at.max(received_at);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.body_bytes += other.body_bytes;
        self.body_bytes_min = self.body_bytes_min.min(other.body_bytes_min);
        self.body_bytes_max = self.body_bytes_max.max(other.body_bytes_max);
        self.first_at = self.first_at.min(other.first_at);
        self.last_at = self.last_at.max(other.last_at);
    }
}

/// The figures of one group's numbers as they grow.
#[derive(Clone, Debug)]
pub(crate) struct ValueCounts {
    events: u64,
    min: f64,
    max: f64,
    sum: f64,
    quantiles: Quantiles,
}

impl ValueCounts {
    pub(crate) const fn new() -> Self {
        Self { events: 0, min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0, quantiles: Quantiles::new() }
    }

    pub(crate) fn clear(&mut self) {
        (self.events, self.min, self.max, self.sum) = (0, f64::INFINITY, f64::NEG_INFINITY, 0.0);
        self.quantiles.clear();
    }

    #[inline]
    pub(crate) fn add(&mut self, value: f64) {
        self.events += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.quantiles.add(value);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.events += other.events;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.quantiles.merge(&other.quantiles);
    }

    /// Of a group with so many events, with and without a number.
    pub(crate) fn summary(&self, events: u64) -> ValueSummary {
        // The ends are known exactly; a bin's middle may lie beyond them.
        let quantile = |q| self.quantiles.quantile(q).map(|value| value.clamp(self.min, self.max));
        let figures = quantile(0.5).zip(quantile(0.99)).map(|(p50, p99)| ValueFigures {
            min: self.min,
            max: self.max,
            sum: self.sum,
            p50,
            p99,
            relative_error: self.quantiles.relative_error(),
        });
        ValueSummary { events: self.events, events_without: events - self.events, figures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_s_group_is_itself_its_first_levels_or_the_filter() {
        let filter = TopicFilter::parse("plant/#").unwrap();
        let group = |by: GroupBy, topic: &'static str| String::from_utf8(by.group(topic.as_bytes(), &filter).to_vec()).unwrap();
        assert_eq!(group(GroupBy::Topic, "plant/1/temp"), "plant/1/temp");
        assert_eq!(group(GroupBy::Filter, "plant/1/temp"), "plant/#");
        for (levels, expected) in [(1, "plant"), (2, "plant/1"), (3, "plant/1/temp"), (9, "plant/1/temp")] {
            assert_eq!(group(GroupBy::Levels(levels), "plant/1/temp"), expected);
        }
        assert_eq!(group(GroupBy::Levels(1), "/x"), "", "an empty first level is a level");
    }

    #[test]
    fn values_are_summed_up_and_missing_ones_counted() {
        let mut values = ValueCounts::new();
        assert_eq!(values.summary(3), ValueSummary { events: 0, events_without: 3, figures: None });
        [2.0, -4.0, 6.0].into_iter().for_each(|value| values.add(value));
        let summary = values.summary(5);
        assert_eq!((summary.events, summary.events_without, summary.mean()), (3, 2, Some(4.0 / 3.0)));
        let figures = summary.figures.unwrap();
        assert_eq!((figures.min, figures.max, figures.sum, figures.p99), (-4.0, 6.0, 4.0, 6.0));
        assert!((figures.p50 - 2.0).abs() <= 2.0 * figures.relative_error * (1.0 + 1e-12));
        values.clear();
        assert_eq!(values.summary(0).figures, None);
    }
}
