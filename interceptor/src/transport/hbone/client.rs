//! Opening a tunnel: the workload's certificate, a carrier, a CONNECT, and the peer's answer.
//!
//! # Invariants
//!
//! * One client belongs to one workload: it dials from that workload's network namespace, with the
//!   certificate of the identity that the caller names.
//! * A CONNECT is sent again only if the peer has not answered, and either the carrier had been
//!   used before and turned out dead, or the peer said goodbye before it looked (its agent is being
//!   replaced; a successor answers the next carrier). Nothing of the application's had been sent.
//! * Everything has a limit: dialling, handshake, answer.

use std::fmt;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use interceptor_policy::SpiffeId;
use tokio::time::timeout;

use super::super::config::Config;
use super::super::error::{SessionError, Stage, TunnelError};
use super::super::tls::{SessionFacts, Tls};
use super::carrier::establish;
use super::headers::ConnectHeaders;
use super::pool::{Choice, Key, Lease, Pool, Slot};
use super::refusal::PeerReason;
use super::stream::{TunnelStream, session_error, stream_error};
use crate::drain::Tasks;
use crate::identity::{Identities, Svid};
use crate::net::Dialer;
use crate::workload::Route;

/// How often in a row a peer may end a carrier in order before it has answered. One that always
/// does serves nobody.
const MOST_GOODBYES: u32 = 3;

/// Opens tunnels for one workload. Clones share its carriers.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    config: Arc<Config>,
    identities: Arc<Identities>,
    tls: Tls,
    dialer: Dialer,
    pool: Arc<Pool>,
    tasks: Tasks,
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
    /// Final.
    Final(TunnelError),
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
        let shared = Shared {
            tls: Tls::new(identities.verifier()),
            pool: Arc::new(Pool::new(Arc::clone(&config))),
            config,
            identities,
            dialer,
            tasks,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Opens a tunnel along `route`, as `source`.
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
    ) -> Result<Tunnel, TunnelError> {
        let key = Key {
            source: source.clone(),
            peer: route.peer.clone(),
            gateway: route.gateway,
        };
        let mut choice = Choice::Any;
        let mut goodbyes = 0;
        loop {
            let lease = self.lease(&key, choice)?;
            let (slot, reused) = (Arc::clone(&lease.slot), lease.reused);
            match self.attempt(lease, route, headers).await {
                Ok(tunnel) => return Ok(tunnel),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Dead(error)) => {
                    self.shared.pool.retire(&slot);
                    let goodbye = error.is_goodbye() && goodbyes < MOST_GOODBYES;
                    if !goodbye && (!reused || choice == Choice::Fresh) {
                        return Err(broken(&key, error));
                    }
                    goodbyes += 1;
                    tracing::debug!(gateway = %key.gateway, %error, "retrying on a fresh carrier");
                    choice = Choice::Fresh;
                }
            }
        }
    }

    /// Gives up all carriers: new tunnels get new ones. Open tunnels go on.
    pub fn retire_carriers(&self) {
        self.shared.pool.retire_all();
    }

    /// Carriers that are established or being set up.
    pub fn carriers(&self) -> usize {
        self.shared.pool.len()
    }

    /// A carrier for one stream; its set-up is started if it is a new one.
    fn lease(&self, key: &Key, choice: Choice) -> Result<Lease, TunnelError> {
        let shared = &self.shared;
        if shared.tasks.is_stopping() {
            return Err(TunnelError::Draining);
        }
        let svid = shared.identities.current(&key.source);
        let svid = svid.ok_or_else(|| TunnelError::NoIdentity {
            identity: key.source.clone(),
        })?;
        let (lease, new) = shared.pool.lease(key, &svid, choice);
        if let Some(slot) = new {
            let shared = Arc::clone(shared);
            // Not a part of this connection: others wait for it, and it outlives a client that
            // gives up.
            let tasks = shared.tasks.clone();
            tasks.spawn("carrier", shared.carry(slot, svid));
        }
        Ok(lease)
    }

    async fn attempt(
        &self,
        lease: Lease,
        route: &Route,
        headers: &ConnectHeaders,
    ) -> Result<Tunnel, Failure> {
        let slot = Arc::clone(&lease.slot);
        let facts = slot.outcome.wait().await.clone().map_err(Failure::Final)?;
        let requests = slot.requests.lock().clone();
        let gone = || SessionError::GoAway {
            code: "NO_ERROR".to_owned(),
        };
        let requests = requests.ok_or_else(|| Failure::Dead(gone()))?;
        let dead = |error: h2::Error| Failure::Dead(session_error(&error));
        let mut requests = requests.ready().await.map_err(dead)?;
        let request = connect(route, headers).map_err(Failure::Final)?;
        let (answer, send) = requests.send_request(request, false).map_err(dead)?;
        let limit = self.shared.config.answer_timeout;
        let answer = timeout(limit, answer).await.map_err(|_elapsed| {
            Failure::Final(TunnelError::TimedOut {
                gateway: slot.key.gateway,
                stage: Stage::Answer,
                limit,
            })
        })?;
        let answer = answer.map_err(|error| unanswered(&slot.key, &error))?;
        let (parts, receive) = answer.into_parts();
        if parts.status != StatusCode::OK {
            return Err(Failure::Final(TunnelError::Refused {
                peer: slot.key.peer.clone(),
                status: parts.status,
                detail: PeerReason::from_headers(&parts.headers).map(Box::new),
            }));
        }
        Ok(Tunnel {
            peer: slot.key.peer.clone(),
            facts,
            reused: lease.reused,
            headers: ConnectHeaders::read(&parts.headers),
            stream: TunnelStream::new(send, receive, Some(lease)),
        })
    }
}

impl Shared {
    /// One carrier's life: set-up, service, end.
    async fn carry(self: Arc<Self>, slot: Arc<Slot>, svid: Arc<Svid>) {
        let unfinished = Unfinished(Arc::clone(&slot), Arc::clone(&self.pool));
        let key = &slot.key;
        let established = establish(&self.dialer, &self.tls, &svid, key, &self.config).await;
        drop(svid);
        match established {
            Ok(carrier) => {
                slot.ready(carrier.requests, carrier.facts, carrier.allowed);
                let (pool, tasks) = (Arc::clone(&self.pool), self.tasks.clone());
                carrier.driver.run(Arc::clone(&slot), pool, tasks).await;
            }
            Err(error) => slot.publish(Err(error)),
        }
        drop(unfinished);
    }
}

/// Leaves nobody waiting for a carrier whose task was cancelled or has failed.
struct Unfinished(Arc<Slot>, Arc<Pool>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.1.retire(&self.0);
        self.0.requests.lock().take();
        self.0.publish(Err(TunnelError::Draining));
    }
}

/// The request.
fn connect(route: &Route, headers: &ConnectHeaders) -> Result<Request<()>, TunnelError> {
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(route.authority.to_string());
    let mut request = request.body(()).map_err(|error| TunnelError::Session {
        gateway: route.gateway,
        peer: route.peer.clone(),
        source: SessionError::Protocol {
            detail: error.to_string(),
        },
    })?;
    headers.write(request.headers_mut());
    Ok(request)
}

/// A stream that ended before its answer: whether another carrier may do.
fn unanswered(key: &Key, error: &h2::Error) -> Failure {
    let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    if !error.is_reset() || refused {
        return Failure::Dead(session_error(error));
    }
    Failure::Final(broken(
        key,
        SessionError::Protocol {
            detail: stream_error(error).to_string(),
        },
    ))
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
