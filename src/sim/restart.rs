//! Stops in good order: the engine drains, closes its log, and is started again, with other flags where a log and its clients allow that.
//!
//! - **O14** An engine that is stopped with a store that has not failed loses nothing of what it took in (O1 to O9 hold of that life), and the next one
//!   finds a log that was closed: nothing is cut, every record is there as it was, numbering goes on where it stopped, and what any client
//!   was told holds.
//!
//! With a store that has failed it is a death like another (O10), but for what was drained before.

use super::lives::{Legacy, Remains};
use super::tally::Fault;
use super::world::World;
use crate::storage::{RecoveryReport, StoreState};

impl World {
    /// The engine is told to stop, and does.
    pub(super) fn stop(&mut self) -> Legacy {
        // Some clients go on sending to an engine that does not take any more; others have a reason to wait.
        self.clients_rest = self.rng.chance(500);
        let fills_left = self.fills_left;
        self.drain();
        self.fills_left = fills_left;
        self.clients_rest = false;
        self.reckon_life();
        let disk = self.ring.disk();
        let state = self.node.log.as_ref().map(|log| log.status().state());
        let is_closed = !matches!(state, Some(StoreState::Failed { .. }));
        self.ring.note(Fault::Restarted);
        let legacy = Legacy { remains: self.remains(&disk), holds: self.sound_level(), is_closed, disk };
        self.scenario.change_flags(&mut self.rng);
        legacy
    }
}

/// O14, of what an opening found that nothing interrupted.
///
/// # Panics
/// If it is not what was closed.
pub(super) fn check_closed(report: &RecoveryReport, remains: &Remains) {
    assert!(report.closed && report.cut_bytes == 0, "O14: the log was closed in good order, and now: {report:?}");
    assert_eq!(report.next_sequence, remains.promised, "O14: numbering goes on where it stopped");
}
