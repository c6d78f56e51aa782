//! The appender's operations: write, sync, allocate, and what becomes of their completions.

use std::ops::Range;

use super::super::format::BLOCK_BYTES;
use super::super::staging::{Samples, SealFacts, SealedBatch};
use super::super::status::{StoreOperation, StoreState};
use super::super::sync_method::SyncMethod;
use super::{Appender, AppenderOptions, Durability};
use crate::agent::Context;
use crate::planted::{Bug, is_planted};
use crate::sys::clock::Nanos;
use crate::sys::io::{Completion, Errno, Fd, Ring, Token, WriteSync};
use crate::sys::memory::StagingBuffer;

/// A batch may wait so many intervals for more, once it is a bulk write, and is written when it is so many times as long as one (A9).
const BULK_INTERVALS: u64 = 4;
const BULK_FULL: usize = 4;

const KIND_WRITE: u8 = 1;
const KIND_SYNC: u8 = 2;
const KIND_ALLOCATE: u8 = 3;

/// Between two attempts when there is no space: long enough not to burn the core, short enough that freed space is noticed.
pub(super) const NO_SPACE_WAIT_MIN: Nanos = Nanos::from_millis(100);
const NO_SPACE_WAIT_MAX: Nanos = Nanos::from_millis(1000);
/// After an interrupted write, or a short one without a whole block of progress.
const INTERRUPTED_WAIT: Nanos = Nanos::from_millis(1);
/// After a refused allocation ahead: writes still go, and say themselves if there is no space.
const ALLOCATE_WAIT: Nanos = Nanos::from_millis(1000);
/// Allocations that are refused for want of space get smaller, down to this.
const ALLOCATE_BYTES_MIN: u64 = 1 << 20;

/// The one batch on its way to the file (A1).
#[derive(Debug)]
pub(super) enum Flight {
    /// Both buffers are here.
    None,
    /// With the kernel, from byte `from` of the buffer on.
    Writing { token: Token, batch: SealedBatch, from: usize },
    /// Here again, to be tried once more.
    Waiting { buffer: StagingBuffer, batch: SealedBatch, from: usize, retry_at: Nanos },
}

impl Flight {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Flight::None)
    }

    pub(super) fn records(&self) -> u32 {
        match self {
            Flight::None => 0,
            Flight::Writing { batch, .. } | Flight::Waiting { batch, .. } => batch.header.record_count,
        }
    }
}

/// A sync in flight.
#[derive(Clone, Copy, Debug)]
struct SyncInFlight {
    token: Token,
    file: Fd,
    /// The sequence, and the byte of the file, that it makes durable everything below of (A2).
    sequence: u64,
    bytes: u64,
}

/// Group commit: what is written but not durable.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    in_flight: Option<SyncInFlight>,
    in_flight_samples: Samples,
    /// A segment that was left with writes that no submitted sync covers; its samples are among `samples`. Comes before anything else.
    left_behind: Option<Fd>,
    /// When the first write completed that no submitted sync covers.
    since: Option<Nanos>,
    bytes: u64,
    samples: Samples,
}

impl Syncs {
    pub(super) fn deadline(&self, options: &AppenderOptions) -> Option<Nanos> {
        match self.in_flight {
            Some(_) => None,
            None => self.since.map(|since| since + options.sync_wait()),
        }
    }

    /// The segment of this file has been left. What is written of it and not covered by a sync comes first from now on (A7).
    pub(super) fn leave(&mut self, file: Fd) {
        if self.since.take().is_some() {
            debug_assert!(self.left_behind.is_none(), "one segment is left at a time");
            (self.left_behind, self.bytes) = (Some(file), 0);
        }
    }

    /// Whether anything is still to be synced in this file, or being synced.
    pub(super) fn concerns(&self, file: Fd) -> bool {
        self.left_behind == Some(file) || self.in_flight.is_some_and(|sync| sync.file == file)
    }

    /// Whether there is no write that no submitted sync covers.
    fn covers_all(&self) -> bool {
        self.since.is_none() && self.left_behind.is_none()
    }

    pub(super) fn rests(&self, has_failed: bool) -> bool {
        self.in_flight.is_none() && (has_failed || self.covers_all())
    }
}

/// Allocation ahead of the writes.
///
/// An allocation that is refused for want of space may have taken what there was (ext4 keeps it), of which other logs' writes, the dead
/// letters and everybody else on the disk would have to do without: it is given back, and the next ones ask for less, until one is granted.
#[derive(Debug)]
pub(super) struct Allocation {
    /// How much is asked for at most.
    step_bytes_max: u64,
    /// How much is asked for next; 0: nothing, the file system can't.
    step_bytes: u64,
    /// The file is allocated up to here.
    end: u64,
    in_flight: Option<AllocationInFlight>,
    not_before: Option<Nanos>,
    /// A write that is under way may have met what an allocation took for a moment.
    is_in_the_way: bool,
}

