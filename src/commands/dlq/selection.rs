//! Which letters a command is about: the options that all of them have.

use std::path::{Path, PathBuf};

use crate::bus::{TopicFilter, TopicTable};
use crate::commands::log::Moment;
use crate::metrics::ledger::DropReason;
use crate::storage::dead_letter::line::DeadLetter;
use crate::sys::clock::{Clock, HostClock, WallNanos};
use crate::wire::Tier;

/// A struct of arguments with the options of a selection in front of its own.
macro_rules! with_selection {
    ($(#[$meta:meta])* struct $name:ident { $($own:tt)* }) => {
        #[derive(argh::FromArgs, Debug)]
        $(#[$meta])*
        pub(super) struct $name {
            /// the engine's data folder (default: data)
            #[argh(option, default = "std::path::PathBuf::from(\"data\")")]
            data_dir: std::path::PathBuf,
            /// the file of dead letters, where it is not dlq_log.txt in the data folder
            #[argh(option)]
            dead_letter_path: Option<std::path::PathBuf>,
            /// only this reason (may be given several times): queue_full, processing_failed, …
            #[argh(option)]
            reason: Vec<crate::metrics::ledger::DropReason>,
            /// only topics that fit: an exact name, or a filter with + (one level) and # (the rest)
            #[argh(option)]
            topic: Option<crate::bus::TopicFilter>,
            /// only this tier: realtime, transactional, batch
            #[argh(option)]
            tier: Option<crate::wire::Tier>,
            /// only letters of events that died at or after this: RFC 3339, or seconds ago
            #[argh(option)]
            since: Option<crate::commands::log::Moment>,
            /// only letters of events that died before this: RFC 3339, or seconds ago
            #[argh(option)]
            until: Option<crate::commands::log::Moment>,
            /// only this event id (may be given several times)
            #[argh(option)]
            id: Vec<u64>,
            $($own)*
        }

        impl $name {
            fn selection(&self) -> super::selection::Selection {
                super::selection::Selection::new(super::selection::Wanted {
                    reasons: self.reason.clone(),
                    topic: self.topic.clone(),
                    tier: self.tier,
                    since: self.since,
                    until: self.until,
                    ids: self.id.clone(),
                })
            }

            /// The file of dead letters.
            fn path(&self) -> std::path::PathBuf {
                super::selection::letters_path(&self.data_dir, self.dead_letter_path.as_deref())
            }
        }
    };
}
pub(super) use with_selection;

/// Where dead letters are, as the engine decides it.
pub(super) fn letters_path(data_dir: &Path, given: Option<&Path>) -> PathBuf {
    given.map_or_else(|| data_dir.join("dlq_log.txt"), Path::to_owned)
}

/// What was asked for.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) reasons: Vec<DropReason>,
    pub(super) topic: Option<TopicFilter>,
    pub(super) tier: Option<Tier>,
    pub(super) since: Option<Moment>,
    pub(super) until: Option<Moment>,
    pub(super) ids: Vec<u64>,
}

/// Judges letters.
#[derive(Debug)]
pub(super) struct Selection {
    reasons: Vec<DropReason>,
    topic: Option<TopicTable<()>>,
    tier: Option<Tier>,
    since: Option<WallNanos>,
    until: Option<WallNanos>,
    ids: Vec<u64>,
}

impl Selection {
    pub(super) fn new(wanted: Wanted) -> Self {
        let now = HostClock.wall();
        let Wanted { reasons, topic, tier, since, until, mut ids } = wanted;
        ids.sort_unstable();
        Self {
            reasons,
            topic: topic.map(|filter| TopicTable::compile([(filter, ())]).expect("one filter is not there twice")),
            tier,
            since: since.map(|moment| moment.resolve(now)),
            until: until.map(|moment| moment.resolve(now)),
            ids,
        }
    }

    /// Whether it takes every letter.
    pub(super) fn is_everything(&self) -> bool {
        let Self { reasons, topic, tier, since, until, ids } = self;
        reasons.is_empty() && topic.is_none() && tier.is_none() && since.is_none() && until.is_none() && ids.is_empty()
    }

    pub(super) fn admits(&self, letter: &DeadLetter) -> bool {
        (self.reasons.is_empty() || self.reasons.contains(&letter.reason))
            && self.topic.as_ref().is_none_or(|filter| filter.find(letter.topic.as_bytes()).is_some())
            && self.tier.is_none_or(|tier| letter.tier == tier)
            && self.since.is_none_or(|since| letter.time >= since)
            && self.until.is_none_or(|until| letter.time < until)
            && (self.ids.is_empty() || self.ids.binary_search(&letter.id).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::dead_letter::line::parse_line;

    #[test]
    fn each_condition_takes_and_leaves() {
        let line = br#"{"time":"1970-01-01T00:00:10Z","reason":"queue_full","tier":"batch","priority":"LOW","source":"udp","id":7,"received":"1970-01-01T00:00:09Z","topic":"a/b","body":"","note":""}"#;
        let letter = parse_line(line).unwrap();
        let judge = |wanted| Selection::new(wanted).admits(&letter);
        let topic = |text: &str| Some(TopicFilter::parse(text).unwrap());
        let at = |seconds: u64| Some(Moment::At(WallNanos(seconds * 1_000_000_000)));
        for (takes, leaves) in [
            (
                Wanted { reasons: vec![DropReason::HandlerPanic, DropReason::QueueFull], ..Wanted::default() },
                Wanted { reasons: vec![DropReason::HandlerPanic], ..Wanted::default() },
            ),
            (Wanted { topic: topic("a/+"), ..Wanted::default() }, Wanted { topic: topic("a"), ..Wanted::default() }),
            (Wanted { tier: Some(Tier::Batch), ..Wanted::default() }, Wanted { tier: Some(Tier::Realtime), ..Wanted::default() }),
            (Wanted { since: at(10), ..Wanted::default() }, Wanted { since: at(11), ..Wanted::default() }),
            (Wanted { until: at(11), ..Wanted::default() }, Wanted { until: at(10), ..Wanted::default() }),
            (Wanted { ids: vec![9, 7], ..Wanted::default() }, Wanted { ids: vec![9, 8], ..Wanted::default() }),
        ] {
            assert!(!Selection::new(Wanted { ids: vec![1], ..Wanted::default() }).is_everything());
            let (told, untold) = (format!("{takes:?}"), format!("{leaves:?}"));
            assert!(judge(takes), "{told}");
            assert!(!judge(leaves), "{untold}");
        }
        assert!(judge(Wanted::default()) && Selection::new(Wanted::default()).is_everything());
    }
}
