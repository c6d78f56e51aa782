//! Acknowledged events: how many a second at each level, and how long an ack takes at a steady rate, beside what the disk alone takes.
//!
//! At the steady rate a latency counts from when its event was due (H3), to the reading of its ack by the client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::child::EngineChild;
use super::flat_out::{self, Load};
use super::run::{Bench, RunCommand, STEADY_RATE, point};
use super::{CommandError, ExitStatus, failed, on_sender_core};
use crate::bench::curve::Curve;
use crate::bench::document::Point;
use crate::bench::figure::{Better, Figures, readable};
use crate::client::{AckLevel, ClientOptions, Producer, SendRefusal, Statistics};
use crate::commands::send::SendCommand;
use crate::storage::appender::Durability;
use crate::wire::Priority;

/// Events of a run that is flat out.
const EVENTS_BY_DEFAULT: u64 = 2_000_000;
/// The topic of events at a steady rate.
const TOPIC: &str = "bench/session";
/// Bytes of their bodies.
const BODY_BYTES: usize = 64;
/// Between two looks at what is due: the kernel's default timer slack.
const NAP: Duration = Duration::from_micros(50);
/// Small writes, each made durable, that the disk alone is measured by.
const DISK_ROUNDS: usize = 500;

/// A point, and all latencies of its repeats.
struct Timed {
    point: Point,
    latencies: Option<Histogram<u64>>,
}

impl Timed {
    fn new(name: String) -> Timed {
        Timed { point: point(name, None), latencies: None }
    }

    /// The latencies of a repeat.
    fn note(&mut self, what: &str, latencies: &Histogram<u64>) {
        note_quantiles(&mut self.point.figures, what, latencies);
        match &mut self.latencies {
            Some(all) => all.add(latencies).expect("all have the same bounds"),
            None => self.latencies = Some(latencies.clone()),
        }
    }

    fn finish(self, curve: &str) -> Point {
        let curves = self.latencies.iter().map(|latencies| Curve::of(curve, latencies)).collect();
        Point { curves, ..self.point }
    }
}

fn note_quantiles(figures: &mut Figures, what: &str, latencies: &Histogram<u64>) {
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let ns = latencies.value_at_quantile(quantile) as f64;
        figures.note(&format!("{what}, {name}"), "ns", Better::Lower, ns);
    }
}

/// Two points for each level, flat out and steady, and one for the disk.
///
/// # Errors
/// An engine that does not start, answer or end; a session that fails.
pub(super) fn measure(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let has_durable = bench.config.durability != Durability::None;
    let levels = [Some(AckLevel::Accepted), Some(AckLevel::Written), has_durable.then_some(AckLevel::Durable)];
    if !has_durable {
        bench.warnings.push("SKIPPED: acks at the level durable, which there are none of at --durability none".to_owned());
    }
    let rate = command.steady_rate(STEADY_RATE);
    let mut timed: Vec<(AckLevel, [Timed; 2])> = Vec::new();
    for level in levels.into_iter().flatten() {
        let steady = readable(rate as f64, "events/s");
        let names = [format!("{}, flat out", level.name()), format!("{}, {steady}", level.name())];
        timed.push((level, names.map(Timed::new)));
    }
    let mut disk = [Timed::new("the disk alone, dsync".into()), Timed::new("the disk alone, fdatasync".into())];
    bench.each_repeat(|bench| {
        let alone = bench.ceiling.sync_latency(DISK_ROUNDS).map_err(|error| failed(&error))?;
        for (disk, latencies) in disk.iter_mut().zip(&alone) {
            disk.note("a block of 4 KiB", latencies);
        }
        for (level, [flat, steady]) in &mut timed {
            let load = command.load(&bench.flags);
            let generate = Some(command.events.unwrap_or(EVENTS_BY_DEFAULT));
            let send = SendCommand { session: true, ack: Some(*level), generate, ..load.send };
            flat_out(bench, &Load { send, ..load }, flat)?;
            at_rate(bench, *level, rate, steady)?;
        }
        Ok(())
    })?;
    let mut points: Vec<Point> = timed.into_iter().flat_map(|(_, both)| both).map(|timed| timed.finish("due to acked")).collect();
    points.extend(disk.into_iter().map(|timed| timed.finish("written to durable")));
    Ok(points)
}

fn flat_out(bench: &mut Bench, load: &Load, timed: &mut Timed) -> Result<(), CommandError> {
    let sent = flat_out::repeat(bench, load, &mut timed.point)?.sent;
    let session = sent.session.expect("sent in sessions");
    let missing = sent.sent.events() - session.acked;
    timed.point.losses.extend(bench.losses((missing > 0).then(|| format!("{missing} events were not acknowledged"))));
    timed.note("given to acked", &session.ack_latency_ns);
    Ok(())
}

fn at_rate(bench: &mut Bench, level: AckLevel, per_second: u64, timed: &mut Timed) -> Result<(), CommandError> {
    let data = bench.engine_data();
    let engine = EngineChild::start(bench.layout.engine_cpu, &data, &bench.flags)?;
    let sent = on_sender_core(bench.layout, || send(engine.tcp, level, per_second, bench.each));
    let (due, statistics) =
        sent.map_err(|cause| CommandError::new(ExitStatus::Runtime, "the session ended", cause, "look at what the engine said"))?;
    let (_, mut losses) = flat_out::settle(&engine, due)?;
    losses.extend((statistics.acked < due).then(|| format!("{} of {due} events were acknowledged", statistics.acked)));
    losses.extend(engine.stop()?);
    let _ = std::fs::remove_dir_all(&data);
    timed.point.losses.extend(bench.losses(losses));
    timed.note("due to acked", &statistics.ack_latency_ns);
    Ok(())
}

/// Gives each event when it is due, or as soon after as the session takes it; how many were due, and what became of them.
fn send(address: SocketAddr, level: AckLevel, per_second: u64, span: Duration) -> Result<(u64, Statistics), String> {
    let options = ClientOptions { ack_level: level, ..ClientOptions::new(address.to_string()) };
    let producer = Producer::connect(options).map_err(|error| error.to_string())?;
    let due_in_all = (span.as_secs_f64() * per_second as f64).max(1.0) as u64;
    let began = Instant::now();
    let mut body = [b'.'; BODY_BYTES];
    let mut sent = 0;
    while sent < due_in_all {
        let due = began + Duration::from_nanos((u128::from(sent) * 1_000_000_000 / u128::from(per_second)) as u64);
        if Instant::now() < due {
            std::thread::sleep(NAP);
            continue;
        }
        body[..8].copy_from_slice(&sent.to_be_bytes());
        match producer.try_send_due(Priority::Medium, TOPIC, &body, due) {
            Ok(_) => sent += 1,
            // It stays due from then on.
            Err(SendRefusal::Full) => std::thread::sleep(NAP),
            Err(refusal) => return Err(refusal.to_string()),
        }
    }
    let statistics = producer.close().map_err(|error| error.to_string())?;
    Ok((due_in_all, statistics))
}
