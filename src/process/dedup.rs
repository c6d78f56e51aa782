//! Which events were seen before: a fixed table of keys, one cache line per look-up.
//!
//! ```text
//! key = xxh3-128(secret; topic, body)      bucket = key's high half, scaled to the number of buckets
//!
//! bucket, 64 bytes:  key 0 | key 1 | key 2 (16 each) | push index 0, 1, 2 (4 each) | meta: 3 x (generation 8 bits, state 2 bits)
//!
//!            admit                hand_over                progress > push index
//! (absent) ────────► Pending ───────────────► Handed ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄► committed
//!     ▲                 │ forget (dead-lettered)  │ window over, or evicted
//!     └─────────────────┴─────────────────────────┘
//! ```
//!
//! Invariants:
//! - **D1** A key is in at most one place of its bucket.
//! - **D2** A pending key neither expires nor is evicted, unless all three of its bucket are pending (counted).
//! - **D3** A handed key is a duplicate for at least the window and at most 9/8 of it, counted from its hand-over: time goes in steps of an
//!   eighth, and an entry carries the low 8 bits of its step. A duplicate does not prolong it.
//! - **D4** The step bits never come round: `sweep` visits each bucket within [`SWEEP_STEPS`] steps (256 are needed to come
//!   round), and a clock that jumped further empties the table of all but pending keys.
//! - **D5** An uncommitted key is one of the few that lie between the appender's progress and the last push, so the low 32 bits of
//!   its push index are enough to tell. It is not evicted while others can be.
//!
//! A full bucket evicts the entry with the oldest step; where keys fill the table to its capacity (two of three places on average) about a
//! tenth of them leave early, at half of it under a fortieth. At rates above capacity / window the window is what
//! [`DedupOptions::effective_window`] says.
//!
//! The key is a keyed hash: the secret (192 random bytes per process) keeps a sender from preparing topics and bodies that collide. xxh3 is no
//! cryptographic hash; who can time the engine closely may learn about its buckets. Two different events fall
//! together with probability 2^-128 per pair. Source of the hash: Yann Collet's xxHash specification.

use std::hash::{BuildHasher, Hasher, RandomState};

use xxhash_rust::xxh3::xxh3_128_with_secret;

use crate::pool::{Event, SharedPool};
use crate::sys::clock::Nanos;
use crate::sys::prefetch::prefetch_read;

/// Steps in a window.
const STEPS_PER_WINDOW: u64 = 8;

/// Within how many steps a sweep visits every bucket (D4).
pub const SWEEP_STEPS: u64 = 64;

/// Buckets swept in one poll: 4 KiB, about a microsecond.
const SWEEP_BUCKETS_PER_POLL: usize = 64;

const WAYS: usize = 3;
const ENTRY_BITS: u32 = 10;
const SECRET_BYTES: usize = 192;

/// The numbers of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupOptions {
    /// Keys it is made for, at least 2; it takes 32 bytes for each. Default 1,000,000.
    pub capacity_keys: usize,
    /// How long a key is remembered, at least 8 ns. Default one hour.
    pub window: Nanos,
}

impl Default for DedupOptions {
    fn default() -> Self {
        Self { capacity_keys: 1_000_000, window: Nanos::from_millis(3_600_000) }
    }
}

impl DedupOptions {
    /// The window that this capacity really gives at a rate of new keys.
    pub fn effective_window(&self, keys_per_s: u64) -> Nanos {
        let by_capacity = (self.capacity_keys as u128 * 1_000_000_000).checked_div(u128::from(keys_per_s));
        by_capacity.map_or(self.window, |ns| self.window.min(Nanos(u64::try_from(ns).unwrap_or(u64::MAX))))
    }

    /// Bytes of memory the table takes.
    pub fn table_bytes(&self) -> usize {
        self.buckets() * size_of::<Bucket>()
    }

    fn buckets(&self) -> usize {
        self.capacity_keys.div_ceil(2).max(1)
    }
}

/// An event's identity: what it says, not when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DedupKey(u128);

/// What the table says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Not seen within the window; it is pending now.
    New,
    /// Its event is being processed, or handed over and not yet written.
    Pending,
    /// Its event is in the log.
    Committed,
}

