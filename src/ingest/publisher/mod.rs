//! Producers inside this process: events without a socket.
//!
//! ```text
//!  any thread                      shared with the engine                    the node
//!  Publisher ── attempt, locked ──► ProducerSeat { Producer } ── lanes ──► tiers ──► processors
//!     ▲  └─ must wait: announce, attempt once more, sleep                        │         │
//!     └──────────────── woken ◄── room in the tier ◄─────────────────────────────┘         │
//!     └──────────────── woken ◄── a slot came home ◄───────────────────────────────────────┘
//! ```
//!
//! A [`Producer`] is what a reactor is to a socket: it has a partition of the node's pool, a lane into each tier, a part of the ledger and
//! numbers of its own for ids. It never waits, so the simulator polls it as it polls agents. A [`Publisher`] gives it to a thread.
//!
//! Invariants:
//! - **U1** A publication is refused and not counted, or it is received and has exactly one outcome. [`Refused`] tells which, and gives the
//!   publication back either way.
//! - **U2** A publisher sleeps only after an attempt, made after it announced its sleep, found no way: then the tier's consumer (T5 in
//!   [`mod@crate::bus::tier`]), whoever sends one of its slots home ([`PoolOwner::announce_starved`](crate::pool::PoolOwner::announce_starved)),
//!   or the engine's stop wakes it. The gate wakes nobody: for a lower level it looks again every 10 ms. It never sleeps with the seat
//!   locked.
//! - **U3** Once [`ProducerSeat::close`] has returned, this producer puts nothing into a lane, and everything it did put there is visible.
//!   So the engine's stop closes the seats before it lets the processors drain.
//! - **U4** Inside a handler nobody waits: what would have to is refused as [`Refusal::WouldBlock`]. A handler is what makes room, so one
//!   that waited for it might wait for itself.
//!
//! The lock is the seat's own: held by its publisher for one attempt, by the engine to close it and to look after slots that came
//! home. No agent takes it, except on behalf of a handler that publishes.

mod producer;
mod publication;
mod seat;

#[cfg(test)]
mod tests;

pub use producer::{Attempt, Producer, ProducerWiring, Wait};
pub use publication::{Publication, Refusal, Refused};
pub use seat::{ProducerSeat, Publisher};
