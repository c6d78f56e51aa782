//! `bench run SCENARIO`: what each scenario measures, repeat by repeat.

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use argh::FromArgs;

use super::flat_out::Load;
use super::open_loop::{Merged, Pace};
use super::sender::OpenLoop;
use super::{CommandError, ExitStatus, JITTER_PROBE, Scratch, conclude, failed, flat_out, idle, layout, open_loop, usage};
use crate::bench::ceiling::{Ceiling, FrameShape, Inflow, Layout, add_references, warnings};
use crate::bench::document::{Document, FORMAT, Point};
use crate::bench::figure::{Figures, readable};
use crate::bench::host::Host;
use crate::bench::noise::{CpuTicks, Noise};
use crate::commands::send::{Input, Mix, SendCommand};
use crate::config::{Config, Flags, Layers};
use crate::sys::clock::Nanos;
use crate::sys::process::raise_descriptor_limit;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    IngestTcp,
    LatencySweep,
    Mixed,
    Idle,
    Connections,
    SizeSweep,
}

impl Scenario {
    const ALL: [Scenario; 6] = [
        Scenario::IngestTcp,
        Scenario::LatencySweep,
        Scenario::Mixed,
        Scenario::Idle,
        Scenario::Connections,
        Scenario::SizeSweep,
    ];

    const fn name(self) -> &'static str {
        match self {
            Scenario::IngestTcp => "ingest-tcp",
            Scenario::LatencySweep => "latency-sweep",
            Scenario::Mixed => "mixed",
            Scenario::Idle => "idle",
            Scenario::Connections => "connections",
            Scenario::SizeSweep => "size-sweep",
        }
    }

    const fn about(self) -> &'static str {
        match self {
            Scenario::IngestTcp => "flat out over TCP into the log, beside the ceiling pipeline of the same frames",
            Scenario::LatencySweep => "REALTIME from due to handled, at rising rates until the engine falls behind",
            Scenario::Mixed => {
                "REALTIME at a steady rate on a connection of its own, alone and beside a flood of the other tiers"
            }
            Scenario::Idle => "an engine with nothing to do",
            Scenario::Connections => "flat out over TCP, by number of connections",
            Scenario::SizeSweep => "flat out over TCP, by size of body",
        }
    }

    const fn axis(self) -> Option<&'static str> {
        match self {
            Scenario::LatencySweep => Some("events a second that were due"),
            Scenario::Connections => Some("connections"),
            Scenario::SizeSweep => Some("bytes of a body"),
            Scenario::IngestTcp | Scenario::Mixed | Scenario::Idle => None,
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = Scenario::ALL.map(Scenario::name);
        let known = Scenario::ALL.into_iter().find(|scenario| scenario.name() == text);
        known.ok_or_else(|| format!("`{text}` is no scenario: there are {}", names.join(", ")))
    }
}

/// Rates of a sweep, events a second, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rates(Vec<u64>);

impl FromStr for Rates {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rates: Result<Vec<u64>, _> = text.split(',').map(|rate| rate.trim().parse()).collect();
        match rates {
            Ok(rates) if rates.iter().all(|rate| (1..=100_000_000).contains(rate)) && rates.is_sorted() => Ok(Rates(rates)),
            _ => Err(format!("`{text}` are no rates: give rising numbers of events a second, such as 10000,100000")),
        }
    }
}

/// runs a scenario: ingest-tcp, latency-sweep, mixed, idle, connections or size-sweep. What follows a bare `--` are flags of serve.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "run")]
pub(super) struct RunCommand {
    #[argh(positional)]
    scenario: Scenario,
    /// flags of serve, behind a bare `--`
    #[argh(positional)]
    flags: Vec<String>,
    /// how often each point is measured; the median counts (default: 5)
    #[argh(option, default = "5")]
    repeat: usize,
    /// where results are written (default: bench-results)
    #[argh(option, default = "PathBuf::from(\"bench-results\")")]
    out: PathBuf,
    /// a folder on the disk to be measured, with 5 GiB free (default: the one of --out)
    #[argh(option)]
    data_dir: Option<PathBuf>,
    /// core of the engine (default: 0)
    #[argh(option, default = "0")]
    engine_core: u32,
    /// core of the sender (default: 1, where there is one)
    #[argh(option, default = "1")]
    sender_core: u32,
    /// seconds of what is not flat out, for each point and repeat; a second of it, at most, for the ceiling pipeline (default: 2)
    #[argh(option, default = "2.0")]
    seconds: f64,
    /// events of a run that is flat out (default: by their size, 800 MB of frames and ten million at most)
    #[argh(option)]
    events: Option<u64>,
    /// bytes of a body (default: 64)
    #[argh(option)]
    body_bytes: Option<usize>,
    /// shares HIGH,MEDIUM,LOW or CRITICAL,HIGH,MEDIUM,LOW,BATCH (default: 10,60,30; of the flood in mixed 0,60,30)
    #[argh(option)]
    mix: Option<Mix>,
    /// TCP connections (default: 8)
    #[argh(option)]
    connections: Option<usize>,
    /// topics (default: 16)
    #[argh(option)]
    topics: Option<u32>,
    /// events a second: those of latency-sweep, which goes on doubling the last until the engine falls behind, and the first one for
    /// mixed (default: 10000,100000,500000,1000000)
    #[argh(option, default = "Rates(vec![10_000, 100_000, 500_000, 1_000_000])")]
    rates: Rates,
    /// as --dedup of serve
    #[argh(option)]
    dedup: Option<String>,
    /// as --durability of serve
    #[argh(option)]
    durability: Option<String>,
    /// print the result as JSON
    #[argh(switch)]
    json: bool,
}

