//! The simulated kernel: operations in flight, lent buffers, and what becomes of them, by seeded chance.
//!
//! ```text
//! submit ──► in flight ──step──► posted (per operation, first in first out: R4) ──take_completion──► the agent
//! ```
//!
//! A completion may be told late, long after its operation was done, and those of different operations in any order (R4 says no more).
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
use super::sectors::SECTOR_BYTES;
use super::source_oracle::SourceBook;
use super::tally::{Fault, Met};
use crate::pool::LentBuffer;
use crate::storage::LogFile;
use crate::sys::clock::{Clock, Nanos};
use crate::sys::io::{Completion, Errno, Fd, GroupId, MessageRoom, Token, WriteSync};
use crate::sys::memory::StagingBuffer;

/// Fills buffers while the kernel has them; whatever of it shows up elsewhere was never delivered.
pub const POISON: u8 = 0xdb;

/// A stalled file operation takes this many times as long.
const STALL_FACTOR: u64 = 100;

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
    GiveBack { file: SimFile, bytes: Range<u64> },
    Close { fd: Fd, conn: Option<ConnId> },
}

impl Kind {
    fn descriptor(&self) -> Option<Fd> {
        match self {
            Kind::Accept { listener } => Some(*listener),
            Kind::Recv { socket, .. } | Kind::RecvMsg { socket, .. } | Kind::Send { socket, .. } => Some(*socket),
            Kind::Write { file, .. } | Kind::Sync { file } => Some(file.fd()),
            Kind::Allocate { file, .. } | Kind::GiveBack { file, .. } => Some(file.fd()),
            Kind::Close { fd, .. } => Some(*fd),
            Kind::Cancel { .. } => None,
        }
    }

    fn is_file_operation(&self) -> bool {
        matches!(self, Kind::Write { .. } | Kind::Sync { .. } | Kind::Allocate { .. } | Kind::GiveBack { .. })
    }
}

/// What an agent learns from a completion, for the oracles.
#[derive(Debug)]
pub(super) enum Brings {
    Nothing,
    Connection(ConnId),
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
    /// Rises by one with each that is posted.
    pub number: u64,
    /// Not told before.
    pub told_from: Nanos,
}

impl Posted {
    /// The last completion of an operation, with nothing but a result.
    pub fn last(result: Result<u32, i32>) -> Self {
        let (result, brings) = (result.map_err(Errno), Brings::Nothing);
        Self { result, more: false, buffer: None, brings, number: 0, told_from: Nanos(0) }
    }

    /// One that brings something.
    pub fn bringing(result: u32, more: bool, buffer: Option<LentBuffer>, brings: Brings) -> Self {
        Self { more, buffer, brings, ..Self::last(Ok(result)) }
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
    pub met: Met,
    pub sources: SourceBook,
    /// In flight, or ended and not yet told.
    ops: BTreeMap<u64, Op>,
    groups: [VecDeque<LentBuffer>; GroupId::COUNT],
    /// Posted and not yet taken.
    queued: usize,
    /// The number of the next one.
    next_posted: u64,
    /// Staging buffers of writes and sends whose end the agent knows (R3).
    reclaimable: BTreeMap<u64, StagingBuffer>,
}

impl Kernel {
    pub fn new(seed: u64, faults: Faults, clock: SimClock, disk: SimDisk, met: Met) -> Self {
        Self {
            clock,
            rng: Rng::new(seed),
            faults,
            disk,
            net: Net::new(met.clone()),
            met,
            sources: SourceBook::default(),
            ops: BTreeMap::new(),
            groups: Default::default(),
            queued: 0,
            next_posted: 0,
            reclaimable: BTreeMap::new(),
        }
    }

    pub fn submit(&mut self, token: Token, kind: Kind) {
        assert!(!self.ops.contains_key(&token.0), "{token:?} was used for {kind:?} while it is in flight");
        let ready_at = if kind.is_file_operation() { self.clock.now() + self.file_delay() } else { Nanos(0) };
        self.check_rules(&kind);
        self.tell_sources(&kind);
        self.ops.insert(token.0, Op { kind, cancelled: false, ended: false, ready_at, posted: VecDeque::new() });
    }

