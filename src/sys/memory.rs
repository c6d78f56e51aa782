//! Memory that the kernel sees: arenas and aligned staging buffers; and how much there is left of it.
//!
//! ```text
//! reserve:  check the budget → map (huge pages reserved, or transparent) → bind to the node → not inherited by forks → touch all of it
//! ```
//!
//! Invariants:
//! - **M1** An arena is bound before its first page is touched; a page goes where the policy was when it was first written.
//! - **M2** After [`Arena::reserve`] with `prefault` every page exists: later stores can't meet a lack of memory.
//!
//! What it does not do: hand memory out (that is `pool/`), or lock it (`LimitMEMLOCK` is small by default).

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Advice, MmapOptions};

use super::findings::{Finding, Severity};
use super::topology::Topology;

/// The huge page that arenas use: 2 MiB.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Whether arenas use huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Reserved ones if there are enough, else transparent ones if the host has them.
    #[default]
    Auto,
    /// None.
    Off,
    /// Reserved ones, or no start.
    Required,
}

/// How to reserve an arena.
#[derive(Clone, Copy, Debug)]
pub struct ArenaOptions<'a> {
    /// Bytes wanted; huge pages round up to whole ones.
    pub bytes: usize,
    /// Huge pages.
    pub huge_pages: HugePages,
    /// The topology and the memory node (operating system's number) to bind to; `None` leaves it to the kernel.
    pub node: Option<(&'a Topology, u32)>,
    /// Touch all of it now (M2). False only where the caller measures first touches.
    pub prefault: bool,
}

/// Why an arena could not be reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArenaRefusal {
    /// More than the host or its control group has left.
    OverBudget {
        /// Bytes wanted.
        wanted: u64,
        /// Bytes available.
        available: u64,
    },
    /// `--huge-pages required`, and there are not enough.
    NoHugePages {
        /// Bytes wanted.
        wanted: u64,
    },
    /// The kernel refused the mapping or the pages behind it.
    Refused {
        /// Bytes wanted.
        wanted: u64,
        /// What it said.
        errno: i32,
    },
}

impl fmt::Display for ArenaRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArenaRefusal::OverBudget { wanted, available } => {
                writeln!(f, "error: the memory budget does not fit this host")?;
                writeln!(f, "cause: {wanted} bytes wanted, {available} available to this process")?;
                write!(f, "fix:   smaller --pool-* flags, or more memory (MemoryMax of the unit, limit of the container)")
            }
            ArenaRefusal::NoHugePages { wanted } => {
                let pages = wanted.div_ceil(HUGE_PAGE_BYTES as u64);
                writeln!(f, "error: not enough huge pages")?;
                writeln!(f, "cause: --huge-pages required, and {pages} pages of 2 MiB are not free")?;
                write!(f, "fix:   sysctl -w vm.nr_hugepages={pages}, or --huge-pages auto")
            }
            ArenaRefusal::Refused { wanted, errno } => {
                writeln!(f, "error: an arena of {wanted} bytes could not be reserved")?;
                writeln!(f, "cause: {}", io::Error::from_raw_os_error(*errno))?;
                write!(f, "fix:   smaller --pool-* flags, or a higher limit (`ulimit -v`, vm.overcommit_memory)")
            }
        }
    }
}

impl std::error::Error for ArenaRefusal {}

/// An anonymous mapping that lives as long as the pool over it.
#[derive(Debug)]
pub struct Arena {
    map: memmap2::MmapRaw,
}

impl Arena {
    /// Maps `bytes` of zeroed memory, not yet touched, not bound.
    ///
    /// # Errors
    /// Whatever mmap says.
    pub fn map(bytes: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(bytes.max(1)).map_anon()?;
        Ok(Self { map: map.into() })
    }

