//! What the agent could not be told, or could not tell because it was killed: nothing that is not
//! counted.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use interceptor_tests::access::Line;
use interceptor_tests::agent::{Agent, Setup};
use interceptor_tests::apps;
use interceptor_tests::calls::{Calls, Outcome, echo, often};
use interceptor_tests::wait;
use nix::sys::signal::Signal;

use super::Home;

/// More calls than ends find room in the smallest buffer.
const CALLS: usize = 600;

/// The agent's lines about calls past it, at their source.
fn told(agent: &Agent) -> usize {
    let lines = agent.access();
    let told = lines.iter().filter(|it| it.is_outbound() && it.is_direct());
    told.count()
}

/// How many of the kernel's events were lost, as the metrics have it; they must agree.
fn lost(agent: &Agent) -> Result<usize> {
    let metrics = agent.metrics()?;
    let lost = metrics.sum("interceptor_same_node_events_lost_total", &[]);
    let labels = [("event", "direct_event_lost")];
    let counted = metrics.sum("interceptor_kernel_events_total", &labels);
    ensure!(
        (lost - counted).abs() < f64::EPSILON,
        "{lost} are told, and the kernel counted {counted}"
    );
    Ok(format!("{}", lost.abs()).parse()?)
}

#[test]
fn ends_for_which_there_was_no_room_are_counted_one_by_one_and_operators_are_told() -> Result<()> {
    let setup = Setup {
        capture: "  eventBufferBytes: 65536\n".to_owned(),
        ..Setup::default()
    };
    let Some(home) = Home::set_up(setup, |_| ())? else {
        return Ok(());
    };
    let _server = home.neighbour.serve(8080, apps::echo)?;
    let to = home.neighbour.at(8080);
    home.granted(to)?;
    let agent = &home.world.near;
    let (before, passed) = (1, home.passed());
    wait::so("the first to be told", || told(agent) == before)?;

    // It does not read, and the kernel carries on.
    agent.signal(Signal::SIGSTOP)?;
    for number in 0..CALLS {
        echo(&home.world.caller, to, number)?;
    }
    agent.signal(Signal::SIGCONT)?;
    let attempted = home.passed() - passed;
    assert_eq!(usize::try_from(attempted)?, CALLS);
    wait::so("each of them to be told or counted as lost", || {
        lost(agent).is_ok_and(|lost| lost > 0 && told(agent) - before + lost == CALLS)
    })
    .with_context(|| format!("{} told, {:?} lost", told(agent), lost(agent)))?;
    assert!(told(agent) > 100, "as many as there was room for");

    let lost = lost(agent)?;
    let socket = agent.socket();
    let socket = socket.to_str().context("the socket's path is not text")?;
    let status = agent.cli(&["status", "--socket", socket])?;
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    let expected = format!("{lost} events lost (eventBufferBytes)");
    assert!(said.contains(&expected), "{expected} in {said}");
    let warning = "events of same-node connections were lost";
    wait::so("the log to say so", || agent.log().contains(warning))?;
    // And it goes on as before.
    echo(&home.world.caller, to, CALLS)?;
    wait::so("the next to be told", || {
        told(agent) + lost == before + CALLS + 1
    })
}

/// How often each address is the source of a line that an agent wrote at the source.
fn lines(agent: &Agent) -> HashMap<SocketAddr, usize> {
    let lines = agent.access().into_iter().filter(is_complete);
    often(lines.filter_map(|it| it.src_addr?.parse().ok()))
}

/// Whether it tells of all that such a call has carried. A shorter one was made to have the pair
/// granted, perhaps from a port of which another made use later.
fn is_complete(line: &Line) -> bool {
    let sent = line.bytes_sent.and_then(|it| usize::try_from(it).ok());
    let is_call = sent.is_some_and(|it| it > Home::FIRST.len());
    line.is_outbound() && line.is_allowed() && is_call && line.bytes_sent == line.bytes_recv
}

/// From where calls were made of which not all are told.
fn untold(calls: &[&Outcome], agent: &Agent) -> Vec<SocketAddr> {
    let lines = lines(agent);
    let made = often(calls.iter().filter_map(|it| it.from)).into_iter();
    let untold = made.filter(|(from, made)| lines.get(from).is_none_or(|told| told < made));
    untold.map(|(from, _)| from).collect()
}

/// The lines about calls from addresses of which more is told than was made from there.
fn told_twice(calls: &[Outcome], agent: &Agent) -> Vec<Line> {
    let made = often(calls.iter().filter_map(|it| it.from));
    let mut told = lines(agent);
    told.retain(|from, told| made.get(from).is_some_and(|made| *told > *made));
    let mut all = agent.access();
    let from = |line: &Line| line.src_addr.as_ref()?.parse::<SocketAddr>().ok();
    all.retain(|line| from(line).is_some_and(|it| told.contains_key(&it)));
    all
}

#[test]
fn an_agent_that_is_killed_under_load_loses_the_end_of_no_direct_connection() -> Result<()> {
    const KILLING: usize = 1;
    const STARTING: usize = 3;
    let Some(mut home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let _there = home.neighbour.serve(8080, apps::echo)?;
    let _back = home.world.caller.serve(8081, apps::echo)?;
    let pairs = |home: &Home| {
        let (there, there6) = (home.neighbour.at(8080), home.neighbour.at6(8080));
        [
            (true, there),
            (true, there6),
            (false, home.world.caller.at(8081)),
        ]
    };
    for (is_callers, to) in pairs(&home) {
        let from = if is_callers {
            &home.world.caller
        } else {
            &home.neighbour
        };
        home.granted_to(from, to)?;
    }
    let to = pairs(&home);
    let Home { world, neighbour } = &mut home;
    let (near, caller) = (&mut world.near, &world.caller);
    let pairs = to.map(|(is_callers, to)| (if is_callers { caller } else { &*neighbour }, to));
    let pairs: Vec<_> = pairs.into_iter().cycle().take(6).collect();
    let outcomes = Calls::during(&pairs, |calls| {
        calls.more(100)?;
        calls.next_phase();
        let before = calls.so_far();
        wait::so("what is over to be told", || {
            let over: Vec<_> = before.iter().filter(|it| it.ended == 0).collect();
            untold(&over, near).is_empty()
        })?;
        near.kill()?;
        calls.next_phase();
        calls.more(300)?;
        calls.next_phase();
        near.restart()?;
        calls.next_phase();
        calls.more(100)
    })?;
    // A call may meet the moment in which the new agent has taken the grants back and does not
    // listen yet.
    let is_refused = |it: &&Outcome| it.error.is_some();
    let (starting, failed): (Vec<_>, Vec<_>) = outcomes
        .iter()
        .filter(is_refused)
        .partition(|it| it.ended >= STARTING && it.phase != Some(STARTING + 1));
    assert!(
        failed.is_empty(),
        "{failed:#?}, and {} meanwhile",
        starting.len()
    );
    // What the agent had read and not written when it was killed, only the kernel knows.
    let answered = outcomes.iter().filter(|it| it.error.is_none());
    let certain: Vec<_> = answered.filter(|it| it.ended != KILLING).collect();
    wait::so("everything to be told", || {
        untold(&certain, near).is_empty()
    })
    .with_context(|| format!("{:#?}", untold(&certain, near)))?;
    assert_eq!(lost(near)?, 0);
    let down = outcomes.iter().filter(|it| it.phase == Some(2));
    assert!(down.count() > 200);
    let twice = told_twice(&outcomes, near);
    assert!(twice.is_empty(), "{twice:#?}");
    Ok(())
}
