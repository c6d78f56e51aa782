//! The keeper: does with a log's files what may block, on a helper thread, so that the appender never waits for it.
//!
//! ```text
//!             orders: prepare, retire                             rename, footer, sync, recycle, remove
//! appender ──────────────────────────► keeper (helper thread) ───────────────────────────────────► folder
//!    ▲  └──── next segment, ready ────────┘
//!    └─ writes on in the old segment until the next one is ready: a segment's size is a trigger, not a cap
//! ```
//!
//! Invariants:
//! - **H1** A next segment is handed over after its blocks are reserved and its name is durable, and the one before it is sealed under its
//!   name: so at most one roll is under way at any moment, and recovery has to look at two files.
//! - **H2** A segment is retired by the appender after its last write has completed, after every sync of it that a durable watermark
//!   rests on, and with nothing of the ring in flight on it. Its file is closed no earlier.
//! - **H3** What the folder refuses while sealing: out of space is tried again, anything else ends the store; a failed sync is never
//!   tried again. What it refuses while preparing is tried again: meanwhile the active segment grows.
//! - **H4** A recycled file loses its header, durably, before it is handed over: what is left of it belongs to no segment (F5).
//!
//! What it does not do: write batches, judge what a crash left (that is `recovery.rs`, with the same steps).

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::cursor::lowest_cursor;
use super::format::{BLOCK_BYTES, Footer, SegmentHeader};
use super::log_file::{LogFile, LogFolder};
use super::names::SegmentName;
use super::producers::PRODUCERS_DEFAULT;
use super::recovery::{write_footer, write_header};
use super::segments::SealedSegment;
use super::status::StoreOperation;
use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};
use crate::sys::clock::{Clock, HostClock, Nanos, WallNanos};
use crate::sys::io::{Errno, Fd};
use crate::sys::wake::ParkState;

/// How often the keeper looks at ages and free space when nobody asks for anything; also between two attempts at what was refused.
pub(super) const LOOK_EVERY: Nanos = Nanos::from_millis(500);

/// How large segments are, and what becomes of old ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentOptions {
    /// A segment is sealed when it has at least this many bytes and the next one is ready.
    pub segment_bytes: u64,
    /// Whether writes bypass the page cache where the file system can.
    pub direct: bool,
    /// Sealed segments beyond so many bytes are given up, the oldest first; 0: all are kept.
    pub retention_bytes: u64,
    /// Segments whose last batch was sealed longer ago are given up, seconds; 0: all are kept.
    pub retention_age_s: u64,
    /// With less than this free on the file system no events are taken in.
    pub min_free_bytes: u64,
    /// Whether what a named cursor has not passed is kept.
    pub keep_for_cursors: bool,
    /// Producers whose sequences the log remembers; the one that stored least recently gives way.
    pub producers_max: u32,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            direct: true,
            retention_bytes: 0,
            retention_age_s: 0,
            min_free_bytes: 0,
            keep_for_cursors: false,
            producers_max: PRODUCERS_DEFAULT,
        }
    }
}

/// A file that is ready to take batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NextSegment {
    pub fd: Fd,
    /// Blocks are reserved up to here.
    pub allocated_bytes: u64,
    /// See [`SegmentHeader::recycled`].
    pub recycled: bool,
}

/// What the appender asks of the keeper.
#[derive(Debug)]
enum Order {
    /// A next segment will be needed.
    Prepare,
    /// The active segment has ended like this (H2); the one handed over last is active now.
    Retire(Footer, SegmentHeader),
}

/// What appender and keeper share.
#[derive(Debug)]
pub struct Handover {
    /// At most one of each order at a time (H1).
    orders: ArrayQueue<Order>,
    next: ArrayQueue<NextSegment>,
    /// Why the store can't go on: operation << 32 | errno; 0: it can.
    failure: AtomicU64,
    /// Less is free than `min_free_bytes`.
    short_of_space: AtomicBool,
    /// The keeper's parking, as for the dead letters.
    park: ParkState,
    thread: OnceLock<Thread>,
    stop: AtomicBool,
}

