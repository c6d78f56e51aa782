//! The machine's own limits, measured in the layout in which an engine would run: each a small loop over what the engine uses.
//!
//! ```text
//! core 0 (engine)                                     core 1 (sender)
//! clock, system call, checksum
//! cache line there and back, queue ◄─────────────────► the other end
//! receive and parse ◄── TCP loopback, 8 connections ── bare sender, 64 KiB writes
//! pipeline: receive, parse, queue, checksum, append ◄─ the same
//! append alone: durable never, by group, each
//! ```
//!
//! A limit is a median over rounds; each round measures all of them in turn, so that what the machine does meanwhile meets all. Where
//! there is one core, what needs two is left out and said.
//!
//! What it does not do: tune. Buffers, depths and batches are those that the references were measured with.

mod append;
mod core;
mod datagrams;
mod pipeline;
mod spsc;
mod stream;
mod sync;

use std::fmt;
use std::io;
use std::path::Path;

use hdrhistogram::Histogram;

pub use append::Ground;
pub use datagrams::{Drained, Fill, Inbound, queued_bytes};
pub use pipeline::Inflow;
pub use stream::FrameShape;

use append::{Durable, Target};

use super::figure::{Better, Figures, Reference};
use super::noise::{Jitter, jitter};
use crate::sys::clock::Nanos;
use crate::sys::features::Features;
use crate::sys::probe::HostRefusal;
use crate::sys::process::pin_current_thread;
use crate::sys::uring::RingRefusal;

/// Below this share of its reference a limit is worth a warning: figures of this machine would blame the engine for the host.
pub const WARN_BELOW: f64 = 0.7;

/// Who runs where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The engine's.
    pub engine_cpu: u32,
    /// The sender's; `None`: there is no other, both share one.
    pub sender_cpu: Option<u32>,
}

/// A limit could not be measured.
#[derive(Debug)]
pub enum CeilingError {
    /// No ring.
    Ring(RingRefusal),
    /// A host that can't run the engine.
    Host(HostRefusal),
    /// A socket, a file or memory.
    Io(io::Error),
}

impl fmt::Display for CeilingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CeilingError::Ring(refusal) => refusal.fmt(f),
            CeilingError::Host(refusal) => refusal.fmt(f),
            CeilingError::Io(error) => write!(
                f,
                "error: a limit of the machine could not be measured\ncause: {error}\nfix:   a --data-dir on a disk with 3 GiB free; more \
                 descriptors (`ulimit -n`) for many connections"
            ),
        }
    }
}

impl std::error::Error for CeilingError {}

impl From<RingRefusal> for CeilingError {
    fn from(refusal: RingRefusal) -> Self {
        CeilingError::Ring(refusal)
    }
}

impl From<HostRefusal> for CeilingError {
    fn from(refusal: HostRefusal) -> Self {
        CeilingError::Host(refusal)
    }
}

impl From<io::Error> for CeilingError {
    fn from(error: io::Error) -> Self {
        CeilingError::Io(error)
    }
}

/// Names of figures; a run states the engine as a share of [`names::PIPELINE`].
pub mod names {
    /// A read of the clock.
    pub const CLOCK: &str = "clock read";
    /// The cheapest system call.
    pub const SYSTEM_CALL: &str = "system call";
    /// CRC-32C.
    pub const CHECKSUM: &str = "checksum of 64 KiB";
    /// A cache line there and back.
    pub const PING_PONG: &str = "cache line to the other core and back";
    /// A queue's item.
    pub const HAND_OFF: &str = "queue to the other core, one of 64";
    /// TCP in, frames found.
    pub const RECEIVE: &str = "receive and parse";
    /// The whole, directly into blocks written before.
    pub const PIPELINE: &str = "pipeline, direct into written blocks";
    /// The whole, directly into allocated blocks.
    pub const PIPELINE_ALLOCATED: &str = "pipeline, direct into allocated blocks";
    /// The whole, through the page cache.
    pub const PIPELINE_BUFFERED: &str = "pipeline, page cache";
    /// Appending, nothing synced.
    pub const APPEND_NONE: &str = "append, durability none";
    /// Appending, groups synced.
    pub const APPEND_GROUP: &str = "append, durability group";
    /// Appending, each write synced.
    pub const APPEND_ALWAYS: &str = "append, durability always";
}

