//! `eventstream dlq list|show|stats|replay|purge`: what became of events that did not reach their end, and sending them again.
//!
//! ```text
//! dlq_log.txt[.N] ─ reader ─ selection ─┬─► list, show, stats
//!                                       ├─► purge: the files again, without them
//!                                       └─ not in the logs ─► replay ─► POST /replay, or an engine of its own (--offline)
//! ```
#![forbid(unsafe_code)]

mod list;
mod purge;
mod replay;
mod selection;
mod stats;
mod stored;

use std::io::{self, Write};
use std::path::Path;

use argh::FromArgs;

use super::{CommandError, ExitStatus, print};
use crate::storage::dead_letter::reader::LetterReader;

/// look at dead letters, send them again, or remove them
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "dlq")]
pub struct DlqCommand {
    #[argh(subcommand)]
    action: DlqAction,
}

#[derive(FromArgs, Debug)]
#[argh(subcommand)]
enum DlqAction {
    List(list::ListArgs),
    Show(list::ShowArgs),
    Stats(stats::StatsArgs),
    Replay(replay::ReplayArgs),
    Purge(purge::PurgeArgs),
}

impl DlqCommand {
    /// Does it, and prints to `out`. A reader that goes away (`| head`) is no error.
    ///
    /// # Errors
    /// Files that can't be read or written, an engine that does not answer, letters that were refused.
    pub fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        match self.action {
            DlqAction::List(args) => args.run(out),
            DlqAction::Show(args) => args.run(out),
            DlqAction::Stats(args) => args.run(out),
            DlqAction::Replay(args) => args.run(out),
            DlqAction::Purge(args) => args.run(out),
        }
    }
}

fn runtime(error: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> CommandError {
    CommandError::new(ExitStatus::Runtime, error, cause, fix)
}

fn unreadable(path: &Path, error: &io::Error) -> CommandError {
    let fix = "name the engine's data folder with --data-dir, or the file with --dead-letter-path";
    runtime(format!("can't read the dead letters in {}", path.display()), error.to_string(), fix)
}

fn open_letters(path: &Path) -> Result<LetterReader, CommandError> {
    LetterReader::open(path).map_err(|(path, error)| unreadable(&path, &error))
}

/// Prints what was written so far; false once nobody reads it any more.
struct Page<'o> {
    out: &'o mut dyn Write,
    text: Vec<u8>,
}

impl<'o> Page<'o> {
    fn new(out: &'o mut dyn Write) -> Self {
        Self { out, text: Vec::new() }
    }

    /// Sends what has gathered, if it is much or the end. False: the reader has gone away.
    fn turn(&mut self, is_end: bool) -> Result<bool, CommandError> {
        if !is_end && self.text.len() < 64 << 10 {
            return Ok(true);
        }
        let sent = self.out.write_all(&self.text).and_then(|()| self.out.flush());
        self.text.clear();
        match sent {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(runtime("the answer can't be written", error.to_string(), "an output with room")),
            Ok(()) => Ok(true),
        }
    }
}
