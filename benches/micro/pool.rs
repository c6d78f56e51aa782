//! The pool: a slot's way out and home, by batches as agents do it.

use std::hint::spin_loop;
use std::mem::swap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use eventstream::pool::{ClassStrides, Event, PoolOwner, Releaser, Slot, SlotClass, SlotUse};
use eventstream::sys::clock::Nanos;
use eventstream::wire::Priority;

use crate::rig::{BATCH, BODY_BYTES, Host, PAYLOAD_BYTES, Pass, Row, TOPIC, beside, header, pool, timed};

/// Batches of a pass on one core.
const BATCHES: usize = 2048;
/// Events on the way in a pass between two cores, as many as wait in a busy tier, and how often they go.
const ON_THE_WAY: usize = 2048;
const TURNS: usize = 16;
const SLOTS: u32 = 16_384;

pub fn rows() -> Vec<Row> {
    let items = BATCHES * BATCH;
    vec![
        Row::new("pool, acquire and give back", items, acquire_and_give_back),
        Row::new("pool, acquire, seal, release, home", items, acquire_and_release).below(4.0),
        Row::new("pool, acquire, copy of 73 bytes, seal, release, home", items, store_and_release),
        Row::across("pool, acquire, seal, release on the other core, home", TURNS * ON_THE_WAY, release_on_another_core),
    ]
}

fn owner() -> (PoolOwner, Releaser) {
    let owner = pool(ClassStrides::new(1 << 20, 32 << 10), &[SLOTS]).remove(0);
    let releaser = Releaser::new(owner.shared().clone());
    (owner, releaser)
}

fn acquire(owner: &mut PoolOwner) -> Slot {
    owner.acquire(SlotClass::Small, SlotUse::Batch).expect("a slot for each of a batch")
}

fn acquire_sealed(owner: &mut PoolOwner, number: u64) -> Event {
    let slot = acquire(owner);
    owner.seal(slot, header(number, Priority::Low))
}

fn acquire_and_give_back() -> Pass {
    let (mut owner, _) = owner();
    let mut slots = Vec::with_capacity(BATCH);
    Box::new(move || {
        timed(|| {
            for _ in 0..BATCHES {
                slots.extend((0..BATCH).map(|_| acquire(&mut owner)));
                slots.drain(..).for_each(|slot| owner.give_back(slot));
            }
        })
    })
}

/// Batches of events that are made, released and taken home on one core.
fn batches(mut make: impl FnMut(&mut PoolOwner, u64) -> Event + 'static) -> Pass {
    let (mut owner, mut releaser) = owner();
    let (mut events, mut number) = (Vec::with_capacity(BATCH), 0);
    Box::new(move || {
        timed(|| {
            for _ in 0..BATCHES {
                events.extend((0..BATCH as u64).map(|place| make(&mut owner, number + place)));
                number += BATCH as u64;
                events.drain(..).for_each(|event| releaser.release(event));
                releaser.flush();
                owner.collect();
            }
        })
    })
}

fn acquire_and_release() -> Pass {
    batches(acquire_sealed)
}

fn store_and_release() -> Pass {
    let payload = [TOPIC.as_bytes(), &[7; BODY_BYTES]].concat();
    assert_eq!(payload.len(), PAYLOAD_BYTES);
    batches(move |owner, number| owner.store(header(number, Priority::Low), &payload).expect("a slot for each of a batch"))
}

const OWNER: u8 = 0;
const RELEASER: u8 = 1;
const NOBODY: u8 = 2;

/// The owner's time for making and taking home, and the other core's for releasing, one after the other: added up, as nothing waits
/// meanwhile. What the cache lines of links and slots take to the other core and back is in it.
fn release_on_another_core(host: &Host) -> Pass {
    let (mut owner, mut releaser) = owner();
    let cpu = host.other_cpus[0];
    let mut made = Vec::with_capacity(ON_THE_WAY);
    Box::new(move || {
        let (turn, handed) = (AtomicU8::new(OWNER), Mutex::new(Vec::with_capacity(ON_THE_WAY)));
        let released_ns = AtomicU64::new(0);
        let releasing = || {
            while let Some(mut events) = await_turn(&turn, &handed) {
                let took = timed(|| release_all(&mut releaser, &mut events));
                released_ns.fetch_add(took.0, Ordering::Relaxed);
                drop(events);
                turn.store(OWNER, Ordering::Release);
            }
        };
        let owning = || {
            let mut took = Nanos(0);
            for _ in 0..TURNS {
                took = took + timed(|| made.extend((0..ON_THE_WAY as u64).map(|number| acquire_sealed(&mut owner, number))));
                swap(&mut made, &mut handed.lock().expect("nobody panics with it"));
                turn.store(RELEASER, Ordering::Release);
                while turn.load(Ordering::Acquire) != OWNER {
                    spin_loop();
                }
                took = took + timed(|| owner.collect());
            }
            turn.store(NOBODY, Ordering::Release);
            took
        };
        let took = beside(vec![(cpu, Box::new(releasing))], owning);
        took + Nanos(released_ns.load(Ordering::Relaxed))
    })
}

/// What was handed over, once it is; `None` at the end.
fn await_turn<'a>(turn: &AtomicU8, handed: &'a Mutex<Vec<Event>>) -> Option<std::sync::MutexGuard<'a, Vec<Event>>> {
    loop {
        match turn.load(Ordering::Acquire) {
            RELEASER => return Some(handed.lock().expect("nobody panics with it")),
            NOBODY => return None,
            _ => spin_loop(),
        }
    }
}

fn release_all(releaser: &mut Releaser, events: &mut Vec<Event>) {
    for (number, event) in events.drain(..).enumerate() {
        releaser.release(event);
        if number % BATCH == BATCH - 1 {
            releaser.flush();
        }
    }
    releaser.flush();
}
