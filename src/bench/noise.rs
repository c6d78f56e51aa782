//! What the machine takes away while something is measured: steal, and gaps in a bare loop.

use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

use super::figure::readable;
use crate::sys::clock::{Clock, HostClock, Nanos};

/// A loop of clock reads that is away for longer than this was interrupted: a read takes some 23 ns.
const GAP: Nanos = Nanos(1_000);
/// What a person would call a hiccup.
const LONG_GAP: Nanos = Nanos::from_millis(1);

/// How much of its time a bare loop lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Jitter {
    /// Gaps of more than a millisecond, a second.
    pub long_gaps_per_second: f64,
    /// Time lost in gaps of more than a microsecond, percent.
    pub lost_percent: f64,
    /// The longest gap, nanoseconds.
    pub longest_gap_ns: u64,
}

/// Spins on the calling thread for so long (a duration) and looks at the clock all the while.
pub fn jitter(at_most: Nanos) -> Jitter {
    let began = HostClock.now();
    let (mut last, mut lost, mut long_gaps, mut longest) = (began, 0, 0u64, 0);
    while last.since(began) < at_most {
        let now = HostClock.now();
        let gap = now.since(last);
        if gap > GAP {
            lost += gap.0;
            long_gaps += u64::from(gap > LONG_GAP);
            longest = longest.max(gap.0);
        }
        last = now;
    }
    let took = last.since(began).0.max(1) as f64;
    Jitter {
        long_gaps_per_second: long_gaps as f64 * 1e9 / took,
        lost_percent: lost as f64 * 100.0 / took,
        longest_gap_ns: longest,
    }
}

/// Ticks of all CPUs so far, from `/proc/stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTicks {
    all: u64,
    stolen: u64,
}

impl CpuTicks {
    /// Now; zeros where `/proc` is hidden.
    pub fn now() -> Self {
        Self::read(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// `cpu user nice system idle iowait irq softirq steal guest guest_nice`; guest time is in user time already.
    fn read(stat: &str) -> Self {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
        Self { all: ticks.iter().sum(), stolen: ticks.get(7).copied().unwrap_or(0) }
    }

    /// The share of all CPUs' time since then that the host gave to others, percent.
    pub fn stolen_percent_since(self, earlier: CpuTicks) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.stolen.saturating_sub(earlier.stolen) as f64 * 100.0 / all as f64
    }
}

/// The noise of a whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Time of all CPUs that the host gave to others while the run took place, percent.
    pub stolen_percent: f64,
    /// A probe of the engine's core, once for each repeat, while nothing else of the harness ran.
    pub jitter: Vec<Jitter>,
}

/// More than this makes a run a loud one: figures then are the machine's as much as the engine's.
const LOUD_STOLEN_PERCENT: f64 = 1.0;
const LOUD_LOST_PERCENT: f64 = 5.0;
const LOUD_GAPS_PER_SECOND: f64 = 20.0;

impl Noise {
    /// Whether the machine took so much that a reader should know before the figures.
    pub fn is_loud(&self) -> bool {
        let jitter = self.median_jitter();
        self.stolen_percent > LOUD_STOLEN_PERCENT
            || jitter.lost_percent > LOUD_LOST_PERCENT
            || jitter.long_gaps_per_second > LOUD_GAPS_PER_SECOND
    }

    /// The probe with the middle loss; nothing lost where there was no probe.
    pub fn median_jitter(&self) -> Jitter {
        let mut sorted = self.jitter.clone();
        sorted.sort_by(|a, b| a.lost_percent.total_cmp(&b.lost_percent));
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
    }
}

impl fmt::Display for Noise {
    /// A sentence, without its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jitter = self.median_jitter();
        write!(
            f,
            "{:.2} % of all cores' time was stolen by the host; a bare loop lost {:.2} % of its time, {:.1} gaps over 1 ms a second, the \
             longest {}",
            self.stolen_percent,
            jitter.lost_percent,
            jitter.long_gaps_per_second,
            readable(jitter.longest_gap_ns as f64, "ns")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steal_is_a_share_of_all_ticks() {
        let before = CpuTicks::read("cpu  100 0 50 800 0 0 0 10 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n");
        let after = CpuTicks::read("cpu  200 0 100 1600 0 0 0 60 0 0\n");
        assert_eq!(after.stolen_percent_since(before), 5.0);
        assert_eq!(CpuTicks::default().stolen_percent_since(CpuTicks::default()), 0.0);
    }

    #[test]
    fn a_run_is_loud_by_whatever_took_too_much() {
        let jitter = |lost_percent| Jitter { lost_percent, ..Jitter::default() };
        let noise = |stolen_percent, lost: [f64; 3]| Noise { stolen_percent, jitter: lost.map(jitter).to_vec() };
        assert!(!noise(0.9, [1.0, 2.0, 90.0]).is_loud(), "the probe in the middle counts");
        assert!(noise(1.1, [0.0; 3]).is_loud() && noise(0.0, [1.0, 6.0, 7.0]).is_loud());
        assert!(
            noise(1.5, [2.0; 3])
                .to_string()
                .starts_with("1.50 % of all cores' time was stolen by the host; a bare loop lost 2.00 %")
        );
    }

    #[test]
    fn a_probe_loses_no_more_than_all_of_its_time() {
        let found = jitter(Nanos::from_millis(5));
        assert!((0.0..=100.0).contains(&found.lost_percent), "{found:?}");
        assert!(found.longest_gap_ns == 0 || found.longest_gap_ns > GAP.0);
    }
}
