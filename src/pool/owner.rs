//! The owner's half of a pool: free lists, quotas, and what is lent to the kernel. Lives on one thread.

use std::sync::Arc;

use super::{
    BufferId, EVENT_HEADER_BYTES, Ended, Event, EventFlags, EventHeader, LentBuffer, OwnerLayout, PoolCounters, SharedPool, Slot,
    SlotClass, SlotUse, Ticket,
};
use crate::sys::io::GroupId;
use crate::wire::Tier;

/// How many slots are where, for gauges and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerGauges {
    /// By use and class.
    pub in_use: [[u32; SlotClass::COUNT]; SlotUse::COUNT],
    /// By class.
    pub free: [u32; SlotClass::COUNT],
    /// By class.
    pub total: [u32; SlotClass::COUNT],
}

/// Lent buffers of one group: by buffer id, the slot behind it.
#[derive(Debug, Default)]
struct LentTable {
    slots: Vec<Option<Ticket>>,
    free_ids: Vec<u16>,
}

/// What one use holds of one class, and may hold (P5).
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    in_use: u32,
    quota: u32,
    reserve: u32,
}

/// What a slot is: its class, which never changes, its use, and whether a session waits to hear of it, in one byte, so that a slot that comes
/// home needs one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark(u8);

impl Mark {
    const USE_BITS: u32 = 3;
    const FREE: u8 = (1 << Self::USE_BITS) - 1;
    const CLASS: u8 = 0b111 << Self::USE_BITS;
    /// An event of a session is in it (O2).
    const SESSION: u8 = 1 << 6;
    /// That event has come home, and its outcome was not taken yet (O3).
    const ENDED: u8 = 1 << 7;
    /// No slot's: free, and not yet.
    const NONE: Mark = Mark(Self::ENDED | Self::FREE);

    fn free(class: usize) -> Self {
        Self((class as u8) << Self::USE_BITS | Self::FREE)
    }
    fn used(class: usize, used_for: SlotUse) -> Self {
        Self((class as u8) << Self::USE_BITS | used_for as u8)
    }
    fn class(self) -> usize {
        ((self.0 & Self::CLASS) >> Self::USE_BITS) as usize
    }
    /// The use by index; [`Mark::FREE`] if it has none.
    fn used_for(self) -> usize {
        (self.0 & Self::FREE) as usize
    }
    fn is_free(self) -> bool {
        self.0 & Self::FREE == Self::FREE
    }
}

const _: () = assert!(SlotUse::COUNT <= Mark::FREE as usize);
const _: () = assert!(SlotClass::COUNT <= 1 << (Mark::CLASS.count_ones()));

/// Free slots of one class, last in, first out: the hottest slot is reused first. Each slot has one place in it (P1).
#[derive(Debug)]
struct FreeList {
    slots: Box<[u32]>,
    len: usize,
}

impl FreeList {
    /// All of `slots`, the lowest (nearest pages) to be used first.
    fn full(slots: std::ops::Range<u32>) -> Self {
        Self { len: slots.len(), slots: slots.rev().collect() }
    }

    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn pop(&mut self) -> Option<u32> {
        self.len = self.len.checked_sub(1)?;
        Some(self.slots[self.len])
    }

    #[inline]
    fn push(&mut self, slot: u32) {
        self.slots[self.len] = slot;
        self.len += 1;
    }
}

/// Slots that come home one after the other with the same mark: what changes with each of them is kept here, in registers, and told to the
/// shelf when the mark changes. (Counted one by one, a slot's way out and home takes a sixth more instructions; `make micro` has them.)
struct Run {
    mark: Mark,
    /// The length of the class's free list, those of the run included.
    free: usize,
}

/// The free lists and who has what. Apart from the owner, so that slots can come home while the pool is borrowed.
#[derive(Debug)]
struct Shelf {
    /// The owner's first slot number.
    first: u32,
    free: [FreeList; SlotClass::COUNT],
    /// By slot number, less `first`.
    marks: Box<[Mark]>,
    /// By class and use.
    shares: [[Share; SlotUse::COUNT]; SlotClass::COUNT],
    /// Slots of sessions' events that have come home, their outcomes not taken yet.
    ended: Vec<u32>,
}

