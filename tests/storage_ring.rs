//! The appender over the real ring and a real file system: every durability, direct and through the page cache, registered and not.

use std::path::Path;
use std::sync::Arc;

use eventstream::agent::{Agent, Context};
use eventstream::bus::lane::{LaneProducer, lane};
use eventstream::control::NodeGate;
use eventstream::metrics::ledger::LedgerCells;
use eventstream::pool::{ClassStrides, EventFlags, EventHeader, OwnerLayout, PoolOwner, SharedPool, Source};
use eventstream::storage::node_reader::{NodeReader, verify};
use eventstream::storage::{
    Appender, AppenderCounters, AppenderOptions, AppenderParts, DataFolder, DiskFolder, Durability, Inlet, InletProgress,
    LogIdentity, OpenLog, SegmentOptions,
};
use eventstream::sys::clock::{Clock, HostClock, Nanos};
use eventstream::sys::features::{Feature, Features};
use eventstream::sys::memory::Arena;
use eventstream::sys::uring::{Uring, UringOptions, Wait};
use eventstream::wire::{Priority, Tier};

const SEAT: u8 = 5;

/// Far more than any disk lets through while a segment is prepared.
const EVENTS_MAX: u64 = 20_000_000;

struct Node {
    owner: PoolOwner,
    producer: LaneProducer,
    progress: InletProgress,
    appender: Appender,
    ring: Uring,
    log: OpenLog<DiskFolder>,
    is_direct: bool,
    file_system: String,
    ledger: Arc<LedgerCells>,
    pushed: u64,
}

impl Node {
    fn open(folder: &DataFolder, options: AppenderOptions, segments: SegmentOptions, features: &Features) -> Self {
        let strides = ClassStrides::new(64 << 10, 4096);
        let layout = OwnerLayout::with_standard_quotas([4096, 64, 4, 0, 0]);
        let arena = Arena::map(SharedPool::arena_bytes(&strides, std::slice::from_ref(&layout))).unwrap();
        let (pool, mut owners) = SharedPool::divide(arena, strides, &[layout]);
        let mut log = folder.open_log(LogIdentity::random(0, HostClock.wall()), segments).unwrap();
        let file = log.keeper().unwrap().active();
        let (is_direct, file_system) = (file.is_direct(), file.file_system());
        log.start_keeper(|| {}).unwrap();
        let (producer, consumer) = lane(4096);
        let (inlet, progress) = Inlet::new(consumer);
        let ledger = Arc::new(LedgerCells::default());
        let parts = AppenderParts {
            position: log.position(),
            status: log.status().clone(),
            inlets: [vec![], vec![inlet], vec![]],
            pool,
            ledger: ledger.clone(),
            gate: Arc::new(NodeGate::default()),
            counters: Arc::new(AppenderCounters::default()),
        };
        let mut appender = Appender::new(options, parts).unwrap();
        let mut ring = Uring::new(&UringOptions::default(), features).unwrap();
        // Refused where locked memory is scarce: the writes are the same.
        let _ = ring.register_staging(&mut appender.staging_buffers().collect::<Vec<_>>());
        ring.enable().unwrap();
        let owner = owners.pop().unwrap();
        let mut node = Self { owner, producer, progress, appender, ring, log, is_direct, file_system, ledger, pushed: 0 };
        node.with_context(|appender, ctx| appender.start(ctx));
        node
    }

