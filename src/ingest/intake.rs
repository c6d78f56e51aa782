//! From frames to events: the part that TCP and UDP share, and the hot loop.
//!
//! The caller's chunk and the slots that events are copied into are different tickets of one pool, so the loop borrows the chunk's
//! bytes from the [`SharedPool`] while it stores through the owner.

use std::sync::Arc;

use super::numbering::{Next, Numbering};
use super::waiting::Line;
use crate::bus::{Dispatch, Sent, TierSender};
use crate::control::{Admission, GateReading, Patience, ShedByClass};
use crate::metrics::ledger::{DropReason, LedgerCells};
use crate::planted::{Bug, is_planted};
use crate::pool::{EVENT_HEADER_BYTES, Event, EventFlags, EventHeader, Outcome, PoolOwner, Releaser, SharedPool, Slot, Source};
use crate::storage::dead_letter::{DeadLetterSender, Note};
use crate::sys::clock::{Nanos, WallNanos};
use crate::wire::session::SessionFault;
use crate::wire::{self, Frame, FrameLimits, FrameRefusal, HEADER_BYTES, Parsed, Tier};

/// Where a frame begins in a slot, so that its topic and body lie where an event keeps them.
pub(super) const FRAME_OFFSET: usize = EVENT_HEADER_BYTES - HEADER_BYTES;

/// Where and when bytes came in; one per chunk or datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) source: Source,
    /// The connection's running number; 0 for datagrams.
    pub(super) connection: u32,
    pub(super) at: Nanos,
    pub(super) wall: WallNanos,
}

/// Why a loop over frames came to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// What is left is less than a frame (possibly nothing).
    Incomplete,
    /// The next frame must wait in this line.
    Wait(Line),
    /// The last frame taken is an event whose lane has no room: it is the connection's until it has.
    Pending(Event, Tier),
    /// The next frame is none.
    Refused(FrameRefusal),
    /// The next frame's session is at its end.
    Fault(SessionFault),
}

/// How far [`Intake::take_frames`] came, and why no further.
#[derive(Debug)]
pub(super) struct Taken {
    /// Bytes of whole frames taken.
    pub(super) consumed: usize,
    pub(super) stop: Stop,
}

/// Turns frames into events and sends them to their tiers.
pub(super) struct Intake {
    pub(super) pool: PoolOwner,
    pub(super) shared: Arc<SharedPool>,
    pub(super) limits: FrameLimits,
    pub(super) flow_control: bool,
    pub(super) tiers: [TierSender; Tier::COUNT],
    pub(super) dispatch: Dispatch,
    pub(super) ledger: Arc<LedgerCells>,
    pub(super) dead_letters: DeadLetterSender,
    pub(super) releaser: Releaser,
    /// The next event's id.
    pub(super) next_id: u64,
    /// By tier: the line in which every frame of that tier must wait, as others wait there already.
    closed: [Option<Line>; Tier::COUNT],
    /// By line: whether someone stands in it.
    formed: [bool; Line::COUNT],
    /// The node's gate, as read at the start of the poll.
    pub(super) gate: GateReading,
    pub(super) shed: Arc<ShedByClass>,
    /// Events since the last poll.
    pub(super) events_done: u32,
}

impl Intake {
    pub(super) fn new(
        pool: PoolOwner,
        limits: FrameLimits,
        flow_control: bool,
        wiring: (Dispatch, [TierSender; Tier::COUNT], Arc<LedgerCells>, Arc<ShedByClass>, DeadLetterSender),
        id_base: u64,
    ) -> Self {
        let shared = Arc::clone(pool.shared());
        let (dispatch, tiers, ledger, shed, dead_letters) = wiring;
        Self {
            releaser: Releaser::new(Arc::clone(&shared)),
            pool,
            shared,
            limits,
            flow_control,
            tiers,
            dispatch,
            ledger,
            dead_letters,
            next_id: id_base,
            closed: [None; Tier::COUNT],
            formed: [false; Line::COUNT],
            gate: GateReading::default(),
            shed,
            events_done: 0,
        }
    }

