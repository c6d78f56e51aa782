use super::*;
use crate::config::{Flags, Layers};

fn load(flags: &[&str], text: &str) -> Result<Config, ConfigRefusal> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("es.toml");
    std::fs::write(&path, text).expect("room for a file");
    let flags = flags.iter().copied().chain(["--config", path.to_str().expect("plain")]).collect::<Vec<_>>();
    let flags = Flags::parse(&flags).expect("the flags exist");
    Config::load(&Layers { flags, ..Layers::default() }).map(|loaded| loaded.config)
}

/// The three lines, with the folder taken out.
fn refused(text: &str) -> String {
    let lines = load(&[], text).expect_err("refused").to_string();
    let (before, after) = lines.split_once(" (/").map_or((lines.as_str(), ""), |(before, after)| (before, after));
    let after = after.split_once("/es.toml").map_or(after, |(_, after)| after);
    if after.is_empty() { before.to_owned() } else { format!("{before} (es.toml{after}") }
}

#[test]
fn an_entry_is_read_with_all_its_keys() {
    let text = "[[windows]]\nname = \"temp\"\ntopics = \"plant/+/temp\"\ngroup-by = 2\nlength-ms = 60000\nslide-ms = 5000\n\
                value = \"/val\"\ngroups-max = 10\nmetrics = true\n[[windows]]\nname = \"all\"\ntopics = \"#\"\ngroup-by = \"filter\"\n";
    let config = load(&["--window-ms=1000"], text).expect("both are good");
    let all = TopicFilter::parse("#").unwrap();
    let temp = WindowEntry {
        group_by: GroupBy::Levels(2),
        length_ms: Some(60_000),
        slide_ms: Some(5_000),
        value: Some(JsonPointer::parse("/val").unwrap()),
        groups_max: 10,
        metrics: true,
        ..WindowEntry::new("temp", TopicFilter::parse("plant/+/temp").unwrap())
    };
    assert_eq!(config.windows, [temp, WindowEntry { group_by: GroupBy::Filter, ..WindowEntry::new("all", all) }]);
    assert_eq!(config.windows.iter().map(|entry| entry.span_ms(&config)).collect::<Vec<_>>(), [(60_000, 5_000), (1_000, 1_000)]);
}

#[test]
fn what_an_entry_leaves_out_the_flags_say() {
    let text = "[[windows]]\nname = \"a\"\ntopics = \"#\"\n[[windows]]\nname = \"b\"\ntopics = \"#\"\nlength-ms = 500\n\
                [[windows]]\nname = \"c\"\ntopics = \"#\"\nslide-ms = 250\n";
    let config = load(&["--window-ms=1000", "--window-slide-ms=100"], text).expect("all divide");
    let spans: Vec<_> = config.windows.iter().map(|entry| entry.span_ms(&config)).collect();
    assert_eq!((config.window_span_ms(), spans), ((1_000, 100), vec![(1_000, 100), (500, 500), (1_000, 250)]));
}

#[test]
fn each_cause_of_a_refused_entry_is_reached() {
    for (key, cause, fix) in [
        (
            "colour = 1",
            "[[windows]] has the keys name, topics, group-by, length-ms, slide-ms, value, groups-max, metrics",
            "remove it",
        ),
        ("name = \"Über\"", "a name has 1 to 64 characters of a to z, 0 to 9, `-` and `_`", "name = \"temperatures\""),
        ("topics = \"a/#/b\"", "the `#` at byte 2 must be the last level", "topics = \"plant/+/temp\""),
        (
            "group-by = \"room\"",
            "it is none of topic, filter, or a number of levels",
            "group-by = \"topic\", \"filter\", or a number of first levels such as 2",
        ),
        (
            "group-by = 0",
            "it must be between 1 and 32",
            "group-by = \"topic\", \"filter\", or a number of first levels such as 2",
        ),
        ("length-ms = 5", "it must be between 10 and 86400000", "length-ms = 60000"),
        ("slide-ms = \"soon\"", "it is not a whole number", "slide-ms = 5000"),
        ("value = \"val\"", "a JSON pointer begins with `/`, such as /reading/value", "value = \"/reading/value\""),
        ("groups-max = 0", "it must be between 1 and 65536", "groups-max = 256"),
        ("metrics = \"maybe\"", "it is none of on, off", "metrics = true"),
        ("value = [1]", "it is a list", "value = \"/reading/value\""),
    ] {
        let name = key.split(' ').next().unwrap();
        let expected = format!("error: key `{name}` of [[windows]] is refused (es.toml line 2)\ncause: {cause}\nfix:   {fix}");
        assert_eq!(refused(&format!("[[windows]]\n{key}\n")), expected);
    }
}

#[test]
fn a_name_and_topics_must_be_there() {
    let missing = "error: key `topics` of [[windows]] is refused (es.toml line 2)\ncause: it must be there\nfix:   topics = \"plant/+/temp\"";
    assert_eq!(refused("\n[[windows]]\nname = \"a\"\n"), missing);
    assert!(refused("[[windows]]\ntopics = \"#\"\n").starts_with("error: key `name` of [[windows]] is refused"));
}

#[test]
fn what_is_no_list_of_tables_is_refused() {
    for (text, found) in
        [("windows = 1", "a single value"), ("[windows]", "a table"), ("windows = [1]", "a list of what is no table")]
    {
        assert!(refused(text).starts_with(&format!("error: key `windows` has {found} (es.toml line 1)")), "{}", refused(text));
    }
}

#[test]
fn windows_that_are_wrong_together_are_refused() {
    let same = "error: two windows have the name `a`\n\
                cause: lines and metrics tell windows apart by their names; `default` is the flags' own\n\
                fix:   a name of its own for each of [[windows]]";
    let entry = |name: &str| format!("[[windows]]\nname = \"{name}\"\ntopics = \"#\"\n");
    assert_eq!(refused(&entry("a").repeat(2)), same);
    assert!(refused(&entry("default")).contains("two windows have the name `default`"));
    let many: String = (0..=DEFINITIONS_MAX).map(|number| entry(&number.to_string())).collect();
    assert!(refused(&many).starts_with("error: 33 [[windows]] are too many\n"));
    let slides = "error: window `a` of 1000 ms can't slide by 300 ms\n\
                  cause: a window is put together from whole slides, 1 to 60 of them, each a table in memory\n\
                  fix:   a slide that divides 1000 into at most 60 parts, or none for windows side by side";
    assert_eq!(refused(&format!("{}length-ms = 1000\nslide-ms = 300\n", entry("a"))), slides);
    assert!(refused(&format!("{}length-ms = 1000\nslide-ms = 2000\n", entry("a"))).contains("can't slide by 2000 ms"));
    assert!(refused(&format!("{}length-ms = 1000\nslide-ms = 10\n", entry("a"))).contains("can't slide by 10 ms"));
    let flags = load(&["--window-slide-ms=3000"], "").expect_err("5000 is no multiple").to_string();
    assert!(flags.starts_with("error: window `default` of 5000 ms can't slide by 3000 ms\n"), "{flags}");
}
