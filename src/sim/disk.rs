//! A simulated disk: files in memory and their names in one folder, with what a read sees and what a power cut would leave told apart.
//!
//! ```text
//! write ──► seen ──(sync of the file, or a write with DataSync; write-back, whenever it likes)──► stable
//! name  ──► seen ──(sync of the folder)─────────────────────────────────────────────────────────► stable
//! ```
//!
//! Invariants, beside those of the bytes of a file ([`super::sectors`]):
//! - **D2** While the disk is full, no write or allocation makes a file longer.
//! - **D3** After its last permitted change ([`SimDisk::stop_after`]) the disk changes no more: every call that would is refused.
//! - **D4** A power cut leaves of unsynced changes of names the first so many, as file systems with an ordered journal (ext4, XFS) do.
//! - **D5** After its last permitted read ([`SimDisk::fail_reads_after`]) every read is refused.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use super::rng::Rng;
use super::sectors::FileBytes;
use super::tally::{Fault, Met};
use crate::storage::{LogFile, LogFolder};
use crate::sys::io::Fd;

/// Descriptors of files begin here; those of sockets stay below.
const FIRST_FILE_FD: i32 = 1_000_000;

/// A change of names that no sync of the folder has covered.
#[derive(Clone, Debug)]
enum NameChange {
    Put(String, usize),
    Remove(String),
}

type Names = BTreeMap<String, usize>;

fn change_names(names: &mut Names, change: &NameChange) {
    match change {
        NameChange::Put(name, index) => {
            // A file has one name: a rename takes the old one away in the same step.
            names.retain(|_, other| other != index);
            names.insert(name.clone(), *index);
        }
        NameChange::Remove(name) => drop(names.remove(name)),
    }
}

#[derive(Clone, Debug, Default)]
struct DiskState {
    files: Vec<FileBytes>,
    /// Names to places in `files`: as they are seen, and as they were synced.
    names: Names,
    stable_names: Names,
    unsynced_names: Vec<NameChange>,
    full: bool,
    /// D3; `None`: any number.
    changes_left: Option<u64>,
    /// D5; `None`: any number.
    reads_left: Option<u64>,
    /// The most that one read gives; 0: whatever is asked for.
    read_bytes_max: usize,
    /// A sync has failed, whoever has been told of it by now: what was written and not durable may be gone.
    has_failed_sync: bool,
}

impl DiskState {
    fn change(&mut self, change: NameChange) {
        change_names(&mut self.names, &change);
        self.unsynced_names.push(change);
    }
}

/// What a crash leaves of what was not synced, in its extremes.
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
        self.put_stable(name, FileBytes::stable_from(content))
    }

    fn put_stable(&self, name: &str, content: FileBytes) -> SimFile {
        let mut state = self.state.borrow_mut();
        state.files.push(content);
        let index = state.files.len() - 1;
        state.names.insert(name.to_owned(), index);
        state.stable_names.insert(name.to_owned(), index);
        SimFile { disk: self.clone(), index }
    }

    /// All files by name, as they are seen.
    pub fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state.borrow();
        state.names.iter().map(|(name, index)| (name.clone(), state.files[*index].seen())).collect()
    }

    /// Permits so many changes from now on, and no more (D3).
    pub fn stop_after(&self, changes: u64) {
        self.state.borrow_mut().changes_left = Some(changes);
    }

    /// Whether the last permitted change was made; another one is refused.
    pub fn has_stopped(&self) -> bool {
        self.state.borrow().changes_left == Some(0)
    }

    /// Permits any number of changes again.
    pub fn permit_changes(&self) {
        self.state.borrow_mut().changes_left = None;
    }

    /// Permits so many reads from now on, and no more (D5).
    pub fn fail_reads_after(&self, reads: u64) {
        self.state.borrow_mut().reads_left = Some(reads);
    }

    /// From now on one read gives at most so many bytes; 0: whatever is asked for.
    pub fn shorten_reads(&self, read_bytes_max: usize) {
        self.state.borrow_mut().read_bytes_max = read_bytes_max;
    }

    /// Permits everything again.
    pub fn mend(&self) {
        let mut state = self.state.borrow_mut();
        (state.changes_left, state.reads_left, state.read_bytes_max, state.full) = (None, None, 0, false);
    }

    fn may_change(&self) -> io::Result<()> {
        take_permit(&mut self.state.borrow_mut().changes_left)
    }

    /// Another disk, as a crash would leave this one, in one of its extremes.
    pub fn after_crash(&self, left: Left) -> SimDisk {
        let state = self.state.borrow();
        let after = SimDisk::new();
        for (name, index) in if left.names { &state.names } else { &state.stable_names } {
            let file = &state.files[*index];
            after.put_stable(name, if left.bytes { file.all_stable() } else { file.stable() });
        }
        after
    }

    /// Another disk, as a power cut would leave this one, by chance (D4).
    pub(super) fn after_power_cut(&self, rng: &mut Rng, met: &Met) -> SimDisk {
        let state = self.state.borrow();
        let after = SimDisk::new();
        let mut names = state.stable_names.clone();
        let kept = rng.between(0..=state.unsynced_names.len() as u64) as usize;
        (kept..state.unsynced_names.len()).for_each(|_| met.note(Fault::NameLost));
        state.unsynced_names[..kept].iter().for_each(|change| change_names(&mut names, change));
        for (name, index) in names {
            after.put_stable(&name, state.files[index].after_power_cut(rng, met));
        }
        after
    }

    /// The medium itself changes behind everybody's back: bytes inside of a file.
    pub fn corrupt(&self, name: &str, offset: usize, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        let index = state.names[name];
        let file = &mut state.files[index];
        assert!(offset + bytes.len() <= file.len(), "a medium has no bytes behind the end of a file");
        file.write(offset, bytes);
        file.sync();
    }

    /// Another disk like this one, with all that is not stable yet.
    pub fn fork(&self) -> SimDisk {
        SimDisk { state: Rc::new(RefCell::new(self.state.borrow().clone())) }
    }

    /// Whether a sync has failed in this life.
    pub fn has_failed_sync(&self) -> bool {
        self.state.borrow().has_failed_sync
    }

    /// Another life begins on what is there.
    pub fn forget_failed_sync(&self) {
        self.state.borrow_mut().has_failed_sync = false;
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

/// One less is left; refused where none was.
fn take_permit(left: &mut Option<u64>) -> io::Result<()> {
    match left {
        None => Ok(()),
        Some(0) => Err(io::Error::from_raw_os_error(libc::EIO)),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
    }
}

/// One file of a simulated disk.
#[derive(Clone, Debug)]
pub struct SimFile {
    disk: SimDisk,
    index: usize,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut FileBytes) -> T) -> T {
        act(&mut self.disk.state.borrow_mut().files[self.index])
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        self.with(|file| file.len() as u64)
    }

    /// How many of `len` bytes at `offset` can be written now: all, or on a full disk those inside the file (D2).
    pub fn writable(&self, offset: u64, len: usize) -> usize {
        if self.disk.is_full() { len.min(self.bytes().saturating_sub(offset) as usize) } else { len }
    }

    /// Blocks inside the file are given back: zeros are read there.
    pub fn give_back(&self, bytes: &Range<u64>) {
        let end = bytes.end.min(self.bytes());
        let zeros = vec![0; end.saturating_sub(bytes.start) as usize];
        self.with(|file| file.write(bytes.start.min(end) as usize, &zeros));
    }

    /// What a read sees.
    pub fn seen(&self) -> Vec<u8> {
        self.with(|file| file.seen())
    }

    /// What a power cut would leave for certain.
    pub fn stable(&self) -> Vec<u8> {
        self.with(|file| file.stable().seen())
    }
}

