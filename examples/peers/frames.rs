//! eventstream, version 1: frames, never answered. Its status is asked.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use eventstream::metrics::status::StatusDocument;
use eventstream::wire::encode_into;

use super::peer::{Event, Failure, Peer, Proof};

pub struct Frames {
    pub admin: SocketAddr,
}

impl Peer for Frames {
    /// A status is rendered four times a second at most.
    fn proof(&self) -> Proof {
        Proof::Looks { every: Duration::from_millis(250) }
    }

    fn encode(&self, _connection: usize, event: &Event<'_>, out: &mut Vec<u8>) {
        encode_into(out, event.priority, event.topic, event.body).expect("a valid frame");
    }

    fn stored(&mut self) -> Result<u64, Failure> {
        let mut stream = TcpStream::connect(self.admin)?;
        stream.write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = str::from_utf8(&answer)?;
        let (_, document) = text.split_once("\r\n\r\n").ok_or("no HTTP")?;
        Ok(serde_json::from_str::<StatusDocument>(document)?.total.stored)
    }
}
