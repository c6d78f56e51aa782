//! The subcommands: each one file, a struct of its arguments and a `run` that returns an error in three lines.
//!
//! ```text
//! argv ─ split `--option=value` ─► argh ─► Command ─► run ─► exit code
//! ```
//!
//! Exit codes are [`ExitStatus`]: 0 ok, 1 runtime, 2 usage, 3 configuration, 4 environment, 5 damaged data.

#![forbid(unsafe_code)]

pub mod bench;
pub mod dlq;
pub mod doctor;
pub mod log;
mod parts;
pub mod send;
pub mod serve;
#[cfg(feature = "sim")]
pub mod sim;
pub mod status;
pub mod tail;
pub mod topology;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};

use argh::{EarlyExit, FromArgs};

use crate::config::{Config, ConfigRefusal};
use crate::sys::findings::Finding;
pub use parts::PARTS;
use serve::{EndNotice, Started};
use topology::{CorePlanView, PlanRequest};

/// What the process says at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// As asked.
    Ok = 0,
    /// Something failed while it ran.
    Runtime = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The configuration is wrong.
    Configuration = 3,
    /// The host does not give what is needed.
    Environment = 4,
    /// The log is damaged.
    DamagedData = 5,
}

/// An error for a person: three lines, and the exit code that goes with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// The exit code.
    pub code: ExitStatus,
    /// What went wrong.
    pub error: String,
    /// Why.
    pub cause: String,
    /// What to do: the command or flag.
    pub fix: String,
}

impl CommandError {
    /// An error of its three lines.
    pub fn new(code: ExitStatus, error: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { code, error: error.into(), cause: cause.into(), fix: fix.into() }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\ncause: {}\nfix:   {}", self.error, self.cause, self.fix)
    }
}

impl std::error::Error for CommandError {}

impl From<ConfigRefusal> for CommandError {
    fn from(refusal: ConfigRefusal) -> Self {
        let (error, cause, fix) = refusal.lines();
        Self { code: ExitStatus::Configuration, error, cause, fix }
    }
}

/// Prints a command's answer; a reader that has gone away (`| head`) is no error.
///
/// # Errors
/// What the output says, as a runtime error.
pub fn print(out: &mut dyn Write, text: &str) -> Result<(), CommandError> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::new(ExitStatus::Runtime, "the answer can't be written", error.to_string(), "an output with room"))
        }
        _ => Ok(()),
    }
}

/// The parts of the engine that commands call.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// Starts an engine; the notice is for it to say that it ended by itself.
    pub start_engine: fn(&Config, EndNotice) -> Result<Started, CommandError>,
    /// What the host gives and what not, for a configuration.
    pub probe_host: fn(&Config) -> Result<Vec<Finding>, CommandError>,
    /// The core plan of this host, and of others for comparison.
    pub plan_cores: fn(&PlanRequest) -> Result<Vec<CorePlanView>, CommandError>,
}

/// an io_uring-based, thread-per-core event engine
#[derive(FromArgs, Debug)]
struct Arguments {
    #[argh(subcommand)]
    command: Command,
}

/// A subcommand with its arguments.
#[derive(FromArgs, Debug)]
#[argh(subcommand)]
pub enum Command {
    /// Runs the engine.
    Serve(serve::ServeCommand),
    /// Asks a running one.
    Status(status::StatusCommand),
    /// Looks at the host.
    Doctor(doctor::DoctorCommand),
    /// Prints core plans.
    Topology(topology::TopologyCommand),
    /// Reads a log.
    Log(log::LogCommand),
    /// Follows a log.
    Tail(tail::TailCommand),
    /// Looks at dead letters, sends them again, removes them.
    Dlq(dlq::DlqCommand),
    /// Sends events.
    Send(send::SendCommand),
    /// Measures the machine and the engine on it.
    Bench(bench::BenchCommand),
    /// Runs the engine in the simulator.
    #[cfg(feature = "sim")]
    Sim(sim::SimCommand),
}

impl Command {
    /// Runs it; answers go to `out`.
    ///
    /// # Errors
    /// Whatever it could not do.
    pub fn run(self, parts: &Parts, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        match self {
            Command::Serve(command) => command.run(parts.start_engine, out),
            Command::Status(command) => command.run(out),
            Command::Doctor(command) => command.run(parts.probe_host, out),
            Command::Topology(command) => command.run(parts.plan_cores, out),
            Command::Log(command) => log_exit(command.run(out)),
            Command::Tail(command) => log_exit(command.run(out)),
            Command::Dlq(command) => command.run(out),
            Command::Bench(command) => command.run(out),
            #[cfg(feature = "sim")]
            Command::Sim(command) => command.run(out),
            Command::Send(command) => command.run().map(|()| ExitStatus::Ok).map_err(|error| {
                let code = if error.is_usage() { ExitStatus::Usage } else { ExitStatus::Runtime };
                parts::three_lines(code, &error)
            }),
        }
    }
}

