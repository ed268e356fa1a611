//! The agent's listeners inside of a workload.
//!
//! They are on loopback, where nothing outside of the namespace reaches them; `sk_lookup` hands
//! them connections to whatever address and port. A host-network workload has outbound listeners
//! only, on ports that the kernel picks: the namespace is shared, and nobody needs to know them.
//!
//! Their numbers are for people: a port that is taken in the workload is no reason to let it go.
//!
//! Whoever accepts owns them. An enrolment only knows them, so that a listener closes when nobody
//! accepts on it any longer, and a client is refused instead of kept waiting.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, Weak};

use interceptor_common::{FAMILY_IPV4, FAMILY_IPV6, ListenerKey, Role};
use tokio::net::TcpListener;

use super::config::Ports;
use super::error::EnrolError;
use super::heritage::Inherited;
use crate::net::{Namespace, listen};
use crate::workload::WorkloadId;

/// The listeners of one workload, by what they take. One for each family that its namespace has.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Captured outbound connections.
    pub outbound: Vec<Arc<TcpListener>>,
    /// Plaintext connections to the workload.
    pub inbound: Vec<Arc<TcpListener>>,
    /// HBONE to the workload.
    pub hbone: Vec<Arc<TcpListener>>,
}

/// Listeners that are open but not yet anybody's.
pub(super) struct Opened(Vec<(ListenerKey, std::net::TcpListener)>);

/// The listeners of an enrolled workload, as long as somebody accepts on them.
#[derive(Debug, Default)]
pub(super) struct Known(Vec<(ListenerKey, Weak<TcpListener>)>);

impl Opened {
    /// Opens the listeners of the workload with this `key` in `namespace`, or takes those that an
    /// earlier agent has handed over.
    pub(super) fn new(
        (id, key): (&WorkloadId, u64),
        namespace: &Namespace,
        ports: &[(Role, u16)],
        inherited: &mut Inherited,
    ) -> Result<Self, EnrolError> {
        let mut opened = Vec::new();
        for &(role, port) in ports {
            for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
                let (address, key) = (SocketAddr::new(ip, port), listener_key(key, role, ip));
                if let Some(listener) = inherited.take(key, address) {
                    opened.push((key, listener));
                    continue;
                }
                match namespace.enter(|| listen_near(id, address)) {
                    Ok(listener) => opened.push((key, listener)),
                    // Without IPv6 in the namespace there are no IPv6 connections either.
                    Err(error) if ip.is_ipv6() && has_no_such_address(&error) => {}
                    Err(error) => return Err(failed(id, address, error)),
                }
            }
        }
        Ok(Self(opened))
    }

    /// Each listener with the key under which the kernel finds it.
    pub(super) fn keyed(&self) -> Vec<(ListenerKey, BorrowedFd<'_>)> {
        self.0.iter().map(|(key, it)| (*key, it.as_fd())).collect()
    }

    /// Registers them with the current runtime.
    pub(super) fn into_listeners(self) -> io::Result<(Listeners, Known)> {
        let (mut listeners, mut known) = (Listeners::default(), Known::default());
        for (key, listener) in self.0 {
            let listener = Arc::new(TcpListener::from_std(listener)?);
            known.0.push((key, Arc::downgrade(&listener)));
            let role = Role::ALL.into_iter().find(|role| role.code() == key.role);
            match role {
                Some(Role::Outbound) => listeners.outbound.push(listener),
                Some(Role::Inbound) => listeners.inbound.push(listener),
                Some(Role::Hbone) => listeners.hbone.push(listener),
                None => {}
            }
        }
        Ok((listeners, known))
    }
}

impl Known {
    /// Those on which somebody accepts.
    pub(super) fn open(&self) -> Vec<(ListenerKey, Arc<TcpListener>)> {
        let open = |(key, it): &(ListenerKey, Weak<_>)| Some((*key, it.upgrade()?));
        self.0.iter().filter_map(open).collect()
    }
}

/// Listens at this address, or at another port of it if somebody of the workload has this one: the
/// kernel finds a listener by its key, and whoever was there first must not escape by that.
fn listen_near(id: &WorkloadId, address: SocketAddr) -> io::Result<std::net::TcpListener> {
    match listen(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!(workload = %id, %address, "a process of the workload has the agent's port; another one is taken");
            let any = SocketAddr::new(address.ip(), 0);
            // What is in use is the port that was wanted.
            listen(any).map_err(|_none_left| error)
        }
        listening => listening,
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
        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            .into_iter()
            .map(move |ip| listener_key(workload, role, ip))
    })
}

/// The key of the listener at this loopback address.
fn listener_key(workload: u64, role: Role, ip: IpAddr) -> ListenerKey {
    let family = if ip.is_ipv4() {
        FAMILY_IPV4
    } else {
        FAMILY_IPV6
    };
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
