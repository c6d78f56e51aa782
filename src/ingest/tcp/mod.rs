//! TCP: receive chunks, frames out of them, and connections that must wait.
//!
//! ```text
//! kernel ── chunk ──► frames ──► slots ──► tier lanes          chunk goes straight back on offer
//!                       │ no room, no slot
//!                       ▼
//!            parking memory ── line of the tier ── called up when there is room ──► frames …
//! ```
//!
//! - **The bytes on offer are the budget of a turn**: a turn's completions can't bring more than all chunks that were on offer. Pressed
//!   ([`Tcp::offer_chunks`]), fewer are offered; an idle reactor always has all of them on offer.
//! - **Order**: of one connection, the pending event goes first, then the partial frame, then parked bytes, then new chunks.
//! - **Waiting**: a wait for a lane is mostly short and leaves the receive armed. What comes meanwhile is parked too; from
//!   [`PARKED_SEGMENTS_MAX`] segments on, and at once when it waits for a slot, the receive is cancelled, and TCP stops the sender.
//!   So a connection parks at most that and what was on offer.
//! - **No knot**: connections that wait for slots of unfinished frames may hold all chunks, while those frames' connections wait for
//!   chunks. Three things are against it: little is on offer when parking memory is short, chunks go first to those whose frame
//!   will fit its slot ([`Line::CHUNKS_FIRST`]), and, at last, the frame deadline of the slot's holder runs while nothing is on offer.

mod late;
mod resume;

use std::sync::Arc;

use super::accept::Accepted;
use super::connection::{Connection, ConnectionTable, Receive, Stage};
use super::counters::{CloseReason, IngestCounters, Transport};
use super::deadlines::Deadlines;
use super::intake::{Intake, Origin, Stop};
use super::numbering::{Metered, Unnumbered};
use super::parking::ParkingLot;
use super::session::{ConnectionRef, Protocol, Sessions};
use super::sources::Sources;
use super::waiting::{Line, Lines};
use super::{ReactorOptions, kind};
use crate::agent::Context;
use crate::planted::{Bug, is_planted};
use crate::pool::{PoolOwner, Slot, SlotClass, SlotUse, Source};
use crate::sys::clock::Nanos;
use crate::sys::io::{Completion, Errno, GroupId, Ring, Token};
use crate::wire::session::SessionFault;
use crate::wire::{FrameLimits, FrameRefusal, Tier};

/// Parked segments of one connection from which on its receive is cancelled: one for the rest of the chunk that it began to
/// wait in, one for what was under way.
pub(super) const PARKED_SEGMENTS_MAX: u32 = 2;

/// Events of a bulk tier that may wait while more than one chunk is on offer: what its processor takes in a poll or two. What stands in a queue is in
/// slots that leave the cache meanwhile; flow control at the high-water mark is for tiers that their processor can't keep up with.
const STANDING_EVENTS_MAX: usize = 256;

/// How far a connection's bytes could be taken.
pub(super) enum Fed {
    /// All of them.
    All,
    /// The connection must wait; so many bytes were taken before.
    Wait { line: Line, consumed: usize },
    /// It can't be trusted any more.
    Refused(FrameRefusal),
    /// Its session is at its end, or has none.
    Ended(SessionFault),
    /// It speaks version 1, and has no token.
    Anonymous,
}

/// Where and when the bytes of a connection come in.
pub(super) fn origin<R: Ring>(connection: &Connection, ctx: &Context<'_, R>) -> Origin {
    Origin { source: Source::Tcp, connection: connection.number, at: ctx.now, wall: ctx.wall }
}

/// Whether more than [`STANDING_EVENTS_MAX`] of a bulk tier wait.
fn is_bulk_pressed(intake: &Intake) -> bool {
    [Tier::Transactional, Tier::Batch].into_iter().any(|tier| intake.depth(tier) > STANDING_EVENTS_MAX)
}

