//! Overload: a flood that can't wait drives an engine from HEALTHY through every level to EMERGENCY and, when it is over, level by level
//! back; the ledger balances to the event, and a REALTIME probe on a connection of its own tells what REALTIME noticed of it.
//!
//! ```text
//!  probe ── TCP, CRITICAL ──────────────┐                      ┌─► inline handler: written → handled
//!  floods ─ TCP without flow control ───┼─► engine, core 0 ────┤
//!         ─ UDP flat out ───────────────┤                      └─► offloaded handler of fixed cost (TRANSACTIONAL)
//!         ─ try_publish ────────────────┘
//! ```
//!
//! What is shed is no loss here: a run counts when every event that was sent is accounted for. Whether the levels and latencies were as they
//! should be is among its expectations, as latencies are only the engine's where nothing else takes its core.

mod observe;
mod phases;
mod verdict;

use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::flood::{Flood, Tap};
use super::open_loop::engine_config;
use super::probe::{Probe, ProbeHandler, arrivals};
use super::run::{Bench, RunCommand, point};
use super::{CommandError, ExitStatus, on_sender_core};
use crate::bench::curve::{Curve, histogram};
use crate::bench::document::Point;
use crate::bench::figure::{Better, Figures};
use crate::engine::Engine;
use crate::pool::EventView;
use crate::process::{HandlerError, TransactionalHandler};
use crate::sys::process::pin_current_thread;
use crate::wire::Priority;
use observe::{Observer, Sample};
use phases::{LEVEL_PATIENCE, Orders, PHASES, Phase, RECOVERY, RECOVERY_PATIENCE, UDP_PACED, Udp, drop_rate};
use verdict::{PhaseLatency, Sent};

/// Between two looks. A reading of everything copies some twenty histograms, which should not become a load of its own.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The shortest and the longest burst of datagrams between two looks.
const BURST_EVENTS: (u64, u64) = (512, 65_536);
/// So many of a burst should be dropped, more or less: the drop rate rises in small steps.
const BURST_DROPS: u64 = 1_000;
/// What the TRANSACTIONAL handler takes for an event.
const HANDLER_COST: Duration = Duration::from_micros(250);
/// REALTIME probes a second, unless a rate is given.
const PROBES_PER_SECOND: u64 = 1_000;
/// The `--seconds` at which phases last as long as they say.
const SECONDS_AS_WRITTEN: f64 = 2.0;

/// A handler of fixed cost: what it owes it sleeps off in naps of a millisecond and more, so that its rate is exact and its core free.
struct FixedCost {
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
        self.busy_until = self.busy_until.max(now) + HANDLER_COST;
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
    /// The next burst of datagrams: grows until the kernel drops some of it.
    burst_events: u64,
    kernel_drops_seen: u64,
}

impl Floods {
    fn start(engine: &mut Engine, tcp: std::net::SocketAddr, udp: std::net::SocketAddr, cpu: Option<u32>) -> io::Result<Floods> {
        let publisher = engine.publishers().remove(0);
        Ok(Floods {
            orders: Flood::in_process(publisher, Priority::Medium, cpu)?,
            tcp_low: Flood::tcp(tcp, Priority::Low, cpu)?,
            tcp_high: Flood::tcp(tcp, Priority::High, cpu)?,
            udp: Flood::udp(udp, Priority::Low, cpu)?,
            burst_events: BURST_EVENTS.0,
            kernel_drops_seen: 0,
        })
    }

