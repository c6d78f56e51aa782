//! Hand-offs: a cache line, lanes and tiers, and beside them the queues that one would take otherwise.
//!
//! Each moves the same: 8 bytes an item, from a vector to a vector, so that no pool has a part in it. Between cores the receiving one is
//! this thread, and the time is its: from the moment that both were ready until it has all.

use std::hint::spin_loop;
use std::mem::swap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;
use eventstream::bus::lane::Full;
use eventstream::bus::{LaneConsumer, LaneProducer, Overflow, Sent, TierOptions, TierReceiver, TierSender, lane, tier};
use eventstream::pool::Event;
use eventstream::sys::clock::Nanos;
use rtrb::RingBuffer;
use rtrb::chunks::ChunkError;

use crate::rig::{BATCH, Host, Pass, Row, There, beside, events, timed};

/// As the REALTIME lane has them.
const CAPACITY: usize = 16_384;
/// Sixteen times around, half a millisecond at 2 ns.
const ITEMS: usize = 16 * CAPACITY;
/// As the TRANSACTIONAL tier has them.
const TIER_CAPACITY: usize = 65_536;
/// Where TCP connections wait, unless set otherwise: 40 % of `--max-queue-depth`.
const HIGH_WATER: usize = 2_000;
/// There and back, so many times.
pub const THROWS: usize = 10_000;

pub fn rows() -> Vec<Row> {
    vec![
        Row::across("cache line to the other core and back", THROWS, |host| {
            let cpu = host.other_cpus[0];
            Box::new(move || ping_pong(cpu))
        }),
        Row::across("lane, across cores, published one by one", ITEMS, |host| lane_across(host, 1)),
        Row::across("lane, across cores, published by 64", ITEMS, |host| lane_across(host, BATCH)).below(3.0),
        Row::across("rtrb, across cores, one by one", ITEMS, rtrb_across),
        Row::across("rtrb, across cores, in chunks of 64", ITEMS, rtrb_chunks_across),
        Row::across("ArrayQueue, across cores", ITEMS, array_queue_across),
        Row::across("tier of one producer, across cores, by 64", ITEMS, |host| tier_across(host, 1)).below(3.0),
        Row::across("tier of two producers, across cores, by 64", ITEMS, |host| tier_across(host, 2)).below(5.0),
        Row::new("lane, one core, by 64", ITEMS, lane_alone),
        Row::new("rtrb, one core, in chunks of 64", ITEMS, rtrb_alone),
        Row::new("ArrayQueue, one core", ITEMS, array_queue_alone),
        Row::new("tier of one producer, one core, by 64", ITEMS, || tier_alone(1)),
        Row::new("tier of two producers, one core, by 64", ITEMS, || tier_alone(2)),
    ]
}

/// A cache line to another core and back, [`THROWS`] times.
pub fn ping_pong(other_cpu: u32) -> Nanos {
    let [ball, back] = [0; 2].map(|_| CachePadded::new(AtomicU64::new(0)));
    let returning = || {
        (1..=THROWS as u64).for_each(|throw| {
            await_value(&ball, throw);
            back.store(throw, Ordering::Release);
        });
    };
    let throwing = || {
        (1..=THROWS as u64).for_each(|throw| {
            ball.store(throw, Ordering::Release);
            await_value(&back, throw);
        });
    };
    beside(vec![(other_cpu, Box::new(returning))], || timed(throwing))
}

fn await_value(line: &AtomicU64, value: u64) {
    while line.load(Ordering::Acquire) != value {
        spin_loop();
    }
}

/// A pass that sends all items from another core to this one, and next time again: `receive` takes what there is.
fn across<T: Send + 'static>(
    host: &Host,
    mut there: Vec<T>,
    mut send: impl FnMut(&mut Vec<T>) + Send + 'static,
    mut receive: impl FnMut(&mut Vec<T>) + 'static,
) -> Pass {
    let (cpu, count) = (host.other_cpus[0], there.len());
    let mut here = Vec::with_capacity(count);
    Box::new(move || {
        let sending: There<'_> = (cpu, Box::new(|| send(&mut there)));
        let took = beside(vec![sending], || {
            timed(|| {
                while here.len() < count {
                    receive(&mut here);
                }
            })
        });
        swap(&mut there, &mut here);
        took
    })
}

/// A pass that moves the items of one batch again and again, on this core.
fn alone<T: 'static>(mut batch: Vec<T>, mut pass_on: impl FnMut(&mut Vec<T>) + 'static) -> Pass {
    let times = ITEMS / batch.len();
    Box::new(move || timed(|| (0..times).for_each(|_| pass_on(&mut batch))))
}

fn numbers(count: usize) -> Vec<u64> {
    (0..count as u64).collect()
}

fn push_all(producer: &mut LaneProducer, events: &mut Vec<Event>, publish_each: usize) {
    let mask = publish_each - 1;
    for (number, mut event) in events.drain(..).enumerate() {
        while let Err(Full(back)) = producer.push(event) {
            producer.publish();
            spin_loop();
            event = back;
        }
        if number & mask == mask {
            producer.publish();
        }
    }
    producer.publish();
}

fn pop_some(consumer: &mut LaneConsumer, events: &mut Vec<Event>) {
    if consumer.pop_batch(events, BATCH) == 0 {
        spin_loop();
    }
}

/// `publish_each`: a power of two.
fn lane_across(host: &Host, publish_each: usize) -> Pass {
    let (mut producer, mut consumer) = lane(CAPACITY);
    let send = move |events: &mut Vec<Event>| push_all(&mut producer, events, publish_each);
    across(host, events(ITEMS), send, move |events| pop_some(&mut consumer, events))
}

