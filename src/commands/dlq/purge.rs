//! `dlq purge`: the files without the selected letters.
//!
//! - **W1** Only while the data folder is locked: no engine appends to a file that is being replaced, or renames it.
//! - **W2** A file is replaced whole: written beside, synced, renamed into place. Cut short at any moment, each file is the old or the new one.
//! - **W3** Every line that is not selected stays as it is, byte by byte, in its order; what is no letter goes only on request.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::selection::{Selection, with_selection};
use super::stored::{Ids, mark_stored};
use super::{CommandError, ExitStatus, open_letters, print, runtime, unreadable};
use crate::commands::parts::three_lines;
use crate::storage::dead_letter::reader::{Entry, LetterLines};
use crate::storage::folder::DataFolder;
use crate::storage::rotating_file::rotated_files;

with_selection! {
    /// remove dead letters; not while an engine runs on the data folder, as it writes to their file
    #[argh(subcommand, name = "purge")]
    struct PurgeArgs {
        /// only those whose event is in the log by now: sent again, and stored
        #[argh(switch)]
        stored: bool,
        /// all of them, where nothing else says which
        #[argh(switch)]
        all: bool,
        /// unfinished and foreign lines too
        #[argh(switch)]
        torn: bool,
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

/// What was removed, and what is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Purged {
    letters: u64,
    other_lines: u64,
    kept_letters: u64,
    kept_other_lines: u64,
    bytes_before: u64,
    bytes_after: u64,
}

/// Which lines go.
struct Doomed<'a> {
    selection: &'a Selection,
    stored: Option<&'a Ids>,
    torn: bool,
    /// What no option of the selection is about: with `--torn` alone no letter is meant.
    letters: bool,
}

impl Doomed<'_> {
    fn includes(&self, entry: &Entry) -> bool {
        match entry {
            Entry::Letter(letter) => {
                let is_stored = |ids: &Ids| ids.get(&letter.id) == Some(&true);
                self.letters && self.selection.admits(letter) && self.stored.is_none_or(is_stored)
            }
            Entry::Torn | Entry::Foreign | Entry::Rest => self.torn,
        }
    }
}

impl PurgeArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let (path, selection) = (self.path(), self.selection());
        let names_letters = !selection.is_everything() || self.stored || self.all;
        if !names_letters && !self.torn {
            let cause = "no option says which, and this would remove every dead letter";
            let fix = "say which (`eventstream dlq purge --help`), or give --all";
            return Err(CommandError::new(ExitStatus::Usage, "what is to be removed?", cause, fix));
        }
        if !self.data_dir.is_dir() {
            let fix = "name the engine's data folder with --data-dir";
            return Err(runtime(format!("no data folder {}", self.data_dir.display()), "there is no such folder", fix));
        }
        // W1. Not opened for its logs, so that a damaged one is in nobody's way.
        let _folder = DataFolder::open(&self.data_dir, 0).map_err(|refusal| three_lines(ExitStatus::Runtime, &refusal))?;
        let mut ids = Ids::new();
        if self.stored {
            let mut letters = open_letters(&path)?;
            while let Some(letter) = letters.next_letter().map_err(|error| unreadable(&path, &error))? {
                ids.insert(letter.id, false);
            }
            mark_stored(&self.data_dir, &mut ids, false)?;
        }
        let stored = self.stored.then_some(&ids);
        let doomed = Doomed { selection: &selection, stored, torn: self.torn, letters: names_letters };
        let mut purged = Purged::default();
        for file in rotated_files(&path).map_err(|error| unreadable(&path, &error))? {
            purge_file(&file, file == path, &doomed, &mut purged).map_err(|error| {
                let fix = "check the space and the permissions there; the file is as it was, and the command can be given again";
                runtime(format!("can't purge {}", file.display()), error.to_string(), fix)
            })?;
        }
        let text = if self.json {
            serde_json::to_string(&purged).expect("numbers always have a JSON form") + "\n"
        } else {
            let Purged { letters, other_lines, kept_letters, kept_other_lines, bytes_before, bytes_after } = purged;
            format!(
                "removed {letters} letters and {other_lines} other lines, kept {kept_letters} and {kept_other_lines}; \
                 {bytes_before} bytes before, {bytes_after} now\n"
            )
        };
        print(out, &text).map(|()| ExitStatus::Ok)
    }
}

/// Removes the lines of one file. A renamed file without any goes; the one that is appended to stays, empty.
fn purge_file(path: &Path, is_appended_to: bool, doomed: &Doomed<'_>, purged: &mut Purged) -> io::Result<()> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let facts = file.metadata()?;
    let before = *purged;
    let aside = aside(path);
    let mut kept = BufWriter::new(make(&aside, facts.mode())?);
    let written = copy_kept(file, &mut kept, doomed, purged).and_then(|bytes| {
        kept.flush()?;
        kept.get_ref().sync_all()?;
        Ok(bytes)
    });
    purged.bytes_before += facts.len();
    let removed = |purged: &Purged| purged.letters + purged.other_lines;
    let outcome = match written {
        Ok(bytes) if removed(purged) == removed(&before) => {
            purged.bytes_after += bytes;
            std::fs::remove_file(&aside)
        }
        Ok(0) if !is_appended_to => std::fs::remove_file(path).and_then(|()| std::fs::remove_file(&aside)),
        Ok(bytes) => {
            purged.bytes_after += bytes;
            std::fs::rename(&aside, path)
        }
        Err(error) => {
            // It stays as it was; what is written beside is of no use.
            let _ = std::fs::remove_file(&aside);
            return Err(error);
        }
    };
    // The new name must survive a power cut.
    outcome.and_then(|()| sync_folder(path))
}

