//! Second stage of the dead letters: bytes to a bounded file, on a thread of its own, so that a blocked disk holds up nothing else.

use std::sync::{Condvar, Mutex};

use super::DeadLetterCounters;
use super::line::SAMPLE_START;
use crate::storage::rotating_file::{Complaints, RotatingFile};

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

/// The writer's loop. Ends when the spool is closed and empty.
pub(super) fn write_letters(spool: &Spool, mut file: RotatingFile, counters: &DeadLetterCounters) {
    let mut bytes = Vec::new();
    let mut complaints = Complaints::default();
    while spool.take(&mut bytes) {
        for piece in pieces(&bytes) {
            let (letters, samples) = count_lines(piece);
            match file.append(piece) {
                Ok(()) => {
                    counters.written.add(letters);
                    counters.samples_written.add(samples);
                }
                Err(error) => {
                    counters.lost_disk.add(letters);
                    counters.samples_lost_disk.add(samples);
                    if complaints.is_due() {
                        let (path, lost) = (file.path().display(), counters.lost_disk.get());
                        log::error!("dead letters can't be written to {path}: {error}; {lost} lost so far (dead_letter_lost)");
                    }
                }
            }
        }
        bytes.clear();
    }
}

/// How many of whole lines are letters, and how many are samples, which begin otherwise (X3).
fn count_lines(piece: &[u8]) -> (u64, u64) {
    let samples = piece.split_inclusive(|byte| *byte == b'\n').filter(|line| line.starts_with(SAMPLE_START)).count() as u64;
    let lines = piece.iter().filter(|byte| **byte == b'\n').count() as u64;
    (lines - samples, samples)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::rotating_file::RotatingFileLimits;

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
    fn lines_that_the_disk_refuses_are_counted_lost_and_later_ones_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("place");
        std::fs::create_dir(&place).unwrap();
        let counters = DeadLetterCounters::default();
        let limits = RotatingFileLimits { file_bytes_max: 1 << 20, keep_files: 1 };
        let open = || RotatingFile::open(&place.join("dlq_log.txt"), limits).unwrap();
        let write = |file| {
            let spool = Spool::new(1 << 20);
            assert!(spool.push(&lines(7)));
            spool.close();
            write_letters(&spool, file, &counters);
        };
        let file = open();
        // The folder is gone, as when its disk is: there is nowhere to write to.
        std::fs::remove_dir_all(&place).unwrap();
        write(file);
        assert_eq!((counters.written.get(), counters.lost_disk.get()), (0, 7));
        std::fs::create_dir(&place).unwrap();
        write(open());
        assert_eq!((counters.written.get(), counters.lost_disk.get()), (7, 7));
    }
}
