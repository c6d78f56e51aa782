//! Dead letters that are sent again: from a letter to a publication under the event's own id.
//!
//! The id goes two ways: it stays the event's id in its log record, so that the log itself tells what has been sent again; and it is the
//! event's key, by which dedup knows a letter that is still on its way when it is sent once more. An event that had a key of its own keeps it.

use std::sync::Mutex;
use std::time::Duration;

use crate::ingest::{Publication, Publisher, Refusal};
use crate::metrics::admin::LetterVerdict;
use crate::pool::EventKey;
use crate::storage::dead_letter::line::{DeadLetter, SampleKind, parse_line};

/// Keys made of ids are beyond all numbers that programs are likely to take for keys: "dead letter", in eight letters.
const ID_KEYS: u128 = 0x6465_6164_6c65_7472 << 64;

/// Between two looks for room: a letter is in no hurry.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Why a letter can't be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayRefusal {
    /// The engine stops.
    Closed,
    /// For good: the word says why.
    Letter(&'static str),
}

/// Sends dead letters into an engine of this process.
#[derive(Debug)]
pub struct Replayer {
    publisher: Mutex<Publisher>,
}

impl Replayer {
    /// By this publisher, which nobody else uses.
    pub fn new(publisher: Publisher) -> Self {
        Self { publisher: Mutex::new(publisher) }
    }

    /// Sends a letter; waits for room.
    ///
    /// # Errors
    /// See [`ReplayRefusal`].
    pub fn send(&self, letter: &DeadLetter) -> Result<(), ReplayRefusal> {
        loop {
            if let Some(answer) = self.offer(letter) {
                return answer;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Sends a letter if there is room, and no level against it. `None`: nothing was done.
    fn offer(&self, letter: &DeadLetter) -> Option<Result<(), ReplayRefusal>> {
        let publication = match publication_of(letter) {
            Ok(publication) => publication,
            Err(refusal) => return Some(Err(refusal)),
        };
        let answer = self.publisher.lock().expect("nobody panics with this lock held").offer(publication)?;
        Some(answer.map(drop).map_err(|refused| refusal_of(refused.refusal)))
    }

    /// Sends the letter of a line if there is room.
    pub fn offer_line(&self, line: &[u8]) -> LetterVerdict {
        let Ok(letter) = parse_line(line) else { return LetterVerdict::Refused("not_a_letter") };
        match self.offer(&letter) {
            Some(Ok(())) => LetterVerdict::Sent,
            None => LetterVerdict::MustWait,
            Some(Err(ReplayRefusal::Closed)) => LetterVerdict::Closed,
            Some(Err(ReplayRefusal::Letter(why))) => LetterVerdict::Refused(why),
        }
    }
}

fn publication_of(letter: &DeadLetter) -> Result<Publication<'_>, ReplayRefusal> {
    if letter.sample == Some(SampleKind::Topic) {
        return Err(ReplayRefusal::Letter("sample_of_topic"));
    }
    let key = letter.key.or(EventKey::new(ID_KEYS | u128::from(letter.id)));
    let publication = Publication::new(&letter.topic, &letter.body, letter.priority).again_as(letter.id);
    Ok(Publication { key, ..publication })
}

fn refusal_of(refusal: Refusal) -> ReplayRefusal {
    match refusal {
        Refusal::Closed => ReplayRefusal::Closed,
        Refusal::Frame(frame) => ReplayRefusal::Letter(frame.name()),
        Refusal::Lost(reason) => ReplayRefusal::Letter(reason.name()),
        Refusal::WouldBlock => ReplayRefusal::Letter("would_block"),
    }
}

const _: () = assert!(ID_KEYS as u64 == 0);
