//! For tests of this folder: a file in memory with planned faults, a ring that writes to it when told to, and a pool with an appender.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::appender::{Appender, AppenderCounters, AppenderOptions, AppenderParts, Inlet};
use super::format::BLOCK_BYTES;
use super::log_file::LogFile;
use super::recovery::{LogIdentity, OpenLog};
use super::status::InletProgress;
use crate::agent::{Agent, Context, Work};
use crate::bus::lane::{LaneProducer, lane};
use crate::control::NodeGate;
use crate::metrics::ledger::{Ledger, LedgerCells};
use crate::pool::{ClassStrides, EventHeader, LentBuffer, OwnerLayout, PoolOwner, SharedPool, Source};
use crate::sys::clock::{Clock, Nanos, WallNanos};
use crate::sys::io::{Completion, Errno, Fd, GroupId, Ring, Token, WriteSync};
use crate::sys::memory::{Arena, StagingBuffer};
use crate::wire::{Priority, Tier};

/// A file in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct MemFile {
    pub bytes: Rc<RefCell<Vec<u8>>>,
    /// Refuses every change, to show that nothing tries one.
    pub frozen: bool,
}

impl MemFile {
    pub fn of(bytes: Vec<u8>) -> Self {
        Self { bytes: Rc::new(RefCell::new(bytes)), frozen: false }
    }

    pub fn frozen(bytes: Vec<u8>) -> Self {
        Self { frozen: true, ..Self::of(bytes) }
    }

    pub fn content(&self) -> Vec<u8> {
        self.bytes.borrow().clone()
    }
}

impl LogFile for MemFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.borrow().len() as u64)
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.borrow();
        let from = (offset as usize).min(bytes.len());
        let len = out.len().min(bytes.len() - from);
        out[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, new: &[u8], offset: u64) -> io::Result<()> {
        assert!(!self.frozen, "a file that must not be changed was written");
        let mut bytes = self.bytes.borrow_mut();
        let end = offset as usize + new.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(new);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        assert!(!self.frozen, "a file that must not be changed was cut");
        self.bytes.borrow_mut().resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn fd(&self) -> Fd {
        Fd(7)
    }
}

/// What becomes of the next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteFate {
    Whole,
    Short(usize),
    Refused(i32),
}

/// An operation that the ring has not completed yet.
#[derive(Debug)]
enum Pending {
    Write { bytes: Range<usize>, offset: u64 },
    Sync,
    Allocate(Range<u64>),
}

/// A ring over one file: operations wait until the test completes them.
#[derive(Debug)]
pub(super) struct TestRing {
    pub file: MemFile,
    pub now: Nanos,
    pending: VecDeque<(Token, Pending)>,
    buffers: Vec<(Token, StagingBuffer)>,
    pub write_fates: VecDeque<WriteFate>,
    pub sync_fates: VecDeque<i32>,
    pub allocate_errno: Option<i32>,
    /// Every write so far: where, how long, how durable.
    pub writes: Vec<(u64, usize, WriteSync)>,
    pub syncs: usize,
}

impl Clock for TestRing {
    fn now(&self) -> Nanos {
        self.now
    }
    fn wall(&self) -> WallNanos {
        WallNanos(1_700_000_000_000_000_000 + self.now.0)
    }
}

impl Ring for TestRing {
    fn accept_multishot(&mut self, _: Token, _: Fd) {
        unreachable!("an appender has no sockets")
    }
    fn recv_multishot(&mut self, _: Token, _: Fd, _: GroupId, _: u32) {
        unreachable!("an appender has no sockets")
    }
    fn recvmsg_multishot(&mut self, _: Token, _: Fd, _: GroupId, _: u32) {
        unreachable!("an appender has no sockets")
    }
    fn provide(&mut self, _: LentBuffer) {
        unreachable!("an appender has no sockets")
    }
    fn cancel(&mut self, _: Token, _: Token) {
        unreachable!("an appender cancels nothing")
    }

    fn write(&mut self, token: Token, file: Fd, buffer: StagingBuffer, bytes: Range<usize>, offset: u64, sync: WriteSync) {
        assert_eq!(file, self.file.fd());
        assert!(!self.pending.iter().any(|(_, op)| matches!(op, Pending::Write { .. })), "A1: one write in flight");
        let blocks = [bytes.start, bytes.len(), offset as usize];
        assert!(blocks.iter().all(|at| at.is_multiple_of(BLOCK_BYTES)), "A1: whole blocks: {blocks:?}");
        self.writes.push((offset, bytes.len(), sync));
        self.buffers.push((token, buffer));
        self.pending.push_back((token, Pending::Write { bytes, offset }));
    }

