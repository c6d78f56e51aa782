//! System calls that fail, once in a while or always: what the engine says, that it goes on where it can, and that the ledger balances.
//!
//! A call that always fails is refused by a seccomp filter, which needs no privilege and no tool. One that fails now and then, late, or for one file
//! is strace's, and skipped loudly where that is missing. What the ring does for us no filter and no tracer sees: that is for the simulated ring.

mod support;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use support::numbered::{Account, Load, UNHURRIED};
use support::refused::{ENVIRONMENT, assert_three_lines, refused_start, refused_start_of};
use support::*;

/// The engine in a process whose calls of this number always fail like this.
fn refusing(call: libc::c_long, errno: i32) -> Command {
    let statement = |code: u32, k: u32, jt: u8| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let filter = [
        // The call's number is the first field of seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0),
    ];
    let enter = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: plain numbers; a process may always give up gaining privileges.
        let is_bound = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } == 0;
        // SAFETY: the program points to a valid filter that outlives the call; the kernel copies it.
        let is_filtered = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } == 0;
        if is_bound && is_filtered { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    let mut command = Command::new(binary());
    // SAFETY: the closure makes two system calls and touches nothing else between fork and exec.
    unsafe { command.pre_exec(enter) };
    command
}

/// The engine under strace, which injects this (and looks at this file's calls only, if one is given); `None`, and a loud skip, without it.
fn traced(injection: &str, file: Option<&Path>) -> Option<Command> {
    let traces = Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).output().is_ok_and(|o| o.status.success());
    if !traces {
        skip("strace is not installed or may not trace: syscall faults are not injected");
        return None;
    }
    let mut command = Command::new("strace");
    // -D: the tracer is the grandchild, so that the engine is the process that is signalled and waited for.
    command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", &format!("inject={injection}")]);
    if let Some(file) = file {
        command.arg("-P").arg(file);
    }
    command.arg(binary());
    Some(command)
}

/// Stores some events of all tiers, and ends in good order.
fn serves(command: Command, flags: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::spawn(command, &folder.path().join("data"), flags);
    let mut stream = server.connect();
    for n in 0..200 {
        stream.write_all(&frame((n % 5) as u8, "with/faults", format!("event {n}").as_bytes())).expect("the engine reads");
    }
    server.wait_stored(200);
    drop(stream);
    let mut ended = server.stop();
    ended.assert_clean();
    assert_eq!(ended.dump().len(), 200);
    ended.folder = Some(folder);
    ended
}

#[test]
fn a_refused_io_uring_names_cause_and_fix() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        let (code, stderr) = refused_start_of(refusing(libc::SYS_io_uring_setup, errno), &data, &[]);
        assert_eq!(code, ENVIRONMENT, "{stderr}");
        assert_three_lines(&stderr);
        assert!(stderr.contains("io_uring"), "{stderr}");
        assert!(!data.exists(), "nothing is begun where nothing can run");
        let doctor = refusing(libc::SYS_io_uring_setup, errno).arg("doctor").output().expect("the binary runs");
        assert_eq!(doctor.status.code(), Some(ENVIRONMENT), "{}", String::from_utf8_lossy(&doctor.stdout));
    }
}

#[test]
fn interrupted_refused_and_late_ring_entries_lose_nothing() {
    for fault in ["error=EINTR:when=5+7", "error=EAGAIN:when=6+7", "error=EBUSY:when=7+7", "delay_enter=20000:when=5+9"] {
        let Some(command) = traced(&format!("io_uring_enter:{fault}"), None) else { return };
        serves(command, &[]);
    }
}

#[test]
fn memory_that_cannot_be_bound_is_used_unbound() {
    serves(refusing(libc::SYS_mbind, libc::EPERM), &[]);
}

#[test]
fn threads_that_cannot_be_pinned_run_unpinned_unless_strict() {
    let ended = serves(refusing(libc::SYS_sched_setaffinity, libc::EPERM), &[]);
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains("pin"), "not told:\n{said}");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pinned = refusing(libc::SYS_sched_setaffinity, libc::EPERM);
    let (code, stderr) = refused_start_of(pinned, &folder.path().join("data"), &["--strict"]);
    let (plain_code, _) = refused_start(Path::new("/proc/eventstream-data"), &["--strict"]);
    assert_eq!((code, plain_code), (ENVIRONMENT, ENVIRONMENT), "{stderr}");
    assert_three_lines(&stderr);
}