    /// Maps, binds and (with `prefault`) allocates an arena. The findings say what was asked for and not had.
    ///
    /// # Errors
    /// Over budget, no huge pages where they are required, or refused by the kernel.
    pub fn reserve(options: &ArenaOptions<'_>) -> Result<(Self, Vec<Finding>), ArenaRefusal> {
        let wanted = options.bytes as u64;
        if let Some(available) = available_memory_bytes()
            && options.huge_pages != HugePages::Required
            && wanted > available
        {
            return Err(ArenaRefusal::OverBudget { wanted, available });
        }
        let mut findings = Vec::new();
        if options.huge_pages != HugePages::Off {
            match Self::reserve_huge(options, &mut findings) {
                Some(arena) => return Ok((arena, findings)),
                None if options.huge_pages == HugePages::Required => return Err(ArenaRefusal::NoHugePages { wanted }),
                None => findings.clear(),
            }
        }
        let refused = |error: io::Error| ArenaRefusal::Refused { wanted, errno: error.raw_os_error().unwrap_or(libc::ENOMEM) };
        let arena = Self::map(options.bytes).map_err(refused)?;
        if options.huge_pages == HugePages::Auto {
            findings.push(arena.advise_transparent());
        }
        arena.settle(options, &mut findings).map_err(refused)?;
        Ok((arena, findings))
    }

    /// An arena of reserved huge pages, or `None` if there aren't enough (on the node, if it is bound).
    fn reserve_huge(options: &ArenaOptions<'_>, findings: &mut Vec<Finding>) -> Option<Self> {
        // munmap takes whole huge pages only.
        let bytes = options.bytes.max(1).next_multiple_of(HUGE_PAGE_BYTES);
        let map = MmapOptions::new().len(bytes).huge(Some(HUGE_PAGE_BYTES.trailing_zeros() as u8)).map_anon().ok()?;
        let arena = Self { map: map.into() };
        // Always touched here: the reservation counts all nodes, and a bound page that its node hasn't got is a SIGBUS later.
        arena.settle(&ArenaOptions { prefault: true, ..*options }, findings).ok()?;
        findings.push(Finding::ok("huge pages", "2 MiB pages", format!("{} reserved ones", bytes / HUGE_PAGE_BYTES)));
        Some(arena)
    }

    /// Binds, hides from forks, touches, in this order (M1).
    fn settle(&self, options: &ArenaOptions<'_>, findings: &mut Vec<Finding>) -> io::Result<()> {
        if let Some((topology, node)) = options.node {
            findings.push(self.bind(topology, node));
        }
        // A forked child would make every store here copy a page, and share pages that the kernel fills.
        self.map.advise(Advice::DontFork)?;
        if options.prefault {
            // Linux 5.14; says ENOMEM or EFAULT where a plain store would be killed.
            self.map.advise(Advice::PopulateWrite)?;
        }
        Ok(())
    }

    fn advise_transparent(&self) -> Finding {
        let (what, required) = ("huge pages", "2 MiB pages");
        let fix = format!("sysctl -w vm.nr_hugepages={}", self.len().div_ceil(HUGE_PAGE_BYTES));
        match self.map.advise(Advice::HugePage) {
            Ok(()) => Finding::ok(what, required, "transparent ones"),
            Err(_) => Finding::problem(Severity::Info, what, required, "none: 4 KiB pages", fix),
        }
    }

