//! The ring seam: everything an agent may ask of the kernel while it runs.
//!
//! The real ring is [`super::uring::Uring`]; the simulator has its own. Submitting never fails from an agent's
//! point of view: a full submission queue is flushed by the ring, and what cannot be done comes
//! back as a completion with an error.
//!
//! Invariants, upheld by every implementation and relied on by every agent:
//!
//! - **R1** Each submitted operation ends with exactly one *final* completion (`more == false`); a multishot
//!   has any number of others before it. A cancel does not replace the final completion of its target.
//! - **R2** A buffer given to [`Ring::provide`] belongs to the kernel until a completion carries its [`BufferId`];
//!   each one comes back at most once. A completion may carry a buffer and an error or zero bytes: it is ours again all the same.
//! - **R3** A staging buffer given to [`Ring::write`] or [`Ring::send`] belongs to the ring until [`Ring::reclaim`], which is allowed once
//!   the final completion of that operation has been seen.
//! - **R4** Completions of one operation arrive in the kernel's order. Nothing is said of the order between operations.

use std::net::IpAddr;
use std::ops::Range;

use super::clock::Clock;
use super::memory::StagingBuffer;
use crate::pool::{BufferId, LentBuffer};

/// A file descriptor as agents see it (a plain number in the simulator too). Copying one does not own it; the
/// agent that got it from an accept or at start closes it, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fd(pub i32);

/// A group of provided buffers: one for TCP chunks, one for UDP slots, one for UDP chunks (GRO).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum GroupId {
    /// TCP receive chunks.
    Tcp = 0,
    /// Medium slots that take one datagram each.
    Udp = 1,
    /// Chunks that take aggregated datagrams (`--udp-gro on`).
    UdpGro = 2,
}

impl GroupId {
    /// How many groups there are.
    pub const COUNT: usize = 3;
    /// All of them, by index.
    pub const ALL: [GroupId; 3] = [GroupId::Tcp, GroupId::Udp, GroupId::UdpGro];
}

/// What comes back with a completion: seat (which agent), kind, generation and slot, never the descriptor.
///
/// Layout of the 64 bits, from the top: seat 8, kind 8, generation 16, slot 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

impl Token {
    /// A token of an agent's seat, the agent's own kind of operation, and the slot it belongs to.
    pub const fn new(seat: u8, kind: u8, generation: u16, slot: u32) -> Self {
        Self((seat as u64) << 56 | (kind as u64) << 48 | (generation as u64) << 32 | slot as u64)
    }
    /// The agent it goes to.
    pub const fn seat(self) -> u8 {
        (self.0 >> 56) as u8
    }
    /// The agent's own kind of operation.
    pub const fn kind(self) -> u8 {
        (self.0 >> 48) as u8
    }
    /// Which use of the slot this belongs to; an older one is late and ignored.
    pub const fn generation(self) -> u16 {
        (self.0 >> 32) as u16
    }
    /// The agent's slot (connection, buffer, …).
    pub const fn slot(self) -> u32 {
        self.0 as u32
    }
}

/// An errno, as a positive number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

/// One completion, taken off the queue.
#[derive(Debug)]
pub struct Completion {
    /// The operation it belongs to.
    pub token: Token,
    /// Bytes, or the accepted descriptor, or zero; or the kernel's refusal.
    pub result: Result<u32, Errno>,
    /// False on the last completion of the operation (R1).
    pub more: bool,
    /// The provided buffer that came back with it (R2).
    pub buffer: Option<BufferId>,
}

/// How durable one write is when it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteSync {
    /// As durable as the page cache or the device's cache.
    None,
    /// Data and what is needed to read it are on stable storage (`RWF_DSYNC`).
    DataSync,
}

/// Room between the kernel's header of a message and its payload: first the sender's name, then control messages. What is 0 is not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageRoom {
    /// For the name, bytes.
    pub name_bytes: u32,
    /// For control messages, bytes.
    pub control_bytes: u32,
}

impl MessageRoom {
    /// All of it, bytes.
    pub const fn bytes(self) -> usize {
        (self.name_bytes + self.control_bytes) as usize
    }
}

/// The kernel while the engine runs. See the module doc for R1-R4.
pub trait Ring: Clock {
    /// Arms a multishot accept. Each completion's result is a new descriptor (non-blocking, close-on-exec).
    fn accept_multishot(&mut self, token: Token, listener: Fd);

    /// Arms a multishot receive into buffers of `group`. It stays armed when the group is empty only where the kernel
    /// can; else it ends with ENOBUFS. `byte_cap` (0 = none) ends the arming after about that many bytes where the
    /// kernel supports it. Without the kernel's multishot each arming gives one completion, which is final.
    fn recv_multishot(&mut self, token: Token, socket: Fd, group: GroupId, byte_cap: u32);

    /// Arms a multishot recvmsg into buffers of `group`. The buffer begins with the kernel's 16-byte `io_uring_recvmsg_out`, then the room
    /// asked for, then the payload.
    fn recvmsg_multishot(&mut self, token: Token, socket: Fd, group: GroupId, room: MessageRoom);

    /// Offers a buffer to the kernel, visible from the next submission on (R2).
    fn provide(&mut self, buffer: LentBuffer);

    /// Asks that the operation of `target` end soon; its final completion still comes (R1).
    fn cancel(&mut self, token: Token, target: Token);

    /// Writes `bytes` of the buffer at `offset` of the file (R3). May complete short.
    fn write(&mut self, token: Token, file: Fd, buffer: StagingBuffer, bytes: Range<usize>, offset: u64, sync: WriteSync);

    /// Sends `bytes` of the buffer on a stream (R3). May complete short; completes with an error when the peer is gone or we shut the
    /// socket down. One at a time on a socket: their order would be anyone's guess.
    fn send(&mut self, token: Token, socket: Fd, buffer: StagingBuffer, bytes: Range<usize>);

    /// Takes back the staging buffer of a write or send whose final completion was seen (R3).
    ///
    /// # Panics
    /// If no such operation was submitted, or it was taken back already.
    fn reclaim(&mut self, token: Token) -> StagingBuffer;

    /// Makes the file's data durable (`fdatasync`).
    fn sync(&mut self, token: Token, file: Fd);

    /// Allocates the byte range of the file ahead of its writes (`fallocate`, mode 0: the size grows).
    fn allocate(&mut self, token: Token, file: Fd, bytes: Range<u64>);

    /// Gives the blocks of a byte range of the file back; it reads as zeros then, and the size stays (`fallocate`, punching a hole). No write
    /// into it may be in flight.
    fn give_back(&mut self, token: Token, file: Fd, bytes: Range<u64>);

    /// Shuts both directions of a socket down, at once: the peer gets its FIN, an armed receive ends.
    fn shutdown(&mut self, socket: Fd);

    /// Ends what we send on a stream, at once: the peer gets its FIN behind what was sent; what it sends is received as before.
    fn end_sending(&mut self, socket: Fd);

    /// Closes a descriptor that has no operation in flight.
    fn close(&mut self, token: Token, fd: Fd);

    /// The address of a connection's peer, asked once when it is accepted; `None` where it is not known (or the peer is gone already).
    fn peer(&mut self, socket: Fd) -> Option<IpAddr> {
        let _ = socket;
        None
    }

    /// Datagrams that the kernel dropped on this socket so far (`SO_MEMINFO`; wraps at 2^32); `None` where unknown.
    fn socket_drops(&mut self, socket: Fd) -> Option<u32>;
}
