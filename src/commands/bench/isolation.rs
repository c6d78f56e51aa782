//! Isolation: what REALTIME notices of a handler of another tier that is slow or panics, of an inline one that takes too long, of floods of
//! BATCH over TCP and over UDP, and of another sender of its own tier that is a hundred times as fast.
//!
//! Every point is an engine of its own with the same steady load: a REALTIME probe on its own TCP connection, REALTIME datagrams,
//! TRANSACTIONAL and BATCH events, all of it far below what one core serves. Only what REALTIME loses is a loss here: a flood that the kernel
//! drops is the flood's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::flood::{Flood, Tap};
use super::open_loop::engine_config;
use super::probe::{Arrivals, Probe, ProbeHandler, arrivals};
use super::run::{Bench, RunCommand, point};
use super::{CommandError, ExitStatus, on_sender_core};
use crate::bench::curve::{Curve, histogram};
use crate::bench::document::Point;
use crate::bench::figure::{Better, Figures};
use crate::bench::timeline::Expectation;
use crate::engine::Engine;
use crate::metrics::ledger::DropReason;
use crate::metrics::telemetry::Snapshot;
use crate::pool::EventView;
use crate::process::{HandlerError, HandlerMode, TransactionalHandler};
use crate::report::DrainSummary;
use crate::sys::clock::{Clock, HostClock};
use crate::wire::{Priority, Tier};

/// What a first second of an engine's life shows is its start.
const WARM_UP: Duration = Duration::from_secs(1);
/// Between two looks at what was measured.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// REALTIME probes a second, unless a rate is given.
const PROBES_PER_SECOND: u64 = 1_000;
/// Few enough that those which a slow handler leaves waiting call for no level.
const TRANSACTIONAL_PER_SECOND: u64 = 400;
const BATCH_PER_SECOND: u64 = 1_000;
const REALTIME_DATAGRAMS_PER_SECOND: u64 = 500;
/// How much faster the other sender is.
const FASTER: u64 = 100;
/// What that may cost the slow one at its 99th percentile.
const SLOW_SENDER_P99_MAX: f64 = 3.0;

/// What the TRANSACTIONAL handler does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Prompt,
    SleepsASecond,
    Panics,
    InlineFor50Micros,
}

/// What happens beside the steady load.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    name: &'static str,
    manner: Manner,
    tcp_flood: bool,
    udp_flood: bool,
    fast_sender: bool,
}

