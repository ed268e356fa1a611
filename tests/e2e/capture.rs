//! What is captured, what is not, and what applications notice of it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::thread;

use anyhow::Result;
use interceptor_tests::access::Line;
use interceptor_tests::apps;
use interceptor_tests::host::HostWorkload;
use interceptor_tests::manifests::{PeerAuthentication, Service, identity};
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};
use rstest::rstest;

const MARKER: &str = "the secret of this very test";

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
    V4Mapped,
}

fn address(world: &World, family: Family, port: u16) -> SocketAddr {
    match (family, world.server.v4()) {
        (Family::V4Mapped, IpAddr::V4(v4)) => {
            SocketAddrV6::new(v4.to_ipv6_mapped(), port, 0, 0).into()
        }
        (Family::V6, _) => world.server.at6(port),
        _ => world.server.at(port),
    }
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
#[case::v4_mapped(Family::V4Mapped)]
fn a_call_is_carried_over_mutual_tls_and_both_ends_say_so(#[case] family: Family) -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let wire = world.fabric.wire()?;
    let to = address(&world, family, 8080);

    assert_eq!(world.caller.ask(to, MARKER)?, MARKER);

    wire.assert_protected(MARKER.as_bytes())?;
    let (near, far) = world.lines("the call", Line::is_allowed)?;
    let target = apps::canonical(to).to_string();
    for line in [&near, &far] {
        assert_eq!(line.src_identity, Some(identity("caller")));
        assert_eq!(line.dst_identity, Some(identity("server")));
        assert_eq!(line.src_workload.as_deref(), Some("caller"));
        assert_eq!(line.dst_workload.as_deref(), Some("server"));
        assert_eq!(line.dst_hbone_addr.as_deref(), Some(target.as_str()));
        assert_eq!(line.tls_cipher.as_deref(), Some("TLS13_AES_128_GCM_SHA256"));
        assert_eq!((line.bytes_sent, line.bytes_recv), bytes(MARKER.len()));
    }
    for (agent, reporter) in [(&world.near, "source"), (&world.far, "destination")] {
        let labels = [
            ("reporter", reporter),
            ("source_workload", "caller"),
            ("destination_workload", "server"),
            ("connection_security_policy", "mutual_tls"),
            ("response_flags", "-"),
        ];
        for name in ["opened", "closed"] {
            agent.metric_reaches(&format!("istio_tcp_connections_{name}_total"), &labels, 1.0)?;
        }
        let length = f64::from(u32::try_from(MARKER.len())?);
        for name in ["sent", "received"] {
            agent.metric_reaches(&format!("istio_tcp_{name}_bytes_total"), &labels, length)?;
        }
    }
    Ok(())
}

fn bytes(length: usize) -> (Option<u64>, Option<u64>) {
    let length = u64::try_from(length).ok();
    (length, length)
}

#[rstest]
#[case::v4(Family::V4)]
#[case::v6(Family::V6)]
#[case::v4_mapped(Family::V4Mapped)]
fn both_applications_see_each_others_true_addresses(#[case] family: Family) -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let server = world.server.serve(8080, apps::who_am_i)?;
    let to = address(&world, family, 8080);

    let mut stream = world.caller.connect(to)?;
    assert_eq!(stream.peer_addr()?, to, "the client's getpeername");
    let own = apps::canonical(stream.local_addr()?);
    stream.write_all(b"x")?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;

    let seen = server.first()?;
    assert_eq!(seen.accepted_from, own, "the server's accept");
    assert_eq!(seen.peer, own, "the server's getpeername");
    assert_eq!(seen.local, apps::canonical(to), "the server's getsockname");
    assert_eq!(said, format!("{own} {}", apps::canonical(to)));
    Ok(())
}

#[rstest]
#[case::ipv4(false)]
#[case::ipv6(true)]
fn a_service_address_leads_to_the_named_target_port(#[case] ipv6: bool) -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let (vip, vip6) = (ground.fabric.vip(1), ground.fabric.vip6(1));
    let world = ground.start_with(|it| {
        it.server = it.server.clone().port("http", 8080);
        it.add(Service::new("server", &[vip, vip6]).named_port("web", 80, "http"));
    })?;
    let _server = world.server.serve(8080, apps::echo)?;
    let to = SocketAddr::from((if ipv6 { vip6 } else { vip }, 80));

    assert_eq!(world.caller.ask(to, "hello")?, "hello");

    let (near, far) = world.lines("the call", Line::is_allowed)?;
    let target = if ipv6 {
        world.server.at6(8080)
    } else {
        world.server.at(8080)
    };
    assert_eq!(
        near.dst_service.as_deref(),
        Some("server.demo.svc.cluster.local")
    );
    assert_eq!(near.dst_hbone_addr, Some(target.to_string()));
    assert_eq!(far.dst_hbone_addr, Some(target.to_string()));
    Ok(())
}

#[test]
fn a_service_without_endpoints_is_refused_and_not_passed_through() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let vip = ground.fabric.vip(1);
    let world = ground.start_with(|it| {
        // Selects the server, whose container has no port of that name.
        it.add(Service::new("server", &[vip]).named_port("web", 80, "absent"));
    })?;

    let error = world
        .caller
        .call((vip, 80).into(), "x")
        .expect_err("no endpoint");
    assert!(refused(error.kind()), "{error:?}");
    let line = world
        .near
        .access_line("the refusal", |line| !line.is_allowed())?;
    assert_eq!(
        line.dst_service.as_deref(),
        Some("server.demo.svc.cluster.local")
    );
    Ok(())
}

