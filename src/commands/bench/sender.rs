//! The open-loop sender: each event has its time, and one that comes late moves none of those after it (H3).
//!
//! Between two due events the same thread may write a flood, flat out, on connections of its own: one core then carries both without
//! the scheduler between them. How late the sender was itself is recorded too.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::bench::curve::histogram;
use crate::commands::send::{Generate, Generator, Piece, Tally};
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::wire::{Priority, encode_into};

/// The topic of the events that are timed.
pub(super) const TOPIC: &str = "bench/realtime";
/// Bytes of their bodies: when one was due and when it was written, nanoseconds of the monotonic clock, and filling.
const BODY_BYTES: usize = 64;
/// Due events that go out in one write at most.
const WRITE_EVENTS_MAX: u64 = 512;
/// Bytes of one write of the flood.
const FLOOD_WRITE_BYTES: usize = 65_536;
/// An engine that takes no more than half of what is due is far beyond its knee: what is then not sent is not waited for.
const OVERTIME: u64 = 2;
/// How long the engine may take to read what was sent.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// What to send.
#[derive(Clone, Debug)]
pub(super) struct OpenLoop {
    /// Timed events a second, all of priority HIGH, on a connection of their own.
    pub(super) per_second: u64,
    /// For how long they are due.
    pub(super) span: Duration,
    /// What else, on how many connections.
    pub(super) flood: Option<(Generate, usize)>,
    /// Whether the core is the sender's alone: then it waits in a loop.
    pub(super) may_spin: bool,
}

/// What was sent.
pub(super) struct Sent {
    /// Timed events.
    pub(super) timed: u64,
    /// Timed events that were due.
    pub(super) due: u64,
    /// The rest.
    pub(super) flood: Tally,
    /// From the first due event to the last written one.
    pub(super) took: Nanos,
    /// How late each timed event was written.
    pub(super) late: Histogram<u64>,
}

/// When an event was due and when it was written; `None` for other bodies.
pub(super) fn stamps(body: &[u8]) -> Option<(Nanos, Nanos)> {
    let (stamps, _) = body.as_chunks::<8>();
    match stamps {
        [due, written, ..] => Some((Nanos(u64::from_be_bytes(*due)), Nanos(u64::from_be_bytes(*written)))),
        _ => None,
    }
}

/// Connections that are written to in turn as fast as they take it.
struct Flood {
    generator: Generator,
    connections: Vec<(TcpStream, Piece, usize)>,
    turn: usize,
    sent: Tally,
}

impl Flood {
    fn open(address: SocketAddr, generate: &Generate, connections: usize) -> io::Result<Flood> {
        let open = |_| -> io::Result<_> {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            Ok((stream, Piece::default(), 0))
        };
        let generator = Generator::new(generate, FLOOD_WRITE_BYTES, 0, 1);
        Ok(Flood {
            generator,
            connections: (0..connections).map(open).collect::<io::Result<_>>()?,
            turn: 0,
            sent: Tally::default(),
        })
    }

    /// One attempt on the next connection, with a fresh piece where the last one is out.
    fn write_some(&mut self) -> io::Result<()> {
        self.turn = (self.turn + 1) % self.connections.len();
        let (stream, piece, written) = &mut self.connections[self.turn];
        if *written == piece.bytes.len() {
            piece.clear();
            *written = 0;
            self.generator.fill(piece, u64::MAX);
            self.sent.add(&piece.tally);
        }
        *written += match stream.write(&piece.bytes[*written..]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            other => other?,
        };
        Ok(())
    }

    /// Writes what is begun, and waits until all is read.
    fn finish(mut self) -> io::Result<Tally> {
        for (stream, piece, written) in &mut self.connections {
            stream.set_nonblocking(false)?;
            stream.write_all(&piece.bytes[*written..])?;
            stream.shutdown(Shutdown::Write)?;
        }
        self.connections.iter().try_for_each(|(stream, ..)| wait_for_end(stream))?;
        Ok(self.sent)
    }
}

