//! Simulated sockets: streams, listeners and datagram sockets as a kernel would hold them.
//!
//! The client's end is used by the simulation ([`ConnId`]), the engine's end by operations of the ring ([`Fd`]). What an agent
//! really got is remembered per connection and datagram, for the oracles.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use super::tally::{Fault, Met};
use crate::sys::io::Fd;

/// Where clients are that nobody gave another address.
pub const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Descriptors of sockets begin here.
const FIRST_SOCKET_FD: i32 = 100;

/// A connection as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

/// One connection, both ends.
#[derive(Debug)]
pub(super) struct Stream {
    /// Where the client is.
    pub from: IpAddr,
    /// Sent by the client, not yet taken by a receive.
    pub inbound: VecDeque<u8>,
    /// An accept has brought it to the engine.
    pub accepted: bool,
    /// The client has sent its FIN.
    pub fin: bool,
    /// The client has sent a RST.
    pub reset: bool,
    /// Sent by the engine, not yet read by the client.
    pub outbound: VecDeque<u8>,
    /// The engine has sent its FIN.
    pub sent_end: bool,
    /// The engine has shut it down.
    pub shut: bool,
    /// The engine has closed its descriptor, or never accepted it.
    pub closed: bool,
    /// All bytes that completions brought to the agent.
    pub delivered: Vec<u8>,
    /// How much of that came before the engine shut it down.
    pub delivered_before_shutdown: Option<usize>,
}

impl Stream {
    fn of(from: IpAddr) -> Self {
        Self {
            from,
            inbound: VecDeque::new(),
            accepted: false,
            fin: false,
            reset: false,
            outbound: VecDeque::new(),
            sent_end: false,
            shut: false,
            closed: false,
            delivered: Vec::new(),
            delivered_before_shutdown: None,
        }
    }
}

/// One datagram as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its payload.
    pub bytes: Vec<u8>,
    /// Set when it was delivered: the buffer was too small.
    pub truncated: bool,
}

#[derive(Debug, Default)]
pub(super) struct DatagramSocket {
    pub queue: VecDeque<Datagram>,
    /// Aggregates datagrams of equal size.
    pub gro: bool,
    pub drops: u32,
    /// What completions brought to the agent.
    pub delivered: Vec<Datagram>,
}

#[derive(Debug)]
pub(super) enum Socket {
    Listener { waiting: VecDeque<ConnId> },
    Stream(ConnId),
    Datagrams(DatagramSocket),
}

/// All sockets of a simulated host.
#[derive(Debug)]
pub(super) struct Net {
    met: Met,
    pub streams: Vec<Stream>,
    sockets: BTreeMap<i32, Socket>,
    /// Accepted connections that are still open.
    pub accepted_open: usize,
}

impl Net {
    pub fn new(met: Met) -> Self {
        Self { met, streams: Vec::new(), sockets: BTreeMap::new(), accepted_open: 0 }
    }

    fn open(&mut self, socket: Socket) -> Fd {
        // The lowest free number, as kernels do: a descriptor is reused as early as can be.
        let number = (FIRST_SOCKET_FD..).find(|n| !self.sockets.contains_key(n)).expect("descriptors are few");
        self.sockets.insert(number, socket);
        Fd(number)
    }

    pub fn listen(&mut self) -> Fd {
        self.open(Socket::Listener { waiting: VecDeque::new() })
    }

    pub fn bind_datagrams(&mut self, gro: bool) -> Fd {
        self.open(Socket::Datagrams(DatagramSocket { gro, ..DatagramSocket::default() }))
    }

    pub fn get(&mut self, fd: Fd) -> &mut Socket {
        self.sockets.get_mut(&fd.0).unwrap_or_else(|| panic!("an agent used {fd:?}, which is not open"))
    }

    pub fn is_open(&self, fd: Fd) -> bool {
        self.sockets.contains_key(&fd.0)
    }

    pub fn conn(&mut self, fd: Fd) -> ConnId {
        match self.get(fd) {
            Socket::Stream(conn) => *conn,
            other => panic!("an agent used {fd:?} as a connection, which is {other:?}"),
        }
    }