impl Handover {
    fn new() -> Self {
        Self {
            orders: ArrayQueue::new(2),
            next: ArrayQueue::new(1),
            failure: AtomicU64::new(0),
            short_of_space: AtomicBool::new(false),
            park: ParkState::new(),
            thread: OnceLock::new(),
            stop: AtomicBool::new(false),
        }
    }

    fn order(&self, order: Order) {
        self.orders.push(order).expect("H1: one of each order at a time");
        if self.park.must_wake()
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    pub(super) fn ask_for_next(&self) {
        self.order(Order::Prepare);
    }

    /// The next segment, if it is ready.
    pub(super) fn take_next(&self) -> Option<NextSegment> {
        self.next.pop()
    }

    /// Hands the old active segment over (H2), with the header of the one that is active now.
    pub(super) fn retire(&self, footer: Footer, successor: SegmentHeader) {
        self.order(Order::Retire(footer, successor));
    }

    /// Whether less is free than there has to be.
    pub(super) fn is_short_of_space(&self) -> bool {
        // A flag only, looked at again and again.
        self.short_of_space.load(Ordering::Relaxed)
    }

    /// What has ended the store, if anything has.
    pub(super) fn failure(&self) -> Option<(StoreOperation, Errno)> {
        // A number only: no other memory hangs on it.
        let packed = self.failure.load(Ordering::Relaxed);
        let operation = if packed >> 32 == StoreOperation::Sync as u64 { StoreOperation::Sync } else { StoreOperation::Seal };
        (packed != 0).then_some((operation, Errno(packed as u32 as i32)))
    }
}

/// Counters of a keeper (one writer: its thread).
#[derive(Debug, Default)]
pub struct KeeperCounters {
    /// Segments prepared ahead.
    pub prepared: Counter,
    /// Segments sealed.
    pub sealed: Counter,
    /// Old segments recycled.
    pub recycled: Counter,
    /// Old segments removed.
    pub removed: Counter,
    /// Attempts that the folder refused (tried again).
    pub refused: Counter,
    /// Gauge: sealed segments kept.
    pub kept: Counter,
    /// Gauge: bytes of them.
    pub kept_bytes: Counter,
}

impl Measured for KeeperCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        let mut tell = |name, help, kind, counter: &Counter| sink(Sample { name, help, kind, labels: &[], value: counter.get() });
        let (counter, gauge) = (Kind::Counter, Kind::Gauge);
        tell("log_segments_prepared", "Segments prepared ahead of their need", counter, &self.prepared);
        tell("log_segments_sealed", "Segments sealed", counter, &self.sealed);
        tell("log_segments_recycled", "Old segments whose blocks are written again", counter, &self.recycled);
        tell("log_segments_removed", "Old segments removed", counter, &self.removed);
        tell(
            "log_segment_refusals",
            "Attempts to prepare, seal or give up that were refused and tried again",
            counter,
            &self.refused,
        );
        tell("log_segments_kept", "Sealed segments kept", gauge, &self.kept);
        tell("log_segments_kept_bytes", "Bytes of sealed segments kept", gauge, &self.kept_bytes);
    }
}

/// Where [`Keeper::seal`] stands, so that an attempt goes on where the last one was refused.
#[derive(Clone, Copy, Debug)]
struct Sealing {
    footer: Footer,
    successor: SegmentHeader,
    is_whole: bool,
    is_renamed: bool,
}

/// A log's files, and what is to be done with them. See the module doc.
#[derive(Debug)]
pub struct Keeper<D: LogFolder> {
    folder: D,
    options: SegmentOptions,
    handover: Arc<Handover>,
    counters: Arc<KeeperCounters>,
    active: D::File,
    header: SegmentHeader,
    next: Option<D::File>,
    sealed: VecDeque<SealedSegment>,
    sealing: Option<Sealing>,
    wants_next: bool,
    not_before: Nanos,
    /// When free space is looked at next.
    space_at: Nanos,
}

