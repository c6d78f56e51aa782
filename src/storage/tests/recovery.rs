use proptest::prelude::*;

use crate::sim::disk::SimDisk;
use crate::storage::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, BatchMark, FIRST_BATCH_OFFSET, FOOTER_BYTES, FormatError, LogKey,
    SEGMENT_HEADER_BYTES,
};
use crate::storage::log_file::LogFolder;
use crate::storage::node_reader::{MergeOrder, MergedReader, NodeReader, verify};
use crate::storage::open::OpenLog;
use crate::storage::reader::ReadError;
use crate::storage::segments::LogFault;
use crate::storage::testing::{a_log, active, disk_of, frozen, identity, recover_disk};
use crate::storage::walk::{Fault, Step, Walk};
use crate::storage::{LogIdentity, SegmentOptions};

/// Where batches begin, and their headers.
fn batches(bytes: &[u8]) -> Vec<(usize, BatchHeader)> {
    let file = disk_of(bytes).open("events.bin").unwrap();
    let mut walk = Walk::open(file).unwrap().unwrap();
    let mut found = Vec::new();
    while let Step::Batch(header, offset) = walk.step().unwrap() {
        found.push((offset as usize, header));
    }
    found
}

fn payloads(bytes: &[u8]) -> Vec<Vec<u8>> {
    let records = NodeReader::open(disk_of(bytes), 0).unwrap().into_records();
    records.map_while(Result::ok).map(|record| record.body).collect()
}

/// The bytes of the first segment: of the sealed one without its footer, where it was cut.
fn kept(disk: &SimDisk) -> Vec<u8> {
    match disk.content().remove("events.node0.00000000000000000000.bin") {
        Some(mut sealed) => {
            sealed.truncate(sealed.len() - FOOTER_BYTES);
            sealed
        }
        None => active(disk),
    }
}

fn reseal(bytes: &mut [u8], at: usize, log_id: u64) {
    let crc = crc32c::crc32c(&bytes[at..at + 44]) ^ (log_id ^ (log_id >> 32)) as u32;
    bytes[at + 44..at + 48].copy_from_slice(&crc.to_le_bytes());
}

/// The log as a crash leaves it: without the mark that closes it.
fn unclosed(log: &[u8]) -> Vec<u8> {
    log[..log.len() - BATCH_HEADER_BYTES].to_vec()
}

#[test]
fn a_file_cut_at_any_byte_keeps_exactly_its_valid_prefix() {
    let log = a_log(4, 3);
    let starts = batches(&log);
    for len in 0..=log.len() {
        let file = disk_of(&log[..len]);
        let report = recover_disk(&file).unwrap_or_else(|fault| panic!("cut at {len}: {fault:?}"));
        let valid = starts.iter().map(|(at, header)| at + header.batch_bytes() as usize).filter(|end| *end <= len).max();
        if len < SEGMENT_HEADER_BYTES {
            assert_eq!((report.valid_bytes, report.cut_bytes), (FIRST_BATCH_OFFSET, len as u64), "cut at {len}");
            continue;
        }
        let valid = valid.unwrap_or(FIRST_BATCH_OFFSET as usize);
        let kept = kept(&file);
        assert_eq!(kept[..valid.min(len)], log[..valid.min(len)], "cut at {len}");
        if len > valid {
            assert_eq!(kept.len(), valid, "cut at {len}");
            // Counted up to the last byte that is not zero.
            let last = log[valid..len].iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            assert_eq!(report.cut_bytes, last as u64, "cut at {len}");
        }
        // It opens, and goes on.
        let reopened = OpenLog::open(file, identity(), SegmentOptions::default()).unwrap();
        assert_eq!(reopened.report().next_sequence, report.next_sequence);
    }
}

