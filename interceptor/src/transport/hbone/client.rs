//! Opening a tunnel: the workload's certificate, a carrier, a CONNECT, and the peer's answer.
//!
//! # Invariants
//!
//! * One client belongs to one workload: it dials from that workload's network namespace, with the
//!   certificate of the identity that the caller names.
//! * A CONNECT is sent again only if the peer has not answered, and either the carrier had been
//!   used before and turned out dead, or the peer said goodbye before it looked (its agent is being
//!   replaced; a successor answers the next carrier). If bytes of the application's went with it,
//!   only in the second case: then the peer has not seen them.
//! * Everything has a limit: dialling, handshake, answer.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method, Request, StatusCode};
use interceptor_policy::SpiffeId;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::config::Config;
use super::super::error::{SessionError, Stage, TunnelError};
use super::super::exclusive::{self, AskError, Checkout, Early, Handed, Quota, Ready, Warm};
use super::super::mux;
use super::super::tls::{SessionFacts, Tls};
use super::headers::ConnectHeaders;
use super::pool::{Choice, Crowd, Key, Lease, Pool, Requests, Slot};
use super::refusal::PeerReason;
use super::stream::{TunnelStream, session_error, stream_error};
use crate::drain::Tasks;
use crate::identity::{Identities, Svid};
use crate::lanes::PerLane;
use crate::net::Dialer;
use crate::workload::Route;

/// How often in a row a peer may end a carrier in order before it has answered. One that always
/// does serves nobody.
const MOST_GOODBYES: u32 = 3;

/// How often a peer may refuse a stream that it has not looked at. One that always does has no room.
const MOST_REFUSALS: usize = 3;

/// Opens tunnels for one workload, on one lane. Clones share its carriers.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    pub(super) identities: Arc<Identities>,
    pub(super) tls: Tls,
    pub(super) dialer: Dialer,
    /// Carriers that streams share.
    pub(super) pool: Arc<Pool>,
    /// Carriers that one stream at a time has to itself.
    pub(super) warm: Arc<Warm>,
    pub(super) tasks: Tasks,
}

/// An open tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// Its bytes.
    pub stream: TunnelStream,
    /// Who is at the other end, proven.
    pub peer: SpiffeId,
    /// The TLS session of its carrier.
    pub facts: SessionFacts,
    /// Whether the carrier had been established before.
    pub reused: bool,
    /// What the peer says about itself.
    pub headers: ConnectHeaders,
}

/// Why one attempt failed.
enum Failure {
    /// The carrier is dead and the peer has not answered: another one may do.
    Dead(SessionError),
    /// The peer has refused this stream unseen: another carrier may do, and this one is none the worse.
    Unseen(SessionError),
    /// Final.
    Final(TunnelError),
}

/// What one connection asks for.
struct Ask<'a> {
    key: Key,
    svid: Arc<Svid>,
    authority: String,
    headers: &'a ConnectHeaders,
    early: Early<'a>,
    /// Shared carriers on which it was refused unseen.
    refused: Vec<Arc<Slot>>,
}

impl Client {
    /// A client that dials by `dialer` and keeps its carriers among `tasks`: when those stop, it
    /// opens nothing more, and what is open ends by itself.
    pub fn new(
        config: Arc<Config>,
        identities: Arc<Identities>,
        dialer: Dialer,
        tasks: Tasks,
    ) -> Self {
        Self::within(Quota::default(), (config, identities), dialer, tasks)
    }

    /// The clients of one workload, one for each lane: carriers stay where they were made. What is
    /// bounded is bounded for all of them together.
    pub fn per_lane(
        lanes: usize,
        config: &Arc<Config>,
        identities: &Arc<Identities>,
        dialer: &Dialer,
        tasks: &Tasks,
    ) -> PerLane<Self> {
        let count = lanes.clamp(1, config.max_carriers.max(1));
        let share = Arc::new(Config {
            max_carriers: config.max_carriers / count,
            ..Config::clone(config)
        });
        let quota = Quota::default();
        PerLane::new(count, || {
            let given = (Arc::clone(&share), Arc::clone(identities));
            Self::within(quota.clone(), given, dialer.clone(), tasks.clone())
        })
    }

