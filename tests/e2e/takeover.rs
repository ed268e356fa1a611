//! One agent that takes over from another while connections come and go: nobody notices.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_links;
use interceptor_tests::access::Line;
use interceptor_tests::agent::{Agent, Setup};
use interceptor_tests::apps;
use interceptor_tests::calls::{Calls, echo};
use interceptor_tests::manifests::{PeerAuthentication, Service};
use interceptor_tests::pod::Pod;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::same_node::{Home, exchange};

/// Clients that call without a pause, two of each kind.
const CLIENTS: usize = 12;

/// A port of the server's that takes plaintext.
const OPEN: u16 = 9090;

/// Take-overs under load.
const TIMES: usize = 3;

/// Two nodes under STRICT except for one port, and a Service with endpoints on both.
fn with_service(ground: Ground, vip: SocketAddr) -> Result<Home> {
    let neighbour = ground.a.pod("neighbour")?;
    let manifest = neighbour.manifest().label("app", "server");
    let world = ground.start_with(|it| {
        it.add(manifest);
        it.add(Service::new("server", &[vip.ip()]).port("echo", 80, 8080));
        it.add(PeerAuthentication::strict());
        let open = PeerAuthentication::strict().selecting("server");
        it.add(open.port(OPEN, "PERMISSIVE"));
    })?;
    Ok(Home { world, neighbour })
}

