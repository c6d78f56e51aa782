//! The `eventstream` binary: flags to a command to an exit code.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use eventstream::commands::{self, CommandError, ExitStatus, Parts};

fn absent<T>(part: &str) -> Result<T, CommandError> {
    let fix = "a build with all parts";
    Err(CommandError::new(ExitStatus::Environment, format!("no {part} in this build"), "its part is not connected", fix))
}

fn main() -> ExitCode {
    let parts =
        Parts { start_engine: |_, _| absent("engine"), probe_host: |_| absent("probe"), plan_cores: |_| absent("planner") };
    ExitCode::from(commands::main(std::env::args_os(), &parts) as u8)
}
