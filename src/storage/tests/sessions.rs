//! Events of sessions in the log: their producers and sequences, and the table that is recovered from them.

use crate::pool::{ProducerId, ProducerStamp};
use crate::sim::disk::{Left, SimDisk};
use crate::storage::node_reader::{NodeReader, verify};
use crate::storage::open::OpenLog;
use crate::storage::producers::{ProducerTable, SequenceWindow};
use crate::storage::repair::repair;
use crate::storage::segments::survey;
use crate::storage::testing::{Bench, identity, small};
use crate::storage::{AppenderOptions, SegmentOptions};
use crate::sys::clock::{Nanos, WallNanos};
use crate::wire::Tier;

/// Segments of a few batches, and a table that does not hold all producers.
fn tiny() -> SegmentOptions {
    SegmentOptions { segment_bytes: 12 << 10, producers_max: 4, ..SegmentOptions::default() }
}

/// The table as the events of these stamps leave it, one after the other.
fn table_of(stamps: &[Option<ProducerStamp>], capacity: u32) -> ProducerTable {
    let mut table = ProducerTable::new(capacity);
    for stamp in stamps.iter().flatten() {
        table.observe(*stamp);
    }
    table
}

fn all(table: &ProducerTable) -> Vec<(ProducerId, SequenceWindow)> {
    table.iter().map(|(producer, window)| (producer, window.clone())).collect()
}

/// Event after event of seven producers and of none, some sequences left out, some out of order; writes, syncs and rolls as far as it goes.
/// Returns what was pushed: in one tier, so in the order of the log.
fn stream(bench: &mut Bench, rounds: usize) -> Vec<Option<ProducerStamp>> {
    let mut stamps = Vec::new();
    let mut sequences = [0; 7];
    for round in 0..rounds {
        for event in 0..30 {
            let producer = (round / 2 + event % 3) % 7;
            if event % 5 == 4 {
                bench.push(Tier::Batch);
                stamps.push(None);
                continue;
            }
            sequences[producer] += if event % 7 == 6 { 3 } else { 1 };
            let sequence = sequences[producer] ^ u64::from(event % 4 == 0);
            bench.push_of(Tier::Batch, producer as u8 + 1, sequence);
            let producer = ProducerId::from_bytes([producer as u8 + 1; 16]).unwrap();
            stamps.push(Some(ProducerStamp { producer, sequence }));
        }
        for _ in 0..3 {
            bench.poll();
            while bench.complete() {}
            bench.advance(Nanos::from_millis(3));
        }
        while bench.keep() {}
    }
    stamps
}

#[test]
fn records_name_producer_and_sequence_wherever_reading_begins() {
    let mut bench = Bench::with_segments(small(), SimDisk::new(), tiny());
    let stamps = stream(&mut bench, 20);
    bench.run_to_the_end();
    assert!(bench.log.keeper_counters().sealed.get() > 2);
    for from in [0, 1, 100, stamps.len() - 1] {
        let reader = NodeReader::open_at(bench.ring.disk.clone(), 0, from as u64).unwrap();
        let read: Vec<_> = reader.into_records().map(|record| record.unwrap().producer).collect();
        assert_eq!(read, stamps[from..]);
    }
    assert!(verify(bench.ring.disk.clone(), 0).unwrap().is_whole());
}

#[test]
fn a_crash_between_any_two_steps_recovers_the_table_that_the_records_tell() {
    crash_everywhere(tiny());
}

#[test]
fn the_table_outlives_the_segments_that_its_sequences_were_in() {
    crash_everywhere(SegmentOptions { retention_bytes: 20 << 10, ..tiny() });
}

fn crash_everywhere(segments: SegmentOptions) {
    let run = |changes: Option<u64>| {
        let mut bench = Bench::with_segments(small(), SimDisk::new(), segments);
        if let Some(changes) = changes {
            bench.ring.disk.stop_after(changes);
        }
        let stamps = stream(&mut bench, 16);
        (bench, stamps)
    };
    let (whole, _) = run(None);
    assert!(whole.log.keeper_counters().sealed.get() >= 2);
    assert!(segments.retention_bytes == 0 || whole.log.keeper_counters().recycled.get() >= 1);
    for changes in 0.. {
        let (bench, stamps) = run(Some(changes));
        for left in Left::WAYS {
            let disk = bench.ring.disk.after_crash(left);
            // A second opening finds what the first one wrote, and not even that if it crashes at once.
            for opening in 0..2 {
                let log = OpenLog::open(disk.after_crash(Left::ALL), identity(), segments).unwrap();
                let expected = table_of(&stamps[..log.report().next_sequence as usize], segments.producers_max);
                assert_eq!(all(log.producers()), all(&expected), "after {changes} changes, {left:?}, opening {opening}");
            }
            interrupt(&disk, &stamps, segments);
        }
        if !bench.ring.disk.has_stopped() {
            break;
        }
    }
}

