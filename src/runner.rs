//! Runners: pinned threads, each with one ring that it lends to all its agents.
//!
//! ```text
//!        ┌────────────────────────────────── one turn ───────────────────────────────────┐
//!  enter ring ─► completions to their seats ─► poll each agent, REALTIME again after every one ─► worked? next turn at once
//!    ▲                                                                                        │ idle
//!    └───────────── wait in the ring ◄── look once more ◄── announce parked, full fence ◄─────┘ (spin first, as --idle says)
//! ```
//!
//! Invariants:
//! - **T1** An agent is touched by its runner's thread only, between `start` and the runner's return.
//! - **T2** A runner sleeps only after a poll of all agents, made after it announced that it parks, found nothing (W1 in [`crate::sys::wake`]).
//! - **T3** No processor handles more than its 64 events before REALTIME is polled again.
//! - **T4** A runner leaves only at [`Stage::Done`], and only after its ring was quiesced: the kernel holds no buffer any more.
//!
//! Draining goes by stages, set by the engine, so that each part still gets what the part before it holds: reactors stop and empty themselves
//! (and the control agent ends what holds connections up), then processors, then the appender.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::SyncSender;

use crate::agent::{Agent, Context, Holding, Work};
use crate::control::Control;
use crate::ingest::Reactor;
use crate::metrics::pulse::RunnerPulse;
use crate::process::{Batch, Realtime, Transactional};
use crate::storage::appender::Appender;
use crate::sys::clock::{Clock, Nanos};
use crate::sys::io::{Completion, Ring};
use crate::sys::uring::{RingRefusal, StillInFlight, Uring, Wait};
use crate::sys::wake::Waker;

/// Completions handed over in one turn at most; the rest stays in the completion queue.
const COMPLETIONS_PER_TURN: usize = 256;

/// How long `--idle adaptive` spins before it parks. A wake-up of a parked core costs 25 µs, so spinning as long as that
/// at most doubles the cost of either choice.
const ADAPTIVE_SPIN: Nanos = Nanos::from_micros(25);

/// While it drains a runner looks again at least this often: the stages are advanced by another thread.
const DRAIN_LOOK_EVERY: Nanos = Nanos::from_millis(1);

/// How long the kernel gets to end what is in flight when a runner leaves. A disk may take half a second for a sync.
const QUIESCE_PATIENCE: Nanos = Nanos::from_millis(5_000);

/// How far the engine's stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Stage {
    /// Business as usual.
    Running = 0,
    /// Reactors take what has arrived, and stop; control ends all pauses.
    Reactors = 1,
    /// Processors empty their lanes.
    Processors = 2,
    /// The appender writes what is staged.
    Appender = 3,
    /// Runners leave.
    Done = 4,
}

impl Stage {
    const ALL: [Stage; 5] = [Stage::Running, Stage::Reactors, Stage::Processors, Stage::Appender, Stage::Done];
}

/// The stop, as seen by the engine (which advances it) and by the runners (which report).
#[derive(Debug, Default)]
pub struct DrainControl {
    stage: AtomicU32,
    drained: [AtomicU32; 5],
}

impl DrainControl {
    /// Where it stands.
    pub fn stage(&self) -> Stage {
        // Acquire: pairs with `advance`; nothing but the stage itself is read through it.
        Stage::ALL[self.stage.load(Ordering::Acquire) as usize]
    }

    /// Engine: goes on to a later stage (wake the runners after this).
    pub fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u32, Ordering::Release);
    }

    /// How many agents of a stage have reported that they are drained.
    pub fn drained(&self, stage: Stage) -> u32 {
        self.drained[stage as usize].load(Ordering::Acquire)
    }

    fn report(&self, stage: Stage) {
        self.drained[stage as usize].fetch_add(1, Ordering::Release);
    }
}

/// How a runner spends the time when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Never sleeps.
    Spin,
    /// Spins for 25 µs, then parks.
    Adaptive,
    /// Parks at once.
    Park,
}