#[test]
fn recovering_twice_gives_the_same_bytes() {
    let log = a_log(4, 3);
    let mut zeros = unclosed(&log);
    zeros.resize(zeros.len() + 3 * BLOCK_BYTES, 0);
    let garbage = [unclosed(&log), vec![0xAB; 777]].concat();
    for bytes in
        [log.clone(), zeros, garbage, log[..log.len() - 50].to_vec(), log[..10].to_vec(), log[..100].to_vec(), Vec::new()]
    {
        let file = disk_of(&bytes);
        let first = recover_disk(&file).unwrap();
        let once = file.content();
        let second = recover_disk(&file).unwrap();
        assert_eq!(file.content(), once);
        assert_eq!((second.valid_bytes, second.cut_bytes), (first.valid_bytes, 0));
    }
}

#[test]
fn a_tail_of_zeros_is_left_alone_and_no_loss() {
    let mut bytes = unclosed(&a_log(3, 3));
    let valid = bytes.len();
    bytes.resize(valid + 300 * BLOCK_BYTES, 0);
    let report = recover_disk(&frozen(&bytes)).unwrap();
    assert_eq!((report.valid_bytes, report.cut_bytes, report.cut_fault), (valid as u64, 0, None));
}

#[test]
fn a_tail_of_garbage_is_cut_and_counted() {
    let log = unclosed(&a_log(3, 3));
    let file = disk_of(&[log.clone(), vec![0xAB; 777], vec![0; 10_000]].concat());
    let report = recover_disk(&file).unwrap();
    assert_eq!((report.cut_bytes, report.records), (777, 9));
    assert_eq!(kept(&file), log);
}

#[test]
fn any_flipped_bit_is_found_and_never_gives_a_wrong_payload() {
    let log = a_log(3, 2);
    let whole = payloads(&log);
    let padding = SEGMENT_HEADER_BYTES..FIRST_BATCH_OFFSET as usize;
    for at in (0..log.len()).filter(|at| !padding.contains(at)) {
        let mut bytes = log.clone();
        bytes[at] ^= 1 << (at % 8);
        let file = frozen(&bytes);
        // The closing mark calls everything before it durable, and only it can pass for a torn tail.
        if at < log.len() - BATCH_HEADER_BYTES {
            match recover_disk(&file) {
                Err(LogFault::Damaged(damage)) => assert!(damage.offset as usize <= at, "byte {at}"),
                Err(LogFault::Foreign) => assert!(at < 8, "byte {at}"),
                other => panic!("byte {at}: {other:?}"),
            }
        }
        if let Ok(reader) = NodeReader::open(file.clone(), 0) {
            let read: Vec<Vec<u8>> = reader.into_records().map_while(Result::ok).map(|record| record.body).collect();
            assert_eq!(read[..], whole[..read.len()], "byte {at}: a prefix, and no other payload");
        }
    }
}

#[test]
fn damage_that_nothing_later_calls_durable_is_cut_as_a_torn_tail() {
    let log = unclosed(&a_log(3, 3));
    let (last, header) = *batches(&log).last().unwrap();
    let mut bytes = log.clone();
    bytes[last + BATCH_HEADER_BYTES + 5] ^= 1;
    let file = disk_of(&bytes);
    let report = recover_disk(&file).unwrap();
    assert_eq!((report.cut_fault, report.next_sequence), (Some(Fault::Payload), header.first_sequence));
    assert_eq!(kept(&file), log[..last]);
}

#[test]
fn damage_names_the_lost_sequences() {
    let mut log = a_log(5, 3);
    let starts = batches(&log);
    let (at, header) = starts[3];
    assert_eq!(header.mark, BatchMark::Data);
    log[at + BATCH_HEADER_BYTES + 3] ^= 4;
    let LogFault::Damaged(damage) = recover_disk(&frozen(&log)).unwrap_err() else { panic!("it is damage") };
    assert_eq!((damage.offset, damage.first_lost), (at as u64, header.first_sequence));
    assert_eq!(damage.resume, Some((starts[4].0 as u64, header.end_sequence())));
    assert_eq!(
        damage.to_string(),
        format!("damage at byte {at} (batch payload: its checksum does not fit): records 3 to 5 lost")
    );

    let report = verify(frozen(&log), 0).unwrap();
    assert_eq!((report.damage_count, report.records, report.closed), (1, 12, true));
}

