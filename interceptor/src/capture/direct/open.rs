//! The direct connections that are open, and how one is cut.
//!
//! The sockets say what a connection has carried. Whose it is the kernel's table says, or, of one that
//! had no room there, the storage of its socket. The map of flows could not, for entries of long
//! connections give way in it.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use interceptor_common::{Flow, FlowKey, FlowKind, OpenFlow};

use super::table::{Owner, Table};
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

/// The direct connections of these namespaces. What `unserved` workloads have open is left as it is:
/// nobody can ask for it now, and somebody may later.
pub(super) fn open(
    (namespaces, unserved): (&HashMap<u64, Namespace>, &HashSet<u64>),
    storage: &OwnedFd,
    table: &Table,
) -> io::Result<Vec<Open>> {
    // Before the sockets: whatever is over by then is in one of the two at most.
    let entries = table.read()?;
    let (mut asked, mut found) = (HashSet::new(), HashSet::new());
    let mut all = Vec::new();
    for namespace in namespaces.values() {
        // Workloads of the host's network share theirs.
        if !asked.insert(namespace.cookie()) {
            continue;
        }
        // Most of a node's connections are others': none is kept that is not direct.
        let look = |socket: Stored| {
            let key = key(&socket);
            let entry = entry(&entries, &socket, &key);
            found.extend(entry.map(|entry| entry.socket));
            let flow = entry.map(|entry| entry.flow).or(socket.flow);
            let is_direct = entry.is_some() || flow.is_some_and(|it| it.is(FlowKind::Direct));
            if let Some(flow) = flow.filter(|_| is_direct && socket.is_established()) {
                all.push(Open::new(&socket, &flow, &key));
            }
        };
        namespace.enter(|| diag::stored(storage.as_fd(), look))?;
    }
    table.sweep(
        &entries,
        |it| found.contains(&it.socket),
        |it| {
            let workload = &it.flow.workload;
            if namespaces.contains_key(workload) {
                Owner::Enrolled
            } else if unserved.contains(workload) {
                Owner::Unserved
            } else {
                Owner::Released
            }
        },
    );
    Ok(all)
}

/// The 4-tuple of a connection that this socket initiated.
const fn key(socket: &Stored) -> FlowKey {
    let (local, remote) = (socket.connection.local, socket.connection.remote);
    FlowKey {
        source: mapped(local.ip()),
        destination: mapped(remote.ip()),
        source_port_be: local.port().to_be(),
        destination_port_be: remote.port().to_be(),
    }
}

/// What the table says of a socket.
fn entry(entries: &HashMap<FlowKey, OpenFlow>, socket: &Stored, key: &FlowKey) -> Option<OpenFlow> {
    let entry = entries.get(key).copied();
    entry.filter(|entry| entry.socket == socket.connection.cookie())
}

/// Ends the connection at both ends. False if its initiator's had ended by itself.
///
/// The initiator's goes first, because its end is what is told: as cut, with all that it carried. The
/// reset that it sends may be lost, or never be sent, so the acceptor's end is ended as well. That one
/// is known by its cookie from before, for a moment later the 4-tuple may be another connection's.
pub(super) fn cut(namespaces: &HashMap<u64, Namespace>, flow: &DirectFlow) -> io::Result<bool> {
    let (ours, theirs) = (flow.source_address, flow.destination_address);
    let destination = namespaces.get(&flow.destination);
    let Some(source) = namespaces.get(&flow.source) else {
        let message = "neither end's workload is enrolled";
        let neither = || io::Error::new(io::ErrorKind::NotFound, message);
        let acceptor = destination.ok_or_else(neither)?;
        return acceptor.enter(|| destroy_where(|it| (it.local, it.remote) == (theirs, ours)));
    };
    let acceptor = destination.map(|namespace| (namespace, acceptor(namespace, flow)));
    let end = Connection::new(ours, theirs, flow.id);
    let was_open = source.enter(|| {
        // A socket that is bound to an interface is found by its cookie only.
        Ok(diag::destroy(&end)? || destroy_where(|it| it.cookie() == flow.id)?)
    })?;
    // If the initiator was gone, its port may be another's by now, and the acceptor belong to that.
    let is_orphan = || source.enter(|| Ok(diag::find(ours, theirs)?.is_none()));
    let end_at = |(namespace, found): (&Namespace, io::Result<Option<Connection>>)| match found? {
        // Most have heard of it already.
        Some(end) if was_open || is_orphan()? => namespace.enter(|| diag::destroy(&end)),
        _ => Ok(false),
    };
    if let Some(Err(error)) = acceptor.map(end_at) {
        tracing::warn!(from = %ours, to = %theirs, %error, "cannot end a same-node connection at its acceptor; it was sent a reset");
    }
    Ok(was_open)
}

/// The acceptor's end of the connection.
fn acceptor(namespace: &Namespace, flow: &DirectFlow) -> io::Result<Option<Connection>> {
    let (ours, theirs) = (flow.destination_address, flow.source_address);
    namespace.enter(|| {
        let found = diag::find(ours, theirs)?;
        if found.is_some() {
            return Ok(found);
        }
        // It may be bound to an interface.
        let mut all = diag::connections()?.into_iter();
        Ok(all.find(|it| (it.local, it.remote) == (ours, theirs)))
    })
}

/// Ends the connection of the calling thread's namespace of which this is true.
fn destroy_where(is_it: impl Fn(&Connection) -> bool) -> io::Result<bool> {
    match diag::connections()?.iter().find(|it| is_it(it)) {
        Some(found) => diag::destroy(found),
        None => Ok(false),
    }
}

impl Open {
    /// What the socket of this connection says.
    fn new(socket: &Stored, flow: &Flow, key: &FlowKey) -> Self {
        let lasted = since(flow.since_ns);
        Self {
            flow: DirectFlow::new(socket.connection.cookie(), flow, key),
            totals: so_far(&socket.carried, socket.state, lasted),
        }
    }
}
