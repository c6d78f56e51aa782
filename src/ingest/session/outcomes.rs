//! What has become of a producer's sequences: a ring of words, one for each 64 of them. Pure.
//!
//! ```text
//!   … known │ floor ─────────── acked ──────────── run ─────── highest ─── acked + window │ beyond
//!           └ told, perhaps not heard ┘└ at home, not at the level ┘└ in hand, or not sent yet ┘
//! ```
//!
//! Invariants:
//! - **OC1** `floor - 1 <= acked <= run <= highest` while no client has jumped ahead, and no sequence beyond `acked + window` is taken; so the ring, two
//!   windows long and a word at each end, never has two sequences in one place.
//! - **OC2** `acked` passes a sequence only when all up to it have an outcome: at the level *accepted* when they are taken, but never more than a window
//!   ahead of the first whose event is not home and written; above that when their events are home, and every log sequence among them is below the watermark.
//!   Log sequences are kept as the highest of a word, so it may pass a little late, never early.
//! - **OC3** A refusal stays in the ring until it is told, and is told before an acknowledgement that covers it ([`Outcomes::acked_to_tell`]).
//! - **OC4** No allocation after [`Outcomes::new`].
//! - **OC5** Where each event in the ring is in the log is known exactly, and nothing leaves the ring before it is written; so when the log fails, what
//!   was staged and not written is refused by name, at every level, and nothing else is.

use std::collections::VecDeque;

use crate::metrics::ledger::DropReason;
use crate::storage::producers::{SESSION_WINDOW_MAX, SequenceWindow};
use crate::wire::session::{AckLevel, Refused, WINDOW_MAX};

const _: () = assert!(WINDOW_MAX as u64 == SESSION_WINDOW_MAX, "what a session may send, the table of producers can tell of");

/// Steps of the run whose log sequences are kept apart; beyond, the last takes more in.
const STEPS_MAX: usize = 64;

#[derive(Clone, Copy, Debug, Default)]
struct Word {
    /// In hand, or with an outcome.
    taken: u64,
    /// With an outcome.
    home: u64,
    refused: u64,
    /// Refused, and the client was not told.
    untold: u64,
    /// Log sequences below this hold all that is at home here.
    log_end: u64,
}

/// What a sequence that comes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// It comes for the first time.
    Fresh,
    /// It has an outcome, or will have the one of its event in hand.
    Known,
    /// The client must not send it yet.
    Beyond,
}

/// The run up to a sequence, and below which log sequence all of it lies.
#[derive(Clone, Copy, Debug)]
struct Step {
    run: u64,
    log_end: u64,
}

/// See the module doc.
#[derive(Debug)]
pub(super) struct Outcomes {
    window: u64,
    level: AckLevel,
    words: Box<[Word]>,
    /// By place in the ring: the code of the reason of a refusal; of what is at home otherwise the end of its log, less all above 32 bits.
    notes: Box<[u32]>,
    floor: u64,
    acked: u64,
    run: u64,
    /// The run as far as the log has it.
    settled: u64,
    highest: u64,
    /// Of all up to `run`.
    log_end: u64,
    steps: VecDeque<Step>,
    untold: u32,
    in_hand: u32,
    /// What the client of this connection had been acknowledged before it came.
    came_with: u64,
}

impl Outcomes {
    /// A ring for windows of so many sequences.
    pub(super) fn new(window: u32) -> Self {
        let words = Self::words_of(window);
        Self {
            window: u64::from(window),
            level: AckLevel::Accepted,
            words: vec![Word::default(); words].into(),
            notes: vec![0; words * 64].into(),
            floor: 1,
            acked: 0,
            run: 0,
            settled: 0,
            highest: 0,
            log_end: 0,
            steps: VecDeque::with_capacity(STEPS_MAX),
            untold: 0,
            in_hand: 0,
            came_with: 0,
        }
    }

    fn words_of(window: u32) -> usize {
        (2 * window as usize).div_ceil(64) + 2
    }

    /// Bytes that a ring for such windows takes.
    pub(super) fn memory_bytes(window: u32) -> usize {
        Self::words_of(window) * (size_of::<Word>() + 64 * size_of::<u32>()) + STEPS_MAX * size_of::<Step>()
    }

