//! A connection that a local workload opened: from the captured socket to the peer.
//!
//! The application's `connect(2)` has already succeeded, against the agent. Whatever goes wrong
//! after that is shown to it as a reset, never as an orderly end: an end of file would claim that
//! the other side had answered with nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use interceptor_policy::SpiffeId;
use tokio::net::TcpStream;

use super::bound::{Guest, TooMany};
use super::direct;
use super::registry::Basis;
use super::story::{Stop, Story, because, flags_of};
use super::{Local, Plane};
use crate::decide::{self, Outbound, PassthroughReason};
use crate::error::chain;
use crate::net::{Purpose, is_out_of_resources};
use crate::reason::Label;
use crate::telemetry::record::{ConnectionId, End, Reason, Reporter, ResponseFlags, Security};
use crate::transport::hbone::{Baggage, ConnectHeaders, Traceparent, TunnelStream};
use crate::transport::{TunnelError, splice};
use crate::workload::{Route, Workload};

/// Serves one captured connection until both directions have ended.
///
/// Not an `async fn`: what that is called with is kept until its end, needed or not.
pub(super) fn serve(
    plane: Arc<Plane>,
    local: Arc<Local>,
    (app, client): (TcpStream, SocketAddr),
) -> impl Future<Output = ()> + Send {
    let guest = Guest::enter(&local);
    let too_many = guest.objection_to(&app);
    // What opening takes is large, and most of the time a connection is open.
    let opening = Box::pin(open(plane, local, (app, client), too_many));
    async move {
        // As long as it has connections, a workload has its tunnels.
        let _guest = guest;
        let Some((app, opened)) = opening.await else {
            return;
        };
        match opened {
            Opened::Tunnel(opened) => opened.carry(&app).await,
            Opened::Plain(opened) => Box::pin(opened.carry(&app)).await,
        }
    }
}

/// A connection whose other end was reached. Boxed: whoever takes it apart where it is awaited keeps
/// room for it.
enum Opened {
    Tunnel(Box<Ready<TunnelStream>>),
    Plain(Box<Ready<TcpStream>>),
}

/// What is needed to carry it.
struct Ready<P> {
    story: Story,
    basis: Basis,
    allowed_by: Reason,
    peer: P,
}

impl Ready<TunnelStream> {
    /// The box is gone on return; who takes it apart where the rest is awaited keeps it until then.
    fn carry(self: Box<Self>, app: &Arc<TcpStream>) -> impl Future<Output = ()> + Send {
        let (story, stream) = (self.story, self.peer);
        story.carry(self.basis, self.allowed_by, |traffic| {
            splice::tunnel(app, stream, traffic)
        })
    }
}

impl Ready<TcpStream> {
    fn carry(self: Box<Self>, app: &TcpStream) -> impl Future<Output = ()> + Send {
        let (story, peer) = (self.story, self.peer);
        story.carry(self.basis, self.allowed_by, move |traffic| async move {
            splice::plain(app, &peer, traffic).await
        })
    }
}

/// Finds out where a captured connection shall go, and reaches it; or tells why not.
async fn open(
    plane: Arc<Plane>,
    local: Arc<Local>,
    (app, client): (TcpStream, SocketAddr),
    too_many: Option<TooMany>,
) -> Option<(Arc<TcpStream>, Opened)> {
    let opened = reach(&plane, &local, (&app, client), too_many).await?;
    Some((Arc::new(app), opened))
}

