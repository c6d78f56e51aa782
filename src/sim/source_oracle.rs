//! What must hold of sources that are limited, seen from the other side: by who connects from where, who is read, and what was received.
//!
//! - **O13** Where sources are limited (`ingest::sources`):
//!   - of no source are more connections read at a time than it may have, and one more is turned away only while it has them all, or the
//!     node has all of its own;
//!   - no more events are received than the rates of the sources allow; of one source alone to the event, at any moment, and its connections wait for
//!     their rate only while it has no credit for another event.
//!
//! The book knows what the engine knows, when it knows it: a connection comes with the completion of its accept, and has gone with that of its close.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::net::ConnId;
use crate::ingest::SourceLimits;
use crate::sys::clock::Nanos;

const NANOS_PER_S: u128 = 1_000_000_000;

/// A source as the documentation has it: an IPv4 address, or the first 64 bits of an IPv6 one.
type SourceKey = [u8; 8];

fn source_of(address: IpAddr) -> SourceKey {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [0xff, 0xff, 0xff, 0xff, a, b, c, d]
        }
        IpAddr::V6(address) => *address.octets().first_chunk().expect("sixteen bytes"),
    }
}

#[derive(Clone, Copy, Debug)]
struct Guest {
    /// `None`: the engine could not tell.
    source: Option<SourceKey>,
    is_read: bool,
}

/// The events of a reactor that count for its sources' rates, and its waits for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Received over TCP.
    pub events: u64,
    /// Times that a connection began to wait for credit.
    pub waits: u64,
}

/// What is known of the connections of one life of a node.
#[derive(Debug, Default)]
pub struct SourceBook {
    limits: SourceLimits,
    connections_max: usize,
    guests: BTreeMap<ConnId, Guest>,
    /// When each source was first read.
    since: BTreeMap<SourceKey, Nanos>,
    /// Someone was read of whom the engine could not tell where he is: of his events nothing is known.
    is_blind: bool,
    taken: Taken,
    /// What the one source may still send, in billionths of an event, and when that was.
    credit: u128,
    credit_at: Nanos,
    has_ended: bool,
}

impl SourceBook {
    /// The book of a node with these limits, and so many connections.
    pub fn new(limits: SourceLimits, connections_max: u32) -> Self {
        Self { limits, connections_max: connections_max as usize, ..Self::default() }
    }

    /// The engine drains: it turns away whom it likes, and has lifted its rates.
    pub fn end(&mut self) {
        self.has_ended = true;
    }

    fn is_checked(&self) -> bool {
        self.limits.any() && !self.has_ended
    }

    /// The engine is told of a connection.
    pub fn comes(&mut self, conn: ConnId, from: IpAddr) {
        self.guests.insert(conn, Guest { source: Some(source_of(from)), is_read: false });
    }

    /// The engine asked where a connection comes from, and was not told.
    pub fn hides(&mut self, conn: ConnId) {
        self.guests.entry(conn).and_modify(|guest| guest.source = None);
    }

    fn read_of(&self, source: Option<SourceKey>) -> usize {
        self.guests.values().filter(|guest| guest.is_read && guest.source == source).count()
    }

    /// The engine reads a connection.
    ///
    /// # Panics
    /// O13, if it must not.
    pub fn serves(&mut self, conn: ConnId, now: Nanos) {
        let Some(guest) = self.guests.get_mut(&conn).filter(|guest| !guest.is_read) else { return };
        guest.is_read = true;
        let source = guest.source;
        self.is_blind |= source.is_none();
        let Some(key) = source.filter(|_| self.is_checked()) else { return };
        let (read, may) = (self.read_of(source), self.limits.connections_max as usize);
        assert!(may == 0 || read <= may, "O13: {read} connections of {key:?} are read, it may have {may}");
        self.since.entry(key).or_insert(now);
        if self.since.len() == 1 && self.credit_at == Nanos(0) {
            (self.credit, self.credit_at) = (self.credit_max(), now);
        }
    }

    /// The engine closes a connection.
    ///
    /// # Panics
    /// O13, if it has not read it and had room for it.
    pub fn closes(&mut self, conn: ConnId) {
        let Some(guest) = self.guests.get(&conn).filter(|guest| !guest.is_read) else { return };
        let all = self.guests.values().filter(|guest| guest.is_read).count();
        let (read, may) = (self.read_of(guest.source), self.limits.connections_max as usize);
        let is_full = all >= self.connections_max || (may > 0 && read >= may && guest.source.is_some());
        assert!(is_full || !self.is_checked(), "O13: a connection of {guest:?} was turned away, with {read} of {may} read");
    }

    /// The engine is told that a connection is closed.
    pub fn has_closed(&mut self, conn: ConnId) {
        self.guests.remove(&conn);
    }

