//! Dialling out of a workload's network namespace with a socket that the kernel programs know.
//!
//! The kernel recognises the agent's own sockets one by one: before `connect(2)` the agent writes
//! a mark into the socket's storage (`bpf_sk_storage`, by file descriptor). No cgroup, no packet
//! mark and no address is involved, so a process that merely runs beside the agent gains nothing,
//! and a restarted agent is recognised at once. See `docs/decisions/`.

use std::net::SocketAddr;

/// What a socket of the agent is for; decides how the kernel programs treat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The agent's own leg to another node or to an unprotected destination. Never opens the door
    /// of a local workload: there it is steered to the inbound listener like any other.
    Peer,
    /// The agent's leg to the application of a local workload. The application's `accept(2)` and
    /// `getpeername(2)` show `client`.
    Application {
        /// The true address of the client.
        client: SocketAddr,
    },
}
