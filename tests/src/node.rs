//! A simulated node: the network namespace that stands for a machine's own, with the agent in it
//! and pods behind it.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result};

use crate::agent::{Agent, Setup};
use crate::fabric::Shared;
use crate::netns::NetNs;
use crate::pod::{Pod, connect_in};

/// A node. Its namespace is removed when this value and its pods are dropped.
#[derive(Debug)]
pub struct Node {
    name: String,
    index: usize,
    namespace: Arc<NetNs>,
    shared: Arc<Shared>,
    switch: Arc<NetNs>,
    pods: AtomicU8,
}

impl Node {
    pub(crate) fn new(
        name: &str,
        index: usize,
        namespace: NetNs,
        shared: Arc<Shared>,
        switch: Arc<NetNs>,
    ) -> Self {
        let namespace = Arc::new(namespace);
        Self {
            name: name.to_owned(),
            index,
            namespace,
            shared,
            switch,
            pods: AtomicU8::new(0),
        }
    }

    /// Its name as the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name as manifests and agents call it: unique on this machine.
    pub fn mesh_name(&self) -> &str {
        self.namespace.name()
    }

    /// The namespace in which the agent runs.
    pub const fn namespace(&self) -> &Arc<NetNs> {
        &self.namespace
    }

    /// Its own address, IPv4.
    pub fn address(&self) -> IpAddr {
        let addresses = self.shared.node_addresses(self.index);
        addresses.map_or(IpAddr::from([0, 0, 0, 0]), |[v4, _]| v4)
    }

    /// Adds a pod with the next free addresses.
    ///
    /// # Errors
    ///
    /// Fails if its namespace or link cannot be made.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let third = u8::try_from(self.index)
            .unwrap_or(u8::MAX)
            .saturating_add(1);
        let fourth = self.pods.fetch_add(1, Ordering::Relaxed).saturating_add(10);
        let addresses = [
            self.shared.v4(third, fourth).into(),
            self.shared.v6(third, fourth).into(),
        ];
        self.pod_at(name, &addresses)
    }

    /// Adds a pod with these addresses.
    ///
    /// # Errors
    ///
    /// Fails if its namespace or link cannot be made.
    pub fn pod_at(&self, name: &str, addresses: &[IpAddr]) -> Result<Pod> {
        let namespace = NetNs::create(&format!("{}{name}", self.shared.prefix))?;
        self.link(&namespace, addresses)?;
        for address in addresses {
            self.shared.announce(*address, self.index)?;
        }
        Ok(Pod::new(
            name,
            addresses.to_vec(),
            namespace,
            self.mesh_name(),
        ))
    }

    /// Joins a pod's namespace to the node's by a routed veth.
    fn link(&self, pod: &NetNs, addresses: &[IpAddr]) -> Result<()> {
        let [v4, v6] = self
            .shared
            .node_addresses(self.index)
            .context("the node is not registered")?;
        let interface = format!("p{}", interface_number(pod.name()));
        let mut outside = format!(
            "link add {interface} type veth peer name eth0 netns {}\n\
             link set {interface} up\n\
             addr add 169.254.1.1/32 dev {interface}\n\
             addr add fe80::1/64 dev {interface} nodad\n",
            pod.name()
        );
        let mut inside = "link set eth0 up\nroute add 169.254.1.1 dev eth0\n".to_owned();
        for address in addresses {
            let (length, source, all, gateway) = match address {
                IpAddr::V4(_) => (32, v4, "0.0.0.0/0", "169.254.1.1"),
                IpAddr::V6(_) => (128, v6, "::/0", "fe80::1"),
            };
            writeln!(
                outside,
                "route add {address}/{length} dev {interface} src {source}"
            )?;
            writeln!(
                inside,
                "addr add {address}/{length} dev eth0{}",
                if length == 128 { " nodad" } else { "" }
            )?;
            writeln!(
                inside,
                "route replace {all} via {gateway} dev eth0 src {address}"
            )?;
        }
        self.namespace.ip(&outside)?;
        pod.ip(&inside)
    }

    /// Connects from the node itself, as a process of its own network would.
    ///
    /// # Errors
    ///
    /// Returns what that process would see.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        connect_in(&self.namespace, to)
    }

    /// Starts an agent on this node and waits until it is ready.
    ///
    /// # Errors
    ///
    /// Fails with the agent's own words if it does not become ready.
    pub fn agent(&self, setup: &Setup) -> Result<Agent> {
        let mut agent = Agent::start(self, setup)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts an agent on this node without waiting for it.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started.
    pub fn agent_unready(&self, setup: &Setup) -> Result<Agent> {
        Agent::start(self, setup)
    }

    /// Takes the node's cable out: packets to and from it vanish.
    ///
    /// # Errors
    ///
    /// Fails if the link is gone.
    pub fn unplug(&self) -> Result<()> {
        self.switch
            .ip(&format!("link set n{} nomaster\n", self.index))
    }

    /// Puts the cable back.
    ///
    /// # Errors
    ///
    /// Fails if the link is gone.
    pub fn plug(&self) -> Result<()> {
        self.switch
            .ip(&format!("link set n{} master br0\n", self.index))
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// A number that tells interfaces of one node apart: names of interfaces are at most 15 bytes.
fn interface_number(pod: &str) -> u32 {
    // FNV-1a: stable and short; a node has a handful of pods.
    pod.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
