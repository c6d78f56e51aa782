//! Scrapers, slow ones and many at once, beside a data path that does not notice them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use eventstream::config::Config;
use eventstream::engine::Engine;
use eventstream::ingest::{Publication, Publisher};
use eventstream::limits::ADMIN_CONNECTIONS_MAX;
use eventstream::sys::clock::{Clock, HostClock};
use eventstream::wire::Priority;

const EVENTS: u64 = 100_000;

fn start(folder: &tempfile::TempDir) -> (Engine, Publisher, SocketAddr) {
    let config = Config {
        data_dir: folder.path().join("data"),
        admin_listen: Some("127.0.0.1:0".parse().unwrap()),
        ..Config::without_sockets()
    };
    let started = Engine::builder().config(config).publishers(1).start();
    let (mut engine, _) = started.unwrap_or_else(|error| panic!("no engine: {error}"));
    let publisher = engine.publishers().remove(0);
    let admin = engine.admin_address().expect("configured");
    (engine, publisher, admin)
}

fn publish_all(publisher: &mut Publisher) {
    for number in 0..EVENTS {
        let priority = Priority::from_byte((number % 5) as u8).expect("one of five");
        publisher.publish(Publication::new("beside/scrapes", number.to_string().as_bytes(), priority)).expect("waits for room");
    }
}

/// Read inside the process: no scrape is needed for it.
fn wait_until_all_are_stored(engine: &Engine) {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let stored = engine.telemetry().read(HostClock.now()).ledger.total().stored;
        if stored == EVENTS {
            return;
        }
        assert!(Instant::now() < give_up, "only {stored} of {EVENTS} are stored");
        std::thread::sleep(Duration::from_millis(5)); // between two looks
    }
}

/// Asks for the metrics, and reads to the end.
fn scrape_is_whole(admin: SocketAddr) -> bool {
    let mut peer = TcpStream::connect(admin).expect("a backlog with room");
    peer.set_read_timeout(Some(Duration::from_secs(60))).expect("a positive time");
    peer.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a fresh connection takes a line");
    let mut text = String::new();
    peer.read_to_string(&mut text).is_ok() && text.ends_with("# EOF\n")
}

#[test]
fn every_event_is_stored_while_silent_scrapers_hold_the_whole_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, mut publisher, admin) = start(&folder);
    // Half of a request: the endpoint waits for the rest, on every connection that it takes at a time.
    let slow: Vec<TcpStream> = (0..ADMIN_CONNECTIONS_MAX)
        .map(|_| {
            let mut peer = TcpStream::connect(admin).expect("a backlog with room");
            peer.write_all(b"GET /metrics HTTP/1.1\r\n").expect("a fresh connection takes a line");
            peer
        })
        .collect();
    publish_all(&mut publisher);
    wait_until_all_are_stored(&engine);
    drop(slow);
    let account = engine.stop();
    assert!(account.is_clean() && account.ledger.total().stored == EVENTS, "{account}");
}

#[test]
fn a_thousand_scrapes_at_once_are_answered_and_every_event_is_stored_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, mut publisher, admin) = start(&folder);
    let scrapers: Vec<_> =
        (0..20).map(|_| std::thread::spawn(move || (0..50).filter(|_| scrape_is_whole(admin)).count())).collect();
    publish_all(&mut publisher);
    wait_until_all_are_stored(&engine);
    let whole: usize = scrapers.into_iter().map(|scraper| scraper.join().expect("a scraper does not panic")).sum();
    assert_eq!(whole, 1_000);
    let account = engine.stop();
    assert!(account.is_clean() && account.ledger.total().stored == EVENTS, "{account}");
}
