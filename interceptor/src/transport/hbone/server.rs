//! Serving one accepted connection on port 15008: handshake, requests, answers, drain.
//!
//! ```text
//!  TcpStream ─ accept ─▶ Inbound ─ serve ─▶ Request { peer, destination, answer } ─▶ handler
//! ```
//!
//! The handler decides (policy, the application's port), this end encodes. Each request runs as a
//! task of its own; all of them share one connection and one peer.
//!
//! # Invariants
//!
//! * Nothing reaches a handler that is not a CONNECT by an authenticated peer to the workload's
//!   own address. What is refused here is reported as well, so that nothing is silent.
//! * A peer can hold: one place among the handshakes for a limited time, a bounded number of
//!   streams, and one connection window of unread bytes.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use h2::server::{Builder, Connection, SendResponse};
use http::Request as HttpRequest;
use interceptor_policy::SpiffeId;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;

use super::super::buffer::Segment;
use super::super::codec::Fields;
use super::super::config::Config;
use super::super::error::{HandshakeError, SessionError};
use super::super::exclusive::{self, Asked, Left, Serving};
use super::super::mux;
use super::super::tls::{Agreed, SessionFacts, Tls, Turnstile};
use super::answer::Answer;
use super::carrier::Tunnelled;
use super::headers::ConnectHeaders;
use super::observed::{Keepalive, Observed};
use super::request::{BadConnect, destination};
use super::stream::session_error;
use super::windows::{Sizes, Windows};
use crate::drain::Tasks;
use crate::identity::{Identities, Svid};
use crate::lanes::{Lane, Lanes, Load, Seated};
use crate::net::Gate;

/// Accepts HBONE connections for the workloads of this node. Clones share the limits.
#[derive(Clone, Debug)]
pub struct Server {
    config: Arc<Config>,
    tls: Tls,
    gate: Gate,
}

impl Server {
    /// A server within the limits of `config`.
    pub fn new(config: Arc<Config>, identities: &Identities) -> Self {
        Self {
            tls: Tls::new(identities.verifier()),
            gate: Gate::new(config.max_handshakes, config.max_handshakes_per_address),
            config,
        }
    }

    /// Shakes hands on an accepted connection, as the workload that `svid` belongs to.
    ///
    /// # Errors
    ///
    /// Why not; the connection is closed.
    pub async fn accept(&self, tcp: TcpStream, svid: &Svid) -> Result<Inbound, HandshakeError> {
        let io = |error| HandshakeError::Io(Arc::new(error));
        let peer_address = tcp.peer_addr().map_err(io)?;
        let local_address = tcp.local_addr().map_err(io)?;
        let _place = self
            .gate
            .enter(peer_address.ip())
            .ok_or(HandshakeError::TooMany)?;
        tcp.set_nodelay(true).map_err(io)?;
        let limit = self.config.handshake_timeout;
        // The state of a handshake is large, and the task that awaits it lives much longer.
        let shaken = Box::pin(self.shake_hands(tcp, svid, (peer_address, local_address)));
        let inbound = timeout(limit, shaken).await;
        inbound.map_err(|_elapsed| HandshakeError::TimedOut { limit })?
    }

    async fn shake_hands(
        &self,
        tcp: TcpStream,
        svid: &Svid,
        (peer_address, local_address): (SocketAddr, SocketAddr),
    ) -> Result<Inbound, HandshakeError> {
        let config = &self.config;
        let withdrawn = self.tls.withdrawal();
        if config.max_exclusive == 0 {
            let secured = self.tls.accept(svid, Turnstile::opened(tcp)).await?;
            let prefaced = preface(Box::new(secured.stream), config).await?;
            let session = Session::Shared(Box::new(prefaced));
            let end = (secured.peer, peer_address, local_address, secured.facts);
            let ending = (secured.until, withdrawn);
            return Ok(Inbound::new(session, ending, config, end));
        }
        let secured = self.tls.accept_fast(svid, tcp).await?;
        let session = match secured.stream {
            Agreed::Fast(fast) => Session::Exclusive(Serving {
                carrier: exclusive::greeted(*fast, config).await?,
                asked: None,
            }),
            Agreed::Mux(fast) => Session::Mux(Box::new(mux::greeted(*fast, config).await?)),
            Agreed::Http2(stream) => Session::Shared(Box::new(preface(stream, config).await?)),
        };
        let end = (secured.peer, peer_address, local_address, secured.facts);
        let ending = (secured.until, withdrawn);
        Ok(Inbound::new(session, ending, config, end))
    }
}

