//! The control plane's reach into the data path: one gate per node that reactors read.

use crate::sync::{AtomicBool, Ordering};

/// What reactors of a node may take in at the moment. Written by the control side and the appender, read once per poll.
#[derive(Debug, Default)]
pub struct NodeGate {
    store_unavailable: AtomicBool,
}

impl NodeGate {
    /// Says whether the log can be written (the appender, on ENOSPC and after recovery from it).
    pub fn set_store_unavailable(&self, unavailable: bool) {
        // Relaxed: a late reader lets a few more events in, which then wait or are counted like any others.
        self.store_unavailable.store(unavailable, Ordering::Relaxed);
    }

    /// Whether events that cannot wait must be dropped with `store_unavailable`.
    #[inline]
    pub fn is_store_unavailable(&self) -> bool {
        self.store_unavailable.load(Ordering::Relaxed)
    }
}
