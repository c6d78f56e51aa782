//! Simulated time: stands still until the scheduler moves it.

use std::cell::Cell;
use std::rc::Rc;

use crate::sys::clock::{Clock, Nanos, WallNanos};

/// Where the monotonic clock begins: one second, so that no agent can take zero for "not yet".
const START: Nanos = Nanos::from_millis(1_000);

/// How far the wall clock is ahead of the monotonic one at first: 2023-11-14T22:13:20Z, a round number of seconds.
const WALL_OFFSET_NS: u64 = 1_700_000_000_000_000_000;

/// A clock that all parts of a simulation share.
#[derive(Clone, Debug)]
pub struct SimClock {
    now: Rc<Cell<Nanos>>,
    /// How far the wall clock is ahead.
    wall_ahead_ns: Rc<Cell<u64>>,
}

impl SimClock {
    /// A clock at its start.
    pub fn new() -> Self {
        Self { now: Rc::new(Cell::new(START)), wall_ahead_ns: Rc::new(Cell::new(WALL_OFFSET_NS)) }
    }

    /// Moves on by `step`.
    pub fn advance(&self, step: Nanos) {
        self.now.set(self.now.get() + step);
    }

    /// The wall clock alone jumps, in either direction, as when somebody sets it.
    pub fn jump_wall(&self, by_ns: i64) {
        self.wall_ahead_ns.set(self.wall_ahead_ns.get().saturating_add_signed(by_ns));
    }

    /// Moves on to `time`, if that is still to come.
    pub fn advance_to(&self, time: Nanos) {
        self.now.set(self.now.get().max(time));
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Nanos {
        self.now.get()
    }

    fn wall(&self) -> WallNanos {
        WallNanos(self.wall_ahead_ns.get() + self.now.get().0)
    }
}
