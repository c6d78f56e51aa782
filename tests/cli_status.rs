//! `status` against a real admin endpoint.

use std::process::Command;
use std::sync::Arc;

use eventstream::metrics::admin::AdminServer;
use eventstream::metrics::ledger::{DropReason, LedgerCells};
use eventstream::metrics::telemetry::{LogPosition, Telemetry};
use eventstream::pool::Source;
use eventstream::wire::Tier;

fn engine() -> AdminServer {
    let cells = LedgerCells::default();
    let cell = cells.cell(Source::Tcp, Tier::Transactional);
    cell.received.add(10);
    cell.stored.add(6);
    cell.duplicate.add(1);
    cell.lost[DropReason::QueueFull as usize].add(2);
    let telemetry = Telemetry {
        ledgers: vec![Arc::new(cells)],
        logs: vec![Box::new(|| LogPosition { node: 0, written_sequence: 6, durable_sequence: 5, sync: "by group" })],
        in_flight: Box::new(|| 1),
        ..Telemetry::default()
    };
    AdminServer::start("127.0.0.1:0".parse().expect("an address"), Arc::new(telemetry), None, || {}).expect("a free port")
}

fn status(server: &AdminServer, more: &[&str]) -> String {
    let admin = server.address().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_eventstream")).args(["status", "--admin", &admin]).args(more).output();
    let output = output.expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a status is text")
}

#[test]
fn json_has_the_terms_as_fields_that_add_up() {
    let server = engine();
    let document: serde_json::Value = serde_json::from_str(&status(&server, &["--json"])).expect("valid JSON");
    let total = &document["total"];
    assert_eq!((&total["received"], &total["stored"], &total["duplicate"]), (&10.into(), &6.into(), &1.into()));
    assert_eq!((&total["dead_lettered"]["queue_full"], &total["in_flight"]), (&2.into(), &1.into()));
    assert_eq!(document["tiers"]["transactional"], *total);
    assert_eq!((&document["written_sequence"], &document["durable_sequence"]), (&6.into(), &5.into()));
    server.stop();
}

#[test]
fn text_is_one_table_with_what_was_lost_by_reason() {
    let server = engine();
    let text = status(&server, &[]);
    for part in [
        "running, level HEALTHY, ready",
        "log of node 0: written to 6, durable to 5",
        "dead-lettered: queue_full 2",
        "transactional",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    server.stop();
}
