//! What the demonstration is played on: the nodes, pods and agents, with the names and addresses
//! that `deploy/examples/` gives them.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process;

use anyhow::{Context as _, Result, bail};

use super::show::Show;
use crate::agent::{Agent, Setup};
use crate::apps::{self, Server};
use crate::fabric::Fabric;
use crate::node::Node;
use crate::pod::Pod;
use crate::wire::Wire;
use crate::{netns, settings, sweep};

/// Everything of the demonstration on disk.
const FOLDER: &str = "/run/interceptor-demo";
const NODES: [&str; 2] = ["one", "two"];
const NAMESPACES: [&str; 7] = [
    "switch", "one", "two", "caller", "intruder", "server", "outside",
];

const CALLER: [&str; 2] = ["10.244.1.10", "fd00:10:244:1::10"];
const INTRUDER: [&str; 2] = ["10.244.1.11", "fd00:10:244:1::11"];
const SERVER: [&str; 2] = ["10.244.2.10", "fd00:10:244:2::10"];
const SERVICE: &str = "10.96.0.80";

/// Port of the Service that the caller may call.
pub(super) const ECHO: u16 = 80;
/// Port of the Service that a DENY policy protects.
pub(super) const ADMIN: u16 = 81;
/// The container's port behind [`ECHO`].
pub(super) const ECHO_TARGET: u16 = 9090;
const ADMIN_TARGET: u16 = 9191;

/// The stage.
#[derive(Debug)]
pub(super) struct Stage {
    // Field order is drop order.
    pub(super) echo: Server,
    _admin: Server,
    pub(super) wire: Wire,
    /// The agent of node one.
    pub(super) near: Agent,
    /// The agent of node two.
    pub(super) far: Agent,
    pub(super) caller: Pod,
    pub(super) intruder: Pod,
    pub(super) server: Pod,
    /// In no mesh: it stands for any machine of the network.
    pub(super) outside: Node,
    _nodes: [Node; 2],
    _fabric: Fabric,
}

impl Stage {
    pub(super) fn build(show: &Show) -> Result<Self> {
        let folder = Path::new(FOLDER);
        let manifests = folder.join("manifests");
        copy_examples(&manifests)?;

        let fabric = Fabric::plain(folder)?;
        let [one, two] = NODES;
        let (one, two, outside) = (
            fabric.node(one)?,
            fabric.node(two)?,
            fabric.node("outside")?,
        );
        let caller = one.pod_at("caller", &parse(CALLER)?)?;
        let intruder = one.pod_at("intruder", &parse(INTRUDER)?)?;
        let server = two.pod_at("server", &parse(SERVER)?)?;
        let setup = Setup {
            manifests_folder: Some(manifests),
            ..Setup::default()
        };
        let (mut near, mut far) = (one.agent_unready(&setup)?, two.agent_unready(&setup)?);
        near.wait_ready()?;
        far.wait_ready()?;
        let echo = server.serve(ECHO_TARGET, apps::echo)?;
        let admin = server.serve(ADMIN_TARGET, apps::echo)?;
        let wire = fabric.wire()?;
        show.quote(PICTURE)?;
        Ok(Self {
            echo,
            _admin: admin,
            wire,
            near,
            far,
            caller,
            intruder,
            server,
            outside,
            _nodes: [one, two],
            _fabric: fabric,
        })
    }

    /// The file with the policies, for people to edit.
    pub(super) fn policies(&self) -> PathBuf {
        self.near.manifests().join("policies.yaml")
    }