    fn check_rules(&self, kind: &Kind) {
        // A close that is done, though not told yet, has given its number back: another connection may have it already.
        let is_past = |other: &Op| other.ended && matches!(other.kind, Kind::Close { .. });
        let same = |other: &&Op| other.kind.descriptor() == kind.descriptor() && !is_past(other);
        let is_send = |kind: &Kind| matches!(kind, Kind::Send { .. });
        match kind {
            Kind::Close { fd, .. } => {
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
                let end = offset + bytes.len() as u64;
                let given_back = |kind: &Kind| matches!(kind, Kind::GiveBack { bytes, .. } if bytes.start < end);
                assert!(!self.ops.values().filter(same).any(|o| given_back(&o.kind)), "a write into what is being given back");
            }
            Kind::GiveBack { bytes, .. } => {
                let end = |kind: &Kind| match kind {
                    Kind::Write { bytes, offset, .. } => offset + bytes.len() as u64,
                    _ => 0,
                };
                let busy = self.ops.values().filter(same).any(|o| end(&o.kind) > bytes.start);
                assert!(!busy, "a write is in flight into what is given back: {bytes:?}");
            }
            _ => {}
        }
    }

    /// O13: who is read, and who is turned away.
    fn tell_sources(&mut self, kind: &Kind) {
        match kind {
            Kind::Recv { socket, .. } => self.sources.serves(self.net.conn(*socket), self.clock.now()),
            Kind::Close { conn: Some(conn), .. } => self.sources.closes(*conn),
            _ => {}
        }
    }

    fn file_delay(&mut self) -> Nanos {
        let delay = self.rng.between(0..=self.faults.file_delay_max.0);
        if delay > 0 && self.rng.chance(self.faults.file_stall) {
            self.met.note(Fault::FileStalled);
            return Nanos(delay * STALL_FACTOR);
        }
        Nanos(delay)
    }

    /// Chance, for a fault of this kind.
    pub fn meets(&mut self, fault: Fault, per_mille: u32) -> bool {
        let is_met = self.rng.chance(per_mille);
        if is_met {
            self.met.note(fault);
        }
        is_met
    }

    /// An operation that has something to do is interrupted before it does it.
    pub fn interrupted(&mut self) -> Option<Posted> {
        let is_met = self.meets(Fault::Interrupted, self.faults.interrupted);
        is_met.then(|| Posted::last(Err(*self.rng.pick(&[libc::EINTR, libc::EAGAIN]))))
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
        if self.queued >= self.faults.cq_entries {
            self.met.note(Fault::QueueOverflow);
            return true;
        }
        self.meets(Fault::SilentEnd, self.faults.silent_end)
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
        let op = self.ops.get_mut(&token).expect("only tokens in flight are advanced");
        if op.ready_at > self.clock.now() {
            return false;
        }
        // Something stands in its place while it gets on, so that the rest of the kernel can be changed.
        let mut kind = std::mem::replace(&mut op.kind, Kind::Cancel { target: Token(token) });
        let is_cancelled = op.cancelled;
        let posted = self.progress(&mut kind, is_cancelled);
        let moved = posted.is_some();
        let told_from = if moved { self.told_from() } else { Nanos(0) };
        let op = self.ops.get_mut(&token).expect("it is there still");
        op.kind = kind;
        if let Some(posted) = posted {
            op.ended = !posted.more;
            op.posted.push_back(Posted { told_from, number: self.next_posted, ..posted });
            (self.queued, self.next_posted) = (self.queued + 1, self.next_posted + 1);
        }
        moved
    }

    fn told_from(&mut self) -> Nanos {
        let is_late = self.meets(Fault::LateCompletion, self.faults.late_completion);
        self.clock.now() + if is_late { Nanos(self.rng.between(1..=self.faults.late_max.0)) } else { Nanos(0) }
    }

    fn progress(&mut self, kind: &mut Kind, is_cancelled: bool) -> Option<Posted> {
        match kind {
            Kind::Accept { listener } => self.accept(*listener, is_cancelled),
            Kind::Recv { socket, group, cap_left } => self.receive(*socket, *group, cap_left, is_cancelled),
            Kind::RecvMsg { socket, group, room } => self.receive_message(*socket, *group, *room, is_cancelled),
            Kind::Send { socket, buffer, bytes } => self.send(*socket, &buffer[bytes.clone()], is_cancelled),
            Kind::Cancel { target } => Some(self.cancel(*target)),
            Kind::Write { file, buffer, bytes, offset, sync } => Some(self.write(file, &buffer[bytes.clone()], *offset, *sync)),
            Kind::Sync { file } => Some(self.sync(file)),
            Kind::Allocate { file, bytes } => Some(self.allocate(file, bytes)),
            Kind::GiveBack { file, bytes } => {
                file.give_back(bytes);
                self.met.note(Fault::BlocksGivenBack);
                Some(Posted::last(Ok(0)))
            }
            Kind::Close { fd, .. } => {
                self.net.close(*fd);
                Some(Posted::last(Ok(0)))
            }
        }
    }

