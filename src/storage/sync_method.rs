//! How a write is made durable with `--durability always`: on the write itself (`RWF_DSYNC`), or by an `fdatasync` behind it.
//!
//! Which is faster differs between file systems, devices and their caches, and no rule says so in advance: a few writes of both kinds in the
//! data folder do. They go where the log's writes go: at explicit offsets into allocated space, past the page cache where the file
//! system allows that.
//!
//! The sync behind a write is an operation of its own, submitted when the write has completed whole (A2): linked to it in the ring it would be
//! cancelled by every short write, and saves nothing that could be measured (`kernel-notes.md`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::format::BLOCK_BYTES;
use crate::sys::clock::{Clock, Nanos};
use crate::sys::file::{allocate, file_system_name};
use crate::sys::memory::StagingBuffer;

/// How a write is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMethod {
    /// By a flag on the write.
    #[default]
    Dsync,
    /// By a sync of the file's data once the write has completed.
    Fdatasync,
}

impl SyncMethod {
    /// The word in flags and reports.
    pub const fn name(self) -> &'static str {
        match self {
            SyncMethod::Dsync => "dsync",
            SyncMethod::Fdatasync => "fdatasync",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncChoice {
    /// The faster one, by measurement.
    Auto,
    /// See [`SyncMethod::Dsync`].
    Dsync,
    /// See [`SyncMethod::Fdatasync`].
    Fdatasync,
}

/// The file that is written for a probe, and removed.
const PROBE_NAME: &str = "events.probe";
/// Bytes of each write: what a write carries at some ten thousand small events a second.
const WRITE_BYTES: usize = 16 << 10;
/// Writes of each kind, at most.
const ROUNDS_MAX: usize = 16;
/// No further round is begun after this.
const PROBE_TIME_MAX: Nanos = Nanos::from_millis(50);

const _: () = assert!(WRITE_BYTES.is_multiple_of(BLOCK_BYTES));

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncProbe {
    /// The name of the file system.
    pub file_system: String,
    /// Whether the writes went past the page cache.
    pub direct: bool,
    /// A write with the flag, median.
    pub dsync: Nanos,
    /// A write and a sync, median.
    pub fdatasync: Nanos,
    /// Writes of each kind.
    pub rounds: usize,
}

impl SyncProbe {
    /// Writes in a folder, both ways in turns, for some 50 ms at most; slow disks one round.
    ///
    /// # Errors
    /// Whatever the file system says; nothing is left there.
    pub fn run(folder: &Path, may_be_direct: bool, clock: &impl Clock) -> io::Result<Self> {
        let file = ProbeFile::create(folder)?;
        let bytes = (2 * ROUNDS_MAX * WRITE_BYTES) as u64;
        match allocate(&file.file, bytes) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => return Err(error),
            _ => {}
        }
        let mut data = StagingBuffer::map(WRITE_BYTES)?;
        data.fill(0x5a);
        let direct = if may_be_direct { libc::O_DIRECT } else { 0 };
        let (direct, plain) = match file.open(direct).and_then(|plain| plain.write_all_at(&data, 0).map(|()| plain)) {
            Ok(plain) => (direct, plain),
            Err(_) => (0, file.open(0)?),
        };
        let synced = file.open(direct | libc::O_DSYNC)?;
        let (mut with_flag, mut with_sync) = (Vec::with_capacity(ROUNDS_MAX), Vec::with_capacity(ROUNDS_MAX));
        let start = clock.now();
        for round in 0..ROUNDS_MAX {
            let at = (2 * round * WRITE_BYTES) as u64;
            let before = clock.now();
            synced.write_all_at(&data, at)?;
            let between = clock.now();
            plain.write_all_at(&data, at + WRITE_BYTES as u64)?;
            plain.sync_data()?;
            let after = clock.now();
            with_flag.push(between.since(before));
            with_sync.push(after.since(between));
            if after.since(start) >= PROBE_TIME_MAX {
                break;
            }
        }
        Ok(Self {
            file_system: file_system_name(&file.file)?,
            direct: direct != 0,
            rounds: with_flag.len(),
            dsync: median(with_flag),
            fdatasync: median(with_sync),
        })
    }

    /// The faster one. A flag on the write is one operation instead of two, so it is left only for a tenth less.
    pub fn method(&self) -> SyncMethod {
        if self.fdatasync.0 * 10 < self.dsync.0 * 9 { SyncMethod::Fdatasync } else { SyncMethod::Dsync }
    }
}

impl std::fmt::Display for SyncProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file_system, direct, dsync, fdatasync, rounds } = self;
        let way = if *direct { "O_DIRECT" } else { "page cache" };
        let micros = |nanos: &Nanos| nanos.0 as f64 / 1_000.0;
        write!(
            f,
            "{file_system}, {way}: dsync {:.0} us, write and fdatasync {:.0} us (16 KiB, median of {rounds})",
            micros(dsync),
            micros(fdatasync)
        )
    }
}

fn median(mut taken: Vec<Nanos>) -> Nanos {
    taken.sort_unstable();
    taken[taken.len() / 2]
}

/// The probe's file; its name goes with it.
struct ProbeFile {
    path: PathBuf,
    file: File,
}

impl ProbeFile {
    fn create(folder: &Path) -> io::Result<Self> {
        let path = folder.join(PROBE_NAME);
        // What an earlier probe left when it was killed. Anything else of that name is not followed, and refused by `create_new`.
        let _ = std::fs::remove_file(&path);
        let file = OpenOptions::new().write(true).create_new(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
        Ok(Self { path, file })
    }

    fn open(&self, more: i32) -> io::Result<File> {
        OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | more).open(&self.path)
    }
}

impl Drop for ProbeFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sys::clock::HostClock;

    #[test]
    fn a_probe_measures_both_ways_and_leaves_nothing_behind() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join(PROBE_NAME), b"left by a killed one").unwrap();
        for may_be_direct in [true, false] {
            let probe = SyncProbe::run(place.path(), may_be_direct, &HostClock).unwrap();
            assert!((1..=ROUNDS_MAX).contains(&probe.rounds), "{probe}");
            assert!(may_be_direct || !probe.direct);
            assert!(probe.to_string().starts_with(&probe.file_system));
        }
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_flag_is_left_only_for_a_tenth_less() {
        let with = |dsync, fdatasync| {
            let (dsync, fdatasync) = (Nanos(dsync), Nanos(fdatasync));
            SyncProbe { file_system: "ext4".into(), direct: true, dsync, fdatasync, rounds: 1 }.method()
        };
        assert_eq!(with(100, 91), SyncMethod::Dsync);
        assert_eq!(with(100, 89), SyncMethod::Fdatasync);
        assert_eq!(with(100, 300), SyncMethod::Dsync);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let error = SyncProbe::run(&place.path().join("none"), true, &HostClock).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    #[ignore = "prints figures of the folders in EVENTSTREAM_PROBE_FOLDERS, separated by colons"]
    fn figures_of_file_systems() {
        for folder in std::env::var("EVENTSTREAM_PROBE_FOLDERS").unwrap_or_default().split(':') {
            for may_be_direct in [true, false] {
                for _ in 0..3 {
                    match SyncProbe::run(Path::new(folder), may_be_direct, &HostClock) {
                        Ok(probe) => println!("{folder}: {probe}"),
                        Err(error) => println!("{folder}: {error}"),
                    }
                }
            }
        }
    }
}
