//! Opening a log: recover what a crash left, begin a new epoch, and, at the end, close it in good order.
//!
//! ```text
//! empty or torn at birth ─► header block, synced ─┐
//! log ─► walk ─► clean tail ──────────────────────┼─► mark "opened" with the next epoch, synced ─► batches (the appender's) ─►
//!           ├──► torn tail: cut, synced ──────────┘                                              mark "closed", cut to length, synced
//!           └──► damage, another log, another version: refused, nothing changed
//! ```
//!
//! - **V1** What is damaged is never changed; what is cut was never called durable by anything behind it (K2).
//! - **V2** Recovering twice gives the same bytes: a clean tail of zeros is left alone, a cut one is clean afterwards.
//! - **V3** Every opening has an epoch of its own, durable before the first event of it is accepted: ids made from the epoch are unique
//!   across restarts, also those of events that never reached the log.
//! - **V4** The mark calls everything before it durable, and it is: the file was synced first. So damage to what an earlier run wrote
//!   is always told from a torn tail.
//!
//! What it does not do: repair. The operator moves a damaged file away, or restores it.

use std::io;
use std::sync::Arc;

use super::format::{
    BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, BatchMark, FIRST_BATCH_OFFSET, FormatError, SEGMENT_MAGIC, SegmentHeader,
};
use super::log_file::{LogFile, read_full};
use super::status::{StoreState, StoreStatus};
use super::walk::{Damage, Fault, Step, Tail, Walk};
use crate::sys::clock::WallNanos;
use crate::sys::io::Fd;

/// Why a log can't be opened. Nothing in it was changed, but for `Io` while writing.
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

fn doing(doing: &'static str) -> impl Fn(io::Error) -> LogFault {
    move |error| LogFault::Io { doing, error }
}

/// What a log held when it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Bytes of the file kept.
    pub valid_bytes: u64,
    /// Bytes cut off: from the valid end to the last byte that was not zero.
    pub cut_bytes: u64,
    /// What was wrong with the first of them.
    pub cut_fault: Option<Fault>,
    /// Good batches with records.
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
}

/// A log after recovery.
#[derive(Clone, Copy, Debug)]
struct Recovered {
    report: RecoveryReport,
    /// The identity and the chain value; `None`: the file is empty now, and a header has to be written.
    log: Option<(SegmentHeader, u32)>,
}

/// Brings a file to a state in which batches can be appended: cuts a torn tail, refuses everything else that is not a log.
///
/// # Errors
/// See [`LogFault`].
pub fn recover(file: &(impl LogFile + ?Sized)) -> Result<RecoveryReport, LogFault> {
    recover_all(file).map(|recovered| recovered.report)
}

fn recover_all(file: &(impl LogFile + ?Sized)) -> Result<Recovered, LogFault> {
    let mut walk = match Walk::open(file).map_err(doing("read"))? {
        Ok(walk) => walk,
        Err(error) => return without_header(file, error),
    };
    let segment = *walk.segment();
    let mut report =
        RecoveryReport { next_sequence: segment.first_sequence, last_epoch: segment.epoch, closed: true, ..Default::default() };
    let fault = loop {
        match walk.step(None).map_err(doing("read"))? {
            Step::Batch(header, _) => report.add(&header),
            Step::Stop(fault) => break fault,
        }
    };
    report.valid_bytes = walk.offset();
    match walk.tail(fault).map_err(doing("read"))? {
        Tail::Clean => {}
        Tail::Damaged(damage) => return Err(LogFault::Damaged(damage)),
        Tail::Torn { fault, bytes } => {
            (report.cut_bytes, report.cut_fault) = (bytes, Some(fault));
            file.set_len(report.valid_bytes).and_then(|()| file.sync()).map_err(doing("cut the torn tail of"))?;
        }
    }
    // A header block whose zeros were cut off: the rest of the block is the header's.
    if file.len().map_err(doing("read"))? < FIRST_BATCH_OFFSET {
        file.set_len(FIRST_BATCH_OFFSET).and_then(|()| file.sync()).map_err(doing("complete the header of"))?;
    }
    let chain = walk.chain().expect("a walk that met no damage knows its chain");
    Ok(Recovered { report, log: Some((segment, chain)) })
}

