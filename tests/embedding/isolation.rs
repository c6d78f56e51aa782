//! Handlers that are slow, panic, or publish into their own engine: whose events pay for it, and whose don't.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eventstream::bus::Overflow;
use eventstream::config::{Config, Dedup};
use eventstream::engine::Engine;
use eventstream::ingest::{Publication, Publisher, Refusal};
use eventstream::metrics::ledger::{DropReason, LedgerTerms};
use eventstream::pool::EventView;
use eventstream::process::{AlertHandler, HandlerError, HandlerMode, TransactionalHandler};
use eventstream::wire::{Priority, Tier};

use crate::{config, in_process, read, start, stop, wait_for};

/// Lanes of 64 events, and no two events the same.
fn small_lanes(folder: &std::path::Path) -> Config {
    Config {
        realtime_capacity: 64,
        transactional_capacity: 64,
        batch_capacity: 64,
        max_queue_depth: 64,
        dedup: Dedup::Off,
        ..config(folder)
    }
}

fn lost(terms: &LedgerTerms, reason: DropReason) -> u64 {
    terms.lost[reason as usize]
}

/// Stays in its first call until it is let go, as one that waits for a database that does not answer.
struct Stuck {
    entered: Sender<()>,
    let_go: Arc<Mutex<Receiver<()>>>,
}

impl TransactionalHandler for Stuck {
    fn name(&self) -> &'static str {
        "stuck"
    }

    fn handle(&mut self, _: &EventView<'_>) -> Result<(), HandlerError> {
        // Later calls, and all once the test has ended, return at once: the other ends are gone.
        let _ = self.entered.send(());
        let _ = self.let_go.lock().unwrap().recv();
        Ok(())
    }
}

/// What the tier of a stuck handler holds before its lane is full: the lane, the helper's lane and what the helper and the processor
/// have in their hands are bounded, so this many more than enough must overflow.
const FLOOD: u64 = 4_000;

#[test]
fn a_stuck_handler_fills_its_own_lane_whose_policy_acts_while_the_other_tiers_go_on() {
    for policy in Overflow::ALL {
        let folder = tempfile::tempdir().unwrap();
        let (entered, has_entered) = channel();
        let (let_go, gate) = channel();
        let gate = Arc::new(Mutex::new(gate));
        let config = Config { transactional_overflow: policy, ..small_lanes(folder.path()) };
        let stuck = move |_| Stuck { entered: entered.clone(), let_go: gate.clone() };
        let builder = Engine::builder().config(config).transactional_handler(stuck).publishers(1);
        let (engine, mut publishers) = start(builder);
        let publisher = &mut publishers[0];
        let mut refused = 0;
        for n in 0..FLOOD {
            let order = n.to_le_bytes();
            match publisher.try_publish(Publication::new("orders/stuck", &order, Priority::Medium)) {
                Ok(_) => {}
                Err(back) => {
                    assert_eq!((back.refusal, back.publication.body), (Refusal::Lost(DropReason::QueueFull), &order[..]));
                    refused += 1;
                }
            }
        }
        has_entered.recv().unwrap();
        let trans = read(&engine).ledger.tier(Tier::Transactional);
        let overflowed = lost(&trans, DropReason::QueueFull);
        assert!(overflowed > 0, "{policy}: the lane is full");
        assert_eq!(refused, if policy == Overflow::DropOld { 0 } else { overflowed }, "{policy}");
        assert_eq!((trans.received, trans.processed), (FLOOD, 0), "{policy}");
        // Thousands of events through lanes of 64: the other tiers go round and round.
        for n in 0..2_000u64 {
            for priority in [Priority::High, Priority::Low] {
                publisher.publish(Publication::new("others", &n.to_le_bytes(), priority)).unwrap();
            }
        }
        wait_for(&engine, "the other tiers", |now| {
            [Tier::Realtime, Tier::Batch].iter().all(|tier| now.ledger.tier(*tier).stored == 2_000)
        });
        assert_eq!(read(&engine).ledger.tier(Tier::Transactional).processed, 0, "{policy}: it is stuck all the while");
        drop(let_go);
        drop(has_entered);
        let account = stop(engine);
        let trans = account.ledger.tier(Tier::Transactional);
        assert_eq!((trans.stored, lost(&trans, DropReason::QueueFull)), (FLOOD - overflowed, overflowed), "{policy}");
    }
}

struct Panicking;

impl AlertHandler for Panicking {
    fn name(&self) -> &'static str {
        "panicking alert"
    }
    fn handle(&mut self, _: &EventView<'_>) {
        panic!("no alert");
    }
}

impl TransactionalHandler for Panicking {
    fn name(&self) -> &'static str {
        "panicking order"
    }
    fn handle(&mut self, _: &EventView<'_>) -> Result<(), HandlerError> {
        panic!("no order");
    }
}

/// Panics in a row that disable a handler.
const PANICS_MAX: u64 = 100;

