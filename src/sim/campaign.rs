//! Many seeds, one after the other or on several threads; a failure is a value that names its seed.

use std::cell::{Cell, RefCell};
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, Once};
use std::time::Duration;

use super::scenario::Scenario;
use super::tally::Tally;
use super::world::{Outcome, run};
pub use crate::planted::Bug;
use crate::planted::plant;

/// Between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Why locks are never poisoned.
const NO_PANIC: &str = "nobody panics with this lock held";

/// A seed that did not come to a good end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What was planted.
    pub bug: Option<Bug>,
    /// The oracle's words.
    pub oracle: String,
    /// Where it spoke: file and line.
    pub place: String,
}

impl Failure {
    /// The command that shows it again, bit for bit.
    pub fn replay(&self) -> String {
        let bug = self.bug.map(|bug| format!(" --bug {}", bug.name())).unwrap_or_default();
        format!("cargo run --release --features sim -- sim --seed {}{bug}", self.seed)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { seed, oracle, place, .. } = self;
        write!(f, "seed {seed} fails: {oracle}\n  at {place}\n  again: {}", self.replay())
    }
}

impl std::error::Error for Failure {}

thread_local! {
    static IS_RUNNING: Cell<bool> = const { Cell::new(false) };
    /// The first panic of the run: later ones come of it.
    static PANIC: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// Keeps panics of runs for [`try_seed`]; all others go to the hook that was there before.
fn keep_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_RUNNING.get() {
                return before(info);
            }
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            PANIC.with_borrow_mut(|kept| _ = kept.get_or_insert((text, place)));
        }));
    });
}

/// Runs a seed to its end, with a bug planted or none.
///
/// # Errors
/// The first oracle that is violated, the mistake of an agent towards the kernel, or that the run does not come to its end.
pub fn try_seed(seed: u64, bug: Option<Bug>) -> Result<Outcome, Failure> {
    keep_panics();
    plant(bug);
    IS_RUNNING.set(true);
    let outcome = catch_unwind(|| run(&Scenario::of_seed(seed)));
    IS_RUNNING.set(false);
    plant(None);
    let panic = PANIC.take();
    outcome.map_err(|_| {
        let (oracle, place) = panic.unwrap_or_default();
        Failure { seed, bug, oracle, place }
    })
}

/// Runs a seed to its end.
///
/// # Panics
/// With the [`Failure`], if there is one.
pub fn run_seed(seed: u64) -> Outcome {
    try_seed(seed, None).unwrap_or_else(|failure| panic!("{failure}\n{:?}", Scenario::of_seed(seed)))
}

/// A row of seeds.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// Threads that share them.
    pub threads: usize,
    /// What is planted.
    pub bug: Option<Bug>,
}

impl Campaign {
    /// Runs them all, and tells every few seconds how many are done. Gives what went wrong in them.
    ///
    /// # Errors
    /// The failure of the lowest seed that fails; those above it may not have been run then.
    pub fn run(&self, mut progress: impl FnMut(u64)) -> Result<Tally, Failure> {
        let end = self.from.saturating_add(self.seeds);
        // Relaxed all of them: each is a number by itself; the failure is behind a lock, and the threads are joined.
        let (next, limit, done) = (AtomicU64::new(self.from), AtomicU64::new(end), AtomicU64::new(0));
        let (lowest, tally): (Mutex<Option<Failure>>, Mutex<Tally>) = Default::default();
        std::thread::scope(|scope| {
            let (ended, all_ended) = std::sync::mpsc::channel::<()>();
            for _ in 0..self.threads.max(1) {
                let (ended, next, limit, done, lowest, tally) = (ended.clone(), &next, &limit, &done, &lowest, &tally);
                scope.spawn(move || {
                    let _ended = ended; // Dropped when the thread is through.
                    loop {
                        let seed = next.fetch_add(1, Relaxed);
                        if seed >= limit.load(Relaxed) {
                            return;
                        }
                        match try_seed(seed, self.bug) {
                            Ok(outcome) => tally.lock().expect(NO_PANIC).add(&outcome.faults),
                            Err(failure) => {
                                limit.fetch_min(seed, Relaxed);
                                let mut lowest = lowest.lock().expect(NO_PANIC);
                                if lowest.as_ref().is_none_or(|lowest| seed < lowest.seed) {
                                    *lowest = Some(failure);
                                }
                            }
                        }
                        done.fetch_add(1, Relaxed);
                    }
                });
            }
            drop(ended);
            while all_ended.recv_timeout(REPORT_EVERY) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                progress(done.load(Relaxed));
            }
        });
        let tally = tally.into_inner().expect(NO_PANIC);
        lowest.into_inner().expect(NO_PANIC).map_or(Ok(tally), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_bug_is_a_failure_with_its_seed_oracle_and_replay_and_is_gone_afterwards() {
        let campaign = Campaign { from: 5, seeds: 20, threads: 2, bug: Some(Bug::DoubleRelease) };
        let failure = campaign.run(|_| {}).expect_err("it is caught at once");
        assert!(failure.oracle.contains("came home twice"), "{failure}");
        assert!(failure.replay().ends_with(&format!("sim --seed {} --bug DOUBLE_RELEASE", failure.seed)));
        assert_eq!(try_seed(failure.seed, Some(Bug::DoubleRelease)), Err(failure.clone()), "bit for bit");
        try_seed(failure.seed, None).expect("without the bug");
    }
}
