//! Nodes, cores and CPUs of the host (hwloc), or of a synthetic description.
//!
//! ```text
//! machine ─ node 0 (memory node, cores) ─ core 0 ─ CPUs 0, 4   ← one CPU per core is used first, its siblings last
//!                                       └ core 1 ─ CPUs 1, 5
//!         └ node 1 …
//! ```
//!
//! Only CPUs that this process may use are in here (control group and affinity mask); a node without any is left out. CPU numbers are the
//! operating system's. What it does not do: decide who runs where; that is [`super::plan`].

use std::fmt;

use hwlocality::memory::binding::{MemoryBindingFlags, MemoryBindingPolicy};
use hwlocality::object::TopologyObject;
use hwlocality::object::types::ObjectType;

use super::process;

/// A memory node and the cores next to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The operating system's number of the memory node.
    pub memory_node: u32,
    /// The allowed CPUs of each core, ascending; no core is empty.
    pub cores: Vec<Vec<u32>>,
}

impl Node {
    /// One CPU per core first, then the siblings: the order in which runners get them.
    pub fn cpus_in_order(&self) -> Vec<u32> {
        let depth = self.cores.iter().map(Vec::len).max().unwrap_or(0);
        (0..depth).flat_map(|level| self.cores.iter().filter_map(move |core| core.get(level).copied())).collect()
    }
}

/// Why there is no topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopologyRefusal {
    /// hwloc could not read the host.
    Unreadable {
        /// What it said.
        cause: String,
    },
    /// A synthetic description that hwloc doesn't understand.
    BadDescription {
        /// As given.
        description: String,
    },
    /// No CPU is both in the machine and allowed.
    NoCpu,
}

impl fmt::Display for TopologyRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: the machine's topology could not be read")?;
        match self {
            TopologyRefusal::Unreadable { cause } => {
                write!(f, "cause: hwloc: {cause}\nfix:   mount /sys and /proc; `lstopo` shows what hwloc sees")
            }
            TopologyRefusal::BadDescription { description } => {
                write!(f, "cause: `{description}` is no synthetic description\nfix:   write it like `node:2 core:4 pu:2`")
            }
            TopologyRefusal::NoCpu => {
                write!(
                    f,
                    "cause: no CPU of the machine is allowed to this process\nfix:   check taskset, CPUAffinity= and AllowedCPUs="
                )
            }
        }
    }
}

impl std::error::Error for TopologyRefusal {}

/// The machine.
#[derive(Debug)]
pub struct Topology {
    machine: hwlocality::Topology,
    nodes: Vec<Node>,
    memory_nodes: usize,
}

impl Topology {
    /// Reads the host.
    ///
    /// # Errors
    /// When hwloc can't, or no CPU is allowed.
    pub fn detect() -> Result<Self, TopologyRefusal> {
        let machine = hwlocality::Topology::new().map_err(|error| TopologyRefusal::Unreadable { cause: error.to_string() })?;
        // hwloc leaves out what the control group forbids; the affinity mask (taskset) is ours to respect.
        let allowed = process::allowed_cpus();
        Self::of(machine, |cpu| allowed.is_empty() || allowed.contains(&cpu))
    }

    /// Builds a machine from a description in hwloc's synthetic format, like `node:2 core:4 pu:2`. Binding does nothing on it.
    ///
    /// # Errors
    /// When hwloc doesn't understand it.
    pub fn from_synthetic(description: &str) -> Result<Self, TopologyRefusal> {
        let bad = || TopologyRefusal::BadDescription { description: description.to_owned() };
        let builder = hwlocality::Topology::builder().from_synthetic(description).map_err(|_| bad())?;
        Self::of(builder.build().map_err(|_| bad())?, |_| true)
    }

