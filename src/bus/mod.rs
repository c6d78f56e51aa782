//! The bus: from producers to the three tiers, bounded, with a policy for what does not fit.
//!
//! ```text
//!                      Dispatch: priority, topic → tier
//! reactor 0 ─┬─ TierSender ══ lane ══╗
//!            ├─ TierSender ══ lane ══╬═► TierReceiver (REALTIME) ──► processor
//! reactor 1 ─┼─ TierSender ══ lane ══╝
//!            └─ …                         TierGauge: depth over all lanes, pressure, high-water mark
//! ```
//!
//! Every producer owns one SPSC lane per tier; a tier's one consumer polls its lanes in turn. With one producer a tier is exactly one
//! ring. (Two lanes polled by the consumer cost 2 ns an event where a shared ring costs 25.)
//!
//! What it does not do: allocate after start, block, read clocks, or release events: an event that does not fit is handed back.

pub mod class;
pub mod counters;
pub mod dispatch;
pub mod lane;
pub mod policy;
pub mod tier;
pub mod topic;

pub use class::{ClassCounters, ClassId, ClassRefusal, TopicClass, TopicClasses};
pub use counters::BusCounters;
pub use dispatch::{Dispatch, DuplicateOverride};
pub use lane::{LaneConsumer, LaneGauge, LaneProducer, lane};
pub use policy::{Overflow, Pressure, Sent, TierGauge, TierSender};
pub use tier::{TierOptions, TierReceiver, split_capacity, tier};
pub use topic::{TOPIC_FILTER_LEVELS_MAX, TopicFilter, TopicFilterRefusal, TopicTable};
