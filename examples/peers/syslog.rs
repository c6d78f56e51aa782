//! rsyslog over TCP: a line for each event (RFC 3164, RFC 6587 non-transparent framing). It answers nothing: its file is looked at.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use eventstream::wire::Priority;

use super::peer::{Event, Failure, Peer, Proof};

pub struct Syslog {
    file: PathBuf,
    /// Bytes of a line in the file, all being alike; known from the first.
    line_bytes: Option<u64>,
}

impl Syslog {
    pub fn new(file: PathBuf) -> Syslog {
        Syslog { file, line_bytes: None }
    }
}

impl Peer for Syslog {
    fn proof(&self) -> Proof {
        Proof::Looks { every: Duration::from_millis(1) }
    }

    fn encode(&self, _connection: usize, event: &Event<'_>, out: &mut Vec<u8>) {
        // Facility local0; severities from critical to debug.
        let severity = match event.priority {
            Priority::Critical => 2,
            Priority::High => 3,
            Priority::Medium => 5,
            Priority::Low => 6,
            Priority::Batch => 7,
        };
        out.extend_from_slice(format!("<{}>Nov 24 12:00:00 sender {}: ", 16 * 8 + severity, event.topic).as_bytes());
        out.extend_from_slice(event.body);
        out.push(b'\n');
    }

    fn stored(&mut self) -> Result<u64, Failure> {
        let file_bytes = fs::metadata(&self.file).map_or(0, |metadata| metadata.len());
        if self.line_bytes.is_none() && file_bytes > 0 {
            let mut line = Vec::new();
            BufReader::new(File::open(&self.file)?).read_until(b'\n', &mut line)?;
            self.line_bytes = line.ends_with(b"\n").then_some(line.len() as u64);
        }
        Ok(self.line_bytes.map_or(0, |line_bytes| file_bytes / line_bytes))
    }
}
