//! The bytes of one simulated file: what a read sees, and what is stable of it.
//!
//! Invariants (a file is taken for one with zeros behind its end, without end):
//! - **D1** A sector is the same in what is seen and what is stable, unless it is in `unsynced`, which holds the stable one.
//! - **D4** A power cut leaves of each unsynced sector the old bytes or the new ones, or tears one of them; of a new length nothing, a part, or
//!   all. (Of names: see [`super::disk`].)
//! - **D6** Copies share their pages until one of them writes, and pages of zeros are not kept: most of a log is allocated ahead, and oracles
//!   cut the power of copies all the time. Behind the end of a file its last page is zeros.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use super::rng::Rng;
use super::tally::{Fault, Met};

/// The unit in which changes become stable.
pub const SECTOR_BYTES: usize = 512;

/// What many devices write at once.
const BLOCK_SECTORS: usize = 8;

/// The unit of sharing (D6).
const PAGE_BYTES: usize = 4096;

type Sector = [u8; SECTOR_BYTES];

/// Bytes that are cheap to copy (D6).
#[derive(Clone, Default, PartialEq, Eq)]
struct Image {
    /// `None`: zeros.
    pages: Vec<Option<Rc<[u8; PAGE_BYTES]>>>,
    len: usize,
}

impl Image {
    fn of(content: &[u8]) -> Self {
        let mut image = Self::default();
        image.resize(content.len());
        image.write(0, content);
        image
    }

    /// What is cut off is gone; what is added is zeros.
    fn resize(&mut self, len: usize) {
        if len < self.len && !len.is_multiple_of(PAGE_BYTES) {
            self.clear_page_from(len);
        }
        self.pages.resize(len.div_ceil(PAGE_BYTES), None);
        self.len = len;
    }

    fn clear_page_from(&mut self, at: usize) {
        if let Some(page) = &mut self.pages[at / PAGE_BYTES] {
            Rc::make_mut(page)[at % PAGE_BYTES..].fill(0);
        }
    }

    /// The pages that a range touches, each with the part of it.
    fn parts(range: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let end = if range.is_empty() { 0 } else { range.end.div_ceil(PAGE_BYTES) };
        (range.start / PAGE_BYTES..end).map(move |page| {
            let start = page * PAGE_BYTES;
            (page, range.start.max(start) - start..range.end.min(start + PAGE_BYTES) - start)
        })
    }

    /// The bytes from `at` on, as far as there are any; how many that were.
    fn read(&self, at: usize, out: &mut [u8]) -> usize {
        let count = out.len().min(self.len.saturating_sub(at));
        let mut done = 0;
        for (page, part) in Self::parts(at..at + count) {
            let to = &mut out[done..done + part.len()];
            done += part.len();
            match &self.pages[page] {
                Some(page) => to.copy_from_slice(&page[part]),
                None => to.fill(0),
            }
        }
        count
    }

    /// Changes bytes inside the end.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let mut done = 0;
        for (page, part) in Self::parts(at..at + bytes.len()) {
            let from = &bytes[done..done + part.len()];
            done += part.len();
            let page = &mut self.pages[page];
            if page.is_some() || from.iter().any(|byte| *byte != 0) {
                Rc::make_mut(page.get_or_insert_with(|| Rc::new([0; PAGE_BYTES])))[part].copy_from_slice(from);
            }
        }
    }
}

/// The bytes of sector `number`, as far as `bytes` reach.
fn range_of(number: usize, bytes: usize) -> Range<usize> {
    let start = (number * SECTOR_BYTES).min(bytes);
    start..(start + SECTOR_BYTES).min(bytes)
}

/// A file's bytes.
#[derive(Clone, Default)]
pub(super) struct FileBytes {
    seen: Image,
    /// By number: what is stable of sectors that were changed since (D1).
    unsynced: BTreeMap<usize, Sector>,
    stable_len: usize,
}

impl std::fmt::Debug for FileBytes {
    /// Without the bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes, {} stable, {} sectors unsynced", self.len(), self.stable_len, self.unsynced.len())
    }
}

impl FileBytes {
    /// All of it stable.
    pub(super) fn stable_from(content: &[u8]) -> Self {
        Self::of_image(Image::of(content))
    }

    fn of_image(seen: Image) -> Self {
        Self { stable_len: seen.len, seen, unsynced: BTreeMap::new() }
    }

    /// Bytes that a read sees.
    pub(super) fn len(&self) -> usize {
        self.seen.len
    }

    /// What a read of the whole sees.
    pub(super) fn seen(&self) -> Vec<u8> {
        let mut out = vec![0; self.len()];
        self.read(0, &mut out);
        out
    }