impl Shelf {
    fn new(first: u32, layout: &OwnerLayout) -> Self {
        let mut next = first;
        let mut marks = Vec::new();
        let free = std::array::from_fn(|class| {
            let slots = next..next + layout.slots[class];
            next = slots.end;
            marks.extend(slots.clone().map(|_| Mark::free(class)));
            FreeList::full(slots)
        });
        let share = |class: usize, used_for: usize| Share {
            in_use: 0,
            quota: layout.quota[used_for][class],
            reserve: layout.reserve[used_for][class],
        };
        let shares = std::array::from_fn(|class| std::array::from_fn(|used_for| share(class, used_for)));
        let events = SlotClass::ALL.into_iter().filter(|class| class.holds_events());
        let ended = Vec::with_capacity(events.map(|class| layout.slots[class.index()] as usize).sum());
        Self { first, free, marks: marks.into(), shares, ended }
    }

    /// Where the slot's mark is.
    #[inline]
    fn place(&self, slot: u32) -> usize {
        slot.wrapping_sub(self.first) as usize // Beyond `marks` for a slot of another owner: the index check panics.
    }

    #[inline]
    fn has_room(&self, class: SlotClass, used_for: SlotUse) -> bool {
        let share = &self.shares[class.index()][used_for.index()];
        share.in_use < share.quota && self.free[class.index()].len() > share.reserve as usize
    }

    /// Takes the slot that came home last. The caller has asked `has_room`.
    #[inline]
    fn take(&mut self, class: SlotClass, used_for: SlotUse) -> Option<u32> {
        let slot = self.free[class.index()].pop()?;
        let place = self.place(slot);
        debug_assert!(self.marks[place].is_free(), "P1: a slot in a free list is free");
        self.marks[place] = Mark::used(class.index(), used_for);
        self.shares[class.index()][used_for.index()].in_use += 1;
        Some(slot)
    }

    /// Puts a slot that has come home where it belongs: with the free ones, or with those of which a session is to hear.
    #[inline]
    fn put(&mut self, slot: u32) {
        let place = self.place(slot);
        let mark = self.marks[place];
        assert!(!mark.is_free() && mark.0 & Mark::ENDED == 0, "P1: slot {slot} came home twice");
        if mark.0 & Mark::SESSION != 0 {
            self.marks[place] = Mark(mark.0 | Mark::ENDED);
            return self.ended.push(slot); // Never grows: each event slot has one place in it (P1).
        }
        self.free(place, slot);
    }

    #[inline]
    fn free(&mut self, place: usize, slot: u32) {
        let mark = self.marks[place];
        self.marks[place] = Mark::free(mark.class());
        self.shares[mark.class()][mark.used_for()].in_use -= 1;
        self.free[mark.class()].push(slot);
    }

    /// Before the first slot of a chain.
    fn no_run(&self) -> Run {
        Run { mark: Mark::NONE, free: self.free[Mark::NONE.class()].len() }
    }

    /// As [`Shelf::put`], for slots of a chain; [`Shelf::end_run`] is then due.
    #[inline]
    fn put_in_run(&mut self, slot: u32, run: &mut Run) {
        let place = self.place(slot);
        if self.marks[place] != run.mark {
            self.end_run(run);
            let mark = self.marks[place];
            if mark.is_free() || mark.0 & Mark::SESSION != 0 {
                *run = self.no_run();
                return self.put(slot);
            }
            *run = Run { mark, free: self.free[mark.class()].len() };
        }
        let class = run.mark.class();
        self.marks[place] = Mark::free(class);
        self.free[class].slots[run.free] = slot;
        run.free += 1;
    }

    fn end_run(&mut self, run: &Run) {
        let list = &mut self.free[run.mark.class()];
        let came = run.free - list.len;
        list.len = run.free;
        if came > 0 {
            self.shares[run.mark.class()][run.mark.used_for()].in_use -= came as u32;
        }
    }
}

/// The one thread-bound owner of a range of slots.
#[derive(Debug)]
pub struct PoolOwner {
    shared: Arc<SharedPool>,
    id: u8,
    shelf: Shelf,
    lent: [LentTable; GroupId::COUNT],
    counters: Arc<PoolCounters>,
    /// Not Sync, by intent: free lists belong to one thread.
    _not_sync: std::marker::PhantomData<std::cell::Cell<()>>,
}