/// Waits for an HTTP/2 client's preface.
async fn preface(
    stream: Box<TlsStream<Turnstile<TcpStream>>>,
    config: &Config,
) -> Result<Prefaced, HandshakeError> {
    let (socket, activity) = Observed::new(stream);
    let windows = Windows::new(config);
    let connection = Builder::new()
        .max_concurrent_streams(config.max_accepted_streams)
        .initial_window_size(windows.sizes().stream)
        .initial_connection_window_size(windows.sizes().connection)
        .max_frame_size(config.max_frame_size)
        .max_header_list_size(config.max_request_headers)
        .max_send_buffer_size(config.send_buffer)
        .handshake(socket)
        .await;
    let mut connection =
        connection.map_err(|error| HandshakeError::NotHttp2(session_error(&error)))?;
    let keepalive = Keepalive {
        pings: connection.ping_pong(),
        activity,
        interval: config.ping_interval,
        timeout: config.ping_timeout,
    };
    Ok(Prefaced {
        connection,
        keepalive,
        windows,
    })
}

/// An HTTP/2 connection that is to be served.
struct Prefaced {
    connection: Http2,
    keepalive: Keepalive,
    windows: Windows,
}

type Http2 = Connection<Tunnelled, Segment>;

/// What was agreed upon.
enum Session {
    /// HTTP/2, with as many streams as there are.
    Shared(Box<Prefaced>),
    /// One stream at a time.
    Exclusive(Serving),
    /// Many, between two of our agents.
    Mux(Box<mux::Driver>),
}

/// What all requests of one connection have in common.
#[derive(Clone, Debug)]
struct End {
    peer: SpiffeId,
    peer_address: SocketAddr,
    local_address: SocketAddr,
    facts: SessionFacts,
}

/// A connection whose peer has proven who it is. Small, because a future has room for it wherever it
/// is handed on.
pub struct Inbound {
    session: Session,
    about: Box<About>,
}

/// What stays as it is while a connection is served.
struct About {
    until: Instant,
    /// Cancelled when a root that may have vouched for the peer is trusted no more.
    withdrawn: CancellationToken,
    config: Arc<Config>,
    end: End,
    lanes: Lanes,
}

/// How serving a connection has ended.
pub enum Served {
    /// So has the connection.
    Over,
    /// It is to be served on, on this lane: another stream has begun, and is better off there.
    Elsewhere(Arc<Lane>, Box<Inbound>),
}

/// What a peer asked for.
#[derive(Debug)]
pub enum Incoming {
    /// A connection.
    Connect(Box<Request>),
    /// Something that is not one.
    Rejected(Box<Rejected>),
}

/// A CONNECT that makes sense, waiting for its answer.
#[derive(Debug)]
pub struct Request {
    /// Who asks, proven by certificate.
    pub peer: SpiffeId,
    /// Where its connection comes from.
    pub peer_address: SocketAddr,
    /// The workload's address, and the port that the peer wants.
    pub destination: SocketAddr,
    /// What the peer says about the connection. Hints, never a decision.
    pub headers: ConnectHeaders,
    /// The TLS session.
    pub facts: SessionFacts,
    /// To be answered; dropping it refuses.
    pub answer: Answer,
}

/// A request that made no sense and has been refused.
#[derive(Debug)]
pub struct Rejected {
    /// Who asked, proven by certificate.
    pub peer: SpiffeId,
    /// Where its connection comes from.
    pub peer_address: SocketAddr,
    /// Where it came in.
    pub local_address: SocketAddr,
    /// What the peer says about the connection.
    pub headers: ConnectHeaders,
    /// The TLS session.
    pub facts: SessionFacts,
    /// What is wrong.
    pub error: BadConnect,
}

