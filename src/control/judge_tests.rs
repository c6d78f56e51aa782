//! The judge against its promises: monotone, calm in the band, every level reached and left, no level that feeds itself.

use proptest::prelude::*;

use super::*;

const LOOK: Nanos = Nanos::from_millis(10);

fn depth(events: u64) -> Signals {
    Signals { standing_depth: events, pressing_depth: events, ..Signals::default() }
}

fn drops(dropped: u64) -> Signals {
    Signals { offered: 100_000, dropped, is_dropping: true, ..Signals::default() }
}

fn latency(millis: u64) -> Signals {
    Signals { realtime_p99: Some(Nanos::from_millis(millis)), ..Signals::default() }
}

/// The level entered from HEALTHY.
fn first(signals: &Signals) -> Level {
    Standing::default().judge(&Thresholds::default(), signals, Nanos(1)).0.level()
}

/// Judges the same signals every 10 ms for so long; the levels entered on the way.
fn hold(standing: &mut Standing, signals: &Signals, now: &mut Nanos, millis: u64) -> Vec<Level> {
    let (mut entered, until) = (Vec::new(), *now + Nanos::from_millis(millis));
    while *now < until {
        *now = *now + LOOK;
        let (next, transition) = standing.judge(&Thresholds::default(), signals, *now);
        *standing = next;
        entered.extend(transition.map(|transition| transition.to));
    }
    entered
}

#[test]
fn each_threshold_is_exactly_where_the_table_puts_it() {
    use Level::{Critical, Degraded, Elevated, Emergency, Healthy};
    type Row = (fn(u64) -> Signals, [(u64, Level); 8]);
    let table: [Row; 3] = [
        (
            depth,
            [
                (2_500, Healthy),
                (2_501, Elevated),
                (3_750, Elevated),
                (3_751, Degraded),
                (4_999, Degraded),
                (5_000, Critical),
                (7_500, Critical),
                (7_501, Emergency),
            ],
        ),
        (
            drops,
            [
                (1_000, Healthy),
                (1_001, Elevated),
                (2_000, Elevated),
                (2_001, Degraded),
                (3_999, Degraded),
                (4_000, Critical),
                (9_999, Critical),
                (10_000, Emergency),
            ],
        ),
        (
            latency,
            [
                (50, Healthy),
                (51, Elevated),
                (75, Elevated),
                (76, Degraded),
                (99, Degraded),
                (100, Critical),
                (150, Critical),
                (151, Emergency),
            ],
        ),
    ];
    for (signals, row) in table {
        for (value, level) in row {
            assert_eq!(first(&signals(value)), level, "{:?}", signals(value));
        }
    }
}

#[test]
fn a_drop_rate_of_few_events_is_not_judged() {
    let few = Signals { offered: 999, dropped: 999, is_dropping: true, ..Signals::default() };
    assert_eq!(first(&few), Level::Healthy);
    assert_eq!(first(&Signals { offered: 1_000, ..few }), Level::Emergency);
    assert_eq!(first(&Signals::default()), Level::Healthy, "nothing offered, nothing dropped");
    assert_eq!(first(&Signals { is_dropping: false, ..drops(50_000) }), Level::Healthy, "what is over calls for nothing");
}

#[test]
fn every_level_is_reached_and_left_one_at_a_time_after_a_dwell_each() {
    let (mut standing, mut now) = (Standing::default(), Nanos(0));
    for (events, level) in [2_501, 3_751, 5_000, 7_501].into_iter().zip(&Level::ALL[1..]) {
        assert_eq!(hold(&mut standing, &depth(events), &mut now, 50), [*level]);
    }
    let down: Vec<Level> = Level::ALL[..4].iter().rev().copied().collect();
    assert_eq!(hold(&mut standing, &depth(0), &mut now, 990), []);
    assert_eq!(hold(&mut standing, &depth(0), &mut now, 4 * 1_020), down);
}

#[test]
fn a_depth_that_does_not_press_keeps_a_level_and_calls_for_none() {
    let (mut standing, mut now) = (Standing::default(), Nanos(0));
    let draining = |standing_depth| Signals { standing_depth, ..Signals::default() };
    assert_eq!(first(&draining(9_000)), Level::Healthy);
    hold(&mut standing, &depth(3_800), &mut now, 10);
    assert_eq!(hold(&mut standing, &draining(9_000), &mut now, 10_000), []);
    assert_eq!(hold(&mut standing, &draining(2_999), &mut now, 1_010), [Level::Elevated]);
}

#[test]
fn the_cause_is_the_signal_that_calls_for_the_highest_level() {
    let signals = Signals { standing_depth: 3_000, pressing_depth: 3_000, ..latency(120) };
    let (_, transition) = Standing::default().judge(&Thresholds::default(), &signals, Nanos(7));
    let transition = transition.expect("up");
    assert_eq!((transition.to, transition.cause), (Level::Critical, Cause::Signal(Signal::Latency)));
    assert_eq!((transition.at, transition.signals), (Nanos(7), signals));
}

