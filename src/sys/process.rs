//! What a process or thread sets for itself: CPUs, niceness, descriptors; and what it may.

use std::fmt;
use std::io;
use std::sync::OnceLock;

/// `CAP_NET_ADMIN`, by its number in `linux/capability.h`.
pub const CAP_NET_ADMIN: u32 = 12;

/// The most CPUs that a `cpu_set_t` can name.
const CPU_SET_CPUS: usize = libc::CPU_SETSIZE as usize;

/// A thread could not be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinRefusal {
    /// The CPU that was asked for.
    pub cpu: u32,
}

impl fmt::Display for PinRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: a runner could not be pinned to CPU {}", self.cpu)?;
        writeln!(f, "cause: the CPU is offline, outside the allowed set, or sched_setaffinity is forbidden")?;
        write!(f, "fix:   name allowed CPUs with --cores (see `eventstream topology`), or allow @resources in the unit file")
    }
}

impl std::error::Error for PinRefusal {}

/// Pins the calling thread to one CPU.
///
/// # Errors
/// When the kernel refuses; the thread stays where it was.
pub fn pin_current_thread(cpu: u32) -> Result<(), PinRefusal> {
    let known = (cpu as usize) < CPU_SET_CPUS;
    if known && core_affinity::set_for_current(core_affinity::CoreId { id: cpu as usize }) {
        Ok(())
    } else {
        Err(PinRefusal { cpu })
    }
}

fn affinity_of(thread: libc::pid_t) -> Option<libc::cpu_set_t> {
    // SAFETY: an all-zero cpu_set_t is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes at most the given size into an exclusively borrowed set.
    let status = unsafe { libc::sched_getaffinity(thread, size_of::<libc::cpu_set_t>(), &raw mut set) };
    (status == 0).then_some(set)
}

/// The CPUs this process may use: those of its first thread, read once, before runners are pinned.
fn allowed_set() -> Option<libc::cpu_set_t> {
    static ALLOWED: OnceLock<Option<libc::cpu_set_t>> = OnceLock::new();
    // The main thread is never pinned, so its mask stays what the process was started with. SAFETY: getpid has no preconditions.
    *ALLOWED.get_or_init(|| affinity_of(unsafe { libc::getpid() }))
}

/// The CPUs this process was allowed to use when it first asked, ascending. Empty where the kernel doesn't say.
pub fn allowed_cpus() -> Vec<u32> {
    allowed_set().map_or_else(Vec::new, |set| cpus_in(&set))
}

/// The CPUs that a thread may use now.
#[cfg(test)]
pub(super) fn cpus_of(thread: libc::pid_t) -> Vec<u32> {
    affinity_of(thread).map_or_else(Vec::new, |set| cpus_in(&set))
}

fn cpus_in(set: &libc::cpu_set_t) -> Vec<u32> {
    // SAFETY: every index is below CPU_SETSIZE.
    (0..CPU_SET_CPUS).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, set) }).map(|cpu| cpu as u32).collect()
}

/// Sets the kernel's io_uring workers free. They begin with the one CPU of the runner that they work for, where a write or a sync waits for
/// its turn beside a thread that never sleeps; `IORING_REGISTER_IOWQ_AFF` does not help, as since 6.2 the kernel keeps a thread's children
/// to what its user chose for it (kernel-notes, *Writing*). From 6.4 on workers can be moved by their ids.
#[derive(Debug, Default)]
pub struct IoWorkers {
    /// Threads of this process at the last look: what is known needs no second one.
    known: Vec<libc::pid_t>,
}

impl IoWorkers {
    /// Lets workers that are new since the last call use every allowed CPU; how many it could. Best effort: where `/proc` is hidden, or before
    /// 6.4, they stay where they are.
    pub fn set_free(&mut self) -> usize {
        let (Some(allowed), Ok(tasks)) = (allowed_set(), std::fs::read_dir("/proc/self/task")) else { return 0 };
        let ids = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
        let ids: Vec<libc::pid_t> = ids.collect();
        let new = ids.iter().filter(|id| !self.known.contains(id) && is_io_worker(**id));
        // SAFETY: reads the given size from a valid set. A thread that has just ended is ESRCH, and no harm.
        let is_free =
            |id: &&libc::pid_t| unsafe { libc::sched_setaffinity(**id, size_of::<libc::cpu_set_t>(), &raw const allowed) == 0 };
        let freed = new.filter(is_free).count();
        self.known = ids;
        freed
    }
}

/// Whether a thread of this process is a worker of io_uring, by the name that the kernel gives it.
fn is_io_worker(thread: libc::pid_t) -> bool {
    std::fs::read(format!("/proc/self/task/{thread}/comm")).is_ok_and(|name| name.starts_with(b"iou-wrk-"))
}

