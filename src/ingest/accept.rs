//! Accepting: one multishot operation, and patience when descriptors run out.
//!
//! EMFILE ends the multishot at once, and arming it again at once would end it at once again: so it backs off, 10 ms doubled up to 1 s,
//! and starts at 10 ms again after the next success. The client that found no descriptor waits in the backlog meanwhile.

use std::sync::Arc;

use super::counters::IngestCounters;
use super::kind;
use crate::agent::Context;
use crate::sys::clock::Nanos;
use crate::sys::io::{Completion, Errno, Fd, Ring};

const BACKOFF_MIN: Nanos = Nanos::from_millis(10);
const BACKOFF_MAX: Nanos = Nanos::from_millis(1_000);

/// A fresh descriptor.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) fd: Fd,
}

/// The listener's accept operation.
#[derive(Debug)]
pub(super) struct Acceptor {
    listener: Option<Fd>,
    counters: Arc<IngestCounters>,
    armed: bool,
    stopping: bool,
    cancel_in_flight: bool,
    backoff: Nanos,
    retry_at: Option<Nanos>,
}

impl Acceptor {
    pub(super) fn new(listener: Option<Fd>, counters: Arc<IngestCounters>) -> Self {
        Self { listener, counters, armed: false, stopping: false, cancel_in_flight: false, backoff: BACKOFF_MIN, retry_at: None }
    }

    pub(super) fn arm<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        let Some(listener) = self.listener.filter(|_| !self.armed && !self.stopping) else { return };
        self.armed = true;
        ctx.ring.accept_multishot(ctx.token(kind::ACCEPT, 0, 0), listener);
    }

    /// The accept operation completed.
    pub(super) fn completed<R: Ring>(&mut self, completion: &Completion, ctx: &mut Context<'_, R>) -> Option<Accepted> {
        self.armed = completion.more;
        let accepted = match completion.result {
            Ok(fd) => {
                self.backoff = BACKOFF_MIN;
                Some(Accepted { fd: Fd(fd as i32) })
            }
            // The client was gone before it was accepted, or a signal or a cancel came: nothing is short.
            Err(Errno(libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO | libc::ECANCELED)) => None,
            // EMFILE, ENFILE, ENOBUFS, ENOMEM; and whatever else, so that no error can make it spin.
            Err(_) => {
                self.counters.accept_backoff.add(1);
                self.retry_at = Some(ctx.now + self.backoff);
                self.backoff = Nanos(self.backoff.0 * 2).min(BACKOFF_MAX);
                None
            }
        };
        if !self.armed && self.retry_at.is_none() && !self.stopping {
            self.counters.rearmed.add(1);
            self.arm(ctx);
        }
        accepted
    }

    /// Arms again after a back-off.
    pub(super) fn poll<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        if self.retry_at.is_some_and(|at| ctx.now >= at) {
            self.retry_at = None;
            self.arm(ctx);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        self.retry_at
    }

    pub(super) fn stop<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        self.stopping = true;
        self.retry_at = None;
        if self.armed {
            self.cancel_in_flight = true;
            ctx.ring.cancel(ctx.token(kind::CANCEL_ACCEPT, 0, 0), ctx.token(kind::ACCEPT, 0, 0));
        }
    }

    pub(super) fn cancelled(&mut self) {
        self.cancel_in_flight = false;
    }

    pub(super) fn is_over(&self) -> bool {
        !self.armed && !self.cancel_in_flight
    }
}
