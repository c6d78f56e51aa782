//! The seeded scheduler: plays all runners on one thread.
//!
//! Each step is one of: an operation gets on in the kernel, a completion reaches its agent, an agent is polled, time passes, a thread
//! is held up. Which one, chance says; so every interleaving of agents that real threads could show at the borders of their
//! calls can occur, and those that they hardly ever show occur often.
//!
//! Invariants:
//! - **Y1** Time jumps only when nothing else can happen, and only to the nearest deadline that an agent named or the nearest end of a
//!   file operation. So an agent that forgets a deadline hangs the simulation, as it would hang a parked runner. (A host that is suspended now and
//!   then, on some seeds, may wake it; on the others nothing does.)
//! - **Y2** An agent that again and again asks to be polled at once and then has nothing to do is caught: it would spin.

use std::cell::RefCell;
use std::rc::Rc;

use super::ring::SimRing;
use super::rng::Rng;
use super::tally::Fault;
use crate::agent::{Agent, Context, Holding};
use crate::sys::clock::{Clock, Nanos};

/// An agent as the scheduler holds it; the world keeps another reference of the concrete type.
pub type SharedAgent = Rc<RefCell<dyn Agent<SimRing>>>;

/// Idle polls in a row, each with a deadline that has passed, that count as spinning (Y2).
const SPINS_MAX: u32 = 2_000;

/// The longest that time passes in one step without a jump.
const TICK_MAX: Nanos = Nanos::from_micros(20);

/// The farthest that the wall clock jumps: two hours, as with a daylight saving time that somebody got wrong.
const WALL_JUMP_MAX_NS: u64 = 7_200_000_000_000;

/// The longest that a host is suspended.
const LEAP_MAX: Nanos = Nanos::from_millis(500);

/// How the scheduler divides its steps. Per mille; what is left goes to polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Operations get on in the kernel.
    pub kernel: u32,
    /// Completions reach their agents.
    pub completions: u32,
    /// Time passes.
    pub time: u32,
    /// Per mille of the steps in which time passes: the wall clock jumps.
    pub wall_jumps: u32,
    /// Per mille of the steps in which time passes: the host is suspended, and much time passes at once.
    pub leaps: u32,
    /// An agent is held up.
    pub stalls: u32,
    /// For how long at most.
    pub stall_max: Nanos,
}

struct Seat {
    agent: SharedAgent,
    /// From its last poll.
    next_deadline: Option<Nanos>,
    stalled_until: Nanos,
    /// Its last poll did nothing, and nothing has happened since.
    idle: bool,
    /// It got a completion since its last poll: what it made of it may be on its way to others.
    in_turn: bool,
}

/// Polls agents over one ring.
pub struct Scheduler {
    ring: SimRing,
    rng: Rng,
    pace: Pace,
    seats: Vec<Seat>,
    spins: u32,
}

impl Scheduler {
    /// A scheduler without agents.
    pub fn new(ring: SimRing, rng: Rng, pace: Pace) -> Self {
        Self { ring, rng, pace, seats: Vec::new(), spins: 0 }
    }

    /// Seats an agent and starts it.
    pub fn seat(&mut self, agent: SharedAgent) {
        self.seats.push(Seat { agent, next_deadline: None, stalled_until: Nanos(0), idle: false, in_turn: false });
        self.call(self.seats.len() - 1, |agent, ctx| agent.start(ctx));
    }

