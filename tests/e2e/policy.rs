//! Who may reach what: verdicts by identity, their explanation at both ends, and what a change of
//! policy does to connections that are open.

use std::io::{ErrorKind, Read as _, Write as _};

use anyhow::Result;
use interceptor_tests::access::Line;
use interceptor_tests::apps;
use interceptor_tests::manifests::{AuthorizationPolicy, PeerAuthentication, Rule, identity};
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};

/// Asserts the two lines of a refusal and the counters behind them.
fn assert_refused(world: &World, policy: &str, rule: u64) -> Result<(Line, Line)> {
    let (near, far) = world.lines("the refusal", |line| !line.is_allowed())?;
    for line in [&near, &far] {
        assert_eq!(line.decision.as_deref(), Some("denied"), "{line:#?}");
        assert_eq!(line.policy.as_deref(), Some(policy), "{line:#?}");
        assert_eq!(line.rule, Some(rule), "{line:#?}");
        assert_eq!(
            (line.bytes_sent, line.bytes_recv),
            (Some(0), Some(0)),
            "{line:#?}"
        );
    }
    for (agent, reporter) in [(&world.near, "source"), (&world.far, "destination")] {
        let labels = [("reporter", reporter), ("response_flags", "DENY")];
        agent.metric_reaches("istio_tcp_connections_failed_total", &labels, 1.0)?;
    }
    world.far.metric_reaches(
        "interceptor_connections_denied_total",
        &[("policy", policy)],
        1.0,
    )?;
    Ok((near, far))
}

#[test]
fn an_allow_policy_admits_its_callers_and_refuses_others_with_policy_and_rule() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let intruder = ground.a.pod("intruder")?;
    let manifest = intruder.manifest();
    let world = ground.start_with(|it| {
        it.add(manifest);
        it.add(
            AuthorizationPolicy::allow("callers")
                .selecting("server")
                .rule(&Rule::from("caller")),
        );
    })?;
    let server = world.server.serve(8080, apps::echo)?;

    assert_eq!(world.caller.ask(world.server.at(8080), "hello")?, "hello");
    let (_, far) = world.lines("the allowed call", Line::is_allowed)?;
    assert_eq!(
        (far.policy.as_deref(), far.rule),
        (Some("demo/callers"), Some(0))
    );

    let error = intruder
        .call(world.server.at(8080), "hello")
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let (near, far) = assert_refused(&world, "demo/callers", 0)?;
    assert_eq!(near.src_identity, Some(identity("intruder")));
    assert_eq!(far.src_identity, Some(identity("intruder")));
    assert_eq!(server.seen().len(), 1, "not a byte reached the application");
    Ok(())
}

#[test]
fn a_deny_policy_wins_over_an_allow_policy() -> Result<()> {
    let deny = AuthorizationPolicy::deny("no-admin").rule(&Rule::from("caller").ports(&["9000"]));
    let allow = AuthorizationPolicy::allow("callers").rule(&Rule::from("caller"));
    let Some(world) = World::with(&[&deny, &allow])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let _admin = world.server.serve(9000, apps::echo)?;

    assert_eq!(world.caller.ask(world.server.at(8080), "hello")?, "hello");
    assert!(world.caller.call(world.server.at(9000), "hello").is_err());
    let (_, far) = assert_refused(&world, "demo/no-admin", 0)?;
    assert!(far.error.is_some_and(|error| error.contains("9000")));
    Ok(())
}

#[test]
fn an_allow_policy_without_rules_allows_nothing() -> Result<()> {
    let nothing = AuthorizationPolicy::allow("nothing").selecting("server");
    let Some(world) = World::with(&[&nothing])? else {
        return Ok(());
    };
    let server = world.server.serve(8080, apps::echo)?;
    assert!(world.caller.call(world.server.at(8080), "x").is_err());
    assert_eq!(server.seen(), []);
    let (_, far) = world.lines("the refusal", |line| !line.is_allowed())?;
    assert_eq!(far.policy.as_deref(), Some("demo/nothing"));
    Ok(())
}

