//! A connection that never waits: it writes what the kernel takes, and reads what is there.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::events::Events;
use super::peer::{Failure, Peer};

/// Bytes of one write, about, and of one read at most.
pub const WRITE_BYTES: usize = 65_536;
/// How long a peer may take to greet, or to close at the end.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Connection {
    number: usize,
    stream: TcpStream,
    events: Events,
    out: Vec<u8>,
    written: usize,
    /// The start of an answer whose rest has not come.
    begun: Vec<u8>,
    buffer: Box<[u8; WRITE_BYTES]>,
    /// Events given so far.
    pub sent: u64,
    /// Events answered for.
    pub answered: u64,
}

impl Connection {
    pub fn open(peer: &mut dyn Peer, address: SocketAddr, number: usize) -> Result<Connection, Failure> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        peer.greet(number, &mut stream)?;
        stream.set_nonblocking(true)?;
        Ok(Connection {
            number,
            stream,
            events: Events::of(peer, number),
            out: Vec::new(),
            written: 0,
            begun: Vec::new(),
            buffer: Box::new([0; WRITE_BYTES]),
            sent: 0,
            answered: 0,
        })
    }

    /// Events of one write.
    pub fn write_events(&self) -> u64 {
        (WRITE_BYTES / self.events.event_bytes()).max(1) as u64
    }

    /// Events without an answer.
    pub fn waiting(&self) -> u64 {
        self.sent - self.answered
    }

    /// Whether the kernel has taken all that was given.
    pub fn is_written(&self) -> bool {
        self.written == self.out.len()
    }

    /// The next so many events are to be written.
    pub fn give(&mut self, count: u64) {
        if self.is_written() {
            self.out.clear();
            self.written = 0;
        }
        self.events.append(count, &mut self.out);
        self.sent += count;
    }

    /// Writes what the kernel takes; whether it took any.
    pub fn write(&mut self) -> Result<bool, Failure> {
        if self.is_written() {
            return Ok(false);
        }
        match self.stream.write(&self.out[self.written..]) {
            Ok(bytes) => {
                self.written += bytes;
                Ok(bytes > 0)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads answers that are there; for how many events.
    pub fn read(&mut self, peer: &mut dyn Peer) -> Result<u64, Failure> {
        let bytes = match self.stream.read(&mut self.buffer[..]) {
            Ok(0) => return Err(format!("closed by the peer, {} events without an answer", self.waiting()).into()),
            Ok(bytes) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        self.begun.extend_from_slice(&self.buffer[..bytes]);
        let answers = peer.answers(self.number, &self.begun)?;
        self.begun.drain(..answers.bytes);
        self.answered += answers.events;
        if self.answered > self.sent {
            return Err(format!("{} answers for {} events", self.answered, self.sent).into());
        }
        Ok(answers.events)
    }

    /// Ends sending.
    pub fn shut(&self) -> Result<(), Failure> {
        Ok(self.stream.shutdown(Shutdown::Write)?)
    }

    /// Waits until the peer, which has then read all, closes too.
    pub fn wait_for_end(&mut self) -> Result<(), Failure> {
        self.stream.set_nonblocking(false)?;
        while self.stream.read(&mut self.buffer[..])? > 0 {}
        Ok(())
    }
}
