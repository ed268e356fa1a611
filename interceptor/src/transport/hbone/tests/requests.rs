//! What is asked, answered and refused over a good connection.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, Request as HttpRequest, StatusCode};
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::super::super::testing::{Carriers, Gateway, Path, World, app, id, open, soon};
use super::super::super::tls::Tls;
use super::super::super::{ConnectHeaders, TunnelError};
use super::super::headers::{Baggage, Traceparent};
use super::super::refusal::{PeerReason, Refusal};
use super::super::server::Incoming;

type Requests = h2::client::SendRequest<bytes::Bytes>;

/// An h2 client that may ask for anything, as an authenticated peer.
async fn peer(world: &World, gateway: &Gateway) -> Requests {
    let svid = world.svid("caller").await;
    let tcp = TcpStream::connect(gateway.address).await.unwrap();
    let tls = Tls::new(world.identities.verifier());
    let secured = tls.connect(&svid, &id("server"), tcp).await.unwrap();
    let (requests, connection) = h2::client::handshake(secured.stream).await.unwrap();
    world
        .tasks
        .spawn("peer", async move { drop(connection.await) });
    requests
}

async fn ask(
    requests: &mut Requests,
    request: HttpRequest<()>,
) -> (StatusCode, Option<PeerReason>) {
    let (answer, _send) = requests.send_request(request, false).unwrap();
    let answer = soon(answer).await.unwrap();
    (answer.status(), PeerReason::from_headers(answer.headers()))
}

fn request(method: Method, uri: &str) -> HttpRequest<()> {
    HttpRequest::builder()
        .method(method)
        .uri(uri)
        .body(())
        .unwrap()
}

