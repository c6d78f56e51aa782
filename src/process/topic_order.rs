//! `--retry-order topic`: an event whose topic has one waiting for its next try waits behind it.
//!
//! ```text
//! agent:   line of a topic = its leader (backing off, or being tried) ◄── followers, first come first served
//!          leader leaves (stored or lost) ──► the next follower leads, and is tried at once; nobody left: the line is gone
//! inline handler: an event of the topic failed in this batch ──► not tried, waits behind
//! handler on a helper's thread: gets one event at a time
//! ```
//!
//! Invariants:
//! - **TO1** The events of a topic reach the handler's *done* in the order of their arrival, those left out that are lost. Other topics go on.
//! - **TO2** Each follower is a copy in the retry memory; where there is no slot left, it is lost as `retry_overflow`.
//! - **TO3** No allocation after start: at most as many lines and followers as the memory has slots.
//! - **TO4** Nothing is at the handler, or on its way there, behind an event whose verdict the agent does not know: within a batch
//!   [`FailedTopics`] sees to it, and an offloaded handler is given the next event when the one before has come back.
//!
//! Lines go by a 64-bit keyed hash of the topic. Two topics that fall together wait for each other, and no harm is done.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::pool::Event;

/// A topic, as lines know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TopicHash(u64);

/// Hashes topics; copies agree with each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicHasher(RandomState);

impl TopicHasher {
    pub(crate) fn of(&self, topic: &[u8]) -> TopicHash {
        TopicHash(self.0.hash_one(topic))
    }
}

const NOBODY: u32 = u32::MAX;

/// The followers of one leader, as places in the list of all; empty: `first` is [`NOBODY`].
#[derive(Clone, Copy, Debug)]
struct Line {
    first: u32,
    last: u32,
}

#[derive(Debug)]
struct Place {
    follower: Option<Event>,
    next: u32,
}

/// The agent's side.
#[derive(Debug)]
pub(crate) struct Lines {
    lines: HashMap<TopicHash, Line>,
    places: Vec<Place>,
    free: u32,
    waiting: usize,
}

impl Lines {
    /// For as many events as the retry memory holds (TO3).
    pub(crate) fn new(slots: usize) -> Self {
        let slots = u32::try_from(slots).expect("slots are counted in 32 bits");
        let next = |place: u32| if place + 1 < slots { place + 1 } else { NOBODY };
        Self {
            // A hash map that is never more than half full cleans itself up in place.
            lines: HashMap::with_capacity(2 * slots as usize),
            places: (0..slots).map(|place| Place { follower: None, next: next(place) }).collect(),
            free: if slots > 0 { 0 } else { NOBODY },
            waiting: 0,
        }
    }

    /// Followers.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether no topic has a line.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether a topic has a line.
    pub(crate) fn has(&self, topic: TopicHash) -> bool {
        self.lines.contains_key(&topic)
    }

    /// An event of the topic, a copy in the retry memory, joins the line; gives it back if there is none: it leads a new one.
    pub(crate) fn join(&mut self, topic: TopicHash, event: Event) -> Option<Event> {
        let Some(line) = self.lines.get_mut(&topic) else {
            self.lines.insert(topic, Line { first: NOBODY, last: NOBODY });
            return Some(event);
        };
        let place = self.free;
        let taken = &mut self.places[place as usize];
        self.free = std::mem::replace(&mut taken.next, NOBODY);
        taken.follower = Some(event);
        match line.first {
            NOBODY => line.first = place,
            _ => self.places[line.last as usize].next = place,
        }
        line.last = place;
        self.waiting += 1;
        None
    }

    /// The leader has left. The next one leads.
    pub(crate) fn next(&mut self, topic: TopicHash) -> Option<Event> {
        let line = self.lines.get_mut(&topic)?;
        if line.first == NOBODY {
            self.lines.remove(&topic);
            return None;
        }
        let place = line.first;
        let left = &mut self.places[place as usize];
        line.first = std::mem::replace(&mut left.next, self.free);
        self.free = place;
        self.waiting -= 1;
        left.follower.take()
    }

    /// All followers, at the end.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Event> {
        (self.lines, self.waiting) = (HashMap::new(), 0);
        std::mem::take(&mut self.places).into_iter().filter_map(|place| place.follower)
    }
}

/// Topics of which an event failed in the batch in hand (TO4).
#[derive(Debug)]
pub(crate) struct FailedTopics {
    hasher: TopicHasher,
    topics: HashSet<TopicHash>,
}

impl FailedTopics {
    /// For batches of at most so many events.
    pub(crate) fn new(hasher: TopicHasher, batch_max: usize) -> Self {
        // As in `Lines::new`.
        Self { hasher, topics: HashSet::with_capacity(2 * batch_max) }
    }

    /// A batch begins.
    pub(crate) fn clear(&mut self) {
        self.topics.clear();
    }

    /// Whether an event of the topic has to wait behind one that failed.
    pub(crate) fn has(&self, topic: &[u8]) -> bool {
        !self.topics.is_empty() && self.topics.contains(&self.hasher.of(topic))
    }

    /// An event of the topic failed and will be tried again.
    pub(crate) fn add(&mut self, topic: &[u8]) {
        self.topics.insert(self.hasher.of(topic));
    }
}
