//! What becomes of an event.

use std::fmt;

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there, at the level that was asked for; or the server had it already.
    Acked,
    /// It is not there.
    Refused(RefusalReason),
}

/// Consecutive events that the server did not take, or lost. They are not sent again: whoever wants that gives them anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The sequence of the first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Why.
    pub reason: RefusalReason,
    /// They had been acked before, at the level *accepted*.
    pub after_ack: bool,
}

impl Refusal {
    /// Whether this event is among them.
    pub fn covers(&self, sequence: u64) -> bool {
        sequence >= self.first && sequence - self.first < self.count
    }
}

/// Why the server lost an event: its code in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RefusalReason(u8);

impl RefusalReason {
    /// The reason of a code. One that this client does not know is a loss all the same.
    pub const fn of_code(code: u8) -> RefusalReason {
        RefusalReason(code)
    }

    /// Its code.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// Its name, as in the server's metrics; `unknown` for a code that this client does not know.
    pub fn name(self) -> &'static str {
        const NAMES: [&str; 9] = [
            "queue_full",
            "processing_failed",
            "handler_panic",
            "retry_overflow",
            "backpressure_drop",
            "emergency_drop",
            "pool_exhausted",
            "store_unavailable",
            "source_rate",
        ];
        // Codes are from 1.
        usize::from(self.0).checked_sub(1).and_then(|place| NAMES.get(place)).copied().unwrap_or("unknown")
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(all(test, feature = "engine"))]
mod tests {
    use super::*;
    use crate::metrics::ledger::DropReason;

    #[test]
    fn reasons_have_the_names_that_the_engine_gives_them() {
        for reason in DropReason::ALL {
            assert_eq!(RefusalReason::of_code(reason.code()).name(), reason.name());
        }
        for code in [0, DropReason::COUNT as u8 + 1, u8::MAX] {
            assert_eq!(RefusalReason::of_code(code).name(), "unknown");
        }
    }
}
