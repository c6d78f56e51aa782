//! The REALTIME probe: an open-loop sender on a connection of its own that goes on until it is told to stop, and the inline handler that
//! stops the clock and hands every measurement over at once, for whoever looks while it runs.
//!
//! Unlike the sender of timed runs it shares its CPU with floods, so what its event waited for until it was written is kept apart.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

use super::sender::{TOPIC, stamps};
use crate::pool::EventView;
use crate::process::{AlertHandler, HandlerMode};
use crate::sys::clock::{Clock, HostClock, Nanos};
use crate::sys::process::pin_current_thread;
use crate::wire::{Priority, encode_into};

/// Measurements that may wait for the observer: a minute of them at 1000 a second.
const ARRIVALS_MAX: usize = 65_536;

/// One event, handled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// From when it was due to the handler.
    pub(super) from_due: Nanos,
    /// From `write` to the handler.
    pub(super) from_written: Nanos,
    /// When it was handled.
    pub(super) at: Nanos,
}

/// What the handler measured, in order, until the observer takes it.
pub(super) type Arrivals = Arc<ArrayQueue<Arrival>>;

/// A queue for [`ProbeHandler`] and the observer.
pub(super) fn arrivals() -> Arrivals {
    Arc::new(ArrayQueue::new(ARRIVALS_MAX))
}

/// Measures. Inline: a clock read and a push.
pub(super) struct ProbeHandler(pub(super) Arrivals);

impl AlertHandler for ProbeHandler {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn mode(&self) -> HandlerMode {
        HandlerMode::Inline
    }

    fn handle(&mut self, event: &EventView<'_>) {
        if event.topic != TOPIC {
            return;
        }
        if let Some((due, written)) = stamps(event.body) {
            let at = HostClock.now();
            // Full only when nobody observes any more.
            let _ = self.0.push(Arrival { from_due: at.since(due), from_written: at.since(written), at });
        }
    }
}

/// The sender.
pub(super) struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<u64>>,
}

impl Probe {
    /// Connects, and sends `per_second` events of priority CRITICAL from a thread on this CPU until [`Probe::finish`].
    ///
    /// # Errors
    /// No connection, or no thread.
    pub(super) fn start(engine: SocketAddr, per_second: u64, cpu: Option<u32>) -> io::Result<Probe> {
        let stream = TcpStream::connect(engine)?;
        stream.set_nodelay(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let body = move || {
            // Best effort: where it can't be pinned it runs where the scheduler wants.
            let _ = cpu.map(pin_current_thread);
            send(stream, per_second, &stopped)
        };
        let thread = std::thread::Builder::new().name("probe".into()).spawn(body)?;
        Ok(Probe { stop, thread })
    }

    /// Stops; how many events were sent.
    ///
    /// # Errors
    /// Why sending ended before.
    pub(super) fn finish(self) -> io::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the probe does not panic")
    }
}

/// Open loop: each event has its time, and one that comes late does not move those after it.
fn send(mut stream: TcpStream, per_second: u64, stop: &AtomicBool) -> io::Result<u64> {
    let interval = Nanos(1_000_000_000 / per_second.max(1));
    let mut due = HostClock.now();
    let mut frame = Vec::new();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = HostClock.now();
        if now < due {
            std::thread::sleep(Duration::from_nanos(due.since(now).0));
            continue;
        }
        frame.clear();
        let mut body = [b'.'; 64];
        body[..8].copy_from_slice(&due.0.to_be_bytes());
        body[8..16].copy_from_slice(&HostClock.now().0.to_be_bytes());
        encode_into(&mut frame, Priority::Critical, TOPIC, &body).expect("a valid frame");
        stream.write_all(&frame)?;
        sent += 1;
        due = due + interval;
    }
    Ok(sent)
}
