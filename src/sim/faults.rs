//! How often what goes wrong in a simulated kernel. Which kinds there are, and how often they were met: [`super::tally`].
//!
//! An enter that is interrupted has no place here: the real ring goes on with it ([`crate::sys::uring`], G2), and what an agent would see of it,
//! that nothing happens for a while, any step of the scheduler may be.

use crate::sys::clock::Nanos;

/// The knobs of a simulated kernel. Chances are per mille of the occasions named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// A multishot operation ends with a completion that otherwise succeeded.
    pub silent_end: u32,
    /// A receive takes less than it could.
    pub short_receive: u32,
    /// A multishot receive that finds its group empty ends with ENOBUFS though no data came (kernels without POLL_FIRST).
    pub eager_enobufs: bool,
    /// A completion is told late …
    pub late_completion: u32,
    /// … by so much at most.
    pub late_max: Nanos,
    /// A buffer comes back with an error or with zero bytes.
    pub buffer_with_nothing: u32,
    /// Whether the byte cap of an arming is honoured.
    pub byte_cap: bool,
    /// An accept fails with ECONNABORTED.
    pub accept_aborted: u32,
    /// Descriptors for accepted connections; beyond that accept fails with EMFILE.
    pub descriptors_max: usize,
    /// Completions on the queue beyond which a multishot ends (overflow).
    pub cq_entries: usize,
    /// Bytes that a connection takes before its sender has to wait.
    pub receive_window_bytes: usize,
    /// Bytes that a connection's peer may leave unread before sends wait.
    pub send_window_bytes: usize,
    /// A send completes short.
    pub short_send: u32,
    /// Datagrams that a socket holds before it drops.
    pub datagrams_max: usize,
    /// A truncated datagram tells its real length (as with MSG_TRUNC asked for) instead of what was copied.
    pub truncated_tells_length: bool,
    /// A write completes short.
    pub short_write: u32,
    /// Short writes end at whole 512-byte sectors, as direct ones do.
    pub whole_sectors: bool,
    /// The longest that a file operation takes.
    pub file_delay_max: Nanos,
    /// A file operation takes a hundred times as long.
    pub file_stall: u32,
    /// Allocating ahead is not supported by this file system.
    pub allocate_unsupported: bool,
    /// A write fails with EIO; some of it may have been written.
    pub write_error: u32,
    /// An operation that has something to do is interrupted (EINTR, EAGAIN) before it does it.
    pub interrupted: u32,
    /// A sync fails with EIO, and some of what it was to make stable is lost.
    pub sync_error: u32,
    /// After a file operation some of what is not stable becomes so by itself.
    pub write_back: u32,
}

impl Faults {
    /// A kernel that does what it can, at once.
    pub const fn none() -> Self {
        Self {
            silent_end: 0,
            late_completion: 0,
            late_max: Nanos::from_micros(1),
            short_receive: 0,
            eager_enobufs: false,
            buffer_with_nothing: 0,
            byte_cap: true,
            accept_aborted: 0,
            descriptors_max: usize::MAX,
            cq_entries: usize::MAX,
            receive_window_bytes: 64 * 1024,
            send_window_bytes: 64 * 1024,
            short_send: 0,
            datagrams_max: 1024,
            truncated_tells_length: false,
            short_write: 0,
            whole_sectors: true,
            file_delay_max: Nanos(0),
            file_stall: 0,
            allocate_unsupported: false,
            write_error: 0,
            interrupted: 0,
            sync_error: 0,
            write_back: 0,
        }
    }
}
