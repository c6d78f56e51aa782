//! Which keys were seen before: a fixed table, one cache line for most look-ups.
//!
//! ```text
//! key (keyed 128-bit hash, [`super::identity`])        home bucket = the key's high half, scaled to the number of buckets
//!
//! bucket, 64 bytes:  key 0 | key 1 | key 2 (16 each) | push index 0, 1, 2 (4 each) | meta: 3 x (step 8 bits, state 2 bits), spilled
//!
//!            admit                hand_over                progress > push index
//! (absent) ────────► Pending ───────────────► Handed ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄► committed
//!   ▲  └────────────────┼─ admit_handed ────────►┘
//!   │                   │ forget (dead-lettered) │ window over, or evicted
//!   └───────────────────┴────────────────────────┘
//! ```
//!
//! A key whose home is full goes to one of the next buckets, as many as [`DedupOptions::probe_buckets`] says with the home, and each bucket it
//! passes is marked *spilled*; a look-up goes on past a bucket only where the mark is set. A table that is flooded probes its home only: at
//! rates that fill it, marks and second lines would cost each event more than the few keys that they save are worth.
//!
//! Invariants:
//! - **D1** A key is in at most one place, none of its buckets between home and that place is without the mark. An empty place holds key 0,
//!   which no event has.
//! - **D2** A pending key neither expires nor is evicted, unless all in the probed buckets are pending (counted).
//! - **D3** A handed key is a duplicate for at least the window and at most 9/8 of it, counted from its hand-over: time goes in steps of an
//!   eighth, and an entry carries the low 8 bits of its step. A duplicate does not prolong it.
//! - **D4** The step bits never come round: a sweep visits each bucket once a window (256 steps are needed to come round), and a clock
//!   that jumped further empties the table of all but pending keys. Where the sweep finds nobody behind a mark, it takes the mark away.
//! - **D5** An uncommitted key is one of the few that lie between the appender's progress and the last push, so the low 32 bits of
//!   its push index are enough to tell. It is not evicted while a committed one in the probed buckets can be.
//! - **D6** While the table holds fewer keys than its capacity (two of three places), a key is evicted only if all places of its
//!   probed buckets are taken; there it is the oldest that goes: by its step, then by its push. From then on the oldest of the home bucket goes,
//!   and the window is what [`Dedup::real_window`] says. As buckets fill unevenly, nine of ten keys that came within that are there, of its first ones two of three.
//!
//! Of 100 keys that come to fill a table to its capacity, about 10 leave early with one bucket probed (of those that fill half of it, 2); with 16
//! none until three quarters are full, then one in ten thousand.

use std::num::NonZeroU128;

use crate::sys::clock::Nanos;
use crate::sys::memory::advise_huge_pages;
use crate::sys::prefetch::prefetch_read;

/// Steps in a window.
const STEPS_PER_WINDOW: u64 = 8;

/// Buckets swept in one poll: 4 KiB, about a microsecond.
const SWEEP_BUCKETS_PER_POLL: usize = 64;

const WAYS: usize = 3;
const ENTRY_BITS: u32 = 10;
const SPILLED: u32 = 1 << 31;

/// How gladly a place is given to a new key: the class in the high bits, the age in steps below it, and that in pushes in the low 32.
mod rank {
    pub(super) const EMPTY: u64 = 4 << CLASS_SHIFT;
    /// Free as well: its window is over.
    pub(super) const EXPIRED: u64 = 3 << CLASS_SHIFT;
    pub(super) const COMMITTED: u64 = 2 << CLASS_SHIFT;
    pub(super) const UNCOMMITTED: u64 = 1 << CLASS_SHIFT;
    pub(super) const CLASS_SHIFT: u32 = 40;
    pub(super) const STEP_SHIFT: u32 = 32;
}

/// The numbers of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupOptions {
    /// Keys it is made for, at least 2; it takes 32 bytes for each. Default 1,000,000.
    pub capacity_keys: usize,
    /// How long a key is remembered, at least 8 ns. Default one hour.
    pub window: Nanos,
    /// Buckets of three places that a key may be in: its home and those that follow, at least 1. Default 1.
    pub probe_buckets: usize,
}

