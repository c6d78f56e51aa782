//! The pulse of a runner: what tells a parked one, which is well, from a stuck one.
//!
//! A runner beats once a turn, and says so when it parks and until when. It is *stuck* when it was running and made no turn for
//! [`RUNNER_STALL`], or when it was parked with a deadline and still is so long after it.

use crate::limits::RUNNER_STALL;
use crate::sys::clock::Nanos;

use super::ledger::Counter;

/// Not parked.
const AWAKE: u64 = 0;
/// Parked until something wakes it.
const PARKED_FOR_GOOD: u64 = u64::MAX;

/// One runner's pulse. Written by the runner only, read by the admin endpoint.
#[derive(Debug)]
pub struct RunnerPulse {
    name: String,
    turns: Counter,
    last_turn: Counter,
    parked_until: Counter,
}

/// What a pulse says at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vitality {
    /// It makes its turns.
    Running,
    /// It has nothing to do, and is not overdue.
    Parked,
    /// It ought to have made a turn, and has not for this long.
    Stuck(Nanos),
}

impl Vitality {
    /// The word in JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Vitality::Running => "running",
            Vitality::Parked => "parked",
            Vitality::Stuck(_) => "stuck",
        }
    }
}

impl RunnerPulse {
    /// The pulse of a runner that starts now. `name` as in thread names.
    pub fn new(name: impl Into<String>, now: Nanos) -> Self {
        let pulse = Self {
            name: name.into(),
            turns: Counter::default(),
            last_turn: Counter::default(),
            parked_until: Counter::default(),
        };
        pulse.last_turn.set(now.0);
        pulse
    }

    /// The runner's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runner: a turn begins. Two stores.
    #[inline]
    pub fn beat(&self, now: Nanos) {
        self.last_turn.set(now.0);
        self.turns.add(1);
    }

    /// Runner: about to park, until `deadline` at the latest if there is one.
    #[inline]
    pub fn park(&self, deadline: Option<Nanos>) {
        self.parked_until.set(deadline.map_or(PARKED_FOR_GOOD, |deadline| deadline.0.clamp(1, PARKED_FOR_GOOD - 1)));
    }

    /// Runner: awake again. Beat right after it, so that no reader sees an old turn beside it for long.
    #[inline]
    pub fn unpark(&self, now: Nanos) {
        self.last_turn.set(now.0);
        self.parked_until.set(AWAKE);
    }

    /// Turns made so far.
    pub fn turns(&self) -> u64 {
        self.turns.get()
    }

    /// How it is.
    pub fn vitality(&self, now: Nanos) -> Vitality {
        let parked_until = self.parked_until.get();
        let (due, well) = match parked_until {
            PARKED_FOR_GOOD => return Vitality::Parked,
            AWAKE => (Nanos(self.last_turn.get()), Vitality::Running),
            deadline => (Nanos(deadline), Vitality::Parked),
        };
        let late = now.since(due);
        if late > RUNNER_STALL { Vitality::Stuck(late) } else { well }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = Nanos::from_millis(1_000);

    #[test]
    fn a_runner_without_a_turn_for_two_seconds_is_stuck() {
        let pulse = RunnerPulse::new("node0", Nanos(0));
        pulse.beat(SECOND);
        assert_eq!(pulse.vitality(SECOND + RUNNER_STALL), Vitality::Running);
        assert_eq!(pulse.vitality(SECOND + RUNNER_STALL + Nanos(1)), Vitality::Stuck(RUNNER_STALL + Nanos(1)));
        assert_eq!(pulse.turns(), 1);
    }

    #[test]
    fn a_parked_runner_is_well_however_long_it_sleeps() {
        let pulse = RunnerPulse::new("node0", Nanos(0));
        pulse.park(None);
        assert_eq!(pulse.vitality(Nanos(3_600_000_000_000)), Vitality::Parked);
        pulse.unpark(Nanos(3_600_000_000_000));
        assert_eq!(pulse.vitality(Nanos(3_600_000_000_000)), Vitality::Running);
    }

    #[test]
    fn a_runner_that_sleeps_past_its_deadline_is_stuck() {
        let pulse = RunnerPulse::new("node0", Nanos(0));
        pulse.park(Some(Nanos::from_millis(10_000)));
        assert_eq!(pulse.vitality(Nanos::from_millis(9_000)), Vitality::Parked);
        assert_eq!(pulse.vitality(Nanos::from_millis(12_000)), Vitality::Parked);
        assert!(matches!(pulse.vitality(Nanos::from_millis(12_001)), Vitality::Stuck(_)));
    }
}
