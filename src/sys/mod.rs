//! Everything that is a syscall: the only folder that talks to the kernel.
//!
//! ```text
//! features ── what this kernel can do, found by `probe`          findings ── what doctor prints, and limits of the host
//! uring ───── the ring of a runner, over `buffer_ring`           io, clock ─ the seams that agents and the simulator see
//! memory ──── arenas, staging buffers, memory left               socket ──── listeners, steered datagram sockets
//! topology ── nodes and cores, `plan` ── who runs where          process ─── pinning, nice, descriptors
//! wake ────── parking and waking a runner                    prefetch ─ a hint to the CPU, as a safe function
//! ```
//!
//! What it does not do: know of frames, events or tiers. The kernel is asked for what it can do by doing it, never by its version.

mod buffer_ring;
pub mod clock;
pub mod features;
pub mod file;
pub mod findings;
pub mod io;
pub mod memory;
pub mod plan;
pub mod prefetch;
pub mod probe;
pub mod process;
pub mod socket;
pub mod topology;
pub mod udp_segments;
pub mod uring;
pub mod wake;
