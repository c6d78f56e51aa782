//! `bench run SCENARIO`: flags, what every scenario works with, and the result.

use std::io::Write;
use std::str::FromStr;
use std::time::Duration;

use argh::FromArgs;

use super::flags::{Common, measuring_command};
use super::flat_out::Load;
use super::scenario::Scenario;
use super::{CommandError, ExitStatus, JITTER_PROBE, Scratch, conclude, failed, layout, usage};
use crate::bench::ceiling::{Ceiling, FrameShape, Inflow, Layout, add_references, warnings};
use crate::bench::document::{Document, FORMAT, Point};
use crate::bench::figure::Figures;
use crate::bench::host::Host;
use crate::bench::noise::{CpuTicks, Noise};
use crate::commands::send::{BodySizes, Mix, SendCommand, TopicSkew};
use crate::config::{Config, Flags, Layers};
use crate::sys::clock::Nanos;
use crate::sys::process::raise_descriptor_limit;

/// Events a second of what goes at a steady rate.
pub(super) const STEADY_RATE: u64 = 10_000;

/// Rates of a sweep, events a second, separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rates(pub(super) Vec<u64>);

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

measuring_command! {
    /// runs a scenario: ingest-tcp, ingest-udp, sessions, durability-matrix, latency-sweep, mixed, isolation, overload, connections,
    /// idle-connections, size-sweep, recovery, long or idle. What follows a bare `--` are flags of serve.
    #[derive(FromArgs, Debug)]
    #[argh(subcommand, name = "run")]
    pub(super) struct RunCommand {
        #[argh(positional)]
        scenario: Scenario,
        /// flags of serve, behind a bare `--`
        #[argh(positional)]
        flags: Vec<String>,
        /// seconds of what is not flat out, for each point and repeat; a second of it, at most, for the ceiling pipeline (default: 2)
        #[argh(option, default = "2.0")]
        seconds: f64,
        /// events of a run that is flat out (default: by their size, 800 MB of frames and ten million at most; of sessions 2 million, of long 50 million)
        #[argh(option)]
        pub(super) events: Option<u64>,
        /// bytes of a body (default: 64); or sizes with their shares, such as 64:90,1024:9,16384:1
        #[argh(option)]
        body_bytes: Option<BodySizes>,
        /// shares HIGH,MEDIUM,LOW or CRITICAL,HIGH,MEDIUM,LOW,BATCH (default: 10,60,30; of the flood in mixed 0,60,30; of datagrams 0,0,1)
        #[argh(option)]
        pub(super) mix: Option<Mix>,
        /// TCP connections (default: 8)
        #[argh(option)]
        connections: Option<usize>,
        /// topics (default: 16)
        #[argh(option)]
        topics: Option<u32>,
        /// how unevenly they are used: the exponent of Zipf's law (default: 0, all alike)
        #[argh(option)]
        topic_skew: Option<TopicSkew>,
        /// events a second: those of latency-sweep (default: 10000,100000,500000,1000000), which goes on doubling the last until the engine
        /// falls behind; the first one for what goes at a steady rate (default: 10000, of the probes in isolation and overload 1000)
        #[argh(option)]
        pub(super) rates: Option<Rates>,
        /// as --dedup of serve
        #[argh(option)]
        dedup: Option<String>,
        /// as --durability of serve
        #[argh(option)]
        durability: Option<String>,
    }
}

/// What every scenario works with.
pub(super) struct Bench {
    pub(super) layout: Layout,
    // Before the folder that its file is in.
    pub(super) ceiling: Ceiling,
    /// The machine's own limits, as far as they are measured.
    limits: Figures,
    pub(super) scratch: Scratch,
    /// Flags of serve.
    pub(super) flags: Vec<String>,
    /// The same, read.
    pub(super) config: Config,
    /// How many repeats there are.
    pub(super) repeats: usize,
    /// The repeat that runs, from 1.
    pub(super) repeat: usize,
    /// Of what is not flat out.
    pub(super) each: Duration,
    /// A jitter probe for each repeat.
    noise: Noise,
    /// What a reader should know before the figures.
    pub(super) warnings: Vec<String>,
}