/// Any of the engine's agents.
pub enum AnyAgent {
    /// Takes events in.
    Reactor(Box<Reactor>),
    /// Handles REALTIME.
    Realtime(Box<Realtime>),
    /// Handles TRANSACTIONAL.
    Transactional(Box<Transactional>),
    /// Handles BATCH.
    Batch(Box<Batch>),
    /// Writes the log.
    Appender(Box<Appender>),
    /// Judges how much of the load is taken.
    Control(Box<Control>),
}

impl AnyAgent {
    /// The stage at which this agent drains.
    pub fn stage(&self) -> Stage {
        match self {
            // Levels hold nobody up from the beginning of the drain on.
            AnyAgent::Reactor(_) | AnyAgent::Control(_) => Stage::Reactors,
            AnyAgent::Realtime(_) | AnyAgent::Transactional(_) | AnyAgent::Batch(_) => Stage::Processors,
            AnyAgent::Appender(_) => Stage::Appender,
        }
    }

    /// Slots of its own that have not come home, once nobody else holds any.
    pub fn slots_missing(&mut self) -> u64 {
        match self {
            AnyAgent::Reactor(reactor) => reactor.slots_missing(),
            AnyAgent::Transactional(transactional) => transactional.slots_missing(),
            AnyAgent::Realtime(_) | AnyAgent::Batch(_) | AnyAgent::Appender(_) | AnyAgent::Control(_) => 0,
        }
    }

    /// Whether REALTIME gets another turn after this agent's poll (T3).
    fn is_slow_lane(&self) -> bool {
        matches!(self, AnyAgent::Transactional(_) | AnyAgent::Batch(_))
    }
}

/// Calls the same method on whichever agent it is.
macro_rules! each {
    ($self:expr, $agent:ident => $call:expr) => {
        match $self {
            AnyAgent::Reactor($agent) => $call,
            AnyAgent::Realtime($agent) => $call,
            AnyAgent::Transactional($agent) => $call,
            AnyAgent::Batch($agent) => $call,
            AnyAgent::Appender($agent) => $call,
            AnyAgent::Control($agent) => $call,
        }
    };
}

impl<R: Ring> Agent<R> for AnyAgent {
    fn name(&self) -> &'static str {
        each!(self, agent => Agent::<R>::name(agent.as_ref()))
    }
    fn start(&mut self, ctx: &mut Context<'_, R>) {
        each!(self, agent => agent.start(ctx));
    }
    fn complete(&mut self, completion: Completion, ctx: &mut Context<'_, R>) {
        each!(self, agent => agent.complete(completion, ctx));
    }
    fn poll(&mut self, ctx: &mut Context<'_, R>) -> Work {
        each!(self, agent => agent.poll(ctx))
    }
    fn drain(&mut self, ctx: &mut Context<'_, R>) {
        each!(self, agent => agent.drain(ctx));
    }
    fn is_drained(&self) -> bool {
        each!(self, agent => Agent::<R>::is_drained(agent.as_ref()))
    }
    fn holding(&self) -> Holding {
        each!(self, agent => Agent::<R>::holding(agent.as_ref()))
    }
}

/// An agent in its seat, with what the runner remembers of it.
struct Seated {
    agent: AnyAgent,
    is_draining: bool,
    has_reported: bool,
}

/// The agents of one runner, in the order of the flow.
pub struct Seats {
    seats: Vec<Seated>,
    realtime: Option<usize>,
}

impl Seats {
    /// Seats the agents: the place in the vector is the seat in their tokens.
    ///
    /// # Panics
    /// If there are more than 200 (the byte's upper values are the ring's own).
    pub fn new(agents: Vec<AnyAgent>) -> Self {
        assert!(agents.len() <= 200, "a seat is a byte, the upper ones are the ring's own");
        let realtime = agents.iter().position(|agent| matches!(agent, AnyAgent::Realtime(_)));
        let seats = agents.into_iter().map(|agent| Seated { agent, is_draining: false, has_reported: false }).collect();
        Self { seats, realtime }
    }