/// How far the appender is with what was handed to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Events pushed so far.
    pub(crate) delivered: u64,
    /// Of these, written.
    pub(crate) committed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Empty = 0,
    Pending = 1,
    Handed = 2,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    keys: [u128; WAYS],
    push_index: [u32; WAYS],
    meta: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

impl Bucket {
    const EMPTY: Bucket = Bucket { keys: [0; WAYS], push_index: [0; WAYS], meta: 0 };

    #[inline]
    fn state(&self, way: usize) -> State {
        match self.meta >> (way as u32 * ENTRY_BITS + 8) & 3 {
            0 => State::Empty,
            1 => State::Pending,
            _ => State::Handed,
        }
    }

    fn step(&self, way: usize) -> u8 {
        (self.meta >> (way as u32 * ENTRY_BITS)) as u8
    }

    fn set(&mut self, way: usize, state: State, step: u8) {
        let shift = way as u32 * ENTRY_BITS;
        self.meta = self.meta & !(0x3ff << shift) | (u32::from(step) | (state as u32) << 8) << shift;
    }

    #[inline]
    fn find(&self, key: DedupKey) -> Option<usize> {
        (0..WAYS).find(|way| self.keys[*way] == key.0 && self.state(*way) != State::Empty)
    }

    /// Frees handed entries whose window is over at `step` (D3).
    fn expire(&mut self, step: u8) {
        for way in 0..WAYS {
            if self.state(way) == State::Handed && u64::from(step.wrapping_sub(self.step(way))) > STEPS_PER_WINDOW {
                self.set(way, State::Empty, 0);
            }
        }
    }

    /// Frees all but pending entries.
    fn wipe(&mut self) {
        (0..WAYS).for_each(|way| {
            if self.state(way) == State::Handed {
                self.set(way, State::Empty, 0);
            }
        });
    }
}

/// The table. See the module doc.
pub(crate) struct Dedup {
    buckets: Box<[Bucket]>,
    secret: [u8; SECRET_BYTES],
    step_ns: u64,
    /// The present step, since the clock's zero.
    step: u64,
    /// The next bucket to sweep, and how many are due.
    sweep_next: usize,
    sweep_due: usize,
    evictions: u64,
    pending_evictions: u64,
}

impl Dedup {
    /// Takes all its memory now.
    pub(crate) fn new(options: &DedupOptions) -> Self {
        Self {
            buckets: vec![Bucket::EMPTY; options.buckets()].into_boxed_slice(),
            secret: random_secret(),
            step_ns: (options.window.0 / STEPS_PER_WINDOW).max(1),
            step: 0,
            sweep_next: 0,
            sweep_due: 0,
            evictions: 0,
            pending_evictions: 0,
        }
    }

    /// The key of an event. The topic's length is mixed in, as `ab` + `c` and `a` + `bc` are different events.
    #[inline]
    pub(crate) fn key(&self, pool: &SharedPool, event: &Event) -> DedupKey {
        self.key_of(pool.payload(event), pool.header(event).topic_len)
    }

    fn key_of(&self, payload: &[u8], topic_len: u16) -> DedupKey {
        let mixed = u128::from(topic_len).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        DedupKey(xxh3_128_with_secret(payload, &self.secret) ^ mixed)
    }

    #[inline]
    fn place(&self, key: DedupKey) -> usize {
        let high = (key.0 >> 64) as u64;
        (u128::from(high) * self.buckets.len() as u128 >> 64) as usize
    }

    /// Fetches the key's bucket ahead of [`Dedup::admit`].
    #[inline]
    pub(crate) fn prefetch(&self, key: DedupKey) {
        prefetch_read(&self.buckets[self.place(key)]);
    }

    /// Says what time it is before the first look-up, so that the table has not *slept* since the clock's zero.
    pub(crate) fn begin(&mut self, now: Nanos) {
        self.step = now.0 / self.step_ns;
    }

