//! The owner's half of a pool: free lists, quotas, and what is lent to the kernel. Lives on one thread.

use std::sync::Arc;

use super::{
    BufferId, EVENT_HEADER_BYTES, Event, EventHeader, LentBuffer, OwnerLayout, SharedPool, Slot, SlotClass, SlotUse, Ticket,
};
use crate::sys::io::GroupId;

/// Marks a free slot in `uses`.
const FREE: u8 = u8::MAX;

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

/// The one thread-bound owner of a range of slots.
#[derive(Debug)]
pub struct PoolOwner {
    shared: Arc<SharedPool>,
    id: u8,
    /// By class: this owner's first slot number, and where the class begins in `uses`.
    first: [u32; SlotClass::COUNT],
    uses_base: [u32; SlotClass::COUNT],
    total: [u32; SlotClass::COUNT],
    /// Last in, first out: the hottest slot is reused first.
    free: [Vec<u32>; SlotClass::COUNT],
    uses: Vec<u8>,
    in_use: [[u32; SlotClass::COUNT]; SlotUse::COUNT],
    quota: [[u32; SlotClass::COUNT]; SlotUse::COUNT],
    lent: [LentTable; GroupId::COUNT],
    /// Not Sync, by intent: free lists belong to one thread.
    _not_sync: std::marker::PhantomData<std::cell::Cell<()>>,
}

