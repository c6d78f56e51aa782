//! From the configuration to each part's own numbers, and the memory budget of all of them together.

use std::path::PathBuf;

use crate::bus::TierOptions;
use crate::config::{self, Auto, Config, Dedup, DedupKey, OnOff};
use crate::control::Thresholds;
use crate::ingest::{CONNECTION_BYTES, ReactorOptions, Sessions, SourceLimits};
use crate::pool::{PoolPlan, PoolSizes, PoolSizesRefusal, UDP_GRO_CHUNKS};
use crate::process::{
    BatchOptions, DedupBy, DedupOptions, RealtimeOptions, RetryOptions, RetryOrder, RetryPolicy, RulesOptions,
    TransactionalOptions, WindowDefinition, WindowLogOptions,
};
use crate::runner::Idle;
use crate::storage::SegmentOptions;
use crate::storage::appender::AppenderOptions;
use crate::storage::dead_letter::DeadLetterOptions;
use crate::storage::producers::ProducerTable;
use crate::storage::rotating_file::RotatingFileLimits;
use crate::sys::clock::Nanos;
use crate::sys::features::{Feature, Features};
use crate::sys::uring::{SubmissionPolling, UringOptions};
use crate::wire::{FrameLimits, Tier};

/// What counts as too much.
pub(super) fn thresholds(config: &Config) -> Thresholds {
    Thresholds {
        max_queue_depth: u64::from(config.max_queue_depth),
        max_drop_rate_millipercent: config.max_drop_rate.thousandths(),
        max_latency: Nanos::from_millis(u64::from(config.max_latency_ms)),
        min_events_for_evaluation: u64::from(config.min_events_for_evaluation),
        recovery_permille: config.recovery_factor.thousandths(),
    }
}

/// Inlets are small: a full one stops its processor, so that the depth of the tier rises and flow control answers.
pub(super) const INLET_EVENTS: usize = 4096;

/// Room for the name of each group of a window, on average.
const GROUP_NAME_BYTES: usize = 64;

/// TCP makes a connection wait from this share of `--max-queue-depth` on, percent.
const HIGH_WATER_PERCENT: u32 = 40;

/// Memory of one runner's ring beside its buffers: the kernel's submission and completion queues.
const fn ring_bytes(submissions: u32, completions: u32) -> u64 {
    submissions as u64 * 64 + completions as u64 * 16
}

/// Who sends events on a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Producers {
    pub(super) reactors: u32,
    pub(super) publishers: u32,
    /// Whether the engine's own producer is here: on one node of each engine.
    pub(super) service: bool,
}

/// Events in the engine's own lane of each tier, for dead letters that are sent again: they are in no hurry.
pub(super) const SERVICE_LANE_EVENTS: usize = 64;

/// All lanes of the service full, and a few more under way; larger events one at a time.
const SERVICE_SLOTS: [u32; 3] = [256, 16, 1];

const _: () = assert!(SERVICE_SLOTS[0] as usize > SERVICE_LANE_EVENTS * Tier::COUNT);

