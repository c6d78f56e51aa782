//! The clock seam: monotonic time for deadlines and latencies, wall time for records.
//!
//! Only runners read the clock, once a turn; agents get `now` as an argument and may ask again for the
//! stamp after a batch. The simulator's clock advances only when its scheduler says so.

use std::ops::{Add, Sub};

/// Nanoseconds on the monotonic clock (`CLOCK_MONOTONIC`). Never compared across hosts or boots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A duration of `micros` microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros * 1_000)
    }

    /// A duration of `millis` milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// `self - earlier`, zero where `earlier` is later.
    pub const fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add for Nanos {
    type Output = Nanos;
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0 + other.0)
    }
}

impl Sub for Nanos {
    type Output = Nanos;
    fn sub(self, other: Nanos) -> Nanos {
        Nanos(self.0 - other.0)
    }
}

/// Nanoseconds since the UNIX epoch (`CLOCK_REALTIME`), for records that people read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallNanos(pub u64);

/// Where time comes from.
pub trait Clock {
    /// The monotonic clock, now.
    fn now(&self) -> Nanos;
    /// The wall clock, now.
    fn wall(&self) -> WallNanos;
}

/// The clock of the host (vDSO; 23 ns a read on the machines this was written on).
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock;

impl HostClock {
    fn read(clock: libc::clockid_t) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid, exclusively borrowed timespec; the clock ids used here always exist.
        let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
        assert_eq!(status, 0, "clock_gettime failed on a clock that every kernel has");
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }
}

impl Clock for HostClock {
    fn now(&self) -> Nanos {
        Nanos(Self::read(libc::CLOCK_MONOTONIC))
    }

    fn wall(&self) -> WallNanos {
        WallNanos(Self::read(libc::CLOCK_REALTIME))
    }
}
