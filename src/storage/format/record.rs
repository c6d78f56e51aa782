//! A record: one stored event.
//!
//! ```text
//! u32 record bytes (all of it) | u64 event id | u64 received at (wall ns) | u8 priority | u8 tier | u8 source | u8 named by | u16 topic bytes
//! | named by 1: u64 producer's sequence , 16 bytes producer id
//! | named by 2: u64 producer's sequence , u32 where in this payload that id stands already
//! | topic | body
//! ```
//!
//! *Named by* is 0 for an event of no session. A batch spells each producer's id out once (F6), so in a full batch a session's record is 12
//! bytes longer than another one.

use super::{FormatError, u16_at, u32_at, u64_at};
use crate::pool::{ProducerId, ProducerStamp, Source};
use crate::sys::clock::WallNanos;
use crate::wire::{Priority, Tier};

/// Bytes of a record before its topic, where no session names it.
pub const RECORD_HEADER_BYTES: usize = 26;
/// Bytes of a record before its topic, at most.
pub const RECORD_HEADER_BYTES_MAX: usize = RECORD_HEADER_BYTES + NAMED_BY_ID_BYTES;

const NAMED_BY_ID_BYTES: usize = 8 + 16;
const NAMED_BY_PLACE_BYTES: usize = 8 + 4;

const _: () = assert!(RECORD_HEADER_BYTES == 4 + 8 + 8 + 4 + 2);

const NAMED_BY_NOTHING: u8 = 0;
const NAMED_BY_ID: u8 = 1;
const NAMED_BY_PLACE: u8 = 2;

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The event's id.
    pub id: u64,
    /// When its bytes were received.
    pub received_at: WallNanos,
    /// As sent.
    pub priority: Priority,
    /// As dispatched.
    pub tier: Tier,
    /// Where it came in.
    pub source: Source,
    /// Bytes of the topic.
    pub topic_bytes: u16,
    /// Whose session it came in, and its number there.
    pub producer: Option<ProducerStamp>,
}

/// Writes a record at the start of `out`; `payload` is topic and body as they follow each other. `id_place` is where in the batch's payload
/// the id of its producer stands, if that is there. Returns the record's bytes, or `None` when it does not fit.
#[inline]
pub fn encode_record(out: &mut [u8], header: &RecordHeader, id_place: Option<u32>, payload: &[u8]) -> Option<usize> {
    debug_assert!(header.topic_bytes as usize <= payload.len(), "the topic is a part of the payload");
    let (named_by, name_bytes) = match (header.producer, id_place) {
        (None, _) => (NAMED_BY_NOTHING, 0),
        (Some(_), None) => (NAMED_BY_ID, NAMED_BY_ID_BYTES),
        (Some(_), Some(_)) => (NAMED_BY_PLACE, NAMED_BY_PLACE_BYTES),
    };
    let record_bytes = RECORD_HEADER_BYTES + name_bytes + payload.len();
    // The one bounds check of most records; the fixed part has constant indexes.
    let (fixed, rest) = out.get_mut(..record_bytes)?.split_first_chunk_mut::<RECORD_HEADER_BYTES>()?;
    fixed[0..4].copy_from_slice(&(record_bytes as u32).to_le_bytes());
    fixed[4..12].copy_from_slice(&header.id.to_le_bytes());
    fixed[12..20].copy_from_slice(&header.received_at.0.to_le_bytes());
    fixed[20..24].copy_from_slice(&[header.priority as u8, header.tier as u8, header.source as u8, named_by]);
    fixed[24..26].copy_from_slice(&header.topic_bytes.to_le_bytes());
    let (name, rest) = rest.split_at_mut(name_bytes);
    if let Some(stamp) = header.producer {
        name[..8].copy_from_slice(&stamp.sequence.to_le_bytes());
        match id_place {
            None => name[8..].copy_from_slice(&stamp.producer.to_bytes()),
            Some(place) => name[8..].copy_from_slice(&place.to_le_bytes()),
        }
    }
    rest.copy_from_slice(payload);
    Some(record_bytes)
}

/// Where [`encode_record`] spells out the producer's id, from the start of the record.
pub(in crate::storage) const ID_PLACE_IN_RECORD: usize = RECORD_HEADER_BYTES + 8;

/// A record as it lies in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBytes<'a> {
    /// The fixed part.
    pub header: RecordHeader,
    /// Valid UTF-8, as the wire codec admits nothing else.
    pub topic: &'a str,
    /// Any bytes.
    pub body: &'a [u8],
}

