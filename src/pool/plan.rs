//! From flags to layouts: how many slots of which size, who owns them, and what they cost.
//!
//! ```text
//! PoolSizes (flags) ──► PoolPlan { strides, layouts: reactors | retry memory | in-process producers | service, budget }
//! ```
//!
//! The defaults, by holder: every lane of a node full (16,384 + 65,536 + 65,536 small events) and 16,384 more on their way between
//! lanes, inlets and log; medium and large slots for the few events that are bigger; what the kernel is offered; what waits.
//!
//! Invariants:
//! - **A1** The arena lines of the budget add up to exactly [`SharedPool::arena_bytes`] of the layouts.
//! - **A2** Every partition that takes frames has at least one slot of each event class, and the reactors' have room for what they
//!   are to offer to the kernel.
//!
//! What it does not do: ask the host what it has ([`Budget::admit`] is told), or map memory.

#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;

use super::shared::ARENA_CLASS_ALIGN_BYTES;
use super::{Budget, ClassStrides, OwnerLayout, SharedPool, SlotClass};

/// Small slots of a node: all lanes full, and as much again as the REALTIME lane in flight elsewhere.
const SMALL_SLOTS_DEFAULT: u32 = LANES_EVENTS_DEFAULT + 16_384;
/// The default capacities of the three tiers together.
const LANES_EVENTS_DEFAULT: u32 = 16_384 + 65_536 + 65_536;
/// The default capacities of TRANSACTIONAL and BATCH.
const LANES_EVENTS_NOT_REALTIME: u32 = 65_536 + 65_536;

// BATCH leaves the last fifth of the slots free; both lesser lanes can be full while it does.
const _: () = assert!(SMALL_SLOTS_DEFAULT - SMALL_SLOTS_DEFAULT.div_ceil(5) >= LANES_EVENTS_NOT_REALTIME);
// TRANSACTIONAL leaves the last tenth free: that is a full REALTIME lane.
const _: () = assert!(SMALL_SLOTS_DEFAULT.div_ceil(10) >= 16_384);

/// The largest `--max-frame-bytes`: frame lengths are below 2^24.
pub const MAX_FRAME_BYTES_MAX: u32 = 1 << 24;
/// The smallest `--max-frame-bytes`: a frame that fits no medium slot must be possible, else large slots have no use.
pub const MAX_FRAME_BYTES_MIN: u32 = 4096;
/// The smallest receive chunk: below, re-arming costs more than receiving (bench: 4 KiB chunks at half the throughput).
pub const CHUNK_BYTES_MIN: u32 = 4096;
/// The largest receive chunk: a chunk is the unit of one receive, and 1 MiB is already ten poll budgets.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;
/// The most buffers that one provided-buffer ring holds (kernel limit).
pub const RING_BUFFERS_MAX: u32 = 32_768;
/// The most owners of one pool: an owner is a byte in a ticket.
pub const OWNERS_MAX: u32 = 255;
/// Chunks for aggregated datagrams with `--udp-gro on`: two sockets, two each.
pub const UDP_GRO_CHUNKS: u32 = 4;
/// A kernel hands over at most this much as one aggregated datagram.
pub const UDP_GRO_DATAGRAM_BYTES_MAX: u32 = 65_535;

/// Bytes beside the arena for each slot: its link on the way home, its place in the free list, its mark.
const SLOT_BOOKKEEPING_BYTES: u64 = 4 + 4 + 1;

/// The pool of a node when nothing else is asked for: 128 MiB or 5 % of the node's memory, whichever is more.
pub const fn default_pool_bytes_max(node_memory_bytes: u64) -> u64 {
    let share = node_memory_bytes / 20;
    if share > 128 << 20 { share } else { 128 << 20 }
}

