//! What a seed stands for: the node's sizes and policies, the faults, the senders. Small on purpose: what a real node meets once a
//! week (a full lane, no slot, no chunk, a queue that overflows) is met here all the time.

use std::net::IpAddr;

use super::clients::{FrameMix, Manner};
use super::faults::Faults;
use super::lives::LifeEnd;
use super::rng::Rng;
use super::scheduler::Pace;
use super::session_client::SessionLoad;
use crate::bus::Overflow;
use crate::control::Thresholds;
use crate::ingest::SourceLimits;
use crate::storage::{Durability, SyncMethod};
use crate::sys::clock::Nanos;
use crate::wire::session::AckLevel;
use crate::wire::{Priority, Tier};

/// Bytes that are allocated ahead.
const ALLOCATE_BYTES: [u64; 3] = [0, 64 << 10, 1 << 20];

/// Bytes of a segment.
const SEGMENT_BYTES: [u64; 4] = [6 << 10, 20 << 10, 100 << 10, 1 << 20];

/// The longest frame of every scenario.
pub const FRAME_BYTES_MAX: u32 = 4096;

/// What the TRANSACTIONAL handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandlerManner {
    /// There is none.
    Absent,
    /// It takes everything.
    Good,
    /// It fails some events for a while, some for ever, and panics at others.
    Bad,
}

/// How the UDP side is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpManner {
    /// There is none.
    Absent,
    /// One socket for all.
    One,
    /// Urgent datagrams on a socket of their own.
    Steered,
    /// As `Steered`, aggregated.
    Gro,
}

