//! Appending to a file as the engine does: staging buffers, explicit offsets, one ring; with nothing else to do, and behind a pipeline.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::CeilingError;
use super::stream::{Arrival, Intake, sync_token, write_token};
use crate::storage::format::crc32c_append;
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::sys::features::Features;
use crate::sys::file::allocate;
use crate::sys::io::{Fd, Ring, Token, WriteSync};
use crate::sys::memory::StagingBuffer;
use crate::sys::uring::{Uring, Wait};

/// Bytes of a write.
pub(super) const BATCH_BYTES: usize = 512 << 10;
/// Writes in flight at most, each with a staging buffer of its own.
const WRITES_MAX: usize = 4;
/// The region that is written over and over, where blocks were written before.
const REGION_BYTES: u64 = 256 << 20;
/// What is written at most where each block is written once.
const FRESH_BYTES: u64 = 1 << 30;
/// As `--commit-bytes`.
const COMMIT_BYTES: u64 = 1 << 20;
/// O_DIRECT wants whole blocks.
const BLOCK_BYTES: usize = 4096;

/// What is under the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// O_DIRECT, into blocks that were written before: as into recycled segments.
    Overwrite,
    /// O_DIRECT, into blocks that are allocated and were never written.
    Allocated,
    /// The page cache, by plain writes on the same thread.
    Buffered,
}

/// When a write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    Never,
    /// A sync is started whenever so much as `--commit-bytes` was written, one at a time.
    Group,
    /// Each write by itself.
    Always,
}

/// A file to append to; it is removed at the end.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    file: File,
    ground: Ground,
    offset: u64,
    end: u64,
}

impl Target {
    /// `Ok(None)` where the file system can't do it.
    pub(super) fn open(folder: &Path, ground: Ground) -> Result<Option<Self>, CeilingError> {
        let path = folder.join(format!("ceiling.{}", format!("{ground:?}").to_lowercase()));
        let made = Self::make(&path, ground);
        match made {
            Ok(target) => Ok(Some(target)),
            Err(error) => {
                // Half made: nobody's any more.
                let _ = std::fs::remove_file(&path);
                match error.raw_os_error() {
                    Some(libc::EINVAL | libc::EOPNOTSUPP) => Ok(None),
                    _ => Err(CeilingError::Io(error)),
                }
            }
        }
    }

    fn make(path: &Path, ground: Ground) -> io::Result<Self> {
        let mut plain = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        let direct = || OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path);
        let (file, end) = match ground {
            Ground::Overwrite => {
                let block = vec![b'.'; BATCH_BYTES];
                for _ in 0..REGION_BYTES / BATCH_BYTES as u64 {
                    plain.write_all(&block)?;
                }
                plain.sync_all()?;
                (direct()?, REGION_BYTES)
            }
            Ground::Allocated => {
                allocate(&plain, FRESH_BYTES)?;
                (direct()?, FRESH_BYTES)
            }
            Ground::Buffered => (plain, FRESH_BYTES),
        };
        Ok(Self { path: path.to_owned(), file, ground, offset: 0, end })
    }

    /// Where the next batch goes; `None` when each block that may be written once was.
    fn place(&mut self) -> Option<u64> {
        if self.offset + BATCH_BYTES as u64 > self.end {
            if self.ground != Ground::Overwrite {
                return None;
            }
            self.offset = 0;
        }
        let place = self.offset;
        self.offset += BATCH_BYTES as u64;
        Some(place)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // A file that stays behind takes room and nothing else.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The staging buffers of one measurement.
pub(super) fn staging(ground: Ground) -> io::Result<Vec<StagingBuffer>> {
    // A plain write gives its buffer back at once, and room for a chunk is a free one beside it.
    let count = if ground == Ground::Buffered { 2 } else { WRITES_MAX };
    (0..count).map(|_| StagingBuffer::map(BATCH_BYTES)).collect()
}

/// Gathers frames into batches and writes them.
pub(super) struct Appender<'a> {
    target: &'a mut Target,
    free: Vec<StagingBuffer>,
    open: Option<StagingBuffer>,
    filled: usize,
    writes: u64,
    /// All that can be written is.
    is_full: bool,
    checksum: u32,
}

