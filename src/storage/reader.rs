//! Reading logs: record after record, verified, in bounded memory; several nodes' logs merged; whole files checked.
//!
//! Also while an engine writes: reading stops at the valid end. What looks damaged is read once more before it is called so: what a later
//! batch calls durable was in the file before that batch was, so a second look sees it if it is there.

use std::io;

use super::format::{BatchHeader, BatchMark, FormatError, SegmentHeader, decode_record};
use super::log_file::LogFile;
use super::walk::{Damage, Fault, Step, Tail, Walk};
use crate::pool::Source;
use crate::sys::clock::WallNanos;
use crate::wire::{Priority, Tier};

/// Damages listed by [`verify`]; more are counted.
pub const DAMAGES_LISTED_MAX: usize = 64;

/// Why reading can't go on.
#[derive(Debug)]
pub enum ReadError {
    /// A call failed.
    Io(io::Error),
    /// The file does not begin like a log.
    NotALog(FormatError),
    /// Durable data is gone; [`LogReader::skip`] goes on behind it.
    Damaged(Damage),
    /// A batch whose checksum fits holds something that is no record: written by something else.
    Record {
        /// Where the batch begins.
        offset: u64,
        /// What is wrong.
        error: FormatError,
    },
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Io(error) => write!(f, "{error}"),
            ReadError::NotALog(error) => write!(f, "not a log of this engine: {error}"),
            ReadError::Damaged(damage) => write!(f, "{damage}"),
            ReadError::Record { offset, error } => write!(f, "no record in the batch at byte {offset}: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        ReadError::Io(error)
    }
}

/// A record, in the reader's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The node that stored it.
    pub node: u32,
    /// Its place in the node's order.
    pub sequence: u64,
    /// The event's id.
    pub id: u64,
    /// When its bytes were received.
    pub received_at: WallNanos,
    /// As sent.
    pub priority: Priority,
    /// As dispatched.
    pub tier: Tier,
    /// Where it came in.
    pub source: Source,
    /// The topic.
    pub topic: &'a str,
    /// The body.
    pub body: &'a [u8],
}

/// A record that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// See [`Record`].
    pub node: u32,
    /// See [`Record`].
    pub sequence: u64,
    /// See [`Record`].
    pub id: u64,
    /// See [`Record`].
    pub received_at: WallNanos,
    /// See [`Record`].
    pub priority: Priority,
    /// See [`Record`].
    pub tier: Tier,
    /// See [`Record`].
    pub source: Source,
    /// See [`Record`].
    pub topic: String,
    /// See [`Record`].
    pub body: Vec<u8>,
}

impl Record<'_> {
    /// A copy that owns its bytes.
    pub fn to_owned(&self) -> OwnedRecord {
        OwnedRecord {
            node: self.node,
            sequence: self.sequence,
            id: self.id,
            received_at: self.received_at,
            priority: self.priority,
            tier: self.tier,
            source: self.source,
            topic: self.topic.to_owned(),
            body: self.body.to_vec(),
        }
    }
}

/// Reads one log from its beginning.
pub struct LogReader<'f, F: LogFile + ?Sized> {
    walk: Walk<'f, F>,
    payload: Vec<u8>,
    /// The batch in `payload`: where it begins in the file, and its next record.
    batch_offset: u64,
    at: usize,
    sequence: u64,
    records_left: u32,
    torn: Option<(Fault, u64)>,
}

impl<'f, F: LogFile + ?Sized> LogReader<'f, F> {
    /// Opens a log.
    ///
    /// # Errors
    /// [`ReadError::Io`], [`ReadError::NotALog`].
    pub fn open(file: &'f F) -> Result<Self, ReadError> {
        let walk = Walk::open(file)?.map_err(ReadError::NotALog)?;
        Ok(Self { walk, payload: Vec::new(), batch_offset: 0, at: 0, sequence: 0, records_left: 0, torn: None })
    }

    /// The identity of the log.
    pub fn segment(&self) -> &SegmentHeader {
        self.walk.segment()
    }

    /// Where the valid part ends, as far as it was read.
    pub fn valid_bytes(&self) -> u64 {
        self.walk.offset()
    }

    /// The sequence after the last record, as far as it was read.
    pub fn end_sequence(&self) -> u64 {
        self.walk.sequence()
    }

    /// At the end: what is wrong with the bytes behind it, and how many they are; `None` for a clean end. Normal while an engine writes
    /// the log, and after a crash until the next opening.
    pub fn torn(&self) -> Option<(Fault, u64)> {
        self.torn
    }