    /// Gives the agents back, after the runner has left.
    pub fn into_agents(self) -> Vec<AnyAgent> {
        self.seats.into_iter().map(|seated| seated.agent).collect()
    }

    fn with<R: Ring, T>(&mut self, seat: usize, ring: &mut R, act: impl FnOnce(&mut AnyAgent, &mut Context<'_, R>) -> T) -> T {
        let mut ctx = Context { now: ring.now(), wall: ring.wall(), ring, seat: seat as u8 };
        act(&mut self.seats[seat].agent, &mut ctx)
    }

    fn start<R: Ring>(&mut self, ring: &mut R) {
        for seat in 0..self.seats.len() {
            self.with(seat, ring, |agent, ctx| agent.start(ctx));
        }
    }

    /// Hands completions to their seats, with one reading of the clock for all of them.
    fn deliver<R: Ring>(&mut self, completions: &mut Vec<Completion>, ring: &mut R) {
        let (now, wall) = (ring.now(), ring.wall());
        for completion in completions.drain(..) {
            let seat = completion.token.seat();
            let mut ctx = Context { now, wall, ring: &mut *ring, seat };
            self.seats[seat as usize].agent.complete(completion, &mut ctx);
        }
    }

    /// Polls each agent once, REALTIME again after each of the slower tiers (T3).
    fn poll<R: Ring>(&mut self, ring: &mut R) -> Work {
        let (now, wall) = (ring.now(), ring.wall());
        let mut work = Work::IDLE;
        for seat in 0..self.seats.len() {
            let mut ctx = Context { now, wall, ring: &mut *ring, seat: seat as u8 };
            work = work.and(self.seats[seat].agent.poll(&mut ctx));
            if let Some(realtime) = self.realtime.filter(|_| self.seats[seat].agent.is_slow_lane()) {
                ctx.seat = realtime as u8;
                work = work.and(self.seats[realtime].agent.poll(&mut ctx));
            }
        }
        work
    }

    /// Tells agents whose stage has come to drain, and reports those that are done with it.
    fn follow<R: Ring>(&mut self, control: &DrainControl, ring: &mut R) {
        let stage = control.stage();
        for seat in 0..self.seats.len() {
            let due = self.seats[seat].agent.stage();
            if due > stage {
                continue;
            }
            if !std::mem::replace(&mut self.seats[seat].is_draining, true) {
                self.with(seat, ring, |agent, ctx| agent.drain(ctx));
            }
            if !self.seats[seat].has_reported && Agent::<R>::is_drained(&self.seats[seat].agent) {
                self.seats[seat].has_reported = true;
                control.report(due);
            }
        }
    }
}

/// Why a runner ended before it was told to, or without giving its agents back.
#[derive(Debug)]
pub enum RunnerEnd {
    /// Its ring could not be enabled; `started` has the refusal.
    NotStarted,
    /// The kernel refused to enter the ring.
    Ring(std::io::Error),
    /// Operations did not end: the kernel may still write into the arena, which must stay mapped.
    InFlight(StillInFlight),
}

impl From<std::io::Error> for RunnerEnd {
    fn from(error: std::io::Error) -> Self {
        RunnerEnd::Ring(error)
    }
}

impl std::fmt::Display for RunnerEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RunnerEnd::NotStarted => f.write_str("its ring could not be enabled"),
            RunnerEnd::Ring(error) => write!(f, "its ring could not be entered: {error}"),
            RunnerEnd::InFlight(still) => write!(f, "its ring did not come to rest: {still}"),
        }
    }
}

impl std::error::Error for RunnerEnd {}

