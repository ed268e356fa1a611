//! Faults: what each end sees, that it is bounded and explained, and that others are unharmed.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::time::Duration;

use anyhow::Result;
use interceptor_tests::access::Line;
use interceptor_tests::agent::{Agent, Setup};
use interceptor_tests::apps;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};
use rstest::rstest;

/// Deadlines short enough to wait for.
const SHORT: &str = "transport:\n  connectTimeout: 1s\n  handshakeTimeout: 1s\n";

fn impatient() -> Result<Option<World>> {
    let Some(ground) = Ground::new()? else {
        return Ok(None);
    };
    let setup = Setup {
        manifests: ground.manifests(&[]),
        extra: SHORT.to_owned(),
        ..Setup::default()
    };
    ground.start(&setup).map(Some)
}

/// Root can take the agent's pins away. Nothing ends by that, people are told, and the pins come
/// back, for they are what keeps ports closed without an agent.
#[test]
fn pins_that_are_taken_away_come_back_and_people_are_told() -> Result<()> {
    let Some(mut world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let pins = world.near.pins();
    fs::remove_dir_all(&pins)?;
    // Whoever has the node's folder has the node: nothing is put back beside them.
    fs::create_dir_all(&pins)?;
    let taken = File::open(&pins)?;
    // The agent may have been there first.
    let somebody_else = taken.try_lock().is_ok();
    if somebody_else {
        let said = wait::until("not ready", || {
            let answer = world.near.get(15021, "/healthz/ready").ok()?;
            (answer.status == 503).then_some(answer.body)
        })?;
        assert!(said.contains("the node's folder is not there"), "{said}");
        world.caller.ask(world.server.at(8080), "still carried")?;
    }
    drop(taken);
    let lost = "interceptor_kernel_losses_total";
    (world.near).metric_reaches(lost, &[("what", "pin")], 20.0)?;
    world.near.wait_ready()?;
    world.near.kill()?;
    let refused = world.caller.connect(world.server.at(8080));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    Ok(())
}

/// A workload that was never captured and does not fit into the kernel's maps is not left in
/// plaintext, and does not keep the agent from being replaced.
#[test]
fn a_workload_that_has_no_room_is_refused_and_people_are_told() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let ports = (8080..8180).map(|port: u16| port.to_string());
    let ports = ports.collect::<Vec<_>>().join(",");
    let key = "traffic.sidecar.istio.io/excludeOutboundPorts";
    let setup = Setup {
        manifests: ground.manifests_as(|it| it.caller = it.caller.clone().annotation(key, &ports)),
        capture: "  maxRules: 16\n".to_owned(),
        ..Setup::default()
    };
    let _server = ground.server.serve(8080, apps::echo)?;
    let mut agent = ground.a.agent_unready(&setup)?;
    let is_refused = |agent: &Agent| {
        let said = wait::until("the reason", || {
            let answer = agent.get(15021, "/healthz/ready").ok()?;
            answer.body.contains("no room").then_some(answer)
        })?;
        assert_eq!(said.status, 503);
        let expected = "demo/caller has no room and is refused: the map of outbound rules is full";
        assert!(said.body.contains(expected), "{}", said.body);
        let refused = ground.caller.connect(ground.server.at(8080)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        agent.metric_reaches("interceptor_workloads", &[("state", "failed")], 1.0)
    };
    is_refused(&agent)?;
    agent.take_over()?;
    is_refused(&agent)?;
    agent.write_mesh(&ground.manifests(&[]))?;
    agent.wait_ready()
}

/// One workload cannot use up what all of the node share. What is too much is refused with a reason
/// at both ends, others are served, and what ends makes room.
#[test]
fn a_workload_with_too_many_connections_gets_no_more() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let setup = Setup {
        manifests: ground.manifests(&[]),
        extra: "maxConnectionsPerWorkload: 8\n".to_owned(),
        ..Setup::default()
    };
    let world = ground.start_each(
        &setup,
        &Setup {
            extra: String::new(),
            ..setup.clone()
        },
    )?;
    let _server = world.server.serve(8080, apps::echo)?;
    let _back = world.caller.serve(8081, apps::echo)?;
    let to = world.server.at(8080);
    let open = |count: usize| -> Result<Vec<_>> {
        let mut all = Vec::new();
        for _ in 0..count {
            let mut stream = world.caller.connect(to)?;
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])?;
            all.push(stream);
        }
        Ok(all)
    };
    let held = open(8)?;
    // The reset may come before connect(2) has returned.
    let refused = (world.caller.connect(to)).and_then(|mut stream| stream.read(&mut [0]));
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let too_many = |line: &Line| line.reason.as_deref() == Some("too_many_connections");
    let line = world.near.access_line("the refusal", too_many)?;
    assert!(
        line.error
            .unwrap_or_default()
            .contains("maxConnectionsPerWorkload")
    );
    // To it is as many as from it.
    let inbound = world
        .server
        .connect(world.caller.at(8081))
        .and_then(|mut stream| {
            stream.write_all(b"x")?;
            stream.read(&mut [0])
        });
    assert_eq!(inbound.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let failed = "interceptor_connections_failed_total";
    let labels = [("reason", "too_many_connections")];
    world.near.metric_reaches(failed, &labels, 2.0)?;

    drop(held);
    wait::so("room", || open(1).is_ok())?;
    wait::so("room inbound", || {
        world.server.ask(world.caller.at(8081), "hello").is_ok()
    })
}

