//! Any bytes, as a log that is read, verified, recovered and opened: see the check for what must hold.

#![no_main]

#[path = "../checks/log.rs"]
mod log;

libfuzzer_sys::fuzz_target!(|data: &[u8]| log::check(data));
