//! What holds of connections.

use super::connection::NOBODY;
use super::counters::CloseReason;
use super::test_support::*;
use crate::bus::Overflow;
use crate::metrics::ledger::DropReason;
use crate::pool::{SlotClass, SlotUse, Source};
use crate::sys::clock::Nanos;
use crate::sys::io::{Completion, Errno, GroupId};
use crate::wire::{FrameRefusal, Priority, Tier};

const TCP: usize = 0;

fn refused(rig: &Rig, refusal: FrameRefusal) -> u64 {
    rig.counters.refused[TCP][refusal.index()].get()
}

fn closed(rig: &Rig, reason: CloseReason) -> u64 {
    rig.counters.closed[reason.index()].get()
}

/// Frames of all sizes: with empty bodies, in each slot class, larger than several chunks.
fn mixed_stream() -> (Vec<u8>, Vec<Vec<u8>>) {
    let bodies: Vec<Vec<u8>> =
        [0usize, 1, 12, 249, 250, 600, 2041, 2042, 3000, 3].iter().enumerate().map(|(i, len)| vec![i as u8; *len]).collect();
    let stream = bodies.iter().flat_map(|body| frame(Priority::Medium, body)).collect();
    (stream, bodies)
}

#[test]
fn a_stream_cut_at_every_byte_boundary_parses_as_the_whole() {
    let (stream, bodies) = mixed_stream();
    for cut in 0..=stream.len() {
        let mut rig = Rig::new(RigOptions::default());
        let client = rig.connect();
        rig.send(client, &stream[..cut]);
        rig.send(client, &stream[cut..]);
        let mut got = rig.bodies(Tier::Transactional);
        rig.poll();
        got.extend(rig.bodies(Tier::Transactional));
        assert_eq!(got, bodies, "cut at {cut}");
    }
}

#[test]
fn a_stream_in_single_bytes_parses_as_the_whole() {
    let (stream, bodies) = mixed_stream();
    let mut rig = Rig::new(RigOptions::default());
    let client = rig.connect();
    for byte in stream {
        assert_eq!(rig.send(client, &[byte]), 1);
    }
    let taken = rig.take(Tier::Transactional);
    assert_eq!(taken.iter().map(|t| t.body.clone()).collect::<Vec<_>>(), bodies);
    assert!(taken.iter().all(|t| t.topic == b"a/topic" && t.header.source == Source::Tcp && t.header.connection == 1));
    assert_eq!(taken.iter().map(|t| t.header.id).collect::<Vec<_>>(), (1000..1010).collect::<Vec<_>>());
    rig.drain();
}

#[test]
fn an_unfinished_frame_takes_a_slot_for_what_came_and_not_for_what_it_claims() {
    let mut rig = Rig::new(RigOptions::default());
    let client = rig.connect();
    let bytes = frame(Priority::Low, &[1; 5000]);
    let partial = |rig: &Rig| rig.gauges().in_use[SlotUse::Partial.index()];
    rig.send(client, &bytes[..7]);
    assert_eq!(partial(&rig), [0; SlotClass::COUNT], "a header stays in the connection");
    rig.send(client, &bytes[7..200]);
    assert_eq!(partial(&rig), [1, 0, 0, 0, 0]);
    rig.send(client, &bytes[200..1000]);
    assert_eq!(partial(&rig), [0, 1, 0, 0, 0]);
    rig.send(client, &bytes[1000..3000]);
    assert_eq!(partial(&rig), [0, 0, 1, 0, 0]);
    rig.send(client, &bytes[3000..]);
    assert_eq!(partial(&rig), [0; SlotClass::COUNT]);
    assert_eq!(rig.take(Tier::Batch)[0].class, SlotClass::Large);
    rig.drain();
}

#[test]
fn a_bad_length_is_refused_from_the_header_alone_after_what_came_before() {
    let lengths = [0, 1, 2, 3, FRAME_BYTES_MAX - 3, 1 << 23, u32::MAX];
    for length in lengths {
        let mut rig = Rig::new(RigOptions::default());
        let client = rig.connect();
        let mut bytes = frame(Priority::High, b"before");
        bytes.extend(length.to_be_bytes());
        rig.send(client, &bytes);
        assert_eq!(rig.gauges().in_use[SlotUse::Partial.index()], [0; SlotClass::COUNT]);
        rig.settle();
        assert_eq!(rig.bodies(Tier::Realtime), [b"before".to_vec()]);
        assert!(rig.is_closed(client), "{length}");
        assert_eq!((closed(&rig, CloseReason::Refused), rig.counters.partial_frame.get()), (1, 0));
        rig.drain();
    }
}

