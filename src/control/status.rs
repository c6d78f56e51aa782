//! What the control agent tells of itself: level, since when, why, and each transition.
//!
//! Written by the agent only, with plain stores; read late by the admin endpoint and the engine's watch. Fields of two neighbouring
//! moments may be read together. Log lines are made by [`LevelWatch`], on the engine's thread.

use std::fmt;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::judge::{Cause, Signal, Signals, Thresholds, Transition};
use super::level::Level;
use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};
use crate::sys::clock::{Nanos, WallNanos};

/// Transitions kept until they are told. Going up and down takes a second at least, and the watch looks four times a second.
const UNTOLD_MAX: usize = 32;

/// Why a level was entered, for people: `standing depth 3912, 78 % of 5000`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    cause: Cause,
    value: u64,
    max: u64,
}

impl Reason {
    fn of(transition: &Transition, thresholds: &Thresholds) -> Self {
        let signals = &transition.signals;
        let (value, max) = match transition.cause {
            Cause::Start | Cause::Calm => (0, 0),
            Cause::Signal(Signal::Depth) => (signals.pressing_depth, thresholds.max_queue_depth),
            Cause::Signal(Signal::DropRate) => (signals.drop_rate_millipercent(), thresholds.max_drop_rate_millipercent),
            Cause::Signal(Signal::Latency) => (signals.realtime_p99.map_or(0, |p99| p99.0), thresholds.max_latency.0),
        };
        Self { cause: transition.cause, value, max }
    }

    fn cause_number(self) -> u64 {
        match self.cause {
            Cause::Start => 0,
            Cause::Calm => 1,
            Cause::Signal(signal) => 2 + signal as u64,
        }
    }

    fn from_numbers(cause: u64, value: u64, max: u64) -> Self {
        let cause = match cause {
            0 => Cause::Start,
            1 => Cause::Calm,
            signal => Cause::Signal(Signal::ALL[(signal as usize - 2).min(2)]),
        };
        Self { cause, value, max }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, max, .. } = *self;
        match self.cause {
            Cause::Start => f.write_str("nothing has called for another"),
            Cause::Calm => f.write_str("every signal was calm"),
            Cause::Signal(signal) => {
                let percent = value * 100 / max.max(1);
                match signal {
                    Signal::Depth => write!(f, "{} {value}, {percent} % of {max}", signal.name()),
                    Signal::DropRate => write!(f, "{} {}, {percent} % of {}", signal.name(), Percent(value), Percent(max)),
                    Signal::Latency => write!(f, "{} {}, {percent} % of {}", signal.name(), Millis(value), Millis(max)),
                }
            }
        }
    }
}

/// Thousandths of a percent.
struct Percent(u64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} %", self.0 / 1_000, self.0 % 1_000)
    }
}

/// Nanoseconds.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} ms", self.0 / 1_000_000, self.0 / 1_000 % 1_000)
    }
}

/// A node's level, seen from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelReading {
    /// The node.
    pub node: u8,
    /// Its level.
    pub level: Level,
    /// When it was entered.
    pub since: Nanos,
    /// Why.
    pub reason: Reason,
}

/// What the control agent of a node tells.
#[derive(Debug)]
pub struct ControlStatus {
    node: u8,
    thresholds: Thresholds,
    level: Counter,
    since: Counter,
    since_wall: Counter,
    /// Cause, value and maximum of the reason.
    reason: [Counter; 3],
    standing_depth: Counter,
    drop_rate_millipercent: Counter,
    realtime_p99_ns: Counter,
    /// By level entered.
    transitions: [Counter; Level::COUNT],
    untold: ArrayQueue<Transition>,
    untold_lost: Counter,
}

impl ControlStatus {
    /// HEALTHY since now.
    pub fn new(node: u8, thresholds: Thresholds, now: Nanos, wall: WallNanos) -> Self {
        let status = Self {
            node,
            thresholds,
            level: Counter::default(),
            since: Counter::default(),
            since_wall: Counter::default(),
            reason: Default::default(),
            standing_depth: Counter::default(),
            drop_rate_millipercent: Counter::default(),
            realtime_p99_ns: Counter::default(),
            transitions: Default::default(),
            untold: ArrayQueue::new(UNTOLD_MAX),
            untold_lost: Counter::default(),
        };
        status.since.set(now.0);
        status.since_wall.set(wall.0);
        status
    }

    /// The level now, and how it came to it.
    pub fn reading(&self) -> LevelReading {
        let [cause, value, max] = [0, 1, 2].map(|place: usize| self.reason[place].get());
        LevelReading {
            node: self.node,
            level: Level::ALL[self.level.get() as usize],
            since: Nanos(self.since.get()),
            reason: Reason::from_numbers(cause, value, max),
        }
    }

    /// How often a level was entered.
    pub fn entered(&self, level: Level) -> u64 {
        self.transitions[level.index()].get()
    }

    /// Agent: what it sees.
    pub(super) fn see(&self, signals: &Signals) {
        self.standing_depth.set(signals.standing_depth);
        self.drop_rate_millipercent.set(signals.drop_rate_millipercent());
        self.realtime_p99_ns.set(signals.realtime_p99.map_or(0, |p99| p99.0));
    }

    /// Agent: the level has changed.
    pub(super) fn change(&self, transition: &Transition, wall: WallNanos) {
        let reason = Reason::of(transition, &self.thresholds);
        let numbers = [reason.cause_number(), reason.value, reason.max];
        self.reason.iter().zip(numbers).for_each(|(field, number)| field.set(number));
        self.since.set(transition.at.0);
        self.since_wall.set(wall.0);
        self.level.set(transition.to as u64);
        self.transitions[transition.to.index()].add(1);
        if self.untold.push(*transition).is_err() {
            self.untold_lost.add(1);
        }
    }
}

