//! What one core, or two of them, can do without the kernel: clock, checksum, a system call, hand-offs.

use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

use super::spsc;
use crate::storage::format::crc32c;
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::sys::process::pin_current_thread;

/// As the REALTIME lane's default.
const LANE_EVENTS: usize = 16_384;
/// As the engine's batches.
const LANE_BATCH: u64 = 64;
const CHECKSUM_BYTES: usize = 64 << 10;

/// Calls `work` in rounds of `calls` until the time is over; nanoseconds a call.
fn cost_ns<T>(at_most: Nanos, calls: u64, mut work: impl FnMut() -> T) -> f64 {
    let (began, mut done) = (HostClock.now(), 0);
    loop {
        (0..calls).for_each(|_| _ = black_box(work()));
        done += calls;
        let took = HostClock.now().since(began);
        if took >= at_most {
            return took.0 as f64 / done as f64;
        }
    }
}

/// A read of the monotonic clock, nanoseconds.
pub(super) fn clock_ns(at_most: Nanos) -> f64 {
    cost_ns(at_most, 1_000, || HostClock.now())
}

/// The cheapest system call, nanoseconds.
pub(super) fn system_call_ns(at_most: Nanos) -> f64 {
    cost_ns(at_most, 1_000, std::os::unix::process::parent_id)
}

/// CRC-32C of 64 KiB in cache, GB/s.
pub(super) fn checksum_gb_per_second(at_most: Nanos) -> f64 {
    let bytes: Vec<u8> = (0..CHECKSUM_BYTES).map(|at| at as u8).collect();
    CHECKSUM_BYTES as f64 / cost_ns(at_most, 16, || crc32c(black_box(&bytes)))
}

/// A cache line to another core and back, nanoseconds. The calling thread is on its own core already.
pub(super) fn ping_pong_ns(other_cpu: u32, at_most: Nanos) -> f64 {
    /// Between two looks at the clock.
    const ROUNDS: u64 = 1_000;
    let [ball, back] = [0; 2].map(|_| Arc::new(CachePadded::new(AtomicU64::new(0))));
    let stop = Arc::new(AtomicBool::new(false));
    let (thrown, returned, stopped) = (ball.clone(), back.clone(), stop.clone());
    let other = std::thread::spawn(move || {
        let _ = pin_current_thread(other_cpu);
        // Relaxed: a late look only costs a round.
        while !stopped.load(Ordering::Relaxed) {
            returned.store(thrown.load(Ordering::Acquire), Ordering::Release);
        }
    });
    let mut round = 0;
    let ns = cost_ns(at_most, ROUNDS, || {
        round += 1;
        ball.store(round, Ordering::Release);
        while back.load(Ordering::Acquire) != round {
            spin_loop();
        }
    });
    stop.store(true, Ordering::Relaxed);
    other.join().expect("the other side does not panic");
    ns
}

/// A number through a queue to another core, in batches, nanoseconds each. The calling thread receives, on its own core.
pub(super) fn hand_off_ns(other_cpu: u32, at_most: Nanos) -> f64 {
    let (mut sender, mut receiver) = spsc::queue(LANE_EVENTS);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let other = std::thread::spawn(move || {
        let _ = pin_current_thread(other_cpu);
        let mut value = 0;
        while !stopped.load(Ordering::Relaxed) {
            for _ in 0..LANE_BATCH {
                value += u64::from(sender.push(value));
            }
            sender.publish();
        }
    });
    // The first one: thread and lines are there.
    while receiver.pop().is_none() {
        spin_loop();
    }
    let (began, mut taken) = (HostClock.now(), 0u64);
    let ns = loop {
        let mut batch = 0;
        while batch < LANE_BATCH && receiver.pop().is_some() {
            batch += 1;
        }
        receiver.publish();
        taken += batch;
        let took = HostClock.now().since(began);
        if took >= at_most {
            break took.0 as f64 / taken.max(1) as f64;
        }
    };
    stop.store(true, Ordering::Relaxed);
    other.join().expect("the other side does not panic");
    ns
}
