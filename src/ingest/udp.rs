//! UDP: the kernel writes datagrams into medium slots, laid out so that a datagram of one frame *is* an event but for its header.
//!
//! ```text
//! slot:    0 ····· 13 ──────────── 41 ──────────────── 57 ──────── 64 ────────────────
//! lent:                            │ recvmsg_out, 16   │ header, 7 │ topic, body
//! limited:         │ recvmsg_out, 16, and the name, 28 │ header, 7 │ topic, body
//! event:   │ event header, 64 ·························│···········│ topic, body
//! ```
//!
//! - One frame in the datagram: sealed where it lies, no copy. Only when less than half of the medium slots are free, a frame that
//!   fits a small slot is copied into one instead, so that small datagrams can't take the memory of larger ones.
//! - Several frames: each is copied into a slot of its own; the receive slot goes back on offer.
//! - Nothing here can wait: what finds no slot or no room is counted, and lost by its tier's policy. Nothing is ever answered.
//! - With GRO a chunk holds many datagrams of one size, which a control message tells; they are cut apart and copied.
//! - Where events per source are limited, the kernel is asked for each datagram's sender too. The name goes where the header of the event will be,
//!   so nothing else moves, and nothing is copied for it; without the limit none is asked for. Frames beyond the limit are dropped
//!   (`source_rate`). Datagrams can be forged, so their sources are accounted for apart from those of connections: whoever writes somebody
//!   else's address spends none of his connections' credit, and a flood of addresses makes no connection's source forgotten.
//!
//! What the kernel writes in front of a payload: `message.rs`.

use std::sync::Arc;

use super::counters::{IngestCounters, Transport};
use super::intake::{FRAME_OFFSET, Intake, Origin};
use super::message::{GRO_CONTROL_BYTES, MESSAGE_HEADER_BYTES, Message, NAME_BYTES};
use super::sources::{SourceLimits, Sources};
use super::{ReactorOptions, UdpSocketWiring, kind};
use crate::agent::Context;
use crate::control::{Admission, Patience};
use crate::metrics::ledger::DropReason;
use crate::pool::{EventHeader, PoolOwner, Slot, SlotClass, SlotUse, Source};
use crate::sys::clock::Nanos;
use crate::sys::io::{Completion, Errno, Fd, GroupId, MessageRoom, Ring};
use crate::wire::{self, Parsed, Tier};

/// How often kernel drops are read while there is traffic.
const DROPS_INTERVAL: Nanos = Nanos::from_millis(1_000);
/// After an error that says nothing about buffers: not at once again.
const RETRY_INTERVAL: Nanos = Nanos::from_millis(10);

const _: () = assert!(FRAME_OFFSET - MESSAGE_HEADER_BYTES - NAME_BYTES as usize == 13, "64 - 7 - 16 - 28");

#[derive(Debug)]
struct Socket {
    fd: Fd,
    realtime: bool,
    armed: bool,
    was_armed: bool,
    retry_at: Nanos,
    drops_seen: u32,
}

/// The UDP sockets of a reactor.
#[derive(Debug)]
pub(super) struct Udp {
    /// REALTIME's first: it is armed first when buffers are short.
    sockets: Vec<Socket>,
    group: GroupId,
    /// What the kernel is asked for beside the payload.
    room: MessageRoom,
    /// Who sends, as far as that is limited.
    sources: Sources,
    counters: Arc<IngestCounters>,
    /// Buffers on offer when all is well.
    buffers_max: usize,
    /// Less than half of the medium slots are free.
    medium_is_scarce: bool,
    drops_read_at: Option<Nanos>,
    stopping: bool,
    cancels_in_flight: u32,
    pub(super) active_at: Nanos,
}

