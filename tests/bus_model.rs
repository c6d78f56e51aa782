//! Lanes and tiers against a model: all policies against a VecDeque, flow control, fairness, and a flood on two threads.

use std::collections::VecDeque;
use std::sync::Arc;

use eventstream::bus::{self, BusCounters, Overflow, Pressure, Sent, TierOptions, TierReceiver, TierSender};
use eventstream::metrics::Measured;
use eventstream::pool::{ClassStrides, Event, EventFlags, EventHeader, OwnerLayout, PoolOwner, Releaser, SharedPool, Source};
use eventstream::sys::clock::{Nanos, WallNanos};
use eventstream::sys::memory::Arena;
use eventstream::wire::{Priority, Tier};
use proptest::prelude::*;

/// A pool that numbers its events, to tell them apart.
struct Numbered {
    shared: Arc<SharedPool>,
    owner: PoolOwner,
    releaser: Releaser,
    next: u64,
}

impl Numbered {
    fn new(slots: u32) -> Self {
        let (strides, layouts) = (ClassStrides::new(4096, 4096), [OwnerLayout::without_quotas([slots, 0, 0, 0, 0])]);
        let arena = Arena::map(SharedPool::arena_bytes(&strides, &layouts)).expect("a small mapping");
        let (shared, mut owners) = SharedPool::divide(arena, strides, &layouts);
        let releaser = Releaser::new(shared.clone());
        Self { shared, owner: owners.remove(0), releaser, next: 0 }
    }

    fn event(&mut self) -> Event {
        let header = EventHeader {
            id: self.next,
            received_at: Nanos(0),
            received_wall: WallNanos(0),
            connection: 0,
            body_len: 0,
            topic_len: 1,
            priority: Priority::High,
            tier: Tier::Realtime,
            source: Source::InProcess,
            attempts: 0,
            flags: EventFlags::NONE,
            reserved: 0,
            producer_sequence: 0,
            key: None,
        };
        self.next += 1;
        self.owner.store(header, b"t").expect("the pool is larger than the lanes")
    }

    /// The number of an event that came out; its slot goes home.
    fn number(&mut self, event: Event) -> u64 {
        let id = self.shared.header(&event).id;
        self.releaser.release(event);
        self.releaser.flush();
        id
    }

    fn numbers(&mut self, events: Vec<Event>) -> Vec<u64> {
        events.into_iter().map(|event| self.number(event)).collect()
    }

    fn assert_all_home(&mut self) {
        self.owner.collect();
        assert_eq!(self.owner.gauges().free, self.owner.gauges().total);
    }
}

fn one_lane(capacity_events: usize, overflow: Overflow, high_water_events: usize) -> (TierSender, TierReceiver) {
    let (mut senders, receiver, _) =
        bus::tier(TierOptions { capacity_events, producers: 1, overflow, high_water_events, service_lane_events: 0 });
    (senders.remove(0), receiver)
}

fn pop(receiver: &mut TierReceiver, pool: &mut Numbered, max: usize) -> Vec<u64> {
    let mut out = Vec::with_capacity(max);
    assert_eq!(receiver.pop_batch(&mut out, max), out.len());
    pool.numbers(out)
}

#[derive(Clone, Debug)]
enum Op {
    Send(usize),
    Publish,
    Pop(usize),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![3 => (1..6usize).prop_map(Op::Send), 2 => Just(Op::Publish), 2 => (1..6usize).prop_map(Op::Pop)]
}

/// The lane as a queue of numbers, of which the first `visible` are published.
#[derive(Default)]
struct Model {
    queue: VecDeque<u64>,
    visible: usize,
}

