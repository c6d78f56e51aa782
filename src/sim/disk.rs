//! A simulated disk: files in memory and their names in one folder, with what a read sees and what a power cut would leave told apart.
//!
//! ```text
//! write ──► seen ──(sync of the file, or a write with DataSync)──► stable
//! name  ──► seen ──(sync of the folder)──────────────────────────► stable
//! ```
//!
//! Invariants:
//! - **D1** A block of a file is the same in `seen` and `stable` unless it is in `dirty`.
//! - **D2** While the disk is full, no write or allocation makes a file longer.
//! - **D3** After its last permitted change ([`SimDisk::stop_after`]) the disk changes no more: every call that would is refused.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use crate::storage::{LogFile, LogFolder};
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
    /// Names to places in `files`: as they are seen, and as a power cut would leave them.
    names: BTreeMap<String, usize>,
    stable_names: BTreeMap<String, usize>,
    full: bool,
    /// D3; `None`: any number.
    changes_left: Option<u64>,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Names as they were seen, or only as they were synced.
    pub names: bool,
    /// Bytes as they were seen, or only as they were synced.
    pub bytes: bool,
}

impl Left {
    /// The process is gone, the host goes on.
    pub const ALL: Left = Left { names: true, bytes: true };
    /// A power cut that leaves no more than it must.
    pub const SYNCED: Left = Left { names: false, bytes: false };
    /// All ways.
    pub const WAYS: [Left; 4] = [Left::ALL, Left::SYNCED, Left { names: true, bytes: false }, Left { names: false, bytes: true }];
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

    /// Puts a file with this content there, all of it stable.
    pub fn put(&self, name: &str, content: &[u8]) -> SimFile {
        let mut state = self.state.borrow_mut();
        state.files.push(FileState { seen: content.to_vec(), stable: content.to_vec(), dirty: BTreeSet::new() });
        let index = state.files.len() - 1;
        state.names.insert(name.to_owned(), index);
        state.stable_names.insert(name.to_owned(), index);
        SimFile { disk: self.clone(), index }
    }

    /// All files by name, as they are seen.
    pub fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state.borrow();
        state.names.iter().map(|(name, index)| (name.clone(), state.files[*index].seen.clone())).collect()
    }

    /// Permits so many changes from now on, and no more (D3).
    pub fn stop_after(&self, changes: u64) {
        self.state.borrow_mut().changes_left = Some(changes);
    }

    /// Whether the last permitted change was made, and another one refused.
    pub fn has_stopped(&self) -> bool {
        self.state.borrow().changes_left == Some(0)
    }

    fn may_change(&self) -> io::Result<()> {
        match &mut self.state.borrow_mut().changes_left {
            None => Ok(()),
            Some(0) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// Another disk, as a crash would leave this one.
    pub fn after_crash(&self, left: Left) -> SimDisk {
        let state = self.state.borrow();
        let after = SimDisk::new();
        for (name, index) in if left.names { &state.names } else { &state.stable_names } {
            let file = &state.files[*index];
            after.put(name, if left.bytes { &file.seen } else { &file.stable });
        }
        after
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
}

impl LogFolder for SimDisk {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state.borrow().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let index = self.state.borrow().names.get(name).copied();
        index.map(|index| SimFile { disk: self.clone(), index }).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        if let Ok(file) = self.open(name) {
            return Ok(file);
        }
        self.may_change()?;
        let mut state = self.state.borrow_mut();
        state.files.push(FileState::default());
        let index = state.files.len() - 1;
        state.names.insert(name.to_owned(), index);
        Ok(SimFile { disk: self.clone(), index })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let found = self.state.borrow().names.contains_key(from);
        if !found {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.may_change()?;
        let names = &mut self.state.borrow_mut().names;
        let index = names.remove(from).expect("looked for above");
        names.insert(to.to_owned(), index);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.may_change()?;
        self.state.borrow_mut().names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.may_change()?;
        let mut state = self.state.borrow_mut();
        state.stable_names = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(if self.is_full() { 0 } else { u64::MAX })
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
        self.disk.may_change()?;
        self.with(|file| file.write(offset as usize, bytes));
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        if self.disk.is_full() && bytes > self.bytes() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if bytes != self.bytes() {
            self.disk.may_change()?;
        }
        self.with(|file| file.set_len(bytes as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.may_change()?;
        self.with(FileState::sync);
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes.max(self.bytes()))
    }

    /// A simulated file is always direct: the kernel demands whole sectors.
    fn enable_ring(&mut self, _: bool) -> bool {
        true
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
        let file = SimDisk::new().create("a").expect("an empty disk");
        file.write_at(b"first", 0).expect("there is space");
        assert_eq!((file.seen().as_slice(), file.stable().as_slice()), (b"first".as_slice(), b"".as_slice()));
        file.sync().expect("a sync");
        file.write_at(b"F", 0).expect("there is space");
        assert_eq!((file.seen().as_slice(), file.stable().as_slice()), (b"First".as_slice(), b"first".as_slice()));
    }

    #[test]
    fn a_full_disk_takes_writes_inside_a_file_but_lets_none_grow() {
        let disk = SimDisk::new();
        let file = disk.create("a").expect("an empty disk");
        file.set_len(8192).expect("there is space");
        disk.set_full(true);
        assert_eq!(file.writable(4096, 8192), 4096);
        file.write_at(&[1; 4096], 4096).expect("inside");
        assert!(file.write_at(&[1; 4097], 4096).is_err());
        assert!(file.set_len(8193).is_err());
        assert_eq!(file.bytes(), 8192);
    }

    #[test]
    fn names_become_stable_by_a_sync_of_the_folder() {
        let disk = SimDisk::new();
        disk.create("a").and_then(|file| file.write_at(b"x", 0).and_then(|()| file.sync())).expect("there is space");
        assert!(disk.after_crash(Left::SYNCED).content().is_empty());
        LogFolder::sync(&disk).expect("a sync");
        disk.rename("a", "b").expect("it is there");
        assert_eq!(disk.after_crash(Left::SYNCED).content().keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(disk.after_crash(Left::ALL).content().keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_cut_is_stable_after_a_sync_too() {
        let file = SimDisk::new().create("a").expect("an empty disk");
        file.write_at(&[7; 10_000], 0).expect("there is space");
        file.sync().expect("a sync");
        file.set_len(5_000).expect("shorter");
        assert_eq!(file.stable().len(), 10_000);
        file.sync().expect("a sync");
        assert_eq!(file.stable(), vec![7; 5_000]);
    }
}