/// One thread's engine room.
pub struct Runner {
    /// The ring, made by the engine, enabled by the runner's thread.
    pub ring: Uring,
    /// The agents.
    pub seats: Seats,
    /// Wakes this runner from other threads.
    pub waker: Waker,
    /// For `/readyz`.
    pub pulse: Arc<RunnerPulse>,
    /// The engine's stop.
    pub control: Arc<DrainControl>,
    /// What to do when idle.
    pub idle: Idle,
    /// How long a wait may be stretched to gather more completions; zero for not at all.
    pub min_wait: Nanos,
}

impl Runner {
    /// Runs until [`Stage::Done`]; returns the agents (T4). Says through `started` whether the ring could be enabled.
    ///
    /// # Errors
    /// Why it ended otherwise.
    pub fn run(mut self, started: &SyncSender<Result<(), RingRefusal>>) -> Result<Seats, RunnerEnd> {
        self.ring.register_waker(&self.waker);
        if let Err(refusal) = self.ring.enable() {
            let _ = started.send(Err(refusal));
            return Err(RunnerEnd::NotStarted);
        }
        let _ = started.send(Ok(())); // The engine may have given up already; the drain control will say so.
        let ended = self.turns();
        let mut late = Vec::new();
        if let Err(still) = self.ring.quiesce(QUIESCE_PATIENCE, &mut |completion| late.push(completion)) {
            // T4: the kernel may still write there. The agents hold the arena, so what is never dropped is never unmapped; and the
            // engine can still give its account, while dropping the ring would end the process.
            std::mem::forget(self);
            return Err(RunnerEnd::InFlight(still));
        }
        self.seats.deliver(&mut late, &mut self.ring);
        ended.map(|()| self.seats)
    }

    /// Turn after turn, until [`Stage::Done`] or the ring fails.
    fn turns(&mut self) -> Result<(), RunnerEnd> {
        let mut completions = Vec::with_capacity(COMPLETIONS_PER_TURN);
        self.seats.start(&mut self.ring);
        let mut worked_at = self.ring.now();
        loop {
            self.ring.turn(Wait::Poll, &mut completions)?;
            let delivered = !completions.is_empty();
            self.seats.deliver(&mut completions, &mut self.ring);
            let work = self.seats.poll(&mut self.ring);
            let stage = self.control.stage();
            if stage != Stage::Running {
                self.seats.follow(&self.control, &mut self.ring);
                if stage == Stage::Done {
                    return Ok(());
                }
            }
            let now = self.ring.now();
            self.pulse.beat(now);
            if delivered || work.done > 0 {
                worked_at = now;
            } else if self.may_park(now, worked_at) {
                self.park(stage, &mut completions)?;
                if !completions.is_empty() {
                    worked_at = self.ring.now();
                }
                self.seats.deliver(&mut completions, &mut self.ring);
            }
        }
    }

    fn wait(&self, until: Option<Nanos>) -> Wait {
        match self.min_wait {
            Nanos(0) => Wait::Until(until),
            at_most => Wait::MinWait { completions: COMPLETIONS_PER_TURN as u32, at_most, until },
        }
    }

    fn may_park(&self, now: Nanos, worked_at: Nanos) -> bool {
        match self.idle {
            Idle::Spin => false,
            Idle::Adaptive => now.since(worked_at) >= ADAPTIVE_SPIN,
            Idle::Park => true,
        }
    }

    /// Sleeps in the ring until a completion, a wake-up or the nearest deadline (T2).
    fn park(&mut self, stage: Stage, completions: &mut Vec<Completion>) -> Result<(), RunnerEnd> {
        self.waker.state().announce();
        let last_look = self.seats.poll(&mut self.ring);
        if last_look.done == 0 && self.control.stage() == stage {
            let mut until = last_look.next_deadline;
            if stage != Stage::Running {
                let look_at = self.ring.now() + DRAIN_LOOK_EVERY;
                until = Some(until.map_or(look_at, |deadline| deadline.min(look_at)));
            }
            self.pulse.park(until);
            self.ring.turn(self.wait(until), completions)?;
            self.pulse.unpark(self.ring.now());
        }
        self.waker.state().resume();
        Ok(())
    }
}
