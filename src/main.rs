//! The `eventstream` binary: flags to a command to an exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use eventstream::commands::{self, PARTS};

fn main() -> ExitCode {
    ExitCode::from(commands::main(std::env::args_os(), &PARTS) as u8)
}
