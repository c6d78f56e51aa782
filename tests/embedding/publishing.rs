//! Publishers: what they publish, and how their time ends.

use std::collections::BTreeSet;

use eventstream::config::{Auto, Config};
use eventstream::engine::{Engine, EngineError};
use eventstream::ingest::{Publication, Refusal};
use eventstream::wire::{Priority, Tier};

use crate::{config, in_process, start, stop, wait_for};

#[test]
fn what_publishers_publish_is_stored_each_under_an_id_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, publishers) = start(Engine::builder().config(config(folder.path())).publishers(2));
    assert_eq!(publishers.len(), 2);
    let threads: Vec<_> = publishers
        .into_iter()
        .enumerate()
        .map(|(publisher, mut to)| {
            std::thread::spawn(move || {
                let publish = |n: u32| {
                    let priority = Priority::from_byte((n % 5) as u8).unwrap();
                    let body = format!("{publisher} {n}");
                    to.publish(Publication::new("in/process", body.as_bytes(), priority)).unwrap()
                };
                (0..5_000).map(publish).collect::<Vec<u64>>()
            })
        })
        .collect();
    let ids: BTreeSet<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(ids.len(), 10_000);
    wait_for(&engine, "all of them", |now| now.ledger.total().stored == 10_000 && now.in_flight == 0);
    let terms = in_process(&stop(engine));
    assert_eq!((terms.received, terms.stored), (10_000, 10_000));
}

#[test]
fn a_stop_under_load_stores_all_that_was_published_and_gives_the_rest_back() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, publishers) = start(Engine::builder().config(config(folder.path())).publishers(3));
    let threads: Vec<_> = publishers
        .into_iter()
        .enumerate()
        .map(|(publisher, mut to)| {
            std::thread::spawn(move || {
                for n in 0u64.. {
                    let body = format!("{publisher} {n}");
                    let priority = Priority::from_byte((n % 5) as u8).unwrap();
                    if let Err(refused) = to.publish(Publication::new("until/closed", body.as_bytes(), priority)) {
                        assert_eq!((refused.refusal, refused.publication.body), (Refusal::Closed, body.as_bytes()));
                        return n;
                    }
                }
                unreachable!("closed before it has published 2^64 events")
            })
        })
        .collect();
    wait_for(&engine, "a flow", |now| Tier::ALL.iter().all(|tier| now.ledger.tier(*tier).stored > 500));
    let account = stop(engine);
    let published: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let terms = in_process(&account);
    assert_eq!((terms.received, terms.stored), (published, published));
}

#[test]
fn an_engine_without_sockets_needs_publishers() {
    let folder = tempfile::tempdir().unwrap();
    let refused = Engine::builder().config(config(folder.path())).start().err().expect("no event could come in");
    assert!(refused.is_configuration() && refused.to_string().contains("or start the engine with publishers"), "{refused}");
}

#[test]
fn more_publishers_than_lanes_are_refused_with_the_number_that_is_possible() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { realtime_capacity: 4, max_queue_depth: 4, ..config(folder.path()) };
    let refused = Engine::builder().config(config).publishers(4).start().err().expect("one lane is the reactor's");
    assert!(matches!(refused, EngineError::TooManyPublishers { publishers: 4, most: 3 }), "{refused}");
}

#[test]
fn publishers_are_spread_over_the_nodes_each_of_which_has_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { nodes: Auto::Given(2), ..config(folder.path()) };
    let data = config.data_dir.clone();
    let (engine, mut publishers) = start(Engine::builder().config(config).publishers(3));
    let mut ids = BTreeSet::new();
    for (number, publisher) in publishers.iter_mut().enumerate() {
        for n in 0..100u32 {
            let body = format!("{number} {n}");
            ids.insert(publisher.publish(Publication::new("spread", body.as_bytes(), Priority::Medium)).unwrap());
        }
    }
    assert_eq!(ids.len(), 300);
    let account = stop(engine);
    assert_eq!(account.ledger.total().stored, 300);
    let written: Vec<u64> = account.logs.iter().map(|log| log.written_sequence).collect();
    assert_eq!(written, [200, 100], "two publishers on the first node, one on the second");
    assert!(data.join("events.node1.bin").exists());
}
