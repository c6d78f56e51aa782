//! What the kernel puts in front of a datagram. Pure.
//!
//! ```text
//! │ recvmsg_out, 16 │ name, 28 or 0 │ control messages, 32 or 0 │ payload
//! ```
//!
//! `struct io_uring_recvmsg_out`: four u32 in the host's order (name bytes, control bytes, payload bytes, flags), from
//! `include/uapi/linux/io_uring.h`. The name is a `sockaddr_in` or `sockaddr_in6`, `ip(7)` and `ipv6(7)`. The segment size is an int in a
//! SOL_UDP/UDP_GRO control message, `udp(7)`.

use std::net::IpAddr;

use crate::sys::io::MessageRoom;

/// Bytes of `struct io_uring_recvmsg_out`.
pub(super) const MESSAGE_HEADER_BYTES: usize = 16;
/// Room for a sender's name: `sizeof(struct sockaddr_in6)`, the longer of the two.
pub(super) const NAME_BYTES: u32 = 28;
/// Room for the control message of GRO: `CMSG_SPACE(sizeof(int))` is 24 on 64-bit hosts.
pub(super) const GRO_CONTROL_BYTES: u32 = 32;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    name: &'a [u8],
    control: &'a [u8],
    /// What came, as far as it fitted.
    pub(super) payload: &'a [u8],
    pub(super) is_truncated: bool,
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

impl<'a> Message<'a> {
    /// The message in these bytes, received with so much room in front of the payload. `None`: they are too few.
    pub(super) fn read(bytes: &'a [u8], room: MessageRoom) -> Option<Message<'a>> {
        let (name_room, control_room) = (room.name_bytes as usize, room.control_bytes as usize);
        let (name, rest) = bytes.get(MESSAGE_HEADER_BYTES..)?.split_at_checked(name_room)?;
        let (control, payload) = rest.split_at_checked(control_room)?;
        // With MSG_TRUNC the kernel may tell the lengths that they had.
        let field = |place: usize, most: usize| Some((u32_at(bytes, 4 * place)? as usize).min(most));
        Some(Message {
            name: &name[..field(0, name_room)?],
            control: &control[..field(1, control_room)?],
            payload: &payload[..field(2, payload.len())?],
            is_truncated: u32_at(bytes, 12)? & libc::MSG_TRUNC as u32 != 0,
        })
    }

    /// Who sent it, if that was asked for.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let family = u16::from_ne_bytes(*self.name.first_chunk()?);
        match i32::from(family) {
            libc::AF_INET => self.name.get(4..)?.first_chunk().map(|octets: &[u8; 4]| IpAddr::from(*octets)),
            libc::AF_INET6 => self.name.get(8..)?.first_chunk().map(|octets: &[u8; 16]| IpAddr::from(*octets)),
            _ => None,
        }
    }

    /// The size of the datagrams that the kernel has put together (`struct cmsghdr`: length usize, level int, type int; data; padding to usize).
    pub(super) fn segment_bytes(&self) -> Option<usize> {
        const HEAD: usize = size_of::<usize>() + 8;
        let mut control = self.control;
        while control.len() >= HEAD {
            let len = usize::from_ne_bytes(*control.first_chunk()?);
            if len < HEAD || len > control.len() {
                return None;
            }
            let (level, what) = (u32_at(control, size_of::<usize>())?, u32_at(control, size_of::<usize>() + 4)?);
            if level == libc::SOL_UDP as u32 && what == libc::UDP_GRO as u32 {
                return u32_at(&control[..len], HEAD).map(|size| size as usize).filter(|size| *size > 0);
            }
            control = control.get(len.next_multiple_of(size_of::<usize>())..)?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: MessageRoom = MessageRoom { name_bytes: NAME_BYTES, control_bytes: 0 };

    fn with_name(told_bytes: u32, name: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = [told_bytes, 0, 3, 0].iter().flat_map(|field| field.to_ne_bytes()).collect();
        bytes.extend(name);
        bytes.resize(MESSAGE_HEADER_BYTES + NAME_BYTES as usize, 0xDB);
        bytes.extend(b"abc");
        bytes
    }

    fn family(family: i32) -> Vec<u8> {
        (family as u16).to_ne_bytes().to_vec()
    }

    #[test]
    fn a_name_is_an_address_of_either_family_and_nothing_else() {
        let of = |told_bytes, name: &[u8]| Message::read(&with_name(told_bytes, name), ROOM).expect("enough bytes").address();
        let v4 = [family(libc::AF_INET), vec![0x12, 0x34, 192, 0, 2, 7]].concat();
        assert_eq!(of(16, &v4), Some("192.0.2.7".parse().unwrap()));
        let v6 = [family(libc::AF_INET6), vec![0; 6], (1..=16).collect()].concat();
        assert_eq!(of(28, &v6), Some("102:304:506:708:90a:b0c:d0e:f10".parse().unwrap()));
        assert_eq!(of(0, &v4), None, "the kernel told none");
        assert_eq!(of(7, &v4), None, "cut short");
        assert_eq!(of(23, &v6), None, "cut short");
        assert_eq!(of(28, &family(libc::AF_UNIX)), None);
        assert_eq!(of(u32::MAX, &v4), Some("192.0.2.7".parse().unwrap()), "no further than there is room");
    }

    #[test]
    fn a_message_is_read_at_every_length_it_may_be_cut_to() {
        let bytes = with_name(16, &family(libc::AF_INET));
        let head = MESSAGE_HEADER_BYTES + NAME_BYTES as usize;
        for len in 0..=bytes.len() {
            let read = Message::read(&bytes[..len], ROOM);
            assert_eq!(read.map(|message| message.payload.len()), len.checked_sub(head), "{len}");
        }
    }
}
