//! Windows, end to end: what the configuration defines is what stands in `windows.jsonl` and on the scrape.

mod support;

use std::path::Path;
use std::process::Command;

use eventstream::storage::rotating_file::rotated_files;
use serde_json::Value;
use support::*;

const DEFINITIONS: &str = r##"
window-ms = 200

[[windows]]
name = "temperatures"
topics = "plant/+/temp"
group-by = 2
length-ms = 2000
slide-ms = 1000
value = "/val"
metrics = true

[[windows]]
name = "everything"
topics = "#"
group-by = "filter"
length-ms = 86400000
"##;

/// An engine with this file of configuration, beside its data folder.
fn start(folder: &Path, configuration: &str, flags: &[&str]) -> Server {
    let file = folder.join("es.toml");
    std::fs::write(&file, configuration).expect("room for a file");
    let file = format!("--config={}", file.display());
    let flags: Vec<&str> = flags.iter().copied().chain([file.as_str()]).collect();
    Server::spawn(Command::new(binary()), &folder.join("data"), &flags)
}

/// The lines of all files of windows, the oldest first.
fn lines(data: &Path) -> Vec<Value> {
    let files = rotated_files(&data.join("windows.jsonl")).expect("the folder is there");
    let text: String = files.iter().map(|file| std::fs::read_to_string(file).expect("text")).collect();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

fn sum(lines: &[Value], definition: &str, key: &str) -> u64 {
    lines.iter().filter(|line| line["definition"] == definition).map(|line| line[key].as_u64().expect("a number")).sum()
}

#[test]
fn every_batch_event_is_in_its_windows_with_its_value() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = start(folder.path(), DEFINITIONS, &[]);
    let mut bytes = Vec::new();
    for n in 0..100 {
        bytes.extend(frame(1, "plant/\"one\"/temp", format!("{{\"val\":{n}}}").as_bytes()));
        bytes.extend(frame(0, "plant/two/temp", b"{\"val\":\"warm\"}"));
        bytes.extend(frame(0, "office/door", b"open"));
    }
    // Other tiers have no windows.
    bytes.extend(frame(2, "plant/three/temp", b"{\"val\":1}"));
    send_all(&server, &bytes);
    server.wait_stored(301);
    server.wait_for("the first windows of temperatures", |_| metric(&server, "eventstream_window_events", "plant/two") == 100);
    let shown = |name: &str, label: &str| metric(&server, name, label);
    assert_eq!(shown("eventstream_window_events_without_value", "group=\"plant/two\""), 100);
    assert_eq!(shown("eventstream_window_value", "group=\"plant/\\\"one\\\"\",figure=\"max\""), 99);
    assert_eq!(shown("eventstream_window_value", "group=\"plant/two\""), 0, "nothing to show of no number");
    assert_eq!(shown("eventstream_window_events", "definition=\"everything\""), 0, "not asked for");
    let ended = server.stop();
    ended.assert_clean();
    let lines = lines(&ended.data);
    assert_eq!((sum(&lines, "default", "events"), sum(&lines, "everything", "events")), (300, 300));
    let of = |group: &str| lines.iter().find(|line| line["group"] == group).unwrap_or_else(|| panic!("no line of {group}"));
    let one = of("plant/\"one\"");
    assert_eq!((&one["definition"], &one["events"]), (&"temperatures".into(), &100.into()));
    let value = &one["value"];
    assert_eq!((value["events"].as_u64(), value["events_without"].as_u64()), (Some(100), Some(0)));
    let figure = |name: &str| value[name].as_f64().unwrap_or_else(|| panic!("no {name} in {value}"));
    assert_eq!((figure("min"), figure("mean"), figure("max"), figure("sum")), (0.0, 49.5, 99.0, 4950.0));
    for (name, exact) in [("p50", 49.0), ("p99", 98.0)] {
        assert!((figure(name) - exact).abs() <= exact * figure("relative_error") * 1.000_001, "{name} of {value}");
    }
    assert!(figure("relative_error") < 0.01, "{value}");
    let two = &of("plant/two")["value"];
    assert_eq!((&two["events"], &two["events_without"], &two["p50"]), (&0.into(), &100.into(), &Value::Null));
    assert_eq!(of("#")["definition"], "everything");
    assert!(of("office/door").get("value").is_none());
}

#[test]
fn the_file_of_windows_is_renamed_away_when_it_is_full_and_bounded() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = start(folder.path(), "window-ms = 10\n", &["--window-log-bytes=4096", "--window-log-files=2"]);
    // Some 300 bytes a line: three files are full after 40 of them.
    for burst in 1..=8 {
        let bytes: Vec<u8> = (0..10).flat_map(|n| frame(0, &format!("topic/{burst}/{n}"), b"x")).collect();
        send_all(&server, &bytes);
        server.wait_for("its lines", |_| metric(&server, "eventstream_windows_written_total", "") >= 10 * burst);
    }
    let ended = server.stop();
    ended.assert_clean();
    let files = rotated_files(&ended.data.join("windows.jsonl")).expect("the folder is there");
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        assert!(std::fs::metadata(&file).expect("there").len() <= 4096, "{file:?}");
    }
    assert!(!lines(&ended.data).is_empty(), "every line left is whole");
}

#[test]
fn a_topic_explosion_costs_rows_and_no_event() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = "[[windows]]\nname = \"all\"\ntopics = \"load/#\"\ngroup-by = \"filter\"\nlength-ms = 86400000\n";
    let server = start(folder.path(), &format!("window-ms = 86400000\n{all}"), &[]);
    const TOPICS: u64 = 20_000;
    let bytes: Vec<u8> = (0..TOPICS).flat_map(|n| frame(0, &format!("load/{n}"), b"x")).collect();
    send_all(&server, &bytes);
    server.wait_stored(TOPICS);
    assert_eq!(metric(&server, "eventstream_topic_limit_total", ""), TOPICS - 4096);
    let ended = server.stop();
    ended.assert_clean();
    let lines = lines(&ended.data);
    assert_eq!((sum(&lines, "all", "events"), sum(&lines, "default", "events")), (TOPICS, 4096));
}
