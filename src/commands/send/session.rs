//! In sessions: several producers in turn, none of which holds up another.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::pace::Pace;
use super::{Part, Piece, Plan, SendError, SessionTally, SessionTransport, Source, Tally};
use crate::client::{ClientError, ClientOptions, Producer, Refusal, SendRefusal};
use crate::wire::session::TOKEN_BYTES_MAX;
use crate::wire::{FrameLimits, Parsed, parse};

/// What a pause may be made up for at once. Short: each event's ack is timed from when it is given.
const BURST: Duration = Duration::from_millis(1);

/// About how many bytes of events are fetched at once.
const PIECE_BYTES: usize = 65_536;

struct Session {
    producer: Producer,
    piece: Piece,
    /// Bytes of the piece that the producer has taken.
    given: usize,
    refusals: Vec<Refusal>,
}

impl Session {
    fn open(transport: &SessionTransport, token: &[u8]) -> Result<Session, ClientError> {
        let options = ClientOptions {
            ack_level: transport.ack_level,
            producer: transport.producer,
            first_sequence: transport.first_sequence,
            token: token.to_vec(),
            ..ClientOptions::new(transport.address.to_string())
        };
        Ok(Session { producer: Producer::connect(options)?, piece: Piece::default(), given: 0, refusals: Vec::new() })
    }

    fn is_idle(&self) -> bool {
        self.given == self.piece.bytes.len()
    }

    /// Gives what the producer takes without waiting. Whether that was anything.
    fn give(&mut self, sent: &mut Tally) -> Result<bool, SendRefusal> {
        let before = self.given;
        while let Ok(Parsed::Frame(frame)) = parse(&self.piece.bytes[self.given..], &FrameLimits::FORMAT) {
            match self.producer.try_send(frame.priority, &frame.topic, frame.body) {
                Ok(_) => {
                    sent.count(frame.priority);
                    sent.bytes += frame.frame_bytes as u64;
                    self.given += frame.frame_bytes;
                }
                Err(SendRefusal::Full) => break,
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(self.given > before)
    }

    /// Waits for all outcomes.
    fn close(mut self, transport: &SessionTransport) -> Result<SessionTally, ClientError> {
        self.producer.flush()?;
        self.refusals.extend(self.producer.take_refusals());
        let statistics = self.producer.close()?;
        Ok(SessionTally::new(transport.ack_level, &statistics, &self.refusals))
    }
}

/// Sends one thread's part.
pub(super) fn send(plan: &Plan, transport: &SessionTransport, thread: usize, mut source: Source, stop: &AtomicBool) -> Part {
    let mut part = Part::default();
    let outcome = send_all(plan, transport, thread, &mut source, stop, &mut part.sent);
    match outcome {
        Ok(session) => part.session = session,
        Err(failure) => part.failure = Some(failure),
    }
    part
}

fn send_all(
    plan: &Plan,
    transport: &SessionTransport,
    thread: usize,
    source: &mut Source,
    stop: &AtomicBool,
    sent: &mut Tally,
) -> Result<Option<SessionTally>, SendError> {
    let failed = |source| SendError::Session { address: transport.address, source, sent: Tally::default() };
    let token = transport.token_file.as_deref().map_or(Ok(Vec::new()), read_token)?;
    let opened: Result<Vec<_>, _> = (0..plan.connections_of(thread)).map(|_| Session::open(transport, &token)).collect();
    let mut sessions = opened.map_err(failed)?;
    let mut pace = Pace::new(plan.rate_events_per_second, plan.threads, BURST, Instant::now());
    let mut at_end = false;
    // Relaxed: only says that another thread has failed.
    while !(stop.load(Ordering::Relaxed) || at_end && sessions.iter().all(Session::is_idle)) {
        let mut moved = false;
        for session in &mut sessions {
            if session.is_idle() && !at_end {
                let allowed = if pace.is_bounded() { pace.allowed(Instant::now()) } else { u64::MAX };
                if allowed == 0 {
                    continue;
                }
                session.piece.clear();
                session.given = 0;
                source.fill(&mut session.piece, PIECE_BYTES, allowed)?;
                pace.took(session.piece.tally.events());
                at_end = session.piece.bytes.is_empty();
                session.refusals.extend(session.producer.take_refusals());
            }
            moved |= session.give(sent).map_err(|refusal| match refusal {
                SendRefusal::Failed(error) => failed(error),
                refusal => SendError::NotTaken { refusal, sent: Tally::default() },
            })?;
        }
        if !moved {
            std::thread::sleep(pace.pause());
        }
    }
    let closed = sessions.into_iter().map(|session| session.close(transport));
    closed
        .map(|tally| tally.map(Some))
        .reduce(|one, other| Ok(SessionTally::sum(one?, other?)))
        .unwrap_or(Ok(None))
        .map_err(failed)
}

/// The token of a file, less a newline at its end.
fn read_token(path: &Path) -> Result<Vec<u8>, SendError> {
    let failed = |source| SendError::Read { path: path.to_owned(), source, sent: Tally::default() };
    let bytes = std::fs::read(path).map_err(failed)?;
    let token = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let token = token.strip_suffix(b"\r").unwrap_or(token);
    if token.len() > TOKEN_BYTES_MAX {
        let reason = format!("a token of {} bytes, at most {TOKEN_BYTES_MAX} are allowed", token.len());
        return Err(failed(std::io::Error::new(std::io::ErrorKind::InvalidData, reason)));
    }
    Ok(token.to_vec())
}
