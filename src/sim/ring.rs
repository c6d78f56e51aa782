//! The simulated ring: what agents get for the kernel ([`Ring`]), and the same kernel as clients and the scheduler see it.

use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;

use super::clock::SimClock;
use super::disk::SimDisk;
use super::faults::Faults;
use super::kernel::{Kernel, Kind};
use super::net::{ConnId, Datagram};
use super::source_oracle::SourceBook;
use super::tally::{Fault, Met};
use crate::pool::LentBuffer;
use crate::sys::clock::{Clock, Nanos, WallNanos};
use crate::sys::io::{Completion, Fd, GroupId, MessageRoom, Ring, Token, WriteSync};
use crate::sys::memory::StagingBuffer;

/// A ring over a simulated kernel; clones are the same ring. One thread only.
#[derive(Clone, Debug)]
pub struct SimRing {
    kernel: Rc<RefCell<Kernel>>,
    clock: SimClock,
}

/// What a connection brought, for the oracles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// All bytes that an agent got.
    pub bytes: Vec<u8>,
    /// How many of them before the engine shut the connection down.
    pub before_shutdown: usize,
}

/// The host's side: what clients, the scheduler and the oracles do.
impl SimRing {
    /// A host of its own, with its own chance.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self::on(seed, faults, SimClock::new(), SimDisk::new(), Met::default())
    }

    fn on(seed: u64, faults: Faults, clock: SimClock, disk: SimDisk, met: Met) -> Self {
        let kernel = Kernel::new(seed, faults, clock.clone(), disk, met);
        Self { kernel: Rc::new(RefCell::new(kernel)), clock }
    }

    /// The process that has this ring dies: nothing of it is in flight any more, and no client is connected.
    pub fn die(&self) {
        self.kernel.borrow_mut().abandon();
    }

    /// The ring of the next process on this host, over what is left of its disk.
    pub fn reborn(&self, seed: u64, disk: SimDisk) -> Self {
        let faults = self.kernel.borrow().faults.clone();
        Self::on(seed, faults, self.clock.clone(), disk, self.met())
    }

    /// What went wrong on this host, in all its processes.
    pub fn met(&self) -> Met {
        self.kernel.borrow().met.clone()
    }

    pub(super) fn note(&self, fault: Fault) {
        self.kernel.borrow().met.note(fault);
    }

    /// What is known of the sources of connections.
    pub(super) fn with_sources<T>(&self, look: impl FnOnce(&mut SourceBook) -> T) -> T {
        look(&mut self.kernel.borrow_mut().sources)
    }

    /// The clock of this host.
    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// The disk of this host.
    pub fn disk(&self) -> SimDisk {
        self.kernel.borrow().disk.clone()
    }

    /// Changes what goes wrong from now on.
    pub fn change_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.kernel.borrow_mut().faults);
    }

    /// A listening socket.
    pub fn listen(&self) -> Fd {
        self.kernel.borrow_mut().net.listen()
    }

    /// A bound datagram socket, with aggregation if `gro`.
    pub fn bind_datagrams(&self, gro: bool) -> Fd {
        self.kernel.borrow_mut().net.bind_datagrams(gro)
    }

    /// Closes a socket that the simulation opened itself, once nothing is in flight on it.
    pub fn close_own(&self, fd: Fd) {
        self.kernel.borrow_mut().net.close(fd);
    }

    /// A client connects from an address; `None` when nobody listens there.
    pub fn connect(&self, listener: Fd, from: IpAddr) -> Option<ConnId> {
        self.kernel.borrow_mut().net.connect(listener, from)
    }

    /// A client sends; returns how many bytes found room.
    pub fn send(&self, conn: ConnId, bytes: &[u8]) -> usize {
        let mut kernel = self.kernel.borrow_mut();
        let window_bytes = kernel.faults.receive_window_bytes;
        kernel.net.send(conn, bytes, window_bytes)
    }

    pub(super) fn with_stream<T>(&self, conn: ConnId, look: impl FnOnce(&mut super::net::Stream) -> T) -> T {
        look(self.kernel.borrow_mut().net.stream(conn))
    }

    /// A client ends its stream in order.
    pub fn finish(&self, conn: ConnId) {
        self.kernel.borrow_mut().net.stream(conn).fin = true;
    }

    /// A client resets its connection; bytes under way are lost from a random place on.
    pub fn reset(&self, conn: ConnId) {
        let mut kernel = self.kernel.borrow_mut();
        let waiting = kernel.net.stream(conn).inbound.len() as u64;
        let kept = kernel.rng.between(0..=waiting) as usize;
        let stream = kernel.net.stream(conn);
        stream.inbound.truncate(kept);
        stream.reset = true;
        kernel.met.note(Fault::Reset);
    }

    /// Whether the engine has shut this connection down or closed it.
    pub fn is_refused(&self, conn: ConnId) -> bool {
        let mut kernel = self.kernel.borrow_mut();
        let stream = kernel.net.stream(conn);
        stream.shut || stream.closed
    }

    /// Whether the engine has closed this connection's descriptor.
    pub fn is_closed(&self, conn: ConnId) -> bool {
        self.kernel.borrow_mut().net.stream(conn).closed
    }

    /// A datagram arrives, or is dropped where the queue is full.
    pub fn send_datagram(&self, socket: Fd, bytes: Vec<u8>) {
        let mut kernel = self.kernel.borrow_mut();
        let datagrams_max = kernel.faults.datagrams_max;
        if !kernel.net.is_open(socket) {
            return;
        }
        let socket = kernel.net.datagrams(socket);
        if socket.queue.len() < datagrams_max {
            socket.queue.push_back(Datagram { bytes, truncated: false });
        } else {
            socket.drops = socket.drops.wrapping_add(1);
            kernel.met.note(Fault::DatagramDropped);
        }
    }

    /// One operation gets on; false if none can now.
    pub fn step(&self) -> bool {
        self.kernel.borrow_mut().step()
    }

    /// The next completion, from an operation chosen by chance.
    pub fn take_completion(&self) -> Option<Completion> {
        self.kernel.borrow_mut().take_completion()
    }

    /// Whether completions can be taken now.
    pub fn has_completions(&self) -> bool {
        self.kernel.borrow().has_told()
    }

    /// When the next file operation ends, or the next completion can be taken, by itself.
    pub fn next_event(&self) -> Option<Nanos> {
        self.kernel.borrow().next_event()
    }

    /// Operations whose final completion was not taken yet.
    pub fn in_flight(&self) -> Vec<Token> {
        self.kernel.borrow().in_flight()
    }

    /// Buffers of a group that the kernel has.
    pub fn lent(&self, group: GroupId) -> usize {
        self.kernel.borrow().lent(group)
    }

    /// Connections that were accepted and not closed.
    pub fn accepted_open(&self) -> usize {
        self.kernel.borrow().net.accepted_open
    }

    /// Bytes and datagrams that the engine could read and has not.
    pub fn unread(&self) -> usize {
        self.kernel.borrow().net.unread()
    }

    /// Ends the ring: lent buffers are their owner's again.
    ///
    /// # Panics
    /// If an operation is still in flight.
    pub fn close_ring(&self) {
        self.kernel.borrow_mut().forget_lent();
    }

    /// What the connection brought to its agent so far.
    pub fn delivered(&self, conn: ConnId) -> Delivered {
        let mut kernel = self.kernel.borrow_mut();
        let stream = kernel.net.stream(conn);
        let bytes = stream.delivered.clone();
        Delivered { before_shutdown: stream.delivered_before_shutdown.unwrap_or(bytes.len()), bytes }
    }

    /// The datagrams that the socket brought to its agent so far.
    pub fn delivered_datagrams(&self, socket: Fd) -> Vec<Datagram> {
        self.kernel.borrow_mut().net.datagrams(socket).delivered.clone()
    }
}

