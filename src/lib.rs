//! `eventstream`: an io_uring-based, thread-per-core event engine for bare-metal Linux.

// Model-checked builds (`make loom`) leave out what needs tokio, and with it the users of much else.
#![cfg_attr(loom, allow(dead_code, unused_imports))]

pub mod agent;
pub mod bus;
#[cfg(not(loom))]
pub mod commands;
pub mod config;
pub mod control;
#[cfg(not(loom))]
pub mod engine;
pub mod ingest;
pub mod limits;
pub mod metrics;
pub mod pool;
pub mod process;
pub mod report;
pub mod runner;
#[cfg(all(not(loom), any(test, feature = "sim")))]
pub mod sim;
pub mod storage;
mod sync;
pub mod sys;
pub mod wire;
