//! The layers: command line, environment, file; each gives text with its origin, the first one that names an option decides.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::classes::read_classes;
use super::refusal::{ConfigRefusal, FilterCause, Origin};
use super::rules::read_rules;
use super::windows::{self, WindowEntry};
use super::{Config, OPTIONS, OptionSpec, TopicOverride};
use crate::bus::TopicClass;
use crate::limits::{CONFIG_FILE_BYTES_MAX, TOPIC_FILTER_BYTES_MAX};
use crate::process::rules::AlertRule;

/// `EVENTSTREAM_*` variables that are no options: log filter, features to do without, the file of the configuration.
pub const VARIABLES_APART: [&str; 3] = ["EVENTSTREAM_LOG", "EVENTSTREAM_WITHOUT", "EVENTSTREAM_CONFIG"];

/// The tables of a file, beside its options.
const TABLES: [&str; 4] = ["topics", "classes", "rules", "windows"];

/// Why a command line is refused (exit code 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgumentRefusal {
    /// No such flag.
    Unknown(String),
    /// A flag without its value.
    NoValue(String),
    /// A flag given twice.
    Twice(String),
}

impl fmt::Display for ArgumentRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArgumentRefusal::Unknown(argument) => write!(f, "unknown argument {argument}"),
            ArgumentRefusal::NoValue(flag) => write!(f, "{flag} needs a value"),
            ArgumentRefusal::Twice(flag) => write!(f, "{flag} is given twice"),
        }
    }
}

/// What a command line says: values as text, not yet read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// By option.
    values: Vec<(&'static OptionSpec, String)>,
}

impl Flags {
    /// No flag but `--config`, perhaps.
    pub fn with_config(config: Option<PathBuf>) -> Self {
        Self { config, values: Vec::new() }
    }

    /// Reads `--option value`, `--option=value` and switches alone.
    ///
    /// # Errors
    /// The first argument that is no option, lacks its value or comes twice.
    pub fn parse(arguments: &[&str]) -> Result<Self, ArgumentRefusal> {
        let mut flags = Self::default();
        let mut rest = arguments.iter().copied().peekable();
        while let Some(argument) = rest.next() {
            let (flag, joined) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (argument, None),
            };
            let unknown = || ArgumentRefusal::Unknown(argument.to_owned());
            let name = flag.strip_prefix("--").ok_or_else(unknown)?;
            let option = if name == "config" { None } else { Some(OptionSpec::find(name).ok_or_else(unknown)?) };
            let value = match joined {
                Some(value) => value,
                // A switch alone means `on`; `--strict off` is understood too.
                None if option.is_some_and(OptionSpec::is_switch) => {
                    rest.next_if(|next| matches!(*next, "on" | "off")).unwrap_or("on")
                }
                None => rest.next().ok_or_else(|| ArgumentRefusal::NoValue(flag.to_owned()))?,
            };
            flags.put(option, value).map_err(|()| ArgumentRefusal::Twice(flag.to_owned()))?;
        }
        Ok(flags)
    }

    fn put(&mut self, option: Option<&'static OptionSpec>, value: &str) -> Result<(), ()> {
        match option {
            None if self.config.is_none() => self.config = Some(PathBuf::from(value)),
            Some(option) if self.value(option).is_none() => self.values.push((option, value.to_owned())),
            _ => return Err(()),
        }
        Ok(())
    }

    fn value(&self, option: &OptionSpec) -> Option<&str> {
        self.values.iter().find(|(known, _)| *known == option).map(|(_, value)| value.as_str())
    }
}

/// A configuration, and what was noticed while it was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration; every rule holds.
    pub config: Config,
    /// Lines for the log: variables that look like options and are none.
    pub notes: Vec<String>,
}

/// Everything a configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// The command line.
    pub flags: Flags,
    /// The environment; only names that begin with `EVENTSTREAM_` matter.
    pub environment: BTreeMap<OsString, OsString>,
}

