//! Reading whole logs: a node's segments in their order, also while an engine writes, seals and recycles them; several nodes' logs merged;
//! everything checked.
//!
//! - **N1** Segments are read in the order of their sequences, each to its end; the next one is taken only if it follows. What is missing
//!   between two is told as damage, or, where its loss was accepted, counted.
//! - **N2** A segment that is renamed while it is read stays open. One that is recycled under the reader is noticed by its header, and told
//!   as [`ReadError::Overrun`], never as damage.

use std::io;

use super::format::{BatchHeader, BatchMark, Contents, FormatError, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::log_file::{LogFile, LogFolder, read_full};
use super::names::SegmentName;
use super::reader::{LogReader, OwnedRecord, ReadError, Record};
use super::segments::{SealedSegment, list, read_header};
use super::walk::{Damage, Fault};
use crate::sys::clock::WallNanos;
use crate::wire::Priority;

/// Damages listed by [`verify`]; more are counted.
pub const DAMAGES_LISTED_MAX: usize = 64;

/// How often a segment is looked for that is not where it was a moment ago: files are renamed beside the reader.
const LOOKS_MAX: usize = 5;

/// A segment, and the name under which it was opened.
type Opened<F> = (SegmentName, LogReader<F>);

/// Reads one node's log, from its oldest record on.
pub struct NodeReader<D: LogFolder> {
    folder: D,
    node: u32,
    reader: LogReader<D::File>,
    name: SegmentName,
    /// Batches whose records were all received before are left out.
    since: WallNanos,
    follows: bool,
    accepted_losses: u64,
    /// Of the segments that were left: how many, bytes of their files, bytes of their valid parts.
    left: (u64, u64, u64),
}

impl<D: LogFolder> NodeReader<D> {
    /// Opens a node's log at its oldest segment.
    ///
    /// # Errors
    /// [`ReadError::Io`] (`NotFound`: there is no log), [`ReadError::NotALog`].
    pub fn open(folder: D, node: u32) -> Result<Self, ReadError> {
        Self::open_since(folder, node, WallNanos(0))
    }

    /// Opens a node's log where the first record may be that was received at or after `since`; batches of earlier ones alone are left
    /// out. The segment is found by a binary search over footers.
    ///
    /// # Errors
    /// As [`NodeReader::open`].
    pub fn open_since(folder: D, node: u32, since: WallNanos) -> Result<Self, ReadError> {
        let mut error = ReadError::Io(io::Error::from(io::ErrorKind::NotFound));
        for _ in 0..LOOKS_MAX {
            let sealed = list(&folder, node)?.sealed;
            let from = first_since(&folder, node, &sealed, since)?;
            let name = sealed.get(from).map_or(SegmentName::Active(node), |first| SegmentName::Sealed(node, *first));
            match open_segment(&folder, name) {
                Ok(reader) => {
                    let accepted_losses = reader.segment().first_sequence - reader.segment().follows;
                    return Ok(Self { folder, node, reader, name, since, follows: false, accepted_losses, left: (0, 0, 0) });
                }
                Err(other) => error = other,
            }
        }
        Err(error)
    }

    /// Opens a node's log at the record of this sequence, or at the oldest one if that is later.
    ///
    /// # Errors
    /// As [`NodeReader::open`]; [`ReadError::Damaged`] before that record.
    pub fn open_at(folder: D, node: u32, sequence: u64) -> Result<Self, ReadError> {
        let sealed = list(&folder, node)?.sealed;
        let from = sealed.partition_point(|first| *first <= sequence).saturating_sub(1);
        // The last sealed one may end before it: the reader passes on by itself.
        let mut reader = Self::open(folder, node)?;
        if let Some(first) = sealed.get(from) {
            let name = SegmentName::Sealed(node, *first);
            (reader.reader, reader.name) = (open_segment(&reader.folder, name)?, name);
        }
        while reader.next_sequence() < sequence && reader.next()?.is_some() {}
        Ok(reader)
    }

    /// Opens a node's log at its end.
    ///
    /// # Errors
    /// As [`NodeReader::open`]; [`ReadError::Damaged`] in the active segment, which is read.
    pub fn open_at_end(folder: D, node: u32) -> Result<Self, ReadError> {
        let mut reader = Self::open_since(folder, node, WallNanos(u64::MAX))?;
        while reader.next_batch()?.is_some() {
            reader.reader.skip_batch();
        }
        Ok(reader)
    }

    /// Makes it cheap to come to the end again and again while an engine writes: damage to the active segment is told when it is sealed.
    pub fn follow(&mut self) {
        self.follows = true;
        if !matches!(self.name, SegmentName::Sealed(..)) {
            self.reader.follow();
        }
    }

    /// The file that is being read.
    pub fn name(&self) -> SegmentName {
        self.name
    }

    /// The node.
    pub fn node(&self) -> u32 {
        self.node
    }

    /// The sequence after the last batch that was read.
    pub fn end_sequence(&self) -> u64 {
        self.reader.end_sequence()
    }

    /// The sequence of the next record.
    pub fn next_sequence(&self) -> u64 {
        self.end_sequence() - u64::from(self.reader.records_left())
    }

    /// See [`LogReader::torn`]; of the last segment.
    pub fn torn(&self) -> Option<(Fault, u64)> {
        self.reader.torn()
    }

    /// The next batch, checked; its records come next. `None` at the end; a later call looks again.
    ///
    /// # Errors
    /// See [`ReadError`]. After [`ReadError::Overrun`] the next call goes on behind what was lost.
    pub fn next_batch(&mut self) -> Result<Option<BatchHeader>, ReadError> {
        loop {
            match self.reader.next_batch() {
                Ok(Some(batch)) => return Ok(Some(batch)),
                Ok(None) => {
                    if !self.pass_on()? {
                        return Ok(None);
                    }
                }
                Err(ReadError::Damaged(damage)) if self.is_recycled()? => {
                    log::debug!("{}: {damage}, as it was recycled", self.name);
                    return Err(self.overrun()?);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next record. `None` at the end; a later call looks again.
    ///
    /// # Errors
    /// As [`NodeReader::next_batch`].
    #[allow(clippy::should_implement_trait)] // A lending one: the record lies in the reader's buffer.
    pub fn next(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        while self.reader.records_left() == 0 {
            match self.next_batch()? {
                None => return Ok(None),
                Some(_) if self.reader.contents().latest_receipt < self.since => self.reader.skip_batch(),
                Some(_) => {}
            }
        }
        Ok(Some(self.reader.next_in_batch()))
    }

    /// Goes on behind a damage, if anything can be read there. Returns whether.
    pub fn skip(&mut self, damage: &Damage) -> bool {
        if damage.resume.is_some_and(|(offset, _)| offset > 0) {
            return self.reader.skip(damage);
        }
        // Nothing more in this segment: on to the one behind it.
        let first = self.reader.segment().first_sequence;
        match self.segment_behind(first.max(damage.first_lost.saturating_sub(1))) {
            Ok(Some(next)) => self.enter(next).is_ok(),
            _ => false,
        }
    }

    /// All that follows, each record with its own bytes. Ends after an error.
    pub fn into_records(mut self) -> impl Iterator<Item = Result<OwnedRecord, ReadError>> {
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let next = self.next().map(|record| record.map(|record| record.to_owned())).transpose();
            ended = !matches!(next, Some(Ok(_)));
            next
        })
    }

    /// How many segments there are, bytes of their files and of their valid parts, the current one included.
    fn passed(&self) -> io::Result<(u64, u64, u64)> {
        let (segments, file_bytes, valid_bytes) = self.left;
        let footer = if self.reader.footer().is_some() { super::format::FOOTER_BYTES as u64 } else { 0 };
        Ok((segments + 1, file_bytes + self.reader.file().len()?, valid_bytes + self.reader.valid_bytes() + footer))
    }

    fn enter(&mut self, (name, reader): Opened<D::File>) -> io::Result<()> {
        self.left = self.passed()?;
        (self.name, self.reader) = (name, reader);
        if self.follows {
            self.follow();
        }
        Ok(())
    }

    /// At the end of a segment: on to the next one, if there is one. False: this is the end of the log.
    fn pass_on(&mut self) -> Result<bool, ReadError> {
        let end = self.end_sequence();
        for _ in 0..LOOKS_MAX {
            let candidates = [SegmentName::Sealed(self.node, end), SegmentName::Active(self.node), SegmentName::Next(self.node)];
            for name in candidates {
                let Some(file) = self.folder.open_if_there(&name.to_string())? else { continue };
                let header = read_header(&file)?;
                if name == SegmentName::Active(self.node) {
                    self.check_active(&file, header.as_ref())?;
                }
                // None: a file that is prepared, or whose header is being written.
                let Some(header) = header else { continue };
                let is_other = header.first_sequence >= end && header != *self.reader.segment();
                if is_other && self.reader.is_followed_by(&header) {
                    self.accepted_losses += header.first_sequence - end;
                    self.enter((name, open_file(name, file)?))?;
                    return Ok(true);
                }
            }
            if self.reader.footer().is_none() {
                return self.has_been_sealed();
            }
        }
        match self.segment_behind(end.saturating_sub(1))? {
            None => Ok(false),
            Some((name, next)) if self.reader.is_followed_by(next.segment()) => {
                self.accepted_losses += next.segment().first_sequence - end;
                self.enter((name, next))?;
                Ok(true)
            }
            // N1. The retention takes the oldest ones: what was to come next may have been among them.
            Some((_, next)) if self.is_oldest(next.segment().first_sequence)? => Err(self.overrun()?),
            Some((_, next)) => {
                let resume = Some((0, next.segment().first_sequence));
                Err(ReadError::Damaged(Damage {
                    offset: self.reader.valid_bytes(),
                    fault: Fault::Missing,
                    first_lost: end,
                    resume,
                }))
            }
        }
    }

    /// What bears the active name has its header (V3), and that is not one of an earlier segment.
    fn check_active(&self, file: &D::File, header: Option<&SegmentHeader>) -> Result<(), ReadError> {
        let first_lost = self.end_sequence();
        let fault = match header {
            Some(header) if header.first_sequence >= first_lost => return Ok(()),
            // This is the active segment, or the reader is in the next file while the one before it has not got its sealed name yet.
            Some(_) if !matches!(self.name, SegmentName::Sealed(..)) => return Ok(()),
            Some(_) => Fault::Discontinuous,
            None => {
                let mut bytes = [0; SEGMENT_HEADER_BYTES];
                let read = read_full(file, &mut bytes, 0)?;
                if bytes[..read].iter().all(|byte| *byte == 0) {
                    return Ok(()); // Torn at birth: recovery begins it anew.
                }
                Fault::SegmentHeader(FormatError::Checksum)
            }
        };
        Err(ReadError::Damaged(Damage { offset: 0, fault, first_lost, resume: None }))
    }

    /// Without a footer the segment is the active one, being written; or it has got its sealed name meanwhile: then all of it is to come.
    fn has_been_sealed(&mut self) -> Result<bool, ReadError> {
        if self.is_recycled()? {
            return Err(self.overrun()?);
        }
        let sealed = SegmentName::Sealed(self.node, self.reader.segment().first_sequence);
        if self.name == sealed || self.folder.open_if_there(&sealed.to_string())?.is_none() {
            return Ok(false);
        }
        self.name = sealed;
        self.reader.expect_footer();
        Ok(true)
    }

    /// The segment with the lowest first sequence above this one.
    fn segment_behind(&self, sequence: u64) -> Result<Option<Opened<D::File>>, ReadError> {
        for first in list(&self.folder, self.node)?.sealed.into_iter().filter(|first| *first > sequence) {
            let name = SegmentName::Sealed(self.node, first);
            if let Ok(reader) = open_segment(&self.folder, name) {
                return Ok(Some((name, reader)));
            }
        }
        let name = SegmentName::Active(self.node);
        Ok(open_segment(&self.folder, name).ok().filter(|next| next.segment().first_sequence > sequence).map(|next| (name, next)))
    }

    fn is_oldest(&self, first_sequence: u64) -> io::Result<bool> {
        Ok(list(&self.folder, self.node)?.sealed.first().is_none_or(|first| *first == first_sequence))
    }

    /// N2: whether the file is another segment's now.
    fn is_recycled(&self) -> io::Result<bool> {
        Ok(read_header(self.reader.file())?.as_ref() != Some(self.reader.segment()))
    }

    /// Goes to the oldest segment there is now; what was lost on the way.
    fn overrun(&mut self) -> Result<ReadError, ReadError> {
        let first_lost = self.next_sequence();
        let oldest = Self::open_at_oldest(&self.folder, self.node)?;
        let resume = oldest.1.segment().first_sequence;
        self.enter(oldest)?;
        Ok(ReadError::Overrun { first_lost, resume })
    }

    fn open_at_oldest(folder: &D, node: u32) -> Result<Opened<D::File>, ReadError> {
        let mut error = ReadError::Io(io::Error::from(io::ErrorKind::NotFound));
        for _ in 0..LOOKS_MAX {
            let name =
                list(folder, node)?.sealed.first().map_or(SegmentName::Active(node), |first| SegmentName::Sealed(node, *first));
            match open_segment(folder, name) {
                Ok(reader) => return Ok((name, reader)),
                Err(other) => error = other,
            }
        }
        Err(error)
    }
}

fn open_segment<D: LogFolder>(folder: &D, name: SegmentName) -> Result<LogReader<D::File>, ReadError> {
    open_file(name, folder.open(&name.to_string())?)
}

fn open_file<F: LogFile>(name: SegmentName, file: F) -> Result<LogReader<F>, ReadError> {
    match name {
        SegmentName::Sealed(_, first) => {
            let reader = LogReader::open_sealed(file)?;
            // A block that was written to the wrong place may be a good header of another segment: nobody goes in circles for that.
            if reader.segment().first_sequence != first {
                let damage = Damage { offset: 0, fault: Fault::Discontinuous, first_lost: first, resume: None };
                return Err(ReadError::Damaged(damage));
            }
            Ok(reader)
        }
        SegmentName::Active(_) | SegmentName::Next(_) => LogReader::open(file),
    }
}

/// The index of the first sealed segment that may hold a record received at or after `since`; `sealed.len()`: none does.
fn first_since(folder: &impl LogFolder, node: u32, sealed: &[u64], since: WallNanos) -> Result<usize, ReadError> {
    if since == WallNanos(0) {
        return Ok(0);
    }
    let (mut low, mut high) = (0, sealed.len());
    while low < high {
        let middle = low + (high - low) / 2;
        // The latest receipt only grows from footer to footer. An unreadable one is for the reader to tell of.
        let is_before = match folder.open_if_there(&SegmentName::Sealed(node, sealed[middle]).to_string())? {
            None => true, // Given up a moment ago, as the oldest.
            Some(file) => SealedSegment::read(&file)?.is_ok_and(|segment| segment.footer.latest_receipt < since),
        };
        (low, high) = if is_before { (middle + 1, high) } else { (low, middle) };
    }
    Ok(low)
}

/// How the records of several nodes are put in one order. Within a node it is always the order of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergeOrder {
    /// By time of receipt.
    #[default]
    Time,
    /// By sequence, equal ones by node.
    Sequence,
}

/// Several nodes' logs as one.
pub struct MergedReader<D: LogFolder> {
    sources: Vec<MergeSource<D>>,
    order: MergeOrder,
}

/// One log of a merge, and its next record.
struct MergeSource<D: LogFolder> {
    reader: NodeReader<D>,
    head: Option<OwnedRecord>,
    has_ended: bool,
}

impl<D: LogFolder> MergeSource<D> {
    fn look_ahead(&mut self) -> Result<(), ReadError> {
        if self.head.is_none() && !self.has_ended {
            // Also after an error: it is told once, and the log has ended for this merge.
            self.has_ended = true;
            self.head = self.reader.next()?.map(|record| record.to_owned());
            self.has_ended = self.head.is_none();
        }
        Ok(())
    }
}

impl<D: LogFolder> MergedReader<D> {
    /// A merge of these logs, from where each reader stands.
    pub fn new(readers: Vec<NodeReader<D>>, order: MergeOrder) -> Self {
        let sources = readers.into_iter().map(|reader| MergeSource { reader, head: None, has_ended: false }).collect();
        Self { sources, order }
    }

    /// The next record of all. `None` when all have ended.
    ///
    /// # Errors
    /// See [`ReadError`]. Everything before it has been returned; a later call goes on with the other logs.
    #[allow(clippy::should_implement_trait)] // An iterator would end after an error.
    pub fn next(&mut self) -> Result<Option<OwnedRecord>, ReadError> {
        for source in &mut self.sources {
            source.look_ahead()?;
        }
        let order = self.order;
        let key = |record: &OwnedRecord| match order {
            MergeOrder::Time => (record.received_at.0, record.node, record.sequence),
            MergeOrder::Sequence => (record.sequence, record.node, 0),
        };
        let with_record = self.sources.iter_mut().filter(|source| source.head.is_some());
        Ok(with_record.min_by_key(|source| source.head.as_ref().map(key)).and_then(|first| first.head.take()))
    }
}

/// What a whole log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The identity of its oldest segment.
    pub segment: SegmentHeader,
    /// Segments, the active one included.
    pub segments: u64,
    /// Bytes of all files.
    pub file_bytes: u64,
    /// Bytes of their valid parts.
    pub valid_bytes: u64,
    /// Good batches with records.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Records by priority byte.
    pub by_priority: [u64; Priority::ALL.len()],
    /// Bytes of topics and bodies.
    pub payload_bytes: u64,
    /// The sequence after the last record.
    pub end_sequence: u64,
    /// The durable sequence that the last batch knew of.
    pub durable_sequence: u64,
    /// How often the log was opened.
    pub openings: u64,
    /// Whether it was closed in good order (else an engine writes it, or crashed).
    pub closed: bool,
    /// When the first and the last batch with records were sealed.
    pub sealed_between: Option<(WallNanos, WallNanos)>,
    /// The highest event id.
    pub highest_event_id: u64,
    /// What is behind the valid end, if that is not zeros.
    pub torn: Option<(Fault, u64)>,
    /// What is lost, and in which file; the first [`DAMAGES_LISTED_MAX`].
    pub damages: Vec<(String, Damage)>,
    /// How many there are.
    pub damage_count: u64,
    /// Records whose loss was accepted once (`--accept-data-loss`, `log repair`).
    pub accepted_losses: u64,
}

impl VerifyReport {
    /// Whether nothing that had been durable is lost.
    pub fn is_whole(&self) -> bool {
        self.damage_count == 0
    }

    fn add(&mut self, batch: &BatchHeader, contents: &Contents) {
        self.durable_sequence = batch.durable_sequence;
        self.closed = batch.mark == BatchMark::Closed;
        self.openings += u64::from(batch.mark == BatchMark::Opened);
        if batch.mark == BatchMark::Data {
            self.batches += 1;
            self.highest_event_id = self.highest_event_id.max(contents.highest_event_id);
            let first = self.sealed_between.map_or(batch.sealed_at, |(first, _)| first);
            self.sealed_between = Some((first, batch.sealed_at));
        }
    }
}

/// Reads every byte of a node's log and says what it holds and what is lost. Changes nothing.
///
/// # Errors
/// [`ReadError::Io`], [`ReadError::NotALog`].
pub fn verify<D: LogFolder>(folder: D, node: u32) -> Result<VerifyReport, ReadError> {
    let mut reader = NodeReader::open(folder, node)?;
    let mut report = VerifyReport {
        segment: *reader.reader.segment(),
        segments: 0,
        file_bytes: 0,
        valid_bytes: 0,
        batches: 0,
        records: 0,
        by_priority: [0; Priority::ALL.len()],
        payload_bytes: 0,
        end_sequence: 0,
        durable_sequence: 0,
        openings: 0,
        closed: false,
        sealed_between: None,
        highest_event_id: 0,
        torn: None,
        damages: Vec::new(),
        damage_count: 0,
        accepted_losses: 0,
    };
    loop {
        match reader.next_batch() {
            Ok(Some(batch)) => report.add(&batch, reader.reader.contents()),
            Ok(None) => break,
            // The retention is at work beside: what it took is no damage.
            Err(ReadError::Overrun { .. }) => {}
            Err(ReadError::Damaged(damage)) => {
                report.damage_count += 1;
                if report.damages.len() < DAMAGES_LISTED_MAX {
                    report.damages.push((reader.name().to_string(), damage));
                }
                if !reader.skip(&damage) {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
        while reader.reader.records_left() > 0 {
            let record = reader.reader.next_in_batch();
            report.records += 1;
            report.by_priority[record.priority as usize] += 1;
            report.payload_bytes += (record.topic.len() + record.body.len()) as u64;
        }
    }
    let (segments, file_bytes, valid_bytes) = reader.passed()?;
    (report.segments, report.file_bytes, report.valid_bytes) = (segments, file_bytes, valid_bytes);
    report.end_sequence = reader.end_sequence();
    report.torn = reader.reader.torn();
    report.accepted_losses = reader.accepted_losses;
    Ok(report)
}