impl Measured for ControlStatus {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        let node = self.node.to_string();
        let labels = &[("node", node.as_str())];
        let mut gauge = |name, help, value| sink(Sample { name, help, kind: Kind::Gauge, labels, value });
        gauge("control_level_number", "The node's level: 0 HEALTHY to 4 EMERGENCY.", self.level.get());
        let since = self.since_wall.get() / 1_000_000_000;
        gauge("control_level_since_seconds", "When the node's level was entered, seconds since 1970.", since);
        let help = "Events that stood in the node's deepest tier for the last 100 ms.";
        gauge("control_standing_depth", help, self.standing_depth.get());
        let help = "Lost for want of room over the last 10 s, thousandths of a percent of what was offered.";
        gauge("control_drop_rate_millipercent", help, self.drop_rate_millipercent.get());
        let help = "p99 of REALTIME of late, as the level is judged by it; 0: too few events.";
        gauge("control_realtime_p99_ns", help, self.realtime_p99_ns.get());
        for level in Level::ALL {
            let labels = &[("node", node.as_str()), ("level", level.name())];
            let (help, value) = ("How often a level was entered.", self.entered(level));
            sink(Sample { name: "control_transitions", help, kind: Kind::Counter, labels, value });
        }
    }
}

/// Puts a node's transitions into log lines.
#[derive(Debug)]
pub struct LevelWatch {
    status: Arc<ControlStatus>,
    lost: u64,
}

impl LevelWatch {
    /// Watches a node from its first transition on.
    pub fn new(status: Arc<ControlStatus>) -> Self {
        Self { status, lost: 0 }
    }

    /// Tells each transition since the last look, one line each, 32 at most and a line that counts the rest.
    pub fn look(&mut self, say: &mut dyn FnMut(log::Level, String)) {
        for _ in 0..UNTOLD_MAX {
            let Some(transition) = self.status.untold.pop() else { break };
            self.tell(&transition, say);
        }
        let lost = self.status.untold_lost.get();
        if lost > self.lost {
            let more = lost - std::mem::replace(&mut self.lost, lost);
            say(log::Level::Warn, format!("node {}: {more} more changes of level, too many to tell", self.status.node));
        }
    }

    fn tell(&self, transition: &Transition, say: &mut dyn FnMut(log::Level, String)) {
        let Transition { from, to, signals, .. } = transition;
        let (node, reason) = (self.status.node, Reason::of(transition, &self.status.thresholds));
        let line = format!(
            "node {node}: level {} after {}: {reason} (standing depth {}, drop rate {} of {} offered, REALTIME p99 {})",
            to.name(),
            from.name(),
            signals.standing_depth,
            Percent(signals.drop_rate_millipercent()),
            signals.offered,
            signals.realtime_p99.map_or("unknown".to_owned(), |p99| Millis(p99.0).to_string()),
        );
        let level = match to {
            Level::Emergency => log::Level::Error,
            Level::Degraded | Level::Critical => log::Level::Warn,
            Level::Healthy | Level::Elevated => log::Level::Info,
        };
        say(level, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rise(depth: u64) -> Transition {
        Transition {
            from: Level::Healthy,
            to: Level::Degraded,
            at: Nanos::from_millis(7),
            cause: Cause::Signal(Signal::Depth),
            signals: Signals { standing_depth: depth, pressing_depth: depth, offered: 100_000, dropped: 3, ..Signals::default() },
        }
    }

    #[test]
    fn a_transition_is_told_once_with_the_signals_that_caused_it() {
        let status = Arc::new(ControlStatus::new(2, Thresholds::default(), Nanos(0), WallNanos(0)));
        let mut watch = LevelWatch::new(status.clone());
        status.change(&rise(3_912), WallNanos(5_000_000_000));
        let mut lines = Vec::new();
        (0..2).for_each(|_| watch.look(&mut |level, line| lines.push((level, line))));
        let expected = "node 2: level DEGRADED after HEALTHY: standing depth 3912, 78 % of 5000 \
                        (standing depth 3912, drop rate 0.003 % of 100000 offered, REALTIME p99 unknown)";
        assert_eq!(lines, [(log::Level::Warn, expected.to_owned())]);
        let reading = status.reading();
        assert_eq!((reading.node, reading.level, reading.since), (2, Level::Degraded, Nanos::from_millis(7)));
        assert_eq!(reading.reason.to_string(), "standing depth 3912, 78 % of 5000");
    }

    #[test]
    fn more_transitions_than_can_be_told_are_counted() {
        let status = Arc::new(ControlStatus::new(0, Thresholds::default(), Nanos(0), WallNanos(0)));
        let mut watch = LevelWatch::new(status.clone());
        (0..40).for_each(|_| status.change(&rise(1), WallNanos(0)));
        let mut lines = Vec::new();
        watch.look(&mut |_, line| lines.push(line));
        assert_eq!((lines.len(), lines[32].as_str()), (33, "node 0: 8 more changes of level, too many to tell"));
        assert_eq!(status.entered(Level::Degraded), 40);
    }

    #[test]
    fn every_reason_survives_its_numbers() {
        let causes = [Cause::Start, Cause::Calm].into_iter().chain(Signal::ALL.map(Cause::Signal));
        for cause in causes {
            let reason = Reason { cause, value: 7, max: 9 };
            assert_eq!(Reason::from_numbers(reason.cause_number(), 7, 9), reason);
        }
    }
}
