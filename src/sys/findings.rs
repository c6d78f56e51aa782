//! What the host gives and what it doesn't, as rows that `doctor` prints and a start reports once; and the host's limits.
//!
//! Nothing here changes anything. A row of severity [`Severity::Error`] is one that the engine can't start with.

use std::fmt;
use std::fs;
use std::path::Path;

use super::memory;
use super::process;

/// The oldest kernel that the engine is tested on.
pub const KERNEL_FLOOR: (u32, u32) = (6, 1);
/// The oldest kernel that has everything that matters (waits with a minimum).
pub const KERNEL_RECOMMENDED: (u32, u32) = (6, 12);

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As required.
    Ok,
    /// Not there, and little is lost.
    Info,
    /// Works, but slower or with less room than asked for.
    Warning,
    /// The engine can't start like this.
    Error,
}

impl Severity {
    /// The word in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

/// One row: what, required, found, severity, fix.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The feature or limit.
    pub what: &'static str,
    /// What the engine wants.
    pub required: String,
    /// What there is.
    pub found: String,
    /// How much the difference matters.
    pub severity: Severity,
    /// The command or setting that changes it; empty where nothing needs fixing.
    pub fix: String,
}

impl Finding {
    /// A row without a problem.
    pub fn ok(what: &'static str, required: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what, required: required.into(), found: found.into(), severity: Severity::Ok, fix: String::new() }
    }

    /// A row with one.
    pub fn problem(
        severity: Severity,
        what: &'static str,
        required: impl Into<String>,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { what, required: required.into(), found: found.into(), severity, fix: fix.into() }
    }

    /// A row that is [`Severity::Ok`] if `enough`, else of `severity` with `fix`.
    fn judged(
        enough: bool,
        severity: Severity,
        what: &'static str,
        required: impl Into<String>,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        if enough { Self::ok(what, required, found) } else { Self::problem(severity, what, required, found, fix) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: wanted {}, found {}", self.severity.name(), self.what, self.required, self.found)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; fix: {}", self.fix) }
    }
}

/// What the configuration needs of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostNeeds {
    /// `--max-connections`.
    pub max_connections: u64,
    /// Descriptors beside connections: rings, files, listeners, helpers.
    pub reserve_descriptors: u64,
    /// The whole memory budget, bytes.
    pub memory_bytes: u64,
    /// Memory to be registered with rings (staging buffers), bytes.
    pub locked_bytes: u64,
    /// Receive buffer wanted per datagram socket, bytes.
    pub receive_buffer_bytes: u64,
}

/// Compares the host's limits with what is needed, one row each. Reads only.
pub fn host_findings(needs: &HostNeeds) -> Vec<Finding> {
    vec![
        kernel_finding(&process::kernel_release()),
        descriptors_finding(needs),
        locked_memory_finding(needs.locked_bytes),
        memory_finding(needs.memory_bytes),
        receive_buffer_finding(needs.receive_buffer_bytes),
        backlog_finding(),
        transparent_huge_pages_finding(),
        governor_finding(),
        autogroup_finding(),
        memory_monitor_finding(Path::new("/sys/kernel/mm/damon/admin/kdamonds")),
    ]
}

/// Major and minor of a release like `6.12.3-arch1`.
pub(super) fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn kernel_finding(release: &str) -> Finding {
    let required =
        format!("{}.{} (recommended {}.{})", KERNEL_FLOOR.0, KERNEL_FLOOR.1, KERNEL_RECOMMENDED.0, KERNEL_RECOMMENDED.1);
    match parse_release(release) {
        Some(version) if version >= KERNEL_RECOMMENDED => Finding::ok("kernel", required, release),
        Some(version) if version >= KERNEL_FLOOR => {
            Finding::problem(Severity::Info, "kernel", required, release, "a newer kernel; what this one lacks is done without")
        }
        _ => Finding::problem(Severity::Warning, "kernel", required, release, "a kernel from 6.1 on; older ones are not tested"),
    }
}

