//! Destinations outside of the mesh that somebody has allowed: what `ServiceEntry` objects say.
//!
//! A node decides by address. An entry therefore counts for the addresses that it names: its own
//! (also ranges), and those of its endpoints. Names that only DNS could turn into addresses are
//! nothing that an address can be compared with; such an entry allows nothing by name, and says so
//! when it is loaded.
//!
//! Not here: what becomes of a connection to one (`decide`), how one is written (`objects`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;

use super::{ServiceName, Workload};

/// A `ServiceEntry`: hosts, addresses and ports outside of the mesh, or beside its Services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct External {
    /// Its names; the host is the first of `hosts`.
    pub name: ServiceName,
    /// Its hosts, as written.
    pub hosts: Vec<Arc<str>>,
    /// Its own addresses.
    pub addresses: Vec<IpNet>,
    /// Its TCP ports.
    pub ports: Vec<ExternalPort>,
    /// Whether its endpoints belong to the mesh.
    pub location: Location,
    /// How an address of it leads to an endpoint.
    pub resolution: Resolution,
    /// Where it leads.
    pub endpoints: Vec<ExternalEndpoint>,
    /// The namespaces that may use it; `None` means all.
    pub visible_to: Option<BTreeSet<Arc<str>>>,
}

/// Whether the endpoints of a `ServiceEntry` belong to the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// They do not.
    #[default]
    MeshExternal,
    /// They do.
    MeshInternal,
}

/// How an address of a `ServiceEntry` leads to an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// The address is the destination.
    #[default]
    None,
    /// To one of the endpoints that are listed or selected.
    Static,
    /// Through DNS, which this agent does not ask: the address that the client dialled is the
    /// destination.
    Dns,
}

/// One port of an [`External`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExternalPort {
    /// The port's name, if it has one.
    pub name: Option<String>,
    /// The port at the entry's addresses.
    pub port: u16,
    /// Its protocol, as written.
    pub protocol: Option<String>,
}

/// One endpoint of an [`External`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExternalEndpoint {
    /// Its address.
    pub address: IpAddr,
    /// Port of the entry to port of this endpoint.
    pub target_ports: BTreeMap<u16, u16>,
    /// Its share of the connections relative to the others', at least 1.
    pub weight: u32,
    /// The workload that was selected, if it was not listed by address.
    pub workload: Option<Arc<Workload>>,
}

/// What is known of an address and port outside of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered<'m> {
    /// An entry has the address and the port.
    Entry(&'m Arc<External>),
    /// An endpoint of this entry has the address and the port.
    Endpoint(&'m Arc<External>),
    /// This entry has the address, but not the port.
    OtherPort(&'m Arc<External>),
    /// No entry has the address.
    Nothing,
}

impl External {
    /// Whether workloads of a namespace may use it.
    pub fn is_visible_to(&self, namespace: &str) -> bool {
        (self.visible_to.as_ref()).is_none_or(|namespaces| namespaces.contains(namespace))
    }

    fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|known| known.port == port)
    }

    fn has_endpoint(&self, to: SocketAddr) -> bool {
        self.endpoints.iter().any(|endpoint| {
            endpoint.address == to.ip()
                && endpoint
                    .target_ports
                    .values()
                    .any(|port| *port == to.port())
        })
    }
}

/// All entries, by address.
#[derive(Debug, Default)]
pub(super) struct Externals {
    /// The older first.
    list: Vec<Arc<External>>,
    networks: HashMap<IpNet, Vec<usize>>,
    /// The prefix lengths that occur in `networks`.
    lengths: BTreeSet<u8>,
}

impl Externals {
    pub(super) fn new(list: Vec<External>) -> Self {
        let mut externals = Self {
            list: list.into_iter().map(Arc::new).collect(),
            ..Self::default()
        };
        for (index, external) in externals.list.iter().enumerate() {
            let endpoints = external.endpoints.iter().map(|endpoint| endpoint.address);
            let own = external.addresses.iter().copied();
            for network in own.chain(endpoints.map(IpNet::from)) {
                externals.lengths.insert(network.prefix_len());
                let entries = externals.networks.entry(network).or_default();
                if entries.last() != Some(&index) {
                    entries.push(index);
                }
            }
        }
        externals
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<External>> {
        self.list.iter()
    }

    /// What a workload of `namespace` may know of an address and port: of the longest prefix that
    /// has both, its own namespace's entries before others', the older before the younger.
    pub(super) fn at(&self, namespace: &str, to: SocketAddr) -> Registered<'_> {
        let mut other = Registered::Nothing;
        for length in self.lengths.iter().rev() {
            let Ok(network) = IpNet::new(to.ip(), *length) else {
                continue;
            };
            let found = self.networks.get(&network.trunc()).into_iter().flatten();
            let visible = found
                .filter_map(|index| self.list.get(*index))
                .filter(|external| external.is_visible_to(namespace));
            let mut entries: Vec<&Arc<External>> = visible.collect();
            entries.sort_by_key(|external| *external.name.namespace != *namespace);
            for external in entries {
                let own = external
                    .addresses
                    .iter()
                    .any(|range| range.contains(&to.ip()));
                if own && external.has_port(to.port()) {
                    return Registered::Entry(external);
                }
                if external.has_endpoint(to) {
                    return Registered::Endpoint(external);
                }
                if other == Registered::Nothing {
                    other = Registered::OtherPort(external);
                }
            }
        }
        other
    }
}
