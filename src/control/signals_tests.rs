//! The tracker by itself, and in a loop with judge and gate around a toy node.

use proptest::prelude::*;

use super::*;
use crate::control::{Admission, Level, NodeGate, Patience, Standing, Thresholds};
use crate::wire::Priority;

const UDP: usize = Source::Udp.index();

fn waiting(events: u64, taken: u64) -> [Depth; Tier::COUNT] {
    let mut depths = [Depth::default(); Tier::COUNT];
    depths[Tier::Transactional.index()] = Depth { waiting: events, published: events + taken, taken };
    depths
}

#[test]
fn a_burst_that_drains_is_no_standing_depth() {
    let mut tracker = Tracker::new(Nanos(0), 1_000);
    let mut now = Nanos(0);
    for look in 0..100_u64 {
        now = now + LOOK_EVERY;
        tracker.look_at_depths(waiting(if look % 9 == 0 { 10 } else { 9_000 }, 0), now);
        assert!(tracker.signals(now).standing_depth <= 10);
    }
    for _ in 0..10 {
        now = now + LOOK_EVERY;
        tracker.look_at_depths(waiting(4_000, 0), now);
    }
    assert_eq!(tracker.signals(now).standing_depth, 4_000);
    tracker.look_at_depths(waiting(0, 0), now);
    assert_eq!(tracker.signals(now).standing_depth, 0);
}

#[test]
fn a_count_from_which_something_is_taken_off_late_never_falls() {
    let mut tracker = Tracker::new(Nanos(0), 1);
    for (look, received) in [(1, 100), (2, 99), (3, 101)] {
        let counts = Counts { received: [received; Tier::COUNT], offered: [received; Source::COUNT], ..Counts::default() };
        tracker.look_at_counts(&counts, Nanos(look * COUNT_EVERY.0));
        assert_eq!(tracker.signals(Nanos(look * COUNT_EVERY.0)).offered, received.max(100));
    }
}

#[test]
fn a_tier_that_drains_or_gets_nothing_stands_but_does_not_press() {
    let mut tracker = Tracker::new(Nanos(0), 1_000);
    let mut now = Nanos(0);
    let mut look = |tracker: &mut Tracker, waiting_events, published, looks: u64| {
        for n in 0..looks {
            now = now + LOOK_EVERY;
            let published = published + n;
            let mut depths = [Depth::default(); Tier::COUNT];
            depths[1] = Depth { waiting: waiting_events, published, taken: published - waiting_events };
            tracker.look_at_depths(depths, now);
        }
        let signals = tracker.signals(now);
        (signals.standing_depth, signals.pressing_depth)
    };
    assert_eq!(look(&mut tracker, 5_000, 5_000, 10), (5_000, 5_000));
    assert_eq!(look(&mut tracker, 5_000, 5_009, 1), (5_000, 0), "S4: nothing is let in");
    assert_eq!(look(&mut tracker, 4_900, 6_000, 1), (4_900, 0), "S4: it drains");
    assert_eq!(look(&mut tracker, 4_900, 6_001, 1), (4_900, 4_900));
}

#[test]
fn the_service_rate_is_that_of_a_tier_with_events_waiting() {
    let mut tracker = Tracker::new(Nanos(0), 1_000);
    let served = |tracker: &Tracker, now| tracker.signals(now).loads[Tier::Transactional.index()].served_per_second;
    let mut now = Nanos(0);
    for look in 0..=20_u64 {
        tracker.look_at_depths(waiting(500, look * 100), now);
        now = now + LOOK_EVERY;
    }
    assert_eq!(served(&tracker, now), Some(10_000));
    // The queue runs empty in the next look: a lower bound, which tells nothing new.
    tracker.look_at_depths(waiting(0, 2_001), now);
    assert_eq!(served(&tracker, now), Some(10_000));
    assert_eq!(served(&tracker, now + SERVICE_MEMORY), None, "S3");
}

#[test]
fn a_processor_that_stood_still_is_found_fast_again_by_its_first_burst() {
    let mut tracker = Tracker::new(Nanos(0), 1_000);
    let mut now = Nanos(0);
    for _ in 0..60 {
        tracker.look_at_depths(waiting(5_000, 0), now);
        now = now + LOOK_EVERY;
    }
    assert_eq!(tracker.signals(now).loads[1].served_per_second, Some(0));
    tracker.look_at_depths(waiting(0, 5_000), now);
    assert!(tracker.signals(now).loads[1].served_per_second >= Some(50_000));
}