    /// Takes whole frames from the front of `bytes` until they end or one can't be taken.
    ///
    /// One copy per frame, from the chunk into the event's slot. No clock, no shared read-modify-write, no reference count per frame.
    pub(super) fn take_frames<N: Numbering>(&mut self, bytes: &[u8], origin: &Origin, numbering: &mut N) -> Taken {
        let mut consumed = 0;
        let stop = loop {
            let rest = &bytes[consumed..];
            let frame = match wire::whole_frame(rest, &self.limits) {
                Some(frame) => frame,
                None => match wire::parse(rest, &self.limits) {
                    Ok(Parsed::Frame(frame)) => frame,
                    Ok(Parsed::Incomplete { .. }) => break Stop::Incomplete,
                    Err(refusal) => break Stop::Refused(refusal),
                },
            };
            let tier = self.tier_of(&frame);
            let next = numbering.next();
            match next {
                Next::Unnumbered | Next::Fresh(_) => {}
                Next::Known => {
                    consumed += frame.frame_bytes;
                    self.count_duplicate(tier, origin.source);
                    numbering.was_known();
                    continue;
                }
                Next::Beyond => break Stop::Fault(SessionFault::BeyondWindow),
                Next::Spent => break Stop::Wait(Line::RATE),
            }
            match self.gate.admits(tier, frame.priority, Patience::CanWait) {
                Admission::Admit => {}
                Admission::Wait => break Stop::Wait(Line::lane(tier)),
                Admission::Drop(reason) => {
                    consumed += frame.frame_bytes;
                    self.turn_away(&frame, tier, origin, reason);
                    numbering.refused(reason);
                    continue;
                }
            }
            if let Some(line) = self.must_wait(tier) {
                break Stop::Wait(line);
            }
            let header = next.number(self.header(&frame, tier, origin));
            let Some(event) = self.pool.store(header, frame.payload) else { break Stop::Wait(Line::slots(tier)) };
            consumed += frame.frame_bytes;
            numbering.took();
            if let Err(event) = self.admit(event, origin.source, tier) {
                break Stop::Pending(event, tier);
            }
        };
        Taken { consumed, stop }
    }

    /// Where a frame goes.
    #[inline]
    pub(super) fn tier_of(&self, frame: &Frame<'_>) -> Tier {
        self.dispatch.tier(frame.priority, frame.topic.as_bytes())
    }

    /// The line in which a TCP frame of this tier must wait, if it must.
    #[inline]
    pub(super) fn must_wait(&mut self, tier: Tier) -> Option<Line> {
        if let Some(line) = self.closed[tier.index()] {
            return Some(line);
        }
        (self.flow_control && self.tiers[tier.index()].must_wait()).then_some(Line::lane(tier))
    }

    /// As [`Intake::must_wait`], for a frame that has its slot already.
    pub(super) fn must_wait_for_lane(&mut self, tier: Tier) -> Option<Line> {
        let line = Line::lane(tier);
        (self.is_line_formed(line) || (self.flow_control && self.tiers[tier.index()].must_wait())).then_some(line)
    }

    /// The header of a frame that becomes the next event.
    #[inline]
    pub(super) fn header(&self, frame: &Frame<'_>, tier: Tier, origin: &Origin) -> EventHeader {
        EventHeader {
            id: self.next_id,
            received_at: origin.at,
            received_wall: origin.wall,
            connection: origin.connection,
            body_len: frame.body.len() as u32,
            topic_len: frame.topic.len() as u16,
            priority: frame.priority,
            tier,
            source: origin.source,
            attempts: 0,
            flags: EventFlags::NONE,
            reserved: 0,
            producer_sequence: 0,
            key: None,
        }
    }

    /// Copies a frame into a slot of its tier. `None`: there is no slot.
    #[inline]
    pub(super) fn store(&mut self, frame: &Frame<'_>, tier: Tier, origin: &Origin) -> Option<Event> {
        let header = self.header(frame, tier, origin);
        self.pool.store(header, frame.payload)
    }

    /// Counts a frame of a session that was taken before.
    #[cold]
    pub(super) fn count_duplicate(&mut self, tier: Tier, source: Source) {
        self.events_done += 1;
        let cell = self.ledger.cell(source, tier);
        cell.received.add(1);
        cell.duplicate.add(1);
    }

    /// How many events of a tier could be taken at once, as far as its lanes go.
    pub(super) fn credits(&self, tier: Tier) -> u32 {
        u32::try_from(self.tiers[tier.index()].room()).unwrap_or(u32::MAX)
    }

    /// Counts a fresh event as received and sends it.
    ///
    /// # Errors
    /// Gives the event back when its lane is full and its policy is to wait.
    #[inline]
    pub(super) fn admit(&mut self, event: Event, source: Source, tier: Tier) -> Result<(), Event> {
        self.next_id += 1;
        self.events_done += 1;
        // Before the event can be seen by anyone: no snapshot shows an outcome without its receipt (L3). One writer: a plain add.
        self.ledger.cell(source, tier).received.add(1);
        self.send(event, tier)
    }

    /// Sends an event that was counted before.
    ///
    /// # Errors
    /// As for [`Intake::admit`].
    #[inline]
    pub(super) fn send(&mut self, event: Event, tier: Tier) -> Result<(), Event> {
        match self.tiers[tier.index()].send(event) {
            Sent::Queued => Ok(()),
            Sent::Wait(event) => Err(event),
            Sent::Evicted(event) | Sent::Refused(event) => {
                self.lose(event, DropReason::QueueFull);
                Ok(())
            }
        }
    }

