//! An open log: recovered, its epoch begun; and, at the end, closed in good order.
//!
//! ```text
//! recovery ─► mark "opened" with the next epoch, snapshot, synced ─► position ─► batches (the appender's), rolls (the keeper's) ─►
//!          ─► rolls completed ─► mark "closed" ─► cut to length, synced
//! ```
//!
//! - **B1** Every opening has an epoch of its own, durable before the first event of it is accepted: ids made from the epoch are unique
//!   across restarts, also those of events that never reached the log.
//! - **B2** A mark calls everything before it durable, and it is: the file was synced first. So damage to what an earlier run wrote
//!   is always told from a torn tail.

use std::io;
use std::sync::Arc;

use super::format::{BLOCK_BYTES, BatchHeader, BatchMark, Contents, EPOCH_MAX, Footer, LogKey, SegmentHeader, crc32c};
use super::keeper::{Handover, Keeper, KeeperCounters, KeeperSeat, SegmentOptions};
use super::log_file::{LogFile, LogFolder, read_full};
use super::names::SegmentName;
use super::producers::{ProducerTable, SNAPSHOT_PART_BYTES};
use super::recovery::{Recovered, RecoveryReport, recover_all};
use super::segments::SegmentFault;
use super::status::{StoreState, StoreStatus};
use super::sync_method::SyncMethod;
use crate::sys::clock::WallNanos;
use crate::sys::io::Fd;

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

    /// The header of a new log's first segment.
    pub(super) fn first_segment(&self) -> SegmentHeader {
        SegmentHeader {
            node: self.node,
            log_id: self.log_id,
            created_at: self.wall,
            first_sequence: 0,
            epoch: 0,
            follows: 0,
            chain: 0,
            recycled: false,
            mended: false,
            latest_receipt_before: WallNanos(0),
        }
    }
}

/// Where an appender goes on.
#[derive(Clone, Debug)]
pub struct LogPosition {
    /// What the ring writes to.
    pub fd: Fd,
    /// The epoch of this opening.
    pub epoch: u32,
    /// What the active segment's footer would say: where the next batch begins, its sequence and chain.
    pub so_far: Footer,
    /// The bytes of the next batch's block before that place, which its write repeats.
    pub tail: Vec<u8>,
    /// Bytes of the file allocated already.
    pub allocated_bytes: u64,
    /// See [`SegmentOptions::segment_bytes`].
    pub segment_bytes: u64,
    /// What the log knows of producers.
    pub producers: ProducerTable,
    pub(super) handover: Arc<Handover>,
}

/// An open log: recovered, its epoch begun.
#[derive(Debug)]
pub struct OpenLog<D: LogFolder> {
    keeper: KeeperSeat<D>,
    position: LogPosition,
    report: RecoveryReport,
    status: Arc<StoreStatus>,
    counters: Arc<KeeperCounters>,
    sync_method: SyncMethod,
}

impl<D: LogFolder> OpenLog<D> {
    /// Recovers the log (or makes it), and begins a new epoch, durably (B1, B2).
    ///
    /// # Errors
    /// See [`SegmentFault`].
    pub fn open(folder: D, identity: LogIdentity, options: SegmentOptions) -> Result<Self, SegmentFault> {
        let Recovered { report, sealed, active, header, mut so_far, producers } =
            recover_all(&folder, &identity, options.producers_max)?;
        let name = SegmentName::Active(identity.node);
        if so_far.epoch == EPOCH_MAX {
            return Err(SegmentFault::io(name, "begin an epoch in")(io::Error::other(
                "it was opened as often as its format allows",
            )));
        }
        let epoch = so_far.epoch + 1;
        // B2: what recovery found may be in the page cache only.
        active.sync().map_err(SegmentFault::io(name, "sync"))?;
        let valid_bytes = so_far.offset;
        let begin = |so_far: &mut Footer| {
            let mut append = |mark, payload: &[u8]| append(&active, mark, payload, identity.wall, epoch, so_far);
            append(BatchMark::Opened, &[])?;
            if !producers.is_complete {
                append_snapshot(&producers.table, append)?;
            }
            active.sync()
        };
        begin(&mut so_far).map_err(|error| {
            // A torn mark would be cut at the next opening anyway.
            let _ = active.set_len(valid_bytes);
            SegmentFault::io(name, "begin an epoch in")(error)
        })?;
        let status = Arc::new(StoreStatus::default());
        status.set_segment(header.first_sequence);
        status.set_written(so_far.end_sequence, so_far.offset, so_far.chain);
        status.set_durable(so_far.end_sequence);
        let mut keeper = Keeper::new(folder, options, active, header, sealed);
        keeper.active_mut().enable_ring(options.direct);
        let reading = SegmentFault::io(name, "read");
        let tail = tail_of_block(keeper.active(), so_far.offset).map_err(&reading)?;
        let position = LogPosition {
            fd: keeper.active().fd(),
            epoch,
            so_far,
            tail,
            allocated_bytes: keeper.active().len().map_err(&reading)?,
            segment_bytes: options.segment_bytes,
            producers: producers.table,
            handover: keeper.handover().clone(),
        };
        let counters = keeper.counters().clone();
        let keeper = KeeperSeat::Here(Box::new(keeper));
        Ok(Self { keeper, position, report, status, counters, sync_method: SyncMethod::Dsync })
    }

