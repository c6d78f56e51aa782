//! What the disk alone takes to make a small write durable: beside it stands how long an ack takes.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use hdrhistogram::Histogram;

use crate::bench::curve::histogram;
use crate::sys::clock::{Clock, HostClock};

const BLOCK_BYTES: usize = 4096;

/// Latencies of so many writes of a block with O_DSYNC, and of as many followed by fdatasync, nanoseconds; in turn, so that what else the disk
/// does meets them alike, and over blocks that are there already, as the log's are.
pub(super) fn latency(folder: &Path, rounds: usize) -> io::Result<[Histogram<u64>; 2]> {
    let path = folder.join("ceiling.sync");
    let measured = measure(&path, rounds);
    // Also when it failed half-way; a file that stays behind takes room and nothing else.
    let _ = std::fs::remove_file(&path);
    measured
}

fn measure(path: &Path, rounds: usize) -> io::Result<[Histogram<u64>; 2]> {
    let block = [0x5A; BLOCK_BYTES];
    let plain = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    for at in 0..rounds {
        plain.write_all_at(&block, (at * BLOCK_BYTES) as u64)?;
    }
    plain.sync_all()?;
    let dsync = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(path)?;
    let timed = |file: &File, at: usize, sync: bool, into: &mut Histogram<u64>| -> io::Result<()> {
        let began = HostClock.now();
        file.write_all_at(&block, (at * BLOCK_BYTES) as u64)?;
        if sync {
            file.sync_data()?;
        }
        into.saturating_record(HostClock.now().since(began).0);
        Ok(())
    };
    let mut latencies = [histogram(), histogram()];
    for at in 0..rounds {
        timed(&dsync, at, false, &mut latencies[0])?;
        timed(&plain, at, true, &mut latencies[1])?;
    }
    Ok(latencies)
}
