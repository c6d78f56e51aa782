//! `dlq stats`.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::selection::with_selection;
use super::{CommandError, ExitStatus, open_letters, print, unreadable};
use crate::storage::dead_letter::line::DeadLetter;
use crate::storage::rfc3339::Rfc3339;
use crate::sys::clock::WallNanos;

/// Rows beyond this are one: a million topics must not fill the memory.
const ROWS_MAX: usize = 10_000;

/// The row of what has none of its own.
const OTHERS: &str = "(others)";

with_selection! {
    /// count dead letters; samples of drops are counted apart, as their number says nothing of how much was dropped
    #[argh(subcommand, name = "stats")]
    struct StatsArgs {
        /// by what: reason (default), topic, tier
        #[argh(option, default = "By::Reason")]
        by: By,
        /// print JSON, one object
        #[argh(switch)]
        json: bool,
    }
}

/// What rows are made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Reason,
    Topic,
    Tier,
}

impl std::str::FromStr for By {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "reason" => Ok(By::Reason),
            "topic" => Ok(By::Topic),
            "tier" => Ok(By::Tier),
            _ => Err(format!("`{text}` is not one of reason, topic, tier")),
        }
    }
}

#[derive(Debug, Default, Serialize)]
struct Row {
    letters: u64,
    samples: u64,
    body_bytes: u64,
    first: String,
    last: String,
    #[serde(skip)]
    span: Option<(WallNanos, WallNanos)>,
}

impl Row {
    fn add(&mut self, letter: &DeadLetter) {
        if letter.sample.is_some() {
            self.samples += 1
        } else {
            self.letters += 1
        }
        self.body_bytes += letter.body.len() as u64;
        let (first, last) = self.span.unwrap_or((letter.time, letter.time));
        self.span = Some((first.min(letter.time), last.max(letter.time)));
    }
}

#[derive(Debug, Serialize)]
struct Stats {
    rows: BTreeMap<String, Row>,
    total: Row,
    files: u64,
    file_bytes: u64,
    torn_lines: u64,
    foreign_lines: u64,
}

impl StatsArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let (path, selection) = (self.path(), self.selection());
        let mut letters = open_letters(&path)?;
        let (mut rows, mut total) = (BTreeMap::<String, Row>::new(), Row::default());
        while let Some(letter) = letters.next_letter().map_err(|error| unreadable(&path, &error))? {
            if !selection.admits(&letter) {
                continue;
            }
            let name = match self.by {
                By::Reason => letter.reason.name(),
                By::Topic => letter.topic.as_str(),
                By::Tier => letter.tier.name(),
            };
            let has_a_row = rows.len() < ROWS_MAX || rows.contains_key(name);
            rows.entry(if has_a_row { name } else { OTHERS }.to_owned()).or_default().add(&letter);
            total.add(&letter);
        }
        for row in rows.values_mut().chain([&mut total]) {
            if let Some((first, last)) = row.span {
                (row.first, row.last) = (Rfc3339(first).to_string(), Rfc3339(last).to_string());
            }
        }
        let tally = letters.tally();
        let (files, file_bytes) = (tally.files, tally.bytes);
        let stats = Stats { rows, total, files, file_bytes, torn_lines: tally.torn, foreign_lines: tally.foreign };
        let text = if self.json {
            serde_json::to_string(&stats).expect("maps with text keys and numbers always have a JSON form") + "\n"
        } else {
            table(&stats)
        };
        print(out, &text).map(|()| ExitStatus::Ok)
    }
}

fn table(stats: &Stats) -> String {
    let line = |name: &str, row: &Row| {
        format!("{:>10} {:>8} {:>14}  {:<30}  {:<30}  {name}\n", row.letters, row.samples, row.body_bytes, row.first, row.last)
    };
    let mut text =
        format!("{:>10} {:>8} {:>14}  {:<30}  {:<30}  {}\n", "letters", "samples", "body bytes", "first", "last", "of");
    let mut rows: Vec<_> = stats.rows.iter().collect();
    rows.sort_by_key(|(_, row)| std::cmp::Reverse(row.letters + row.samples));
    rows.into_iter().for_each(|(name, row)| text.push_str(&line(name, row)));
    text.push_str(&line("all", &stats.total));
    let Stats { files, file_bytes, torn_lines, foreign_lines, .. } = stats;
    text + &format!("{files} files of {file_bytes} bytes; {torn_lines} unfinished lines, {foreign_lines} foreign ones\n")
}
