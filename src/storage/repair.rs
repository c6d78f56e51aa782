//! Repair, on request only: a damaged log is made whole again, of what can still be read of it.
//!
//! ```text
//! damaged file ─► copy in quarantine ─► its readable runs, each a sealed segment of its own ─► the file goes, what follows is told of the gap
//! ```
//!
//! - **X1** Nothing is thrown away: the damaged file is copied whole, and the copy is durable, before anything takes its place.
//! - **X2** What is lost is said in the log itself: the header of the segment behind a gap says what it follows, and that the loss was
//!   accepted. From then on the log is whole, and a reader counts what was accepted.
//! - **X3** A crash in the middle leaves a log that is damaged still, or whole; another repair brings it to its end.

use std::io;

use super::format::{BATCH_HEADER_BYTES, BatchHeader, FIRST_BATCH_OFFSET, Footer, LogKey, SegmentHeader};
use super::log_file::{LogFile, LogFolder, read_full};
use super::names::SegmentName;
use super::open::LogIdentity;
use super::recovery::{next_epoch, recover, write_footer, write_header};
use super::segments::{LogFault, SealedSegment, SegmentFault, list, read_header};
use super::walk::{Damage, Fault, Step, Tail, Walk};

/// Bytes copied at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What was done about one damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The file that had it.
    pub name: String,
    /// What was wrong.
    pub damage: Damage,
    /// Where the file is kept as it was; `None`: nothing of it was cut.
    pub quarantine: Option<String>,
}

impl std::fmt::Display for Mended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; the loss is accepted", self.name, self.damage)?;
        match &self.quarantine {
            Some(quarantine) => write!(f, ", the file as it was is {quarantine}"),
            None => Ok(()),
        }
    }
}

/// Makes a log whole that can't be opened: what recovery complains of is mended, one by one. Reads what recovery reads.
///
/// # Errors
/// What is no damage, and what the folder refuses.
pub fn accept_loss(folder: &impl LogFolder, identity: &LogIdentity) -> Result<Vec<Mended>, SegmentFault> {
    let mut mender = Mender { folder, identity, done: Vec::new() };
    mender.until_recovered()?;
    Ok(mender.done)
}

/// Makes a log whole: every byte of it is read, and whatever is damaged is mended.
///
/// # Errors
/// As [`accept_loss`].
pub fn repair(folder: &impl LogFolder, identity: &LogIdentity) -> Result<Vec<Mended>, SegmentFault> {
    let mut mender = Mender { folder, identity, done: Vec::new() };
    mender.until_recovered()?;
    let files = list(folder, identity.node).map_err(mender.io(SegmentName::Active(identity.node), "list the folder of"))?;
    for first in files.sealed {
        mender.look_through(SegmentName::Sealed(identity.node, first))?;
    }
    mender.until_recovered()?;
    Ok(mender.done)
}

/// Batches that follow each other without damage, as a segment of their own.
#[derive(Clone, Copy, Debug)]
struct Run {
    header: SegmentHeader,
    /// Where they begin in the damaged file.
    from: u64,
    /// The footer of their own segment.
    footer: Footer,
}

struct Mender<'a, D> {
    folder: &'a D,
    identity: &'a LogIdentity,
    done: Vec<Mended>,
}