impl Clock for SimRing {
    fn now(&self) -> Nanos {
        self.clock.now()
    }

    fn wall(&self) -> WallNanos {
        self.clock.wall()
    }
}

impl Ring for SimRing {
    fn accept_multishot(&mut self, token: Token, listener: Fd) {
        self.kernel.borrow_mut().submit(token, Kind::Accept { listener });
    }

    fn recv_multishot(&mut self, token: Token, socket: Fd, group: GroupId, byte_cap: u32) {
        let cap_left = (byte_cap > 0).then_some(byte_cap);
        self.kernel.borrow_mut().submit(token, Kind::Recv { socket, group, cap_left });
    }

    fn recvmsg_multishot(&mut self, token: Token, socket: Fd, group: GroupId, room: MessageRoom) {
        self.kernel.borrow_mut().submit(token, Kind::RecvMsg { socket, group, room });
    }

    fn provide(&mut self, buffer: LentBuffer) {
        self.kernel.borrow_mut().provide(buffer);
    }

    fn cancel(&mut self, token: Token, target: Token) {
        self.kernel.borrow_mut().submit(token, Kind::Cancel { target });
    }

    fn write(&mut self, token: Token, file: Fd, buffer: StagingBuffer, bytes: Range<usize>, offset: u64, sync: WriteSync) {
        let mut kernel = self.kernel.borrow_mut();
        let file = kernel.disk.file(file).unwrap_or_else(|| panic!("a write to {file:?}, which is no file"));
        kernel.submit(token, Kind::Write { file, buffer, bytes, offset, sync });
    }

