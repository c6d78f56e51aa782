//! Every reason for which an event can be lost is reached, counted under its name, and accounted for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use eventstream::config::Config;
use eventstream::control::Level;
use eventstream::engine::{Engine, EngineBuilder};
use eventstream::ingest::{Publication, Publisher, Refusal, Refused};
use eventstream::metrics::ledger::DropReason;
use eventstream::metrics::telemetry::Snapshot;
use eventstream::pool::EventView;
use eventstream::process::{AlertHandler, HandlerError, RealtimeOptions, TransactionalHandler, TransactionalOptions};
use eventstream::sim::campaign::run_seed;
use eventstream::sys::clock::{Clock, HostClock};
use eventstream::wire::Priority;

/// The depth that counts as 100 % here.
const DEPTH_MAX: u32 = 64;

/// Larger than a medium slot: of the large ones a publisher has one, and the retry memory has one.
const LARGE_BODY_BYTES: usize = 100_000;

/// One test for each reason. A reason without a case does not compile: `case_of` has to know them all.
macro_rules! cases {
    ($($reason:ident: $name:ident => $lose:expr;)+) => {
        const _: fn(DropReason) -> &'static str = case_of;
        const fn case_of(reason: DropReason) -> &'static str {
            match reason {
                $(DropReason::$reason => stringify!($name),)+
            }
        }

        $(#[test]
        fn $name() {
            assert_is_reached(DropReason::$reason, $lose);
        })+

        #[test]
        fn every_reason_has_one_case() {
            let cases = [$(DropReason::$reason),+];
            assert_eq!(cases.len(), DropReason::COUNT);
            assert!(DropReason::ALL.iter().all(|reason| cases.contains(reason)), "{cases:?}");
        }
    };
}

cases! {
    QueueFull: a_full_lane_loses_what_cannot_wait_as_queue_full => queue_full;
    ProcessingFailed: a_handler_that_always_fails_loses_its_event_as_processing_failed => processing_failed;
    HandlerPanic: a_handler_that_panics_loses_its_event_as_handler_panic => handler_panic;
    RetryOverflow: a_failed_event_beyond_the_retry_memory_is_lost_as_retry_overflow => retry_overflow;
    BackpressureDrop: a_level_that_pauses_a_tier_loses_what_cannot_wait_as_backpressure_drop => backpressure_drop;
    EmergencyDrop: the_level_emergency_loses_even_realtime_below_critical_as_emergency_drop => emergency_drop;
    PoolExhausted: an_event_that_finds_no_slot_and_cannot_wait_is_lost_as_pool_exhausted => pool_exhausted;
    StoreUnavailable: a_log_that_cannot_be_written_loses_what_cannot_wait_as_store_unavailable => store_unavailable;
    SourceRate: a_datagram_beyond_the_rate_of_its_source_is_lost_as_source_rate => source_rate;
}

/// How a reason was reached: by an engine of this process, or by the simulator.
enum Reached {
    Engine(Box<Lossy>),
    Simulated(u64),
}

/// An engine that is losing events.
struct Lossy {
    engine: Engine,
    /// Lets stuck handlers go on.
    open: Arc<AtomicBool>,
}

fn assert_is_reached(reason: DropReason, lose: fn(&Path) -> Reached) {
    let folder = tempfile::tempdir().unwrap();
    match lose(folder.path()) {
        Reached::Simulated(events) => assert!(events > 0, "no seed lost an event as {}", reason.name()),
        Reached::Engine(lossy) => {
            let Lossy { engine, open } = *lossy;
            wait_for(&engine, reason.name(), |now| now.by_label("events_dropped", "reason")[reason.name()] > 0);
            open.store(true, Ordering::Relaxed);
            let account = engine.stop();
            assert!(account.is_clean(), "{account}");
            assert!(account.ledger.total().lost[reason as usize] > 0, "{account}");
            let letters = std::fs::read_to_string(folder.path().join("dlq_log.txt")).unwrap_or_default();
            assert!(!reason.is_dead_lettered() || letters.contains(reason.name()), "no line says {}: {letters}", reason.name());
        }
    }
}

/// Looks again and again; a minute without success is a failure.
fn wait_for(engine: &Engine, what: &str, is_there: impl Fn(&Snapshot) -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let snapshot = engine.telemetry().read(HostClock.now());
        if is_there(&snapshot) {
            return;
        }
        assert!(Instant::now() < give_up, "waited in vain for {what}: {snapshot:#?}");
        std::thread::sleep(Duration::from_millis(5)); // between two looks
    }
}

