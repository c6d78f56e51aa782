//! Isolation, shown: what REALTIME notices of a handler of another tier that is slow or panics, of an inline one that takes too long, and of
//! floods of BATCH over TCP and over UDP. A table of latencies and counters; nothing in it is a pass or a failure but losses and the ledger.
//!
//! Every scenario is an engine of its own with the same steady load: a REALTIME probe on its own TCP connection, REALTIME datagrams,
//! TRANSACTIONAL and BATCH events, all of it far below what one core serves. `bench-scripts/isolation.sh` runs it.

#[path = "overload/flood.rs"]
#[allow(dead_code, reason = "shared with the other example, which uses all of it")]
mod flood;
#[path = "overload/probe.rs"]
#[allow(dead_code, reason = "shared with the other example, which uses all of it")]
mod probe;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use argh::FromArgs;
use eventstream::config::{ByteSize, Config, CoreSpec};
use eventstream::engine::Engine;
use eventstream::metrics::ledger::DropReason;
use eventstream::metrics::telemetry::Snapshot;
use eventstream::pool::EventView;
use eventstream::process::{HandlerError, HandlerMode, TransactionalHandler};
use eventstream::sys::clock::{Clock, HostClock};
use eventstream::sys::process::allowed_cpus;
use eventstream::wire::{Priority, Tier};
use hdrhistogram::Histogram;

use flood::{Flood, Tap};
use probe::{Arrivals, Probe, ProbeHandler, arrivals};

/// What a first second of an engine's life shows is its start.
const WARM_UP: Duration = Duration::from_secs(1);

/// Few enough that those which a slow handler leaves waiting call for no level.
const TRANSACTIONAL_PER_SECOND: u64 = 400;
const BATCH_PER_SECOND: u64 = 1_000;
const REALTIME_DATAGRAMS_PER_SECOND: u64 = 500;

/// Datagrams that wait in the kernel at most, for each of the two sockets: some 600 small ones, so that a flood overflows its own.
const RECEIVE_BUFFER_BYTES: u64 = 256 << 10;

/// Shows what REALTIME notices of trouble elsewhere.
#[derive(FromArgs)]
struct Arguments {
    /// folder for the engines' data (default: target/isolation)
    #[argh(option, default = "PathBuf::from(\"target/isolation\")")]
    out: PathBuf,
    /// core of the engine (default: 0)
    #[argh(option, default = "0")]
    engine_core: u32,
    /// core of senders (default: 1, where there is one)
    #[argh(option, default = "1")]
    load_core: u32,
    /// seconds of each scenario (default: 6)
    #[argh(option, default = "6")]
    seconds: u64,
    /// REALTIME probes per second (default: 1000)
    #[argh(option, default = "1000")]
    probes: u64,
}

/// What the TRANSACTIONAL handler does.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Prompt,
    SleepsASecond,
    Panics,
    InlineFor50Micros,
}

#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    manner: Manner,
    tcp_flood: bool,
    udp_flood: bool,
}

const SCENARIOS: [Scenario; 6] = {
    let calm = Scenario { name: "alone", manner: Manner::Prompt, tcp_flood: false, udp_flood: false };
    [
        calm,
        Scenario { name: "handler sleeps 1 s", manner: Manner::SleepsASecond, ..calm },
        Scenario { name: "handler panics", manner: Manner::Panics, ..calm },
        Scenario { name: "inline handler of 50 µs", manner: Manner::InlineFor50Micros, ..calm },
        Scenario { name: "BATCH flood, TCP", tcp_flood: true, ..calm },
        Scenario { name: "BATCH flood, UDP", udp_flood: true, ..calm },
    ]
};

struct Mannered {
    manner: Manner,
    /// The end is near: no more sleeping.
    hurries: Arc<AtomicBool>,
}

impl TransactionalHandler for Mannered {
    fn name(&self) -> &'static str {
        match self.manner {
            Manner::Prompt => "prompt",
            Manner::SleepsASecond => "sleeps",
            Manner::Panics => "panics",
            Manner::InlineFor50Micros => "inline-50us",
        }
    }

    fn mode(&self) -> HandlerMode {
        if self.manner == Manner::InlineFor50Micros { HandlerMode::Inline } else { HandlerMode::Offloaded }
    }

    fn handle(&mut self, _: &EventView<'_>) -> Result<(), HandlerError> {
        match self.manner {
            Manner::Prompt => {}
            Manner::SleepsASecond if self.hurries.load(Ordering::Relaxed) => {}
            Manner::SleepsASecond => std::thread::sleep(Duration::from_secs(1)),
            Manner::Panics => panic!("as it must"),
            Manner::InlineFor50Micros => {
                let began = Instant::now();
                while began.elapsed() < Duration::from_micros(50) {
                    std::hint::spin_loop();
                }
            }
        }
        Ok(())
    }
}