/// A file whose header can't be read: new, torn at birth, or nothing of ours.
fn without_header(file: &(impl LogFile + ?Sized), error: FormatError) -> Result<Recovered, LogFault> {
    if let FormatError::Version { found } = error {
        return Err(LogFault::Version { found });
    }
    let mut block = [0; BLOCK_BYTES];
    let read = read_full(file, &mut block, 0).map_err(doing("read"))?;
    let bytes = file.len().map_err(doing("read"))?;
    let begins_ours = block[..read.min(SEGMENT_MAGIC.len())] == SEGMENT_MAGIC[..read.min(SEGMENT_MAGIC.len())];
    let is_zero = block.iter().all(|byte| *byte == 0);
    // The header block is synced before anything else is written: a log that ends inside of it, or is all zero, was never more.
    let torn_at_birth = bytes <= FIRST_BATCH_OFFSET && (is_zero || (begins_ours && error == FormatError::Short));
    if torn_at_birth {
        if bytes > 0 {
            file.set_len(0).and_then(|()| file.sync()).map_err(doing("cut the torn header of"))?;
        }
        let cut_fault = (!is_zero).then_some(Fault::SegmentHeader(error));
        let cut_bytes = if is_zero { 0 } else { bytes };
        let report = RecoveryReport { cut_bytes, cut_fault, closed: true, ..Default::default() };
        return Ok(Recovered { report, log: None });
    }
    let begins_whole = read >= SEGMENT_MAGIC.len() && begins_ours;
    let first_batch = Walk::first_batch_anywhere(file).map_err(doing("read"))?;
    match first_batch {
        // Whatever happened to the magic: batches say that this was a log.
        Some((at, header)) if begins_whole || at == FIRST_BATCH_OFFSET => {
            let resume = Some((at, header.first_sequence));
            Err(LogFault::Damaged(Damage {
                offset: 0,
                fault: Fault::SegmentHeader(error),
                first_lost: header.first_sequence,
                resume,
            }))
        }
        None if begins_whole => {
            Err(LogFault::Damaged(Damage { offset: 0, fault: Fault::SegmentHeader(error), first_lost: 0, resume: None }))
        }
        _ => Err(LogFault::Foreign),
    }
}

impl RecoveryReport {
    fn add(&mut self, header: &BatchHeader) {
        self.last_epoch = header.epoch;
        self.closed = header.mark == BatchMark::Closed;
        self.next_sequence = header.end_sequence();
        if header.mark == BatchMark::Data {
            self.batches += 1;
            self.records += u64::from(header.record_count);
            self.highest_event_id = self.highest_event_id.max(header.highest_event_id);
            self.first_sealed_at = self.first_sealed_at.or(Some(header.sealed_at));
            self.last_sealed_at = Some(header.sealed_at);
        }
    }
}

/// Who opens a log.
#[derive(Clone, Copy, Debug)]
pub struct LogIdentity {
    /// The node whose events these are.
    pub node: u32,
    /// A random number for a log that is made now (F4).
    pub log_id: u64,
    /// The wall clock, now.
    pub wall: WallNanos,
}

impl LogIdentity {
    /// The identity with a random log id.
    pub fn random(node: u32, wall: WallNanos) -> Self {
        use std::hash::{BuildHasher, Hasher};
        // Seeded by the kernel's random numbers, SipHash: unguessable for senders (F4), and needs no crate.
        let log_id = std::hash::RandomState::new().build_hasher().finish();
        Self { node, log_id, wall }
    }
}

/// Where an appender goes on.
#[derive(Clone, Debug)]
pub struct LogPosition {
    /// What the ring writes to.
    pub fd: Fd,
    /// See [`SegmentHeader::log_id`].
    pub log_id: u64,
    /// The epoch of this opening.
    pub epoch: u32,
    /// Where the next batch begins.
    pub offset: u64,
    /// The bytes of its block before that place, which the next write repeats.
    pub tail: Vec<u8>,
    /// The chain value of the next batch.
    pub chain: u32,
    /// The sequence of the next record.
    pub next_sequence: u64,
    /// Bytes of the file allocated already.
    pub allocated_bytes: u64,
}

/// An open log: recovered, its epoch begun.
#[derive(Debug)]
pub struct OpenLog<F: LogFile> {
    file: F,
    segment: SegmentHeader,
    epoch: u32,
    report: RecoveryReport,
    status: Arc<StoreStatus>,
}

impl<F: LogFile> OpenLog<F> {
    /// Recovers the log (or makes it), and begins a new epoch, durably (V3, V4).
    ///
    /// # Errors
    /// See [`LogFault`].
    pub fn open(file: F, identity: LogIdentity) -> Result<Self, LogFault> {
        let Recovered { mut report, log } = recover_all(&file)?;
        let (segment, chain) = match log {
            Some((segment, _)) if segment.node != identity.node => return Err(LogFault::OtherNode { found: segment.node }),
            Some(log) => log,
            None => Self::create(&file, &identity)?,
        };
        if log.is_none() {
            report.valid_bytes = FIRST_BATCH_OFFSET;
        }
        let status = Arc::new(StoreStatus::default());
        status.set_written(report.next_sequence, report.valid_bytes, chain);
        let epoch = report.last_epoch + 1;
        let log = Self { file, segment, epoch, report, status };
        // V4: what recovery found may be in the page cache only.
        log.file.sync().map_err(doing("sync"))?;
        log.append_mark(BatchMark::Opened, identity.wall).map_err(|error| {
            // A torn mark would be cut at the next opening anyway.
            let _ = log.file.set_len(report.valid_bytes);
            LogFault::Io { doing: "begin an epoch in", error }
        })?;
        Ok(log)
    }

