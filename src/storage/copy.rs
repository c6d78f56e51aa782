//! Copying a log, also while an engine writes, seals and recycles it: the copy is a log of its own, the source's up to some moment.

use std::io;

use super::log_file::{LogFile, LogFolder};
use super::names::SegmentName;
use super::node_reader::{VerifyReport, verify};
use super::reader::ReadError;
use super::repair::copy_bytes;
use super::segments::{list, read_header};
use super::walk::{Step, Walk};

/// How often a copy begins anew when the retention takes segments away under it.
const ATTEMPTS_MAX: usize = 5;

/// How often files are looked for that are renamed or sealed under the copy.
const LOOKS_MAX: usize = 100;

/// Copies a node's log into another folder, durably, and reads the copy through. The folder has no log of this node yet.
///
/// # Errors
/// [`ReadError::Io`] (`AlreadyExists`: there is a log; `NotFound`: there is none to copy), [`ReadError::NotALog`].
pub fn copy_log<T: LogFolder + Clone>(from: &impl LogFolder, to: &T, node: u32) -> Result<VerifyReport, ReadError> {
    let there = list(to, node)?;
    if there.active || !there.sealed.is_empty() {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
    }
    for _ in 0..ATTEMPTS_MAX {
        if copy_once(from, to, node)? {
            to.sync()?;
            return verify(to.clone(), node);
        }
        for first in list(to, node)?.sealed {
            to.remove(&SegmentName::Sealed(node, first).to_string())?;
        }
    }
    Err(io::Error::from(io::ErrorKind::ResourceBusy).into())
}

/// False: a segment was given up under the copy.
fn copy_once(from: &impl LogFolder, to: &impl LogFolder, node: u32) -> Result<bool, ReadError> {
    // By first sequence, the last one that is sealed and copied.
    let mut copied: Option<u64> = None;
    for _ in 0..LOOKS_MAX {
        for first in behind(from, node, copied)? {
            let name = SegmentName::Sealed(node, first).to_string();
            let Some(file) = from.open_if_there(&name)? else { return Ok(false) };
            let copy = to.create(&name)?;
            copy_bytes(&file, 0, file.len()?, &copy, 0)?;
            copy.sync()?;
            // Recycled meanwhile; any other damage is the source's, and reading the copy through will tell.
            if read_header(&file)? != read_header(&copy)? {
                return Ok(false);
            }
            copied = Some(first);
        }
        let active = SegmentName::Active(node).to_string();
        let Some(file) = from.open_if_there(&active)? else {
            if copied.is_none() && !list(from, node)?.next {
                return Err(io::Error::from(io::ErrorKind::NotFound).into());
            }
            continue; // Between two names.
        };
        let mut walk = Walk::open(&file)?.map_err(ReadError::NotALog)?;
        while let Step::Batch(..) = walk.step()? {}
        if !behind(from, node, copied)?.is_empty() {
            continue; // It, or one more, was sealed in between.
        }
        let copy = to.create(&active)?;
        copy_bytes(&file, 0, walk.offset(), &copy, 0)?;
        copy.sync()?;
        return Ok(true);
    }
    Ok(false)
}

/// Sealed segments behind the one that begins with this sequence.
fn behind(from: &impl LogFolder, node: u32, copied: Option<u64>) -> io::Result<Vec<u64>> {
    let mut sealed = list(from, node)?.sealed;
    sealed.retain(|first| copied.is_none_or(|copied| *first > copied));
    Ok(sealed)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sim::disk::SimDisk;
    use crate::storage::SegmentOptions;
    use crate::storage::testing::{Bench, small};
    use crate::sys::clock::Nanos;
    use crate::wire::Tier;

    #[test]
    fn a_copy_of_a_log_in_use_is_whole_and_a_prefix() {
        let segments = SegmentOptions { segment_bytes: 12 << 10, ..SegmentOptions::default() };
        let mut bench = Bench::with_segments(small(), SimDisk::new(), segments);
        for _ in 0..40 {
            bench.push_many(Tier::Batch, 40);
            bench.poll();
            while bench.complete() {}
            bench.advance(Nanos::from_millis(3));
            let copy = SimDisk::new();
            let report = copy_log(&bench.ring.disk, &copy, 0).unwrap();
            // What the keeper has not given its name yet may be left out.
            assert!(report.is_whole() && report.end_sequence >= bench.log.status().segment(), "{report:?}");
            assert!(matches!(copy_log(&bench.ring.disk, &copy, 0), Err(ReadError::Io(_))), "one copy in one place");
            bench.keep();
        }
        assert!(bench.log.keeper_counters().sealed.get() > 3);
    }

    #[test]
    fn there_is_nothing_to_copy_in_an_empty_folder() {
        assert!(matches!(copy_log(&SimDisk::new(), &SimDisk::new(), 0), Err(ReadError::Io(_))));
    }
}
