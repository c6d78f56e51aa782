//! The ceiling pipeline: what an engine can't be faster than on one core. Receive 64 KiB, find the frames, hand each over a queue and take
//! it out again, copy it into a batch; one checksum and one write a batch. No tiers, no dedup, no account, no second thread.

use std::collections::VecDeque;

use super::append::{Appender, Ground, Target, staging};
use super::stream::{Arrival, BareSender, Chunk, Cutter, FrameShape, Intake, connect};
use super::{CeilingError, Layout, spsc};
use crate::pool::SharedPool;
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::sys::features::Features;
use crate::sys::memory::StagingBuffer;
use crate::sys::uring::Wait;

/// As the REALTIME lane's default; more than the smallest frames of a chunk.
const LANE_EVENTS: usize = 16_384;
/// What a first moment shows is connections filling.
const WARM_UP: Nanos = Nanos::from_millis(50);

/// How many senders' bytes, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inflow {
    /// The frames.
    pub shape: FrameShape,
    /// TCP connections over loopback, at least one.
    pub connections: usize,
    /// How long frames are counted (a duration).
    pub at_most: Nanos,
}

/// How long to wait for the first frame at all: senders can be kept from their core for a while.
const PATIENCE: Nanos = Nanos::from_millis(10_000);

/// Counts frames from a moment on.
#[derive(Debug)]
struct Meter {
    began: Option<Nanos>,
    opened: Nanos,
    frames: u64,
    at_most: Nanos,
}

impl Meter {
    fn new(at_most: Nanos) -> Self {
        Self { began: None, opened: HostClock.now(), frames: 0, at_most }
    }

    /// Whether it is time to stop.
    fn is_over(&mut self, now: Nanos) -> bool {
        match self.began {
            Some(began) => now.since(began) >= if self.frames > 0 { self.at_most } else { PATIENCE },
            None => {
                if now.since(self.opened) >= WARM_UP {
                    (self.began, self.frames) = (Some(now), 0);
                }
                false
            }
        }
    }

    fn per_second(&self, now: Nanos) -> f64 {
        let took = now.since(self.began.unwrap_or(self.opened));
        self.frames as f64 * 1e9 / took.0.max(1) as f64
    }
}

/// Receives and parses, events per second. The calling thread is on the engine's core.
pub(super) fn receive(features: &Features, layout: Layout, inflow: &Inflow) -> Result<f64, CeilingError> {
    let (ours, theirs) = connect(inflow.connections)?;
    let mut intake = Intake::open(features, theirs, &mut [])?;
    let memory = intake.memory();
    let mut cutters: Vec<Cutter> = ours.iter().map(|_| Cutter::default()).collect();
    let sender = BareSender::start(ours, inflow.shape.block(), layout.sender_cpu)?;
    let mut meter = Meter::new(inflow.at_most);
    let mut run = || {
        loop {
            intake.turn(Wait::Poll)?;
            while let Some(arrival) = intake.next()? {
                let Arrival::Bytes(chunk) = arrival else { continue };
                let (mut carried, mut whole) = (0, 0);
                cutters[chunk.connection].feed(chunk.bytes(&memory), |_| carried = 1, |_, _| whole += 1);
                meter.frames += carried + whole;
                intake.give_back(chunk);
            }
            let now = HostClock.now();
            if meter.is_over(now) {
                return Ok(meter.per_second(now));
            }
        }
    };
    let outcome = run();
    intake.shut();
    sender.finish();
    outcome
}

/// Everything, events per second; `None` where the file system can't do it. The calling thread is on the engine's core.
pub(super) fn whole(
    features: &Features,
    layout: Layout,
    inflow: &Inflow,
    target: &mut Target,
    ground: Ground,
) -> Result<f64, CeilingError> {
    let (ours, theirs) = connect(inflow.connections)?;
    let mut buffers = staging(ground)?;
    let intake = Intake::open(features, theirs, &mut buffers)?;
    let cutters = ours.iter().map(|_| Cutter::default()).collect();
    let sender = BareSender::start(ours, inflow.shape.block(), layout.sender_cpu)?;
    let mut pipeline = Pipeline::new(intake, cutters, target, buffers, inflow.at_most);
    let outcome = pipeline.run();
    pipeline.intake.shut();
    sender.finish();
    // Before the streams go, what is still on its way to the disk ends.
    pipeline.settle()?;
    outcome
}

struct Pipeline<'a> {
    intake: Intake,
    memory: std::sync::Arc<SharedPool>,
    cutters: Vec<Cutter>,
    appender: Appender<'a>,
    buffers: usize,
    waiting: VecDeque<Chunk>,
    into: spsc::Sender,
    from: spsc::Receiver,
    meter: Meter,
}

impl<'a> Pipeline<'a> {
    fn new(intake: Intake, cutters: Vec<Cutter>, target: &'a mut Target, buffers: Vec<StagingBuffer>, at_most: Nanos) -> Self {
        let (into, from) = spsc::queue(LANE_EVENTS);
        let memory = intake.memory();
        let (count, waiting) = (buffers.len(), VecDeque::with_capacity(64));
        let appender = Appender::new(target, buffers);
        Self { intake, memory, cutters, appender, buffers: count, waiting, into, from, meter: Meter::new(at_most) }
    }

    fn run(&mut self) -> Result<f64, CeilingError> {
        loop {
            self.turn(Wait::Poll)?;
            while self.appender.has_room()
                && let Some(chunk) = self.waiting.pop_front()
            {
                self.take(&chunk)?;
                self.intake.give_back(chunk);
            }
            let now = HostClock.now();
            if self.meter.is_over(now) || self.appender.is_full() {
                return Ok(self.meter.per_second(now));
            }
        }
    }

    fn turn(&mut self, wait: Wait) -> Result<(), CeilingError> {
        self.intake.turn(wait)?;
        while let Some(arrival) = self.intake.next()? {
            match arrival {
                Arrival::Written(token) => self.appender.written(self.intake.ring(), token),
                Arrival::Bytes(chunk) => self.waiting.push_back(chunk),
                Arrival::Synced => {}
            }
        }
        Ok(())
    }

    /// One chunk through the queue into the batch.
    fn take(&mut self, chunk: &Chunk) -> Result<(), CeilingError> {
        let bytes = chunk.bytes(&self.memory);
        let (ring, appender, into) = (self.intake.ring(), &mut self.appender, &mut self.into);
        let mut carried = Ok(());
        let mut frames = 0;
        let carry = |frame: &[u8]| {
            frames += 1;
            carried = appender.append(ring, frame);
        };
        let mut pushed = 0;
        self.cutters[chunk.connection].feed(bytes, carry, |at, len| {
            let is_in = into.push((at as u64) << 32 | len as u64);
            debug_assert!(is_in, "the queue holds more than a chunk has frames");
            pushed += 1;
        });
        carried?;
        into.publish();
        while let Some(place) = self.from.pop() {
            let (at, len) = ((place >> 32) as usize, place as u32 as usize);
            self.appender.append(self.intake.ring(), &bytes[at..at + len])?;
        }
        self.from.publish();
        self.meter.frames += frames + pushed;
        Ok(())
    }

    /// Waits for the writes in flight.
    fn settle(&mut self) -> Result<(), CeilingError> {
        while self.appender.writes_in_flight(self.buffers) > 0 {
            self.turn(Wait::Until(Some(HostClock.now() + Nanos::from_millis(100))))?;
            while let Some(chunk) = self.waiting.pop_front() {
                self.intake.give_back(chunk);
            }
        }
        Ok(())
    }
}
