//! The file seam: what opening, recovering, reading and closing a log ask of a file.
//!
//! While the engine runs, batches go through the ring ([`LogFile::fd`]); everything here blocks and is called from the engine's own
//! thread or a command. The simulator's disk is the other implementation.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::format::BLOCK_BYTES;
use crate::sys::file::file_system_name;
use crate::sys::io::Fd;
use crate::sys::memory::StagingBuffer;

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

    /// The descriptor for the ring's writes, in whole blocks of 4096 bytes from aligned memory.
    fn fd(&self) -> Fd;
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

    /// Lets the ring's writes bypass the page cache, if the file system can do that with blocks of 4096 bytes. Probed by doing: one
    /// block is read. Returns whether it can.
    pub fn enable_direct(&mut self) -> bool {
        self.direct = self.probe_direct().ok();
        self.direct.is_some()
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

    pub(super) fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.file.metadata()
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

    fn fd(&self) -> Fd {
        Fd(self.direct.as_ref().unwrap_or(&self.file).as_raw_fd())
    }
}

/// Reads until `out` is full or the file ends. Returns the bytes read.
pub(super) fn read_full(file: &(impl LogFile + ?Sized), out: &mut [u8], offset: u64) -> io::Result<usize> {
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
