//! What an engine is told before it starts: configuration, handlers, publishers.

use super::{Engine, EngineError, Handlers};
use crate::config::Config;
use crate::process::{AlertHandler, TransactionalHandler, WindowHandler};
use crate::report::StartReport;

/// An engine to be. See [`crate::embedding`] for the whole story.
///
/// A handler is made anew on each NUMA node, by the node's number, and lives on one thread.
///
/// ```
/// use eventstream::config::Config;
/// use eventstream::engine::Engine;
///
/// let folder = tempfile::tempdir()?;
/// let config = Config { data_dir: folder.path().to_owned(), ..Config::without_sockets() };
/// let (engine, report) = Engine::builder().config(config).publishers(1).start()?;
/// println!("{report}");
/// assert!(engine.stop().is_clean());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "nothing runs before `start`"]
pub struct EngineBuilder {
    config: Config,
    handlers: Handlers,
    publishers: u32,
}

impl EngineBuilder {
    pub(super) fn new() -> Self {
        let handlers = Handlers {
            alerts: Vec::new(),
            transactional: None,
            spare_transactional_threads: 0,
            windows: None,
            stock_alert_log: true,
        };
        Self { config: Config::default(), handlers, publishers: 0 }
    }

    /// The configuration, instead of the defaults.
    pub fn config(self, config: Config) -> Self {
        Self { config, ..self }
    }

    /// One more handler for REALTIME events; they are called in the order in which they were given.
    pub fn alert_handler<H: AlertHandler + 'static>(mut self, make: impl Fn(u8) -> H + 'static) -> Self {
        self.handlers.alerts.push(Box::new(move |node| Box::new(make(node))));
        self
    }

    /// The handler for TRANSACTIONAL events. A second one takes the place of the first.
    pub fn transactional_handler<H: TransactionalHandler + 'static>(mut self, make: impl Fn(u8) -> H + 'static) -> Self {
        self.handlers.transactional = Some(Box::new(move |node| Box::new(make(node))));
        self
    }

    /// Spare threads for an offloaded TRANSACTIONAL handler, each with a handler of its own from the same maker; none unless told otherwise.
    /// They get work while a node's level is ELEVATED or above; events are not handled in order meanwhile.
    pub fn spare_transactional_threads(mut self, threads: u8) -> Self {
        self.handlers.spare_transactional_threads = threads;
        self
    }

    /// The handler for closed windows of BATCH. A second one takes the place of the first.
    pub fn window_handler<H: WindowHandler + 'static>(mut self, make: impl Fn(u8) -> H + 'static) -> Self {
        self.handlers.windows = Some(Box::new(move |node| Box::new(make(node))));
        self
    }

    /// Whether REALTIME events go to the alert log, `alerts.jsonl` in the data folder; they do unless told otherwise.
    pub fn alert_log(mut self, wanted: bool) -> Self {
        self.handlers.stock_alert_log = wanted;
        self
    }

    /// How many publishers [`Engine::publishers`] hands out; none unless told otherwise. Each has lanes of its own, which share the tiers'
    /// capacities with the reactors', and some 8 MiB of the pool. They are spread over the NUMA nodes.
    pub fn publishers(self, publishers: u32) -> Self {
        Self { publishers, ..self }
    }

    /// Starts everything. On return events are taken in.
    ///
    /// # Errors
    /// Whatever is in the way, with cause and fix; nothing runs then.
    pub fn start(self) -> Result<(Engine, StartReport), EngineError> {
        Engine::start(&self.config, &self.handlers, self.publishers)
    }
}
