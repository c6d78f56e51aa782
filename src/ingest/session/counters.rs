//! What sessions count besides the ledger.

use crate::metrics::ledger::{Counter, DropReason};
use crate::metrics::{Kind, Measured, Sample};
use crate::wire::session::SessionFault;

/// One reactor's counters of its sessions (one writer each).
#[derive(Debug, Default)]
pub struct SessionCounters {
    /// Sessions with a connection now (a gauge).
    pub open: Counter,
    /// Welcomes.
    pub welcomed: Counter,
    /// Acknowledgements sent.
    pub acks: Counter,
    /// Sequences told as refused, by reason.
    pub refused: [Counter; DropReason::COUNT],
    /// Events that were known: counted as duplicates in the ledger too.
    pub duplicates: Counter,
    /// Sessions and hellos ended by us, by [`SessionFault::index`].
    pub faults: [Counter; SessionFault::COUNT],
    /// Hellos handed over to their producer's home.
    pub handed_over: Counter,
    /// Seats given from one producer to another.
    pub seats_evicted: Counter,
}

impl Measured for SessionCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        let mut tell = |name, help, kind, labels: &[(&'static str, &str)], counter: &Counter| {
            sink(Sample { name, help, kind, labels, value: counter.get() });
        };
        tell("sessions_open", "Sessions with a connection", Kind::Gauge, &[], &self.open);
        tell("sessions_welcomed", "Hellos welcomed", Kind::Counter, &[], &self.welcomed);
        tell("session_acks", "Acknowledgements sent", Kind::Counter, &[], &self.acks);
        for (reason, counter) in DropReason::ALL.into_iter().zip(&self.refused) {
            let help = "Sequences told as refused, by reason";
            tell("session_refusals", help, Kind::Counter, &[("reason", reason.name())], counter);
        }
        tell("session_duplicates", "Events of sessions that were known", Kind::Counter, &[], &self.duplicates);
        for (fault, counter) in SessionFault::ALL.into_iter().zip(&self.faults) {
            let help = "Hellos refused and sessions ended by the engine, by reason";
            tell("session_errors", help, Kind::Counter, &[("reason", fault.name())], counter);
        }
        tell("sessions_handed_over", "Hellos handed over to another reactor", Kind::Counter, &[], &self.handed_over);
        tell("session_seats_evicted", "Seats given to another producer", Kind::Counter, &[], &self.seats_evicted);
    }
}
