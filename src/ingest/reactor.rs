//! The agent: options and wiring, the match on completions, the order of a poll, the drain.

use std::sync::Arc;

use super::accept::{Accepted, Acceptor};
use super::counters::{CloseReason, IngestCounters};
use super::intake::Intake;
use super::kind;
use super::session::Sessions;
use super::sources::SourceLimits;
use super::tcp::Tcp;
use super::udp::Udp;
use crate::agent::{Agent, Context, Holding, Work};
use crate::bus::{Dispatch, TierSender};
use crate::control::{NodeGate, ShedByClass};
use crate::metrics::latency::{LatencyRecorder, LatencyShared};
use crate::metrics::ledger::LedgerCells;
use crate::pool::{PoolOwner, SlotClass};
use crate::storage::dead_letter::DeadLetterSender;
use crate::sys::clock::Nanos;
use crate::sys::io::{Completion, Fd, Ring};
use crate::wire::{FrameLimits, Tier};

/// The numbers of a reactor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReactorOptions {
    /// The longest frame taken.
    pub limits: FrameLimits,
    /// Connections at a time; one more is closed at once (`over_limit`).
    pub connections_max: u32,
    /// What each source may take of them, and of the events.
    pub source_limits: SourceLimits,
    /// Connections wait before a tier above its high-water mark (`--tcp-flow-control`).
    pub tcp_flow_control: bool,
    /// TCP chunks on offer at most: times the chunk's bytes, the receive budget of a turn. 1 to 32768.
    pub tcp_chunks_offered: u16,
    /// Bytes after which a connection's receive ends and is armed again, for fairness (0 = never).
    pub tcp_byte_cap: u32,
    /// Medium slots on offer to the UDP sockets. 1 to 32768.
    pub udp_slots: u16,
    /// Chunks on offer to the UDP sockets with GRO; 0 = no GRO.
    pub udp_gro_chunks: u16,
    /// How long a frame may take from its first byte left over to its last.
    pub frame_deadline: Nanos,
    /// How long a connection may be silent (0 = for ever).
    pub idle_deadline: Nanos,
    /// How soon a reactor that waits for lanes, slots or chunks looks again.
    pub resume_interval: Nanos,
    /// Draining, reading ends when nothing came for so long …
    pub drain_quiet: Nanos,
    /// … or after this long, if senders don't stop.
    pub drain_read_max: Nanos,
}

impl Default for ReactorOptions {
    fn default() -> Self {
        Self {
            limits: FrameLimits::default(),
            connections_max: 16_384,
            source_limits: SourceLimits::default(),
            tcp_flow_control: true,
            // 4 x 32 KiB: 128 KiB a turn is 1600 frames of 80 bytes, about 0.1 ms of work.
            tcp_chunks_offered: 4,
            tcp_byte_cap: 64 * 1024,
            udp_slots: 256,
            udp_gro_chunks: 0,
            frame_deadline: Nanos::from_millis(10_000),
            idle_deadline: Nanos(0),
            // 100 us: a tier drains 1000 small events in that time, half of the distance between high-water mark and its half.
            resume_interval: Nanos::from_micros(100),
            drain_quiet: Nanos::from_millis(5),
            drain_read_max: Nanos::from_millis(1_000),
        }
    }
}

/// How soon a reactor that waits for nothing but the end of a pause looks again: half of the control agent's rhythm.
const PAUSE_LOOK_EVERY: Nanos = Nanos::from_millis(5);

/// A bound UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpSocketWiring {
    /// The socket. The engine closes it, after the drain.
    pub fd: Fd,
    /// Whether HIGH and CRITICAL are steered here.
    pub realtime: bool,
}