impl Inbound {
    fn new(
        session: Session,
        (until, withdrawn): (Instant, CancellationToken),
        config: &Arc<Config>,
        (peer, peer_address, local_address, facts): (
            SpiffeId,
            SocketAddr,
            SocketAddr,
            SessionFacts,
        ),
    ) -> Self {
        let about = About {
            until,
            withdrawn,
            config: Arc::clone(config),
            end: End {
                peer,
                peer_address,
                local_address,
                facts,
            },
            lanes: Lanes::default(),
        };
        Self {
            session,
            about: Box::new(about),
        }
    }

    /// Its streams are counted on these lanes, and may move among them.
    #[must_use]
    pub fn among(mut self, lanes: Lanes) -> Self {
        self.about.lanes = lanes;
        self
    }

    /// Who is at the other end, proven by certificate.
    pub const fn peer(&self) -> &SpiffeId {
        &self.about.end.peer
    }

    /// Where it comes from.
    pub const fn peer_address(&self) -> SocketAddr {
        self.about.end.peer_address
    }

    /// Serves requests until the connection has ended or moves. Each one is handed to `handler`,
    /// whose future runs among `tasks`. When those stop, the first of the two certificates ends, or a root
    /// is taken out of the bundle, the peer is told (GOAWAY) and open streams go on; the drain deadline is
    /// the tasks' own.
    ///
    /// # Errors
    ///
    /// Why the session ended, if not orderly.
    pub async fn serve<H, F>(self, tasks: &Tasks, handler: H) -> Result<Served, SessionError>
    where
        H: Fn(Incoming) -> F + Send + Sync,
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { session, about } = self;
        // Kept as long as the connection; where it is pinned it would be held twice.
        let over = Box::pin(over(tasks, &about));
        match session {
            Session::Exclusive(serving) => {
                let handle =
                    |asked| handler(admit_exclusive(asked, &about.end, &about.config.own_ports));
                match exclusive::serve(serving, &about.lanes, over, handle).await? {
                    Left::Over => Ok(Served::Over),
                    Left::For(lane, serving) => {
                        let session = Session::Exclusive(serving);
                        let inbound = Self { session, about };
                        Ok(Served::Elsewhere(lane, Box::new(inbound)))
                    }
                }
            }
            Session::Mux(mut driver) => {
                let handle = |fields: Box<Fields>, stream| {
                    let (end, ports) = (&about.end, &about.config.own_ports);
                    let request = asked_for(&fields, Answer::mux(stream), end, ports);
                    let (seat, handled) = (about.lanes.here(Load::Stream), handler(request));
                    tasks.spawn("inbound request", Seated::new(seat, handled));
                };
                let within = (&*about.config, &about.lanes);
                let moved = Box::pin(mux::serve(&mut driver, within, over, handle)).await?;
                let Some(lane) = moved else {
                    return Ok(Served::Over);
                };
                let session = Session::Mux(driver);
                Ok(Served::Elsewhere(lane, Box::new(Self { session, about })))
            }
            Session::Shared(shared) => {
                let handle = |(request, respond)| {
                    let request = admit(request, respond, &about.end, &about.config);
                    let (seat, handled) = (about.lanes.here(Load::Stream), handler(request));
                    tasks.spawn("inbound request", Seated::new(seat, handled));
                };
                // The state of a carrier with many streams shall not weigh on one with one.
                Box::pin(serve_shared(*shared, over, (&about.config, handle))).await?;
                Ok(Served::Over)
            }
        }
    }
}

/// Serves all streams of an HTTP/2 connection.
async fn serve_shared(
    prefaced: Prefaced,
    over: impl Future<Output = ()>,
    (config, handle): (&Config, impl Fn(Arrived)),
) -> Result<(), SessionError> {
    let Prefaced {
        mut connection,
        keepalive,
        mut windows,
    } = prefaced;
    let activity = keepalive.activity.clone();
    let mut silent = pin!(keepalive.silent());
    let mut over = pin!(over);
    let mut look = Instant::now() + idle_limit(config);
    let mut draining = false;
    loop {
        tokio::select! {
            accepted = poll_fn(|cx| {
                windows.look(activity.bytes(), |sizes| widen(&mut connection, sizes));
                connection.poll_accept(cx)
            }) => match accepted {
                None => return Ok(()),
                Some(Err(error)) => return ended(&error, !connection.has_streams()),
                Some(Ok(arrived)) => handle(arrived),
            },
            () = &mut silent => return Err(SessionError::Silent),
            () = &mut over, if !draining => {
                connection.graceful_shutdown();
                draining = true;
            }
            () = sleep_until(look), if !draining => {
                if !connection.has_streams() {
                    connection.graceful_shutdown();
                    draining = true;
                }
                look = Instant::now() + idle_limit(config);
            }
        }
    }
}

