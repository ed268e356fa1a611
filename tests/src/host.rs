//! A workload in the host's network: a child process in the node's namespace and a cgroup of its
//! own, because a thread cannot leave its process' cgroup.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::cgroup;
use crate::manifests;
use crate::netns::NetNs;
use crate::node::Node;

/// A host-network workload; its cgroup is removed when this value is dropped.
#[derive(Debug)]
pub struct HostWorkload {
    name: String,
    node: String,
    addresses: Vec<std::net::IpAddr>,
    cgroup: PathBuf,
    namespace: Arc<NetNs>,
}

impl HostWorkload {
    /// Makes its cgroup.
    ///
    /// # Errors
    ///
    /// Fails if the cgroup cannot be made.
    pub fn new(node: &Node, name: &str) -> Result<Self> {
        let cgroup = cgroup::own()?.join(format!("{}-{name}", node.mesh_name()));
        fs::create_dir(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        Ok(Self {
            name: name.to_owned(),
            node: node.mesh_name().to_owned(),
            addresses: vec![node.address()],
            cgroup,
            namespace: Arc::clone(node.namespace()),
        })
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Removes its cgroup and makes another of the same name, as when a service is restarted.
    ///
    /// # Errors
    ///
    /// Fails if one of its processes is still running.
    pub fn replace_cgroup(&self) -> Result<()> {
        fs::remove_dir(&self.cgroup)?;
        Ok(fs::create_dir(&self.cgroup)?)
    }

    /// Its manifest: a pod in the host's network, bound to the cgroup.
    ///
    /// # Errors
    ///
    /// Fails if cgroup2 is not mounted.
    pub fn manifest(&self) -> Result<manifests::Pod> {
        let relative = self.cgroup.strip_prefix(cgroup::root()?)?;
        let path = relative.to_str().context("the cgroup's path is not text")?;
        Ok(manifests::Pod::new(&self.name, &self.node, &self.addresses).host_network(path))
    }

    /// Runs `program ADDRESS MESSAGE` as this workload; it waits for a line before it connects.
    ///
    /// # Errors
    ///
    /// Fails if the process cannot be started or moved into the cgroup.
    pub fn run(&self, program: &Path, to: SocketAddr, message: &str) -> Result<Output> {
        let mut command = Command::new(program);
        command
            .args([&to.to_string(), message])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.namespace.run(move || command.spawn())??;
        cgroup::join(&self.cgroup, child.id())?;
        child.stdin.take().context("no pipe")?.write_all(b"go\n")?;
        Ok(child.wait_with_output()?)
    }
}

impl Drop for HostWorkload {
    fn drop(&mut self) {
        cgroup::remove(&self.cgroup);
    }
}
