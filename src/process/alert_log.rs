//! The alert log: a file of JSON lines, one per alert, so many a second, rotated. Without rules every REALTIME event is an alert.
//!
//! ```text
//! agent: within the rate? ── copy a bounded record ──► queue (fixed) ──► helper thread: JSON, append
//!             └── no: suppressed, counted                 └── full: lost, counted
//! ```
//!
//! Inline by its nature: a copy of at most half a kilobyte, no system call, no allocation; and never so many as to matter. The helper looks
//! into the queue every [`WRITE_EVERY`], so that the agent pays for no wake-up either; a line is in the file that much later.
//!
//! The rate is counted in whole seconds of the events' own receive times, so that the same events give the same lines.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};
use crate::pool::EventView;
use crate::process::alert_line::AlertFacts;
use crate::process::handler::{AlertHandler, HandlerMode, text_prefix};
use crate::process::rate::RateLimit;
use crate::process::rules::{ActionKind, RULES_MAX, RulesCounters};
use crate::storage::rotating_file::{Complaints, RotatingFile, RotatingFileLimits};
use crate::sys::process::helper_thread_setup;

/// How often the helper writes what has come.
pub const WRITE_EVERY: Duration = Duration::from_millis(100);

/// Bytes of a topic that a line keeps.
pub const TOPIC_BYTES_MAX: usize = 128;

/// Bytes of a body that a line keeps.
pub const BODY_BYTES_MAX: usize = 320;

/// Where alerts go, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertLogOptions {
    /// The file; it is made if it isn't there. `data/alerts.jsonl` unless told otherwise.
    pub path: PathBuf,
    /// When it is renamed away, and how many renamed ones are kept. Default 64 MiB and 2.
    pub limits: RotatingFileLimits,
    /// Lines per second at most; 0 suppresses all. Default 1000.
    pub alerts_per_s_max: u32,
    /// Records that may wait for the helper, at least 1. Default 1024 (half a megabyte).
    pub queue_records_max: usize,
}

impl AlertLogOptions {
    /// The defaults, for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let limits = RotatingFileLimits { file_bytes_max: 64 << 20, keep_files: 2 };
        Self { path: path.into(), limits, alerts_per_s_max: 1000, queue_records_max: 1024 }
    }

    /// Bytes that the queue takes.
    pub fn queue_bytes(&self) -> usize {
        self.queue_records_max * (size_of::<Record>() + size_of::<usize>())
    }
}

/// What the alert log counts.
#[derive(Debug, Default)]
pub struct AlertLogCounters {
    /// Above the rate (written by the agent).
    pub suppressed: Counter,
    /// The queue was full (written by the agent).
    pub overflowed: Counter,
    /// In the file (written by the helper).
    pub written: Counter,
    /// Refused by the file system (written by the helper).
    pub lost: Counter,
}

impl Measured for AlertLogCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        let mut one =
            |name, help, counter: &Counter| sink(Sample { name, help, kind: Kind::Counter, labels: &[], value: counter.get() });
        one("alerts_written", "Lines of the alert log written", &self.written);
        one("alerts_suppressed", "Alerts above the rate limit of the alert log", &self.suppressed);
        one("alerts_overflowed", "Alerts lost to a full queue before the alert log", &self.overflowed);
        one("alerts_lost", "Lines of the alert log lost to a refused write", &self.lost);
    }
}

/// A copy of what a line needs.
struct Record {
    facts: AlertFacts,
    topic_kept: u16,
    body_kept: u16,
    topic: [u8; TOPIC_BYTES_MAX],
    body: [u8; BODY_BYTES_MAX],
}

struct Shared {
    queue: ArrayQueue<Record>,
    stop: AtomicBool,
    counters: Arc<AlertLogCounters>,
    /// Whose names the lines carry; empty without rules.
    rules: Arc<RulesCounters>,
}

/// The handler. Dropping it writes what is queued.
pub struct AlertLog {
    shared: Arc<Shared>,
    helper: Option<JoinHandle<()>>,
    rate: RateLimit,
}

impl AlertLog {
    /// Opens the file and starts the helper thread.
    ///
    /// # Errors
    /// What opening the file or starting the thread says.
    pub fn open(options: &AlertLogOptions) -> io::Result<Self> {
        Self::for_rules(options, Arc::default())
    }

    /// As [`AlertLog::open`], for alerts of rules: lines carry the rule's name, and count as its actions.
    pub(crate) fn for_rules(options: &AlertLogOptions, rules: Arc<RulesCounters>) -> io::Result<Self> {
        let file = RotatingFile::open(&options.path, options.limits)?;
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(options.queue_records_max.max(1)),
            stop: AtomicBool::new(false),
            counters: Arc::default(),
            rules,
        });
        let writer = Writer {
            shared: shared.clone(),
            file,
            lines: Vec::new(),
            by_rule: [0; RULES_MAX],
            complaints: Complaints::default(),
        };
        let helper = std::thread::Builder::new().name("alerts".into()).spawn(move || writer.run())?;
        Ok(Self { shared, helper: Some(helper), rate: RateLimit::new(options.alerts_per_s_max) })
    }

    /// Its counters, for the exporter.
    pub fn counters(&self) -> Arc<AlertLogCounters> {
        self.shared.counters.clone()
    }

    /// Queues an alert. False: above the rate, or the queue is full; counted here.
    pub(crate) fn record(&mut self, event: &EventView<'_>, rule: Option<u8>) -> bool {
        if !self.rate.admits(event.header.received_at) {
            self.shared.counters.suppressed.add(1);
            return false;
        }
        let topic_kept = text_prefix(event.topic, TOPIC_BYTES_MAX).len();
        let body_kept = event.body.len().min(BODY_BYTES_MAX);
        let mut record = Record {
            facts: AlertFacts::of(event, rule),
            topic_kept: topic_kept as u16,
            body_kept: body_kept as u16,
            topic: [0; TOPIC_BYTES_MAX],
            body: [0; BODY_BYTES_MAX],
        };
        record.topic[..topic_kept].copy_from_slice(&event.topic.as_bytes()[..topic_kept]);
        record.body[..body_kept].copy_from_slice(&event.body[..body_kept]);
        let is_queued = self.shared.queue.push(record).is_ok();
        if !is_queued {
            self.shared.counters.overflowed.add(1);
        }
        is_queued
    }
}

