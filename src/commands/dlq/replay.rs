//! `dlq replay`: dead letters become events again, each once.
//!
//! ```text
//! letters ─► ids ─► which are in the logs? ─► letters again: stored, sent already ─ passed over
//!                                                            else ─► engine: its key tells what is on its way already
//! ```
//!
//! - **Q1** An event whose id is in a log is not sent. The log is looked through before anything is sent, so this holds for all that earlier
//!   replays have brought into it; what they sent and is still on its way the engine's dedup knows by its key, in all tiers.
//! - **Q2** So a replay that was cut short, by whatever, is given again, and stores what is missing.
//! - **Q3** There is no second way into the log: offline it is an engine without sockets that stores the events.
//!
//! Limits: with `--dedup off` Q1 holds for what is in the log only; and so it does for an event that is sent again after having been on its
//! way for longer than `--dedup-window-ms`.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::selection::{Selection, with_selection};
use super::stored::{Ids, mark_stored};
use super::{CommandError, ExitStatus, open_letters, print, runtime, unreadable};
use crate::commands::status::address_from_environment;
use crate::config::{Auto, Config, Flags, Layers, OnOff};
use crate::engine::{Engine, ReplayRefusal, Replayer};
use crate::metrics::admin::{REPLAY_MEDIA_TYPE, ReplayAnswer};
use crate::storage::dead_letter::line::{DeadLetter, SampleKind, write_line};
use crate::storage::dead_letter::reader::LetterReader;

/// Letters sent in one request, unless one of them is longer.
const REQUEST_BYTES: usize = 256 << 10;

/// How long an answer may take; the engine itself waits for a second.
const ANSWER_DEADLINE: Duration = Duration::from_secs(9);

/// How long an engine may take no letter at all before the replay is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

with_selection! {
    /// send dead letters again, each once: what the log has is passed over, so a replay that was cut short can be repeated.
    /// Sends them into a running engine, on its own host, which looks at its own data folder; or, with --offline, straight
    /// into the log.
    #[argh(subcommand, name = "replay")]
    struct ReplayArgs {
        /// where the engine's admin endpoint is (default EVENTSTREAM_ADMIN_LISTEN or 127.0.0.1:9002)
        #[argh(option)]
        admin: Option<SocketAddr>,
        /// no engine runs: start one without sockets on the data folder, for this
        #[argh(switch)]
        offline: bool,
        /// with --offline: the configuration file of the engine
        #[argh(option)]
        config: Option<PathBuf>,
        /// samples of drops too: the few of many events that were dropped and only counted
        #[argh(switch)]
        samples: bool,
        /// only count what would be sent
        #[argh(switch)]
        dry_run: bool,
        /// print JSON
        #[argh(switch)]
        json: bool,
    }
}

/// What became of the letters that were selected.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Tally {
    read: u64,
    skipped_as_stored: u64,
    duplicates: u64,
    sent: u64,
    refused: BTreeMap<String, u64>,
}

impl Tally {
    fn refuse(&mut self, why: &str, count: u64) {
        *self.refused.entry(why.to_owned()).or_default() += count;
    }
}

/// Where letters go.
trait Destination {
    /// Takes a letter, at once or later.
    fn send(&mut self, letter: &DeadLetter, tally: &mut Tally) -> Result<(), CommandError>;
    /// Sends what is left, and ends.
    fn finish(self: Box<Self>, tally: &mut Tally) -> Result<Option<String>, CommandError>;
}

