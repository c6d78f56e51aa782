//! The appender: takes events from its inlets, stages them as batches, and writes them to the log through the ring.
//!
//! ```text
//! inlets (REALTIME first) ─ pop 64 ─► encode into the open batch, release the slot ─► seal ─► one write in flight ─► written
//!                                       buffer A                                       buffer B, at the ring          │
//!                                                                            sync, after the write's completion ─► durable
//! ```
//!
//! Invariants:
//! - **A1** One write is in flight per log. It is built of whole blocks; the block that the log ends in is rewritten by the next write,
//!   which repeats its old bytes exactly. Assumed of the device: a block of 4096 bytes is written as a whole or not at all.
//! - **A2** A sync is submitted after the completion of every write that it makes durable; watermarks move on completions only.
//! - **A3** An event is in the hands, staged, or counted: `stored` when its batch's write has completed, `lost` (`store_unavailable`) when
//!   the store has failed. Its slot is released as soon as its bytes are staged.
//! - **A4** No space is waited out (100 ms to 1 s between attempts; the gate is closed meanwhile, as it is while less is free than has to
//!   be); any other refusal of a write, and any
//!   failed sync, ends the store for good: never tried again, nothing of that window is called written or durable.
//! - **A5** All memory is taken in [`Appender::new`].
//! - **A6** A batch belongs to one segment. A segment that is full is left with the next batch, if the next one is ready; nothing waits for
//!   it. Sequences, chain and epoch go on; the first write of a segment carries its header.
//! - **A7** `durable` passes from one segment to the next: nothing of a segment is called durable by a sync of its own before a sync has
//!   covered all of the one before it.
//! - **A8** A segment's snapshot of the producers' table is on its way before the segment's first record is staged (P4). A producer's sequence is
//!   in the table from when its record is staged, no earlier: so a snapshot tells of nothing that is not before it in the log.
//!
//! - **A9** A batch is written when it has `flush_events` events, or its first one has waited for `flush_interval`. What gathers `bulk_bytes` in
//!   one interval is a bulk write: it waits for up to four intervals, or four times as many bytes. In a group it is synced by itself
//!   (`SyncMethod::Dsync`) if a submitted sync covers all before it: a group of one write, behind which no sync is submitted.
//!
//! What it does not do: open, recover, close or cut the log (`open.rs`, `recovery.rs`, on the engine's thread); make, seal or name segments
//! (`keeper.rs`, on a helper thread).

mod measure;
mod producers;
mod roll;
mod write;

use std::io;
use std::ops::Range;
use std::sync::Arc;

pub use measure::{AppenderCounters, AppenderLatencies};

use super::format::{BATCH_BYTES_MAX, BATCH_HEADER_BYTES, BLOCK_BYTES, LogKey, RECORD_HEADER_BYTES_MAX, RecordHeader};
use super::keeper::{Handover, LOOK_EVERY};
use super::open::LogPosition;
use super::staging::{Counts, OpenBatch, Samples};
use super::status::{InletProgress, StoreState, StoreStatus};
use super::sync_method::SyncMethod;
use crate::agent::{Agent, Context, Holding, Work};
use crate::bus::lane::LaneConsumer;
use crate::control::NodeGate;
use crate::metrics::ledger::{DropReason, LedgerCells};
use crate::pool::{Event, Outcome, Releaser, SharedPool, SlotClass, Source};
use crate::sys::clock::{Nanos, WallNanos};
use crate::sys::io::{Completion, Ring, WriteSync};
use crate::sys::memory::StagingBuffer;
use crate::wire::Tier;
use measure::Stages;
use producers::StagedProducers;
use roll::Rolls;
use write::{Allocation, Flight, NO_SPACE_WAIT_MIN, Syncs};

/// Events taken from an inlet at a time: one CAS each, and what prefetching can cover.
const POP_BATCH: usize = 64;
/// How many events ahead their first lines are fetched.
const PREFETCH_AHEAD: usize = 8;

/// When written events are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the kernel gets to it; at the latest when the log is closed.
    None,
    /// Together: every `commit_interval` or `commit_bytes`.
    Group,
    /// Every batch, with its write or right behind it.
    Always,
}

