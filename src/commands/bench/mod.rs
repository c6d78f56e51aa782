//! `eventstream bench`: what this machine can do, what the engine does on it, reports and comparisons.
//!
//! ```text
//! bench ceiling ───────────────► ceiling.json    ─┐
//! bench run SCENARIO ── engine ─► SCENARIO.json  ─┼─► bench report DIR ──► report.html
//!                   └─ sender                    ─┘   bench compare A B ─► verdicts, exit code
//! ```
//!
//! The engine is a child process of the same binary on the engine's core (`child`), or, where a handler has to stop the clock, inside this
//! process with its agents on that core (`open_loop`, `isolation`, `overload`); senders have the other one. Limits and engine take turns
//! within each repeat. `scenario` is the table of what there is; each of its entries has a file that measures it, most of them by `flat_out`.

#![forbid(unsafe_code)]

mod child;
mod connections;
mod durability;
mod flags;
mod flat_out;
mod flood;
mod idle;
mod ingest_udp;
mod isolation;
mod long;
mod mixed;
mod open_loop;
mod overload;
mod probe;
mod recovery;
mod run;
mod scenario;
mod sender;
mod sessions;
mod sweep;

use std::io::Write;
use std::path::PathBuf;

use argh::FromArgs;

use self::flags::measuring_command;
use super::parts::three_lines;
use super::{CommandError, ExitStatus, print};
use crate::bench::ceiling::{Ceiling, FrameShape, Inflow, Layout, add_references, warnings};
use crate::bench::compare::{Comparison, Tolerance};
use crate::bench::document::{Document, FORMAT, Point};
use crate::bench::host::Host;
use crate::bench::noise::{CpuTicks, Noise};
use crate::bench::report;
use crate::sys::clock::Nanos;
use crate::sys::process::{allowed_cpus, pin_current_thread, raise_descriptor_limit};

/// How long a jitter probe looks.
const JITTER_PROBE: Nanos = Nanos::from_millis(500);

/// measures this machine and the engine on it
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "bench")]
pub struct BenchCommand {
    #[argh(subcommand)]
    action: Action,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is moved once")]
enum Action {
    Ceiling(CeilingCommand),
    Run(run::RunCommand),
    Report(ReportCommand),
    Compare(CompareCommand),
}

measuring_command! {
    /// measures the machine's own limits: clock, hand-off, receive, append, and the pipeline of them all
    #[derive(FromArgs, Debug)]
    #[argh(subcommand, name = "ceiling")]
    struct CeilingCommand {
        /// milliseconds of each measurement (default: 500)
        #[argh(option, default = "500")]
        for_ms: u64,
    }
}

/// makes one page of HTML, with plots, of all results in a folder
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "report")]
struct ReportCommand {
    /// a folder that `bench run` or `bench ceiling` wrote
    #[argh(positional)]
    folder: PathBuf,
}

/// compares two folders of results, figure by figure; exit code 1 when something is worse, gone or lost
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "compare")]
struct CompareCommand {
    /// the folder of the run before
    #[argh(positional)]
    before: PathBuf,
    /// the folder of the run after
    #[argh(positional)]
    after: PathBuf,
    /// how much worse a median may be (default: 5%)
    #[argh(option, default = "Tolerance::STANDARD")]
    fail_over: Tolerance,
}

impl BenchCommand {
    /// Measures, draws or compares.
    ///
    /// # Errors
    /// Arguments that make no sense, a host that does not suffice, a run in which an event was lost.
    pub fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        match self.action {
            Action::Ceiling(command) => command.run(out),
            Action::Run(command) => command.run(out),
            Action::Report(command) => command.run(out),
            Action::Compare(command) => command.run(out),
        }
    }
}

/// Anything that displays as the three lines, as a runtime error.
fn failed(error: &impl std::fmt::Display) -> CommandError {
    three_lines(ExitStatus::Runtime, error)
}

fn usage(error: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> CommandError {
    CommandError::new(ExitStatus::Usage, error, cause, fix)
}

/// Which cores there are of those that were asked for, and a warning where they are too few.
fn layout(engine_core: u32, sender_core: u32) -> Result<(Layout, Option<String>), CommandError> {
    let cpus = allowed_cpus();
    if !cpus.contains(&engine_core) {
        let cause = format!("this process may use {cpus:?}");
        return Err(usage(format!("there is no core {engine_core} for the engine"), cause, "an --engine-core of these"));
    }
    let sender_cpu = (cpus.contains(&sender_core) && sender_core != engine_core).then_some(sender_core);
    let warning = sender_cpu.is_none().then(|| {
        format!("there is no core {sender_core} for the sender alone: it shares the engine's, and figures are those of sharing")
    });
    Ok((Layout { engine_cpu: engine_core, sender_cpu }, warning))
}

/// Runs on a thread of its own on the sender's core: senders, and whoever looks at an engine inside this process, whose core would miss it.
fn on_sender_core<T: Send>(layout: Layout, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            // Threads that it starts inherit it. Best effort: with one CPU there is nothing to choose.
            let _ = layout.sender_cpu.map(pin_current_thread);
            work()
        });
        pinned.join().expect("a sender does not panic")
    })
}

