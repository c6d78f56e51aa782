//! The data folder: one engine at a time, logs by node, refusals that a person can act on.
//!
//! A refused folder is left as it was: what can be seen without writing is looked at before the lock file is made.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::format::{BATCH_MAGIC, FIRST_BATCH_OFFSET, FORMAT_VERSION, SEGMENT_MAGIC};
use super::keeper::SegmentOptions;
use super::log_file::DiskFolder;
use super::names::SegmentName;
use super::open::{LogIdentity, OpenLog};
use super::repair::{Mended, accept_loss, repair};
use super::segments::{LogFault, SegmentFault};
use super::walk::Damage;
use crate::sys::file::{FileLock, LockAttempt, try_lock};

/// The file whose lock says that the folder is in use.
pub const LOCK_FILE_NAME: &str = "eventstream.lock";

/// Why a data folder, or a file in it, can't be used. Displays as three lines: error, cause, fix.
#[derive(Debug)]
pub enum OpenRefusal {
    /// Another process uses the folder.
    InUse {
        /// The folder.
        path: PathBuf,
        /// Its pid; 0 in another pid namespace.
        pid: i32,
    },
    /// This process uses the folder already.
    InUseHere {
        /// The folder.
        path: PathBuf,
    },
    /// The folder's path is something else.
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// The file's path is a folder, a device, a pipe, …
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file's path is a symbolic link.
    Symlink {
        /// The path.
        path: PathBuf,
    },
    /// The file is not one of this engine.
    Foreign {
        /// The path.
        path: PathBuf,
    },
    /// The file has another version of the format.
    Version {
        /// The path.
        path: PathBuf,
        /// The version found.
        found: u16,
    },
    /// The file is the log of another node.
    OtherNode {
        /// The path.
        path: PathBuf,
        /// The node whose log it is.
        found: u32,
    },
    /// The file system is read-only.
    ReadOnly {
        /// What was to be written.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// No space, no quota, or beyond the file size limit.
    NoSpace {
        /// What was to be written.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Any other refusal of a call.
    Io {
        /// What was to be done: "open", "sync", …
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// Durable data is gone.
    Damaged {
        /// The path.
        path: PathBuf,
        /// Where, and what.
        damage: Damage,
    },
}

impl OpenRefusal {
    /// Whether it is about damaged data (which has an exit code of its own).
    pub fn is_damage(&self) -> bool {
        matches!(self, OpenRefusal::Damaged { .. })
    }

    pub(super) fn of_io(doing: &'static str, path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.raw_os_error() {
            Some(libc::ELOOP) => OpenRefusal::Symlink { path },
            Some(libc::EROFS) => OpenRefusal::ReadOnly { path, error },
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => OpenRefusal::NoSpace { path, error },
            Some(libc::EISDIR | libc::ENXIO) => OpenRefusal::NotAFile { path },
            _ => OpenRefusal::Io { doing, path, error },
        }
    }

    pub(super) fn of_fault(folder: &Path, SegmentFault { name, fault }: SegmentFault) -> Self {
        let path = folder.join(name);
        match fault {
            LogFault::Io { doing, error } => Self::of_io(doing, &path, error),
            LogFault::Foreign => OpenRefusal::Foreign { path },
            LogFault::Version { found } => OpenRefusal::Version { path, found },
            LogFault::OtherNode { found } => OpenRefusal::OtherNode { path, found },
            LogFault::Damaged(damage) => OpenRefusal::Damaged { path, damage },
        }
    }

    /// What, why and what to do, each one line.
    pub fn lines(&self) -> [String; 3] {
        match self {
            OpenRefusal::InUse { path, pid: 0 } => [
                format!("data folder {} is in use", path.display()),
                format!("a process of another pid namespace (a container?) holds the lock on {LOCK_FILE_NAME}"),
                "stop that engine, or give this one a folder of its own with --data-dir".into(),
            ],
            OpenRefusal::InUse { path, pid } => [
                format!("data folder {} is in use by pid {pid}", path.display()),
                format!("another engine holds the lock on {LOCK_FILE_NAME}"),
                format!("stop it (kill {pid}), or give this one a folder of its own with --data-dir"),
            ],
            OpenRefusal::InUseHere { path } => [
                format!("data folder {} is in use by this process", path.display()),
                "another engine in this process was started on the same folder".into(),
                "stop that engine first, or give this one a folder of its own".into(),
            ],
            OpenRefusal::NotAFolder { path } => [
                format!("{} is not a folder", path.display()),
                "the data folder's path names a file".into(),
                "name a folder with --data-dir; it is made if it is not there".into(),
            ],
            OpenRefusal::NotAFile { path } => [
                format!("{} is not a regular file", path.display()),
                "a folder, device or pipe is in its place".into(),
                "move it away, or choose another folder with --data-dir".into(),
            ],
            OpenRefusal::Symlink { path } => [
                format!("{} is a symbolic link", path.display()),
                "the engine follows no links to the files that it writes".into(),
                "put the file itself there, or point --data-dir at the real folder".into(),
            ],
            OpenRefusal::Foreign { path } => [
                format!("{} is not a log of this engine", path.display()),
                "its first bytes are not those of an event log".into(),
                "move the file away, or choose another folder with --data-dir".into(),
            ],
            OpenRefusal::Version { path, found } => [
                format!("{} has format version {found}", path.display()),
                format!("this build reads and writes version {FORMAT_VERSION}"),
                "use the build that wrote it, or start with an empty folder".into(),
            ],
            OpenRefusal::OtherNode { path, found } => [
                format!("{} is the log of node {found}", path.display()),
                "the file was renamed, or copied from another place".into(),
                "give it its own name back, or move it away".into(),
            ],
            OpenRefusal::ReadOnly { path, error } => [
                format!("{} can't be written", path.display()),
                error.to_string(),
                "mount the file system read-write, or choose another folder with --data-dir".into(),
            ],
            OpenRefusal::NoSpace { path, error } => [
                format!("no space for {}", path.display()),
                error.to_string(),
                "free some space (or raise the quota or file size limit), or choose another folder with --data-dir".into(),
            ],
            OpenRefusal::Io { doing, path, error } => [
                format!("can't {doing} {}", path.display()),
                error.to_string(),
                "check the owner and the permissions of the data folder, and the system log for disk errors".into(),
            ],
            OpenRefusal::Damaged { path, damage } => [
                format!("{} is damaged; it was not changed", path.display()),
                damage.to_string(),
                "look at it with `eventstream log verify`; restore it, or go on without what is lost: --accept-data-loss".into(),
            ],
        }
    }
}

impl std::fmt::Display for OpenRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [error, cause, fix] = self.lines();
        write!(f, "error: {error}\ncause: {cause}\nfix: {fix}")
    }
}