    fn credit_max(&self) -> u128 {
        u128::from(self.limits.events_per_s) * NANOS_PER_S
    }

    /// Whether there is anything for [`SourceBook::look_at`] to say.
    pub fn has_rate(&self) -> bool {
        self.limits.events_per_s > 0 && self.is_checked()
    }

    /// What has been received by now.
    ///
    /// # Panics
    /// O13, if that is more than the rates allow, or if someone waits who need not.
    pub fn look_at(&mut self, taken: Taken, now: Nanos) {
        let before = std::mem::replace(&mut self.taken, taken);
        if !self.has_rate() || self.is_blind {
            return;
        }
        let rate = u128::from(self.limits.events_per_s);
        let may: u128 = self.since.values().map(|since| u128::from(now.since(*since).0) * rate + self.credit_max()).sum();
        let events = u128::from(taken.events) * NANOS_PER_S;
        assert!(
            events <= may,
            "O13: {} events of {} sources received, rates allow {}",
            taken.events,
            self.since.len(),
            may / NANOS_PER_S
        );
        if self.since.len() != 1 {
            return;
        }
        let waited = u128::from(now.since(self.credit_at).0);
        let credit = (self.credit + waited * rate).min(self.credit_max());
        let spent = u128::from(taken.events - before.events) * NANOS_PER_S;
        assert!(
            spent <= credit,
            "O13: {} events received with credit for {}",
            taken.events - before.events,
            credit / NANOS_PER_S
        );
        (self.credit, self.credit_at) = (credit - spent, now);
        let has_credit = self.credit >= NANOS_PER_S;
        assert!(taken.waits == before.waits || !has_credit, "O13: a wait with credit for {} events", self.credit / NANOS_PER_S);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: [ConnId; 3] = [ConnId(0), ConnId(1), ConnId(2)];

    fn here() -> IpAddr {
        IpAddr::from([10, 0, 0, 1])
    }

    /// Two connections of one source at a time, ten events a second; the first is read from second 1 on.
    fn book() -> SourceBook {
        let mut book = SourceBook::new(SourceLimits { connections_max: 2, events_per_s: 10 }, 64);
        CONN.into_iter().for_each(|conn| book.comes(conn, here()));
        book.serves(CONN[0], Nanos::from_millis(1_000));
        book
    }

    fn look(book: &mut SourceBook, events: u64, waits: u64, millis: u64) {
        book.look_at(Taken { events, waits }, Nanos::from_millis(millis));
    }

    #[test]
    fn what_the_limits_say_passes_to_the_event() {
        let mut book = book();
        book.serves(CONN[1], Nanos::from_millis(1_000));
        book.closes(CONN[2]);
        look(&mut book, 10, 1, 1_000);
        look(&mut book, 10, 1, 1_099);
        look(&mut book, 11, 2, 1_100);
        look(&mut book, 21, 2, 9_000);
    }

    #[test]
    #[should_panic(expected = "3 connections of")]
    fn a_connection_too_many_is_noticed() {
        let mut book = book();
        CONN.into_iter().for_each(|conn| book.serves(conn, Nanos(0)));
    }

    #[test]
    #[should_panic(expected = "was turned away, with 1 of 2 read")]
    fn one_that_is_turned_away_too_early_is_noticed() {
        book().closes(CONN[1]);
    }

    #[test]
    fn one_that_has_gone_makes_room() {
        let mut book = book();
        book.serves(CONN[1], Nanos(0));
        book.has_closed(CONN[0]);
        book.serves(CONN[2], Nanos(0));
    }

    #[test]
    #[should_panic(expected = "1 events received with credit for 0")]
    fn an_event_too_many_is_noticed() {
        let mut book = book();
        look(&mut book, 10, 0, 1_000);
        look(&mut book, 10, 0, 4_000);
        look(&mut book, 20, 0, 4_000);
        look(&mut book, 21, 0, 4_099);
    }

    #[test]
    #[should_panic(expected = "a wait with credit for 1 events")]
    fn a_wait_too_early_is_noticed() {
        look(&mut book(), 9, 1, 1_000);
    }

    #[test]
    #[should_panic(expected = "rates allow 20")]
    fn events_of_several_sources_are_noticed_when_they_are_more_than_all_may_send() {
        let mut book = book();
        book.comes(ConnId(9), IpAddr::from([10, 0, 0, 2]));
        book.serves(ConnId(9), Nanos::from_millis(1_000));
        look(&mut book, 21, 0, 1_049);
    }

    #[test]
    fn a_source_is_an_ipv4_address_however_it_is_written_or_64_bits_of_an_ipv6_one() {
        let of = |text: &str| source_of(text.parse().expect("an address"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