/// Everything a reactor is connected to.
pub struct ReactorWiring {
    /// Its part of the node's pool.
    pub pool: PoolOwner,
    /// The listening socket, if this reactor accepts. The engine closes it, after the drain.
    pub listener: Option<Fd>,
    /// No, one or two UDP sockets, of which one may be REALTIME's.
    pub udp_sockets: Vec<UdpSocketWiring>,
    /// By priority or topic to a tier.
    pub dispatch: Dispatch,
    /// By tier.
    pub tiers: [TierSender; Tier::COUNT],
    /// Where overflow goes.
    pub dead_letters: DeadLetterSender,
    /// The node's gate.
    pub gate: Arc<NodeGate>,
    /// This reactor's part of the ledger.
    pub ledger: Arc<LedgerCells>,
    /// This reactor's counters.
    pub counters: Arc<IngestCounters>,
    /// What levels make it shed, by topic class.
    pub shed: Arc<ShedByClass>,
    /// The first event's id; they go up by one from there.
    pub id_base: u64,
    /// The sessions that have their home here.
    pub sessions: Sessions,
}

/// How far the drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Accepts no more, takes what has arrived.
    Reading {
        since: Nanos,
    },
    /// Sessions are told the outcomes of what is in hand.
    Telling {
        since: Nanos,
    },
    /// Connections and sockets end.
    Closing,
    Drained,
}

/// The ingest agent.
pub struct Reactor {
    options: ReactorOptions,
    intake: Intake,
    acceptor: Acceptor,
    tcp: Tcp,
    udp: Udp,
    gate: Arc<NodeGate>,
    counters: Arc<IngestCounters>,
    phase: Phase,
    strays_closing: u32,
    stray_number: u32,
    completions_done: u32,
    /// When this turn's bytes were received: one reading of the clock for all of them.
    received_at: Option<Nanos>,
    /// From there to when all of them are events in their lanes.
    parsed: LatencyRecorder,
    parsed_shared: Arc<LatencyShared>,
    is_starved_announced: bool,
    /// Bytes of parked data to take per poll: as many as are on offer.
    resume_budget_bytes: usize,
}

impl Reactor {
    /// Slots that have not come home; zero after a drain, once dead letters are written.
    pub fn slots_missing(&mut self) -> u64 {
        self.intake.pool.missing()
    }

    /// The ring is gone with its kernel, and without a drain: what was lent is its owner's again. For the end of a simulated process.
    #[cfg(any(test, feature = "sim"))]
    pub fn forget_kernel(&mut self) {
        self.intake.pool.take_back_all();
    }

    /// A reactor over its wiring. Everything it will ever need is allocated here and in `start`.
    ///
    /// # Panics
    /// If the pool has no slot for the longest frame, or an option is out of its range.
    pub fn new(options: ReactorOptions, wiring: ReactorWiring) -> Self {
        let ReactorWiring {
            pool,
            listener,
            udp_sockets,
            dispatch,
            tiers,
            dead_letters,
            gate,
            ledger,
            counters,
            shed,
            id_base,
            sessions,
        } = wiring;
        let longest = options.limits.max_frame_bytes as usize - crate::wire::HEADER_BYTES;
        assert!(pool.class_for(longest).is_some(), "the pool has no class for the longest frame");
        assert!(options.tcp_chunks_offered > 0 && options.connections_max > 0, "options out of range");
        let chunk_bytes = pool.shared().strides().0[SlotClass::Chunk.index()] as usize;
        let tcp = Tcp::new(&options, &pool, sessions, Arc::clone(&counters));
        let udp = Udp::new(&options, &udp_sockets, Arc::clone(&counters));
        let wired = (dispatch, tiers, ledger, shed, dead_letters);
        let (parsed, parsed_shared) = LatencyRecorder::new();
        Self {
            intake: Intake::new(pool, options.limits, options.tcp_flow_control, wired, id_base),
            acceptor: Acceptor::new(listener, Arc::clone(&counters)),
            tcp,
            udp,
            gate,
            counters,
            phase: Phase::Running,
            strays_closing: 0,
            stray_number: 0,
            completions_done: 0,
            received_at: None,
            parsed,
            parsed_shared,
            is_starved_announced: false,
            resume_budget_bytes: usize::from(options.tcp_chunks_offered) * chunk_bytes,
            options,
        }
    }

    /// How long it takes from the receipt of bytes until all that came with them are events in their lanes, `latency_ns_parsed`: one value a
    /// turn, handed over by a later turn with events, or at the end of the drain.
    pub fn parsed_latency(&self) -> Arc<LatencyShared> {
        self.parsed_shared.clone()
    }