#[test]
fn a_frame_of_exactly_the_limit_is_stored() {
    let mut rig = Rig::new(RigOptions::default());
    let client = rig.connect();
    let body = vec![9; FRAME_BYTES_MAX as usize - 7 - 7];
    rig.send(client, &frame(Priority::Low, &body));
    assert_eq!(rig.bodies(Tier::Batch), [body]);
    rig.drain();
}

#[test]
fn a_frame_refused_across_a_cut_closes_once_the_receive_has_ended() {
    let mut rig = Rig::new(RigOptions::default());
    let client = rig.connect();
    let mut bytes = frame(Priority::High, b"x");
    bytes[4] = 9;
    rig.send(client, &bytes[..3]);
    rig.send(client, &bytes[3..]);
    assert!(rig.ring.closed.is_empty(), "I5: the final completion has not been seen");
    rig.settle();
    assert!(rig.is_closed(client));
    assert_eq!(refused(&rig, FrameRefusal::UnknownPriority { byte: 9 }), 1);
    assert_eq!(rig.terms().received, 0);
    rig.drain();
}

#[test]
fn a_frame_that_does_not_come_to_its_end_is_closed_at_the_frame_deadline() {
    let mut rig = Rig::new(RigOptions::default());
    let (slow, other) = (rig.connect(), rig.connect());
    rig.send(slow, &frame(Priority::High, &[0; 100])[..50]);
    rig.send(other, &frame(Priority::High, b"whole"));
    let work = rig.poll();
    assert_eq!(work.next_deadline, Some(rig.ring.now + Nanos::from_micros(100)), "REALTIME waits: chunks are held back");
    rig.take(Tier::Realtime);
    let work = rig.poll();
    assert_eq!(work.next_deadline, Some(rig.ring.now + Nanos::from_millis(10_000)));
    rig.pass(Nanos::from_millis(9_999));
    assert_eq!(rig.counters.slow_frame.get(), 0);
    rig.pass(Nanos::from_millis(200));
    rig.settle();
    assert_eq!((rig.counters.slow_frame.get(), closed(&rig, CloseReason::SlowFrame)), (1, 1));
    assert!(rig.is_closed(slow) && !rig.is_closed(other));
    assert_eq!(rig.gauges().in_use[SlotUse::Partial.index()], [0; SlotClass::COUNT]);
    rig.drain();
}

#[test]
fn a_silent_connection_is_closed_at_the_idle_deadline_and_a_speaking_one_is_not() {
    let mut options = RigOptions::default();
    options.reactor.idle_deadline = Nanos::from_millis(1_000);
    let mut rig = Rig::new(options);
    let (silent, speaking) = (rig.connect(), rig.connect());
    rig.pass(Nanos::from_millis(900));
    rig.send(speaking, &frame(Priority::Low, b""));
    rig.pass(Nanos::from_millis(200));
    rig.settle();
    assert!(rig.is_closed(silent) && !rig.is_closed(speaking));
    assert_eq!(closed(&rig, CloseReason::Idle), 1);
    rig.drain();
}

#[test]
fn an_idle_reactor_without_connections_sets_no_deadline_and_offers_everything() {
    let mut rig = Rig::new(RigOptions::default());
    assert_eq!(rig.poll().next_deadline, None);
    let client = rig.connect();
    rig.send(client, &frame(Priority::High, b"x"));
    rig.take(Tier::Realtime);
    rig.end(client, Ok(0));
    rig.settle();
    assert_eq!(rig.poll().next_deadline, None);
    assert_eq!(rig.ring.lent[GroupId::Tcp as usize].len(), 4);
}

