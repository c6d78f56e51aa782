//! Whether frames have numbers: those of a session do, those of version 1 and of datagrams don't.
//!
//! The loop over frames is generic in it, so that a stream without numbers pays nothing for those with.

use crate::metrics::ledger::DropReason;
use crate::pool::{EventHeader, ProducerStamp};

/// What the next frame of a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// An event without a number.
    Unnumbered,
    /// An event with this one.
    Fresh(ProducerStamp),
    /// One that was taken before.
    Known,
    /// One that its client must not send yet.
    Beyond,
    /// One that its source may not send just now.
    Spent,
}

impl Next {
    /// The header of the event that the frame becomes.
    #[inline]
    pub(super) fn number(self, header: EventHeader) -> EventHeader {
        match self {
            Next::Fresh(stamp) => header.of_producer(stamp),
            Next::Unnumbered | Next::Known | Next::Beyond | Next::Spent => header,
        }
    }
}

/// Tells the frames of a stream apart. After each frame exactly one of the other calls says what became of it; none while it has to wait.
pub(super) trait Numbering {
    /// What the next frame is; the same until one of the other calls.
    fn next(&self) -> Next;
    /// It has become an event.
    fn took(&mut self);
    /// It was turned away.
    fn refused(&mut self, reason: DropReason);
    /// It was known.
    fn was_known(&mut self);
}

/// No numbers.
pub(super) struct Unnumbered;

impl Numbering for Unnumbered {
    #[inline]
    fn next(&self) -> Next {
        Next::Unnumbered
    }
    #[inline]
    fn took(&mut self) {}
    #[inline]
    fn refused(&mut self, _: DropReason) {}
    #[inline]
    fn was_known(&mut self) {}
}

/// Another numbering, of which only so many frames may be taken now.
pub(super) struct Metered<'a, N> {
    inner: N,
    left: &'a mut u32,
}

impl<'a, N: Numbering> Metered<'a, N> {
    /// `left` goes down by one with each frame.
    pub(super) fn new(inner: N, left: &'a mut u32) -> Self {
        Self { inner, left }
    }
}

impl<N: Numbering> Numbering for Metered<'_, N> {
    #[inline]
    fn next(&self) -> Next {
        if *self.left == 0 { Next::Spent } else { self.inner.next() }
    }
    #[inline]
    fn took(&mut self) {
        *self.left -= 1;
        self.inner.took();
    }
    #[cold]
    fn refused(&mut self, reason: DropReason) {
        *self.left -= 1;
        self.inner.refused(reason);
    }
    #[cold]
    fn was_known(&mut self) {
        *self.left -= 1;
        self.inner.was_known();
    }
}
