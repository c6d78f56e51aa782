//! Setting a ring up: flags, restrictions, and refusals that name their cause.

use std::fmt;
use std::io;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue};

use crate::sys::features::{Feature, Features};

/// A thread of the kernel that polls for submissions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubmissionPolling {
    /// It sleeps after this long without work, milliseconds.
    pub idle_ms: u32,
    /// The CPU it is bound to.
    pub cpu: Option<u32>,
}

/// The numbers of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UringOptions {
    /// Whose ring it is: the label of its counters.
    pub runner: String,
    /// Submission queue entries; rounded up to a power of two.
    pub submission_entries: u32,
    /// Completion queue entries: 4-8 times as many, and at least all provided buffers and operations in flight.
    pub completion_entries: u32,
    /// Off by default: it takes a core, and its thread keeps the rights of whoever made it.
    pub submission_polling: Option<SubmissionPolling>,
    /// Writes whose staging buffers the ring can hold at a time, until they are reclaimed.
    pub writes_max: u16,
    /// Recvmsg operations in flight at a time.
    pub recvmsgs_max: u16,
    /// Kernel worker threads for operations that would block, of each of the two kinds.
    pub workers_max: u32,
}

impl Default for UringOptions {
    fn default() -> Self {
        Self {
            runner: String::new(),
            submission_entries: 512,
            completion_entries: 4096,
            submission_polling: None,
            writes_max: 8,
            recvmsgs_max: 16,
            workers_max: 4,
        }
    }
}

/// Why there is no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingRefusal {
    /// `kernel.io_uring_disabled` forbids it.
    DisabledBySysctl {
        /// 1: only for unprivileged users; 2: for everybody.
        value: u8,
    },
    /// EPERM or EACCES without that: a seccomp filter or a security module.
    Forbidden,
    /// A kernel without io_uring.
    Missing,
    /// A kernel or option that lacks what the floor has.
    Unsupported {
        /// The step that failed.
        step: &'static str,
        /// What the kernel said.
        errno: i32,
    },
    /// Not enough memory, or a limit on it.
    NoMemory,
    /// Out of descriptors.
    NoDescriptors,
}

impl RingRefusal {
    pub(crate) fn of(step: &'static str, error: &io::Error) -> Self {
        match error.raw_os_error().unwrap_or(libc::EINVAL) {
            libc::EPERM | libc::EACCES => match disabled_by_sysctl() {
                0 => RingRefusal::Forbidden,
                value => RingRefusal::DisabledBySysctl { value },
            },
            libc::ENOSYS => RingRefusal::Missing,
            libc::ENOMEM => RingRefusal::NoMemory,
            libc::EMFILE | libc::ENFILE => RingRefusal::NoDescriptors,
            errno => RingRefusal::Unsupported { step, errno },
        }
    }
}

/// The sysctl as it concerns this process: 1 forbids only those without CAP_SYS_ADMIN.
fn disabled_by_sysctl() -> u8 {
    const CAP_SYS_ADMIN: u32 = 21;
    let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match text.trim().parse().unwrap_or(0) {
        1 if crate::sys::process::has_capability(CAP_SYS_ADMIN) => 0,
        value => value,
    }
}

impl fmt::Display for RingRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: io_uring is not available")?;
        match self {
            RingRefusal::DisabledBySysctl { value } => {
                write!(f, "cause: the sysctl kernel.io_uring_disabled is {value}\nfix:   sysctl -w kernel.io_uring_disabled=0")
            }
            RingRefusal::Forbidden => write!(
                f,
                "cause: the kernel said EPERM: a seccomp filter (containers block io_uring by default) or a security module\n\
                 fix:   allow io_uring_setup, io_uring_enter and io_uring_register (`--security-opt seccomp=…`; @system-service in systemd)"
            ),
            RingRefusal::Missing => write!(f, "cause: this kernel has no io_uring (ENOSYS)\nfix:   run a kernel from 6.1 on"),
            RingRefusal::Unsupported { step, errno } => {
                let cause = io::Error::from_raw_os_error(*errno);
                write!(f, "cause: {step}: {cause}\nfix:   run a kernel from 6.1 on; recommended is 6.12")
            }
            RingRefusal::NoMemory => {
                write!(
                    f,
                    "cause: not enough memory for the ring\nfix:   fewer --ring-entries, or LimitMEMLOCK=infinity (`ulimit -l`)"
                )
            }
            RingRefusal::NoDescriptors => write!(f, "cause: no free file descriptor\nfix:   raise `ulimit -n` (LimitNOFILE=)"),
        }
    }
}

impl std::error::Error for RingRefusal {}

/// Makes a ring, disabled, with the flags that the features allow.
pub(crate) fn build(options: &UringOptions, features: Features) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_r_disabled()
        .setup_single_issuer()
        // One refused entry must not leave the rest of a batch unsubmitted.
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(options.completion_entries)
        .dontfork();
    if features.has(Feature::NoSqarray) {
        builder.setup_no_sqarray();
    }
    match options.submission_polling {
        // The kernel refuses the task-work flags beside a polling thread.
        Some(polling) => {
            builder.setup_sqpoll(polling.idle_ms);
            if let Some(cpu) = polling.cpu {
                builder.setup_sqpoll_cpu(cpu);
            }
        }
        None => {
            // The flag in shared memory tells whether an enter would find anything: polling an idle ring costs no system call.
            builder.setup_coop_taskrun().setup_taskrun_flag();
            if features.has(Feature::DeferTaskrun) {
                builder.setup_defer_taskrun();
            }
        }
    }
    builder.build(options.submission_entries)
}

/// Tries again while locked memory is short: rings and buffer rings count against its limit (6.18: under 256 KiB for one of the default
/// size), per user, and a closed ring's share comes back only when a kernel worker has cleaned up. So a restart, or the ring after a
/// probe, may meet its predecessor's.
pub(crate) fn patiently<T>(mut step: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
    const TRIES: u32 = 50;
    for _ in 1..TRIES {
        match step() {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    step()
}

/// Restricts a disabled ring to what the engine does: no opening, no connecting.
pub(crate) fn restrict(ring: &IoUring) -> io::Result<()> {
    const OPERATIONS: [u8; 11] = [
        opcode::Accept::CODE,
        opcode::Recv::CODE,
        opcode::RecvMsg::CODE,
        opcode::Send::CODE,
        opcode::Write::CODE,
        opcode::WriteFixed::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
        opcode::Close::CODE,
        opcode::AsyncCancel::CODE,
        opcode::PollAdd::CODE,
    ];
    /// By their numbers in `io_uring.h`: buffers (and back), enable, worker limits, ring fds (and back), buffer rings (and back).
    const REGISTRATIONS: [u8; 8] = [0, 1, 12, 19, 20, 21, 22, 23];
    let mut list: Vec<Restriction> = OPERATIONS.into_iter().map(Restriction::sqe_op).collect();
    list.extend(REGISTRATIONS.into_iter().map(Restriction::register_op));
    list.push(Restriction::sqe_flags_allowed(squeue::Flags::BUFFER_SELECT.bits()));
    ring.submitter().register_restrictions(&mut list)
}
