//! From a socket to the durable log and back out of it.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use support::*;

#[test]
fn frames_sent_by_hand_appear_in_the_dump() {
    let server = Server::start(&[]);
    let sent = [
        (0u8, "logs/web", "GET /index.html"),
        (1, "logs/db", "slow query"),
        (2, "orders/eu", "{\"order\":17}"),
        (3, "sensors/temp", "{\"val\":23.5}"),
        (4, "alarms/fire", "hall 3"),
    ];
    let bytes: Vec<u8> = sent.iter().flat_map(|(priority, topic, body)| frame(*priority, topic, body.as_bytes())).collect();
    send_all(&server, &bytes);
    server.wait_stored(5);
    // A live log can be read too.
    assert_eq!(dump(&server.data).len(), 5);
    let ended = server.stop();
    let records = ended.assert_clean().dump();
    let names = ["BATCH", "LOW", "MEDIUM", "HIGH", "CRITICAL"];
    for (priority, topic, body) in sent {
        let record = records.iter().find(|r| r["topic"] == topic).unwrap_or_else(|| panic!("{topic} is missing"));
        assert_eq!(record["priority"], names[priority as usize]);
        assert_eq!(record["body"], body);
    }
    let verify = run(&["log", "verify", "--data-dir", &ended.data.display().to_string()]);
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
}

#[test]
fn duplicates_are_recognised_and_counted() {
    let server = Server::start(&[]);
    let order = frame(2, "orders/eu", b"order 1");
    send_all(&server, &order.repeat(10));
    server.wait_for("the duplicates", |status| term(status, "duplicate") == 9 && term(status, "stored") == 1);
    let ended = server.stop();
    assert_eq!(ended.assert_clean().dump().len(), 1);
}

#[test]
fn a_terminated_engine_stores_everything_it_accepted() {
    let server = Server::start(&[]);
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..4)
        .map(|sender| {
            let (tcp, stop) = (server.tcp, stop.clone());
            std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(tcp).expect("the engine accepts");
                for n in 0..5_000_000u32 {
                    let bytes = frame((n % 5) as u8, "under/load", format!("{sender} {n}").as_bytes());
                    if stop.load(Ordering::Relaxed) || stream.write_all(&bytes).is_err() {
                        break;
                    }
                }
            })
        })
        .collect();
    server.wait_stored(10_000);
    let ended = server.stop();
    stop.store(true, Ordering::Relaxed);
    senders.into_iter().for_each(|sender| sender.join().expect("ends by the closed connection"));
    ended.assert_clean();
}

#[test]
fn a_second_signal_ends_at_once() {
    let server = Server::start(&["--drain-timeout-ms=60000", "--frame-deadline-ms=600000"]);
    send_all(&server, &frame(2, "before", b"stored"));
    server.wait_stored(1);
    server.signal(libc::SIGTERM);
    server.signal(libc::SIGTERM);
    server.wait(); // that it ends is the claim; whether the drain won the race decides the code
}

#[test]
fn killed_under_load_the_log_is_valid_and_holds_what_was_reported_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let mut reported = 0u64;
    for round in 0..5u32 {
        let server = Server::start_on(&data, &[]);
        let tcp = server.tcp;
        let sender = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(tcp).expect("the engine accepts");
            for n in 0..10_000_000u32 {
                let bytes =
                    frame((n % 5) as u8, "to/be/killed", format!("{round} {n} {}", "x".repeat((n % 100) as usize)).as_bytes());
                if stream.write_all(&bytes).is_err() {
                    break;
                }
            }
        });
        server.wait_stored(5_000 + u64::from(round) * 3_000);
        reported += term(&server.status(), "stored");
        server.kill();
        sender.join().expect("ends by the closed connection");
        let opened = Server::start_on(&data, &[]);
        opened.stop().assert_clean();
        let verify = run(&["log", "verify", "--data-dir", &data.display().to_string()]);
        assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
        let records = dump(&data).len() as u64;
        assert!(records >= reported, "round {round}: {records} records, {reported} were reported as stored");
    }
}

#[test]
fn send_and_status_commands_work_together() {
    let server = Server::start(&[]);
    let mut child = Command::new(binary())
        .args(["send", "--tcp", &server.tcp.to_string(), "--topic", "typed/lines", "--priority", "high", "--file", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("piped").write_all(b"one\ntwo\nthree\n").expect("it reads");
    assert!(child.wait().expect("it ends").success());
    server.wait_stored(3);
    let generated = run(&["send", "--tcp", &server.tcp.to_string(), "--generate", "20000", "--connections", "4"]);
    assert!(generated.status.success(), "{}", String::from_utf8_lossy(&generated.stderr));
    server.wait_stored(20_003);
    let status = run(&["status", "--json", "--admin", &server.admin.to_string()]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(term(&status, "received"), 20_003);
    assert_eq!(term(&status, "in_flight"), 0);
    server.stop().assert_clean();
}

#[test]
fn topic_overrides_lead_to_another_tier() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("eventstream.toml");
    std::fs::write(&file, "[topics]\n\"alarms/#\" = \"critical\"\n\"noise/+\" = \"batch\"\n").expect("writable");
    let server = Server::start(&[&format!("--config={}", file.display())]);
    let bytes = [frame(0, "alarms/hall/3", b"fire"), frame(4, "noise/fan", b"hum"), frame(2, "orders", b"plain")].concat();
    send_all(&server, &bytes);
    let status = server.wait_stored(3);
    for tier in ["realtime", "transactional", "batch"] {
        assert_eq!(status["tiers"][tier]["stored"].as_u64(), Some(1), "{tier}");
    }
    server.stop().assert_clean();
}

#[test]
fn a_tiny_pool_makes_senders_wait_and_loses_nothing() {
    let server = Server::start(&[
        "--pool-small-slots=64",
        "--pool-medium-slots=64",
        "--pool-large-slots=2",
        "--udp-slots=16",
        "--realtime-capacity=16",
        "--transactional-capacity=16",
        "--batch-capacity=16",
        "--max-queue-depth=16",
    ]);
    let tcp = server.tcp;
    let senders: Vec<_> = (0..8)
        .map(|sender| {
            std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(tcp).expect("the engine accepts");
                for n in 0..5_000u32 {
                    let size = (n % 400) as usize;
                    let bytes = frame((n % 5) as u8, "tiny/pool", format!("{sender} {n} {}", "x".repeat(size)).as_bytes());
                    stream.write_all(&bytes).expect("the engine reads, sooner or later");
                }
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().expect("everything was sent"));
    server.wait_for("every event's end", |status| term(status, "received") == 40_000 && term(status, "in_flight") == 0);
    assert_eq!(term(&server.status(), "stored"), 40_000, "with flow control TCP loses nothing");
    server.stop().assert_clean();
}

#[test]
fn ipv6_is_served_where_the_host_has_it() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skip("this host has no IPv6 loopback");
    }
    let server = Server::start(&["--tcp-listen=[::1]:0", "--udp-listen=[::1]:0"]);
    assert!(server.tcp.is_ipv6() && server.udp.is_ipv6());
    send_all(&server, &frame(3, "six", b"over TCP"));
    let socket = std::net::UdpSocket::bind("[::1]:0").expect("IPv6 loopback");
    socket.send_to(&frame(3, "six", b"over UDP"), server.udp).expect("loopback");
    server.wait_stored(2);
    server.stop().assert_clean();
}
