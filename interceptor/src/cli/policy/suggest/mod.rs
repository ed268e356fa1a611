//! `interceptor policy suggest`: which policies would have allowed exactly what happened?

mod draft;
mod recording;
mod replay;

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use self::draft::{Draft, Refused};
use self::recording::Recording;
use self::replay::Replay;
use super::world;
use crate::cli::output::{Printer, Report, Style};
use crate::cli::settings::AgentConfig;
use crate::cli::{Exit, Failure, settings};
use crate::workload::objects::Objects;
use crate::workload::{Mesh, MeshSettings};
use crate::yaml::Mistake;

/// Which policies would have allowed exactly what happened?
///
/// Reads recorded connections and prints the authorization policies with the least privileges that
/// would have allowed those that went through: who called which workloads at which ports, how often
/// and how long ago. What is printed is a manifest; look at it before you apply it.
///
/// Recorded connections come from access logs in JSON (`--log`), or from the running agent, which
/// counts who called whom since it started. With `--replay` nothing is suggested: the recording is
/// judged again under other policies, and what left the mesh under other egress rules.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit code: 0 answered, 1 with --replay: something that went through would be refused, 2 a file is
wrong or no agent answers.

Examples:
  interceptor policy suggest --log access.json -f manifests/ > suggested.yaml
  interceptor policy suggest --log access.json -f manifests/ --replay suggested.yaml
  interceptor policy suggest                        what this node has seen since its agent started")]
pub(in crate::cli) struct Args {
    /// An access log in JSON (may be repeated). Without one, the running agent is asked.
    #[arg(long, value_name = "FILE")]
    log: Vec<PathBuf>,

    /// The manifests that describe the workloads: a folder or a file. Without it, those of the
    /// agent's configuration.
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// Suggest policies also for what policies refused.
    #[arg(long)]
    include_denied: bool,

    /// Judge the recording under the policies of this folder or file instead: its
    /// authorization policies replace those of the manifests, and so do its peer authentications,
    /// sidecars and service entries, if it has any.
    #[arg(long, value_name = "PATH", conflicts_with = "include_denied")]
    replay: Option<PathBuf>,

    #[command(flatten)]
    agent: AgentConfig,
}

pub(super) fn run(args: &Args, socket: &Path, printer: &Printer) -> Result<Exit, Failure> {
    let live = args.log.is_empty() && args.file.is_none() && !args.agent.is_named();
    let config = if live {
        settings::of_agent(socket)?
    } else {
        args.agent.load_or_default()?
    };
    let settings = MeshSettings {
        node: "".into(),
        ..config.mesh
    };
    let manifests = args.file.clone().unwrap_or(config.manifests);
    let candidate = args.replay.as_deref();
    let mesh = mesh(&manifests, candidate, &settings).map_err(|m| world::wrong(&m))?;
    let mut recording = Recording::default();
    for log in &args.log {
        recording.read_log(log)?;
    }
    if args.log.is_empty() {
        recording.read_agent(socket)?;
    }
    if candidate.is_some() {
        return printer.report(&Replay::of(&mesh, &recording));
    }
    let refused = if args.include_denied {
        Refused::Include
    } else {
        Refused::LeaveOut
    };
    printer.report(&Draft::of(&mesh, &recording, refused, Timestamp::now()))
}

/// The mesh of the manifests, under the policies of `candidate` if there is one.
fn mesh(
    manifests: &Path,
    candidate: Option<&Path>,
    settings: &MeshSettings,
) -> Result<Mesh, Vec<Mistake>> {
    let mut objects = world::objects(&[manifests.to_owned()])?;
    if let Some(candidate) = candidate {
        replace_policies(&mut objects, world::objects(&[candidate.to_owned()])?);
    }
    world::build(&objects, settings)
}

fn replace_policies(objects: &mut Objects, candidate: Objects) {
    objects.authorization_policies = candidate.authorization_policies;
    if !candidate.peer_authentications.is_empty() {
        objects.peer_authentications = candidate.peer_authentications;
    }
    if !candidate.sidecars.is_empty() {
        objects.sidecars = candidate.sidecars;
    }
    if !candidate.service_entries.is_empty() {
        objects.service_entries = candidate.service_entries;
    }
}

impl Report for Draft {
    fn text(&self, _style: Style) -> String {
        self.yaml()
    }

    fn exit(&self) -> Exit {
        Exit::Yes
    }
}

#[cfg(test)]
mod tests;
