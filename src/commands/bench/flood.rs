//! Floods: senders of events on a CPU of their own, each with a tap that says how fast.
//!
//! All of them run at nice 19, so that the probe, which shares their CPU, is sent on time.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ingest::{Publication, Publisher, Refusal};
use crate::sys::process::{helper_thread_setup, pin_current_thread};
use crate::wire::{Priority, encode_into};

/// Bytes of a body: a counter, which makes each event one of its own, and filling.
const BODY_BYTES: usize = 64;

/// Events sent between two looks at the tap.
const EVENTS_PER_LOOK: u64 = 256;

/// What was not used of a rate is kept for this long.
const CATCH_UP: Duration = Duration::from_millis(20);

/// How long a TCP flood that is stopped tries to get the rest of its last block out.
const LAST_BLOCK_PATIENCE: Duration = Duration::from_secs(5);

/// How fast a flood is, and how far.
#[derive(Debug, Default)]
pub(super) struct Tap {
    per_second: AtomicU64,
    burst: AtomicU64,
    offered: AtomicU64,
    stop: AtomicBool,
}

impl Tap {
    /// As fast as the sender can.
    pub(super) const FLAT_OUT: u64 = u64::MAX;

    /// Sets the rate, events per second; 0 closes the tap.
    pub(super) fn set(&self, per_second: u64) {
        self.per_second.store(per_second, Relaxed);
    }

    /// So many events beside the rate, as fast as the sender can. What is left of an earlier burst is forgotten.
    pub(super) fn burst(&self, events: u64) {
        self.burst.store(events, Relaxed);
    }

    /// Events offered to the engine so far.
    pub(super) fn offered(&self) -> u64 {
        self.offered.load(Relaxed)
    }
}

/// A flood's thread.
pub(super) struct Flood {
    /// Its tap.
    pub(super) tap: Arc<Tap>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flood {
    fn start(name: &str, cpu: Option<u32>, send: impl FnOnce(&Tap) -> io::Result<()> + Send + 'static) -> io::Result<Flood> {
        let tap: Arc<Tap> = Arc::default();
        let of_thread = tap.clone();
        let body = move || {
            helper_thread_setup();
            // Best effort: where it can't be pinned it runs where the scheduler wants.
            let _ = cpu.map(pin_current_thread);
            send(&of_thread)
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Flood { tap, thread })
    }

    /// Datagrams of one event each.
    ///
    /// # Errors
    /// No socket, or no thread.
    pub(super) fn udp(engine: SocketAddr, priority: Priority, cpu: Option<u32>) -> io::Result<Flood> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(engine)?;
        Self::start("flood-udp", cpu, move |tap| {
            let mut frame = Vec::new();
            run(tap, |numbers| {
                let send = |number| {
                    frame.clear();
                    encode_into(&mut frame, priority, "flood/udp", &body(number)).expect("a valid frame");
                    // A full send queue is the host's, and the event was never offered.
                    u64::from(socket.send(&frame).is_ok())
                };
                Ok(numbers.map(send).sum())
            })
        })
    }

    /// One connection, on which it waits when the engine makes it.
    ///
    /// # Errors
    /// No connection, or no thread.
    pub(super) fn tcp(engine: SocketAddr, priority: Priority, cpu: Option<u32>) -> io::Result<Flood> {
        let mut stream = TcpStream::connect(engine)?;
        stream.set_write_timeout(Some(Duration::from_millis(100)))?;
        Self::start("flood-tcp", cpu, move |tap| {
            let mut block = Vec::new();
            run(tap, |numbers| {
                let events = numbers.end - numbers.start;
                block.clear();
                for number in numbers {
                    encode_into(&mut block, priority, "flood/tcp", &body(number)).expect("a valid frame");
                }
                write_whole(&mut stream, &block, tap)?;
                Ok(events)
            })
        })
    }

    /// `try_publish`.
    ///
    /// # Errors
    /// No thread.
    pub(super) fn in_process(mut publisher: Publisher, priority: Priority, cpu: Option<u32>) -> io::Result<Flood> {
        Self::start("flood-publisher", cpu, move |tap| {
            run(tap, |numbers| {
                let mut publish = |number| {
                    let body = body(number);
                    let refused = publisher.try_publish(Publication::new("flood/orders", &body, priority)).err();
                    u64::from(refused.is_none_or(|refused| refused.refusal != Refusal::Closed))
                };
                Ok(numbers.map(&mut publish).sum())
            })
        })
    }

    /// Ends it.
    ///
    /// # Errors
    /// Why it ended before, or that the last block was not taken in time.
    pub(super) fn finish(self) -> io::Result<u64> {
        self.tap.stop.store(true, Relaxed);
        self.thread.join().expect("a flood does not panic")?;
        Ok(self.tap.offered())
    }
}

fn body(number: u64) -> [u8; BODY_BYTES] {
    let mut body = [b'.'; BODY_BYTES];
    body[..8].copy_from_slice(&number.to_be_bytes());
    body
}

/// Sends by the tap until it is told to stop. `send` gets the numbers of the events that are due, and returns how many it has offered.
fn run(tap: &Tap, mut send: impl FnMut(Range<u64>) -> io::Result<u64>) -> io::Result<()> {
    let (mut owed, mut looked_at, mut number) = (0.0, Instant::now(), 0);
    while !tap.stop.load(Relaxed) {
        let now = Instant::now();
        let passed = (now - looked_at).as_secs_f64();
        looked_at = now;
        let rate = tap.per_second.load(Relaxed);
        let burst = tap.burst.load(Relaxed);
        let due = if rate == Tap::FLAT_OUT || burst > 0 {
            // A new burst that comes in between is shortened by one look.
            tap.burst.store(burst.saturating_sub(EVENTS_PER_LOOK), Relaxed);
            EVENTS_PER_LOOK
        } else {
            owed = (owed + passed * rate as f64).min(1.0 + CATCH_UP.as_secs_f64() * rate as f64);
            (owed as u64).min(EVENTS_PER_LOOK)
        };
        if due == 0 {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        owed = (owed - due as f64).max(0.0);
        tap.offered.fetch_add(send(number..number + due)?, Relaxed);
        number += due;
    }
    Ok(())
}

/// Writes all of a block, however long the engine makes it wait; once stopped, not for ever.
fn write_whole(stream: &mut TcpStream, mut block: &[u8], tap: &Tap) -> io::Result<()> {
    let mut stopped_at = None;
    while !block.is_empty() {
        match stream.write(block) {
            Ok(written) => block = &block[written..],
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if tap.stop.load(Relaxed) && stopped_at.get_or_insert_with(Instant::now).elapsed() > LAST_BLOCK_PATIENCE {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
