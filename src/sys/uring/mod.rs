//! The ring of a runner: one io_uring, lent to all its agents, entered once a turn.
//!
//! ```text
//! agents ── recv, write, provide, … ──► submission queue ─┐                      ┌──► completions ──► agents
//!                  (full: backlog) ────────────────────────┴─► turn: one enter ───┤
//! other threads ── eventfd ──► poll operation ─────────────────────────────────────┴──► drained here, shown to nobody
//! ```
//!
//! It is made disabled, given its groups and staging buffers, and enabled on the thread that will use it ([`Uring::enable`]). From then on it
//! belongs to that thread.
//!
//! Invariants, beside R1-R4 of [`super::io`]:
//! - **G1** What the kernel may still read or write lives until the final completion: message headers and staging buffers in fixed tables
//!   here, provided buffers in the pool's arena. `in_flight` counts operations without a final completion; [`Uring`] is not dropped
//!   before it is zero ([`Uring::quiesce`]); a ring that can't be quieted aborts the process, as unmapping would corrupt memory.
//! - **G2** An entry is never lost: what the queue can't take waits in the backlog, what an interrupted enter left goes out with the next one.
//! - **G3** A turn never sleeps while a completion, a synthesised one included, is there to be taken.
//! - **G4** Seat 255 is the ring's own; agents have seats below.
//!
//! Fallbacks, inside here so that agents see R1 all the same: without a multishot feature an operation is single-shot and its only completion is
//! final, so an agent that re-arms on `!more` needs to know nothing. A single-shot recvmsg takes its buffer from a list at once, and the ring
//! writes the kernel's header into it.
//!
//! What it does not do: time out operations (agents have deadlines), link them, or re-arm for agents.

mod counters;
mod enter;
mod ops;
mod setup;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use io_uring::types::CancelBuilder;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

pub use counters::RingCounters;
pub use setup::{RingRefusal, SubmissionPolling, UringOptions};
pub(super) use setup::{build, patiently, restrict};

use self::enter::{EnterFd, Sleep};
use super::buffer_ring::{BufferRing, Group, RawBuffer};
use super::clock::{Clock, HostClock, Nanos};
use super::features::{Feature, Features};
use super::io::{Completion, Errno, GroupId, Token};
use super::memory::StagingBuffer;
use super::wake::Waker;

/// The ring's own seat (G4).
pub const RING_SEAT: u8 = u8::MAX;
const WAKE: Token = Token::new(RING_SEAT, 0, 0, 0);
const CANCEL_ALL: Token = Token::new(RING_SEAT, 1, 0, 0);

/// How long a ring that is dropped with operations in flight waits for them before it aborts.
const DROP_PATIENCE: Nanos = Nanos::from_millis(5_000);

/// What a turn may do when there is nothing to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Return at once. Without anything to submit or to work off it costs no system call.
    Poll,
    /// Sleep until a completion, a wake-up, or this time of the monotonic clock; `None` sleeps without a deadline.
    Until(Option<Nanos>),
    /// Gather completions for throughput.
    MinWait {
        /// Return as soon as there are this many.
        completions: u32,
        /// After this long one is enough (a duration).
        at_most: Nanos,
        /// Return at this time in any case; `None` sleeps without a deadline.
        until: Option<Nanos>,
    },
}

/// Operations did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillInFlight {
    /// How many.
    pub operations: u64,
}

impl std::fmt::Display for StillInFlight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} operations are still in flight", self.operations)
    }
}

impl std::error::Error for StillInFlight {}

/// A write or send whose staging buffer the ring holds (R3).
struct Held {
    token: Token,
    buffer: StagingBuffer,
    ended: bool,
}

/// A recvmsg in flight: the kernel reads the header when it likes (G1).
struct Message {
    token: Option<Token>,
    header: libc::msghdr,
    area: libc::iovec,
    /// The buffer of a single-shot operation.
    buffer: Option<RawBuffer>,
}

