//! What one source may take: connections, events per second.

use super::counters::CloseReason;
use super::sources::SourceLimits;
use super::test_support::{Rig, RigOptions, frame};
use crate::sys::clock::Nanos;
use crate::sys::io::Fd;
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
