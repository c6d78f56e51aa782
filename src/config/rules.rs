//! The tables `[[rules]]` of the file: read key by key, each refusal with its place.

use std::fmt;
use std::path::Path;

use toml::de::{DeArray, DeTable, DeValue};

use super::layers::edit_distance;
use super::refusal::ConfigRefusal;
use crate::bus::{TopicFilter, TopicFilterRefusal};
use crate::process::json_pointer::{JsonPointer, JsonPointerRefusal};
use crate::process::rules::{
    AlertRule, Comparison, Condition, JsonCondition, JsonTest, Needle, Operand, PATTERN_BYTES_MAX, PROGRAMS_AT_ONCE_MAX, Pattern,
    PatternRefusal, Program, RuleRefusal, check_rules,
};
use crate::sys::clock::Nanos;

/// The keys of a rule, each with what to write in place of its value.
const KEYS: [(&str, &str); 21] = [
    ("name", "\"overheated\""),
    ("topic", "\"plant/+/temp\""),
    ("priority", "\"critical\""),
    ("contains", "\"text\""),
    ("regex", "\"(?i)error [0-9]+\""),
    ("pointer", "\"/reading/value\""),
    ("exists", "true"),
    ("eq", "\"text\", a number, true or false"),
    ("ne", "\"text\", a number, true or false"),
    ("lt", "\"text\" or a number"),
    ("le", "\"text\" or a number"),
    ("gt", "\"text\" or a number"),
    ("ge", "\"text\" or a number"),
    ("alerts-per-s-max", "10"),
    ("cool-down-ms", "5000"),
    ("log", "false"),
    ("udp", "\"127.0.0.1:5140\""),
    ("tcp", "\"127.0.0.1:5141\""),
    ("run", "[\"/usr/local/bin/page\", \"argument\"]"),
    ("run-time-ms-max", "10000"),
    ("run-at-once-max", "4"),
];

/// Why a rule of a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleCause {
    /// It is no table.
    NotATable,
    /// A key that no rule has.
    UnknownKey {
        /// The key.
        key: String,
        /// A key that is meant, perhaps.
        nearest: &'static str,
    },
    /// A key that each rule has.
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value that the key can't have.
    Key {
        /// The key.
        key: &'static str,
        /// Why.
        why: KeyCause,
    },
    /// Rules that make no sense, by themselves or together.
    Rule(RuleRefusal),
}

/// Why a value of a rule is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyCause {
    /// Not a text.
    NotAText,
    /// Not a whole number within these bounds.
    NotBetween {
        /// The least value accepted.
        least: u64,
        /// The greatest value accepted.
        most: u64,
    },
    /// Neither `true` nor `false`.
    NotAFlag,
    /// Not a list of texts.
    NotAList,
    /// Nothing that a value can be compared with so.
    NotComparable,
    /// Empty, or longer than [`PATTERN_BYTES_MAX`].
    TextLength,
    /// Not a priority.
    NotAPriority,
    /// Not an address with a port.
    NotAnAddress,
    /// Not a topic filter.
    Topic(TopicFilterRefusal),
    /// Not a JSON pointer.
    Pointer(JsonPointerRefusal),
    /// Not a pattern.
    Pattern(PatternRefusal),
    /// It means nothing without another key.
    Without(&'static str),
    /// A pointer, and nothing is asked of the value there.
    NothingAsked,
}

impl fmt::Display for KeyCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAText => write!(f, "it is not a text"),
            Self::NotBetween { least, most } => write!(f, "it is not a whole number between {least} and {most}"),
            Self::NotAFlag => write!(f, "it is neither true nor false"),
            Self::NotAList => write!(f, "it is not a list of texts"),
            Self::NotComparable => write!(f, "no value can be compared with it so"),
            Self::TextLength => write!(f, "it must have 1 to {PATTERN_BYTES_MAX} bytes"),
            Self::NotAPriority => write!(f, "it is none of batch, low, medium, high, critical"),
            Self::NotAnAddress => write!(f, "it is not an IP address with a port other than 0"),
            Self::Topic(refusal) => write!(f, "{refusal}"),
            Self::Pointer(refusal) => write!(f, "{refusal}"),
            Self::Pattern(refusal) => write!(f, "{refusal}"),
            Self::Without(key) => write!(f, "it means nothing without `{key}`"),
            Self::NothingAsked => write!(f, "nothing is asked of the value there"),
        }
    }
}

