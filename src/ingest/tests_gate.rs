//! What the gate makes of arrivals: who is held, who is shed, and that nobody is held when it opens.

use super::counters::CloseReason;
use super::test_support::*;
use crate::control::Level;
use crate::metrics::ledger::DropReason;
use crate::pool::SlotClass;
use crate::storage::dead_letter::line::SampleKind;
use crate::sys::clock::Nanos;
use crate::wire::{Priority, Tier};

fn lost(rig: &Rig, reason: DropReason) -> u64 {
    rig.terms().lost[reason as usize]
}

fn rig_at(level: Level) -> Rig {
    let mut rig = Rig::new(RigOptions::default());
    rig.gate.set_level(level);
    rig.poll();
    rig
}

/// One frame of each priority, whose body is the priority's byte.
fn one_of_each() -> Vec<Vec<u8>> {
    Priority::ALL.map(|priority| frame(priority, &[priority as u8])).to_vec()
}

#[test]
fn a_paused_tier_holds_its_connections_until_the_level_falls_and_no_others() {
    let mut rig = rig_at(Level::Degraded);
    let (held, free) = (rig.connect(), rig.connect());
    rig.send(held, &[frame(Priority::Medium, b"1"), frame(Priority::High, b"behind it")].concat());
    rig.send(free, &frame(Priority::High, b"2"));
    rig.send(free, &frame(Priority::Low, b"3"));
    rig.settle();
    assert_eq!(rig.bodies(Tier::Realtime), [b"2"]);
    assert_eq!(rig.bodies(Tier::Batch), [b"3"], "who can wait is taken in BATCH");
    assert_eq!((rig.bodies(Tier::Transactional).len(), rig.terms().dropped()), (0, 0));
    rig.gate.set_level(Level::Elevated);
    rig.settle();
    assert_eq!(rig.bodies(Tier::Transactional), [b"1"]);
    assert_eq!(rig.bodies(Tier::Realtime), [b"behind it"]);
    rig.drain();
}

#[test]
fn deadlines_stand_still_while_a_level_holds_a_connection() {
    let mut options = RigOptions::default();
    options.reactor.frame_deadline = Nanos::from_millis(50);
    options.reactor.idle_deadline = Nanos::from_millis(50);
    let mut rig = Rig::new(options);
    rig.gate.set_level(Level::Degraded);
    rig.poll();
    let client = rig.connect();
    let (first, second) = (frame(Priority::Medium, b"1"), frame(Priority::Medium, b"2"));
    rig.send(client, &[&first[..], &second[..9]].concat());
    for _ in 0..100 {
        rig.pass(Nanos::from_millis(10));
    }
    assert_eq!(rig.counters.slow_frame.get() + rig.counters.closed[CloseReason::Idle.index()].get(), 0);
    rig.gate.set_level(Level::Healthy);
    rig.settle();
    rig.send(client, &second[9..]);
    rig.settle();
    assert_eq!(rig.bodies(Tier::Transactional), [b"1", b"2"]);
    rig.drain();
}

#[test]
fn a_reactor_that_only_waits_for_the_end_of_a_pause_looks_rarely() {
    let mut rig = rig_at(Level::Degraded);
    let client = rig.connect();
    rig.send(client, &frame(Priority::Medium, b"1"));
    rig.settle();
    let now = rig.ring.now;
    assert_eq!(rig.poll().next_deadline, Some(now + Nanos::from_millis(5)));
    rig.gate.set_level(Level::Healthy);
    rig.settle();
    rig.drain();
}

#[test]
fn it_looks_as_rarely_where_those_who_are_held_have_all_memory_and_chunks() {
    let mut options = RigOptions::default();
    options.reactor.tcp_chunks_offered = 2;
    (options.slots[SlotClass::Chunk.index()], options.slots[SlotClass::Parking.index()]) = (2, 1);
    let mut rig = Rig::new(options);
    rig.gate.set_level(Level::Degraded);
    rig.poll();
    let clients = [(); 4].map(|()| rig.connect());
    for (number, client) in clients.into_iter().enumerate() {
        rig.send(client, &frame(Priority::Medium, &[number as u8]));
        rig.settle();
        let now = rig.ring.now;
        assert_eq!(rig.poll().next_deadline, Some(now + Nanos::from_millis(5)), "with {} held", number + 1);
    }
    assert_eq!((rig.counters.pinned_chunks.get(), rig.counters.starved.get()), (2, 1));
    rig.gate.set_level(Level::Healthy);
    rig.settle();
    assert_eq!(rig.bodies(Tier::Transactional), [[0], [1], [2]]);
    assert!(rig.ring.armed_on(clients[3]).is_some(), "who found no chunk is read again");
    rig.drain();
}