    /// Every sequence up to this has an outcome at the session's level.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// The highest sequence that was taken.
    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// Events of this producer that are not home.
    pub(super) fn in_hand(&self) -> u32 {
        self.in_hand
    }

    /// Whether refusals wait to be told.
    pub(super) fn has_untold(&self) -> bool {
        self.untold > 0
    }

    /// Whether everything that was taken has its outcome, and the client is owed none.
    pub(super) fn is_settled(&self) -> bool {
        self.in_hand == 0 && self.acked >= self.highest && self.untold == 0
    }

    fn place(&self, sequence: u64) -> (usize, u32) {
        ((sequence / 64 % self.words.len() as u64) as usize, (sequence % 64) as u32)
    }

    fn word(&mut self, sequence: u64) -> (&mut Word, u64) {
        let (word, bit) = self.place(sequence);
        (&mut self.words[word], 1 << bit)
    }

    /// Whether the ring tells of it: what is lower is known, what is higher was never taken.
    fn is_in_ring(&self, sequence: u64) -> bool {
        (self.floor..=self.highest).contains(&sequence)
    }

    fn has(&self, sequence: u64, bits: impl Fn(&Word) -> u64) -> bool {
        let (word, bit) = self.place(sequence);
        self.is_in_ring(sequence) && bits(&self.words[word]) >> bit & 1 == 1
    }

    // -- the begin of a connection --

    /// A fresh producer, of whom `known` was stored, all of it below `log_end` of the log.
    pub(super) fn reset(&mut self, lowest_unacked: u64, known: Option<&SequenceWindow>, log_end: u64) {
        self.words.fill(Word::default());
        self.notes.fill(0);
        self.steps.clear();
        (self.floor, self.acked, self.run, self.highest) =
            (lowest_unacked, lowest_unacked - 1, lowest_unacked - 1, lowest_unacked - 1);
        (self.log_end, self.settled, self.untold, self.in_hand) = (0, self.acked, 0, 0);
        let last = self.acked.saturating_add(self.window);
        for range in known.into_iter().flat_map(|known| known.held_from(lowest_unacked)) {
            for sequence in *range.start()..=(*range.end()).min(last) {
                self.highest = sequence;
                self.note(sequence, log_end as u32);
                let (word, bit) = self.word(sequence);
                (word.taken, word.home, word.log_end) = (word.taken | bit, word.home | bit, log_end);
            }
        }
    }

    /// A connection begins whose client knows all outcomes below `lowest_unacked`. What was refused from there on it has not heard, so it may come
    /// again.
    pub(super) fn begin(&mut self, lowest_unacked: u64, level: AckLevel) {
        (self.level, self.came_with) = (level, lowest_unacked - 1);
        self.steps.clear();
        self.acked = lowest_unacked.max(self.floor) - 1;
        if self.acked > self.highest {
            self.highest = self.acked;
        }
        self.raise_floor();
        (self.run, self.settled) = (self.acked, self.acked);
        let (acked, highest) = (self.acked, self.highest);
        self.untold = 0;
        for sequence in self.floor..=highest {
            let (word, bit) = self.word(sequence);
            word.untold &= !bit;
            if sequence > acked && word.refused & bit != 0 {
                (word.taken, word.home, word.refused) = (word.taken & !bit, word.home & !bit, word.refused & !bit);
            }
        }
    }

    /// Writes which sequences are known, from `lowest_unacked` on, as a welcome tells it. Returns the bytes that matter.
    pub(super) fn held(&self, lowest_unacked: u64, bitmap: &mut [u8]) -> usize {
        let mut bytes = 0;
        bitmap.fill(0);
        for k in 0..(8 * bitmap.len() as u64).min(self.window) {
            let sequence = lowest_unacked.saturating_add(k);
            if sequence < self.floor || self.has(sequence, |word| word.taken & !word.refused) {
                bitmap[k as usize / 8] |= 1 << (k % 8);
                bytes = k as usize / 8 + 1;
            }
        }
        bytes
    }

    // -- sequences come, outcomes come --

    /// What a sequence is.
    #[inline]
    pub(super) fn judge(&self, sequence: u64) -> Judged {
        if sequence > self.acked.saturating_add(self.window) {
            return Judged::Beyond;
        }
        let is_known = sequence < self.floor || sequence == u64::MAX || self.has(sequence, |word| word.taken);
        if is_known { Judged::Known } else { Judged::Fresh }
    }

