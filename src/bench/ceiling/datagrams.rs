//! Datagrams from a filled socket queue, by a bare loop of multishot recvmsg: the engine's own way in without what comes after it.
//!
//! The queue is filled before the clock starts, since one sender can't keep it filled: a send costs more than a receive.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use super::CeilingError;
use crate::pool::{ClassStrides, OwnerLayout, PoolOwner, SharedPool, SlotClass, SlotUse};
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::sys::features::Features;
use crate::sys::io::{Errno, Fd, GroupId, MessageRoom, Ring, Token};
use crate::sys::memory::Arena;
use crate::sys::socket::{UdpOptions, UdpSockets, bind_udp};
use crate::sys::uring::{Uring, UringOptions, Wait};

/// As `--udp-slots`.
const SLOTS: u16 = 1024;
/// Chunks on offer for aggregates.
const CHUNKS: u16 = 64;
/// The largest aggregate, and what the kernel puts before it.
const CHUNK_BYTES: u32 = 65_536 + 4096;
/// Control space for the size of segments.
const CONTROL_BYTES: u32 = 32;
/// Bytes of `struct io_uring_recvmsg_out`.
const MESSAGE_HEADER_BYTES: usize = 16;
/// How long datagrams that were sent may take to be there.
const PATIENCE: Nanos = Nanos::from_millis(1_000);
const RECEIVE: Token = Token::new(0, 1, 0, 0);

/// Fills a socket's queue from the sender's core: sends to this address until about so many bytes of kernel memory are queued; how many bytes of
/// datagrams it has sent.
pub type Fill<'a> = &'a mut (dyn FnMut(SocketAddr, u64) -> std::io::Result<u64> + Send);

/// How to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// As `--udp-receive-buffer-bytes`.
    pub receive_buffer_bytes: u32,
    /// As `--udp-gro`.
    pub gro: bool,
    /// How often the queue is filled and emptied.
    pub rounds: usize,
}

/// What a loop did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drained {
    /// Bytes of datagrams received.
    pub bytes: u64,
    /// For how long it was at it: the filling is not counted.
    pub took: Nanos,
    /// Bytes of kernel memory that the queue was filled with: half of what is granted.
    pub queue_bytes: u64,
}

/// Kernel memory that datagrams take which wait at sockets of this port: of the fullest of them, bytes; 0 where `/proc` is hidden.
pub fn queued_bytes(port: u16) -> u64 {
    let table = fs::read_to_string("/proc/net/udp").unwrap_or_default();
    table.lines().skip(1).filter_map(|line| queued_of(line, port)).max().unwrap_or(0)
}

/// `sl local_address rem_address st tx_queue:rx_queue …`, all in hexadecimal.
fn queued_of(line: &str, port: u16) -> Option<u64> {
    let mut words = line.split_whitespace().skip(1);
    let (_, local_port) = words.next()?.split_once(':')?;
    let (_, received) = words.nth(2)?.split_once(':')?;
    (u16::from_str_radix(local_port, 16).ok()? == port).then(|| u64::from_str_radix(received, 16).ok())?
}

/// Fills and empties a queue. The calling thread is on the engine's core.
pub(super) fn drain(features: &Features, inbound: &Inbound, fill: Fill<'_>) -> Result<Drained, CeilingError> {
    let options = UdpOptions {
        steered: false,
        receive_buffer_bytes: inbound.receive_buffer_bytes,
        gro: inbound.gro,
        ..UdpOptions::default()
    };
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let failed = |refusal: crate::sys::socket::SocketRefusal| CeilingError::Io(std::io::Error::from_raw_os_error(refusal.errno));
    let sockets = bind_udp(loopback, &options).map_err(failed)?;
    let mut receiver = Receiver::open(features, &sockets)?;
    let mut drained = Drained { queue_bytes: sockets.receive_buffer_bytes.into(), ..Drained::default() };
    // A first round brings everything into the caches, as the engine's first events do.
    for round in 0..=inbound.rounds {
        let sent = std::thread::scope(|scope| {
            let filling = scope.spawn(|| fill(sockets.addr, drained.queue_bytes));
            filling.join().expect("a sender does not panic")
        })?;
        let began = HostClock.now();
        let received = receiver.take(sent)?;
        if round > 0 {
            drained.took = drained.took + HostClock.now().since(began);
            drained.bytes += received;
        }
    }
    Ok(drained)
}

