use crate::agent::Agent;
use crate::metrics::ledger::DropReason;
use crate::sim::disk::SimDisk;
use crate::storage::appender::{AppenderOptions, Durability};
use crate::storage::format::{BLOCK_BYTES, FIRST_BATCH_OFFSET};
use crate::storage::node_reader::{NodeReader, verify};
use crate::storage::reader::OwnedRecord;
use crate::storage::status::{StoreOperation, StoreState};
use crate::storage::sync_method::SyncMethod;
use crate::storage::testing::{Bench, TestRing, WriteFate, active, small};
use crate::sys::clock::{Nanos, WallNanos};
use crate::sys::io::{Errno, WriteSync};
use crate::wire::Tier;

fn records(bench: &Bench) -> Vec<OwnedRecord> {
    NodeReader::open(bench.ring.disk.clone(), 0).unwrap().into_records().map(|record| record.unwrap()).collect()
}

fn ids(bench: &Bench) -> Vec<u64> {
    records(bench).iter().map(|record| record.id).collect()
}

fn with(durability: Durability) -> AppenderOptions {
    AppenderOptions { durability, ..small() }
}

#[test]
fn what_is_pushed_is_in_the_log_with_every_field() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_body(Tier::Transactional, b"\x00\xffbinary");
    bench.run_to_the_end();
    let record = &records(&bench)[0];
    assert_eq!((record.sequence, record.id, record.node), (0, 1, 0));
    assert_eq!((record.topic.as_str(), record.body.as_slice()), ("t/transactional", &b"\x00\xffbinary"[..]));
    assert_eq!(record.received_at, WallNanos(1_600_000_000_000_000_001));
    assert_eq!(record.tier, Tier::Transactional);
}

#[test]
fn a_slot_goes_home_as_soon_as_its_bytes_are_staged() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_many(Tier::Batch, 10);
    assert_eq!(bench.slots_out(), 10);
    bench.poll();
    assert_eq!(bench.slots_out(), 0);
    let holding = Agent::<TestRing>::holding(&bench.appender);
    assert_eq!((holding.events, holding.staged), (0, 10));
    assert_eq!(bench.ledger().total().stored, 0, "nothing is written yet");
}

#[test]
fn a_write_waits_for_enough_events_or_the_interval() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_many(Tier::Batch, 99);
    let work = bench.poll();
    assert_eq!(bench.ring.pending_writes(), 0);
    assert_eq!(work.next_deadline, Some(bench.ring.now + Nanos::from_micros(500)));
    bench.push(Tier::Batch);
    bench.poll();
    assert_eq!(bench.ring.pending_writes(), 1, "100 events are enough");
    bench.complete();
    bench.push(Tier::Batch);
    bench.poll();
    assert_eq!(bench.ring.pending_writes(), 0);
    bench.advance(Nanos::from_micros(500));
    bench.poll();
    assert_eq!(bench.ring.pending_writes(), 1, "500 us are enough");
}

/// Bulk writes from 1,000 bytes on.
fn bulk() -> AppenderOptions {
    AppenderOptions { bulk_bytes: 1_000, flush_events: 1_000_000, ..small() }
}

/// More than 1,000 bytes of records, less than 4,000.
const BULK_EVENTS: usize = 40;

#[test]
fn a_bulk_write_waits_for_four_intervals_or_four_times_as_much() {
    let mut bench = Bench::new(bulk(), SimDisk::new());
    bench.push_many(Tier::Batch, BULK_EVENTS);
    let work = bench.poll();
    assert_eq!(work.next_deadline, Some(bench.ring.now + Nanos::from_micros(2000)));
    bench.advance(Nanos::from_micros(1999));
    bench.poll();
    assert_eq!(bench.ring.pending_writes(), 0);
    bench.advance(Nanos::from_micros(1));
    bench.poll();
    assert_eq!(bench.ring.pending_writes(), 1, "four intervals are enough");
    bench.complete();
    bench.push_many(Tier::Batch, 4 * BULK_EVENTS);
    bench.poll();
    assert_eq!(bench.ring.pending_writes(), 1, "four times 1,000 bytes are enough");
}

