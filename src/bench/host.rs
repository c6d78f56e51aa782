//! What a figure depends on beside the program: host, kernel, revision.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::sys::clock::{Clock, HostClock};
use crate::sys::file::file_system_name;
use crate::sys::memory::transparent_huge_pages;
use crate::sys::process::{allowed_cpus, kernel_release};

const UNKNOWN: &str = "unknown";

/// Where and of what a run was made. `unknown` where the host does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The engine's version.
    pub version: String,
    /// `git describe --always --dirty` of the folder that the binary is in.
    pub revision: String,
    /// Seconds since 1970, at the start.
    pub at: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// CPUs that the harness may use.
    pub cpus: usize,
    /// Whether a hypervisor is underneath.
    pub is_virtual: bool,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The kernel's source of time.
    pub clock_source: String,
    /// What sets the clock rate.
    pub governor: String,
    /// Transparent huge pages.
    pub huge_pages: String,
    /// The file system under the data.
    pub file_system: String,
}

impl Host {
    /// Looks; `data` is a folder that is there.
    pub fn look(data: &Path) -> Self {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let file_system = File::open(data).and_then(|folder| file_system_name(&folder));
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: revision(),
            at: HostClock.wall().0 / 1_000_000_000,
            kernel: kernel_release(),
            processor: field(&cpu_info, "model name").unwrap_or(UNKNOWN).to_owned(),
            cpus: allowed_cpus().len(),
            is_virtual: field(&cpu_info, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_bytes: memory_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            clock_source: line_of("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            governor: line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            huge_pages: transparent_huge_pages().unwrap_or_else(|| "none".to_owned()),
            file_system: file_system.unwrap_or_else(|_| UNKNOWN.to_owned()),
        }
    }

    /// What and how, in the order in which a report shows it.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let machine = if self.is_virtual { "virtual" } else { "bare metal, as far as the processor says" };
        vec![
            ("eventstream", format!("{} ({})", self.version, self.revision)),
            ("kernel", self.kernel.clone()),
            ("processor", format!("{}, {} CPUs, {machine}", self.processor, self.cpus)),
            ("memory", format!("{:.1} GiB", self.memory_bytes as f64 / f64::from(1 << 30))),
            ("clock source", self.clock_source.clone()),
            ("governor", self.governor.clone()),
            ("transparent huge pages", self.huge_pages.clone()),
            ("file system of the data", self.file_system.clone()),
        ]
    }
}

/// The first value of a key in the form of `/proc/cpuinfo`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
}

fn memory_bytes(meminfo: &str) -> u64 {
    field(meminfo, "MemTotal").and_then(|value| value.strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) << 10
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| UNKNOWN.to_owned(), |text| text.trim().to_owned())
}

fn revision() -> String {
    let described = std::env::current_exe().ok().and_then(|binary| {
        let folder = binary.parent()?.to_owned();
        let output = Command::new("git").arg("-C").arg(folder).args(["describe", "--always", "--dirty"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    });
    described.unwrap_or_else(|| UNKNOWN.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu hypervisor\nmodel\t\t: 1\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(text, "model"), Some("1"));
        assert_eq!(memory_bytes("MemTotal:       2048 kB\n"), 2 << 20);
    }

    #[test]
    fn this_host_has_a_kernel_cpus_and_a_file_system() {
        let host = Host::look(Path::new("/"));
        assert!(host.cpus > 0 && host.memory_bytes > 0 && host.kernel != UNKNOWN && host.file_system != UNKNOWN, "{host:?}");
    }
}
