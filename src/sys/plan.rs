//! The core plan: which agents share a runner, and on which CPU.
//!
//! ```text
//! cores of a node   runners
//! 1-3               [reactor realtime transactional batch appender control]    run to completion, the rest for kernel and helpers
//! 4                 [reactor control] [realtime] [transactional batch] [appender]
//! 5 and more        [reactor × --reactors-per-node] [realtime] [transactional] [batch] [appender], control with the first reactor
//! ```
//!
//! One thread to completion moves 25 M events/s where a split over two cores that also carry the sender moves 10 M, so a node is split only
//! when each part gets a core of its own.
//!
//! Invariants:
//! - **C1** Each node has each role exactly once, and at least one reactor; seats on a runner are in the order of the flow.
//! - **C2** A runner has at most one reactor: the buffer groups of its ring are that reactor's.
//! - **C3** Every CPU of a plan is one that this process may use.

use std::fmt;
use std::str::FromStr;

use super::topology::{Node, Topology};

/// A core each for the parts of a node, from this many on.
const SPLIT_CORES_MIN: usize = 4;

/// What an agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes events in.
    Reactor,
    /// Handles REALTIME.
    Realtime,
    /// Handles TRANSACTIONAL.
    Transactional,
    /// Handles BATCH.
    Batch,
    /// Writes the log.
    Appender,
    /// Judges how much of the load is taken. Never has a core of its own: it sits with the first reactor, which any load wakes.
    Control,
}

impl Role {
    /// All, in the order of the flow.
    pub const ALL: [Role; 6] = [Role::Reactor, Role::Realtime, Role::Transactional, Role::Batch, Role::Appender, Role::Control];

    /// The name in `--cores` and in plans.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Reactor => "reactor",
            Role::Realtime => "realtime",
            Role::Transactional => "transactional",
            Role::Batch => "batch",
            Role::Appender => "appender",
            Role::Control => "control",
        }
    }
}

/// One agent's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat {
    /// What it does.
    pub role: Role,
    /// Which one of its node (only reactors can be several).
    pub instance: u8,
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.role.name())?;
        if self.instance > 0 { write!(f, " {}", self.instance + 1) } else { Ok(()) }
    }
}

/// A pinned thread and who is polled on it, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerPlan {
    /// The CPU it is pinned to.
    pub cpu: u32,
    /// Its agents.
    pub seats: Vec<Seat>,
}

/// A node's runners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// The memory node that its pool is bound to (the operating system's number).
    pub memory_node: u32,
    /// The CPUs that were there to choose from.
    pub cpus: Vec<u32>,
    /// Its threads; the first one has the (first) reactor.
    pub runners: Vec<RunnerPlan>,
}

/// Who runs where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorePlan {
    /// By the engine's own node number.
    pub nodes: Vec<NodePlan>,
    /// What was asked for and can't be had, or is worth knowing.
    pub notes: Vec<String>,
}

/// `--cores`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CoreChoice {
    /// One CPU of each core that the process may use.
    #[default]
    Auto,
    /// These CPUs, in this order: `0,2-5`.
    List(Vec<u32>),
    /// A CPU per role, of one node: `reactor=0,realtime=1,…`. Roles not named run with the first reactor; `reactor` may come several times.
    Roles(Vec<(Role, u32)>),
}

/// A `--cores` value that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCoreChoice {
    /// The part that is wrong.
    pub part: String,
}

impl fmt::Display for BadCoreChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not auto, a list of CPUs (0,2-5) or of roles (reactor=0,realtime=1,…)", self.part)
    }
}

impl std::error::Error for BadCoreChoice {}

impl FromStr for CoreChoice {
    type Err = BadCoreChoice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(CoreChoice::Auto);
        }
        if text.contains('=') {
            return text.split(',').map(parse_role).collect::<Result<_, _>>().map(CoreChoice::Roles);
        }
        let mut cpus = Vec::new();
        for part in text.split(',') {
            cpus.extend(parse_range(part)?);
        }
        Ok(CoreChoice::List(cpus))
    }
}

fn parse_role(part: &str) -> Result<(Role, u32), BadCoreChoice> {
    let bad = || BadCoreChoice { part: part.to_owned() };
    let (name, cpu) = part.split_once('=').ok_or_else(bad)?;
    let role = Role::ALL.into_iter().find(|role| role.name() == name.trim()).ok_or_else(bad)?;
    Ok((role, cpu.trim().parse().map_err(|_| bad())?))
}

