//! The layers over each other, and each refusal with its exact three lines.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::*;

/// A file in a folder that goes away with it.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("es.toml");
    std::fs::write(&path, text).expect("a fresh folder is writable");
    (folder, path)
}

fn layers(flags: &[&str], environment: &[(&str, &str)], file: Option<&Path>) -> Layers {
    let mut flags = Flags::parse(flags).expect("flags that exist");
    flags.config = file.map(Path::to_owned).or(flags.config);
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    Layers { flags, environment }
}

fn load(flags: &[&str], environment: &[(&str, &str)], text: Option<&str>) -> Result<Loaded, ConfigRefusal> {
    let file = text.map(file);
    Config::load(&layers(flags, environment, file.as_ref().map(|(_folder, path)| path.as_path())))
}

/// The three lines of a refusal, the temporary folder taken out of them.
fn refused(flags: &[&str], environment: &[(&str, &str)], text: Option<&str>) -> String {
    let file = text.map(file);
    let path = file.as_ref().map(|(_folder, path)| path.as_path());
    let refusal = Config::load(&layers(flags, environment, path)).expect_err("this is refused").to_string();
    match path.and_then(Path::parent) {
        Some(folder) => refusal.replace(&format!("{}/", folder.display()), ""),
        None => refusal,
    }
}

#[test]
fn defaults_keep_their_rules_and_have_no_conflict() {
    let loaded = load(&[], &[], None).expect("the defaults");
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.notes.is_empty());
}

#[test]
fn every_option_can_be_set_in_every_layer() {
    for option in OPTIONS {
        let (flag, variable) = (format!("--{}", option.name()), option.variable());
        load(&[&flag, option.default], &[], None).unwrap_or_else(|refusal| panic!("{flag}: {refusal}"));
        load(&[], &[(&variable, option.default)], None).unwrap_or_else(|refusal| panic!("{variable}: {refusal}"));
        let line = format!("{} = {:?}", option.name(), option.default);
        load(&[], &[], Some(&line)).unwrap_or_else(|refusal| panic!("{line}: {refusal}"));
    }
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let text = "flush-events = 7\nmax-retries = 7\ntcp-chunks = 7\n";
    let environment = [("EVENTSTREAM_MAX_RETRIES", "8"), ("EVENTSTREAM_TCP_CHUNKS", "8")];
    let config = load(&["--tcp-chunks", "9"], &environment, Some(text)).expect("all in bounds").config;
    assert_eq!((config.flush_events, config.max_retries, config.tcp_chunks, config.udp_slots), (7, 8, 9, 1024));
}

#[test]
fn a_value_that_a_stronger_layer_replaces_is_not_judged() {
    let config = load(&["--tcp-chunks=9"], &[("EVENTSTREAM_TCP_CHUNKS", "none")], None).expect("the flag decides").config;
    assert_eq!(config.tcp_chunks, 9);
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    let (_folder, path) = file("flush-events = 7");
    let path = path.to_str().expect("temporary folders have plain names");
    let loaded = Config::load(&layers(&[], &[("EVENTSTREAM_CONFIG", path)], None)).expect("a good file");
    assert_eq!(loaded.config.flush_events, 7);
}

#[test]
fn file_values_are_texts_numbers_or_switches() {
    let text =
        "max-frame-bytes = \"64KiB\"\ntcp-chunk-bytes = 65_536\nudp-gro = true\nstorage = false\nidle = \"spin\"\nnodes = 2\n";
    let config = load(&[], &[], Some(text)).expect("all in bounds").config;
    assert_eq!((config.max_frame_bytes, config.tcp_chunk_bytes), (ByteSize(65_536), ByteSize(65_536)));
    assert_eq!((config.udp_gro, config.storage, config.idle), (OnOff::On, OnOff::Off, IdleStrategy::Spin));
    assert_eq!(config.nodes, Auto::Given(2));
}