    fn bind(&self, topology: &Topology, node: u32) -> Finding {
        let (what, required) = ("memory binding", format!("node {node}"));
        // SAFETY: the mapping is zeroed, readable and as long as said, and nobody else has its address yet.
        let area = unsafe { std::slice::from_raw_parts(self.map.as_ptr(), self.map.len()) };
        match topology.bind_area(area, node) {
            Ok(()) => Finding::ok(what, required.clone(), required),
            Err(cause) => {
                let fix = "allow mbind (@resources in the unit file); a host with one memory node loses nothing";
                let severity = if topology.memory_nodes() > 1 { Severity::Warning } else { Severity::Info };
                Finding::problem(severity, what, required, format!("not bound: {cause}"), fix)
            }
        }
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether nothing is mapped (never).
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// The first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}

/// Asks for huge pages behind memory that nothing has touched yet. No effect where the host gives none, and none on the contents.
pub fn advise_huge_pages<T>(memory: &mut [std::mem::MaybeUninit<T>]) {
    let range = memory.as_mut_ptr_range();
    let (start, end) =
        (range.start.addr().next_multiple_of(HUGE_PAGE_BYTES), range.end.addr() / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES);
    if start < end {
        // SAFETY: the range lies within the slice, and MADV_HUGEPAGE changes how its pages are backed, never what they hold.
        unsafe { libc::madvise(range.start.with_addr(start).cast(), end - start, libc::MADV_HUGEPAGE) };
    }
}

/// A page-aligned buffer for direct writes; in huge pages if it is long enough for one and the host gives them on request, so that a write is made of
/// a few long pieces; registered with a ring where that is possible.
#[derive(Debug)]
pub struct StagingBuffer {
    map: memmap2::MmapMut,
    /// Which part of the mapping it is.
    part: Range<usize>,
    /// Its place in the ring's table of registered buffers.
    pub(crate) registered: Option<u16>,
}

impl StagingBuffer {
    /// Maps `bytes` (a multiple of 4096).
    ///
    /// # Errors
    /// Whatever mmap says.
    ///
    /// # Panics
    /// If `bytes` is no multiple of 4096.
    pub fn map(bytes: usize) -> io::Result<Self> {
        assert!(bytes.is_multiple_of(4096), "direct writes need whole blocks");
        // Room to begin where a huge page does. What is not used of it is never touched.
        let slack = if bytes < HUGE_PAGE_BYTES { 0 } else { HUGE_PAGE_BYTES };
        let map = memmap2::MmapMut::map_anon(bytes + slack)?;
        let at = if slack == 0 { 0 } else { map.as_ptr().align_offset(HUGE_PAGE_BYTES) };
        if slack > 0 {
            // Best effort: pages of any size hold the same.
            let _ = map.advise_range(Advice::HugePage, at, bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES);
        }
        Ok(Self { map, part: at..at + bytes, registered: None })
    }
}

impl std::ops::Deref for StagingBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map[self.part.clone()]
    }
}

impl std::ops::DerefMut for StagingBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.part.clone()]
    }
}

/// How the host gives transparent huge pages: `always`, `madvise` or `never`; `None` where the kernel has none.
pub fn transparent_huge_pages() -> Option<String> {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// Bytes that this process can still take: the host's `MemAvailable`, or what its control groups (v2 or v1) leave of their
/// limits, whichever is less. `None` without /proc.
pub fn available_memory_bytes() -> Option<u64> {
    let host = host_available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(host.min(group_available(Path::new("/sys/fs/cgroup"), &groups).unwrap_or(u64::MAX)))
}

fn host_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? << 10)
}

/// The least that any control group on the process's path leaves. `root` is where they are mounted.
fn group_available(root: &Path, groups: &str) -> Option<u64> {
    groups.lines().filter_map(|line| one_group_available(root, line)).min()
}

/// One line of /proc/self/cgroup: `0::/path` (v2) or `7:memory:/path` (v1); others have no say on memory.
fn one_group_available(root: &Path, line: &str) -> Option<u64> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let path = path.trim_start_matches('/');
    if id == "0" && controllers.is_empty() {
        return ancestors(root, path).filter_map(|dir| left(&dir, "memory.max", "memory.current", "inactive_file")).min();
    }
    if controllers.split(',').any(|name| name == "memory") {
        let root = root.join("memory");
        let files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
        return ancestors(&root, path).filter_map(|dir| left(&dir, files.0, files.1, files.2)).min();
    }
    None
}

/// `root/a/b`, `root/a`, `root`: every level has a limit of its own.
fn ancestors(root: &Path, path: &str) -> impl Iterator<Item = PathBuf> {
    let (bottom, top) = (root.join(path), root.to_path_buf());
    let levels: Vec<PathBuf> = bottom.ancestors().take_while(|dir| dir.starts_with(&top)).map(Path::to_path_buf).collect();
    levels.into_iter()
}

