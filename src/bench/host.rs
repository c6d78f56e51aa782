//! What a figure depends on beside the program: host, kernel, revision.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
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
    /// Number of its build, and how it preempts.
    #[serde(default)]
    pub kernel_build: String,
    /// What it was started with.
    #[serde(default)]
    pub command_line: String,
    /// Weaknesses of the processor, counted by what is done about them.
    #[serde(default)]
    pub mitigations: String,
    /// The processor's name.
    pub processor: String,
    /// CPUs that the harness may use.
    pub cpus: usize,
    /// Whether cores are shared by two threads.
    #[serde(default)]
    pub smt: String,
    /// NUMA nodes.
    #[serde(default)]
    pub numa_nodes: usize,
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
    /// The disk under that: its name, scheduler and write cache.
    #[serde(default)]
    pub disk: String,
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
            kernel_build: line_of("/proc/sys/kernel/version"),
            command_line: line_of("/proc/cmdline"),
            mitigations: mitigations(Path::new("/sys/devices/system/cpu/vulnerabilities")),
            processor: field(&cpu_info, "model name").unwrap_or(UNKNOWN).to_owned(),
            cpus: allowed_cpus().len(),
            smt: line_of("/sys/devices/system/cpu/smt/control"),
            numa_nodes: numa_nodes(&line_of("/sys/devices/system/node/online")),
            is_virtual: field(&cpu_info, "flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            memory_bytes: memory_bytes(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            clock_source: line_of("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            governor: line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            huge_pages: transparent_huge_pages().unwrap_or_else(|| "none".to_owned()),
            file_system: file_system.unwrap_or_else(|_| UNKNOWN.to_owned()),
            disk: disk(data).unwrap_or_else(|| UNKNOWN.to_owned()),
        }
    }

    /// What it is, in a line.
    pub fn headline(&self) -> String {
        let Self { version, revision, kernel, processor, cpus, .. } = self;
        let machine = if self.is_virtual { "virtual" } else { "bare metal" };
        format!("eventstream {version} ({revision}) on Linux {kernel}, {processor}, {cpus} CPUs, {machine}")
    }

    /// The rows in which another host differs: what, here, there.
    pub fn differences(&self, other: &Host) -> Vec<(&'static str, String, String)> {
        let pairs = self.rows().into_iter().zip(other.rows());
        pairs.filter(|((_, here), (_, there))| here != there).map(|((name, here), (_, there))| (name, here, there)).collect()
    }

    /// What and how, in the order in which a report shows it.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let machine = if self.is_virtual { "virtual" } else { "bare metal, as far as the processor says" };
        vec![
            ("eventstream", format!("{} ({})", self.version, self.revision)),
            ("kernel", self.kernel.clone()),
            ("kernel's build", self.kernel_build.clone()),
            ("kernel's command line", self.command_line.clone()),
            ("mitigations", self.mitigations.clone()),
            ("processor", format!("{}, {} CPUs, {machine}", self.processor, self.cpus)),
            ("two threads a core", self.smt.clone()),
            ("NUMA nodes", self.numa_nodes.to_string()),
            ("memory", format!("{:.1} GiB", self.memory_bytes as f64 / f64::from(1 << 30))),
            ("clock source", self.clock_source.clone()),
            ("governor", self.governor.clone()),
            ("transparent huge pages", self.huge_pages.clone()),
            ("file system of the data", self.file_system.clone()),
            ("disk of the data", self.disk.clone()),
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

/// How many CPU weaknesses are mitigated and how many are open; the kernel has a file for each that it knows.
fn mitigations(folder: &Path) -> String {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let states: Vec<String> = files.filter_map(|file| fs::read_to_string(file.path()).ok()).collect();
    let count = |start: &str| states.iter().filter(|state| state.starts_with(start)).count();
    match states.len() {
        0 => UNKNOWN.to_owned(),
        all => {
            let (mitigated, open) = (count("Mitigation"), count("Vulnerable"));
            format!("{mitigated} mitigated, {open} open, {} do not concern this processor", all - mitigated - open)
        }
    }
}

/// Of `0`, `0-3` or `0,2-3`; 1 where the kernel has no NUMA.
fn numa_nodes(online: &str) -> usize {
    let in_range = |range: &str| -> Option<usize> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.trim().parse::<usize>().ok()? + 1 - first.trim().parse::<usize>().ok()?)
    };
    online.split(',').filter_map(in_range).sum::<usize>().max(1)
}

/// The disk under a folder, by the kernel's block layer; `None` where there is none, as under memory and networks.
fn disk(folder: &Path) -> Option<String> {
    let device = fs::metadata(folder).ok()?.dev();
    let own = fs::canonicalize(format!("/sys/dev/block/{}:{}", libc::major(device), libc::minor(device))).ok()?;
    // A partition is inside its disk, which has the queue.
    let disk = own.ancestors().take(2).find(|place| place.join("queue").is_dir())?;
    let read = |name: &str| fs::read_to_string(disk.join("queue").join(name)).unwrap_or_default().trim().to_owned();
    let scheduler = read("scheduler");
    let chosen = scheduler.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or(&*scheduler, |(name, _)| name);
    Some(format!("{}, scheduler {chosen}, {}", disk.file_name()?.to_string_lossy(), read("write_cache")))
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
    fn nodes_are_counted_in_ranges() {
        assert_eq!(["0", "0-3", "0,2-3", "unknown"].map(numa_nodes), [1, 4, 3, 1]);
    }

    #[test]
    fn weaknesses_are_counted_by_what_is_done_about_them() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, state) in
            [("a", "Not affected\n"), ("b", "Mitigation: x\n"), ("c", "Vulnerable: y\n"), ("d", "Mitigation: z\n")]
        {
            fs::write(folder.path().join(name), state).expect("a folder");
        }
        assert_eq!(mitigations(folder.path()), "2 mitigated, 1 open, 1 do not concern this processor");
        assert_eq!(mitigations(&folder.path().join("none")), UNKNOWN);
    }

    #[test]
    fn hosts_differ_by_rows() {
        let here = Host { kernel: "6.1".into(), cpus: 2, ..Host::default() };
        let there = Host { kernel: "6.18".into(), ..here.clone() };
        assert_eq!(here.differences(&there), [("kernel", "6.1".to_owned(), "6.18".to_owned())]);
    }

    #[test]
    fn this_host_has_a_kernel_cpus_and_a_file_system() {
        let host = Host::look(Path::new("/"));
        assert!(host.cpus > 0 && host.memory_bytes > 0 && host.kernel != UNKNOWN && host.file_system != UNKNOWN, "{host:?}");
    }
}
