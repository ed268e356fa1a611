//! One agent that takes over from another while connections come and go: nobody notices.

use std::fs;
use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use interceptor_tests::agent::Agent;
use interceptor_tests::apps;
use interceptor_tests::calls::{Calls, echo};
use interceptor_tests::manifests::PeerAuthentication;
use interceptor_tests::pod::Pod;
use interceptor_tests::wait;
use interceptor_tests::world::World;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Clients that call without a pause, each way.
const CLIENTS: usize = 4;

/// Take-overs under load.
const TIMES: usize = 3;

#[test]
fn three_take_overs_at_each_end_fail_no_connection() -> Result<()> {
    let Some(mut world) = World::with(&[&PeerAuthentication::strict()])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let _back = world.caller.serve(8081, apps::echo)?;
    let World {
        near,
        far,
        caller,
        server,
        ..
    } = &mut world;
    let (caller, server): (&Pod, &Pod) = (caller, server);
    let there = (caller, server.at(8080));
    let there6 = (caller, server.at6(8080));
    let back = (server, caller.at(8081));
    let pairs: Vec<_> = [there, there6, back]
        .into_iter()
        .cycle()
        .take(3 * CLIENTS)
        .collect();
    let outcomes = Calls::during(&pairs, |calls| {
        calls.more(100)?;
        for _ in 0..TIMES {
            near.take_over()?;
            calls.more(100)?;
            far.take_over()?;
            calls.more(100)?;
        }
        Ok(())
    })?;
    let failures: Vec<_> = outcomes.iter().filter(|it| it.error.is_some()).collect();
    let recorded: Vec<_> = [&*near, &*far]
        .into_iter()
        .flat_map(Agent::access)
        .filter(|line| !line.is_allowed())
        .collect();
    let calls = outcomes.len();
    assert!(
        failures.is_empty(),
        "{failures:#?} of {calls}: {recorded:#?}"
    );
    for agent in [near, far] {
        for status in agent.wait_predecessors()? {
            assert_eq!(status.code(), Some(3), "{}", agent.log());
        }
    }
    Ok(())
}

#[test]
fn a_successor_that_is_killed_half_way_leaves_a_predecessor_that_serves() -> Result<()> {
    let Some(world) = World::with(&[&PeerAuthentication::strict()])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let _back = world.caller.serve(8081, apps::echo)?;
    for attempt in 0..6_u32 {
        let mut successor = (world.near).spawn(&world.near.config(), &["--take-over"])?;
        let begun = format!(
            "successor takes over version=\"{}\"",
            env!("CARGO_PKG_VERSION")
        );
        let attempts = usize::try_from(attempt)? + 1;
        wait::so("the take-over to begin", || {
            world.near.log().matches(&begun).count() == attempts
        })?;
        // From before its programs are loaded until about when it is ready.
        thread::sleep(Duration::from_millis(30) * attempt);
        successor.kill()?;
        successor.wait()?;
        let gave_up = "this agent goes on";
        wait::so("the agent to notice", || {
            world.near.log().matches(gave_up).count() == attempts
                || world.near.log().contains("replaced by a successor")
        })?;
        if world.near.log().contains("replaced by a successor") {
            // The last attempts may come too late to be half-way.
            return Ok(());
        }
        for number in 0..10 {
            echo(&world.caller, world.server.at(8080), number)?;
            echo(&world.server, world.caller.at(8081), number)?;
        }
    }
    Ok(())
}

