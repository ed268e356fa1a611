//! Going away: nothing is left, and that is proven.

use std::io::ErrorKind;

use anyhow::Result;
use interceptor_tests::agent::Setup;
use interceptor_tests::apps;
use interceptor_tests::calls::Calls;
use interceptor_tests::world::{Ground, World};

#[test]
fn uninstall_restores_plain_networking_and_leaves_nothing() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let setup = Setup {
        manifests: ground.manifests(&[]),
        ..Setup::default()
    };
    let mut world = ground.start(&setup)?;
    let server = world.server.serve(8080, apps::echo)?;
    assert_eq!(world.caller.ask(world.server.at(8080), "meshed")?, "meshed");
    world.near.kill()?;
    world.far.kill()?;
    let error = world
        .caller
        .call(world.server.at(8080), "x")
        .expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

    for agent in [&world.near, &world.far] {
        assert!(agent.pins().exists());
        let output = agent.uninstall()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!agent.pins().exists());
    }

    assert_eq!(world.caller.ask(world.server.at(8080), "plain")?, "plain");
    assert_eq!(
        server.seen().last().map(|seen| seen.peer.ip()),
        Some(world.caller.v4())
    );
    let again = world.near.uninstall()?;
    assert!(again.status.success(), "uninstalling twice is no error");
    Ok(())
}

#[test]
fn uninstall_does_not_pull_the_rug_from_under_a_running_agent() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let world = ground.start_with(|_| ())?;
    let _server = world.server.serve(8080, apps::echo)?;
    let output = world.near.uninstall()?;
    assert!(
        !output.status.success(),
        "an agent that runs must be stopped first"
    );
    assert_eq!(world.caller.ask(world.server.at(8080), "x")?, "x");
    Ok(())
}

#[test]
fn connections_that_go_on_during_an_uninstall_are_plain_afterwards() -> Result<()> {
    let Some(mut world) = World::with(&[])? else {
        return Ok(());
    };
    let there = world.server.serve(8080, apps::echo)?;
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
        (&*server, caller.at(8081)),
    ];
    let pairs: Vec<_> = pairs.into_iter().cycle().take(6).collect();
    let outcomes = Calls::during(&pairs, |calls| {
        calls.more(50)?;
        for agent in [&mut *near, &mut *far] {
            agent.kill()?;
        }
        calls.more(50)?;
        for agent in [&*near, &*far] {
            let output = agent.uninstall()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{said}");
            assert!(said.contains("nothing is left"), "{said}");
        }
        calls.next_phase();
        calls.more(100)
    })?;
    let after = outcomes.iter().filter(|it| it.phase == Some(1));
    let failed: Vec<_> = after.clone().filter(|it| it.error.is_some()).collect();
    assert!(after.count() >= 90 && failed.is_empty(), "{failed:#?}");
    let last = there.seen().last().map(|seen| seen.peer.ip());
    assert!(
        [Some(caller.v4()), Some(caller.v6())].contains(&last),
        "{last:?}"
    );
    Ok(())
}
