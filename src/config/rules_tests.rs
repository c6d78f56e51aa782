//! The tables `[[rules]]` as written, and each refusal with its exact three lines.

use std::path::Path;

use super::*;
use crate::config::{Config, Flags, Layers};
use crate::wire::Priority;

fn load(text: &str) -> Result<Vec<AlertRule>, ConfigRefusal> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("es.toml");
    std::fs::write(&path, text).unwrap();
    let layers = Layers { flags: Flags::with_config(Some(path)), ..Layers::default() };
    Config::load(&layers).map(|loaded| loaded.config.rules).map_err(|refusal| match refusal {
        ConfigRefusal::Rule { place: Some((_, line)), rule, cause } => {
            ConfigRefusal::Rule { place: Some((Path::new("es.toml").to_owned(), line)), rule, cause }
        }
        other => other,
    })
}

#[track_caller]
fn assert_refused(text: &str, expected: [&str; 3]) {
    let (error, cause, fix) = load(text).expect_err("this is refused").lines();
    assert_eq!([error.as_str(), &cause, &fix], expected);
}

/// A rule with these lines.
#[track_caller]
fn assert_key_refused(lines: &str, line: usize, cause: &str, fix: &str) {
    let text = format!("# rules\n[[rules]]\nname = \"r\"\ntopic = \"#\"\n{lines}\n");
    assert_refused(&text, [&format!("rule `r` is refused (es.toml line {line})"), cause, fix]);
}

#[test]
fn a_rule_is_read_with_all_its_keys() {
    let rules = load(
        r#"
        max-retries = 1
        [[rules]]
        name = "all"
        topic = "plant/+/temp"
        priority = "critical"
        contains = "x"
        regex = "[0-9]+"
        pointer = "/a~1b/0"
        exists = true
        ge = 1
        lt = 2.5
        ne = "b"
        alerts-per-s-max = 7
        cool-down-ms = 1_500
        log = false
        udp = "127.0.0.1:5140"
        tcp = "[::1]:5141"
        run = ["/bin/true", "-x"]
        run-time-ms-max = 20
        run-at-once-max = 2

        [[rules]]
        name = "least"
        topic = "a"
        "#,
    )
    .unwrap();
    let tests = vec![
        JsonTest::Exists(true),
        JsonTest::Compare(Comparison::Ne, Operand::Text("b".to_owned())),
        JsonTest::Compare(Comparison::Lt, Operand::Number(2.5)),
        JsonTest::Compare(Comparison::Ge, Operand::Number(1.0)),
    ];
    let all = AlertRule {
        name: "all".to_owned(),
        topic: "plant/+/temp".parse().unwrap(),
        priority: Priority::Critical,
        condition: Condition {
            contains: Needle::new("x"),
            regex: Pattern::new("[0-9]+").ok(),
            json: Some(JsonCondition { pointer: "/a~1b/0".parse().unwrap(), tests }),
        },
        alerts_per_s_max: 7,
        cool_down: Nanos::from_millis(1_500),
        log: false,
        udp: "127.0.0.1:5140".parse().ok(),
        tcp: "[::1]:5141".parse().ok(),
        run: Some(Program {
            arguments: vec!["/bin/true".to_owned(), "-x".to_owned()],
            run_time_max: Nanos::from_millis(20),
            at_once_max: 2,
        }),
    };
    assert_eq!(rules, [all, AlertRule::new("least", "a".parse().unwrap())]);
}

#[test]
fn rules_that_are_no_tables_or_lack_their_keys_are_refused() {
    assert_refused(
        "rules = [1]",
        ["rule number 1 is refused (es.toml line 1)", "a rule is a table", "[[rules]], and the keys of the rule below it"],
    );
    let nameless = "[[rules]]\nname = \"a\"\ntopic = \"#\"\n\n[[rules]]\ntopic = \"#\"\n";
    assert_refused(nameless, ["rule number 2 is refused (es.toml line 5)", "it has no `name`", "name = \"overheated\""]);
    let topicless = "[[rules]]\nname = \"a\"\n";
    assert_refused(topicless, ["rule `a` is refused (es.toml line 1)", "it has no `topic`", "topic = \"plant/+/temp\""]);
    let error = load("[rules]\nname = \"a\"\n").unwrap_err();
    assert!(matches!(error, ConfigRefusal::WrongKind { found: "a table", .. }), "{error}");
}

