//! The lines in which connections wait, first come first served.
//!
//! A connection is in at most one line. Lines are linked through the connection table, so joining, leaving from the
//! middle (a close) and taking the first are a few stores, and nothing is allocated.

use super::connection::{ConnectionTable, NOBODY};
use crate::pool::{SlotClass, SlotUse};
use crate::wire::Tier;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line(u8);

impl Line {
    /// How many there are: three tiers' lanes, three tiers' slots, three classes of slots for partial frames, chunks in two ranks, rates.
    pub(super) const COUNT: usize = 12;
    /// Receive chunks on offer again, for connections whose unfinished frame has a slot that will hold all of it: served before the
    /// others, as others may wait for that slot.
    pub(super) const CHUNKS_FIRST: Line = Line(9);
    /// Receive chunks on offer again.
    pub(super) const CHUNKS: Line = Line(10);
    /// Credit of its source: the first in line may have to wait on when others need not.
    pub(super) const RATE: Line = Line(11);
    /// Where connections wait for a slot for a frame of which only a part has come, the largest class first. A line per class: who
    /// waits for a medium slot may do so for one of those that wait for large slots, and must not stand before it.
    pub(super) const PARTIAL: [Line; 3] = [Line(8), Line(7), Line(6)];
    /// In the order in which they are served: slots before lanes, so that a frame that found no slot is not overtaken by those
    /// that found no room; who only waited for credit comes last.
    pub(super) const SERVED: [Line; 10] =
        [Line(3), Line(0), Line(4), Line(1), Line(5), Line(2), Line::PARTIAL[0], Line::PARTIAL[1], Line::PARTIAL[2], Line::RATE];

    /// All of them.
    pub(super) const ALL: [Line; Line::COUNT] = {
        let mut all = [Line(0); Line::COUNT];
        let mut index = 0;
        while index < Line::COUNT {
            all[index] = Line(index as u8);
            index += 1;
        }
        all
    };

    /// Room in a tier's lane, its flow control, or the end of its pause.
    pub(super) const fn lane(tier: Tier) -> Line {
        Line(tier.index() as u8)
    }

    /// A slot for an event of a tier.
    pub(super) const fn slots(tier: Tier) -> Line {
        Line(3 + tier.index() as u8)
    }

    /// A slot of this event class for a frame of which only a part has come.
    pub(super) const fn partial(class: SlotClass) -> Line {
        assert!(class.index() < 3, "frames lie in event slots");
        Line(6 + class.index() as u8)
    }

    /// Whether what is waited for are receive chunks: no bytes are left over, they are still the kernel's.
    pub(super) fn is_for_chunks(self) -> bool {
        self == Line::CHUNKS_FIRST || self == Line::CHUNKS
    }

    /// The tier whose lane this waits for.
    pub(super) fn lane_of(self) -> Option<Tier> {
        Tier::from_byte(self.0)
    }

    /// The tier whose frames must line up here.
    pub(super) fn tier(self) -> Option<Tier> {
        match self.0 {
            0..=5 => Tier::from_byte(self.0 % 3),
            _ => None,
        }
    }

    /// What a slot waited for here is for; `None` where no slot is waited for.
    pub(super) fn slot_use(self) -> Option<SlotUse> {
        match self {
            Line(6..=8) => Some(SlotUse::Partial),
            Line(3..=5) => self.tier().map(SlotUse::of_tier),
            _ => None,
        }
    }

    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
    len: u32,
}

/// All lines.
#[derive(Debug)]
pub(super) struct Lines {
    ends: [Ends; Line::COUNT],
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { ends: [Ends { first: NOBODY, last: NOBODY, len: 0 }; Line::COUNT] }
    }

    pub(super) fn len(&self, line: Line) -> u32 {
        self.ends[line.index()].len
    }

    pub(super) fn is_empty(&self, line: Line) -> bool {
        self.len(line) == 0
    }

    /// Whether nobody waits for anything.
    pub(super) fn all_empty(&self) -> bool {
        self.ends.iter().all(|ends| ends.len == 0)
    }

    /// Whether someone waits for a slot.
    pub(super) fn any_for_slots(&self) -> bool {
        Line::SERVED.into_iter().any(|line| line.slot_use().is_some() && !self.is_empty(line))
    }

    /// Joins at the end.
    pub(super) fn push_back(&mut self, table: &mut ConnectionTable, line: Line, slot: u32) {
        let ends = &mut self.ends[line.index()];
        let connection = table.get_mut(slot);
        debug_assert!(connection.line.is_none(), "a connection is in one line");
        (connection.line, connection.before, connection.behind) = (Some(line), ends.last, NOBODY);
        match ends.last {
            NOBODY => ends.first = slot,
            last => table.get_mut(last).behind = slot,
        }
        ends.last = slot;
        ends.len += 1;
    }

    /// Joins at the head: for the one that was just called up and could not go on.
    pub(super) fn push_front(&mut self, table: &mut ConnectionTable, line: Line, slot: u32) {
        let ends = &mut self.ends[line.index()];
        let connection = table.get_mut(slot);
        debug_assert!(connection.line.is_none(), "a connection is in one line");
        (connection.line, connection.before, connection.behind) = (Some(line), NOBODY, ends.first);
        match ends.first {
            NOBODY => ends.last = slot,
            first => table.get_mut(first).before = slot,
        }
        ends.first = slot;
        ends.len += 1;
    }

    /// The first in line.
    pub(super) fn first(&self, line: Line) -> Option<u32> {
        Some(self.ends[line.index()].first).filter(|first| *first != NOBODY)
    }

    /// The one behind this one in its line.
    pub(super) fn behind(table: &ConnectionTable, slot: u32) -> Option<u32> {
        Some(table.get(slot).behind).filter(|behind| *behind != NOBODY)
    }

    /// The first in line, which leaves it.
    pub(super) fn pop_front(&mut self, table: &mut ConnectionTable, line: Line) -> Option<u32> {
        let first = self.ends[line.index()].first;
        (first != NOBODY).then(|| {
            self.leave(table, first);
            first
        })
    }

    /// Leaves the line it is in, if any.
    pub(super) fn leave(&mut self, table: &mut ConnectionTable, slot: u32) {
        let connection = table.get_mut(slot);
        let Some(line) = connection.line.take() else { return };
        let (before, behind) = (connection.before, connection.behind);
        let ends = &mut self.ends[line.index()];
        match before {
            NOBODY => ends.first = behind,
            before => table.get_mut(before).behind = behind,
        }
        match behind {
            NOBODY => ends.last = before,
            behind => table.get_mut(behind).before = before,
        }
        ends.len -= 1;
    }
}
