//! The mesh that a command asks about, from files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::cli::{Failure, settings};
use crate::config::Config;
use crate::workload::objects::Objects;
use crate::workload::source::directory::{DirectoryLimits, load};
use crate::workload::{Mesh, MeshSettings};
use crate::yaml::Mistake;

/// What the mesh as a whole is like: as the agent's configuration file says, else the defaults.
///
/// The node has no name, so that no workload counts as this machine's own.
pub(super) fn mesh_settings(config: Option<&Path>) -> Result<MeshSettings, Failure> {
    let Some(path) = config else {
        return Ok(MeshSettings::for_node(""));
    };
    let config = Config::load(path, None).map_err(|mistakes| settings::failure(&mistakes))?;
    Ok(MeshSettings {
        node: "".into(),
        ..config.mesh
    })
}

/// The objects of all these files and folders together, or every mistake in them.
pub(super) fn objects(paths: &[PathBuf]) -> Result<Objects, Vec<Mistake>> {
    let (mut all, mut errors) = (Objects::default(), Vec::new());
    for path in paths {
        let loaded = load(path, &DirectoryLimits::default());
        errors.extend(loaded.mistakes.into_iter().filter(Mistake::is_error));
        join(&mut all, loaded.objects);
    }
    if errors.is_empty() {
        Ok(all)
    } else {
        Err(errors)
    }
}

/// The mesh that these objects describe, or every mistake that shows when they meet.
pub(super) fn build(objects: &Objects, settings: &MeshSettings) -> Result<Mesh, Vec<Mistake>> {
    let (mesh, mut mistakes) = Mesh::build(objects, settings);
    mistakes.retain(Mistake::is_error);
    if mistakes.is_empty() {
        Ok(mesh.worked_out())
    } else {
        Err(mistakes)
    }
}

/// The bytes of a file, one more than `most` if it is longer.
pub(super) fn read(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    File::open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The mesh of one file or folder.
pub(super) fn mesh(path: &Path, settings: &MeshSettings) -> Result<Mesh, Failure> {
    objects(&[path.to_owned()])
        .and_then(|objects| build(&objects, settings))
        .map_err(|mistakes| wrong(&mistakes))
}

/// All mistakes together, as the reason why a command cannot tell.
pub(super) fn wrong(mistakes: &[Mistake]) -> Failure {
    let lines: Vec<_> = mistakes.iter().map(|m| format!("\n  {m}")).collect();
    let count = crate::cli::human::count(mistakes.len(), "mistake");
    Failure::new(format!("{count} in the files:{}", lines.concat()))
}

fn join(all: &mut Objects, more: Objects) {
    let Objects {
        namespaces,
        pods,
        workload_entries,
        services,
        authorization_policies,
        peer_authentications,
        service_entries,
        sidecars,
        ignored,
    } = more;
    all.namespaces.extend(namespaces);
    all.pods.extend(pods);
    all.workload_entries.extend(workload_entries);
    all.services.extend(services);
    all.authorization_policies.extend(authorization_policies);
    all.peer_authentications.extend(peer_authentications);
    all.service_entries.extend(service_entries);
    all.sidecars.extend(sidecars);
    all.ignored.extend(ignored);
}