#[test]
fn each_key_refuses_what_it_cannot_be() {
    assert_key_refused("topics = \"a\"", 5, "a rule has no key `topics`", "did you mean `topic`?");
    assert_key_refused(
        "priority = \"urgent\"",
        5,
        "`priority`: it is none of batch, low, medium, high, critical",
        "priority = \"critical\"",
    );
    assert_key_refused("\ncontains = 7", 6, "`contains`: it is not a text", "contains = \"text\"");
    assert_key_refused("contains = \"\"", 5, "`contains`: it must have 1 to 1024 bytes", "contains = \"text\"");
    assert_key_refused("regex = \"a(b\"", 5, "`regex`: unclosed group", "regex = \"(?i)error [0-9]+\"");
    let too_large = "`regex`: its automaton would be larger than 1024 KiB";
    assert_key_refused("regex = '(?u)\\w{90}'", 5, too_large, "shorter repetitions, or none of (?u)");
    let pointer = "`pointer`: a JSON pointer begins with `/`, such as /reading/value";
    assert_key_refused("pointer = \"a\"\nexists = true", 5, pointer, "pointer = \"/reading/value\"");
    let nothing = "add exists, eq, ne, lt, le, gt or ge, such as: gt = 90";
    assert_key_refused("pointer = \"/a\"", 5, "`pointer`: nothing is asked of the value there", nothing);
    let without = "add pointer = \"/reading/value\", or leave `gt` out";
    assert_key_refused("gt = 1", 5, "`gt`: it means nothing without `pointer`", without);
    let incomparable = "no value can be compared with it so";
    for (line, key, fix) in [
        ("gt = true", "gt", "gt = \"text\" or a number"),
        ("eq = [1]", "eq", "eq = \"text\", a number, true or false"),
        ("lt = nan", "lt", "lt = \"text\" or a number"),
        ("le = inf", "le", "le = \"text\" or a number"),
        ("ne = 2020-01-01", "ne", "ne = \"text\", a number, true or false"),
    ] {
        assert_key_refused(&format!("pointer = \"/a\"\n{line}"), 6, &format!("`{key}`: {incomparable}"), fix);
    }
    assert_key_refused("pointer = \"/a\"\nexists = 1", 6, "`exists`: it is neither true nor false", "exists = true");
    for line in ["alerts-per-s-max = 0", "alerts-per-s-max = 1_000_001", "alerts-per-s-max = \"7\"", "alerts-per-s-max = -1"] {
        let cause = "`alerts-per-s-max`: it is not a whole number between 1 and 1000000";
        assert_key_refused(line, 5, cause, "alerts-per-s-max = 10");
    }
    let cause = "`cool-down-ms`: it is not a whole number between 0 and 86400000";
    assert_key_refused("cool-down-ms = 86400001", 5, cause, "cool-down-ms = 5000");
    for (key, port) in [("udp", 5140), ("tcp", 5141)] {
        for address in ["localhost:1", "127.0.0.1", "127.0.0.1:0"] {
            let cause = format!("`{key}`: it is not an IP address with a port other than 0");
            assert_key_refused(&format!("{key} = \"{address}\""), 5, &cause, &format!("{key} = \"127.0.0.1:{port}\""));
        }
    }
    let run = "run = [\"/usr/local/bin/page\", \"argument\"]";
    assert_key_refused("run = \"/bin/true\"", 5, "`run`: it is not a list of texts", run);
    assert_key_refused("run = [1]", 5, "`run`: it is not a list of texts", run);
    let without = format!("add {run}, or leave `run-at-once-max` out");
    assert_key_refused("run-at-once-max = 1", 5, "`run-at-once-max`: it means nothing without `run`", &without);
    let cause = "`run-time-ms-max`: it is not a whole number between 10 and 3600000";
    assert_key_refused("run = [\"/bin/true\"]\nrun-time-ms-max = 1", 6, cause, "run-time-ms-max = 10000");
    let text = "[[rules]]\nname = \"r\"\ntopic = \"a/#/b\"\n";
    let cause = "`topic`: the `#` at byte 2 must be the last level";
    assert_refused(text, ["rule `r` is refused (es.toml line 3)", cause, "topic = \"plant/+/temp\""]);
}

#[test]
fn what_rules_refuse_together_names_the_rule() {
    let cause = "the program is looked for nowhere: its path must begin with `/`";
    assert_key_refused("run = [\"sh\"]", 2, cause, "run = [\"/usr/local/bin/page\", \"argument\"]");
    let cause = "`log` is false, and it names neither `udp` nor `tcp` nor `run`: it would do nothing";
    assert_key_refused("log = false", 2, cause, "leave out `log = false`, or add udp, tcp or run");
    let twice = "[[rules]]\nname = \"a\"\ntopic = \"#\"\n[[rules]]\nname = \"a\"\ntopic = \"b\"\n";
    let fix = "another name: metrics and alerts tell rules apart by it";
    assert_refused(twice, ["rule `a` is refused (es.toml line 4)", "another rule has the same name", fix]);
    let many: String = (0..65).map(|number| format!("[[rules]]\nname = \"r{number}\"\ntopic = \"#\"\n")).collect();
    let fix = "fewer rules: a filter with `+` or `#` is about many topics";
    assert_refused(&many, ["rule `r64` is refused (es.toml line 193)", "there are at most 64 rules, these are 65", fix]);
}

#[test]
fn hand_made_rules_are_checked_with_the_configuration() {
    let rules = vec![AlertRule { log: false, ..AlertRule::new("r", "#".parse().unwrap()) }];
    let (error, ..) = Config { rules, ..Config::default() }.check(0).unwrap_err().lines();
    assert_eq!(error, "rule `r` is refused");
}
