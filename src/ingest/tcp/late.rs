//! Connections that are late: with a frame, or with anything at all.

use super::Tcp;
use crate::agent::Context;
use crate::ingest::connection::Stage;
use crate::ingest::counters::CloseReason;
use crate::ingest::deadlines::SWEEP_INTERVAL;
use crate::ingest::intake::Intake;
use crate::ingest::session::Protocol;
use crate::ingest::waiting::Line;
use crate::sys::clock::Nanos;
use crate::sys::io::{GroupId, Ring};
use crate::wire::session::SessionFault;

impl Tcp {
    /// Notes when to look at this connection's deadlines.
    pub(in crate::ingest) fn plan_deadlines(&mut self, slot: u32) {
        let connection = self.table.get(slot);
        if connection.stage != Stage::Open || connection.ended.is_some() {
            return;
        }
        if connection.partial.is_open() {
            self.deadlines.no_later_than(slot, connection.partial.since + self.frame_deadline);
        }
        if self.idle_deadline != Nanos(0) {
            self.deadlines.no_later_than(slot, connection.read_at + self.idle_deadline);
        }
    }

    /// Ends connections whose deadline has passed.
    pub(in crate::ingest) fn sweep<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        if !self.deadlines.begin_sweep(ctx.now) {
            return;
        }
        let reach = self.table.reach();
        let mut from = 0;
        while let Some(slot) = self.deadlines.next_due(from, reach) {
            from = slot + 1;
            self.look_at_deadlines(slot, intake, ctx);
        }
        self.deadlines.end_sweep(reach);
    }

    fn look_at_deadlines<R: Ring>(&mut self, slot: u32, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        if self.table.get(slot).protocol != Protocol::Frames && self.look_at_session(slot, intake, ctx) {
            return;
        }
        let connection = self.table.get(slot);
        // In line for chunks it is we who don't read: time stands still. Unless no chunk is on offer at all: then waiting connections
        // hold them, perhaps for a slot that this one's partial frame occupies, and the deadline is what unties that knot.
        let may_be_knot = connection.partial.is_open() && intake.pool.lent_count(GroupId::Tcp) == 0;
        let stands_still = connection.line.is_some_and(Line::is_for_chunks);
        if stands_still && !may_be_knot {
            return self.deadlines.no_later_than(slot, ctx.now + SWEEP_INTERVAL);
        }
        if connection.partial.is_open() && ctx.now >= connection.partial.since + self.frame_deadline {
            self.counters.slow_frame.add(1);
            return self.end_late(slot, (SessionFault::SlowFrame, CloseReason::SlowFrame), intake, ctx);
        }
        if self.idle_deadline != Nanos(0) && !stands_still && ctx.now >= connection.read_at + self.idle_deadline {
            return self.end_late(slot, (SessionFault::Idle, CloseReason::Idle), intake, ctx);
        }
        self.plan_deadlines(slot);
    }
}
