//! A simulated disk: files in memory and their names in one folder, with what a read sees and what a power cut would leave told apart.
//!
//! ```text
//! write ──► seen ──(sync of the file, or a write with DataSync; write-back, whenever it likes)──► stable
//! name  ──► seen ──(sync of the folder)─────────────────────────────────────────────────────────► stable
//! ```
//!
//! Invariants (a file is taken for one with zeros behind its end, without end):
//! - **D1** A sector of a file is the same in what is seen and what is stable, unless it is in `unsynced`, which holds the stable one.
//! - **D2** While the disk is full, no write or allocation makes a file longer.
//! - **D3** After its last permitted change ([`SimDisk::stop_after`]) the disk changes no more: every call that would is refused.
//! - **D4** A power cut leaves of each unsynced sector the old bytes or the new ones, or tears one of them; of unsynced changes of names the
//!   first so many, as file systems with an ordered journal (ext4, XFS) do; of a new length nothing, a part, or all.
//! - **D5** After its last permitted read ([`SimDisk::fail_reads_after`]) every read is refused.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use super::rng::Rng;
use crate::storage::{LogFile, LogFolder};
use crate::sys::io::Fd;

/// Descriptors of files begin here; those of sockets stay below.
const FIRST_FILE_FD: i32 = 1_000_000;

/// The unit in which changes become stable.
pub const SECTOR_BYTES: usize = 512;

/// What many devices write at once.
const BLOCK_SECTORS: usize = 8;

type Sector = [u8; SECTOR_BYTES];

#[derive(Clone, Default)]
struct FileState {
    seen: Vec<u8>,
    /// By number: what is stable of sectors that were changed since (D1).
    unsynced: BTreeMap<usize, Sector>,
    stable_bytes: usize,
}

impl std::fmt::Debug for FileState {
    /// Without the bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {} stable, {} sectors unsynced", self.seen.len(), self.stable_bytes, self.unsynced.len())
    }
}

/// The bytes of sector `number`, as far as `bytes` reach.
fn range_of(number: usize, bytes: usize) -> Range<usize> {
    let start = (number * SECTOR_BYTES).min(bytes);
    start..(start + SECTOR_BYTES).min(bytes)
}

impl FileState {
    fn stable_from(content: Vec<u8>) -> Self {
        Self { stable_bytes: content.len(), seen: content, unsynced: BTreeMap::new() }
    }

    fn sector(&self, number: usize) -> Sector {
        let mut sector = [0; SECTOR_BYTES];
        let seen = &self.seen[range_of(number, self.seen.len())];
        sector[..seen.len()].copy_from_slice(seen);
        sector
    }

    /// Before bytes are changed: keeps what is stable of them.
    fn keep_stable(&mut self, bytes: Range<usize>) {
        if bytes.is_empty() {
            return;
        }
        for number in bytes.start / SECTOR_BYTES..=(bytes.end - 1) / SECTOR_BYTES {
            if !self.unsynced.contains_key(&number) {
                let stable = self.sector(number);
                self.unsynced.insert(number, stable);
            }
        }
    }

    fn set_len(&mut self, len: usize) {
        // What is added is zeros, in what is seen as in what is stable: only what is cut off changes.
        self.keep_stable(len..self.seen.len());
        self.seen.resize(len, 0);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if self.seen.len() < offset + bytes.len() {
            self.set_len(offset + bytes.len());
        }
        self.keep_stable(offset..offset + bytes.len());
        self.seen[offset..][..bytes.len()].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        self.unsynced.clear();
        self.stable_bytes = self.seen.len();
    }

    /// Some of what is not stable becomes so by itself.
    fn write_back(&mut self, rng: &mut Rng) {
        self.unsynced.retain(|_, _| rng.chance(500));
        if rng.chance(500) {
            self.stable_bytes = self.seen.len();
        }
    }

    /// What a sync loses that fails: each sector has become stable, or what it held before is what is seen from now on.
    fn lose_unsynced(&mut self, rng: &mut Rng) {
        for (number, stable) in std::mem::take(&mut self.unsynced) {
            if rng.chance(500) {
                let range = range_of(number, self.seen.len());
                let bytes = range.len();
                self.seen[range].copy_from_slice(&stable[..bytes]);
            }
        }
    }

    fn stable(&self) -> Vec<u8> {
        self.mixed(self.stable_bytes, |_| true)
    }

    /// The file with this length, and with the stable bytes of the sectors for which `is_old` says so.
    fn mixed(&self, bytes: usize, mut is_old: impl FnMut(usize) -> bool) -> Vec<u8> {
        let mut content = self.seen.clone();
        // Long enough for all that was ever stable.
        content.resize(self.seen.len().max(self.stable_bytes).max(bytes), 0);
        for (number, stable) in &self.unsynced {
            if is_old(*number) {
                let range = range_of(*number, content.len());
                let kept = range.len();
                content[range].copy_from_slice(&stable[..kept]);
            }
        }
        content.resize(bytes, 0);
        content
    }

