//! What connections cost: busy ones by their number, and those that say nothing beside busy ones.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::child::EngineChild;
use super::flat_out::{self, Load};
use super::run::{Bench, RunCommand, point};
use super::{CommandError, ExitStatus};
use crate::bench::document::Point;
use crate::bench::figure::Better;
use crate::commands::send::SendCommand;
use crate::sys::process::descriptor_limits;

/// Descriptors that this process has beside those of silent connections: the busy ones', files, the ceiling's.
const DESCRIPTORS_APART: u64 = 256;
/// How long the engine may take to accept connections.
const ACCEPT_PATIENCE: Duration = Duration::from_secs(30);

/// A point for each number of busy connections, each beside the first one.
///
/// # Errors
/// An engine that does not start, answer or end; a sender that can't send.
pub(super) fn busy(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let loads = [1, 10, 100, 1_000].map(|connections| {
        let load = command.load(&bench.flags);
        let send = SendCommand { connections: Some(connections), ..load.send };
        (point(format!("{connections} connections"), Some(connections as f64)), Load { send, ..load })
    });
    beside_first(bench, loads.into())
}

/// A point for each number of silent connections beside busy ones.
///
/// # Errors
/// As [`busy`].
pub(super) fn idle(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let (allowed, _) = descriptor_limits();
    let mut loads = Vec::new();
    for silent_connections in [0, 1_000, 10_000] {
        if silent_connections as u64 + DESCRIPTORS_APART > allowed {
            bench.warnings.push(format!(
                "SKIPPED: {silent_connections} silent connections need more than the {allowed} descriptors allowed (`ulimit -n`)"
            ));
            continue;
        }
        let name = if silent_connections == 0 { "none".to_owned() } else { silent_connections.to_string() };
        // A logarithmic axis has no zero.
        let x = Some((silent_connections as f64).max(1.0));
        loads.push((point(format!("{name} silent"), x), Load { silent_connections, ..command.load(&bench.flags) }));
    }
    beside_first(bench, loads)
}

/// Flat out, in turn; what an event costs beside what it costs at the first point of the same repeat.
fn beside_first(bench: &mut Bench, mut loads: Vec<(Point, Load)>) -> Result<Vec<Point>, CommandError> {
    bench.each_repeat(|bench| {
        let mut first = None;
        for (point, load) in &mut loads {
            let cpu_ns = flat_out::repeat(bench, load, point)?.cpu_ns;
            let first = *first.get_or_insert(cpu_ns);
            point.figures.note("CPU for each event, beside the first point", "share", Better::Lower, cpu_ns / first.max(1.0));
        }
        Ok(())
    })?;
    Ok(loads.into_iter().map(|(point, _)| point).collect())
}

/// Connections that are there and say nothing, once the engine has accepted all of them.
///
/// # Errors
/// Connections that can't be made, or are not taken.
pub(super) fn open_silent(engine: &EngineChild, count: usize) -> Result<Vec<TcpStream>, CommandError> {
    let refused = |cause: String| {
        let fix = "more descriptors (`ulimit -n`), or `--max-connections` of serve";
        CommandError::new(ExitStatus::Environment, format!("{count} silent connections can't be had"), cause, fix)
    };
    let opened: std::io::Result<Vec<_>> = (0..count).map(|_| TcpStream::connect(engine.tcp)).collect();
    let opened = opened.map_err(|error| refused(error.to_string()))?;
    let give_up = Instant::now() + ACCEPT_PATIENCE;
    loop {
        // Of none nobody has to be asked.
        let accepted = if count > 0 { engine.status()?.connections } else { 0 };
        if accepted >= count as u64 {
            return Ok(opened);
        }
        if Instant::now() >= give_up {
            return Err(refused(format!("the engine has accepted {accepted} within {ACCEPT_PATIENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
