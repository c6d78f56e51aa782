//! So many a second, counted in whole seconds of the events' own receive times: the same events give the same answers.

use crate::sys::clock::Nanos;

/// A limit and what has been let through in the second being counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimit {
    per_s_max: u32,
    second: u64,
    admitted: u32,
}

impl RateLimit {
    /// Lets `per_s_max` a second through; 0: nothing.
    pub(crate) fn new(per_s_max: u32) -> Self {
        Self { per_s_max, second: 0, admitted: 0 }
    }

    /// Whether one more, at `at`, is within the limit. What comes late (from another reactor) counts into the second that is open.
    #[inline]
    pub(crate) fn admits(&mut self, at: Nanos) -> bool {
        let second = at.0 / 1_000_000_000;
        if second > self.second {
            (self.second, self.admitted) = (second, 0);
        }
        let admits = self.admitted < self.per_s_max;
        self.admitted += u32::from(admits);
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_starts_afresh_and_a_late_one_opens_none() {
        let mut limit = RateLimit::new(2);
        let mut admits = |millis| limit.admits(Nanos::from_millis(millis));
        assert_eq!([admits(1_000), admits(1_500), admits(1_999), admits(2_000)], [true, true, false, true]);
        assert_eq!([admits(1_999), admits(1_999), admits(2_001)], [true, false, false]);
        assert!(!RateLimit::new(0).admits(Nanos(0)));
    }
}
