//! Over UDP: one system call per datagram, bounded by a rate, because nothing tells the sender what was lost.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::pace::{NAP, Pace};
use super::{Part, Piece, Plan, SendError, Source, Tally, UdpTransport};

/// Bytes of the longest payload over IPv4: 65,535 without IP and UDP headers.
pub(super) const DATAGRAM_BYTES_MAX: usize = 65_507;

/// What a pause may be made up for at once: at the default rate 100 datagrams, which small receive buffers (212 KB, 768 bytes
/// of bookkeeping each) can hold.
const BURST: Duration = Duration::from_millis(2);

/// Sends one thread's part.
pub(super) fn send(plan: &Plan, udp: UdpTransport, thread: usize, source: Source, stop: &AtomicBool) -> Part {
    let address = udp.address;
    let mut part = Part::default();
    let sockets: io::Result<Vec<_>> = (0..plan.connections_of(thread)).map(|_| open(address)).collect();
    let outcome = match sockets {
        Ok(sockets) => {
            let pace = Pace::new(plan.rate_events_per_second, plan.threads, BURST, Instant::now());
            send_all(&sockets, source, pace, udp, stop, &mut part.sent)
        }
        Err(source) => Err(SendError::Connect { address, source }),
    };
    part.failure = outcome.err();
    part
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any)?;
    // Connected, so that the kernel tells when nobody listens.
    socket.connect(address)?;
    Ok(socket)
}

fn send_all(
    sockets: &[UdpSocket],
    mut source: Source,
    mut pace: Pace,
    udp: UdpTransport,
    stop: &AtomicBool,
    sent: &mut Tally,
) -> Result<(), SendError> {
    let lost = |source| SendError::Lost { address: udp.address, source, sent: Tally::default() };
    let mut piece = Piece::default();
    for socket in sockets.iter().cycle() {
        let allowed = loop {
            // Relaxed: only says that another thread has failed.
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match if pace.is_bounded() { pace.allowed(Instant::now()) } else { u64::MAX } {
                0 => std::thread::sleep(pace.pause()),
                allowed => break allowed,
            }
        };
        piece.clear();
        source.fill(&mut piece, DATAGRAM_BYTES_MAX, allowed.min(udp.datagram_events))?;
        if piece.bytes.is_empty() {
            break;
        }
        if piece.bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(SendError::DatagramTooLong { bytes: piece.bytes.len(), sent: Tally::default() });
        }
        pace.took(piece.tally.events());
        send_one(socket, &piece.bytes).map_err(lost)?;
        sent.add(&piece.tally);
    }
    // Nobody listened to the last datagram: known only now.
    sockets
        .iter()
        .find_map(|socket| socket.take_error().transpose())
        .map_or(Ok(()), |error| Err(lost(error.unwrap_or_else(|e| e))))
}

fn send_one(socket: &UdpSocket, bytes: &[u8]) -> io::Result<()> {
    loop {
        match socket.send(bytes) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The device's queue is full: its owner needs a moment.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => std::thread::sleep(NAP),
            Err(error) => return Err(error),
        }
    }
}