#[rstest]
#[case::get(Method::GET, "https://127.0.0.1/", "not_connect")]
#[case::post(Method::POST, "https://127.0.0.1:80/", "not_connect")]
#[case::another_workload(Method::CONNECT, "127.0.0.2:80", "authority_mismatch")]
#[case::host_name(Method::CONNECT, "server.demo:80", "bad_authority")]
#[case::own_port(Method::CONNECT, "127.0.0.1:15008", "own_port")]
#[tokio::test]
async fn nonsense_is_refused_with_a_reason_and_reported(
    #[case] method: Method,
    #[case] uri: &str,
    #[case] reason: &'static str,
) {
    let world = World::new();
    let (reported, mut reports) = mpsc::channel(1);
    let gateway = world.serve(move |incoming| {
        let reported = reported.clone();
        async move { reported.send(incoming).await.unwrap() }
    });
    let gateway = gateway.await;
    let mut requests = peer(&world, &gateway).await;
    let (status, why) = ask(&mut requests, request(method, uri)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let why = why.unwrap();
    assert_eq!(
        (why.proxy.as_str(), why.error.as_deref()),
        ("interceptor", Some("http_request_error"))
    );
    let Incoming::Rejected(rejected) = soon(reports.recv()).await.unwrap() else {
        panic!("it was handed on");
    };
    assert_eq!(rejected.error.reason(), reason);
    assert_eq!(rejected.peer, id("caller"));
    assert_eq!(why.details.unwrap(), rejected.error.to_string());
}

#[rstest]
#[tokio::test]
async fn a_denial_carries_its_policy_to_the_peer(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let gateway = world.serve(|incoming| async move {
        if let Incoming::Connect(request) = incoming {
            assert_eq!(request.peer, id("caller"));
            request
                .answer
                .refuse(&Refusal::denied("policy=demo/allow-caller rule=0"));
        }
    });
    let gateway = gateway.await;
    let client = world.client().await;
    let route = gateway.route("127.0.0.1:80".parse().unwrap());
    let error = open(&client, &route).await;
    let error = error.unwrap_err();
    assert_eq!(error.reason(), "refused_by_peer_policy");
    assert_eq!(
        error.to_string(),
        "spiffe://mesh.test/ns/demo/sa/server refused with 401 Unauthorized: \
         policy=demo/allow-caller rule=0"
    );
}

#[rstest]
#[tokio::test]
async fn an_answer_that_is_forgotten_is_a_refusal(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let gateway = world.serve(|incoming| async move { drop(incoming) }).await;
    let client = world.client().await;
    let route = gateway.route("127.0.0.1:80".parse().unwrap());
    let error = open(&client, &route).await;
    let Err(TunnelError::Refused { status, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[rstest]
#[tokio::test]
async fn hints_reach_the_other_end_both_ways(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (seen, mut sightings) = mpsc::channel(1);
    let named = |name: &str| ConnectHeaders {
        baggage: Baggage {
            namespace: Some("demo".to_owned()),
            workload: Some(("pod".to_owned(), name.to_owned())),
            ..Baggage::default()
        },
        ..ConnectHeaders::default()
    };
    let answer = Arc::new(named("server"));
    let headers = Arc::clone(&answer);
    let gateway = world.serve(move |incoming| {
        let (seen, headers) = (seen.clone(), Arc::clone(&headers));
        async move {
            if let Incoming::Connect(request) = incoming {
                let stream = request.answer.accept(&headers).unwrap();
                seen.send((request.headers, request.destination, stream))
                    .await
                    .unwrap();
            }
        }
    });
    let gateway = gateway.await;
    let client = world.client().await;
    let asked = ConnectHeaders {
        forwarded: Some("10.0.0.1:4711".parse().unwrap()),
        traceparent: Some(Traceparent {
            trace: 7,
            parent: 9,
            sampled: false,
        }),
        ..named("caller")
    };
    let destination: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    let (caller, route) = (id("caller"), gateway.route(destination));
    let tunnel = soon(client.open(&caller, &route, &asked, None))
        .await
        .unwrap();
    let (hints, asked_for, _stream) = soon(sightings.recv()).await.unwrap();
    assert_eq!((hints, asked_for), (asked, destination));
    assert_eq!(tunnel.headers, *answer);
    assert_eq!(tunnel.facts.cipher, "TLS13_AES_128_GCM_SHA256");
    assert_eq!(tunnel.facts.key_exchange, "X25519MLKEM768");
    assert_eq!(tunnel.peer, id("server"));
}

#[tokio::test]
async fn huge_headers_are_refused_and_the_next_request_is_served() {
    let world = World::new();
    let (gateway, _ends) = world.node().await;
    let mut requests = peer(&world, &gateway).await;
    let (_listener, destination) = app();
    let mut huge = request(Method::CONNECT, &destination.to_string());
    let value = http::HeaderValue::from_str(&"x".repeat(8 << 10)).unwrap();
    for at in 0..9 {
        let name = http::HeaderName::try_from(format!("x-huge-{at}")).unwrap();
        huge.headers_mut().insert(name, value.clone());
    }
    let (answer, _send) = requests.send_request(huge, false).unwrap();
    let refused = soon(answer).await.map(|answer| answer.status());
    let status = refused.unwrap_or(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let next = request(Method::CONNECT, &destination.to_string());
    assert_eq!(ask(&mut requests, next).await.0, StatusCode::OK);
}

#[rstest]
#[tokio::test]
async fn a_server_that_drains_serves_what_is_open_and_takes_nothing_new(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, mut ends) = world.node().await;
    let client = world.client().await;
    let path = Path::open(&world, &client, &gateway).await;

    gateway.tasks.stop();
    let route = gateway.route("127.0.0.1:80".parse().unwrap());
    let refused = open(&client, &route).await.unwrap_err();
    // The listener closes; what was in its backlog is reset.
    assert!(
        matches!(refused.reason().as_str(), "unreachable" | "tls_closed"),
        "{refused:?}"
    );

    let (mut app, mut server) = (path.client, path.server);
    app.write_all(b"last words").await.unwrap();
    drop(app);
    let mut heard = Vec::new();
    soon(server.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"last words");
    drop(server);
    assert_eq!(soon(ends.recv()).await.unwrap().reason(), "peer_closed");
    assert_eq!(
        gateway
            .tasks
            .finish(std::time::Duration::from_secs(5))
            .await,
        0
    );
}

#[rstest]
#[tokio::test]
async fn a_server_that_drains_is_left_at_once_by_who_has_nothing_open(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, mut ends) = world.node().await;
    let client = world.client().await;
    drop(Path::open(&world, &client, &gateway).await);
    soon(ends.recv()).await.unwrap();
    gateway.tasks.stop();
    let left = gateway.tasks.finish(std::time::Duration::from_secs(2));
    assert_eq!(left.await, 0, "it waits until they are given up");
}

#[rstest]
#[tokio::test]
async fn a_client_that_drains_opens_nothing_new(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let (gateway, _ends) = world.node().await;
    let client = world.client().await;
    drop(Path::open(&world, &client, &gateway).await);
    world.tasks.stop();
    let route = gateway.route("127.0.0.1:80".parse().unwrap());
    let refused = open(&client, &route).await;
    assert_eq!(refused.unwrap_err().reason(), "draining");
    assert_eq!(
        world.tasks.finish(std::time::Duration::from_secs(5)).await,
        0
    );
    assert_eq!(client.carriers(), 0);
}