/// What the kernel does with a file by itself.
impl SimFile {
    /// Some of what is not stable becomes so.
    pub(super) fn write_back(&self, rng: &mut Rng) {
        self.with(|file| file.write_back(rng));
    }

    /// What was written with `O_DSYNC`.
    pub(super) fn sync_range(&self, bytes: Range<usize>) {
        self.with(|file| file.sync_range(bytes));
    }

    /// A sync has failed: what it was to make stable is so, or lost, sector by sector.
    pub(super) fn lose_unsynced(&self, rng: &mut Rng, met: &Met) {
        self.with(|file| file.lose_unsynced(rng, met));
        self.disk.state.borrow_mut().has_failed_sync = true;
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
        state.files.push(FileBytes::default());
        let index = state.files.len() - 1;
        state.change(NameChange::Put(name.to_owned(), index));
        Ok(SimFile { disk: self.clone(), index })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let found = self.state.borrow().names.get(from).copied();
        let index = found.ok_or(io::ErrorKind::NotFound)?;
        self.may_change()?;
        self.state.borrow_mut().change(NameChange::Put(to.to_owned(), index));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.state.borrow().names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.may_change()?;
        self.state.borrow_mut().change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.may_change()?;
        let mut state = self.state.borrow_mut();
        state.stable_names = state.names.clone();
        state.unsynced_names.clear();
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
        let state = &mut *self.disk.state.borrow_mut();
        take_permit(&mut state.reads_left)?;
        let most = if state.read_bytes_max > 0 { state.read_bytes_max.min(out.len()) } else { out.len() };
        Ok(state.files[self.index].read(offset as usize, &mut out[..most]))
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
        self.with(FileBytes::sync);
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

    /// A file of two blocks, the first of them synced, both written over since.
    fn half_synced() -> SimDisk {
        let disk = SimDisk::new();
        let file = disk.create("a").expect("an empty disk");
        LogFolder::sync(&disk).expect("a sync");
        file.write_at(&[1; 4096], 0).and_then(|()| file.sync()).expect("there is space");
        file.write_at(&[2; 8192], 0).expect("there is space");
        disk
    }

    #[test]
    fn a_power_cut_keeps_the_first_of_the_unsynced_changes_of_names() {
        let (mut rng, mut found) = (Rng::new(1), std::collections::BTreeSet::new());
        for _ in 0..100 {
            let disk = half_synced();
            disk.rename("a", "b").expect("it is there");
            disk.create("a").expect("the name is free");
            found.insert(disk.after_power_cut(&mut rng, &Met::default()).content().into_keys().collect::<Vec<_>>().join(" "));
        }
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "a b", "b"]);
    }

    #[test]
    fn reads_are_refused_after_the_last_permitted_one_and_short_where_told_so() {
        let (disk, mut out) = (half_synced(), [0; 100]);
        let file = disk.open("a").expect("it is there");
        disk.fail_reads_after(1);
        assert_eq!(file.read_at(&mut out, 0).expect("the first"), 100);
        assert!(file.read_at(&mut out, 0).is_err());
        disk.mend();
        disk.shorten_reads(7);
        assert_eq!(file.read_at(&mut out, 0).expect("again"), 7);
    }
}
