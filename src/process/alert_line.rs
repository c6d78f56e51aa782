//! An alert as a line of JSON: the same in the alert log, in a datagram and on a TCP connection.

use base64::Engine;
use serde::Serialize;

use crate::pool::EventView;

/// What an alert keeps of its event beside topic and body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AlertFacts {
    /// The rule that fired, by its place in the configuration; none without rules.
    pub(crate) rule: Option<u8>,
    pub(crate) id: u64,
    pub(crate) received_unix_ns: u64,
    pub(crate) priority: &'static str,
    pub(crate) source: &'static str,
    /// Bytes of the whole topic.
    pub(crate) topic_len: u16,
    /// Bytes of the whole body.
    pub(crate) body_len: u32,
}

impl AlertFacts {
    pub(crate) fn of(event: &EventView<'_>, rule: Option<u8>) -> Self {
        Self {
            rule,
            id: event.header.id,
            received_unix_ns: event.header.received_wall.0,
            priority: event.header.priority.name(),
            source: event.header.source.name(),
            topic_len: event.header.topic_len,
            body_len: event.header.body_len,
        }
    }

    /// Appends the line, with what was kept of topic and body.
    pub(crate) fn write_line(&self, rule: Option<&str>, topic: &str, body: &[u8], out: &mut Vec<u8>) {
        let is_cut = body.len() < self.body_len as usize || topic.len() < usize::from(self.topic_len);
        let text = match std::str::from_utf8(body) {
            Ok(text) => Some(text),
            // A cut character at the very end of a cut body is no reason for base64.
            Err(error) if is_cut && error.error_len().is_none() => std::str::from_utf8(&body[..error.valid_up_to()]).ok(),
            Err(_) => None,
        };
        let line = Line {
            received_unix_ns: self.received_unix_ns,
            id: self.id,
            rule,
            priority: self.priority,
            source: self.source,
            topic,
            body_bytes: self.body_len,
            body: text,
            body_base64: text.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(body)),
            is_cut,
        };
        serde_json::to_writer(&mut *out, &line).expect("plain fields are JSON, and memory takes them");
        out.push(b'\n');
    }
}

#[derive(Serialize)]
struct Line<'a> {
    received_unix_ns: u64,
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    priority: &'a str,
    source: &'a str,
    topic: &'a str,
    body_bytes: u32,
    /// The body as text, where what is kept of it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// Whether topic or body is longer than what is kept.
    is_cut: bool,
}