/// Until the other side, having read all, closes too.
fn wait_for_end(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(CLOSE_WAIT))?;
    match stream.read(&mut [0; 1])? {
        0 => Ok(()),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "an answer where none was asked for")),
    }
}

/// Sends all of it from this thread, and returns when the engine has read it.
///
/// # Errors
/// A connection that can't be made or breaks, an engine that does not read on.
pub(super) fn send(address: SocketAddr, plan: &OpenLoop) -> io::Result<Sent> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut flood =
        plan.flood.as_ref().map(|(generate, connections)| Flood::open(address, generate, *connections)).transpose()?;
    let mut frame = Vec::new();
    encode_into(&mut frame, Priority::High, TOPIC, &[b'.'; BODY_BYTES]).expect("a valid frame");
    let stamps_at = frame.len() - BODY_BYTES;
    let (mut late, mut bytes) = (histogram(), Vec::with_capacity(frame.len() * WRITE_EVENTS_MAX as usize));
    let due_in_all = (plan.span.as_secs_f64() * plan.per_second as f64).max(1.0) as u64;
    let began = HostClock.now();
    let give_up = began + Nanos(plan.span.as_nanos() as u64 * OVERTIME);
    let due_at = |number: u64| began + Nanos((u128::from(number) * 1_000_000_000 / u128::from(plan.per_second.max(1))) as u64);
    let (mut sent, mut now) = (0, began);
    while sent < due_in_all && now < give_up {
        now = HostClock.now();
        if now < due_at(sent) {
            match &mut flood {
                Some(flood) => flood.write_some()?,
                None if plan.may_spin => std::hint::spin_loop(),
                None => std::thread::sleep(Duration::from_nanos(due_at(sent).since(now).0)),
            }
            continue;
        }
        bytes.clear();
        let first = sent;
        while sent < due_in_all && sent - first < WRITE_EVENTS_MAX && due_at(sent) <= now {
            let at = bytes.len() + stamps_at;
            bytes.extend_from_slice(&frame);
            bytes[at..at + 8].copy_from_slice(&due_at(sent).0.to_be_bytes());
            bytes[at + 8..at + 16].copy_from_slice(&now.0.to_be_bytes());
            late.saturating_record(now.since(due_at(sent)).0);
            sent += 1;
        }
        stream.write_all(&bytes)?;
    }
    let took = HostClock.now().since(began);
    stream.shutdown(Shutdown::Write)?;
    let flood = flood.map_or(Ok(Tally::default()), Flood::finish)?;
    wait_for_end(&stream)?;
    Ok(Sent { timed: sent, due: due_in_all, flood, took, late })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::wire::{FrameLimits, datagram};

    #[test]
    fn each_event_carries_when_it_was_due_and_none_is_left_out() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            listener.accept().expect("a sender").0.read_to_end(&mut bytes).expect("frames");
            bytes
        });
        let plan = OpenLoop { per_second: 50_000, span: Duration::from_millis(20), flood: None, may_spin: false };
        let sent = send(address, &plan).expect("a reader");
        let bytes = reading.join().expect("no panic");
        let stamps: Vec<_> =
            datagram(&bytes, &FrameLimits::FORMAT).map(|frame| stamps(frame.expect("whole").body).expect("stamps")).collect();
        assert_eq!((stamps.len() as u64, sent.timed, sent.due), (1_000, 1_000, 1_000));
        assert_eq!(sent.late.len(), 1_000);
        for (number, (due, written)) in stamps.iter().enumerate() {
            assert_eq!(due.since(stamps[0].0), Nanos(number as u64 * 20_000));
            assert!(written >= due);
        }
    }

    #[test]
    fn bodies_without_stamps_are_not_timed() {
        assert_eq!(stamps(b"short"), None);
        assert!(stamps(&[0; 16]).is_some());
    }
}
