//! Finding out what this kernel can do, by doing it once: at start, on rings and sockets of its own.
//!
//! Each feature of [`Feature`] is tried the way the engine uses it, through [`Uring`] where it is an operation. What doesn't work is left out of
//! the [`Features`] and becomes a [`Finding`]; only a ring with provided buffers is a must. Takes a few milliseconds and leaves nothing behind.
//!
//! What it does not do: trust version numbers (distributions backport, sandboxes forbid), or measure speed.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};

use super::clock::{Clock, HostClock, Nanos};
use super::features::{Feature, Features};
use super::findings::{Finding, Severity};
use super::io::{Completion, Fd, GroupId, MessageRoom, Ring, Token};
use super::memory::{self, Arena, HUGE_PAGE_BYTES, StagingBuffer};
use super::uring::{RingRefusal, Uring, UringOptions, Wait, build, patiently, restrict};
use super::{process, socket};
use crate::pool::{ClassStrides, OwnerLayout, PoolOwner, SharedPool, SlotClass, SlotUse};

/// What an appender's two staging buffers take together: the registration that the probe tries.
pub const STAGING_BYTES_TRIED: usize = 4 << 20;
/// How long an operation of a probe may take: all are local and ready, so this is met only by something broken.
const PATIENCE: Nanos = Nanos::from_millis(500);

/// The host can't run the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRefusal {
    /// No ring.
    Ring(RingRefusal),
    /// A ring, but no provided buffer rings: a kernel below the floor.
    NoBufferRing {
        /// The running kernel.
        kernel: String,
        /// What it said.
        errno: i32,
    },
}

impl fmt::Display for HostRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostRefusal::Ring(refusal) => refusal.fmt(f),
            HostRefusal::NoBufferRing { kernel, errno } => {
                writeln!(f, "error: this kernel lacks provided buffer rings")?;
                writeln!(f, "cause: kernel {kernel}: {}", io::Error::from_raw_os_error(*errno))?;
                write!(f, "fix:   run a kernel from 6.1 on; recommended is 6.12")
            }
        }
    }
}

impl std::error::Error for HostRefusal {}

/// Tries one feature on rings with these set-up features.
type Trial = fn(Features) -> bool;

impl Features {
    /// Tries everything, takes away what `without` names, and says what is missing, one finding per feature.
    ///
    /// # Errors
    /// No ring, or none with provided buffers.
    pub fn probe(without: &[Feature]) -> Result<(Features, Vec<Finding>), HostRefusal> {
        let mut features = probe_setup(without)?;
        let ring = features; // What every trial's ring is set up with.
        probe_buffer_ring(ring)?;
        let tried: [(Feature, Trial); 9] = [
            (Feature::RegisteredRing, registered_ring_works),
            (Feature::MinWait, min_wait_works),
            (Feature::FixedBuffers, fixed_buffers_work),
            (Feature::MultishotAccept, multishot_accept_works),
            (Feature::MultishotRecv, multishot_recv_works),
            (Feature::MultishotRecvmsg, multishot_recvmsg_works),
            (Feature::HugePages, |_| huge_pages_exist()),
            (Feature::Steering, |_| steering_works().unwrap_or(false)),
            (Feature::UdpGro, |_| aggregation_works()),
        ];
        for (feature, works) in tried {
            if !without.contains(&feature) && works(ring) {
                features = features.with(feature);
            }
        }
        let capped = features.has(Feature::MultishotRecv) && !without.contains(&Feature::ByteCap);
        if capped && byte_cap_works(ring) {
            features = features.with(Feature::ByteCap);
        }
        let findings = Feature::ALL.into_iter().map(|f| finding(f, features.has(f), without.contains(&f))).collect();
        Ok((features, findings))
    }
}

fn finding(feature: Feature, found: bool, taken_away: bool) -> Finding {
    let (loss, fix) = consequence(feature);
    let since = format!("kernel {} or later", feature.since());
    match (found, taken_away) {
        (true, _) => Finding::ok(feature.name(), since, "yes"),
        (false, true) => {
            let found = format!("taken away by {}: {loss}", super::features::WITHOUT_VARIABLE);
            Finding::problem(Severity::Info, feature.name(), since, found, format!("unset {}", super::features::WITHOUT_VARIABLE))
        }
        (false, false) => {
            let severity = match feature {
                Feature::Steering | Feature::Restrictions => Severity::Warning,
                _ => Severity::Info,
            };
            Finding::problem(severity, feature.name(), since, format!("no: {loss}"), fix)
        }
    }
}

