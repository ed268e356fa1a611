//! One test's world: nodes on a switch, a folder, a shared certificate authority, and the numbers
//! from which every name and address is made.
//!
//! ```text
//!  node a  10.F.0.10 ─┐                  pods of node a: 10.F.1.10, 10.F.1.11, …
//!  node b  10.F.0.11 ─┴─ br0 (switch)    pods of node b: 10.F.2.10, …
//!                                        service addresses: 10.F.255.n
//! ```
//!
//! Every pod's address is routed by itself (`/32`, `/128`), as many cluster networks do it, so a
//! pod may have any address that a manifest gives it. IPv6 mirrors IPv4 below `fd00:F::`.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result};
use parking_lot::Mutex;

use crate::cgroup::{self, Membership};
use crate::netns::{self, NetNs};
use crate::node::Node;
use crate::sweep;
use crate::wire::Wire;

static NUMBER: AtomicU8 = AtomicU8::new(0);

/// Fabrics that can exist beside one another without sharing addresses.
const NUMBERS: u8 = 150;

/// A world of nodes and pods that is removed when this value is dropped.
#[derive(Debug)]
pub struct Fabric {
    // Field order is drop order: the network before the folder before the cgroup.
    switch: Arc<NetNs>,
    shared: Arc<Shared>,
    _folder: Folder,
    _membership: Option<Membership>,
}

/// What nodes and pods know of their fabric.
#[derive(Debug)]
pub struct Shared {
    /// Begins every name.
    pub(crate) prefix: String,
    /// The cgroup to which agents attach.
    pub(crate) cgroup: PathBuf,
    /// Configuration, certificates, logs.
    pub(crate) folder: PathBuf,
    number: u8,
    nodes: Mutex<Vec<Place>>,
    routes: Mutex<Vec<(IpAddr, usize)>>,
}

/// A node as the others see it.
#[derive(Debug)]
struct Place {
    namespace: String,
    addresses: [IpAddr; 2],
}

#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

impl Fabric {
    /// Makes a fabric for a test: names are unique, agents attach to this process' own cgroup.
    ///
    /// # Errors
    ///
    /// Fails if namespaces or the cgroup cannot be made.
    pub fn new() -> Result<Self> {
        sweep::once();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) % NUMBERS;
        let membership = Membership::enter()?;
        let name = format!("{}{}-{number}", sweep::PREFIX, process::id());
        let folder = std::env::temp_dir().join(&name);
        Self::make(
            format!("{name}-"),
            number,
            folder,
            cgroup::own()?,
            Some(membership),
        )
    }

    /// Makes a fabric for people: namespaces have the plain names that manifests give them, and
    /// agents attach to the machine's cgroup root so that commands from any shell take part.
    ///
    /// # Errors
    ///
    /// Fails if namespaces cannot be made, for example because the names are taken.
    pub fn plain(folder: &Path) -> Result<Self> {
        sweep::once();
        Self::make(
            String::new(),
            NUMBERS,
            folder.to_owned(),
            cgroup::root()?,
            None,
        )
    }

    fn make(
        prefix: String,
        number: u8,
        folder: PathBuf,
        cgroup: PathBuf,
        membership: Option<Membership>,
    ) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let switch = Arc::new(NetNs::create(&format!("{prefix}switch"))?);
        switch.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n")?;
        let shared = Shared {
            prefix,
            cgroup,
            folder: folder.clone(),
            number,
            nodes: Mutex::default(),
            routes: Mutex::default(),
        };
        Ok(Self {
            switch,
            shared: Arc::new(shared),
            _folder: Folder(folder),
            _membership: membership,
        })
    }

    /// Adds a node.
    ///
    /// # Errors
    ///
    /// Fails if its namespace or link cannot be made.
    pub fn node(&self, name: &str) -> Result<Node> {
        let namespace = NetNs::create(&format!("{}{name}", self.shared.prefix))?;
        let (index, addresses) = self.shared.register(namespace.name());
        let [v4, v6] = addresses;
        let port = format!("n{index}");
        netns::batch(
            Some(self.switch.name()),
            &format!(
                "link add {port} type veth peer name eth0 netns {}\n\
                 link set {port} master br0 up\n",
                namespace.name()
            ),
        )?;
        let mut commands = format!(
            "link set eth0 up\naddr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n"
        );
        self.shared.routes_for_new_node(&mut commands)?;
        namespace.ip(&commands)?;
        Ok(Node::new(
            name,
            index,
            namespace,
            Arc::clone(&self.shared),
            Arc::clone(&self.switch),
        ))
    }

    /// The `n`th Service address of this fabric, IPv4.
    pub fn vip(&self, n: u8) -> IpAddr {
        self.shared.v4(255, n).into()
    }

    /// The `n`th Service address of this fabric, IPv6.
    pub fn vip6(&self, n: u8) -> IpAddr {
        self.shared.v6(255, n).into()
    }

    /// An address that nobody has, routed to the switch and answered by nobody.
    pub fn nowhere(&self) -> IpAddr {
        self.shared.v4(0, 254).into()
    }

    /// Where configuration, certificates and logs of this fabric are.
    pub fn folder(&self) -> &Path {
        &self.shared.folder
    }

    /// Puts another authority in the place of the one that the agents of this fabric read: its key and
    /// its certificate, with whatever roots are trusted besides, as PEM. The key comes first, as an
    /// operator's copy would, so that the two do not fit for a moment.
    ///
    /// # Errors
    ///
    /// Fails if they cannot be written.
    pub fn replace_authority(&self, key: &str, certificates: &str) -> Result<()> {
        let folder = self.folder().join("ca");
        let (new_key, new_certificates) = (folder.join("new.key"), folder.join("new.crt"));
        fs::write(&new_key, key)?;
        fs::set_permissions(&new_key, fs::Permissions::from_mode(0o600))?;
        fs::write(&new_certificates, certificates)?;
        fs::rename(new_key, folder.join("ca.key"))?;
        fs::rename(new_certificates, folder.join("ca.crt"))?;
        Ok(())
    }

    /// Starts to record what passes between the nodes.
    ///
    /// # Errors
    ///
    /// Fails if the switch's namespace cannot be entered.
    pub fn wire(&self) -> Result<Wire> {
        Wire::start(&self.switch)
    }
}

