//! Power cuts under load: what was announced durable, or acked to a session, before the cut is there after it.

use std::time::Duration;

use eventstream::client::AckLevel;
use eventstream::sim::rng::Rng;

use super::disk::Disk;
use super::support::numbered::{Account, Audit, Level, Load, Watch, rounds, seed};
use super::support::sessions::Sessions;
use super::support::*;

/// Cuts on one file system before it is left for a new one: an audit reads the whole log.
const CUTS_PER_DISK: u32 = 10;
/// Small, so that cuts meet rolls, preallocation and recycled names too.
const SEGMENTS: &str = "--segment-bytes=1MiB";

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
    let (mut sum, mut resent) = (Audit::default(), 0);
    for first in (0..cuts).step_by(CUTS_PER_DISK as usize) {
        let Some(disk) = fresh_disk() else { return };
        let data = disk.path().join("data");
        let mut account = Account::default();
        let mut sessions: Option<(Sessions, String)> = None;
        for round in first..cuts.min(first + CUTS_PER_DISK) {
            let durability = if round % 2 == 0 { "--durability=group" } else { "--durability=always" };
            let address = sessions.as_ref().map_or("--tcp-listen=127.0.0.1:0", |(_, address)| address);
            let server = Server::start_on(&data, &[SEGMENTS, durability, address]);
            let tcp = server.tcp;
            sessions.get_or_insert_with(|| (Sessions::start(tcp, AckLevel::Durable, 2), format!("--tcp-listen={tcp}")));
            let watch = Watch::start(&server, Level::Durable);
            let load = Load::start(&server, round, 2);
            server.wait_for("something durable", |status| status["durable_sequence"].as_u64() > Some(0));
            std::thread::sleep(Duration::from_micros(chance.below(500_000))); // the random moment
            watch.end(&mut account);
            // Whoever stands still says nothing more: a device that drops writes would let it promise what is lost.
            stand_still(&server);
            disk.cut_power();
            server.kill();
            load.end(&mut account);
            disk.power_on();
        }
        let (sessions, address) = sessions.expect("there was a round");
        let server = Server::start_on(&data, &[SEGMENTS, &address]);
        resent += sessions.end(&mut account);
        server.stop().assert_clean();
        sum += account.audit(&data);
    }
    let Audit { announced, acked, records } = sum;
    eprintln!(
        "{cuts} power cuts on {what}: {announced} events announced durable, {acked} acked to sessions ({resent} sent again), {records} in the log, \
         none missing, none invented, none twice"
    );
}

#[test]
#[ignore = "needs root: make test-root"]
fn what_was_announced_or_acked_durable_survives_power_cuts_on_ext4() {
    survives_cuts("ext4", rounds("CUTS", 50), || Disk::in_a_file("ext4", 512));
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
