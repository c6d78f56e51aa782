//! What the run shows: which expectation held, and the figures behind it.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::observe::Sample;
use super::phases::{ALONE, RECOVERY};
use crate::bench::curve::histogram;
use crate::bench::timeline::Expectation;
use crate::control::Level;
use crate::metrics::ledger::DropReason;
use crate::pool::Source;
use crate::report::DrainSummary;
use crate::wire::Tier;

/// REALTIME may always take so long at the 99th percentile.
const P99_FLOOR: Duration = Duration::from_micros(250);

/// The probe's latencies in a phase.
#[derive(Debug)]
pub(super) struct PhaseLatency {
    /// Its name.
    pub(super) phase: &'static str,
    /// Send to handled, nanoseconds.
    pub(super) latencies: Histogram<u64>,
}

/// What all senders say that they have sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// By `try_publish`.
    pub(super) in_process: u64,
    /// Over TCP, without the probe.
    pub(super) tcp: u64,
    /// Datagrams.
    pub(super) udp: u64,
    /// The probe's.
    pub(super) probes: u64,
}

/// Latencies of REALTIME alone, and under the flood.
fn without_and_under(latencies: &[PhaseLatency]) -> (Histogram<u64>, Histogram<u64>) {
    let (mut without, mut under) = (histogram(), histogram());
    for phase in latencies.iter().filter(|phase| phase.phase != RECOVERY) {
        let sum = if phase.phase == ALONE { &mut without } else { &mut under };
        sum.add(&phase.latencies).expect("all histograms have the same bounds");
    }
    (without, under)
}

/// Judges everything. `entered` is how often each level was entered, by the engine's own count.
pub(super) fn judge(
    samples: &[Sample],
    latencies: &[PhaseLatency],
    sent: &Sent,
    account: &DrainSummary,
    entered: [u64; Level::COUNT],
) -> Vec<Expectation> {
    vec![
        every_level(entered),
        level_by_level_back(samples),
        ledger(account),
        every_event(sent, account),
        realtime_lost_nothing(sent, account),
        realtime_p99(samples, latencies),
    ]
}

fn every_level(entered: [u64; Level::COUNT]) -> Expectation {
    let figures = Level::ALL.map(|level| format!("{} {}", level.name(), entered[level.index()])).join(", ");
    // HEALTHY is entered when it is come back to.
    Expectation { what: "every level is entered".into(), held: entered.iter().all(|times| *times > 0), figures }
}

/// Back from the flood the level goes down one at a time, and to the bottom.
fn level_by_level_back(samples: &[Sample]) -> Expectation {
    let back: Vec<Level> = samples.iter().filter(|sample| sample.phase == RECOVERY).map(|sample| sample.level).collect();
    let is_stepwise = back.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0].below());
    let mut seen = back.clone();
    seen.dedup();
    Expectation {
        what: "after the flood the level falls, one at a time, to HEALTHY".into(),
        held: is_stepwise && back.last() == Some(&Level::Healthy),
        figures: seen.iter().map(|level| level.name()).collect::<Vec<_>>().join(" → "),
    }
}

fn ledger(account: &DrainSummary) -> Expectation {
    let total = account.ledger.total();
    let figures = match account.balance() {
        Ok(()) => format!(
            "received {} = stored {} + duplicate {} + dead-lettered {} + dropped {}",
            total.received,
            total.stored,
            total.duplicate,
            total.dead_lettered(),
            total.dropped()
        ),
        Err(wrong) => wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    Expectation { what: "the ledger balances, and nothing is left in flight".into(), held: account.is_clean(), figures }
}

/// What makes a run not count: an account that is not clean, or does not agree with what the senders counted.
pub(super) fn losses(sent: &Sent, account: &DrainSummary) -> Vec<String> {
    let both = [ledger(account), every_event(sent, account)];
    both.into_iter().filter(|one| !one.held).map(|one| format!("not so: {}: {}", one.what, one.figures)).collect()
}

fn received(account: &DrainSummary, source: Source) -> u64 {
    account.ledger.terms[source.index()].iter().map(|terms| terms.received).sum()
}

/// What the senders say they sent is what the engine and the kernel account for.
fn every_event(sent: &Sent, account: &DrainSummary) -> Expectation {
    let kernel: u64 = account.kernel_drops.iter().map(|socket| socket.count).sum();
    let (tcp, udp, in_process) =
        (received(account, Source::Tcp), received(account, Source::Udp), received(account, Source::InProcess));
    let held = tcp == sent.tcp + sent.probes && udp + kernel == sent.udp && in_process == sent.in_process;
    let figures = format!(
        "TCP {tcp} of {}; UDP {udp} + {kernel} dropped by the kernel of {}; in-process {in_process} of {}",
        sent.tcp + sent.probes,
        sent.udp,
        sent.in_process
    );
    Expectation { what: "every event sent is accounted for, by the senders' own count".into(), held, figures }
}

fn realtime_lost_nothing(sent: &Sent, account: &DrainSummary) -> Expectation {
    let realtime = account.ledger.tier(Tier::Realtime);
    let for_room = realtime.lost[DropReason::QueueFull as usize] + realtime.lost[DropReason::PoolExhausted as usize];
    let shed = realtime.lost[DropReason::EmergencyDrop as usize];
    let stored_at_least = sent.probes;
    Expectation {
        what: "REALTIME loses nothing for want of room, and of priority CRITICAL nothing at all".into(),
        held: for_room == 0 && realtime.stored >= stored_at_least,
        figures: format!(
            "{} probes; REALTIME stored {}, lost for room {for_room}, HIGH shed at EMERGENCY {shed}",
            sent.probes, realtime.stored
        ),
    }
}

fn p99(histogram: &Histogram<u64>) -> Duration {
    Duration::from_nanos(histogram.value_at_quantile(0.99))
}

/// What REALTIME's p99 may be under the flood.
fn p99_bar(latencies: &[PhaseLatency]) -> Duration {
    (2 * p99(&without_and_under(latencies).0)).max(P99_FLOOR)
}

fn realtime_p99(samples: &[Sample], latencies: &[PhaseLatency]) -> Expectation {
    let mut flood = samples.iter().filter(|sample| sample.phase != ALONE && sample.phase != RECOVERY);
    let taken = match (flood.next(), flood.next_back()) {
        (Some(first), Some(last)) => last.core_taken.since(first.core_taken).0 as f64 / last.at.since(first.at).0.max(1) as f64,
        _ => 0.0,
    };
    let (without, under) = without_and_under(latencies);
    let (without, under, bar) = (p99(&without), p99(&under), p99_bar(latencies));
    Expectation {
        what: "REALTIME p99 under the flood is at most the larger of twice its p99 without it and 250 µs".into(),
        held: under <= bar,
        figures: format!(
            "{without:.1?} without, {under:.1?} under the flood, bar {bar:.1?}; others had the engine's core for {:.1} % of the flood",
            taken * 100.0
        ),
    }
}
