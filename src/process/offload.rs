//! A handler on a thread of its own, so that it may block.
//!
//! ```text
//! agent ── push, publish, unpark ──► jobs (lane) ──► helper: calls the handler
//!   ▲                                                   │
//!   └────── collect ◄── results (array queue) ◄─────────┘ wakes the agent's runner
//! ```
//!
//! Invariants:
//! - **O1** `in_flight <= capacity`: the agent pushes only where [`Offload::room`] says so, and both queues hold `capacity`; so
//!   neither ever refuses. When there is no room, the agent stops taking from its tier: depth rises, the tier's policy acts.
//! - **O2** Each event pushed comes back once, in order, with its verdict, or is released by whoever ends last.
//! - **O3** No wake-up is lost: publish comes before `unpark`, and an `unpark` before `park` makes that `park` return.
//!
//! At the end the helper is joined when it is idle. One that is still inside its handler is left behind (it holds the pool itself, so
//! the memory stays valid); waiting for it could take forever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;

use crate::bus::lane::{LaneConsumer, LaneProducer, lane};
use crate::pool::{Event, EventView, Releaser, SharedPool};
use crate::process::handler::HandlerError;
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::sys::process::helper_thread_setup;
use crate::sys::wake::Waker;

/// What a handler made of an event.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Handled.
    Done,
    /// It said no.
    Failed(HandlerError),
    /// It panicked.
    Panicked(HandlerError),
    /// It is disabled and was not asked.
    Disabled,
    /// It was not asked: an event of the same topic failed before and waits for its next try.
    Behind,
}

/// An event back from the helper.
pub(crate) struct Finished {
    pub(crate) event: Event,
    pub(crate) verdict: Verdict,
    /// When the handler returned, read by the helper.
    pub(crate) handled_at: Nanos,
}

/// What the helper runs on each event.
pub(crate) type Job = Box<dyn FnMut(&EventView<'_>) -> Verdict + Send>;

/// Events a helper takes from its lane at a time.
const TAKE_EVENTS_MAX: usize = 16;

/// The agent's side.
pub(crate) struct Offload {
    jobs: LaneProducer,
    results: Arc<ArrayQueue<Finished>>,
    in_flight: usize,
    pushed: bool,
    stop: Arc<AtomicBool>,
    helper: Option<JoinHandle<()>>,
    releaser: Releaser,
}

impl Offload {
    /// Starts the helper thread. `capacity_events` is a power of two; `runner` is woken when results are there.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start(
        name: &str,
        capacity_events: usize,
        pool: &Arc<SharedPool>,
        runner: Option<Waker>,
        job: Job,
    ) -> std::io::Result<Self> {
        let (jobs, todo) = lane(capacity_events);
        let results = Arc::new(ArrayQueue::new(capacity_events));
        let stop = Arc::new(AtomicBool::new(false));
        let helper = Helper {
            jobs: todo,
            results: results.clone(),
            stop: stop.clone(),
            pool: pool.clone(),
            releaser: Releaser::new(pool.clone()),
            runner,
            job,
        };
        let helper = std::thread::Builder::new().name(format!("handler-{name}")).spawn(move || helper.run())?;
        let releaser = Releaser::new(pool.clone());
        Ok(Self { jobs, results, in_flight: 0, pushed: false, stop, helper: Some(helper), releaser })
    }

    /// Events that may be pushed (O1).
    pub(crate) fn room(&self) -> usize {
        self.jobs.capacity() - self.in_flight
    }

    /// Events with the helper, or back and not yet collected.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Hands an event to the helper; it sees it after [`Offload::publish`].
    ///
    /// # Panics
    /// Without room (O1).
    pub(crate) fn push(&mut self, event: Event) {
        let pushed = self.jobs.push(event);
        assert!(pushed.is_ok(), "O1: push only into room");
        self.in_flight += 1;
        self.pushed = true;
    }

    /// Makes what was pushed visible. Once per poll.
    pub(crate) fn publish(&mut self) {
        if std::mem::take(&mut self.pushed) {
            self.jobs.publish();
            self.helper.as_ref().expect("lives as long as this").thread().unpark(); // O3
        }
    }

    /// The next event that is back.
    pub(crate) fn collect(&mut self) -> Option<Finished> {
        // The queue's pop is a compare-and-swap loop; an idle agent should not pay for it.
        if self.in_flight == 0 {
            return None;
        }
        let finished = self.results.pop()?;
        self.in_flight -= 1;
        Some(finished)
    }
}

