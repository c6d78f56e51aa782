//! An order pipeline: a handler that fails now and then, a shop that submits orders again, and no order booked twice.
//!
//! `cargo run --example orders`
//!
//! - The bank is down for some orders the first time: they are tried again by the engine, with a back-off.
//! - It never takes two of them: they end as dead letters, with the bank's last word.
//! - The shop is impatient and submits every third order twice, the second time with another time stamp, so the bodies differ. An
//!   idempotency key made of the order's number tells the engine that they are one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use eventstream::embedding::*;

/// Orders of the shop.
const ORDERS: u32 = 30;

/// What was booked, and how often.
type Bookings = Arc<Mutex<BTreeMap<u32, u32>>>;

struct Bank {
    bookings: Bookings,
}

impl TransactionalHandler for Bank {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn handle(&mut self, event: &EventView<'_>) -> Result<(), HandlerError> {
        let order = order_number(event.body).ok_or(HandlerError::new("not an order"))?;
        if order % 13 == 0 {
            return Err(HandlerError::new(format_args!("order {order}: account closed")));
        }
        if order % 5 == 0 && event.header.attempts == 0 {
            println!("bank: order {order} has to wait, the line is busy");
            return Err(HandlerError::new("line busy"));
        }
        *self.bookings.lock().expect("nobody panics with it").entry(order).or_default() += 1;
        Ok(())
    }
}

/// Of a body such as `order 17 at 12:03`.
fn order_number(body: &[u8]) -> Option<u32> {
    std::str::from_utf8(body).ok()?.split(' ').nth(1)?.parse().ok()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let config = Config { data_dir: folder.path().to_owned(), ..Config::without_sockets() };
    let dead_letters = config.dead_letter_file();
    let bookings = Bookings::default();
    let bank = {
        let bookings = bookings.clone();
        move |_node| Bank { bookings: bookings.clone() }
    };
    let (mut engine, _) = Engine::builder().config(config).transactional_handler(bank).publishers(1).start()?;

    let mut publisher = engine.publishers().remove(0);
    let mut submit = |order: u32, minute: u32| {
        let body = format!("order {order} at 12:{minute:02}");
        let key = EventKey::of_name(format!("order {order}").as_bytes());
        let publication = Publication::new("orders/eu", body.as_bytes(), Priority::Medium).with_key(key);
        // Waits where the tier is full: an order is not to be lost.
        publisher.publish(publication).map(drop).map_err(|refused| refused.to_string())
    };
    for order in 1..=ORDERS {
        submit(order, order % 60)?;
        if order % 3 == 0 {
            submit(order, (order + 1) % 60)?;
        }
    }

    // What is between two tries when the stop begins is finished too.
    let account = engine.stop();
    let terms = account.ledger.total();
    let bookings = bookings.lock().expect("nobody panics with it");
    println!("\nsubmitted {}, recognised as submitted before {}", terms.received, terms.duplicate);
    println!("booked {} orders, the most often booked one {} time(s)", bookings.len(), bookings.values().max().unwrap_or(&0));
    println!("\ndead letters, to be looked at and sent again:");
    print!("{}", std::fs::read_to_string(dead_letters)?);
    println!("\n{account}");
    Ok(())
}