impl PoolOwner {
    pub(super) fn new(shared: Arc<SharedPool>, id: u8, first_slot: u32, layout: &OwnerLayout) -> Self {
        let counters = Arc::new(PoolCounters::default());
        for (counter, slots) in counters.slots.iter().zip(&layout.slots) {
            counter.set(u64::from(*slots));
        }
        let mut owner = Self {
            shared,
            id,
            shelf: Shelf::new(first_slot, layout),
            lent: Default::default(),
            counters,
            _not_sync: std::marker::PhantomData,
        };
        owner.collect();
        owner
    }

    /// The pool this is a part of.
    pub fn shared(&self) -> &Arc<SharedPool> {
        &self.shared
    }

    /// This owner's number in tickets.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// The smallest event class that holds `payload_bytes` of topic and body; `None` beyond the large one.
    #[inline]
    pub fn class_for(&self, payload_bytes: usize) -> Option<SlotClass> {
        [SlotClass::Small, SlotClass::Medium, SlotClass::Large]
            .into_iter()
            .find(|class| payload_bytes <= self.shared.strides().payload_bytes(*class))
    }

    /// Whether `used_for` may take a slot of `class` now (P5 and the free list; what is on its way home not counted).
    #[inline]
    pub fn has_room(&self, class: SlotClass, used_for: SlotUse) -> bool {
        self.shelf.has_room(class, used_for)
    }

    /// Whether the quota (P5) alone admits one more.
    #[inline]
    pub fn within_quota(&self, class: SlotClass, used_for: SlotUse) -> bool {
        let share = &self.shelf.shares[class.index()][used_for.index()];
        share.in_use < share.quota
    }

    /// Takes a slot; looks at what came home if there seems to be none. `None`: quota or reserve reached, or class exhausted.
    #[inline]
    pub fn acquire(&mut self, class: SlotClass, used_for: SlotUse) -> Option<Slot> {
        if !self.has_room(class, used_for) && !self.finds_room(class, used_for) {
            return None;
        }
        let slot = self.shelf.take(class, used_for)?;
        Some(Slot(Ticket::new(slot, class, self.id, self.shared.stamp())))
    }

    #[cold]
    fn finds_room(&mut self, class: SlotClass, used_for: SlotUse) -> bool {
        self.collect();
        let found = self.has_room(class, used_for);
        if !found {
            self.counters.refused[class.index()].add(1);
        }
        found
    }

    /// Takes everything home that was released. Once per poll.
    pub fn collect(&mut self) {
        let shelf = &mut self.shelf;
        let mut run = shelf.no_run();
        self.shared.owners[self.id as usize].stack.take(&self.shared.links, |slot| shelf.put_in_run(slot, &mut run));
        shelf.end_run(&run);
        for (gauge, free) in self.counters.free.iter().zip(&self.shelf.free) {
            gauge.set(free.len() as u64);
        }
        self.counters.events_out.set(self.events_out());
    }

    /// This owner's numbers, for export.
    pub fn counters(&self) -> Arc<PoolCounters> {
        self.counters.clone()
    }

    /// Says to releasing threads that this owner waits for slots; see the pool's waker. Look once more with
    /// [`PoolOwner::collect`] after this.
    pub fn announce_starved(&self, starved: bool) {
        self.shared.owners[self.id as usize].announce_starved(starved);
    }

    /// Gives an unsealed slot back.
    ///
    /// # Panics
    /// If it is another owner's (P2).
    pub fn give_back(&mut self, slot: Slot) {
        let ticket = slot.into_ticket();
        self.assert_own(ticket);
        self.shelf.put(ticket.slot());
    }

