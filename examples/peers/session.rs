//! eventstream, version 2: a session on each connection, every event acknowledged at the level asked for.

use std::io::{Read, Write};
use std::net::TcpStream;

use eventstream::wire::session::{AckLevel, HELLO_BYTES_MAX, Hello, ServerMessage, Step, parse_server};
use eventstream::wire::{ProducerId, encode_into};

use super::peer::{Answers, Event, Failure, Peer, Proof};

pub struct Session {
    level: AckLevel,
    /// The least of those that connections were granted.
    window_events: u64,
    /// By connection: the sequence up to which all have an outcome.
    acked: Vec<u64>,
}

impl Session {
    pub fn new(level: AckLevel) -> Session {
        Session { level, window_events: u64::MAX, acked: Vec::new() }
    }
}

impl Peer for Session {
    fn proof(&self) -> Proof {
        Proof::Answers { window_events: self.window_events }
    }

    fn greet(&mut self, connection: usize, stream: &mut TcpStream) -> Result<(), Failure> {
        // The engine's folder is new, so no producer is known, whatever its id.
        let mut id = [0xA5; 16];
        id[15] = connection as u8;
        let producer = ProducerId::from_bytes(id).expect("not zero");
        let mut hello = [0; HELLO_BYTES_MAX];
        let bytes = Hello { level: self.level, producer, lowest_unacked: 1, token: &[] }.encode(&mut hello);
        stream.write_all(&hello[..bytes])?;
        let mut answer = Vec::new();
        loop {
            let needed = match parse_server(&answer).map_err(|refusal| format!("{refusal:?}"))? {
                Step::Whole { message: ServerMessage::Welcome(welcome), .. } => {
                    self.window_events = self.window_events.min(u64::from(welcome.window));
                    self.acked.push(0);
                    return Ok(());
                }
                Step::Whole { message, .. } => return Err(format!("no welcome: {message:?}").into()),
                Step::Incomplete { needed } => needed,
            };
            let begun = answer.len();
            answer.resize(needed, 0);
            stream.read_exact(&mut answer[begun..])?;
        }
    }

    /// The frame alone: the first has sequence 1, each the next, so none needs a mark.
    fn encode(&self, _connection: usize, event: &Event<'_>, out: &mut Vec<u8>) {
        encode_into(out, event.priority, event.topic, event.body).expect("a valid frame");
    }

    fn answers(&mut self, connection: usize, bytes: &[u8]) -> Result<Answers, Failure> {
        let mut answers = Answers::default();
        loop {
            match parse_server(&bytes[answers.bytes..]).map_err(|refusal| format!("{refusal:?}"))? {
                Step::Whole { message: ServerMessage::Ack(ack), bytes } => {
                    answers.bytes += bytes;
                    answers.events += ack.acked - std::mem::replace(&mut self.acked[connection], ack.acked);
                }
                Step::Whole { message: ServerMessage::Level(_), bytes } => answers.bytes += bytes,
                Step::Whole { message, .. } => return Err(format!("eventstream: {message:?}").into()),
                Step::Incomplete { .. } => return Ok(answers),
            }
        }
    }
}
