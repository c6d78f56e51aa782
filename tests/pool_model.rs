//! The pool against a model: whatever a node does with slots, each is in one place, the counts are right, and all come home.

use std::num::NonZeroU128;

use eventstream::pool::{
    ClassStrides, EVENT_HEADER_BYTES, Event, EventFlags, EventHeader, LentBuffer, Outcome, OwnerLayout, PoolOwner, ProducerId,
    ProducerStamp, Releaser, SharedPool, Slot, SlotClass, SlotUse, Source,
};
use eventstream::sys::clock::{Nanos, WallNanos};
use eventstream::sys::io::GroupId;
use eventstream::sys::memory::Arena;
use eventstream::wire::{Priority, Tier};
use proptest::prelude::*;

const RELEASERS: usize = 3;
const BUFFERS: u16 = 4;
const OWNERS: usize = 2;

fn header(id: u64, tier: Tier) -> EventHeader {
    EventHeader {
        id,
        received_at: Nanos(1),
        received_wall: WallNanos(2),
        connection: 0,
        body_len: 0,
        topic_len: 1,
        priority: Priority::Medium,
        tier,
        source: Source::Tcp,
        attempts: 0,
        flags: EventFlags::NONE,
        reserved: 0,
        producer_sequence: 0,
        key: None,
    }
}

fn pool(layouts: &[OwnerLayout]) -> (std::sync::Arc<SharedPool>, Vec<PoolOwner>) {
    let strides = ClassStrides::new(4096, 4096);
    let arena = Arena::map(SharedPool::arena_bytes(&strides, layouts)).expect("a small mapping");
    SharedPool::divide(arena, strides, layouts)
}

#[derive(Clone, Debug)]
enum Op {
    Acquire { owner: usize, class: SlotClass, used_for: SlotUse },
    GiveBack(usize),
    ChangeUse(usize, SlotUse),
    Seal { slot: usize, session: bool },
    Lend(usize),
    TakeBack(usize),
    Release { event: usize, releaser: usize },
    Flush(usize),
    Collect(usize),
    TakeOutcomes(usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    let class = prop::sample::select(SlotClass::ALL.to_vec());
    let used_for = prop::sample::select(SlotUse::ALL.to_vec());
    let any = 0..64usize;
    prop_oneof![
        6 => (0..OWNERS, class, used_for.clone()).prop_map(|(owner, class, used_for)| Op::Acquire { owner, class, used_for }),
        1 => any.clone().prop_map(Op::GiveBack),
        2 => (any.clone(), used_for).prop_map(|(slot, used_for)| Op::ChangeUse(slot, used_for)),
        4 => (any.clone(), proptest::bool::ANY).prop_map(|(slot, session)| Op::Seal { slot, session }),
        2 => any.clone().prop_map(Op::Lend),
        2 => any.clone().prop_map(Op::TakeBack),
        4 => (any, 0..RELEASERS).prop_map(|(event, releaser)| Op::Release { event, releaser }),
        2 => (0..RELEASERS).prop_map(Op::Flush),
        1 => (0..OWNERS).prop_map(Op::Collect),
        1 => (0..OWNERS).prop_map(Op::TakeOutcomes),
    ]
}

/// What the model knows of one slot that is out.
#[derive(Clone, Copy, Debug)]
struct Out {
    owner: usize,
    class: SlotClass,
    used_for: SlotUse,
    /// Written into the slot: a slot in two places would show another's.
    id: u64,
    /// A session waits to hear of its event.
    session: bool,
}

struct World {
    layouts: Vec<OwnerLayout>,
    shared: std::sync::Arc<SharedPool>,
    owners: Vec<PoolOwner>,
    releasers: Vec<Releaser>,
    slots: Vec<(Slot, Out)>,
    lent: Vec<(LentBuffer, Out)>,
    events: Vec<(Event, Out)>,
    /// Released, by releaser, not flushed.
    chained: Vec<Vec<Out>>,
    /// Flushed, not collected.
    stacked: Vec<Out>,
    /// Home, and not free until a session has heard of it.
    ended: Vec<Out>,
    next_id: u64,
}

impl World {
    fn new() -> Self {
        let layouts = vec![OwnerLayout::with_kernel_slots([6, 5, 2, 3, 2], 2), OwnerLayout::without_quotas([3, 2, 1, 0, 0])];
        let (shared, mut owners) = pool(&layouts);
        owners.iter_mut().for_each(|owner| owner.open_group(GroupId::Udp, BUFFERS));
        let releasers = (0..RELEASERS).map(|_| Releaser::new(shared.clone())).collect();
        Self {
            layouts,
            shared,
            owners,
            releasers,
            slots: Vec::new(),
            lent: Vec::new(),
            events: Vec::new(),
            chained: vec![Vec::new(); RELEASERS],
            stacked: Vec::new(),
            ended: Vec::new(),
            next_id: 1,
        }
    }

