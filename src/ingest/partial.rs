//! A frame of which not all bytes have come.
//!
//! Its header (at most 7 bytes) stays in the connection; from the first payload byte on it lies in a slot, header and all, so that
//! topic and body are where an event keeps them and the slot can be sealed in place:
//!
//! ```text
//! slot:  0 ······ 57 ──────── 64 ───────────────────────────────
//!        (event   │ header    │ topic, body as far as they came
//!         header  │ 7 bytes   │
//!         later)
//! ```
//!
//! **I4** The slot's class fits the bytes that have come, never the length that was claimed; it grows a class at a time.

use std::sync::Arc;

use super::intake::{FRAME_OFFSET, Intake, Origin, Stop};
use super::numbering::{Next, Numbering};
use super::waiting::Line;
use crate::control::{Admission, Patience};
use crate::pool::{PoolOwner, Slot, SlotUse};
use crate::sys::clock::Nanos;
use crate::wire::session::SessionFault;
use crate::wire::{self, HEADER_BYTES, Parsed};

/// The part that has come.
#[derive(Debug)]
pub(super) struct Partial {
    header: [u8; HEADER_BYTES],
    /// Bytes that have come, of the header and after it.
    have_bytes: u32,
    /// Bytes of the whole frame; 0 while the header is not whole.
    frame_bytes: u32,
    slot: Option<Slot>,
    /// When its first byte was left over, moved on by the time that *we* did not read.
    pub(super) since: Nanos,
}

/// How far [`Partial::fill`] came.
#[derive(Debug)]
pub(super) struct Filled {
    /// Bytes taken.
    pub(super) consumed: usize,
    /// `None`: the frame became an event. [`Stop::Incomplete`]: all bytes are taken, more are needed.
    pub(super) stop: Option<Stop>,
}

impl Partial {
    /// No frame begun.
    pub(super) const NONE: Partial =
        Partial { header: [0; HEADER_BYTES], have_bytes: 0, frame_bytes: 0, slot: None, since: Nanos(0) };

    /// Whether a frame has begun.
    pub(super) fn is_open(&self) -> bool {
        self.have_bytes > 0
    }

    /// Whether its slot will hold the whole frame: then it needs bytes, and nothing else, to be done with it.
    pub(super) fn is_housed(&self, pool: &PoolOwner) -> bool {
        let needed = (self.frame_bytes as usize).saturating_sub(HEADER_BYTES);
        let class = pool.class_for(needed);
        self.slot.as_ref().zip(class).is_some_and(|(slot, class)| slot.class().index() >= class.index())
    }

    /// Gives up what has come. Whether there was anything.
    pub(super) fn discard(&mut self, pool: &mut PoolOwner) -> bool {
        let was_open = self.is_open();
        if let Some(slot) = self.slot.take() {
            pool.give_back(slot);
        }
        *self = Self::NONE;
        was_open
    }

    /// Takes what it needs of `bytes` (possibly none: a frame that is whole already then only tries to become an event).
    pub(super) fn fill<N: Numbering>(&mut self, bytes: &[u8], intake: &mut Intake, origin: &Origin, numbering: &mut N) -> Filled {
        let mut consumed = 0;
        if self.frame_bytes == 0 {
            match self.fill_header(bytes, intake) {
                Ok(taken) => consumed = taken,
                Err(stop) => return Filled { consumed: bytes.len(), stop: Some(stop) },
            }
        }
        let wanted = (self.frame_bytes - self.have_bytes) as usize;
        let more = &bytes[consumed..][..wanted.min(bytes.len() - consumed)];
        if !more.is_empty() {
            if let Err(line) = self.make_room(self.have_bytes as usize + more.len(), intake) {
                return Filled { consumed, stop: Some(Stop::Wait(line)) };
            }
            let slot = self.slot.as_mut().expect("room was made");
            intake.pool.bytes_mut(slot)[FRAME_OFFSET + self.have_bytes as usize..][..more.len()].copy_from_slice(more);
            self.have_bytes += more.len() as u32;
            consumed += more.len();
        }
        Filled { consumed, stop: self.finish(intake, origin, numbering) }
    }

