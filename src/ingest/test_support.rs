//! A ring whose kernel is the test: it holds the lent buffers, and the test decides what completes, when, and how.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use super::{
    IngestCounters, Reactor, ReactorOptions, ReactorWiring, SessionOptions, SessionWiring, Sessions, UdpSocketWiring, kind,
};
use crate::agent::{Agent, Context, Work};
use crate::bus::{Dispatch, Overflow, TierOptions, TierReceiver, tier};
use crate::control::{NodeGate, ShedByClass};
use crate::metrics::ledger::{Ledger, LedgerCells, LedgerTerms};
use crate::pool::{
    ClassStrides, Event, EventHeader, LentBuffer, Outcome, OwnerGauges, OwnerLayout, Releaser, SharedPool, SlotClass,
};
use crate::storage::dead_letter::line::{DeadLetter, parse_line};
use crate::storage::dead_letter::{Collector, DeadLetterOptions, DeadLetterQueue};
use crate::sys::clock::{Clock, Nanos, WallNanos};
use crate::sys::io::{Completion, Errno, Fd, GroupId, MessageRoom, Ring, Token, WriteSync};
use crate::sys::memory::{Arena, StagingBuffer};
use crate::wire::{FrameLimits, Priority, Tier, encode_into};

pub(super) const LISTENER: Fd = Fd(3);
pub(super) const UDP_REST: Fd = Fd(4);
pub(super) const UDP_REALTIME: Fd = Fd(5);
pub(super) const CHUNK_BYTES: usize = 576;
pub(super) const FRAME_BYTES_MAX: u32 = 6000;

/// The kernel's side.
#[derive(Default)]
pub(super) struct FakeRing {
    pub(super) now: Nanos,
    pub(super) lent: [VecDeque<LentBuffer>; 3],
    /// Operations in flight.
    pub(super) armed: Vec<(Token, Fd)>,
    pub(super) shut: Vec<Fd>,
    pub(super) closed: Vec<Fd>,
    pub(super) cancelled: Vec<Token>,
    pub(super) drops: u32,
    pub(super) byte_caps: Vec<u32>,
    /// What was sent, by descriptor.
    pub(super) sent: BTreeMap<i32, Vec<u8>>,
    /// Where connections come from; the others from 10.0.0.1.
    pub(super) peers: BTreeMap<i32, IpAddr>,
    /// What datagrams are asked to bring.
    pub(super) room: MessageRoom,
    /// Who sends datagrams.
    pub(super) sender: [u8; 4],
    /// Peers that don't read.
    pub(super) deaf: Vec<Fd>,
    /// Streams whose sending side is over.
    pub(super) ended: Vec<Fd>,
    /// Sends in flight to deaf peers.
    stuck: Vec<(Token, Fd)>,
    buffers: Vec<(Token, StagingBuffer)>,
    ready: VecDeque<Completion>,
}

impl FakeRing {
    fn arm(&mut self, token: Token, fd: Fd) {
        assert!(self.armed.iter().all(|(other, _)| *other != token), "{token:?} is in flight already");
        self.armed.push((token, fd));
    }

    fn disarm(&mut self, token: Token) {
        let place = self.armed.iter().position(|(other, _)| *other == token).expect("an operation in flight");
        self.armed.remove(place);
    }

    pub(super) fn armed_on(&self, fd: Fd) -> Option<Token> {
        self.armed.iter().find(|(_, other)| *other == fd).map(|(token, _)| *token)
    }

    fn finish(&mut self, token: Token, result: Result<u32, Errno>) {
        self.ready.push_back(Completion { token, result, more: false, buffer: None });
    }
}

impl Clock for FakeRing {
    fn now(&self) -> Nanos {
        self.now
    }
    fn wall(&self) -> WallNanos {
        WallNanos(1_000_000 + self.now.0)
    }
}

