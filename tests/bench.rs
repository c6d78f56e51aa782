//! The harness end to end, through the binary: a small run, everything that it leaves behind, a page, and verdicts. Nothing here is timed.

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::run;

/// Flags of serve that keep an engine small.
const SMALL: [&str; 6] = [
    "--",
    "--pool-small-slots=16384",
    "--pool-medium-slots=4096",
    "--pool-large-slots=4",
    "--udp-slots=256",
    "--dedup-capacity=65536",
];

fn bench(scenario: &str, folder: &Path, more: &[&str]) -> Output {
    repeated(2, scenario, folder, more, &[])
}

/// With further flags of serve.
fn repeated(times: u32, scenario: &str, folder: &Path, more: &[&str], of_serve: &[&str]) -> Output {
    let (out, repeat) = (folder.display().to_string(), format!("--repeat={times}"));
    let common = ["bench", "run", scenario, &repeat, "--seconds=0.05", "--json", "--out", &out];
    run(&[&common[..], more, &SMALL, of_serve].concat())
}

fn point<'a>(result: &'a Value, name: &str) -> &'a Value {
    let points = result["points"].as_array().expect("points");
    points.iter().find(|point| point["name"] == name).unwrap_or_else(|| panic!("no point {name} in {result:#}"))
}

/// The printed result of a run that must be good.
#[track_caller]
fn good(output: &Output) -> Value {
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn figure<'a>(point: &'a Value, name: &str) -> &'a Value {
    let figures = point["figures"].as_array().expect("figures");
    figures.iter().find(|figure| figure["name"] == name).unwrap_or_else(|| panic!("no figure {name} in {point:#}"))
}

#[test]
fn twenty_thousand_events_give_a_result_a_page_and_verdicts() {
    let folder = tempfile::tempdir().expect("a folder");
    let result = good(&bench("ingest-tcp", folder.path(), &["--events=20000", "--connections=3"]));
    let point = &result["points"][0];
    for name in ["stored", "share of the pipeline", "CPU of the engine for each event", "realtime in the engine, p99"] {
        let runs = figure(point, name)["runs"].as_array().expect("runs");
        assert!(runs.len() == 2 && runs.iter().all(|value| value.as_f64().is_some_and(|value| value > 0.0)), "{name}: {runs:?}");
    }
    assert_eq!(point.get("losses"), None, "nothing is lost");
    assert_eq!(result["settings"]["events"], "20000");
    assert_eq!(result["noise"]["jitter"].as_array().map(Vec::len), Some(2));
    assert_ne!(result["host"]["kernel"], "");

    let files = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(serde_json::from_str::<Value>(&files("ingest-tcp.json")).expect("JSON"), result);
    assert!(files("ingest-tcp.csv").lines().any(|row| row.starts_with("ingest-tcp,flat out,,stored,events/s,")));
    let left: Vec<_> = fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 2, "no data stays behind: {left:?}");

    let path = folder.path().display().to_string();
    assert!(run(&["bench", "report", &path]).status.success());
    let page = files("report.html");
    for part in
        ["<svg", "Nothing was lost", "share of the pipeline", "goes until it is handled", "as a share of the machine", "Noise: "]
    {
        assert!(page.contains(part), "{part}");
    }
    let taken = point["stages"].as_array().expect("stages").iter().find(|stage| stage["stage"] == "taken").expect("a stage");
    assert_eq!(taken["tier"], "realtime", "its processor is the one that reads the clock then");

    // Beside itself nothing is worse; beside a run of half the throughput it is the other way round.
    assert!(run(&["bench", "compare", &path, &path]).status.success());
    let slower = tempfile::tempdir().expect("a folder");
    let mut half = result;
    for figure in half["points"][0]["figures"].as_array_mut().expect("figures") {
        if figure["name"] == "stored" {
            figure["runs"] = serde_json::json!([1.0, 1.0]);
        }
    }
    fs::write(slower.path().join("ingest-tcp.json"), half.to_string()).expect("a folder");
    let other = slower.path().display().to_string();
    let verdict = run(&["bench", "compare", &path, &other, "--fail-over", "5%"]);
    assert_eq!(verdict.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&verdict.stdout).contains("WORSE"));
    assert!(run(&["bench", "compare", &other, &path]).status.success(), "better is good");
}