/// The sizes of one node's pool, as flags give them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSizes {
    /// Reactors that share the node's slots (`--reactors-per-node`).
    pub reactors: u32,
    /// Small event slots of all reactors together (`--pool-small-slots`).
    pub small_slots: u32,
    /// Medium event slots of all reactors together, without those for datagrams (`--pool-medium-slots`).
    pub medium_slots: u32,
    /// Large event slots of all reactors together (`--pool-large-slots`).
    pub large_slots: u32,
    /// TCP receive chunks of each reactor (`--tcp-chunks`).
    pub tcp_chunks: u32,
    /// Bytes of a receive chunk (`--tcp-chunk-bytes`).
    pub tcp_chunk_bytes: u32,
    /// Medium slots that each reactor offers to the kernel for datagrams (`--udp-slots`); 0 without UDP.
    pub udp_slots: u32,
    /// Whether datagrams come aggregated (`--udp-gro`): then chunks take them.
    pub udp_gro: bool,
    /// The longest frame (`--max-frame-bytes`).
    pub max_frame_bytes: u32,
    /// Memory for the unparsed rest of waiting connections, all reactors together.
    pub parking_bytes: u64,
    /// Event slots (small, medium, large) of the retry memory; zeroes for none.
    pub retry_slots: [u32; 3],
    /// In-process producers, each with a partition of its own.
    pub producers: u32,
    /// Event slots (small, medium, large) of each in-process producer.
    pub producer_slots: [u32; 3],
    /// Event slots (small, medium, large) for what the engine itself sends again; zeroes for none.
    pub service_slots: [u32; 3],
}

impl Default for PoolSizes {
    fn default() -> Self {
        Self {
            reactors: 1,
            small_slots: SMALL_SLOTS_DEFAULT,
            medium_slots: 16_384,
            large_slots: 16,
            tcp_chunks: 4,
            tcp_chunk_bytes: 32 * 1024,
            udp_slots: 1024,
            udp_gro: false,
            max_frame_bytes: 1 << 20,
            parking_bytes: 4 << 20,
            retry_slots: [4096, 256, 1],
            producers: 0,
            producer_slots: [16_384, 1024, 1],
            service_slots: [0; 3],
        }
    }
}

/// Why sizes make no pool. [`fmt::Display`] names the flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolSizesRefusal {
    /// `--max-frame-bytes` is out of bounds.
    MaxFrameBytes(u32),
    /// `--tcp-chunk-bytes` is out of bounds.
    ChunkBytes(u32),
    /// A group of buffers is larger than the kernel's table.
    RingBuffers {
        /// The flag that asks for them.
        flag: &'static str,
        /// What it asks for.
        buffers: u32,
    },
    /// A reactor would get none of a class (A2).
    TooFewSlots {
        /// The flag that gives them.
        flag: &'static str,
        /// What is needed at least.
        needed: u32,
    },
    /// No reactor at all, or more partitions than a pool has.
    Owners(u32),
    /// More slots than slot numbers, or more bytes than addresses.
    TooLarge,
}

impl fmt::Display for PoolSizesRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxFrameBytes(bytes) => {
                write!(f, "--max-frame-bytes is {bytes}; it must be from {MAX_FRAME_BYTES_MIN} to {MAX_FRAME_BYTES_MAX}")
            }
            Self::ChunkBytes(bytes) => {
                write!(f, "--tcp-chunk-bytes is {bytes}; it must be from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}")
            }
            Self::RingBuffers { flag, buffers } => {
                write!(f, "{flag} is {buffers}; a buffer ring holds from 1 to {RING_BUFFERS_MAX}")
            }
            Self::TooFewSlots { flag, needed } => write!(f, "{flag} must be at least {needed} for these reactors"),
            Self::Owners(owners) => write!(f, "{owners} partitions; a pool has from 1 to {OWNERS_MAX}, and one reactor at least"),
            Self::TooLarge => write!(f, "the --pool-* flags ask for more slots than can be numbered"),
        }
    }
}

impl std::error::Error for PoolSizesRefusal {}

/// Everything needed to map and divide one node's pool.
#[derive(Clone, Debug)]
pub struct PoolPlan {
    /// For [`SharedPool::divide`].
    pub strides: ClassStrides,
    /// For [`SharedPool::divide`]: reactors first, then the retry memory, in-process producers, and the service slots.
    pub layouts: Vec<OwnerLayout>,
    /// What the pool costs, one line per holder. Other parts add theirs.
    pub budget: Budget,
    reactors: usize,
    has_retry: bool,
    has_service: bool,
}