#[test]
fn in_a_group_a_bulk_write_is_durable_by_itself() {
    let mut bench = Bench::new(bulk(), SimDisk::new());
    for written in [1, 2] {
        bench.push_many(Tier::Batch, 4 * BULK_EVENTS);
        bench.poll();
        bench.complete();
        assert_eq!(bench.log.status().durable_sequence(), written * 4 * BULK_EVENTS as u64);
    }
    assert!(bench.ring.writes.iter().all(|(_, _, sync)| *sync == WriteSync::DataSync));
    bench.advance(Nanos::from_millis(10));
    let work = bench.poll();
    assert_eq!((bench.ring.pending_syncs(), work.next_deadline), (0, None), "nothing is left to be synced");
}

#[test]
fn a_bulk_write_is_not_durable_before_what_was_written_before_it() {
    let mut bench = Bench::new(bulk(), SimDisk::new());
    let status = bench.log.status().clone();
    bench.push(Tier::Batch);
    bench.poll();
    bench.advance(Nanos::from_micros(500));
    bench.poll();
    bench.complete(); // A small one: 1 event, for a group.
    bench.push_many(Tier::Batch, 4 * BULK_EVENTS);
    bench.poll();
    assert_eq!(bench.ring.writes.last().unwrap().2, WriteSync::None, "no sync of the small one was submitted yet");
    bench.complete();
    bench.advance(Nanos::from_millis(2));
    bench.poll();
    assert_eq!(bench.ring.pending_syncs(), 1);
    // A second bulk write; it completes before the sync that was submitted before it.
    bench.push_many(Tier::Batch, 4 * BULK_EVENTS);
    bench.poll();
    assert_eq!(bench.ring.writes.last().unwrap().2, WriteSync::DataSync);
    bench.ring.delay_oldest();
    bench.complete();
    assert_eq!((status.written_sequence(), status.durable_sequence()), (1 + 8 * BULK_EVENTS as u64, 0));
    bench.complete(); // The sync.
    assert_eq!(status.durable_sequence(), 1 + 4 * BULK_EVENTS as u64);
    bench.advance(Nanos::from_millis(2));
    bench.poll();
    bench.complete(); // The sync of a group that the second one has joined.
    assert_eq!(status.durable_sequence(), 1 + 8 * BULK_EVENTS as u64);
}

#[test]
fn without_a_sync_in_the_write_a_bulk_write_waits_for_its_group() {
    let mut bench = Bench::new(AppenderOptions { sync_method: SyncMethod::Fdatasync, ..bulk() }, SimDisk::new());
    bench.push_many(Tier::Batch, 4 * BULK_EVENTS);
    bench.poll();
    bench.complete();
    assert_eq!((bench.ring.writes[0].2, bench.log.status().durable_sequence()), (WriteSync::None, 0));
    bench.run_to_the_end();
    assert_eq!((bench.ring.syncs, bench.log.status().durable_sequence()), (1, 4 * BULK_EVENTS as u64));
}

#[test]
fn the_count_is_a_trigger_and_no_cap() {
    let mut bench = Bench::new(AppenderOptions { staging_bytes: 1 << 20, ..small() }, SimDisk::new());
    bench.push_many(Tier::Batch, 700);
    bench.poll();
    bench.complete();
    assert_eq!((bench.counters.batches.get(), bench.counters.events.get()), (1, 700));
}

#[test]
fn realtime_is_staged_before_what_came_earlier() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_many(Tier::Batch, 3);
    bench.push_many(Tier::Transactional, 3);
    bench.push_many(Tier::Realtime, 3);
    bench.run_to_the_end();
    assert_eq!(ids(&bench), [7, 8, 9, 4, 5, 6, 1, 2, 3]);
}

#[test]
fn batch_is_not_starved_by_transactional() {
    let mut bench = Bench::new(AppenderOptions { staging_bytes: 1 << 20, poll_events_max: 256, ..small() }, SimDisk::new());
    bench.push_many(Tier::Transactional, 1000);
    bench.push_many(Tier::Batch, 1000);
    bench.poll();
    let (staged_t, staged_b) = (1000 - bench.producers[1].depth(), 1000 - bench.producers[2].depth());
    assert_eq!((staged_t, staged_b), (128, 128));
}

