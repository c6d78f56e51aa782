//! Rules as a whole: what is matched, held back, sent, and counted.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use super::actions::ORDERS_MAX;
use super::*;
use crate::bus::TopicFilter;
use crate::process::test_support::TestPool;

/// How long anything may take before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn rule(name: &str, topic: &str) -> AlertRule {
    AlertRule::new(name, TopicFilter::parse(topic).unwrap())
}

/// Without the alert log.
fn quiet(name: &str) -> AlertRule {
    AlertRule { log: false, ..rule(name, "#") }
}

fn program(script: &str) -> Program {
    Program::new(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
}

struct House {
    folder: tempfile::TempDir,
    pool: TestPool,
    rules: Rules,
    kinds: Vec<[bool; ActionKind::ALL.len()]>,
    sent: u64,
}

impl House {
    fn new(rules: &[AlertRule]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = RulesOptions { body_bytes_max: 1024, ..RulesOptions::new(folder.path().join("alerts.jsonl")) };
        let kinds = rules.iter().map(AlertRule::kinds).collect();
        let rules = Rules::start(rules, &options).unwrap();
        Self { folder, pool: TestPool::new(), rules, kinds, sent: 0 }
    }

    fn send(&mut self, priority: Priority, topic: &str, body: &[u8]) {
        let event = self.pool.event(priority, self.sent, topic, body);
        self.rules.handle(&self.pool.shared.view(&event));
        self.pool.release(event);
        self.pool.events_out();
        self.sent += 1;
    }

    fn at(&mut self, millis: u64, body: &[u8]) {
        self.pool.now_ns = millis * 1_000_000;
        self.send(Priority::High, "t", body);
    }

    /// Finishes everything; gives the lines of the alert log.
    fn end(self) -> (Arc<RulesCounters>, Vec<serde_json::Value>) {
        let counters = self.rules.counters();
        drop(self.rules);
        for (place, kinds) in self.kinds.iter().enumerate() {
            let rule = counters.rule(place as u8);
            let limited = rule.above_rate.get() + rule.cooled_down.get();
            for kind in ActionKind::ALL.into_iter().filter(|kind| kinds[*kind as usize]) {
                let action = counters.action(place as u8, kind);
                let ended = action.done.get() + action.failed.get() + action.overflowed.get();
                assert_eq!(rule.matched.get(), limited + ended, "RU3, {kind:?}");
            }
        }
        (counters, lines(&self.folder.path().join("alerts.jsonl")))
    }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn actions(counters: &RulesCounters, kind: ActionKind) -> (u64, u64, u64) {
    let action = counters.action(0, kind);
    (action.done.get(), action.failed.get(), action.overflowed.get())
}

#[test]
fn a_rule_is_about_its_topics_and_priorities() {
    let critical = AlertRule { priority: Priority::Critical, ..rule("critical", "plant/#") };
    let mut house = House::new(&[rule("any", "plant/+/temp"), critical]);
    house.send(Priority::High, "plant/1/temp", b"1");
    house.send(Priority::Critical, "plant/1/temp", b"2");
    house.send(Priority::Critical, "plant/1/oil", b"3");
    house.send(Priority::High, "plant/1/oil", b"4");
    house.send(Priority::Critical, "shop/1/temp", b"5");
    let (counters, lines) = house.end();
    let fired: Vec<_> = lines.iter().map(|line| (line["rule"].as_str().unwrap(), line["body"].as_str().unwrap())).collect();
    assert_eq!(fired, [("any", "1"), ("any", "2"), ("critical", "2"), ("critical", "3")]);
    assert_eq!((counters.rule(0).matched.get(), counters.rule(1).matched.get(), counters.topic_limit.get()), (2, 2, 0));
}

#[test]
fn a_body_beyond_the_bound_is_not_evaluated_but_for_rules_without_condition() {
    let condition = Condition { contains: Needle::new("x"), ..Condition::default() };
    let mut house = House::new(&[AlertRule { condition, ..rule("conditional", "#") }, rule("plain", "#")]);
    house.send(Priority::High, "t", &[b'x'; 1024]);
    house.send(Priority::High, "t", &[b'x'; 1025]);
    let (counters, lines) = house.end();
    assert_eq!((counters.rule(0).matched.get(), counters.rule(0).not_evaluated.get()), (1, 1));
    assert_eq!((counters.rule(1).matched.get(), counters.rule(1).not_evaluated.get()), (2, 0));
    assert_eq!(lines.len(), 3);
}

#[test]
fn the_rate_is_counted_in_seconds_of_the_events() {
    let mut house = House::new(&[AlertRule { alerts_per_s_max: 2, ..rule("r", "#") }]);
    for millis in [100, 200, 300, 999, 1_000, 1_500, 1_600, 3_000] {
        house.at(millis, millis.to_string().as_bytes());
    }
    let (counters, lines) = house.end();
    let bodies: Vec<_> = lines.iter().map(|line| line["body"].as_str().unwrap()).collect();
    assert_eq!(bodies, ["100", "200", "1000", "1500", "3000"]);
    assert_eq!((counters.rule(0).matched.get(), counters.rule(0).above_rate.get()), (8, 3));
}

#[test]
fn a_rule_is_silent_for_its_cool_down_after_each_alert() {
    let mut house = House::new(&[AlertRule { cool_down: Nanos::from_millis(500), ..rule("r", "#") }]);
    for millis in [100, 599, 600, 700, 650, 1_099, 1_100, 9_000] {
        house.at(millis, millis.to_string().as_bytes());
    }
    let (counters, lines) = house.end();
    let bodies: Vec<_> = lines.iter().map(|line| line["body"].as_str().unwrap()).collect();
    assert_eq!(bodies, ["100", "600", "1100", "9000"]);
    assert_eq!((counters.rule(0).matched.get(), counters.rule(0).cooled_down.get()), (8, 4));
}

#[test]
fn datagrams_and_lines_reach_their_addresses() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = (Some(udp.local_addr().unwrap()), Some(tcp.local_addr().unwrap()));
    let mut house = House::new(&[AlertRule { udp: addresses.0, tcp: addresses.1, ..quiet("both") }]);
    for body in [b"1".as_slice(), b"\xff"] {
        house.send(Priority::Critical, "a/b", body);
    }
    let mut lines = BufReader::new(tcp.accept().unwrap().0);
    for (id, key, value) in [(0, "body", "1"), (1, "body_base64", "/w==")] {
        let mut datagram = [0; 2048];
        let bytes = udp.recv(&mut datagram).unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line.as_bytes(), &datagram[..bytes]);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&line["rule"], &line["id"], &line["topic"]), (&"both".into(), &id.into(), &"a/b".into()));
        assert_eq!(line[key], value);
    }
    let (counters, _) = house.end();
    assert_eq!((actions(&counters, ActionKind::Udp), actions(&counters, ActionKind::Tcp)), ((2, 0, 0), (2, 0, 0)));
}

