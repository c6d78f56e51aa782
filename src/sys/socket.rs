//! Sockets, made before the runners start: listeners, and datagram sockets that sort by priority before the kernel queues.
//!
//! ```text
//!                     ┌ priority byte < 3 ─► general 0 … n-1 ─┐
//! datagram ─► port ───┤ (classic BPF)        by flow          ├─► one multishot recvmsg each
//!                     └ priority byte ≥ 3 ─► urgent 0 … n-1 ──┘
//! ```
//!
//! Invariants:
//! - **K1** All datagram sockets have the same address; the filter's answer is the index in the order of binding: general ones, then urgent ones.
//! - **K2** The first socket is bound alone and made shareable afterwards, so a port that another process has is refused, not shared.
//! - **K3** All datagrams of a sender with the same urgency go to the same socket, so its order is kept.
//!
//! A flood of the rest can then not make the kernel drop urgent datagrams: they queue in a buffer of their own. A datagram too short for a
//! priority byte goes to a general socket, where the codec refuses it. Each reactor has a pair; which pair a flow belongs to follows from its
//! source address and ports, read from the headers: the hash that the kernel keeps with a packet is 0 for senders on loopback that
//! have not connected, and on NICs that don't compute one, which would lead all of them to the first reactor.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Connections that may wait for an accept.
pub const BACKLOG_CONNECTIONS: i32 = 4096;
/// How long a bind waits for an address in use: after a kill, the dying process's ring holds its sockets for tens of milliseconds.
pub const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
const BIND_RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Offset of the priority byte in a frame, after the u32 length.
const PRIORITY_OFFSET: u32 = 4;
/// From this priority on (HIGH), datagrams are urgent.
const URGENT_PRIORITY_MIN: u32 = 3;
/// Pairs of datagram sockets at most: as many as reactors have numbers.
pub const UDP_PAIRS_MAX: u32 = 256;

/// A socket could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRefusal {
    /// The step that failed.
    pub step: &'static str,
    /// The address that was asked for.
    pub addr: SocketAddr,
    /// What the kernel said.
    pub errno: i32,
}

impl fmt::Display for SocketRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {} failed for {}", self.step, self.addr)?;
        writeln!(f, "cause: {}", io::Error::from_raw_os_error(self.errno))?;
        let port = self.addr.port();
        match self.errno {
            libc::EADDRINUSE => {
                write!(f, "fix:   stop whoever has it (`ss -lntup 'sport = :{port}'`), or choose another port, 0 for a free one")
            }
            libc::EADDRNOTAVAIL => write!(f, "fix:   listen on an address of this host (`ip address`), or on 0.0.0.0 or [::]"),
            libc::EACCES => write!(f, "fix:   choose a port from 1024 on, or grant CAP_NET_BIND_SERVICE"),
            libc::EAFNOSUPPORT => write!(f, "fix:   this host has no IPv6: listen on an IPv4 address"),
            libc::EMFILE | libc::ENFILE => write!(f, "fix:   raise the limit of open files (`ulimit -n`, LimitNOFILE=)"),
            _ => write!(f, "fix:   see socket(7) and ip(7) for this errno"),
        }
    }
}

impl std::error::Error for SocketRefusal {}

/// How to listen for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Several listeners on one port (one per reactor); the kernel spreads connections by hash.
    pub shared_port: bool,
    /// An IPv6 listener takes no IPv4 connections. Without, `[::]` does what the host's `net.ipv6.bindv6only` says.
    pub only_v6: bool,
    /// How long to try while the address is in use.
    pub patience: Duration,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { shared_port: false, only_v6: false, patience: BIND_PATIENCE }
    }
}

/// How to receive datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// Sockets (with steering: pairs of sockets) on the address, one for each reactor; 1 to [`UDP_PAIRS_MAX`].
    pub pairs: u32,
    /// A second socket to each, sorted by the priority byte. Where the kernel refuses the filter there is none.
    pub steered: bool,
    /// Receive buffer wanted per socket, bytes; 0 leaves the host's default.
    pub receive_buffer_bytes: u32,
    /// Let the kernel aggregate datagrams of one flow (`UDP_GRO`).
    pub gro: bool,
    /// An IPv6 socket takes no IPv4 datagrams.
    pub only_v6: bool,
    /// How long to try while the address is in use.
    pub patience: Duration,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { pairs: 1, steered: true, receive_buffer_bytes: 0, gro: false, only_v6: false, patience: BIND_PATIENCE }
    }
}

