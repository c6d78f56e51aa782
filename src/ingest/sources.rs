//! Sources: who connects or sends datagrams, as far as the network tells, and what each may take of a reactor. Pure.
//!
//! A source is an IPv4 address, or the /64 of an IPv6 one, within which whoever has it can choose addresses at will.
//!
//! ```text
//! accept ─► enter ─► connections < max? ─► place ◄── allowance, spend ◄── frames          close ─► leave ─► kept until its credit is whole
//! datagram ─► visit ─────────────────────► place ◄── allowance, spend ◄── its frames                    ─► likewise
//! ```
//!
//! Invariants:
//! - **SR1** A place is in use while its source has a connection, or credit to regain: who comes anew brings no fresh credit along. There are
//!   twice as many places as connections; where strangers have used them up, those that left longest ago are forgotten first, unless they
//!   have sent since (a second chance, a few of them at a time).
//! - **SR2** Credit is exact: a second of waiting gives what the rate says, never more than a second's worth is kept, and nothing is lost to
//!   rounding. No event is taken without credit, so in any time T at most rate x (T + 1 s) are.
//! - **SR3** No allocation after [`Sources::new`]; none at all where nothing is limited.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::sys::clock::Nanos;

const NANOS_PER_S: u64 = 1_000_000_000;

/// Events per second at most, so that a second's credit fits 64 bits.
pub(super) const RATE_MAX: u32 = 1_000_000_000;

/// What each source may take of one reactor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceLimits {
    /// Connections at a time; 0: as many as there are.
    pub connections_max: u32,
    /// Events per second over all its connections, 1 to 1,000,000,000, with a burst of one second; 0: as many as it likes.
    pub events_per_s: u32,
}

impl SourceLimits {
    /// What of it concerns datagrams: they have no connections.
    pub const fn of_datagrams(self) -> SourceLimits {
        SourceLimits { connections_max: 0, ..self }
    }

    /// Whether anything is limited.
    pub const fn any(&self) -> bool {
        self.connections_max > 0 || self.events_per_s > 0
    }

    /// Bytes that the sources of a reactor with so many connections take.
    pub fn memory_bytes(&self, connections_max: u32) -> u64 {
        let places = if self.any() { places(connections_max) as u64 } else { 0 };
        // Two queues of numbers; the map has room for twice as many, at a byte beside each entry and 7 of 8 in use.
        places * (size_of::<Place>() as u64 + 2 * 4 + 2 * (size_of::<(SourceKey, u32)>() as u64 + 1) * 8 / 7)
    }
}

/// Second chances for one stranger. Bounded, so that a stranger's datagram costs no more than some others do.
const SECOND_CHANCES_MAX: u32 = 16;

fn places(connections_max: u32) -> usize {
    2 * connections_max as usize
}

/// A source, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SourceKey(u64);

impl SourceKey {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // No network has addresses in ::/8 (RFC 4291), so these are nobody's /64.
            IpAddr::V4(address) => Self(1 << 32 | u64::from(u32::from(address))),
            IpAddr::V6(address) => Self((u128::from(address) >> 64) as u64),
        }
    }
}

/// The place of a connection's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourceRef(u32);

#[derive(Clone, Copy, Debug)]
struct Place {
    key: SourceKey,
    connections: u32,
    /// In the queue of those that have left.
    is_queued: bool,
    /// Came again while it was queued.
    was_seen_again: bool,
    /// In billionths of an event.
    credit: u64,
    /// When the credit was that.
    at: Nanos,
}

/// All sources of a reactor.
#[derive(Debug)]
pub(super) struct Sources {
    limits: SourceLimits,
    by_key: HashMap<SourceKey, u32>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Those that had no connection when they were put here, the first to leave first.
    left: VecDeque<u32>,
}

impl Sources {
    pub(super) fn new(limits: SourceLimits, connections_max: u32) -> Self {
        let count = if limits.any() { places(connections_max) } else { 0 };
        let nobody =
            Place { key: SourceKey(0), connections: 0, is_queued: false, was_seen_again: false, credit: 0, at: Nanos(0) };
        Self {
            limits: SourceLimits { events_per_s: limits.events_per_s.min(RATE_MAX), ..limits },
            // Twice as many: entries come and go, and the map never grows.
            by_key: HashMap::with_capacity(2 * count),
            places: vec![nobody; count],
            free: (0..count as u32).rev().collect(),
            left: VecDeque::with_capacity(count),
        }
    }

    /// Whether addresses matter at all.
    pub(super) fn any_limits(&self) -> bool {
        self.limits.any()
    }

    /// From now on everyone may send as they like: what waits is taken.
    pub(super) fn lift_rate(&mut self) {
        self.limits.events_per_s = 0;
    }

