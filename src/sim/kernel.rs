//! The simulated kernel: operations in flight, lent buffers, and what becomes of them, by seeded chance.
//!
//! ```text
//! submit ──► in flight ──step──► posted (per operation, first in first out: R4) ──take_completion──► the agent
//! ```
//!
//! Everything an agent may not do ends the simulation at once, with the mistake named: a token used twice, a
//! descriptor closed or received on under an operation in flight, a second write on one file, a lent buffer written to.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use super::clock::SimClock;
use super::disk::{SimDisk, SimFile};
use super::faults::Faults;
use super::net::{ConnId, Datagram, Net};
use super::rng::Rng;
use crate::pool::LentBuffer;
use crate::storage::LogFile;
use crate::sys::clock::{Clock, Nanos};
use crate::sys::io::{Completion, Errno, Fd, GroupId, MessageRoom, Token, WriteSync};
use crate::sys::memory::StagingBuffer;

/// Fills buffers while the kernel has them; whatever of it shows up elsewhere was never delivered.
pub const POISON: u8 = 0xdb;

/// A stalled file operation takes this many times as long.
const STALL_FACTOR: u64 = 100;

/// Direct writes end at sectors of this size.
const SECTOR_BYTES: usize = 512;

/// What an operation is about.
#[derive(Debug)]
pub(super) enum Kind {
    Accept { listener: Fd },
    Recv { socket: Fd, group: GroupId, cap_left: Option<u32> },
    RecvMsg { socket: Fd, group: GroupId, room: MessageRoom },
    Send { socket: Fd, buffer: StagingBuffer, bytes: Range<usize> },
    Cancel { target: Token },
    Write { file: SimFile, buffer: StagingBuffer, bytes: Range<usize>, offset: u64, sync: WriteSync },
    Sync { file: SimFile },
    Allocate { file: SimFile, bytes: Range<u64> },
    Close { fd: Fd },
}

impl Kind {
    fn descriptor(&self) -> Option<Fd> {
        match self {
            Kind::Accept { listener } => Some(*listener),
            Kind::Recv { socket, .. } | Kind::RecvMsg { socket, .. } | Kind::Send { socket, .. } => Some(*socket),
            Kind::Write { file, .. } | Kind::Sync { file } | Kind::Allocate { file, .. } => Some(file.fd()),
            Kind::Close { fd } => Some(*fd),
            Kind::Cancel { .. } => None,
        }
    }

    fn is_file_operation(&self) -> bool {
        matches!(self, Kind::Write { .. } | Kind::Sync { .. } | Kind::Allocate { .. })
    }
}

/// What an agent learns from a completion, for the oracles.
#[derive(Debug)]
pub(super) enum Brings {
    Nothing,
    Bytes(ConnId, usize),
    Datagrams(Fd, Vec<Datagram>),
}

/// A completion on its way.
#[derive(Debug)]
pub(super) struct Posted {
    pub result: Result<u32, Errno>,
    pub more: bool,
    pub buffer: Option<LentBuffer>,
    pub brings: Brings,
}

impl Posted {
    /// The last completion of an operation, with nothing but a result.
    pub fn last(result: Result<u32, i32>) -> Self {
        Self { result: result.map_err(Errno), more: false, buffer: None, brings: Brings::Nothing }
    }
}

#[derive(Debug)]
pub(super) struct Op {
    pub kind: Kind,
    pub cancelled: bool,
    /// Its final completion is posted: the kernel is done with it, the agent may not know yet.
    ended: bool,
    ready_at: Nanos,
    posted: VecDeque<Posted>,
}

#[derive(Debug)]
pub(super) struct Kernel {
    pub clock: SimClock,
    pub rng: Rng,
    pub faults: Faults,
    pub disk: SimDisk,
    pub net: Net,
    /// In flight, or ended and not yet told.
    ops: BTreeMap<u64, Op>,
    groups: [VecDeque<LentBuffer>; GroupId::COUNT],
    /// Posted and not yet taken.
    queued: usize,
    /// Staging buffers of writes and sends whose end the agent knows (R3).
    reclaimable: BTreeMap<u64, StagingBuffer>,
}

