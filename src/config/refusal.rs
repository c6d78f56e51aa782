//! Why a configuration is refused, in three lines that name the place where the person wrote it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::OptionSpec;
use super::rules::RuleCause;
use super::values::{Cause, Dedup, Rule};
use super::windows::{self, WindowCause, WindowConflict};
use crate::bus::{ClassRefusal, TopicFilterRefusal};
use crate::wire::Tier;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// In an `EVENTSTREAM_*` variable.
    Environment,
    /// On the command line.
    Flag,
}

impl Origin {
    /// The option with a value, as it is written there.
    fn written(&self, option: &OptionSpec, text: &str) -> String {
        let text = if text.is_empty() { "''" } else { text };
        match self {
            Origin::Default => format!("--{} {text} (the default)", option.name()),
            Origin::Flag => format!("--{} {text}", option.name()),
            Origin::Environment => format!("{}={text}", option.variable()),
            Origin::File { path, line } => format!("{} = {text} ({} line {line})", option.name(), path.display()),
        }
    }

    /// What to write instead, in the same place.
    fn instead(&self, option: &OptionSpec) -> String {
        let form = option.form;
        let assignment = match self {
            Origin::File { .. } => format!("{} = {form}", option.name()),
            Origin::Environment => format!("{}={form}", option.variable()),
            Origin::Default | Origin::Flag => format!("--{} {form}", option.name()),
        };
        let rule = if option.rule == Rule::Any { String::new() } else { format!(", {}", option.rule) };
        format!("{assignment}{rule} (default {})", option.default)
    }
}

/// Why a topic filter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterCause {
    /// Nothing at all.
    Empty,
    /// A control character.
    ControlCharacter,
    /// A `#` that is not the whole last level.
    RestNotLast,
    /// A `+` that is not a whole level.
    LevelNotWhole,
    /// Longer than a topic can be.
    TooLong,
}

impl fmt::Display for FilterCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FilterCause::Empty => "it is empty",
            FilterCause::ControlCharacter => "it contains a control character",
            FilterCause::RestNotLast => "`#` stands for the rest and must be the whole last level",
            FilterCause::LevelNotWhole => "`+` stands for one level and must be the whole level",
            FilterCause::TooLong => "it is longer than a topic can be",
        })
    }
}

/// How a class is written.
const CLASS_FORM: &str = "orders = [\"orders/#\", \"invoices/+\"]";

/// Two values that are right each for itself, and wrong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Levels and flow control would come after the overflow.
    QueueDepthBeyondCapacity {
        /// `--max-queue-depth`.
        depth_events: u32,
        /// The tier.
        tier: Tier,
        /// Its capacity.
        capacity_events: u32,
    },
    /// The kernel refuses a completion queue smaller than its submission queue.
    CompletionsBelowSubmissions {
        /// `--cq-entries`.
        cq: u32,
        /// `--ring-entries`.
        ring: u32,
    },
    /// Two TCP listeners on one address.
    SameAddress(SocketAddr),
    /// A socket that strangers may reach, and nothing that tells who they are.
    Anonymous {
        /// `tcp` or `udp`.
        socket: &'static str,
        /// Where it listens.
        address: SocketAddr,
    },
    /// Neither TCP nor UDP.
    NoIntake,
    /// The dead letters would be written into the log.
    DeadLettersIntoLog(PathBuf),
    /// `--dedup key` without `--dedup-key`, or the reverse.
    DedupKeyAlone {
        /// `--dedup`.
        dedup: Dedup,
    },
    /// Topic classes that make no sense.
    Classes(ClassRefusal),
    /// Definitions of windows.
    Windows(WindowConflict),
}

