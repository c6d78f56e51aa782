//! As fast as the peer takes them: how many events a second are stored, and who was busy meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::cpu::taken_ns;
use super::peer::{Failure, Peer, Proof};

/// When no connection moves: the kernel's default timer slack. Buffers of megabytes last longer.
const NAP: Duration = Duration::from_micros(50);
/// How long what was sent may take to be stored.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Plan {
    pub address: SocketAddr,
    pub server_pid: u32,
    pub connections: usize,
    /// For how long events are given; the run ends when they are stored.
    pub span: Duration,
}

/// What came of it.
pub struct Outcome {
    events: u64,
    /// Of them, how many were stored when the clock was stopped: all where answers tell, nine tenths and more where one looks.
    stored: u64,
    took: Duration,
    server_share: f64,
    sender_share: f64,
}

impl Outcome {
    pub fn to_json(&self) -> String {
        let per_second = self.stored as f64 / self.took.as_secs_f64();
        format!(
            "{{\"events\":{},\"seconds\":{:.3},\"stored_per_second\":{per_second:.0},\"server_core\":{:.2},\"sender_core\":{:.2}}}",
            self.events,
            self.took.as_secs_f64(),
            self.server_share,
            self.sender_share
        )
    }
}

/// Stops the clock, and those of the CPU.
struct Clock {
    began: Instant,
    server: String,
    before: [u64; 2],
}

impl Clock {
    fn start(server_pid: u32) -> Clock {
        let server = server_pid.to_string();
        let before = [taken_ns(&server), taken_ns("self")];
        Clock { began: Instant::now(), server, before }
    }

    fn stop(&self, events: u64, stored: u64) -> Outcome {
        let took = self.began.elapsed();
        let share = |now: u64, before: u64| now.saturating_sub(before) as f64 / took.as_nanos() as f64;
        let [server_share, sender_share] =
            [share(taken_ns(&self.server), self.before[0]), share(taken_ns("self"), self.before[1])];
        Outcome { events, stored, took, server_share, sender_share }
    }
}

pub fn run(peer: &mut dyn Peer, plan: &Plan) -> Result<Outcome, Failure> {
    let open = |number| Connection::open(peer, plan.address, number);
    let mut connections = (0..plan.connections).map(open).collect::<Result<Vec<_>, _>>()?;
    let clock = Clock::start(plan.server_pid);
    match peer.proof() {
        Proof::Answers { window_events } => {
            write_all(peer, plan, &clock, &mut connections, Some(window_events))?;
            let events = connections.iter().map(|connection| connection.answered).sum();
            Ok(clock.stop(events, events))
        }
        Proof::Looks { every } => {
            write_all(peer, plan, &clock, &mut connections, None)?;
            connections.iter().try_for_each(Connection::shut)?;
            connections.iter_mut().try_for_each(Connection::wait_for_end)?;
            look(peer, &clock, connections.iter().map(|connection| connection.sent).sum(), every)
        }
    }
}

/// Gives events for as long as the plan says, and goes on until all are written and, where there is a window, answered for.
fn write_all(
    peer: &mut dyn Peer,
    plan: &Plan,
    clock: &Clock,
    connections: &mut [Connection],
    window_events: Option<u64>,
) -> Result<(), Failure> {
    loop {
        let is_over = clock.began.elapsed() >= plan.span;
        let mut moved = false;
        for connection in &mut *connections {
            if window_events.is_some() && connection.waiting() > 0 {
                moved |= connection.read(peer)? > 0;
            }
            if !is_over && connection.is_written() {
                let room = window_events.map_or(u64::MAX, |window| window - connection.waiting());
                // Not one for each answer: a quarter of the window, or a whole write.
                let enough = window_events.map_or(1, |window| (window / 4).clamp(1, connection.write_events()));
                if room >= enough {
                    connection.give(room.min(connection.write_events()));
                }
            }
            moved |= connection.write()?;
        }
        let is_done = |connection: &Connection| connection.is_written() && (window_events.is_none() || connection.waiting() == 0);
        if is_over && connections.iter().all(is_done) {
            return Ok(());
        }
        if clock.began.elapsed() > plan.span + PATIENCE {
            return Err("what was sent is not taken or answered for in a minute".into());
        }
        if !moved {
            std::thread::sleep(NAP);
        }
    }
}

/// Stops the clock at the first look that finds nine tenths, so that what is on its way there at the end does not count; then sees that the
/// rest comes too.
fn look(peer: &mut dyn Peer, clock: &Clock, sent: u64, every: Duration) -> Result<Outcome, Failure> {
    let give_up = Instant::now() + PATIENCE;
    let mut outcome = None;
    loop {
        let stored = peer.stored()?;
        if outcome.is_none() && stored >= sent / 10 * 9 {
            outcome = Some(clock.stop(sent, stored));
        }
        match outcome {
            Some(outcome) if stored == sent => return Ok(outcome),
            _ if stored > sent || Instant::now() > give_up => return Err(format!("{stored} of {sent} events are stored").into()),
            _ => std::thread::sleep(every),
        }
    }
}
