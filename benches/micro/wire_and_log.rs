//! The two formats: frames of 80 bytes on the wire, and their records in the log, batch by batch of what the appender's buffers hold.

use std::hint::black_box;

use eventstream::metrics::latency::LatencyRecorder;
use eventstream::pool::Source;
use eventstream::storage::format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchMark, Contents, LogKey, RECORD_HEADER_BYTES, RecordHeader, Records, crc32c,
    crc32c_append, encode_record,
};
use eventstream::sys::clock::{Clock, HostClock, Nanos, WallNanos};
use eventstream::wire::{FrameLimits, Parsed, Priority, Tier, encode_into, parse};

use crate::rig::{BODY_BYTES, PAYLOAD_BYTES, Pass, Row, TOPIC, timed};

/// As a receive chunk holds them: 32 KiB.
const FRAMES: usize = 400;
const CHUNKS: usize = 64;
/// As a staging buffer holds them: 2 MiB.
const BATCH_BYTES: usize = 2 << 20;
const RECORD_BYTES: usize = RECORD_HEADER_BYTES + PAYLOAD_BYTES;
const RECORDS: usize = (BATCH_BYTES - BATCH_HEADER_BYTES) / RECORD_BYTES;
/// As the appender's checksum follows its records.
const CHECKSUM_STEP_BYTES: usize = 32 << 10;
const LATENCIES: usize = 64 * 1024;
const CLOCK_READS: usize = 16 * 1024;

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("wire, parse a frame of 80 bytes", CHUNKS * FRAMES, parse_frames),
        Row::new("wire, encode it", CHUNKS * FRAMES, encode_frames),
        Row::new("log, encode its record of 99 bytes", RECORDS, encode_records),
        Row::new("log, checksum of a record, 32 KiB at a time", RECORDS, checksum),
        Row::new("log, encode a batch of 2 MiB: records, checksum, header", RECORDS, encode_batch),
        Row::new("log, read it back: header, checksum, records", RECORDS, read_back),
        Row::new("latency, record into a histogram", LATENCIES, record_latencies),
        Row::new("clock, a read", CLOCK_READS, read_clock),
    ]
}

const PRIORITIES: [Priority; 5] = [Priority::Low, Priority::Medium, Priority::Low, Priority::Medium, Priority::High];

fn encode_chunk(bytes: &mut Vec<u8>, body: &[u8]) {
    for priority in PRIORITIES.iter().cycle().take(FRAMES) {
        encode_into(bytes, *priority, TOPIC, body).expect("a frame as the format has them");
    }
}

fn encode_frames() -> Pass {
    let mut bytes = Vec::with_capacity(FRAMES * 80);
    let body = [b'x'; BODY_BYTES];
    Box::new(move || {
        timed(|| {
            for _ in 0..CHUNKS {
                bytes.clear();
                encode_chunk(&mut bytes, black_box(&body));
            }
        })
    })
}

fn parse_frames() -> Pass {
    let mut bytes = Vec::new();
    encode_chunk(&mut bytes, &[b'x'; BODY_BYTES]);
    assert_eq!(bytes.len(), FRAMES * 80);
    let limits = FrameLimits::default();
    Box::new(move || {
        timed(|| {
            for _ in 0..CHUNKS {
                let mut rest = black_box(&bytes[..]);
                while let Ok(Parsed::Frame(frame)) = parse(rest, &limits) {
                    rest = &rest[frame.frame_bytes..];
                    black_box(frame);
                }
                assert!(rest.is_empty(), "all are whole");
            }
        })
    })
}

fn record(number: u64) -> RecordHeader {
    RecordHeader {
        id: number,
        received_at: WallNanos(1_700_000_000_000_000_000 + number),
        priority: Priority::Low,
        tier: Tier::Batch,
        source: Source::Tcp,
        topic_bytes: TOPIC.len() as u16,
        producer: None,
    }
}

