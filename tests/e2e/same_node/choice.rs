//! Which connections go past the agent, and which do not.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Result;
use interceptor_tests::access::Line;
use interceptor_tests::agent::Setup;
use interceptor_tests::apps;
use interceptor_tests::host::HostWorkload;
use interceptor_tests::manifests::{AuthorizationPolicy, Rule, Service, identity};
use interceptor_tests::wait;
use interceptor_tests::world::Ground;
use rstest::rstest;

use super::{Home, exchange};

#[test]
fn a_pair_that_is_denied_is_refused_by_the_agent_with_policy_and_reason() -> Result<()> {
    let others = AuthorizationPolicy::allow("others")
        .selecting("neighbour")
        .rule(&Rule::from("other"));
    let Some(home) = Home::with(|it| it.add(others))? else {
        return Ok(());
    };
    let server = home.neighbour.serve(8080, apps::echo)?;
    for _ in 0..3 {
        let error = home.world.caller.call(home.neighbour.at(8080), "x");
        assert_eq!(
            error.expect_err("refused").kind(),
            ErrorKind::ConnectionReset
        );
    }
    assert_eq!(server.seen(), []);
    assert_eq!(home.passed(), 0);
    let (near, far) = home.lines("the refusal", |it| !it.is_allowed())?;
    for line in [near, far] {
        assert_eq!(line.decision.as_deref(), Some("denied"), "{line:?}");
        assert_eq!(
            (line.policy.as_deref(), line.rule),
            (Some("demo/others"), Some(0))
        );
    }
    Ok(())
}

/// Where somebody says that connections inside of the node are encrypted, too.
#[derive(Clone, Copy, Debug)]
enum Level {
    Mesh,
    Namespace,
    Caller,
    Server,
}

#[rstest]
#[case::of_the_mesh(Level::Mesh)]
#[case::of_the_namespace(Level::Namespace)]
#[case::of_the_caller(Level::Caller)]
#[case::of_the_server(Level::Server)]
fn who_wants_mutual_tls_inside_of_the_node_gets_it(#[case] level: Level) -> Result<()> {
    const KEY: &str = "interceptor.dev/same-node";
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let neighbour = ground.a.pod("neighbour")?;
    let mut manifest = neighbour.manifest();
    if matches!(level, Level::Server) {
        manifest = manifest.annotation(KEY, "mtls");
    }
    let mut setup = Setup {
        manifests: ground.manifests_as(|it| {
            match level {
                Level::Namespace => it.namespace = it.namespace.clone().annotation(KEY, "mtls"),
                Level::Caller => it.caller = it.caller.clone().annotation(KEY, "mtls"),
                Level::Mesh | Level::Server => {}
            }
            it.add(manifest);
        }),
        ..Setup::default()
    };
    if matches!(level, Level::Mesh) {
        "sameNode: mtls".clone_into(&mut setup.extra);
    }
    let world = ground.start(&setup)?;
    let home = Home { world, neighbour };
    let _server = home.neighbour.serve(8080, apps::echo)?;
    home.assert_through_the_agent(home.neighbour.at(8080))?;
    let (from, to) = ("demo/caller", format!("{}", home.neighbour.at(8080)));
    let answer = home.world.near.explain(&["--from", from, "--to", &to])?;
    let told = answer.to_string();
    assert!(told.contains("HBONE"), "{told}");
    let who = match level {
        Level::Mesh => "the mesh wants mutual TLS inside of nodes (sameNode: mtls",
        Level::Namespace => "the namespace demo wants mutual TLS inside of nodes",
        Level::Caller => "demo/caller wants mutual TLS on its node",
        Level::Server => "demo/neighbour wants mutual TLS on its node",
    };
    assert!(told.contains(who), "{told}");
    Ok(())
}

