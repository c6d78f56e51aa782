//! A program that sends and wants to know: the client, without the engine.
//!
//! `cargo run --example producer -- 127.0.0.1:9000`; without an address it starts an engine of its own to talk to. A program of its own
//! takes this crate with `default-features = false, features = ["client"]`.

use eventstream::client::{AckLevel, ClientOptions, Outcome, Producer};
use eventstream::wire::Priority;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match std::env::args().nth(1) {
        Some(server) => produce(&server),
        None => with_an_engine(produce),
    }
}

fn produce(server: &str) -> Result<(), Box<dyn std::error::Error>> {
    // An id and a sequence that were kept from the last run would go here, for what is sent again to count once.
    let producer = Producer::connect(ClientOptions { ack_level: AckLevel::Durable, ..ClientOptions::new(server) })?;
    println!("producer {}", producer.id());

    // Thousands may be on their way at once; `send` waits when it is as many as the server allows.
    for reading in 0..10_000 {
        let body = format!("{{\"val\":{}.{}}}", 20 + reading % 7, reading % 10);
        producer.send(Priority::Low, "sensors/temp", body.as_bytes())?;
    }

    // One that matters can be waited for.
    let order = producer.send(Priority::Medium, "orders/new", br#"{"id":7}"#)?;
    match producer.wait(order)? {
        Outcome::Acked => println!("order 7 is on the disk, as event {order} of this producer"),
        Outcome::Refused(reason) => println!("order 7 is not stored: {reason}"),
    }

    // The rest, to the last outcome.
    producer.flush()?;
    for refusal in producer.take_refusals() {
        println!("{} events from {} on were refused: {}", refusal.count, refusal.first, refusal.reason);
    }
    let statistics = producer.close()?;
    let p99_us = statistics.ack_latency_ns.value_at_quantile(0.99) / 1000;
    println!(
        "{} given, {} acked, {} refused; 99 of 100 within {p99_us} us",
        statistics.given, statistics.acked, statistics.refused
    );
    Ok(())
}

/// Starts an engine in this process, and stops it when `talk` is through.
fn with_an_engine(talk: impl FnOnce(&str) -> Result<(), Box<dyn std::error::Error>>) -> Result<(), Box<dyn std::error::Error>> {
    use eventstream::embedding::{Config, Engine};
    let folder = tempfile::tempdir()?;
    let config =
        Config { data_dir: folder.path().to_owned(), tcp_listen: "127.0.0.1:0".parse().ok(), ..Config::without_sockets() };
    let (engine, report) = Engine::builder().config(config).start()?;
    let talked = talk(&report.tcp.ok_or("no TCP")?.to_string());
    println!("\n{}", engine.stop());
    talked
}
