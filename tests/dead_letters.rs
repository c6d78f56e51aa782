//! Dead letters from the engine's file back into its log: each event once, however often it is asked for.
//!
//! `REPLAY_LETTERS=100000` (`make replay`) does the same with more letters than the usual few thousand.

mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use eventstream::metrics::ledger::DropReason;
use eventstream::pool::Source;
use eventstream::storage::dead_letter::line::{Letter, LetterView, write_line};
use eventstream::sys::clock::WallNanos;
use eventstream::wire::Priority;
use serde_json::Value;
use support::*;

/// What an engine of long ago might have given as its first id.
const FIRST_ID: u64 = 77 << 48;

fn letters_wanted() -> u64 {
    std::env::var("REPLAY_LETTERS").ok().and_then(|text| text.parse().ok()).unwrap_or(5_000)
}

/// Writes dead letters of all tiers and reasons, spread over renamed files, with lines between them that are none.
fn write_letters(data: &Path, count: u64) {
    std::fs::create_dir_all(data).expect("writable");
    let mut files = [Vec::new(), Vec::new(), Vec::new()];
    for n in 0..count {
        let priority = Priority::from_byte((n % 5) as u8).expect("one of five");
        let letter: LetterView<'_> = Letter {
            time: WallNanos(1_700_000_000_000_000_000 + n),
            reason: [DropReason::QueueFull, DropReason::ProcessingFailed][(n % 2) as usize],
            sample: None,
            tier: priority.tier(),
            priority,
            source: Source::Tcp,
            id: FIRST_ID + n,
            key: None,
            received: WallNanos(1_700_000_000_000_000_000),
            topic: ["dead/a", "dead/b", "other"][(n % 3) as usize],
            body: &n.to_le_bytes(),
            note: "",
        };
        let file = &mut files[(n * 3 / count) as usize];
        write_line(&letter, &mut String::new(), file);
        if n % 1000 == 0 {
            file.extend_from_slice(b"{\"time\":\"20\nnot a letter\n");
        }
    }
    for (file, name) in files.iter().zip(["dlq_log.txt.2", "dlq_log.txt.1", "dlq_log.txt"]) {
        std::fs::write(data.join(name), file).expect("writable");
    }
}

/// How often each id is in the log; bodies are what the letters had.
fn stored_once(data: &Path, count: u64) {
    let mut times: BTreeMap<u64, u32> = BTreeMap::new();
    for record in dump(data) {
        let id = record["id"].as_u64().expect("an id");
        let body = record["body"].as_str().map(|text| text.as_bytes().to_vec());
        if let Some(body) = body {
            assert_eq!(body, (id - FIRST_ID).to_le_bytes(), "the body of another event");
        }
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times.len() as u64, count, "every event is there");
    assert!(times.iter().all(|(id, times)| (FIRST_ID..FIRST_ID + count).contains(id) && *times == 1), "each once");
}

fn dlq(arguments: &[&str], data: &Path) -> Value {
    let data = data.display().to_string();
    let output = run(&[&["dlq"], arguments, &["--json", "--data-dir", &data]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).expect("JSON"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !answer.is_null(), "{answer}\n{stderr}");
    answer
}

fn replay(more: &[&str], data: &Path) -> Value {
    dlq(&[&["replay"], more].concat(), data)
}

#[test]
fn letters_replayed_twice_into_a_running_engine_are_in_the_log_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, count) = (folder.path().join("data"), letters_wanted());
    write_letters(&data, count);
    let server = Server::start_on(&data, &[]);
    let admin = server.admin.to_string();
    // Part of them first, as by a replay that was cut short.
    let part = replay(&["--admin", &admin, "--topic", "dead/a"], &data);
    let first = count.div_ceil(3);
    assert_eq!((part["sent"].as_u64(), part["skipped_as_stored"].as_u64()), (Some(first), Some(0)));
    server.wait_stored(first);
    let all = replay(&["--admin", &admin], &data);
    assert_eq!((all["sent"].as_u64(), all["skipped_as_stored"].as_u64()), (Some(count - first), Some(first)));
    server.wait_stored(count);
    let again = replay(&["--admin", &admin], &data);
    assert_eq!((again["sent"].as_u64(), again["skipped_as_stored"].as_u64()), (Some(0), Some(count)));
    server.stop().assert_clean();
    stored_once(&data, count);
}

