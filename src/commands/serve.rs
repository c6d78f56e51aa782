//! `eventstream serve`: configuration, log, signals, the start on one screen, the account at the end.
//!
//! The first SIGTERM or SIGINT drains; a second one exits at once, from the signal handler itself, however stuck the rest may be.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Receiver, Sender};

use argh::{CommandInfo, EarlyExit, FromArgs, SubCommand};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{CommandError, ExitStatus, print};
use crate::config::{Config, Flags, Layers, Loaded, OPTIONS, OptionSpec, Rule};
use crate::report::{DrainCause, DrainSummary, StartReport};
use crate::sys::process::{ignore_file_size_signal, keep_descriptors_from_programs};

/// What `serve` was told; the flags are read together with the other layers.
#[derive(Debug)]
pub struct ServeCommand {
    /// The command line.
    pub flags: Flags,
}

impl SubCommand for ServeCommand {
    const COMMAND: &'static CommandInfo =
        &CommandInfo { name: "serve", short: &'\0', description: "runs the engine until SIGTERM or SIGINT" };
}

impl FromArgs for ServeCommand {
    /// By hand, as names, defaults and help of the options come from the configuration's table.
    fn from_args(_: &[&str], arguments: &[&str]) -> Result<Self, EarlyExit> {
        if arguments.iter().any(|argument| matches!(*argument, "--help" | "-h" | "help")) {
            return Err(EarlyExit { output: help(), status: Ok(()) });
        }
        match Flags::parse(arguments) {
            Ok(flags) => Ok(Self { flags }),
            Err(refusal) => Err(EarlyExit::from(refusal.to_string())),
        }
    }
}

/// The text of `serve --help`.
fn help() -> String {
    let mut text = String::from(
        "Usage: eventstream serve [--config FILE] [--OPTION VALUE | --OPTION=VALUE]...\n\n\
         Runs the engine until SIGTERM or SIGINT, then drains and prints its account; a second signal exits at once.\n\
         An option is a flag, a variable (--tcp-listen: EVENTSTREAM_TCP_LISTEN) or a line of the file\n\
         (tcp-listen = \"127.0.0.1:9000\"), in this order of precedence. Sizes take KiB, MiB, GiB.\n\n\
         Options:\n  --config FILE\n      The configuration file (TOML). Its table [topics] overrides priorities: \"alarms/#\" = \"critical\";\n      its tables [[rules]] say which REALTIME events are alerts, and what is done about them (README).\n",
    );
    for option in OPTIONS {
        // Writing to a string can't fail.
        let _ = writeln!(text, "  --{} {}\n      {} ({})", option.name(), option.form, option.help(), bounds(option));
    }
    text.push_str(
        "\nEVENTSTREAM_LOG sets the log filter (default info); EVENTSTREAM_WITHOUT=min_wait,… pretends that a kernel feature is missing.\n\
         Exit codes: 0 ok, 1 runtime, 2 usage, 3 configuration, 4 environment, 5 damaged data.\n",
    );
    text
}

fn bounds(option: &OptionSpec) -> String {
    match option.rule {
        Rule::Any => format!("default {}", option.default),
        rule => format!("default {}; {rule}", option.default),
    }
}

/// A running engine, as `serve` needs it.
pub struct Started {
    /// What to say.
    pub report: StartReport,
    /// Drains it, stops it, and gives its account.
    pub drain: Box<dyn FnOnce(DrainCause) -> DrainSummary>,
}

/// How the engine says that it can't go on. Cloneable, from any thread.
#[derive(Clone, Debug)]
pub struct EndNotice(Sender<DrainCause>);

impl EndNotice {
    /// Begins the drain; only the first cause counts.
    pub fn end(&self, cause: DrainCause) {
        // The receiver is gone once a drain has begun: there is nothing more to begin.
        let _ = self.0.send(cause);
    }
}

impl ServeCommand {
    /// Runs until the end.
    ///
    /// # Errors
    /// A configuration that is refused, a host that does not suffice, an account that does not balance.
    pub fn run(
        self,
        start: fn(&Config, EndNotice) -> Result<Started, CommandError>,
        out: &mut dyn Write,
    ) -> Result<ExitStatus, CommandError> {
        let Loaded { config, notes } = Config::load(&Layers::of_process(self.flags))?;
        init_log();
        notes.iter().for_each(|note| log::warn!("{note}"));
        ignore_file_size_signal();
        keep_descriptors_from_programs();
        let (causes, ends) = mpsc::channel();
        let notice = EndNotice(causes);
        watch_signals(notice.clone())?;
        serve(&config, start, &notice, &ends, out)
    }
}

/// Everything between a configuration and an exit code.
fn serve(
    config: &Config,
    start: impl FnOnce(&Config, EndNotice) -> Result<Started, CommandError>,
    notice: &EndNotice,
    ends: &Receiver<DrainCause>,
    out: &mut dyn Write,
) -> Result<ExitStatus, CommandError> {
    let Started { report, drain } = start(config, notice.clone())?;
    say(out, &report.to_string());
    let cause = ends.recv().expect("`notice` keeps the channel open");
    log::info!("draining: {cause}");
    let summary = drain(cause);
    say(out, &summary.to_string());
    judge(&summary)
}

/// An engine goes on when nobody reads its output any more.
fn say(out: &mut dyn Write, text: &str) {
    if let Err(error) = print(out, text) {
        log::warn!("the report can't be printed: {}", error.cause);
    }
}

