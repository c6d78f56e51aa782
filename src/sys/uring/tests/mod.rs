//! Each operation on real sockets and files of this host, with everything the kernel has and with nothing but the floor.

mod turns;

use std::fs::File;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::*;
use crate::pool::{BufferId, ClassStrides, OwnerLayout, PoolOwner, SharedPool, SlotClass, SlotUse};
use crate::sys::io::{Fd, MessageRoom, Ring, WriteSync};
use crate::sys::memory::Arena;
use crate::sys::socket;

const CHUNK_BYTES: u32 = 4096;
const ACCEPT: Token = Token::new(1, 1, 0, 0);
const RECV: Token = Token::new(1, 2, 0, 7);
const OTHER: Token = Token::new(1, 3, 0, 0);
/// A test that waits this long has failed.
const PATIENCE: Nanos = Nanos::from_millis(10_000);

/// What this kernel has; and the floor, where every fallback is taken.
fn both() -> [Features; 2] {
    [Features::probe(&[]).expect("tests run where io_uring does").0, Features::NONE]
}

/// A ring over a small pool. The ring goes first (P3).
struct Rig {
    ring: Uring,
    owner: PoolOwner,
    out: Vec<Completion>,
}

impl Rig {
    fn with(features: Features, group: GroupId, buffers: u16, options: &UringOptions) -> Self {
        let mut layout = OwnerLayout::with_standard_quotas([0; SlotClass::COUNT]);
        layout.slots[SlotClass::Chunk.index()] = u32::from(buffers);
        layout.quota[SlotUse::Kernel.index()][SlotClass::Chunk.index()] = u32::from(buffers);
        let strides = ClassStrides::new(64, CHUNK_BYTES);
        let layouts = [layout];
        let arena = Arena::map(SharedPool::arena_bytes(&strides, &layouts)).unwrap();
        let mut owner = SharedPool::divide(arena, strides, &layouts).1.pop().unwrap();
        let mut ring = Uring::new(options, &features).unwrap();
        ring.register_group(group, buffers.next_power_of_two()).unwrap();
        ring.enable().unwrap();
        owner.open_group(group, buffers);
        let mut rig = Self { ring, owner, out: Vec::with_capacity(64) };
        rig.offer(group, buffers);
        rig
    }

    fn new(features: Features, group: GroupId, buffers: u16) -> Self {
        Self::with(features, group, buffers, &UringOptions::default())
    }

    fn offer(&mut self, group: GroupId, buffers: u16) {
        for _ in 0..buffers {
            let slot = self.owner.acquire(SlotClass::Chunk, SlotUse::Kernel).expect("a free chunk");
            let buffer = self.owner.lend(slot, group, 0).expect("a free id");
            self.ring.provide(buffer);
        }
    }

    /// Takes a buffer home and returns its first bytes.
    fn take(&mut self, buffer: Option<BufferId>, bytes: usize) -> Vec<u8> {
        let mut slot = self.owner.take_back(buffer.expect("a buffer"));
        let copy = self.owner.bytes_mut(&mut slot)[..bytes].to_vec();
        self.owner.give_back(slot);
        copy
    }

    /// The next completion.
    fn next(&mut self) -> Completion {
        let until = self.ring.now() + PATIENCE;
        while self.out.is_empty() {
            assert!(self.ring.now() < until, "no completion in time");
            self.ring.turn(Wait::Until(Some(until)), &mut self.out).unwrap();
        }
        self.out.remove(0)
    }

    fn final_result(&mut self, token: Token) -> Result<u32, Errno> {
        let completion = self.next();
        assert_eq!((completion.token, completion.more), (token, false));
        completion.result
    }

    /// Ends everything: nothing stays in flight, every buffer is on offer or came back, no slot is missing.
    fn finish(mut self, group: GroupId) {
        let owner = &mut self.owner;
        let mut home = |completion: Completion| {
            if let Some(buffer) = completion.buffer {
                let slot = owner.take_back(buffer);
                owner.give_back(slot);
            }
        };
        self.ring.quiesce(PATIENCE, &mut home).expect("quiet");
        assert_eq!(self.ring.in_flight(), 0);
        assert_eq!(self.ring.offered(group), self.owner.lent_count(group));
        self.owner.take_back_all();
        let gauges = self.owner.gauges();
        assert_eq!(gauges.free, gauges.total);
    }
}

