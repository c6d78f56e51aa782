//! Over TCP: several connections in turn, none of which holds up another.
//!
//! Sockets don't block. A connection that the receiver holds back keeps its piece while the others go on; only when none can go
//! on the thread naps (50 µs: the socket buffers hold more than a receiver can read in that time).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::pace::Pace;
use super::{Part, Piece, Plan, SendError, Source, Tally, TcpTransport};
use crate::wire::{FrameLimits, datagram};

/// What a pause may be made up for at once.
const BURST: Duration = Duration::from_millis(10);

/// How long to wait for a connection to be made.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

struct Connection {
    stream: TcpStream,
    piece: Piece,
    /// Bytes of the piece that the kernel has taken.
    written: usize,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_WAIT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Connection { stream, piece: Piece::default(), written: 0 })
    }

    fn is_idle(&self) -> bool {
        self.written == self.piece.bytes.len()
    }

    /// Writes once. Whether anything went.
    fn write(&mut self) -> io::Result<bool> {
        match self.stream.write(&self.piece.bytes[self.written..]) {
            Ok(0) => Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                self.written += count;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What of the piece the kernel has taken: its whole frames, its bytes.
    fn taken(&self) -> Tally {
        if self.is_idle() {
            return self.piece.tally;
        }
        let bytes = &self.piece.bytes[..self.written];
        let mut tally = Tally { bytes: bytes.len() as u64, ..Tally::default() };
        datagram(bytes, &FrameLimits::FORMAT).flatten().for_each(|frame| tally.count(frame.priority));
        tally
    }
}

/// Sends one thread's part.
pub(super) fn send(plan: &Plan, tcp: TcpTransport, thread: usize, mut source: Source, stop: &AtomicBool) -> Part {
    let address = tcp.address;
    let mut part = Part::default();
    let opened: io::Result<Vec<_>> = (0..plan.connections_of(thread)).map(|_| Connection::open(address)).collect();
    let mut connections = match opened {
        Ok(connections) => connections,
        Err(source) => return Part { failure: Some(SendError::Connect { address, source }), ..part },
    };
    let pace = Pace::new(plan.rate_events_per_second, plan.threads, BURST, Instant::now());
    let outcome = send_all(&mut connections, &mut source, pace, tcp, stop, &mut part.sent);
    connections.iter().for_each(|connection| part.sent.add(&connection.taken()));
    let outcome = outcome.and_then(|()| close_all(connections, tcp));
    match outcome {
        Ok(unconfirmed) => part.unconfirmed_connections = unconfirmed,
        Err(failure) => part.failure = Some(failure),
    }
    part
}

/// Until the source is at its end and everything is written. `sent` gets all pieces but each connection's last.
fn send_all(
    connections: &mut [Connection],
    source: &mut Source,
    mut pace: Pace,
    tcp: TcpTransport,
    stop: &AtomicBool,
    sent: &mut Tally,
) -> Result<(), SendError> {
    let mut at_end = false;
    loop {
        let mut moved = false;
        for connection in connections.iter_mut() {
            if connection.is_idle() && !at_end {
                let allowed = if pace.is_bounded() { pace.allowed(Instant::now()) } else { u64::MAX };
                if allowed == 0 {
                    continue;
                }
                sent.add(&connection.piece.tally);
                connection.piece.clear();
                connection.written = 0;
                source.fill(&mut connection.piece, tcp.write_bytes, allowed)?;
                pace.took(connection.piece.tally.events());
                at_end = connection.piece.bytes.is_empty();
            }
            if !connection.is_idle() {
                let lost = |source| SendError::Lost { address: tcp.address, source, sent: Tally::default() };
                moved |= connection.write().map_err(lost)?;
            }
        }
        // Relaxed: only says that another thread has failed.
        if stop.load(Ordering::Relaxed) || (at_end && connections.iter().all(Connection::is_idle)) {
            return Ok(());
        }
        if !moved {
            std::thread::sleep(pace.pause());
        }
    }
}

/// Says on each connection that no more comes, and waits until the receiver, having read all, closes it too. How many it did
/// not close in time.
fn close_all(connections: Vec<Connection>, tcp: TcpTransport) -> Result<usize, SendError> {
    let lost = |source| SendError::Lost { address: tcp.address, source, sent: Tally::default() };
    let deadline = Instant::now() + tcp.close_wait;
    for connection in &connections {
        connection.stream.shutdown(Shutdown::Write).map_err(lost)?;
    }
    let mut unconfirmed = 0;
    for connection in connections {
        if !wait_for_end(connection.stream, deadline).map_err(lost)? {
            unconfirmed += 1;
        }
    }
    Ok(unconfirmed)
}

/// Whether the stream ended before the deadline.
fn wait_for_end(mut stream: TcpStream, deadline: Instant) -> io::Result<bool> {
    stream.set_nonblocking(false)?;
    let mut answer = [0; 512];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A timeout of zero would mean none.
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut answer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if Instant::now() >= deadline {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error),
        }
    }
}