fn descriptors_finding(needs: &HostNeeds) -> Finding {
    let (soft, hard) = process::descriptor_limits();
    let wanted = needs.max_connections + needs.reserve_descriptors;
    let fix = format!("LimitNOFILE={wanted} in the unit file, or `ulimit -n {wanted}`, or a lower --max-connections");
    let found = format!("{soft} (hard limit {hard})");
    Finding::judged(soft >= wanted, Severity::Warning, "open files", wanted.to_string(), found, fix)
}

fn locked_memory_finding(wanted: u64) -> Finding {
    let found = match process::locked_memory_limit() {
        None => return Finding::ok("locked memory", format!("{} KiB", wanted >> 10), "unlimited"),
        Some(bytes) => bytes,
    };
    let fix = "LimitMEMLOCK=infinity in the unit file, or `ulimit -l unlimited`; until then writes use unregistered buffers";
    let (required, text) = (format!("{} KiB", wanted >> 10), format!("{} KiB", found >> 10));
    Finding::judged(found >= wanted, Severity::Info, "locked memory", required, text, fix)
}

fn memory_finding(wanted: u64) -> Finding {
    let required = format!("{} MiB", wanted >> 20);
    match memory::available_memory_bytes() {
        None => Finding::problem(Severity::Info, "memory", required, "unknown", "mount /proc"),
        Some(found) => {
            let fix = "smaller --pool-* flags, or more memory (MemoryMax of the unit, limit of the container)";
            Finding::judged(found >= wanted, Severity::Error, "memory", required, format!("{} MiB available", found >> 20), fix)
        }
    }
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
}

fn receive_buffer_finding(wanted: u64) -> Finding {
    let what = "udp receive buffer";
    let required = format!("{} KiB", wanted >> 10);
    // CAP_NET_ADMIN sets any size (SO_RCVBUFFORCE), whatever the limit says.
    if process::has_capability(process::CAP_NET_ADMIN) {
        return Finding::ok(what, required, "any size (CAP_NET_ADMIN)");
    }
    match read_number("/proc/sys/net/core/rmem_max") {
        None => Finding::problem(Severity::Info, what, required, "unknown", "mount /proc"),
        Some(found) => {
            let fix = format!("sysctl -w net.core.rmem_max={wanted}");
            Finding::judged(found >= wanted, Severity::Warning, what, required, format!("{} KiB at most", found >> 10), fix)
        }
    }
}

fn backlog_finding() -> Finding {
    let wanted = super::socket::BACKLOG_CONNECTIONS as u64;
    match read_number("/proc/sys/net/core/somaxconn") {
        None => Finding::problem(Severity::Info, "listen backlog", wanted.to_string(), "unknown", "mount /proc"),
        Some(found) => {
            let fix = format!("sysctl -w net.core.somaxconn={wanted}");
            Finding::judged(found >= wanted, Severity::Info, "listen backlog", wanted.to_string(), found.to_string(), fix)
        }
    }
}

fn transparent_huge_pages_finding() -> Finding {
    let what = "transparent huge pages";
    match memory::transparent_huge_pages() {
        Some(mode) if mode != "never" => Finding::ok(what, "madvise or always", mode),
        mode => {
            let fix = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
            Finding::problem(Severity::Info, what, "madvise or always", mode.unwrap_or_else(|| "not in this kernel".into()), fix)
        }
    }
}

fn governor_finding() -> Finding {
    let what = "cpu frequency governor";
    match fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") {
        // Virtual machines and fixed-frequency hosts have none.
        Err(_) => Finding::ok(what, "performance", "none"),
        Ok(text) => {
            let governor = text.trim();
            let fix = "cpupower frequency-set -g performance";
            Finding::judged(governor == "performance", Severity::Info, what, "performance", governor, fix)
        }
    }
}