impl Ring for FakeRing {
    fn accept_multishot(&mut self, token: Token, listener: Fd) {
        self.arm(token, listener);
    }
    fn recv_multishot(&mut self, token: Token, socket: Fd, group: GroupId, byte_cap: u32) {
        assert_eq!(group, GroupId::Tcp);
        self.byte_caps.push(byte_cap);
        self.arm(token, socket);
    }
    fn recvmsg_multishot(&mut self, token: Token, socket: Fd, group: GroupId, room: MessageRoom) {
        assert_eq!(room.control_bytes, if group == GroupId::UdpGro { 32 } else { 0 });
        self.room = room;
        self.arm(token, socket);
    }
    fn provide(&mut self, buffer: LentBuffer) {
        self.lent[buffer.group() as usize].push_back(buffer);
    }
    fn cancel(&mut self, token: Token, target: Token) {
        self.cancelled.push(target);
        self.finish(token, Ok(0));
        if self.armed.iter().any(|(other, _)| *other == target) {
            self.disarm(target);
            self.finish(target, Err(Errno(libc::ECANCELED)));
        }
    }
    fn write(&mut self, _: Token, _: Fd, _: StagingBuffer, _: Range<usize>, _: u64, _: WriteSync) {
        unreachable!("ingest writes nothing");
    }
    fn send(&mut self, token: Token, socket: Fd, buffer: StagingBuffer, bytes: Range<usize>) {
        let sends_on = |(_, other): &(Token, Fd)| *other == socket;
        assert!(!self.stuck.iter().any(sends_on), "a second send in flight on {socket:?}");
        if self.shut.contains(&socket) {
            self.finish(token, Err(Errno(libc::EPIPE)));
        } else if self.deaf.contains(&socket) {
            self.stuck.push((token, socket));
        } else {
            // Short, now and then.
            let len = if bytes.len() > 20 { bytes.len() / 2 } else { bytes.len() };
            self.sent.entry(socket.0).or_default().extend(&buffer[bytes.start..bytes.start + len]);
            self.finish(token, Ok(len as u32));
        }
        self.buffers.push((token, buffer));
    }
    fn reclaim(&mut self, token: Token) -> StagingBuffer {
        let place = self.buffers.iter().position(|(other, _)| *other == token).expect("R3: reclaimed once");
        self.buffers.swap_remove(place).1
    }
    fn end_sending(&mut self, socket: Fd) {
        self.ended.push(socket);
    }
    fn sync(&mut self, _: Token, _: Fd) {
        unreachable!("ingest writes nothing");
    }
    fn allocate(&mut self, _: Token, _: Fd, _: Range<u64>) {
        unreachable!("ingest writes nothing");
    }
    fn give_back(&mut self, _: Token, _: Fd, _: Range<u64>) {
        unreachable!("ingest writes nothing");
    }
    fn shutdown(&mut self, socket: Fd) {
        self.shut.push(socket);
        if let Some(token) = self.armed_on(socket) {
            self.disarm(token);
            self.finish(token, Ok(0));
        }
        if let Some(place) = self.stuck.iter().position(|(_, fd)| *fd == socket) {
            let (token, _) = self.stuck.swap_remove(place);
            self.finish(token, Err(Errno(libc::EPIPE)));
        }
    }
    fn close(&mut self, token: Token, fd: Fd) {
        assert!(self.armed_on(fd).is_none(), "I5: {fd:?} is closed with a receive in flight");
        assert!(!self.stuck.iter().any(|(_, other)| *other == fd), "I5: {fd:?} is closed with a send in flight");
        assert!(!self.closed.contains(&fd), "{fd:?} is closed twice");
        self.closed.push(fd);
        self.finish(token, Ok(0));
    }
    fn peer(&mut self, socket: Fd) -> Option<IpAddr> {
        Some(self.peers.get(&socket.0).copied().unwrap_or(IpAddr::from([10, 0, 0, 1])))
    }
    fn socket_drops(&mut self, socket: Fd) -> Option<u32> {
        (socket == UDP_REST).then_some(self.drops)
    }
}

/// What a test may change.
pub(super) struct RigOptions {
    pub(super) reactor: ReactorOptions,
    pub(super) sessions: SessionOptions,
    pub(super) session_wiring: SessionWiring,
    pub(super) slots: [u32; SlotClass::COUNT],
    pub(super) overflow: Overflow,
    pub(super) lane_events: usize,
    pub(super) high_water_events: usize,
}

impl Default for RigOptions {
    fn default() -> Self {
        Self {
            reactor: ReactorOptions {
                limits: FrameLimits { max_frame_bytes: FRAME_BYTES_MAX },
                connections_max: 8,
                tcp_chunks_offered: 4,
                udp_slots: 8,
                ..ReactorOptions::default()
            },
            sessions: SessionOptions { seats: 2, window: 64, ..SessionOptions::default() },
            session_wiring: SessionWiring::alone(),
            slots: [256, 64, 4, 8, 8],
            overflow: Overflow::DropOld,
            lane_events: 64,
            high_water_events: 64,
        }
    }
}

