//! What a host may lack or refuse, and what the engine says then: three lines, an exit code, and nothing changed.

mod support;

use std::io::Write;
use std::process::Command;

use support::refused::{CONFIGURATION, ENVIRONMENT, assert_three_lines, refused_start};
use support::*;

#[test]
fn a_data_folder_that_is_a_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("data");
    std::fs::write(&path, "precious").expect("writable");
    let (code, stderr) = refused_start(&path, &[]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    assert!(stderr.contains(&path.display().to_string()), "{stderr}");
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
}

#[test]
fn a_foreign_log_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("events.bin");
    let foreign = b"this is somebody's holiday diary, not a log".repeat(200);
    std::fs::write(&log, &foreign).expect("writable");
    let (code, stderr) = refused_start(folder.path(), &[]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    assert!(stderr.contains("events.bin"), "{stderr}");
    assert_eq!(std::fs::read(&log).expect("still there"), foreign);
}

#[test]
fn a_symlinked_log_file_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let target = folder.path().join("elsewhere");
    std::fs::write(&target, "").expect("writable");
    let data = folder.path().join("data");
    std::fs::create_dir(&data).expect("writable");
    std::os::unix::fs::symlink(&target, data.join("events.bin")).expect("symlinks work");
    let (code, stderr) = refused_start(&data, &[]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    assert_eq!(std::fs::metadata(&target).expect("still there").len(), 0);
}

#[test]
fn a_read_only_file_system_is_refused_with_its_errno() {
    // /proc is read-only for files everywhere, also for root.
    let (code, stderr) = refused_start(std::path::Path::new("/proc/eventstream-data"), &[]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    assert!(stderr.contains("/proc/eventstream-data"), "{stderr}");
}

#[test]
fn a_second_engine_on_the_same_folder_names_the_first() {
    let server = Server::start(&[]);
    let (code, stderr) = refused_start(&server.data, &[]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    assert!(stderr.contains(&server.pid().to_string()), "the holder's pid is missing in:\n{stderr}");
    send_all(&server, &frame(2, "unharmed", b"the first goes on"));
    server.wait_stored(1);
    server.stop().assert_clean();
}

#[test]
fn a_budget_beyond_the_host_is_refused_with_the_sum() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, stderr) = refused_start(&folder.path().join("data"), &["--pool-large-slots=1000000"]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    assert!(stderr.contains("--pool-"), "the flag to lower is missing in:\n{stderr}");
}

#[test]
fn refused_flags_are_configuration_errors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for flag in ["--realtime-capacity=1000", "--max-frame-bytes=99999999999", "--durability=sometimes", "--tcp-listen=nowhere"] {
        let (code, stderr) = refused_start(&folder.path().join("data"), &[flag]);
        assert_eq!(code, CONFIGURATION, "{flag}: {stderr}");
        assert_three_lines(&stderr);
        assert!(stderr.contains(flag.split('=').next().expect("a flag")), "{flag} is not named in:\n{stderr}");
    }
}

#[test]
fn a_cpu_that_is_not_there_is_refused_or_done_without() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, stderr) = refused_start(&folder.path().join("strict"), &["--cores=4000", "--strict"]);
    assert_ne!(code, 0, "{stderr}");
    assert_three_lines(&stderr);
}

#[test]
fn absent_huge_pages_are_refused_only_when_strict() {
    let pages: u64 = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").expect("Linux").trim().parse().expect("a number");
    if pages > 0 {
        return skip("this host has huge pages reserved");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, stderr) = refused_start(&folder.path().join("strict"), &["--huge-pages=required", "--strict"]);
    assert_eq!(code, ENVIRONMENT, "{stderr}");
    assert_three_lines(&stderr);
    let server = Server::start(&["--huge-pages=auto"]);
    send_all(&server, &frame(2, "small/pages", b"work too"));
    server.wait_stored(1);
    server.stop().assert_clean();
}

#[test]
fn low_memlock_is_reported_and_done_without() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -l 64; exec \"$0\" \"$@\"", binary()]);
    let server = Server::spawn(command, &folder.path().join("data"), &[]);
    send_all(&server, &frame(2, "low/memlock", b"works"));
    server.wait_stored(1);
    server.stop().assert_clean();
}

#[test]
fn every_probed_feature_can_be_missing() {
    for feature in eventstream::sys::features::Feature::ALL.map(eventstream::sys::features::Feature::name) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(binary());
        command.env("EVENTSTREAM_WITHOUT", feature);
        let server = Server::spawn(command, &folder.path().join("data"), &["--udp-gro=off"]);
        let mut streams: Vec<_> = (0..8).map(|_| server.connect()).collect();
        for n in 0..2000u32 {
            let bytes = frame((n % 5) as u8, "without", format!("{feature} {n} {}", "x".repeat((n % 300) as usize)).as_bytes());
            streams[(n % 8) as usize].write_all(&bytes).expect("the engine reads");
        }
        let socket = server.udp_socket();
        for n in 0..50 {
            socket.send(&frame((n % 5) as u8, "without/udp", format!("{feature} {n}").as_bytes())).expect("loopback");
        }
        server.wait_for(&format!("2050 events without {feature}"), |status| {
            term(status, "stored") + metric(&server, "eventstream_kernel_drops_total", "") >= 2050
        });
        drop(streams);
        server.stop().assert_clean();
    }
}