#[test]
fn realtime_beside_a_flood_leaves_percentiles_of_every_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let result = good(&bench("mixed", folder.path(), &["--rates=2000", "--connections=2", "--topics=4"]));
    for (point, name) in result["points"].as_array().expect("points").iter().zip(["alone", "beside-a-flood"]) {
        let due =
            point["curves"].as_array().expect("curves").iter().find(|curve| curve["name"] == "due to handled").expect("a curve");
        assert_eq!(due["count"], 200, "100 events of each repeat, none left out");
        let text = fs::read_to_string(folder.path().join(format!("mixed.{name}.due-to-handled.hgrm"))).expect("a file");
        assert!(text.contains("Total count =          200]"), "{text}");
    }
    assert!(figure(&result["points"][1], "stored, timed ones and flood")["runs"][0].as_f64() > Some(0.0));
}

#[test]
fn an_idle_engine_and_a_sweep_are_measured() {
    let folder = tempfile::tempdir().expect("a folder");
    let idle = good(&bench("idle", folder.path(), &[]));
    assert!(figure(&idle["points"][0], "memory resident")["runs"][0].as_f64() > Some(1e6));
    let sweep = good(&bench("latency-sweep", folder.path(), &["--rates=1000,4000"]));
    let points = sweep["points"].as_array().expect("points");
    assert!(points.len() >= 2 && points[0]["x"] == 1000.0 && points[1]["x"] == 4000.0, "{sweep:#}");
    assert!(run(&["bench", "report", &folder.path().display().to_string()]).status.success());
}

#[test]
fn datagrams_wait_in_a_full_queue_for_the_bare_loop_and_for_the_engine_and_none_is_lost() {
    let folder = tempfile::tempdir().expect("a folder");
    let result = good(&repeated(1, "ingest-udp", folder.path(), &[], &["--udp-receive-buffer-bytes=128KiB"]));
    for name in ["one by one, from a filled queue", "aggregated (GSO to GRO), from a filled queue"] {
        let point = point(&result, name);
        assert!(figure(point, "share of the bare loop")["runs"][0].as_f64() > Some(0.0));
        assert!(figure(point, "datagrams in a filled queue")["runs"][0].as_f64() >= Some(100.0), "{point:#}");
    }
    // On a busy machine the first step may be too much.
    let stored = figure(point(&result, "aggregated (GSO to GRO), at rising rates"), "stored without a loss");
    assert!(stored["runs"][0].as_f64().is_some());
}

#[test]
fn every_event_of_a_session_is_acked_and_timed_at_each_level() {
    let folder = tempfile::tempdir().expect("a folder");
    let result = good(&bench("sessions", folder.path(), &["--rates=1000", "--events=2000", "--connections=2"]));
    for level in ["accepted", "written", "durable"] {
        let steady = &point(&result, &format!("{level}, 1 k events/s"))["curves"][0];
        assert_eq!((&steady["name"], &steady["count"]), (&"due to acked".into(), &100.into()), "50 events of each repeat");
        let flat_out = &point(&result, &format!("{level}, flat out"))["curves"][0];
        assert_eq!(flat_out["count"], 4000);
    }
    assert_eq!(point(&result, "the disk alone, dsync")["curves"][0]["count"], 1000);
    let none = good(&repeated(1, "sessions", folder.path(), &["--rates=1000", "--events=100"], &["--durability=none"]));
    assert!(none["warnings"][0].as_str().is_some_and(|warning| warning.contains("SKIPPED")), "{none:#}");
}

#[test]
fn each_durability_is_held_against_none_and_connections_against_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let matrix = good(&repeated(1, "durability-matrix", folder.path(), &["--events=2000"], &[]));
    assert_eq!(matrix["points"].as_array().map(Vec::len), Some(12));
    let none = point(&matrix, "none, 8 connections, 64 bytes");
    assert_eq!(figure(none, "of the rate at durability none")["runs"][0], 1.0);
    let idle = good(&repeated(1, "idle-connections", folder.path(), &["--events=2000"], &[]));
    assert_eq!(figure(point(&idle, "none silent"), "CPU for each event, beside the first point")["runs"][0], 1.0);
    let is_there = |name: &str| idle["points"].as_array().expect("points").iter().any(|point| point["name"] == name);
    assert!(is_there("10000 silent") || idle["warnings"].to_string().contains("SKIPPED: 10000"), "{idle:#}");
}