impl Drop for Offload {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let is_idle = self.in_flight == self.results.len();
        if let Some(helper) = self.helper.take() {
            helper.thread().unpark();
            if is_idle {
                // It only ends early by a panic of our own code, which has been reported on its way.
                let _ = helper.join();
            } else {
                log::warn!("a handler is still busy at the end; its thread is left behind");
            }
        }
        release_all(&self.results, &mut self.releaser);
    }
}

/// O2: both sides do this last; whoever is later finds what the other left.
fn release_all(results: &ArrayQueue<Finished>, releaser: &mut Releaser) {
    while let Some(finished) = results.pop() {
        releaser.release(finished.event);
    }
    releaser.flush();
}

/// The thread's side.
struct Helper {
    jobs: LaneConsumer,
    results: Arc<ArrayQueue<Finished>>,
    stop: Arc<AtomicBool>,
    pool: Arc<SharedPool>,
    releaser: Releaser,
    runner: Option<Waker>,
    job: Job,
}

impl Helper {
    fn run(mut self) {
        helper_thread_setup();
        let mut taken = Vec::with_capacity(TAKE_EVENTS_MAX);
        while !self.stop.load(Ordering::Acquire) {
            if self.jobs.pop_batch(&mut taken, TAKE_EVENTS_MAX) == 0 {
                std::thread::park(); // O3
                continue;
            }
            for event in taken.drain(..) {
                self.handle(event);
            }
        }
        while self.jobs.pop_batch(&mut taken, TAKE_EVENTS_MAX) > 0 {
            taken.drain(..).for_each(|event| self.releaser.release(event));
        }
        release_all(&self.results, &mut self.releaser);
    }

    fn handle(&mut self, event: Event) {
        if self.stop.load(Ordering::Acquire) {
            return self.releaser.release(event);
        }
        let verdict = (self.job)(&self.pool.view(&event));
        let full = self.results.push(Finished { event, verdict, handled_at: HostClock.now() });
        assert!(full.is_ok(), "O1: as many results as jobs");
        if let Some(runner) = &self.runner {
            runner.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::test_support::TestPool;

    fn wait_for(offload: &mut Offload) -> Finished {
        loop {
            match offload.collect() {
                Some(finished) => return finished,
                None => std::thread::yield_now(),
            }
        }
    }

    #[test]
    fn events_come_back_once_and_in_order_with_their_verdicts() {
        let mut pool = TestPool::new();
        let job: Job =
            Box::new(|e| if e.header.id % 2 == 0 { Verdict::Done } else { Verdict::Failed(HandlerError::new(e.topic)) });
        let mut offload = Offload::start("test", 8, &pool.shared, None, job).unwrap();
        for round in 0..10 {
            for id in 0..8 {
                offload.push(pool.transactional(round * 8 + id, "odd", b"x"));
            }
            assert_eq!(offload.room(), 0);
            offload.publish();
            for id in 0..8 {
                let finished = wait_for(&mut offload);
                assert_eq!(pool.shared.header(&finished.event).id, round * 8 + id);
                assert_eq!(matches!(&finished.verdict, Verdict::Failed(e) if e.text() == "odd"), id % 2 == 1);
                pool.release(finished.event);
            }
            assert_eq!(offload.room(), 8);
        }
    }

    #[test]
    fn results_nobody_collected_are_released_at_the_end() {
        let mut pool = TestPool::new();
        let mut offload = Offload::start("test", 8, &pool.shared, None, Box::new(|_| Verdict::Done)).unwrap();
        (0..5).for_each(|id| offload.push(pool.transactional(id, "t", b"x")));
        offload.publish();
        while offload.results.len() < 5 {
            std::thread::yield_now();
        }
        drop(offload);
        assert_eq!(pool.events_out(), 0);
    }

    #[test]
    fn a_busy_handler_is_left_behind_and_its_events_are_released_all_the_same() {
        let mut pool = TestPool::new();
        let (entered, has_entered) = std::sync::mpsc::channel();
        let (leave, may_leave) = std::sync::mpsc::channel::<()>();
        let (gone, is_gone) = std::sync::mpsc::channel::<()>();
        let job: Job = Box::new(move |_| {
            let _keep_until_the_thread_ends = &gone;
            entered.send(()).unwrap();
            may_leave.recv().unwrap();
            Verdict::Done
        });
        let mut offload = Offload::start("test", 8, &pool.shared, None, job).unwrap();
        (0..5).for_each(|id| offload.push(pool.transactional(id, "t", b"x")));
        offload.publish();
        has_entered.recv().unwrap();
        drop(offload);
        leave.send(()).unwrap();
        assert!(is_gone.recv().is_err(), "the helper ended");
        assert_eq!(pool.events_out(), 0);
    }
}
