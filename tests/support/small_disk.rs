//! A file system of a few MiB, to be filled up. Takes root's rights to mount.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of a few MiB in a temporary folder.
pub struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where mounting is not permitted.
    pub fn mount(mebibytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(folder.path());
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then_some(Self { folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// See [`fill_but`].
    pub fn fill_but(&self, bytes_left: u64) -> PathBuf {
        fill_but(self.path(), bytes_left)
    }
}

/// Takes all but this much of what is free on a file system; remove the file it returns to give it back.
pub fn fill_but(mounted: &Path, bytes_left: u64) -> PathBuf {
    let path = mounted.join("ballast");
    let mut file = std::fs::File::create(&path).expect("writable");
    while file.write_all(&[7; 4096]).is_ok() {}
    let full = file.metadata().expect("open").len();
    file.set_len(full.saturating_sub(bytes_left)).expect("shrinks");
    // With delayed allocation blocks that were promised are not yet taken.
    file.sync_all().expect("there is space for what was written");
    path
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failing test may still have an engine in there.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
