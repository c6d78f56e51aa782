//! storage
#![forbid(unsafe_code)]

pub mod appender;
pub mod dead_letter;
pub mod folder;
pub mod format;
pub mod log_file;
pub mod reader;
pub mod recovery;
pub mod rfc3339;
mod staging;
pub mod status;
pub mod walk;
