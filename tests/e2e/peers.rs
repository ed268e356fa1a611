//! Peers that do not behave, at the door for HBONE: each is refused within a bound, logged with a
//! reason and counted, and nobody else notices.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::Result;
use http::{HeaderMap, HeaderValue, Method};
use interceptor_tests::access::Line;
use interceptor_tests::agent::Setup;
use interceptor_tests::apps;
use interceptor_tests::manifests::{AuthorizationPolicy, identity};
use interceptor_tests::rogue::{Answer, Credentials, Forge, Rogue, Validity, tls12_client_hello};
use interceptor_tests::wire::HBONE_PORT;
use interceptor_tests::world::{Ground, World};
use rstest::rstest;

fn world() -> Result<Option<World>> {
    world_with("")
}

fn world_with(configuration: &str) -> Result<Option<World>> {
    let Some(ground) = Ground::new()? else {
        return Ok(None);
    };
    let setup = Setup {
        manifests: ground.manifests(&[]),
        extra: format!("transport:\n  handshakeTimeout: 1s\n{configuration}"),
        ..Setup::default()
    };
    ground.start(&setup).map(Some)
}

fn mesh_ca(world: &World) -> Result<Forge> {
    Forge::of(&world.fabric.folder().join("ca"))
}

fn door(world: &World) -> SocketAddr {
    world.server.at(HBONE_PORT)
}

/// A failed handshake is logged and counted with its reason.
fn assert_shut_out(world: &World, reason: &str) -> Result<()> {
    let line = world
        .far
        .access_line("the failed handshake", |line| !line.is_allowed())?;
    assert_eq!(line.decision.as_deref(), Some("failed"), "{line:?}");
    assert_eq!(line.reason.as_deref(), Some(reason), "{line:?}");
    assert!(line.error.is_some(), "{line:?}");
    let labels = [("reason", reason)];
    world
        .far
        .metric_reaches("interceptor_handshake_failures_total", &labels, 1.0)
}

/// Whether it was the limit of all handshakes here that ended it.
fn is_limit(line: &Line) -> bool {
    let why = line.error.as_deref().unwrap_or_default();
    why.contains("within 1s")
}

/// The mesh goes on as if nothing had happened.
fn assert_unharmed(world: &World) -> Result<()> {
    let _server = world.server.serve(8080, apps::echo)?;
    assert_eq!(world.caller.ask(world.server.at(8080), "well?")?, "well?");
    Ok(())
}

#[test]
fn a_foreign_client_with_a_certificate_of_the_mesh_is_served() -> Result<()> {
    let Some(world) = world()? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let outside = world.a.pod("outside")?;
    let credentials = mesh_ca(&world)?.issue(&[&identity("caller")], Validity::Now)?;
    let answer =
        Rogue::connect(Some(credentials), world.server.at(8080)).send(&outside, door(&world))?;
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    Ok(())
}

#[test]
fn a_client_under_an_alias_of_the_trust_domain_is_served() -> Result<()> {
    let Some(world) = world_with("trustDomainAliases: [old.example]\n")? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let outside = world.a.pod("outside")?;
    let uri = "spiffe://old.example/ns/demo/sa/caller";
    let credentials = mesh_ca(&world)?.issue(&[uri], Validity::Now)?;
    let answer =
        Rogue::connect(Some(credentials), world.server.at(8080)).send(&outside, door(&world))?;
    assert_eq!(answer.status(), Some(200), "{answer:?}");
    Ok(())
}

/// What a peer shows instead of a valid identity.
#[derive(Clone, Copy, Debug)]
enum Papers {
    None,
    FromAStranger,
    Expired,
    FromTheFuture,
    WithoutIdentity,
    WithTwoIdentities,
    OfAnotherTrustDomain,
}

impl Papers {
    fn forge(self, world: &World) -> Result<Option<Credentials>> {
        let (ca, stranger) = (mesh_ca(world)?, Forge::stranger()?);
        let (caller, server) = (identity("caller"), identity("server"));
        let credentials = match self {
            Self::None => return Ok(None),
            Self::FromAStranger => stranger.issue(&[&caller], Validity::Now),
            Self::Expired => ca.issue(&[&caller], Validity::Past),
            Self::FromTheFuture => ca.issue(&[&caller], Validity::Future),
            Self::WithoutIdentity => ca.issue_dns("caller.demo.svc"),
            Self::WithTwoIdentities => ca.issue(&[&caller, &server], Validity::Now),
            Self::OfAnotherTrustDomain => {
                ca.issue(&["spiffe://other.example/ns/demo/sa/caller"], Validity::Now)
            }
        };
        credentials.map(Some)
    }
}