    /// All bytes of a slot that is in the owner's hands.
    #[inline]
    pub fn bytes_mut<'a>(&'a mut self, slot: &'a mut Slot) -> &'a mut [u8] {
        let (start, len) = self.shared.locate(slot.0);
        // SAFETY: P1, the exclusively borrowed ticket is the only way to these bytes.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// All bytes of a slot that is in the owner's hands, to read while the owner goes on (parsing a chunk into slots).
    #[inline]
    pub fn bytes<'a>(shared: &'a SharedPool, slot: &'a Slot) -> &'a [u8] {
        let (start, len) = shared.locate(slot.0);
        // SAFETY: P1, the borrowed ticket lends its bytes for 'a; whoever writes needs the same ticket exclusively.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Changes what a slot is held for, if the quota admits it. A slot that the kernel filled also counts against the reserve of
    /// its new use, as another has to take its place.
    ///
    /// # Errors
    /// Gives the slot back unchanged when the new use may have no more.
    ///
    /// # Panics
    /// If it is another owner's (P2).
    pub fn change_use(&mut self, slot: Slot, used_for: SlotUse) -> Result<Slot, Slot> {
        self.assert_own(slot.0);
        let class = slot.class();
        let place = self.shelf.place(slot.0.slot());
        let now = self.shelf.marks[place].used_for();
        if now == used_for.index() {
            return Ok(slot);
        }
        let admitted = if now == SlotUse::Kernel.index() {
            self.has_room(class, used_for) || self.finds_room(class, used_for)
        } else {
            self.within_quota(class, used_for)
        };
        if !admitted {
            return Err(slot);
        }
        self.shelf.shares[class.index()][now].in_use -= 1;
        self.shelf.shares[class.index()][used_for.index()].in_use += 1;
        self.shelf.marks[place] = Mark::used(class.index(), used_for);
        Ok(slot)
    }

    /// Turns a slot whose payload (topic, body) is in place into an event.
    ///
    /// # Panics
    /// If the lengths in the header exceed the slot.
    #[inline]
    pub fn seal(&mut self, slot: Slot, header: EventHeader) -> Event {
        self.seal_with(slot, header, &[], &[])
    }

    /// Copies a frame's topic and body into a fresh slot of its tier. `None`: no slot for this tier and size.
    #[inline(always)] // As `seal_with`.
    pub fn store(&mut self, header: EventHeader, payload: &[u8]) -> Option<Event> {
        self.store_split(header, payload, &[])
    }

    /// As [`PoolOwner::store`], of a payload in two parts.
    ///
    /// # Panics
    /// If they are not as long as the header says.
    #[inline(always)] // As `seal_with`.
    pub fn store_split(&mut self, header: EventHeader, front: &[u8], back: &[u8]) -> Option<Event> {
        let payload_bytes = front.len() + back.len();
        assert!(payload_bytes == header.topic_len as usize + header.body_len as usize, "the payload of another header");
        let class = self.class_for(payload_bytes)?;
        let slot = self.acquire(class, SlotUse::of_tier(header.tier))?;
        Some(self.seal_with(slot, header, front, back))
    }

    /// Writes a header, and what of the payload is not in place yet, and makes the slot an event: one look for all of it.
    #[inline(always)] // In the loop over frames it is most of the work.
    fn seal_with(&mut self, slot: Slot, header: EventHeader, front: &[u8], back: &[u8]) -> Event {
        let ticket = slot.into_ticket();
        let (start, stride) = self.shared.locate(ticket);
        let payload_bytes = (header.topic_len as usize + header.body_len as usize).max(front.len() + back.len());
        assert!(EVENT_HEADER_BYTES + payload_bytes <= stride, "event beyond its slot");
        if header.flags.has(EventFlags::SESSION) {
            let place = self.shelf.place(ticket.slot());
            self.shelf.marks[place].0 |= Mark::SESSION;
        }
        // SAFETY: P1, we held the only ticket: nobody else sees these bytes. The slot is at least a header long and 64-byte aligned; the
        // assertion keeps both parts inside it, and they are not in it, as whoever lends them holds a ticket of its own.
        unsafe {
            header.write_to(start.cast());
            let payload = start.add(EVENT_HEADER_BYTES);
            std::ptr::copy_nonoverlapping(front.as_ptr(), payload, front.len());
            std::ptr::copy_nonoverlapping(back.as_ptr(), payload.add(front.len()), back.len());
        }
        Event(ticket)
    }

    /// Prepares a group for up to `buffers` lent at a time. At start, as it allocates.
    ///
    /// # Panics
    /// If buffers of this group are lent.
    pub fn open_group(&mut self, group: GroupId, buffers: u16) {
        assert_eq!(self.lent_count(group), 0, "a group is opened before it lends");
        let table = &mut self.lent[group as usize];
        table.slots = vec![None; buffers as usize];
        table.free_ids = (0..buffers).rev().collect();
    }

    /// Lends the slot's bytes from `offset` on to the kernel.
    ///
    /// # Errors
    /// Gives the slot back when the group has no free buffer id.
    ///
    /// # Panics
    /// If `offset` is beyond the slot, or the slot is another owner's (P2).
    pub fn lend(&mut self, slot: Slot, group: GroupId, offset: usize) -> Result<LentBuffer, Slot> {
        self.assert_own(slot.0);
        let (start, stride) = self.shared.locate(slot.0);
        let table = &mut self.lent[group as usize];
        let Some(id) = table.free_ids.pop() else { return Err(slot) };
        assert!(offset < stride, "a lent buffer is not empty");
        table.slots[id as usize] = Some(slot.into_ticket());
        // SAFETY: `offset` is inside the slot.
        Ok(LentBuffer { start: unsafe { start.add(offset) }, len: (stride - offset) as u32, id: (group, id) })
    }

    /// Takes a buffer back that came with a completion.
    ///
    /// # Panics
    /// If that buffer was not lent: the ring broke R2.
    #[inline]
    pub fn take_back(&mut self, buffer: BufferId) -> Slot {
        let table = &mut self.lent[buffer.group as usize];
        let ticket = table.slots[buffer.id as usize].take().expect("R2: a buffer comes back once");
        table.free_ids.push(buffer.id);
        Slot(ticket)
    }

    /// Buffers of a group that the kernel has.
    pub fn lent_count(&self, group: GroupId) -> usize {
        let table = &self.lent[group as usize];
        table.slots.len() - table.free_ids.len()
    }

    /// Takes back everything lent: only after the ring is closed and the kernel is known to be done with it.
    pub fn take_back_all(&mut self) {
        for group in GroupId::ALL {
            for id in 0..self.lent[group as usize].slots.len() {
                if let Some(ticket) = self.lent[group as usize].slots[id].take() {
                    self.lent[group as usize].free_ids.push(id as u16);
                    self.shelf.put(ticket.slot());
                }
            }
        }
    }

    /// The outcome of an event of a session that has come home; [`PoolOwner::free_ended`] is then due. Outcomes come in no order, those of
    /// different events in any. Slots without one are freed on the way.
    pub fn ended(&mut self) -> Option<Ended> {
        while let Some(&slot) = self.shelf.ended.last() {
            let class = SlotClass::ALL[self.shelf.marks[self.shelf.place(slot)].class()];
            let header = self.shared.header_at_home(Ticket::new(slot, class, self.id, self.shared.stamp()));
            if let Some(ended) = header.left_outcome() {
                return Some(ended);
            }
            self.free_ended();
        }
        None
    }

    /// The outcome that [`PoolOwner::ended`] told has been taken: its slot is free (O3).
    pub fn free_ended(&mut self) {
        if let Some(slot) = self.shelf.ended.pop() {
            let place = self.shelf.place(slot);
            self.shelf.free(place, slot);
        }
    }

    /// Slots that have not come home, after a look.
    pub fn missing(&mut self) -> u64 {
        self.collect();
        let gauges = self.gauges();
        let out: u64 = gauges.total.iter().zip(&gauges.free).map(|(total, free)| u64::from(total - free)).sum();
        out - self.shelf.ended.len() as u64
    }

    /// Where every slot is.
    pub fn gauges(&self) -> OwnerGauges {
        let shelf = &self.shelf;
        let free: [u32; SlotClass::COUNT] = std::array::from_fn(|class| shelf.free[class].len() as u32);
        let in_use = std::array::from_fn(|used_for| std::array::from_fn(|class| shelf.shares[class][used_for].in_use));
        let used = |class: usize| -> u32 { shelf.shares[class].iter().map(|share| share.in_use).sum() };
        OwnerGauges { in_use, free, total: std::array::from_fn(|class| free[class] + used(class)) }
    }

    /// Slots that hold events (sealed, or taken for a tier, and not yet home).
    pub fn events_out(&self) -> u64 {
        let tiers = |shares: &[Share; SlotUse::COUNT]| -> u64 { shares[..Tier::COUNT].iter().map(|s| u64::from(s.in_use)).sum() };
        self.shelf.shares.iter().map(tiers).sum()
    }

    fn assert_own(&self, ticket: Ticket) {
        assert!(ticket.owner() == self.id && ticket.pool() == self.shared.stamp(), "P2: a slot of another owner");
    }
}

impl Drop for PoolOwner {
    /// P3: what the kernel may still write to stays mapped for good. An orderly stop quiesces the ring and takes everything back
    /// before, so this leak happens on the way out of a failure only.
    fn drop(&mut self) {
        if GroupId::ALL.into_iter().any(|group| self.lent_count(group) > 0) {
            std::mem::forget(self.shared.clone());
        }
    }
}
