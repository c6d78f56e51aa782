//! What a body must be like, compiled once. Looking at it takes linear time and allocates nothing.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use memchr::memmem;
use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::{Input, MatchKind};

use crate::process::json_pointer::{JsonPointer, JsonValue};

/// The longest text to look for, and the longest pattern, bytes.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// The largest automaton of a pattern, bytes.
const AUTOMATON_BYTES_MAX: usize = 1 << 20;

/// What building an automaton may take, bytes; beyond the automaton itself it is given back.
const BUILD_BYTES_MAX: usize = 8 << 20;

/// All that is given must hold; nothing given: any body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Bytes that it contains.
    pub contains: Option<Needle>,
    /// A pattern that matches somewhere in it.
    pub regex: Option<Pattern>,
    /// What it says at a place, as JSON.
    pub json: Option<JsonCondition>,
}

impl Condition {
    /// Whether any body will do.
    pub fn is_empty(&self) -> bool {
        self.contains.is_none() && self.regex.is_none() && self.json.is_none()
    }

    /// Whether it holds.
    pub fn holds(&self, body: &[u8]) -> bool {
        self.contains.as_ref().is_none_or(|needle| needle.is_in(body))
            && self.regex.as_ref().is_none_or(|pattern| pattern.matches(body))
            && self.json.as_ref().is_none_or(|json| json.holds(body))
    }
}

/// A text to look for.
#[derive(Clone, Debug)]
pub struct Needle(memmem::Finder<'static>);

impl Needle {
    /// Compiles it; `None` if it is empty or longer than [`PATTERN_BYTES_MAX`].
    pub fn new(text: &str) -> Option<Self> {
        (1..=PATTERN_BYTES_MAX).contains(&text.len()).then(|| Self(memmem::Finder::new(text).into_owned()))
    }

    fn is_in(&self, body: &[u8]) -> bool {
        self.0.find(body).is_some()
    }
}

impl PartialEq for Needle {
    fn eq(&self, other: &Self) -> bool {
        self.0.needle() == other.0.needle()
    }
}

impl Eq for Needle {}

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternRefusal {
    /// Longer than [`PATTERN_BYTES_MAX`].
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Its automaton would be larger than a megabyte.
    TooLarge,
    /// It is no pattern.
    Syntax {
        /// What the parser says.
        why: String,
    },
}

impl fmt::Display for PatternRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(f, "a pattern has at most {PATTERN_BYTES_MAX} bytes, this has {bytes}"),
            Self::TooLarge => write!(f, "its automaton would be larger than {} KiB", AUTOMATON_BYTES_MAX >> 10),
            Self::Syntax { why } => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for PatternRefusal {}

/// A regular expression over bytes: `\w`, `\d`, `\b`, `.` and case are those of ASCII, unless it says `(?u)`. A table-driven automaton,
/// complete before the first event.
#[derive(Clone)]
pub struct Pattern {
    text: Box<str>,
    automaton: Arc<dense::DFA<Vec<u32>>>,
}

impl Pattern {
    /// Compiles it.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn new(text: &str) -> Result<Self, PatternRefusal> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternRefusal::TooLong { bytes: text.len() });
        }
        let build = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Unanchored)
            .dfa_size_limit(Some(AUTOMATON_BYTES_MAX))
            .determinize_size_limit(Some(BUILD_BYTES_MAX));
        let nfa = thompson::Config::new().utf8(false).nfa_size_limit(Some(BUILD_BYTES_MAX));
        let syntax = regex_automata::util::syntax::Config::new().unicode(false).utf8(false);
        let automaton = dense::Builder::new().configure(build).thompson(nfa).syntax(syntax).build(text).map_err(refusal)?;
        Ok(Self { text: text.into(), automaton: Arc::new(automaton) })
    }

    fn matches(&self, body: &[u8]) -> bool {
        // Ended by its first match. An error would be a byte that the automaton gives up at, of which there is none: what needs one (`\b` with
        // `(?u)`) is refused when it is built.
        matches!(self.automaton.try_search_fwd(&Input::new(body).earliest(true)), Ok(Some(_)))
    }
}

