//! The durable end of an event's life: the log, and the dead letters.
//!
//! ```text
//! engine's thread   folder (lock) ─► recovery (complete, cut, refuse) ─► open (new epoch) ─► position ─┐     ┌─► finish (mark, cut to length)
//! runner            inlets ─► appender: staging, one write in flight, group commit, rolls ─────────────┴─► events.bin
//! helper threads    keeper: prepares, seals and names segments            dead_letter: queue ─► collector ─► writer ─► dlq_log.txt
//! commands          node_reader (walk, verify, merge) and cursors, also beside a running engine; repair, on request, in its place
//! ```
//!
//! - `format` is the bytes, without I/O; `names` are the files; `walk` goes over a file and tells damage from a torn tail; `segments` looks
//!   over the row of them.
//! - `log_file` is the seam to the disk outside of the ring; the ring itself is [`crate::sys::io::Ring`].
//! - `rotating_file` is a bounded file of lines, for everything that helper threads write.
//! - `producers` tells which sequences of which producer are stored.
//! - `sync_method` measures how a write is best made durable.
//! - `status` is what everybody else may know: watermarks, state, progress per inlet.
//!
//! Named invariants: F (`format`), K (`walk`), S (`segments`), V (`recovery`), B (`open`), G (`staging`), A (`appender`), H (`keeper`),
//! N (`node_reader`), X (`repair`), P (`producers`), D (`dead_letter`), R (`rotating_file`).
//!
//! What it does not do: replicate, compact.
#![forbid(unsafe_code)]

pub mod appender;
pub mod copy;
pub mod cursor;
pub mod dead_letter;
pub mod folder;
pub mod format;
pub mod keeper;
pub mod log_file;
pub mod names;
pub mod node_reader;
pub mod open;
pub mod producers;
pub mod reader;
pub mod recovery;
pub mod repair;
pub mod rfc3339;
pub mod rotating_file;
pub mod segments;
mod staging;
pub mod status;
pub mod sync_method;
pub mod walk;

pub use appender::{Appender, AppenderCounters, AppenderLatencies, AppenderOptions, AppenderParts, Durability, Inlet};
pub use folder::{DataFolder, OpenRefusal};
pub use keeper::SegmentOptions;
pub use log_file::{DiskFile, DiskFolder, LogFile, LogFolder};
pub use open::{LogIdentity, LogPosition, OpenLog};
pub use recovery::RecoveryReport;
pub use status::{InletProgress, StoreOperation, StoreState, StoreStatus};
pub use sync_method::{SyncChoice, SyncMethod, SyncProbe};

#[cfg(all(test, not(loom)))]
pub(crate) mod testing;
#[cfg(all(test, not(loom)))]
mod tests;