impl Kernel {
    pub fn new(seed: u64, faults: Faults, clock: SimClock, disk: SimDisk) -> Self {
        Self {
            clock,
            rng: Rng::new(seed),
            faults,
            disk,
            net: Net::default(),
            ops: BTreeMap::new(),
            groups: Default::default(),
            queued: 0,
            reclaimable: BTreeMap::new(),
        }
    }

    pub fn submit(&mut self, token: Token, kind: Kind) {
        assert!(!self.ops.contains_key(&token.0), "{token:?} was used for {kind:?} while it is in flight");
        let ready_at = if kind.is_file_operation() { self.clock.now() + self.file_delay() } else { Nanos(0) };
        self.check_rules(&kind);
        self.ops.insert(token.0, Op { kind, cancelled: false, ended: false, ready_at, posted: VecDeque::new() });
    }

    fn check_rules(&self, kind: &Kind) {
        // A close that is done, though not told yet, has given its number back: another connection may have it already.
        let is_past = |other: &Op| other.ended && matches!(other.kind, Kind::Close { .. });
        let same = |other: &&Op| other.kind.descriptor() == kind.descriptor() && !is_past(other);
        let is_send = |kind: &Kind| matches!(kind, Kind::Send { .. });
        match kind {
            Kind::Close { fd } => {
                let busy = self.ops.values().find(same);
                assert!(busy.is_none(), "{fd:?} was closed under an operation in flight: {busy:?}");
            }
            Kind::Recv { socket, .. } | Kind::RecvMsg { socket, .. } => {
                assert!(self.net.is_open(*socket), "a receive on {socket:?}, which is not open");
                let busy = self.ops.values().filter(same).any(|o| !is_send(&o.kind));
                assert!(!busy, "a second operation on {socket:?}: its order is anyone's guess");
            }
            Kind::Send { socket, .. } => {
                assert!(self.net.is_open(*socket), "a send on {socket:?}, which is not open");
                assert!(!self.ops.values().filter(same).any(|o| is_send(&o.kind)), "a second send in flight on {socket:?}");
            }
            Kind::Write { file, buffer, bytes, offset, .. } => {
                assert!(!bytes.is_empty() && bytes.end <= buffer.len(), "a write of {bytes:?} of a staging buffer");
                let busy = self.ops.values().filter(same).any(|o| matches!(o.kind, Kind::Write { .. }));
                assert!(!busy, "a second write in flight on {:?}", file.fd());
                let aligned = bytes.len().is_multiple_of(SECTOR_BYTES) && offset.is_multiple_of(SECTOR_BYTES as u64);
                assert!(aligned || !self.faults.whole_sectors, "a direct write of {bytes:?} at {offset} is not whole sectors");
            }
            _ => {}
        }
    }

    fn file_delay(&mut self) -> Nanos {
        let delay = self.rng.between(0..=self.faults.file_delay_max.0);
        if self.rng.chance(self.faults.file_stall) { Nanos(delay * STALL_FACTOR) } else { Nanos(delay) }
    }

    pub fn provide(&mut self, mut buffer: LentBuffer) {
        buffer.as_mut_bytes().fill(POISON);
        self.groups[buffer.group() as usize].push_back(buffer);
    }

    pub fn group_is_empty(&self, group: GroupId) -> bool {
        self.groups[group as usize].is_empty()
    }

    /// The next buffer of a group; nobody has written to it since it was lent.
    pub fn take_buffer(&mut self, group: GroupId) -> Option<LentBuffer> {
        let mut buffer = self.groups[group as usize].pop_front()?;
        let id = buffer.buffer_id();
        assert!(buffer.as_mut_bytes().iter().all(|b| *b == POISON), "buffer {id} of {group:?} was written to while it was lent");
        Some(buffer)
    }

    /// Whether an overflowing queue or chance ends a multishot with this completion.
    pub fn ends_multishot(&mut self) -> bool {
        self.queued >= self.faults.cq_entries || self.rng.chance(self.faults.silent_end)
    }

