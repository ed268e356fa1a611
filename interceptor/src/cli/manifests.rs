//! Where a command that works both ways gets its mesh from: manifests, or the running agent.

use std::path::PathBuf;

use super::{Failure, settings};
use crate::config::Config;
use crate::workload::source::directory::load_meshes;
use crate::yaml::Mistake;

pub(super) use crate::workload::Mesh;

/// Manifests to read instead of asking the running agent.
#[derive(Debug, clap::Args)]
pub(super) struct Manifests {
    /// A folder of manifests, or one file, to read instead of asking the agent; may be repeated.
    #[arg(short, long, value_name = "PATH")]
    file: Vec<PathBuf>,

    /// The agent's configuration file, which says what the mesh's trust domain and root namespace
    /// are. The defaults without it.
    #[arg(short, long, value_name = "FILE", requires = "file")]
    config: Option<PathBuf>,
}

impl Manifests {
    /// The mesh that the manifests describe; `None` if the agent is to be asked.
    pub(super) fn load(&self) -> Result<Option<Mesh>, Failure> {
        if self.file.is_empty() {
            return Ok(None);
        }
        let config = match &self.config {
            None => Config::for_node("none"),
            Some(path) => {
                Config::load(path, None).map_err(|mistakes| settings::failure(&mistakes))?
            }
        };
        match load_meshes(&self.file, &config.mesh) {
            Ok((mesh, _warnings)) => Ok(Some(mesh)),
            Err(mistakes) => Err(failure(&mistakes)),
        }
    }
}

/// What is wrong with the manifests. Warnings are `validate`'s and `analyze`'s business.
fn failure(mistakes: &[Mistake]) -> Failure {
    let errors = mistakes.iter().filter(|mistake| mistake.is_error());
    let lines: Vec<_> = errors.map(|mistake| format!("\n  {mistake}")).collect();
    Failure::new(format!(
        "the manifests have mistakes, so an agent would not use them:{}",
        lines.concat()
    ))
}