    /// Everything not in a free list.
    fn out(&self) -> impl Iterator<Item = Out> + '_ {
        let held = self.slots.iter().map(|(_, out)| *out).chain(self.lent.iter().map(|(_, out)| *out));
        let events = self.events.iter().map(|(_, out)| *out);
        let home = self.stacked.iter().chain(&self.ended).copied();
        held.chain(events).chain(self.chained.iter().flatten().copied()).chain(home)
    }

    fn count(&self, wanted: impl Fn(&Out) -> bool) -> u32 {
        self.out().filter(wanted).count() as u32
    }

    fn has_room(&self, owner: usize, class: SlotClass, used_for: SlotUse) -> bool {
        let layout = &self.layouts[owner];
        let in_use = self.count(|out| out.owner == owner && out.class == class && out.used_for == used_for);
        let free = layout.slots[class.index()] - self.count(|out| out.owner == owner && out.class == class);
        in_use < layout.quota[used_for.index()][class.index()] && free > layout.reserve[used_for.index()][class.index()]
    }

    /// The model of `collect`.
    fn came_home(&mut self, owner: usize) {
        let came = self.stacked.extract_if(.., |out| out.owner == owner);
        self.ended.extend(came.filter(|out| out.session));
    }

    /// The model of asking for room: looks at what came home only if there seems to be none.
    fn finds_room(&mut self, owner: usize, class: SlotClass, used_for: SlotUse) -> bool {
        if !self.has_room(owner, class, used_for) {
            self.came_home(owner);
        }
        self.has_room(owner, class, used_for)
    }

    fn acquire(&mut self, owner: usize, class: SlotClass, used_for: SlotUse) {
        let expected = self.finds_room(owner, class, used_for);
        let slot = self.owners[owner].acquire(class, used_for);
        assert_eq!(slot.is_some(), expected, "acquire {class:?} for {used_for:?}");
        let Some(mut slot) = slot else { return };
        let id = self.next_id;
        self.next_id += 1;
        self.owners[owner].bytes_mut(&mut slot).fill(id as u8);
        self.slots.push((slot, Out { owner, class, used_for, id, session: false }));
    }

    fn change_use(&mut self, index: usize, used_for: SlotUse) {
        let Out { owner, class, used_for: now, .. } = self.slots[index].1;
        // A slot that the kernel filled needs another in its place; any other change takes nothing from the free list.
        let expected = if now == used_for {
            true
        } else if now == SlotUse::Kernel {
            self.finds_room(owner, class, used_for)
        } else {
            let in_use = self.count(|out| (out.owner, out.class, out.used_for) == (owner, class, used_for));
            in_use < self.layouts[owner].quota[used_for.index()][class.index()]
        };
        let (slot, mut out) = self.slots.swap_remove(index);
        let changed = self.owners[owner].change_use(slot, used_for);
        assert_eq!(changed.is_ok(), expected, "{out:?} to {used_for:?}");
        let slot = changed.inspect(|_| out.used_for = used_for).unwrap_or_else(|unchanged| unchanged);
        self.slots.push((slot, out));
    }

    fn seal(&mut self, index: usize, session: bool) {
        let (mut slot, mut out) = self.slots.swap_remove(index);
        let tier = Tier::ALL.into_iter().find(|tier| SlotUse::of_tier(*tier) == out.used_for);
        let Some(tier) = tier.filter(|_| out.class.holds_events()) else { return self.slots.push((slot, out)) };
        let bytes = self.owners[out.owner].bytes_mut(&mut slot);
        assert!(bytes.iter().all(|byte| *byte == out.id as u8), "somebody else wrote into a held slot");
        bytes[EVENT_HEADER_BYTES] = b't';
        let mut header = header(out.id, tier);
        if session {
            let producer = ProducerId::new(NonZeroU128::MIN);
            header = header.of_producer(ProducerStamp { producer, sequence: out.id });
            out.session = true;
        }
        let event = self.owners[out.owner].seal(slot, header);
        self.events.push((event, out));
    }