/// What an application may see of a refused connection.
const fn refused(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

#[rstest]
#[case::by_port("excludeOutboundPorts")]
#[case::by_range("excludeOutboundIPRanges")]
fn an_excluded_destination_is_not_captured(#[case] annotation: &str) -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let server = world.server.serve(8080, apps::echo)?;
    let value = match annotation {
        "excludeOutboundPorts" => "8080".to_owned(),
        _ => format!("{}/32", world.server.v4()),
    };
    let key = format!("traffic.sidecar.istio.io/{annotation}");
    world.change(|it| it.caller = it.caller.clone().annotation(&key, &value))?;
    let wire = world.fabric.wire()?;

    wait::so("the exclusion to take effect", || {
        let answer = world.caller.ask(world.server.at(8080), MARKER);
        answer.is_ok_and(|it| it == MARKER) && wire.carried(MARKER.as_bytes())
    })?;
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.peer.ip() == world.caller.v4())
    );
    let line = world
        .far
        .access_line("plaintext inbound", |line| line.src_identity.is_none())?;
    assert_eq!(line.direction.as_deref(), Some("inbound"));
    Ok(())
}

#[test]
fn an_excluded_inbound_port_is_the_applications_own() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let world = ground.start_with(|it| {
        let key = "traffic.sidecar.istio.io/excludeInboundPorts";
        it.server = it.server.clone().annotation(key, "9000");
        it.add(PeerAuthentication::strict());
    })?;
    let outside = world.a.pod("outside")?;
    let _captured = world.server.serve(8080, apps::echo)?;
    let _excluded = world.server.serve(9000, apps::echo)?;

    assert_eq!(outside.ask(world.server.at(9000), "plain")?, "plain");
    assert!(outside.call(world.server.at(8080), "plain").is_err());
    Ok(())
}

#[test]
fn an_unknown_destination_passes_in_plaintext_and_is_counted() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let outside = world.b.pod("outside")?;
    let _server = outside.serve(8080, apps::echo)?;
    let wire = world.fabric.wire()?;

    assert_eq!(world.caller.ask(outside.at(8080), MARKER)?, MARKER);

    wait::so("the wire to carry it", || wire.carried(MARKER.as_bytes()))?;
    let line = world
        .near
        .access_line("the passthrough", Line::is_outbound)?;
    assert_eq!(line.dst_addr, Some(outside.at(8080).to_string()));
    assert_eq!((line.src_identity, line.dst_identity), (None, None));
    assert_eq!((line.bytes_sent, line.bytes_recv), bytes(MARKER.len()));
    let labels = [
        ("reporter", "source"),
        ("connection_security_policy", "unknown"),
    ];
    world
        .near
        .metric_reaches("istio_tcp_connections_opened_total", &labels, 1.0)
}

#[test]
fn an_unknown_destination_is_refused_where_the_owner_says_so() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let world = ground.start_with(|it| {
        let key = "interceptor.dev/unknown-destinations";
        it.caller = it.caller.clone().annotation(key, "refuse");
    })?;
    let outside = world.b.pod("outside")?;
    let server = outside.serve(8080, apps::echo)?;
    let _known = world.server.serve(8080, apps::echo)?;

    let error = world
        .caller
        .call(outside.at(8080), "x")
        .expect_err("refused");
    assert!(refused(error.kind()), "{error:?}");
    assert_eq!(server.seen(), []);
    let line = world
        .near
        .access_line("the refusal", |line| !line.is_allowed())?;
    assert_eq!(line.decision.as_deref(), Some("denied"));
    assert_eq!(
        world.caller.ask(world.server.at(8080), "x")?,
        "x",
        "the mesh itself is known"
    );
    Ok(())
}