impl Conflict {
    fn lines(&self) -> (String, String, String) {
        match self {
            Conflict::QueueDepthBeyondCapacity { depth_events, tier, capacity_events } => (
                format!("--max-queue-depth {depth_events} is beyond --{}-capacity {capacity_events}", tier.name()),
                "flow control and levels act by shares of it, so the tier would overflow before they act".to_owned(),
                format!("--max-queue-depth {capacity_events} or less, or a greater --{}-capacity", tier.name()),
            ),
            Conflict::CompletionsBelowSubmissions { cq, ring } => (
                format!("--cq-entries {cq} is below --ring-entries {ring}"),
                "the kernel refuses a completion queue smaller than its submission queue".to_owned(),
                format!("--cq-entries {} or `auto`", u64::from(*ring) * 8),
            ),
            Conflict::SameAddress(address) => (
                format!("--tcp-listen and --admin-listen are both {address}"),
                "one port can't serve two protocols".to_owned(),
                "another port for --admin-listen, or port 0 for any free one".to_owned(),
            ),
            Conflict::Anonymous { socket: "tcp", address } => (
                format!("--tcp-listen {address} is beyond this host, and nothing says who may send"),
                "whoever reaches that address could fill the log".to_owned(),
                "--session-token-file PATH for sessions, or --allow-anonymous if the network is trusted".to_owned(),
            ),
            Conflict::Anonymous { socket, address } => (
                format!("--{socket}-listen {address} is beyond this host, and datagrams carry no token"),
                "whoever reaches that address could fill the log".to_owned(),
                format!("--{socket}-listen off, or --allow-anonymous if the network is trusted"),
            ),
            Conflict::NoIntake => (
                "--tcp-listen and --udp-listen are both off".to_owned(),
                "no event could ever come in".to_owned(),
                "leave one of them on, or start the engine with publishers".to_owned(),
            ),
            Conflict::DeadLettersIntoLog(path) => (
                format!("--dead-letter-path {} is a log of events", path.display()),
                "dead letters would be written into the log and damage it".to_owned(),
                "a path of its own, such as dlq_log.txt in the data folder".to_owned(),
            ),
            Conflict::DedupKeyAlone { dedup: Dedup::Key } => (
                "--dedup key lacks --dedup-key".to_owned(),
                "nothing says by which part of the body events are known".to_owned(),
                "--dedup-key pointer:/order/id, or --dedup-key prefix:16".to_owned(),
            ),
            Conflict::DedupKeyAlone { dedup } => (
                format!("--dedup-key has no use with --dedup {}", dedup.name()),
                "events are not known by a part of their body then".to_owned(),
                "--dedup key, or no --dedup-key".to_owned(),
            ),
            Conflict::Classes(refusal) => {
                ("the table [classes] is refused".to_owned(), refusal.to_string(), CLASS_FORM.to_owned())
            }
            Conflict::Windows(conflict) => conflict.lines(),
        }
    }
}

/// A configuration that the engine won't start with. Its [`fmt::Display`] is three lines: error, cause, fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigRefusal {
    /// A value that the option can't have.
    Value {
        /// Where it was written.
        origin: Origin,
        /// Of which option.
        option: &'static OptionSpec,
        /// As written.
        text: String,
        /// Why.
        cause: Cause,
    },
    /// An environment variable that is not UTF-8.
    NotText {
        /// The variable.
        variable: String,
    },
    /// The file can't be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// The file is no TOML.
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// A key that no option has.
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// An option that is meant, perhaps.
        nearest: String,
    },
    /// A key with a value of the wrong kind (a list, a date, a table).
    WrongKind {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What is there.
        found: &'static str,
    },
    /// A topic filter that can't be one.
    Filter {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// As written.
        filter: String,
        /// Why.
        cause: FilterCause,
    },
    /// A topic override with a priority that doesn't exist.
    TopicPriority {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The filter.
        filter: String,
        /// As written.
        text: String,
    },
    /// A topic class whose filter can't be one.
    ClassFilter {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// As written.
        filter: String,
        /// Why.
        cause: TopicFilterRefusal,
    },
    /// A topic class that is neither a filter nor a list of them.
    ClassKind {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The class.
        class: String,
        /// What is there.
        found: &'static str,
    },
    /// A rule that can't be one.
    Rule {
        /// The file and the line, from 1; none if it was not read from a file.
        place: Option<(PathBuf, usize)>,
        /// Its name in backticks, or its number.
        rule: String,
        /// Why.
        cause: Box<RuleCause>,
    },
    /// A key of a `[[windows]]`.
    Window {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// Why.
        cause: WindowCause,
    },
    /// Two values that are wrong together.
    Conflict(Conflict),
}

