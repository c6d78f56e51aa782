//! A log of many GiB: opening it reads the ends of its sealed segments and the active one, and takes the memory of one batch.
//!
//! Ignored by default, as it writes that much: `make large-log`. It looks at what was read and at the memory used; times are printed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use eventstream::pool::{ProducerId, ProducerStamp, Source};
use eventstream::storage::folder::DataFolder;
use eventstream::storage::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, BatchMark, Contents, FOOTER_BYTES, Footer, LogKey, RecordHeader, SegmentHeader,
    encode_record,
};
use eventstream::storage::names::SegmentName;
use eventstream::storage::{LogIdentity, SegmentOptions};
use eventstream::sys::clock::WallNanos;
use eventstream::wire::{Priority, Tier};

const SEGMENT_BYTES: u64 = 1 << 30;
const BATCH_BYTES: usize = 2 << 20;
const LOG_ID: u64 = 0x5eed_5eed;

/// The payload of a full batch: events of 64-byte bodies, every other one of a session.
fn payload() -> (Vec<u8>, u32, Contents) {
    let producer = ProducerId::from_bytes([7; 16]).expect("not zero");
    let (mut payload, mut used, mut records, mut contents) =
        (vec![0; BATCH_BYTES - BATCH_HEADER_BYTES], 0, 0, Contents::default());
    let event = [b"sensors/temp".as_slice(), &[b'x'; 64]].concat();
    loop {
        let stamp = ProducerStamp { producer, sequence: u64::from(records) + 1 };
        let header = RecordHeader {
            id: u64::from(records) + 1,
            received_at: WallNanos(1_700_000_000_000_000_000),
            priority: Priority::Low,
            tier: Tier::Batch,
            source: Source::Tcp,
            topic_bytes: 12,
            producer: (records % 2 == 0).then_some(stamp),
        };
        // The first record spells the producer's id out, behind its fixed part and the sequence.
        let place = (records > 0).then_some(34);
        let Some(bytes) = encode_record(&mut payload[used..], &header, place, &event) else { break };
        contents.add(&header);
        (used, records) = (used + bytes, records + 1);
    }
    payload.truncate(used);
    (payload, records, contents)
}

/// Appends a batch of `payload` to a segment.
fn append(file: &File, so_far: &mut Footer, mark: BatchMark, payload: &[u8], records: u32, contents: &Contents, crc: u32) {
    let header = BatchHeader {
        mark,
        payload_bytes: payload.len() as u32,
        record_count: records,
        first_sequence: so_far.end_sequence,
        sealed_at: WallNanos(1_700_000_000_000_000_000),
        durable_sequence: so_far.end_sequence,
        durable_bytes_lag: u16::MAX,
        epoch: so_far.epoch,
        chain: so_far.chain,
        payload_crc: crc,
    };
    let (bytes, chain) = header.encode(LogKey::of(LOG_ID));
    file.write_all_at(&bytes, so_far.offset).expect("there is space");
    file.write_all_at(payload, so_far.offset + BATCH_HEADER_BYTES as u64).expect("there is space");
    so_far.add(&header, contents, chain);
}

/// A log of so many segments of 1 GiB, the last one active and never closed.
fn make_log(folder: &Path, segments: u64) -> u64 {
    let (payload, records, contents) = payload();
    let crc = crc32c::crc32c(&payload);
    let mut header = SegmentHeader {
        node: 0,
        log_id: LOG_ID,
        created_at: WallNanos(1),
        first_sequence: 0,
        epoch: 1,
        follows: 0,
        chain: 0,
        recycled: false,
        mended: false,
        latest_receipt_before: WallNanos(0),
    };
    for segment in 1..=segments {
        let is_active = segment == segments;
        let name = if is_active { SegmentName::Active(0) } else { SegmentName::Sealed(0, header.first_sequence) };
        let file = File::create(folder.join(name.to_string())).expect("the folder can be written");
        file.write_all_at(&header.encode(), 0).expect("there is space");
        file.set_len(BLOCK_BYTES as u64).expect("there is space");
        let mut so_far = Footer::of_empty(&header);
        append(&file, &mut so_far, BatchMark::ProducersEnd, &[], 0, &Contents::default(), 0);
        while so_far.offset < SEGMENT_BYTES {
            append(&file, &mut so_far, BatchMark::Data, &payload, records, &contents, crc);
        }
        if is_active {
            return so_far.end_sequence;
        }
        file.write_all_at(&so_far.encode(), so_far.offset).expect("there is space");
        header = so_far.successor(WallNanos(1), 1);
    }
    0
}

/// A number of a file in /proc/self: `VmHWM` of status in KiB, `rchar` of io in bytes.
fn of_self(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).expect("proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells it");
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number")
}

#[test]
#[ignore = "writes 10 GiB: make large-log"]
fn a_log_of_10_gib_is_opened_with_the_memory_of_a_batch_and_without_reading_what_is_sealed() {
    let segments = std::env::var("LARGE_LOG_GIB").ok().and_then(|text| text.parse().ok()).unwrap_or(10).max(2);
    // Beside the target folder: the system's own folder for temporary files may be in memory.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder can be written");
    let started = Instant::now();
    let end_sequence = make_log(place.path(), segments);
    println!("{segments} GiB, {end_sequence} records, made in {:.1} s", started.elapsed().as_secs_f64());

    let folder = DataFolder::open(place.path(), 1).expect("a good folder");
    let identity = LogIdentity { node: 0, log_id: 1, wall: WallNanos(2) };
    let (memory_before, read_before) = (of_self("status", "VmHWM:"), of_self("io", "rchar:"));
    let started = Instant::now();
    let log = folder.open_log(identity, SegmentOptions::default()).expect("a good log");
    let took = started.elapsed();
    let memory_kib = of_self("status", "VmHWM:") - memory_before;
    let read = of_self("io", "rchar:") - read_before;
    println!("opened in {:.2} s, {memory_kib} KiB more at most, {} MiB read", took.as_secs_f64(), read >> 20);
    println!("{}", log.describe());
    assert_eq!(log.report().next_sequence, end_sequence);
    assert_eq!(log.producers().len(), 1);
    // The window, one batch, the table (2.2 MiB, and its copy), and what allocators keep.
    assert!(memory_kib < 32 << 10, "{memory_kib} KiB");
    // The active segment, its last batch perhaps twice, and two ends of each sealed one.
    let ends = segments * 2 * (BLOCK_BYTES + FOOTER_BYTES) as u64;
    assert!(read < SEGMENT_BYTES * 5 / 4 + ends, "{read} bytes");
}
