//! Disks that lie: a bit that flips, a block that is written to the wrong place.
//!
//! - **O11** Whatever a medium does to a log that was closed in good order: nobody reads a record that was not there, and what can't be read
//!   any more is told of, by readers as by the next opening. Stated limit (`storage::walk`): where the last batches are hit together with
//!   the mark behind them, nothing is left that could tell.

use super::disk::SimDisk;
use super::oracle::Stored;
use super::rng::Rng;
use super::tally::{Fault, Met};
use crate::storage::LogIdentity;
use crate::storage::format::BLOCK_BYTES;
use crate::storage::node_reader::{NodeReader, verify};
use crate::storage::recovery::recover;
use crate::sys::clock::WallNanos;

/// The active segment of the only node.
const ACTIVE: &str = "events.bin";

/// Damages a copy of a closed log, and looks who notices. `mark_at`: where in the active segment the mark lies that closed it.
///
/// # Panics
/// If O11 does not hold.
pub(super) fn check_damage(closed: &SimDisk, records: &[Stored], mark_at: u64, rng: &mut Rng, met: &Met) {
    let disk = closed.fork();
    let is_flip = rng.chance(700);
    met.note(if is_flip { Fault::BitFlipped } else { Fault::Misdirected });
    let (what, has_evidence) = if is_flip { flip_bit(&disk, rng) } else { misdirect(&disk, mark_at, rng) };
    let (read, is_told) = read(&disk, records, &what);
    assert!(
        is_told || read == records.len() || !has_evidence,
        "O11: {what}: {read} of {} records read, none the wiser",
        records.len()
    );
    let identity = LogIdentity { node: 0, log_id: 1, wall: WallNanos(1) };
    if recover(&disk, &identity).is_ok() {
        let (read, is_told) = self::read(&disk, records, &what);
        let is_lost = read < records.len();
        assert!(!is_lost || is_told || !has_evidence, "O11: {what}: {read} of {} records recovered", records.len());
    }
}

/// How many records can be read, all as they were; and whether anything is known to be lost.
fn read(disk: &SimDisk, records: &[Stored], what: &str) -> (usize, bool) {
    let Ok(reader) = NodeReader::open(disk.clone(), 0) else { return (0, true) };
    let (mut read, mut is_told) = (0, false);
    for record in reader.into_records() {
        let Ok(record) = record.map(Stored::from) else {
            is_told = true;
            break;
        };
        let place = records.binary_search_by_key(&record.sequence, |record| record.sequence);
        assert!(place.is_ok_and(|place| records[place] == record), "O11: {what}: {record:?} was read");
        read += 1;
    }
    let verified = verify(disk.clone(), 0);
    (read, is_told || verified.map_or(true, |report| !report.is_whole()))
}

/// One bit of one file. Gives what it was, and whether it must be noticed if it matters.
fn flip_bit(disk: &SimDisk, rng: &mut Rng) -> (String, bool) {
    let (name, content) = pick_file(disk, rng);
    let (at, bit) = (rng.index(content.len()), rng.below(8));
    disk.corrupt(&name, at, &[content[at] ^ 1 << bit]);
    (format!("bit {bit} of byte {at} of {name} flipped"), true)
}

/// A block of one file is written over another one's.
fn misdirect(disk: &SimDisk, mark_at: u64, rng: &mut Rng) -> (String, bool) {
    let (from, content) = pick_file(disk, rng);
    let from_at = pick_block(&content, rng);
    let (to, target) = pick_file(disk, rng);
    let to_at = pick_block(&target, rng);
    let bytes = BLOCK_BYTES.min(content.len() - from_at).min(target.len() - to_at);
    disk.corrupt(&to, to_at, &content[from_at..][..bytes]);
    let has_evidence = to != ACTIVE || (to_at + bytes) as u64 <= mark_at;
    (format!("{bytes} bytes at {from_at} of {from} written to {to_at} of {to}"), has_evidence)
}

/// One of the files, those of some size as likely as those of none.
fn pick_file(disk: &SimDisk, rng: &mut Rng) -> (String, Vec<u8>) {
    let files: Vec<_> = disk.content().into_iter().filter(|(_, content)| !content.is_empty()).collect();
    rng.pick(&files).clone()
}

fn pick_block(content: &[u8], rng: &mut Rng) -> usize {
    rng.index(content.len().div_ceil(BLOCK_BYTES)) * BLOCK_BYTES
}
