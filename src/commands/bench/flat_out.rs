//! Closed loop, flat out: how many events a second get from sockets into the log, beside the ceiling pipeline of the same frames.

use std::time::{Duration, Instant};

use super::child::EngineChild;
use super::run::{Bench, RunCommand, point};
use super::{CommandError, connections, failed, on_sender_core};
use crate::bench::ceiling::{FrameShape, Inflow, names};
use crate::bench::document::Point;
use crate::bench::figure::{Better, Figures};
use crate::bench::shares;
use crate::bench::threads::ThreadTimes;
use crate::commands::send::{self, BodySizes, Plan, SendCommand, SendSummary};
use crate::metrics::status::{StatusDocument, Terms};
use crate::sys::clock::Nanos;
use crate::wire::Tier;

/// How long the ceiling pipeline runs in each repeat, at most.
const CEILING_FOR: Nanos = Nanos::from_millis(1_000);
/// How long events may take to be stored, or latencies to be handed over, after the last one was read.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two questions.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// About how many bytes of frames a run sends unless it is told a number of events.
const BYTES_BY_DEFAULT: u64 = 800_000_000;
/// A run too short says nothing, one too long fills the disk.
const EVENTS_BY_DEFAULT: (u64, u64) = (20_000, 10_000_000);

/// What is sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Mix, bodies, topics and connections.
    pub(super) send: SendCommand,
    /// Flags of serve.
    pub(super) flags: Vec<String>,
    /// Connections beside those that send, which say nothing.
    pub(super) silent_connections: usize,
}

/// What a repeat gave, beside what it noted.
pub(super) struct Outcome {
    /// Events a second, stored.
    pub(super) per_second: f64,
    /// CPU of the engine for each of them, nanoseconds.
    pub(super) cpu_ns: f64,
    /// What the sender says.
    pub(super) sent: SendSummary,
}

impl Load {
    /// The plan for an engine's port.
    ///
    /// # Errors
    /// Flags that make no sense.
    pub(super) fn plan(&self, tcp: std::net::SocketAddr) -> Result<Plan, CommandError> {
        let send = SendCommand { tcp: Some(tcp), generate: Some(self.events()), ..self.send.clone() };
        let refused = |error: send::SendError| super::three_lines(super::ExitStatus::Usage, &error);
        Plan::try_from(send).map_err(refused)
    }

    /// Frames as those of the generator: its topics are `load/0` and so on. Of several sizes the mean.
    fn shape(&self) -> FrameShape {
        let topics = self.send.topics.unwrap_or(16).max(1);
        let body_bytes = self.send.body_bytes.as_ref().map_or(64, BodySizes::mean);
        FrameShape { topic_bytes: format!("load/{}", topics - 1).len(), body_bytes }
    }

    pub(super) fn events(&self) -> u64 {
        let FrameShape { topic_bytes, body_bytes } = self.shape();
        let by_size = BYTES_BY_DEFAULT / crate::wire::encoded_len(topic_bytes, body_bytes) as u64;
        self.send.generate.unwrap_or(by_size.clamp(EVENTS_BY_DEFAULT.0, EVENTS_BY_DEFAULT.1))
    }

    fn connections(&self) -> usize {
        self.send.connections.unwrap_or(8)
    }
}

/// One point: flat out.
///
/// # Errors
/// An engine that does not start, answer or end; a sender that can't send.
pub(super) fn measure(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let load = command.load(&bench.flags);
    points(bench, vec![(point("flat out", None), load)])
}

/// A point for each size of body.
///
/// # Errors
/// As [`measure`].
pub(super) fn sizes(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let loads = [16, 64, 256, 1_024, 4_096, 16_384, 65_536].map(|bytes| {
        let load = command.load(&bench.flags);
        let body_bytes = Some(BodySizes::fixed(bytes).expect("a size of bodies"));
        (point(format!("{bytes} bytes"), Some(bytes as f64)), Load { send: SendCommand { body_bytes, ..load.send }, ..load })
    });
    points(bench, loads.into())
}

/// The loads in turn within each repeat.
fn points(bench: &mut Bench, mut loads: Vec<(Point, Load)>) -> Result<Vec<Point>, CommandError> {
    bench.each_repeat(|bench| loads.iter_mut().try_for_each(|(point, load)| repeat(bench, load, point).map(drop)))?;
    Ok(loads.into_iter().map(|(point, _)| point).collect())
}

