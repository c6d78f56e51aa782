//! No space, and a file system that can't be written to: at the start, while the next segment is reserved, in mid-batch.

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::support::numbered::{Account, Load, UNHURRIED};
use super::support::refused::{ENVIRONMENT, assert_three_lines, refused_start};
use super::support::small_disk::{SmallDisk, fill_but};
use super::support::*;

/// Segments larger than what is left: the next one can't be reserved, and the active one grows until there is no space for a batch.
const SEGMENTS: &str = "--segment-bytes=8MiB";

fn is_full(status: &serde_json::Value) -> bool {
    status["state"].as_str().is_some_and(|state| state.eq_ignore_ascii_case("emergency"))
}

fn waits_for_space(disk: &Path) {
    let data = disk.join("data");
    let server = Server::start_on(&data, &[SEGMENTS, UNHURRIED]);
    let mut account = Account::default();
    let ballast = fill_but(disk, 4 << 20);
    let load = Load::start(&server, 0, 4);
    // Longer than a look of the engine's takes to come round: what comes and goes between two of them is not told.
    let since = Cell::new(None);
    server.wait_for("a disk that stays full", |status| {
        since.set(is_full(status).then(|| since.get().unwrap_or_else(Instant::now)));
        since.get().is_some_and(|since| since.elapsed() > Duration::from_secs(1))
    });
    let full_at = term(&server.status(), "stored");
    std::fs::remove_file(ballast).expect("there");
    server.wait_for("space again", |status| !is_full(status) && term(status, "stored") > full_at + 1_000);
    load.end(&mut account);
    server.wait_stored(account.handed_over());
    let ended = server.stop();
    ended.assert_clean();
    assert!(ended.stderr.contains("NO SPACE") && ended.stderr.contains("space again"), "not told:\n{}", ended.stderr);
    let audit = account.audit(&data);
    audit.assert_kept();
    assert_eq!(audit.records, account.handed_over(), "TCP loses nothing by a full disk");
}

#[test]
#[ignore = "needs root: make test-root"]
fn no_space_for_the_next_segment_and_then_for_a_batch_is_waited_out_on_tmpfs() {
    let Some(disk) = SmallDisk::mount(48) else { return skip("mounting a file system is not permitted here") };
    waits_for_space(disk.path());
}

#[test]
#[ignore = "needs root: make test-root"]
fn no_space_for_the_next_segment_and_then_for_a_batch_is_waited_out_on_ext4() {
    let Some(disk) = Disk::in_a_file("ext4", 64) else { return };
    waits_for_space(&disk.path());
}

#[test]
#[ignore = "needs root: make test-root"]
fn no_space_at_the_start_is_refused_with_the_path() {
    let Some(disk) = SmallDisk::mount(8) else { return skip("mounting a file system is not permitted here") };
    let data = disk.path().join("data");
    let ballast = disk.fill_but(0);
    let (code, stderr) = refused_start(&data, &[]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    assert!(stderr.contains(&data.display().to_string()) && stderr.contains("os error 28"), "{stderr}");
    std::fs::remove_file(ballast).expect("there");
    Server::start_on(&data, &[]).stop().assert_clean();
}

#[test]
#[ignore = "needs root: make test-root"]
fn a_read_only_file_system_with_a_log_on_it_is_refused_and_the_log_left_alone() {
    let Some(disk) = Disk::in_a_file("ext4", 64) else { return };
    let data = disk.path().join("data");
    let server = Server::start_on(&data, &[]);
    send_all(&server, &frame(2, "read/only", b"kept"));
    server.wait_stored(1);
    server.stop().assert_clean();
    disk.read_only(true);
    let (code, stderr) = refused_start(&data, &[]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    assert!(stderr.contains(&data.display().to_string()) && stderr.contains("os error 30"), "{stderr}");
    assert_eq!(dump(&data).len(), 1, "it can be read");
    disk.read_only(false);
    Server::start_on(&data, &[]).stop().assert_clean();
    assert_eq!(dump(&data).len(), 1);
}
