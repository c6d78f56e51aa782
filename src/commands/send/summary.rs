//! What was sent.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::{Plan, Transport};
use crate::client::{AckLevel, Refusal, Statistics};
use crate::wire::Priority;

/// Events by priority, and bytes of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Indexed by priority byte.
    pub events_by_priority: [u64; Priority::ALL.len()],
    /// Bytes of frames, headers included.
    pub bytes: u64,
}

impl Tally {
    /// Events of all priorities.
    pub fn events(&self) -> u64 {
        self.events_by_priority.iter().sum()
    }

    /// Counts one event.
    #[inline]
    pub(super) fn count(&mut self, priority: Priority) {
        self.events_by_priority[priority as usize] += 1;
    }

    /// Adds another tally.
    pub(in crate::commands) fn add(&mut self, other: &Tally) {
        for (mine, theirs) in self.events_by_priority.iter_mut().zip(other.events_by_priority) {
            *mine += theirs;
        }
        self.bytes += other.bytes;
    }
}

/// What became of the events of sessions.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionTally {
    /// When an event was acknowledged.
    pub ack_level: AckLevel,
    /// Events acknowledged.
    pub acked: u64,
    /// Events refused.
    pub refused: u64,
    /// The same by reason; with those lost after their ack, without those whose reason was forgotten.
    pub refused_by_reason: BTreeMap<&'static str, u64>,
    /// Acknowledged events that the engine lost later, at the level *accepted*.
    pub lost_after_ack: u64,
    /// Events that the engine had before they were sent on a later connection, or by an earlier run of the same producer.
    pub held: u64,
    /// Connections after the first of each session.
    pub reconnects: u64,
    /// From giving an event to its ack, in nanoseconds, of those that were sent.
    pub ack_latency_ns: Histogram<u64>,
}

impl SessionTally {
    /// Of one session.
    pub(super) fn new(ack_level: AckLevel, statistics: &Statistics, refusals: &[Refusal]) -> SessionTally {
        let mut refused_by_reason = BTreeMap::new();
        for refusal in refusals {
            *refused_by_reason.entry(refusal.reason.name()).or_default() += refusal.count;
        }
        let Statistics { acked, refused, lost_after_ack, held, reconnects, .. } = *statistics;
        let ack_latency_ns = statistics.ack_latency_ns.clone();
        SessionTally { ack_level, acked, refused, refused_by_reason, lost_after_ack, held, reconnects, ack_latency_ns }
    }

    /// Of both.
    pub(super) fn sum(one: Option<SessionTally>, other: Option<SessionTally>) -> Option<SessionTally> {
        let (Some(mut sum), Some(more)) = (one.clone(), other.clone()) else { return one.or(other) };
        sum.acked += more.acked;
        sum.refused += more.refused;
        for (reason, count) in more.refused_by_reason {
            *sum.refused_by_reason.entry(reason).or_default() += count;
        }
        sum.lost_after_ack += more.lost_after_ack;
        sum.held += more.held;
        sum.reconnects += more.reconnects;
        sum.ack_latency_ns.add(more.ack_latency_ns).expect("the same bounds");
        Some(sum)
    }

    /// The latency below which this share of acks came, in microseconds.
    fn ack_us(&self, quantile: f64) -> f64 {
        self.ack_latency_ns.value_at_quantile(quantile) as f64 / 1e3
    }

    fn to_json(&self) -> serde_json::Value {
        let is_timed = !self.ack_latency_ns.is_empty();
        let ack_us = serde_json::json!({ "p50": self.ack_us(0.5), "p99": self.ack_us(0.99), "max": self.ack_us(1.0) });
        serde_json::json!({
            "ack_level": self.ack_level.name(),
            "acked": self.acked,
            "refused": self.refused,
            "refused_by_reason": self.refused_by_reason,
            "lost_after_ack": self.lost_after_ack,
            "held": self.held,
            "reconnects": self.reconnects,
            "ack_us": is_timed.then_some(ack_us),
        })
    }
}

impl fmt::Display for SessionTally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} acked {}, {} refused", self.acked, self.ack_level.name(), self.refused)?;
        for (reason, count) in &self.refused_by_reason {
            write!(f, ", {count} {reason}")?;
        }
        for (count, what) in [(self.lost_after_ack, "lost after their ack"), (self.held, "held"), (self.reconnects, "reconnects")]
        {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        // Of what was never sent no ack is an answer.
        match self.ack_latency_ns.is_empty() {
            false => write!(f, "; acks after {:.0} us (p50), {:.0} us (p99)", self.ack_us(0.5), self.ack_us(0.99)),
            true if self.acked > 0 => f.write_str("; all held already"),
            true => Ok(()),
        }
    }
}