impl<D: LogFolder> Keeper<D> {
    pub(super) fn new(
        folder: D,
        options: SegmentOptions,
        active: D::File,
        header: SegmentHeader,
        sealed: Vec<SealedSegment>,
    ) -> Self {
        let keeper = Self {
            folder,
            options,
            handover: Arc::new(Handover::new()),
            counters: Arc::default(),
            active,
            header,
            next: None,
            sealed: sealed.into(),
            sealing: None,
            wants_next: false,
            not_before: Nanos(0),
            space_at: Nanos(0),
        };
        keeper.publish();
        keeper
    }

    /// The folder.
    pub fn folder(&self) -> &D {
        &self.folder
    }

    /// The active segment's file.
    pub fn active(&self) -> &D::File {
        &self.active
    }

    pub(super) fn active_mut(&mut self) -> &mut D::File {
        &mut self.active
    }

    /// The active segment's header.
    pub(super) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Its counters.
    pub fn counters(&self) -> &Arc<KeeperCounters> {
        &self.counters
    }

    pub(super) fn handover(&self) -> &Arc<Handover> {
        &self.handover
    }

    fn active_name(&self) -> String {
        SegmentName::Active(self.header.node).to_string()
    }

    fn next_name(&self) -> String {
        SegmentName::Next(self.header.node).to_string()
    }

    /// Does the next thing that is to be done. False: there is nothing, or not yet again.
    pub fn work(&mut self, now: Nanos, wall: WallNanos) -> bool {
        self.take_orders();
        self.look_at_space(now);
        if now < self.not_before || self.handover.failure().is_some() {
            return false;
        }
        let (doing, result) = if self.sealing.is_some() {
            ("seal", self.seal())
        } else if self.is_oldest_expired(wall) {
            ("give up", self.give_up_oldest())
        } else if self.wants_next && self.next.is_none() {
            ("prepare", self.prepare())
        } else {
            return false;
        };
        if let Err(error) = result {
            self.counters.refused.add(1);
            self.not_before = now + LOOK_EVERY;
            log::warn!("could not {doing} a segment of the log: {error}");
        }
        self.publish();
        true
    }

    fn take_orders(&mut self) {
        while let Some(order) = self.handover.orders.pop() {
            match order {
                Order::Prepare => self.wants_next = true,
                Order::Retire(footer, successor) => {
                    self.sealing = Some(Sealing { footer, successor, is_whole: false, is_renamed: false });
                    self.not_before = Nanos(0);
                }
            }
        }
    }

