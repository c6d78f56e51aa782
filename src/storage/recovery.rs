//! Recovery: what a crash left of a log is brought to a state in which batches can be appended.
//!
//! ```text
//! sealed segments ─► headers and footers in a row? ──► no: damage
//!   └─► active ─► walk ─► clean tail ───────────────────────────────────────────────► goes on in place
//!         │          ├──► the next segment goes on exactly here: the roll is completed ─► its walk
//!         │          ├──► torn tail: cut; with records sealed there, and a new segment begun
//!         │          └──► damage, another log, another version: refused, nothing changed
//!         └─► none (a roll was under way) ─► the next segment, if it goes on there; else one is begun
//! ```
//!
//! - **V1** What is damaged is never changed; what is cut was never called durable by anything behind it (K2).
//! - **V2** Recovering twice gives the same bytes: a clean tail is left alone, a cut one is clean afterwards.
//! - **V3** Names change in one order: the next file's name is durable; the active one, sealed and synced, gets its sealed name, durable; the
//!   next one, its header durable, becomes active, durable. So at any moment there is an active file or one that can become it, and each step
//!   that a crash left undone is done here. The name of a next file may be the work of an opening that was killed before it was durable: it is
//!   made durable before the active one is sealed.
//! - **V4** Time and memory are bounded: of sealed segments only the ends are read, of the active and the next one every byte.
//! - **V5** Nobody else writes: the folder is locked, and what a killed engine had in flight has ended (its ring outlives it for some
//!   11 ms, and its last write would fall into what was read and cut here) before the first byte is read.
//!
//! What it does not do: repair (see `repair.rs`), begin an epoch (see `open.rs`).

use super::format::{
    BLOCK_BYTES, BatchMark, EPOCH_MAX, FIRST_BATCH_OFFSET, FOOTER_BYTES, Footer, FormatError, SEGMENT_HEADER_BYTES,
    SEGMENT_MAGIC, SegmentHeader,
};
use super::log_file::{LogFile, LogFolder, read_full};
use super::names::SegmentName;
use super::open::LogIdentity;
use super::producers::Rebuild;
use super::segments::{LogFault, SealedSegment, SegmentFault, check_place, read_header, survey};
use super::walk::{Damage, Fault, Step, Tail, Walk};
use crate::sys::clock::WallNanos;

/// What a log held when it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Bytes of the active segment kept.
    pub valid_bytes: u64,
    /// Bytes cut off: from the valid end to the last byte that was not zero.
    pub cut_bytes: u64,
    /// What was wrong with the first of them.
    pub cut_fault: Option<Fault>,
    /// Good batches with records, in all segments.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// The sequence of the next record.
    pub next_sequence: u64,
    /// Epoch of the last batch; 0 in a new log.
    pub last_epoch: u32,
    /// The highest event id, 0 without records.
    pub highest_event_id: u64,
    /// When the first batch with records was sealed.
    pub first_sealed_at: Option<WallNanos>,
    /// When the last batch with records was sealed.
    pub last_sealed_at: Option<WallNanos>,
    /// Whether the last run closed it in good order (true for a new log).
    pub closed: bool,
    /// Sealed segments.
    pub segments: u64,
}

/// A log after recovery.
#[derive(Debug)]
pub(super) struct Recovered<F> {
    pub report: RecoveryReport,
    pub sealed: Vec<SealedSegment>,
    pub active: F,
    pub header: SegmentHeader,
    /// What the active segment's footer would say.
    pub so_far: Footer,
    /// The producers' table; complete: as the active segment tells it by itself.
    pub producers: Rebuild,
}

/// Brings a node's log to a state in which batches can be appended: completes what a crash interrupted, cuts a torn tail, refuses
/// everything else that is not a log. Makes a new one where there is none.
///
/// # Errors
/// See [`SegmentFault`].
pub fn recover(folder: &impl LogFolder, identity: &LogIdentity) -> Result<RecoveryReport, SegmentFault> {
    // Nobody asks for the table.
    recover_all(folder, identity, 1).map(|recovered| recovered.report)
}

