//! `eventstream sim`: seeds of the simulator, each a whole node with its load, faults and crashes. In builds with the feature `sim` only.

use std::io::{self, Write};
use std::time::Instant;

use argh::FromArgs;

use super::{CommandError, ExitStatus, print};
use crate::sim::campaign::{Bug, Campaign};

/// Runs the engine in the simulator, seed by seed.
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "sim")]
pub struct SimCommand {
    /// run this seed alone
    #[argh(option, arg_name = "n")]
    seed: Option<u64>,
    /// run so many seeds (1000)
    #[argh(option, arg_name = "n", default = "1_000")]
    seeds: u64,
    /// the first of them (0)
    #[argh(option, arg_name = "n", default = "0")]
    from: u64,
    /// threads that share them (one per core)
    #[argh(option, arg_name = "n", default = "cores()")]
    threads: usize,
    /// plant a bug: NO_FSYNC, NO_CRC, EARLY_ACK, NO_REARM, DOUBLE_RELEASE or DROP_UNCOUNTED
    #[argh(option, arg_name = "name")]
    bug: Option<Bug>,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

impl SimCommand {
    /// Runs them, and says what went wrong in them, how many hold and how fast it was.
    ///
    /// # Errors
    /// The first seed that fails, with the command that shows it again.
    pub fn run(self, out: &mut dyn Write) -> Result<ExitStatus, CommandError> {
        let (from, seeds) = self.seed.map_or((self.from, self.seeds), |seed| (seed, 1));
        let began = Instant::now();
        let per_minute = |done: u64| done as f64 * 60.0 / began.elapsed().as_secs_f64();
        let progress = |done| {
            // Nothing better can be done about a closed stderr.
            let _ = writeln!(io::stderr(), "sim: {done} of {seeds} seeds, {:.0} a minute", per_minute(done));
        };
        let campaign = Campaign { from, seeds, threads: self.threads, bug: self.bug };
        let tally = campaign.run(progress).map_err(|failure| {
            // An oracle may have much to say: all of it here, its first line in the error.
            let _ = writeln!(io::stderr(), "{}", failure.oracle);
            let error = format!("seed {} fails: {}", failure.seed, failure.oracle.lines().next().unwrap_or_default());
            let cause = format!("an oracle of the simulator is violated, at {}", failure.place);
            CommandError::new(ExitStatus::Runtime, error, cause, failure.replay())
        })?;
        print(
            out,
            &format!("{tally}{seeds} seeds from {from} on: every oracle holds; {:.0} seeds a minute\n", per_minute(seeds)),
        )?;
        Ok(ExitStatus::Ok)
    }
}
