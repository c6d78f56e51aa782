//! Any bytes, as a session's stream in either direction: see the check for what must hold.

#![no_main]

#[path = "../checks/session.rs"]
mod session;

libfuzzer_sys::fuzz_target!(|data: &[u8]| session::check(data));
