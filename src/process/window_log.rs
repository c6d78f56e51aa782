//! Writes closed windows to a file of JSON lines, calls the window handler, and shows the metrics, on a thread of its own.
//!
//! ```text
//! batch processor: open panes ──close──► to_write ──► helper: panes ─► windows ─► lines ─► handler calls, gauges
//!        ▲                                                     │
//!        └──────────── spare, by definition ◄── clear ─────────┘
//! ```
//!
//! Invariants:
//! - **WL1** All tables are made at start and go round: of a definition with tumbling windows two, else one for each pane of a window and
//!   one more. So both queues have room for all of them.
//! - **WL2** While the helper has no table to spare, the open pane goes on and closes later (`windows_extended`): a slow disk makes windows
//!   longer and loses none.
//! - **WL3** `done` follows what was handed over, and is stored after the table's window is written and its tables are spare again: when
//!   both are equal, nothing is on its way.
//! - **WL4** A refused write loses its lines, counted (`windows_lost`), and says so at most once a second; the handler is called all the same.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;
use serde::Serialize;

use crate::metrics::Measured;
use crate::metrics::window_gauges::{DefinitionGauges, GroupGauges, WindowGauges};
use crate::process::counters::ProcessCounters;
use crate::process::guard::{Guard, HandlerHealth};
use crate::process::handler::WindowHandler;
use crate::process::identity::random_u64;
use crate::process::window::{ClosedWindow, PANES_MAX, ValueFigures, ValueSummary, WindowDefinition};
use crate::process::window_panes::Panes;
use crate::process::window_table::WindowTable;
use crate::storage::rotating_file::{Complaints, RotatingFile, RotatingFileLimits};
use crate::sys::clock::Nanos;
use crate::sys::process::helper_thread_setup;

/// Lines are written in pieces of about this size, or of half a file where that is less: so no file is longer than its limit.
const PIECE_BYTES: usize = 64 << 10;

/// What windows there are, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowLogOptions {
    /// The file; it is made if it isn't there. `None`: windows go to the handler and the metrics only.
    pub path: Option<PathBuf>,
    /// How much of it is kept. Default 64 MiB, and four full files beside it.
    pub limits: RotatingFileLimits,
    /// The first: every topic by itself, without a value. At most [`crate::process::window::DEFINITIONS_MAX`] others. Default: the
    /// first, in tumbling windows of 5 s.
    pub definitions: Vec<WindowDefinition>,
    /// Panics in a row that disable the handler, at least 1. Default 100.
    pub handler_panics_max: u32,
    /// The node, for the metrics. Default 0.
    pub node: u8,
}

impl WindowLogOptions {
    /// The defaults, for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Some(path.into()),
            limits: RotatingFileLimits { file_bytes_max: 64 << 20, keep_files: 4 },
            definitions: vec![WindowDefinition::topics(Nanos::from_millis(5_000))],
            handler_panics_max: 100,
            node: 0,
        }
    }

    /// Bytes that the tables of all definitions take, and what topics are resolved to.
    pub fn table_bytes(&self) -> usize {
        let tables: usize = self.definitions.iter().map(|definition| tables(definition) * WindowTable::bytes(definition)).sum();
        let resolved = self.definitions.first().map_or(0, |topics| topics.groups_max * size_of::<u32>());
        tables + resolved * self.definitions.len()
    }
}

/// Tables of a definition (WL1).
fn tables(definition: &WindowDefinition) -> usize {
    definition.panes() as usize + 1
}

/// The batch processor's side.
pub struct WindowLog {
    shared: Arc<Shared>,
    definitions: Arc<[WindowDefinition]>,
    /// Tables handed over.
    handed: u64,
    helper: Option<JoinHandle<()>>,
    health: Option<Arc<HandlerHealth>>,
    gauges: Option<Arc<WindowGauges>>,
}