pub(super) fn recover_all<D: LogFolder>(
    folder: &D,
    identity: &LogIdentity,
    producers_max: u32,
) -> Result<Recovered<D::File>, SegmentFault> {
    let sealed = survey(folder, identity.node)?;
    let written = [SegmentName::Active(identity.node), SegmentName::Next(identity.node)].into_iter();
    for name in written.chain(sealed.last().map(SealedSegment::name)) {
        folder
            .await_writes(&name.to_string())
            .map_err(SegmentFault::io(name, "wait for the last writes of a killed engine to"))?;
    }
    let mut recovery = Recovery {
        folder,
        identity,
        sealed,
        producers_max,
        producers: Rebuild::new(producers_max),
        sealed_producers: None,
        report: RecoveryReport { closed: true, ..Default::default() },
    };
    let (active, header, so_far) = loop {
        if let Some(found) = recovery.round()? {
            break found;
        }
    };
    recovery.remove_next(&so_far)?;
    recovery.report.add_up(&recovery.sealed, &so_far);
    let producers = recovery.producers()?;
    let Recovery { sealed, report, .. } = recovery;
    Ok(Recovered { report, sealed, active, header, so_far, producers })
}

struct Recovery<'a, D> {
    folder: &'a D,
    identity: &'a LogIdentity,
    sealed: Vec<SealedSegment>,
    producers_max: u32,
    /// As the active segment tells it.
    producers: Rebuild,
    /// As the segment told it that was sealed last, if that was done here.
    sealed_producers: Option<Rebuild>,
    report: RecoveryReport,
}

/// The active segment's file and header, and what its footer would say.
type Active<F> = (F, SegmentHeader, Footer);