/// An appender's numbers.
#[derive(Clone, Copy, Debug)]
pub struct AppenderOptions {
    /// Bytes of each of the two staging buffers: a multiple of 4096, at least [`AppenderOptions::staging_bytes_min`].
    pub staging_bytes: usize,
    /// A write starts when this many events are staged, whatever the interval: a trigger, not a cap.
    pub flush_events: u32,
    /// A write starts at the latest this long after the first event of a batch was staged.
    pub flush_interval: Nanos,
    /// A batch that gathers so many bytes in one interval is a bulk write (A9): it waits for four intervals, or four times as much.
    pub bulk_bytes: usize,
    /// When written events are durable.
    pub durability: Durability,
    /// How, with [`Durability::Always`]; of a bulk write also with [`Durability::Group`].
    pub sync_method: SyncMethod,
    /// With [`Durability::Group`]: a sync at the latest this long after a write completed.
    pub commit_interval: Nanos,
    /// With [`Durability::Group`]: a sync when this many bytes have been written since the last one.
    pub commit_bytes: u64,
    /// The file is allocated ahead in steps of this; 0 = not at all.
    pub allocate_bytes: u64,
    /// Events staged per poll at most, so that a runner's other agents get their turn.
    pub poll_events_max: u32,
}

impl Default for AppenderOptions {
    fn default() -> Self {
        Self {
            // 2 MiB: where one write in flight reaches the disk's speed (2.0 / 2.9 / 3.9 GB/s at 0.5 / 1 / 2 MiB).
            staging_bytes: 2 << 20,
            flush_events: 16384,
            flush_interval: Nanos::from_micros(500),
            // 256 KiB in half a millisecond are some 5 M small events a second; then a MiB at a time. Each write costs a wake-up of a kernel worker and a
            // notification of the disk: flat out 0.84 of the events a second with a write each half millisecond, and 13 ns an event more with one
            // whenever the one before has ended.
            bulk_bytes: 256 << 10,
            durability: Durability::Group,
            sync_method: SyncMethod::Dsync,
            commit_interval: Nanos::from_micros(2000),
            commit_bytes: 1 << 20,
            // 128 MiB: the next step is asked for with 64 MiB left, some 40 ms of the fastest stream.
            allocate_bytes: 128 << 20,
            poll_events_max: 1024,
        }
    }
}

impl AppenderOptions {
    /// How long a completed write waits for its sync at most.
    fn sync_wait(&self) -> Nanos {
        if self.durability == Durability::Group { self.commit_interval } else { Nanos(0) }
    }

    /// The smallest staging buffer that takes an event of `payload_bytes` of topic and body.
    pub fn staging_bytes_min(payload_bytes: usize) -> usize {
        // Up to a block less one byte is carried over from the batch before.
        (BLOCK_BYTES + BATCH_HEADER_BYTES + RECORD_HEADER_BYTES_MAX + payload_bytes).next_multiple_of(BLOCK_BYTES)
    }
}

/// The appender's end of one processor's stream.
#[derive(Debug)]
pub struct Inlet {
    lane: LaneConsumer,
    progress: InletProgress,
    /// Events staged so far, in push order.
    staged: u64,
    /// Of them, those in the batch in flight or before.
    sealed: u64,
}

impl Inlet {
    /// An inlet over a lane, and the producer's view of how much of it is written.
    pub fn new(lane: LaneConsumer) -> (Self, InletProgress) {
        let progress = InletProgress::new();
        (Self { lane, progress: progress.clone(), staged: 0, sealed: 0 }, progress)
    }
}

/// What an appender is connected to.
#[derive(Debug)]
pub struct AppenderParts {
    /// Where the log goes on.
    pub position: LogPosition,
    /// Its watermarks.
    pub status: Arc<StoreStatus>,
    /// By tier.
    pub inlets: [Vec<Inlet>; Tier::COUNT],
    /// The node's pool.
    pub pool: Arc<SharedPool>,
    /// This appender's part of the ledger.
    pub ledger: Arc<LedgerCells>,
    /// The node's gate.
    pub gate: Arc<NodeGate>,
    /// Its counters.
    pub counters: Arc<AppenderCounters>,
}

