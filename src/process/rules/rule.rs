//! A rule as configured: which events it is about, how often it may act, and what it does. Checked once, before anything starts.

use std::fmt;
use std::net::SocketAddr;

use super::condition::Condition;
use super::counters::ActionKind;
use super::targets::Destination;
use crate::bus::TopicFilter;
use crate::sys::clock::Nanos;
use crate::wire::Priority;

/// The most rules: a set of them is a word.
pub const RULES_MAX: usize = 64;

/// The longest name of a rule, bytes.
pub const RULE_NAME_BYTES_MAX: usize = 64;

/// The most addresses and programs that rules may name together: each has a thread and a queue.
pub const RULE_TARGETS_MAX: usize = 16;

/// The most arguments of a program, itself included.
pub const PROGRAM_ARGUMENTS_MAX: usize = 32;

/// The most bytes of a program's arguments together.
pub const PROGRAM_BYTES_MAX: usize = 4096;

/// The most copies of a program at once.
pub const PROGRAMS_AT_ONCE_MAX: u32 = 16;

/// What to do about which events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRule {
    /// In the log, in metrics, and in what is sent: letters, digits, `-`, `_` and `.`, at most [`RULE_NAME_BYTES_MAX`].
    pub name: String,
    /// The topics it is about.
    pub topic: TopicFilter,
    /// The least priority, as sent.
    pub priority: Priority,
    /// What the body must be like.
    pub condition: Condition,
    /// Alerts in a second of the events' own times, at least 1. Default 1000.
    pub alerts_per_s_max: u32,
    /// How long the rule is silent after an alert, by the events' own times. Default 0.
    pub cool_down: Nanos,
    /// Whether alerts go to the alert log. Default true.
    pub log: bool,
    /// Where a datagram with the alert's line goes.
    pub udp: Option<SocketAddr>,
    /// Where the alert's line goes over TCP.
    pub tcp: Option<SocketAddr>,
    /// What is run, the event's body on its standard input.
    pub run: Option<Program>,
}

/// A program to run. Without a shell; of the environment it gets what describes the event, and nothing of the engine's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The path of the program, from the root, and its arguments.
    pub arguments: Vec<String>,
    /// How long it may run before it is killed with its process group. Default 10 s.
    pub run_time_max: Nanos,
    /// How many of it may run at once, 1 to [`PROGRAMS_AT_ONCE_MAX`]; further events wait in the queue. Default 4.
    pub at_once_max: u32,
}

impl Program {
    /// The defaults, for a program.
    pub fn new(arguments: Vec<String>) -> Self {
        Self { arguments, run_time_max: Nanos::from_millis(10_000), at_once_max: 4 }
    }
}

/// Why rules are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleRefusal {
    /// More than [`RULES_MAX`].
    TooMany {
        /// How many.
        rules: usize,
    },
    /// The name is empty, too long, or has another character than a name has.
    Name,
    /// Another rule has the same name.
    SameName,
    /// It would do nothing.
    NoAction,
    /// The program's path does not begin at the root.
    ProgramNotAbsolute,
    /// The program has too many or too long arguments, or none.
    ProgramSize,
    /// An argument holds a NUL, which no argument can.
    ProgramNul,
    /// More addresses and programs than [`RULE_TARGETS_MAX`].
    TooManyTargets {
        /// How many.
        targets: usize,
    },
}

impl fmt::Display for RuleRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { rules } => write!(f, "there are at most {RULES_MAX} rules, these are {rules}"),
            Self::Name => write!(f, "a name is 1 to {RULE_NAME_BYTES_MAX} letters, digits, `-`, `_` or `.`"),
            Self::SameName => write!(f, "another rule has the same name"),
            Self::NoAction => write!(f, "`log` is false, and it names neither `udp` nor `tcp` nor `run`: it would do nothing"),
            Self::ProgramNotAbsolute => write!(f, "the program is looked for nowhere: its path must begin with `/`"),
            Self::ProgramSize => write!(
                f,
                "a program has 1 to {PROGRAM_ARGUMENTS_MAX} arguments, itself included, and at most {PROGRAM_BYTES_MAX} bytes of them"
            ),
            Self::ProgramNul => write!(f, "an argument can't hold a NUL"),
            Self::TooManyTargets { targets } => {
                write!(f, "rules name at most {RULE_TARGETS_MAX} different addresses and programs, these name {targets}")
            }
        }
    }
}

