//! What people should hear of a log's state: a line when it changes, from the control side.
//!
//! A state that comes and goes between two looks is not told, so the number of lines is bounded by the number of looks.

use crate::storage::status::StoreState;

/// Remembers what was last said of one node's log.
pub(super) struct StoreWatch {
    node: u8,
    said: StoreState,
}

impl StoreWatch {
    /// Watches a log that runs.
    pub(super) fn new(node: u8) -> Self {
        Self { node, said: StoreState::Running }
    }

    /// Tells what has changed since the last look.
    pub(super) fn look(&mut self, state: StoreState, say: &mut dyn FnMut(log::Level, String)) {
        if std::mem::replace(&mut self.said, state) == state {
            return;
        }
        let node = self.node;
        match state {
            StoreState::Running => say(log::Level::Info, format!("the log of node {node} has space again and goes on")),
            StoreState::NoSpace { errno } => {
                let line = format!(
                    "the log of node {node} has NO SPACE ({errno}): what can wait waits; free space, and it goes on by itself"
                );
                say(log::Level::Error, line);
            }
            StoreState::Failed { operation, errno } => {
                let operation = operation.name();
                say(log::Level::Error, format!("the log of node {node} has FAILED for good: {operation}: {errno}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::status::StoreOperation;
    use crate::sys::io::Errno;

    #[test]
    fn each_change_of_state_is_said_once() {
        let mut watch = StoreWatch::new(1);
        let mut look = |state| {
            let mut lines = Vec::new();
            watch.look(state, &mut |level, line| lines.push((level, line)));
            lines
        };
        let full = StoreState::NoSpace { errno: Errno(libc::ENOSPC) };
        assert!(look(StoreState::Running).is_empty());
        assert!(matches!(&look(full)[..], [(log::Level::Error, line)] if line.contains("NO SPACE")));
        assert!(look(full).is_empty());
        assert!(matches!(&look(StoreState::Running)[..], [(log::Level::Info, line)] if line.contains("node 1")));
        let failed = StoreState::Failed { operation: StoreOperation::Sync, errno: Errno(libc::EIO) };
        assert!(matches!(&look(failed)[..], [(log::Level::Error, line)] if line.contains("sync")));
    }
}
