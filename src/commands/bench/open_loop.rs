//! Latency from when an event was due until a REALTIME handler has it: the engine inside this process, so that the handler's clock is the
//! sender's; its agents on the engine's core, its helpers and the sender on the other.
//!
//! The handler is inline and reads the clock once an event (some 23 ns, which are in the figures). Its histograms come back when the
//! engine, stopped, drops it: nothing is shared while it runs.

use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use hdrhistogram::Histogram;

use super::flat_out::losses;
use super::run::Bench;
use super::sender::{OpenLoop, Sent, TOPIC, send, stamps};
use super::{CommandError, failed, on_sender_core};
use crate::bench::curve::{Curve, histogram};
use crate::bench::document::Point;
use crate::bench::figure::{Better, Figures};
use crate::bench::stages::Stage;
use crate::bench::threads::ThreadTimes;
use crate::config::{Config, CoreSpec};
use crate::engine::Engine;
use crate::metrics::status::StatusDocument;
use crate::pool::EventView;
use crate::process::{AlertHandler, HandlerMode};
use crate::sys::clock::{Clock, HostClock};
use crate::wire::Tier;

/// What a handler measured.
struct Handled {
    from_due: Histogram<u64>,
    from_written: Histogram<u64>,
}

struct StopWatch {
    handled: Option<Box<Handled>>,
    give: Sender<Box<Handled>>,
}

impl AlertHandler for StopWatch {
    fn name(&self) -> &'static str {
        "stop-watch"
    }

    fn mode(&self) -> HandlerMode {
        HandlerMode::Inline
    }

    fn handle(&mut self, event: &EventView<'_>) {
        let (Some(handled), true) = (&mut self.handled, event.topic == TOPIC) else { return };
        if let Some((due, written)) = stamps(event.body) {
            let now = HostClock.now();
            handled.from_due.saturating_record(now.since(due).0);
            handled.from_written.saturating_record(now.since(written).0);
        }
    }
}

impl Drop for StopWatch {
    fn drop(&mut self) {
        if let Some(handled) = self.handled.take() {
            // Nobody waits for it where the run has failed.
            let _ = self.give.send(handled);
        }
    }
}

/// All repeats of a point.
pub(super) struct Merged {
    from_due: Histogram<u64>,
    from_written: Histogram<u64>,
    late: Histogram<u64>,
    in_engine: [Histogram<u64>; Tier::COUNT],
}

impl Merged {
    pub(super) fn new() -> Self {
        Self {
            from_due: histogram(),
            from_written: histogram(),
            late: histogram(),
            in_engine: [(); Tier::COUNT].map(|()| histogram()),
        }
    }

    /// The curves that a report draws; those without values are left out.
    pub(super) fn curves(&self) -> Vec<Curve> {
        let own = [("due to handled", &self.from_due), ("written to handled", &self.from_written), ("sender late", &self.late)];
        let tiers = Tier::ALL.map(|tier| (format!("{} receive to handled", tier.name()), &self.in_engine[tier.index()]));
        let all = own.map(|(name, values)| (name.to_owned(), values)).into_iter().chain(tiers);
        all.filter(|(_, values)| !values.is_empty()).map(|(name, values)| Curve::of(name, values)).collect()
    }
}

/// Whether the engine keeps up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// It does.
    Keeps,
    /// Less than 95 % of what was due was sent in its time, or half of it waited for more than a millisecond.
    Behind,
}

