//! The story of one connection: captured, decided, carried, recorded.
//!
//! ```text
//!  15001 ──▶ outbound ──decide──▶ tunnel (HBONE) or plaintext ──▶ peer
//!  15008 ──▶ tunnel ───decide──▶ application            (HBONE)
//!  15006 ──▶ plaintext ─decide──▶ application            (plaintext)
//!  kernel ─▶ direct ────────────▶ records of what went past the agent, inside of the node
//! ```
//!
//! Each story is a straight line that ends in exactly one [`Record`](crate::telemetry::Record):
//! from it come the access line, the counters and what `interceptor connections` shows, so that
//! they cannot disagree.
//! Whatever a step cannot find out ends the story in a refusal; no byte reaches an application
//! before the verdict.
//!
//! While a connection is open its verdict is taken again on every change of the mesh
//! ([`recheck`]), by the same functions that took it first.
//!
//! Not here: the decision itself (`decide`), the bytes (`transport`), how a record is shown
//! (`telemetry`), who opens the listeners (`app`).

pub mod accept;
mod bound;
pub mod direct;
mod inbound;
mod outbound;
pub mod recheck;
pub mod registry;
mod story;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crate::capture::Origin;
use crate::identity::Identities;
use crate::lanes::{Lanes, PerLane};
use crate::net::Dialer;
use crate::telemetry::Telemetry;
use crate::transport;
use crate::workload::WorkloadId;
use crate::workload::source::SharedMesh;

pub use bound::Bounds;
pub use direct::DirectPath;
pub use registry::Registry;

/// What all connections of this agent share.
pub struct Plane {
    /// The mesh as it is now.
    pub mesh: SharedMesh,
    /// Keys and certificates of the local workloads, and whom to trust.
    pub identities: Arc<Identities>,
    /// The threads that connections are on.
    pub lanes: Lanes,
    /// What answers peers' tunnels.
    pub server: transport::Server,
    /// Where records go.
    pub telemetry: Telemetry,
    /// The connections that are open now.
    pub registry: Registry,
    /// Connections inside of the node that the kernel carries.
    pub direct: Arc<DirectPath>,
    /// How long `connect(2)` to an application or a plaintext destination may take.
    pub connect_timeout: Duration,
}

/// One enrolled workload, as the connections that were captured from it see it.
pub struct Local {
    /// Who it is.
    pub id: WorkloadId,
    /// The kernel's key of it.
    pub key: u64,
    /// Opens sockets in its network namespace.
    pub dialer: Dialer,
    /// Tells where its captured connections were headed.
    pub origin: Origin,
    /// Its tunnels to peers, those of each lane apart.
    pub tunnels: PerLane<transport::Client>,
    /// How many connections it has open.
    pub open: AtomicUsize,
    /// How many it may have.
    pub bounds: Bounds,
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use tokio::net::TcpStream;

    use super::{Local, Plane, inbound, outbound, registry};
    use crate::drain::Tasks;
    use crate::telemetry::Record;

    type Ours = (Arc<Plane>, Arc<Local>);
    type Captured = (TcpStream, SocketAddr);
    type Accepted = (TcpStream, SocketAddr, Option<crate::lanes::Seat>);

    /// What a task that awaits this needs for it, besides what is boxed in it.
    fn size_of_future<A, F: Future>(_begin: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_open_connection_costs_little_memory() {
        let outbound = size_of_future(|((plane, local), captured): (Ours, Captured)| {
            outbound::serve(plane, local, captured)
        });
        assert!(outbound <= 256, "captured: {outbound} bytes");
        let plaintext = size_of_future(|((plane, local), captured): (Ours, Captured)| {
            inbound::plaintext(plane, local, captured)
        });
        assert!(plaintext <= 64, "in plaintext: {plaintext} bytes");
        let inbound = size_of_future(
            |((plane, local), accepted, tasks): (Ours, Accepted, Tasks)| {
                inbound::hbone(plane, local, accepted, tasks)
            },
        );
        assert!(inbound <= 1024, "a peer's carrier: {inbound} bytes");
        let (live, record) = (size_of::<registry::Live>(), size_of::<Record>());
        assert!(live + record <= 640, "told of: {live} and {record} bytes");
    }
}
