//! The rows of the metric table: each is on the scrape under its exact name from the first scrape on, and moves when it should.

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eventstream::config::Config;
use eventstream::engine::Engine;
use eventstream::ingest::{Publication, Publisher};
use eventstream::metrics::ledger::DropReason;
use eventstream::pool::EventView;
use eventstream::process::{AlertHandler, HandlerError, TransactionalHandler, TransactionalOptions};
use eventstream::report::DrainSummary;
use eventstream::wire::Priority;

/// The depth that counts as 100 % here.
const DEPTH_MAX: u32 = 64;

/// Counters, each the sum of its lines.
const COUNTERS: [&str; 5] = [
    "eventstream_events_received_total",
    "eventstream_events_processed_total",
    "eventstream_events_dropped_total",
    "eventstream_dedup_hits",
    "eventstream_backpressure_drops",
];

/// Gauges.
const DEPTHS: [&str; 3] = ["eventstream_queue_depth_realtime", "eventstream_queue_depth_trans", "eventstream_queue_depth_batch"];

/// Histograms: buckets, sum and count.
const LATENCIES: [&str; 3] = ["eventstream_latency_ns_realtime", "eventstream_latency_ns_trans", "eventstream_latency_ns_batch"];

/// A scrape: by name, then by labels as they stand there.
struct Scrape(BTreeMap<String, BTreeMap<String, f64>>);

impl Scrape {
    fn of(admin: SocketAddr) -> Self {
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).proxy(None).build().new_agent();
        let mut answer = agent.get(format!("http://{admin}/metrics")).call().expect("an answer");
        let text = answer.body_mut().read_to_string().expect("a text");
        let mut rows: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let row = rows.entry(name.to_owned()).or_default();
            row.insert(labels.to_owned(), value.parse().expect("a number"));
        }
        Self(rows)
    }

    /// The sum over the lines of a name whose labels contain `label`.
    fn sum(&self, name: &str, label: &str) -> f64 {
        let row = self.0.get(name).unwrap_or_else(|| panic!("no row {name}"));
        row.iter().filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
    }
}

/// Handlers that can be held up, and an engine around them.
struct Rig {
    engine: Engine,
    admin: SocketAddr,
    publisher: Publisher,
    held_up: Arc<AtomicBool>,
    published: u64,
    _folder: tempfile::TempDir,
}

struct Turnstile(Arc<AtomicBool>);

impl Turnstile {
    fn pass(&self) {
        while self.0.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1)); // between two looks
        }
    }
}

impl AlertHandler for Turnstile {
    fn name(&self) -> &'static str {
        "turnstile"
    }
    fn handle(&mut self, _: &EventView<'_>) {
        self.pass();
    }
}

impl TransactionalHandler for Turnstile {
    fn name(&self) -> &'static str {
        "turnstile"
    }
    fn handle(&mut self, event: &EventView<'_>) -> Result<(), HandlerError> {
        self.pass();
        if event.topic == "fails" { Err(HandlerError::new("as it must")) } else { Ok(()) }
    }
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let held_up: Arc<AtomicBool> = Arc::default();
        let (alerts, transactions) = (held_up.clone(), held_up.clone());
        let (mut engine, _) = Engine::builder()
            .config(config(folder.path()))
            .alert_log(false)
            .alert_handler(move |_| Turnstile(alerts.clone()))
            .transactional_handler(move |_| Turnstile(transactions.clone()))
            .publishers(1)
            .start()
            .unwrap_or_else(|error| panic!("no engine: {error}"));
        let publisher = engine.publishers().remove(0);
        let admin = engine.admin_address().expect("configured");
        Self { engine, admin, publisher, held_up, published: 0, _folder: folder }
    }

    fn hold_up(&self, held_up: bool) {
        self.held_up.store(held_up, Ordering::Relaxed);
    }

    /// An event unlike any other.
    fn try_publish(&mut self, topic: &str, priority: Priority) {
        self.published += 1;
        let body = self.published.to_string();
        // What becomes of it is on the scrape.
        let _ = self.publisher.try_publish(Publication::new(topic, body.as_bytes(), priority));
    }

    /// Scrapes until a sum is as wanted; a minute without success is a failure.
    fn wait_for(&self, name: &str, label: &str, is_there: impl Fn(f64) -> bool) -> Scrape {
        let give_up = Instant::now() + Duration::from_secs(60);
        loop {
            let scrape = Scrape::of(self.admin);
            let sum = scrape.sum(name, label);
            if is_there(sum) {
                return scrape;
            }
            assert!(Instant::now() < give_up, "waited in vain for {name}{{{label}}}: it is {sum}");
            std::thread::sleep(Duration::from_millis(20)); // between two scrapes
        }
    }

    fn stop(self) -> DrainSummary {
        self.engine.stop()
    }
}

fn config(folder: &Path) -> Config {
    Config {
        data_dir: folder.join("data"),
        admin_listen: Some("127.0.0.1:0".parse().unwrap()),
        max_queue_depth: DEPTH_MAX,
        max_retries: 0,
        ..Config::without_sockets()
    }
}

