//! Topic classes: a few names for many topics, so that what is lost or repeated can be counted by what it was about.
//!
//! ```text
//! [classes]                                   compile        of(topic), when something is counted
//! orders  = ["orders/#", "invoices/#"]  ─────────────► table ─────────────► ClassId ──► ClassCounters
//! metrics = "sensors/+/metrics"                                                …_by_class_total{class="orders"}
//! ```
//!
//! Topics are the senders' to invent and would make any number of metric series; classes are the operator's, and few.
//!
//! Invariants:
//! - **CL1** Each topic has exactly one class: that of the most specific filter that matches it, or `other`. So the counts of a metric by class
//!   add up to the metric.
//! - **CL2** There are at most [`CLASSES_MAX`] classes beside `other`: memory and series are bounded by the configuration.
//! - **CL3** A class is looked up when something is counted by class (an event shed, a duplicate), never for events that go their way.
//! - **CL4** A [`ClassCounters`] has one writer thread, like any counter.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use super::topic::{DuplicateFilter, TopicFilter, TopicTable};
use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};

/// The most classes, `other` not counted.
pub const CLASSES_MAX: usize = 64;
/// The longest name of a class, bytes.
pub const CLASS_NAME_BYTES_MAX: usize = 64;
/// The class of topics that no filter matches.
pub const OTHER_CLASS: &str = "other";

/// A class as configured: a name, and the topics it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicClass {
    /// Its name: letters, digits, `_`, `-` and `.`, at most [`CLASS_NAME_BYTES_MAX`].
    pub name: String,
    /// Topics that any of these match.
    pub filters: Vec<TopicFilter>,
}

/// Why classes are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClassRefusal {
    /// More than [`CLASSES_MAX`].
    TooMany {
        /// How many.
        classes: usize,
    },
    /// A name with other characters than letters, digits, `_`, `-` and `.`, an empty or a long one.
    BadName(String),
    /// A class named `other`, or a name that is there twice.
    NameTaken(String),
    /// A class without a filter.
    NoFilter(String),
    /// Two classes with the same filter, or one that has it twice.
    Duplicate(DuplicateFilter),
}

impl fmt::Display for ClassRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { classes } => write!(f, "there are at most {CLASSES_MAX} topic classes, these are {classes}"),
            Self::BadName(name) => write!(
                f,
                "the class name `{}` is not 1 to {CLASS_NAME_BYTES_MAX} letters, digits, `_`, `-` or `.`",
                name.escape_debug()
            ),
            Self::NameTaken(name) if name == OTHER_CLASS => {
                write!(f, "`{OTHER_CLASS}` is the class of all topics that no other has")
            }
            Self::NameTaken(name) => write!(f, "the class `{name}` is there twice"),
            Self::NoFilter(name) => write!(f, "the class `{name}` has no topic filter"),
            Self::Duplicate(duplicate) => write!(f, "{duplicate}"),
        }
    }
}

impl std::error::Error for ClassRefusal {}

/// The class of a topic, by its place in [`TopicClasses`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClassId(u8);

/// All classes, compiled once, immutable from then on.
#[derive(Clone, Debug)]
pub struct TopicClasses {
    table: TopicTable<ClassId>,
    /// By class; the last is `other`.
    names: Box<[Box<str>]>,
}

const _: () = assert!(CLASSES_MAX < u8::MAX as usize, "a ClassId is a byte");

impl Default for TopicClasses {
    /// No class but `other`.
    fn default() -> Self {
        Self { table: TopicTable::default(), names: [OTHER_CLASS.into()].into() }
    }
}

impl TopicClasses {
    /// Compiles classes.
    ///
    /// # Errors
    /// The first rule they break.
    pub fn compile(classes: &[TopicClass]) -> Result<Self, ClassRefusal> {
        if classes.len() > CLASSES_MAX {
            return Err(ClassRefusal::TooMany { classes: classes.len() });
        }
        let mut names: Vec<Box<str>> = Vec::with_capacity(classes.len() + 1);
        for TopicClass { name, filters } in classes {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if name.is_empty() || name.len() > CLASS_NAME_BYTES_MAX || !name.chars().all(is_plain) {
                return Err(ClassRefusal::BadName(name.clone()));
            }
            if name == OTHER_CLASS || names.iter().any(|known| **known == **name) {
                return Err(ClassRefusal::NameTaken(name.clone()));
            }
            if filters.is_empty() {
                return Err(ClassRefusal::NoFilter(name.clone()));
            }
            names.push(name.as_str().into());
        }
        names.push(OTHER_CLASS.into());
        let ids = (0..).map(ClassId);
        let entries =
            classes.iter().zip(ids).flat_map(|(class, id)| class.filters.iter().map(move |filter| (filter.clone(), id)));
        let table = TopicTable::compile(entries).map_err(ClassRefusal::Duplicate)?;
        Ok(Self { table, names: names.into() })
    }

