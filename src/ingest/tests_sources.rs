//! What one source may take: connections, events per second.

use super::counters::CloseReason;
use super::message::NAME_BYTES;
use super::sources::SourceLimits;
use super::test_support::{Rig, RigOptions, UDP_REALTIME, UDP_REST, frame};
use crate::metrics::ledger::DropReason;
use crate::pool::SlotClass;
use crate::sys::clock::Nanos;
use crate::sys::io::{Fd, GroupId};
use crate::wire::{Priority, Tier};

const HERE: [u8; 4] = [10, 0, 0, 1];
const THERE: [u8; 4] = [10, 0, 0, 2];

fn rig(connections_max: u32, events_per_s: u32) -> Rig {
    let mut options = RigOptions::default();
    options.reactor.source_limits = SourceLimits { connections_max, events_per_s };
    Rig::new(options)
}

fn frames(numbers: std::ops::Range<u8>) -> Vec<u8> {
    numbers.flat_map(|number| frame(Priority::High, &[number])).collect()
}

fn bodies(rig: &mut Rig) -> Vec<u8> {
    rig.bodies(Tier::Realtime).concat()
}

#[test]
fn a_source_with_all_its_connections_is_closed_and_counted_and_others_come_in() {
    let mut rig = rig(2, 0);
    let first = rig.connect_from(HERE);
    let second = rig.connect_from(HERE);
    let third = rig.connect_from(HERE);
    rig.settle();
    assert!(rig.ring.closed.contains(&third) && rig.ring.armed_on(third).is_none());
    assert_eq!(rig.counters.closed[CloseReason::SourceLimit.index()].get(), 1);
    let other = rig.connect_from(THERE);
    for fd in [first, second, other] {
        rig.send(fd, &frames(1..2));
    }
    assert_eq!(bodies(&mut rig), [1, 1, 1]);
    rig.end(first, Ok(0));
    rig.settle();
    let again = rig.connect_from(HERE);
    rig.settle();
    assert!(rig.ring.armed_on(again).is_some(), "one has gone, one may come");
    rig.drain();
}

#[test]
fn a_source_beyond_its_rate_waits_keeps_its_order_and_loses_nothing() {
    let mut rig = rig(0, 10);
    let (hog, other) = (rig.connect_from(HERE), rig.connect_from(THERE));
    assert!(rig.send(hog, &frames(0..25)) > 0);
    rig.settle();
    assert_eq!(bodies(&mut rig), (0..10).collect::<Vec<u8>>(), "a second's worth");
    assert!(rig.ring.armed_on(hog).is_none(), "what else it sends waits in the kernel");
    assert_eq!(rig.counters.rate_waits.get(), 1);
    rig.send(other, &frames(100..105));
    assert_eq!(bodies(&mut rig), (100..105).collect::<Vec<u8>>(), "another source does not wait");
    let mut came = Vec::new();
    for _ in 0..20 {
        let work = rig.pass(Nanos::from_millis(50));
        assert!(work.next_deadline.is_some_and(|at| at > rig.ring.now), "it looks again, and does not spin");
        came.extend(bodies(&mut rig));
    }
    assert_eq!(came, (10..20).collect::<Vec<u8>>(), "ten in the next second");
    for _ in 0..20 {
        rig.pass(Nanos::from_millis(50));
        came.extend(bodies(&mut rig));
    }
    assert_eq!(came, (10..25).collect::<Vec<u8>>());
    rig.settle();
    assert!(rig.ring.armed_on(hog).is_some(), "it is read again");
    rig.drain();
}

#[test]
fn the_connections_of_a_source_share_its_rate_in_turn() {
    let mut rig = rig(0, 10);
    let (first, second) = (rig.connect_from(HERE), rig.connect_from(HERE));
    rig.send(first, &frames(0..20));
    rig.send(second, &frames(100..120));
    rig.settle();
    assert_eq!(bodies(&mut rig).len(), 10);
    let mut came = Vec::new();
    for _ in 0..12 {
        rig.pass(Nanos::from_millis(100));
        came.extend(bodies(&mut rig));
    }
    let of_first = came.iter().filter(|body| **body < 100).count();
    assert!((5..=7).contains(&of_first) && (5..=7).contains(&(came.len() - of_first)), "{came:?}");
    rig.drain();
}