/// Limit minus usage, without the page cache that the kernel would give up for us. `None` without a limit.
fn left(dir: &Path, limit: &str, usage: &str, reclaimable: &str) -> Option<u64> {
    // "max" (v2) is no number, hence no limit.
    let limit: u64 = fs::read_to_string(dir.join(limit)).ok()?.trim().parse().ok()?;
    let usage: u64 = fs::read_to_string(dir.join(usage)).ok()?.trim().parse().ok()?;
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let cache = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find_map(|(name, value)| if name == reclaimable { value.trim().parse::<u64>().ok() } else { None });
    Some(limit.saturating_sub(usage.saturating_sub(cache.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(bytes: usize) -> ArenaOptions<'static> {
        ArenaOptions { bytes, huge_pages: HugePages::Auto, node: None, prefault: true }
    }

    #[test]
    fn a_reserved_arena_is_zero_and_fully_allocated() {
        let (arena, _) = Arena::reserve(&options(3 << 20)).expect("3 MiB fit everywhere");
        assert!(arena.len() >= 3 << 20);
        let pages = arena.len().div_ceil(4096);
        let mut resident = vec![0u8; pages];
        // SAFETY: the range is mapped; the vector has a byte per page.
        let status = unsafe { libc::mincore(arena.start().cast(), arena.len(), resident.as_mut_ptr()) };
        assert_eq!(status, 0);
        assert!(resident.iter().all(|page| page & 1 == 1), "M2");
        // SAFETY: mapped, readable, nobody writes.
        assert!(unsafe { std::slice::from_raw_parts(arena.start(), arena.len()) }.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_arena_is_bound_to_its_node_or_says_why_not() {
        let topology = Topology::detect().expect("hwloc reads this host");
        let node = topology.nodes()[0].memory_node;
        let (_, findings) = Arena::reserve(&ArenaOptions { node: Some((&topology, node)), ..options(1 << 20) }).expect("1 MiB");
        assert!(findings.iter().any(|row| row.what == "memory binding"));
    }

    #[test]
    fn an_arena_beyond_the_host_is_refused_with_the_sum() {
        let refusal = Arena::reserve(&options(1 << 50)).unwrap_err();
        assert!(matches!(refusal, ArenaRefusal::OverBudget { wanted, available } if wanted == 1 << 50 && available < wanted));
        assert_eq!(refusal.to_string().lines().count(), 3);
    }

    #[test]
    fn required_huge_pages_that_are_missing_are_refused() {
        // 1 TiB of reserved pages: no test host has them.
        let refusal = Arena::reserve(&ArenaOptions { huge_pages: HugePages::Required, ..options(1 << 40) }).unwrap_err();
        assert_eq!(refusal, ArenaRefusal::NoHugePages { wanted: 1 << 40 });
    }

    #[test]
    fn the_tightest_control_group_on_the_path_decides() {
        let root = tempfile::tempdir().expect("a folder");
        let inner = root.path().join("system.slice/engine.service");
        fs::create_dir_all(&inner).expect("folders");
        fs::write(inner.join("memory.max"), "max\n").expect("file");
        fs::write(inner.join("memory.current"), "500\n").expect("file");
        let outer = inner.parent().expect("parent");
        fs::write(outer.join("memory.max"), "10000\n").expect("file");
        fs::write(outer.join("memory.current"), "4000\n").expect("file");
        fs::write(outer.join("memory.stat"), "anon 10\ninactive_file 1500\n").expect("file");
        assert_eq!(group_available(root.path(), "0::/system.slice/engine.service\n"), Some(7500));
        let v1 = root.path().join("memory/box");
        fs::create_dir_all(&v1).expect("folders");
        fs::write(v1.join("memory.limit_in_bytes"), "3000\n").expect("file");
        fs::write(v1.join("memory.usage_in_bytes"), "1000\n").expect("file");
        assert_eq!(group_available(root.path(), "7:cpu,memory:/box\n3:pids:/x\n"), Some(2000));
        assert_eq!(group_available(root.path(), "3:pids:/x\n"), None);
    }

    #[test]
    fn available_memory_is_read_in_bytes() {
        assert_eq!(host_available("MemTotal: 9 kB\nMemAvailable:   12 kB\n"), Some(12 << 10));
        assert!(available_memory_bytes().expect("/proc is there") > 1 << 20);
    }
}
