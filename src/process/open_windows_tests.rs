use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::process::handler::WindowHandler;
use crate::process::window::{ClosedWindow, GroupBy, ValueFigures};
use crate::process::window_log::{WindowLogOptions, WindowWriter};

const MS: u64 = 1_000_000;
const START: Nanos = Nanos(1_000 * MS);
/// Between the clocks.
const WALL: u64 = 77 * MS;

/// A window as a handler saw it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    definition: String,
    group: String,
    /// On the monotonic clock.
    start: u64,
    end: u64,
    events: u64,
    body_bytes: u64,
    first: u64,
    last: u64,
    value: Option<(u64, Option<ValueFigures>)>,
}

#[derive(Clone, Default)]
struct Witness(Arc<Mutex<Vec<Seen>>>);

impl WindowHandler for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    fn window_closed(&mut self, window: &ClosedWindow<'_>) {
        let start = window.start.0 - WALL;
        self.0.lock().unwrap().push(Seen {
            definition: window.definition.to_owned(),
            group: window.group.to_owned(),
            start,
            end: start + window.length.0,
            events: window.events,
            body_bytes: window.body_bytes,
            first: window.first_at.0 - WALL,
            last: window.last_at.0 - WALL,
            value: window.value.map(|value| (value.events, value.figures)),
        });
    }
}

struct Bench {
    windows: OpenWindows,
    writer: WindowWriter,
    seen: Witness,
    now: Nanos,
    extended: u64,
}

impl Bench {
    fn new(definitions: &[WindowDefinition]) -> Self {
        let options = WindowLogOptions { path: None, definitions: definitions.to_vec(), ..WindowLogOptions::new("") };
        let seen = Witness::default();
        let (log, writer) = WindowLog::manual(&options, Some(Box::new(seen.clone())), Arc::default()).unwrap();
        let mut windows = OpenWindows::new(log);
        windows.start(START, WallNanos(START.0 + WALL));
        Self { windows, writer, seen, now: START, extended: 0 }
    }

    fn wall(&self) -> WallNanos {
        WallNanos(self.now.0 + WALL)
    }

    fn poll(&mut self, at_once: bool) {
        self.extended += self.windows.close_those_over(self.now, self.wall(), at_once).extended;
    }

    /// An event, as the processor takes it: after what is over has been closed.
    fn event(&mut self, topic: &str, body: &str) -> u64 {
        self.poll(false);
        let event = Recorded { topic: topic.as_bytes(), body: body.as_bytes(), received_at: self.wall() };
        self.windows.record(std::iter::once(event))
    }

    fn write(&mut self) {
        while self.writer.write_next() {}
    }

    fn advance(&mut self, ms: u64) {
        self.now = Nanos(self.now.0 + ms * MS);
    }

    /// Drains, and hands out what was seen.
    fn finish(mut self) -> Vec<Seen> {
        self.poll(false);
        while !self.windows.is_written() {
            self.poll(true);
            self.write();
        }
        self.seen.0.lock().unwrap().clone()
    }
}

fn topics(length_ms: u64, slide_ms: u64) -> WindowDefinition {
    let slide = Nanos(slide_ms * MS);
    WindowDefinition { slide, groups_max: 64, group_bytes_max: 4096, ..WindowDefinition::topics(Nanos(length_ms * MS)) }
}

fn grouped(name: &str, filter: &str, group_by: GroupBy, length_ms: u64, slide_ms: u64) -> WindowDefinition {
    WindowDefinition {
        name: name.to_owned(),
        filter: filter.parse().unwrap(),
        group_by,
        value: Some("/v".parse().unwrap()),
        ..topics(length_ms, slide_ms)
    }
}

fn definitions() -> Vec<WindowDefinition> {
    vec![
        topics(20, 20),
        grouped("rooms", "plant/#", GroupBy::Levels(2), 30, 10),
        grouped("all", "#", GroupBy::Filter, 15, 15),
        grouped("one", "plant/1/temp", GroupBy::Topic, 40, 5),
        grouped("none", "nowhere/#", GroupBy::Topic, 10, 10),
    ]
}

