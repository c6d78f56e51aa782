//! Connections that are sessions, or want to be: what TCP does for them beside what it does for all.

use std::sync::Arc;

use super::handover::Transfer;
use super::outbox::{ConnectionRef, Sent};
use super::seat::{MarkTimes, Seat, SeatNumbers, Tidings};
use crate::agent::Context;
use crate::control::Level;
use crate::ingest::accept::Accepted;
use crate::ingest::connection::{Receive, Stage};
use crate::ingest::counters::{CloseReason, Transport};
use crate::ingest::intake::{Intake, Stop};
use crate::ingest::kind;
use crate::ingest::numbering::Metered;
use crate::ingest::tcp::{Fed, Tcp};
use crate::sys::clock::Nanos;
use crate::sys::io::{Completion, Fd, Ring};
use crate::wire::session::{AckLevel, ClientMessage, HELLO_BYTES_MAX, HELLO_KIND, SessionFault, Step, parse_client};
use crate::wire::{FrameRefusal, Tier};

/// How long a connection that was told its last word may take to close its side; closing ours while it still sends would reset it, and take the
/// last word with it.
const LINGER: Nanos = Nanos::from_millis(1_000);

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingest) enum Protocol {
    /// Its first byte has not come.
    Unknown,
    /// Version 1.
    Frames,
    /// Its hello is not whole.
    Greeting(u16),
    /// Its hello goes to another reactor when its receive has ended.
    Leaving(u16),
    /// It speaks for this seat.
    Seated(u16),
    /// It is told its last word from this desk.
    Parting(u16),
    /// It is not listened to, and not spoken to, any more.
    Over,
}

impl Tcp {
    fn reference(&self, slot: u32) -> ConnectionRef {
        ConnectionRef { slot, generation: self.table.get(slot).generation }
    }

    // -- what comes --

    /// Takes bytes of a connection that is not known to speak version 1. `None`: it does from now on.
    pub(in crate::ingest) fn feed_other<R: Ring>(
        &mut self,
        slot: u32,
        bytes: &[u8],
        left: &mut u32,
        intake: &mut Intake,
        ctx: &Context<'_, R>,
    ) -> Option<Fed> {
        let Some(&first_byte) = bytes.first() else {
            // Called up with an event that waits, or a frame that is whole in its slot.
            return match self.table.get(slot).protocol {
                Protocol::Seated(seat) => Some(self.feed_session((slot, seat), bytes, left, intake, ctx)),
                _ => Some(self.feed_pending(slot, intake).unwrap_or(Fed::All)),
            };
        };
        Some(match self.table.get(slot).protocol {
            Protocol::Frames => return None,
            Protocol::Unknown if first_byte == HELLO_KIND => match self.sessions.desks.take(self.reference(slot), ctx.now) {
                Some(desk) => {
                    self.table.get_mut(slot).protocol = Protocol::Greeting(desk);
                    self.feed_hello(slot, desk, bytes, ctx.now)
                }
                None => Fed::Ended(SessionFault::NoSeat),
            },
            Protocol::Unknown if first_byte == 0 && !self.sessions.options.takes_anonymous => Fed::Anonymous,
            Protocol::Unknown => {
                self.table.get_mut(slot).protocol = Protocol::Frames;
                return None;
            }
            Protocol::Greeting(desk) => self.feed_hello(slot, desk, bytes, ctx.now),
            Protocol::Leaving(_) => Fed::Ended(SessionFault::EarlyBytes),
            Protocol::Seated(seat) => self.feed_session((slot, seat), bytes, left, intake, ctx),
            Protocol::Parting(_) | Protocol::Over => self.feed_pending(slot, intake).unwrap_or(Fed::All),
        })
    }