    fn call<T>(&mut self, seat: usize, act: impl FnOnce(&mut dyn Agent<SimRing>, &mut Context<'_, SimRing>) -> T) -> T {
        let (now, wall) = (self.ring.now(), self.ring.wall());
        let mut ctx = Context { now, wall, ring: &mut self.ring, seat: seat as u8 };
        act(&mut *self.seats[seat].agent.borrow_mut(), &mut ctx)
    }

    /// Something happened that any agent may be concerned with.
    pub fn stir(&mut self) {
        self.seats.iter_mut().for_each(|seat| seat.idle = false);
    }

    /// Tells the agent of a seat to take nothing new.
    pub fn drain(&mut self, seat: usize) {
        self.call(seat, |agent, ctx| agent.drain(ctx));
        self.stir();
    }

    /// Whether the agent of a seat has drained.
    pub fn is_drained(&self, seat: usize) -> bool {
        self.seats[seat].agent.borrow().is_drained()
    }

    /// What all agents hold together.
    pub fn holding(&self) -> Holding {
        let holdings = self.seats.iter().map(|seat| seat.agent.borrow().holding());
        holdings.fold(Holding::default(), |sum, h| Holding { events: sum.events + h.events, staged: sum.staged + h.staged })
    }

    /// What each agent holds, for a failing seed.
    pub fn describe(&self) -> String {
        let line = |seat: &Seat| {
            let agent = seat.agent.borrow();
            format!(
                "{}: {:?}, deadline {:?}, drained {}\n",
                agent.name(),
                agent.holding(),
                seat.next_deadline,
                agent.is_drained()
            )
        };
        let agents: String = self.seats.iter().map(line).collect();
        format!("now {:?}, in flight {:?}\n{agents}", self.ring.now(), self.ring.in_flight())
    }

    /// Does one thing. Returns whether an agent was called.
    pub fn step(&mut self) -> bool {
        let Pace { kernel, completions, time, stalls, stall_max, .. } = self.pace;
        let die = self.rng.below(1000) as u32;
        if die < kernel {
            self.ring.step();
        } else if die < kernel + completions {
            self.deliver();
            return true;
        } else if die < kernel + completions + time {
            self.pass_time();
        } else if die < kernel + completions + time + stalls {
            let seat = self.rng.index(self.seats.len());
            self.seats[seat].stalled_until = self.ring.now() + Nanos(self.rng.between(0..=stall_max.0));
            self.ring.note(Fault::HeldUp);
        } else {
            let seat = self.rng.index(self.seats.len());
            self.poll(seat);
            return true;
        }
        false
    }

    fn pass_time(&mut self) {
        self.ring.clock().advance(Nanos(self.rng.below(TICK_MAX.0)));
        if self.rng.chance(self.pace.wall_jumps) {
            let ns = self.rng.below(WALL_JUMP_MAX_NS) as i64;
            self.ring.clock().jump_wall(if self.rng.chance(500) { ns } else { -ns });
            self.ring.note(Fault::WallJump);
        }
        if self.rng.chance(self.pace.leaps) {
            let leap = Nanos(self.rng.below(LEAP_MAX.0));
            self.jump(self.ring.now() + leap);
            self.ring.note(Fault::Leap);
        }
    }

    fn deliver(&mut self) {
        // A few at a time, as a runner takes them off its queue.
        for _ in 0..self.rng.between(1..=4) {
            let Some(completion) = self.ring.take_completion() else { return };
            let seat = completion.token.seat() as usize;
            self.call(seat, |agent, ctx| agent.complete(completion, ctx));
            self.seats[seat].in_turn = true;
            self.spins = 0;
            self.stir();
            // A runner polls after a batch of completions; others may come first all the same, from another thread.
            if self.rng.chance(500) {
                self.poll(seat);
            }
        }
    }

    fn poll(&mut self, seat: usize) {
        if self.seats[seat].stalled_until > self.ring.now() {
            return;
        }
        let work = self.call(seat, |agent, ctx| agent.poll(ctx));
        if work.done > 0 {
            self.spins = 0;
            self.stir();
        }
        let now = self.ring.now();
        let in_the_past = work.next_deadline.is_some_and(|deadline| deadline <= now);
        self.spins += u32::from(work.done == 0 && in_the_past);
        assert!(self.spins < SPINS_MAX, "Y2: an agent spins: {} asks for polls at once and does nothing", self.name(seat));
        let state = &mut self.seats[seat];
        state.in_turn = false;
        state.next_deadline = work.next_deadline;
        state.idle = work.done == 0 && !in_the_past;
    }

    fn name(&self, seat: usize) -> &'static str {
        self.seats[seat].agent.borrow().name()
    }

    /// Whether every agent has ended its turn with a poll: then all events are in lanes, hands, or accounted for.
    pub fn is_settled(&self) -> bool {
        !self.seats.iter().any(|seat| seat.in_turn)
    }

    /// Whether nothing can happen before time passes. May let the kernel get on.
    pub fn is_quiet(&mut self) -> bool {
        let now = self.ring.now();
        let idle = self.seats.iter().all(|seat| seat.idle || seat.stalled_until > now);
        idle && !self.ring.has_completions() && !self.ring.step()
    }

    /// When something happens by itself (Y1).
    pub fn next_time(&self) -> Option<Nanos> {
        let now = self.ring.now();
        let wish = |seat: &Seat| if seat.stalled_until > now { Some(seat.stalled_until) } else { seat.next_deadline };
        self.seats.iter().filter_map(wish).chain(self.ring.next_event()).min()
    }

    /// Jumps to `time`: those whose deadline or hold-up ends there are no longer idle.
    pub fn jump(&mut self, time: Nanos) {
        let before = self.ring.now();
        self.ring.clock().advance_to(time);
        for seat in &mut self.seats {
            let held = seat.stalled_until > before;
            let due = seat.next_deadline.is_some_and(|deadline| deadline <= time);
            if held || due {
                seat.idle = false;
            }
        }
    }
}