impl Default for DedupOptions {
    fn default() -> Self {
        Self { capacity_keys: 1_000_000, window: Nanos::from_millis(3_600_000), probe_buckets: 1 }
    }
}

impl DedupOptions {
    /// For idempotency keys: of a replay of a hundred thousand dead letters none leaves early.
    pub const KEYED: DedupOptions =
        DedupOptions { capacity_keys: 131_072, window: Nanos::from_millis(3_600_000), probe_buckets: 16 };

    /// The window that this capacity really gives at a rate of new keys.
    pub fn effective_window(&self, keys_per_s: u64) -> Nanos {
        let by_capacity = (self.capacity_keys as u128 * 1_000_000_000).checked_div(u128::from(keys_per_s));
        by_capacity.map_or(self.window, |ns| self.window.min(Nanos(u64::try_from(ns).unwrap_or(u64::MAX))))
    }

    /// Bytes of memory the table takes.
    pub fn table_bytes(&self) -> usize {
        self.buckets() * size_of::<Bucket>()
    }

    fn homes(&self) -> usize {
        self.capacity_keys.div_ceil(2).max(1)
    }

    fn buckets(&self) -> usize {
        self.homes() + self.probe_buckets - 1
    }
}

/// What tells an event from others: not what it says or when it came, but a hash of what makes it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DedupKey(NonZeroU128);

impl DedupKey {
    /// The key of a hash that no sender can steer ([`super::identity`]).
    #[inline]
    pub fn new(hash: u128) -> Self {
        Self(NonZeroU128::new(hash).unwrap_or(NonZeroU128::MIN))
    }
}

/// What the table says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Not seen within the window; it is pending now.
    New,
    /// Its event is being processed, or handed over and not yet written.
    Pending,
    /// Its event is in the log.
    Committed,
}

/// How far the appender is with what was handed to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events pushed so far.
    pub delivered: u64,
    /// Of these, written.
    pub committed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Empty = 0,
    Pending = 1,
    Handed = 2,
}

#[derive(Clone, Copy, Debug)]
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

    fn clear(&mut self, way: usize) {
        self.keys[way] = 0;
        self.set(way, State::Empty, 0);
    }

    fn has_spilled(&self) -> bool {
        self.meta & SPILLED != 0
    }

    /// Without branches: which of the ways hits is anybody's guess.
    #[inline]
    fn find(&self, key: DedupKey) -> Option<usize> {
        let hits = (0..WAYS).fold(0, |hits, way| hits | u32::from(self.keys[way] == key.0.get()) << way);
        (hits != 0).then(|| hits.trailing_zeros() as usize)
    }

    #[inline]
    fn age(&self, way: usize, step: u8) -> u32 {
        u32::from(step.wrapping_sub(self.step(way)))
    }

    /// What `meta` is where all places were handed over in this step, and none was passed by.
    const fn meta_of_a_flood(step: u8) -> u32 {
        let entry = step as u32 | (State::Handed as u32) << 8;
        entry | entry << ENTRY_BITS | entry << (2 * ENTRY_BITS)
    }

    /// The place pushed first, and how many pushes ago, where all are handed over.
    #[inline]
    fn first_pushed(&self, progress: Progress) -> (usize, u32) {
        let [first, second, third] = self.push_index.map(|index| (progress.delivered as u32).wrapping_sub(index));
        let (way, pushes) = if second > first { (1, second) } else { (0, first) };
        if third > pushes { (2, third) } else { (way, pushes) }
    }

    /// The place to give away, and its rank. In a full table each event asks, hence arithmetic instead of branches.
    #[inline]
    fn best(&self, step: u8, progress: Progress) -> (usize, u64) {
        let (mut best_way, mut best) = (0, self.rank(0, step, progress));
        for way in 1..WAYS {
            let rank = self.rank(way, step, progress);
            if rank > best {
                (best_way, best) = (way, rank);
            }
        }
        (best_way, best)
    }

    #[inline]
    fn rank(&self, way: usize, step: u8, progress: Progress) -> u64 {
        let (state, age) = (self.meta >> (way as u32 * ENTRY_BITS + 8) & 3, self.age(way, step));
        let handed = u32::from(state == State::Handed as u32);
        let is_over = handed & u32::from(age > STEPS_PER_WINDOW as u32);
        let is_committed = handed & u32::from(!is_uncommitted(self.push_index[way], progress));
        let is_empty = u32::from(state == State::Empty as u32);
        let class = (handed + is_committed).max(3 * is_over).max(4 * is_empty);
        let pushes = (progress.delivered as u32).wrapping_sub(self.push_index[way]);
        u64::from(class) << rank::CLASS_SHIFT | u64::from(age) << rank::STEP_SHIFT | u64::from(pushes)
    }

    #[inline]
    fn put(&mut self, way: usize, key: DedupKey, state: State, step: u8, push_index: u64) {
        self.keys[way] = key.0.get();
        self.push_index[way] = push_index as u32;
        self.set(way, state, step);
    }

    /// Frees the handed entries that `which` chooses. Returns how many.
    fn free(&mut self, which: impl Fn(&Self, usize) -> bool) -> u64 {
        let mut freed = 0;
        for way in 0..WAYS {
            if self.state(way) == State::Handed && which(self, way) {
                self.clear(way);
                freed += 1;
            }
        }
        freed
    }
}