impl Bench {
    /// One round of the machine's own limits (H2), and of the jitter probe: what else a report needs beside the engine's figures.
    ///
    /// # Errors
    /// A limit that can't be measured.
    pub(super) fn measure_machine(&mut self) -> Result<(), CommandError> {
        /// Of each limit. Twelve of them in a round; shorter where what is measured beside them is.
        const FOR_AT_MOST: Duration = Duration::from_millis(150);
        self.noise.jitter.push(self.ceiling.jitter(JITTER_PROBE));
        let at_most = Nanos(FOR_AT_MOST.min(self.each).as_nanos() as u64);
        let inflow = Inflow { shape: FrameShape::REFERENCE, connections: 8, at_most };
        self.ceiling.measure_all(&inflow, &mut self.limits).map_err(|error| failed(&error))
    }

    /// Calls `work` for each repeat, each after a look at the machine.
    ///
    /// # Errors
    /// Those of `work`, at once.
    pub(super) fn each_repeat(
        &mut self,
        mut work: impl FnMut(&mut Bench) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        for repeat in 1..=self.repeats {
            self.repeat = repeat;
            self.measure_machine()?;
            work(self)?;
        }
        Ok(())
    }

    /// Findings of the repeat that runs, as a point keeps them.
    pub(super) fn losses(&self, found: impl IntoIterator<Item = String>) -> Vec<String> {
        found.into_iter().map(|loss| format!("repeat {}: {loss}", self.repeat)).collect()
    }

    /// Where the engine of a repeat has its data; whoever starts one removes it.
    pub(super) fn engine_data(&self) -> std::path::PathBuf {
        self.scratch.0.join("engine")
    }
}

impl RunCommand {
    /// Measures, writes and prints.
    ///
    /// # Errors
    /// Arguments or flags that make no sense, an engine that does not start, a run in which an event was lost.
    pub(super) fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let common = self.common();
        if common.repeat == 0 || !(0.01..=3_600.0).contains(&self.seconds) {
            return Err(usage("nothing to measure", "--repeat is at least 1, --seconds 0.01 to 3600", "--repeat 5 --seconds 2"));
        }
        let (layout, warning) = layout(common.engine_core, common.sender_core)?;
        let flags = self.serve_flags();
        let config = read_flags(&flags)?;
        // Refused here, and not after a minute.
        self.load(&flags).plan(([127, 0, 0, 1], 9000).into())?;
        // Best effort: ten thousand connections have a descriptor each here, and another in the engine.
        let _ = raise_descriptor_limit();
        let scratch = Scratch::make(&common.data_dir)?;
        let began = CpuTicks::now();
        let mut bench = Bench {
            layout,
            ceiling: Ceiling::prepare(layout, &scratch.0).map_err(|error| failed(&error))?,
            limits: Figures::default(),
            scratch,
            flags,
            config,
            repeats: common.repeat,
            repeat: 0,
            each: Duration::from_secs_f64(self.seconds),
            noise: Noise::default(),
            warnings: warning.into_iter().collect(),
        };
        let points = (self.scenario.measure)(&self, &mut bench)?;
        bench.noise.stolen_percent = CpuTicks::now().stolen_percent_since(began);
        add_references(&mut bench.limits);
        bench.warnings.extend(warnings(&bench.limits));
        let document = Document {
            format: FORMAT,
            scenario: self.scenario.name.to_owned(),
            about: self.scenario.about.to_owned(),
            axis: self.scenario.axis.map(str::to_owned),
            host: Host::look(&bench.scratch.0),
            settings: self.settings(&common, &bench),
            noise: bench.noise,
            limits: bench.limits,
            warnings: bench.warnings,
            points,
        };
        conclude(&document, &common.out, common.json, out)
    }

    /// The flags of serve that the scenario runs with: those given, and what it needs where it isn't given.
    fn serve_flags(&self) -> Vec<String> {
        let mut flags = self.flags.clone();
        let named = [("dedup", &self.dedup), ("durability", &self.durability)];
        flags.extend(named.into_iter().filter_map(|(name, value)| value.as_ref().map(|value| format!("--{name}={value}"))));
        for (name, value) in self.scenario.needs {
            if !flags.iter().any(|flag| is_flag(flag, name)) {
                flags.push(format!("--{name}={value}"));
            }
        }
        flags
    }

    /// What is sent flat out, to an engine with these flags.
    pub(super) fn load(&self, flags: &[String]) -> Load {
        let send = SendCommand {
            generate: self.events,
            body_bytes: self.body_bytes.clone(),
            mix: self.mix,
            connections: self.connections,
            topics: self.topics,
            topic_skew: self.topic_skew,
            ..SendCommand::default()
        };
        Load { send, flags: flags.to_vec(), silent_connections: 0 }
    }

    /// Of what goes at a steady rate, events a second.
    pub(super) fn steady_rate(&self, default: u64) -> u64 {
        self.rates.as_ref().and_then(|rates| rates.0.first().copied()).unwrap_or(default)
    }

    fn settings(&self, common: &Common, bench: &Bench) -> std::collections::BTreeMap<String, String> {
        fn or(value: Option<impl ToString>, default: &str) -> String {
            value.map_or_else(|| default.to_owned(), |value| value.to_string())
        }
        let all = [
            ("engine core", bench.layout.engine_cpu.to_string()),
            ("sender core", or(bench.layout.sender_cpu, "none")),
            ("repeats", common.repeat.to_string()),
            ("seconds", self.seconds.to_string()),
            ("events", or(self.events, "by their size")),
            ("bytes of a body", or(self.body_bytes.as_ref(), "64")),
            ("mix by priority, 0 to 4", or(self.mix.map(|mix| format!("{:?}", mix.shares())), "the standard one")),
            ("connections", or(self.connections, "8")),
            ("topics", or(self.topics, "16")),
            ("skew of topics", or(self.topic_skew, "0")),
            ("flags of serve", if bench.flags.is_empty() { "none".to_owned() } else { bench.flags.join(" ") }),
        ];
        all.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

/// A point without figures yet.
pub(super) fn point(name: impl Into<String>, x: Option<f64>) -> Point {
    Point { name: name.into(), x, ..Point::default() }
}

/// Whether an argument is that flag, with its value or before it.
fn is_flag(argument: &str, name: &str) -> bool {
    let name_given = argument.strip_prefix("--").map(|rest| rest.split_once('=').map_or(rest, |(name, _)| name));
    name_given == Some(name)
}

/// The flags with another value for one of them.
pub(super) fn with_flag(flags: &[String], name: &str, value: &str) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = flags.iter();
    while let Some(flag) = rest.next() {
        if !is_flag(flag, name) {
            kept.push(flag.clone());
        } else if !flag.contains('=') {
            // Its value is the next one.
            rest.next();
        }
    }
    kept.push(format!("--{name}={value}"));
    kept
}