impl Layers {
    /// These flags over this process's environment.
    pub fn of_process(flags: Flags) -> Self {
        Self { flags, environment: std::env::vars_os().collect() }
    }

    fn variable(&self, name: &str) -> Result<Option<&str>, ConfigRefusal> {
        match self.environment.get(std::ffi::OsStr::new(name)) {
            None => Ok(None),
            Some(value) => value.to_str().map(Some).ok_or_else(|| ConfigRefusal::NotText { variable: name.to_owned() }),
        }
    }

    fn notes(&self) -> Vec<String> {
        // A note and not a refusal: container platforms put variables like EVENTSTREAM_SERVICE_HOST there for a service of this name.
        let names = self.environment.keys().filter_map(|name| name.to_str()).filter(|name| name.starts_with("EVENTSTREAM_"));
        let unknown =
            names.filter(|name| !VARIABLES_APART.contains(name) && OPTIONS.iter().all(|option| option.variable() != **name));
        unknown.map(|name| format!("{name} is set, but no option has this name; it is ignored")).collect()
    }
}

impl Config {
    /// Reads the layers: flags over environment over file over defaults.
    ///
    /// # Errors
    /// The first value, key or pair of values that is refused.
    pub fn load(layers: &Layers) -> Result<Loaded, ConfigRefusal> {
        let path = match &layers.flags.config {
            Some(path) => Some(path.clone()),
            None => layers.variable("EVENTSTREAM_CONFIG")?.map(PathBuf::from),
        };
        let file = path.map(|path| FileLayer::read(&path)).transpose()?.unwrap_or_default();
        let (topics, classes, rules, windows) = (file.topics, file.classes, file.rules, file.windows);
        let mut config = Config { topics, classes, rules, windows, ..Config::default() };
        for option in OPTIONS {
            let variable = layers.variable(&option.variable())?;
            let (text, origin) = match (layers.flags.value(option), variable, file.values.get(&option.name())) {
                (Some(text), _, _) => (text, Origin::Flag),
                (_, Some(text), _) => (text, Origin::Environment),
                (_, _, Some((text, line))) => (text.as_str(), Origin::File { path: file.path.clone(), line: *line }),
                _ => continue,
            };
            (option.set)(&mut config, text).map_err(|cause| ConfigRefusal::Value {
                origin,
                option,
                text: text.to_owned(),
                cause,
            })?;
        }
        config.check(0)?;
        Ok(Loaded { config, notes: layers.notes() })
    }
}

/// What a file says: values as text with their line, and what its tables hold.
#[derive(Debug, Default)]
struct FileLayer {
    path: PathBuf,
    values: BTreeMap<String, (String, usize)>,
    topics: Vec<TopicOverride>,
    classes: Vec<TopicClass>,
    rules: Vec<AlertRule>,
    windows: Vec<WindowEntry>,
}

impl FileLayer {
    fn read(path: &Path) -> Result<Self, ConfigRefusal> {
        let unreadable = |why: String| ConfigRefusal::Unreadable { path: path.to_owned(), why };
        let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let mut text = String::new();
        file.take(CONFIG_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| unreadable(error.to_string()))?;
        if text.len() as u64 > CONFIG_FILE_BYTES_MAX {
            return Err(unreadable(format!("it is longer than {CONFIG_FILE_BYTES_MAX} bytes")));
        }
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigRefusal> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let table = DeTable::parse(text).map_err(|error| ConfigRefusal::Syntax {
            path: path.to_owned(),
            line: line_of(error.span().map_or(0, |span| span.start)),
            why: error.message().replace('\n', ", "),
        })?;
        let mut layer = Self { path: path.to_owned(), ..Self::default() };
        for (key, value) in table.get_ref() {
            let (name, line) = (key.get_ref().as_ref(), line_of(key.span().start));
            match (name, value.get_ref()) {
                ("topics", DeValue::Table(topics)) => layer.topics = read_topics(path, topics, line_of)?,
                ("classes", DeValue::Table(classes)) => layer.classes = read_classes(path, classes, line_of)?,
                ("rules", DeValue::Array(rules)) => layer.rules = read_rules(path, rules, line_of)?,
                ("windows", list) => layer.windows = windows::read(path, line, list, line_of)?,
                (name, value) if OptionSpec::find(name).is_some() => {
                    let text = scalar(value).map_err(|found| layer.wrong_kind(line, name, found))?;
                    layer.values.insert(name.to_owned(), (text, line));
                }
                ("topics" | "classes" | "rules", other) => {
                    return Err(layer.wrong_kind(line, name, scalar(other).err().unwrap_or("a single value")));
                }
                _ => return Err(layer.unknown_key(line, name)),
            }
        }
        Ok(layer)
    }

