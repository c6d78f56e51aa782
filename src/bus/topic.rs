//! Topic filters and a table of them, compiled once: which entry is the most specific for a topic, and which all match.
//!
//! ```text
//! sensors/+/temp ─┐          root ─ "sensors" ─┬─ "+" ─ "temp" ●
//! sensors/#      ─┼─ compile ─►                └─ "#" ●
//! alerts         ─┘               ─ "alerts" ●
//! ```
//!
//! The syntax is that of MQTT 5.0, section 4.7: levels are separated by `/`, `+` stands for exactly one level, `#` for the rest, the
//! level before it included (`a/#` matches `a`). Unlike there, a first level that begins with `$` is nothing special.
//!
//! *Most specific* is decided level by level from the left: a name beats `+`, `+` beats `#`; an end beats `#`.
//!
//! A lookup visits each node of the trie once at most, allocates nothing, and is bounded by the number of filters, whatever the topic.

#![forbid(unsafe_code)]

use std::fmt;

/// The longest filter.
pub const TOPIC_FILTER_BYTES_MAX: usize = 1024;
/// The most levels of a filter. Topics may have more: only `#` reaches beyond.
pub const TOPIC_FILTER_LEVELS_MAX: usize = 32;

/// A valid filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(Box<str>);

/// Why a text is no filter. Positions are bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicFilterRefusal {
    /// It is empty.
    Empty,
    /// It is longer than [`TOPIC_FILTER_BYTES_MAX`].
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It has more than [`TOPIC_FILTER_LEVELS_MAX`] levels.
    TooManyLevels {
        /// How many.
        levels: usize,
    },
    /// A `+` or `#` shares its level with other characters.
    WildcardInName {
        /// Where.
        at_byte: usize,
    },
    /// A `#` is not the last level.
    HashNotLast {
        /// Where.
        at_byte: usize,
    },
    /// A control character, which no topic has.
    ControlCharacter {
        /// Where.
        at_byte: usize,
    },
}

impl fmt::Display for TopicFilterRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a topic filter is not empty"),
            Self::TooLong { bytes } => write!(f, "a topic filter has at most {TOPIC_FILTER_BYTES_MAX} bytes, this has {bytes}"),
            Self::TooManyLevels { levels } => {
                write!(f, "a topic filter has at most {TOPIC_FILTER_LEVELS_MAX} levels, this has {levels}")
            }
            Self::WildcardInName { at_byte } => write!(f, "the wildcard at byte {at_byte} must be a level of its own"),
            Self::HashNotLast { at_byte } => write!(f, "the `#` at byte {at_byte} must be the last level"),
            Self::ControlCharacter { at_byte } => write!(f, "the control character at byte {at_byte} is in no topic"),
        }
    }
}

impl std::error::Error for TopicFilterRefusal {}

impl TopicFilter {
    /// Checks a filter.
    ///
    /// # Errors
    /// The first rule it breaks.
    pub fn parse(text: &str) -> Result<Self, TopicFilterRefusal> {
        if text.is_empty() {
            return Err(TopicFilterRefusal::Empty);
        }
        if text.len() > TOPIC_FILTER_BYTES_MAX {
            return Err(TopicFilterRefusal::TooLong { bytes: text.len() });
        }
        let levels = text.split('/').count();
        if levels > TOPIC_FILTER_LEVELS_MAX {
            return Err(TopicFilterRefusal::TooManyLevels { levels });
        }
        if let Some((at_byte, _)) = text.char_indices().find(|(_, c)| c.is_control()) {
            return Err(TopicFilterRefusal::ControlCharacter { at_byte });
        }
        let mut start = 0;
        for level in text.split('/') {
            let end = start + level.len();
            if let Some(offset) = level.find(['+', '#']) {
                if level.len() > 1 {
                    return Err(TopicFilterRefusal::WildcardInName { at_byte: start + offset });
                }
                if level == "#" && end < text.len() {
                    return Err(TopicFilterRefusal::HashNotLast { at_byte: start });
                }
            }
            start = end + 1;
        }
        Ok(Self(text.into()))
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a plain topic, without wildcards.
    pub fn is_exact(&self) -> bool {
        !self.0.contains(['+', '#'])
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for TopicFilter {
    type Err = TopicFilterRefusal;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Two entries have the same filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateFilter(pub TopicFilter);

impl fmt::Display for DuplicateFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the topic filter `{}` is there twice", self.0)
    }
}

impl std::error::Error for DuplicateFilter {}

/// One level of the trie; numbers are indices into [`TopicTable::nodes`] and [`TopicTable::values`].
#[derive(Clone, Debug, Default)]
struct Node {
    /// Named levels below, sorted by name.
    names: Vec<(Box<[u8]>, u32)>,
    /// The `+` below.
    plus: Option<u32>,
    /// The value of a filter that ends here.
    end: Option<u32>,
    /// The value of a filter that goes on with `#`.
    rest: Option<u32>,
}

impl Node {
    fn named(&self, level: &[u8]) -> Option<u32> {
        let found = self.names.binary_search_by(|(name, _)| name.as_ref().cmp(level));
        found.ok().map(|index| self.names[index].1)
    }
}

/// A table of filters and values, compiled once, immutable from then on.
#[derive(Clone, Debug)]
pub struct TopicTable<T> {
    nodes: Vec<Node>,
    values: Vec<T>,
}

impl<T> Default for TopicTable<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], values: Vec::new() }
    }
}

