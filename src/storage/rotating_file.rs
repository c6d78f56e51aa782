//! A bounded file of lines, for what helper threads write: appended to, renamed away when full.
//!
//! ```text
//! append(lines) ─► dlq_log.txt ── full ──► dlq_log.txt.1 ──► dlq_log.txt.2 ──► gone
//! ```
//!
//! Invariants:
//! - **R1** An append is whole lines or nothing. What a failing disk took of it is cut off again; where even that fails, the next opening
//!   ends the unfinished line, so that it spoils no other.
//! - **R2** No file is longer than its limit, but for a single append that is longer by itself; so many renamed files are kept, and no more.
//! - **R3** After an error, or when the file has been moved or removed from outside, the next append opens it afresh: it recovers by itself.
//! - **R4** No link is followed, and nothing but a regular file is written to.
//!
//! What it does not do: sync, buffer, lock, count lines, or say anything; a refused append is its caller's to count ([`Complaints`] keeps what
//! is said about it to a line a second).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotatingFileLimits {
    /// Bytes after which the file is renamed away, at least 1.
    pub file_bytes_max: u64,
    /// Renamed files kept; 0: a full file is emptied.
    pub keep_files: u32,
}

/// The file. One writer: it is not locked.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    limits: RotatingFileLimits,
    /// None after an error (R3).
    open: Option<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    bytes: u64,
    /// Device and inode: whether the path still leads here.
    identity: (u64, u64),
}

impl OpenFile {
    /// Opens or makes the file, and ends a line that was left unfinished.
    fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).custom_flags(flags).open(path)?;
        let facts = file.metadata()?;
        if !facts.is_file() {
            // A folder, pipe or device: lines need a place where they stay.
            return Err(io::Error::from_raw_os_error(libc::ENXIO));
        }
        let mut open = Self { file, bytes: facts.len(), identity: (facts.dev(), facts.ino()) };
        let mut last = [b'\n'];
        if open.bytes > 0 {
            open.file.read_exact_at(&mut last, open.bytes - 1)?;
        }
        if last != [b'\n'] {
            open.write(b"\n")?;
        }
        Ok(open)
    }

    /// R1: all of it, or none.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(lines);
        match written {
            Ok(()) => self.bytes += lines.len() as u64,
            // Where it can't be cut off either, the next opening ends the half line.
            Err(_) => drop(self.file.set_len(self.bytes)),
        }
        written
    }

    fn is_at(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|facts| (facts.dev(), facts.ino()) == self.identity)
    }
}

