//! For tests of this folder: a ring that writes to a simulated disk when told to, with planned faults, and a pool with an appender.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::appender::{Appender, AppenderCounters, AppenderOptions, AppenderParts, Inlet};
use super::format::BLOCK_BYTES;
use super::keeper::SegmentOptions;
use super::log_file::LogFile;
use super::open::{LogIdentity, OpenLog};
use super::recovery::{RecoveryReport, recover};
use super::segments::{LogFault, SegmentFault};
use super::status::InletProgress;
use crate::agent::{Agent, Context, Work};
use crate::bus::lane::{LaneProducer, lane};
use crate::control::NodeGate;
use crate::metrics::ledger::{Ledger, LedgerCells};
use crate::pool::{
    ClassStrides, EventFlags, EventHeader, LentBuffer, OwnerLayout, PoolOwner, ProducerId, ProducerStamp, SharedPool, Source,
};
use crate::sim::disk::{SimDisk, SimFile};
use crate::sys::clock::{Clock, Nanos, WallNanos};
use crate::sys::io::{Completion, Errno, Fd, GroupId, MessageRoom, Ring, Token, WriteSync};
use crate::sys::memory::{Arena, StagingBuffer};
use crate::wire::{Priority, Tier};

/// A disk with this as the active segment of node 0.
pub(crate) fn disk_of(active: &[u8]) -> SimDisk {
    let disk = SimDisk::new();
    disk.put("events.bin", active);
    disk
}

/// The same, and refuses every change, to show that nothing needs one.
pub(super) fn frozen(active: &[u8]) -> SimDisk {
    let disk = disk_of(active);
    disk.stop_after(0);
    disk
}

/// The bytes of the active segment.
pub(super) fn active(disk: &SimDisk) -> Vec<u8> {
    disk.content().remove("events.bin").unwrap_or_default()
}

pub(super) fn recover_disk(disk: &SimDisk) -> Result<RecoveryReport, LogFault> {
    recover(disk, &identity()).map_err(|SegmentFault { fault, .. }| fault)
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
    Write { file: Fd, bytes: Range<usize>, offset: u64, sync: WriteSync },
    Sync(Fd),
    Allocate(Fd, Range<u64>),
    GiveBack(Fd, Range<u64>),
}

/// A ring over a disk: operations wait until the test completes them.
#[derive(Debug)]
pub(super) struct TestRing {
    pub disk: SimDisk,
    pub now: Nanos,
    pending: VecDeque<(Token, Pending)>,
    buffers: Vec<(Token, StagingBuffer)>,
    pub write_fates: VecDeque<WriteFate>,
    pub sync_fates: VecDeque<i32>,
    pub allocate_errno: Option<i32>,
    /// The ranges whose blocks were given back.
    pub given_back: Vec<Range<u64>>,
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
    fn recvmsg_multishot(&mut self, _: Token, _: Fd, _: GroupId, _: MessageRoom) {
        unreachable!("an appender has no sockets")
    }
    fn provide(&mut self, _: LentBuffer) {
        unreachable!("an appender has no sockets")
    }
    fn cancel(&mut self, _: Token, _: Token) {
        unreachable!("an appender cancels nothing")
    }

    fn write(&mut self, token: Token, file: Fd, buffer: StagingBuffer, bytes: Range<usize>, offset: u64, sync: WriteSync) {
        assert!(!self.pending.iter().any(|(_, op)| matches!(op, Pending::Write { .. })), "A1: one write in flight");
        let blocks = [bytes.start, bytes.len(), offset as usize];
        assert!(blocks.iter().all(|at| at.is_multiple_of(BLOCK_BYTES)), "A1: whole blocks: {blocks:?}");
        self.writes.push((offset, bytes.len(), sync));
        self.buffers.push((token, buffer));
        self.pending.push_back((token, Pending::Write { file, bytes, offset, sync }));
    }

