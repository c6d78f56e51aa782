//! `eventstream log info|verify|dump|copy|repair`: looks at the logs of a data folder, also while an engine writes them. Only `repair`
//! changes anything, and takes the folder for itself.
#![forbid(unsafe_code)]

mod dump;
mod look;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use argh::FromArgs;
use serde::Serialize;

use self::dump::dump;
pub(super) use self::dump::{Filter, print_one};
use self::look::{look, print_info, print_verify};
use crate::storage::copy::copy_log;
use crate::storage::folder::{DataFolder, OpenRefusal};
use crate::storage::log_file::DiskFolder;
use crate::storage::names::SegmentName;
use crate::storage::open::LogIdentity;
use crate::storage::reader::ReadError;
use crate::storage::rfc3339::parse_rfc3339;
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
    Copy(CopyArgs),
    Repair(RepairArgs),
}

/// copy all logs into another folder, also while an engine writes them, and check the copy
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "copy")]
struct CopyArgs {
    /// the data folder (default: data)
    #[argh(option, default = "PathBuf::from(\"data\")")]
    data_dir: PathBuf,
    /// where to; the folder is made if it is not there, and must not hold these logs yet
    #[argh(option)]
    to: PathBuf,
}

/// make damaged logs whole: damaged files go into quarantine, what is readable of them stays; not while an engine runs
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "repair")]
struct RepairArgs {
    /// the data folder (default: data)
    #[argh(option, default = "PathBuf::from(\"data\")")]
    data_dir: PathBuf,
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
pub(super) enum Moment {
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
    /// The moment, as seen from now.
    pub(super) fn resolve(self, now: WallNanos) -> WallNanos {
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
    /// A cursor can't have this name.
    CursorName {
        /// The name.
        name: String,
    },
    /// A cursor can't be kept.
    Cursor {
        /// Its name.
        name: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// The folder can't be taken for a repair.
    Refused(OpenRefusal),
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
            LogCommandError::CursorName { name } => [
                format!("`{name}` can't be a cursor's name"),
                "it names a file of the data folder".into(),
                "small letters, digits, - and _, at most 64".into(),
            ],
            LogCommandError::Cursor { name, error } => [
                format!("can't keep the cursor {name}"),
                error.to_string(),
                "check that you may write to the data folder; without --cursor nothing is written".into(),
            ],
            LogCommandError::Refused(refusal) => refusal.lines(),
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
            LogAction::Copy(args) => copy(&args, out),
            LogAction::Repair(args) => repair(&args, out),
        };
        let result = result.and_then(|outcome| out.flush().map(|()| outcome).map_err(LogCommandError::Output));
        match result {
            Err(LogCommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(LogOutcome::Whole),
            result => result,
        }
    }
}

fn copy(args: &CopyArgs, out: &mut dyn Write) -> Result<LogOutcome, LogCommandError> {
    let nodes = logs_of(&args.data_dir)?;
    std::fs::create_dir_all(&args.to).map_err(|error| LogCommandError::Folder { path: args.to.clone(), error })?;
    let mut outcome = LogOutcome::Whole;
    for node in nodes {
        let path = log_path(&args.to, node);
        let report = copy_log(&DiskFolder::to_read(&args.data_dir), &DiskFolder::new(&args.to), node);
        let report = report.map_err(|error| LogCommandError::Read { path: path.clone(), error })?;
        if !report.is_whole() {
            outcome = LogOutcome::Damaged;
        }
        print_verify(out, &path, &report).map_err(LogCommandError::Output)?;
    }
    Ok(outcome)
}

fn repair(args: &RepairArgs, out: &mut dyn Write) -> Result<LogOutcome, LogCommandError> {
    let nodes = logs_of(&args.data_dir)?;
    let folder = DataFolder::open(&args.data_dir, 0).map_err(LogCommandError::Refused)?;
    for node in nodes {
        let identity = LogIdentity::random(node, HostClock.wall());
        let mended = folder.mend_log(identity, true).map_err(LogCommandError::Refused)?;
        let path = log_path(&args.data_dir, node);
        for line in mended.iter().map(ToString::to_string) {
            writeln!(out, "{line}").map_err(LogCommandError::Output)?;
        }
        writeln!(out, "{}: {} damages mended", path.display(), mended.len()).map_err(LogCommandError::Output)?;
    }
    Ok(LogOutcome::Whole)
}

/// The nodes that have a log in a folder.
pub(super) fn logs_of(folder: &Path) -> Result<Vec<u32>, LogCommandError> {
    let nodes = nodes_of(&DiskFolder::to_read(folder));
    let nodes = nodes.map_err(|error| LogCommandError::Folder { path: folder.to_owned(), error })?;
    if nodes.is_empty() { Err(LogCommandError::NoLog { path: folder.to_owned() }) } else { Ok(nodes) }
}

/// A log as its folder and the name of its active segment: what people call it.
pub(super) fn log_path(folder: &Path, node: u32) -> PathBuf {
    folder.join(SegmentName::Active(node).to_string())
}

fn print_json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::dump::{print_record, topic_fits};
    use super::*;
    use crate::storage::reader::OwnedRecord;