#[test]
fn a_folder_that_cannot_be_synced_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, stderr) = refused_start_of(refusing(libc::SYS_fsync, libc::EIO), &folder.path().join("data"), &[]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    assert!(stderr.contains(&folder.path().display().to_string()) && stderr.contains("os error 5"), "{stderr}");
}

#[test]
fn a_log_that_may_not_be_opened_is_refused_by_its_path() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    Server::start_on(&data, &[]).stop().assert_clean();
    let log = data.join("events.bin");
    let before = std::fs::read(&log).expect("there");
    let Some(command) = traced("openat:error=EACCES", Some(&log)) else { return };
    let (code, stderr) = refused_start_of(command, &data, &[]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    assert!(stderr.contains(&log.display().to_string()) && stderr.contains("os error 13"), "{stderr}");
    assert_eq!(std::fs::read(&log).expect("there"), before);
}

const SMALL_SEGMENTS: &str = "--segment-bytes=64KiB";

/// Sends until the log must have rolled often, or the engine has ended; everything stored is in the account.
fn load_over_rolls(command: Command, data: &Path, must_end: bool) -> (Ended, Account) {
    let server = Server::spawn(command, data, &[SMALL_SEGMENTS, UNHURRIED]);
    let mut account = Account::default();
    let load = Load::start(&server, 0, 2);
    let ended = if must_end {
        let ended = server.wait();
        load.end(&mut account);
        ended
    } else {
        server.wait_stored(5_000);
        load.end(&mut account);
        server.wait_stored(account.handed_over());
        server.stop()
    };
    (ended, account)
}

/// How many segments there are, of all nodes, and how many bytes the longest has.
fn segments(data: &Path) -> (usize, u64) {
    let is_segment = |name: &str| name.starts_with("events.") && name.ends_with(".bin");
    let entries = std::fs::read_dir(data).expect("there").map(|entry| entry.expect("an entry"));
    let segments = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_segment));
    let bytes: Vec<u64> = segments.map(|entry| entry.metadata().expect("there").len()).collect();
    (bytes.len(), bytes.into_iter().max().unwrap_or(0))
}

#[test]
fn a_next_segment_that_cannot_be_reserved_lets_the_active_one_grow() {
    for errno in [libc::ENOSPC, libc::EIO] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (ended, account) = load_over_rolls(refusing(libc::SYS_fallocate, errno), folder.path(), false);
        ended.assert_clean();
        assert!(account.audit(folder.path()).assert_kept().records >= 5_000);
        let (files, longest) = segments(folder.path());
        assert!(longest > 256 << 10, "{longest} bytes at most in {files} files: it rolled all the same");
    }
}

#[test]
fn a_file_system_that_cannot_reserve_is_written_to_as_it_goes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ended, account) = load_over_rolls(refusing(libc::SYS_fallocate, libc::EOPNOTSUPP), folder.path(), false);
    ended.assert_clean();
    assert!(account.audit(folder.path()).assert_kept().records >= 5_000);
    assert!(segments(folder.path()).0 > 5, "segments are sealed all the same");
}

/// A store that has failed ends the engine with exit code 1 and an account, and leaves a log that opens.
fn ends_the_store(command: Command, said: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // The log is there already: making it takes the same calls.
    Server::start_on(folder.path(), &[SMALL_SEGMENTS]).stop().assert_clean();
    let (ended, account) = load_over_rolls(command, folder.path(), true);
    assert_eq!(ended.status.code(), Some(1), "{}\n{}", ended.stdout, ended.stderr);
    assert_three_lines(&ended.stderr);
    assert!(ended.stdout.contains("ledger: balanced"), "{}", ended.stdout);
    assert!(ended.stderr.contains("FAILED") && ended.stderr.contains(said), "{}", ended.stderr);
    Server::start_on(folder.path(), &[SMALL_SEGMENTS]).stop().assert_clean();
    account.audit(folder.path()).assert_kept();
}

#[test]
fn a_segment_that_cannot_be_renamed_ends_the_store() {
    ends_the_store(refusing(libc::SYS_rename, libc::EIO), "seal a segment");
}

#[test]
fn a_failed_sync_of_a_segment_ends_the_store() {
    // The first calls are those of the opening.
    let Some(command) = traced("fsync:error=EIO:when=6+", None) else { return };
    ends_the_store(command, "os error 5");
}

#[test]
fn slow_syncs_of_segments_lose_nothing() {
    let Some(command) = traced("fsync:delay_enter=100000:when=6+2", None) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (ended, account) = load_over_rolls(command, folder.path(), false);
    ended.assert_clean();
    assert!(account.audit(folder.path()).assert_kept().records >= 5_000);
}
