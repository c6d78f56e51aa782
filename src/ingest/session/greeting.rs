//! Desks: where a connection is while it has no seat, from its hello's first byte to its answer, or to the last word that it is told.
//!
//! There are a few, as a hello mostly comes whole: who finds none is closed without a word. Each has an outbox, whose buffer also keeps a hello
//! that is cut.

use super::outbox::{ConnectionRef, Outbox};
use crate::sys::clock::Nanos;
use crate::wire::session::{HELLO_BYTES_MAX, SessionFault};

/// How many connections may be without a seat at a time, and speak or be spoken to.
pub(super) const DESKS: u16 = 64;

/// A desk.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) connection: Option<ConnectionRef>,
    pub(super) outbox: Outbox,
    /// The hello as far as it has come.
    pub(super) hello: [u8; HELLO_BYTES_MAX],
    pub(super) hello_bytes: usize,
    /// When its first byte came.
    pub(super) since: Nanos,
    /// The last word, not filled into the outbox yet.
    pub(super) fault: Option<SessionFault>,
}

/// All desks of a reactor.
#[derive(Debug)]
pub(super) struct Desks {
    desks: Vec<Desk>,
    free: Vec<u16>,
}

impl Desks {
    /// Makes them, with outboxes numbered from `first_outbox` on.
    ///
    /// # Errors
    /// Whatever mapping a buffer says.
    pub(super) fn new(first_outbox: u32) -> std::io::Result<Self> {
        let desk = |number: u16| {
            Ok(Desk {
                connection: None,
                outbox: Outbox::new(first_outbox + u32::from(number))?,
                hello: [0; HELLO_BYTES_MAX],
                hello_bytes: 0,
                since: Nanos(0),
                fault: None,
            })
        };
        Ok(Self { desks: (0..DESKS).map(desk).collect::<std::io::Result<_>>()?, free: (0..DESKS).rev().collect() })
    }

    /// Takes one for a connection; `None`: there is none.
    pub(super) fn take(&mut self, connection: ConnectionRef, now: Nanos) -> Option<u16> {
        let number = self.free.pop()?;
        let desk = &mut self.desks[usize::from(number)];
        (desk.connection, desk.hello_bytes, desk.since, desk.fault) = (Some(connection), 0, now, None);
        Some(number)
    }

    /// Gives one back. Its outbox is idle.
    pub(super) fn give_back(&mut self, number: u16) {
        let desk = self.get_mut(number);
        debug_assert!(desk.outbox.is_idle(), "R3: the buffer is the ring's");
        desk.connection = None;
        desk.outbox.clear();
        self.free.push(number);
    }

    pub(super) fn get(&self, number: u16) -> &Desk {
        &self.desks[usize::from(number)]
    }

    pub(super) fn get_mut(&mut self, number: u16) -> &mut Desk {
        &mut self.desks[usize::from(number)]
    }

    /// Whether a last word is still to go.
    pub(super) fn any_speaks(&self) -> bool {
        self.in_use() > 0
            && self.desks.iter().any(|desk| desk.connection.is_some() && (desk.fault.is_some() || !desk.outbox.is_idle()))
    }

    /// Those in use.
    pub(super) fn in_use(&self) -> usize {
        self.desks.len() - self.free.len()
    }
}