#[test]
fn several_damages_are_all_found() {
    let mut log = a_log(9, 3);
    let starts = batches(&log);
    for index in [2, 3, 6] {
        log[starts[index].0 + 20] ^= 0xFF;
    }
    let report = verify(frozen(&log), 0).unwrap();
    assert_eq!((report.damage_count, report.records), (2, 18), "two that follow each other are one hole");
    assert!(!report.is_whole());
}

#[test]
fn a_duplicated_batch_is_cut_and_a_missing_one_is_damage() {
    let log = a_log(4, 3);
    let starts = batches(&log);
    let twice = [&log[..starts[3].0], &log[starts[2].0..starts[3].0]].concat();
    let report = recover_disk(&disk_of(&twice)).unwrap();
    assert_eq!(report.cut_fault, Some(Fault::Sequence { expected: 3, found: 0 }));
    assert_eq!(report.next_sequence, 3);

    // Without the second one that has records; the third one knows that it was durable.
    let gapped = [&log[..starts[3].0], &log[starts[4].0..]].concat();
    let LogFault::Damaged(damage) = recover_disk(&frozen(&gapped)).unwrap_err() else { panic!("it is damage") };
    assert_eq!(damage.fault, Fault::Sequence { expected: 3, found: 6 });
    assert_eq!(damage.resume, Some((starts[3].0 as u64, 6)));
}

#[test]
fn a_batch_of_an_older_epoch_or_another_log_is_not_taken() {
    let log = unclosed(&a_log(3, 3));
    let (last, _) = *batches(&log).last().unwrap();
    let (id, other_id) = (identity().log_id, identity().log_id + 1);
    let other_log = Fault::Header(FormatError::Checksum);
    for (at, value, log_id, fault) in [(4, 0, id, Fault::Epoch), (24, 0, other_id, other_log), (36, 0x77, id, Fault::Chain)] {
        let mut bytes = log.clone();
        bytes[last + at] = value;
        reseal(&mut bytes, last, log_id);
        let disk = disk_of(&bytes);
        let report = recover_disk(&disk).unwrap();
        assert_eq!((report.cut_fault, kept(&disk).len()), (Some(fault), last));
    }
}

#[test]
fn a_body_that_looks_like_a_batch_is_not_taken_for_one() {
    // A sender's forgery: all fits, but it can't know the log id.
    let mut forged = batches(&a_log(1, 1))[1].1;
    forged.epoch = (1 << 28) - 1;
    (forged.first_sequence, forged.durable_sequence, forged.durable_bytes_lag) = (1000, 1000, 0);
    let torn = |key| [unclosed(&a_log(2, 3)), b"half a batch ".to_vec(), forged.encode(key).0.to_vec()].concat();
    let known = recover_disk(&frozen(&torn(LogKey::of(identity().log_id))));
    assert!(matches!(known, Err(LogFault::Damaged(_))), "with the id it would pass: {known:?}");
    let torn = torn(LogKey::of(0x1234));
    let report = recover_disk(&disk_of(&torn)).unwrap();
    assert_eq!(report.next_sequence, 6);
    assert!(report.cut_bytes > 0);
}

#[test]
fn a_huge_length_in_a_header_allocates_nothing_and_is_cut() {
    let log = unclosed(&a_log(2, 3));
    let (last, _) = *batches(&log).last().unwrap();
    for length in [(1u64 << 26) - 1, (64 << 20) - 48, 1 << 20] {
        let mut bytes = log.clone();
        bytes[last + 8..last + 16].copy_from_slice(&(length | 3 << 26).to_le_bytes());
        reseal(&mut bytes, last, identity().log_id);
        let disk = disk_of(&bytes);
        recover_disk(&disk).unwrap();
        assert_eq!(kept(&disk).len(), last);
        let file = frozen(&bytes);
        assert_eq!(NodeReader::open(file.clone(), 0).unwrap().into_records().filter_map(Result::ok).count(), 3);
    }
}

