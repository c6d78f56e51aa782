//! The control agent: looks at a node's gauges, judges, and sets the gate.
//!
//! Invariants:
//! - **P1** It holds no event and has no operation: it can neither delay a stop nor leave anything behind.
//! - **P2** Between two looks a poll is one comparison. A look at depths is some ten loads, one at counts some hundred; neither
//!   allocates, locks or waits.
//! - **P3** It asks to be polled every [`LOOK_EVERY`] while there is anything to see, and every [`COUNT_EVERY`] when nothing waits and nothing comes: an idle
//!   runner sleeps, and the first look after a silence is at most that late.
//! - **P4** From its drain on the level stays as it is and nobody is told to wait (G3 in [`super::gate`]).

use std::sync::Arc;

use super::gate::NodeGate;
use super::judge::{Standing, Thresholds};
use super::signals::{COUNT_EVERY, Counts, Depth, LOOK_EVERY, Tracker};
use super::status::ControlStatus;
use crate::agent::{Agent, Context, Holding, Work};
use crate::bus::TierGauge;
use crate::ingest::IngestCounters;
use crate::metrics::latency::LatencyShared;
use crate::metrics::ledger::{DropReason, Ledger, LedgerCells};
use crate::pool::Source;
use crate::sys::clock::{Nanos, WallNanos};
use crate::sys::io::{Completion, Ring};
use crate::wire::Tier;

/// What the agent reads and writes.
#[derive(Debug)]
pub struct ControlWiring {
    /// By tier: over all lanes of the node.
    pub tiers: [TierGauge; Tier::COUNT],
    /// The ledgers of all producers of the node; those of others add nothing.
    pub ledgers: Vec<Arc<LedgerCells>>,
    /// By reactor of the node: what the kernel dropped.
    pub ingest: Vec<Arc<IngestCounters>>,
    /// REALTIME's latency.
    pub realtime: Arc<LatencyShared>,
    /// The node's gate.
    pub gate: Arc<NodeGate>,
    /// Where it tells of itself.
    pub status: Arc<ControlStatus>,
}

/// The agent.
#[derive(Debug)]
pub struct Control {
    thresholds: Thresholds,
    wiring: ControlWiring,
    tracker: Tracker,
    standing: Standing,
    look_at: Nanos,
    count_at: Nanos,
    draining: bool,
}

impl Control {
    /// Over its wiring; HEALTHY until told otherwise.
    pub fn new(thresholds: Thresholds, wiring: ControlWiring) -> Self {
        Self {
            thresholds,
            wiring,
            tracker: Tracker::new(Nanos(0), thresholds.min_events_for_evaluation),
            standing: Standing::default(),
            look_at: Nanos(0),
            count_at: Nanos(0),
            draining: false,
        }
    }

    fn depths(&self) -> [Depth; Tier::COUNT] {
        Tier::ALL.map(|tier| {
            let gauge = &self.wiring.tiers[tier.index()];
            Depth { waiting: gauge.depth() as u64, published: gauge.published(), taken: gauge.taken() }
        })
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts { realtime: self.wiring.realtime.recent(), ..Counts::default() };
        let kernel_drops: u64 = self.wiring.ingest.iter().map(|counters| counters.kernel_drops_total()).sum();
        counts.offered[Source::Udp.index()] = kernel_drops;
        counts.dropped[Source::Udp.index()] = kernel_drops;
        // Outcomes before receipts (L3): nothing is lost here that was not received.
        let ledger = Ledger::read(self.wiring.ledgers.iter().map(|cells| &**cells));
        for source in Source::ALL {
            for tier in Tier::ALL {
                let terms = &ledger.terms[source.index()][tier.index()];
                let lost = |reason: DropReason| terms.lost[reason as usize];
                // What a source may not send at all is no load, and its loss no want of room.
                let came = terms.received - lost(DropReason::SourceRate);
                counts.received[tier.index()] += came;
                counts.offered[source.index()] += came;
                counts.dropped[source.index()] += lost(DropReason::QueueFull) + lost(DropReason::PoolExhausted);
            }
        }
        counts
    }

    /// Looks, judges, acts. Whether the level has changed.
    fn look(&mut self, now: Nanos, wall: WallNanos) -> bool {
        self.tracker.look_at_depths(self.depths(), now);
        let mut is_still = self.tracker.is_still();
        if now >= self.count_at {
            is_still &= !self.tracker.look_at_counts(&self.counts(), now);
            self.count_at = now + COUNT_EVERY;
        } else {
            // What was counted since the last time is not known yet.
            is_still = false;
        }
        self.look_at = now + if is_still { COUNT_EVERY } else { LOOK_EVERY };
        let signals = self.tracker.signals(now);
        self.wiring.status.see(&signals);
        let (standing, transition) = self.standing.judge(&self.thresholds, &signals, now);
        self.standing = standing;
        if let Some(transition) = &transition {
            self.wiring.gate.set_level(transition.to);
            self.wiring.status.change(transition, wall);
        }
        transition.is_some()
    }
}

impl<R: Ring> Agent<R> for Control {
    fn name(&self) -> &'static str {
        "control"
    }

    fn start(&mut self, ctx: &mut Context<'_, R>) {
        self.tracker = Tracker::new(ctx.now, self.thresholds.min_events_for_evaluation);
        (self.look_at, self.count_at) = (ctx.now + LOOK_EVERY, ctx.now + COUNT_EVERY);
    }

    fn complete(&mut self, completion: Completion, _: &mut Context<'_, R>) {
        unreachable!("the control agent has no operations: {completion:?}");
    }

    fn poll(&mut self, ctx: &mut Context<'_, R>) -> Work {
        if self.draining {
            return Work::IDLE;
        }
        let has_changed = ctx.now >= self.look_at && self.look(ctx.now, ctx.wall);
        Work { done: u32::from(has_changed), next_deadline: Some(self.look_at) }
    }

    fn drain(&mut self, _: &mut Context<'_, R>) {
        self.draining = true;
        self.wiring.gate.end_pauses();
    }

    fn is_drained(&self) -> bool {
        self.draining
    }

    fn holding(&self) -> Holding {
        Holding::default()
    }
}