    /// Accounts for an event that ends here.
    #[cold]
    pub(super) fn lose(&mut self, mut event: Event, reason: DropReason) {
        let header = self.shared.header(&event);
        if !is_planted(Bug::DropUncounted) {
            self.ledger.cell(header.source, header.tier).lost[reason as usize].add(1);
        }
        self.shared.end(&mut event, Outcome::Lost(reason));
        if reason.is_dead_lettered() {
            self.dead_letters.send(event, reason, Note::EMPTY);
        } else if self.dead_letters.takes_sample(reason) {
            self.dead_letters.send_sample(event, reason);
        } else {
            self.releaser.release(event);
        }
    }

    /// Accounts for a whole frame that did not even become an event: received, and lost.
    #[cold]
    pub(super) fn lose_unstored(&mut self, header: EventHeader, topic: &[u8], body: &[u8], reason: DropReason) {
        let cell = self.ledger.cell(header.source, header.tier);
        cell.received.add(1);
        cell.lost[reason as usize].add(1);
        if !self.dead_letters.takes_sample(reason) {
            return;
        }
        self.next_id += 1;
        match self.pool.store_split(header, topic, body) {
            Some(event) => self.dead_letters.send_sample(event, reason),
            None => {
                let topic = std::str::from_utf8(topic).expect("a frame's topic is UTF-8 (I3 in `wire`)");
                self.dead_letters.send_sample_of_topic(header, topic, reason);
            }
        }
    }

    /// Accounts for a whole frame that the gate, or its source's limit, does not let in: received, and lost.
    #[cold]
    pub(super) fn turn_away(&mut self, frame: &Frame<'_>, tier: Tier, origin: &Origin, reason: DropReason) {
        self.events_done += 1;
        let header = self.header(frame, tier, origin);
        self.lose_unstored(header, frame.topic.as_bytes(), frame.body, reason);
        self.shed.count(reason, frame.topic.as_bytes());
    }

    /// Whether connections of this lane's line may go on.
    pub(super) fn may_resume(&self, tier: Tier) -> bool {
        !self.gate.pauses(tier) && self.has_room(tier)
    }

    /// Whether a tier is far below its high-water mark.
    pub(super) fn has_room(&self, tier: Tier) -> bool {
        self.tiers[tier.index()].may_resume()
    }

    /// Whether others wait in this line already.
    pub(super) fn is_line_formed(&self, line: Line) -> bool {
        self.formed[line.index()]
    }

    /// Opens a line while its connections are called up, or closes it behind those left.
    pub(super) fn set_line(&mut self, line: Line, formed: bool) {
        self.formed[line.index()] = formed;
        if let Some(tier) = line.tier() {
            let lines = [Line::slots(tier), Line::lane(tier)];
            self.closed[tier.index()] = lines.into_iter().find(|line| self.formed[line.index()]);
        }
    }

    /// Whether an event of this tier waits to be processed.
    pub(super) fn depth(&self, tier: Tier) -> usize {
        self.tiers[tier.index()].depth()
    }

    /// Gives a receive buffer's slot back, if there is one.
    pub(super) fn give_back(&mut self, slot: Option<Slot>) {
        if let Some(slot) = slot {
            self.pool.give_back(slot);
        }
    }

    /// Makes what was sent visible, once per chunk.
    pub(super) fn publish(&mut self) {
        self.tiers.iter_mut().for_each(TierSender::publish);
    }

    /// Copies a frame whose sender can't be made to wait into an event, if the gate lets it in.
    pub(super) fn store_without_waiting(&mut self, frame: &Frame<'_>, origin: &Origin) {
        let tier = self.tier_of(frame);
        if let Admission::Drop(reason) = self.gate.admits(tier, frame.priority, Patience::CannotWait) {
            return self.turn_away(frame, tier, origin, reason);
        }
        match self.store(frame, tier, origin) {
            Some(event) => self.admit_without_waiting(event, origin.source, tier),
            None => {
                let header = self.header(frame, tier, origin);
                self.lose_unstored(header, frame.topic.as_bytes(), frame.body, DropReason::PoolExhausted);
            }
        }
    }

    /// Admits an event whose sender can't be made to wait.
    pub(super) fn admit_without_waiting(&mut self, event: Event, source: Source, tier: Tier) {
        if let Err(event) = self.admit(event, source, tier) {
            self.lose(event, DropReason::QueueFull);
        }
    }
}

const _: () = assert!(FRAME_OFFSET + HEADER_BYTES == EVENT_HEADER_BYTES);
