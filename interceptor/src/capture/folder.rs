//! The folders in the BPF file system: root's alone.
//!
//! Whoever can open the node's folder can lock it, and then no agent of the node starts; whoever can
//! write to it decides what is pinned. A BPF file system that was mounted without a mode lets every user
//! make folders, so one that is there is looked at before it is believed.
//!
//! Not here: the lock (`lock`), and what is pinned (`loader`).

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::unistd::geteuid;

use super::config::Config;
use super::error::CaptureError;

/// What the agent's own user may, and nobody else.
const OURS: u32 = 0o700;

/// What others may.
const OTHERS: u32 = 0o077;

/// How often the folder above is made, should another node's agent remove it as its last.
const ATTEMPTS: u32 = 10;

/// Makes the node's folder and the one above it, or sees to it that they are the agent's alone.
pub(super) fn prepare(config: &Config, folder: &Path) -> Result<(), CaptureError> {
    let above = config.nodes_folder();
    let both = || own(&above).and_then(|()| own(folder));
    for _ in 1..ATTEMPTS {
        match both() {
            Err(CaptureError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            prepared => return prepared,
        }
    }
    both()
}

/// Creates a folder below those and what lacks above it.
pub(super) fn create(folder: &Path) -> Result<(), CaptureError> {
    let mut builder = DirBuilder::new();
    let created = builder.recursive(true).mode(OURS).create(folder);
    created.map_err(|source| failed("create", folder, source))
}

/// Makes one folder, or closes the one that is there to others.
fn own(folder: &Path) -> Result<(), CaptureError> {
    match DirBuilder::new().mode(OURS).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("create", folder, error));
        }
        _ => {}
    }
    // Not what a link leads to.
    let look = || fs::symlink_metadata(folder).map_err(|source| failed("look at", folder, source));
    let found = look()?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Err(foreign(folder, "is not the agent's own folder"));
    }
    if found.mode() & OTHERS != 0 {
        let closed = fs::set_permissions(folder, Permissions::from_mode(OURS));
        closed.map_err(|source| failed("close to other users", folder, source))?;
        if look()?.mode() & OTHERS != 0 {
            return Err(foreign(folder, "is open to other users, and stays so"));
        }
    }
    Ok(())
}

fn foreign(folder: &Path, why: &'static str) -> CaptureError {
    CaptureError::Foreign {
        folder: folder.to_path_buf(),
        why,
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> CaptureError {
    CaptureError::Io {
        doing,
        path: path.to_path_buf(),
        source,
    }
}
