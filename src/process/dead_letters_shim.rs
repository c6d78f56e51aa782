//! Stands where `storage::dead_letter`, `storage::InletProgress` and `sys::process` join: same names, same signatures.

use std::sync::{Arc, Mutex};

use crossbeam_utils::CachePadded;

use crate::metrics::ledger::{Counter, DropReason};
use crate::pool::{Event, Releaser, SharedPool};

/// A fixed-size copy of an error text, at most 95 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Note {
    bytes: [u8; 95],
    len: u8,
}

impl Note {
    /// No text.
    pub const EMPTY: Note = Note { bytes: [0; 95], len: 0 };

    /// Copies as much of the text as fits.
    pub fn new(text: &str) -> Self {
        let mut note = Self::EMPTY;
        let len = crate::process::handler::text_prefix(text, note.bytes.len()).len();
        note.bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        note.len = len as u8;
        note
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len as usize]).unwrap_or("")
    }
}

/// An agent's way to the dead letters.
pub struct DeadLetterSender {
    releaser: Releaser,
    sent: Arc<Mutex<Vec<(DropReason, Note)>>>,
}

impl DeadLetterSender {
    /// Keeps only reason and note.
    pub fn new(pool: Arc<SharedPool>) -> Self {
        Self { releaser: Releaser::new(pool), sent: Arc::default() }
    }

    /// What was sent.
    pub fn sent(&self) -> Arc<Mutex<Vec<(DropReason, Note)>>> {
        self.sent.clone()
    }

    /// Takes the event; never blocks.
    pub fn send(&mut self, event: Event, reason: DropReason, note: Note) {
        self.sent.lock().expect("nobody panics with it").push((reason, note));
        self.releaser.release(event);
        self.releaser.flush();
    }
}

/// How many events of an inlet, in push order, have been written.
#[derive(Clone, Debug, Default)]
pub struct InletProgress(Arc<CachePadded<Counter>>);

impl InletProgress {
    /// Events written so far.
    pub fn get(&self) -> u64 {
        self.0.get()
    }

    /// The appender's side.
    pub fn set(&self, events: u64) {
        self.0.set(events);
    }
}

/// Makes the calling thread a helper.
pub fn helper_thread_setup() {}
