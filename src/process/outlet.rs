//! A processor's ways out, and the count that belongs to each.
//!
//! ```text
//!             ┌── deliver ──► held ──► inlet of the appender      (storage off: counted as handled, released)
//! processor ──┼── duplicate ──► released
//!             └── dead_letter ──► dead letters
//! ```
//!
//! Invariants:
//! - **E1** Every event that a processor takes leaves through exactly one of the three, which counts its outcome (L2; *stored* is the
//!   appender's to count), and leaves it in the slot (O1 in [`crate::pool`]'s `outcome`).
//! - **E2** Events reach the inlet in the order of `deliver`; the number that `deliver` returns is the event's push index in the inlet.
//! - **E3** `held.len() <= hold_events_max` as long as callers deliver only into `Outlet::room`. No allocation: held is made at start.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::bus::ClassCounters;
use crate::bus::lane::{Full, LaneProducer};
use crate::metrics::ledger::{DropReason, LedgerCell, LedgerCells};
use crate::pool::{Event, Outcome, Releaser, SharedPool, Source};
use crate::process::dedup::Progress;
use crate::storage::dead_letter::{DeadLetterSender, Note};
use crate::storage::status::InletProgress;
use crate::sys::clock::Nanos;
use crate::wire::Tier;

/// A processor's end of the way to the log.
#[derive(Debug)]
pub struct Inlet {
    /// The lane to the appender.
    pub producer: LaneProducer,
    /// What the appender has written of it.
    pub progress: InletProgress,
}

/// See the module doc.
pub(crate) struct Outlet {
    inlet: Option<Inlet>,
    pool: Arc<SharedPool>,
    releaser: Releaser,
    ledger: Arc<LedgerCells>,
    dead_letters: DeadLetterSender,
    duplicates: Arc<ClassCounters>,
    held: VecDeque<Event>,
    hold_events_max: usize,
    delivered: u64,
}

impl Outlet {
    pub(crate) fn new(
        inlet: Option<Inlet>,
        pool: Arc<SharedPool>,
        ledger: Arc<LedgerCells>,
        dead_letters: DeadLetterSender,
        duplicates: Arc<ClassCounters>,
        hold_events_max: usize,
    ) -> Self {
        let (releaser, held) = (Releaser::new(pool.clone()), VecDeque::with_capacity(hold_events_max));
        Self { inlet, pool, releaser, ledger, dead_letters, duplicates, held, hold_events_max, delivered: 0 }
    }

    /// Events that may be delivered now (E3).
    pub(crate) fn room(&self) -> usize {
        self.hold_events_max - self.held.len()
    }

    /// Events waiting for a place in the inlet.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// How far the log is with what was delivered (E2); all of it is done with storage off.
    pub(crate) fn progress(&self) -> Progress {
        let committed = self.inlet.as_ref().map_or(self.delivered, |inlet| inlet.progress.get());
        Progress { delivered: self.delivered, committed }
    }

    fn cell(&self, event: &Event) -> &LedgerCell {
        let header = self.pool.header(event);
        self.ledger.cell(header.source, header.tier)
    }

    /// The event is handled; it goes to the log, or ends here with storage off. Returns its push index.
    #[inline]
    pub(crate) fn deliver(&mut self, mut event: Event) -> u64 {
        let index = self.delivered;
        self.delivered += 1;
        self.cell(&event).processed.add(1);
        let Some(inlet) = &mut self.inlet else {
            self.cell(&event).handled.add(1);
            self.pool.end(&mut event, Outcome::Handled);
            self.releaser.release(event);
            return index;
        };
        if !self.held.is_empty() {
            self.held.push_back(event);
        } else if let Err(Full(event)) = inlet.producer.push(event) {
            self.held.push_back(event);
        }
        debug_assert!(self.held.len() <= self.hold_events_max, "E3: deliver only into room");
        index
    }