/// The exit code of an account, or the error that it amounts to.
fn judge(summary: &DrainSummary) -> Result<ExitStatus, CommandError> {
    let runtime = |error: &str, cause: String, fix: &str| Err(CommandError::new(ExitStatus::Runtime, error, cause, fix));
    if let Err(wrong) = summary.balance() {
        let causes: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        let fix = "this is a defect of the engine; keep the log and the summary above, and report them";
        return runtime("the ledger does not balance", causes.join("; "), fix);
    }
    // First what ended it: that the drain was not finished then is a consequence.
    if !summary.cause.is_asked_for() {
        let cause = match summary.in_flight {
            0 => summary.cause.to_string(),
            held => format!("{}; {held} events could not be finished", summary.cause),
        };
        return runtime("the engine ended by itself", cause, "see the log lines above; `eventstream doctor` looks at the host");
    }
    if summary.in_flight > 0 || summary.deadline_missed {
        let cause = format!("{} events were still held when the drain deadline passed", summary.in_flight);
        return runtime("the drain was not finished", cause, "a longer --drain-timeout-ms, or a faster disk or handler");
    }
    Ok(ExitStatus::Ok)
}

fn init_log() {
    let environment = env_logger::Env::new().filter_or("EVENTSTREAM_LOG", "info");
    // A second initialisation (an embedder has a logger of its own) leaves the first one in place.
    let _ = env_logger::Builder::from_env(environment).format_timestamp_millis().format_target(false).try_init();
}

/// The first signal sends a notice; the second exits at once.
fn watch_signals(notice: EndNotice) -> Result<(), CommandError> {
    let refused = |error: std::io::Error| {
        let fix = "a process that may set signal handlers and start threads";
        CommandError::new(ExitStatus::Environment, "signals can't be handled", error.to_string(), fix)
    };
    let seen = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // Order matters: the shutdown looks at the flag before the line below sets it, so the first signal passes.
        signal_hook::flag::register_conditional_shutdown(signal, ExitStatus::Runtime as i32, seen.clone()).map_err(refused)?;
        signal_hook::flag::register(signal, seen.clone()).map_err(refused)?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT]).map_err(refused)?;
    let watch = move || {
        for signal in signals.forever() {
            notice.end(DrainCause::Signal(if signal == SIGTERM { "SIGTERM" } else { "SIGINT" }));
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop).map_err(refused)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::metrics::ledger::{Ledger, LedgerCells};
    use crate::pool::Source;
    use crate::report::DeadLetterSplit;
    use crate::wire::Tier;

    fn account(cells: &LedgerCells, cause: DrainCause, in_flight: u64) -> DrainSummary {
        DrainSummary {
            cause,
            took: Duration::ZERO,
            deadline_missed: in_flight > 0,
            ledger: Ledger::read(std::iter::once(cells)),
            in_flight,
            slots_missing: 0,
            dead_letters: DeadLetterSplit::default(),
            refused_frames: BTreeMap::new(),
            kernel_drops: Vec::new(),
            latencies: Vec::new(),
            logs: Vec::new(),
        }
    }

    /// Serves with an engine that received one event and ends by `cause`.
    fn run(cause: DrainCause, stored: u64, in_flight: u64) -> (Result<ExitStatus, CommandError>, String) {
        let (causes, ends) = mpsc::channel();
        let notice = EndNotice(causes);
        let start = move |_: &Config, notice: EndNotice| {
            notice.end(cause);
            let drain = move |cause| {
                let cells = LedgerCells::default();
                cells.cell(Source::Tcp, Tier::Batch).received.add(1);
                cells.cell(Source::Tcp, Tier::Batch).stored.add(stored);
                account(&cells, cause, in_flight)
            };
            let report = StartReport { tcp: "127.0.0.1:4711".parse().ok(), ..StartReport::default() };
            Ok(Started { report, drain: Box::new(drain) })
        };
        let mut out = Vec::new();
        let outcome = serve(&Config::default(), start, &notice, &ends, &mut out);
        (outcome, String::from_utf8(out).expect("reports are text"))
    }

    #[test]
    fn a_signal_drains_prints_both_screens_and_exits_with_zero() {
        let (outcome, screen) = run(DrainCause::Signal("SIGTERM"), 1, 0);
        assert_eq!(outcome, Ok(ExitStatus::Ok));
        assert!(screen.contains("tcp 127.0.0.1:4711  udp off  admin off\n"), "{screen}");
        assert!(screen.contains("(SIGTERM)") && screen.ends_with("ledger: balanced\n"), "{screen}");
    }

    #[test]
    fn an_account_that_does_not_balance_fails_loudly() {
        let (outcome, screen) = run(DrainCause::Signal("SIGINT"), 0, 0);
        let error = outcome.expect_err("one event is missing");
        assert_eq!((error.code, error.error.as_str()), (ExitStatus::Runtime, "the ledger does not balance"));
        assert!(screen.contains("ledger: DOES NOT BALANCE"), "{screen}");
    }

    #[test]
    fn events_left_behind_and_ends_nobody_asked_for_are_runtime_errors() {
        let (outcome, _) = run(DrainCause::Signal("SIGTERM"), 0, 1);
        assert_eq!(outcome.map_err(|error| error.error), Err("the drain was not finished".to_owned()));
        let (outcome, _) = run(DrainCause::StoreFailed("EIO".to_owned()), 1, 0);
        let error = outcome.expect_err("the store failed");
        assert_eq!((error.code, error.cause.as_str()), (ExitStatus::Runtime, "the store failed: EIO"));
    }

    #[test]
    fn help_shows_each_option_with_its_default() {
        let text = help();
        for option in OPTIONS {
            let line = text.lines().position(|line| line.trim_start().starts_with(&format!("--{} ", option.name())));
            let next = line.and_then(|line| text.lines().nth(line + 1)).unwrap_or_default();
            assert!(next.contains(&format!("default {}", option.default)), "{}: {next}", option.name());
        }
    }
}
