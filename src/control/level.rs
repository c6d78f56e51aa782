//! The five levels, and what is done on each.

use crate::metrics::ledger::DropReason;
use crate::wire::Tier;

/// How much of its load a node takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Everything is taken.
    #[default]
    Healthy = 0,
    /// Everything is taken, and more is put to work.
    Elevated = 1,
    /// TRANSACTIONAL waits; what cannot wait is shed, of BATCH too.
    Degraded = 2,
    /// BATCH is shed.
    Critical = 3,
    /// All but priority CRITICAL is shed.
    Emergency = 4,
}

impl Level {
    /// How many there are.
    pub const COUNT: usize = 5;
    /// All, upwards.
    pub const ALL: [Level; 5] = [Level::Healthy, Level::Elevated, Level::Degraded, Level::Critical, Level::Emergency];

    /// The word in metrics, status and log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Healthy => "HEALTHY",
            Level::Elevated => "ELEVATED",
            Level::Degraded => "DEGRADED",
            Level::Critical => "CRITICAL",
            Level::Emergency => "EMERGENCY",
        }
    }

    /// Its place in arrays indexed by level.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The next one down; HEALTHY has none below it and is its own.
    pub const fn below(self) -> Level {
        Level::ALL[self.index().saturating_sub(1)]
    }

    /// What is done on this level.
    pub const fn actions(self) -> &'static Actions {
        &ACTIONS[self.index()]
    }
}

/// What a level does to the intake of a tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TierIntake {
    /// Everything is taken.
    Open,
    /// Who can wait is taken; what cannot is shed.
    Patient,
    /// Who can wait waits; what cannot is shed.
    Paused,
    /// Everything is shed.
    Shed(DropReason),
}

/// What is done on a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actions {
    /// By tier. Priority CRITICAL passes them all.
    pub intake: [TierIntake; Tier::COUNT],
    /// Processors that do not share their runner with REALTIME take more in one poll.
    pub wide_budgets: bool,
    /// Spare handler threads get work.
    pub spare_handlers: bool,
}

/// By level; each does at least what those below it do.
const ACTIONS: [Actions; Level::COUNT] = {
    use TierIntake::{Open, Patient, Paused, Shed};
    let shed = Shed(DropReason::BackpressureDrop);
    let emergency = Shed(DropReason::EmergencyDrop);
    let calm = Actions { intake: [Open; Tier::COUNT], wide_budgets: false, spare_handlers: false };
    let busy = Actions { wide_budgets: true, spare_handlers: true, ..calm };
    [
        calm,
        busy,
        Actions { intake: [Open, Paused, Patient], ..busy },
        Actions { intake: [Open, Paused, shed], ..busy },
        Actions { intake: [emergency; Tier::COUNT], ..busy },
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    /// How much an intake refuses.
    fn severity(intake: TierIntake) -> u8 {
        match intake {
            TierIntake::Open => 0,
            TierIntake::Patient => 1,
            TierIntake::Paused => 2,
            TierIntake::Shed(DropReason::BackpressureDrop) => 3,
            TierIntake::Shed(_) => 4,
        }
    }

    #[test]
    fn each_level_does_at_least_what_those_below_it_do() {
        for pair in Level::ALL.windows(2) {
            let (below, above) = (pair[0].actions(), pair[1].actions());
            for tier in Tier::ALL {
                assert!(severity(below.intake[tier.index()]) <= severity(above.intake[tier.index()]), "{pair:?} {tier:?}");
            }
            assert!(below.wide_budgets <= above.wide_budgets && below.spare_handlers <= above.spare_handlers);
        }
    }

    #[test]
    fn realtime_is_open_below_emergency() {
        for level in Level::ALL {
            let is_open = level.actions().intake[Tier::Realtime.index()] == TierIntake::Open;
            assert_eq!(is_open, level < Level::Emergency);
        }
    }

    #[test]
    fn below_healthy_there_is_nothing() {
        assert_eq!(Level::ALL.map(Level::below)[..2], [Level::Healthy, Level::Healthy]);
        assert_eq!(Level::Emergency.below(), Level::Critical);
    }
}
