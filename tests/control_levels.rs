//! Levels from end to end: back-pressure is no overload, a flood that cannot wait is one and passes, and the account is exact.

mod support;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use eventstream::config::{Auto, Config};
use eventstream::control::Level;
use eventstream::engine::Engine;
use eventstream::metrics::ledger::DropReason;
use eventstream::metrics::telemetry::{PipelineState, Snapshot};
use eventstream::pool::EventView;
use eventstream::process::{HandlerError, HandlerMode, TransactionalHandler};
use eventstream::report::DrainCause;
use eventstream::sys::clock::{Clock, HostClock};
use support::*;

/// REALTIME's p99 of a machine that others use too is no signal for a test.
const NO_LATENCY: &str = "--max-latency-ms=30000";

#[test]
fn tcp_senders_at_full_speed_on_every_tier_lose_nothing_and_keep_the_level_healthy() {
    const EVENTS: u64 = 60_000;
    let server = Server::start(&[NO_LATENCY]);
    let address = server.tcp.to_string();
    let senders: Vec<_> = [3, 2, 1]
        .into_iter()
        .map(|priority: u8| {
            let address = address.clone();
            std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(address).expect("the engine accepts");
                let mut bytes = Vec::new();
                for n in 0..EVENTS {
                    bytes.extend(frame(priority, "full/speed", format!("{priority} {n}").as_bytes()));
                    if bytes.len() > 64 << 10 || n + 1 == EVENTS {
                        std::io::Write::write_all(&mut stream, &bytes).expect("the engine reads");
                        bytes.clear();
                    }
                }
            })
        })
        .collect();
    senders.into_iter().for_each(|sender| sender.join().expect("everything was sent"));
    let status = server.wait_stored(3 * EVENTS);
    assert_eq!(status["level"], "HEALTHY");
    for level in ["ELEVATED", "DEGRADED", "CRITICAL", "EMERGENCY"] {
        assert_eq!(metric(&server, "eventstream_control_transitions_total", level), 0, "{level} was entered");
    }
    let ended = server.stop();
    assert_eq!(ended.assert_clean().dump().len() as u64, 3 * EVENTS);
}

/// A handler that does nothing until it is let, and says on which thread it works.
struct Gate {
    is_open: Arc<AtomicBool>,
    handled: Arc<AtomicU64>,
}

impl TransactionalHandler for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn mode(&self) -> HandlerMode {
        HandlerMode::Offloaded
    }

    fn handle(&mut self, _: &EventView<'_>) -> Result<(), HandlerError> {
        while !self.is_open.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1)); // the handler's own waiting
        }
        self.handled.fetch_add(1, SeqCst);
        Ok(())
    }
}

fn read(engine: &Engine) -> Snapshot {
    engine.telemetry().read(HostClock.now())
}

/// Looks after the engine until `reached` says yes; `act` is done between two looks.
fn wait_for(
    engine: &mut Engine,
    lines: &mut Vec<String>,
    what: &str,
    mut act: impl FnMut(),
    reached: impl Fn(&Snapshot) -> bool,
) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let ended = engine.watch(&mut |_, line| lines.push(line));
        assert_eq!(ended, None);
        let snapshot = read(engine);
        if reached(&snapshot) {
            return;
        }
        assert!(Instant::now() < give_up, "waited in vain for {what}: {:?}", snapshot.levels);
        act();
        std::thread::sleep(Duration::from_millis(2)); // between two looks
    }
}

#[test]
fn a_datagram_flood_against_a_slow_handler_raises_the_level_and_it_falls_by_itself() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config {
        tcp_listen: None,
        udp_listen: Some("127.0.0.1:0".parse().expect("an address")),
        admin_listen: None,
        data_dir: folder.path().join("data"),
        pool_small_slots: Auto::Given(16_384),
        pool_medium_slots: Auto::Given(4_096),
        pool_large_slots: Auto::Given(4),
        max_queue_depth: 400,
        max_latency_ms: 30_000,
        // Depth alone is to be the signal here: what the kernel drops is up to the machine.
        min_events_for_evaluation: 1_000_000_000,
        ..Config::default()
    };
    let (is_open, handled) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let gate = (is_open.clone(), handled.clone());
    let builder = Engine::builder()
        .config(config)
        .transactional_handler(move |_| Gate { is_open: gate.0.clone(), handled: gate.1.clone() })
        .spare_transactional_threads(2);
    let (mut engine, report) = builder.start().expect("an engine");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(report.udp.expect("it listens")).expect("loopback");
    let mut sent = 0_u64;
    let mut flood = || {
        for priority in [2, 2, 2, 2, 1, 4] {
            sent += 1;
            socket.send(&frame(priority, "flood/x", format!("{sent}").as_bytes())).expect("loopback");
        }
    };
    let mut lines = Vec::new();
    let shed = |snapshot: &Snapshot| snapshot.ledger.total().lost[DropReason::BackpressureDrop as usize];
    wait_for(&mut engine, &mut lines, "events shed by a level", &mut flood, |snapshot| {
        snapshot.level() >= Level::Degraded && shed(snapshot) > 100
    });
    let snapshot = read(&engine);
    assert!(snapshot.state == PipelineState::Paused || snapshot.state == PipelineState::Dropping, "{:?}", snapshot.state);
    let by_class: u64 = snapshot.sum("backpressure_drops_by_class");
    assert!(by_class > 0);
    is_open.store(true, SeqCst);
    wait_for(&mut engine, &mut lines, "HEALTHY", || {}, |snapshot| snapshot.level() == Level::Healthy && snapshot.in_flight == 0);
    let account = engine.drain(DrainCause::Signal("the test's end"));
    assert!(account.is_clean(), "{account}");
    let total = account.ledger.total();
    assert_eq!(total.lost[DropReason::EmergencyDrop as usize], 0, "REALTIME was never shed");
    let kernel: u64 = account.kernel_drops.iter().map(|drops| drops.count).sum();
    assert_eq!(total.received + kernel, sent, "every datagram is accounted for");
    assert!(lines.iter().any(|line| line.contains("level DEGRADED") && line.contains("standing depth")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("level HEALTHY after ELEVATED: every signal was calm")), "{lines:?}");
    assert_eq!(total.stored + total.duplicate + total.lost.iter().sum::<u64>(), total.received);
}
