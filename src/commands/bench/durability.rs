//! What durability costs: flat out at each of its levels, over one connection and several, small bodies and larger ones.

use super::CommandError;
use super::flat_out::{self, Load};
use super::run::{Bench, RunCommand, point, with_flag};
use crate::bench::document::Point;
use crate::bench::figure::Better;
use crate::commands::send::{BodySizes, SendCommand};

/// The levels; others are held against the first.
const LEVELS: [&str; 3] = ["none", "group", "always"];
/// Connections and bytes of a body of each row.
const ROWS: [(usize, usize); 4] = [(8, 64), (1, 64), (8, 1_024), (8, 16_384)];

/// A point for each cell; the levels of a row run one after the other within each repeat.
///
/// # Errors
/// An engine that does not start, answer or end; a sender that can't send.
pub(super) fn measure(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let mut rows: Vec<Vec<(Point, Load)>> = Vec::new();
    for (connections, bytes) in ROWS {
        let cell = |level: &&str| {
            let flags = with_flag(&bench.flags, "durability", level);
            let load = command.load(&flags);
            let body_bytes = Some(BodySizes::fixed(bytes).expect("a size of bodies"));
            let send = SendCommand { connections: Some(connections), body_bytes, ..load.send };
            let name = format!("{level}, {connections} connections, {bytes} bytes");
            (point(name, None), Load { send, ..load })
        };
        rows.push(LEVELS.iter().map(cell).collect());
    }
    bench.each_repeat(|bench| {
        for row in &mut rows {
            let mut none = None;
            for (point, load) in row {
                let rate = flat_out::repeat(bench, load, point)?.per_second;
                let none = *none.get_or_insert(rate);
                point.figures.note("of the rate at durability none", "share", Better::Higher, rate / none.max(1.0));
            }
        }
        Ok(())
    })?;
    Ok(rows.into_iter().flatten().map(|(point, _)| point).collect())
}
