//! File systems of one's own.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::{PATIENCE, skip};

/// `EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`: `_IOR('X', 125, __u32)`, the same for both.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Nothing more reaches the disk, not even the journal that is in memory: as if the power were cut.
const WITHOUT_FLUSH: u32 = 2;

/// The device that may be wiped and made to fail: a whole disk of a virtual machine.
const FLAKY_DEVICE: &str = "FLAKY_DEVICE";
/// The mapping's name.
const MAPPING: &str = "flaky";

/// Runs a tool to its end; what it said, if it failed.
pub fn tool(words: &[&str]) -> Result<String, String> {
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{}: {error}", words[0]))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() { Ok(text) } else { Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim())) }
}

/// Runs a tool that has to work, after the first step of its kind has shown that it may.
fn must(words: &[&str]) {
    tool(words).unwrap_or_else(|why| panic!("{why}"));
}

/// Skips loudly.
fn or_skip<T>(result: Result<T, String>) -> Option<T> {
    result.map_err(|why| skip(&why)).ok()
}

/// How its power is cut.
enum Cut {
    /// The file system is told to.
    Shutdown,
    /// The device below drops every write from then on, and says nothing.
    DroppedWrites { sectors: String },
}

/// A file system on a block device that can fail.
pub struct Disk {
    folder: tempfile::TempDir,
    /// What is mounted: an image, or a mapped device.
    device: PathBuf,
    cut: Cut,
}

impl Disk {
    /// A fresh `ext4` or `xfs` in a file; `None` where that can't be had.
    pub fn in_a_file(kind: &str, mebibytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        File::create(&image).and_then(|file| file.set_len(mebibytes << 20)).expect("a sparse file");
        std::fs::create_dir(folder.path().join("mounted")).expect("writable");
        let disk = Self { folder, device: image, cut: Cut::Shutdown };
        or_skip(disk.make(kind).and_then(|()| disk.mount(&["-o", "loop"])))?;
        Some(disk)
    }

    /// A fresh ext4 on the flaky device; `None` where there is none.
    pub fn on_the_flaky_device() -> Option<Self> {
        let Some(base) = std::env::var_os(FLAKY_DEVICE).map(PathBuf::from) else {
            skip(&format!("{FLAKY_DEVICE} names no disk that may be wiped (make test-vm has one)"));
            return None;
        };
        let sectors = or_skip(tool(&["blockdev", "--getsz", &base.display().to_string()]))?;
        let table = format!("0 {sectors} linear {} 0", base.display());
        or_skip(tool(&["dmsetup", "create", MAPPING, "--noudevsync", "--table", &table]))?;
        must(&["dmsetup", "mknodes"]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("mounted")).expect("writable");
        let device = Path::new("/dev/mapper").join(MAPPING);
        let disk = Self { folder, device, cut: Cut::DroppedWrites { sectors } };
        disk.make("ext4").and_then(|()| disk.mount(&[])).unwrap_or_else(|why| panic!("{why}"));
        Some(disk)
    }

    fn make(&self, kind: &str) -> Result<(), String> {
        tool(&[&format!("mkfs.{kind}"), "-q", &self.device.display().to_string()]).map(drop)
    }

    fn mount(&self, options: &[&str]) -> Result<(), String> {
        let (device, folder) = (self.device.display().to_string(), self.path().display().to_string());
        tool(&[&["mount"], options, &[&device, &folder]].concat()).map(drop)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Cuts its power: what is in memory only is gone, whatever anybody does from now on.
    pub fn cut_power(&self) {
        match &self.cut {
            Cut::Shutdown => {
                let (root, how) = (File::open(self.path()).expect("mounted"), WITHOUT_FLUSH);
                // SAFETY: the call reads one number, which outlives it; the descriptor is open.
                let status = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &raw const how) };
                assert_eq!(status, 0, "the shutdown call: {}", std::io::Error::last_os_error());
            }
            Cut::DroppedWrites { .. } => self.flaky("drop_writes"),
        }
    }

    /// From now on the device refuses every write (EIO); only for the flaky one.
    pub fn refuse_writes(&self) {
        self.flaky("error_writes");
    }

    /// The device is always in its bad phase (0 seconds up, an hour down).
    fn flaky(&self, feature: &str) {
        let Cut::DroppedWrites { sectors } = &self.cut else { panic!("only a mapped device can do that") };
        self.map(&format!("0 {sectors} flakey {} 0 0 3600 1 {feature}", base()));
    }

    /// Another table, at once: nothing is flushed on the way, neither by the file system nor by the mapping.
    fn map(&self, table: &str) {
        must(&["dmsetup", "load", MAPPING, "--table", table]);
        must(&["dmsetup", "suspend", "--nolockfs", "--noflush", MAPPING]);
        must(&["dmsetup", "resume", "--noudevsync", MAPPING]);
    }

    /// Power is back: mounted again, its journal replayed. Nobody may have a file open on it.
    pub fn power_on(&self) {
        self.unmount();
        match &self.cut {
            Cut::Shutdown => self.mount(&["-o", "loop"]),
            Cut::DroppedWrites { sectors } => {
                self.map(&format!("0 {sectors} linear {} 0", base()));
                self.mount(&[])
            }
        }
        .unwrap_or_else(|why| panic!("{why}"));
    }

    /// Unmounts it, as soon as the kernel lets go of a killed engine's files: a dying ring holds them for some ten milliseconds more.
    fn unmount(&self) {
        let give_up = Instant::now() + PATIENCE;
        while let Err(why) = tool(&["umount", &self.path().display().to_string()]) {
            assert!(Instant::now() < give_up, "{why}");
            std::thread::sleep(Duration::from_millis(10)); // between two attempts
        }
    }

    /// Nothing can be written to it from now on, or again.
    pub fn read_only(&self, is_so: bool) {
        let mode = if is_so { "remount,ro" } else { "remount,rw" };
        must(&["mount", "-o", mode, &self.path().display().to_string()]);
    }
}

fn base() -> String {
    std::env::var(FLAKY_DEVICE).expect("looked up before")
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a failing test may still have an engine in there.
        let _ = tool(&["umount", "-l", &self.path().display().to_string()]);
        if matches!(self.cut, Cut::DroppedWrites { .. }) {
            let _ = tool(&["dmsetup", "remove", "--noudevsync", "--force", "--retry", MAPPING]);
        }
    }
}