#[test]
fn either_end_may_close_its_direction_and_go_on_reading() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _half = world.server.serve(8080, apps::half_close)?;
    assert_eq!(
        world.caller.ask(world.server.at(8080), "hello")?,
        "5 bytes: hello"
    );

    let first = world.server.serve(8081, apps::speak_first)?;
    let mut stream = world.caller.connect(world.server.at(8081))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    assert_eq!(said, "bye");
    stream.write_all(b"all is done")?;
    stream.shutdown(Shutdown::Write)?;
    first.outcome()??;
    world.lines("the call", |line| line.bytes_recv == Some(3))?;
    Ok(())
}

#[test]
fn a_reset_by_the_server_is_a_reset_at_the_client() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::reset)?;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    stream.write_all(b"x")?;
    let error = stream.read(&mut [0]).expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    world.lines("the reset call", |line| line.bytes_sent == Some(1))?;
    Ok(())
}

#[test]
fn a_reset_by_the_client_is_a_reset_at_the_server() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let server = world.server.serve(8080, apps::echo)?;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    apps::reset_on_close(&stream)?;
    drop(stream);
    let error = server.outcome()?.expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    Ok(())
}

#[test]
fn a_dead_agent_at_the_far_end_is_a_reset_with_a_reason() -> Result<()> {
    let Some(mut world) = impatient()? else {
        return Ok(());
    };
    let server = world.server.serve(8080, apps::echo)?;
    world.far.kill()?;
    let error = world
        .caller
        .call(world.server.at(8080), "x")
        .expect_err("nobody carries it");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let line = world
        .near
        .access_line("the failure", |line| !line.is_allowed())?;
    assert_eq!(line.decision.as_deref(), Some("failed"));
    assert_eq!(line.reason.as_deref(), Some("unreachable"));
    let labels = [("reporter", "source"), ("response_flags", "CONNECT")];
    world
        .near
        .metric_reaches("istio_tcp_connections_failed_total", &labels, 1.0)?;
    assert_eq!(server.seen(), []);
    Ok(())
}

#[test]
fn an_unreachable_node_is_a_reset_within_the_connect_timeout() -> Result<()> {
    let Some(world) = impatient()? else {
        return Ok(());
    };
    world.b.unplug()?;
    let error = world
        .caller
        .call(world.server.at(8080), "x")
        .expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let line = world
        .near
        .access_line("the failure", |line| !line.is_allowed())?;
    assert_eq!(line.decision.as_deref(), Some("failed"));
    assert!(line.error.is_some());

    world.b.plug()?;
    let _server = world.server.serve(8080, apps::echo)?;
    wait::so("the node to be reached again", || {
        world.caller.ask(world.server.at(8080), "x").is_ok()
    })
}

