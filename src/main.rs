//! The `eventstream` binary: flags to a command to an exit code.

fn main() {}