#[test]
fn a_reset_in_mid_frame_keeps_earlier_frames_and_counts_the_cut_one() {
    let mut rig = Rig::new(RigOptions::default());
    let client = rig.connect();
    let mut bytes = frame(Priority::Low, b"one");
    bytes.extend(&frame(Priority::Low, b"two")[..9]);
    rig.send(client, &bytes);
    rig.end(client, Err(libc::ECONNRESET));
    rig.settle();
    assert_eq!(rig.bodies(Tier::Batch), [b"one".to_vec()]);
    assert_eq!((rig.counters.partial_frame.get(), closed(&rig, CloseReason::Reset)), (1, 1));
    assert!(rig.is_closed(client));
    rig.drain();
}

#[test]
fn a_receive_that_ends_silently_is_armed_again() {
    let mut rig = Rig::new(RigOptions::default());
    let client = rig.connect();
    let bytes = frame(Priority::Low, b"one");
    assert!(rig.send_chunk(client, &bytes, false));
    assert!(rig.ring.armed_on(client).is_some());
    rig.end(client, Err(libc::EINTR));
    assert!(rig.ring.armed_on(client).is_some());
    rig.send(client, &bytes);
    assert_eq!(rig.bodies(Tier::Batch).len(), 2);
    assert_eq!(rig.counters.rearmed.get(), 2);
    assert!(rig.ring.byte_caps.iter().all(|cap| *cap == 65_536));
    rig.drain();
}

#[test]
fn starved_connections_are_armed_again_in_their_order_once_chunks_are_back() {
    let mut rig = Rig::new(RigOptions { high_water_events: 2, slots: [256, 64, 4, 4, 0], ..RigOptions::default() });
    let clients: Vec<_> = (0..5).map(|_| rig.connect()).collect();
    // Two frames reach the high-water mark: what follows has to wait, and without parking memory each chunk stays where it is.
    let bytes = [frame(Priority::Low, b"1"), frame(Priority::Low, b"2"), frame(Priority::Low, b"3")].concat();
    for client in &clients[..4] {
        assert_eq!(rig.send(*client, &bytes), bytes.len());
    }
    assert_eq!(rig.counters.pinned_chunks.get(), 4);
    rig.end(clients[4], Err(libc::ENOBUFS));
    rig.poll();
    assert_eq!(rig.counters.starved.get(), 1);
    assert!(rig.ring.armed_on(clients[4]).is_none(), "nothing is on offer");
    for _ in 0..20 {
        rig.take(Tier::Batch);
        rig.pass(Nanos::from_millis(1));
    }
    assert!(rig.ring.armed_on(clients[4]).is_some());
    assert_eq!(rig.terms().received, 12);
    rig.drain();
}

#[test]
fn connections_wait_at_the_high_water_mark_and_resume_first_come_first_served() {
    let mut rig = Rig::new(RigOptions { high_water_events: 8, ..RigOptions::default() });
    let (first, second, urgent) = (rig.connect(), rig.connect(), rig.connect());
    let burst = |name: u8| (0..10u8).flat_map(|i| frame(Priority::Medium, &[name, i])).collect::<Vec<_>>();
    rig.send(first, &burst(1));
    rig.send(second, &burst(2));
    rig.send(urgent, &frame(Priority::Critical, b"now"));
    rig.poll();
    assert_eq!(rig.bodies(Tier::Realtime), [b"now".to_vec()], "one tier's wait holds no other up");
    assert_eq!(rig.counters.waits[Tier::Transactional.index()].get(), 2);
    let mut got = Vec::new();
    while got.len() < 20 {
        got.extend(rig.bodies(Tier::Transactional));
        rig.poll();
    }
    let of = |name: u8| got.iter().filter(|body| body[0] == name).map(|body| body[1]).collect::<Vec<_>>();
    assert_eq!((of(1), of(2)), ((0..10).collect(), (0..10).collect()), "order per connection");
    assert_eq!(got[8..10], [vec![1, 8], vec![1, 9]], "the first that waited goes on first");
    assert_eq!(rig.terms().lost, [0; DropReason::COUNT]);
    rig.drain();
}