#[test]
fn a_level_that_keeps_returning_is_left_ever_more_rarely() {
    let (mut standing, mut now) = (Standing::default(), Nanos(0));
    let mut dwells = Vec::new();
    for _ in 0..9 {
        assert_eq!(hold(&mut standing, &depth(2_600), &mut now, 10), [Level::Elevated]);
        dwells.push(standing.dwell().0 / 1_000_000_000);
        let dwell_ms = standing.dwell().0 / 1_000_000;
        assert_eq!(hold(&mut standing, &depth(0), &mut now, dwell_ms + 20), [Level::Healthy]);
    }
    assert_eq!(dwells, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    hold(&mut standing, &depth(0), &mut now, 60_000);
    hold(&mut standing, &depth(2_600), &mut now, 10);
    assert_eq!(standing.dwell(), DWELL_MIN, "a minute without it, and it begins anew");
}

#[test]
fn a_level_is_kept_while_what_it_refuses_does_not_fit() {
    let (mut standing, mut now) = (Standing::default(), Nanos(0));
    hold(&mut standing, &depth(4_000), &mut now, 10);
    let load = |offered_per_second| {
        let mut signals = depth(0);
        let served_per_second = Some(10_000);
        signals.loads[Tier::Transactional.index()] = TierLoad { offered_per_second, served_per_second };
        signals
    };
    assert_eq!(hold(&mut standing, &load(10_001), &mut now, 30_000), [], "DEGRADED holds it back");
    assert_eq!(hold(&mut standing, &load(10_000), &mut now, 1_010), [Level::Elevated]);
    assert_eq!(hold(&mut standing, &load(10_001), &mut now, 1_020), [Level::Healthy], "ELEVATED refuses nothing");
}

prop_compose! {
    fn any_signals()(
        pressing_depth in 0..10_000_u64,
        draining_depth in 0..10_000_u64,
        offered in prop_oneof![0..2_000_u64, 100_000..200_000_u64],
        drop_permille in 0..=200_u64,
        p99 in prop::option::of(0..200_u64),
        loads in prop::array::uniform3((0..3_u64, prop::option::of(0..3_u64))),
    ) -> Signals {
        Signals {
            standing_depth: pressing_depth.max(draining_depth),
            pressing_depth,
            offered,
            dropped: offered * drop_permille / 1_000,
            is_dropping: drop_permille > 0,
            realtime_p99: p99.map(Nanos::from_millis),
            loads: loads.map(|(offered_per_second, served_per_second)| TierLoad { offered_per_second, served_per_second }),
        }
    }
}

/// Where a node may stand: whatever a random history leads to.
fn standing_after(history: &[(Signals, u64)], now: &mut Nanos) -> Standing {
    let mut standing = Standing::default();
    for (signals, millis) in history {
        hold(&mut standing, signals, now, *millis);
    }
    standing
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn more_load_never_leads_to_a_lower_level(
        history in prop::collection::vec((any_signals(), 0..2_500_u64), 0..4),
        less in any_signals(),
        more_depth in 0..5_000_u64,
        more_dropped in 0..20_000_u64,
        more_latency in 0..100_u64,
        more_offered in prop::array::uniform3(0..3_u64),
    ) {
        let mut now = Nanos(0);
        let standing = standing_after(&history, &mut now);
        let mut more = less;
        more.pressing_depth += more_depth;
        more.standing_depth += more_depth;
        more.dropped = (more.dropped + more_dropped).min(more.offered);
        more.is_dropping |= more_dropped > 0;
        more.realtime_p99 = more.realtime_p99.map(|p99| p99 + Nanos::from_millis(more_latency));
        for (load, extra) in more.loads.iter_mut().zip(more_offered) {
            load.offered_per_second += extra;
        }
        let level = |signals: &Signals| standing.judge(&Thresholds::default(), signals, now + LOOK).0.level();
        prop_assert!(level(&less) <= level(&more), "J1");
    }

    #[test]
    fn inside_the_band_a_level_neither_rises_nor_falls(level in 1..Level::COUNT, place in 0..=1_000_u64, seconds in 1..120_u64) {
        let level = Level::ALL[level];
        let (mut standing, mut now) = (Standing::default(), Nanos(0));
        let top = [0, 2_500, 3_750, 5_000, 7_500][level.index()];
        hold(&mut standing, &depth(top + 1), &mut now, 10);
        prop_assert_eq!(standing.level(), level);
        let bottom = top * 8 / 10;
        let inside = depth(bottom + (top - 1 - bottom) * place / 1_000);
        prop_assert_eq!(hold(&mut standing, &inside, &mut now, seconds * 1_000), vec![], "J2");
    }

    #[test]
    fn whatever_has_been_calm_leads_back_to_healthy_by_single_steps(history in prop::collection::vec((any_signals(), 0..2_500_u64), 0..6)) {
        let mut now = Nanos(0);
        let mut standing = standing_after(&history, &mut now);
        let from = standing.level();
        let down = hold(&mut standing, &Signals::default(), &mut now, 4 * 61_000);
        let expected: Vec<Level> = Level::ALL[..from.index()].iter().rev().copied().collect();
        prop_assert_eq!(down, expected, "J3");
    }
}
