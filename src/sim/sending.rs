//! Sending in the simulated kernel, and the client's end of it: what a socket takes, what the peer reads, and who never does.

use std::ops::Range;

use super::kernel::{Kernel, Kind, Posted};
use super::net::ConnId;
use super::ring::SimRing;
use super::tally::Fault;
use crate::sys::io::{Fd, Token};
use crate::sys::memory::StagingBuffer;

impl Kernel {
    /// An agent sends. A socket takes one send at a time beside its receive.
    pub(super) fn submit_send(&mut self, token: Token, socket: Fd, buffer: StagingBuffer, bytes: Range<usize>) {
        assert!(!bytes.is_empty() && bytes.end <= buffer.len(), "a send of {bytes:?} of a staging buffer");
        self.submit(token, Kind::Send { socket, buffer, bytes });
    }

    /// What a send comes to; `None`: the socket's buffer is full.
    pub(super) fn send(&mut self, socket: Fd, bytes: &[u8], cancelled: bool) -> Option<Posted> {
        let window_bytes = self.faults.send_window_bytes;
        let conn = self.net.conn(socket);
        let stream = self.net.stream(conn);
        let left = window_bytes.saturating_sub(stream.outbound.len());
        if stream.reset {
            return Some(Posted::last(Err(libc::ECONNRESET)));
        }
        if stream.shut || stream.sent_end {
            return Some(Posted::last(Err(libc::EPIPE)));
        }
        if left == 0 {
            return cancelled.then(|| Posted::last(Err(libc::ECANCELED)));
        }
        if let Some(interrupted) = self.interrupted() {
            return Some(interrupted);
        }
        let mut count = bytes.len().min(left);
        if count < bytes.len() {
            self.met.note(Fault::SendHeldUp);
        }
        if count > 1 && self.meets(Fault::ShortSend, self.faults.short_send) {
            count = self.rng.between(1..=count as u64 - 1) as usize;
        }
        self.net.stream(conn).outbound.extend(&bytes[..count]);
        Some(Posted::last(Ok(count as u32)))
    }
}

impl SimRing {
    /// A client reads up to `max` bytes of what it was sent.
    pub fn read(&self, conn: ConnId, max: usize) -> Vec<u8> {
        self.with_stream(conn, |stream| {
            let count = max.min(stream.outbound.len());
            stream.outbound.drain(..count).collect()
        })
    }

    /// Whether a client that has read everything has read to the end of the stream.
    pub fn is_at_end(&self, conn: ConnId) -> bool {
        self.with_stream(conn, |stream| stream.outbound.is_empty() && (stream.sent_end || stream.shut || stream.closed))
    }
}