/// The agent. See the module doc.
#[derive(Debug)]
pub struct Appender {
    options: AppenderOptions,
    pool: Arc<SharedPool>,
    releaser: Releaser,
    ledger: Arc<LedgerCells>,
    gate: Arc<NodeGate>,
    status: Arc<StoreStatus>,
    counters: Arc<AppenderCounters>,
    stages: Stages,
    latencies: AppenderLatencies,

    /// All inlets, by tier one after the other.
    inlets: Box<[Inlet]>,
    tiers: [Range<usize>; Tier::COUNT],
    /// By tier: the inlet to look at first.
    turn: [usize; Tier::COUNT],
    batch_first: bool,
    /// Events popped but not yet staged, the oldest last; and their inlet.
    hands: Vec<Event>,
    hands_inlet: usize,

    // The log.
    handover: Arc<Handover>,
    segment_bytes: u64,
    rolls: Rolls,
    producers: StagedProducers,
    key: LogKey,
    epoch: u32,
    /// Of the next batch.
    next_sequence: u64,
    chain: u32,
    /// The latest receipt of all sealed batches.
    latest_receipt: WallNanos,
    /// Of the open batch's file.
    durable_bytes: u64,
    open: OpenBatch,
    /// The other buffer; `None` while it is in flight.
    spare: Option<StagingBuffer>,
    flight: Flight,
    flight_samples: Samples,
    /// How the write in flight becomes durable.
    flight_sync: WriteSync,
    syncs: Syncs,
    allocation: Allocation,
    /// Until the next attempt, should the next write find no space.
    no_space_wait: Nanos,
    generation: u16,
    /// Less is free than there has to be: the gate is closed, what has come in is written.
    is_short_of_space: bool,
    has_failed: bool,
    is_draining: bool,
}

impl Appender {
    /// An appender that goes on at a position.
    ///
    /// # Errors
    /// Whatever mapping the staging buffers says.
    ///
    /// # Panics
    /// If the staging buffers can't take the pool's largest event, or are larger than a batch may be.
    pub fn new(options: AppenderOptions, parts: AppenderParts) -> io::Result<Self> {
        let largest = parts.pool.strides().payload_bytes(SlotClass::Large);
        assert!(options.staging_bytes >= AppenderOptions::staging_bytes_min(largest), "a staging buffer takes any event");
        assert!(options.staging_bytes <= BATCH_BYTES_MAX, "a batch is no larger than readers admit");
        let position = parts.position;
        let so_far = position.so_far;
        let carry_at = so_far.offset - position.tail.len() as u64;
        let open = OpenBatch::new(StagingBuffer::map(options.staging_bytes)?, position.fd, carry_at, &position.tail);
        let (stages, latencies) = Stages::new();
        let mut at = 0;
        let tiers = parts.inlets.each_ref().map(|inlets| {
            at += inlets.len();
            at - inlets.len()..at
        });
        Ok(Self {
            options,
            releaser: Releaser::new(parts.pool.clone()),
            pool: parts.pool,
            ledger: parts.ledger,
            gate: parts.gate,
            status: parts.status,
            counters: parts.counters,
            stages,
            latencies,
            turn: tiers.each_ref().map(|range| range.start),
            tiers,
            inlets: parts.inlets.into_iter().flatten().collect(),
            batch_first: false,
            hands: Vec::with_capacity(POP_BATCH),
            hands_inlet: 0,
            handover: position.handover,
            segment_bytes: position.segment_bytes,
            rolls: Rolls::new(position.fd, so_far),
            producers: StagedProducers::new(position.producers),
            key: LogKey::of(so_far.log_id),
            epoch: position.epoch,
            next_sequence: so_far.end_sequence,
            chain: so_far.chain,
            latest_receipt: so_far.latest_receipt,
            durable_bytes: so_far.offset,
            open,
            spare: Some(StagingBuffer::map(options.staging_bytes)?),
            flight: Flight::None,
            flight_samples: Samples::default(),
            flight_sync: WriteSync::None,
            syncs: Syncs::default(),
            allocation: Allocation::new(options.allocate_bytes, position.allocated_bytes),
            no_space_wait: NO_SPACE_WAIT_MIN,
            generation: 0,
            is_short_of_space: false,
            has_failed: false,
            is_draining: false,
        })
    }

    /// Both staging buffers, to register them with the ring before it is used.
    pub fn staging_buffers(&mut self) -> impl Iterator<Item = &mut StagingBuffer> {
        std::iter::once(self.open.buffer_mut()).chain(self.spare.as_mut())
    }