/// What is lost without a feature, and how to get it.
fn consequence(feature: Feature) -> (&'static str, &'static str) {
    let newer = "a newer kernel";
    match feature {
        Feature::DeferTaskrun => ("completions interrupt the runner", newer),
        Feature::NoSqarray => ("one more memory access per submission", newer),
        Feature::Restrictions => ("rings may do more than the engine needs", newer),
        Feature::RegisteredRing => ("a descriptor look-up per system call", newer),
        Feature::MinWait => ("batches are gathered with two waits", newer),
        Feature::FixedBuffers => {
            ("each write pins its pages", "LimitMEMLOCK=infinity in the unit file, or `ulimit -l unlimited`")
        }
        Feature::ByteCap => ("a busy connection may take all receive buffers of a turn", newer),
        Feature::MultishotAccept => ("accepts are re-armed one by one", newer),
        Feature::MultishotRecv => ("receives are re-armed one by one", newer),
        Feature::MultishotRecvmsg => ("datagram receives are re-armed one by one", newer),
        Feature::HugePages => ("4 KiB pages for the arena", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
        Feature::Steering => ("one datagram socket: a flood of low priorities can push REALTIME out of its buffer", newer),
        Feature::UdpGro => ("datagrams are received one by one", newer),
    }
}

/// The features that are properties of a ring's set-up.
fn ring_features() -> impl Iterator<Item = Feature> {
    [Feature::DeferTaskrun, Feature::NoSqarray, Feature::Restrictions].into_iter()
}

fn options() -> UringOptions {
    UringOptions { submission_entries: 8, completion_entries: 32, ..UringOptions::default() }
}

/// Which set-up flags work, the most wanted dropped last.
fn probe_setup(without: &[Feature]) -> Result<Features, HostRefusal> {
    let wanted = ring_features().filter(|f| !without.contains(f)).fold(Features::NONE, Features::with);
    let attempts =
        [wanted, wanted.without(Feature::NoSqarray), wanted.without(Feature::NoSqarray).without(Feature::DeferTaskrun)];
    let mut refused = None;
    for features in attempts {
        match patiently(|| build(&options(), features)) {
            Ok(ring) if features.has(Feature::Restrictions) && restrict(&ring).is_err() => {
                return Ok(features.without(Feature::Restrictions));
            }
            Ok(_) => return Ok(features),
            Err(error) => refused = Some(RingRefusal::of("io_uring_setup", &error)),
        }
    }
    Err(HostRefusal::Ring(refused.expect("three attempts were refused")))
}

fn probe_buffer_ring(features: Features) -> Result<(), HostRefusal> {
    let mut ring = Uring::new(&options(), &features).map_err(HostRefusal::Ring)?;
    // With the feature, datagram groups are buffer rings too; TCP's always is.
    match ring.register_group(GroupId::Tcp, 2) {
        Ok(()) => Ok(()),
        Err(RingRefusal::Unsupported { errno, .. }) => {
            Err(HostRefusal::NoBufferRing { kernel: process::kernel_release(), errno })
        }
        Err(refusal) => Err(HostRefusal::Ring(refusal)),
    }
}

/// A ring, and a pool of four chunks on offer in one group.
struct Bench {
    // The ring is quiesced and closed before the arena under its buffers goes (P3): fields drop in this order.
    ring: Uring,
    owner: PoolOwner,
}

impl Bench {
    fn new(features: Features, group: GroupId) -> Option<Self> {
        const BUFFERS: u16 = 4;
        let mut layout = OwnerLayout::with_standard_quotas([0; SlotClass::COUNT]);
        let chunk = SlotClass::Chunk.index();
        layout.slots[chunk] = u32::from(BUFFERS);
        layout.quota[SlotUse::Kernel.index()][chunk] = u32::from(BUFFERS);
        let strides = ClassStrides::new(64, 4096);
        let layouts = [layout];
        let arena = Arena::map(SharedPool::arena_bytes(&strides, &layouts)).ok()?;
        let (_, mut owners) = SharedPool::divide(arena, strides, &layouts);
        let mut ring = Uring::new(&options(), &features).ok()?;
        ring.register_group(group, BUFFERS).ok()?;
        ring.enable().ok()?;
        let mut owner = owners.pop()?;
        owner.open_group(group, BUFFERS);
        while let Some(slot) = owner.acquire(SlotClass::Chunk, SlotUse::Kernel) {
            match owner.lend(slot, group, 0) {
                Ok(buffer) => ring.provide(buffer),
                Err(slot) => owner.give_back(slot),
            }
        }
        Some(Self { ring, owner })
    }

    /// The completions of one operation: `wanted` of them, or up to the final one.
    fn run(&mut self, wanted: usize, submit: impl FnOnce(&mut Uring, Token)) -> Vec<Completion> {
        let token = Token::new(0, 0, 0, 1);
        submit(&mut self.ring, token);
        let mut out = Vec::with_capacity(16);
        let until = HostClock.now() + PATIENCE;
        while out.len() < wanted && out.last().is_none_or(|c: &Completion| c.more) && HostClock.now() < until {
            if self.ring.turn(Wait::Until(Some(until)), &mut out).is_err() {
                break;
            }
        }
        out
    }

    /// Whether the operation gave `wanted` results and goes on.
    fn stays_armed(mut self, wanted: usize, submit: impl FnOnce(&mut Uring, Token)) -> bool {
        let seen = self.run(wanted, submit);
        let works = seen.len() >= wanted && seen.iter().all(|completion| completion.result.is_ok() && completion.more);
        let accepted = seen.iter().filter(|completion| completion.buffer.is_none());
        accepted.filter_map(|completion| completion.result.ok()).for_each(close_raw);
        self.finish();
        works
    }

    fn finish(mut self) {
        if self.ring.quiesce(PATIENCE, &mut |_| {}).is_ok() {
            self.owner.take_back_all();
        }
    }
}

fn close_raw(fd: u32) {
    // SAFETY: an accept gave us this descriptor, and nobody else has it.
    unsafe { libc::close(fd as i32) };
}

fn registered_ring_works(ring: Features) -> bool {
    // Enabling falls back by itself; what matters is that a turn works through the registration.
    let Ok(mut ring) = Uring::new(&options(), &ring.with(Feature::RegisteredRing)) else { return false };
    ring.enable().is_ok() && ring.turn(Wait::Until(Some(HostClock.now() + Nanos(1_000))), &mut Vec::with_capacity(1)).is_ok()
}

fn min_wait_works(features: Features) -> bool {
    let Ok(ring) = patiently(|| build(&options(), features)) else { return false };
    let submitter = ring.submitter();
    if submitter.register_enable_rings().is_err() {
        return false;
    }
    let time = Timespec::new().nsec(1_000);
    // Older kernels want zeros where the minimum is: EINVAL; else the wait runs out of time.
    let waited = submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time).min_wait_usec(1));
    waited.is_err_and(|error| error.raw_os_error() == Some(libc::ETIME))
}