    fn reclaim(&mut self, token: Token) -> StagingBuffer {
        let at = self.buffers.iter().position(|(of, _)| *of == token).expect("R3: a write of this token");
        assert!(!self.pending.iter().any(|(of, _)| *of == token), "R3: not before the completion");
        self.buffers.swap_remove(at).1
    }

    fn sync(&mut self, token: Token, _: Fd) {
        self.syncs += 1;
        self.pending.push_back((token, Pending::Sync));
    }

    fn allocate(&mut self, token: Token, _: Fd, bytes: Range<u64>) {
        self.pending.push_back((token, Pending::Allocate(bytes)));
    }

    fn shutdown(&mut self, _: Fd) {}
    fn close(&mut self, _: Token, _: Fd) {}
    fn socket_drops(&mut self, _: Fd) -> Option<u32> {
        None
    }
}

impl TestRing {
    fn new(file: MemFile) -> Self {
        Self {
            file,
            now: Nanos::from_millis(1),
            pending: VecDeque::new(),
            buffers: Vec::new(),
            write_fates: VecDeque::new(),
            sync_fates: VecDeque::new(),
            allocate_errno: None,
            writes: Vec::new(),
            syncs: 0,
        }
    }

    pub fn pending_writes(&self) -> usize {
        self.pending.iter().filter(|(_, op)| matches!(op, Pending::Write { .. })).count()
    }

    pub fn pending_syncs(&self) -> usize {
        self.pending.iter().filter(|(_, op)| matches!(op, Pending::Sync)).count()
    }

    fn complete_oldest(&mut self) -> Option<Completion> {
        let (token, op) = self.pending.pop_front()?;
        let result = match op {
            Pending::Write { bytes, offset } => match self.write_fates.pop_front().unwrap_or(WriteFate::Whole) {
                WriteFate::Refused(errno) => Err(Errno(errno)),
                fate => {
                    let len = if let WriteFate::Short(len) = fate { len.min(bytes.len()) } else { bytes.len() };
                    let (_, buffer) = self.buffers.iter().find(|(of, _)| *of == token).expect("the ring keeps it");
                    let new = buffer[bytes.start..bytes.start + len].to_vec();
                    self.file.write_at(&new, offset).expect("memory takes everything");
                    Ok(len as u32)
                }
            },
            Pending::Sync => self.sync_fates.pop_front().map_or(Ok(0), |errno| Err(Errno(errno))),
            Pending::Allocate(range) => match self.allocate_errno {
                Some(errno) => Err(Errno(errno)),
                None => {
                    let len = self.file.len().expect("memory").max(range.end);
                    self.file.set_len(len).expect("memory");
                    Ok(0)
                }
            },
        };
        Some(Completion { token, result, more: false, buffer: None })
    }
}

/// A pool, an appender and everything around it.
pub(super) struct Bench {
    pub owner: PoolOwner,
    pub producers: Vec<LaneProducer>,
    pub progress: Vec<InletProgress>,
    pub appender: Appender,
    pub ring: TestRing,
    pub log: OpenLog<MemFile>,
    pub ledger: Arc<LedgerCells>,
    pub gate: Arc<NodeGate>,
    pub counters: Arc<AppenderCounters>,
    pub next_id: u64,
}

pub(super) fn identity() -> LogIdentity {
    LogIdentity { node: 0, log_id: 0x5eed, wall: WallNanos(1_700_000_000_000_000_000) }
}

/// Small buffers, no allocation ahead, everything else as usual.
pub(super) fn small() -> AppenderOptions {
    AppenderOptions { staging_bytes: 16 << 10, allocate_bytes: 0, ..AppenderOptions::default() }
}

pub(super) fn small_pool(slots: u32) -> (Arc<SharedPool>, PoolOwner) {
    let strides = ClassStrides::new(4096, 4096);
    let layout = OwnerLayout::with_standard_quotas([slots, 8, 8, 0, 0]);
    let arena = Arena::map(SharedPool::arena_bytes(&strides, std::slice::from_ref(&layout))).expect("memory");
    let (shared, mut owners) = SharedPool::divide(arena, strides, &[layout]);
    (shared, owners.pop().expect("one owner"))
}

pub(super) fn header(id: u64, tier: Tier, topic: &str, body: &[u8]) -> EventHeader {
    let priority = match tier {
        Tier::Realtime => Priority::High,
        Tier::Transactional => Priority::Medium,
        Tier::Batch => Priority::Low,
    };
    EventHeader {
        id,
        received_at: Nanos(id),
        received_wall: WallNanos(1_600_000_000_000_000_000 + id),
        connection: 1,
        body_len: body.len() as u32,
        topic_len: topic.len() as u16,
        priority,
        tier,
        source: Source::Tcp,
        attempts: 0,
        reserved: [0; 10],
        key: None,
    }
}

