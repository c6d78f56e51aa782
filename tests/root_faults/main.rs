//! Faults of disks and hosts that take root's rights to make: `make test-root`, and `make test-vm` for what takes a kernel of its own.
//!
//! | module | holds |
//! |---|---|
//! | `disk` | file systems of one's own: one that loses its power, one whose device drops or refuses writes, small ones, read-only ones |
//! | `power` | power cuts: what was announced durable is there |
//! | `failing` | a disk that refuses writes: the store stops, and what it had promised is there |
//! | `full` | no space: at the start, while reserving, in mid-batch |
//! | `host` | NUMA placement, `io_uring_disabled`: where the host has or may be told so |
//!
//! All are ignored by default; each says loudly what it lacks where it can't run.

#[path = "../support/mod.rs"]
mod support;

mod disk;
mod failing;
mod full;
mod host;
mod power;
