//! The subcommands, one file or folder each.

#![forbid(unsafe_code)]

pub mod send;