/// A node under its load.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Seeds what the scenario leaves to chance.
    pub seed: u64,
    /// Whether events are stored.
    pub storage: bool,
    /// Whether connections wait before tiers overflow.
    pub flow_control: bool,
    /// By tier.
    pub overflow: [Overflow; Tier::COUNT],
    /// Capacity by tier, events.
    pub capacity: [usize; Tier::COUNT],
    /// Events that an inlet of the log holds.
    pub inlet_events: usize,
    /// The reactor's event slots: small, medium (beside those for datagrams), large.
    pub slots: [u32; 3],
    /// Receive chunks on offer.
    pub chunks: u16,
    /// Bytes of a receive chunk.
    pub chunk_bytes: u32,
    /// Bytes per arming of a receive; 0 = no cap.
    pub byte_cap: u32,
    /// Parking segments.
    pub parking: u32,
    /// Slots for datagrams.
    pub udp_slots: u16,
    /// How the UDP side is set up.
    pub udp: UdpManner,
    /// Slots of the retry memory: small, medium, large.
    pub retry_slots: [u32; 3],
    /// What the TRANSACTIONAL handler does.
    pub handler: HandlerManner,
    /// Whether duplicates are looked for.
    pub dedup: bool,
    /// When events are durable.
    pub durability: Durability,
    /// How, where every batch is.
    pub sync_method: SyncMethod,
    /// Dead letters that wait to be written.
    pub letters: usize,
    /// Connections at a time.
    pub connections_max: u32,
    /// What each source may take.
    pub source_limits: SourceLimits,
    /// Where clients are, in turns.
    pub addresses: Vec<IpAddr>,
    /// How long a frame may take.
    pub frame_deadline: Nanos,
    /// How long a connection may be silent; 0 = for ever.
    pub idle_deadline: Nanos,
    /// Events that start a write.
    pub flush_events: u32,
    /// Bytes allocated ahead; 0 = none.
    pub allocate_bytes: u64,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Bytes of sealed segments that are kept; 0 = all.
    pub retention_bytes: u64,
    /// Whether no event is taken in while the disk is full.
    pub min_free: bool,
    /// Whether the disk fills up now and then.
    pub disk_fills: bool,
    /// What control takes for too much.
    pub thresholds: Thresholds,
    /// Whether processors' budgets grow with the level.
    pub wide_budgets: bool,
    /// Whether the drain comes in the middle of the load.
    pub early_drain: bool,
    /// What goes wrong in the kernel.
    pub faults: Faults,
    /// How the scheduler divides its steps.
    pub pace: Pace,
    /// TCP clients: how they behave and how many frames they send.
    pub tcp: Vec<(Manner, u32, FrameMix)>,
    /// UDP clients: how many datagrams they send.
    pub udp_clients: Vec<(u32, FrameMix)>,
    /// Programs in the engine's process: how many events they publish.
    pub publishers: Vec<(u32, FrameMix)>,
    /// One more, with the service lanes.
    pub service: Option<(u32, FrameMix)>,
    /// A publisher's event slots: small, medium, large.
    pub publisher_slots: [u32; 3],
    /// How the node's lives end, but for the last.
    pub ends: Vec<LifeEnd>,
    /// Clients of sessions.
    pub sessions: Vec<SessionLoad>,
    /// Producers with a seat at a time.
    pub seats: u16,
    /// Sequences that each may have without an outcome.
    pub session_window: u32,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let storage = !rng.chance(150);
        let udp = *rng.pick(&[UdpManner::Absent, UdpManner::One, UdpManner::Steered, UdpManner::Steered, UdpManner::Gro]);
        let roomy = rng.chance(300);
        let capacity = std::array::from_fn(|_| if roomy { 1024 } else { 1 << rng.between(2..=7) });
        let scenario = Self {
            seed: rng.next_u64(),
            storage,
            flow_control: rng.chance(600),
            overflow: std::array::from_fn(|_| *rng.pick(&Overflow::ALL)),
            capacity,
            inlet_events: 1 << rng.between(1..=7),
            slots: if roomy { [512, 128, 8] } else { slots(rng) },
            chunks: rng.between(1..=5) as u16,
            chunk_bytes: if udp == UdpManner::Gro { *rng.pick(&[9_000, 65_600]) } else { *rng.pick(&[256, 512, 1024, 4096]) },
            byte_cap: *rng.pick(&[0, 0, 700, 3000]),
            parking: rng.between(1..=12) as u32,
            udp_slots: rng.between(1..=8) as u16,
            udp,
            retry_slots: [rng.between(1..=20) as u32, rng.between(1..=4) as u32, 1],
            handler: *rng.pick(&[HandlerManner::Absent, HandlerManner::Good, HandlerManner::Bad, HandlerManner::Bad]),
            dedup: rng.chance(600),
            durability: *rng.pick(&[Durability::None, Durability::Group, Durability::Always]),
            sync_method: *rng.pick(&[SyncMethod::Dsync, SyncMethod::Fdatasync]),
            letters: *rng.pick(&[2, 16, 256]),
            connections_max: *rng.pick(&[2, 64]),
            source_limits: source_limits(rng),
            addresses: addresses(rng),
            frame_deadline: Nanos::from_millis(rng.between(2..=60)),
            idle_deadline: *rng.pick(&[Nanos(0), Nanos::from_millis(20)]),
            flush_events: *rng.pick(&[1, 10, 100]),
            allocate_bytes: *rng.pick(&ALLOCATE_BYTES),
            disk_fills: storage && rng.chance(250),
            thresholds: thresholds(rng, capacity),
            wide_budgets: rng.chance(500),
            early_drain: rng.chance(200),
            faults: faults(rng),
            pace: pace(rng),
            tcp: (0..rng.between(1..=7)).map(|_| tcp_client(rng)).collect(),
            udp_clients: (0..rng.between(0..=2)).map(|_| (rng.between(10..=60) as u32, frame_mix(rng))).collect(),
            publishers: (0..rng.between(0..=2)).map(|_| (rng.between(10..=120) as u32, frame_mix(rng))).collect(),
            service: rng.chance(400).then(|| (rng.between(10..=60) as u32, frame_mix(rng))),
            publisher_slots: [rng.between(4..=60) as u32, rng.between(2..=8) as u32, 1],
            segment_bytes: *rng.pick(&SEGMENT_BYTES),
            retention_bytes: if rng.chance(150) { 20 << 10 } else { 0 },
            min_free: rng.chance(300),
            ends: if storage && rng.chance(600) { ends(rng) } else { Vec::new() },
            sessions: Vec::new(),
            seats: 8,
            session_window: 256,
        };
        scenario.with_sessions(rng)
    }

    fn with_sessions(mut self, rng: &mut Rng) -> Self {
        if rng.chance(400) {
            return self;
        }
        (self.seats, self.session_window) = (*rng.pick(&[1, 2, 8]), *rng.pick(&[64, 256]));
        self.sessions = (0..rng.between(1..=3)).map(|_| self.session_load(rng)).collect();
        if rng.chance(500) {
            self.faults.send_window_bytes = *rng.pick(&[30, 300]);
            self.faults.short_send = 300;
        }
        self
    }

    /// The flags of the next start, where the log and those who use it allow others. What is promised to sessions stays possible; so does what is
    /// said of all lives together (duplicates, retries); who can reach the node, and how much memory it has, stays as it is.
    pub(super) fn change_flags(&mut self, rng: &mut Rng) {
        let promised = self.sessions.iter().map(|load| load.level).max().unwrap_or(AckLevel::Accepted);
        let durable = [Durability::Group, Durability::Always, Durability::None];
        self.durability = *rng.pick(&durable[..if promised == AckLevel::Durable { 2 } else { 3 }]);
        self.sync_method = *rng.pick(&[SyncMethod::Dsync, SyncMethod::Fdatasync]);
        self.flow_control = rng.chance(600);
        self.overflow = std::array::from_fn(|_| *rng.pick(&Overflow::ALL));
        self.inlet_events = 1 << rng.between(1..=7);
        self.byte_cap = *rng.pick(&[0, 0, 700, 3000]);
        self.letters = *rng.pick(&[2, 16, 256]);
        self.connections_max = *rng.pick(&[2, 64]);
        self.source_limits = source_limits(rng);
        self.frame_deadline = Nanos::from_millis(rng.between(2..=60));
        self.idle_deadline = *rng.pick(&[Nanos(0), Nanos::from_millis(20)]);
        self.flush_events = *rng.pick(&[1, 10, 100]);
        self.allocate_bytes = *rng.pick(&ALLOCATE_BYTES);
        self.segment_bytes = *rng.pick(&SEGMENT_BYTES);
        self.retention_bytes = if rng.chance(150) { 20 << 10 } else { 0 };
        self.min_free = rng.chance(300);
        self.wide_budgets = rng.chance(500);
        (self.seats, self.session_window) = (*rng.pick(&[1, 2, 8]), *rng.pick(&[64, 256]));
    }

    fn session_load(&self, rng: &mut Rng) -> SessionLoad {
        let levels = match (self.storage, self.durability) {
            (false, _) => 1,
            (true, Durability::None) => 2,
            (true, Durability::Group | Durability::Always) => 3,
        };
        SessionLoad {
            level: *rng.pick(&AckLevel::ALL[..levels]),
            frames: rng.between(1..=120) as u32,
            mix: frame_mix(rng),
            connections: rng.between(1..=8) as u32,
            breaks: *rng.pick(&[0, 0, 20, 100]),
            stalls: *rng.pick(&[0, 10, 50]),
            wrongs: *rng.pick(&[0, 0, 150]),
            trusts_held: rng.chance(500),
        }
    }
}