    fn cancel(&mut self, target: Token) -> Posted {
        match self.ops.get_mut(&target.0) {
            // Not told yet, but too late: its own end is on the way (R1).
            Some(op) if op.ended => {
                self.met.note(Fault::CancelTooLate);
                Posted::last(Err(libc::ENOENT))
            }
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
        if let Some(interrupted) = self.interrupted() {
            return interrupted;
        }
        if self.meets(Fault::WriteError, self.faults.write_error) {
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
                self.met.note(Fault::NoSpace);
                return Posted::last(Err(libc::ENOSPC));
            }
        }
        if count < bytes.len() {
            self.met.note(Fault::ShortWrite);
        }
        file.write_at(&bytes[..count], offset).expect("asked for its room above");
        if sync == WriteSync::DataSync {
            file.sync_range(offset as usize..offset as usize + count);
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
        if self.meets(Fault::SyncError, self.faults.sync_error) {
            file.lose_unsynced(&mut self.rng, &self.met);
            return Posted::last(Err(libc::EIO));
        }
        file.sync().expect("a simulated file always can");
        Posted::last(Ok(0))
    }

    fn allocate(&mut self, file: &SimFile, bytes: &Range<u64>) -> Posted {
        if let Some(interrupted) = self.interrupted() {
            return interrupted;
        }
        if self.faults.allocate_unsupported {
            self.met.note(Fault::AllocateRefused);
            return Posted::last(Err(libc::EOPNOTSUPP));
        }
        match file.set_len(bytes.end.max(file.bytes())) {
            Ok(()) => Posted::last(Ok(0)),
            Err(_) => {
                self.met.note(Fault::NoSpace);
                Posted::last(Err(libc::ENOSPC))
            }
        }
    }

    /// What may be told now, first in first out for each operation.
    fn told_now(&self) -> impl Iterator<Item = (u64, &Posted)> {
        let now = self.clock.now();
        let fronts = self.ops.iter().filter_map(|(token, op)| Some((*token, op.posted.front()?)));
        fronts.filter(move |(_, posted)| posted.told_from <= now)
    }

    /// The next completion of an operation chosen by chance, as the agent gets it.
    pub fn take_completion(&mut self) -> Option<Completion> {
        if self.queued == 0 {
            return None;
        }
        let told: Vec<(u64, u64)> = self.told_now().map(|(token, posted)| (posted.number, token)).collect();
        let oldest = told.iter().min()?.0;
        let (_, token) = *self.rng.pick(&told);
        let op = self.ops.get_mut(&token).expect("found above");
        let mut posted = op.posted.pop_front().expect("found above");
        self.queued -= 1;
        if oldest < posted.number {
            self.met.note(Fault::Reordered);
        }
        if !posted.more {
            let op = self.ops.remove(&token).expect("found above");
            assert!(op.posted.is_empty(), "R1: nothing comes after the final completion");
            match op.kind {
                Kind::Write { buffer, .. } | Kind::Send { buffer, .. } => _ = self.reclaimable.insert(token, buffer),
                Kind::Close { conn: Some(conn), .. } => self.sources.has_closed(conn),
                _ => {}
            }
        }
        self.remember(&mut posted);
        let buffer = posted.buffer.map(LentBuffer::into_id);
        Some(Completion { token: Token(token), result: posted.result, more: posted.more, buffer })
    }

    fn remember(&mut self, posted: &mut Posted) {
        match std::mem::replace(&mut posted.brings, Brings::Nothing) {
            Brings::Nothing => {}
            Brings::Connection(conn) => self.sources.comes(conn, self.net.stream(conn).from),
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

    /// When the next file operation ends, or the next completion is told, that only waits for its time.
    pub fn next_event(&self) -> Option<Nanos> {
        let ready = self.ops.values().filter(|op| !op.ended && op.kind.is_file_operation()).map(|op| op.ready_at);
        let told = self.ops.values().filter_map(|op| Some(op.posted.front()?.told_from));
        ready.chain(told).min()
    }

    /// Whether a completion can be told now.
    pub fn has_told(&self) -> bool {
        self.queued > 0 && self.told_now().next().is_some()
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