#[test]
fn the_drop_rate_goes_back_ten_seconds() {
    let mut tracker = Tracker::new(Nanos(0), 1_000);
    let (mut now, mut counts) = (Nanos(0), Counts::default());
    let mut look = |tracker: &mut Tracker, lost: u64| {
        now = now + COUNT_EVERY;
        counts.received[2] += 100;
        counts.offered[UDP] += 100 + lost;
        counts.dropped[UDP] += 2 * lost;
        tracker.look_at_counts(&counts, now);
        tracker.signals(now)
    };
    let signals = look(&mut tracker, 10);
    assert_eq!((signals.offered, signals.dropped), (110, 20), "what the kernel dropped was offered too");
    for _ in 0..99 {
        look(&mut tracker, 0);
    }
    assert_eq!(look(&mut tracker, 0).dropped, 0);
    let signals = look(&mut tracker, 0);
    assert_eq!((signals.offered, signals.loads[2].offered_per_second), (10_000, 1_000));
}

#[test]
fn the_drop_rate_is_that_of_the_worst_source_with_enough_events() {
    let mut tracker = Tracker::new(Nanos(0), 1_000);
    let mut look = |tcp: (u64, u64), udp: (u64, u64), now| {
        tracker.look_at_counts(&Counts { offered: [tcp.0, udp.0, 0], dropped: [tcp.1, udp.1, 0], ..Counts::default() }, now);
        let signals = tracker.signals(now);
        (signals.offered, signals.dropped)
    };
    assert_eq!(look((900, 1), (99, 99), COUNT_EVERY), (999, 100), "none has enough: all together");
    assert_eq!(look((5_000_000, 1), (999, 999), COUNT_EVERY + COUNT_EVERY), (5_000_000, 1), "too few datagrams to judge");
    let later = Nanos(3 * COUNT_EVERY.0);
    assert_eq!(
        look((50_000_000, 1), (2_000, 1_000), later),
        (2_000, 1_000),
        "a flood over TCP does not hide what datagrams lose"
    );
}

#[test]
fn a_p99_counts_while_it_is_fresh_and_of_enough_events() {
    let mut tracker = Tracker::new(Nanos(0), 1_000);
    let look = |tracker: &mut Tracker, hand_overs, events, now| {
        let realtime = RecentLatency { hand_overs, events, p99: Nanos::from_millis(7) };
        tracker.look_at_counts(&Counts { realtime, ..Counts::default() }, now);
        tracker.signals(now).realtime_p99
    };
    let at = Nanos::from_millis;
    assert_eq!(look(&mut tracker, 1, 100, at(100)), Some(at(7)));
    assert_eq!(look(&mut tracker, 1, 100, at(1_500)), Some(at(7)));
    assert_eq!(look(&mut tracker, 1, 100, at(1_700)), None, "nobody renewed it");
    assert_eq!(look(&mut tracker, 2, 99, at(1_800)), None, "too few");
}

proptest! {
    #[test]
    fn shedding_never_raises_the_drop_rate(
        steps in prop::collection::vec((0..10_000_u64, 0..500_u64, 0..500_u64, 0..500_u64), 1..150),
    ) {
        let (mut plain, mut shedding) = (Tracker::new(Nanos(0), 1_000), Tracker::new(Nanos(0), 1_000));
        let (mut now, mut counts, mut shed_instead) = (Nanos(0), Counts::default(), 0);
        for (received, lost, kernel, shed) in steps {
            now = now + COUNT_EVERY;
            counts.received[1] += received;
            counts.offered[UDP] += received + kernel;
            counts.dropped[UDP] += lost + kernel;
            shed_instead += shed.min(lost);
            plain.look_at_counts(&counts, now);
            let mut with_shed = counts;
            with_shed.dropped[UDP] -= shed_instead;
            shedding.look_at_counts(&with_shed, now);
            let (a, b) = (plain.signals(now), shedding.signals(now));
            prop_assert_eq!((a.offered, a.standing_depth), (b.offered, b.standing_depth), "S1");
            prop_assert!(b.drop_rate_millipercent() <= a.drop_rate_millipercent(), "S1");
        }
    }
}

/// One tier behind a gate: so many events a second come, so many are served, a lane holds the rest.
struct ToyNode {
    tier: Tier,
    patience: Patience,
    capacity: u64,
    /// Where who can wait waits.
    high_water: u64,
    served_per_ms: u64,
    gate: NodeGate,
    tracker: Tracker,
    standing: Standing,
    depth: Depth,
    counts: Counts,
    now: Nanos,
    /// Levels entered, and when.
    entered: Vec<(Level, Nanos)>,
    admitted: u64,
}

impl ToyNode {
    fn new(tier: Tier, patience: Patience, served_per_ms: u64) -> Self {
        Self {
            tier,
            patience,
            capacity: 65_536,
            high_water: if patience == Patience::CanWait { 2_000 } else { u64::MAX },
            served_per_ms,
            gate: NodeGate::default(),
            tracker: Tracker::new(Nanos(0), 1_000),
            standing: Standing::default(),
            depth: Depth::default(),
            counts: Counts::default(),
            now: Nanos(0),
            entered: Vec::new(),
            admitted: 0,
        }
    }

