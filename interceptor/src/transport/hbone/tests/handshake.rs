//! Peers that are not what they should be: each is refused with its own reason, at both ends.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::super::testing::{Carriers, Gateway, World, app, closed, id, open, route, soon};
use super::super::super::tls::Tls;
use super::super::super::{Config, ConnectHeaders, HandshakeError, TunnelError};
use super::super::server::Incoming;
use crate::identity::{Ca, Identities, Svid};

/// A TLS 1.2 `ClientHello` with ECDHE suites, P-256, X25519 and ALPN h2, as OpenSSL would send.
const TLS12_HELLO: &str = "160301005c010000580303000102030405060708090a0b0c0d0e0f101112131415161718\
    191a1b1c1d1e1f000008c02bc02fc02cc03001000027000a00060004001d0017000b00020100000d0006000404030804\
    00100005000302683200170000";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

async fn nothing(_: Incoming) {}

async fn refused(world: &World, gateway: &Gateway) -> TunnelError {
    let client = world.client().await;
    let route = gateway.route("127.0.0.1:1".parse().unwrap());
    open(&client, &route).await.unwrap_err()
}

#[rstest]
#[case::http(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "not_tls")]
#[case::http2_in_plaintext(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), "not_tls")]
#[case::ssh(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(), "not_tls")]
#[case::random(vec![0xa5; 4096], "not_tls")]
#[case::tls_1_2(bytes(TLS12_HELLO), "tls_version")]
#[tokio::test]
async fn a_peer_that_speaks_something_else_is_refused(
    #[case] hello: Vec<u8>,
    #[case] reason: &str,
) {
    let mut gateway = World::new().serve(nothing).await;
    let mut peer = TcpStream::connect(gateway.address).await.unwrap();
    peer.write_all(&hello).await.unwrap();
    assert_eq!(
        soon(gateway.failures.recv()).await.unwrap().reason(),
        reason
    );
    let mut answer = Vec::new();
    // An alert may come; then the connection is closed in any case.
    drop(soon(peer.read_to_end(&mut answer)).await);
    if reason == "tls_version" {
        assert_eq!(answer, [0x15, 3, 3, 0, 2, 2, 70], "fatal protocol_version");
    }
}

#[tokio::test]
async fn a_peer_that_closes_at_once_is_reported_as_such() {
    let mut gateway = World::new().serve(nothing).await;
    drop(TcpStream::connect(gateway.address).await.unwrap());
    assert_eq!(
        soon(gateway.failures.recv()).await.unwrap().reason(),
        "tls_closed"
    );
}

