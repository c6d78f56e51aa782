//! `eventstream status`: asks a running engine how it is.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use argh::FromArgs;

use super::{CommandError, ExitStatus, print};
use crate::metrics::status::StatusDocument;

/// How long an answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// asks a running engine: its ledger, log, levels and latencies
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "status")]
pub struct StatusCommand {
    /// where its admin endpoint is (default EVENTSTREAM_ADMIN_LISTEN or 127.0.0.1:9002)
    #[argh(option)]
    admin: Option<SocketAddr>,
    /// prints the answer as JSON, the ledger's terms as fields
    #[argh(switch)]
    json: bool,
}

impl StatusCommand {
    /// Asks and prints.
    ///
    /// # Errors
    /// No engine there, or an answer that is none.
    pub fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let admin = self.admin.map_or_else(address_from_environment, Ok)?;
        let body = ask(admin)?;
        let text = if self.json { format!("{}\n", body.trim_end()) } else { read_answer(admin, &body)?.to_string() };
        print(out, &text).map(|()| ExitStatus::Ok)
    }
}

pub(super) fn address_from_environment() -> Result<SocketAddr, CommandError> {
    let text = std::env::var("EVENTSTREAM_ADMIN_LISTEN").unwrap_or_else(|_| "127.0.0.1:9002".to_owned());
    text.parse().map_err(|_| {
        let cause = "it is not an IP address with a port";
        CommandError::new(
            ExitStatus::Configuration,
            format!("EVENTSTREAM_ADMIN_LISTEN={text} is refused"),
            cause,
            "--admin 127.0.0.1:9002",
        )
    })
}

fn ask(admin: SocketAddr) -> Result<String, CommandError> {
    let no_answer = |cause: String| {
        let fix = "start one with `eventstream serve`, or name its address with --admin ADDRESS:PORT";
        CommandError::new(ExitStatus::Runtime, format!("no engine answers at {admin}"), cause, fix)
    };
    // No proxy: the address is meant as it is, whatever HTTP_PROXY says.
    let agent = ureq::Agent::config_builder().timeout_global(Some(ANSWER_DEADLINE)).proxy(None).build().new_agent();
    let mut answer = agent.get(format!("http://{admin}/status")).call().map_err(|error| no_answer(error.to_string()))?;
    answer.body_mut().read_to_string().map_err(|error| no_answer(error.to_string()))
}

/// What an engine says of itself.
///
/// # Errors
/// As [`StatusCommand::run`].
pub(super) fn document(admin: SocketAddr) -> Result<StatusDocument, CommandError> {
    read_answer(admin, &ask(admin)?)
}

fn read_answer(admin: SocketAddr, body: &str) -> Result<StatusDocument, CommandError> {
    serde_json::from_str(body).map_err(|error| {
        let fix = "name the admin endpoint of an engine of this version with --admin ADDRESS:PORT, or use --json";
        CommandError::new(ExitStatus::Runtime, format!("what {admin} answers is no status"), error.to_string(), fix)
    })
}
