//! The segments of a node's log in a folder: which are there, and whether the sealed ones are a row without a gap.
//!
//! Only headers and footers are read, so that a log of any size is looked over in bounded time; what is between them is for `log verify`.
//!
//! - **S1** A file bears a sealed segment's name only after all of it, footer included, was on stable storage: whatever is wrong with one is
//!   damage, a truncated one too.
//! - **S2** Each segment follows the one before it (sequence and chain). What is missing between two is damage, unless its loss was accepted:
//!   then the header of the second says so.

use std::io;

use super::format::{FIRST_BATCH_OFFSET, FOOTER_BYTES, Footer, FormatError, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::log_file::{LogFile, LogFolder, read_full};
use super::names::SegmentName;
use super::walk::{Damage, Fault};

/// Why a log can't be opened.
#[derive(Debug)]
pub enum LogFault {
    /// A call failed.
    Io {
        /// Which one, for people: "read", "cut the torn tail of", …
        doing: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// Not a log of this engine.
    Foreign,
    /// A log of another version of the format.
    Version {
        /// The version found.
        found: u16,
    },
    /// A log of another node.
    OtherNode {
        /// The node whose log it is.
        found: u32,
    },
    /// Data that had been durable is gone.
    Damaged(Damage),
}

/// A fault, and the file that has it. Nothing of a damaged file was changed.
#[derive(Debug)]
pub struct SegmentFault {
    /// The name of the file.
    pub name: String,
    /// What is wrong with it.
    pub fault: LogFault,
}

impl SegmentFault {
    /// A failed call, for `map_err`.
    pub(super) fn io(name: SegmentName, doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self { name: name.to_string(), fault: LogFault::Io { doing, error } }
    }

    pub(super) fn damaged(name: SegmentName, damage: Damage) -> Self {
        Self { name: name.to_string(), fault: LogFault::Damaged(damage) }
    }
}

/// A sealed segment, by what its two ends say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// Its header.
    pub header: SegmentHeader,
    /// Its footer.
    pub footer: Footer,
}

impl SealedSegment {
    /// Its file.
    pub fn name(&self) -> SegmentName {
        SegmentName::Sealed(self.header.node, self.header.first_sequence)
    }

    /// Bytes of its file.
    pub fn file_bytes(&self) -> u64 {
        self.footer.offset + FOOTER_BYTES as u64
    }

    /// Reads both ends of a sealed segment's file.
    ///
    /// # Errors
    /// Whatever reading says; `Ok(Err(_))`: what is wrong with it, and where.
    pub fn read(file: &impl LogFile) -> io::Result<Result<Self, (u64, Fault)>> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let read = read_full(file, &mut bytes, 0)?;
        let header = match SegmentHeader::decode(&bytes[..read]) {
            Ok(header) => header,
            Err(error) => return Ok(Err((0, Fault::SegmentHeader(error)))),
        };
        let len = file.len()?;
        let Some(at) = len.checked_sub(FOOTER_BYTES as u64).filter(|at| *at >= FIRST_BATCH_OFFSET) else {
            return Ok(Err((len, Fault::Footer(FormatError::Short))));
        };
        let mut bytes = [0; FOOTER_BYTES];
        let read = read_full(file, &mut bytes, at)?;
        let footer = match Footer::decode(&bytes[..read]) {
            Ok(footer) => footer,
            Err(error) => return Ok(Err((at, Fault::Footer(error)))),
        };
        let fits = footer.log_id == header.log_id && footer.first_sequence == header.first_sequence && footer.offset == at;
        Ok(if fits { Ok(Self { header, footer }) } else { Err((at, Fault::Footer(FormatError::Field))) })
    }
}

/// The header at the start of a file, if there is one.
///
/// # Errors
/// Whatever reading says.
pub(super) fn read_header(file: &impl LogFile) -> io::Result<Option<SegmentHeader>> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = read_full(file, &mut bytes, 0)?;
    Ok(SegmentHeader::decode(&bytes[..read]).ok())
}