/// An event as the test takes it from its tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) header: EventHeader,
    pub(super) class: SlotClass,
    pub(super) topic: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// A reactor with a test around it.
pub(super) struct Rig {
    pub(super) reactor: Reactor,
    pub(super) ring: FakeRing,
    pub(super) counters: Arc<IngestCounters>,
    pub(super) gate: Arc<NodeGate>,
    shared: Arc<SharedPool>,
    releaser: Releaser,
    collector: Collector,
    receivers: Vec<TierReceiver>,
    ledger: Arc<LedgerCells>,
    next_fd: i32,
    /// What becomes of the next event that is taken; one that is stored has the log's next sequence.
    pub(super) outcome: Outcome,
}

impl Rig {
    pub(super) fn new(options: RigOptions) -> Self {
        let strides = ClassStrides::new(FRAME_BYTES_MAX, CHUNK_BYTES as u32 - 64);
        let layout = OwnerLayout::with_kernel_slots(options.slots, u32::from(options.reactor.udp_slots));
        let arena = Arena::map(SharedPool::arena_bytes(&strides, std::slice::from_ref(&layout))).expect("a small mapping");
        let (shared, mut owners) = SharedPool::divide(arena, strides, &[layout]);
        let tiers = Tier::ALL.map(|_| {
            tier(TierOptions {
                capacity_events: options.lane_events,
                producers: 1,
                overflow: options.overflow,
                high_water_events: options.high_water_events,
                service_lane_events: 0,
            })
        });
        let mut receivers = Vec::new();
        let tiers = tiers.map(|(mut senders, receiver, _)| {
            receivers.push(receiver);
            senders.remove(0)
        });
        let (counters, gate, ledger) =
            (Arc::new(IngestCounters::default()), Arc::new(NodeGate::default()), Arc::new(LedgerCells::default()));
        let (letters, collector) = DeadLetterQueue::manual(&DeadLetterOptions::new("unused".into()), vec![shared.clone()]);
        let wiring = ReactorWiring {
            pool: owners.remove(0),
            listener: Some(LISTENER),
            udp_sockets: vec![
                UdpSocketWiring { fd: UDP_REST, realtime: false },
                UdpSocketWiring { fd: UDP_REALTIME, realtime: true },
            ],
            dispatch: Dispatch::default(),
            tiers,
            dead_letters: letters.sender(0),
            gate: gate.clone(),
            ledger: ledger.clone(),
            counters: counters.clone(),
            shed: Arc::new(ShedByClass::new(&Arc::default())),
            id_base: 1000,
            sessions: Sessions::new(options.sessions, options.session_wiring).expect("a few small mappings"),
        };
        let mut rig = Self {
            reactor: Reactor::new(options.reactor, wiring),
            ring: FakeRing { now: Nanos::from_millis(1), ..FakeRing::default() },
            counters,
            gate,
            releaser: Releaser::new(shared.clone()),
            collector,
            shared,
            receivers,
            ledger,
            next_fd: 100,
            outcome: Outcome::Handled,
        };
        rig.with_context(|reactor, ctx| reactor.start(ctx));
        rig
    }

