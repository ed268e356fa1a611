//! The certificate authority replaced below running agents, in the steps that docs/authority.md tells.

use std::fs;
use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, ensure};
use interceptor_tests::agent::Agent;
use interceptor_tests::apps;
use interceptor_tests::calls::Calls;
use interceptor_tests::fabric::Fabric;
use interceptor_tests::manifests::PeerAuthentication;
use interceptor_tests::wait;
use interceptor_tests::world::World;
use serde_json::Value;

use crate::same_node::exchange;

/// The folder that both agents read, and two authorities to put there.
struct Authorities<'a>(&'a Fabric);

impl<'a> Authorities<'a> {
    /// Keeps the one in use as `old`, and makes a `new` one.
    fn of(world: &'a World) -> Result<Self> {
        let folder = world.fabric.folder();
        let (old, new) = (folder.join("old"), folder.join("new"));
        fs::create_dir(&old)?;
        for file in ["ca.crt", "ca.key"] {
            fs::copy(folder.join("ca").join(file), old.join(file))?;
        }
        let new = new.to_str().context("the path is not text")?;
        let made = world.near.cli(&["ca", "init", "--dir", new])?;
        ensure!(made.status.success(), "{made:?}");
        Ok(Self(&world.fabric))
    }

    /// `signer` signs, and `besides` is trusted as well.
    fn install(&self, signer: &str, besides: &[&str]) -> Result<()> {
        let folder = self.0.folder();
        let read = |name: &str, file| fs::read_to_string(folder.join(name).join(file));
        let mut certificates = read(signer, "ca.crt")?;
        for other in besides {
            certificates.push_str(&read(other, "ca.crt")?);
        }
        self.0
            .replace_authority(&read(signer, "ca.key")?, &certificates)
    }
}

/// How many roots are trusted, who signs, and the serial numbers of the certificates in use.
fn state(agent: &Agent) -> (usize, Value, Vec<Value>) {
    let status = agent.status().unwrap_or_default();
    let at = |pointer: &str| status.pointer(pointer).cloned().unwrap_or_default();
    let roots = at("/authority/roots").as_array().map_or(0, Vec::len);
    let certificates = at("/certificates").as_array().cloned().unwrap_or_default();
    let serials = certificates.iter().map(|it| it.get("serial").cloned());
    let serials = serials.map(Option::unwrap_or_default).collect();
    (roots, at("/authority/serial"), serials)
}

/// What `status` says is wrong with what is in the folder.
fn complaint(agent: &Agent) -> Option<String> {
    let status = agent.status().ok()?;
    let said = status.pointer("/authority/lastError")?.as_str()?;
    Some(said.to_owned())
}

#[test]
fn a_root_is_replaced_while_connections_are_open_and_made() -> Result<()> {
    let Some(world) = World::with(&[&PeerAuthentication::strict()])? else {
        return Ok(());
    };
    let authorities = Authorities::of(&world)?;
    let _server = world.server.serve(8080, apps::echo)?;
    let _back = world.caller.serve(8081, apps::echo)?;
    let mut open = world.caller.connect(world.server.at(8080))?;
    exchange(&mut open, b"1")?;
    let pairs = [
        (&world.caller, world.server.at(8080)),
        (&world.server, world.caller.at(8081)),
    ];
    let pairs: Vec<_> = pairs.into_iter().cycle().take(4).collect();
    let (_, first, _) = state(&world.near);
    let outcomes = Calls::during(&pairs, |calls| {
        calls.more(50)?;
        for (signer, besides, roots) in [
            ("old", &["new"][..], 2),
            ("new", &["old"], 2),
            ("new", &[], 1),
        ] {
            let before = [&world.near, &world.far].map(state);
            authorities.install(signer, besides)?;
            for (agent, (_, _, serials)) in [&world.near, &world.far].into_iter().zip(&before) {
                wait::so("the change to be in force, certificates too", || {
                    let now = state(agent);
                    let renewed = now
                        .2
                        .iter()
                        .all(|it| !it.is_null() && !serials.contains(it));
                    now.0 == roots && renewed
                })?;
            }
            calls.more(50)?;
            exchange(&mut open, b"2")?;
        }
        Ok(())
    })?;
    let failures: Vec<_> = outcomes.iter().filter(|it| it.error.is_some()).collect();
    let calls = outcomes.len();
    assert!(
        failures.is_empty(),
        "{failures:#?} of {calls}: {:#?}",
        world.near.log()
    );
    exchange(&mut open, b"3")?;
    for agent in [&world.near, &world.far] {
        let (_, serial, _) = state(agent);
        assert_ne!(serial, first, "the new one signs");
        assert_eq!(complaint(agent), None);
    }
    Ok(())
}

#[test]
fn an_authority_that_cannot_be_read_is_said_and_the_one_before_goes_on() -> Result<()> {
    let Some(world) = World::with(&[&PeerAuthentication::strict()])? else {
        return Ok(());
    };
    let authorities = Authorities::of(&world)?;
    let _server = world.server.serve(8080, apps::echo)?;
    let mut open = world.caller.connect(world.server.at(8080))?;
    exchange(&mut open, b"1")?;
    fs::write(world.fabric.folder().join("ca/ca.crt"), "by mistake")?;
    let failing = |value| {
        let name = "interceptor_authority_failing";
        let reached = |agent: &Agent| agent.metric_reaches(name, &[], value);
        reached(&world.near).and_then(|()| reached(&world.far))
    };
    failing(1.0)?;
    let said = complaint(&world.near).context("a complaint in status")?;
    assert!(
        said.contains("ca.crt is not PEM with certificates"),
        "{said}"
    );
    let log = world.near.log();
    let complaint = "the authority cannot be read again: the one before stays in force";
    assert_eq!(log.matches(complaint).count(), 1, "{log}");
    assert_eq!(world.caller.ask(world.server.at(8080), "new")?, "new");
    exchange(&mut open, b"2")?;
    // A workload that comes meanwhile is served as well.
    let extra = world.a.pod("extra")?;
    let manifest = extra.manifest().service_account("extra");
    world.change(|it| it.add(manifest))?;
    wait::so("the extra pod to be enrolled", || {
        let line = |line: &interceptor_tests::access::Line| {
            line.src_workload.as_deref() == Some("extra") && line.is_allowed()
        };
        extra.ask(world.server.at(8080), "x").is_ok() && world.near.access().iter().any(line)
    })?;

    authorities.install("old", &[])?;
    failing(0.0)?;
    assert_eq!(world.caller.ask(world.server.at(8080), "new")?, "new");
    open.write_all(b"3")?;
    open.read_exact(&mut [0])?;
    Ok(())
}