#[test]
fn letters_replayed_twice_offline_are_in_the_log_once_and_can_be_purged_then() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (data, count) = (folder.path().join("data"), letters_wanted());
    write_letters(&data, count);
    let plan = replay(&["--dry-run"], &data);
    assert_eq!(plan["sent"].as_u64(), Some(count));
    let part = replay(&["--offline", "--reason", "queue_full"], &data);
    assert_eq!(part["sent"].as_u64(), Some(count.div_ceil(2)));
    let purged = dlq(&["purge", "--stored", "--topic", "dead/#"], &data);
    let kept = purged["kept_letters"].as_u64().expect("a number");
    assert_eq!(purged["letters"].as_u64().expect("a number") + kept, count);
    let all = replay(&["--offline"], &data);
    assert_eq!(all["read"].as_u64(), Some(kept));
    assert_eq!(all["sent"].as_u64(), Some(count / 2), "what is stored is told by the log");
    let again = replay(&["--offline"], &data);
    assert_eq!((again["sent"].as_u64(), again["skipped_as_stored"].as_u64()), (Some(0), Some(kept)));
    stored_once(&data, count);
}

#[test]
fn what_a_full_lane_refused_is_stored_by_a_replay() {
    const EVENTS: u64 = 6_000;
    let few = [
        "--tcp-flow-control=off",
        "--batch-capacity=64",
        "--max-queue-depth=64",
        "--batch-overflow=drop-new",
        "--max-drop-rate=100",
    ];
    let server = Server::start(&few);
    let frames = (0..EVENTS).flat_map(|n| frame(0, "full/lane", n.to_string().as_bytes()));
    send_all(&server, &frames.collect::<Vec<u8>>());
    let status =
        server.wait_for("every event's end", |status| term(status, "received") == EVENTS && term(status, "in_flight") == 0);
    let refused = lost(&status, "queue_full");
    let (admin, data) = (server.admin.to_string(), server.data.clone());
    server.wait_for("the letters in the file", |_| {
        dlq(&["stats"], &data)["rows"]["queue_full"]["letters"].as_u64().unwrap_or(0) == refused
    });
    let answer = replay(&["--admin", &admin], &data);
    assert_eq!(answer["sent"].as_u64(), Some(refused));
    server.wait_stored(EVENTS);
    let ended = server.stop();
    let mut bodies: Vec<u64> = ended
        .assert_clean()
        .dump()
        .iter()
        .map(|record| record["body"].as_str().and_then(|n| n.parse().ok()).expect("text"))
        .collect();
    bodies.sort_unstable();
    assert!(bodies.iter().copied().eq(0..EVENTS), "each of them, once");
    let list = run(&["dlq", "list", "--json", "--limit", "1", "--data-dir", &data.display().to_string()]);
    if refused > 0 {
        let letter: Value = serde_json::from_slice(&list.stdout).expect("a letter");
        let id = letter["id"].to_string();
        let shown = run(&["dlq", "show", &id, "--data-dir", &data.display().to_string()]);
        let text = String::from_utf8(shown.stdout).expect("text");
        assert!(text.contains("queue_full") && text.contains("full/lane") && text.contains(&id), "{text}");
    }
}

#[test]
fn only_this_host_s_tools_may_replay() {
    let server = Server::start(&[]);
    let ask = |head: &str, body: &str| {
        let mut stream = std::net::TcpStream::connect(server.admin).expect("it listens");
        let length = body.len();
        write!(stream, "POST /replay HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{head}\r\n{body}")
            .expect("loopback");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let status = |answer: &str| answer.split(' ').nth(1).map(str::to_owned);
    assert_eq!(status(&ask("content-type: text/plain\r\n", "{}\n")).as_deref(), Some("415"));
    let from_a_page = "content-type: application/x-ndjson\r\norigin: http://example.org\r\n";
    assert_eq!(status(&ask(from_a_page, "{}\n")).as_deref(), Some("403"));
    let answer = ask("content-type: application/x-ndjson\r\n", "{}\n\n");
    assert_eq!(status(&answer).as_deref(), Some("200"), "{answer}");
    assert!(answer.contains(r#""taken":1,"accepted":0,"refused":{"not_a_letter":1}"#), "{answer}");
    server.stop().assert_clean();
}

#[test]
fn without_an_engine_and_with_one_in_the_way_the_error_says_what_to_do() {
    let server = Server::start(&[]);
    write_letters(&server.data, 10);
    let data = server.data.display().to_string();
    let output = run(&["dlq", "replay", "--offline", "--data-dir", &data]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("in use by pid") && text.lines().count() == 3, "{text}");
    let output = run(&["dlq", "purge", "--all", "--data-dir", &data]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("in use by pid"), "{text}");
    let admin = server.admin.to_string();
    let ended = server.stop();
    let output = run(&["dlq", "replay", "--admin", &admin, "--data-dir", &data]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("--offline"), "{text}");
    ended.assert_clean();
}
