//! What a start and an end tell a person: one screen each, filled by the engine, printed by `serve`.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::metrics::ledger::Ledger;
use crate::metrics::status::{StatusDocument, write_counts, write_latencies, write_ledger};
use crate::metrics::telemetry::{LatencySummary, LogPosition, Snapshot};

/// What the engine says once when it has started.
#[derive(Clone, Debug, Default)]
pub struct StartReport {
    /// Where TCP is listened on, the chosen port included; `None`: off.
    pub tcp: Option<SocketAddr>,
    /// Where UDP is; `None`: off.
    pub udp: Option<SocketAddr>,
    /// Where the admin endpoint is; `None`: off.
    pub admin: Option<SocketAddr>,
    /// The folder of the log; `None` with `--storage off`.
    pub data_dir: Option<PathBuf>,
    /// What opening each log found, a line each (`events.bin: 1204 events, next sequence 1205, nothing cut`).
    pub logs: Vec<String>,
    /// The core plan, as text.
    pub plan: String,
    /// The memory budget, as an aligned table with its sum.
    pub budget: String,
    /// What the host does not give, a line each with its fix.
    pub findings: Vec<String>,
    /// What else is worth knowing, a line each (dedup's effective window, an idle strategy that was lowered).
    pub notes: Vec<String>,
}

/// A titled block, its lines indented; nothing where there are no lines.
fn write_block<'a>(f: &mut fmt::Formatter<'_>, title: &str, lines: impl Iterator<Item = &'a str>) -> fmt::Result {
    for (index, line) in lines.filter(|line| !line.trim().is_empty()).enumerate() {
        if index == 0 {
            writeln!(f, "{title}")?;
        }
        writeln!(f, "  {}", line.trim_end())?;
    }
    Ok(())
}

impl fmt::Display for StartReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = |address: Option<SocketAddr>| address.map_or("off".to_owned(), |address| address.to_string());
        writeln!(f, "eventstream {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(f, "tcp {}  udp {}  admin {}", address(self.tcp), address(self.udp), address(self.admin))?;
        match &self.data_dir {
            Some(folder) => writeln!(f, "data {}", folder.display())?,
            None => writeln!(f, "data: storage is off, events end when their handler is done")?,
        }
        write_block(f, "log", self.logs.iter().map(String::as_str))?;
        write_block(f, "plan", self.plan.lines())?;
        write_block(f, "memory", self.budget.lines())?;
        write_block(f, "what the host does not give", self.findings.iter().map(String::as_str))?;
        write_block(f, "notes", self.notes.iter().map(String::as_str))
    }
}

/// What became of the dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterSplit {
    /// In the file.
    pub written: u64,
    /// Counted, not encoded: beyond 10,000 a second only samples are.
    pub sampled_out: u64,
    /// Queue or disk full.
    pub lost: u64,
}

impl DeadLetterSplit {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.written + self.sampled_out + self.lost
    }
}

/// What the kernel dropped at one socket before the engine saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelDrops {
    /// The socket's name in metrics.
    pub socket: String,
    /// Datagrams; with aggregation on, aggregates.
    pub count: u64,
    /// Whether that is exact, or a lower bound.
    pub exact: bool,
}

/// Why a drain began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainCause {
    /// Whoever embeds the engine asked for it.
    Asked,
    /// A signal, by its name.
    Signal(&'static str),
    /// The store failed for good: the text says how.
    StoreFailed(String),
    /// A runner ended by itself: the text says why.
    RunnerEnded(String),
}

impl DrainCause {
    /// Whether the engine was asked to end.
    pub fn is_asked_for(&self) -> bool {
        matches!(self, DrainCause::Asked | DrainCause::Signal(_))
    }
}

impl fmt::Display for DrainCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DrainCause::Asked => f.write_str("asked to stop"),
            DrainCause::Signal(name) => f.write_str(name),
            DrainCause::StoreFailed(why) => write!(f, "the store failed: {why}"),
            DrainCause::RunnerEnded(why) => write!(f, "a runner ended: {why}"),
        }
    }
}

