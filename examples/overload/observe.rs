//! What is looked at while it runs, ten times a second: level, depths, losses by reason, the probe's latency.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};

use eventstream::control::Level;
use eventstream::engine::Engine;
use eventstream::metrics::ledger::DropReason;
use eventstream::sys::clock::{Clock, HostClock, Nanos};
use eventstream::wire::Tier;
use hdrhistogram::Histogram;

use crate::probe::{Arrival, Arrivals};

/// The probe's p99 at a moment is that of so long before it: 1000 events at 1000 a second.
const P99_WINDOW: Nanos = Nanos::from_millis(1_000);

/// The engine at a moment. Counts are since the start.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Since the observer began.
    pub at: Nanos,
    /// What the demonstration was doing.
    pub phase: &'static str,
    /// The control level.
    pub level: Level,
    /// Events waiting, by tier.
    pub depth: [u64; Tier::COUNT],
    /// Events received.
    pub received: u64,
    /// Events stored.
    pub stored: u64,
    /// Events lost, by reason.
    pub lost: [u64; DropReason::COUNT],
    /// Datagrams that the engine received.
    pub datagrams: u64,
    /// Datagrams that the kernel dropped before it, read by the engine once a second.
    pub kernel_drops: u64,
    /// Of the last second's probes; 0 where there was none.
    pub probe_p99: Nanos,
    /// Events offered by all floods.
    pub offered: u64,
    /// Of these, datagrams.
    pub udp_offered: u64,
    /// For how long the engine's threads were ready to run while others had their core, by the kernel's account; zero where it keeps none.
    pub core_taken: Nanos,
}

impl Sample {
    /// Shed by levels.
    pub fn shed(&self) -> u64 {
        self.lost[DropReason::BackpressureDrop as usize] + self.lost[DropReason::EmergencyDrop as usize]
    }

    /// Dropped by the kernel until now, by the sender's count: the engine asks the kernel only once a second. Holds what is still queued.
    pub fn kernel_drops_now(&self) -> u64 {
        self.udp_offered.saturating_sub(self.datagrams)
    }

    /// Lost for want of room inside the engine.
    pub fn overflown(&self) -> u64 {
        self.lost[DropReason::QueueFull as usize] + self.lost[DropReason::PoolExhausted as usize]
    }
}

/// A histogram of latencies, 3 digits up to a minute.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are constants and valid")
}

/// Looks, and keeps what it saw.
pub struct Observer {
    began: Nanos,
    arrivals: Arrivals,
    last_second: VecDeque<Arrival>,
    /// All looks.
    pub samples: Vec<Sample>,
    /// Changes of level and whatever else the engine had to say, each with its time.
    pub told: Vec<(Nanos, String)>,
    /// How often each level was entered, by the engine's own count.
    pub entered: [u64; Level::COUNT],
}

impl Observer {
    /// Begins now.
    pub fn new(arrivals: Arrivals) -> Self {
        let began = HostClock.now();
        Self { began, arrivals, last_second: VecDeque::new(), samples: Vec::new(), told: Vec::new(), entered: [0; Level::COUNT] }
    }

    /// Looks once; the probe's latencies since the last look go into `latencies`. `offered` is what the floods
    /// say: all of them, and datagrams.
    pub fn look(
        &mut self,
        engine: &mut Engine,
        phase: &'static str,
        (offered, udp_offered): (u64, u64),
        latencies: &mut Histogram<u64>,
    ) -> &Sample {
        let now = HostClock.now();
        let at = now.since(self.began);
        engine.watch(&mut |_, line| {
            println!("{:6.1} s  {line}", seconds(at));
            self.told.push((at, line));
        });
        while let Some(arrival) = self.arrivals.pop() {
            latencies.saturating_record(arrival.latency.0);
            self.last_second.push_back(arrival);
        }
        while self.last_second.front().is_some_and(|arrival| now.since(arrival.at) > P99_WINDOW) {
            self.last_second.pop_front();
        }
        let snapshot = engine.telemetry().read(now);
        let total = snapshot.ledger.total();
        let entered = snapshot.by_label("control_transitions", "level");
        self.entered = Level::ALL.map(|level| entered.get(level.name()).copied().unwrap_or(0));
        self.samples.push(Sample {
            at,
            phase,
            level: snapshot.level(),
            depth: Tier::ALL.map(|tier| snapshot.sum(DEPTHS[tier.index()])),
            received: total.received,
            stored: total.stored,
            lost: total.lost,
            datagrams: snapshot.sum("datagrams"),
            kernel_drops: snapshot.sum("kernel_drops"),
            probe_p99: self.p99(),
            offered,
            udp_offered,
            core_taken: core_taken(),
        });
        self.samples.last().expect("just pushed")
    }

    fn p99(&self) -> Nanos {
        let mut latencies: Vec<u64> = self.last_second.iter().map(|arrival| arrival.latency.0).collect();
        latencies.sort_unstable();
        // The rank of the 99th percentile, rounded up.
        let rank = (latencies.len() * 99).div_ceil(100);
        Nanos(rank.checked_sub(1).map_or(0, |place| latencies[place]))
    }
}

/// The second number of `/proc/<pid>/task/<tid>/schedstat` is the time spent waiting on a run queue. Runners are called `n0-…`.
fn core_taken() -> Nanos {
    let waited = |task: fs::DirEntry| -> Option<u64> {
        let is_runner = fs::read_to_string(task.path().join("comm")).ok()?.starts_with("n0-");
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        is_runner.then(|| schedstat.split_whitespace().nth(1)?.parse().ok())?
    };
    Nanos(fs::read_dir("/proc/self/task").into_iter().flatten().flatten().filter_map(waited).sum())
}

/// The gauges of depth, by tier.
const DEPTHS: [&str; Tier::COUNT] = ["queue_depth_realtime", "queue_depth_trans", "queue_depth_batch"];

/// For people.
pub fn seconds(nanos: Nanos) -> f64 {
    nanos.0 as f64 / 1e9
}

/// Writes the samples as CSV.
///
/// # Errors
/// Whatever the writer says.
pub fn write_csv(samples: &[Sample], mut to: impl Write) -> io::Result<()> {
    write!(
        to,
        "seconds,phase,level,depth_realtime,depth_transactional,depth_batch,offered,offered_udp,received,stored,datagrams,kernel_drops"
    )?;
    DropReason::ALL.iter().try_for_each(|reason| write!(to, ",{}", reason.name()))?;
    writeln!(to, ",probe_p99_us")?;
    for sample in samples {
        let [realtime, transactional, batch] = sample.depth;
        write!(to, "{:.3},{},{}", seconds(sample.at), sample.phase, sample.level.name())?;
        write!(
            to,
            ",{realtime},{transactional},{batch},{},{},{},{}",
            sample.offered, sample.udp_offered, sample.received, sample.stored
        )?;
        write!(to, ",{},{}", sample.datagrams, sample.kernel_drops)?;
        sample.lost.iter().try_for_each(|lost| write!(to, ",{lost}"))?;
        writeln!(to, ",{:.1}", sample.probe_p99.0 as f64 / 1e3)?;
    }
    Ok(())
}