/// The table. See the module doc.
#[derive(Debug)]
pub struct Dedup {
    buckets: Box<[Bucket]>,
    homes: usize,
    options: DedupOptions,
    step_ns: u64,
    /// The time last told, and its step since the clock's zero.
    now: Nanos,
    step: u64,
    /// New keys in each of the last steps, by step modulo their number.
    taken: [u64; STEPS_PER_WINDOW as usize],
    /// Places taken, those included whose window is over and that no sweep has freed.
    held: u64,
    /// The next bucket to sweep, and how many are due.
    sweep_next: usize,
    sweep_due: usize,
    evictions: u64,
    pending_evictions: u64,
}

impl Dedup {
    /// Takes all its memory now.
    pub fn new(options: &DedupOptions) -> Self {
        Self {
            buckets: empty_buckets(options.buckets()),
            homes: options.homes(),
            options: *options,
            step_ns: (options.window.0 / STEPS_PER_WINDOW).max(1),
            now: Nanos(0),
            step: 0,
            taken: [0; STEPS_PER_WINDOW as usize],
            held: 0,
            sweep_next: 0,
            sweep_due: 0,
            evictions: 0,
            pending_evictions: 0,
        }
    }

    #[inline]
    fn home(&self, key: DedupKey) -> usize {
        home(key, self.homes)
    }

    /// Fetches the key's bucket ahead of [`Dedup::admit`].
    #[inline]
    pub fn prefetch(&self, key: DedupKey) {
        prefetch_read(&self.buckets[self.home(key)]);
    }

    /// Says what time it is before the first look-up, so that the table has not *slept* since the clock's zero.
    pub fn begin(&mut self, now: Nanos) {
        (self.now, self.step) = (now, now.0 / self.step_ns);
    }

    /// Moves time on, and does a bounded piece of the sweep that this makes due. Once per poll, before `admit`.
    #[inline]
    pub fn advance(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        let passed = (self.now.0 / self.step_ns).saturating_sub(self.step);
        if passed > 0 {
            self.begin_step(passed);
        }
        if self.sweep_due > 0 {
            self.sweep();
        }
    }

    fn begin_step(&mut self, passed: u64) {
        for step in self.step + 1..=self.step + passed.min(STEPS_PER_WINDOW) {
            self.taken[(step % STEPS_PER_WINDOW) as usize] = 0;
        }
        self.step += passed;
        if self.held == 0 {
            self.sweep_due = 0;
        } else if passed > STEPS_PER_WINDOW {
            // D4: asleep for a window or more, so everything handed is out of its window.
            let freed: u64 = self.buckets.iter_mut().map(|bucket| bucket.free(|_, _| true)).sum();
            self.held -= freed;
            self.sweep_due = 0;
        } else {
            let per_step = self.buckets.len().div_ceil(STEPS_PER_WINDOW as usize);
            self.sweep_due = (self.sweep_due + passed as usize * per_step).min(self.buckets.len());
        }
    }

