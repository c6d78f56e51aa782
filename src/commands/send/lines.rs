//! Events from files and standard input.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::LineFault;
use super::{LineFormat, Piece, SendError, Tally};
use crate::wire::{FrameHeader, FrameLimits, HEADER_BYTES, Priority, encode_into, parse_header};

/// Bytes read at once.
const READ_BYTES: usize = 65_536;

type Reader = BufReader<Box<dyn Read + Send>>;

/// Files one after the other, each opened when its turn comes.
struct Files {
    left: std::vec::IntoIter<PathBuf>,
    /// The one that is read now, and its next line's number.
    current: Option<(PathBuf, Reader)>,
    line: u64,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("left", &self.left).field("line", &self.line).finish_non_exhaustive()
    }
}

impl Files {
    fn new(files: Vec<PathBuf>) -> Files {
        Files { left: files.into_iter(), current: None, line: 1 }
    }

    /// The file whose turn it is, opened.
    fn current(&mut self) -> Result<Option<(&Path, &mut Reader)>, SendError> {
        if self.current.is_none() {
            let Some(path) = self.left.next() else { return Ok(None) };
            let file: Box<dyn Read + Send> = if path.as_os_str() == "-" {
                Box::new(io::stdin())
            } else {
                Box::new(File::open(&path).map_err(|source| read_error(&path, source))?)
            };
            self.current = Some((path, BufReader::with_capacity(READ_BYTES, file)));
            self.line = 1;
        }
        Ok(self.current.as_mut().map(|(path, reader)| (path.as_path(), reader)))
    }
}

fn read_error(path: &Path, source: io::Error) -> SendError {
    SendError::Read { path: path.to_owned(), source, sent: Tally::default() }
}

/// Lines, each an event. Empty ones are passed over.
#[derive(Debug)]
pub(super) struct Lines {
    files: Files,
    format: LineFormat,
    topic: String,
    priority: Priority,
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn new(files: Vec<PathBuf>, format: LineFormat, topic: String, priority: Priority) -> Lines {
        Lines { files: Files::new(files), format, topic, priority, line: Vec::new() }
    }

    /// Appends events until the piece is long enough, or the next line might have to be waited for.
    pub(super) fn fill(&mut self, piece: &mut Piece, bytes_max: usize, events_max: u64) -> Result<(), SendError> {
        while piece.bytes.len() < bytes_max && piece.tally.events() < events_max {
            let Some((path, reader)) = self.files.current()? else { return Ok(()) };
            // Standard input may be a pipe that says nothing for a while: what came so far goes out first.
            if piece.tally.events() > 0 && reader.buffer().is_empty() {
                return Ok(());
            }
            self.line.clear();
            let read = reader.read_until(b'\n', &mut self.line).map_err(|source| read_error(path, source))?;
            if read == 0 {
                self.files.current = None;
                continue;
            }
            let body = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
            let body = body.strip_suffix(b"\r").unwrap_or(body);
            if !body.is_empty() {
                let encoded = match self.format {
                    LineFormat::Plain => encode(piece, self.priority, &self.topic, body),
                    LineFormat::Json => encode_json(piece, self.priority, &self.topic, body),
                };
                let path = path.to_owned();
                let line = self.files.line;
                encoded.map_err(|fault| SendError::BadLine { path, line, fault, sent: Tally::default() })?;
            }
            self.files.line += 1;
        }
        Ok(())
    }
}

fn encode(piece: &mut Piece, priority: Priority, topic: &str, body: &[u8]) -> Result<(), LineFault> {
    let before = piece.bytes.len();
    encode_into(&mut piece.bytes, priority, topic, body).map_err(LineFault::Frame)?;
    piece.tally.count(priority);
    piece.tally.bytes += (piece.bytes.len() - before) as u64;
    Ok(())
}

/// A line of `--json-lines`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLine {
    topic: Option<String>,
    priority: Option<JsonPriority>,
    body: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonPriority {
    Name(String),
    Byte(u8),
}

fn encode_json(piece: &mut Piece, priority: Priority, topic: &str, line: &[u8]) -> Result<(), LineFault> {
    let line: JsonLine = serde_json::from_slice(line).map_err(LineFault::Json)?;
    let priority = match line.priority {
        None => priority,
        Some(JsonPriority::Name(name)) => name.parse().map_err(LineFault::Priority)?,
        Some(JsonPriority::Byte(byte)) => byte.to_string().parse().map_err(LineFault::Priority)?,
    };
    let body = match line.body {
        serde_json::Value::String(text) => text,
        value => value.to_string(),
    };
    encode(piece, priority, line.topic.as_deref().unwrap_or(topic), body.as_bytes())
}

/// Files of frames as they are, right or wrong.
#[derive(Debug)]
pub(super) struct RawBytes {
    files: Files,
    counter: FrameCounter,
}

impl RawBytes {
    pub(super) fn new(files: Vec<PathBuf>) -> RawBytes {
        RawBytes { files: Files::new(files), counter: FrameCounter::default() }
    }

    /// Appends the next bytes, as many as there are at once.
    pub(super) fn fill(&mut self, piece: &mut Piece, bytes_max: usize) -> Result<(), SendError> {
        while let Some((path, reader)) = self.files.current()? {
            let available = reader.fill_buf().map_err(|source| read_error(path, source))?;
            let count = available.len().min(bytes_max);
            if count == 0 {
                self.files.current = None;
                continue;
            }
            let bytes = &available[..count];
            self.counter.see(bytes, &mut piece.tally);
            piece.tally.bytes += count as u64;
            piece.bytes.extend_from_slice(bytes);
            reader.consume(count);
            return Ok(());
        }
        Ok(())
    }
}