impl<D: LogFolder> Recovery<'_, D> {
    fn active_name(&self) -> SegmentName {
        SegmentName::Active(self.identity.node)
    }

    fn next_name(&self) -> SegmentName {
        SegmentName::Next(self.identity.node)
    }

    fn open(&self, name: SegmentName) -> Result<Option<D::File>, SegmentFault> {
        self.folder.open_if_there(&name.to_string()).map_err(SegmentFault::io(name, "open"))
    }

    /// The table: the active segment tells it, or, where its snapshot was cut off or never written, the one before it (P4).
    fn producers(&mut self) -> Result<Rebuild, SegmentFault> {
        let active = std::mem::replace(&mut self.producers, Rebuild::new(1));
        let Some(last) = self.sealed.last().filter(|_| !active.is_complete) else { return Ok(active) };
        let before = match self.sealed_producers.take() {
            Some(before) => before,
            None => self.producers_of(last)?,
        };
        Ok(Rebuild { is_complete: false, ..active.on_top_of(before) })
    }

    fn producers_of(&self, segment: &SealedSegment) -> Result<Rebuild, SegmentFault> {
        let name = segment.name();
        let reading = SegmentFault::io(name, "read");
        let mut producers = Rebuild::new(self.producers_max);
        let file = self.folder.open(&name.to_string()).map_err(&reading)?;
        let Ok(mut walk) = Walk::open(&file).map_err(&reading)? else { return Ok(producers) };
        walk.expect_footer();
        loop {
            match walk.step().map_err(&reading)? {
                Step::Batch(header, _) => producers.add(&header, walk.payload()),
                Step::Sealed(_) => return Ok(producers),
                Step::Stop(fault) => match walk.tail(fault).map_err(&reading)? {
                    Tail::Damaged(damage) => return Err(SegmentFault::damaged(name, damage)),
                    Tail::Clean | Tail::Torn { .. } => return Ok(producers),
                },
            }
        }
    }

    /// One look at the active segment; `None`: something was completed, look again.
    fn round(&mut self) -> Result<Option<Active<D::File>>, SegmentFault> {
        let name = self.active_name();
        let Some(file) = self.open(name)? else {
            self.activate_next()?;
            return Ok(None);
        };
        let walk = match Walk::open(&file).map_err(SegmentFault::io(name, "read"))? {
            Ok(walk) => walk,
            Err(error) => {
                self.without_header(&file, error)?;
                return Ok(None);
            }
        };
        check_place(self.sealed.last(), walk.segment(), name)?;
        let header = *walk.segment();
        let Some(so_far) = self.walk(walk)? else { return Ok(None) };
        // A header block whose zeros were cut off: the rest of the block is the header's.
        if file.len().map_err(SegmentFault::io(name, "read"))? < FIRST_BATCH_OFFSET {
            file.set_len(FIRST_BATCH_OFFSET)
                .and_then(|()| file.sync())
                .map_err(SegmentFault::io(name, "complete the header of"))?;
        }
        Ok(Some((file, header, so_far)))
    }

    /// Walks the active segment to its end, and does what is to be done there; `None`: it is sealed now.
    fn walk(&mut self, mut walk: Walk<&D::File>) -> Result<Option<Footer>, SegmentFault> {
        let name = self.active_name();
        let reading = SegmentFault::io(name, "read");
        self.report.closed = true;
        self.producers = Rebuild::new(self.producers_max);
        let fault = loop {
            match walk.step().map_err(&reading)? {
                Step::Batch(header, _) => {
                    self.report.closed = header.mark == BatchMark::Closed;
                    self.producers.add(&header, walk.payload());
                }
                Step::Sealed(footer) => {
                    self.seal(walk.file(), *walk.segment(), footer)?;
                    return Ok(None);
                }
                Step::Stop(fault) => break fault,
            }
        };
        let so_far = *walk.so_far();
        let next = self.open(self.next_name())?;
        if let Some(next) = &next
            && let Some(header) = read_header(next).map_err(SegmentFault::io(self.next_name(), "read"))?
            && so_far.is_followed_by(&header)
        {
            // Whatever lies behind the last batch is a footer in the making, or what was allocated.
            self.folder.sync().map_err(SegmentFault::io(self.next_name(), "sync the name of"))?; // V3
            self.seal(walk.file(), *walk.segment(), so_far)?;
            return Ok(None);
        }
        let tail = walk.tail(fault).map_err(&reading)?;
        if let Tail::Damaged(damage) = tail {
            return Err(SegmentFault::damaged(name, damage));
        }
        self.look_for_evidence(next.as_ref(), &so_far, fault)?;
        let Tail::Torn { fault, bytes } = tail else { return Ok(Some(so_far)) };
        (self.report.cut_bytes, self.report.cut_fault) = (self.report.cut_bytes + bytes, Some(fault));
        if so_far.has_records() {
            // Sealed where it was cut: what follows has an epoch and a file of its own.
            self.write_next(&so_far.successor(self.identity.wall, next_epoch(&so_far)))?;
            self.seal(walk.file(), *walk.segment(), so_far)?;
            return Ok(None);
        }
        let file = walk.file();
        file.set_len(so_far.offset).and_then(|()| file.sync()).map_err(SegmentFault::io(name, "cut the torn tail of"))?;
        Ok(Some(so_far))
    }

    /// K2, in the next segment: a batch there that calls durable what is missing here.
    fn look_for_evidence(&self, next: Option<&D::File>, end: &Footer, fault: Fault) -> Result<(), SegmentFault> {
        let Some(next) = next else { return Ok(()) };
        let hit = Walk::evidence_in(next, end).map_err(SegmentFault::io(self.next_name(), "read"))?;
        let Some((_, header)) = hit else { return Ok(()) };
        let damage = Damage { offset: end.offset, fault, first_lost: end.end_sequence, resume: Some((0, header.first_sequence)) };
        Err(SegmentFault::damaged(self.active_name(), damage))
    }

    /// There is no active segment: the next one becomes it, if it goes on where the sealed ones end; else a new one is begun.
    fn activate_next(&mut self) -> Result<(), SegmentFault> {
        let next = self.open(self.next_name())?;
        let header = next.as_ref().map(read_header).transpose().map_err(SegmentFault::io(self.next_name(), "read"))?.flatten();
        let missing = |first_lost, resume| {
            SegmentFault::damaged(self.active_name(), Damage { offset: 0, fault: Fault::Missing, first_lost, resume })
        };
        match (self.sealed.last(), header) {
            (Some(last), Some(header)) if last.footer.is_followed_by(&header) => {
                // Its bytes may be in the page cache only.
                next.as_ref().map_or(Ok(()), LogFile::sync).map_err(SegmentFault::io(self.next_name(), "sync"))?;
            }
            (Some(last), _) => {
                let end = last.footer;
                // V3: the next file was there before the active one got its sealed name.
                let Some(next) = &next else { return Err(missing(end.end_sequence, None)) };
                self.look_for_evidence(Some(next), &end, Fault::Missing)?;
                self.write_next(&end.successor(self.identity.wall, next_epoch(&end)))?;
            }
            (None, Some(header)) if header.first_sequence > 0 => {
                return Err(missing(0, Some((0, header.first_sequence))));
            }
            (None, _) => self.write_next(&self.identity.first_segment())?,
        }
        self.rename(self.next_name(), self.active_name())
    }

    /// Takes away a next segment that was prepared and not needed, or that was used and does not continue what is there (a power cut kept
    /// its batches, and not the ones before them): those are counted as cut.
    fn remove_next(&mut self, end: &Footer) -> Result<(), SegmentFault> {
        let name = self.next_name();
        let Some(next) = self.open(name)? else { return Ok(()) };
        if let Ok(mut walk) = Walk::open(&next).map_err(SegmentFault::io(name, "read"))?
            && walk.segment().log_id == end.log_id
            && walk.segment().first_sequence >= end.end_sequence
        {
            while let Step::Batch(..) = walk.step().map_err(SegmentFault::io(name, "read"))? {}
            self.report.cut_bytes += walk.offset() - FIRST_BATCH_OFFSET;
            self.report.cut_fault = self.report.cut_fault.or(Some(Fault::Discontinuous));
        }
        self.folder.remove(&name.to_string()).map_err(SegmentFault::io(name, "remove"))
    }

    /// Begins the next segment: a file with a header and nothing else, durable under its name.
    fn write_next(&self, header: &SegmentHeader) -> Result<(), SegmentFault> {
        let name = self.next_name();
        let is_new = self.open(name)?.is_none();
        let write = || {
            let file = self.folder.create(&name.to_string())?;
            file.set_len(0)?;
            write_header(&file, header)?;
            file.sync()?;
            self.folder.sync()
        };
        write().map_err(|error| {
            // Of no use, and made a moment ago by this very call. One that was there before is kept: it may be all that says that a roll
            // was under way (V3).
            if is_new {
                let _ = self.folder.remove(&name.to_string());
            }
            SegmentFault::io(name, "write the header of")(error)
        })
    }

    /// The active segment gets its footer and its name among the sealed ones.
    fn seal(&mut self, file: &D::File, header: SegmentHeader, footer: Footer) -> Result<(), SegmentFault> {
        let segment = SealedSegment { header, footer };
        write_footer(file, &footer).and_then(|()| file.sync()).map_err(SegmentFault::io(self.active_name(), "seal"))?;
        self.rename(self.active_name(), segment.name())?;
        self.sealed.push(segment);
        self.sealed_producers = Some(std::mem::replace(&mut self.producers, Rebuild::new(self.producers_max)));
        Ok(())
    }

    fn rename(&self, from: SegmentName, to: SegmentName) -> Result<(), SegmentFault> {
        let rename = self.folder.rename(&from.to_string(), &to.to_string()).and_then(|()| self.folder.sync());
        rename.map_err(SegmentFault::io(from, "rename"))
    }

    /// An active file whose header can't be read: new, torn at birth, or nothing of ours. It is removed if there was never more.
    fn without_header(&mut self, file: &D::File, error: FormatError) -> Result<(), SegmentFault> {
        let name = self.active_name();
        let reading = SegmentFault::io(name, "read");
        let is = |fault| Err(SegmentFault { name: name.to_string(), fault });
        if let FormatError::Version { found } = error {
            return is(LogFault::Version { found });
        }
        let mut block = [0; BLOCK_BYTES];
        let read = read_full(file, &mut block, 0).map_err(&reading)?;
        let bytes = file.len().map_err(&reading)?;
        let begins_ours = block[..read.min(SEGMENT_MAGIC.len())] == SEGMENT_MAGIC[..read.min(SEGMENT_MAGIC.len())];
        let is_zero = block.iter().all(|byte| *byte == 0);
        // What ends inside of the header block, or is all zero, holds no batch.
        if bytes <= FIRST_BATCH_OFFSET && (is_zero || (begins_ours && error == FormatError::Short)) {
            if !is_zero {
                (self.report.cut_bytes, self.report.cut_fault) = (bytes, Some(Fault::SegmentHeader(error)));
            }
            self.write_next(&match self.sealed.last() {
                Some(last) => last.footer.successor(self.identity.wall, next_epoch(&last.footer)),
                None => self.identity.first_segment(),
            })?;
            return self.rename(self.next_name(), self.active_name());
        }
        let begins_whole = read >= SEGMENT_MAGIC.len() && begins_ours;
        let (fault, first_lost) = (Fault::SegmentHeader(error), self.sealed.last().map(|last| last.footer.end_sequence));
        match Walk::first_batch_anywhere(file).map_err(&reading)? {
            // Whatever happened to the magic: batches say that this was a log.
            Some((at, header, _)) if begins_whole || at == FIRST_BATCH_OFFSET => {
                let (resume, first_lost) = (Some((at, header.first_sequence)), first_lost.unwrap_or(header.first_sequence));
                is(LogFault::Damaged(Damage { offset: 0, fault, first_lost, resume }))
            }
            None if begins_whole => {
                is(LogFault::Damaged(Damage { offset: 0, fault, first_lost: first_lost.unwrap_or(0), resume: None }))
            }
            _ => is(LogFault::Foreign),
        }
    }
}