    fn wrong_kind(&self, line: usize, key: &str, found: &'static str) -> ConfigRefusal {
        ConfigRefusal::WrongKind { path: self.path.clone(), line, key: key.to_owned(), found }
    }

    fn unknown_key(&self, line: usize, key: &str) -> ConfigRefusal {
        let wanted = key.replace('_', "-");
        let nearest = OPTIONS.iter().map(|option| option.name()).chain(TABLES.map(str::to_owned));
        let nearest = nearest.min_by_key(|name| edit_distance(name, &wanted)).expect("there are options");
        ConfigRefusal::UnknownKey { path: self.path.clone(), line, key: key.to_owned(), nearest }
    }
}

/// The text of a value, as if it had been written as a flag; else what it is.
pub(super) fn scalar(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Boolean(on) => Ok(if *on { "on" } else { "off" }.to_owned()),
        // As written; an option that wants a whole number refuses it with its own words.
        DeValue::Float(number) => Ok(number.to_string()),
        DeValue::Datetime(_) => Err("a date"),
        DeValue::Array(_) => Err("a list"),
        DeValue::Table(_) => Err("a table"),
    }
}

fn read_topics(path: &Path, topics: &DeTable<'_>, line_of: impl Fn(usize) -> usize) -> Result<Vec<TopicOverride>, ConfigRefusal> {
    let mut overrides = Vec::with_capacity(topics.len());
    for (key, value) in topics {
        let (filter, line) = (key.get_ref().as_ref(), line_of(key.span().start));
        check_filter(filter).map_err(|cause| ConfigRefusal::Filter {
            path: path.to_owned(),
            line,
            filter: filter.to_owned(),
            cause,
        })?;
        let text = scalar(value.get_ref()).map_err(|found| ConfigRefusal::WrongKind {
            path: path.to_owned(),
            line,
            key: filter.to_owned(),
            found,
        })?;
        let priority = text.parse().map_err(|_| ConfigRefusal::TopicPriority {
            path: path.to_owned(),
            line,
            filter: filter.to_owned(),
            text: text.clone(),
        })?;
        overrides.push(TopicOverride { filter: filter.to_owned(), priority });
    }
    Ok(overrides)
}

/// The rules of topic filters (those of MQTT 5, section 4.7.1).
fn check_filter(filter: &str) -> Result<(), FilterCause> {
    if filter.is_empty() {
        return Err(FilterCause::Empty);
    }
    if filter.len() > TOPIC_FILTER_BYTES_MAX {
        return Err(FilterCause::TooLong);
    }
    if filter.contains(char::is_control) {
        return Err(FilterCause::ControlCharacter);
    }
    let levels: Vec<&str> = filter.split('/').collect();
    let (last, before) = levels.split_last().expect("split gives at least one level");
    if before.iter().any(|level| level.contains('#')) || (last.contains('#') && *last != "#") {
        return Err(FilterCause::RestNotLast);
    }
    if levels.iter().any(|level| level.contains('+') && *level != "+") {
        return Err(FilterCause::LevelNotWhole);
    }
    Ok(())
}

/// Insertions, deletions and replacements from one word to the other (Levenshtein), for suggestions.
pub(super) fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