/// The innermost cause, in one line: the parser draws the place below the pattern.
fn refusal(error: dense::BuildError) -> PatternRefusal {
    if error.is_size_limit_exceeded() {
        return PatternRefusal::TooLarge;
    }
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    let why = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no pattern");
    PatternRefusal::Syntax { why: why.trim().trim_start_matches("error: ").to_owned() }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// What must be at a place of a body that is JSON. All tests must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonCondition {
    /// The place.
    pub pointer: JsonPointer,
    /// What is asked of the value there.
    pub tests: Vec<JsonTest>,
}

impl JsonCondition {
    fn holds(&self, body: &[u8]) -> bool {
        let found = self.pointer.find(body);
        self.tests.iter().all(|test| test.holds(found.as_ref()))
    }
}

/// A question to the value that a pointer points at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonTest {
    /// Whether there is one (`null` is one).
    Exists(bool),
    /// How it compares. Without a value, or with one of another kind, no comparison holds, not even `ne`.
    Compare(Comparison, Operand),
}

impl JsonTest {
    fn holds(&self, found: Option<&JsonValue<'_>>) -> bool {
        match self {
            Self::Exists(wanted) => found.is_some() == *wanted,
            Self::Compare(comparison, operand) => {
                found.and_then(|value| operand.compared_with(value)).is_some_and(|order| comparison.holds(order))
            }
        }
    }
}

/// How a value compares with an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

impl Comparison {
    /// All.
    pub const ALL: [Comparison; 6] =
        [Comparison::Eq, Comparison::Ne, Comparison::Lt, Comparison::Le, Comparison::Gt, Comparison::Ge];

    /// The word in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Comparison::Eq => "eq",
            Comparison::Ne => "ne",
            Comparison::Lt => "lt",
            Comparison::Le => "le",
            Comparison::Gt => "gt",
            Comparison::Ge => "ge",
        }
    }

    /// Whether it asks for more than sameness.
    pub const fn is_order(self) -> bool {
        !matches!(self, Comparison::Eq | Comparison::Ne)
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Eq => order.is_eq(),
            Comparison::Ne => order.is_ne(),
            Comparison::Lt => order.is_lt(),
            Comparison::Le => order.is_le(),
            Comparison::Gt => order.is_gt(),
            Comparison::Ge => order.is_ge(),
        }
    }
}

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A number, compared as a 64-bit float; never NaN.
    Number(f64),
    /// A text, compared by the order of characters, escapes decoded.
    Text(String),
    /// `true` or `false`.
    Flag(bool),
}

impl Eq for Operand {}