/// What a guest of two 2.6 GHz EPYC cores, Linux 6.18, ext4 on a virtual disk reached with small programs of the same loops: medians
/// of 5 to 7 runs, sender on one core, receiver on the other, frames of 80 bytes, 8 connections, writes of 64 KiB.
const REFERENCES: [(&str, f64, &str); 12] = [
    (names::CLOCK, 23.0, "clock_gettime through the vDSO"),
    (names::SYSTEM_CALL, 150.0, "a system call with nothing to do"),
    (names::CHECKSUM, 57.0, "crc32fast, by carry-less multiplication as here"),
    (names::PING_PONG, 120.0, "80-120 ns, the slower end; 430-590 when the host moves the cores apart"),
    (names::HAND_OFF, 1.0, "cached indices, 16384 places, published by 64"),
    (names::RECEIVE, 70e6, "multishot receive, 64 KiB buffers: 5.6 GB/s"),
    (names::PIPELINE, 25e6, "inline on one thread, O_DIRECT"),
    (names::PIPELINE_ALLOCATED, 13.6e6, "inline on one thread, O_DIRECT into fallocated blocks"),
    (names::PIPELINE_BUFFERED, 17e6, "inline on one thread, write()"),
    (names::APPEND_NONE, 5.0, "registered buffers of 512 KiB, four in flight, overwriting"),
    (names::APPEND_GROUP, 2.15, "the same into fallocated blocks, a sync every 10 ms"),
    (names::APPEND_ALWAYS, 4.1, "the same, overwriting with RWF_DSYNC"),
];

/// The files and features that limits are measured with.
#[derive(Debug)]
pub struct Ceiling {
    features: Features,
    layout: Layout,
    overwrite: Option<Target>,
    folder: std::path::PathBuf,
}

impl Ceiling {
    /// Asks the kernel for its features and writes a file of 256 MiB into the folder, to be overwritten; it goes with this.
    ///
    /// # Errors
    /// A host without io_uring, or a folder without room.
    pub fn prepare(layout: Layout, folder: &Path) -> Result<Self, CeilingError> {
        let (features, _) = Features::probe(&[])?;
        Ok(Self { features, layout, overwrite: Target::open(folder, Ground::Overwrite)?, folder: folder.to_owned() })
    }

    /// Measures every limit once, each for so long, and adds it to the figures. What can't be measured here is left out.
    ///
    /// # Errors
    /// Whatever the kernel refuses meanwhile.
    pub fn measure_all(&mut self, inflow: &Inflow, figures: &mut Figures) -> Result<(), CeilingError> {
        let (layout, at_most) = (self.layout, inflow.at_most);
        on_engine_core(layout, || {
            let mut note = |name: &str, unit: &str, better, value| figures.note(name, unit, better, value);
            note(names::CLOCK, "ns", Better::Lower, core::clock_ns(at_most));
            note(names::SYSTEM_CALL, "ns", Better::Lower, core::system_call_ns(at_most));
            note(names::CHECKSUM, "GB/s", Better::Higher, core::checksum_gb_per_second(at_most));
            if let Some(other) = layout.sender_cpu {
                note(names::PING_PONG, "ns", Better::Lower, core::ping_pong_ns(other, at_most));
                note(names::HAND_OFF, "ns", Better::Lower, core::hand_off_ns(other, at_most));
            }
            note(names::RECEIVE, "events/s", Better::Higher, pipeline::receive(&self.features, layout, inflow)?);
            for (name, ground) in [
                (names::PIPELINE, Ground::Overwrite),
                (names::PIPELINE_ALLOCATED, Ground::Allocated),
                (names::PIPELINE_BUFFERED, Ground::Buffered),
            ] {
                if let Some(rate) = self.pipeline_here(inflow, ground)? {
                    note(name, "events/s", Better::Higher, rate);
                }
            }
            for (name, durable) in [
                (names::APPEND_NONE, Durable::Never),
                (names::APPEND_GROUP, Durable::Group),
                (names::APPEND_ALWAYS, Durable::Always),
            ] {
                if let Some(target) = &mut self.overwrite {
                    note(name, "GB/s", Better::Higher, append::alone(&self.features, target, durable, at_most)?);
                }
            }
            Ok(())
        })
    }

    /// The pipeline, directly into written blocks or, where the file system can't, through the page cache; events per second.
    ///
    /// # Errors
    /// Whatever the kernel refuses meanwhile.
    pub fn pipeline(&mut self, inflow: &Inflow) -> Result<f64, CeilingError> {
        on_engine_core(self.layout, || {
            let ground = if self.overwrite.is_some() { Ground::Overwrite } else { Ground::Buffered };
            Ok(self.pipeline_here(inflow, ground)?.unwrap_or_default())
        })
    }

    fn pipeline_here(&mut self, inflow: &Inflow, ground: Ground) -> Result<Option<f64>, CeilingError> {
        let mut fresh = None;
        let target = match ground {
            Ground::Overwrite => self.overwrite.as_mut(),
            ground => {
                fresh = Target::open(&self.folder, ground)?;
                fresh.as_mut()
            }
        };
        let rate = target.map(|target| pipeline::whole(&self.features, self.layout, inflow, target, ground)).transpose();
        drop(fresh);
        rate
    }