impl PoolPlan {
    /// Checks the sizes and lays the pool out.
    ///
    /// # Errors
    /// The first rule that they break.
    pub fn new(sizes: &PoolSizes) -> Result<Self, PoolSizesRefusal> {
        sizes.check()?;
        let strides = ClassStrides::new(sizes.max_frame_bytes, sizes.chunk_bytes());
        let [has_retry, has_service] = [sizes.retry_slots, sizes.service_slots].map(|slots| slots.iter().any(|slots| *slots > 0));
        let mut layouts: Vec<_> = (0..sizes.reactors).map(|reactor| sizes.reactor_layout(reactor)).collect();
        if has_retry {
            layouts.push(OwnerLayout::without_quotas(only_events(sizes.retry_slots)));
        }
        let producer = OwnerLayout::with_kernel_slots(only_events(sizes.producer_slots), 0);
        layouts.extend((0..sizes.producers).map(|_| producer.clone()));
        if has_service {
            layouts.push(OwnerLayout::with_kernel_slots(only_events(sizes.service_slots), 0));
        }
        let slots = layouts.iter().flat_map(|layout| layout.slots).map(u64::from).sum::<u64>();
        if slots >= u64::from(u32::MAX) {
            return Err(PoolSizesRefusal::TooLarge);
        }
        let budget = sizes.budget(&strides, &layouts);
        Ok(Self { strides, layouts, budget, reactors: sizes.reactors as usize, has_retry, has_service })
    }

    /// Where the reactors' partitions are among the owners.
    pub fn reactors(&self) -> Range<usize> {
        0..self.reactors
    }

    /// Where the retry memory is among the owners, if there is one.
    pub fn retry(&self) -> Option<usize> {
        self.has_retry.then_some(self.reactors)
    }

    /// Where the in-process producers' partitions are among the owners.
    pub fn producers(&self) -> Range<usize> {
        self.reactors + usize::from(self.has_retry)..self.layouts.len() - usize::from(self.has_service)
    }

    /// Where the service slots are among the owners, if there are any.
    pub fn service(&self) -> Option<usize> {
        self.has_service.then(|| self.layouts.len() - 1)
    }

    /// Bytes to map for [`SharedPool::divide`].
    pub fn arena_bytes(&self) -> usize {
        SharedPool::arena_bytes(&self.strides, &self.layouts)
    }
}

/// Slots of the three event classes only.
fn only_events(slots: [u32; 3]) -> [u32; SlotClass::COUNT] {
    [slots[0], slots[1], slots[2], 0, 0]
}

/// The part of `total` that the `index`-th of `parts` gets; they differ by one at most.
fn part(total: u32, index: u32, parts: u32) -> u32 {
    total / parts + u32::from(index < total % parts)
}