    /// One roll, in the order of V3.
    fn seal(&mut self) -> io::Result<()> {
        let Some(mut sealing) = self.sealing else { return Ok(()) };
        let result = self.seal_from(&mut sealing);
        self.sealing = Some(sealing);
        match result {
            Ok(()) => {
                let Sealing { footer, successor, .. } = sealing;
                self.sealed.push_back(SealedSegment { header: self.header, footer });
                self.active = self.next.take().expect("H1: the appender rolls into what was handed over");
                self.header = successor;
                self.sealing = None;
                self.counters.sealed.add(1);
                Ok(())
            }
            // H3: nothing was lost by it, and an operator can change that.
            Err((StoreOperation::Seal, error)) if is_want_of_space(&error) => Err(error),
            Err((operation, error)) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                self.handover.failure.store((operation as u64) << 32 | u64::from(errno as u32), Ordering::Relaxed);
                Err(error)
            }
        }
    }

    fn seal_from(&self, sealing: &mut Sealing) -> Result<(), (StoreOperation, io::Error)> {
        let sealed_name = SegmentName::Sealed(self.header.node, self.header.first_sequence).to_string();
        let sealing_it = |error| (StoreOperation::Seal, error);
        if !sealing.is_whole {
            write_footer(&self.active, &sealing.footer).map_err(sealing_it)?;
            self.active.sync().map_err(|error| (StoreOperation::Sync, error))?;
            sealing.is_whole = true;
        }
        if !sealing.is_renamed {
            self.folder.rename(&self.active_name(), &sealed_name).map_err(sealing_it)?;
            sealing.is_renamed = true;
        }
        self.folder.sync().map_err(sealing_it)?;
        // V3: whatever bears the active name has its header, whatever a power cut leaves, and whatever a failed sync of the appender's has
        // taken of it meanwhile: of that a sync here alone would say nothing.
        if let Some(next) = &self.next {
            write_header(next, &sealing.successor).map_err(sealing_it)?;
            next.sync().map_err(|error| (StoreOperation::Sync, error))?;
        }
        // Again after a refusal of the sync below: the name is there already.
        if self.folder.open_if_there(&self.next_name()).map_err(sealing_it)?.is_some() {
            self.folder.rename(&self.next_name(), &self.active_name()).map_err(sealing_it)?;
        }
        self.folder.sync().map_err(sealing_it)
    }

    /// Makes the next segment ready (H1).
    fn prepare(&mut self) -> io::Result<()> {
        self.wants_next = true; // Until it is there.
        let file = self.folder.create(&self.next_name())?;
        file.set_len(0)?;
        self.hand_over(file, false)?;
        self.counters.prepared.add(1);
        Ok(())
    }

    fn hand_over(&mut self, mut file: D::File, recycled: bool) -> io::Result<()> {
        let (before, bytes) = (file.len()?, self.options.segment_bytes.next_multiple_of(BLOCK_BYTES as u64));
        // A refused allocation would take, if only for a moment, what the active segment and everybody else could still use. (Where none is free,
        // or the file system does not say, there is nothing to be taken.)
        if (1..bytes.saturating_sub(before)).contains(&self.folder.free_bytes()?) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        file.allocate(bytes).inspect_err(|_| {
            let _ = file.set_len(before);
        })?;
        if file.len()? < BLOCK_BYTES as u64 {
            file.set_len(BLOCK_BYTES as u64)?; // Where nothing can be reserved. The probe of direct writes reads a block.
        }
        file.sync()?;
        self.folder.sync()?;
        file.enable_ring(self.options.direct);
        let next = NextSegment { fd: file.fd(), allocated_bytes: file.len()?, recycled };
        (self.next, self.wants_next) = (Some(file), false);
        self.handover.next.push(next).expect("H1: one next segment at a time");
        Ok(())
    }

    fn is_oldest_expired(&self, wall: WallNanos) -> bool {
        let Some(oldest) = self.sealed.front() else { return false };
        let SegmentOptions { retention_bytes, retention_age_s, keep_for_cursors, .. } = self.options;
        let is_too_much = retention_bytes > 0 && self.kept_bytes() > retention_bytes;
        let age = wall.0.saturating_sub(oldest.footer.sealed_between.1.0);
        let is_expired = is_too_much || (retention_age_s > 0 && age > retention_age_s.saturating_mul(1_000_000_000));
        // Where cursors can't be listed nothing is given up.
        let is_passed = || match lowest_cursor(&self.folder, self.header.node) {
            Ok(lowest) => lowest.is_none_or(|lowest| lowest >= oldest.footer.end_sequence),
            Err(_) => false,
        };
        is_expired && (!keep_for_cursors || is_passed())
    }

    /// The oldest segment becomes the next one, or, where that is there already, nothing: so there is one spare at most.
    fn give_up_oldest(&mut self) -> io::Result<()> {
        let Some(name) = self.sealed.front().map(|oldest| oldest.name().to_string()) else { return Ok(()) };
        if self.next.is_some() {
            self.folder.remove(&name)?;
            self.sealed.pop_front();
            self.counters.removed.add(1);
            return self.folder.sync();
        }
        self.folder.rename(&name, &self.next_name())?;
        self.sealed.pop_front();
        // Should anything below be refused, a next segment is made in its place.
        self.wants_next = true;
        self.folder.sync()?;
        let file = self.folder.open(&self.next_name())?;
        // H4.
        file.write_at(&[0; BLOCK_BYTES], 0)?;
        file.sync()?;
        self.hand_over(file, true)?;
        self.counters.recycled.add(1);
        Ok(())
    }

    /// Whether events may be taken in: not with less free than `min_free_bytes`.
    fn look_at_space(&mut self, now: Nanos) {
        if self.options.min_free_bytes == 0 || now < self.space_at {
            return;
        }
        self.space_at = now + LOOK_EVERY;
        match self.folder.free_bytes() {
            Ok(free) => self.handover.short_of_space.store(free < self.options.min_free_bytes, Ordering::Relaxed),
            Err(error) => log::warn!("could not ask for the free space of the log's file system: {error}"),
        }
    }

    fn kept_bytes(&self) -> u64 {
        self.sealed.iter().map(SealedSegment::file_bytes).sum()
    }

    fn publish(&self) {
        self.counters.kept.set(self.sealed.len() as u64);
        self.counters.kept_bytes.set(self.kept_bytes());
    }

    /// After the appender has ended: completes what is under way, and takes away what was prepared for nothing. Returns whether the
    /// active file is the one whose first sequence is this.
    ///
    /// # Errors
    /// Whatever the folder says.
    pub(super) fn settle(&mut self, first_sequence: u64) -> io::Result<bool> {
        self.take_orders();
        if self.handover.failure().is_some() {
            return Ok(false);
        }
        self.seal()?;
        if self.header.first_sequence != first_sequence {
            return Ok(false);
        }
        if self.next.take().is_some() {
            self.folder.remove(&self.next_name())?;
        }
        self.publish();
        Ok(true)
    }
}

