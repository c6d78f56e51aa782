//! The event as it lives in a slot: its header, its 8-byte handle, and a read-only view for handlers.

use std::num::NonZeroU128;

use crate::sys::clock::{Nanos, WallNanos};
use crate::wire::{Priority, ProducerId, Tier};

/// Bytes of the header at the start of each slot.
pub const EVENT_HEADER_BYTES: usize = 64;

/// Where an event came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    /// A TCP connection.
    Tcp = 0,
    /// A datagram.
    Udp = 1,
    /// A producer inside this process.
    InProcess = 2,
}

impl Source {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All, by index.
    pub const ALL: [Source; 3] = [Source::Tcp, Source::Udp, Source::InProcess];

    /// The source of its byte in a header; `None` beyond 2.
    pub const fn from_byte(byte: u8) -> Option<Source> {
        match byte {
            0 => Some(Source::Tcp),
            1 => Some(Source::Udp),
            2 => Some(Source::InProcess),
            _ => None,
        }
    }

    /// Its place in arrays indexed by source.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name used in JSON, text and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Source::Tcp => "tcp",
            Source::Udp => "udp",
            Source::InProcess => "in_process",
        }
    }
}

/// An idempotency key: two events with the same key are one and the same to dedup, whatever they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct EventKey(NonZeroU128);

impl EventKey {
    /// The key of a number that is unique already (a UUID, a database sequence); `None` for 0, which says *no key*.
    pub const fn new(number: u128) -> Option<EventKey> {
        match NonZeroU128::new(number) {
            Some(number) => Some(EventKey(number)),
            None => None,
        }
    }

    /// The key of a name, such as an order number in text: its 128-bit hash (XXH3), the same in every process and on every host. Not
    /// for names that a stranger may choose, who could make two of them collide.
    pub fn of_name(name: &[u8]) -> EventKey {
        EventKey(NonZeroU128::new(xxhash_rust::xxh3::xxh3_128(name)).unwrap_or(NonZeroU128::MIN))
    }

    /// The number.
    pub const fn get(self) -> u128 {
        self.0.get()
    }
}

/// Names an event of a session: no two events of one producer have the same sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProducerStamp {
    /// Whose event it is.
    pub producer: ProducerId,
    /// Its number there: the producer counts its events, from 1.
    pub sequence: u64,
}

/// Marks in an event's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct EventFlags(u8);

impl EventFlags {
    /// No mark.
    pub const NONE: EventFlags = EventFlags(0);
    /// A copy that waits, or has waited, in the retry memory.
    pub const DETACHED: EventFlags = EventFlags(1);
    /// It came in a session: `key` and `producer_sequence` name it.
    pub const SESSION: EventFlags = EventFlags(2);

    /// These and those.
    pub const fn with(self, more: EventFlags) -> EventFlags {
        EventFlags(self.0 | more.0)
    }

    /// Whether all of `marks` are there.
    pub const fn has(self, marks: EventFlags) -> bool {
        self.0 & marks.0 == marks.0
    }
}

/// The first 64 bytes of an event's slot; topic and body follow at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct EventHeader {
    /// Unique across nodes and restarts of one data folder; rises with arrival at one reactor.
    pub id: u64,
    /// When its bytes were received, monotonic.
    pub received_at: Nanos,
    /// When its bytes were received, wall clock.
    pub received_wall: WallNanos,
    /// The connection it came on (reactor's own numbering), for order and debugging; 0 where there is none.
    pub connection: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// Bytes of the topic.
    pub topic_len: u16,
    /// As sent.
    pub priority: Priority,
    /// As dispatched: by priority, or by a topic override.
    pub tier: Tier,
    /// Where it came in.
    pub source: Source,
    /// How often its handler was tried (0 before the first).
    pub attempts: u8,
    /// What the engine marks it with.
    pub flags: EventFlags,
    /// Zero while the event lives: no padding, so that a whole slot can be written or hashed. With [`EventFlags::SESSION`] what became of it,
    /// on its way home.
    pub reserved: u8,
    /// Its number among its producer's events, with [`EventFlags::SESSION`]; 0 otherwise.
    pub producer_sequence: u64,
    /// What tells this event from others, if its producer says so: dedup then compares this instead of topic and body. With
    /// [`EventFlags::SESSION`] it is the producer's id.
    pub key: Option<EventKey>,
}

const _: () = assert!(size_of::<EventHeader>() == EVENT_HEADER_BYTES);

impl EventHeader {
    /// Whether this is a copy that waits, or has waited, in the retry memory.
    pub(crate) const fn is_detached(&self) -> bool {
        self.flags.has(EventFlags::DETACHED)
    }

    /// The header of such a copy.
    pub(crate) const fn detached(mut self, attempts: u8) -> Self {
        self.attempts = attempts;
        self.flags = self.flags.with(EventFlags::DETACHED);
        self
    }

    /// Writes it field by field. As a whole it would be loaded in words wider than those that it was just stored in, and such loads wait until
    /// the stores have left the core's store buffer.
    ///
    /// # Safety
    /// `at` is valid for writes of a header, and aligned.
    #[inline(always)]
    pub(super) unsafe fn write_to(self, at: *mut EventHeader) {
        let EventHeader {
            id,
            received_at,
            received_wall,
            connection,
            body_len,
            topic_len,
            priority,
            tier,
            source,
            attempts,
            flags,
            reserved,
            producer_sequence,
            key,
        } = self;
        // SAFETY: the caller's promise; no reference to what may be uninitialised is made.
        unsafe {
            (&raw mut (*at).id).write(id);
            (&raw mut (*at).received_at).write(received_at);
            (&raw mut (*at).received_wall).write(received_wall);
            (&raw mut (*at).connection).write(connection);
            (&raw mut (*at).body_len).write(body_len);
            (&raw mut (*at).topic_len).write(topic_len);
            (&raw mut (*at).priority).write(priority);
            (&raw mut (*at).tier).write(tier);
            (&raw mut (*at).source).write(source);
            (&raw mut (*at).attempts).write(attempts);
            (&raw mut (*at).flags).write(flags);
            (&raw mut (*at).reserved).write(reserved);
            (&raw mut (*at).producer_sequence).write(producer_sequence);
            (&raw mut (*at).key).write(key);
        }
    }

    /// Whose session it came in, and its number there; `None` for an event of no session.
    pub const fn producer(&self) -> Option<ProducerStamp> {
        match self.key {
            Some(id) if self.flags.has(EventFlags::SESSION) => {
                Some(ProducerStamp { producer: ProducerId::new(id.0), sequence: self.producer_sequence })
            }
            _ => None,
        }
    }

    /// What tells this event from others by its producer's word, outside of sessions: those have sequences for that.
    #[inline]
    pub(crate) fn idempotency_key(&self) -> Option<EventKey> {
        self.key.filter(|_| !self.flags.has(EventFlags::SESSION))
    }

    /// The header of an event of a session.
    pub const fn of_producer(mut self, stamp: ProducerStamp) -> Self {
        self.flags = self.flags.with(EventFlags::SESSION);
        self.key = Some(EventKey(stamp.producer.get()));
        self.producer_sequence = stamp.sequence;
        self
    }
}
// No key costs no flag: it is the number 0.
const _: () = assert!(size_of::<Option<EventKey>>() == size_of::<u128>());

/// A read-only look at an event, as handlers get it.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    /// The header.
    pub header: &'a EventHeader,
    /// The topic: valid UTF-8 without control characters or wildcards.
    pub topic: &'a str,
    /// The body, any bytes.
    pub body: &'a [u8],
}
