//! The scenarios, one entry each: name, what it measures, what it needs, who measures it.

use std::str::FromStr;

use super::run::{Bench, RunCommand};
use super::{
    CommandError, connections, durability, flat_out, idle, ingest_udp, isolation, long, mixed, overload, recovery, sessions,
    sweep,
};
use crate::bench::document::Point;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scenario {
    /// What it is called.
    pub(super) name: &'static str,
    /// What it does, in a sentence.
    pub(super) about: &'static str,
    /// What `x` of its points is.
    pub(super) axis: Option<&'static str>,
    /// Flags of serve that it runs with unless they are given.
    pub(super) needs: &'static [(&'static str, &'static str)],
    /// All its points, each repeated.
    pub(super) measure: fn(&RunCommand, &mut Bench) -> Result<Vec<Point>, CommandError>,
}

/// A parked core costs 25 µs to wake, which is a question of its own.
const SPIN: &[(&str, &str)] = &[("idle", "spin")];

/// TCP that can't wait either: what it would be made to wait for is lost, or shed by the levels. A buffer so small that a flood of datagrams flat
/// out overflows it, and a tenth of the drop rate: the kernel drops some 2 % of such a flood, and EMERGENCY is five times the maximum.
const CANNOT_WAIT: &[(&str, &str)] =
    &[("tcp-flow-control", "off"), ("udp-receive-buffer-bytes", "64KiB"), ("max-drop-rate", "0.2")];

/// All of them, in the order in which they are listed.
pub(super) const SCENARIOS: [Scenario; 14] = [
    Scenario {
        name: "ingest-tcp",
        about: "flat out over TCP into the log, beside the ceiling pipeline of the same frames",
        axis: None,
        needs: &[],
        measure: flat_out::measure,
    },
    Scenario {
        name: "ingest-udp",
        about: "datagrams from a filled socket queue beside a bare receive loop, one by one and aggregated, and the fastest rate of aggregated ones without a loss",
        axis: None,
        needs: &[],
        measure: ingest_udp::measure,
    },
    Scenario {
        name: "sessions",
        about: "acknowledged events: flat out, and how long acks take at a steady rate, at each level, beside what the disk alone takes",
        axis: None,
        needs: &[("durability", "always")],
        measure: sessions::measure,
    },
    Scenario {
        name: "durability-matrix",
        about: "flat out over TCP at each durability, by connections and sizes of body",
        axis: None,
        needs: &[],
        measure: durability::measure,
    },
    Scenario {
        name: "latency-sweep",
        about: "REALTIME from due to handled, at rising rates until the engine falls behind",
        axis: Some("events a second that were due"),
        needs: SPIN,
        measure: sweep::measure,
    },
    Scenario {
        name: "mixed",
        about: "REALTIME at a steady rate on a connection of its own, alone and beside a flood of the other tiers",
        axis: None,
        needs: SPIN,
        measure: mixed::measure,
    },
    Scenario {
        name: "isolation",
        about: "REALTIME beside a slow, a panicking and a too long handler of another tier, beside floods of BATCH, and beside a sender of a hundred times its rate",
        axis: None,
        // Some 600 small datagrams, so that a flood overflows its own socket.
        needs: &[("udp-receive-buffer-bytes", "256KiB")],
        measure: isolation::measure,
    },
    Scenario {
        name: "overload",
        about: "a flood that can't wait drives the engine through every level and back",
        axis: None,
        needs: CANNOT_WAIT,
        measure: overload::measure,
    },
    Scenario {
        name: "connections",
        about: "flat out over TCP, by number of connections",
        axis: Some("connections"),
        needs: &[],
        measure: connections::busy,
    },
    Scenario {
        name: "idle-connections",
        about: "busy connections beside many that say nothing",
        axis: Some("silent connections"),
        needs: &[("max-connections", "20000")],
        measure: connections::idle,
    },
    Scenario {
        name: "size-sweep",
        about: "flat out over TCP, by size of body",
        axis: Some("bytes of a body"),
        needs: &[],
        measure: flat_out::sizes,
    },
    Scenario {
        name: "recovery",
        about: "opening logs that a killed engine left, by their size",
        axis: Some("bytes of the log"),
        needs: &[],
        measure: recovery::measure,
    },
    Scenario {
        name: "long",
        about: "one engine that goes on and on over recycled segments: what an event costs after a million and after all of them",
        axis: Some("events so far"),
        needs: &[("segment-bytes", "256MiB"), ("retention-bytes", "1GiB")],
        measure: long::measure,
    },
    Scenario { name: "idle", about: "an engine with nothing to do", axis: None, needs: &[], measure: idle::measure },
];

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = SCENARIOS.into_iter().find(|scenario| scenario.name == text);
        known.ok_or_else(|| format!("`{text}` is no scenario: there are {}", SCENARIOS.map(|scenario| scenario.name).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scenario_is_found_by_its_name() {
        for scenario in SCENARIOS {
            assert_eq!(scenario.name.parse::<Scenario>().map(|found| found.about), Ok(scenario.about));
        }
        assert!("ingest".parse::<Scenario>().is_err_and(|refusal| refusal.contains("ingest-tcp, ingest-udp")));
    }
}
