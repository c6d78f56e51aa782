//! What was sent.

use std::fmt;
use std::time::Duration;

use super::{Plan, Transport};
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

/// The outcome of a run of `send`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SendSummary {
    /// What the kernel took.
    pub sent: Tally,
    /// From the first connection to the last confirmation.
    pub elapsed: Duration,
    /// `tcp` or `udp`.
    pub transport: &'static str,
    /// Connections or sockets.
    pub connections: usize,
    /// TCP connections that the receiver had not closed in time: it may not have read everything.
    pub unconfirmed_connections: usize,
}

impl SendSummary {
    pub(super) fn new(plan: &Plan, sent: Tally, unconfirmed_connections: usize, elapsed: Duration) -> SendSummary {
        let transport = match plan.transport {
            Transport::Tcp(_) => "tcp",
            Transport::Udp(_) => "udp",
        };
        SendSummary { sent, elapsed, transport, connections: plan.connections, unconfirmed_connections }
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
        let summary = SendSummary { sent, elapsed, transport: "tcp", connections: 8, unconfirmed_connections: 1 };
        let text = summary.to_string();
        assert!(text.starts_with("sent 10 events, 800 bytes in 0.500 s: 20 events/s (8 tcp, 1 HIGH, 6 MEDIUM, 3 LOW)"), "{text}");
        assert!(text.contains("warning: 1 connections"));
        let json: serde_json::Value = serde_json::from_str(&summary.to_json()).unwrap();
        assert_eq!(json["events"], 10);
        assert_eq!(json["events_by_priority"]["medium"], 6);
        assert_eq!(json["events_per_second"], 20.0);
    }
}
