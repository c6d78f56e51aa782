//! The enter system call, with the arguments that waits need.
//!
//! Format of the extended argument: `struct io_uring_getevents_arg` of the kernel's `io_uring.h`.

use std::io;

use io_uring::{EnterFlags, IoUring};
use std::os::fd::AsRawFd;

use crate::sys::clock::Nanos;

/// `IORING_REGISTER_RING_FDS`.
const REGISTER_RING_FDS: u32 = 20;

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanos: i64,
}

#[repr(C)]
struct WaitArgument {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_micros: u32,
    timespec: u64,
}

#[repr(C)]
struct RegisteredFd {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// How long an enter may sleep.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sleep {
    /// Completions to wait for; zero doesn't sleep.
    pub(super) completions: u32,
    /// At most this long; `None` is forever.
    pub(super) at_most: Option<Nanos>,
    /// After this many microseconds one completion is enough.
    pub(super) min_wait_micros: u32,
}

/// The ring's descriptor as enter takes it: a number, or a place in the thread's table of registered rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct EnterFd {
    fd: i32,
    flags: EnterFlags,
}

impl EnterFd {
    pub(super) fn plain(ring: &IoUring) -> Self {
        Self { fd: ring.as_raw_fd(), flags: EnterFlags::empty() }
    }

    /// Saves the look-up of the descriptor at each enter, for the calling thread only. `None` where the kernel can't.
    pub(super) fn registered(ring: &IoUring) -> Option<Self> {
        let mut update = RegisteredFd { offset: u32::MAX, reserved: 0, data: ring.as_raw_fd() as u64 };
        // SAFETY: reads and writes one exclusively borrowed io_uring_rsrc_update; the ring is open.
        let count =
            unsafe { libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), REGISTER_RING_FDS, &raw mut update, 1u32) };
        (count == 1).then_some(Self { fd: update.offset as i32, flags: EnterFlags::REGISTERED_RING })
    }

    /// Submits up to `to_submit` entries, runs deferred work if `flags` say so, sleeps as told. Returns how many were taken.
    pub(super) fn enter(self, to_submit: u32, flags: EnterFlags, sleep: Sleep) -> io::Result<u32> {
        let time = sleep
            .at_most
            .map(|time| Timespec { seconds: (time.0 / 1_000_000_000) as i64, nanos: (time.0 % 1_000_000_000) as i64 });
        let argument = WaitArgument {
            sigmask: 0,
            sigmask_bytes: 0,
            min_wait_micros: sleep.min_wait_micros,
            timespec: time.as_ref().map_or(0, |time| std::ptr::from_ref(time) as u64),
        };
        let flags = flags | self.flags | EnterFlags::EXT_ARG;
        // SAFETY: the kernel reads the argument and the timespec behind it, both alive across the call. What it reads of submission
        // entries was checked when they were pushed.
        let taken = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd,
                to_submit,
                sleep.completions,
                flags.bits(),
                &raw const argument,
                size_of::<WaitArgument>(),
            )
        };
        if taken < 0 { Err(io::Error::last_os_error()) } else { Ok(taken as u32) }
    }
}
