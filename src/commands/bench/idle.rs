//! An engine with nothing to do: what it takes all the same.

use std::time::{Duration, Instant};

use super::CommandError;
use super::child::EngineChild;
use super::run::{Bench, RunCommand, point};
use crate::bench::document::Point;
use crate::bench::figure::Better;

/// A first second is the start's.
const WARM_UP: Duration = Duration::from_secs(1);

/// One point.
///
/// # Errors
/// An engine that does not start or end.
pub(super) fn measure(_: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let mut point = point("nothing to do", None);
    bench.each_repeat(|bench| repeat(bench, &mut point))?;
    Ok(vec![point])
}

fn repeat(bench: &mut Bench, point: &mut Point) -> Result<(), CommandError> {
    let data = bench.engine_data();
    let engine = EngineChild::start(bench.layout.engine_cpu, &data, &bench.flags)?;
    std::thread::sleep(WARM_UP.min(bench.each));
    let (before, began) = (engine.taken(), Instant::now());
    std::thread::sleep(bench.each);
    let (after, seconds) = (engine.taken(), began.elapsed().as_secs_f64());
    let loss = engine.stop()?;
    point.losses.extend(bench.losses(loss));
    let _ = std::fs::remove_dir_all(&data);
    let cpu_ns = after.cpu_ns.saturating_sub(before.cpu_ns) as f64;
    point.figures.note("core taken", "%", Better::Lower, cpu_ns / seconds / 1e7);
    point.figures.note("wake-ups", "1/s", Better::Lower, after.sleeps.saturating_sub(before.sleeps) as f64 / seconds);
    point.figures.note("memory resident", "bytes", Better::Lower, after.resident_bytes as f64);
    Ok(())
}
