//! Connections that wait: how they begin to, what of them is parked, and how they are called up.

use std::ops::Range;
use std::sync::Arc;

use super::{Fed, PARKED_SEGMENTS_MAX, Tcp};
use crate::agent::Context;
use crate::ingest::connection::Receive;
use crate::ingest::intake::Intake;
use crate::ingest::parking::ChunkAfter;
use crate::ingest::waiting::{Line, Lines};
use crate::pool::{PoolOwner, Slot};
use crate::sys::clock::Nanos;
use crate::sys::io::Ring;

/// How often those who wait for credit are looked at, all of them.
const RATE_LOOK_EVERY: Nanos = Nanos::from_millis(10);

impl Tcp {
    pub(super) fn count_wait(&self, line: Line) {
        match line.lane_of() {
            Some(tier) => self.counters.waits[tier.index()].add(1),
            None if line == Line::RATE => self.counters.rate_waits.add(1),
            None => self.counters.slot_waits.add(1),
        }
    }

    pub(super) fn begin_wait(&mut self, slot: u32, line: Line, now: Nanos) {
        self.table.get_mut(slot).waits_since = now;
        self.lines.push_back(&mut self.table, line, slot);
        if !line.is_for_chunks() {
            self.deadlines.clear(slot);
        }
    }

    /// Ends the receive of a connection whose wait is long: for a slot, for credit, for the end of a pause, or for a lane when much has
    /// come meanwhile.
    pub(super) fn stop_long_wait<R: Ring>(&mut self, slot: u32, intake: &Intake, ctx: &mut Context<'_, R>) {
        let connection = self.table.get(slot);
        let is_paused = |line: Line| line.lane_of().is_some_and(|tier| intake.gate.pauses(tier));
        let is_long_line = |line: Line| line == Line::RATE || line.slot_use().is_some() || is_paused(line);
        let is_long = connection.line.is_some_and(is_long_line) || connection.parked.segments() >= PARKED_SEGMENTS_MAX;
        if connection.receive == Receive::Armed && is_long {
            self.cancel(slot, ctx);
        }
    }

    /// The wait is over: deadlines go on where they stood.
    pub(super) fn end_wait(&mut self, slot: u32, now: Nanos) {
        let connection = self.table.get_mut(slot);
        let stood = now.since(connection.waits_since);
        connection.read_at = connection.read_at + stood;
        connection.partial.since = connection.partial.since + stood;
        self.plan_deadlines(slot);
    }

    pub(super) fn park(&mut self, slot: u32, chunk: Slot, range: Range<usize>, intake: &mut Intake) {
        if range.is_empty() {
            return intake.pool.give_back(chunk);
        }
        let bytes = range.len() as u64;
        match self.parking.park(&mut self.table.get_mut(slot).parked, &mut intake.pool, chunk, range) {
            ChunkAfter::Free(chunk) => {
                self.counters.parked_bytes.add(bytes);
                intake.pool.give_back(chunk);
            }
            ChunkAfter::Pinned => self.counters.pinned_chunks.add(1),
        }
    }

    /// Calls up those who wait, line by line, until `budget_bytes` of parked bytes are taken or nothing moves.
    pub(in crate::ingest) fn resume_waiting<R: Ring>(
        &mut self,
        budget_bytes: usize,
        intake: &mut Intake,
        ctx: &mut Context<'_, R>,
    ) {
        let mut left = budget_bytes;
        for line in Line::SERVED {
            let may_move = match line.lane_of() {
                Some(tier) => intake.may_resume(tier),
                None => line != Line::RATE || ctx.now >= self.rate_look_at,
            };
            if may_move && !self.lines.is_empty(line) {
                self.resume_line(line, &mut left, intake, ctx);
            }
        }
        if ctx.now >= self.rate_look_at && left > 0 {
            self.rate_look_at = ctx.now + RATE_LOOK_EVERY;
        }
    }

