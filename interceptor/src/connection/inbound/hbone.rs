//! Connections that arrived through HBONE: the caller's certificate says who it is.
//!
//! One TLS connection carries many; each CONNECT has a story and a record of its own. What fails
//! before there is a CONNECT (the handshake, the session) is recorded, too, with as much as is
//! known by then.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use interceptor_policy::SpiffeId;
use tokio::net::TcpStream;

use super::super::bound::Guest;
use super::super::registry::Basis;
use super::super::story::{Stop, Story, because, flags_of};
use super::super::{Local, Plane};
use super::Arrival;
use crate::drain::Tasks;
use crate::error::chain;
use crate::lanes::{Lane, Load, Seat};
use crate::reason::Label;
use crate::telemetry::record::{ConnectionId, End, Reason, Reporter, ResponseFlags, Security};
use crate::transport::hbone::{
    ConnectHeaders, Inbound, Incoming, Refusal, Rejected, Request, Served, TunnelStream,
};
use crate::transport::splice;

/// Serves one connection to the HBONE port until it ends: handshake, then each CONNECT as a
/// connection of its own. It has `seat` where it is.
///
/// Not an `async fn`: what that is called with is kept until its end, needed or not.
pub(in crate::connection) fn serve(
    plane: Arc<Plane>,
    local: Arc<Local>,
    (tcp, caller, seat): (TcpStream, SocketAddr, Option<Seat>),
    tasks: Tasks,
) -> impl Future<Output = ()> + Send {
    let accepting = Box::pin(accept(plane, local, (tcp, caller)));
    async move {
        if let Some((door, inbound)) = accepting.await {
            session(door, inbound, seat, tasks).await;
        }
    }
}

/// The handshake, with a record if it fails.
async fn accept(
    plane: Arc<Plane>,
    local: Arc<Local>,
    (tcp, caller): (TcpStream, SocketAddr),
) -> Option<(Arc<Door>, Inbound)> {
    // Only a socket that is gone has no address: there is nobody left to serve.
    let gateway = tcp.local_addr().map(canonical).ok()?;
    let guest = Guest::enter(&local);
    let too_many = guest.objection_to(&tcp);
    let door = Door {
        plane,
        local,
        caller,
        gateway,
        since: Instant::now(),
        _guest: guest,
    };
    if let Some(too_many) = too_many {
        let reason = too_many.reason();
        door.plane.telemetry.metrics.handshake_failed(reason.label);
        door.failed(None, ResponseFlags::None, reason);
        return None;
    }
    let identity = (door.plane.mesh.load())
        .workload(&door.local.id)
        .map(|workload| workload.identity.clone());
    let svid = identity.ok_or("the workload is not of the mesh any more");
    let svid = svid.and_then(|identity| {
        let current = door.plane.identities.current(&identity);
        current.ok_or("there is no certificate for the workload yet")
    });
    let svid = match svid {
        Ok(svid) => svid,
        Err(detail) => {
            let reason = because(Label::NoIdentity, detail);
            door.failed(None, ResponseFlags::IdentityError, reason);
            return None;
        }
    };
    match door.plane.server.accept(tcp, &svid).await {
        Ok(inbound) => {
            let inbound = inbound.among(door.plane.lanes.clone());
            Some((Arc::new(door), inbound))
        }
        Err(error) => {
            let reason = error.reason();
            door.plane.telemetry.metrics.handshake_failed(reason);
            let flags = flags_of(&error);
            let reason = because(reason, chain(&error));
            door.failed(None, flags, reason);
            None
        }
    }
}

/// Serves requests until the session is over, or goes on with it on another lane.
fn session(
    door: Arc<Door>,
    inbound: Inbound,
    seat: Option<Seat>,
    tasks: Tasks,
) -> impl Future<Output = ()> + Send {
    let requests = Arc::clone(&door);
    let handler = move |request| {
        let door = Arc::clone(&requests);
        async move {
            match request {
                Incoming::Connect(request) => door.connect(request).await,
                Incoming::Rejected(rejected) => door.rejected(rejected),
            }
        }
    };
    async move {
        let peer = inbound.peer().clone();
        let served = inbound.serve(&tasks, handler).await;
        drop(seat);
        match served {
            Ok(Served::Over) => {}
            Ok(Served::Elsewhere(lane, inbound)) => go_on(door, *inbound, &lane, tasks),
            Err(error) => {
                let reason = because(error.reason(), chain(&error));
                door.failed(Some(peer), ResponseFlags::H2HandshakeFailure, reason);
            }
        }
    }
}

/// Goes on with a session on `lane`.
fn go_on(door: Arc<Door>, inbound: Inbound, lane: &Arc<Lane>, tasks: Tasks) {
    let seat = Some(lane.seat(Load::Carrier));
    let _there = lane.enter();
    let all = tasks.clone();
    // Boxed because it may come here again.
    let session: Pin<Box<dyn Future<Output = ()> + Send>> =
        Box::pin(session(door, inbound, seat, tasks));
    all.spawn("inbound hbone", session);
}

