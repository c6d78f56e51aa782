//! Reading dead letters back: the files in order, the oldest first, line by line, in bounded memory.
//!
//! - **Y1** What is read is every line that was in the files when they were opened, each once, also while a writer appends to them and renames
//!   them: the newest is opened first, and a file met twice under two names is read once.
//! - **Y2** The raw lines of a file, one after the other, are the file, byte by byte: who rewrites one loses nothing by it.
//! - **Y3** Memory: one line of at most [`LINE_BYTES_MAX`] and the letter in it. A longer one is passed over.
//!
//! It can be read again from the start, and gives the same letters then.
//!
//! What it does not do: judge whether a letter is wanted, or follow a file that grows.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Take};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::line::{DeadLetter, begins_like_a_letter, parse_line};
use crate::limits::DEAD_LETTER_LINE_BYTES_MAX as LINE_BYTES_MAX;
use crate::storage::rotating_file::rotated_files;

/// What a line turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A dead letter.
    Letter(DeadLetter),
    /// The beginning of one: a writer was cut short, or is at it.
    Torn,
    /// Something else.
    Foreign,
    /// Goes on with a line that was too long to be read at once, and counted already.
    Rest,
}

/// The lines of one file.
#[derive(Debug)]
pub struct LetterLines<R> {
    input: R,
    line: Vec<u8>,
    is_inside: bool,
}

impl<R: BufRead> LetterLines<R> {
    /// The lines of an input.
    pub fn new(input: R) -> Self {
        Self { input, line: Vec::new(), is_inside: false }
    }

    /// The next line, and its bytes as they are (Y2). `None`: the end.
    ///
    /// # Errors
    /// What the input says.
    pub fn next_line(&mut self) -> io::Result<Option<(Entry, &[u8])>> {
        self.line.clear();
        self.input.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut self.line)?;
        if self.line.is_empty() {
            return Ok(None);
        }
        let is_whole = self.line.ends_with(b"\n");
        let is_rest = std::mem::replace(&mut self.is_inside, !is_whole);
        let entry = if is_rest {
            Entry::Rest
        } else {
            match parse_line(&self.line) {
                // Even if all of it is there: its newline may be about to come, and with it this letter would be read twice.
                Ok(_) if !is_whole => Entry::Torn,
                Ok(letter) => Entry::Letter(letter),
                Err(_) if begins_like_a_letter(&self.line) => Entry::Torn,
                Err(_) => Entry::Foreign,
            }
        };
        Ok(Some((entry, &self.line)))
    }
}

/// What was read so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadTally {
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Dead letters, samples included.
    pub letters: u64,
    /// Lines that are the beginning of one.
    pub torn: u64,
    /// Lines of others.
    pub foreign: u64,
}

/// A file, as long as it was when it was opened (Y1).
#[derive(Debug)]
struct SourceFile {
    file: File,
    bytes: u64,
}

/// All dead letters that a path stands for: the file and those renamed away.
#[derive(Debug)]
pub struct LetterReader {
    /// The newest first: read from the end.
    files: Vec<SourceFile>,
    /// Those not yet begun.
    left: usize,
    lines: Option<LetterLines<BufReader<Take<File>>>>,
    tally: ReadTally,
}