/// What the appender does for a record, without the event that it comes from.
fn append(buffer: &mut [u8], end: &mut usize, contents: &mut Contents, number: u64, payload: &[u8]) {
    let header = record(number);
    *end += encode_record(&mut buffer[*end..], &header, None, payload).expect("room for all");
    contents.add(&header);
}

fn payload() -> Vec<u8> {
    [TOPIC.as_bytes(), &[b'x'; BODY_BYTES]].concat()
}

fn encode_records() -> Pass {
    let (mut buffer, payload) = (vec![0; BATCH_BYTES], payload());
    Box::new(move || {
        timed(|| {
            let (mut end, mut contents) = (BATCH_HEADER_BYTES, Contents::default());
            (0..RECORDS as u64).for_each(|number| append(&mut buffer, &mut end, &mut contents, number, black_box(&payload)));
            black_box(contents);
        })
    })
}

fn checksum() -> Pass {
    let mut buffer = vec![0; BATCH_BYTES];
    encode_whole_batch(&mut buffer, &payload());
    Box::new(move || {
        timed(|| {
            let payload = black_box(&buffer[BATCH_HEADER_BYTES..][..RECORDS * RECORD_BYTES]);
            black_box(payload.chunks(CHECKSUM_STEP_BYTES).fold(0, crc32c_append));
        })
    })
}

fn log_key() -> LogKey {
    LogKey::of(7)
}

/// The checksum follows the records while they are in the cache that they were written to, as the appender's does.
fn encode_whole_batch(buffer: &mut [u8], payload: &[u8]) {
    let (mut end, mut contents) = (BATCH_HEADER_BYTES, Contents::default());
    let (mut crc, mut crc_end) = (0, end);
    for number in 0..RECORDS as u64 {
        append(buffer, &mut end, &mut contents, number, payload);
        if end - crc_end >= CHECKSUM_STEP_BYTES {
            crc = crc32c_append(crc, &buffer[crc_end..end]);
            crc_end = end;
        }
    }
    let header = BatchHeader {
        mark: BatchMark::Data,
        payload_bytes: (end - BATCH_HEADER_BYTES) as u32,
        record_count: RECORDS as u32,
        first_sequence: 1,
        sealed_at: contents.latest_receipt,
        durable_sequence: 1,
        durable_bytes_lag: 0,
        epoch: 1,
        chain: 0,
        payload_crc: crc32c_append(crc, &buffer[crc_end..end]),
    };
    buffer[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode(log_key()).0);
}

fn encode_batch() -> Pass {
    let (mut buffer, payload) = (vec![0; BATCH_BYTES], payload());
    Box::new(move || timed(|| encode_whole_batch(&mut buffer, black_box(&payload))))
}

fn read_back() -> Pass {
    let mut buffer = vec![0; BATCH_BYTES];
    encode_whole_batch(&mut buffer, &payload());
    Box::new(move || {
        timed(|| {
            let (header, _) = BatchHeader::decode(black_box(&buffer), log_key()).expect("it was encoded");
            let payload = &buffer[BATCH_HEADER_BYTES..][..header.payload_bytes as usize];
            assert_eq!(crc32c(payload), header.payload_crc);
            let records = Records::new(payload).inspect(|record| _ = black_box(record)).filter(Result::is_ok).count();
            assert_eq!(records, RECORDS);
        })
    })
}

fn record_latencies() -> Pass {
    let (mut recorder, _shared) = LatencyRecorder::new();
    // Spread over three decades, without a pattern that the CPU could learn.
    let latencies: Vec<Nanos> =
        (1..=LATENCIES as u64).map(|n| Nanos(1_000 + n.wrapping_mul(n).wrapping_mul(n) % 1_000_000)).collect();
    Box::new(move || timed(|| black_box(&latencies).iter().for_each(|latency| recorder.record(*latency))))
}

fn read_clock() -> Pass {
    Box::new(|| timed(|| (0..CLOCK_READS).for_each(|_| _ = black_box(HostClock.now()))))
}