impl AlertHandler for AlertLog {
    fn name(&self) -> &'static str {
        "alert_log"
    }

    fn mode(&self) -> HandlerMode {
        HandlerMode::Inline
    }

    fn handle(&mut self, event: &EventView<'_>) {
        self.record(event, None);
    }
}

impl Drop for AlertLog {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(helper) = self.helper.take() {
            helper.thread().unpark();
            // It only ends early by a panic of our own code, which has been reported on its way.
            let _ = helper.join();
        }
    }
}

/// The thread's side.
struct Writer {
    shared: Arc<Shared>,
    file: RotatingFile,
    /// What has come since the last look, as text.
    lines: Vec<u8>,
    /// Whose lines these are.
    by_rule: [u64; RULES_MAX],
    complaints: Complaints,
}

impl Writer {
    fn run(mut self) {
        helper_thread_setup();
        loop {
            // Looked at before the queue: what was queued before the stop is written.
            let stopping = self.shared.stop.load(Ordering::Acquire);
            let mut count = 0;
            while let Some(record) = self.shared.queue.pop() {
                count += 1;
                self.take(&record);
            }
            if count > 0 {
                self.write(count);
            }
            if stopping {
                return;
            }
            std::thread::park_timeout(WRITE_EVERY);
        }
    }

    fn take(&mut self, record: &Record) {
        let topic = std::str::from_utf8(&record.topic[..usize::from(record.topic_kept)]).expect("cut between characters");
        let rule = record.facts.rule.map(|rule| self.shared.rules.name(rule));
        record.facts.write_line(rule, topic, &record.body[..usize::from(record.body_kept)], &mut self.lines);
        if let Some(rule) = record.facts.rule {
            self.by_rule[usize::from(rule)] += 1;
        }
    }

    fn write(&mut self, count: u64) {
        let written = self.file.append(&self.lines);
        let counters = &self.shared.counters;
        match &written {
            Ok(()) => counters.written.add(count),
            Err(error) => {
                counters.lost.add(count);
                if self.complaints.is_due() {
                    log::error!("{count} lines lost: cannot write {}: {error}", self.file.path().display());
                }
            }
        }
        for (rule, count) in self.by_rule.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            let action = self.shared.rules.action(rule as u8, ActionKind::Log);
            if written.is_ok() {
                action.done.add(*count)
            } else {
                action.failed.add(*count)
            }
            *count = 0;
        }
        self.lines.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::test_support::TestPool;

    fn lines(path: &std::path::Path) -> Vec<serde_json::Value> {
        std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_hold_a_bounded_part_of_the_event() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let mut log = AlertLog::open(&AlertLogOptions::new(&path)).unwrap();
        let mut pool = TestPool::new();
        let long = "é".repeat(1000);
        for body in [b"plain".as_slice(), &[0xff, 0xfe], long.as_bytes()] {
            let event = pool.realtime(7, "line/1\"", body);
            log.handle(&pool.shared.view(&event));
            pool.release(event);
        }
        drop(log);
        let lines = lines(&path);
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[0]["topic"], &lines[0]["body"], &lines[0]["id"]), (&"line/1\"".into(), &"plain".into(), &7.into()));
        assert_eq!((&lines[1]["body_base64"], &lines[1]["is_cut"]), (&"//4=".into(), &false.into()));
        assert_eq!((&lines[2]["body"], &lines[2]["is_cut"]), (&"é".repeat(BODY_BYTES_MAX / 2).into(), &true.into()));
    }

    #[test]
    fn alerts_above_the_rate_are_suppressed_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let mut log = AlertLog::open(&AlertLogOptions { alerts_per_s_max: 3, ..AlertLogOptions::new(&path) }).unwrap();
        let counters = log.counters();
        let mut pool = TestPool::new();
        for second in 0..2 {
            pool.now_ns = second * 1_000_000_000;
            for id in 0..10 {
                let event = pool.realtime(id, "t", b"");
                log.handle(&pool.shared.view(&event));
                pool.release(event);
            }
        }
        drop(log);
        assert_eq!((lines(&path).len(), counters.written.get(), counters.suppressed.get()), (6, 6, 14));
    }

    #[test]
    fn a_full_file_is_renamed_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("alerts.jsonl");
        let limits = RotatingFileLimits { file_bytes_max: 100, keep_files: 1 };
        let mut pool = TestPool::new();
        for id in 0..3 {
            let mut log = AlertLog::open(&AlertLogOptions { limits, ..AlertLogOptions::new(&path) }).unwrap();
            let event = pool.realtime(id, "t", b"of some length, so that two lines are too many");
            log.handle(&pool.shared.view(&event));
            pool.release(event);
        }
        let (newest, before) = (lines(&path), lines(&folder.path().join("alerts.jsonl.1")));
        assert_eq!((newest.len(), &newest[0]["id"], before.len(), &before[0]["id"]), (1, &2.into(), 1, &1.into()));
    }
}