#[test]
fn a_connection_that_sends_on_while_it_waits_is_parked_and_then_stopped() {
    let mut rig = Rig::new(RigOptions { high_water_events: 2, ..RigOptions::default() });
    let client = rig.connect();
    let bytes: Vec<u8> = (0..100u8).flat_map(|i| frame(Priority::Low, &[i; 20])).collect();
    let mut sent = rig.send(client, &bytes);
    rig.poll();
    assert!(!rig.ring.cancelled.is_empty(), "a long wait ends the receive");
    assert!(rig.counters.parked_bytes.get() > 0 && rig.counters.pinned_chunks.get() == 0);
    let mut got = Vec::new();
    while got.len() < 100 {
        got.extend(rig.bodies(Tier::Batch));
        rig.poll();
        sent += rig.send(client, &bytes[sent..]);
    }
    assert_eq!(got, (0..100u8).map(|i| vec![i; 20]).collect::<Vec<_>>());
    rig.drain();
}

#[test]
fn deadlines_stand_still_while_a_connection_is_not_read() {
    let mut rig = Rig::new(RigOptions { high_water_events: 1, ..RigOptions::default() });
    let client = rig.connect();
    let mut bytes = [frame(Priority::Low, b"1"), frame(Priority::Low, b"2")].concat();
    bytes.extend(&frame(Priority::Low, b"3")[..9]);
    rig.send(client, &bytes);
    rig.pass(Nanos::from_millis(60_000));
    assert_eq!(rig.counters.slow_frame.get(), 0);
    rig.take(Tier::Batch);
    rig.pass(Nanos::from_millis(1));
    rig.pass(Nanos::from_millis(9_000));
    assert_eq!(rig.counters.slow_frame.get(), 0);
    rig.pass(Nanos::from_millis(2_000));
    assert_eq!(rig.counters.slow_frame.get(), 1);
    rig.drain();
}

#[test]
fn a_full_lane_that_blocks_makes_the_connection_wait_without_flow_control() {
    let mut options = RigOptions { overflow: Overflow::BlockProducer, lane_events: 4, ..RigOptions::default() };
    options.reactor.tcp_flow_control = false;
    let mut rig = Rig::new(options);
    let client = rig.connect();
    let bytes: Vec<u8> = (0..30u8).flat_map(|i| frame(Priority::High, &[i])).collect();
    rig.send(client, &bytes);
    rig.poll();
    let mut got = Vec::new();
    while got.len() < 30 {
        got.extend(rig.bodies(Tier::Realtime));
        rig.poll();
    }
    assert_eq!(got, (0..30u8).map(|i| vec![i]).collect::<Vec<_>>());
    assert_eq!(rig.terms().lost, [0; DropReason::COUNT]);
    rig.drain();
}

#[test]
fn what_a_lane_evicts_or_refuses_is_counted_and_dead_lettered() {
    for (overflow, first_left) in [(Overflow::DropOld, 6u8), (Overflow::DropNew, 0)] {
        let mut options = RigOptions { overflow, lane_events: 4, ..RigOptions::default() };
        options.reactor.tcp_flow_control = false;
        let mut rig = Rig::new(options);
        let client = rig.connect();
        rig.send(client, &(0..10u8).flat_map(|i| frame(Priority::High, &[i])).collect::<Vec<_>>());
        rig.poll();
        assert_eq!(rig.terms().lost[DropReason::QueueFull as usize], 6);
        assert_eq!(rig.bodies(Tier::Realtime), (first_left..first_left + 4).map(|i| vec![i]).collect::<Vec<_>>());
        rig.drain();
    }
}

#[test]
fn connections_that_find_no_slot_wait_in_order_and_lose_nothing() {
    let mut rig = Rig::new(RigOptions { slots: [8, 64, 4, 8, 8], ..RigOptions::default() });
    let (first, second) = (rig.connect(), rig.connect());
    let burst = |name: u8| (0..10u8).flat_map(|i| frame(Priority::Medium, &[name, i])).collect::<Vec<_>>();
    rig.send(first, &burst(1));
    rig.send(second, &burst(2));
    rig.poll();
    assert!(rig.counters.slot_waits.get() >= 2);
    let mut got = Vec::new();
    for _ in 0..100 {
        got.extend(rig.bodies(Tier::Transactional));
        rig.poll();
    }
    let of = |name: u8| got.iter().filter(|body| body[0] == name).map(|body| body[1]).collect::<Vec<_>>();
    assert_eq!((of(1), of(2)), ((0..10).collect(), (0..10).collect()));
    rig.drain();
}