/// Counts the frames that end in a stream seen in parts; stops counting at the first that is none.
#[derive(Debug, Default)]
struct FrameCounter {
    /// The first bytes of a header that is not whole yet.
    header: Vec<u8>,
    /// The frame that is passing by, and how many of its bytes are still to come.
    passing: Option<(FrameHeader, usize)>,
    broken: bool,
}

impl FrameCounter {
    fn see(&mut self, mut bytes: &[u8], tally: &mut Tally) {
        while !self.broken && !bytes.is_empty() {
            if let Some((header, left)) = self.passing {
                let step = left.min(bytes.len());
                bytes = &bytes[step..];
                self.passing = (step < left).then_some((header, left - step));
                if self.passing.is_none() {
                    tally.count(header.priority);
                }
                continue;
            }
            let step = (HEADER_BYTES - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..step]);
            bytes = &bytes[step..];
            match parse_header(&self.header, &FrameLimits::FORMAT) {
                Ok(None) => {}
                Ok(Some(header)) => {
                    self.passing = Some((header, header.payload_bytes()));
                    self.header.clear();
                }
                Err(_) => self.broken = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::datagram;

    fn file(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn events(lines: &mut Lines) -> Result<Vec<(Priority, String, Vec<u8>)>, SendError> {
        let mut events = Vec::new();
        loop {
            let mut piece = Piece::default();
            lines.fill(&mut piece, 100, 3)?;
            if piece.bytes.is_empty() {
                return Ok(events);
            }
            for frame in datagram(&piece.bytes, &FrameLimits::FORMAT) {
                let frame = frame.expect("well-formed");
                events.push((frame.priority, frame.topic.as_str().to_owned(), frame.body.to_vec()));
            }
        }
    }

    #[test]
    fn lines_of_several_files_are_bodies_in_order() {
        let (one, two) = (file(b"first\r\n\nsecond\n"), file(b"third\nlast without newline"));
        let paths = vec![one.path().to_owned(), two.path().to_owned()];
        let mut lines = Lines::new(paths, LineFormat::Plain, "t".into(), Priority::Low);
        let bodies: Vec<_> = events(&mut lines).unwrap().into_iter().map(|(.., body)| String::from_utf8(body).unwrap()).collect();
        assert_eq!(bodies, ["first", "second", "third", "last without newline"]);
    }

    #[test]
    fn json_lines_bring_their_own_topic_and_priority() {
        let text = br#"{"topic":"a/b","priority":"high","body":"plain text"}
{"body":{"v":1.5,"on":true}}
{"priority":4,"body":[1,2]}
"#;
        let file = file(text);
        let mut lines = Lines::new(vec![file.path().to_owned()], LineFormat::Json, "t".into(), Priority::Medium);
        let expected = [
            (Priority::High, "a/b", &b"plain text"[..]),
            (Priority::Medium, "t", br#"{"on":true,"v":1.5}"#),
            (Priority::Critical, "t", b"[1,2]"),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(p, topic, body)| (p, topic.to_owned(), body.to_vec())).collect();
        assert_eq!(events(&mut lines).unwrap(), expected);
    }

    #[test]
    fn a_bad_line_is_named_by_file_and_number() {
        for (bad, word) in [
            ("{\"body\":", "EOF"),
            ("{\"topic\":\"t\"}", "body"),
            ("{\"body\":1,\"prio\":2}", "prio"),
            ("{\"body\":1,\"priority\":\"urgent\"}", "urgent"),
            ("{\"body\":1,\"priority\":7}", "7"),
            ("{\"body\":1,\"topic\":\"a/#\"}", "wildcard"),
        ] {
            let file = file(format!("{{\"body\":0}}\n\n{bad}\n").as_bytes());
            let mut lines = Lines::new(vec![file.path().to_owned()], LineFormat::Json, "t".into(), Priority::Medium);
            let error = events(&mut lines).unwrap_err();
            assert!(matches!(error, SendError::BadLine { line: 3, .. }), "{error}");
            assert!(error.cause().contains(word), "{error}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut lines = Lines::new(vec!["/nowhere/at/all".into()], LineFormat::Plain, "t".into(), Priority::Low);
        let error = events(&mut lines).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all") && error.contains("No such file"), "{error}");
    }

    #[test]
    fn raw_frames_are_counted_however_they_are_cut_and_no_further_than_they_are_frames() {
        let mut bytes = Vec::new();
        for priority in Priority::ALL {
            encode_into(&mut bytes, priority, "some/topic", b"some body").unwrap();
        }
        bytes.extend_from_slice(b"\xffgarbage\0\0\0\x04\x01\0\x01t");
        let file = file(&bytes);
        for bytes_max in [1, 3, 7, 8, 100, 65_536] {
            let mut raw = RawBytes::new(vec![file.path().to_owned()]);
            let (mut sent, mut tally) = (Vec::new(), Tally::default());
            loop {
                let mut piece = Piece::default();
                raw.fill(&mut piece, bytes_max).unwrap();
                if piece.bytes.is_empty() {
                    break;
                }
                sent.extend_from_slice(&piece.bytes);
                tally.add(&piece.tally);
            }
            assert_eq!(sent, bytes);
            assert_eq!(tally, Tally { events_by_priority: [1; 5], bytes: bytes.len() as u64 });
        }
    }
}