impl RuleCause {
    /// Cause and fix.
    pub(super) fn lines(&self) -> (String, String) {
        let form = |key: &str| KEYS.iter().find(|(name, _)| *name == key).map_or("", |(_, form)| *form);
        match self {
            Self::NotATable => ("a rule is a table".to_owned(), "[[rules]], and the keys of the rule below it".to_owned()),
            Self::UnknownKey { key, nearest } => {
                (format!("a rule has no key `{}`", key.escape_debug()), format!("did you mean `{nearest}`?"))
            }
            Self::Missing { key } => (format!("it has no `{key}`"), format!("{key} = {}", form(key))),
            Self::Key { key, why } => {
                let fix = match why {
                    KeyCause::Without(other) => format!("add {other} = {}, or leave `{key}` out", form(other)),
                    KeyCause::NothingAsked => "add exists, eq, ne, lt, le, gt or ge, such as: gt = 90".to_owned(),
                    KeyCause::Pattern(PatternRefusal::TooLarge) => "shorter repetitions, or none of (?u)".to_owned(),
                    _ => format!("{key} = {}", form(key)),
                };
                (format!("`{key}`: {why}"), fix)
            }
            Self::Rule(refusal) => {
                let fix = match refusal {
                    RuleRefusal::TooMany { .. } => "fewer rules: a filter with `+` or `#` is about many topics",
                    RuleRefusal::Name => "name = \"overheated\"",
                    RuleRefusal::SameName => "another name: metrics and alerts tell rules apart by it",
                    RuleRefusal::NoAction => "leave out `log = false`, or add udp, tcp or run",
                    RuleRefusal::ProgramNotAbsolute | RuleRefusal::ProgramSize | RuleRefusal::ProgramNul => {
                        "run = [\"/usr/local/bin/page\", \"argument\"]"
                    }
                    RuleRefusal::TooManyTargets { .. } => "let several rules share an address or a program",
                };
                (refusal.to_string(), fix.to_owned())
            }
        }
    }
}

/// Where in the file, and why.
type Refused = (usize, RuleCause);

/// Reads the rules, in their order.
pub(super) fn read_rules(
    path: &Path,
    rules: &DeArray<'_>,
    line_of: impl Fn(usize) -> usize,
) -> Result<Vec<AlertRule>, ConfigRefusal> {
    let refuse = |name: String, (line, cause): Refused| ConfigRefusal::Rule {
        place: Some((path.to_owned(), line)),
        rule: name,
        cause: Box::new(cause),
    };
    let (mut read, mut lines) = (Vec::new(), Vec::new());
    for (number, value) in rules.iter().enumerate() {
        let line = line_of(value.span().start);
        let numbered = || format!("number {}", number + 1);
        let DeValue::Table(table) = value.get_ref() else { return Err(refuse(numbered(), (line, RuleCause::NotATable))) };
        let reader = Reader { table, line, line_of: &line_of };
        let rule = reader.rule().map_err(|refused| {
            let name = reader
                .find("name")
                .and_then(|(_, value)| value.as_str())
                .map_or_else(numbered, |name| format!("`{}`", name.escape_debug()));
            refuse(name, refused)
        })?;
        read.push(rule);
        lines.push(line);
    }
    check_rules(&read).map_err(|(place, refusal)| {
        refuse(format!("`{}`", read[place].name.escape_debug()), (lines[place], RuleCause::Rule(refusal)))
    })?;
    Ok(read)
}

/// One table.
struct Reader<'t, 'i> {
    table: &'t DeTable<'i>,
    line: usize,
    line_of: &'t dyn Fn(usize) -> usize,
}

impl<'t, 'i> Reader<'t, 'i> {
    fn rule(&self) -> Result<AlertRule, Refused> {
        for (key, _) in self.table {
            let name = key.get_ref().as_ref();
            if KEYS.iter().all(|(known, _)| *known != name) {
                let nearest = KEYS
                    .map(|(known, _)| known)
                    .into_iter()
                    .min_by_key(|known| edit_distance(known, name))
                    .expect("there are keys");
                return Err(((self.line_of)(key.span().start), RuleCause::UnknownKey { key: name.to_owned(), nearest }));
            }
        }
        let required = |key| self.text(key)?.ok_or((self.line, RuleCause::Missing { key }));
        let name = required("name")?;
        let topic = required("topic")?;
        let topic = TopicFilter::parse(topic).map_err(|refusal| self.refused("topic", KeyCause::Topic(refusal)))?;
        let mut rule = AlertRule::new(name, topic);
        if let Some(text) = self.text("priority")? {
            rule.priority = text.parse().map_err(|_| self.refused("priority", KeyCause::NotAPriority))?;
        }
        rule.condition = self.condition()?;
        if let Some(rate) = self.number("alerts-per-s-max", 1, 1_000_000)? {
            rule.alerts_per_s_max = rate as u32;
        }
        rule.cool_down = Nanos::from_millis(self.number("cool-down-ms", 0, 86_400_000)?.unwrap_or(0));
        rule.log = self.flag("log")?.unwrap_or(true);
        rule.udp = self.address("udp")?;
        rule.tcp = self.address("tcp")?;
        rule.run = self.program()?;
        Ok(rule)
    }