fn parse_range(part: &str) -> Result<std::ops::RangeInclusive<u32>, BadCoreChoice> {
    /// Far beyond any machine; keeps a typing error from becoming a list of billions.
    const CPU_MAX: u32 = 65_535;
    let bad = || BadCoreChoice { part: part.to_owned() };
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|cpu| *cpu <= CPU_MAX).ok_or_else(bad);
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let range = number(first)?..=number(last)?;
    if range.is_empty() { Err(bad()) } else { Ok(range) }
}

/// What the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreRequest {
    /// `--cores`.
    pub cores: CoreChoice,
    /// `--nodes`: `None` is auto, one per memory node that has CPUs; more are pretended.
    pub nodes: Option<u8>,
    /// `--reactors-per-node`, from 1.
    pub reactors_per_node: u8,
}

impl Default for CoreRequest {
    fn default() -> Self {
        Self { cores: CoreChoice::Auto, nodes: None, reactors_per_node: 1 }
    }
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanRefusal {
    /// A CPU that isn't there, or not allowed.
    NoSuchCpu {
        /// As asked for.
        cpu: u32,
    },
    /// A CPU named twice where it can serve once (in a list, or for two reactors).
    CpuTwice {
        /// As asked for.
        cpu: u32,
    },
    /// A role named twice that exists once.
    RoleTwice {
        /// As asked for.
        role: Role,
    },
    /// Roles by name, but no reactor.
    NoReactor,
    /// Roles by name plan one node.
    RolesForSeveralNodes {
        /// `--nodes`.
        nodes: u8,
    },
    /// `--nodes 0`, or `--reactors-per-node 0`.
    Zero {
        /// The flag.
        flag: &'static str,
    },
}

impl fmt::Display for PlanRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: the agents can't be placed on cores as asked for")?;
        match self {
            PlanRefusal::NoSuchCpu { cpu } => {
                write!(
                    f,
                    "cause: CPU {cpu} is not there, or not allowed to this process\nfix:   choose from `eventstream topology`"
                )
            }
            PlanRefusal::CpuTwice { cpu } => write!(f, "cause: CPU {cpu} is named twice\nfix:   name it once in --cores"),
            PlanRefusal::RoleTwice { role } => {
                write!(f, "cause: a node has one {}\nfix:   name it once in --cores; only reactors can be several", role.name())
            }
            PlanRefusal::NoReactor => write!(f, "cause: --cores names roles, but no reactor\nfix:   add reactor=CPU"),
            PlanRefusal::RolesForSeveralNodes { nodes } => {
                write!(
                    f,
                    "cause: --cores by roles plans one node, --nodes is {nodes}\nfix:   give --cores a list of CPUs, or --nodes 1"
                )
            }
            PlanRefusal::Zero { flag } => write!(f, "cause: {flag} is 0\nfix:   {flag} 1, or leave it out"),
        }
    }
}

impl std::error::Error for PlanRefusal {}

/// The CPUs of one node to be.
struct Share {
    memory_node: u32,
    cpus: Vec<u32>,
}

impl Topology {
    /// Places all agents.
    ///
    /// # Errors
    /// When the request contradicts itself or the machine.
    pub fn plan(&self, request: &CoreRequest) -> Result<CorePlan, PlanRefusal> {
        if request.nodes == Some(0) {
            return Err(PlanRefusal::Zero { flag: "--nodes" });
        }
        if request.reactors_per_node == 0 {
            return Err(PlanRefusal::Zero { flag: "--reactors-per-node" });
        }
        let mut notes = Vec::new();
        let nodes = match &request.cores {
            CoreChoice::Roles(roles) => vec![self.plan_roles(roles, request.nodes)?],
            CoreChoice::Auto => {
                let share =
                    |node: &Node| Share { memory_node: node.memory_node, cpus: node.cores.iter().map(|c| c[0]).collect() };
                plan_shares(self.nodes().iter().map(share).collect(), request, &mut notes)
            }
            CoreChoice::List(cpus) => plan_shares(self.shares_of_list(cpus)?, request, &mut notes),
        };
        let plan = CorePlan { nodes, notes };
        plan.check(self);
        Ok(plan)
    }

    fn known(&self, cpu: u32) -> Result<u32, PlanRefusal> {
        self.memory_node_of(cpu).ok_or(PlanRefusal::NoSuchCpu { cpu })
    }

