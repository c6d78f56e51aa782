//! The harness: what a machine can do, what the engine does on it, and how to show both.
//!
//! ```text
//! ceiling ── the machine's own limits ─┐
//! scenarios (commands::bench) ─────────┼─► Document ─► JSON, CSV, .hgrm ─► report: one page of HTML
//! looks, stages, threads ──────────────┤                              └─► compare: verdicts
//! noise, host ─────────────────────────┘
//! ```
//!
//! - **H1** A figure keeps the value of each repeat; a median is one of them.
//! - **H2** What is compared with a limit is measured beside it: in one process layout, in turn within one repeat.
//! - **H3** Latencies are counted from when an event was due, so that a sender that is held up hides nothing; how late it was is beside it.
//! - **H4** A run in which an event was lost, or whose account does not balance, says so and fails; its figures are kept.

#![forbid(unsafe_code)]

mod bars;
pub mod ceiling;
mod chart;
pub mod compare;
pub mod curve;
pub mod document;
pub mod figure;
pub mod host;
pub mod looks;
pub mod noise;
mod palette;
mod plots;
pub mod report;
pub mod shares;
pub mod stages;
pub mod threads;
pub mod timeline;
