//! What is not captured, or not entirely: excluded ports and ranges, loopback, destinations outside
//! the mesh, processes outside a workload's cgroup.

use std::path::Path;

use anyhow::Result;
use interceptor_tests::access::Line;
use interceptor_tests::apps;
use interceptor_tests::host::HostWorkload;
use interceptor_tests::manifests::{PeerAuthentication, Service, WorkloadEntry, identity};
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};
use rstest::rstest;

const MARKER: &str = "the secret of this very test";

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
fn ports_are_excluded_by_name_too() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let vip = ground.fabric.vip(1);
    let world = ground.start_with(|it| {
        let prefix = "traffic.sidecar.istio.io";
        let (outbound, inbound) = (
            format!("{prefix}/excludeOutboundPorts"),
            format!("{prefix}/excludeInboundPorts"),
        );
        it.caller = it.caller.clone().annotation(&outbound, "plain");
        it.server = it
            .server
            .clone()
            .port("plain", 8080)
            .port("safe", 9090)
            .annotation(&inbound, "plain");
        it.add(
            Service::new("server", &[vip])
                .port("plain", 80, 8080)
                .port("safe", 90, 9090),
        );
        it.add(PeerAuthentication::strict());
    })?;
    let _plain = world.server.serve(8080, apps::echo)?;
    let _safe = world.server.serve(9090, apps::echo)?;
    let outside = world.a.pod("outside")?;
    let wire = world.fabric.wire()?;

    // Neither end captures the port: plaintext gets through a STRICT mesh, as was asked for.
    assert_eq!(world.caller.ask(world.server.at(8080), MARKER)?, MARKER);
    wait::so("the wire to carry it", || wire.carried(MARKER.as_bytes()))?;
    assert_eq!(outside.ask(world.server.at(8080), "x")?, "x");
    assert!(world.near.access().is_empty() && world.far.access().is_empty());
    // The other port is captured at both ends.
    assert!(outside.call(world.server.at(9090), "x").is_err());
    assert_eq!(world.caller.ask((vip, 90).into(), "x")?, "x");
    world.lines("the captured call", Line::is_allowed)?;
    Ok(())
}

#[test]
fn only_included_destinations_are_captured() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let world = ground.start_with(|it| {
        let prefix = "traffic.sidecar.istio.io";
        let caller = it.caller.clone();
        let caller = caller.annotation(&format!("{prefix}/includeOutboundIPRanges"), "");
        it.caller = caller.annotation(&format!("{prefix}/includeOutboundPorts"), "9090");
    })?;
    let _out = world.server.serve(8080, apps::echo)?;
    let _in = world.server.serve(9090, apps::echo)?;

    assert_eq!(world.caller.ask(world.server.at(8080), "x")?, "x");
    assert!(
        world.near.access().is_empty(),
        "not included, so not captured"
    );
    assert_eq!(world.caller.ask(world.server.at(9090), "x")?, "x");
    let (near, _) = world.lines("the captured call", Line::is_allowed)?;
    assert_eq!(near.src_identity, Some(identity("caller")));
    Ok(())
}

#[test]
fn a_workload_entry_behind_a_service_is_reached_in_plaintext_and_named() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let machine = ground.b.pod("machine")?;
    let (vip, address) = (ground.fabric.vip(1), machine.v4());
    let world = ground.start_with(|it| {
        it.add(
            WorkloadEntry::new("machine", address)
                .plaintext()
                .port("web", 8080),
        );
        it.add(Service::new("machine", &[vip]).named_port("web", 80, "web"));
    })?;
    let _server = machine.serve(8080, apps::echo)?;

    assert_eq!(world.caller.ask((vip, 80).into(), MARKER)?, MARKER);

    let line = world.near.access_line("the call", Line::is_outbound)?;
    assert_eq!(line.dst_workload.as_deref(), Some("machine"));
    assert_eq!(
        line.dst_service.as_deref(),
        Some("machine.demo.svc.cluster.local")
    );
    assert_eq!(line.dst_addr, Some(machine.at(8080).to_string()));
    assert_eq!((line.src_identity, line.tls_cipher), (None, None));
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
    assert!(
        line.src_identity.is_none() && line.dst_identity.is_none(),
        "{line:?}"
    );
    assert!(line.is_of(MARKER.len(), MARKER.len()), "{line:?}");
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
    assert!(apps::is_refusal(&error), "{error:?}");
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