#[test]
fn a_sliding_window_closes_with_each_slide_while_it_holds_an_event() {
    let mut bench = Bench::new(&[topics(30, 10)]);
    bench.event("a", "12");
    for _ in 0..9 {
        bench.advance(10);
        bench.poll(false);
        bench.write();
    }
    assert_eq!(bench.windows.next_deadline(bench.now, Nanos(MS)), None, "nothing is left to close");
    let seen = bench.finish();
    // The first ones are shorter: there was nothing before the start.
    let spans: Vec<_> = seen.iter().map(|w| ((w.start - START.0) / MS, (w.end - START.0) / MS, w.events)).collect();
    assert_eq!(spans, [(0, 10, 1), (0, 20, 1), (0, 30, 1)]);
}

#[test]
fn panes_are_merged_group_by_group() {
    let mut bench = Bench::new(&[topics(5, 5), grouped("g", "#", GroupBy::Topic, 20, 10)]);
    for (topic, value) in [("a", "1"), ("b", "10"), ("a", "3")] {
        bench.event(topic, &format!("{{\"v\":{value}}}"));
    }
    bench.advance(10);
    bench.event("b", "{\"v\":-2}");
    bench.event("c", "no number");
    bench.advance(10);
    bench.poll(false);
    bench.write();
    let seen = bench.finish();
    let second = seen.iter().filter(|w| w.definition == "g" && w.end == START.0 + 20 * MS);
    let rows: Vec<_> = second
        .map(|w| {
            let (with_value, figures) = w.value.unwrap();
            (w.group.as_str(), w.events, with_value, figures.map(|f| (f.min, f.max, f.sum)))
        })
        .collect();
    let expected = [("a", 2, 2, Some((1.0, 3.0, 4.0))), ("b", 2, 2, Some((-2.0, 10.0, 8.0))), ("c", 1, 0, None)];
    assert_eq!(rows, expected);
}

#[test]
fn a_million_topics_would_cost_rows_and_no_group_an_event() {
    const TOPICS: u64 = 20_000;
    let all = WindowDefinition { value: None, ..grouped("all", "load/#", GroupBy::Filter, 1_000, 1_000) };
    let mut bench = Bench::new(&[topics(1_000, 1_000), all]);
    let without_row: u64 = (0..TOPICS).map(|n| bench.event(&format!("load/{n}"), "x")).sum();
    assert_eq!(without_row, TOPICS - 64, "as many as have no row of their own");
    let seen = bench.finish();
    let of = |name: &str| seen.iter().filter(|w| w.definition == name).map(|w| w.events).collect::<Vec<_>>();
    assert_eq!((of("all"), of("default").len()), (vec![TOPICS], 64));
}

#[test]
fn groups_beyond_the_bound_are_counted_and_others_go_on() {
    let few = WindowDefinition { groups_max: 2, ..grouped("few", "#", GroupBy::Topic, 10, 10) };
    let mut bench = Bench::new(&[topics(10, 10), few]);
    let without_row: Vec<u64> = ["a", "b", "c", "a", "c"].map(|topic| bench.event(topic, "")).to_vec();
    assert_eq!(without_row, [0, 0, 1, 0, 1]);
    bench.advance(10);
    assert_eq!(bench.event("c", ""), 0, "a new pane has room again");
}

type Step = (u64, usize, Option<i32>);

const TOPICS: [&str; 6] = ["plant/1/temp", "plant/1/load", "plant/2/temp", "plant", "office/1", "x"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![5 => Just(0u64), 3 => 1u64..6, 1 => 6u64..70];
    prop::collection::vec((pause, 0..TOPICS.len(), prop::option::of(-100i32..1000)), 1..120)
}

fn body(value: Option<i32>) -> String {
    value.map_or_else(|| "{\"w\":1}".to_owned(), |value| format!("{{\"v\":{value}}}"))
}

/// What a definition calls a topic's group, by the book.
fn naive_group(definition: &WindowDefinition, topic: &str) -> Option<String> {
    let is_match = match definition.filter.as_str() {
        "#" => true,
        "plant/#" => topic == "plant" || topic.starts_with("plant/"),
        exact => exact == topic,
    };
    is_match.then(|| match definition.group_by {
        GroupBy::Topic => topic.to_owned(),
        GroupBy::Filter => definition.filter.as_str().to_owned(),
        GroupBy::Levels(levels) => topic.split('/').take(levels.into()).collect::<Vec<_>>().join("/"),
    })
}

/// Definition, group, start and end; events, body bytes, numbers and their sum.
type Window = (String, String, u64, u64, (u64, u64, u64, i64));