    fn credit_max(&self) -> u64 {
        u64::from(self.limits.events_per_s) * NANOS_PER_S
    }

    /// A connection comes.
    ///
    /// # Errors
    /// Its source has all the connections that it may have.
    pub(super) fn enter(&mut self, address: IpAddr, now: Nanos) -> Result<SourceRef, OverLimit> {
        let number = self.place_of(address, now);
        let place = &mut self.places[number as usize];
        if self.limits.connections_max > 0 && place.connections >= self.limits.connections_max {
            return Err(OverLimit);
        }
        place.connections += 1;
        Ok(SourceRef(number))
    }

    /// A datagram comes: its source has the place as long as nobody needs it more (SR1).
    pub(super) fn visit(&mut self, address: IpAddr, now: Nanos) -> SourceRef {
        let number = self.place_of(address, now);
        let place = &mut self.places[number as usize];
        place.was_seen_again = place.is_queued;
        if !std::mem::replace(&mut place.is_queued, true) {
            self.left.push_back(number);
        }
        SourceRef(number)
    }

    /// The place of a source: the one it has, or a fresh one with all its credit.
    fn place_of(&mut self, address: IpAddr, now: Nanos) -> u32 {
        let key = SourceKey::of(address);
        if let Some(number) = self.by_key.get(&key) {
            return *number;
        }
        let number = self.take_place(now);
        self.places[number as usize] = Place { key, credit: self.credit_max(), at: now, ..self.places[number as usize] };
        self.by_key.insert(key, number);
        number
    }

    /// A place that nobody needs (SR1).
    fn take_place(&mut self, now: Nanos) -> u32 {
        let mut chances = SECOND_CHANCES_MAX;
        while let Some(&number) = self.left.front() {
            let place = self.places[number as usize];
            if place.connections == 0 && !self.is_whole(&place, now) {
                if !self.free.is_empty() {
                    break;
                }
                if place.was_seen_again && chances > 0 {
                    chances -= 1;
                    self.places[number as usize].was_seen_again = false;
                    self.left.rotate_left(1);
                    continue;
                }
            }
            self.left.pop_front();
            let place = &mut self.places[number as usize];
            (place.is_queued, place.was_seen_again) = (false, false);
            if place.connections == 0 {
                self.by_key.remove(&place.key);
                self.free.push(number);
            }
        }
        self.free.pop().expect("SR1: fewer sources have connections than there are places")
    }

    /// A connection has gone.
    pub(super) fn leave(&mut self, source: SourceRef) {
        let place = &mut self.places[source.0 as usize];
        place.connections -= 1;
        if place.connections == 0 && !std::mem::replace(&mut place.is_queued, true) {
            self.left.push_back(source.0);
        }
    }

    fn is_whole(&self, place: &Place, now: Nanos) -> bool {
        self.credit_at(place, now) == self.credit_max()
    }

    fn credit_at(&self, place: &Place, now: Nanos) -> u64 {
        let waited = now.since(place.at).0.min(NANOS_PER_S);
        (place.credit + waited * u64::from(self.limits.events_per_s)).min(self.credit_max())
    }

    /// How many events a source may send now.
    pub(super) fn allowance(&self, source: Option<SourceRef>, now: Nanos) -> u32 {
        match source.filter(|_| self.limits.events_per_s > 0) {
            Some(source) => (self.credit_at(&self.places[source.0 as usize], now) / NANOS_PER_S) as u32,
            None => u32::MAX,
        }
    }

    /// It has sent so many of them.
    pub(super) fn spend(&mut self, source: Option<SourceRef>, events: u32, now: Nanos) {
        let Some(source) = source.filter(|_| self.limits.events_per_s > 0 && events > 0) else { return };
        let credit = self.credit_at(&self.places[source.0 as usize], now);
        let place = &mut self.places[source.0 as usize];
        let spent = u64::from(events) * NANOS_PER_S;
        debug_assert!(spent <= credit, "SR2: more than the allowance was taken");
        (place.credit, place.at) = (credit.saturating_sub(spent), now);
    }
}

