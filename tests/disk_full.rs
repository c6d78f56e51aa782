//! A disk that fills up while events come in, and is given space again. Needs a file system of its own, hence root.

mod support;

use std::io::Write;

use eventstream::client::{AckLevel, ClientOptions, Outcome, Producer};
use eventstream::wire::Priority;

use support::small_disk::SmallDisk;
use support::*;

#[test]
fn a_full_disk_makes_tcp_wait_drops_udp_and_goes_on_when_it_has_space() {
    const EVENTS: u32 = 40_000;
    let Some(disk) = SmallDisk::mount(48) else {
        return skip("mounting a file system is not permitted here");
    };
    let server = Server::start_on(&disk.path().join("data"), &[]);
    send_all(&server, &frame(2, "full/disk", b"before"));
    server.wait_stored(1);
    let ballast = disk.fill_but(256 << 10);
    let tcp = server.tcp;
    let sender = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(tcp).expect("the engine accepts");
        for n in 0..EVENTS {
            let bytes = frame((n % 5) as u8, "full/disk", format!("{n} {}", "x".repeat(400)).as_bytes());
            stream.write_all(&bytes).expect("the engine reads again, once it has space");
        }
    });
    let is_full = |status: &serde_json::Value| status["state"].as_str().is_some_and(|s| s.eq_ignore_ascii_case("emergency"));
    server.wait_for("a full disk", is_full);
    let udp = server.udp_socket();
    // A datagram can't wait. Sent again until the reactor has seen the state too.
    server.wait_for("a dropped datagram", |status| {
        udp.send(&frame(4, "full/disk", b"by UDP")).expect("loopback");
        lost(status, "store_unavailable") > 0
    });
    std::fs::remove_file(ballast).expect("there");
    sender.join().expect("everything was sent");
    server.wait_for("every event's end", |status| !is_full(status) && term(status, "in_flight") == 0);
    let received = term(&server.status(), "received");
    let dropped = lost(&server.status(), "store_unavailable");
    let ended = server.stop();
    let records = ended.assert_clean().dump();
    let by_tcp = records.iter().filter(|record| record["body"].as_str().is_some_and(|body| body != "by UDP")).count();
    assert_eq!(by_tcp as u32, EVENTS + 1, "TCP loses nothing by a full disk");
    assert!(records.len() as u64 + dropped <= received, "{} records and {dropped} drops of {received}", records.len());
    assert!(ended.stderr.contains("NO SPACE") && ended.stderr.contains("space again"), "not told:\n{}", ended.stderr);
    let verify = run(&["log", "verify", "--data-dir", &ended.data.display().to_string()]);
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
}

#[test]
fn a_full_disk_is_told_to_sessions_which_wait_and_lose_nothing() {
    const EVENTS: u64 = 20_000;
    let Some(disk) = SmallDisk::mount(48) else {
        return skip("mounting a file system is not permitted here");
    };
    let server = Server::start_on(&disk.path().join("data"), &["--durability=group"]);
    let options = ClientOptions { ack_level: AckLevel::Durable, ..ClientOptions::new(server.tcp.to_string()) };
    let producer = Producer::connect(options).expect("welcomed");
    let first = producer.send(Priority::Medium, "full/session", b"before").expect("taken");
    assert_eq!(producer.wait(first).expect("an outcome"), Outcome::Acked);
    let ballast = disk.fill_but(256 << 10);
    let (producer, full) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for number in 0..EVENTS {
                let body = format!("{number} {}", "x".repeat(400));
                producer.send(Priority::ALL[number as usize % 5], "full/session", body.as_bytes()).expect("it waits at most");
            }
        });
        let give_up = std::time::Instant::now() + PATIENCE;
        while producer.overload() != 4 {
            assert!(std::time::Instant::now() < give_up, "sessions are not told that the disk is full");
            std::thread::sleep(std::time::Duration::from_millis(10)); // between two looks
        }
        let full = producer.acked();
        std::fs::remove_file(&ballast).expect("there");
        sender.join().expect("everything was sent");
        (&producer, full)
    });
    producer.flush().expect("an engine that goes on");
    assert_eq!(producer.take_refusals(), [], "what waits is not refused");
    assert!(full < EVENTS, "nothing was acknowledged that had no space: {full}");
    assert_eq!(producer.acked(), EVENTS + 1);
    let ended = server.stop();
    let records = ended.assert_clean().dump();
    assert_eq!(records.len() as u64, EVENTS + 1);
}

#[test]
fn a_full_disk_of_dead_letters_is_loud_and_counted_and_stops_nothing_else() {
    let Some(disk) = SmallDisk::mount(8) else {
        return skip("mounting a file system is not permitted here");
    };
    let letters = disk.path().join("dlq_log.txt");
    let flag = format!("--dead-letter-path={}", letters.display());
    let few = [
        "--tcp-flow-control=off",
        "--batch-capacity=64",
        "--max-queue-depth=64",
        "--batch-overflow=drop-new",
        "--max-drop-rate=100",
    ];
    let server = Server::start(&[&few[..], &[flag.as_str()]].concat());
    let ballast = disk.fill_but(4096);
    // More than the lane holds, in one piece: what does not fit is dead-lettered.
    let burst = |round: u32| {
        let frames = (0..2_000).flat_map(|n| frame(0, "full/letters", format!("{round} {n} {}", "x".repeat(200)).as_bytes()));
        send_all(&server, &frames.collect::<Vec<u8>>());
        server.wait_for("the burst's end", |status| {
            term(status, "received") == u64::from(round + 1) * 2_000 && term(status, "in_flight") == 0
        });
    };
    let mut rounds = 0;
    let give_up = std::time::Instant::now() + PATIENCE;
    while metric(&server, "eventstream_dead_letter_lost_total", "") == 0 {
        assert!(std::time::Instant::now() < give_up, "no dead letter was ever lost");
        burst(rounds);
        rounds += 1;
    }
    let stored = term(&server.status(), "stored");
    send_all(&server, &frame(4, "full/other", b"as ever"));
    server.wait_for("an event of another tier", |status| term(status, "stored") > stored);
    std::fs::remove_file(ballast).expect("there");
    let written = metric(&server, "eventstream_dead_letters_written_total", "");
    let give_up = std::time::Instant::now() + PATIENCE;
    let mut sent = u64::from(rounds) * 2_000 + 1;
    while metric(&server, "eventstream_dead_letters_written_total", "") == written {
        assert!(std::time::Instant::now() < give_up, "nothing is written after space came back");
        let frames = (0..2_000u64).flat_map(|n| frame(0, "full/letters", format!("{} again", sent + n).as_bytes()));
        send_all(&server, &frames.collect::<Vec<u8>>());
        sent += 2_000;
        server.wait_for("the burst's end", |status| term(status, "received") == sent && term(status, "in_flight") == 0);
    }
    let ended = server.stop();
    ended.assert_clean();
    let complaints = ended.stderr.lines().filter(|line| line.contains("dead letters can't be written")).count();
    assert!(complaints >= 1, "not loud:\n{}", ended.stderr);
    assert!(ended.stderr.contains("dead_letter_lost"), "{}", ended.stderr);
    let stats = run(&["dlq", "stats", "--json", "--dead-letter-path", &letters.display().to_string()]);
    let stats: serde_json::Value = serde_json::from_slice(&stats.stdout).expect("JSON");
    assert_eq!((&stats["torn_lines"], &stats["foreign_lines"]), (&0.into(), &0.into()), "whole lines or nothing");
    assert!(stats["total"]["letters"].as_u64() > Some(written), "{stats}");
}
