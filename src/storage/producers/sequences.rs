//! Which sequences of one producer are known: a floor, and a bitmap of what lies above it.

use std::ops::RangeInclusive;

use super::SESSION_WINDOW_MAX;

const WORDS: usize = SESSION_WINDOW_MAX as usize / 64;

const _: () = assert!(SESSION_WINDOW_MAX.is_multiple_of(64) && SESSION_WINDOW_MAX.is_power_of_two());

/// What a sequence was when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was not known before; it is now.
    New,
    /// It was known: a duplicate.
    Known,
}

/// The known sequences of one producer: all below [`SequenceWindow::floor`], and any of the [`SESSION_WINDOW_MAX`] up to
/// [`SequenceWindow::highest`].
///
/// Sequences are 1 to `u64::MAX - 1`; the two numbers outside of that count as known.
#[derive(Clone)]
pub struct SequenceWindow {
    /// The lowest sequence that is not known.
    floor: u64,
    /// The highest that is known; 0 = none.
    highest: u64,
    /// Sequence `s` of floor..=highest: bit `s % SESSION_WINDOW_MAX`. All other bits mean nothing.
    bits: [u64; WORDS],
}

impl Default for SequenceWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for SequenceWindow {
    /// Whether both know the same.
    fn eq(&self, other: &Self) -> bool {
        let ends = |window: &Self| (window.floor, window.highest);
        ends(self) == ends(other) && self.held_from(self.floor).eq(other.held_from(other.floor))
    }
}

impl Eq for SequenceWindow {}

impl std::fmt::Debug for SequenceWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.held_from(1)).finish()
    }
}

/// Word and bit of a sequence.
fn place(sequence: u64) -> (usize, u32) {
    let bit = sequence % SESSION_WINDOW_MAX;
    ((bit / 64) as usize, (bit % 64) as u32)
}

impl SequenceWindow {
    /// Nothing is known.
    pub const fn new() -> Self {
        Self { floor: 1, highest: 0, bits: [0; WORDS] }
    }

    /// The lowest sequence that is not known.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The highest sequence that is known; 0 = none.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    fn check(&self) {
        debug_assert!(self.floor >= 1 && self.floor <= self.highest + 1);
        debug_assert!(self.span() <= SESSION_WINDOW_MAX, "P1");
        debug_assert!(self.floor > self.highest || !self.bit(self.floor) && self.bit(self.highest));
    }

    fn bit(&self, sequence: u64) -> bool {
        let (word, bit) = place(sequence);
        self.bits[word] >> bit & 1 == 1
    }

    fn set(&mut self, sequence: u64) {
        let (word, bit) = place(sequence);
        self.bits[word] |= 1 << bit;
    }

    /// Whether it is known.
    pub fn contains(&self, sequence: u64) -> bool {
        sequence < self.floor || sequence == u64::MAX || (sequence <= self.highest && self.bit(sequence))
    }

    /// Notes a sequence.
    pub fn observe(&mut self, sequence: u64) -> Seen {
        if sequence == self.floor && self.floor > self.highest && sequence < u64::MAX {
            // In order, without a gap: no bit is needed below the floor.
            (self.floor, self.highest) = (sequence + 1, sequence);
            return Seen::New;
        }
        if self.contains(sequence) {
            return Seen::Known;
        }
        self.raise_highest(sequence);
        self.set(sequence);
        self.raise_floor((self.highest + 1).saturating_sub(SESSION_WINDOW_MAX));
        Seen::New
    }

    /// Calls all below `sequence` known: their producer has their outcomes. Never takes anything back.
    pub fn forget_below(&mut self, sequence: u64) {
        let sequence = sequence.min(u64::MAX - 1);
        if sequence > self.floor {
            self.highest = self.highest.max(sequence - 1);
            self.raise_floor(sequence);
        }
    }

    /// Makes all known that `other` knows.
    pub fn absorb(&mut self, other: &SequenceWindow) {
        self.forget_below(other.floor);
        for range in other.held_from(other.floor) {
            for sequence in range {
                self.observe(sequence);
            }
        }
    }

    /// The bits between the old highest and this one mean something from now on: no.
    fn raise_highest(&mut self, sequence: u64) {
        if sequence <= self.highest {
            return;
        }
        if sequence - self.highest >= SESSION_WINDOW_MAX {
            self.bits.fill(0);
        } else {
            let mut next = self.highest + 1;
            while next <= sequence {
                let (word, bit) = place(next);
                let count = (64 - u64::from(bit)).min(sequence + 1 - next);
                self.bits[word] &= !((u64::MAX >> (64 - count)) << bit);
                next += count;
            }
        }
        self.highest = sequence;
    }

    /// All below `at_least` is known; so is what is held from there on without a gap.
    fn raise_floor(&mut self, at_least: u64) {
        self.floor = self.floor.max(at_least);
        self.floor = self.next_that_is(self.floor, false);
        self.check();
    }

    /// The first sequence from `from` (at least the floor) on that is held, or that is not; one above the highest: there is none.
    fn next_that_is(&self, from: u64, held: bool) -> u64 {
        let mut next = from;
        while next <= self.highest {
            let (word, bit) = place(next);
            let bits = if held { self.bits[word] } else { !self.bits[word] };
            let ahead = (bits >> bit).trailing_zeros();
            if ahead < 64 - bit {
                return (next + u64::from(ahead)).min(self.highest + 1);
            }
            next = next.saturating_add(64 - u64::from(bit));
        }
        self.highest + 1
    }

    /// What is known from `from` on, as ranges in rising order with gaps between.
    pub fn held_from(&self, from: u64) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let below = (from < self.floor).then(|| from..=self.floor - 1);
        let mut next = from.max(self.floor);
        below.into_iter().chain(std::iter::from_fn(move || {
            let first = self.next_that_is(next, true);
            if first > self.highest {
                return None;
            }
            next = self.next_that_is(first, false);
            Some(first..=next - 1)
        }))
    }

    /// How many sequences the bitmap has to tell of: from the floor to the highest.
    pub(super) fn span(&self) -> u64 {
        self.highest + 1 - self.floor
    }

    /// Eight sequences from `floor + 8 * index` on, the lowest in the lowest bit; those above the highest are zero.
    pub(super) fn byte(&self, index: u64) -> u8 {
        let first = self.floor + 8 * index;
        let (word, bit) = place(first);
        // A byte may lie in two words.
        let next = if bit > 56 { self.bits[(word + 1) % WORDS] << (64 - bit) } else { 0 };
        let above = (self.highest - first + 1).min(8);
        (self.bits[word] >> bit | next) as u8 & (u8::MAX >> (8 - above))
    }

    /// A window of its floor, its span and its bytes; `None` where they contradict each other.
    pub(super) fn from_parts(floor: u64, span: u64, bytes: &[u8]) -> Option<Self> {
        let end = floor.checked_add(span)?;
        if floor == 0 || span > SESSION_WINDOW_MAX || bytes.len() as u64 != span.div_ceil(8) {
            return None;
        }
        let mut window = Self { floor, highest: end - 1, bits: [0; WORDS] };
        for (index, byte) in bytes.iter().enumerate() {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                let offset = 8 * index as u64 + bit;
                if offset >= span {
                    return None;
                }
                window.set(floor + offset);
            }
        }
        // The floor is the lowest that is not known, and the highest is known.
        let is_exact = span == 0 || (!window.bit(floor) && window.bit(end - 1));
        is_exact.then_some(window)
    }
}