#[derive(Debug)]
struct AllocationInFlight {
    token: Token,
    range: Range<u64>,
    /// Being given back, after a refusal: nothing may be written there meanwhile.
    gives_back: bool,
}

impl Allocation {
    pub(super) fn new(step_bytes: u64, end: u64) -> Self {
        Self { step_bytes_max: step_bytes, step_bytes, end, in_flight: None, not_before: None, is_in_the_way: false }
    }

    pub(super) fn rests(&self) -> bool {
        self.in_flight.is_none()
    }

    /// Another file, reserved up to `end`.
    pub(super) fn move_on(&mut self, end: u64) {
        debug_assert!(self.in_flight.is_none(), "H2: nothing is in flight on a segment that is left");
        (self.end, self.not_before) = (end, None);
    }

    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.not_before.filter(|_| self.in_flight.is_none())
    }

    pub(super) fn is_given_back(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|allocation| allocation.gives_back)
    }

    /// Before a write: whether an allocation can take its space.
    fn begin_write(&mut self) {
        self.is_in_the_way = self.in_flight.is_some();
    }

    fn granted(&mut self, end: u64) {
        self.end = end;
        self.step_bytes = self.step_bytes.saturating_mul(2).min(self.step_bytes_max);
    }

    fn refused_for_space(&mut self) {
        self.step_bytes = (self.step_bytes / 2).max(ALLOCATE_BYTES_MIN).min(self.step_bytes_max);
    }
}

impl Appender {
    fn next_token<R: Ring>(&mut self, ctx: &Context<'_, R>, kind: u8) -> Token {
        self.generation = self.generation.wrapping_add(1);
        ctx.token(kind, self.generation, 0)
    }

    fn publish_in_flight(&self) {
        let operations = u64::from(matches!(self.flight, Flight::Writing { .. }))
            + u64::from(self.syncs.in_flight.is_some())
            + u64::from(self.allocation.in_flight.is_some());
        self.status.set_in_flight(operations);
    }