    /// Whether a connection has to wait for credit on, whatever those behind it do.
    fn is_out_of_credit(&self, slot: u32, line: Line, now: Nanos) -> bool {
        line == Line::RATE && self.sources.allowance(self.table.get(slot).source, now) == 0
    }

    fn resume_line<R: Ring>(&mut self, line: Line, left: &mut usize, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        intake.set_line(line, false);
        let mut next_slot = self.lines.first(line);
        for _ in 0..self.lines.len(line) {
            if *left == 0 {
                break;
            }
            // Who was called up may have ended another: then those behind that one are called up next time.
            let Some(slot) = next_slot.filter(|slot| self.table.get(*slot).line == Some(line)) else { break };
            next_slot = Lines::behind(&self.table, slot);
            if self.is_out_of_credit(slot, line, ctx.now) {
                continue;
            }
            self.lines.leave(&mut self.table, slot);
            self.end_wait(slot, ctx.now);
            let before = (*left, intake.events_done, self.pending_events);
            let Some(next) = self.resume(slot, left, intake, ctx) else {
                self.settle(slot, intake, ctx);
                continue;
            };
            let moved = before != (*left, intake.events_done, self.pending_events);
            if next == line && !moved {
                // Still the first, and nothing for those behind it either.
                self.table.get_mut(slot).waits_since = ctx.now;
                self.lines.push_front(&mut self.table, line, slot);
                self.deadlines.clear(slot);
                break;
            }
            self.count_wait(next);
            self.begin_wait(slot, next, ctx.now);
            self.stop_long_wait(slot, intake, ctx);
            if next != line {
                intake.set_line(next, true);
            }
        }
        intake.set_line(line, !self.lines.is_empty(line));
        intake.publish();
    }

    /// Takes a connection's parked bytes. The line it must wait in again, if it must.
    fn resume<R: Ring>(&mut self, slot: u32, left: &mut usize, intake: &mut Intake, ctx: &mut Context<'_, R>) -> Option<Line> {
        loop {
            let Some((parked, range)) = self.parking.take_first(&mut self.table.get_mut(slot).parked) else {
                // What waits without a byte behind it: a pending event, a frame that is whole in its slot.
                return match self.feed(slot, &[], intake, ctx) {
                    Fed::All => None,
                    Fed::Wait { line, .. } => Some(line),
                    ended => {
                        self.after_feed(slot, ended, intake, ctx);
                        None
                    }
                };
            };
            let shared = Arc::clone(&intake.shared);
            match self.feed(slot, &PoolOwner::bytes(&shared, &parked)[range.clone()], intake, ctx) {
                Fed::All => {
                    *left = left.saturating_sub(range.len());
                    intake.pool.give_back(parked);
                }
                Fed::Wait { line, consumed } => {
                    *left = left.saturating_sub(consumed);
                    self.put_back(slot, parked, range.start + consumed..range.end, intake);
                    return Some(line);
                }
                ended => {
                    intake.pool.give_back(parked);
                    self.after_feed(slot, ended, intake, ctx);
                    return None;
                }
            }
        }
    }

    fn put_back(&mut self, slot: u32, parked: Slot, range: Range<usize>, intake: &mut Intake) {
        if range.is_empty() {
            return intake.pool.give_back(parked);
        }
        self.parking.put_first(&mut self.table.get_mut(slot).parked, parked, range);
    }

    /// Whether the only connections that wait do so for the end of a pause, for credit, or for chunks that those have who wait for these: nothing
    /// that others do ends any of it sooner, and looking often would only keep an idle core awake, for as long as a level lasts.
    pub(in crate::ingest) fn waits_for_pauses_only(&self, intake: &Intake) -> bool {
        let is_paused = |line: Line| line.lane_of().is_some_and(|tier| intake.gate.pauses(tier));
        let is_behind = |line: Line| line.is_for_chunks() && self.has_no_chunk_to_come(intake);
        Line::ALL.into_iter().all(|line| self.lines.is_empty(line) || line == Line::RATE || is_paused(line) || is_behind(line))
    }
}
