//! `log dump`, and what it shares with `tail`: which records are wanted, and how one is printed.

use std::io::{self, Write};

use base64::Engine as _;
use serde::Serialize;

use super::{DumpArgs, LogCommandError, LogOutcome, log_path, logs_of, print_json};
use crate::storage::log_file::DiskFolder;
use crate::storage::node_reader::{MergeOrder, MergedReader, NodeReader};
use crate::storage::reader::{OwnedRecord, ReadError};
use crate::storage::rfc3339::Rfc3339;
use crate::sys::clock::{Clock, HostClock, WallNanos};
use crate::wire::Priority;

/// Which records are wanted.
pub(in crate::commands) struct Filter {
    pub(in crate::commands) topic: Option<String>,
    pub(in crate::commands) priority: Option<Priority>,
    pub(in crate::commands) since: Option<WallNanos>,
    pub(in crate::commands) until: Option<WallNanos>,
}

impl Filter {
    pub(in crate::commands) fn admits(&self, record: &OwnedRecord) -> bool {
        self.priority.is_none_or(|priority| record.priority == priority)
            && self.since.is_none_or(|since| record.received_at >= since)
            && self.until.is_none_or(|until| record.received_at < until)
            && self.topic.as_ref().is_none_or(|filter| topic_fits(filter, &record.topic))
    }
}

/// Whether a topic fits a filter: levels between slashes, `+` for any one, a last `#` for all the rest and none (MQTT 5, 4.7).
pub(super) fn topic_fits(filter: &str, topic: &str) -> bool {
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (name, Some(level)) if name == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

pub(super) fn dump(args: &DumpArgs, out: &mut dyn Write) -> Result<LogOutcome, LogCommandError> {
    let now = HostClock.wall();
    let filter = Filter {
        topic: args.topic.clone(),
        priority: args.priority,
        since: args.since.map(|moment| moment.resolve(now)),
        until: args.until.map(|moment| moment.resolve(now)),
    };
    let logs = logs_of(&args.data_dir)?;
    let in_folder = |error| LogCommandError::Read { path: args.data_dir.clone(), error };
    let mut readers = Vec::new();
    for node in logs {
        let reader = NodeReader::open_since(DiskFolder::to_read(&args.data_dir), node, filter.since.unwrap_or_default());
        let path = log_path(&args.data_dir, node);
        readers.push(reader.map_err(|error| LogCommandError::Read { path, error })?);
    }
    let mut merged = MergedReader::new(readers, MergeOrder::Time);
    let mut outcome = LogOutcome::Whole;
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0 {
        let record = match merged.next() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(ReadError::Damaged(damage)) => {
                // What is readable behind it is not printed: a gap in the output must not pass for a whole log.
                outcome = LogOutcome::Damaged;
                eprintln!("warning: {damage}; that log's later records are left out");
                continue;
            }
            Err(error) => return Err(in_folder(error)),
        };
        if filter.admits(&record) {
            left -= 1;
            print_one(out, &record, args.json).map_err(LogCommandError::Output)?;
        }
    }
    Ok(outcome)
}

/// Prints a record as a line, or as a JSON object in one.
pub(in crate::commands) fn print_one(out: &mut dyn Write, record: &OwnedRecord, json: bool) -> io::Result<()> {
    if json { print_json(out, &RecordJson::new(record)) } else { print_record(out, record) }
}

pub(super) fn print_record(out: &mut dyn Write, record: &OwnedRecord) -> io::Result<()> {
    write!(
        out,
        "{}:{} {} {:<8} {:<13} {} ",
        record.node,
        record.sequence,
        Rfc3339(record.received_at),
        record.priority.name(),
        record.tier.name(),
        record.topic
    )?;
    if let Some(stamp) = record.producer {
        write!(out, "[{}/{}] ", stamp.producer, stamp.sequence)?;
    }
    match std::str::from_utf8(&record.body) {
        // Control characters escaped: a body must not move the reader's cursor.
        Ok(text) => {
            for character in text.chars() {
                if character.is_control() { write!(out, "{}", character.escape_default())? } else { write!(out, "{character}")? }
            }
            writeln!(out)
        }
        Err(_) => writeln!(out, "base64:{}", base64::engine::general_purpose::STANDARD.encode(&record.body)),
    }
}

#[derive(Serialize)]
struct RecordJson<'a> {
    node: u32,
    sequence: u64,
    id: u64,
    received: String,
    priority: &'static str,
    tier: &'static str,
    source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    producer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    producer_sequence: Option<u64>,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// In place of `body` where that is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl<'a> RecordJson<'a> {
    fn new(record: &'a OwnedRecord) -> Self {
        let body = std::str::from_utf8(&record.body).ok();
        let body_base64 = body.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(&record.body));
        Self {
            node: record.node,
            sequence: record.sequence,
            id: record.id,
            received: Rfc3339(record.received_at).to_string(),
            priority: record.priority.name(),
            tier: record.tier.name(),
            source: record.source.name(),
            producer: record.producer.map(|stamp| stamp.producer.to_string()),
            producer_sequence: record.producer.map(|stamp| stamp.sequence),
            topic: &record.topic,
            body,
            body_base64,
        }
    }
}