#[test]
fn each_level_sheds_datagrams_as_its_table_says() {
    for (level, backpressure, emergency, kept) in [
        (Level::Elevated, 0, 0, [2, 1, 2]),
        (Level::Degraded, 3, 0, [2, 0, 0]),
        (Level::Critical, 3, 0, [2, 0, 0]),
        (Level::Emergency, 0, 4, [1, 0, 0]),
    ] {
        let mut rig = rig_at(level);
        one_of_each().iter().for_each(|frame| assert!(rig.datagram(UDP_REST, frame)));
        rig.poll();
        let shed = (lost(&rig, DropReason::BackpressureDrop), lost(&rig, DropReason::EmergencyDrop));
        assert_eq!(shed, (backpressure, emergency), "{level:?}");
        assert_eq!(Tier::ALL.map(|tier| rig.bodies(tier).len()), kept, "{level:?}");
        rig.datagram(UDP_REST, &one_of_each().concat());
        rig.poll();
        assert_eq!(Tier::ALL.map(|tier| rig.bodies(tier).len()), kept, "{level:?}: several frames in one datagram");
        rig.drain();
    }
}

#[test]
fn of_what_a_level_sheds_a_few_whole_events_a_second_are_dead_letters_too() {
    let mut rig = rig_at(Level::Emergency);
    for second in 1..=2u64 {
        for n in 0..50u8 {
            rig.datagram(UDP_REST, &frame(Priority::Low, &[n]));
        }
        rig.poll();
        assert_eq!(lost(&rig, DropReason::EmergencyDrop), second * 50);
        let samples = rig.letters();
        assert!(
            samples.iter().all(|letter| letter.reason == DropReason::EmergencyDrop && letter.sample == Some(SampleKind::Whole))
        );
        let bodies: Vec<_> = samples.iter().map(|letter| letter.body.clone()).collect();
        assert_eq!(bodies, (0..10u8).map(|n| vec![n]).collect::<Vec<_>>(), "the first ten of second {second}");
        rig.pass(Nanos::from_millis(1000));
    }
    rig.drain();
}

#[test]
fn what_connections_send_to_a_shed_tier_is_read_counted_and_dropped() {
    for (level, backpressure, emergency, kept) in [(Level::Critical, 2, 0, [2, 0, 0]), (Level::Emergency, 0, 4, [1, 0, 0])] {
        let mut rig = rig_at(level);
        let client = rig.connect();
        let mut bytes: Vec<u8> =
            one_of_each().into_iter().filter(|f| level > Level::Critical || f[4] != Priority::Medium as u8).flatten().collect();
        // Longer than a chunk: it is put together before it is judged, and its slot comes back.
        bytes.extend(frame(Priority::Batch, &[7; 3 * CHUNK_BYTES]));
        bytes.extend(frame(Priority::Critical, b"behind it"));
        rig.send(client, &bytes);
        rig.settle();
        let shed = (lost(&rig, DropReason::BackpressureDrop), lost(&rig, DropReason::EmergencyDrop));
        assert_eq!(shed.0 + shed.1, backpressure + emergency + 1, "{level:?}");
        assert_eq!(shed.0 > 0, level == Level::Critical);
        assert_eq!(Tier::ALL.map(|tier| rig.bodies(tier).len()), [kept[0] + 1, 0, 0], "{level:?}");
        rig.drain();
    }
}

#[test]
fn a_connection_held_by_a_pause_is_shed_when_the_level_rises_on() {
    let mut rig = rig_at(Level::Degraded);
    let client = rig.connect();
    rig.send(client, &[frame(Priority::Medium, b"1"), frame(Priority::Critical, b"2")].concat());
    rig.settle();
    assert_eq!(rig.terms().received, 0);
    rig.gate.set_level(Level::Emergency);
    rig.settle();
    assert_eq!(lost(&rig, DropReason::EmergencyDrop), 1);
    assert_eq!(rig.bodies(Tier::Realtime), [b"2"]);
    rig.drain();
}

#[test]
fn a_drain_is_not_held_up_by_a_pause() {
    let mut rig = rig_at(Level::Critical);
    let client = rig.connect();
    rig.send(client, &frame(Priority::Medium, b"1"));
    rig.settle();
    rig.gate.end_pauses();
    rig.begin_drain();
    rig.settle();
    assert_eq!(rig.bodies(Tier::Transactional), [b"1"], "it is taken, not closed on");
    rig.drain();
}
