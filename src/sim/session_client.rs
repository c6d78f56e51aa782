//! Simulated clients of sessions, each with a ledger of its own: what it sent, what it was told, and whether the server may say that (O12).
//!
//! ```text
//!  connect ─► HELLO ─► WELCOME ─► MARK, frames, PING … ─► BYE ─► end ─► done
//!     ▲                  └──── RST · stall · a newer connection · a wrong message · the engine's death ────┐
//!     └───────────── after a pause, with the lowest sequence without an outcome ◄──────────────────────────┘
//! ```
//!
//! What a client judges by itself, message by message; the log is looked at by [`super::session_oracle`]:
//! - An acknowledgement does not go back within a connection, and does not pass what was ever sent.
//! - At *written* and *durable* a REFUSED comes before the ACK that covers it.
//! - A welcome holds nothing that was never sent, and has the level that was asked for.
//! - A client that keeps to the protocol is not told that it does not; one that does not is told what it did.
//! - A session that ends by its BYE has acknowledged everything.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use super::clients::{Account, FrameMaker, FrameMix, malformed};
use super::frames::SentFrame;
use super::net::ConnId;
use super::oracle::Arrivals;
use super::ring::SimRing;
use super::rng::Rng;
use super::scenario::FRAME_BYTES_MAX;
use super::tally::Fault;
use crate::control::Level;
use crate::pool::Source;
use crate::sys::clock::{Clock, Nanos};
use crate::sys::io::Fd;
use crate::wire::session::{
    AckLevel, ClientMessage, HELLO_BYTES_MAX, Hello, Mark, ServerMessage, SessionFault, Step, Welcome, parse_client, parse_server,
};
use crate::wire::{FrameLimits, FrameRefusal, ProducerId};

/// A client that heard nothing for so long opens another connection.
const PATIENCE: Nanos = Nanos::from_millis(300);

/// The longest pause of one that waits for answers.
const WAIT_MAX: Nanos = Nanos::from_millis(20);

/// The longest that one does not read.
const STALL_MAX: Nanos = Nanos::from_millis(150);

/// What a client is like.
#[derive(Clone, Debug)]
pub struct SessionLoad {
    /// The level that it asks for.
    pub level: AckLevel,
    /// How many events it has.
    pub frames: u32,
    /// What they are like.
    pub mix: FrameMix,
    /// How often it connects before it gives up.
    pub connections: u32,
    /// Per mille of acts that end its connection, or take another one.
    pub breaks: u32,
    /// Per mille of acts after which it does not read for a while.
    pub stalls: u32,
    /// Per mille of acts that are against the protocol.
    pub wrongs: u32,
    /// Whether it leaves out what the server says it holds when it sends again.
    pub trusts_held: bool,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its hello is on its way, or not answered.
    Greeting,
    Welcomed,
    /// Something wrong was sent, that the server has to end the session for.
    Wrong(SessionFault),
    /// The last event was sent, or need not be: no other follows.
    Bye,
}

/// One connection of a client.
#[derive(Debug)]
struct Connection {
    id: ConnId,
    phase: Phase,
    /// What its hello said.
    lowest: u64,
    /// As the last message said.
    acked: u64,
    window: u64,
    /// The next to send on it.
    next: u64,
    /// The sequence that the server expects without a mark.
    expected: u64,
    /// What is held of those from `lowest` on.
    held: Vec<u8>,
    /// The code of the ERROR that has come.
    error: Option<u16>,
    unread: Vec<u8>,
    unsent: VecDeque<u8>,
    heard_at: Nanos,
}

/// A client that speaks version 2.
#[derive(Debug)]
pub struct SessionClient {
    load: SessionLoad,
    producer: ProducerId,
    from: IpAddr,
    listener: Fd,
    maker: FrameMaker,
    rng: Rng,
    /// Its events; the first has sequence 1.
    frames: Vec<SentFrame>,
    /// The highest sequence that was ever sent.
    sent: u64,
    /// Every sequence up to this has an outcome.
    acked: u64,
    /// Of which of these the server said that they are lost, by its reason.
    refused: BTreeMap<u64, u8>,
    /// From here on to `acked` the log must have what is not refused.
    promised_from: u64,
    connection: Option<Connection>,
    /// Everything told in the last session of this life that ended in good order, from its lowest unacked sequence on.
    told_all: Option<u64>,
    /// All connections of this life.
    connections: Vec<ConnId>,
    connections_left: u32,
    stalls_until: Nanos,
    pause: Nanos,
    next_at: Nanos,
    done: bool,
    /// Because the engine stops, and for no other reason.
    is_sent_away: bool,
    counters: BTreeMap<&'static str, u64>,
}