    /// A fresh sequence has become an event.
    #[inline]
    pub(super) fn take(&mut self, sequence: u64) {
        debug_assert_eq!(self.judge(sequence), Judged::Fresh);
        self.highest = self.highest.max(sequence);
        let (word, bit) = self.word(sequence);
        word.taken |= bit;
        self.in_hand += 1;
    }

    /// An event has come home in good order, below `log_end` of the log.
    pub(super) fn come_home(&mut self, sequence: u64, log_end: u64) {
        self.in_hand -= 1;
        if self.is_in_ring(sequence) {
            self.note(sequence, log_end as u32);
            let (word, bit) = self.word(sequence);
            (word.home, word.log_end) = (word.home | bit, word.log_end.max(log_end));
        }
    }

    /// An event was lost.
    pub(super) fn lose(&mut self, sequence: u64, reason: DropReason) {
        self.in_hand -= 1;
        if self.is_in_ring(sequence) {
            self.note_refusal(sequence, reason);
        }
    }

    /// A fresh sequence has not become an event.
    pub(super) fn refuse(&mut self, sequence: u64, reason: DropReason) {
        self.highest = self.highest.max(sequence);
        self.note_refusal(sequence, reason);
    }

    fn note_refusal(&mut self, sequence: u64, reason: DropReason) {
        self.note(sequence, u32::from(reason.code()));
        let (word, bit) = self.word(sequence);
        (word.taken, word.home) = (word.taken | bit, word.home | bit);
        (word.refused, word.untold) = (word.refused | bit, word.untold | bit);
        self.untold += 1;
    }

    fn note(&mut self, sequence: u64, note: u32) {
        let (place, bit) = self.place(sequence);
        self.notes[place * 64 + bit as usize] = note;
    }

    /// Below which log sequence an event is that has come home: less than 2^32 below the highest of its word.
    fn log_end_of(&self, sequence: u64) -> u64 {
        let (place, bit) = self.place(sequence);
        let highest = self.words[place].log_end;
        highest.saturating_sub(u64::from((highest as u32).wrapping_sub(self.notes[place * 64 + bit as usize])))
    }

    /// The log has failed: of what came home, that which is not below `written` is lost (OC5).
    pub(super) fn lose_unwritten(&mut self, written: u64) {
        for sequence in self.floor..=self.highest {
            if self.has(sequence, |word| word.home & !word.refused) && self.log_end_of(sequence) > written {
                self.note_refusal(sequence, DropReason::StoreUnavailable);
            }
        }
        // What is left is below it, so no acknowledgement has to wait for more.
        self.log_end = self.log_end.min(written);
        self.words.iter_mut().for_each(|word| word.log_end = word.log_end.min(written));
        self.steps.iter_mut().for_each(|step| step.log_end = step.log_end.min(written));
    }

    // -- acknowledgements go --

    /// Moves the acknowledgement as far as it goes, with the log's watermark of the session's level. Once per poll.
    pub(super) fn advance(&mut self, watermark: u64) {
        self.advance_run();
        while let Some(step) = self.steps.front().filter(|step| step.log_end <= watermark) {
            self.settled = step.run;
            self.steps.pop_front();
        }
        let reached = match self.level {
            AckLevel::Accepted => self.run_from(self.acked, |word| word.taken),
            AckLevel::Written | AckLevel::Durable => self.settled,
        };
        self.acked = self.acked.max(reached.min(self.ahead_max()));
        self.raise_floor();
    }

    /// The acknowledgement stays within a window of what is not home and in the log, and of what was refused and not told: both have to stay in the
    /// ring.
    fn ahead_max(&self) -> u64 {
        let lowest = self.first_untold().map_or(self.settled, |untold| self.settled.min(untold - 1));
        lowest.saturating_add(self.window)
    }

    fn advance_run(&mut self) {
        let before = self.run;
        self.run = self.run_from(before, |word| word.home);
        if self.run == before {
            return;
        }
        for first in (before / 64..=self.run / 64).map(|word| word * 64) {
            let (word, _) = self.place(first);
            self.log_end = self.log_end.max(self.words[word].log_end);
        }
        let step = Step { run: self.run, log_end: self.log_end };
        let is_full = self.steps.len() == STEPS_MAX;
        match self.steps.back_mut().filter(|last| is_full || last.log_end == step.log_end) {
            Some(last) => *last = step,
            None => self.steps.push_back(step),
        }
    }

