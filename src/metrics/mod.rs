//! The ledger, counters, latency, export.

pub mod ledger;
