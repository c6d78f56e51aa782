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
//!   was staged and not written is refused by name, at every level, and nothing else is. From then on a refusal has no other reason: no sequence is
//!   called gone that may be in the log.
//! - **OC6** Every sequence up to `acked + window` that the log knew when the seat was taken is at home in the ring before its client may send it: where
//!   the window was wider in an earlier run of the engine, the log knows more than the ring has room for, and tells of it bit by bit.

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
    has_log_failed: bool,
    /// The log knew sequences up to this when the seat was taken, all of them below `known_log_end` of the log.
    known_to: u64,
    /// Of them the ring tells of those up to this (OC6).
    learned_to: u64,
    known_log_end: u64,
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
            has_log_failed: false,
            known_to: 0,
            learned_to: 0,
            known_log_end: 0,
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
        self.highest.max(self.known_to)
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
        (self.known_to, self.learned_to) = (known.map_or(0, SequenceWindow::highest), self.acked);
        self.known_log_end = log_end;
        self.learn(known);
    }

    /// Whether the log knows sequences that may come now and that the ring does not tell of (OC6).
    pub(super) fn has_to_learn(&self) -> bool {
        self.learned_to < self.known_to.min(self.acked.saturating_add(self.window))
    }

    /// Takes in what the log knows of the sequences that may come now; `None`: it has forgotten the producer.
    pub(super) fn learn(&mut self, known: Option<&SequenceWindow>) {
        let last = self.acked.saturating_add(self.window);
        let from = self.learned_to.max(self.acked) + 1;
        for sequence in known.into_iter().flat_map(|known| known.held_from(from)).flatten() {
            if sequence > last {
                break;
            }
            self.highest = self.highest.max(sequence);
            self.note(sequence, self.known_log_end as u32);
            let log_end = self.known_log_end;
            let (word, bit) = self.word(sequence);
            (word.taken, word.home, word.log_end) = (word.taken | bit, word.home | bit, word.log_end.max(log_end));
        }
        self.learned_to = last;
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
        // Whatever it is now: its event may have been on its way into the log when that failed, and may be there.
        let reason = if self.has_log_failed { DropReason::StoreUnavailable } else { reason };
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
        self.has_log_failed = true;
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