    fn feed_hello(&mut self, slot: u32, number: u16, bytes: &[u8], now: Nanos) -> Fed {
        let desk = self.sessions.desks.get_mut(number);
        let taken = bytes.len().min(HELLO_BYTES_MAX - desk.hello_bytes);
        desk.hello[desk.hello_bytes..][..taken].copy_from_slice(&bytes[..taken]);
        desk.hello_bytes += taken;
        match parse_client(&desk.hello[..desk.hello_bytes], &self.limits) {
            Ok(Step::Whole { bytes: whole, .. }) if whole < desk.hello_bytes || taken < bytes.len() => {
                Fed::Ended(SessionFault::EarlyBytes)
            }
            Ok(Step::Whole { .. }) => self.greet(slot, number, now),
            Ok(Step::Incomplete { .. }) => {
                let at = desk.since + self.frame_deadline;
                self.deadlines.no_later_than(slot, at);
                Fed::All
            }
            Err(fault) => Fed::Ended(fault),
        }
    }

    /// A hello is whole: it is answered here, or goes to its home.
    fn greet(&mut self, slot: u32, number: u16, now: Nanos) -> Fed {
        let desk = self.sessions.desks.get(number);
        let (hello, hello_bytes) = (desk.hello, desk.hello_bytes);
        let Ok(Step::Whole { message: ClientMessage::Hello(hello), .. }) = parse_client(&hello[..hello_bytes], &self.limits)
        else {
            unreachable!("the caller has parsed it")
        };
        if let Err(fault) = self.sessions.judge_hello(&hello) {
            return Fed::Ended(fault);
        }
        let home = hello.producer.home(self.sessions.wiring.inboxes.len());
        if home != self.sessions.wiring.reactor {
            self.table.get_mut(slot).protocol = Protocol::Leaving(number);
            return Fed::All;
        }
        let connection = self.reference(slot);
        match self.sessions.take_seat(&hello, connection, now) {
            Ok((seat, superseded)) => {
                self.sessions.desks.give_back(number);
                self.table.get_mut(slot).protocol = Protocol::Seated(seat);
                self.deadlines.clear(slot);
                self.plan_deadlines(slot);
                self.superseded = superseded;
                Fed::All
            }
            Err(fault) => Fed::Ended(fault),
        }
    }

    /// Takes a session's bytes: what is pending, what was cut, frames and what is between them.
    fn feed_session<R: Ring>(
        &mut self,
        (slot, number): (u32, u16),
        bytes: &[u8],
        left: &mut u32,
        intake: &mut Intake,
        ctx: &Context<'_, R>,
    ) -> Fed {
        if let Some(waits) = self.feed_pending(slot, intake) {
            return waits;
        }
        let Tcp { table, sessions, deadlines, .. } = self;
        let connection = table.get_mut(slot);
        let origin = crate::ingest::tcp::origin(connection, ctx);
        let duplicates = Arc::clone(&sessions.wiring.counters);
        let seat = &mut sessions.seats[usize::from(number)];
        let mut consumed = 0;
        loop {
            let rest = &bytes[consumed..];
            let is_open = connection.partial.is_open();
            if seat.ending.is_some() || (rest.is_empty() && !is_open) {
                return Fed::All;
            }
            if seat.is_cut() || (!is_open && rest.first().is_some_and(|kind| *kind != 0)) {
                let mut at = MarkTimes { now: ctx.now, wall: ctx.wall, on_the_way: &mut sessions.on_the_way };
                match seat.take_message(rest, &intake.limits, &mut at) {
                    Ok(taken) => consumed += taken,
                    Err(fault) => return Fed::Ended(fault),
                }
                if seat.is_cut() {
                    deadlines.no_later_than(slot, ctx.now + self.frame_deadline);
                }
                continue;
            }
            let Some(numbers) = SeatNumbers::new(seat, &duplicates.duplicates) else { return Fed::All };
            let mut numbers = Metered::new(numbers, left);
            let (taken, stop) = if is_open {
                let filled = connection.partial.fill(rest, intake, &origin, &mut numbers);
                (filled.consumed, filled.stop)
            } else {
                let taken = intake.take_frames(rest, &origin, &mut numbers);
                (taken.consumed, Some(taken.stop))
            };
            consumed += taken;
            match stop {
                // The frame that had been cut is done with.
                None => {}
                // The next byte is none of a frame: a message, unless it is nothing known.
                Some(Stop::Refused(FrameRefusal::UnknownProtocol { .. })) if !is_open => {}
                Some(Stop::Incomplete) if is_open || consumed == bytes.len() => return Fed::All,
                Some(Stop::Incomplete) => {
                    connection.partial.since = ctx.now;
                    let filled = connection.partial.fill(&bytes[consumed..], intake, &origin, &mut numbers);
                    deadlines.no_later_than(slot, ctx.now + self.frame_deadline);
                    let stop = filled.stop.unwrap_or(Stop::Incomplete);
                    return self.stopped(slot, stop, consumed + filled.consumed);
                }
                Some(stop) => return self.stopped(slot, stop, consumed),
            }
        }
    }