impl PoolOwner {
    pub(super) fn new(shared: Arc<SharedPool>, id: u8, first: [u32; SlotClass::COUNT], layout: &OwnerLayout) -> Self {
        let mut uses_base = [0; SlotClass::COUNT];
        let mut sum = 0;
        for (base, slots) in uses_base.iter_mut().zip(&layout.slots) {
            *base = sum;
            sum += slots;
        }
        Self {
            shared,
            id,
            first,
            uses_base,
            total: layout.slots,
            // Reversed, so that the lowest slots (nearest pages) are used first.
            free: std::array::from_fn(|c| (first[c]..first[c] + layout.slots[c]).rev().collect()),
            uses: vec![FREE; sum as usize],
            in_use: Default::default(),
            quota: layout.quota,
            lent: Default::default(),
            _not_sync: std::marker::PhantomData,
        }
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

    /// Whether `used_for` may take a slot of `class` now (quota and free list; what is on its way home not counted).
    #[inline]
    pub fn has_room(&self, class: SlotClass, used_for: SlotUse) -> bool {
        self.within_quota(class, used_for) && !self.free[class.index()].is_empty()
    }

    /// Whether the quota (P5) alone admits one more.
    #[inline]
    pub fn within_quota(&self, class: SlotClass, used_for: SlotUse) -> bool {
        self.in_use[used_for.index()][class.index()] < self.quota[used_for.index()][class.index()]
    }

    /// Takes a slot; looks at what came home if there seems to be none. `None`: quota reached or class exhausted.
    #[inline]
    pub fn acquire(&mut self, class: SlotClass, used_for: SlotUse) -> Option<Slot> {
        if !self.has_room(class, used_for) {
            self.collect();
            if !self.has_room(class, used_for) {
                return None;
            }
        }
        let slot = self.free[class.index()].pop()?;
        let place = self.place(class, slot);
        debug_assert_eq!(self.uses[place], FREE, "P1: a slot in a free list is free");
        self.uses[place] = used_for as u8;
        self.in_use[used_for.index()][class.index()] += 1;
        Some(Slot(Ticket::new(slot, class, self.id)))
    }

    /// Takes everything home that was released. Once per poll.
    pub fn collect(&mut self) {
        let shared = Arc::clone(&self.shared);
        shared.owners[self.id as usize].stack.take(&shared.links, |slot| self.free_slot(slot));
    }

    /// Says to releasing threads that this owner waits for slots; see the pool's waker. Look once more with
    /// [`PoolOwner::collect`] after this.
    pub fn announce_starved(&self, starved: bool) {
        self.shared.owners[self.id as usize].announce_starved(starved);
    }

    /// Gives an unsealed slot back.
    pub fn give_back(&mut self, slot: Slot) {
        self.free_slot(slot.into_ticket().slot());
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

    /// Changes what a slot is held for, if the quota admits it.
    ///
    /// # Errors
    /// Gives the slot back unchanged when the quota of the new use is reached.
    pub fn change_use(&mut self, slot: Slot, used_for: SlotUse) -> Result<Slot, Slot> {
        let class = slot.class();
        let place = self.place(class, slot.0.slot());
        if self.uses[place] == used_for as u8 {
            return Ok(slot);
        }
        if !self.within_quota(class, used_for) {
            return Err(slot);
        }
        self.in_use[self.uses[place] as usize][class.index()] -= 1;
        self.in_use[used_for.index()][class.index()] += 1;
        self.uses[place] = used_for as u8;
        Ok(slot)
    }

    /// Turns a slot whose payload (topic, body) is in place into an event.
    ///
    /// # Panics
    /// If the lengths in the header exceed the slot.
    #[inline]
    pub fn seal(&mut self, slot: Slot, header: EventHeader) -> Event {
        let ticket = slot.into_ticket();
        let (start, stride) = self.shared.locate(ticket);
        assert!(EVENT_HEADER_BYTES + header.topic_len as usize + header.body_len as usize <= stride, "event beyond its slot");
        // SAFETY: P1, we held the only ticket; the slot is at least a header long and 64-byte aligned.
        unsafe { start.cast::<EventHeader>().write(header) };
        Event(ticket)
    }

    /// Copies a frame's topic and body into a fresh slot of its tier. `None`: no slot for this tier and size.
    #[inline]
    pub fn store(&mut self, header: EventHeader, payload: &[u8]) -> Option<Event> {
        let class = self.class_for(payload.len())?;
        let mut slot = self.acquire(class, SlotUse::of_tier(header.tier))?;
        self.bytes_mut(&mut slot)[EVENT_HEADER_BYTES..][..payload.len()].copy_from_slice(payload);
        Some(self.seal(slot, header))
    }

    /// Prepares a group for up to `buffers` lent at a time. At start, as it allocates.
    pub fn open_group(&mut self, group: GroupId, buffers: u16) {
        let table = &mut self.lent[group as usize];
        table.slots = vec![None; buffers as usize];
        table.free_ids = (0..buffers).rev().collect();
    }

    /// Lends the slot's bytes from `offset` on to the kernel.
    ///
    /// # Errors
    /// Gives the slot back when the group has no free buffer id.
    pub fn lend(&mut self, slot: Slot, group: GroupId, offset: usize) -> Result<LentBuffer, Slot> {
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
                    self.free_slot(ticket.slot());
                }
            }
        }
    }

    /// Where every slot is.
    pub fn gauges(&self) -> OwnerGauges {
        OwnerGauges { in_use: self.in_use, free: std::array::from_fn(|c| self.free[c].len() as u32), total: self.total }
    }

    /// Slots that hold events (sealed and not yet home).
    pub fn events_out(&self) -> u64 {
        self.in_use[..3].iter().flatten().map(|n| u64::from(*n)).sum()
    }

    fn place(&self, class: SlotClass, slot: u32) -> usize {
        (slot - self.first[class.index()] + self.uses_base[class.index()]) as usize
    }

    fn class_of(&self, slot: u32) -> SlotClass {
        SlotClass::ALL
            .into_iter()
            .find(|c| (self.first[c.index()]..self.first[c.index()] + self.total[c.index()]).contains(&slot))
            .expect("P2: a slot of this owner")
    }

    fn free_slot(&mut self, slot: u32) {
        let class = self.class_of(slot);
        let place = self.place(class, slot);
        let used_for = std::mem::replace(&mut self.uses[place], FREE);
        assert_ne!(used_for, FREE, "P1: slot {slot} came home twice");
        self.in_use[used_for as usize][class.index()] -= 1;
        self.free[class.index()].push(slot);
    }
}
