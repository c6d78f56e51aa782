//! An engine inside a program: publishers, handlers of every manner, and the account at the end.

mod isolation;
mod publishing;

use std::path::Path;
use std::time::{Duration, Instant};

use eventstream::config::{Auto, Config};
use eventstream::engine::{Engine, EngineBuilder};
use eventstream::ingest::Publisher;
use eventstream::metrics::ledger::LedgerTerms;
use eventstream::metrics::telemetry::Snapshot;
use eventstream::pool::Source;
use eventstream::report::DrainSummary;
use eventstream::sys::clock::{Clock, HostClock};

/// Small pools: several engines run at once.
fn config(folder: &Path) -> Config {
    Config {
        data_dir: folder.join("data"),
        pool_small_slots: Auto::Given(1_024),
        pool_medium_slots: Auto::Given(64),
        pool_large_slots: Auto::Given(2),
        ..Config::without_sockets()
    }
}

fn start(builder: EngineBuilder) -> (Engine, Vec<Publisher>) {
    let (mut engine, _) = builder.start().unwrap_or_else(|error| panic!("no engine: {error}"));
    let publishers = engine.publishers();
    assert!(engine.publishers().is_empty(), "each is handed out once");
    (engine, publishers)
}

fn read(engine: &Engine) -> Snapshot {
    engine.telemetry().read(HostClock.now())
}

/// Looks again and again; a minute without success is a failure.
fn wait_for(engine: &Engine, what: &str, is_there: impl Fn(&Snapshot) -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    loop {
        let snapshot = read(engine);
        if is_there(&snapshot) {
            return;
        }
        assert!(Instant::now() < give_up, "waited in vain for {what}: {snapshot:#?}");
        std::thread::sleep(Duration::from_millis(5)); // between two looks
    }
}

fn stop(engine: Engine) -> DrainSummary {
    let account = engine.stop();
    assert!(account.is_clean(), "{account}");
    account
}

fn in_process(account: &DrainSummary) -> LedgerTerms {
    let mut terms = LedgerTerms::default();
    account.ledger.terms[Source::InProcess.index()].iter().for_each(|tier| terms.add(tier));
    assert_eq!(terms, account.ledger.total(), "nothing came from anywhere else");
    terms
}