    fn condition(&self) -> Result<Condition, Refused> {
        let mut condition = Condition::default();
        if let Some(text) = self.text("contains")? {
            condition.contains = Some(Needle::new(text).ok_or_else(|| self.refused("contains", KeyCause::TextLength))?);
        }
        if let Some(text) = self.text("regex")? {
            condition.regex = Some(Pattern::new(text).map_err(|refusal| self.refused("regex", KeyCause::Pattern(refusal)))?);
        }
        let mut tests: Vec<(&'static str, JsonTest)> = Vec::new();
        tests.extend(self.flag("exists")?.map(|wanted| ("exists", JsonTest::Exists(wanted))));
        for comparison in Comparison::ALL {
            let operand = self.operand(comparison)?;
            tests.extend(operand.map(|operand| (comparison.name(), JsonTest::Compare(comparison, operand))));
        }
        match (self.text("pointer")?, tests.first()) {
            (Some(text), Some(_)) => {
                let pointer = JsonPointer::parse(text).map_err(|refusal| self.refused("pointer", KeyCause::Pointer(refusal)))?;
                condition.json = Some(JsonCondition { pointer, tests: tests.into_iter().map(|(_, test)| test).collect() });
            }
            (Some(_), None) => return Err(self.refused("pointer", KeyCause::NothingAsked)),
            (None, Some((key, _))) => return Err(self.refused(key, KeyCause::Without("pointer"))),
            (None, None) => {}
        }
        Ok(condition)
    }

    fn operand(&self, comparison: Comparison) -> Result<Option<Operand>, Refused> {
        let key = comparison.name();
        let Some((_, value)) = self.find(key) else { return Ok(None) };
        let number = match value {
            DeValue::String(text) if text.len() > PATTERN_BYTES_MAX => return Err(self.refused(key, KeyCause::TextLength)),
            DeValue::String(text) => return Ok(Some(Operand::Text(text.to_string()))),
            DeValue::Boolean(flag) if !comparison.is_order() => return Ok(Some(Operand::Flag(*flag))),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok().map(|number| number as f64),
            DeValue::Float(number) => number.as_str().parse().ok().filter(|number: &f64| number.is_finite()),
            _ => None,
        };
        number.map(|number| Some(Operand::Number(number))).ok_or_else(|| self.refused(key, KeyCause::NotComparable))
    }

    fn program(&self) -> Result<Option<Program>, Refused> {
        let run_time = self.number("run-time-ms-max", 10, 3_600_000)?;
        let at_once = self.number("run-at-once-max", 1, u64::from(PROGRAMS_AT_ONCE_MAX))?;
        let Some((_, list)) = self.find("run") else {
            return match (run_time, at_once) {
                (None, None) => Ok(None),
                (Some(_), _) => Err(self.refused("run-time-ms-max", KeyCause::Without("run"))),
                (None, Some(_)) => Err(self.refused("run-at-once-max", KeyCause::Without("run"))),
            };
        };
        let arguments =
            list.as_array().and_then(|list| list.iter().map(|text| text.get_ref().as_str().map(str::to_owned)).collect());
        let mut program = Program::new(arguments.ok_or_else(|| self.refused("run", KeyCause::NotAList))?);
        if let Some(millis) = run_time {
            program.run_time_max = Nanos::from_millis(millis);
        }
        if let Some(at_once) = at_once {
            program.at_once_max = at_once as u32;
        }
        Ok(Some(program))
    }

    /// The value of a key, with its line.
    fn find(&self, key: &str) -> Option<(usize, &'t DeValue<'i>)> {
        let (key, value) = self.table.iter().find(|(known, _)| known.get_ref().as_ref() == key)?;
        Some(((self.line_of)(key.span().start), value.get_ref()))
    }

    fn refused(&self, key: &'static str, why: KeyCause) -> Refused {
        (self.find(key).map_or(self.line, |(line, _)| line), RuleCause::Key { key, why })
    }

    /// The value of a key, if it is there; refused if it is of another kind.
    fn get<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&'t DeValue<'i>) -> Option<T>,
        why: KeyCause,
    ) -> Result<Option<T>, Refused> {
        let Some((_, value)) = self.find(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.refused(key, why))
    }

    fn text(&self, key: &'static str) -> Result<Option<&'t str>, Refused> {
        self.get(key, |value| value.as_str(), KeyCause::NotAText)
    }

    fn flag(&self, key: &'static str) -> Result<Option<bool>, Refused> {
        self.get(key, |value| value.as_bool(), KeyCause::NotAFlag)
    }

    fn number(&self, key: &'static str, least: u64, most: u64) -> Result<Option<u64>, Refused> {
        let read = |value: &DeValue<'_>| {
            let number = value.as_integer().and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
            number.filter(|number| (least..=most).contains(number))
        };
        self.get(key, read, KeyCause::NotBetween { least, most })
    }

    fn address(&self, key: &'static str) -> Result<Option<std::net::SocketAddr>, Refused> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let address = text.parse().ok().filter(|address: &std::net::SocketAddr| address.port() != 0);
        address.map(Some).ok_or_else(|| self.refused(key, KeyCause::NotAnAddress))
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
