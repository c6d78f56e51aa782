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

    /// Empties the eventfd after a wake-up.
    pub(crate) fn drain(&self) {
        let mut count = 0u64;
        // SAFETY: reads 8 bytes into a valid u64; EAGAIN (nothing there) is fine.
        unsafe { libc::read(self.inner.event.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}
