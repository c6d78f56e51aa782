//! What rows are made of: a pass that is timed, events to hand around, and threads on other cores that begin together with this one.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use eventstream::pool::{
    ClassStrides, Event, EventFlags, EventHeader, OwnerLayout, PoolOwner, SharedPool, SlotClass, SlotUse, Source,
};
use eventstream::sys::clock::{Clock, HostClock, Nanos, WallNanos};
use eventstream::sys::memory::Arena;
use eventstream::sys::process::pin_current_thread;
use eventstream::wire::{Priority, Tier};

/// As many as a processor takes in a poll, and a reactor publishes.
pub const BATCH: usize = 64;

/// A frame of 80 bytes: 7 of header, this topic, and a body of 64.
pub const TOPIC: &str = "sensors/1";
pub const BODY_BYTES: usize = 64;
pub const PAYLOAD_BYTES: usize = TOPIC.len() + BODY_BYTES;

/// One go of a row over all its items: how long that took.
pub type Pass = Box<dyn FnMut() -> Nanos>;

/// A part that is measured.
pub struct Row {
    pub name: &'static str,
    /// Items of a pass.
    pub items: u64,
    /// Cores that it needs.
    pub cores: usize,
    /// It is to be below this, nanoseconds an item.
    pub bar_ns: Option<f64>,
    pub begin: Box<dyn Fn(&Host) -> Pass>,
}

impl Row {
    /// A row that one core has to itself.
    pub fn new(name: &'static str, items: usize, begin: impl Fn() -> Pass + 'static) -> Self {
        Self { name, items: items as u64, cores: 1, bar_ns: None, begin: Box::new(move |_| begin()) }
    }

    /// A row between two cores.
    pub fn across(name: &'static str, items: usize, begin: impl Fn(&Host) -> Pass + 'static) -> Self {
        Self { name, items: items as u64, cores: 2, bar_ns: None, begin: Box::new(begin) }
    }

    pub fn below(self, bar_ns: f64) -> Self {
        Self { bar_ns: Some(bar_ns), ..self }
    }
}

/// Where rows run: on this thread, pinned, and on these.
pub struct Host {
    pub other_cpus: Vec<u32>,
}

/// Runs what is measured. Callgrind counts inside of this function and nowhere else.
#[inline(never)]
pub fn measured(work: &mut dyn FnMut()) {
    work();
    black_box(()); // No tail call, which would leave this function before the work.
}

/// How long the work takes.
pub fn timed(mut work: impl FnMut()) -> Nanos {
    let begun = HostClock.now();
    measured(&mut work);
    HostClock.now().since(begun)
}

/// What a thread on another core does, and which one.
pub type There<'a> = (u32, Box<dyn FnOnce() + Send + 'a>);

/// Runs `there` on other cores and `here` on this one; all begin when the last one is ready.
pub fn beside<T>(there: Vec<There<'_>>, here: impl FnOnce() -> T) -> T {
    let missing = AtomicUsize::new(there.len());
    thread::scope(|scope| {
        for (cpu, work) in there {
            let missing = &missing;
            scope.spawn(move || {
                let _ = pin_current_thread(cpu);
                missing.fetch_sub(1, Ordering::AcqRel);
                while missing.load(Ordering::Acquire) > 0 {
                    spin_loop();
                }
                work();
            });
        }
        while missing.load(Ordering::Acquire) > 0 {
            thread::yield_now(); // A thread begins on its parent's core.
        }
        here()
    })
}

/// The header of an event with [`TOPIC`] and a body of [`BODY_BYTES`].
pub fn header(id: u64, priority: Priority) -> EventHeader {
    EventHeader {
        id,
        received_at: Nanos(1_000_000_000 + id),
        received_wall: WallNanos(1_700_000_000_000_000_000 + id),
        connection: 1,
        body_len: BODY_BYTES as u32,
        topic_len: TOPIC.len() as u16,
        priority,
        tier: priority.tier(),
        source: Source::Tcp,
        attempts: 0,
        flags: EventFlags::NONE,
        reserved: 0,
        producer_sequence: 0,
        key: None,
    }
}

/// A pool with so many small slots for each of its owners.
pub fn pool(strides: ClassStrides, small_slots: &[u32]) -> Vec<PoolOwner> {
    let layouts: Vec<_> = small_slots.iter().map(|slots| OwnerLayout::without_quotas([*slots, 0, 0, 0, 0])).collect();
    let arena = Arena::map(SharedPool::arena_bytes(&strides, &layouts)).expect("memory for a pool");
    SharedPool::divide(arena, strides, &layouts).1
}

/// Events with nothing but a header, for lanes, which look at none of it.
pub fn events(count: usize) -> Vec<Event> {
    let strides = ClassStrides([64; SlotClass::COUNT]);
    let mut owner = pool(strides, &[count as u32]).remove(0);
    let bare = |id| EventHeader { body_len: 0, topic_len: 0, ..header(id, Priority::Low) };
    let event = |id| {
        let slot = owner.acquire(SlotClass::Small, SlotUse::of_tier(Tier::Batch)).expect("a slot for each");
        owner.seal(slot, bare(id))
    };
    (0..count as u64).map(event).collect()
}

/// Leaves what passes hold to the end of the process: their events are released by nobody, and so must not be dropped (P4 of the pool).
pub fn leave<T>(passes: T) {
    std::mem::forget(passes);
}