#[test]
fn strict_refuses_plaintext_and_says_which_object_demands_it() -> Result<()> {
    let Some(world) = World::with(&[&PeerAuthentication::strict()])? else {
        return Ok(());
    };
    let outside = world.a.pod("outside")?;
    let server = world.server.serve(8080, apps::echo)?;

    let error = outside
        .call(world.server.at(8080), "x")
        .expect_err("plaintext is refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.seen(), []);
    let line = world
        .far
        .access_line("the refusal", |line| !line.is_allowed())?;
    assert_eq!(line.decision.as_deref(), Some("denied"));
    assert_eq!(line.policy.as_deref(), Some("demo/default"));
    assert_eq!(line.src_identity, None);
    assert_eq!(
        world.caller.ask(world.server.at(8080), "x")?,
        "x",
        "mutual TLS is welcome"
    );
    Ok(())
}

#[test]
fn permissive_takes_plaintext_and_shows_the_true_client() -> Result<()> {
    let Some(world) = World::with(&[&PeerAuthentication::permissive()])? else {
        return Ok(());
    };
    let outside = world.a.pod("outside")?;
    let server = world.server.serve(8080, apps::echo)?;

    assert_eq!(outside.ask(world.server.at(8080), "x")?, "x");
    assert_eq!(server.first()?.peer.ip(), outside.v4());
    let line = world
        .far
        .access_line("plaintext inbound", Line::is_allowed)?;
    assert_eq!((line.src_identity, line.tls_cipher), (None, None));
    let labels = [
        ("reporter", "destination"),
        ("connection_security_policy", "unknown"),
    ];
    world
        .far
        .metric_reaches("istio_tcp_connections_closed_total", &labels, 1.0)
}

#[test]
fn port_levels_are_exceptions_both_ways() -> Result<()> {
    let strict_but = PeerAuthentication::strict()
        .selecting("server")
        .port(9000, "PERMISSIVE");
    let Some(world) = World::with(&[&strict_but])? else {
        return Ok(());
    };
    let outside = world.a.pod("outside")?;
    let _one = world.server.serve(8080, apps::echo)?;
    let _other = world.server.serve(9000, apps::echo)?;
    assert!(outside.call(world.server.at(8080), "x").is_err());
    assert_eq!(outside.ask(world.server.at(9000), "x")?, "x");

    let permissive_but = PeerAuthentication::permissive()
        .selecting("server")
        .port(9000, "STRICT");
    world.apply(&[&permissive_but])?;
    wait::so("the other way round", || {
        outside.call(world.server.at(9000), "x").is_err()
            && outside.ask(world.server.at(8080), "x").is_ok()
    })
}

#[test]
fn a_policy_that_forbids_an_open_connection_cuts_it() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let server = world.server.serve(8080, apps::echo)?;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    stream.write_all(b"before")?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer)?;

    world.apply(&[&AuthorizationPolicy::deny("stop").rule(&Rule::from("caller"))])?;

    let error = stream.read(&mut answer).expect_err("cut, not closed");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(
        server.outcome()?.is_err(),
        "the application sees a reset, too"
    );
    let far = world
        .far
        .access_line("the cut", |line| !line.is_allowed())?;
    assert_eq!(far.decision.as_deref(), Some("cut"));
    assert_eq!(
        (far.policy.as_deref(), far.rule),
        (Some("demo/stop"), Some(0))
    );
    assert_eq!((far.bytes_sent, far.bytes_recv), (Some(6), Some(6)));
    let near = world
        .near
        .access_line("its other end", |line| line.conn_id == far.conn_id)?;
    assert_eq!(near.decision.as_deref(), Some("cut"));
    assert!(near.error.is_some(), "{near:?}");
    let labels = [("reporter", "destination"), ("policy", "demo/stop")];
    world
        .far
        .metric_reaches("interceptor_connections_cut_total", &labels, 1.0)?;
    Ok(())
}

#[test]
fn a_policy_that_still_allows_an_open_connection_leaves_it_alone() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    let mut answer = [0; 1];
    stream.write_all(b"1")?;
    stream.read_exact(&mut answer)?;

    world.apply(&[&AuthorizationPolicy::allow("callers").rule(&Rule::from("caller"))])?;
    wait::so("the policy to be in force", || {
        let answered = world.caller.ask(world.server.at(8080), "x").is_ok();
        let lines = world.far.access();
        answered
            && lines
                .iter()
                .any(|line| line.policy.as_deref() == Some("demo/callers"))
    })?;

    stream.write_all(b"2")?;
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"2");
    Ok(())
}