    fn shares_of_list(&self, cpus: &[u32]) -> Result<Vec<Share>, PlanRefusal> {
        let mut shares: Vec<Share> = Vec::new();
        for (place, cpu) in cpus.iter().copied().enumerate() {
            let memory_node = self.known(cpu)?;
            if cpus[..place].contains(&cpu) {
                return Err(PlanRefusal::CpuTwice { cpu });
            }
            match shares.iter_mut().find(|share| share.memory_node == memory_node) {
                Some(share) => share.cpus.push(cpu),
                None => shares.push(Share { memory_node, cpus: vec![cpu] }),
            }
        }
        Ok(shares)
    }

    fn plan_roles(&self, roles: &[(Role, u32)], nodes: Option<u8>) -> Result<NodePlan, PlanRefusal> {
        if let Some(nodes) = nodes.filter(|nodes| *nodes > 1) {
            return Err(PlanRefusal::RolesForSeveralNodes { nodes });
        }
        let first = roles.iter().find(|(role, _)| *role == Role::Reactor).ok_or(PlanRefusal::NoReactor)?.1;
        let mut runners: Vec<RunnerPlan> = Vec::new();
        for role in Role::ALL {
            let mut named: Vec<u32> = roles.iter().filter(|(other, _)| *other == role).map(|(_, cpu)| *cpu).collect();
            if named.is_empty() {
                named.push(first);
            }
            if role != Role::Reactor && named.len() > 1 {
                return Err(PlanRefusal::RoleTwice { role });
            }
            for (instance, cpu) in named.into_iter().enumerate() {
                self.known(cpu)?;
                let seat = Seat { role, instance: instance as u8 };
                match runners.iter_mut().find(|runner| runner.cpu == cpu) {
                    Some(_) if role == Role::Reactor => return Err(PlanRefusal::CpuTwice { cpu }), // C2
                    Some(runner) => runner.seats.push(seat),
                    None => runners.push(RunnerPlan { cpu, seats: vec![seat] }),
                }
            }
        }
        let cpus = runners.iter().map(|runner| runner.cpu).collect();
        Ok(NodePlan { memory_node: self.known(first)?, cpus, runners })
    }
}

fn plan_shares(shares: Vec<Share>, request: &CoreRequest, notes: &mut Vec<String>) -> Vec<NodePlan> {
    let wanted = request.nodes.map_or(shares.len(), usize::from);
    let shares = if wanted > shares.len() { pretend(&shares, wanted, notes) } else { shares };
    shares.into_iter().take(wanted).map(|share| plan_node(share, request.reactors_per_node, notes)).collect()
}

/// More nodes than the machine has: its CPUs in even parts, or shared where they are too few.
fn pretend(shares: &[Share], wanted: usize, notes: &mut Vec<String>) -> Vec<Share> {
    let all: Vec<(u32, u32)> = shares.iter().flat_map(|share| share.cpus.iter().map(|cpu| (*cpu, share.memory_node))).collect();
    notes.push(format!("{wanted} nodes are pretended on a machine that has {}", shares.len()));
    if all.len() < wanted {
        notes.push(format!("{wanted} nodes share {} CPUs: spinning runners would take turns, use --idle park", all.len()));
    }
    let part = |node: usize| match (node * all.len() / wanted, (node + 1) * all.len() / wanted) {
        (from, to) if from < to => all[from..to].to_vec(),
        _ => vec![all[node % all.len()]],
    };
    (0..wanted)
        .map(part)
        .map(|cpus| Share { memory_node: cpus[0].1, cpus: cpus.into_iter().map(|(cpu, _)| cpu).collect() })
        .collect()
}

fn plan_node(share: Share, reactors_wanted: u8, notes: &mut Vec<String>) -> NodePlan {
    let cores = share.cpus.len();
    // All but reactors need three cores at least: realtime, transactional with batch, appender.
    let reactors = if cores < SPLIT_CORES_MIN { 1 } else { usize::from(reactors_wanted).min(cores - (SPLIT_CORES_MIN - 1)) };
    if reactors < usize::from(reactors_wanted) {
        notes.push(format!(
            "{reactors} instead of {reactors_wanted} reactors on memory node {}: it has {cores} cores",
            share.memory_node
        ));
    }
    let only = |role| Seat { role, instance: 0 };
    let mut groups: Vec<Vec<Seat>> = Vec::new();
    if cores < SPLIT_CORES_MIN {
        groups.push(Role::ALL.map(only).to_vec());
    } else {
        groups.extend((0..reactors).map(|instance| vec![Seat { role: Role::Reactor, instance: instance as u8 }]));
        groups[0].push(only(Role::Control));
        groups.push(vec![only(Role::Realtime)]);
        if cores > reactors + SPLIT_CORES_MIN - 1 {
            groups.extend([vec![only(Role::Transactional)], vec![only(Role::Batch)]]);
        } else {
            groups.push(vec![only(Role::Transactional), only(Role::Batch)]);
        }
        groups.push(vec![only(Role::Appender)]);
    }
    let runners = groups.into_iter().zip(&share.cpus).map(|(seats, cpu)| RunnerPlan { cpu: *cpu, seats }).collect();
    NodePlan { memory_node: share.memory_node, cpus: share.cpus, runners }
}

