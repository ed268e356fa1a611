//! The agent's own configuration file, and nothing else: what the mesh consists of is in manifests.
//!
//! ```text
//!  config.yaml ──file::visit(Read)──▶ Config ──file::visit(Show)──▶ what is in force
//!                                            └─file::visit(Document)─▶ docs/config.md
//! ```
//!
//! Sections are the `Config` structs of the modules that they configure, with their defaults and
//! the reasons for them. Every key is defined once, in `file`, and read, shown and documented
//! from that one place, so the three cannot disagree.
//!
//! # Invariants
//!
//! * All mistakes are reported together, each with file, line and key; unknown keys are mistakes.
//! * A [`Config`] is complete and valid: nothing in it still means "default".
//! * Showing a configuration and reading it again gives the same one.
//!
//! Not here: command line flags, of which only the node's name reaches in.

mod document;
mod file;
mod read;
mod setting;
mod show;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use document::markdown;

use crate::identity::DEFAULT_LIFETIME;
use crate::telemetry::{access, logging};
use crate::workload::MeshSettings;
use crate::yaml::Mistake;
use crate::{capture, transport};

/// Where the command line looks for the file.
pub const DEFAULT_FILE: &str = "/etc/interceptor/config.yaml";

/// Everything that the agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The mesh as a whole: node, trust domain, root namespace, the agent's ports.
    pub mesh: MeshSettings,
    /// The folder of manifests.
    pub manifests: PathBuf,
    /// The folder for what lives as long as the agent runs: its unix socket.
    pub run_folder: PathBuf,
    /// Where identities come from.
    pub identity: Identity,
    /// The kernel half.
    pub capture: capture::Config,
    /// Tunnels.
    pub transport: transport::Config,
    /// Where the agent listens, on the node, for people and machines that look after it.
    pub node_ports: NodePorts,
    /// Access lines.
    pub access_log: access::Config,
    /// The agent's own log.
    pub log: logging::Config,
    /// Connections that one workload may have open at this agent; 0 for no bound of its own.
    pub max_connections: usize,
    /// How long open connections may take to end when the agent stops.
    pub drain_deadline: Duration,
}

/// Where identities come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The folder of the embedded CA.
    pub ca_directory: PathBuf,
    /// How long a certificate is valid. It is renewed at half of it.
    pub svid_lifetime: Duration,
}

/// The ports of the node's own listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePorts {
    /// Administration, on loopback only.
    pub admin: u16,
    /// Metrics.
    pub metrics: u16,
    /// Readiness.
    pub readiness: u16,
}

impl Default for NodePorts {
    fn default() -> Self {
        Self {
            // ztunnel's, so that scrape configurations and probes keep working.
            admin: 15000,
            metrics: 15020,
            readiness: 15021,
        }
    }
}

impl Config {
    /// The defaults of a node.
    pub fn for_node(node: impl Into<Arc<str>>) -> Self {
        let mut config = Self {
            mesh: MeshSettings::for_node(node),
            // Where a package or a ConfigMap puts files that people edit.
            manifests: PathBuf::from("/etc/interceptor/manifests"),
            run_folder: PathBuf::from("/run/interceptor"),
            identity: Identity {
                // It must survive a restart, or every peer's trust ends with the process.
                ca_directory: PathBuf::from("/var/lib/interceptor/ca"),
                svid_lifetime: DEFAULT_LIFETIME,
            },
            capture: capture::Config::default(),
            transport: transport::Config::default(),
            node_ports: NodePorts::default(),
            access_log: access::Config::default(),
            log: logging::Config::default(),
            // Nobody knows better than the limit of descriptors what is too many.
            max_connections: 0,
            // Below the 30 s after which Kubernetes kills a Pod, with time left to detach.
            drain_deadline: Duration::from_secs(25),
        };
        config.share();
        config
    }

    /// Tells sections what is set once and several of them must know.
    fn share(&mut self) {
        let ports = self.mesh.ports;
        self.capture.node = self.mesh.node.to_string();
        self.capture.ports = capture::Ports {
            outbound: ports.outbound,
            inbound: ports.inbound,
            hbone: ports.hbone,
        };
        self.transport.own_ports = [ports.outbound, ports.inbound, ports.hbone];
    }

    /// Reads the file at `path`. `node` is the node's name from the command line, which beats the
    /// file's; without either it is the host's name.
    ///
    /// # Errors
    ///
    /// All mistakes together.
    pub fn load(path: &Path, node: Option<&str>) -> Result<Self, Vec<Mistake>> {
        let file: Arc<str> = Arc::from(path.to_string_lossy());
        let bytes = fs::read(path).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::NotFound => {
                    "; write one (an empty file is all defaults) or name another"
                }
                ErrorKind::PermissionDenied => "; run as root, or make it readable",
                _ => "",
            };
            vec![Mistake::in_file(
                &file,
                format!("cannot be read: {error}{hint}"),
            )]
        })?;
        read::parse(&file, &bytes, node)
    }

    /// Reads configuration from memory; `file` is its name in mistakes.
    ///
    /// # Errors
    ///
    /// All mistakes together.
    pub fn parse(file: &str, bytes: &[u8], node: Option<&str>) -> Result<Self, Vec<Mistake>> {
        read::parse(&Arc::from(file), bytes, node)
    }

    /// The unix socket of the command line.
    pub fn socket(&self) -> PathBuf {
        self.run_folder.join("interceptor.sock")
    }

    /// The configuration in force, with every key, in the file's own words.
    pub fn to_json(&self) -> serde_json::Value {
        show::json(self)
    }

    /// The same as a file that could be read again.
    pub fn to_yaml(&self) -> String {
        show::yaml(&self.to_json())
    }
}

#[cfg(test)]
mod tests;
