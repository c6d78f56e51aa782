//! The simulator's seeds: real agents under faults, judged by the oracles of `eventstream::sim::oracle`.
//!
//! A failing seed prints itself; `EVENTSTREAM_SIM_SEED=n cargo test --test simulation` runs it alone. `EVENTSTREAM_SIM_SEEDS=n` runs the
//! seeds below n instead of the first 500.

use std::ops::Range;

use eventstream::sim::world::{Outcome, run_seed};

/// How many seeds every run of the tests covers.
const SEEDS: u64 = 500;

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

fn run_part(part: u64) {
    for seed in seeds(part) {
        run_seed(seed);
    }
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
    every_oracle_holds_on_the_1st_eighth_of_the_seeds = 0,
    every_oracle_holds_on_the_2nd_eighth_of_the_seeds = 1,
    every_oracle_holds_on_the_3rd_eighth_of_the_seeds = 2,
    every_oracle_holds_on_the_4th_eighth_of_the_seeds = 3,
    every_oracle_holds_on_the_5th_eighth_of_the_seeds = 4,
    every_oracle_holds_on_the_6th_eighth_of_the_seeds = 5,
    every_oracle_holds_on_the_7th_eighth_of_the_seeds = 6,
    every_oracle_holds_on_the_8th_eighth_of_the_seeds = 7
);

#[test]
fn a_seed_replays_to_the_last_byte_of_its_log() {
    for seed in [3, 14, 15] {
        let outcomes: [Outcome; 2] = std::array::from_fn(|_| run_seed(seed));
        assert_eq!(outcomes[0], outcomes[1], "seed {seed}");
    }
}
