//! The threads of a producer: one that writes and keeps a connection, and while there is one, one that reads from it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::backoff::Backoff;
use super::connection::{Connection, NotOpened, is_final, is_pause};
use super::session::Session;
use super::{ClientError, ClientOptions, ProtocolFault};
use crate::wire::ProducerId;
use crate::wire::session::{ClientMessage, ServerMessage, Step, WELCOME_BYTES_MAX, parse_server};

/// About how much goes into one write: what accumulates while the last one is on its way, up to an L2's comfort.
const WRITE_BYTES: usize = 64 << 10;

/// How much is read at once: a few hundred acks.
const READ_BYTES: usize = 16 << 10;

const _: () = assert!(READ_BYTES >= 2 * WELCOME_BYTES_MAX, "a message that is not whole leaves room to read its rest");

/// How far a producer is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Without a connection: one is sought once there is something to send.
    Seeking,
    /// With one. Shutting this down ends both threads' use of it.
    Connected(TcpStream),
    /// It can't go on.
    Failed(ClientError),
    /// It has ended, as it was asked to.
    Ended,
}

#[derive(Debug)]
pub(super) struct State {
    pub session: Session,
    pub phase: Phase,
    /// No more events come: BYE when all have their outcome.
    pub closing: bool,
    /// The caller has gone: end at once.
    pub abandoned: bool,
    /// The writing thread waits for [`Shared::work`].
    pub writer_sleeps: bool,
    /// Callers that wait for [`Shared::progress`].
    pub callers_asleep: usize,
    /// The server has been silent for long: ask it for an ack.
    ping_due: bool,
    /// When BYE was written.
    bye_at: Option<Instant>,
    /// What ended the last connection, if it was that. A server that never does better is none.
    fault: Option<ProtocolFault>,
}

/// What callers and threads share. The lock is never held over a system call that can block.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something to write, or to end for.
    work: Condvar,
    /// Outcomes, room, or the end.
    progress: Condvar,
}

impl Shared {
    pub fn new(session: Session) -> Shared {
        let state = State {
            session,
            phase: Phase::Seeking,
            closing: false,
            abandoned: false,
            writer_sleeps: false,
            callers_asleep: 0,
            ping_due: false,
            bye_at: None,
            fault: None,
        };
        Shared { state: Mutex::new(state), work: Condvar::new(), progress: Condvar::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// The same for a caller that unwinds, perhaps because a thread has panicked.
    pub fn lock_if_sound(&self) -> Option<MutexGuard<'_, State>> {
        self.state.lock().ok()
    }

    /// Wakes the writing thread if it sleeps.
    pub fn wake_writer(&self, state: &mut State) {
        if std::mem::take(&mut state.writer_sleeps) {
            self.work.notify_one();
        }
    }

    fn writer_waits<'a>(&self, mut state: MutexGuard<'a, State>, most: Option<Duration>) -> MutexGuard<'a, State> {
        state.writer_sleeps = true;
        let mut state = match most {
            None => self.work.wait(state).expect("no holder of this lock panics"),
            Some(most) => self.work.wait_timeout(state, most).expect("no holder of this lock panics").0,
        };
        state.writer_sleeps = false;
        state
    }

    /// Waits for progress, until the deadline if there is one.
    pub fn caller_waits<'a>(&self, mut state: MutexGuard<'a, State>, deadline: Option<Instant>) -> MutexGuard<'a, State> {
        state.callers_asleep += 1;
        let mut state = match deadline {
            None => self.progress.wait(state).expect("no holder of this lock panics"),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.progress.wait_timeout(state, left).expect("no holder of this lock panics").0
            }
        };
        state.callers_asleep -= 1;
        state
    }

    fn wake_callers(&self, state: &State) {
        if state.callers_asleep > 0 {
            self.progress.notify_all();
        }
    }

    /// A connection begins, after a hello with this lowest unacked sequence.
    pub fn begin(&self, connection: &Connection, lowest_unacked: u64) -> Result<(), NotOpened> {
        let stream = connection.stream.try_clone()?;
        let mut state = self.lock();
        let begun = state.session.welcome(&connection.welcome(), lowest_unacked, Instant::now());
        begun.map_err(|fault| NotOpened::ForGood(ClientError::Protocol(fault)))?;
        (state.ping_due, state.bye_at) = (false, None);
        state.phase = Phase::Connected(stream);
        self.wake_callers(&state);
        Ok(())
    }

    /// The connection is over.
    fn lose(&self, why: Lost) {
        let mut state = self.lock();
        state.fault = None;
        state.phase = match why {
            Lost::Refused { code, text } if is_final(code) => Phase::Failed(ClientError::Refused { code, text }),
            Lost::Refused { .. } | Lost::Gone => Phase::Seeking,
            Lost::Fault(fault) => {
                state.session.statistics.protocol_faults += 1;
                state.fault = Some(fault);
                Phase::Seeking
            }
        };
        self.wake_writer(&mut state);
        self.wake_callers(&state);
    }

    fn fail(&self, error: ClientError) {
        let mut state = self.lock();
        state.phase = Phase::Failed(error);
        self.wake_callers(&state);
    }
}

