//! NATS JetStream: a subject for each topic, one stream of them all in files. An event with a reply subject is acknowledged on it, when it is
//! in the stream; without one, the stream is asked how much it holds.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::peer::{Answers, Event, Failure, Peer, Proof};

/// How long the server may take to answer for the stream.
const PATIENCE: Duration = Duration::from_secs(10);
const STREAM: &str = r#"{"name":"EVENTS","subjects":["load.*"],"storage":"file","retention":"limits","num_replicas":1"#;

pub struct JetStream {
    control: BufReader<TcpStream>,
    /// Events without an acknowledgement on a connection; `None`: none is asked for.
    window_events: Option<u64>,
}

/// Until the server has taken note of a connection, and of its inbox.
fn greet(stream: &mut TcpStream, inbox: &str) -> Result<(), Failure> {
    let words = r#"CONNECT {"verbose":false,"pedantic":false,"tls_required":false,"name":"peers","lang":"rust","version":"1"}"#;
    stream.write_all(format!("{words}\r\nSUB {inbox} 1\r\nPING\r\n").as_bytes())?;
    // Byte by byte: what comes behind is for others to read.
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
        if byte == *b"\n" {
            match line.trim_ascii() {
                b"PONG" => return Ok(()),
                line if line.starts_with(b"-ERR") => return Err(format!("nats: {}", line.escape_ascii()).into()),
                _ => line.clear(),
            }
        }
    }
}

fn inbox(connection: usize) -> String {
    format!("_INBOX.peers.{connection}")
}

impl JetStream {
    /// Makes the stream.
    pub fn new(address: SocketAddr, window_events: Option<u64>) -> Result<JetStream, Failure> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        greet(&mut stream, "_INBOX.control")?;
        let mut peer = JetStream { control: BufReader::new(stream), window_events };
        let no_ack = window_events.is_none();
        let answer = peer.ask("CREATE", &format!("{STREAM},\"no_ack\":{no_ack}}}"))?;
        match answer.contains("\"error\"") {
            true => Err(format!("nats: no stream: {answer}").into()),
            false => Ok(peer),
        }
    }

    /// A request about the stream.
    fn ask(&mut self, verb: &str, text: &str) -> Result<String, Failure> {
        let request = format!("PUB $JS.API.STREAM.{verb}.EVENTS _INBOX.control {}\r\n{text}\r\n", text.len());
        self.control.get_mut().write_all(request.as_bytes())?;
        loop {
            let mut line = String::new();
            self.control.read_line(&mut line)?;
            if line.starts_with("-ERR") || line.is_empty() {
                return Err(format!("nats: {}", line.trim()).into());
            }
            if let Some(length) = line.strip_prefix("MSG ").and_then(|rest| rest.split_whitespace().last()) {
                let mut payload = vec![0; length.parse::<usize>()? + 2];
                self.control.read_exact(&mut payload)?;
                return Ok(String::from_utf8(payload)?);
            }
        }
    }
}

impl Peer for JetStream {
    fn proof(&self) -> Proof {
        match self.window_events {
            Some(window_events) => Proof::Answers { window_events },
            None => Proof::Looks { every: Duration::from_millis(20) },
        }
    }

    fn greet(&mut self, connection: usize, stream: &mut TcpStream) -> Result<(), Failure> {
        greet(stream, &inbox(connection))
    }

    fn encode(&self, connection: usize, event: &Event<'_>, out: &mut Vec<u8>) {
        let subject = event.topic.replace('/', ".");
        let reply = self.window_events.map_or(String::new(), |_| inbox(connection) + " ");
        out.extend_from_slice(format!("PUB {subject} {reply}{}\r\n", event.body.len()).as_bytes());
        out.extend_from_slice(event.body);
        out.extend_from_slice(b"\r\n");
    }

    /// `MSG inbox 1 LENGTH` and a line of JSON. Its PINGs, minutes apart, may go unanswered for once.
    fn answers(&mut self, _connection: usize, bytes: &[u8]) -> Result<Answers, Failure> {
        let mut answers = Answers::default();
        loop {
            let rest = &bytes[answers.bytes..];
            let Some(line) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(answers) };
            let words = rest[..line].trim_ascii();
            if words == b"PING" {
                answers.bytes += line + 1;
                continue;
            }
            let length = words.strip_prefix(b"MSG ").and_then(|words| words.rsplit(|byte| *byte == b' ').next());
            let Some(length) = length else { return Err(format!("nats: {}", words.escape_ascii()).into()) };
            let whole = line + 1 + str::from_utf8(length)?.parse::<usize>()? + 2;
            if rest.len() < whole {
                return Ok(answers);
            }
            // {"stream":"EVENTS","seq":7}, or {"error":…
            if !rest[line + 1..].starts_with(b"{\"stream\"") {
                return Err(format!("nats: {}", rest[line + 1..whole].escape_ascii()).into());
            }
            answers.bytes += whole;
            answers.events += 1;
        }
    }

    fn stored(&mut self) -> Result<u64, Failure> {
        let answer = self.ask("INFO", "")?;
        let count = answer.split_once("\"messages\":").map(|(_, rest)| rest.split(',').next().unwrap_or_default());
        Ok(count.ok_or("nats: a stream without a number of messages")?.parse()?)
    }
}
