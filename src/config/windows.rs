//! The file's `[[windows]]`: window definitions beside the default one, which the flags `--window-ms` and `--window-slide-ms` describe.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::layers::scalar;
use super::values::{OptionValue, Rule};
use super::{Cause, Config, ConfigRefusal};
use crate::bus::{TOPIC_FILTER_LEVELS_MAX, TopicFilter};
use crate::process::GroupBy;
use crate::process::json_pointer::JsonPointer;
use crate::process::window::{DEFAULT_DEFINITION, DEFINITIONS_MAX, PANES_MAX};

/// The longest name of a definition.
pub const WINDOW_NAME_BYTES_MAX: usize = 64;

/// Lengths and slides, milliseconds.
pub const WINDOW_MS: RangeInclusive<u64> = 10..=86_400_000;

/// Groups of a definition in one pane.
pub const WINDOW_GROUPS: RangeInclusive<u64> = 1..=65_536;

/// The keys of an entry, for those that mistype one.
const KEYS: [&str; 8] = ["name", "topics", "group-by", "length-ms", "slide-ms", "value", "groups-max", "metrics"];

/// One `[[windows]]` of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowEntry {
    /// Its name in `windows.jsonl`, metrics and handlers: a to z, 0 to 9, `-` and `_`.
    pub name: String,
    /// The topics it counts.
    pub topics: TopicFilter,
    /// What is counted together: `topic`, `filter` (all as one), or the number of first levels. Default: topic.
    pub group_by: GroupBy,
    /// Length of a window, milliseconds; the flags' length and slide if absent.
    pub length_ms: Option<u32>,
    /// From one window to the next, milliseconds; the length if absent.
    pub slide_ms: Option<u32>,
    /// Where in the body the number is.
    pub value: Option<JsonPointer>,
    /// Groups in a pane. Default 256.
    pub groups_max: u32,
    /// Whether its last closed window is shown as metrics.
    pub metrics: bool,
}

impl WindowEntry {
    /// An entry with a name and its topics, everything else by default.
    pub fn new(name: &str, topics: TopicFilter) -> Self {
        Self {
            name: name.to_owned(),
            topics,
            group_by: GroupBy::Topic,
            length_ms: None,
            slide_ms: None,
            value: None,
            groups_max: 256,
            metrics: false,
        }
    }

    /// Length and slide, milliseconds, with what the flags say.
    pub fn span_ms(&self, config: &Config) -> (u32, u32) {
        match (self.length_ms, self.slide_ms) {
            (None, None) => config.window_span_ms(),
            (None, Some(slide_ms)) => (config.window_ms, slide_ms),
            (Some(length_ms), slide_ms) => (length_ms, slide_ms.unwrap_or(length_ms)),
        }
    }
}

impl Config {
    /// Length and slide of the default definition, milliseconds.
    pub fn window_span_ms(&self) -> (u32, u32) {
        (self.window_ms, self.window_slide_ms.given().unwrap_or(self.window_ms))
    }
}

/// Why an entry is refused by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowCause {
    /// A key that entries don't have.
    UnknownKey,
    /// A key that entries need.
    Missing,
    /// Something else than a text, a number or a yes and no.
    WrongKind(&'static str),
    /// A number that is none or out of bounds, a switch that is none.
    Value(Cause),
    /// A name that can't be one.
    Name,
    /// A text that is no topic filter, no grouping, no pointer.
    Text(String),
}

impl fmt::Display for WindowCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WindowCause::UnknownKey => write!(f, "[[windows]] has the keys {}", KEYS.join(", ")),
            WindowCause::Missing => f.write_str("it must be there"),
            WindowCause::WrongKind(found) => write!(f, "it is {found}"),
            WindowCause::Value(cause) => cause.fmt(f),
            WindowCause::Name => {
                write!(f, "a name has 1 to {WINDOW_NAME_BYTES_MAX} characters of a to z, 0 to 9, `-` and `_`")
            }
            WindowCause::Text(cause) => f.write_str(cause),
        }
    }
}

/// What to write for a key.
pub(super) fn example(key: &str) -> &'static str {
    match key {
        "name" => "name = \"temperatures\"",
        "topics" => "topics = \"plant/+/temp\"",
        "group-by" => "group-by = \"topic\", \"filter\", or a number of first levels such as 2",
        "length-ms" => "length-ms = 60000",
        "slide-ms" => "slide-ms = 5000",
        "value" => "value = \"/reading/value\"",
        "groups-max" => "groups-max = 256",
        "metrics" => "metrics = true",
        _ => "remove it",
    }
}

/// Why definitions are wrong together, or with the flags. Named as in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowConflict {
    /// More than [`DEFINITIONS_MAX`].
    TooMany(usize),
    /// Two of one name, or the default one's.
    SameName(String),
    /// A length that is not 1 to [`PANES_MAX`] times its slide.
    Slides {
        /// Whose: the default one's, or an entry's.
        name: String,
        /// Its length.
        length_ms: u32,
        /// Its slide.
        slide_ms: u32,
    },
}

impl WindowConflict {
    /// Error, cause, fix.
    pub(super) fn lines(&self) -> (String, String, String) {
        match self {
            WindowConflict::TooMany(count) => (
                format!("{count} [[windows]] are too many"),
                "what matches a topic is remembered in a fixed number of bits".to_owned(),
                format!("at most {DEFINITIONS_MAX}"),
            ),
            WindowConflict::SameName(name) => (
                format!("two windows have the name `{name}`"),
                format!("lines and metrics tell windows apart by their names; `{DEFAULT_DEFINITION}` is the flags' own"),
                "a name of its own for each of [[windows]]".to_owned(),
            ),
            WindowConflict::Slides { name, length_ms, slide_ms } => (
                format!("window `{name}` of {length_ms} ms can't slide by {slide_ms} ms"),
                format!("a window is put together from whole slides, 1 to {PANES_MAX} of them, each a table in memory"),
                format!("a slide that divides {length_ms} into at most {PANES_MAX} parts, or none for windows side by side"),
            ),
        }
    }
}