impl<D: LogFolder> Mender<'_, D> {
    fn io(&self, name: SegmentName, doing: &'static str) -> impl Fn(io::Error) -> SegmentFault + use<D> {
        SegmentFault::io(name, doing)
    }

    fn until_recovered(&mut self) -> Result<(), SegmentFault> {
        // Each round mends one damage of one file for good; a file has no more than it has blocks, and most have one.
        let mut last = None;
        loop {
            let SegmentFault { name, fault } = match recover(self.folder, self.identity) {
                Ok(_) => return Ok(()),
                Err(fault) => fault,
            };
            let (LogFault::Damaged(damage), Some(place)) = (&fault, SegmentName::parse(&name)) else {
                return Err(SegmentFault { name, fault });
            };
            if last.replace((place, *damage)) == Some((place, *damage)) {
                return Err(SegmentFault { name, fault }); // It was mended, and is there again: no use.
            }
            self.mend(place, *damage)?;
        }
    }

    fn mend(&mut self, name: SegmentName, damage: Damage) -> Result<(), SegmentFault> {
        let mend = match (name, damage.fault) {
            (SegmentName::Sealed(..), Fault::Missing | Fault::Discontinuous) => self.mend_gap(name),
            (SegmentName::Sealed(..), _) => self.mend_sealed(name),
            _ => self.mend_active(damage.fault),
        };
        let quarantine = mend.map_err(self.io(name, "mend"))?;
        self.done.push(Mended { name: name.to_string(), damage, quarantine });
        Ok(())
    }

    /// Reads a sealed segment to its end, and mends it if that can't be done.
    fn look_through(&mut self, name: SegmentName) -> Result<(), SegmentFault> {
        let reading = self.io(name, "read");
        let Some(file) = self.folder.open_if_there(&name.to_string()).map_err(&reading)? else { return Ok(()) };
        let Ok(mut walk) = Walk::open(&file).map_err(&reading)? else { return Ok(()) };
        walk.expect_footer();
        loop {
            match walk.step().map_err(&reading)? {
                Step::Batch(..) => {}
                Step::Sealed(_) => return Ok(()),
                Step::Stop(fault) => match walk.tail(fault).map_err(&reading)? {
                    Tail::Damaged(damage) => return self.mend(name, damage),
                    _ => return Ok(()),
                },
            }
        }
    }

    /// What is kept before this segment.
    fn before(&self, name: SegmentName) -> io::Result<Option<Footer>> {
        let mut sealed = list(self.folder, self.identity.node)?.sealed.into_iter();
        let first = match name {
            SegmentName::Sealed(_, first) => first,
            _ => u64::MAX,
        };
        let Some(last) = sealed.rfind(|other| *other < first) else { return Ok(None) };
        let file = self.folder.open(&SegmentName::Sealed(self.identity.node, last).to_string())?;
        Ok(SealedSegment::read(&file)?.ok().map(|segment| segment.footer))
    }

    /// X2: the segment says that it follows what is there, with a loss between. One that does not go on at all is put aside.
    fn mend_gap(&mut self, name: SegmentName) -> io::Result<Option<String>> {
        let file = self.folder.open(&name.to_string())?;
        let header = read_header(&file)?;
        let before = self.before(name)?;
        match (header, before) {
            (Some(header), Some(before)) if header.log_id == before.log_id && header.first_sequence >= before.end_sequence => {
                write_header(&file, &SegmentHeader { follows: before.end_sequence, mended: true, ..header })?;
                file.sync()?;
                Ok(None)
            }
            _ => {
                let quarantine = self.quarantine_name(name);
                self.folder.rename(&name.to_string(), &quarantine)?;
                self.folder.sync()?;
                Ok(Some(quarantine))
            }
        }
    }

    fn mend_sealed(&mut self, name: SegmentName) -> io::Result<Option<String>> {
        let file = self.folder.open(&name.to_string())?;
        let quarantine = self.quarantine(name, &file)?;
        let before = self.before(name)?;
        let runs = self.runs(&file, true, before.as_ref())?;
        let keeps_name = |run: &&Run| SegmentName::Sealed(run.header.node, run.header.first_sequence) == name;
        for run in runs.iter().filter(|run| !keeps_name(run)) {
            self.write_run(&file, run)?;
        }
        match runs.iter().find(keeps_name) {
            Some(run) => self.write_run(&file, run)?,
            None => self.folder.remove(&name.to_string())?,
        }
        self.folder.sync()?;
        Ok(Some(quarantine))
    }

    /// All that is readable of the active segment, and of the next one if it was written, is sealed; a new one is begun behind it.
    fn mend_active(&mut self, fault: Fault) -> io::Result<Option<String>> {
        let (active, next) = (SegmentName::Active(self.identity.node), SegmentName::Next(self.identity.node));
        let mut end = self.before(active)?;
        let mut quarantine = None;
        for name in [active, next] {
            let Some(file) = self.folder.open_if_there(&name.to_string())? else { continue };
            let runs = self.runs(&file, false, end.as_ref())?;
            if name == active || !runs.is_empty() {
                let copy = self.quarantine(name, &file)?;
                quarantine = quarantine.or(Some(copy));
            }
            for run in &runs {
                self.write_run(&file, run)?;
                end = Some(run.footer);
            }
        }
        debug_assert!(fault != Fault::Missing || end.is_some(), "what is missing follows something");
        let header = match end {
            Some(end) => SegmentHeader { mended: true, ..end.successor(self.identity.wall, next_epoch(&end)) },
            None => self.identity.first_segment(),
        };
        let file = self.folder.create(&next.to_string())?;
        file.set_len(0)?;
        write_header(&file, &header)?;
        file.sync()?;
        self.folder.sync()?;
        self.folder.rename(&next.to_string(), &active.to_string())?;
        self.folder.sync()?;
        Ok(quarantine)
    }

    fn quarantine_name(&self, name: SegmentName) -> String {
        format!("quarantine.{name}.{}", self.identity.wall.0)
    }

    /// X1.
    fn quarantine(&self, name: SegmentName, file: &D::File) -> io::Result<String> {
        let quarantine = self.quarantine_name(name);
        let copy = self.folder.create(&quarantine)?;
        copy.set_len(0)?;
        copy_bytes(file, 0, file.len()?, &copy, 0)?;
        copy.sync()?;
        self.folder.sync()?;
        Ok(quarantine)
    }

    /// What is readable of a damaged file, behind `before`.
    fn runs(&self, file: &D::File, is_sealed: bool, before: Option<&Footer>) -> io::Result<Vec<Run>> {
        let mut end = before.map_or(0, |before| before.end_sequence);
        let mut walk = match Walk::open(file)? {
            Ok(walk) => walk,
            Err(_) => match Walk::first_batch_anywhere(file)? {
                None => return Ok(Vec::new()),
                Some((at, batch, key)) => {
                    let log_id = self.log_id_of(key)?;
                    Walk::resumed(file, self.header_before(&batch, log_id, before), at)
                }
            },
        };
        if before.is_some_and(|before| before.log_id != walk.segment().log_id) {
            return Ok(Vec::new());
        }
        if is_sealed {
            walk.expect_footer();
        }
        let (mut runs, mut header, mut from) = (Vec::new(), *walk.segment(), walk.offset());
        loop {
            let fault = match walk.step()? {
                Step::Batch(..) => continue,
                Step::Sealed(_) => None,
                Step::Stop(fault) => Some(fault),
            };
            let footer = *walk.so_far();
            if footer.has_records() && footer.first_sequence >= end {
                let is_mended = header.mended || header.follows != end || !runs.is_empty();
                let header = SegmentHeader { follows: end, mended: is_mended, recycled: false, ..header };
                runs.push(Run { header, from, footer });
                end = footer.end_sequence;
            }
            let resume = match fault.map(|fault| walk.tail(fault)).transpose()? {
                Some(Tail::Damaged(Damage { resume: Some(resume), .. })) => resume,
                _ => return Ok(runs),
            };
            let mut bytes = [0; BATCH_HEADER_BYTES];
            read_full(file, &mut bytes, resume.0)?;
            let log_id = walk.segment().log_id;
            let Ok((batch, _)) = BatchHeader::decode(&bytes, LogKey::of(log_id)) else { return Ok(runs) };
            walk.resume(resume.0, resume.1);
            header = SegmentHeader {
                latest_receipt_before: footer.latest_receipt,
                ..self.header_before(&batch, log_id, Some(&footer))
            };
            from = resume.0;
        }
    }

    /// The id of the log whose batches have this key: that of the segment whose header can be read, or else some id with that key.
    fn log_id_of(&self, key: LogKey) -> io::Result<u64> {
        let files = list(self.folder, self.identity.node)?;
        let sealed = files.sealed.into_iter().map(|first| SegmentName::Sealed(self.identity.node, first));
        for name in sealed.chain([SegmentName::Active(self.identity.node), SegmentName::Next(self.identity.node)]) {
            let Some(file) = self.folder.open_if_there(&name.to_string())? else { continue };
            if let Some(header) = read_header(&file)?.filter(|header| LogKey::of(header.log_id) == key) {
                return Ok(header.log_id);
            }
        }
        Ok(key.some_log_id())
    }

    /// A header for a segment that begins with this batch.
    fn header_before(&self, batch: &BatchHeader, log_id: u64, before: Option<&Footer>) -> SegmentHeader {
        SegmentHeader {
            node: self.identity.node,
            log_id,
            created_at: self.identity.wall,
            first_sequence: batch.first_sequence,
            epoch: batch.epoch,
            follows: before.map_or(batch.first_sequence, |before| before.end_sequence.min(batch.first_sequence)),
            chain: batch.chain,
            recycled: false,
            mended: true,
            latest_receipt_before: before.map_or(crate::sys::clock::WallNanos(0), |before| before.latest_receipt),
        }
    }

    fn write_run(&self, file: &D::File, run: &Run) -> io::Result<()> {
        let making = format!("events.node{}.mend", self.identity.node);
        let copy = self.folder.create(&making)?;
        copy.set_len(0)?;
        write_header(&copy, &run.header)?;
        copy_bytes(file, run.from, run.footer.offset - FIRST_BATCH_OFFSET, &copy, FIRST_BATCH_OFFSET)?;
        write_footer(&copy, &run.footer)?;
        copy.sync()?;
        let name = SegmentName::Sealed(run.header.node, run.header.first_sequence);
        self.folder.rename(&making, &name.to_string())?;
        self.folder.sync()
    }
}

/// Copies `bytes` of one file to a place in another.
pub(super) fn copy_bytes(from: &impl LogFile, at: u64, bytes: u64, to: &impl LogFile, to_at: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut done = 0;
    while done < bytes {
        let want = (bytes - done).min(PIECE_BYTES as u64) as usize;
        let read = read_full(from, &mut piece[..want], at + done)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_at(&piece[..read], to_at + done)?;
        done += read as u64;
    }
    Ok(())
}
