//! The log as a row of segments, end to end: what the binary stores, kills, tails, repairs and copies.

mod support;

use std::path::Path;

use support::*;

/// Bodies large enough that a few hundred events fill a segment of 64 KiB.
fn send_events(server: &Server, from: u32, events: u32) {
    for first in (from..from + events).step_by(50) {
        let event = |n: u32| frame((n % 5) as u8, "segments/test", format!("{n} {}", "x".repeat(300)).as_bytes());
        let bytes: Vec<u8> = (first..first + 50).flat_map(event).collect();
        send_all(server, &bytes);
    }
}

fn sealed(data: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(data).expect("there").map(|entry| entry.expect("there").file_name().into_string().expect("text"));
    let mut names: Vec<String> = names.filter(|name| name.starts_with("events.node0.") && name.ends_with(".bin")).collect();
    names.sort();
    names
}

fn log_command(data: &Path, arguments: &[&str]) -> std::process::Output {
    let mut all = vec!["log"];
    all.extend(arguments);
    let data = data.display().to_string();
    all.extend(["--data-dir", &data]);
    run(&all)
}

/// Sends until so many segments are sealed: how soon the next one is ready is the disk's to say.
fn send_until_sealed(server: &Server, data: &Path, segments: usize) -> u32 {
    let mut sent = 0;
    while sealed(data).len() < segments {
        assert!(sent < 1_000_000, "never so many segments");
        send_events(server, sent, 500);
        sent += 500;
        server.wait_stored(u64::from(sent));
    }
    sent
}

#[test]
fn a_killed_engine_goes_on_in_the_next_segment_and_nothing_written_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut sent = 0;
    for round in 1..=3 {
        let server = Server::start_on(&data, &["--segment-bytes", "64KiB"]);
        let before = sent;
        while sealed(&data).len() < 2 * round {
            send_events(&server, sent, 500);
            sent += 500;
            server.wait_stored(u64::from(sent - before));
            assert!(sent < 1_000_000, "never so many segments");
        }
        server.kill();
    }
    let records = dump(&data);
    let bodies: std::collections::HashSet<_> = records.iter().map(|record| record["body"].to_string()).collect();
    assert_eq!((records.len(), bodies.len()), (sent as usize, sent as usize), "each once");
    assert!(log_command(&data, &["verify"]).status.success());
    let last = Server::start_on(&data, &["--segment-bytes", "64KiB"]).stop();
    last.assert_clean();
    assert!(!data.join("events.node0.next").exists(), "what was prepared is trimmed at a clean stop");
}

#[test]
fn retention_bounds_the_log_and_a_damaged_one_starts_only_when_told_to() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    // Batches that are small beside a segment: the limits are triggers.
    let flags = ["--segment-bytes", "64KiB", "--retention-bytes", "400KiB", "--flush-events", "100"];
    let server = Server::start_on(&data, &flags);
    let mut sent = 0;
    while metric(&server, "eventstream_log_segments_recycled_total", "") == 0 {
        send_events(&server, sent, 500);
        sent += 500;
        server.wait_stored(u64::from(sent));
        assert!(sent < 1_000_000, "nothing is ever given up");
    }
    server.stop().assert_clean();
    let names = sealed(&data);
    assert!(log_command(&data, &["verify"]).status.success());

    // A sealed segment that lost its end.
    let victim = data.join(&names[1]);
    let bytes = std::fs::read(&victim).expect("there");
    std::fs::write(&victim, &bytes[..bytes.len() / 2]).expect("writable");
    let refused = run(&[
        "serve",
        "--data-dir",
        &data.display().to_string(),
        "--tcp-listen",
        "127.0.0.1:0",
        "--udp-listen",
        "off",
        "--admin-listen",
        "off",
    ]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(5), "{text}");
    assert!(text.contains(&names[1]) && text.contains("--accept-data-loss"), "{text}");

    let server = Server::start_on(&data, &["--segment-bytes", "64KiB", "--accept-data-loss"]);
    send_until_sealed(&server, &data, names.len() + 1);
    let ended = server.stop();
    ended.assert_clean();
    assert!(ended.stdout.contains("quarantine."), "{}", ended.stdout);
    let verify = log_command(&data, &["verify"]);
    let text = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(verify.status.success() && text.contains("their loss was accepted"), "{text}");
}

#[test]
fn a_log_in_use_is_tailed_with_a_cursor_and_copied() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let server = Server::start_on(&data, &["--segment-bytes", "64KiB"]);
    let sent = send_until_sealed(&server, &data, 2);
    let data_dir = data.display().to_string();
    let tail = |more: &[&str]| {
        let output = run(&[&["tail", "--no-wait", "--json", "--data-dir", &data_dir, "--cursor", "test"], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").lines().count() as u32
    };
    assert_eq!(tail(&["--from-start", "--limit", "100"]), 100);
    assert_eq!(tail(&[]), sent - 100);
    send_events(&server, sent, 500);
    server.wait_stored(u64::from(sent) + 500);
    assert_eq!(tail(&[]), 500);
    let copy = folder.path().join("copy");
    let output = log_command(&data, &["copy", "--to", &copy.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(dump(&copy).len() as u32 >= sent, "what was in sealed segments at the least");
    let busy = log_command(&data, &["repair"]);
    assert!(!busy.status.success() && String::from_utf8_lossy(&busy.stderr).contains("in use"));
    server.stop().assert_clean();
}

#[test]
fn a_log_of_the_first_format_is_refused_in_three_lines() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut old = vec![0; 4096];
    old[..8].copy_from_slice(b"EVSTRLOG");
    (old[8], old[10]) = (1, 64);
    std::fs::write(folder.path().join("events.bin"), old).expect("writable");
    let refused = run(&[
        "serve",
        "--data-dir",
        &folder.path().display().to_string(),
        "--tcp-listen",
        "127.0.0.1:0",
        "--udp-listen",
        "off",
        "--admin-listen",
        "off",
    ]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("format version 1"), "{text}");
    for line in ["error:", "cause:", "fix:"] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{text}");
    }
}
