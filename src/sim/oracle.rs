//! What must hold of a run: checked from outside, against what was sent and what the kernel handed over.
//!
//! - **O1** The ledger balances after every step, with *in flight* counted from what the agents hold.
//! - **O2** Every whole, well-formed frame that reached an agent, and every publication that did not have to wait, was received, and nothing
//!   else was.
//! - **O3** The log holds exactly as many events as the ledger says, by source and tier; each is one that was sent, byte for byte, and
//!   none is there more often than it was sent (once, where duplicates are recognised).
//! - **O4** Of one connection or publisher and tier, events are in the log in the order in which they were sent.
//! - **O5** After the drain every slot is free, nothing is in flight, no connection is open.
//! - **O6** As many dead letters were sent as the ledger says.
//! - **O7** Whatever is called written can be read from the log at that moment, and survives the end of the process; whatever is called
//!   durable is there after recovery of what a power cut would leave, whatever that is. Neither goes back within a life.
//! - **O8** When the senders rest, the engine comes to rest by itself: all that arrived is read, every event has its outcome, and the level
//!   is HEALTHY again. No drain is needed for that.
//! - **O9** Windows side by side hold each BATCH event whose handler is done, once, when the node is drained.
//!
//! O10 is in [`super::lives`], O11 in [`super::damage`], O12 in [`super::session_oracle`], O13 in [`super::source_oracle`], O14 in [`super::restart`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::clients::Account;
use super::disk::{Left, SimDisk};
use super::frames::{self, FrameKey};
use super::lives::is_sync_failed;
use super::rng::Rng;
use super::session_client::producer_of;
use super::tally::Met;
use crate::agent::Holding;
use crate::metrics::ledger::{DropReason, Ledger, LedgerTerms};
use crate::pool::{ProducerStamp, Source};
use crate::storage::node_reader::NodeReader;
use crate::storage::reader::OwnedRecord;
use crate::storage::recovery::recover;
use crate::storage::{LogIdentity, StoreStatus};
use crate::sys::clock::WallNanos;
use crate::wire::{Priority, Tier};

/// An event as it was read back from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the log.
    pub sequence: u64,
    /// Its number, unique in the log.
    pub id: u64,
    /// Where it came in.
    pub source: Source,
    /// Whose event it is, if a session's.
    pub producer: Option<ProducerStamp>,
    /// Where it was processed.
    pub tier: Tier,
    /// As sent.
    pub priority: Priority,
    /// As sent.
    pub topic: String,
    /// As sent.
    pub body: Vec<u8>,
}

impl From<OwnedRecord> for Stored {
    fn from(record: OwnedRecord) -> Self {
        let OwnedRecord { sequence, id, priority, tier, source, producer, topic, body, .. } = record;
        Self { sequence, id, source, producer, tier, priority, topic, body }
    }
}

/// All records of a log.
///
/// # Panics
/// If one of them can't be read.
pub fn read_log(disk: &SimDisk) -> Vec<Stored> {
    let reader = NodeReader::open(disk.clone(), 0).expect("O3: the log has its header");
    reader.into_records().map(|record| Stored::from(record.expect("O3: a good record"))).collect()
}

/// What is expected of a log besides what always is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRules {
    /// TRANSACTIONAL events are recognised when they come again.
    pub dedup: bool,
    /// No TRANSACTIONAL event is tried again, so that their order holds too.
    pub transactional_in_order: bool,
    /// The store has failed: what it was writing then counts as lost, and may be there all the same.
    pub store_failed: bool,
    /// And it was a sync that failed: what was written and not durable may be gone.
    pub sync_failed: bool,
    /// The ledger tells of the records from this sequence on; those before it are of earlier lives.
    pub since: u64,
    /// The records below this sequence were given up by the retention.
    pub given_up: u64,
}

impl LogRules {
    /// How many records there may be where the ledger says that these events were stored, and these given up for lost.
    fn range(&self, terms: &LedgerTerms) -> RangeInclusive<u64> {
        let given_up = self.given_up.saturating_sub(self.since);
        let least = if self.sync_failed { 0 } else { terms.stored.saturating_sub(given_up) };
        let unsure = if self.store_failed { terms.lost[DropReason::StoreUnavailable as usize] } else { 0 };
        least..=terms.stored + unsure
    }
}

/// Whole frames by source and tier, as they reached the agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals(pub [[u64; Tier::COUNT]; Source::COUNT]);

