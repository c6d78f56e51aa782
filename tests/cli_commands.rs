//! The binary as people meet it: help, usage, configuration and a status without an engine.

use std::net::TcpListener;
use std::process::{Command, Output};

fn eventstream(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventstream"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("EVENTSTREAM_")) {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment.iter().copied()).output().expect("the binary runs")
}

/// Exit code, and the three lines on stderr.
fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = eventstream(arguments, environment);
    let text = String::from_utf8(output.stderr).expect("errors are text");
    let heads: Vec<&str> = text.lines().filter_map(|line| line.split_once(':').map(|(head, _)| head)).collect();
    assert_eq!(heads, ["error", "cause", "fix"], "{text}");
    (output.status.code(), text)
}

#[test]
fn help_goes_to_stdout_and_shows_defaults() {
    let output = eventstream(&["serve", "--help"], &[]);
    let text = String::from_utf8(output.stdout).expect("help is text");
    assert_eq!(output.status.code(), Some(0));
    for part in
        ["--tcp-listen ADDRESS:PORT", "default 127.0.0.1:9000", "--realtime-capacity N", "default 16384", "default drop-old"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn usage_errors_exit_with_two() {
    assert_eq!(refused(&["serve", "--tcp-listn=127.0.0.1:0"], &[]).0, Some(2));
    assert_eq!(refused(&["fly"], &[]).0, Some(2));
    assert_eq!(refused(&[], &[]).0, Some(2));
}

#[test]
fn configuration_errors_exit_with_three_wherever_they_stand() {
    assert_eq!(refused(&["serve", "--tcp-chunks=0"], &[]).0, Some(3));
    assert_eq!(refused(&["serve"], &[("EVENTSTREAM_IDLE", "lazy")]).0, Some(3));
    let (code, text) = refused(&["serve", "--config", "/nowhere/es.toml"], &[]);
    assert_eq!(code, Some(3));
    assert!(text.contains("/nowhere/es.toml"), "{text}");
}

#[test]
fn status_without_an_engine_names_the_address_it_asked() {
    // A port that was free a moment ago, and whose listener is gone.
    let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").to_string();
    let (code, text) = refused(&["status", "--admin", &address], &[("HTTP_PROXY", "http://127.0.0.1:1")]);
    assert_eq!(code, Some(1));
    assert!(text.starts_with(&format!("error: no engine answers at {address}\n")), "{text}");
}

#[test]
fn version_is_an_answer() {
    let output = eventstream(&["--version"], &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("eventstream {}\n", env!("CARGO_PKG_VERSION")));
}
