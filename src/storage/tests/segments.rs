use std::collections::BTreeMap;

use crate::sim::disk::{Left, SimDisk};
use crate::storage::appender::{AppenderOptions, Durability};
use crate::storage::cursor::{Cursor, write_cursor};
use crate::storage::format::{FOOTER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::storage::log_file::LogFile;
use crate::storage::node_reader::{NodeReader, verify};
use crate::storage::reader::ReadError;
use crate::storage::recovery::recover;
use crate::storage::repair::{accept_loss, repair};
use crate::storage::segments::{LogFault, SegmentFault, list, survey};
use crate::storage::status::{StoreOperation, StoreState};
use crate::storage::testing::{Bench, identity, small};
use crate::storage::walk::{Damage, Fault};
use crate::storage::{LogFolder, SegmentOptions};
use crate::sys::clock::{Nanos, WallNanos};
use crate::wire::Tier;

fn tiny() -> SegmentOptions {
    SegmentOptions { segment_bytes: 12 << 10, ..SegmentOptions::default() }
}

/// A few rounds of events, each written, synced and rolled as far as it goes.
fn rounds(bench: &mut Bench, rounds: usize) {
    for _ in 0..rounds {
        bench.push_many(Tier::Batch, 40);
        for _ in 0..3 {
            bench.poll();
            while bench.complete() {}
            bench.advance(Nanos::from_millis(3));
        }
        while bench.keep() {}
    }
}

/// A closed log of several segments.
fn a_long_log() -> SimDisk {
    let mut bench = Bench::with_segments(small(), SimDisk::new(), tiny());
    rounds(&mut bench, 30);
    bench.run_to_the_end();
    assert!(bench.log.finish(WallNanos(1)).unwrap());
    bench.ring.disk
}

fn bodies(disk: &SimDisk) -> Vec<Vec<u8>> {
    let records = NodeReader::open(disk.clone(), 0).unwrap().into_records();
    records.map(|record| record.unwrap().body).collect()
}

fn damage(disk: &SimDisk) -> (String, Damage) {
    let before = disk.content();
    let SegmentFault { name, fault } = recover(disk, &identity()).unwrap_err();
    assert_eq!(disk.content(), before, "nothing that is damaged is changed");
    match fault {
        LogFault::Damaged(damage) => (name, damage),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_segment_is_sealed_and_the_next_one_goes_on() {
    let disk = a_long_log();
    let sealed = survey(&disk, 0).unwrap();
    assert!(sealed.len() > 3, "{} segments", sealed.len());
    assert!(sealed.iter().all(|segment| segment.file_bytes() >= tiny().segment_bytes));
    assert!(!list(&disk, 0).unwrap().next, "what was prepared for nothing is gone after a clean stop");
    let report = verify(disk.clone(), 0).unwrap();
    assert_eq!((report.records, report.segments, report.closed), (1200, sealed.len() as u64 + 1, true));
    assert_eq!((report.is_whole(), report.torn, report.file_bytes), (true, None, report.valid_bytes));
    let expected: Vec<Vec<u8>> = (1..=1200).map(|id| format!("body of {id}").into_bytes()).collect();
    assert_eq!(bodies(&disk), expected);

    let mut again = Bench::with_segments(small(), disk, tiny());
    assert_eq!((again.log.epoch(), again.log.report().records, again.log.report().closed), (2, 1200, true));
    again.next_id = 1201;
    rounds(&mut again, 10);
    again.run_to_the_end();
    assert_eq!(verify(again.ring.disk.clone(), 0).unwrap().records, 1600);
}

#[test]
fn without_a_next_segment_the_active_one_grows() {
    let mut bench = Bench::with_segments(small(), SimDisk::new(), tiny());
    for _ in 0..30 {
        bench.push_many(Tier::Batch, 40);
        bench.poll();
        while bench.complete() {}
        bench.advance(Nanos::from_millis(3));
    }
    assert!(bench.log.status().written_bytes() > 2 * tiny().segment_bytes, "nothing waits for the keeper");
    bench.run_to_the_end();
    assert_eq!(bodies(&bench.ring.disk).len(), 1200);
}

#[test]
fn a_segment_is_durable_before_anything_of_the_next_one_is_called_so() {
    for durability in [Durability::None, Durability::Group, Durability::Always] {
        let mut bench = Bench::with_segments(AppenderOptions { durability, ..small() }, SimDisk::new(), tiny());
        for _ in 0..100 {
            bench.push_many(Tier::Batch, 40);
            bench.poll();
            bench.keep();
            // One at a time, so that writes of the next segment overtake syncs of the one before.
            bench.complete();
            bench.advance(Nanos::from_micros(700));
            let durable = bench.log.status().durable_sequence();
            let kept = recover(&bench.ring.disk.after_crash(Left::SYNCED), &identity()).unwrap().next_sequence;
            assert!(kept >= durable, "{durability:?}: {durable} durable, {kept} kept");
        }
        bench.run_to_the_end();
        assert!(bench.log.keeper_counters().sealed.get() >= 2);
    }
}

#[test]
fn a_crash_between_any_two_steps_recovers_to_what_was_promised() {
    crash_everywhere(tiny());
}

#[test]
fn a_crash_between_any_two_steps_of_recycling_recovers_to_what_was_promised() {
    crash_everywhere(SegmentOptions { retention_bytes: 20 << 10, ..tiny() });
}

fn crash_everywhere(segments: SegmentOptions) {
    let reference = |changes: Option<u64>| {
        let mut bench = Bench::with_segments(small(), SimDisk::new(), segments);
        if let Some(changes) = changes {
            bench.ring.disk.stop_after(changes);
        }
        rounds(&mut bench, 14);
        bench
    };
    let all = reference(None);
    assert!(all.log.keeper_counters().sealed.get() >= 2);
    assert!(segments.retention_bytes == 0 || all.log.keeper_counters().recycled.get() >= 1);
    for changes in 0.. {
        let bench = reference(Some(changes));
        let (written, durable) = (bench.log.status().written_sequence(), bench.log.status().durable_sequence());
        for left in Left::WAYS {
            let what = format!("after {changes} changes, {left:?}");
            let promised = if left == Left::ALL { written } else { durable };
            check_recovery(&bench.ring.disk.after_crash(left), promised, &what);
        }
        if !bench.ring.disk.has_stopped() {
            break;
        }
    }
}

/// Recovers, and crashes after each step of that too.
fn check_recovery(crashed: &SimDisk, promised: u64, what: &str) {
    let whole = crashed.after_crash(Left::ALL);
    let kept = recovered(&whole, promised, what);
    let once = whole.content();
    assert_eq!(recovered(&whole, promised, what), kept);
    assert_eq!(whole.content(), once, "{what}: recovering twice gives the same bytes");
    for changes in 0.. {
        let interrupted = crashed.after_crash(Left::ALL);
        interrupted.stop_after(changes);
        let ended = recover(&interrupted, &identity()).is_ok();
        for left in Left::WAYS {
            recovered(&interrupted.after_crash(left), promised, &format!("{what}, and after {changes} of recovery, {left:?}"));
        }
        if ended {
            break;
        }
    }
}

#[test]
fn an_opening_that_is_killed_and_one_that_loses_power_leave_what_was_promised() {
    let torn = || {
        let disk = a_long_log();
        let report = recover(&disk, &identity()).unwrap();
        LogFolder::sync(&disk).unwrap(); // The next file that was prepared is gone for good.
        disk.open("events.bin").unwrap().write_at(&[0xee; 100], report.valid_bytes).unwrap();
        (disk, report)
    };
    let (disk, before) = torn();
    assert_eq!(recover(&disk, &identity()).unwrap().segments, before.segments + 1, "the torn one is sealed");
    for killed_after in 0.. {
        let mut has_opened = false;
        for cut_after in 0.. {
            let (disk, before) = torn();
            disk.stop_after(killed_after);
            has_opened = recover(&disk, &identity()).is_ok();
            disk.mend();
            disk.stop_after(cut_after);
            let is_over = recover(&disk, &identity()).is_ok();
            for left in Left::WAYS {
                let what = format!("killed after {killed_after} changes, cut after {cut_after}, {left:?}");
                recovered(&disk.after_crash(left), before.next_sequence, &what);
            }
            if is_over {
                break;
            }
        }
        if has_opened {
            break;
        }
    }
}

fn recovered(disk: &SimDisk, promised: u64, what: &str) -> u64 {
    let report = recover(disk, &identity()).unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
    assert!(report.next_sequence >= promised, "{what}: {promised} promised, {} kept", report.next_sequence);
    let sequences: Vec<u64> =
        NodeReader::open(disk.clone(), 0).unwrap().into_records().map(|record| record.unwrap().sequence).collect();
    let first = sequences.first().copied().unwrap_or(report.next_sequence);
    assert_eq!(sequences, (first..report.next_sequence).collect::<Vec<u64>>(), "{what}");
    assert_eq!(report.records, sequences.len() as u64, "{what}");
    report.next_sequence
}

#[test]
fn a_missing_segment_is_damage_that_names_what_is_lost() {
    let disk = a_long_log();
    let sealed = survey(&disk, 0).unwrap();
    disk.remove(&sealed[1].name().to_string()).unwrap();
    let (name, found) = damage(&disk);
    assert_eq!((name, found.fault), (sealed[2].name().to_string(), Fault::Missing));
    let (first, end) = (sealed[1].footer.first_sequence, sealed[1].footer.end_sequence);
    assert_eq!(found.to_string(), format!("damage at byte 0 (a segment is missing): records {first} to {} lost", end - 1));
    let report = verify(disk, 0).unwrap();
    assert_eq!((report.damage_count, report.records), (1, 1200 - (end - first)));
}

#[test]
fn a_missing_active_segment_is_damage() {
    let disk = a_long_log();
    disk.remove("events.bin").unwrap();
    assert_eq!(damage(&disk).1.fault, Fault::Missing);
}

#[test]
fn a_sealed_segment_truncated_anywhere_is_damage() {
    let disk = a_long_log();
    let name = survey(&disk, 0).unwrap()[1].name().to_string();
    let whole = disk.content()[&name].clone();
    for len in [0, 50, 4096, whole.len() / 2, whole.len() - FOOTER_BYTES, whole.len() - 1] {
        disk.put(&name, &whole[..len]);
        assert_eq!(damage(&disk).0, name, "cut at {len}");
        assert!(!verify(disk.clone(), 0).unwrap().is_whole(), "cut at {len}");
    }
}

#[test]
fn a_segment_of_another_log_or_in_the_wrong_place_is_damage() {
    let disk = a_long_log();
    let sealed = survey(&disk, 0).unwrap();
    let name = sealed[1].name().to_string();
    let mut bytes = disk.content()[&name].clone();
    let other = SegmentHeader { chain: 0x77, ..sealed[1].header };
    bytes[..96].copy_from_slice(&other.encode());
    disk.put(&name, &bytes);
    assert_eq!(damage(&disk).1.fault, Fault::Discontinuous);
}

#[test]
fn the_header_of_one_segment_in_another_one_s_file_sends_no_reader_in_circles() {
    let disk = a_long_log();
    let names: Vec<String> = survey(&disk, 0).unwrap().iter().map(|segment| segment.name().to_string()).collect();
    let header = disk.content()[&names[0]][..4096].to_vec();
    disk.corrupt(&names[2], 0, &header);
    assert!(!verify(disk, 0).unwrap().is_whole());
}

#[test]
fn a_destroyed_header_of_the_active_segment_is_told_of_by_readers_too() {
    let disk = a_long_log();
    let first = disk.content().into_values().nth(1).unwrap();
    for bytes in [b"?".as_slice(), &first[..4096]] {
        disk.corrupt("events.bin", 0, bytes);
        assert_eq!(verify(disk.clone(), 0).unwrap().damage_count, 1);
    }
}

#[test]
fn a_next_segment_that_can_t_be_written_is_kept_as_it_may_be_all_that_tells_of_a_roll() {
    // Killed between the two renames of a roll, the next file not written to yet.
    let disk = a_long_log();
    let last = survey(&disk, 0).unwrap().pop().unwrap().footer.end_sequence;
    disk.put("events.node0.next", &[0; 4096]);
    disk.remove("events.bin").unwrap();
    assert!(list(&disk, 0).unwrap().next);
    for changes in 0..2 {
        disk.stop_after(changes);
        assert!(matches!(recover(&disk, &identity()).unwrap_err().fault, LogFault::Io { .. }));
        disk.permit_changes();
    }
    disk.set_full(true);
    assert!(matches!(recover(&disk, &identity()).unwrap_err().fault, LogFault::Io { .. }));
    disk.set_full(false);
    assert_eq!(recover(&disk, &identity()).unwrap().next_sequence, last);
}

#[test]
fn damage_inside_of_a_sealed_segment_is_found_by_reading_and_the_rest_is_read() {
    let disk = a_long_log();
    let name = survey(&disk, 0).unwrap()[1].name().to_string();
    let mut bytes = disk.content()[&name].clone();
    bytes[6000] ^= 1;
    disk.put(&name, &bytes);
    assert!(recover(&disk, &identity()).is_ok(), "the start reads the ends only");
    let report = verify(disk.clone(), 0).unwrap();
    assert_eq!((report.damage_count, report.damages[0].0.clone()), (1, name));
    let Damage { first_lost, resume: Some((_, resume)), .. } = report.damages[0].1 else { panic!("it can be read on") };
    assert_eq!(report.records, 1200 - (resume - first_lost));
}

#[test]
fn a_torn_tail_is_sealed_where_it_was_cut_and_the_next_epoch_has_a_segment_of_its_own() {
    let mut bench = Bench::new(small(), SimDisk::new());
    rounds(&mut bench, 3);
    let disk = bench.ring.disk.after_crash(Left::ALL);
    let mut bytes = disk.content().remove("events.bin").unwrap();
    bytes.truncate(bench.log.status().written_bytes() as usize);
    bytes.extend_from_slice(&[0xAB; 500]);
    disk.put("events.bin", &bytes);
    let again = Bench::new(small(), disk.clone());
    assert_eq!((again.log.report().cut_bytes, again.log.report().segments), (500, 1));
    let sealed = survey(&disk, 0).unwrap();
    assert_eq!((sealed[0].footer.epoch, sealed[0].footer.end_sequence), (1, 120));
    assert!(again.log.epoch() > 1);
    assert_eq!(verify(disk, 0).unwrap().records, 120);
}

#[test]
fn evidence_in_the_next_segment_makes_a_bad_batch_damage() {
    // Rolled, and not sealed yet: the old segment is events.bin, the new one is the prepared file.
    let mut bench = Bench::with_segments(AppenderOptions { durability: Durability::Always, ..small() }, SimDisk::new(), tiny());
    let mut disk = None;
    for _ in 0..20 {
        bench.push_many(Tier::Batch, 40);
        bench.poll();
        while bench.complete() {}
        bench.push_many(Tier::Batch, 40);
        bench.poll();
        while bench.complete() {}
        if bench.log.status().segment() > 0 {
            disk = Some(bench.ring.disk.after_crash(Left::ALL));
            break;
        }
        while bench.keep() {}
    }
    let disk = disk.expect("it has rolled");
    let mut old = disk.content().remove("events.bin").unwrap();
    let at = old.iter().rposition(|byte| *byte != 0).unwrap();
    old[at] ^= 1;
    disk.put("events.bin", &old);
    let (name, found) = damage(&disk);
    assert_eq!((name.as_str(), found.fault), ("events.bin", Fault::Payload));
    assert!(found.resume.is_some());
}

/// Until a segment waits to be sealed.
fn leave_a_segment(bench: &mut Bench) {
    let before = bench.log.status().segment();
    while bench.log.status().segment() == before {
        bench.push_many(Tier::Batch, 40);
        bench.poll();
        while bench.complete() {}
        bench.advance(Nanos::from_millis(3));
        if bench.log.status().segment() == before {
            while bench.keep() {}
        }
    }
    bench.poll();
    while bench.complete() {}
}

/// V3: the sync of the appender's that fails is not the keeper's, whose own succeeds: there is nothing left to be synced.
#[test]
fn a_segment_whose_header_was_lost_by_a_failed_sync_does_not_become_active_without_it() {
    let mut bench = Bench::with_segments(small(), SimDisk::new(), tiny());
    leave_a_segment(&mut bench);
    let promised = bench.log.status().segment();
    bench.ring.disk.corrupt("events.node0.next", 0, &[0; SEGMENT_HEADER_BYTES]);
    while bench.keep() {}
    for left in Left::WAYS {
        let kept = recover(&bench.ring.disk.after_crash(left), &identity()).unwrap().next_sequence;
        assert!(kept >= promised, "{left:?}: {kept} of {promised}");
    }
}

#[test]
fn a_folder_that_refuses_to_seal_ends_the_store_and_want_of_space_does_not() {
    let mut bench = Bench::with_segments(small(), SimDisk::new(), tiny());
    let mut segments = BTreeMap::new();
    for round in 0..30 {
        rounds(&mut bench, 1);
        segments.insert(bench.log.keeper_counters().sealed.get(), round);
        bench.ring.disk.set_full(round % 3 == 2);
        // What was refused is tried again.
        bench.advance(Nanos::from_millis(600));
    }
    assert!(segments.len() > 2 && !matches!(bench.log.status().state(), StoreState::Failed { .. }));
    bench.ring.disk.set_full(false);
    leave_a_segment(&mut bench);
    bench.ring.disk.stop_after(0);
    while bench.keep() {}
    bench.poll();
    assert!(matches!(bench.log.status().state(), StoreState::Failed { operation: StoreOperation::Seal, .. }));
    assert!(bench.gate.is_store_unavailable());
}

#[test]
fn retention_by_bytes_recycles_the_oldest_and_keeps_the_rest_whole() {
    let retention = SegmentOptions { retention_bytes: 40 << 10, ..tiny() };
    let mut bench = Bench::with_segments(small(), SimDisk::new(), retention);
    rounds(&mut bench, 60);
    bench.run_to_the_end();
    let counters = bench.log.keeper_counters().clone();
    assert!(counters.recycled.get() > 5 && counters.kept_bytes.get() <= 40 << 10, "{counters:?}");
    let report = verify(bench.ring.disk.clone(), 0).unwrap();
    assert!(report.is_whole() && report.segment.first_sequence > 0, "{report:?}");
    assert_eq!(report.end_sequence, 2400);
    // In the middle of a recycled segment, without ceremony: what it held before does not come back.
    let again = Bench::with_segments(small(), bench.ring.disk.after_crash(Left::ALL), retention);
    assert_eq!((again.log.report().next_sequence, again.log.report().cut_bytes), (2400, 0));
}

#[test]
fn retention_by_age_gives_up_what_was_sealed_long_ago() {
    let mut bench = Bench::with_segments(small(), SimDisk::new(), SegmentOptions { retention_age_s: 10, ..tiny() });
    rounds(&mut bench, 30);
    let kept = bench.log.keeper_counters().kept.get();
    assert!(kept > 2);
    bench.advance(Nanos::from_millis(10_500));
    while bench.keep() {}
    assert_eq!(bench.log.keeper_counters().kept.get(), 0);
    let spares = bench.log.keeper_counters();
    assert!(spares.removed.get() + spares.recycled.get() == kept && spares.recycled.get() <= 1, "one spare at most");
    bench.run_to_the_end();
    assert_eq!(verify(bench.ring.disk.clone(), 0).unwrap().end_sequence, 1200);
}

#[test]
fn with_too_little_free_the_gate_is_closed_until_there_is_more() {
    let mut bench = Bench::with_segments(small(), SimDisk::new(), SegmentOptions { min_free_bytes: 1, ..tiny() });
    bench.ring.disk.set_full(true);
    bench.keep();
    let work = bench.poll();
    assert!(bench.gate.is_store_unavailable() && matches!(bench.log.status().state(), StoreState::NoSpace { .. }));
    assert!(work.next_deadline.is_some(), "it looks again by itself");
    bench.ring.disk.set_full(false);
    bench.advance(Nanos::from_millis(500));
    bench.keep();
    bench.poll();
    assert!(!bench.gate.is_store_unavailable());
    assert_eq!(bench.log.status().state(), StoreState::Running);
}

#[test]
fn a_log_that_is_only_short_of_space_is_closed_in_good_order() {
    let mut bench = Bench::with_segments(small(), SimDisk::new(), SegmentOptions { min_free_bytes: 1, ..tiny() });
    bench.ring.disk.set_full(true);
    bench.keep();
    bench.poll();
    bench.ring.disk.set_full(false);
    bench.drain(); // Nothing to write: no poll has to follow.
    assert!(bench.log.finish(WallNanos(1)).unwrap());
}

#[test]
fn a_reader_follows_the_log_through_its_segments() {
    let mut bench = Bench::with_segments(small(), SimDisk::new(), tiny());
    let mut reader = NodeReader::open(bench.ring.disk.clone(), 0).unwrap();
    reader.follow();
    let mut read = 0;
    for _ in 0..40 {
        bench.push_many(Tier::Batch, 40);
        bench.poll();
        while bench.complete() {}
        bench.advance(Nanos::from_millis(3));
        while let Some(record) = reader.next().unwrap() {
            assert_eq!(record.sequence, read);
            read += 1;
        }
        assert_eq!(read, bench.log.status().written_sequence(), "as soon as it is written");
        bench.keep();
    }
    assert!(bench.log.keeper_counters().sealed.get() > 3);
}

#[test]
fn a_reader_overrun_by_recycling_says_what_it_lost_and_goes_on() {
    let retention = SegmentOptions { retention_bytes: 20 << 10, ..tiny() };
    let mut bench = Bench::with_segments(small(), SimDisk::new(), retention);
    rounds(&mut bench, 5);
    let mut reader = NodeReader::open(bench.ring.disk.clone(), 0).unwrap();
    let mut expected = reader.next().unwrap().unwrap().sequence + 1;
    rounds(&mut bench, 60);
    let mut lost = 0;
    loop {
        match reader.next() {
            Ok(Some(record)) => {
                assert_eq!(record.sequence, expected);
                expected += 1;
            }
            Ok(None) => break,
            Err(ReadError::Overrun { first_lost, resume }) => {
                assert_eq!(first_lost, expected);
                (lost, expected) = (lost + resume - first_lost, resume);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(lost > 0);
    assert_eq!(expected, bench.log.status().written_sequence());
}

#[test]
fn a_log_is_read_from_a_time_or_a_sequence_on() {
    let disk = a_long_log();
    let receipts: Vec<(u64, u64)> = {
        let records = NodeReader::open(disk.clone(), 0).unwrap().into_records();
        records.map(|record| record.unwrap()).map(|record| (record.sequence, record.received_at.0)).collect()
    };
    for at in [0, 1, 39, 40, 500, 777, 1199] {
        let (sequence, received) = receipts[at];
        let since = NodeReader::open_since(disk.clone(), 0, WallNanos(received)).unwrap();
        let found: Vec<u64> = since
            .into_records()
            .map(|record| record.unwrap())
            .filter(|record| record.received_at.0 >= received)
            .map(|record| record.sequence)
            .collect();
        assert_eq!(found, (sequence..1200).collect::<Vec<u64>>());
        let mut reader = NodeReader::open_at(disk.clone(), 0, sequence).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().sequence, sequence);
    }
    let late = NodeReader::open_since(disk, 0, WallNanos(u64::MAX)).unwrap();
    assert_eq!(late.into_records().count(), 0);
}

/// What is readable of a mended log: whole, without `lost` records, and everything else is there.
fn check_mended(disk: &SimDisk, records: u64, lost: u64) {
    let report = verify(disk.clone(), 0).unwrap();
    assert!(report.is_whole(), "{:?}", report.damages);
    assert_eq!((report.records, report.accepted_losses), (records - lost, lost));
    let again = recover(disk, &identity()).unwrap();
    assert_eq!((again.next_sequence, again.cut_bytes), (records, 0));
}

#[test]
fn a_damaged_sealed_segment_is_mended_and_kept_in_quarantine() {
    let disk = a_long_log();
    let name = survey(&disk, 0).unwrap()[1].name().to_string();
    let mut bytes = disk.content()[&name].clone();
    bytes[6000] ^= 1;
    disk.put(&name, &bytes);
    let Damage { first_lost, resume, .. } = verify(disk.clone(), 0).unwrap().damages[0].1;
    let mended = repair(&disk, &identity()).unwrap();
    assert_eq!((mended.len(), &mended[0].name), (1, &name));
    let quarantine = mended[0].quarantine.clone().unwrap();
    assert_eq!(disk.content()[&quarantine], bytes, "as it was");
    check_mended(&disk, 1200, resume.unwrap().1 - first_lost);
    assert!(repair(&disk, &identity()).unwrap().is_empty(), "there is nothing left to do");
}

#[test]
fn a_lost_segment_a_truncated_one_and_a_damaged_header_are_accepted_one_by_one() {
    let disk = a_long_log();
    let sealed = survey(&disk, 0).unwrap();
    let records = |index: usize| sealed[index].footer.end_sequence - sealed[index].footer.first_sequence;
    disk.remove(&sealed[1].name().to_string()).unwrap();
    let name = sealed[3].name().to_string();
    let mut bytes = disk.content()[&name].clone();
    bytes.truncate(4096 + 10);
    disk.put(&name, &bytes);
    let name = sealed[4].name().to_string();
    let mut bytes = disk.content()[&name].clone();
    bytes[20] ^= 1;
    disk.put(&name, &bytes);
    let mended = accept_loss(&disk, &identity()).unwrap();
    assert!(mended.len() >= 3, "{mended:?}");
    check_mended(&disk, 1200, records(1) + records(3));
}

#[test]
fn a_damaged_active_segment_is_mended_and_the_log_goes_on_behind_it() {
    let mut bench = Bench::new(small(), SimDisk::new());
    rounds(&mut bench, 10);
    bench.run_to_the_end();
    assert!(bench.log.finish(WallNanos(1)).unwrap());
    let disk = bench.ring.disk.clone();
    let mut bytes = disk.content().remove("events.bin").unwrap();
    bytes[6000] ^= 1;
    disk.put("events.bin", &bytes);
    let found = damage(&disk).1;
    accept_loss(&disk, &identity()).unwrap();
    check_mended(&disk, 400, found.resume.unwrap().1 - found.first_lost);
    let mut again = Bench::new(small(), disk);
    again.next_id = 1000;
    rounds(&mut again, 1);
    again.run_to_the_end();
    assert_eq!(verify(again.ring.disk.clone(), 0).unwrap().end_sequence, 440);
}

#[test]
fn a_missing_active_segment_is_begun_anew_where_the_sealed_ones_end() {
    let disk = a_long_log();
    let end = survey(&disk, 0).unwrap().last().unwrap().footer.end_sequence;
    disk.remove("events.bin").unwrap();
    accept_loss(&disk, &identity()).unwrap();
    check_mended(&disk, end, 0);
}

#[test]
fn what_a_cursor_has_not_passed_is_kept_if_asked_for() {
    let retention = SegmentOptions { retention_bytes: 20 << 10, keep_for_cursors: true, ..tiny() };
    let mut bench = Bench::with_segments(small(), SimDisk::new(), retention);
    write_cursor(&bench.ring.disk, "slow", &Cursor::from([(0, 100)])).unwrap();
    rounds(&mut bench, 60);
    assert!(verify(bench.ring.disk.clone(), 0).unwrap().segment.first_sequence <= 100);
    write_cursor(&bench.ring.disk, "slow", &Cursor::from([(0, 2400)])).unwrap();
    rounds(&mut bench, 1);
    bench.run_to_the_end();
    assert!(bench.log.keeper_counters().kept_bytes.get() <= 20 << 10);
}