/// Makes the calling thread a helper: on any allowed CPU again (threads inherit the pinning of who spawned them), at nice 19, so
/// that it takes under 2 % of a core from a spinning runner. Best effort; a refusal changes nothing else.
pub fn helper_thread_setup() {
    if let Some(set) = allowed_set() {
        // SAFETY: reads the given size from a valid set; thread 0 is the caller.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    }
    // SAFETY: no pointers. On Linux niceness belongs to a thread; 0 is the calling one.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
}

/// Makes a write beyond RLIMIT_FSIZE an error (`EFBIG`, which the log treats like a full disk) instead of the signal that ends the process.
pub fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Keeps the descriptors that are open now, beside the first three, from programs that are run later; those that the engine opens are kept from
/// them anyway. Call once, before there are rules that run programs. Best effort.
pub fn keep_descriptors_from_programs() {
    // SAFETY: no pointers; only flags of descriptors change.
    unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
}

/// Asks a process to end, with SIGTERM. Call only for a child that has not been waited for: its number is taken till then.
pub fn ask_to_end(child: u32) {
    // SAFETY: no pointers. A child that has just ended is there until it is waited for.
    unsafe { libc::kill(child as libc::pid_t, libc::SIGTERM) };
}

/// Stops a child where it is, with SIGSTOP, until it is told to go on. As for [`ask_to_end`], it has not been waited for.
pub fn pause(child: u32) {
    // SAFETY: no pointers; as above.
    unsafe { libc::kill(child as libc::pid_t, libc::SIGSTOP) };
}

/// Lets a child go on, with SIGCONT. As for [`ask_to_end`], it has not been waited for.
pub fn resume(child: u32) {
    // SAFETY: no pointers; as above.
    unsafe { libc::kill(child as libc::pid_t, libc::SIGCONT) };
}

/// Kills a process group, given by its leader, with SIGKILL. Call only for a leader that has not been waited for: its number is taken till then.
pub fn kill_process_group(leader: u32) {
    // SAFETY: no pointers. A group that has just ended is ESRCH, and no harm.
    unsafe { libc::kill(-(leader as libc::pid_t), libc::SIGKILL) };
}

fn limits_of(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes into an exclusively borrowed rlimit; fails only for resources that don't exist.
    unsafe { libc::getrlimit(resource, &raw mut limits) };
    limits
}

/// Soft and hard limit of open descriptors.
pub fn descriptor_limits() -> (u64, u64) {
    let limits = limits_of(libc::RLIMIT_NOFILE);
    (limits.rlim_cur, limits.rlim_max)
}

/// Raises the soft limit of open descriptors to the hard one, which needs no privilege. Returns the limit then in force.
///
/// # Errors
/// Whatever setrlimit says (a seccomp filter without `@resources`); the old limit stays.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limits = limits_of(libc::RLIMIT_NOFILE);
    if limits.rlim_cur < limits.rlim_max {
        limits.rlim_cur = limits.rlim_max;
        // SAFETY: reads a valid rlimit.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limits.rlim_cur)
}

/// Bytes this process may lock (and register with rings); `None` is no limit, as with CAP_IPC_LOCK.
pub fn locked_memory_limit() -> Option<u64> {
    const CAP_IPC_LOCK: u32 = 14;
    let soft = limits_of(libc::RLIMIT_MEMLOCK).rlim_cur;
    (soft != libc::RLIM_INFINITY && !has_capability(CAP_IPC_LOCK)).then_some(soft)
}

/// Whether the process effectively has a capability, by its number.
pub fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0").trim();
    u64::from_str_radix(effective, 16).is_ok_and(|set| set >> number & 1 == 1)
}

/// The running kernel's release, like `6.12.3`.
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_leaves_the_cpu_of_its_pinned_parent() {
        let allowed = allowed_cpus();
        let last = *allowed.last().expect("a running thread has a CPU");
        std::thread::spawn(move || {
            pin_current_thread(last).expect("an allowed CPU");
            let helper = std::thread::spawn(|| {
                helper_thread_setup();
                let set = affinity_of(0).expect("own mask");
                // SAFETY: every index is below CPU_SETSIZE.
                let cpus = (0..CPU_SET_CPUS).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).count();
                // SAFETY: no pointers.
                (cpus, unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) })
            });
            assert_eq!(helper.join().expect("no panic"), (allowed.len(), 19));
        })
        .join()
        .expect("no panic");
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused_in_three_lines() {
        let refusal = std::thread::spawn(|| pin_current_thread(100_000)).join().expect("no panic").unwrap_err();
        assert_eq!(refusal.to_string().lines().count(), 3);
    }

    #[test]
    fn the_soft_descriptor_limit_rises_to_the_hard_one() {
        let raised = raise_descriptor_limit().expect("no filter forbids it here");
        assert_eq!((raised, raised), descriptor_limits());
    }
}
