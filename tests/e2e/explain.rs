//! What `explain` and `ports` say of the running agent is what its data plane just did.

use std::io::{ErrorKind, Read as _, Write as _};

use anyhow::Result;
use interceptor_tests::apps;
use interceptor_tests::manifests::{AuthorizationPolicy, Rule, Service, identity};
use interceptor_tests::world::Ground;

#[test]
fn explain_and_ports_say_what_the_data_plane_does() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let intruder = ground.a.pod("intruder")?;
    let manifest = intruder.manifest();
    let world = ground.start_with(|it| {
        it.add(manifest);
        it.add(
            Service::new("server", &["10.96.0.10".parse().expect("an address")])
                .port("tcp", 80, 8080),
        );
        it.add(
            AuthorizationPolicy::allow("callers")
                .selecting("server")
                .rule(&Rule::from("caller")),
        );
    })?;
    let _server = world.server.serve(8080, apps::echo)?;

    let mut open = world.caller.connect(world.server.at(8080))?;
    open.write_all(b"x")?;
    open.read_exact(&mut [0])?;
    let allowed = world
        .near
        .explain(&["--from", "demo/caller", "--to", "demo/server:80"])?;
    assert_eq!(allowed["outcome"], "allowed", "{allowed:#}");
    assert_eq!(allowed["decision"]["verdict"]["policy"], "demo/callers");

    let error = intruder
        .call(world.server.at(8080), "hello")
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    world.lines("the refusal", |line| !line.is_allowed())?;
    for agent in [&world.near, &world.far] {
        let denied = agent.explain(&["--last-denied"])?;
        assert_eq!(denied["outcome"], "denied", "{denied:#}");
        assert_eq!(denied["recorded"]["policy"], "demo/callers", "{denied:#}");
        assert_eq!(denied["decision"]["verdict"]["policy"], "demo/callers");
        let change = &denied["changes"][0]["changes"][0];
        assert_eq!(
            change["path"], "spec.rules[0].from[0].source.principals",
            "{denied:#}"
        );
    }

    let ports = world.far.ports("demo/server")?;
    let port = &ports["ports"][0];
    let seen = port["seen"].as_array().cloned().unwrap_or_default();
    let of = |name: &str| {
        let who = identity(name);
        seen.iter()
            .find(|seen| seen["who"] == who.as_str())
            .cloned()
    };
    assert_eq!(
        of("caller").map(|seen| seen["open"].clone()),
        Some(1.into()),
        "{ports:#}"
    );
    assert_eq!(
        of("intruder").map(|seen| seen["refused"].clone()),
        Some(1.into()),
        "{ports:#}"
    );
    drop(open);
    Ok(())
}
