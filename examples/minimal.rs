//! The least that an engine inside a program needs: a handler, a publisher, and the account at the end.
//!
//! `cargo run --example minimal`

use eventstream::embedding::*;

/// Runs on every REALTIME event, on a thread of its own.
struct Siren;

impl AlertHandler for Siren {
    fn name(&self) -> &'static str {
        "siren"
    }

    fn handle(&mut self, event: &EventView<'_>) {
        println!("siren: {} says `{}`", event.topic, String::from_utf8_lossy(event.body));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let config = Config { data_dir: folder.path().to_owned(), ..Config::without_sockets() };
    let (mut engine, _) = Engine::builder().config(config).alert_handler(|_node| Siren).publishers(1).start()?;

    let mut publisher = engine.publishers().remove(0);
    for (topic, body, priority) in [
        ("alarms/fire", "hall 3", Priority::Critical),
        ("sensors/door", "open", Priority::Low),
        ("alarms/water", "cellar", Priority::High),
    ] {
        match publisher.publish(Publication::new(topic, body.as_bytes(), priority)) {
            Ok(id) => println!("published {topic} as event {id}"),
            Err(refused) => println!("{refused}"),
        }
    }
    // What is no event comes back, with the reason.
    if let Err(refused) = publisher.publish(Publication::new("alarms/#", b"", Priority::High)) {
        println!("{refused}");
    }

    // Finishes what was published, and makes the account: three received, three stored.
    let account = engine.stop();
    println!("\n{account}");
    Ok(())
}
