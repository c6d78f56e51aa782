use super::outcomes::{Judged, Outcomes};
use crate::metrics::ledger::DropReason;
use crate::storage::producers::SequenceWindow;
use crate::wire::session::{AckLevel, Refused};

const NEVER: u64 = 0;
const EVER: u64 = u64::MAX;

fn fresh(window: u32, level: AckLevel) -> Outcomes {
    let mut outcomes = Outcomes::new(window);
    outcomes.reset(1, None, 0);
    outcomes.begin(1, level);
    outcomes
}

#[test]
fn what_is_lost_after_its_client_came_back_takes_no_acknowledgement_back() {
    let mut outcomes = Outcomes::new(64);
    outcomes.reset(1, None, 0);
    outcomes.begin(1, AckLevel::Accepted);
    (1..=3).for_each(|sequence| outcomes.take(sequence));
    outcomes.advance(0);
    assert_eq!(outcomes.acked_to_tell(), 3);
    outcomes.begin(4, AckLevel::Accepted);
    outcomes.lose(1, DropReason::QueueFull);
    assert_eq!((outcomes.acked_to_tell(), outcomes.has_untold()), (3, true));
    assert_eq!(outcomes.next_refusal().map(|refused| refused.first), Some(1), "it is told all the same");
}

#[test]
fn the_acknowledgement_waits_for_the_lowest_and_for_the_watermark() {
    let mut outcomes = fresh(128, AckLevel::Written);
    (1..=5).for_each(|sequence| outcomes.take(sequence));
    for (sequence, log) in [(2, 10), (3, 11), (1, 12)] {
        outcomes.come_home(sequence, log + 1);
    }
    outcomes.advance(12);
    assert_eq!(outcomes.acked(), 0, "sequence 1 is at 12 in the log, which is not written");
    outcomes.advance(13);
    assert_eq!(outcomes.acked(), 3);
    assert_eq!((outcomes.in_hand(), outcomes.judge(4), outcomes.judge(6)), (2, Judged::Known, Judged::Fresh));
}

#[test]
fn later_events_hold_earlier_ones_up_by_no_more_than_a_poll() {
    let mut outcomes = fresh(128, AckLevel::Durable);
    (1..=6).for_each(|sequence| outcomes.take(sequence));
    (1..=3).for_each(|sequence| outcomes.come_home(sequence, sequence));
    outcomes.advance(NEVER);
    (4..=6).for_each(|sequence| outcomes.come_home(sequence, sequence));
    outcomes.advance(3);
    assert_eq!(outcomes.acked(), 3);
}

#[test]
fn accepted_is_acknowledged_when_taken_and_a_window_ahead_at_most() {
    let mut outcomes = fresh(64, AckLevel::Accepted);
    for sequence in 1..=64 {
        outcomes.take(sequence);
    }
    outcomes.advance(NEVER);
    assert_eq!(outcomes.acked(), 64);
    (65..=128).for_each(|sequence| outcomes.take(sequence));
    outcomes.advance(NEVER);
    assert_eq!((outcomes.acked(), outcomes.judge(129)), (64, Judged::Beyond));
    outcomes.lose(1, DropReason::QueueFull);
    outcomes.advance(NEVER);
    assert_eq!(outcomes.acked(), 64, "the refusal is not told");
    assert_eq!(outcomes.next_refusal(), Some(Refused { first: 1, count: 1, reason: DropReason::QueueFull.code() }));
    outcomes.advance(NEVER);
    assert_eq!((outcomes.acked(), outcomes.judge(129)), (65, Judged::Fresh));
}

