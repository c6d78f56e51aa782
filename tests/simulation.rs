//! The simulator's seeds: real agents under faults, judged by the oracles of `eventstream::sim::oracle`.
//!
//! A failing seed prints itself; `EVENTSTREAM_SIM_SEED=n cargo test --test simulation` runs it alone. `EVENTSTREAM_SIM_SEEDS=n` runs the
//! seeds below n instead of the first 2,000.

use std::collections::BTreeMap;
use std::ops::Range;

use eventstream::bus::Overflow;
use eventstream::control::Thresholds;
use eventstream::ingest::SourceLimits;
use eventstream::metrics::ledger::DropReason;
use eventstream::sim::campaign::{Bug, run_seed, try_seed};
use eventstream::sim::clients::{FrameMix, Manner};
use eventstream::sim::faults::Faults;
use eventstream::sim::lives::How;
use eventstream::sim::scenario::{HandlerManner, Scenario, UdpManner};
use eventstream::sim::tally::Tally;
use eventstream::sim::world::{Outcome, run};
use eventstream::storage::{Durability, SyncMethod};
use eventstream::sys::clock::Nanos;
use eventstream::wire::Priority;

/// How many seeds every run of the tests covers.
const SEEDS: u64 = 2_000;

/// The tests below share the seeds; the runner of tests spreads them over the cores.
const PARTS: u64 = 8;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is `{text}`, which is no number")))
}

/// The seeds of a part; the one asked for by name runs in the first.
fn seeds(part: u64) -> Range<u64> {
    match number("EVENTSTREAM_SIM_SEED") {
        Some(seed) if part == 0 => seed..seed + 1,
        Some(_) => 0..0,
        None => {
            let all = number("EVENTSTREAM_SIM_SEEDS").unwrap_or(SEEDS);
            all * part / PARTS..all * (part + 1) / PARTS
        }
    }
}

/// So many seeds meet every kind of fault.
const EVERY_FAULT_SEEDS: u64 = SEEDS / PARTS;

fn run_part(part: u64) {
    let (seeds, mut faults) = (seeds(part), Tally::default());
    let is_enough = seeds.end - seeds.start >= EVERY_FAULT_SEEDS;
    seeds.for_each(|seed| faults.add(&run_seed(seed).faults));
    println!("{faults}");
    assert!(faults.never().is_empty() || !is_enough, "no seed met {:?}", faults.never());
}

macro_rules! parts {
    ($($name:ident = $part:literal),*) => { $(
        #[test]
        fn $name() {
            run_part($part);
        }
    )* };
}

parts!(
    every_oracle_holds_and_every_fault_is_met_on_the_1st_eighth_of_the_seeds = 0,
    every_oracle_holds_and_every_fault_is_met_on_the_2nd_eighth_of_the_seeds = 1,
    every_oracle_holds_and_every_fault_is_met_on_the_3rd_eighth_of_the_seeds = 2,
    every_oracle_holds_and_every_fault_is_met_on_the_4th_eighth_of_the_seeds = 3,
    every_oracle_holds_and_every_fault_is_met_on_the_5th_eighth_of_the_seeds = 4,
    every_oracle_holds_and_every_fault_is_met_on_the_6th_eighth_of_the_seeds = 5,
    every_oracle_holds_and_every_fault_is_met_on_the_7th_eighth_of_the_seeds = 6,
    every_oracle_holds_and_every_fault_is_met_on_the_8th_eighth_of_the_seeds = 7
);

/// What a hundred seeds must have met at least once: where one of these stays at zero, the simulation no longer tests it.
const MET: [&str; 77] = [
    "accept_backoff",
    "connection_waits batch",
    "connection_waits realtime",
    "connection_waits transactional",
    "connections_closed drained",
    "connections_closed idle",
    "connections_closed over_limit",
    "connections_closed peer",
    "connections_closed refused",
    "connections_closed reset",
    "connections_closed slow_frame",
    "connections_closed source_limit",
    "control_transitions 0 CRITICAL",
    "control_transitions 0 DEGRADED",
    "control_transitions 0 ELEVATED",
    "control_transitions 0 EMERGENCY",
    "control_transitions 0 HEALTHY",
    "dead_letter_lost queue_full",
    "dedup_table_hits trans body",
    "events backpressure_drop",
    "events duplicate",
    "events emergency_drop",
    "events handled",
    "events handler_panic",
    "events pool_exhausted",
    "events processing_failed",
    "events queue_full",
    "events retry_overflow",
    "events store_unavailable",
    "events stored",
    "frames_refused tcp length_too_long",
    "frames_refused tcp length_too_short",
    "frames_refused tcp unknown_priority",
    "frames_refused udp cut_short",
    "kernel_drops realtime",
    "kernel_drops rest",
    "log_allocations",
    "log_allocations_refused",
    "log_interrupted",
    "log_no_space",
    "log_segments_prepared",
    "log_segments_recycled",
    "log_segments_sealed",
    "log_short_writes",
    "log_syncs",
    "parked_bytes",
    "partial_frame",
    "pinned_chunks",
    "publications lost pool_exhausted",
    "publications lost queue_full",
    "publications lost store_unavailable",
    "publications sent",
    "publications waiting Room",
    "rate_waits",
    "receives_starved",
    "retries",
    "session client byes",
    "session client held and not sent again",
    "session client over lives",
    "session client refusals",
    "session client sent again",
    "session client wrongs told",
    "session_acks",
    "session_duplicates",
    "session_errors no_seat",
    "session_errors slow_frame",
    "session_errors slow_reader",
    "session_errors stopping",
    "session_errors superseded",
    "session_refusals emergency_drop",
    "session_refusals queue_full",
    "session_refusals store_unavailable",
    "session_seats_evicted",
    "sessions_welcomed",
    "slot_waits",
    "udp_empty",
    "udp_truncated",
];

