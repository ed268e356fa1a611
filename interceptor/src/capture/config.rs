//! What capture needs to know of its node.

use std::path::{Path, PathBuf};

use interceptor_common::LAYOUT;

use super::prober::Prober;

/// Where and how the kernel programs of one node live. Several nodes, each with a name of its
/// own, can share a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cgroup whose processes are seen. `None` finds the cgroup2 mount; anything below it
    /// limits capture to a part of the machine, in which the agent itself must be, too.
    pub cgroup_root: Option<PathBuf>,
    /// The BPF file system, mounted there if it is not yet.
    pub bpffs: PathBuf,
    /// The node's name: letters, digits, `-`, `_` and `.`.
    pub node: String,
    /// Whose connections to workloads of this node are probes.
    pub prober: Prober,
    /// How large the maps are.
    pub sizes: Sizes,
    /// The ports of the listeners inside of each workload.
    pub ports: Ports,
    /// Log every decision of the kernel programs at debug level. Costs microseconds per
    /// connection, so off; when off, the verifier removes the code.
    pub debug_log: bool,
}

/// Capacities of the maps, fixed when they are first created: a change takes effect after
/// `interceptor uninstall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Connections that may be open or closing at a time on the node.
    pub flows: u32,
    /// Workloads of the node.
    pub workloads: u32,
    /// Outbound capture rules of all workloads together.
    pub rules: u32,
    /// Inbound ports that differ from their workload's default, counted per address.
    pub inbound_ports: u32,
    /// Pairs of a workload and an address between which connections go directly.
    pub grants: u32,
    /// Bytes of the buffer of events of direct connections.
    pub event_bytes: u32,
}

/// The ports of the listeners inside of a workload's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Captured outbound connections.
    pub outbound: u16,
    /// Plaintext connections to the workload.
    pub inbound: u16,
    /// HBONE to the workload; the only one that peers know.
    pub hbone: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // The whole machine: workloads are told apart by namespace, not by cgroup.
            cgroup_root: None,
            // Where every distribution mounts it.
            bpffs: PathBuf::from("/sys/fs/bpf"),
            node: "node".to_owned(),
            // STRICT must not break the probes of a cluster that switches it on.
            prober: Prober::Discover,
            sizes: Sizes::default(),
            ports: Ports::default(),
            debug_log: false,
        }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            // Twice the 28,000 ports of one busy client; 180 bytes each. Direct connections have a
            // quarter as many places of their own, so that their table stays in the caches.
            flows: 65_536,
            // Four times the pods that Kubernetes supports on a node; 64 bytes each.
            workloads: 512,
            // A hundred for each workload, and trie entries are allocated when used.
            rules: 65_536,
            // Thirty for each workload.
            inbound_ports: 16_384,
            // Thirty for each workload; 600 bytes each, allocated when used.
            grants: 16_384,
            // 6,200 events. The reader is woken when a quarter is full: at 50,000 connections a
            // second, which are 8.4 MB, after 31 ms, and has 90 ms then. It is twice in the agent's
            // resident memory, because it is mapped twice in a row.
            event_bytes: 1024 * 1024,
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        // ztunnel's, so that NetworkPolicies and dashboards keep their meaning.
        Self {
            outbound: 15_001,
            inbound: 15_006,
            hbone: 15_008,
        }
    }
}

impl Config {
    /// The folder of the node, which holds one folder per layout version; `None` if the node's
    /// name cannot be part of a path. bpffs reserves dots in names, so they become colons.
    pub(super) fn node_folder(&self) -> Option<PathBuf> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.node.is_empty() || self.node.len() > 253 || !self.node.chars().all(allowed) {
            return None;
        }
        Some(self.nodes_folder().join(self.node.replace('.', ":")))
    }

    /// The layout of this version's maps, as its folder is called.
    pub fn layout() -> String {
        layout_name()
    }

    /// The layouts of the maps that are pinned for the node.
    pub fn pinned_layouts(&self) -> Vec<String> {
        let entries = self.node_folder().and_then(|it| std::fs::read_dir(it).ok());
        let entries = entries.into_iter().flatten().flatten();
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        entries.map(name).collect()
    }

    /// The folder that holds all nodes of this machine.
    pub(super) fn nodes_folder(&self) -> PathBuf {
        self.bpffs.join("interceptor")
    }
}

/// The name of our layout's folder inside of a node's.
pub(super) fn layout_name() -> String {
    format!("v{LAYOUT}")
}

/// Where things are pinned.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    folder: PathBuf,
}

impl Pins {
    /// Below this folder, a version's own.
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The version's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the maps.
    pub(super) fn maps(&self) -> PathBuf {
        self.folder.join("maps")
    }

    /// The folder of the links.
    pub(super) fn links(&self) -> PathBuf {
        self.folder.join("links")
    }

    /// A map.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The link of a program at the cgroup root or in the host's namespace.
    pub(super) fn link(&self, program: &str) -> PathBuf {
        self.links().join(program)
    }

    /// The link at the host's side of an interface of the workload with this key.
    pub(super) fn guard(&self, key: u64, index: u32) -> PathBuf {
        self.links()
            .join(format!("{}{index}", Self::guards_of(key)))
    }

    /// What the names of a workload's guards begin with; the interface's index follows.
    pub(super) fn guards_of(key: u64) -> String {
        format!("{GUARD_LINK}{key}_")
    }

    /// The link in a workload's namespace.
    pub(super) fn namespace_link(&self, cookie: u64) -> PathBuf {
        self.links().join(format!("{NAMESPACE_LINK}{cookie}"))
    }
}

/// What the names of links in workloads' namespaces begin with; the cookie follows.
pub(super) const NAMESPACE_LINK: &str = "namespace_";

/// What the names of links at workloads' interfaces begin with.
pub(super) const GUARD_LINK: &str = "guard_";

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::plain("node-1", Some("/sys/fs/bpf/interceptor/node-1"))]
    #[case::dots_are_reserved_by_bpffs("a.example", Some("/sys/fs/bpf/interceptor/a:example"))]
    #[case::empty("", None)]
    #[case::slash("../etc", None)]
    #[case::colon("a:example", None)]
    fn the_node_name_becomes_one_folder(#[case] node: &str, #[case] folder: Option<&str>) {
        let config = Config {
            node: node.to_owned(),
            ..Config::default()
        };
        assert_eq!(config.node_folder(), folder.map(PathBuf::from));
    }
}
