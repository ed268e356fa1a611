//! The node's prober: kubelet, known by its cgroup.
//!
//! A probe has no certificate, so under STRICT it would be refused. Trusting the node's address
//! would trust every process of the node. Instead the cgroup that the connecting task is in tells
//! the kernel that it is kubelet, and its connection opens the application's door for its own
//! 4-tuple and nothing else. That works without the agent, too.
//!
//! # Invariants
//!
//! * Only in the host's network namespace: a workload that gets into the cgroup stays what its
//!   namespace says.
//! * A cgroup is trusted by its id, which the kernel never uses again. One that was removed and
//!   made anew under the same name, as when kubelet restarts, is followed at the next look.
//! * Where a workload is bound to the same cgroup, it is the workload.
//!
//! Not here: what the kernel does with a probe (`connect.rs`, `sk_lookup.rs`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use interceptor_common::{MAX_CGROUP_LEVEL, cgroup_key};

use super::Capture;
use super::cgroup::Hierarchy;
use super::enrol;
use super::error::EnrolError;

/// Where kubelet is on common distributions, below the cgroup root: what [`Prober::Discover`]
/// looks for. Each is a service of the init system, which no pod can make.
pub const USUAL_PROBERS: &[&str] = &[
    // kubeadm, GKE, AKS, most others.
    "system.slice/kubelet.service",
    // kind, and distributions that keep a slice for it.
    "kubelet.slice/kubelet.service",
    // Amazon Linux, Bottlerocket.
    "runtime.slice/kubelet.service",
    // Talos.
    "podruntime/kubelet",
    "system.slice/k3s.service",
    "system.slice/k3s-agent.service",
    "system.slice/rke2-server.service",
    "system.slice/rke2-agent.service",
    "system.slice/k0scontroller.service",
    "system.slice/k0sworker.service",
    // MicroK8s.
    "system.slice/snap.microk8s.daemon-kubelite.service",
    // Canonical Kubernetes.
    "system.slice/snap.k8s.kubelet.service",
];

/// Room for them in the map of workloads.
pub(super) const MOST_PROBERS: u32 = 16;

/// Whose connections to workloads of this node are probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Prober {
    /// Kubelet's, where [`USUAL_PROBERS`] has its cgroup.
    #[default]
    Discover,
    /// Nobody's: probes are plaintext connections like others.
    None,
    /// Those of this cgroup, given as it is mounted or below the cgroup root.
    Cgroup(PathBuf),
}

/// What an operator is told about the prober.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProberStatus {
    /// The cgroups that are trusted, below the cgroup root.
    pub trusted: Vec<PathBuf>,
    /// What keeps a configured one from being trusted.
    pub problem: Option<String>,
}

/// The cgroups that are trusted now, by their keys in the kernel.
#[derive(Debug, Default)]
pub(super) struct Probers {
    trusted: BTreeMap<u64, Place>,
    problem: Option<String>,
}

/// A cgroup that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Below the cgroup root.
    path: PathBuf,
    /// A bit for each depth at which it may be.
    levels: u32,
}

impl Prober {
    /// The cgroups to look for, below the mount.
    fn candidates(&self, mount: &Path) -> Vec<PathBuf> {
        match self {
            Self::Discover => USUAL_PROBERS.iter().map(PathBuf::from).collect(),
            Self::None => Vec::new(),
            Self::Cgroup(path) => {
                let below = path.strip_prefix(mount);
                let below = below.or_else(|_| path.strip_prefix("/"));
                vec![below.unwrap_or(path).to_owned()]
            }
        }
    }

    /// Those of them that exist below `mount`.
    pub fn existing(&self, mount: &Path) -> Vec<PathBuf> {
        let mut candidates = self.candidates(mount);
        candidates.retain(|path| mount.join(path).is_dir());
        candidates
    }
}

impl Probers {
    /// What earlier agents trusted is not known by name; it goes if it is not found again.
    pub(super) fn adopted(keys: Vec<u64>) -> Self {
        let nameless = Place {
            path: PathBuf::new(),
            levels: 0,
        };
        Self {
            trusted: keys
                .into_iter()
                .map(|key| (key, nameless.clone()))
                .collect(),
            problem: None,
        }
    }

    /// The depths at which cgroups are trusted.
    pub(super) fn levels(&self) -> u32 {
        self.trusted.values().fold(0, |all, it| all | it.levels)
    }

    /// For people.
    pub(super) fn status(&self) -> ProberStatus {
        ProberStatus {
            trusted: self.trusted.values().map(|it| it.path.clone()).collect(),
            problem: self.problem.clone(),
        }
    }
}

/// Trusts what is there now and nothing else.
pub(super) fn follow(capture: &mut Capture) -> Result<(), EnrolError> {
    let (mut found, problem) = look(&capture.config.prober, &capture.loaded.hierarchy);
    found.retain(|key, _| !enrol::is_workload(capture, *key));
    if capture.probers.problem != problem
        && let Some(problem) = &problem
    {
        tracing::warn!(
            problem,
            "probes of kubelet are taken for plaintext connections"
        );
    }
    let before = std::mem::replace(&mut capture.probers.trusted, found);
    capture.probers.problem = problem;
    capture.observer.set_prober(capture.probers.status());
    if capture.probers.trusted == before {
        return Ok(());
    }
    let applied = apply(capture, &before);
    if applied.is_err() {
        // Until it is known what is in the map, either may be: the next look differs from both.
        let both = before
            .into_keys()
            .chain(capture.probers.trusted.keys().copied());
        capture.probers.trusted = Probers::adopted(both.collect()).trusted;
    }
    applied
}

