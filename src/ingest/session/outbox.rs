//! One connection's answers on their way: a buffer that is filled, sent, and filled again when all of it has gone.

use std::ops::Range;

use crate::agent::Context;
use crate::ingest::kind;
use crate::sys::clock::Nanos;
use crate::sys::io::{Fd, Ring, Token};
use crate::sys::memory::StagingBuffer;

/// Bytes of an outbox: the longest welcome, and refusals and an acknowledgement beside it.
pub(super) const OUTBOX_BYTES: usize = 4096;

const _: () = assert!(OUTBOX_BYTES > crate::wire::session::WELCOME_BYTES_MAX + crate::wire::session::ERROR_BYTES_MAX);

/// A connection as operations outlive it: its place in the table, and which use of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingest) struct ConnectionRef {
    pub(in crate::ingest) slot: u32,
    pub(in crate::ingest) generation: u16,
}

/// A send under way.
#[derive(Clone, Debug)]
struct Sending {
    to: ConnectionRef,
    fd: Fd,
    /// What has not gone yet.
    bytes: Range<usize>,
    /// When some of it last went.
    since: Nanos,
}

/// What a send's completion came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The rest is on its way.
    Partly,
    /// All of it is gone, or the connection is.
    All(ConnectionRef),
}

/// See the module doc. One send is in flight at most (R3 in `sys::io`: the buffer is the ring's meanwhile).
#[derive(Debug)]
pub(super) struct Outbox {
    /// Its number among the reactor's outboxes: the slot of its tokens.
    number: u32,
    generation: u16,
    /// `None` while it is in flight.
    buffer: Option<StagingBuffer>,
    filled: usize,
    sending: Option<Sending>,
}

impl Outbox {
    /// Maps its buffer.
    ///
    /// # Errors
    /// Whatever mmap says.
    pub(super) fn new(number: u32) -> std::io::Result<Self> {
        Ok(Self { number, generation: 0, buffer: Some(StagingBuffer::map(OUTBOX_BYTES)?), filled: 0, sending: None })
    }

    /// Whether it may be filled: nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.sending.is_none()
    }

    /// Whom a send is for that has not got on since before `since`. Not always whose the outbox is by now.
    pub(super) fn stuck_since(&self, since: Nanos) -> Option<ConnectionRef> {
        self.sending.as_ref().filter(|sending| sending.since <= since).map(|sending| sending.to)
    }

    /// The room behind what was filled in; empty while something is on its way.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer[self.filled..])
    }

    /// So many bytes of the room are filled.
    pub(super) fn fill(&mut self, bytes: usize) {
        self.filled += bytes;
        debug_assert!(self.filled <= OUTBOX_BYTES);
    }

    /// Puts a whole message in. False: it does not fit now.
    pub(super) fn put(&mut self, message: &[u8]) -> bool {
        let Some(room) = self.room().get_mut(..message.len()) else { return false };
        room.copy_from_slice(message);
        self.fill(message.len());
        true
    }

    /// Throws away what was filled in and not sent.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Sends what was filled in. Whether there was anything.
    pub(super) fn send<R: Ring>(&mut self, to: ConnectionRef, fd: Fd, ctx: &mut Context<'_, R>) -> bool {
        if self.filled == 0 {
            return false;
        }
        self.sending = Some(Sending { to, fd, bytes: 0..std::mem::take(&mut self.filled), since: ctx.now });
        self.submit(ctx);
        true
    }

    fn submit<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        let sending = self.sending.as_ref().expect("the caller has set it");
        let buffer = self.buffer.take().expect("R3: one send at a time");
        self.generation = self.generation.wrapping_add(1);
        ctx.ring.send(ctx.token(kind::SEND, self.generation, self.number), sending.fd, buffer, sending.bytes.clone());
    }

    /// A send has completed; `is_open`: whether its connection still wants the rest.
    pub(super) fn completed<R: Ring>(
        &mut self,
        token: Token,
        result: Result<u32, crate::sys::io::Errno>,
        is_open: impl Fn(ConnectionRef) -> bool,
        ctx: &mut Context<'_, R>,
    ) -> Sent {
        debug_assert_eq!(token.generation(), self.generation, "R1: one completion for each send");
        self.buffer = Some(ctx.ring.reclaim(token));
        let sending = self.sending.as_mut().expect("a send was in flight");
        let to = sending.to;
        match result {
            Ok(bytes) => {
                sending.bytes.start += bytes as usize;
                if bytes > 0 {
                    sending.since = ctx.now;
                }
                if !sending.bytes.is_empty() && is_open(to) {
                    self.submit(ctx);
                    return Sent::Partly;
                }
            }
            // A signal, or the kernel was short of memory: the rest goes again.
            Err(crate::sys::io::Errno(libc::EINTR | libc::EAGAIN)) if is_open(to) => {
                self.submit(ctx);
                return Sent::Partly;
            }
            // The peer is gone, which its receive tells; or we shut it down.
            Err(_) => {}
        }
        self.sending = None;
        Sent::All(to)
    }
}