    /// The connection of a descriptor, if it is one.
    pub fn conn_of(&self, fd: Fd) -> Option<ConnId> {
        match self.sockets.get(&fd.0)? {
            Socket::Stream(conn) => Some(*conn),
            Socket::Listener { .. } | Socket::Datagrams(_) => None,
        }
    }

    pub fn stream(&mut self, conn: ConnId) -> &mut Stream {
        &mut self.streams[conn.0 as usize]
    }

    pub fn datagrams(&mut self, fd: Fd) -> &mut DatagramSocket {
        match self.get(fd) {
            Socket::Datagrams(socket) => socket,
            other => panic!("an agent used {fd:?} as a datagram socket, which is {other:?}"),
        }
    }

    pub fn waiting(&mut self, listener: Fd) -> &mut VecDeque<ConnId> {
        match self.get(listener) {
            Socket::Listener { waiting } => waiting,
            other => panic!("an agent accepts on {listener:?}, which is {other:?}"),
        }
    }

    /// A client's connect from an address: `None` when nobody listens there.
    pub fn connect(&mut self, listener: Fd, from: IpAddr) -> Option<ConnId> {
        let conn = ConnId(self.streams.len() as u32);
        match self.sockets.get_mut(&listener.0)? {
            Socket::Listener { waiting } => waiting.push_back(conn),
            _ => return None,
        }
        self.streams.push(Stream::of(from));
        Some(conn)
    }

    pub fn accept(&mut self, listener: Fd) -> Option<(Fd, ConnId)> {
        let conn = self.waiting(listener).pop_front()?;
        self.accepted_open += 1;
        self.stream(conn).accepted = true;
        Some((self.open(Socket::Stream(conn)), conn))
    }

    /// The address of the client at the other end; of one that has reset its connection it is forgotten.
    pub fn peer(&mut self, fd: Fd) -> Option<IpAddr> {
        let conn = self.conn(fd);
        let stream = self.stream(conn);
        (!stream.reset).then_some(stream.from)
    }

    /// The client's send: how many bytes found room.
    pub fn send(&mut self, conn: ConnId, bytes: &[u8], window_bytes: usize) -> usize {
        let stream = self.stream(conn);
        if stream.fin || stream.reset {
            return 0;
        }
        if stream.shut || stream.closed {
            return bytes.len(); // Into the void, as a sender finds out only later.
        }
        let count = bytes.len().min(window_bytes.saturating_sub(stream.inbound.len()));
        stream.inbound.extend(&bytes[..count]);
        if count < bytes.len() {
            self.met.note(Fault::SenderHeldUp);
        }
        count
    }

    /// Bytes and datagrams that the engine could read and has not: not those of connections that it has ended, or not yet accepted.
    pub fn unread(&self) -> usize {
        let is_live = |stream: &&Stream| stream.accepted && !stream.shut && !stream.closed;
        let bytes: usize = self.streams.iter().filter(is_live).map(|stream| stream.inbound.len()).sum();
        let queued = |socket: &Socket| if let Socket::Datagrams(socket) = socket { socket.queue.len() } else { 0 };
        bytes + self.sockets.values().map(queued).sum::<usize>()
    }

    pub fn shutdown(&mut self, fd: Fd) {
        let conn = self.conn(fd);
        let stream = self.stream(conn);
        stream.shut = true;
        stream.delivered_before_shutdown.get_or_insert(stream.delivered.len());
    }

    pub fn end_sending(&mut self, fd: Fd) {
        let conn = self.conn(fd);
        self.stream(conn).sent_end = true;
    }

    pub fn close(&mut self, fd: Fd) {
        match self.sockets.remove(&fd.0) {
            Some(Socket::Stream(conn)) => {
                self.accepted_open -= 1;
                self.stream(conn).closed = true;
            }
            Some(Socket::Listener { waiting }) => {
                // Whoever still waits to be accepted is reset, as by a kernel.
                waiting.into_iter().for_each(|conn| self.stream(conn).closed = true);
            }
            Some(Socket::Datagrams(_)) => {}
            None => panic!("an agent closed {fd:?}, which is not open"),
        }
    }
}