/// What definitions must keep together.
pub(super) fn check(config: &Config) -> Result<(), WindowConflict> {
    if config.windows.len() > DEFINITIONS_MAX {
        return Err(WindowConflict::TooMany(config.windows.len()));
    }
    let mut names = BTreeSet::from([DEFAULT_DEFINITION]);
    if let Some(entry) = config.windows.iter().find(|entry| !names.insert(&entry.name)) {
        return Err(WindowConflict::SameName(entry.name.clone()));
    }
    let spans = config.windows.iter().map(|entry| (entry.name.as_str(), entry.span_ms(config)));
    for (name, (length_ms, slide_ms)) in [(DEFAULT_DEFINITION, config.window_span_ms())].into_iter().chain(spans) {
        let is_whole = slide_ms > 0 && length_ms.is_multiple_of(slide_ms);
        if !is_whole || !(1..=PANES_MAX).contains(&u64::from(length_ms / slide_ms)) {
            return Err(WindowConflict::Slides { name: name.to_owned(), length_ms, slide_ms });
        }
    }
    Ok(())
}

/// Reads the list of entries.
pub(super) fn read(
    path: &Path,
    line: usize,
    list: &DeValue<'_>,
    line_of: impl Fn(usize) -> usize,
) -> Result<Vec<WindowEntry>, ConfigRefusal> {
    let wrong_kind = |found| ConfigRefusal::WrongKind { path: path.to_owned(), line, key: "windows".to_owned(), found };
    let DeValue::Array(entries) = list else { return Err(wrong_kind(scalar(list).err().unwrap_or("a single value"))) };
    let mut windows = Vec::with_capacity(entries.len());
    for entry in entries {
        let line = line_of(entry.span().start);
        let DeValue::Table(table) = entry.get_ref() else { return Err(wrong_kind("a list of what is no table")) };
        let read = read_entry(table).map_err(|(at, key, cause)| ConfigRefusal::Window {
            path: path.to_owned(),
            line: at.map_or(line, &line_of),
            key,
            cause,
        })?;
        windows.push(read);
    }
    Ok(windows)
}

/// Where a refused key is, if it is anywhere; which it is; and why it is refused.
type Refused = (Option<usize>, String, WindowCause);

fn read_entry(table: &DeTable<'_>) -> Result<WindowEntry, Refused> {
    let mut name = None;
    let mut topics = None;
    // Its name and topics come from what is read below.
    let mut entry = WindowEntry::new("", TopicFilter::parse("#").expect("`#` is a filter"));
    for (key, value) in table {
        let key_text = key.get_ref().as_ref();
        let refused = |cause| (Some(key.span().start), key_text.to_owned(), cause);
        if !KEYS.contains(&key_text) {
            return Err(refused(WindowCause::UnknownKey));
        }
        let text = scalar(value.get_ref()).map_err(|found| refused(WindowCause::WrongKind(found)))?;
        let number = |bounds: &RangeInclusive<u64>| -> Result<u32, Refused> {
            let rule = Rule::Between(*bounds.start(), *bounds.end());
            super::read_ruled::<u32>(&text, rule).map_err(|cause| refused(WindowCause::Value(cause)))
        };
        let refused_text = |cause: &dyn fmt::Display| refused(WindowCause::Text(cause.to_string()));
        match key_text {
            "name" => name = Some(read_name(&text).map_err(refused)?),
            "topics" => topics = Some(TopicFilter::parse(&text).map_err(|cause| refused_text(&cause))?),
            "group-by" => entry.group_by = read_group_by(&text).map_err(refused)?,
            "length-ms" => entry.length_ms = Some(number(&WINDOW_MS)?),
            "slide-ms" => entry.slide_ms = Some(number(&WINDOW_MS)?),
            "value" => entry.value = Some(JsonPointer::parse(&text).map_err(|cause| refused_text(&cause))?),
            "groups-max" => entry.groups_max = number(&WINDOW_GROUPS)?,
            _ => {
                let metrics = super::OnOff::read(&text).map_err(|cause| refused(WindowCause::Value(cause)))?;
                entry.metrics = metrics.is_on();
            }
        }
    }
    let missing = |key: &str| (None, key.to_owned(), WindowCause::Missing);
    entry.name = name.ok_or_else(|| missing("name"))?;
    entry.topics = topics.ok_or_else(|| missing("topics"))?;
    Ok(entry)
}

fn read_name(text: &str) -> Result<String, WindowCause> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let is_name = (1..=WINDOW_NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(is_plain);
    if is_name { Ok(text.to_owned()) } else { Err(WindowCause::Name) }
}

fn read_group_by(text: &str) -> Result<GroupBy, WindowCause> {
    match text {
        "topic" => Ok(GroupBy::Topic),
        "filter" => Ok(GroupBy::Filter),
        _ => {
            let levels = super::read_ruled::<u8>(text, Rule::Between(1, TOPIC_FILTER_LEVELS_MAX as u64));
            levels.map(GroupBy::Levels).map_err(|cause| match cause {
                Cause::NotANumber => WindowCause::Text("it is none of topic, filter, or a number of levels".to_owned()),
                cause => WindowCause::Value(cause),
            })
        }
    }
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
