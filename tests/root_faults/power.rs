//! Power cuts under load: what was announced durable, or acked to a session, before the cut is there after it.

use std::time::Duration;

use eventstream::client::AckLevel;
use eventstream::sim::rng::Rng;

use super::disk::Disk;
use super::support::lives::Lives;
use super::support::numbered::{Account, Audit, Load, rounds, seed};
use super::support::*;

/// Cuts on one file system before it is left for a new one: an audit reads the whole log.
const CUTS_PER_DISK: u32 = 10;
/// Small ones, so that cuts meet rolls and preallocation; large ones, as rolls sync, and with the file's also everything else in the journal.
const SEGMENTS: [&str; 2] = ["--segment-bytes=1MiB", "--segment-bytes=256MiB"];
const DURABILITIES: [&str; 2] = ["--durability=group", "--durability=always"];

/// Stops all of an engine's threads.
fn stand_still(server: &Server) {
    server.signal(libc::SIGSTOP);
    let stands = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        // A thread that has just ended says nothing any more.
        text.lines().find_map(|line| line.strip_prefix("State:")).is_none_or(|state| state.trim().starts_with('T'))
    };
    let tasks = || std::fs::read_dir(format!("/proc/{}/task", server.pid())).expect("our child");
    while !tasks().all(|task| task.is_ok_and(stands)) {
        std::thread::sleep(Duration::from_millis(1)); // between two looks
    }
}

fn survives_cuts(what: &str, cuts: u32, fresh_disk: impl Fn() -> Option<Disk>) {
    let mut chance = Rng::new(seed());
    let mut sum = Audit::default();
    let flags = |cut: u32| [SEGMENTS[(cut / 2 % 2) as usize], DURABILITIES[(cut % 2) as usize]];
    for first in (0..cuts).step_by(CUTS_PER_DISK as usize) {
        let Some(disk) = fresh_disk() else { return };
        let lives = Lives { data: &disk.path().join("data"), level: AckLevel::Durable, burst_events: 32 };
        sum += lives.run(first..cuts.min(first + CUTS_PER_DISK), flags, |server, _| {
            std::thread::sleep(Duration::from_micros(chance.below(500_000))); // the random moment
            // Whoever stands still says nothing more: a device that drops writes would let it promise what is lost.
            stand_still(&server);
            disk.cut_power();
            server.kill();
            disk.power_on();
        });
    }
    eprintln!("durable: {cuts} power cuts on {what}: {sum}");
    sum.assert_kept();
}

#[test]
#[ignore = "needs root: make test-root"]
fn what_was_announced_or_acked_durable_survives_power_cuts_on_ext4() {
    survives_cuts("ext4", rounds("CUTS", 50), || Disk::in_a_file("ext4", 512));
}

/// If this ever fails, the cuts of these tests cut nothing, and they prove nothing.
#[test]
#[ignore = "needs root: make test-root"]
fn a_power_cut_takes_what_was_only_written() {
    let Some(disk) = Disk::in_a_file("ext4", 512) else { return };
    let data = disk.path().join("data");
    let server = Server::start_on(&data, &[SEGMENTS[1], "--durability=none"]);
    let load = Load::start(&server, 0, 4);
    let status = server.wait_for("something written", |status| status["written_sequence"].as_u64() > Some(1_000));
    disk.cut_power();
    server.kill();
    load.end(&mut Account::default());
    disk.power_on();
    Server::start_on(&data, &[SEGMENTS[1]]).stop().assert_clean();
    let (kept, written) = (dump(&data).len() as u64, status["written_sequence"].as_u64().expect("a number"));
    assert!(kept < written, "{kept} of {written} records survived without a sync");
}

#[test]
#[ignore = "needs root: make test-root"]
fn what_was_announced_or_acked_durable_survives_power_cuts_on_xfs() {
    survives_cuts("xfs", rounds("CUTS", 50).div_ceil(5), || Disk::in_a_file("xfs", 512));
}

#[test]
#[ignore = "needs a disk that may be wiped: make test-vm"]
fn what_was_announced_or_acked_durable_survives_a_device_that_drops_writes() {
    survives_cuts("a flaky device", rounds("CUTS", 50), Disk::on_the_flaky_device);
}
