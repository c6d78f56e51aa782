//! From the configuration to each part's own numbers, and the memory budget of all of them together.

use crate::bus::{Overflow, TierOptions};
use crate::config::{self, Auto, Config, Dedup, OnOff};
use crate::ingest::{CONNECTION_BYTES, ReactorOptions};
use crate::pool::{PoolPlan, PoolSizes, PoolSizesRefusal, UDP_GRO_CHUNKS};
use crate::process::{BatchOptions, DedupOptions, RealtimeOptions, RetryOptions, TransactionalOptions, WindowLogOptions};
use crate::runner::Idle;
use crate::storage::SegmentOptions;
use crate::storage::appender::{AppenderOptions, Durability};
use crate::storage::dead_letter::DeadLetterOptions;
use crate::sys::clock::Nanos;
use crate::sys::features::{Feature, Features};
use crate::sys::uring::{SubmissionPolling, UringOptions};
use crate::wire::{FrameLimits, Tier};

/// Inlets are small: a full one stops its processor, so that the depth of the tier rises and flow control answers.
pub(super) const INLET_EVENTS: usize = 4096;

/// TCP makes a connection wait from this share of `--max-queue-depth` on, percent.
const HIGH_WATER_PERCENT: u32 = 40;

/// Memory of one runner's ring beside its buffers: the kernel's submission and completion queues.
const fn ring_bytes(submissions: u32, completions: u32) -> u64 {
    submissions as u64 * 64 + completions as u64 * 16
}

/// The pool of one node.
pub(super) fn pool_plan(config: &Config, reactors: u32) -> Result<PoolPlan, PoolSizesRefusal> {
    let defaults = PoolSizes::default();
    PoolPlan::new(&PoolSizes {
        reactors,
        small_slots: config.pool_small_slots.given().unwrap_or(defaults.small_slots),
        medium_slots: config.pool_medium_slots.given().unwrap_or(defaults.medium_slots),
        large_slots: config.pool_large_slots.given().unwrap_or(defaults.large_slots),
        tcp_chunks: chunks_on_offer(config),
        tcp_chunk_bytes: config.tcp_chunk_bytes.u32(),
        udp_slots: if config.udp_listen.is_some() { config.udp_slots } else { 0 },
        udp_gro: config.udp_gro == OnOff::On,
        max_frame_bytes: config.max_frame_bytes.u32(),
        ..defaults
    })
}

/// Chunks that the poll budget allows; more would never be offered.
pub(super) fn chunks_on_offer(config: &Config) -> u32 {
    (config.receive_offer_bytes() / config.tcp_chunk_bytes.0) as u32
}

/// A tier's lanes.
pub(super) fn tier_options(config: &Config, tier: Tier, producers: usize) -> TierOptions {
    let capacity_events = config.capacity_events(tier) as usize;
    let high_water = (config.max_queue_depth * HIGH_WATER_PERCENT / 100).max(1) as usize;
    TierOptions {
        capacity_events,
        producers,
        overflow: match config.overflow(tier) {
            config::Overflow::DropOld => Overflow::DropOld,
            config::Overflow::DropNew => Overflow::DropNew,
            config::Overflow::BlockProducer => Overflow::BlockProducer,
        },
        high_water_events: if config.tcp_flow_control == OnOff::On { high_water } else { capacity_events },
    }
}

/// A runner's ring.
pub(super) fn ring_options(config: &Config, runner: String, has_reactor: bool) -> UringOptions {
    let on_offer = if has_reactor { chunks_on_offer(config) + config.udp_slots } else { 0 };
    // All that is on offer may complete at once, beside one operation for each connection that ends.
    let completions = config.ring_entries.saturating_mul(8).max((2 * on_offer + config.ring_entries).next_power_of_two());
    UringOptions {
        submission_entries: config.ring_entries,
        completion_entries: config.cq_entries.given().unwrap_or(completions),
        submission_polling: (config.sqpoll == OnOff::On).then_some(SubmissionPolling { idle_ms: 100, cpu: None }),
        runner,
        ..UringOptions::default()
    }
}

/// What a runner without work does.
pub(super) fn idle(config: &Config) -> Idle {
    match config.idle {
        config::IdleStrategy::Spin => Idle::Spin,
        config::IdleStrategy::Adaptive => Idle::Adaptive,
        config::IdleStrategy::Park => Idle::Park,
    }
}

/// A reactor.
pub(super) fn reactor(config: &Config, features: &Features) -> ReactorOptions {
    let gro = config.udp_gro == OnOff::On;
    ReactorOptions {
        limits: FrameLimits { max_frame_bytes: config.max_frame_bytes.u32() },
        connections_max: config.max_connections,
        tcp_flow_control: config.tcp_flow_control == OnOff::On,
        tcp_chunks_offered: chunks_on_offer(config) as u16,
        tcp_byte_cap: if features.has(Feature::ByteCap) { ReactorOptions::default().tcp_byte_cap } else { 0 },
        udp_slots: config.udp_slots as u16,
        udp_gro_chunks: if gro { UDP_GRO_CHUNKS as u16 } else { 0 },
        frame_deadline: Nanos::from_millis(config.frame_deadline_ms),
        idle_deadline: Nanos::from_millis(config.idle_deadline_ms),
        drain_read_max: Nanos::from_millis(config.drain_timeout_ms.min(2_000) / 2),
        ..ReactorOptions::default()
    }
}