/// A listener and the address it really has.
#[derive(Debug)]
pub struct Listener {
    /// The socket, non-blocking.
    pub fd: OwnedFd,
    /// With the port that the kernel chose for port 0.
    pub addr: SocketAddr,
}

/// Datagram sockets on one address (K1).
#[derive(Debug)]
pub struct UdpSockets {
    /// Take everything that `urgent` doesn't; as many as wanted, one where the kernel refuses to share the port.
    pub general: Vec<OwnedFd>,
    /// Take HIGH and CRITICAL: as many as `general`, none without steering.
    pub urgent: Vec<OwnedFd>,
    /// With the port that the kernel chose for port 0.
    pub addr: SocketAddr,
    /// Receive buffer per socket as granted, bytes, without the kernel's doubling for its bookkeeping.
    pub receive_buffer_bytes: u32,
    /// Whether the kernel aggregates.
    pub gro: bool,
}

/// Opens a listener.
///
/// # Errors
/// The step that failed, and why.
pub fn listen(addr: SocketAddr, options: &ListenOptions) -> Result<Listener, SocketRefusal> {
    let refused = |step| move |error: io::Error| refusal(step, addr, &error);
    let fd = open(addr, libc::SOCK_STREAM, options.only_v6)?;
    // A restart must not wait for connections of its predecessor in TIME_WAIT.
    set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1).map_err(refused("setting SO_REUSEADDR"))?;
    if options.shared_port {
        set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).map_err(refused("setting SO_REUSEPORT"))?;
    }
    patiently(options.patience, || {
        bind(&fd, addr)?;
        // SAFETY: no pointers; `fd` is open. With SO_REUSEADDR a port in use may show only here.
        check(unsafe { libc::listen(fd.as_raw_fd(), BACKLOG_CONNECTIONS) })
    })
    .map_err(refused("listening"))?;
    let addr = local_addr(&fd).map_err(refused("reading the bound address"))?;
    Ok(Listener { fd, addr })
}

/// Opens the datagram sockets of all reactors.
///
/// # Errors
/// The step that failed, and why. A filter, a buffer size or aggregation that is refused is no error: compare the result with the options.
///
/// # Panics
/// If no pair, or more than [`UDP_PAIRS_MAX`], are asked for.
pub fn bind_udp(addr: SocketAddr, options: &UdpOptions) -> Result<UdpSockets, SocketRefusal> {
    assert!((1..=UDP_PAIRS_MAX).contains(&options.pairs), "a pair for each reactor");
    let refused = |step| move |error: io::Error| refusal(step, addr, &error);
    let first = open(addr, libc::SOCK_DGRAM, options.only_v6)?;
    patiently(options.patience, || bind(&first, addr)).map_err(refused("binding"))?; // K2: alone
    let addr = local_addr(&first).map_err(refused("reading the bound address"))?;
    let mut general = vec![first];
    let mut urgent = Vec::new();
    if (options.steered || options.pairs > 1) && set_option(&general[0], libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).is_ok() {
        // The group exists from the second bind on, in the order of binding (K1). What comes before the filter is spread by the
        // kernel's hash, which delays nothing at start.
        let is_shared = add_sockets(&mut general, options.pairs, addr, options)?;
        if options.steered && is_shared {
            let is_steered = add_sockets(&mut urgent, options.pairs, addr, options)?
                && attach_filter(&general[0], &mut steering_filter(options.pairs)).is_ok();
            if !is_steered {
                urgent.clear();
            }
        }
    }
    let mut granted = u32::MAX;
    let mut gro = options.gro;
    for fd in general.iter().chain(&urgent) {
        granted =
            granted.min(set_receive_buffer(fd, options.receive_buffer_bytes).map_err(refused("sizing the receive buffer"))?);
        gro &= options.gro && set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
    }
    Ok(UdpSockets { general, urgent, addr, receive_buffer_bytes: granted, gro })
}

/// Fills `sockets` up to `wanted` on the address of a bound, shareable one; false if the kernel refuses to share it.
fn add_sockets(sockets: &mut Vec<OwnedFd>, wanted: u32, addr: SocketAddr, options: &UdpOptions) -> Result<bool, SocketRefusal> {
    while sockets.len() < wanted as usize {
        let fd = open(addr, libc::SOCK_DGRAM, options.only_v6)?;
        if set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).and_then(|()| bind(&fd, addr)).is_err() {
            return Ok(false);
        }
        sockets.push(fd);
    }
    Ok(true)
}

