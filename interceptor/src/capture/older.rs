//! Connections that are older than their workload's enrolment.
//!
//! No hook has seen them begin, so nothing is known of them and they are not captured. They are
//! listed for as long as they live, or reset where the workload's owner wants that.
//!
//! Not here: workloads of the host's network, whose sockets a namespace does not tell apart.

use std::io;

use aya::maps::{HashMap as KernelMap, Map, MapData, PerCpuArray};
use interceptor_common::{Action, Counter, Flow, FlowKey, InboundPortKey};

use super::config::Pins;
use super::loader::Source;
use super::maps::Entries;
use crate::net::diag::{self, Connection};
use crate::net::{Namespace, mapped};
use crate::workload::{ExistingConnections, WorkloadId};

/// Deals with the connections of a workload that was just enrolled, and returns those that stay.
///
/// One that is still being opened is reset in any case: its guard drops the SYN.
pub(super) fn settle(
    pins: &Pins,
    id: &WorkloadId,
    namespace: &Namespace,
    entries: &Entries,
    rule: ExistingConnections,
) -> Vec<Connection> {
    let found = look(pins, namespace, entries).unwrap_or_else(|error| {
        tracing::warn!(workload = %id, %error, "cannot list connections from before the enrolment");
        Vec::new()
    });
    let unwanted = |it: &Connection| it.opening || rule == ExistingConnections::Reset;
    let (unwanted, mut kept): (Vec<_>, Vec<_>) = found.into_iter().partition(unwanted);
    let mut reset = 0;
    for connection in unwanted {
        match namespace.enter(|| diag::destroy(&connection)) {
            Ok(true) => reset += 1,
            Ok(false) => {}
            Err(error) => {
                let (local, remote) = (connection.local, connection.remote);
                tracing::warn!(workload = %id, %local, %remote, %error, "cannot reset a connection from before the enrolment");
                kept.push(connection);
            }
        }
    }
    if reset > 0 {
        tracing::info!(workload = %id, reset, "reset connections from before the enrolment");
        if let Err(error) = count(pins, reset) {
            tracing::warn!(workload = %id, %error, "cannot count reset connections");
        }
    }
    kept
}

/// Those of `connections` that are still alive.
pub(super) fn alive(namespace: &Namespace, connections: &[Connection]) -> Vec<Connection> {
    if connections.is_empty() {
        return Vec::new();
    }
    match namespace.enter(diag::connections) {
        Ok(now) => {
            let is_alive = |it: &&Connection| now.iter().any(|other| it.is(other));
            connections.iter().filter(is_alive).cloned().collect()
        }
        Err(_unknown) => connections.to_vec(),
    }
}

/// The connections of a namespace that nothing is known of.
fn look(pins: &Pins, namespace: &Namespace, entries: &Entries) -> Result<Vec<Connection>, Source> {
    let flows = Map::from_map_data(MapData::from_pin(pins.map("FLOWS"))?)?;
    let flows: KernelMap<_, FlowKey, Flow> = flows.try_into()?;
    let mut found = namespace.enter(diag::connections)?;
    found.retain(|it| {
        let is_known = [(&it.local, &it.remote), (&it.remote, &it.local)]
            .into_iter()
            .any(|(source, destination)| {
                let key = FlowKey {
                    source: mapped(source.ip()),
                    destination: mapped(destination.ip()),
                    source_port_be: source.port().to_be(),
                    destination_port_be: destination.port().to_be(),
                };
                flows.get(&key, 0).is_ok()
            });
        // Nobody has it yet: it waits at a listener, most likely at one of the agent's.
        it.owned && !it.local.ip().is_loopback() && !is_known && !is_left_alone(entries, it)
    });
    Ok(found)
}

/// Whether it is at a port of the workload that rules leave alone.
fn is_left_alone(entries: &Entries, connection: &Connection) -> bool {
    let port = InboundPortKey {
        address: mapped(connection.local.ip()),
        port_be: connection.local.port().to_be(),
        reserved: 0,
    };
    entries.ports.get(&port) == Some(&Action::Pass.code())
}

/// Adds to the counter, which no kernel program writes.
fn count(pins: &Pins, reset: u64) -> Result<(), Source> {
    let map = Map::from_map_data(MapData::from_pin(pins.map("COUNTS"))?)?;
    let mut counts: PerCpuArray<_, u64> = map.try_into()?;
    let slot = Counter::ResetOlder.index();
    let now = counts.get(&slot, 0)?;
    let mut values: Vec<u64> = now.iter().copied().collect();
    if let Some(first) = values.first_mut() {
        *first += reset;
    }
    let values = aya::maps::PerCpuValues::try_from(values).map_err(io::Error::other)?;
    Ok(counts.set(slot, values, 0)?)
}
