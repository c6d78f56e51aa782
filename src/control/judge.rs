//! From signals to a level: a pure function of signals, standing and time.
//!
//! ```text
//!   level called for by a signal
//!   EMERGENCY ─┐                      up: at once, as far as the worst signal calls for
//!   CRITICAL   │        depth    drops    p99          (shares of their maximum)
//!   DEGRADED   ├─►   > 0.75    > 1     > 0.75
//!   ELEVATED   │     > 0.5     > 0.5   > 0.5
//!   HEALTHY   ─┘
//!                                     down: one level at a time, when every signal was below `recovery_factor` times the level's threshold
//!                                     for its dwell, and what the level refuses fits what the tier is known to serve
//! ```
//!
//! Invariants:
//! - **J1** Monotone: from the same standing at the same time, no signal that is larger leads to a lower level.
//! - **J2** Between a level's threshold and `recovery_factor` times it the level stays as it is (no flapping in the band).
//! - **J3** Every step down is preceded by a dwell of calm on that very level. The dwell doubles, up to [`DWELL_MAX`], when the
//!   level returns within [`RETURN_WITHIN`] of having been left; so a load that keeps coming back moves the level ever more rarely.
//! - **J4** No level feeds itself: nothing in [`Signals`] grows by what levels shed (see [`super::signals`]).

use super::level::{Level, TierIntake};
use crate::sys::clock::Nanos;
use crate::wire::Tier;

/// How long every signal must be calm before the first step down.
pub const DWELL_MIN: Nanos = Nanos::from_millis(1_000);
/// The longest that the dwell becomes.
pub const DWELL_MAX: Nanos = Nanos::from_millis(60_000);
/// A level that is back within this time after it was left has a longer dwell.
pub const RETURN_WITHIN: Nanos = Nanos::from_millis(60_000);

/// What counts as too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The standing depth of a tier that is 100 %, events. At least 1.
    pub max_queue_depth: u64,
    /// The share of lost events that is 100 %, thousandths of a percent. At least 1.
    pub max_drop_rate_millipercent: u64,
    /// The p99 of REALTIME that is 100 %.
    pub max_latency: Nanos,
    /// Events offered in the window below which the drop rate is not judged.
    pub min_events_for_evaluation: u64,
    /// A level is left below this share of its threshold, thousandths; below 1000.
    pub recovery_permille: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_queue_depth: 5_000,
            max_drop_rate_millipercent: 2_000,
            max_latency: Nanos::from_millis(100),
            min_events_for_evaluation: 1_000,
            recovery_permille: 800,
        }
    }
}

/// What a tier gets, and what it is known to get done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierLoad {
    /// Offered to the node of late, what is shed included, events per second.
    pub offered_per_second: u64,
    /// Served while events were waiting, events per second; `None`: nothing was waiting for long.
    pub served_per_second: Option<u64>,
}

/// What a level is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Events that stood in the node's deepest tier all the time of late: a level is kept by it.
    pub standing_depth: u64,
    /// The same of the deepest tier that still gets events and does not drain: a level is called for by it. Never more than the former.
    pub pressing_depth: u64,
    /// Events offered in the window, those that levels shed included.
    pub offered: u64,
    /// Of these, lost for want of room: overflow, no slot, dropped by the kernel.
    pub dropped: u64,
    /// Whether any was lost within the last second: only then a drop rate calls for a level. It keeps one without that.
    pub is_dropping: bool,
    /// REALTIME, receive to handled, of late; `None`: too few events to tell.
    pub realtime_p99: Option<Nanos>,
    /// By tier.
    pub loads: [TierLoad; Tier::COUNT],
}

impl Signals {
    /// Dropped of offered, thousandths of a percent; 0 where nothing was offered.
    pub fn drop_rate_millipercent(&self) -> u64 {
        (self.dropped * 100_000).checked_div(self.offered).unwrap_or(0)
    }
}

/// One of the three things that call for levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Signal {
    /// The standing depth.
    Depth = 0,
    /// The drop rate.
    DropRate = 1,
    /// REALTIME's p99.
    Latency = 2,
}

impl Signal {
    /// All.
    pub const ALL: [Signal; 3] = [Signal::Depth, Signal::DropRate, Signal::Latency];