    /// What a read sees from `at` on; gives how many bytes that were.
    pub(super) fn read(&self, at: usize, out: &mut [u8]) -> usize {
        self.seen.read(at, out)
    }

    fn sector(&self, number: usize) -> Sector {
        let mut sector = [0; SECTOR_BYTES];
        self.seen.read(number * SECTOR_BYTES, &mut sector);
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

    pub(super) fn set_len(&mut self, len: usize) {
        // What is added is zeros, in what is seen as in what is stable: only what is cut off changes.
        self.keep_stable(len..self.len());
        self.seen.resize(len);
    }

    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if self.len() < end {
            self.set_len(end);
        }
        self.keep_stable(at..end);
        self.seen.write(at, bytes);
    }

    /// All of it is stable.
    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.stable_len = self.len();
    }

    /// These bytes are stable, and as much of the length as is needed to read them back. No other byte is: a write with `O_DSYNC` promises nothing
    /// of those before it.
    pub(super) fn sync_range(&mut self, bytes: Range<usize>) {
        let whole = bytes.start.div_ceil(SECTOR_BYTES)..bytes.end.div_ceil(SECTOR_BYTES);
        self.unsynced.retain(|number, _| !whole.contains(number));
        self.stable_len = self.stable_len.max(bytes.end.min(self.len()));
    }

    /// Some of what is not stable becomes so by itself.
    pub(super) fn write_back(&mut self, rng: &mut Rng) {
        self.unsynced.retain(|_, _| rng.chance(500));
        if rng.chance(500) {
            self.stable_len = self.len();
        }
    }

    /// What a sync loses that fails: each sector has become stable, or what it held before is what is seen from now on.
    pub(super) fn lose_unsynced(&mut self, rng: &mut Rng, met: &Met) {
        for (number, stable) in std::mem::take(&mut self.unsynced) {
            if rng.chance(500) {
                self.put_sector(number, &stable);
                met.note(Fault::SectorLostBySync);
            }
        }
    }

    fn put_sector(&mut self, number: usize, bytes: &Sector) {
        let range = range_of(number, self.len());
        self.seen.write(range.start, &bytes[..range.len()]);
    }

    /// As it is seen, and stable.
    pub(super) fn all_stable(&self) -> FileBytes {
        Self::of_image(self.seen.clone())
    }

    /// What a power cut leaves for certain.
    pub(super) fn stable(&self) -> FileBytes {
        self.mixed(self.stable_len, |_| true)
    }

    /// The file with this length, and with the stable bytes of the sectors for which `is_old` says so; all of it stable.
    fn mixed(&self, len: usize, mut is_old: impl FnMut(usize) -> bool) -> FileBytes {
        let mut mixed = Self::of_image(self.seen.clone());
        // Long enough for all that was ever stable.
        mixed.seen.resize(self.len().max(self.stable_len).max(len));
        for (number, stable) in &self.unsynced {
            if is_old(*number) {
                mixed.put_sector(*number, stable);
            }
        }
        mixed.seen.resize(len);
        mixed.stable_len = len;
        mixed
    }

    /// D4.
    pub(super) fn after_power_cut(&self, rng: &mut Rng, met: &Met) -> FileBytes {
        let (old, new) = (self.stable_len, self.len());
        let len = match rng.below(4) {
            0 => old,
            1 if new > old => rng.between(old as u64..=new as u64) as usize,
            _ => new,
        };
        if len < new {
            met.note(Fault::LengthLost);
        }
        let unit = *rng.pick(&[1, BLOCK_SECTORS]);
        let lost = *rng.pick(&[0, 100, 500, 900, 1000]);
        let mut decided = None;
        let mut after = self.mixed(len, |number| {
            let (at, is_old) =
                decided.filter(|(at, _)| *at == number / unit).unwrap_or_else(|| (number / unit, rng.chance(lost)));
            decided = Some((at, is_old));
            met.note(if is_old { Fault::SectorLost } else { Fault::SectorKept });
            is_old
        });
        if rng.chance(200) && !self.unsynced.is_empty() {
            let torn = rng.index(self.unsynced.len());
            let (number, stable) = self.unsynced.iter().nth(torn).expect("below their number");
            let cut = rng.index(SECTOR_BYTES);
            let mut both = self.sector(*number);
            both[cut..].copy_from_slice(&stable[cut..]);
            after.put_sector(*number, &both);
            met.note(Fault::SectorTorn);
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_end_there_is_nothing_to_read() {
        let file = FileBytes::stable_from(&[7; 100]);
        for at in [100, 101, PAGE_BYTES, 5 * PAGE_BYTES + 1] {
            assert_eq!(file.read(at, &mut [0; 16]), 0, "{at}");
        }
    }

    #[test]
    fn a_synced_range_is_stable_and_what_was_written_before_it_is_not() {
        let mut file = FileBytes::stable_from(&[7; 4 * SECTOR_BYTES]);
        file.write(0, &[8; SECTOR_BYTES]);
        file.write(SECTOR_BYTES, &[9; SECTOR_BYTES]);
        file.write(4 * SECTOR_BYTES, &[9; SECTOR_BYTES]);
        file.sync_range(SECTOR_BYTES..2 * SECTOR_BYTES);
        let stable = file.stable().seen();
        assert_eq!((stable[0], stable[SECTOR_BYTES], stable.len()), (7, 9, 4 * SECTOR_BYTES));
        file.sync_range(4 * SECTOR_BYTES..5 * SECTOR_BYTES);
        let stable = file.stable().seen();
        assert_eq!((stable[0], stable[4 * SECTOR_BYTES]), (7, 9), "it can be read back");
    }

    #[test]
    fn an_image_reads_like_a_row_of_bytes_however_it_is_changed() {
        let (mut rng, mut image, mut plain) = (Rng::new(1), Image::default(), Vec::new());
        let mut copies = Vec::new();
        for _ in 0..2_000 {
            let len = rng.index(3 * PAGE_BYTES);
            match rng.below(4) {
                0 => {
                    image.resize(len);
                    plain.resize(len, 0);
                }
                1 => copies.push((image.clone(), plain.clone())),
                _ if plain.is_empty() => {}
                _ => {
                    let at = rng.index(plain.len());
                    let bytes = vec![rng.below(3) as u8; len.min(plain.len() - at)];
                    image.write(at, &bytes);
                    plain[at..at + bytes.len()].copy_from_slice(&bytes);
                }
            }
            let mut read = vec![9; plain.len() + 10];
            let (at, count) = (rng.index(plain.len() + 1), read.len());
            let done = image.read(at, &mut read[..count]);
            assert_eq!(read[..done], plain[at..], "from {at} on");
        }
        for (image, plain) in copies {
            assert_eq!(FileBytes::of_image(image).seen(), plain, "a copy stays as it was");
        }
    }

    /// Two blocks, the first of them stable, both written over since.
    fn half_synced() -> FileBytes {
        let mut file = FileBytes::default();
        file.write(0, &[1; 4096]);
        file.sync();
        file.write(0, &[2; 8192]);
        file
    }

    #[test]
    fn only_a_sync_makes_writes_stable() {
        let mut file = FileBytes::default();
        file.write(0, b"first");
        assert_eq!((file.seen().as_slice(), file.stable().len()), (b"first".as_slice(), 0));
        file.sync();
        file.write(0, b"F");
        assert_eq!((file.seen().as_slice(), file.stable().seen().as_slice()), (b"First".as_slice(), b"first".as_slice()));
    }

    #[test]
    fn a_cut_is_stable_after_a_sync_too() {
        let mut file = FileBytes::default();
        file.write(0, &[7; 10_000]);
        file.sync();
        file.set_len(5_000);
        assert_eq!(file.stable().len(), 10_000);
        file.sync();
        assert_eq!(file.stable().seen(), vec![7; 5_000]);
    }

    #[test]
    fn a_power_cut_leaves_old_and_new_sectors_in_any_mixture_and_nothing_else() {
        let (mut rng, mut seen, met) = (Rng::new(1), [false; 3], Met::default());
        for _ in 0..200 {
            let content = half_synced().after_power_cut(&mut rng, &met).seen();
            assert!((4096..=8192).contains(&content.len()));
            assert!(content[..4096].iter().all(|byte| [1, 2].contains(byte)));
            assert!(content[4096..].iter().all(|byte| [0, 2].contains(byte)));
            let old = content[..4096].iter().filter(|byte| **byte == 1).count();
            seen[usize::from(old > 0) + usize::from(old == 4096)] = true;
        }
        assert_eq!(seen, [true; 3], "all new, mixed, all old");
        for fault in [Fault::SectorKept, Fault::SectorLost, Fault::SectorTorn, Fault::LengthLost] {
            assert!(met.tally().times(fault) > 0, "{}", fault.name());
        }
    }

    #[test]
    fn a_sync_that_fails_loses_some_sectors_for_good() {
        let mut file = half_synced();
        file.lose_unsynced(&mut Rng::new(1), &Met::default());
        let seen = file.seen();
        assert!(seen[..4096].contains(&1) && seen[..4096].contains(&2), "some are lost, some are not");
        file.sync();
        assert_eq!(file.stable().seen(), seen, "the next one succeeds, and is none the wiser");
    }
}
