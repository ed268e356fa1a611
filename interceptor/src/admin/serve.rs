//! Accepting and answering, within bounds.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use super::State;
use super::routes::{self, Session, Surface};
use crate::drain::Tasks;
use crate::net::Gate;

/// Connections per listener. A scraper, a probe and a few people need a handful.
const CONNECTIONS: usize = 256;

/// Of these, how many one address may have, so that nobody can shut others out. What comes beyond
/// is closed at once. The unix socket has no addresses, and only the agent's own user.
const CONNECTIONS_PER_ADDRESS: usize = 32;

/// The whole head of a request must arrive within this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be kept for further requests. A client that does not read its answer
/// holds a connection no longer than this and [`LAST_ANSWER`].
const LIFETIME: Duration = Duration::from_mins(2);

/// How long the answer that is being sent at the end of the [`LIFETIME`] may still take.
const LAST_ANSWER: Duration = Duration::from_secs(10);

/// Heads larger than this are refused.
const HEAD_BYTES: usize = 16 * 1024;

/// A pause after `accept` failed, most likely because there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens a listener that a restarted agent can take over at once, for both families where
/// `address` is `[::]`.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match listen_on(address) {
        // A kernel without IPv6: the same port of every IPv4 address.
        Err(error)
            if error.raw_os_error() == Some(libc::EAFNOSUPPORT)
                && address.ip().is_unspecified() =>
        {
            listen_on(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        result => result,
    }
}

/// Whether `listener` is what [`listen`] would open for `address`.
pub(super) fn listens_at(listener: &std::net::TcpListener, address: SocketAddr) -> bool {
    listener.local_addr().is_ok_and(|found| {
        let any = found.ip().is_unspecified() && address.ip().is_unspecified();
        found.port() == address.port() && (any || found.ip() == address.ip())
    })
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};

    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// A listener of either kind.
pub(super) trait Accept: Send + Sync + 'static {
    /// What it accepts.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// The next connection of somebody who may ask, and where it comes from.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, IpAddr)>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, IpAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        Ok((stream, peer.ip()))
    }
}

/// Answers on one listener.
#[derive(Clone, Debug)]
pub(super) struct Server {
    state: Arc<State>,
    surface: Surface,
    tasks: Tasks,
    gate: Gate,
}

impl Server {
    pub(super) fn new(state: Arc<State>, surface: Surface, tasks: Tasks) -> Self {
        Self {
            state,
            surface,
            tasks,
            gate: Gate::new(CONNECTIONS, CONNECTIONS_PER_ADDRESS),
        }
    }

    pub(super) async fn run(self, listener: impl Accept) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.tasks.stopping() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let Some(place) = self.gate.enter(from) else {
                        continue;
                    };
                    let server = self.clone();
                    self.tasks.spawn("admin-connection", async move {
                        server.connection(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, surface = ?self.surface, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let session = Session::default();
        let service = service_fn(|request: Request<Incoming>| {
            let answer = routes::answer(&self.state, self.surface, &session, &self.tasks, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service)
        );
        tokio::select! {
            // Errors here are the client's: it sent no HTTP, or went away.
            _ended = connection.as_mut() => return,
            () = session.cut.cancelled() => return,
            () = self.tasks.stopping() => {}
            () = tokio::time::sleep(LIFETIME) => {}
        }
        connection.as_mut().graceful_shutdown();
        if session.following.load(Ordering::Relaxed) && !self.tasks.is_stopping() {
            tokio::select! {
                _ended = connection => {}
                () = session.cut.cancelled() => {}
            }
        } else {
            drop(tokio::time::timeout(LAST_ANSWER, connection).await);
        }
    }
}
