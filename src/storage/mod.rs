//! The durable end of an event's life: the log, and the dead letters.
//!
//! ```text
//! engine's thread   folder (lock) ─► recovery (cut, refuse, new epoch) ─► position ─┐            ┌─► finish (mark, cut to length)
//! runner            inlets ─► appender: staging, one write in flight, group commit ─┴─► events.bin
//! helper threads    dead_letter: queue ─► collector ─► writer ─► dlq_log.txt
//! commands          reader (walk, verify, merge), also beside a running engine
//! ```
//!
//! - `format` is the bytes, without I/O; `walk` goes over them and tells damage from a torn tail; `recovery` and `reader` are its two users.
//! - `log_file` is the seam to the disk outside of the ring; the ring itself is [`crate::sys::io::Ring`].
//! - `rotating_file` is a bounded file of lines, for everything that helper threads write.
//! - `status` is what everybody else may know: watermarks, state, progress per inlet.
//!
//! Named invariants: F (`format`), K (`walk`), V (`recovery`), G (`staging`), A (`appender`), D (`dead_letter`), R (`rotating_file`).
//!
//! What it does not do: replicate, compact, index; or hold more than one file per node. A batch says its epoch, its log and its sequences,
//! and evidence of damage is found by sequence too: a log of several segments needs no other format.
#![forbid(unsafe_code)]

pub mod appender;
pub mod dead_letter;
pub mod folder;
pub mod format;
pub mod log_file;
pub mod reader;
pub mod recovery;
pub mod rfc3339;
pub mod rotating_file;
mod staging;
pub mod status;
pub mod walk;

pub use appender::{Appender, AppenderCounters, AppenderLatencies, AppenderOptions, AppenderParts, Durability, Inlet};
pub use folder::{DataFolder, OpenRefusal};
pub use log_file::{DiskFile, LogFile};
pub use recovery::{LogIdentity, LogPosition, OpenLog, RecoveryReport};
pub use status::{InletProgress, StoreOperation, StoreState, StoreStatus};

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
