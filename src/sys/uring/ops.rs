//! The operations: what each call of [`Ring`] becomes in the submission queue, and what ends with its final completion.

use std::net::IpAddr;
use std::ops::Range;

use io_uring::{opcode, squeue, types};

use super::{Group, Held, Message, RawBuffer, Uring};
use crate::pool::LentBuffer;
use crate::sys::clock::{Clock, HostClock, Nanos, WallNanos};
use crate::sys::features::Feature;
use crate::sys::io::{Completion, Errno, Fd, GroupId, MessageRoom, Ring, Token, WriteSync};
use crate::sys::memory::StagingBuffer;
use crate::sys::socket;

/// `struct io_uring_recvmsg_out`: the lengths of name, control and payload, and flags; each a u32 of the host.
const RECVMSG_HEADER_BYTES: usize = 16;
/// `IORING_RECVSEND_POLL_FIRST`: wait for readiness before the first attempt.
const POLL_FIRST: u16 = 1;
/// Accepted descriptors, like the engine's own.
const ACCEPT_FLAGS: i32 = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;

/// Sets what the builders of the crate don't know. Offsets of `struct io_uring_sqe`: ioprio 2, optlen 44.
fn patch<const BYTES: usize>(entry: &mut squeue::Entry, offset: usize, value: [u8; BYTES]) {
    const _: () = assert!(size_of::<squeue::Entry>() == 64);
    assert!(offset + BYTES <= size_of::<squeue::Entry>(), "inside the entry");
    // SAFETY: an entry is the kernel's 64-byte structure of plain integers (repr(C)); any bytes are valid; the assertion keeps us inside.
    unsafe { std::ptr::from_mut(entry).cast::<u8>().add(offset).cast::<[u8; BYTES]>().write(value) };
}

fn poll_first(entry: &mut squeue::Entry, flags: u16) {
    patch(entry, 2, (flags | POLL_FIRST).to_ne_bytes());
}

fn cap_bytes(entry: &mut squeue::Entry, bytes: u32) {
    patch(entry, 44, bytes.to_ne_bytes());
}

impl Clock for Uring {
    fn now(&self) -> Nanos {
        HostClock.now()
    }
    fn wall(&self) -> WallNanos {
        HostClock.wall()
    }
}