/// On most seeds far below what lanes hold, so that levels are reached by a few events; on some as if there were no control.
fn thresholds(rng: &mut Rng, capacity: [usize; Tier::COUNT]) -> Thresholds {
    if rng.chance(200) {
        return Thresholds { max_queue_depth: 1 << 20, min_events_for_evaluation: u64::MAX, ..Thresholds::default() };
    }
    let deepest = capacity.into_iter().max().unwrap_or(1) as u64;
    Thresholds {
        max_queue_depth: (deepest / rng.between(1..=8)).max(2),
        max_drop_rate_millipercent: *rng.pick(&[1_000, 2_000, 10_000]),
        max_latency: Nanos::from_millis(*rng.pick(&[1, 100])),
        min_events_for_evaluation: *rng.pick(&[10, 50, 1_000]),
        recovery_permille: *rng.pick(&[500, 800]),
    }
}

fn ends(rng: &mut Rng) -> Vec<LifeEnd> {
    let steps_max = *rng.pick(&[300, 3_000, 20_000]);
    (0..rng.between(1..=3)).map(|_| LifeEnd::by_chance(rng, steps_max)).collect()
}

/// On most seeds nothing is limited.
fn source_limits(rng: &mut Rng) -> SourceLimits {
    if rng.chance(700) {
        return SourceLimits::default();
    }
    SourceLimits { connections_max: *rng.pick(&[0, 1, 3]), events_per_s: *rng.pick(&[0, 50, 200, 1_000]) }
}

