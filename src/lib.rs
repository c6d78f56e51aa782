//! `eventstream`: an io_uring-based, thread-per-core event engine for bare-metal Linux.

pub mod agent;
pub mod bus;
pub mod commands;
pub mod config;
pub mod control;
pub mod engine;
pub mod ingest;
pub mod limits;
pub mod metrics;
pub mod pool;
pub mod process;
pub mod report;
pub mod runner;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod storage;
mod sync;
pub mod sys;
pub mod wire;