    fn create(file: &F, identity: &LogIdentity) -> Result<(SegmentHeader, u32), LogFault> {
        let header = SegmentHeader {
            node: identity.node,
            log_id: identity.log_id,
            created_at: identity.wall,
            first_sequence: 0,
            epoch: 0,
        };
        let mut block = [0; BLOCK_BYTES];
        let bytes = header.encode();
        block[..bytes.len()].copy_from_slice(&bytes);
        file.write_at(&block, 0).and_then(|()| file.sync()).map_err(doing("write the header of"))?;
        Ok(SegmentHeader::decode(&bytes).expect("just encoded"))
    }

    /// Writes a batch without records behind the last one, and syncs it.
    fn append_mark(&self, mark: BatchMark, wall: WallNanos) -> io::Result<()> {
        let (sequence, offset) = (self.status.written_sequence(), self.status.written_bytes());
        let header = BatchHeader {
            mark,
            log_id: self.segment.log_id,
            payload_bytes: 0,
            record_count: 0,
            first_sequence: sequence,
            sealed_at: wall,
            durable_sequence: sequence,
            durable_bytes: offset,
            highest_event_id: 0,
            epoch: self.epoch,
            chain: self.status.chain(),
            payload_crc: 0,
        };
        let bytes = header.encode();
        self.file.write_at(&bytes, offset)?;
        self.file.sync()?;
        let (_, crc) = BatchHeader::decode(&bytes).expect("just encoded");
        self.status.set_written(sequence, offset + BATCH_HEADER_BYTES as u64, crc);
        self.status.set_durable(sequence);
        Ok(())
    }

    /// What recovery found and did, in a line.
    pub fn describe(&self) -> String {
        let RecoveryReport { records, next_sequence, cut_bytes, cut_fault, closed, .. } = self.report;
        let cut = match cut_fault {
            Some(fault) if cut_bytes > 0 => format!("{cut_bytes} bytes of a torn tail cut ({fault})"),
            _ if closed => "closed in good order".to_owned(),
            _ => "nothing cut".to_owned(),
        };
        format!("{records} events, next sequence {next_sequence}, epoch {}, {cut}", self.epoch)
    }

    /// What recovery found and did.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// The epoch of this opening, from 1 on; no other opening of this log has it. The upper bits of event ids.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The file.
    pub fn file(&self) -> &F {
        &self.file
    }

    pub(super) fn file_mut(&mut self) -> &mut F {
        &mut self.file
    }

    /// Watermarks and state, shared with the appender.
    pub fn status(&self) -> &Arc<StoreStatus> {
        &self.status
    }

    /// Where the appender begins. For one appender.
    ///
    /// # Errors
    /// Whatever reading the last block says.
    pub fn position(&self) -> io::Result<LogPosition> {
        let offset = self.status.written_bytes();
        let block_start = offset - offset % BLOCK_BYTES as u64;
        let mut tail = vec![0; (offset - block_start) as usize];
        let read = read_full(&self.file, &mut tail, block_start)?;
        if read < tail.len() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(LogPosition {
            fd: self.file.fd(),
            log_id: self.segment.log_id,
            epoch: self.epoch,
            offset,
            tail,
            chain: self.status.chain(),
            next_sequence: self.status.written_sequence(),
            allocated_bytes: self.file.len()?,
        })
    }

    /// Closes the log in good order once its appender is drained and its thread has ended: all synced, the mark behind the last
    /// batch, the file cut to its length. Returns false, and leaves the file to the next recovery, if the store has failed, a write may
    /// still be in flight, or there is no space.
    ///
    /// # Errors
    /// Whatever syncing and cutting say.
    pub fn finish(&mut self, wall: WallNanos) -> io::Result<bool> {
        if self.status.state() != StoreState::Running || self.status.is_in_flight() {
            return Ok(false);
        }
        self.file.sync()?;
        self.append_mark(BatchMark::Closed, wall)?;
        self.file.set_len(self.status.written_bytes())?;
        self.file.sync()?;
        Ok(true)
    }
}
