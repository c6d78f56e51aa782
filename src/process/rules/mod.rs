//! Rules: which REALTIME events are alerts, and what is done about each.
//!
//! ```text
//! event ─► topic: rules concerned (bits) ─► priority (bits) ─► condition on the body ─► cool-down, rate ─┬─► alert log
//!             └ none: nothing else                                  └ too long: counted      └ counted   └─► address or program,
//!                                                                                                            off this thread
//! ```
//!
//! Invariants:
//! - **RU1** Inline: no allocation after start, no system call, no lock; per event one hash of the topic at most, and for each rule concerned one
//!   look at `body_bytes_max` bytes of the body at most for each part of its condition, in linear time.
//! - **RU2** A rule whose filter or priority can't match costs nothing per event: it is not among the bits.
//! - **RU3** Of each rule, matched = suppressed + the alerts that each of its actions got; each of these ends as done, failed or overflowed.
//! - **RU4** Limits go by the events' own receive times: the same events give the same alerts. They are counted for each node.
//! - **RU5** Nothing that an event holds becomes part of a command line, a path or an address; what it holds reaches a program as bytes on its
//!   standard input and as the value of `EVENTSTREAM_TOPIC`.
//!
//! What it does not do: change the event or its way. An event without a matching rule is stored like any other.

#![forbid(unsafe_code)]

mod actions;
mod condition;
mod counters;
mod rule;
mod targets;
mod topics;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use condition::{
    Comparison, Condition, JsonCondition, JsonTest, Needle, Operand, PATTERN_BYTES_MAX, Pattern, PatternRefusal,
};
pub use counters::{ActionCounters, ActionKind, RuleCounters, RulesCounters};
pub use rule::{
    AlertRule, PROGRAM_ARGUMENTS_MAX, PROGRAM_BYTES_MAX, PROGRAMS_AT_ONCE_MAX, Program, RULE_NAME_BYTES_MAX, RULE_TARGETS_MAX,
    RULES_MAX, RuleRefusal, check_rules,
};

use crate::metrics::Measured;
use crate::pool::EventView;
use crate::process::alert_log::{AlertLog, AlertLogOptions};
use crate::process::handler::{AlertHandler, HandlerMode};
use crate::process::rate::RateLimit;
use crate::sys::clock::Nanos;
use crate::wire::Priority;
use actions::{Outbox, outbox_bytes};
use topics::{RuleSet, TABLE_BYTES, TopicRules};

/// What rules need to know beside the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesOptions {
    /// The longest body that conditions look at, and what actions get of one, bytes. Default 4096.
    pub body_bytes_max: usize,
    /// The alert log, opened if a rule writes to it.
    pub log: AlertLogOptions,
}

impl RulesOptions {
    /// The defaults, for a file of alerts.
    pub fn new(log: impl Into<PathBuf>) -> Self {
        Self { body_bytes_max: 4096, log: AlertLogOptions::new(log) }
    }

    /// Bytes that rules take: the table of topics, and the queue of each target. None without rules.
    pub fn memory_bytes(&self, rules: &[AlertRule]) -> usize {
        let targets = rule::targets(rules).len() * outbox_bytes(self.body_bytes_max);
        if rules.is_empty() { 0 } else { TABLE_BYTES + targets }
    }
}

/// A rule as it is asked for each event.
struct Armed {
    condition: Condition,
    looks_at_body: bool,
    rate: RateLimit,
    cool_down: Nanos,
    fired_at: Option<Nanos>,
    log: bool,
    /// Its places in [`Rules::outboxes`].
    outboxes: Box<[usize]>,
}

/// The handler. Dropping it finishes what is queued, for some seconds at most.
pub struct Rules {
    topics: TopicRules,
    /// By priority: the rules that want it.
    by_priority: [RuleSet; Priority::ALL.len()],
    rules: Vec<Armed>,
    body_bytes_max: usize,
    log: Option<AlertLog>,
    outboxes: Vec<Outbox>,
    counters: Arc<RulesCounters>,
}