/// The first level of a topic and what follows it; `None` after the last.
fn split_level(topic: &[u8]) -> (&[u8], Option<&[u8]>) {
    match topic.iter().position(|byte| *byte == b'/') {
        Some(at) => (&topic[..at], Some(&topic[at + 1..])),
        None => (topic, None),
    }
}

impl<T> TopicTable<T> {
    /// Compiles a table.
    ///
    /// # Errors
    /// The first filter that is there twice.
    pub fn compile(entries: impl IntoIterator<Item = (TopicFilter, T)>) -> Result<Self, DuplicateFilter> {
        let mut table = Self::default();
        for (filter, value) in entries {
            let index = u32::try_from(table.values.len()).expect("fewer than 2^32 filters");
            let place = table.place(&filter);
            if place.is_some() {
                return Err(DuplicateFilter(filter));
            }
            *place = Some(index);
            table.values.push(value);
        }
        Ok(table)
    }

    /// Where the value of a filter is or goes.
    fn place(&mut self, filter: &TopicFilter) -> &mut Option<u32> {
        let mut at = 0usize;
        for level in filter.as_str().split('/') {
            if level == "#" {
                return &mut self.nodes[at].rest;
            }
            at = self.child(at, level);
        }
        &mut self.nodes[at].end
    }

    /// The node below `at` for a level of a filter, made if it is missing.
    fn child(&mut self, at: usize, level: &str) -> usize {
        let fresh = u32::try_from(self.nodes.len()).expect("fewer than 2^32 nodes");
        let node = &mut self.nodes[at];
        let below = if level == "+" {
            *node.plus.get_or_insert(fresh)
        } else {
            match node.names.binary_search_by(|(name, _)| name.as_ref().cmp(level.as_bytes())) {
                Ok(index) => node.names[index].1,
                Err(index) => {
                    node.names.insert(index, (level.as_bytes().into(), fresh));
                    fresh
                }
            }
        };
        if below == fresh {
            self.nodes.push(Node::default());
        }
        below as usize
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value of the most specific filter that matches the topic.
    pub fn find(&self, topic: &[u8]) -> Option<&T> {
        self.find_below(0, Some(topic)).map(|index| &self.values[index as usize])
    }

    /// The best value at or below a node for what is left of the topic; `None` left means that the topic ended here.
    fn find_below(&self, at: u32, left: Option<&[u8]>) -> Option<u32> {
        let node = &self.nodes[at as usize];
        let Some(left) = left else { return node.end.or(node.rest) };
        let (level, left) = split_level(left);
        node.named(level)
            .and_then(|below| self.find_below(below, left))
            .or_else(|| node.plus.and_then(|below| self.find_below(below, left)))
            .or(node.rest)
    }

    /// Hands the value of every filter that matches the topic to `each`, the most specific first.
    pub fn for_each_match<'a>(&'a self, topic: &[u8], mut each: impl FnMut(&'a T)) {
        self.each_below(0, Some(topic), &mut each);
    }

    fn each_below<'a>(&'a self, at: u32, left: Option<&[u8]>, each: &mut impl FnMut(&'a T)) {
        let node = &self.nodes[at as usize];
        match left {
            None => node.end.into_iter().for_each(|index| each(&self.values[index as usize])),
            Some(left) => {
                let (level, left) = split_level(left);
                node.named(level).into_iter().chain(node.plus).for_each(|below| self.each_below(below, left, each));
            }
        }
        node.rest.into_iter().for_each(|index| each(&self.values[index as usize]));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    fn table(filters: &[&str]) -> TopicTable<String> {
        TopicTable::compile(filters.iter().map(|text| (filter(text), (*text).to_owned()))).unwrap()
    }

    #[test]
    fn every_rule_refuses_what_breaks_it() {
        use TopicFilterRefusal::*;
        let refused = |text: &str| TopicFilter::parse(text).unwrap_err();
        assert_eq!(refused(""), Empty);
        assert_eq!(refused(&"x".repeat(1025)), TooLong { bytes: 1025 });
        assert_eq!(refused(&"/".repeat(32)), TooManyLevels { levels: 33 });
        assert_eq!(refused("a/b+"), WildcardInName { at_byte: 3 });
        assert_eq!(refused("a/##"), WildcardInName { at_byte: 2 });
        assert_eq!(refused("a/#/c"), HashNotLast { at_byte: 2 });
        assert_eq!(refused("#/"), HashNotLast { at_byte: 0 });
        assert_eq!(refused("ä/\n"), ControlCharacter { at_byte: 3 });
        for text in ["#", "+", "a", "/", "+/+/#", "a//b", "ä/+"] {
            assert_eq!(TopicFilter::parse(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_name_beats_plus_and_plus_beats_hash() {
        let table = table(&["a/b/c", "a/+/c", "a/#", "+/b/c", "#"]);
        let found = |topic: &str| table.find(topic.as_bytes()).unwrap().as_str();
        assert_eq!(found("a/b/c"), "a/b/c");
        assert_eq!(found("a/x/c"), "a/+/c");
        assert_eq!(found("a/x/d"), "a/#");
        assert_eq!(found("a"), "a/#");
        assert_eq!(found("z/b/c"), "+/b/c");
        assert_eq!(found("z"), "#");
    }

    #[test]
    fn all_matching_filters_are_found_most_specific_first() {
        let table = table(&["#", "a/#", "a/+", "a/b", "a/b/#", "b"]);
        let mut all = Vec::new();
        table.for_each_match(b"a/b", |text| all.push(text.as_str()));
        assert_eq!(all, ["a/b", "a/b/#", "a/+", "a/#", "#"]);
    }

    #[test]
    fn a_filter_given_twice_is_refused() {
        let twice = TopicTable::compile([(filter("a/+"), 1), (filter("a/#"), 2), (filter("a/+"), 3)]);
        assert_eq!(twice.unwrap_err(), DuplicateFilter(filter("a/+")));
    }

    #[test]
    fn an_empty_table_matches_nothing() {
        assert_eq!(TopicTable::<u8>::default().find(b"a/b"), None);
    }

    /// MQTT 5.0, 4.7, word by word.
    fn naive_match(filter: &[&str], topic: &[&str]) -> bool {
        match (filter.split_first(), topic.split_first()) {
            (Some((&"#", _)), _) => true,
            (Some((level, filter)), Some((name, topic))) => (*level == "+" || level == name) && naive_match(filter, topic),
            (None, None) => true,
            _ => false,
        }
    }

    /// Larger is more specific: by level, a name 3, `+` 2, the end 1, `#` 0.
    fn naive_rank(filter: &str) -> Vec<u8> {
        let rank = |level: &str| match level {
            "+" => 2,
            "#" => 0,
            _ => 3,
        };
        let mut ranks: Vec<u8> = filter.split('/').map(rank).collect();
        ranks.push(1);
        ranks
    }

    fn any_filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just(""), 3 => Just("+")];
        (prop::collection::vec(level, 0..4), any::<bool>()).prop_filter_map("not empty", |(mut levels, hash)| {
            if hash {
                levels.push("#");
            }
            let text = levels.join("/");
            (!text.is_empty()).then_some(text)
        })
    }

    proptest! {
        #[test]
        fn table_agrees_with_a_naive_matcher(
            filters in prop::collection::btree_set(any_filter(), 0..12),
            topic in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c"), Just("")], 1..6),
        ) {
            let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
            let table = table(&filters);
            let is_match = |text: &&&str| naive_match(&text.split('/').collect::<Vec<_>>(), &topic);
            let mut expected: Vec<&str> = filters.iter().filter(is_match).copied().collect();
            expected.sort_by_key(|text| std::cmp::Reverse(naive_rank(text)));
            let topic = topic.join("/");
            let mut found = Vec::new();
            table.for_each_match(topic.as_bytes(), |text| found.push(text.as_str()));
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(table.find(topic.as_bytes()).map(String::as_str), expected.first().copied());
        }
    }
}
