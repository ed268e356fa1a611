//! Accepting captured connections of one workload, for as long as it is enrolled.
//!
//! Accepting never fails for good: a connection that was aborted in the queue is skipped, and
//! when the process is out of file descriptors the loop waits a moment instead of spinning; the
//! kernel keeps the queue meanwhile.
//!
//! When a workload is released, what waits in the queue is served (refused, with a record) before
//! the listener goes: the kernel would reset it, and nobody would ever hear of it. When the whole
//! agent stops, the queue is left to the agent that takes over.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::{Local, Plane, inbound, outbound};
use crate::drain::Tasks;
use crate::lanes::{Lane, Lanes, Load, Seat, Seated};
use crate::net::{accept_waiting, is_out_of_resources, reset_on_close};

/// Pause after an accept failed for want of resources.
const OUT_OF_RESOURCES_PAUSE: Duration = Duration::from_millis(50);

/// Which of a workload's three listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// 15001: connections that the workload opened.
    Outbound,
    /// 15006: connections to the workload that are not HBONE.
    Plaintext,
    /// 15008: HBONE from other agents.
    Hbone,
}

impl Door {
    /// What comes in here is to a lane.
    const fn load(self) -> Load {
        match self {
            Self::Outbound | Self::Plaintext => Load::Stream,
            Self::Hbone => Load::Carrier,
        }
    }
}

/// A connection, on the lane where it will stay.
struct Accepted {
    stream: TcpStream,
    peer: SocketAddr,
    seat: Option<Seat>,
}

/// Starts to serve `listener`; ends when `tasks` is asked to stop. Connections that are under way
/// then run on until they end or the drain deadline passes.
pub fn serve(
    plane: &Arc<Plane>,
    local: &Arc<Local>,
    door: Door,
    listener: Arc<TcpListener>,
    tasks: &Tasks,
) {
    let (plane, local, connections) = (Arc::clone(plane), Arc::clone(local), tasks.clone());
    tasks.spawn_vital("accept", async move {
        loop {
            let accepted = tokio::select! {
                () = connections.stopping() => break,
                accepted = next(&plane.lanes, door, &listener) => accepted,
            };
            match accepted {
                Ok(accepted) => begin(&plane, &local, door, accepted, &connections),
                Err(error) if is_out_of_resources(&error) => {
                    tracing::warn!(%error, ?door, workload = %local.id, "cannot accept; pausing");
                    tokio::time::sleep(OUT_OF_RESOURCES_PAUSE).await;
                }
                // The client gave up while it waited: nothing was captured, nothing is lost.
                Err(error) => tracing::debug!(%error, ?door, "a connection was gone when accepted"),
            }
        }
        if connections.is_stopping_alone() {
            for (stream, peer) in accept_waiting(&listener) {
                let seat = plane.lanes.here(door.load());
                let accepted = Accepted { stream, peer, seat };
                begin(&plane, &local, door, accepted, &connections);
            }
        }
    });
}

/// The next connection, on the lane that does best with it. The socket belongs to that lane from
/// the beginning: moving it there later would be two system calls more.
async fn next(lanes: &Lanes, door: Door, listener: &TcpListener) -> io::Result<Accepted> {
    poll_fn(|cx| {
        let lane = lanes.best(door.load());
        let _there = lane.map(|lane| lane.enter());
        let (stream, peer) = ready!(listener.poll_accept(cx))?;
        let seat = lane.map(|lane| lane.seat(door.load()));
        Poll::Ready(Ok(Accepted { stream, peer, seat }))
    })
    .await
}

fn begin(
    plane: &Arc<Plane>,
    local: &Arc<Local>,
    door: Door,
    Accepted { stream, peer, seat }: Accepted,
    tasks: &Tasks,
) {
    let (plane, local) = (Arc::clone(plane), Arc::clone(local));
    let lane = seat.as_ref().map(Seat::lane).cloned();
    let _there = lane.as_deref().map(Lane::enter);
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    if door != Door::Hbone {
        // From its first moment on: an agent that is killed while the verdict is awaited must not
        // leave an orderly end. Carrying the connection takes it back. Fails only if it is gone.
        let _gone = reset_on_close(&stream);
    }
    match door {
        Door::Outbound => {
            let served = outbound::serve(plane, local, (stream, peer));
            tasks.spawn("outbound", Seated::new(seat, served));
        }
        Door::Plaintext => {
            let served = inbound::plaintext(plane, local, (stream, peer));
            tasks.spawn("inbound plaintext", Seated::new(seat, served));
        }
        Door::Hbone => {
            let served = inbound::hbone(plane, local, (stream, peer, seat), tasks.clone());
            tasks.spawn("inbound hbone", served);
        }
    }
}