fn fixed_buffers_work(features: Features) -> bool {
    let Ok(mut ring) = Uring::new(&options(), &features.with(Feature::FixedBuffers)) else { return false };
    let Ok(mut first) = StagingBuffer::map(STAGING_BYTES_TRIED / 2) else { return false };
    let Ok(mut second) = StagingBuffer::map(STAGING_BYTES_TRIED / 2) else { return false };
    ring.register_staging(&mut [&mut first, &mut second]).is_ok()
}

fn multishot_accept_works(features: Features) -> bool {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = socket::ListenOptions { patience: Duration::ZERO, ..socket::ListenOptions::default() };
    let Ok(listener) = socket::listen(any, &options) else { return false };
    let Ok(_clients) = (0..2).map(|_| std::net::TcpStream::connect(listener.addr)).collect::<Result<Vec<_>, _>>() else {
        return false;
    };
    let Some(bench) = Bench::new(features.with(Feature::MultishotAccept), GroupId::Tcp) else { return false };
    bench.stays_armed(2, |ring, token| ring.accept_multishot(token, Fd(listener.fd.as_raw_fd())))
}

/// A connected pair with bytes waiting at the second end.
fn fed_stream(bytes: &[u8]) -> Option<(UnixStream, UnixStream)> {
    let (sender, receiver) = UnixStream::pair().ok()?;
    io::Write::write_all(&mut &sender, bytes).ok()?;
    Some((sender, receiver))
}

fn multishot_recv_works(features: Features) -> bool {
    let Some((_sender, receiver)) = fed_stream(&[1; 64]) else { return false };
    let Some(bench) = Bench::new(features.with(Feature::MultishotRecv), GroupId::Tcp) else { return false };
    bench.stays_armed(1, |ring, token| ring.recv_multishot(token, Fd(receiver.as_raw_fd()), GroupId::Tcp, 0))
}

fn multishot_recvmsg_works(features: Features) -> bool {
    let Ok((sender, receiver)) = UnixDatagram::pair() else { return false };
    if (0..2).any(|_| sender.send(&[1; 8]).is_err()) {
        return false;
    }
    let Some(bench) = Bench::new(features.with(Feature::MultishotRecvmsg), GroupId::Udp) else { return false };
    bench.stays_armed(2, |ring, token| {
        ring.recvmsg_multishot(token, Fd(receiver.as_raw_fd()), GroupId::Udp, MessageRoom::default())
    })
}

