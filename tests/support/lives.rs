//! Lives of an engine on one log, each of them ended by a crash under load. What a crash is, the test says.
//!
//! ```text
//!  life 0 ──crash── life 1 ──crash── … ── last life, which drains ── audit
//!    │ plain connections, a watch: for one life each
//!    └ sessions: over all of them; they send again what has no outcome
//! ```

use std::ops::Range;
use std::path::Path;

use eventstream::client::AckLevel;

use super::Server;
use super::numbered::{Account, Audit, Load, Watch};
use super::sessions::Sessions;

/// Sessions, and as many plain connections.
const SENDERS: u32 = 2;

/// What stays the same over all lives.
pub struct Lives<'a> {
    /// The data folder.
    pub data: &'a Path,
    /// What sessions ask for; what is watched goes by it too.
    pub level: AckLevel,
    /// Events that a session sends at a time, every 2 ms.
    pub burst_events: u32,
}

impl Lives<'_> {
    /// Lives with these numbers, each with the flags of its number; `crash` gets an engine that has begun to store, and its flags, which say its
    /// address too. What the log says in the end.
    pub fn run<const FLAGS: usize>(
        &self,
        numbers: Range<u32>,
        flags: impl Fn(u32) -> [&'static str; FLAGS],
        mut crash: impl FnMut(Server, &[&str]),
    ) -> Audit {
        let mut account = Account::default();
        let mut sessions = None;
        let mut address = "--tcp-listen=127.0.0.1:0".to_owned();
        for number in numbers.clone() {
            let flags = [&flags(number)[..], &[&address]].concat();
            let server = Server::start_on(self.data, &flags);
            sessions.get_or_insert_with(|| Sessions::start(server.tcp, self.level, SENDERS, self.burst_events));
            let watch = Watch::start(&server, self.level);
            let load = Load::start(&server, number, SENDERS);
            server.wait_stored(1);
            let of_all_lives = format!("--tcp-listen={}", server.tcp);
            crash(server, &[&flags[..FLAGS], &[&of_all_lives]].concat());
            load.end(&mut account);
            watch.end(&mut account);
            address = of_all_lives;
        }
        let server = Server::start_on(self.data, &[&flags(numbers.end)[..], &[&address]].concat());
        sessions.expect("there was a life").end(&mut account);
        server.stop().assert_clean();
        account.audit(self.data)
    }
}