    /// As [`Outlet::deliver`] for each event of a batch in its order, with one count for neighbours that are alike; `received` is told when and
    /// how many of them came. The batch is empty afterwards.
    #[inline]
    pub(crate) fn deliver_all(&mut self, batch: &mut Vec<Event>, mut received: impl FnMut(Nanos, u64)) {
        let mut rest = &batch[..];
        while let Some(first) = rest.first() {
            let origin = self.origin(first);
            let (source, tier, received_at) = origin;
            let alike = 1 + rest[1..].iter().take_while(|event| self.origin(event) == origin).count();
            let cell = self.ledger.cell(source, tier);
            cell.processed.add(alike as u64);
            if self.inlet.is_none() {
                cell.handled.add(alike as u64);
            }
            received(received_at, alike as u64);
            rest = &rest[alike..];
        }
        self.delivered += batch.len() as u64;
        let Some(inlet) = &mut self.inlet else {
            for mut event in batch.drain(..) {
                self.pool.end(&mut event, Outcome::Handled);
                self.releaser.release(event);
            }
            return;
        };
        if self.held.is_empty() {
            inlet.producer.push_batch(batch);
        }
        self.held.extend(batch.drain(..));
        debug_assert!(self.held.len() <= self.hold_events_max, "E3: deliver only into room");
    }

    #[inline]
    fn origin(&self, event: &Event) -> (Source, Tier, Nanos) {
        let header = self.pool.header(event);
        (header.source, header.tier, header.received_at)
    }

    /// The event is one that was seen before.
    pub(crate) fn duplicate(&mut self, event: Event) {
        self.cell(&event).duplicate.add(1);
        self.duplicates.count(self.pool.topic(&event));
        self.releaser.release(event);
    }

    /// The event is lost for a reason.
    pub(crate) fn dead_letter(&mut self, mut event: Event, reason: DropReason, note: Note) {
        self.cell(&event).lost[reason as usize].add(1);
        self.pool.end(&mut event, Outcome::Lost(reason));
        self.dead_letters.send(event, reason, note);
    }

    /// The event was copied; its slot goes home, its outcome is still open, and the copy's.
    pub(crate) fn release_copied(&mut self, event: Event) {
        self.releaser.release(event);
    }

    /// Moves held events on as places come free. Returns how many. At the begin of a poll.
    pub(crate) fn pump(&mut self) -> u32 {
        let Some(inlet) = &mut self.inlet else { return 0 };
        let mut moved = 0;
        while let Some(event) = self.held.pop_front() {
            if let Err(Full(event)) = inlet.producer.push(event) {
                self.held.push_front(event);
                break;
            }
            moved += 1;
        }
        moved
    }

    /// Publishes and splices. At the end of a poll.
    pub(crate) fn flush(&mut self) {
        if let Some(inlet) = &mut self.inlet {
            inlet.producer.publish();
        }
        self.releaser.flush();
    }
}

impl Drop for Outlet {
    /// A drain that ran out of time leaves events here; the ledger shows them as in flight, their slots go home.
    fn drop(&mut self) {
        self.held.drain(..).for_each(|event| self.releaser.release(event));
        self.releaser.flush();
    }
}

#[cfg(test)]
mod tests {
    use crate::process::test_support::{TestPool, inlet};

    #[test]
    fn held_events_reach_the_inlet_in_order_with_the_promised_index() {
        let mut pool = TestPool::new();
        let (inlet, mut appender, _) = inlet(4);
        let mut outlet = pool.outlet(Some(inlet), 8);
        let indices: Vec<u64> = (0..9).map(|id| outlet.deliver(pool.transactional(id, "t", b"b"))).collect();
        assert_eq!(indices, (0..9).collect::<Vec<_>>());
        assert_eq!((outlet.held(), outlet.room()), (5, 3));
        let mut ids = Vec::new();
        while ids.len() < 9 {
            outlet.flush();
            let mut taken = Vec::new();
            appender.pop_batch(&mut taken, 64);
            for event in taken {
                ids.push(pool.shared.header(&event).id);
                pool.release(event);
            }
            outlet.pump();
        }
        assert_eq!(ids, indices);
        assert_eq!(pool.events_out(), 0);
    }

    #[test]
    fn without_storage_an_event_ends_as_handled() {
        let mut pool = TestPool::new();
        let mut outlet = pool.outlet(None, 8);
        outlet.deliver(pool.transactional(1, "t", b"b"));
        outlet.flush();
        assert_eq!((pool.terms().handled, pool.terms().processed, pool.events_out()), (1, 1, 0));
    }
}
