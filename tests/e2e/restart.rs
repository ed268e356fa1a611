//! An agent that dies, and one that comes back: ports close instead of opening, and no workload
//! has to restart.

use std::io::{ErrorKind, Read as _, Write as _};

use anyhow::{Context as _, Result};
use interceptor_tests::apps;
use interceptor_tests::calls::{Calls, echo};
use interceptor_tests::manifests::PeerAuthentication;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};

const MARKER: &str = "never in plaintext";

#[test]
fn a_killed_agent_leaves_captured_ports_closed_and_no_plaintext_escapes() -> Result<()> {
    let Some(mut world) = World::with(&[])? else {
        return Ok(());
    };
    let server = world.server.serve(8080, apps::echo)?;
    let wire = world.fabric.wire()?;
    assert_eq!(world.caller.ask(world.server.at(8080), MARKER)?, MARKER);

    world.near.kill()?;
    for to in [world.server.at(8080), world.server.at6(8080)] {
        let error = world
            .caller
            .call(to, MARKER)
            .expect_err("outbound is closed");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
    }

    world.far.kill()?;
    let outside = world.a.pod("outside")?;
    for to in [world.server.at(8080), world.server.at6(8080)] {
        let error = outside.call(to, "x").expect_err("inbound is closed");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}");
    }
    assert_eq!(server.seen().len(), 1);
    wire.assert_protected(MARKER.as_bytes())
}

#[test]
fn an_agent_that_comes_back_serves_the_same_workloads() -> Result<()> {
    let Some(mut world) = World::with(&[&PeerAuthentication::strict()])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    assert_eq!(world.caller.ask(world.server.at(8080), "before")?, "before");

    for _ in 0..2 {
        world.near.kill()?;
        world.near.restart()?;
        assert_eq!(world.caller.ask(world.server.at(8080), "near")?, "near");
        world.far.kill()?;
        world.far.restart()?;
        wait::so("the far end to be back", || {
            world.caller.ask(world.server.at(8080), "far").is_ok()
        })?;
    }
    Ok(())
}

#[test]
fn an_agent_that_is_asked_to_stop_lets_connections_finish() -> Result<()> {
    let Some(mut world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    let mut answer = [0; 1];
    stream.write_all(b"1")?;
    stream.read_exact(&mut answer)?;

    world.near.signal(nix::sys::signal::Signal::SIGTERM)?;
    wait::so("new connections to be refused", || {
        world.caller.connect(world.server.at(8080)).is_err()
    })?;
    stream.write_all(b"2")?;
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"2");
    drop(stream);
    assert!(world.near.wait_end()?.success());
    world
        .near
        .access_line("the call's line", |line| line.bytes_sent == Some(2))?;
    Ok(())
}

#[test]
fn a_workload_that_goes_while_the_agent_is_down_is_forgotten() -> Result<()> {
    let Some(mut world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let extra = world.a.pod("extra")?;
    let manifest = extra.manifest();
    world.change(|it| it.add(manifest.clone()))?;
    wait::so("the extra pod to be enrolled", || {
        extra.ask(world.server.at(8080), "x").is_ok()
            && world
                .near
                .access()
                .iter()
                .any(|line| line.src_workload.as_deref() == Some("extra"))
    })?;
    world.near.kill()?;
    drop(extra);
    world.apply(&[])?;
    world.near.restart()?;
    assert_eq!(world.caller.ask(world.server.at(8080), "x")?, "x");
    let status = world.near.status()?;
    assert!(!status.to_string().contains("demo/extra"), "{status:#}");
    Ok(())
}

#[test]
fn a_killed_agent_resets_open_connections() -> Result<()> {
    let Some(mut world) = World::with(&[])? else {
        return Ok(());
    };
    let server = world.server.serve(8080, apps::echo)?;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;

    // An end of file would claim that the server had said all it had to say.
    world.near.kill()?;
    let error = stream.read(&mut [0]).expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let error = server.outcome()?.expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    Ok(())
}

#[test]
fn an_agent_that_is_killed_under_load_refuses_both_ways_until_the_next_one_serves() -> Result<()> {
    let Some(mut world) = World::with(&[&PeerAuthentication::strict()])? else {
        return Ok(());
    };
    let there = world.server.serve(8080, apps::echo)?;
    let _back = world.caller.serve(8081, apps::echo)?;
    let wire = world.fabric.wire()?;
    let World {
        near,
        caller,
        server,
        ..
    } = &mut world;
    let pairs = [(&*caller, server.at(8080)), (&*server, caller.at(8081))];
    let pairs: Vec<_> = pairs.into_iter().cycle().take(6).collect();
    let mut arrived = Vec::new();
    let outcomes = Calls::during(&pairs, |calls| {
        calls.more(50)?;
        calls.next_phase();
        near.kill()?;
        calls.next_phase();
        // The other agent may still deliver what it was sent before.
        let before = there.seen().len();
        calls.more(70)?;
        arrived = there.seen().split_off(before);
        calls.next_phase();
        near.restart()?;
        wait::so("the other end to call again", || {
            echo(server, caller.at(8081), 0).is_ok()
        })?;
        calls.next_phase();
        calls.more(100)
    })?;
    let of = |phase| outcomes.iter().filter(move |it| it.phase == Some(phase));
    let failed = |phase| {
        of(phase)
            .filter(|it| it.error.is_some())
            .collect::<Vec<_>>()
    };
    assert!(failed(0).is_empty(), "before: {:#?}", failed(0));
    assert!(of(2).all(|it| it.error.is_some()), "while it is down");
    assert!(of(2).count() > 50);
    let has_arrived = |from| arrived.iter().any(|it| it.peer == from);
    let through: Vec<_> = of(2)
        .filter(|it| it.from.is_some_and(has_arrived))
        .collect();
    assert!(through.is_empty(), "nothing gets through: {through:#?}");
    assert!(failed(4).is_empty(), "after: {:#?}", failed(4));
    wire.assert_protected(b"call ")
}

#[test]
fn an_owner_may_prefer_plaintext_to_refusal_and_is_told_how_much_of_it_there_was() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let mut world = ground.start_with(|it| {
        let key = "interceptor.dev/on-agent-down";
        it.caller = it.caller.clone().annotation(key, "allow-plaintext");
    })?;
    let server = world.server.serve(8080, apps::echo)?;
    let _back = world.caller.serve(8081, apps::echo)?;
    echo(&world.caller, world.server.at(8080), 0)?;
    world.near.kill()?;
    for number in 1..=3 {
        echo(&world.caller, world.server.at(8080), number)?;
    }
    let seen = server.seen().last().map(|seen| seen.peer.ip());
    assert_eq!(
        seen,
        Some(world.caller.v4()),
        "in plaintext, and still by the far agent"
    );
    let outside = world.a.pod("outside")?;
    echo(&outside, world.caller.at(8081), 4)?;

    world.near.restart()?;
    echo(&world.caller, world.server.at(8080), 5)?;
    world.near.access_line("captured again", |line| {
        line.is_outbound() && line.is_allowed()
    })?;
    let status = world.near.status()?;
    let ledger = status["unprotected"].as_array().context("a ledger")?;
    let entry = ledger
        .iter()
        .find(|it| it["what"] == "everything, while the agent is down");
    let why = entry.and_then(|it| it["why"].as_str()).unwrap_or_default();
    assert!(
        why.contains("3 outbound and 1 inbound connections passed"),
        "{status:#}"
    );
    Ok(())
}