    fn lend(&mut self, index: usize) {
        let (slot, out) = self.slots.swap_remove(index);
        let is_full = self.owners[out.owner].lent_count(GroupId::Udp) == usize::from(BUFFERS);
        match self.owners[out.owner].lend(slot, GroupId::Udp, 32) {
            Ok(buffer) => {
                assert!(!is_full);
                self.lent.push((buffer, out));
            }
            Err(slot) => {
                assert!(is_full);
                self.slots.push((slot, out));
            }
        }
    }

    fn take_back(&mut self, index: usize) {
        let (mut buffer, out) = self.lent.swap_remove(index);
        buffer.as_mut_bytes().fill(out.id as u8);
        let slot = self.owners[out.owner].take_back(buffer.into_id());
        let bytes = PoolOwner::bytes(&self.shared, &slot);
        assert!(bytes.iter().all(|byte| *byte == out.id as u8), "the kernel wrote into another slot than it was lent");
        self.slots.push((slot, out));
    }

    fn release(&mut self, index: usize, releaser: usize) {
        let (mut event, out) = self.events.swap_remove(index);
        assert_eq!(self.shared.header(&event).id, out.id, "an event's slot belongs to somebody else");
        assert_eq!(self.shared.topic(&event), b"t");
        self.shared.end(&mut event, Outcome::Handled);
        self.releasers[releaser].release(event);
        self.chained[releaser].push(out);
    }

    fn take_outcomes(&mut self, owner: usize) {
        while let Some(ended) = self.owners[owner].ended() {
            let is_it = |out: &Out| out.owner == owner && out.id == ended.stamp.sequence;
            let index = self.ended.iter().position(is_it).expect("an event that has come home, told once");
            self.ended.swap_remove(index);
            self.owners[owner].free_ended();
        }
        assert!(self.ended.iter().all(|out| out.owner != owner), "a session did not hear of an event");
    }

    fn apply(&mut self, op: Op) {
        let pick = |index: usize, len: usize| (len > 0).then(|| index % len);
        match op {
            Op::Acquire { owner, class, used_for } => self.acquire(owner, class, used_for),
            Op::GiveBack(index) => {
                if let Some(index) = pick(index, self.slots.len()) {
                    let (slot, out) = self.slots.swap_remove(index);
                    self.owners[out.owner].give_back(slot);
                }
            }
            Op::ChangeUse(index, used_for) => {
                if let Some(index) = pick(index, self.slots.len()) {
                    self.change_use(index, used_for);
                }
            }
            Op::Seal { slot, session } => {
                pick(slot, self.slots.len()).into_iter().for_each(|index| self.seal(index, session));
            }
            Op::Lend(index) => pick(index, self.slots.len()).into_iter().for_each(|index| self.lend(index)),
            Op::TakeBack(index) => pick(index, self.lent.len()).into_iter().for_each(|index| self.take_back(index)),
            Op::Release { event, releaser } => {
                pick(event, self.events.len()).into_iter().for_each(|index| self.release(index, releaser));
            }
            Op::Flush(releaser) => {
                self.releasers[releaser].flush();
                let chained = std::mem::take(&mut self.chained[releaser]);
                self.stacked.extend(chained);
            }
            Op::Collect(owner) => {
                self.owners[owner].collect();
                self.came_home(owner);
            }
            Op::TakeOutcomes(owner) => self.take_outcomes(owner),
        }
    }

    fn check(&self) {
        for (id, owner) in self.owners.iter().enumerate() {
            let gauges = owner.gauges();
            assert_eq!(gauges.total, self.layouts[id].slots);
            for class in SlotClass::ALL {
                let out = self.count(|out| out.owner == id && out.class == class);
                assert_eq!(gauges.free[class.index()], gauges.total[class.index()] - out);
                for used_for in SlotUse::ALL {
                    let in_use = self.count(|out| (out.owner, out.class, out.used_for) == (id, class, used_for));
                    assert_eq!(gauges.in_use[used_for.index()][class.index()], in_use, "{class:?} for {used_for:?}");
                }
            }
        }
    }

