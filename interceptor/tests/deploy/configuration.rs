//! The configuration files are what the agent reads, and what they name is there to be used: mounted
//! by the `DaemonSet`, or left writable by the systemd unit.

use std::path::Path;
use std::time::Duration;

use interceptor::config::Config;

use super::{daemon_set, directive, of_kind, read, texts};

/// The agent's configuration in the `ConfigMap`.
fn on_kubernetes() -> Config {
    let maps = of_kind("ConfigMap");
    let mut files = maps
        .iter()
        .flat_map(|map| texts(&map.root, "data.config~yaml"));
    parse(&files.next().unwrap_or_default())
}

fn under_systemd() -> Config {
    parse(&read("systemd/config.yaml"))
}

fn parse(text: &str) -> Config {
    let config = Config::parse("config.yaml", text.as_bytes(), Some("node"));
    config.unwrap_or_else(|mistakes| {
        assert_eq!(mistakes, []);
        Config::for_node("node")
    })
}

/// What the container mounts at or above `path`; empty if nothing.
fn mounted_at(path: &Path) -> Vec<String> {
    let mounts = texts(
        &daemon_set().root,
        "spec.template.spec.containers[].volumeMounts[].mountPath",
    );
    mounts
        .into_iter()
        .filter(|mount| path.starts_with(mount))
        .collect()
}

#[test]
fn the_daemonset_mounts_what_the_configuration_names() {
    let config = on_kubernetes();
    let cgroup_root = config.capture.cgroup_root.clone().unwrap_or_default();
    for path in [
        &config.manifests,
        &config.run_folder,
        &config.identity.ca_directory,
        &config.capture.bpffs,
        &cgroup_root,
    ] {
        assert_eq!(mounted_at(path).len(), 1, "{}", path.display());
    }
}

#[test]
fn the_daemonset_gives_the_file_and_the_nodes_name() {
    let arguments = texts(&daemon_set().root, "spec.template.spec.containers[].args[]");
    assert_eq!(
        arguments,
        [
            "run",
            "--take-over",
            "--wait-when-replaced",
            "--config",
            "/etc/interceptor/config/config.yaml",
            "--node",
            "$(NODE_NAME)"
        ]
    );
    assert_eq!(
        mounted_at(Path::new(&arguments[4])),
        ["/etc/interceptor/config"]
    );
    let name = texts(
        &daemon_set().root,
        "spec.template.spec.containers[].env[].name",
    );
    assert_eq!(name, ["NODE_NAME"]);
}

#[test]
fn the_agent_is_asked_where_it_says_that_it_is_ready() {
    let container = "spec.template.spec.containers[]";
    let of = |field: &str| texts(&daemon_set().root, &format!("{container}.{field}"));
    assert_eq!(
        of("readinessProbe.httpGet.port"),
        [on_kubernetes().node_ports.readiness.to_string()]
    );
    // Declared ports would be the node's, and a second Pod, which takes over, could not be there.
    assert!(of("ports[].containerPort").is_empty());
}

#[test]
fn the_unit_leaves_writable_what_the_agent_writes() {
    let config = under_systemd();
    assert_eq!(
        config.run_folder,
        Path::new("/run").join(directive("RuntimeDirectory"))
    );
    let state = Path::new("/var/lib").join(directive("StateDirectory"));
    assert!(config.identity.ca_directory.starts_with(state));
    assert_eq!(
        Path::new(&directive("ReadWritePaths")),
        config.capture.bpffs
    );
    let command = "run --take-over --config /etc/interceptor/config.yaml";
    assert!(directive("ExecStart").ends_with(command));
    // Who was replaced and started again would take over from its successor.
    assert_eq!(directive("RestartPreventExitStatus"), "3");
}

#[test]
fn nobody_kills_the_agent_before_it_has_drained() {
    let path = "spec.template.spec.terminationGracePeriodSeconds";
    let grace = texts(&daemon_set().root, path).concat().parse().unwrap();
    assert!(on_kubernetes().drain_deadline < Duration::from_secs(grace));
    let timeout = directive("TimeoutStopSec");
    let timeout = humantime::parse_duration(&timeout).unwrap();
    assert!(under_systemd().drain_deadline < timeout);
}