impl State {
    fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Connected(_))
    }

    /// Puts together what is to be written now: nothing if there is nothing.
    fn compose(&mut self, out: &mut Vec<u8>) {
        out.clear();
        if std::mem::take(&mut self.ping_due) {
            out.extend_from_slice(&ClientMessage::PING);
        }
        let now = Instant::now();
        self.session.compose(out, WRITE_BYTES, now, SystemTime::now());
        if out.is_empty() && self.closing && self.session.is_settled() && self.bye_at.is_none() {
            out.extend_from_slice(&ClientMessage::BYE);
            self.bye_at = Some(now);
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
enum Lost {
    /// It broke, was closed, or fell silent.
    Gone,
    /// The server ended it with an ERROR.
    Refused { code: u16, text: String },
    /// The server said what can't be true.
    Fault(ProtocolFault),
}

/// The thread that writes.
#[derive(Debug)]
pub(super) struct Keeper {
    pub shared: Arc<Shared>,
    pub options: ClientOptions,
    pub producer: ProducerId,
}

impl Keeper {
    /// Serves this connection and those after it, to the producer's end.
    pub fn run(self, first: Connection) {
        let mut backoff = Backoff::new(self.options.backoff_first, self.options.backoff_max);
        let mut connection = first;
        let mut lost_since = None;
        loop {
            let acked_before = self.shared.lock().session.acked();
            if let Err(source) = self.serve(connection) {
                return self.shared.fail(ClientError::NoThread(Arc::new(source)));
            }
            let progressed = self.shared.lock().session.acked() > acked_before;
            if progressed {
                backoff.reset();
                lost_since = None;
            }
            match self.seek(&mut backoff, &mut lost_since, !progressed) {
                Some(next) => connection = next,
                None => return,
            }
        }
    }

    /// Uses a connection until it is over.
    fn serve(&self, connection: Connection) -> io::Result<()> {
        let (stream, received) = connection.into_parts();
        std::thread::scope(|scope| {
            let reading = || {
                let lost = Reader { keeper: self, stream: &stream, received, heard: Instant::now(), pinged: false }.run();
                // A write that waits for a server that does not read ends too.
                let _ = stream.shutdown(Shutdown::Both);
                self.shared.lose(lost);
            };
            std::thread::Builder::new().name("eventstream-acks".into()).spawn_scoped(scope, reading)?;
            self.write(&stream);
            // The reading thread has ended, or ends by this. The stream may be gone already.
            let _ = stream.shutdown(Shutdown::Both);
            Ok(())
        })
    }

    /// Writes whatever may be written, until the connection is over.
    fn write(&self, mut stream: &TcpStream) {
        let mut out = Vec::with_capacity(WRITE_BYTES);
        loop {
            let mut state = self.shared.lock();
            loop {
                if !state.is_connected() {
                    return;
                }
                state.compose(&mut out);
                if !out.is_empty() {
                    break;
                }
                state = self.shared.writer_waits(state, None);
            }
            drop(state);
            if stream.write_all(&out).is_err() {
                return;
            }
        }
    }

    /// The next connection, once there is something to send over it; `None` at the end.
    fn seek(&self, backoff: &mut Backoff, lost_since: &mut Option<Instant>, mut pause: bool) -> Option<Connection> {
        loop {
            let lowest_unacked = self.wait_for_need(lost_since)?;
            let since = *lost_since.get_or_insert_with(Instant::now);
            if pause && !self.pause(backoff.wait()) {
                continue;
            }
            pause = true;
            let opened = Connection::open(&self.options, self.producer, lowest_unacked)
                .and_then(|connection| self.shared.begin(&connection, lowest_unacked).map(|()| connection));
            let in_time = since.elapsed() < self.options.reconnect_for;
            let error = match opened {
                Ok(connection) => {
                    let mut state = self.shared.lock();
                    state.session.statistics.reconnects += 1;
                    match state.fault {
                        Some(fault) if !in_time => ClientError::Protocol(fault),
                        _ => return Some(connection),
                    }
                }
                Err(NotOpened::ForNow(_)) if in_time => continue,
                Err(not_opened) => not_opened.into_error(&self.options),
            };
            self.shared.fail(error);
            return None;
        }
    }

    /// Waits until something has to be sent, and says the lowest unacked sequence; `None` at the end.
    fn wait_for_need(&self, lost_since: &mut Option<Instant>) -> Option<u64> {
        let mut state = self.shared.lock();
        loop {
            if matches!(state.phase, Phase::Failed(_)) {
                return None;
            }
            let settled = state.session.is_settled();
            if state.abandoned || (state.closing && settled) {
                state.phase = Phase::Ended;
                self.shared.wake_callers(&state);
                return None;
            }
            if !settled {
                return Some(state.session.lowest_unacked());
            }
            *lost_since = None;
            state = self.shared.writer_waits(state, None);
        }
    }

    /// Waits so long; whether nobody asked for the end meanwhile.
    fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.shared.lock();
        while !state.abandoned {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.shared.writer_waits(state, Some(left));
        }
        false
    }
}

/// The thread that reads.
struct Reader<'a> {
    keeper: &'a Keeper,
    stream: &'a TcpStream,
    /// What was read and is no whole message yet.
    received: Vec<u8>,
    /// When something came last.
    heard: Instant,
    /// It was asked for an ack since.
    pinged: bool,
}

