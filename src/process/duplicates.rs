//! A processor's duplicates: recognised when a batch is taken, settled when each event leaves.
//!
//! ```text
//! batch ── screen ──► seen before? ── yes ──► duplicate (counted, by topic class too)
//!                         ├ no, and nobody handles it: its key is handed over ──► inlet
//!                         │ no: its key is pending
//!                         └──► handled ──► deliver: key handed over
//!                                    └───► lose: key forgotten, who sends it again is heard
//! ```
//!
//! Two tables: one for idempotency keys, in every tier and whatever `--dedup` says, and, where TRANSACTIONAL looks for duplicates by what events
//! say, one for that. So a flood of ordinary events does not drive out the idempotency keys.
//!
//! Invariants:
//! - **DU1** A key leaves *pending* exactly when its event leaves the processor: handed over with its push index, or forgotten. Where all new events
//!   of a batch go on as they are ([`Next::Delivery`]), nothing can come between, and their keys are handed over at once.
//! - **DU2** After `screen` for [`Next::Handling`] there is one entry in `keys` for each event of the batch, in its order; for [`Next::Delivery`]
//!   none.
//! - **DU3** Where only keyed events are looked for, an event without a key costs one predictable branch.
//! - **DU4** An event of a session is compared with nothing: its producer's sequences were looked at when it came in.

#![forbid(unsafe_code)]

use crate::metrics::ledger::DropReason;
use crate::pool::{Event, SharedPool};
use crate::process::counters::{DedupCounters, TierDedupCounters};
use crate::process::dedup::{Dedup, DedupKey, DedupOptions, Seen};
use crate::process::identity::{DedupBy, Identity};
use crate::process::outlet::Outlet;
use crate::storage::dead_letter::Note;
use crate::sys::clock::Nanos;
use crate::sys::prefetch::prefetch_read;

/// Keys of a batch, beside it: `None` for an event that nothing is compared with.
pub(crate) type Keys = Vec<Option<DedupKey>>;

/// What happens to the new events of a batch (DU1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Somebody handles them, and may lose some.
    Handling,
    /// All are delivered, in their order, before anything else is.
    Delivery,
}

/// See the module doc.
pub(crate) struct Duplicates {
    identity: Identity,
    keyed: Dedup,
    by_body: Option<Dedup>,
}

impl Duplicates {
    /// Looks for events with an idempotency key only.
    pub(crate) fn keyed_only(keyed: &DedupOptions) -> Self {
        Self { identity: Identity::new(DedupBy::Content), keyed: Dedup::new(keyed), by_body: None }
    }

    /// Looks for all: what has no idempotency key is known by its body.
    pub(crate) fn all(keyed: &DedupOptions, by: DedupBy, by_body: &DedupOptions) -> Self {
        Self { identity: Identity::new(by), keyed: Dedup::new(keyed), by_body: Some(Dedup::new(by_body)) }
    }

    fn tables(&mut self) -> impl Iterator<Item = &mut Dedup> {
        std::iter::once(&mut self.keyed).chain(&mut self.by_body)
    }

    /// At start.
    pub(crate) fn begin(&mut self, now: Nanos) {
        self.tables().for_each(|table| table.begin(now));
    }

    /// Once per poll, before [`Duplicates::screen`].
    pub(crate) fn advance(&mut self, now: Nanos) {
        self.tables().for_each(|table| table.advance(now));
    }

    /// When a table has to be swept next.
    pub(crate) fn deadline(&self, now: Nanos) -> Option<Nanos> {
        let by_body = self.by_body.as_ref().and_then(|table| table.deadline(now));
        self.keyed.deadline(now).into_iter().chain(by_body).min()
    }

    /// The table for an event.
    fn table(&mut self, is_keyed: bool) -> &mut Dedup {
        match &mut self.by_body {
            Some(by_body) if !is_keyed => by_body,
            _ => &mut self.keyed,
        }
    }

    /// The key of an event, and whether its body lacked what it should be known by.
    #[inline]
    fn identify(&self, pool: &SharedPool, event: &Event) -> (Option<DedupKey>, bool) {
        let header = pool.header(event);
        match (header.idempotency_key(), &self.by_body) {
            (Some(key), _) => (Some(self.identity.of_key(key)), false),
            // DU4
            _ if header.producer().is_some() => (None, false),
            (None, Some(_)) => {
                let (key, fell_back) = self.identity.of_payload(pool.payload(event), header.topic_len);
                (Some(key), fell_back)
            }
            (None, None) => (None, false),
        }
    }

    /// The key of an event that was away since it was screened (a retry, a helper's).
    pub(crate) fn key(&self, pool: &SharedPool, event: &Event) -> Option<DedupKey> {
        self.identify(pool, event).0
    }