const TROUBLES: [Trouble; 7] = {
    let calm = Trouble { name: "alone", manner: Manner::Prompt, tcp_flood: false, udp_flood: false, fast_sender: false };
    [
        calm,
        Trouble { name: "handler sleeps 1 s", manner: Manner::SleepsASecond, ..calm },
        Trouble { name: "handler panics", manner: Manner::Panics, ..calm },
        Trouble { name: "inline handler of 50 µs", manner: Manner::InlineFor50Micros, ..calm },
        Trouble { name: "BATCH flood, TCP", tcp_flood: true, ..calm },
        Trouble { name: "BATCH flood, UDP", udp_flood: true, ..calm },
        Trouble { name: "a sender 100 times as fast", fast_sender: true, ..calm },
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
            // As a panic, but without its message on the terminal.
            Manner::Panics => std::panic::resume_unwind(Box::new("as it must")),
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

/// The probe's latencies.
struct Latencies {
    from_due: Histogram<u64>,
    from_written: Histogram<u64>,
}

impl Latencies {
    fn new() -> Latencies {
        Latencies { from_due: histogram(), from_written: histogram() }
    }

    /// Takes what was measured.
    fn take(&mut self, arrivals: &Arrivals) {
        while let Some(arrival) = arrivals.pop() {
            self.from_due.saturating_record(arrival.from_due.0);
            self.from_written.saturating_record(arrival.from_written.0);
        }
    }

    fn add(&mut self, more: &Latencies) {
        for (sum, more) in [(&mut self.from_due, &more.from_due), (&mut self.from_written, &more.from_written)] {
            sum.add(more).expect("all have the same bounds");
        }
    }

    fn curves(&self) -> Vec<Curve> {
        let all = [("due to handled", &self.from_due), ("written to handled", &self.from_written)];
        all.into_iter().filter(|(_, values)| !values.is_empty()).map(|(name, values)| Curve::of(name, values)).collect()
    }
}

/// A point for each trouble, held against the first, which has none.
///
/// # Errors
/// An engine that does not start, a sender that can't send.
pub(super) fn measure(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let probes = command.steady_rate(PROBES_PER_SECOND);
    let mut points = TROUBLES.map(|trouble| (trouble, point(trouble.name, None), Latencies::new()));
    bench.each_repeat(|bench| {
        let mut alone_ns = None;
        for (trouble, point, all) in &mut points {
            let latencies = run(bench, trouble, probes, point)?;
            all.add(&latencies);
            let p99_ns = latencies.from_written.value_at_quantile(0.99) as f64;
            let alone_ns = *alone_ns.get_or_insert(p99_ns);
            point.figures.note("p99, beside the one alone", "share", Better::Lower, p99_ns / alone_ns.max(1.0));
        }
        Ok(())
    })?;
    let finished = points.map(|(trouble, mut point, latencies)| {
        point.curves = latencies.curves();
        point.expectations.extend(trouble.fast_sender.then(|| slow_sender(&point.figures)));
        point
    });
    Ok(finished.into())
}

fn slow_sender(figures: &Figures) -> Expectation {
    let times = figures.get("p99, beside the one alone").map_or(0.0, |figure| figure.median());
    Expectation {
        what: format!(
            "the p99 of a sender stays within {SLOW_SENDER_P99_MAX} times of what it is alone, beside one {FASTER} times as fast"
        ),
        held: times <= SLOW_SENDER_P99_MAX,
        figures: format!("{times:.2} times (median of the repeats)"),
    }
}

/// All senders of a run.
struct Senders {
    probe: Probe,
    realtime: [Flood; 2],
    others: [Flood; 3],
}

impl Senders {
    fn start(
        engine: &mut Engine,
        tcp: std::net::SocketAddr,
        udp: std::net::SocketAddr,
        trouble: &Trouble,
        probes: u64,
        cpu: Option<u32>,
    ) -> std::io::Result<Senders> {
        let publisher = engine.publishers().remove(0);
        let transactional = Flood::in_process(publisher, Priority::Medium, cpu)?;
        let batch_tcp = Flood::tcp(tcp, Priority::Batch, cpu)?;
        let batch_udp = Flood::udp(udp, Priority::Batch, cpu)?;
        // CRITICAL, as the probe is: what the kernel drops of a flood may lead to EMERGENCY, which sheds HIGH.
        let realtime_udp = Flood::udp(udp, Priority::Critical, cpu)?;
        let fast = Flood::tcp(tcp, Priority::Critical, cpu)?;
        transactional.tap.set(TRANSACTIONAL_PER_SECOND);
        batch_tcp.tap.set(if trouble.tcp_flood { Tap::FLAT_OUT } else { BATCH_PER_SECOND });
        batch_udp.tap.set(if trouble.udp_flood { Tap::FLAT_OUT } else { 0 });
        realtime_udp.tap.set(REALTIME_DATAGRAMS_PER_SECOND);
        fast.tap.set(if trouble.fast_sender { FASTER * probes } else { 0 });
        let probe = Probe::start(tcp, probes, cpu)?;
        Ok(Senders { probe, realtime: [realtime_udp, fast], others: [transactional, batch_tcp, batch_udp] })
    }

    /// Ends all; how many REALTIME events were sent.
    fn finish(self) -> std::io::Result<u64> {
        let mut realtime = self.probe.finish()?;
        for flood in self.others {
            flood.finish()?;
        }
        for flood in self.realtime {
            realtime += flood.finish()?;
        }
        Ok(realtime)
    }
}

fn run(bench: &mut Bench, trouble: &Trouble, probes: u64, point: &mut Point) -> Result<Latencies, CommandError> {
    let data = bench.engine_data();
    let (arrivals, hurries) = (arrivals(), Arc::<AtomicBool>::default());
    let (handled, manner, hurry) = (arrivals.clone(), trouble.manner, hurries.clone());
    let builder = Engine::builder()
        .config(engine_config(bench, data.clone()))
        .alert_handler(move |_| ProbeHandler(handled.clone()))
        .alert_log(false)
        .transactional_handler(move |_| Mannered { manner, hurries: hurry.clone() })
        .publishers(1);
    let (mut engine, start) = builder.start()?;
    let (tcp, udp) = (start.tcp.expect("configured"), start.udp.expect("configured"));
    let failed = |error: std::io::Error| {
        CommandError::new(ExitStatus::Runtime, "a sender stopped", error.to_string(), "see what the engine said above")
    };
    let senders = Senders::start(&mut engine, tcp, udp, trouble, probes, bench.layout.sender_cpu).map_err(failed)?;

    let telemetry = engine.telemetry().clone();
    let mut latencies = Latencies::new();
    let (before, after, took) = on_sender_core(bench.layout, || {
        std::thread::sleep(WARM_UP.min(bench.each));
        Latencies::new().take(&arrivals);
        let (before, began) = (telemetry.read(HostClock.now()), Instant::now());
        while began.elapsed() < bench.each {
            std::thread::sleep(LOOK_EVERY.min(bench.each));
            latencies.take(&arrivals);
        }
        (before, telemetry.read(HostClock.now()), began.elapsed())
    });

    hurries.store(true, Ordering::Relaxed);
    let realtime_sent = senders.finish().map_err(failed)?;
    let account = engine.stop();
    let _ = std::fs::remove_dir_all(&data);
    point.losses.extend(bench.losses(losses(&account, realtime_sent)));
    note(&mut point.figures, &latencies, (&before, &after), took);
    // Whether the trouble was there at all.
    let figures = &mut point.figures;
    if trouble.manner == Manner::Panics {
        figures.note("handlers that panicked", "times", Better::Neither, after.sum("handler_panics") as f64);
    }
    if trouble.manner == Manner::InlineFor50Micros {
        let over = after.by_label("handler_over_budget", "handler").get("inline-50us").copied().unwrap_or(0);
        figures.note("batches of an inline handler over its budget", "times", Better::Neither, over as f64);
    }
    if trouble.udp_flood {
        let dropped = kernel_drops(&account, "rest");
        figures.note("dropped by the kernel at the other socket", "datagrams", Better::Neither, dropped as f64);
    }
    Ok(latencies)
}

fn kernel_drops(account: &DrainSummary, socket: &str) -> u64 {
    account.kernel_drops.iter().filter(|drops| drops.socket == socket).map(|drops| drops.count).sum()
}

/// What REALTIME has lost, and whether the account is clean.
fn losses(account: &DrainSummary, realtime_sent: u64) -> Vec<String> {
    let realtime = account.ledger.tier(Tier::Realtime);
    let counts = [
        (realtime_sent.saturating_sub(realtime.stored), "REALTIME events were sent and not stored"),
        (realtime.lost[DropReason::PoolExhausted as usize], "REALTIME events were lost for want of a slot"),
        (kernel_drops(account, "realtime"), "REALTIME datagrams were dropped by the kernel"),
    ];
    let mut losses: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    losses.extend((!account.is_clean()).then(|| "the engine's account is not clean".to_owned()));
    losses
}

fn note(figures: &mut Figures, latencies: &Latencies, (before, after): (&Snapshot, &Snapshot), took: Duration) {
    for (what, values) in [("written to handled", &latencies.from_written), ("due to handled", &latencies.from_due)] {
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
            figures.note(&format!("{what}, {name}"), "ns", Better::Lower, values.value_at_quantile(quantile) as f64);
        }
    }
    let batch = after.latencies.iter().find(|(name, _)| *name == Tier::Batch.metric_name());
    if let Some((_, values)) = batch {
        figures.note("BATCH, receive to handled, p99", "ns", Better::Neither, values.value_at_quantile(0.99) as f64);
    }
    let stored = |snapshot: &Snapshot| snapshot.ledger.total().stored;
    figures.note("stored", "events/s", Better::Neither, (stored(after) - stored(before)) as f64 / took.as_secs_f64());
}
