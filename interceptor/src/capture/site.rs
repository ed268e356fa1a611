//! Where a workload's sockets are on this machine: what its binding names right now.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use interceptor_common::{MAX_CGROUP_LEVEL, cgroup_key};

use super::Capture;
use super::error::EnrolError;
use crate::net::Namespace;
use crate::workload::{Binding, Workload, WorkloadId};

/// Where a workload's sockets are.
#[derive(Clone, Debug)]
pub(super) enum Site {
    /// In a namespace of its own.
    Namespace {
        /// The binding.
        path: PathBuf,
        /// What the path named at enrolment.
        namespace: Namespace,
    },
    /// In the host's namespace, in a cgroup.
    Cgroup {
        /// The binding.
        binding: PathBuf,
        /// The cgroup.
        path: PathBuf,
        /// Its id.
        id: u64,
        /// How deep below the root it is.
        level: u32,
    },
}

impl Site {
    /// Whether it is still there, and not another one of the same name.
    pub(super) fn exists(&self) -> bool {
        match self {
            Self::Namespace { path, namespace } => namespace.is_named_by(path),
            Self::Cgroup { path, id, .. } => {
                fs::metadata(path).is_ok_and(|found| found.ino() == *id)
            }
        }
    }

    /// The key of a workload there.
    pub(super) const fn key(&self) -> u64 {
        match self {
            Self::Namespace { namespace, .. } => namespace.cookie(),
            Self::Cgroup { id, .. } => cgroup_key(*id),
        }
    }

    /// Whether `binding` still means this.
    pub(super) fn is(&self, binding: Option<&Binding>) -> bool {
        match (self, binding) {
            (Self::Namespace { path, .. }, Some(Binding::NetworkNamespace(bound))) => path == bound,
            (Self::Cgroup { binding, .. }, Some(Binding::Cgroup(bound))) => binding == bound,
            _ => false,
        }
    }
}

/// Finds out where the workload's sockets are.
pub(super) fn locate(capture: &Capture, workload: &Workload) -> Result<Site, EnrolError> {
    let id = workload.id.clone();
    match &workload.binding {
        None => Err(EnrolError::NotLocal { id }),
        Some(Binding::NetworkNamespace(path)) => {
            let path = path.clone();
            match Namespace::open(&path) {
                Ok(found) if found.cookie() == capture.host.cookie() => {
                    Err(EnrolError::HostNamespace { id, path })
                }
                Ok(namespace) => Ok(Site::Namespace { path, namespace }),
                Err(source) => Err(EnrolError::Binding { id, path, source }),
            }
        }
        Some(Binding::Cgroup(binding)) => locate_cgroup(capture, id, binding),
    }
}

/// Finds the cgroup of a host-network workload.
fn locate_cgroup(capture: &Capture, id: WorkloadId, binding: &Path) -> Result<Site, EnrolError> {
    let hierarchy = &capture.loaded.hierarchy;
    let below = binding.strip_prefix("/").unwrap_or(binding);
    let path = hierarchy.mount.join(below);
    let found = match fs::metadata(&path) {
        Ok(found) => found,
        Err(source) => return Err(EnrolError::Binding { id, path, source }),
    };
    let wrong = |id, path, why| Err(EnrolError::Cgroup { id, path, why });
    if !path.starts_with(&hierarchy.root) {
        return wrong(id, path, "it is outside of the agent's cgroup root");
    }
    let Some(level) = hierarchy.level(&path) else {
        return wrong(id, path, "the agent does not see the machine's root cgroup");
    };
    if level == 0 {
        return wrong(id, path, "it is the root cgroup, which every process is in");
    }
    if level > MAX_CGROUP_LEVEL {
        return wrong(id, path, "it is more than 16 levels deep");
    }
    Ok(Site::Cgroup {
        binding: binding.to_path_buf(),
        path,
        id: found.ino(),
        level,
    })
}
