//! First stage of the dead letters: from the queue to lines of JSON, slots released.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use super::line::{Letter, SampleKind, write_line};
use super::{LettersShared, Queued};
use crate::metrics::ledger::DropReason;
use crate::pool::{Event, EventHeader, Releaser, SharedPool};
use crate::sys::clock::{Nanos, WallNanos};

/// Which letters of a second are encoded: all up to the full rate, then one in a hundred.
#[derive(Debug)]
struct Sampler {
    full_rate_per_second: u64,
    window_began: Nanos,
    seen: u64,
}

/// Beyond the full rate one letter of this many is still written, to show what is being lost.
const SAMPLE_ONE_IN: u64 = 100;

impl Sampler {
    fn takes(&mut self, now: Nanos) -> bool {
        if now.since(self.window_began) >= Nanos::from_millis(1000) {
            (self.window_began, self.seen) = (now, 0);
        }
        self.seen += 1;
        self.seen <= self.full_rate_per_second || (self.seen - self.full_rate_per_second).is_multiple_of(SAMPLE_ONE_IN)
    }
}

/// What happened to one letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collected {
    /// A line was put behind the others.
    Encoded,
    /// Only counted: there are too many.
    SampledOut,
    /// Its line did not fit.
    Lost,
}

/// Takes letters off the queue. One per queue; on the helper thread, or polled by the simulator.
#[derive(Debug)]
pub struct Collector {
    queue: Arc<ArrayQueue<Queued>>,
    shared: Arc<LettersShared>,
    pools: Vec<(Arc<SharedPool>, Releaser)>,
    sampler: Sampler,
    body: String,
    line: Vec<u8>,
}

impl Collector {
    pub(super) fn new(
        queue: Arc<ArrayQueue<Queued>>,
        shared: Arc<LettersShared>,
        pools: Vec<Arc<SharedPool>>,
        full_rate_per_second: u64,
    ) -> Self {
        let pools = pools.into_iter().map(|pool| (pool.clone(), Releaser::new(pool))).collect();
        let sampler = Sampler { full_rate_per_second, window_began: Nanos(0), seen: 0 };
        Self { queue, shared, pools, sampler, body: String::new(), line: Vec::new() }
    }

    /// Takes the oldest letter off the queue, offers its line to `sink` (which says whether it had room), and sends the slot home.
    /// `None`: the queue is empty. Counts what is sampled out or lost; what was accepted the sink's owner counts when it is written.
    pub fn collect(&mut self, now: Nanos, wall: WallNanos, sink: &mut dyn FnMut(&[u8]) -> bool) -> Option<Collected> {
        let queued = self.queue.pop()?;
        let is_sample = queued.is_sample();
        // Samples are few already.
        let is_wanted = is_sample || self.sampler.takes(now);
        self.line.clear();
        match queued {
            Queued::Letter { event, reason, note, node } => {
                if is_wanted {
                    self.encode_event(&event, node, (reason, None), note.as_str(), wall);
                }
                self.release(event, node);
            }
            Queued::Sample { event, reason, node } => {
                self.encode_event(&event, node, (reason, Some(SampleKind::Whole)), "", wall);
                self.release(event, node);
            }
            Queued::TopicSample { header, topic, reason } => {
                self.encode(&header, (reason, Some(SampleKind::Topic)), (topic.as_str(), &[], ""), wall);
            }
        }
        Some(if !is_wanted {
            self.shared.counters.sampled_out.add(1);
            Collected::SampledOut
        } else if sink(&self.line) {
            Collected::Encoded
        } else {
            self.shared.counters.count_no_room(is_sample);
            Collected::Lost
        })
    }

    /// At once: letters are rare, and a slot must never wait here for the disk.
    fn release(&mut self, event: Event, node: u32) {
        let (_, releaser) = &mut self.pools[node as usize];
        releaser.release(event);
        releaser.flush();
    }

    fn encode_event(&mut self, event: &Event, node: u32, why: (DropReason, Option<SampleKind>), note: &str, wall: WallNanos) {
        let pool = self.pools[node as usize].0.clone();
        let view = pool.view(event);
        self.encode(view.header, why, (view.topic, view.body, note), wall);
    }

    fn encode(
        &mut self,
        header: &EventHeader,
        (reason, sample): (DropReason, Option<SampleKind>),
        (topic, body, note): (&str, &[u8], &str),
        time: WallNanos,
    ) {
        let EventHeader { id, key, tier, priority, source, received_wall: received, .. } = *header;
        let letter = Letter { time, reason, sample, tier, priority, source, id, key, received, topic, body, note };
        write_line(&letter, &mut self.body, &mut self.line);
    }
}
