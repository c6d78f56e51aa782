//! Why an engine did not start.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::ConfigRefusal;
use crate::metrics::admin::AdminRefusal;
use crate::pool::{BudgetRefusal, PoolSizesRefusal};
use crate::storage::folder::OpenRefusal;
use crate::sys::features::UnknownFeature;
use crate::sys::findings::Finding;
use crate::sys::memory::ArenaRefusal;
use crate::sys::plan::{BadCoreChoice, PlanRefusal};
use crate::sys::probe::HostRefusal;
use crate::sys::process::PinRefusal;
use crate::sys::socket::SocketRefusal;
use crate::sys::topology::TopologyRefusal;
use crate::sys::uring::RingRefusal;

/// Why an engine did not start. Displays as three lines: error, cause, fix.
#[derive(Debug)]
pub enum EngineError {
    /// Options that contradict each other.
    Config(ConfigRefusal),
    /// `EVENTSTREAM_WITHOUT` names what isn't there.
    Without(UnknownFeature),
    /// `--cores` makes no sense.
    Cores(BadCoreChoice),
    /// A topic override that is none.
    Topics(String),
    /// `--pool-*` values that make no pool.
    PoolSizes(PoolSizesRefusal),
    /// The kernel lacks what the engine can't do without.
    Host(HostRefusal),
    /// The machine's topology can't be read.
    Topology(TopologyRefusal),
    /// The agents can't be placed as asked for.
    Plan(PlanRefusal),
    /// More publishers than the engine has numbers or lanes for.
    TooManyPublishers {
        /// How many were asked for.
        publishers: u32,
        /// How many there may be with these reactors and capacities.
        most: u32,
    },
    /// More memory than there is.
    Budget(BudgetRefusal),
    /// The arena could not be reserved.
    Arena(ArenaRefusal),
    /// A ring could not be made.
    Ring(RingRefusal),
    /// A port can't be had.
    Socket(SocketRefusal),
    /// The data folder, the log or the dead letters can't be opened.
    Folder(OpenRefusal),
    /// The admin endpoint can't be opened.
    Admin(AdminRefusal),
    /// `--strict`, and a thread can't be pinned.
    Pin(PinRefusal),
    /// `--strict`, and the host lacks something.
    Strict(Finding),
    /// A runner panicked while it started.
    RunnerPanicked,
    /// Anything else that the system refuses.
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: Option<PathBuf>,
        /// What it said.
        error: io::Error,
    },
}

impl EngineError {
    pub(super) fn io(doing: &'static str, error: io::Error) -> Self {
        EngineError::Io { doing, path: None, error }
    }

    pub(super) fn file(doing: &'static str, path: &Path, error: io::Error) -> Self {
        EngineError::Io { doing, path: Some(path.to_owned()), error }
    }

    /// Whether flags, environment or file are to blame, and not the host.
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            EngineError::Config(_)
                | EngineError::Without(_)
                | EngineError::Cores(_)
                | EngineError::Topics(_)
                | EngineError::PoolSizes(_)
                | EngineError::Plan(_)
                | EngineError::TooManyPublishers { .. }
        )
    }

    /// Whether the log is damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self, EngineError::Folder(refusal) if refusal.is_damage())
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::Config(refusal) => write!(f, "{refusal}"),
            EngineError::Without(refusal) => write!(f, "{refusal}"),
            EngineError::Host(refusal) => write!(f, "{refusal}"),
            EngineError::Topology(refusal) => write!(f, "{refusal}"),
            EngineError::Plan(refusal) => write!(f, "{refusal}"),
            EngineError::Budget(refusal) => write!(f, "{refusal}"),
            EngineError::Arena(refusal) => write!(f, "{refusal}"),
            EngineError::Ring(refusal) => write!(f, "{refusal}"),
            EngineError::Socket(refusal) => write!(f, "{refusal}"),
            EngineError::Folder(refusal) => write!(f, "{refusal}"),
            EngineError::Admin(refusal) => write!(f, "{refusal}"),
            EngineError::Pin(refusal) => write!(f, "{refusal}"),
            EngineError::Cores(refusal) => {
                write!(f, "error: --cores can't be read\ncause: {refusal}\nfix:   --cores auto, or see `eventstream topology`")
            }
            EngineError::TooManyPublishers { publishers, most } => {
                writeln!(f, "error: {publishers} publishers are too many")?;
                writeln!(f, "cause: with these reactors and capacities of tiers there can be {most}")?;
                write!(f, "fix:   {most} publishers or fewer, shared among threads, or greater capacities")
            }
            EngineError::Topics(why) => {
                write!(
                    f,
                    "error: a topic override can't be used\ncause: {why}\nfix:   correct the table [topics] of the configuration file"
                )
            }
            EngineError::PoolSizes(refusal) => {
                write!(
                    f,
                    "error: these sizes make no pool\ncause: {refusal}\nfix:   give the flag named above a value in its bounds, or leave it out"
                )
            }
            EngineError::Strict(finding) => {
                let (what, required, found) = (finding.what, &finding.required, &finding.found);
                writeln!(f, "error: --strict, and this host does not give what is asked for")?;
                writeln!(f, "cause: {what}: wanted {required}, found {found}")?;
                write!(f, "fix:   {}, or leave out --strict", finding.fix)
            }
            EngineError::RunnerPanicked => {
                write!(
                    f,
                    "error: a runner did not start\ncause: its thread panicked; the message is above\nfix:   report this, it is a bug"
                )
            }
            EngineError::Io { doing, path, error } => {
                let path = path.as_ref().map_or_else(String::new, |path| format!(" {}", path.display()));
                writeln!(f, "error: could not {doing}{path}")?;
                writeln!(f, "cause: {error}")?;
                write!(f, "fix:   see `eventstream doctor` for what this host lacks")
            }
        }
    }
}

impl std::error::Error for EngineError {}