    fn with_context<T>(&mut self, act: impl FnOnce(&mut Reactor, &mut Context<'_, FakeRing>) -> T) -> T {
        let (now, wall) = (self.ring.now, self.ring.wall());
        let mut ctx = Context { now, wall, ring: &mut self.ring, seat: 7 };
        act(&mut self.reactor, &mut ctx)
    }

    pub(super) fn complete(&mut self, completion: Completion) {
        if !completion.more && self.ring.armed.iter().any(|(token, _)| *token == completion.token) {
            self.ring.disarm(completion.token);
        }
        self.with_context(|reactor, ctx| reactor.complete(completion, ctx));
    }

    /// Completes what the fake kernel has ready, then polls.
    pub(super) fn poll(&mut self) -> Work {
        while let Some(completion) = self.ring.ready.pop_front() {
            self.with_context(|reactor, ctx| reactor.complete(completion, ctx));
        }
        let work = self.with_context(|reactor, ctx| reactor.poll(ctx));
        self.check();
        work
    }

    /// Polls until the fake kernel has nothing more to tell.
    pub(super) fn settle(&mut self) {
        self.poll();
        while !self.ring.ready.is_empty() {
            self.poll();
        }
        self.poll();
    }

    pub(super) fn pass(&mut self, time: Nanos) -> Work {
        self.ring.now = self.ring.now + time;
        self.poll()
    }

    /// The ledger balances with what the reactor and the lanes hold.
    fn check(&self) {
        let in_lanes: usize = self.receivers.iter().map(TierReceiver::depth).sum();
        let held = Agent::<FakeRing>::holding(&self.reactor).events;
        let terms = self.terms();
        assert_eq!(terms.received, terms.outcomes() + in_lanes as u64 + held, "the ledger balances: {terms:?}");
    }

    pub(super) fn ledger(&self) -> Ledger {
        Ledger::read(std::iter::once(&*self.ledger))
    }

    /// The ledger's sum, events taken by the test as handled.
    pub(super) fn terms(&self) -> LedgerTerms {
        self.ledger().total()
    }

    pub(super) fn gauges(&self) -> OwnerGauges {
        self.reactor.pool().gauges()
    }

    /// A client connects from this address.
    pub(super) fn connect_from(&mut self, address: [u8; 4]) -> Fd {
        self.ring.peers.insert(self.next_fd, address.into());
        self.connect()
    }

    /// A client connects.
    pub(super) fn connect(&mut self) -> Fd {
        let fd = Fd(self.next_fd);
        self.next_fd += 1;
        let token = self.ring.armed_on(LISTENER).expect("the listener accepts");
        self.complete(Completion { token, result: Ok(fd.0 as u32), more: true, buffer: None });
        fd
    }

    /// Bytes come on a connection, in as many chunks as they fill; how many found one.
    pub(super) fn send(&mut self, fd: Fd, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            if self.ring.lent[GroupId::Tcp as usize].is_empty() {
                self.poll();
            }
            let Some(token) = self.ring.armed_on(fd) else { break };
            if !self.send_chunk(fd, &bytes[sent..bytes.len().min(sent + CHUNK_BYTES)], true) {
                self.complete(Completion { token, result: Err(Errno(libc::ENOBUFS)), more: false, buffer: None });
                break;
            }
            sent += (bytes.len() - sent).min(CHUNK_BYTES);
        }
        sent
    }

    /// One chunk comes. False: there was none on offer.
    pub(super) fn send_chunk(&mut self, fd: Fd, bytes: &[u8], more: bool) -> bool {
        let Some(mut buffer) = self.ring.lent[GroupId::Tcp as usize].pop_front() else { return false };
        let token = self.ring.armed_on(fd).expect("the receive is armed");
        buffer.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        let result = Ok(bytes.len() as u32);
        self.complete(Completion { token, result, more, buffer: Some(buffer.into_id()) });
        true
    }

    /// The receive of a connection ends with this.
    pub(super) fn end(&mut self, fd: Fd, result: Result<u32, i32>) {
        let token = self.ring.armed_on(fd).expect("the receive is armed");
        self.complete(Completion { token, result: result.map_err(Errno), more: false, buffer: None });
    }

    /// A datagram comes, as the kernel lays it out. False: there was no buffer.
    pub(super) fn datagram(&mut self, fd: Fd, payload: &[u8]) -> bool {
        self.message(fd, GroupId::Udp, &[], payload, payload.len() as u32, 0)
    }

    pub(super) fn message(
        &mut self,
        fd: Fd,
        group: GroupId,
        control: &[u8],
        payload: &[u8],
        told_bytes: u32,
        flags: u32,
    ) -> bool {
        let token = self.ring.armed_on(fd).expect("the socket is armed");
        let Some(mut buffer) = self.ring.lent[group as usize].pop_front() else {
            self.complete(Completion { token, result: Err(Errno(libc::ENOBUFS)), more: false, buffer: None });
            return false;
        };
        let MessageRoom { name_bytes, .. } = self.ring.room;
        let (control_at, payload_at) = (16 + name_bytes as usize, 16 + self.ring.room.bytes());
        let bytes = buffer.as_mut_bytes();
        if name_bytes > 0 {
            // A sockaddr_in.
            bytes[16..18].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[20..24].copy_from_slice(&self.ring.sender);
        }
        for (place, field) in [name_bytes.min(16), control.len() as u32, told_bytes, flags].into_iter().enumerate() {
            bytes[place * 4..][..4].copy_from_slice(&field.to_ne_bytes());
        }
        bytes[control_at..][..control.len()].copy_from_slice(control);
        bytes[payload_at..][..payload.len()].copy_from_slice(payload);
        let result = Ok((payload_at + payload.len()) as u32);
        self.complete(Completion { token, result, more: !payload.is_empty(), buffer: Some(buffer.into_id()) });
        true
    }

