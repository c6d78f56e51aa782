//! A log that the engine wrote, cut at every byte, with bits flipped, with things behind its end: what recovery and readers make of it.
//!
//! The same rules are checked in detail beside the code, on made-up logs and a simulated disk. Here it is the bytes that the engine really writes,
//! and its real files.

mod support;

use std::path::Path;

use eventstream::sim::rng::Rng;
use eventstream::storage::log_file::DiskFile;
use eventstream::storage::node_reader::NodeReader;
use eventstream::storage::reader::{LogReader, ReadError};
use eventstream::storage::recovery::recover;
use eventstream::storage::segments::{LogFault, SegmentFault};
use eventstream::storage::{DiskFolder, LogIdentity, RecoveryReport};
use eventstream::sys::clock::WallNanos;
use support::numbered::seed;
use support::*;

const LOG: &str = "events.bin";

/// A data folder in memory where there is such a file system: recovery syncs, and these tests recover thousands of times.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

/// An engine that stored events in at least `batches` batches; how it is to end is the caller's.
fn written(data: &Path, batches: u64, flags: &[&str]) -> Server {
    let server = Server::start_on(data, flags);
    for n in 0..batches {
        let body = |k: u64| format!("{n} {k} {}", "x".repeat(((n * 7 + k) % 40) as usize));
        send_all(&server, &(0..3).flat_map(|k| frame((k % 5) as u8, "damage/test", body(k).as_bytes())).collect::<Vec<u8>>());
        server.wait_stored((n + 1) * 3); // So each round has a batch of its own.
    }
    server
}

fn recovered(data: &Path) -> Result<RecoveryReport, SegmentFault> {
    recover(&DiskFolder::new(data), &LogIdentity { node: 0, log_id: 1, wall: WallNanos(1) })
}

/// Every file of a folder.
fn contents(data: &Path) -> Vec<(String, Vec<u8>)> {
    let names =
        std::fs::read_dir(data).expect("there").map(|entry| entry.expect("there").file_name().into_string().expect("text"));
    let mut names: Vec<String> = names.filter(|name| name.starts_with("events")).collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), std::fs::read(data.join(name)).expect("readable"))).collect()
}

/// A folder with just these files.
fn restore(data: &Path, files: &[(String, Vec<u8>)]) {
    for (name, _) in contents(data) {
        std::fs::remove_file(data.join(name)).expect("there");
    }
    files.iter().for_each(|(name, bytes)| std::fs::write(data.join(name), bytes).expect("writable"));
}

/// The bodies that can be read, and what ended the reading.
fn read(data: &Path) -> (Vec<Vec<u8>>, Option<ReadError>) {
    let (mut bodies, mut end) = (Vec::new(), None);
    match NodeReader::open(DiskFolder::to_read(data), 0) {
        Err(error) => end = Some(error),
        Ok(reader) => {
            for record in reader.into_records() {
                match record {
                    Ok(record) => bodies.push(record.body),
                    Err(error) => end = Some(error),
                }
            }
        }
    }
    (bodies, end)
}

/// Where each batch of a segment ends, and how many records there are up to there; the first entry is the segment's header.
fn batch_ends(segment: &Path) -> Vec<(u64, u64)> {
    let mut reader = LogReader::open(DiskFile::open_to_read(segment).expect("there")).expect("a log");
    let first = reader.end_sequence();
    let mut ends = vec![(reader.valid_bytes(), 0)];
    while reader.next_batch().expect("a good log").is_some() {
        ends.push((reader.valid_bytes(), reader.end_sequence() - first));
    }
    ends
}

#[test]
fn a_log_cut_at_every_byte_opens_with_exactly_its_valid_prefix() {
    let folder = folder();
    let data = folder.path();
    written(data, 4, &[]).kill();
    let log = std::fs::read(data.join(LOG)).expect("there");
    let (bodies, _) = read(data);
    let ends = batch_ends(&data.join(LOG));
    let valid = ends.last().expect("not empty").0;
    assert!(ends.len() > 4 && bodies.len() == 12, "{ends:?}");
    for cut in 0..=valid + 8 {
        restore(data, &[(LOG.to_owned(), log[..cut as usize].to_vec())]);
        let report = recovered(data).unwrap_or_else(|fault| panic!("cut at {cut}: {fault:?}"));
        let (_, records) = ends.iter().rfind(|(end, _)| *end <= cut).copied().unwrap_or_default();
        assert_eq!(report.records, records, "cut at {cut}");
        assert!(read(data).0.iter().eq(&bodies[..records as usize]), "cut at {cut}");
        let once = contents(data);
        recovered(data).expect("as before");
        assert!(contents(data) == once, "cut at {cut}: recovering twice gives the same bytes");
    }
}