    /// What a hello leads to beside its own answer: the connection that it supersedes ends, and one that goes elsewhere stops receiving.
    pub(in crate::ingest) fn after_hello<R: Ring>(&mut self, slot: u32, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        if let Some(old) = self.superseded.take()
            && self.table.is_current(old.slot, old.generation)
        {
            // The seat is the newer one's already.
            self.table.get_mut(old.slot).protocol = Protocol::Over;
            self.part(old.slot, SessionFault::Superseded, intake, ctx);
        }
        let connection = self.table.get(slot);
        if let Protocol::Leaving(_) = connection.protocol
            && connection.receive == Receive::Armed
        {
            self.cancel(slot, ctx);
        }
    }

    /// The peer has ended its side of the stream. A session is told what is left; whether it is one.
    pub(in crate::ingest) fn end_of_session(&mut self, slot: u32) -> bool {
        let Protocol::Seated(seat) = self.table.get(slot).protocol else { return false };
        self.sessions.seats[usize::from(seat)].ending.get_or_insert(None);
        true
    }

    /// Whether a connection needs no receive any more, though it is open: only answers are left.
    pub(in crate::ingest) fn only_answers(&self, slot: u32) -> bool {
        matches!(self.table.get(slot).protocol, Protocol::Seated(seat) if self.sessions.seats[usize::from(seat)].ending.is_some())
    }

    // -- deadlines --

    /// Ends a connection for being late, with a last word where it is a session.
    pub(in crate::ingest) fn end_late<R: Ring>(
        &mut self,
        slot: u32,
        (fault, reason): (SessionFault, CloseReason),
        intake: &mut Intake,
        ctx: &mut Context<'_, R>,
    ) {
        match self.table.get(slot).protocol {
            Protocol::Seated(_) | Protocol::Greeting(_) => self.part(slot, fault, intake, ctx),
            _ => self.end(slot, reason, intake, ctx),
        }
    }

    /// The deadlines of what is no frame. Whether the connection has ended by one.
    pub(in crate::ingest) fn look_at_session<R: Ring>(
        &mut self,
        slot: u32,
        intake: &mut Intake,
        ctx: &mut Context<'_, R>,
    ) -> bool {
        let connection = self.table.get(slot);
        if connection.stage == Stage::Refused {
            // It was told its last word, and has had its time to hear it.
            ctx.ring.shutdown(connection.fd);
            return true;
        }
        let (since, fault) = match connection.protocol {
            Protocol::Greeting(desk) => (Some(self.sessions.desks.get(desk).since), SessionFault::HelloLate),
            Protocol::Seated(seat) => (self.sessions.seats[usize::from(seat)].cut_since(), SessionFault::SlowFrame),
            _ => return false,
        };
        let Some(at) = since.map(|since| since + self.frame_deadline) else { return false };
        if ctx.now < at {
            self.deadlines.no_later_than(slot, at);
            return false;
        }
        self.part(slot, fault, intake, ctx);
        true
    }

    /// Ends a connection without a word.
    pub(in crate::ingest) fn turn_away<R: Ring>(
        &mut self,
        slot: u32,
        reason: CloseReason,
        intake: &mut Intake,
        ctx: &mut Context<'_, R>,
    ) {
        self.stop_listening(slot, intake);
        self.deadlines.clear(slot);
        let connection = self.table.get_mut(slot);
        connection.ended = Some(reason);
        if connection.receive != Receive::Idle {
            ctx.ring.shutdown(connection.fd);
        }
    }

