use std::sync::Arc;

use super::*;
use crate::bus::{Dispatch, Overflow, TierOptions, TierReceiver, tier};
use crate::control::{Level, NodeGate, Patience, ShedByClass};
use crate::metrics::ledger::{DropReason, Ledger, LedgerCells, LedgerTerms};
use crate::pool::{ClassStrides, Event, EventKey, OwnerLayout, Releaser, SharedPool, Source};
use crate::process::guard::{Called, Guard};
use crate::storage::dead_letter::{Collector, DeadLetterOptions, DeadLetterQueue};
use crate::sys::clock::{Nanos, WallNanos};
use crate::sys::memory::Arena;
use crate::sys::wake::Waker;
use crate::wire::{FrameLimits, FrameRefusal, Priority, Tier};

const FRAME_BYTES_MAX: u32 = 4096;

/// A producer's surroundings: a pool, three tiers of one lane each, dead letters.
struct Rig {
    producer: Option<Producer>,
    waker: Waker,
    shared: Arc<SharedPool>,
    receivers: Vec<TierReceiver>,
    releaser: Releaser,
    ledger: Arc<LedgerCells>,
    gate: Arc<NodeGate>,
    letters: DeadLetterQueue,
    collector: Collector,
}

impl Rig {
    fn new(overflow: Overflow, lane_events: usize, high_water_events: usize, small_slots: u32) -> Self {
        let strides = ClassStrides::new(FRAME_BYTES_MAX, 4096);
        let layouts = [OwnerLayout::without_quotas([small_slots, 4, 1, 0, 0])];
        let arena = Arena::map(SharedPool::arena_bytes(&strides, &layouts)).unwrap();
        let (shared, mut owners) = SharedPool::divide(arena, strides, &layouts);
        let waker = Waker::new().unwrap();
        shared.set_waker(0, waker.clone());
        let mut receivers = Vec::new();
        let tiers = Tier::ALL.map(|_| {
            let (capacity_events, service_lane_events) = (lane_events, 0);
            let options = TierOptions { capacity_events, producers: 1, overflow, high_water_events, service_lane_events };
            let (mut senders, mut receiver, gauge) = tier(options);
            receiver.set_sleepers(vec![waker.clone()], &gauge);
            receivers.push(receiver);
            senders.remove(0)
        });
        let (letters, collector) = DeadLetterQueue::manual(&DeadLetterOptions::new("unused".into()), vec![shared.clone()]);
        let (ledger, gate): (Arc<LedgerCells>, Arc<NodeGate>) = Default::default();
        let producer = Producer::new(ProducerWiring {
            pool: owners.remove(0),
            limits: FrameLimits { max_frame_bytes: FRAME_BYTES_MAX },
            dispatch: Dispatch::default(),
            tiers,
            dead_letters: letters.sender(0),
            gate: gate.clone(),
            ledger: ledger.clone(),
            shed: Arc::new(ShedByClass::new(&Arc::default())),
            id_base: 100,
        });
        let releaser = Releaser::new(shared.clone());
        Self { producer: Some(producer), waker, shared, receivers, releaser, ledger, gate, letters, collector }
    }

    fn attempt(&mut self, publication: &Publication<'_>, patience: Patience) -> Attempt {
        self.producer.as_mut().unwrap().attempt(publication, patience, Nanos(7), WallNanos(8))
    }

    fn seat(&mut self) -> Arc<ProducerSeat> {
        ProducerSeat::new(self.producer.take().unwrap(), self.waker.clone())
    }

    fn take(&mut self, tier: Tier, max: usize) -> Vec<Event> {
        let mut taken = Vec::new();
        self.receivers[tier.index()].pop_batch(&mut taken, max);
        taken
    }

    /// Takes and releases; the ids.
    fn consume(&mut self, tier: Tier, max: usize) -> Vec<u64> {
        let taken = self.take(tier, max);
        let ids = taken.iter().map(|event| self.shared.header(event).id).collect();
        taken.into_iter().for_each(|event| self.releaser.release(event));
        self.releaser.flush();
        ids
    }

    fn terms(&self) -> LedgerTerms {
        let ledger = Ledger::read([&*self.ledger].into_iter());
        assert_eq!(ledger.total(), {
            let mut own = LedgerTerms::default();
            ledger.terms[Source::InProcess.index()].iter().for_each(|terms| own.add(terms));
            own
        });
        ledger.total()
    }