#[rstest]
#[case::no_certificate(Papers::None, "no_certificate")]
#[case::a_strangers_certificate(Papers::FromAStranger, "unknown_issuer")]
#[case::an_expired_certificate(Papers::Expired, "expired")]
#[case::a_certificate_of_the_future(Papers::FromTheFuture, "not_yet_valid")]
#[case::a_certificate_without_identity(Papers::WithoutIdentity, "no_spiffe_id")]
#[case::two_identities(Papers::WithTwoIdentities, "several_identities")]
#[case::another_trust_domain(Papers::OfAnotherTrustDomain, "untrusted_domain")]
fn a_peer_without_a_valid_identity_is_refused_in_the_handshake(
    #[case] papers: Papers,
    #[case] reason: &str,
) -> Result<()> {
    let Some(world) = world()? else {
        return Ok(());
    };
    let server = world.server.serve(8080, apps::echo)?;
    let outside = world.a.pod("outside")?;
    let rogue = Rogue::connect(papers.forge(&world)?, world.server.at(8080));

    let answer = rogue.send(&outside, door(&world))?;

    assert!(matches!(answer, Answer::Closed(_)), "{answer:?}");
    assert_eq!(server.seen(), []);
    assert_shut_out(&world, reason)?;
    drop(server);
    assert_unharmed(&world)
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug)]
enum Request {
    ToAnotherPod,
    ToLoopback,
    ToTheAgentsOwnPort,
    ToAHostName,
    WithAnotherMethod,
    ToADeadPort,
}

impl Request {
    fn twist(self, world: &World, rogue: &mut Rogue) {
        match self {
            Self::ToAnotherPod => rogue.authority = world.caller.at(8080).to_string(),
            Self::ToLoopback => "127.0.0.1:8080".clone_into(&mut rogue.authority),
            Self::ToTheAgentsOwnPort => rogue.authority = world.server.at(15006).to_string(),
            Self::ToAHostName => "server:8080".clone_into(&mut rogue.authority),
            Self::WithAnotherMethod => rogue.method = Method::GET,
            Self::ToADeadPort => rogue.authority = world.server.at(9999).to_string(),
        }
    }
}

#[rstest]
#[case::another_pods_address(400, Request::ToAnotherPod)]
#[case::loopback(400, Request::ToLoopback)]
#[case::the_agents_own_port(400, Request::ToTheAgentsOwnPort)]
#[case::a_host_name(400, Request::ToAHostName)]
#[case::another_method(400, Request::WithAnotherMethod)]
#[case::nobody_listens(503, Request::ToADeadPort)]
fn a_request_that_is_not_for_this_workload_is_refused_with_a_status(
    #[case] status: u16,
    #[case] request: Request,
) -> Result<()> {
    let Some(world) = world()? else {
        return Ok(());
    };
    let outside = world.a.pod("outside")?;
    let credentials = mesh_ca(&world)?.issue(&[&identity("caller")], Validity::Now)?;
    let mut rogue = Rogue::connect(Some(credentials), world.server.at(8080));
    request.twist(&world, &mut rogue);

    let answer = rogue.send(&outside, door(&world))?;

    assert_eq!(answer.status(), Some(status), "{answer:?}");
    let line = world
        .far
        .access_line("the refusal", |line| !line.is_allowed())?;
    assert!(line.reason.is_some() && line.error.is_some(), "{line:#?}");
    assert_unharmed(&world)
}

#[test]
fn a_refusal_by_policy_tells_the_authenticated_peer_why() -> Result<()> {
    let Some(world) = World::with(&[&AuthorizationPolicy::allow("nothing").selecting("server")])?
    else {
        return Ok(());
    };
    let outside = world.a.pod("outside")?;
    let credentials = mesh_ca(&world)?.issue(&[&identity("caller")], Validity::Now)?;
    let answer =
        Rogue::connect(Some(credentials), world.server.at(8080)).send(&outside, door(&world))?;
    let Answer::Status {
        status: 401,
        proxy_status: Some(why),
    } = &answer
    else {
        anyhow::bail!("{answer:?}");
    };
    assert!(why.contains("demo/nothing"), "{why}");
    Ok(())
}

#[test]
fn a_huge_header_is_refused() -> Result<()> {
    let Some(world) = world()? else {
        return Ok(());
    };
    let outside = world.a.pod("outside")?;
    let credentials = mesh_ca(&world)?.issue(&[&identity("caller")], Validity::Now)?;
    let mut rogue = Rogue::connect(Some(credentials), world.server.at(8080));
    let mut headers = HeaderMap::new();
    let filler = HeaderValue::from_bytes(&[b'x'; 8 * 1024])?;
    for _ in 0..64 {
        headers.append("baggage", filler.clone());
    }
    rogue.headers = headers;
    let answer = rogue.send(&outside, door(&world))?;
    assert_ne!(answer.status(), Some(200), "{answer:?}");
    assert_unharmed(&world)
}