/// A handler that is stuck in its first call until it may go on, and offloaded, so that only its own tier waits for it.
struct Stuck(Arc<AtomicBool>);

impl Stuck {
    fn wait(&self) {
        while !self.0.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1)); // between two looks
        }
    }
}

impl AlertHandler for Stuck {
    fn name(&self) -> &'static str {
        "stuck"
    }
    fn handle(&mut self, _: &EventView<'_>) {
        self.wait();
    }
}

impl TransactionalHandler for Stuck {
    fn name(&self) -> &'static str {
        "stuck"
    }
    fn handle(&mut self, _: &EventView<'_>) -> Result<(), HandlerError> {
        self.wait();
        Ok(())
    }
}

/// A handler that never succeeds.
struct Hopeless {
    panics: bool,
}

impl TransactionalHandler for Hopeless {
    fn name(&self) -> &'static str {
        "hopeless"
    }
    fn handle(&mut self, _: &EventView<'_>) -> Result<(), HandlerError> {
        assert!(!self.panics, "as it must");
        Err(HandlerError::new("never works"))
    }
}

fn config(folder: &Path) -> Config {
    Config { data_dir: folder.to_owned(), max_queue_depth: DEPTH_MAX, ..Config::without_sockets() }
}

fn start(builder: EngineBuilder, publishers: u32) -> (Engine, Publisher) {
    let (mut engine, _) = builder.publishers(publishers).start().unwrap_or_else(|error| panic!("no engine: {error}"));
    let publisher = engine.publishers().remove(0);
    (engine, publisher)
}

/// An engine whose TRANSACTIONAL and REALTIME handlers are stuck.
fn stuck(config: Config, publishers: u32) -> (Lossy, Publisher) {
    let open: Arc<AtomicBool> = Arc::default();
    let (alerts, transactions) = (open.clone(), open.clone());
    let builder = Engine::builder().config(config).alert_log(false);
    let builder = builder.alert_handler(move |_| Stuck(alerts.clone()));
    let builder = builder.transactional_handler(move |_| Stuck(transactions.clone()));
    let (engine, publisher) = start(builder, publishers);
    (Lossy { engine, open }, publisher)
}

fn try_publish(publisher: &mut Publisher, number: u64, priority: Priority) -> Result<u64, Refusal> {
    let body = number.to_string();
    let given_back = |refused: Refused<'_>| refused.refusal;
    publisher.try_publish(Publication::new("drop/reasons", body.as_bytes(), priority)).map_err(given_back)
}

fn publish_large(publisher: &mut Publisher, first_byte: u8, priority: Priority) {
    let body = vec![first_byte; LARGE_BODY_BYTES];
    publisher.publish(Publication::new("drop/reasons", &body, priority)).expect("waits for its slot");
}

fn queue_full(folder: &Path) -> Reached {
    // Four lanes of 16, a quarter of the depth that counts as 100 %: full without any level.
    let config = Config { transactional_capacity: DEPTH_MAX, ..config(folder) };
    let (lossy, mut publisher) = stuck(config, 3);
    let held = TransactionalOptions::default().offload_events_max as u64 + u64::from(DEPTH_MAX);
    // Until the offloaded handler has all that it may hold, the lane empties itself again.
    let lost = |number| try_publish(&mut publisher, number, Priority::Medium) == Err(Refusal::Lost(DropReason::QueueFull));
    assert!((0..1_000 * held).any(lost), "the lane never got full");
    Reached::Engine(Box::new(lossy))
}

fn processing_failed(folder: &Path) -> Reached {
    let config = Config { max_retries: 1, retry_backoff_ms: 1, ..config(folder) };
    let builder = Engine::builder().config(config).transactional_handler(|_| Hopeless { panics: false });
    let (engine, mut publisher) = start(builder, 1);
    try_publish(&mut publisher, 1, Priority::Medium).expect("an empty lane");
    Reached::Engine(Box::new(Lossy { engine, open: Arc::default() }))
}

fn handler_panic(folder: &Path) -> Reached {
    let builder = Engine::builder().config(config(folder)).transactional_handler(|_| Hopeless { panics: true });
    let (engine, mut publisher) = start(builder, 1);
    try_publish(&mut publisher, 1, Priority::Medium).expect("an empty lane");
    Reached::Engine(Box::new(Lossy { engine, open: Arc::default() }))
}

