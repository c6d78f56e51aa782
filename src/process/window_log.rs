//! Writes closed windows to a file of JSON lines, and calls the window handler, on a thread of its own.
//!
//! ```text
//! batch processor: open window ──close──► to_write (2) ──► helper: lines, flush, handler calls, clear
//!        ▲                                                     │
//!        └──────────────────── spare (2) ◄─────────────────────┘
//! ```
//!
//! Two tables go round. While the helper still has the one before, the open window goes on and closes later (`windows_extended`): a slow
//! disk makes windows longer and loses none. A refused write loses its lines, counted, and says so at most once a second.
//!
//! The file is opened for appending and only grows; rotate it from outside by copying and truncating.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use serde::Serialize;

use crate::metrics::Measured;
use crate::process::counters::ProcessCounters;
use crate::process::guard::{Guard, HandlerHealth};
use crate::process::handler::WindowHandler;
use crate::process::window::{ClosedWindow, WindowTable, WindowTableLimits};
use crate::sys::process::helper_thread_setup;

/// Where windows go, and how many topics they have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowLogOptions {
    /// The file; it is made if it isn't there. `data/windows.jsonl` unless told otherwise.
    pub path: PathBuf,
    /// Topics with a row in one window, at least 1. Default 4096.
    pub topics_max: usize,
    /// Bytes of topic names in one window. Default 256 KiB.
    pub topic_bytes_max: usize,
    /// Panics in a row that disable the handler, at least 1. Default 100.
    pub handler_panics_max: u32,
}

impl WindowLogOptions {
    /// The defaults, for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), topics_max: 4096, topic_bytes_max: 256 * 1024, handler_panics_max: 100 }
    }

    /// Bytes that the two tables take.
    pub fn table_bytes(&self) -> usize {
        // A row is 64 bytes, and twice as many index places as topics, rounded up to a power of two.
        2 * (self.topics_max * 64 + (self.topics_max * 2).next_power_of_two() * 4 + self.topic_bytes_max)
    }
}

/// The batch processor's side.
pub struct WindowLog {
    shared: Arc<Shared>,
    helper: Option<JoinHandle<()>>,
    health: Option<Arc<HandlerHealth>>,
}

struct Shared {
    to_write: ArrayQueue<Box<WindowTable>>,
    spare: ArrayQueue<Box<WindowTable>>,
    stop: AtomicBool,
}

impl WindowLog {
    /// Opens the file and starts the helper thread.
    ///
    /// # Errors
    /// What opening the file or starting the thread says.
    pub fn open(
        options: &WindowLogOptions,
        handler: Option<Box<dyn WindowHandler>>,
        counters: Arc<ProcessCounters>,
    ) -> io::Result<Self> {
        let (mut log, writer) = Self::manual(options, handler, counters)?;
        log.helper = Some(std::thread::Builder::new().name("windows".into()).spawn(move || writer.run())?);
        Ok(log)
    }

    /// Opens the file without a helper thread, for the simulator: windows stay until [`WindowWriter::write_next`] is called.
    ///
    /// # Errors
    /// What opening the file says.
    pub fn manual(
        options: &WindowLogOptions,
        handler: Option<Box<dyn WindowHandler>>,
        counters: Arc<ProcessCounters>,
    ) -> io::Result<(Self, WindowWriter)> {
        let file = OpenOptions::new().create(true).append(true).open(&options.path)?;
        let limits = WindowTableLimits { topics_max: options.topics_max, topic_bytes_max: options.topic_bytes_max };
        let shared = Arc::new(Shared { to_write: ArrayQueue::new(2), spare: ArrayQueue::new(2), stop: AtomicBool::new(false) });
        for _ in 0..2 {
            let pushed = shared.spare.push(Box::new(WindowTable::new(limits)));
            assert!(pushed.is_ok(), "the queue holds both tables");
        }
        let handler = handler.map(|handler| Guard::new(handler.name(), handler, options.handler_panics_max));
        let health = handler.as_ref().map(Guard::health);
        let writer = WindowWriter {
            shared: shared.clone(),
            out: BufWriter::with_capacity(64 * 1024, file),
            path: options.path.clone(),
            handler,
            counters,
            complained_at: None,
        };
        Ok((Self { shared, helper: None, health }, writer))
    }

    /// An empty table, if the helper has given one back.
    pub(crate) fn take_spare(&self) -> Option<Box<WindowTable>> {
        self.shared.spare.pop()
    }