impl PoolSizes {
    fn check(&self) -> Result<(), PoolSizesRefusal> {
        if !(MAX_FRAME_BYTES_MIN..=MAX_FRAME_BYTES_MAX).contains(&self.max_frame_bytes) {
            return Err(PoolSizesRefusal::MaxFrameBytes(self.max_frame_bytes));
        }
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&self.tcp_chunk_bytes) {
            return Err(PoolSizesRefusal::ChunkBytes(self.tcp_chunk_bytes));
        }
        let owners = u64::from(self.reactors) + 2 + u64::from(self.producers);
        if self.reactors == 0 || owners > u64::from(OWNERS_MAX) {
            return Err(PoolSizesRefusal::Owners(owners.min(u64::from(u32::MAX)) as u32));
        }
        for (flag, buffers, min) in [("--tcp-chunks", self.tcp_chunks, 1), ("--udp-slots", self.udp_slots, 0)] {
            if !(min..=RING_BUFFERS_MAX).contains(&buffers) {
                return Err(PoolSizesRefusal::RingBuffers { flag, buffers });
            }
        }
        for (flag, slots) in [
            ("--pool-small-slots", self.small_slots),
            ("--pool-medium-slots", self.medium_slots),
            ("--pool-large-slots", self.large_slots),
        ] {
            if slots < self.reactors {
                return Err(PoolSizesRefusal::TooFewSlots { flag, needed: self.reactors });
            }
        }
        Ok(())
    }

    /// Bytes of a chunk: with aggregated datagrams it takes the longest of them, whatever TCP needs.
    fn chunk_bytes(&self) -> u32 {
        if self.udp_gro { self.tcp_chunk_bytes.max(UDP_GRO_DATAGRAM_BYTES_MAX) } else { self.tcp_chunk_bytes }
    }

    /// Chunks of one reactor.
    fn chunks(&self) -> u32 {
        self.tcp_chunks + if self.udp_gro { UDP_GRO_CHUNKS } else { 0 }
    }

    /// Parking slots of all reactors; one each at least, since a waiting connection must be able to let go of its chunk.
    fn parking_slots(&self) -> u32 {
        let slots = self.parking_bytes / u64::from(self.chunk_bytes());
        slots.clamp(u64::from(self.reactors), u64::from(u32::MAX)) as u32
    }

    fn reactor_layout(&self, reactor: u32) -> OwnerLayout {
        let share = |total: u32| part(total, reactor, self.reactors);
        let slots = [
            share(self.small_slots),
            share(self.medium_slots).saturating_add(self.udp_slots),
            share(self.large_slots),
            self.chunks(),
            share(self.parking_slots()),
        ];
        OwnerLayout::with_kernel_slots(slots, self.udp_slots)
    }

    /// One line per holder (A1).
    fn budget(&self, strides: &ClassStrides, layouts: &[OwnerLayout]) -> Budget {
        let stride = |class: SlotClass| u64::from(strides.0[class.index()]);
        let (reactors, producers) = (u64::from(self.reactors), u64::from(self.producers));
        let mut budget = Budget::new();
        let mut line = |name, flag, count: u64, class: SlotClass| budget.add_for_flag(name, flag, count, stride(class));
        // Events between parse and log, nearly all of them: lanes, batches in processors' hands, inlets.
        line("small event slots", "--pool-small-slots", self.small_slots.into(), SlotClass::Small);
        // Events of more than 256 bytes.
        line("medium event slots", "--pool-medium-slots", self.medium_slots.into(), SlotClass::Medium);
        // Events of more than 2 KiB, complete or coming in.
        line("large event slots", "--pool-large-slots", self.large_slots.into(), SlotClass::Large);
        // What the kernel fills, one datagram each.
        line("datagram slots", "--udp-slots", u64::from(self.udp_slots) * reactors, SlotClass::Medium);
        // What the kernel fills, any piece of a stream.
        line("receive chunks", "--tcp-chunks", u64::from(self.chunks()) * reactors, SlotClass::Chunk);
        // The unparsed rest of connections that wait for a tier.
        budget.add("parking memory", self.parking_slots().into(), stride(SlotClass::Parking));
        // Copies of events between two tries, and what in-process producers and the service have in flight.
        for (index, class) in [SlotClass::Small, SlotClass::Medium, SlotClass::Large].into_iter().enumerate() {
            let retry = ["retry slots, small", "retry slots, medium", "retry slots, large"][index];
            let produced = ["in-process slots, small", "in-process slots, medium", "in-process slots, large"][index];
            budget.add(retry, self.retry_slots[index].into(), stride(class));
            let slots = u64::from(self.producer_slots[index]) * producers + u64::from(self.service_slots[index]);
            budget.add(produced, slots, stride(class));
        }
        let in_lines = budget.total_bytes();
        let arena = SharedPool::arena_bytes(strides, layouts) as u64;
        debug_assert!(arena - in_lines < (SlotClass::COUNT * ARENA_CLASS_ALIGN_BYTES) as u64, "A1: the lines are the arena");
        budget.add("rounding to pages", 1, arena - in_lines);
        let slots = layouts.iter().flat_map(|layout| layout.slots).map(u64::from).sum();
        budget.add("links, free lists, marks", slots, SLOT_BOOKKEEPING_BYTES);
        budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::SlotUse;

    #[test]
    fn default_pool_is_within_its_default_bound() {
        let plan = PoolPlan::new(&PoolSizes::default()).unwrap();
        assert!(plan.budget.total_bytes() <= default_pool_bytes_max(0), "{}", plan.budget);
        assert_eq!(default_pool_bytes_max(200 << 30), 10 << 30);
    }

    #[test]
    fn arena_lines_add_up_to_the_arena_for_any_partition() {
        for (reactors, producers, udp_gro) in [(1, 0, false), (3, 2, true), (7, 1, false)] {
            let sizes = PoolSizes { reactors, producers, udp_gro, large_slots: 17, ..PoolSizes::default() };
            let plan = PoolPlan::new(&sizes).unwrap();
            let bookkeeping = plan.budget.lines().last().unwrap();
            assert_eq!(plan.budget.total_bytes() - bookkeeping.bytes(), plan.arena_bytes() as u64);
            assert_eq!(plan.layouts.len() as u32, reactors + 1 + producers);
            assert_eq!(plan.reactors().len() + 1 + plan.producers().len(), plan.layouts.len());
            assert_eq!(plan.retry(), Some(reactors as usize));
        }
    }

    #[test]
    fn reactors_share_slots_so_that_none_is_lost() {
        let sizes = PoolSizes { reactors: 3, small_slots: 1000, large_slots: 4, ..PoolSizes::default() };
        let plan = PoolPlan::new(&sizes).unwrap();
        let of =
            |class: SlotClass| -> Vec<u32> { plan.layouts[plan.reactors()].iter().map(|l| l.slots[class.index()]).collect() };
        assert_eq!(of(SlotClass::Small), [334, 333, 333]);
        assert_eq!(of(SlotClass::Large), [2, 1, 1]);
        assert!(of(SlotClass::Parking).iter().all(|slots| *slots >= 1));
    }

    #[test]
    fn realtime_leaves_the_kernel_the_slots_set_apart_for_datagrams() {
        let plan = PoolPlan::new(&PoolSizes::default()).unwrap();
        let medium = SlotClass::Medium.index();
        let layout = &plan.layouts[0];
        assert_eq!(layout.quota[SlotUse::Realtime.index()][medium] + 1024, layout.slots[medium]);
        assert_eq!(layout.quota[SlotUse::Kernel.index()][medium], 1024);
    }

    #[test]
    fn a_chunk_takes_the_longest_aggregated_datagram() {
        let plan = PoolPlan::new(&PoolSizes { udp_gro: true, ..PoolSizes::default() }).unwrap();
        assert!(plan.strides.0[SlotClass::Chunk.index()] >= UDP_GRO_DATAGRAM_BYTES_MAX + 64);
    }

    #[test]
    fn every_rule_refuses_what_breaks_it() {
        let ok = PoolSizes::default;
        let refused = |sizes: PoolSizes| PoolPlan::new(&sizes).map(|_| ()).unwrap_err();
        assert_eq!(refused(PoolSizes { max_frame_bytes: 4095, ..ok() }), PoolSizesRefusal::MaxFrameBytes(4095));
        assert_eq!(refused(PoolSizes { tcp_chunk_bytes: 1 << 21, ..ok() }), PoolSizesRefusal::ChunkBytes(1 << 21));
        assert_eq!(refused(PoolSizes { reactors: 0, ..ok() }), PoolSizesRefusal::Owners(2));
        assert_eq!(refused(PoolSizes { producers: 254, ..ok() }), PoolSizesRefusal::Owners(257));
        let none = PoolSizesRefusal::RingBuffers { flag: "--tcp-chunks", buffers: 0 };
        assert_eq!(refused(PoolSizes { tcp_chunks: 0, ..ok() }), none);
        let too_few = PoolSizesRefusal::TooFewSlots { flag: "--pool-large-slots", needed: 4 };
        assert_eq!(refused(PoolSizes { reactors: 4, large_slots: 3, ..ok() }), too_few);
        assert_eq!(refused(PoolSizes { small_slots: u32::MAX, ..ok() }), PoolSizesRefusal::TooLarge);
        assert!(refused(PoolSizes { udp_slots: 40_000, ..ok() }).to_string().contains("--udp-slots is 40000"));
    }
}