#[test]
fn a_warm_tunnel_to_a_node_that_vanished_does_not_hang_forever() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let extra = format!("{SHORT}  pingInterval: 1s\n  pingTimeout: 1s\n");
    let setup = Setup {
        manifests: ground.manifests(&[]),
        extra,
        ..Setup::default()
    };
    let world = ground.start(&setup)?;
    let _server = world.server.serve(8080, apps::echo)?;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;

    world.b.unplug()?;
    stream.write_all(b"y")?;
    let error = stream.read(&mut [0]).expect_err("the tunnel is dead");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let line = world
        .near
        .access_line("the failure", |line| !line.is_allowed())?;
    assert_eq!(line.decision.as_deref(), Some("failed"));
    Ok(())
}

#[test]
fn an_application_that_never_reads_blocks_its_sender_and_nobody_else() -> Result<()> {
    const MOST: u64 = 64 * 1024 * 1024;
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _deaf = world.server.serve(8080, apps::never_read)?;
    let _echo = world.server.serve(8081, apps::echo)?;
    assert_eq!(world.caller.ask(world.server.at(8081), "warm")?, "warm");
    let resident = || anyhow::Ok(world.near.resident_bytes()? + world.far.resident_bytes()?);
    let before = resident()?;

    let mut stream = world.caller.connect(world.server.at(8080))?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let block = vec![7; 1024 * 1024];
    // The kernel may keep much of it. What the agents keep is bounded, and so it ends.
    let blocked = loop {
        let written = stream.write(&block);
        let grown = resident()?.saturating_sub(before);
        assert!(grown < MOST, "the agents grew by {grown} bytes");
        if let Err(error) = written {
            break error;
        }
    };
    assert_eq!(blocked.kind(), ErrorKind::WouldBlock);
    assert_eq!(world.caller.ask(world.server.at(8081), "still")?, "still");
    Ok(())
}

#[test]
fn much_data_passes_both_ways_unchanged() -> Result<()> {
    const LENGTH: usize = 64 * 1024 * 1024;
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let stream = world.caller.connect(world.server.at(8080))?;
    let sent: Vec<u8> = (0..LENGTH)
        .map(|n| u8::try_from((n ^ (n >> 8) ^ (n >> 16)) & 0xff).unwrap_or(0))
        .collect();
    let mut received = Vec::with_capacity(LENGTH);
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| -> std::io::Result<()> {
            (&stream).write_all(&sent)?;
            stream.shutdown(Shutdown::Write)
        });
        (&stream).read_to_end(&mut received)?;
        writer.join().expect("no panic")?;
        Ok(())
    })?;
    assert!(received == sent, "what came back differs");
    let length = u64::try_from(LENGTH).ok();
    let (near, far) = world.lines("the call", Line::is_allowed)?;
    assert_eq!((near.bytes_sent, near.bytes_recv), (length, length));
    assert_eq!((far.bytes_sent, far.bytes_recv), (length, length));
    Ok(())
}

#[rstest]
#[case::on_shared_carriers(0)]
#[case::on_exclusive_carriers(8)]
fn a_client_that_gives_up_leaves_nothing_open(#[case] exclusive: usize) -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let setup = Setup {
        manifests: ground.manifests(&[]),
        extra: format!("transport:\n  maxExclusive: {exclusive}\n"),
        ..Setup::default()
    };
    let world = ground.start(&setup)?;
    let _server = world.server.serve(8080, apps::echo)?;
    assert_eq!(world.caller.ask(world.server.at(8080), "warm")?, "warm");
    let before = (world.near.open_files()?, world.far.open_files()?);
    for round in 0..100 {
        let stream = world.caller.connect(world.server.at(8080))?;
        if round % 2 == 0 {
            apps::reset_on_close(&stream)?;
        }
    }
    // Carriers may have been added; connections must not be left.
    wait::so("all connections to be closed", || {
        let near = world.near.open_files().unwrap_or(usize::MAX);
        let far = world.far.open_files().unwrap_or(usize::MAX);
        near <= before.0 + 20 && far <= before.1 + 20
    })
}

#[test]
fn an_application_takes_more_connections_than_there_are_local_ports() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _echo = world.server.serve(8080, apps::echo)?;
    // The caller closes first, so each call leaves a port of the last leg in TIME_WAIT.
    world
        .server
        .run(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40003"))??;
    for _ in 0..12 {
        assert_eq!(world.caller.ask(world.server.at(8080), "hello")?, "hello");
    }
    Ok(())
}