/// A ring, a pool and one armed socket.
struct Receiver {
    // First: the ring is closed before the memory that the kernel writes to goes.
    ring: Uring,
    pool: PoolOwner,
    shared: std::sync::Arc<SharedPool>,
    socket: Fd,
    group: GroupId,
    is_armed: bool,
}

impl Receiver {
    fn open(features: &Features, sockets: &UdpSockets) -> Result<Self, CeilingError> {
        let (group, class, buffers) = match sockets.gro {
            true => (GroupId::UdpGro, SlotClass::Chunk, CHUNKS),
            false => (GroupId::Udp, SlotClass::Medium, SLOTS),
        };
        let mut ring = Uring::new(&UringOptions::default(), features)?;
        let strides = ClassStrides::new(1 << 10, CHUNK_BYTES);
        let mut slots = [0; SlotClass::COUNT];
        slots[class.index()] = buffers.into();
        let layout = OwnerLayout::without_quotas(slots);
        let bytes = SharedPool::arena_bytes(&strides, std::slice::from_ref(&layout));
        let (shared, mut owners) = SharedPool::divide(Arena::map(bytes)?, strides, &[layout]);
        let mut pool = owners.pop().expect("one owner");
        pool.open_group(group, buffers);
        ring.register_group(group, buffers)?;
        ring.enable()?;
        while let Some(slot) = pool.acquire(class, SlotUse::Kernel) {
            ring.provide(pool.lend(slot, group, 0).expect("a place for each slot"));
        }
        Ok(Self { ring, pool, shared, socket: Fd(sockets.general[0].as_raw_fd()), group, is_armed: false })
    }

    /// Receives until so many bytes of datagrams are there, or no more come; how many there were.
    fn take(&mut self, bytes: u64) -> Result<u64, CeilingError> {
        let (mut received, mut completions) = (0, Vec::with_capacity(1024));
        let mut last = HostClock.now();
        while received < bytes {
            if !self.is_armed {
                let control_bytes = if self.group == GroupId::UdpGro { CONTROL_BYTES } else { 0 };
                let room = MessageRoom { name_bytes: 0, control_bytes };
                self.ring.recvmsg_multishot(RECEIVE, self.socket, self.group, room);
                self.is_armed = true;
            }
            self.ring.turn(Wait::Poll, &mut completions)?;
            let now = HostClock.now();
            if !completions.is_empty() {
                last = now;
            } else if now.since(last) > PATIENCE {
                break;
            }
            for completion in completions.drain(..) {
                self.is_armed &= completion.more;
                match completion.result {
                    Ok(_) | Err(Errno(libc::ENOBUFS)) => {}
                    Err(errno) => return Err(std::io::Error::from_raw_os_error(errno.0).into()),
                }
                let Some(buffer) = completion.buffer else { continue };
                let slot = self.pool.take_back(buffer);
                let bytes = PoolOwner::bytes(&self.shared, &slot);
                // The third of four u32: bytes of the payload.
                let payload = bytes[8..12].first_chunk().map_or(0, |length| u32::from_ne_bytes(*length));
                debug_assert!(payload as usize + MESSAGE_HEADER_BYTES <= bytes.len());
                received += u64::from(payload);
                self.ring.provide(self.pool.lend(slot, self.group, 0).expect("its place is free again"));
            }
        }
        Ok(received)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn what_waits_at_a_socket_is_seen_from_outside_and_drained() {
        let (features, _) = Features::probe(&[]).expect("a host that runs the engine");
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let mut fill = |address: SocketAddr, _| {
            assert_eq!(queued_bytes(address.port()), 0);
            (0..50).try_for_each(|_| sender.send_to(&[7; 80], address).map(drop))?;
            assert!(queued_bytes(address.port()) >= 50 * 80, "50 datagrams wait");
            Ok(50 * 80)
        };
        let inbound = Inbound { receive_buffer_bytes: 256 << 10, gro: false, rounds: 2 };
        let drained = drain(&features, &inbound, &mut fill).expect("a socket");
        assert_eq!((drained.bytes, drained.took > Nanos(0)), (2 * 50 * 80, true));
    }

    #[test]
    fn a_line_of_proc_is_read_by_its_port() {
        let line = "  123: 0100007F:2329 00000000:0000 07 00000000:0000A200 00:00000000 00000000     0        0 1 2 3 0";
        assert_eq!((queued_of(line, 9001), queued_of(line, 9000)), (Some(0xa200), None));
    }
}