/// Reads flags of serve as the engine will.
///
/// # Errors
/// Flags that serve would refuse.
pub(super) fn read_flags(flags: &[String]) -> Result<Config, CommandError> {
    let words: Vec<&str> = flags.iter().map(String::as_str).collect();
    let refused = |cause: String| {
        usage("the flags of serve are refused", cause, "eventstream serve --help lists them; they stand behind a bare `--`")
    };
    let flags = Flags::parse(&words).map_err(|refusal| refused(refusal.to_string()))?;
    Ok(Config::load(&Layers::of_process(flags))?.config)
}

#[cfg(test)]
mod tests {
    use super::super::scenario::SCENARIOS;
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
    fn the_flags_that_a_scenario_needs_are_flags_of_serve() {
        for scenario in SCENARIOS {
            let flags = command(&[scenario.name]).serve_flags();
            assert!(read_flags(&flags).is_ok(), "{}: {flags:?}", scenario.name);
        }
    }

    #[test]
    fn a_flag_is_replaced_in_either_form_and_no_other() {
        let flags = ["--idle", "park", "--idle-deadline-ms=5", "--idle=spin"].map(str::to_owned);
        assert_eq!(with_flag(&flags, "idle", "adaptive"), ["--idle-deadline-ms=5", "--idle=adaptive"]);
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
    fn the_help_names_every_scenario() {
        let help = RunCommand::from_args(&["run"], &["--help"]).expect_err("help").output;
        for scenario in SCENARIOS {
            // Words are wrapped.
            assert!(
                help.split(|c: char| c.is_whitespace() || c == ',').any(|word| word.trim_end_matches('.') == scenario.name),
                "{}",
                scenario.name
            );
        }
    }
}
