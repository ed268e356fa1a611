//! `interceptor run`: the agent itself.

use std::path::PathBuf;

use super::{Exit, Failure, doctor, settings};
use crate::app;
use crate::config::{Config, DEFAULT_FILE};

/// Run the agent of this node.
///
/// Captures the workloads that the manifests bind to this node, until it is asked to stop (SIGTERM
/// or Ctrl-C). Stopping leaves the ports of enrolled workloads closed; `interceptor uninstall`
/// opens them.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 stopped when asked to, 2 could not start.

Examples:
  interceptor doctor                       first: can this machine run it?
  interceptor run --config agent.yaml
  interceptor run --config agent.yaml --node worker-1")]
pub(super) struct Args {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,

    /// The node's name, instead of the file's.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let config = Config::load(&args.config, args.node.as_deref())
        .map_err(|mistakes| settings::failure(&mistakes))?;
    doctor::preflight()?;
    app::run(config).map_err(|error| {
        Failure::new(format!("{error:#}"))
            .try_next("`interceptor doctor` checks what the agent needs, hook by hook")
    })?;
    Ok(Exit::Yes)
}