    /// The class of a topic (CL1, CL3).
    pub fn of(&self, topic: &[u8]) -> ClassId {
        let other = ClassId(self.names.len() as u8 - 1);
        if self.table.is_empty() { other } else { self.table.find(topic).copied().unwrap_or(other) }
    }

    /// Its name.
    pub fn name(&self, class: ClassId) -> &str {
        &self.names[usize::from(class.0)]
    }

    /// The names of all, `other` last.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }
}

/// One metric's counts by class; written by one thread (CL4). Exported with the label `class`, classes without a count left out.
#[derive(Debug)]
pub struct ClassCounters {
    name: &'static str,
    help: &'static str,
    classes: Arc<TopicClasses>,
    counts: Box<[Counter]>,
}

impl ClassCounters {
    /// `name` ends in `_by_class`, as a metric without the prefix `eventstream_` and without `_total`.
    pub fn new(name: &'static str, help: &'static str, classes: Arc<TopicClasses>) -> Self {
        let counts = classes.names().map(|_| Counter::default()).collect();
        Self { name, help, classes, counts }
    }

    /// Counts one event of a topic.
    #[inline]
    pub fn count(&self, topic: &[u8]) {
        self.counts[usize::from(self.classes.of(topic).0)].add(1);
    }

    /// What was counted for a class.
    pub fn get(&self, class: ClassId) -> u64 {
        self.counts[usize::from(class.0)].get()
    }

    /// The classes.
    pub fn classes(&self) -> &Arc<TopicClasses> {
        &self.classes
    }
}

impl Measured for ClassCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        for (name, count) in self.classes.names().zip(&self.counts) {
            let (labels, value) = ([("class", name)], count.get());
            if value > 0 || name == OTHER_CLASS {
                sink(Sample { name: self.name, help: self.help, kind: Kind::Counter, labels: &labels, value });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, filters: &[&str]) -> TopicClass {
        let filters = filters.iter().map(|text| TopicFilter::parse(text).unwrap()).collect();
        TopicClass { name: name.to_owned(), filters }
    }

    #[test]
    fn the_most_specific_filter_decides_and_the_rest_is_other() {
        let classes = [class("orders", &["orders/#", "invoices"]), class("audit", &["orders/+/audit"])];
        let classes = TopicClasses::compile(&classes).unwrap();
        let name = |topic: &str| classes.name(classes.of(topic.as_bytes())).to_owned();
        assert_eq!(name("orders/7"), "orders");
        assert_eq!(name("orders/7/audit"), "audit");
        assert_eq!(name("invoices"), "orders");
        assert_eq!(name("sensors/1"), "other");
        assert_eq!(TopicClasses::default().names().collect::<Vec<_>>(), ["other"]);
    }

    #[test]
    fn every_rule_refuses_what_breaks_it() {
        let refused = |classes: &[TopicClass]| TopicClasses::compile(classes).unwrap_err();
        let many: Vec<_> = (0..=CLASSES_MAX).map(|number| class(&format!("c{number}"), &["a"])).collect();
        assert_eq!(refused(&many), ClassRefusal::TooMany { classes: 65 });
        for name in ["", "a b", "ä", &"x".repeat(65)] {
            assert_eq!(refused(&[class(name, &["a"])]), ClassRefusal::BadName(name.to_owned()));
        }
        assert_eq!(refused(&[class("other", &["a"])]), ClassRefusal::NameTaken("other".to_owned()));
        assert_eq!(refused(&[class("a", &["a"]), class("a", &["b"])]), ClassRefusal::NameTaken("a".to_owned()));
        assert_eq!(refused(&[class("a", &[])]), ClassRefusal::NoFilter("a".to_owned()));
        let twice = refused(&[class("a", &["x"]), class("b", &["x"])]);
        assert_eq!(twice.to_string(), "the topic filter `x` is there twice");
    }

    #[test]
    fn counts_by_class_add_up_to_what_was_counted() {
        let many: Vec<_> = (0..CLASSES_MAX).map(|number| class(&format!("c{number}"), &[&format!("t/{number}/#")])).collect();
        let counters = ClassCounters::new("x_by_class", "A test's.", Arc::new(TopicClasses::compile(&many).unwrap()));
        (0..1_000).for_each(|number| counters.count(format!("t/{}/x", number % 70).as_bytes()));
        let mut sum = 0;
        let mut other = 0;
        counters.measure(&mut |sample| {
            sum += sample.value;
            other += if sample.labels == [("class", "other")] { sample.value } else { 0 };
        });
        assert_eq!((sum, other), (1_000, (0..1_000).filter(|number| number % 70 >= 64).count() as u64));
        assert_eq!(counters.get(counters.classes().of(b"t/0")), 15);
    }
}
