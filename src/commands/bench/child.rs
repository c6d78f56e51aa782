//! An engine as a child process: `eventstream serve` of this binary on one core, with ports and a data folder of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::commands::status;
use crate::commands::{CommandError, ExitStatus};
use crate::metrics::status::StatusDocument;
use crate::sys::process::{ask_to_end, pin_current_thread};

/// How long an engine may take to drain, beyond its own deadline.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// A running engine. Dropped, it is killed.
pub(super) struct EngineChild {
    child: Child,
    /// Where it takes TCP.
    pub(super) tcp: SocketAddr,
    /// Where it takes datagrams.
    pub(super) udp: SocketAddr,
    admin: SocketAddr,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

/// What the kernel says that a process took so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Nanoseconds of CPU, over all threads.
    pub(super) cpu_ns: u64,
    /// Times that a thread went to sleep.
    pub(super) sleeps: u64,
    /// Bytes of memory resident now.
    pub(super) resident_bytes: u64,
    /// The most that it was.
    pub(super) resident_bytes_max: u64,
}

/// Reads a pipe to its end.
fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        // Whatever came before an error is worth showing.
        let _ = pipe.read_to_string(&mut text);
        text
    })
}

impl EngineChild {
    /// Starts it with these flags of `serve`, all of its threads on that core.
    ///
    /// # Errors
    /// It does not start: what it said.
    pub(super) fn start(cpu: u32, data: &Path, flags: &[String]) -> Result<EngineChild, CommandError> {
        let no_start = |cause: String| {
            CommandError::new(ExitStatus::Environment, "the engine does not start", cause, "see above, or `eventstream doctor`")
        };
        let binary = std::env::current_exe().map_err(|error| no_start(error.to_string()))?;
        let mut command = Command::new(binary);
        command.arg("serve").arg(format!("--data-dir={}", data.display()));
        command.args(["--tcp-listen=127.0.0.1:0", "--udp-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A child inherits the CPUs of the thread that makes it.
        let spawning = std::thread::spawn(move || {
            let _ = pin_current_thread(cpu);
            command.spawn()
        });
        let mut child = spawning.join().expect("spawning does not panic").map_err(|error| no_start(error.to_string()))?;
        let stderr = drain(child.stderr.take().expect("piped"));
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        match addresses(&mut lines) {
            Some((tcp, udp, admin)) => {
                Ok(EngineChild { child, tcp, udp, admin, stdout: Some(drain(lines)), stderr: Some(stderr) })
            }
            None => {
                // It has closed its output: it ends by itself.
                let _ = child.wait();
                Err(no_start(stderr.join().unwrap_or_default().trim().replace('\n', "; ")))
            }
        }
    }

    /// What it says of itself. Rendered when asked, but for a quarter of a second the same.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn status(&self) -> Result<StatusDocument, CommandError> {
        status::document(self.admin)
    }

    /// What it took so far; zeros where `/proc` is hidden.
    pub(super) fn taken(&self) -> Taken {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let mut taken = Taken::default();
        for task in tasks.into_iter().flatten().flatten() {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            // First field: nanoseconds on a CPU.
            taken.cpu_ns += read("schedstat").split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
            let status = read("status");
            taken.sleeps += number(&status, "voluntary_ctxt_switches:");
            taken.resident_bytes = number(&status, "VmRSS:") << 10;
            taken.resident_bytes_max = number(&status, "VmHWM:") << 10;
        }
        taken
    }

    /// Bytes that it has read from files, through the page cache or past it; 0 where `/proc` is hidden.
    pub(super) fn bytes_read(&self) -> u64 {
        number(&fs::read_to_string(format!("/proc/{}/io", self.child.id())).unwrap_or_default(), "rchar:")
    }

    /// Its number as a process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether all of its threads stand still, after a SIGSTOP.
    pub(super) fn is_paused(&self) -> bool {
        let stands = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state follows the name, which is in brackets and may hold anything.
            stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
        };
        fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten().all(stands)
    }

    /// Drains it and waits for its end; what it had to say where that was not in good order.
    ///
    /// # Errors
    /// It does not end.
    pub(super) fn stop(mut self) -> Result<Option<String>, CommandError> {
        ask_to_end(self.child.id());
        let give_up = Instant::now() + END_PATIENCE;
        let hangs = |cause: String| {
            CommandError::new(ExitStatus::Runtime, "the engine does not end", cause, "look at its threads; it is killed now")
        };
        let status = loop {
            match self.child.try_wait().map_err(|error| hangs(error.to_string()))? {
                Some(status) => break status,
                None if Instant::now() >= give_up => return Err(hangs(format!("no exit within {END_PATIENCE:?}"))),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let [stdout, stderr] = [self.stdout.take(), self.stderr.take()]
            .map(|reader| reader.and_then(|reader| reader.join().ok()).unwrap_or_default());
        if status.success() && stdout.contains("ledger: balanced") {
            return Ok(None);
        }
        let said = stderr.lines().rev().take(3).collect::<Vec<_>>().join("; ");
        Ok(Some(format!("the engine ended with {status}: {said}")))
    }
}

impl Drop for EngineChild {
    fn drop(&mut self) {
        // Both fail only where it has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The line of the start report that names the ports.
fn addresses(lines: &mut impl BufRead) -> Option<(SocketAddr, SocketAddr, SocketAddr)> {
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let ["tcp", tcp, "udp", udp, "admin", admin] = line.split_whitespace().collect::<Vec<_>>()[..] {
            return Some((tcp.parse().ok()?, udp.parse().ok()?, admin.parse().ok()?));
        }
    }
}

/// The number behind a key at the start of a line.
fn number(text: &str, key: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_from_the_start_report() {
        let mut text = "eventstream 0.1.0\ntcp 127.0.0.1:4000  udp 127.0.0.1:4001  admin 127.0.0.1:4002\ndata x\n".as_bytes();
        let ports = addresses(&mut text).map(|(tcp, udp, admin)| [tcp, udp, admin].map(|address| address.port()));
        assert_eq!(ports, Some([4000, 4001, 4002]));
        assert_eq!(addresses(&mut "error: no\n".as_bytes()), None);
    }

    #[test]
    fn numbers_of_proc_are_found_by_their_key() {
        let text = "VmRSS:\t  2048 kB\nnonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t5\n";
        assert_eq!((number(text, "VmRSS:"), number(text, "voluntary_ctxt_switches:"), number(text, "x")), (2048, 5, 0));
    }
}
