//! Second stage of the dead letters: bytes to a bounded file, on a thread of its own, so that a blocked disk holds up nothing else.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::DeadLetterCounters;

/// Lines are written in pieces of about this size: what a failing disk takes with it stays small.
const PIECE_BYTES: usize = 256 << 10;

/// What is on its way to the writer.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    closed: bool,
}

/// The hand-over between the two stages: one buffer is filled while the other is written. Both stages are helper threads; no agent
/// ever takes this lock.
#[derive(Debug)]
pub(super) struct Spool {
    pending: Mutex<Pending>,
    filled: Condvar,
    capacity_bytes: usize,
}

impl Spool {
    pub(super) fn new(capacity_bytes: usize) -> Self {
        Self { pending: Mutex::default(), filled: Condvar::new(), capacity_bytes }
    }

    /// Puts a line behind the others; false when the buffer is full.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut pending = self.pending.lock().expect("stages don't panic with the lock held");
        if pending.bytes.len() + line.len() > self.capacity_bytes {
            return false;
        }
        pending.bytes.extend_from_slice(line);
        drop(pending);
        self.filled.notify_one();
        true
    }

    /// No more lines: the writer ends when it has written what is there.
    pub(super) fn close(&self) {
        self.pending.lock().expect("stages don't panic with the lock held").closed = true;
        self.filled.notify_one();
    }

    /// Waits for lines and swaps them into `into` (empty). False: closed, and nothing is left.
    fn take(&self, into: &mut Vec<u8>) -> bool {
        let mut pending = self.pending.lock().expect("stages don't panic with the lock held");
        while pending.bytes.is_empty() {
            if pending.closed {
                return false;
            }
            pending = self.filled.wait(pending).expect("stages don't panic with the lock held");
        }
        std::mem::swap(&mut pending.bytes, into);
        true
    }
}

/// The file: appended to, renamed away when full.
#[derive(Debug)]
pub(super) struct LetterFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    keep_files: u32,
}

impl LetterFile {
    /// Opens (or makes) the file and completes a line that an earlier run left unfinished.
    pub(super) fn open(path: &Path, bytes_max: u64, keep_files: u32) -> io::Result<Self> {
        let file = Self::open_file(path)?;
        let mut letters = Self { path: path.to_owned(), bytes: file.metadata()?.len(), file, bytes_max, keep_files };
        let mut last = [b'\n'];
        if letters.bytes > 0 {
            letters.file.read_exact_at(&mut last, letters.bytes - 1)?;
        }
        if last != [b'\n'] {
            letters.append(b"\n")?;
        }
        Ok(letters)
    }

    fn open_file(path: &Path) -> io::Result<File> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).custom_flags(flags).open(path)?;
        // Not a folder, pipe or device: letters need a place where they stay.
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::from_raw_os_error(libc::ENXIO)) }
    }

    /// Appends whole lines, or nothing.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        match self.file.write_all(lines) {
            Ok(()) => {
                self.bytes += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line would spoil the next one.
                let _ = self.file.set_len(self.bytes);
                Err(error)
            }
        }
    }

    /// `dlq_log.txt` becomes `dlq_log.txt.1`, that one `.2`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let named = |index: u32| {
            let mut name = self.path.clone().into_os_string();
            if index > 0 {
                name.push(format!(".{index}"));
            }
            PathBuf::from(name)
        };
        if self.keep_files == 0 {
            self.file.set_len(0)?;
        } else {
            for index in (0..self.keep_files).rev() {
                match std::fs::rename(named(index), named(index + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            self.file = Self::open_file(&self.path)?;
        }
        self.bytes = 0;
        Ok(())
    }
}

/// The writer's loop. Ends when the spool is closed and empty.
pub(super) fn write_letters(spool: &Spool, mut file: LetterFile, counters: &DeadLetterCounters) {
    let mut bytes = Vec::new();
    let mut complaint = Complaint::default();
    while spool.take(&mut bytes) {
        for piece in pieces(&bytes) {
            let lines = piece.iter().filter(|byte| **byte == b'\n').count() as u64;
            match file.append(piece) {
                Ok(()) => counters.written.add(lines),
                Err(error) => {
                    counters.lost_disk.add(lines);
                    complaint.say(&file.path, &error, counters.lost_disk.get());
                }
            }
        }
        bytes.clear();
    }
}

/// Cuts lines into pieces of about [`PIECE_BYTES`], at ends of lines.
fn pieces(mut lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if lines.is_empty() {
            return None;
        }
        let from = PIECE_BYTES.min(lines.len()) - 1;
        let end = lines[from..].iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| from + at + 1);
        let (piece, rest) = lines.split_at(end);
        lines = rest;
        Some(piece)
    })
}

/// At most one line a second about a disk that does not take letters.
#[derive(Debug, Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn say(&mut self, path: &Path, error: &io::Error, lost: u64) {
        if self.0.is_none_or(|last| last.elapsed() >= Duration::from_secs(1)) {
            self.0 = Some(Instant::now());
            log::error!(
                "dead letters can't be written to {}: {error}; {lost} lost so far, counted as dead_letter_lost",
                path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> Vec<u8> {
        (0..count).flat_map(|index| format!("{{\"n\":{index}}}\n").into_bytes()).collect()
    }

    #[test]
    fn pieces_are_whole_lines_and_together_everything() {
        let all = [lines(100_000), vec![b'x'; 2 * PIECE_BYTES], b"\n".to_vec(), lines(3)].concat();
        let cut: Vec<&[u8]> = pieces(&all).collect();
        assert!(cut.len() > 3 && cut.iter().all(|piece| piece.ends_with(b"\n")));
        assert_eq!(cut.concat(), all);
    }

    #[test]
    fn a_full_file_is_renamed_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dlq_log.txt");
        let mut file = LetterFile::open(&path, 100, 2).unwrap();
        for index in 0..10u8 {
            file.append(&[vec![b'a' + index; 59], vec![b'\n']].concat()).unwrap();
        }
        let first_of = |name: &str| std::fs::read(folder.path().join(name)).unwrap()[0];
        assert_eq!((first_of("dlq_log.txt"), first_of("dlq_log.txt.1"), first_of("dlq_log.txt.2")), (b'j', b'i', b'h'));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn an_unfinished_line_of_an_earlier_run_is_completed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dlq_log.txt");
        std::fs::write(&path, b"{\"torn").unwrap();
        LetterFile::open(&path, 1 << 20, 1).unwrap().append(b"{}\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"{\"torn\n{}\n");
    }

    #[test]
    fn lines_that_a_full_disk_refuses_are_counted_lost() {
        // /dev/full refuses every write with ENOSPC; as it is a device, it goes around `open`.
        let counters = DeadLetterCounters::default();
        let full = OpenOptions::new().read(true).append(true).open("/dev/full").unwrap();
        let file = LetterFile { path: "/dev/full".into(), file: full, bytes: 0, bytes_max: 1 << 20, keep_files: 1 };
        let spool = Spool::new(1 << 20);
        assert!(spool.push(&lines(7)));
        spool.close();
        write_letters(&spool, file, &counters);
        assert_eq!((counters.written.get(), counters.lost_disk.get()), (0, 7));
    }

    #[test]
    fn links_and_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", folder.path().join("link")).unwrap();
        assert_eq!(LetterFile::open(&folder.path().join("link"), 1, 1).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(LetterFile::open(folder.path(), 1, 1).is_err());
    }
}