#[test]
fn a_late_completion_is_ignored_counted_and_gives_its_chunk_back() {
    let mut rig = Rig::new(RigOptions::default());
    let client = rig.connect();
    rig.end(client, Ok(0));
    rig.settle();
    let again = rig.connect();
    late_receive(&mut rig, 0, 0);
    late_receive(&mut rig, 9, NOBODY - 1);
    rig.poll();
    assert_eq!(rig.counters.late_completions.get(), 2);
    assert_eq!(rig.ring.lent[GroupId::Tcp as usize].len(), 4);
    assert!(!rig.is_closed(again));
    rig.drain();
}

#[test]
fn accepting_backs_off_without_descriptors_and_recovers() {
    let mut rig = Rig::new(RigOptions::default());
    let mut waits = Vec::new();
    for _ in 0..9 {
        let token = rig.ring.armed_on(LISTENER).expect("accepting");
        rig.complete(Completion { token, result: Err(Errno(libc::EMFILE)), more: false, buffer: None });
        assert!(rig.ring.armed_on(LISTENER).is_none(), "no spin");
        let wait = rig.poll().next_deadline.expect("it tries again") - rig.ring.now;
        waits.push(wait.0 / 1_000_000);
        rig.pass(wait);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    rig.connect();
    let token = rig.ring.armed_on(LISTENER).unwrap();
    rig.complete(Completion { token, result: Err(Errno(libc::ENFILE)), more: false, buffer: None });
    assert_eq!(rig.poll().next_deadline, Some(rig.ring.now + Nanos::from_millis(10)));
    rig.drain();
}

#[test]
fn a_connection_beyond_the_table_is_closed_at_once() {
    let mut rig = Rig::new(RigOptions::default());
    for _ in 0..8 {
        rig.connect();
    }
    let ninth = rig.connect();
    assert!(rig.ring.closed.contains(&ninth));
    assert_eq!((closed(&rig, CloseReason::OverLimit), rig.counters.connections_open.get()), (1, 8));
    rig.drain();
}

#[test]
fn a_drain_takes_what_has_arrived_and_gives_everything_back() {
    let mut rig = Rig::new(RigOptions { high_water_events: 4, ..RigOptions::default() });
    let (busy, cut) = (rig.connect(), rig.connect());
    rig.send(busy, &(0..10u8).flat_map(|i| frame(Priority::Low, &[i])).collect::<Vec<_>>());
    rig.send(cut, &frame(Priority::High, b"cut")[..10]);
    rig.drain();
    assert_eq!((rig.terms().received, rig.counters.partial_frame.get()), (10, 1));
    assert_eq!(closed(&rig, CloseReason::Drained), 2);
}

#[test]
fn connections_that_hold_all_chunks_for_a_slot_are_freed_by_the_frame_deadline_of_its_holder() {
    // One large slot for unfinished frames, two chunks, no parking memory.
    let mut options = RigOptions { slots: [256, 64, 2, 2, 0], ..RigOptions::default() };
    options.reactor.tcp_chunks_offered = 2;
    let mut rig = Rig::new(options);
    let clients: Vec<_> = (0..3u8).map(|_| rig.connect()).collect();
    let bytes = |name: u8| frame(Priority::Low, &[name; 5000]);
    rig.send(clients[0], &bytes(0)[..3000]);
    rig.poll();
    let sent: Vec<_> = (1..3).map(|i| rig.send(clients[i], &bytes(i as u8))).collect();
    assert_eq!(rig.gauges().in_use[SlotUse::Partial.index()][SlotClass::Large.index()], 1);
    assert!(sent.iter().all(|sent| *sent < 5000), "both wait for the slot, each with a chunk");
    rig.end(clients[0], Err(libc::ENOBUFS));
    for _ in 0..4 {
        rig.pass(Nanos::from_millis(2_000));
    }
    assert_eq!((rig.counters.pinned_chunks.get(), rig.ring.lent[GroupId::Tcp as usize].len()), (2, 0));
    rig.pass(Nanos::from_millis(3_000));
    rig.settle();
    assert_eq!(closed(&rig, CloseReason::SlowFrame), 1);
    assert!(!rig.ring.lent[GroupId::Tcp as usize].is_empty(), "the next one goes on");
    rig.drain();
}