    fn reclaim(&mut self, token: Token) -> StagingBuffer {
        let at = self.buffers.iter().position(|(of, _)| *of == token).expect("R3: a write of this token");
        assert!(!self.pending.iter().any(|(of, _)| *of == token), "R3: not before the completion");
        self.buffers.swap_remove(at).1
    }

    fn sync(&mut self, token: Token, file: Fd) {
        self.syncs += 1;
        self.pending.push_back((token, Pending::Sync(file)));
    }

    fn allocate(&mut self, token: Token, file: Fd, bytes: Range<u64>) {
        self.pending.push_back((token, Pending::Allocate(file, bytes)));
    }

    fn give_back(&mut self, token: Token, file: Fd, bytes: Range<u64>) {
        self.pending.push_back((token, Pending::GiveBack(file, bytes)));
    }

    fn send(&mut self, _: Token, _: Fd, _: StagingBuffer, _: Range<usize>) {
        unreachable!("a store sends nothing");
    }
    fn end_sending(&mut self, _: Fd) {}
    fn shutdown(&mut self, _: Fd) {}
    fn close(&mut self, _: Token, _: Fd) {}
    fn socket_drops(&mut self, _: Fd) -> Option<u32> {
        None
    }
}

impl TestRing {
    fn new(disk: SimDisk) -> Self {
        Self {
            disk,
            now: Nanos::from_millis(1),
            pending: VecDeque::new(),
            buffers: Vec::new(),
            write_fates: VecDeque::new(),
            sync_fates: VecDeque::new(),
            allocate_errno: None,
            given_back: Vec::new(),
            writes: Vec::new(),
            syncs: 0,
        }
    }

    pub fn pending_writes(&self) -> usize {
        self.pending.iter().filter(|(_, op)| matches!(op, Pending::Write { .. })).count()
    }

    pub fn pending_syncs(&self) -> usize {
        self.pending.iter().filter(|(_, op)| matches!(op, Pending::Sync(_))).count()
    }

    fn file(&self, fd: Fd) -> SimFile {
        self.disk.file(fd).expect("an appender has files only")
    }

    /// What was submitted first completes last.
    pub fn delay_oldest(&mut self) {
        self.pending.rotate_left(1);
    }

    fn complete_oldest(&mut self) -> Option<Completion> {
        let (token, op) = self.pending.pop_front()?;
        let result = match op {
            Pending::Write { file, bytes, offset, sync } => match self.write_fates.pop_front().unwrap_or(WriteFate::Whole) {
                WriteFate::Refused(errno) => Err(Errno(errno)),
                fate => {
                    let len = if let WriteFate::Short(len) = fate { len.min(bytes.len()) } else { bytes.len() };
                    let (_, buffer) = self.buffers.iter().find(|(of, _)| *of == token).expect("the ring keeps it");
                    let new = buffer[bytes.start..bytes.start + len].to_vec();
                    let file = self.file(file);
                    let written = file.write_at(&new, offset);
                    said(if sync == WriteSync::DataSync { written.and_then(|()| file.sync()) } else { written })
                        .map(|()| len as u32)
                }
            },
            Pending::Sync(file) => match self.sync_fates.pop_front() {
                Some(errno) => Err(Errno(errno)),
                None => said(self.file(file).sync()).map(|()| 0),
            },
            Pending::Allocate(file, range) => match self.allocate_errno {
                Some(errno) => Err(Errno(errno)),
                None => said(self.file(file).allocate(range.end)).map(|()| 0),
            },
            Pending::GiveBack(file, range) => {
                self.file(file).give_back(&range);
                self.given_back.push(range);
                Ok(0)
            }
        };
        Some(Completion { token, result, more: false, buffer: None })
    }
}

/// As the ring says it.
fn said(result: std::io::Result<()>) -> Result<(), Errno> {
    let errno = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull => libc::ENOSPC,
        _ => error.raw_os_error().unwrap_or(libc::EIO),
    };
    result.map_err(|error| Errno(errno(error)))
}

