use std::collections::BTreeMap;

use crate::sim::disk::{Left, SimDisk};
use crate::storage::appender::{AppenderOptions, Durability};
use crate::storage::format::{FOOTER_BYTES, SegmentHeader};
use crate::storage::node_reader::{NodeReader, verify};
use crate::storage::recovery::recover;
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
        for _ in 0..40 {
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
        assert!(bench.log.keeper_counters().sealed.get() > 2);
    }
}

#[test]
fn a_crash_between_any_two_steps_recovers_to_what_was_promised() {
    let reference = |changes: Option<u64>| {
        let mut bench = Bench::with_segments(small(), SimDisk::new(), tiny());
        if let Some(changes) = changes {
            bench.ring.disk.stop_after(changes);
        }
        rounds(&mut bench, 14);
        bench
    };
    let all = reference(None);
    assert!(all.log.keeper_counters().sealed.get() >= 2);
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

fn recovered(disk: &SimDisk, promised: u64, what: &str) -> u64 {
    let report = recover(disk, &identity()).unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
    assert!(report.next_sequence >= promised, "{what}: {promised} promised, {} kept", report.next_sequence);
    let sequences: Vec<u64> =
        NodeReader::open(disk.clone(), 0).unwrap().into_records().map(|record| record.unwrap().sequence).collect();
    assert_eq!(sequences, (0..report.next_sequence).collect::<Vec<u64>>(), "{what}");
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
    // Until a segment waits to be sealed.
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
    bench.ring.disk.stop_after(0);
    while bench.keep() {}
    bench.poll();
    assert!(matches!(bench.log.status().state(), StoreState::Failed { operation: StoreOperation::Sync, .. }));
    assert!(bench.gate.is_store_unavailable());
}