    fn of(machine: hwlocality::Topology, allowed: impl Fn(u32) -> bool) -> Result<Self, TopologyRefusal> {
        let cpus_of = |object: &TopologyObject| -> Vec<u32> {
            let Some(set) = object.cpuset() else { return Vec::new() };
            set.iter_set().map(|cpu| usize::from(cpu) as u32).filter(|cpu| allowed(*cpu)).collect()
        };
        let cores: Vec<Vec<u32>> = {
            let cores: Vec<_> = machine.objects_with_type(ObjectType::Core).map(cpus_of).collect();
            // Some virtual machines and descriptions have CPUs but no cores.
            if cores.is_empty() { machine.objects_with_type(ObjectType::PU).map(cpus_of).collect() } else { cores }
        };
        let mut nodes: Vec<Node> = Vec::new();
        for object in machine.objects_with_type(ObjectType::NUMANode) {
            let near = cpus_of(object);
            // A second memory next to the same CPUs (high-bandwidth memory) makes no second node.
            let taken = |cpu: &u32| nodes.iter().any(|node| node.cores.iter().flatten().any(|other| other == cpu));
            let on_node = |core: &&Vec<u32>| core.iter().any(|cpu| near.contains(cpu) && !taken(cpu));
            let cores: Vec<Vec<u32>> = cores.iter().filter(on_node).cloned().collect();
            if !cores.is_empty() {
                nodes.push(Node { memory_node: object.os_index().unwrap_or(0) as u32, cores });
            }
        }
        if nodes.is_empty() {
            return Err(TopologyRefusal::NoCpu);
        }
        let memory_nodes = machine.objects_with_type(ObjectType::NUMANode).count();
        Ok(Self { machine, nodes, memory_nodes })
    }

    /// The nodes that have allowed CPUs, in hwloc's order; at least one.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many memory nodes the machine has, with or without CPUs.
    pub fn memory_nodes(&self) -> usize {
        self.memory_nodes
    }

    /// How many allowed CPUs there are.
    pub fn cpus(&self) -> usize {
        self.nodes.iter().flat_map(|node| &node.cores).map(Vec::len).sum()
    }

    /// Whether a CPU is there and allowed.
    pub fn has_cpu(&self, cpu: u32) -> bool {
        self.nodes.iter().flat_map(|node| &node.cores).flatten().any(|other| *other == cpu)
    }

    /// The memory node next to a CPU.
    pub fn memory_node_of(&self, cpu: u32) -> Option<u32> {
        self.nodes.iter().find(|node| node.cores.iter().flatten().any(|other| *other == cpu)).map(|node| node.memory_node)
    }

    /// Binds pages not yet touched to a memory node.
    ///
    /// # Errors
    /// A sentence: there is no such node, or what hwloc and the kernel said.
    pub fn bind_area(&self, area: &[u8], memory_node: u32) -> Result<(), String> {
        let node = self.machine.node_with_os_index(memory_node as usize).ok_or("no such memory node")?;
        let set = node.nodeset().ok_or("hwloc knows no node set for it")?;
        self.machine
            .bind_memory_area(area, &*set, MemoryBindingPolicy::Bind, MemoryBindingFlags::STRICT)
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_a_node_and_only_allowed_cpus() {
        let topology = Topology::detect().expect("hwloc reads this host");
        let allowed = process::allowed_cpus();
        let cpus: Vec<u32> = topology.nodes().iter().flat_map(Node::cpus_in_order).collect();
        assert_eq!(cpus.len(), topology.cpus());
        assert!(!cpus.is_empty() && cpus.iter().all(|cpu| allowed.contains(cpu)));
    }

    #[test]
    fn siblings_come_after_all_cores() {
        let topology = Topology::from_synthetic("node:2 core:2 pu:2").expect("valid");
        assert_eq!(topology.nodes().len(), 2);
        assert_eq!(topology.nodes()[0].cores, [[0, 1], [2, 3]]);
        assert_eq!(topology.nodes()[0].cpus_in_order(), [0, 2, 1, 3]);
        assert_eq!(topology.memory_node_of(5), Some(1));
    }

    #[test]
    fn cpus_without_cores_are_cores() {
        let topology = Topology::from_synthetic("pu:3").expect("valid");
        assert_eq!(topology.nodes()[0].cpus_in_order(), [0, 1, 2]);
    }

    #[test]
    fn a_description_that_makes_no_sense_is_refused() {
        let refusal = Topology::from_synthetic("three cores please").unwrap_err();
        assert!(matches!(refusal, TopologyRefusal::BadDescription { .. }));
        assert_eq!(refusal.to_string().lines().count(), 3);
    }

    #[test]
    fn a_forbidden_cpu_is_not_in_the_topology() {
        let machine = hwlocality::Topology::builder().from_synthetic("node:2 core:2 pu:1").unwrap().build().unwrap();
        let topology = Topology::of(machine, |cpu| cpu == 3).expect("one CPU is left");
        assert_eq!(topology.nodes(), [Node { memory_node: 1, cores: vec![vec![3]] }]);
        let machine = hwlocality::Topology::builder().from_synthetic("core:2 pu:1").unwrap().build().unwrap();
        assert_eq!(Topology::of(machine, |_| false).unwrap_err(), TopologyRefusal::NoCpu);
    }
}
