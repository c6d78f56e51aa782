#![forbid(unsafe_code)]
//! The simulator: the engine's own agents, unchanged, over a simulated kernel, disk and clock, on one thread, by one seed.
//!
//! ```text
//!  clients ◄──bytes─► net ┐                          ┌──────── scheduler ────────┐
//!                         ├─ kernel ◄──Ring── agents ┤ polls, completions, time, │
//!          disk ◄─────────┘   (faults)     ▲         │ stalls: in seeded order   │
//!  publishers ──────────────── lanes ──────┘         └───────────────────────────┘
//! ```
//!
//! Invariants:
//! - **M1** One seed, one run: no thread, no host clock, no hash order has a say in what happens.
//! - **M2** The simulated ring keeps R1-R4 of [`crate::sys::io`] and nothing more: whatever they leave open, chance decides.
//! - **M3** An agent's mistake towards the kernel ends the run at once, with its name (see [`kernel`]).
//!
//! A node may die, or be stopped, and another one go on with its disk, several times a seed ([`lives`], [`restart`]); the disk may lie ([`damage`]);
//! what went wrong is counted ([`tally`]); bugs may be planted ([`campaign`]), to see whether the oracles find them.
//!
//! What it does not do: memory orderings (loom has those), throughput.

pub mod campaign;
pub mod clients;
pub mod clock;
mod damage;
pub mod disk;
#[cfg(test)]
mod echo;
pub mod faults;
pub mod frames;
pub mod kernel;
pub mod lives;
pub mod net;
pub mod node;
pub mod oracle;
pub mod publishers;
mod receive;
mod reckoning;
mod restart;
pub mod ring;
pub mod rng;
pub mod scenario;
pub mod scheduler;
mod sectors;
mod sending;
pub mod session_client;
pub mod session_oracle;
pub mod source_oracle;
pub mod tally;
pub mod world;