    // -- ends --

    /// Ends a connection that speaks, or wants to speak, for a session, with a last word if there is a desk to say it from.
    pub(in crate::ingest) fn part<R: Ring>(
        &mut self,
        slot: u32,
        fault: SessionFault,
        intake: &mut Intake,
        ctx: &mut Context<'_, R>,
    ) {
        self.sessions.counters().faults[fault.index()].add(1);
        if let SessionFault::MalformedFrame(refusal) = fault {
            self.counters.refused[Transport::Tcp as usize][refusal.index()].add(1);
        }
        let desk = match self.table.get(slot).protocol {
            Protocol::Greeting(desk) | Protocol::Leaving(desk) => Some(desk),
            Protocol::Seated(seat) => {
                self.sessions.leave_seat(seat, ctx.now);
                self.sessions.desks.take(self.reference(slot), ctx.now)
            }
            _ => self.sessions.desks.take(self.reference(slot), ctx.now),
        };
        self.stop_listening(slot, intake);
        self.deadlines.clear(slot);
        if self.table.get(slot).line.is_some_and(crate::ingest::waiting::Line::is_for_chunks) {
            self.lines.leave(&mut self.table, slot);
        }
        let connection = self.table.get_mut(slot);
        match desk.filter(|_| connection.ended.is_none()) {
            Some(number) => {
                connection.protocol = Protocol::Parting(number);
                connection.has_last_word = true;
                if connection.is_sending {
                    // The last word comes behind what is on its way: to a peer that does not read, never (SE5).
                    self.deadlines.no_later_than(slot, ctx.now + self.frame_deadline);
                }
                self.sessions.desks.get_mut(number).fault = Some(fault);
            }
            None => {
                connection.protocol = Protocol::Over;
                desk.into_iter().for_each(|desk| self.sessions.desks.give_back(desk));
                if connection.receive != Receive::Idle || connection.is_sending {
                    ctx.ring.shutdown(connection.fd);
                }
            }
        }
    }

    /// A session has come to its end in good order: our side of the stream ends, and its own is waited for.
    fn finish_session<R: Ring>(&mut self, slot: u32, seat: u16, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        self.sessions.leave_seat(seat, ctx.now);
        self.stop_listening(slot, intake);
        let connection = self.table.get_mut(slot);
        connection.protocol = Protocol::Over;
        connection.ended = connection.ended.or(Some(CloseReason::Peer));
        self.linger(slot, intake, ctx);
    }

    /// Everything is said.
    fn linger<R: Ring>(&mut self, slot: u32, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        let connection = self.table.get_mut(slot);
        ctx.ring.end_sending(connection.fd);
        self.deadlines.no_later_than(slot, ctx.now + LINGER);
        self.settle(slot, intake, ctx);
    }

    /// A seat's or desk's use ends with its connection.
    pub(in crate::ingest) fn leave_session(&mut self, slot: u32, now: Nanos) {
        match std::mem::replace(&mut self.table.get_mut(slot).protocol, Protocol::Over) {
            Protocol::Seated(seat) => self.sessions.leave_seat(seat, now),
            Protocol::Greeting(desk) | Protocol::Leaving(desk) | Protocol::Parting(desk) => self.sessions.desks.give_back(desk),
            Protocol::Unknown | Protocol::Frames | Protocol::Over => {}
        }
    }

    // -- what goes --

