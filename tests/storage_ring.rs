//! The appender over the real ring and a real file system: every durability, direct and through the page cache, registered and not.

use std::path::Path;
use std::sync::Arc;

use eventstream::agent::{Agent, Context};
use eventstream::bus::lane::{LaneProducer, lane};
use eventstream::control::NodeGate;
use eventstream::metrics::ledger::LedgerCells;
use eventstream::pool::{ClassStrides, EventHeader, OwnerLayout, PoolOwner, SharedPool, Source};
use eventstream::storage::reader::{LogReader, verify};
use eventstream::storage::{
    Appender, AppenderCounters, AppenderOptions, AppenderParts, DataFolder, DiskFile, Durability, Inlet, InletProgress,
    LogIdentity, OpenLog,
};
use eventstream::sys::clock::{Clock, HostClock, Nanos};
use eventstream::sys::features::{Feature, Features};
use eventstream::sys::memory::Arena;
use eventstream::sys::uring::{Uring, UringOptions, Wait};
use eventstream::wire::{Priority, Tier};

const SEAT: u8 = 5;

struct Node {
    owner: PoolOwner,
    producer: LaneProducer,
    progress: InletProgress,
    appender: Appender,
    ring: Uring,
    log: OpenLog<DiskFile>,
    ledger: Arc<LedgerCells>,
    pushed: u64,
}

impl Node {
    fn open(folder: &DataFolder, options: AppenderOptions, direct: bool, features: &Features) -> Self {
        let strides = ClassStrides::new(64 << 10, 4096);
        let layout = OwnerLayout::with_standard_quotas([4096, 64, 4, 0, 0]);
        let arena = Arena::map(SharedPool::arena_bytes(&strides, std::slice::from_ref(&layout))).unwrap();
        let (pool, mut owners) = SharedPool::divide(arena, strides, &[layout]);
        let log = folder.open_log(LogIdentity::random(0, HostClock.wall()), direct).unwrap();
        let (producer, consumer) = lane(4096);
        let (inlet, progress) = Inlet::new(consumer);
        let ledger = Arc::new(LedgerCells::default());
        let parts = AppenderParts {
            position: log.position().unwrap(),
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
        let mut node = Self { owner: owners.pop().unwrap(), producer, progress, appender, ring, log, ledger, pushed: 0 };
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
                reserved: [0; 10],
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
    let file = DiskFile::open_to_read(path).unwrap();
    let mut reader = LogReader::open(&file).unwrap();
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
    let (features, _) = Features::probe(&[]).unwrap();
    let (unregistered, _) = Features::probe(&[Feature::FixedBuffers]).unwrap();
    for durability in [Durability::None, Durability::Group, Durability::Always] {
        for (direct, features) in [(true, &features), (true, &unregistered), (false, &features)] {
            let place = tempfile::tempdir().unwrap();
            let folder = DataFolder::open(place.path(), 1).unwrap();
            let mut node = Node::open(&folder, options(durability), direct, features);
            // ext4 is known to take direct writes; elsewhere the page cache is as good an answer.
            assert!(node.log.file().is_direct() == direct || node.log.file().file_system() != "ext4");
            node.push(20_000);
            node.drain();
            assert_eq!(node.progress.get(), 20_000);
            assert_eq!(node.ledger.cell(Source::Tcp, Tier::Transactional).stored.get(), 20_000);
            node.owner.collect();
            assert_eq!(node.owner.events_out(), 0);
            assert!(node.log.finish(HostClock.wall()).unwrap());
            let report = verify(node.log.file()).unwrap();
            assert_eq!((report.records, report.closed, report.torn), (20_000, true, None), "{durability:?} direct {direct}");
            assert_eq!(report.file_bytes, report.valid_bytes);
            assert_eq!(check_records(&place.path().join("events.bin")), 20_000);
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
        let mut node = Node::open(&folder, options(Durability::Group), true, &features);
        assert_eq!((node.log.epoch(), node.log.report().records, node.log.report().cut_bytes), (epoch, expected, 0));
        node.push(1000 + u64::from(epoch));
        node.drain();
        expected = node.log.status().written_sequence();
        // No finish: preallocated zeros stay behind the last batch.
    }
    let path = place.path().join("events.bin");
    assert_eq!(check_records(&path), expected);
    let report = verify(&DiskFile::open_to_read(&path).unwrap()).unwrap();
    assert!(report.file_bytes > report.valid_bytes && report.is_whole() && !report.closed);
}
