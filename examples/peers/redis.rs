//! Redis streams: a pipeline of XADD, one stream for each topic, each answered with the id of its entry.

use super::peer::{Answers, Event, Failure, Peer, Proof};

pub struct Redis {
    pub window_events: u64,
}

impl Peer for Redis {
    fn proof(&self) -> Proof {
        Proof::Answers { window_events: self.window_events }
    }

    fn encode(&self, _connection: usize, event: &Event<'_>, out: &mut Vec<u8>) {
        let priority = (event.priority as u8).to_string();
        out.extend_from_slice(b"*5\r\n");
        for word in [b"XADD", event.topic.as_bytes(), b"*", priority.as_bytes(), event.body] {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Each is a length, `$15`, and on a line of its own an id, `1700000000000-0`.
    fn answers(&mut self, _connection: usize, bytes: &[u8]) -> Result<Answers, Failure> {
        let mut answers = Answers::default();
        loop {
            let rest = &bytes[answers.bytes..];
            let Some(line) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(answers) };
            let length = match rest[..line].trim_ascii().strip_prefix(b"$") {
                Some(digits) => str::from_utf8(digits)?.parse::<usize>()?,
                None => return Err(format!("redis: {}", rest[..line].escape_ascii()).into()),
            };
            let whole = line + 1 + length + 2;
            if rest.len() < whole {
                return Ok(answers);
            }
            answers.bytes += whole;
            answers.events += 1;
        }
    }
}