    /// Hands a closed window over.
    pub(crate) fn write(&self, table: Box<WindowTable>) {
        let pushed = self.shared.to_write.push(table);
        assert!(pushed.is_ok(), "the queue holds both tables");
        if let Some(helper) = &self.helper {
            helper.thread().unpark();
        }
    }

    /// Whether the helper holds nothing: one table is with the batch processor, the other is spare.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.spare.len() == 1
    }

    /// How the handler fares.
    pub fn health(&self) -> Option<&Arc<HandlerHealth>> {
        self.health.as_ref()
    }

    /// The handler's health, for the exporter.
    pub fn measured(&self) -> Vec<Arc<dyn Measured>> {
        self.health.iter().map(|health| health.clone() as Arc<dyn Measured>).collect()
    }
}

impl Drop for WindowLog {
    /// Waits for the helper if it has nothing left to do; one inside a slow handler is left behind.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let is_busy = self.shared.spare.is_empty();
        if let Some(helper) = self.helper.take() {
            helper.thread().unpark();
            if is_busy {
                log::warn!("the window writer is still busy at the end; its thread is left behind");
            } else {
                // It only ends early by a panic of our own code, which has been reported on its way.
                let _ = helper.join();
            }
        }
    }
}

/// The thread's side.
pub struct WindowWriter {
    shared: Arc<Shared>,
    out: BufWriter<File>,
    path: PathBuf,
    handler: Option<Guard<dyn WindowHandler>>,
    counters: Arc<ProcessCounters>,
    complained_at: Option<Instant>,
}

impl WindowWriter {
    fn run(mut self) {
        helper_thread_setup();
        loop {
            // Looked at before the queue: what was queued before the stop is written.
            let stopping = self.shared.stop.load(Ordering::Acquire);
            if self.write_next() {
                continue;
            }
            if stopping {
                return;
            }
            std::thread::park();
        }
    }

    /// Writes the oldest closed window and gives its table back. False: there is none.
    pub fn write_next(&mut self) -> bool {
        let Some(mut table) = self.shared.to_write.pop() else { return false };
        self.write(&table);
        table.clear();
        let pushed = self.shared.spare.push(table);
        assert!(pushed.is_ok(), "the queue holds both tables");
        true
    }

    fn write(&mut self, table: &WindowTable) {
        let lines = table.len() as u64;
        let written = table.closed().try_for_each(|window| write_line(&mut self.out, &window)).and_then(|()| self.out.flush());
        match written {
            Ok(()) => self.counters.window_log.written.add(lines),
            Err(error) => self.lose(lines, &error),
        }
        if let Some(guard) = &mut self.handler {
            for window in table.closed() {
                guard.call(|handler| handler.window_closed(&window));
            }
        }
    }

    /// Gives up on this window's lines; the next window starts with an empty buffer and tries the file again.
    fn lose(&mut self, lines: u64, error: &io::Error) {
        self.counters.window_log.lost.add(lines);
        if self.complained_at.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            self.complained_at = Some(Instant::now());
            log::error!("{lines} lines lost: cannot write {}: {error}", self.path.display());
        }
        if let Ok(file) = reopen(&self.path) {
            // Takes the old buffer apart without writing what is left in it.
            let old = std::mem::replace(&mut self.out, BufWriter::with_capacity(64 * 1024, file));
            let _discarded = old.into_parts();
        }
    }
}

fn reopen(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    start_unix_ns: u64,
    length_ns: u64,
    events: u64,
    events_per_s: f64,
    body_bytes: u64,
    body_bytes_min: u32,
    body_bytes_max: u32,
    body_bytes_mean: f64,
    first_unix_ns: u64,
    last_unix_ns: u64,
}

fn write_line(out: &mut impl Write, window: &ClosedWindow<'_>) -> io::Result<()> {
    let line = Line {
        topic: window.topic,
        start_unix_ns: window.start.0,
        length_ns: window.length.0,
        events: window.events,
        events_per_s: window.events_per_s(),
        body_bytes: window.body_bytes,
        body_bytes_min: window.body_bytes_min,
        body_bytes_max: window.body_bytes_max,
        body_bytes_mean: window.body_bytes_mean(),
        first_unix_ns: window.first_at.0,
        last_unix_ns: window.last_at.0,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}