/// The real ring. See the module doc.
pub struct Uring {
    ring: IoUring,
    enter_fd: EnterFd,
    features: Features,
    polled: bool,
    workers_max: u32,
    waits_quietly: bool,
    enabled: bool,
    closing: bool,
    in_flight: u64,
    groups: [Option<Group>; GroupId::COUNT],
    /// The first buffer id of the next group (U3).
    next_wire_id: u32,
    backlog: VecDeque<squeue::Entry>,
    ready: VecDeque<Completion>,
    /// At most `writes_max`; it never grows.
    held: Vec<Held>,
    /// Of them, those whose operation has not ended.
    held_in_flight: usize,
    messages: Box<[Message]>,
    messages_used: usize,
    staging_registered: bool,
    waker: Option<Waker>,
    waker_armed: bool,
    counters: Arc<RingCounters>,
}

// SAFETY: the raw pointers in `messages` and in list groups point into boxes of this struct and into arenas that outlive it (P3); nothing
// else refers to them, so the struct can move to the thread that enables it.
unsafe impl Send for Uring {}

impl Uring {
    /// Makes a disabled ring.
    ///
    /// # Errors
    /// What the kernel or a limit refuses, by cause.
    pub fn new(options: &UringOptions, features: &Features) -> Result<Self, RingRefusal> {
        let ring = patiently(|| build(options, *features)).map_err(|error| RingRefusal::of("io_uring_setup", &error))?;
        if features.has(Feature::Restrictions) {
            restrict(&ring).map_err(|error| RingRefusal::of("registering restrictions", &error))?;
        }
        let message = || Message {
            token: None,
            // SAFETY: an all-zero msghdr is a valid, empty one.
            header: unsafe { std::mem::zeroed() },
            area: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            buffer: None,
        };
        Ok(Self {
            enter_fd: EnterFd::plain(&ring),
            features: *features,
            polled: options.submission_polling.is_some(),
            workers_max: options.workers_max,
            waits_quietly: ring.params().is_feature_no_iowait(),
            enabled: false,
            closing: false,
            in_flight: 0,
            groups: [const { None }; GroupId::COUNT],
            next_wire_id: 0,
            // Rarely used: the queue holds a whole turn's worth, but a burst of re-arming can exceed it.
            backlog: VecDeque::with_capacity(4 * ring.params().sq_entries() as usize),
            ready: VecDeque::with_capacity(usize::from(options.recvmsgs_max) + 16),
            held: Vec::with_capacity(usize::from(options.writes_max)),
            held_in_flight: 0,
            messages: (0..options.recvmsgs_max).map(|_| message()).collect(),
            messages_used: 0,
            staging_registered: false,
            waker: None,
            waker_armed: false,
            counters: Arc::new(RingCounters::new(options.runner.clone())),
            ring,
        })
    }

    /// Prepares a group for up to `entries` buffers on offer (a power of two, at most 32768). Before it is used, on any thread while
    /// the ring is disabled.
    ///
    /// # Errors
    /// When the kernel has no buffer rings, or no memory.
    ///
    /// # Panics
    /// If the group is there already, `entries` is not such a number, or all groups together have more than 65536.
    pub fn register_group(&mut self, group: GroupId, entries: u16) -> Result<(), RingRefusal> {
        assert!(self.groups[group as usize].is_none(), "a group is registered once");
        // Datagram groups serve recvmsg only; single-shot ones pick their buffer themselves.
        if group != GroupId::Tcp && !self.features.has(Feature::MultishotRecvmsg) {
            self.groups[group as usize] = Some(Group::List(VecDeque::with_capacity(entries as usize)));
            return Ok(());
        }
        let refused = |error: io::Error| RingRefusal::of("registering a buffer ring", &error);
        assert!(self.next_wire_id + u32::from(entries) <= 1 << 16, "U3: buffer ids have 16 bits");
        let memory = BufferRing::map(entries, self.next_wire_id as u16).map_err(refused)?;
        // SAFETY: the memory is page-aligned, as long as said, and lives in `groups` until the ring is closed.
        let register =
            || unsafe { self.ring.submitter().register_buf_ring_with_flags(memory.address(), entries, group as u16, 0) };
        patiently(register).map_err(refused)?;
        self.next_wire_id += u32::from(entries);
        self.groups[group as usize] = Some(Group::Ring(memory));
        Ok(())
    }