fn fd(of: &impl AsRawFd) -> Fd {
    Fd(of.as_raw_fd())
}

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

fn listener() -> socket::Listener {
    socket::listen(loopback(), &socket::ListenOptions::default()).unwrap()
}

/// A connected pair of TCP sockets.
fn stream_pair() -> (TcpStream, TcpStream) {
    let listener = std::net::TcpListener::bind(loopback()).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn adopt(result: Result<u32, Errno>) -> OwnedFd {
    // SAFETY: an accept's result, taken once.
    unsafe { OwnedFd::from_raw_fd(result.expect("a connection") as i32) }
}

#[test]
fn every_connection_is_accepted_once_non_blocking_and_close_on_exec() {
    for features in both() {
        let mut rig = Rig::new(features, GroupId::Tcp, 1);
        let listener = listener();
        let clients: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(listener.addr).unwrap()).collect();
        rig.ring.accept_multishot(ACCEPT, fd(&listener.fd));
        let mut accepted = Vec::new();
        while accepted.len() < clients.len() {
            let completion = rig.next();
            assert_eq!(completion.token, ACCEPT);
            accepted.push(adopt(completion.result));
            if !completion.more {
                rig.ring.accept_multishot(ACCEPT, fd(&listener.fd));
            }
        }
        for fd in &accepted {
            // SAFETY: no pointers.
            let flags = unsafe { (libc::fcntl(fd.as_raw_fd(), libc::F_GETFL), libc::fcntl(fd.as_raw_fd(), libc::F_GETFD)) };
            assert!(flags.0 & libc::O_NONBLOCK != 0 && flags.1 & libc::FD_CLOEXEC != 0);
        }
        rig.finish(GroupId::Tcp);
    }
}

#[test]
fn a_stream_arrives_whole_and_each_buffer_comes_back_once() {
    for features in both() {
        let mut rig = Rig::new(features, GroupId::Tcp, 4);
        let (mut client, server) = stream_pair();
        let sent: Vec<u8> = (0..40_000u32).map(|n| (n * 7 % 251) as u8).collect();
        client.write_all(&sent).unwrap();
        drop(client);
        rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 0);
        let mut got = Vec::new();
        loop {
            let completion = rig.next();
            match completion.result {
                Ok(0) => {
                    assert!(!completion.more, "the end of a stream is final");
                    if completion.buffer.is_some() {
                        rig.take(completion.buffer, 0);
                        rig.offer(GroupId::Tcp, 1);
                    }
                    break;
                }
                Ok(bytes) => {
                    got.extend(rig.take(completion.buffer, bytes as usize));
                    rig.offer(GroupId::Tcp, 1);
                }
                Err(errno) => assert_eq!((errno.0, completion.more), (libc::ENOBUFS, false)),
            }
            if !completion.more {
                rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 0);
            }
        }
        assert_eq!(got, sent);
        rig.finish(GroupId::Tcp);
    }
}

#[test]
fn a_starved_receive_ends_visibly_and_its_data_waits_in_the_socket() {
    let mut rig = Rig::new(both()[0], GroupId::Tcp, 1);
    let (mut client, server) = stream_pair();
    client.write_all(b"one").unwrap();
    rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 0);
    let first = rig.next();
    assert_eq!(rig.take(first.buffer, 3), b"one");
    // Nothing on offer: it stays armed until data comes, and then says so.
    client.write_all(b"two").unwrap();
    let starved = rig.next();
    assert_eq!((starved.result, starved.more, starved.buffer.is_none()), (Err(Errno(libc::ENOBUFS)), false, true));
    assert_eq!(rig.ring.counters().starved.get(), 1);
    rig.offer(GroupId::Tcp, 1);
    rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 0);
    let second = rig.next();
    assert_eq!(rig.take(second.buffer, 3), b"two", "nothing was lost");
    rig.finish(GroupId::Tcp);
}

#[test]
fn an_empty_group_keeps_a_receive_armed_while_there_is_no_data() {
    for features in both() {
        let mut rig = Rig::new(features, GroupId::Tcp, 0);
        let (mut client, server) = stream_pair();
        rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 0);
        rig.ring.turn(Wait::Poll, &mut rig.out).unwrap();
        assert!(rig.out.is_empty(), "{:?}", rig.out);
        client.write_all(b"x").unwrap();
        assert_eq!(rig.final_result(RECV), Err(Errno(libc::ENOBUFS)));
        rig.finish(GroupId::Tcp);
    }
}

