//! What is published, and why it is not.

use std::fmt;

use crate::metrics::ledger::DropReason;
use crate::pool::EventKey;
use crate::wire::{FrameLimits, FrameRefusal, HEADER_BYTES, LENGTH_BYTES, Priority, Topic, check_topic};

/// What a producer publishes: borrowed, as its bytes are copied into the event's slot at once.
///
/// ```
/// use eventstream::ingest::Publication;
/// use eventstream::pool::EventKey;
/// use eventstream::wire::Priority;
///
/// let order = Publication::new("orders/eu", br#"{"order":17}"#, Priority::Medium);
/// let order = order.with_key(EventKey::of_name(b"order 17"));
/// assert_eq!(order.topic, "orders/eu");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication<'a> {
    /// The topic, by the rules of the wire: 1 to 1024 bytes, no control characters, no wildcards.
    pub topic: &'a str,
    /// The body, any bytes, possibly none.
    pub body: &'a [u8],
    /// Decides the tier, unless a topic override does.
    pub priority: Priority,
    /// What tells this event from others: dedup compares it instead of topic and body, in all tiers.
    pub key: Option<EventKey>,
    /// The id of an event that is sent again; a new one gets a number of its producer's.
    pub(crate) id: Option<u64>,
}

impl<'a> Publication<'a> {
    /// A publication without a key.
    pub fn new(topic: &'a str, body: &'a [u8], priority: Priority) -> Self {
        Self { topic, body, priority, key: None, id: None }
    }

    /// The same with an idempotency key.
    #[must_use]
    pub fn with_key(self, key: EventKey) -> Self {
        Self { key: Some(key), ..self }
    }

    /// The same under the id that the event had before: for dead letters that are sent again.
    #[must_use]
    pub(crate) fn again_as(self, id: u64) -> Self {
        Self { id: Some(id), ..self }
    }

    /// Judges it as the wire judges a frame; the topic, if it is one.
    pub(super) fn check(&self, limits: &FrameLimits) -> Result<Topic<'a>, FrameRefusal> {
        let topic = check_topic(self.topic.as_bytes())?;
        let frame_bytes = HEADER_BYTES + topic.len() + self.body.len();
        if frame_bytes > limits.max_frame_bytes as usize {
            return Err(FrameRefusal::LengthTooLong { length: u32::try_from(frame_bytes - LENGTH_BYTES).unwrap_or(u32::MAX) });
        }
        Ok(topic)
    }
}

/// Why a publication did not go into its tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is no event: the topic, or the length beyond `--max-frame-bytes`. Not counted; publishing it again is of no use.
    Frame(FrameRefusal),
    /// The engine stops, or has stopped. Not counted.
    Closed,
    /// It would have to wait, and this thread is inside a handler (U4). Not counted.
    WouldBlock,
    /// It was received, and lost for this reason: counted, and a dead letter if [`DropReason::is_dead_lettered`]. Publishing it again makes
    /// another event of it.
    Lost(DropReason),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Frame(refusal) => write!(f, "not an event: {refusal}"),
            Refusal::Closed => f.write_str("the engine takes no more events"),
            Refusal::WouldBlock => f.write_str("it would have to wait, which a handler must not"),
            Refusal::Lost(reason) => write!(f, "lost: {}", reason.name()),
        }
    }
}

/// A publication that came back, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// As it was given.
    pub publication: Publication<'a>,
    /// Why it came back.
    pub refusal: Refusal,
}

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "publication on `{}`: {}", self.publication.topic.escape_debug(), self.refusal)
    }
}

impl std::error::Error for Refused<'_> {}