    /// The name in metrics, status and log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Signal::Depth => "standing depth",
            Signal::DropRate => "drop rate",
            Signal::Latency => "REALTIME p99",
        }
    }

    /// Its threshold for a level, thousandths of its maximum; HEALTHY has none.
    const fn threshold_permille(self, level: Level) -> u64 {
        const DROP_RATE: [u64; Level::COUNT] = [0, 500, 1_000, 2_000, 5_000];
        const OTHERS: [u64; Level::COUNT] = [0, 500, 750, 1_000, 1_500];
        match self {
            Signal::DropRate => DROP_RATE[level.index()],
            Signal::Depth | Signal::Latency => OTHERS[level.index()],
        }
    }

    /// Whether reaching the threshold is enough, or it must be passed.
    const fn is_inclusive(self, level: Level) -> bool {
        matches!((self, level), (_, Level::Critical) | (Signal::DropRate, Level::Emergency))
    }

    /// The signal's value over its maximum, as a fraction; `None` where it can't be judged. `depth` is the one that matters.
    fn share(self, depth: u64, signals: &Signals, thresholds: &Thresholds) -> Option<(u128, u128)> {
        let (value, max) = match self {
            Signal::Depth => (u128::from(depth), u128::from(thresholds.max_queue_depth)),
            Signal::Latency => (u128::from(signals.realtime_p99?.0), u128::from(thresholds.max_latency.0)),
            Signal::DropRate if signals.offered < thresholds.min_events_for_evaluation.max(1) => return None,
            // Not the rounded rate: a rate just above a threshold is above it.
            Signal::DropRate => (
                u128::from(signals.dropped) * 100_000,
                u128::from(signals.offered) * u128::from(thresholds.max_drop_rate_millipercent),
            ),
        };
        Some((value, max.max(1)))
    }

    /// Whether it calls for this level at least.
    fn calls_for(self, level: Level, signals: &Signals, thresholds: &Thresholds) -> bool {
        if self == Signal::DropRate && !signals.is_dropping {
            return level == Level::Healthy;
        }
        let Some((value, max)) = self.share(signals.pressing_depth, signals, thresholds) else { return level == Level::Healthy };
        let (is, needed) = (value * 1_000, max * u128::from(self.threshold_permille(level)));
        level == Level::Healthy || is > needed || (is == needed && self.is_inclusive(level))
    }

    /// The highest level that it calls for.
    fn level(self, signals: &Signals, thresholds: &Thresholds) -> Level {
        let called = Level::ALL.into_iter().rev().find(|level| self.calls_for(*level, signals, thresholds));
        called.unwrap_or(Level::Healthy)
    }

    /// Whether it is so far below the level's threshold that the level may be left.
    fn is_calm(self, level: Level, signals: &Signals, thresholds: &Thresholds) -> bool {
        self.share(signals.standing_depth, signals, thresholds).is_none_or(|(value, max)| {
            let bound = u128::from(self.threshold_permille(level)) * u128::from(thresholds.recovery_permille);
            value * 1_000_000 < max * bound
        })
    }
}

/// Why a level was entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cause {
    /// It is where everything begins.
    #[default]
    Start,
    /// A signal called for it: the one that calls for the highest level.
    Signal(Signal),
    /// Every signal was calm on the level above.
    Calm,
}

/// A change of level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: Level,
    /// After.
    pub to: Level,
    /// When.
    pub at: Nanos,
    /// Why.
    pub cause: Cause,
    /// What was seen.
    pub signals: Signals,
}

/// Where a node stands, and what it remembers of where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    level: Level,
    /// Since when every signal is calm for this level.
    calm_since: Option<Nanos>,
    /// By level: when it was left for a lower one.
    left_at: [Option<Nanos>; Level::COUNT],
    /// By level: how long calm must last.
    dwell: [Nanos; Level::COUNT],
}

impl Default for Standing {
    fn default() -> Self {
        Self { level: Level::Healthy, calm_since: None, left_at: [None; Level::COUNT], dwell: [DWELL_MIN; Level::COUNT] }
    }
}

impl Standing {
    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// How long calm must last before the level is left.
    pub fn dwell(&self) -> Nanos {
        self.dwell[self.level.index()]
    }

    /// Where it stands after these signals, and the transition if there was one. `now` must not go back.
    #[must_use]
    pub fn judge(mut self, thresholds: &Thresholds, signals: &Signals, now: Nanos) -> (Standing, Option<Transition>) {
        let (from, signals) = (self.level, *signals);
        let (called, signal) = called_for(&signals, thresholds);
        if called > from {
            self.rise(called, now);
            return (self, Some(Transition { from, to: called, at: now, cause: Cause::Signal(signal), signals }));
        }
        let is_calm = Signal::ALL.into_iter().all(|signal| signal.is_calm(from, &signals, thresholds));
        if from == Level::Healthy || !is_calm || !fits_below(from, &signals) {
            self.calm_since = None;
            return (self, None);
        }
        let since = *self.calm_since.get_or_insert(now);
        if now.since(since) < self.dwell() {
            return (self, None);
        }
        self.left_at[from.index()] = Some(now);
        (self.level, self.calm_since) = (from.below(), None);
        (self, Some(Transition { from, to: self.level, at: now, cause: Cause::Calm, signals }))
    }

    /// Up, through all levels on the way.
    fn rise(&mut self, to: Level, now: Nanos) {
        for level in Level::ALL.into_iter().filter(|level| *level > self.level && *level <= to) {
            let dwell = &mut self.dwell[level.index()];
            let is_back = self.left_at[level.index()].is_some_and(|left| now.since(left) < RETURN_WITHIN);
            *dwell = if is_back { Nanos(dwell.0 * 2).min(DWELL_MAX) } else { DWELL_MIN };
        }
        (self.level, self.calm_since) = (to, None);
    }
}

/// The highest level called for, and the (first) signal that does.
fn called_for(signals: &Signals, thresholds: &Thresholds) -> (Level, Signal) {
    let mut worst = (Level::Healthy, Signal::Depth);
    for signal in Signal::ALL {
        let level = signal.level(signals, thresholds);
        if level > worst.0 {
            worst = (level, signal);
        }
    }
    worst
}

/// Whether each tier that gets more on the level below is offered no more than it is known to serve.
fn fits_below(level: Level, signals: &Signals) -> bool {
    Tier::ALL.into_iter().all(|tier| {
        let (here, below) = (level.actions().intake[tier.index()], level.below().actions().intake[tier.index()]);
        let gets_more = here != below && matches!(below, TierIntake::Open | TierIntake::Patient);
        let TierLoad { offered_per_second, served_per_second } = signals.loads[tier.index()];
        !gets_more || served_per_second.is_none_or(|served| offered_per_second <= served)
    })
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
