//! The `h2` crate at the other end, speaking under our protocol's name: what we say is HTTP/2, and
//! what others say is understood.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use http::{Method, Request, Response, StatusCode};
use rstest::rstest;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::super::super::codec::{fields, frame};
use super::super::super::hbone::{ConnectHeaders, Incoming, PeerReason, Refusal};
use super::super::super::splice;
use super::super::super::testing::{World, app, dial, id, open, route, sockets, soon};
use super::super::super::tls::FAST;
use super::super::super::{Client, TunnelError};

/// What everybody speaks.
pub(in crate::transport) const HTTP2: &[u8] = b"h2";
const MEGABYTE: usize = 1 << 20;
/// Windows as large as ours: without them another implementation would wait for updates, which
/// this protocol does not have.
const MAX_WINDOW: u32 = (1 << 31) - 1;

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server that is no agent of ours.
pub(in crate::transport) struct Foreign {
    pub(in crate::transport) listener: TcpListener,
    pub(in crate::transport) address: SocketAddr,
    pub(super) tls: TlsAcceptor,
}

impl Foreign {
    pub(super) async fn new(world: &World) -> Self {
        Self::speaking(world, FAST).await
    }

    pub(in crate::transport) async fn speaking(world: &World, protocol: &[u8]) -> Self {
        Self::speaking_any(world, &[protocol]).await
    }

