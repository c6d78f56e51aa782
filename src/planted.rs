//! Bugs on purpose, one at a time, for the simulator's oracles to find: a suite that does not find them would not find others either.
//!
//! They exist in builds with the simulator only: elsewhere [`is_planted`] is the constant `false`, and what it guards is compiled away.
#![forbid(unsafe_code)]

/// What can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The appender calls durable what was not synced.
    NoFsync,
    /// Readers and recovery believe a batch whatever the checksum of its payload says.
    NoCrc,
    /// The appender calls a batch written when its write is submitted, and sessions acknowledge what is staged.
    EarlyAck,
    /// A receive that has ended is not armed again.
    NoRearm,
    /// A slot is released twice.
    DoubleRelease,
    /// An event that is lost on the way in is not counted.
    DropUncounted,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 6] = [Bug::NoFsync, Bug::NoCrc, Bug::EarlyAck, Bug::NoRearm, Bug::DoubleRelease, Bug::DropUncounted];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Bug::NoFsync => "NO_FSYNC",
            Bug::NoCrc => "NO_CRC",
            Bug::EarlyAck => "EARLY_ACK",
            Bug::NoRearm => "NO_REARM",
            Bug::DoubleRelease => "DOUBLE_RELEASE",
            Bug::DropUncounted => "DROP_UNCOUNTED",
        }
    }
}

impl std::str::FromStr for Bug {
    type Err = String;
    /// Parses a name, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Bug::ALL.into_iter().find(|bug| bug.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names = Bug::ALL.map(Bug::name).join(", ");
            format!("`{text}` is not one of {names}")
        })
    }
}

#[cfg(any(test, feature = "sim"))]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        // A run of the simulator is one thread, and so is what it plants.
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether this thread's engine has this bug.
    #[inline]
    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Gives this thread's engine a bug, or none.
    pub(crate) fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }
}

#[cfg(any(test, feature = "sim"))]
pub(crate) use switch::{is_planted, plant};

/// Whether the engine has this bug: it has none.
#[cfg(not(any(test, feature = "sim")))]
#[inline(always)]
pub(crate) const fn is_planted(_: Bug) -> bool {
    false
}
