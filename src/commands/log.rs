//! `eventstream log info|verify|dump`: looks at the logs of a data folder, also while an engine writes them. Changes nothing.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use argh::FromArgs;
use base64::Engine as _;
use serde::Serialize;

use crate::storage::log_file::DiskFolder;
use crate::storage::names::SegmentName;
use crate::storage::node_reader::{MergeOrder, MergedReader, NodeReader, VerifyReport, verify};
use crate::storage::reader::{OwnedRecord, ReadError};
use crate::storage::rfc3339::{Rfc3339, parse_rfc3339};
use crate::storage::segments::nodes_of;
use crate::sys::clock::{Clock, HostClock, WallNanos};
use crate::wire::Priority;

/// look into the event log
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "log")]
pub struct LogCommand {
    #[argh(subcommand)]
    action: LogAction,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum LogAction {
    Info(InfoArgs),
    Verify(VerifyArgs),
    Dump(DumpArgs),
}

/// what each log holds, in a few lines (reads every byte of it)
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "info")]
struct InfoArgs {
    /// the data folder (default: data)
    #[argh(option, default = "PathBuf::from(\"data\")")]
    data_dir: PathBuf,
    /// print JSON, one object per log
    #[argh(switch)]
    json: bool,
}

/// check every byte; exit code 5 if durable data is lost
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "verify")]
struct VerifyArgs {
    /// the data folder (default: data)
    #[argh(option, default = "PathBuf::from(\"data\")")]
    data_dir: PathBuf,
    /// print JSON, one object per log
    #[argh(switch)]
    json: bool,
}

/// print records, the logs of all nodes merged by time
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "dump")]
struct DumpArgs {
    /// the data folder (default: data)
    #[argh(option, default = "PathBuf::from(\"data\")")]
    data_dir: PathBuf,
    /// print JSON, one object per record
    #[argh(switch)]
    json: bool,
    /// only topics that fit: an exact name, or a filter with + (one level) and # (the rest)
    #[argh(option)]
    topic: Option<String>,
    /// only this priority: batch, low, medium, high, critical, or 0-4
    #[argh(option)]
    priority: Option<Priority>,
    /// only events received at or after this: RFC 3339, or seconds ago
    #[argh(option)]
    since: Option<Moment>,
    /// only events received before this: RFC 3339, or seconds ago
    #[argh(option)]
    until: Option<Moment>,
    /// stop after so many records
    #[argh(option)]
    limit: Option<u64>,
}

/// A moment as given on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    At(WallNanos),
    SecondsAgo(u64),
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(seconds) = text.parse() {
            return Ok(Moment::SecondsAgo(seconds));
        }
        parse_rfc3339(text)
            .map(Moment::At)
            .ok_or_else(|| format!("`{text}` is neither a time like 2026-01-31T12:00:00Z nor a number of seconds ago"))
    }
}

impl Moment {
    fn resolve(self, now: WallNanos) -> WallNanos {
        match self {
            Moment::At(at) => at,
            Moment::SecondsAgo(seconds) => WallNanos(now.0.saturating_sub(seconds.saturating_mul(1_000_000_000))),
        }
    }
}

/// How a command ended that could do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutcome {
    /// Nothing that had been durable is lost.
    Whole,
    /// Durable data is lost; what and where was printed.
    Damaged,
}

impl LogOutcome {
    /// 0 or 5.
    pub fn exit_code(self) -> u8 {
        match self {
            LogOutcome::Whole => 0,
            LogOutcome::Damaged => 5,
        }
    }
}

/// Why a command could not do its work (exit code 1). Displays as three lines: error, cause, fix.
#[derive(Debug)]
pub enum LogCommandError {
    /// The folder can't be listed.
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// There is no log in it.
    NoLog {
        /// The folder.
        path: PathBuf,
    },
    /// A log can't be read.
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: ReadError,
    },
    /// The output can't be written.
    Output(io::Error),
}

impl LogCommandError {
    /// What, why and what to do, each one line.
    pub fn lines(&self) -> [String; 3] {
        match self {
            LogCommandError::Folder { path, error } => [
                format!("can't read the data folder {}", path.display()),
                error.to_string(),
                "name the engine's data folder with --data-dir".into(),
            ],
            LogCommandError::NoLog { path } => [
                format!("no event log in {}", path.display()),
                "the folder holds no events.bin".into(),
                "name the engine's data folder with --data-dir; an engine makes the log when it starts".into(),
            ],
            LogCommandError::Read { path, error } => [
                format!("can't read {}", path.display()),
                error.to_string(),
                "check that it is an event log and that you may read it".into(),
            ],
            LogCommandError::Output(error) => {
                ["can't write the output".into(), error.to_string(), "check where the output goes".into()]
            }
        }
    }
}

