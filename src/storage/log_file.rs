//! The seam to files and their folder: what opening, recovering, reading, sealing and closing a log ask of them.
//!
//! While the engine runs, batches go through the ring ([`LogFile::fd`]); everything here blocks and is called from the engine's own
//! thread, a helper thread or a command. The simulator's disk is the other implementation.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::format::BLOCK_BYTES;
use crate::sys::file::{allocate, file_system_name, free_bytes, is_unmarked, mark_as_written};
use crate::sys::io::Fd;
use crate::sys::memory::StagingBuffer;

/// How long the writes of a process that is gone may take to end; killed ones took some 11 ms.
const WRITES_PATIENCE: Duration = Duration::from_secs(2);
const WRITES_LOOK_EVERY: Duration = Duration::from_millis(1);

/// A log file outside of the ring.
pub trait LogFile {
    /// Bytes of the file.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    ///
    /// # Errors
    /// As [`LogFile::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads up to `out.len()` bytes at `offset`; fewer are no error, 0 is the end of the file.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// Whatever the file system says; some bytes may have been written then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts or extends (with zeros) the file.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Makes data and length durable.
    ///
    /// # Errors
    /// Whatever the file system says; never retried.
    fn sync(&self) -> io::Result<()>;

    /// Reserves the blocks of the first `bytes`, without writing; the file has that length then. Where the file system can't, nothing
    /// happens.
    ///
    /// # Errors
    /// Whatever the file system says, out of space above all.
    fn allocate(&self, bytes: u64) -> io::Result<()>;

    /// Readies the file for the ring: its writes bypass the page cache if `direct` is wanted and file and file system can do that, and
    /// [`LogFolder::await_writes`] knows of them. Returns whether they bypass it.
    fn enable_ring(&mut self, direct: bool) -> bool;

    /// The descriptor for the ring's writes, in whole blocks of 4096 bytes from aligned memory.
    fn fd(&self) -> Fd;
}

impl<F: LogFile> LogFile for &F {
    fn len(&self) -> io::Result<u64> {
        F::len(self)
    }
    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        F::read_at(self, out, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        F::write_at(self, bytes, offset)
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        F::set_len(self, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        F::sync(self)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        F::allocate(self, bytes)
    }
    /// A borrowed file stays as it is.
    fn enable_ring(&mut self, _: bool) -> bool {
        false
    }
    fn fd(&self) -> Fd {
        F::fd(self)
    }
}

/// The folder that a log's files are in. Names are plain, without a path.
pub trait LogFolder: std::fmt::Debug {
    /// Its files.
    type File: LogFile + std::fmt::Debug;

