//! Going away: nothing is left, and that is proven.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, loaded_maps};
use aya::programs::{loaded_links, loaded_programs};
use interceptor_tests::agent::{Agent, Setup};
use interceptor_tests::apps;
use interceptor_tests::calls::Calls;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};

use crate::same_node::{Home, exchange};

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

/// What the kernel has loaded for a node, by its own numbers. Asked here and not of the product, and
/// in another way: every program that uses a map of the node's is one of the node's.
#[derive(Debug, Default)]
struct Loaded {
    maps: HashSet<u32>,
    programs: HashSet<u32>,
    links: HashSet<u32>,
}

impl Loaded {
    fn of(agent: &Agent) -> Result<Self> {
        let mut maps = HashSet::new();
        for layout in fs::read_dir(agent.pins())? {
            for pin in fs::read_dir(layout?.path().join("maps"))? {
                maps.insert(MapData::from_pin(pin?.path())?.info()?.id());
            }
        }
        let mut programs = HashSet::new();
        // Those of other tests come and go meanwhile.
        for program in loaded_programs().flatten() {
            let used = program.map_ids().ok().flatten().unwrap_or_default();
            if used.iter().any(|map| maps.contains(map)) {
                programs.insert(program.id());
                // With its constants, which are a map that nobody pins.
                maps.extend(used);
            }
        }
        let links = loaded_links().flatten();
        let links = links.filter(|link| programs.contains(&link.program_id()));
        let links = links.map(|link| link.id()).collect();
        Ok(Self {
            maps,
            programs,
            links,
        })
    }

    /// What of it is loaded now.
    fn left(&self) -> Self {
        let of = |all: &HashSet<u32>, now: Vec<u32>| {
            let now = now.into_iter();
            now.filter(|it| all.contains(it)).collect()
        };
        let maps = loaded_maps().flatten().map(|it| it.id()).collect();
        let programs = loaded_programs().flatten().map(|it| it.id()).collect();
        let links = loaded_links().flatten().map(|it| it.id()).collect();
        Self {
            maps: of(&self.maps, maps),
            programs: of(&self.programs, programs),
            links: of(&self.links, links),
        }
    }

    fn is_empty(&self) -> bool {
        self.maps.is_empty() && self.programs.is_empty() && self.links.is_empty()
    }
}

#[test]
fn connections_that_go_on_during_an_uninstall_are_plain_afterwards() -> Result<()> {
    let Some(mut home) = Home::with(|_| ())? else {
        return Ok(());
    };
    let (mut direct, beside) = home.open(8080)?;
    let there = home.world.server.serve(8080, apps::echo)?;
    let _back = home.world.caller.serve(8081, apps::echo)?;
    let Home { world, neighbour } = &mut home;
    let World {
        near,
        far,
        caller,
        server,
        ..
    } = world;
    let pairs = [
        (&*caller, server.at(8080)),
        (&*caller, server.at6(8080)),
        (&*server, caller.at(8081)),
        (&*caller, neighbour.at(8080)),
    ];
    let pairs: Vec<_> = pairs.into_iter().cycle().take(8).collect();
    let outcomes = Calls::during(&pairs, |calls| {
        calls.more(50)?;
        let loaded = [Loaded::of(near)?, Loaded::of(far)?];
        for loaded in &loaded {
            // Or it was not looked at properly.
            assert!(
                loaded.maps.len() > 10 && loaded.programs.len() > 5,
                "{loaded:?}"
            );
            assert!(loaded.links.len() > 5, "{loaded:?}");
        }
        for agent in [&mut *near, &mut *far] {
            agent.kill()?;
        }
        exchange(&mut direct, b"while it is down")?;
        calls.more(50)?;
        for agent in [&*near, &*far] {
            let output = agent.uninstall()?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{said}");
            assert!(said.contains("nothing is left"), "{said}");
        }
        calls.next_phase();
        for loaded in &loaded {
            wait::so("the kernel to have freed it", || loaded.left().is_empty())
                .with_context(|| format!("{:?}", loaded.left()))?;
        }
        exchange(&mut direct, b"and without it")?;
        calls.more(100)
    })?;
    let after = outcomes.iter().filter(|it| it.phase == Some(1));
    let failed: Vec<_> = after.clone().filter(|it| it.error.is_some()).collect();
    assert!(after.count() >= 90 && failed.is_empty(), "{failed:#?}");
    for server in [&there, &beside] {
        let last = server.seen().last().map(|seen| seen.peer.ip());
        assert!(
            [Some(caller.v4()), Some(caller.v6())].contains(&last),
            "{last:?}"
        );
    }
    Ok(())
}