impl Reader<'_> {
    fn run(mut self) -> Lost {
        let options = &self.keeper.options;
        let tick =
            (options.silence_max / 4).min(options.connect_timeout).clamp(Duration::from_millis(10), Duration::from_secs(1));
        if self.stream.set_read_timeout(Some(tick)).is_err() {
            return Lost::Gone;
        }
        let mut bytes = [0; READ_BYTES];
        loop {
            if let Err(lost) = self.apply() {
                return lost;
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return Lost::Gone,
                Ok(count) => {
                    self.received.extend_from_slice(&bytes[..count]);
                    (self.heard, self.pinged) = (Instant::now(), false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_pause(&error) => {
                    if self.is_silent() {
                        return Lost::Gone;
                    }
                }
                Err(_) => return Lost::Gone,
            }
        }
    }

    /// Takes in every whole message that was read.
    fn apply(&mut self) -> Result<(), Lost> {
        let shared = &self.keeper.shared;
        let mut state = shared.lock();
        let now = Instant::now();
        let mut at = 0;
        let outcome = loop {
            let rest = &self.received[at..];
            match parse_server(rest) {
                Ok(Step::Incomplete { .. }) => break Ok(()),
                Ok(Step::Whole { message, bytes }) => {
                    if let Err(lost) = take_in(&mut state.session, &message, rest[0], now) {
                        break Err(lost);
                    }
                    at += bytes;
                }
                Err(refusal) => break Err(Lost::Fault(ProtocolFault::NoMessage(refusal))),
            }
        };
        // Acks open the window, and the last of them the way for BYE.
        if at > 0 {
            shared.wake_writer(&mut state);
            shared.wake_callers(&state);
        }
        drop(state);
        self.received.drain(..at);
        outcome
    }

    /// Whether the server has said nothing for too long while it owes something. Half-way it is asked.
    fn is_silent(&mut self) -> bool {
        let options = &self.keeper.options;
        let mut state = self.keeper.shared.lock();
        if let Some(bye_at) = state.bye_at {
            return bye_at.elapsed() > options.connect_timeout;
        }
        let Some(waits_since) = state.session.waits_since() else { return false };
        let silent_for = self.heard.max(waits_since).elapsed();
        if silent_for > options.silence_max / 2 && !self.pinged {
            self.pinged = true;
            state.ping_due = true;
            self.keeper.shared.wake_writer(&mut state);
        }
        silent_for > options.silence_max
    }
}

fn take_in(session: &mut Session, message: &ServerMessage<'_>, kind: u8, now: Instant) -> Result<(), Lost> {
    match message {
        ServerMessage::Ack(ack) => session.ack(ack, now).map_err(Lost::Fault),
        ServerMessage::Refused(refused) => session.refuse(refused).map_err(Lost::Fault),
        ServerMessage::Level(overload) => {
            session.set_overload(*overload);
            Ok(())
        }
        ServerMessage::Error(error) => Err(Lost::Refused { code: error.code, text: error.text.to_owned() }),
        ServerMessage::Welcome(_) => Err(Lost::Fault(ProtocolFault::OutOfPlace { kind })),
    }
}