#[test]
fn a_host_network_workload_is_known_by_its_cgroup() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let host = HostWorkload::new(&ground.a, "host-app")?;
    let manifest = host.manifest()?;
    let world = ground.start_with(|it| it.add(manifest))?;
    let server = world.server.serve(8080, apps::echo)?;
    let (program, to) = (
        Path::new(env!("CARGO_BIN_EXE_host-app")),
        world.server.at(8080),
    );

    let output = host.run(program, to, MARKER)?;

    let said = String::from_utf8([output.stdout, output.stderr].concat())?;
    let (peer, rest) = said.split_once(' ').unwrap_or_default();
    assert_eq!(
        peer,
        to.to_string(),
        "its getpeername; it said {said} {}",
        world.near.log()
    );
    assert!(rest.trim_end().ends_with(MARKER), "{said}");
    let (near, _) = world.lines("the call", Line::is_allowed)?;
    assert_eq!(near.src_identity, Some(identity("host-app")));

    // A process of the same namespace that is not in the cgroup is somebody else.
    world.a.connect(to)?;
    wait::so("the application to see it", || server.seen().len() == 2)?;
    let plaintext = |line: &Line| !line.is_outbound() && line.src_identity.is_none();
    world
        .far
        .access_line("plaintext from the node", plaintext)?;
    Ok(())
}

#[test]
fn loopback_is_left_alone() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let server = world.caller.serve(8080, apps::echo)?;
    for to in ["127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080"] {
        assert_eq!(world.caller.ask(to.parse()?, "self")?, "self", "{to}");
    }
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.peer.ip().is_loopback()),
        "{:?}",
        server.seen()
    );
    assert!(world.near.access().is_empty());
    Ok(())
}

#[test]
fn a_pod_reaches_itself_by_its_own_address() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.caller.serve(8080, apps::echo)?;
    assert_eq!(world.caller.ask(world.caller.at(8080), "self")?, "self");
    Ok(())
}

#[test]
fn pods_of_one_node_reach_each_other() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let neighbour = ground.a.pod("neighbour")?;
    let manifest = neighbour.manifest();
    let world = ground.start_with(|it| it.add(manifest))?;
    let server = neighbour.serve(8080, apps::echo)?;

    assert_eq!(world.caller.ask(neighbour.at(8080), "hello")?, "hello");
    assert_eq!(server.first()?.peer.ip(), world.caller.v4());
    let inbound = world
        .near
        .access_line("the neighbour's line", |line| !line.is_outbound())?;
    assert_eq!(inbound.src_identity, Some(identity("caller")));
    Ok(())
}

#[test]
fn many_connections_at_once_all_reach_where_they_were_meant_to() -> Result<()> {
    const THREADS: usize = 8;
    const EACH: usize = 50;
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let servers: Vec<_> = (0..THREADS)
        .map(|n| world.server.serve(8000 + u16::try_from(n)?, apps::who_am_i))
        .collect::<Result<_>>()?;

    thread::scope(|scope| -> Result<()> {
        let world = &world;
        let callers: Vec<_> = servers
            .iter()
            .map(|server| {
                let to = world.server.at(server.port());
                scope.spawn(move || -> Result<()> {
                    for _ in 0..EACH {
                        let said = world.caller.ask(to, "x")?;
                        assert!(said.ends_with(&to.to_string()), "{said} instead of {to}");
                    }
                    Ok(())
                })
            })
            .collect();
        for caller in callers {
            caller.join().expect("no panic")?;
        }
        Ok(())
    })?;
    let labels = [("reporter", "source"), ("response_flags", "-")];
    let all = f64::from(u32::try_from(THREADS * EACH)?);
    world
        .near
        .metric_reaches("istio_tcp_connections_closed_total", &labels, all)?;
    wait::so("as many access lines at both ends", || {
        world.near.access().len() == THREADS * EACH && world.far.access().len() == THREADS * EACH
    })
}

#[test]
fn a_port_where_nobody_listens_is_a_reset_with_a_reason() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let error = world
        .caller
        .call(world.server.at(8080), "x")
        .expect_err("nobody listens");
    assert!(refused(error.kind()), "{error:?}");
    let (near, far) = world.lines("the failure", |line| !line.is_allowed())?;
    for line in [&near, &far] {
        assert_eq!(line.decision.as_deref(), Some("failed"), "{line:#?}");
        assert!(line.error.is_some(), "{line:#?}");
    }
    Ok(())
}

#[test]
fn an_address_where_nobody_is_times_out_and_says_so() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let nowhere = world.fabric.nowhere();
    assert_ne!(nowhere, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    assert!(world.caller.call((nowhere, 8080).into(), "x").is_err());
    let line = world
        .near
        .access_line("the failure", |line| !line.is_allowed())?;
    assert_eq!(line.decision.as_deref(), Some("failed"));
    Ok(())
}
