//! What people should hear of the processors, put into words by the control side, so that no agent writes a log line.
//!
//! Looked at once a second; says something only where something changed since the last look, so the number of lines is bounded.

use std::sync::Arc;

use crate::process::counters::ProcessCounters;
use crate::process::guard::HandlerHealth;

/// Remembers what was last said.
pub struct ProcessWatch {
    counters: Arc<ProcessCounters>,
    handlers: Vec<(Arc<HandlerHealth>, HandlerSeen)>,
    lookups: u64,
    hits: u64,
}

#[derive(Clone, Copy, Default)]
struct HandlerSeen {
    panics: u64,
    over_budget: u64,
    disabled: u64,
}

/// Look-ups between two looks below which no share of hits is judged.
const LOOKUPS_MIN: u64 = 1_000;

impl ProcessWatch {
    /// Watches a node's processors.
    pub fn new(counters: Arc<ProcessCounters>, handlers: Vec<Arc<HandlerHealth>>) -> Self {
        let handlers = handlers.into_iter().map(|health| (health, HandlerSeen::default())).collect();
        Self { counters, handlers, lookups: 0, hits: 0 }
    }

    /// Tells what is new since the last look, one line each. Call about once a second.
    pub fn look(&mut self, say: &mut dyn FnMut(log::Level, String)) {
        for (health, seen) in &mut self.handlers {
            look_at_handler(health, seen, say);
        }
        self.look_at_hits(say);
    }

    /// More than one hit in a hundred look-ups: either a sender repeats itself, or events that are meant to differ do not.
    fn look_at_hits(&mut self, say: &mut dyn FnMut(log::Level, String)) {
        let trans = &self.counters.transactional;
        let (lookups, hits) = (trans.dedup_lookups.get(), trans.dedup_hits.get());
        let (new_lookups, new_hits) = (lookups - self.lookups, hits.saturating_sub(self.hits));
        if new_lookups < LOOKUPS_MIN {
            return;
        }
        (self.lookups, self.hits) = (lookups, hits);
        if new_hits * 100 > new_lookups {
            let line = format!(
                "{new_hits} of the last {new_lookups} TRANSACTIONAL events were duplicates of earlier ones and not processed again; \
                 if they are meant to count, make their bodies differ or set --dedup off"
            );
            say(log::Level::Warn, line);
        }
    }
}

fn look_at_handler(health: &HandlerHealth, seen: &mut HandlerSeen, say: &mut dyn FnMut(log::Level, String)) {
    let name = health.name;
    let now = HandlerSeen {
        panics: health.panics.get(),
        over_budget: health.over_budget_batches.get(),
        disabled: health.disabled.get(),
    };
    if now.panics > seen.panics {
        say(log::Level::Error, format!("handler `{name}` panicked {} times", now.panics - seen.panics));
    }
    if now.disabled > seen.disabled {
        say(log::Level::Error, format!("handler `{name}` is DISABLED until the next start: too many panics in a row"));
    }
    if now.over_budget > seen.over_budget {
        let batches = now.over_budget - seen.over_budget;
        say(
            log::Level::Warn,
            format!("inline handler `{name}` was over its budget in {batches} batches; it should be offloaded"),
        );
    }
    *seen = now;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::guard::Guard;

    #[test]
    fn each_change_is_said_once() {
        let counters = Arc::new(ProcessCounters::default());
        let mut guard: Guard<()> = Guard::new("fragile", Box::new(()), 1);
        let mut watch = ProcessWatch::new(counters.clone(), vec![guard.health()]);
        let mut look = || {
            let mut lines = Vec::new();
            watch.look(&mut |_, line| lines.push(line));
            lines
        };
        assert!(look().is_empty());
        guard.call(|()| panic!("as it is"));
        assert_eq!(look().len(), 2, "a panic, and disabled");
        counters.transactional.dedup_lookups.add(1000);
        counters.transactional.dedup_hits.add(11);
        assert_eq!(look().len(), 1);
        assert!(look().is_empty());
    }
}
