//! For programs that have the engine inside: from the first event to the account at the end.
//!
//! ```
//! use eventstream::embedding::*;
//!
//! struct Siren;
//!
//! impl AlertHandler for Siren {
//!     fn name(&self) -> &'static str {
//!         "siren"
//!     }
//!     fn handle(&mut self, event: &EventView<'_>) {
//!         println!("{}: {}", event.topic, String::from_utf8_lossy(event.body));
//!     }
//! }
//!
//! let folder = tempfile::tempdir()?;
//! let config = Config { data_dir: folder.path().to_owned(), ..Config::without_sockets() };
//! let (mut engine, report) = Engine::builder().config(config).alert_handler(|_node| Siren).publishers(1).start()?;
//! println!("{report}");
//!
//! let mut publisher = engine.publishers().remove(0);
//! publisher.publish(Publication::new("alarms/fire", b"hall 3", Priority::Critical)).expect("it is an event, and the engine runs");
//!
//! let account = engine.stop();
//! assert_eq!(account.ledger.total().stored, 1);
//! assert!(account.is_clean());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/` has three programs that run to an end by themselves: `minimal`, `orders` (retries, idempotency keys, dead letters), `windows`.
//!
//! # Life
//!
//! [`Engine::builder`] takes a [`Config`] (every flag of `serve` is a field of it; [`Config::without_sockets`] listens nowhere), handlers and a
//! number of publishers. [`EngineBuilder::start`] returns when events are taken in, or says in three lines why not, and nothing runs then.
//! While it runs, call [`Engine::watch`] some four times a second if anybody should hear of a handler that was disabled or a disk that is
//! full: it hands over log lines, and the cause once the engine can't go on. [`Engine::stop`] takes nothing new, finishes what was
//! taken, closes the log and returns the account. An engine that is dropped instead is stopped too, and nobody sees its account.
//!
//! # Threads
//!
//! The engine pins its own threads as its core plan says, and nothing of yours runs on them but inline handlers:
//!
//! | what | on which thread | may it block? |
//! |---|---|---|
//! | [`HandlerMode::Offloaded`] (the default) | one of its own for each tier, unpinned, nice 19 | yes: its tier waits, its policy acts, the other tiers go on |
//! | [`HandlerMode::Inline`] | the tier's agent thread | no: no I/O, no waiting, under 10 µs; beyond, it is counted and named |
//! | [`WindowHandler`] | the window log's helper thread | yes: windows grow longer meanwhile |
//! | [`Publisher`] | yours | `publish` waits, `try_publish` never does |
//!
//! A handler is made once for each NUMA node, by the function given to the builder, and lives on one thread; it needs to be `Send`, not
//! `Sync`. An event is borrowed for the call: what should outlive it is copied.
//!
//! # Publishing
//!
//! A [`Publisher`] is `Send`, used by one thread at a time, and has its own lane into each tier and its own part of the pool (16,384
//! events of up to 256 bytes, 1,024 of up to 2 KiB, one beyond), so it can't take a slot from a socket, nor a socket one from it. Events
//! of one publisher and tier are handled in the order in which they were published; between publishers nothing is said.
//!
//! | the tier is full | [`publish`](Publisher::publish) | [`try_publish`](Publisher::try_publish) |
//! |---|---|---|
//! | above its high-water mark, flow control on | waits, whatever the policy | goes on to the lane's end |
//! | lane full, `block-producer` | waits | the new one is lost: `queue_full` |
//! | lane full, `drop-new` (flow control off) | the new one is lost: `queue_full` | the same |
//! | lane full, `drop-old` (flow control off) | its own oldest one is lost: `queue_full` | the same |
//! | no slot | waits | the new one is lost: `pool_exhausted` |
//! | paused by the node's level | waits | the new one is lost: `backpressure_drop` |
//! | shed by the node's level | the new one is lost, with the level's reason | the same |
//!
//! Waiting is sleeping: whoever makes room wakes the publisher. **Inside a handler** nothing waits, since it might wait for itself:
//! `publish` returns [`Refusal::WouldBlock`] and gives the publication back. A handler gets a publisher of its own engine when that has
//! started, for instance through a channel:
//!
//! ```
//! use std::sync::mpsc::{Receiver, channel};
//! use std::sync::Mutex;
//! use eventstream::embedding::*;
//!
//! struct Splitter {
//!     arriving: Receiver<Publisher>,
//!     publisher: Option<Publisher>,
//! }
//!
//! impl TransactionalHandler for Splitter {
//!     fn name(&self) -> &'static str {
//!         "splitter"
//!     }
//!     fn handle(&mut self, event: &EventView<'_>) -> Result<(), HandlerError> {
//!         // Offloaded, so it may wait for the engine to have started.
//!         let publisher = self.publisher.get_or_insert_with(|| self.arriving.recv().expect("sent after the start"));
//!         for part in event.body.split(|byte| *byte == b',') {
//!             // What fails here is tried again as a whole; an idempotency key tells the parts that are done already.
//!             let key = EventKey::of_name(&[event.header.id.to_le_bytes().as_slice(), part].concat());
//!             publisher.publish(Publication::new("parts", part, Priority::Low).with_key(key)).map_err(HandlerError::new)?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # let folder = tempfile::tempdir()?;
//! # let config = Config { data_dir: folder.path().to_owned(), ..Config::without_sockets() };
//! let (give, arriving) = channel();
//! let arriving = Mutex::new(Some(arriving)); // One node, one handler.
//! let splitter = move |_| Splitter { arriving: arriving.lock().unwrap().take().expect("one node"), publisher: None };
//! let config = Config { nodes: Auto::Given(1), ..config };
//! let (mut engine, _) = Engine::builder().config(config).transactional_handler(splitter).publishers(2).start()?;
//! let mut publishers = engine.publishers();
//! give.send(publishers.remove(0))?;
//! publishers[0].publish(Publication::new("whole", b"a,b,c", Priority::Medium)).expect("it is an event");
//! # while engine.telemetry().read(eventstream::sys::clock::Clock::now(&eventstream::sys::clock::HostClock)).ledger.total().stored < 4 {
//! #     std::thread::yield_now();
//! # }
//! # assert!(engine.stop().is_clean());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! - `Ok(id)` from a publisher: the event was received, and will have exactly one outcome: stored (handled, with storage off), a duplicate,
//!   a dead letter with its reason, or dropped with a counted reason. It is *not* on disk yet: `written` and `durable` positions of the log
//!   are in the telemetry.
//! - A [`Refused`] gives the publication back. [`Refusal::Lost`] means that it was received all the same and is in the account; the others
//!   that it never was.
//! - A TRANSACTIONAL event whose handler says no is tried again (`--max-retries`, with back-off), then dead-lettered as
//!   `processing_failed` with the handler's text. So a handler may see an event more than once, and must cope.
//! - A panic is caught: the event is a dead letter `handler_panic`. A hundred in a row disable the handler until the next start, loudly.
//! - After [`Engine::stop`] publishers say [`Refusal::Closed`]. What they had published before is finished, within `--drain-timeout-ms`.
//!
//! # Idempotency keys
//!
//! Two events with the same [`EventKey`] are one to dedup, whatever they hold: the second counts as a duplicate and is not handled again. Without
//! a key TRANSACTIONAL events are the same when topic and body are. Give a key to whatever may be sent twice: a retry after a time-out, an
//! order that a user submits again. The window and the capacity of what is remembered are printed at start.
//!
//! # Errors
//!
//! [`EngineError`](crate::engine::EngineError) when it does not start, [`Refused`] when an event does not go in, [`HandlerError`] when a handler
//! says no, and [`DrainSummary::is_clean`] for the whole at the end: each is small, exact, and prints what to do where something can be
//! done.

#![forbid(unsafe_code)]

pub use crate::config::{Auto, Config};
pub use crate::engine::{Engine, EngineBuilder};
pub use crate::ingest::{Publication, Publisher, Refusal, Refused};
pub use crate::pool::{EventKey, EventView};
pub use crate::process::{AlertHandler, ClosedWindow, HandlerError, HandlerMode, TransactionalHandler, WindowHandler};
pub use crate::report::{DrainSummary, StartReport};
pub use crate::wire::Priority;
