//! Handlers: what an embedder runs on events.
//!
//! | trait | called with | on | may fail |
//! |---|---|---|---|
//! | [`AlertHandler`] | each REALTIME event | agent or helper thread | by panic only |
//! | [`TransactionalHandler`] | each TRANSACTIONAL event that is no duplicate, and again on each retry | agent or helper thread | yes: retried, then dead-lettered |
//! | [`WindowHandler`] | each closed window of a topic | helper thread | by panic only |
//!
//! A handler says once where it runs ([`HandlerMode`]). A panic is caught: the event goes to the dead letters as `handler_panic`; too
//! many in a row ([`super::guard`]) disable the handler until the next start.

use std::fmt;

use crate::pool::EventView;
use crate::process::window::ClosedWindow;

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

    /// Looks at one topic's closed window.
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

/// Bytes of text that a [`HandlerError`] keeps.
pub const ERROR_TEXT_BYTES_MAX: usize = 95;

/// Why a handler failed: a text of at most 95 bytes, kept in place, so that failing costs no allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HandlerError {
    bytes: [u8; ERROR_TEXT_BYTES_MAX],
    len: u8,
    /// Something did not fit; nothing follows it, so that the text stays a prefix.
    is_cut: bool,
}

impl HandlerError {
    /// Keeps as much of the text as fits, cut between characters.
    pub fn new(cause: impl fmt::Display) -> Self {
        let mut error = Self { bytes: [0; ERROR_TEXT_BYTES_MAX], len: 0, is_cut: false };
        // Cannot fail: `write_str` below always says Ok, and a Display that fails itself just ends the text there.
        let _ = fmt::Write::write_fmt(&mut error, format_args!("{cause}"));
        error
    }

    /// The text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len as usize]).expect("cut between characters")
    }
}

impl fmt::Write for HandlerError {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !self.is_cut {
            let used = self.len as usize;
            let taken = text_prefix(text, ERROR_TEXT_BYTES_MAX - used).len();
            self.bytes[used..used + taken].copy_from_slice(&text.as_bytes()[..taken]);
            self.len = (used + taken) as u8;
            self.is_cut = taken < text.len();
        }
        Ok(())
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
        let error = HandlerError::new(format_args!("{}é{}", "x".repeat(94), "tail"));
        assert_eq!(error.text(), "x".repeat(94));
        assert_eq!(HandlerError::new("disk on fire").text(), "disk on fire");
    }
}