    /// The part of the pool it owns, for gauges.
    pub fn pool(&self) -> &PoolOwner {
        &self.intake.pool
    }

    fn adopt<R: Ring>(&mut self, accepted: &Accepted, ctx: &mut Context<'_, R>) {
        let is_closing = matches!(self.phase, Phase::Closing | Phase::Drained);
        let adopted = if is_closing { Err(CloseReason::Drained) } else { self.tcp.adopt(accepted, ctx) };
        let Err(reason) = adopted else { return };
        self.counters.closed[reason.index()].add(1);
        self.strays_closing += 1;
        self.stray_number = self.stray_number.wrapping_add(1);
        ctx.ring.close(ctx.token(kind::CLOSE_STRAY, 0, self.stray_number), accepted.fd);
    }

    /// A completion that is nobody's: only its buffer matters. The poll puts another on offer.
    fn late(&mut self, completion: Completion) {
        self.counters.late_completions.add(1);
        let slot = completion.buffer.map(|buffer| self.intake.pool.take_back(buffer));
        self.intake.give_back(slot);
    }

    // -- the drain --

    fn step_drain<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        if let Phase::Reading { since } = self.phase {
            let active_at = self.tcp.active_at.max(self.udp.active_at).max(since);
            let is_quiet = ctx.now.since(active_at) >= self.options.drain_quiet && self.tcp.lines.all_empty();
            if is_quiet || ctx.now.since(since) >= self.options.drain_read_max {
                self.tcp.stop_sessions();
                self.phase = Phase::Telling { since: ctx.now };
            }
        }
        if let Phase::Telling { since } = self.phase {
            self.tcp.stop_sessions();
            if self.tcp.sessions_are_over() || ctx.now.since(since) >= self.options.drain_read_max {
                self.phase = Phase::Closing;
                self.tcp.close_inbox(ctx);
                self.udp.read_drops(ctx);
                self.udp.stop(ctx);
                self.tcp.end_all(&mut self.intake, ctx);
            }
        }
        // In the same poll: where nothing was open, no completion will come to ask for another.
        if self.phase == Phase::Closing && self.is_over() {
            self.udp.read_drops(ctx);
            // I7: no receive is in flight and none will be armed, so no operation can pick these buffers any more.
            self.intake.pool.take_back_all();
            self.tcp.sessions.publish_latency();
            self.parsed.publish();
            self.phase = Phase::Drained;
        }
    }

    fn is_over(&self) -> bool {
        self.tcp.is_over() && self.udp.is_over() && self.acceptor.is_over() && self.strays_closing == 0
    }

    fn drain_deadline(&self, now: Nanos) -> Option<Nanos> {
        match self.phase {
            Phase::Reading { since } => {
                let quiet_at = self.tcp.active_at.max(self.udp.active_at).max(since) + self.options.drain_quiet;
                let at_last = since + self.options.drain_read_max;
                Some(if quiet_at > now { quiet_at.min(at_last) } else { at_last })
            }
            Phase::Telling { since } => Some(since + self.options.drain_read_max),
            _ => None,
        }
    }

    /// Notes how long the parsing of this turn took. Parsing is done where completions are handled, and the poll after it has a reading of the
    /// clock of its own: the distance costs nothing but the record.
    fn note_parsed(&mut self, now: Nanos) {
        if let Some(received_at) = self.received_at.take().filter(|_| self.intake.events_done > 0) {
            self.parsed.record(now.since(received_at));
            self.parsed.publish_if_due(now);
        }
    }

    // -- the end of a poll --

    /// Sends everything out that this turn produced.
    fn finish_turn(&mut self) {
        self.intake.publish();
        self.intake.releaser.flush();
        let is_starved = self.tcp.lines.any_for_slots() || self.udp.is_short_of_buffers(&self.intake);
        if is_starved || self.is_starved_announced {
            self.intake.pool.announce_starved(is_starved);
            self.is_starved_announced = is_starved;
            // What came home before the announcement would wake nobody.
            self.intake.pool.collect();
        }
    }

    fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        if self.phase == Phase::Drained {
            return None;
        }
        let is_short = self.tcp.is_short_of_chunks(&self.intake) || self.udp.is_short_of_buffers(&self.intake);
        let resume = if is_short || !self.tcp.waits_for_pauses_only(&self.intake) {
            Some(now + self.options.resume_interval)
        } else {
            (!self.tcp.lines.all_empty()).then(|| now + PAUSE_LOOK_EVERY)
        };
        let deadlines = [
            resume,
            self.acceptor.next_deadline(),
            self.tcp.deadlines.next_sweep(),
            self.tcp.sessions.next_look(now, self.options.resume_interval),
            self.udp.next_deadline(now),
            self.drain_deadline(now),
        ];
        deadlines.into_iter().flatten().min()
    }
}

