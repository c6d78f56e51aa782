//! From gauges and counts to signals.
//!
//! ```text
//! every 10 ms    depth, taken, by tier        ──► standing depth (least of the last 100 ms), service rate
//! every 100 ms   ledger, kernel drops, p99    ──► drop rate over 10 s, offered rate over 1 s, recent p99
//! ```
//!
//! Invariants:
//! - **S1** No level feeds itself: what levels shed is offered as before and no loss, never in a lane and so in no depth, and never handled and so
//!   in no latency. It stays in what was offered, so that the losses of the moments before weigh no more once a level sheds: left out,
//!   entering CRITICAL was seen to raise 6.4 % to 10 % and so to lead to EMERGENCY by itself. And the drop rate is that of the worst source: a
//!   flood over TCP that is shed must not make what datagrams lose look small.
//! - **S2** Nothing is allocated after [`Tracker::new`].
//! - **S3** A service rate is believed for [`SERVICE_MEMORY`]; after that a level that sheds may try the one below it. So a rate that was
//!   measured while the disk stood still can hold a level no longer than that.
//! - **S4** A tier calls for a higher level only while events are let into it and it does not drain. The standing depth is an echo of 100 ms
//!   ago: without this rule it went on rising after DEGRADED had shut TRANSACTIONAL, and a backlog that was draining already, or one
//!   behind a handler that hangs, led to EMERGENCY, which costs REALTIME its events and helps the backlog nothing. Likewise a drop rate calls
//!   for one only while something is lost: the last of a flood in the window has a rate of its own.

use super::judge::{Signals, TierLoad};
use crate::metrics::latency::RecentLatency;
use crate::pool::Source;
use crate::sys::clock::Nanos;
use crate::wire::Tier;

/// How often depths are looked at while there is anything to see.
pub const LOOK_EVERY: Nanos = Nanos::from_millis(10);
/// How often counts are looked at; also how often anything is while all is still.
pub const COUNT_EVERY: Nanos = Nanos::from_millis(100);
/// A service rate is believed for so long.
pub const SERVICE_MEMORY: Nanos = Nanos::from_millis(60_000);

/// Looks whose least depth is the standing one: 100 ms of them.
const DEPTH_LOOKS: usize = 10;
/// Looks at counts that the drop rate goes back: 10 s.
const RATE_LOOKS: usize = 100;
/// Looks at counts that the offered rate goes back: 1 s.
const OFFERED_LOOKS: usize = 10;
/// A tier that had events waiting for so long is measured.
const BUSY_WINDOW: Nanos = Nanos::from_millis(100);
/// A p99 that nobody renewed for so long says nothing any more.
const P99_MEMORY: Nanos = Nanos::from_millis(1_500);
/// The p99 of fewer events is just the worst of them.
const P99_EVENTS_MIN: u64 = 100;

const _: () = assert!(OFFERED_LOOKS <= RATE_LOOKS);

/// A tier's lanes at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Events waiting.
    pub waiting: u64,
    /// Events ever put into them.
    pub published: u64,
    /// Events ever taken from them by the processor.
    pub taken: u64,
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By tier: frames accepted as events, what levels shed included.
    pub received: [u64; Tier::COUNT],
    /// By source: what came, shed or not, and of datagrams also what the kernel dropped before us.
    pub offered: [u64; Source::COUNT],
    /// By source: of these, lost for want of room: overflow, no slot, dropped by the kernel.
    pub dropped: [u64; Source::COUNT],
    /// REALTIME's latencies as last handed over.
    pub realtime: RecentLatency,
}

/// What a look at counts leaves behind.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    at: Nanos,
    received: [u64; Tier::COUNT],
    offered: [u64; Source::COUNT],
    dropped: [u64; Source::COUNT],
}

/// The rate at which a tier is served while events wait.
#[derive(Clone, Copy, Debug, Default)]
struct Service {
    /// Since when events are waiting, and what had been taken then.
    busy: Option<(Nanos, u64)>,
    /// Per second, and when that was found.
    rate: Option<(u64, Nanos)>,
}

impl Service {
    fn look(&mut self, depth: Depth, now: Nanos) {
        if let Some((since, taken_before)) = self.busy {
            let (took, has_ended) = (now.since(since), depth.waiting == 0);
            if has_ended || took >= BUSY_WINDOW {
                // Saturating: an eviction may be seen before it is counted.
                let done = u128::from(depth.taken.saturating_sub(taken_before));
                let rate = (done * 1_000_000_000 / u128::from(took.0.max(1))) as u64;
                self.note(rate, has_ended, now);
                self.busy = None;
            }
        }
        if self.busy.is_none() && depth.waiting > 0 {
            self.busy = Some((now, depth.taken));
        }
    }

    /// A window that was busy to its end is the rate; one in which the queue ran empty is a lower bound of it.
    fn note(&mut self, rate: u64, is_lower_bound: bool, now: Nanos) {
        match self.get(now) {
            // Up at once, down by a quarter of the way: a processor that stood still for a moment is not a slow one.
            Some(known) if rate < known => {
                if !is_lower_bound {
                    self.rate = Some(((3 * known + rate) / 4, now));
                }
            }
            _ => self.rate = Some((rate, now)),
        }
    }

    fn get(&self, now: Nanos) -> Option<u64> {
        self.rate.filter(|(_, at)| now.since(*at) < SERVICE_MEMORY).map(|(rate, _)| rate)
    }
}

