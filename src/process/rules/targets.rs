//! Where alerts go beside the alert log: an address or a program, each with a thread of its own, which may wait for it.
//!
//! A call of `turn` handles at most one alert and takes at most some seconds (a peer that doesn't answer, a peer that doesn't read). What fails is not
//! tried again: an alert that comes minutes late is worse than its count.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::actions::{Desk, Order};
use super::counters::ActionKind;
use super::rule::Program;
use crate::sys::file::memory_file;
use crate::sys::process::kill_process_group;

/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// How long a line may take to be taken by the peer's kernel or ours.
const WRITE_WITHIN: Duration = Duration::from_secs(1);

/// How long an address is left alone after it has failed; alerts wait in the queue meanwhile.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// How soon the end of a program is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Where an alert goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Udp(SocketAddr),
    Tcp(SocketAddr),
    Run(Program),
}

impl Destination {
    pub(super) fn kind(&self) -> ActionKind {
        match self {
            Self::Udp(_) => ActionKind::Udp,
            Self::Tcp(_) => ActionKind::Tcp,
            Self::Run(_) => ActionKind::Run,
        }
    }
}

/// What came of a turn.
pub(super) enum Turn {
    /// There may be more to do at once.
    Again,
    /// Nothing to do before so long.
    Idle(Duration),
}

/// One destination and what is open to it.
pub(super) enum Target {
    Line(LineTarget),
    Run(RunTarget),
}

impl Target {
    pub(super) fn new(destination: Destination) -> Self {
        match destination {
            Destination::Udp(address) => Self::Line(LineTarget::new(address, Link::Udp(None))),
            Destination::Tcp(address) => Self::Line(LineTarget::new(address, Link::Tcp(None))),
            Destination::Run(program) => Self::Run(RunTarget { program, running: Vec::new() }),
        }
    }

    /// Handles the next alert, if there is one and it is time.
    pub(super) fn turn(&mut self, desk: &mut Desk) -> Turn {
        match self {
            Self::Line(line) => line.turn(desk),
            Self::Run(run) => run.turn(desk),
        }
    }

    /// Whether nothing is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        match self {
            Self::Line(_) => true,
            Self::Run(run) => run.running.is_empty(),
        }
    }

    /// Whether further alerts are bound to wait.
    pub(super) fn is_left_alone(&self) -> bool {
        matches!(self, Self::Line(line) if line.left_alone_until.is_some())
    }

    /// Gives up what is under way.
    pub(super) fn abandon(&mut self, desk: &mut Desk) {
        let Self::Run(run) = self else { return };
        for running in run.running.drain(..) {
            kill_process_group(running.child.id());
            desk.failed(running.rule, format_args!("{} was killed, as the engine ends", run.program.arguments[0]));
        }
    }
}

/// An address that gets lines.
pub(super) struct LineTarget {
    address: SocketAddr,
    link: Link,
    left_alone_until: Option<Instant>,
    line: Vec<u8>,
}

enum Link {
    Udp(Option<UdpSocket>),
    Tcp(Option<TcpStream>),
}

impl LineTarget {
    fn new(address: SocketAddr, link: Link) -> Self {
        Self { address, link, left_alone_until: None, line: Vec::new() }
    }

    fn turn(&mut self, desk: &mut Desk) -> Turn {
        if let Some(until) = self.left_alone_until {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Turn::Idle(left);
            }
            self.left_alone_until = None;
        }
        let Some(order) = desk.next() else { return Turn::Idle(Duration::MAX) };
        self.line.clear();
        order.facts.write_line(Some(desk.name(order.rule())), order.topic(), order.body(), &mut self.line);
        let sent = match &mut self.link {
            Link::Udp(socket) => send_datagram(socket, self.address, &self.line),
            Link::Tcp(stream) => send_line(stream, self.address, &self.line),
        };
        match sent {
            Ok(()) => desk.done(order.rule()),
            Err(error) => {
                self.left_alone_until = Some(Instant::now() + LEFT_ALONE);
                desk.failed(order.rule(), format_args!("{} did not take an alert: {error}", self.address));
            }
        }
        desk.give_back(order);
        Turn::Again
    }
}