/// The account at the end. All counts are final: every agent has stopped.
#[derive(Clone, Debug)]
pub struct DrainSummary {
    /// Why it began.
    pub cause: DrainCause,
    /// How long it took.
    pub took: Duration,
    /// Whether `--drain-timeout-ms` passed before everything was finished.
    pub deadline_missed: bool,
    /// The ledger.
    pub ledger: Ledger,
    /// Events still held, counted from slots and copies; 0 after a complete drain.
    pub in_flight: u64,
    /// Slots that did not come home.
    pub slots_missing: u64,
    /// What became of the dead letters.
    pub dead_letters: DeadLetterSplit,
    /// Frames that never became events, by reason.
    pub refused_frames: BTreeMap<String, u64>,
    /// By socket.
    pub kernel_drops: Vec<KernelDrops>,
    /// By tier and stage.
    pub latencies: Vec<(&'static str, LatencySummary)>,
    /// How far the logs are.
    pub logs: Vec<LogPosition>,
}

/// What is wrong with an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imbalance {
    /// Receipts are not outcomes plus what is held.
    Ledger {
        /// Events received.
        received: u64,
        /// Outcomes counted.
        outcomes: u64,
        /// Events still held.
        in_flight: u64,
    },
    /// The dead letters' fates don't add up to those of the ledger.
    DeadLetters {
        /// By the ledger.
        counted: u64,
        /// Written, sampled out or lost.
        accounted: u64,
    },
    /// Slots that did not come home though nothing is held.
    Slots(u64),
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Imbalance::Ledger { received, outcomes, in_flight } => {
                let difference = i128::from(*received) - i128::from(*outcomes) - i128::from(*in_flight);
                write!(f, "received {received} is not outcomes {outcomes} + in flight {in_flight} (difference {difference})")
            }
            Imbalance::DeadLetters { counted, accounted } => {
                write!(f, "{counted} events were dead-lettered, {accounted} of them are accounted for")
            }
            Imbalance::Slots(missing) => write!(f, "{missing} slots did not come home"),
        }
    }
}

impl DrainSummary {
    /// The account of a snapshot taken after every agent had stopped. The engine adds what a snapshot doesn't know.
    pub fn of(snapshot: &Snapshot, cause: DrainCause, took: Duration) -> Self {
        let status = StatusDocument::of(snapshot);
        let kernel_drops = status.kernel_drops.into_iter().map(|(socket, count)| KernelDrops { socket, count, exact: true });
        Self {
            cause,
            took,
            deadline_missed: false,
            ledger: snapshot.ledger.clone(),
            in_flight: snapshot.in_flight,
            slots_missing: 0,
            dead_letters: DeadLetterSplit::default(),
            refused_frames: status.refused_frames,
            kernel_drops: kernel_drops.collect(),
            latencies: snapshot.latencies.iter().map(|(name, values)| (*name, LatencySummary::of(values))).collect(),
            logs: snapshot.logs.clone(),
        }
    }

    /// Looks whether the account adds up.
    ///
    /// # Errors
    /// Everything that does not.
    pub fn balance(&self) -> Result<(), Vec<Imbalance>> {
        let total = self.ledger.total();
        let mut wrong = Vec::new();
        if !self.ledger.balances(self.in_flight) {
            wrong.push(Imbalance::Ledger { received: total.received, outcomes: total.outcomes(), in_flight: self.in_flight });
        }
        if total.dead_lettered() != self.dead_letters.total() {
            wrong.push(Imbalance::DeadLetters { counted: total.dead_lettered(), accounted: self.dead_letters.total() });
        }
        if self.slots_missing > 0 && self.in_flight == 0 {
            wrong.push(Imbalance::Slots(self.slots_missing));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// Whether the end was asked for, everything was finished, and the account adds up.
    pub fn is_clean(&self) -> bool {
        self.cause.is_asked_for() && !self.deadline_missed && self.in_flight == 0 && self.balance().is_ok()
    }
}

impl fmt::Display for DrainSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "drained in {:.3} s ({})", self.took.as_secs_f64(), self.cause)?;
        if self.deadline_missed {
            writeln!(f, "DRAIN DEADLINE MISSED: {} events were still held and are given up", self.in_flight)?;
        }
        // The table's columns are those of the status document.
        let status = self.status();
        write_ledger(f, &status.total, &status.tiers, &status.sources)?;
        let letters = self.dead_letters;
        if letters.total() > 0 {
            let DeadLetterSplit { written, sampled_out, lost } = letters;
            writeln!(f, "  dead letters: {written} written, {sampled_out} sampled out, {lost} lost")?;
        }
        write_counts(f, "refused frames", &self.refused_frames)?;
        for drops in self.kernel_drops.iter().filter(|drops| drops.count > 0) {
            let least = if drops.exact { "" } else { "at least " };
            writeln!(f, "  dropped by the kernel at {}: {least}{}", drops.socket, drops.count)?;
        }
        for log in &self.logs {
            writeln!(f, "  log of node {}: written to {}, durable to {}", log.node, log.written_sequence, log.durable_sequence)?;
        }
        write_latencies(f, self.latencies.iter().copied())?;
        match self.balance() {
            Ok(()) => writeln!(f, "ledger: balanced"),
            Err(wrong) => {
                writeln!(f, "ledger: DOES NOT BALANCE")?;
                wrong.iter().try_for_each(|imbalance| writeln!(f, "  {imbalance}"))
            }
        }
    }
}