#[test]
fn every_row_is_on_the_first_scrape_under_its_exact_name() {
    let rig = Rig::start();
    let first = Scrape::of(rig.admin);
    for name in COUNTERS.into_iter().chain(DEPTHS) {
        assert_eq!(first.sum(name, ""), 0.0, "{name}");
    }
    for name in LATENCIES {
        assert_eq!(first.sum(&format!("{name}_count"), ""), 0.0, "{name}");
        assert_eq!(first.sum(&format!("{name}_sum"), ""), 0.0, "{name}");
        assert_eq!(first.sum(&format!("{name}_bucket"), "le=\"+Inf\""), 0.0, "{name}");
    }
    for reason in DropReason::ALL {
        let label = format!("reason=\"{}\"", reason.name());
        let rows = &first.0["eventstream_events_dropped_total"];
        assert!(rows.keys().any(|labels| labels.contains(&label)), "no row for {label}");
    }
    assert!(rig.stop().is_clean());
}

#[test]
fn events_of_each_tier_move_receipts_outcomes_and_latencies_of_that_tier() {
    let mut rig = Rig::start();
    for (priority, tier, latency) in [
        (Priority::High, "realtime", LATENCIES[0]),
        (Priority::Medium, "transactional", LATENCIES[1]),
        (Priority::Low, "batch", LATENCIES[2]),
    ] {
        let label = format!("tier=\"{tier}\"");
        let before = Scrape::of(rig.admin);
        rig.try_publish("moves", priority);
        let after = rig.wait_for(&format!("{latency}_count"), "", |count| count == 1.0);
        for name in [COUNTERS[0], COUNTERS[1]] {
            assert_eq!(before.sum(name, &label), 0.0, "{name} {label}");
            assert_eq!(after.sum(name, &label), 1.0, "{name} {label}");
        }
        assert!(after.sum(&format!("{latency}_sum"), "") > 0.0);
        assert_eq!(after.sum(&format!("{latency}_bucket"), "le=\"+Inf\""), 1.0);
    }
    assert!(rig.stop().is_clean());
}

#[test]
fn a_repeated_event_moves_dedup_hits_and_a_failed_one_moves_drops_under_its_reason() {
    let mut rig = Rig::start();
    for _ in 0..2 {
        rig.publisher.try_publish(Publication::new("repeated", b"the same", Priority::Medium)).expect("room");
    }
    rig.wait_for("eventstream_dedup_hits", "", |hits| hits == 1.0);
    rig.try_publish("fails", Priority::Medium);
    let after = rig.wait_for("eventstream_events_dropped_total", "reason=\"processing_failed\"", |drops| drops == 1.0);
    assert_eq!(after.sum("eventstream_events_dropped_total", ""), 1.0, "under no other reason");
    assert!(rig.stop().is_clean());
}

#[test]
fn depths_and_backpressure_drops_move_while_handlers_are_held_up_and_depths_come_back() {
    let mut rig = Rig::start();
    rig.hold_up(true);
    // Beyond what an offloaded handler holds, events wait in the lane; REALTIME has as many, and no level sheds CRITICAL.
    let events = TransactionalOptions::default().offload_events_max as u64 + u64::from(DEPTH_MAX);
    for _ in 0..events {
        rig.try_publish("waits", Priority::Critical);
        rig.try_publish("waits", Priority::Medium);
    }
    rig.wait_for(DEPTHS[0], "", |depth| depth > 0.0);
    rig.wait_for(DEPTHS[1], "", |depth| depth > 0.0);
    let give_up = Instant::now() + Duration::from_secs(60);
    while Scrape::of(rig.admin).sum("eventstream_backpressure_drops", "") == 0.0 {
        assert!(Instant::now() < give_up, "TRANSACTIONAL is never paused");
        rig.try_publish("is shed", Priority::Medium);
    }
    rig.hold_up(false);
    for depth in DEPTHS {
        rig.wait_for(depth, "", |depth| depth == 0.0);
    }
    assert!(rig.stop().is_clean());
}

#[test]
fn the_depth_of_batch_moves_while_the_log_cannot_be_written_and_comes_back() {
    const EVENTS: u64 = 60_000;
    const LOG_BYTES_MAX: u32 = 2 << 20;
    let prlimit = |arguments: &[String]| Command::new("prlimit").args(arguments).status().is_ok_and(|status| status.success());
    if !prlimit(&["--version".into()]) {
        return support::skip("there is no prlimit here to bound the size of files with");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut bounded = Command::new("prlimit");
    bounded.args([&format!("--fsize={LOG_BYTES_MAX}:unlimited"), support::binary()]);
    let server = support::Server::spawn(bounded, &folder.path().join("data"), &[]);
    let tcp = server.tcp;
    let sender = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(tcp).expect("the engine accepts");
        for number in 0..EVENTS {
            // Small enough for a small slot, of which there are more than the inlet of the log and the lane take.
            let body = format!("{number} {}", "x".repeat(150));
            stream.write_all(&support::frame(0, "waits/for/the/log", body.as_bytes())).expect("the engine reads on, later");
        }
    });
    let depth = || support::metric(&server, DEPTHS[2], "");
    server.wait_for("a depth of BATCH", |_| depth() > 0);
    assert!(prlimit(&["--pid".into(), server.pid().to_string(), "--fsize=unlimited".into()]));
    sender.join().expect("everything was sent");
    server.wait_stored(EVENTS);
    server.wait_for("no depth of BATCH", |_| depth() == 0);
    server.stop().assert_clean();
}
