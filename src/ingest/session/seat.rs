//! A producer's seat: what is known of its sequences, where its connection's stream stands, and what it is to be told next.

use super::outbox::{ConnectionRef, Outbox};
use super::outcomes::{Judged, Outcomes};
use crate::ingest::numbering::{Next, Numbering};
use crate::metrics::latency::LatencyRecorder;
use crate::metrics::ledger::{Counter, DropReason};
use crate::pool::ProducerStamp;
use crate::storage::producers::ProducerTable;
use crate::sys::clock::{Nanos, WallNanos};
use crate::wire::ProducerId;
use crate::wire::Tier;
use crate::wire::session::{Ack, AckLevel, ClientMessage, Fault, Hello, MARK_BYTES, ServerMessage, SessionFault, Step, Welcome};
use crate::wire::session::{HELD_BYTES_MAX, Held};
use crate::wire::{FrameLimits, session};

/// What all sessions of a reactor are told alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tidings {
    pub(super) credits: [u32; Tier::COUNT],
    pub(super) overload: u8,
    pub(super) frame_bytes_max: u32,
    pub(super) window: u32,
}

/// The bytes of a message that was cut, other than a frame.
#[derive(Debug, Default)]
struct Cut {
    bytes: [u8; MARK_BYTES],
    have: usize,
    /// When its first byte came.
    since: Nanos,
}

/// When bytes came, and where it is noted how long those of a mark were on their way.
pub(super) struct MarkTimes<'a> {
    pub(super) now: Nanos,
    pub(super) wall: WallNanos,
    pub(super) on_the_way: &'a mut LatencyRecorder,
}

impl MarkTimes<'_> {
    /// Notes the producer's time of a mark: none is none, and one in the future says that clocks differ, not how long anything took.
    fn record(&mut self, time_ns: u64) {
        if time_ns > 0 && time_ns <= self.wall.0 {
            self.on_the_way.record(Nanos(self.wall.0 - time_ns));
        }
    }
}

/// See the module doc.
#[derive(Debug)]
pub(super) struct Seat {
    /// Whose seat it is; `None`: nobody's.
    pub(super) producer: Option<ProducerId>,
    pub(super) level: AckLevel,
    pub(super) outcomes: Outcomes,
    pub(super) outbox: Outbox,
    /// The connection that speaks for the producer.
    pub(super) connection: Option<ConnectionRef>,
    /// When a connection last began or ended.
    pub(super) used_at: Nanos,
    /// The next frame's.
    next_sequence: u64,
    cut: Cut,
    /// The hello's lowest unacked sequence, while its welcome is due.
    welcome: Option<u64>,
    is_ack_due: bool,
    /// What the client was told last.
    told_acked: u64,
    told_overload: u8,
    /// The client has said that no frame follows, or the engine stops: the connection ends when everything is told, with this last word.
    pub(super) ending: Option<Option<SessionFault>>,
}

impl Seat {
    pub(super) fn new(window: u32, outbox: Outbox) -> Self {
        Self {
            producer: None,
            level: AckLevel::Accepted,
            outcomes: Outcomes::new(window),
            outbox,
            connection: None,
            used_at: Nanos(0),
            next_sequence: 1,
            cut: Cut::default(),
            welcome: None,
            is_ack_due: false,
            told_acked: 0,
            told_overload: 0,
            ending: None,
        }
    }

    /// A connection takes the seat, with its hello's word.
    pub(super) fn begin(&mut self, connection: ConnectionRef, hello: &Hello<'_>, producers: &ProducerTable, now: Nanos) {
        let (level, lowest_unacked) = (hello.level, hello.lowest_unacked);
        self.outcomes.begin(lowest_unacked, level);
        if self.outcomes.has_to_learn() {
            self.learn(producers);
        }
        (self.connection, self.level, self.used_at) = (Some(connection), level, now);
        (self.next_sequence, self.cut) = (lowest_unacked, Cut::default());
        (self.welcome, self.is_ack_due, self.ending) = (Some(lowest_unacked), false, None);
    }

    /// Moves its acknowledgement as far as it goes; `producers` is what the log knows (OC6).
    pub(super) fn advance(&mut self, watermark: u64, producers: &ProducerTable) {
        self.outcomes.advance(watermark);
        while self.outcomes.has_to_learn() {
            self.learn(producers);
            self.outcomes.advance(watermark);
        }
    }

    fn learn(&mut self, producers: &ProducerTable) {
        self.outcomes.learn(self.producer.and_then(|producer| producers.window(producer)));
    }

    /// Its connection is gone. What is in hand comes home all the same.
    pub(super) fn leave(&mut self, now: Nanos) {
        (self.connection, self.used_at) = (None, now);
        (self.welcome, self.is_ack_due, self.ending) = (None, false, None);
    }

    /// Whether it may be given to another producer.
    pub(super) fn is_idle(&self) -> bool {
        self.connection.is_none() && self.outcomes.in_hand() == 0 && self.outbox.is_idle()
    }

    // -- what the client says --

