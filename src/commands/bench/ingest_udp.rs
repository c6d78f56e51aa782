//! Datagrams: out of a filled socket queue, beside a bare loop that does nothing else, and aggregated flat out.
//!
//! A sender can't keep the queue of a faster receiver filled. So the engine is stopped while it is filled, and the clock runs from the moment
//! in which it goes on until the queue is empty, some tens of milliseconds later; the bare loop of the ceiling is measured in the same way, with the
//! same datagrams. A sender of datagrams is told nothing of what is lost, so that there is no flat out: their rate rises in steps until some are.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::child::EngineChild;
use super::flat_out::{losses, settle};
use super::run::{Bench, RunCommand, point, with_flag};
use super::{CommandError, ExitStatus, failed, on_sender_core};
use crate::bench::ceiling::{Drained, Inbound, queued_bytes};
use crate::bench::document::Point;
use crate::bench::figure::{Better, Figures};
use crate::commands::send::{Generate, Generator, Input, Piece};
use crate::sys::process::{pause, pin_current_thread, resume};
use crate::sys::udp_segments::{SEGMENTS_MAX, set_segment_bytes};
use crate::wire::encoded_len;

/// How often a queue is filled and emptied in each repeat.
const ROUNDS: usize = 10;
/// Datagrams sent between two looks at the queue: some 50 KiB of the kernel's memory.
const LOOK_EVERY: u64 = 64;
/// Datagrams in a filled queue at most: half of what the lanes of BATCH hold, as they can't wait.
const FILL_DATAGRAMS_MAX: u64 = 32_768;
/// Events a second of aggregated datagrams, until some are lost.
const STEPS: [u64; 12] = [
    100_000, 500_000, 1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000, 6_000_000, 7_000_000, 8_000_000, 10_000_000,
    12_000_000,
];
/// How long a step takes.
const STEP_AT_MOST: Duration = Duration::from_secs(1);
/// How long its events may take to be stored.
const STEP_PATIENCE: Duration = Duration::from_secs(3);
/// How long the engine may take to empty its queue, or to stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// After its last datagram was received an event is stored: as long as several flush intervals.
const REST: Duration = Duration::from_millis(20);

/// How datagrams come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    OneByOne,
    Aggregated,
}

/// Three points.
///
/// # Errors
/// An engine that does not start, answer or end; a sender that can't send.
pub(super) fn measure(command: &RunCommand, bench: &mut Bench) -> Result<Vec<Point>, CommandError> {
    let mut points = [
        point("one by one, from a filled queue", None),
        point("aggregated (GSO to GRO), from a filled queue", None),
        point("aggregated (GSO to GRO), at rising rates", None),
    ];
    let generate = generate(command, bench)?;
    bench.each_repeat(|bench| {
        let [plain, filled, at_rates] = &mut points;
        from_filled_queue(bench, &generate, Way::OneByOne, plain)?;
        from_filled_queue(bench, &generate, Way::Aggregated, filled)?;
        fastest(bench, &generate, at_rates)
    })?;
    Ok(points.into())
}

/// All LOW unless told otherwise, so that what is measured is the way in, and all of one length, so that they can be aggregated: ten topics.
fn generate(command: &RunCommand, bench: &Bench) -> Result<Generate, CommandError> {
    let mut load = command.load(&bench.flags);
    load.send.mix = load.send.mix.or_else(|| "0,0,1".parse().ok());
    let Input::Generated(generate) = load.plan(([127, 0, 0, 1], 9001).into())?.input else {
        unreachable!("a number of events was given")
    };
    if generate.body_bytes.shares().len() > 1 {
        let fix = "one size, such as --body-bytes 64";
        return Err(super::usage("datagrams of several sizes can't be aggregated", "the kernel cuts equal ones", fix));
    }
    Ok(Generate { events: u64::MAX, topics: generate.topics.min(10), ..generate })
}

/// Sends datagrams of one event each.
struct Sender {
    socket: UdpSocket,
    generator: Generator,
    /// Datagrams in one send.
    together: u64,
    piece: Piece,
    sent: u64,
}

