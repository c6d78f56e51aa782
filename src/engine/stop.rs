//! The stop: stage by stage along the flow, bounded in time, and the account at the end.

use std::time::Duration;

use super::{Engine, RunnerThread};
use crate::agent::{Agent, Holding};
use crate::ingest::Producer;
use crate::report::{DeadLetterSplit, DrainCause, DrainSummary};
use crate::runner::{AnyAgent, Stage};
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::sys::uring::Uring;

/// How often the stop looks at what the runners report.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long the others get for each stage once a runner is gone, whose agents will never report.
const GRACE_WITHOUT_A_RUNNER: Nanos = Nanos::from_millis(250);

/// Stops an engine. See E2-E4.
pub(super) fn drain(engine: &mut Engine, cause: DrainCause) -> DrainSummary {
    let began = HostClock.now();
    let deadline = began + engine.drain_timeout;
    let nodes = engine.nodes.len() as u32;
    let reactors: u32 = engine.nodes.iter().map(|node| node.view.reactors).sum();
    let appenders = engine.nodes.iter().filter(|node| node.log.is_some()).count() as u32;
    let mut in_time = true;
    // E2: what publishers have sent is in the lanes now, and nothing follows.
    let mut producers = engine.close_publishers();
    for (stage, agents) in [(Stage::Reactors, reactors + nodes), (Stage::Processors, 3 * nodes), (Stage::Appender, appenders)] {
        engine.advance(stage);
        in_time &= engine.wait_drained(stage, agents, deadline);
    }
    engine.advance(Stage::Done);

    let mut holding = Holding::default();
    let mut left = Vec::new();
    let mut at_rest = true;
    for (name, thread) in std::mem::take(&mut engine.runners) {
        match join(&name, thread) {
            Some(agents) => left.extend(agents),
            None => at_rest = false,
        }
    }
    for agent in &left {
        let part = Agent::<Uring>::holding(agent);
        holding.events += part.events;
        holding.staged += part.staged;
    }
    engine.sockets.clear();
    let dead_letters = engine.dead_letters.take().expect("an engine stops once");
    let letters = dead_letters.counters().clone();
    dead_letters.stop();
    let slots_missing = left.iter_mut().map(AnyAgent::slots_missing).sum::<u64>()
        + producers.iter_mut().map(Producer::slots_missing).sum::<u64>();
    // Ends the handlers' helpers: windows and alerts are written.
    drop(left);
    let mut nodes = std::mem::take(&mut engine.nodes);
    for node in &mut nodes {
        node.view.level_watch.look(&mut |level, line| log::log!(level, "{line}"));
        let Some(log) = node.log.as_mut() else { continue };
        // What has changed since the last look of `Engine::watch` is told too: space may have come back a moment before the end.
        node.store_watch.look(log.status().state(), &mut |level, line| log::log!(level, "{line}"));
        match log.finish(HostClock.wall()) {
            Ok(true) => {}
            Ok(false) => log::warn!("a log was not closed in good order; the next start recovers it"),
            Err(error) => log::error!("a log could not be closed: {error}; the next start recovers it"),
        }
    }
    let snapshot = engine.telemetry.read(HostClock.now());
    if let Some(admin) = engine.admin.take() {
        admin.stop();
    }
    let took = Duration::from_nanos(HostClock.now().since(began).0);
    let mut summary = DrainSummary::of(&snapshot, cause, took);
    summary.deadline_missed = !in_time;
    summary.in_flight = holding.events + holding.staged;
    summary.dead_letters =
        DeadLetterSplit { written: letters.written.get(), sampled_out: letters.sampled_out.get(), lost: letters.lost() };
    summary.kernel_drops.iter_mut().for_each(|drops| drops.exact = engine.udp_drops_are_exact);
    if at_rest {
        summary.slots_missing = slots_missing;
    } else {
        // E3: the kernel may still write there.
        nodes.into_iter().for_each(|node| std::mem::forget(node.pool));
    }
    summary
}

/// The agents of a runner that has left; `None` if it ended in another way.
fn join(name: &str, thread: RunnerThread) -> Option<Vec<AnyAgent>> {
    match thread.join() {
        Ok(Ok(seats)) => Some(seats.into_agents()),
        Ok(Err(end)) => {
            log::error!("runner {name}: {end}");
            None
        }
        Err(_) => {
            log::error!("runner {name} has panicked; what it held is lost");
            None
        }
    }
}

impl Engine {
    fn advance(&self, stage: Stage) {
        self.control.advance(stage);
        self.nodes.iter().flat_map(|node| &node.view.wakers).for_each(|waker| waker.notify());
    }

    /// Waits until all agents of a stage are drained; false when the time is up. With a runner gone that is soon, but not at once: the
    /// others still hold events that can be stored.
    fn wait_drained(&self, stage: Stage, agents: u32, mut deadline: Nanos) -> bool {
        let mut is_whole = true;
        while self.control.drained(stage) < agents {
            let now = HostClock.now();
            if is_whole && self.runners.iter().any(|(_, thread)| thread.is_finished()) {
                is_whole = false;
                deadline = deadline.min(now + GRACE_WITHOUT_A_RUNNER);
            }
            if now >= deadline {
                return false;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        true
    }
}
