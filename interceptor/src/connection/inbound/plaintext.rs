//! A connection that arrived without HBONE: no identity, so only what policy lets anybody do.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::super::registry::Basis;
use super::super::story::{Stop, Story, because};
use super::super::{Local, Plane};
use super::Arrival;
use crate::error::chain;
use crate::telemetry::record::{ConnectionId, End, Reason, Reporter, ResponseFlags, Security};
use crate::transport::splice;

/// Serves one plaintext connection that arrived at a port of the workload.
pub(in crate::connection) async fn serve(
    plane: &Plane,
    local: &Local,
    caller: TcpStream,
    client: SocketAddr,
) {
    // What judging takes is large, and most of the time a connection is open.
    let admitted = Box::pin(admit(plane, local, &caller, client)).await;
    if let Some((story, app, basis, allowed)) = admitted {
        let carried = story.carry(basis, allowed, |traffic| {
            splice::plain(&app, &caller, traffic)
        });
        carried.await;
    }
}

/// Judges a connection, and connects to the application if it may go on.
async fn admit<'a>(
    plane: &'a Plane,
    local: &Local,
    caller: &TcpStream,
    client: SocketAddr,
) -> Option<(Story<'a>, TcpStream, Basis, Reason)> {
    let target = match local.origin.inbound(caller) {
        Ok(target) => target,
        Err(error) => {
            let ends = (End::unproven(client, None), End::default());
            let story = Story::begin(plane, ConnectionId::random(), Reporter::Destination, ends);
            let reason = because(error.reason(), chain(&error));
            return story.reset(caller, Stop::failed(ResponseFlags::None, reason));
        }
    };
    let arrival = Arrival {
        client,
        identity: None,
        target,
    };
    let mut story = arrival.story(plane, local, ConnectionId::random(), Security::None);
    match arrival.admit(plane, local, &mut story).await {
        Err(refused) => story.reset(caller, refused.stop),
        Ok((app, allowed)) => Some((story, app, arrival.basis(local), allowed)),
    }
}