#[test]
fn a_peer_that_has_closed_gets_its_lines_over_a_fresh_connection() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut house = House::new(&[AlertRule { tcp: Some(tcp.local_addr().unwrap()), ..quiet("r") }]);
    for round in 0..3 {
        house.send(Priority::High, "t", b"");
        let mut line = String::new();
        let mut peer = BufReader::new(tcp.accept().unwrap().0);
        peer.read_line(&mut line).unwrap();
        assert!(line.contains(&format!("\"id\":{round},")), "{line}");
        // Closed here, before the next one is sent.
    }
    assert_eq!(actions(&house.end().0, ActionKind::Tcp), (3, 0, 0));
}

#[test]
fn an_address_where_nobody_listens_is_counted_and_ends_in_time() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut house = House::new(&[AlertRule { tcp: Some(address), ..quiet("r") }]);
    for _ in 0..100 {
        house.send(Priority::High, "t", b"");
    }
    assert_eq!(actions(&house.end().0, ActionKind::Tcp), (0, 100, 0));
}

#[test]
fn a_peer_that_never_reads_costs_alerts_and_no_event_waits() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut house = House::new(&[AlertRule { tcp: Some(tcp.local_addr().unwrap()), ..quiet("r") }]);
    let counters = house.rules.counters();
    let give_up = Instant::now() + PATIENCE;
    while actions(&counters, ActionKind::Tcp).1 == 0 {
        assert!(Instant::now() < give_up, "the kernel's buffers are bounded");
        house.pool.now_ns += 1_000_000_000; // Never above the rate.
        house.send(Priority::High, "t", &[b'x'; 1024]);
    }
    let (_, failed, overflowed) = actions(&house.end().0, ActionKind::Tcp);
    assert!(failed > 0 && overflowed > 0, "{failed} {overflowed}");
}

