//! Starts the real binary on ports and folders of its own, talks to it, and asks it what became of every event.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod lives;
pub mod numbered;
pub mod refused;
pub mod sessions;
pub mod small_disk;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take before a test gives up. Generous: machines are small and shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What tests want unless their flags say otherwise: free ports, and a pool small enough for many engines side by side.
pub const DEFAULTS: &[(&str, &str)] = &[
    ("EVENTSTREAM_TCP_LISTEN", "127.0.0.1:0"),
    ("EVENTSTREAM_UDP_LISTEN", "127.0.0.1:0"),
    ("EVENTSTREAM_ADMIN_LISTEN", "127.0.0.1:0"),
    ("EVENTSTREAM_POOL_SMALL_SLOTS", "16384"),
    ("EVENTSTREAM_POOL_MEDIUM_SLOTS", "4096"),
    ("EVENTSTREAM_POOL_LARGE_SLOTS", "4"),
    ("EVENTSTREAM_UDP_SLOTS", "256"),
    ("EVENTSTREAM_DEDUP_CAPACITY", "65536"),
];

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_eventstream")
}

/// A process that does not outlive a failing test, with the ports and file systems that it holds.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // Refused, and right so, where it has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running engine.
pub struct Server {
    child: Guarded,
    /// Where it takes TCP.
    pub tcp: SocketAddr,
    /// Where it takes UDP.
    pub udp: SocketAddr,
    /// Where it answers status.
    pub admin: SocketAddr,
    /// Its data folder.
    pub data: PathBuf,
    stdout: std::thread::JoinHandle<String>,
    stderr: std::thread::JoinHandle<String>,
    _folder: Option<tempfile::TempDir>,
}

/// How an engine ended.
pub struct Ended {
    /// Exit status.
    pub status: ExitStatus,
    /// All of stdout after the start.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    /// The data folder's keeper: look into the folder before this goes.
    pub folder: Option<tempfile::TempDir>,
    /// The data folder.
    pub data: PathBuf,
}

