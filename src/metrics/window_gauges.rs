//! The last closed windows of the definitions that ask for it (`metrics = true`), as gauges.
//!
//! ```text
//! window writer ── publish: one definition's groups, at most GROUPS_MAX ──► WindowGauges ── read ──► Snapshot ──► scrape
//! ```
//!
//! Both ends are helper threads, so a lock is what holds them apart. Gauges stay until the definition's next window closes; their end
//! (`window_end_unix_seconds`) tells how old they are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Groups of one definition that are shown; the others are counted in `window_groups_unexported`. A scrape grows by some 100 KiB a
/// definition with names of ordinary length.
pub const GROUPS_MAX: usize = 100;

/// One group of a closed window.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupGauges {
    /// Events.
    pub events: u64,
    /// Events per second.
    pub events_per_s: f64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Events without a number, where the definition has a value.
    pub events_without_value: Option<u64>,
    /// Name and figure of the value, where there was one.
    pub value: Vec<(&'static str, f64)>,
}

/// The last closed window of a definition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DefinitionGauges {
    /// When the window ended, seconds of the wall clock.
    pub end_unix_s: u64,
    /// Groups by name: the first [`GROUPS_MAX`] in the order of their names.
    pub groups: BTreeMap<String, GroupGauges>,
    /// Groups beyond these.
    pub unexported: u64,
}

impl DefinitionGauges {
    /// Adds a group, or counts it, or another in its place.
    pub fn add(&mut self, group: &str, gauges: impl FnOnce() -> GroupGauges) {
        if self.groups.len() == GROUPS_MAX {
            self.unexported += 1;
            match self.groups.last_entry() {
                Some(last) if last.key().as_str() > group => drop(last.remove()),
                _ => return,
            }
        }
        self.groups.insert(group.to_owned(), gauges());
    }
}

/// One node's definitions.
#[derive(Debug)]
pub struct WindowGauges {
    node: u8,
    definitions: Mutex<BTreeMap<String, DefinitionGauges>>,
}

/// A reading, with the node that it is from.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowReading {
    /// The node.
    pub node: u8,
    /// By definition.
    pub definitions: BTreeMap<String, DefinitionGauges>,
}

impl WindowGauges {
    /// Nothing closed yet.
    pub fn new(node: u8) -> Self {
        Self { node, definitions: Mutex::default() }
    }

    /// Replaces what is shown of a definition.
    pub fn publish(&self, definition: &str, gauges: DefinitionGauges) {
        self.definitions.lock().expect("nothing panics with the lock held").insert(definition.to_owned(), gauges);
    }

    /// What is shown now.
    pub fn read(&self) -> WindowReading {
        let definitions = self.definitions.lock().expect("nothing panics with the lock held").clone();
        WindowReading { node: self.node, definitions }
    }
}

/// A gauge of one group: its name, its help, and what it shows of it.
type GroupGauge = (&'static str, &'static str, fn(&GroupGauges) -> Option<f64>);

/// What every group has. Counts of one window stay far below 2^53, where an `f64` is exact.
const GROUP_GAUGES: [GroupGauge; 4] = [
    ("window_events", "Events in the last closed window.", |group| Some(group.events as f64)),
    ("window_events_per_second", "Their rate.", |group| Some(group.events_per_s)),
    ("window_body_bytes", "Bytes of their bodies.", |group| Some(group.body_bytes as f64)),
    ("window_events_without_value", "Events without a number where the value should be.", |group| {
        group.events_without_value.map(|events| events as f64)
    }),
];

/// Writes all readings for a scrape.
pub(super) fn encode(readings: &[WindowReading], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    if readings.is_empty() {
        return Ok(());
    }
    for (name, help, figure) in GROUP_GAUGES {
        family(encoder, name, help, readings, |labels, definition, put| {
            for (group, gauges) in &definition.groups {
                if let Some(figure) = figure(gauges) {
                    put(&with(labels, "group", group), figure)?;
                }
            }
            Ok(())
        })?;
    }
    family(encoder, "window_value", "The value's figures in the last closed window.", readings, |labels, definition, put| {
        for (group, gauges) in &definition.groups {
            let labels = with(labels, "group", group);
            for (figure, value) in &gauges.value {
                put(&with(&labels, "figure", figure), *value)?;
            }
        }
        Ok(())
    })?;
    let help = "Groups of the last closed window that are not shown here.";
    family(encoder, "window_groups_unexported", help, readings, |labels, definition, put| {
        put(labels, definition.unexported as f64)
    })?;
    let help = "When the last closed window ended, wall clock.";
    family(encoder, "window_end_unix_seconds", help, readings, |labels, definition, put| {
        put(labels, definition.end_unix_s as f64)
    })
}

type Labels = Vec<(&'static str, String)>;
type Put<'a> = dyn FnMut(&Labels, f64) -> fmt::Result + 'a;

fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value.to_owned()));
    labels
}

/// One metric over all readings.
fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    readings: &[WindowReading],
    each: impl Fn(&Labels, &DefinitionGauges, &mut Put<'_>) -> fmt::Result,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for reading in readings {
        for (definition, gauges) in &reading.definitions {
            let labels = with(&vec![("node", reading.node.to_string())], "definition", definition);
            each(&labels, gauges, &mut |labels, value| ConstGauge::new(value).encode(metric.encode_family(labels)?))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(events: u64) -> GroupGauges {
        GroupGauges { events, events_per_s: 0.5, body_bytes: 7, events_without_value: None, value: Vec::new() }
    }

    #[test]
    fn so_many_groups_are_shown_first_by_name_and_the_rest_counted() {
        let mut gauges = DefinitionGauges::default();
        for number in (0..GROUPS_MAX as u64 + 20).rev() {
            gauges.add(&format!("{number:04}"), || group(number));
        }
        gauges.add("9999", || unreachable!("beyond the last one shown"));
        assert_eq!((gauges.groups.len(), gauges.unexported), (GROUPS_MAX, 21));
        assert_eq!(gauges.groups.last_key_value().map(|(name, _)| name.as_str()), Some("0099"));
    }

    #[test]
    fn a_later_window_replaces_the_one_before() {
        let gauges = WindowGauges::new(3);
        for events in [1, 2] {
            let mut window = DefinitionGauges { end_unix_s: events, ..Default::default() };
            window.add(if events == 1 { "old" } else { "new" }, || group(events));
            gauges.publish("d", window);
        }
        let reading = gauges.read();
        assert_eq!((reading.node, reading.definitions["d"].end_unix_s), (3, 2));
        assert_eq!(reading.definitions["d"].groups.keys().collect::<Vec<_>>(), ["new"]);
    }
}