#[test]
fn a_sealed_segment_that_lost_its_end_is_damage_wherever_it_was_cut() {
    let folder = folder();
    let data = folder.path();
    let server = Server::start_on(data, &["--segment-bytes=64KiB"]);
    let mut sent = 0u64;
    while contents(data).len() < 4 {
        let body = |n: u64| format!("{n} {}", "x".repeat(300));
        send_all(
            &server,
            &(sent..sent + 100).flat_map(|n| frame((n % 5) as u8, "damage/test", body(n).as_bytes())).collect::<Vec<u8>>(),
        );
        sent += 100;
        server.wait_stored(sent);
        assert!(sent < 1_000_000, "never so many segments");
    }
    server.stop().assert_clean();
    let whole = contents(data);
    let mut chance = Rng::new(seed());
    for _ in 0..200 {
        let mut files = whole.clone();
        let (name, bytes) = &mut files[1]; // The second by name is sealed: `events.bin` comes first.
        assert_ne!(name, LOG);
        bytes.truncate(chance.index(bytes.len()));
        let cut = bytes.len();
        restore(data, &files);
        let fault = recovered(data).expect_err("a loud refusal").fault;
        assert!(matches!(fault, LogFault::Damaged(_) | LogFault::Foreign), "cut at {cut}: {fault:?}");
        assert!(contents(data) == files, "cut at {cut}: what is damaged is left alone");
    }
}

#[test]
fn a_flipped_bit_never_gives_a_wrong_body_and_takes_nothing_durable_silently() {
    let folder = folder();
    let data = folder.path();
    written(data, 12, &[]).stop().assert_clean();
    let log = std::fs::read(data.join(LOG)).expect("there");
    let (bodies, _) = read(data);
    let mut chance = Rng::new(seed());
    let (mut loud, mut harmless) = (0, 0);
    // Between them are batches with records; before them the header's block, most of which is empty, behind them the mark of the clean end.
    let ends = batch_ends(&data.join(LOG));
    let records = ends[0].0..ends[ends.len() - 2].0;
    for _ in 0..2_000 {
        let mut flipped = log.clone();
        let bit = chance.index(log.len() * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        restore(data, &[(LOG.to_owned(), flipped)]);
        let before = contents(data);
        let (readable, _) = read(data);
        assert!(bodies.starts_with(&readable), "bit {bit}: a body that was never written");
        match recovered(data) {
            Ok(report) => {
                // A clean end had called every record durable.
                assert_eq!(report.records, bodies.len() as u64, "bit {bit}: silently cut");
                assert!(!records.contains(&(bit as u64 / 8)), "bit {bit}: not noticed");
                harmless += 1;
            }
            Err(_) => {
                assert!(contents(data) == before, "bit {bit}: what is damaged is left alone");
                loud += 1;
            }
        }
    }
    eprintln!("{loud} flips were refused loudly, {harmless} hit nothing that matters");
}

#[test]
fn what_lies_behind_a_crashed_log_is_left_alone_or_cut_and_never_becomes_a_record() {
    let folder = folder();
    let data = folder.path();
    written(data, 4, &[]).kill();
    let (bodies, _) = read(data);
    let ends = batch_ends(&data.join(LOG));
    let [.., (from, _), (end, _)] = ends[..] else { panic!("batches: {ends:?}") };
    let mut log = std::fs::read(data.join(LOG)).expect("there");
    log.truncate(end as usize);
    let last = log[from as usize..].to_vec();
    let mut chance = Rng::new(seed());
    let garbage: Vec<u8> = (0..5_000).map(|_| chance.next_u64() as u8).collect();
    let tails = [
        ("zeros", vec![0; 70_000], 0),
        ("garbage", garbage.clone(), garbage.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)),
        ("the last batch once more", last.clone(), last.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1)),
        ("a log's beginning", log[..5_000.min(log.len())].to_vec(), 1),
        ("all ones", vec![0xff; 5_000], 5_000),
    ];
    for (what, tail, cut) in tails {
        restore(data, &[(LOG.to_owned(), [&log[..], &tail].concat())]);
        let report = recovered(data).unwrap_or_else(|fault| panic!("{what}: {fault:?}"));
        assert_eq!(read(data).0, bodies, "{what}");
        assert!(
            report.cut_bytes >= cut.min(1) as u64 && (what == "a log's beginning" || report.cut_bytes == cut as u64),
            "{what}: {report:?}"
        );
    }
}

#[test]
fn a_batch_taken_out_of_the_middle_is_a_loud_gap() {
    let folder = folder();
    let data = folder.path();
    written(data, 6, &[]).stop().assert_clean();
    let (bodies, _) = read(data);
    let log = std::fs::read(data.join(LOG)).expect("there");
    let ends = batch_ends(&data.join(LOG));
    for pair in ends[2..ends.len() - 1].windows(2) {
        let (from, to) = (pair[0].0 as usize, pair[1].0 as usize);
        for gap in [Vec::new(), vec![0; to - from]] {
            restore(data, &[(LOG.to_owned(), [&log[..from], &gap, &log[to..]].concat())]);
            let (readable, end) = read(data);
            assert!(bodies.starts_with(&readable));
            if pair[0].1 == pair[1].1 {
                continue; // A batch without records: an opening.
            }
            assert!(matches!(end, Some(ReadError::Damaged(_))), "bytes {from} to {to}: {end:?}");
            assert!(matches!(recovered(data).map_err(|fault| fault.fault), Err(LogFault::Damaged(_))), "bytes {from} to {to}");
        }
    }
}
