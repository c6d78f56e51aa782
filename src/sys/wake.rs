//! Parking and waking: an eventfd that a runner's ring watches, and the hand-shake that makes a wake-up cheap when nobody sleeps.
//!
//! ```text
//! runner:  state = PARKED; full fence; look once more for work; wait in the ring (eventfd armed); state = RUNNING
//! waker:   publish work; full fence; if state == PARKED, and we are the one who changes it to RUNNING: write the eventfd
//! ```
//!
//! Invariant **W1**: work that was published before `wake` is seen by the runner's last look, or the runner is woken. Either the
//! waker's load sees PARKED, or the runner's last look, after its fence, sees the work. Loom proves it below.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::clock::Nanos;
use super::io::Fd;
use std::sync::Arc;

use crate::sync::{AtomicU32, Ordering, fence};

const RUNNING: u32 = 0;
const PARKED: u32 = 1;

/// The state both sides share.
#[derive(Debug)]
pub(crate) struct ParkState(AtomicU32);

impl ParkState {
    pub(crate) fn new() -> Self {
        Self(AtomicU32::new(RUNNING))
    }

    /// Runner: announces that it is about to sleep. Look for work once more after this.
    pub(crate) fn announce(&self) {
        self.0.store(PARKED, Ordering::Relaxed);
        fence(Ordering::SeqCst); // W1
    }

    /// Runner: awake again.
    pub(crate) fn resume(&self) {
        self.0.store(RUNNING, Ordering::Relaxed);
    }

    /// Waker: whether the sleeper must be woken, by this caller.
    pub(crate) fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst); // W1
        self.is_mine_to_wake()
    }

    /// The part of `must_wake` after its fence.
    fn is_mine_to_wake(&self) -> bool {
        self.0.load(Ordering::Relaxed) == PARKED
            && self.0.compare_exchange(PARKED, RUNNING, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Wakes one runner from any thread.
#[derive(Clone, Debug)]
pub struct Waker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: ParkState,
    event: OwnedFd,
}

impl Waker {
    /// A waker with an eventfd of its own (non-blocking).
    ///
    /// # Errors
    /// Whatever eventfd says (out of descriptors).
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked below.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { inner: Arc::new(Inner { state: ParkState::new(), event }) })
    }

    /// The descriptor that becomes readable on a wake-up; the runner's ring watches it.
    pub(crate) fn event_fd(&self) -> Fd {
        Fd(self.inner.event.as_raw_fd())
    }

    /// The runner's side of the hand-shake.
    pub(crate) fn state(&self) -> &ParkState {
        &self.inner.state
    }

    /// Wakes the runner if it sleeps; a load and a fence if it doesn't.
    #[inline]
    pub fn wake(&self) {
        if self.inner.state.must_wake() {
            self.notify();
        }
    }

    /// Makes the eventfd readable, whatever the state (signals, commands).
    pub fn notify(&self) {
        let one = 1u64;
        // SAFETY: writes 8 bytes from a valid u64 to an eventfd that `inner` keeps open.
        // A full counter (EAGAIN) means the reader has a wake-up pending already.
        unsafe { libc::write(self.inner.event.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Sleeps until it is woken or notified, or `patience` is over (to the millisecond); may return early. For threads without a ring, in
    /// place of the wait in it: between [`ParkState::announce`] with its last look and [`ParkState::resume`].
    pub(crate) fn sleep(&self, patience: Option<Nanos>) {
        let timeout_ms = patience.map_or(-1, |patience| i32::try_from(patience.0.div_ceil(1_000_000)).unwrap_or(i32::MAX));
        let mut watched = libc::pollfd { fd: self.inner.event.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, whose descriptor `inner` keeps open. A signal (EINTR) is an early return.
        unsafe { libc::poll(&raw mut watched, 1, timeout_ms) };
        self.drain();
    }

    /// Empties the eventfd after a wake-up.
    pub(crate) fn drain(&self) {
        let mut count = 0u64;
        // SAFETY: reads 8 bytes into a valid u64; EAGAIN (nothing there) is fine.
        unsafe { libc::read(self.inner.event.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

/// Wakes those of many that sleep, for the price of one fence.
pub(crate) fn wake_all(wakers: &[Waker]) {
    fence(Ordering::SeqCst); // W1, for each of them.
    wakers.iter().filter(|waker| waker.inner.state.is_mine_to_wake()).for_each(Waker::notify);
}

#[cfg(all(test, loom))]
pub(crate) mod loom_tests {
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::*;

    /// Stands for the eventfd: stays readable until it is drained.
    #[derive(Default)]
    pub(crate) struct Event {
        readable: Mutex<bool>,
        changed: Condvar,
    }

    impl Event {
        pub(crate) fn notify(&self) {
            *self.readable.lock().unwrap() = true;
            self.changed.notify_one();
        }

        /// Sleeps until it is readable. Loom reports a deadlock if it never is.
        pub(crate) fn sleep(&self) {
            let mut readable = self.readable.lock().unwrap();
            while !*readable {
                readable = self.changed.wait(readable).unwrap();
            }
            *readable = false;
        }
    }

    /// Runs a runner that waits for `wakers` pieces of work against that many threads that publish one each.
    fn hand_shake(wakers: u32, preemptions_max: Option<usize>) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = preemptions_max;
        model.check(move || {
            let shared = Arc::new((ParkState::new(), AtomicU32::new(0), Event::default()));
            let threads: Vec<_> = (0..wakers)
                .map(|_| {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        let (state, work, event) = &*shared;
                        // Relaxed: what a producer publishes with; W1's fences do the ordering.
                        work.fetch_add(1, Ordering::Relaxed);
                        if state.must_wake() {
                            event.notify();
                        }
                    })
                })
                .collect();
            let (state, work, event) = &*shared;
            let mut seen = 0;
            while seen < wakers {
                state.announce();
                seen = work.load(Ordering::Relaxed); // The last look.
                if seen < wakers {
                    event.sleep();
                }
                state.resume();
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }

    #[test]
    fn loom_published_work_is_seen_or_the_runner_is_woken() {
        hand_shake(1, None);
    }

    #[test]
    fn loom_two_wakers_lose_no_wake_up() {
        // Three threads have too many interleavings to see all; 2 preemptions reach every pair of races.
        hand_shake(2, Some(2));
    }

    #[test]
    fn loom_only_one_of_two_wakers_writes_the_event() {
        loom::model(|| {
            let state = Arc::new(ParkState::new());
            state.announce();
            let other = state.clone();
            let thread = thread::spawn(move || other.must_wake());
            let woke = u32::from(state.must_wake()) + u32::from(thread.join().unwrap());
            assert_eq!(woke, 1);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn is_readable(waker: &Waker) -> bool {
        let mut poll = libc::pollfd { fd: waker.event_fd().0, events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, exclusively borrowed.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn a_running_runner_costs_no_event() {
        let waker = Waker::new().unwrap();
        waker.wake();
        assert!(!is_readable(&waker));
    }

    #[test]
    fn a_parked_runner_is_woken_once() {
        let waker = Waker::new().unwrap();
        waker.state().announce();
        waker.wake();
        assert!(is_readable(&waker));
        waker.drain();
        waker.wake();
        assert!(!is_readable(&waker), "it was woken already");
    }

    #[test]
    fn a_notification_reaches_a_running_runner_too() {
        let waker = Waker::new().unwrap();
        waker.notify();
        assert!(is_readable(&waker));
    }
}
