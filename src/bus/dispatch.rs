//! Which tier an event belongs to: by its priority, unless a topic override says otherwise.

#![forbid(unsafe_code)]

use super::topic::{TopicFilter, TopicTable};
use crate::wire::{Priority, Tier};

/// Two overrides have the same filter.
pub use super::topic::DuplicateFilter as DuplicateOverride;

/// Priority and topic to tier. Immutable; each reactor has its own copy.
#[derive(Clone, Debug, Default)]
pub struct Dispatch {
    overrides: TopicTable<Priority>,
}

impl Dispatch {
    /// A dispatch with these topic overrides; the most specific filter that matches decides.
    ///
    /// # Errors
    /// The first filter that is there twice.
    pub fn new(overrides: impl IntoIterator<Item = (TopicFilter, Priority)>) -> Result<Self, DuplicateOverride> {
        Ok(Self { overrides: TopicTable::compile(overrides)? })
    }

    /// The tier of an event. Without overrides the topic is not looked at.
    #[inline]
    pub fn tier(&self, priority: Priority, topic: &[u8]) -> Tier {
        if self.overrides.is_empty() { priority.tier() } else { self.overridden(priority, topic).tier() }
    }

    /// The priority by which an event is dispatched. The event itself keeps the one it was sent with.
    fn overridden(&self, priority: Priority, topic: &[u8]) -> Priority {
        self.overrides.find(topic).copied().unwrap_or(priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    #[test]
    fn priority_decides_without_overrides() {
        let tiers = Priority::ALL.map(|priority| Dispatch::default().tier(priority, b"any/topic"));
        assert_eq!(tiers, [Tier::Batch, Tier::Batch, Tier::Transactional, Tier::Realtime, Tier::Realtime]);
    }

    #[test]
    fn most_specific_override_decides_and_others_keep_their_priority() {
        let overrides = [(filter("logs/#"), Priority::Batch), (filter("logs/+/fatal"), Priority::Critical)];
        let dispatch = Dispatch::new(overrides).unwrap();
        assert_eq!(dispatch.tier(Priority::High, b"logs/a"), Tier::Batch);
        assert_eq!(dispatch.tier(Priority::Low, b"logs/a/fatal"), Tier::Realtime);
        assert_eq!(dispatch.tier(Priority::Medium, b"other"), Tier::Transactional);
    }

    #[test]
    fn an_override_given_twice_is_refused() {
        let overrides = [(filter("a"), Priority::Low), (filter("a"), Priority::High)];
        assert_eq!(Dispatch::new(overrides).unwrap_err().to_string(), "the topic filter `a` is there twice");
    }
}