    pub(super) fn write_if_due<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        if self.write_due().is_some_and(|due| self.is_draining || ctx.now >= due) {
            self.start_write(ctx);
        }
    }

    /// When the open batch is to be written (A9); `None`: there is nothing in it.
    pub(super) fn write_due(&self) -> Option<Nanos> {
        let (open, options) = (&self.open, &self.options);
        if open.records == 0 {
            None
        } else if open.records >= options.flush_events || open.payload_bytes() >= options.bulk_bytes * BULK_FULL {
            Some(open.first_staged)
        } else if open.payload_bytes() >= options.bulk_bytes {
            Some(open.first_staged + Nanos(options.flush_interval.0 * BULK_INTERVALS))
        } else {
            Some(open.first_staged + options.flush_interval)
        }
    }

    /// How the next write becomes durable: by itself, or by a sync that comes after it, or some time.
    ///
    /// In a group by itself, if it is a bulk write (A9) and the first of its group: all before it is covered by a sync that was submitted.
    fn sync_of_next(&self, batch: &SealedBatch) -> WriteSync {
        let is_bulk = batch.header.payload_bytes as usize >= self.options.bulk_bytes;
        match (self.options.durability, self.options.sync_method) {
            _ if is_planted(Bug::NoFsync) => WriteSync::None,
            (Durability::Always, SyncMethod::Dsync) => WriteSync::DataSync,
            (Durability::Group, SyncMethod::Dsync) if is_bulk && self.syncs.covers_all() => WriteSync::DataSync,
            _ => WriteSync::None,
        }
    }

    /// Seals the open batch and writes it, unless one is on its way already. Returns whether it did.
    pub(super) fn start_write<R: Ring>(&mut self, ctx: &mut Context<'_, R>) -> bool {
        if self.open.is_empty() || self.allocation.is_given_back() {
            return false;
        }
        let Some(spare) = self.spare.take() else { return false };
        debug_assert!(self.flight.is_none(), "A1");
        self.flight_samples = self.open.samples;
        let facts = SealFacts {
            key: self.key,
            epoch: self.epoch,
            first_sequence: self.next_sequence,
            sealed_at: ctx.wall,
            durable_sequence: self.status.durable_sequence(),
            durable_bytes: self.durable_bytes,
            chain: self.chain,
        };
        let (batch, buffer) = self.open.seal(&facts, spare);
        (self.next_sequence, self.chain) = (batch.header.end_sequence(), batch.chain);
        self.latest_receipt = self.latest_receipt.max(batch.contents.latest_receipt);
        self.producers.next_batch();
        self.inlets.iter_mut().for_each(|inlet| inlet.sealed = inlet.staged);
        self.flight_sync = self.sync_of_next(&batch);
        self.submit_write(ctx, buffer, batch, 0);
        true
    }

    fn submit_write<R: Ring>(&mut self, ctx: &mut Context<'_, R>, buffer: StagingBuffer, batch: SealedBatch, from: usize) {
        debug_assert!(from.is_multiple_of(BLOCK_BYTES) && from < batch.padded, "A1: whole blocks");
        let token = self.next_token(ctx, KIND_WRITE);
        self.allocation.begin_write();
        self.counters.writes.add(1);
        self.counters.write_bytes.add((batch.padded - from) as u64);
        ctx.ring.write(token, batch.file, buffer, from..batch.padded, batch.offset + from as u64, self.flight_sync);
        if is_planted(Bug::EarlyAck) {
            self.status.set_written(batch.header.end_sequence(), batch.offset + batch.end as u64, batch.chain);
        }
        self.flight = Flight::Writing { token, batch, from };
        self.publish_in_flight();
    }

    pub(super) fn retry_if_due<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        let is_due = matches!(self.flight, Flight::Waiting { retry_at, .. } if ctx.now >= retry_at);
        if is_due && let Flight::Waiting { buffer, batch, from, .. } = std::mem::replace(&mut self.flight, Flight::None) {
            self.submit_write(ctx, buffer, batch, from);
        }
    }

    pub(super) fn sync_if_due<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        if self.syncs.in_flight.is_some() {
            return;
        }
        let last = self.is_draining && self.staged_events() == 0;
        let is_due =
            |since: Nanos| ctx.now >= since + self.options.sync_wait() || self.syncs.bytes >= self.options.commit_bytes || last;
        let sync = if let Some(file) = self.syncs.left_behind.take() {
            // The sequence where that segment ends; of the file that is written now nothing.
            Some((file, self.rolls.written.first_sequence, 0))
        } else if self.syncs.since.is_some_and(is_due) {
            self.syncs.in_flight_samples = self.syncs.samples;
            self.syncs.samples.clear();
            (self.syncs.since, self.syncs.bytes) = (None, 0);
            Some((self.rolls.file, self.status.written_sequence(), self.status.written_bytes()))
        } else {
            None
        };
        // A2: covers the writes that have completed, and no other.
        let Some((file, sequence, bytes)) = sync else { return };
        if is_planted(Bug::NoFsync) {
            self.durable(file, sequence, bytes);
            return self.retire_if_done();
        }
        let token = self.next_token(ctx, KIND_SYNC);
        self.syncs.in_flight = Some(SyncInFlight { token, file, sequence, bytes });
        ctx.ring.sync(token, file);
        self.publish_in_flight();
    }

    pub(super) fn allocate_if_due<R: Ring>(&mut self, ctx: &mut Context<'_, R>) {
        let step = self.allocation.step_bytes;
        let at = self.open.file_offset();
        let left = self.allocation.end.saturating_sub(at);
        let may = step > 0 && !self.is_draining && self.allocation.in_flight.is_none();
        self.allocation.not_before = self.allocation.not_before.filter(|not_before| !may || ctx.now < *not_before);
        if !may || left >= step / 2 || self.allocation.not_before.is_some() {
            return;
        }
        let from = self.allocation.end.max(at);
        // Up to where the segment is to end; beyond only while the next one is not ready.
        let to = if at < self.segment_bytes { (from + step).min(self.segment_bytes) } else { from + step };
        let range = from..to.next_multiple_of(BLOCK_BYTES as u64);
        if range.is_empty() {
            return;
        }
        let token = self.next_token(ctx, KIND_ALLOCATE);
        ctx.ring.allocate(token, self.open.file(), range.clone());
        self.allocation.in_flight = Some(AllocationInFlight { token, range, gives_back: false });
        self.allocation.is_in_the_way = true;
        self.publish_in_flight();
    }

    pub(super) fn complete_operation<R: Ring>(&mut self, completion: Completion, ctx: &mut Context<'_, R>) {
        let token = completion.token;
        match token.kind() {
            KIND_WRITE if matches!(self.flight, Flight::Writing { token: current, .. } if current == token) => {
                if let Flight::Writing { batch, from, .. } = std::mem::replace(&mut self.flight, Flight::None) {
                    let buffer = ctx.ring.reclaim(token);
                    self.complete_write(ctx, completion.result, buffer, batch, from);
                }
            }
            KIND_SYNC if self.syncs.in_flight.is_some_and(|sync| sync.token == token) => {
                self.complete_sync(completion.result, ctx.now);
                self.retire_if_done();
            }
            KIND_ALLOCATE if self.allocation.in_flight.as_ref().is_some_and(|current| current.token == token) => {
                self.complete_allocate(completion.result, ctx);
            }
            _ => self.counters.late_completions.add(1),
        }
        self.publish_in_flight();
        self.publish_gauges();
        if self.is_draining {
            self.stages.publish(); // This may have been the last completion: no poll has to follow.
        }
    }

    fn complete_write<R: Ring>(
        &mut self,
        ctx: &mut Context<'_, R>,
        result: Result<u32, Errno>,
        buffer: StagingBuffer,
        batch: SealedBatch,
        from: usize,
    ) {
        if self.has_failed {
            // A sync failed meanwhile: nothing that comes after it is promised.
            self.count_lost(&batch.counts);
            self.spare = Some(buffer);
            return;
        }
        match result {
            // The padding behind `end` is zeros: there or not, the file reads the same.
            Ok(bytes) if from + bytes as usize >= batch.end => self.written(ctx.now, buffer, &batch),
            Ok(bytes) => {
                self.counters.short_writes.add(1);
                // Direct writes begin at whole blocks: what is beyond the last whole one is written again.
                let next = from + (bytes as usize - bytes as usize % BLOCK_BYTES);
                if next > from {
                    self.submit_write(ctx, buffer, batch, next);
                } else {
                    self.wait(ctx.now, buffer, batch, from, INTERRUPTED_WAIT);
                }
            }
            Err(errno) => self.refused(ctx.now, errno, buffer, batch, from),
        }
    }

    fn wait(&mut self, now: Nanos, buffer: StagingBuffer, batch: SealedBatch, from: usize, wait: Nanos) {
        self.flight = Flight::Waiting { buffer, batch, from, retry_at: now + wait };
    }

    /// A batch is in the file.
    fn written(&mut self, now: Nanos, buffer: StagingBuffer, batch: &SealedBatch) {
        self.spare = Some(buffer);
        if self.status.state() != StoreState::Running && !self.is_short_of_space {
            self.status.set_state(StoreState::Running);
            self.gate.set_store_unavailable(false);
            self.no_space_wait = NO_SPACE_WAIT_MIN;
        }
        if let Some(header) = batch.begins {
            self.leave_segment(batch.file, header);
        }
        let end_bytes = batch.offset + batch.end as u64;
        let (bytes, end_sequence) = (batch.header.batch_bytes(), batch.header.end_sequence());
        self.rolls.written.add(&batch.header, &batch.contents, batch.chain);
        self.status.set_written(end_sequence, end_bytes, batch.chain);
        self.inlets.iter().for_each(|inlet| inlet.progress.set(inlet.sealed));
        self.count_stored(&batch.counts);
        self.counters.batches.add(1);
        self.counters.events.add(u64::from(batch.header.record_count));
        self.counters.bytes.add(bytes);
        self.stages.written.record_all(&self.flight_samples, now);
        // What was synced by itself is durable once all before it is (A7); until then it waits for a sync as others do.
        if self.flight_sync == WriteSync::DataSync && self.syncs.rests(false) {
            self.stages.durable.record_all(&self.flight_samples, now);
            self.durable(batch.file, end_sequence, end_bytes);
        } else if self.options.durability != Durability::None {
            self.syncs.since = self.syncs.since.or(Some(now));
            self.syncs.bytes += bytes;
            self.syncs.samples.extend(&self.flight_samples);
        }
        self.retire_if_done();
    }

    fn durable(&mut self, file: Fd, sequence: u64, bytes: u64) {
        self.status.set_durable(sequence);
        if file == self.open.file() {
            self.durable_bytes = bytes;
        }
    }

    /// The kernel refused a write (A4).
    fn refused(&mut self, now: Nanos, errno: Errno, buffer: StagingBuffer, batch: SealedBatch, from: usize) {
        match errno.0 {
            // What an allocation has taken is given back: there may be space.
            libc::ENOSPC | libc::EDQUOT if self.allocation.is_in_the_way => self.wait(now, buffer, batch, from, INTERRUPTED_WAIT),
            // No space on the device, in the quota, or below RLIMIT_FSIZE: an operator can change that.
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => {
                self.counters.no_space.add(1);
                self.status.set_state(StoreState::NoSpace { errno });
                self.gate.set_store_unavailable(true);
                let wait = self.no_space_wait;
                self.no_space_wait = Nanos((wait.0 * 2).min(NO_SPACE_WAIT_MAX.0));
                self.wait(now, buffer, batch, from, wait);
            }
            // Nothing was written, and nothing is wrong with the file.
            libc::EINTR | libc::EAGAIN => {
                self.counters.interrupted.add(1);
                self.wait(now, buffer, batch, from, INTERRUPTED_WAIT);
            }
            // EIO, EROFS, EBADF, …: what the file holds now is unknown.
            _ => {
                self.count_lost(&batch.counts);
                self.spare = Some(buffer);
                self.fail(StoreOperation::Write, errno);
            }
        }
    }

    /// Closes the gate while less is free than has to be, and opens it again by itself. What has come in is written all the same.
    pub(super) fn look_at_space(&mut self) {
        let is_short = self.handover.is_short_of_space() && !self.is_draining;
        if self.has_failed || std::mem::replace(&mut self.is_short_of_space, is_short) == is_short {
            return;
        }
        // A batch that waits for space ends that state itself.
        let waits = matches!(self.flight, Flight::Waiting { .. });
        if is_short {
            self.status.set_state(StoreState::NoSpace { errno: Errno(libc::ENOSPC) });
            self.gate.set_store_unavailable(true);
        } else if !waits {
            self.status.set_state(StoreState::Running);
            self.gate.set_store_unavailable(false);
        }
    }

    fn complete_sync(&mut self, result: Result<u32, Errno>, now: Nanos) {
        let Some(SyncInFlight { file, sequence, bytes, .. }) = self.syncs.in_flight.take() else { return };
        if self.has_failed {
            return;
        }
        match result {
            Ok(_) => {
                self.counters.syncs.add(1);
                self.stages.durable.record_all(&self.syncs.in_flight_samples, now);
                self.syncs.in_flight_samples.clear();
                self.durable(file, sequence, bytes);
            }
            // Whatever the errno: after a failed sync the pages are clean and the data gone, a second one would lie.
            // (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.)
            Err(errno) => self.fail(StoreOperation::Sync, errno),
        }
    }

    fn complete_allocate<R: Ring>(&mut self, result: Result<u32, Errno>, ctx: &mut Context<'_, R>) {
        let Some(AllocationInFlight { range, gives_back, .. }) = self.allocation.in_flight.take() else { return };
        match result {
            // Whatever came of it: a file system that can't keeps what it has.
            _ if gives_back => {}
            Ok(_) => {
                self.allocation.granted(range.end);
                self.counters.allocations.add(1);
            }
            Err(errno) => {
                self.counters.allocations_refused.add(1);
                self.allocation.not_before = Some(ctx.now + ALLOCATE_WAIT);
                match errno.0 {
                    libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EPERM => {
                        (self.allocation.step_bytes, self.allocation.not_before) = (0, None);
                    }
                    libc::ENOSPC | libc::EDQUOT => {
                        self.allocation.refused_for_space();
                        self.give_back(range, ctx);
                    }
                    _ => {}
                }
            }
        }
    }

    /// What a refused allocation may have got, but for what was written or is being written since: a write in flight ends in the block
    /// that the open batch begins in, at the latest.
    fn give_back<R: Ring>(&mut self, refused: Range<u64>, ctx: &mut Context<'_, R>) {
        let range = refused.start.max((self.open.file_offset() + 1).next_multiple_of(BLOCK_BYTES as u64))..refused.end;
        if range.is_empty() {
            return;
        }
        let token = self.next_token(ctx, KIND_ALLOCATE);
        ctx.ring.give_back(token, self.open.file(), range.clone());
        self.allocation.in_flight = Some(AllocationInFlight { token, range, gives_back: true });
    }

    /// Ends the store for good (A4).
    pub(super) fn fail(&mut self, operation: StoreOperation, errno: Errno) {
        self.has_failed = true;
        self.status.set_state(StoreState::Failed { operation, errno });
        self.gate.set_store_unavailable(true);
        self.count_lost(&self.open.counts);
        self.open.discard();
        match std::mem::replace(&mut self.flight, Flight::None) {
            Flight::None => {}
            // Its completion is still to come, and gives the buffer back.
            writing @ Flight::Writing { .. } => self.flight = writing,
            Flight::Waiting { buffer, batch, .. } => {
                self.count_lost(&batch.counts);
                self.spare = Some(buffer);
            }
        }
    }
}