/// Reads the record at `at` of a batch's (verified) payload. Returns it and its bytes.
fn decode_record(payload: &[u8], at: usize) -> Result<(RecordBytes<'_>, usize), FormatError> {
    let bytes = payload.get(at..).ok_or(FormatError::Short)?;
    let (fixed, _) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>().ok_or(FormatError::Short)?;
    let record_bytes = u32_at(fixed, 0) as usize;
    let topic_bytes = u16_at(fixed, 24);
    let name_bytes = match fixed[23] {
        NAMED_BY_NOTHING => 0,
        NAMED_BY_ID => NAMED_BY_ID_BYTES,
        NAMED_BY_PLACE => NAMED_BY_PLACE_BYTES,
        _ => return Err(FormatError::Field),
    };
    if record_bytes < RECORD_HEADER_BYTES + name_bytes + topic_bytes as usize {
        return Err(FormatError::Field);
    }
    let record = bytes.get(..record_bytes).ok_or(FormatError::Short)?;
    let (name, rest) = record[RECORD_HEADER_BYTES..].split_at(name_bytes);
    let producer = match fixed[23] {
        NAMED_BY_NOTHING => None,
        NAMED_BY_ID => Some(name_of(u64_at(name, 0), &name[8..])?),
        _ => {
            let place = u32_at(name, 8) as usize;
            // F6: before this record.
            let id = payload[..at].get(place..).and_then(|rest| rest.get(..16)).ok_or(FormatError::Field)?;
            Some(name_of(u64_at(name, 0), id)?)
        }
    };
    let (topic, body) = rest.split_at(topic_bytes as usize);
    let header = RecordHeader {
        id: u64_at(fixed, 4),
        received_at: WallNanos(u64_at(fixed, 12)),
        priority: Priority::from_byte(fixed[20]).ok_or(FormatError::Field)?,
        tier: Tier::from_byte(fixed[21]).ok_or(FormatError::Field)?,
        source: Source::from_byte(fixed[22]).ok_or(FormatError::Field)?,
        topic_bytes,
        producer,
    };
    let topic = std::str::from_utf8(topic).map_err(|_| FormatError::Field)?;
    Ok((RecordBytes { header, topic, body }, record_bytes))
}

fn name_of(sequence: u64, id: &[u8]) -> Result<ProducerStamp, FormatError> {
    let id = id.try_into().expect("a slice of sixteen bytes");
    let producer = ProducerId::from_bytes(id).ok_or(FormatError::Field)?;
    Ok(ProducerStamp { producer, sequence })
}

/// The records of a payload, one after the other. Ends after an error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    payload: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// The records of a whole payload.
    pub fn new(payload: &'a [u8]) -> Self {
        Self::from_byte(payload, 0)
    }

    /// The records from the one at byte `at` on.
    pub(in crate::storage) fn from_byte(payload: &'a [u8], at: usize) -> Self {
        Self { payload, at }
    }

    /// Where the next one begins.
    pub(in crate::storage) fn byte(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordBytes<'a>, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.payload.len() {
            return None;
        }
        let decoded = decode_record(self.payload, self.at);
        self.at = decoded.as_ref().map_or(self.payload.len(), |(_, used)| self.at + used);
        Some(decoded.map(|(record, _)| record))
    }
}

/// What a batch's records say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The highest event id, 0 without records.
    pub highest_event_id: u64,
    /// The latest receipt, 0 without records.
    pub latest_receipt: WallNanos,
}

impl Default for Contents {
    fn default() -> Self {
        Self { highest_event_id: 0, latest_receipt: WallNanos(0) }
    }
}

impl Contents {
    /// One more record.
    #[inline]
    pub fn add(&mut self, record: &RecordHeader) {
        self.highest_event_id = self.highest_event_id.max(record.id);
        self.latest_receipt = self.latest_receipt.max(record.received_at);
    }

