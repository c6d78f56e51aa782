//! The endpoint over real HTTP, also beside peers that hang.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::metrics::pulse::RunnerPulse;
use crate::metrics::telemetry::{LogPosition, PipelineState};
use crate::sys::clock::Nanos;

fn server(telemetry: Telemetry) -> AdminServer {
    AdminServer::start("127.0.0.1:0".parse().expect("an address"), Arc::new(telemetry), None, || {}).expect("a free port")
}

/// Status, content type and body of an answer.
fn get(server: &AdminServer, path: &str) -> (u16, String, String) {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().new_agent();
    let mut answer = agent.get(format!("http://{}{path}", server.address())).call().expect("an answer");
    let content_type = answer.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    (answer.status().as_u16(), content_type, answer.body_mut().read_to_string().expect("a text"))
}

#[test]
fn each_path_answers_and_port_zero_becomes_a_real_one() {
    let server = server(Telemetry::default());
    assert_ne!(server.address().port(), 0);
    assert_eq!(get(&server, "/livez"), (200, "text/plain; charset=utf-8".to_owned(), "alive\n".to_owned()));
    assert_eq!(get(&server, "/readyz").0, 200);
    let (code, content_type, text) = get(&server, "/metrics");
    assert_eq!((code, content_type.as_str()), (200, export::CONTENT_TYPE));
    assert!(text.contains("eventstream_events_received_total{") && text.ends_with("# EOF\n"), "{text}");
    assert_eq!(get(&server, "/nowhere").0, 404);
    server.stop();
}

#[test]
fn status_has_the_terms_of_the_ledger_as_fields() {
    let mut telemetry = Telemetry::default();
    telemetry.logs.push(Box::new(|| LogPosition { node: 0, written_sequence: 9, durable_sequence: 8, sync: "by group" }));
    let server = server(telemetry);
    let (code, content_type, text) = get(&server, "/status");
    assert_eq!((code, content_type.as_str()), (200, "application/json"));
    let document: StatusDocument = serde_json::from_str(&text).expect("a status document");
    assert_eq!((document.written_sequence, document.durable_sequence), (9, 8));
    let fields: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    for term in ["received", "stored", "handled", "duplicate", "in_flight"] {
        assert_eq!(fields["total"][term], 0, "{term}");
        assert_eq!(fields["tiers"]["realtime"][term], 0, "{term}");
    }
    assert_eq!(fields["total"]["dead_lettered"]["queue_full"], 0);
    assert_eq!(fields["total"]["dropped"]["pool_exhausted"], 0);
    server.stop();
}

#[test]
fn a_stuck_runner_makes_the_engine_unready_and_a_parked_one_does_not() {
    let long_ago = Nanos(0);
    let stuck = Arc::new(RunnerPulse::new("node0-a", long_ago));
    stuck.park(None);
    let telemetry = Telemetry { pulses: vec![stuck.clone()], ..Telemetry::default() };
    let server = server(telemetry);
    assert_eq!(get(&server, "/readyz").0, 200, "parked");
    stuck.unpark(long_ago);
    let (code, _, text) = get(&server, "/readyz");
    assert_eq!(code, 503);
    assert!(text.starts_with("not ready: runner node0-a made no turn for "), "{text}");
    assert_eq!(get(&server, "/livez").0, 200, "alive all the same");
    server.stop();
}

#[test]
fn a_draining_engine_is_not_ready() {
    static DRAINING: AtomicBool = AtomicBool::new(false);
    let state = || if DRAINING.load(Ordering::Relaxed) { PipelineState::Draining } else { PipelineState::Running };
    let server = server(Telemetry { state: Box::new(state), ..Telemetry::default() });
    assert_eq!(get(&server, "/readyz").0, 200);
    DRAINING.store(true, Ordering::Relaxed);
    assert_eq!(get(&server, "/readyz"), (503, "text/plain; charset=utf-8".to_owned(), "not ready: draining\n".to_owned()));
    server.stop();
}

#[test]
fn a_thousand_scrapes_and_slow_peers_are_all_answered() {
    let server = server(Telemetry::default());
    // Peers that ask and never read; fewer than are served at once, so the others get their turn without waiting for a deadline.
    let slow: Vec<TcpStream> = (0..ADMIN_CONNECTIONS_MAX / 2)
        .map(|_| {
            let mut peer = TcpStream::connect(server.address()).expect("a backlog with room");
            peer.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("a fresh connection takes a line");
            peer
        })
        .collect();
    let address = server.address();
    let scrapers: Vec<_> =
        (0..10).map(|_| std::thread::spawn(move || (0..100).filter(|_| scrape_is_whole(address)).count())).collect();
    let whole: usize = scrapers.into_iter().map(|scraper| scraper.join().expect("a scraper does not panic")).sum();
    assert_eq!(whole, 1000);
    drop(slow);
    server.stop();
}

fn scrape_is_whole(address: SocketAddr) -> bool {
    let mut peer = TcpStream::connect(address).expect("a backlog with room");
    peer.set_read_timeout(Some(Duration::from_secs(60))).expect("a positive time");
    peer.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a fresh connection takes a line");
    let mut text = String::new();
    peer.read_to_string(&mut text).is_ok() && text.ends_with("# EOF\n")
}

#[test]
fn peers_that_hang_on_every_permit_lose_them_when_their_life_is_over() {
    let address = "127.0.0.1:0".parse().expect("an address");
    let telemetry = Arc::new(Telemetry::default());
    let server = AdminServer::start_with(address, (telemetry, None), || {}, Duration::from_millis(20)).expect("a free port");
    let mut silent: Vec<TcpStream> =
        (0..2 * ADMIN_CONNECTIONS_MAX).map(|_| TcpStream::connect(server.address()).expect("a backlog with room")).collect();
    // All of them are before this one in the backlog.
    assert_eq!(get(&server, "/livez").0, 200);
    for peer in &mut silent {
        assert_eq!(peer.read(&mut [0; 16]).unwrap_or(0), 0, "closed, unanswered");
    }
    server.stop();
}

#[test]
fn a_stop_does_not_wait_for_peers_that_hang() {
    let server = server(Telemetry::default());
    let mut silent = TcpStream::connect(server.address()).expect("a backlog with room");
    assert_eq!(get(&server, "/livez").0, 200, "the silent one was accepted before this one");
    server.stop();
    silent.shutdown(Shutdown::Write).ok();
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0, "closed, unanswered");
}

#[test]
fn a_taken_port_is_refused_with_its_address() {
    let server = server(Telemetry::default());
    let refusal =
        AdminServer::start(server.address(), Arc::new(Telemetry::default()), None, || {}).expect_err("the port is taken");
    assert!(matches!(&refusal, AdminRefusal::Bind { address, .. } if *address == server.address()), "{refusal}");
    server.stop();
}

#[test]
fn an_answer_is_rendered_once_while_it_is_young() {
    let cached = Cached::default();
    let first = cached.get(|| "first".to_owned());
    let second = cached.get(|| "second".to_owned());
    // A stalled machine may let the first one grow old; then a new rendering is right.
    assert!(Arc::ptr_eq(&first, &second) || &*second == "second");
}