#[test]
fn a_frame_cut_by_a_chunk_waits_for_its_source_too() {
    let mut rig = rig(0, 1);
    let fd = rig.connect_from(HERE);
    let bytes = frames(0..2);
    let cut = bytes.len() - 3;
    rig.send(fd, &bytes[..cut]);
    rig.send(fd, &bytes[cut..]);
    rig.settle();
    assert_eq!(bodies(&mut rig), [0]);
    rig.pass(Nanos::from_millis(1_010));
    assert_eq!(bodies(&mut rig), [1]);
    rig.drain();
}

#[test]
fn a_drain_takes_what_waits_for_its_rate() {
    let mut rig = rig(0, 1);
    let fd: Fd = rig.connect_from(HERE);
    rig.send(fd, &frames(0..20));
    rig.settle();
    assert_eq!(bodies(&mut rig), [0]);
    rig.drain();
    assert_eq!(rig.terms().received, 20);
}

/// What came of datagrams: the bodies that passed since the last look, and how many events were dropped for the rate in all.
fn outcome(rig: &mut Rig) -> (Vec<u8>, u64) {
    rig.poll();
    (bodies(rig), rig.terms().lost[DropReason::SourceRate as usize])
}

#[test]
fn datagrams_beyond_their_sources_rate_are_dropped_and_counted_and_others_are_not() {
    let mut rig = rig(0, 3);
    rig.ring.sender = HERE;
    for number in 0..5u8 {
        rig.datagram(if number % 2 == 0 { UDP_REST } else { UDP_REALTIME }, &frames(number..number + 1));
    }
    assert_eq!(outcome(&mut rig), (vec![0, 1, 2], 2), "both sockets share the rate");
    rig.ring.sender = THERE;
    rig.datagram(UDP_REST, &frames(100..101));
    assert_eq!(outcome(&mut rig), (vec![100], 2), "another source");
    rig.ring.sender = HERE;
    rig.pass(Nanos::from_millis(334));
    rig.datagram(UDP_REST, &frames(5..7));
    assert_eq!(outcome(&mut rig), (vec![5], 3), "a third of a second is worth one of the two");
    assert_eq!(rig.terms().received, 8);
    rig.drain();
}

#[test]
fn a_rate_takes_datagrams_no_copy_and_without_one_nobody_asks_who_sends() {
    for (events_per_s, name_bytes) in [(1000, NAME_BYTES), (0, 0)] {
        let mut rig = rig(7, events_per_s);
        assert_eq!(rig.ring.room.name_bytes, name_bytes);
        for len in [1, 300, 2041] {
            assert!(rig.datagram(UDP_REALTIME, &frame(Priority::Critical, &vec![3; len])));
            rig.poll();
            let taken = rig.take(Tier::Realtime);
            assert_eq!((taken[0].class, taken[0].body.clone()), (SlotClass::Medium, vec![3; len]), "where the kernel put it");
            rig.poll();
        }
        rig.drain();
    }
}

#[test]
fn an_aggregate_of_datagrams_has_one_source() {
    let mut options = RigOptions::default();
    options.reactor.udp_gro_chunks = 2;
    options.reactor.source_limits = SourceLimits { connections_max: 0, events_per_s: 2 };
    let mut rig = Rig::new(options);
    let one = frames(1..2);
    let mut control = 20u64.to_ne_bytes().to_vec();
    for field in [libc::SOL_UDP, libc::UDP_GRO, one.len() as i32] {
        control.extend(field.to_ne_bytes());
    }
    let payload = frames(1..4);
    assert!(rig.message(UDP_REST, GroupId::UdpGro, &control, &payload, payload.len() as u32, 0));
    assert_eq!((outcome(&mut rig), rig.counters.datagrams.get()), ((vec![1, 2], 1), 3));
    rig.drain();
}

#[test]
fn datagrams_spend_nothing_of_their_address_credit_for_connections() {
    let mut rig = rig(0, 2);
    rig.ring.sender = HERE;
    assert!((0..4u8).all(|number| rig.datagram(UDP_REST, &frames(number..number + 1))));
    let fd = rig.connect_from(HERE);
    rig.send(fd, &frames(10..12));
    assert_eq!(outcome(&mut rig), (vec![0, 1, 10, 11], 2), "whoever forges an address harms no connection");
    rig.drain();
}
