//! Simulated senders, good and bad, each with an account of what it sent.
//!
//! A client acts when the scheduler lets it: connects, puts a random cut of its stream into the network, waits, ends in its own
//! manner. Several share one [`Account`].

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use super::frames::{FrameKey, SentFrame};
use super::net::ConnId;
use super::ring::SimRing;
use super::rng::Rng;
use super::tally::Fault;
use crate::sys::clock::{Clock, Nanos};
use crate::sys::io::Fd;
use crate::wire::Priority;

/// Everything that was sent, by name.
#[derive(Debug, Default)]
pub struct Account {
    /// The frames, and how often each was sent.
    pub sent: BTreeMap<FrameKey, (SentFrame, u32)>,
    clients: u32,
}

impl Account {
    fn new_client(&mut self) -> u32 {
        self.clients += 1;
        self.clients
    }

    pub(super) fn note(&mut self, frame: &SentFrame) {
        self.sent.entry(frame.key).or_insert_with(|| (frame.clone(), 0)).1 += 1;
    }
}

/// What a client's frames are like.
#[derive(Clone, Debug)]
pub struct FrameMix {
    /// The priorities to choose from, as often as they occur here.
    pub priorities: Vec<Priority>,
    /// The longest frame.
    pub frame_bytes_max: usize,
    /// Per mille of frames that are long.
    pub long: u32,
    /// Per mille of frames that are sent twice.
    pub twice: u32,
    /// The longest that the client pauses between two acts.
    pub pause_max: Nanos,
}

/// Makes the frames of one client.
#[derive(Debug)]
pub(super) struct FrameMaker {
    client: u32,
    next: u32,
    pub(super) mix: FrameMix,
}

impl FrameMaker {
    /// For a client of its own.
    pub(super) fn new(mix: FrameMix, account: &mut Account) -> Self {
        Self { client: account.new_client(), next: 0, mix }
    }

    /// For a client whose frames are numbered as a session's events are: from 1.
    pub(super) fn of_session(mix: FrameMix, account: &mut Account) -> Self {
        Self { next: 1, ..Self::new(mix, account) }
    }

    /// Which client this is.
    pub(super) fn client(&self) -> u32 {
        self.client
    }

    /// A frame whose name no event has.
    pub(super) fn make_stray(&mut self, rng: &mut Rng) -> SentFrame {
        let next = std::mem::replace(&mut self.next, u32::MAX - 1);
        let frame = self.make(rng);
        self.next = next;
        frame
    }

    pub(super) fn make(&mut self, rng: &mut Rng) -> SentFrame {
        let key = FrameKey { client: self.client, sequence: self.next };
        self.next += 1;
        let topic = match rng.below(4) {
            0 => "load".to_owned(),
            1 => format!("plant/{}", rng.below(5)),
            2 => format!("client/{}/temperature", self.client),
            _ => format!("größe/{}", rng.below(3)),
        };
        let room = self.mix.frame_bytes_max - 7 - topic.len();
        let wanted = if rng.chance(self.mix.long) { rng.between(8..=room as u64) } else { rng.between(8..=90) };
        SentFrame { key, priority: *rng.pick(&self.mix.priorities), topic, body_bytes: room.min(wanted as usize) }
    }
}

/// How a TCP client behaves at the end of its stream (and the dribbling one all along).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Sends everything and its FIN.
    Orderly,
    /// Like orderly, but one to three bytes at a time.
    Dribbling,
    /// Ends with half a frame, and silence.
    HalfFrame,
    /// Ends with half a frame and a RST.
    ResetInFrame,
    /// Sends a malformed frame, then good ones that nobody may accept.
    Malformed,
    /// Sends everything and keeps the connection.
    Silent,
}

impl Manner {
    /// All of them.
    pub const ALL: [Manner; 6] =
        [Manner::Orderly, Manner::Dribbling, Manner::HalfFrame, Manner::ResetInFrame, Manner::Malformed, Manner::Silent];
}

/// A client with one connection.
#[derive(Debug)]
pub struct TcpClient {
    manner: Manner,
    from: IpAddr,
    listener: Fd,
    conn: Option<ConnId>,
    maker: FrameMaker,
    frames_left: u32,
    unsent: VecDeque<u8>,
    /// Nothing follows the unsent bytes but the client's way to end.
    is_last: bool,
    next_at: Nanos,
    done: bool,
    rng: Rng,
}