impl Arrivals {
    /// Adds the frames at the start of `bytes`; gives their names.
    pub fn add(&mut self, source: Source, bytes: &[u8], frame_bytes_max: usize) -> Vec<FrameKey> {
        let walk = frames::walk(bytes, frame_bytes_max);
        for (_, priority) in &walk.frames {
            self.0[source.index()][priority.tier().index()] += 1;
        }
        walk.frames.into_iter().map(|(key, _)| key).collect()
    }

    /// Adds what arrived elsewhere.
    pub fn add_all(&mut self, other: &Arrivals) {
        for (sum, more) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *sum += more;
        }
    }
}

/// O1.
///
/// # Panics
/// If receipts are not outcomes plus what is held.
pub fn check_balance(ledger: &Ledger, holding: Holding) {
    let in_flight = holding.events + holding.staged;
    assert!(ledger.balances(in_flight), "O1: the ledger does not balance with {holding:?}: {:#?}", ledger.total());
}

/// O2.
///
/// # Panics
/// If the ledger's receipts are not between the arrivals that had to be taken and all of them.
pub fn check_receipts(ledger: &Ledger, least: &Arrivals, most: &Arrivals) {
    for source in Source::ALL {
        for tier in Tier::ALL {
            let received = ledger.terms[source.index()][tier.index()].received;
            let arrived = least.0[source.index()][tier.index()]..=most.0[source.index()][tier.index()];
            let what = (source.name(), tier.name());
            assert!(arrived.contains(&received), "O2: {received} {what:?} events received, {arrived:?} arrived");
        }
    }
}

/// O3 and O4.
///
/// # Panics
/// If the log is not what the ledger and the account say.
pub fn check_log(log: &[Stored], ledger: &Ledger, account: &Account, rules: LogRules) {
    let new = || log.iter().filter(|event| event.sequence >= rules.since);
    for source in Source::ALL {
        for tier in Tier::ALL {
            let found = new().filter(|event| event.source == source && event.tier == tier).count() as u64;
            let stored = rules.range(&ledger.terms[source.index()][tier.index()]);
            let what = (source.name(), tier.name());
            assert!(stored.contains(&found), "O3: {found} {what:?} events in the log, {stored:?} stored");
        }
    }
    let found = new().count() as u64 + rules.given_up.saturating_sub(rules.since);
    let stored = LogRules { given_up: 0, ..rules }.range(&ledger.total());
    assert!(stored.contains(&found), "O3: {found} events in the log or given up, {stored:?} stored");
    let (mut ids, mut times, mut last) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    for event in log {
        assert!(ids.insert(event.id), "O3: two events in the log are number {}", event.id);
        let key = check_content(event, account);
        *times.entry((key, event.tier)).or_insert(0u32) += 1;
        // A session's events may come again after a refusal.
        let has_order = event.source != Source::Udp && event.producer.is_none();
        let in_order = has_order && (event.tier != Tier::Transactional || rules.transactional_in_order);
        if in_order && let Some(before) = last.insert((key.client, event.tier), key.sequence) {
            assert!(before <= key.sequence, "O4: {key:?} is in the log after {before} of {}", event.tier.name());
        }
    }
    for ((key, tier), found) in times {
        let sent = account.sent[&key].1;
        let most = if rules.dedup && tier == Tier::Transactional { 1 } else { sent };
        assert!(found <= most, "O3: {key:?} is {found} times in the log, was sent {sent} times");
    }
}

/// O7, of the watermarks alone.
///
/// # Panics
/// If one of them has gone back since `before`, or is where it can't be.
pub fn check_monotone(status: &StoreStatus, before: &mut (u64, u64)) {
    let now = (status.written_sequence(), status.durable_sequence());
    assert!(now.1 <= now.0, "O7: {} durable and {} written", now.1, now.0);
    assert!(now.0 >= before.0 && now.1 >= before.1, "O7: (written, durable) went from {before:?} to {now:?}");
    *before = now;
}

/// O7.
///
/// # Panics
/// If the log does not reach as far as its watermarks, or would not after a crash that chance chooses.
pub fn check_watermarks(status: &StoreStatus, disk: &SimDisk, rng: &mut Rng) {
    let durable = status.durable_sequence();
    let written = if is_sync_failed(status.state(), disk) { durable } else { status.written_sequence() };
    let (after, promised) = if rng.chance(300) {
        (disk.after_crash(Left::ALL), written)
    } else {
        (disk.after_power_cut(rng, &Met::default()), durable)
    };
    let there = end_sequence(disk);
    assert!(there >= written, "O7: sequences below {written} are called written, those below {there} are there");
    let report = recover(&after, &LogIdentity { node: 0, log_id: 1, wall: WallNanos(1) });
    let kept = report.unwrap_or_else(|fault| panic!("O7: after a crash: {fault:?}")).next_sequence;
    assert!(kept >= promised, "O7: sequences below {promised} are promised, those below {kept} survive");
    assert!(end_sequence(&after) == kept, "O7: what recovery says is there can be read");
}

