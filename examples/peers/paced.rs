//! At a steady rate on one connection: how long after it was due an event is answered for. One that comes late moves none of those after it.
//!
//! The sender's core is its own, so it waits in a loop.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::connection::Connection;
use super::peer::{Failure, Peer, Proof};

/// Due events that go out in one write at most.
const WRITE_EVENTS_MAX: u64 = 512;
/// A peer that needs more than this many times the time of sending is beyond its limit.
const OVERTIME: u32 = 2;
/// What a histogram tells apart: three digits, up to a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What came of it.
pub struct Outcome {
    due: u64,
    answered: u64,
    from_due_ns: Histogram<u64>,
    late_ns: Histogram<u64>,
}

impl Outcome {
    pub fn to_json(&self) -> String {
        let us = |values: &Histogram<u64>, quantile| values.value_at_quantile(quantile) as f64 / 1e3;
        format!(
            "{{\"events\":{},\"answered\":{},\"p50_us\":{:.1},\"p99_us\":{:.1},\"sender_late_p99_us\":{:.1}}}",
            self.due,
            self.answered,
            us(&self.from_due_ns, 0.5),
            us(&self.from_due_ns, 0.99),
            us(&self.late_ns, 0.99)
        )
    }
}

pub fn run(peer: &mut dyn Peer, address: SocketAddr, per_second: u64, span: Duration) -> Result<Outcome, Failure> {
    let mut connection = Connection::open(peer, address, 0)?;
    let window_events = match peer.proof() {
        Proof::Answers { window_events } => Some(window_events),
        Proof::Looks { .. } => None,
    };
    let due = (span.as_secs_f64() * per_second as f64) as u64;
    let [mut from_due_ns, mut late_ns] =
        [(); 2].map(|()| Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("constant bounds"));
    let began = Instant::now();
    let due_at = |number: u64| Duration::from_nanos((u128::from(number) * 1_000_000_000 / u128::from(per_second)) as u64);
    let mut answered = 0;
    while answered < due && began.elapsed() < span * OVERTIME {
        let now = began.elapsed();
        let (first, room) = (connection.sent, window_events.map_or(u64::MAX, |window| window - connection.waiting()));
        let mut last = first;
        while last < due && last - first < room.min(WRITE_EVENTS_MAX) && due_at(last) <= now {
            late_ns.saturating_record((now - due_at(last)).as_nanos() as u64);
            last += 1;
        }
        if last > first {
            connection.give(last - first);
        }
        connection.write()?;
        let seen = match window_events {
            Some(_) => answered + connection.read(peer)?,
            None => peer.stored()?,
        };
        let now = began.elapsed();
        for number in answered..seen {
            from_due_ns.saturating_record(now.saturating_sub(due_at(number)).as_nanos() as u64);
        }
        answered = seen;
    }
    Ok(Outcome { due, answered, from_due_ns, late_ns })
}