impl ReplayArgs {
    pub(super) fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let (path, selection) = (self.path(), self.selection());
        let mut letters = open_letters(&path)?;
        // Before the logs are looked through: offline, so that nobody else changes them meanwhile (Q1).
        let mut destination: Box<dyn Destination> = match (self.dry_run, self.offline) {
            (true, _) => Box::new(Nowhere),
            (false, true) => Box::new(Offline::start(&self, &path)?),
            (false, false) => Box::new(Online::new(self.admin.map_or_else(address_from_environment, Ok)?)),
        };
        let mut ids = Ids::new();
        for_each_selected(&mut letters, &path, &selection, &mut |letter| {
            ids.insert(letter.id, false);
            Ok(())
        })?;
        mark_stored(&self.data_dir, &mut ids, !self.offline && !self.dry_run)?;
        letters.rewind();
        let (mut tally, mut seen, mut progress) = (Tally::default(), HashSet::new(), Progress::new(ids.len()));
        let sent = for_each_selected(&mut letters, &path, &selection, &mut |letter| {
            tally.read += 1;
            progress.look(&tally);
            match letter.sample {
                _ if ids.get(&letter.id) == Some(&true) => tally.skipped_as_stored += 1,
                _ if !seen.insert(letter.id) => tally.duplicates += 1,
                Some(_) if !self.samples => tally.refuse("sample (see --samples)", 1),
                Some(SampleKind::Topic) => tally.refuse("sample_of_topic", 1),
                _ => return destination.send(letter, &mut tally),
            }
            Ok(())
        });
        let finished = destination.finish(&mut tally);
        let result = sent.and(finished);
        let (text, failure) = match result {
            Ok(account) => (account.unwrap_or_default(), None),
            Err(error) => (String::new(), Some(error)),
        };
        print(out, &(text + &self.told(&tally)))?;
        match failure {
            Some(error) => Err(error),
            // What was not asked for is no failure.
            None if tally.refused.keys().all(|why| why.starts_with("sample")) => Ok(ExitStatus::Ok),
            None => Ok(ExitStatus::Runtime),
        }
    }

    fn told(&self, tally: &Tally) -> String {
        if self.json {
            return serde_json::to_string(tally).expect("maps with text keys and numbers always have a JSON form") + "\n";
        }
        let Tally { read, skipped_as_stored, duplicates, sent, refused } = tally;
        let refused: Vec<String> = refused.iter().map(|(why, count)| format!("{count} {why}")).collect();
        let refused = if refused.is_empty() { "none".to_owned() } else { refused.join(", ") };
        let sent_or_not = if self.dry_run { "would be sent" } else { "sent" };
        format!(
            "{read} letters read: {skipped_as_stored} passed over as stored, {duplicates} as duplicates; {sent} {sent_or_not}; refused: {refused}\n"
        )
    }
}

fn for_each_selected(
    letters: &mut LetterReader,
    path: &Path,
    selection: &Selection,
    each: &mut dyn FnMut(&DeadLetter) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    while let Some(letter) = letters.next_letter().map_err(|error| unreadable(path, &error))? {
        if selection.admits(&letter) {
            each(&letter)?;
        }
    }
    Ok(())
}

/// A line a second on stderr.
struct Progress {
    events: usize,
    next_at: Instant,
}

impl Progress {
    fn new(events: usize) -> Self {
        Self { events, next_at: Instant::now() + PROGRESS_EVERY }
    }

    fn look(&mut self, tally: &Tally) {
        if Instant::now() >= self.next_at {
            self.next_at = Instant::now() + PROGRESS_EVERY;
            eprintln!("{} letters of {} events read, {} sent", tally.read, self.events, tally.sent);
        }
    }
}

struct Nowhere;

impl Destination for Nowhere {
    fn send(&mut self, _: &DeadLetter, tally: &mut Tally) -> Result<(), CommandError> {
        tally.sent += 1;
        Ok(())
    }

    fn finish(self: Box<Self>, _: &mut Tally) -> Result<Option<String>, CommandError> {
        Ok(None)
    }
}

/// A running engine, by its admin endpoint.
struct Online {
    agent: ureq::Agent,
    url: String,
    admin: SocketAddr,
    lines: Vec<u8>,
    body: String,
}

impl Online {
    fn new(admin: SocketAddr) -> Self {
        // No proxy: the address is meant as it is, whatever HTTP_PROXY says. And a connection for each request, as the endpoint ends each after
        // some seconds, in the middle of whatever is asked.
        let config = ureq::Agent::config_builder().timeout_global(Some(ANSWER_DEADLINE)).proxy(None).max_idle_connections(0);
        let agent = config.http_status_as_error(false).build().new_agent();
        Self { agent, url: format!("http://{admin}/replay"), admin, lines: Vec::new(), body: String::new() }
    }