    pub(super) async fn speaking_any(world: &World, protocols: &[&[u8]]) -> Self {
        let (listener, address) = app();
        let svid = world.svid("server").await;
        let key = SingleCertAndKey::from(CertifiedKey::clone(&svid.signing()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(key));
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        Self {
            listener,
            address,
            tls: TlsAcceptor::from(Arc::new(config)),
        }
    }

    pub(in crate::transport) async fn accept(&self) -> server::TlsStream<TcpStream> {
        let (tcp, _) = self.listener.accept().await.unwrap();
        self.tls.accept(tcp).await.unwrap()
    }

    pub(super) async fn connection(&self) -> Http2 {
        speak(self.accept().await).await
    }
}

type Http2 = h2::server::Connection<server::TlsStream<TcpStream>, Bytes>;

/// Lets the `h2` crate serve what was accepted.
pub(in crate::transport) async fn speak(stream: server::TlsStream<TcpStream>) -> Http2 {
    h2::server::Builder::new()
        .initial_window_size(MAX_WINDOW)
        .initial_connection_window_size(MAX_WINDOW)
        .handshake(stream)
        .await
        .unwrap()
}

/// Serves requests in turn with `serve`, which gets the stream and how to answer.
async fn serving<F>(
    world: &World,
    serve: fn(h2::RecvStream, h2::server::SendResponse<Bytes>) -> F,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let foreign = Foreign::new(world).await;
    let address = foreign.address;
    let tasks = world.tasks.clone();
    world.tasks.spawn("foreign server", async move {
        let mut connection = foreign.connection().await;
        while let Some(Ok((request, respond))) = connection.accept().await {
            assert_eq!(request.method(), Method::CONNECT);
            assert_eq!(request.uri().authority().unwrap().as_str(), "10.1.2.3:80");
            tasks.spawn("stream", serve(request.into_body(), respond));
        }
    });
    address
}

/// Opens a connection through a client of ours and splices it to a socket.
pub(super) async fn spliced(
    world: &World,
    client: &Client,
    to: SocketAddr,
) -> (
    TcpStream,
    tokio::sync::oneshot::Receiver<splice::Closed>,
    bool,
) {
    let route = route(to, "10.1.2.3:80".parse().unwrap());
    let tunnel = open(client, &route).await.unwrap();
    let reused = tunnel.reused;
    let (near, far) = sockets().await;
    let far = Arc::new(far);
    let (ended, end) = tokio::sync::oneshot::channel();
    world.tasks.spawn("outbound", async move {
        let closed = splice::tunnel(&far, tunnel.stream, Arc::default()).await;
        drop(far);
        drop(ended.send(closed));
    });
    (near, end, reused)
}

pub(super) async fn echo(
    mut receive: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    while let Some(bytes) = receive.data().await {
        send.send_data(bytes.unwrap(), false).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_h2_crate_gets_every_byte_of_stream_after_stream() {
    let world = World::new();
    let client = world.client().await;
    let address = serving(&world, echo).await;
    for (turn, size) in [5, 3 * MEGABYTE, 0, 70_000].into_iter().enumerate() {
        let (mut near, end, reused) = spliced(&world, &client, address).await;
        assert_eq!(reused, turn > 0);
        let sent: Vec<u8> = (0..size)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect();
        let mut heard = Vec::new();
        let (mut reads, mut writes) = near.split();
        let writing = async {
            writes.write_all(&sent).await.unwrap();
            writes.shutdown().await.unwrap();
        };
        let ((), read) = soon(async { tokio::join!(writing, reads.read_to_end(&mut heard)) }).await;
        read.unwrap();
        assert!(heard == sent, "{} of {size} bytes came back", heard.len());
        assert_eq!(soon(end).await.unwrap().reason(), "app_closed");
    }
    assert_eq!(client.carriers(), 1);
}

async fn refuse(_receive: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let (name, value) = Refusal::denied("because").header();
    response.headers_mut().insert(name, value);
    respond.send_response(response, true).unwrap();
}

#[tokio::test]
async fn a_refusal_by_the_h2_crate_is_told_and_the_carrier_used_again() {
    let world = World::new();
    let client = world.client().await;
    let address = serving(&world, refuse).await;
    let route = route(address, "10.1.2.3:80".parse().unwrap());
    for _ in 0..3 {
        let error = open(&client, &route).await.unwrap_err();
        let TunnelError::Refused { status, detail, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(detail.unwrap().to_string(), "because");
        assert_eq!(client.carriers(), 1);
    }
}

async fn cut(mut receive: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    drop(receive.data().await);
    send.send_reset(Reason::INADEQUATE_SECURITY);
}

async fn reset(mut receive: h2::RecvStream, mut respond: h2::server::SendResponse<Bytes>) {
    let mut send = respond.send_response(Response::new(()), false).unwrap();
    drop(receive.data().await);
    send.send_reset(Reason::CONNECT_ERROR);
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_and_cuts_by_the_h2_crate_are_told_apart() {
    let world = World::new();
    let client = world.client().await;
    let (cuts, resets) = (serving(&world, cut).await, serving(&world, reset).await);
    let (mut near, end, _) = spliced(&world, &client, cuts).await;
    near.write_all(b"x").await.unwrap();
    assert_eq!(soon(end).await.unwrap().reason(), "cut_by_peer");
    let (mut near, end, _) = spliced(&world, &client, resets).await;
    near.write_all(b"x").await.unwrap();
    assert_eq!(soon(end).await.unwrap().reason(), "peer_reset");
}

/// A client that is no agent of ours.
pub(in crate::transport) async fn foreign_client(
    world: &World,
    gateway: SocketAddr,
    protocol: &[u8],
) -> client::TlsStream<TcpStream> {
    let svid = world.svid("caller").await;
    let key = SingleCertAndKey::from(CertifiedKey::clone(&svid.signing()));
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(
            super::super::super::hbone::tests::handshake::Trusting,
        ))
        .with_client_cert_resolver(Arc::new(key));
    config.alpn_protocols = vec![protocol.to_vec()];
    let tcp = dial(gateway).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let name = "server.test".try_into().unwrap();
    connector.connect(name, tcp).await.unwrap()
}

/// What both ends say first.
pub(in crate::transport) fn greeting() -> Vec<u8> {
    let mut said = Vec::new();
    frame::push_settings(&mut said, frame::Streams::One, 4096);
    said
}

/// One that has greeted.
pub(in crate::transport) async fn greeted(
    world: &World,
    gateway: SocketAddr,
    protocol: &[u8],
) -> client::TlsStream<TcpStream> {
    let mut stream = foreign_client(world, gateway, protocol).await;
    let said = [&frame::PREFACE[..], &greeting()].concat();
    stream.write_all(&said).await.unwrap();
    stream
}

async fn foreign_requests(world: &World, gateway: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = foreign_client(world, gateway, FAST).await;
    let mut builder = h2::client::Builder::new();
    let windows = builder
        .initial_window_size(MAX_WINDOW)
        .initial_connection_window_size(MAX_WINDOW);
    asking(world, windows, stream).await
}

/// Lets the `h2` crate ask over what was connected.
pub(in crate::transport) async fn asking(
    world: &World,
    builder: &h2::client::Builder,
    stream: client::TlsStream<TcpStream>,
) -> h2::client::SendRequest<Bytes> {
    let (requests, connection) = builder.handshake(stream).await.unwrap();
    world
        .tasks
        .spawn("foreign client", async move { drop(connection.await) });
    requests
}

fn request(uri: &str) -> Request<()> {
    // Names that a client keeps in its table and refers to in the next request.
    Request::connect(uri)
        .header("x-something", "the same each time")
        .header("baggage", "k8s.namespace.name=demo")
        .body(())
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_h2_crate_is_served_stream_after_stream() {
    let world = World::new();
    let (gateway, mut ends) = world.node().await;
    let requests = foreign_requests(&world, gateway.address).await;
    let (listener, destination) = app();
    for size in [1, 2 * MEGABYTE, 0] {
        let mut requests = requests.clone().ready().await.unwrap();
        let sent = Bytes::from(vec![7; size]);
        let (answer, mut send) = requests
            .send_request(request(&destination.to_string()), false)
            .unwrap();
        send.send_data(sent.clone(), true).unwrap();
        let (mut server, _) = soon(listener.accept()).await.unwrap();
        let mut heard = Vec::new();
        soon(server.read_to_end(&mut heard)).await.unwrap();
        assert!(heard == sent);
        server.write_all(&heard).await.unwrap();
        drop(server);
        let answer = soon(answer).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let mut receive = answer.into_body();
        let mut back = Vec::new();
        while let Some(bytes) = soon(receive.data()).await {
            back.extend_from_slice(&bytes.unwrap());
        }
        assert!(back == sent);
        assert_eq!(soon(ends.recv()).await.unwrap().reason(), "peer_closed");
    }
}

#[rstest]
#[case::reset(Reason::CANCEL, "peer_reset")]
#[case::cut(Reason::INADEQUATE_SECURITY, "cut_by_peer")]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_h2_crate_may_reset_and_go_on(#[case] code: Reason, #[case] reason: &str) {
    let world = World::new();
    let (gateway, mut ends) = world.node().await;
    let mut requests = foreign_requests(&world, gateway.address).await;
    let (listener, destination) = app();
    for _ in 0..2 {
        let asked = requests.send_request(request(&destination.to_string()), false);
        let (answer, mut send) = asked.unwrap();
        let (mut server, _) = soon(listener.accept()).await.unwrap();
        assert_eq!(soon(answer).await.unwrap().status(), StatusCode::OK);
        send.send_reset(code);
        assert!(soon(server.read(&mut [0])).await.is_err());
        assert_eq!(soon(ends.recv()).await.unwrap().reason(), reason);
    }
}

#[tokio::test]
async fn nonsense_from_a_client_of_the_h2_crate_is_refused_with_a_reason() {
    let world = World::new();
    let (seen, mut sightings) = mpsc::channel(1);
    let gateway = world.serve(move |incoming| {
        let seen = seen.clone();
        async move { seen.send(incoming).await.unwrap() }
    });
    let gateway = gateway.await;
    let mut requests = foreign_requests(&world, gateway.address).await;
    let get = Request::get("https://127.0.0.1:80/").body(()).unwrap();
    let (answer, _) = requests.send_request(get, true).unwrap();
    let answer = soon(answer).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert!(PeerReason::from_headers(answer.headers()).is_some());
    let Incoming::Rejected(rejected) = soon(sightings.recv()).await.unwrap() else {
        panic!("it was handed on");
    };
    assert_eq!(rejected.error.reason(), "not_connect");
}

#[rstest]
#[case::not_http2(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not_http2")]
#[case::a_push(
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x08\x05\0\0\0\0\x01\0\0\0\0\0\0\0\0",
    "not_http2"
)]
#[tokio::test]
async fn a_client_that_does_not_greet_is_refused(#[case] said: &[u8], #[case] reason: &str) {
    let world = World::new();
    let mut gateway = world.serve(|_| async {}).await;
    let mut stream = foreign_client(&world, gateway.address, FAST).await;
    stream.write_all(said).await.unwrap();
    let error = soon(gateway.failures.recv()).await.unwrap();
    assert_eq!(error.reason(), reason);
}

/// Resets of a stream that is over are answered, too: by the answers that nobody reads a peer must
/// not fill our memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_without_reading_answers_is_left() {
    const MOST: usize = 32 * MEGABYTE;
    let world = World::new();
    let (gateway, _ends) = world.node().await;
    let mut stream = greeted(&world, gateway.address, FAST).await;
    let mut said = Vec::new();
    let (_app, destination) = app();
    let block = fields::connect(&destination.to_string(), &http::HeaderMap::new());
    frame::push_headers(&mut said, 1, &block, frame::End::Open);
    stream.write_all(&said).await.unwrap();
    let mut resets = Vec::new();
    for _ in 0..1000 {
        frame::push_reset(&mut resets, 1, frame::CANCEL);
    }
    let mut taken = 0;
    while taken < MOST && soon(stream.write_all(&resets)).await.is_ok() {
        taken += resets.len();
    }
    assert!(taken < MOST, "it would go on for ever");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_greets_slowly_ends_at_the_limit() {
    let world = World::new();
    let mut gateway = world.serve(|_| async {}).await;
    let mut stream = foreign_client(&world, gateway.address, FAST).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let error = gateway.failures.recv().await.unwrap();
    assert_eq!(error.reason(), "tls_timeout");
}

/// Reads until the peer has said `mark`.
pub(super) async fn said(stream: &mut (impl AsyncRead + Unpin), mark: &[u8]) {
    let mut heard = Vec::new();
    while !heard.windows(mark.len()).any(|window| window == mark) {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0, "the peer has left");
        heard.extend_from_slice(&chunk[..count]);
    }
}

/// Whatever the successor speaks.
#[rstest]
#[case::it_speaks_our_protocol(FAST)]
#[case::it_speaks_http2(b"h2")]
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_goes_before_it_has_looked_does_not_make_us_lose_what_was_said(
    #[case] successor: &'static [u8],
) {
    let world = World::new();
    let client = world.client().await;
    let foreign = Foreign::new(&world).await;
    let later = Foreign::speaking(&world, successor).await.tls;
    let address = foreign.address;
    let (heard, mut hearing) = mpsc::channel(1);
    world.tasks.spawn("foreign server", async move {
        let mut going = foreign.accept().await;
        going.write_all(&greeting()).await.unwrap();
        said(&mut going, b"10.1.2.3:80").await;
        let mut out = Vec::new();
        let block = fields::answer(StatusCode::OK, &http::HeaderMap::new());
        frame::push_headers(&mut out, 1, &block, frame::End::Stream);
        going.write_all(&out).await.unwrap();
        said(&mut going, b"hello").await;
        let mut out = Vec::new();
        frame::push_go_away(&mut out, 1, frame::NO_ERROR);
        going.write_all(&out).await.unwrap();
        let foreign = Foreign {
            tls: later,
            ..foreign
        };
        let mut successor = foreign.connection().await;
        let (request, mut respond) = successor.accept().await.unwrap().unwrap();
        let _send = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        let first = tokio::select! {
            data = body.data() => data.unwrap().unwrap(),
            _ = successor.accept() => panic!("the client has left"),
        };
        heard.send(first).await.unwrap();
        drop(successor.accept().await);
    });
    let (near, end, _) = spliced(&world, &client, address).await;
    drop(near);
    assert_eq!(soon(end).await.unwrap().reason(), "peer_closed");
    let (mut near, far) = sockets().await;
    near.write_all(b"hello").await.unwrap();
    far.readable().await.unwrap();
    let route = route(address, "10.1.2.3:80".parse().unwrap());
    let (caller, headers) = (id("caller"), ConnectHeaders::default());
    let opened = soon(client.open(&caller, &route, &headers, Some(&far))).await;
    let _tunnel = opened.unwrap();
    assert_eq!(soon(hearing.recv()).await.unwrap(), "hello");
}

#[tokio::test]
async fn another_peer_of_the_same_name_is_not_trusted_for_the_protocol() {
    let (world, stranger) = (World::new(), World::new());
    let client = world.client().await;
    let foreign = Foreign::new(&stranger).await;
    let address = foreign.address;
    stranger.tasks.spawn("stranger", async move {
        let (tcp, _) = foreign.listener.accept().await.unwrap();
        drop(foreign.tls.accept(tcp).await);
    });
    let route = route(address, "10.1.2.3:80".parse().unwrap());
    let caller = id("caller");
    let headers = ConnectHeaders::default();
    let opened = client.open(&caller, &route, &headers, None);
    assert_eq!(soon(opened).await.unwrap_err().reason(), "unknown_issuer");
}