    /// The readers' side of its latencies.
    pub fn latencies(&self) -> &AppenderLatencies {
        &self.latencies
    }

    /// Takes the next events into the hands: REALTIME while there is any, then TRANSACTIONAL and BATCH in turns. False: there are none.
    fn fill_hands(&mut self) -> bool {
        debug_assert!(self.hands.is_empty());
        let order = if self.batch_first { [0, 2, 1] } else { [0, 1, 2] };
        for tier in order {
            let range = self.tiers[tier].clone();
            let from = self.turn[tier];
            for index in (from..range.end).chain(range.start..from) {
                if self.inlets[index].lane.pop_batch(&mut self.hands, POP_BATCH) == 0 {
                    continue;
                }
                self.hands.reverse(); // The oldest last: taken from the end without moving the others.
                self.hands_inlet = index;
                self.turn[tier] = if index + 1 < range.end { index + 1 } else { range.start };
                if tier != Tier::Realtime.index() {
                    self.batch_first = tier == Tier::Transactional.index();
                }
                return true;
            }
        }
        false
    }

    /// Encodes what is in the hands into the open batch. Returns how many, and whether all did fit.
    fn stage_hands(&mut self, now: Nanos) -> (u32, bool) {
        if self.open.records == 0 {
            self.open.first_staged = now;
        }
        let before = self.hands.len();
        while let Some(event) = self.hands.last() {
            if let Some(ahead) = self.hands.len().checked_sub(1 + PREFETCH_AHEAD) {
                self.pool.prefetch(&self.hands[ahead]);
            }
            let (header, payload) = self.pool.parts(event);
            let record = RecordHeader {
                id: header.id,
                received_at: header.received_wall,
                priority: header.priority,
                tier: header.tier,
                source: header.source,
                topic_bytes: header.topic_len,
                producer: header.producer(),
            };
            let id_place = record.producer.and_then(|stamp| self.producers.place(stamp.producer));
            let record_at = self.open.payload_bytes();
            if !self.open.push(&record, id_place, payload) {
                break;
            }
            let mut event = self.hands.pop().expect("just looked at");
            if let Some(stamp) = record.producer {
                self.producers.staged(stamp, record_at, id_place.is_none());
                let log_sequence = self.next_sequence + u64::from(self.open.records) - 1;
                self.pool.end(&mut event, Outcome::Stored { log_sequence });
            }
            self.releaser.release(event);
        }
        let staged = before - self.hands.len();
        self.inlets[self.hands_inlet].staged += staged as u64;
        self.open.fold_checksum();
        (staged as u32, self.hands.is_empty())
    }

    /// Stages what the inlets have, up to the poll's bound or until both buffers are full.
    fn stage<R: Ring>(&mut self, ctx: &mut Context<'_, R>) -> u32 {
        let mut done = 0;
        while done < self.options.poll_events_max {
            if self.hands.is_empty() && !self.fill_hands() {
                break;
            }
            let sample = self.hands.last().map(|event| self.pool.header(event)).map(|header| (header.tier, header.received_at));
            self.roll_if_full(ctx);
            if !self.write_snapshot(ctx) {
                break;
            }
            let (staged, all) = self.stage_hands(ctx.now);
            if let Some((tier, received_at)) = sample.filter(|_| staged > 0) {
                // One clock read for up to 64 events: its first stands for them.
                self.stages.staged.record(tier, received_at, ctx.ring.now());
                self.open.samples.push(tier, received_at);
            }
            done += staged;
            // Full: written at once, or, with a write in flight, the inlets have to wait.
            if !all && !self.start_write(ctx) {
                break;
            }
        }
        done
    }

    /// After the store has failed: whatever comes is dropped, counted, its slot released.
    fn drop_all(&mut self) -> u32 {
        let mut done = 0;
        while done < self.options.poll_events_max && (!self.hands.is_empty() || self.fill_hands()) {
            for mut event in self.hands.drain(..) {
                let header = self.pool.header(&event);
                self.ledger.cell(header.source, header.tier).lost[DropReason::StoreUnavailable as usize].add(1);
                self.pool.end(&mut event, Outcome::Lost(DropReason::StoreUnavailable));
                self.releaser.release(event);
                done += 1;
            }
        }
        done
    }