/// A pool, an appender and everything around it.
pub(super) struct Bench {
    pub owner: PoolOwner,
    pub producers: Vec<LaneProducer>,
    pub progress: Vec<InletProgress>,
    pub appender: Appender,
    pub ring: TestRing,
    pub log: OpenLog<SimDisk>,
    pub ledger: Arc<LedgerCells>,
    pub gate: Arc<NodeGate>,
    pub counters: Arc<AppenderCounters>,
    pub next_id: u64,
}

pub(super) fn identity() -> LogIdentity {
    LogIdentity { node: 0, log_id: 0x5eed, wall: WallNanos(1_700_000_000_000_000_000) }
}

/// Small buffers, no allocation ahead, no bulk writes, everything else as usual.
pub(super) fn small() -> AppenderOptions {
    let usual = AppenderOptions::default();
    AppenderOptions { staging_bytes: 16 << 10, flush_events: 100, bulk_bytes: usize::MAX / 4, allocate_bytes: 0, ..usual }
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
        flags: EventFlags::NONE,
        reserved: 0,
        producer_sequence: 0,
        key: None,
    }
}

impl Bench {
    pub fn new(options: AppenderOptions, disk: SimDisk) -> Self {
        Self::with_segments(options, disk, SegmentOptions::default())
    }

    pub fn with_segments(options: AppenderOptions, disk: SimDisk, segments: SegmentOptions) -> Self {
        let (pool, owner) = small_pool(4096);
        let log = OpenLog::open(disk.clone(), identity(), segments).expect("a good log");
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
            position: log.position(),
            status: log.status().clone(),
            inlets,
            pool,
            ledger: ledger.clone(),
            gate: gate.clone(),
            counters: counters.clone(),
        };
        let appender = Appender::new(options, parts).expect("memory");
        Self { owner, producers, progress, appender, ring: TestRing::new(disk), log, ledger, gate, counters, next_id: 1 }
    }

    /// Pushes an event with a body of its own.
    pub fn push(&mut self, tier: Tier) -> u64 {
        let id = self.next_id;
        self.push_body(tier, format!("body of {id}").as_bytes())
    }

    pub fn push_body(&mut self, tier: Tier, body: &[u8]) -> u64 {
        self.push_topic(tier, &format!("t/{}", tier.name()), body)
    }

    pub fn push_topic(&mut self, tier: Tier, topic: &str, body: &[u8]) -> u64 {
        self.push_event(header(self.next_id, tier, topic, body), topic, body)
    }

    /// Pushes an event of a session.
    pub fn push_of(&mut self, tier: Tier, producer: u8, sequence: u64) -> u64 {
        let stamp = ProducerStamp { producer: ProducerId::from_bytes([producer; 16]).expect("not zero"), sequence };
        let (topic, body) = ("t/session", format!("{producer}/{sequence}"));
        self.push_event(header(self.next_id, tier, topic, body.as_bytes()).of_producer(stamp), topic, body.as_bytes())
    }

    fn push_event(&mut self, header: EventHeader, topic: &str, body: &[u8]) -> u64 {
        self.next_id = header.id + 1;
        let tier = header.tier.index();
        self.owner.collect();
        while self.owner.ended().is_some() {
            self.owner.free_ended();
        }
        let event = self.owner.store(header, &[topic.as_bytes(), body].concat()).expect("a slot");
        self.producers[tier].push(event).expect("room in the lane");
        self.producers[tier].publish();
        header.id
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

    /// Lets the keeper do what it can. False: nothing.
    pub fn keep(&mut self) -> bool {
        let (now, wall) = (self.ring.now(), self.ring.wall());
        self.log.keeper().expect("it has no thread").work(now, wall)
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
            while self.keep() {}
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
    let mut bench = Bench::new(small(), SimDisk::new());
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
    active(&bench.ring.disk)
}