fn lane_alone() -> Pass {
    let (mut producer, mut consumer) = lane(CAPACITY);
    alone(events(BATCH), move |batch| {
        push_all(&mut producer, batch, BATCH);
        pop_some(&mut consumer, batch);
    })
}

fn rtrb_across(host: &Host) -> Pass {
    let (mut producer, mut consumer) = RingBuffer::new(CAPACITY);
    let send = move |items: &mut Vec<u64>| {
        for item in items.drain(..) {
            while producer.push(item).is_err() {
                spin_loop();
            }
        }
    };
    across(host, numbers(ITEMS), send, move |items| match consumer.pop() {
        Ok(item) => items.push(item),
        Err(_) => spin_loop(),
    })
}

fn push_chunks(producer: &mut rtrb::Producer<u64>, items: &mut Vec<u64>) {
    let mut items = items.drain(..);
    while items.len() > 0 {
        match producer.write_chunk_uninit(BATCH.min(items.len())) {
            Ok(chunk) => _ = chunk.fill_from_iter(&mut items),
            Err(ChunkError::TooFewSlots(_)) => spin_loop(),
        }
    }
}

fn pop_chunk(consumer: &mut rtrb::Consumer<u64>, items: &mut Vec<u64>) {
    match consumer.read_chunk(BATCH.min(consumer.slots())) {
        Ok(chunk) => items.extend(chunk),
        Err(ChunkError::TooFewSlots(_)) => unreachable!("slots only become more behind the consumer's back"),
    }
}

fn rtrb_chunks_across(host: &Host) -> Pass {
    let (mut producer, mut consumer) = RingBuffer::new(CAPACITY);
    let send = move |items: &mut Vec<u64>| push_chunks(&mut producer, items);
    across(host, numbers(ITEMS), send, move |items| pop_chunk(&mut consumer, items))
}

fn rtrb_alone() -> Pass {
    let (mut producer, mut consumer) = RingBuffer::new(CAPACITY);
    alone(numbers(BATCH), move |batch| {
        push_chunks(&mut producer, batch);
        pop_chunk(&mut consumer, batch);
    })
}

fn array_queue_across(host: &Host) -> Pass {
    let queue = Arc::new(ArrayQueue::new(CAPACITY));
    let sending = queue.clone();
    let send = move |items: &mut Vec<u64>| {
        for item in items.drain(..) {
            while sending.push(item).is_err() {
                spin_loop();
            }
        }
    };
    across(host, numbers(ITEMS), send, move |items| match queue.pop() {
        Some(item) => items.push(item),
        None => spin_loop(),
    })
}

fn array_queue_alone() -> Pass {
    let queue = ArrayQueue::new(CAPACITY);
    alone(numbers(BATCH), move |batch| {
        batch.drain(..).for_each(|item| queue.push(item).expect("there is room for a batch"));
        batch.extend(std::iter::from_fn(|| queue.pop()));
    })
}

/// A tier as the reactors have it: flow control, and a policy that loses nothing.
fn tier_of(producers: usize) -> (Vec<TierSender>, TierReceiver) {
    let capacity_events = if producers == 1 { CAPACITY } else { TIER_CAPACITY };
    let (senders, receiver, _) = tier(TierOptions {
        capacity_events,
        producers,
        overflow: Overflow::BlockProducer,
        high_water_events: HIGH_WATER,
        service_lane_events: 0,
    });
    (senders, receiver)
}

/// Sends a batch as far as the tier lets it; how many went.
fn send_batch(sender: &mut TierSender, events: &mut Vec<Event>) -> usize {
    let before = events.len();
    for _ in 0..BATCH {
        if sender.must_wait() {
            break;
        }
        let Some(event) = events.pop() else { break };
        match sender.send(event) {
            Sent::Queued => {}
            Sent::Wait(event) => events.push(event),
            Sent::Evicted(_) | Sent::Refused(_) => unreachable!("block-producer turns nothing away"),
        }
    }
    sender.publish();
    before - events.len()
}

/// Each producer on a core of its own where there are as many; else they take turns on one, a batch each.
fn tier_across(host: &Host, producers: usize) -> Pass {
    let (senders, mut receiver) = tier_of(producers);
    let share = ITEMS / producers;
    let mut there: Vec<_> = senders.into_iter().map(|sender| (sender, events(share))).collect();
    let cpus = host.other_cpus[..producers.min(host.other_cpus.len())].to_vec();
    let mut here: Vec<Event> = Vec::with_capacity(ITEMS);
    Box::new(move || {
        let on_each = producers.div_ceil(cpus.len());
        let sending = there.chunks_mut(on_each).zip(&cpus).map(|(lots, cpu)| send_lots(*cpu, lots));
        let took = beside(sending.collect(), || {
            timed(|| {
                while here.len() < ITEMS {
                    if receiver.pop_batch(&mut here, BATCH) == 0 {
                        spin_loop();
                    }
                }
            })
        });
        there.iter_mut().for_each(|(_, events)| events.extend(here.drain(here.len() - share..)));
        took
    })
}

/// What the core does that these producers are on.
fn send_lots(cpu: u32, lots: &mut [(TierSender, Vec<Event>)]) -> There<'_> {
    let sending = || {
        while lots.iter().any(|(_, events)| !events.is_empty()) {
            if lots.iter_mut().map(|(sender, events)| send_batch(sender, events)).sum::<usize>() == 0 {
                spin_loop();
            }
        }
    };
    (cpu, Box::new(sending))
}

fn tier_alone(producers: usize) -> Pass {
    let (mut senders, mut receiver) = tier_of(producers);
    let mut next = 0;
    alone(events(BATCH), move |batch| {
        let sent = send_batch(&mut senders[next], batch);
        assert_eq!(sent, BATCH, "nobody waits in an empty tier");
        next = (next + 1) % producers;
        receiver.pop_batch(batch, BATCH);
    })
}