impl Server {
    /// An engine on a fresh data folder, with a small pool and these flags on top.
    pub fn start(flags: &[&str]) -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let mut server = Self::spawn(Command::new(binary()), &data, flags);
        server._folder = Some(folder);
        server
    }

    /// An engine on a given data folder.
    pub fn start_on(data: &Path, flags: &[&str]) -> Server {
        Self::spawn(Command::new(binary()), data, flags)
    }

    /// An engine started by a given command (a wrapper, or one with an environment), whose last word is the binary.
    pub fn spawn(mut command: Command, data: &Path, flags: &[&str]) -> Server {
        command
            .arg("serve")
            .envs(DEFAULTS.iter().copied())
            .arg(format!("--data-dir={}", data.display()))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let (mut tcp, mut udp, mut admin) = (None, None, None);
        let mut seen = String::new();
        while admin.is_none() || tcp.is_none() || udp.is_none() {
            let mut line = String::new();
            if lines.read_line(&mut line).expect("stdout is text") == 0 {
                let _ = child.wait();
                panic!("the engine did not start:\n{seen}\n{}", stderr.join().expect("reader"));
            }
            seen.push_str(&line);
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["tcp", at_tcp, "udp", at_udp, "admin", at_admin] = words[..] {
                (tcp, udp, admin) = (at_tcp.parse().ok(), at_udp.parse().ok(), at_admin.parse().ok());
            }
        }
        let stdout = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = lines.read_to_string(&mut text);
            text
        });
        let (tcp, udp, admin) = (tcp.expect("set"), udp.expect("set"), admin.expect("set"));
        Server { child: Guarded(child), tcp, udp, admin, data: data.to_owned(), stdout, stderr, _folder: None }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.0.id() as i32
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: a plain syscall on our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(self.pid(), signal) }, 0);
    }

    /// What it says of itself.
    pub fn status(&self) -> Value {
        serde_json::from_str(&get(self.admin, "/status")).expect("as JSON")
    }

    /// Asks until `reached` says yes.
    pub fn wait_for(&self, what: &str, reached: impl Fn(&Value) -> bool) -> Value {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if reached(&status) {
                return status;
            }
            assert!(Instant::now() < give_up, "waited in vain for {what}; last status: {status:#}");
            std::thread::sleep(Duration::from_millis(10)); // between two questions, not for luck
        }
    }

    /// Waits until this many events are stored.
    pub fn wait_stored(&self, events: u64) -> Value {
        self.wait_for(&format!("{events} stored events"), |status| term(status, "stored") >= events)
    }

    /// A connection to it.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.tcp).expect("the engine accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a valid time-out");
        stream
    }

    /// A socket that sends to its UDP port.
    pub fn udp_socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.connect(self.udp).expect("loopback");
        socket
    }

    /// SIGTERM, and its end.
    pub fn stop(self) -> Ended {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// SIGKILL, and its end.
    pub fn kill(self) -> Ended {
        self.signal(libc::SIGKILL);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Ended {
        let give_up = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.0.try_wait().expect("our child") {
                break status;
            }
            if Instant::now() > give_up {
                let _ = self.child.0.kill();
                panic!("the engine did not end in time");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Ended {
            status,
            stdout: self.stdout.join().expect("reader"),
            stderr: self.stderr.join().expect("reader"),
            folder: self._folder,
            data: self.data,
        }
    }
}

impl Ended {
    /// Asserts a clean end: exit 0 and a ledger that balances.
    #[track_caller]
    pub fn assert_clean(&self) -> &Self {
        assert!(self.status.success(), "exit {:?}\n{}\n{}", self.status, self.stdout, self.stderr);
        assert!(self.stdout.contains("ledger: balanced"), "no balanced ledger in:\n{}", self.stdout);
        self
    }

    /// The records of its log.
    pub fn dump(&self) -> Vec<Value> {
        dump(&self.data)
    }
}

/// The records of a data folder's log, oldest first.
pub fn dump(data: &Path) -> Vec<Value> {
    let output = run(&["log", "dump", "--json", "--data-dir", &data.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> std::process::Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().expect("the binary runs")
}

/// A term of the ledger's total.
pub fn term(status: &Value, name: &str) -> u64 {
    status["total"][name].as_u64().unwrap_or_else(|| panic!("no term {name} in {status:#}"))
}

/// Events lost for a reason (dead-lettered or dropped).
pub fn lost(status: &Value, reason: &str) -> u64 {
    let total = &status["total"];
    total["dead_lettered"][reason].as_u64().or_else(|| total["dropped"][reason].as_u64()).unwrap_or(0)
}

/// Frames refused for a reason.
pub fn refused(status: &Value, reason: &str) -> u64 {
    status["refused_frames"][reason].as_u64().unwrap_or(0)
}

/// The sum of a metric over its labels, from a scrape, where the label text contains `label` (empty for all).
pub fn metric(server: &Server, name: &str, label: &str) -> u64 {
    let text = get(server.admin, "/metrics");
    text.lines()
        .filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']) && line.contains(label))
        .map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number") as u64)
        .sum()
}

/// What the admin endpoint answers; asked again while it has no descriptor to answer with.
fn get(admin: SocketAddr, path: &str) -> String {
    let give_up = Instant::now() + PATIENCE;
    loop {
        match ask(admin, path) {
            Ok(text) => return text,
            Err(error) => assert!(Instant::now() < give_up, "the engine does not answer: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50)); // between two questions
    }
}

/// One question to the admin endpoint, which may be gone.
fn ask(admin: SocketAddr, path: &str) -> Result<String, ureq::Error> {
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build().new_agent();
    agent.get(format!("http://{admin}{path}")).call().and_then(|mut answer| answer.body_mut().read_to_string())
}

/// What an engine says of itself that may have ended by now.
pub fn status_of(admin: SocketAddr) -> Option<Value> {
    ask(admin, "/status").ok().map(|text| serde_json::from_str(&text).expect("as JSON"))
}

/// One frame of the version-1 format.
pub fn frame(priority: u8, topic: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((3 + topic.len() + body.len()) as u32).to_be_bytes().to_vec();
    bytes.push(priority);
    bytes.extend((topic.len() as u16).to_be_bytes());
    bytes.extend(topic.as_bytes());
    bytes.extend(body);
    bytes
}

/// Waits until the peer has closed; returns what it sent before (which should be nothing).
pub fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the engine did not close the connection: {error}"),
    }
    answer
}

/// Sends all and closes our side.
pub fn send_all(server: &Server, bytes: &[u8]) {
    let mut stream = server.connect();
    stream.write_all(bytes).expect("the engine reads");
}

/// Says that a test could not run here. Never silent.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}