/// Grants larger windows, unless the peer has not answered the last time yet.
fn widen(connection: &mut Http2, sizes: Sizes) -> bool {
    let told = connection.set_initial_window_size(sizes.stream).is_ok();
    if told {
        connection.set_target_window_size(sizes.connection);
    }
    told
}

type Arrived = (HttpRequest<h2::RecvStream>, SendResponse<Segment>);

/// Resolves when nothing new is to be served: the tasks stop, a certificate has ended, or is perhaps
/// vouched for no more.
async fn over(tasks: &Tasks, about: &About) {
    tokio::select! {
        () = tasks.stopping() => {}
        () = about.withdrawn.cancelled() => {}
        () = sleep_until(about.until) => {}
    }
}

/// Clients idle out first, so that ours ends up closing only what they forget.
const fn idle_limit(config: &Config) -> Duration {
    config.idle_timeout.saturating_mul(2)
}

/// A peer that closes without a goodbye (ztunnel does) has ended the session all the same, and
/// one that resets it when nothing is open has harmed nobody.
fn ended(error: &h2::Error, idle: bool) -> Result<(), SessionError> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match session_error(error) {
        SessionError::GoAway { code } if code == "NO_ERROR" => Ok(()),
        SessionError::Io(error) if error.kind() == UnexpectedEof => Ok(()),
        SessionError::Io(error) if idle && matches!(error.kind(), BrokenPipe | ConnectionReset) => {
            Ok(())
        }
        error => Err(error),
    }
}

/// Checks a request, and refuses it at once if it makes no sense here.
fn admit(
    request: HttpRequest<h2::RecvStream>,
    respond: SendResponse<Segment>,
    end: &End,
    config: &Config,
) -> Incoming {
    let (parts, receive) = request.into_parts();
    let authority = parts.uri.authority().map(http::uri::Authority::as_str);
    let arrived = end.local_address.ip();
    let wanted = destination(&parts.method, authority, arrived, &config.own_ports);
    let answer = Answer::shared(respond, receive, config.send_buffer);
    end.incoming(wanted, ConnectHeaders::read(&parts.headers), answer)
}

/// The same on an exclusive carrier.
fn admit_exclusive(asked: Asked, end: &End, own_ports: &[u16]) -> Incoming {
    let Asked { fields, stream } = asked;
    asked_for(&fields, Answer::exclusive(stream), end, own_ports)
}

fn asked_for(fields: &Fields, answer: Answer, end: &End, own_ports: &[u16]) -> Incoming {
    // A request with a scheme or a path is none for a connection, whatever its method says
    // (RFC 9113 8.5).
    let method = fields.method.as_ref().filter(|_| !fields.is_located);
    let arrived = end.local_address.ip();
    let wanted = method.map_or(Err(BadConnect::NotConnect), |method| {
        destination(method, fields.authority.as_deref(), arrived, own_ports)
    });
    end.incoming(wanted, ConnectHeaders::read(&fields.headers), answer)
}

impl End {
    fn incoming(
        &self,
        wanted: Result<SocketAddr, BadConnect>,
        headers: ConnectHeaders,
        answer: Answer,
    ) -> Incoming {
        match wanted {
            Ok(destination) => Incoming::Connect(Box::new(Request {
                peer: self.peer.clone(),
                peer_address: self.peer_address,
                destination,
                headers,
                facts: self.facts,
                answer,
            })),
            Err(error) => {
                answer.refuse(&error.refusal());
                Incoming::Rejected(Box::new(Rejected {
                    peer: self.peer.clone(),
                    peer_address: self.peer_address,
                    local_address: self.local_address,
                    headers,
                    facts: self.facts,
                    error,
                }))
            }
        }
    }
}