#[test]
fn a_successor_that_cannot_serve_a_workload_gives_up_and_says_why() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    // Its configuration wants another port. That one is taken inside of the workload, and so are
    // all others.
    let _taken = world.caller.serve(15106, apps::echo)?;
    let only = |ports: &'static str| {
        let setting = "/proc/sys/net/ipv4/ip_local_port_range";
        world.caller.run(move || fs::write(setting, ports))
    };
    only("40000 40001")??;
    let all = [40_000, 40_001].map(|port| world.caller.serve(port, apps::echo));
    let text = fs::read_to_string(world.near.config())?;
    let config = world.near.config().with_extension("other.yaml");
    fs::write(&config, format!("{text}ports:\n  inbound: 15106\n"))?;
    let mut successor = world.near.spawn(&config, &["--take-over"])?;
    let status = wait::until("the successor to end", || {
        successor.try_wait().ok().flatten()
    })?;
    assert_eq!(status.code(), Some(2), "{}", world.near.log());
    let log = world.near.log();
    assert!(
        log.contains("demo/caller could not be served: ")
            && log.contains("127.0.0.1:15106 is in use"),
        "{log}"
    );
    wait::so("the agent to go on", || {
        world.near.log().contains("this agent goes on")
    })?;
    drop(all);
    only("32768 60999")??;
    echo(&world.caller, world.server.at(8080), 1)?;
    let status = world.near.status()?;
    assert_eq!(status["pid"].as_u64(), world.near.process().map(u64::from));
    Ok(())
}

#[test]
fn a_second_agent_that_is_not_to_take_over_names_the_first() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let mut second = world.near.spawn(&world.near.config(), &[])?;
    let status = wait::until("the second agent to end", || {
        second.try_wait().ok().flatten()
    })?;
    assert_eq!(status.code(), Some(2));
    let log = world.near.log();
    assert!(
        log.contains("is running: take over from it with `--take-over`"),
        "{log}"
    );
    Ok(())
}

#[test]
fn one_that_waits_when_replaced_ends_when_it_is_asked_to() -> Result<()> {
    let Some(mut world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let near = &mut world.near;
    let arguments = ["--take-over", "--wait-when-replaced"];
    let mut waiting = near.spawn(&near.config(), &arguments)?;
    let pid = waiting.id();
    wait::until("the second agent to answer", || {
        near.status().ok().filter(|it| it["pid"] == pid)
    })?;
    near.take_over()?;
    wait::until("the second agent to wait", || {
        let log = near.log();
        log.contains("replaced; waiting to be stopped")
            .then_some(())
    })?;
    assert_eq!(waiting.try_wait()?, None, "it is there for who started it");
    echo(&world.caller, world.server.at(8080), 1)?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
    let status = wait::until("the second agent to end", || {
        waiting.try_wait().ok().flatten()
    })?;
    assert_eq!(status.code(), Some(3), "{}", world.near.log());
    assert_eq!(world.near.wait_predecessors()?.len(), 1);
    echo(&world.caller, world.server.at(8080), 1)
}

#[test]
fn open_connections_go_on_in_the_replaced_agent_until_they_end() -> Result<()> {
    let Some(mut world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    let mut answer = [0; 1];
    stream.write_all(b"1")?;
    stream.read_exact(&mut answer)?;
    let config = world.near.config();
    let config = config.to_str().context("the path is not text")?;
    let plan = world
        .near
        .cli(&["run", "--plan-upgrade", "-o", "json", "--config", config])?;
    assert!(
        plan.status.success(),
        "{}",
        String::from_utf8_lossy(&plan.stderr)
    );
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout)?;
    let at = |pointer: &str| plan.pointer(pointer).cloned().unwrap_or_default();
    let pid = world.near.process().map(u64::from);
    assert_eq!(at("/from/pid").as_u64(), pid);
    assert_eq!(at("/drained").as_array().map(Vec::len), Some(1), "{plan:#}");
    assert_eq!(at("/drained/0/source/workload"), "demo/caller");
    assert_eq!(at("/replaced/ic_connect4"), 1);
    world.near.take_over()?;
    // The old agent carries what it has accepted, the new one what comes.
    echo(&world.caller, world.server.at(8080), 1)?;
    stream.write_all(b"2")?;
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"2");
    drop(stream);
    assert_eq!(world.near.wait_predecessors()?.len(), 1);
    let line = |line: &interceptor_tests::access::Line| line.bytes_sent == Some(2);
    assert!(world.near.access_line("the old line", line)?.is_allowed());
    Ok(())
}
