//! What an engine with default sizes takes of its host: the memory it printed, and nearly no CPU while nobody sends.

mod support;

use std::time::Duration;

use support::*;

/// The sizes that the binary chooses itself; the other tests make do with less.
const DEFAULT_SIZES: &[&str] = &[
    "--pool-small-slots=auto",
    "--pool-medium-slots=auto",
    "--pool-large-slots=auto",
    "--udp-slots=1024",
    "--dedup-capacity=1048576",
];

fn proc_kib(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("our child");
    let line = text.lines().find(|line| line.starts_with(field)).expect("Linux");
    line.split_whitespace().nth(1).expect("a number").parse().expect("kB")
}

fn cpu_ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("our child");
    let fields: Vec<&str> = text.rsplit_once(") ").expect("the name ends").1.split(' ').collect();
    // utime and stime are fields 14 and 15 of proc(5); the name was the second.
    fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks")
}

#[test]
fn memory_under_load_stays_within_five_percent_of_the_printed_budget() {
    let server = Server::start(DEFAULT_SIZES);
    let sent = run(&["send", "--tcp", &server.tcp.to_string(), "--generate", "1000000", "--mix", "10,20,30,20,20"]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    server.wait_stored(1_000_000);
    let peak_mib = proc_kib(server.pid(), "VmHWM:") as f64 / 1024.0;
    let ended = server.stop();
    let total = ended.stdout.lines().find(|line| line.trim_start().starts_with("total") && line.ends_with("MiB"));
    let words: Vec<&str> = total.expect("the budget is printed").split_whitespace().collect();
    let budget_mib: f64 = words[1].parse().expect("a number of MiB");
    assert!((peak_mib - budget_mib).abs() <= 0.05 * budget_mib, "{peak_mib:.1} MiB at most, {budget_mib} MiB were printed");
    ended.assert_clean();
}

#[test]
fn an_idle_engine_takes_less_than_two_percent_of_a_core() {
    let server = Server::start(DEFAULT_SIZES);
    send_all(&server, &frame(2, "before/idle", b"so that it has worked once"));
    server.wait_stored(1);
    let before = cpu_ticks(server.pid());
    std::thread::sleep(Duration::from_secs(5)); // the span over which CPU use is measured
    let ticks = cpu_ticks(server.pid()) - before;
    assert!(ticks < 10, "{ticks} ticks of 500 while idle");
    server.stop().assert_clean();
}
