//! Agents that run out of something, or of their peer, while they carry much: what is open goes on or
//! ends once, what is refused says for want of what, and all is well again when there is enough.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use interceptor_tests::access::Line;
use interceptor_tests::agent::Agent;
use interceptor_tests::apps;
use interceptor_tests::pod::Pod;
use interceptor_tests::wait;
use interceptor_tests::world::World;

/// More than a shared carrier has streams.
const MANY: usize = 300;

/// Connections that find no file left.
const WAITING: usize = 20;

/// How many files an agent has when it is short of none.
const ENOUGH: usize = 4096;

/// Standard input, output and error are open: nothing else can be opened.
const NONE: usize = 3;

fn is_echoed(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

fn open(from: &Pod, to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let open = |_| {
        let mut stream = from.connect(to)?;
        is_echoed(&mut stream)?;
        Ok(stream)
    };
    (0..count).map(open).collect()
}

/// Bounds the open files of a running agent.
fn bound_files(agent: &Agent, most: usize) -> Result<()> {
    let process = agent.process().context("the agent is not running")?;
    let status = Command::new("prlimit")
        .args(["--pid", &process.to_string()])
        .arg(format!("--nofile={most}:"))
        .status()?;
    ensure!(status.success(), "prlimit: {status}");
    Ok(())
}

/// What it cannot accept waits, and what it accepts and cannot carry is refused with a record.
#[test]
fn an_agent_without_files_keeps_what_it_has_and_forgets_nobody() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let to = world.server.at(8080);
    let mut held = open(&world.caller, to, 8)?;
    bound_files(&world.near, world.near.open_files()?)?;
    let waiting: Vec<_> = (0..WAITING).map(|_| world.caller.connect(to)).collect();
    for _ in 0..20 {
        held.iter_mut().try_for_each(is_echoed)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let complaints = world.near.log().matches("cannot accept; pausing").count();
    assert!(complaints <= 20, "{complaints} lines in a second");
    bound_files(&world.near, ENOUGH)?;
    let served = waiting
        .into_iter()
        .filter(Result::is_ok)
        .map(|it| it.and_then(|mut it| is_echoed(&mut it)));
    let refused = served.filter(Result::is_err).count();
    wait::so("a record of each that was refused", || {
        let lines = world.near.access();
        let exhausted = |line: &&Line| line.reason.as_deref() == Some("agent_exhausted");
        lines.iter().filter(exhausted).count() >= refused
    })?;
    held.iter_mut().try_for_each(is_echoed)?;
    wait::so("recovery", || world.caller.ask(to, "x").is_ok())
}

#[test]
fn an_application_is_not_blamed_for_the_files_that_its_agent_lacks() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let to = world.server.at(8080);
    let mut held = open(&world.caller, to, 8)?;
    // The next one finds a carrier, and takes no file until it is to reach the application.
    world.caller.ask(to, "x")?;
    bound_files(&world.far, NONE)?;
    let error = world.caller.call(to, "x").expect_err("no file is left");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let exhausted = |line: &Line| line.reason.as_deref() == Some("agent_exhausted");
    world.far.access_line("the refusal", exhausted)?;
    let said = "the agent has nothing left for a connection";
    world.near.access_line("the peer's reason", |line| {
        line.error.as_ref().is_some_and(|it| it.contains(said))
    })?;
    held.iter_mut().try_for_each(is_echoed)?;
    bound_files(&world.far, ENOUGH)?;
    wait::so("recovery", || world.caller.ask(to, "x").is_ok())
}

#[test]
fn a_peer_agent_that_is_killed_under_hundreds_of_streams_is_told_of_once_for_each() -> Result<()> {
    let Some(mut world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let to = world.server.at(8080);
    let held = open(&world.caller, to, MANY)?;
    let files = world.near.open_files()?;
    world.far.kill()?;
    for mut stream in held {
        let error = stream.read(&mut [0]).expect_err("a reset, not an end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    wait::so("all to be over", || {
        let open = |agent: &Agent| {
            agent
                .metrics()
                .map(|it| it.sum("interceptor_connections_open", &[]))
        };
        open(&world.near).is_ok_and(|open| open.abs() < 0.5)
    })?;
    wait::so("their records", || world.near.access().len() >= MANY)?;
    let lines = world.near.access();
    let failed = lines
        .iter()
        .filter(|line| line.decision.as_deref() == Some("failed"));
    assert_eq!((lines.len(), failed.count()), (MANY, MANY));
    world.far.restart()?;
    wait::so("recovery", || world.caller.ask(to, "x").is_ok())?;
    let left = world.near.open_files()?;
    assert!(left <= files - MANY, "{files} files, then {left}");
    Ok(())
}
