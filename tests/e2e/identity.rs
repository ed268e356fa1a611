//! Identities: who issues them, who is trusted, and their renewal below open connections.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result};
use interceptor_tests::access::Line;
use interceptor_tests::agent::{Agent, Setup};
use interceptor_tests::apps;
use interceptor_tests::manifests::identity;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};

#[test]
fn agents_that_share_an_authority_trust_each_other_and_keep_its_key_secret() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    assert_eq!(world.caller.ask(world.server.at(8080), "hello")?, "hello");

    let mode = |file: &str| -> Result<u32> {
        let path = world.fabric.folder().join("ca").join(file);
        Ok(fs::metadata(path)?.permissions().mode() & 0o777)
    };
    assert_eq!(mode("ca.key")?, 0o600);
    assert_eq!(mode("ca.crt")?, 0o644);
    Ok(())
}

#[test]
fn an_agent_with_another_authority_is_refused() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let near = Setup {
        manifests: ground.manifests(&[]),
        ..Setup::default()
    };
    let far = Setup {
        own_ca: true,
        ..near.clone()
    };
    let world = ground.start_each(&near, &far)?;
    let server = world.server.serve(8080, apps::echo)?;

    let error = world
        .caller
        .call(world.server.at(8080), "x")
        .expect_err("no trust");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(server.seen(), []);
    let line = world
        .near
        .access_line("the failure", |line| !line.is_allowed())?;
    assert_eq!(line.decision.as_deref(), Some("failed"));
    let labels = [("reporter", "source"), ("response_flags", "TLS_FAILURE")];
    world
        .near
        .metric_reaches("istio_tcp_connections_failed_total", &labels, 1.0)
}

#[test]
fn a_peer_with_another_identity_than_the_mesh_says_is_refused() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let world = ground.start_with(|_| ())?;
    let expected = world.server.manifest().service_account("somebody-else");
    world
        .near
        .write_mesh(&world.manifests(|it| it.server = expected))?;
    let server = world.server.serve(8080, apps::echo)?;

    // A connection that is open during the change is cut for another reason.
    let (expected, proven) = (identity("somebody-else"), identity("server"));
    let names_both = |error: &String| error.contains(&expected) && error.contains(&proven);
    wait::so("the wrong identity to be refused by name", || {
        let refused = world.caller.call(world.server.at(8080), "x").is_err();
        let lines = world.near.access();
        refused
            && lines
                .iter()
                .any(|line| line.error.as_ref().is_some_and(names_both))
    })
    .with_context(|| format!("{:#?}", world.near.access()))?;
    drop(server);
    Ok(())
}

/// The serial number of an identity's certificate, as `status` has it.
fn serial(agent: &Agent, service_account: &str) -> Option<String> {
    let status = agent.status().ok()?;
    let identity = identity(service_account);
    let certificates = status.get("certificates")?.as_array()?;
    let certificate = certificates
        .iter()
        .find(|it| it["identity"] == identity.as_str())?;
    Some(certificate["serial"].as_str()?.to_owned())
}

#[test]
fn certificates_are_renewed_while_connections_go_on() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let setup = Setup {
        manifests: ground.manifests(&[]),
        svid_lifetime: Some("4s".to_owned()),
        ..Setup::default()
    };
    let world = ground.start(&setup)?;
    let _server = world.server.serve(8080, apps::echo)?;
    let first = serial(&world.near, "caller").context("a certificate in status")?;
    let mut stream = world.caller.connect(world.server.at(8080))?;
    let mut answer = [0; 1];

    let mut renewed = Vec::new();
    wait::so("two renewals", || {
        let exchanged = stream
            .write_all(b"x")
            .and_then(|()| stream.read_exact(&mut answer));
        assert!(
            exchanged.is_ok(),
            "the open connection goes on: {exchanged:?}"
        );
        let serial = serial(&world.near, "caller").unwrap_or_default();
        if serial != first && !renewed.contains(&serial) {
            renewed.push(serial);
        }
        renewed.len() >= 2
    })?;

    assert_eq!(world.caller.ask(world.server.at(8080), "new")?, "new");
    drop(stream);
    let (near, _) = world.lines("a call", Line::is_allowed)?;
    assert_eq!(near.src_identity, Some(identity("caller")));
    Ok(())
}