    /// Takes home what came, and connections that other reactors hand over. At the begin of a poll.
    pub(in crate::ingest) fn begin_sessions<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        while let Some(ended) = intake.pool.ended() {
            self.sessions.ended(&ended);
            intake.pool.free_ended();
        }
        self.sessions.take_returns();
        self.sessions.on_the_way.publish_if_due(ctx.now);
        self.sessions.look_at_store();
        while let Some(transfer) = self.sessions.inbox().take() {
            self.adopt_transfer(&transfer, intake, ctx);
        }
    }

    /// Tells every session what there is to tell. At the end of a poll.
    pub(in crate::ingest) fn answer_sessions<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        if self.sessions.rest() {
            return;
        }
        // A log that takes nothing is no level, but to a client it is the same as the highest one.
        let level = if intake.gate.is_store_unavailable() { Level::Emergency } else { intake.gate.level() };
        let tidings = Tidings {
            credits: Tier::ALL.map(|tier| intake.credits(tier)),
            overload: level as u8,
            frame_bytes_max: intake.limits.max_frame_bytes,
            window: self.sessions.options.window,
        };
        let watermarks = AckLevel::ALL.map(|level| self.sessions.watermark(level));
        for place in (0..self.sessions.open.len()).rev() {
            let number = self.sessions.open[place];
            self.answer_seat(number, &tidings, &watermarks, intake, ctx);
        }
        if self.sessions.desks.in_use() > 0 {
            for slot in 0..self.table.reach() {
                if let Protocol::Parting(desk) = self.table.get(slot).protocol {
                    self.say_last_word(slot, desk, ctx);
                }
            }
        }
    }

    fn answer_seat<R: Ring>(
        &mut self,
        number: u16,
        tidings: &Tidings,
        watermarks: &[u64; 3],
        intake: &mut Intake,
        ctx: &mut Context<'_, R>,
    ) {
        let seat = &mut self.sessions.seats[usize::from(number)];
        let Some(to) = seat.connection else { return };
        seat.advance(watermarks[seat.level as usize], &self.sessions.wiring.producers);
        let stuck = seat.outbox.stuck_since(Nanos(ctx.now.0.saturating_sub(self.frame_deadline.0)));
        if stuck == Some(to) {
            return self.give_up(to.slot, intake, ctx);
        }
        seat.compose(tidings, &self.sessions.wiring.counters);
        let connection = self.table.get_mut(to.slot);
        // A peer that has ended its side may still read; one that is gone may not.
        if !connection.is_sending && connection.stage == Stage::Open && seat.outbox.send(to, connection.fd, ctx) {
            connection.is_sending = true;
        }
        let Some(last_word) = seat.ending.filter(|_| seat.is_told() && connection.pending.is_none()) else { return };
        match last_word {
            Some(fault) => self.part(to.slot, fault, intake, ctx),
            None => self.finish_session(to.slot, number, intake, ctx),
        }
    }

    fn say_last_word<R: Ring>(&mut self, slot: u32, number: u16, ctx: &mut Context<'_, R>) {
        let to = self.reference(slot);
        let connection = self.table.get_mut(slot);
        let desk = self.sessions.desks.get_mut(number);
        if desk.outbox.stuck_since(Nanos(ctx.now.0.saturating_sub(self.frame_deadline.0))).is_some() {
            return ctx.ring.shutdown(connection.fd);
        }
        if connection.is_sending {
            return;
        }
        let Some(fault) = desk.fault.take() else { return };
        Seat::compose_last(&mut desk.outbox, fault);
        connection.is_sending = desk.outbox.send(to, connection.fd, ctx);
    }

    /// A client does not read what it is sent.
    fn give_up<R: Ring>(&mut self, slot: u32, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        self.sessions.counters().faults[SessionFault::SlowReader.index()].add(1);
        self.leave_session(slot, ctx.now);
        self.stop_listening(slot, intake);
        ctx.ring.shutdown(self.table.get(slot).fd);
    }

    /// A send has completed.
    pub(in crate::ingest) fn sent<R: Ring>(&mut self, completion: &Completion, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        let number = completion.token.slot() as usize;
        let seats = self.sessions.seats.len();
        let (table, sessions) = (&self.table, &mut self.sessions);
        let outbox = match number.checked_sub(seats) {
            None => &mut sessions.seats[number].outbox,
            Some(desk) => &mut sessions.desks.get_mut(desk as u16).outbox,
        };
        let is_open = |to: ConnectionRef| table.is_current(to.slot, to.generation);
        let Sent::All(to) = outbox.completed(completion.token, completion.result, is_open, ctx) else { return };
        if !self.table.is_current(to.slot, to.generation) {
            return;
        }
        let connection = self.table.get_mut(to.slot);
        connection.is_sending = false;
        let was_last = number >= seats && std::mem::take(&mut connection.has_last_word);
        if was_last && connection.receive != Receive::Idle {
            return self.linger(to.slot, intake, ctx);
        }
        self.settle(to.slot, intake, ctx);
    }

    // -- the drain --

    /// The engine stops: no frame of a session is taken any more, and each ends when it has been told all.
    pub(in crate::ingest) fn stop_sessions(&mut self) {
        for number in &self.sessions.open {
            self.sessions.seats[usize::from(*number)].ending.get_or_insert(Some(SessionFault::Stopping));
        }
    }

    /// Whether all sessions have ended, and all last words are on their way.
    pub(in crate::ingest) fn sessions_are_over(&self) -> bool {
        self.sessions.open.is_empty() && !self.sessions.desks.any_speaks()
    }

    /// Ends a connection that is not listened to any more, for the drain: its last word has gone, or will not.
    pub(in crate::ingest) fn end_refused<R: Ring>(&mut self, slot: u32, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        let connection = self.table.get_mut(slot);
        connection.has_last_word = false;
        if connection.receive != Receive::Idle || connection.is_sending {
            ctx.ring.shutdown(connection.fd);
        }
        self.settle(slot, intake, ctx);
    }

    /// No hello is taken over any more; those that were on their way are closed.
    pub(in crate::ingest) fn close_inbox<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        self.sessions.inbox().close();
        while let Some(transfer) = self.sessions.inbox().take() {
            self.close_stray(transfer.fd, ctx);
        }
    }

    // -- to another reactor --

    /// The receive of a connection that leaves has ended: it goes.
    pub(in crate::ingest) fn hand_over<R: Ring>(
        &mut self,
        slot: u32,
        number: u16,
        intake: &mut Intake,
        ctx: &mut Context<'_, R>,
    ) {
        let desk = self.sessions.desks.get(number);
        let connection = self.table.get(slot);
        let transfer = Transfer { fd: connection.fd, hello: desk.hello, hello_bytes: desk.hello_bytes };
        let Ok(Step::Whole { message: ClientMessage::Hello(hello), .. }) =
            parse_client(&transfer.hello[..transfer.hello_bytes], &self.limits)
        else {
            unreachable!("only whole hellos leave")
        };
        let inboxes = Arc::clone(&self.sessions.wiring.inboxes);
        let inbox = &inboxes[hello.producer.home(inboxes.len())];
        match inbox.offer(transfer) {
            Ok(()) => self.sessions.counters().handed_over.add(1),
            Err(back) if back == connection.fd => {
                let fault = if inbox.is_closed() { SessionFault::Stopping } else { SessionFault::NoSeat };
                self.part(slot, fault, intake, ctx);
                // Its last word needs no receive; closing waits for it.
                return;
            }
            Err(other) => self.close_stray(other, ctx),
        }
        self.leave_session(slot, ctx.now);
        self.deadlines.clear(slot);
        self.table.get_mut(slot).stage = Stage::Closing;
        self.free_place(slot);
    }

    fn adopt_transfer<R: Ring>(&mut self, transfer: &Transfer, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        if let Err(reason) = self.adopt(&Accepted { fd: transfer.fd }, ctx) {
            self.counters.closed[reason.index()].add(1);
            return self.close_stray(transfer.fd, ctx);
        }
        let slot = self.adopted;
        let fed = self.feed(slot, &transfer.hello[..transfer.hello_bytes], intake, ctx);
        self.after_feed(slot, fed, intake, ctx);
    }

    /// Closes a descriptor that has no place in the table.
    fn close_stray<R: Ring>(&mut self, fd: Fd, ctx: &mut Context<'_, R>) {
        let token = self.next_cancel(ctx, kind::CANCEL);
        ctx.ring.close(token, fd);
    }
}