impl std::error::Error for OpenRefusal {}

/// Folders that this process has open, by device and inode. POSIX locks don't refuse their own process, and opening the lock file a
/// second time would end the first lock when that descriptor is closed.
static OPEN_HERE: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

/// One entry of [`OPEN_HERE`].
#[derive(Debug)]
struct Registration((u64, u64));

impl Registration {
    fn new(folder: (u64, u64)) -> Option<Self> {
        let mut open = OPEN_HERE.lock().expect("nobody panics with this lock held");
        if open.contains(&folder) {
            return None;
        }
        open.push(folder);
        Some(Self(folder))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        OPEN_HERE.lock().expect("nobody panics with this lock held").retain(|folder| *folder != self.0);
    }
}

/// A data folder in this engine's hands.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    // Drop order: the lock ends before another engine of this process may try.
    _lock: FileLock,
    _registration: Registration,
}

impl DataFolder {
    /// Takes the folder, makes it if it is not there. Looks at the logs of nodes `0..nodes` first, so that nothing is changed in a
    /// folder that is refused for them.
    ///
    /// # Errors
    /// See [`OpenRefusal`].
    pub fn open(path: &Path, nodes: u32) -> Result<Self, OpenRefusal> {
        let facts = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(path).map_err(|error| OpenRefusal::of_io("make the folder", path, error))?;
                fs::metadata(path)
            }
            facts => facts,
        };
        let facts = facts.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOTDIR) => OpenRefusal::NotAFolder { path: path.to_owned() },
            _ => OpenRefusal::of_io("look at", path, error),
        })?;
        if !facts.is_dir() {
            return Err(OpenRefusal::NotAFolder { path: path.to_owned() });
        }
        for node in 0..nodes {
            inspect(&path.join(SegmentName::Active(node).to_string()))?;
        }
        let registration =
            Registration::new((facts.dev(), facts.ino())).ok_or_else(|| OpenRefusal::InUseHere { path: path.to_owned() })?;
        let lock = lock_folder(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock, _registration: registration })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens (or makes) the log of a node: recovered, its epoch begun.
    ///
    /// # Errors
    /// See [`OpenRefusal`].
    pub fn open_log(&self, identity: LogIdentity, options: SegmentOptions) -> Result<OpenLog<DiskFolder>, OpenRefusal> {
        OpenLog::open(DiskFolder::new(&self.path), identity, options).map_err(|fault| OpenRefusal::of_fault(&self.path, fault))
    }

    /// Mends whatever keeps the log of a node from being opened; with `all`, whatever else of it is damaged too. See [`super::repair`].
    ///
    /// # Errors
    /// See [`OpenRefusal`].
    pub fn mend_log(&self, identity: LogIdentity, all: bool) -> Result<Vec<Mended>, OpenRefusal> {
        let folder = DiskFolder::new(&self.path);
        let mended = if all { repair(&folder, &identity) } else { accept_loss(&folder, &identity) };
        mended.map_err(|fault| OpenRefusal::of_fault(&self.path, fault))
    }
}

/// Refuses what is certainly no log, without changing anything.
fn inspect(path: &Path) -> Result<(), OpenRefusal> {
    let kind = match fs::symlink_metadata(path) {
        Ok(facts) => facts.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(OpenRefusal::of_io("look at", path, error)),
    };
    if kind.is_symlink() {
        return Err(OpenRefusal::Symlink { path: path.to_owned() });
    }
    if !kind.is_file() {
        return Err(OpenRefusal::NotAFile { path: path.to_owned() });
    }
    let refused = |error| OpenRefusal::of_io("read", path, error);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(refused)?;
    let mut first = [0; SEGMENT_MAGIC.len()];
    let read = file.read_at(&mut first, 0).map_err(refused)?;
    let mut batch = [0; BATCH_MAGIC.len()];
    file.read_at(&mut batch, FIRST_BATCH_OFFSET).map_err(refused)?;
    let may_be_a_log = first[..read] == SEGMENT_MAGIC[..read] || first == [0; 8] || batch == BATCH_MAGIC;
    if may_be_a_log { Ok(()) } else { Err(OpenRefusal::Foreign { path: path.to_owned() }) }
}

fn lock_folder(folder: &Path) -> Result<FileLock, OpenRefusal> {
    let path = folder.join(LOCK_FILE_NAME);
    let refused = |doing| {
        let path = path.clone();
        move |error| OpenRefusal::of_io(doing, &path, error)
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path)
        .map_err(refused("open"))?;
    match try_lock(file).map_err(refused("lock"))? {
        LockAttempt::Locked(lock) => Ok(lock),
        LockAttempt::HeldBy { pid } => Err(OpenRefusal::InUse { path: folder.to_owned(), pid }),
    }
}