fn copy_kept(file: File, kept: &mut impl Write, doomed: &Doomed<'_>, purged: &mut Purged) -> io::Result<u64> {
    let mut lines = LetterLines::new(BufReader::with_capacity(256 << 10, file));
    let mut bytes = 0;
    while let Some((entry, raw)) = lines.next_line()? {
        let (letters, others) = if doomed.includes(&entry) {
            (&mut purged.letters, &mut purged.other_lines)
        } else {
            kept.write_all(raw)?;
            bytes += raw.len() as u64;
            (&mut purged.kept_letters, &mut purged.kept_other_lines)
        };
        match entry {
            Entry::Letter(_) => *letters += 1,
            Entry::Torn | Entry::Foreign => *others += 1,
            Entry::Rest => {}
        }
    }
    Ok(bytes)
}

/// Where a file's successor is written: beside it, under a name that no reader takes for dead letters.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".purge");
    PathBuf::from(name)
}

fn make(path: &Path, mode: u32) -> io::Result<File> {
    // Left behind by a purge that was cut short.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode & 0o777).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::ledger::DropReason;
    use crate::storage::dead_letter::reader::LetterReader;

    fn letter(id: u64, reason: &str) -> String {
        format!(
            "{{\"time\":\"2026-01-31T12:00:01Z\",\"reason\":\"{reason}\",\"tier\":\"batch\",\"priority\":\"LOW\",\"source\":\"udp\",\"id\":{id},\"received\":\"2026-01-31T12:00:00Z\",\"topic\":\"a\",\"body\":\"\",\"note\":\"\"}}\n"
        )
    }

    fn args(data_dir: &Path) -> PurgeArgs {
        use argh::FromArgs as _;
        PurgeArgs::from_args(&["purge"], &["--data-dir", data_dir.to_str().unwrap()]).unwrap()
    }

    fn ids(folder: &Path) -> Vec<u64> {
        let mut reader = LetterReader::open(&folder.join("dlq_log.txt")).unwrap();
        std::iter::from_fn(|| reader.next_letter().unwrap()).map(|letter| letter.id).collect()
    }

    fn run(args: PurgeArgs) -> Result<Purged, CommandError> {
        let mut out = Vec::new();
        PurgeArgs { json: true, ..args }.run(&mut out)?;
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let number = |name: &str| value[name].as_u64().unwrap();
        Ok(Purged {
            letters: number("letters"),
            other_lines: number("other_lines"),
            kept_letters: number("kept_letters"),
            kept_other_lines: number("kept_other_lines"),
            bytes_before: number("bytes_before"),
            bytes_after: number("bytes_after"),
        })
    }

    #[test]
    fn selected_letters_go_from_every_file_and_all_else_stays_byte_by_byte() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let others = "hello\n{\"time\":\"torn\n";
        std::fs::write(at("dlq_log.txt.2"), letter(1, "queue_full")).unwrap();
        std::fs::write(at("dlq_log.txt.1"), letter(2, "queue_full") + others + &letter(3, "handler_panic")).unwrap();
        std::fs::write(at("dlq_log.txt"), letter(4, "queue_full") + "unfinished").unwrap();
        let by_reason = PurgeArgs { reason: vec![DropReason::QueueFull], ..args(folder.path()) };
        let purged = run(by_reason).unwrap();
        assert_eq!((purged.letters, purged.other_lines, purged.kept_letters, purged.kept_other_lines), (3, 0, 1, 3));
        assert!(!at("dlq_log.txt.2").exists(), "an empty renamed file goes");
        assert_eq!(std::fs::read_to_string(at("dlq_log.txt.1")).unwrap(), others.to_owned() + &letter(3, "handler_panic"));
        assert_eq!(std::fs::read_to_string(at("dlq_log.txt")).unwrap(), "unfinished");
        assert_eq!(ids(folder.path()), [3]);
        let purged = run(PurgeArgs { torn: true, ..args(folder.path()) }).unwrap();
        assert_eq!((purged.letters, purged.other_lines, purged.kept_letters), (0, 3, 1));
        run(PurgeArgs { all: true, ..args(folder.path()) }).unwrap();
        assert_eq!((ids(folder.path()), at("dlq_log.txt").exists()), (vec![], true));
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_str().unwrap().ends_with(".purge")), "{left:?}");
    }

    #[test]
    fn a_purge_that_would_remove_everything_wants_to_be_told_so() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(run(args(folder.path())).unwrap_err().code, ExitStatus::Usage);
    }

    #[test]
    fn a_folder_in_use_is_refused_and_nothing_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dlq_log.txt"), letter(1, "queue_full")).unwrap();
        let engine = DataFolder::open(folder.path(), 1).unwrap();
        let error = run(PurgeArgs { all: true, ..args(folder.path()) }).unwrap_err();
        assert!(error.error.contains("in use"), "{error}");
        assert_eq!(ids(folder.path()), [1]);
        drop(engine);
        run(PurgeArgs { all: true, ..args(folder.path()) }).unwrap();
        assert_eq!(ids(folder.path()), [0u64; 0]);
    }
}
