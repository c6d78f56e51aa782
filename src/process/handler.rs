//! Handlers: what an embedder runs on events.
//!
//! | trait | called with | on | may fail |
//! |---|---|---|---|
//! | [`AlertHandler`] | each REALTIME event | agent or helper thread | by panic only |
//! | [`TransactionalHandler`] | each TRANSACTIONAL event that is no duplicate, and again on each retry | agent or helper thread | yes: retried, then dead-lettered |
//! | [`WindowHandler`] | each group of each closed window | helper thread | by panic only |
//!
//! A handler says once where it runs ([`HandlerMode`]). A panic is caught: the event goes to the dead letters as `handler_panic`; too
//! many in a row ([`super::guard`]) disable the handler until the next start.

use std::fmt;

use crate::pool::EventView;
use crate::process::retry::RetryPolicy;
use crate::process::window::ClosedWindow;
use crate::storage::dead_letter::Note;

/// Where a handler runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandlerMode {
    /// On the agent's own thread. A promise: no I/O, no blocking, no lock that others hold for long, under 10 µs a call.
    /// One that breaks it is counted and named (`handler_over_budget`), and delays whatever shares the core.
    Inline,
    /// On an unpinned thread of its own at nice 19. It may block: only its own tier waits for it.
    #[default]
    Offloaded,
}

/// Runs on every REALTIME event, in order of arrival.
pub trait AlertHandler: Send {
    /// For metrics, logs and thread names.
    fn name(&self) -> &'static str;

    /// Where it runs; asked once, at start.
    fn mode(&self) -> HandlerMode {
        HandlerMode::Offloaded
    }

    /// Looks at one event.
    fn handle(&mut self, event: &EventView<'_>);
}

/// Runs on every TRANSACTIONAL event that is no duplicate.
pub trait TransactionalHandler: Send {
    /// For metrics, logs and thread names.
    fn name(&self) -> &'static str;

    /// Where it runs; asked once, at start.
    fn mode(&self) -> HandlerMode {
        HandlerMode::Offloaded
    }

    /// How often a failed event is tried again, and after which waits; asked once, at start. Given what is configured, which is also the
    /// default.
    fn retry_policy(&self, configured: RetryPolicy) -> RetryPolicy {
        configured
    }

    /// Does the transaction. `event.header.attempts` tells how often it failed before.
    ///
    /// # Errors
    /// The event is tried again after a back-off, and dead-lettered as `processing_failed` when its tries are used up.
    fn handle(&mut self, event: &EventView<'_>) -> Result<(), HandlerError>;
}

/// Runs on every closed window, after its line is written. Always on a helper thread.
pub trait WindowHandler: Send {
    /// For metrics and logs.
    fn name(&self) -> &'static str;

    /// Looks at one group of a closed window: a topic, unless its definition says otherwise.
    fn window_closed(&mut self, window: &ClosedWindow<'_>);
}

/// As much of the text as fits into `bytes_max`, cut between characters.
pub(crate) fn text_prefix(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Why a handler failed: a text of at most 95 bytes, kept in place, so that failing costs no allocation. The dead letter shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HandlerError(Note);

impl HandlerError {
    /// Keeps as much of the text as fits, cut between characters.
    pub fn new(cause: impl fmt::Display) -> Self {
        Self(Note::of(cause))
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.0.as_str()
    }

    /// The text as it goes to the dead letters.
    pub(crate) fn note(&self) -> Note {
        self.0
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HandlerError").field(&self.text()).finish()
    }
}

impl std::error::Error for HandlerError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_text_is_cut_between_characters() {
        let error = HandlerError::new(format_args!("{}é", "x".repeat(94)));
        assert_eq!(error.text(), "x".repeat(94));
        assert_eq!(HandlerError::new("disk on fire").text(), "disk on fire");
    }
}
