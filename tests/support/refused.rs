//! Starts that must be refused: their exit code, and the three lines that a person gets.

use std::path::Path;
use std::process::Command;

use super::{DEFAULTS, binary};

/// Exit code: the configuration makes no sense.
pub const CONFIGURATION: i32 = 3;
/// Exit code: the host lacks something.
pub const ENVIRONMENT: i32 = 4;

/// Runs `serve` on a data folder where it must refuse to start; returns its exit code and stderr.
pub fn refused_start(data: &Path, flags: &[&str]) -> (i32, String) {
    refused_start_of(Command::new(binary()), data, flags)
}

/// The same by a given command, whose last word is the binary.
pub fn refused_start_of(mut command: Command, data: &Path, flags: &[&str]) -> (i32, String) {
    let output = command
        .arg("serve")
        .envs(DEFAULTS.iter().copied())
        .arg(format!("--data-dir={}", data.display()))
        .args(flags)
        .output()
        .expect("the binary runs");
    (output.status.code().expect("an exit code"), String::from_utf8(output.stderr).expect("text"))
}

/// Error, cause and fix, one line each.
#[track_caller]
pub fn assert_three_lines(stderr: &str) {
    let lines: Vec<&str> =
        stderr.lines().filter(|l| ["error:", "cause:", "fix:"].iter().any(|w| l.trim_start().starts_with(w))).collect();
    assert_eq!(lines.len(), 3, "error, cause, fix expected in:\n{stderr}");
}