    /// Takes the duplicates out of a batch, in whose order the others stay, and gives the keys of these (DU2).
    pub(crate) fn screen(
        &mut self,
        pool: &SharedPool,
        batch: &mut Vec<Event>,
        keys: &mut Keys,
        outlet: &mut Outlet,
        counters: &TierDedupCounters,
        next: Next,
    ) {
        debug_assert!(keys.is_empty(), "the keys of the batch before are used up");
        let is_keyed = |event: &Event| pool.header(event).idempotency_key().is_some();
        if self.by_body.is_none() && !batch.iter().any(is_keyed) {
            if next == Next::Handling {
                keys.resize(batch.len(), None);
            }
            return; // DU3
        }
        let mut progress = outlet.progress();
        let first_index = progress.delivered;
        if next == Next::Delivery {
            progress.delivered += batch.len() as u64;
        }
        let admit = |table: &mut Dedup, key, place| match next {
            Next::Handling => table.admit(key, progress),
            Next::Delivery => table.admit_handed(key, progress, first_index + place as u64),
        };
        let has_keyed = self.identify_all(pool, batch, keys, counters);
        let kept = match &mut self.by_body {
            Some(table) if !has_keyed => keep_new(batch, keys, |_, key, place| admit(table, key, place)),
            _ => keep_new(batch, keys, |event, key, place| admit(self.table(is_keyed(event)), key, place)),
        };
        keys.truncate(if next == Next::Delivery { 0 } else { kept });
        for event in batch.drain(kept..) {
            counters.of(is_keyed(&event)).hits.add(1);
            outlet.duplicate(event);
        }
        tell(&self.keyed, &counters.keyed);
        if let Some(by_body) = &self.by_body {
            tell(by_body, &counters.by_body);
        }
    }

    /// Makes the keys of a batch, and has their buckets fetched. Returns whether any is an idempotency key.
    ///
    /// Keys first, then all prefetches in a row: a prefetch waits for its page walk, and walks overlap only where nothing much is between them
    /// (between the hashes they cost 40 ns an event).
    fn identify_all(&mut self, pool: &SharedPool, batch: &[Event], keys: &mut Keys, counters: &TierDedupCounters) -> bool {
        let are_plain = fetch_ends(pool, batch);
        if let (true, Some(table)) = (are_plain, &self.by_body) {
            let mut lacked = 0;
            keys.extend(batch.iter().map(|event| {
                let (header, payload) = pool.parts(event);
                let (key, fell_back) = self.identity.of_payload(payload, header.topic_len);
                lacked += u64::from(fell_back);
                Some(key)
            }));
            keys.iter().flatten().for_each(|key| table.prefetch(*key));
            counters.by_body.lookups.add(batch.len() as u64);
            counters.by_body.fallbacks.add(lacked);
            return false;
        }
        let (mut keyed, mut by_body, mut fell_back) = (0, 0, 0);
        for event in batch {
            let is_keyed = pool.header(event).idempotency_key().is_some();
            let (key, lacked) = self.identify(pool, event);
            keyed += u64::from(is_keyed);
            by_body += u64::from(key.is_some() && !is_keyed);
            fell_back += u64::from(lacked);
            keys.push(key);
        }
        for (event, key) in batch.iter().zip(keys.iter()) {
            if let Some(key) = key {
                self.table(pool.header(event).idempotency_key().is_some()).prefetch(*key);
            }
        }
        counters.keyed.lookups.add(keyed);
        counters.by_body.lookups.add(by_body);
        counters.by_body.fallbacks.add(fell_back);
        keyed > 0
    }

    /// The event is handled: it goes on, and is a known one from now on.
    #[inline]
    pub(crate) fn deliver(&mut self, pool: &SharedPool, event: Event, key: Option<DedupKey>, outlet: &mut Outlet) {
        let is_keyed = pool.header(&event).idempotency_key().is_some();
        let push_index = outlet.deliver(event);
        if let Some(key) = key {
            self.table(is_keyed).hand_over(key, push_index);
        }
    }

    /// As [`Duplicates::deliver`] for the keys of a batch that is about to be delivered.
    pub(crate) fn hand_over_all(&mut self, pool: &SharedPool, batch: &[Event], keys: &Keys, outlet: &Outlet) {
        for ((event, key), push_index) in batch.iter().zip(keys).zip(outlet.progress().delivered..) {
            if let Some(key) = key {
                self.table(pool.header(event).idempotency_key().is_some()).hand_over(*key, push_index);
            }
        }
    }

    /// The event is lost for a reason.
    pub(crate) fn lose(&mut self, pool: &SharedPool, event: Event, reason: DropReason, note: Note, outlet: &mut Outlet) {
        if let Some(key) = self.key(pool, &event) {
            self.table(pool.header(&event).idempotency_key().is_some()).forget(key);
        }
        outlet.dead_letter(event, reason, note);
    }
}

/// Has the ends of a batch's payloads fetched, as far as they are beyond what [`SharedPool::prefetch`] has fetched. Returns whether no event has
/// an idempotency key, or came in a session.
fn fetch_ends(pool: &SharedPool, batch: &[Event]) -> bool {
    let mut are_plain = true;
    for event in batch {
        are_plain &= pool.header(event).key.is_none();
        pool.payload(event).last().into_iter().for_each(prefetch_read);
    }
    are_plain
}

/// Moves the new ones to the front, in their order; returns how many they are. `admit` is told which place an event gets if it is new.
fn keep_new(batch: &mut [Event], keys: &mut [Option<DedupKey>], mut admit: impl FnMut(&Event, DedupKey, usize) -> Seen) -> usize {
    let mut kept = 0;
    for place in 0..batch.len() {
        if keys[place].is_none_or(|key| admit(&batch[place], key, kept) == Seen::New) {
            if kept != place {
                batch.swap(kept, place);
                keys.swap(kept, place);
            }
            kept += 1;
        }
    }
    kept
}

/// The gauges of a table.
fn tell(table: &Dedup, counters: &DedupCounters) {
    let (evictions, pending) = table.evictions();
    counters.evictions.set(evictions);
    counters.pending_evictions.set(pending);
    counters.held.set(table.held());
    counters.window_ms.set(table.real_window().0 / 1_000_000);
    counters.window_configured_ms.set(table.options().window.0 / 1_000_000);
}