/// The pool of one node.
pub(super) fn pool_plan(config: &Config, producers: &Producers) -> Result<PoolPlan, PoolSizesRefusal> {
    let defaults = PoolSizes::default();
    PoolPlan::new(&PoolSizes {
        reactors: producers.reactors,
        producers: producers.publishers,
        service_slots: if producers.service { SERVICE_SLOTS } else { [0; 3] },
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
pub(super) fn tier_options(config: &Config, tier: Tier, producers: &Producers) -> TierOptions {
    let capacity_events = config.capacity_events(tier) as usize;
    let high_water = (config.max_queue_depth * HIGH_WATER_PERCENT / 100).max(1) as usize;
    TierOptions {
        capacity_events,
        producers: (producers.reactors + producers.publishers) as usize,
        overflow: config.overflow(tier),
        high_water_events: if config.tcp_flow_control == OnOff::On { high_water } else { capacity_events },
        service_lane_events: if producers.service { SERVICE_LANE_EVENTS } else { 0 },
    }
}

/// A runner's ring.
pub(super) fn ring_options(config: &Config, runner: String, has_reactor: bool) -> UringOptions {
    let defaults = UringOptions::default();
    let on_offer = if has_reactor { chunks_on_offer(config) + config.udp_slots } else { 0 };
    // All that is on offer may complete at once, beside one operation for each connection that ends.
    let completions = config.ring_entries.saturating_mul(8).max((2 * on_offer + config.ring_entries).next_power_of_two());
    UringOptions {
        submission_entries: config.ring_entries,
        completion_entries: config.cq_entries.given().unwrap_or(completions),
        writes_max: defaults.writes_max + if has_reactor { Sessions::sends_max(&super::sessions::options(config)) } else { 0 },
        submission_polling: (config.sqpoll == OnOff::On).then_some(SubmissionPolling { idle_ms: 100, cpu: None }),
        runner,
        ..defaults
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
        source_limits: source_limits(config),
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

/// What one source may take of a reactor.
fn source_limits(config: &Config) -> SourceLimits {
    SourceLimits { connections_max: config.connections_per_source, events_per_s: config.events_per_source }
}

/// The REALTIME processor.
pub(super) fn realtime(config: &Config) -> RealtimeOptions {
    RealtimeOptions { keyed: keyed(config), ..RealtimeOptions::default() }
}

/// Idempotency keys, a table for each tier.
fn keyed(config: &Config) -> DedupOptions {
    let capacity_keys = config.dedup_keyed_capacity as usize;
    DedupOptions { capacity_keys, window: Nanos::from_millis(config.dedup_window_ms), ..DedupOptions::KEYED }
}

/// The alert rules, for a file of alerts.
pub(super) fn rules(config: &Config, alerts: PathBuf) -> RulesOptions {
    RulesOptions { body_bytes_max: config.rule_body_bytes_max.usize(), ..RulesOptions::new(alerts) }
}

/// The TRANSACTIONAL processor.
pub(super) fn transactional(config: &Config, seed: u64) -> TransactionalOptions {
    TransactionalOptions {
        dedup_by: match (config.dedup, &config.dedup_key) {
            (Dedup::Off, _) => None,
            (Dedup::Key, DedupKey::Pointer(pointer)) => Some(DedupBy::Pointer(pointer.clone())),
            (Dedup::Key, DedupKey::Prefix(bytes)) => Some(DedupBy::Prefix(usize::from(*bytes))),
            (Dedup::Content | Dedup::Key, _) => Some(DedupBy::Content),
        },
        dedup: DedupOptions {
            capacity_keys: config.dedup_capacity as usize,
            window: Nanos::from_millis(config.dedup_window_ms),
            ..DedupOptions::default()
        },
        keyed: keyed(config),
        retry: RetryOptions {
            policy: RetryPolicy {
                max_retries: config.max_retries,
                backoff: Nanos::from_millis(u64::from(config.retry_backoff_ms)),
                ..RetryPolicy::default()
            },
            order: match config.retry_order {
                config::RetryOrder::None => RetryOrder::None,
                config::RetryOrder::Topic => RetryOrder::Topic,
            },
            jitter_seed: seed,
        },
        ..TransactionalOptions::default()
    }
}

/// The BATCH processor.
pub(super) fn batch(config: &Config) -> BatchOptions {
    BatchOptions { keyed: keyed(config) }
}

/// The windows of BATCH on a node.
pub(super) fn window_log(config: &Config, path: PathBuf, node: u8) -> WindowLogOptions {
    let span = |(length_ms, slide_ms)| (Nanos::from_millis(u64::from(length_ms)), Nanos::from_millis(u64::from(slide_ms)));
    let (length, slide) = span(config.window_span_ms());
    let default = WindowDefinition { slide, ..WindowDefinition::topics(length) };
    let others = config.windows.iter().map(|entry| {
        let (length, slide) = span(entry.span_ms(config));
        WindowDefinition {
            name: entry.name.clone(),
            filter: entry.topics.clone(),
            group_by: entry.group_by,
            length,
            slide,
            value: entry.value.clone(),
            groups_max: entry.groups_max as usize,
            group_bytes_max: entry.groups_max as usize * GROUP_NAME_BYTES,
            metrics: entry.metrics,
        }
    });
    WindowLogOptions {
        limits: RotatingFileLimits { file_bytes_max: config.window_log_bytes.0, keep_files: config.window_log_files },
        definitions: [default].into_iter().chain(others).collect(),
        node,
        ..WindowLogOptions::new(path)
    }
}

/// The appender.
pub(super) fn appender(config: &Config, largest_payload_bytes: usize) -> AppenderOptions {
    let defaults = AppenderOptions::default();
    AppenderOptions {
        staging_bytes: defaults.staging_bytes.max(AppenderOptions::staging_bytes_min(largest_payload_bytes)),
        flush_events: config.flush_events,
        flush_interval: Nanos::from_micros(u64::from(config.flush_interval_us)),
        durability: config.durability,
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
        producers_max: config.producers,
        ..SegmentOptions::default()
    }
}

/// The dead letters. Their lines hold a frame in base64 (4/3 of it), so twice the largest frame always has room.
pub(super) fn dead_letters(config: &Config) -> DeadLetterOptions {
    let defaults = DeadLetterOptions::new(config.dead_letter_file());
    let spool_bytes = defaults.spool_bytes.max(2 * config.max_frame_bytes.usize());
    let limits = RotatingFileLimits { file_bytes_max: config.dead_letter_bytes.0, keep_files: config.dead_letter_files };
    DeadLetterOptions { spool_bytes, limits, ..defaults }
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
        budget.add_for_flag(name, flag, u64::from(config.capacity_events(tier)) + SERVICE_LANE_EVENTS as u64, 8);
    }
    let transactional = transactional(config, 0);
    if transactional.dedup_by.is_some() {
        budget.add_for_flag("dedup table", "--dedup-capacity", 1, transactional.dedup.table_bytes() as u64);
    }
    let keyed_bytes = transactional.keyed.table_bytes() as u64;
    budget.add_for_flag("idempotency keys", "--dedup-keyed-capacity", Tier::COUNT as u64, keyed_bytes);
    if config.storage == OnOff::On {
        budget.add("inlets of the log", 3 * INLET_EVENTS as u64, 8);
        // The appender's, and the one that the log was opened with.
        budget.add_for_flag("producers of the log", "--producers", 2, ProducerTable::memory_bytes(config.producers));
        budget.add("staging buffers of the log", 2, appender(config, largest).staging_bytes as u64);
    }
    if !config.rules.is_empty() {
        let bytes = rules(config, PathBuf::new()).memory_bytes(&config.rules);
        budget.add_for_flag("rules: topics and queues of actions", "--rule-body-bytes-max", 1, bytes as u64);
    }
    budget.add("window statistics", 1, window_log(config, PathBuf::new(), 0).table_bytes() as u64);
    let sessions = super::sessions::options(config).memory_bytes();
    budget.add_for_flag("sessions: seats and outboxes", "--sessions", reactors, sessions);
    let ring = ring_options(config, String::new(), true);
    budget.add_for_flag("rings", "--ring-entries", runners, ring_bytes(ring.submission_entries, ring.completion_entries));
    budget.add_for_flag(
        "connection table",
        "--max-connections",
        reactors * u64::from(config.max_connections),
        CONNECTION_BYTES as u64,
    );
    let limits = source_limits(config);
    if limits.any() {
        let name = "sources: connections and rates";
        budget.add_for_flag(name, "--max-connections", reactors, limits.memory_bytes(config.max_connections));
    }
    if limits.of_datagrams().any() && config.udp_listen.is_some() {
        let bytes = limits.of_datagrams().memory_bytes(config.max_connections);
        budget.add_for_flag("sources of datagrams: rates", "--max-connections", reactors, bytes);
    }
    budget.add("latency histograms", 15 + reactors, HISTOGRAM_BYTES);
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