#[test]
fn the_seeds_reach_every_way_an_event_can_go_and_every_wait() {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for outcome in (0..300).map(run_seed) {
        outcome.counters.into_iter().for_each(|(name, value)| *sums.entry(name).or_default() += value);
        let terms = outcome.terms;
        let ways = [("stored", terms.stored), ("handled", terms.handled), ("duplicate", terms.duplicate)];
        let lost = DropReason::ALL.map(|reason| (reason.name(), terms.lost[reason as usize]));
        for (name, events) in ways.into_iter().chain(lost) {
            *sums.entry(format!("events {name}")).or_default() += events;
        }
    }
    let not_met: Vec<&str> = MET.into_iter().filter(|name| sums.get(*name).is_none_or(|sum| *sum == 0)).collect();
    assert!(not_met.is_empty(), "three hundred seeds never met {not_met:?}; they met {sums:#?}");
}

/// Within so many seeds each planted bug is caught.
const BUG_SEEDS: u64 = 100;

#[test]
fn every_planted_bug_is_caught_by_an_oracle() {
    for bug in Bug::ALL {
        let failure = (0..BUG_SEEDS).find_map(|seed| try_seed(seed, Some(bug)).err());
        let failure = failure.unwrap_or_else(|| panic!("{bug:?} gets through {BUG_SEEDS} seeds: there is a hole in the suite"));
        println!("{}: seed {}, {}", bug.name(), failure.seed, failure.oracle.lines().next().unwrap_or_default());
    }
}

#[test]
fn a_sync_that_is_left_out_is_noticed_whichever_way_batches_are_made_durable() {
    for method in [SyncMethod::Dsync, SyncMethod::Fdatasync] {
        let is_so =
            |scenario: &Scenario| scenario.storage && scenario.durability == Durability::Always && scenario.sync_method == method;
        // Without a restart, which may change the way.
        let seeds = (0..BUG_SEEDS).filter(|seed| {
            let scenario = Scenario::of_seed(*seed);
            is_so(&scenario) && !scenario.ends.iter().any(|end| end.how == How::Stopped)
        });
        let failure = seeds.into_iter().find_map(|seed| try_seed(seed, Some(Bug::NoFsync)).err());
        let failure = failure.unwrap_or_else(|| panic!("NO_FSYNC gets through with {}", method.name()));
        println!("NO_FSYNC with {}: seed {}, {}", method.name(), failure.seed, failure.oracle.lines().next().unwrap_or_default());
    }
}

#[test]
fn an_acknowledgement_of_what_is_only_staged_is_noticed_by_the_client_that_got_it() {
    let is_told = |seed| try_seed(seed, Some(Bug::EarlyAck)).is_err_and(|failure| failure.oracle.starts_with("O12"));
    // Mostly another oracle, which looks first, has noticed by then.
    let seed = (0..10 * BUG_SEEDS).find(|seed| is_told(*seed)).expect("O12 is not blind to acknowledgements");
    println!("EARLY_ACK by O12: seed {seed}");
}

#[test]
fn a_seed_replays_to_the_last_byte_of_its_log() {
    for seed in [3, 14, 15] {
        let outcomes: [Outcome; 2] = std::array::from_fn(|_| run_seed(seed));
        assert_eq!(outcomes[0], outcomes[1], "seed {seed}");
    }
}

/// A node with room for a hundred events behind a disk that takes up to half a second for each operation, and senders that go on for two
/// seconds: one that can wait, one that cannot.
fn slow_disk(seed: u64) -> Scenario {
    let mix = |priorities: &[Priority]| FrameMix {
        priorities: priorities.to_vec(),
        frame_bytes_max: 200,
        long: 0,
        twice: 0,
        pause_max: Nanos::from_millis(20),
    };
    Scenario {
        storage: true,
        flow_control: true,
        overflow: [Overflow::DropOld, Overflow::BlockProducer, Overflow::DropNew],
        capacity: [64; 3],
        inlet_events: 4,
        slots: [512, 128, 8],
        udp: UdpManner::One,
        udp_slots: 32,
        handler: HandlerManner::Good,
        durability: Durability::Always,
        disk_fills: false,
        early_drain: false,
        ends: Vec::new(),
        source_limits: SourceLimits::default(),
        thresholds: Thresholds { max_queue_depth: 20, min_events_for_evaluation: u64::MAX, ..Thresholds::default() },
        faults: Faults { file_delay_max: Nanos::from_millis(5), file_stall: 1_000, ..Faults::none() },
        tcp: vec![(Manner::Orderly, 200, mix(&[Priority::Medium, Priority::Low]))],
        udp_clients: vec![(600, mix(&Priority::ALL))],
        ..Scenario::of_seed(seed)
    }
}

#[test]
fn a_disk_that_takes_half_a_second_raises_levels_for_what_cannot_wait_and_they_fall_again() {
    let (mut shed, mut entered) = (0, BTreeMap::new());
    for seed in 0..3 {
        // That the level is HEALTHY at the end, that the ledger balances and that every slot is home is O1, O5 and O8.
        let Outcome { terms, counters, .. } = run(&slow_disk(seed));
        shed += terms.lost[DropReason::BackpressureDrop as usize] + terms.lost[DropReason::EmergencyDrop as usize];
        for (name, value) in counters.into_iter().filter(|(name, _)| name.starts_with("control_transitions")) {
            *entered.entry(name).or_insert(0) += value;
        }
    }
    assert!(entered["control_transitions 0 DEGRADED"] > 0, "{entered:?}");
    assert!(shed > 0, "{entered:?}");
}
