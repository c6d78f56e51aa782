use super::*;
use crate::config::Auto;
use crate::ingest::{Publication, Refusal};
use crate::storage::log_file::DiskFolder;
use crate::storage::node_reader::NodeReader;

/// A small engine without sockets.
fn config(folder: &std::path::Path) -> Config {
    Config {
        data_dir: folder.to_owned(),
        pool_small_slots: Auto::Given(1_024),
        pool_medium_slots: Auto::Given(64),
        pool_large_slots: Auto::Given(2),
        nodes: Auto::Given(1),
        ..Config::without_sockets()
    }
}

#[test]
fn what_the_service_sends_again_keeps_its_id_and_takes_nothing_from_the_tiers() {
    let folder = tempfile::tempdir().unwrap();
    let (mut engine, _) = Engine::builder().config(config(folder.path())).publishers(1).start().unwrap();
    let capacity = engine.telemetry().read(HostClock.now()).by_label("queue_capacity", "tier");
    assert_eq!(capacity.values().collect::<Vec<_>>(), [&65_536, &16_384, &65_536], "{capacity:?}");
    let mut service = engine.service_publisher.take().expect("every engine has one");
    // More than its lanes and its slots hold, so it waits in between.
    let ids: Vec<u64> = (0..2_000).map(|n| 7 << 40 | n).collect();
    for id in &ids {
        let body = id.to_le_bytes();
        let publication = Publication::new("again", &body, Priority::Medium).again_as(*id);
        assert_eq!(service.publish(publication), Ok(*id));
    }
    let account = engine.stop();
    assert!(account.is_clean(), "{account}");
    let refused = service.publish(Publication::new("again", b"", Priority::Low)).unwrap_err();
    assert_eq!(refused.refusal, Refusal::Closed);
    assert_eq!(stored_ids(folder.path()), ids);
}

#[test]
fn an_engine_that_is_dropped_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3u64 {
        let (mut engine, _) = Engine::builder().config(config(folder.path())).publishers(1).start().unwrap();
        let mut publisher = engine.publishers().remove(0);
        publisher.publish(Publication::new("round", &round.to_le_bytes(), Priority::High)).unwrap();
        drop(engine);
        assert!(publisher.publish(Publication::new("round", b"", Priority::High)).is_err());
        assert_eq!(stored_ids(folder.path()).len() as u64, round + 1);
    }
}

fn stored_ids(folder: &std::path::Path) -> Vec<u64> {
    NodeReader::open(DiskFolder::to_read(folder), 0).unwrap().into_records().map(|record| record.unwrap().id).collect()
}