impl LetterReader {
    /// Opens the files. None at all is an empty reader.
    ///
    /// # Errors
    /// What the folder or a file says, and which it is.
    pub fn open(path: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let mut files = Vec::new();
        let mut seen = Vec::new();
        let named = |path: &Path| {
            let path = path.to_owned();
            move |error| (path, error)
        };
        for path in rotated_files(path).map_err(named(path))?.into_iter().rev() {
            let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path) {
                // Renamed a moment ago: it comes next, under its new name.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(named(&path))?,
            };
            let facts = file.metadata().map_err(named(&path))?;
            if !facts.is_file() {
                return Err((path, io::Error::from_raw_os_error(libc::ENXIO)));
            }
            if !seen.contains(&(facts.dev(), facts.ino())) {
                seen.push((facts.dev(), facts.ino()));
                files.push(SourceFile { file, bytes: facts.len() });
            }
        }
        Ok(Self { left: files.len(), files, lines: None, tally: ReadTally::default() })
    }

    /// Back to the first letter.
    pub fn rewind(&mut self) {
        (self.left, self.lines, self.tally) = (self.files.len(), None, ReadTally::default());
    }

    /// The next letter. `None`: there are no more.
    ///
    /// # Errors
    /// What a file says.
    pub fn next_letter(&mut self) -> io::Result<Option<DeadLetter>> {
        loop {
            let Some(lines) = &mut self.lines else {
                if self.left == 0 {
                    return Ok(None);
                }
                self.left -= 1;
                self.tally.files += 1;
                let SourceFile { file, bytes } = &self.files[self.left];
                let mut file = file.try_clone()?;
                file.seek(SeekFrom::Start(0))?;
                self.lines = Some(LetterLines::new(BufReader::with_capacity(256 << 10, file.take(*bytes))));
                continue;
            };
            let Some((entry, raw)) = lines.next_line()? else {
                self.lines = None;
                continue;
            };
            self.tally.bytes += raw.len() as u64;
            match entry {
                Entry::Letter(letter) => {
                    self.tally.letters += 1;
                    return Ok(Some(letter));
                }
                Entry::Torn => self.tally.torn += 1,
                Entry::Foreign => self.tally.foreign += 1,
                Entry::Rest => {}
            }
        }
    }

    /// What was read so far.
    pub fn tally(&self) -> ReadTally {
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::line::tests::{any_letter, line_of};
    use super::*;

    fn entries(bytes: &[u8]) -> (Vec<Entry>, Vec<u8>) {
        let (mut entries, mut raw) = (Vec::new(), Vec::new());
        let mut lines = LetterLines::new(bytes);
        while let Some((entry, line)) = lines.next_line().unwrap() {
            entries.push(entry);
            raw.extend_from_slice(line);
        }
        (entries, raw)
    }

    /// Lines of all kinds, and what they are to be taken for.
    fn any_line() -> impl Strategy<Value = (Vec<u8>, Option<Entry>)> {
        let letter = || any_letter().prop_map(|letter| (line_of(&letter), Entry::Letter(letter)));
        let torn = (letter(), any::<prop::sample::Index>()).prop_map(|((line, _), at)| {
            let cut = 9 + at.index(line.len() - 10);
            ([&line[..cut], b"\n"].concat(), Some(Entry::Torn))
        });
        let garbage = prop::collection::vec(any::<u8>().prop_filter("a line", |byte| *byte != b'\n'), 0..100)
            .prop_map(|bytes| ([bytes, b"\n".to_vec()].concat(), None));
        prop_oneof![letter().prop_map(|(line, entry)| (line, Some(entry))), torn, garbage]
    }

    proptest! {
        #[test]
        fn letters_among_torn_and_foreign_lines_are_all_found(lines in prop::collection::vec(any_line(), 0..20)) {
            let bytes: Vec<u8> = lines.iter().flat_map(|(line, _)| line.clone()).collect();
            let (found, raw) = entries(&bytes);
            prop_assert_eq!(raw, bytes, "Y2");
            prop_assert_eq!(found.len(), lines.len());
            for (found, (_, expected)) in found.into_iter().zip(lines) {
                match expected {
                    Some(expected) => prop_assert_eq!(found, expected),
                    None => prop_assert!(matches!(found, Entry::Foreign | Entry::Torn)),
                }
            }
        }

        #[test]
        fn any_bytes_are_read_to_their_end(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(entries(&bytes).1, bytes);
        }
    }

    fn letter(id: u64) -> Vec<u8> {
        let line = format!(
            r#"{{"time":"2026-01-31T12:00:01Z","reason":"queue_full","tier":"batch","priority":"LOW","source":"udp","id":{id},"received":"2026-01-31T12:00:00Z","topic":"a","body":"","note":""}}"#
        );
        [line.as_bytes(), b"\n"].concat()
    }

    fn ids(path: &Path) -> (Vec<u64>, ReadTally) {
        let mut reader = LetterReader::open(path).unwrap();
        let mut ids = Vec::new();
        while let Some(letter) = reader.next_letter().unwrap() {
            ids.push(letter.id);
        }
        (ids, reader.tally())
    }

    #[test]
    fn renamed_files_come_first_the_oldest_before_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dlq_log.txt");
        assert_eq!(ids(&path), (vec![], ReadTally::default()));
        std::fs::write(folder.path().join("dlq_log.txt.2"), letter(1)).unwrap();
        std::fs::write(folder.path().join("dlq_log.txt.1"), [letter(2), b"hello\n".to_vec(), letter(3)].concat()).unwrap();
        let unfinished = &letter(5)[..30];
        std::fs::write(&path, [&letter(4), unfinished].concat()).unwrap();
        let (ids, tally) = ids(&path);
        assert_eq!(ids, [1, 2, 3, 4]);
        assert_eq!((tally.files, tally.letters, tally.torn, tally.foreign), (3, 4, 1, 1));
        assert_eq!(tally.bytes as usize, 4 * letter(1).len() + 6 + 30);
    }

    #[test]
    fn what_is_appended_after_the_opening_is_not_read_and_reading_again_gives_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dlq_log.txt");
        std::fs::write(&path, letter(1)).unwrap();
        let mut reader = LetterReader::open(&path).unwrap();
        std::fs::write(&path, [letter(1), letter(2)].concat()).unwrap();
        for _ in 0..2 {
            assert_eq!(reader.next_letter().unwrap().map(|letter| letter.id), Some(1));
            assert_eq!(reader.next_letter().unwrap(), None);
            reader.rewind();
        }
    }

    #[test]
    fn a_file_under_two_names_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dlq_log.txt");
        std::fs::write(&path, letter(1)).unwrap();
        std::fs::hard_link(&path, folder.path().join("dlq_log.txt.1")).unwrap();
        assert_eq!(ids(&path).0, [1]);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_and_counted_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dlq_log.txt");
        let long = vec![b'x'; 2 * LINE_BYTES_MAX + 10];
        std::fs::write(&path, [letter(1), long, b"\n".to_vec(), letter(2)].concat()).unwrap();
        let (ids, tally) = ids(&path);
        assert_eq!((ids.as_slice(), tally.foreign), ([1, 2].as_slice(), 1));
    }

    #[test]
    fn links_and_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", folder.path().join("link")).unwrap();
        let (path, error) = LetterReader::open(&folder.path().join("link")).unwrap_err();
        assert_eq!((path.file_name().unwrap().to_str(), error.raw_os_error()), (Some("link"), Some(libc::ELOOP)));
        std::fs::create_dir(folder.path().join("place")).unwrap();
        assert!(LetterReader::open(&folder.path().join("place")).is_err());
    }
}