    /// The next batch, checked; its records come next. `None` at the valid end; a later call looks again.
    ///
    /// # Errors
    /// [`ReadError::Io`], [`ReadError::Damaged`].
    pub fn next_batch(&mut self) -> Result<Option<BatchHeader>, ReadError> {
        self.torn = None;
        self.records_left = 0;
        for look in 0..2 {
            let fault = match self.walk.step(Some(&mut self.payload))? {
                Step::Batch(header, offset) => {
                    (self.batch_offset, self.at) = (offset, 0);
                    (self.sequence, self.records_left) = (header.first_sequence, header.record_count);
                    return Ok(Some(header));
                }
                Step::Stop(fault) => fault,
            };
            let tail = self.walk.tail(fault)?;
            self.walk.refresh();
            match tail {
                Tail::Damaged(damage) if look == 1 => return Err(ReadError::Damaged(damage)),
                Tail::Damaged(_) => {}
                Tail::Clean => return Ok(None),
                Tail::Torn { fault, bytes } => {
                    self.torn = Some((fault, bytes));
                    return Ok(None);
                }
            }
        }
        unreachable!("the second look returns")
    }

    /// The next record. `None` at the valid end; a later call looks again.
    ///
    /// # Errors
    /// See [`ReadError`].
    #[allow(clippy::should_implement_trait)] // A lending one: the record lies in the reader's buffer.
    pub fn next(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        while self.records_left == 0 {
            if self.next_batch()?.is_none() {
                return Ok(None);
            }
        }
        let bad = |error| ReadError::Record { offset: self.batch_offset, error };
        let (record, used) = decode_record(&self.payload[self.at..]).map_err(bad)?;
        let sequence = self.sequence;
        self.at += used;
        self.sequence += 1;
        self.records_left -= 1;
        Ok(Some(Record {
            node: self.walk.segment().node,
            sequence,
            id: record.header.id,
            received_at: record.header.received_at,
            priority: record.header.priority,
            tier: record.header.tier,
            source: record.header.source,
            topic: record.topic,
            body: record.body,
        }))
    }

    /// Goes on behind a damage, if anything can be read there. Returns whether.
    pub fn skip(&mut self, damage: &Damage) -> bool {
        let Some((offset, sequence)) = damage.resume else { return false };
        self.walk.resume(offset, sequence);
        true
    }

    /// All that follows, each record with its own bytes. Ends after an error.
    pub fn into_records(mut self) -> impl Iterator<Item = Result<OwnedRecord, ReadError>> + use<'f, F> {
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
pub struct MergedReader<'f, F: LogFile + ?Sized> {
    sources: Vec<MergeSource<'f, F>>,
    order: MergeOrder,
}

/// One log of a merge, and its next record.
struct MergeSource<'f, F: LogFile + ?Sized> {
    reader: LogReader<'f, F>,
    head: Option<OwnedRecord>,
    has_ended: bool,
}

impl<F: LogFile + ?Sized> MergeSource<'_, F> {
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

impl<'f, F: LogFile + ?Sized> MergedReader<'f, F> {
    /// A merge of these logs, from where each reader stands.
    pub fn new(readers: Vec<LogReader<'f, F>>, order: MergeOrder) -> Self {
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

/// What a whole file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The identity of the log.
    pub segment: SegmentHeader,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Where its valid part ends.
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
    /// What is lost, the first [`DAMAGES_LISTED_MAX`].
    pub damages: Vec<Damage>,
    /// How many there are.
    pub damage_count: u64,
}

impl VerifyReport {
    /// Whether nothing that had been durable is lost.
    pub fn is_whole(&self) -> bool {
        self.damage_count == 0
    }

    fn add(&mut self, batch: &BatchHeader) {
        self.durable_sequence = batch.durable_sequence;
        self.closed = batch.mark == BatchMark::Closed;
        self.openings += u64::from(batch.mark == BatchMark::Opened);
        if batch.mark == BatchMark::Data {
            self.batches += 1;
            self.highest_event_id = self.highest_event_id.max(batch.highest_event_id);
            let first = self.sealed_between.map_or(batch.sealed_at, |(first, _)| first);
            self.sealed_between = Some((first, batch.sealed_at));
        }
    }
}

/// Reads every byte of a log and says what it holds and what is lost. Changes nothing.
///
/// # Errors
/// [`ReadError::Io`], [`ReadError::NotALog`], [`ReadError::Record`].
pub fn verify<F: LogFile + ?Sized>(file: &F) -> Result<VerifyReport, ReadError> {
    let mut reader = LogReader::open(file)?;
    let mut report = VerifyReport {
        segment: *reader.segment(),
        file_bytes: file.len()?,
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
    };
    loop {
        match reader.next_batch() {
            Ok(Some(batch)) => report.add(&batch),
            Ok(None) => break,
            Err(ReadError::Damaged(damage)) => {
                report.damage_count += 1;
                if report.damages.len() < DAMAGES_LISTED_MAX {
                    report.damages.push(damage);
                }
                if !reader.skip(&damage) {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
        while reader.records_left > 0 {
            let record = reader.next()?.expect("the batch has records left");
            report.records += 1;
            report.by_priority[record.priority as usize] += 1;
            report.payload_bytes += (record.topic.len() + record.body.len()) as u64;
        }
    }
    (report.valid_bytes, report.end_sequence) = (reader.valid_bytes(), reader.end_sequence());
    report.torn = reader.torn();
    Ok(report)
}
