//! Connections that are older than their workload's enrolment.

use std::io::{ErrorKind, Read as _};

use anyhow::{Context as _, Result};
use interceptor_tests::agent::Agent;
use interceptor_tests::apps;
use interceptor_tests::wait;
use interceptor_tests::world::Ground;
use serde_json::Value;

use crate::same_node::exchange;

/// What the ledger of an agent says of such connections of the caller.
fn listed(agent: &Agent) -> Option<Value> {
    let status = agent.status().ok()?;
    let ledger = status.get("unprotected")?.as_array()?;
    let entry = ledger.iter().find(|it| {
        it["subject"] == "demo/caller" && it["what"] == "connections from before it was enrolled"
    });
    entry.cloned()
}

#[test]
fn a_connection_from_before_the_enrolment_goes_on_and_is_listed_while_it_does() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let _server = ground.server.serve(8080, apps::echo)?;
    let mut stream = ground.caller.connect(ground.server.at(8080))?;
    exchange(&mut stream, b"before")?;
    let world = ground.start_with(|_| ())?;
    exchange(&mut stream, b"after")?;
    let entry = listed(&world.near).context("it is listed")?;
    assert_eq!(entry["connections"], 1, "{entry}");
    let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
    assert_eq!(
        entry["why"],
        format!("interceptor.dev/existing-connections is not reset: {local} with {remote}")
    );
    // New ones are captured, whatever the old one is.
    assert_eq!(world.caller.ask(world.server.at(8080), "new")?, "new");
    world.lines("the new one", |it| it.is_of(3, 3))?;
    exchange(&mut stream, b"still")?;
    drop(stream);
    wait::so("it to be listed no more", || listed(&world.near).is_none())
}

#[test]
fn a_connection_from_before_the_enrolment_is_reset_where_its_owner_wants_that() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let server = ground.server.serve(8080, apps::echo)?;
    let mut stream = ground.caller.connect(ground.server.at(8080))?;
    exchange(&mut stream, b"before")?;
    let world = ground.start_with(|it| {
        let key = "interceptor.dev/existing-connections";
        it.caller = it.caller.clone().annotation(key, "reset");
    })?;
    let error = stream.read(&mut [0]).expect_err("reset, not closed");
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted];
    assert!(kinds.contains(&error.kind()), "{error}");
    assert!(server.outcome()?.is_err(), "the other end sees it, too");
    let labels = [("event", "reset_older")];
    let metric = "interceptor_kernel_events_total";
    world.near.metric_reaches(metric, &labels, 1.0)?;
    assert_eq!(listed(&world.near), None);
    let log = world.near.log();
    assert!(
        log.contains("reset connections from before the enrolment"),
        "{log}"
    );
    assert_eq!(world.caller.ask(world.server.at(8080), "new")?, "new");
    Ok(())
}
