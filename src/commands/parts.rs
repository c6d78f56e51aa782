//! The engine's parts as commands call them.

use std::fmt::Display;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::serve::{EndNotice, Started};
use super::topology::{CorePlanView, PlanRequest, RunnerView};
use super::{CommandError, ExitStatus, Parts};
use crate::config::{Auto, Config};
use crate::engine::{Engine, EngineError, survey};
use crate::sys::findings::Finding;
use crate::sys::plan::{CorePlan, CoreRequest};
use crate::sys::topology::Topology;

/// How often a running engine is looked after.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// The real ones.
pub const PARTS: Parts = Parts { start_engine, probe_host, plan_cores };

/// An error that displays as the three lines, with its exit code.
pub(super) fn three_lines(code: ExitStatus, refusal: &impl Display) -> CommandError {
    let text = refusal.to_string();
    let mut lines = text.lines();
    let mut line = |prefix: &str| {
        let line = lines.next().unwrap_or_default();
        line.strip_prefix(prefix).unwrap_or(line).trim().to_owned()
    };
    let (error, cause) = (line("error:"), line("cause:"));
    let fix = line("fix:");
    CommandError { code, error, cause, fix }
}

impl From<EngineError> for CommandError {
    fn from(error: EngineError) -> Self {
        let code = if error.is_damage() {
            ExitStatus::DamagedData
        } else if error.is_configuration() {
            ExitStatus::Configuration
        } else {
            ExitStatus::Environment
        };
        three_lines(code, &error)
    }
}

fn start_engine(config: &Config, notice: EndNotice) -> Result<Started, CommandError> {
    let (engine, report) = Engine::builder().config(config.clone()).start()?;
    let engine = Arc::new(Mutex::new(Some(engine)));
    let watched = engine.clone();
    let watch = move || {
        // One look. The lock ends with it: held over the sleep, and taken again at once, it would keep a drain out.
        let look = || {
            let mut engine = watched.lock().expect("the watch does not panic");
            engine.as_mut().map(|engine| engine.watch(&mut |level, line| log::log!(level, "{line}")))
        };
        while let Some(found) = look() {
            if let Some(cause) = found {
                notice.end(cause);
                break;
            }
            std::thread::sleep(WATCH_EVERY);
        }
    };
    let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(watch);
    let take = move || engine.lock().expect("the watch does not panic").take().expect("drained once");
    match thread {
        Ok(_) => Ok(Started { report, drain: Box::new(move |cause| take().drain(cause)) }),
        Err(error) => {
            take().drain(crate::report::DrainCause::RunnerEnded("the watch could not be started".to_owned()));
            let fix = "a higher limit of tasks (`ulimit -u`, TasksMax=)";
            Err(CommandError::new(ExitStatus::Environment, "the watch thread can't be started", error.to_string(), fix))
        }
    }
}

fn probe_host(config: &Config) -> Result<Vec<Finding>, CommandError> {
    Ok(survey(config)?)
}

fn plan_cores(request: &PlanRequest) -> Result<Vec<CorePlanView>, CommandError> {
    let topology = Topology::detect().map_err(|refusal| three_lines(ExitStatus::Environment, &refusal))?;
    let nodes = match request.nodes {
        Auto::Auto => None,
        Auto::Given(nodes) => Some(nodes),
    };
    let cores = request.cores.0.parse().map_err(EngineError::Cores)?;
    let wanted = CoreRequest { cores, nodes, reactors_per_node: request.reactors_per_node };
    let plan = topology.plan(&wanted).map_err(|refusal| three_lines(ExitStatus::Configuration, &refusal))?;
    let mut views = vec![view("this host".to_owned(), &plan)];
    let examples = CorePlan::examples().into_iter().filter(|(cores, _)| request.compared_cores.contains(cores));
    views.extend(examples.map(|(cores, plan)| view(format!("a host of {cores} cores"), &plan)));
    Ok(views)
}

fn view(host: String, plan: &CorePlan) -> CorePlanView {
    let mut runners = Vec::new();
    for (node, plan) in plan.nodes.iter().enumerate() {
        runners.extend(plan.runners.iter().map(|runner| RunnerView {
            node: node as u8,
            cpu: Some(runner.cpu),
            agents: runner.seats.iter().map(ToString::to_string).collect(),
        }));
    }
    CorePlanView { host, runners, notes: plan.notes.clone() }
}
