//! REALTIME alone, and beside a flood of the other tiers.

use super::CommandError;
use super::open_loop::{self, Merged};
use super::run::{Bench, RunCommand, STEADY_RATE, point};
use super::sender::OpenLoop;
use crate::bench::document::Point;
use crate::commands::send::{Generate, Input};

/// Two points: alone, and beside a flood.
///
/// # Errors
/// An engine that does not start, a sender that can't send.
pub(super) fn measure(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let mut load = command.load(&bench.flags);
    load.send.mix = load.send.mix.or_else(|| "0,60,30".parse().ok());
    let generated = load.plan(([127, 0, 0, 1], 9000).into())?;
    let Input::Generated(generate) = generated.input else { unreachable!("a number of events was given") };
    // As many as fit into the time.
    let generate = Generate { events: u64::MAX, ..generate };
    let may_spin = bench.layout.sender_cpu.is_some();
    let alone = OpenLoop { per_second: command.steady_rate(STEADY_RATE), span: bench.each, flood: None, may_spin };
    let mut points = [("alone", None), ("beside a flood", Some((generate, generated.connections)))]
        .map(|(name, flood)| (OpenLoop { flood, ..alone.clone() }, Merged::new(), point(name, None)));
    bench.each_repeat(|bench| {
        for (plan, merged, point) in &mut points {
            // Ids begin anew with each engine, which has its own memory of duplicates.
            open_loop::repeat(bench, plan, merged, point)?;
        }
        Ok(())
    })?;
    Ok(points.into_iter().map(|(_, merged, point)| Point { curves: merged.curves(), ..point }).collect())
}