#[test]
fn a_handler_that_panics_is_disabled_loudly_and_the_engine_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { dedup: Dedup::Off, ..config(folder.path()) };
    let builder =
        Engine::builder().config(config).alert_handler(|_| Panicking).transactional_handler(|_| Panicking).publishers(1);
    let (mut engine, mut publishers) = start(builder);
    let events = PANICS_MAX + 50;
    for n in 0..events {
        for priority in [Priority::High, Priority::Medium, Priority::Low] {
            publishers[0].publish(Publication::new("to/panic", &n.to_le_bytes(), priority)).unwrap();
        }
    }
    wait_for(&engine, "all of them", |now| now.in_flight == 0);
    let mut lines = Vec::new();
    assert_eq!(engine.watch(&mut |level, line| lines.push((level, line))), None, "nothing ends the engine");
    for name in ["panicking alert", "panicking order"] {
        let disabled = |(level, line): &(log::Level, String)| {
            *level == log::Level::Error && line.contains(name) && line.contains("DISABLED")
        };
        assert!(lines.iter().any(disabled), "{name}: {lines:?}");
    }
    let account = stop(engine);
    // A missed alert costs the events that panicked; an order that nobody processed must not look processed.
    let [alerts, orders, batch] = Tier::ALL.map(|tier| account.ledger.tier(tier));
    assert_eq!((lost(&alerts, DropReason::HandlerPanic), alerts.stored), (PANICS_MAX, events - PANICS_MAX));
    assert_eq!((lost(&orders, DropReason::HandlerPanic), orders.stored), (events, 0));
    assert_eq!(batch.stored, events);
    assert_eq!(account.dead_letters.written, PANICS_MAX + events);
}

/// Publishes two more events for each one that it handles, as long as their number allows.
struct Breeder {
    mode: HandlerMode,
    /// Comes when the engine has started.
    publisher: Arc<Mutex<Option<Publisher>>>,
    gave_up: Arc<AtomicU64>,
}

/// Generations below the first.
const GENERATIONS: u8 = 6;

impl TransactionalHandler for Breeder {
    fn name(&self) -> &'static str {
        "breeder"
    }

    fn mode(&self) -> HandlerMode {
        self.mode
    }

    fn handle(&mut self, event: &EventView<'_>) -> Result<(), HandlerError> {
        let generation = event.body[0];
        if generation == GENERATIONS {
            return Ok(());
        }
        let mut publisher = self.publisher.lock().unwrap();
        let publisher = publisher.as_mut().ok_or(HandlerError::new("the engine has just started"))?;
        for _ in 0..2 {
            match publisher.publish(Publication::new("children", &[generation + 1], Priority::Medium)) {
                Ok(_) => {}
                Err(refused) if matches!(refused.refusal, Refusal::WouldBlock | Refusal::Lost(_)) => {
                    self.gave_up.fetch_add(1, Ordering::Relaxed);
                }
                Err(refused) => return Err(HandlerError::new(refused)),
            }
        }
        Ok(())
    }
}

#[test]
fn a_handler_that_publishes_into_its_own_full_tier_cannot_deadlock_it() {
    for policy in Overflow::ALL {
        for (mode, flow_control) in [(HandlerMode::Inline, true), (HandlerMode::Offloaded, false)] {
            let folder = tempfile::tempdir().unwrap();
            let tcp_flow_control = if flow_control { eventstream::config::OnOff::On } else { eventstream::config::OnOff::Off };
            let config = Config { transactional_overflow: policy, tcp_flow_control, ..small_lanes(folder.path()) };
            let (of_handler, gave_up): (Arc<Mutex<Option<Publisher>>>, Arc<AtomicU64>) = Default::default();
            let (publisher, counter) = (of_handler.clone(), gave_up.clone());
            let breeder = move |_| Breeder { mode, publisher: publisher.clone(), gave_up: counter.clone() };
            let builder = Engine::builder().config(config).transactional_handler(breeder).publishers(2);
            let (engine, mut publishers) = start(builder);
            *of_handler.lock().unwrap() = publishers.pop();
            for _ in 0..500 {
                let _ = publishers[0].publish(Publication::new("ancestors", &[0], Priority::Medium));
            }
            wait_for(&engine, "the last generation", |now| now.in_flight == 0);
            let terms = in_process(&stop(engine));
            assert!(terms.received > 500, "{policy} {mode:?}: some had children");
            let not_stored = lost(&terms, DropReason::QueueFull);
            assert_eq!(terms.stored + not_stored, terms.received, "{policy} {mode:?}");
            assert!(gave_up.load(Ordering::Relaxed) + not_stored > 0, "{policy} {mode:?}: the lanes were full");
        }
    }
}

/// Breaks its promise to take less than 10 µs.
struct Slow;

impl AlertHandler for Slow {
    fn name(&self) -> &'static str {
        "slow inline"
    }
    fn mode(&self) -> HandlerMode {
        HandlerMode::Inline
    }
    fn handle(&mut self, _: &EventView<'_>) {
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(50) {}
    }
}

#[test]
fn an_inline_handler_over_its_budget_is_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (mut engine, mut publishers) =
        start(Engine::builder().config(config(folder.path())).alert_handler(|_| Slow).publishers(1));
    for n in 0..100u32 {
        publishers[0].publish(Publication::new("alarms", &n.to_le_bytes(), Priority::High)).unwrap();
    }
    wait_for(&engine, "all of them", |now| now.ledger.total().stored == 100);
    assert!(read(&engine).by_label("handler_over_budget", "handler")["slow inline"] > 0);
    let mut lines = Vec::new();
    engine.watch(&mut |_, line| lines.push(line));
    assert!(lines.iter().any(|line| line.contains("`slow inline` was over its budget")), "{lines:?}");
    stop(engine);
}
