//! What a producer knows: frames without an outcome, what of them this connection has seen, what the server allows. No I/O, no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use super::unacked::{NotTaken, UnackedFrames};
use super::{ClientOptions, Outcome, ProtocolFault, Refusal, RefusalReason, SendRefusal, Statistics};
use crate::wire::session::{Ack, Mark, Refused, Welcome};
use crate::wire::{Priority, Tier, encoded_len};

/// Refusals that wait to be taken, as ranges: more than a caller who looks now and then lets gather, in 40 KiB.
pub(super) const REFUSALS_MAX: usize = 1024;

/// How far an event's own time may be from the one that its mark gives it.
const MARK_GRAIN: Duration = Duration::from_millis(1);

/// What the current connection has seen, and what it allows.
#[derive(Debug, Default)]
struct Connection {
    /// The next sequence to write to it.
    next: u64,
    /// The sequence that the server expects next, and when the event was given whose time it has: after a mark.
    marked: Option<(u64, Instant)>,
    /// How many sequences beyond the acknowledged one may be written.
    window: u64,
    /// Everything that it may speak of is below: what was written to it or earlier ones, and what the server said it knows.
    known_end: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    frames: UnackedFrames,
    /// Of `frames`, by tier.
    unacked: [u32; Tier::COUNT],
    /// Every sequence up to this has an outcome. Ahead of `frames` where an earlier life of this producer had sent more.
    acked: u64,
    /// Sequences below this have been written to some connection.
    written_end: u64,
    connection: Connection,
    credits: [u32; Tier::COUNT],
    frame_bytes_max: usize,
    overload: u8,
    refusals: VecDeque<Refusal>,
    pub statistics: Statistics,
}

impl Session {
    pub fn new(options: &ClientOptions) -> Session {
        let first = options.first_sequence;
        Session {
            frames: UnackedFrames::new(options.unacked_bytes_max, options.unacked_events_max, first),
            unacked: [0; Tier::COUNT],
            acked: first - 1,
            written_end: first,
            connection: Connection::default(),
            credits: [0; Tier::COUNT],
            frame_bytes_max: 0,
            overload: 0,
            refusals: VecDeque::with_capacity(REFUSALS_MAX),
            statistics: Statistics::new(),
        }
    }

    /// The lowest sequence without an outcome: what a hello says.
    pub fn lowest_unacked(&self) -> u64 {
        self.frames.first()
    }

    /// The sequence that the next event gets.
    pub fn next_sequence(&self) -> u64 {
        self.frames.next()
    }

    /// Every sequence up to this has an outcome.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Whether every event given has its outcome.
    pub fn is_settled(&self) -> bool {
        self.frames.is_empty()
    }

    /// When the oldest event without an outcome was given.
    pub fn waits_since(&self) -> Option<Instant> {
        self.frames.get(self.frames.first()).map(|oldest| oldest.given)
    }

    pub fn overload(&self) -> u8 {
        self.overload
    }

    /// Takes an event, and says its sequence.
    ///
    /// Credits count here and not where frames are written: an event that waits for them has no sequence yet, so that those of other
    /// tiers are not behind it.
    pub fn give(&mut self, priority: Priority, topic: &str, body: &[u8], now: Instant) -> Result<u64, SendRefusal> {
        let frame_bytes = encoded_len(topic.len(), body.len());
        if frame_bytes > self.frame_bytes_max {
            return Err(SendRefusal::TooLong { frame_bytes, most: self.frame_bytes_max });
        }
        // One more than none: without any event on its way no ack would come, and with it no new credits.
        let tier = priority.tier();
        if self.unacked[tier.index()] >= self.credits[tier.index()].max(1) {
            return Err(SendRefusal::Full);
        }
        let sequence = self.frames.push(priority, topic, body, now).map_err(|refusal| match refusal {
            NotTaken::Refused(refusal) => SendRefusal::Frame(refusal),
            NotTaken::LongerThanRing { most } => SendRefusal::TooLong { frame_bytes, most },
            NotTaken::Full => SendRefusal::Full,
        })?;
        self.unacked[tier.index()] += 1;
        self.statistics.given += 1;
        self.settle(now);
        Ok(sequence)
    }

    /// A connection begins, after a hello with this lowest unacked sequence. What has no outcome goes over it again, but for what the
    /// server has.
    pub fn welcome(&mut self, welcome: &Welcome<'_>, lowest_unacked: u64, now: Instant) -> Result<(), ProtocolFault> {
        let known_end = self.written_end.max(welcome.highest.saturating_add(1)).max(lowest_unacked);
        self.connection = Connection { known_end, window: u64::from(welcome.window), ..Connection::default() };
        self.frame_bytes_max = welcome.frame_bytes_max as usize;
        let Welcome { acked, credits, overload, held, .. } = *welcome;
        self.ack(&Ack { acked, credits, overload }, now)?;
        self.connection.next = self.frames.first();
        let mut held_count = 0;
        self.frames.each_mut(|sequence, frame| {
            frame.held = held.has(sequence - lowest_unacked);
            held_count += u64::from(frame.held);
        });
        self.statistics.held += held_count;
        Ok(())
    }