/// Every window there must be, from the events alone: `(time, topic, value)`, and the time of the drain.
fn naive_windows(definitions: &[WindowDefinition], events: &[(u64, &str, Option<i32>)], drained_at: u64) -> Vec<Window> {
    let mut windows: BTreeMap<(&str, String, u64), Window> = BTreeMap::new();
    for definition in definitions {
        let (length, slide) = (definition.length.0, definition.slide.0);
        // Where the drain finds events in the open pane, it closes one more window, cut short.
        let opened_at = drained_at - (drained_at - START.0) % slide;
        let is_counted = |topic: &str| naive_group(definition, topic).is_some();
        let has_rows = events.iter().any(|(at, topic, _)| *at >= opened_at && is_counted(topic));
        let last_end = if has_rows { opened_at + slide } else { opened_at };
        for (at, topic, value) in events {
            let Some(group) = naive_group(definition, topic) else { continue };
            // The ends on the grid after the event, as long as the window reaches back to its pane.
            let first_end = START.0 + ((at - START.0) / slide + 1) * slide;
            for end in (0..length / slide).map(|n| first_end + n * slide).filter(|end| *end <= last_end) {
                let window = windows.entry((&definition.name, group.clone(), end)).or_insert_with(|| {
                    let start = (end - length).max(START.0);
                    (definition.name.clone(), group.clone(), start, end.min(drained_at), (0, 0, 0, 0))
                });
                let sums = &mut window.4;
                let (numbers, sum) = value.filter(|_| definition.value.is_some()).map_or((0, 0), |value| (1, i64::from(value)));
                *sums = (sums.0 + 1, sums.1 + body(*value).len() as u64, sums.2 + numbers, sums.3 + sum);
            }
        }
    }
    let mut windows: Vec<_> = windows.into_values().collect();
    windows.sort();
    windows
}

proptest! {
    #[test]
    fn windows_on_time_are_those_of_a_naive_model(steps in steps(), extra_polls in any::<bool>()) {
        let definitions = definitions();
        let mut bench = Bench::new(&definitions);
        let mut events = Vec::new();
        for (pause, topic, value) in steps {
            for _ in 0..pause {
                bench.advance(1);
                if extra_polls {
                    bench.poll(false);
                    bench.write();
                }
            }
            bench.poll(false);
            bench.write();
            prop_assert_eq!(bench.event(TOPICS[topic], &body(value)), 0);
            events.push((bench.now.0, TOPICS[topic], value));
        }
        let drained_at = bench.now.0;
        prop_assert_eq!(bench.extended, 0);
        let found = bench.finish().into_iter().map(|seen| {
            let (numbers, sum) = seen.value.map_or((0, 0), |(events, figures)| (events, figures.map_or(0, |f| f.sum as i64)));
            (seen.definition, seen.group, seen.start, seen.end, (seen.events, seen.body_bytes, numbers, sum))
        });
        let mut found: Vec<Window> = found.collect();
        found.sort();
        prop_assert_eq!(found, naive_windows(&definitions, &events, drained_at));
    }

    #[test]
    fn a_late_writer_loses_no_event(steps in steps(), turns in prop::collection::vec(any::<bool>(), 120)) {
        let definitions = definitions();
        let mut bench = Bench::new(&definitions);
        let mut sent: BTreeMap<(String, String), u64> = BTreeMap::new();
        for ((pause, topic, value), writes) in steps.into_iter().zip(turns) {
            bench.advance(pause);
            if writes {
                bench.writer.write_next();
            }
            prop_assert_eq!(bench.event(TOPICS[topic], &body(value)), 0);
            for definition in &definitions {
                if let Some(group) = naive_group(definition, TOPICS[topic]) {
                    *sent.entry((definition.name.clone(), group)).or_default() += 1;
                }
            }
        }
        let mut counted: BTreeMap<(String, String), u64> = BTreeMap::new();
        for seen in bench.finish() {
            prop_assert!(seen.start <= seen.first && seen.last <= seen.end, "{seen:?} holds events of another time");
            *counted.entry((seen.definition, seen.group)).or_default() += seen.events;
        }
        for (key, events) in sent {
            let definition = definitions.iter().find(|definition| definition.name == key.0).unwrap();
            let counted = counted.remove(&key).unwrap_or(0);
            prop_assert!(counted >= events && counted <= events * definition.panes(), "{key:?}: {counted} of {events}");
        }
        prop_assert_eq!(counted, BTreeMap::new());
    }
}