impl Operand {
    /// The order of the value against the operand; `None` where it is of another kind.
    fn compared_with(&self, value: &JsonValue<'_>) -> Option<Ordering> {
        match self {
            Self::Number(number) => value.as_f64()?.partial_cmp(number),
            Self::Text(text) => value.cmp_text(text),
            Self::Flag(flag) => match value.raw() {
                b"true" => Some(true.cmp(flag)),
                b"false" => Some(false.cmp(flag)),
                _ => None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contains_finds_bytes_anywhere() {
        let needle = Needle::new("ölkreis").unwrap();
        assert!(needle.is_in("der ölkreis leckt".as_bytes()) && !needle.is_in(b"der \xf6lkreis") && !needle.is_in(b""));
        assert!(Needle::new("").is_none() && Needle::new(&"x".repeat(1025)).is_none());
    }

    #[test]
    fn patterns_match_bytes_and_are_of_ascii_unless_they_say_otherwise() {
        for (pattern, body, matches) in [
            ("err(or)? [0-9]{3}", b"an error 404 here".as_slice(), true),
            ("err(or)? [0-9]{3}", b"an error 4", false),
            ("^a.*z$", b"a\xff\xfez", true),
            ("(?i)FIRE", b"on fire", true),
            (r"\bfire\b", b"backfires", false),
            (r"\bfire\b", b"\xff fire!", true),
            (r"(?m)^b$", b"a\nb\nc", true),
            (r"(?i)É", "é".as_bytes(), false),
            (r"(?iu)É", "é".as_bytes(), true),
            (r"\x00\xff", b"a\x00\xffb", true),
            ("", b"", true),
            ("a*?b", b"xxb", true),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(body), matches, "{pattern} {body:?}");
        }
    }

    #[test]
    fn patterns_that_are_none_or_too_large_are_refused() {
        assert_eq!(Pattern::new(&"x".repeat(1025)).unwrap_err(), PatternRefusal::TooLong { bytes: 1025 });
        assert_eq!(Pattern::new(r"(?u)\w{60}").unwrap_err(), PatternRefusal::TooLarge);
        assert_eq!(Pattern::new("[ab]*a[ab]{20}").unwrap_err(), PatternRefusal::TooLarge);
        assert_eq!(Pattern::new("a(b").unwrap_err(), PatternRefusal::Syntax { why: "unclosed group".to_owned() });
        let Err(PatternRefusal::Syntax { why }) = Pattern::new(r"(?u)\bä") else { panic!("no automaton has that") };
        assert!(!why.contains('\n'), "{why}");
    }

    #[test]
    fn each_comparison_holds_for_its_orders_and_its_kind_only() {
        use Comparison::*;
        let holds = |comparison, operand: &Operand, body: &str| {
            let tests = vec![JsonTest::Compare(comparison, operand.clone())];
            JsonCondition { pointer: JsonPointer::parse("/v").unwrap(), tests }.holds(format!("{{\"v\":{body}}}").as_bytes())
        };
        let number = Operand::Number(7.5);
        let text = Operand::Text("m".to_owned());
        for (comparison, below, same, above) in [
            (Eq, false, true, false),
            (Ne, true, false, true),
            (Lt, true, false, false),
            (Le, true, true, false),
            (Gt, false, false, true),
            (Ge, false, true, true),
        ] {
            let expected = [below, same, above];
            assert_eq!(["-8", "75e-1", "7.6"].map(|body| holds(comparison, &number, body)), expected, "{comparison:?}");
            assert_eq!([r#""a""#, r#""\u006d""#, r#""mm""#].map(|body| holds(comparison, &text, body)), expected);
            for other in ["null", "true", "[7.5]", "{}", "1e999"] {
                assert!(!holds(comparison, &number, other) && !holds(comparison, &text, other), "{comparison:?} {other}");
            }
            assert!(!holds(comparison, &number, r#""7.5""#) && !holds(comparison, &text, "7"));
        }
        let flag = Operand::Flag(true);
        assert_eq!(["true", "false", "1"].map(|body| holds(Eq, &flag, body)), [true, false, false]);
        assert_eq!(["true", "false", "1"].map(|body| holds(Ne, &flag, body)), [false, true, false]);
    }

    #[test]
    fn existence_and_all_parts_together() {
        let json = |tests| Some(JsonCondition { pointer: JsonPointer::parse("/a/b").unwrap(), tests });
        let exists = |wanted| Condition { json: json(vec![JsonTest::Exists(wanted)]), ..Condition::default() };
        for (body, is_there) in [(r#"{"a":{"b":null}}"#, true), (r#"{"a":{}}"#, false), ("no JSON", false)] {
            assert_eq!((exists(true).holds(body.as_bytes()), exists(false).holds(body.as_bytes())), (is_there, !is_there));
        }
        let range = vec![
            JsonTest::Compare(Comparison::Ge, Operand::Number(1.0)),
            JsonTest::Compare(Comparison::Lt, Operand::Number(2.0)),
        ];
        let all = Condition { contains: Needle::new("x"), regex: Pattern::new("[0-9]").ok(), json: json(range) };
        for (body, holds) in [
            (r#"{"a":{"b":1.5},"x":0}"#, true),
            (r#"{"a":{"b":2},"x":0}"#, false),
            (r#"{"a":{"b":1.5}}"#, false),
            (r#"{"a":{"b":"x"}}"#, false),
        ] {
            assert_eq!(all.holds(body.as_bytes()), holds, "{body}");
        }
        assert!(Condition::default().holds(b"") && Condition::default().is_empty() && !all.is_empty());
    }
}
