//! What holds of datagrams.

use super::test_support::*;
use crate::bus::Overflow;
use crate::metrics::ledger::DropReason;
use crate::pool::{SlotClass, SlotUse, Source};
use crate::sys::clock::Nanos;
use crate::sys::io::GroupId;
use crate::wire::{FrameRefusal, Priority, Tier};

const UDP: usize = 1;

fn cut_short(rig: &Rig) -> u64 {
    rig.counters.refused[UDP][FrameRefusal::CutShort { missing_bytes: 0 }.index()].get()
}

#[test]
fn a_datagram_of_one_frame_becomes_an_event_where_it_lies() {
    let mut rig = Rig::new(RigOptions::default());
    for len in [1, 300, 2041] {
        assert!(rig.datagram(UDP_REALTIME, &frame(Priority::Critical, &vec![3; len])));
        rig.poll();
        let taken = rig.take(Tier::Realtime);
        assert_eq!((taken[0].class, taken[0].body.clone()), (SlotClass::Medium, vec![3; len]));
        assert_eq!((taken[0].header.source, taken[0].header.connection), (Source::Udp, 0));
        rig.poll();
    }
    assert_eq!(rig.ring.lent[GroupId::Udp as usize].len(), 8, "others took their places");
    rig.drain();
}

#[test]
fn small_frames_are_copied_when_medium_slots_are_scarce() {
    let mut rig = Rig::new(RigOptions { slots: [256, 17, 4, 8, 8], ..RigOptions::default() });
    for i in 0..3 {
        rig.datagram(UDP_REST, &frame(Priority::High, &[i]));
        rig.poll();
    }
    let classes: Vec<_> = rig.take(Tier::Realtime).into_iter().map(|taken| taken.class).collect();
    assert_eq!(classes, [SlotClass::Medium, SlotClass::Small, SlotClass::Small]);
    rig.drain();
}

#[test]
fn several_frames_of_a_datagram_get_slots_of_their_own() {
    let mut rig = Rig::new(RigOptions::default());
    let datagram = [frame(Priority::High, b"1"), frame(Priority::Low, b"2"), frame(Priority::High, b"3")].concat();
    rig.datagram(UDP_REST, &datagram);
    rig.poll();
    assert_eq!(rig.bodies(Tier::Realtime), [b"1", b"3"]);
    assert_eq!(rig.bodies(Tier::Batch), [b"2"]);
    assert_eq!(rig.ring.lent[GroupId::Udp as usize].len(), 8);
    assert_eq!((rig.counters.datagrams.get(), rig.counters.received_bytes[UDP].get()), (1, datagram.len() as u64));
    rig.drain();
}

#[test]
fn the_whole_frames_of_a_cut_datagram_are_stored_and_the_rest_is_counted() {
    let mut rig = Rig::new(RigOptions::default());
    let datagram = [frame(Priority::High, b"1"), frame(Priority::High, b"2")].concat();
    rig.datagram(UDP_REST, &datagram[..datagram.len() - 1]);
    rig.datagram(UDP_REST, &datagram[..5]);
    rig.poll();
    assert_eq!(rig.bodies(Tier::Realtime), [b"1"]);
    assert_eq!((cut_short(&rig), rig.terms().received), (2, 1));
    rig.drain();
}

#[test]
fn a_malformed_datagram_is_refused_by_reason() {
    let mut rig = Rig::new(RigOptions::default());
    let mut datagram = frame(Priority::High, b"1");
    datagram[0] = 0x47;
    rig.datagram(UDP_REST, &datagram);
    assert_eq!(rig.counters.refused[UDP][FrameRefusal::UnknownProtocol { first_byte: 0 }.index()].get(), 1);
    rig.drain();
}

#[test]
fn a_truncated_datagram_is_never_stored() {
    let mut rig = Rig::new(RigOptions::default());
    let datagram = frame(Priority::High, &[1; 2000]);
    for told in [datagram.len() as u32, 65_507] {
        assert!(rig.message(UDP_REST, GroupId::Udp, &[], &datagram, told, libc::MSG_TRUNC as u32));
    }
    assert_eq!((rig.counters.udp_truncated.get(), rig.terms().received), (2, 0));
    assert_eq!(rig.ring.lent[GroupId::Udp as usize].len(), 8);
    rig.drain();
}

#[test]
fn an_empty_datagram_is_counted_and_the_socket_armed_again() {
    let mut rig = Rig::new(RigOptions::default());
    rig.datagram(UDP_REST, b"");
    rig.poll();
    assert_eq!((rig.counters.udp_empty.get(), rig.counters.datagrams.get()), (1, 1));
    assert!(rig.datagram(UDP_REST, &frame(Priority::High, b"1")));
    rig.drain();
}

#[test]
fn a_datagram_that_finds_its_lane_full_is_lost_by_policy_and_counted() {
    for overflow in [Overflow::DropOld, Overflow::DropNew, Overflow::BlockProducer] {
        let mut rig = Rig::new(RigOptions { overflow, lane_events: 2, ..RigOptions::default() });
        for i in 0..3u8 {
            rig.datagram(UDP_REST, &frame(Priority::High, &[i]));
        }
        rig.poll();
        assert_eq!(rig.terms().lost[DropReason::QueueFull as usize], 1, "{overflow}");
        let first = u8::from(overflow == Overflow::DropOld);
        assert_eq!(rig.bodies(Tier::Realtime), [[first], [first + 1]]);
        rig.drain();
    }
}