#[test]
fn what_is_no_log_is_refused_unchanged() {
    for bytes in [b"abc".to_vec(), vec![7; 100], vec![0x11; 3 * BLOCK_BYTES], vec![0; 2 * BLOCK_BYTES]] {
        assert!(matches!(recover_disk(&frozen(&bytes)), Err(LogFault::Foreign)));
    }
    let mut newer = a_log(1, 1);
    newer[8] = 4;
    let crc = crc32c::crc32c(&newer[..92]);
    newer[92..96].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(recover_disk(&frozen(&newer)), Err(LogFault::Version { found: 4 })));
}

#[test]
fn the_log_of_another_node_is_refused() {
    let other = LogIdentity { node: 5, ..identity() };
    let disk = SimDisk::new();
    disk.put("events.node5.bin", &a_log(1, 1));
    disk.stop_after(0);
    let fault = OpenLog::open(disk, other, SegmentOptions::default()).unwrap_err().fault;
    assert!(matches!(fault, LogFault::OtherNode { found: 0 }));
}

#[test]
fn every_opening_has_an_epoch_of_its_own() {
    let file = SimDisk::new();
    let epochs: Vec<u32> =
        (0..5).map(|_| OpenLog::open(file.clone(), identity(), SegmentOptions::default()).unwrap().epoch()).collect();
    assert_eq!(epochs, [1, 2, 3, 4, 5]);
}

#[test]
fn a_damaged_log_is_told_by_a_reader_too() {
    let mut log = a_log(3, 3);
    let at = batches(&log)[1].0;
    log[at + BATCH_HEADER_BYTES] ^= 1;
    let file = frozen(&log);
    let mut reader = NodeReader::open(file.clone(), 0).unwrap();
    let Err(ReadError::Damaged(damage)) = reader.next() else { panic!("it is damage") };
    assert!(reader.skip(&damage));
    assert_eq!(reader.next().unwrap().unwrap().sequence, 3);
}

#[test]
fn logs_are_merged_by_time_or_sequence() {
    let (one, other) = (frozen(&a_log(2, 3)), frozen(&a_log(1, 2)));
    let merged = |order| {
        let readers = vec![NodeReader::open(one.clone(), 0).unwrap(), NodeReader::open(other.clone(), 0).unwrap()];
        let mut merged = MergedReader::new(readers, order);
        std::iter::from_fn(move || merged.next().unwrap()).map(|record| record.sequence).collect::<Vec<_>>()
    };
    assert_eq!(merged(MergeOrder::Sequence), [0, 0, 1, 1, 2, 3, 4, 5]);
    assert_eq!(merged(MergeOrder::Time), [0, 0, 1, 1, 2, 3, 4, 5]);
}

#[test]
fn batches_longer_than_the_window_are_read_and_found() {
    // 3 MiB of garbage between a torn batch and the evidence: scanned across windows, headers on their borders too.
    let log = a_log(3, 3);
    let starts = batches(&log);
    for shift in [0, 1, 47, 48, 49, 4096] {
        let mut bytes = log[..starts[2].0].to_vec();
        bytes.resize((1 << 20) + starts[2].0 - shift, 0xEE);
        bytes.extend_from_slice(&log[starts[3].0..]);
        let LogFault::Damaged(damage) = recover_disk(&frozen(&bytes)).unwrap_err() else { panic!("it is damage") };
        assert_eq!(damage.resume.map(|(at, _)| at), Some(((1 << 20) + starts[2].0 - shift) as u64));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_tail_of_any_bytes_recovers_to_the_valid_prefix(tail in proptest::collection::vec(any::<u8>(), 1..300), cut in 0usize..200) {
        let log = unclosed(&a_log(2, 3));
        let bytes = [&log[..log.len() - cut], &tail].concat();
        let disk = disk_of(&bytes);
        let report = recover_disk(&disk).unwrap();
        let kept = kept(&disk);
        let same = kept.len().min(log.len() - cut);
        prop_assert_eq!(&kept[..same], &log[..same]);
        prop_assert_eq!(recover_disk(&disk).unwrap().next_sequence, report.next_sequence);
    }
}
