//! kill -9 at random moments, in mid-load and in mid-recovery: what was announced, or acked to a session, is there; nothing is invented, nothing
//! is there twice, nothing that was refused. Producers in sessions outlive the engines, and every event they give has one outcome.
//!
//! `make test-kill ROUNDS=200` makes more of the same; `SEED=n` repeats the moments of a run, not its interleaving.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use eventstream::client::AckLevel;
use eventstream::sim::rng::Rng;
use support::lives::Lives;
use support::numbered::{Audit, rounds, seed};
use support::*;

/// Rounds on one log before it is left for a new one: an audit reads all of it.
const ROUNDS_PER_LOG: u32 = 20;
/// Small, so that kills meet rolls too.
const SEGMENTS: &str = "--segment-bytes=1MiB";
/// By log in turn: a trickle in small batches, and as much as tears large ones.
const BURSTS_EVENTS: [u32; 2] = [32, 256];

/// Starts an engine and kills it somewhere between its first instruction and the return of its clients.
fn kill_in_recovery(data: &Path, flags: &[&str], chance: &mut Rng) {
    let mut engine = Command::new(binary())
        .arg("serve")
        .envs(DEFAULTS.iter().copied())
        .arg(format!("--data-dir={}", data.display()))
        .args(flags)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    std::thread::sleep(Duration::from_micros(chance.below(80_000))); // the random moment
    engine.kill().expect("our child");
    engine.wait().expect("our child");
}

fn survives_kills(level: AckLevel, kills: u32, durabilities: [&'static str; 2]) {
    let mut chance = Rng::new(seed());
    let rounds_per_log = ROUNDS_PER_LOG.min(kills.div_ceil(2)).max(1);
    let (mut in_recovery, mut sum) = (0, Audit::default());
    for (log, first) in (0..kills).step_by(rounds_per_log as usize).enumerate() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let lives = Lives { data: &data, level, burst_events: BURSTS_EVENTS[log / 2 % 2] };
        let numbers = first..kills.min(first + rounds_per_log);
        sum += lives.run(
            numbers,
            |_| [SEGMENTS, durabilities[log % 2]],
            |server, flags| {
                std::thread::sleep(Duration::from_micros(chance.below(300_000))); // the random moment
                server.kill();
                for _ in 0..chance.below(3) {
                    kill_in_recovery(&data, flags, &mut chance);
                    in_recovery += 1;
                }
            },
        );
    }
    eprintln!("{}: {kills} kills under load and {in_recovery} in recovery: {sum}", level.name());
    sum.assert_kept();
}

#[test]
fn what_was_announced_or_acked_written_survives_kills() {
    survives_kills(AckLevel::Written, rounds("ROUNDS", 4), ["--durability=none", "--durability=group"]);
}

#[test]
fn what_was_announced_or_acked_durable_survives_kills() {
    survives_kills(AckLevel::Durable, rounds("ROUNDS", 4), ["--durability=group", "--durability=always"]);
}

/// What a kill takes of these is counted, and told.
#[test]
fn what_was_accepted_has_one_outcome_and_is_never_there_twice() {
    survives_kills(AckLevel::Accepted, rounds("ROUNDS", 4).div_ceil(10).max(2), ["--durability=none", "--durability=group"]);
}
