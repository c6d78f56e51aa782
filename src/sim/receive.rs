//! Receiving in the simulated kernel: multishot accept, recv and recvmsg with all the ways in which they end.
//!
//! The layout of a received message is `struct io_uring_recvmsg_out` of the kernel's `include/uapi/linux/io_uring.h` (four u32 in
//! the host's order: name, control, payload bytes, flags), then the room asked for (here all senders are one host), then the payload. When which of these
//! ends a multishot follows `io_uring/net.c` of Linux 6.x: an empty datagram does, with its buffer.

use super::kernel::{Brings, Kernel, Posted};
use super::net::Datagram;
use super::tally::Fault;
use crate::sys::io::{Errno, Fd, GroupId, MessageRoom};

const MESSAGE_HEADER_BYTES: usize = 16;
/// The name of every sender, 127.0.0.1 port 1, as a `struct sockaddr_in`: family, port and address, padding.
const SENDER: [u8; 16] = [libc::AF_INET as u8, 0, 0, 1, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
/// `CMSG_SPACE(sizeof(int))` on 64-bit hosts: what the size of aggregated datagrams takes.
const GRO_CONTROL_BYTES: usize = 24;
/// The most that one aggregate holds.
const GRO_BYTES_MAX: usize = 65_507;
/// Per mille of the cancels that end their target before what is there to be brought.
const CANCEL_WINS: u32 = 700;

impl Kernel {
    pub(super) fn accept(&mut self, listener: Fd, cancelled: bool) -> Option<Posted> {
        let nobody_waits = self.net.waiting(listener).is_empty();
        if cancelled && (nobody_waits || self.rng.chance(CANCEL_WINS)) {
            return Some(Posted::last(Err(libc::ECANCELED)));
        }
        if nobody_waits {
            return None;
        }
        if self.net.accepted_open >= self.faults.descriptors_max {
            self.met.note(Fault::NoDescriptor);
            return Some(Posted::last(Err(libc::EMFILE)));
        }
        if self.meets(Fault::AcceptAborted, self.faults.accept_aborted) {
            return Some(Posted::last(Err(libc::ECONNABORTED)));
        }
        if let Some(interrupted) = self.interrupted() {
            return Some(interrupted);
        }
        let (fd, conn) = self.net.accept(listener).expect("someone waits");
        self.overtakes(cancelled);
        let more = !self.ends_multishot();
        Some(Posted::bringing(fd.0 as u32, more, None, Brings::Connection(conn)))
    }

    /// An operation brings something, cancelled or not.
    fn overtakes(&self, cancelled: bool) {
        if cancelled {
            self.met.note(Fault::CancelOvertaken);
        }
    }

    /// There is no buffer for what could be received.
    fn starves(&self) -> Posted {
        self.met.note(Fault::NoBuffer);
        Posted::last(Err(libc::ENOBUFS))
    }

    /// An error or an end without data; now and then a buffer comes back with it (R2).
    fn nothing(&mut self, result: Result<u32, i32>, group: GroupId) -> Posted {
        let with_buffer = self.rng.chance(self.faults.buffer_with_nothing);
        let buffer = if with_buffer { self.take_buffer(group) } else { None };
        if buffer.is_some() {
            self.met.note(Fault::EmptyBuffer);
        }
        Posted { buffer, ..Posted::last(result) }
    }

    pub(super) fn receive(&mut self, socket: Fd, group: GroupId, cap_left: &mut Option<u32>, cancelled: bool) -> Option<Posted> {
        let conn = self.net.conn(socket);
        // A cancel races with data: what is there may still come first.
        if cancelled && self.rng.chance(CANCEL_WINS) {
            return Some(self.nothing(Err(libc::ECANCELED), group));
        }
        let stream = self.net.stream(conn);
        let (waiting, reset, ended) = (stream.inbound.len(), stream.reset, stream.fin || stream.shut);
        if waiting == 0 {
            return match (reset, ended, cancelled) {
                (true, _, _) => Some(self.nothing(Err(libc::ECONNRESET), group)),
                (_, true, _) => Some(self.nothing(Ok(0), group)),
                (_, _, true) => Some(self.nothing(Err(libc::ECANCELED), group)),
                _ if self.faults.eager_enobufs && self.group_is_empty(group) => Some(self.starves()),
                _ => None,
            };
        }
        if let Some(interrupted) = self.interrupted() {
            return Some(interrupted);
        }
        let Some(mut buffer) = self.take_buffer(group) else { return Some(self.starves()) };
        let mut count = waiting.min(buffer.capacity_bytes());
        if count > 1 && self.meets(Fault::ShortReceive, self.faults.short_receive) {
            count = self.rng.between(1..=count as u64 - 1) as usize;
        }
        self.overtakes(cancelled);
        let inbound = &mut self.net.stream(conn).inbound;
        buffer.as_mut_bytes()[..count].iter_mut().zip(inbound.drain(..count)).for_each(|(to, byte)| *to = byte);
        let capped = self.faults.byte_cap && uses_up(cap_left, count as u32);
        let more = !(self.ends_multishot() || capped);
        Some(Posted::bringing(count as u32, more, Some(buffer), Brings::Bytes(conn, count)))
    }

    pub(super) fn receive_message(&mut self, socket: Fd, group: GroupId, asked: MessageRoom, cancelled: bool) -> Option<Posted> {
        if cancelled && (self.net.datagrams(socket).queue.is_empty() || self.rng.chance(CANCEL_WINS)) {
            return Some(self.nothing(Err(libc::ECANCELED), group));
        }
        if self.net.datagrams(socket).queue.is_empty() {
            let eager = self.faults.eager_enobufs && self.group_is_empty(group);
            return eager.then(|| self.starves());
        }
        if let Some(interrupted) = self.interrupted() {
            return Some(interrupted);
        }
        let Some(mut buffer) = self.take_buffer(group) else { return Some(self.starves()) };
        let control_at = MESSAGE_HEADER_BYTES + asked.name_bytes as usize;
        let payload_at = MESSAGE_HEADER_BYTES + asked.bytes();
        if buffer.capacity_bytes() < payload_at {
            return Some(Posted { result: Err(Errno(libc::EFAULT)), buffer: Some(buffer), ..Posted::last(Ok(0)) });
        }
        let room = buffer.capacity_bytes() - payload_at;
        let has_control_room = asked.control_bytes as usize >= GRO_CONTROL_BYTES;
        let message = self.next_message(socket, room, has_control_room);
        let copied = message.bytes.len().min(room);
        let told = if self.faults.truncated_tells_length { message.bytes.len() } else { copied };
        let is_truncated = message.bytes.len() > room;
        if is_truncated {
            self.met.note(Fault::DatagramTruncated);
        }
        self.overtakes(cancelled);
        let flags = if is_truncated { libc::MSG_TRUNC as u32 } else { 0 };
        let control_len = if message.segment_bytes.is_some() { GRO_CONTROL_BYTES } else { 0 };
        let bytes = buffer.as_mut_bytes();
        let name_len = SENDER.len().min(asked.name_bytes as usize);
        bytes[MESSAGE_HEADER_BYTES..][..name_len].copy_from_slice(&SENDER[..name_len]);
        for (place, field) in [name_len as u32, control_len as u32, told as u32, flags].into_iter().enumerate() {
            bytes[place * 4..][..4].copy_from_slice(&field.to_ne_bytes());
        }
        if let Some(segment_bytes) = message.segment_bytes {
            write_gro_control(&mut bytes[control_at..], segment_bytes);
        }
        bytes[payload_at..][..copied].copy_from_slice(&message.bytes[..copied]);
        // The kernel takes a receive of nothing for the end.
        let more = copied > 0 && !self.ends_multishot();
        let brings = Brings::Datagrams(socket, message.parts);
        Some(Posted::bringing((payload_at + copied) as u32, more, Some(buffer), brings))
    }

    /// The next datagram, or with GRO the next few of equal size (a shorter one ends the row).
    fn next_message(&mut self, socket: Fd, room: usize, has_control_room: bool) -> Message {
        let sock = self.net.datagrams(socket);
        let first = sock.queue.pop_front().expect("the caller saw a datagram");
        let segment = first.bytes.len();
        let mut message = Message { bytes: first.bytes.clone(), parts: vec![first], segment_bytes: None };
        let aggregates = sock.gro && has_control_room && segment > 0;
        while aggregates && let Some(next) = sock.queue.front() {
            if next.bytes.is_empty()
                || next.bytes.len() > segment
                || message.bytes.len() + next.bytes.len() > GRO_BYTES_MAX.min(room)
            {
                break;
            }
            let next = sock.queue.pop_front().expect("seen above");
            message.segment_bytes = Some(segment);
            message.bytes.extend_from_slice(&next.bytes);
            let is_last = next.bytes.len() < segment;
            message.parts.push(next);
            if is_last {
                break;
            }
        }
        if message.bytes.len() > room {
            message.parts.iter_mut().for_each(|part| part.truncated = true);
        }
        message
    }
}

/// What one receive takes.
struct Message {
    bytes: Vec<u8>,
    parts: Vec<Datagram>,
    segment_bytes: Option<usize>,
}

fn uses_up(cap_left: &mut Option<u32>, count: u32) -> bool {
    match cap_left {
        Some(left) => {
            *left = left.saturating_sub(count);
            *left == 0
        }
        None => false,
    }
}

/// A `struct cmsghdr` (length, level, type) and the segment size as an int, as `udp(7)` has it.
fn write_gro_control(control: &mut [u8], segment_bytes: usize) {
    control[..8].copy_from_slice(&20u64.to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::UDP_GRO.to_ne_bytes());
    control[16..20].copy_from_slice(&(segment_bytes as i32).to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::faults::Faults;
    use super::super::ring::SimRing;
    use crate::pool::{ClassStrides, OwnerLayout, PoolOwner, SharedPool, SlotClass, SlotUse};
    use crate::sys::io::{Completion, Fd, GroupId, MessageRoom, Ring, Token};
    use crate::sys::memory::Arena;

    const TOKEN: Token = Token::new(0, 1, 0, 0);

    /// A ring with a datagram socket, and `count` buffers of 2112 bytes to receive into.
    fn receiver(count: u16, gro: bool, control_bytes: u32) -> (SimRing, Fd, PoolOwner) {
        let strides = ClassStrides::new(4096, 4096);
        let layout = OwnerLayout::with_standard_quotas([0, u32::from(count) * 2, 0, 0, 0]);
        let arena = Arena::map(SharedPool::arena_bytes(&strides, std::slice::from_ref(&layout))).expect("a small mapping");
        let mut owner = SharedPool::divide(arena, strides, &[layout]).1.remove(0);
        let mut ring = SimRing::new(1, Faults::none());
        owner.open_group(GroupId::Udp, count);
        for _ in 0..count {
            let slot = owner.acquire(SlotClass::Medium, SlotUse::Kernel).expect("half of the class is the kernel's");
            ring.provide(owner.lend(slot, GroupId::Udp, 0).expect("the group is open"));
        }
        let socket = ring.bind_datagrams(gro);
        ring.recvmsg_multishot(TOKEN, socket, GroupId::Udp, MessageRoom { control_bytes, ..MessageRoom::default() });
        (ring, socket, owner)
    }

    /// All completions that come now, with the bytes of their buffers.
    fn received(ring: &SimRing, owner: &mut PoolOwner) -> Vec<(Completion, Vec<u8>)> {
        while ring.step() {}
        let shared = owner.shared().clone();
        std::iter::from_fn(|| ring.take_completion())
            .map(|mut completion| {
                let Some(buffer) = completion.buffer.take() else { return (completion, Vec::new()) };
                let slot = owner.take_back(buffer);
                let bytes = PoolOwner::bytes(&shared, &slot).to_vec();
                owner.give_back(slot);
                (completion, bytes)
            })
            .collect()
    }

    fn field(bytes: &[u8], place: usize) -> u32 {
        u32::from_ne_bytes(bytes[place * 4..][..4].try_into().expect("four bytes"))
    }

    #[test]
    fn a_datagram_lies_behind_its_header_and_the_rest_stays_poisoned() {
        let (ring, socket, mut owner) = receiver(2, false, 0);
        ring.send_datagram(socket, b"hello".to_vec());
        let got = received(&ring, &mut owner);
        let (completion, bytes) = &got[0];
        assert_eq!((completion.result, completion.more), (Ok(16 + 5), true));
        assert_eq!((field(bytes, 2), field(bytes, 3)), (5, 0));
        assert_eq!(&bytes[16..22], b"hello\xdb");
    }

    #[test]
    fn an_empty_datagram_ends_the_multishot_with_its_buffer() {
        let (ring, socket, mut owner) = receiver(2, false, 0);
        ring.send_datagram(socket, Vec::new());
        let got = received(&ring, &mut owner);
        assert_eq!((got[0].0.result, got[0].0.more, field(&got[0].1, 2)), (Ok(16), false, 0));
    }

    #[test]
    fn a_datagram_beyond_its_buffer_is_marked_truncated() {
        let (ring, socket, mut owner) = receiver(2, false, 0);
        ring.send_datagram(socket, vec![1; 3000]);
        let got = received(&ring, &mut owner);
        assert_eq!((got[0].0.result, field(&got[0].1, 3)), (Ok(2112), libc::MSG_TRUNC as u32));
        assert!(ring.delivered_datagrams(socket)[0].truncated);
    }

    #[test]
    fn a_datagram_too_many_finds_no_buffer() {
        let (ring, socket, mut owner) = receiver(1, false, 0);
        ring.send_datagram(socket, vec![1; 3]);
        ring.send_datagram(socket, vec![2; 3]);
        let got = received(&ring, &mut owner);
        assert!(got[0].0.more);
        assert_eq!((got[1].0.result.map_err(|errno| errno.0), got[1].0.more), (Err(libc::ENOBUFS), false));
    }

    #[test]
    fn datagrams_of_equal_size_come_together_with_their_size() {
        let (ring, socket, mut owner) = receiver(3, true, 32);
        for len in [100, 100, 40, 100] {
            ring.send_datagram(socket, vec![len as u8; len]);
        }
        let got = received(&ring, &mut owner);
        let (together, bytes) = &got[0];
        assert_eq!((together.result, field(bytes, 1), field(bytes, 2)), (Ok(16 + 32 + 240), 24, 240));
        assert_eq!(field(&bytes[16..], 4), 100, "the segment size is the data of the control message");
        assert_eq!((got[1].0.result, field(&got[1].1, 1)), (Ok(16 + 32 + 100), 0));
        assert_eq!(ring.delivered_datagrams(socket).len(), 4);
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (mut ring, socket, _owner) = receiver(1, false, 0);
        ring.change_faults(|faults| faults.datagrams_max = 2);
        (0..5).for_each(|_| ring.send_datagram(socket, vec![0; 9]));
        assert_eq!(ring.socket_drops(socket), Some(3));
    }
}
