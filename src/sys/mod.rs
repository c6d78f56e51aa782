//! Everything that is a syscall.

pub mod clock;
pub mod io;
pub mod memory;
pub mod prefetch;
pub mod wake;