/// The filter for `n` pairs: `(priority byte >= 3 ? n : 0) + hash(source address, ports) % n`, as an index of sockets. Loads beyond the
/// datagram end the program with 0.
fn steering_filter(pairs: u32) -> Vec<libc::sock_filter> {
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const LOAD_WORD_BEHIND_X: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_IND;
    const LOAD_CELL: u32 = libc::BPF_LD | libc::BPF_MEM;
    const LOAD_CELL_TO_X: u32 = libc::BPF_LDX | libc::BPF_MEM;
    const ARITHMETIC: u32 = libc::BPF_ALU | libc::BPF_K;
    const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const JUMP_IF_GREATER_OR_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    const RETURN_A: u32 = libc::BPF_RET | BPF_A;
    /// `BPF_A` of `linux/filter.h`: the accumulator, as a return value.
    const BPF_A: u32 = 0x10;
    /// `SKF_NET_OFF`: offsets from here on count from the IP header.
    const IP: u32 = -0x10_0000i32 as u32;
    /// 2^32 / golden ratio: neighbouring ports end up far apart in the upper bits.
    const SPREAD: u32 = 0x9e37_79b1;
    const ADDRESS: u32 = 0;
    const PAIR: u32 = 1;

    let jump = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let step = |code: u32, k| jump(code, 0, 0, k);
    if pairs == 1 {
        return vec![
            step(LOAD_BYTE, PRIORITY_OFFSET),
            jump(JUMP_IF_GREATER_OR_EQUAL, 0, 1, URGENT_PRIORITY_MIN),
            step(RETURN, 1),
            step(RETURN, 0),
        ];
    }
    vec![
        step(LOAD_BYTE, IP),
        step(ARITHMETIC | libc::BPF_RSH, 4),
        jump(JUMP_IF_EQUAL, 0, 8, 4), // IP version; an IPv6 socket may take both
        // IPv4: the ports follow a header of so many words.
        step(LOAD_BYTE, IP),
        step(ARITHMETIC | libc::BPF_AND, 0xf),
        step(ARITHMETIC | libc::BPF_LSH, 2),
        step(libc::BPF_MISC | libc::BPF_TAX, 0),
        step(LOAD_WORD, IP.wrapping_add(12)),
        step(libc::BPF_ST, ADDRESS),
        step(LOAD_WORD_BEHIND_X, IP),
        step(libc::BPF_JMP | libc::BPF_JA, 3),
        // IPv6: the last word of the source address. With extension headers what follows is not the ports, but the same for a flow.
        step(LOAD_WORD, IP.wrapping_add(20)),
        step(libc::BPF_ST, ADDRESS),
        step(LOAD_WORD, IP.wrapping_add(40)),
        // Both: mix and reduce.
        step(LOAD_CELL_TO_X, ADDRESS),
        step(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
        step(ARITHMETIC | libc::BPF_MUL, SPREAD),
        step(ARITHMETIC | libc::BPF_RSH, 16),
        step(ARITHMETIC | libc::BPF_MOD, pairs),
        step(libc::BPF_ST, PAIR),
        step(LOAD_BYTE, PRIORITY_OFFSET),
        jump(JUMP_IF_GREATER_OR_EQUAL, 0, 3, URGENT_PRIORITY_MIN),
        step(LOAD_CELL, PAIR),
        step(ARITHMETIC | libc::BPF_ADD, pairs),
        step(RETURN_A, 0),
        step(LOAD_CELL, PAIR),
        step(RETURN_A, 0),
    ]
}

fn attach_filter(fd: &OwnedFd, filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    set_option_value(fd, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

/// Sends small writes at once (`TCP_NODELAY`).
///
/// # Errors
/// Whatever setsockopt says (not a TCP socket).
pub fn set_nodelay(fd: &OwnedFd) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Asks for a receive buffer and says what was granted, both without the kernel's doubling.
fn set_receive_buffer(fd: &OwnedFd, bytes: u32) -> io::Result<u32> {
    if bytes > 0 {
        let wanted = bytes.min(i32::MAX as u32 / 2) as i32;
        // FORCE needs CAP_NET_ADMIN and ignores net.core.rmem_max; the other is cut to it.
        set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted)
            .or_else(|_| set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, wanted))?;
    }
    Ok(option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF)? as u32 / 2)
}

