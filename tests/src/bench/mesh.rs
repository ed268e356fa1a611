//! Large meshes: what loading one takes, and agents that have one while something is measured.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::figure::Figure;
use super::processes::{peak_mib, resident_mib};
use crate::agent::{Agent, Setup};
use crate::manifests::large::{LargeMesh, NODES};
use crate::manifests::{self, Manifest, NAMESPACE, Namespace};
use crate::node::Node;
use crate::pod::Pod;
use crate::wait;

/// Objects of one file: what one export of a namespace may hold.
const PER_FILE: usize = 100;

/// Pods of the node on which a mesh is loaded.
const OWN: usize = 10;

/// A node on which agents come and go, with a few pods of its own: a node without any would have
/// nobody to enrol.
#[derive(Debug)]
pub(super) struct Spare {
    // Field order is drop order.
    pods: Vec<Pod>,
    node: Node,
}

impl Spare {
    /// Adds the pods.
    pub(super) fn new(node: Node) -> Result<Self> {
        let pods = (0..OWN).map(|number| node.pod(&format!("own-{number}")));
        Ok(Self {
            pods: pods.collect::<Result<_>>()?,
            node,
        })
    }

    fn manifests(&self) -> String {
        let namespace = Namespace::enrolled(NAMESPACE);
        let pods: Vec<manifests::Pod> = self.pods.iter().map(Pod::manifest).collect();
        let mut all: Vec<&dyn Manifest> = vec![&namespace];
        all.extend(pods.iter().map(|it| -> &dyn Manifest { it }));
        manifests::yaml(&all)
    }
}

/// What a fresh agent takes to load that mesh, and how much memory it has then and had at most; the
/// figures are called by `kind` and `count`.
pub(super) fn load(
    spare: &Spare,
    folder: &Path,
    mesh: LargeMesh,
    (kind, count): (&str, usize),
) -> Result<Vec<Figure>> {
    let manifests = folder.join("large");
    mesh.write(&manifests, PER_FILE)?;
    fs::write(manifests.join("own.yaml"), spare.manifests())?;
    let setup = Setup {
        manifests_folder: Some(manifests.clone()),
        ..Setup::default()
    };
    let agent = spare.node.agent(&setup)?;
    let took = wait::until("the mesh to be loaded", || {
        took_ms(&agent.log(), mesh.workloads + OWN)
    })?;
    let ids = [agent.process().context("the agent ended")?];
    let [memory, peak] = [resident_mib(&ids)?, peak_mib(&ids)?];
    // The next agent of this node would go on with it.
    fs::remove_file(agent.config().with_file_name("log"))?;
    drop(agent);
    fs::remove_dir_all(manifests)?;
    Ok(vec![
        Figure::new(format!("{kind}_load_ms_{count}"), "ms", took),
        Figure::new(format!("{kind}_rss_mb_{count}"), "MiB", memory),
        Figure::new(format!("{kind}_peak_mb_{count}"), "MiB", peak),
    ])
}

/// Agents with a large mesh besides their own.
pub(super) struct Loaded<'a> {
    agents: &'a [&'a Agent],
    mesh: LargeMesh,
    before: Vec<usize>,
}

impl<'a> Loaded<'a> {
    /// Adds that many workloads to what these agents know.
    pub(super) fn into(agents: &'a [&'a Agent], workloads: usize) -> Result<Self> {
        let mesh = LargeMesh {
            workloads,
            nodes: NODES,
        };
        let before = agents.iter().map(|agent| known(agent));
        let before = before.collect::<Result<Vec<_>>>()?;
        let loaded = Self {
            agents,
            mesh,
            before,
        };
        for agent in agents {
            mesh.write(agent.manifests(), PER_FILE)?;
        }
        loaded.wait_for(workloads)?;
        Ok(loaded)
    }

    /// Takes them away again.
    pub(super) fn remove(self) -> Result<()> {
        for agent in self.agents {
            self.mesh.remove(agent.manifests(), PER_FILE)?;
        }
        self.wait_for(0)
    }

    fn wait_for(&self, workloads: usize) -> Result<()> {
        for (agent, before) in self.agents.iter().zip(&self.before) {
            wait::so("the agents to know the mesh", || {
                known(agent).is_ok_and(|known| known == before + workloads)
            })?;
        }
        Ok(())
    }
}

/// How many workloads an agent has loaded last, by its own log.
fn known(agent: &Agent) -> Result<usize> {
    let log = agent.log();
    let loaded = log.lines().rfind(|line| line.contains(LOADED));
    let number = loaded.and_then(|line| field(line, "workloads="));
    let number = number.context("the agent has loaded nothing")?;
    Ok(number.parse()?)
}

const LOADED: &str = "configuration loaded";

/// Milliseconds that loading so many workloads took, by the agent's own log.
fn took_ms(log: &str, workloads: usize) -> Option<f64> {
    let all = format!("workloads={workloads} ");
    let line = log
        .lines()
        .find(|line| line.contains(LOADED) && line.contains(&all))?;
    took_by(line)
}

/// How often an agent has loaded something, by its own log.
pub(super) fn loads(agent: &Agent) -> usize {
    agent.log().matches(LOADED).count()
}

/// Milliseconds that the last change took an agent.
pub(super) fn took_last(agent: &Agent) -> Option<f64> {
    let log = agent.log();
    took_by(log.lines().rfind(|line| line.contains(LOADED))?)
}

fn took_by(line: &str) -> Option<f64> {
    let took = field(line, "took=")?;
    let units = [("ms", 1.0), ("µs", 1e-3), ("ns", 1e-6), ("s", 1e3)];
    units.iter().find_map(|(unit, factor)| {
        let number: f64 = took.strip_suffix(unit)?.parse().ok()?;
        Some(number * factor)
    })
}

fn field<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let (_, rest) = line.split_once(key)?;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::took_ms;

    #[test]
    fn the_agents_log_says_how_long_loading_took() {
        let log = "INFO configuration loaded version=1 files=1 workloads=7 services=2 took=1.5s\n\
                   INFO configuration loaded version=2 files=1 workloads=70 services=2 took=2.5ms";
        assert_eq!(took_ms(log, 7), Some(1500.0));
        assert_eq!(took_ms(log, 70), Some(2.5));
        assert_eq!(took_ms(log, 700), None);
    }
}