    /// Moves time on, and does a bounded piece of the sweep that this makes due. Once per poll, before `admit`.
    pub(crate) fn advance(&mut self, now: Nanos) {
        let step = now.0 / self.step_ns;
        let passed = step.saturating_sub(self.step);
        self.step = self.step.max(step);
        let per_step = self.buckets.len().div_ceil(SWEEP_STEPS as usize);
        if passed > SWEEP_STEPS {
            // D4: asleep for eight windows or more. Everything handed is out of its window.
            self.buckets.iter_mut().for_each(Bucket::wipe);
            self.sweep_due = 0;
        } else {
            self.sweep_due = (self.sweep_due + passed as usize * per_step).min(self.buckets.len());
        }
        for _ in 0..self.sweep_due.min(SWEEP_BUCKETS_PER_POLL) {
            self.buckets[self.sweep_next].expire(self.step as u8);
            self.sweep_next = (self.sweep_next + 1) % self.buckets.len();
            self.sweep_due -= 1;
        }
    }

    /// When the next sweep is due (D4).
    pub(crate) fn deadline(&self, now: Nanos) -> Nanos {
        if self.sweep_due > 0 { now } else { Nanos((self.step + 1) * self.step_ns) }
    }

    /// Asks for a key, and makes it pending if it is new.
    #[inline]
    pub(crate) fn admit(&mut self, key: DedupKey, progress: Progress) -> Seen {
        let (place, step) = (self.place(key), self.step as u8);
        let bucket = &mut self.buckets[place];
        bucket.expire(step);
        if let Some(way) = bucket.find(key) {
            let is_committed = bucket.state(way) == State::Handed && !is_uncommitted(bucket.push_index[way], progress);
            return if is_committed { Seen::Committed } else { Seen::Pending };
        }
        let way = match (0..WAYS).find(|way| bucket.state(*way) == State::Empty) {
            Some(way) => way,
            None => self.evict(place, progress),
        };
        let bucket = &mut self.buckets[place];
        bucket.keys[way] = key.0;
        bucket.set(way, State::Pending, step);
        Seen::New
    }

    /// Chooses who makes room in a full bucket (D2, D5): the oldest committed one, else the oldest handed one, else the oldest.
    #[cold]
    fn evict(&mut self, place: usize, progress: Progress) -> usize {
        let (bucket, step) = (&self.buckets[place], self.step as u8);
        let rank = |way: usize| -> (u8, u8) {
            let class = match bucket.state(way) {
                State::Pending => 0,
                _ if is_uncommitted(bucket.push_index[way], progress) => 1,
                _ => 2,
            };
            (class, step.wrapping_sub(bucket.step(way)))
        };
        let way = (0..WAYS).max_by_key(|way| rank(*way)).expect("a bucket has ways");
        self.evictions += 1;
        self.pending_evictions += u64::from(bucket.state(way) == State::Pending);
        way
    }

    /// The key's event was pushed to its inlet. Its window begins. A key that was evicted meanwhile stays away.
    #[inline]
    pub(crate) fn hand_over(&mut self, key: DedupKey, push_index: u64) {
        let (place, step) = (self.place(key), self.step as u8);
        let bucket = &mut self.buckets[place];
        if let Some(way) = bucket.find(key) {
            bucket.push_index[way] = push_index as u32;
            bucket.set(way, State::Handed, step);
        }
    }

    /// The key's event was lost: who sends it again shall be heard.
    pub(crate) fn forget(&mut self, key: DedupKey) {
        let place = self.place(key);
        let bucket = &mut self.buckets[place];
        if let Some(way) = bucket.find(key) {
            bucket.set(way, State::Empty, 0);
        }
    }

    /// Keys that left early, and how many of them were pending.
    pub(crate) fn evictions(&self) -> (u64, u64) {
        (self.evictions, self.pending_evictions)
    }
}

/// D5: whether an index, known by its low half, lies between what is written and what was pushed.
#[inline]
fn is_uncommitted(push_index: u32, progress: Progress) -> bool {
    let open = progress.delivered.saturating_sub(progress.committed);
    u64::from(push_index.wrapping_sub(progress.committed as u32)) < open
}

/// 192 bytes that no sender knows: the standard library's hash keys come from the operating system's random source.
fn random_secret() -> [u8; SECRET_BYTES] {
    let mut secret = [0; SECRET_BYTES];
    for chunk in secret.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random_u64().to_le_bytes());
    }
    secret
}

/// A number that no sender knows. At start only.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
#[path = "dedup_tests.rs"]
mod tests;
