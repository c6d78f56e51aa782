//! `eventstream tail`: prints events as they are stored. Changes nothing but its own cursor.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use argh::FromArgs;

use super::log::{Filter, LogCommandError, LogOutcome, log_path, logs_of, print_one};
use crate::storage::cursor::{Cursor, is_cursor_name, read_cursor, write_cursor};
use crate::storage::log_file::DiskFolder;
use crate::storage::node_reader::NodeReader;
use crate::storage::reader::ReadError;
use crate::wire::Priority;

/// How often the end of the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often a cursor is kept, so how much is printed again after a kill.
const KEEP_EVERY: Duration = Duration::from_millis(1000);

/// Records of one node in a row, so that the others get their turn.
const TURN_RECORDS: usize = 1000;

/// print events as they are stored
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "tail")]
pub struct TailCommand {
    /// the data folder (default: data)
    #[argh(option, default = "PathBuf::from(\"data\")")]
    data_dir: PathBuf,
    /// print JSON, one object per record
    #[argh(switch)]
    json: bool,
    /// begin with the oldest record that is kept, not with what comes from now on
    #[argh(switch)]
    from_start: bool,
    /// go on where this cursor stands (a new one: see --from-start), and keep how far it gets; small letters, digits, - and _
    #[argh(option)]
    cursor: Option<String>,
    /// only topics that fit: an exact name, or a filter with + (one level) and # (the rest)
    #[argh(option)]
    topic: Option<String>,
    /// only this priority: batch, low, medium, high, critical, or 0-4
    #[argh(option)]
    priority: Option<Priority>,
    /// stop after so many records
    #[argh(option)]
    limit: Option<u64>,
    /// stop at the end of the log instead of waiting for more
    #[argh(switch)]
    no_wait: bool,
}

/// What is read, and how far it was printed.
struct Tail {
    folder: DiskFolder,
    command: TailCommand,
    filter: Filter,
    /// Those that have not ended by damage that nothing is behind.
    readers: Vec<NodeReader<DiskFolder>>,
    reached: Cursor,
    kept: Cursor,
    kept_at: Instant,
    left: u64,
    outcome: LogOutcome,
}

impl TailCommand {
    /// Prints until it is stopped, the limit is reached, or, with `--no-wait`, the log ends. A reader that goes away (`| head`) is no error.
    ///
    /// # Errors
    /// See [`LogCommandError`].
    pub fn run(self, out: &mut dyn Write) -> Result<LogOutcome, LogCommandError> {
        let mut tail = Tail::open(self)?;
        match tail.print(out) {
            Err(LogCommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(tail.outcome),
            result => result.map(|()| tail.outcome),
        }
    }
}

impl Tail {
    fn open(command: TailCommand) -> Result<Self, LogCommandError> {
        if let Some(name) = command.cursor.as_ref().filter(|name| !is_cursor_name(name)) {
            return Err(LogCommandError::CursorName { name: name.clone() });
        }
        let folder = DiskFolder::to_read(&command.data_dir);
        let refused = |error| LogCommandError::Folder { path: command.data_dir.clone(), error };
        let cursor = match &command.cursor {
            Some(name) => read_cursor(&folder, name).map_err(refused)?.unwrap_or_default(),
            None => Cursor::new(),
        };
        let mut readers = Vec::new();
        for node in logs_of(&command.data_dir)? {
            let reader = match cursor.get(&node) {
                Some(sequence) => NodeReader::open_at(folder.clone(), node, *sequence),
                None if command.from_start => NodeReader::open(folder.clone(), node),
                None => NodeReader::open_at_end(folder.clone(), node),
            };
            let mut reader = reader.map_err(|error| LogCommandError::Read { path: log_path(&command.data_dir, node), error })?;
            if let Some(sequence) = cursor.get(&node).filter(|sequence| **sequence < reader.next_sequence()) {
                say(node, &ReadError::Overrun { first_lost: *sequence, resume: reader.next_sequence() });
            }
            reader.follow();
            readers.push(reader);
        }
        let filter = Filter { topic: command.topic.clone(), priority: command.priority, since: None, until: None };
        let (left, kept_at) = (command.limit.unwrap_or(u64::MAX), Instant::now());
        let (reached, kept) = (cursor.clone(), cursor);
        Ok(Self { folder, command, filter, readers, reached, kept, kept_at, left, outcome: LogOutcome::Whole })
    }

