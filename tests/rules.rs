//! Rules of a configuration file, through the binary: from a frame to a line, a datagram and a program.

mod support;

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::*;

/// An engine with a configuration file in its folder.
fn start(folder: &Path, config: &str) -> Server {
    let path = folder.join("es.toml");
    std::fs::write(&path, config).expect("a temporary folder is writable");
    Server::spawn(Command::new(binary()), &folder.join("data"), &[&format!("--config={}", path.display())])
}

fn alerts(data: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(data.join("alerts.jsonl")).expect("a rule logs");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

#[test]
fn events_that_match_are_logged_sent_and_given_to_a_program() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    udp.set_read_timeout(Some(PATIENCE)).expect("a valid time-out");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (to_udp, to_tcp) = (udp.local_addr().expect("bound"), tcp.local_addr().expect("bound"));
    let (seen, descriptors) = (folder.path().join("seen"), folder.path().join("descriptors"));
    let config = format!(
        r##"
        [[rules]]
        name = "overheated"
        topic = "plant/+/temperature"
        pointer = "/celsius"
        gt = 90
        udp = "{to_udp}"
        tcp = "{to_tcp}"

        [[rules]]
        name = "fire"
        topic = "#"
        priority = "critical"
        regex = '(?i)\bfire\b'
        log = false
        run = ["/bin/sh", "-c", "ls /proc/self/fd > {}; echo $EVENTSTREAM_TOPIC $EVENTSTREAM_PRIORITY $(cat) >> {}"]
        "##,
        descriptors.display(),
        seen.display()
    );
    let server = start(folder.path(), &config);
    let events: [(u8, &str, &str); 6] = [
        (3, "plant/oven/temperature", r#"{"celsius":90.5}"#),
        (3, "plant/oven/temperature", r#"{"celsius":90}"#),
        (3, "plant/oven/pressure", r#"{"celsius":99}"#),
        (4, "plant/hall", "Fire in hall 3"),
        (3, "plant/hall", "Fire in hall 4"),
        (2, "plant/oven/temperature", r#"{"celsius":99}"#),
    ];
    let bytes: Vec<u8> = events.iter().flat_map(|(priority, topic, body)| frame(*priority, topic, body.as_bytes())).collect();
    send_all(&server, &bytes);
    server.wait_stored(6);

    let mut datagram = [0; 4096];
    let bytes = udp.recv(&mut datagram).expect("a datagram");
    let mut line = String::new();
    BufReader::new(tcp.accept().expect("a connection").0).read_line(&mut line).expect("a line");
    assert_eq!(line.as_bytes(), &datagram[..bytes]);
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&line["rule"], &line["body"]), (&"overheated".into(), &r#"{"celsius":90.5}"#.into()));

    let rule = |name: &str| format!("rule=\"{name}\"");
    server.wait_for("the program's end", |_| {
        metric(&server, "eventstream_rule_actions_total", "rule=\"fire\",action=\"run\",outcome=\"done\"") == 1
    });
    assert_eq!(metric(&server, "eventstream_rule_matches_total", &rule("overheated")), 1);
    assert_eq!(metric(&server, "eventstream_rule_matches_total", &rule("fire")), 1);
    let ended = server.stop();
    ended.assert_clean();
    let logged = alerts(&ended.data);
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert_eq!((&logged[0]["rule"], &logged[0]["id"]), (&"overheated".into(), &line["id"]));
    assert_eq!(std::fs::read_to_string(seen).expect("the program has run"), "plant/hall CRITICAL Fire in hall 3\n");
    let descriptors = std::fs::read_to_string(descriptors).expect("the program has run");
    assert_eq!(descriptors, "0\n1\n2\n3\n", "its own three and the folder that is listed: no socket or file of the engine");
}

#[test]
fn targets_that_hang_delay_no_event_and_are_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port");
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let config = format!(
        r##"
        [[rules]]
        name = "hangs"
        topic = "#"
        log = false
        run = ["/bin/sleep", "1000"]
        run-at-once-max = 1
        tcp = "{nobody}"

        [[rules]]
        name = "deaf"
        topic = "#"
        alerts-per-s-max = 1000000
        log = false
        tcp = "{}"
        "##,
        deaf.local_addr().expect("bound")
    );
    let server = start(folder.path(), &config);
    let events = 20_000;
    let one = frame(3, "t", &[b'x'; 1000]);
    send_all(&server, &one.repeat(events));
    server.wait_stored(events as u64);
    let outcome = |labels: &str| metric(&server, "eventstream_rule_actions_total", labels);
    let deaf_matches = metric(&server, "eventstream_rule_matches_total", "rule=\"deaf\"");
    assert_eq!(deaf_matches, events as u64);
    assert!(outcome("rule=\"deaf\",action=\"tcp\",outcome=\"overflowed\"") > 0);
    assert!(outcome("rule=\"hangs\",action=\"run\",outcome=\"overflowed\"") > 0);
    assert!(outcome("rule=\"hangs\",action=\"tcp\",outcome=\"overflowed\"") > 0);
    assert_eq!(outcome("action=\"run\",outcome=\"done\""), 0);
    assert!(metric(&server, "eventstream_rule_suppressed_total", "limit=\"rate\"") > 0);
    server.stop().assert_clean();
    assert!(!folder.path().join("data/alerts.jsonl").exists(), "no rule logs");
}

#[test]
fn without_rules_every_realtime_event_is_an_alert() {
    let server = Server::start(&[]);
    send_all(&server, &[frame(3, "a", b"1"), frame(4, "b", b"2"), frame(2, "c", b"3")].concat());
    server.wait_stored(3);
    let ended = server.stop();
    ended.assert_clean();
    let logged = alerts(&ended.data);
    assert_eq!(logged.iter().map(|line| line["topic"].as_str()).collect::<Vec<_>>(), [Some("a"), Some("b")]);
    assert!(logged[0].get("rule").is_none());
}

#[test]
fn a_rule_that_is_refused_ends_the_start_with_three_lines() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("es.toml");
    std::fs::write(&path, "[[rules]]\nname = \"r\"\ntopic = \"#\"\nrun = [\"page\"]\n").expect("writable");
    let output = run(&["serve", &format!("--config={}", path.display())]);
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stderr).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("error: rule `r` is refused") && lines[1].contains("must begin with `/`"), "{text}");
}

#[test]
fn the_sample_rules_do_what_the_readme_says() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/samples");
    let config = std::fs::read_to_string(samples.join("rules.toml")).expect("a sample");
    let readme = std::fs::read_to_string(samples.join("../../README.md")).expect("a README");
    assert!(readme.contains(&config[config.find("[[rules]]").expect("rules")..]), "the README shows the sample as it is");
    let server = start(folder.path(), &config);
    let file = samples.join("plant.jsonl").display().to_string();
    let to = server.tcp.to_string();
    assert!(run(&["send", "--json-lines", "--file", &file, "--tcp", &to]).status.success());
    let lines = std::fs::read_to_string(&file).expect("a sample").lines().count();
    server.wait_stored(lines as u64);
    let ended = server.stop();
    ended.assert_clean();
    let fired: Vec<String> = alerts(&ended.data).iter().map(|line| line["rule"].as_str().expect("a name").to_owned()).collect();
    assert_eq!(fired, ["overheated", "urgent", "urgent", "boiler"]);
}