/// All connections of a reactor.
pub(super) struct Tcp {
    pub(super) table: ConnectionTable,
    pub(super) lines: Lines,
    pub(super) deadlines: Deadlines,
    pub(super) sessions: Sessions,
    sources: Sources,
    /// When those who wait for credit are looked at next.
    rate_look_at: Nanos,
    /// The connection whose seat another has just taken.
    pub(super) superseded: Option<ConnectionRef>,
    /// The place that was opened last.
    pub(super) adopted: u32,
    pub(super) limits: FrameLimits,
    parking: ParkingLot,
    pub(super) counters: Arc<IngestCounters>,
    chunks_offered_max: usize,
    /// Chunks to offer just now.
    chunk_target: usize,
    byte_cap: u32,
    pub(super) frame_deadline: Nanos,
    idle_deadline: Nanos,
    connection_number: u32,
    /// Tells cancel operations apart.
    cancel_number: u32,
    cancels_in_flight: u32,
    /// Events that wait in connections: received, in no lane yet.
    pub(super) pending_events: u64,
    /// When bytes or connections last came.
    pub(super) active_at: Nanos,
}

impl Tcp {
    pub(super) fn new(options: &ReactorOptions, pool: &PoolOwner, sessions: Sessions, counters: Arc<IngestCounters>) -> Self {
        Self {
            table: ConnectionTable::new(options.connections_max),
            lines: Lines::new(),
            deadlines: Deadlines::new(options.connections_max),
            sessions,
            sources: Sources::new(options.source_limits, options.connections_max),
            rate_look_at: Nanos(0),
            superseded: None,
            adopted: 0,
            limits: options.limits,
            parking: ParkingLot::new(pool),
            counters,
            chunks_offered_max: usize::from(options.tcp_chunks_offered),
            chunk_target: usize::from(options.tcp_chunks_offered),
            byte_cap: options.tcp_byte_cap,
            frame_deadline: options.frame_deadline,
            idle_deadline: options.idle_deadline,
            connection_number: 0,
            cancel_number: 0,
            cancels_in_flight: 0,
            pending_events: 0,
            active_at: Nanos(0),
        }
    }