/// The epoch of what is begun behind a segment; after the last one there is none, and the log can't be opened.
pub(super) fn next_epoch(end: &Footer) -> u32 {
    (end.epoch + 1).min(EPOCH_MAX)
}

/// Begins a segment's file with its header, the rest of whose block is zeros. Again and again the same; durable after a sync.
pub(super) fn write_header(file: &impl LogFile, header: &SegmentHeader) -> std::io::Result<()> {
    let mut block = [0; BLOCK_BYTES];
    block[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
    file.write_at(&block, 0)
}

/// Ends a segment's file with its footer: nothing behind it. Again and again the same; durable after a sync.
pub(super) fn write_footer(file: &impl LogFile, footer: &Footer) -> std::io::Result<()> {
    file.write_at(&footer.encode(), footer.offset)?;
    file.set_len(footer.offset + FOOTER_BYTES as u64)
}

impl RecoveryReport {
    fn add_up(&mut self, sealed: &[SealedSegment], active: &Footer) {
        self.valid_bytes = active.offset;
        (self.next_sequence, self.last_epoch) = (active.end_sequence, active.epoch);
        self.segments = sealed.len() as u64;
        for footer in sealed.iter().map(|segment| &segment.footer).chain([active]).filter(|footer| footer.has_records()) {
            self.batches += footer.batches;
            self.records += footer.end_sequence - footer.first_sequence;
            self.highest_event_id = self.highest_event_id.max(footer.highest_event_id);
            self.first_sealed_at = self.first_sealed_at.or(Some(footer.sealed_between.0));
            self.last_sealed_at = Some(footer.sealed_between.1);
        }
    }
}
