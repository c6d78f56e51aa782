//! The events: bodies of 64 bytes as `eventstream send --generate` makes them, HIGH, MEDIUM and LOW as 10 to 60 to 30, 16 topics.

use eventstream::wire::Priority;

use super::peer::{Event, Peer};

/// Encoded once: a multiple of the ten priorities and the 16 topics, and of most protocols more than one write.
const BLOCK_EVENTS: usize = 640;
/// Ten events have these priorities.
const PRIORITIES: [Priority; 10] = {
    use Priority::{High as H, Low as L, Medium as M};
    [M, L, M, M, L, M, H, M, L, M]
};
/// Where a body keeps its number, which makes it one of its own.
const NUMBER_PLACE: &[u8; 16] = b"0000000000000000";

/// The events of a connection, as its peer wants them.
pub struct Events {
    block: Vec<u8>,
    event_bytes: usize,
    number_at: usize,
    /// The next event.
    next: u64,
    /// Numbers of other connections differ in their upper bytes.
    first_number: u64,
}

impl Events {
    pub fn of(peer: &dyn Peer, connection: usize) -> Events {
        let body = br#"{"seq":"0000000000000000","pad":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}"#;
        let mut block = Vec::new();
        for number in 0..BLOCK_EVENTS {
            // 7 and 16 have no common divisor: each topic meets each priority.
            let topic = format!("load/{:02}", number * 7 % 16);
            let event = Event { priority: PRIORITIES[number % PRIORITIES.len()], topic: &topic, body };
            peer.encode(connection, &event, &mut block);
        }
        let event_bytes = block.len() / BLOCK_EVENTS;
        assert_eq!(event_bytes * BLOCK_EVENTS, block.len(), "encoded events of a peer have one length");
        let place = |event: &[u8]| event.windows(NUMBER_PLACE.len()).position(|bytes| bytes == NUMBER_PLACE);
        let number_at = place(&block[..event_bytes]).expect("bodies are sent as they are");
        assert_eq!(place(&block[block.len() - event_bytes..]), Some(number_at));
        Events { block, event_bytes, number_at, next: 0, first_number: (connection as u64) << 48 }
    }

    /// Bytes of one.
    pub fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    /// Appends the next so many.
    pub fn append(&mut self, count: u64, out: &mut Vec<u8>) {
        let mut left = count as usize;
        while left > 0 {
            let first = (self.next % BLOCK_EVENTS as u64) as usize;
            let run = left.min(BLOCK_EVENTS - first);
            let at = out.len();
            out.extend_from_slice(&self.block[first * self.event_bytes..(first + run) * self.event_bytes]);
            for event in out[at..].chunks_exact_mut(self.event_bytes) {
                event[self.number_at..self.number_at + NUMBER_PLACE.len()]
                    .copy_from_slice(&digits(self.first_number + self.next));
                self.next += 1;
            }
            left -= run;
        }
    }
}

/// Sixteen hexadecimal digits, two at a time.
fn digits(number: u64) -> [u8; 16] {
    const PAIRS: [[u8; 2]; 256] = {
        let digits = b"0123456789abcdef";
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
            byte += 1;
        }
        pairs
    };
    let mut text = [0; 16];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(number.to_be_bytes()) {
        *pair = PAIRS[usize::from(byte)];
    }
    text
}
