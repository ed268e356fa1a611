//! The agents of the two nodes on which most is measured.

use anyhow::{Context as _, Result};

use super::side::Side;
use crate::agent::{Agent, Setup};
use crate::node::Node;

/// An agent on the first node, and perhaps one on the second, ready.
#[derive(Debug)]
pub(super) struct Agents {
    near: Agent,
    far: Option<Agent>,
}

impl Agents {
    /// Starts one, or `two`.
    pub(super) fn start([a, b]: &[Node; 2], setup: &Setup, two: bool) -> Result<Self> {
        let start = |node: &Node, side: Side| {
            side.enter()?;
            let cgroup = Some(side.cgroup()?);
            node.agent_unready(&Setup {
                cgroup,
                ..setup.clone()
            })
        };
        let mut near = start(a, Side::Near)?;
        let mut far = two.then(|| start(b, Side::Far)).transpose()?;
        near.wait_ready()?;
        if let Some(far) = &mut far {
            far.wait_ready()?;
        }
        Ok(Self { near, far })
    }

    fn all(&self) -> impl Iterator<Item = &Agent> {
        std::iter::once(&self.near).chain(&self.far)
    }

    /// Their ids, the first node's first.
    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        let id = |agent: &Agent| agent.process().context("an agent ended");
        self.all().map(id).collect()
    }

    /// Both; an error if there is one.
    pub(super) fn both(&self) -> Result<[&Agent; 2]> {
        let far = self.far.as_ref().context("two agents are wanted")?;
        Ok([&self.near, far])
    }

    /// Replaces the manifests of all.
    pub(super) fn write_mesh(&self, text: &str) -> Result<()> {
        self.all().try_for_each(|agent| agent.write_mesh(text))
    }
}