    fn run(&mut self, millis: u64, offered_per_ms: u64) {
        for _ in 0..millis {
            self.now = self.now + Nanos::from_millis(1);
            self.offer(offered_per_ms);
            let served = self.served_per_ms.min(self.depth.waiting);
            self.depth.waiting -= served;
            self.depth.taken += served;
            if self.now.0.is_multiple_of(LOOK_EVERY.0) {
                self.look();
            }
        }
    }

    fn offer(&mut self, events: u64) {
        let priority = [Priority::High, Priority::Medium, Priority::Low][self.tier.index()];
        match self.gate.admits(self.tier, priority, self.patience) {
            Admission::Wait => {}
            Admission::Drop(_) => {
                self.counts.received[self.tier.index()] += events;
                self.counts.offered[UDP] += events;
            }
            Admission::Admit => {
                let events = events.min(self.high_water.saturating_sub(self.depth.waiting));
                let fits = events.min(self.capacity - self.depth.waiting);
                self.counts.received[self.tier.index()] += events;
                self.counts.offered[UDP] += events;
                self.counts.dropped[UDP] += events - fits;
                self.depth.waiting += fits;
                self.depth.published += fits;
                self.admitted += fits;
            }
        }
    }

    fn look(&mut self) {
        let mut depths = [Depth::default(); Tier::COUNT];
        depths[self.tier.index()] = self.depth;
        self.tracker.look_at_depths(depths, self.now);
        if self.now.0.is_multiple_of(COUNT_EVERY.0) {
            self.tracker.look_at_counts(&self.counts, self.now);
        }
        let (standing, transition) = self.standing.judge(&Thresholds::default(), &self.tracker.signals(self.now), self.now);
        self.standing = standing;
        if let Some(transition) = transition {
            self.gate.set_level(transition.to);
            self.entered.push((transition.to, self.now));
        }
    }
}

#[test]
fn who_waits_at_the_high_water_mark_is_no_overload() {
    for tier in Tier::ALL {
        let mut node = ToyNode::new(tier, Patience::CanWait, 10);
        node.run(60_000, 1_000);
        assert_eq!(node.entered, [], "{tier:?}: back-pressure is not an emergency");
        assert!(node.admitted >= 10 * 60_000, "and everything the processor can do is done");
    }
}

#[test]
fn a_flood_that_cannot_wait_is_shed_and_the_level_falls_by_itself_when_it_ends() {
    for (tier, expected) in
        [(Tier::Realtime, Level::Emergency), (Tier::Transactional, Level::Degraded), (Tier::Batch, Level::Degraded)]
    {
        let mut node = ToyNode::new(tier, Patience::CannotWait, 10);
        node.run(30_000, 100);
        let highest = node.entered.iter().map(|(level, _)| *level).max();
        assert_eq!(highest, Some(expected), "{tier:?}: {:?}", node.entered);
        let ups = node.entered.windows(2).filter(|pair| pair[0].0 < pair[1].0).count();
        assert!(ups <= 4, "{tier:?} flaps under a steady flood: {:?}", node.entered);
        node.run(30_000, 0);
        assert_eq!(node.standing.level(), Level::Healthy, "{tier:?}: {:?}", node.entered);
    }
}

#[test]
fn under_a_flood_of_minutes_a_level_is_tried_at_most_once_a_minute() {
    let mut node = ToyNode::new(Tier::Transactional, Patience::CannotWait, 10);
    node.run(600_000, 100);
    let returns = node.entered.iter().filter(|(level, _)| *level == Level::Degraded).count();
    assert!(returns <= 11, "{:?}", node.entered);
    assert_eq!(node.counts.dropped[UDP], 0, "and nothing ever overflows");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_the_flood_the_level_comes_down_when_it_ends(
        tier in 0..Tier::COUNT,
        can_wait in any::<bool>(),
        served_per_ms in 1..200_u64,
        phases in prop::collection::vec((1..8_000_u64, 0..400_u64), 1..5),
    ) {
        let patience = if can_wait { Patience::CanWait } else { Patience::CannotWait };
        let mut node = ToyNode::new(Tier::ALL[tier], patience, served_per_ms);
        for (millis, offered_per_ms) in phases {
            node.run(millis, offered_per_ms);
        }
        // The lane itself may take a minute to drain at the slowest.
        node.run(70_000, 0);
        let longest_dwells = 4 * 16_000;
        node.run(10_000 + longest_dwells, 0);
        prop_assert_eq!(node.standing.level(), Level::Healthy);
        let steps = node.entered.windows(2).filter(|pair| pair[1].0 < pair[0].0);
        prop_assert!(steps.clone().all(|pair| pair[1].0 == pair[0].0.below()), "one level down at a time");
    }
}