impl<'a> Appender<'a> {
    pub(super) fn new(target: &'a mut Target, free: Vec<StagingBuffer>) -> Self {
        Self { target, free, open: None, filled: 0, writes: 0, is_full: false, checksum: 0 }
    }

    /// Whether a chunk's frames have a place: one batch may be sealed on the way, so another has to be free.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn writes_in_flight(&self, buffers: usize) -> usize {
        buffers - self.free.len() - usize::from(self.open.is_some())
    }

    /// Copies a frame into the batch; seals and writes the batch before, where it does not fit. There has to be room.
    #[inline]
    pub(super) fn append(&mut self, ring: &mut Uring, frame: &[u8]) -> Result<(), CeilingError> {
        if self.filled + frame.len() > BATCH_BYTES {
            self.seal(ring)?;
        }
        if self.open.is_none() {
            self.open = self.free.pop();
        }
        let buffer = self.open.as_mut().expect("the caller asked for room");
        buffer[self.filled..self.filled + frame.len()].copy_from_slice(frame);
        self.filled += frame.len();
        Ok(())
    }

    /// One checksum and one write for the batch.
    fn seal(&mut self, ring: &mut Uring) -> Result<(), CeilingError> {
        if let Some(buffer) = &self.open {
            self.checksum = crc32c_append(self.checksum, &buffer[..self.filled]);
        }
        self.submit(ring, WriteSync::None)
    }

    /// Writes the batch, in whole blocks.
    fn submit(&mut self, ring: &mut Uring, sync: WriteSync) -> Result<(), CeilingError> {
        let Some(buffer) = self.open.take() else { return Ok(()) };
        let bytes = self.filled.next_multiple_of(BLOCK_BYTES);
        self.filled = 0;
        let Some(place) = self.target.place() else {
            self.is_full = true;
            self.free.push(buffer);
            return Ok(());
        };
        if self.target.ground == Ground::Buffered {
            self.target.file.write_all_at(&buffer[..bytes], place)?;
            self.free.push(buffer);
            return Ok(());
        }
        self.writes += 1;
        ring.write(write_token(self.writes), Fd(self.target.file.as_raw_fd()), buffer, 0..bytes, place, sync);
        Ok(())
    }

    /// A write has ended.
    pub(super) fn written(&mut self, ring: &mut Uring, token: Token) {
        self.free.push(ring.reclaim(token));
    }
}

/// Writes full batches and nothing else, GB/s.
pub(super) fn alone(features: &Features, target: &mut Target, durable: Durable, at_most: Nanos) -> Result<f64, CeilingError> {
    let mut buffers = staging(target.ground)?;
    let all = buffers.len();
    let mut intake = Intake::open(features, Vec::new(), &mut buffers)?;
    for buffer in &mut buffers {
        buffer.fill(b'.');
    }
    let file = Fd(target.file.as_raw_fd());
    let mut appender = Appender::new(target, buffers);
    let sync = if durable == Durable::Always { WriteSync::DataSync } else { WriteSync::None };
    let (mut written, mut synced, mut is_syncing) = (0, 0, false);
    let began = HostClock.now();
    loop {
        let is_over = HostClock.now().since(began) >= at_most || appender.is_full();
        while !is_over && appender.has_room() && !appender.is_full() {
            appender.open = appender.free.pop();
            appender.filled = BATCH_BYTES;
            appender.submit(intake.ring(), sync)?;
        }
        let owed = written - synced;
        if durable == Durable::Group && !is_syncing && (owed >= COMMIT_BYTES || (is_over && owed > 0)) {
            intake.ring().sync(sync_token(), file);
            (is_syncing, synced) = (true, written);
        }
        let in_flight = appender.writes_in_flight(all);
        if is_over && in_flight == 0 && !is_syncing {
            let took = HostClock.now().since(began);
            return Ok(written as f64 / took.0.max(1) as f64);
        }
        // Asleep: a durable write is made by a worker of the kernel, which has the same core.
        intake.turn(Wait::Until(None))?;
        while let Some(arrival) = intake.next()? {
            match arrival {
                Arrival::Written(token) => {
                    appender.written(intake.ring(), token);
                    written += BATCH_BYTES as u64;
                }
                Arrival::Synced => is_syncing = false,
                Arrival::Bytes(chunk) => intake.give_back(chunk),
            }
        }
    }
}