#[test]
fn a_byte_cap_ends_the_arming_and_leaves_the_rest_in_the_socket() {
    let features = both()[0];
    if !features.has(Feature::ByteCap) {
        eprintln!("SKIPPED: this kernel has no byte cap");
        return;
    }
    let mut rig = Rig::new(features, GroupId::Tcp, 8);
    let (mut client, server) = stream_pair();
    client.write_all(&[1; 20_000]).unwrap();
    rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 5_000);
    let mut received = 0;
    loop {
        let completion = rig.next();
        let bytes = completion.result.expect("bytes") as usize;
        received += bytes;
        rig.take(completion.buffer, bytes);
        if !completion.more {
            break;
        }
    }
    assert!((5_000..5_000 + 2 * CHUNK_BYTES as usize).contains(&received), "{received}");
    assert_eq!((&server).read(&mut [0; 20_000]).unwrap(), 20_000 - received);
    rig.finish(GroupId::Tcp);
}

/// The kernel's header of a datagram: name, control and payload bytes, flags.
fn header(bytes: &[u8]) -> [u32; 4] {
    std::array::from_fn(|n| u32::from_ne_bytes(bytes[4 * n..4 * n + 4].try_into().unwrap()))
}

#[test]
fn datagrams_have_the_kernels_header_with_and_without_multishot() {
    const NAME_BYTES: u32 = 28;
    const CONTROL_BYTES: u32 = 32;
    for (features, name_bytes) in both().into_iter().flat_map(|features| [(features, 0), (features, NAME_BYTES)]) {
        let room = MessageRoom { name_bytes, control_bytes: CONTROL_BYTES };
        let payload_at = 16 + room.bytes();
        let mut rig = Rig::new(features, GroupId::Udp, 4);
        let receiver = UdpSocket::bind(loopback()).unwrap();
        let sender = UdpSocket::bind(loopback()).unwrap();
        let large = vec![9; 6_000]; // Beyond a chunk: truncated.
        for payload in [&b"first"[..], b"", &large] {
            sender.send_to(payload, receiver.local_addr().unwrap()).unwrap();
        }
        rig.ring.recvmsg_multishot(RECV, fd(&receiver), GroupId::Udp, room);
        for expected in [5, 0, large.len()] {
            let completion = rig.next();
            let bytes = completion.result.expect("a datagram") as usize;
            let got = rig.take(completion.buffer, bytes);
            let [name, control, payload, flags] = header(&got);
            let payload_room = (CHUNK_BYTES as usize + 64) - payload_at;
            let name_expected = name_bytes.min(16); // A sockaddr_in.
            assert_eq!((name, control, payload as usize), (name_expected, 0, expected.min(payload_room)));
            assert_eq!(bytes, payload_at + expected.min(payload_room));
            assert_eq!(flags & libc::MSG_TRUNC as u32 != 0, expected > payload_room);
            if expected == 5 {
                assert_eq!(&got[payload_at..], b"first");
            }
            if name > 0 {
                let port = sender.local_addr().unwrap().port().to_be_bytes();
                let family = (libc::AF_INET as u16).to_ne_bytes();
                assert_eq!(got[16..24], [&family[..], &port, &[127, 0, 0, 1]].concat());
            }
            rig.offer(GroupId::Udp, 1);
            if !completion.more {
                rig.ring.recvmsg_multishot(RECV, fd(&receiver), GroupId::Udp, room);
            }
        }
        rig.finish(GroupId::Udp);
    }
}