fn retry_overflow(folder: &Path) -> Reached {
    // The first one waits for its retry in the one large slot there is for that.
    let config = Config { max_retries: 3, retry_backoff_ms: 60_000, ..config(folder) };
    let builder = Engine::builder().config(config).transactional_handler(|_| Hopeless { panics: false });
    let (engine, mut publisher) = start(builder, 1);
    publish_large(&mut publisher, b'1', Priority::Medium);
    publish_large(&mut publisher, b'2', Priority::Medium);
    Reached::Engine(Box::new(Lossy { engine, open: Arc::default() }))
}

/// Publishes on and on, no faster than the standing depth follows, so that no level is jumped over; until an event is lost.
fn publish_until_lost(lossy: &Lossy, publisher: &mut Publisher, priority: Priority, depth_gauge: &str) -> Refusal {
    let give_up = Instant::now() + Duration::from_secs(60);
    for number in 0.. {
        let snapshot = lossy.engine.telemetry().read(HostClock.now());
        let is_filling = snapshot.sum("events_in_flight") < held_by_stuck();
        let follows = snapshot.sum(depth_gauge) < snapshot.sum("control_standing_depth") + 8;
        if (is_filling || follows)
            && let Err(refusal) = try_publish(publisher, number, priority)
        {
            return refusal;
        }
        assert!(Instant::now() < give_up, "nothing is lost: {snapshot:#?}");
    }
    unreachable!("there are more numbers than a minute has looks")
}

/// Events that a stuck handler has taken out of its lane.
fn held_by_stuck() -> u64 {
    let (realtime, transactional) = (RealtimeOptions::default(), TransactionalOptions::default());
    realtime.offload_events_max.max(transactional.offload_events_max) as u64
}

fn backpressure_drop(folder: &Path) -> Reached {
    let (lossy, mut publisher) = stuck(config(folder), 1);
    let refusal = publish_until_lost(&lossy, &mut publisher, Priority::Medium, "queue_depth_trans");
    assert_eq!(refusal, Refusal::Lost(DropReason::BackpressureDrop));
    Reached::Engine(Box::new(lossy))
}

fn emergency_drop(folder: &Path) -> Reached {
    let (lossy, mut publisher) = stuck(config(folder), 1);
    // REALTIME is open below EMERGENCY, so its depth gets there.
    let refusal = publish_until_lost(&lossy, &mut publisher, Priority::High, "queue_depth_realtime");
    assert_eq!(refusal, Refusal::Lost(DropReason::EmergencyDrop));
    assert_eq!(lossy.engine.telemetry().read(HostClock.now()).level(), Level::Emergency);
    assert!(try_publish(&mut publisher, 0, Priority::Critical).is_ok(), "priority CRITICAL is never shed");
    Reached::Engine(Box::new(lossy))
}

fn pool_exhausted(folder: &Path) -> Reached {
    let (lossy, mut publisher) = stuck(config(folder), 1);
    publish_large(&mut publisher, b'1', Priority::Medium);
    let large = vec![b'2'; LARGE_BODY_BYTES];
    let second = publisher.try_publish(Publication::new("drop/reasons", &large, Priority::Medium));
    assert_eq!(second.unwrap_err().refusal, Refusal::Lost(DropReason::PoolExhausted));
    Reached::Engine(Box::new(lossy))
}

fn source_rate(folder: &Path) -> Reached {
    let udp_listen = Some("127.0.0.1:0".parse().expect("an address"));
    let builder = Engine::builder().config(Config { udp_listen, events_per_source: 1, ..config(folder) });
    let (engine, report) = builder.start().unwrap_or_else(|error| panic!("no engine: {error}"));
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    // Two in one datagram: the second one can't be within the rate.
    let mut frames = Vec::new();
    for body in [b"first", b"other"] {
        eventstream::wire::encode_into(&mut frames, Priority::Low, "drop/reasons", body).expect("a frame");
    }
    socket.send_to(&frames, report.udp.expect("it listens")).expect("loopback");
    Reached::Engine(Box::new(Lossy { engine, open: Arc::default() }))
}

fn store_unavailable(_: &Path) -> Reached {
    // A full disk takes a file system of its own (tests/disk_full.rs, as root) or a simulated one.
    let lost = |seed| run_seed(seed).terms.lost[DropReason::StoreUnavailable as usize];
    Reached::Simulated((0..200).map(lost).find(|events| *events > 0).unwrap_or(0))
}