impl SessionClient {
    /// A client at `from` that has yet to connect.
    pub fn new(load: SessionLoad, from: IpAddr, listener: Fd, account: &mut Account, mut rng: Rng) -> Self {
        let maker = FrameMaker::of_session(load.mix.clone(), account);
        Self {
            producer: producer_of(maker.client()),
            from,
            listener,
            frames: Vec::new(),
            sent: 0,
            acked: 0,
            refused: BTreeMap::new(),
            promised_from: 1,
            connection: None,
            told_all: None,
            connections: Vec::new(),
            connections_left: load.connections,
            stalls_until: Nanos(0),
            pause: load.mix.pause_max,
            next_at: Nanos::from_millis(1_000) + Nanos(rng.below(load.mix.pause_max.0 * 8)),
            done: false,
            is_sent_away: false,
            counters: BTreeMap::new(),
            load,
            maker,
            rng,
        }
    }

    // -- what the oracle asks --

    /// Who it is.
    pub fn producer(&self) -> ProducerId {
        self.producer
    }

    /// The level it asked for.
    pub fn level(&self) -> AckLevel {
        self.load.level
    }

    /// Every sequence up to this has an outcome, as it was told.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// The lowest sequence of which the acknowledgement is worth something still.
    pub fn promised_from(&self) -> u64 {
        self.promised_from
    }

    /// What it was told of losses.
    pub fn refused(&self) -> &BTreeMap<u64, u8> {
        &self.refused
    }

    /// From which sequence on it was told everything: its last session of this life ended in good order.
    pub fn told_all(&self) -> Option<u64> {
        self.told_all
    }