#[test]
fn a_single_shot_recvmsg_without_buffers_is_starved_at_once() {
    let mut rig = Rig::new(Features::NONE, GroupId::Udp, 1);
    let receiver = UdpSocket::bind(loopback()).unwrap();
    rig.ring.recvmsg_multishot(RECV, fd(&receiver), GroupId::Udp, MessageRoom::default());
    rig.ring.recvmsg_multishot(OTHER, fd(&receiver), GroupId::Udp, MessageRoom::default());
    assert_eq!(rig.final_result(OTHER), Err(Errno(libc::ENOBUFS)));
    rig.ring.cancel(ACCEPT, RECV);
    let mut cancelled = [rig.next(), rig.next()];
    cancelled.sort_by_key(|completion| completion.token.0);
    assert_eq!(cancelled[0].result, Ok(0));
    assert_eq!(cancelled[1].result, Err(Errno(libc::ECANCELED)));
    let [_, recv] = cancelled;
    rig.take(recv.buffer, 0); // R2: an error brings it home too.
    rig.finish(GroupId::Udp);
}

#[test]
fn overflow_of_a_completion_queue_of_4_loses_nothing_and_ends_the_multishot() {
    const DATAGRAMS: usize = 12;
    let features = both()[0];
    if !features.has(Feature::MultishotRecvmsg) {
        eprintln!("SKIPPED: this kernel has no multishot recvmsg");
        return;
    }
    let options = UringOptions { submission_entries: 2, completion_entries: 4, ..UringOptions::default() };
    let mut rig = Rig::with(features, GroupId::Udp, 16, &options);
    let receiver = UdpSocket::bind(loopback()).unwrap();
    let sender = UdpSocket::bind(loopback()).unwrap();
    for n in 0..DATAGRAMS {
        sender.send_to(&[n as u8], receiver.local_addr().unwrap()).unwrap();
    }
    rig.ring.recvmsg_multishot(RECV, fd(&receiver), GroupId::Udp, MessageRoom::default());
    let (mut got, mut ended) = (Vec::new(), 0);
    while got.len() < DATAGRAMS {
        let completion = rig.next();
        let bytes = completion.result.expect("a datagram") as usize;
        got.push(*rig.take(completion.buffer, bytes).last().unwrap());
        if !completion.more {
            ended += 1;
            rig.ring.recvmsg_multishot(RECV, fd(&receiver), GroupId::Udp, MessageRoom::default());
        }
    }
    assert_eq!(got, (0..DATAGRAMS as u8).collect::<Vec<_>>(), "R4");
    assert!(ended > 0, "the end is visible");
    assert!(rig.ring.counters().overflows.get() > 0);
    rig.finish(GroupId::Udp);
}

#[test]
fn a_cancelled_operation_ends_once_and_the_cancel_has_an_end_of_its_own() {
    for features in both() {
        let mut rig = Rig::new(features, GroupId::Tcp, 1);
        let (_client, server) = stream_pair();
        rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 0);
        rig.ring.turn(Wait::Poll, &mut rig.out).unwrap();
        rig.ring.cancel(OTHER, RECV);
        let mut ends = [rig.next(), rig.next()];
        ends.sort_by_key(|completion| completion.token.0);
        assert_eq!(ends.each_ref().map(|c| (c.token, c.more)), [(RECV, false), (OTHER, false)]);
        assert_eq!(ends[0].result, Err(Errno(libc::ECANCELED)));
        assert_eq!(ends[1].result, Ok(0));
        rig.ring.cancel(OTHER, RECV);
        assert_eq!(rig.final_result(OTHER), Err(Errno(libc::ENOENT)), "it is gone");
        rig.finish(GroupId::Tcp);
    }
}

#[test]
fn a_shut_down_socket_ends_its_receive_and_is_closed_after_it() {
    let mut rig = Rig::new(both()[0], GroupId::Tcp, 1);
    let (mut client, server) = stream_pair();
    rig.ring.recv_multishot(RECV, fd(&server), GroupId::Tcp, 0);
    rig.ring.turn(Wait::Poll, &mut rig.out).unwrap();
    rig.ring.shutdown(fd(&server));
    let end = rig.next();
    assert_eq!((end.result, end.more), (Ok(0), false));
    if end.buffer.is_some() {
        rig.take(end.buffer, 0);
    }
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "the peer got its FIN");
    let raw = std::os::fd::IntoRawFd::into_raw_fd(server);
    rig.ring.close(OTHER, Fd(raw));
    assert_eq!(rig.final_result(OTHER), Ok(0));
    rig.ring.close(OTHER, Fd(raw));
    assert_eq!(rig.final_result(OTHER), Err(Errno(libc::EBADF)));
    rig.finish(GroupId::Tcp);
}