/// A folder for data, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn make(parent: &std::path::Path) -> Result<Self, CommandError> {
        let folder = parent.join(format!("bench-data.{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| {
            let fix = "a --data-dir that may be written";
            CommandError::new(ExitStatus::Environment, format!("{} can't be made", folder.display()), error.to_string(), fix)
        })?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind takes room and nothing else.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl CeilingCommand {
    fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let common = self.common();
        if common.repeat == 0 || self.for_ms == 0 {
            return Err(usage("nothing to measure", "--repeat and --for-ms are at least 1", "--repeat 5 --for-ms 500"));
        }
        let (layout, warning) = layout(common.engine_core, common.sender_core)?;
        // Best effort: eight connections need few.
        let _ = raise_descriptor_limit();
        let scratch = Scratch::make(&common.data_dir)?;
        let began = CpuTicks::now();
        let mut ceiling = Ceiling::prepare(layout, &scratch.0).map_err(|error| failed(&error))?;
        let inflow = Inflow { shape: FrameShape::REFERENCE, connections: 8, at_most: Nanos::from_millis(self.for_ms) };
        let mut point = Point { name: "this machine".to_owned(), ..Point::default() };
        let mut noise = Noise::default();
        for _ in 0..common.repeat {
            noise.jitter.push(ceiling.jitter(JITTER_PROBE));
            ceiling.measure_all(&inflow, &mut point.figures).map_err(|error| failed(&error))?;
        }
        add_references(&mut point.figures);
        noise.stolen_percent = CpuTicks::now().stolen_percent_since(began);
        let document = Document {
            format: FORMAT,
            scenario: "ceiling".to_owned(),
            about: "what the machine itself can do, frames of 80 bytes on 8 connections".to_owned(),
            host: Host::look(&scratch.0),
            noise,
            settings: [
                ("engine core", layout.engine_cpu.to_string()),
                ("sender core", layout.sender_cpu.map_or("none".to_owned(), |cpu| cpu.to_string())),
                ("repeats", common.repeat.to_string()),
                ("milliseconds each", self.for_ms.to_string()),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
            warnings: warning.into_iter().chain(warnings(&point.figures)).collect(),
            points: vec![point],
            ..Document::default()
        };
        conclude(&document, &common.out, common.json, out)
    }
}

/// Writes and prints a run; the exit code says whether it counts.
fn conclude(document: &Document, folder: &std::path::Path, json: bool, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
    document.write(folder).map_err(|error| failed(&error))?;
    let text = if json {
        serde_json::to_string(document).expect("maps with text keys and finite numbers") + "\n"
    } else {
        format!("{document}results: {}\n", folder.join(format!("{}.json", document.scenario)).display())
    };
    print(out, &text)?;
    if document.is_lossless() {
        return Ok(ExitStatus::Ok);
    }
    let lost: usize = document.points.iter().map(|point| point.losses.len()).sum();
    Err(CommandError::new(
        ExitStatus::Runtime,
        format!("{} does not count: events were lost, or an account does not balance", document.scenario),
        format!("{lost} findings, marked LOSS above"),
        "flags under which nothing is lost; with the standard ones this is a defect of the engine",
    ))
}

impl ReportCommand {
    fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let documents = Document::read_all(&self.folder).map_err(|error| failed(&error))?;
        let path = self.folder.join("report.html");
        std::fs::write(&path, report::page(&documents)).map_err(|error| {
            CommandError::new(
                ExitStatus::Runtime,
                format!("{} can't be written", path.display()),
                error.to_string(),
                "a writable folder",
            )
        })?;
        print(out, &format!("report: {}\n", path.display())).map(|()| ExitStatus::Ok)
    }
}

impl CompareCommand {
    fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let read = |folder: &PathBuf| Document::read_all(folder).map_err(|error| failed(&error));
        let comparison = Comparison::of(&read(&self.before)?, &read(&self.after)?, self.fail_over);
        print(out, &comparison.to_string())?;
        if comparison.is_good() {
            return Ok(ExitStatus::Ok);
        }
        Err(CommandError::new(
            ExitStatus::Runtime,
            "the second run is worse than the first",
            format!("figures marked WORSE or GONE, or losses, at a tolerance of {} %", self.fail_over.0 * 100.0),
            "find what changed; run both again where the machine was noisy",
        ))
    }
}
