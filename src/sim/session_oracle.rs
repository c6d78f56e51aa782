//! What must hold of what the clients of sessions are told, against the log.
//!
//! - **O12** What a session's client was told is so:
//!   - acked at *written* is in the log, at any moment and after kill -9; acked at *durable* also after a power cut (after a failed sync, what
//!     was *written* is no promise any more; what the retention gave up is forgotten);
//!   - no sequence is in the log and refused, and none is there twice or under another name than its event's;
//!   - a session that ended in good order, by its BYE or by the stop of the engine, was told every outcome: each of its sequences up to the last
//!     acknowledged is in the log or refused, at *accepted* too, and behind that one there is none that is in the log.
//!
//! What can be judged by the messages alone the client judges as it hears them ([`super::session_client`]).

use std::collections::BTreeSet;

use super::oracle::Stored;
use super::session_client::SessionClient;
use crate::metrics::ledger::DropReason;
use crate::wire::session::AckLevel;

/// What is known of the log that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// The lowest level whose promise holds here.
    pub holds: AckLevel,
    /// The records below this were given up by the retention.
    pub given_up: u64,
    /// The store fails on some seeds: what it was writing then counts as lost, and may be there all the same.
    pub store_may_fail: bool,
}

/// The sequences of a client that are in the log.
fn sequences(log: &[Stored], client: &SessionClient) -> BTreeSet<u64> {
    let stamps = log.iter().filter_map(|event| event.producer).filter(|stamp| stamp.producer == client.producer());
    stamps.map(|stamp| stamp.sequence).collect()
}

/// O12, at any moment, or after a death.
///
/// # Panics
/// If the log is not what the client was told.
pub fn check_told(log: &[Stored], client: &SessionClient, ground: Ground) {
    let (there, producer) = (sequences(log, client), client.producer());
    let is_unsure = |reason: u8| ground.store_may_fail && reason == DropReason::StoreUnavailable.code();
    let both = client.refused().iter().find(|(sequence, reason)| there.contains(sequence) && !is_unsure(**reason));
    assert!(both.is_none(), "O12: {both:?} of {producer} is refused and in the log");
    let is_promised = client.level() >= ground.holds && client.level() > AckLevel::Accepted && ground.given_up == 0;
    if is_promised {
        check_there(&there, client, client.promised_from());
    }
}

/// O12, after the drain of a node whose store has not failed.
///
/// # Panics
/// If a client was not told an outcome that there was, or was told of one that there is not.
pub fn check_told_all(log: &[Stored], client: &SessionClient, ground: Ground) {
    let Some(from) = client.told_all().filter(|_| ground.given_up == 0) else { return };
    let (there, producer) = (sequences(log, client), client.producer());
    check_there(&there, client, from);
    let next = client.acked() + 1;
    let is_owed = there.contains(&next) && !client.refused().contains_key(&next);
    assert!(!is_owed, "O12: {next} of {producer} is in the log, its session has ended, and was told {} only", client.acked());
}

fn check_there(there: &BTreeSet<u64>, client: &SessionClient, from: u64) {
    let (producer, acked, level) = (client.producer(), client.acked(), client.level());
    let is_missing = |sequence: &u64| !there.contains(sequence) && !client.refused().contains_key(sequence);
    let missing = (from..=acked).find(is_missing);
    assert!(missing.is_none(), "O12: {missing:?} of {producer} is acked at {} and neither in the log nor refused", level.name());
}