    /// Of a payload with that many records and nothing else.
    ///
    /// # Errors
    /// [`FormatError::Short`] or [`FormatError::Field`]: it was not written by [`encode_record`].
    pub fn of(payload: &[u8], record_count: u32) -> Result<Self, FormatError> {
        let (mut contents, mut records) = (Self::default(), 0);
        for record in Records::new(payload) {
            contents.add(&record?.header);
            records += 1;
        }
        if records == record_count { Ok(contents) } else { Err(FormatError::Field) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(topic_bytes: u16) -> RecordHeader {
        RecordHeader {
            id: 0x0807_0605_0403_0201,
            received_at: WallNanos(0x1817_1615_1413_1211),
            priority: Priority::High,
            tier: Tier::Realtime,
            source: Source::Udp,
            topic_bytes,
            producer: None,
        }
    }

    fn stamp(producer: u8, sequence: u64) -> Option<ProducerStamp> {
        Some(ProducerStamp { producer: ProducerId::from_bytes([producer; 16])?, sequence })
    }

    #[test]
    fn the_layout_is_byte_for_byte_the_documented_one() {
        let mut out = [0xAA; 200];
        assert_eq!(encode_record(&mut out, &plain(2), None, b"abXYZ"), Some(31));
        let expected = [
            31, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 3, 0, 1, 0, 2, 0, b'a', b'b',
            b'X', b'Y', b'Z', 0xAA,
        ];
        assert_eq!(out[..32], expected);
        let named = RecordHeader { producer: stamp(7, 0x0102), ..plain(2) };
        assert_eq!(encode_record(&mut out, &named, None, b"abXYZ"), Some(55));
        assert_eq!((out[0], out[23], &out[26..34], &out[34..50]), (55, 1, &[2, 1, 0, 0, 0, 0, 0, 0][..], &[7; 16][..]));
        assert_eq!(ID_PLACE_IN_RECORD, 34);
        assert_eq!(encode_record(&mut out[55..], &named, Some(34), b"abXYZ"), Some(43));
        assert_eq!((out[55], out[78], &out[89..93], &out[93..98]), (43, 2, &[34, 0, 0, 0][..], &b"abXYZ"[..]));
        let records: Vec<_> = Records::new(&out[..98]).map(|record| record.unwrap().header.producer).collect();
        assert_eq!(records, [stamp(7, 0x0102); 2]);
    }

    #[test]
    fn a_record_that_does_not_fit_is_not_begun() {
        let mut out = [0xAA; RECORD_HEADER_BYTES + 2];
        assert_eq!(encode_record(&mut out, &plain(1), None, b"abc"), None);
        let named = RecordHeader { producer: stamp(7, 1), ..plain(1) };
        assert_eq!(encode_record(&mut out, &named, None, b"ab"), None);
        assert_eq!(out, [0xAA; RECORD_HEADER_BYTES + 2]);
        assert_eq!(encode_record(&mut out, &plain(1), None, b"ab"), Some(RECORD_HEADER_BYTES + 2));
    }

    #[test]
    fn a_name_that_points_at_no_id_before_the_record_is_refused() {
        let named = RecordHeader { producer: stamp(7, 1), ..plain(2) };
        let mut out = [0; 200];
        let first = encode_record(&mut out, &named, None, b"ab").unwrap();
        let read =
            |out: &[u8], used: usize| Records::new(&out[..first + used]).last().unwrap().map(|record| record.header.producer);
        for (place, expected) in
            [(34, Ok(stamp(7, 1))), (36, Ok(None)), (37, Err(FormatError::Field)), (u32::MAX, Err(FormatError::Field))]
        {
            let used = encode_record(&mut out[first..], &named, Some(place), b"ab").unwrap();
            let read = read(&out, used);
            assert_eq!(read.is_ok(), expected.is_ok(), "place {place}");
        }
        out[34..50].fill(0);
        let used = encode_record(&mut out[first..], &named, Some(34), b"ab").unwrap();
        assert_eq!(read(&out, used), Err(FormatError::Field), "no id");
    }

    #[test]
    fn contents_are_refused_where_the_payload_is_not_that_many_records() {
        let mut out = [0; 200];
        let used = encode_record(&mut out, &plain(1), None, b"abc").unwrap();
        let contents = Contents { highest_event_id: plain(1).id, latest_receipt: plain(1).received_at };
        assert_eq!(Contents::of(&out[..used], 1), Ok(contents));
        assert_eq!(Contents::of(&out[..used], 2), Err(FormatError::Field));
        assert_eq!(Contents::of(&out[..used - 1], 1), Err(FormatError::Short));
        assert_eq!(Contents::of(&out[..used + 3], 1), Err(FormatError::Short));
        assert_eq!(Contents::of(&[], 0), Ok(Contents::default()));
        assert_eq!(Contents::of(&[0; 64], 1), Err(FormatError::Field), "zeros");
    }

    proptest! {
        #[test]
        fn records_come_back_as_they_went(
            id in any::<u64>(), at in any::<u64>(), priority in 0u8..5, tier in 0u8..3, source in 0u8..3, producer in 0u8..3,
            topic in "[a-zé/]{0,40}", body in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let header = RecordHeader {
                id, received_at: WallNanos(at), priority: Priority::from_byte(priority).unwrap(),
                tier: Tier::from_byte(tier).unwrap(), source: Source::from_byte(source).unwrap(), topic_bytes: topic.len() as u16,
                producer: stamp(producer, id),
            };
            let payload = [topic.as_bytes(), &body].concat();
            let mut out = vec![0; 1024];
            let first = encode_record(&mut out, &header, None, &payload).unwrap();
            let again = encode_record(&mut out[first..], &header, Some(ID_PLACE_IN_RECORD as u32), &payload).unwrap();
            let read: Vec<_> = Records::new(&out[..first + again]).map(Result::unwrap).collect();
            prop_assert_eq!(read, vec![RecordBytes { header, topic: &topic, body: &body }; 2]);
        }

        #[test]
        fn any_bytes_decode_to_something_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let read: usize = Records::new(&bytes).map_while(Result::ok).map(|record| record.topic.len() + record.body.len()).sum();
            prop_assert!(read <= bytes.len());
        }
    }
}
