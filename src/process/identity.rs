//! What makes two events the same: from an event to the key by which dedup knows it.
//!
//! ```text
//! event with an idempotency key (its producer says so)  ──────────────────────► hash(key)
//! else, TRANSACTIONAL, by configuration:   content  ──────────────────────────► hash(topic, body)
//!                                          prefix:N ── body has N bytes ──────► hash(topic, first N bytes)
//!                                          pointer  ── value there, not null ─► hash(topic, value as written)
//!                                                   └─ else: content, counted
//! ```
//!
//! Invariants:
//! - **I1** What kind of key it is goes into the hash, so a content never equals an idempotency key, nor a prefix a whole body.
//! - **I2** The topic is part of what a body's key means (`order/paid` 7 is not `order/created` 7), and its length goes into the hash, as `ab` + `c`
//!   and `a` + `bc` are different events. An idempotency key stands alone: its producer has made it unique.
//! - **I3** The hash is keyed with 192 random bytes per process: no sender can prepare events that meet in one bucket. xxh3 is no cryptographic
//!   hash; who can time the engine closely may learn about its buckets.
//!
//! Two different events fall together with probability 2^-128 per pair. Source of the hash: Yann Collet's xxHash specification.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, Hasher, RandomState};

use xxhash_rust::xxh3::xxh3_128_with_secret;

use crate::pool::EventKey;
use crate::process::dedup::DedupKey;
use crate::process::json_pointer::JsonPointer;

const SECRET_BYTES: usize = 192;

/// What makes TRANSACTIONAL events without an idempotency key the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DedupBy {
    /// Topic and whole body.
    Content,
    /// Topic and so many first bytes of the body, at least 1; a shorter body counts by content.
    Prefix(usize),
    /// Topic and the value at this place of the JSON body, as written; a body without it (or with null) counts by content.
    Pointer(JsonPointer),
}

/// What was hashed (I1).
#[derive(Clone, Copy)]
enum Domain {
    Content = 0,
    Part = 1,
    Idempotency = 2,
}

/// Makes keys.
#[derive(Debug)]
pub struct Identity {
    by: DedupBy,
    secret: [u8; SECRET_BYTES],
}

impl Identity {
    /// With a secret of its own (I3).
    pub fn new(by: DedupBy) -> Self {
        Self { by, secret: random_secret() }
    }

    /// The key of an event without an idempotency key, and whether the body lacked what it should be known by. `payload` is topic and body.
    #[inline(always)] // A key comes back in registers: called, it is stored in halves and loaded as a whole, which waits for the stores.
    pub fn of_payload(&self, payload: &[u8], topic_len: u16) -> (DedupKey, bool) {
        let body_at = usize::from(topic_len);
        let part = match &self.by {
            DedupBy::Content => return (self.hash(payload, Domain::Content, topic_len), false),
            DedupBy::Prefix(bytes) => payload.get(..body_at + bytes).map(|part| self.hash(part, Domain::Part, topic_len)),
            DedupBy::Pointer(pointer) => self.of_value(pointer, payload, topic_len),
        };
        (part.unwrap_or_else(|| self.hash(payload, Domain::Content, topic_len)), part.is_none())
    }

    fn of_value(&self, pointer: &JsonPointer, payload: &[u8], topic_len: u16) -> Option<DedupKey> {
        let (topic, body) = payload.split_at(usize::from(topic_len));
        let value = pointer.find(body)?.raw();
        if value == b"null" {
            return None;
        }
        // Topic and value don't lie side by side: their hashes do.
        let mut both = [0; 32];
        both[..16].copy_from_slice(&xxh3_128_with_secret(topic, &self.secret).to_le_bytes());
        both[16..].copy_from_slice(&xxh3_128_with_secret(value, &self.secret).to_le_bytes());
        Some(self.hash(&both, Domain::Part, topic_len))
    }