/// Who is nearer to a workload has the last word.
#[rstest]
#[case::the_namespace_of_the_mesh("sameNode: mtls", "kernel", None)]
#[case::both_pods_of_their_namespace("", "mtls", Some("kernel"))]
fn who_wants_to_stay_in_the_kernel_may_against_the_default(
    #[case] of_the_mesh: &str,
    #[case] of_the_namespace: &str,
    #[case] of_the_pods: Option<&str>,
) -> Result<()> {
    const KEY: &str = "interceptor.dev/same-node";
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let neighbour = ground.a.pod("neighbour")?;
    let mut manifest = neighbour.manifest();
    let manifests = ground.manifests_as(|it| {
        it.namespace = it.namespace.clone().annotation(KEY, of_the_namespace);
        if let Some(way) = of_the_pods {
            it.caller = it.caller.clone().annotation(KEY, way);
            manifest = manifest.clone().annotation(KEY, way);
        }
        it.add(manifest);
    });
    let world = ground.start(&Setup {
        manifests,
        extra: of_the_mesh.to_owned(),
        ..Setup::default()
    })?;
    let home = Home { world, neighbour };
    let _server = home.neighbour.serve(8080, apps::echo)?;
    home.granted(home.neighbour.at(8080))?;
    let to = home.neighbour.at(8080).to_string();
    let arguments = ["--from", "demo/caller", "--to", &to];
    let told = home.world.near.explain(&arguments)?.to_string();
    assert!(told.contains("kernel: from socket to socket"), "{told}");
    Ok(())
}

/// Decided before the first one is carried, so that not even its answer has to be waited for.
#[test]
fn the_first_connection_of_a_pair_takes_the_agents_path_and_the_second_does_not() -> Result<()> {
    let Some(home) = Home::with(|_| ())? else {
        return Ok(());
    };
    for port in 8080..8090 {
        let _server = home.neighbour.serve(port, apps::echo)?;
        for to in [home.neighbour.at(port), home.neighbour.at6(port)] {
            let ask = || -> Result<[u64; 2]> {
                let before = home.seen()?;
                assert_eq!(home.world.caller.ask(to, "hello")?, "hello");
                let after = home.seen()?;
                Ok([after[0] - before[0], after[1] - before[1]])
            };
            assert_eq!(ask()?, [1, 0], "the first to {to}: captured, direct");
            assert_eq!(ask()?, [0, 1], "the second to {to}: captured, direct");
        }
    }
    Ok(())
}

#[test]
fn what_has_to_be_counted_per_connection_stays_on_the_agents_path() -> Result<()> {
    let audit = AuthorizationPolicy::audit("watch").rule(&Rule::default().ports(&["8080"]));
    let Some(home) = Home::with(|it| it.add(audit))? else {
        return Ok(());
    };
    let _watched = home.neighbour.serve(8080, apps::echo)?;
    let _other = home.neighbour.serve(9090, apps::echo)?;
    home.assert_through_the_agent(home.neighbour.at(8080))?;
    home.granted(home.neighbour.at(9090))?;
    let to = home.neighbour.at(8080).to_string();
    let answer = home
        .world
        .near
        .explain(&["--from", "demo/caller", "--to", &to])?;
    assert!(
        answer
            .to_string()
            .contains("demo/watch reports each connection"),
        "{answer}"
    );
    let to = home.neighbour.at(9090).to_string();
    let answer = home
        .world
        .near
        .explain(&["--from", "demo/caller", "--to", &to])?;
    assert!(
        answer.to_string().contains("kernel: from socket to socket"),
        "{answer}"
    );
    Ok(())
}