    fn bring_all_home(mut self) {
        while !self.lent.is_empty() {
            self.take_back(0);
        }
        for (slot, out) in std::mem::take(&mut self.slots) {
            self.owners[out.owner].give_back(slot);
        }
        while !self.events.is_empty() {
            self.release(0, 0);
        }
        drop(std::mem::take(&mut self.releasers)); // A releaser that ends sends home what it has.
        self.stacked.extend(self.chained.iter_mut().flat_map(std::mem::take));
        for id in 0..OWNERS {
            self.owners[id].collect();
            self.came_home(id);
            self.take_outcomes(id);
            let owner = &self.owners[id];
            assert_eq!(owner.gauges().free, owner.gauges().total, "free = total after the drain");
            assert_eq!(owner.events_out(), 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    // Plain assertions: a returned error would drop tickets outside of a panic, and their bombs would hide the reason.
    #[test]
    fn every_slot_is_in_one_place_and_all_come_home(ops in prop::collection::vec(any_op(), 1..200)) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
            world.check();
        }
        world.bring_all_home();
    }
}

/// Takes slots for `used_for` until there are no more.
fn flood(owner: &mut PoolOwner, class: SlotClass, used_for: SlotUse) -> Vec<Slot> {
    std::iter::from_fn(|| owner.acquire(class, used_for)).collect()
}

#[test]
fn a_flood_of_all_lesser_uses_leaves_realtime_its_reserve_in_each_class() {
    let slots = [1000, 200, 10, 0, 0];
    let orders = [
        [SlotUse::Batch, SlotUse::Transactional, SlotUse::Partial],
        [SlotUse::Transactional, SlotUse::Partial, SlotUse::Batch],
        [SlotUse::Partial, SlotUse::Batch, SlotUse::Transactional],
    ];
    for order in orders {
        let (_shared, mut owners) = pool(&[OwnerLayout::with_kernel_slots(slots, 20)]);
        let owner = &mut owners[0];
        for (class, reserve) in [(SlotClass::Small, 100), (SlotClass::Medium, 18), (SlotClass::Large, 1)] {
            let kernel = flood(owner, class, SlotUse::Kernel);
            assert_eq!(kernel.len(), if class == SlotClass::Medium { 20 } else { 0 });
            let lesser: Vec<Slot> = order.into_iter().flat_map(|used_for| flood(owner, class, used_for)).collect();
            let realtime = flood(owner, class, SlotUse::Realtime);
            assert!(realtime.len() >= reserve, "{class:?}: REALTIME got {} after {order:?}", realtime.len());
            let held = kernel.into_iter().chain(lesser).chain(realtime);
            held.for_each(|slot| owner.give_back(slot));
        }
    }
}

#[test]
fn batch_alone_leaves_a_fifth_free_and_transactional_a_tenth() {
    let (_shared, mut owners) = pool(&[OwnerLayout::with_kernel_slots([100, 0, 0, 0, 0], 0)]);
    for (used_for, expected) in [(SlotUse::Batch, 80), (SlotUse::Transactional, 90), (SlotUse::Realtime, 100)] {
        let slots = flood(&mut owners[0], SlotClass::Small, used_for);
        assert_eq!(slots.len(), expected);
        slots.into_iter().for_each(|slot| owners[0].give_back(slot));
    }
}

#[test]
fn datagrams_of_batch_stop_at_the_reserve_and_their_slot_goes_back_to_the_kernel() {
    let (_shared, mut owners) = pool(&[OwnerLayout::with_kernel_slots([0, 12, 0, 0, 0], 2)]);
    let owner = &mut owners[0];
    let mut batch = Vec::new();
    let refused = loop {
        let slot = owner.acquire(SlotClass::Medium, SlotUse::Kernel).expect("the kernel's slots are set apart");
        match owner.change_use(slot, SlotUse::Batch) {
            Ok(slot) => batch.push(slot),
            Err(slot) => break slot,
        }
    };
    assert_eq!(owner.gauges().free[SlotClass::Medium.index()], 2, "the reserve of a fifth of ten event slots");
    let realtime = owner.change_use(refused, SlotUse::Realtime).expect("the reserve is REALTIME's");
    batch.into_iter().chain([realtime]).for_each(|slot| owner.give_back(slot));
}

#[test]
#[should_panic(expected = "R2: a buffer comes back once")]
fn a_buffer_that_comes_back_twice_panics() {
    let (_shared, mut owners) = pool(&[OwnerLayout::with_standard_quotas([0, 2, 0, 0, 0])]);
    let owner = &mut owners[0];
    owner.open_group(GroupId::Udp, 1);
    // Two pools with the same numbers: the second buffer id of the same name is forged by the other pool's.
    let (_other, mut others) = pool(&[OwnerLayout::with_standard_quotas([0, 2, 0, 0, 0])]);
    others[0].open_group(GroupId::Udp, 1);
    let slot = owner.acquire(SlotClass::Medium, SlotUse::Kernel).unwrap();
    let mine = owner.lend(slot, GroupId::Udp, 0).unwrap_or_else(|_| unreachable!());
    let slot = others[0].acquire(SlotClass::Medium, SlotUse::Kernel).unwrap();
    let foreign = others[0].lend(slot, GroupId::Udp, 0).unwrap_or_else(|_| unreachable!());
    let home = owner.take_back(mine.into_id());
    owner.give_back(home);
    let _ = owner.take_back(foreign.into_id());
}

#[test]
#[should_panic(expected = "P2: a ticket of another pool")]
fn an_event_that_meets_another_pool_panics_instead_of_reading_foreign_bytes() {
    let layouts = [OwnerLayout::with_standard_quotas([2, 0, 0, 0, 0])];
    let ((_first, mut owners), (second, _others)) = (pool(&layouts), pool(&layouts));
    let event = owners[0].store(header(1, Tier::Realtime), b"t").unwrap();
    let _ = second.header(&event);
}

#[test]
#[should_panic(expected = "P2: a slot of another owner")]
fn a_slot_given_to_another_owner_of_the_pool_panics() {
    let layout = OwnerLayout::with_standard_quotas([2, 0, 0, 0, 0]);
    let (_shared, mut owners) = pool(&[layout.clone(), layout]);
    let slot = owners[0].acquire(SlotClass::Small, SlotUse::Realtime).unwrap();
    owners[1].give_back(slot);
}

#[cfg(debug_assertions)]
#[test]
#[should_panic(expected = "dropped without being released (P4)")]
fn an_event_that_is_dropped_panics_in_debug_builds() {
    let (_shared, mut owners) = pool(&[OwnerLayout::with_standard_quotas([2, 0, 0, 0, 0])]);
    drop(owners[0].store(header(1, Tier::Realtime), b"t").unwrap());
}

#[test]
fn an_owner_dropped_while_the_kernel_has_its_buffers_leaves_them_writable() {
    let (shared, mut owners) = pool(&[OwnerLayout::with_standard_quotas([0, 2, 0, 0, 0])]);
    owners[0].open_group(GroupId::Udp, 2);
    let slot = owners[0].acquire(SlotClass::Medium, SlotUse::Kernel).unwrap();
    let mut buffer = owners[0].lend(slot, GroupId::Udp, 0).unwrap_or_else(|_| unreachable!());
    drop((shared, owners));
    buffer.as_mut_bytes().fill(7); // A fault, if the arena were gone.
    assert!(buffer.as_mut_bytes().iter().all(|byte| *byte == 7));
}

#[test]
fn refusals_are_counted_by_class() {
    let (_shared, mut owners) = pool(&[OwnerLayout::with_standard_quotas([1, 0, 0, 0, 0])]);
    let event = owners[0].store(header(1, Tier::Realtime), b"t").unwrap();
    assert!(owners[0].store(header(2, Tier::Realtime), b"t").is_none());
    assert_eq!(owners[0].counters().refused[SlotClass::Small.index()].get(), 1);
    let mut releaser = Releaser::new(owners[0].shared().clone());
    releaser.release(event);
    releaser.flush();
    let event = owners[0].store(header(3, Tier::Realtime), b"t").expect("what came home is looked at before a refusal");
    releaser.release(event);
}
