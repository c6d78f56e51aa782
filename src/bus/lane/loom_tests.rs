//! Every interleaving of one producer and one consumer on a small lane, with the bytes of the events as loom sees them.
//!
//! What loom can't show: it never lets a load see a store that comes later in its schedule, so a `claim` that doesn't release would
//! pass here. That one rests on the argument of B4.

use loom::cell::UnsafeCell;
use loom::thread;

use super::{LaneConsumer, LaneProducer, lane};
use crate::pool::Event;
use crate::sync::Arc;
use crate::sys::wake::ParkState;
use crate::sys::wake::loom_tests::Event as Readable;

/// What events point to: written before an event is sent, read by whoever takes it. Loom fails on any access that is not ordered.
struct Bytes(Vec<UnsafeCell<u64>>);

impl Bytes {
    fn new(events: u64) -> Arc<Self> {
        Arc::new(Self((0..events).map(|_| UnsafeCell::new(0)).collect()))
    }

    fn event(&self, number: u64) -> Event {
        // SAFETY: loom checks that nobody else accesses the cell meanwhile.
        self.0[number as usize].with_mut(|bytes| unsafe { *bytes = number + 100 });
        // SAFETY: each number is made an event once; nobody resolves it in a pool.
        unsafe { Event::from_raw(number) }
    }

    fn take(&self, event: Event) -> u64 {
        let number = event.into_raw();
        // Whoever took the event may write to it: so this asks for exclusive access, as a release and reuse would.
        // SAFETY: loom checks that nobody else accesses the cell meanwhile.
        let bytes = self.0[number as usize].with_mut(|bytes| unsafe { std::mem::replace(&mut *bytes, 0) });
        assert_eq!(bytes, number + 100, "an event was taken twice, or its bytes were not visible");
        number
    }
}

fn pop(consumer: &mut LaneConsumer, bytes: &Bytes, max: usize) -> Vec<u64> {
    let mut out = Vec::new();
    consumer.pop_batch(&mut out, max);
    out.into_iter().map(|event| bytes.take(event)).collect()
}

fn assert_rising(taken: &[u64]) {
    assert!(taken.windows(2).all(|pair| pair[0] < pair[1]), "out of order: {taken:?}");
}

/// Sends `events`, evicting; the other thread pops `pops` times; every event is in exactly one hand at the end.
fn eviction_races_pops(capacity: usize, events: u64, publish_each: bool, pops: &'static [usize]) {
    loom::model(move || {
        let (mut producer, mut consumer): (LaneProducer, LaneConsumer) = lane(capacity);
        let bytes = Bytes::new(events);
        let consumer_bytes = bytes.clone();
        let popper = thread::spawn(move || {
            let mut taken = Vec::new();
            for max in pops {
                taken.extend(pop(&mut consumer, &consumer_bytes, *max));
            }
            (consumer, taken)
        });
        let mut evicted = Vec::new();
        for number in 0..events {
            evicted.extend(producer.push_evicting(bytes.event(number)).map(|event| bytes.take(event)));
            if publish_each {
                producer.publish();
            }
        }
        producer.publish();
        let (mut consumer, mut taken) = popper.join().unwrap();
        taken.extend(pop(&mut consumer, &bytes, capacity));
        assert_rising(&taken);
        assert_rising(&evicted);
        let mut all = [taken, evicted].concat();
        all.sort_unstable();
        assert_eq!(all, (0..events).collect::<Vec<_>>(), "an event was lost");
        assert_eq!((producer.depth(), consumer.depth()), (0, 0));
    });
}

#[test]
fn eviction_racing_a_batch_pop_loses_and_doubles_nothing() {
    eviction_races_pops(2, 4, true, &[2]);
}

#[test]
fn eviction_racing_single_pops_loses_and_doubles_nothing() {
    eviction_races_pops(2, 3, true, &[1, 2]);
}

#[test]
fn eviction_of_what_was_just_published_in_a_batch_is_ordered() {
    eviction_races_pops(2, 4, false, &[2, 2]);
}

#[test]
fn a_lane_of_one_is_correct() {
    eviction_races_pops(1, 3, true, &[1, 1]);
}

#[test]
fn a_full_lane_refuses_until_the_consumer_has_taken_and_reuse_is_ordered() {
    loom::model(|| {
        let (mut producer, mut consumer) = lane(2);
        let bytes = Bytes::new(4);
        let consumer_bytes = bytes.clone();
        let popper = thread::spawn(move || {
            let mut taken = pop(&mut consumer, &consumer_bytes, 2);
            taken.extend(pop(&mut consumer, &consumer_bytes, 2));
            (consumer, taken)
        });
        let mut sent = 0;
        for number in 0..4 {
            if let Err(full) = producer.push(bytes.event(number)) {
                assert_eq!(bytes.take(full.0), number);
                break;
            }
            sent = number + 1;
            producer.publish();
        }
        let (mut consumer, mut taken) = popper.join().unwrap();
        taken.extend(pop(&mut consumer, &bytes, 2));
        assert_eq!(taken, (0..sent).collect::<Vec<_>>());
    });
}

#[test]
fn a_producer_that_sleeps_for_room_is_woken_by_the_consumer() {
    loom::model(|| {
        let (mut producer, mut consumer) = lane(1);
        let bytes = Bytes::new(2);
        let shared = Arc::new((ParkState::new(), Readable::default()));
        assert!(producer.push(bytes.event(0)).is_ok());
        producer.publish();
        let (consumer_bytes, sleeper) = (bytes.clone(), shared.clone());
        let popper = thread::spawn(move || {
            let taken = pop(&mut consumer, &consumer_bytes, 1);
            // T5 in `tier`: the room is there before the wake-up.
            if sleeper.0.must_wake() {
                sleeper.1.notify();
            }
            (consumer, taken)
        });
        let (state, readable) = &*shared;
        while producer.free() == 0 {
            state.announce();
            // The last look (U2 in `ingest::publisher`).
            if producer.free() == 0 {
                readable.sleep();
            }
            state.resume();
        }
        assert!(producer.push(bytes.event(1)).is_ok());
        producer.publish();
        let (mut consumer, mut taken) = popper.join().unwrap();
        taken.extend(pop(&mut consumer, &bytes, 1));
        assert_eq!(taken, [0, 1]);
    });
}