fn end_sequence(disk: &SimDisk) -> u64 {
    let mut reader = NodeReader::open(disk.clone(), 0).expect("O7: the log has its header");
    while reader.next_batch().expect("O7: nothing is damaged").is_some() {}
    reader.end_sequence()
}

fn check_content(event: &Stored, account: &Account) -> FrameKey {
    let key = frames::key_of(&event.body).unwrap_or_else(|| panic!("O3: nobody sent this: {event:?}"));
    let (sent, _) = account.sent.get(&key).unwrap_or_else(|| panic!("O3: nobody sent {key:?}: {event:?}"));
    let same = event.priority == sent.priority && event.topic == sent.topic && event.body == sent.body();
    assert!(same, "O3: {event:?} is not what was sent: {sent:?}");
    let is_its_own =
        |stamp: ProducerStamp| stamp.producer == producer_of(key.client) && stamp.sequence == u64::from(key.sequence);
    assert!(event.producer.is_none_or(is_its_own), "O12: {event:?} has another's name");
    key
}

#[cfg(test)]
mod tests {
    use super::super::frames::SentFrame;
    use super::*;
    use crate::metrics::ledger::LedgerCells;

    const RULES: LogRules =
        LogRules { dedup: true, transactional_in_order: true, store_failed: false, sync_failed: false, since: 0, given_up: 0 };

    /// Two frames sent once each, stored in order, and the ledger that says so.
    fn good() -> (Vec<Stored>, LedgerCells, Account) {
        let (cells, mut account) = (LedgerCells::default(), Account::default());
        let stored = (0..2).map(|sequence| {
            let key = FrameKey { client: 1, sequence };
            let sent = SentFrame { key, priority: Priority::Medium, topic: "t".into(), body_bytes: 12 };
            account.sent.insert(key, (sent.clone(), 1));
            cells.cell(Source::Tcp, Tier::Transactional).stored.add(1);
            let (source, tier) = (Source::Tcp, Tier::Transactional);
            Stored {
                sequence: u64::from(sequence),
                id: u64::from(sequence),
                source,
                producer: None,
                tier,
                priority: sent.priority,
                topic: sent.topic.clone(),
                body: sent.body(),
            }
        });
        (stored.collect(), cells, account)
    }

    fn check(spoil: impl FnOnce(&mut Vec<Stored>, &LedgerCells)) {
        let (mut log, cells, account) = good();
        spoil(&mut log, &cells);
        check_log(&log, &Ledger::read(std::iter::once(&cells)), &account, RULES);
    }

    #[test]
    fn a_good_log_passes() {
        check(|_, _| {});
    }

    #[test]
    #[should_panic(expected = "1 (\"tcp\", \"transactional\") events in the log")]
    fn a_lost_event_is_noticed() {
        check(|log, _| drop(log.pop()));
    }

    #[test]
    #[should_panic(expected = "is not what was sent")]
    fn a_changed_byte_is_noticed() {
        check(|log, _| log[1].body[10] ^= 1);
    }

    #[test]
    #[should_panic(expected = "O4")]
    fn a_changed_order_is_noticed() {
        check(|log, _| log.swap(0, 1));
    }

    #[test]
    #[should_panic(expected = "2 times in the log")]
    fn a_duplicate_is_noticed() {
        check(|log, cells| {
            let again = Stored { id: 9, ..log[1].clone() };
            log.push(again);
            cells.cell(Source::Tcp, Tier::Transactional).stored.add(1);
        });
    }

    #[test]
    #[should_panic(expected = "nobody sent")]
    fn an_invented_event_is_noticed() {
        check(|log, _| log[0].body[0] ^= 1);
    }

    #[test]
    #[should_panic(expected = "O1")]
    fn an_uncounted_event_is_noticed() {
        let (_, cells, _) = good();
        cells.cell(Source::Tcp, Tier::Batch).received.add(3);
        check_balance(&Ledger::read(std::iter::once(&cells)), Holding { events: 1, staged: 1 });
    }
}