async fn reach(
    plane: &Arc<Plane>,
    local: &Local,
    (app, client): (&TcpStream, SocketAddr),
    too_many: Option<TooMany>,
) -> Option<Opened> {
    let mesh = plane.mesh.load_full();
    let source = mesh.workload(&local.id).cloned();
    let ends = (End::local(client, source.as_ref()), End::default());
    let mut story = Story::begin(plane, ConnectionId::random(), Reporter::Source, ends);

    let original = match local.origin.outbound(app) {
        Ok(original) => original,
        Err(error) => {
            let reason = because(error.reason(), chain(&error));
            return story.reset(app, Stop::failed(ResponseFlags::None, reason));
        }
    };
    story.facts().destination.address = Some(original);
    let Some(source) = source else {
        let reason = because(
            Label::UnknownSource,
            "the workload is no longer part of the mesh",
        );
        return story.reset(app, Stop::denied(reason));
    };
    if let Some(too_many) = too_many {
        return story.reset(app, Stop::failed(ResponseFlags::None, too_many.reason()));
    }

    let captured = Captured {
        plane,
        local,
        source,
        client,
        original,
    };
    let asked = direct::Captured {
        local,
        socket: app,
        original,
    };
    let choice = plane.direct.choice(&asked);
    match decide::outbound(&mesh, &captured.source, original, choice) {
        Outbound::Tunnel(route) => {
            plane.direct.offer(plane, &asked);
            captured.tunnel(story, app, route).await
        }
        Outbound::Passthrough {
            to,
            why,
            destination,
            service,
        } => {
            let facts = story.facts();
            facts.destination = End::unproven(to, destination.as_ref());
            facts.service = service;
            captured.passthrough(story, app, to, why).await
        }
        Outbound::Refuse(refusal) => {
            let facts = story.facts();
            facts.destination = End::unproven(original, refusal.destination.as_ref());
            facts.service.clone_from(&refusal.service);
            let reason = because(refusal.reason(), refusal.to_string());
            story.reset(app, Stop::denied(reason))
        }
    }
}

/// A captured connection whose source and original destination are known.
struct Captured<'a> {
    plane: &'a Arc<Plane>,
    local: &'a Local,
    source: Arc<Workload>,
    client: SocketAddr,
    original: SocketAddr,
}

impl Captured<'_> {
    /// Opens a tunnel: mutual TLS.
    async fn tunnel(&self, mut story: Story, app: &TcpStream, route: Route) -> Option<Opened> {
        let facts = story.facts();
        facts.destination = End::unproven(route.gateway, Some(&route.destination));
        facts.hbone_address = Some(route.authority);
        facts.service.clone_from(&route.service);
        facts.security = Security::MutualTls;
        let headers = self.headers(facts.id);

        let opened = (self.local.tunnels.here())
            .open(&self.source.identity, &route, &headers, Some(app))
            .await;
        let tunnel = match opened {
            Ok(tunnel) => tunnel,
            Err(error) => {
                if let TunnelError::Refused { peer, .. } = &error {
                    story.facts().destination.identity = Some(peer.clone());
                }
                return story.reset(app, stop(&error));
            }
        };
        let facts = story.facts();
        facts.destination.identity = Some(tunnel.peer.clone());
        facts.tls = Some(tunnel.facts.into());
        Some(Opened::Tunnel(Box::new(Ready {
            story,
            // As the mesh names it; the peer may have proven an alias of the same trust domain.
            basis: self.basis(Some((route.gateway.ip(), route.peer.clone()))),
            allowed_by: because(Label::Allowed, "the peer accepted"),
            peer: tunnel.stream,
        })))
    }

    /// Connects in plaintext, because the other end cannot prove an identity.
    async fn passthrough(
        &self,
        story: Story,
        app: &TcpStream,
        to: SocketAddr,
        why: PassthroughReason,
    ) -> Option<Opened> {
        let limit = self.plane.connect_timeout;
        let dialling = self.local.dialer.connect(to, Purpose::Peer);
        let peer = match tokio::time::timeout(limit, dialling).await {
            Ok(Ok(peer)) => peer,
            Ok(Err(error)) => {
                let label = if is_out_of_resources(&error) {
                    Label::AgentExhausted
                } else {
                    Label::Unreachable
                };
                let reason = because(label, format!("cannot reach {to}: {error}"));
                return story.reset(app, Stop::failed(ResponseFlags::Connect, reason));
            }
            Err(_elapsed) => {
                let reason = because(
                    Label::Timeout,
                    format!("{to} did not answer within {limit:?}"),
                );
                return story.reset(app, Stop::failed(ResponseFlags::Connect, reason));
            }
        };
        Some(Opened::Plain(Box::new(Ready {
            story,
            basis: self.basis(None),
            allowed_by: because(why.reason(), "carried in plaintext"),
            peer,
        })))
    }

    fn basis(&self, peer: Option<(IpAddr, SpiffeId)>) -> Basis {
        Basis::Outbound {
            source: self.local.id.clone(),
            identity: self.source.identity.clone(),
            original: self.original,
            peer,
        }
    }

    /// What the peer is told about the caller: hints for its telemetry, never for its decision.
    fn headers(&self, id: ConnectionId) -> ConnectHeaders {
        let source = &self.source;
        ConnectHeaders {
            baggage: Baggage {
                cluster: None,
                namespace: Some(source.id.namespace.to_string()),
                workload: Some(("pod".to_owned(), source.id.name.to_string())),
                service: Some(source.canonical.service.to_string()),
                revision: Some(source.canonical.revision.to_string()),
            },
            forwarded: Some(self.client),
            traceparent: Some(Traceparent {
                trace: rand::random_range(1..=u128::MAX),
                parent: id.0,
                sampled: false,
            }),
        }
    }
}

