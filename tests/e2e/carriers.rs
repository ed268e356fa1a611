//! Take-overs while shared carriers are full: streams that stay open drain in the agent that opened
//! them, new ones find the successor, and each is told of once at both ends.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Result, ensure};
use interceptor_tests::access::Line;
use interceptor_tests::agent::{Agent, Setup};
use interceptor_tests::apps;
use interceptor_tests::calls::{Calls, often};
use interceptor_tests::manifests::PeerAuthentication;
use interceptor_tests::pod::Pod;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};

use crate::same_node::exchange;

/// Streams that stay open: far more than there are carriers for one stream alone.
const STREAMS: usize = 1000;

fn world(deadline: &str) -> Result<Option<World>> {
    let Some(ground) = Ground::new()? else {
        return Ok(None);
    };
    let setup = Setup {
        manifests: ground.manifests(&[&PeerAuthentication::strict()]),
        extra: format!(
            "drainDeadline: {deadline}\ntransport:\n  maxExclusive: 4\n  maxCarriers: 2\n"
        ),
        ..Setup::default()
    };
    ground.start(&setup).map(Some)
}

/// Opens all of them, and sees that they carry.
fn open(from: &Pod, to: SocketAddr) -> Result<Vec<TcpStream>> {
    let streams = from.run(|| (0..STREAMS).map(|_| TcpStream::connect(to)).collect())?;
    let mut streams: Vec<TcpStream> = std::io::Result::<Vec<_>>::from(streams)?;
    for stream in &mut streams {
        stream.set_read_timeout(Some(wait::PATIENCE))?;
        exchange(stream, b"before")?;
    }
    Ok(streams)
}

/// Both agents' lines tell once, at each end, of every connection that was made.
fn assert_told(world: &World, made: impl Iterator<Item = SocketAddr>) -> Result<()> {
    let made = often(made);
    wait::settled("everything to be told once", || {
        let lines: Vec<_> = [&world.near, &world.far]
            .into_iter()
            .flat_map(Agent::access)
            .collect();
        let (outbound, inbound): (Vec<_>, Vec<_>) = lines.into_iter().partition(Line::is_outbound);
        let from = |line: &Line| line.src_addr.as_ref()?.parse().ok();
        let told = often(outbound.iter().filter_map(from));
        let differ = made
            .iter()
            .filter(|(from, made)| told.get(from) != Some(made));
        let differ: Vec<_> = differ
            .map(|(from, made)| (from, made, told.get(from)))
            .collect();
        ensure!(differ.is_empty(), "told otherwise than made: {differ:?}");
        let others = told.keys().filter(|from| !made.contains_key(from)).count();
        ensure!(others == 0, "{others} that nobody made");
        let mut ends: HashMap<_, usize> = HashMap::new();
        for line in &inbound {
            *ends.entry(line.conn_id.clone()).or_default() += 1;
        }
        let one = outbound
            .iter()
            .filter(|line| ends.get(&line.conn_id) != Some(&1));
        let one: Vec<_> = one.collect();
        ensure!(one.is_empty(), "without one other end: {one:#?}");
        ensure!(
            inbound.len() == outbound.len(),
            "{} ends too many",
            inbound.len() - outbound.len()
        );
        Ok(())
    })
}

/// What became of streams and calls while both agents are replaced, the caller's twice.
fn replaced(world: &mut World, streams: &mut [TcpStream], go_on: bool) -> Result<Vec<SocketAddr>> {
    let World {
        near,
        far,
        caller,
        server,
        ..
    } = world;
    let (caller, server): (&Pod, &Pod) = (caller, server);
    let pairs = [(caller, server.at(8080)), (server, caller.at(8081))];
    let pairs: Vec<_> = pairs.into_iter().cycle().take(4).collect();
    let outcomes = Calls::during(&pairs, |calls| {
        calls.more(50)?;
        for turn in 0..3 {
            let agent = if turn == 1 { &mut *far } else { &mut *near };
            agent.take_over()?;
            calls.more(50)?;
            if go_on {
                for stream in &mut *streams {
                    exchange(stream, b"after")?;
                }
            }
        }
        Ok(())
    })?;
    let failures: Vec<_> = outcomes.iter().filter(|it| it.error.is_some()).collect();
    let calls = outcomes.len();
    ensure!(failures.is_empty(), "{failures:#?} of {calls}");
    Ok(outcomes.iter().filter_map(|it| it.from).collect())
}

#[test]
fn a_thousand_streams_go_on_through_three_take_overs() -> Result<()> {
    let Some(mut world) = world("1h")? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let _back = world.caller.serve(8081, apps::echo)?;
    let mut streams = open(&world.caller, world.server.at(8080))?;
    let mut made = replaced(&mut world, &mut streams, true)?;
    for stream in &streams {
        made.push(stream.local_addr()?);
    }
    drop(streams);
    // The replaced agents end as soon as the last stream has.
    for agent in [&mut world.near, &mut world.far] {
        for status in agent.wait_predecessors()? {
            assert_eq!(status.code(), Some(3), "{}", agent.log());
        }
    }
    assert_told(&world, made.into_iter())
}

#[test]
fn a_thousand_streams_are_cut_at_the_deadline_and_told_once() -> Result<()> {
    let Some(mut world) = world("1s")? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let _back = world.caller.serve(8081, apps::echo)?;
    let mut streams = open(&world.caller, world.server.at(8080))?;
    let mut made = replaced(&mut world, &mut streams, false)?;
    for stream in &mut streams {
        made.push(stream.local_addr()?);
        let error = stream.read(&mut [0]).expect_err("cut, not closed");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    assert_told(&world, made.into_iter())
}