#[test]
fn fractions_are_for_options_that_take_them() {
    let config = load(&["--recovery-factor", "0.75"], &[], Some("max-drop-rate = 2.5\n")).expect("in bounds").config;
    assert_eq!((config.max_drop_rate.thousandths(), config.recovery_factor.thousandths()), (2_500, 750));
    assert!(refused(&[], &[], Some("window-ms = 1.5\n")).contains("cause: it is not a whole number"));
    assert!(refused(&["--max-drop-rate", "0"], &[], None).contains("cause: it must be between 0.001 and 100"));
}

#[test]
fn a_switch_stands_alone_or_with_its_value() {
    for (flags, strict) in [(&["--strict"][..], OnOff::On), (&["--strict", "off"], OnOff::Off), (&["--strict=on"], OnOff::On)] {
        assert_eq!(load(flags, &[], None).expect("a switch").config.strict, strict, "{flags:?}");
    }
    let config = load(&["--strict", "--udp-gro", "on"], &[], None).expect("a switch before another option").config;
    assert_eq!((config.strict, config.udp_gro), (OnOff::On, OnOff::On));
}

#[test]
fn topic_overrides_come_from_the_file() {
    let config = load(&[], &[], Some("[topics]\n\"alarms/#\" = \"critical\"\n\"a/+/b\" = 0\n")).expect("good filters").config;
    let expected = [("a/+/b", Priority::Batch), ("alarms/#", Priority::Critical)];
    let mut topics = config.topics;
    topics.sort_by(|a, b| a.filter.cmp(&b.filter));
    let found: Vec<(&str, Priority)> = topics.iter().map(|topic| (topic.filter.as_str(), topic.priority)).collect();
    assert_eq!(found, expected);
}

#[test]
fn unknown_variables_are_noted_and_known_others_are_not() {
    let environment =
        [("EVENTSTREAM_TCP_LISTN", "x"), ("EVENTSTREAM_LOG", "debug"), ("EVENTSTREAM_WITHOUT", "min_wait"), ("PATH", "/")];
    let notes = load(&[], &environment, None).expect("nothing refused").notes;
    assert_eq!(notes, ["EVENTSTREAM_TCP_LISTN is set, but no option has this name; it is ignored"]);
}

#[test]
fn refused_values_name_the_place_where_they_were_written() {
    let flag =
        "error: --tcp-chunks 0 is refused\ncause: it must be between 1 and 4096\nfix:   --tcp-chunks N, 1 to 4096 (default 4)";
    assert_eq!(refused(&["--tcp-chunks", "0"], &[], None), flag);
    let variable = "error: EVENTSTREAM_DURABILITY=maybe is refused\ncause: it is none of none, group, always\n\
                    fix:   EVENTSTREAM_DURABILITY=none|group|always (default group)";
    assert_eq!(refused(&[], &[("EVENTSTREAM_DURABILITY", "maybe")], None), variable);
    let in_file = "error: batch-capacity = 1000 (es.toml line 2) is refused\ncause: it must be a power of two\n\
                   fix:   batch-capacity = N, a power of two, 2 to 4194304 (default 65536)";
    assert_eq!(refused(&[], &[], Some("# comment\nbatch-capacity = 1000\n")), in_file);
}

#[test]
fn each_cause_of_a_refused_value_is_reached() {
    for (flags, cause) in [
        (["--flush-events", "ten"], "it is not a whole number"),
        (["--max-retries", "300"], "it must be between 0 and 100"),
        (["--ring-entries", "100"], "it must be a power of two"),
        (["--max-frame-bytes", "1.5MiB"], "it is not a number of bytes such as 65536, 64KiB or 1MiB"),
        (["--max-frame-bytes", "17MiB"], "it must be between 64 and 16777219"),
        (
            ["--tcp-listen", "localhost:9000"],
            "it is not an IP address with a port, such as 127.0.0.1:9000 or [::1]:9000, nor `off`",
        ),
        (["--idle", "lazy"], "it is none of spin, adaptive, park"),
        (["--data-dir", ""], "it is empty"),
        (["--cores", "0\n1"], "it contains a control character"),
    ] {
        let lines = refused(&flags, &[], None);
        assert_eq!(lines.lines().find_map(|line| line.strip_prefix("cause: ")), Some(cause), "{flags:?}");
    }
}