#[test]
fn three_take_overs_at_each_end_fail_no_connection() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let vip = SocketAddr::new(ground.fabric.vip(1), 80);
    let outside = ground.a.pod("outside")?;
    let mut home = with_service(ground, vip)?;
    let _server = home.world.server.serve(8080, apps::echo)?;
    let _open = home.world.server.serve(OPEN, apps::echo)?;
    let _back = home.world.caller.serve(8081, apps::echo)?;
    let beside = home.neighbour.serve(8080, apps::echo)?;
    home.granted(home.neighbour.at(8080))?;
    home.granted(vip)?;
    let (passed, seen) = (home.passed(), beside.seen().len());
    let Home { world, neighbour } = &mut home;
    let World {
        near,
        far,
        caller,
        server,
        ..
    } = world;
    let (caller, server): (&Pod, &Pod) = (caller, server);
    let pairs = [
        (caller, server.at(8080)),
        (caller, server.at6(8080)),
        (server, caller.at(8081)),
        // To here and elsewhere, and only here: past the agent.
        (caller, vip),
        (caller, neighbour.at(8080)),
        // In plaintext.
        (&outside, server.at(OPEN)),
    ];
    let pairs: Vec<_> = pairs.iter().copied().cycle().take(CLIENTS).collect();
    let outcomes = Calls::during(&pairs, |calls| {
        calls.more(100)?;
        for _ in 0..TIMES {
            for agent in [&mut *near, &mut *far] {
                let before = attached(agent)?;
                agent.take_over()?;
                assert_replaced(&before, &attached(agent)?);
                calls.more(100)?;
            }
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
    // They went where they were meant to.
    assert!(
        beside.seen().len() - seen > 100,
        "the Service and the neighbour"
    );
    assert!(home.passed() - passed > 50, "most of these past the agent");
    Ok(())
}

/// What an agent has attached: by which link, and which program is behind it now.
fn attached(agent: &Agent) -> Result<BTreeMap<(String, u32), u32>> {
    let links: HashMap<_, _> = loaded_links()
        .flatten()
        .map(|it| (it.program_id(), it.id()))
        .collect();
    let status = agent.status()?;
    let programs = status.get("programs").and_then(Value::as_array);
    let programs = programs.context("no programs")?;
    let place = |program: &Value| {
        let of = |key: &str| program.get(key).with_context(|| format!("no {key}"));
        let id = u32::try_from(of("id")?.as_u64().context("no number")?)?;
        let link = *links.get(&id).context("a program without a link")?;
        let at = format!("{} at {}", of("name")?, of("attachedTo")?);
        Ok(((at, link), id))
    };
    programs.iter().map(place).collect()
}

/// Every link is the same, with another program behind it.
fn assert_replaced(before: &BTreeMap<(String, u32), u32>, after: &BTreeMap<(String, u32), u32>) {
    assert!(before.len() > 5, "{before:#?}");
    assert!(before.keys().eq(after.keys()), "{before:#?} {after:#?}");
    let programs: HashSet<_> = before.values().collect();
    let kept: Vec<_> = after.values().filter(|it| programs.contains(it)).collect();
    assert!(kept.is_empty(), "{kept:?} of {after:#?}");
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

/// What `--plan-upgrade` says, as JSON and as text.
fn plan(agent: &Agent) -> Result<(Value, String)> {
    let config = agent.config();
    let config = config.to_str().context("the path is not text")?;
    let say = |how: &[&str]| -> Result<Vec<u8>> {
        let plan = agent.cli(&[&["run", "--plan-upgrade", "--config", config], how].concat())?;
        let errors = String::from_utf8_lossy(&plan.stderr).into_owned();
        ensure!(plan.status.success(), errors);
        Ok(plan.stdout)
    };
    let json = serde_json::from_slice(&say(&["-o", "json"])?)?;
    Ok((json, String::from_utf8(say(&[])?)?))
}

#[test]
fn open_connections_go_on_in_the_replaced_agent_until_they_end() -> Result<()> {
    let Some(mut home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let _server = home.world.server.serve(8080, apps::echo)?;
    let (mut direct, _beside) = home.open(8080)?;
    let world = &mut home.world;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    exchange(&mut stream, b"1")?;
    let (plan, said) = plan(&world.near)?;
    let at = |pointer: &str| plan.pointer(pointer).cloned().unwrap_or_default();
    let pid = world.near.process().map(u64::from);
    assert_eq!(at("/from/pid").as_u64(), pid);
    assert_eq!(at("/drained").as_array().map(Vec::len), Some(1), "{plan:#}");
    assert_eq!(at("/drained/0/source/workload"), "demo/caller");
    // Both ends of it are on this node.
    assert_eq!(at("/goOn"), 2, "{plan:#}");
    assert!(said.contains("they go on: 2 connections"), "{said}");
    assert_eq!(at("/replaced/ic_connect4"), 1);
    world.near.take_over()?;
    // The old agent carries what it has accepted, the new one what comes, the kernel what it has.
    echo(&world.caller, world.server.at(8080), 1)?;
    exchange(&mut stream, b"2")?;
    exchange(&mut direct, b"after")?;
    drop(stream);
    assert_eq!(world.near.wait_predecessors()?.len(), 1);
    let line = |line: &Line| line.bytes_sent == Some(2);
    assert!(world.near.access_line("the old line", line)?.is_allowed());
    drop(direct);
    let (near, _) = home.lines("what the kernel carried", |it| it.is_of(11, 11))?;
    assert!(near.is_allowed() && near.is_direct(), "{near:?}");
    Ok(())
}

#[test]
fn what_does_not_end_until_the_deadline_is_cut_as_was_announced() -> Result<()> {
    const DEADLINE: Duration = Duration::from_secs(1);
    let setup = Setup {
        extra: "drainDeadline: 1s".to_owned(),
        ..Setup::default()
    };
    let Some(mut home) = Home::set_up(setup, |_| ())? else {
        return Ok(());
    };
    let _server = home.world.server.serve(8080, apps::echo)?;
    let (mut direct, _beside) = home.open(8080)?;
    let world = &mut home.world;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    exchange(&mut stream, b"hello")?;
    let (plan, said) = plan(&world.near)?;
    let at = |pointer: &str| plan.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(at("/drainSeconds"), 1, "{plan:#}");
    assert_eq!(at("/drained").as_array().map(Vec::len), Some(1), "{plan:#}");
    let id = at("/drained/0/connId");
    let id = id.as_str().context("a number")?;
    assert!(said.contains("may end within 1 s, then cut"), "{said}");
    assert!(said.contains(id), "{said}");

    let begun = Instant::now();
    world.near.take_over()?;
    let error = stream.read(&mut [0]).expect_err("cut, not closed");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let took = begun.elapsed();
    assert!(took >= DEADLINE, "cut after {took:?}");
    exchange(&mut direct, b"goes on")?;
    for status in world.near.wait_predecessors()? {
        assert_eq!(status.code(), Some(3), "{}", world.near.log());
    }
    let is_cut = |line: &Line| line.conn_id.as_deref() == Some(id);
    let line = world.near.access_line("the cut", is_cut)?;
    assert_eq!(line.decision.as_deref(), Some("cut"), "{line:?}");
    assert_eq!(line.reason.as_deref(), Some("agent_stopped"), "{line:?}");
    let why = line.error.as_deref().unwrap_or_default();
    assert!(why.contains("the drain deadline passed"), "{line:?}");
    assert!(line.is_of(5, 5), "{line:?}");
    Ok(())
}