/// Brings the kernel from what was trusted `before` to what is.
fn apply(capture: &mut Capture, before: &BTreeMap<u64, Place>) -> Result<(), EnrolError> {
    let trusted = capture.probers.trusted.clone();
    for key in before.keys().filter(|key| !trusted.contains_key(key)) {
        enrol::distrust(capture, *key)?;
    }
    for (key, place) in &trusted {
        enrol::trust(capture, *key)?;
        if !before.contains_key(key) {
            tracing::info!(cgroup = %place.path.display(), "kubelet's probes are recognised");
        }
    }
    enrol::refresh_host(capture, &enrol::nobody("the node's prober"))
}

/// The cgroups that are to be trusted, by key, and what is wrong with a configured one.
fn look(prober: &Prober, hierarchy: &Hierarchy) -> (BTreeMap<u64, Place>, Option<String>) {
    let mut found = BTreeMap::new();
    let mut problem = None;
    for path in prober.candidates(&hierarchy.mount) {
        match examine(path, hierarchy) {
            Ok((key, place)) => drop(found.insert(key, place)),
            Err(error) if matches!(prober, Prober::Cgroup(_)) => problem = Some(error),
            Err(_) => {}
        }
    }
    (found, problem)
}

/// The key of a cgroup and where it is; else what is wrong with it.
fn examine(path: PathBuf, hierarchy: &Hierarchy) -> Result<(u64, Place), String> {
    let full = hierarchy.mount.join(&path);
    let shown = full.display();
    let found = fs::metadata(&full).map_err(|error| format!("the cgroup {shown}: {error}"))?;
    if !found.is_dir() {
        return Err(format!("{shown} is not a cgroup"));
    }
    if !full.starts_with(&hierarchy.root) {
        return Err(format!("the cgroup {shown} is outside of the agent's root"));
    }
    let levels = levels(hierarchy, &path);
    if levels == 0 {
        return Err(format!(
            "the cgroup {shown} must be 1 to {MAX_CGROUP_LEVEL} levels below the root"
        ));
    }
    Ok((cgroup_key(found.ino()), Place { path, levels }))
}

/// A bit for each depth below the machine's root at which `path` may be. Inside of a cgroup
/// namespace, as on a node that is itself a container, only a lower bound is known.
fn levels(hierarchy: &Hierarchy, path: &Path) -> u32 {
    let below = path.components().count();
    let Some(shown) = u32::try_from(below).ok().filter(|it| *it > 0) else {
        return 0;
    };
    match hierarchy.level(&hierarchy.mount.join(path)) {
        Some(level) if level <= MAX_CGROUP_LEVEL => 1 << level,
        Some(_) => 0,
        None => (shown..=MAX_CGROUP_LEVEL).fold(0, |bits, level| bits | 1 << level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::as_in_proc("/system.slice/k.service")]
    #[case::relative("system.slice/k.service")]
    #[case::as_mounted("/sys/fs/cgroup/system.slice/k.service")]
    fn a_cgroup_can_be_given_as_people_find_it(#[case] given: &str) {
        let prober = Prober::Cgroup(PathBuf::from(given));
        assert_eq!(
            prober.candidates(Path::new("/sys/fs/cgroup")),
            [PathBuf::from("system.slice/k.service")]
        );
    }

    #[test]
    fn the_usual_ones_fit_and_none_is_nobody() {
        assert!(u32::try_from(USUAL_PROBERS.len()).unwrap() <= MOST_PROBERS);
        let mount = Path::new("/sys/fs/cgroup");
        assert_eq!(
            Prober::Discover.candidates(mount).len(),
            USUAL_PROBERS.len()
        );
        assert!(Prober::None.candidates(mount).is_empty());
    }

    /// A folder that looks like a cgroup mount; `inside` of a cgroup namespace or the true root.
    fn hierarchy(inside: bool) -> (tempfile::TempDir, Hierarchy) {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().to_owned();
        fs::create_dir_all(mount.join("a.slice/k.service")).unwrap();
        if inside {
            fs::write(mount.join("cgroup.type"), "domain").unwrap();
        }
        let root = mount.clone();
        (folder, Hierarchy { mount, root })
    }

    #[test]
    fn inside_of_a_cgroup_namespace_every_possible_depth_is_asked() {
        let path = Path::new("a.slice/k.service");
        assert_eq!(levels(&hierarchy(false).1, path), 1 << 2);
        assert_eq!(levels(&hierarchy(true).1, path), 0x1_fffc);
    }

    #[rstest]
    #[case::missing("b", "the cgroup MOUNT/b: No such file or directory (os error 2)")]
    #[case::the_root("/", "the cgroup MOUNT/ must be 1 to 16 levels below the root")]
    fn what_is_wrong_with_a_configured_cgroup_is_told(#[case] path: &str, #[case] expected: &str) {
        let (_folder, hierarchy) = hierarchy(false);
        let (found, problem) = look(&Prober::Cgroup(path.into()), &hierarchy);
        assert!(found.is_empty());
        let mount = hierarchy.mount.display().to_string();
        assert_eq!(problem.unwrap().replace(&mount, "MOUNT"), expected);
    }

    #[test]
    fn a_machine_without_kubelet_is_no_problem() {
        let (_folder, hierarchy) = hierarchy(false);
        let (found, problem) = look(&Prober::Discover, &hierarchy);
        assert!(found.is_empty() && problem.is_none());
    }
}
