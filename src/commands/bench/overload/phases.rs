//! The course of the scenario: what each phase sends, and what ends it.

use std::time::Duration;

use super::observe::Sample;
use crate::commands::bench::flood::Tap;
use crate::control::Level;
use crate::sys::clock::Nanos;

/// What each flood sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// MEDIUM by `try_publish`.
    pub(super) orders: Orders,
    /// LOW over TCP, events per second.
    pub(super) tcp_low: u64,
    /// HIGH over TCP, events per second.
    pub(super) tcp_high: u64,
    /// LOW over UDP.
    pub(super) udp: Udp,
}

/// How fast orders come, in shares of what the handler serves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Orders {
    /// That much of it.
    Share(f64),
    /// A little more or less than it, so that about so many wait.
    HoldDepth(u64),
}

/// How fast the datagrams come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Udp {
    /// Events per second.
    Paced(u64),
    /// Paced, with bursts as long as the drop rate is below this share.
    UpToDropRate(f64),
    /// As fast as the sender can.
    FlatOut,
}

/// A part of the scenario.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phase {
    /// For people.
    pub(super) name: &'static str,
    /// What is sent.
    pub(super) rates: Rates,
    /// It goes on until this level is reached (or the time for that is over) …
    pub(super) until: Option<Level>,
    /// … and then for so long.
    pub(super) then_for: Duration,
}

/// The longest that a phase waits for its level.
pub(super) const LEVEL_PATIENCE: Duration = Duration::from_secs(20);
/// The same on the way back: a level is left after a dwell of 1 s, and the drop rate looks 10 s back.
pub(super) const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);

/// The name of the phase that the others are compared with.
pub(super) const ALONE: &str = "alone";
/// The name of the last one.
pub(super) const RECOVERY: &str = "recovery";

/// The flood's paced datagrams, events per second.
pub(super) const UDP_PACED: u64 = 10_000;

/// The probe alone.
const NOTHING: Rates = Rates { orders: Orders::Share(0.0), tcp_low: 0, tcp_high: 0, udp: Udp::Paced(0) };

/// What goes on from the first flood to the last: all of it is served. HIGH is so little that REALTIME does not stop for a disk that stalls
/// for a second: its handlers go on until 4096 of its events wait for the log.
const SERVED: Rates = Rates { orders: Orders::Share(0.7), tcp_low: 50_000, tcp_high: 2_000, udp: Udp::Paced(UDP_PACED) };

const fn phase(name: &'static str, rates: Rates, until: Option<Level>, then_seconds: u64) -> Phase {
    Phase { name, rates, until, then_for: Duration::from_secs(then_seconds) }
}

/// All, in order: about 65 s, and two minutes if each waits for its level as long as it may.
pub(super) const PHASES: [Phase; 8] = [
    phase(ALONE, NOTHING, None, 10),
    phase("served", SERVED, None, 5),
    phase("above", Rates { orders: Orders::Share(1.6), ..SERVED }, Some(Level::Elevated), 0),
    phase("held", Rates { orders: Orders::HoldDepth(2_900), ..SERVED }, None, 5),
    phase("far above", Rates { orders: Orders::Share(2.0), ..SERVED }, Some(Level::Degraded), 5),
    // A little above the 4 % of CRITICAL: what is offered shrinks there by what is shed, and the rate of what was lost before rises.
    phase("bursts", Rates { orders: Orders::Share(2.0), udp: Udp::UpToDropRate(0.042), ..SERVED }, Some(Level::Critical), 4),
    phase(
        "flat out",
        Rates { orders: Orders::Share(10.0), tcp_low: Tap::FLAT_OUT, udp: Udp::FlatOut, ..SERVED },
        Some(Level::Emergency),
        6,
    ),
    phase(RECOVERY, NOTHING, Some(Level::Healthy), 3),
];

/// How far back the drop rate looks, as the control agent's does.
const DROP_WINDOW: Nanos = Nanos::from_millis(10_000);

/// The share of events that were lost for want of room over the last 10 s, as levels are judged by it.
pub(super) fn drop_rate(samples: &[Sample]) -> f64 {
    let Some(now) = samples.last() else { return 0.0 };
    let before = samples.iter().rev().find(|sample| now.at.since(sample.at) >= DROP_WINDOW).unwrap_or(&samples[0]);
    let kernel_drops = now.kernel_drops_now().saturating_sub(before.kernel_drops_now());
    let dropped = now.overflown() - before.overflown() + kernel_drops;
    let offered = (now.received - before.received + kernel_drops).saturating_sub(now.shed() - before.shed());
    dropped as f64 / offered.max(1) as f64
}