    /// One operation, chosen by chance, gets on. False if none can now.
    pub fn step(&mut self) -> bool {
        let tokens: Vec<u64> = self.ops.iter().filter(|(_, op)| !op.ended).map(|(token, _)| *token).collect();
        if tokens.is_empty() {
            return false;
        }
        let first = self.rng.index(tokens.len());
        (0..tokens.len()).any(|n| self.advance(tokens[(first + n) % tokens.len()]))
    }

    fn advance(&mut self, token: u64) -> bool {
        let mut op = self.ops.remove(&token).expect("only tokens in flight are advanced");
        let posted = if op.ready_at > self.clock.now() { None } else { self.progress(&mut op) };
        let moved = posted.is_some();
        if let Some(posted) = posted {
            op.ended = !posted.more;
            op.posted.push_back(posted);
            self.queued += 1;
        }
        self.ops.insert(token, op);
        moved
    }

    fn progress(&mut self, op: &mut Op) -> Option<Posted> {
        match &mut op.kind {
            Kind::Accept { listener } => self.accept(*listener, op.cancelled),
            Kind::Recv { socket, group, cap_left } => self.receive(*socket, *group, cap_left, op.cancelled),
            Kind::RecvMsg { socket, group, room } => self.receive_message(*socket, *group, *room, op.cancelled),
            Kind::Send { socket, buffer, bytes } => self.send(*socket, &buffer[bytes.clone()], op.cancelled),
            Kind::Cancel { target } => Some(self.cancel(*target)),
            Kind::Write { file, buffer, bytes, offset, sync } => Some(self.write(file, &buffer[bytes.clone()], *offset, *sync)),
            Kind::Sync { file } => Some(self.sync(file)),
            Kind::Allocate { file, bytes } => Some(self.allocate(file, bytes)),
            Kind::Close { fd } => {
                self.net.close(*fd);
                Some(Posted::last(Ok(0)))
            }
        }
    }

    fn cancel(&mut self, target: Token) -> Posted {
        match self.ops.get_mut(&target.0) {
            // Not told yet, but too late: its own end is on the way (R1).
            Some(op) if op.ended => Posted::last(Err(libc::ENOENT)),
            // What a file is doing can't be stopped.
            Some(op) if op.kind.is_file_operation() => Posted::last(Err(libc::EALREADY)),
            Some(op) => {
                op.cancelled = true;
                Posted::last(Ok(0))
            }
            None => Posted::last(Err(libc::ENOENT)),
        }
    }

    fn write(&mut self, file: &SimFile, bytes: &[u8], offset: u64, sync: WriteSync) -> Posted {
        if self.rng.chance(self.faults.interrupted) {
            return Posted::last(Err(*self.rng.pick(&[libc::EINTR, libc::EAGAIN])));
        }
        if self.rng.chance(self.faults.write_error) {
            self.write_some(file, bytes, offset);
            return Posted::last(Err(libc::EIO));
        }
        let mut count = file.writable(offset, bytes.len());
        if self.rng.chance(self.faults.short_write) {
            count = count.min(self.rng.between(1..=bytes.len() as u64) as usize);
        }
        if count < bytes.len() && self.faults.whole_sectors {
            count -= count % SECTOR_BYTES;
        }
        if count == 0 {
            // A short write of nothing does not exist: it is either refused or whole.
            count = file.writable(offset, bytes.len());
            if count < bytes.len() {
                return Posted::last(Err(libc::ENOSPC));
            }
        }
        file.write_at(&bytes[..count], offset).expect("asked for its room above");
        if sync == WriteSync::DataSync {
            file.sync().expect("a simulated file always can");
        } else if self.rng.chance(self.faults.write_back) {
            file.write_back(&mut self.rng);
        }
        Posted::last(Ok(count as u32))
    }

