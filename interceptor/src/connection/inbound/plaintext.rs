//! A connection that arrived without HBONE: no identity, so only what policy lets anybody do.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::super::bound::Guest;
use super::super::registry::Basis;
use super::super::story::{Stop, Story, because};
use super::super::{Local, Plane};
use super::Arrival;
use crate::error::chain;
use crate::telemetry::record::{ConnectionId, End, Reason, Reporter, ResponseFlags, Security};
use crate::transport::splice;

/// Serves one plaintext connection that arrived at a port of the workload.
///
/// Not an `async fn`: what that is called with is kept until its end, needed or not.
pub(in crate::connection) fn serve(
    plane: Arc<Plane>,
    local: Arc<Local>,
    (caller, client): (TcpStream, SocketAddr),
) -> impl Future<Output = ()> + Send {
    let guest = Guest::enter(&local);
    // What judging takes is large, and most of the time a connection is open.
    let admitting = Box::pin(admit(plane, local, (caller, client), guest));
    async move {
        if let Some(admitted) = admitting.await {
            admitted.carry().await;
        }
    }
}

/// A connection that may go on.
struct Admitted {
    story: Story,
    basis: Basis,
    allowed_by: Reason,
    app: TcpStream,
    caller: TcpStream,
    guest: Guest,
}

impl Admitted {
    fn carry(self: Box<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (story, app, caller, guest) = (self.story, self.app, self.caller, self.guest);
        let carried = story.carry(self.basis, self.allowed_by, |traffic| async move {
            let _guest = guest;
            splice::plain(&app, &caller, traffic).await
        });
        Box::pin(carried)
    }
}

/// Judges a connection, and connects to the application if it may go on.
async fn admit(
    plane: Arc<Plane>,
    local: Arc<Local>,
    (caller, client): (TcpStream, SocketAddr),
    guest: Guest,
) -> Option<Box<Admitted>> {
    let target = match local.origin.inbound(&caller) {
        Ok(target) => target,
        Err(error) => {
            let ends = (End::unproven(client, None), End::default());
            let story = Story::begin(&plane, ConnectionId::random(), Reporter::Destination, ends);
            let reason = because(error.reason(), chain(&error));
            return story.reset(&caller, Stop::failed(ResponseFlags::None, reason));
        }
    };
    let arrival = Arrival {
        client,
        identity: None,
        target,
    };
    let mut story = arrival.story(&plane, &local, ConnectionId::random(), Security::None);
    if let Some(too_many) = guest.objection_to(&caller) {
        return story.reset(
            &caller,
            Stop::failed(ResponseFlags::None, too_many.reason()),
        );
    }
    match arrival.admit(&plane, &local, &mut story).await {
        Err(refused) => story.reset(&caller, refused.stop),
        Ok((app, allowed_by)) => Some(Box::new(Admitted {
            story,
            basis: arrival.basis(&local),
            allowed_by,
            app,
            caller,
            guest,
        })),
    }
}