    /// Everything comes home in the end.
    fn finish(mut self, seat: Option<&ProducerSeat>) {
        for tier in Tier::ALL {
            while !self.consume(tier, 64).is_empty() {}
        }
        while self.collector.collect(Nanos(0), WallNanos(0), &mut |_| true).is_some() {}
        let mut producer = self.producer.take().or_else(|| seat?.close()).unwrap();
        assert_eq!(producer.slots_missing(), 0);
        drop(self.letters);
    }
}

fn order(body: &[u8]) -> Publication<'_> {
    Publication::new("orders/eu", body, Priority::Medium)
}

#[test]
fn what_is_published_arrives_as_an_event_with_its_key_and_the_producers_id() {
    let mut rig = Rig::new(Overflow::DropNew, 8, 8, 8);
    let key = EventKey::of_name(b"order 1");
    assert_eq!(rig.attempt(&order(b"1").with_key(key), Patience::CanWait), Attempt::Sent(100));
    assert_eq!(rig.attempt(&order(b"").again_as(5), Patience::CannotWait), Attempt::Sent(5));
    assert_eq!(rig.attempt(&order(&[0; 3000]), Patience::CannotWait), Attempt::Sent(102));
    let events = rig.take(Tier::Transactional, 8);
    let view = rig.shared.view(&events[0]);
    assert_eq!((view.topic, view.body, view.header.key), ("orders/eu", &b"1"[..], Some(key)));
    assert_eq!((view.header.received_at, view.header.received_wall), (Nanos(7), WallNanos(8)));
    let ids: Vec<u64> = events.iter().map(|event| rig.shared.header(event).id).collect();
    assert_eq!((ids, rig.shared.header(&events[1]).key), (vec![100, 5, 102], None));
    events.into_iter().for_each(|event| rig.releaser.release(event));
    rig.releaser.flush();
    assert_eq!(rig.terms().received, 3);
    rig.finish(None);
}

#[test]
fn what_the_wire_refuses_is_refused_and_not_counted() {
    let mut rig = Rig::new(Overflow::DropNew, 8, 8, 8);
    let long = vec![0; FRAME_BYTES_MAX as usize - 7 - 9];
    assert!(matches!(rig.attempt(&order(&long), Patience::CannotWait), Attempt::Sent(_)));
    let too_long = vec![0; long.len() + 1];
    let cases = [
        (order(&too_long), FrameRefusal::LengthTooLong { length: FRAME_BYTES_MAX - 3 }),
        (Publication::new("", b"", Priority::Low), FrameRefusal::TopicEmpty),
        (Publication::new("a/+", b"", Priority::Low), FrameRefusal::TopicWildcard { character: '+' }),
        (Publication::new("a\n", b"", Priority::Low), FrameRefusal::TopicControl { character: '\n' }),
    ];
    for (publication, refusal) in cases {
        for patience in [Patience::CanWait, Patience::CannotWait] {
            assert_eq!(rig.attempt(&publication, patience), Attempt::Refused(Refusal::Frame(refusal)));
        }
    }
    assert_eq!(rig.terms().received, 1);
    rig.finish(None);
}

#[test]
fn a_full_lane_loses_by_its_policy_what_can_not_wait() {
    for (overflow, left) in [(Overflow::DropOld, 104..108), (Overflow::DropNew, 100..104), (Overflow::BlockProducer, 100..104)] {
        let mut rig = Rig::new(overflow, 4, 4, 16);
        for n in 0..8 {
            let expected = match overflow {
                Overflow::DropNew | Overflow::BlockProducer if n >= 4 => Attempt::Refused(Refusal::Lost(DropReason::QueueFull)),
                _ => Attempt::Sent(100 + n),
            };
            assert_eq!(rig.attempt(&order(b"x"), Patience::CannotWait), expected, "{overflow} {n}");
        }
        assert_eq!(rig.letters.queued(), 4, "{overflow}");
        assert_eq!(rig.consume(Tier::Transactional, 8), left.collect::<Vec<_>>());
        let terms = rig.terms();
        assert_eq!((terms.received, terms.lost[DropReason::QueueFull as usize]), (8, 4));
        rig.finish(None);
    }
}