    fn within(
        quota: Quota,
        (config, identities): (Arc<Config>, Arc<Identities>),
        dialer: Dialer,
        tasks: Tasks,
    ) -> Self {
        let shared = Shared {
            tls: Tls::new(identities.verifier()),
            pool: Arc::new(Pool::new(Arc::clone(&config))),
            warm: Arc::new(Warm::new(Arc::clone(&config), quota, tasks.clone())),
            config,
            identities,
            dialer,
            tasks,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Opens a tunnel along `route`, as `source`. What `app` has said already may travel with the
    /// request; it is then no longer in its socket.
    ///
    /// # Errors
    ///
    /// Why there is none, for the access line.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream if it was opened. A carrier being set up goes on and
    /// serves the next connection.
    pub async fn open(
        &self,
        source: &SpiffeId,
        route: &Route,
        headers: &ConnectHeaders,
        app: Option<&TcpStream>,
    ) -> Result<Tunnel, TunnelError> {
        let shared = &self.shared;
        if shared.tasks.is_stopping() {
            return Err(TunnelError::Draining);
        }
        let svid = shared.identities.current(source);
        let svid = svid.ok_or_else(|| TunnelError::NoIdentity {
            identity: source.clone(),
        })?;
        let mut ask = Ask {
            key: Key {
                source: source.clone(),
                peer: route.peer.clone(),
                gateway: route.gateway,
            },
            svid,
            authority: route.authority.to_string(),
            headers,
            early: Early::of(app),
            refused: Vec::new(),
        };
        let mut choice = Choice::Any;
        let (mut goodbyes, mut refusals) = (0, 0);
        loop {
            let (reused, error) = match self.attempt(&mut ask, choice).await {
                Ok(tunnel) => return Ok(tunnel),
                Err((_, Failure::Final(error))) => return Err(error),
                Err((_, Failure::Unseen(error))) => {
                    if refusals >= MOST_REFUSALS {
                        return Err(broken(&ask.key, error));
                    }
                    refusals += 1;
                    tracing::debug!(gateway = %ask.key.gateway, %error, "asking on another carrier");
                    if choice == Choice::Any {
                        choice = Choice::Another;
                    }
                    continue;
                }
                Err((reused, Failure::Dead(error))) => (reused, error),
            };
            let goodbye = error.is_goodbye() && goodbyes < MOST_GOODBYES;
            if !goodbye && (!reused || choice == Choice::Fresh) {
                return Err(broken(&ask.key, error));
            }
            goodbyes += 1;
            tracing::debug!(gateway = %ask.key.gateway, %error, "retrying on a fresh carrier");
            choice = Choice::Fresh;
        }
    }

    /// One attempt. A failure says whether the carrier had been used before.
    async fn attempt(&self, ask: &mut Ask<'_>, choice: Choice) -> Result<Tunnel, (bool, Failure)> {
        let (handed, choice) = self.exclusive(ask, choice).await;
        match handed {
            Handed::Ready(ready) => {
                let reused = ready.reused;
                let asked = self.ask_exclusively(ask, ready).await;
                asked.map_err(|failure| (reused, failure))
            }
            Handed::Failed(error) => Err((false, Failure::Final(error))),
            Handed::Share => self.share(ask, choice, Crowd::Spread).await,
            Handed::Gather(grain) => {
                let mut tunnel = self.share(ask, choice, Crowd::Together).await?;
                tunnel.stream = tunnel.stream.reporting_to(grain);
                Ok(tunnel)
            }
        }
    }

    /// An attempt on a shared carrier.
    async fn share(
        &self,
        ask: &mut Ask<'_>,
        choice: Choice,
        crowd: Crowd,
    ) -> Result<Tunnel, (bool, Failure)> {
        let lease = self.lease(ask, choice, crowd);
        let (slot, reused) = (Arc::clone(&lease.slot), lease.reused);
        let asked = Box::pin(self.ask_among_others(lease, ask)).await;
        asked.map_err(|failure| {
            match &failure {
                Failure::Dead(_) => self.shared.pool.retire(&slot),
                Failure::Unseen(_) => ask.refused.push(slot),
                Failure::Final(_) => {}
            }
            (reused, failure)
        })
    }

    /// Gives up all carriers: new tunnels get new ones. Open tunnels go on.
    pub fn retire_carriers(&self) {
        self.shared.pool.retire_all();
        self.shared.warm.retire_all();
    }

    /// Carriers that are established or being set up.
    pub fn carriers(&self) -> usize {
        self.shared.pool.len() + self.shared.warm.len()
    }

    /// Carriers to oneself that are established and not in use.
    #[cfg(test)]
    pub(in crate::transport) fn idle_carriers(&self) -> usize {
        self.shared.warm.idle()
    }

    /// A carrier to itself, if there is one.
    /// With which shared ones will do otherwise: what came of a dial was not there before.
    async fn exclusive(&self, ask: &Ask<'_>, choice: Choice) -> (Handed, Choice) {
        let shared = &self.shared;
        if shared.config.max_exclusive == 0 {
            return (Handed::Share, choice);
        }
        let is_foreign = || shared.pool.is_foreign(&ask.key);
        let checkout = shared
            .warm
            .checkout(&ask.key, &ask.svid, choice, is_foreign);
        match checkout {
            Checkout::Now(handed) => (handed, choice),
            Checkout::Wait(handed, dial) => {
                if let Some(dial) = dial {
                    // Not a part of this connection: others may get what comes of it.
                    let tasks = shared.tasks.clone();
                    tasks.spawn("dial", Arc::clone(shared).dial(ask.key.clone(), dial));
                }
                // Nobody keeps the other end and drops it without an answer.
                let gone = |_gone| Handed::Failed(TunnelError::Draining);
                (handed.await.unwrap_or_else(gone), Choice::Any)
            }
        }
    }

    async fn ask_exclusively(&self, ask: &mut Ask<'_>, ready: Ready) -> Result<Tunnel, Failure> {
        let (reused, facts) = (ready.reused, ready.place.facts);
        let grain = ready.place.grain();
        let answer = exclusive::ask(ready, &ask.authority, ask.headers, &mut ask.early);
        match answer.await {
            Ok((stream, fields)) => Ok(Tunnel {
                peer: ask.key.peer.clone(),
                facts,
                reused,
                headers: ConnectHeaders::read(&fields.headers),
                stream: TunnelStream::exclusive(stream).reporting_to(grain),
            }),
            Err(error) => Err(self.not_asked(&ask.key, error)),
        }
    }

    fn not_asked(&self, key: &Key, error: AskError) -> Failure {
        match error {
            AskError::Dead(error) => Failure::Dead(error),
            AskError::Unseen(error) => Failure::Unseen(error),
            AskError::Broken(error) => Failure::Final(broken(key, error)),
            AskError::TimedOut => Failure::Final(self.unanswered_in_time(key)),
            AskError::Refused(fields) => {
                let status = fields.status.unwrap_or(StatusCode::BAD_GATEWAY);
                Failure::Final(refused(key, status, &fields.headers))
            }
        }
    }

    /// A shared carrier; its set-up is started if it is a new one.
    fn lease(&self, ask: &Ask<'_>, choice: Choice, crowd: Crowd) -> Lease {
        let shared = &self.shared;
        let among = (choice, ask.refused.as_slice());
        let (lease, new) = shared.pool.lease(&ask.key, &ask.svid, among, crowd);
        if let Some(slot) = new {
            let shared = Arc::clone(shared);
            // Not a part of this connection: others wait for it, and it outlives a client that
            // gives up.
            let tasks = shared.tasks.clone();
            tasks.spawn("carrier", shared.carry(slot));
        }
        lease
    }

    async fn ask_among_others(&self, lease: Lease, ask: &mut Ask<'_>) -> Result<Tunnel, Failure> {
        let slot = Arc::clone(&lease.slot);
        let facts = slot.outcome.wait().await.clone().map_err(Failure::Final)?;
        let requests = slot.requests.lock().clone();
        let gone = || Failure::Dead(SessionError::goodbye());
        let mut requests = match requests.ok_or_else(gone)? {
            Requests::Http2(requests) => requests,
            Requests::Mux(hub) => {
                let reused = lease.reused;
                let early = &mut ask.early;
                let asked = mux::ask((&hub, lease), &ask.authority, ask.headers, early).await;
                let (stream, fields) = asked.map_err(|error| self.not_asked(&slot.key, error))?;
                return Ok(Tunnel {
                    peer: slot.key.peer.clone(),
                    facts,
                    reused,
                    headers: ConnectHeaders::read(&fields.headers),
                    stream: TunnelStream::mux(stream),
                });
            }
        };
        let dead = |error: h2::Error| Failure::Dead(session_error(&error));
        requests = requests.ready().await.map_err(dead)?;
        let request = connect(ask).map_err(Failure::Final)?;
        let (answer, send) = requests.send_request(request, false).map_err(dead)?;
        let answer = timeout(self.shared.config.answer_timeout, answer).await;
        let late = |_elapsed| Failure::Final(self.unanswered_in_time(&slot.key));
        let answer = answer.map_err(late)?;
        let answer = answer.map_err(|error| unanswered(&slot.key, &error))?;
        let (parts, receive) = answer.into_parts();
        if parts.status != StatusCode::OK {
            let error = refused(&slot.key, parts.status, &parts.headers);
            return Err(Failure::Final(error));
        }
        let reused = lease.reused;
        let stream = TunnelStream::new(send, receive, Some(lease), self.shared.config.send_buffer);
        // What was taken from the application for an exclusive carrier that turned out dead.
        let stream = stream.after(ask.early.said());
        Ok(Tunnel {
            peer: slot.key.peer.clone(),
            facts,
            reused,
            headers: ConnectHeaders::read(&parts.headers),
            stream: stream.map_err(|error| {
                let detail = error.to_string();
                Failure::Final(broken(&slot.key, SessionError::Protocol { detail }))
            })?,
        })
    }

    fn unanswered_in_time(&self, key: &Key) -> TunnelError {
        TunnelError::TimedOut {
            gateway: key.gateway,
            stage: Stage::Answer,
            limit: self.shared.config.answer_timeout,
        }
    }
}

/// The request.
fn connect(ask: &Ask<'_>) -> Result<Request<()>, TunnelError> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(ask.authority.as_str());
    let mut request = request.body(()).map_err(|error| {
        let detail = error.to_string();
        broken(&ask.key, SessionError::Protocol { detail })
    })?;
    ask.headers.write(request.headers_mut());
    Ok(request)
}

fn refused(key: &Key, status: StatusCode, headers: &HeaderMap) -> TunnelError {
    TunnelError::Refused {
        peer: key.peer.clone(),
        status,
        detail: PeerReason::from_headers(headers).map(Box::new),
    }
}

/// A stream that ended before its answer: whether another carrier may do.
fn unanswered(key: &Key, error: &h2::Error) -> Failure {
    if !error.is_reset() {
        return Failure::Dead(session_error(error));
    }
    let detail = stream_error(error).to_string();
    if error.reason() == Some(h2::Reason::REFUSED_STREAM) {
        return Failure::Unseen(SessionError::Protocol { detail });
    }
    Failure::Final(broken(key, SessionError::Protocol { detail }))
}

fn broken(key: &Key, source: SessionError) -> TunnelError {
    TunnelError::Session {
        gateway: key.gateway,
        peer: key.peer.clone(),
        source,
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({} carriers)", self.carriers())
    }
}