impl std::fmt::Display for LogCommandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [error, cause, fix] = self.lines();
        write!(f, "error: {error}\ncause: {cause}\nfix: {fix}")
    }
}

impl std::error::Error for LogCommandError {}

impl LogCommand {
    /// Does it, and prints to `out`. A reader that goes away (`| head`) is no error.
    ///
    /// # Errors
    /// See [`LogCommandError`].
    pub fn run(self, out: &mut dyn Write) -> Result<LogOutcome, LogCommandError> {
        let result = match self.action {
            LogAction::Info(InfoArgs { data_dir, json }) => look(&data_dir, json, out, print_info),
            LogAction::Verify(VerifyArgs { data_dir, json }) => look(&data_dir, json, out, print_verify),
            LogAction::Dump(args) => dump(&args, out),
        };
        let result = result.and_then(|outcome| out.flush().map(|()| outcome).map_err(LogCommandError::Output));
        match result {
            Err(LogCommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(LogOutcome::Whole),
            result => result,
        }
    }
}

/// The nodes that have a log in a folder.
fn logs_of(folder: &Path) -> Result<Vec<u32>, LogCommandError> {
    let nodes = nodes_of(&DiskFolder::to_read(folder));
    let nodes = nodes.map_err(|error| LogCommandError::Folder { path: folder.to_owned(), error })?;
    if nodes.is_empty() { Err(LogCommandError::NoLog { path: folder.to_owned() }) } else { Ok(nodes) }
}

/// A log as its folder and the name of its active segment: what people call it.
fn log_path(folder: &Path, node: u32) -> PathBuf {
    folder.join(SegmentName::Active(node).to_string())
}

/// Verifies each log and prints what `print` says of it.
fn look(
    folder: &Path,
    json: bool,
    out: &mut dyn Write,
    print: fn(&mut dyn Write, &Path, &VerifyReport) -> io::Result<()>,
) -> Result<LogOutcome, LogCommandError> {
    let mut outcome = LogOutcome::Whole;
    for node in logs_of(folder)? {
        let path = log_path(folder, node);
        let report =
            verify(DiskFolder::to_read(folder), node).map_err(|error| LogCommandError::Read { path: path.clone(), error })?;
        if !report.is_whole() {
            outcome = LogOutcome::Damaged;
        }
        if json { print_json(out, &ReportJson::new(&path, &report)) } else { print(out, &path, &report) }
            .map_err(LogCommandError::Output)?;
    }
    Ok(outcome)
}

fn print_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)
}

fn print_info(out: &mut dyn Write, path: &Path, report: &VerifyReport) -> io::Result<()> {
    let line = |out: &mut dyn Write, name: &str, value: String| writeln!(out, "  {name:<18} {value}");
    writeln!(out, "{}", path.display())?;
    line(out, "node", report.segment.node.to_string())?;
    line(out, "created", Rfc3339(report.segment.created_at).to_string())?;
    line(
        out,
        "opened",
        format!("{} times, {}", report.openings, if report.closed { "closed in good order" } else { "not closed" }),
    )?;
    line(
        out,
        "records",
        format!("{} in {} batches, {} bytes of topics and bodies", report.records, report.batches, report.payload_bytes),
    )?;
    line(
        out,
        "sequences",
        format!("{}..{}, durable below {}", report.segment.first_sequence, report.end_sequence, report.durable_sequence),
    )?;
    line(out, "bytes", format!("{} used of {} in {} segments", report.valid_bytes, report.file_bytes, report.segments))?;
    if let Some((first, last)) = report.sealed_between {
        line(out, "written between", format!("{} and {}", Rfc3339(first), Rfc3339(last)))?;
    }
    for priority in Priority::ALL.into_iter().rev() {
        line(out, priority.name(), report.by_priority[priority as usize].to_string())?;
    }
    print_faults(out, report)
}

fn print_verify(out: &mut dyn Write, path: &Path, report: &VerifyReport) -> io::Result<()> {
    let state = if report.is_whole() { "whole" } else { "DAMAGED" };
    writeln!(
        out,
        "{}: {state}: {} records in {} batches, {} segments, {} bytes, sequences {}..{}",
        path.display(),
        report.records,
        report.batches,
        report.segments,
        report.valid_bytes,
        report.segment.first_sequence,
        report.end_sequence
    )?;
    print_faults(out, report)
}