impl CorePlan {
    /// The plans of machines of 1, 2, 4, 8 and 64 cores (the last with two nodes), to look at.
    pub fn examples() -> Vec<(u32, CorePlan)> {
        let machines =
            [(1, "node:1 core:1 pu:1"), (2, "node:1 core:2 pu:1"), (4, "node:1 core:4 pu:1"), (8, "node:1 core:8 pu:1")];
        machines
            .into_iter()
            .chain([(64, "node:2 core:32 pu:1")])
            .map(|(cores, description)| {
                let topology = Topology::from_synthetic(description).expect("a constant, and valid");
                (cores, topology.plan(&CoreRequest::default()).expect("the default request fits every machine"))
            })
            .collect()
    }

    /// How many runner threads there are.
    pub fn runners(&self) -> usize {
        self.nodes.iter().map(|node| node.runners.len()).sum()
    }

    fn check(&self, topology: &Topology) {
        for node in &self.nodes {
            for role in Role::ALL {
                let count = node.runners.iter().flat_map(|r| &r.seats).filter(|seat| seat.role == role).count();
                assert!(count == 1 || role == Role::Reactor && count > 1, "C1: {count} of {}", role.name());
            }
            for runner in &node.runners {
                assert!(runner.seats.is_sorted(), "C1: seats in the order of the flow");
                assert!(runner.seats.iter().filter(|seat| seat.role == Role::Reactor).count() <= 1, "C2");
                assert!(topology.has_cpu(runner.cpu), "C3");
            }
        }
    }
}