    /// The key of an event with an idempotency key.
    pub fn of_key(&self, key: EventKey) -> DedupKey {
        self.hash(&key.get().to_le_bytes(), Domain::Idempotency, 0)
    }

    #[inline(always)] // As `of_payload`.
    fn hash(&self, bytes: &[u8], domain: Domain, topic_len: u16) -> DedupKey {
        // Odd, so that each pair of domain and length gives another number.
        let mixed =
            u128::from((domain as u32) << 16 | u32::from(topic_len)).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        DedupKey::new(xxh3_128_with_secret(bytes, &self.secret) ^ mixed)
    }
}

/// 192 bytes that no sender knows: the standard library's hash keys come from the operating system's random source.
fn random_secret() -> [u8; SECRET_BYTES] {
    let mut secret = [0; SECRET_BYTES];
    for chunk in secret.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random_u64().to_le_bytes());
    }
    secret
}

/// A number that no sender knows. At start only.
pub(crate) fn random_u64() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(identity: &Identity, topic: &str, body: &str) -> (DedupKey, bool) {
        identity.of_payload(format!("{topic}{body}").as_bytes(), topic.len() as u16)
    }

    #[test]
    fn same_bytes_with_another_border_between_topic_and_body_are_another_event() {
        for by in [DedupBy::Content, DedupBy::Prefix(1)] {
            let identity = Identity::new(by);
            assert_ne!(key(&identity, "a", "bc"), key(&identity, "ab", "c"));
            assert_eq!(key(&identity, "a", "bc"), key(&identity, "a", "bc"));
        }
    }

    #[test]
    fn keys_differ_between_processes() {
        let keys = [0; 2].map(|_| key(&Identity::new(DedupBy::Content), "a", "bc").0);
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn a_prefix_is_all_that_counts_and_a_shorter_body_counts_by_content() {
        let identity = Identity::new(DedupBy::Prefix(4));
        assert_eq!(key(&identity, "t", "abcdX"), key(&identity, "t", "abcdY"));
        assert_ne!(key(&identity, "t", "abcd").0, key(&identity, "u", "abcd").0, "I2");
        let (short, fell_back) = key(&identity, "t", "abc");
        assert!(fell_back && short == key(&identity, "t", "abc").0);
        let content = Identity { by: DedupBy::Content, secret: identity.secret };
        assert_eq!(short, key(&content, "t", "abc").0);
        assert_ne!(key(&identity, "t", "abcd").0, key(&content, "t", "abcd").0, "I1");
    }

    #[test]
    fn a_value_is_all_that_counts_wherever_it_stands_and_null_is_none() {
        let identity = Identity::new(DedupBy::Pointer(JsonPointer::parse("/order/id").unwrap()));
        let first = key(&identity, "t", r#"{"order":{"id":7},"try":1}"#);
        assert_eq!(first, key(&identity, "t", r#"{"try":2, "order":{"amount":1, "id":7}}"#));
        assert!(!first.1);
        assert_ne!(first.0, key(&identity, "u", r#"{"order":{"id":7},"try":1}"#).0, "I2");
        assert_ne!(first.0, key(&identity, "t", r#"{"order":{"id":"7"}}"#).0, "as written: a text is no number");
        for body in [r#"{"order":{}}"#, r#"{"order":{"id":null}}"#, "no JSON", ""] {
            let (content, fell_back) = key(&identity, "t", body);
            assert!(fell_back && content != first.0, "{body}");
        }
    }

    #[test]
    fn an_idempotency_key_is_like_no_content() {
        let identity = Identity::new(DedupBy::Content);
        let number = EventKey::new(7).unwrap();
        assert_eq!(identity.of_key(number), identity.of_key(number));
        assert_ne!(identity.of_key(number), identity.of_key(EventKey::new(8).unwrap()));
        assert_ne!(identity.of_key(number), identity.of_payload(&7u128.to_le_bytes(), 0).0, "I1");
    }
}
