//! File calls that the standard library does not wrap: the POSIX lock with its holder's pid, allocation, what the file system is, files
//! in memory.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// How an attempt to lock a file ended.
#[derive(Debug)]
pub enum LockAttempt {
    /// Locked; the lock lives as long as the file is open in this process.
    Locked(FileLock),
    /// Another process has it.
    HeldBy {
        /// Its pid; 0 where it lives in another pid namespace.
        pid: i32,
    },
}

/// An exclusive lock on a file of another purpose than data.
///
/// POSIX record locks belong to the process and end with it at once, also after kill -9; flock and open-file-description locks were
/// still held some 11 ms later, while the dying ring kept the file. The price: closing *any* descriptor of the file ends the lock, and
/// a process never refuses itself. So the file is opened once per process; the data folder sees to that.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    // SAFETY: flock is plain numbers, for which zero is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

/// Tries to lock the whole file exclusively, without waiting.
///
/// # Errors
/// Whatever fcntl says, but for a lock held by somebody else.
pub fn try_lock(file: File) -> io::Result<LockAttempt> {
    let wanted = whole_file(libc::F_WRLCK);
    // SAFETY: `wanted` is a valid flock that outlives the call; the descriptor is open.
    let status = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const wanted) };
    if status == 0 {
        return Ok(LockAttempt::Locked(FileLock { _file: file }));
    }
    let error = io::Error::last_os_error();
    if !matches!(error.raw_os_error(), Some(libc::EACCES | libc::EAGAIN)) {
        return Err(error);
    }
    let mut holder = whole_file(libc::F_WRLCK);
    // SAFETY: as above; the kernel writes the holder into `holder`.
    let status = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut holder) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // Given up between the two calls: F_UNLCK, and the pid means nothing. Held a moment ago is held.
    let pid = if holder.l_type == libc::F_UNLCK as libc::c_short { 0 } else { holder.l_pid };
    Ok(LockAttempt::HeldBy { pid })
}

/// Marks an open file as one that somebody may write to through a ring (`flock`, shared): the kernel keeps the mark until the last operation on the
/// open file has ended, some 11 ms after its process was killed. Best effort: not every file system has such locks.
pub fn mark_as_written(file: &File) {
    // SAFETY: no pointers; the descriptor is open.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_SH | libc::LOCK_NB) };
}

/// Whether nobody has the file open with such a mark.
///
/// # Errors
/// Whatever flock says.
pub fn is_unmarked(file: &File) -> io::Result<bool> {
    // SAFETY: no pointers; the descriptor is open.
    let status = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    match io::Error::last_os_error() {
        _ if status == 0 => Ok(true),
        error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        error => Err(error),
    }
}

/// The name of the file system that a file is on, as mount shows it; its magic number in hex where it has no well-known one.
///
/// # Errors
/// Whatever fstatfs says.
pub fn file_system_name(file: &File) -> io::Result<String> {
    let facts = file_system(file)?;
    // Magic numbers from linux/magic.h and statfs(2).
    let name = match facts.f_type as u64 & 0xffff_ffff {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        other => return Ok(format!("{other:#x}")),
    };
    Ok(name.to_owned())
}

/// A file in memory with these bytes, to be read from its start; it goes when its last descriptor is closed.
///
/// # Errors
/// Whatever memfd_create or writing says.
pub fn memory_file(bytes: &[u8]) -> io::Result<File> {
    // SAFETY: the name is a C string that outlives the call.
    let descriptor = unsafe { libc::memfd_create(c"eventstream".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and nobody else's.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Bytes of the file system that a process without privileges may still use.
///
/// # Errors
/// Whatever fstatfs says.
pub fn free_bytes(file: &File) -> io::Result<u64> {
    let facts = file_system(file)?;
    Ok(facts.f_bavail.saturating_mul(u64::try_from(facts.f_bsize).unwrap_or(0)))
}

/// Reserves the blocks of the first `bytes` of a file (`fallocate`, mode 0: its length is at least that then).
///
/// # Errors
/// Whatever fallocate says; `EOPNOTSUPP` where the file system can't.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))?;
    // SAFETY: no pointers; the descriptor is open.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn file_system(file: &File) -> io::Result<libc::statfs> {
    // SAFETY: statfs is plain numbers, for which zero is a value.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `facts` is a valid, exclusively borrowed statfs; the descriptor is open.
    let status = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut facts) };
    if status == 0 { Ok(facts) } else { Err(io::Error::last_os_error()) }
}
