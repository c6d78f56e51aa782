//! Reading segments: record after record, verified, in bounded memory. Whole logs are for [`super::node_reader`].
//!
//! Also while an engine writes: reading stops at the valid end. What looks damaged is read once more before it is called so: what a later
//! batch calls durable was in the file before that batch was, so a second look sees it if it is there.

use std::io;

use super::format::{BatchHeader, Contents, Footer, FormatError, Records, SegmentHeader};
use super::log_file::LogFile;
use super::walk::{Damage, Fault, Step, Tail, Walk};
use crate::pool::{ProducerStamp, Source};
use crate::sys::clock::WallNanos;
use crate::wire::{Priority, Tier};

/// Why reading can't go on.
#[derive(Debug)]
pub enum ReadError {
    /// A call failed.
    Io(io::Error),
    /// The file does not begin like a log.
    NotALog(FormatError),
    /// Durable data is gone; [`LogReader::skip`] goes on behind it.
    Damaged(Damage),
    /// What was to be read next was recycled or removed by the retention; [`super::node_reader::NodeReader`] goes on behind it.
    Overrun {
        /// The first sequence that was not read.
        first_lost: u64,
        /// The sequence that is read next.
        resume: u64,
    },
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ReadError::Io(error) => write!(f, "{error}"),
            ReadError::NotALog(error) => write!(f, "not a log of this engine: {error}"),
            ReadError::Damaged(damage) => write!(f, "{damage}"),
            ReadError::Overrun { first_lost, resume } => {
                write!(
                    f,
                    "records {first_lost} to {} were given up by the retention before they were read",
                    resume.saturating_sub(1)
                )
            }
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
    /// Whose session it came in, and its number there.
    pub producer: Option<ProducerStamp>,
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
    pub producer: Option<ProducerStamp>,
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
            producer: self.producer,
            topic: self.topic.to_owned(),
            body: self.body.to_vec(),
        }
    }
}

/// Reads one segment from its beginning.
pub struct LogReader<F: LogFile> {
    walk: Walk<F>,
    /// The next record of the batch: where it begins in the payload, and its sequence.
    at: usize,
    sequence: u64,
    records_left: u32,
    torn: Option<(Fault, u64)>,
    footer: Option<Footer>,
    /// What lies behind the last good batch is not looked at.
    follows: bool,
}

impl<F: LogFile> LogReader<F> {
    /// Opens a segment: a file, or a reference to one.
    ///
    /// # Errors
    /// [`ReadError::Io`], [`ReadError::NotALog`].
    pub fn open(file: F) -> Result<Self, ReadError> {
        let walk = Walk::open(file)?.map_err(ReadError::NotALog)?;
        Ok(Self { walk, at: 0, sequence: 0, records_left: 0, torn: None, footer: None, follows: false })
    }

    /// Opens a segment that bears a sealed one's name: all of it has to be good.
    ///
    /// # Errors
    /// As [`LogReader::open`].
    pub fn open_sealed(file: F) -> Result<Self, ReadError> {
        let mut reader = Self::open(file)?;
        reader.walk.expect_footer();
        Ok(reader)
    }

    /// For a reader that comes again and again to the end of a log that is being written: there it only looks whether the next batch
    /// has come, and does not search what is allocated for evidence of damage. That is told when the segment is sealed.
    pub(super) fn follow(&mut self) {
        self.follows = true;
    }

    /// The segment bears a sealed one's name by now.
    pub(super) fn expect_footer(&mut self) {
        (self.follows, self.footer) = (false, None);
        self.walk.expect_footer();
    }

    /// The identity of the segment.
    pub fn segment(&self) -> &SegmentHeader {
        self.walk.segment()
    }

    /// Its footer, once it was read to there.
    pub fn footer(&self) -> Option<&Footer> {
        self.footer.as_ref()
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
            let fault = match self.walk.step()? {
                Step::Batch(header, _) => {
                    (self.at, self.sequence, self.records_left) = (0, header.first_sequence, header.record_count);
                    return Ok(Some(header));
                }
                Step::Sealed(footer) => {
                    self.footer = Some(footer);
                    return Ok(None);
                }
                Step::Stop(_) if self.follows => {
                    self.walk.refresh();
                    return Ok(None);
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
        Ok(Some(self.next_in_batch()))
    }

    /// What the records of the batch say together.
    pub fn contents(&self) -> &Contents {
        self.walk.contents()
    }

    /// How many records of the batch are still to come.
    pub(super) fn records_left(&self) -> u32 {
        self.records_left
    }

    /// Leaves out the rest of the batch.
    pub(super) fn skip_batch(&mut self) {
        self.records_left = 0;
    }

    /// The next record of the batch, which has one.
    pub(super) fn next_in_batch(&mut self) -> Record<'_> {
        let mut records = Records::from_byte(self.walk.payload(), self.at);
        let record = records.next().and_then(Result::ok).expect("the walk has checked the records, and there is one left");
        let sequence = self.sequence;
        self.at = records.byte();
        self.sequence += 1;
        self.records_left -= 1;
        Record {
            node: self.walk.segment().node,
            sequence,
            id: record.header.id,
            received_at: record.header.received_at,
            priority: record.header.priority,
            tier: record.header.tier,
            source: record.header.source,
            producer: record.header.producer,
            topic: record.topic,
            body: record.body,
        }
    }

    /// Goes on behind a damage, if anything can be read there. Returns whether.
    pub fn skip(&mut self, damage: &Damage) -> bool {
        let Some((offset, sequence)) = damage.resume else { return false };
        self.walk.resume(offset, sequence);
        true
    }

    pub(super) fn file(&self) -> &F {
        self.walk.file()
    }

    /// Whether `next` goes on right behind what was read.
    pub(super) fn is_followed_by(&self, next: &SegmentHeader) -> bool {
        let chain_fits = next.mended || self.walk.chain() == Some(next.chain);
        next.log_id == self.segment().log_id && next.follows == self.walk.sequence() && chain_fits
    }
}
