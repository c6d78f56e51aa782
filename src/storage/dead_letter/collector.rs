//! First stage of the dead letters: from the queue to lines of JSON, slots released.

use std::sync::Arc;

use base64::Engine as _;
use crossbeam_queue::ArrayQueue;
use serde::Serialize;

use super::{Letter, LettersShared};
use crate::pool::{Releaser, SharedPool};
use crate::storage::rfc3339::Rfc3339;
use crate::sys::clock::{Nanos, WallNanos};

/// One line. Fields in the order in which people read them.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    reason: &'static str,
    tier: &'static str,
    priority: &'static str,
    source: &'static str,
    id: u64,
    received: String,
    topic: &'a str,
    body: &'a str,
    note: &'a str,
}

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
    queue: Arc<ArrayQueue<Letter>>,
    shared: Arc<LettersShared>,
    pools: Vec<(Arc<SharedPool>, Releaser)>,
    sampler: Sampler,
    body: String,
    line: Vec<u8>,
}

impl Collector {
    pub(super) fn new(
        queue: Arc<ArrayQueue<Letter>>,
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
        let letter = self.queue.pop()?;
        let is_wanted = self.sampler.takes(now);
        if is_wanted {
            self.encode(&letter, wall);
        }
        let (_, releaser) = &mut self.pools[letter.node as usize];
        releaser.release(letter.event);
        // At once: letters are rare, and a slot must never wait here for the disk.
        releaser.flush();
        Some(if !is_wanted {
            self.shared.counters.sampled_out.add(1);
            Collected::SampledOut
        } else if sink(&self.line) {
            Collected::Encoded
        } else {
            self.shared.counters.lost_buffer_full.add(1);
            Collected::Lost
        })
    }

    fn encode(&mut self, letter: &Letter, wall: WallNanos) {
        let (pool, _) = &self.pools[letter.node as usize];
        let event = pool.view(&letter.event);
        self.body.clear();
        base64::engine::general_purpose::STANDARD.encode_string(event.body, &mut self.body);
        let line = Line {
            time: Rfc3339(wall).to_string(),
            reason: letter.reason.name(),
            tier: event.header.tier.name(),
            priority: event.header.priority.name(),
            source: event.header.source.name(),
            id: event.header.id,
            received: Rfc3339(event.header.received_wall).to_string(),
            topic: event.topic,
            body: &self.body,
            note: letter.note.as_str(),
        };
        self.line.clear();
        serde_json::to_writer(&mut self.line, &line).expect("strings and numbers always serialize");
        self.line.push(b'\n');
    }
}
