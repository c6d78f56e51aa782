//! `POST /replay` of the admin endpoint: dead letters, one a line, that are sent into the engine again.
//!
//! - **Z1** It is for this host's own tools: only a loopback peer is heard, and no browser (which would say where a page is from, and can't
//!   send this media type from a form).
//! - **Z2** One request at a time, of at most [`DEAD_LETTER_LINE_BYTES_MAX`]: the memory of one body.
//! - **Z3** Lines are taken in order; the answer says how many. What is left finds no room, and is sent again by its sender: nothing waits here
//!   for longer than [`REPLAY_PATIENCE`], and nothing is lost or taken twice by that.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::limits::DEAD_LETTER_LINE_BYTES_MAX;

/// The media type of letters.
pub const REPLAY_MEDIA_TYPE: &str = "application/x-ndjson";

/// How long a request waits for room.
const REPLAY_PATIENCE: Duration = Duration::from_secs(1);

/// Between two looks for room.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// Letters after which others of this thread get a turn.
const TURN_LETTERS: u64 = 256;

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterVerdict {
    /// It is an event again.
    Sent,
    /// There is no room now.
    MustWait,
    /// It can't be sent: the word says why.
    Refused(&'static str),
    /// The engine stops.
    Closed,
}

/// Takes a line.
pub type LetterIntake = Box<dyn Fn(&[u8]) -> LetterVerdict + Send + Sync>;

/// The answer to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayAnswer {
    /// Lines done with, from the first on; what follows is to be sent again.
    pub taken: u64,
    /// Of these, events again.
    pub accepted: u64,
    /// Of these, refused for good, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Whether the engine stops and takes no more.
    pub closed: bool,
}

/// The way in, if the engine has one.
pub(super) struct Replay {
    intake: Option<LetterIntake>,
    turn: Semaphore,
}

impl Replay {
    pub(super) fn new(intake: Option<LetterIntake>) -> Arc<Self> {
        Arc::new(Self { intake, turn: Semaphore::new(1) })
    }
}

/// Who has connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

pub(super) async fn replay(
    State(replay): State<Arc<Replay>>,
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let refused = |code, why: &str| (code, format!("{why}\n")).into_response();
    if !peer.ip().to_canonical().is_loopback() {
        return refused(StatusCode::FORBIDDEN, "dead letters are taken from this host only");
    }
    if headers.contains_key(header::ORIGIN) {
        return refused(StatusCode::FORBIDDEN, "dead letters are not taken from a browser");
    }
    if headers.get(header::CONTENT_TYPE).is_none_or(|given| given != REPLAY_MEDIA_TYPE) {
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "dead letters come as application/x-ndjson");
    }
    let Some(intake) = &replay.intake else { return refused(StatusCode::NOT_FOUND, "this engine takes no dead letters") };
    let Ok(_turn) = replay.turn.try_acquire() else {
        return refused(StatusCode::TOO_MANY_REQUESTS, "another replay is at it");
    };
    let Ok(lines) = to_bytes(body, DEAD_LETTER_LINE_BYTES_MAX).await else {
        return refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or did not come to its end");
    };
    let answer = take(intake, &lines).await;
    let text = serde_json::to_string(&answer).expect("maps with text keys and numbers always have a JSON form");
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

async fn take(intake: &LetterIntake, lines: &[u8]) -> ReplayAnswer {
    let mut answer = ReplayAnswer::default();
    let give_up = Instant::now() + REPLAY_PATIENCE;
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let verdict = loop {
            match intake(line) {
                LetterVerdict::MustWait if Instant::now() < give_up => tokio::time::sleep(LOOK_EVERY).await,
                verdict => break verdict,
            }
        };
        match verdict {
            LetterVerdict::Sent => answer.accepted += 1,
            LetterVerdict::Refused(why) => *answer.refused.entry(why.to_owned()).or_default() += 1,
            LetterVerdict::MustWait => return answer,
            LetterVerdict::Closed => return ReplayAnswer { closed: true, ..answer },
        }
        answer.taken += 1;
        if answer.taken.is_multiple_of(TURN_LETTERS) {
            tokio::task::yield_now().await;
        }
    }
    answer
}