    /// D4.
    fn after_power_cut(&self, rng: &mut Rng) -> Vec<u8> {
        let (old, new) = (self.stable_bytes, self.seen.len());
        let bytes = match rng.below(4) {
            0 => old,
            1 if new > old => rng.between(old as u64..=new as u64) as usize,
            _ => new,
        };
        let unit = *rng.pick(&[1, BLOCK_SECTORS]);
        let lost = *rng.pick(&[0, 100, 500, 900, 1000]);
        let mut decided = None;
        let mut content = self.mixed(bytes, |number| {
            let (at, is_old) =
                decided.filter(|(at, _)| *at == number / unit).unwrap_or_else(|| (number / unit, rng.chance(lost)));
            decided = Some((at, is_old));
            is_old
        });
        if rng.chance(200) && !self.unsynced.is_empty() {
            let torn = rng.index(self.unsynced.len());
            let (number, stable) = self.unsynced.iter().nth(torn).expect("below their number");
            let (new, range) = (self.sector(*number), range_of(*number, content.len()));
            let (cut, kept) = (rng.index(SECTOR_BYTES), range.len());
            let both: Vec<u8> = new[..cut].iter().chain(&stable[cut..]).copied().collect();
            content[range].copy_from_slice(&both[..kept]);
        }
        content
    }
}

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
    files: Vec<FileState>,
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
        self.put_stable(name, content.to_vec())
    }

    fn put_stable(&self, name: &str, content: Vec<u8>) -> SimFile {
        let mut state = self.state.borrow_mut();
        state.files.push(FileState::stable_from(content));
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
            after.put_stable(name, if left.bytes { file.seen.clone() } else { file.stable() });
        }
        after
    }

    /// Another disk, as a power cut would leave this one, by chance (D4).
    pub fn after_power_cut(&self, rng: &mut Rng) -> SimDisk {
        let state = self.state.borrow();
        let after = SimDisk::new();
        let mut names = state.stable_names.clone();
        let kept = rng.between(0..=state.unsynced_names.len() as u64) as usize;
        state.unsynced_names[..kept].iter().for_each(|change| change_names(&mut names, change));
        for (name, index) in names {
            after.put_stable(&name, state.files[index].after_power_cut(rng));
        }
        after
    }

    /// The medium itself changes behind everybody's back: bytes inside of a file.
    pub fn corrupt(&self, name: &str, offset: usize, bytes: &[u8]) {
        let mut state = self.state.borrow_mut();
        let index = state.names[name];
        let file = &mut state.files[index];
        file.seen[offset..][..bytes.len()].copy_from_slice(bytes);
        file.sync();
    }

    /// Another disk like this one, with all that is not stable yet.
    pub fn fork(&self) -> SimDisk {
        SimDisk { state: Rc::new(RefCell::new(self.state.borrow().clone())) }
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
        self.with(|file| file.stable())
    }
}

/// What the kernel does with a file by itself.
impl SimFile {
    /// Some of what is not stable becomes so.
    pub(super) fn write_back(&self, rng: &mut Rng) {
        self.with(|file| file.write_back(rng));
    }

    /// A sync has failed: what it was to make stable is so, or lost, sector by sector.
    pub(super) fn lose_unsynced(&self, rng: &mut Rng) {
        self.with(|file| file.lose_unsynced(rng));
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
        let rest = state.files[self.index].seen.get(offset as usize..).unwrap_or_default();
        let most = if state.read_bytes_max > 0 { state.read_bytes_max } else { usize::MAX };
        let count = rest.len().min(out.len()).min(most);
        out[..count].copy_from_slice(&rest[..count]);
        Ok(count)
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
    fn a_power_cut_leaves_old_and_new_sectors_in_any_mixture_and_nothing_else() {
        let (mut rng, mut seen) = (Rng::new(1), [false; 3]);
        for _ in 0..200 {
            let content = half_synced().after_power_cut(&mut rng).content().remove("a").expect("its name is stable");
            assert!((4096..=8192).contains(&content.len()));
            assert!(content[..4096].iter().all(|byte| [1, 2].contains(byte)));
            assert!(content[4096..].iter().all(|byte| [0, 2].contains(byte)));
            let old = content[..4096].iter().filter(|byte| **byte == 1).count();
            seen[usize::from(old > 0) + usize::from(old == 4096)] = true;
        }
        assert_eq!(seen, [true; 3], "all new, mixed, all old");
    }

    #[test]
    fn a_sync_that_fails_loses_some_sectors_for_good() {
        let file = half_synced().open("a").expect("it is there");
        file.lose_unsynced(&mut Rng::new(1));
        let seen = file.seen();
        assert!(seen[..4096].contains(&1) && seen[..4096].contains(&2), "some are lost, some are not");
        file.sync().expect("the next one succeeds, and is none the wiser");
        assert_eq!(file.stable(), seen);
    }

    #[test]
    fn a_power_cut_keeps_the_first_of_the_unsynced_changes_of_names() {
        let (mut rng, mut found) = (Rng::new(1), std::collections::BTreeSet::new());
        for _ in 0..100 {
            let disk = half_synced();
            disk.rename("a", "b").expect("it is there");
            disk.create("a").expect("the name is free");
            found.insert(disk.after_power_cut(&mut rng).content().into_keys().collect::<Vec<_>>().join(" "));
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
