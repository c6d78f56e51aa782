//! The same events through every layout: nodes, agents split over runners, idle strategies, durabilities, tiny rings. All stored, always.

mod support;

use std::io::Write;

use support::*;

const SENDERS: u32 = 4;
const EVENTS_PER_SENDER: u32 = 5_000;
const EVENTS: u64 = SENDERS as u64 * EVENTS_PER_SENDER as u64;

/// Sends events of all priorities with bodies that differ, over several connections at once.
fn send_from_many(server: &Server) {
    let tcp = server.tcp;
    let send = move |sender: u32| {
        let mut stream = std::net::TcpStream::connect(tcp).expect("the engine accepts");
        for first in (0..EVENTS_PER_SENDER).step_by(50) {
            let event = |n: u32| frame((n % 5) as u8, "layout/test", format!("{sender} {n}").as_bytes());
            let bytes: Vec<u8> = (first..first + 50).flat_map(event).collect();
            stream.write_all(&bytes).expect("the engine reads, sooner or later");
        }
    };
    let senders: Vec<_> = (0..SENDERS).map(|sender| std::thread::spawn(move || send(sender))).collect();
    senders.into_iter().for_each(|sender| sender.join().expect("everything was sent"));
}

/// Everything that was sent is stored, the account balances, the log is valid and holds each event once.
#[track_caller]
fn assert_stores_everything(flags: &[&str]) {
    let server = Server::start(flags);
    send_from_many(&server);
    server.wait_stored(EVENTS);
    // A second helping, after everything has had time to fall asleep.
    send_all(&server, &frame(3, "layout/late", b"wake up"));
    server.wait_stored(EVENTS + 1);
    let ended = server.stop();
    let records = ended.assert_clean().dump();
    assert_eq!(records.len() as u64, EVENTS + 1);
    let bodies: std::collections::HashSet<_> = records.iter().map(|record| record["body"].to_string()).collect();
    assert_eq!(bodies.len(), records.len(), "each event once");
    assert_verified(&ended);
}

#[track_caller]
fn assert_verified(ended: &Ended) {
    let verify = run(&["log", "verify", "--data-dir", &ended.data.display().to_string()]);
    assert!(verify.status.success(), "{}", String::from_utf8_lossy(&verify.stdout));
}

/// Needs a second CPU; says so where there is none.
fn has_two_cpus() -> bool {
    let enough = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2);
    if !enough {
        skip("this host has one CPU");
    }
    enough
}

const SPLIT: &str = "--cores=reactor=0,realtime=1,transactional=1,batch=1,appender=1";

#[test]
fn two_nodes_store_everything_in_two_logs_that_merge() {
    let server = Server::start(&["--nodes=2", "--idle=park"]);
    send_from_many(&server);
    server.wait_stored(EVENTS);
    let ended = server.stop();
    assert_eq!(ended.assert_clean().dump().len() as u64, EVENTS);
    assert!(ended.data.join("events.bin").exists() && ended.data.join("events.node1.bin").exists());
    assert_verified(&ended);
}

#[test]
fn datagrams_of_many_senders_reach_both_nodes() {
    let server = Server::start(&["--nodes=2", "--idle=park"]);
    let senders: Vec<_> = (0..32).map(|_| server.udp_socket()).collect();
    for n in 0..10u8 {
        for (number, sender) in senders.iter().enumerate() {
            sender.send(&frame(n % 5, "layout/udp", format!("{number} {n}").as_bytes())).expect("loopback");
        }
        // Paced by what is stored: the claim is about who gets them, not about socket buffers.
        server.wait_stored((u64::from(n) + 1) * 32);
    }
    let ended = server.stop();
    assert_eq!(ended.assert_clean().dump().len(), 320);
    let empty = tempfile::tempdir().expect("a temporary folder");
    for log in ["events.bin", "events.node1.bin"] {
        let alone = empty.path().join(log.replace('.', "-"));
        std::fs::create_dir(&alone).expect("writable");
        std::fs::copy(ended.data.join(log), alone.join(log)).expect("readable");
        assert!(!dump(&alone).is_empty(), "{log} got nothing of 32 senders");
    }
}

#[test]
fn several_reactors_on_a_node_store_everything() {
    if has_two_cpus() {
        // Named, as --reactors-per-node gives a host of few cores one reactor whatever is asked for.
        assert_stores_everything(&["--cores=reactor=0,reactor=1", "--idle=park"]);
    }
}

#[test]
fn agents_split_over_parking_runners_wake_each_other() {
    if has_two_cpus() {
        assert_stores_everything(&[SPLIT, "--idle=park"]);
    }
}

#[test]
fn agents_split_over_adaptive_runners_wake_each_other() {
    if has_two_cpus() {
        assert_stores_everything(&[SPLIT, "--idle=adaptive"]);
    }
}

#[test]
fn agents_split_over_spinning_runners_work_together() {
    if has_two_cpus() {
        assert_stores_everything(&[SPLIT, "--idle=spin"]);
    }
}

#[test]
fn a_starved_pool_on_one_runner_is_fed_by_processors_on_another() {
    if has_two_cpus() {
        let small = ["--pool-small-slots=64", "--pool-medium-slots=64", "--pool-large-slots=2", "--udp-slots=16"];
        let tiers = ["--realtime-capacity=16", "--transactional-capacity=16", "--batch-capacity=16", "--max-queue-depth=16"];
        assert_stores_everything(&[&[SPLIT, "--idle=park"], &small[..], &tiers[..]].concat());
    }
}

#[test]
fn one_runner_stores_everything_with_each_idle_strategy() {
    for idle in ["park", "adaptive", "spin"] {
        assert_stores_everything(&["--cores=0", &format!("--idle={idle}")]);
    }
}

#[test]
fn every_durability_stores_everything() {
    for durability in ["none", "group", "always"] {
        assert_stores_everything(&[&format!("--durability={durability}")]);
    }
}

#[test]
fn submission_polling_stores_everything() {
    assert_stores_everything(&["--sqpoll=on"]);
}

#[test]
fn gathering_waits_store_everything() {
    assert_stores_everything(&["--min-wait-us=50"]);
}

#[test]
fn tiny_rings_store_everything() {
    assert_stores_everything(&["--cq-entries=4", "--ring-entries=4"]);
}

#[test]
fn without_storage_everything_ends_as_handled() {
    let server = Server::start(&["--storage=off"]);
    send_from_many(&server);
    server.wait_for("every event's end", |status| term(status, "handled") == EVENTS && term(status, "in_flight") == 0);
    server.stop().assert_clean();
}
