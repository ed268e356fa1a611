//! What is told of connections that went past the agent, also over a restart of it.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use interceptor_tests::access::Line;
use interceptor_tests::apps;
use interceptor_tests::manifests::{AuthorizationPolicy, PeerAuthentication, Rule, identity};
use interceptor_tests::wait;

use super::{Home, exchange};

/// Asserts that a line of a call with 100,000 bytes each way says all that there is to say.
fn assert_complete(line: &Line) {
    assert!(line.is_allowed() && line.is_direct(), "{line:?}");
    assert_eq!(line.src_identity, Some(identity("caller")));
    assert_eq!(line.dst_identity, Some(identity("neighbour")));
    assert_eq!(
        (line.policy.as_deref(), line.rule),
        (Some("demo/callers"), Some(0))
    );
    assert_eq!(
        (line.bytes_sent, line.bytes_recv),
        (Some(100_000), Some(100_000))
    );
    assert!(line.tcp_srtt_us.is_some_and(|it| it > 0), "{line:?}");
    assert!(
        line.tls_cipher.is_none() && line.dst_hbone_addr.is_none(),
        "{line:?}"
    );
}

/// Asserts that such a call is in the metrics of both ends.
fn assert_counted(home: &Home) -> Result<()> {
    for reporter in ["source", "destination"] {
        let labels = [
            ("reporter", reporter),
            ("connection_security_policy", "kernel"),
            ("source_principal", &identity("caller")),
            ("destination_workload", "neighbour"),
        ];
        for (metric, least) in [
            ("istio_tcp_connections_opened_total", 1.0),
            ("istio_tcp_connections_closed_total", 1.0),
            ("istio_tcp_sent_bytes_total", 100_000.0),
            ("istio_tcp_received_bytes_total", 100_000.0),
        ] {
            home.world.near.metric_reaches(metric, &labels, least)?;
        }
    }
    Ok(())
}

#[test]
fn after_its_first_connection_a_pair_talks_from_socket_to_socket_and_all_of_it_is_told()
-> Result<()> {
    let Some(home) = Home::with(|it| {
        it.add(PeerAuthentication::strict());
        it.add(
            AuthorizationPolicy::allow("callers")
                .selecting("neighbour")
                .rule(&Rule::from("caller")),
        );
    })?
    else {
        return Ok(());
    };
    let server = home.neighbour.serve(8080, apps::echo)?;
    for to in [home.neighbour.at(8080), home.neighbour.at6(8080)] {
        home.granted(to)?;
    }
    let seen = server.seen().len();
    let message = "m".repeat(100_000);
    assert_eq!(
        home.world.caller.ask(home.neighbour.at(8080), &message)?,
        message
    );

    let (near, far) = home.lines("the direct call", |it| {
        it.is_direct() && it.is_of(100_000, 100_000)
    })?;
    let seen = server
        .seen()
        .get(seen)
        .copied()
        .context("it was not seen")?;
    assert_eq!(
        near.src_addr,
        Some(seen.peer.to_string()),
        "the application sees the caller"
    );
    assert_eq!(seen.accepted_from, seen.peer);
    assert_eq!(near.dst_addr, Some(home.neighbour.at(8080).to_string()));
    for line in [&near, &far] {
        assert_complete(line);
    }
    assert_counted(&home)?;
    let captured = home.captured()?;
    for _ in 0..50 {
        home.world.caller.ask(home.neighbour.at(8080), "again")?;
    }
    let now = home.captured()?;
    assert!(
        (now - captured).abs() < f64::EPSILON,
        "none was handed to the agent"
    );
    Ok(())
}

