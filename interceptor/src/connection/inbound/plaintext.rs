//! A connection that arrived without HBONE: no identity, so only what policy lets anybody do.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::super::story::{Stop, Story, because};
use super::super::{Local, Plane};
use super::Arrival;
use crate::error::chain;
use crate::telemetry::record::{ConnectionId, End, Reporter, ResponseFlags, Security};
use crate::transport::splice;

/// Serves one plaintext connection that arrived at a port of the workload.
pub(in crate::connection) async fn serve(
    plane: &Plane,
    local: &Local,
    caller: TcpStream,
    client: SocketAddr,
) {
    let target = match local.origin.inbound(&caller) {
        Ok(target) => target,
        Err(error) => {
            let ends = (End::unproven(client, None), End::default());
            let story = Story::begin(plane, ConnectionId::random(), Reporter::Destination, ends);
            let reason = because(error.reason(), chain(&error));
            return story.reset(&caller, Stop::failed(ResponseFlags::None, reason));
        }
    };
    let arrival = Arrival {
        client,
        identity: None,
        target,
    };
    let mut story = arrival.story(plane, local, ConnectionId::random(), Security::None);
    match arrival.admit(plane, local, &mut story).await {
        Err(refused) => story.reset(&caller, refused.stop),
        Ok((app, allowed)) => {
            story
                .carry(arrival.basis(local), allowed, async |traffic| {
                    splice::plain(&app, &caller, &traffic).await
                })
                .await;
        }
    }
}