    /// How far the bits go on behind a sequence without a gap.
    fn run_from(&self, behind: u64, bits: impl Fn(&Word) -> u64) -> u64 {
        let mut last = behind;
        while last < self.highest {
            let (word, bit) = self.place(last + 1);
            let ahead = u64::from((bits(&self.words[word]) >> bit).trailing_ones());
            last += ahead;
            if ahead == 0 || ahead < 64 - u64::from(bit) {
                break;
            }
        }
        last.min(self.highest)
    }

    /// Forgets what the client must have heard of by now: it can't have sent a window beyond it otherwise.
    fn raise_floor(&mut self) {
        let floor = (self.acked + 1).saturating_sub(self.window).min(self.first_untold().unwrap_or(u64::MAX)).max(self.floor);
        let words = self.words.len() as u64;
        for word in (self.floor / 64..floor / 64).take(self.words.len()) {
            let place = (word % words) as usize;
            self.words[place] = Word::default();
            self.notes[place * 64..][..64].fill(0);
        }
        self.floor = floor;
    }

    /// The next refusal to tell, lowest first.
    pub(super) fn next_refusal(&mut self) -> Option<Refused> {
        let first = self.first_untold()?;
        let reason_of = |outcomes: &Self, sequence| {
            let (place, bit) = outcomes.place(sequence);
            outcomes.notes[place * 64 + bit as usize] as u8
        };
        let reason = reason_of(self, first);
        let mut count = 0;
        while self.has(first + u64::from(count), |word| word.untold) && reason_of(self, first + u64::from(count)) == reason {
            let (word, bit) = self.word(first + u64::from(count));
            word.untold &= !bit;
            count += 1;
        }
        self.untold -= count;
        Some(Refused { first, count, reason })
    }

    fn first_untold(&self) -> Option<u64> {
        if self.untold == 0 {
            return None;
        }
        let mut from = self.floor;
        while from <= self.highest {
            let (word, bit) = self.place(from);
            let ahead = (self.words[word].untold >> bit).trailing_zeros();
            if ahead < 64 - bit {
                return Some(from + u64::from(ahead)).filter(|sequence| *sequence <= self.highest);
            }
            from += u64::from(64 - bit);
        }
        None
    }

