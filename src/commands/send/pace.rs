//! How fast: a token bucket.

use std::time::{Duration, Instant};

/// The shortest sleep worth asking for: the kernel's default timer slack.
pub(super) const NAP: Duration = Duration::from_micros(50);

/// Lets through so many events per second, and a small burst after a pause. What a pause left unused beyond that is not made
/// up for: the rate is a bound.
#[derive(Debug)]
pub(super) struct Pace {
    /// `None`: no bound.
    rate: Option<f64>,
    burst: f64,
    tokens: f64,
    last: Instant,
}

impl Pace {
    /// A thread's share of a rate. A burst is what `burst` of time brings.
    pub(super) fn new(rate_events_per_second: Option<u64>, threads: usize, burst: Duration, now: Instant) -> Pace {
        let rate = rate_events_per_second.map(|rate| rate as f64 / threads as f64);
        let burst = rate.map_or(0.0, |rate| (rate * burst.as_secs_f64()).max(1.0));
        Pace { rate, burst, tokens: 1.0, last: now }
    }

    /// Whether there is a bound at all; if not, no clock needs to be read.
    pub(super) fn is_bounded(&self) -> bool {
        self.rate.is_some()
    }

    /// How many events may go now.
    pub(super) fn allowed(&mut self, now: Instant) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        self.tokens = (self.tokens + passed * rate).min(self.burst);
        self.tokens as u64
    }

    /// So many went.
    pub(super) fn took(&mut self, events: u64) {
        if self.is_bounded() {
            self.tokens -= events as f64;
        }
    }

    /// How long until the next may go; at most 10 ms, so that a stop is noticed.
    pub(super) fn pause(&self) -> Duration {
        let Some(rate) = self.rate else { return NAP };
        let seconds = ((1.0 - self.tokens) / rate).clamp(NAP.as_secs_f64(), 0.01);
        Duration::from_secs_f64(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_brings_the_rate_and_a_pause_no_more_than_a_burst() {
        let begun = Instant::now();
        let mut pace = Pace::new(Some(1000), 1, Duration::from_millis(10), begun);
        let mut sent = 0;
        for millisecond in 1..=1000 {
            let allowed = pace.allowed(begun + Duration::from_millis(millisecond));
            pace.took(allowed);
            sent += allowed;
        }
        assert!((999..=1001).contains(&sent), "{sent}");
        assert_eq!(pace.allowed(begun + Duration::from_secs(60)), 10);
    }

    #[test]
    fn a_slow_rate_still_lets_one_through_at_a_time() {
        let begun = Instant::now();
        let mut pace = Pace::new(Some(1), 2, Duration::from_millis(1), begun);
        assert_eq!(pace.allowed(begun), 1);
        pace.took(1);
        assert_eq!(pace.allowed(begun + Duration::from_millis(1900)), 0);
        assert_eq!(pace.allowed(begun + Duration::from_millis(2001)), 1);
    }

    #[test]
    fn without_a_rate_there_is_no_bound() {
        let mut pace = Pace::new(None, 1, NAP, Instant::now());
        assert_eq!(pace.allowed(Instant::now()), u64::MAX);
        pace.took(u64::MAX);
        assert_eq!(pace.allowed(Instant::now()), u64::MAX);
    }
}