/// Whether an operator can make this go away by freeing space, or raising a limit.
fn is_want_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// A keeper, here or on its thread.
#[derive(Debug)]
pub(super) enum KeeperSeat<D: LogFolder> {
    Here(Box<Keeper<D>>),
    Away(JoinHandle<Box<Keeper<D>>>, Arc<Handover>),
    /// Its thread has panicked.
    Gone,
}

impl<D: LogFolder + Send + 'static> KeeperSeat<D>
where
    D::File: Send,
{
    /// Starts its thread; `on_thread` is called there first.
    ///
    /// # Errors
    /// Whatever starting a thread says.
    pub(super) fn start(&mut self, on_thread: impl Fn() + Send + 'static) -> io::Result<()> {
        let KeeperSeat::Here(keeper) = std::mem::replace(self, KeeperSeat::Gone) else { return Ok(()) };
        let handover = keeper.handover.clone();
        let thread = thread::Builder::new().name("log-keeper".into()).spawn(move || {
            on_thread();
            keep(keeper)
        })?;
        *self = KeeperSeat::Away(thread, handover);
        Ok(())
    }
}

impl<D: LogFolder> KeeperSeat<D> {
    /// Ends its thread, if it has one, and gives the keeper back; `None` if it has panicked.
    pub(super) fn recall(&mut self) -> Option<&mut Keeper<D>> {
        if matches!(self, KeeperSeat::Away(..))
            && let KeeperSeat::Away(thread, handover) = std::mem::replace(self, KeeperSeat::Gone)
        {
            handover.stop.store(true, Ordering::Release); // Pairs with the Acquire in `keep`.
            thread.thread().unpark();
            match thread.join() {
                Ok(keeper) => *self = KeeperSeat::Here(keeper),
                Err(_) => log::error!("the log's keeper has panicked; the next start recovers its files"),
            }
        }
        match self {
            KeeperSeat::Here(keeper) => Some(keeper),
            _ => None,
        }
    }
}

/// The thread's loop: sleeps while there is nothing to do; ends when it is told to.
fn keep<D: LogFolder>(mut keeper: Box<Keeper<D>>) -> Box<Keeper<D>> {
    let handover = keeper.handover.clone();
    let registered = handover.thread.set(thread::current());
    assert!(registered.is_ok(), "a log has one keeper");
    while !handover.stop.load(Ordering::Acquire) {
        if keeper.work(HostClock.now(), HostClock.wall()) {
            continue;
        }
        handover.park.announce();
        // The last look, after the announcement: an appender that saw us awake has pushed before this.
        if handover.orders.is_empty() && !handover.stop.load(Ordering::Acquire) {
            thread::park_timeout(Duration::from_nanos(LOOK_EVERY.0));
        }
        handover.park.resume();
    }
    keeper
}