#[test]
fn the_tail_block_is_rewritten_with_its_old_bytes() {
    let mut bench = Bench::new(small(), SimDisk::new());
    let mut before = Vec::new();
    for _ in 0..50 {
        bench.push_many(Tier::Batch, 100);
        bench.poll();
        assert!(bench.complete());
        let now = active(&bench.ring.disk);
        let valid = bench.log.status().written_bytes() as usize;
        assert_eq!(now[..before.len()], before, "what was written stays as it was");
        assert!(now[valid..].iter().all(|byte| *byte == 0), "behind the valid end there are zeros");
        before = now[..valid].to_vec();
    }
    let ends: Vec<u64> = bench.ring.writes.iter().map(|(offset, len, _)| offset + *len as u64).collect();
    assert!(
        bench.ring.writes.windows(2).zip(&ends).all(|(pair, end)| pair[1].0 + BLOCK_BYTES as u64 >= *end && pair[1].0 <= *end)
    );
    bench.run_to_the_end();
    assert_eq!(ids(&bench), (1..=5000).collect::<Vec<u64>>());
}

#[test]
fn full_buffers_stop_the_inlets_until_a_write_completes() {
    let mut bench = Bench::new(small(), SimDisk::new());
    let body = vec![b'x'; 1500];
    for _ in 0..100 {
        // 100 medium events are more than two buffers of 16 KiB hold; the small pool gives eight at a time.
        while bench.owner.has_room(crate::pool::SlotClass::Medium, crate::pool::SlotUse::Realtime)
            && bench.producers[0].free() > 0
        {
            bench.push_body(Tier::Realtime, &body);
        }
        bench.poll();
        bench.slots_out();
    }
    assert_eq!(bench.ring.pending_writes(), 1);
    let held = bench.producers[0].depth() as u64 + Agent::<TestRing>::holding(&bench.appender).events;
    assert!(held > 0, "the inlet waits");
    bench.run_to_the_end();
    assert_eq!(ids(&bench), (1..bench.next_id).collect::<Vec<u64>>());
    assert_eq!(bench.slots_out(), 0);
}

#[test]
fn short_writes_lose_no_byte() {
    let mut bench = Bench::new(AppenderOptions { staging_bytes: 64 << 10, ..small() }, SimDisk::new());
    bench.push_many(Tier::Batch, 900);
    for len in [1, 4095, 4096, 5000, 0, 8192, 12_287] {
        bench.ring.write_fates.push_back(WriteFate::Short(len));
    }
    bench.run_to_the_end();
    assert_eq!(bench.counters.short_writes.get(), 7);
    assert_eq!(ids(&bench), (1..=900).collect::<Vec<u64>>());
    assert_eq!(bench.ledger().total().stored, 900);
}

#[test]
fn a_write_that_lacks_only_padding_is_whole() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push(Tier::Batch);
    bench.advance(Nanos::from_millis(1));
    bench.poll();
    bench.advance(Nanos::from_millis(1));
    bench.poll();
    bench.ring.write_fates.push_back(WriteFate::Short(400));
    bench.complete();
    assert_eq!((bench.counters.batches.get(), bench.counters.short_writes.get()), (1, 0));
}

#[test]
fn no_space_is_waited_out_with_the_gate_closed() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_many(Tier::Batch, 100);
    bench.ring.write_fates.extend([WriteFate::Short(4096), WriteFate::Refused(libc::ENOSPC), WriteFate::Refused(libc::EDQUOT)]);
    bench.poll();
    bench.complete(); // short
    bench.complete(); // no space
    assert!(bench.gate.is_store_unavailable());
    assert_eq!(bench.log.status().state(), StoreState::NoSpace { errno: Errno(libc::ENOSPC) });
    assert_eq!(bench.ledger().total().outcomes(), 0, "nothing of that batch is acked or lost");
    bench.poll();
    assert_eq!(bench.ring.pending_writes(), 0, "not before the wait is over");
    bench.advance(Nanos::from_millis(100));
    bench.poll();
    bench.complete(); // no quota
    let work = bench.poll();
    assert_eq!(work.next_deadline, Some(bench.ring.now + Nanos::from_millis(200)), "the wait doubles");
    bench.run_to_the_end();
    assert!(!bench.gate.is_store_unavailable());
    assert_eq!(bench.log.status().state(), StoreState::Running);
    assert_eq!(ids(&bench), (1..=100).collect::<Vec<u64>>());
    assert!(bench.log.finish(WallNanos(2)).unwrap());
    assert!(verify(bench.ring.disk.clone(), 0).unwrap().closed);
}