    fn ask(&self) -> Result<ReplayAnswer, CommandError> {
        let no_answer = |cause: String| {
            let fix = "start one with `eventstream serve`, name its address with --admin ADDRESS:PORT, or use --offline";
            runtime(format!("no engine takes dead letters at {}", self.admin), cause, fix)
        };
        let request = self.agent.post(&self.url).header("content-type", REPLAY_MEDIA_TYPE);
        let mut answer = request.send(&self.lines[..]).map_err(|error| no_answer(error.to_string()))?;
        let text = answer.body_mut().read_to_string().map_err(|error| no_answer(error.to_string()))?;
        if !answer.status().is_success() {
            return Err(no_answer(format!("it answers {}: {}", answer.status(), text.trim())));
        }
        serde_json::from_str(&text).map_err(|error| no_answer(format!("it is no engine of this version: {error}")))
    }

    /// Sends all lines; again and again those that find no room.
    fn flush(&mut self, tally: &mut Tally) -> Result<(), CommandError> {
        let mut moved_at = Instant::now();
        while !self.lines.is_empty() {
            let answer = self.ask()?;
            tally.sent += answer.accepted;
            answer.refused.iter().for_each(|(why, count)| tally.refuse(why, *count));
            let ends = self.lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
            let done = match answer.taken {
                0 => 0,
                taken => ends.clone().nth(taken as usize - 1).unwrap_or(self.lines.len()),
            };
            self.lines.drain(..done);
            if answer.closed {
                let fix = "give the command again when it runs, or with --offline: what is stored is not sent twice";
                return Err(runtime("the engine stops", "it takes no more dead letters", fix));
            }
            if answer.taken > 0 {
                moved_at = Instant::now();
            } else if moved_at.elapsed() >= PATIENCE {
                let cause = format!("its tiers had no room, or its level sheds, for {} s", PATIENCE.as_secs());
                let fix =
                    "`eventstream status` shows what holds it up; then give the command again: what is stored is not sent twice";
                return Err(runtime("the engine takes no dead letters", cause, fix));
            }
        }
        Ok(())
    }
}

impl Destination for Online {
    fn send(&mut self, letter: &DeadLetter, tally: &mut Tally) -> Result<(), CommandError> {
        let before = self.lines.len();
        write_line(&letter.view(), &mut self.body, &mut self.lines);
        if self.lines.len() > REQUEST_BYTES && before > 0 {
            // A long letter goes alone: a request takes the longest one, and not more.
            let last = self.lines.split_off(before);
            self.flush(tally)?;
            self.lines = last;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, tally: &mut Tally) -> Result<Option<String>, CommandError> {
        self.flush(tally).map(|()| None)
    }
}

/// An engine of its own, without sockets.
struct Offline {
    engine: Engine,
    replayer: Replayer,
}

impl Offline {
    fn start(args: &ReplayArgs, path: &Path) -> Result<Self, CommandError> {
        let loaded = Config::load(&Layers::of_process(Flags::with_config(args.config.clone())))?.config;
        let Config { tcp_listen, udp_listen, admin_listen, .. } = Config::without_sockets();
        let config = Config {
            data_dir: args.data_dir.clone(),
            dead_letter_path: Auto::Given(path.to_owned()),
            tcp_listen,
            udp_listen,
            admin_listen,
            // Whatever the engine's tiers do when they are full: nothing that is sent again is to be lost by that.
            tcp_flow_control: OnOff::On,
            ..loaded
        };
        let (mut engine, _report) = Engine::builder().config(config).publishers(1).start()?;
        let publisher = engine.publishers().pop().expect("one was asked for");
        Ok(Self { engine, replayer: Replayer::new(publisher) })
    }
}

impl Destination for Offline {
    fn send(&mut self, letter: &DeadLetter, tally: &mut Tally) -> Result<(), CommandError> {
        match self.replayer.send(letter) {
            Ok(()) => tally.sent += 1,
            Err(ReplayRefusal::Letter(why)) => tally.refuse(why, 1),
            Err(ReplayRefusal::Closed) => {
                return Err(runtime("the engine has ended", "see the lines above", "a whole disk and log"));
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _: &mut Tally) -> Result<Option<String>, CommandError> {
        let account = self.engine.stop();
        if account.is_clean() {
            return Ok(None);
        }
        let fix = "give the command again: what is stored is not sent twice";
        Err(runtime("the engine did not end well", format!("its account:\n{account}"), fix))
    }
}
