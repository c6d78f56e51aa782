use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::pool::Source;
use crate::storage::folder::{DataFolder, LOCK_FILE_NAME, OpenRefusal};
use crate::storage::format::{BATCH_HEADER_BYTES, LogKey, RecordHeader};
use crate::storage::node_reader::verify;
use crate::storage::staging::{OpenBatch, SealFacts};
use crate::storage::testing::{a_log, identity};
use crate::storage::{DiskFolder, SegmentOptions};
use crate::sys::clock::WallNanos;
use crate::sys::memory::StagingBuffer;
use crate::wire::{Priority, Tier};

/// Everything in a folder, to show that nothing has changed.
fn listing(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap_or_default()))
        .collect();
    files.sort();
    files
}

fn refused(folder: &Path) -> OpenRefusal {
    let before = listing(folder);
    let refusal = DataFolder::open(folder, 1).unwrap_err();
    assert_eq!(listing(folder), before, "nothing has changed in a refused folder");
    assert_eq!(refusal.to_string().lines().count(), 3, "{refusal}");
    refusal
}

#[test]
fn a_folder_is_made_and_its_log_opened_again_and_again() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("deep/data");
    for epoch in 1..=3 {
        let folder = DataFolder::open(&path, 1).unwrap();
        let mut log = folder.open_log(identity(), SegmentOptions::default()).unwrap();
        assert_eq!(log.epoch(), epoch);
        assert!(log.finish(WallNanos(3)).unwrap());
    }
    let report = verify(DiskFolder::to_read(&path), 0).unwrap();
    assert_eq!((report.openings, report.closed, report.torn), (3, true, None));
    assert_eq!(report.file_bytes, report.valid_bytes);
}

#[test]
fn foreign_linked_and_strange_logs_are_refused_unchanged() {
    let place = tempfile::tempdir().unwrap();
    let log = place.path().join("events.bin");
    fs::write(&log, b"somebody else's data").unwrap();
    assert!(matches!(refused(place.path()), OpenRefusal::Foreign { .. }));
    fs::remove_file(&log).unwrap();
    symlink("/dev/null", &log).unwrap();
    assert!(matches!(refused(place.path()), OpenRefusal::Symlink { .. }));
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    assert!(matches!(refused(place.path()), OpenRefusal::NotAFile { .. }));
}

#[test]
fn a_data_folder_that_is_a_file_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("data");
    fs::write(&path, b"x").unwrap();
    assert!(matches!(DataFolder::open(&path, 1), Err(OpenRefusal::NotAFolder { .. })));
    assert!(matches!(DataFolder::open(&path.join("below"), 1), Err(OpenRefusal::NotAFolder { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"x");
}

#[test]
fn a_linked_lock_file_is_refused() {
    let place = tempfile::tempdir().unwrap();
    symlink("/dev/null", place.path().join(LOCK_FILE_NAME)).unwrap();
    assert!(matches!(refused(place.path()), OpenRefusal::Symlink { .. }));
}

#[test]
fn a_folder_that_may_not_be_written_is_refused_with_the_errno() {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o555)).unwrap();
    match DataFolder::open(place.path(), 1) {
        Err(OpenRefusal::Io { error, .. }) => assert_eq!(error.raw_os_error(), Some(libc::EACCES)),
        // Root may write everywhere.
        Ok(_) => assert!(fs::metadata("/proc/self").is_ok_and(|facts| std::os::unix::fs::MetadataExt::uid(&facts) == 0)),
        Err(other) => panic!("{other}"),
    }
    // /proc takes no new files from anybody.
    let refusal = DataFolder::open(Path::new("/proc/self"), 1).unwrap_err();
    assert!(refusal.to_string().contains(LOCK_FILE_NAME) || refusal.to_string().contains("/proc/self"), "{refusal}");
}