    /// What recovery found and did, in a line.
    pub fn describe(&self) -> String {
        let RecoveryReport { records, next_sequence, cut_bytes, cut_fault, closed, segments, .. } = self.report;
        let cut = match cut_fault {
            Some(fault) if cut_bytes > 0 => format!("{cut_bytes} bytes of a torn tail cut ({fault})"),
            _ if closed => "closed in good order".to_owned(),
            _ => "nothing cut".to_owned(),
        };
        let epoch = self.position.epoch;
        format!("{records} events, {segments} sealed segments, next sequence {next_sequence}, epoch {epoch}, {cut}")
    }

    /// What recovery found and did.
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// The epoch of this opening, from 1 on; no other opening of this log has it. The upper bits of event ids.
    pub fn epoch(&self) -> u32 {
        self.position.epoch
    }

    /// The keeper, where it has no thread of its own.
    pub fn keeper(&mut self) -> Option<&mut Keeper<D>> {
        match &mut self.keeper {
            KeeperSeat::Here(keeper) => Some(keeper),
            _ => None,
        }
    }

    /// The keeper's counters.
    pub fn keeper_counters(&self) -> &Arc<KeeperCounters> {
        &self.counters
    }

    /// Watermarks and state, shared with the appender.
    pub fn status(&self) -> &Arc<StoreStatus> {
        &self.status
    }

    /// How its file system makes a write durable.
    pub fn sync_method(&self) -> SyncMethod {
        self.sync_method
    }

    /// Sets that, before there is an appender; [`SyncMethod::Dsync`] unless told otherwise.
    pub fn set_sync_method(&mut self, method: SyncMethod) {
        self.sync_method = method;
    }

    /// The sequences of producers that were in the log when it was opened.
    pub fn producers(&self) -> &ProducerTable {
        &self.position.producers
    }

    /// Where the appender begins. For one appender, and before it writes anything.
    pub fn position(&self) -> LogPosition {
        self.position.clone()
    }

    /// Closes the log in good order once its appender is drained and its thread has ended: rolls completed, all synced, the mark behind
    /// the last batch, the file cut to its length. Returns false, and leaves the files to the next recovery, if the store has
    /// failed, a write may still be in flight, or there is no space.
    ///
    /// # Errors
    /// Whatever syncing, renaming and cutting say.
    pub fn finish(&mut self, wall: WallNanos) -> io::Result<bool> {
        let (epoch, status) = (self.position.epoch, self.status.clone());
        let Some(keeper) = self.keeper.recall() else { return Ok(false) };
        if status.state() != StoreState::Running || status.is_in_flight() || !keeper.settle(status.segment())? {
            return Ok(false);
        }
        let active = keeper.active();
        let mut so_far = Footer::of_empty(keeper.header());
        (so_far.end_sequence, so_far.offset, so_far.chain) = (status.written_sequence(), status.written_bytes(), status.chain());
        active.sync()?;
        append(active, BatchMark::Closed, &[], wall, epoch, &mut so_far)?;
        active.sync()?;
        active.set_len(so_far.offset)?;
        active.sync()?;
        status.set_written(so_far.end_sequence, so_far.offset, so_far.chain);
        status.set_durable(so_far.end_sequence);
        Ok(true)
    }
}

impl<D: LogFolder + Send + 'static> OpenLog<D>
where
    D::File: Send,
{
    /// Gives the keeper a thread of its own, until [`OpenLog::finish`]; `on_thread` is called on it first (to leave the agents' cores).
    ///
    /// # Errors
    /// Whatever starting a thread says.
    pub fn start_keeper(&mut self, on_thread: impl Fn() + Send + 'static) -> io::Result<()> {
        self.keeper.start(on_thread)
    }
}

impl<D: LogFolder> Drop for OpenLog<D> {
    /// A keeper's thread does not outlive its log.
    fn drop(&mut self) {
        self.keeper.recall();
    }
}

/// Writes a batch without records behind the last one. Nothing of it is durable before a sync.
fn append(
    file: &impl LogFile,
    mark: BatchMark,
    payload: &[u8],
    wall: WallNanos,
    epoch: u32,
    so_far: &mut Footer,
) -> io::Result<()> {
    let header = BatchHeader {
        mark,
        payload_bytes: payload.len() as u32,
        record_count: 0,
        first_sequence: so_far.end_sequence,
        sealed_at: wall,
        // B2: whatever comes before a mark was synced.
        durable_sequence: so_far.end_sequence,
        durable_bytes_lag: if matches!(mark, BatchMark::Opened | BatchMark::Closed) { 0 } else { u16::MAX },
        epoch,
        chain: so_far.chain,
        payload_crc: crc32c(payload),
    };
    let (bytes, crc) = header.encode(LogKey::of(so_far.log_id));
    file.write_at(&[&bytes, payload].concat(), so_far.offset)?;
    so_far.add(&header, &Contents::default(), crc);
    Ok(())
}

/// Hands the parts of a snapshot to `append`, in their order.
fn append_snapshot(table: &ProducerTable, mut append: impl FnMut(BatchMark, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut part = vec![0; SNAPSHOT_PART_BYTES];
    let mut from = table.snapshot_begin();
    loop {
        let (bytes, next) = from.map_or((0, None), |from| table.snapshot(from, &mut part));
        append(if next.is_some() { BatchMark::Producers } else { BatchMark::ProducersEnd }, &part[..bytes])?;
        if next.is_none() {
            return Ok(());
        }
        from = next;
    }
}

/// The bytes before `offset` in its block.
fn tail_of_block(file: &impl LogFile, offset: u64) -> io::Result<Vec<u8>> {
    let block_start = offset - offset % BLOCK_BYTES as u64;
    let mut tail = vec![0; (offset - block_start) as usize];
    let read = read_full(file, &mut tail, block_start)?;
    if read < tail.len() { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) } else { Ok(tail) }
}