#[test]
fn who_can_wait_is_told_so_before_anything_is_counted_or_lost() {
    for (overflow, mark) in [(Overflow::DropOld, 3), (Overflow::DropNew, 3), (Overflow::BlockProducer, 4)] {
        let mut rig = Rig::new(overflow, 4, mark, 16);
        let sent = (0..8).filter(|_| matches!(rig.attempt(&order(b"x"), Patience::CanWait), Attempt::Sent(_))).count();
        assert_eq!((sent, rig.terms().received, rig.letters.queued()), (mark, mark as u64, 0), "{overflow}");
        rig.consume(Tier::Transactional, 1);
        assert_eq!(rig.attempt(&order(b"x"), Patience::CanWait), Attempt::MustWait(Wait::Room), "not below half of the mark yet");
        // The other tiers have their own room.
        let alarm = Publication::new("alarms/fire", b"", Priority::Critical);
        assert!(matches!(rig.attempt(&alarm, Patience::CanWait), Attempt::Sent(_)));
        rig.consume(Tier::Transactional, 8);
        assert!(matches!(rig.attempt(&order(b"x"), Patience::CanWait), Attempt::Sent(_)));
        rig.finish(None);
    }
}

#[test]
fn without_a_slot_or_a_log_what_can_not_wait_is_dropped_and_counted() {
    let mut rig = Rig::new(Overflow::DropNew, 64, 64, 2);
    (0..2).for_each(|_| assert!(matches!(rig.attempt(&order(b"x"), Patience::CanWait), Attempt::Sent(_))));
    assert_eq!(rig.attempt(&order(b"x"), Patience::CanWait), Attempt::MustWait(Wait::Room));
    let lost = |reason| Attempt::Refused(Refusal::Lost(reason));
    assert_eq!(rig.attempt(&order(b"x"), Patience::CannotWait), lost(DropReason::PoolExhausted));
    rig.consume(Tier::Transactional, 1);
    rig.gate.set_store_unavailable(true);
    assert_eq!(rig.attempt(&order(b"x"), Patience::CannotWait), lost(DropReason::StoreUnavailable));
    let terms = rig.terms();
    let by_reason = [DropReason::PoolExhausted, DropReason::StoreUnavailable].map(|reason| terms.lost[reason as usize]);
    assert_eq!((terms.received, by_reason), (4, [1, 1]));
    let letters = rig.letters.counters();
    assert_eq!((letters.sent(), letters.samples_sent()), (0, 2), "of what is only counted, samples");
    rig.finish(None);
}

#[test]
fn a_level_pauses_who_can_wait_and_sheds_what_can_not() {
    let mut rig = Rig::new(Overflow::DropNew, 64, 64, 8);
    rig.gate.set_level(Level::Degraded);
    assert_eq!(rig.attempt(&order(b"x"), Patience::CanWait), Attempt::MustWait(Wait::Gate));
    let shed = Attempt::Refused(Refusal::Lost(DropReason::BackpressureDrop));
    assert_eq!(rig.attempt(&order(b"x"), Patience::CannotWait), shed);
    rig.gate.set_level(Level::Emergency);
    let shed = Attempt::Refused(Refusal::Lost(DropReason::EmergencyDrop));
    assert_eq!(rig.attempt(&order(b"x"), Patience::CanWait), shed, "nobody is made to wait for the end of an emergency");
    let critical = Publication::new("orders/eu", b"x", Priority::Critical);
    assert!(matches!(rig.attempt(&critical, Patience::CannotWait), Attempt::Sent(_)));
    let terms = rig.terms();
    let by_reason = [DropReason::BackpressureDrop, DropReason::EmergencyDrop].map(|reason| terms.lost[reason as usize]);
    assert_eq!((terms.received, by_reason), (3, [1, 1]));
    rig.finish(None);
}

#[test]
fn who_waits_for_a_lower_level_finds_out_by_itself() {
    let mut rig = Rig::new(Overflow::DropNew, 64, 64, 8);
    rig.gate.set_level(Level::Degraded);
    let (gate, seat) = (rig.gate.clone(), rig.seat());
    let mut publisher = Publisher::new(seat.clone());
    let thread = std::thread::spawn(move || publisher.publish(order(b"x")).unwrap());
    gate.set_level(Level::Healthy);
    assert_eq!(thread.join().unwrap(), 100);
    rig.finish(Some(&*seat));
}