impl Shared {
    fn register(&self, namespace: &str) -> (usize, [IpAddr; 2]) {
        let mut nodes = self.nodes.lock();
        let index = nodes.len();
        let host = u8::try_from(index).unwrap_or(u8::MAX).saturating_add(10);
        let addresses = [self.v4(0, host).into(), self.v6(0, host).into()];
        nodes.push(Place {
            namespace: namespace.to_owned(),
            addresses,
        });
        (index, addresses)
    }

    /// Makes a pod's address reachable from every node but its own.
    pub(crate) fn announce(&self, address: IpAddr, node: usize) -> Result<()> {
        self.routes.lock().push((address, node));
        let nodes = self.nodes.lock();
        for (index, place) in nodes.iter().enumerate() {
            if index != node
                && let Some(line) = route(address, nodes.get(node))
            {
                netns::batch(Some(&place.namespace), &line)?;
            }
        }
        Ok(())
    }

    fn routes_for_new_node(&self, commands: &mut String) -> Result<()> {
        let nodes = self.nodes.lock();
        for (address, node) in self.routes.lock().iter() {
            if let Some(line) = route(*address, nodes.get(*node)) {
                commands.write_str(&line)?;
            }
        }
        drop(nodes);
        Ok(())
    }

    /// A node's own addresses.
    pub(crate) fn node_addresses(&self, node: usize) -> Option<[IpAddr; 2]> {
        self.nodes.lock().get(node).map(|place| place.addresses)
    }

    pub(crate) const fn v4(&self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.number.saturating_add(64), third, fourth)
    }

    pub(crate) fn v6(&self, third: u8, fourth: u8) -> Ipv6Addr {
        let number = u16::from(self.number.saturating_add(64));
        Ipv6Addr::new(0xfd00, number, third.into(), 0, 0, 0, 0, fourth.into())
    }
}

fn route(address: IpAddr, node: Option<&Place>) -> Option<String> {
    let [v4, v6] = node?.addresses;
    Some(match address {
        IpAddr::V4(address) => format!("route replace {address}/32 via {v4} dev eth0\n"),
        IpAddr::V6(address) => format!("route replace {address}/128 via {v6} dev eth0\n"),
    })
}