#[test]
fn an_interrupted_write_is_tried_again_with_the_gate_open() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_many(Tier::Batch, 100);
    bench.ring.write_fates.extend([WriteFate::Refused(libc::EINTR), WriteFate::Refused(libc::EAGAIN)]);
    bench.run_to_the_end();
    assert!(!bench.gate.is_store_unavailable());
    assert_eq!(ids(&bench).len(), 100);
}

#[test]
fn a_failed_write_ends_the_store_and_the_ledger_balances() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_many(Tier::Batch, 100);
    bench.poll();
    bench.complete();
    bench.push_many(Tier::Batch, 100);
    bench.poll(); // in flight
    bench.push_many(Tier::Realtime, 10);
    bench.poll(); // staged
    bench.push_many(Tier::Transactional, 5); // in the inlet
    bench.ring.write_fates.push_back(WriteFate::Refused(libc::EIO));
    while bench.complete() {}
    bench.poll();
    let state = StoreState::Failed { operation: StoreOperation::Write, errno: Errno(libc::EIO) };
    assert_eq!(bench.log.status().state(), state);
    assert!(bench.gate.is_store_unavailable());
    let total = bench.ledger().total();
    assert_eq!((total.stored, total.lost[DropReason::StoreUnavailable as usize]), (100, 115));
    assert_eq!(bench.progress.iter().map(|p| p.get()).collect::<Vec<_>>(), [0, 0, 100]);
    bench.push_many(Tier::Batch, 3);
    bench.run_to_the_end();
    assert_eq!(bench.ledger().total().outcomes(), bench.next_id - 1);
    assert_eq!(bench.slots_out(), 0);
    assert_eq!(bench.ring.writes.len(), 2, "never tried again");
    assert!(!bench.log.finish(WallNanos(2)).unwrap(), "a failed log is left to recovery");
}

#[test]
fn a_failed_sync_ends_the_store_and_is_never_repeated() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_many(Tier::Batch, 100);
    bench.poll();
    bench.complete();
    bench.advance(Nanos::from_millis(2));
    bench.ring.sync_fates.push_back(libc::EIO);
    bench.push_many(Tier::Batch, 100);
    bench.poll(); // a write and a sync in flight
    assert_eq!((bench.ring.pending_writes(), bench.ring.pending_syncs()), (1, 1));
    while bench.complete() {}
    bench.advance(Nanos::from_millis(50));
    bench.run_to_the_end();
    let state = StoreState::Failed { operation: StoreOperation::Sync, errno: Errno(libc::EIO) };
    assert_eq!((bench.log.status().state(), bench.ring.syncs), (state, 1));
    assert_eq!(bench.log.status().durable_sequence(), 0, "nothing of that window is called durable");
    assert_eq!(bench.ledger().total().outcomes(), 200);
}

#[test]
fn a_sync_covers_only_writes_that_had_completed() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_many(Tier::Batch, 100);
    bench.poll();
    bench.complete();
    bench.advance(Nanos::from_millis(2));
    bench.poll();
    assert_eq!(bench.ring.pending_syncs(), 1);
    // A second write overtakes the sync.
    bench.push_many(Tier::Batch, 50);
    bench.advance(Nanos::from_millis(1));
    bench.poll();
    bench.advance(Nanos::from_millis(1));
    bench.poll();
    assert_eq!(bench.log.status().durable_sequence(), 0);
    bench.complete(); // the sync
    assert_eq!((bench.log.status().written_sequence(), bench.log.status().durable_sequence()), (100, 100));
    bench.complete(); // the write
    assert_eq!((bench.log.status().written_sequence(), bench.log.status().durable_sequence()), (150, 100));
    bench.run_to_the_end();
    assert_eq!(bench.log.status().durable_sequence(), 150);
}

#[test]
fn group_commit_waits_for_its_interval_or_its_bytes() {
    let options = AppenderOptions { commit_bytes: 10_000, ..small() };
    let mut bench = Bench::new(options, SimDisk::new());
    bench.push_many(Tier::Batch, 100);
    bench.poll();
    bench.complete();
    let work = bench.poll();
    assert_eq!(bench.ring.pending_syncs(), 0);
    assert_eq!(work.next_deadline, Some(bench.ring.now + Nanos::from_micros(2000)));
    bench.push_many(Tier::Batch, 150);
    bench.poll();
    bench.complete();
    bench.poll();
    assert_eq!(bench.ring.pending_syncs(), 1, "10,000 bytes are enough");
}

