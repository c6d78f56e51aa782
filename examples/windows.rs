//! Windows: ten thousand readings of four sensors, told in a few lines.
//!
//! `cargo run --example windows`

use eventstream::embedding::*;

/// Gets one call for each topic of each closed window.
struct Board;

impl WindowHandler for Board {
    fn name(&self) -> &'static str {
        "board"
    }

    fn window_closed(&mut self, window: &ClosedWindow<'_>) {
        println!(
            "{:<10} {:>5} readings in {:>3} ms: {:>8.0} a second, {:.1} bytes each",
            window.group,
            window.events,
            window.length.0 / 1_000_000,
            window.events_per_s(),
            window.body_bytes_mean(),
        );
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let config = Config { data_dir: folder.path().to_owned(), window_ms: 100, ..Config::without_sockets() };
    let (mut engine, _) = Engine::builder().config(config).window_handler(|_node| Board).publishers(1).start()?;

    let mut publisher = engine.publishers().remove(0);
    for round in 0..10u32 {
        for n in 0..1_000u32 {
            // Some sensors have more to say than others.
            let sensor = ["hall", "hall", "hall", "cellar", "cellar", "roof", "garden"][n as usize % 7];
            let reading = format!("{{\"c\":{:.1}}}", 20.0 + f64::from(round * 7 + n % 13) / 10.0);
            let topic = format!("temp/{sensor}");
            publisher
                .publish(Publication::new(&topic, reading.as_bytes(), Priority::Low))
                .map_err(|refused| refused.to_string())?;
        }
        // A sensor network takes breaks; the windows close meanwhile.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }

    // Closes the last window before its time.
    let account = engine.stop();
    println!("\n{account}");
    Ok(())
}