fn log_exit(result: Result<log::LogOutcome, log::LogCommandError>) -> Result<ExitStatus, CommandError> {
    match result {
        Ok(log::LogOutcome::Whole) => Ok(ExitStatus::Ok),
        Ok(log::LogOutcome::Damaged) => Ok(ExitStatus::DamagedData),
        Err(error) => Err(parts::three_lines(ExitStatus::Runtime, &error)),
    }
}

/// Runs the command that the arguments name (`arguments` begins with the program's name).
pub fn main(arguments: impl IntoIterator<Item = OsString>, parts: &Parts) -> ExitStatus {
    let mut out = io::stdout();
    let outcome = parse(arguments).and_then(|parsed| match parsed {
        Parsed::Command(command) => command.run(parts, &mut out),
        Parsed::Answer(text) => print(&mut out, &text).map(|()| ExitStatus::Ok),
    });
    outcome.unwrap_or_else(|error| {
        // Nothing better can be done about a closed stderr.
        let _ = writeln!(io::stderr(), "{error}");
        error.code
    })
}

/// What arguments ask for.
#[derive(Debug)]
pub enum Parsed {
    /// A command to run.
    Command(Box<Command>),
    /// A text to print: help, version.
    Answer(String),
}

/// Reads arguments, the program's name first.
///
/// # Errors
/// A usage error.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, CommandError> {
    let usage = |error: String| {
        CommandError::new(
            ExitStatus::Usage,
            error,
            "the command line can't be understood",
            "eventstream [COMMAND] --help lists what there is",
        )
    };
    let mut words = Vec::new();
    for argument in arguments.into_iter().skip(1) {
        words.push(argument.into_string().map_err(|argument| usage(format!("{} is not UTF-8", argument.to_string_lossy())))?);
    }
    if words.iter().any(|word| word == "--version") && words.len() == 1 {
        return Ok(Parsed::Answer(format!("eventstream {}\n", env!("CARGO_PKG_VERSION"))));
    }
    let words = split_joined(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match Arguments::from_args(&["eventstream"], &words) {
        Ok(arguments) => Ok(Parsed::Command(Box::new(arguments.command))),
        Err(EarlyExit { output, status: Ok(()) }) => Ok(Parsed::Answer(output)),
        Err(EarlyExit { output, status: Err(()) }) => {
            let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            Err(usage(lines.join(" ")))
        }
    }
}

/// Makes two words of each `--option=value` before a bare `--`; argh knows only `--option value`.
fn split_joined(words: Vec<String>) -> Vec<String> {
    let mut split = Vec::with_capacity(words.len());
    let mut words = words.into_iter();
    for word in words.by_ref() {
        if word == "--" {
            split.push(word);
            break;
        }
        match word.split_once('=') {
            Some((flag, value)) if is_option_name(flag) => split.extend([flag.to_owned(), value.to_owned()]),
            _ => split.push(word),
        }
    }
    split.extend(words);
    split
}

/// `--` and then letters, digits and dashes, a letter first.
fn is_option_name(flag: &str) -> bool {
    let name = flag.strip_prefix("--").unwrap_or_default();
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn joined_values_are_split_and_what_follows_two_dashes_is_left_alone() {
        let split = split_joined(["--a=1", "--b-2=x=y", "c=d", "--=e", "--", "--f=g"].map(str::to_owned).to_vec());
        assert_eq!(split, ["--a", "1", "--b-2", "x=y", "c=d", "--=e", "--", "--f=g"]);
    }

    #[test]
    fn usage_errors_are_three_lines_with_exit_code_two() {
        for line in ["eventstream", "eventstream fly", "eventstream serve --tcp-listn x", "eventstream status --json --json=2"] {
            let error = parse(words(line)).expect_err(line);
            assert_eq!(error.code, ExitStatus::Usage, "{line}");
            let text = error.to_string();
            let starts: Vec<&str> = text.lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
            assert_eq!(starts, ["error", "cause", "fix"], "{text}");
        }
    }

    #[test]
    fn help_and_version_are_answers() {
        for (line, part) in [
            ("eventstream --help", "topology"),
            ("eventstream --version", "eventstream "),
            ("eventstream serve --help", "--tcp-listen"),
        ] {
            match parse(words(line)) {
                Ok(Parsed::Answer(text)) => assert!(text.contains(part), "{line}: {text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_reader_that_went_away_is_no_error() {
        struct Gone(io::ErrorKind);
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        assert_eq!(print(&mut Gone(io::ErrorKind::BrokenPipe), "x"), Ok(()));
        assert_eq!(print(&mut Gone(io::ErrorKind::StorageFull), "x").map_err(|error| error.code), Err(ExitStatus::Runtime));
    }
}