#[test]
fn a_killed_agent_leaves_direct_connections_alone_and_the_next_one_knows_them() -> Result<()> {
    let Some(mut home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let (mut goes_on, server) = home.open(8080)?;
    let mut ends = home.world.caller.connect(home.neighbour.at(8080))?;
    exchange(&mut ends, b"seven--")?;

    home.world.near.kill()?;
    exchange(&mut goes_on, b"meanwhile")?;
    assert_eq!(
        home.world
            .caller
            .ask(home.neighbour.at(8080), "while it is down")?,
        "while it is down"
    );
    exchange(&mut ends, b"last")?;
    drop(ends);
    let outcome = server.outcome()?;
    assert!(outcome.is_ok(), "{outcome:?}");
    home.world.near.restart()?;

    home.lines("what ended meanwhile", |it| {
        it.is_direct() && it.is_of(11, 11)
    })?;
    home.lines("what began and ended meanwhile", |it| it.is_of(16, 16))?;
    let open = wait::until("the open one to be known", || {
        let answer = home.world.near.connections().ok()?;
        let open = answer["live"].as_array()?;
        let mine = |it: &&serde_json::Value| {
            it["security"] == "kernel" && it["bytesSent"] == 15 && it["reporter"] == "source"
        };
        open.iter().find(mine).cloned()
    })?;
    assert_eq!(open["source"]["workload"], "demo/caller", "{open}");
    exchange(&mut goes_on, b"after")?;
    drop(goes_on);
    let (near, _) = home.lines("what went on", |it| it.is_direct() && it.is_of(20, 20))?;
    assert!(near.is_allowed());
    Ok(())
}

#[test]
fn the_bytes_of_a_long_connection_are_in_the_metrics_while_it_is_open() -> Result<()> {
    let Some(home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let (mut stream, _server) = home.open(8080)?;
    let labels = [
        ("connection_security_policy", "kernel"),
        ("reporter", "destination"),
    ];
    let sent = "istio_tcp_sent_bytes_total";
    home.world.near.metric_reaches(sent, &labels, 6.0)?;
    let before = home.world.near.metrics()?.sum(sent, &labels);
    exchange(&mut stream, &[7; 5000])?;
    home.world
        .near
        .metric_reaches(sent, &labels, before + 5000.0)?;
    drop(stream);
    let (near, far) = home.lines("the long call", |it| it.is_direct() && it.is_of(5006, 5006))?;
    assert!(near.is_allowed() && far.is_allowed());
    let now = home.world.near.metrics()?.sum(sent, &labels);
    assert!((now - before - 5000.0).abs() < f64::EPSILON, "counted once");
    Ok(())
}

/// How many segments the calling thread's network namespace has sent again.
fn sent_again() -> Option<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").ok()?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "RetransSegs")?;
    values.split(' ').nth(at)?.parse().ok()
}

#[test]
fn what_was_sent_again_and_how_long_it_took_are_told_at_both_ends() -> Result<()> {
    const LONG: Duration = Duration::from_secs(1);
    let Some(home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let (mut stream, _server) = home.open(8080)?;
    let begun = Instant::now();
    let (node, address) = (home.world.a.namespace(), home.neighbour.v4());
    let before = home.world.caller.run(sent_again)?.context("a count")?;

    // Packets vanish, between the two and nowhere else.
    node.ip(&format!("rule add to {address} blackhole\n"))?;
    stream.write_all(b"again")?;
    wait::so("the kernel to send it again", || {
        let now = home.world.caller.run(sent_again).ok().flatten();
        now.is_some_and(|now| now > before)
    })?;
    node.ip(&format!("rule del to {address} blackhole\n"))?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"again");
    wait::so("it to have lasted", || begun.elapsed() >= LONG)?;
    drop(stream);

    let (near, far) = home.lines("it", |it| it.is_direct() && it.is_of(11, 11))?;
    for line in [&near, &far] {
        assert!(line.is_allowed(), "{line:?}");
        assert!(line.tcp_retransmits >= Some(1), "{line:?}");
        assert!(line.milliseconds() >= Some(1000), "{line:?}");
    }
    Ok(())
}

#[test]
fn an_application_that_does_not_listen_is_told_as_such() -> Result<()> {
    let Some(home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let server = home.neighbour.serve(8080, apps::echo)?;
    home.granted(home.neighbour.at(8080))?;
    drop(server);
    let error = home
        .world
        .caller
        .connect(home.neighbour.at(8080))
        .expect_err("nobody listens");
    assert_eq!(
        error.kind(),
        ErrorKind::ConnectionRefused,
        "at once, as without a mesh"
    );
    let (near, far) = home.lines("the failure", |it| !it.is_allowed())?;
    for line in [near, far] {
        assert_eq!(line.decision.as_deref(), Some("failed"), "{line:?}");
        assert_eq!(line.reason.as_deref(), Some("app_unreachable"), "{line:?}");
        assert!(line.is_direct(), "{line:?}");
    }
    Ok(())
}