impl RotatingFile {
    /// Opens (or makes) the file and ends a line that an earlier run left unfinished.
    ///
    /// # Errors
    /// What the kernel says; `ELOOP` for a link, `EISDIR` or `ENXIO` for what is no regular file.
    pub fn open(path: &Path, limits: RotatingFileLimits) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), limits, open: Some(OpenFile::open(path)?) })
    }

    /// The file that is appended to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole lines, or nothing; renames the file away first if it would get too long. Blocks on the disk.
    ///
    /// # Errors
    /// What the kernel says; nothing was appended then, and the next call tries afresh.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let appended = self.try_append(lines);
        if appended.is_err() {
            self.open = None;
        }
        appended
    }

    fn try_append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut open = match self.open.take() {
            Some(open) if open.is_at(&self.path) => open,
            _ => OpenFile::open(&self.path)?,
        };
        if open.bytes > 0 && open.bytes + lines.len() as u64 > self.limits.file_bytes_max {
            if self.limits.keep_files == 0 {
                open.file.set_len(0)?;
                open.bytes = 0;
            } else {
                self.rename_away()?;
                open = OpenFile::open(&self.path)?;
            }
        }
        self.open.insert(open).write(lines)
    }

    /// `dlq_log.txt` becomes `dlq_log.txt.1`, that one `.2`, and so on; the oldest goes.
    fn rename_away(&self) -> io::Result<()> {
        for index in (0..self.limits.keep_files).rev() {
            match std::fs::rename(numbered(&self.path, index), numbered(&self.path, index + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The name of the file that was renamed away so many times; 0: of the one that is appended to.
fn numbered(path: &Path, index: u32) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    if index > 0 {
        name.push(format!(".{index}"));
    }
    PathBuf::from(name)
}

/// The files that are there, the oldest first, the one that is appended to last. Also those that a larger limit once kept.
///
/// # Errors
/// What the folder says.
pub fn rotated_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let mut indexes = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?.file_name();
        let Some(rest) = entry.to_str().and_then(|entry| entry.strip_prefix(name)) else { continue };
        let number =
            rest.strip_prefix('.').and_then(|digits| digits.parse().ok().filter(|number: &u32| number.to_string() == digits));
        match number {
            Some(number) if number > 0 => indexes.push(number),
            _ if rest.is_empty() => indexes.push(0),
            _ => {}
        }
    }
    indexes.sort_unstable_by(|a, b| b.cmp(a));
    Ok(indexes.into_iter().map(|index| numbered(path, index)).collect())
}

/// Lets one complaint a second through.
#[derive(Debug, Default)]
pub struct Complaints {
    last: Option<Instant>,
}

impl Complaints {
    /// Whether a complaint may be said now.
    pub fn is_due(&mut self) -> bool {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= Duration::from_secs(1));
        if is_due {
            self.last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: RotatingFileLimits = RotatingFileLimits { file_bytes_max: 1 << 20, keep_files: 1 };

    #[test]
    fn a_full_file_is_renamed_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let mut file = RotatingFile::open(&path, RotatingFileLimits { file_bytes_max: 100, keep_files: 2 }).unwrap();
        for index in 0..10u8 {
            file.append(&[vec![b'a' + index; 59], vec![b'\n']].concat()).unwrap();
        }
        let first_of = |name: &str| std::fs::read(folder.path().join(name)).unwrap()[0];
        assert_eq!((first_of("lines"), first_of("lines.1"), first_of("lines.2")), (b'j', b'i', b'h'));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn without_renamed_files_a_full_one_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let mut file = RotatingFile::open(&path, RotatingFileLimits { file_bytes_max: 10, keep_files: 0 }).unwrap();
        for line in [b"first\n", b"secon\n", b"third\n"] {
            file.append(line).unwrap();
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"third\n");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unfinished_line_of_an_earlier_run_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        std::fs::write(&path, b"{\"torn").unwrap();
        RotatingFile::open(&path, WIDE).unwrap().append(b"{}\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"{\"torn\n{}\n");
    }

    #[test]
    fn links_folders_and_devices_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", folder.path().join("link")).unwrap();
        assert_eq!(RotatingFile::open(&folder.path().join("link"), WIDE).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert!(RotatingFile::open(folder.path(), WIDE).is_err());
        assert_eq!(RotatingFile::open(Path::new("/dev/full"), WIDE).unwrap_err().raw_os_error(), Some(libc::ENXIO));
    }

    #[test]
    fn a_file_moved_away_from_outside_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let mut file = RotatingFile::open(&path, WIDE).unwrap();
        file.append(b"1\n").unwrap();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        file.append(b"2\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        file.append(b"3\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"3\n");
        assert_eq!(std::fs::read(folder.path().join("moved")).unwrap(), b"1\n");
    }

    #[test]
    fn after_a_refused_append_the_next_one_opens_the_file_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/lines");
        std::fs::create_dir(folder.path().join("below")).unwrap();
        let mut file = RotatingFile::open(&path, WIDE).unwrap();
        std::fs::rename(folder.path().join("below"), folder.path().join("gone")).unwrap();
        assert_eq!(file.append(b"1\n").unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::rename(folder.path().join("gone"), folder.path().join("below")).unwrap();
        file.append(b"2\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"2\n");
    }

    #[test]
    fn a_refused_write_leaves_the_length_as_it_was() {
        // A file size limit would hit the whole process; a device that refuses every byte stands in for a full disk.
        let full = OpenOptions::new().read(true).append(true).open("/dev/full").unwrap();
        let mut open = OpenFile { file: full, bytes: 0, identity: (0, 0) };
        assert_eq!(open.write(b"line\n").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(open.bytes, 0);
    }

    #[test]
    fn files_are_listed_from_the_oldest_on_and_foreign_names_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        for name in ["lines", "lines.1", "lines.10", "lines.2", "lines.02", "lines.0", "lines.tmp", "lines2", "other.1"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let files = rotated_files(&path).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["lines.10", "lines.2", "lines.1", "lines"]);
    }
}
