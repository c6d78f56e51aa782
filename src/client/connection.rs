//! A connection up to its welcome.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ClientError, ClientOptions, ProtocolFault};
use crate::wire::ProducerId;
use crate::wire::session::{HELLO_BYTES_MAX, Hello, ServerMessage, SessionFault, Step, WELCOME_BYTES_MAX, Welcome, parse_server};

/// A welcomed connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub stream: TcpStream,
    /// What was read: the welcome, and perhaps more.
    received: Vec<u8>,
    welcome_bytes: usize,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NotOpened {
    /// Another try may do better.
    ForNow(io::Error),
    /// It won't.
    ForGood(ClientError),
}

impl From<io::Error> for NotOpened {
    fn from(error: io::Error) -> NotOpened {
        NotOpened::ForNow(error)
    }
}

impl NotOpened {
    /// The error of a caller that does not try again.
    pub fn into_error(self, options: &ClientOptions) -> ClientError {
        match self {
            NotOpened::ForNow(source) => ClientError::NoServer { server: options.server.clone(), source: Arc::new(source) },
            NotOpened::ForGood(error) => error,
        }
    }
}

impl Connection {
    /// Connects, says hello, and waits for the welcome.
    pub fn open(options: &ClientOptions, producer: ProducerId, lowest_unacked: u64) -> Result<Connection, NotOpened> {
        let deadline = Instant::now() + options.connect_timeout;
        let mut stream = connect(&options.server, deadline)?;
        stream.set_nodelay(true)?;
        let mut hello = [0; HELLO_BYTES_MAX];
        let hello_bytes = Hello { level: options.ack_level, producer, lowest_unacked, token: &options.token }.encode(&mut hello);
        stream.set_write_timeout(Some(left(deadline)?))?;
        stream.write_all(&hello[..hello_bytes])?;
        stream.set_write_timeout(None)?;
        let mut received = Vec::with_capacity(WELCOME_BYTES_MAX);
        loop {
            stream.set_read_timeout(Some(left(deadline)?))?;
            let mut bytes = [0; WELCOME_BYTES_MAX];
            match stream.read(&mut bytes) {
                Ok(0) => {
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, "the connection was closed before any answer").into());
                }
                Ok(count) => received.extend_from_slice(&bytes[..count]),
                Err(error) if is_pause(&error) || error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            }
            if let Some(welcome_bytes) = judge(&received, options)? {
                return Ok(Connection { stream, received, welcome_bytes });
            }
        }
    }

    /// What the server said first.
    pub fn welcome(&self) -> Welcome<'_> {
        match parse_server(&self.received) {
            Ok(Step::Whole { message: ServerMessage::Welcome(welcome), .. }) => welcome,
            _ => unreachable!("judged when the connection was opened"),
        }
    }

    /// The stream, and what was read behind the welcome.
    pub fn into_parts(mut self) -> (TcpStream, Vec<u8>) {
        self.received.drain(..self.welcome_bytes);
        (self.stream, self.received)
    }
}

/// The bytes of the welcome once it is whole.
fn judge(received: &[u8], options: &ClientOptions) -> Result<Option<usize>, NotOpened> {
    let fault = |fault| NotOpened::ForGood(ClientError::Protocol(fault));
    match parse_server(received).map_err(|refusal| fault(ProtocolFault::NoMessage(refusal)))? {
        Step::Incomplete { .. } => Ok(None),
        Step::Whole { message: ServerMessage::Welcome(welcome), bytes } if welcome.level == options.ack_level => Ok(Some(bytes)),
        Step::Whole { message: ServerMessage::Welcome(welcome), .. } => {
            Err(fault(ProtocolFault::OtherLevel { level: welcome.level }))
        }
        Step::Whole { message: ServerMessage::Error(error), .. } => {
            let text = error.text.to_owned();
            if is_final(error.code) {
                return Err(NotOpened::ForGood(ClientError::Refused { code: error.code, text }));
            }
            Err(NotOpened::ForNow(io::Error::new(ErrorKind::ConnectionRefused, text)))
        }
        Step::Whole { .. } => Err(fault(ProtocolFault::OutOfPlace { kind: received[0] })),
    }
}

/// The first of the server's addresses that answers.
fn connect(server: &str, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The time that is left: never zero, which would mean no bound to the socket.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A read that ended without anything, and can be made again.
pub(super) fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Whether connecting again can't help after this ERROR. One that this client does not know may pass.
pub(super) fn is_final(code: u16) -> bool {
    use SessionFault::{HelloLate, Idle, NoSeat, SlowFrame, SlowReader, Stopping};
    let fault = SessionFault::ALL.into_iter().find(|fault| fault.code() == code);
    fault.is_some_and(|fault| !matches!(fault, HelloLate | NoSeat | SlowFrame | Idle | SlowReader | Stopping))
}
