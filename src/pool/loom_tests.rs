//! Every interleaving of releasing threads and the owner on one release stack.

use loom::cell::UnsafeCell;
use loom::thread;

use super::release::{Chain, Links};
use super::shared::OwnerShared;
use crate::sync::Arc;

/// An owner's stack with the slots' bytes as loom sees them.
struct Home {
    owner: OwnerShared,
    links: Links,
    bytes: Vec<UnsafeCell<u32>>,
}

impl Home {
    fn new(slots: usize) -> Arc<Self> {
        let bytes = (0..slots).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { owner: OwnerShared::new(), links: Links::new(slots), bytes })
    }

    /// Uses the slots as their holder, and sends them home with one splice. Whether the owner must be woken.
    fn use_and_release(&self, slots: &[u32]) -> bool {
        let mut chain = Chain::default();
        for slot in slots {
            // SAFETY: loom checks that nobody else accesses the cell meanwhile.
            self.bytes[*slot as usize].with_mut(|bytes| unsafe { *bytes += 1 });
            chain.push(&self.links, *slot);
        }
        self.owner.send_home(&self.links, &mut chain)
    }

    /// As the last holder of an event: leaves its outcome in the slot (O1 in `outcome`), and gives the slot up.
    fn leave_and_release(&self, slot: u32, outcome: u32) {
        let mut chain = Chain::default();
        // SAFETY: loom checks that nobody else accesses the cell meanwhile.
        self.bytes[slot as usize].with_mut(|bytes| unsafe { *bytes = outcome });
        chain.push(&self.links, slot);
        self.owner.send_home(&self.links, &mut chain);
    }

    /// As the owner: the outcomes of what has come home (O2).
    fn outcomes(&self) -> Vec<(u32, u32)> {
        let mut outcomes = Vec::new();
        self.owner.stack.take(&self.links, |slot| {
            // SAFETY: as above.
            outcomes.push((slot, self.bytes[slot as usize].with(|bytes| unsafe { *bytes })));
        });
        outcomes
    }

    /// As the owner: takes what is there and uses it again, which must be ordered after the holders' use.
    fn collect(&self, into: &mut Vec<u32>) {
        self.owner.stack.take(&self.links, |slot| {
            // SAFETY: as above.
            self.bytes[slot as usize].with_mut(|bytes| unsafe { *bytes += 1 });
            into.push(slot);
        });
    }
}

/// Runs the owner on a thread of its own, where it collects twice while others release; then checks that all is home.
fn collects_while(slots: usize, release: impl FnOnce(&Arc<Home>)) {
    let home = Home::new(slots);
    let owner = home.clone();
    let collector = thread::spawn(move || {
        let mut free = Vec::new();
        owner.collect(&mut free);
        owner.collect(&mut free);
        free
    });
    release(&home);
    let mut free = collector.join().unwrap();
    home.collect(&mut free);
    free.sort_unstable();
    assert_eq!(free, (0..slots as u32).collect::<Vec<_>>());
}

#[test]
fn slots_of_two_releasers_come_home_once_each() {
    loom::model(|| {
        collects_while(3, |home| {
            let other = home.clone();
            let releaser = thread::spawn(move || other.use_and_release(&[0, 1]));
            home.use_and_release(&[2]);
            releaser.join().unwrap();
        });
    });
}

#[test]
fn slots_spliced_one_after_the_other_come_home_once_each() {
    loom::model(|| {
        collects_while(3, |home| {
            home.use_and_release(&[0]);
            home.use_and_release(&[1, 2]);
        });
    });
}

#[test]
fn a_slot_that_goes_round_twice_is_never_in_two_places() {
    loom::model(|| {
        let home = Home::new(2);
        let other = home.clone();
        let owner = thread::spawn(move || {
            let mut free = Vec::new();
            other.collect(&mut free);
            // What came home is handed out and comes home again, perhaps in the middle of the other's splice.
            let reused = free.clone();
            other.use_and_release(&reused);
        });
        home.use_and_release(&[0]);
        home.use_and_release(&[1]);
        owner.join().unwrap();
        let mut free = Vec::new();
        home.collect(&mut free);
        free.sort_unstable();
        assert_eq!(free, [0, 1]);
    });
}

#[test]
fn a_starved_owner_sees_the_slot_or_is_woken() {
    loom::model(|| {
        let home = Home::new(1);
        let other = home.clone();
        let releaser = thread::spawn(move || other.use_and_release(&[0]));
        home.owner.announce_starved(true);
        let mut free = Vec::new();
        home.collect(&mut free);
        let woken = releaser.join().unwrap();
        assert!(woken || free == [0], "the owner sleeps and nobody wakes it");
    });
}

#[test]
fn an_outcome_left_in_a_slot_is_seen_when_the_slot_comes_home() {
    loom::model(|| {
        let home = Home::new(2);
        let other = home.clone();
        // Handed from holder to holder, as an event is; each leaves its own outcome, and the last one's counts.
        let releaser = thread::spawn(move || other.leave_and_release(0, 7));
        home.leave_and_release(1, 9);
        let mut seen = home.outcomes();
        releaser.join().unwrap();
        seen.extend(home.outcomes());
        seen.sort_unstable();
        assert_eq!(seen, [(0, 7), (1, 9)]);
    });
}
