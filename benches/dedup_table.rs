//! What an insert into the table of seen keys costs: tables for a thousand and for a million keys, half full and flooded, the making of keys
//! apart. Prints nanoseconds per insert (the least of the rounds, as others only ever add to it) and their ratio.
//!
//!     cargo bench --bench dedup_table

use std::hint::black_box;
use std::time::Instant;

use eventstream::process::DedupOptions;
use eventstream::process::dedup::{Dedup, DedupKey, Progress, Seen};

/// As many as a processor takes in a poll.
const BATCH: usize = 64;
const ROUNDS: usize = 15;
const INSERTS: u64 = 256 * 1024;

/// SplitMix64 (Steele, Lea, Flood, 2014), twice.
fn key(number: u64) -> DedupKey {
    let mix = |seed: u64| {
        let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    };
    DedupKey::new(u128::from(mix(number)) << 64 | u128::from(mix(!number)))
}

/// Inserts keys in batches as a processor does: all prefetched, all asked for, all handed over.
fn insert(table: &mut Dedup, keys: &[DedupKey], first: u64) {
    for (batch, index) in keys.chunks(BATCH).zip((first..).step_by(BATCH)) {
        batch.iter().for_each(|key| table.prefetch(*key));
        // What was handed over in batches before is written by now.
        let progress = Progress { delivered: index, committed: index };
        let new = batch.iter().filter(|key| table.admit(**key, progress) == Seen::New).count();
        assert_eq!(new, batch.len(), "all keys differ");
        batch.iter().zip(index..).for_each(|(key, index)| table.hand_over(*key, index));
    }
}

/// Nanoseconds per insert into a table that holds `filled` keys when it begins.
fn measure(options: &DedupOptions, filled: u64, inserts: u64) -> f64 {
    let mut table = Dedup::new(options);
    let fill: Vec<DedupKey> = (0..filled).map(key).collect();
    insert(&mut table, &fill, 0);
    let keys: Vec<DedupKey> = (filled..filled + inserts).map(key).collect();
    let begun = Instant::now();
    insert(&mut table, black_box(&keys), filled);
    begun.elapsed().as_nanos() as f64 / inserts as f64
}

/// Many small tables instead of one that would be flooded: nanoseconds per insert up to half of the capacity.
fn measure_small(options: &DedupOptions) -> f64 {
    let inserts = options.capacity_keys as u64 / 2 / BATCH as u64 * BATCH as u64;
    let tables = INSERTS / inserts;
    (0..tables).map(|_| measure(options, 0, inserts)).sum::<f64>() / tables as f64
}

fn main() {
    let (small, large) = (1_000, 1_000_000);
    for (name, options) in [("one bucket probed", DedupOptions::default()), ("sixteen buckets probed", DedupOptions::KEYED)] {
        let [small, large] = [small, large].map(|capacity_keys| DedupOptions { capacity_keys, ..options });
        let mut best = [f64::MAX; 4];
        for _ in 0..ROUNDS {
            let round = [
                measure_small(&small),
                measure(&large, 0, INSERTS),
                measure(&small, 10_000, INSERTS),
                measure(&large, 2_500_000, INSERTS),
            ];
            best.iter_mut().zip(round).for_each(|(best, new)| *best = best.min(new));
        }
        let [small_half, large_half, small_flooded, large_flooded] = best;
        println!("{name}, ns per insert      1,000 keys   1,000,000 keys   ratio");
        println!("  up to half of the capacity   {small_half:10.1} {large_half:16.1} {:7.2}", large_half / small_half);
        println!(
            "  flooded                      {small_flooded:10.1} {large_flooded:16.1} {:7.2}",
            large_flooded / small_flooded
        );
    }
}