impl Sender {
    fn open(generate: &Generate, way: Way) -> io::Result<Sender> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let frame_bytes = frame_bytes(generate);
        let together = match way {
            Way::OneByOne => 1,
            // 65,507 bytes are the longest payload of a datagram, and of a send that is cut.
            Way::Aggregated => SEGMENTS_MAX.min(65_507 / frame_bytes).max(1),
        };
        if way == Way::Aggregated {
            set_segment_bytes(&socket, frame_bytes as u16)?;
        }
        let generator = Generator::new(generate, frame_bytes * together, 0, 1);
        Ok(Sender { socket, generator, together: together as u64, piece: Piece::default(), sent: 0 })
    }

    /// Sends once, at most so many datagrams; how many, and their bytes.
    fn send(&mut self, to: SocketAddr, datagrams_max: u64) -> io::Result<(u64, u64)> {
        self.piece.clear();
        self.generator.fill(&mut self.piece, self.together.min(datagrams_max));
        self.socket.send_to(&self.piece.bytes, to)?;
        let datagrams = self.piece.tally.events();
        self.sent += datagrams;
        Ok((datagrams, self.piece.bytes.len() as u64))
    }

    /// Sends until the receiver's queue holds so much kernel memory, or enough datagrams; their bytes.
    fn fill(&mut self, to: SocketAddr, queue_bytes: u64) -> io::Result<u64> {
        let (mut bytes, mut datagrams) = (0, 0);
        while datagrams < FILL_DATAGRAMS_MAX && queued_bytes(to.port()) < queue_bytes {
            let mut until_look = 0;
            while until_look < LOOK_EVERY {
                let (more, more_bytes) = self.send(to, u64::MAX)?;
                until_look += more;
                bytes += more_bytes;
            }
            datagrams += until_look;
        }
        Ok(bytes)
    }

    /// Sends at a steady rate for so long, in a loop; how long it took.
    fn pace(&mut self, to: SocketAddr, per_second: u64, span: Duration) -> io::Result<Duration> {
        let all = (span.as_secs_f64() * per_second as f64) as u64;
        let began = Instant::now();
        while self.sent < all {
            let due = (began.elapsed().as_secs_f64() * per_second as f64) as u64;
            if due > self.sent {
                self.send(to, all - self.sent)?;
            } else {
                std::hint::spin_loop();
            }
        }
        Ok(began.elapsed())
    }
}

fn frame_bytes(generate: &Generate) -> usize {
    encoded_len(format!("{}/0", generate.topic).len(), generate.body_bytes.mean())
}

fn sender_failed(error: &io::Error) -> CommandError {
    let fix = "a kernel with UDP_SEGMENT (4.18), and room for its socket buffers";
    CommandError::new(ExitStatus::Environment, "datagrams can't be sent", error.to_string(), fix)
}

fn from_filled_queue(bench: &mut Bench, generate: &Generate, way: Way, point: &mut Point) -> Result<(), CommandError> {
    let gro = way == Way::Aggregated;
    let mut sender = Sender::open(generate, way).map_err(|error| sender_failed(&error))?;
    let receive_buffer_bytes = bench.config.udp_receive_buffer_bytes.0 as u32;
    let inbound = Inbound { receive_buffer_bytes, gro, rounds: ROUNDS };
    let cpu = bench.layout.sender_cpu;
    let mut fill = |to: SocketAddr, queue_bytes: u64| {
        let _ = cpu.map(pin_current_thread);
        sender.fill(to, queue_bytes)
    };
    let bare = bench.ceiling.datagrams(&inbound, &mut fill).map_err(|error| failed(&error))?;

    let flags = with_flag(&bench.flags, "udp-gro", if gro { "on" } else { "off" });
    let data = bench.engine_data();
    let engine = EngineChild::start(bench.layout.engine_cpu, &data, &flags)?;
    // A sender of its own: another flow.
    let mut sender = Sender::open(generate, way).map_err(|error| sender_failed(&error))?;
    let mut drained = Drained::default();
    let mut cpu_ns = 0;
    for round in 0..=ROUNDS {
        stop_still(&engine)?;
        let before = engine.taken();
        // Who watches the queue is off the engine's core too: on it, it took 4.7 of 11 ms.
        let (bytes, took) = on_sender_core(bench.layout, || {
            let bytes = sender.fill(engine.udp, bare.queue_bytes).map_err(|error| sender_failed(&error));
            let began = Instant::now();
            resume(engine.id());
            let bytes = bytes?;
            while queued_bytes(engine.udp.port()) > 0 {
                if began.elapsed() > PATIENCE {
                    return Err(stuck("its socket's queue is not emptied"));
                }
            }
            Ok((bytes, began.elapsed()))
        })?;
        std::thread::sleep(REST);
        // As for the bare loop the first round is not counted.
        if round > 0 {
            cpu_ns += engine.taken().cpu_ns.saturating_sub(before.cpu_ns);
            drained.took = drained.took + crate::sys::clock::Nanos(took.as_nanos() as u64);
            drained.bytes += bytes;
        }
    }
    let (_, mut found) = settle(&engine, sender.sent)?;
    found.extend(engine.stop()?);
    let _ = std::fs::remove_dir_all(&data);
    point.losses.extend(bench.losses(found));
    note(&mut point.figures, &bare, &drained, cpu_ns, frame_bytes(generate) as u64);
    Ok(())
}

