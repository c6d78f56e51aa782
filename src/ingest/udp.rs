//! UDP: the kernel writes datagrams into medium slots, laid out so that a datagram of one frame *is* an event but for its header.
//!
//! ```text
//! slot:    0 ········ 41 ──────────────── 57 ──────── 64 ────────────────
//! lent:               │ recvmsg_out, 16   │ header, 7 │ topic, body
//! event:   │ event header, 64 ············│···········│ topic, body
//! ```
//!
//! - One frame in the datagram: sealed where it lies, no copy. Only when less than half of the medium slots are free, a frame that
//!   fits a small slot is copied into one instead, so that small datagrams can't take the memory of larger ones.
//! - Several frames: each is copied into a slot of its own; the receive slot goes back on offer.
//! - Nothing here can wait: what finds no slot or no room is counted, and lost by its tier's policy. Nothing is ever answered.
//! - With GRO a chunk holds many datagrams of one size, which a control message tells; they are cut apart and copied.
//!
//! `struct io_uring_recvmsg_out`: four u32 in the host's order (name bytes, control bytes, payload bytes, flags), from
//! `include/uapi/linux/io_uring.h`. The segment size is an int in a SOL_UDP/UDP_GRO control message, `udp(7)`.

use std::sync::Arc;

use super::counters::{IngestCounters, Transport};
use super::intake::{FRAME_OFFSET, Intake, Origin};
use super::{ReactorOptions, UdpSocketWiring, kind};
use crate::agent::Context;
use crate::control::{Admission, Patience};
use crate::metrics::ledger::DropReason;
use crate::pool::{EventHeader, PoolOwner, Slot, SlotClass, SlotUse, Source};
use crate::sys::clock::Nanos;
use crate::sys::io::{Completion, Errno, Fd, GroupId, Ring};
use crate::wire::{self, Parsed, Tier};

/// Bytes of `struct io_uring_recvmsg_out`.
const MESSAGE_HEADER_BYTES: usize = 16;
/// Where a lent slot begins for the kernel: its payload then begins where a frame does.
const LEND_OFFSET: usize = FRAME_OFFSET - MESSAGE_HEADER_BYTES;
/// Control space for GRO: `CMSG_SPACE(sizeof(int))` is 24 on 64-bit hosts.
const GRO_CONTROL_BYTES: usize = 32;
/// How often kernel drops are read while there is traffic.
const DROPS_INTERVAL: Nanos = Nanos::from_millis(1_000);
/// After an error that says nothing about buffers: not at once again.
const RETRY_INTERVAL: Nanos = Nanos::from_millis(10);

const _: () = assert!(LEND_OFFSET == 41, "64 - 7 - 16");

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

/// What the kernel says of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    control_bytes: usize,
    payload_bytes: usize,
    is_truncated: bool,
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

impl Message {
    /// Reads the header of a message of which `bytes` were received, with `control_space` bytes of control space.
    fn read(bytes: &[u8], control_space: usize) -> Option<Message> {
        let payload_room = bytes.len().checked_sub(MESSAGE_HEADER_BYTES + control_space)?;
        Some(Message {
            control_bytes: (u32_at(bytes, 4)? as usize).min(control_space),
            // With MSG_TRUNC the kernel may tell the length that the datagram had.
            payload_bytes: (u32_at(bytes, 8)? as usize).min(payload_room),
            is_truncated: u32_at(bytes, 12)? & libc::MSG_TRUNC as u32 != 0,
        })
    }
}

/// The segment size in a row of control messages (`struct cmsghdr`: length usize, level int, type int; data; padding to usize).
fn segment_bytes(mut control: &[u8]) -> Option<usize> {
    const HEAD: usize = size_of::<usize>() + 8;
    while control.len() >= HEAD {
        let len = usize::from_ne_bytes(*control.first_chunk()?);
        if len < HEAD || len > control.len() {
            return None;
        }
        let (level, what) = (u32_at(control, size_of::<usize>())?, u32_at(control, size_of::<usize>() + 4)?);
        if level == libc::SOL_UDP as u32 && what == libc::UDP_GRO as u32 {
            return u32_at(&control[..len], HEAD).map(|size| size as usize).filter(|size| *size > 0);
        }
        control = control.get(len.next_multiple_of(size_of::<usize>())..)?;
    }
    None
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
        Self {
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

    fn control_space(&self) -> usize {
        if self.group == GroupId::UdpGro { GRO_CONTROL_BYTES } else { 0 }
    }

    /// Where a lent slot begins for the kernel.
    fn lend_offset(&self) -> usize {
        if self.group == GroupId::UdpGro { 0 } else { LEND_OFFSET }
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
        let control_bytes = self.control_space() as u32;
        for (index, socket) in self.sockets.iter_mut().enumerate() {
            if !socket.armed && ctx.now >= socket.retry_at {
                if socket.was_armed {
                    self.counters.rearmed.add(1);
                }
                (socket.armed, socket.was_armed) = (true, true);
                ctx.ring.recvmsg_multishot(ctx.token(kind::MESSAGE, 0, index as u32), socket.fd, self.group, control_bytes);
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
        let Some(message) = Message::read(all, self.control_space()) else {
            self.counters.udp_truncated.add(1);
            return self.hand_back(slot, intake, ctx);
        };
        let control = &all[MESSAGE_HEADER_BYTES..][..message.control_bytes];
        let payload = &all[MESSAGE_HEADER_BYTES + self.control_space()..][..message.payload_bytes];
        self.counters.received_bytes[Transport::Udp as usize].add(payload.len() as u64);
        let segment = segment_bytes(control).unwrap_or(payload.len()).max(1);
        self.counters.datagrams.add(payload.len().div_ceil(segment).max(1) as u64);
        if message.is_truncated {
            self.counters.udp_truncated.add(1);
        } else if payload.is_empty() {
            self.counters.udp_empty.add(1);
        } else if let Some((header, tier)) = self.in_place(payload, intake, &origin) {
            return self.seal_in_place(slot, header, tier, intake, ctx);
        } else {
            payload.chunks(segment).for_each(|datagram| self.copy_frames(datagram, intake, &origin));
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

    /// Copies each whole frame of a datagram into a slot of its own.
    fn copy_frames(&self, datagram: &[u8], intake: &mut Intake, origin: &Origin) {
        for item in wire::datagram(datagram, &intake.limits.clone()) {
            match item {
                Ok(frame) => intake.store_without_waiting(&frame, origin),
                Err(refusal) => self.counters.refused[Transport::Udp as usize][refusal.index()].add(1),
            }
        }
    }
}