struct Shared {
    to_write: ArrayQueue<Box<WindowTable>>,
    /// By definition.
    spare: Box<[ArrayQueue<Box<WindowTable>>]>,
    /// Tables done with (WL3); written by the helper.
    done: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn new(definitions: &[WindowDefinition]) -> Self {
        let spare = definitions.iter().enumerate().map(|(number, definition)| {
            let queue = ArrayQueue::new(tables(definition));
            let seed = random_u64();
            for _ in 0..tables(definition) {
                let pushed = queue.push(Box::new(WindowTable::new(number, definition, seed)));
                assert!(pushed.is_ok(), "WL1");
            }
            queue
        });
        Self {
            to_write: ArrayQueue::new(definitions.iter().map(tables).sum()),
            spare: spare.collect(),
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }
}

impl WindowLog {
    /// Opens the file and starts the helper thread.
    ///
    /// # Errors
    /// What opening the file or starting the thread says.
    ///
    /// # Panics
    /// As [`WindowLog::manual`].
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
    ///
    /// # Panics
    /// If the first definition isn't that of all topics, or a length isn't 1 to [`PANES_MAX`] times its slide, or a slide is under a millisecond.
    pub fn manual(
        options: &WindowLogOptions,
        handler: Option<Box<dyn WindowHandler>>,
        counters: Arc<ProcessCounters>,
    ) -> io::Result<(Self, WindowWriter)> {
        let definitions: Arc<[WindowDefinition]> = options.definitions.clone().into();
        assert!(definitions.first().is_some_and(WindowDefinition::is_all_topics), "the first definition is all topics");
        for definition in definitions.iter() {
            let is_whole = definition.length.0.is_multiple_of(definition.slide.0);
            assert!(definition.slide >= Nanos::from_millis(1), "a slide is at least a millisecond");
            assert!(is_whole && (1..=PANES_MAX).contains(&definition.panes()), "a window is so many slides");
        }
        let file = options.path.as_ref().map(|path| RotatingFile::open(path, options.limits)).transpose()?;
        let shared = Arc::new(Shared::new(&definitions));
        let handler = handler.map(|handler| Guard::new(handler.name(), handler, options.handler_panics_max));
        let health = handler.as_ref().map(Guard::health);
        let has_metrics = definitions.iter().any(|definition| definition.metrics);
        let gauges = has_metrics.then(|| Arc::new(WindowGauges::new(options.node)));
        let writer = WindowWriter {
            shared: shared.clone(),
            panes: definitions.iter().cloned().map(Panes::new).collect(),
            lines: Lines {
                file,
                bytes: Vec::with_capacity(2 * PIECE_BYTES),
                count: 0,
                piece_bytes: PIECE_BYTES.min((options.limits.file_bytes_max / 2) as usize),
                counters,
                complaints: Complaints::default(),
            },
            handler,
            gauges: gauges.clone(),
        };
        Ok((Self { shared, definitions, handed: 0, helper: None, health, gauges }, writer))
    }

    /// What windows there are, the default one first.
    pub fn definitions(&self) -> &Arc<[WindowDefinition]> {
        &self.definitions
    }

    /// An empty table of this definition, if the helper has given one back.
    pub(crate) fn take_spare(&self, definition: usize) -> Option<Box<WindowTable>> {
        self.shared.spare[definition].pop()
    }

    /// Hands a closed pane over.
    pub(crate) fn write(&mut self, table: Box<WindowTable>) {
        self.handed += 1;
        let pushed = self.shared.to_write.push(table);
        assert!(pushed.is_ok(), "WL1");
        if let Some(helper) = &self.helper {
            helper.thread().unpark();
        }
    }

    /// Whether everything handed over is written.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.done.load(Ordering::Acquire) == self.handed // WL3: pairs with the Release in `write_next`.
    }

    /// How the handler fares.
    pub fn health(&self) -> Option<&Arc<HandlerHealth>> {
        self.health.as_ref()
    }

    /// The handler's health, for the exporter.
    pub fn measured(&self) -> Vec<Arc<dyn Measured>> {
        self.health.iter().map(|health| health.clone() as Arc<dyn Measured>).collect()
    }

    /// The last closed windows, if a definition shows them.
    pub fn gauges(&self) -> Option<&Arc<WindowGauges>> {
        self.gauges.as_ref()
    }
}

impl Drop for WindowLog {
    /// Waits for the helper if it has nothing left to do; one inside a slow handler is left behind.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let is_idle = self.is_idle();
        if let Some(helper) = self.helper.take() {
            helper.thread().unpark();
            if is_idle {
                // It only ends early by a panic of our own code, which has been reported on its way.
                let _ = helper.join();
            } else {
                log::warn!("the window writer is still busy at the end; its thread is left behind");
            }
        }
    }
}

/// The thread's side.
pub struct WindowWriter {
    shared: Arc<Shared>,
    /// By definition.
    panes: Vec<Panes>,
    lines: Lines,
    handler: Option<Guard<dyn WindowHandler>>,
    gauges: Option<Arc<WindowGauges>>,
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

    /// Takes the oldest closed pane, writes the windows that end with it, and gives back the tables that no window needs any more. False:
    /// there is none.
    pub fn write_next(&mut self) -> bool {
        let Some(table) = self.shared.to_write.pop() else { return false };
        let number = table.definition;
        self.panes[number].push(table);
        for end in self.panes[number].ends() {
            self.write(number, end);
        }
        while let Some(mut table) = self.panes[number].release() {
            table.clear();
            let pushed = self.shared.spare[number].push(table);
            assert!(pushed.is_ok(), "WL1");
        }
        // One writer: this thread. Pairs with the Acquire in `is_idle`.
        self.shared.done.store(self.shared.done.load(Ordering::Relaxed) + 1, Ordering::Release);
        true
    }

