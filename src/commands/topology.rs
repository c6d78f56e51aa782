//! `eventstream topology`: which agents share a runner, on which CPU; for this host and, for comparison, for others.

use std::fmt;
use std::io::Write;

use argh::FromArgs;
use serde::Serialize;

use super::{CommandError, ExitStatus, print};
use crate::config::{Auto, Config, CoreSpec, OptionSpec, Rule, read_ruled};

/// Cores of the other hosts that plans are shown for.
pub const COMPARED_CORES: [u32; 5] = [1, 2, 4, 8, 64];

/// prints the core plan for this host, and for hosts of 1, 2, 4, 8 and 64 cores
#[derive(FromArgs, Debug)]
#[argh(subcommand, name = "topology")]
pub struct TopologyCommand {
    /// as for `serve` (default auto)
    #[argh(option, default = "String::from(\"auto\")")]
    cores: String,
    /// as for `serve` (default auto)
    #[argh(option, default = "String::from(\"auto\")")]
    nodes: String,
    /// as for `serve` (default 1)
    #[argh(option, default = "String::from(\"1\")")]
    reactors_per_node: String,
    /// prints the plans as JSON
    #[argh(switch)]
    json: bool,
}

/// What to plan for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanRequest {
    /// `--cores`. The plans for other hosts are made with `auto`, as CPU numbers of this host mean nothing there.
    pub cores: CoreSpec,
    /// `--nodes`.
    pub nodes: Auto<u8>,
    /// `--reactors-per-node`.
    pub reactors_per_node: u8,
    /// Hosts to compare with, by their number of cores, one NUMA node each.
    pub compared_cores: Vec<u32>,
}

/// A runner in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunnerView {
    /// The NUMA node (or pretended node).
    pub node: u8,
    /// The CPU it is pinned to; `None`: wherever the kernel puts it.
    pub cpu: Option<u32>,
    /// The agents it polls, in the order of the flow.
    pub agents: Vec<String>,
}

/// A plan, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CorePlanView {
    /// Which host (`this host`, `8 cores`).
    pub host: String,
    /// Runners, by node and CPU.
    pub runners: Vec<RunnerView>,
    /// What else to know (spin lowered to adaptive, cores left for helpers).
    pub notes: Vec<String>,
}

impl fmt::Display for CorePlanView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.host)?;
        for runner in &self.runners {
            let cpu = runner.cpu.map_or("any cpu".to_owned(), |cpu| format!("cpu {cpu}"));
            writeln!(f, "  node {:<2} {cpu:<8} {}", runner.node, runner.agents.join(", "))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  {note}"))
    }
}

impl TopologyCommand {
    /// Plans and prints.
    ///
    /// # Errors
    /// A request that is refused; whatever the planner says.
    pub fn run(
        self,
        plan: fn(&PlanRequest) -> Result<Vec<CorePlanView>, CommandError>,
        out: &mut dyn Write,
    ) -> Result<ExitStatus, CommandError> {
        let json = self.json;
        let plans = plan(&self.request()?)?;
        let text = if json {
            format!("{}\n", serde_json::to_string_pretty(&plans).expect("plans are plain text and numbers"))
        } else {
            plans.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        print(out, &text).map(|()| ExitStatus::Ok)
    }

    fn request(self) -> Result<PlanRequest, CommandError> {
        Ok(PlanRequest {
            cores: read_flag("cores", &self.cores)?,
            nodes: read_flag("nodes", &self.nodes)?,
            reactors_per_node: read_flag("reactors-per-node", &self.reactors_per_node)?,
            compared_cores: COMPARED_CORES.to_vec(),
        })
    }
}

/// Reads a flag that `serve` has too, by the rule it has there.
fn read_flag<T: crate::config::OptionValue>(name: &str, text: &str) -> Result<T, CommandError> {
    let rule = OptionSpec::find(name).map_or(Rule::Any, |option| option.rule);
    read_ruled(text, rule).map_err(|cause| {
        let fix = format!("--{name} {}", T::FORM);
        CommandError::new(ExitStatus::Usage, format!("--{name} {text} is refused"), cause.to_string(), fix)
    })
}

impl PlanRequest {
    /// What a configuration asks for, this host alone.
    pub fn of(config: &Config) -> Self {
        Self {
            cores: config.cores.clone(),
            nodes: config.nodes,
            reactors_per_node: config.reactors_per_node,
            compared_cores: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(request: &PlanRequest) -> Result<Vec<CorePlanView>, CommandError> {
        let agents = vec!["reactor".to_owned(), "realtime".to_owned()];
        let runners =
            vec![RunnerView { node: 0, cpu: Some(3), agents: agents.clone() }, RunnerView { node: 1, cpu: None, agents }];
        assert_eq!(request.compared_cores, [1, 2, 4, 8, 64]);
        Ok(vec![CorePlanView { host: "this host".to_owned(), runners, notes: vec!["spin is lowered to adaptive".to_owned()] }])
    }

    fn command(reactors_per_node: &str, json: bool) -> TopologyCommand {
        TopologyCommand { cores: "auto".into(), nodes: "auto".into(), reactors_per_node: reactors_per_node.into(), json }
    }

    #[test]
    fn a_plan_names_node_cpu_and_agents_of_each_runner() {
        let mut out = Vec::new();
        assert_eq!(command("2", false).run(plan, &mut out), Ok(ExitStatus::Ok));
        let expected = "\
this host
  node 0  cpu 3    reactor, realtime
  node 1  any cpu  reactor, realtime
  spin is lowered to adaptive
";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn json_has_runners_with_their_agents() {
        let mut out = Vec::new();
        assert_eq!(command("1", true).run(plan, &mut out), Ok(ExitStatus::Ok));
        let plans: serde_json::Value = serde_json::from_slice(&out).expect("valid JSON");
        assert_eq!(plans[0]["runners"][0]["cpu"], 3);
        assert_eq!(plans[0]["runners"][1]["agents"][0], "reactor");
    }

    #[test]
    fn flags_keep_the_rules_they_have_for_serve() {
        let error = command("0", false).run(plan, &mut Vec::new()).expect_err("0 reactors");
        assert_eq!((error.code, error.cause.as_str()), (ExitStatus::Usage, "it must be between 1 and 64"));
    }
}