/// One repeat: the ceiling pipeline, then the engine. Adds to the point's figures and losses.
///
/// # Errors
/// As [`measure`].
pub(super) fn repeat(bench: &mut Bench, load: &Load, point: &mut Point) -> Result<Outcome, CommandError> {
    let inflow = Inflow {
        shape: load.shape(),
        connections: load.connections(),
        at_most: CEILING_FOR.min(Nanos(bench.each.as_nanos() as u64)),
    };
    let ceiling = bench.ceiling.pipeline(&inflow).map_err(|error| failed(&error))?;
    let data = bench.engine_data();
    let engine = EngineChild::start(bench.layout.engine_cpu, &data, &load.flags)?;
    let silent = connections::open_silent(&engine, load.silent_connections)?;
    let (before, threads_before) = (engine.taken(), ThreadTimes::of(engine.id()));
    let began = Instant::now();
    let sent = send_all(bench, &load.plan(engine.tcp)?)?;
    let (stored, took) = look(&engine, began, sent.sent.events())?;
    let (rate, taken) = (stored as f64 / took.as_secs_f64(), engine.taken());
    point.threads.note(&threads_before, &ThreadTimes::of(engine.id()), took);
    let (status, mut losses) = settle(&engine, sent.sent.events())?;
    point.stages.note(&status);
    if sent.unconfirmed_connections > 0 {
        losses.push(format!("{} connections were not read to their end", sent.unconfirmed_connections));
    }
    drop(silent);
    losses.extend(engine.stop()?);
    // The next repeat begins with an empty log.
    let _ = std::fs::remove_dir_all(&data);

    let figures = &mut point.figures;
    figures.note(shares::names::STORED, "events/s", Better::Higher, rate);
    figures.note(names::PIPELINE, "events/s", Better::Neither, ceiling);
    figures.note("share of the pipeline", "share", Better::Higher, rate / ceiling.max(1.0));
    let cpu_ns = taken.cpu_ns.saturating_sub(before.cpu_ns) as f64 / stored.max(1) as f64;
    figures.note(shares::names::CPU, "ns", Better::Lower, cpu_ns);
    let log_bytes = status.metrics.get("log_bytes_written").copied().unwrap_or(0);
    if log_bytes > 0 {
        // The bytes of an event, at the pace of events: to hold against what the disk takes.
        figures.note(
            shares::names::LOG,
            "GB/s",
            Better::Higher,
            log_bytes as f64 / done(&status.total).max(1) as f64 * rate / 1e9,
        );
    }
    note_latencies(&status, figures);
    point.losses.extend(bench.losses(losses));
    Ok(Outcome { per_second: rate, cpu_ns, sent })
}

/// What is stored, and how long that took: one look at the end of the sender. What is on its way then counts as not yet there; of a run so
/// short that this is much of it there is another look.
pub(super) fn look(engine: &EngineChild, began: Instant, sent: u64) -> Result<(u64, Duration), CommandError> {
    loop {
        let stored = done(&engine.status()?.total);
        let took = began.elapsed();
        if stored >= sent / 10 * 9 || took >= PATIENCE {
            return Ok((stored, took));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Events at a good end: in the log, or handled where nothing is stored.
fn done(terms: &Terms) -> u64 {
    terms.stored + terms.handled
}

/// Sends from threads on the sender's core.
///
/// # Errors
/// A sender that can't send.
pub(super) fn send_all(bench: &Bench, plan: &Plan) -> Result<SendSummary, CommandError> {
    on_sender_core(bench.layout, || send::send(plan)).map_err(|error| failed(&error))
}

/// Waits until the engine has done with all that was sent, and its latencies are handed over; what became of the events else.
pub(super) fn settle(engine: &EngineChild, sent: u64) -> Result<(StatusDocument, Vec<String>), CommandError> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let status = engine.status()?;
        let is_settled = status.total.in_flight == 0 && status.total.received >= sent;
        let handed_over: u64 =
            Tier::ALL.iter().filter_map(|tier| status.latency.get(tier.metric_name())).map(|seen| seen.count).sum();
        if (is_settled && handed_over >= status.total.processed) || Instant::now() >= give_up {
            let losses = losses(&status, sent);
            return Ok((status, losses));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What a status says of events that were not stored. Empty: nothing is missing.
pub(super) fn losses(status: &StatusDocument, sent: u64) -> Vec<String> {
    let total = &status.total;
    let mut losses = Vec::new();
    if done(total) != sent {
        losses.push(format!(
            "{} of {sent} events are stored, {} received, {} in flight",
            done(total),
            total.received,
            total.in_flight
        ));
    }
    if total.duplicate > 0 {
        losses.push(format!("{} events were taken for duplicates", total.duplicate));
    }
    let named = [
        (&total.dead_lettered, "dead-lettered"),
        (&total.dropped, "dropped"),
        (&status.refused_frames, "refused"),
        (&status.kernel_drops, "dropped by the kernel on socket"),
    ];
    for (reasons, what) in named {
        losses.extend(reasons.iter().filter(|(_, count)| **count > 0).map(|(reason, count)| format!("{count} {what} {reason}")));
    }
    losses
}

/// Receive to handled, of each tier, by the engine.
fn note_latencies(status: &StatusDocument, figures: &mut Figures) {
    for tier in Tier::ALL {
        let Some(seen) = status.latency.get(tier.metric_name()).filter(|seen| seen.count > 0) else { continue };
        for (quantile, ns) in [("p50", seen.p50_ns), ("p99", seen.p99_ns)] {
            figures.note(&format!("{} in the engine, {quantile}", tier.name()), "ns", Better::Lower, ns as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_sends_about_as_many_bytes_whatever_the_size() {
        let events = |bytes| {
            let body_bytes = Some(BodySizes::fixed(bytes).expect("a size"));
            Load { send: SendCommand { body_bytes, ..SendCommand::default() }, ..Load::default() }.events()
        };
        assert_eq!(events(16), EVENTS_BY_DEFAULT.1);
        assert_eq!(events(65_536), EVENTS_BY_DEFAULT.0);
        assert!((700_000..800_000).contains(&events(1_024)));
    }

    #[test]
    fn whatever_is_not_stored_is_a_loss_with_its_reason() {
        let mut status = StatusDocument::default();
        (status.total.received, status.total.stored) = (10, 10);
        assert_eq!(losses(&status, 10), Vec::<String>::new());
        (status.total.stored, status.total.duplicate) = (7, 1);
        status.total.dropped.insert("pool_exhausted".into(), 2);
        status.total.dropped.insert("emergency_drop".into(), 0);
        let said = losses(&status, 10);
        assert_eq!(said.len(), 3, "{said:?}");
        assert_eq!(said[2], "2 dropped pool_exhausted");
    }
}