    /// Opens the chunk group and puts all chunks on offer.
    pub(super) fn start<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        intake.pool.open_group(GroupId::Tcp, self.chunks_offered_max as u16);
        self.top_up(intake, ctx);
        // Never wait for chunks that the pool has not got.
        self.chunks_offered_max = intake.pool.lent_count(GroupId::Tcp);
        self.chunk_target = self.chunks_offered_max;
    }

    // -- chunks --

    /// Decides how many chunks are on offer and offers them. Calm: all. REALTIME events wait to be processed: half, so that what
    /// comes next is not behind a full budget of others. More than a poll's worth of a bulk tier waits ([`STANDING_EVENTS_MAX`]), or parking
    /// memory is short: one, which keeps REALTIME connections alive. Never none, and poll sees to it again soon while it is less than all.
    pub(super) fn offer_chunks<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        let full = self.chunks_offered_max;
        self.chunk_target = if is_bulk_pressed(intake) || self.is_memory_short(intake) {
            full.min(1)
        } else if intake.depth(Tier::Realtime) > 0 {
            full.div_ceil(2)
        } else {
            full
        };
        self.top_up(intake, ctx);
        self.arm_starved(intake, ctx);
    }

    /// Whether chunks come on offer only when connections that wait give them, or their memory, back.
    pub(super) fn has_no_chunk_to_come(&self, intake: &Intake) -> bool {
        intake.pool.lent_count(GroupId::Tcp) == 0 && self.is_memory_short(intake)
    }

    /// Whether the next turn might leave a chunk with a waiting connection for want of parking memory, or one is left with one already.
    fn is_memory_short(&self, intake: &Intake) -> bool {
        if Line::SERVED.into_iter().all(|line| self.lines.is_empty(line)) {
            return false;
        }
        let (gauges, parking, chunk) = (intake.pool.gauges(), SlotClass::Parking.index(), SlotClass::Chunk.index());
        let lent = intake.pool.lent_count(GroupId::Tcp) + intake.pool.lent_count(GroupId::UdpGro);
        let has_pinned = gauges.in_use[SlotUse::Kernel.index()][chunk] as usize > lent;
        has_pinned || (gauges.free[parking] as usize) < self.chunks_offered_max
    }

    fn top_up<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        while intake.pool.lent_count(GroupId::Tcp) < self.chunk_target {
            let Some(chunk) = intake.pool.acquire(SlotClass::Chunk, SlotUse::Kernel) else { return };
            match intake.pool.lend(chunk, GroupId::Tcp, 0) {
                Ok(buffer) => ctx.ring.provide(buffer),
                Err(chunk) => return intake.pool.give_back(chunk),
            }
        }
    }

    /// Whether fewer chunks are on offer than an idle reactor has, and that may change soon: by tiers that drain. What is short because waiting
    /// connections have the memory changes with their waits.
    pub(super) fn is_short_of_chunks(&self, intake: &Intake) -> bool {
        let is_pressed = is_bulk_pressed(intake) || intake.depth(Tier::Realtime) > 0;
        let is_short = intake.pool.lent_count(GroupId::Tcp) < self.chunks_offered_max;
        is_short && (is_pressed || !self.is_memory_short(intake))
    }

    /// Arms starved receives, once half of the chunks are on offer: at most one per chunk, so that they don't starve each other at
    /// once.
    fn arm_starved<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        let on_offer = intake.pool.lent_count(GroupId::Tcp);
        if on_offer == 0 || on_offer < self.chunk_target.div_ceil(2) {
            return;
        }
        for _ in 0..on_offer {
            let first = self.lines.pop_front(&mut self.table, Line::CHUNKS_FIRST);
            let next = first.or_else(|| self.lines.pop_front(&mut self.table, Line::CHUNKS));
            let Some(slot) = next else { return };
            self.end_wait(slot, ctx.now);
            self.counters.rearmed.add(1);
            self.arm(slot, ctx);
        }
    }

    /// The line for chunks that a connection belongs in.
    fn chunk_line(&self, slot: u32, intake: &Intake) -> Line {
        if self.table.get(slot).partial.is_housed(&intake.pool) { Line::CHUNKS_FIRST } else { Line::CHUNKS }
    }

    /// Whether a receive may not be armed at once, as it would take chunks before those whose turn it is.
    fn must_line_up(&self, line: Line) -> bool {
        !self.lines.is_empty(Line::CHUNKS_FIRST) || (line == Line::CHUNKS && !self.lines.is_empty(Line::CHUNKS))
    }

    // -- the life of a connection --

    /// Adopts an accepted descriptor.
    ///
    /// # Errors
    /// The table is full, or its source has all the connections that it may have.
    pub(super) fn adopt<R: Ring>(&mut self, accepted: &Accepted, ctx: &mut Context<'_, R>) -> Result<(), CloseReason> {
        if self.table.is_full() {
            return Err(CloseReason::OverLimit);
        }
        let address = if self.sources.any_limits() { ctx.ring.peer(accepted.fd) } else { None };
        let source = address.map(|address| self.sources.enter(address, ctx.now)).transpose();
        let source = source.map_err(|_| CloseReason::SourceLimit)?;
        // 0 means "no connection" in event headers.
        let number = self.connection_number.wrapping_add(1).max(1);
        let slot = self.table.open(accepted.fd, number, ctx.now).expect("it is not full");
        self.table.get_mut(slot).source = source;
        (self.connection_number, self.adopted) = (number, slot);
        self.active_at = ctx.now;
        self.counters.accepted.add(1);
        self.counters.connections_open.set(self.table.len() as u64);
        self.plan_deadlines(slot);
        self.arm(slot, ctx);
        Ok(())
    }

    /// The place of a connection that is gone is free.
    pub(super) fn free_place(&mut self, slot: u32) {
        if let Some(source) = self.table.get_mut(slot).source.take() {
            self.sources.leave(source);
        }
        self.table.free(slot);
        self.counters.connections_open.set(self.table.len() as u64);
    }

    /// The engine stops: what waits for credit is taken without.
    pub(super) fn lift_rates(&mut self) {
        self.sources.lift_rate();
        self.rate_look_at = Nanos(0);
    }

    fn arm<R: Ring>(&mut self, slot: u32, ctx: &mut Context<'_, R>) {
        let connection = self.table.get_mut(slot);
        debug_assert_eq!((connection.stage, connection.receive), (Stage::Open, Receive::Idle));
        connection.receive = Receive::Armed;
        let (fd, generation) = (connection.fd, connection.generation);
        ctx.ring.recv_multishot(ctx.token(kind::RECEIVE, generation, slot), fd, GroupId::Tcp, self.byte_cap);
    }

    pub(super) fn cancel<R: Ring>(&mut self, slot: u32, ctx: &mut Context<'_, R>) {
        let connection = self.table.get_mut(slot);
        connection.receive = Receive::Cancelled;
        let target = ctx.token(kind::RECEIVE, connection.generation, slot);
        let token = self.next_cancel(ctx, kind::CANCEL);
        ctx.ring.cancel(token, target);
    }

    /// The token of an operation that nobody waits for but the drain.
    pub(super) fn next_cancel<R: Ring>(&mut self, ctx: &Context<'_, R>, kind: u8) -> Token {
        self.cancel_number = self.cancel_number.wrapping_add(1);
        self.cancels_in_flight += 1;
        ctx.token(kind, 0, self.cancel_number)
    }

    /// A cancel has done what it could.
    pub(super) fn cancelled(&mut self) {
        self.cancels_in_flight -= 1;
    }

    /// The stream has come to its end, by the peer's will or by ours. What was delivered up to the receive's final completion
    /// is still taken; then the connection is closed.
    pub(super) fn end<R: Ring>(&mut self, slot: u32, reason: CloseReason, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        let connection = self.table.get_mut(slot);
        if connection.ended.is_some() || connection.stage != Stage::Open {
            return;
        }
        connection.ended = Some(reason);
        if connection.receive != Receive::Idle || connection.is_sending {
            ctx.ring.shutdown(connection.fd);
        }
        self.deadlines.clear(slot);
        self.settle(slot, intake, ctx);
    }

    /// After anything that happened to a connection: arms its receive again, or closes it, if nothing stands against it.
    pub(super) fn settle<R: Ring>(&mut self, slot: u32, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        let connection = self.table.get(slot);
        if connection.receive != Receive::Idle || connection.is_held_up() || connection.is_sending || connection.has_last_word {
            return;
        }
        match (connection.stage, connection.ended) {
            (Stage::Open, Some(reason)) => self.close(slot, reason, intake, ctx),
            (Stage::Refused, ended) => self.close(slot, ended.unwrap_or(CloseReason::Refused), intake, ctx),
            (Stage::Open, None) if let Protocol::Leaving(desk) = connection.protocol => self.hand_over(slot, desk, intake, ctx),
            (Stage::Open, None) if self.only_answers(slot) => {}
            // In line for chunks already.
            (Stage::Open, None) if connection.line.is_some() => {}
            (Stage::Open, None) => {
                let line = self.chunk_line(slot, intake);
                if self.must_line_up(line) {
                    self.begin_wait(slot, line, ctx.now);
                } else if !is_planted(Bug::NoRearm) {
                    self.counters.rearmed.add(1);
                    self.arm(slot, ctx);
                }
            }
            (Stage::Free | Stage::Closing, _) => {}
        }
    }

    /// Closes a connection that has no receive in flight and nothing left to take.
    fn close<R: Ring>(&mut self, slot: u32, reason: CloseReason, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        self.lines.leave(&mut self.table, slot);
        self.deadlines.clear(slot);
        self.leave_session(slot, ctx.now);
        let connection = self.table.get_mut(slot);
        let was_cut = connection.partial.discard(&mut intake.pool);
        if was_cut && !matches!(reason, CloseReason::Refused | CloseReason::SlowFrame) {
            self.counters.partial_frame.add(1);
        }
        self.counters.closed[reason.index()].add(1);
        connection.stage = Stage::Closing;
        let (fd, generation) = (connection.fd, connection.generation);
        ctx.ring.shutdown(fd);
        ctx.ring.close(ctx.token(kind::CLOSE, generation, slot), fd);
    }

    /// The descriptor is closed: the place is free.
    pub(super) fn closed(&mut self, token: Token) {
        if !self.table.is_current(token.slot(), token.generation()) {
            return self.counters.late_completions.add(1);
        }
        self.free_place(token.slot());
    }

    /// Refuses the connection's bytes from here on.
    fn refuse<R: Ring>(&mut self, slot: u32, refusal: FrameRefusal, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        self.counters.refused[Transport::Tcp as usize][refusal.index()].add(1);
        self.deadlines.clear(slot);
        self.stop_listening(slot, intake);
        let connection = self.table.get(slot);
        if connection.receive != Receive::Idle {
            ctx.ring.shutdown(connection.fd);
        }
    }

    /// What comes from here on, and what was not parsed yet, is not looked at.
    pub(super) fn stop_listening(&mut self, slot: u32, intake: &mut Intake) {
        let connection = self.table.get_mut(slot);
        connection.stage = Stage::Refused;
        connection.partial.discard(&mut intake.pool);
        while let Some((parked, _)) = self.parking.take_first(&mut self.table.get_mut(slot).parked) {
            intake.pool.give_back(parked);
        }
    }

    /// Ends every connection for the drain.
    pub(super) fn end_all<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        for slot in 0..self.table.reach() {
            match self.table.get(slot).stage {
                Stage::Refused => self.end_refused(slot, intake, ctx),
                Stage::Free | Stage::Open | Stage::Closing => self.end(slot, CloseReason::Drained, intake, ctx),
            }
        }
    }

    /// Whether there is no connection and no operation left.
    pub(super) fn is_over(&self) -> bool {
        self.table.len() == 0 && self.cancels_in_flight == 0
    }

    // -- bytes --

    /// A receive completed.
    pub(super) fn received<R: Ring>(&mut self, mut completion: Completion, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        let chunk = completion.buffer.take().map(|buffer| intake.pool.take_back(buffer));
        let (slot, generation) = (completion.token.slot(), completion.token.generation());
        if !self.table.is_current(slot, generation) {
            self.counters.late_completions.add(1);
            return intake.give_back(chunk);
        }
        if !completion.more {
            self.table.get_mut(slot).receive = Receive::Idle;
        }
        match (completion.result, chunk) {
            (Ok(bytes), Some(chunk)) if bytes > 0 => self.take_chunk(slot, chunk, bytes as usize, intake, ctx),
            (_, chunk) => intake.give_back(chunk),
        }
        if completion.more {
            return;
        }
        match completion.result {
            Ok(0) if self.end_of_session(slot) => {}
            Ok(0) => self.end(slot, CloseReason::Peer, intake, ctx),
            Err(Errno(libc::ENOBUFS)) => self.starve(slot, intake, ctx.now),
            // A cancel, or a signal: nothing is wrong with the connection.
            Ok(_) | Err(Errno(libc::ECANCELED | libc::EINTR | libc::EAGAIN)) => {}
            Err(_) => self.end(slot, CloseReason::Reset, intake, ctx),
        }
        self.settle(slot, intake, ctx);
    }

    fn starve(&mut self, slot: u32, intake: &Intake, now: Nanos) {
        self.counters.starved.add(1);
        let connection = self.table.get(slot);
        // One that is held up or has ended doesn't need chunks now.
        if connection.stage == Stage::Open && connection.line.is_none() && connection.ended.is_none() {
            self.begin_wait(slot, self.chunk_line(slot, intake), now);
        }
    }

    fn take_chunk<R: Ring>(&mut self, slot: u32, chunk: Slot, len: usize, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        self.counters.received_bytes[Transport::Tcp as usize].add(len as u64);
        self.active_at = ctx.now;
        let connection = self.table.get_mut(slot);
        connection.read_at = ctx.now;
        if connection.stage != Stage::Open {
            return intake.pool.give_back(chunk);
        }
        if connection.is_held_up() {
            self.park(slot, chunk, 0..len, intake);
            return self.stop_long_wait(slot, intake, ctx);
        }
        let shared = Arc::clone(&intake.shared);
        match self.feed(slot, &PoolOwner::bytes(&shared, &chunk)[..len], intake, ctx) {
            Fed::All => intake.pool.give_back(chunk),
            Fed::Wait { line, consumed } => {
                self.count_wait(line);
                self.begin_wait(slot, line, ctx.now);
                intake.set_line(line, true);
                self.park(slot, chunk, consumed..len, intake);
                self.stop_long_wait(slot, intake, ctx);
            }
            ended => {
                intake.pool.give_back(chunk);
                self.after_feed(slot, ended, intake, ctx);
            }
        }
        if self.table.get(slot).protocol != Protocol::Frames {
            self.after_hello(slot, intake, ctx);
        }
        intake.publish();
    }

    /// Ends a connection whose bytes came to that.
    pub(super) fn after_feed<R: Ring>(&mut self, slot: u32, fed: Fed, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        match fed {
            Fed::All | Fed::Wait { .. } => {}
            Fed::Refused(refusal) => self.refuse(slot, refusal, intake, ctx),
            Fed::Ended(fault) => self.part(slot, fault, intake, ctx),
            Fed::Anonymous => self.turn_away(slot, CloseReason::Anonymous, intake, ctx),
        }
        self.after_hello(slot, intake, ctx);
    }

    /// Takes a connection's bytes, as far as its source has credit.
    pub(super) fn feed<R: Ring>(&mut self, slot: u32, bytes: &[u8], intake: &mut Intake, ctx: &Context<'_, R>) -> Fed {
        let source = self.table.get(slot).source;
        let allowance = self.sources.allowance(source, ctx.now);
        let mut left = allowance;
        let fed = self.feed_some(slot, bytes, &mut left, intake, ctx);
        self.sources.spend(source, allowance - left, ctx.now);
        fed
    }

    /// Takes a connection's bytes, in order: what is pending, the partial frame, whole frames, the beginning of the next one. No more frames
    /// than are `left`.
    fn feed_some<R: Ring>(&mut self, slot: u32, bytes: &[u8], left: &mut u32, intake: &mut Intake, ctx: &Context<'_, R>) -> Fed {
        if self.table.get(slot).protocol != Protocol::Frames
            && let Some(fed) = self.feed_other(slot, bytes, left, intake, ctx)
        {
            return fed;
        }
        if let Some(waits) = self.feed_pending(slot, intake) {
            return waits;
        }
        let connection = self.table.get_mut(slot);
        let origin = origin(connection, ctx);
        let mut numbers = Metered::new(Unnumbered, left);
        let mut consumed = 0;
        if connection.partial.is_open() {
            let filled = connection.partial.fill(bytes, intake, &origin, &mut numbers);
            consumed = filled.consumed;
            if let Some(stop) = filled.stop {
                return self.stopped(slot, stop, consumed);
            }
        }
        let taken = intake.take_frames(&bytes[consumed..], &origin, &mut numbers);
        consumed += taken.consumed;
        let rest = &bytes[consumed..];
        if !matches!(taken.stop, Stop::Incomplete) || rest.is_empty() {
            return self.stopped(slot, taken.stop, consumed);
        }
        let connection = self.table.get_mut(slot);
        connection.partial.since = ctx.now;
        let filled = connection.partial.fill(rest, intake, &origin, &mut numbers);
        if connection.ended.is_none() {
            self.deadlines.no_later_than(slot, ctx.now + self.frame_deadline);
        }
        let stop = filled.stop.unwrap_or(Stop::Incomplete);
        self.stopped(slot, stop, consumed + filled.consumed)
    }

    /// Sends the event that waits for its lane. What it comes to, if it has to wait on.
    pub(super) fn feed_pending(&mut self, slot: u32, intake: &mut Intake) -> Option<Fed> {
        let connection = self.table.get_mut(slot);
        let (event, tier) = connection.pending.take()?;
        if let Err(event) = intake.send(event, tier) {
            connection.pending = Some((event, tier));
            return Some(Fed::Wait { line: Line::lane(tier), consumed: 0 });
        }
        self.pending_events -= 1;
        None
    }

    pub(super) fn stopped(&mut self, slot: u32, stop: Stop, consumed: usize) -> Fed {
        match stop {
            Stop::Incomplete => Fed::All,
            Stop::Wait(line) => Fed::Wait { line, consumed },
            Stop::Refused(refusal) if self.table.get(slot).protocol == Protocol::Frames => Fed::Refused(refusal),
            Stop::Refused(refusal) => Fed::Ended(SessionFault::MalformedFrame(refusal)),
            Stop::Fault(fault) => Fed::Ended(fault),
            Stop::Pending(event, tier) => {
                self.pending_events += 1;
                self.table.get_mut(slot).pending = Some((event, tier));
                Fed::Wait { line: Line::lane(tier), consumed }
            }
        }
    }
}
