//! The account of a run: for the terminal, and as one page with the plot in it.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;
use std::time::Duration;

use eventstream::control::Level;
use eventstream::report::DrainSummary;
use eventstream::sys::process::kernel_release;

use crate::observe::{Observer, Sample, seconds};
use crate::phases::{ALONE, RECOVERY};
use crate::plot;
use crate::verdict::{self, Expectation, PhaseLatency, Sent};

/// A run and what is made of it.
pub struct Run {
    probes_per_second: u64,
    cost: Duration,
    observer: Observer,
    latencies: Vec<PhaseLatency>,
    sent: Sent,
    account: DrainSummary,
    expectations: Vec<Expectation>,
}

impl Run {
    /// Judges a run by what was observed, sent and accounted for.
    pub fn judge(
        probes_per_second: u64,
        cost: Duration,
        observer: Observer,
        latencies: Vec<PhaseLatency>,
        sent: Sent,
        account: DrainSummary,
    ) -> Self {
        let expectations = verdict::judge(&observer.samples, &latencies, &sent, &account, observer.entered);
        Self { probes_per_second, cost, observer, latencies, sent, account, expectations }
    }

    /// Whether the account is clean and balances to the event, the senders' own count included.
    pub fn balances(&self) -> bool {
        verdict::balances(&self.sent, &self.account)
    }

    /// What was seen.
    pub fn samples(&self) -> &[Sample] {
        &self.observer.samples
    }

    fn levels(&self) -> String {
        let times = verdict::time_in_levels(self.samples());
        let level = |level: Level| {
            let index = level.index();
            format!("{:<10} {:6.1} s, entered {} times\n", level.name(), times[index], self.observer.entered[index])
        };
        Level::ALL.map(level).concat()
    }

    fn phases(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<10} {:>7} {:>9} {:>9} {:>9} {:>9} {:>11} {:>13} {:>13} {:>13}",
            "phase", "seconds", "probes", "p50 µs", "p99 µs", "max µs", "core taken", "offered/s", "received/s", "stored/s"
        );
        for phase in &self.latencies {
            let mut samples = self.samples().iter().filter(|sample| sample.phase == phase.phase);
            let (first, last) = (samples.next(), samples.next_back());
            let micros = |quantile: f64| phase.latencies.value_at_quantile(quantile) as f64 / 1e3;
            let per_second = |count: fn(&Sample) -> u64| match (first, last) {
                (Some(first), Some(last)) => {
                    (count(last) - count(first)) as f64 / (seconds(last.at) - seconds(first.at)).max(1e-9)
                }
                _ => 0.0,
            };
            let _ = writeln!(
                text,
                "{:<10} {:>7.1} {:>9} {:>9.1} {:>9.1} {:>9.1} {:>9.1} % {:>13.0} {:>13.0} {:>13.0}",
                phase.phase,
                phase.took.as_secs_f64(),
                phase.latencies.len(),
                micros(0.5),
                micros(0.99),
                micros(1.0),
                per_second(|sample| sample.core_taken.0) / 1e7,
                per_second(|sample| sample.offered),
                per_second(|sample| sample.received),
                per_second(|sample| sample.stored),
            );
        }
        text.push_str("core taken: time for which the engine was ready to run and others had its core; latencies hold it, and it is the host's.\n");
        text
    }

    /// What of the flood was let in and stored, from its first phase to its last.
    fn flood(&self) -> String {
        let during = |sample: &&Sample| sample.phase != ALONE && sample.phase != RECOVERY;
        let (Some(first), Some(last)) = (self.samples().iter().find(during), self.samples().iter().rfind(during)) else {
            return String::new();
        };
        let took = (seconds(last.at) - seconds(first.at)).max(1e-9);
        let offered = last.offered - first.offered;
        let line = |name: &str, count: u64| {
            format!(
                "{name:<24} {count:>12}  {:>12.0}/s  {:5.1} %\n",
                count as f64 / took,
                count as f64 * 100.0 / offered.max(1) as f64
            )
        };
        [
            line("offered", offered),
            line("received", last.received - first.received),
            line("shed by levels", last.shed() - first.shed()),
            line("lost for want of room", last.overflown() - first.overflown()),
            line("dropped by the kernel", last.kernel_drops - first.kernel_drops),
            line("stored", last.stored - first.stored),
        ]
        .concat()
    }

    /// Writes `report.html` into a folder.
    ///
    /// # Errors
    /// The plot or the file could not be made.
    pub fn write(&self, folder: &Path) -> Result<(), Box<dyn Error>> {
        let svg = plot::svg(self.samples(), verdict::p99_bar(&self.latencies))?;
        let mut page = String::from(HEAD);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        write!(
            page,
            "<p>Linux {}, {cpus} CPUs. Engine on a core of its own where there are two; TRANSACTIONAL handler of {:?} an event; \
             {} probes a second of priority CRITICAL on a TCP connection of their own.</p>",
            escape(&kernel_release()),
            self.cost,
            self.probes_per_second,
        )?;
        page.push_str("<table><tr><th></th><th>expected</th><th>was</th></tr>");
        for Expectation { what, held, figures } in &self.expectations {
            let (class, word) = if *held { ("held", "held") } else { ("not", "not held") };
            write!(page, "<tr class={class}><td>{word}</td><td>{}</td><td>{}</td></tr>", escape(what), escape(figures))?;
        }
        page.push_str("</table>\n");
        page.push_str(&svg);
        for (title, text) in [
            ("Levels", self.levels()),
            ("Phases", self.phases()),
            ("The flood, from its first phase to its last", self.flood()),
            ("What the engine said", self.told()),
            ("The engine's account", self.account.to_string()),
        ] {
            write!(page, "<h2>{title}</h2><pre>{}</pre>", escape(&text))?;
        }
        page.push_str("</body></html>\n");
        fs::write(folder.join("report.html"), page)?;
        Ok(())
    }

    fn told(&self) -> String {
        self.observer.told.iter().map(|(at, line)| format!("{:6.1} s  {line}\n", seconds(*at))).collect()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n── levels\n{}", self.levels())?;
        writeln!(f, "── phases\n{}", self.phases())?;
        writeln!(f, "── the flood, from its first phase to its last\n{}", self.flood())?;
        writeln!(f, "── the engine's account\n{}", self.account)?;
        writeln!(f, "── expectations")?;
        self.expectations.iter().try_for_each(|expectation| writeln!(f, "{expectation}"))
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const HEAD: &str = "<!doctype html><html lang=en><head><meta charset=utf-8><title>eventstream under overload</title><style>
body{font:15px/1.5 sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.3em .8em;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}
.held td:first-child{color:#007a3d;font-weight:bold}.not td:first-child{color:#b00020;font-weight:bold;white-space:nowrap}
pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:13px}svg{max-width:100%;height:auto;margin:1em 0}
</style></head><body><h1>eventstream under overload</h1>
";