#[test]
fn what_is_in_no_hurry_waits_where_a_level_sheds_and_is_not_counted() {
    let mut rig = Rig::new(Overflow::DropNew, 64, 64, 8);
    rig.gate.set_level(Level::Emergency);
    let mut offer = |body| rig.producer.as_mut().unwrap().attempt_unhurried(&order(body), Nanos(7), WallNanos(8));
    assert!(matches!(offer(b"x"), Attempt::MustWait(_)));
    assert_eq!(rig.terms(), LedgerTerms::default());
    rig.gate.set_level(Level::Healthy);
    let mut offer = |body| rig.producer.as_mut().unwrap().attempt_unhurried(&order(body), Nanos(7), WallNanos(8));
    assert!(matches!(offer(b"x"), Attempt::Sent(_)));
    assert_eq!(rig.consume(Tier::Transactional, 8).len(), 1);
    rig.finish(None);
}

/// Publishes on a thread of its own until all are sent; the consumer takes them all, so nobody may sleep for ever.
fn publish_against_a_consumer(mut rig: Rig, events: u64, max: usize) {
    let seat = rig.seat();
    let mut publisher = Publisher::new(seat.clone());
    let thread = std::thread::spawn(move || (0..events).map(|_| publisher.publish(order(b"x")).unwrap()).collect::<Vec<_>>());
    let mut handled = Vec::new();
    while handled.len() < events as usize {
        let ids = rig.consume(Tier::Transactional, max);
        if ids.is_empty() {
            std::thread::yield_now();
        }
        handled.extend(ids);
    }
    assert_eq!(thread.join().unwrap(), handled);
    assert_eq!((rig.terms().received, rig.letters.queued()), (events, 0));
    rig.finish(Some(&*seat));
}

#[test]
fn who_waits_for_room_in_the_tier_is_woken_by_its_consumer() {
    publish_against_a_consumer(Rig::new(Overflow::BlockProducer, 4, 4, 64), 20_000, 3);
    publish_against_a_consumer(Rig::new(Overflow::DropOld, 64, 5, 64), 20_000, 2);
}

#[test]
fn who_waits_for_a_slot_is_woken_by_whoever_releases_one() {
    publish_against_a_consumer(Rig::new(Overflow::DropNew, 64, 64, 2), 20_000, 1);
}

#[test]
fn who_waits_when_the_seat_is_closed_gets_its_publication_back() {
    let mut rig = Rig::new(Overflow::BlockProducer, 2, 2, 64);
    let seat = rig.seat();
    let mut publisher = Publisher::new(seat.clone());
    let (full, is_full) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        (0..2).for_each(|n| assert_eq!(publisher.publish(order(b"x")), Ok(100 + n)));
        full.send(()).unwrap();
        let refused = publisher.publish(order(b"third")).unwrap_err();
        assert_eq!((refused.publication.body, refused.refusal), (&b"third"[..], Refusal::Closed));
        assert_eq!(publisher.try_publish(order(b"x")).unwrap_err().refusal, Refusal::Closed);
    });
    is_full.recv().unwrap();
    let mut producer = seat.close().expect("it was open");
    assert!(seat.close().is_none());
    thread.join().unwrap();
    assert_eq!(rig.consume(Tier::Transactional, 8), [100, 101]);
    assert_eq!((producer.slots_missing(), rig.terms().received), (0, 2));
}

#[test]
fn inside_a_handler_nobody_waits() {
    let mut rig = Rig::new(Overflow::BlockProducer, 2, 2, 64);
    let seat = rig.seat();
    let mut handler = Guard::new("test", Box::new(Publisher::new(seat.clone())), 1);
    for expected in [Ok(100), Ok(101), Err(Refusal::WouldBlock)] {
        let called = handler.call(|publisher| publisher.publish(order(b"x")).map_err(|refused| refused.refusal));
        assert!(matches!(called, Called::Done(answer) if answer == expected));
    }
    assert_eq!(rig.terms().received, 2);
    rig.finish(Some(&*seat));
}

#[test]
fn a_seat_that_is_looked_after_shows_what_came_home() {
    let mut rig = Rig::new(Overflow::DropNew, 8, 8, 8);
    let counters = rig.producer.as_ref().unwrap().pool_counters();
    let seat = rig.seat();
    Publisher::new(seat.clone()).publish(order(b"x")).unwrap();
    seat.look_after();
    assert_eq!(counters.events_out.get(), 1);
    rig.consume(Tier::Transactional, 8);
    seat.look_after();
    assert_eq!(counters.events_out.get(), 0);
    rig.finish(Some(&*seat));
}
