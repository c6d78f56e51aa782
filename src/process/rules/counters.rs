//! What rules count. Each counter has one writer: the agent, or the one thread that an action of a rule goes through.

use crate::metrics::ledger::Counter;
use crate::metrics::{Kind, Measured, Sample};

/// What an action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ActionKind {
    /// A line in the alert log.
    Log,
    /// A line as a datagram.
    Udp,
    /// A line on a TCP connection.
    Tcp,
    /// A program, the body on its standard input.
    Run,
}

impl ActionKind {
    /// All, by index.
    pub const ALL: [ActionKind; 4] = [ActionKind::Log, ActionKind::Udp, ActionKind::Tcp, ActionKind::Run];

    /// The word in the configuration and in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            ActionKind::Log => "log",
            ActionKind::Udp => "udp",
            ActionKind::Tcp => "tcp",
            ActionKind::Run => "run",
        }
    }
}

/// What became of the actions of one kind of a rule.
#[derive(Debug, Default)]
pub struct ActionCounters {
    /// Done: written, handed to the kernel, or ended with status 0 (written by the action's thread).
    pub done: Counter,
    /// Not done: refused, killed, or ended with another status (written by the action's thread).
    pub failed: Counter,
    /// The queue before it was full (written by the agent).
    pub overflowed: Counter,
}

/// What became of a rule's events.
#[derive(Debug)]
pub struct RuleCounters {
    name: Box<str>,
    has: [bool; ActionKind::ALL.len()],
    /// Topic, priority and condition hold.
    pub matched: Counter,
    /// Of these, above the rule's rate.
    pub above_rate: Counter,
    /// Of these, within the rule's cool-down.
    pub cooled_down: Counter,
    /// Topic and priority hold, but the body is too long for the condition to be looked at.
    pub not_evaluated: Counter,
    actions: [ActionCounters; ActionKind::ALL.len()],
}

/// What all rules of a node count.
#[derive(Debug, Default)]
pub struct RulesCounters {
    rules: Vec<RuleCounters>,
    /// Events whose topic has no place in the table of topics: their rules are searched for each time.
    pub topic_limit: Counter,
}

impl RulesCounters {
    /// For rules of these names, with these kinds of actions.
    pub(super) fn new<'a>(rules: impl Iterator<Item = (&'a str, [bool; ActionKind::ALL.len()])>) -> Self {
        let rules = rules.map(|(name, has)| RuleCounters {
            name: name.into(),
            has,
            matched: Counter::default(),
            above_rate: Counter::default(),
            cooled_down: Counter::default(),
            not_evaluated: Counter::default(),
            actions: Default::default(),
        });
        Self { rules: rules.collect(), topic_limit: Counter::default() }
    }

    /// The counters of a rule, by its place in the configuration.
    pub fn rule(&self, rule: u8) -> &RuleCounters {
        &self.rules[usize::from(rule)]
    }

    /// The name of a rule.
    pub(crate) fn name(&self, rule: u8) -> &str {
        &self.rule(rule).name
    }

    /// The counters of a rule's actions of one kind.
    pub fn action(&self, rule: u8, kind: ActionKind) -> &ActionCounters {
        &self.rule(rule).actions[kind as usize]
    }
}

impl Measured for RulesCounters {
    fn measure(&self, sink: &mut dyn FnMut(Sample<'_>)) {
        let mut one = |name, help, labels: &[(&'static str, &str)], counter: &Counter| {
            sink(Sample { name, help, kind: Kind::Counter, labels, value: counter.get() });
        };
        for rule in &self.rules {
            let label = ("rule", &*rule.name);
            one("rule_matches", "Events that a rule matched", &[label], &rule.matched);
            let help = "Events that a rule matched and did not act on, by the limit that held it back";
            one("rule_suppressed", help, &[label, ("limit", "rate")], &rule.above_rate);
            one("rule_suppressed", help, &[label, ("limit", "cool_down")], &rule.cooled_down);
            let help = "Events whose body was too long for the condition of a rule";
            one("rule_not_evaluated", help, &[label], &rule.not_evaluated);
            for kind in ActionKind::ALL.into_iter().filter(|kind| rule.has[*kind as usize]) {
                let (counters, action) = (&rule.actions[kind as usize], ("action", kind.name()));
                let outcomes = [("done", &counters.done), ("failed", &counters.failed), ("overflowed", &counters.overflowed)];
                for (outcome, counter) in outcomes {
                    let help = "Actions of a rule, by what became of them";
                    one("rule_actions", help, &[label, action, ("outcome", outcome)], counter);
                }
            }
        }
        if !self.rules.is_empty() {
            let help = "Events whose rules were searched for, as the table of topics was full";
            one("rule_topic_limit", help, &[], &self.topic_limit);
        }
    }
}
