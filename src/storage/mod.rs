//! storage
#![forbid(unsafe_code)]

pub mod appender;
pub mod folder;
pub mod format;
pub mod log_file;
pub mod recovery;
mod staging;
pub mod status;
pub mod walk;