    /// What the disk alone takes for a durable write of a block: latencies of so many with O_DSYNC, and of as many with fdatasync behind them,
    /// nanoseconds.
    ///
    /// # Errors
    /// A file that can't be made or written.
    pub fn sync_latency(&self, rounds: usize) -> Result<[Histogram<u64>; 2], CeilingError> {
        on_engine_core(self.layout, || sync::latency(&self.folder, rounds)).map_err(CeilingError::Io)
    }

    /// Datagrams out of a socket queue that `fill` has filled, by a loop that does nothing else.
    ///
    /// # Errors
    /// Whatever the kernel refuses meanwhile.
    pub fn datagrams(&self, inbound: &Inbound, fill: Fill<'_>) -> Result<Drained, CeilingError> {
        on_engine_core(self.layout, || datagrams::drain(&self.features, inbound, fill))
    }

    /// The jitter probe, for so long (a duration), on the engine's core.
    pub fn jitter(&self, at_most: Nanos) -> Jitter {
        on_engine_core(self.layout, || jitter(at_most))
    }
}

/// Gives each figure its reference; only for frames of [`FrameShape::REFERENCE`] and 8 connections.
pub fn add_references(figures: &mut Figures) {
    for figure in &mut figures.0 {
        let known = REFERENCES.iter().find(|(name, ..)| *name == figure.name);
        figure.reference = known.map(|(_, value, source)| Reference { value: *value, source: (*source).to_owned() });
    }
}

/// A line for each figure that is below [`WARN_BELOW`] of its reference.
pub fn warnings(figures: &Figures) -> Vec<String> {
    let below = figures.0.iter().filter_map(|figure| {
        let (share, reference) = (figure.share_of_reference()?, figure.reference.as_ref()?);
        let [is, was] = [figure.median(), reference.value].map(|value| super::figure::readable(value, &figure.unit));
        let name = &figure.name;
        (share < WARN_BELOW).then(|| format!("{name}: {is} here, {was} on the reference machine ({share:.2} of it)"))
    });
    below.collect()
}

/// Runs on a thread of its own on the engine's core.
fn on_engine_core<T: Send>(layout: Layout, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            // Best effort: where it can't be pinned it runs where the scheduler wants.
            let _ = pin_current_thread(layout.engine_cpu);
            work()
        });
        pinned.join().expect("a measurement does not panic")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::allowed_cpus;

    fn layout() -> Layout {
        let cpus = allowed_cpus();
        Layout { engine_cpu: cpus[0], sender_cpu: cpus.get(1).copied() }
    }

    #[test]
    fn every_limit_is_measured_or_left_out_with_cause() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut ceiling = Ceiling::prepare(layout(), folder.path()).expect("a host that runs the engine");
        let mut figures = Figures::default();
        let inflow = Inflow { shape: FrameShape::REFERENCE, connections: 2, at_most: Nanos::from_millis(5) };
        ceiling.measure_all(&inflow, &mut figures).expect("everything is there");
        add_references(&mut figures);
        let is_direct = ceiling.overwrite.is_some();
        for (name, ..) in REFERENCES {
            let needs_two = [names::PING_PONG, names::HAND_OFF].contains(&name);
            let needs_direct = name.contains("direct") || name.contains("append");
            match figures.get(name) {
                Some(figure) => assert!(figure.median() > 0.0 && figure.reference.is_some(), "{figure:?}"),
                None => assert!((needs_two && layout().sender_cpu.is_none()) || (needs_direct && !is_direct), "{name}"),
            }
        }
        drop(ceiling);
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing stays behind");
    }

    #[test]
    fn frames_longer_than_a_chunk_go_through_the_pipeline() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut ceiling = Ceiling::prepare(layout(), folder.path()).expect("a host that runs the engine");
        let shape = FrameShape { topic_bytes: 6, body_bytes: 65_536 };
        let inflow = Inflow { shape, connections: 1, at_most: Nanos::from_millis(20) };
        assert!(ceiling.pipeline(&inflow).expect("everything is there") > 0.0);
    }

    #[test]
    fn a_slow_machine_is_warned_about_by_what_is_slow() {
        let mut figures = Figures::default();
        figures.note(names::CLOCK, "ns", Better::Lower, 60.0);
        figures.note(names::RECEIVE, "events/s", Better::Higher, 69e6);
        add_references(&mut figures);
        let warnings = warnings(&figures);
        assert_eq!(warnings, ["clock read: 60.0 ns here, 23.0 ns on the reference machine (0.38 of it)"]);
    }
}