impl Rules {
    /// Compiles rules that [`check_rules`] lets pass, opens the alert log, and starts a thread for each address and program.
    ///
    /// # Errors
    /// What opening the log or starting a thread says.
    ///
    /// # Panics
    /// On rules that [`check_rules`] refuses.
    pub fn start(rules: &[AlertRule], options: &RulesOptions) -> io::Result<Self> {
        assert_eq!(check_rules(rules), Ok(()), "rules are checked with the configuration");
        let counters = Arc::new(RulesCounters::new(rules.iter().map(|rule| (rule.name.as_str(), rule.kinds()))));
        let log = match rules.iter().any(|rule| rule.log) {
            true => Some(AlertLog::for_rules(&options.log, counters.clone())?),
            false => None,
        };
        let targets = rule::targets(rules);
        let outboxes = targets.iter().map(|target| Outbox::start(target.clone(), options.body_bytes_max, counters.clone()));
        let outboxes = outboxes.collect::<io::Result<Vec<_>>>()?;
        let place = |target| targets.iter().position(|known| *known == target).expect("the targets of all rules");
        let armed = rules.iter().map(|rule| Armed {
            looks_at_body: !rule.condition.is_empty(),
            condition: rule.condition.clone(),
            rate: RateLimit::new(rule.alerts_per_s_max),
            cool_down: rule.cool_down,
            fired_at: None,
            log: rule.log,
            outboxes: rule.destinations().map(|(_, target)| place(target)).collect(),
        });
        let wants = |priority| {
            let wanted = rules.iter().enumerate().filter(|(_, rule)| rule.priority <= priority);
            wanted.fold(0, |set: RuleSet, (place, _)| set | 1 << place)
        };
        Ok(Self {
            topics: TopicRules::new(rules.iter().map(|rule| &rule.topic)),
            by_priority: Priority::ALL.map(wants),
            rules: armed.collect(),
            body_bytes_max: options.body_bytes_max,
            log,
            outboxes,
            counters,
        })
    }

    /// What the rules count.
    pub fn counters(&self) -> Arc<RulesCounters> {
        self.counters.clone()
    }

    /// Its counters and those of the alert log, for the exporter.
    pub fn measured(&self) -> Vec<Arc<dyn Measured>> {
        let log = self.log.iter().map(|log| log.counters() as Arc<dyn Measured>);
        log.chain([self.counters.clone() as Arc<dyn Measured>]).collect()
    }

    /// Asks one rule about an event of its topics and priorities.
    fn ask(&mut self, place: usize, event: &EventView<'_>) {
        let (rule, counters) = (&mut self.rules[place], self.counters.rule(place as u8));
        if rule.looks_at_body {
            if event.body.len() > self.body_bytes_max {
                return counters.not_evaluated.add(1);
            }
            if !rule.condition.holds(event.body) {
                return;
            }
        }
        counters.matched.add(1);
        let at = event.header.received_at;
        // `since` is zero for one that comes late, from another reactor: that one is within the cool-down too.
        if rule.fired_at.is_some_and(|fired_at| at.since(fired_at) < rule.cool_down) {
            return counters.cooled_down.add(1);
        }
        if !rule.rate.admits(at) {
            return counters.above_rate.add(1);
        }
        rule.fired_at = Some(at);
        if rule.log
            && let Some(log) = &mut self.log
            && !log.record(event, Some(place as u8))
        {
            self.counters.action(place as u8, ActionKind::Log).overflowed.add(1);
        }
        for outbox in &rule.outboxes {
            self.outboxes[*outbox].send(event, place as u8);
        }
    }
}

impl AlertHandler for Rules {
    fn name(&self) -> &'static str {
        "rules"
    }

    fn mode(&self) -> HandlerMode {
        HandlerMode::Inline
    }

    fn handle(&mut self, event: &EventView<'_>) {
        let concerned = self.topics.concerned(event.topic.as_bytes());
        if !concerned.has_row {
            self.counters.topic_limit.add(1);
        }
        let mut asked = concerned.rules & self.by_priority[event.header.priority as usize];
        while asked != 0 {
            let place = asked.trailing_zeros() as usize;
            asked &= asked - 1;
            self.ask(place, event);
        }
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        // All are told before the first one is waited for: they end at the same time.
        self.outboxes.iter().for_each(Outbox::stop);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