    /// Removes everything, and proves it.
    pub(super) fn strike(mut self, show: &mut Show) -> Result<()> {
        show.scene("Gone")?;
        let stopped = [self.near.stop(), self.far.stop()];
        let uninstalled = [self.near.uninstall(), self.far.uninstall()];
        drop(self);
        for stopped in stopped {
            stopped.context("stop the agents")?;
        }
        for output in uninstalled {
            let output = output?;
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            let outcome = if output.status.success() {
                Ok(())
            } else {
                Err(anyhow::anyhow!(
                    "{said}{}",
                    String::from_utf8_lossy(&output.stderr)
                ))
            };
            show.claim(
                &format!("interceptor uninstall --verify: {}", first_line(&said)),
                outcome,
            )?;
        }
        let left = leftovers();
        let outcome = if left.is_empty() {
            Ok(())
        } else {
            Err(anyhow::anyhow!("{}", left.join(", ")))
        };
        show.claim("no namespace, program or folder is left", outcome)
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// A port of the Service `server`.
pub(super) fn service(port: u16) -> Result<SocketAddr> {
    let address: IpAddr = SERVICE.parse()?;
    Ok((address, port).into())
}

/// What the demonstration must not leave. The lock's own folder goes last and is not looked for.
fn leftovers() -> Vec<String> {
    let pins = NODES.map(|node| Path::new(sweep::PINS).join(node));
    let namespaces = NAMESPACES.map(|name| Path::new(netns::FOLDER).join(name));
    let paths = pins.into_iter().chain(namespaces);
    paths
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect()
}

fn parse(addresses: [&str; 2]) -> Result<Vec<IpAddr>> {
    addresses
        .iter()
        .map(|address| Ok(address.parse()?))
        .collect()
}

/// A copy, so that people may edit policies without editing the repository.
fn copy_examples(to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let from = settings::repository().join("deploy/examples");
    for entry in fs::read_dir(&from).with_context(|| format!("read {}", from.display()))? {
        let path = entry?.path();
        if let Some(name) = path.file_name()
            && path.extension().is_some_and(|it| it == "yaml")
        {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// One demonstration per machine: its names are the manifests' and not made up. Removes what a
/// killed one left.
#[derive(Debug)]
pub(super) struct Lock;

impl Lock {
    pub(super) fn take() -> Result<Self> {
        let file = Path::new(FOLDER).join("pid");
        if let Ok(text) = fs::read_to_string(&file) {
            let pid = text.trim();
            if pid.parse::<u32>().is_ok() && Path::new("/proc").join(pid).exists() {
                bail!("a demonstration is running already: process {pid}");
            }
            sweep::once();
            netns::remove(&NAMESPACES);
            for node in NODES {
                drop(fs::remove_dir_all(Path::new(sweep::PINS).join(node)));
            }
            fs::remove_dir_all(FOLDER)?;
        }
        let left = leftovers();
        if !left.is_empty() {
            bail!(
                "the demonstration needs these names, which are taken: {}",
                left.join(", ")
            );
        }
        fs::create_dir_all(FOLDER)?;
        fs::write(file, process::id().to_string())?;
        Ok(Self)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(FOLDER));
    }
}

const PICTURE: &str = "\
node one                        node two
├ agent ─────── mTLS ─────────── agent ┤
├ caller     10.244.1.10               │
└ intruder   10.244.1.11    10.244.2.10  server ┘
outside: a machine of the same network, not in the mesh";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_has_the_addresses_and_names_of_the_example_manifests() {
        let folder = settings::repository().join("deploy/examples");
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
        let workloads = read("workloads.yaml");
        for address in [CALLER, INTRUDER, SERVER].concat() {
            assert!(workloads.contains(&format!("ip: {address}\n")), "{address}");
        }
        for node in NODES {
            assert!(workloads.contains(&format!("nodeName: {node}\n")), "{node}");
        }
        for port in [ECHO_TARGET, ADMIN_TARGET] {
            assert!(
                workloads.contains(&format!("containerPort: {port}\n")),
                "{port}"
            );
        }
        let service = read("service.yaml");
        assert!(service.contains(&format!("clusterIP: {SERVICE}\n")));
        for port in [ECHO, ADMIN] {
            assert!(service.contains(&format!("port: {port}\n")), "{port}");
        }
    }
}