    /// Takes up to `max` events of a tier, as a processor does.
    pub(super) fn take_some(&mut self, tier: Tier, max: usize) -> Vec<Taken> {
        let mut events: Vec<Event> = Vec::new();
        self.receivers[tier.index()].pop_batch(&mut events, max);
        let taken = events
            .into_iter()
            .map(|mut event| {
                let header = *self.shared.header(&event);
                let payload = self.shared.payload(&event);
                let (topic, body) = payload.split_at(header.topic_len as usize);
                let taken = Taken { header, class: event.class(), topic: topic.to_vec(), body: body.to_vec() };
                // The test plays the processor; its outcome is counted with the reactor's, as there is only one thread.
                self.ledger.cell(header.source, header.tier).handled.add(1);
                self.shared.end(&mut event, self.outcome);
                if let Outcome::Stored { log_sequence } = &mut self.outcome {
                    *log_sequence += 1;
                }
                self.releaser.release(event);
                taken
            })
            .collect();
        self.releaser.flush();
        taken
    }

    /// Takes all events of a tier.
    pub(super) fn take(&mut self, tier: Tier) -> Vec<Taken> {
        self.take_some(tier, usize::MAX >> 1)
    }

    /// The bodies of all events of a tier.
    pub(super) fn bodies(&mut self, tier: Tier) -> Vec<Vec<u8>> {
        self.take(tier).into_iter().map(|taken| taken.body).collect()
    }

    /// Whether the connection's descriptor was closed, after its peer was told.
    pub(super) fn is_closed(&self, fd: Fd) -> bool {
        self.ring.closed.contains(&fd) && self.ring.shut.contains(&fd)
    }

    /// Says that the engine stops.
    pub(super) fn begin_drain(&mut self) {
        self.with_context(|reactor, ctx| reactor.drain(ctx));
    }

    /// Takes what was sent to the dead letters.
    pub(super) fn letters(&mut self) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        let mut keep = |line: &[u8]| {
            letters.push(parse_line(line).expect("a line of its own making"));
            true
        };
        while self.collector.collect(self.ring.now, self.ring.wall(), &mut keep).is_some() {}
        letters
    }

    /// Drains to the end and checks that everything is back.
    pub(super) fn drain(&mut self) {
        self.begin_drain();
        for _ in 0..2000 {
            self.pass(Nanos::from_millis(1));
            Tier::ALL.into_iter().for_each(|tier| drop(self.take(tier)));
            if Agent::<FakeRing>::is_drained(&self.reactor) {
                return self.check_all_free();
            }
        }
        panic!("the reactor does not come to its end");
    }

    fn check_all_free(&mut self) {
        self.letters();
        // The way home ends in the owner's hands only when it collects: a drained reactor is not polled, so look without it.
        let events = self.reactor.collect_for_test();
        assert_eq!(events.free, events.total, "I7: every slot is free");
        assert_eq!(self.counters.connections_open.get(), 0);
        assert!(self.ring.armed.is_empty(), "nothing is in flight: {:?}", self.ring.armed);
        assert!(self.terms().received == self.terms().outcomes());
    }
}

/// A frame.
pub(super) fn frame(priority: Priority, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(&mut bytes, priority, "a/topic", body).expect("a frame");
    bytes
}

/// A late completion of a receive, with a chunk.
pub(super) fn late_receive(rig: &mut Rig, generation: u16, slot: u32) {
    let buffer = rig.ring.lent[GroupId::Tcp as usize].pop_front().expect("a chunk on offer");
    let token = Token::new(7, kind::RECEIVE, generation, slot);
    rig.complete(Completion { token, result: Ok(5), more: false, buffer: Some(buffer.into_id()) });
}
