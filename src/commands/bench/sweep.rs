//! REALTIME at rising rates, to the knee.

use super::CommandError;
use super::open_loop::{self, Merged, Pace};
use super::run::{Bench, RunCommand, point};
use super::sender::OpenLoop;
use crate::bench::document::Point;
use crate::bench::figure::readable;

/// Events a second.
const RATES_BY_DEFAULT: [u64; 4] = [10_000, 100_000, 500_000, 1_000_000];
/// The knee is somewhere below: 64 times the last rate.
const DOUBLINGS_MAX: usize = 6;

/// The rates given, then twice the last, and again, until the engine falls behind: that is found in the first repeat.
///
/// # Errors
/// An engine that does not start, a sender that can't send.
pub(super) fn measure(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let rates = command.rates.as_ref().map_or_else(|| RATES_BY_DEFAULT.to_vec(), |rates| rates.0.clone());
    let (span, may_spin) = (bench.each, bench.layout.sender_cpu.is_some());
    let rated = |per_second: u64| {
        let plan = OpenLoop { per_second, span, flood: None, may_spin };
        (plan, Merged::new(), point(readable(per_second as f64, "events/s"), Some(per_second as f64)))
    };
    let mut points: Vec<(OpenLoop, Merged, Point)> = rates.into_iter().map(rated).collect();
    bench.each_repeat(|bench| {
        let mut pace = Pace::Keeps;
        for (plan, merged, point) in &mut points {
            pace = open_loop::repeat(bench, plan, merged, point)?;
        }
        for _ in 0..DOUBLINGS_MAX {
            let Some((last, ..)) = points.last() else { break };
            if bench.repeat > 1 || pace == Pace::Behind {
                break;
            }
            let (plan, mut merged, mut point) = rated(last.per_second * 2);
            pace = open_loop::repeat(bench, &plan, &mut merged, &mut point)?;
            points.push((plan, merged, point));
        }
        Ok(())
    })?;
    Ok(points.into_iter().map(|(_, merged, point)| Point { curves: merged.curves(), ..point }).collect())
}
