//! Dead letters: events that did not reach their end in good order, as lines of JSON that people and tools can read and replay.
//!
//! ```text
//! agents ── DeadLetterSender::send ──► ArrayQueue ──► collector (helper) ──► spool ──► writer (helper) ──► data/dlq_log.txt
//!             never waits; full: lost     letters      JSON, slot released    bytes      blocks on the disk, alone
//! ```
//!
//! The format is in [`mod@line`]; [`reader`] reads it back. Beside the letters, a few *samples* a second show what is dropped and only counted.
//!
//! Invariants:
//! - **D1** `sent = written + sampled_out + lost + what is queued`, exactly: letters in the queue, lines in the spool. Samples have an account
//!   of their own, of the same form: they are no outcomes of events, and the ledger knows nothing of them.
//! - **D2** A slot is held while its letter is queued, never for the disk: the collector copies it out and lets it go.
//! - **D3** The file is bounded (renamed away when full), the queue and the spool are too.
//! - **D4** Samples are few: so many a second, of each reason and sender. They take a slot only until the collector has copied it, and go
//!   without where there is none.
//! - **D5** A disk that refuses lines costs those lines, one log line a second, and nothing else: its complaint is no dead letter.
//!
//! What it does not do: count the event's outcome in the ledger (whoever sends it does), wait, or sync.

mod collector;
pub mod line;
mod note;
pub mod reader;
mod sender;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle, Thread};

use crossbeam_queue::ArrayQueue;

pub use collector::{Collected, Collector};
pub use note::Note;
pub use sender::DeadLetterSender;

use super::folder::OpenRefusal;
use super::rotating_file::{RotatingFile, RotatingFileLimits};
use crate::metrics::ledger::{Counter, DropReason};
use crate::metrics::{Kind, Measured, Sample};
use crate::pool::{Event, EventHeader, Releaser, SharedPool};
use crate::sys::clock::{Clock, HostClock};
use crate::sys::wake::ParkState;
use writer::{Spool, write_letters};

/// The numbers of the dead letters.
#[derive(Clone, Debug)]
pub struct DeadLetterOptions {
    /// The file.
    pub path: PathBuf,
    /// Letters that can wait for the collector.
    pub queue_letters: usize,
    /// Bytes of lines that can wait for the writer (twice, as the ones being written count apart). A line beyond this is lost: at least
    /// twice the largest frame.
    pub spool_bytes: usize,
    /// Letters a second that are all written; beyond, one in a hundred is.
    pub full_rate_per_second: u64,
    /// How long the file gets, and how many renamed ones are kept.
    pub limits: RotatingFileLimits,
}

impl DeadLetterOptions {
    /// The usual numbers.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            queue_letters: 8192,
            spool_bytes: 8 << 20,
            full_rate_per_second: 10_000,
            limits: RotatingFileLimits { file_bytes_max: 256 << 20, keep_files: 2 },
        }
    }
}

/// Counters of the dead letters. `lost_queue_full` is counted per sender (one writer each) and summed when read.
#[derive(Debug, Default)]
pub struct DeadLetterCounters {
    /// Lines in the file.
    pub written: Counter,
    /// Letters that were only counted, as there were too many.
    pub sampled_out: Counter,
    /// Lines that the spool had no room for: the disk is too slow, or blocked.
    pub lost_buffer_full: Counter,
    /// Lines that the disk refused.
    pub lost_disk: Counter,
    /// Samples in the file: of drops, in no sum with the others.
    pub samples_written: Counter,
    /// Samples that the spool had no room for.
    pub samples_lost_buffer_full: Counter,
    /// Samples that the disk refused.
    pub samples_lost_disk: Counter,
    senders: Mutex<Vec<Arc<SenderCounters>>>,
}

#[derive(Debug, Default)]
struct SenderCounters {
    sent: Counter,
    lost: Counter,
    samples_sent: Counter,
    samples_lost: Counter,
}

impl DeadLetterCounters {
    fn sum(&self, of: impl Fn(&SenderCounters) -> &Counter) -> u64 {
        let senders = self.senders.lock().expect("nobody panics with this lock held");
        senders.iter().map(|sender| of(sender).get()).sum()
    }

