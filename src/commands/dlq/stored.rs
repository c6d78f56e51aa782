//! Which events are in the logs of a data folder.

use std::collections::HashMap;
use std::path::Path;

use super::{CommandError, runtime};
use crate::commands::ExitStatus;
use crate::commands::log::{LogCommandError, log_path, logs_of};
use crate::commands::parts::three_lines;
use crate::storage::DiskFolder;
use crate::storage::node_reader::NodeReader;
use crate::storage::reader::ReadError;

/// Ids, each with whether its event is in a log. Memory: some 16 bytes for each dead letter; nothing for the logs, however long they are.
pub(super) type Ids = HashMap<u64, bool>;

/// Marks the ids that the logs have. A damaged log is read on behind the damage: an event that can't be read is not there. `needs_a_log`:
/// whether a folder without one is refused, as it can't be the one of an engine that runs.
pub(super) fn mark_stored(data_dir: &Path, ids: &mut Ids, needs_a_log: bool) -> Result<(), CommandError> {
    let logs = match logs_of(data_dir) {
        Err(LogCommandError::NoLog { .. }) if !needs_a_log => return Ok(()),
        logs => logs.map_err(|error| three_lines(ExitStatus::Runtime, &error))?,
    };
    for node in logs {
        let path = log_path(data_dir, node);
        let unreadable = |error: ReadError| {
            let fix = "check that it is an event log and that you may read it; `eventstream log verify` looks at all of it";
            runtime(format!("can't read {}", path.display()), error.to_string(), fix)
        };
        let mut reader = NodeReader::open(DiskFolder::to_read(data_dir), node).map_err(unreadable)?;
        loop {
            match reader.next() {
                Ok(Some(record)) => {
                    if let Some(stored) = ids.get_mut(&record.id) {
                        *stored = true;
                    }
                }
                Ok(None) => break,
                Err(ReadError::Overrun { .. }) => {} // Given up by the retention while it was looked for: not there.
                Err(ReadError::Damaged(damage)) => {
                    eprintln!("warning: {}: {damage}", path.display());
                    if !reader.skip(&damage) {
                        break;
                    }
                }
                Err(error) => return Err(unreadable(error)),
            }
        }
    }
    Ok(())
}