impl TcpClient {
    /// A client at `from` that will send `frames` frames.
    pub fn new(
        (manner, from): (Manner, IpAddr),
        listener: Fd,
        frames: u32,
        mix: FrameMix,
        account: &mut Account,
        mut rng: Rng,
    ) -> Self {
        let next_at = Nanos::from_millis(1_000) + Nanos(rng.below(mix.pause_max.0 * 8));
        let maker = FrameMaker::new(mix, account);
        Self {
            manner,
            from,
            listener,
            conn: None,
            maker,
            frames_left: frames,
            unsent: VecDeque::new(),
            is_last: false,
            next_at,
            done: false,
            rng,
        }
    }

    /// Its connection, once it has one.
    pub fn conn(&self) -> Option<ConnId> {
        self.conn
    }

    /// The engine is another one, which listens there: what was under way is lost, a client that was not done connects again.
    pub fn go_on(&mut self, listener: Fd) {
        (self.listener, self.conn) = (listener, None);
        self.unsent.clear();
    }

    /// How it behaves.
    pub fn manner(&self) -> Manner {
        self.manner
    }

    /// When it acts next; `None` when it has nothing more to do.
    pub fn next_at(&self) -> Option<Nanos> {
        (!self.done).then_some(self.next_at)
    }

    /// Does its next thing, if it is time.
    pub fn act(&mut self, ring: &SimRing, account: &mut Account) -> bool {
        if self.done || ring.now() < self.next_at {
            return false;
        }
        self.next_at = ring.now() + Nanos(self.rng.below(self.maker.mix.pause_max.0));
        let Some(conn) = self.conn else {
            self.conn = ring.connect(self.listener, self.from);
            self.done = self.conn.is_none();
            return true;
        };
        if ring.is_refused(conn) {
            self.done = true;
            ring.finish(conn);
            return true;
        }
        if self.unsent.is_empty() {
            if self.is_last {
                self.end(ring, conn);
                return true;
            }
            self.fill(account);
            if self.unsent.is_empty() {
                return true;
            }
        }
        let cut = match self.manner {
            Manner::Dribbling => self.rng.between(1..=3) as usize,
            _ if self.rng.chance(300) => self.unsent.len(),
            _ => self.rng.between(1..=self.unsent.len() as u64) as usize,
        };
        let cut = cut.min(self.unsent.len());
        if cut < self.unsent.len() {
            ring.note(Fault::Cut);
        }
        let sent = ring.send(conn, &self.unsent.make_contiguous()[..cut]);
        self.unsent.drain(..sent);
        sent > 0
    }

    fn fill(&mut self, account: &mut Account) {
        let count = self.rng.between(1..=24).min(u64::from(self.frames_left)) as u32;
        self.frames_left -= count;
        for _ in 0..count {
            let frame = self.maker.make(&mut self.rng);
            let times = if self.rng.chance(self.maker.mix.twice) { 2 } else { 1 };
            for _ in 0..times {
                account.note(&frame);
                self.unsent.extend(frame.encode());
            }
        }
        if self.frames_left == 0 {
            self.is_last = true;
            self.add_ending(account);
        }
    }

    fn add_ending(&mut self, account: &mut Account) {
        match self.manner {
            Manner::Orderly | Manner::Dribbling | Manner::Silent => {}
            Manner::HalfFrame | Manner::ResetInFrame => {
                let frame = self.maker.make(&mut self.rng).encode();
                let cut = self.rng.between(1..=frame.len() as u64 - 1) as usize;
                self.unsent.extend(&frame[..cut]);
            }
            Manner::Malformed => {
                let frame = self.maker.make(&mut self.rng);
                let bad = malformed(&mut self.rng, &frame, self.maker.mix.frame_bytes_max);
                self.unsent.extend(bad);
                for _ in 0..3 {
                    let frame = self.maker.make(&mut self.rng);
                    account.note(&frame);
                    self.unsent.extend(frame.encode());
                }
            }
        }
    }

    fn end(&mut self, ring: &SimRing, conn: ConnId) {
        self.done = true;
        match self.manner {
            Manner::Orderly | Manner::Dribbling => ring.finish(conn),
            Manner::ResetInFrame => ring.reset(conn),
            Manner::HalfFrame | Manner::Malformed | Manner::Silent => {}
        }
    }
}