impl Udp {
    pub(super) fn new(options: &ReactorOptions, sockets: &[UdpSocketWiring], counters: Arc<IngestCounters>) -> Self {
        let mut sockets: Vec<_> = sockets
            .iter()
            .map(|wiring| Socket {
                fd: wiring.fd,
                realtime: wiring.realtime,
                armed: false,
                was_armed: false,
                retry_at: Nanos(0),
                drops_seen: 0,
            })
            .collect();
        sockets.sort_by_key(|socket| !socket.realtime);
        let (group, buffers) = match options.udp_gro_chunks {
            0 => (GroupId::Udp, options.udp_slots),
            chunks => (GroupId::UdpGro, chunks),
        };
        let limits = if sockets.is_empty() { SourceLimits::default() } else { options.source_limits.of_datagrams() };
        let room = MessageRoom {
            name_bytes: if limits.any() { NAME_BYTES } else { 0 },
            control_bytes: if group == GroupId::UdpGro { GRO_CONTROL_BYTES } else { 0 },
        };
        Self {
            room,
            sources: Sources::new(limits, options.connections_max),
            buffers_max: if sockets.is_empty() { 0 } else { usize::from(buffers) },
            sockets,
            group,
            counters,
            medium_is_scarce: false,
            drops_read_at: None,
            stopping: false,
            cancels_in_flight: 0,
            active_at: Nanos(0),
        }
    }

    /// Where a lent slot begins for the kernel: a payload in a slot then begins where a frame does.
    fn lend_offset(&self) -> usize {
        if self.group == GroupId::UdpGro { 0 } else { FRAME_OFFSET - MESSAGE_HEADER_BYTES - self.room.bytes() }
    }

    fn class(&self) -> SlotClass {
        if self.group == GroupId::UdpGro { SlotClass::Chunk } else { SlotClass::Medium }
    }