/// The outcome of a run of `send`.
#[derive(Clone, Debug, PartialEq)]
pub struct SendSummary {
    /// What the kernel took.
    pub sent: Tally,
    /// From the first connection to the last confirmation.
    pub elapsed: Duration,
    /// `tcp`, `session` or `udp`.
    pub transport: &'static str,
    /// Connections or sockets.
    pub connections: usize,
    /// TCP connections that the receiver had not closed in time: it may not have read everything.
    pub unconfirmed_connections: usize,
    /// With `--session`.
    pub session: Option<SessionTally>,
}

impl SendSummary {
    pub(super) fn new(
        plan: &Plan,
        sent: Tally,
        unconfirmed_connections: usize,
        session: Option<SessionTally>,
        elapsed: Duration,
    ) -> SendSummary {
        let transport = match plan.transport {
            Transport::Tcp(_) => "tcp",
            Transport::Session(_) => "session",
            Transport::Udp(_) => "udp",
        };
        SendSummary { sent, elapsed, transport, connections: plan.connections, unconfirmed_connections, session }
    }

    /// Events per second over the whole run.
    pub fn events_per_second(&self) -> f64 {
        self.sent.events() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let by_priority: serde_json::Map<String, serde_json::Value> = Priority::ALL
            .into_iter()
            .map(|priority| (priority.name().to_ascii_lowercase(), self.sent.events_by_priority[priority as usize].into()))
            .collect();
        serde_json::json!({
            "events": self.sent.events(),
            "events_by_priority": by_priority,
            "bytes": self.sent.bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "events_per_second": self.events_per_second(),
            "transport": self.transport,
            "connections": self.connections,
            "unconfirmed_connections": self.unconfirmed_connections,
            "session": self.session.as_ref().map(SessionTally::to_json),
        })
        .to_string()
    }
}

impl fmt::Display for SendSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let (events, bytes) = (self.sent.events(), self.sent.bytes);
        write!(f, "sent {events} events, {bytes} bytes in {seconds:.3} s: {:.0} events/s", self.events_per_second())?;
        write!(f, " ({} {}", self.connections, self.transport)?;
        for priority in Priority::ALL.into_iter().rev() {
            match self.sent.events_by_priority[priority as usize] {
                0 => {}
                count => write!(f, ", {count} {}", priority.name())?,
            }
        }
        f.write_str(")")?;
        if let Some(session) = &self.session {
            write!(f, "\n{session}")?;
        }
        if self.unconfirmed_connections > 0 {
            write!(f, "\nwarning: {} connections were not read to their end in time", self.unconfirmed_connections)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_the_same_in_text_and_in_json() {
        let sent = Tally { events_by_priority: [0, 3, 6, 1, 0], bytes: 800 };
        let elapsed = Duration::from_millis(500);
        let summary = SendSummary { sent, elapsed, transport: "tcp", connections: 8, unconfirmed_connections: 1, session: None };
        let text = summary.to_string();
        assert!(text.starts_with("sent 10 events, 800 bytes in 0.500 s: 20 events/s (8 tcp, 1 HIGH, 6 MEDIUM, 3 LOW)"), "{text}");
        assert!(text.contains("warning: 1 connections"));
        let json: serde_json::Value = serde_json::from_str(&summary.to_json()).unwrap();
        assert_eq!(json["events"], 10);
        assert_eq!(json["events_by_priority"]["medium"], 6);
        assert_eq!(json["events_per_second"], 20.0);
        assert!(json["session"].is_null());
    }

    #[test]
    fn sessions_are_summed_and_say_what_became_of_their_events() {
        let mut ack_latency_ns = Histogram::new_with_bounds(1, 1_000_000_000, 3).expect("constant bounds");
        ack_latency_ns.saturating_record(250_000);
        let one = SessionTally {
            ack_level: AckLevel::Durable,
            acked: 1,
            refused: 4,
            refused_by_reason: [("emergency_drop", 3), ("queue_full", 1)].into(),
            lost_after_ack: 0,
            held: 0,
            reconnects: 2,
            ack_latency_ns,
        };
        assert_eq!(SessionTally::sum(None, Some(one.clone())), Some(one.clone()));
        let both = SessionTally::sum(Some(one.clone()), Some(one)).expect("two");
        let text = both.to_string();
        let expected =
            "2 acked durable, 8 refused, 6 emergency_drop, 2 queue_full, 4 reconnects; acks after 250 us (p50), 250 us (p99)";
        assert_eq!(text, expected);
        let json = both.to_json();
        assert_eq!((&json["refused_by_reason"]["emergency_drop"], &json["reconnects"]), (&6.into(), &4.into()));
    }

    #[test]
    fn events_that_were_held_already_have_no_ack_to_time() {
        let tally = SessionTally {
            ack_level: AckLevel::Written,
            acked: 7,
            refused: 0,
            refused_by_reason: BTreeMap::new(),
            lost_after_ack: 0,
            held: 7,
            reconnects: 0,
            ack_latency_ns: Histogram::new_with_bounds(1, 1_000_000_000, 3).expect("constant bounds"),
        };
        assert_eq!(tally.to_string(), "7 acked written, 0 refused, 7 held; all held already");
        assert!(tally.to_json()["ack_us"].is_null());
    }
}