fn byte_cap_works(features: Features) -> bool {
    // The cap is looked at after each buffer: of three buffers' worth, one is taken.
    const CAP: u32 = 16;
    const FED: usize = 10_000;
    let Some((_sender, receiver)) = fed_stream(&[1; FED]) else { return false };
    let features = features.with(Feature::MultishotRecv).with(Feature::ByteCap);
    let Some(mut bench) = Bench::new(features, GroupId::Tcp) else { return false };
    let seen = bench.run(usize::MAX, |ring, token| ring.recv_multishot(token, Fd(receiver.as_raw_fd()), GroupId::Tcp, CAP));
    bench.finish();
    let received: usize = seen.iter().filter_map(|completion| completion.result.ok()).map(|bytes| bytes as usize).sum();
    received >= CAP as usize && received < FED && seen.last().is_some_and(|completion| !completion.more)
}

fn huge_pages_exist() -> bool {
    let reserved = memmap2::MmapOptions::new().len(HUGE_PAGE_BYTES).huge(Some(HUGE_PAGE_BYTES.trailing_zeros() as u8)).map_anon();
    reserved.is_ok() || memory::transparent_huge_pages().is_some_and(|mode| mode != "never")
}

/// Sends a datagram of each kind and looks where it went.
fn steering_works() -> io::Result<bool> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = socket::UdpOptions { patience: Duration::ZERO, ..socket::UdpOptions::default() };
    let sockets = socket::bind_udp(any, &options).map_err(|refusal| io::Error::from_raw_os_error(refusal.errno))?;
    let (Ok([general]), Ok([urgent])) = (<[OwnedFd; 1]>::try_from(sockets.general), <[OwnedFd; 1]>::try_from(sockets.urgent))
    else {
        return Ok(false);
    };
    let sender = UdpSocket::bind(any)?;
    for priority in [0, 4] {
        sender.send_to(&[0, 0, 0, 4, priority, 0, 1, b'x'], sockets.addr)?;
    }
    // On loopback a datagram is in its socket's queue when send returns.
    let priority = |socket: OwnedFd| -> io::Result<u8> {
        let mut bytes = [0; 8];
        UdpSocket::from(socket).recv(&mut bytes)?;
        Ok(bytes[4])
    };
    Ok(priority(general)? == 0 && priority(urgent)? == 4)
}

fn aggregation_works() -> bool {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = socket::UdpOptions { gro: true, steered: false, patience: Duration::ZERO, ..socket::UdpOptions::default() };
    socket::bind_udp(any, &options).is_ok_and(|sockets| sockets.gro)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::findings::parse_release;

    #[test]
    fn a_kernel_at_the_recommended_version_has_what_its_version_promises() {
        let (features, findings) = Features::probe(&[]).expect("tests run where io_uring does");
        assert_eq!(findings.len(), Feature::COUNT);
        let version = parse_release(&process::kernel_release()).expect("a release");
        // What needs no privilege and no configuration of the host.
        let kernel_only = Feature::ALL.into_iter().filter(|f| !matches!(f, Feature::FixedBuffers | Feature::HugePages));
        for feature in kernel_only {
            let since = parse_release(feature.since()).expect("a release");
            assert!(features.has(feature) || version < since, "{} is missing on {version:?}", feature.name());
        }
    }

    #[test]
    fn what_is_taken_away_is_missing_and_said_so() {
        let (features, findings) = Features::probe(&Feature::ALL).expect("the floor is enough");
        assert_eq!(features, Features::NONE);
        assert!(findings.iter().all(|row| row.severity == Severity::Info && row.found.contains("EVENTSTREAM_WITHOUT")));
    }

    #[test]
    fn every_refusal_has_an_error_a_cause_and_a_fix() {
        let ring = [
            RingRefusal::DisabledBySysctl { value: 2 },
            RingRefusal::Forbidden,
            RingRefusal::Missing,
            RingRefusal::Unsupported { step: "io_uring_setup", errno: libc::EINVAL },
            RingRefusal::NoMemory,
            RingRefusal::NoDescriptors,
        ];
        let no_buffers = HostRefusal::NoBufferRing { kernel: "5.15".into(), errno: libc::EINVAL };
        for refusal in ring.map(HostRefusal::Ring).into_iter().chain([no_buffers]) {
            let text = refusal.to_string();
            let starts: Vec<&str> = text.lines().filter_map(|line| line.split(':').next()).collect();
            assert_eq!(starts, ["error", "cause", "fix"], "{text}");
        }
    }

    #[test]
    fn an_errno_names_its_cause() {
        let of = |errno| RingRefusal::of("io_uring_setup", &io::Error::from_raw_os_error(errno));
        assert_eq!(of(libc::ENOSYS), RingRefusal::Missing);
        assert_eq!(of(libc::ENOMEM), RingRefusal::NoMemory);
        assert_eq!(of(libc::EMFILE), RingRefusal::NoDescriptors);
        assert_eq!(of(libc::EINVAL), RingRefusal::Unsupported { step: "io_uring_setup", errno: libc::EINVAL });
        assert!(matches!(of(libc::EPERM), RingRefusal::Forbidden | RingRefusal::DisabledBySysctl { .. }));
    }
}