    /// A write that nobody hears the end of: its first bytes up to anywhere, or some of its sectors.
    fn write_some(&mut self, file: &SimFile, bytes: &[u8], offset: u64) {
        let writable = file.writable(offset, bytes.len());
        let bytes = &bytes[..self.rng.between(0..=writable as u64) as usize];
        let sector_chance = *self.rng.pick(&[1000, 1000, 500]);
        for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            if self.rng.chance(sector_chance) {
                file.write_at(sector, offset + (number * SECTOR_BYTES) as u64).expect("asked for its room above");
            }
        }
    }

    fn sync(&mut self, file: &SimFile) -> Posted {
        if self.rng.chance(self.faults.sync_error) {
            file.lose_unsynced(&mut self.rng);
            return Posted::last(Err(libc::EIO));
        }
        file.sync().expect("a simulated file always can");
        Posted::last(Ok(0))
    }

    fn allocate(&mut self, file: &SimFile, bytes: &Range<u64>) -> Posted {
        if self.faults.allocate_unsupported {
            return Posted::last(Err(libc::EOPNOTSUPP));
        }
        match file.set_len(bytes.end.max(file.bytes())) {
            Ok(()) => Posted::last(Ok(0)),
            Err(_) => Posted::last(Err(libc::ENOSPC)),
        }
    }

    /// The next completion of an operation chosen by chance, as the agent gets it.
    pub fn take_completion(&mut self) -> Option<Completion> {
        if self.queued == 0 {
            return None;
        }
        let tokens: Vec<u64> = self.ops.iter().filter(|(_, op)| !op.posted.is_empty()).map(|(token, _)| *token).collect();
        let token = *self.rng.pick(&tokens);
        let op = self.ops.get_mut(&token).expect("found above");
        let mut posted = op.posted.pop_front().expect("found above");
        self.queued -= 1;
        if !posted.more {
            let op = self.ops.remove(&token).expect("found above");
            assert!(op.posted.is_empty(), "R1: nothing comes after the final completion");
            if let Kind::Write { buffer, .. } | Kind::Send { buffer, .. } = op.kind {
                self.reclaimable.insert(token, buffer);
            }
        }
        self.remember(&mut posted);
        let buffer = posted.buffer.map(LentBuffer::into_id);
        Some(Completion { token: Token(token), result: posted.result, more: posted.more, buffer })
    }

    fn remember(&mut self, posted: &mut Posted) {
        match std::mem::replace(&mut posted.brings, Brings::Nothing) {
            Brings::Nothing => {}
            Brings::Bytes(conn, count) => {
                let bytes = &posted.buffer.as_mut().expect("bytes come in buffers").as_mut_bytes()[..count];
                self.net.stream(conn).delivered.extend_from_slice(bytes);
            }
            Brings::Datagrams(socket, datagrams) => self.net.datagrams(socket).delivered.extend(datagrams),
        }
    }

    pub fn reclaim(&mut self, token: Token) -> StagingBuffer {
        self.reclaimable.remove(&token.0).unwrap_or_else(|| panic!("R3: nothing of {token:?} has ended and is not reclaimed"))
    }

    /// When the next file operation ends that only waits for its time.
    pub fn next_event(&self) -> Option<Nanos> {
        self.ops.values().filter(|op| !op.ended && op.kind.is_file_operation()).map(|op| op.ready_at).min()
    }

    pub fn has_queued(&self) -> bool {
        self.queued > 0
    }

    pub fn in_flight(&self) -> Vec<Token> {
        self.ops.keys().map(|token| Token(*token)).collect()
    }

    pub fn lent(&self, group: GroupId) -> usize {
        let posted = self.ops.values().flat_map(|op| &op.posted).filter_map(|posted| posted.buffer.as_ref());
        self.groups[group as usize].len() + posted.filter(|buffer| buffer.group() == group).count()
    }

    /// The ring is closed: everything lent is the owner's again, and nobody has touched it.
    pub fn forget_lent(&mut self) {
        assert!(self.ops.is_empty(), "the ring was closed with operations in flight: {:?}", self.in_flight());
        GroupId::ALL.into_iter().for_each(|group| while self.take_buffer(group).is_some() {});
    }

    /// The process has died: of its writes in flight some bytes get to their files, of all else nobody hears.
    pub fn abandon(&mut self) {
        for op in std::mem::take(&mut self.ops).into_values().filter(|op| !op.ended) {
            match op.kind {
                Kind::Write { file, buffer, bytes, offset, .. } => self.write_some(&file, &buffer[bytes], offset),
                Kind::Sync { file } if self.rng.chance(500) => file.write_back(&mut self.rng),
                _ => {}
            }
        }
        self.queued = 0;
        self.groups.iter_mut().for_each(VecDeque::clear);
    }
}
