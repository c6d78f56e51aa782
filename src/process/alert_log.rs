//! The stock REALTIME handler: a file of JSON lines, one per event, so many a second.
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
//!
//! The file is opened for appending and only grows; rotate it from outside by copying and truncating.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use crossbeam_queue::ArrayQueue;
use serde::Serialize;

use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};
use crate::pool::EventView;
use crate::process::handler::{AlertHandler, HandlerMode, text_prefix};
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
    /// Lines per second at most; 0 suppresses all. Default 1000.
    pub alerts_per_s_max: u32,
    /// Records that may wait for the helper, at least 1. Default 1024 (half a megabyte).
    pub queue_records_max: usize,
}

impl AlertLogOptions {
    /// The defaults, for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), alerts_per_s_max: 1000, queue_records_max: 1024 }
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
    id: u64,
    received_unix_ns: u64,
    priority: &'static str,
    source: &'static str,
    topic_len: u16,
    topic_kept: u16,
    body_len: u32,
    body_kept: u16,
    topic: [u8; TOPIC_BYTES_MAX],
    body: [u8; BODY_BYTES_MAX],
}

struct Shared {
    queue: ArrayQueue<Record>,
    stop: AtomicBool,
    counters: Arc<AlertLogCounters>,
}

/// The handler. Dropping it writes what is queued.
pub struct AlertLog {
    shared: Arc<Shared>,
    helper: Option<JoinHandle<()>>,
    alerts_per_s_max: u32,
    /// The second being counted, and its alerts so far.
    second: u64,
    alerts: u32,
}

impl AlertLog {
    /// Opens the file and starts the helper thread.
    ///
    /// # Errors
    /// What opening the file or starting the thread says.
    pub fn open(options: &AlertLogOptions) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&options.path)?;
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(options.queue_records_max.max(1)),
            stop: AtomicBool::new(false),
            counters: Arc::default(),
        });
        let writer =
            Writer { shared: shared.clone(), out: BufWriter::new(file), path: options.path.clone(), complained_at: None };
        let helper = std::thread::Builder::new().name("alerts".into()).spawn(move || writer.run())?;
        Ok(Self { shared, helper: Some(helper), alerts_per_s_max: options.alerts_per_s_max, second: 0, alerts: 0 })
    }

    /// Its counters, for the exporter.
    pub fn counters(&self) -> Arc<AlertLogCounters> {
        self.shared.counters.clone()
    }

    fn is_within_rate(&mut self, received_at_ns: u64) -> bool {
        let second = received_at_ns / 1_000_000_000;
        if second != self.second {
            (self.second, self.alerts) = (second, 0);
        }
        let within = self.alerts < self.alerts_per_s_max;
        self.alerts += u32::from(within);
        within
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
        if !self.is_within_rate(event.header.received_at.0) {
            return self.shared.counters.suppressed.add(1);
        }
        let topic_kept = text_prefix(event.topic, TOPIC_BYTES_MAX).len();
        let body_kept = event.body.len().min(BODY_BYTES_MAX);
        let mut record = Record {
            id: event.header.id,
            received_unix_ns: event.header.received_wall.0,
            priority: event.header.priority.name(),
            source: event.header.source.name(),
            topic_len: event.header.topic_len,
            topic_kept: topic_kept as u16,
            body_len: event.header.body_len,
            body_kept: body_kept as u16,
            topic: [0; TOPIC_BYTES_MAX],
            body: [0; BODY_BYTES_MAX],
        };
        record.topic[..topic_kept].copy_from_slice(&event.topic.as_bytes()[..topic_kept]);
        record.body[..body_kept].copy_from_slice(&event.body[..body_kept]);
        if self.shared.queue.push(record).is_err() {
            self.shared.counters.overflowed.add(1);
        }
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
    out: BufWriter<File>,
    path: PathBuf,
    complained_at: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        helper_thread_setup();
        loop {
            // Looked at before the queue: what was queued before the stop is written.
            let stopping = self.shared.stop.load(Ordering::Acquire);
            let (mut lines, mut result) = (0, Ok(()));
            while let Some(record) = self.shared.queue.pop() {
                lines += 1;
                if result.is_ok() {
                    result = write_line(&mut self.out, &record);
                }
            }
            if lines > 0 {
                match result.and_then(|()| self.out.flush()) {
                    Ok(()) => self.shared.counters.written.add(lines),
                    Err(error) => self.lose(lines, &error),
                }
            }
            if stopping {
                return;
            }
            std::thread::park_timeout(WRITE_EVERY);
        }
    }

    /// Gives up on these lines; the next ones start with an empty buffer.
    fn lose(&mut self, lines: u64, error: &io::Error) {
        self.shared.counters.lost.add(lines);
        if self.complained_at.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.complained_at = Some(Instant::now());
            log::error!("{lines} lines lost: cannot write {}: {error}", self.path.display());
        }
        if let Ok(file) = OpenOptions::new().create(true).append(true).open(&self.path) {
            // Takes the old buffer apart without writing what is left in it.
            let _discarded = std::mem::replace(&mut self.out, BufWriter::new(file)).into_parts();
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    received_unix_ns: u64,
    id: u64,
    priority: &'a str,
    source: &'a str,
    topic: &'a str,
    body_bytes: u32,
    /// The body as text, where what is kept of it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// Whether topic or body is longer than what is kept.
    is_cut: bool,
}

fn write_line(out: &mut impl Write, record: &Record) -> io::Result<()> {
    let bytes = &record.body[..usize::from(record.body_kept)];
    let is_cut = u32::from(record.body_kept) < record.body_len || record.topic_kept < record.topic_len;
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        // A cut character at the very end of a cut body is no reason for base64.
        Err(error) if is_cut && error.error_len().is_none() => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok(),
        Err(_) => None,
    };
    let line = Line {
        received_unix_ns: record.received_unix_ns,
        id: record.id,
        priority: record.priority,
        source: record.source,
        topic: std::str::from_utf8(&record.topic[..usize::from(record.topic_kept)]).expect("cut between characters"),
        body_bytes: record.body_len,
        body: text,
        body_base64: text.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(bytes)),
        is_cut,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
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
}
