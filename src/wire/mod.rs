//! The wire formats.

mod priority;

pub use priority::{Priority, Tier};
