//! Accepting captured connections of one workload, for as long as it is enrolled.
//!
//! Accepting never fails for good: a connection that was aborted in the queue is skipped, and
//! when the process is out of file descriptors the loop waits a moment instead of spinning; the
//! kernel keeps the queue meanwhile.
//!
//! When a workload is released, what waits in the queue is served (refused, with a record) before
//! the listener goes: the kernel would reset it, and nobody would ever hear of it. When the whole
//! agent stops, the queue is left to the agent that takes over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::{Local, Plane, inbound, outbound};
use crate::drain::Tasks;
use crate::net::{accept_waiting, reset_on_close};

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
    tasks.spawn("accept", async move {
        loop {
            let accepted = tokio::select! {
                () = connections.stopping() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => begin(&plane, &local, door, (stream, peer), &connections),
                Err(error) if is_out_of_resources(&error) => {
                    tracing::warn!(%error, ?door, workload = %local.id, "cannot accept; pausing");
                    tokio::time::sleep(OUT_OF_RESOURCES_PAUSE).await;
                }
                // The client gave up while it waited: nothing was captured, nothing is lost.
                Err(error) => tracing::debug!(%error, ?door, "a connection was gone when accepted"),
            }
        }
        if connections.is_stopping_alone() {
            for accepted in accept_waiting(&listener) {
                begin(&plane, &local, door, accepted, &connections);
            }
        }
    });
}

fn begin(
    plane: &Arc<Plane>,
    local: &Arc<Local>,
    door: Door,
    (stream, peer): (TcpStream, SocketAddr),
    tasks: &Tasks,
) {
    let (plane, local) = (Arc::clone(plane), Arc::clone(local));
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    if door != Door::Hbone {
        // From its first moment on: an agent that is killed while the verdict is awaited must not
        // leave an orderly end. Carrying the connection takes it back. Fails only if it is gone.
        let _gone = reset_on_close(&stream);
    }
    match door {
        Door::Outbound => tasks.spawn("outbound", async move {
            outbound::serve(&plane, &local, &stream, peer).await;
        }),
        Door::Plaintext => tasks.spawn("inbound plaintext", async move {
            inbound::plaintext(&plane, &local, stream, peer).await;
        }),
        Door::Hbone => {
            let streams = tasks.clone();
            tasks.spawn("inbound hbone", async move {
                inbound::hbone(plane, local, (stream, peer), streams).await;
            });
        }
    }
}

fn is_out_of_resources(error: &std::io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}
