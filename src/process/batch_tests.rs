use std::sync::mpsc;

use super::*;
use crate::pool::EventKey;
use crate::process::handler::WindowHandler;
use crate::process::test_support::{Bench, FakeRing, TestPool};
use crate::process::window::{ClosedWindow, WindowDefinition};
use crate::process::window_log::WindowLogOptions;
use crate::wire::Priority;

const WINDOW: Nanos = Nanos::from_millis(5_000);

/// Reports each window; waits for permission first when it is told to.
struct Reporter {
    windows: mpsc::Sender<(String, u64, Nanos)>,
    gate: Option<mpsc::Receiver<()>>,
}

impl WindowHandler for Reporter {
    fn name(&self) -> &'static str {
        "reporter"
    }
    fn window_closed(&mut self, window: &ClosedWindow<'_>) {
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        self.windows.send((window.group.to_owned(), window.events, window.length)).unwrap();
    }
}

struct Set {
    bench: Bench,
    agent: Batch,
    windows: mpsc::Receiver<(String, u64, Nanos)>,
    folder: tempfile::TempDir,
}

fn set(topics_max: usize, gate: Option<mpsc::Receiver<()>>, inlet_events: usize) -> Set {
    let folder = tempfile::tempdir().unwrap();
    let (mut bench, wiring) = Bench::new(TestPool::new(), inlet_events);
    let (sender, windows) = mpsc::channel();
    let definitions = vec![WindowDefinition { groups_max: topics_max, ..WindowDefinition::topics(WINDOW) }];
    let options = WindowLogOptions { definitions, ..WindowLogOptions::new(folder.path().join("windows.jsonl")) };
    let handler = Box::new(Reporter { windows: sender, gate });
    let log = WindowLog::open(&options, Some(handler), bench.counters.clone()).unwrap();
    let mut agent = Batch::new(BatchOptions::default(), log, wiring);
    bench.advance(Nanos(1_000_000));
    bench.start(&mut agent);
    Set { bench, agent, windows, folder }
}

impl Set {
    fn send(&mut self, id: u64, topic: &str, body: &[u8]) {
        self.bench.send_new(Priority::Low, id, topic, body);
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder.path().join("windows.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn a_window_closes_on_time_even_if_nothing_arrives() {
    let mut set = set(16, None, 256);
    set.send(1, "a", b"12345");
    set.send(2, "b", b"1");
    set.send(3, "a", b"123");
    let work = set.bench.poll_all(&mut set.agent);
    assert_eq!(set.bench.store(64), [1, 2, 3]);
    assert!(work.next_deadline.unwrap() <= Nanos(1_000_000) + WINDOW);
    set.bench.advance(WINDOW);
    set.bench.poll_all(&mut set.agent);
    assert_eq!(set.windows.recv().unwrap(), ("a".into(), 2, WINDOW));
    assert_eq!(set.windows.recv().unwrap(), ("b".into(), 1, WINDOW));
    set.bench.drain(&mut set.agent);
    let lines = set.lines();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["group"], &lines[0]["body_bytes"], &lines[0]["events_per_s"]), (&"a".into(), &8.into(), &0.4.into()));
    assert_eq!(lines[0]["start_unix_ns"], 1_000_001_000_000u64);
    assert_eq!(set.bench.counters.batch.windows_closed.get(), 2);
    assert_eq!(set.bench.counters.window_log.written.get(), 2);
}

#[test]
fn events_after_the_end_belong_to_the_next_window() {
    let mut set = set(16, None, 256);
    set.send(1, "a", b"");
    set.bench.poll_all(&mut set.agent);
    // Two and a half windows later: the first closes, an empty one is skipped, this event opens its own.
    set.bench.advance(Nanos(WINDOW.0 * 5 / 2));
    set.send(2, "a", b"");
    set.bench.poll_all(&mut set.agent);
    assert_eq!(set.windows.recv().unwrap(), ("a".into(), 1, WINDOW));
    // The handler was called, but the table may still be on its way back; without it the closing would be put off.
    while !set.agent.window_log().is_idle() {
        std::thread::yield_now();
    }
    set.bench.advance(Nanos(WINDOW.0 / 2));
    set.bench.poll_all(&mut set.agent);
    assert_eq!(set.windows.recv().unwrap(), ("a".into(), 1, WINDOW));
    set.bench.drain(&mut set.agent);
    let starts: Vec<u64> = set.lines().iter().map(|line| line["start_unix_ns"].as_u64().unwrap()).collect();
    assert_eq!(starts[1] - starts[0], 2 * WINDOW.0);
}

