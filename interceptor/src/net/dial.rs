//! Dialling out of a workload's network namespace with a socket that the kernel programs know.
//!
//! The kernel recognises the agent's own sockets one by one: before `connect(2)` the agent writes
//! a mark into the socket's storage (`bpf_sk_storage`, by file descriptor). No cgroup, no packet
//! mark and no address is involved, so a process that merely runs beside the agent gains nothing,
//! and a restarted agent is recognised at once (`docs/decisions/`, "the agent marks its sockets").
//!
//! No socket is bound to a source address: binding to port 0 among thousands of `TIME_WAIT`
//! sockets costs a search through the whole port range for each of them, and collapses the rate
//! of new connections; `connect(2)` picks the port by the full 4-tuple. There is one exception. Both
//! addresses of the last leg are the workload's, so an application's port has one local port range
//! for all its clients together, and whenever a client closes first a port of it stays in
//! `TIME_WAIT` for a minute: 28,000 connections. The search of `connect(2)` would go through all of
//! them, so the port is chosen here, at random: to a bound socket the kernel gives a port in
//! `TIME_WAIT` at once, safely by timestamps.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use interceptor_common::{Flow, FlowKind};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::ports::LocalPorts;
use super::{Namespace, bpf, mapped};

/// Idle time before the first probe on a leg to a peer, and between probes, as ztunnel has it.
const KEEPALIVE: Duration = Duration::from_mins(3);

/// Unanswered probes after which a leg to a peer is dead.
const KEEPALIVE_PROBES: u32 = 9;

/// How many ports are tried for the last leg before it is left to the kernel: one that is in use by
/// an open connection or a listener is passed over.
const PORT_ATTEMPTS: usize = 32;

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

/// Opens connections on behalf of one workload: from its network namespace, recognised by the
/// kernel programs.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    namespace: Option<Namespace>,
    mark: Option<Mark>,
    /// The ports that the namespace hands out, as they were when the first was asked for.
    ports: Arc<OnceLock<LocalPorts>>,
}

/// How the kernel programs recognise a socket: the map of socket storage, and the workload on
/// whose behalf it is opened.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// The socket storage map.
    pub(crate) storage: Arc<OwnedFd>,
    /// The workload's key.
    pub(crate) workload: u64,
}

impl Dialer {
    /// A dialler that opens sockets in the calling thread's namespace and marks nothing. For
    /// nodes without capture, such as tests of the transport.
    pub fn host() -> Self {
        Self::default()
    }

    /// A dialler for a captured workload.
    pub(crate) fn marked(namespace: Namespace, mark: Mark) -> Self {
        Self {
            namespace: Some(namespace),
            mark: Some(mark),
            ports: Arc::default(),
        }
    }

    /// Connects to `to`. The kernel's own time limit is minutes, so the caller sets one.
    ///
    /// # Errors
    ///
    /// If the socket cannot be opened or marked (it is never connected unmarked), or the
    /// connection fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket.
    pub async fn connect(&self, to: SocketAddr, purpose: Purpose) -> io::Result<TcpStream> {
        if matches!(purpose, Purpose::Application { .. }) {
            for _ in 0..PORT_ATTEMPTS {
                let Some(port) = self.local_ports().draw() else {
                    break;
                };
                let from = SocketAddr::new(to.ip(), port);
                match self.connect_from(Some(from), to, purpose).await {
                    Err(error) if is_taken(&error) => {}
                    outcome => return outcome,
                }
            }
        }
        self.connect_from(None, to, purpose).await
    }

    async fn connect_from(
        &self,
        from: Option<SocketAddr>,
        to: SocketAddr,
        purpose: Purpose,
    ) -> io::Result<TcpStream> {
        let socket = self.open(to)?;
        socket.set_tcp_nodelay(true)?;
        if matches!(purpose, Purpose::Application { .. }) {
            // Lets a later socket be bound to this one's port while it is in `TIME_WAIT`.
            socket.set_reuse_address(true)?;
        }
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        if purpose == Purpose::Peer {
            let keepalive = TcpKeepalive::new()
                .with_time(KEEPALIVE)
                .with_interval(KEEPALIVE)
                .with_retries(KEEPALIVE_PROBES);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if let Some(mark) = &self.mark {
            mark.write(socket.as_fd(), purpose)?;
        }
        TcpSocket::from_std_stream(socket.into()).connect(to).await
    }

    /// Marks a socket and starts to connect it, to see whether the kernel programs notice. What
    /// becomes of the connection does not matter: it ends with this call.
    pub(crate) fn probe(&self, to: SocketAddr, purpose: Purpose) -> io::Result<()> {
        let socket = self.open(to)?;
        if let Some(mark) = &self.mark {
            mark.write(socket.as_fd(), purpose)?;
        }
        match socket.connect(&to.into()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            _ => Ok(()),
        }
    }

    /// The ports that the workload's namespace hands out.
    fn local_ports(&self) -> &LocalPorts {
        self.ports.get_or_init(|| match &self.namespace {
            Some(namespace) => namespace
                .enter(|| Ok(LocalPorts::read()))
                .unwrap_or_default(),
            None => LocalPorts::read(),
        })
    }

    /// Opens a non-blocking socket in the workload's namespace.
    fn open(&self, to: SocketAddr) -> io::Result<Socket> {
        let open = || {
            Socket::new(
                Domain::for_address(to),
                Type::STREAM.nonblocking(),
                Some(Protocol::TCP),
            )
        };
        match &self.namespace {
            Some(namespace) => namespace.enter(open),
            None => open(),
        }
    }
}

impl Mark {
    /// Writes the mark that the connect hook and `sk_lookup` go by.
    fn write(&self, socket: BorrowedFd<'_>, purpose: Purpose) -> io::Result<()> {
        bpf::set_socket_storage(self.storage.as_fd(), socket, &self.flow(purpose))
    }

    /// The flow that stands for a socket of this purpose.
    fn flow(&self, purpose: Purpose) -> Flow {
        match purpose {
            Purpose::Peer => Flow {
                workload: self.workload,
                kind: FlowKind::Agent.code(),
                ..Flow::default()
            },
            Purpose::Application { client } => Flow {
                workload: self.workload,
                kind: FlowKind::AgentInbound.code(),
                address: mapped(client.ip()),
                port_be: client.port().to_be(),
                ..Flow::default()
            },
        }
    }
}

/// Whether the port that was chosen is in use.
fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse
    )
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_host_dialler_needs_no_privilege() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let stream = Dialer::host().connect(to, Purpose::Peer).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to);
        assert!(stream.nodelay().unwrap());
        assert!(socket2::SockRef::from(&stream).keepalive().unwrap());
    }

    #[tokio::test]
    async fn a_closed_port_is_an_error_and_not_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        drop(listener);
        let error = Dialer::host().connect(to, Purpose::Peer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
