//! `dlq list` and `dlq show`.

use std::io::Write;
use std::path::PathBuf;

use argh::FromArgs;

use super::selection::{letters_path, with_selection};
use super::{CommandError, ExitStatus, Page, open_letters, runtime, unreadable};
use crate::storage::dead_letter::line::{DeadLetter, write_line};
use crate::storage::rfc3339::Rfc3339;

with_selection! {
    /// print dead letters, one a line, the oldest first
    #[argh(subcommand, name = "list")]
    struct ListArgs {
        /// print JSON: the letters' lines as they are in the file
        #[argh(switch)]
        json: bool,
        /// stop after so many
        #[argh(option)]
        limit: Option<u64>,
    }
}

/// print all of a dead letter: each line that its event has
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "show")]
pub(super) struct ShowArgs {
    /// the event's id
    #[argh(positional)]
    id: u64,
    /// the engine's data folder (default: data)
    #[argh(option, default = "PathBuf::from(\"data\")")]
    data_dir: PathBuf,
    /// the file of dead letters, where it is not dlq_log.txt in the data folder
    #[argh(option)]
    dead_letter_path: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl ListArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let (path, selection) = (self.path(), self.selection());
        let mut letters = open_letters(&path)?;
        let (mut page, mut body) = (Page::new(out), String::new());
        let mut left = self.limit.unwrap_or(u64::MAX);
        while left > 0 {
            let Some(letter) = letters.next_letter().map_err(|error| unreadable(&path, &error))? else { break };
            if !selection.admits(&letter) {
                continue;
            }
            left -= 1;
            if self.json {
                write_line(&letter.view(), &mut body, &mut page.text);
            } else {
                page.text.extend_from_slice(in_a_line(&letter).as_bytes());
            }
            if !page.turn(false)? {
                return Ok(ExitStatus::Ok);
            }
        }
        page.turn(true).map(|_| ExitStatus::Ok)
    }
}

fn in_a_line(letter: &DeadLetter) -> String {
    let sample = letter.sample.map_or(String::new(), |kind| format!(" (a sample: {})", kind.name()));
    let note = if letter.note.is_empty() { String::new() } else { format!(": {}", letter.note.escape_debug()) };
    format!(
        "{} {:<17} {:<13} {:<8} {:<20} {} {} bytes{sample}{note}\n",
        Rfc3339(letter.time),
        letter.reason.name(),
        letter.tier.name(),
        letter.priority.name(),
        letter.id,
        letter.topic,
        letter.body.len(),
    )
}

impl ShowArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let path = letters_path(&self.data_dir, self.dead_letter_path.as_deref());
        let mut letters = open_letters(&path)?;
        let (mut page, mut body, mut found) = (Page::new(out), String::new(), false);
        while let Some(letter) = letters.next_letter().map_err(|error| unreadable(&path, &error))? {
            if letter.id != self.id {
                continue;
            }
            found = true;
            if self.json {
                write_line(&letter.view(), &mut body, &mut page.text);
            } else {
                page.text.extend_from_slice(in_full(&letter).as_bytes());
            }
        }
        if !found {
            let cause = format!("no line in {} has this id; old files go as new ones come", path.display());
            return Err(runtime(format!("no dead letter {}", self.id), cause, "`eventstream dlq list` prints what there is"));
        }
        page.turn(true).map(|_| ExitStatus::Ok)
    }
}

fn in_full(letter: &DeadLetter) -> String {
    let body = match std::str::from_utf8(&letter.body) {
        // Escaped: a body must not move the reader's cursor.
        Ok(text) => text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect(),
        Err(_) => format!("(not text) {}", letter.body.escape_ascii()),
    };
    let rows = [
        ("id", letter.id.to_string()),
        ("died", Rfc3339(letter.time).to_string()),
        ("reason", letter.reason.name().to_owned()),
        ("note", letter.note.escape_debug().to_string()),
        ("received", format!("{} by {}", Rfc3339(letter.received), letter.source.name())),
        ("tier", format!("{}, priority {}", letter.tier.name(), letter.priority.name())),
        ("key", letter.key.map_or(String::new(), |key| format!("{:032x}", key.get()))),
        ("sample", letter.sample.map_or(String::new(), |kind| format!("{}: of many that were only counted", kind.name()))),
        ("topic", letter.topic.clone()),
        ("body", format!("{} bytes: {body}", letter.body.len())),
    ];
    let lines = rows.into_iter().filter(|(_, value)| !value.is_empty());
    lines.map(|(name, value)| format!("{name:<9} {value}\n")).chain(["\n".to_owned()]).collect()
}
