//! A simulated disk: files in memory, with what a read sees and what a power cut would leave told apart.
//!
//! ```text
//! write ──► seen ──(sync, or a write with DataSync)──► stable
//! ```
//!
//! Invariants:
//! - **D1** A block of a file is the same in `seen` and `stable` unless it is in `dirty`.
//! - **D2** While the disk is full, no write or allocation makes a file longer.
//!
//! What it does not do: directories, crashes.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use crate::storage::LogFile;
use crate::sys::io::Fd;

/// Descriptors of files begin here; those of sockets stay below.
const FIRST_FILE_FD: i32 = 1_000_000;

/// The unit in which changes become stable.
const BLOCK_BYTES: usize = 4096;

#[derive(Debug, Default)]
struct FileState {
    seen: Vec<u8>,
    stable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl FileState {
    fn mark(&mut self, bytes: Range<usize>) {
        if !bytes.is_empty() {
            self.dirty.extend(bytes.start / BLOCK_BYTES..=(bytes.end - 1) / BLOCK_BYTES);
        }
    }

    fn set_len(&mut self, len: usize) {
        let old = self.seen.len();
        self.seen.resize(len, 0);
        self.mark(old.min(len)..old.max(len));
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if self.seen.len() < offset + bytes.len() {
            self.set_len(offset + bytes.len());
        }
        self.seen[offset..][..bytes.len()].copy_from_slice(bytes);
        self.mark(offset..offset + bytes.len());
    }

    fn sync(&mut self) {
        self.stable.resize(self.seen.len(), 0);
        for block in std::mem::take(&mut self.dirty) {
            let start = (block * BLOCK_BYTES).min(self.seen.len());
            let end = (start + BLOCK_BYTES).min(self.seen.len());
            self.stable[start..end].copy_from_slice(&self.seen[start..end]);
        }
        debug_assert_eq!(self.seen, self.stable, "D1");
    }
}

#[derive(Debug, Default)]
struct DiskState {
    files: Vec<FileState>,
    full: bool,
}

/// The disk; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    state: Rc<RefCell<DiskState>>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty file.
    pub fn create(&self) -> SimFile {
        let mut state = self.state.borrow_mut();
        state.files.push(FileState::default());
        SimFile { disk: self.clone(), index: state.files.len() - 1 }
    }

    /// From now on no file can grow, or can again.
    pub fn set_full(&self, full: bool) {
        self.state.borrow_mut().full = full;
    }

    /// Whether no file can grow.
    pub fn is_full(&self) -> bool {
        self.state.borrow().full
    }

    /// The file of a descriptor; `None` if it is not one of this disk.
    pub fn file(&self, fd: Fd) -> Option<SimFile> {
        let index = usize::try_from(fd.0 - FIRST_FILE_FD).ok()?;
        (index < self.state.borrow().files.len()).then(|| SimFile { disk: self.clone(), index })
    }
}

/// One file of a simulated disk.
#[derive(Clone, Debug)]
pub struct SimFile {
    disk: SimDisk,
    index: usize,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut FileState) -> T) -> T {
        act(&mut self.disk.state.borrow_mut().files[self.index])
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.with(|file| file.seen.len() as u64)
    }

    /// How many of `len` bytes at `offset` can be written now: all, or on a full disk those inside the file (D2).
    pub fn writable(&self, offset: u64, len: usize) -> usize {
        if self.disk.is_full() { len.min(self.bytes().saturating_sub(offset) as usize) } else { len }
    }

    /// What a read sees.
    pub fn seen(&self) -> Vec<u8> {
        self.with(|file| file.seen.clone())
    }

    /// What a power cut would leave for certain.
    pub fn stable(&self) -> Vec<u8> {
        self.with(|file| file.stable.clone())
    }

    /// A file of its own, on a disk of its own, as a power cut would leave this one if it left no more than it must.
    pub fn after_power_cut(&self) -> SimFile {
        let left = SimDisk::new().create();
        left.with(|file| file.seen = self.stable());
        left
    }
}

impl LogFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|file| {
            let rest = file.seen.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(out.len());
            out[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    /// As the trait says; `StorageFull` where the file would have to grow on a full disk, and then nothing is written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.writable(offset, bytes.len()) < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.with(|file| file.write(offset as usize, bytes));
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        if self.disk.is_full() && bytes > self.bytes() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.with(|file| file.set_len(bytes as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.with(FileState::sync);
        Ok(())
    }

    fn fd(&self) -> Fd {
        Fd(FIRST_FILE_FD + self.index as i32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sync_makes_writes_stable() {
        let file = SimDisk::new().create();
        file.write_at(b"first", 0).expect("there is space");
        assert_eq!((file.seen().as_slice(), file.stable().as_slice()), (b"first".as_slice(), b"".as_slice()));
        file.sync().expect("a sync");
        file.write_at(b"F", 0).expect("there is space");
        assert_eq!((file.seen().as_slice(), file.stable().as_slice()), (b"First".as_slice(), b"first".as_slice()));
    }

    #[test]
    fn a_full_disk_takes_writes_inside_a_file_but_lets_none_grow() {
        let disk = SimDisk::new();
        let file = disk.create();
        file.set_len(8192).expect("there is space");
        disk.set_full(true);
        assert_eq!(file.writable(4096, 8192), 4096);
        file.write_at(&[1; 4096], 4096).expect("inside");
        assert!(file.write_at(&[1; 4097], 4096).is_err());
        assert!(file.set_len(8193).is_err());
        assert_eq!(file.bytes(), 8192);
    }

    #[test]
    fn a_cut_is_stable_after_a_sync_too() {
        let file = SimDisk::new().create();
        file.write_at(&[7; 10_000], 0).expect("there is space");
        file.sync().expect("a sync");
        file.set_len(5_000).expect("shorter");
        assert_eq!(file.stable().len(), 10_000);
        file.sync().expect("a sync");
        assert_eq!(file.stable(), vec![7; 5_000]);
    }
}
