//! Overload, shown: a flood that can't wait drives an engine from HEALTHY through every level to EMERGENCY and, when it is over, level by
//! level back; the ledger balances to the event, and a REALTIME probe on a connection of its own tells what REALTIME noticed of it.
//!
//! ```text
//!  probe ── TCP, CRITICAL ──────────────┐                      ┌─► inline handler: send → handled
//!  floods ─ TCP without flow control ───┼─► engine, core 0 ────┤
//!         ─ UDP flat out ───────────────┤                      └─► offloaded handler of fixed cost (TRANSACTIONAL)
//!         ─ try_publish ────────────────┘
//! ```
//!
//! `make demo-overload` runs it. It is a program of a library user: [`Engine::builder`], two handlers, a publisher, telemetry.

mod flood;
mod observe;
mod phases;
mod plot;
mod probe;
mod report;
mod verdict;

use std::error::Error;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use argh::FromArgs;
use eventstream::config::{ByteSize, Config, CoreSpec, OnOff, OptionValue};
use eventstream::engine::Engine;
use eventstream::pool::EventView;
use eventstream::process::{HandlerError, TransactionalHandler};
use eventstream::sys::process::{allowed_cpus, pin_current_thread};
use eventstream::wire::{Priority, Tier};

use flood::{Flood, Tap};
use observe::{Observer, Sample, histogram, seconds};
use phases::{LEVEL_PATIENCE, Orders, PHASES, Phase, RECOVERY, RECOVERY_PATIENCE, UDP_PACED, Udp, drop_rate};
use probe::{Probe, ProbeHandler, arrivals};
use report::Run;
use verdict::{PhaseLatency, Sent};

/// Between two looks. A reading of everything copies some twenty histograms, which should not become a load of its own.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Datagrams that wait in the kernel at most: small, so that a flood flat out overflows it.
const RECEIVE_BUFFER_BYTES: u64 = 64 << 10;

/// The shortest and the longest burst of datagrams between two looks.
const BURST_EVENTS: (u64, u64) = (512, 65_536);

/// So many of a burst should be dropped, more or less: the drop rate rises in small steps.
const BURST_DROPS: u64 = 1_000;

/// Drives an engine into overload and back.
#[derive(FromArgs)]
struct Arguments {
    /// folder for the report, the samples and the engine's data (default: target/overload)
    #[argh(option, default = "PathBuf::from(\"target/overload\")")]
    out: PathBuf,
    /// core of the engine (default: 0)
    #[argh(option, default = "0")]
    engine_core: u32,
    /// core of senders and handler (default: 1, where there is one)
    #[argh(option, default = "1")]
    load_core: u32,
    /// microseconds that the TRANSACTIONAL handler takes for an event (default: 250)
    #[argh(option, default = "250")]
    handler_us: u64,
    /// REALTIME probes per second (default: 1000)
    #[argh(option, default = "1000")]
    probes: u64,
}

/// A handler of fixed cost: what it owes it sleeps off in naps of a millisecond and more, so that its rate is exact and its core free.
struct FixedCost {
    cost: Duration,
    cpu: Option<u32>,
    is_placed: bool,
    busy_until: Instant,
}

impl TransactionalHandler for FixedCost {
    fn name(&self) -> &'static str {
        "fixed-cost"
    }

    fn handle(&mut self, _: &EventView<'_>) -> Result<(), HandlerError> {
        if !std::mem::replace(&mut self.is_placed, true) {
            // Away from the engine's core. Best effort: where it can't be pinned it runs where the scheduler wants.
            let _ = self.cpu.map(pin_current_thread);
        }
        let now = Instant::now();
        self.busy_until = self.busy_until.max(now) + self.cost;
        let owed = self.busy_until - now;
        if owed >= Duration::from_millis(1) {
            std::thread::sleep(owed);
        }
        Ok(())
    }
}

/// All senders.
struct Floods {
    orders: Flood,
    tcp_low: Flood,
    tcp_high: Flood,
    udp: Flood,
    /// Events per second that the handler serves.
    orders_served: f64,
    /// The next burst of datagrams: grows until the kernel drops some of it.
    burst_events: u64,
    kernel_drops_seen: u64,
}

impl Floods {
    fn set(&mut self, phase: &Phase, samples: &[Sample]) {
        let now = samples.last().cloned().unwrap_or_default();
        let rates = &phase.rates;
        let orders = match rates.orders {
            Orders::Share(share) => share,
            Orders::HoldDepth(depth) if now.depth[Tier::Transactional.index()] > depth => 0.5,
            Orders::HoldDepth(_) => 1.2,
        };
        self.orders.tap.set((orders * self.orders_served) as u64);
        self.tcp_low.tap.set(rates.tcp_low);
        self.tcp_high.tap.set(rates.tcp_high);
        let fresh_drops = now.kernel_drops_now().saturating_sub(self.kernel_drops_seen);
        self.kernel_drops_seen += fresh_drops;
        match rates.udp {
            Udp::Paced(rate) => self.udp.tap.set(rate),
            Udp::FlatOut => self.udp.tap.set(Tap::FLAT_OUT),
            Udp::UpToDropRate(share) => {
                self.udp.tap.set(UDP_PACED);
                if drop_rate(samples) < share {
                    self.burst_events = if fresh_drops < BURST_DROPS { self.burst_events * 2 } else { self.burst_events / 2 };
                    self.burst_events = self.burst_events.clamp(BURST_EVENTS.0, BURST_EVENTS.1);
                    self.udp.tap.burst(self.burst_events);
                }
            }
        }
    }

