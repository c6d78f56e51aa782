//! One engine that goes on and on, over recycled segments: what an event costs, and what memory it takes, after a million and after all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::CommandError;
use super::child::EngineChild;
use super::flat_out;
use super::run::{Bench, RunCommand, point};
use crate::bench::document::Point;
use crate::bench::figure::{Better, short};
use crate::bench::looks::Looks;
use crate::bench::timeline::panels;

/// Where the first point is.
const FIRST_EVENTS: u64 = 1_000_000;
/// All of them, unless it is told a number.
const EVENTS_BY_DEFAULT: u64 = 50_000_000;
/// Between two looks: the engine renders its status no more often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks after the last event at most, for a run that was over before the second.
const LATE_LOOKS_MAX: u32 = 8;

/// A point after a million events, after ten times as many, and so on to the end.
///
/// # Errors
/// An engine that does not start, answer or end; a sender that can't send.
pub(super) fn measure(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let all = command.events.unwrap_or(EVENTS_BY_DEFAULT);
    let mut ends: Vec<u64> =
        std::iter::successors(Some(FIRST_EVENTS), |end| end.checked_mul(10)).take_while(|end| *end < all).collect();
    ends.push(all);
    let name = |end: &u64| point(format!("up to {} events", short(*end as f64)), Some(*end as f64));
    let mut points: Vec<Point> = ends.iter().map(name).collect();
    bench.each_repeat(|bench| repeat(command, bench, &ends, &mut points))?;
    Ok(points)
}

fn repeat(command: &RunCommand, bench: &mut Bench, ends: &[u64], points: &mut [Point]) -> Result<(), CommandError> {
    let data = bench.engine_data();
    let engine = EngineChild::start(bench.layout.engine_cpu, &data, &bench.flags)?;
    let stop = AtomicBool::new(false);
    let timeline = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let (mut looks, mut resident, began) = (Looks::default(), Vec::new(), Instant::now());
            // However short the run, its course has a beginning and an end.
            let mut late_looks = 0;
            while late_looks < LATE_LOOKS_MAX && !(stop.load(Ordering::Relaxed) && resident.len() >= 2) {
                late_looks += u32::from(stop.load(Ordering::Relaxed));
                // An engine that does not answer for once is asked again.
                if let Ok(status) = engine.status()
                    && looks.add(began.elapsed().as_secs_f64(), status)
                {
                    resident.push(engine.taken().resident_bytes as f64);
                }
                std::thread::sleep(LOOK_EVERY);
            }
            let mut timeline = looks.timeline()?;
            timeline.push(panels::MEMORY, "resident", "bytes", resident);
            Some(timeline)
        });
        let sent = stages(command, bench, &engine, ends, points);
        stop.store(true, Ordering::Relaxed);
        let timeline = looking.join().expect("looking does not panic");
        sent.map(|()| timeline)
    })?;
    let (_, mut losses) = flat_out::settle(&engine, *ends.last().expect("at least one"))?;
    losses.extend(engine.stop()?);
    let _ = std::fs::remove_dir_all(&data);
    let last = points.last_mut().expect("at least one");
    last.timeline = timeline;
    last.losses.extend(bench.losses(losses));
    Ok(())
}

/// Sends up to each end in turn, and notes what that took.
fn stages(
    command: &RunCommand,
    bench: &Bench,
    engine: &EngineChild,
    ends: &[u64],
    points: &mut [Point],
) -> Result<(), CommandError> {
    let mut first_cpu_ns = None;
    let mut begin = 0;
    for (end, point) in ends.iter().zip(points) {
        let mut load = command.load(&bench.flags);
        load.send.generate = Some(end - begin);
        let (before, began) = (engine.taken(), Instant::now());
        flat_out::send_all(bench, &load.plan(engine.tcp)?)?;
        let (stored, took) = flat_out::look(engine, began, *end)?;
        let taken = engine.taken();
        let events = (stored.saturating_sub(begin)).max(1) as f64;
        let cpu_ns = taken.cpu_ns.saturating_sub(before.cpu_ns) as f64 / events;
        let first = *first_cpu_ns.get_or_insert(cpu_ns);
        point.figures.note("stored", "events/s", Better::Higher, events / took.as_secs_f64());
        point.figures.note("CPU of the engine for each event", "ns", Better::Lower, cpu_ns);
        point.figures.note("CPU for each event, beside the first point", "share", Better::Lower, cpu_ns / first.max(1.0));
        point.figures.note("memory resident", "bytes", Better::Lower, taken.resident_bytes as f64);
        begin = *end;
    }
    Ok(())
}