    fn count_stored(&self, counts: &Counts) {
        self.for_each_cell(counts, |cell, events| cell.stored.add(events));
    }

    fn count_lost(&self, counts: &Counts) {
        self.for_each_cell(counts, |cell, events| cell.lost[DropReason::StoreUnavailable as usize].add(events));
    }

    fn for_each_cell(&self, counts: &Counts, mut each: impl FnMut(&crate::metrics::ledger::LedgerCell, u64)) {
        for source in Source::ALL {
            for tier in Tier::ALL {
                let events = counts[source.index()][tier.index()];
                if events > 0 {
                    each(self.ledger.cell(source, tier), u64::from(events));
                }
            }
        }
    }

    fn inlet_events(&self) -> u64 {
        self.inlets.iter().map(|inlet| inlet.lane.depth() as u64).sum()
    }

    fn staged_events(&self) -> u64 {
        u64::from(self.open.records) + u64::from(self.flight.records())
    }

    fn publish_gauges(&self) {
        self.counters.staged_events.set(self.staged_events());
        self.counters.written_sequence.set(self.status.written_sequence());
        self.counters.durable_sequence.set(self.status.durable_sequence());
        self.counters.log_bytes.set(self.status.written_bytes());
        self.counters.store_state.set(match self.status.state() {
            StoreState::Running => 0,
            StoreState::NoSpace { .. } => 1,
            StoreState::Failed { .. } => 2,
        });
    }

    fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        let flush = match self.flight {
            // A completion comes before anything may be written.
            Flight::None if self.allocation.is_given_back() => None,
            Flight::None => self.write_due(),
            Flight::Waiting { retry_at, .. } => Some(retry_at),
            _ => None,
        };
        let commit = self.syncs.deadline(&self.options);
        // Nothing else may happen until space is found to be free again.
        let space = self.is_short_of_space.then(|| now + LOOK_EVERY);
        // Draining it allocates no more, and a time that has passed would be asked for again and again.
        let allocate = if self.is_draining { None } else { self.allocation.deadline() };
        [flush, commit, allocate, space].into_iter().flatten().min()
    }
}

impl<R: Ring> Agent<R> for Appender {
    fn name(&self) -> &'static str {
        "appender"
    }

    fn start(&mut self, ctx: &mut Context<'_, R>) {
        self.allocate_if_due(ctx);
    }

    fn complete(&mut self, completion: Completion, ctx: &mut Context<'_, R>) {
        self.complete_operation(completion, ctx);
    }

    fn poll(&mut self, ctx: &mut Context<'_, R>) -> Work {
        if let Some((operation, errno)) = self.handover.failure()
            && !self.has_failed
        {
            self.fail(operation, errno);
        }
        self.look_at_space();
        if self.has_failed {
            let done = self.drop_all();
            self.releaser.flush();
            self.publish_gauges();
            return Work { done, next_deadline: None };
        }
        self.retry_if_due(ctx);
        let done = self.stage(ctx);
        self.write_if_due(ctx);
        self.sync_if_due(ctx);
        self.allocate_if_due(ctx);
        self.ask_for_next_if_due();
        self.releaser.flush();
        if done > 0 {
            self.publish_gauges();
        }
        if self.is_draining {
            self.stages.publish();
        } else {
            self.stages.publish_if_due(ctx.now);
        }
        Work { done, next_deadline: self.next_deadline(ctx.now) }
    }

    fn drain(&mut self, _ctx: &mut Context<'_, R>) {
        // The inlets are part of what it holds: processors that are drained have pushed all they had.
        self.is_draining = true;
        // With nothing to write no poll may follow, and a log that is only short of space can be closed.
        self.look_at_space();
    }

    fn is_drained(&self) -> bool {
        let holds_nothing = self.hands.is_empty() && self.staged_events() == 0 && self.inlet_events() == 0;
        let rests = self.flight.is_none() && self.syncs.rests(self.has_failed) && self.allocation.rests();
        let rests = rests && (self.has_failed || self.rolls.rest());
        self.is_draining && holds_nothing && rests
    }

    fn holding(&self) -> Holding {
        Holding { events: self.hands.len() as u64 + self.inlet_events(), staged: self.staged_events() }
    }
}