#[test]
fn what_is_sent_arrives_behind_it_the_end_and_the_buffer_comes_back() {
    for features in both() {
        let mut rig = Rig::new(features, GroupId::Tcp, 1);
        let (mut client, server) = stream_pair();
        let mut buffer = StagingBuffer::map(4096).unwrap();
        buffer[..5].copy_from_slice(b"hello");
        rig.ring.send(OTHER, fd(&server), buffer, 1..5);
        assert_eq!(rig.final_result(OTHER), Ok(4));
        assert_eq!(&rig.ring.reclaim(OTHER)[..5], b"hello");
        rig.ring.end_sending(fd(&server));
        let mut received = Vec::new();
        client.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"ello");
        drop(client);
        rig.ring.shutdown(fd(&server));
        rig.ring.send(OTHER, fd(&server), StagingBuffer::map(4096).unwrap(), 0..4096);
        assert_eq!(rig.final_result(OTHER), Err(Errno(libc::EPIPE)), "and no signal");
        rig.ring.reclaim(OTHER);
        rig.finish(GroupId::Tcp);
    }
}

#[test]
fn written_bytes_are_in_the_file_and_the_staging_buffer_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    for (n, features) in both().into_iter().enumerate() {
        let mut ring = Uring::new(&UringOptions::default(), &features).unwrap();
        let mut buffer = StagingBuffer::map(8192).unwrap();
        let mut other = StagingBuffer::map(4096).unwrap();
        let registered = ring.register_staging(&mut [&mut other, &mut buffer]);
        assert_eq!(registered.is_ok(), features.has(Feature::FixedBuffers));
        assert_eq!(buffer.registered.is_some(), registered.is_ok());
        ring.enable().unwrap();
        let mut rig = Rig { ring, ..Rig::new(features, GroupId::Tcp, 1) };
        buffer[100..108].copy_from_slice(b"eight by");
        let path = dir.path().join(n.to_string());
        let file = File::create(&path).unwrap();
        rig.ring.allocate(OTHER, fd(&file), 0..4096);
        assert_eq!(rig.final_result(OTHER), Ok(0));
        assert_eq!(file.metadata().unwrap().len(), 4096, "mode 0: the size grows");
        rig.ring.write(RECV, fd(&file), buffer, 100..108, 50, WriteSync::DataSync);
        assert_eq!(rig.final_result(RECV), Ok(8));
        let buffer = rig.ring.reclaim(RECV);
        rig.ring.write(RECV, fd(&file), buffer, 100..102, 60, WriteSync::None);
        rig.ring.sync(OTHER, fd(&file));
        let mut ends = [rig.next(), rig.next()].map(|completion| (completion.token.0, completion.result));
        ends.sort_by_key(|end| end.0);
        assert_eq!(ends.map(|end| end.1), [Ok(2), Ok(0)]);
        assert_eq!(&rig.ring.reclaim(RECV)[100..108], b"eight by");
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((&bytes[50..58], &bytes[60..62]), (&b"eight by"[..], &b"ei"[..]));
        drop(rig);
    }
}

#[test]
fn a_write_that_the_file_cannot_take_whole_says_how_much_it_took() {
    // A pipe of one page: 8192 bytes fit half. (A full disk does the same to a file.)
    let mut ends = [0; 2];
    // SAFETY: two descriptors are written into the array.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) }, 0);
    // SAFETY: fresh descriptors that nobody else owns.
    let [reader, writer] = ends.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4096) }, 4096);
    let mut rig = Rig::new(both()[0], GroupId::Tcp, 1);
    rig.ring.write(RECV, fd(&writer), StagingBuffer::map(8192).unwrap(), 0..8192, u64::MAX, WriteSync::None);
    assert_eq!(rig.final_result(RECV), Ok(4096));
    rig.ring.reclaim(RECV);
    drop(reader);
    rig.finish(GroupId::Tcp);
}

#[test]
#[should_panic(expected = "R3")]
fn a_staging_buffer_is_not_reclaimed_before_the_end() {
    let file = tempfile::tempfile().unwrap();
    let mut rig = Rig::new(both()[0], GroupId::Tcp, 1);
    rig.ring.write(RECV, fd(&file), StagingBuffer::map(4096).unwrap(), 0..4096, 0, WriteSync::None);
    rig.ring.reclaim(RECV);
}