impl std::error::Error for RuleRefusal {}

impl AlertRule {
    /// The rule that logs every event of its topics.
    pub fn new(name: impl Into<String>, topic: TopicFilter) -> Self {
        Self {
            name: name.into(),
            topic,
            priority: Priority::Batch,
            condition: Condition::default(),
            alerts_per_s_max: 1000,
            cool_down: Nanos(0),
            log: true,
            udp: None,
            tcp: None,
            run: None,
        }
    }

    /// Where its alerts go beside the alert log.
    pub(super) fn destinations(&self) -> impl Iterator<Item = (ActionKind, Destination)> + '_ {
        let udp = self.udp.map(|address| (ActionKind::Udp, Destination::Udp(address)));
        let tcp = self.tcp.map(|address| (ActionKind::Tcp, Destination::Tcp(address)));
        let run = self.run.clone().map(|program| (ActionKind::Run, Destination::Run(program)));
        udp.into_iter().chain(tcp).chain(run)
    }

    /// Which kinds of actions it has, by index.
    pub(super) fn kinds(&self) -> [bool; ActionKind::ALL.len()] {
        [self.log, self.udp.is_some(), self.tcp.is_some(), self.run.is_some()]
    }

    /// What is wrong with it by itself.
    fn check(&self) -> Result<(), RuleRefusal> {
        let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || self.name.len() > RULE_NAME_BYTES_MAX || !self.name.bytes().all(is_of_a_name) {
            return Err(RuleRefusal::Name);
        }
        if !self.kinds().contains(&true) {
            return Err(RuleRefusal::NoAction);
        }
        let Some(program) = &self.run else { return Ok(()) };
        let bytes: usize = program.arguments.iter().map(String::len).sum();
        if !(1..=PROGRAM_ARGUMENTS_MAX).contains(&program.arguments.len()) || bytes > PROGRAM_BYTES_MAX {
            return Err(RuleRefusal::ProgramSize);
        }
        if !program.arguments[0].starts_with('/') {
            return Err(RuleRefusal::ProgramNotAbsolute);
        }
        if program.arguments.iter().any(|argument| argument.contains('\0')) {
            return Err(RuleRefusal::ProgramNul);
        }
        Ok(())
    }
}

/// The different addresses and programs of all rules.
pub(super) fn targets(rules: &[AlertRule]) -> Vec<Destination> {
    let mut targets = Vec::new();
    for (_, destination) in rules.iter().flat_map(AlertRule::destinations) {
        if !targets.contains(&destination) {
            targets.push(destination);
        }
    }
    targets
}

/// Looks for what is wrong with rules, each by itself and all together.
///
/// # Errors
/// The place of a rule that is refused, and why.
pub fn check_rules(rules: &[AlertRule]) -> Result<(), (usize, RuleRefusal)> {
    if rules.len() > RULES_MAX {
        return Err((RULES_MAX, RuleRefusal::TooMany { rules: rules.len() }));
    }
    for (place, rule) in rules.iter().enumerate() {
        rule.check().map_err(|refusal| (place, refusal))?;
        if rules[..place].iter().any(|other| other.name == rule.name) {
            return Err((place, RuleRefusal::SameName));
        }
    }
    let targets = targets(rules).len();
    if targets > RULE_TARGETS_MAX {
        return Err((rules.len() - 1, RuleRefusal::TooManyTargets { targets }));
    }
    Ok(())
}