/// Datagrams dropped on a socket so far: exact without aggregation; wraps at 2^32. `None` where the kernel doesn't say.
pub(super) fn dropped_datagrams(fd: i32) -> Option<u32> {
    /// `SK_MEMINFO_DROPS`, and the count of values, of `linux/sock_diag.h`.
    const DROPS: usize = 8;
    let mut values = [0u32; DROPS + 1];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into the exclusively borrowed array.
    let status = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, values.as_mut_ptr().cast(), &raw mut len) };
    (status == 0 && len as usize >= size_of_val(&values)).then_some(values[DROPS])
}

fn refusal(step: &'static str, addr: SocketAddr, error: &io::Error) -> SocketRefusal {
    SocketRefusal { step, addr, errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
}

fn check(status: i32) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tries until it works, fails for another reason than an address in use, or patience ends.
fn patiently(patience: Duration, mut step: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match step() {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && begun.elapsed() < patience => {
                std::thread::sleep(BIND_RETRY_PAUSE);
            }
            result => return result,
        }
    }
}

fn open(addr: SocketAddr, kind: i32, only_v6: bool) -> Result<OwnedFd, SocketRefusal> {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(refusal("opening a socket", addr, &io::Error::last_os_error()));
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if addr.is_ipv6() && only_v6 {
        set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)
            .map_err(|error| refusal("setting IPV6_V6ONLY", addr, &error))?;
    }
    Ok(fd)
}

fn set_option(fd: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option_value(fd, level, name, &value)
}

fn set_option_value<T>(fd: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads exactly a `T` from a valid reference; a filter's own pointer is valid while its array is borrowed.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), len) })
}

fn option(fd: &OwnedFd, level: i32, name: i32) -> io::Result<i32> {
    let (mut value, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `len` bytes into an exclusively borrowed i32.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

fn bind(fd: &OwnedFd, addr: SocketAddr) -> io::Result<()> {
    match addr {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: reads a valid sockaddr_in of the given length.
            check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), size_of_val(&raw) as libc::socklen_t) })
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: reads a valid sockaddr_in6 of the given length.
            check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), size_of_val(&raw) as libc::socklen_t) })
        }
    }
}

fn local_addr(fd: &OwnedFd) -> io::Result<SocketAddr> {
    address(fd.as_raw_fd(), libc::getsockname)
}

/// The address that a connection comes from; `None` where it has none, or is gone already.
pub(super) fn peer_address(fd: i32) -> Option<IpAddr> {
    address(fd, libc::getpeername).ok().map(|address| address.ip())
}

type AddressCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn address(fd: i32, ask: AddressCall) -> io::Result<SocketAddr> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into the exclusively borrowed storage.
    check(unsafe { ask(fd, storage.as_mut_ptr().cast(), &raw mut len) })?;
    // SAFETY: zeroed, then written by the kernel; every bit pattern is valid.
    let storage = unsafe { storage.assume_init() };
    if i32::from(storage.ss_family) == libc::AF_INET {
        // SAFETY: the family says that it is a sockaddr_in, and a sockaddr_storage is large and aligned enough for any address.
        let raw = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in>() };
        let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
        return Ok(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into());
    }
    // SAFETY: only IPv4 and IPv6 sockets are made here; as above.
    let raw = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in6>() };
    let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
    Ok(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), raw.sin6_flowinfo, raw.sin6_scope_id).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpStream, UdpSocket};

    const LOOPBACK: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    const LOOPBACK6: SocketAddr = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0));
    const AT_ONCE: Duration = Duration::ZERO;

    /// The payloads queued on a socket.
    fn queued(fd: OwnedFd) -> Vec<Vec<u8>> {
        let socket = UdpSocket::from(fd);
        let mut buffer = [0; 64];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec())).collect()
    }

    #[test]
    fn datagrams_are_steered_by_their_priority_byte() {
        let sockets = bind_udp(LOOPBACK, &UdpOptions::default()).expect("bound");
        let sender = UdpSocket::bind(LOOPBACK).expect("bound");
        for priority in 0..=5u8 {
            sender.send_to(&[0, 0, 0, 4, priority, 0, 1, b'x'], sockets.addr).expect("sent");
        }
        sender.send_to(&[], sockets.addr).expect("sent");
        sender.send_to(&[0, 0, 0, 4], sockets.addr).expect("sent");
        let [urgent] = sockets.urgent.try_into().expect("this kernel has the filter");
        let urgent = queued(urgent);
        assert_eq!(urgent.iter().map(|bytes| bytes[4]).collect::<Vec<_>>(), [3, 4, 5]);
        let [general] = sockets.general.try_into().expect("one pair");
        let general = queued(general);
        assert_eq!(general.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 8, 0, 4]);
    }

    /// For 64 senders, three datagrams of each urgency: which socket got whose.
    fn senders_by_socket(sockets: Vec<OwnedFd>, wanted: fn(u8) -> bool) -> Vec<std::collections::BTreeMap<u8, u32>> {
        let by_sender = |fd| {
            let mut senders = std::collections::BTreeMap::new();
            for bytes in queued(fd) {
                assert!(wanted(bytes[4]), "priority {} at the wrong kind of socket", bytes[4]);
                *senders.entry(bytes[7]).or_insert(0) += 1;
            }
            senders
        };
        sockets.into_iter().map(by_sender).collect()
    }

    fn check_pairs_of(loopback: SocketAddr) {
        let pairs = 4;
        let sockets = bind_udp(loopback, &UdpOptions { pairs, ..UdpOptions::default() }).expect("bound");
        assert_eq!((sockets.general.len(), sockets.urgent.len()), (4, 4));
        let senders: Vec<_> = (0..64).map(|_| UdpSocket::bind(loopback).expect("bound")).collect();
        for priority in 0..=5u8 {
            for (number, sender) in senders.iter().enumerate() {
                sender.send_to(&[0, 0, 0, 4, priority, 0, 1, number as u8], sockets.addr).expect("sent");
            }
        }
        let general = senders_by_socket(sockets.general, |priority| priority < URGENT_PRIORITY_MIN as u8);
        let urgent = senders_by_socket(sockets.urgent, |priority| priority >= URGENT_PRIORITY_MIN as u8);
        for kind in [&general, &urgent] {
            assert!(kind.iter().flatten().all(|(_, datagrams)| *datagrams == 3), "K3: {kind:?}");
            assert_eq!(kind.iter().flatten().count(), 64, "nothing is lost: {kind:?}");
            // 64 flows on 4 sockets: that one of them stays empty by chance happens once in 25 million runs.
            assert!(kind.iter().all(|senders| !senders.is_empty()), "flows are spread: {kind:?}");
        }
        assert_eq!(general, urgent, "both kinds of a sender belong to the same reactor");
    }

    #[test]
    fn flows_are_spread_over_pairs_and_keep_to_their_socket() {
        check_pairs_of(LOOPBACK);
        if UdpSocket::bind(LOOPBACK6).is_ok() {
            check_pairs_of(LOOPBACK6);
        } else {
            eprintln!("SKIPPED: this host has no IPv6 loopback");
        }
    }

    #[test]
    fn without_steering_there_is_one_socket_for_each_reactor() {
        let options = UdpOptions { pairs: 3, steered: false, ..UdpOptions::default() };
        let sockets = bind_udp(LOOPBACK, &options).expect("bound");
        assert_eq!((sockets.general.len(), sockets.urgent.len()), (3, 0));
    }

    #[test]
    fn a_pair_on_port_0_shares_the_port_that_was_chosen() {
        let sockets = bind_udp(LOOPBACK, &UdpOptions::default()).expect("bound");
        assert_ne!(sockets.addr.port(), 0);
        assert_eq!(local_addr(&sockets.general[0]).unwrap(), sockets.addr);
        assert_eq!(local_addr(&sockets.urgent[0]).unwrap(), sockets.addr);
    }

    #[test]
    fn a_busy_port_is_refused_even_to_a_pair() {
        let options = UdpOptions { patience: AT_ONCE, ..UdpOptions::default() };
        let first = bind_udp(LOOPBACK, &options).expect("bound");
        let refusal = bind_udp(first.addr, &options).unwrap_err();
        assert_eq!(refusal.errno, libc::EADDRINUSE);
        let text = refusal.to_string();
        assert!(text.lines().count() == 3 && text.contains(&first.addr.port().to_string()), "{text}");
        let listener = listen(LOOPBACK, &ListenOptions::default()).expect("listening");
        let options = ListenOptions { patience: AT_ONCE, ..ListenOptions::default() };
        assert_eq!(listen(listener.addr, &options).unwrap_err().errno, libc::EADDRINUSE);
    }

    #[test]
    fn a_port_that_comes_free_in_time_is_taken() {
        let mut holder = Some(listen(LOOPBACK, &ListenOptions::default()).expect("listening"));
        let addr = holder.as_ref().unwrap().addr;
        let mut tries = 0;
        patiently(Duration::from_secs(60), || {
            tries += 1;
            if tries == 2 {
                holder.take();
            }
            listen(addr, &ListenOptions { patience: AT_ONCE, ..ListenOptions::default() })
                .map(drop)
                .map_err(|refusal| io::Error::from_raw_os_error(refusal.errno))
        })
        .expect("free at the second try");
        assert_eq!(tries, 2);
    }

    #[test]
    fn a_listener_takes_connections_and_says_its_address() {
        let listener = listen(LOOPBACK, &ListenOptions { shared_port: true, ..ListenOptions::default() }).expect("listening");
        let second = listen(listener.addr, &ListenOptions { shared_port: true, ..ListenOptions::default() }).expect("shared");
        assert_eq!(second.addr, listener.addr);
        let stream = OwnedFd::from(TcpStream::connect(listener.addr).expect("connected"));
        set_nodelay(&stream).expect("a TCP socket");
        assert_eq!(option(&stream, libc::IPPROTO_TCP, libc::TCP_NODELAY).unwrap(), 1);
    }

    #[test]
    fn ipv6_works_like_ipv4() {
        let options = ListenOptions { only_v6: true, ..ListenOptions::default() };
        match listen(LOOPBACK6, &options) {
            Err(refusal) if matches!(refusal.errno, libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {
                eprintln!("SKIPPED: this host has no IPv6 loopback");
                return;
            }
            listener => TcpStream::connect(listener.expect("listening").addr).expect("connected"),
        };
        let sockets = bind_udp(LOOPBACK6, &UdpOptions { only_v6: true, ..UdpOptions::default() }).expect("bound");
        let sender = UdpSocket::bind(LOOPBACK6).expect("bound");
        sender.send_to(&[0, 0, 0, 4, 4, 0, 1, b'x'], sockets.addr).expect("sent");
        let [urgent] = sockets.urgent.try_into().expect("steered");
        assert_eq!(queued(urgent).len(), 1);
    }

    #[test]
    fn the_receive_buffer_is_what_was_granted_not_what_was_asked_for() {
        let asked = UdpOptions { receive_buffer_bytes: 64 << 10, ..UdpOptions::default() };
        assert_eq!(bind_udp(LOOPBACK, &asked).expect("bound").receive_buffer_bytes, 64 << 10);
        assert!(bind_udp(LOOPBACK, &UdpOptions::default()).expect("bound").receive_buffer_bytes > 0);
    }

    #[test]
    fn drops_of_a_full_socket_are_counted_exactly() {
        let options = UdpOptions { steered: false, receive_buffer_bytes: 4096, ..UdpOptions::default() };
        let sockets = bind_udp(LOOPBACK, &options).expect("bound");
        let sender = UdpSocket::bind(LOOPBACK).expect("bound");
        let sent = 500;
        for _ in 0..sent {
            sender.send_to(&[1; 64], sockets.addr).expect("sent");
        }
        let [general] = sockets.general.try_into().expect("one socket");
        let dropped = dropped_datagrams(general.as_raw_fd()).expect("SO_MEMINFO");
        assert!(dropped > 0);
        assert_eq!(queued(general).len() as u32 + dropped, sent);
    }

    #[test]
    fn a_connection_knows_where_it_comes_from() {
        for address in [LOOPBACK, LOOPBACK6] {
            let Ok(listener) = listen(address, &ListenOptions { patience: AT_ONCE, ..ListenOptions::default() }) else {
                eprintln!("skipped: this host has no {address}");
                continue;
            };
            let client = TcpStream::connect(listener.addr).expect("it listens");
            assert_eq!(peer_address(client.as_raw_fd()), Some(address.ip()));
            assert_eq!(peer_address(listener.fd.as_raw_fd()), None, "a listener has no peer");
        }
    }
}
