//! The client and a real engine: what is acknowledged is in the log, once, and what is refused says why.

mod support;

use std::collections::HashMap;

use eventstream::client::{AckLevel, ClientError, ClientOptions, Outcome, Producer, ProducerId};
use eventstream::wire::Priority;
use serde_json::Value;

use support::{PATIENCE, Server, term};

fn options(server: &Server) -> ClientOptions {
    ClientOptions { connect_timeout: PATIENCE, ..ClientOptions::new(server.tcp.to_string()) }
}

/// How often each topic is in a dump.
fn topics(records: &[Value]) -> HashMap<String, u64> {
    let mut topics = HashMap::new();
    for record in records {
        *topics.entry(record["topic"].as_str().expect("a topic").to_owned()).or_default() += 1;
    }
    topics
}

fn send(producer: &Producer, sequences: std::ops::RangeInclusive<u64>) {
    for sequence in sequences {
        let priority = Priority::ALL[(sequence % 5) as usize];
        let sent = producer.send(priority, &format!("e/{sequence}"), &vec![b'x'; (sequence % 300) as usize]);
        assert_eq!(sent.expect("taken"), sequence);
    }
}

#[test]
fn what_is_acknowledged_at_any_level_is_in_the_log_once() {
    for ack_level in AckLevel::ALL {
        let server = Server::start(&[]);
        let producer = Producer::connect(ClientOptions { ack_level, ..options(&server) }).expect("welcomed");
        send(&producer, 1..=5000);
        assert_eq!(producer.wait(5000).expect("an outcome"), Outcome::Acked, "{}", ack_level.name());
        let statistics = producer.close().expect("all outcomes");
        assert_eq!((statistics.acked, statistics.refused, statistics.reconnects), (5000, 0, 0));
        let ended = server.stop();
        let topics = topics(&ended.assert_clean().dump());
        assert_eq!(topics.len(), 5000);
        assert!(topics.values().all(|count| *count == 1));
    }
}

#[test]
fn what_another_life_sends_again_is_stored_once_also_after_a_restart_of_the_engine() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let id = ProducerId::from_bytes([7; 16]).expect("not zero");
    for life in 1..=3_u64 {
        let server = Server::start_on(folder.path(), &[]);
        let producer = Producer::connect(ClientOptions { producer: Some(id), ..options(&server) }).expect("welcomed");
        // Each life sends everything from the beginning, and a thousand more.
        send(&producer, 1..=life * 1000);
        let statistics = producer.close().expect("all outcomes");
        assert_eq!(statistics.acked, life * 1000);
        let ended = server.stop();
        ended.assert_clean();
        assert_eq!(support::dump(folder.path()).len() as u64, life * 1000, "life {life}");
    }
}

#[test]
fn a_level_that_the_engine_cannot_promise_is_refused_at_hello() {
    let server = Server::start(&["--durability=none"]);
    let refused = Producer::connect(ClientOptions { ack_level: AckLevel::Durable, ..options(&server) });
    assert!(matches!(refused, Err(ClientError::Refused { code: 8, .. })), "{refused:?}");
    Producer::connect(options(&server)).expect("written can be").close().expect("nothing was sent");
    server.stop().assert_clean();
}

#[test]
fn a_token_opens_the_door_and_nothing_else_does() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "open sesame\n").expect("written");
    std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let server = Server::start(&[&format!("--session-token-file={}", token_file.display())]);
    for wrong in ["", "open", "open sesame ", "open sesamf"] {
        let refused = Producer::connect(ClientOptions { token: wrong.into(), ..options(&server) });
        assert!(matches!(refused, Err(ClientError::Refused { code: 7, .. })), "{wrong:?}: {refused:?}");
    }
    let producer = Producer::connect(ClientOptions { token: b"open sesame".to_vec(), ..options(&server) }).expect("welcomed");
    send(&producer, 1..=10);
    producer.close().expect("all outcomes");
    let address = server.tcp.to_string();
    let sent = support::run(&[
        "send",
        "--session",
        "--tcp",
        &address,
        "--generate",
        "10",
        "--token-file",
        &token_file.display().to_string(),
    ]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let refused = support::run(&["send", "--session", "--tcp", &address, "--generate", "10"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--token-file"), "{}", String::from_utf8_lossy(&refused.stderr));
    server.stop().assert_clean();
}

#[test]
fn send_in_sessions_says_what_became_of_every_event() {
    let server = Server::start(&[]);
    let flags =
        ["send", "--session", "--ack", "durable", "--generate", "20000", "--connections", "3", "--threads", "2", "--json"];
    let sent = support::run(&[&flags[..], &["--tcp", &server.tcp.to_string()]].concat());
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let summary: Value = serde_json::from_slice(&sent.stdout).expect("one line of JSON");
    assert_eq!((&summary["events"], &summary["transport"]), (&20_000.into(), &"session".into()));
    let session = &summary["session"];
    assert_eq!((&session["acked"], &session["refused"], &session["ack_level"]), (&20_000.into(), &0.into(), &"durable".into()));
    assert!(session["ack_us"]["p99"].as_f64() >= session["ack_us"]["p50"].as_f64());
    assert_eq!(term(&server.status(), "stored"), 20_000);
    server.stop().assert_clean();
}

#[test]
fn send_says_when_all_was_held_already_and_times_no_ack_then() {
    let server = Server::start(&[]);
    let address = server.tcp.to_string();
    let flags =
        ["send", "--session", "--producer-id", "0123456789abcdef0123456789abcdef", "--generate", "500", "--tcp", &address];
    let said = || {
        let sent = support::run(&flags);
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        String::from_utf8(sent.stdout).expect("text")
    };
    let first = said();
    assert!(first.contains("500 acked written, 0 refused; acks after "), "{first}");
    let again = said();
    assert!(again.contains("500 acked written, 0 refused, 500 held; all held already\n"), "{again}");
    assert_eq!(term(&server.status(), "stored"), 500);
    server.stop().assert_clean();
}