    fn set(&mut self, phase: &Phase, samples: &[Sample]) {
        let now = samples.last().cloned().unwrap_or_default();
        let rates = &phase.rates;
        let orders = match rates.orders {
            Orders::Share(share) => share,
            Orders::HoldDepth(depth) if now.transactional_depth > depth => 0.5,
            Orders::HoldDepth(_) => 1.2,
        };
        self.orders.tap.set((orders / HANDLER_COST.as_secs_f64()) as u64);
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

    fn finish(self) -> io::Result<Sent> {
        Ok(Sent {
            in_process: self.orders.finish()?,
            tcp: self.tcp_low.finish()? + self.tcp_high.finish()?,
            udp: self.udp.finish()?,
            probes: 0,
        })
    }
}

/// A point for the whole, with its course and what was expected of it, and one for each phase.
///
/// # Errors
/// An engine that does not start, a sender that can't send.
pub(super) fn measure(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let probes = command.steady_rate(PROBES_PER_SECOND);
    let mut whole = point("the whole", None);
    let mut phases: Vec<(Point, Histogram<u64>)> = PHASES.iter().map(|phase| (point(phase.name, None), histogram())).collect();
    bench.each_repeat(|bench| run(bench, probes, &mut whole, &mut phases))?;
    let finish = |(point, latencies): (Point, Histogram<u64>)| {
        let curves = if latencies.is_empty() { Vec::new() } else { vec![Curve::of("written to handled", &latencies)] };
        Point { curves, ..point }
    };
    Ok(std::iter::once(whole).chain(phases.into_iter().map(finish)).collect())
}

fn run(bench: &mut Bench, probes: u64, whole: &mut Point, phases: &mut [(Point, Histogram<u64>)]) -> Result<(), CommandError> {
    let (data, cpu) = (bench.engine_data(), bench.layout.sender_cpu);
    let arrivals = arrivals();
    let handled = arrivals.clone();
    let builder = Engine::builder()
        .config(engine_config(bench, data.clone()))
        .alert_handler(move |_| ProbeHandler(handled.clone()))
        .alert_log(false)
        .transactional_handler(move |_| FixedCost { cpu, is_placed: false, busy_until: Instant::now() })
        .publishers(1);
    let (mut engine, start) = builder.start()?;
    let (tcp, udp) = (start.tcp.expect("configured"), start.udp.expect("configured"));
    let failed = |error: io::Error| {
        CommandError::new(ExitStatus::Runtime, "a sender stopped", error.to_string(), "see what the engine said above")
    };
    let mut floods = Floods::start(&mut engine, tcp, udp, cpu).map_err(failed)?;
    let probe = Probe::start(tcp, probes, cpu).map_err(failed)?;
    let mut observer = Observer::new(arrivals);
    let pace = bench.each.as_secs_f64() / SECONDS_AS_WRITTEN;
    // A look takes half a millisecond.
    let latencies: Vec<PhaseLatency> = on_sender_core(bench.layout, || {
        PHASES.iter().map(|phase| run_phase(phase, pace, &mut floods, &mut engine, &mut observer)).collect()
    });
    let probes = probe.finish().map_err(failed)?;
    let sent = Sent { probes, ..floods.finish().map_err(failed)? };
    let account = engine.stop();
    let _ = std::fs::remove_dir_all(&data);

    whole.losses.extend(bench.losses(verdict::losses(&sent, &account)));
    whole.expectations = verdict::judge(&observer.samples, &latencies, &sent, &account, observer.entered);
    note_flood(&mut whole.figures, &observer.samples);
    for ((point, all), latency) in phases.iter_mut().zip(&latencies) {
        note_phase(&mut point.figures, latency, &observer.samples);
        all.add(&latency.latencies).expect("all have the same bounds");
    }
    whole.timeline = observer.timeline();
    Ok(())
}

/// Sends and looks until the phase is over; at a pace of 1 it lasts as long as it says.
fn run_phase(phase: &Phase, pace: f64, floods: &mut Floods, engine: &mut Engine, observer: &mut Observer) -> PhaseLatency {
    let mut latency = PhaseLatency { phase: phase.name, latencies: histogram() };
    let patience = if phase.name == RECOVERY { RECOVERY_PATIENCE } else { LEVEL_PATIENCE }.mul_f64(pace);
    let then_for = phase.then_for.mul_f64(pace);
    observer.begin(phase.name);
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
            Some(at) => at.elapsed() >= then_for,
            None => began.elapsed() >= patience,
        };
        if is_over {
            return latency;
        }
    }
}

fn seconds(from: &Sample, to: &Sample) -> f64 {
    (to.at.since(from.at).0 as f64 / 1e9).max(1e-9)
}

fn note_phase(figures: &mut Figures, latency: &PhaseLatency, samples: &[Sample]) {
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let ns = latency.latencies.value_at_quantile(quantile) as f64;
        figures.note(&format!("REALTIME written to handled, {name}"), "ns", Better::Lower, ns);
    }
    let mut own = samples.iter().filter(|sample| sample.phase == latency.phase);
    let Some(first) = own.next() else { return };
    let last = own.next_back().unwrap_or(first);
    let took = seconds(first, last);
    for (name, from, to) in [
        ("offered", first.offered, last.offered),
        ("received", first.received, last.received),
        ("stored", first.stored, last.stored),
    ] {
        figures.note(name, "events/s", Better::Neither, (to - from) as f64 / took);
    }
    // Time for which the engine was ready to run and others had its core: latencies hold it, and it is the host's.
    let taken = last.core_taken.since(first.core_taken).0 as f64 / took / 1e7;
    figures.note("core taken by others", "%", Better::Neither, taken);
}

/// What of the flood was let in and stored, from its first phase to its last.
fn note_flood(figures: &mut Figures, samples: &[Sample]) {
    let during = |sample: &&Sample| sample.phase != phases::ALONE && sample.phase != RECOVERY;
    let (Some(first), Some(last)) = (samples.iter().find(during), samples.iter().rfind(during)) else { return };
    let took = seconds(first, last);
    let kernel = last.kernel_drops_now().saturating_sub(first.kernel_drops_now());
    for (name, count) in [
        ("offered", last.offered - first.offered),
        ("received", last.received - first.received),
        ("shed by levels", last.shed() - first.shed()),
        ("lost for want of room", last.overflown() - first.overflown()),
        ("dropped by the kernel", kernel),
        ("stored", last.stored - first.stored),
    ] {
        figures.note(&format!("the flood, {name}"), "events/s", Better::Neither, count as f64 / took);
    }
}
