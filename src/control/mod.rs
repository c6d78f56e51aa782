//! Control: how a node sheds load when it gets more than it can serve, and how it comes back.
//!
//! ```text
//! lanes' depth, ledger, kernel drops, REALTIME p99 ──► signals ──► judge ──► level ──► NodeGate ──► reactors, publishers, processors
//!                                                      └────────── Control, an agent: looks every 10 ms ──────────┘
//! ```
//!
//! [`level`] says what each level does, [`judge`] which one it is, [`signals`] by what, [`gate`] is how everybody hears of it, and
//! [`status`] how people do. Only [`plane`] knows threads and clocks; the rest is tables and pure functions.

#![forbid(unsafe_code)]

pub mod gate;
pub mod judge;
pub mod level;
pub mod plane;
pub mod shed;
pub mod signals;
pub mod status;

pub use gate::{Admission, GateReading, NodeGate, Patience};
pub use judge::{Cause, Signal, Signals, Standing, Thresholds, Transition};
pub use level::{Actions, Level, TierIntake};
pub use plane::{Control, ControlWiring};
pub use shed::ShedByClass;
pub use status::{ControlStatus, LevelReading, LevelWatch};
