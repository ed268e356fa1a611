//! `interceptor run`: the agent itself.

use std::path::PathBuf;

use super::output::Printer;
use super::{Exit, Failure, doctor, plan_upgrade, settings};
use crate::app::{self, Ended, Manner};
use crate::config::{Config, DEFAULT_FILE};

/// Run the agent of this node.
///
/// Captures the workloads that the manifests bind to this node, until it is asked to stop (SIGTERM
/// or Ctrl-C). Stopping leaves the ports of enrolled workloads closed; `interceptor uninstall`
/// opens them.
///
/// With --take-over a new agent replaces the running one without a connection being refused: both
/// serve until the new one has everything, then the old one lets its open connections end
/// (drainDeadline) and ends itself. If the new one cannot serve all that the old one does, it
/// gives up, and the old one goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 stopped when asked to, 2 could not start, 3 another agent has taken over.
With --plan-upgrade: 0 it would hand over, 1 it would not, 2 no agent answers.

Examples:
  interceptor doctor                       first: can this machine run it?
  interceptor run --config agent.yaml
  interceptor run --config agent.yaml --node worker-1
  interceptor run --config agent.yaml --plan-upgrade   before one: which connections end?
  interceptor run --config agent.yaml --take-over      an upgrade, beside the running agent")]
pub(super) struct Args {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,

    /// The node's name, instead of the file's.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// Take over from the agent of this node that is running. Starts as usual if none is.
    #[arg(long)]
    take_over: bool,

    /// Take nothing over: say what it would do to kernel programs and open connections.
    #[arg(long)]
    plan_upgrade: bool,

    /// When another agent has taken over, wait to be stopped instead of ending: for supervisors
    /// that start again whatever ends, such as Kubernetes.
    #[arg(long)]
    wait_when_replaced: bool,
}

pub(super) fn run(args: &Args, printer: &Printer) -> Result<Exit, Failure> {
    let config = Config::load(&args.config, args.node.as_deref())
        .map_err(|mistakes| settings::failure(&mistakes))?;
    if args.plan_upgrade {
        return printer.report(&plan_upgrade::plan(&config)?);
    }
    doctor::preflight()?;
    let manner = Manner {
        take_over: args.take_over,
        wait_when_replaced: args.wait_when_replaced,
    };
    let ended = app::run(config, manner).map_err(|error| {
        Failure::new(format!("{error:#}"))
            .try_next("`interceptor doctor` checks what the agent needs, hook by hook")
    })?;
    Ok(match ended {
        Ended::Asked => Exit::Yes,
        Ended::Replaced => Exit::Replaced,
    })
}