    /// Events offered by all, and datagrams.
    fn offered(&self) -> (u64, u64) {
        let udp = self.udp.tap.offered();
        ([&self.orders, &self.tcp_low, &self.tcp_high].map(|flood| flood.tap.offered()).iter().sum::<u64>() + udp, udp)
    }

    fn finish(self) -> std::io::Result<Sent> {
        Ok(Sent {
            in_process: self.orders.finish()?,
            tcp: self.tcp_low.finish()? + self.tcp_high.finish()?,
            udp: self.udp.finish()?,
            probes: 0,
        })
    }
}

fn config(arguments: &Arguments) -> Config {
    let loopback = Some("127.0.0.1:0".parse().expect("an address"));
    Config {
        tcp_listen: loopback,
        udp_listen: loopback,
        admin_listen: None,
        data_dir: arguments.out.join("data"),
        cores: CoreSpec(arguments.engine_core.to_string()),
        // TCP that can't wait either: what it would be made to wait for is lost, or shed by the levels.
        tcp_flow_control: OnOff::Off,
        udp_receive_buffer_bytes: ByteSize(RECEIVE_BUFFER_BYTES),
        // A tenth of the default: the kernel drops some 2 % of a datagram flood flat out here, and EMERGENCY is five times this.
        max_drop_rate: OptionValue::read("0.2").expect("a number"),
        ..Config::default()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Arguments = argh::from_env();
    let is_good = run(&arguments)?;
    std::process::exit(if is_good { 0 } else { 1 });
}

/// Runs it; whether the account balances to the event.
fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let cpus = allowed_cpus();
    let load_cpu = cpus.contains(&arguments.load_core).then_some(arguments.load_core);
    if load_cpu.is_none_or(|cpu| cpu == arguments.engine_core) {
        println!("warning: no core for the senders alone: they share the engine's, and latencies are those of sharing");
    }
    let data = arguments.out.join("data");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    fs::create_dir_all(&arguments.out)?;

    let arrivals = arrivals();
    let (handled, cost) = (arrivals.clone(), Duration::from_micros(arguments.handler_us));
    let builder = Engine::builder()
        .config(config(arguments))
        .alert_handler(move |_| ProbeHandler(handled.clone()))
        .alert_log(false)
        .transactional_handler(move |_| FixedCost { cost, cpu: load_cpu, is_placed: false, busy_until: Instant::now() })
        .publishers(1);
    let (mut engine, start) = builder.start()?;
    let (tcp, udp) = (start.tcp.expect("configured"), start.udp.expect("configured"));
    let publisher = engine.publishers().remove(0);

    let mut floods = Floods {
        orders: Flood::in_process(publisher, Priority::Medium, load_cpu)?,
        tcp_low: Flood::tcp(tcp, Priority::Low, load_cpu)?,
        tcp_high: Flood::tcp(tcp, Priority::High, load_cpu)?,
        udp: Flood::udp(udp, Priority::Low, load_cpu)?,
        orders_served: 1.0 / cost.as_secs_f64().max(1e-9),
        burst_events: BURST_EVENTS.0,
        kernel_drops_seen: 0,
    };
    let probe = Probe::start(tcp, arguments.probes, load_cpu)?;
    // The observer takes half a millisecond for a look, which the engine's core would miss. Not before the engine has its threads: they
    // would inherit it. Best effort.
    let _ = load_cpu.map(pin_current_thread);
    let mut observer = Observer::new(arrivals);
    let mut latencies: Vec<PhaseLatency> = Vec::new();
    for phase in &PHASES {
        latencies.push(run_phase(phase, &mut floods, &mut engine, &mut observer));
    }
    let probes = probe.finish()?;
    let sent = Sent { probes, ..floods.finish()? };
    let account = engine.stop();
    let run = Run::judge(arguments.probes, cost, observer, latencies, sent, account);
    println!("{run}");
    run.write(&arguments.out)?;
    observe::write_csv(run.samples(), BufWriter::new(File::create(arguments.out.join("samples.csv"))?))?;
    println!("report: {}", arguments.out.join("report.html").display());
    Ok(run.balances())
}

/// Sends and looks until the phase is over.
fn run_phase(phase: &Phase, floods: &mut Floods, engine: &mut Engine, observer: &mut Observer) -> PhaseLatency {
    println!("── {}", phase.name);
    let mut latency = PhaseLatency { phase: phase.name, took: Duration::ZERO, latencies: histogram() };
    let patience = if phase.name == RECOVERY { RECOVERY_PATIENCE } else { LEVEL_PATIENCE };
    let began = Instant::now();
    let mut reached_at = phase.until.is_none().then_some(began);
    loop {
        floods.set(phase, &observer.samples);
        std::thread::sleep(LOOK_EVERY);
        let sample: &Sample = observer.look(engine, phase.name, floods.offered(), &mut latency.latencies);
        let is_there = phase.until.is_some_and(|level| match phase.name {
            RECOVERY => sample.level <= level,
            _ => sample.level >= level,
        });
        if reached_at.is_none() && is_there {
            reached_at = Some(Instant::now());
        }
        let is_over = match reached_at {
            Some(at) => at.elapsed() >= phase.then_for,
            None => began.elapsed() >= patience,
        };
        if is_over {
            latency.took = began.elapsed();
            let p99 = Duration::from_nanos(latency.latencies.value_at_quantile(0.99));
            println!("{:6.1} s  {} is over: level {}, REALTIME p99 {p99:?}", seconds(sample.at), phase.name, sample.level.name());
            return latency;
        }
    }
}
