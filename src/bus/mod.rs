//! Tiers, lanes, overflow policies, dispatch.

pub mod lane;
