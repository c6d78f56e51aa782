//! Agent threads allocate nothing once they are warm: a whole engine under a global allocator that counts by thread name.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use eventstream::config::{Auto, Config};
use eventstream::engine::Engine;
use eventstream::report::DrainCause;
use eventstream::sys::clock::{Clock, HostClock};
use eventstream::wire::{Priority, encode_into};

static ARMED: AtomicBool = AtomicBool::new(false);
static ON_AGENT_THREADS: AtomicU64 = AtomicU64::new(0);

struct Counting;

/// Whether this is a runner: their threads are named by node, `n0-…`.
fn is_agent_thread() -> bool {
    let mut name = [0u8; 16];
    // SAFETY: PR_GET_NAME writes at most 16 bytes to the buffer.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name.starts_with(b"n0-")
}

// SAFETY: hands everything to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if ARMED.load(SeqCst) && is_agent_thread() {
            ON_AGENT_THREADS.fetch_add(1, SeqCst);
        }
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about `place` and `layout` is passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn agent_threads_allocate_nothing_after_warm_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = Config {
        tcp_listen: Some("127.0.0.1:0".parse().expect("an address")),
        udp_listen: None,
        admin_listen: None,
        data_dir: folder.path().join("data"),
        pool_small_slots: Auto::Given(16_384),
        pool_medium_slots: Auto::Given(2_048),
        pool_large_slots: Auto::Given(4),
        window_ms: 50,
        ..Config::default()
    };
    let (engine, report) = Engine::builder().config(config).start().expect("an engine");
    let tcp = report.tcp.expect("it listens");
    let warm = 50_000;
    let counted = 200_000;
    send(tcp, 0..warm);
    wait_stored(&engine, u64::from(warm));
    ARMED.store(true, SeqCst);
    send(tcp, warm..warm + counted);
    wait_stored(&engine, u64::from(warm + counted));
    ARMED.store(false, SeqCst);
    assert_eq!(ON_AGENT_THREADS.load(SeqCst), 0, "allocations on agent threads");
    assert!(engine.drain(DrainCause::Signal("the test's end")).is_clean());
}

/// Events of all priorities and three size classes over four connections, frames cut wherever a write ends.
fn send(tcp: std::net::SocketAddr, numbers: std::ops::Range<u32>) {
    let mut streams: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(tcp).expect("the engine accepts")).collect();
    let mut bytes = Vec::new();
    for (place, n) in numbers.enumerate() {
        let body = format!("event {n} {}", "x".repeat(if n % 97 == 0 { 1_000 } else { (n % 100) as usize }));
        let priority = Priority::from_byte((n % 5) as u8).expect("five priorities");
        encode_into(&mut bytes, priority, &format!("no/allocation/{}", n % 16), body.as_bytes()).expect("a valid frame");
        if bytes.len() > 16 << 10 {
            streams[place % 4].write_all(&bytes).expect("the engine reads");
            bytes.clear();
        }
    }
    streams[0].write_all(&bytes).expect("the engine reads");
}

fn wait_stored(engine: &Engine, events: u64) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while engine.telemetry().read(HostClock.now()).ledger.total().stored < events {
        assert!(Instant::now() < give_up, "waited in vain for {events} stored events");
        std::thread::sleep(Duration::from_millis(10)); // between two looks
    }
}
