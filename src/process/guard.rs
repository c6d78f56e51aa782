//! A handler under guard: panics are caught and counted, too many in a row disable it, its time is watched.
//!
//! Invariants:
//! - **G1** A panic never leaves `Guard::call`: the thread, its runner and the other tiers go on.
//! - **G2** After `panics_max` panics in a row the handler is not called again in this process. Events then go on to storage
//!   (REALTIME: an alert is missed, the event is not) or to the dead letters as `handler_panic` (TRANSACTIONAL: an unprocessed event must
//!   not look processed).
//! - **G3** No log line from an agent thread: [`super::watch`] tells the story from the control side.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Once};
use std::time::Instant;

use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};
use crate::process::handler::HandlerError;
use crate::sys::clock::Nanos;

thread_local! {
    /// Whether this thread is inside a handler, for the panic hook and for publishers.
    static IN_HANDLER: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a handler.
pub(crate) fn is_inside_handler() -> bool {
    IN_HANDLER.get()
}

/// How a handler fares; written by the thread that runs it.
#[derive(Debug)]
pub struct HandlerHealth {
    /// The handler's own name.
    pub name: &'static str,
    /// Panics caught.
    pub panics: Counter,
    /// Batches in which an inline handler took more than its budget per call on average.
    pub over_budget_batches: Counter,
    /// Calls not made because the handler is disabled.
    pub skipped: Counter,
    /// 1 when disabled (G2).
    pub disabled: Counter,
}

impl Measured for HandlerHealth {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        let labels = [("handler", self.name)];
        let mut one =
            |name, help, kind, counter: &Counter| sink(Sample { name, help, kind, labels: &labels, value: counter.get() });
        one("handler_panics", "Panics of a handler, caught", Kind::Counter, &self.panics);
        one("handler_over_budget", "Batches in which an inline handler was too slow", Kind::Counter, &self.over_budget_batches);
        one("handler_skipped", "Calls not made because the handler is disabled", Kind::Counter, &self.skipped);
        one("handler_disabled", "1 if the handler was disabled after too many panics", Kind::Gauge, &self.disabled);
    }
}

/// What came of a call.
pub(crate) enum Called<T> {
    /// It returned.
    Done(T),
    /// It panicked; the error holds the panic's message.
    Panicked(HandlerError),
    /// It was disabled before (G2).
    Disabled,
}

/// A handler and what is known of its behaviour.
pub(crate) struct Guard<H: ?Sized> {
    handler: Box<H>,
    health: Arc<HandlerHealth>,
    panics_max: u32,
    panics_in_a_row: u32,
}

impl<H: ?Sized> Guard<H> {
    pub(crate) fn new(name: &'static str, handler: Box<H>, panics_max: u32) -> Self {
        let health = HandlerHealth {
            name,
            panics: Counter::default(),
            over_budget_batches: Counter::default(),
            skipped: Counter::default(),
            disabled: Counter::default(),
        };
        Self { handler, health: Arc::new(health), panics_max, panics_in_a_row: 0 }
    }

    pub(crate) fn health(&self) -> Arc<HandlerHealth> {
        self.health.clone()
    }

    /// Calls the handler (G1). A panic may leave its state half-changed; that is the handler's own to mend, hence the limit in G2.
    #[inline]
    pub(crate) fn call<T>(&mut self, call: impl FnOnce(&mut H) -> T) -> Called<T> {
        if self.panics_in_a_row >= self.panics_max {
            self.health.skipped.add(1);
            return Called::Disabled;
        }
        IN_HANDLER.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| call(&mut self.handler)));
        IN_HANDLER.set(false);
        match result {
            Ok(value) => {
                self.panics_in_a_row = 0;
                Called::Done(value)
            }
            Err(payload) => Called::Panicked(self.note_panic(payload)),
        }
    }

    #[cold]
    fn note_panic(&mut self, payload: Box<dyn Any + Send>) -> HandlerError {
        self.panics_in_a_row += 1;
        self.health.panics.add(1);
        if self.panics_in_a_row == self.panics_max {
            self.health.disabled.set(1);
        }
        let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        HandlerError::new(text.unwrap_or("panic without a message"))
    }

    /// Compares what a batch of calls took with what it may take; called once per batch by the inline path.
    #[inline]
    pub(crate) fn check_budget(&self, calls: usize, took: Nanos, budget_per_call: Nanos) {
        if took.0 > budget_per_call.0 * calls as u64 {
            self.health.over_budget_batches.add(1);
        }
    }
}

/// Lets at most one message a second from panics *inside handlers* through to the panic hook that was installed before; all
/// other panics are untouched. For the engine's start; a hundred panicking events must not write a hundred backtraces.
pub fn quiet_handler_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        let since = Instant::now();
        let next_allowed_ms = AtomicU64::new(0);
        std::panic::set_hook(Box::new(move |info| {
            if IN_HANDLER.get() {
                let (now_ms, allowed_ms) = (since.elapsed().as_millis() as u64, next_allowed_ms.load(Relaxed));
                // Relaxed: whoever wins the exchange prints; nothing else hangs on it.
                let may_print = now_ms >= allowed_ms
                    && next_allowed_ms.compare_exchange(allowed_ms, now_ms + 1_000, Relaxed, Relaxed).is_ok();
                if !may_print {
                    return;
                }
            }
            before(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handler_is_disabled_after_so_many_panics_in_a_row_only() {
        quiet_handler_panics();
        let mut guard: Guard<u32> = Guard::new("test", Box::new(0), 3);
        let health = guard.health();
        let fails =
            |guard: &mut Guard<u32>| matches!(guard.call(|_| panic!("boom {}", 1)), Called::Panicked(e) if e.text() == "boom 1");
        assert!(fails(&mut guard) && fails(&mut guard));
        assert!(matches!(guard.call(|n| *n), Called::Done(0)), "a good call in between");
        assert!(fails(&mut guard) && fails(&mut guard) && fails(&mut guard));
        assert!(matches!(guard.call(|_| ()), Called::Disabled));
        assert_eq!((health.panics.get(), health.skipped.get(), health.disabled.get()), (5, 1, 1));
    }
}