    /// Letters sent, the lost ones included.
    pub fn sent(&self) -> u64 {
        self.sum(|sender| &sender.sent)
    }

    /// Letters lost because the queue was full.
    pub fn lost_queue_full(&self) -> u64 {
        self.sum(|sender| &sender.lost)
    }

    /// Letters lost, for whatever cause.
    pub fn lost(&self) -> u64 {
        self.lost_queue_full() + self.lost_buffer_full.get() + self.lost_disk.get()
    }

    /// Samples sent, the lost ones included.
    pub fn samples_sent(&self) -> u64 {
        self.sum(|sender| &sender.samples_sent)
    }

    /// Samples lost, for whatever cause.
    pub fn samples_lost(&self) -> u64 {
        self.sum(|sender| &sender.samples_lost) + self.samples_lost_buffer_full.get() + self.samples_lost_disk.get()
    }
}

impl DeadLetterCounters {
    /// The spool, or a queue that has ended, has no room for one.
    fn count_no_room(&self, is_sample: bool) {
        if is_sample { &self.samples_lost_buffer_full } else { &self.lost_buffer_full }.add(1);
    }
}

impl Measured for DeadLetterCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        let mut tell = |name, help, labels: &[(&'static str, &str)], value| {
            sink(Sample { name, help, kind: Kind::Counter, labels, value });
        };
        tell("dead_letters_written", "Dead letters in the file", &[], self.written.get());
        tell("dead_letters_sampled_out", "Dead letters only counted, beyond the full rate", &[], self.sampled_out.get());
        let help = "Dead letters lost: no room in the queue or the spool, or refused by the disk";
        tell("dead_letter_lost", help, &[("cause", "queue_full")], self.lost_queue_full());
        tell("dead_letter_lost", help, &[("cause", "buffer_full")], self.lost_buffer_full.get());
        tell("dead_letter_lost", help, &[("cause", "disk")], self.lost_disk.get());
        tell("drop_samples_written", "Samples of dropped events in the file of dead letters", &[], self.samples_written.get());
        tell("drop_samples_lost", "Samples of dropped events that did not get there", &[], self.samples_lost());
    }
}

/// What is on its way to the dead letters.
#[derive(Debug)]
pub(crate) enum Queued {
    /// An event, of its node's pool.
    Letter { event: Event, reason: DropReason, note: Note, node: u32 },
    /// An event that is counted as dropped.
    Sample { event: Event, reason: DropReason, node: u32 },
    /// What is known of one that there was no slot for.
    TopicSample { header: EventHeader, topic: Note, reason: DropReason },
}

impl Queued {
    fn is_sample(&self) -> bool {
        !matches!(self, Queued::Letter { .. })
    }

    fn into_event(self) -> Option<Event> {
        match self {
            Queued::Letter { event, .. } | Queued::Sample { event, .. } => Some(event),
            Queued::TopicSample { .. } => None,
        }
    }
}

/// What senders and the collector share beside the queue.
#[derive(Debug)]
pub(crate) struct LettersShared {
    counters: Arc<DeadLetterCounters>,
    /// The collector's parking: a sender pays a fence, and a futex call only if it sleeps.
    park: ParkState,
    thread: OnceLock<Thread>,
    stop: AtomicBool,
}