/// A source has all the connections that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OverLimit;

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(connections_max: u32, events_per_s: u32, connections: u32) -> Sources {
        Sources::new(SourceLimits { connections_max, events_per_s }, connections)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_is_an_ipv4_address_however_it_is_written_or_the_64_bits_of_a_network() {
        let key = |text| SourceKey::of(address(text));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("::1"), key("0.0.0.0"));
    }

    #[test]
    fn connections_are_counted_by_source_and_one_that_leaves_makes_room() {
        let mut sources = sources(2, 0, 8);
        let first = sources.enter(address("10.0.0.1"), Nanos(0)).unwrap();
        sources.enter(address("10.0.0.1"), Nanos(0)).unwrap();
        assert_eq!(sources.enter(address("10.0.0.1"), Nanos(0)), Err(OverLimit));
        assert!(sources.enter(address("10.0.0.2"), Nanos(0)).is_ok(), "another source");
        sources.leave(first);
        assert!(sources.enter(address("10.0.0.1"), Nanos(0)).is_ok());
        assert_eq!(sources.allowance(Some(first), Nanos(0)), u32::MAX, "no rate, no end");
    }

    #[test]
    fn credit_is_a_second_at_most_and_comes_back_to_the_event() {
        let mut sources = sources(0, 3, 8);
        let source = Some(sources.enter(address("10.0.0.1"), Nanos(0)).unwrap());
        assert_eq!(sources.allowance(source, Nanos(0)), 3);
        sources.spend(source, 3, Nanos(0));
        let mut sent = 0;
        // Looked at every 7 ms for 10 s: no rounding takes or gives an event.
        for at in (0..=10_000_000_000).step_by(7_000_000) {
            let allowance = sources.allowance(source, Nanos(at));
            sources.spend(source, allowance, Nanos(at));
            sent += allowance;
        }
        assert_eq!(sent, 29, "10 s at 3 a second, less what the last 4 ms were for");
        assert_eq!(sources.allowance(source, Nanos(3_600_000_000_000)), 3, "an hour of silence is worth a second");
        assert_eq!(sources.allowance(None, Nanos(0)), u32::MAX, "of an unknown address nothing is known");
        sources.lift_rate();
        assert_eq!(sources.allowance(source, Nanos(10_000_000_000)), u32::MAX);
    }

    #[test]
    fn who_connects_anew_brings_no_fresh_credit_unless_strangers_took_every_place() {
        let mut sources = sources(0, 10, 2);
        let spend_all = |sources: &mut Sources, text: &str| {
            let source = sources.enter(address(text), Nanos(0)).unwrap();
            let had = sources.allowance(Some(source), Nanos(0));
            sources.spend(Some(source), had, Nanos(0));
            sources.leave(source);
            had
        };
        assert_eq!(spend_all(&mut sources, "10.0.0.1"), 10);
        for again in ["10.0.0.1", "10.0.0.1"] {
            assert_eq!(spend_all(&mut sources, again), 0);
        }
        for stranger in ["10.0.0.2", "10.0.0.3", "10.0.0.4"] {
            assert_eq!(spend_all(&mut sources, stranger), 10);
        }
        assert_eq!(spend_all(&mut sources, "10.0.0.1"), 0, "four places hold four");
        assert_eq!(spend_all(&mut sources, "10.0.0.5"), 10);
        assert_eq!(spend_all(&mut sources, "10.0.0.4"), 0, "not the last to leave is forgotten");
    }

    #[test]
    fn a_source_of_datagrams_keeps_its_account_while_it_sends_and_strangers_come_only_once() {
        let mut sources = sources(0, 10, 2);
        let send = |sources: &mut Sources, text: &str| {
            let source = Some(sources.visit(address(text), Nanos(0)));
            let had = sources.allowance(source, Nanos(0));
            sources.spend(source, had, Nanos(0));
            had
        };
        assert_eq!(send(&mut sources, "10.0.0.1"), 10);
        for stranger in 0..100u8 {
            assert_eq!(send(&mut sources, "10.0.0.1"), 0, "before stranger {stranger}");
            assert_eq!(send(&mut sources, &format!("10.0.1.{stranger}")), 10);
        }
        assert_eq!(send(&mut sources, "10.0.1.99"), 0, "not the last one to come is forgotten");
        let whole_again = Nanos(1_000_000_000);
        let source = Some(sources.visit(address("10.0.0.1"), whole_again));
        assert_eq!(sources.allowance(source, whole_again), 10);
    }

    #[test]
    fn sources_come_and_go_for_ever_in_the_memory_of_the_start() {
        let mut sources = sources(1, 5, 16);
        let capacity = (sources.by_key.capacity(), sources.left.capacity(), sources.free.capacity());
        let mut inside: VecDeque<SourceRef> = VecDeque::new();
        for number in 0..10_000u32 {
            if inside.len() == 16 {
                sources.leave(inside.pop_front().unwrap());
            }
            let entered =
                sources.enter(IpAddr::from((0x0a00_0000 + number % 997).to_be_bytes()), Nanos(u64::from(number) * 1_000_000));
            inside.extend(entered);
            sources.visit(IpAddr::from((0x0b00_0000 + number % 37).to_be_bytes()), Nanos(u64::from(number) * 1_000_000));
        }
        assert_eq!(capacity, (sources.by_key.capacity(), sources.left.capacity(), sources.free.capacity()));
    }
}
