//! Pods whose manifests claim what is another's, or ask for far too much: they are named, and nobody
//! else notices.

use anyhow::Result;
use interceptor_tests::apps;
use interceptor_tests::manifests::{PeerAuthentication, identity};
use interceptor_tests::wait;
use interceptor_tests::world::World;
use rstest::rstest;
use serde_json::Value;

/// What the caller's agent says is wrong with the manifests, once there are so many mistakes.
fn mistakes(world: &World, count: usize) -> Result<Vec<String>> {
    wait::until("the mistakes to be said", || {
        let status = world.near.status().ok()?;
        let mistakes = status.pointer("/configuration/mistakes")?.as_array()?;
        let text = |it: &Value| Some(it.get("message")?.as_str()?.to_owned());
        let said: Vec<_> = mistakes.iter().filter_map(text).collect();
        (said.len() == count).then_some(said)
    })
}

/// Ten thousand ports.
fn ports() -> String {
    let ports: Vec<_> = (20_000..30_000).map(|port: u16| port.to_string()).collect();
    ports.join(",")
}

/// A mebibyte of addresses.
fn addresses() -> String {
    let addresses: Vec<_> = (0..=u16::MAX)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            format!("198.18.{high}.{low}/32")
        })
        .collect();
    addresses.join(",")
}

#[rstest]
#[case::ports("excludeOutboundPorts", ports(), "more than 16384 rules")]
#[case::own_ports("excludeInboundPorts", ports(), "has 10000 entries")]
#[case::addresses("excludeOutboundIPRanges", addresses(), "has 65536 entries")]
fn a_pod_that_asks_for_far_too_much_is_named_and_harms_nobody_else(
    #[case] key: &str,
    #[case] value: String,
    #[case] said: &str,
) -> Result<()> {
    let Some(world) = World::with(&[&PeerAuthentication::strict()])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let greedy = world.a.pod("greedy")?;
    let key = format!("traffic.sidecar.istio.io/{key}");
    world.change(|it| it.add(greedy.manifest().annotation(&key, &value)))?;
    let mistakes = mistakes(&world, 1)?;
    assert!(mistakes.iter().all(|it| it.contains(said)), "{mistakes:#?}");
    assert_eq!(world.caller.ask(world.server.at(8080), "x")?, "x");
    Ok(())
}

#[test]
fn pods_that_claim_what_is_anothers_are_named_and_change_nothing() -> Result<()> {
    let Some(world) = World::with(&[&PeerAuthentication::strict()])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let (thief, double) = (world.a.pod("thief")?, world.a.pod("double")?);
    let namespace = world.caller.namespace().path();
    let stolen = [world.caller.v4(), world.caller.v6()];
    world.change(|it| {
        it.add(thief.manifest().network_namespace(&namespace));
        it.add(double.manifest().at(&stolen));
    })?;
    let said = mistakes(&world, 3)?;
    for claim in [
        "is also where demo/caller is bound",
        "is also the address of demo/caller",
    ] {
        assert!(said.iter().any(|it| it.contains(claim)), "{said:#?}");
    }
    assert_eq!(world.caller.ask(world.server.at(8080), "x")?, "x");
    let line = world.far.access_line("the caller's", |_| true)?;
    assert_eq!(line.src_identity, Some(identity("caller")));
    Ok(())
}