impl fmt::Display for CorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, node) in self.nodes.iter().enumerate() {
            let (count, word) = (node.cpus.len(), if node.cpus.len() == 1 { "core" } else { "cores" });
            writeln!(f, "node {number}  memory node {}, {count} {word}", node.memory_node)?;
            for runner in &node.runners {
                let seats: Vec<String> = runner.seats.iter().map(Seat::to_string).collect();
                writeln!(f, "  cpu {:<4} {}", runner.cpu, seats.join(", "))?;
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(description: &str, request: CoreRequest) -> Result<CorePlan, PlanRefusal> {
        Topology::from_synthetic(description).expect("a valid description").plan(&request)
    }

    fn shape(plan: &CorePlan) -> Vec<Vec<(u32, usize)>> {
        plan.nodes.iter().map(|node| node.runners.iter().map(|r| (r.cpu, r.seats.len())).collect()).collect()
    }

    #[test]
    fn few_cores_run_everything_to_completion_on_one() {
        for cores in 1..SPLIT_CORES_MIN {
            let plan = planned(&format!("node:1 core:{cores} pu:1"), CoreRequest::default()).unwrap();
            assert_eq!(shape(&plan), [vec![(0, 6)]]);
        }
    }

    #[test]
    fn four_cores_share_only_transactional_and_batch() {
        let plan = planned("node:1 core:4 pu:2", CoreRequest::default()).unwrap();
        assert_eq!(shape(&plan), [vec![(0, 2), (2, 1), (4, 2), (6, 1)]], "one CPU of each core");
    }

    #[test]
    fn more_cores_take_as_many_reactors_as_asked_for() {
        let request = |reactors_per_node| CoreRequest { reactors_per_node, ..CoreRequest::default() };
        let plan = planned("node:1 core:8 pu:1", request(3)).unwrap();
        assert_eq!(plan.nodes[0].runners.len(), 7);
        assert!(plan.notes.is_empty());
        let plan = planned("node:1 core:5 pu:1", request(3)).unwrap();
        assert_eq!(shape(&plan), [vec![(0, 2), (1, 1), (2, 1), (3, 2), (4, 1)]]);
        assert!(plan.notes[0].starts_with("2 instead of 3 reactors"));
    }

    #[test]
    fn each_memory_node_gets_a_pipeline_of_its_own() {
        let plan = planned("node:2 core:4 pu:1", CoreRequest::default()).unwrap();
        assert_eq!(plan.nodes.iter().map(|node| node.memory_node).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(plan.nodes[1].runners[0].cpu, 4);
        assert_eq!(planned("node:2 core:4 pu:1", CoreRequest { nodes: Some(1), ..Default::default() }).unwrap().nodes.len(), 1);
    }

    #[test]
    fn pretended_nodes_divide_or_share_the_cpus() {
        let two = CoreRequest { nodes: Some(2), ..CoreRequest::default() };
        assert_eq!(shape(&planned("node:1 core:8 pu:1", two.clone()).unwrap())[1][0], (4, 2));
        let shared = planned("node:1 core:1 pu:1", two).unwrap();
        assert_eq!(shape(&shared), [vec![(0, 6)], vec![(0, 6)]]);
        assert_eq!(shared.notes.len(), 2);
    }

    #[test]
    fn a_list_of_cpus_is_taken_in_its_order() {
        let request = |text: &str| CoreRequest { cores: text.parse().unwrap(), ..CoreRequest::default() };
        assert_eq!(shape(&planned("node:1 core:8 pu:1", request("5,1-3")).unwrap()), [vec![(5, 2), (1, 1), (2, 2), (3, 1)]]);
        assert_eq!(planned("node:1 core:2 pu:1", request("2")).unwrap_err(), PlanRefusal::NoSuchCpu { cpu: 2 });
        assert_eq!(planned("node:1 core:2 pu:1", request("1,0-1")).unwrap_err(), PlanRefusal::CpuTwice { cpu: 1 });
    }

    #[test]
    fn roles_by_name_share_runners_where_they_name_the_same_cpu() {
        let request = |text: &str| CoreRequest { cores: text.parse().unwrap(), ..CoreRequest::default() };
        let plan = planned("node:1 core:4 pu:1", request("batch=2,reactor=0,realtime=1,transactional=2")).unwrap();
        assert_eq!(shape(&plan), [vec![(0, 3), (1, 1), (2, 2)]], "the appender and control run with the reactor");
        assert_eq!(planned("node:1 core:4 pu:1", request("realtime=1")).unwrap_err(), PlanRefusal::NoReactor);
        assert_eq!(planned("node:1 core:4 pu:1", request("reactor=1,reactor=1")).unwrap_err(), PlanRefusal::CpuTwice { cpu: 1 });
        let twice = planned("node:1 core:4 pu:1", request("reactor=1,batch=1,batch=2")).unwrap_err();
        assert_eq!(twice, PlanRefusal::RoleTwice { role: Role::Batch });
        let nodes = CoreRequest { nodes: Some(2), ..request("reactor=0") };
        assert_eq!(planned("node:1 core:4 pu:1", nodes).unwrap_err(), PlanRefusal::RolesForSeveralNodes { nodes: 2 });
    }

    #[test]
    fn a_choice_that_is_none_names_its_bad_part() {
        for text in ["", "a", "3-1", "0,x", "reactor=", "reactor=0,writer=1", "0-99999999"] {
            assert!(text.parse::<CoreChoice>().is_err(), "{text}");
        }
        assert_eq!("0,x".parse::<CoreChoice>().unwrap_err().part, "x");
        assert_eq!("auto".parse(), Ok(CoreChoice::Auto));
    }

    #[test]
    fn zero_nodes_or_reactors_are_refused() {
        let zero = planned("pu:1", CoreRequest { nodes: Some(0), ..Default::default() }).unwrap_err();
        assert_eq!(zero.to_string().lines().count(), 3);
        assert!(planned("pu:1", CoreRequest { reactors_per_node: 0, ..Default::default() }).is_err());
    }

    #[test]
    fn example_plans_are_readable() {
        let text: Vec<String> = CorePlan::examples().iter().map(|(_, plan)| plan.to_string()).collect();
        assert_eq!(
            text[2],
            "node 0  memory node 0, 4 cores\n  cpu 0    reactor, control\n  cpu 1    realtime\n  cpu 2    transactional, batch\n  cpu 3    appender\n"
        );
        assert!(text[4].contains("node 1  memory node 1, 32 cores"));
    }
}