/// Opens, and crashes after each step of that.
fn interrupt(crashed: &SimDisk, stamps: &[Option<ProducerStamp>], segments: SegmentOptions) {
    for changes in 0.. {
        let interrupted = crashed.after_crash(Left::ALL);
        interrupted.stop_after(changes);
        let done = OpenLog::open(interrupted.clone(), identity(), segments).is_ok();
        for left in [Left::ALL, Left::SYNCED] {
            let log = OpenLog::open(interrupted.after_crash(left), identity(), segments).unwrap();
            let expected = table_of(&stamps[..log.report().next_sequence as usize], segments.producers_max);
            assert_eq!(all(log.producers()), all(&expected), "after {changes} changes of opening, {left:?}");
        }
        if done {
            break;
        }
    }
}

#[test]
fn a_table_larger_than_a_buffer_goes_into_a_segment_in_parts() {
    let segments = SegmentOptions { segment_bytes: 200 << 10, producers_max: 1000, ..SegmentOptions::default() };
    let mut bench = Bench::with_segments(small(), SimDisk::new(), segments);
    let mut stamps = Vec::new();
    let mut push = |bench: &mut Bench, producer: u8, sequence| {
        bench.push_of(Tier::Batch, producer, sequence);
        let producer = ProducerId::from_bytes([producer; 16]).unwrap();
        stamps.push(Some(ProducerStamp { producer, sequence }));
    };
    let settle = |bench: &mut Bench| {
        for _ in 0..30 {
            bench.poll();
            while bench.complete() {}
            while bench.keep() {}
            bench.advance(Nanos::from_millis(3));
        }
    };
    for step in 0..40 {
        for producer in 1..=50 {
            // Far apart: each window's bitmap is as long as can be.
            push(&mut bench, producer, 2 + step * 400);
        }
        settle(&mut bench);
        for producer in 1..=50 {
            push(&mut bench, producer, 3 + step * 400);
        }
        settle(&mut bench);
    }
    assert!(bench.log.keeper_counters().sealed.get() >= 1);
    bench.run_to_the_end();
    let again = OpenLog::open(bench.ring.disk.after_crash(Left::ALL), identity(), segments).unwrap();
    assert_eq!(all(again.producers()), all(&table_of(&stamps, 1000)));
    assert!(verify(bench.ring.disk.clone(), 0).unwrap().is_whole());
}

#[test]
fn a_mended_log_keeps_what_the_last_segment_tells() {
    let mut bench = Bench::with_segments(small(), SimDisk::new(), tiny());
    let stamps = stream(&mut bench, 20);
    bench.run_to_the_end();
    assert!(bench.log.finish(WallNanos(1)).unwrap());
    let disk = bench.ring.disk.clone();
    let name = survey(&disk, 0).unwrap()[1].name().to_string();
    let mut bytes = disk.content()[&name].clone();
    bytes[6000] ^= 1;
    disk.put(&name, &bytes);
    assert_eq!(repair(&disk, &identity()).unwrap().len(), 1);
    let log = OpenLog::open(disk, identity(), tiny()).unwrap();
    assert_eq!(all(log.producers()), all(&table_of(&stamps, 4)), "the damage is before the last snapshot");
}

#[test]
fn a_trickle_of_single_events_is_at_most_half_as_long_again_as_its_records() {
    // 100 a second for a minute, 64 bytes each, every one a batch and a write of its own.
    let mut bench = Bench::new(AppenderOptions { allocate_bytes: 0, ..small() }, SimDisk::new());
    let topic_bytes = "sensors/temp".len();
    for _ in 0..6000 {
        bench.push_topic(Tier::Batch, "sensors/temp", &[b'x'; 64]);
        bench.poll();
        bench.advance(Nanos::from_millis(10));
        bench.poll();
        while bench.complete() {}
    }
    bench.run_to_the_end();
    assert!(bench.log.finish(WallNanos(1)).unwrap());
    let report = verify(bench.ring.disk.clone(), 0).unwrap();
    assert_eq!((report.records, report.batches, report.closed), (6000, 6000, true));
    let record_bytes = 6000 * (26 + topic_bytes + 64) as u64;
    let file_bytes = bench.ring.disk.content()["events.bin"].len() as u64;
    // The segment's header in its block, both marks, an empty snapshot, and 48 bytes a batch: 1.48.
    assert_eq!(file_bytes, 4096 + 3 * 48 + 6000 * 48 + record_bytes);
    assert!(file_bytes * 2 <= record_bytes * 3, "{file_bytes} bytes for {record_bytes} of records");
}