/// The REALTIME processor.
pub(super) fn realtime(_config: &Config) -> RealtimeOptions {
    RealtimeOptions::default()
}

/// The TRANSACTIONAL processor.
pub(super) fn transactional(config: &Config, seed: u64) -> TransactionalOptions {
    TransactionalOptions {
        dedup: (config.dedup == Dedup::Content).then(|| DedupOptions {
            capacity_keys: config.dedup_capacity as usize,
            window: Nanos::from_millis(config.dedup_window_ms),
        }),
        retry: RetryOptions {
            max_retries: config.max_retries,
            backoff: Nanos::from_millis(u64::from(config.retry_backoff_ms)),
            jitter_seed: seed,
            ..RetryOptions::default()
        },
        ..TransactionalOptions::default()
    }
}

/// The BATCH processor.
pub(super) fn batch(config: &Config) -> BatchOptions {
    BatchOptions { window: Nanos::from_millis(u64::from(config.window_ms)) }
}

/// The appender.
pub(super) fn appender(config: &Config, largest_payload_bytes: usize) -> AppenderOptions {
    let defaults = AppenderOptions::default();
    AppenderOptions {
        staging_bytes: defaults.staging_bytes.max(AppenderOptions::staging_bytes_min(largest_payload_bytes)),
        flush_events: config.flush_events,
        flush_interval: Nanos::from_micros(u64::from(config.flush_interval_us)),
        durability: match config.durability {
            config::Durability::None => Durability::None,
            config::Durability::Group => Durability::Group,
            config::Durability::Always => Durability::Always,
        },
        commit_interval: Nanos::from_micros(u64::from(config.commit_interval_us)),
        commit_bytes: config.commit_bytes.0,
        ..defaults
    }
}

/// A log's segments.
pub(super) fn segments(config: &Config) -> SegmentOptions {
    SegmentOptions {
        segment_bytes: config.segment_bytes.0,
        retention_bytes: config.retention_bytes.0,
        retention_age_s: config.retention_age_s,
        min_free_bytes: config.min_free_bytes.0,
        keep_for_cursors: config.retention_respects_cursors == OnOff::On,
        ..SegmentOptions::default()
    }
}

/// The dead letters. Their lines hold a frame in base64 (4/3 of it), so twice the largest frame always has room.
pub(super) fn dead_letters(config: &Config) -> DeadLetterOptions {
    let defaults = DeadLetterOptions::new(config.dead_letter_file());
    let spool_bytes = defaults.spool_bytes.max(2 * config.max_frame_bytes.usize());
    DeadLetterOptions { spool_bytes, ..defaults }
}

/// Adds what a node holds beside its pool, one line each.
pub(super) fn add_to_budget(plan: &mut PoolPlan, config: &Config, runners: u64, reactors: u64) {
    let largest = plan.strides.payload_bytes(crate::pool::SlotClass::Large);
    let budget = &mut plan.budget;
    for tier in Tier::ALL {
        let (name, flag) = match tier {
            Tier::Realtime => ("lanes of REALTIME", "--realtime-capacity"),
            Tier::Transactional => ("lanes of TRANSACTIONAL", "--transactional-capacity"),
            Tier::Batch => ("lanes of BATCH", "--batch-capacity"),
        };
        budget.add_for_flag(name, flag, u64::from(config.capacity_events(tier)), 8);
    }
    if let Some(dedup) = transactional(config, 0).dedup {
        budget.add_for_flag("dedup table", "--dedup-capacity", 1, dedup.table_bytes() as u64);
    }
    if config.storage == OnOff::On {
        budget.add("inlets of the log", 3 * INLET_EVENTS as u64, 8);
        budget.add("staging buffers of the log", 2, appender(config, largest).staging_bytes as u64);
    }
    budget.add("window statistics", 1, WindowLogOptions::new("").table_bytes() as u64);
    let ring = ring_options(config, String::new(), true);
    budget.add_for_flag("rings", "--ring-entries", runners, ring_bytes(ring.submission_entries, ring.completion_entries));
    budget.add_for_flag(
        "connection table",
        "--max-connections",
        reactors * u64::from(config.max_connections),
        CONNECTION_BYTES as u64,
    );
    budget.add("latency histograms", 15, HISTOGRAM_BYTES);
}

/// Two copies (the recorder's and the shared one) of a histogram of 2 digits up to a minute.
const HISTOGRAM_BYTES: u64 = 2 * 40 * 1024;

/// The value of an `auto` option, where the engine's choice is a constant.
pub(super) fn nodes(config: &Config) -> Option<u8> {
    match config.nodes {
        Auto::Auto => None,
        Auto::Given(nodes) => Some(nodes),
    }
}
