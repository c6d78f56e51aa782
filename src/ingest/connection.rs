//! The connection table: one preallocated place per connection, told apart over time by a generation.
//!
//! ```text
//!          accept             end of stream, error, deadline, drain             final completion        close completed
//!  Free ───────────► Open ──────────────────────────────────────────► Open, ended ───────────► Closing ──────────────► Free
//!                      └────── a frame is refused ──────► Refused ───────────────────────────────▲
//! ```

use super::counters::CloseReason;
use super::parking::Parked;
use super::partial::Partial;
use super::session::Protocol;
use super::sources::SourceRef;
use super::waiting::Line;
use crate::pool::Event;
use crate::sys::clock::Nanos;
use crate::sys::io::Fd;
use crate::wire::Tier;

/// No connection has this number.
pub(super) const NOBODY: u32 = u32::MAX;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nobody's.
    Free,
    /// Its bytes are parsed (also after it ended, up to the receive's final completion).
    Open,
    /// A frame was refused: what still comes is not looked at.
    Refused,
    /// The descriptor is being closed.
    Closing,
}

/// The receive operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    /// None in flight.
    Idle,
    /// In flight.
    Armed,
    /// In flight, and asked to end.
    Cancelled,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) fd: Fd,
    pub(super) generation: u16,
    pub(super) stage: Stage,
    pub(super) receive: Receive,
    /// The reactor's running number of connections, as it stands in event headers.
    pub(super) number: u32,
    /// Where it comes from, if sources are limited and its address is known.
    pub(super) source: Option<SourceRef>,
    /// What it speaks.
    pub(super) protocol: Protocol,
    /// A send is in flight.
    pub(super) is_sending: bool,
    /// It is to be told why it ends before it is closed.
    pub(super) has_last_word: bool,
    /// Why it will be closed once all that came is taken.
    pub(super) ended: Option<CloseReason>,
    /// The line it waits in, and its neighbours there.
    pub(super) line: Option<Line>,
    pub(super) before: u32,
    pub(super) behind: u32,
    /// When it began to wait.
    pub(super) waits_since: Nanos,
    /// When bytes last came, moved on by the time that *we* did not read.
    pub(super) read_at: Nanos,
    /// The frame of which only a part has come.
    pub(super) partial: Partial,
    /// An event, received and counted, that its lane had no room for.
    pub(super) pending: Option<(Event, Tier)>,
    /// Bytes behind it that are not parsed yet.
    pub(super) parked: Parked,
}

impl Connection {
    const fn nobody() -> Self {
        Self {
            fd: Fd(-1),
            generation: 0,
            stage: Stage::Free,
            receive: Receive::Idle,
            number: 0,
            source: None,
            protocol: Protocol::Unknown,
            is_sending: false,
            has_last_word: false,
            ended: None,
            line: None,
            before: NOBODY,
            behind: NOBODY,
            waits_since: Nanos(0),
            read_at: Nanos(0),
            partial: Partial::NONE,
            pending: None,
            parked: Parked::NONE,
        }
    }

    /// Whether its bytes can't be parsed before something else happens (waiting for chunks is not that: nothing is left over).
    pub(super) fn is_held_up(&self) -> bool {
        self.line.is_some_and(|line| !line.is_for_chunks())
    }
}

/// All connections of a reactor.
#[derive(Debug)]
pub(super) struct ConnectionTable {
    places: Vec<Connection>,
    /// Last in, first out: the lowest places stay the busy ones, and sweeps short.
    free: Vec<u32>,
    /// Places from here on were never used.
    reach: u32,
}

impl ConnectionTable {
    pub(super) fn new(connections_max: u32) -> Self {
        Self {
            places: (0..connections_max).map(|_| Connection::nobody()).collect(),
            free: (0..connections_max).rev().collect(),
            reach: 0,
        }
    }

    /// Whether every place is taken.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Opens a place for an accepted descriptor; `None` when the table is full.
    pub(super) fn open(&mut self, fd: Fd, number: u32, now: Nanos) -> Option<u32> {
        let slot = self.free.pop()?;
        self.reach = self.reach.max(slot + 1);
        let generation = self.places[slot as usize].generation;
        self.places[slot as usize] =
            Connection { fd, generation, stage: Stage::Open, number, read_at: now, ..Connection::nobody() };
        Some(slot)
    }

    /// Frees a place whose descriptor is closed. Tokens of its past are late from now on.
    pub(super) fn free(&mut self, slot: u32) {
        let connection = &mut self.places[slot as usize];
        debug_assert_eq!((connection.stage, connection.receive), (Stage::Closing, Receive::Idle));
        debug_assert!(connection.line.is_none() && connection.pending.is_none() && connection.parked.is_empty());
        connection.stage = Stage::Free;
        connection.generation = connection.generation.wrapping_add(1);
        self.free.push(slot);
    }

    /// Whether this is the place's present use.
    pub(super) fn is_current(&self, slot: u32, generation: u16) -> bool {
        self.places.get(slot as usize).is_some_and(|c| c.generation == generation && c.stage != Stage::Free)
    }

    pub(super) fn get(&self, slot: u32) -> &Connection {
        &self.places[slot as usize]
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Connection {
        &mut self.places[slot as usize]
    }

    /// Connections in the table, closing ones included.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The places that have ever been used.
    pub(super) fn reach(&self) -> u32 {
        self.reach
    }
}