/// A frame that no codec may accept, in one of the ways there are.
pub(super) fn malformed(rng: &mut Rng, frame: &SentFrame, frame_bytes_max: usize) -> Vec<u8> {
    let mut bytes = frame.encode();
    match rng.below(8) {
        0 => bytes[..4].copy_from_slice(&(rng.below(3) as u32).to_be_bytes()),
        1 => bytes[..4].copy_from_slice(&(frame_bytes_max as u32 - 3).to_be_bytes()),
        2 => bytes[..4].copy_from_slice(&u32::MAX.to_be_bytes()),
        3 => bytes[4] = rng.between(5..=255) as u8,
        4 => bytes[5..7].copy_from_slice(&0u16.to_be_bytes()),
        5 => bytes[5..7].copy_from_slice(&u16::MAX.to_be_bytes()),
        // One byte more than there is, whatever the frame.
        6 => bytes[5..7].copy_from_slice(&((frame.topic.len() + frame.body_bytes + 1) as u16).to_be_bytes()),
        _ => bytes[7] = *rng.pick(&[0, b'\n', 0x1b, b'#', b'+', 0xff, 0xc0]),
    }
    bytes
}

/// A client that sends datagrams.
#[derive(Debug)]
pub struct UdpClient {
    /// Where datagrams go that begin with an urgent frame, and where others go.
    sockets: (Fd, Fd),
    maker: FrameMaker,
    datagrams_left: u32,
    datagram_bytes_max: usize,
    next_at: Nanos,
    rng: Rng,
}

impl UdpClient {
    /// A client that will send `datagrams` datagrams, now and then one longer than `datagram_bytes_max`.
    pub fn new(
        sockets: (Fd, Fd),
        datagrams: u32,
        datagram_bytes_max: usize,
        mix: FrameMix,
        account: &mut Account,
        mut rng: Rng,
    ) -> Self {
        let next_at = Nanos::from_millis(1_000) + Nanos(rng.below(mix.pause_max.0 * 8));
        let maker = FrameMaker::new(mix, account);
        Self { sockets, maker, datagrams_left: datagrams, datagram_bytes_max, next_at, rng }
    }

    /// The engine is another one, with these sockets.
    pub fn go_on(&mut self, sockets: (Fd, Fd)) {
        self.sockets = sockets;
    }

    /// When it acts next; `None` when it has nothing more to do.
    pub fn next_at(&self) -> Option<Nanos> {
        (self.datagrams_left > 0).then_some(self.next_at)
    }

    /// Sends a few datagrams, if it is time.
    pub fn act(&mut self, ring: &SimRing, account: &mut Account) -> bool {
        if self.datagrams_left == 0 || ring.now() < self.next_at {
            return false;
        }
        self.next_at = ring.now() + Nanos(self.rng.below(self.maker.mix.pause_max.0));
        for _ in 0..self.rng.between(1..=6).min(u64::from(self.datagrams_left)) {
            self.datagrams_left -= 1;
            let (bytes, urgent) = self.datagram(account);
            let socket = if urgent { self.sockets.0 } else { self.sockets.1 };
            ring.send_datagram(socket, bytes);
        }
        true
    }

    fn datagram(&mut self, account: &mut Account) -> (Vec<u8>, bool) {
        let (frames, bytes_max) = match self.rng.below(20) {
            0 => return (Vec::new(), false),
            // Too long for a slot, though all its frames are good.
            1 => (u64::MAX, self.datagram_bytes_max + 1 + self.rng.index(4_000)),
            2..=6 => (self.rng.between(2..=5), self.datagram_bytes_max),
            _ => (1, self.datagram_bytes_max),
        };
        let mut bytes = Vec::new();
        let mut urgent = None;
        for _ in 0..frames {
            let frame = self.maker.make(&mut self.rng);
            let encoded = frame.encode();
            if bytes.len() + encoded.len() > bytes_max {
                break;
            }
            account.note(&frame);
            urgent.get_or_insert(frame.priority >= Priority::High);
            bytes.extend(encoded);
        }
        match self.rng.below(20) {
            0 if !bytes.is_empty() => bytes.truncate(self.rng.index(bytes.len())),
            1 => bytes.extend([0, 0, 0]),
            2 => {
                let frame = self.maker.make(&mut self.rng);
                bytes.extend(malformed(&mut self.rng, &frame, self.maker.mix.frame_bytes_max));
            }
            _ => {}
        }
        (bytes, urgent.unwrap_or(false))
    }
}