    /// Registers staging buffers, so that their pages are pinned once and not per write. They work unregistered as well.
    ///
    /// # Errors
    /// EOPNOTSUPP without the feature, ENOMEM beyond the limit of locked memory; the buffers are then written unregistered.
    ///
    /// # Panics
    /// On a second call: a ring has one table of buffers.
    pub fn register_staging(&mut self, buffers: &mut [&mut StagingBuffer]) -> Result<(), Errno> {
        assert!(!self.staging_registered, "staging buffers are registered once");
        if !self.features.has(Feature::FixedBuffers) {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        let areas: Vec<libc::iovec> =
            buffers.iter_mut().map(|b| libc::iovec { iov_base: b.as_mut_ptr().cast(), iov_len: b.len() }).collect();
        // SAFETY: the areas are mapped; the kernel holds their pages itself from here on, even if a buffer is dropped before the ring.
        unsafe { self.ring.submitter().register_buffers(&areas) }
            .map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EINVAL)))?;
        self.staging_registered = true;
        buffers.iter_mut().enumerate().for_each(|(index, buffer)| buffer.registered = Some(index as u16));
        Ok(())
    }

    /// Watches a runner's waker: its wake-ups end a sleep and are not shown to agents.
    pub fn register_waker(&mut self, waker: &Waker) {
        assert!(self.waker.is_none(), "a ring watches one waker");
        self.waker = Some(waker.clone());
    }

    /// Enables the ring for the calling thread, which is its only user from now on.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn enable(&mut self) -> Result<(), RingRefusal> {
        assert!(!self.enabled, "a ring is enabled once");
        let submitter = self.ring.submitter();
        submitter.register_enable_rings().map_err(|error| RingRefusal::of("enabling the ring", &error))?;
        // A courtesy to the host (io-wq threads count as tasks of the unit), not a need: old kernels have other defaults.
        let _ = submitter.register_iowq_max_workers(&mut [self.workers_max, self.workers_max]);
        if self.features.has(Feature::RegisteredRing)
            && let Some(registered) = EnterFd::registered(&self.ring)
        {
            self.enter_fd = registered;
        }
        self.enabled = true;
        Ok(())
    }

    /// The ring's counters, for readers.
    pub fn counters(&self) -> Arc<RingCounters> {
        self.counters.clone()
    }

    /// Operations without a final completion, the ring's own included.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Buffers of a group that the kernel can take now.
    pub fn offered(&self, group: GroupId) -> usize {
        match &self.groups[group as usize] {
            Some(Group::Ring(ring)) => usize::from(ring.offered()),
            Some(Group::List(list)) => list.len(),
            None => 0,
        }
    }

    /// Submits what is queued, lets the kernel work, sleeps as `wait` says, and appends completions to `out`, as many as it has room for; the
    /// rest comes with the next turn. A signal ends a sleep early.
    ///
    /// # Errors
    /// Only for what no turn can mend: a ring used on a second thread, or broken.
    ///
    /// # Panics
    /// If the ring is not enabled, or `out` has no room.
    pub fn turn(&mut self, wait: Wait, out: &mut Vec<Completion>) -> io::Result<()> {
        assert!(self.enabled, "enable the ring on its own thread first");
        assert!(out.len() < out.capacity(), "a turn needs room for completions");
        self.arm_waker();
        self.publish_groups();
        self.feed();
        let waiting = self.ready.is_empty() && self.backlog.is_empty() && self.ring.completion().is_empty();
        self.enter(if waiting { wait } else { Wait::Poll })?; // G3
        self.reap(out);
        self.counters.in_flight.set(self.in_flight);
        Ok(())
    }

    /// Cancels everything and waits until the kernel is done with every buffer. Completions go to `each`, which can take buffers
    /// back and close accepted descriptors. Nothing may be submitted afterwards.
    ///
    /// # Errors
    /// When operations are left after `patience` (a duration): a write to a disk that hangs. Then nothing may be unmapped.
    pub fn quiesce(&mut self, patience: Nanos, each: &mut dyn FnMut(Completion)) -> Result<(), StillInFlight> {
        /// Between two rounds of cancelling: an operation in a worker thread may have been out of reach.
        const ROUND: Nanos = Nanos::from_millis(20);
        self.closing = true;
        let mut out = Vec::with_capacity(256);
        let until = self.now() + patience;
        while self.in_flight > 0 || !self.ready.is_empty() {
            let now = self.now();
            if now >= until {
                return Err(StillInFlight { operations: self.in_flight });
            }
            if self.in_flight > 0 {
                self.push(opcode::AsyncCancel2::new(CancelBuilder::any().all()).build(), CANCEL_ALL);
            }
            if self.turn(Wait::Until(Some(until.min(now + ROUND))), &mut out).is_err() {
                return Err(StillInFlight { operations: self.in_flight });
            }
            out.drain(..).for_each(&mut *each);
        }
        Ok(())
    }

    /// Queues an entry (G2) under a token.
    fn push(&mut self, entry: squeue::Entry, token: Token) {
        debug_assert!(self.enabled, "enable the ring on its own thread first");
        self.in_flight += 1;
        if self.polled {
            // The kernel's thread may take the entry at once: it must not find the buffers still unpublished.
            self.publish_groups();
        }
        let entry = entry.user_data(token.0);
        if self.backlog.is_empty() {
            // SAFETY: G1, whatever the entry points to lives until its final completion.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.counters.queue_full.add(1);
            self.publish_groups();
            let len = self.ring.submission().len() as u32;
            let flags = if self.polled { EnterFlags::SQ_WAKEUP } else { EnterFlags::empty() };
            // A refusal (no memory, completions to be taken first) is met by the backlog.
            let _ = self.enter_raw(len, flags, Sleep::default());
            // SAFETY: as above.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    /// Moves the backlog into the queue as far as it fits.
    fn feed(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: G1, as in `push`.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    fn publish_groups(&mut self) {
        for group in self.groups.iter_mut().flatten() {
            if let Group::Ring(ring) = group {
                ring.publish();
            }
        }
    }

    fn arm_waker(&mut self) {
        if self.waker_armed || self.closing {
            return;
        }
        let Some(waker) = &self.waker else { return };
        let poll = opcode::PollAdd::new(types::Fd(waker.event_fd().0), libc::POLLIN as u32).multi(true).build();
        self.waker_armed = true;
        self.push(poll, WAKE);
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let queue = self.ring.submission();
        let (len, overflown, work) = (queue.len() as u32, queue.cq_overflow(), queue.taskrun());
        let must_wake = self.polled && len > 0 && queue.need_wakeup();
        drop(queue);
        if overflown {
            self.counters.overflows.add(1);
        }
        // Deferred work is done, and overflown completions are moved in, only by an enter that asks for events.
        let mut flags = EnterFlags::GETEVENTS;
        flags.set(EnterFlags::SQ_WAKEUP, must_wake);
        let Some(sleep) = self.sleep(wait) else {
            let needed = overflown || work || if self.polled { must_wake } else { len > 0 };
            return if needed { self.enter_raw(len, flags, Sleep::default()) } else { Ok(()) };
        };
        // Sleeping for work to come is not waiting for a disk; keep it out of the host's iowait.
        flags.set(EnterFlags::NO_IOWAIT, self.waits_quietly);
        self.enter_raw(len, flags, sleep)?;
        match wait {
            Wait::MinWait { until, .. } if !self.features.has(Feature::MinWait) && self.ring.completion().is_empty() => {
                let Some(sleep) = self.sleep(Wait::Until(until)) else { return Ok(()) };
                // Whatever an interrupted first enter left unsubmitted goes out before the sleep (G2).
                let left = self.ring.submission().len() as u32;
                self.enter_raw(left, flags, sleep)
            }
            _ => Ok(()),
        }
    }

    /// What `wait` means for the next enter; `None` doesn't sleep.
    fn sleep(&self, wait: Wait) -> Option<Sleep> {
        let (completions, gather, until) = match wait {
            Wait::Poll => return None,
            Wait::Until(until) => (1, None, until),
            Wait::MinWait { completions, at_most, until } => (completions.max(1), Some(at_most), until),
        };
        // One clock read per sleep, 23 ns before 25 us.
        let left = match until.map(|until| until.since(HostClock.now())) {
            Some(Nanos(0)) => return None,
            left => left,
        };
        Some(match gather {
            None => Sleep { completions, at_most: left, min_wait_micros: 0 },
            Some(gather) if self.features.has(Feature::MinWait) => {
                Sleep { completions, at_most: left, min_wait_micros: (gather.0 / 1_000).clamp(1, u64::from(u32::MAX)) as u32 }
            }
            Some(gather) => {
                Sleep { completions, at_most: Some(left.map_or(gather, |left| left.min(gather))), min_wait_micros: 0 }
            }
        })
    }

    fn enter_raw(&self, to_submit: u32, flags: EnterFlags, sleep: Sleep) -> io::Result<()> {
        self.counters.enters.add(1);
        match self.enter_fd.enter(to_submit, flags, sleep) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // The sleep is over; nothing was to be submitted, or it was.
                Some(libc::ETIME) => Ok(()),
                // A signal; no memory for a request; completions must be taken first. Entries stay in the queue (G2).
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => {
                    self.counters.interrupted.add(1);
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    fn reap(&mut self, out: &mut Vec<Completion>) {
        while out.len() < out.capacity()
            && let Some(completion) = self.ready.pop_front()
        {
            out.push(completion);
        }
        let mut reaped = 0;
        while out.len() < out.capacity() {
            // Taken one by one: handling one may edit the tables. Head and tail are in cache here; a store each is a nanosecond.
            let Some(entry) = self.ring.completion().next() else { break };
            reaped += 1;
            out.extend(self.accept(&entry));
        }
        self.counters.completions.add(reaped);
    }

    /// Turns a kernel's completion into an agent's; `None` for the ring's own.
    fn accept(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let token = Token(entry.user_data());
        let more = cqueue::more(entry.flags());
        let mut result = u32::try_from(entry.result()).map_err(|_| Errno(-entry.result()));
        if !more {
            assert!(self.in_flight > 0, "R1: one final completion per operation");
            self.in_flight -= 1;
        }
        if token.seat() == RING_SEAT {
            if token == WAKE {
                self.woken(more);
            }
            return None;
        }
        if result == Err(Errno(libc::ENOBUFS)) {
            self.counters.starved.add(1);
        }
        let mut buffer = cqueue::buffer_select(entry.flags()).map(|wire_id| self.take_back(wire_id));
        if !more {
            self.end_held(token);
            self.end_message(token, &mut result, &mut buffer);
        }
        Some(Completion { token, result, more, buffer: buffer.map(RawBuffer::into_id) })
    }

    fn woken(&mut self, more: bool) {
        self.counters.wakes.add(1);
        self.waker_armed = more;
        if let Some(waker) = &self.waker {
            waker.drain();
        }
    }

    /// The buffer behind an id on the wire, which names its group (U3).
    fn take_back(&mut self, wire_id: u16) -> RawBuffer {
        for (group, slot) in GroupId::ALL.into_iter().zip(&mut self.groups) {
            if let Some(Group::Ring(ring)) = slot
                && ring.owns(wire_id)
            {
                return RawBuffer { start: std::ptr::null_mut(), bytes: 0, group, id: ring.take_back(wire_id) };
            }
        }
        unreachable!("R2: the kernel returns only buffers that a group offered")
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.in_flight > 0 && self.quiesce(DROP_PATIENCE, &mut |_| {}).is_err() {
            // G1: the kernel may still write into memory that is about to be unmapped.
            eprintln!("fatal: a ring was dropped with {} operations in flight that don't end", self.in_flight);
            std::process::abort();
        }
        if self.staging_registered {
            // At once, while closing a ring gives locked memory back only some time later. Nothing is in flight, so it can't fail for cause.
            let _ = self.ring.submitter().unregister_buffers();
        }
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("features", &self.features)
            .field("in_flight", &self.in_flight)
            .field("backlog", &self.backlog.len())
            .finish_non_exhaustive()
    }
}
