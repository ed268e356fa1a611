//! The agent's listeners inside of a workload.
//!
//! They are on loopback, where nothing outside of the namespace reaches them; `sk_lookup` hands
//! them connections to whatever address and port. A host-network workload has outbound listeners
//! only, on ports that the kernel picks: the namespace is shared, and nobody needs to know them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use interceptor_common::{FAMILY_IPV4, FAMILY_IPV6, ListenerKey, Role};
use tokio::net::TcpListener;

use super::config::Ports;
use super::error::EnrolError;
use crate::net::{Namespace, listen};
use crate::workload::WorkloadId;

/// The listeners of one workload, by what they take. One for each family that its namespace has.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Captured outbound connections.
    pub outbound: Vec<TcpListener>,
    /// Plaintext connections to the workload.
    pub inbound: Vec<TcpListener>,
    /// HBONE to the workload.
    pub hbone: Vec<TcpListener>,
}

/// Listeners that are open but not yet anybody's.
pub(super) struct Opened(Vec<(Role, IpAddr, std::net::TcpListener)>);

impl Opened {
    /// Opens the listeners of `id` in `namespace`.
    pub(super) fn new(
        id: &WorkloadId,
        namespace: &Namespace,
        ports: &[(Role, u16)],
    ) -> Result<Self, EnrolError> {
        let mut opened = Vec::new();
        for &(role, port) in ports {
            for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
                let address = SocketAddr::new(ip, port);
                match namespace.enter(|| listen(address)) {
                    Ok(listener) => opened.push((role, ip, listener)),
                    // Without IPv6 in the namespace there are no IPv6 connections either.
                    Err(error) if ip.is_ipv6() && has_no_such_address(&error) => {}
                    Err(error) => return Err(failed(id, address, error)),
                }
            }
        }
        Ok(Self(opened))
    }

    /// Each listener with the key under which the kernel finds it.
    pub(super) fn keyed(
        &self,
        workload: u64,
    ) -> impl Iterator<Item = (ListenerKey, &std::net::TcpListener)> {
        self.0.iter().map(move |(role, ip, listener)| {
            let family = if ip.is_ipv4() {
                FAMILY_IPV4
            } else {
                FAMILY_IPV6
            };
            (key(workload, *role, family), listener)
        })
    }

    /// Registers them with the current runtime.
    pub(super) fn into_listeners(self) -> io::Result<Listeners> {
        let mut listeners = Listeners::default();
        for (role, _, listener) in self.0 {
            let listener = TcpListener::from_std(listener)?;
            match role {
                Role::Outbound => listeners.outbound.push(listener),
                Role::Inbound => listeners.inbound.push(listener),
                Role::Hbone => listeners.hbone.push(listener),
            }
        }
        Ok(listeners)
    }
}

/// The roles and ports of a workload with a namespace of its own.
pub(super) const fn ports_of_a_namespace(ports: Ports) -> [(Role, u16); 3] {
    [
        (Role::Outbound, ports.outbound),
        (Role::Inbound, ports.inbound),
        (Role::Hbone, ports.hbone),
    ]
}

/// The roles and ports of a host-network workload.
pub(super) const PORTS_ON_THE_HOST: [(Role, u16); 1] = [(Role::Outbound, 0)];

/// Every key under which a listener of `workload` may be found.
pub(super) fn all_keys(workload: u64) -> impl Iterator<Item = ListenerKey> {
    Role::ALL.into_iter().flat_map(move |role| {
        [FAMILY_IPV4, FAMILY_IPV6]
            .into_iter()
            .map(move |family| key(workload, role, family))
    })
}

/// The key of one listener.
fn key(workload: u64, role: Role, family: u8) -> ListenerKey {
    ListenerKey {
        workload,
        role: role.code(),
        family: u32::from(family),
    }
}

/// Whether binding failed because the namespace has no such address.
fn has_no_such_address(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
    )
}

/// What an operator does about a listener that did not open.
fn failed(id: &WorkloadId, address: SocketAddr, error: io::Error) -> EnrolError {
    let id = id.clone();
    match error.kind() {
        io::ErrorKind::AddrInUse => EnrolError::PortTaken { id, address },
        io::ErrorKind::AddrNotAvailable => EnrolError::LoopbackDown { id },
        _ => EnrolError::Step {
            id,
            step: "open the listeners",
            source: error.into(),
        },
    }
}
