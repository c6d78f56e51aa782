//! The table as a segment tells it: its snapshot, and the records behind that.

use super::ProducerTable;
use crate::storage::format::{BatchHeader, BatchMark, Records};

/// A table that is rebuilt from the batches of a segment.
#[derive(Debug)]
pub(in crate::storage) struct Rebuild {
    pub table: ProducerTable,
    /// Whether the segment's snapshot was there to its end: then nothing that was stored before is missing.
    pub is_complete: bool,
}

impl Rebuild {
    pub fn new(capacity: u32) -> Self {
        Self { table: ProducerTable::new(capacity), is_complete: false }
    }

    /// The next batch, which a walk has checked.
    pub fn add(&mut self, batch: &BatchHeader, payload: &[u8]) {
        match batch.mark {
            BatchMark::Opened | BatchMark::Closed => {}
            BatchMark::Producers | BatchMark::ProducersEnd => {
                self.table.take_in(payload).expect("the walk has checked the entries");
                self.is_complete |= batch.mark == BatchMark::ProducersEnd;
            }
            BatchMark::Data => {
                for stamp in Records::new(payload).filter_map(|record| record.ok()?.header.producer) {
                    self.table.observe(stamp);
                }
            }
        }
    }

    /// What this segment's table is on top of that of the segment before it.
    pub fn on_top_of(self, mut before: Rebuild) -> Rebuild {
        for (producer, window) in self.table.iter() {
            before.table.absorb(producer, window);
        }
        before
    }
}