/// What every scenario works with.
pub(super) struct Bench {
    pub(super) layout: Layout,
    // Before the folder that its file is in.
    pub(super) ceiling: Ceiling,
    /// The machine's own limits, as far as they are measured.
    pub(super) limits: Figures,
    pub(super) scratch: Scratch,
    /// Flags of serve.
    pub(super) flags: Vec<String>,
    /// The same, read.
    pub(super) config: Config,
    /// The repeat that runs, from 1.
    pub(super) repeat: usize,
    /// Of what is not flat out.
    pub(super) each: Duration,
}

impl Bench {
    /// One round of the machine's own limits (H2): what else a report needs beside the engine's figures.
    fn measure_limits(&mut self) -> Result<(), CommandError> {
        /// Of each limit. Twelve of them in a round; shorter where what is measured beside them is.
        const FOR_AT_MOST: Duration = Duration::from_millis(150);
        let at_most = Nanos(FOR_AT_MOST.min(self.each).as_nanos() as u64);
        let inflow = Inflow { shape: FrameShape::REFERENCE, connections: 8, at_most };
        self.ceiling.measure_all(&inflow, &mut self.limits).map_err(|error| failed(&error))
    }
}

impl RunCommand {
    /// Measures, writes and prints.
    ///
    /// # Errors
    /// Arguments or flags that make no sense, an engine that does not start, a run in which an event was lost.
    pub(super) fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        if self.repeat == 0 || !(0.01..=3_600.0).contains(&self.seconds) {
            return Err(usage("nothing to measure", "--repeat is at least 1, --seconds 0.01 to 3600", "--repeat 5 --seconds 2"));
        }
        let (layout, warning) = layout(self.engine_core, self.sender_core)?;
        let flags = self.serve_flags();
        let config = read_flags(&flags)?;
        // Refused here, and not after a minute.
        self.load().plan(([127, 0, 0, 1], 9000).into())?;
        // Best effort: a thousand connections have a descriptor each here, and another in the engine.
        let _ = raise_descriptor_limit();
        let scratch = Scratch::make(self.data_dir.as_ref().unwrap_or(&self.out))?;
        let began = CpuTicks::now();
        let ceiling = Ceiling::prepare(layout, &scratch.0).map_err(|error| failed(&error))?;
        let each = Duration::from_secs_f64(self.seconds);
        let limits = Figures::default();
        let mut bench = Bench { layout, ceiling, limits, scratch, flags, config, repeat: 0, each };
        let mut noise = Noise::default();
        let points = self.measure(&mut bench, &mut noise)?;
        noise.stolen_percent = CpuTicks::now().stolen_percent_since(began);
        add_references(&mut bench.limits);
        let document = Document {
            format: FORMAT,
            scenario: self.scenario.name().to_owned(),
            about: self.scenario.about().to_owned(),
            axis: self.scenario.axis().map(str::to_owned),
            host: Host::look(&bench.scratch.0),
            noise,
            settings: self.settings(&bench),
            warnings: warning.into_iter().chain(warnings(&bench.limits)).collect(),
            limits: std::mem::take(&mut bench.limits),
            points,
        };
        conclude(&document, &self.out, self.json, out)
    }

    /// The flags of serve that the scenario runs with: those given, and what it needs where it isn't given.
    fn serve_flags(&self) -> Vec<String> {
        let mut flags = self.flags.clone();
        let named = [("dedup", &self.dedup), ("durability", &self.durability)];
        flags.extend(named.into_iter().filter_map(|(name, value)| value.as_ref().map(|value| format!("--{name}={value}"))));
        let is_timed = matches!(self.scenario, Scenario::LatencySweep | Scenario::Mixed);
        if is_timed && !flags.iter().any(|flag| flag == "--idle" || flag.starts_with("--idle=")) {
            // A parked core costs 25 µs to wake, which is a question of its own.
            flags.push("--idle=spin".to_owned());
        }
        flags
    }

    fn load(&self) -> Load {
        Load {
            send: SendCommand {
                generate: self.events,
                body_bytes: self.body_bytes,
                mix: self.mix,
                connections: self.connections,
                topics: self.topics,
                ..SendCommand::default()
            },
        }
    }

    fn settings(&self, bench: &Bench) -> std::collections::BTreeMap<String, String> {
        let or = |value: Option<String>, default: &str| value.unwrap_or_else(|| default.to_owned());
        let all = [
            ("engine core", bench.layout.engine_cpu.to_string()),
            ("sender core", or(bench.layout.sender_cpu.map(|cpu| cpu.to_string()), "none")),
            ("repeats", self.repeat.to_string()),
            ("seconds", self.seconds.to_string()),
            ("events", or(self.events.map(|events| events.to_string()), "by their size")),
            ("bytes of a body", or(self.body_bytes.map(|bytes| bytes.to_string()), "64")),
            ("mix by priority, 0 to 4", or(self.mix.map(|mix| format!("{:?}", mix.shares())), "the standard one")),
            ("connections", or(self.connections.map(|connections| connections.to_string()), "8")),
            ("topics", or(self.topics.map(|topics| topics.to_string()), "16")),
            ("flags of serve", if bench.flags.is_empty() { "none".to_owned() } else { bench.flags.join(" ") }),
        ];
        all.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn measure(&self, bench: &mut Bench, noise: &mut Noise) -> Result<Vec<Point>, CommandError> {
        match self.scenario {
            Scenario::IngestTcp => self.repeat_loads(bench, noise, vec![(point("flat out", None), self.load())]),
            Scenario::Connections => {
                let loads = [1, 10, 100, 1_000].map(|connections| {
                    let send = SendCommand { connections: Some(connections), ..self.load().send };
                    (point(format!("{connections} connections"), Some(connections as f64)), Load { send })
                });
                self.repeat_loads(bench, noise, loads.into())
            }
            Scenario::SizeSweep => {
                let loads = [16, 64, 256, 1_024, 4_096, 16_384, 65_536].map(|body_bytes| {
                    let send = SendCommand { body_bytes: Some(body_bytes), ..self.load().send };
                    (point(format!("{body_bytes} bytes"), Some(body_bytes as f64)), Load { send })
                });
                self.repeat_loads(bench, noise, loads.into())
            }
            Scenario::Idle => {
                let mut point = point("nothing to do", None);
                self.each_repeat(bench, noise, |bench| idle::repeat(bench, &mut point))?;
                Ok(vec![point])
            }
            Scenario::LatencySweep => self.sweep(bench, noise),
            Scenario::Mixed => self.mixed(bench, noise),
        }
    }

    /// Calls `work` for each repeat, a jitter probe before each.
    fn each_repeat(
        &self,
        bench: &mut Bench,
        noise: &mut Noise,
        mut work: impl FnMut(&mut Bench) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        for repeat in 1..=self.repeat {
            bench.repeat = repeat;
            noise.jitter.push(bench.ceiling.jitter(JITTER_PROBE));
            bench.measure_limits()?;
            work(bench)?;
        }
        Ok(())
    }

    fn repeat_loads(
        &self,
        bench: &mut Bench,
        noise: &mut Noise,
        mut loads: Vec<(Point, Load)>,
    ) -> Result<Vec<Point>, CommandError> {
        self.each_repeat(bench, noise, |bench| {
            loads.iter_mut().try_for_each(|(point, load)| flat_out::repeat(bench, load, point))
        })?;
        Ok(loads.into_iter().map(|(point, _)| point).collect())
    }

    /// The rates given, then twice the last, and again, until the engine falls behind: that is found in the first repeat.
    fn sweep(&self, bench: &mut Bench, noise: &mut Noise) -> Result<Vec<Point>, CommandError> {
        /// The knee is somewhere below: 64 times the last rate.
        const DOUBLINGS_MAX: usize = 6;
        let may_spin = bench.layout.sender_cpu.is_some();
        let plan = |per_second| OpenLoop { per_second, span: bench.each, flood: None, may_spin };
        let mut rates = self.rates.0.clone();
        let mut points: Vec<(OpenLoop, Merged, Point)> = Vec::new();
        let rated = |per_second: u64| point(readable(per_second as f64, "events/s"), Some(per_second as f64));
        let plans: Vec<OpenLoop> = rates.iter().copied().map(&plan).collect();
        points.extend(plans.into_iter().map(|plan| (plan.clone(), Merged::new(), rated(plan.per_second))));
        let span = bench.each;
        self.each_repeat(bench, noise, |bench| {
            let mut pace = Pace::Keeps;
            for (plan, merged, point) in &mut points {
                pace = open_loop::repeat(bench, plan, merged, point)?;
            }
            for _ in 0..DOUBLINGS_MAX {
                let Some(last) = rates.last().copied() else { break };
                if bench.repeat > 1 || pace == Pace::Behind {
                    break;
                }
                let plan = OpenLoop { per_second: last * 2, span, flood: None, may_spin };
                let (mut merged, mut point) = (Merged::new(), rated(last * 2));
                pace = open_loop::repeat(bench, &plan, &mut merged, &mut point)?;
                rates.push(last * 2);
                points.push((plan, merged, point));
            }
            Ok(())
        })?;
        Ok(points.into_iter().map(|(_, merged, point)| Point { curves: merged.curves(), ..point }).collect())
    }

    fn mixed(&self, bench: &mut Bench, noise: &mut Noise) -> Result<Vec<Point>, CommandError> {
        let mut load = self.load();
        load.send.mix = load.send.mix.or_else(|| "0,60,30".parse().ok());
        let generated = load.plan(([127, 0, 0, 1], 9000).into())?;
        let Input::Generated(generate) = generated.input else { unreachable!("a number of events was given") };
        // As many as fit into the time.
        let generate = crate::commands::send::Generate { events: u64::MAX, ..generate };
        let per_second = self.rates.0.first().copied().unwrap_or(10_000);
        let alone = OpenLoop { per_second, span: bench.each, flood: None, may_spin: bench.layout.sender_cpu.is_some() };
        let mut points = [("alone", None), ("beside a flood", Some((generate, generated.connections)))]
            .map(|(name, flood)| (OpenLoop { flood, ..alone.clone() }, Merged::new(), point(name, None)));
        self.each_repeat(bench, noise, |bench| {
            for (plan, merged, point) in &mut points {
                // Ids begin anew with each engine, which has its own memory of duplicates.
                open_loop::repeat(bench, plan, merged, point)?;
            }
            Ok(())
        })?;
        Ok(points.into_iter().map(|(_, merged, point)| Point { curves: merged.curves(), ..point }).collect())
    }
}