    /// Completes the header, as far as the bytes go. How many it took; an error when it is still cut, or refused.
    fn fill_header(&mut self, bytes: &[u8], intake: &Intake) -> Result<usize, Stop> {
        let have = self.have_bytes as usize;
        let taken = bytes.len().min(HEADER_BYTES - have);
        self.header[have..have + taken].copy_from_slice(&bytes[..taken]);
        self.have_bytes += taken as u32;
        match wire::parse_header(&self.header[..have + taken], &intake.limits) {
            Ok(Some(header)) => {
                self.frame_bytes = header.frame_bytes() as u32;
                Ok(taken)
            }
            Ok(None) => Err(Stop::Incomplete),
            Err(refusal) => Err(Stop::Refused(refusal)),
        }
    }

    /// Makes the slot hold `frame_bytes` of the frame (I4). An error says where to wait for a slot of the class that takes.
    fn make_room(&mut self, frame_bytes: usize, intake: &mut Intake) -> Result<(), Line> {
        let class = intake.pool.class_for(frame_bytes - HEADER_BYTES).expect("frames within the limit fit the largest class");
        if self.slot.as_ref().is_some_and(|slot| slot.class().index() >= class.index()) {
            return Ok(());
        }
        let line = Line::partial(class);
        if intake.is_line_formed(line) {
            return Err(line);
        }
        let mut larger = intake.pool.acquire(class, SlotUse::Partial).ok_or(line)?;
        match self.slot.take() {
            Some(old) => {
                let have = FRAME_OFFSET..FRAME_OFFSET + self.have_bytes as usize;
                let shared = Arc::clone(&intake.shared);
                intake.pool.bytes_mut(&mut larger)[have.clone()].copy_from_slice(&PoolOwner::bytes(&shared, &old)[have]);
                intake.pool.give_back(old);
            }
            None => intake.pool.bytes_mut(&mut larger)[FRAME_OFFSET..][..HEADER_BYTES].copy_from_slice(&self.header),
        }
        self.slot = Some(larger);
        Ok(())
    }

    /// Seals the slot in place if the frame is whole. `None`: it became an event, or was turned away. As it has its slot, it passes those by that wait for
    /// one: theirs may come from it.
    fn finish<N: Numbering>(&mut self, intake: &mut Intake, origin: &Origin, numbering: &mut N) -> Option<Stop> {
        let Some(slot) = self.slot.take() else { return Some(Stop::Incomplete) };
        let shared = Arc::clone(&intake.shared);
        let bytes = &PoolOwner::bytes(&shared, &slot)[FRAME_OFFSET..][..self.have_bytes as usize];
        let judged = match wire::parse(bytes, &intake.limits) {
            Ok(Parsed::Frame(frame)) => {
                let tier = intake.tier_of(&frame);
                let next = numbering.next();
                if next == Next::Known {
                    intake.count_duplicate(tier, origin.source);
                    numbering.was_known();
                    intake.pool.give_back(slot);
                    *self = Self::NONE;
                    return None;
                }
                match intake.gate.admits(tier, frame.priority, Patience::CanWait) {
                    _ if next == Next::Beyond => Err(Stop::Fault(SessionFault::BeyondWindow)),
                    _ if next == Next::Spent => Err(Stop::Wait(Line::RATE)),
                    Admission::Admit => {
                        let header = next.number(intake.header(&frame, tier, origin));
                        intake.must_wait_for_lane(tier).map_or(Ok((tier, header)), |line| Err(Stop::Wait(line)))
                    }
                    Admission::Wait => Err(Stop::Wait(Line::lane(tier))),
                    Admission::Drop(reason) => {
                        intake.turn_away(&frame, tier, origin, reason);
                        numbering.refused(reason);
                        intake.pool.give_back(slot);
                        *self = Self::NONE;
                        return None;
                    }
                }
            }
            Ok(Parsed::Incomplete { .. }) => Err(Stop::Incomplete),
            Err(refusal) => Err(Stop::Refused(refusal)),
        };
        let (tier, header) = match judged {
            Ok(judged) => judged,
            Err(stop) => {
                self.slot = Some(slot);
                return Some(stop);
            }
        };
        match intake.pool.change_use(slot, SlotUse::of_tier(tier)) {
            Ok(slot) => {
                *self = Self::NONE;
                numbering.took();
                let event = intake.pool.seal(slot, header);
                intake.admit(event, origin.source, tier).err().map(|event| Stop::Pending(event, tier))
            }
            Err(slot) => {
                self.slot = Some(slot);
                Some(Stop::Wait(Line::slots(tier)))
            }
        }
    }
}
