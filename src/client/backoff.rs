//! How long to wait before the next try.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Doubles from try to try, up to a bound; each wait is drawn from the upper half of its time, so that clients that lost a server
/// together don't come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Backoff {
        Backoff { first, most: most.max(first), next: first }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let whole = self.next;
        self.next = self.most.min(whole * 2);
        // 32 random bits are fine enough for what is compared in milliseconds.
        let share = (random() >> 32) as f64 / f64::from(u32::MAX);
        whole.mul_f64(0.5 + share / 2.0)
    }

    /// What was lost has come back.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// 64 random bits. The standard library has no generator, but keys its hash maps from the system's: a keyed hash of nothing is as
/// random as its key.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_bound_and_begin_again_after_a_reset() {
        let [first, most] = [10, 50].map(Duration::from_millis);
        let mut backoff = Backoff::new(first, most);
        for whole in [10, 20, 40, 50, 50].map(Duration::from_millis) {
            let wait = backoff.wait();
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= first);
    }

    #[test]
    fn random_numbers_differ() {
        let drawn: std::collections::HashSet<u64> = (0..100).map(|_| random()).collect();
        assert_eq!(drawn.len(), 100);
    }
}