    /// How far may be acknowledged now: not beyond a refusal that is still to be told (OC3), and not back behind what the client came with (an event
    /// that was *accepted* on an earlier connection may be lost on this one).
    pub(super) fn acked_to_tell(&self) -> u64 {
        self.first_untold().map_or(self.acked, |untold| self.acked.min(untold - 1)).max(self.came_with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: u64 = 0;
    const EVER: u64 = u64::MAX;

    fn fresh(window: u32, level: AckLevel) -> Outcomes {
        let mut outcomes = Outcomes::new(window);
        outcomes.reset(1, None, 0);
        outcomes.begin(1, level);
        outcomes
    }

    #[test]
    fn what_is_lost_after_its_client_came_back_takes_no_acknowledgement_back() {
        let mut outcomes = Outcomes::new(64);
        outcomes.reset(1, None, 0);
        outcomes.begin(1, AckLevel::Accepted);
        (1..=3).for_each(|sequence| outcomes.take(sequence));
        outcomes.advance(0);
        assert_eq!(outcomes.acked_to_tell(), 3);
        outcomes.begin(4, AckLevel::Accepted);
        outcomes.lose(1, DropReason::QueueFull);
        assert_eq!((outcomes.acked_to_tell(), outcomes.has_untold()), (3, true));
        assert_eq!(outcomes.next_refusal().map(|refused| refused.first), Some(1), "it is told all the same");
    }

    #[test]
    fn the_acknowledgement_waits_for_the_lowest_and_for_the_watermark() {
        let mut outcomes = fresh(128, AckLevel::Written);
        (1..=5).for_each(|sequence| outcomes.take(sequence));
        for (sequence, log) in [(2, 10), (3, 11), (1, 12)] {
            outcomes.come_home(sequence, log + 1);
        }
        outcomes.advance(12);
        assert_eq!(outcomes.acked(), 0, "sequence 1 is at 12 in the log, which is not written");
        outcomes.advance(13);
        assert_eq!(outcomes.acked(), 3);
        assert_eq!((outcomes.in_hand(), outcomes.judge(4), outcomes.judge(6)), (2, Judged::Known, Judged::Fresh));
    }

    #[test]
    fn later_events_hold_earlier_ones_up_by_no_more_than_a_poll() {
        let mut outcomes = fresh(128, AckLevel::Durable);
        (1..=6).for_each(|sequence| outcomes.take(sequence));
        (1..=3).for_each(|sequence| outcomes.come_home(sequence, sequence));
        outcomes.advance(NEVER);
        (4..=6).for_each(|sequence| outcomes.come_home(sequence, sequence));
        outcomes.advance(3);
        assert_eq!(outcomes.acked(), 3);
    }

    #[test]
    fn accepted_is_acknowledged_when_taken_and_a_window_ahead_at_most() {
        let mut outcomes = fresh(64, AckLevel::Accepted);
        for sequence in 1..=64 {
            outcomes.take(sequence);
        }
        outcomes.advance(NEVER);
        assert_eq!(outcomes.acked(), 64);
        (65..=128).for_each(|sequence| outcomes.take(sequence));
        outcomes.advance(NEVER);
        assert_eq!((outcomes.acked(), outcomes.judge(129)), (64, Judged::Beyond));
        outcomes.lose(1, DropReason::QueueFull);
        outcomes.advance(NEVER);
        assert_eq!(outcomes.acked(), 64, "the refusal is not told");
        assert_eq!(outcomes.next_refusal(), Some(Refused { first: 1, count: 1, reason: DropReason::QueueFull.code() }));
        outcomes.advance(NEVER);
        assert_eq!((outcomes.acked(), outcomes.judge(129)), (65, Judged::Fresh));
    }

    #[test]
    fn refusals_come_before_the_acknowledgement_that_covers_them_as_ranges() {
        let mut outcomes = fresh(128, AckLevel::Written);
        for sequence in 1..=70 {
            match sequence {
                60..=66 => outcomes.refuse(sequence, DropReason::EmergencyDrop),
                67 => outcomes.refuse(sequence, DropReason::BackpressureDrop),
                _ => {
                    outcomes.take(sequence);
                    outcomes.come_home(sequence, 0);
                }
            }
        }
        outcomes.advance(EVER);
        assert_eq!((outcomes.acked(), outcomes.acked_to_tell()), (70, 59));
        let range = |first, count, reason: DropReason| Some(Refused { first, count, reason: reason.code() });
        assert_eq!(outcomes.next_refusal(), range(60, 7, DropReason::EmergencyDrop));
        assert_eq!(outcomes.acked_to_tell(), 66);
        assert_eq!(outcomes.next_refusal(), range(67, 1, DropReason::BackpressureDrop));
        assert_eq!((outcomes.next_refusal(), outcomes.acked_to_tell(), outcomes.is_settled()), (None, 70, true));
    }

    #[test]
    fn what_was_refused_and_not_heard_may_come_again() {
        let mut outcomes = fresh(128, AckLevel::Written);
        outcomes.take(1);
        outcomes.come_home(1, 1);
        outcomes.refuse(2, DropReason::EmergencyDrop);
        outcomes.take(3);
        outcomes.advance(EVER);
        assert_eq!(outcomes.acked(), 2);
        outcomes.begin(1, AckLevel::Written);
        let mut bitmap = [0; 16];
        assert_eq!((outcomes.held(1, &mut bitmap), bitmap[0]), (1, 0b101));
        outcomes.advance(EVER);
        assert_eq!((outcomes.acked(), outcomes.has_untold()), (1, false));
        assert_eq!((outcomes.judge(2), outcomes.judge(3)), (Judged::Fresh, Judged::Known));
        outcomes.take(2);
        (2..=3).for_each(|sequence| outcomes.come_home(sequence, 1));
        outcomes.advance(EVER);
        assert_eq!((outcomes.acked(), outcomes.is_settled()), (3, true));
    }

    #[test]
    fn what_the_log_holds_is_known_and_acknowledged_once_it_is_at_the_level() {
        let mut known = SequenceWindow::new();
        for sequence in [5, 6, 8] {
            known.observe(sequence);
        }
        let mut outcomes = Outcomes::new(128);
        outcomes.reset(5, Some(&known), 100);
        outcomes.begin(5, AckLevel::Durable);
        assert_eq!([4, 5, 6, 7, 8].map(|sequence| outcomes.judge(sequence)), {
            use Judged::{Fresh, Known};
            [Known, Known, Known, Fresh, Known]
        });
        outcomes.advance(99);
        assert_eq!(outcomes.acked(), 4);
        outcomes.advance(100);
        assert_eq!(outcomes.acked(), 6);
    }

    #[test]
    fn a_client_may_jump_ahead_as_far_as_it_likes() {
        let mut outcomes = fresh(64, AckLevel::Written);
        outcomes.take(1);
        outcomes.begin(1_000_000, AckLevel::Written);
        assert_eq!((outcomes.acked(), outcomes.judge(1_000_000), outcomes.judge(7)), (999_999, Judged::Fresh, Judged::Known));
        outcomes.come_home(1, 9);
        assert_eq!(outcomes.in_hand(), 0);
        outcomes.begin(u64::MAX, AckLevel::Written);
        assert_eq!(outcomes.judge(u64::MAX), Judged::Known, "the last number names no event");
    }

    /// The ring against a plain map, over many rounds of it.
    #[test]
    fn the_ring_does_what_a_map_does() {
        let mut outcomes = fresh(64, AckLevel::Written);
        let mut random = 7_u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        };
        let (mut sent, mut in_hand, mut homes, mut refused, mut log) = (0_u64, Vec::new(), Vec::new(), Vec::new(), 0);
        while sent < 20_000 {
            match next() % 3 {
                0 if outcomes.judge(sent + 1) == Judged::Fresh => {
                    sent += 1;
                    outcomes.take(sent);
                    in_hand.push(sent);
                }
                1 if !in_hand.is_empty() => {
                    let sequence = in_hand.swap_remove(next() as usize % in_hand.len());
                    if next() % 5 == 0 {
                        outcomes.lose(sequence, DropReason::QueueFull);
                        refused.push(sequence);
                    } else {
                        log += 1;
                        outcomes.come_home(sequence, log);
                    }
                    homes.push(sequence);
                }
                _ => {
                    outcomes.advance(log);
                    let lowest = in_hand.iter().min().map_or(sent, |lowest| lowest - 1);
                    assert_eq!(outcomes.acked(), lowest, "all below are at home, and all of the log is written");
                    while let Some(range) = outcomes.next_refusal() {
                        for sequence in range.first..range.first + u64::from(range.count) {
                            let place = refused.iter().position(|other| *other == sequence).expect("it was refused, once");
                            refused.swap_remove(place);
                        }
                    }
                    assert!(refused.is_empty(), "all refusals were told");
                }
            }
        }
    }

    #[test]
    fn when_the_log_fails_what_is_not_written_is_refused_and_nothing_else() {
        for (level, durable) in [(AckLevel::Accepted, 7), (AckLevel::Written, 7), (AckLevel::Durable, 4)] {
            let watermark = if level == AckLevel::Durable { durable } else { 7 };
            let mut outcomes = fresh(128, level);
            (1..=6).for_each(|sequence| outcomes.take(sequence));
            // In another order than their numbers, with others between them, across 2^32.
            let base = (1 << 32) - 4;
            for (sequence, log) in [(1, 3), (2, 9), (3, 4), (4, 6), (5, 7)] {
                outcomes.come_home(sequence, base + log);
            }
            outcomes.advance(base + watermark);
            outcomes.lose_unwritten(base + 7);
            outcomes.lose(6, DropReason::StoreUnavailable);
            outcomes.advance(base + watermark);
            let refused = |first| Refused { first, count: 1, reason: DropReason::StoreUnavailable.code() };
            assert_eq!(outcomes.next_refusal(), Some(refused(2)), "{level:?}");
            assert_eq!(outcomes.next_refusal(), Some(refused(6)));
            assert_eq!(outcomes.next_refusal(), None);
            outcomes.advance(base + watermark);
            // Of what was written and not synced nobody knows.
            assert_eq!(outcomes.acked_to_tell(), if level == AckLevel::Durable { 0 } else { 6 }, "{level:?}");
        }
    }
}
