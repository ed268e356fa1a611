//! Configuration that changes, and configuration that is wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use interceptor_tests::agent::{Agent, Setup};
use interceptor_tests::apps;
use interceptor_tests::manifests::{AuthorizationPolicy, PeerAuthentication, Rule};
use interceptor_tests::settings;
use interceptor_tests::wait;
use interceptor_tests::world::{Ground, World};
use rstest::rstest;
use serde_json::Value;

/// The mistakes that `status` shows.
fn mistakes(agent: &Agent) -> Vec<Value> {
    let status = agent.status().unwrap_or_default();
    let mistakes = status.pointer("/configuration/mistakes");
    mistakes
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

/// One document, where it is wrong, and what the mistake says.
#[rstest]
#[case::not_yaml("a: [1, 2\n", "", "")]
#[case::unknown_field(
    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x, namespace: demo}\nspec:\n  mtls: {mode: STRICT}\n  portLevelMtl: {}\n",
    "broken.yaml:6",
    "portLevelMtls"
)]
#[case::wrong_mode(
    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: x, namespace: demo}\nspec:\n  mtls: {mode: STRICTT}\n",
    "broken.yaml:5",
    "STRICT"
)]
#[case::wrong_cidr(
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: demo}\nspec:\n  rules:\n  - from:\n    - source:\n        ipBlocks: [10.0.0.0/33]\n",
    "broken.yaml:8",
    "10.0.0.0/33"
)]
#[case::wrong_port(
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: demo}\nspec:\n  rules:\n  - to:\n    - operation:\n        ports: [\"70000\"]\n",
    "broken.yaml:8",
    "70000"
)]
#[case::deny_that_cannot_fire(
    "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x, namespace: demo}\nspec:\n  action: DENY\n",
    "broken.yaml:",
    ""
)]
#[case::address_used_twice(
    "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: demo}\nspec: {containers: [{name: a}]}\nstatus: {podIP: 192.0.2.1}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b, namespace: demo}\nspec: {containers: [{name: a}]}\nstatus: {podIP: 192.0.2.1}\n",
    "broken.yaml:",
    "192.0.2.1"
)]
fn a_wrong_manifest_is_shown_with_its_line_and_the_last_good_ones_stay(
    #[case] text: &str,
    #[case] place: &str,
    #[case] message: &str,
) -> Result<()> {
    let Some(world) = World::with(&[&PeerAuthentication::strict()])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    let outside = world.a.pod("outside")?;

    world.far.write("broken.yaml", text)?;
    // The broken file comes together with a change that must not take effect.
    world.far.apply(&[])?;

    let found = wait::until("the mistake in status", || {
        let mistakes = mistakes(&world.far);
        mistakes.into_iter().find(|it| {
            let says = |key: &str, what: &str| it[key].as_str().is_some_and(|t| t.contains(what));
            it["severity"] == "error" && says("place", place) && says("message", message)
        })
    });
    found.with_context(|| format!("status shows {:#?}", mistakes(&world.far)))?;
    assert_eq!(world.caller.ask(world.server.at(8080), "still")?, "still");
    assert!(
        outside.call(world.server.at(8080), "x").is_err(),
        "STRICT is still in force"
    );

    fs::remove_file(world.far.manifests().join("broken.yaml"))?;
    world.apply(&[])?;
    wait::so("the corrected configuration to take effect", || {
        mistakes(&world.far)
            .iter()
            .all(|it| it["severity"] != "error")
            && outside.ask(world.server.at(8080), "x").is_ok()
    })
}

#[test]
fn all_mistakes_are_shown_together_and_offline_commands_exit_with_2() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let folder = world.fabric.folder().join("offline");
    fs::create_dir(&folder)?;
    let head = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: x\n";
    fs::write(
        folder.join("a.yaml"),
        format!("{head}spec: {{mtls: {{mode: A}}}}\n"),
    )?;
    fs::write(
        folder.join("b.yaml"),
        format!("{head}spec: {{mtls: {{mode: B}}}}\n"),
    )?;

    let output = world
        .near
        .cli(&["validate", "-f", folder.to_str().context("text")?])?;

    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8([output.stdout, output.stderr].concat())?;
    assert!(
        said.contains("a.yaml:5") && said.contains("b.yaml:5"),
        "{said}"
    );
    Ok(())
}

#[test]
fn good_manifests_validate() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let folder = ground.fabric.folder().join("offline");
    fs::create_dir(&folder)?;
    let policy = AuthorizationPolicy::allow("callers").selecting("server");
    let policy = policy.rule(&Rule::from("caller").ports(&["8080"]));
    fs::write(
        folder.join("all.yaml"),
        ground.manifests(&[&policy, &PeerAuthentication::strict()]),
    )?;
    let binary = settings::agent_binary()?;
    let output = Command::new(binary)
        .args(["validate", "-f"])
        .arg(&folder)
        .output()?;
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn an_agent_whose_first_manifests_are_wrong_does_not_pretend_to_be_ready() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let setup = Setup {
        manifests: "kind: [\n".to_owned(),
        ..Setup::default()
    };
    let mut agent = ground.a.agent_unready(&setup)?;
    wait::so("the mistake to be said", || {
        agent.log().contains("mesh.yaml:")
    })?;
    let ready = agent
        .get(15021, "/healthz/ready")
        .is_ok_and(|it| it.status == 200);
    assert!(!ready || agent.ended().is_some());
    Ok(())
}