impl<R: Ring> Agent<R> for Reactor {
    fn name(&self) -> &'static str {
        "reactor"
    }

    fn start(&mut self, ctx: &mut Context<'_, R>) {
        self.udp.start(&mut self.intake, ctx);
        self.tcp.start(&mut self.intake, ctx);
        self.acceptor.arm(ctx);
    }

    fn complete(&mut self, completion: Completion, ctx: &mut Context<'_, R>) {
        self.completions_done += 1;
        match completion.token.kind() {
            kind::RECEIVE => {
                self.received_at.get_or_insert(ctx.now);
                self.tcp.received(completion, &mut self.intake, ctx);
            }
            kind::MESSAGE => {
                self.received_at.get_or_insert(ctx.now);
                self.udp.received(completion, &mut self.intake, ctx);
            }
            kind::ACCEPT => {
                if let Some(accepted) = self.acceptor.completed(&completion, ctx) {
                    self.adopt(&accepted, ctx);
                }
            }
            kind::SEND => self.tcp.sent(&completion, &mut self.intake, ctx),
            kind::CLOSE => self.tcp.closed(completion.token),
            kind::CLOSE_STRAY => self.strays_closing -= 1,
            kind::CANCEL => self.tcp.cancelled(),
            kind::CANCEL_ACCEPT => self.acceptor.cancelled(),
            kind::CANCEL_MESSAGE => self.udp.cancelled(),
            _ => self.late(completion),
        }
    }

    fn poll(&mut self, ctx: &mut Context<'_, R>) -> Work {
        if self.phase == Phase::Drained {
            return Work::IDLE;
        }
        self.note_parsed(ctx.now);
        self.intake.pool.collect();
        self.intake.gate = self.gate.read();
        self.intake.dead_letters.refill_samples(ctx.now);
        self.tcp.begin_sessions(&mut self.intake, ctx);
        self.acceptor.poll(ctx);
        self.tcp.resume_waiting(self.resume_budget_bytes, &mut self.intake, ctx);
        self.tcp.offer_chunks(&mut self.intake, ctx);
        self.udp.poll(&mut self.intake, ctx);
        self.tcp.sweep(&mut self.intake, ctx);
        self.tcp.answer_sessions(&mut self.intake, ctx);
        self.step_drain(ctx);
        self.finish_turn();
        let done = std::mem::take(&mut self.completions_done) + std::mem::take(&mut self.intake.events_done);
        Work { done, next_deadline: self.next_deadline(ctx.now) }
    }

    fn drain(&mut self, ctx: &mut Context<'_, R>) {
        if self.phase == Phase::Running {
            self.phase = Phase::Reading { since: ctx.now };
            self.acceptor.stop(ctx);
            self.tcp.lift_rates();
        }
    }

    fn is_drained(&self) -> bool {
        self.phase == Phase::Drained
    }

    fn holding(&self) -> Holding {
        Holding { events: self.tcp.pending_events, staged: 0 }
    }
}

#[cfg(test)]
impl Reactor {
    pub(super) fn session_latency(&self) -> Arc<crate::metrics::latency::LatencyShared> {
        self.tcp.sessions.latency()
    }

    /// Collects what came home after the drain.
    pub(super) fn collect_for_test(&mut self) -> crate::pool::OwnerGauges {
        self.intake.pool.collect();
        while self.intake.pool.ended().is_some() {
            self.intake.pool.free_ended();
        }
        self.intake.pool.gauges()
    }
}
