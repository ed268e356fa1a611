//! Who connects from the node itself: kubelet, a workload of the host's network, or somebody else,
//! all of them from the same address.

use std::path::Path;

use anyhow::{Result, ensure};
use interceptor_tests::access::Line;
use interceptor_tests::agent::Setup;
use interceptor_tests::apps;
use interceptor_tests::host::HostWorkload;
use interceptor_tests::manifests::{AuthorizationPolicy, PeerAuthentication, Rule, identity};
use interceptor_tests::wait;
use interceptor_tests::world::Ground;

const MESSAGE: &str = "are you well?";

/// The program that the processes run.
fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_host-app"))
}

#[test]
fn probes_get_through_strict_and_nobody_else_of_the_node_does() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    // Both on the server's node.
    let kubelet = HostWorkload::new(&ground.b, "kubelet")?;
    let stranger = HostWorkload::new(&ground.b, "stranger")?;
    let setup = Setup {
        manifests: ground.manifests(&[&PeerAuthentication::strict()]),
        prober: Some(kubelet.cgroup().to_owned()),
        ..Setup::default()
    };
    let world = ground.start(&setup)?;
    let server = world.server.serve(8080, apps::echo)?;
    let to = world.server.at(8080);
    let probe = kubelet.run(program(), to, MESSAGE)?;
    ensure!(
        String::from_utf8_lossy(&probe.stdout).contains(MESSAGE),
        "{probe:?} {}",
        world.far.log()
    );
    let refused = stranger.run(program(), to, MESSAGE)?;
    ensure!(!String::from_utf8_lossy(&refused.stdout).contains(MESSAGE));
    let seen = server.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].peer.ip(), world.b.address());
    let labels = [("event", "probe")];
    world
        .far
        .metric_reaches("interceptor_kernel_events_total", &labels, 1.0)?;
    let line = world
        .far
        .access_line("the stranger's refusal", |line| !line.is_allowed())?;
    assert_eq!(line.decision.as_deref(), Some("denied"));
    assert_eq!(
        world.far.access().len(),
        1,
        "a probe leaves no line: {:?}",
        world.far.access()
    );
    let status = world.far.status()?;
    assert_eq!(status["prober"]["probes"], 1, "{status}");
    ensure!(
        status["unprotected"].to_string().contains("capture.prober"),
        "{status}"
    );

    // As when kubelet is restarted.
    kubelet.replace_cgroup()?;
    wait::so("the new cgroup to be trusted", || {
        let probe = kubelet.run(program(), to, MESSAGE);
        probe.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).contains(MESSAGE))
    })?;
    Ok(())
}

#[test]
fn a_policy_can_admit_exactly_one_workload_of_the_hosts_network() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let host = HostWorkload::new(&ground.a, "host-app")?;
    let stranger = HostWorkload::new(&ground.a, "stranger")?;
    let manifest = host.manifest()?;
    let world = ground.start_with(|it| {
        it.add(manifest);
        it.add(AuthorizationPolicy::allow("host-app-only").rule(&Rule::from("host-app")));
    })?;
    let server = world.server.serve(8080, apps::echo)?;
    let to = world.server.at(8080);

    let answer = host.run(program(), to, MESSAGE)?;
    ensure!(
        String::from_utf8_lossy(&answer.stdout).contains(MESSAGE),
        "{answer:?} {}",
        world.near.log()
    );
    let (near, far) = world.lines("the admitted call", Line::is_allowed)?;
    for line in [&near, &far] {
        assert_eq!(line.src_identity, Some(identity("host-app")));
    }
    assert_eq!(far.policy.as_deref(), Some("demo/host-app-only"));

    // The same address, another process: nobody.
    let refused = stranger.run(program(), to, MESSAGE)?;
    ensure!(!String::from_utf8_lossy(&refused.stdout).contains(MESSAGE));
    let line = world
        .far
        .access_line("the stranger's refusal", |line| !line.is_allowed())?;
    assert_eq!(line.src_identity, None);
    assert_eq!(server.seen().len(), 1);
    // A workload with an identity of its own is not it, either.
    assert!(world.caller.call(to, MESSAGE).is_err());
    assert_eq!(server.seen().len(), 1);
    Ok(())
}