impl ConfigRefusal {
    /// The three lines: error, cause, fix.
    pub fn lines(&self) -> (String, String, String) {
        match self {
            ConfigRefusal::Value { origin, option, text, cause } => {
                (format!("{} is refused", origin.written(option, text)), cause.to_string(), origin.instead(option))
            }
            ConfigRefusal::NotText { variable } => (
                format!("{variable} is refused"),
                "its value is not UTF-8".to_owned(),
                format!("unset {variable}, or set it to plain text"),
            ),
            ConfigRefusal::Unreadable { path, why } => (
                format!("the configuration file {} can't be read", path.display()),
                why.clone(),
                "--config FILE with a file that exists and may be read".to_owned(),
            ),
            ConfigRefusal::Syntax { path, line, why } => (
                format!("the configuration file {} is no TOML", path.display()),
                format!("line {line}: {why}"),
                "lines of the form: flush-events = 100".to_owned(),
            ),
            ConfigRefusal::UnknownKey { path, line, key, nearest } => (
                format!("unknown key `{key}` ({} line {line})", path.display()),
                "keys are the names of the flags of `serve`, without the dashes in front, and the tables [topics], [classes], [[rules]], [[windows]]"
                    .to_owned(),
                format!("did you mean `{nearest}`? `eventstream serve --help` lists all"),
            ),
            ConfigRefusal::WrongKind { path, line, key, found } => (
                format!("key `{key}` has {found} ({} line {line})", path.display()),
                "a value is a text, a number, or true or false".to_owned(),
                format!("{key} = \"…\""),
            ),
            ConfigRefusal::Filter { path, line, filter, cause } => (
                format!("topic filter `{}` is refused ({} line {line})", filter.escape_debug(), path.display()),
                cause.to_string(),
                "a name, or one with whole levels of `+`, or `#` as its last level: \"alarms/#\" = \"critical\"".to_owned(),
            ),
            ConfigRefusal::TopicPriority { path, line, filter, text } => (
                format!(
                    "priority `{}` of topic filter `{filter}` is refused ({} line {line})",
                    text.escape_debug(),
                    path.display()
                ),
                "it is none of batch, low, medium, high, critical, 0 to 4".to_owned(),
                format!("\"{filter}\" = \"high\""),
            ),
            ConfigRefusal::ClassFilter { path, line, filter, cause } => (
                format!("topic filter `{}` is refused ({} line {line})", filter.escape_debug(), path.display()),
                cause.to_string(),
                CLASS_FORM.to_owned(),
            ),
            ConfigRefusal::ClassKind { path, line, class, found } => (
                format!("the class `{}` has {found} ({} line {line})", class.escape_debug(), path.display()),
                "a class is a topic filter or a list of them".to_owned(),
                CLASS_FORM.to_owned(),
            ),
            ConfigRefusal::Rule { place, rule, cause } => {
                let place = place.as_ref().map_or_else(String::new, |(path, line)| format!(" ({} line {line})", path.display()));
                let (cause, fix) = cause.lines();
                (format!("rule {rule} is refused{place}"), cause, fix)
            }
            ConfigRefusal::Window { path, line, key, cause } => (
                format!("key `{key}` of [[windows]] is refused ({} line {line})", path.display()),
                cause.to_string(),
                windows::example(key).to_owned(),
            ),
            ConfigRefusal::Conflict(conflict) => conflict.lines(),
        }
    }
}

impl fmt::Display for ConfigRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (error, cause, fix) = self.lines();
        write!(f, "error: {error}\ncause: {cause}\nfix:   {fix}")
    }
}

impl std::error::Error for ConfigRefusal {}