#[test]
fn damage_is_refused_with_its_place_and_not_changed() {
    let place = tempfile::tempdir().unwrap();
    let mut bytes = a_log(3, 3);
    bytes[4096 + 96 + 10] ^= 1;
    fs::write(place.path().join("events.bin"), &bytes).unwrap();
    let folder = DataFolder::open(place.path(), 1).unwrap();
    let refusal = folder.open_log(identity(), SegmentOptions::default()).unwrap_err();
    assert!(refusal.is_damage());
    assert!(refusal.to_string().contains("damage at byte 4192"), "{refusal}");
    assert_eq!(fs::read(place.path().join("events.bin")).unwrap(), bytes);
}

#[test]
fn one_process_opens_a_folder_once_and_again_after_it_was_closed() {
    let place = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(place.path(), 1).unwrap();
    assert!(matches!(refused(place.path()), OpenRefusal::InUseHere { .. }));
    drop(folder);
    DataFolder::open(place.path(), 1).unwrap();
}

#[test]
fn a_folder_in_use_by_another_process_names_its_pid() {
    let place = tempfile::tempdir().unwrap();
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "storage::tests::folder::holds_a_folder_until_its_input_ends"])
        .env("EVENTSTREAM_TEST_FOLDER", place.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("held")), "the holder has it");
    match refused(place.path()) {
        OpenRefusal::InUse { pid, .. } => assert_eq!(pid, holder.id() as i32),
        other => panic!("{other}"),
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
    DataFolder::open(place.path(), 1).unwrap();
}

#[test]
#[ignore = "the other process of the test above"]
fn holds_a_folder_until_its_input_ends() {
    let Some(path) = std::env::var_os("EVENTSTREAM_TEST_FOLDER") else { return };
    let _folder = DataFolder::open(Path::new(&path), 1).unwrap();
    println!("\nheld");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

#[test]
fn direct_writes_and_the_page_cache_see_the_same_file() {
    let place = tempfile::tempdir().unwrap();
    let folder = DataFolder::open(place.path(), 1).unwrap();
    let mut log = folder.open_log(identity(), SegmentOptions::default()).unwrap();
    let is_direct = {
        let file = log.keeper().unwrap().active();
        assert!(!file.file_system().is_empty());
        file.is_direct()
    };
    let position = log.position();
    assert_eq!(position.tail.len(), 2 * BATCH_HEADER_BYTES, "the mark and an empty snapshot are read back");
    let mut writer = fs::OpenOptions::new();
    writer.write(true).custom_flags(if is_direct { libc::O_DIRECT } else { 0 });
    let writer = writer.open(place.path().join("events.bin")).unwrap();

    let map = || StagingBuffer::map(16 << 10).unwrap();
    let so_far = position.so_far;
    let mut batch = OpenBatch::new(map(), position.fd, so_far.offset - position.tail.len() as u64, &position.tail);
    let record = RecordHeader {
        id: 1,
        received_at: WallNanos(1),
        priority: Priority::High,
        tier: Tier::Realtime,
        source: Source::Tcp,
        topic_bytes: 1,
        producer: None,
    };
    let (mut sequence, mut chain) = (so_far.end_sequence, so_far.chain);
    for _ in 0..20 {
        (0..30).for_each(|_| assert!(batch.push(&record, None, b"topic and body")));
        let facts = SealFacts {
            key: LogKey::of(so_far.log_id),
            epoch: position.epoch,
            first_sequence: sequence,
            sealed_at: WallNanos(2),
            durable_sequence: 0,
            durable_bytes: 0,
            chain,
        };
        let (sealed, buffer) = batch.seal(&facts, map());
        writer.write_all_at(&buffer[..sealed.padded], sealed.offset).unwrap();
        (sequence, chain) = (sealed.header.end_sequence(), sealed.chain);
        log.status().set_written(sequence, sealed.offset + sealed.end as u64, chain);
        assert_eq!(verify(DiskFolder::to_read(place.path()), 0).unwrap().records, sequence, "a reader sees it at once");
    }
    assert!(log.finish(WallNanos(3)).unwrap());
    let report = verify(DiskFolder::to_read(place.path()), 0).unwrap();
    assert_eq!((report.records, report.closed, report.torn), (600, true, None));
}