    /// How often what happened.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        self.counters.iter().map(|(name, count)| (format!("session client {name}"), *count)).collect()
    }

    /// The whole frames that came to the agents on its connections; of what comes behind a newer hello or a fault none becomes an event.
    pub fn arrivals(&self, ring: &SimRing) -> Arrivals {
        let limits = FrameLimits { max_frame_bytes: FRAME_BYTES_MAX };
        let mut arrivals = Arrivals::default();
        for conn in &self.connections {
            let delivered = ring.delivered(*conn).bytes;
            let mut rest = &delivered[..];
            while let Ok(Step::Whole { message, bytes }) = parse_client(rest, &limits) {
                if let ClientMessage::Frame(frame) = message {
                    arrivals.0[Source::Tcp.index()][frame.priority.tier().index()] += 1;
                }
                rest = &rest[bytes..];
            }
        }
        arrivals
    }

    // -- its life --

    /// The engine is another one, which listens there. What was promised at less than `survives` has gone with the old one.
    pub fn go_on(&mut self, listener: Fd, survives: AckLevel) {
        if self.connection.take().is_some() && self.acked > 0 {
            self.count("over lives");
        }
        self.listener = listener;
        self.connections.clear();
        self.told_all = None;
        if self.load.level < survives {
            self.promised_from = self.acked + 1;
        }
        if std::mem::take(&mut self.is_sent_away) {
            self.done = false;
        }
        // What one life took from it, the next one gives back.
        self.connections_left += 2;
    }

    /// When it acts next; `None` when it has nothing more to do.
    pub fn next_at(&self) -> Option<Nanos> {
        (!self.done).then_some(self.next_at)
    }

    /// Does its next thing, if it is time.
    pub fn act(&mut self, ring: &SimRing, account: &mut Account) {
        if self.done || ring.now() < self.next_at {
            return;
        }
        let did = self.act_now(ring, account);
        self.pause = if did { self.load.mix.pause_max } else { Nanos((self.pause.0 * 2).min(WAIT_MAX.0)) };
        self.next_at = ring.now() + Nanos(self.rng.below(self.pause.0));
    }

    /// False: it waits.
    fn act_now(&mut self, ring: &SimRing, account: &mut Account) -> bool {
        if self.connection.is_none() {
            self.connect(ring);
            return true;
        }
        let heard = ring.now() >= self.stalls_until && self.listen(ring);
        if self.connection.as_ref().is_none_or(|connection| self.is_over(ring, connection)) {
            self.leave(ring);
            return true;
        }
        if self.rng.chance(self.load.breaks) {
            self.break_off(ring);
            return true;
        }
        if self.rng.chance(self.load.stalls) {
            ring.note(Fault::ReaderStalled);
            self.stalls_until = ring.now() + Nanos(self.rng.below(STALL_MAX.0));
        }
        self.say(account);
        self.send(ring) || heard
    }

    fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    /// The lowest sequence of which it knows no outcome.
    fn lowest_unacked(&self) -> u64 {
        let mut lowest = self.acked + 1;
        while self.refused.contains_key(&lowest) {
            lowest += 1;
        }
        lowest
    }

    fn connect(&mut self, ring: &SimRing) {
        let conn = self.connections_left.checked_sub(1).and_then(|left| {
            self.connections_left = left;
            ring.connect(self.listener, self.from)
        });
        let Some(id) = conn else {
            self.done = true;
            return;
        };
        let lowest = self.lowest_unacked();
        // What is sent again may have another outcome this time.
        self.refused.retain(|sequence, _| *sequence < lowest);
        let mut hello = [0; HELLO_BYTES_MAX];
        let bytes =
            Hello { level: self.load.level, producer: self.producer, lowest_unacked: lowest, token: &[] }.encode(&mut hello);
        if !self.connections.is_empty() {
            ring.note(Fault::Reconnected);
        }
        self.connections.push(id);
        self.connection = Some(Connection {
            id,
            phase: Phase::Greeting,
            lowest,
            acked: lowest - 1,
            window: 0,
            next: lowest,
            expected: lowest,
            held: Vec::new(),
            error: None,
            unread: Vec::new(),
            unsent: hello[..bytes].iter().copied().collect(),
            heard_at: ring.now(),
        });
    }

    /// Whether nothing more comes of a connection.
    fn is_over(&self, ring: &SimRing, connection: &Connection) -> bool {
        let is_patient = ring.now().since(connection.heard_at) < PATIENCE || ring.now() < self.stalls_until;
        connection.error.is_some() || ring.is_at_end(connection.id) || ring.is_refused(connection.id) || !is_patient
    }

    fn leave(&mut self, ring: &SimRing) {
        let Some(connection) = self.connection.take() else { return };
        let is_told = ring.is_at_end(connection.id) && !ring.is_refused(connection.id);
        if connection.phase == Phase::Bye && connection.error.is_none() && is_told {
            let (acked, sent) = (self.acked, self.sent);
            assert!(acked >= sent, "O12: {} was told the end of its session at {acked}, and had sent {sent}", self.producer);
            self.told_all = Some(connection.lowest);
            self.done = true;
            self.count("byes");
        }
        if connection.error == Some(SessionFault::Stopping.code()) {
            self.told_all = (connection.phase != Phase::Greeting).then_some(connection.lowest);
            (self.is_sent_away, self.done) = (!self.done, true);
        }
        ring.finish(connection.id);
    }

    /// An end that no one agreed on.
    fn break_off(&mut self, ring: &SimRing) {
        let Some(connection) = self.connection.take() else { return };
        match self.rng.below(3) {
            0 => ring.finish(connection.id),
            1 => ring.reset(connection.id),
            // The next hello finds it open.
            _ => ring.note(Fault::Superseded),
        }
    }

    // -- what it says --

    fn say(&mut self, account: &mut Account) {
        let Some(mut connection) = self.connection.take() else { return };
        if connection.phase == Phase::Welcomed && connection.unsent.is_empty() {
            if self.rng.chance(self.load.wrongs) {
                self.say_something_wrong(&mut connection);
            } else {
                self.say_frames(&mut connection, account);
            }
        }
        self.connection = Some(connection);
    }

    fn say_frames(&mut self, connection: &mut Connection, account: &mut Account) {
        let last = u64::from(self.load.frames).min(connection.acked.saturating_add(connection.window));
        for _ in 0..self.rng.between(1..=24) {
            if connection.next > last {
                break;
            }
            let sequence = connection.next;
            connection.next += 1;
            let k = sequence - connection.lowest;
            let is_held = connection.held.get(k as usize / 8).is_some_and(|byte| byte >> (k % 8) & 1 == 1);
            if is_held && self.load.trusts_held {
                self.count("held and not sent again");
                continue;
            }
            if sequence <= self.sent {
                self.count("sent again");
            }
            if connection.expected != sequence || self.rng.chance(200) {
                connection.unsent.extend(Mark { next_sequence: sequence, time_ns: self.rng.below(1 << 60) }.encode());
            }
            connection.expected = sequence + 1;
            connection.unsent.extend(self.frame(sequence, account).encode());
            self.sent = self.sent.max(sequence);
        }
        if self.rng.chance(50) {
            connection.unsent.extend(ClientMessage::PING);
        }
        if connection.next > u64::from(self.load.frames) {
            connection.unsent.extend(ClientMessage::BYE);
            connection.phase = Phase::Bye;
        }
    }

    /// The event of a sequence, made when it is sent for the first time.
    fn frame(&mut self, sequence: u64, account: &mut Account) -> &SentFrame {
        while (self.frames.len() as u64) < sequence {
            let frame = self.maker.make(&mut self.rng);
            account.note(&frame);
            self.frames.push(frame);
        }
        &self.frames[sequence as usize - 1]
    }

    fn say_something_wrong(&mut self, connection: &mut Connection) {
        // Never an event: its name is one that nobody sends.
        let frame = self.maker.make_stray(&mut self.rng);
        let fault = match self.rng.below(5) {
            0 => {
                let bytes = malformed(&mut self.rng, &frame, FRAME_BYTES_MAX as usize);
                let fault = match bytes[0] {
                    0 => SessionFault::MalformedFrame(FrameRefusal::ALL[0]),
                    first_byte => SessionFault::UnknownMessage { first_byte },
                };
                connection.unsent.extend(bytes);
                fault
            }
            1 => {
                // The server may have acknowledged everything that it has got.
                let next_sequence = self.sent.max(connection.acked) + connection.window + 1;
                connection.unsent.extend(Mark { next_sequence, time_ns: 0 }.encode());
                connection.unsent.extend(frame.encode());
                SessionFault::BeyondWindow
            }
            2 => {
                let mut hello = [0; HELLO_BYTES_MAX];
                let hello_again = Hello { level: self.load.level, producer: self.producer, lowest_unacked: 1, token: &[] };
                let bytes = hello_again.encode(&mut hello);
                connection.unsent.extend(&hello[..bytes]);
                SessionFault::HelloTwice
            }
            3 => {
                let mut mark = Mark { next_sequence: 1, time_ns: 0 }.encode();
                mark[1..9].fill(0);
                connection.unsent.extend(mark);
                SessionFault::SequenceZero
            }
            _ => {
                connection.unsent.push_back(0xE9);
                SessionFault::UnknownMessage { first_byte: 0xE9 }
            }
        };
        connection.phase = Phase::Wrong(fault);
    }

    /// Some of what is said goes into the network.
    fn send(&mut self, ring: &SimRing) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        if connection.unsent.is_empty() {
            return false;
        }
        let whole = connection.unsent.len();
        let cut = if self.rng.chance(400) { whole } else { self.rng.between(1..=whole as u64) as usize };
        if cut < whole {
            ring.note(Fault::Cut);
        }
        let sent = ring.send(connection.id, &connection.unsent.make_contiguous()[..cut]);
        connection.unsent.drain(..sent);
        sent > 0
    }

    // -- what it hears --

    /// Reads some of what it was sent. False: nothing has come.
    fn listen(&mut self, ring: &SimRing) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let max = if self.rng.chance(300) { self.rng.between(1..=40) as usize } else { usize::MAX };
        let came = ring.read(connection.id, max);
        if came.is_empty() {
            return false;
        }
        connection.heard_at = ring.now();
        self.hear(&came);
        true
    }

    /// After the drain: all that it was sent, if it still reads.
    pub fn hear_the_rest(&mut self, ring: &SimRing) {
        while self.listen(ring) {}
        if self.connection.as_ref().is_some_and(|connection| connection.error.is_some() || ring.is_at_end(connection.id)) {
            self.leave(ring);
        }
    }

    fn hear(&mut self, came: &[u8]) {
        let Some(mut connection) = self.connection.take() else { return };
        let mut bytes = std::mem::take(&mut connection.unread);
        bytes.extend_from_slice(came);
        let mut at = 0;
        loop {
            match parse_server(&bytes[at..]) {
                Ok(Step::Whole { message, bytes }) => {
                    at += bytes;
                    self.hear_message(&mut connection, message);
                }
                Ok(Step::Incomplete { .. }) => break,
                Err(refusal) => panic!("O12: {} was sent what is no message: {refusal:?}", self.producer),
            }
        }
        bytes.drain(..at);
        connection.unread = bytes;
        self.connection = Some(connection);
    }

    fn hear_message(&mut self, connection: &mut Connection, message: ServerMessage<'_>) {
        let producer = self.producer;
        assert!(connection.error.is_none(), "O12: {producer} was told {message:?} after an ERROR");
        match message {
            ServerMessage::Welcome(welcome) => self.hear_welcome(connection, &welcome),
            _ if connection.phase == Phase::Greeting && !matches!(message, ServerMessage::Error(_)) => {
                panic!("O12: {producer} was told {message:?} before a WELCOME")
            }
            ServerMessage::Ack(ack) => self.hear_ack(connection, ack.acked),
            ServerMessage::Refused(refused) => {
                let last = refused.first + u64::from(refused.count) - 1;
                assert!(last <= self.sent, "O12: {producer} had sent {}, and was told {refused:?}", self.sent);
                let is_late = self.load.level > AckLevel::Accepted && refused.first <= connection.acked;
                assert!(!is_late, "O12: {producer} was told {refused:?} after an ACK of {}", connection.acked);
                (refused.first..=last).for_each(|sequence| _ = self.refused.insert(sequence, refused.reason));
                self.count("refusals");
            }
            ServerMessage::Level(level) => assert!(level <= Level::Emergency as u8, "O12: {producer} was told level {level}"),
            ServerMessage::Error(fault) => {
                self.check_error(connection, fault.code);
                connection.error = Some(fault.code);
            }
        }
    }

    fn hear_welcome(&mut self, connection: &mut Connection, welcome: &Welcome<'_>) {
        let (producer, sent) = (self.producer, self.sent.max(connection.lowest - 1));
        assert_eq!(connection.phase, Phase::Greeting, "O12: {producer} was welcomed twice");
        assert_eq!(welcome.level, self.load.level, "O12: {producer} asked for another level");
        assert!(welcome.highest <= sent, "O12: {producer} had sent {sent}, and was told {welcome:?}");
        let unsent_from = sent + 1 - connection.lowest;
        let invented = (unsent_from..8 * welcome.held.bitmap().len() as u64).find(|k| welcome.held.has(*k));
        assert_eq!(invented, None, "O12: {producer} had sent {sent} from {}, and was told {welcome:?}", connection.lowest);
        connection.phase = Phase::Welcomed;
        connection.window = u64::from(welcome.window);
        connection.held = welcome.held.bitmap().to_vec();
        self.hear_ack(connection, welcome.acked);
    }

    fn hear_ack(&mut self, connection: &mut Connection, acked: u64) {
        let (producer, before) = (self.producer, connection.acked);
        assert!(acked >= before, "O12: the ACK of {producer} goes back from {before} to {acked}");
        let sent = self.sent.max(connection.lowest - 1);
        assert!(acked <= sent, "O12: {producer} had sent {sent}, and was acknowledged {acked}");
        connection.acked = acked;
        self.acked = self.acked.max(acked);
    }

    fn check_error(&mut self, connection: &Connection, code: u16) {
        use SessionFault::{HelloLate, Idle, NoSeat, SlowFrame, SlowReader, Stopping, Superseded};
        let anybody_may = [HelloLate, NoSeat, SlowFrame, Idle, SlowReader, Stopping].map(SessionFault::code).contains(&code);
        let was_wrong = matches!(connection.phase, Phase::Wrong(fault) if fault.code() == code);
        // Its own: also an earlier one whose hello comes late.
        let is_two = self.connections.len() > 1 && code == Superseded.code();
        let phase = connection.phase;
        assert!(anybody_may || was_wrong || is_two, "O12: {} is {phase:?}, and was told ERROR {code}", self.producer);
        if was_wrong {
            self.count("wrongs told");
        }
    }
}

/// The producer id of a client.
pub fn producer_of(client: u32) -> ProducerId {
    let mut id = [0x5e; 16];
    id[12..].copy_from_slice(&client.to_be_bytes());
    ProducerId::from_bytes(id).expect("not all zero")
}