    /// Where the first batch with records begins, behind the mark that opens the log and an empty snapshot.
    const FIRST_DATA: usize = 4096 + 2 * 48;

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
    fn control_characters_in_bodies_are_escaped_and_sessions_named() {
        let mut record = OwnedRecord {
            node: 0,
            sequence: 1,
            id: 2,
            received_at: WallNanos(0),
            priority: Priority::Low,
            tier: crate::wire::Tier::Batch,
            source: crate::pool::Source::Tcp,
            producer: None,
            topic: "t".into(),
            body: b"a\x1b[2Jb\n".to_vec(),
        };
        let mut out = Vec::new();
        print_record(&mut out, &record).unwrap();
        assert!(String::from_utf8(out).unwrap().ends_with("t a\\u{1b}[2Jb\\n\n"));
        let producer = crate::pool::ProducerId::from_bytes([0x1f; 16]).unwrap();
        record.producer = Some(crate::pool::ProducerStamp { producer, sequence: 7 });
        let mut out = Vec::new();
        print_record(&mut out, &record).unwrap();
        let name = "1f".repeat(16);
        assert!(String::from_utf8(out).unwrap().contains(&format!("t [{name}/7] a")));
        let mut out = Vec::new();
        super::dump::print_one(&mut out, &record, true).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&json["producer"], &json["producer_sequence"]), (&name.into(), &7.into()));
    }

    #[test]
    fn verify_tells_damage_by_exit_code_5_and_its_place() {
        let place = folder();
        let (outcome, text) = run(place.path(), &["verify"]).unwrap();
        assert!(outcome == LogOutcome::Whole && text.contains(": whole: 9 records in 3 batches"), "{text}");
        let path = place.path().join("events.bin");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[FIRST_DATA + 100] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (outcome, text) = run(place.path(), &["verify"]).unwrap();
        assert_eq!(outcome.exit_code(), 5);
        assert!(text.contains("DAMAGED") && text.contains(&format!("damage at byte {FIRST_DATA}")), "{text}");
        let (outcome, text) = run(place.path(), &["verify", "--json"]).unwrap();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((outcome, &report["whole"]), (LogOutcome::Damaged, &false.into()));
        assert_eq!(run(place.path(), &["dump"]).unwrap().0.exit_code(), 5);
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "looking changes nothing");
    }

    #[test]
    fn a_damaged_log_is_repaired_and_copied() {
        let place = folder();
        let path = place.path().join("events.bin");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[FIRST_DATA + 100] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (_, text) = run(place.path(), &["repair"]).unwrap();
        assert!(text.contains("records 0 to 2 lost; the loss is accepted") && text.contains("1 damages mended"), "{text}");
        let (outcome, text) = run(place.path(), &["verify"]).unwrap();
        assert!(outcome == LogOutcome::Whole && text.contains("6 records") && text.contains("3 records are not there"), "{text}");
        let copy = tempfile::tempdir().unwrap();
        let to = copy.path().join("copy");
        let (outcome, text) = run(place.path(), &["copy", "--to", to.to_str().unwrap()]).unwrap();
        assert!(outcome == LogOutcome::Whole && text.contains("whole: 6 records"), "{text}");
        let again = run(place.path(), &["copy", "--to", to.to_str().unwrap()]).unwrap_err();
        assert_eq!(again.to_string().lines().count(), 3);
        let dumped = |folder: &Path| run(folder, &["dump"]).unwrap().1;
        assert_eq!(dumped(place.path()), dumped(&to));
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