#[test]
fn a_log_is_opened_by_its_size_and_a_long_run_shows_its_course() {
    let folder = tempfile::tempdir().expect("a folder");
    let recovery = good(&bench("recovery", folder.path(), &["--events=100000"]));
    let [none, some] = ["no log", "100000 events"].map(|name| point(&recovery, name));
    assert!(some["x"].as_f64() > Some(6.4e6), "{some:#}");
    let read = |point| figure(point, "bytes read")["runs"][1].as_f64();
    assert!(read(some) > read(none), "{recovery:#}");
    let long =
        good(&repeated(1, "long", folder.path(), &["--events=50000"], &["--segment-bytes=1MiB", "--retention-bytes=2MiB"]));
    let whole = point(&long, "up to 50 k events");
    assert!(figure(whole, "memory resident")["runs"][0].as_f64() > Some(1e6));
    assert!(whole["timeline"]["seconds"].as_array().is_some(), "{whole:#}");
}

#[test]
fn realtime_is_measured_beside_every_trouble_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let result = good(&repeated(1, "isolation", folder.path(), &["--rates=200"], &[]));
    assert_eq!(result["points"].as_array().map(Vec::len), Some(7));
    assert!(figure(point(&result, "handler panics"), "handlers that panicked")["runs"][0].as_f64() > Some(0.0));
    let expected = &point(&result, "a sender 100 times as fast")["expectations"][0];
    assert!(expected["what"].as_str().is_some_and(|what| what.contains("within 3 times")), "{expected:#}");
}

#[test]
fn an_overloaded_engine_accounts_for_every_event_and_its_course_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let result = good(&repeated(1, "overload", folder.path(), &[], &[]));
    let whole = point(&result, "the whole");
    let balances = |expectation: &&Value| expectation["what"] == "the ledger balances, and nothing is left in flight";
    assert_eq!(whole["expectations"].as_array().expect("some").iter().find(balances).expect("it")["held"], true, "{whole:#}");
    let looks = whole["timeline"]["seconds"].as_array().expect("looks").len();
    assert!(looks > 0 && whole["timeline"]["levels"].as_array().map(Vec::len) == Some(looks));
    for name in ["alone", "flat out", "recovery"] {
        assert!(figure(point(&result, name), "received")["runs"][0].as_f64().is_some());
    }
}

#[test]
fn sizes_and_topics_may_be_spread() {
    let folder = tempfile::tempdir().expect("a folder");
    let spread = ["--events=5000", "--body-bytes=64:9,1000:1", "--topics=100", "--topic-skew=1"];
    let result = good(&repeated(1, "ingest-tcp", folder.path(), &spread, &[]));
    assert_eq!(
        (&result["settings"]["bytes of a body"], &result["settings"]["skew of topics"]),
        (&"64:9,1000:1".into(), &"1".into())
    );
}

#[test]
fn limits_of_the_machine_are_a_result_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().display().to_string();
    let result = good(&run(&["bench", "ceiling", "--repeat=1", "--for-ms=5", "--json", "--out", &out]));
    let clock = figure(&result["points"][0], "clock read");
    assert_eq!(clock["reference"]["value"], 23.0);
    assert!(folder.path().join("ceiling.csv").is_file());
}

#[test]
fn a_run_that_loses_says_so_and_fails() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().display().to_string();
    // With no room for bodies of this size their connections are closed on them, and a sender whose connection is closed stops.
    let flags =
        ["bench", "run", "ingest-tcp", "--events=2000", "--repeat=1", "--seconds=0.05", "--body-bytes=5000", "--out", &out];
    let output = run(&[&flags[..], &["--", "--max-frame-bytes=4096"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.starts_with("error: ") && text.contains("\ncause: ") && text.contains("\nfix: "), "{text}");
}

#[test]
fn arguments_that_make_no_sense_are_usage_errors() {
    let code = |arguments: &[&str]| run(arguments).status.code();
    assert_eq!(code(&["bench", "run", "everything"]), Some(2));
    assert_eq!(code(&["bench", "run", "ingest-tcp", "--repeat=0"]), Some(2));
    assert_eq!(code(&["bench", "run", "ingest-tcp", "--", "--fast"]), Some(2));
    assert_eq!(code(&["bench", "ceiling", "--engine-core=4095"]), Some(2));
    assert_eq!(code(&["bench", "compare", "/nowhere", "/nowhere"]), Some(1));
}
