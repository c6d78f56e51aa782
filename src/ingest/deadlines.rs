//! When to look at which connection: one compact array, swept at most every 100 ms.
//!
//! 8 bytes per connection, so that a sweep over 10,000 of them reads 80 KB in a row. A time in it is a lower bound: the
//! sweep asks the connection itself, and receiving bytes costs no store here.

use crate::sys::clock::Nanos;

/// Sweeps are at least this far apart, so a deadline is met up to this late.
pub(super) const SWEEP_INTERVAL: Nanos = Nanos::from_millis(100);

const NEVER: Nanos = Nanos(u64::MAX);

/// The earliest deadline of each connection.
#[derive(Debug)]
pub(super) struct Deadlines {
    at: Vec<Nanos>,
    swept_at: Nanos,
    next_sweep: Nanos,
}

impl Deadlines {
    pub(super) fn new(connections_max: u32) -> Self {
        Self { at: vec![NEVER; connections_max as usize], swept_at: Nanos(0), next_sweep: NEVER }
    }

    /// Looks at this connection at `at`, or earlier if that was asked for before.
    pub(super) fn no_later_than(&mut self, slot: u32, at: Nanos) {
        let entry = &mut self.at[slot as usize];
        if at < *entry {
            *entry = at;
            self.next_sweep = self.next_sweep.min(at.max(self.swept_at + SWEEP_INTERVAL));
        }
    }

    /// Doesn't look at this connection again until asked.
    pub(super) fn clear(&mut self, slot: u32) {
        self.at[slot as usize] = NEVER;
    }

    /// When the next sweep is due, if any.
    pub(super) fn next_sweep(&self) -> Option<Nanos> {
        (self.next_sweep != NEVER).then_some(self.next_sweep)
    }

    /// Begins a sweep if it is time. Go on with [`Deadlines::next_due`] until it gives nothing, then [`Deadlines::end_sweep`].
    pub(super) fn begin_sweep(&mut self, now: Nanos) -> bool {
        let due = now >= self.next_sweep;
        if due {
            self.swept_at = now;
        }
        due
    }

    /// The next connection from `from` on, below `reach`, whose time has come; its entry is cleared.
    pub(super) fn next_due(&mut self, from: u32, reach: u32) -> Option<u32> {
        let now = self.swept_at;
        let row = &mut self.at[from as usize..reach as usize];
        let found = row.iter().position(|at| *at <= now)?;
        row[found] = NEVER;
        Some(from + found as u32)
    }

    /// Finds out when to sweep again.
    pub(super) fn end_sweep(&mut self, reach: u32) {
        let nearest = self.at[..reach as usize].iter().copied().min().unwrap_or(NEVER);
        self.next_sweep = if nearest == NEVER { NEVER } else { nearest.max(self.swept_at + SWEEP_INTERVAL) };
    }
}
