use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn found<'b>(pointer: &str, body: &'b str) -> Option<&'b str> {
    let value = JsonPointer::parse(pointer).unwrap().find(body.as_bytes());
    value.map(|value| std::str::from_utf8(value.raw()).unwrap())
}

/// The examples of RFC 6901, section 5.
#[test]
fn the_examples_of_the_standard_hold() {
    let body =
        r#"{ "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8 }"#;
    assert_eq!(found("", body), Some(body));
    assert_eq!(found("/foo", body), Some(r#"["bar", "baz"]"#));
    assert_eq!(found("/foo/0", body), Some(r#""bar""#));
    let rest = ["/", "/a~1b", "/c%d", "/e^f", "/g|h", "/i\\j", "/k\"l", "/ ", "/m~0n"];
    for (pointer, value) in rest.iter().zip(["0", "1", "2", "3", "4", "5", "6", "7", "8"]) {
        assert_eq!(found(pointer, body), Some(value), "{pointer}");
    }
}

#[test]
fn every_rule_refuses_what_breaks_it() {
    use JsonPointerRefusal::*;
    let refused = |text: &str| JsonPointer::parse(text).unwrap_err();
    assert_eq!(refused("a"), NoSlash);
    assert_eq!(refused(&"/".repeat(1025)), TooLong { bytes: 1025 });
    assert_eq!(refused(&"/".repeat(33)), TooManyTokens { tokens: 33 });
    assert_eq!(refused("/ä~2"), BadEscape { at_byte: 3 });
    assert_eq!(refused("/~"), BadEscape { at_byte: 1 });
    assert!(JsonPointer::parse(&"/".repeat(32)).is_ok());
}

#[test]
fn only_plain_numbers_are_indices_and_a_dash_is_no_element() {
    let body = r#"[10,11,{"01":12,"-":13}]"#;
    assert_eq!(found("/1", body), Some("11"));
    for pointer in ["/01", "/+1", "/-", "/-1", "/3", "/1.0", "/", "/99999999999999999999999"] {
        assert_eq!(found(pointer, body), None, "{pointer}");
    }
    assert_eq!((found("/2/01", body), found("/2/-", body)), (Some("12"), Some("13")), "in an object they are names");
    assert_eq!(found("/0", "[]"), None);
    assert_eq!(found("/x", "{}"), None);
}

#[test]
fn of_a_key_given_twice_the_first_counts() {
    assert_eq!(found("/a", r#"{"a":1,"a":2}"#), Some("1"));
    assert_eq!(found("/a/c", r#"{"a":{"b":1},"a":{"c":2}}"#), None);
}

#[test]
fn what_follows_the_value_is_not_read_and_what_precedes_it_must_be_json() {
    assert_eq!(found("/a", r#"{"a":1"#), Some("1"));
    assert_eq!(found("/a", r#"{"a":{"b":[1]} and so on"#), Some(r#"{"b":[1]}"#));
    for body in [
        r#"{"x":01,"a":1}"#,
        r#"{"x":1 "a":1}"#,
        r#"{"x":1,,"a":1}"#,
        r#"{"x":[1,],"a":1}"#,
        r#"{"x":{"y":1,},"a":1}"#,
        r#"{"x":[1},"a":1}"#,
        r#"{"x":"\x","a":1}"#,
        r#"{"x":"\u12g4","a":1}"#,
        "{\"x\":\"\n\",\"a\":1}",
        "{\"x\":\"long enough for a word\u{1f} and more\",\"a\":1}",
        r#"{"x":tru,"a":1}"#,
        r#"{"x":1.,"a":1}"#,
        r#"{"x":1e,"a":1}"#,
        r#"{"x":-,"a":1}"#,
        r#"{x:1,"a":1}"#,
        r#"{"a" 1}"#,
        r#"{"a":"open"#,
        r#"{"a":"\"#,
        r#"{"a":"\u00"#,
        r#"{"a":[1"#,
        r#"{"a":"#,
        "",
    ] {
        assert_eq!(found("/a", body), None, "{body}");
    }
}

#[test]
fn nesting_is_bounded_and_costs_no_stack() {
    let nested = |levels: usize| format!("{{\"x\":{}{},\"a\":1}}", "[".repeat(levels), "]".repeat(levels));
    // The innermost array is empty and opens nothing.
    assert_eq!(found("/a", &nested(126)), Some("1"));
    assert_eq!(found("/a", &nested(129)), None);
    assert_eq!(found("/a", &nested(1_000_000)), None);
    assert_eq!(found("", &"{\"a\":".repeat(1_000_000)), None);
}

#[test]
fn numbers_are_finite_or_none() {
    let number = |body: &str| JsonPointer::parse("").unwrap().find(body.as_bytes()).and_then(|value| value.as_f64());
    assert_eq!(number(" -12.5e-1 "), Some(-1.25));
    assert_eq!(number("0"), Some(0.0));
    assert_eq!(number("18446744073709551617"), Some(18446744073709551616.0));
    for body in ["1e999", "-1e999", "\"1\"", "null", "[1]", "NaN", "+1", ".5", "inf"] {
        assert_eq!(number(body), None, "{body}");
    }
}

#[test]
fn text_compares_decoded_and_is_borrowed_only_without_escapes() {
    let value = |body: &'static str| JsonPointer::parse("").unwrap().find(body.as_bytes()).unwrap();
    assert_eq!(value(r#""plain é""#).as_str(), Some("plain é"));
    assert_eq!(value(r#""a\n""#).as_str(), None);
    assert_eq!((value("7").as_str(), value("7").cmp_text("7")), (None, None));
    let order = |body, other| value(body).cmp_text(other).unwrap();
    assert_eq!(order(r#""\u0061\"\\\/\b\f\n\r\t\u00e9\u20AC\uD83D\uDE00""#, "a\"\\/\u{8}\u{c}\n\r\té€😀"), Ordering::Equal);
    assert_eq!(order(r#""\ud83d""#, "\u{fffd}"), Ordering::Less, "a lone surrogate is no text");
    assert_eq!(order(r#""\ud83dx""#, "😀"), Ordering::Less);
    for (body, other, expected) in [
        (r#""ab""#, "abc", Ordering::Less),
        (r#""abc""#, "ab", Ordering::Greater),
        (r#""a\u0062""#, "abc", Ordering::Less),
        (r#""a\u0062c""#, "ab", Ordering::Greater),
        (r#""b\n""#, "a\n", Ordering::Greater),
        (r#""""#, "", Ordering::Equal),
        (r#""\n""#, "", Ordering::Greater),
    ] {
        assert_eq!(order(body, other), expected, "{body} {other}");
    }
    let latin1 = JsonPointer::parse("").unwrap();
    assert_eq!(latin1.find(b"\"\xe9\"").unwrap().as_str(), None, "no UTF-8");
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab~/0]{0,3}",
        1 => any::<String>(),
        1 => "[a\"\\\\\n\u{1}é€😀]{0,12}",
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Few digits: serde_json rounds long ones to a neighbour.
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(any_text(), inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Every pointer into a value, and for each one that leads nowhere.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.extend([at.to_owned(), format!("{at}/nowhere"), format!("{at}/0")]);
    let mut below = |name: &str, value| pointers(value, &format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), all);
    match value {
        Value::Array(values) => values.iter().enumerate().for_each(|(index, value)| below(&index.to_string(), value)),
        Value::Object(map) => map.iter().for_each(|(name, value)| below(name, value)),
        _ => {}
    }
}

/// The same JSON with every character of its strings as an escape.
fn escaped(json: &str) -> String {
    let (mut out, mut in_string, mut characters) = (String::new(), false, json.chars());
    while let Some(character) = characters.next() {
        match character {
            '"' => (in_string, _) = (!in_string, out.push('"')),
            '\\' if in_string => {
                let kind = characters.next().unwrap();
                out.extend(['\\', kind]);
                out.extend(characters.by_ref().take(if kind == 'u' { 4 } else { 0 }));
            }
            other if in_string => {
                let mut units = [0; 2];
                other.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
            }
            other => out.push(other),
        }
    }
    out
}

proptest! {
    #[test]
    fn it_finds_what_serde_json_finds(value in any_value(), is_pretty in any::<bool>()) {
        let body = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let escaped = escaped(&body);
        let mut all = Vec::new();
        pointers(&value, "", &mut all);
        for text in all {
            let pointer = JsonPointer::parse(&text).unwrap();
            for body in [&body, &escaped] {
                let found = pointer.find(body.as_bytes());
                let parsed = found.map(|found| serde_json::from_slice::<Value>(found.raw()).unwrap());
                prop_assert_eq!(parsed.as_ref(), value.pointer(&text), "{} in {}", text, body);
                if let (Some(found), Some(expected)) = (found, value.pointer(&text)) {
                    prop_assert_eq!(found.as_f64(), expected.as_f64());
                    prop_assert_eq!(found.cmp_text("a"), expected.as_str().map(|text| text.cmp("a")));
                    prop_assert_eq!(found.as_str().is_some_and(|text| Some(text) != expected.as_str()), false);
                    prop_assert_eq!(found.is_null(), expected.is_null());
                }
            }
        }
    }

    /// Two parsers agree on what is JSON; a body cut or bent anywhere never panics.
    #[test]
    fn it_accepts_what_serde_json_accepts(value in any_value(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut body = serde_json::to_vec(&value).unwrap();
        let at = at.index(body.len());
        if cut { body.truncate(at) } else { body[at] = byte }
        let found = JsonPointer::parse("").unwrap().find(&body);
        // Only of text can two parsers agree; serde_json also wants the end to be the end, and numbers that a float holds.
        if std::str::from_utf8(&body).is_ok() {
            let strict = serde_json::from_slice::<serde::de::IgnoredAny>(&body);
            match found {
                None => prop_assert!(strict.is_err(), "{:?}", String::from_utf8_lossy(&body)),
                Some(value) => {
                    let is_whole = value.raw().len() == body.trim_ascii().len();
                    prop_assert_eq!(strict.is_ok(), is_whole, "{:?}", String::from_utf8_lossy(&body));
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(body in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\u0e-. tfn".to_vec())], 0..64)) {
        for pointer in ["", "/a", "/0/0", "/u/0"] {
            JsonPointer::parse(pointer).unwrap().find(&body);
        }
    }
}
