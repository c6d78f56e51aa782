//! Many datagrams in one send (`UDP_SEGMENT`, udp(7)): the kernel cuts what is written into datagrams of one size, late or never.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

/// Datagrams in one send at most: `UDP_MAX_SEGMENTS` of kernels before 6.12, which later ones double.
pub const SEGMENTS_MAX: usize = 64;

/// From now on each send on the socket is cut into datagrams of so many bytes; the last one may be shorter. 0: not cut.
///
/// # Errors
/// Whatever setsockopt says (ENOPROTOOPT before 4.18).
pub fn set_segment_bytes(socket: &UdpSocket, bytes: u16) -> io::Result<()> {
    let value = i32::from(bytes);
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads exactly an i32 from a valid reference.
    let status =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const value).cast(), len) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_send_becomes_datagrams_of_one_size_and_a_shorter_one() {
        let [sender, receiver] = [0; 2].map(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port"));
        sender.connect(receiver.local_addr().expect("bound")).expect("loopback");
        set_segment_bytes(&sender, 100).expect("Linux since 4.18");
        sender.send(&[1; 250]).expect("sent");
        let mut buffer = [0; 1_000];
        let sizes = [0; 3].map(|_| receiver.recv(&mut buffer).expect("there"));
        assert_eq!(sizes, [100, 100, 50]);
    }
}