fn point(name: impl Into<String>, x: Option<f64>) -> Point {
    Point { name: name.into(), x, ..Point::default() }
}

/// Reads flags of serve as the engine will.
fn read_flags(flags: &[String]) -> Result<Config, CommandError> {
    let words: Vec<&str> = flags.iter().map(String::as_str).collect();
    let refused = |cause: String| {
        usage("the flags of serve are refused", cause, "eventstream serve --help lists them; they stand behind a bare `--`")
    };
    let flags = Flags::parse(&words).map_err(|refusal| refused(refusal.to_string()))?;
    Ok(Config::load(&Layers::of_process(flags))?.config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &[&str]) -> RunCommand {
        RunCommand::from_args(&["run"], line).expect("valid")
    }

    #[test]
    fn timed_scenarios_spin_unless_told_otherwise() {
        assert_eq!(command(&["latency-sweep"]).serve_flags(), ["--idle=spin"]);
        assert_eq!(command(&["mixed", "--", "--idle", "park"]).serve_flags(), ["--idle", "park"]);
        assert_eq!(command(&["ingest-tcp", "--dedup", "off"]).serve_flags(), ["--dedup=off"]);
    }

    #[test]
    fn flags_of_serve_are_refused_before_anything_runs() {
        assert_eq!(read_flags(&["--tcp-chunks=0".to_owned()]).expect_err("a rule").code, ExitStatus::Configuration);
        assert_eq!(read_flags(&["fast".to_owned()]).expect_err("no flag").code, ExitStatus::Usage);
    }

    #[test]
    fn rates_rise() {
        assert_eq!("10, 200".parse(), Ok(Rates(vec![10, 200])));
        for wrong in ["", "0", "200,10", "x"] {
            assert!(wrong.parse::<Rates>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_scenario_is_found_by_its_name() {
        for scenario in Scenario::ALL {
            assert_eq!(scenario.name().parse(), Ok(scenario));
        }
        assert!("ingest".parse::<Scenario>().is_err_and(|refusal| refusal.contains("ingest-tcp, latency-sweep")));
    }
}
