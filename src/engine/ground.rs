//! What the engine stands on: what the host gives, the plan of cores, and the budget, before anything is changed (E1).

use super::options::Producers;
use super::{EngineError, node, options, store_facts};
use crate::config::Config;
use crate::pool::{Budget, PoolPlan};
use crate::sys::features::Features;
use crate::sys::findings::{Finding, HostNeeds, host_findings};
use crate::sys::memory::available_memory_bytes;
use crate::sys::plan::{CoreChoice, CorePlan, CoreRequest};
use crate::sys::process::raise_descriptor_limit;
use crate::sys::topology::Topology;
use crate::wire::Tier;

/// What the host gives, found out before anything is changed (E1).
pub(super) struct Ground {
    pub(super) features: Features,
    pub(super) topology: Topology,
    pub(super) plan: CorePlan,
    pub(super) findings: Vec<Finding>,
    pub(super) pools: Vec<PoolPlan>,
    pub(super) budget: Budget,
    /// By node.
    pub(super) producers: Vec<Producers>,
}

/// What the host gives and what not, for a configuration, as `doctor` shows it. Leaves nothing changed.
///
/// # Errors
/// What keeps the engine from starting at all.
pub fn survey(config: &Config) -> Result<Vec<Finding>, EngineError> {
    let mut findings = Ground::survey(config, 0)?.findings;
    findings.extend(store_facts::sync_finding(config));
    Ok(findings)
}

impl Ground {
    pub(super) fn survey(config: &Config, publishers: u32) -> Result<Self, EngineError> {
        // What can't be raised shows in the findings.
        let _ = raise_descriptor_limit();
        let without = Features::without_from_env().map_err(EngineError::Without)?;
        let (features, mut findings) = Features::probe(&without).map_err(EngineError::Host)?;
        let topology = Topology::detect().map_err(EngineError::Topology)?;
        let cores: CoreChoice = config.cores.0.parse().map_err(EngineError::Cores)?;
        let request = CoreRequest { cores, nodes: options::nodes(config), reactors_per_node: config.reactors_per_node };
        let plan = topology.plan(&request).map_err(EngineError::Plan)?;
        let mut budget = Budget::new();
        let mut pools = Vec::new();
        let producers = producers(config, &plan, publishers)?;
        for (node, producers) in plan.nodes.iter().zip(&producers) {
            let mut pool = options::pool_plan(config, producers).map_err(EngineError::PoolSizes)?;
            options::add_to_budget(&mut pool, config, node.runners.len() as u64, u64::from(producers.reactors));
            budget.extend(pool.budget.clone());
            pools.push(pool);
        }
        budget.add("dead letters", 2, options::dead_letters(config).spool_bytes as u64);
        if let Some(available) = available_memory_bytes() {
            budget.admit(available).map_err(EngineError::Budget)?;
        }
        findings.extend(host_findings(&HostNeeds {
            max_connections: u64::from(config.max_connections),
            reserve_descriptors: 64,
            memory_bytes: budget.total_bytes(),
            locked_bytes: options::appender(config, config.max_frame_bytes.usize()).staging_bytes as u64 * 2,
            receive_buffer_bytes: config.udp_receive_buffer_bytes.0,
        }));
        Ok(Self { features, topology, plan, findings, pools, budget, producers })
    }
}

pub(super) fn reactors_of(node: &crate::sys::plan::NodePlan) -> u32 {
    let is_reactor = |seat: &&crate::sys::plan::Seat| seat.role == crate::sys::plan::Role::Reactor;
    node.runners.iter().flat_map(|runner| &runner.seats).filter(is_reactor).count() as u32
}

/// Spreads the publishers over the nodes. The engine's own producer is on the first.
fn producers(config: &Config, plan: &CorePlan, publishers: u32) -> Result<Vec<Producers>, EngineError> {
    let nodes = plan.nodes.len() as u32;
    let reactors: Vec<u32> = plan.nodes.iter().map(reactors_of).collect();
    // Each has a number in event ids, one of them the service; and each a part of every tier's capacity.
    let by_ids = node::PRODUCERS_MAX - 1 - reactors.iter().sum::<u32>();
    let lanes = Tier::ALL.map(|tier| config.capacity_events(tier)).into_iter().min().unwrap_or(0);
    let by_lanes = nodes * lanes.saturating_sub(reactors.iter().copied().max().unwrap_or(0));
    let most = by_ids.min(by_lanes);
    if publishers > most {
        return Err(EngineError::TooManyPublishers { publishers, most });
    }
    let part = |node: u32| publishers / nodes + u32::from(node < publishers % nodes);
    let of_node = |(node, reactors)| Producers { reactors, publishers: part(node), service: node == 0 };
    Ok((0..nodes).zip(reactors).map(of_node).collect())
}