/// Counts that never fall.
fn risen<const COUNT: usize>(before: [u64; COUNT], now: [u64; COUNT]) -> [u64; COUNT] {
    std::array::from_fn(|place| before[place].max(now[place]))
}

/// Remembers what it needs of earlier looks.
#[derive(Debug)]
pub struct Tracker {
    min_events: u64,
    depths: [[u64; DEPTH_LOOKS]; Tier::COUNT],
    last: [Depth; Tier::COUNT],
    /// By tier: whether events are let in and it does not drain (S4).
    presses: [bool; Tier::COUNT],
    looks: usize,
    services: [Service; Tier::COUNT],
    marks: Box<[Mark; RATE_LOOKS]>,
    marked: usize,
    newest: Mark,
    hand_overs: u64,
    p99: Option<(Nanos, Nanos)>,
}

impl Tracker {
    /// Begins with nothing waiting and nothing counted, at `now`. A source's drop rate is looked at from `min_events` offered on.
    pub fn new(now: Nanos, min_events: u64) -> Self {
        let mark = Mark { at: now, ..Mark::default() };
        Self {
            min_events,
            depths: [[0; DEPTH_LOOKS]; Tier::COUNT],
            last: [Depth::default(); Tier::COUNT],
            presses: [false; Tier::COUNT],
            looks: 0,
            services: [Service::default(); Tier::COUNT],
            marks: Box::new([mark; RATE_LOOKS]),
            marked: 0,
            newest: mark,
            hand_overs: 0,
            p99: None,
        }
    }

    /// Takes in how deep the tiers are. Calls are at least [`LOOK_EVERY`] apart, so that the least of ten is that of 100 ms.
    pub fn look_at_depths(&mut self, depths: [Depth; Tier::COUNT], now: Nanos) {
        let place = self.looks % DEPTH_LOOKS;
        self.looks += 1;
        for (tier, depth) in depths.into_iter().enumerate() {
            let before = std::mem::replace(&mut self.last[tier], depth);
            self.depths[tier][place] = depth.waiting;
            self.presses[tier] = depth.published > before.published && depth.waiting >= before.waiting;
            self.services[tier].look(depth, now);
        }
    }

    /// Takes in what was counted; calls are at least [`COUNT_EVERY`] apart. Whether anything had been counted since the last time.
    pub fn look_at_counts(&mut self, counts: &Counts, now: Nanos) -> bool {
        let mark = Mark {
            at: now,
            // A count may be seen before what is taken off it.
            received: risen(self.newest.received, counts.received),
            offered: risen(self.newest.offered, counts.offered),
            dropped: counts.dropped,
        };
        let is_new = (mark.received, mark.dropped) != (self.newest.received, self.newest.dropped);
        self.marks[self.marked % RATE_LOOKS] = self.newest;
        self.marked += 1;
        self.newest = mark;
        if counts.realtime.hand_overs != self.hand_overs {
            self.hand_overs = counts.realtime.hand_overs;
            self.p99 = (counts.realtime.events >= P99_EVENTS_MIN).then_some((counts.realtime.p99, now));
        }
        is_new
    }

    /// The mark so many looks before the newest one, or the oldest there is.
    fn mark_before(&self, looks: usize) -> Mark {
        if self.marked == 0 {
            return self.newest;
        }
        self.marks[(self.marked - looks.min(self.marked)) % RATE_LOOKS]
    }

    /// What all looks so far come to.
    pub fn signals(&self, now: Nanos) -> Signals {
        let (window, second) = (self.mark_before(RATE_LOOKS), self.mark_before(OFFERED_LOOKS));
        let offered_per_second = |tier: Tier| {
            let events = u128::from(self.newest.received[tier.index()] - second.received[tier.index()]);
            (events * 1_000_000_000 / u128::from(self.newest.at.since(second.at).0.max(1))) as u64
        };
        let (offered, dropped) = self.worst_source(&window);
        let standing = self.depths.map(|looks| looks.into_iter().min().unwrap_or(0));
        let pressing = standing.into_iter().zip(self.presses).filter(|(_, presses)| *presses).map(|(depth, _)| depth);
        Signals {
            standing_depth: standing.into_iter().max().unwrap_or(0),
            pressing_depth: pressing.max().unwrap_or(0),
            offered,
            dropped,
            is_dropping: self.newest.dropped != second.dropped,
            realtime_p99: self.p99.filter(|(_, at)| now.since(*at) < P99_MEMORY).map(|(p99, _)| p99),
            loads: Tier::ALL.map(|tier| TierLoad {
                offered_per_second: offered_per_second(tier),
                served_per_second: self.services[tier.index()].get(now),
            }),
        }
    }

    /// Offered and dropped since a mark, of the source with the highest drop rate among those with enough events to judge; of all
    /// together where none has enough.
    fn worst_source(&self, since: &Mark) -> (u64, u64) {
        let of = |source: usize| {
            (self.newest.offered[source] - since.offered[source], self.newest.dropped[source] - since.dropped[source])
        };
        let sources = (0..Source::COUNT).map(of);
        let judged = sources.clone().filter(|(offered, _)| *offered >= self.min_events.max(1));
        let rate = |(offered, dropped): &(u64, u64)| u128::from(*dropped) * 100_000 / u128::from(*offered);
        judged.max_by_key(rate).unwrap_or_else(|| sources.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1)))
    }

    /// Whether nothing waits now.
    pub fn is_still(&self) -> bool {
        self.last.iter().all(|depth| depth.waiting == 0)
    }
}

#[cfg(test)]
#[path = "signals_tests.rs"]
mod tests;