/// A line of the table.
struct Row {
    latencies: Histogram<u64>,
    /// BATCH, receive to handled, by the engine.
    batch_p99: Duration,
    stored_per_second: f64,
    /// REALTIME events sent and not stored, by the senders' count.
    realtime_lost: u64,
    realtime_without_slot: u64,
    realtime_kernel_drops: u64,
    other_kernel_drops: u64,
    panics: u64,
    over_budget: u64,
    is_clean: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Arguments = argh::from_env();
    println!(
        "{:<24} {:>8} {:>8} {:>9} {:>10} {:>11} {:>8} {:>8} {:>9} {:>9} {:>7} {:>8}  ledger",
        "µs; REALTIME send→handled",
        "p50",
        "p99",
        "max",
        "BATCH p99",
        "stored/s",
        "RT lost",
        "RT slots",
        "RT kernel",
        "kernel",
        "panics",
        "o.budget"
    );
    let mut is_good = true;
    for scenario in &SCENARIOS {
        let row = run(scenario, &arguments)?;
        let micros = |quantile: f64| row.latencies.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "{:<24} {:>8.1} {:>8.1} {:>9.1} {:>10.1} {:>11.0} {:>8} {:>8} {:>9} {:>9} {:>7} {:>8}  {}",
            scenario.name,
            micros(0.5),
            micros(0.99),
            micros(1.0),
            row.batch_p99.as_nanos() as f64 / 1e3,
            row.stored_per_second,
            row.realtime_lost,
            row.realtime_without_slot,
            row.realtime_kernel_drops,
            row.other_kernel_drops,
            row.panics,
            row.over_budget,
            if row.is_clean { "balanced" } else { "NOT CLEAN" },
        );
        is_good &= row.is_clean && row.realtime_lost + row.realtime_without_slot + row.realtime_kernel_drops == 0;
    }
    println!(
        "\nRT lost: REALTIME events sent and not stored. RT slots: lost for want of a slot. RT kernel, kernel: datagrams dropped at"
    );
    println!("REALTIME's socket and at the other. o.budget: batches in which an inline handler took more than its 10 µs a call.");
    std::process::exit(if is_good { 0 } else { 1 });
}

fn config(arguments: &Arguments) -> Config {
    let loopback = Some("127.0.0.1:0".parse().expect("an address"));
    Config {
        tcp_listen: loopback,
        udp_listen: loopback,
        admin_listen: None,
        data_dir: arguments.out.clone(),
        cores: CoreSpec(arguments.engine_core.to_string()),
        udp_receive_buffer_bytes: ByteSize(RECEIVE_BUFFER_BYTES),
        ..Config::default()
    }
}

fn run(scenario: &Scenario, arguments: &Arguments) -> Result<Row, Box<dyn Error>> {
    let load_cpu = allowed_cpus().contains(&arguments.load_core).then_some(arguments.load_core);
    if arguments.out.exists() {
        fs::remove_dir_all(&arguments.out)?;
    }
    let (arrivals, hurries) = (arrivals(), Arc::<AtomicBool>::default());
    let (handled, manner, hurry) = (arrivals.clone(), scenario.manner, hurries.clone());
    let builder = Engine::builder()
        .config(config(arguments))
        .alert_handler(move |_| ProbeHandler(handled.clone()))
        .alert_log(false)
        .transactional_handler(move |_| Mannered { manner, hurries: hurry.clone() })
        .publishers(1);
    let (mut engine, start) = builder.start()?;
    let (tcp, udp) = (start.tcp.expect("configured"), start.udp.expect("configured"));
    let publisher = engine.publishers().remove(0);

    let transactional = Flood::in_process(publisher, Priority::Medium, load_cpu)?;
    let batch_tcp = Flood::tcp(tcp, Priority::Batch, load_cpu)?;
    let batch_udp = Flood::udp(udp, Priority::Batch, load_cpu)?;
    // CRITICAL, as the probe is: what the kernel drops of a flood may lead to EMERGENCY, which sheds HIGH.
    let realtime_udp = Flood::udp(udp, Priority::Critical, load_cpu)?;
    transactional.tap.set(TRANSACTIONAL_PER_SECOND);
    batch_tcp.tap.set(if scenario.tcp_flood { Tap::FLAT_OUT } else { BATCH_PER_SECOND });
    batch_udp.tap.set(if scenario.udp_flood { Tap::FLAT_OUT } else { 0 });
    realtime_udp.tap.set(REALTIME_DATAGRAMS_PER_SECOND);
    let probe = Probe::start(tcp, arguments.probes, load_cpu)?;

    std::thread::sleep(WARM_UP);
    take(&arrivals, |_| {});
    let (before, began) = (engine.telemetry().read(HostClock.now()), Instant::now());
    std::thread::sleep(Duration::from_secs(arguments.seconds));
    let mut latencies = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    take(&arrivals, |nanos| latencies.saturating_record(nanos));
    let (after, took) = (engine.telemetry().read(HostClock.now()), began.elapsed());

    hurries.store(true, Ordering::Relaxed);
    let mut realtime_sent = probe.finish()?;
    for flood in [transactional, batch_tcp, batch_udp] {
        flood.finish()?;
    }
    realtime_sent += realtime_udp.finish()?;
    let account = engine.stop();
    let realtime = account.ledger.tier(Tier::Realtime);
    let kernel_drops = |at: &str| account.kernel_drops.iter().filter(|drops| drops.socket == at).map(|drops| drops.count).sum();
    Ok(Row {
        latencies,
        batch_p99: batch_p99(&after),
        stored_per_second: (stored(&after) - stored(&before)) as f64 / took.as_secs_f64(),
        realtime_lost: realtime_sent.saturating_sub(realtime.stored),
        realtime_without_slot: realtime.lost[DropReason::PoolExhausted as usize],
        realtime_kernel_drops: kernel_drops("realtime"),
        other_kernel_drops: kernel_drops("rest"),
        panics: after.sum("handler_panics"),
        over_budget: after.by_label("handler_over_budget", "handler").get("inline-50us").copied().unwrap_or(0),
        is_clean: account.is_clean(),
    })
}

fn take(arrivals: &Arrivals, mut each: impl FnMut(u64)) {
    while let Some(arrival) = arrivals.pop() {
        each(arrival.latency.0);
    }
}

fn stored(snapshot: &Snapshot) -> u64 {
    snapshot.ledger.total().stored
}

fn batch_p99(snapshot: &Snapshot) -> Duration {
    let histogram = snapshot.latencies.iter().find(|(name, _)| *name == "batch");
    Duration::from_nanos(histogram.map_or(0, |(_, histogram)| histogram.value_at_quantile(0.99)))
}