/// One repeat of a point, on an engine of its own.
///
/// # Errors
/// An engine that does not start, a sender that can't send.
pub(super) fn repeat(bench: &Bench, plan: &OpenLoop, merged: &mut Merged, point: &mut Point) -> Result<Pace, CommandError> {
    let data = bench.engine_data();
    let (give, take) = channel();
    let watch = move |_| StopWatch {
        handled: Some(Box::new(Handled { from_due: histogram(), from_written: histogram() })),
        give: give.clone(),
    };
    let (engine, start) = Engine::builder().config(engine_config(bench, data.clone())).alert_handler(watch).start()?;
    let address = start.tcp.expect("configured");
    let (threads_before, began) = (ThreadTimes::of(std::process::id()), Instant::now());
    let sent = on_sender_core(bench.layout, || send(address, plan));
    let (threads, spanned) = (ThreadTimes::of(std::process::id()), began.elapsed());
    point.threads.note(&threads_before, &threads, spanned);
    let telemetry = engine.telemetry().clone();
    let stored = telemetry.read(HostClock.now()).ledger.total().stored;
    let account = engine.stop();
    let sent = sent.map_err(|error| {
        let three = format!("error: the sender stopped\ncause: {error}\nfix:   see what the engine said above");
        failed(&three)
    })?;
    let snapshot = telemetry.read(HostClock.now());
    // The handler has handed it over: the engine is stopped, its threads are joined.
    let handled = take.try_iter().next();
    let _ = std::fs::remove_dir_all(&data);

    let status = StatusDocument::of(&snapshot);
    point.stages.note(&status);
    let mut found = losses(&status, sent.timed + sent.flood.events());
    found.extend((!account.is_clean()).then(|| "the engine's account is not clean".to_owned()));
    let count = handled.as_ref().map_or(0, |handled| handled.from_due.len());
    found.extend((count != sent.timed).then(|| format!("{count} of {} timed events were handled", sent.timed)));
    point.losses.extend(bench.losses(found));

    let add = |sum: &mut Histogram<u64>, values: &Histogram<u64>| sum.add(values).expect("all have the same bounds");
    add(&mut merged.late, &sent.late);
    for tier in Tier::ALL {
        if let Some((_, values)) = snapshot.latencies.iter().find(|(name, _)| *name == tier.metric_name()) {
            add(&mut merged.in_engine[tier.index()], values);
        }
    }
    let Some(handled) = handled else { return Ok(Pace::Behind) };
    add(&mut merged.from_due, &handled.from_due);
    add(&mut merged.from_written, &handled.from_written);
    let realtime = snapshot.latencies.iter().find(|(name, _)| *name == Tier::Realtime.metric_name()).map(|(_, values)| values);
    let quantile = |quantile| handled.from_written.value_at_quantile(quantile) as f64;
    if let Some(in_engine) = realtime {
        // Written to received is not seen by anybody: what is left of the way to the handler without the engine's part of it.
        let outside = |at| (quantile(at) - in_engine.value_at_quantile(at) as f64).max(0.0);
        point.stages.note_stage(Tier::Realtime, Stage::Received, outside(0.5), outside(0.99));
    }
    note(&sent, &handled, realtime, &mut point.figures);
    let core_percent = threads.ran_ns_since(&threads_before) / spanned.as_nanos().max(1) as f64 * 100.0;
    point.figures.note("core taken by the engine", "%", Better::Lower, core_percent);
    if plan.flood.is_some() {
        let seconds = sent.took.0.max(1) as f64 / 1e9;
        point.figures.note("stored, timed ones and flood", "events/s", Better::Higher, stored as f64 / seconds);
    }
    let reached = sent.timed as f64 / sent.took.0.max(1) as f64 * 1e9;
    let is_slow = reached < 0.95 * plan.per_second as f64 || sent.timed < sent.due;
    let waits = handled.from_due.value_at_quantile(0.5) > 1_000_000;
    Ok(if is_slow || waits { Pace::Behind } else { Pace::Keeps })
}

/// The configuration of an engine inside this process, its agents on the engine's core.
pub(super) fn engine_config(bench: &Bench, data_dir: std::path::PathBuf) -> Config {
    let loopback = Some("127.0.0.1:0".parse().expect("an address"));
    let own = bench.config.clone();
    let cores =
        if own.cores == Config::default().cores { CoreSpec(bench.layout.engine_cpu.to_string()) } else { own.cores.clone() };
    Config { tcp_listen: loopback, udp_listen: loopback, admin_listen: None, data_dir, cores, ..own }
}

fn note(sent: &Sent, handled: &Handled, in_engine: Option<&Histogram<u64>>, figures: &mut Figures) {
    const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
    let reached = sent.timed as f64 / sent.took.0.max(1) as f64 * 1e9;
    figures.note("sent", "events/s", Better::Neither, reached);
    for (name, quantile) in QUANTILES {
        let ns = handled.from_due.value_at_quantile(quantile) as f64;
        // p99.9 is the machine's more than the engine's.
        let better = if quantile < 0.999 { Better::Lower } else { Better::Neither };
        figures.note(&format!("due to handled, {name}"), "ns", better, ns);
    }
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let [written, late] = [&handled.from_written, &sent.late].map(|values| values.value_at_quantile(quantile) as f64);
        figures.note(&format!("written to handled, {name}"), "ns", Better::Lower, written);
        if let Some(values) = in_engine {
            let ns = values.value_at_quantile(quantile) as f64;
            figures.note(&format!("receive to handled in the engine, {name}"), "ns", Better::Lower, ns);
        }
        figures.note(&format!("sender late, {name}"), "ns", Better::Neither, late);
    }
}