impl Ring for Uring {
    fn accept_multishot(&mut self, token: Token, listener: Fd) {
        let fd = types::Fd(listener.0);
        let entry = if self.features.has(Feature::MultishotAccept) {
            opcode::AcceptMulti::new(fd).flags(ACCEPT_FLAGS).build()
        } else {
            opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut()).flags(ACCEPT_FLAGS).build()
        };
        self.push(entry, token);
    }

    fn recv_multishot(&mut self, token: Token, socket: Fd, group: GroupId, byte_cap: u32) {
        /// `IORING_RECV_MULTISHOT`.
        const MULTISHOT: u16 = 2;
        let fd = types::Fd(socket.0);
        let multishot = self.features.has(Feature::MultishotRecv);
        let mut entry = if multishot {
            opcode::RecvMulti::new(fd, group as u16).build()
        } else {
            // Zero takes the buffer's own length.
            let entry = opcode::Recv::new(fd, std::ptr::null_mut(), byte_cap).buf_group(group as u16).build();
            entry.flags(squeue::Flags::BUFFER_SELECT)
        };
        if multishot && byte_cap > 0 && self.features.has(Feature::ByteCap) {
            cap_bytes(&mut entry, byte_cap);
        }
        if self.offered(group) == 0 {
            // An empty group would end the operation with ENOBUFS at once, even if no data is there. Else the first attempt is
            // made inline, which spares a hot socket the detour over readiness.
            poll_first(&mut entry, if multishot { MULTISHOT } else { 0 });
        }
        self.push(entry, token);
    }

    fn recvmsg_multishot(&mut self, token: Token, socket: Fd, group: GroupId, room: MessageRoom) {
        /// `IORING_RECV_MULTISHOT`.
        const MULTISHOT: u16 = 2;
        if !self.features.has(Feature::MultishotRecvmsg) {
            return self.recvmsg_once(token, socket, group, room);
        }
        let starved = self.offered(group) == 0;
        let message = self.claim_message(token);
        // Only lengths: where name and control messages go, the kernel knows of a multishot.
        message.header.msg_namelen = room.name_bytes;
        message.header.msg_controllen = room.control_bytes as _;
        let header = std::ptr::from_ref(&message.header);
        let mut entry = opcode::RecvMsgMulti::new(types::Fd(socket.0), header, group as u16).build();
        if starved {
            poll_first(&mut entry, MULTISHOT);
        }
        self.push(entry, token);
    }

    fn provide(&mut self, buffer: LentBuffer) {
        let group = self.groups[buffer.group() as usize].as_mut();
        group.expect("the group is registered before buffers are provided").push(buffer);
    }

    fn cancel(&mut self, token: Token, target: Token) {
        self.push(opcode::AsyncCancel::new(target.0).build(), token);
    }

    fn write(&mut self, token: Token, file: Fd, buffer: StagingBuffer, bytes: Range<usize>, offset: u64, sync: WriteSync) {
        let area = &buffer[bytes]; // Panics beyond the buffer: a bug of the caller, not an outcome.
        let (start, len) = (area.as_ptr(), u32::try_from(area.len()).expect("staging buffers are below 4 GiB"));
        let flags = match sync {
            WriteSync::None => 0,
            WriteSync::DataSync => libc::RWF_DSYNC,
        };
        let fd = types::Fd(file.0);
        let entry = match buffer.registered {
            Some(index) if self.staging_registered => {
                opcode::WriteFixed::new(fd, start, len, index).offset(offset).rw_flags(flags).build()
            }
            _ => opcode::Write::new(fd, start, len).offset(offset).rw_flags(flags).build(),
        };
        self.hold(token, buffer);
        self.push(entry, token);
    }

    fn send(&mut self, token: Token, socket: Fd, buffer: StagingBuffer, bytes: Range<usize>) {
        let area = &buffer[bytes]; // Panics beyond the buffer, as for a write.
        let (start, len) = (area.as_ptr(), u32::try_from(area.len()).expect("staging buffers are below 4 GiB"));
        let entry = opcode::Send::new(types::Fd(socket.0), start, len).flags(libc::MSG_NOSIGNAL).build();
        self.hold(token, buffer);
        self.push(entry, token);
    }

    fn reclaim(&mut self, token: Token) -> StagingBuffer {
        let place = self.held.iter().position(|held| held.token == token && held.ended);
        self.held.swap_remove(place.expect("R3: a buffer is reclaimed once, after the final completion")).buffer
    }

    fn sync(&mut self, token: Token, file: Fd) {
        self.push(opcode::Fsync::new(types::Fd(file.0)).flags(types::FsyncFlags::DATASYNC).build(), token);
    }

    fn allocate(&mut self, token: Token, file: Fd, bytes: Range<u64>) {
        let len = bytes.end.saturating_sub(bytes.start);
        self.push(opcode::Fallocate::new(types::Fd(file.0), len).offset(bytes.start).build(), token);
    }

    fn give_back(&mut self, token: Token, file: Fd, bytes: Range<u64>) {
        let len = bytes.end.saturating_sub(bytes.start);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        self.push(opcode::Fallocate::new(types::Fd(file.0), len).offset(bytes.start).mode(mode).build(), token);
    }

    fn shutdown(&mut self, socket: Fd) {
        // A plain call: it never blocks, and the peer gets its FIN before the descriptor can be reused.
        // SAFETY: no pointers. ENOTCONN (the peer was faster) is fine.
        unsafe { libc::shutdown(socket.0, libc::SHUT_RDWR) };
    }

    fn end_sending(&mut self, socket: Fd) {
        // SAFETY: no pointers. As in `shutdown`.
        unsafe { libc::shutdown(socket.0, libc::SHUT_WR) };
    }

    fn close(&mut self, token: Token, fd: Fd) {
        self.push(opcode::Close::new(types::Fd(fd.0)).build(), token);
    }

    fn peer(&mut self, socket: Fd) -> Option<IpAddr> {
        socket::peer_address(socket.0)
    }

    fn socket_drops(&mut self, socket: Fd) -> Option<u32> {
        socket::dropped_datagrams(socket.0)
    }
}

