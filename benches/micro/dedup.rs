//! Inserts into the table of seen keys: tables for a thousand and for a million keys, up to half of their capacity and flooded; the
//! making of keys apart.

use std::hint::black_box;

use eventstream::process::dedup::{Dedup, DedupKey, Progress, Seen};
use eventstream::process::identity::Identity;
use eventstream::process::{DedupBy, DedupOptions};
use eventstream::sys::clock::Nanos;

use crate::rig::{BATCH, BODY_BYTES, Pass, Row, TOPIC, timed};

const INSERTS: usize = 256 * 1024;
const SMALL_KEYS: usize = 1_000;
const LARGE_KEYS: usize = 1_000_000;
/// Where whole batches come to half of the small table.
const SMALL_INSERTS: usize = SMALL_KEYS / 2 / BATCH * BATCH;
/// An insert into the large table is to cost at most this much more than one into the small one.
pub const GROWTH_BAR: f64 = 1.5;
/// The two that this is about.
pub const SMALL: &str = "dedup, insert, 1,000 keys, up to half";
pub const LARGE: &str = "dedup, insert, 1,000,000 keys, up to half";

pub fn rows() -> Vec<Row> {
    let (once, probing) = (DedupOptions::default(), DedupOptions::KEYED);
    let whole = INSERTS / SMALL_INSERTS * SMALL_INSERTS;
    vec![
        Row::new("dedup, key of 73 bytes", INSERTS / 4, make_keys),
        Row::new(SMALL, whole, move || up_to_half_of_small(&once)),
        Row::new(LARGE, INSERTS, move || up_to_half_of_large(&once)).below(20.0),
        Row::new("dedup, insert, 1,000 keys, flooded", INSERTS, move || flooded(&once, SMALL_KEYS)),
        Row::new("dedup, insert, 1,000,000 keys, flooded", INSERTS, move || flooded(&once, LARGE_KEYS)).below(20.0),
        Row::new("dedup, 16 buckets, 1,000 keys, up to half", whole, move || up_to_half_of_small(&probing)),
        Row::new("dedup, 16 buckets, 1,000,000 keys, up to half", INSERTS, move || up_to_half_of_large(&probing)),
        Row::new("dedup, 16 buckets, 1,000,000 keys, flooded", INSERTS, move || flooded(&probing, LARGE_KEYS)),
    ]
}

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

fn keys(first: u64, count: usize) -> Vec<DedupKey> {
    (first..first + count as u64).map(key).collect()
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

fn table(options: &DedupOptions, capacity_keys: usize) -> Dedup {
    Dedup::new(&DedupOptions { capacity_keys, ..*options })
}

/// A fresh table in each pass.
fn up_to_half_of_large(options: &DedupOptions) -> Pass {
    let (options, keys) = (*options, keys(0, INSERTS));
    Box::new(move || {
        let mut table = table(&options, LARGE_KEYS);
        timed(|| insert(&mut table, black_box(&keys), 0))
    })
}

/// Many small tables, one after the other.
fn up_to_half_of_small(options: &DedupOptions) -> Pass {
    let (options, keys) = (*options, keys(0, INSERTS / SMALL_INSERTS * SMALL_INSERTS));
    Box::new(move || {
        let pass = |keys: &[DedupKey]| {
            let mut table = table(&options, SMALL_KEYS);
            timed(|| insert(&mut table, black_box(keys), 0))
        };
        keys.chunks(SMALL_INSERTS).map(pass).fold(Nanos(0), |sum, took| sum + took)
    })
}

/// A table that was full long ago.
fn flooded(options: &DedupOptions, capacity_keys: usize) -> Pass {
    let mut table = table(options, capacity_keys);
    let mut first = 2 * capacity_keys as u64;
    insert(&mut table, &keys(0, first as usize), 0);
    Box::new(move || {
        let keys = keys(first, INSERTS);
        let took = timed(|| insert(&mut table, black_box(&keys), first));
        first += INSERTS as u64;
        took
    })
}

fn make_keys() -> Pass {
    let identity = Identity::new(DedupBy::Content);
    let mut payload = [TOPIC.as_bytes(), &[b'x'; BODY_BYTES]].concat();
    let mut number = 0u64;
    Box::new(move || {
        timed(|| {
            for _ in 0..INSERTS / 4 {
                number += 1;
                payload[TOPIC.len()..][..8].copy_from_slice(&number.to_le_bytes());
                black_box(identity.of_payload(&payload, TOPIC.len() as u16));
            }
        })
    })
}