fn send(model: &mut Model, capacity: usize, sender: &mut TierSender, pool: &mut Numbered) {
    let number = pool.next;
    let is_full = model.queue.len() == capacity;
    match sender.send(pool.event()) {
        Sent::Queued => {
            assert!(!is_full);
            model.queue.push_back(number);
        }
        Sent::Evicted(event) => {
            assert!(is_full && sender.overflow() == Overflow::DropOld);
            assert_eq!(Some(pool.number(event)), model.queue.pop_front(), "the oldest makes room");
            // Where nothing was published, evicting published all there was.
            model.visible = if model.visible == 0 { model.queue.len() } else { model.visible - 1 };
            model.queue.push_back(number);
        }
        Sent::Refused(event) => {
            assert!(is_full && sender.overflow() == Overflow::DropNew);
            assert_eq!(pool.number(event), number);
        }
        Sent::Wait(event) => {
            assert!(is_full && sender.overflow() == Overflow::BlockProducer);
            assert_eq!(pool.number(event), number);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_policy_behaves_as_a_queue_does(
        capacity in prop::sample::select(vec![1usize, 2, 4, 8]),
        overflow in prop::sample::select(Overflow::ALL.to_vec()),
        ops in prop::collection::vec(any_op(), 1..150),
    ) {
        let mut pool = Numbered::new(32);
        let (mut sender, mut receiver) = one_lane(capacity, overflow, capacity);
        let mut model = Model::default();
        for op in ops {
            match op {
                Op::Send(events) => (0..events).for_each(|_| send(&mut model, capacity, &mut sender, &mut pool)),
                Op::Publish => {
                    sender.publish();
                    model.visible = model.queue.len();
                }
                Op::Pop(max) => {
                    let expected: Vec<u64> = model.queue.drain(..max.min(model.visible)).collect();
                    model.visible -= expected.len();
                    assert_eq!(pop(&mut receiver, &mut pool, max), expected);
                }
            }
            assert_eq!(sender.depth(), model.queue.len());
            assert_eq!(receiver.depth(), model.visible);
        }
        sender.publish();
        assert_eq!(pop(&mut receiver, &mut pool, capacity), Vec::from(model.queue));
        pool.assert_all_home();
    }
}

#[test]
fn a_sender_waits_from_the_mark_until_below_half_of_it() {
    let mut pool = Numbered::new(32);
    let (mut sender, mut receiver) = one_lane(16, Overflow::DropOld, 8);
    for _ in 0..8 {
        assert!(!sender.must_wait());
        assert!(matches!(sender.send(pool.event()), Sent::Queued));
    }
    assert!(sender.must_wait(), "unpublished events count");
    assert!(!sender.may_resume());
    sender.publish();
    for depth in [7, 6, 5, 4] {
        pop(&mut receiver, &mut pool, 1);
        assert_eq!(sender.depth(), depth);
        assert!(sender.must_wait() && !sender.may_resume(), "not below half at {depth}");
    }
    pop(&mut receiver, &mut pool, 1);
    assert!(sender.may_resume() && !sender.must_wait());
    pop(&mut receiver, &mut pool, 16);
    assert_eq!(sender.gauge().losses().map(|l| l.waited.get()).sum::<u64>(), 1, "one wait, however often it was asked");
}

#[test]
fn the_mark_is_over_all_lanes_of_the_tier() {
    let mut pool = Numbered::new(32);
    let options = TierOptions {
        capacity_events: 16,
        producers: 2,
        overflow: Overflow::DropNew,
        high_water_events: 8,
        service_lane_events: 0,
    };
    let (mut senders, mut receiver, gauge) = bus::tier(options);
    for _ in 0..8 {
        assert!(matches!(senders[0].send(pool.event()), Sent::Queued));
    }
    senders[0].publish();
    assert!(senders[1].must_wait(), "the other producer filled the tier to the mark");
    assert_eq!((gauge.depth(), senders[1].depth()), (8, 8));
    pop(&mut receiver, &mut pool, 5);
    assert!(!senders[1].must_wait());
    pop(&mut receiver, &mut pool, 16);
}

#[test]
fn two_senders_that_ask_before_each_event_stay_near_the_mark() {
    let mut pool = Numbered::new(64);
    let options = TierOptions {
        capacity_events: 32,
        producers: 2,
        overflow: Overflow::DropNew,
        high_water_events: 16,
        service_lane_events: 0,
    };
    let (mut senders, mut receiver, _) = bus::tier(options);
    for turn in 0..64 {
        let sender = &mut senders[turn % 2];
        if !sender.must_wait() {
            assert!(matches!(sender.send(pool.event()), Sent::Queued));
            sender.publish();
        }
    }
    assert!((16..=17).contains(&receiver.depth()), "{}", receiver.depth());
    pop(&mut receiver, &mut pool, 32);
}

#[test]
fn a_full_lane_makes_sources_of_a_blocking_tier_wait_without_flow_control() {
    let mut pool = Numbered::new(16);
    let (mut sender, mut receiver) = one_lane(4, Overflow::BlockProducer, usize::MAX);
    for _ in 0..4 {
        assert!(!sender.must_wait());
        assert!(matches!(sender.send(pool.event()), Sent::Queued));
    }
    assert!(sender.must_wait());
    sender.publish();
    pop(&mut receiver, &mut pool, 2);
    assert!(sender.must_wait(), "half of the lane, not below");
    pop(&mut receiver, &mut pool, 1);
    assert!(!sender.must_wait());
    pop(&mut receiver, &mut pool, 4);
}

#[test]
fn dropping_policies_never_wait_without_flow_control() {
    for overflow in [Overflow::DropOld, Overflow::DropNew] {
        let mut pool = Numbered::new(16);
        let (mut sender, mut receiver) = one_lane(4, overflow, 4);
        let mut lost = 0;
        for _ in 0..10 {
            assert!(!sender.must_wait());
            match sender.send(pool.event()) {
                Sent::Queued => {}
                Sent::Evicted(event) | Sent::Refused(event) | Sent::Wait(event) => {
                    pool.number(event);
                    lost += 1;
                }
            }
        }
        assert_eq!(lost, 6);
        sender.publish();
        let expected: Vec<u64> = if overflow == Overflow::DropOld { (6..10).collect() } else { (0..4).collect() };
        assert_eq!(pop(&mut receiver, &mut pool, 16), expected);
    }
}

#[test]
fn an_empty_tier_always_lets_a_sender_go_on() {
    for (capacity, mark) in [(1, 1), (1, 0), (2, 1), (16, 0), (16, 1), (16, usize::MAX)] {
        let mut pool = Numbered::new(32);
        let (mut sender, mut receiver) = one_lane(capacity, Overflow::BlockProducer, mark);
        for round in 0..5 {
            assert!(sender.may_resume() && !sender.must_wait(), "capacity {capacity}, mark {mark}, round {round}");
            while !sender.must_wait() {
                assert!(matches!(sender.send(pool.event()), Sent::Queued));
            }
            sender.publish();
            while !pop(&mut receiver, &mut pool, 3).is_empty() {}
        }
    }
}

#[test]
fn lanes_are_served_in_turn_and_each_in_order() {
    let mut pool = Numbered::new(64);
    let options = TierOptions {
        capacity_events: 64,
        producers: 4,
        overflow: Overflow::DropNew,
        high_water_events: 64,
        service_lane_events: 0,
    };
    let (mut senders, mut receiver, _) = bus::tier(options);
    // Lane 1 stays empty; the others get 4 events each: 0-3, 4-7, 8-11.
    for lane in [0, 2, 3] {
        for _ in 0..4 {
            assert!(matches!(senders[lane].send(pool.event()), Sent::Queued));
        }
        senders[lane].publish();
    }
    let batches: Vec<Vec<u64>> = (0..6).map(|_| pop(&mut receiver, &mut pool, 2)).collect();
    assert_eq!(batches, [[0, 1], [4, 5], [8, 9], [2, 3], [6, 7], [10, 11]]);
    assert!(pop(&mut receiver, &mut pool, 2).is_empty());
}

#[test]
fn a_batch_goes_on_with_the_next_lane_when_one_runs_out() {
    let mut pool = Numbered::new(64);
    let options = TierOptions {
        capacity_events: 32,
        producers: 2,
        overflow: Overflow::DropNew,
        high_water_events: 32,
        service_lane_events: 0,
    };
    let (mut senders, mut receiver, gauge) = bus::tier(options);
    for sender in &mut senders {
        for _ in 0..3 {
            assert!(matches!(sender.send(pool.event()), Sent::Queued));
        }
        sender.publish();
    }
    assert_eq!((gauge.depth(), receiver.depth(), receiver.capacity()), (6, 6, 32));
    assert_eq!(pop(&mut receiver, &mut pool, 5), [0, 1, 2, 3, 4]);
    assert_eq!(pop(&mut receiver, &mut pool, 5), [5]);
}

#[test]
fn a_lane_dropped_with_events_in_it_forgets_them_and_breaks_nothing() {
    let mut pool = Numbered::new(8);
    let (mut sender, receiver) = one_lane(4, Overflow::DropOld, 4);
    for _ in 0..3 {
        assert!(matches!(sender.send(pool.event()), Sent::Queued));
    }
    sender.publish();
    drop((sender, receiver));
    pool.owner.collect();
    assert_eq!(pool.owner.events_out(), 3, "their slots stay out, and are seen to");
}

#[test]
fn counters_name_depth_pressure_and_losses_of_each_tier() {
    let mut pool = Numbered::new(32);
    let make = |overflow| {
        bus::tier(TierOptions { capacity_events: 4, producers: 1, overflow, high_water_events: 4, service_lane_events: 0 })
    };
    let (mut realtime, mut realtime_out, realtime_gauge) = make(Overflow::DropOld);
    let (_trans, _trans_out, trans_gauge) = make(Overflow::BlockProducer);
    let (mut batch, mut batch_out, batch_gauge) = make(Overflow::DropNew);
    for _ in 0..6 {
        for sender in [&mut realtime[0], &mut batch[0]] {
            if let Sent::Evicted(event) | Sent::Refused(event) = sender.send(pool.event()) {
                pool.number(event);
            }
            sender.publish();
        }
    }
    assert_eq!(realtime_gauge.pressure(), Pressure::Critical);
    let counters = BusCounters::new([vec![realtime_gauge], vec![trans_gauge], vec![batch_gauge]]);
    let mut samples = Vec::new();
    counters.measure(&mut |s| samples.push((s.name, s.labels.first().map(|label| label.1.to_owned()), s.value)));
    let value = |name: &str, tier: Option<&str>| {
        samples.iter().find(|(n, t, _)| *n == name && t.as_deref() == tier).unwrap_or_else(|| panic!("{name} {tier:?}")).2
    };
    assert_eq!(value("queue_depth_realtime", None), 4);
    assert_eq!(value("queue_depth_trans", None), 0);
    assert_eq!(value("queue_depth_batch", None), 4);
    assert_eq!(value("queue_capacity", Some("trans")), 4);
    assert_eq!(value("queue_pressure", Some("batch")), 2);
    assert_eq!(value("queue_evicted", Some("realtime")), 2);
    assert_eq!(value("queue_refused", Some("batch")), 2);
    assert_eq!(value("queue_waited", Some("trans")), 0);
    pop(&mut realtime_out, &mut pool, 4);
    pop(&mut batch_out, &mut pool, 4);
}

#[test]
fn a_flood_that_evicts_all_the_time_still_lets_the_consumer_take_events() {
    const EVENTS: u64 = 200_000;
    let mut pool = Numbered::new(512);
    let (mut sender, mut receiver) = one_lane(64, Overflow::DropOld, 64);
    let (shared, mut releaser) = (pool.shared.clone(), Releaser::new(pool.shared.clone()));
    let done = std::sync::atomic::AtomicBool::new(false);
    let (taken, evicted) = std::thread::scope(|scope| {
        let consumer = scope.spawn(|| {
            let (mut taken, mut last) = (0u64, None);
            let mut out = Vec::with_capacity(64);
            loop {
                // Read before the pop: what is empty afterwards stays empty.
                let is_last = done.load(std::sync::atomic::Ordering::Acquire);
                let count = receiver.pop_batch(&mut out, 64);
                for event in out.drain(..) {
                    let id = shared.header(&event).id;
                    assert!(last < Some(id), "out of order or twice");
                    last = Some(id);
                    releaser.release(event);
                }
                releaser.flush();
                taken += count as u64;
                if count == 0 && is_last {
                    return taken;
                }
                if count == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut evicted = 0;
        for _ in 0..EVENTS {
            let event = pool.event();
            if let Sent::Evicted(oldest) = sender.send(event) {
                pool.number(oldest);
                evicted += 1;
            }
            sender.publish();
        }
        done.store(true, std::sync::atomic::Ordering::Release);
        (consumer.join().expect("no panic"), evicted)
    });
    assert_eq!(taken + evicted, EVENTS);
    assert!(taken >= 64, "what is in the lane at the end is taken at least");
    pool.assert_all_home();
}