fn print_faults(out: &mut dyn Write, report: &VerifyReport) -> io::Result<()> {
    for (name, damage) in &report.damages {
        writeln!(out, "  {name}: {damage}")?;
    }
    if report.damage_count > report.damages.len() as u64 {
        writeln!(out, "  and {} more damages", report.damage_count - report.damages.len() as u64)?;
    }
    if report.accepted_losses > 0 {
        writeln!(out, "  {} records are not there; their loss was accepted", report.accepted_losses)?;
    }
    if let Some((fault, bytes)) = report.torn {
        writeln!(out, "  torn tail of {bytes} bytes behind the last record ({fault}): being written, or cut at the next start")?;
    }
    Ok(())
}

#[derive(Serialize)]
struct ReportJson {
    path: String,
    node: u32,
    created: String,
    segments: u64,
    openings: u64,
    closed: bool,
    records: u64,
    batches: u64,
    payload_bytes: u64,
    valid_bytes: u64,
    file_bytes: u64,
    first_sequence: u64,
    end_sequence: u64,
    durable_sequence: u64,
    highest_event_id: u64,
    first_sealed: Option<String>,
    last_sealed: Option<String>,
    by_priority: serde_json::Map<String, serde_json::Value>,
    torn_bytes: u64,
    whole: bool,
    accepted_losses: u64,
    damage_count: u64,
    damages: Vec<DamageJson>,
}

#[derive(Serialize)]
struct DamageJson {
    segment: String,
    offset: u64,
    fault: String,
    first_lost_sequence: u64,
    end_lost_sequence: Option<u64>,
}

impl ReportJson {
    fn new(path: &Path, report: &VerifyReport) -> Self {
        let by_priority = Priority::ALL.map(|p| (p.name().to_owned(), report.by_priority[p as usize].into()));
        Self {
            path: path.display().to_string(),
            node: report.segment.node,
            created: Rfc3339(report.segment.created_at).to_string(),
            segments: report.segments,
            openings: report.openings,
            closed: report.closed,
            records: report.records,
            batches: report.batches,
            payload_bytes: report.payload_bytes,
            valid_bytes: report.valid_bytes,
            file_bytes: report.file_bytes,
            first_sequence: report.segment.first_sequence,
            end_sequence: report.end_sequence,
            durable_sequence: report.durable_sequence,
            highest_event_id: report.highest_event_id,
            first_sealed: report.sealed_between.map(|(first, _)| Rfc3339(first).to_string()),
            last_sealed: report.sealed_between.map(|(_, last)| Rfc3339(last).to_string()),
            by_priority: by_priority.into_iter().collect(),
            torn_bytes: report.torn.map_or(0, |(_, bytes)| bytes),
            whole: report.is_whole(),
            accepted_losses: report.accepted_losses,
            damage_count: report.damage_count,
            damages: report
                .damages
                .iter()
                .map(|(name, damage)| DamageJson {
                    segment: name.clone(),
                    offset: damage.offset,
                    fault: damage.fault.to_string(),
                    first_lost_sequence: damage.first_lost,
                    end_lost_sequence: damage.resume.map(|(_, sequence)| sequence),
                })
                .collect(),
        }
    }
}

/// Which records are wanted.
struct Filter {
    topic: Option<String>,
    priority: Option<Priority>,
    since: Option<WallNanos>,
    until: Option<WallNanos>,
}

impl Filter {
    fn admits(&self, record: &OwnedRecord) -> bool {
        self.priority.is_none_or(|priority| record.priority == priority)
            && self.since.is_none_or(|since| record.received_at >= since)
            && self.until.is_none_or(|until| record.received_at < until)
            && self.topic.as_ref().is_none_or(|filter| topic_fits(filter, &record.topic))
    }
}

/// Whether a topic fits a filter: levels between slashes, `+` for any one, a last `#` for all the rest and none (MQTT 5, 4.7).
fn topic_fits(filter: &str, topic: &str) -> bool {
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

fn dump(args: &DumpArgs, out: &mut dyn Write) -> Result<LogOutcome, LogCommandError> {
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
            if args.json { print_json(out, &RecordJson::new(&record)) } else { print_record(out, &record) }
                .map_err(LogCommandError::Output)?;
        }
    }
    Ok(outcome)
}