/// A datagram that can't be taken at once is refused: `WouldBlock`.
fn send_datagram(socket: &mut Option<UdpSocket>, address: SocketAddr, line: &[u8]) -> io::Result<()> {
    let open = match socket {
        Some(open) => open,
        None => {
            let any: SocketAddr =
                if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
            let fresh = UdpSocket::bind(any)?;
            fresh.set_nonblocking(true)?;
            fresh.connect(address)?;
            socket.insert(fresh)
        }
    };
    let sent = open.send(line);
    if sent.is_err() {
        *socket = None;
    }
    sent.map(drop)
}

/// Writes the whole line, over a fresh connection where there is none or the peer has closed it.
fn send_line(stream: &mut Option<TcpStream>, address: SocketAddr, line: &[u8]) -> io::Result<()> {
    if stream.as_mut().is_some_and(is_closed_by_peer) {
        *stream = None;
    }
    let open = match stream {
        Some(open) => open,
        None => {
            let fresh = TcpStream::connect_timeout(&address, CONNECT_WITHIN)?;
            fresh.set_nodelay(true)?;
            fresh.set_write_timeout(Some(WRITE_WITHIN))?;
            stream.insert(fresh)
        }
    };
    let sent = write_within(open, line);
    if sent.is_err() {
        // Half a line may be out: the next one goes over another connection.
        *stream = None;
    }
    sent
}

/// What the peer says is of no interest, but that it has gone is: a line written then would be lost without an error.
fn is_closed_by_peer(stream: &mut TcpStream) -> bool {
    let mut unread = [0; 4096];
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let is_closed = match stream.read(&mut unread) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    is_closed || stream.set_nonblocking(false).is_err()
}

/// As `write_all`, but a peer that reads byte by byte does not hold it up for long either.
fn write_within(stream: &mut TcpStream, line: &[u8]) -> io::Result<()> {
    let (mut rest, deadline) = (line, Instant::now() + WRITE_WITHIN);
    while !rest.is_empty() {
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
        if !rest.is_empty() && Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// A program that is run.
pub(super) struct RunTarget {
    program: Program,
    running: Vec<Running>,
}

struct Running {
    child: Child,
    rule: u8,
    kill_at: Instant,
    is_killed: bool,
}

impl RunTarget {
    fn turn(&mut self, desk: &mut Desk) -> Turn {
        self.look_at_running(desk);
        if self.running.len() < self.program.at_once_max as usize
            && let Some(order) = desk.next()
        {
            let rule = order.rule();
            match start(&self.program, desk.name(rule), &order) {
                Ok(child) => {
                    let kill_at = Instant::now() + Duration::from_nanos(self.program.run_time_max.0);
                    self.running.push(Running { child, rule, kill_at, is_killed: false });
                }
                Err(error) => desk.failed(rule, format_args!("{} can't be started: {error}", self.program.arguments[0])),
            }
            desk.give_back(order);
            return Turn::Again;
        }
        Turn::Idle(if self.running.is_empty() { Duration::MAX } else { LOOK_EVERY })
    }

    /// Takes leave of those that have ended, and kills those that have run for too long.
    fn look_at_running(&mut self, desk: &mut Desk) {
        let (path, now) = (&self.program.arguments[0], Instant::now());
        self.running.retain_mut(|running| {
            match running.child.try_wait() {
                Ok(None) => {
                    if now >= running.kill_at && !running.is_killed {
                        kill_process_group(running.child.id());
                        running.is_killed = true;
                    }
                    return true;
                }
                Ok(Some(status)) if status.success() => desk.done(running.rule),
                Ok(Some(_)) if running.is_killed => desk.failed(running.rule, format_args!("{path} ran too long and was killed")),
                Ok(Some(status)) => desk.failed(running.rule, format_args!("{path} ended with {status}")),
                Err(error) => desk.failed(running.rule, format_args!("{path} is lost: {error}")),
            }
            false
        });
    }
}

/// Starts the program: in a process group of its own, in the root folder, with the body in a file in memory as its standard input, so that
/// one that doesn't read holds nobody up.
fn start(program: &Program, rule: &str, order: &Order) -> io::Result<Child> {
    Command::new(&program.arguments[0])
        .args(&program.arguments[1..])
        .env_clear()
        .env("EVENTSTREAM_RULE", rule)
        .env("EVENTSTREAM_TOPIC", order.topic())
        .env("EVENTSTREAM_PRIORITY", order.facts.priority)
        .env("EVENTSTREAM_ID", order.facts.id.to_string())
        .env("EVENTSTREAM_BODY_BYTES", order.facts.body_len.to_string())
        .current_dir("/")
        .process_group(0)
        .stdin(memory_file(order.body())?)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