/// The kernel's workers complete direct writes. On 6.18 one of them, woken and runnable, got no CPU for seconds beside a busy thread of a process in
/// an autogroup (kernel-notes, *Writing*).
fn autogroup_finding() -> Finding {
    let what = "scheduler autogroups";
    match read_number("/proc/sys/kernel/sched_autogroup_enabled") {
        None => Finding::ok(what, "off", "not in this kernel"),
        Some(value) => {
            let fix = "sysctl -w kernel.sched_autogroup_enabled=0, so that no write waits for a worker that busy cores starve";
            Finding::judged(value == 0, Severity::Info, what, "off", if value == 0 { "off" } else { "on" }, fix)
        }
    }
}

/// The kernel's data access monitor (DAMON, since 5.15) looks at all memory from a thread that it does not leave for up to 8 ms here, 0.9 % of a
/// core in all: as much as a p99 has room for (kernel-notes, *Waking*).
fn memory_monitor_finding(kdamonds: &Path) -> Finding {
    let (what, required) = ("memory access monitor", "off, or away from the engine's cores");
    let is_on = |entry: &fs::DirEntry| fs::read_to_string(entry.path().join("state")).is_ok_and(|state| state.trim() == "on");
    match fs::read_dir(kdamonds).into_iter().flatten().flatten().filter(is_on).count() {
        0 => Finding::ok(what, required, "off"),
        on => {
            let fix = "taskset -pc OTHER_CORES PID for each kdamond thread, so that it takes no time of the engine's cores";
            Finding::problem(Severity::Info, what, required, format!("{on} on"), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_monitor_that_is_on_is_told_with_its_fix() {
        let kdamonds = tempfile::tempdir().unwrap();
        let judged = || memory_monitor_finding(kdamonds.path());
        assert_eq!(judged().severity, Severity::Ok, "an empty folder");
        for (name, state) in [("0", "off\n"), ("1", "on\n")] {
            std::fs::create_dir(kdamonds.path().join(name)).unwrap();
            std::fs::write(kdamonds.path().join(name).join("state"), state).unwrap();
        }
        assert_eq!((judged().severity, judged().found.as_str()), (Severity::Info, "1 on"));
        assert!(judged().fix.contains("taskset"));
        assert_eq!(memory_monitor_finding(&kdamonds.path().join("none")).severity, Severity::Ok, "a kernel without it");
    }

    #[test]
    fn a_kernel_is_judged_against_floor_and_recommendation() {
        assert_eq!(kernel_finding("5.15.0-97-generic").severity, Severity::Warning);
        assert_eq!(kernel_finding("6.1.0-18-amd64").severity, Severity::Info);
        assert_eq!(kernel_finding("6.12").severity, Severity::Ok);
        assert_eq!(kernel_finding("7.0-rc1").severity, Severity::Ok);
        assert_eq!(kernel_finding("plan9").severity, Severity::Warning);
    }

    #[test]
    fn every_limit_is_judged_and_every_problem_has_a_fix() {
        let modest = HostNeeds {
            max_connections: 1,
            reserve_descriptors: 8,
            memory_bytes: 1 << 20,
            locked_bytes: 0,
            receive_buffer_bytes: 4096,
        };
        let absurd = HostNeeds {
            max_connections: 1 << 40,
            reserve_descriptors: 8,
            memory_bytes: 1 << 60,
            locked_bytes: 1 << 62,
            receive_buffer_bytes: 1 << 40,
        };
        let rows = host_findings(&modest);
        assert!(rows.iter().all(|row| row.severity < Severity::Error), "{rows:?}");
        let rows = host_findings(&absurd);
        assert!(rows.iter().any(|row| row.what == "memory" && row.severity == Severity::Error));
        assert!(rows.iter().any(|row| row.what == "open files" && row.severity == Severity::Warning));
        assert!(rows.iter().all(|row| row.severity == Severity::Ok || !row.fix.is_empty()));
    }
}
