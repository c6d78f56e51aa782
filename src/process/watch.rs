//! What people should hear of the processors, put into words by the control side, so that no agent writes a log line.
//!
//! Looked at once a second; says something only where something changed since the last look, so the number of lines is bounded.

use std::sync::Arc;

use crate::process::counters::{DedupCounters, ProcessCounters};
use crate::process::guard::HandlerHealth;
use crate::wire::Tier;

/// Remembers what was last said.
pub struct ProcessWatch {
    counters: Arc<ProcessCounters>,
    handlers: Vec<(Arc<HandlerHealth>, HandlerSeen)>,
    lookups: u64,
    hits: u64,
    /// By tier, keyed and by body: the shrunken window that was told last, milliseconds.
    windows: [[Option<u64>; 2]; Tier::COUNT],
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
        Self { counters, handlers, lookups: 0, hits: 0, windows: Default::default() }
    }

    /// Tells what is new since the last look, one line each. Call about once a second.
    pub fn look(&mut self, say: &mut dyn FnMut(log::Level, String)) {
        for (health, seen) in &mut self.handlers {
            look_at_handler(health, seen, say);
        }
        self.look_at_hits(say);
        for (tier, told) in Tier::ALL.into_iter().zip(&mut self.windows) {
            let tables = &self.counters.dedup[tier.index()];
            look_at_window(tier, "--dedup-keyed-capacity", &tables.keyed, &mut told[0], say);
            look_at_window(tier, "--dedup-capacity", &tables.by_body, &mut told[1], say);
        }
    }

    /// More than one hit in a hundred look-ups: either a sender repeats itself, or events that are meant to differ do not.
    fn look_at_hits(&mut self, say: &mut dyn FnMut(log::Level, String)) {
        let table = &self.counters.dedup[Tier::Transactional.index()].by_body;
        let (lookups, hits) = (table.lookups.get(), table.hits.get());
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

/// A window shorter than the configured one is told once, again each time it halves, and when it is whole again.
fn look_at_window(
    tier: Tier,
    flag: &str,
    table: &DedupCounters,
    told: &mut Option<u64>,
    say: &mut dyn FnMut(log::Level, String),
) {
    let (window, configured) = (table.window_ms.get(), table.window_configured_ms.get());
    let tier = tier.name();
    if window >= configured {
        if told.take().is_some() {
            say(log::Level::Info, format!("dedup on {tier} remembers its whole window again, {} s", configured as f64 / 1e3));
        }
    } else if told.is_none_or(|told| window < told / 2) {
        *told = Some(window);
        let line = format!(
            "dedup on {tier} remembers only the last {:.1} s of its window of {} s: that many new events fill {flag}",
            window as f64 / 1e3,
            configured as f64 / 1e3
        );
        say(log::Level::Warn, line);
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
        let table = &counters.dedup[Tier::Transactional.index()].by_body;
        table.lookups.add(1000);
        table.hits.add(11);
        assert_eq!(look().len(), 1);
        assert!(look().is_empty());
        table.window_configured_ms.set(10_000);
        for (window_ms, lines) in [(10_000, 0), (9_000, 1), (8_000, 0), (4_400, 1), (10_000, 1), (10_000, 0)] {
            table.window_ms.set(window_ms);
            assert_eq!(look().len(), lines, "{window_ms}");
        }
    }
}