#[test]
fn a_datagram_without_a_log_is_dropped_as_store_unavailable() {
    let mut rig = Rig::new(RigOptions::default());
    rig.gate.set_store_unavailable(true);
    rig.poll();
    rig.datagram(UDP_REST, &frame(Priority::High, b"1"));
    rig.datagram(UDP_REST, &[frame(Priority::High, b"2"), frame(Priority::High, b"3")].concat());
    assert_eq!(rig.terms().lost[DropReason::StoreUnavailable as usize], 3);
    rig.gate.set_store_unavailable(false);
    rig.poll();
    rig.datagram(UDP_REST, &frame(Priority::High, b"4"));
    rig.poll();
    assert_eq!(rig.bodies(Tier::Realtime), [b"4"]);
    rig.drain();
}

#[test]
fn datagrams_without_a_slot_are_dropped_as_pool_exhausted_and_receiving_recovers() {
    let mut rig = Rig::new(RigOptions { slots: [2, 12, 4, 8, 8], ..RigOptions::default() });
    let sent = 40;
    for i in 0..sent {
        if rig.ring.armed_on(UDP_REST).is_some() {
            rig.datagram(UDP_REST, &frame(Priority::High, &[i; 9]));
        }
    }
    rig.poll();
    let terms = rig.terms();
    let exhausted = terms.lost[DropReason::PoolExhausted as usize];
    let taken = rig.take(Tier::Realtime).len() as u64;
    assert_eq!(terms.received, exhausted + taken);
    rig.poll();
    rig.poll();
    assert!(rig.ring.armed_on(UDP_REST).is_some());
    assert!(rig.datagram(UDP_REST, &frame(Priority::High, b"again")));
    assert_eq!(rig.gauges().in_use[SlotUse::Partial.index()], [0; SlotClass::COUNT]);
    rig.drain();
}

#[test]
fn a_socket_without_buffers_is_armed_again_when_slots_come_home() {
    let mut rig = Rig::new(RigOptions::default());
    let all: Vec<_> = rig.ring.lent[GroupId::Udp as usize].drain(..).collect();
    assert!(!rig.datagram(UDP_REALTIME, b"x"));
    rig.poll();
    assert_eq!(rig.counters.starved.get(), 1);
    rig.ring.lent[GroupId::Udp as usize].extend(all);
    rig.poll();
    assert!(rig.ring.armed_on(UDP_REALTIME).is_some());
    rig.drain();
}

#[test]
fn kernel_drops_are_counted_across_the_wrap_and_read_only_while_there_is_traffic() {
    let mut rig = Rig::new(RigOptions::default());
    assert_eq!(rig.poll().next_deadline, None);
    rig.ring.drops = u32::MAX - 1;
    rig.datagram(UDP_REST, &frame(Priority::Low, b"1"));
    rig.take(Tier::Batch);
    rig.poll();
    rig.pass(Nanos::from_millis(1_000));
    assert_eq!(rig.counters.kernel_drops[0].get(), u64::from(u32::MAX - 1));
    rig.ring.drops = 3;
    rig.datagram(UDP_REST, &frame(Priority::Low, b"1"));
    rig.pass(Nanos::from_millis(1_000));
    rig.pass(Nanos::from_millis(1_000));
    assert_eq!(rig.counters.kernel_drops[0].get(), u64::from(u32::MAX) + 4);
    rig.take(Tier::Batch);
    rig.poll();
    assert_eq!(rig.poll().next_deadline, None, "no traffic, nothing to read");
    rig.drain();
}

#[test]
fn an_aggregate_is_cut_into_its_datagrams() {
    let mut options = RigOptions::default();
    options.reactor.udp_gro_chunks = 2;
    let mut rig = Rig::new(options);
    let one = frame(Priority::High, &[1; 30]);
    let segment = one.len();
    let tail = frame(Priority::High, b"t");
    let mut control = [0u8; 24];
    control[..8].copy_from_slice(&20u64.to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::UDP_GRO.to_ne_bytes());
    control[16..20].copy_from_slice(&(segment as i32).to_ne_bytes());
    let payload = [one.clone(), one.clone(), tail].concat();
    assert!(rig.message(UDP_REST, GroupId::UdpGro, &control, &payload, payload.len() as u32, 0));
    assert!(rig.message(UDP_REST, GroupId::UdpGro, &[], &one, segment as u32, 0));
    rig.poll();
    assert_eq!(rig.bodies(Tier::Realtime), [vec![1; 30], vec![1; 30], b"t".to_vec(), vec![1; 30]]);
    assert_eq!(rig.counters.datagrams.get(), 4);
    rig.drain();
}

#[test]
fn nothing_is_ever_sent_to_a_datagrams_sender() {
    // The ring seam has no operation that could; what remains is that the sockets are left open for the engine to close.
    let mut rig = Rig::new(RigOptions::default());
    rig.datagram(UDP_REST, b"?");
    rig.drain();
    assert!(!rig.ring.closed.contains(&UDP_REST) && !rig.ring.shut.contains(&UDP_REST));
}

#[test]
fn a_drain_with_nothing_in_flight_comes_to_its_end_in_one_poll() {
    let mut rig = Rig::new(RigOptions::default());
    let all: Vec<_> = rig.ring.lent[GroupId::Udp as usize].drain(..).collect();
    for fd in [UDP_REST, UDP_REALTIME] {
        assert!(!rig.datagram(fd, b"x"));
    }
    rig.begin_drain();
    rig.settle();
    let work = rig.pass(Nanos::from_millis(5));
    assert_eq!(work.next_deadline, None);
    rig.ring.lent[GroupId::Udp as usize].extend(all);
    rig.drain();
}