    fn sweep(&mut self) {
        let step = self.step as u8;
        for _ in 0..self.sweep_due.min(SWEEP_BUCKETS_PER_POLL) {
            let at = self.sweep_next;
            self.held -= self.buckets[at].free(|bucket, way| bucket.age(way, step) > STEPS_PER_WINDOW as u32);
            if self.buckets[at].has_spilled() && !self.is_passed_by(at) {
                self.buckets[at].meta &= !SPILLED;
            }
            self.sweep_next = (at + 1) % self.buckets.len();
            self.sweep_due -= 1;
        }
    }

    /// Whether a key in the next bucket, or perhaps one further on, has come past this one.
    fn is_passed_by(&self, at: usize) -> bool {
        let (next, homes) = (&self.buckets[at + 1], self.homes);
        let stranger = |key: &u128| NonZeroU128::new(*key).is_some_and(|key| home(DedupKey(key), homes) != at + 1);
        next.has_spilled() || next.keys.iter().any(stranger)
    }

    /// When the next sweep is due (D4); an empty table needs none.
    pub fn deadline(&self, now: Nanos) -> Option<Nanos> {
        let at = if self.sweep_due > 0 { now } else { Nanos((self.step + 1) * self.step_ns) };
        (self.held > 0).then_some(at)
    }

    /// Where a key is: bucket and way (D1).
    #[inline]
    fn locate(&self, key: DedupKey) -> Option<(usize, usize)> {
        let home = self.home(key);
        let mut at = home;
        loop {
            let bucket = &self.buckets[at];
            if let Some(way) = bucket.find(key) {
                return Some((at, way));
            }
            at += 1;
            if !bucket.has_spilled() || at == home + self.options.probe_buckets {
                return None;
            }
        }
    }

    /// Asks for a key, and makes it pending if it is new.
    #[inline]
    pub fn admit(&mut self, key: DedupKey, progress: Progress) -> Seen {
        self.enter(key, progress, State::Pending, 0)
    }

    /// Asks for a key whose event, if it is new, is pushed to its inlet with this index before any other key is asked for elsewhere: it is handed
    /// over at once, and its line looked at once. `progress.delivered` is beyond the index already (D5).
    #[inline]
    pub fn admit_handed(&mut self, key: DedupKey, progress: Progress, push_index: u64) -> Seen {
        debug_assert!(push_index < progress.delivered, "D5: what comes in this batch is uncommitted");
        self.enter(key, progress, State::Handed, push_index)
    }

    /// Always inlined: each event of TRANSACTIONAL comes here, most of them in a flood.
    #[inline(always)]
    fn enter(&mut self, key: DedupKey, progress: Progress, state: State, push_index: u64) -> Seen {
        let (step, home) = (self.step as u8, self.home(key));
        let goes_no_further = self.options.probe_buckets == 1 || self.held >= self.options.capacity_keys as u64;
        let bucket = &mut self.buckets[home];
        if bucket.meta == Bucket::meta_of_a_flood(step) && goes_no_further && bucket.find(key).is_none() {
            let (way, pushes) = bucket.first_pushed(progress);
            if u64::from(pushes) > progress.delivered.saturating_sub(progress.committed) {
                bucket.put(way, key, state, step, push_index);
                self.evictions += 1;
                self.taken[(self.step % STEPS_PER_WINDOW) as usize] += 1;
                return Seen::New;
            }
        }
        self.enter_anywhere(key, progress, state, push_index)
    }

    /// As [`Dedup::enter`], whatever the bucket is like.
    fn enter_anywhere(&mut self, key: DedupKey, progress: Progress, state: State, push_index: u64) -> Seen {
        let step = self.step as u8;
        if let Some((at, way)) = self.locate(key) {
            let bucket = &mut self.buckets[at];
            let is_handed = bucket.state(way) == State::Handed;
            if !is_handed || bucket.age(way, step) <= STEPS_PER_WINDOW as u32 {
                let is_committed = is_handed && !is_uncommitted(bucket.push_index[way], progress);
                return if is_committed { Seen::Committed } else { Seen::Pending };
            }
            bucket.put(way, key, state, step, push_index);
        } else {
            let home = self.home(key);
            let (way, rank) = self.buckets[home].best(step, progress);
            let is_free = rank >= rank::EXPIRED;
            let (at, way, rank) = if is_free { (home, way, rank) } else { self.make_room(home, (way, rank), progress) };
            self.held += u64::from(rank >= rank::EMPTY);
            self.buckets[at].put(way, key, state, step, push_index);
        }
        self.taken[(self.step % STEPS_PER_WINDOW) as usize] += 1;
        Seen::New
    }

