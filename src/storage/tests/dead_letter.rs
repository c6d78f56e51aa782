use std::sync::Arc;

use base64::Engine as _;

use crate::metrics::ledger::DropReason;
use crate::pool::{Event, PoolOwner};
use crate::storage::dead_letter::line::{DeadLetter, SampleKind};
use crate::storage::dead_letter::reader::LetterReader;
use crate::storage::dead_letter::{Collected, DeadLetterOptions, DeadLetterQueue, Note};
use crate::storage::folder::OpenRefusal;
use crate::storage::testing::{header, small_pool};
use crate::sys::clock::{Nanos, WallNanos};
use crate::wire::Tier;

fn event(owner: &mut PoolOwner, id: u64, topic: &str, body: &[u8]) -> Event {
    owner.store(header(id, Tier::Realtime, topic, body), &[topic.as_bytes(), body].concat()).unwrap()
}

#[test]
fn a_letter_becomes_one_line_of_json_with_all_it_needs_to_be_replayed() {
    let place = tempfile::tempdir().unwrap();
    let (pool, mut owner) = small_pool(64);
    let options = DeadLetterOptions::new(place.path().join("dlq_log.txt"));
    let queue = DeadLetterQueue::start(&options, vec![pool], || ()).unwrap();
    let mut sender = queue.sender(0);
    let body = b"\x00\xff \"quoted\"\n";
    sender.send(event(&mut owner, 7, "a/\"b\"", body), DropReason::ProcessingFailed, Note::new("why \"so\"\n"));
    sender.send(event(&mut owner, 8, "t", b""), DropReason::QueueFull, Note::EMPTY);
    let counters = queue.counters().clone();
    queue.stop();
    let text = std::fs::read_to_string(&options.path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["reason"], &lines[0]["tier"]), (&"processing_failed".into(), &"realtime".into()));
    assert_eq!((&lines[0]["id"], &lines[0]["topic"], &lines[0]["note"]), (&7.into(), &"a/\"b\"".into(), &"why \"so\"\n".into()));
    let decoded = base64::engine::general_purpose::STANDARD.decode(lines[0]["body"].as_str().unwrap()).unwrap();
    assert_eq!(decoded, body);
    assert_eq!(lines[1]["reason"], "queue_full");
    assert_eq!((counters.sent(), counters.written.get(), counters.lost()), (2, 2, 0));
    owner.collect();
    assert_eq!(owner.events_out(), 0);
}

#[test]
fn every_letter_of_several_threads_is_written_or_counted() {
    let place = tempfile::tempdir().unwrap();
    let (pool, mut owner) = small_pool(2048);
    let options = DeadLetterOptions { queue_letters: 64, ..DeadLetterOptions::new(place.path().join("dlq_log.txt")) };
    let queue = DeadLetterQueue::start(&options, vec![pool], || ()).unwrap();
    let events: Vec<Vec<Event>> =
        (0..3u64).map(|t| (0..500).map(|n| event(&mut owner, t * 500 + n, "t", b"body")).collect()).collect();
    std::thread::scope(|scope| {
        for events in events {
            let mut sender = queue.sender(0);
            scope.spawn(move || events.into_iter().for_each(|event| sender.send(event, DropReason::QueueFull, Note::EMPTY)));
        }
    });
    let counters = queue.counters().clone();
    queue.stop();
    let lines = std::fs::read_to_string(&options.path).unwrap().lines().count() as u64;
    assert_eq!(counters.sent(), 1500);
    assert_eq!(counters.written.get(), lines);
    assert_eq!(counters.written.get() + counters.lost() + counters.sampled_out.get(), 1500);
    owner.collect();
    assert_eq!(owner.events_out(), 0, "every slot is home");
}

#[test]
fn a_full_queue_loses_the_letter_and_not_the_slot() {
    let (pool, mut owner) = small_pool(64);
    let options = DeadLetterOptions { queue_letters: 4, ..DeadLetterOptions::new("unused".into()) };
    let (queue, mut collector) = DeadLetterQueue::manual(&options, vec![pool]);
    let mut sender = queue.sender(0);
    (0..10).for_each(|id| sender.send(event(&mut owner, id, "t", b"b"), DropReason::QueueFull, Note::EMPTY));
    owner.collect();
    assert_eq!((queue.queued(), owner.events_out(), queue.counters().lost_queue_full()), (4, 4, 6));
    let mut lines = Vec::new();
    let mut sink = |line: &[u8]| {
        lines.push(line.to_vec());
        true
    };
    while collector.collect(Nanos(1), WallNanos(1), &mut sink).is_some() {}
    owner.collect();
    assert_eq!((lines.len(), owner.events_out()), (4, 0));
}

#[test]
fn beyond_the_full_rate_only_samples_are_encoded_and_the_rest_is_counted() {
    let (pool, mut owner) = small_pool(2048);
    let options = DeadLetterOptions { full_rate_per_second: 100, ..DeadLetterOptions::new("unused".into()) };
    let (queue, mut collector) = DeadLetterQueue::manual(&options, vec![pool]);
    let mut sender = queue.sender(0);
    (0..1100).for_each(|id| sender.send(event(&mut owner, id, "t", b"b"), DropReason::QueueFull, Note::EMPTY));
    let mut outcomes = Vec::new();
    for _ in 0..1100 {
        outcomes.push(collector.collect(Nanos::from_millis(500), WallNanos(1), &mut |_| true).unwrap());
    }
    let encoded = outcomes.iter().filter(|outcome| **outcome == Collected::Encoded).count();
    assert_eq!((encoded, queue.counters().sampled_out.get()), (110, 990));
    sender.send(event(&mut owner, 1, "t", b"b"), DropReason::QueueFull, Note::EMPTY);
    let next_second = collector.collect(Nanos::from_millis(1500), WallNanos(1), &mut |_| true);
    assert_eq!(next_second, Some(Collected::Encoded), "a new second begins afresh");
}