#[test]
fn refusals_come_before_the_acknowledgement_that_covers_them_as_ranges() {
    let mut outcomes = fresh(128, AckLevel::Written);
    for sequence in 1..=70 {
        match sequence {
            60..=66 => outcomes.refuse(sequence, DropReason::EmergencyDrop),
            67 => outcomes.refuse(sequence, DropReason::BackpressureDrop),
            _ => {
                outcomes.take(sequence);
                outcomes.come_home(sequence, 0);
            }
        }
    }
    outcomes.advance(EVER);
    assert_eq!((outcomes.acked(), outcomes.acked_to_tell()), (70, 59));
    let range = |first, count, reason: DropReason| Some(Refused { first, count, reason: reason.code() });
    assert_eq!(outcomes.next_refusal(), range(60, 7, DropReason::EmergencyDrop));
    assert_eq!(outcomes.acked_to_tell(), 66);
    assert_eq!(outcomes.next_refusal(), range(67, 1, DropReason::BackpressureDrop));
    assert_eq!((outcomes.next_refusal(), outcomes.acked_to_tell(), outcomes.is_settled()), (None, 70, true));
}

#[test]
fn what_was_refused_and_not_heard_may_come_again() {
    let mut outcomes = fresh(128, AckLevel::Written);
    outcomes.take(1);
    outcomes.come_home(1, 1);
    outcomes.refuse(2, DropReason::EmergencyDrop);
    outcomes.take(3);
    outcomes.advance(EVER);
    assert_eq!(outcomes.acked(), 2);
    outcomes.begin(1, AckLevel::Written);
    let mut bitmap = [0; 16];
    assert_eq!((outcomes.held(1, &mut bitmap), bitmap[0]), (1, 0b101));
    outcomes.advance(EVER);
    assert_eq!((outcomes.acked(), outcomes.has_untold()), (1, false));
    assert_eq!((outcomes.judge(2), outcomes.judge(3)), (Judged::Fresh, Judged::Known));
    outcomes.take(2);
    (2..=3).for_each(|sequence| outcomes.come_home(sequence, 1));
    outcomes.advance(EVER);
    assert_eq!((outcomes.acked(), outcomes.is_settled()), (3, true));
}

#[test]
fn what_the_log_holds_is_known_and_acknowledged_once_it_is_at_the_level() {
    let mut known = SequenceWindow::new();
    for sequence in [5, 6, 8] {
        known.observe(sequence);
    }
    let mut outcomes = Outcomes::new(128);
    outcomes.reset(5, Some(&known), 100);
    outcomes.begin(5, AckLevel::Durable);
    assert_eq!([4, 5, 6, 7, 8].map(|sequence| outcomes.judge(sequence)), {
        use Judged::{Fresh, Known};
        [Known, Known, Known, Fresh, Known]
    });
    outcomes.advance(99);
    assert_eq!(outcomes.acked(), 4);
    outcomes.advance(100);
    assert_eq!(outcomes.acked(), 6);
}

#[test]
fn what_the_log_holds_beyond_the_window_is_learned_as_the_window_moves() {
    let mut known = SequenceWindow::new();
    (1..=200).filter(|sequence| *sequence != 90).for_each(|sequence| _ = known.observe(sequence));
    let mut outcomes = Outcomes::new(64);
    outcomes.reset(1, Some(&known), 500);
    outcomes.begin(1, AckLevel::Durable);
    assert_eq!((outcomes.judge(64), outcomes.judge(65), outcomes.highest()), (Judged::Known, Judged::Beyond, 200));
    let advance = |outcomes: &mut Outcomes, watermark| {
        outcomes.advance(watermark);
        while outcomes.has_to_learn() {
            outcomes.learn(Some(&known));
            outcomes.advance(watermark);
        }
    };
    advance(&mut outcomes, 499);
    assert_eq!(outcomes.acked(), 0, "not durable");
    advance(&mut outcomes, 500);
    assert_eq!(outcomes.acked(), 89);
    assert_eq!([90, 91, 153].map(|sequence| outcomes.judge(sequence)), [Judged::Fresh, Judged::Known, Judged::Known]);
    outcomes.take(90);
    outcomes.come_home(90, 501);
    advance(&mut outcomes, 501);
    assert_eq!((outcomes.acked(), outcomes.is_settled()), (200, true));
    // Its client has lost what it knew, and begins behind a gap.
    outcomes.begin(300, AckLevel::Durable);
    assert!(!outcomes.has_to_learn());
}