#[test]
fn a_port_whose_policy_looks_at_requests_stays_on_the_agents_path() -> Result<()> {
    let readers = Rule::default().ports(&["8080"]);
    let readers = AuthorizationPolicy::allow("readers")
        .rule(&Rule::from("caller"))
        .rule(&readers.operation("methods", &["GET"]));
    let Some(home) = Home::with(|it| it.add(readers))? else {
        return Ok(());
    };
    let _requests = home.neighbour.serve(8080, apps::echo)?;
    let _bytes = home.neighbour.serve(9090, apps::echo)?;
    home.assert_through_the_agent(home.neighbour.at(8080))?;
    home.granted(home.neighbour.at(9090))?;
    for (port, expected) in [
        (8080, "demo/readers rule 1 looks at requests"),
        (9090, "kernel: from socket to socket"),
    ] {
        let to = home.neighbour.at(port).to_string();
        let arguments = ["--from", "demo/caller", "--to", &to];
        let answer = home.world.near.explain(&arguments)?.to_string();
        assert!(answer.contains(expected), "{port}: {answer}");
    }
    Ok(())
}

#[test]
fn a_service_with_endpoints_here_and_elsewhere_shares_its_connections_fairly() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let vip = ground.fabric.vip(1);
    let neighbour = ground.a.pod("neighbour")?;
    let manifest = neighbour.manifest().label("app", "server");
    let world = ground.start_with(|it| {
        it.add(manifest);
        it.add(Service::new("server", &[vip]).port("echo", 80, 8080));
    })?;
    let home = Home { world, neighbour };
    let here = home.neighbour.serve(8080, apps::echo)?;
    let elsewhere = home.world.server.serve(8080, apps::echo)?;
    home.granted((vip, 80).into())?;

    let (here_before, elsewhere_before) = (here.seen().len(), elsewhere.seen().len());
    let passed = home.passed();
    for _ in 0..200 {
        assert_eq!(home.world.caller.ask((vip, 80).into(), "x")?, "x");
    }
    let near = here.seen().len() - here_before;
    let far = elsewhere.seen().len() - elsewhere_before;
    assert_eq!(near + far, 200);
    // Less than one in a billion that a fair coin falls so.
    assert!((58..=142).contains(&near), "{near} here, {far} elsewhere");
    let direct = usize::try_from(home.passed() - passed)?;
    assert_eq!(
        direct, near,
        "all that stayed on the node went past the agent"
    );
    let (line, _) = home.lines("a call of the Service", Line::is_direct)?;
    assert_eq!(
        line.dst_service.as_deref(),
        Some("server.demo.svc.cluster.local")
    );

    let mut stream = home.world.caller.connect((vip, 80).into())?;
    exchange(&mut stream, b"peer")?;
    assert_eq!(
        stream.peer_addr()?,
        (vip, 80).into(),
        "the caller sees what it dialled"
    );
    Ok(())
}

#[test]
fn a_workload_of_the_hosts_network_goes_past_the_agent_as_itself() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let program = Path::new(env!("CARGO_BIN_EXE_host-app"));
    let host = HostWorkload::new(&ground.a, "host-app")?;
    let stranger = HostWorkload::new(&ground.a, "stranger")?;
    let neighbour = ground.a.pod("neighbour")?;
    let manifests = [host.manifest()?, neighbour.manifest()];
    let world = ground.start_with(|it| {
        for manifest in manifests {
            it.add(manifest);
        }
        it.add(AuthorizationPolicy::allow("host-app-only").rule(&Rule::from("host-app")));
    })?;
    let home = Home { world, neighbour };
    let server = home.neighbour.serve(8080, apps::echo)?;
    let to = home.neighbour.at(8080);
    let answers = |who: &HostWorkload| {
        let output = who.run(program, to, "hello");
        output.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains("hello"))
    };
    wait::so("it to go past the agent", || {
        assert!(answers(&host), "{}", home.world.near.log());
        home.passed() > 0
    })?;
    let (near, far) = home.lines("the direct call", Line::is_direct)?;
    for line in [&near, &far] {
        assert_eq!(line.src_identity, Some(identity("host-app")));
        assert_eq!(line.policy.as_deref(), Some("demo/host-app-only"));
    }
    // The same address, another process: nobody, also while the way past the agent is open.
    let seen = server.seen().len();
    assert!(!answers(&stranger));
    assert_eq!(server.seen().len(), seen);
    Ok(())
}