fn print_record(out: &mut dyn Write, record: &OwnedRecord) -> io::Result<()> {
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
            topic: &record.topic,
            body,
            body_base64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a closed log of nine records: three of each tier.
    fn folder() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("events.bin"), crate::storage::testing::a_log(3, 3)).unwrap();
        place
    }

    fn run(folder: &Path, args: &[&str]) -> Result<(LogOutcome, String), LogCommandError> {
        let data_dir = folder.to_str().unwrap();
        let command = LogCommand::from_args(&["log"], &[args, &["--data-dir", data_dir]].concat()).unwrap();
        let mut out = Vec::new();
        let outcome = command.run(&mut out)?;
        Ok((outcome, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn dump_prints_records_with_topic_priority_and_body() {
        let (outcome, text) = run(folder().path(), &["dump"]).unwrap();
        assert_eq!(outcome.exit_code(), 0);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 9);
        assert_eq!(lines[0], "0:0 2020-09-13T12:26:40.000000001Z HIGH     realtime      t/realtime body of 1");
    }

    #[test]
    fn dump_filters_by_topic_priority_time_and_count() {
        let place = folder();
        let count = |args: &[&str]| run(place.path(), &[&["dump"], args].concat()).unwrap().1.lines().count();
        assert_eq!(count(&["--topic", "t/+"]), 9);
        assert_eq!(count(&["--topic", "t/batch"]), 3);
        assert_eq!(count(&["--priority", "medium"]), 3);
        assert_eq!(count(&["--priority", "0"]), 0);
        assert_eq!(count(&["--since", "2020-09-13T12:26:40.000000005Z"]), 5);
        assert_eq!(count(&["--until", "2020-09-13T12:26:40.000000005Z"]), 4);
        assert_eq!(count(&["--since", "60"]), 0);
        assert_eq!(count(&["--limit", "2"]), 2);
    }

    #[test]
    fn dump_as_json_is_one_object_per_record() {
        let (_, text) = run(folder().path(), &["dump", "--json", "--limit", "1"]).unwrap();
        let record: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&record["topic"], &record["body"]), (&"t/realtime".into(), &"body of 1".into()));
        assert_eq!((&record["sequence"], &record["priority"]), (&0.into(), &"HIGH".into()));
    }

    #[test]
    fn control_characters_in_bodies_are_escaped() {
        let record = OwnedRecord {
            node: 0,
            sequence: 1,
            id: 2,
            received_at: WallNanos(0),
            priority: Priority::Low,
            tier: crate::wire::Tier::Batch,
            source: crate::pool::Source::Tcp,
            topic: "t".into(),
            body: b"a\x1b[2Jb\n".to_vec(),
        };
        let mut out = Vec::new();
        print_record(&mut out, &record).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("t a\\u{1b}[2Jb\\n\n"));
    }

    #[test]
    fn verify_tells_damage_by_exit_code_5_and_its_place() {
        let place = folder();
        let (outcome, text) = run(place.path(), &["verify"]).unwrap();
        assert!(outcome == LogOutcome::Whole && text.contains(": whole: 9 records in 3 batches"), "{text}");
        let path = place.path().join("events.bin");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096 + 96 + 100] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (outcome, text) = run(place.path(), &["verify"]).unwrap();
        assert_eq!(outcome.exit_code(), 5);
        assert!(text.contains("DAMAGED") && text.contains("damage at byte 4192"), "{text}");
        let (outcome, text) = run(place.path(), &["verify", "--json"]).unwrap();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((outcome, &report["whole"]), (LogOutcome::Damaged, &false.into()));
        assert_eq!(run(place.path(), &["dump"]).unwrap().0.exit_code(), 5);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "looking changes nothing");
    }

    #[test]
    fn info_says_what_a_log_holds() {
        let (_, text) = run(folder().path(), &["info"]).unwrap();
        assert!(text.contains("records            9 in 3 batches") && text.contains("closed in good order"), "{text}");
    }

    #[test]
    fn a_folder_without_a_log_is_an_error_in_three_lines() {
        let place = tempfile::tempdir().unwrap();
        let error = run(place.path(), &["info"]).unwrap_err();
        assert!(matches!(error, LogCommandError::NoLog { .. }));
        assert_eq!(error.to_string().lines().count(), 3);
        assert!(matches!(run(&place.path().join("none"), &["dump"]), Err(LogCommandError::Folder { .. })));
    }

    #[test]
    fn filters_fit_topics_level_by_level() {
        for (filter, topic, fits) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+/c", "a/x/c", true),
            ("a/#", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "ab", false),
            ("#", "anything/at/all", true),
            ("+", "a/b", false),
        ] {
            assert_eq!(topic_fits(filter, topic), fits, "{filter} {topic}");
        }
    }

    #[test]
    fn a_moment_is_a_time_or_seconds_ago() {
        let now = WallNanos(10_000_000_000);
        assert_eq!("3".parse::<Moment>().unwrap().resolve(now), WallNanos(7_000_000_000));
        assert_eq!("99999999999999".parse::<Moment>().unwrap().resolve(now), WallNanos(0));
        assert_eq!("1970-01-01T00:00:01Z".parse::<Moment>().unwrap().resolve(now), WallNanos(1_000_000_000));
        assert!("yesterday".parse::<Moment>().unwrap_err().contains("`yesterday`"));
    }
}
