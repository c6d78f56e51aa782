//! Hellos that arrived at another reactor than their producer's home, on their way there.
//!
//! ```text
//! reactor A: hello whole, home is B ─► receive ended ─► Inbox of B: descriptor and hello ─► wakes B ─► B: adopts, answers
//! ```
//!
//! Invariant **HO1** A descriptor in an inbox is closed by somebody: [`Inbox::offer`] looks whether the inbox was closed *after* it has put one in, and
//! [`Inbox::close`] empties it *after* it has closed it, with a full fence on both sides. So one of the two sees it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam_queue::ArrayQueue;

use crate::sys::io::Fd;
use crate::sys::wake::Waker;
use crate::wire::session::HELLO_BYTES_MAX;

/// Hellos that may be on their way to one reactor; the next one is refused, and its client tries again.
const INBOX_HELLOS: usize = 64;

/// A connection that changes its reactor.
#[derive(Debug)]
pub(in crate::ingest) struct Transfer {
    pub(super) fd: Fd,
    pub(super) hello: [u8; HELLO_BYTES_MAX],
    pub(super) hello_bytes: usize,
}

/// Where a reactor gets them.
#[derive(Debug)]
pub struct Inbox {
    transfers: ArrayQueue<Transfer>,
    closed: AtomicBool,
    /// `None`: its reactor is polled all the time.
    waker: OnceLock<Waker>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self { transfers: ArrayQueue::new(INBOX_HELLOS), closed: AtomicBool::new(false), waker: OnceLock::new() }
    }
}

impl Inbox {
    /// Whom to wake: the runner of its reactor. Before it is used.
    ///
    /// # Panics
    /// On a second call.
    pub fn set_waker(&self, waker: Waker) {
        assert!(self.waker.set(waker).is_ok(), "an inbox has one reactor");
    }

    /// Hands one over.
    ///
    /// # Errors
    /// Gives one back that the caller has to close: this one, or another that nobody would take any more.
    pub(super) fn offer(&self, transfer: Transfer) -> Result<(), Transfer> {
        self.transfers.push(transfer)?;
        fence(Ordering::SeqCst); // HO1
        if self.closed.load(Ordering::Relaxed)
            && let Some(transfer) = self.transfers.pop()
        {
            return Err(transfer);
        }
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
        Ok(())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> Option<Transfer> {
        if self.transfers.is_empty() { None } else { self.transfers.pop() }
    }

    /// The owner takes no more. What is in it is still to be taken.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst); // HO1
    }
}
