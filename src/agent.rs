//! Agents: the active parts, polled with a context, never sleeping, spawning or blocking.
//!
//! A runner (a pinned thread with one ring) or the simulator's scheduler calls `start` once, then in turns: `complete` for
//! each completion that belongs to the agent's seat, and `poll`. `drain` announces the end: take nothing new, finish what is
//! held; the agent is polled on until `is_drained`.

use crate::sys::clock::{Nanos, WallNanos};
use crate::sys::io::{Completion, Ring, Token};

/// What an agent gets with every call.
#[derive(Debug)]
pub struct Context<'a, R: Ring> {
    /// The monotonic clock at the start of this turn.
    pub now: Nanos,
    /// The wall clock at the start of this turn.
    pub wall: WallNanos,
    /// The runner's ring (a [`crate::sys::clock::Clock`] too, for the stamp after a batch).
    pub ring: &'a mut R,
    /// The agent's seat on this runner: the top byte of its tokens.
    pub seat: u8,
}

impl<R: Ring> Context<'_, R> {
    /// A token of this agent.
    pub fn token(&self, kind: u8, generation: u16, slot: u32) -> Token {
        Token::new(self.seat, kind, generation, slot)
    }
}

/// What a poll did, and when the agent wants the next one at the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Events (or completions, or lines) handled; zero means idle.
    pub done: u32,
    /// The nearest deadline, if nothing happens before.
    pub next_deadline: Option<Nanos>,
}

impl Work {
    /// No work, no deadline.
    pub const IDLE: Work = Work { done: 0, next_deadline: None };

    /// Both together: work added up, the nearer deadline.
    pub fn and(self, other: Work) -> Work {
        let next_deadline = match (self.next_deadline, other.next_deadline) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Work { done: self.done + other.done, next_deadline }
    }
}

/// What an agent holds at this moment, for the ledger's *in flight*: counted, never derived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// Events whose tickets it holds, in its own hands or in the lanes and queues that it *consumes*.
    pub events: u64,
    /// Events of which it holds only bytes (staged for the log, their slots released).
    pub staged: u64,
}

/// An active part of the engine.
pub trait Agent<R: Ring> {
    /// For logs and thread names.
    fn name(&self) -> &'static str;

    /// Arms its operations. Called once, on the thread that will poll it.
    fn start(&mut self, ctx: &mut Context<'_, R>);

    /// One of its operations completed. Must take `completion.buffer` back.
    fn complete(&mut self, completion: Completion, ctx: &mut Context<'_, R>);

    /// Does a bounded piece of work.
    fn poll(&mut self, ctx: &mut Context<'_, R>) -> Work;

    /// Takes nothing new from now on; finishes what it holds while it is polled on.
    fn drain(&mut self, ctx: &mut Context<'_, R>);

    /// Whether a draining agent holds nothing and has no operation in flight.
    fn is_drained(&self) -> bool;

    /// What it holds now.
    fn holding(&self) -> Holding;
}
