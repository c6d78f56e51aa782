//! Stands where `storage::dead_letter` joins: same names, same signatures.

use std::sync::Arc;

use crate::metrics::ledger::DropReason;
use crate::pool::{Event, Releaser, SharedPool};

/// A fixed-size copy of an error text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note;

impl Note {
    /// No text.
    pub const EMPTY: Note = Note;
}

/// An agent's way to the dead letters.
pub struct DeadLetterSender {
    releaser: Releaser,
}

impl DeadLetterSender {
    /// Keeps nothing.
    pub fn new(pool: Arc<SharedPool>) -> Self {
        Self { releaser: Releaser::new(pool) }
    }

    /// Takes the event; never blocks.
    pub fn send(&mut self, event: Event, _reason: DropReason, _note: Note) {
        self.releaser.release(event);
        self.releaser.flush();
    }
}