#[test]
fn with_always_a_written_batch_is_durable() {
    let mut bench = Bench::new(with(Durability::Always), SimDisk::new());
    bench.push_many(Tier::Batch, 100);
    bench.poll();
    bench.complete();
    assert_eq!(bench.log.status().durable_sequence(), 100);
    assert!(bench.ring.writes.iter().all(|(_, _, sync)| *sync == WriteSync::DataSync));
    bench.run_to_the_end();
    assert_eq!(bench.ring.syncs, 0);
}

#[test]
fn with_always_by_fdatasync_each_write_is_synced_when_all_of_it_is_written() {
    let options = AppenderOptions { sync_method: SyncMethod::Fdatasync, ..with(Durability::Always) };
    let mut bench = Bench::new(options, SimDisk::new());
    bench.ring.write_fates.push_back(WriteFate::Short(4096));
    bench.push_many(Tier::Batch, 100);
    bench.poll();
    bench.complete(); // half of it
    bench.poll();
    assert_eq!((bench.ring.pending_writes(), bench.ring.pending_syncs()), (1, 0), "the rest first");
    bench.complete();
    let status = bench.log.status().clone();
    assert_eq!((status.written_sequence(), status.durable_sequence()), (100, 0));
    let work = bench.poll();
    assert_eq!((bench.ring.pending_syncs(), work.next_deadline), (1, None), "at once, and nothing else is due");
    bench.complete();
    assert_eq!(status.durable_sequence(), 100);
    assert!(bench.ring.writes.iter().all(|(_, _, sync)| *sync == WriteSync::None));
    bench.run_to_the_end();
    assert_eq!(bench.ring.syncs, 1);
}

#[test]
fn with_none_nothing_is_synced_until_the_log_is_closed() {
    let mut bench = Bench::new(with(Durability::None), SimDisk::new());
    bench.push_many(Tier::Batch, 100);
    bench.run_to_the_end();
    assert_eq!((bench.ring.syncs, bench.log.status().durable_sequence()), (0, 0));
    assert!(bench.log.finish(WallNanos(2)).unwrap());
    assert_eq!(bench.log.status().durable_sequence(), 100);
}

#[test]
fn progress_tells_each_producer_how_much_of_its_own_is_written() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_many(Tier::Realtime, 2);
    bench.push_many(Tier::Batch, 100);
    bench.poll(); // in flight
    bench.push_many(Tier::Transactional, 4);
    bench.poll(); // staged behind it
    bench.complete();
    assert_eq!(bench.progress.iter().map(|p| p.get()).collect::<Vec<_>>(), [2, 0, 100]);
    bench.run_to_the_end();
    assert_eq!(bench.progress.iter().map(|p| p.get()).collect::<Vec<_>>(), [2, 4, 100]);
}

#[test]
fn the_file_is_allocated_ahead_and_cut_at_the_end() {
    let options = AppenderOptions { allocate_bytes: 64 << 10, ..small() };
    let mut bench = Bench::new(options, SimDisk::new());
    bench.start();
    bench.complete();
    assert!(active(&bench.ring.disk).len() > 64 << 10);
    for _ in 0..40 {
        bench.push_many(Tier::Batch, 100);
        bench.poll();
        while bench.complete() {}
    }
    assert!(bench.counters.allocations.get() > 1);
    bench.run_to_the_end();
    assert!(bench.log.finish(WallNanos(2)).unwrap());
    assert_eq!(active(&bench.ring.disk).len() as u64, bench.log.status().written_bytes());
    let report = verify(bench.ring.disk.clone(), 0).unwrap();
    assert_eq!((report.records, report.torn, report.closed), (4000, None, true));
}

#[test]
fn without_allocation_ahead_everything_else_works() {
    for errno in [libc::EOPNOTSUPP, libc::ENOSPC] {
        let mut bench = Bench::new(AppenderOptions { allocate_bytes: 64 << 10, ..small() }, SimDisk::new());
        bench.ring.allocate_errno = Some(errno);
        bench.start();
        bench.push_many(Tier::Batch, 100);
        bench.run_to_the_end();
        assert_eq!(ids(&bench).len(), 100);
        assert_eq!(bench.counters.allocations_refused.get(), 1);
        assert_eq!(bench.log.status().state(), StoreState::Running);
    }
}