    /// Writes the window of a definition that ends then: first all lines, then the calls, so that a handler finds them in the file.
    fn write(&mut self, number: usize, end: Nanos) {
        let Self { panes, lines, handler, gauges, .. } = self;
        let panes = &mut panes[number];
        panes.for_each_group(end, |window| lines.add(window));
        lines.flush();
        let shows = panes.definition().metrics;
        if handler.is_none() && !shows {
            return;
        }
        let mut shown = DefinitionGauges::default();
        panes.for_each_group(end, |window| {
            if let Some(guard) = handler {
                guard.call(|handler| handler.window_closed(window));
            }
            if shows {
                shown.end_unix_s = (window.start.0 + window.length.0) / 1_000_000_000;
                shown.add(window.group, || group_gauges(window));
            }
        });
        if let Some(gauges) = gauges.as_ref().filter(|_| shows) {
            gauges.publish(&panes.definition().name, shown);
        }
    }
}

fn group_gauges(window: &ClosedWindow<'_>) -> GroupGauges {
    let figures = window.value.as_ref().and_then(|value| value.figures.zip(value.mean()));
    let named = figures.map(|(figures, mean)| {
        let ValueFigures { min, max, sum, p50, p99, relative_error: _ } = figures;
        [("min", min), ("mean", mean), ("max", max), ("sum", sum), ("p50", p50), ("p99", p99)]
    });
    GroupGauges {
        events: window.events,
        events_per_s: window.events_per_s(),
        body_bytes: window.body_bytes,
        events_without_value: window.value.map(|value| value.events_without),
        // A sum of the greatest numbers may be infinite, for which text formats have different words.
        value: named.into_iter().flatten().filter(|(_, figure)| figure.is_finite()).collect(),
    }
}

/// Lines on their way to the file.
struct Lines {
    file: Option<RotatingFile>,
    bytes: Vec<u8>,
    /// Lines in `bytes`.
    count: u64,
    /// When they are written.
    piece_bytes: usize,
    counters: Arc<ProcessCounters>,
    complaints: Complaints,
}

impl Lines {
    fn add(&mut self, window: &ClosedWindow<'_>) {
        if self.file.is_none() {
            return;
        }
        serde_json::to_writer(&mut self.bytes, &Line::of(window)).expect("a line is plain data, and memory takes it");
        self.bytes.push(b'\n');
        self.count += 1;
        if self.bytes.len() >= self.piece_bytes {
            self.flush();
        }
    }

    /// Writes what there is, or loses it, counted (WL4).
    fn flush(&mut self) {
        let (Some(file), 1..) = (&mut self.file, self.count) else { return };
        match file.append(&self.bytes) {
            Ok(()) => self.counters.window_log.written.add(self.count),
            Err(error) => {
                self.counters.window_log.lost.add(self.count);
                if self.complaints.is_due() {
                    log::error!("{} lines lost: cannot write {}: {error}", self.count, file.path().display());
                }
            }
        }
        self.bytes.clear();
        self.count = 0;
    }
}

#[derive(Serialize)]
struct Line<'a> {
    definition: &'a str,
    group: &'a str,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<ValuePart>,
}

/// Without a number, all but the counts are `null`.
#[derive(Serialize)]
struct ValuePart {
    events: u64,
    events_without: u64,
    min: Option<f64>,
    mean: Option<f64>,
    max: Option<f64>,
    sum: Option<f64>,
    p50: Option<f64>,
    p99: Option<f64>,
    relative_error: Option<f64>,
}

impl ValuePart {
    fn of(value: &ValueSummary) -> Self {
        let figure = |of: fn(&ValueFigures) -> f64| value.figures.as_ref().map(of);
        Self {
            events: value.events,
            events_without: value.events_without,
            min: figure(|figures| figures.min),
            mean: value.mean(),
            max: figure(|figures| figures.max),
            sum: figure(|figures| figures.sum),
            p50: figure(|figures| figures.p50),
            p99: figure(|figures| figures.p99),
            relative_error: figure(|figures| figures.relative_error),
        }
    }
}

impl<'a> Line<'a> {
    fn of(window: &ClosedWindow<'a>) -> Self {
        Self {
            definition: window.definition,
            group: window.group,
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
            value: window.value.as_ref().map(ValuePart::of),
        }
    }
}