#[test]
fn a_peer_that_does_not_offer_http2_is_refused() -> Result<()> {
    let Some(world) = world()? else {
        return Ok(());
    };
    let outside = world.a.pod("outside")?;
    let credentials = mesh_ca(&world)?.issue(&[&identity("caller")], Validity::Now)?;
    for alpn in [Vec::new(), vec![b"http/1.1".to_vec()]] {
        let mut rogue = Rogue::connect(Some(credentials.clone()), world.server.at(8080));
        rogue.alpn = alpn;
        let answer = rogue.send(&outside, door(&world))?;
        assert!(matches!(answer, Answer::Closed(_)), "{answer:?}");
    }
    assert_unharmed(&world)
}

#[rstest]
#[case::plaintext(b"GET / HTTP/1.1\r\nhost: server\r\n\r\n".to_vec(), "not_tls")]
#[case::http2_without_tls(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "not_tls")]
#[case::garbage(vec![0x16, 0x03, 0x03, 0xff, 0xff, 1, 2, 3, 4], "not_tls")]
#[case::tls_1_2(tls12_client_hello(), "tls_version")]
#[case::silence(Vec::new(), "tls_timeout")]
#[case::half_a_handshake(tls12_client_hello()[..20].to_vec(), "tls_timeout")]
fn a_peer_that_speaks_something_else_is_shut_out_in_time(
    #[case] bytes: Vec<u8>,
    #[case] reason: &str,
) -> Result<()> {
    let Some(world) = world()? else {
        return Ok(());
    };
    let outside = world.a.pod("outside")?;
    let mut stream = outside.connect(door(&world))?;
    stream.write_all(&bytes)?;
    // An alert may come first; an end or a reset must come.
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(rest.len() < 64, "{rest:?}");
    if let Err(error) = end {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error:?}");
    }
    assert_shut_out(&world, reason)?;
    let refused = |line: &Line| !line.is_allowed();
    let line = world.far.access_line("its limit", refused)?;
    assert_eq!(is_limit(&line), reason == "tls_timeout", "{line:?}");
    assert_unharmed(&world)
}

#[test]
fn many_peers_that_never_finish_their_handshake_do_not_hold_up_others() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let outside = world.a.pod("outside")?;
    let slow: Vec<_> = (0..300)
        .map(|_| outside.connect(door(&world)))
        .collect::<io::Result<_>>()?;
    assert_unharmed(&world)?;
    drop(slow);
    Ok(())
}

/// What listens where the peer's agent should be.
#[derive(Clone, Copy, Debug)]
enum Impostor {
    Silent,
    Plaintext,
    Closing,
    Resetting,
    Garbage,
}

impl Impostor {
    fn serve(self, stream: &mut TcpStream) -> io::Result<()> {
        match self {
            Self::Silent => io::copy(stream, &mut io::sink()).map(drop),
            Self::Plaintext => stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"),
            Self::Closing => Ok(()),
            Self::Resetting => apps::reset_on_close(stream),
            Self::Garbage => stream.write_all(&[0xff; 4096]),
        }
    }
}

#[rstest]
#[case::silent(Impostor::Silent)]
#[case::plaintext(Impostor::Plaintext)]
#[case::closing(Impostor::Closing)]
#[case::resetting(Impostor::Resetting)]
#[case::garbage(Impostor::Garbage)]
fn an_impostor_in_the_peers_place_is_a_reset_with_a_reason_in_time(
    #[case] impostor: Impostor,
) -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let setup = Setup {
        manifests: ground.manifests(&[]),
        extra: "transport:\n  handshakeTimeout: 1s\n".to_owned(),
        ..Setup::default()
    };
    let near = ground.a.agent(&setup)?;
    let _impostor = ground
        .server
        .serve(HBONE_PORT, move |stream: &mut TcpStream, _| {
            impostor.serve(stream)
        })?;
    let wire = ground.fabric.wire()?;

    let error = ground
        .caller
        .call(ground.server.at(8080), "secret")
        .expect_err("no tunnel");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let line = near.access_line("the failure", |line| !line.is_allowed())?;
    assert_eq!(line.decision.as_deref(), Some("failed"));
    let is_silent = matches!(impostor, Impostor::Silent);
    assert_eq!(is_limit(&line), is_silent, "{line:?}");
    assert!(line.reason.is_some() && line.error.is_some(), "{line:#?}");
    assert!(!wire.carried(b"secret"));
    Ok(())
}