    fn send(&mut self, token: Token, socket: Fd, buffer: StagingBuffer, bytes: Range<usize>) {
        self.kernel.borrow_mut().submit_send(token, socket, buffer, bytes);
    }

    fn reclaim(&mut self, token: Token) -> StagingBuffer {
        self.kernel.borrow_mut().reclaim(token)
    }

    fn sync(&mut self, token: Token, file: Fd) {
        let mut kernel = self.kernel.borrow_mut();
        let file = kernel.disk.file(file).unwrap_or_else(|| panic!("a sync of {file:?}, which is no file"));
        kernel.submit(token, Kind::Sync { file });
    }

    fn allocate(&mut self, token: Token, file: Fd, bytes: Range<u64>) {
        let mut kernel = self.kernel.borrow_mut();
        let file = kernel.disk.file(file).unwrap_or_else(|| panic!("an allocation in {file:?}, which is no file"));
        kernel.submit(token, Kind::Allocate { file, bytes });
    }

    fn give_back(&mut self, token: Token, file: Fd, bytes: Range<u64>) {
        let mut kernel = self.kernel.borrow_mut();
        let file = kernel.disk.file(file).unwrap_or_else(|| panic!("blocks given back of {file:?}, which is no file"));
        kernel.submit(token, Kind::GiveBack { file, bytes });
    }

    fn shutdown(&mut self, socket: Fd) {
        self.kernel.borrow_mut().net.shutdown(socket);
    }

    fn end_sending(&mut self, socket: Fd) {
        self.kernel.borrow_mut().net.end_sending(socket);
    }

    fn close(&mut self, token: Token, fd: Fd) {
        let mut kernel = self.kernel.borrow_mut();
        let conn = kernel.net.conn_of(fd);
        kernel.submit(token, Kind::Close { fd, conn });
    }

    fn peer(&mut self, socket: Fd) -> Option<IpAddr> {
        let mut kernel = self.kernel.borrow_mut();
        let (conn, peer) = (kernel.net.conn(socket), kernel.net.peer(socket));
        if peer.is_none() {
            kernel.sources.hides(conn);
        }
        peer
    }

    fn socket_drops(&mut self, socket: Fd) -> Option<u32> {
        Some(self.kernel.borrow_mut().net.datagrams(socket).drops)
    }
}