#[test]
fn what_a_refused_allocation_got_is_given_back_and_less_is_asked_for() {
    let mut bench = Bench::new(AppenderOptions { allocate_bytes: 8 << 20, ..small() }, SimDisk::new());
    bench.ring.allocate_errno = Some(libc::ENOSPC);
    bench.start();
    // Written behind the allocation's back, and on its way while it is refused.
    bench.push_many(Tier::Batch, 100);
    bench.poll();
    while bench.complete() {}
    let [range] = bench.ring.given_back.as_slice() else { panic!("not yet: {:?}", bench.ring.given_back) };
    assert!(range.start >= bench.log.status().written_bytes() && range.end > 8 << 20, "{range:?}");
    let second = |bench: &mut Bench| {
        while bench.complete() {}
        bench.advance(Nanos::from_millis(1001));
        bench.push_many(Tier::Batch, 100);
        bench.poll();
        while bench.complete() {}
        bench.poll();
    };
    for asked in [4, 2, 1, 1] {
        second(&mut bench);
        let range = bench.ring.given_back.last().expect("each time");
        assert!((1..=asked << 20).contains(&(range.end - range.start)), "{range:?} of {asked} MiB");
    }
    // A write that meets what an allocation took for a moment is no want of space.
    bench.advance(Nanos::from_millis(1001));
    bench.push_many(Tier::Batch, 100);
    bench.poll();
    bench.ring.write_fates.push_back(WriteFate::Refused(libc::ENOSPC));
    while bench.complete() {}
    assert_eq!(bench.log.status().state(), StoreState::Running);
    assert!(!bench.gate.is_store_unavailable());
    // By itself it is.
    bench.advance(Nanos::from_millis(1));
    bench.poll();
    bench.ring.write_fates.push_back(WriteFate::Refused(libc::ENOSPC));
    while bench.complete() {}
    assert!(matches!(bench.log.status().state(), StoreState::NoSpace { .. }));
    bench.ring.allocate_errno = None;
    second(&mut bench);
    assert!(bench.counters.allocations.get() > 0);
    bench.run_to_the_end();
    assert_eq!(ids(&bench).len(), 700);
}

#[test]
fn a_log_goes_on_where_the_last_run_left_it() {
    let file = SimDisk::new();
    let mut first = Bench::new(small(), file.clone());
    first.push_many(Tier::Batch, 123);
    first.run_to_the_end();
    assert!(first.log.finish(WallNanos(2)).unwrap());
    let mut second = Bench::new(small(), file.clone());
    assert_eq!((second.log.epoch(), second.log.report().next_sequence, second.log.report().closed), (2, 123, true));
    second.next_id = 1000;
    second.push_many(Tier::Batch, 7);
    second.run_to_the_end();
    // No orderly end: what is written is there all the same.
    let third = Bench::new(small(), file);
    let report = third.log.report();
    assert_eq!((third.log.epoch(), report.records, report.closed, report.cut_bytes), (3, 130, false, 0));
    assert_eq!(report.highest_event_id, 1006);
    let sequences: Vec<u64> = records(&third).iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, (0..130).collect::<Vec<u64>>());
}

#[test]
fn latencies_are_recorded_per_tier_and_stage() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push(Tier::Realtime);
    bench.push(Tier::Batch);
    bench.run_to_the_end();
    let latencies = bench.appender.latencies().clone();
    for stage in [latencies.staged, latencies.written, latencies.durable] {
        let counts = stage.map(|tier| tier.snapshot().len());
        assert_eq!(counts, [1, 0, 1]);
    }
}

#[test]
fn the_first_batch_begins_behind_the_mark_in_the_second_block() {
    let mut bench = Bench::new(small(), SimDisk::new());
    bench.push_many(Tier::Batch, 100);
    bench.poll();
    assert_eq!(bench.ring.writes[0].0, FIRST_BATCH_OFFSET);
}

#[test]
fn an_appender_can_move_to_its_runner() {
    fn is_send<T: Send>() {}
    is_send::<crate::storage::Appender>();
    is_send::<crate::storage::dead_letter::DeadLetterSender>();
    is_send::<crate::storage::OpenLog<crate::storage::DiskFolder>>();
}