/// Of one to three sources; fewer than a reactor has places for, so that none is forgotten.
fn addresses(rng: &mut Rng) -> Vec<IpAddr> {
    let all = ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2", "192.0.2.2"];
    let addresses = all[..*rng.pick(&[2, 2, 4, 5])].iter();
    addresses.map(|address| address.parse().expect("an address of a documentation's network")).collect()
}

fn slots(rng: &mut Rng) -> [u32; 3] {
    [rng.between(4..=120) as u32, rng.between(3..=24) as u32, rng.between(1..=3) as u32]
}

fn faults(rng: &mut Rng) -> Faults {
    if rng.chance(150) {
        return Faults::none();
    }
    Faults {
        silent_end: *rng.pick(&[0, 20, 300]),
        late_completion: *rng.pick(&[0, 20, 300]),
        late_max: *rng.pick(&[Nanos::from_micros(100), Nanos::from_millis(20)]),
        short_receive: *rng.pick(&[0, 200, 900]),
        eager_enobufs: rng.chance(300),
        buffer_with_nothing: *rng.pick(&[0, 500]),
        byte_cap: rng.chance(700),
        accept_aborted: *rng.pick(&[0, 100]),
        descriptors_max: *rng.pick(&[2, 64]),
        cq_entries: *rng.pick(&[2, 8, 1024]),
        receive_window_bytes: *rng.pick(&[200, 2000, 64 << 10]),
        send_window_bytes: 64 * 1024,
        short_send: 0,
        datagrams_max: *rng.pick(&[4, 1024]),
        truncated_tells_length: rng.chance(500),
        short_write: *rng.pick(&[0, 300]),
        whole_sectors: true,
        file_delay_max: Nanos::from_micros(*rng.pick(&[0, 50, 1_000])),
        file_stall: *rng.pick(&[0, 20]),
        allocate_unsupported: rng.chance(200),
        write_error: if rng.chance(80) { 50 } else { 0 },
        interrupted: *rng.pick(&[0, 100]),
        sync_error: if rng.chance(120) { 200 } else { 0 },
        write_back: *rng.pick(&[0, 300, 1000]),
    }
}

fn pace(rng: &mut Rng) -> Pace {
    Pace {
        kernel: rng.between(100..=350) as u32,
        completions: rng.between(100..=350) as u32,
        time: rng.between(20..=100) as u32,
        wall_jumps: *rng.pick(&[0, 0, 5]),
        leaps: *rng.pick(&[0, 0, 2]),
        stalls: rng.below(6) as u32,
        stall_max: Nanos::from_micros(*rng.pick(&[50, 500, 5_000])),
    }
}

fn tcp_client(rng: &mut Rng) -> (Manner, u32, FrameMix) {
    let manner = if rng.chance(400) { Manner::Orderly } else { *rng.pick(&Manner::ALL) };
    let frames = if manner == Manner::Dribbling { rng.between(1..=12) } else { rng.between(1..=80) };
    (manner, frames as u32, frame_mix(rng))
}

fn frame_mix(rng: &mut Rng) -> FrameMix {
    let priorities = match rng.below(6) {
        0 => vec![Priority::High],
        1 => vec![Priority::Medium],
        2 => vec![Priority::Low, Priority::Batch],
        _ => Priority::ALL.to_vec(),
    };
    FrameMix {
        priorities,
        frame_bytes_max: FRAME_BYTES_MAX as usize,
        long: *rng.pick(&[0, 50, 200]),
        twice: *rng.pick(&[0, 100]),
        // Some clients are slow enough for levels to come and go under their load.
        pause_max: Nanos::from_micros(*rng.pick(&[400, 400, 400, 20_000])),
    }
}
