//! What the disk alone takes to make a small write durable: beside it stands how long an ack takes (`bench-scripts/ack-latency.sh`).
//!
//! `cargo run --release --example sync_latency -- FOLDER [ROUNDS]`. Prints one line of JSON: microseconds, for a 4 KiB write followed by fdatasync,
//! and for one with O_DSYNC, both over blocks that are there already, as the log's are.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

const BLOCK_BYTES: usize = 4096;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("a folder on the disk to be measured is needed")?);
    let rounds: usize = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let path = folder.join("sync_latency.probe");
    let measured = measure(&path, rounds.max(1));
    // Also when it failed half-way.
    let _ = std::fs::remove_file(&path);
    let [fdatasync, dsync] = measured?;
    println!("{{\"rounds\":{rounds},\"fdatasync_us\":{},\"dsync_us\":{}}}", summary(fdatasync), summary(dsync));
    Ok(())
}

/// Nanoseconds of each round, of both ways in turn: what else the disk does meets them alike.
fn measure(path: &Path, rounds: usize) -> io::Result<[Vec<u64>; 2]> {
    let block = [0x5A; BLOCK_BYTES];
    let plain = OpenOptions::new().write(true).create_new(true).open(path)?;
    for at in 0..rounds {
        plain.write_all_at(&block, (at * BLOCK_BYTES) as u64)?;
    }
    plain.sync_all()?;
    let dsync = OpenOptions::new().write(true).custom_flags(libc::O_DSYNC).open(path)?;
    let timed = |file: &File, at: usize, sync: bool| -> io::Result<u64> {
        let begun = Instant::now();
        file.write_all_at(&block, (at * BLOCK_BYTES) as u64)?;
        if sync {
            file.sync_data()?;
        }
        Ok(begun.elapsed().as_nanos() as u64)
    };
    let mut nanos = [Vec::with_capacity(rounds), Vec::with_capacity(rounds)];
    for at in 0..rounds {
        nanos[0].push(timed(&plain, at, true)?);
        nanos[1].push(timed(&dsync, at, false)?);
    }
    Ok(nanos)
}

fn summary(mut nanos: Vec<u64>) -> String {
    nanos.sort_unstable();
    let at = |share: f64| nanos[((nanos.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    format!("{{\"p50\":{:.1},\"p99\":{:.1},\"max\":{:.1}}}", at(0.5), at(0.99), at(1.0))
}