#[test]
fn a_blocked_disk_pins_no_slot() {
    let (pool, mut owner) = small_pool(64);
    let (queue, mut collector) = DeadLetterQueue::manual(&DeadLetterOptions::new("unused".into()), vec![pool]);
    let mut sender = queue.sender(0);
    (0..10).for_each(|id| sender.send(event(&mut owner, id, "t", b"b"), DropReason::QueueFull, Note::EMPTY));
    // The spool has room for nothing.
    while collector.collect(Nanos(1), WallNanos(1), &mut |_| false).is_some() {}
    owner.collect();
    assert_eq!((owner.events_out(), queue.counters().lost_buffer_full.get()), (0, 10));
}

#[test]
fn letters_left_in_a_stopped_queue_give_their_slots_back() {
    let (pool, mut owner) = small_pool(64);
    let (queue, collector) = DeadLetterQueue::manual(&DeadLetterOptions::new("unused".into()), vec![pool]);
    let mut sender = queue.sender(0);
    sender.send(event(&mut owner, 1, "t", b"b"), DropReason::QueueFull, Note::EMPTY);
    let counters = Arc::clone(queue.counters());
    queue.stop();
    drop(collector);
    owner.collect();
    assert_eq!((owner.events_out(), counters.lost()), (0, 1));
}

#[test]
fn a_file_that_cant_be_opened_is_refused_in_three_lines() {
    let place = tempfile::tempdir().unwrap();
    let (pool, _owner) = small_pool(4);
    let refusal = DeadLetterQueue::start(&DeadLetterOptions::new(place.path().into()), vec![pool], || ()).unwrap_err();
    assert!(matches!(refusal, OpenRefusal::NotAFile { .. }), "{refusal}");
    assert_eq!(refusal.to_string().lines().count(), 3);
}

#[test]
fn samples_of_drops_are_written_apart_from_the_letters_and_counted_apart() {
    let place = tempfile::tempdir().unwrap();
    let (pool, mut owner) = small_pool(64);
    let options = DeadLetterOptions::new(place.path().join("dlq_log.txt"));
    let queue = DeadLetterQueue::start(&options, vec![pool], || ()).unwrap();
    let mut sender = queue.sender(0);
    sender.send(event(&mut owner, 1, "t", b"letter"), DropReason::QueueFull, Note::EMPTY);
    sender.send_sample(event(&mut owner, 2, "t", b"whole"), DropReason::BackpressureDrop);
    let topic = "t".repeat(200);
    sender.send_sample_of_topic(header(3, Tier::Batch, &topic, b"gone"), &topic, DropReason::PoolExhausted);
    let counters = queue.counters().clone();
    queue.stop();
    let mut reader = LetterReader::open(&options.path).unwrap();
    let letters: Vec<DeadLetter> = std::iter::from_fn(|| reader.next_letter().unwrap()).collect();
    let told: Vec<_> = letters.iter().map(|letter| (letter.id, letter.reason, letter.sample, letter.body.as_slice())).collect();
    assert_eq!(
        told,
        [
            (1, DropReason::QueueFull, None, b"letter".as_slice()),
            (2, DropReason::BackpressureDrop, Some(SampleKind::Whole), b"whole"),
            (3, DropReason::PoolExhausted, Some(SampleKind::Topic), b""),
        ]
    );
    assert_eq!(letters[2].topic, "t".repeat(Note::BYTES_MAX));
    assert_eq!((counters.sent(), counters.written.get(), counters.lost()), (1, 1, 0));
    assert_eq!((counters.samples_sent(), counters.samples_written.get(), counters.samples_lost()), (2, 2, 0));
    owner.collect();
    assert_eq!(owner.events_out(), 0);
}

#[test]
fn of_a_flood_of_drops_a_few_a_second_are_sampled_for_each_reason() {
    let (pool, _owner) = small_pool(4);
    let (queue, _collector) = DeadLetterQueue::manual(&DeadLetterOptions::new("unused".into()), vec![pool]);
    let mut sender = queue.sender(0);
    let mut taken = |reason| (0..100_000).filter(|_| sender.takes_sample(reason)).count();
    assert_eq!((taken(DropReason::PoolExhausted), taken(DropReason::PoolExhausted)), (10, 0));
    assert_eq!(taken(DropReason::EmergencyDrop), 10, "each reason has its own");
    sender.refill_samples(Nanos::from_millis(1000));
    let mut taken = |reason| (0..100_000).filter(|_| sender.takes_sample(reason)).count();
    assert_eq!(taken(DropReason::PoolExhausted), 10, "a new second");
}

#[test]
fn a_sample_without_room_is_lost_in_its_own_account_and_its_slot_comes_home() {
    let (pool, mut owner) = small_pool(64);
    let options = DeadLetterOptions { queue_letters: 1, ..DeadLetterOptions::new("unused".into()) };
    let (queue, _collector) = DeadLetterQueue::manual(&options, vec![pool]);
    let mut sender = queue.sender(0);
    (0..3).for_each(|id| sender.send_sample(event(&mut owner, id, "t", b"b"), DropReason::StoreUnavailable));
    let counters = queue.counters().clone();
    queue.stop();
    owner.collect();
    assert_eq!((owner.events_out(), counters.samples_sent(), counters.samples_lost()), (0, 3, 3));
    assert_eq!((counters.sent(), counters.lost()), (0, 0));
}
