//! Control: how a node sheds load when it gets more than it can serve, and how it comes back.
//!
//! ```text
//! lanes' depth, ledger, kernel drops, REALTIME p99 ──► signals ──► judge ──► level ──► NodeGate ──► reactors, publishers, processors
//!                                                      └────────── Control, an agent: looks every 10 ms ──────────┘
//! ```
//!
//! [`level`] says what each level does, [`gate`] is how everybody hears of it.

#![forbid(unsafe_code)]

pub mod gate;
pub mod level;

pub use gate::{Admission, GateReading, NodeGate, Patience};
pub use level::{Actions, Level, TierIntake};