#[test]
fn a_variable_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let name = OsString::from("EVENTSTREAM_CORES");
    let layers = Layers { flags: Flags::default(), environment: [(name, OsString::from_vec(vec![0xff]))].into() };
    let lines = "error: EVENTSTREAM_CORES is refused\ncause: its value is not UTF-8\nfix:   unset EVENTSTREAM_CORES, or set it to plain text";
    assert_eq!(Config::load(&layers).expect_err("no text").to_string(), lines);
}

#[test]
fn a_file_that_is_absent_is_refused_by_its_name() {
    let lines = "error: the configuration file /nowhere/es.toml can't be read\ncause: No such file or directory (os error 2)\n\
                 fix:   --config FILE with a file that exists and may be read";
    assert_eq!(refused(&["--config", "/nowhere/es.toml"], &[], None), lines);
}

#[test]
fn a_file_beyond_its_limit_is_refused_unread() {
    let lines = refused(&[], &[], Some(&"#".repeat(crate::limits::CONFIG_FILE_BYTES_MAX as usize + 1)));
    assert!(lines.contains("cause: it is longer than 1048576 bytes"), "{lines}");
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_line() {
    let lines = refused(&[], &[], Some("flush-events = 100\nidle = spin\n"));
    assert!(lines.starts_with("error: the configuration file es.toml is no TOML\ncause: line 2: "), "{lines}");
    assert_eq!(lines.lines().count(), 3, "{lines}");
}

#[test]
fn unknown_keys_are_refused_with_the_one_that_is_meant() {
    let lines = "error: unknown key `tcp_lisen` (es.toml line 2)\n\
                 cause: keys are the names of the flags of `serve`, without the dashes in front, and the tables [topics], [classes], [[rules]], [[windows]]\n\
                 fix:   did you mean `tcp-listen`? `eventstream serve --help` lists all";
    assert_eq!(refused(&[], &[], Some("\ntcp_lisen = \"off\"\n")), lines);
    assert!(refused(&[], &[], Some("[storage.more]\nx = 1\n")).contains("key `storage` has a table (es.toml line 1)"));
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    for (text, found) in [
        ("cores = [0, 1]", "key `cores` has a list (es.toml line 1)"),
        ("window-ms = 2020-01-01", "key `window-ms` has a date (es.toml line 1)"),
        ("topics = 1", "key `topics` has a single value (es.toml line 1)"),
        ("[topics]\na = [1]", "key `a` has a list (es.toml line 2)"),
    ] {
        let lines = refused(&[], &[], Some(text));
        assert!(lines.starts_with(&format!("error: {found}\ncause: a value is a text, a number, or true or false\n")), "{lines}");
    }
}

#[test]
fn each_cause_of_a_refused_filter_is_reached() {
    let long = "x".repeat(crate::limits::TOPIC_FILTER_BYTES_MAX + 1);
    for (filter, cause) in [
        ("", "it is empty"),
        ("a\\u0007b", "it contains a control character"),
        ("a/#/b", "`#` stands for the rest and must be the whole last level"),
        ("a#", "`#` stands for the rest and must be the whole last level"),
        ("a/b+", "`+` stands for one level and must be the whole level"),
        (long.as_str(), "it is longer than a topic can be"),
    ] {
        let lines = refused(&[], &[], Some(&format!("[topics]\n\"{filter}\" = \"high\"\n")));
        assert!(lines.contains("(es.toml line 2)"), "{lines}");
        assert!(lines.contains(&format!("\ncause: {cause}\n")), "{lines}");
    }
}

#[test]
fn an_unknown_priority_of_a_topic_is_refused() {
    let lines = "error: priority `urgent` of topic filter `alarms/#` is refused (es.toml line 2)\n\
                 cause: it is none of batch, low, medium, high, critical, 0 to 4\nfix:   \"alarms/#\" = \"high\"";
    assert_eq!(refused(&[], &[], Some("[topics]\n\"alarms/#\" = \"urgent\"\n")), lines);
}

#[test]
fn values_that_are_wrong_together_are_refused() {
    let lines = "error: --max-queue-depth 5000 is beyond --batch-capacity 4096\n\
                 cause: flow control and levels act by shares of it, so the tier would overflow before they act\n\
                 fix:   --max-queue-depth 4096 or less, or a greater --batch-capacity";
    assert_eq!(refused(&["--batch-capacity", "4096"], &[], None), lines);
    let lines = "error: --cq-entries 128 is below --ring-entries 256\n\
                 cause: the kernel refuses a completion queue smaller than its submission queue\nfix:   --cq-entries 2048 or `auto`";
    assert_eq!(refused(&["--cq-entries", "128"], &[], None), lines);
    let lines = "error: --tcp-listen and --admin-listen are both 127.0.0.1:9002\ncause: one port can't serve two protocols\n\
                 fix:   another port for --admin-listen, or port 0 for any free one";
    assert_eq!(refused(&["--tcp-listen", "127.0.0.1:9002"], &[], None), lines);
    let lines = "error: --tcp-listen and --udp-listen are both off\ncause: no event could ever come in\nfix:   leave one of them on, or start the engine with publishers";
    assert_eq!(refused(&["--tcp-listen", "off", "--udp-listen", "off"], &[], None), lines);
    let lines = "error: --dedup key lacks --dedup-key\ncause: nothing says by which part of the body events are known\n\
                 fix:   --dedup-key pointer:/order/id, or --dedup-key prefix:16";
    assert_eq!(refused(&["--dedup", "key"], &[], None), lines);
    let lines = "error: --dedup-key has no use with --dedup content\ncause: events are not known by a part of their body then\n\
                 fix:   --dedup key, or no --dedup-key";
    assert_eq!(refused(&["--dedup-key", "prefix:4"], &[], None), lines);
    let lines = "error: --dead-letter-path data/events.bin is a log of events\n\
                 cause: dead letters would be written into the log and damage it\n\
                 fix:   a path of its own, such as dlq_log.txt in the data folder";
    assert_eq!(refused(&["--dead-letter-path", "data/events.bin"], &[], None), lines);
}

#[test]
fn ports_of_zero_never_collide() {
    assert!(load(&["--tcp-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"], &[], None).is_ok());
}

#[test]
fn wrong_arguments_are_told_apart() {
    assert_eq!(Flags::parse(&["--fly"]), Err(ArgumentRefusal::Unknown("--fly".into())));
    assert_eq!(Flags::parse(&["fly"]), Err(ArgumentRefusal::Unknown("fly".into())));
    assert_eq!(Flags::parse(&["--cores"]), Err(ArgumentRefusal::NoValue("--cores".into())));
    assert_eq!(Flags::parse(&["--cores=0", "--cores=1"]), Err(ArgumentRefusal::Twice("--cores".into())));
    assert_eq!(Flags::parse(&["--config=a", "--config=b"]), Err(ArgumentRefusal::Twice("--config".into())));
}

#[test]
fn the_receive_offer_follows_the_budget_between_one_chunk_and_all() {
    let offer = |flags: &[&str]| load(flags, &[], None).expect("in bounds").config.receive_offer_bytes();
    assert_eq!(offer(&["--poll-budget-us=10"]), 32 * 1024);
    assert_eq!(offer(&["--poll-budget-us=1000"]), 4 * 32 * 1024);
    assert_eq!(offer(&["--poll-budget-us=100", "--tcp-chunks=64"]), 131_100);
}

#[test]
fn dead_letters_go_to_the_data_folder_unless_told_otherwise() {
    let file = |flags: &[&str]| load(flags, &[], None).expect("in bounds").config.dead_letter_file();
    assert_eq!(file(&["--data-dir", "/var/lib/es"]), Path::new("/var/lib/es/dlq_log.txt"));
    assert_eq!(file(&["--dead-letter-path", "/log/dead"]), Path::new("/log/dead"));
}