    /// Opens the group, puts all buffers on offer and arms the sockets.
    pub(super) fn start<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        if self.sockets.is_empty() {
            return;
        }
        intake.pool.open_group(self.group, self.buffers_max as u16);
        self.refill(intake, ctx);
        // Never wait for buffers that the pool has not got.
        self.buffers_max = intake.pool.lent_count(self.group);
        self.arm_ended(intake, ctx);
    }

    fn refill<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        while intake.pool.lent_count(self.group) < self.buffers_max {
            let Some(slot) = intake.pool.acquire(self.class(), SlotUse::Kernel) else { return };
            self.hand_back(slot, intake, ctx);
        }
    }

    /// Puts a receive slot (back) on offer.
    fn hand_back<R: Ring>(&mut self, slot: Slot, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        match intake.pool.lend(slot, self.group, self.lend_offset()) {
            Ok(buffer) => ctx.ring.provide(buffer),
            Err(slot) => intake.pool.give_back(slot),
        }
    }

    /// Arms what ended, REALTIME's socket first, once half of the buffers are on offer (32 are enough: slots come home in batches).
    fn arm_ended<R: Ring>(&mut self, intake: &Intake, ctx: &mut Context<'_, R>) {
        let enough = (self.buffers_max / 2).clamp(1, 32);
        if self.stopping || intake.pool.lent_count(self.group) < enough {
            return;
        }
        for (index, socket) in self.sockets.iter_mut().enumerate() {
            if !socket.armed && ctx.now >= socket.retry_at {
                if socket.was_armed {
                    self.counters.rearmed.add(1);
                }
                (socket.armed, socket.was_armed) = (true, true);
                ctx.ring.recvmsg_multishot(ctx.token(kind::MESSAGE, 0, index as u32), socket.fd, self.group, self.room);
            }
        }
    }

    /// Once per poll: slots on offer again, sockets armed again, drops read.
    pub(super) fn poll<R: Ring>(&mut self, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        if self.sockets.is_empty() {
            return;
        }
        if !self.stopping {
            self.refill(intake, ctx);
        }
        self.arm_ended(intake, ctx);
        if self.group == GroupId::Udp {
            let gauges = intake.pool.gauges();
            let medium = SlotClass::Medium.index();
            self.medium_is_scarce = gauges.free[medium] * 2 < gauges.total[medium];
        }
        if self.drops_read_at.is_some_and(|at| ctx.now >= at) {
            // Once more a second later if datagrams came since: drops at the tail of a burst show only then.
            let was_active = ctx.now.since(self.active_at) < DROPS_INTERVAL;
            self.drops_read_at = was_active.then(|| ctx.now + DROPS_INTERVAL);
            self.read_drops(ctx);
        }
    }

    /// Adds what the kernel dropped since the last look.
    pub(super) fn read_drops<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        for socket in &mut self.sockets {
            let Some(drops) = ctx.ring.socket_drops(socket.fd) else { continue };
            let fresh = drops.wrapping_sub(socket.drops_seen);
            socket.drops_seen = drops;
            self.counters.kernel_drops[usize::from(socket.realtime)].add(u64::from(fresh));
        }
    }

    /// Whether it waits for buffers.
    pub(super) fn is_short_of_buffers(&self, intake: &Intake) -> bool {
        !self.stopping && intake.pool.lent_count(self.group) < self.buffers_max
    }

    pub(super) fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let retry = |socket: &Socket| (!socket.armed && !self.stopping && socket.retry_at > now).then_some(socket.retry_at);
        self.sockets.iter().filter_map(retry).chain(self.drops_read_at).min()
    }

    pub(super) fn stop<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        self.stopping = true;
        self.drops_read_at = None;
        for (index, socket) in self.sockets.iter().enumerate().filter(|(_, socket)| socket.armed) {
            self.cancels_in_flight += 1;
            let index = index as u32;
            debug_assert!(socket.was_armed);
            ctx.ring.cancel(ctx.token(kind::CANCEL_MESSAGE, 0, index), ctx.token(kind::MESSAGE, 0, index));
        }
    }

    pub(super) fn cancelled(&mut self) {
        self.cancels_in_flight -= 1;
    }

    pub(super) fn is_over(&self) -> bool {
        self.cancels_in_flight == 0 && self.sockets.iter().all(|socket| !socket.armed)
    }

    /// A receive completed.
    pub(super) fn received<R: Ring>(&mut self, mut completion: Completion, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        let slot = completion.buffer.take().map(|buffer| intake.pool.take_back(buffer));
        if let Some(slot) = slot {
            match completion.result {
                Ok(bytes) => self.message(slot, bytes as usize, intake, ctx),
                Err(_) => self.hand_back(slot, intake, ctx),
            }
        }
        if completion.more {
            return;
        }
        let Some(socket) = self.sockets.get_mut(completion.token.slot() as usize) else {
            return self.counters.late_completions.add(1);
        };
        socket.armed = false;
        match completion.result {
            Err(Errno(libc::ENOBUFS)) => {
                self.counters.starved.add(1);
                self.note_traffic(ctx.now);
            }
            // A cancel, or a signal: nothing is wrong with the socket.
            Ok(_) | Err(Errno(libc::ECANCELED | libc::EINTR | libc::EAGAIN)) => {}
            Err(_) => socket.retry_at = ctx.now + RETRY_INTERVAL,
        }
    }

    fn note_traffic(&mut self, now: Nanos) {
        self.active_at = now;
        if self.drops_read_at.is_none() && !self.stopping {
            self.drops_read_at = Some(now + DROPS_INTERVAL);
        }
    }

    fn message<R: Ring>(&mut self, slot: Slot, received: usize, intake: &mut Intake, ctx: &mut Context<'_, R>) {
        self.note_traffic(ctx.now);
        let shared = Arc::clone(&intake.shared);
        let all = &PoolOwner::bytes(&shared, &slot)[self.lend_offset()..];
        let all = &all[..received.min(all.len())];
        let origin = Origin { source: Source::Udp, connection: 0, at: ctx.now, wall: ctx.wall };
        let Some(message) = Message::read(all, self.room) else {
            self.counters.udp_truncated.add(1);
            return self.hand_back(slot, intake, ctx);
        };
        let payload = message.payload;
        self.counters.received_bytes[Transport::Udp as usize].add(payload.len() as u64);
        let segment = message.segment_bytes().unwrap_or(payload.len()).max(1);
        self.counters.datagrams.add(payload.len().div_ceil(segment).max(1) as u64);
        let source = message.address().map(|address| self.sources.visit(address, ctx.now));
        let allowance = self.sources.allowance(source, ctx.now);
        if message.is_truncated {
            self.counters.udp_truncated.add(1);
        } else if payload.is_empty() {
            self.counters.udp_empty.add(1);
        } else if allowance > 0
            && let Some((header, tier)) = self.in_place(payload, intake, &origin)
        {
            self.sources.spend(source, 1, ctx.now);
            return self.seal_in_place(slot, header, tier, intake, ctx);
        } else {
            let mut left = allowance;
            payload.chunks(segment).for_each(|datagram| self.copy_frames(datagram, &mut left, intake, &origin));
            self.sources.spend(source, allowance - left, ctx.now);
        }
        self.hand_back(slot, intake, ctx);
    }

    /// Whether the datagram is one frame that shall become an event where it lies.
    fn in_place(&self, payload: &[u8], intake: &Intake, origin: &Origin) -> Option<(EventHeader, Tier)> {
        if self.group == GroupId::UdpGro {
            return None;
        }
        let Ok(Parsed::Frame(frame)) = wire::parse(payload, &intake.limits) else { return None };
        let is_small = intake.pool.class_for(frame.payload.len()) == Some(SlotClass::Small);
        if frame.frame_bytes != payload.len() || (is_small && self.medium_is_scarce) {
            return None;
        }
        let tier = intake.tier_of(&frame);
        // What the gate turns away is counted where frames are copied: none is.
        let is_admitted = intake.gate.admits(tier, frame.priority, Patience::CannotWait) == Admission::Admit;
        is_admitted.then(|| (intake.header(&frame, tier, origin), tier))
    }

    /// The slot becomes the event; where its tier may hold no more medium slots, a small one may still do.
    fn seal_in_place<R: Ring>(
        &mut self,
        slot: Slot,
        header: EventHeader,
        tier: Tier,
        intake: &mut Intake,
        ctx: &mut Context<'_, R>,
    ) {
        match intake.pool.change_use(slot, SlotUse::of_tier(tier)) {
            Ok(slot) => {
                let event = intake.pool.seal(slot, header);
                intake.admit_without_waiting(event, Source::Udp, tier);
            }
            Err(slot) => {
                let shared = Arc::clone(&intake.shared);
                let len = header.topic_len as usize + header.body_len as usize;
                let payload = &PoolOwner::bytes(&shared, &slot)[crate::pool::EVENT_HEADER_BYTES..][..len];
                match intake.pool.store(header, payload) {
                    Some(event) => intake.admit_without_waiting(event, Source::Udp, tier),
                    None => {
                        let (topic, body) = payload.split_at(header.topic_len as usize);
                        intake.lose_unstored(header, topic, body, DropReason::PoolExhausted);
                    }
                }
                self.hand_back(slot, intake, ctx);
            }
        }
    }

    /// Copies each whole frame of a datagram into a slot of its own, as long as there is credit `left`.
    fn copy_frames(&self, datagram: &[u8], left: &mut u32, intake: &mut Intake, origin: &Origin) {
        for item in wire::datagram(datagram, &intake.limits.clone()) {
            match item {
                Ok(frame) if *left == 0 => intake.turn_away(&frame, intake.tier_of(&frame), origin, DropReason::SourceRate),
                Ok(frame) => {
                    *left -= 1;
                    intake.store_without_waiting(&frame, origin);
                }
                Err(refusal) => self.counters.refused[Transport::Udp as usize][refusal.index()].add(1),
            }
        }
    }
}