#[rstest]
#[case::silent(b"")]
#[case::slow_loris(b"\x16\x03\x01\x02\x00\x01")]
#[tokio::test(start_paused = true)]
async fn a_handshake_that_is_not_finished_ends_at_its_limit(#[case] begun: &[u8]) {
    let mut gateway = World::new().serve(nothing).await;
    let mut peer = TcpStream::connect(gateway.address).await.unwrap();
    peer.write_all(begun).await.unwrap();
    let error = gateway.failures.recv().await.unwrap();
    assert_eq!(error.reason(), "tls_timeout");
    assert_eq!(peer.read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn handshakes_beyond_the_limit_of_an_address_are_refused_at_once() {
    let world = World::with(Config {
        max_handshakes_per_address: 1,
        ..Config::default()
    });
    let mut gateway = world.serve(nothing).await;
    let _slow = TcpStream::connect(gateway.address).await.unwrap();
    let _second = TcpStream::connect(gateway.address).await.unwrap();
    let error = soon(gateway.failures.recv()).await.unwrap();
    assert_eq!(error.reason(), "too_many_handshakes");
}

/// A TLS client whose application protocols and certificate are chosen.
async fn shake(gateway: &Gateway, alpn: &[&[u8]], svid: Option<&Svid>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = match svid {
        Some(svid) => {
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                rustls::sign::CertifiedKey::clone(&svid.signing()),
            )))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tcp = TcpStream::connect(gateway.address).await.unwrap();
    let name = "server.test".try_into().unwrap();
    if let Ok(mut stream) = connector.connect(name, tcp).await {
        drop(soon(stream.read(&mut [0; 64])).await);
    }
}

/// Accepts any server: what the server makes of the client is what is tested.
#[derive(Debug)]
pub(in crate::transport) struct Trusting;

impl rustls::client::danger::ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[rstest]
#[case::another_protocol(&[b"http/1.1".as_slice()], "tls_protocol")]
#[case::no_protocol(&[], "tls_protocol")]
#[tokio::test]
async fn a_client_without_h2_is_refused(#[case] alpn: &[&[u8]], #[case] reason: &str) {
    let world = World::new();
    let mut gateway = world.serve(nothing).await;
    let svid = world.svid("caller").await;
    shake(&gateway, alpn, Some(&svid)).await;
    assert_eq!(
        soon(gateway.failures.recv()).await.unwrap().reason(),
        reason
    );
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let world = World::new();
    let mut gateway = world.serve(nothing).await;
    shake(&gateway, &[b"h2"], None).await;
    let error = soon(gateway.failures.recv()).await.unwrap();
    assert_eq!(error.reason(), "no_certificate");
}

#[tokio::test]
async fn a_client_of_another_ca_is_refused_by_name() {
    let (world, stranger) = (World::new(), World::new());
    let mut gateway = world.serve(nothing).await;
    let svid = stranger.svid("caller").await;
    shake(&gateway, &[b"h2"], Some(&svid)).await;
    let error = soon(gateway.failures.recv()).await.unwrap();
    assert_eq!(error.reason(), "unknown_issuer");
    let why = error.source().unwrap().to_string();
    assert!(
        why.contains("spiffe://mesh.test/ns/demo/sa/caller"),
        "{why}"
    );
}

#[tokio::test]
async fn a_client_of_an_untrusted_domain_is_refused_by_name() {
    let world = World::new();
    let mut gateway = world.serve(nothing).await;
    let ca = Ca::generate(&"evil.test".parse().unwrap(), SystemTime::now()).unwrap();
    let intruder = "spiffe://evil.test/ns/demo/sa/caller".parse().unwrap();
    let svid = ca.issue_now(&intruder, Duration::from_hours(1), SystemTime::now());
    shake(&gateway, &[b"h2"], Some(&svid.unwrap())).await;
    let error = soon(gateway.failures.recv()).await.unwrap();
    assert_eq!(error.reason(), "untrusted_domain");
}

#[tokio::test]
async fn an_expired_client_is_refused_with_the_time() {
    let yesterday = SystemTime::now() - Duration::from_hours(24);
    let ca = Ca::generate(&"mesh.test".parse().unwrap(), yesterday).unwrap();
    let hour = Duration::from_hours(1);
    let expired = ca.issue_now(&id("caller"), hour, yesterday).unwrap();
    let world = World {
        identities: Arc::new(Identities::new(Arc::new(ca), hour)),
        ..World::new()
    };
    let mut gateway = world.serve(nothing).await;
    shake(&gateway, &[b"h2"], Some(&expired)).await;
    let error = soon(gateway.failures.recv()).await.unwrap();
    assert_eq!(error.reason(), "expired");
    let why = error.source().unwrap().to_string();
    assert!(why.contains("expired at"), "{why}");
}

#[tokio::test]
async fn a_peer_that_speaks_no_http2_inside_tls_is_refused() {
    let world = World::new();
    let mut gateway = world.serve(nothing).await;
    let svid = world.svid("caller").await;
    let tls = Tls::new(world.identities.verifier());
    let tcp = TcpStream::connect(gateway.address).await.unwrap();
    let mut secured = tls.connect(&svid, &id("server"), tcp).await.unwrap();
    secured
        .stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    secured.stream.flush().await.unwrap();
    let error = soon(gateway.failures.recv()).await.unwrap();
    assert_eq!(error.reason(), "not_http2");
}

#[rstest]
#[tokio::test]
async fn a_server_with_another_identity_is_named(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let gateway = world.serve(nothing).await;
    let client = world.client().await;
    let mut route = gateway.route("127.0.0.1:1".parse().unwrap());
    route.peer = id("somebody-else");
    let error = open(&client, &route).await;
    let Err(TunnelError::WrongPeer { expected, got, .. }) = error else {
        panic!("another error");
    };
    assert_eq!((expected, got), (id("somebody-else"), id("server")));
}

#[rstest]
#[tokio::test]
async fn a_server_of_another_ca_is_refused_by_the_client(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let (world, stranger) = (World::on(carriers), World::on(carriers));
    let gateway = stranger.serve(nothing).await;
    assert_eq!(refused(&world, &gateway).await.reason(), "unknown_issuer");
}

#[tokio::test]
async fn a_client_learns_that_its_own_certificate_was_refused() {
    let (world, stranger) = (World::new(), World::new());
    let mut gateway = world.serve(nothing).await;
    // The stranger trusts the server, but not the other way round.
    stranger
        .identities
        .trust(world.identities.bundle().as_ref().clone());
    let error = refused(&stranger, &gateway).await;
    let TunnelError::Handshake { source, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(matches!(source, HandshakeError::Alert { .. }), "{source:?}");
    assert_eq!(error.reason(), "refused_by_peer_tls");
    let seen = soon(gateway.failures.recv()).await.unwrap();
    assert_eq!(seen.reason(), "unknown_issuer");
}

#[tokio::test]
async fn a_workload_without_a_certificate_dials_nobody() {
    let world = World::new();
    let gateway = world.serve(nothing).await;
    let client = world.client().await;
    let route = gateway.route("127.0.0.1:1".parse().unwrap());
    let error = client
        .open(&id("nobody"), &route, &ConnectHeaders::default(), None)
        .await;
    assert_eq!(error.unwrap_err().reason(), "no_identity");
    assert_eq!(client.carriers(), 0);
}

#[rstest]
#[tokio::test]
async fn a_gateway_that_is_down_is_unreachable(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let client = world.client().await;
    let (_nobody, gateway) = closed();
    let route = route(gateway, "127.0.0.1:1".parse().unwrap());
    let error = open(&client, &route).await;
    assert_eq!(error.unwrap_err().reason(), "unreachable");
    assert_eq!(client.carriers(), 0, "what failed is not kept");
}

#[rstest]
#[tokio::test(start_paused = true)]
async fn a_gateway_that_says_nothing_is_given_up_at_the_limit(
    #[values(Carriers::Exclusive, Carriers::Mux, Carriers::Shared)] carriers: Carriers,
) {
    let world = World::on(carriers);
    let client = world.client().await;
    let (_listener, gateway) = app();
    let route = route(gateway, "127.0.0.1:1".parse().unwrap());
    let error = open(&client, &route).await;
    assert_eq!(error.unwrap_err().reason(), "timeout");
}
