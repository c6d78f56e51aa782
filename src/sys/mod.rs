//! Everything that is a syscall.

pub mod clock;
pub mod file;
pub mod io;
pub mod memory;
pub mod wake;
