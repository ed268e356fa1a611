//! An agent that dies, and one that comes back: ports close instead of opening, and no workload
//! has to restart.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use interceptor_tests::access::Line;
use interceptor_tests::agent::Agent;
use interceptor_tests::apps;
use interceptor_tests::calls::{Calls, Outcome, echo, often};
use interceptor_tests::manifests::PeerAuthentication;
use interceptor_tests::pod::Pod;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};
use serde_json::Value;

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

/// The number before `of` in what the ledger says of what passed while no agent ran.
fn passed(ledger: &str, of: &str) -> Result<usize> {
    let (before, _) = ledger.split_once(of).with_context(|| ledger.to_owned())?;
    let number = before.split_whitespace().next_back();
    Ok(number.context("no number")?.parse()?)
}

/// How many connections of its own workloads an agent has carried.
fn captured(agent: &Agent) -> usize {
    let lines = agent.access();
    let carried = lines
        .iter()
        .filter(|it| it.is_outbound() && it.is_allowed());
    carried.count()
}

/// The most packets that come late of the connections that a death cuts.
const LATE: usize = 20;

/// What passes is as many as were made, counted by those at the other end: the far agent, which tells
/// what came in plaintext from what came through a tunnel, and the clients.
#[test]
fn an_agent_that_is_killed_under_load_lets_pass_whose_owner_chose_that_and_counts_them_all()
-> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let outside = ground.a.pod("outside")?;
    let mut world = ground.start_with(|it| {
        let key = "interceptor.dev/on-agent-down";
        it.caller = it.caller.clone().annotation(key, "allow-plaintext");
    })?;
    let _there = world.server.serve(8080, apps::echo)?;
    let _back = world.caller.serve(8081, apps::echo)?;
    let World {
        near,
        far,
        caller,
        server,
        ..
    } = &mut world;
    let pairs = [
        (&*caller, server.at(8080)),
        (&*caller, server.at6(8080)),
        (&outside, caller.at(8081)),
    ];
    let pairs: Vec<_> = pairs.into_iter().cycle().take(6).collect();
    let outcomes = Calls::during(&pairs, |calls| {
        calls.more(50)?;
        calls.next_phase();
        near.kill()?;
        calls.next_phase();
        wait::so("calls both ways while it is down", || {
            let so_far = calls.so_far();
            let of = |direction| while_down(&so_far, direction).len();
            of(Direction::Outbound).min(of(Direction::Inbound)) > 20
        })?;
        calls.next_phase();
        let before = captured(near);
        near.restart()?;
        wait::so("calls to be captured again", || captured(near) > before)?;
        calls.next_phase();
        calls.more(100)
    })?;
    // Who was on the way to the agent in the moment of its death was cut. Nobody else notices: not
    // while there is none, nor when the next one comes.
    let is_at_its_death = |it: &Outcome| matches!(it.phase, None | Some(1));
    let failed = outcomes.iter().filter(|it| it.error.is_some());
    let noticed: Vec<_> = failed.filter(|it| !is_at_its_death(it)).collect();
    assert!(noticed.is_empty(), "{noticed:#?}");

    wait::settled("the ledger to be as the other ends have it", || {
        let ledger = ledger(near)?;
        passed_outbound_as_arrived(&ledger, &far.access(), caller, &outcomes)?;
        passed_inbound_as_called(&ledger, &outcomes)
    })
}

/// What the ledger says of what passed while the agent was down.
fn ledger(agent: &Agent) -> Result<String> {
    let status = agent.status()?;
    let entries = status.get("unprotected").and_then(Value::as_array);
    let text = |entry: &Value, key: &str| Some(entry.get(key)?.as_str()?.to_owned());
    let is_absence = |entry: &&Value| {
        let what = text(entry, "what");
        what.as_deref() == Some("everything, while the agent is down")
    };
    let entry = entries.context("a ledger")?.iter().find(is_absence);
    Ok(entry.and_then(|it| text(it, "why")).unwrap_or_default())
}

/// As many as the far agent saw in plaintext, and all that were made while the near one was down.
fn passed_outbound_as_arrived(
    ledger: &str,
    far: &[Line],
    caller: &Pod,
    outcomes: &[Outcome],
) -> Result<()> {
    let address = |text: &Option<String>| text.as_ref()?.parse::<SocketAddr>().ok();
    let in_plaintext = |line: &Line| {
        let from = address(&line.src_addr)?;
        let is_callers = [caller.v4(), caller.v6()].contains(&from.ip());
        let is_applications = address(&line.dst_addr).is_some_and(|it| it.port() == 8080);
        let is_plain = !line.is_outbound() && line.src_identity.is_none();
        (is_callers && is_applications && is_plain).then_some(from)
    };
    let arrived: Vec<_> = far.iter().filter_map(in_plaintext).collect();
    let told = passed(ledger, " outbound")?;
    ensure!(
        told == arrived.len(),
        "{told}, and {} arrived",
        arrived.len()
    );
    let arrived = often(arrived.into_iter());
    let made = while_down(outcomes, Direction::Outbound);
    let has_not_arrived = |it: &&&Outcome| it.from.is_none_or(|from| !arrived.contains_key(&from));
    let missing: Vec<_> = made.iter().filter(has_not_arrived).collect();
    ensure!(missing.is_empty(), "not in plaintext: {missing:#?}");
    Ok(())
}

/// All that were made while the agent was down. Of those that began before its death, or ended after
/// its return, it may be either; and a late packet of one that was cut is looked up, and counted, like
/// a new one.
fn passed_inbound_as_called(ledger: &str, outcomes: &[Outcome]) -> Result<()> {
    let made = while_down(outcomes, Direction::Inbound).len();
    let perhaps = outcomes
        .iter()
        .filter(|it| Direction::of(it) == Direction::Inbound);
    let perhaps = perhaps.filter(|it| !matches!(it.phase, Some(0 | 4)));
    let at_most = perhaps.count() + LATE;
    let told = passed(ledger, " inbound")?;
    ensure!(
        (made..=at_most).contains(&told),
        "{told} inbound, {made} to {at_most} were made"
    );
    Ok(())
}

/// Seen from the caller of a world.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Outbound,
    Inbound,
}

impl Direction {
    fn of(call: &Outcome) -> Self {
        if call.who.starts_with("caller ") {
            Self::Outbound
        } else {
            Self::Inbound
        }
    }
}

/// The calls that began and ended while the agent was down.
fn while_down(outcomes: &[Outcome], direction: Direction) -> Vec<&Outcome> {
    let calls = outcomes.iter().filter(|it| it.phase == Some(2));
    calls.filter(|it| Direction::of(it) == direction).collect()
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
    let ledger = ledger(&world.near)?;
    assert!(
        ledger.contains("3 outbound and 1 inbound connections passed"),
        "{ledger}"
    );
    Ok(())
}