#[test]
fn drain_closes_and_writes_the_open_window() {
    let mut set = set(16, None, 256);
    set.send(1, "a", b"");
    set.bench.poll_all(&mut set.agent);
    set.bench.advance(Nanos::from_millis(1_000));
    set.bench.drain(&mut set.agent);
    assert_eq!(set.lines()[0]["length_ns"], 1_000_000_000);
}

#[test]
fn topics_beyond_the_bound_lose_their_row_and_no_event() {
    let mut set = set(2, None, 256);
    for (id, topic) in (0..).zip(["a", "b", "c", "a", "d", "c"]) {
        set.send(id, topic, b"");
    }
    set.bench.drain(&mut set.agent);
    assert_eq!(set.bench.counters.batch.topic_limit.get(), 3);
    assert_eq!((set.bench.pool.terms().stored, set.lines().len()), (6, 2));
}

#[test]
fn a_slow_writer_makes_the_window_longer_and_loses_nothing() {
    let (open, gate) = mpsc::channel();
    let mut set = set(16, Some(gate), 256);
    for id in 0..3 {
        set.send(id, "a", b"");
        set.bench.poll(&mut set.agent);
        set.bench.advance(WINDOW);
        set.bench.poll(&mut set.agent);
    }
    assert_eq!(set.bench.counters.batch.windows_extended.get(), 1);
    drop(open);
    set.bench.drain(&mut set.agent);
    let windows: Vec<_> = set.windows.try_iter().collect();
    assert_eq!(windows, [("a".into(), 1, WINDOW), ("a".into(), 2, Nanos(2 * WINDOW.0))]);
}

#[test]
fn a_full_inlet_stops_the_processor_and_loses_nothing() {
    let mut set = set(16, None, 16);
    (0..300).for_each(|id| set.send(id, "t", b"x"));
    set.bench.poll_all(&mut set.agent);
    assert!(set.agent.receiver.depth() >= 300 - 16 - crate::process::POLL_EVENTS_MAX);
    let mut stored = Vec::new();
    while stored.len() < 300 {
        stored.extend(set.bench.store(7));
        set.bench.poll(&mut set.agent);
        set.bench.check_ledger(&set.agent);
    }
    assert_eq!(stored, (0..300).collect::<Vec<_>>());
    set.bench.drain(&mut set.agent);
}

#[test]
fn an_idle_processor_asks_for_no_poll() {
    let mut set = set(16, None, 16);
    assert_eq!(set.bench.poll_all(&mut set.agent), Work::IDLE);
    set.bench.advance(Nanos(10 * WINDOW.0));
    assert_eq!(set.bench.poll_all(&mut set.agent), Work::IDLE);
    assert_eq!(Agent::<FakeRing>::holding(&set.agent), Holding::default());
}

#[test]
fn a_refused_write_is_counted_and_the_next_one_tried() {
    let folder = tempfile::tempdir().unwrap();
    let [here, away] = ["here", "away"].map(|name| folder.path().join(name));
    std::fs::create_dir(&here).unwrap();
    let (mut bench, wiring) = Bench::new(TestPool::new(), 0);
    let log = WindowLog::open(&WindowLogOptions::new(here.join("windows.jsonl")), None, bench.counters.clone()).unwrap();
    let mut agent = Batch::new(BatchOptions::default(), log, wiring);
    bench.start(&mut agent);
    for (id, (from, to)) in [(&here, &away), (&away, &here)].into_iter().enumerate() {
        // Without its folder the file can't be opened.
        std::fs::rename(from, to).unwrap();
        bench.send_new(Priority::Batch, id as u64, "t", b"");
        bench.drain(&mut agent);
    }
    assert_eq!((bench.counters.window_log.lost.get(), bench.counters.window_log.written.get()), (1, 1));
    assert_eq!(bench.pool.terms().handled, 2);
}

#[test]
fn a_replayed_event_is_counted_into_its_window_and_stored_once() {
    let mut set = set(16, None, 256);
    for (id, key) in [(0, 7), (1, 8), (2, 7)] {
        set.bench.send_keyed(Priority::Low, id, "a", b"12345", EventKey::new(key));
    }
    set.bench.poll_all(&mut set.agent);
    set.bench.store(64);
    set.bench.send_keyed(Priority::Low, 3, "a", b"12345", EventKey::new(8));
    set.bench.drain(&mut set.agent);
    assert_eq!(set.bench.stored, [0, 1]);
    assert_eq!(set.bench.pool.terms().duplicate, 2);
    let (topic, events, _) = set.windows.recv().unwrap();
    assert_eq!((topic.as_str(), events), ("a", 2));
}
