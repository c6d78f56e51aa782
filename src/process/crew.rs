//! The handler threads of TRANSACTIONAL: one that always works, and spares that are given work while the node's level asks for it.
//!
//! Invariants, beside O1-O3 of [`super::offload`]:
//! - **CR1** Without spares, or while none works, events come back in the order in which they were pushed.
//! - **CR2** `room` and `push` of one poll go by one reading of the gate ([`Crew::begin_poll`]), so what fits into the room can be pushed.
//! - **CR3** Nothing is taken back from a spare when the level falls: it finishes what it has.

use crate::pool::Event;
use crate::process::offload::{Finished, Offload};

/// See the module doc.
pub(crate) struct Crew {
    /// The first always works.
    threads: Vec<Offload>,
    spares_work: bool,
    /// Whose results are looked at first.
    next: usize,
}

impl Crew {
    /// A crew of one.
    pub(crate) fn new(first: Offload) -> Self {
        Self { threads: vec![first], spares_work: false, next: 0 }
    }

    /// Adds a spare.
    pub(crate) fn add_spare(&mut self, spare: Offload) {
        self.threads.push(spare);
    }

    /// Says whether spares get work in this poll (CR2).
    pub(crate) fn begin_poll(&mut self, spares_work: bool) {
        self.spares_work = spares_work;
    }

    fn at_work(&self) -> usize {
        if self.spares_work { self.threads.len() } else { 1 }
    }

    /// Events that may be pushed.
    pub(crate) fn room(&self) -> usize {
        self.threads[..self.at_work()].iter().map(Offload::room).sum()
    }

    /// Events with any of them, or back and not yet collected.
    pub(crate) fn in_flight(&self) -> usize {
        self.threads.iter().map(Offload::in_flight).sum()
    }

    /// Hands an event to the one with the least to do.
    ///
    /// # Panics
    /// Without room.
    pub(crate) fn push(&mut self, event: Event) {
        let at_work = self.at_work();
        let idlest = self.threads[..at_work].iter_mut().min_by_key(|thread| thread.in_flight());
        idlest.expect("a crew has its first thread").push(event);
    }

    /// Makes what was pushed visible. Once per poll.
    pub(crate) fn publish(&mut self) {
        self.threads.iter_mut().for_each(Offload::publish);
    }

    /// The next event that is back, from each in turn.
    pub(crate) fn collect(&mut self) -> Option<Finished> {
        let count = self.threads.len();
        for turn in 0..count {
            let place = (self.next + turn) % count;
            if let Some(finished) = self.threads[place].collect() {
                self.next = (place + 1) % count;
                return Some(finished);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::offload::{Job, Verdict};
    use crate::process::test_support::TestPool;

    fn crew(pool: &TestPool, threads: usize) -> Crew {
        let start = || {
            let job: Job = Box::new(|_| Verdict::Done);
            Offload::start("test", 8, &pool.shared, None, job).expect("a thread")
        };
        let mut crew = Crew::new(start());
        (1..threads).for_each(|_| crew.add_spare(start()));
        crew
    }

    fn collect(crew: &mut Crew, pool: &mut TestPool, mut events: usize) {
        while events > 0 {
            match crew.collect() {
                Some(finished) => {
                    pool.release(finished.event);
                    events -= 1;
                }
                None => std::thread::yield_now(),
            }
        }
    }

    #[test]
    fn spares_get_work_only_while_they_are_asked_for() {
        let mut pool = TestPool::new();
        let mut crew = crew(&pool, 3);
        assert_eq!(crew.room(), 8);
        crew.begin_poll(true);
        assert_eq!(crew.room(), 24);
        (0..6).for_each(|id| crew.push(pool.transactional(id, "t", b"x")));
        assert_eq!(crew.threads.iter().map(Offload::in_flight).collect::<Vec<_>>(), [2, 2, 2]);
        crew.publish();
        crew.begin_poll(false);
        assert_eq!(crew.room(), 6, "CR3: what spares have is theirs to finish");
        (6..12).for_each(|id| crew.push(pool.transactional(id, "t", b"x")));
        assert_eq!(crew.room(), 0);
        crew.publish();
        collect(&mut crew, &mut pool, 12);
        assert_eq!((crew.in_flight(), crew.room(), pool.events_out()), (0, 8, 0));
    }
}
