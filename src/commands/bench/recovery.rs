//! Opening a log that a killed engine left: time until the engine takes connections, memory, bytes read; by the size of the log.
//!
//! Each log is made by an engine that stores events, comes to rest and is killed. It is then opened again and again: an engine that has
//! opened it is killed too, so that no clean stop shortens the next opening. What is in the page cache by then is faster than a disk
//! after a power cut: bytes read say how much a slower one would have to give.

use std::path::Path;
use std::time::{Duration, Instant};

use super::child::EngineChild;
use super::flat_out;
use super::run::{Bench, RunCommand, point, with_flag};
use super::{CommandError, ExitStatus};
use crate::bench::document::Point;
use crate::bench::figure::Better;
use crate::storage::appender::Durability;

/// Events of 64-byte bodies: of no log at all, and about 10 MB, 100 MB, 1 GB and 2.5 GB (of which a gigabyte is sealed by then).
const EVENTS: [u64; 5] = [0, 100_000, 1_000_000, 10_000_000, 25_000_000];
/// How long the log may take to be durable to its end.
const REST_PATIENCE: Duration = Duration::from_secs(30);

/// A point for each size.
///
/// # Errors
/// An engine that does not start, answer or end; a sender that can't send.
pub(super) fn measure(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let most = command.events.unwrap_or(u64::MAX);
    let mut points = Vec::new();
    for events in EVENTS.into_iter().filter(|events| *events <= most) {
        let data = bench.engine_data();
        let bytes = if events > 0 { make_log(command, bench, &data, events)? } else { 0 };
        let name = if events == 0 { "no log".to_owned() } else { format!("{events} events") };
        let mut point = point(name, Some((bytes as f64).max(1.0)));
        bench.measure_machine()?;
        for repeat in 1..=bench.repeats {
            bench.repeat = repeat;
            open(bench, &data, events, &mut point)?;
        }
        let _ = std::fs::remove_dir_all(&data);
        points.push(point);
    }
    Ok(points)
}

/// Has an engine store so many events, and kills it when it has nothing more to write. Bytes that it wrote.
fn make_log(command: &RunCommand, bench: &mut Bench, data: &Path, events: u64) -> Result<u64, CommandError> {
    let mut load = command.load(&bench.flags);
    load.send.generate = Some(events);
    // A busy host must not make it shed: how it takes events in is not what is measured.
    let flags = with_flag(&bench.flags, "max-latency-ms", "30000");
    let engine = EngineChild::start(bench.layout.engine_cpu, data, &flags)?;
    let sent = flat_out::send_all(bench, &load.plan(engine.tcp)?)?;
    let (status, losses) = flat_out::settle(&engine, sent.sent.events())?;
    if !losses.is_empty() {
        let fix = "flags under which nothing is lost";
        return Err(CommandError::new(ExitStatus::Runtime, "no log to recover could be made", losses.join("; "), fix));
    }
    let give_up = Instant::now() + REST_PATIENCE;
    // At --durability none nothing more becomes durable, and what is written is in the page cache.
    while bench.config.durability != Durability::None && Instant::now() < give_up {
        let status = engine.status()?;
        if status.durable_sequence >= status.written_sequence {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // Dropped, it is killed.
    Ok(status.metrics.get("log_bytes_written").copied().unwrap_or_default())
}

/// One opening.
fn open(bench: &mut Bench, data: &Path, events: u64, point: &mut Point) -> Result<(), CommandError> {
    let began = Instant::now();
    let engine = EngineChild::start(bench.layout.engine_cpu, data, &bench.flags)?;
    let took = began.elapsed();
    let (taken, read) = (engine.taken(), engine.bytes_read());
    let held = engine.status()?.written_sequence;
    if held < events {
        point.losses.extend(bench.losses([format!("{held} of {events} events are in the log after recovery")]));
    }
    point.figures.note("start until it takes connections", "ns", Better::Lower, took.as_nanos() as f64);
    point.figures.note("CPU taken by then", "ns", Better::Lower, taken.cpu_ns as f64);
    point.figures.note("memory resident at most", "bytes", Better::Lower, taken.resident_bytes_max as f64);
    point.figures.note("bytes read", "bytes", Better::Lower, read as f64);
    Ok(())
}