    /// Appends what may be written now, until there are about `bytes_max`: frames, and marks where sequence or time would be wrong without.
    pub fn compose(&mut self, out: &mut Vec<u8>, bytes_max: usize, now: Instant, wall: SystemTime) {
        let connection = &mut self.connection;
        let end = self.frames.next().min(self.acked.saturating_add(connection.window).saturating_add(1));
        while connection.next < end && out.len() < bytes_max {
            let sequence = connection.next;
            let frame = self.frames.get_mut(sequence).expect("from the first to the one before the next");
            connection.next += 1;
            if frame.held {
                continue;
            }
            frame.written = true;
            let frame = *frame;
            let time = match connection.marked {
                Some((expected, time)) if expected == sequence && frame.given - time < MARK_GRAIN => time,
                _ => {
                    let time_ns = unix_ns(wall, now.saturating_duration_since(frame.given));
                    out.extend_from_slice(&Mark { next_sequence: sequence, time_ns }.encode());
                    frame.given
                }
            };
            connection.marked = Some((sequence + 1, time));
            self.frames.copy_out(&frame, out);
            if sequence < self.written_end {
                self.statistics.resent += 1;
            } else {
                self.written_end = sequence + 1;
            }
        }
        connection.known_end = connection.known_end.max(self.written_end);
    }

    /// The server acknowledges.
    pub fn ack(&mut self, ack: &Ack, now: Instant) -> Result<(), ProtocolFault> {
        if ack.acked >= self.connection.known_end {
            return Err(ProtocolFault::NeverSent { sequence: ack.acked });
        }
        // On a new connection the server may have forgotten what it had acked: what has its outcome keeps it.
        self.acked = self.acked.max(ack.acked);
        self.credits = ack.credits;
        self.overload = ack.overload;
        self.settle(now);
        Ok(())
    }

    /// Lets go of what has its outcome.
    fn settle(&mut self, now: Instant) {
        while self.frames.first() <= self.acked {
            let Some(frame) = self.frames.pop() else { break };
            self.unacked[frame.tier.index()] -= 1;
            if frame.refused {
                continue;
            }
            self.statistics.acked += 1;
            if frame.written {
                self.statistics.record_ack_latency(now.saturating_duration_since(frame.given));
            } else if !frame.held {
                // Below what the welcome acked: the server had it before it was given here.
                self.statistics.held += 1;
            }
        }
        // The server may know what was not written to this connection.
        self.connection.next = self.connection.next.max(self.frames.first());
    }

    /// The server does not take some, or has lost them.
    pub fn refuse(&mut self, refused: &Refused) -> Result<(), ProtocolFault> {
        let end = refused.first.saturating_add(u64::from(refused.count));
        if end > self.connection.known_end {
            return Err(ProtocolFault::NeverSent { sequence: end - 1 });
        }
        let reason = RefusalReason::of_code(refused.reason);
        let acked_end = end.min(self.acked + 1);
        if refused.first < acked_end {
            let count = acked_end - refused.first;
            self.statistics.lost_after_ack += count;
            self.keep(Refusal { first: refused.first, count, reason, after_ack: true });
        }
        for sequence in refused.first.max(acked_end)..end.min(self.frames.next()) {
            // Said again on a later connection: it counts once.
            let Some(frame) = self.frames.get_mut(sequence).filter(|frame| !frame.refused) else { continue };
            frame.refused = true;
            self.statistics.refused += 1;
            self.keep(Refusal { first: sequence, count: 1, reason, after_ack: false });
        }
        Ok(())
    }

    /// Keeps a refusal until somebody takes it, as one with its neighbour where it can be.
    fn keep(&mut self, refusal: Refusal) {
        if let Some(last) = self.refusals.back_mut()
            && (last.first + last.count, last.reason, last.after_ack) == (refusal.first, refusal.reason, refusal.after_ack)
        {
            last.count += refusal.count;
            return;
        }
        if self.refusals.len() == REFUSALS_MAX
            && let Some(oldest) = self.refusals.pop_front()
        {
            self.statistics.refusals_forgotten += oldest.count;
        }
        self.refusals.push_back(refusal);
    }

    /// The level of overload that the server says.
    pub fn set_overload(&mut self, overload: u8) {
        self.overload = overload;
    }

    /// What became of a sequence, as long as its refusal has not been taken.
    pub fn outcome(&self, sequence: u64) -> Option<Outcome> {
        if sequence > self.acked {
            return None;
        }
        let refusal = self.refusals.iter().find(|refusal| refusal.covers(sequence));
        Some(refusal.map_or(Outcome::Acked, |refusal| Outcome::Refused(refusal.reason)))
    }

    pub fn take_refusals(&mut self) -> Vec<Refusal> {
        self.refusals.drain(..).collect()
    }
}

/// Nanoseconds since 1970 of what was so long ago; 0 (no time) before that.
fn unix_ns(wall: SystemTime, age: Duration) -> u64 {
    let time = wall.checked_sub(age).and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    // 2^64 ns are 584 years.
    time.map_or(0, |time| time.as_nanos() as u64)
}