/// The HBONE port of a workload, as one peer's connection came in on it.
struct Door {
    plane: Arc<Plane>,
    local: Arc<Local>,
    caller: SocketAddr,
    gateway: SocketAddr,
    since: Instant,
    /// As a connection of the workload's.
    _guest: Guest,
}

impl Door {
    /// Serves one CONNECT until the connection that it carries has ended.
    async fn connect(&self, request: Box<Request>) {
        // What judging takes is large, and most of the time a connection is open.
        let Some((app, admitted, guest)) = Box::pin(self.admit(request)).await else {
            return;
        };
        admitted.carry(&app).await;
        drop(guest);
    }

    /// Judges a CONNECT, connects to the application if it may go on, and answers.
    async fn admit(&self, request: Box<Request>) -> Option<(Arc<TcpStream>, Box<Admitted>, Guest)> {
        let request = *request;
        let arrival = Arrival {
            client: self.client(&request.headers),
            identity: Some(request.peer),
            target: request.destination,
        };
        let mut story = arrival.story(
            &self.plane,
            &self.local,
            connection_id(&request.headers),
            Security::MutualTls,
        );
        let facts = story.facts();
        facts.tls = Some(request.facts.into());
        facts.destination.address = Some(self.gateway);
        facts.hbone_address = Some(request.destination);

        let guest = Guest::enter(&self.local);
        if let Some(too_many) = guest.objection() {
            (request.answer).refuse(&Refusal::unavailable(too_many.to_string()));
            story.end(Stop::failed(ResponseFlags::None, too_many.reason()));
            return None;
        }
        let (app, allowed) = match arrival.admit(&self.plane, &self.local, &mut story).await {
            Ok(admitted) => admitted,
            Err(refused) => {
                request.answer.refuse(&refused.answer);
                story.end(refused.stop);
                return None;
            }
        };
        if let Some(too_many) = guest.objection_to(&app) {
            let reason = too_many.reason();
            (request.answer).refuse(&Refusal::unavailable(too_many.to_string()));
            return story.reset(&app, Stop::failed(ResponseFlags::None, reason));
        }
        let stream = match request.answer.accept(&ConnectHeaders::default()) {
            Ok(stream) => stream,
            Err(error) => {
                let reason = because(error.reason(), chain(&error));
                return story.reset(&app, Stop::failed(ResponseFlags::None, reason));
            }
        };
        let admitted = Admitted {
            story,
            basis: arrival.basis(&self.local),
            allowed_by: allowed,
            stream,
        };
        Some((Arc::new(app), Box::new(admitted), guest))
    }

    /// Records a request that made no sense; the transport has refused it already.
    fn rejected(&self, rejected: Box<Rejected>) {
        let mut story = self.story(connection_id(&rejected.headers), Some(rejected.peer));
        story.facts().tls = Some(rejected.facts.into());
        let reason = because(rejected.error.reason(), chain(&rejected.error));
        story.end(Stop::denied(reason));
    }

    /// Records a connection on which nothing could be asked, or that broke as a whole.
    fn failed(&self, peer: Option<SpiffeId>, flags: ResponseFlags, reason: Reason) {
        let story = self.story(ConnectionId::random(), peer);
        story.since(self.since).end(Stop::failed(flags, reason));
    }

    fn story(&self, id: ConnectionId, peer: Option<SpiffeId>) -> Story {
        let mesh = self.plane.mesh.load();
        let source = End {
            identity: peer,
            ..End::unproven(self.caller, None)
        };
        let destination = End::local(self.gateway, mesh.workload(&self.local.id));
        let ends = (source, destination);
        let mut story = Story::begin(&self.plane, id, Reporter::Destination, ends);
        story.facts().security = Security::MutualTls;
        story
    }

    /// The caller's address as the application shall see it. The port is the peer's word, which
    /// it may give for its own address only; anything else is the connection's own.
    fn client(&self, headers: &ConnectHeaders) -> SocketAddr {
        match headers.forwarded.map(canonical) {
            Some(claimed) if claimed.ip() == self.caller.ip() => claimed,
            _ => self.caller,
        }
    }
}

/// A connection that may go on. Boxed: whoever takes it apart where it is awaited keeps room for it.
struct Admitted {
    story: Story,
    basis: Basis,
    allowed_by: Reason,
    stream: TunnelStream,
}

impl Admitted {
    /// The box is gone on return; who takes it apart where the rest is awaited keeps it until then.
    fn carry(self: Box<Self>, app: &Arc<TcpStream>) -> impl Future<Output = ()> + Send {
        let (story, stream) = (self.story, self.stream);
        story.carry(self.basis, self.allowed_by, |traffic| {
            splice::tunnel(app, stream, traffic)
        })
    }
}

/// The number under which the caller's agent knows the connection, if it says.
fn connection_id(headers: &ConnectHeaders) -> ConnectionId {
    headers
        .traceparent
        .map_or_else(ConnectionId::random, |trace| ConnectionId(trace.parent))
}

const fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