    fn print(&mut self, out: &mut dyn Write) -> Result<(), LogCommandError> {
        loop {
            let mut printed = false;
            for mut reader in std::mem::take(&mut self.readers) {
                let (has_printed, goes_on) = self.turn(&mut reader, out)?;
                printed |= has_printed;
                self.reached.insert(reader.node(), reader.next_sequence());
                self.readers.extend(goes_on.then_some(reader));
            }
            out.flush().map_err(LogCommandError::Output)?;
            let is_over = self.left == 0 || self.readers.is_empty() || (self.command.no_wait && !printed);
            self.keep(is_over)?;
            if is_over {
                return Ok(());
            }
            if !printed {
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }

    /// Prints what one log has, up to a bound. Returns whether it had anything, and whether more may come.
    fn turn(&mut self, reader: &mut NodeReader<DiskFolder>, out: &mut dyn Write) -> Result<(bool, bool), LogCommandError> {
        let node = reader.node();
        for done in 0..TURN_RECORDS {
            if self.left == 0 {
                return Ok((done > 0, true));
            }
            let error = match reader.next() {
                Ok(Some(record)) => {
                    let record = record.to_owned();
                    if self.filter.admits(&record) {
                        self.left -= 1;
                        print_one(out, &record, self.command.json).map_err(LogCommandError::Output)?;
                    }
                    continue;
                }
                Ok(None) => return Ok((done > 0, true)),
                Err(error) => error,
            };
            match &error {
                ReadError::Overrun { .. } => say(node, &error),
                ReadError::Damaged(damage) => {
                    self.outcome = LogOutcome::Damaged;
                    say(node, &error);
                    if !reader.skip(damage) {
                        return Ok((done > 0, false));
                    }
                }
                _ => return Err(LogCommandError::Read { path: log_path(&self.command.data_dir, node), error }),
            }
        }
        Ok((true, true))
    }

    /// Keeps the cursor, after what it stands behind was printed.
    fn keep(&mut self, at_once: bool) -> Result<(), LogCommandError> {
        let Some(name) = &self.command.cursor else { return Ok(()) };
        if !at_once && self.kept_at.elapsed() < KEEP_EVERY {
            return Ok(());
        }
        self.kept_at = Instant::now();
        if self.reached == self.kept {
            return Ok(());
        }
        let refused = |error| LogCommandError::Cursor { name: name.clone(), error };
        write_cursor(&self.folder, name, &self.reached).map_err(refused)?;
        self.kept = self.reached.clone();
        Ok(())
    }
}

fn say(node: u32, error: &ReadError) {
    eprintln!("warning: log of node {node}: {error}");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tail(folder: &Path, args: &[&str]) -> String {
        let data_dir = folder.to_str().unwrap();
        let args = [args, &["--data-dir", data_dir, "--no-wait"]].concat();
        let mut out = Vec::new();
        TailCommand::from_args(&["tail"], &args).unwrap().run(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_cursor_goes_on_where_it_stood() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("events.bin"), crate::storage::testing::a_log(3, 3)).unwrap();
        assert_eq!(tail(place.path(), &[]), "", "from now on, and nothing comes");
        let first = tail(place.path(), &["--cursor", "one", "--from-start", "--limit", "4"]);
        let second = tail(place.path(), &["--cursor", "one"]);
        assert_eq!((first.lines().count(), second.lines().count()), (4, 5));
        assert_eq!(first + &second, tail(place.path(), &["--from-start"]));
        assert_eq!(tail(place.path(), &["--cursor", "one", "--from-start"]), "");
    }

    #[test]
    fn a_cursor_of_a_wrong_name_is_refused() {
        let command = TailCommand::from_args(&["tail"], &["--cursor", "../x"]).unwrap();
        let error = command.run(&mut Vec::new()).unwrap_err();
        assert!(matches!(error, LogCommandError::CursorName { .. }) && error.to_string().lines().count() == 3);
    }
}