/// What is recorded of a tunnel that was not opened.
fn stop(error: &TunnelError) -> Stop {
    let mut reason = because(error.reason(), chain(error));
    if let TunnelError::Refused {
        detail: Some(said), ..
    } = error
    {
        reason.policy.clone_from(&said.policy);
        reason.rule = said.rule;
    }
    match error {
        TunnelError::Refused { status, .. } if *status == http::StatusCode::UNAUTHORIZED => {
            Stop::denied(reason)
        }
        TunnelError::Refused { .. }
        | TunnelError::Unreachable { .. }
        | TunnelError::TimedOut { .. }
        | TunnelError::Draining => Stop::failed(ResponseFlags::Connect, reason),
        TunnelError::NoIdentity { .. } => Stop::failed(ResponseFlags::IdentityError, reason),
        TunnelError::Handshake { source, .. } => Stop::failed(flags_of(source), reason),
        TunnelError::WrongPeer { .. } => Stop::failed(ResponseFlags::TlsFailure, reason),
        TunnelError::Session { .. } => Stop::failed(ResponseFlags::H2HandshakeFailure, reason),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use http::StatusCode;
    use rstest::rstest;

    use super::*;
    use crate::transport::{HandshakeError, SessionError, Stage};

    fn gateway() -> SocketAddr {
        "10.2.0.2:15008".parse().unwrap()
    }

    fn server() -> SpiffeId {
        "spiffe://cluster.local/ns/demo/sa/server".parse().unwrap()
    }

    fn unreachable(errno: i32) -> TunnelError {
        TunnelError::Unreachable {
            gateway: gateway(),
            source: Arc::new(io::Error::from_raw_os_error(errno)),
        }
    }

    fn refused(status: StatusCode) -> TunnelError {
        TunnelError::Refused {
            peer: server(),
            status,
            detail: None,
        }
    }

    #[rstest]
    #[case::no_identity(TunnelError::NoIdentity { identity: server() })]
    #[case::nobody_listens(unreachable(libc::ECONNREFUSED))]
    #[case::no_descriptors(unreachable(libc::EMFILE))]
    #[case::late(TunnelError::TimedOut {
        gateway: gateway(),
        stage: Stage::Answer,
        limit: Duration::ZERO,
    })]
    #[case::handshake(TunnelError::Handshake {
        gateway: gateway(),
        expected: server(),
        source: HandshakeError::NotTls,
    })]
    #[case::no_http2(TunnelError::Handshake {
        gateway: gateway(),
        expected: server(),
        source: HandshakeError::NotHttp2(SessionError::Silent),
    })]
    #[case::another_peer(TunnelError::WrongPeer {
        gateway: gateway(),
        expected: server(),
        got: server(),
    })]
    #[case::refused_by_policy(refused(StatusCode::UNAUTHORIZED))]
    #[case::refused(refused(StatusCode::SERVICE_UNAVAILABLE))]
    #[case::session(TunnelError::Session {
        gateway: gateway(),
        peer: server(),
        source: SessionError::Silent,
    })]
    #[case::draining(TunnelError::Draining)]
    fn a_tunnel_that_was_not_opened_ends_as_its_label_says(#[case] error: TunnelError) {
        let stop = stop(&error);
        let label = stop.reason.label;
        assert!(label.tells_of(stop.outcome, stop.flags), "{label}");
    }
}