fn note(figures: &mut Figures, bare: &Drained, engine: &Drained, cpu_ns: u64, frame_bytes: u64) {
    let ns_each = |drained: &Drained| drained.took.0 as f64 / (drained.bytes / frame_bytes).max(1) as f64;
    let [bare_ns, engine_ns] = [bare, engine].map(ns_each);
    figures.note("received", "events/s", Better::Higher, 1e9 / engine_ns.max(1e-3));
    figures.note("bare loop", "events/s", Better::Neither, 1e9 / bare_ns.max(1e-3));
    figures.note("share of the bare loop", "share", Better::Higher, bare_ns / engine_ns.max(1e-3));
    let cpu_each = cpu_ns as f64 / (engine.bytes / frame_bytes).max(1) as f64;
    figures.note("CPU of the engine for each datagram, to stored", "ns", Better::Lower, cpu_each);
    figures.note("CPU of the bare loop for each datagram", "ns", Better::Neither, bare_ns);
    let datagrams = bare.bytes / frame_bytes / ROUNDS as u64;
    figures.note("datagrams in a filled queue", "datagrams", Better::Neither, datagrams as f64);
}

fn stuck(cause: &str) -> CommandError {
    CommandError::new(ExitStatus::Runtime, "the engine does not go on", cause, "look at its threads; it is killed now")
}

/// Stops the engine, and returns when it stands.
fn stop_still(engine: &EngineChild) -> Result<(), CommandError> {
    pause(engine.id());
    let give_up = Instant::now() + PATIENCE;
    while !engine.is_paused() {
        if Instant::now() > give_up {
            resume(engine.id());
            return Err(stuck("it can't be stopped (SIGSTOP)"));
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// The fastest rate at which nothing is lost: that of the step below the first one that loses.
fn fastest(bench: &mut Bench, generate: &Generate, point: &mut Point) -> Result<(), CommandError> {
    let mut best = None;
    for per_second in STEPS {
        let Some(reached) = at_rate(bench, generate, per_second, &mut point.losses)? else { break };
        best = Some(reached);
    }
    let (per_second, cpu_ns) = best.unwrap_or_default();
    point.figures.note("stored without a loss", "events/s", Better::Higher, per_second);
    point.figures.note("CPU of the engine for each event", "ns", Better::Lower, cpu_ns);
    Ok(())
}

/// Events a second and CPU for each, nanoseconds, where all that was sent is stored; `None` where some is lost, or the sender can't keep the
/// rate. Only an engine that does not end in good order is a finding.
fn at_rate(
    bench: &Bench,
    generate: &Generate,
    per_second: u64,
    findings: &mut Vec<String>,
) -> Result<Option<(f64, f64)>, CommandError> {
    let data = bench.engine_data();
    let engine = EngineChild::start(bench.layout.engine_cpu, &data, &with_flag(&bench.flags, "udp-gro", "on"))?;
    let mut sender = Sender::open(generate, Way::Aggregated).map_err(|error| sender_failed(&error))?;
    let (before, span) = (engine.taken(), bench.each.min(STEP_AT_MOST));
    let took =
        on_sender_core(bench.layout, || sender.pace(engine.udp, per_second, span)).map_err(|error| sender_failed(&error))?;
    std::thread::sleep(REST);
    let cpu_ns = engine.taken().cpu_ns.saturating_sub(before.cpu_ns) as f64 / sender.sent.max(1) as f64;
    let give_up = Instant::now() + STEP_PATIENCE;
    let is_stored = loop {
        let status = engine.status()?;
        // What the kernel has dropped is known a second later.
        let lost = losses(&status, sender.sent);
        if lost.is_empty() || Instant::now() > give_up {
            break lost.is_empty();
        }
        std::thread::sleep(REST);
    };
    findings.extend(bench.losses(engine.stop()?));
    let _ = std::fs::remove_dir_all(&data);
    let reached = sender.sent as f64 / took.as_secs_f64().max(1e-9);
    Ok((is_stored && reached >= 0.95 * per_second as f64).then_some((reached, cpu_ns)))
}