#[test]
fn a_program_gets_the_event_and_nothing_of_our_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seen");
    let script = format!("cat > {0}; pwd >> {0}; /usr/bin/env | sort >> {0}", path.display());
    let mut house = House::new(&[AlertRule { run: Some(program(&script)), ..quiet("page") }]);
    house.send(Priority::Critical, "a/b $(c)", b"the body\n");
    assert_eq!(actions(&house.end().0, ActionKind::Run), (1, 0, 0));
    let seen = std::fs::read_to_string(path).unwrap();
    // PWD, SHLVL, _ and OLDPWD are the shell's own.
    let is_own = |line: &&str| ["PWD=", "OLDPWD=", "SHLVL=", "_="].iter().any(|own| line.starts_with(own));
    let lines: Vec<_> = seen.lines().filter(|line| !is_own(line)).collect();
    let expected = [
        "the body",
        "/",
        "EVENTSTREAM_BODY_BYTES=9",
        "EVENTSTREAM_ID=0",
        "EVENTSTREAM_PRIORITY=CRITICAL",
        "EVENTSTREAM_RULE=page",
        "EVENTSTREAM_TOPIC=a/b $(c)",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn programs_that_fail_hang_or_are_not_there_are_counted() {
    let missing = Program::new(vec!["/nowhere/at/all".to_owned()]);
    let hanging = Program { run_time_max: Nanos::from_millis(50), at_once_max: 2, ..program("sleep 1000 & sleep 1000") };
    for (program, is_done) in [(program("exit 0"), true), (program("exit 3"), false), (missing, false), (hanging, false)] {
        let mut house = House::new(&[AlertRule { run: Some(program.clone()), ..quiet("r") }]);
        for _ in 0..4 {
            house.send(Priority::High, "t", b"");
        }
        let expected = if is_done { (4, 0, 0) } else { (0, 4, 0) };
        assert_eq!(actions(&house.end().0, ActionKind::Run), expected, "{program:?}");
    }
}

#[test]
fn a_full_queue_is_counted_and_the_others_go_on() {
    let hanging = Program { run_time_max: Nanos::from_millis(3_600_000), at_once_max: 1, ..program("sleep 1000") };
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut house = House::new(&[
        AlertRule { run: Some(hanging), ..quiet("hangs") },
        AlertRule { udp: Some(udp.local_addr().unwrap()), alerts_per_s_max: 1, ..quiet("fine") },
    ]);
    for second in 0..ORDERS_MAX as u64 + 50 {
        house.at(second * 1_000, b"");
    }
    let (counters, _) = house.end();
    let (done, failed, overflowed) = actions(&counters, ActionKind::Run);
    // One may have left the queue for its program.
    assert!((49..=50).contains(&overflowed), "{overflowed}");
    assert_eq!((done, failed), (0, ORDERS_MAX as u64 + 50 - overflowed));
    let fine = counters.action(1, ActionKind::Udp);
    assert_eq!(fine.failed.get(), 0);
    assert!(fine.done.get() > 0);
}

#[test]
fn rules_that_make_no_sense_are_refused_each_with_its_cause() {
    use RuleRefusal::*;
    let run = |arguments: &[&str]| {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        AlertRule { run: Some(Program::new(arguments)), ..quiet("r") }
    };
    let numbered = |count: u16, log| -> Vec<AlertRule> {
        let address = |port| Some(([127, 0, 0, 1], 1 + port).into());
        (0..count).map(|port| AlertRule { log, udp: address(port), ..rule(&format!("r{port}"), "#") }).collect()
    };
    assert_eq!(check_rules(&numbered(16, false)), Ok(()));
    assert_eq!(check_rules(&numbered(17, false)), Err((16, TooManyTargets { targets: 17 })));
    assert_eq!(check_rules(&numbered(65, false)), Err((64, TooMany { rules: 65 })));
    assert_eq!(check_rules(&[rule("a", "#"), rule("b", "#"), rule("a", "x")]), Err((2, SameName)));
    for name in ["", "a b", "ä", &"x".repeat(65)] {
        assert_eq!(check_rules(&[rule(name, "#")]), Err((0, Name)), "{name}");
    }
    for (refused, refusal) in [
        (quiet("r"), NoAction),
        (run(&["sh", "-c", "true"]), ProgramNotAbsolute),
        (run(&[]), ProgramSize),
        (run(&["/x"; 33]), ProgramSize),
        (run(&["/x", &"y".repeat(4095)]), ProgramSize),
        (run(&["/x", "y\0"]), ProgramNul),
    ] {
        assert_eq!(check_rules(&[refused]), Err((0, refusal)));
    }
}
