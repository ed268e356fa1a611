//! The world of most tests: two nodes with an agent each, a caller on the one and a server on the
//! other, both enrolled.

use anyhow::{Context as _, Result};

use crate::access::Line;
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

/// The manifests of a world, for a test to alter.
pub struct Objects {
    /// The namespace of everything.
    pub namespace: Namespace,
    /// The caller's pod.
    pub caller: manifests::Pod,
    /// The server's pod.
    pub server: manifests::Pod,
    more: Vec<Box<dyn Manifest>>,
}

impl Objects {
    fn new(caller: &Pod, server: &Pod) -> Self {
        Self {
            namespace: Namespace::enrolled(manifests::NAMESPACE),
            caller: caller.manifest(),
            server: server.manifest(),
            more: Vec::new(),
        }
    }

    /// Adds an object.
    pub fn add(&mut self, manifest: impl Manifest + 'static) {
        self.more.push(Box::new(manifest));
    }

    /// All of them as YAML, and these.
    fn yaml(&self, besides: &[&dyn Manifest]) -> String {
        let mut all: Vec<&dyn Manifest> = vec![&self.namespace, &self.caller, &self.server];
        all.extend(self.more.iter().map(|it| &**it));
        all.extend_from_slice(besides);
        manifests::yaml(&all)
    }
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
        Objects::new(&self.caller, &self.server).yaml(more)
    }

    /// The usual manifests as altered.
    pub fn manifests_as(&self, alter: impl FnOnce(&mut Objects)) -> String {
        let mut objects = Objects::new(&self.caller, &self.server);
        alter(&mut objects);
        objects.yaml(&[])
    }

    /// Starts both agents with the usual manifests as altered.
    ///
    /// # Errors
    ///
    /// Fails if one does not become ready.
    pub fn start_with(self, alter: impl FnOnce(&mut Objects)) -> Result<World> {
        let manifests = self.manifests_as(alter);
        self.start(&Setup {
            manifests,
            ..Setup::default()
        })
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
        let (mut near, mut far) = (a.agent_unready(near)?, b.agent_unready(far)?);
        near.wait_ready()?;
        far.wait_ready()?;
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

    /// Waits for the caller's line that is wanted, then for the server's line of the same
    /// connection: outbound and inbound.
    ///
    /// # Errors
    ///
    /// Fails with the log of the end whose line is missing.
    pub fn lines(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Result<(Line, Line)> {
        let near = self
            .near
            .access_line(what, |line| line.is_outbound() && wanted(line))?;
        let id = near.conn_id.clone().context("a line without conn_id")?;
        let far = self
            .far
            .access_line(&format!("the other end of {what}"), |line| {
                !line.is_outbound() && line.conn_id.as_deref() == Some(id.as_str())
            })?;
        Ok((near, far))
    }

    /// Replaces both agents' manifests by the usual ones and these.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be written.
    pub fn apply(&self, more: &[&dyn Manifest]) -> Result<()> {
        self.write(&Objects::new(&self.caller, &self.server).yaml(more))
    }

    /// Replaces both agents' manifests by the usual ones as altered.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be written.
    pub fn change(&self, alter: impl FnOnce(&mut Objects)) -> Result<()> {
        self.write(&self.manifests(alter))
    }

    /// The usual manifests as altered.
    pub fn manifests(&self, alter: impl FnOnce(&mut Objects)) -> String {
        let mut objects = Objects::new(&self.caller, &self.server);
        alter(&mut objects);
        objects.yaml(&[])
    }

    fn write(&self, manifests: &str) -> Result<()> {
        self.near.write_mesh(manifests)?;
        self.far.write_mesh(manifests)
    }
}