impl LettersShared {
    fn wake(&self) {
        if self.park.must_wake()
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

/// The queue: makes senders; owns the helper threads, if it has any.
#[derive(Debug)]
pub struct DeadLetterQueue {
    queue: Arc<ArrayQueue<Queued>>,
    shared: Arc<LettersShared>,
    pools: Vec<Arc<SharedPool>>,
    threads: Option<(JoinHandle<()>, JoinHandle<()>)>,
}

impl DeadLetterQueue {
    /// A queue without threads, for the simulator and tests: letters stay until its collector is called. `pools` by node.
    pub fn manual(options: &DeadLetterOptions, pools: Vec<Arc<SharedPool>>) -> (Self, Collector) {
        let queue = Arc::new(ArrayQueue::new(options.queue_letters));
        let shared = Arc::new(LettersShared {
            counters: Arc::new(DeadLetterCounters::default()),
            park: ParkState::new(),
            thread: OnceLock::new(),
            stop: AtomicBool::new(false),
        });
        let collector = Collector::new(queue.clone(), shared.clone(), pools.clone(), options.full_rate_per_second);
        (Self { queue, shared, pools, threads: None }, collector)
    }

    /// Opens the file and starts the two helper threads. `on_thread` is called on each of them first (to leave the agents' cores).
    /// `pools` by node.
    ///
    /// # Errors
    /// See [`OpenRefusal`]; nothing was started then.
    pub fn start(
        options: &DeadLetterOptions,
        pools: Vec<Arc<SharedPool>>,
        on_thread: impl Fn() + Clone + Send + 'static,
    ) -> Result<Self, OpenRefusal> {
        let refused = |doing| move |error: io::Error| OpenRefusal::of_io(doing, &options.path, error);
        let file = RotatingFile::open(&options.path, options.limits).map_err(refused("open"))?;
        let (mut queue, collector) = Self::manual(options, pools);
        let spool = Arc::new(Spool::new(options.spool_bytes));
        let (spool_out, counters, setup) = (spool.clone(), queue.shared.counters.clone(), on_thread.clone());
        let writer = thread::Builder::new().name("letters-writer".into()).spawn(move || {
            setup();
            write_letters(&spool_out, file, &counters);
        });
        let writer = writer.map_err(refused("start the writer of"))?;
        let (shared, letters, spool_in) = (queue.shared.clone(), queue.queue.clone(), spool.clone());
        let collecting = thread::Builder::new().name("letters".into()).spawn(move || {
            on_thread();
            collect_letters(&shared, &letters, collector, &spool_in);
        });
        match collecting {
            Ok(collecting) => {
                queue.threads = Some((collecting, writer));
                Ok(queue)
            }
            Err(error) => {
                spool.close();
                let _ = writer.join();
                Err(refused("start the collector of")(error))
            }
        }
    }

    /// A sender for one agent thread of a node.
    pub fn sender(&self, node: u32) -> DeadLetterSender {
        let counters = Arc::new(SenderCounters::default());
        self.shared.counters.senders.lock().expect("nobody panics with this lock held").push(counters.clone());
        let releaser = Releaser::new(self.pools[node as usize].clone());
        DeadLetterSender::new(self.queue.clone(), self.shared.clone(), releaser, counters, node)
    }

    /// The counters.
    pub fn counters(&self) -> &Arc<DeadLetterCounters> {
        &self.shared.counters
    }

    /// Letters that wait for the collector: their slots are still held.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Writes what was sent, and ends the helper threads. After the agents have ended: what is sent later is lost, and counted.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Release); // Pairs with the Acquire in `collect_letters`.
        if let Some((collecting, writer)) = self.threads.take() {
            collecting.thread().unpark();
            for thread in [collecting, writer] {
                if thread.join().is_err() {
                    log::error!("a dead-letter thread has panicked; letters since then are lost");
                }
            }
        }
        // Letters of a manual queue, or sent too late: at least their slots go home.
        while let Some(queued) = self.queue.pop() {
            self.shared.counters.count_no_room(queued.is_sample());
            let (Queued::Letter { node, .. } | Queued::Sample { node, .. }) = queued else { continue };
            let mut releaser = Releaser::new(self.pools[node as usize].clone());
            queued.into_event().into_iter().for_each(|event| releaser.release(event));
            releaser.flush();
        }
    }
}

impl Drop for DeadLetterQueue {
    fn drop(&mut self) {
        self.end();
    }
}

/// The collector's loop: sleeps while the queue is empty; ends when it is told to and the queue is empty.
fn collect_letters(shared: &LettersShared, letters: &ArrayQueue<Queued>, mut collector: Collector, spool: &Spool) {
    let clock = HostClock;
    let registered = shared.thread.set(thread::current());
    assert!(registered.is_ok(), "a queue has one collector");
    loop {
        while collector.collect(clock.now(), clock.wall(), &mut |line| spool.push(line)).is_some() {}
        if shared.stop.load(Ordering::Acquire) && letters.is_empty() {
            break;
        }
        shared.park.announce();
        // The last look, after the announcement: a sender that saw us awake has pushed before this.
        if letters.is_empty() && !shared.stop.load(Ordering::Acquire) {
            thread::park();
        }
        shared.park.resume();
    }
    spool.close();
}
