//! The world of most tests: two nodes with an agent each, a caller on the one and a server on the
//! other, both enrolled.

use anyhow::Result;

use crate::agent::{Agent, Setup};
use crate::fabric::Fabric;
use crate::manifests::{self, Manifest, Namespace};
use crate::node::Node;
use crate::pod::Pod;
use crate::settings;

/// Two nodes, two agents, two pods.
#[derive(Debug)]
pub struct World {
    // Field order is drop order: agents before what they run in.
    /// The caller's agent.
    pub near: Agent,
    /// The server's agent.
    pub far: Agent,
    /// On node `a`.
    pub caller: Pod,
    /// On node `b`.
    pub server: Pod,
    /// The caller's node.
    pub a: Node,
    /// The server's node.
    pub b: Node,
    /// The network below.
    pub fabric: Fabric,
}

/// The nodes and pods of a [`World`] before its agents start, for tests that set these up.
#[derive(Debug)]
pub struct Ground {
    /// On node `a`.
    pub caller: Pod,
    /// On node `b`.
    pub server: Pod,
    /// The caller's node.
    pub a: Node,
    /// The server's node.
    pub b: Node,
    /// The network below.
    pub fabric: Fabric,
}

impl Ground {
    /// Makes the nodes and pods, or nothing where this machine does not allow it.
    ///
    /// # Errors
    ///
    /// Fails if they cannot be made, or if a privilege is missing that was required.
    pub fn new() -> Result<Option<Self>> {
        if !settings::may_run()? {
            return Ok(None);
        }
        let fabric = Fabric::new()?;
        let (a, b) = (fabric.node("a")?, fabric.node("b")?);
        let (caller, server) = (a.pod("caller")?, b.pod("server")?);
        Ok(Some(Self {
            caller,
            server,
            a,
            b,
            fabric,
        }))
    }

    /// The manifests of both pods in an enrolled namespace, and these.
    pub fn manifests(&self, more: &[&dyn Manifest]) -> String {
        let (namespace, caller, server) = self.basics();
        let mut all: Vec<&dyn Manifest> = vec![&namespace, &caller, &server];
        all.extend_from_slice(more);
        manifests::yaml(&all)
    }

    fn basics(&self) -> (Namespace, manifests::Pod, manifests::Pod) {
        (
            Namespace::enrolled(manifests::NAMESPACE),
            self.caller.manifest(),
            self.server.manifest(),
        )
    }

    /// Starts both agents with the same setup.
    ///
    /// # Errors
    ///
    /// Fails if one does not become ready.
    pub fn start(self, setup: &Setup) -> Result<World> {
        self.start_each(setup, setup)
    }

    /// Starts both agents.
    ///
    /// # Errors
    ///
    /// Fails if one does not become ready.
    pub fn start_each(self, near: &Setup, far: &Setup) -> Result<World> {
        let Self {
            caller,
            server,
            a,
            b,
            fabric,
        } = self;
        let (near, far) = (a.agent(near)?, b.agent(far)?);
        Ok(World {
            near,
            far,
            caller,
            server,
            a,
            b,
            fabric,
        })
    }
}

impl World {
    /// Makes the world with these manifests besides the two pods', or nothing where this machine
    /// does not allow it.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be made, or if a privilege is missing that was required.
    pub fn with(more: &[&dyn Manifest]) -> Result<Option<Self>> {
        let Some(ground) = Ground::new()? else {
            return Ok(None);
        };
        let setup = Setup {
            manifests: ground.manifests(more),
            ..Setup::default()
        };
        ground.start(&setup).map(Some)
    }

    /// Replaces both agents' manifests by the two pods' and these.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be written.
    pub fn apply(&self, more: &[&dyn Manifest]) -> Result<()> {
        let namespace = Namespace::enrolled(manifests::NAMESPACE);
        let (caller, server) = (self.caller.manifest(), self.server.manifest());
        let mut all: Vec<&dyn Manifest> = vec![&namespace, &caller, &server];
        all.extend_from_slice(more);
        self.near.apply(&all)?;
        self.far.apply(&all)
    }
}