    fn with_context<T>(&mut self, call: impl FnOnce(&mut Appender, &mut Context<'_, Uring>) -> T) -> T {
        let (now, wall) = (self.ring.now(), self.ring.wall());
        call(&mut self.appender, &mut Context { now, wall, ring: &mut self.ring, seat: SEAT })
    }

    fn turn(&mut self) {
        let work = self.with_context(|appender, ctx| appender.poll(ctx));
        let wait = if work.done > 0 { Wait::Poll } else { Wait::Until(Some(self.ring.now() + Nanos::from_micros(300))) };
        let mut completions = Vec::with_capacity(64);
        self.ring.turn(wait, &mut completions).unwrap();
        for completion in completions {
            self.with_context(|appender, ctx| appender.complete(completion, ctx));
        }
    }

    fn push(&mut self, events: u64) {
        for _ in 0..events {
            let id = (u64::from(self.log.epoch()) << 32) + self.pushed;
            let body = format!("{id}:{}", "x".repeat((id % 300) as usize));
            let header = EventHeader {
                id,
                received_at: self.ring.now(),
                received_wall: self.ring.wall(),
                connection: 1,
                body_len: body.len() as u32,
                topic_len: 4,
                priority: Priority::Medium,
                tier: Tier::Transactional,
                source: Source::Tcp,
                attempts: 0,
                flags: EventFlags::NONE,
                reserved: 0,
                producer_sequence: 0,
                key: None,
            };
            let payload = [b"a/b/", body.as_bytes()].concat();
            while self.producer.free() == 0 {
                self.turn();
            }
            let event = loop {
                match self.owner.store(header, &payload) {
                    Some(event) => break event,
                    None => self.turn(),
                }
            };
            self.producer.push(event).unwrap();
            self.producer.publish();
            self.pushed += 1;
        }
    }

    fn drain(&mut self) {
        self.with_context(|appender, ctx| appender.drain(ctx));
        while !Agent::<Uring>::is_drained(&self.appender) {
            self.turn();
        }
    }
}

fn options(durability: Durability) -> AppenderOptions {
    AppenderOptions { durability, staging_bytes: 256 << 10, allocate_bytes: 1 << 20, ..AppenderOptions::default() }
}

/// Bodies say what they should be: their id, and as many bytes as follow from it.
fn check_records(path: &Path) -> u64 {
    let mut reader = NodeReader::open(DiskFolder::to_read(path), 0).unwrap();
    let mut count = 0;
    while let Some(record) = reader.next().unwrap() {
        assert_eq!(record.sequence, count);
        assert_eq!(record.body, format!("{}:{}", record.id, "x".repeat((record.id % 300) as usize)).as_bytes());
        count += 1;
    }
    count
}

#[test]
fn every_way_of_writing_stores_every_event() {
    store_every_event(SegmentOptions::default(), 0);
}

#[test]
fn every_way_of_writing_stores_every_event_over_many_segments() {
    store_every_event(SegmentOptions { segment_bytes: 64 << 10, ..SegmentOptions::default() }, 3);
}

/// Stores 20,000 events, and more until so many segments have been begun: how soon the next one is ready is the disk's to say.
fn store_every_event(segments: SegmentOptions, rolls: u32) {
    let (features, _) = Features::probe(&[]).unwrap();
    let (unregistered, _) = Features::probe(&[Feature::FixedBuffers]).unwrap();
    for durability in [Durability::None, Durability::Group, Durability::Always] {
        for (direct, features) in [(true, &features), (true, &unregistered), (false, &features)] {
            let place = tempfile::tempdir().unwrap();
            let folder = DataFolder::open(place.path(), 1).unwrap();
            let mut node = Node::open(&folder, options(durability), SegmentOptions { direct, ..segments }, features);
            // ext4 is known to take direct writes; elsewhere the page cache is as good an answer.
            assert!(node.is_direct == direct || node.file_system != "ext4");
            node.push(20_000);
            for _ in 0..rolls {
                let before = node.log.status().segment();
                while node.log.status().segment() == before {
                    assert!(node.pushed < EVENTS_MAX, "the next segment is never ready");
                    node.push(1000);
                }
            }
            node.drain();
            let pushed = node.pushed;
            assert_eq!(node.progress.get(), pushed);
            assert_eq!(node.ledger.cell(Source::Tcp, Tier::Transactional).stored.get(), pushed);
            node.owner.collect();
            assert_eq!(node.owner.events_out(), 0);
            assert!(node.log.finish(HostClock.wall()).unwrap());
            let report = verify(DiskFolder::to_read(place.path()), 0).unwrap();
            assert_eq!((report.records, report.closed, report.torn), (pushed, true, None), "{durability:?} direct {direct}");
            assert_eq!(report.file_bytes, report.valid_bytes);
            assert!(report.segments > u64::from(rolls), "{} segments", report.segments);
            assert_eq!(check_records(place.path()), pushed);
        }
    }
}

#[test]
fn what_was_written_is_there_after_an_end_without_ceremony() {
    let (features, _) = Features::probe(&[]).unwrap();
    let place = tempfile::tempdir().unwrap();
    let mut expected = 0;
    for epoch in 1..=4 {
        let folder = DataFolder::open(place.path(), 1).unwrap();
        let mut node = Node::open(&folder, options(Durability::Group), SegmentOptions::default(), &features);
        assert_eq!((node.log.epoch(), node.log.report().records, node.log.report().cut_bytes), (epoch, expected, 0));
        node.push(1000 + u64::from(epoch));
        node.drain();
        expected = node.log.status().written_sequence();
        // No finish: preallocated zeros stay behind the last batch.
    }
    assert_eq!(check_records(place.path()), expected);
    let report = verify(DiskFolder::to_read(place.path()), 0).unwrap();
    assert!(report.file_bytes > report.valid_bytes && report.is_whole() && !report.closed);
}