impl DrainSummary {
    fn status(&self) -> StatusDocument {
        let mut status = StatusDocument::of_ledger(&self.ledger);
        // After a drain what is in flight was counted; only the total is known, and it replaces the difference.
        status.total.in_flight = self.in_flight;
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ledger::{DropReason, LedgerCells};
    use crate::pool::Source;
    use crate::wire::Tier;

    fn summary(fill: impl FnOnce(&LedgerCells)) -> DrainSummary {
        let cells = LedgerCells::default();
        fill(&cells);
        DrainSummary {
            cause: DrainCause::Signal("SIGTERM"),
            took: Duration::from_millis(12),
            deadline_missed: false,
            ledger: Ledger::read(std::iter::once(&cells)),
            in_flight: 0,
            slots_missing: 0,
            dead_letters: DeadLetterSplit::default(),
            refused_frames: BTreeMap::new(),
            kernel_drops: Vec::new(),
            latencies: Vec::new(),
            logs: Vec::new(),
        }
    }

    fn ten_received_seven_stored_three_evicted(cells: &LedgerCells) {
        let cell = cells.cell(Source::Tcp, Tier::Realtime);
        cell.received.add(10);
        cell.stored.add(7);
        cell.lost[DropReason::QueueFull as usize].add(3);
    }

    #[test]
    fn a_balanced_account_says_so_and_splits_its_dead_letters() {
        let mut account = summary(ten_received_seven_stored_three_evicted);
        account.dead_letters = DeadLetterSplit { written: 2, sampled_out: 0, lost: 1 };
        let text = account.to_string();
        assert!(account.is_clean());
        assert!(text.ends_with("ledger: balanced\n"), "{text}");
        assert!(text.contains("dead letters: 2 written, 0 sampled out, 1 lost"), "{text}");
        assert!(text.contains("dead-lettered: queue_full 3"), "{text}");
    }

    #[test]
    fn a_missing_event_is_loud_and_not_clean() {
        let account = summary(|cells| cells.cell(Source::Udp, Tier::Batch).received.add(1));
        assert_eq!(account.balance(), Err(vec![Imbalance::Ledger { received: 1, outcomes: 0, in_flight: 0 }]));
        assert!(!account.is_clean());
        assert!(account.to_string().contains("ledger: DOES NOT BALANCE"));
    }

    #[test]
    fn dead_letters_without_a_fate_are_an_imbalance() {
        let account = summary(ten_received_seven_stored_three_evicted);
        assert_eq!(account.balance(), Err(vec![Imbalance::DeadLetters { counted: 3, accounted: 0 }]));
    }

    #[test]
    fn an_end_that_left_events_behind_balances_and_is_still_not_clean() {
        let mut account = summary(|cells| cells.cell(Source::Tcp, Tier::Batch).received.add(4));
        (account.in_flight, account.deadline_missed) = (4, true);
        assert_eq!(account.balance(), Ok(()));
        assert!(!account.is_clean());
    }

    #[test]
    fn an_end_nobody_asked_for_is_not_clean() {
        let mut account = summary(|_| {});
        account.cause = DrainCause::StoreFailed("write failed: EIO".to_owned());
        assert!(!account.is_clean());
        assert!(account.to_string().contains("the store failed: write failed: EIO"));
    }
}