    /// A place for a key whose home is full: a free one in the next buckets, or that of the key that loses it (D2, D5, D6). The best of
    /// the home bucket is known already. Returns bucket, way and rank.
    #[inline]
    fn make_room(&mut self, home: usize, (way, rank): (usize, u64), progress: Progress) -> (usize, usize, u64) {
        let is_crowded = self.held >= self.options.capacity_keys as u64;
        let mut best = (home, way, rank);
        for at in home + 1..home + self.options.probe_buckets {
            let is_good_enough = best.2 >= rank::EXPIRED || (is_crowded && best.2 >= rank::COMMITTED);
            if is_good_enough {
                break;
            }
            let (way, rank) = self.buckets[at].best(self.step as u8, progress);
            if rank > best.2 {
                best = (at, way, rank);
            }
        }
        self.buckets[home..best.0].iter_mut().for_each(|passed| passed.meta |= SPILLED);
        self.evictions += u64::from(best.2 < rank::EXPIRED);
        self.pending_evictions += u64::from(best.2 < rank::UNCOMMITTED);
        best
    }

    /// The key's event was pushed to its inlet. Its window begins. A key that was evicted meanwhile stays away.
    #[inline]
    pub fn hand_over(&mut self, key: DedupKey, push_index: u64) {
        if let Some((at, way)) = self.locate(key) {
            let bucket = &mut self.buckets[at];
            bucket.push_index[way] = push_index as u32;
            bucket.set(way, State::Handed, self.step as u8);
        }
    }

    /// The key's event was lost: who sends it again shall be heard.
    pub fn forget(&mut self, key: DedupKey) {
        if let Some((at, way)) = self.locate(key) {
            self.buckets[at].clear(way);
            self.held -= 1;
        }
    }

    /// Keys that left early, and how many of them were pending.
    pub fn evictions(&self) -> (u64, u64) {
        (self.evictions, self.pending_evictions)
    }

    /// Its numbers.
    pub fn options(&self) -> &DedupOptions {
        &self.options
    }

    /// Places taken.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// How far back the table reaches at the rate at which new keys really came: the configured window, or less if more keys than the capacity came
    /// within it.
    pub fn real_window(&self) -> Nanos {
        let (mut left, mut window) = (self.options.capacity_keys as u64, Nanos(0));
        for back in 0..STEPS_PER_WINDOW.min(self.step + 1) {
            let taken = self.taken[((self.step - back) % STEPS_PER_WINDOW) as usize];
            let length = if back == 0 { self.now.0 - self.step * self.step_ns } else { self.step_ns };
            if taken > left {
                return window + Nanos((u128::from(length) * u128::from(left) / u128::from(taken)) as u64);
            }
            (left, window) = (left - taken, window + Nanos(length));
        }
        self.options.window
    }
}

/// In huge pages where the host gives them on request: each look-up is in a page of its own, and pays a page walk.
fn empty_buckets(count: usize) -> Box<[Bucket]> {
    let mut buckets = Vec::with_capacity(count);
    advise_huge_pages(buckets.spare_capacity_mut());
    buckets.resize(count, Bucket::EMPTY);
    buckets.into_boxed_slice()
}

/// The first bucket to look for a key in; those behind the last home are only for what spills.
#[inline]
fn home(key: DedupKey, homes: usize) -> usize {
    let high = (key.0.get() >> 64) as u64;
    ((u128::from(high) * homes as u128) >> 64) as usize
}

/// D5: whether an index, known by its low half, lies between what is written and what was pushed.
#[inline]
fn is_uncommitted(push_index: u32, progress: Progress) -> bool {
    let open = progress.delivered.saturating_sub(progress.committed);
    u64::from(push_index.wrapping_sub(progress.committed as u32)) < open
}

#[cfg(test)]
#[path = "dedup_tests.rs"]
mod tests;
