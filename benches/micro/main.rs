//! What each part of the engine costs by itself: nanoseconds an item, the same as a share of what a cache line takes to the other core
//! and back in the same round, and instructions.
//!
//! ```text
//! round:  cache line ─► row ─► row ─► … ─► cache line (the next round)       rounds in turn: what the machine does meanwhile meets all
//! row:    begun once (tables, pools, queues) ─► a pass in each round: so many items, timed together
//! then:   this program again under callgrind: a pass of each row that one core has to itself, its instructions counted
//! ```
//!
//! Times are medians of the rounds, with the least beside them, as others on the machine only ever add to it. Instructions don't
//! depend on what else runs, so a change that a busy machine hides shows in them; they say nothing of cache lines on their way. A
//! plain program, as neither criterion nor divan measures two cores that work on one thing, or states a figure in another one.
//!
//!     make micro                              all of it
//!     cargo bench --bench micro -- pool       rows with this word in their name

#![forbid(unsafe_code)]

mod count;
mod dedup;
mod lanes;
mod pool;
mod processors;
mod rig;
mod table;
mod wire_and_log;

use std::process::ExitCode;

use eventstream::sys::process::{allowed_cpus, pin_current_thread};
use rig::{Host, Pass, Row};
use table::{Figures, Table};

/// A median of so many is steady, and all rows together take about ten seconds.
const ROUNDS: usize = 31;

/// All rows, in the order of an event's way, and what bounds the hand-offs in front.
fn rows() -> Vec<Row> {
    let parts = [lanes::rows(), pool::rows(), wire_and_log::rows(), dedup::rows(), processors::rows()];
    parts.into_iter().flatten().collect()
}

fn main() -> ExitCode {
    let cpus = allowed_cpus();
    if let Some(&cpu) = cpus.first() {
        // Best effort: where it can't be pinned it runs where the scheduler wants.
        let _ = pin_current_thread(cpu);
    }
    let host = Host { other_cpus: cpus.into_iter().skip(1).collect() };
    // Cargo says `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let is_counting = words.iter().any(|word| word == count::FLAG);
    let is_wanted = |row: &Row| words.iter().all(|word| word == count::FLAG || row.name.contains(word.as_str()));
    let rows: Vec<Row> = rows().into_iter().filter(is_wanted).collect();
    if is_counting {
        rows.iter().filter(|row| row.cores == 1).for_each(|row| count::count(row, &host));
        return ExitCode::SUCCESS;
    }
    if rows.is_empty() {
        eprintln!(
            "error: no such part\ncause: no row has {words:?} in its name\nfix:   cargo bench --bench micro, for all of them"
        );
        return ExitCode::FAILURE;
    }
    let table = Table { figures: measure(&rows, &host), instructions: count::in_another_process(&rows, &words), rows };
    print!("{table}");
    ExitCode::SUCCESS
}

/// The figures of all rows; `None` for one that needs more cores than there are.
fn measure(rows: &[Row], host: &Host) -> Vec<Option<Figures>> {
    let has_cores = |row: &Row| row.cores <= 1 + host.other_cpus.len();
    let mut begun: Vec<Option<Pass>> = rows.iter().map(|row| has_cores(row).then(|| (row.begin)(host))).collect();
    let mut figures: Vec<Option<Figures>> = begun.iter().map(|pass| pass.as_ref().map(|_| Figures::default())).collect();
    for _ in 0..ROUNDS {
        let ping_pong_ns = host.other_cpus.first().map(|cpu| lanes::ping_pong(*cpu).0 as f64 / lanes::THROWS as f64);
        for ((row, pass), figures) in rows.iter().zip(&mut begun).zip(&mut figures) {
            if let (Some(pass), Some(figures)) = (pass, figures) {
                figures.note(pass().0 as f64 / row.items as f64, ping_pong_ns);
            }
        }
    }
    rig::leave(begun);
    figures
}