    /// All names in it.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file that is there.
    ///
    /// # Errors
    /// Whatever the file system says; `NotFound` where it is not there.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file, and makes it if it is not there. The name is durable after [`LogFolder::sync`].
    ///
    /// # Errors
    /// Whatever the file system says.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Waits until nothing of a process that is gone is on its way to a file any more: a ring's write outlives its process, and would land in what
    /// was read, cut and written since. Where no write can, nothing happens.
    ///
    /// # Errors
    /// `TimedOut` after two seconds.
    fn await_writes(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    /// Gives a file another name, at once; what had that name is gone. Durable after [`LogFolder::sync`].
    ///
    /// # Errors
    /// Whatever the file system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Takes a file's name away; its bytes are gone when nobody has it open any more.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn sync(&self) -> io::Result<()>;

    /// Bytes that an ordinary user may still write to the file system.
    ///
    /// # Errors
    /// Whatever the file system says.
    fn free_bytes(&self) -> io::Result<u64>;

    /// As [`LogFolder::open`], `None` where the file is not there.
    ///
    /// # Errors
    /// As [`LogFolder::open`], but for `NotFound`.
    fn open_if_there(&self, name: &str) -> io::Result<Option<Self::File>> {
        match self.open(name) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A folder on a disk.
#[derive(Clone, Debug)]
pub struct DiskFolder {
    path: PathBuf,
    /// Its files are opened to be read only.
    only_to_read: bool,
}

impl DiskFolder {
    /// A folder whose files are written.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), only_to_read: false }
    }

    /// A folder whose files are read, also while an engine writes them.
    pub fn to_read(path: &Path) -> Self {
        Self { path: path.to_owned(), only_to_read: true }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl LogFolder for DiskFolder {
    type File = DiskFile;

    fn list(&self) -> io::Result<Vec<String>> {
        // What is not UTF-8 is not ours.
        let names = std::fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn open(&self, name: &str) -> io::Result<DiskFile> {
        let path = self.path.join(name);
        let file = DiskFile::flags(0).read(true).write(!self.only_to_read).open(&path)?;
        // A folder, device or pipe in its place.
        if file.metadata()?.is_file() { Ok(DiskFile { file, direct: None, path }) } else { Err(not_a_file()) }
    }

    fn create(&self, name: &str) -> io::Result<DiskFile> {
        let file = DiskFile::open(&self.path.join(name))?;
        if file.file.metadata()?.is_file() { Ok(file) } else { Err(not_a_file()) }
    }

    fn await_writes(&self, name: &str) -> io::Result<()> {
        // Not there, or something that opening it will refuse.
        let Ok(file) = DiskFile::flags(0).read(true).open(self.path.join(name)) else { return Ok(()) };
        let until = Instant::now() + WRITES_PATIENCE;
        loop {
            match is_unmarked(&file) {
                Ok(false) if Instant::now() < until => std::thread::sleep(WRITES_LOOK_EVERY),
                Ok(false) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
                // A file system without such locks.
                Ok(true) | Err(_) => return Ok(()),
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        free_bytes(&File::open(&self.path)?)
    }
}

fn not_a_file() -> io::Error {
    io::Error::from_raw_os_error(libc::ENXIO)
}

/// A log file on a disk.
///
/// Two descriptors of one file where the file system allows it: one through the page cache, for everything here, and one with
/// `O_DIRECT` for the ring's writes (a seventh of the CPU; the kernel keeps both views coherent).
#[derive(Debug)]
pub struct DiskFile {
    file: File,
    direct: Option<File>,
    path: PathBuf,
}

impl DiskFile {
    /// Opens a log for reading and writing; makes it if it is not there. A symbolic link is refused (`ELOOP`).
    ///
    /// # Errors
    /// Whatever open says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = Self::flags(0).read(true).write(true).create(true).truncate(false).mode(0o640).open(path)?;
        Ok(Self { file, direct: None, path: path.to_owned() })
    }

    /// Opens a log to read it, also while an engine writes it.
    ///
    /// # Errors
    /// Whatever open says.
    pub fn open_to_read(path: &Path) -> io::Result<Self> {
        let file = Self::flags(0).read(true).open(path)?;
        Ok(Self { file, direct: None, path: path.to_owned() })
    }

    fn flags(more: i32) -> OpenOptions {
        let mut options = OpenOptions::new();
        // O_NONBLOCK: a FIFO in the file's place is refused by its type later, instead of waiting for a writer here.
        options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | more);
        options
    }

    fn probe_direct(&self) -> io::Result<File> {
        let direct = Self::flags(libc::O_DIRECT).read(true).write(true).open(&self.path)?;
        let (one, other) = (self.file.metadata()?, direct.metadata()?);
        if (one.dev(), one.ino()) != (other.dev(), other.ino()) {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let mut block = StagingBuffer::map(BLOCK_BYTES)?;
        match direct.read_at(&mut block, 0)? {
            BLOCK_BYTES => Ok(direct),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }

    /// Whether the ring's writes bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name of its file system (`ext4`), `?` where even that is unknown.
    pub fn file_system(&self) -> String {
        file_system_name(&self.file).unwrap_or_else(|_| "?".to_owned())
    }
}

impl LogFile for DiskFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, out, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match allocate(&self.file, bytes) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(()),
            result => result,
        }
    }

    /// With blocks of 4096 bytes. Probed by doing: one block is read, so the file has to have one.
    fn enable_ring(&mut self, direct: bool) -> bool {
        self.direct = if direct { self.probe_direct().ok() } else { None };
        mark_as_written(self.direct.as_ref().unwrap_or(&self.file));
        self.direct.is_some()
    }

    fn fd(&self) -> Fd {
        Fd(self.direct.as_ref().unwrap_or(&self.file).as_raw_fd())
    }
}

/// Reads until `out` is full or the file ends. Returns the bytes read.
pub(super) fn read_full(file: &impl LogFile, out: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match file.read_at(&mut out[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