impl Bench {
    pub fn new(options: AppenderOptions, file: MemFile) -> Self {
        let (pool, owner) = small_pool(4096);
        let log = OpenLog::open(file.clone(), identity()).expect("a good file");
        let (mut producers, mut progress) = (Vec::new(), Vec::new());
        let inlets = Tier::ALL.map(|_| {
            let (producer, consumer) = lane(1024);
            let (inlet, written) = Inlet::new(consumer);
            producers.push(producer);
            progress.push(written);
            vec![inlet]
        });
        let (ledger, gate, counters) = <(Arc<LedgerCells>, Arc<NodeGate>, Arc<AppenderCounters>)>::default();
        let parts = AppenderParts {
            position: log.position().expect("memory"),
            status: log.status().clone(),
            inlets,
            pool,
            ledger: ledger.clone(),
            gate: gate.clone(),
            counters: counters.clone(),
        };
        let appender = Appender::new(options, parts).expect("memory");
        Self { owner, producers, progress, appender, ring: TestRing::new(file), log, ledger, gate, counters, next_id: 1 }
    }

    /// Pushes an event with a body of its own.
    pub fn push(&mut self, tier: Tier) -> u64 {
        let id = self.next_id;
        self.push_body(tier, format!("body of {id}").as_bytes())
    }

    pub fn push_body(&mut self, tier: Tier, body: &[u8]) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let topic = format!("t/{}", tier.name());
        let event = self.owner.store(header(id, tier, &topic, body), &[topic.as_bytes(), body].concat()).expect("a slot");
        self.producers[tier.index()].push(event).expect("room in the lane");
        self.producers[tier.index()].publish();
        id
    }

    pub fn push_many(&mut self, tier: Tier, count: usize) {
        (0..count).for_each(|_| {
            self.push(tier);
        });
    }

    pub fn poll(&mut self) -> Work {
        let (now, wall) = (self.ring.now(), self.ring.wall());
        self.appender.poll(&mut Context { now, wall, ring: &mut self.ring, seat: 3 })
    }

    pub fn start(&mut self) {
        let (now, wall) = (self.ring.now(), self.ring.wall());
        self.appender.start(&mut Context { now, wall, ring: &mut self.ring, seat: 3 });
    }

    pub fn drain(&mut self) {
        let (now, wall) = (self.ring.now(), self.ring.wall());
        self.appender.drain(&mut Context { now, wall, ring: &mut self.ring, seat: 3 });
    }

    /// Completes the oldest operation. False: there is none.
    pub fn complete(&mut self) -> bool {
        let Some(completion) = self.ring.complete_oldest() else { return false };
        assert_eq!(completion.token.seat(), 3);
        let (now, wall) = (self.ring.now(), self.ring.wall());
        self.appender.complete(completion, &mut Context { now, wall, ring: &mut self.ring, seat: 3 });
        true
    }

    pub fn advance(&mut self, by: Nanos) {
        self.ring.now = self.ring.now + by;
    }

    /// Polls, completes and lets time pass until the appender is drained.
    pub fn run_to_the_end(&mut self) {
        self.drain();
        for _ in 0..10_000 {
            self.poll();
            while self.complete() {}
            if Agent::<TestRing>::is_drained(&self.appender) {
                return;
            }
            self.advance(Nanos::from_micros(200));
        }
        panic!("the appender does not come to rest: {:?}", Agent::<TestRing>::holding(&self.appender));
    }

    pub fn ledger(&self) -> Ledger {
        Ledger::read(std::iter::once(&*self.ledger))
    }

    /// Slots that are not home.
    pub fn slots_out(&mut self) -> u64 {
        self.owner.collect();
        self.owner.events_out()
    }
}

/// A closed log of a few batches, each of `per_batch` events.
pub(crate) fn a_log(batches: usize, per_batch: usize) -> Vec<u8> {
    let mut bench = Bench::new(small(), MemFile::default());
    for batch in 0..batches {
        bench.push_many(Tier::ALL[batch % 3], per_batch);
        bench.poll();
        bench.advance(Nanos::from_millis(5));
        bench.poll();
        while bench.complete() {}
        bench.poll();
        while bench.complete() {}
    }
    bench.run_to_the_end();
    assert!(bench.log.finish(WallNanos(1)).expect("memory"));
    bench.ring.file.content()
}
