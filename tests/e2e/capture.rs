//! What is captured, what is not, and what applications notice of it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV6};
use std::thread;

use anyhow::Result;
use interceptor_tests::access::Line;
use interceptor_tests::apps;
use interceptor_tests::manifests::{Service, identity};
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
        assert!(line.is_of(MARKER.len(), MARKER.len()), "{line:?}");
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
    assert!(apps::is_refusal(&error), "{error:?}");
    let line = world
        .near
        .access_line("the refusal", |line| !line.is_allowed())?;
    assert_eq!(
        line.dst_service.as_deref(),
        Some("server.demo.svc.cluster.local")
    );
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
    assert!(apps::is_refusal(&error), "{error:?}");
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