/// The files of one node's log.
#[derive(Clone, Debug, Default)]
pub struct SegmentFiles {
    /// First sequences of the sealed segments by their names, ascending.
    pub sealed: Vec<u64>,
    /// Whether there is an active one.
    pub active: bool,
    /// Whether there is one prepared to become active.
    pub next: bool,
}

/// The files of one node's log in a folder.
///
/// # Errors
/// Whatever listing says.
pub fn list(folder: &impl LogFolder, node: u32) -> io::Result<SegmentFiles> {
    let mut files = SegmentFiles::default();
    for name in folder.list()?.iter().filter_map(|name| SegmentName::parse(name)).filter(|name| name.node() == node) {
        match name {
            SegmentName::Active(_) => files.active = true,
            SegmentName::Next(_) => files.next = true,
            SegmentName::Sealed(_, first) => files.sealed.push(first),
        }
    }
    files.sealed.sort_unstable();
    Ok(files)
}

/// The nodes that have a log in a folder, ascending.
///
/// # Errors
/// Whatever listing says.
pub fn nodes_of(folder: &impl LogFolder) -> io::Result<Vec<u32>> {
    let names = folder.list()?;
    // A prepared file alone is no log.
    let is_log = |name: &SegmentName| !matches!(name, SegmentName::Next(_));
    let mut nodes: Vec<u32> =
        names.iter().filter_map(|name| SegmentName::parse(name)).filter(is_log).map(SegmentName::node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    Ok(nodes)
}

/// Looks over the sealed segments of a node: S1 and S2.
///
/// # Errors
/// The first fault.
pub fn survey(folder: &impl LogFolder, node: u32) -> Result<Vec<SealedSegment>, SegmentFault> {
    let files = list(folder, node).map_err(SegmentFault::io(SegmentName::Active(node), "list the folder of"))?;
    let mut sealed: Vec<SealedSegment> = Vec::new();
    for first in files.sealed {
        let name = SegmentName::Sealed(node, first);
        let file = folder.open(&name.to_string()).map_err(SegmentFault::io(name, "open"))?;
        let segment = match SealedSegment::read(&file).map_err(SegmentFault::io(name, "read"))? {
            Ok(segment) => segment,
            Err((_, Fault::SegmentHeader(FormatError::Version { found }))) => {
                return Err(SegmentFault { name: name.to_string(), fault: LogFault::Version { found } });
            }
            Err((offset, fault)) => {
                return Err(SegmentFault::damaged(name, Damage { offset, fault, first_lost: first, resume: None }));
            }
        };
        check_place(sealed.last(), &segment.header, name)?;
        sealed.push(segment);
    }
    Ok(sealed)
}

/// S2: whether a segment may stand under this name, behind this predecessor (`None`: the oldest one that is kept).
pub(super) fn check_place(before: Option<&SealedSegment>, header: &SegmentHeader, name: SegmentName) -> Result<(), SegmentFault> {
    if header.node != name.node() {
        return Err(SegmentFault { name: name.to_string(), fault: LogFault::OtherNode { found: header.node } });
    }
    let is_misnamed = matches!(name, SegmentName::Sealed(_, first) if first != header.first_sequence);
    let Some(before) = before.filter(|before| is_misnamed || !before.footer.is_followed_by(header)) else {
        return if is_misnamed { Err(discontinuous(name, header, header.first_sequence)) } else { Ok(()) };
    };
    let end = before.footer.end_sequence;
    if !is_misnamed && header.log_id == before.header.log_id && header.follows > end {
        let damage = Damage { offset: 0, fault: Fault::Missing, first_lost: end, resume: Some((0, header.first_sequence)) };
        return Err(SegmentFault::damaged(name, damage));
    }
    Err(discontinuous(name, header, end))
}

fn discontinuous(name: SegmentName, header: &SegmentHeader, first_lost: u64) -> SegmentFault {
    let resume = Some((0, header.first_sequence.max(first_lost)));
    SegmentFault::damaged(name, Damage { offset: 0, fault: Fault::Discontinuous, first_lost, resume })
}
