//! The direct connections that are open, and how one is cut.
//!
//! They are asked of the sockets themselves: the storage of each says whether it is a direct
//! connection and whose. The map of flows could not, for entries of long connections give way in
//! it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use interceptor_common::{FlowKey, FlowKind};

use super::totals::{Totals, so_far};
use super::{DirectFlow, since};
use crate::net::diag::{self, Connection, Stored};
use crate::net::{Namespace, mapped};

/// An established direct connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The connection.
    pub flow: DirectFlow,
    /// What it has carried so far.
    pub totals: Totals,
}

/// The direct connections of these namespaces.
pub(super) fn open(
    namespaces: &HashMap<u64, Namespace>,
    storage: &OwnedFd,
) -> io::Result<Vec<Open>> {
    let mut asked = HashSet::new();
    let mut all = Vec::new();
    for namespace in namespaces.values() {
        // Workloads of the host's network share theirs.
        if !asked.insert(namespace.cookie()) {
            continue;
        }
        let found = namespace.enter(|| diag::stored(storage.as_fd()))?;
        let found = found.iter().filter(|it| it.flow.is(FlowKind::Direct));
        all.extend(found.map(Open::new));
    }
    Ok(all)
}

/// Ends the connection: at its initiator, or at its acceptor if the initiator's workload is gone.
pub(super) fn cut(namespaces: &HashMap<u64, Namespace>, flow: &DirectFlow) -> io::Result<bool> {
    let (ours, theirs) = (flow.source_address, flow.destination_address);
    if let Some(namespace) = namespaces.get(&flow.source) {
        let end = Connection::new(ours, theirs, flow.id);
        return namespace.enter(|| {
            // A socket that is bound to an interface is found by its cookie only.
            Ok(diag::destroy(&end)? || destroy_where(|it| it.cookie() == flow.id)?)
        });
    }
    if let Some(namespace) = namespaces.get(&flow.destination) {
        return namespace.enter(|| destroy_where(|it| (it.local, it.remote) == (theirs, ours)));
    }
    let message = "neither end's workload is enrolled";
    Err(io::Error::new(io::ErrorKind::NotFound, message))
}

/// Ends the connection of the calling thread's namespace of which this is true.
fn destroy_where(is_it: impl Fn(&Connection) -> bool) -> io::Result<bool> {
    match diag::connections()?.iter().find(|it| is_it(it)) {
        Some(found) => diag::destroy(found),
        None => Ok(false),
    }
}

impl Open {
    /// What the socket says.
    fn new(stored: &Stored) -> Self {
        let (local, remote) = (stored.connection.local, stored.connection.remote);
        let key = FlowKey {
            source: mapped(local.ip()),
            destination: mapped(remote.ip()),
            source_port_be: local.port().to_be(),
            destination_port_be: remote.port().to_be(),
        };
        let lasted = since(stored.flow.since_ns);
        Self {
            flow: DirectFlow::new(stored.connection.cookie(), &stored.flow, &key),
            totals: so_far(&stored.carried, stored.state, lasted),
        }
    }
}