#[test]
fn a_client_may_jump_ahead_as_far_as_it_likes() {
    let mut outcomes = fresh(64, AckLevel::Written);
    outcomes.take(1);
    outcomes.begin(1_000_000, AckLevel::Written);
    assert_eq!((outcomes.acked(), outcomes.judge(1_000_000), outcomes.judge(7)), (999_999, Judged::Fresh, Judged::Known));
    outcomes.come_home(1, 9);
    assert_eq!(outcomes.in_hand(), 0);
    outcomes.begin(u64::MAX, AckLevel::Written);
    assert_eq!(outcomes.judge(u64::MAX), Judged::Known, "the last number names no event");
}

/// The ring against a plain map, over many rounds of it.
#[test]
fn the_ring_does_what_a_map_does() {
    let mut outcomes = fresh(64, AckLevel::Written);
    let mut random = 7_u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    let (mut sent, mut in_hand, mut homes, mut refused, mut log) = (0_u64, Vec::new(), Vec::new(), Vec::new(), 0);
    while sent < 20_000 {
        match next() % 3 {
            0 if outcomes.judge(sent + 1) == Judged::Fresh => {
                sent += 1;
                outcomes.take(sent);
                in_hand.push(sent);
            }
            1 if !in_hand.is_empty() => {
                let sequence = in_hand.swap_remove(next() as usize % in_hand.len());
                if next() % 5 == 0 {
                    outcomes.lose(sequence, DropReason::QueueFull);
                    refused.push(sequence);
                } else {
                    log += 1;
                    outcomes.come_home(sequence, log);
                }
                homes.push(sequence);
            }
            _ => {
                outcomes.advance(log);
                let lowest = in_hand.iter().min().map_or(sent, |lowest| lowest - 1);
                assert_eq!(outcomes.acked(), lowest, "all below are at home, and all of the log is written");
                while let Some(range) = outcomes.next_refusal() {
                    for sequence in range.first..range.first + u64::from(range.count) {
                        let place = refused.iter().position(|other| *other == sequence).expect("it was refused, once");
                        refused.swap_remove(place);
                    }
                }
                assert!(refused.is_empty(), "all refusals were told");
            }
        }
    }
}

#[test]
fn when_the_log_fails_what_is_not_written_is_refused_and_nothing_else() {
    for (level, durable) in [(AckLevel::Accepted, 7), (AckLevel::Written, 7), (AckLevel::Durable, 4)] {
        let watermark = if level == AckLevel::Durable { durable } else { 7 };
        let mut outcomes = fresh(128, level);
        (1..=6).for_each(|sequence| outcomes.take(sequence));
        // In another order than their numbers, with others between them, across 2^32.
        let base = (1 << 32) - 4;
        for (sequence, log) in [(1, 3), (2, 9), (3, 4), (4, 6), (5, 7)] {
            outcomes.come_home(sequence, base + log);
        }
        outcomes.advance(base + watermark);
        outcomes.lose_unwritten(base + 7);
        outcomes.lose(6, DropReason::StoreUnavailable);
        outcomes.advance(base + watermark);
        let refused = |first| Refused { first, count: 1, reason: DropReason::StoreUnavailable.code() };
        assert_eq!(outcomes.next_refusal(), Some(refused(2)), "{level:?}");
        assert_eq!(outcomes.next_refusal(), Some(refused(6)));
        assert_eq!(outcomes.next_refusal(), None);
        outcomes.advance(base + watermark);
        outcomes.refuse(7, DropReason::EmergencyDrop);
        assert_eq!(outcomes.next_refusal(), Some(refused(7)), "what comes again may be in the log");
        // Of what was written and not synced nobody knows.
        assert_eq!(outcomes.acked_to_tell(), if level == AckLevel::Durable { 0 } else { 6 }, "{level:?}");
    }
}