#[test]
fn pods_come_and_go_without_a_trace() -> Result<()> {
    let Some(world) = World::with(&[])? else {
        return Ok(());
    };
    let _server = world.server.serve(8080, apps::echo)?;
    assert_eq!(world.caller.ask(world.server.at(8080), "x")?, "x");
    let before = footprint(&world.near)?;

    for round in 0..3 {
        let names: Vec<String> = (0..4).map(|n| format!("guest-{round}-{n}")).collect();
        let guests = names
            .iter()
            .map(|name| world.a.pod(name))
            .collect::<Result<Vec<_>>>()?;
        world.change(|it| guests.iter().for_each(|guest| it.add(guest.manifest())))?;
        for guest in &guests {
            wait::so("a guest to be enrolled", || {
                guest.call(world.server.at(8080), "x").is_ok()
                    && world
                        .near
                        .access()
                        .iter()
                        .any(|line| line.src_workload.as_deref() == Some(guest.name()))
            })?;
        }
        // Half of them go from the manifests first, half from the machine first.
        if round % 2 == 0 {
            world.apply(&[])?;
            wait::so("the guests to be forgotten", || {
                world
                    .near
                    .status()
                    .is_ok_and(|status| !status.to_string().contains("guest-"))
            })?;
            drop(guests);
        } else {
            drop(guests);
            world.apply(&[])?;
        }
        wait::so("nothing to be left", || {
            footprint(&world.near)
                .is_ok_and(|now| now.pins <= before.pins && now.entries <= before.entries)
        })
        .with_context(|| format!("before {before:?}, now {:?}", footprint(&world.near)))?;
    }
    let files = footprint(&world.near)?.files;
    assert!(
        files <= before.files + 10,
        "{files} files are open, {} were",
        before.files
    );
    Ok(())
}

/// What workloads leave in an agent and in the kernel.
#[derive(Debug)]
struct Footprint {
    files: usize,
    pins: usize,
    entries: u64,
}

fn footprint(agent: &Agent) -> Result<Footprint> {
    let status = agent.status()?;
    let maps = status.get("maps").and_then(Value::as_array);
    // Entries of flows follow connections and their TIME_WAIT, not workloads.
    let workloads = maps
        .into_iter()
        .flatten()
        .filter(|map| map["name"].as_str() != Some("FLOWS"));
    Ok(Footprint {
        files: agent.open_files()?,
        pins: count(&agent.pins()),
        entries: workloads.filter_map(|map| map["entries"].as_u64()).sum(),
    })
}

fn count(folder: &std::path::Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| 1 + count(&entry.path())).sum()
}

#[test]
fn a_taken_port_is_one_clear_message() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let _taken = ground
        .a
        .namespace()
        .run(|| std::net::TcpListener::bind("0.0.0.0:15021"))??;
    let setup = Setup {
        manifests: ground.manifests(&[]),
        ..Setup::default()
    };
    let mut agent = ground.a.agent_unready(&setup)?;
    assert!(!agent.wait_end()?.success());
    let log = agent.log();
    assert!(log.contains("15021"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    Ok(())
}

#[test]
fn without_root_there_is_one_clear_message() -> Result<()> {
    const NOBODY: u32 = 65_534;
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let agent = ground.a.agent(&Setup {
        manifests: ground.manifests(&[]),
        ..Setup::default()
    })?;
    let config = ground.fabric.folder().join("config.yaml");
    let binary = ground.fabric.folder().join("interceptor");
    fs::copy(agent.config(), &config)?;
    fs::copy(settings::agent_binary()?, &binary)?;
    fs::set_permissions(ground.fabric.folder(), fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644))?;
    drop(agent);

    let mut command = Command::new(&binary);
    command
        .args(["run", "--config"])
        .arg(&config)
        .uid(NOBODY)
        .gid(NOBODY);
    let output = command.output()?;

    assert!(!output.status.success());
    let said = String::from_utf8([output.stdout, output.stderr].concat())?;
    assert!(said.contains("root"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    Ok(())
}

#[test]
fn without_cgroup2_there_is_one_clear_message() -> Result<()> {
    let Some(ground) = Ground::new()? else {
        return Ok(());
    };
    let setup = Setup {
        manifests: ground.manifests(&[]),
        cgroup: Some(ground.fabric.folder().to_owned()),
        ..Setup::default()
    };
    let mut agent = ground.a.agent_unready(&setup)?;
    assert!(!agent.wait_end()?.success());
    let log = agent.log();
    assert!(log.contains("cgroup2"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    Ok(())
}