    /// Whether a message other than a frame has begun and is not whole.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.have > 0
    }

    /// Since when it is.
    pub(super) fn cut_since(&self) -> Option<Nanos> {
        self.is_cut().then_some(self.cut.since)
    }

    /// Takes a message other than a frame off the front of `bytes`, behind what was cut of it. How many bytes it took.
    ///
    /// # Errors
    /// What makes the stream no session's.
    pub(super) fn take_message(
        &mut self,
        bytes: &[u8],
        limits: &FrameLimits,
        at: &mut MarkTimes<'_>,
    ) -> Result<usize, SessionFault> {
        let had = self.cut.have;
        if had == 0 {
            self.cut.since = at.now;
        }
        if had == 0 && bytes.first() == Some(&session::HELLO_KIND) {
            return Err(SessionFault::HelloTwice);
        }
        let taken = bytes.len().min(MARK_BYTES - had);
        self.cut.bytes[had..had + taken].copy_from_slice(&bytes[..taken]);
        match session::parse_client(&self.cut.bytes[..had + taken], limits)? {
            Step::Incomplete { .. } => {
                self.cut.have = had + taken;
                Ok(taken)
            }
            Step::Whole { message, bytes } => {
                self.cut.have = 0;
                match message {
                    ClientMessage::Mark(mark) => {
                        self.next_sequence = mark.next_sequence;
                        at.record(mark.time_ns);
                    }
                    ClientMessage::Ping => self.is_ack_due = true,
                    ClientMessage::Bye => self.ending = Some(None),
                    ClientMessage::Hello(_) | ClientMessage::Frame(_) => unreachable!("both are told by their first byte before"),
                }
                Ok(bytes - had)
            }
        }
    }

    // -- what it is told --

    /// Whether everything that was taken has its outcome, and the client was told.
    pub(super) fn is_told(&self) -> bool {
        self.outcomes.is_settled() && self.outbox.is_idle() && self.told_acked == self.outcomes.acked() && self.welcome.is_none()
    }

    /// Fills the outbox with what there is to tell; nothing while a send is under way.
    pub(super) fn compose(&mut self, tidings: &Tidings, counters: &super::SessionCounters) {
        if !self.outbox.is_idle() {
            return;
        }
        if let Some(lowest_unacked) = self.welcome.take() {
            self.compose_welcome(lowest_unacked, tidings);
        }
        let refusal_bytes = session::REFUSED_BYTES + session::ACK_BYTES;
        while self.outcomes.has_untold() && self.outbox.room().len() >= refusal_bytes {
            let Some(refused) = self.outcomes.next_refusal() else { break };
            let put = self.outbox.put(&refused.encode());
            debug_assert!(put, "room was asked for");
            let reason = DropReason::from_code(refused.reason).map_or(0, |reason| reason as usize);
            counters.refused[reason].add(u64::from(refused.count));
        }
        let acked = self.outcomes.acked_to_tell();
        if acked > self.told_acked || std::mem::take(&mut self.is_ack_due) {
            self.told_acked = self.told_acked.max(acked);
            self.told_overload = tidings.overload;
            let ack = Ack { acked: self.told_acked, credits: tidings.credits, overload: tidings.overload };
            if self.outbox.put(&ack.encode()) {
                counters.acks.add(1);
            }
        } else if self.told_overload != tidings.overload && self.outbox.put(&ServerMessage::level(tidings.overload)) {
            self.told_overload = tidings.overload;
        }
    }

    fn compose_welcome(&mut self, lowest_unacked: u64, tidings: &Tidings) {
        let mut bitmap = [0; HELD_BYTES_MAX];
        let bytes = self.outcomes.held(lowest_unacked, &mut bitmap);
        let welcome = Welcome {
            level: self.level,
            overload: tidings.overload,
            frame_bytes_max: tidings.frame_bytes_max,
            window: tidings.window,
            credits: tidings.credits,
            acked: self.outcomes.acked_to_tell(),
            highest: self.outcomes.highest(),
            held: Held::new(&bitmap[..bytes]).expect("as long as the longest"),
        };
        (self.told_acked, self.told_overload) = (welcome.acked, tidings.overload);
        let filled = welcome.encode(self.outbox.room());
        self.outbox.fill(filled);
    }

    /// Puts the last word behind what is filled in.
    pub(super) fn compose_last(outbox: &mut Outbox, fault: SessionFault) {
        let fault = Fault { code: fault.code(), text: fault.text() };
        let bytes = fault.encode(outbox.room());
        outbox.fill(bytes);
    }
}

/// The numbering of a session's frames, while a chunk of them is taken.
pub(in crate::ingest) struct SeatNumbers<'a> {
    seat: &'a mut Seat,
    producer: ProducerId,
    duplicates: &'a Counter,
}

impl<'a> SeatNumbers<'a> {
    pub(super) fn new(seat: &'a mut Seat, duplicates: &'a Counter) -> Option<Self> {
        let producer = seat.producer?;
        Some(Self { seat, producer, duplicates })
    }

    fn go_on(&mut self) {
        self.seat.next_sequence = self.seat.next_sequence.saturating_add(1);
    }
}

impl Numbering for SeatNumbers<'_> {
    #[inline]
    fn next(&self) -> Next {
        let sequence = self.seat.next_sequence;
        match self.seat.outcomes.judge(sequence) {
            Judged::Fresh => Next::Fresh(ProducerStamp { producer: self.producer, sequence }),
            Judged::Known => Next::Known,
            Judged::Beyond => Next::Beyond,
        }
    }

    #[inline]
    fn took(&mut self) {
        self.seat.outcomes.take(self.seat.next_sequence);
        self.go_on();
    }

    #[cold]
    fn refused(&mut self, reason: DropReason) {
        self.seat.outcomes.refuse(self.seat.next_sequence, reason);
        self.go_on();
    }

    #[cold]
    fn was_known(&mut self) {
        self.duplicates.add(1);
        self.seat.is_ack_due = true;
        self.go_on();
    }
}
