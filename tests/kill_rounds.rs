//! kill -9 at random moments, in mid-load and in mid-recovery: what was announced, or acked to a session, is there; nothing is invented, nothing is
//! there twice. Producers in sessions outlive the engines, and send again what has no ack.
//!
//! `make test-kill ROUNDS=200` makes more of the same; `SEED=n` repeats the moments of a run.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use eventstream::client::AckLevel;
use eventstream::sim::rng::Rng;
use support::numbered::{Account, Audit, Level, Load, Watch, rounds, seed};
use support::sessions::Sessions;
use support::*;

/// Rounds on one log before it is left for a new one: an audit reads all of it.
const ROUNDS_PER_LOG: u32 = 20;

/// Small, so that kills meet rolls too.
const SEGMENTS: &str = "--segment-bytes=1MiB";

/// Starts an engine and kills it somewhere between its first instruction and the end of its recovery.
fn kill_in_recovery(data: &Path, chance: &mut Rng) {
    let mut engine = Command::new(binary())
        .arg("serve")
        .envs(DEFAULTS.iter().copied())
        .args([&format!("--data-dir={}", data.display()), SEGMENTS])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    std::thread::sleep(Duration::from_micros(chance.below(80_000))); // the random moment
    engine.kill().expect("our child");
    engine.wait().expect("our child");
}

fn survives_kills(level: Level, ack_level: AckLevel, durability: &str) {
    let mut chance = Rng::new(seed());
    let rounds = rounds("ROUNDS", 4);
    let (mut recoveries_killed, mut resent, mut sum) = (0, 0, Audit::default());
    for first in (0..rounds).step_by(ROUNDS_PER_LOG as usize) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let mut account = Account::default();
        let mut sessions: Option<(Sessions, String)> = None;
        for round in first..rounds.min(first + ROUNDS_PER_LOG) {
            let address = sessions.as_ref().map_or("--tcp-listen=127.0.0.1:0", |(_, address)| address);
            let server = Server::start_on(&data, &[SEGMENTS, durability, address]);
            let tcp = server.tcp;
            sessions.get_or_insert_with(|| (Sessions::start(tcp, ack_level, 2), format!("--tcp-listen={tcp}")));
            let watch = Watch::start(&server, level);
            let load = Load::start(&server, round, 2);
            server.wait_stored(1);
            std::thread::sleep(Duration::from_micros(chance.below(300_000))); // the random moment
            server.kill();
            load.end(&mut account);
            watch.end(&mut account);
            for _ in 0..chance.below(3) {
                kill_in_recovery(&data, &mut chance);
                recoveries_killed += 1;
            }
        }
        let (sessions, address) = sessions.expect("there was a round");
        let server = Server::start_on(&data, &[SEGMENTS, durability, &address]);
        resent += sessions.end(&mut account);
        server.stop().assert_clean();
        sum += account.audit(&data);
    }
    let Audit { announced, acked, records } = sum;
    eprintln!(
        "{rounds} kills under load and {recoveries_killed} in recovery, {durability}: {announced} events announced as {level:?}, {acked} acked to \
         sessions ({resent} sent again), {records} in the log, none missing, none invented, none twice"
    );
}

#[test]
fn what_was_announced_or_acked_written_survives_kills_without_syncs() {
    survives_kills(Level::Written, AckLevel::Written, "--durability=none");
}

#[test]
fn what_was_announced_or_acked_written_survives_kills_with_group_commit() {
    survives_kills(Level::Written, AckLevel::Written, "--durability=group");
}

#[test]
fn what_was_announced_or_acked_durable_survives_kills_with_each_write_synced() {
    survives_kills(Level::Durable, AckLevel::Durable, "--durability=always");
}