impl Uring {
    /// Takes a message header out of the table; it is its operation's until the final completion (G1).
    fn claim_message(&mut self, token: Token) -> &mut Message {
        self.messages_used += 1;
        let message = self.messages.iter_mut().find(|message| message.token.is_none());
        let message = message.expect("no more recvmsg operations at a time than `recvmsgs_max`");
        message.token = Some(token);
        // SAFETY: an all-zero msghdr is a valid, empty one.
        message.header = unsafe { std::mem::zeroed() };
        message
    }

    /// A single-shot recvmsg that leaves its buffer looking like a multishot's.
    fn recvmsg_once(&mut self, token: Token, socket: Fd, group: GroupId, room: MessageRoom) {
        let Some(Group::List(list)) = &mut self.groups[group as usize] else {
            panic!("the group is registered before it is received into");
        };
        let Some(buffer) = list.pop_front() else {
            self.counters.starved.add(1);
            self.ready.push_back(Completion { token, result: Err(Errno(libc::ENOBUFS)), more: false, buffer: None });
            return;
        };
        let before_payload = RECVMSG_HEADER_BYTES + room.bytes();
        if buffer.bytes as usize <= before_payload {
            // As the kernel answers when a multishot's buffer has no room for its header.
            let buffer = Some(buffer.into_id());
            self.ready.push_back(Completion { token, result: Err(Errno(libc::EFAULT)), more: false, buffer });
            return;
        }
        let message = self.claim_message(token);
        // SAFETY: inside the lent buffer, checked above; so are the other two.
        let name = unsafe { buffer.start.add(RECVMSG_HEADER_BYTES) };
        // SAFETY: as above.
        let control = unsafe { name.add(room.name_bytes as usize) };
        // SAFETY: as above.
        let payload = unsafe { buffer.start.add(before_payload) };
        message.area = libc::iovec { iov_base: payload.cast(), iov_len: buffer.bytes as usize - before_payload };
        message.header.msg_iov = &raw mut message.area;
        message.header.msg_iovlen = 1;
        if room.name_bytes > 0 {
            message.header.msg_name = name.cast();
            message.header.msg_namelen = room.name_bytes;
        }
        message.header.msg_control = control.cast();
        message.header.msg_controllen = room.control_bytes as _;
        message.buffer = Some(buffer);
        let header = &raw mut message.header;
        self.push(opcode::RecvMsg::new(types::Fd(socket.0), header).build(), token);
    }

    /// Keeps the buffer of an operation that is about to be submitted (R3).
    fn hold(&mut self, token: Token, buffer: StagingBuffer) {
        assert!(self.held.len() < self.held.capacity(), "no more writes and sends at a time than `writes_max`");
        self.held.push(Held { token, buffer, ended: false });
        self.held_in_flight += 1;
    }

    /// The final completion of a write or send: its buffer may be reclaimed (R3).
    pub(super) fn end_held(&mut self, token: Token) {
        if self.held_in_flight == 0 {
            return;
        }
        let open = self.held.iter_mut().find(|held| held.token == token && !held.ended);
        if let Some(held) = open {
            held.ended = true;
            self.held_in_flight -= 1;
        }
    }

    /// A recvmsg's final completion: its header is free; a single-shot one gets the kernel's header into its buffer.
    pub(super) fn end_message(&mut self, token: Token, result: &mut Result<u32, Errno>, buffer: &mut Option<RawBuffer>) {
        if self.messages_used == 0 {
            return;
        }
        let Some(message) = self.messages.iter_mut().find(|message| message.token == Some(token)) else { return };
        message.token = None;
        self.messages_used -= 1;
        let Some(own) = message.buffer.take() else { return };
        if let Ok(payload_bytes) = *result {
            let before_payload = message.area.iov_base as usize - own.start as usize;
            let (name_bytes, control_bytes) = (message.header.msg_namelen, message.header.msg_controllen as u32);
            let fields = [name_bytes, control_bytes, payload_bytes, message.header.msg_flags as u32];
            // SAFETY: R2, the kernel's turn with this buffer ended, and it has room for the header (checked when it was armed).
            unsafe { own.start.cast::<[u32; 4]>().write_unaligned(fields) };
            *result = Ok(before_payload as u32 + payload_bytes);
        }
        *buffer = Some(own);
    }
}
