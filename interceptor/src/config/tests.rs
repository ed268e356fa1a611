//! Reading, showing, documenting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::{Config, markdown};
use crate::capture::Prober;
use crate::telemetry::access::Format;
use crate::telemetry::queue::Destination;

fn read(text: &str) -> Config {
    Config::parse("config.yaml", text.as_bytes(), Some("one")).unwrap()
}

fn mistakes(text: &str) -> String {
    let mistakes = Config::parse("config.yaml", text.as_bytes(), Some("one")).unwrap_err();
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

#[test]
fn an_empty_file_is_all_defaults() {
    assert_eq!(read(""), read("# nothing\n---\n"));
    let config = read("");
    assert_eq!(
        config.socket(),
        Path::new("/run/interceptor/interceptor.sock")
    );
    assert_eq!(config.transport, crate::transport::Config::default());
}

#[test]
fn what_is_in_force_is_shown_with_every_key() {
    insta::assert_snapshot!(read("").to_yaml(), @r#"
    capture:
      bpffs: "/sys/fs/bpf"
      cgroupRoot: null
      debugLog: false
      eventBufferBytes: 1048576
      maxFlows: 65536
      maxGrants: 16384
      maxInboundPorts: 16384
      maxRules: 65536
      maxWorkloads: 512
      prober: "auto"
    clusterDomain: "cluster.local"
    drainDeadline: "25s"
    identity:
      caDirectory: "/var/lib/interceptor/ca"
      svidLifetime: "1h"
    manifests: "/etc/interceptor/manifests"
    maxConnectionsPerWorkload: 0
    node: "one"
    onUnsupported: "widen"
    ports:
      admin: 15000
      hbone: 15008
      inbound: 15006
      metrics: 15020
      outbound: 15001
      readiness: 15021
    rootNamespace: "istio-system"
    runFolder: "/run/interceptor"
    sameNode: "kernel"
    telemetry:
      accessLog:
        file: "stdout"
        format: "text"
      log:
        file: "stderr"
        format: "text"
        level: "info"
    transport:
      answerTimeout: "15s"
      connectTimeout: "10s"
      connectionWindow: 16777216
      handshakeTimeout: "10s"
      idleTimeout: "5m"
      maxAcceptedStreams: 200
      maxBuffered: 536870912
      maxCarriers: 8
      maxExclusive: 256
      maxFrameSize: 1048576
      maxHandshakes: 1024
      maxHandshakesPerAddress: 64
      maxRequestHeaders: 65536
      maxResponseHeaders: 16384
      maxStreams: 100
      pingInterval: "10s"
      pingTimeout: "20s"
      sendBuffer: 524288
      streamWindow: 4194304
    trustDomain: "cluster.local"
    trustDomainAliases: []
    "#);
}

#[test]
fn showing_and_reading_again_gives_the_same() {
    let text = "
node: elsewhere
trustDomain: example.org
trustDomainAliases: [old.example.org]
onUnsupported: reject
runFolder: /tmp/run
drainDeadline: 1m 30s
identity: {svidLifetime: 10m}
capture: {cgroupRoot: /sys/fs/cgroup/x, debugLog: true, maxFlows: 1000, prober: /a.slice/k.service}
ports: {admin: 25000, hbone: 25008}
transport: {connectTimeout: 250ms, maxStreams: 7}
telemetry:
  accessLog: {format: json, file: /var/log/access.log}
  log: {level: 'info,access=off', file: stdout}
";
    let config = read(text);
    assert_eq!(&*config.mesh.node, "one", "the command line beats the file");
    assert_eq!(config.drain_deadline, Duration::from_secs(90));
    assert_eq!(config.access_log.format, Format::Json);
    let file = Destination::File(PathBuf::from("/var/log/access.log"));
    assert_eq!(config.access_log.destination, file);
    assert_eq!(config.socket(), Path::new("/tmp/run/interceptor.sock"));
    assert_eq!(config.node_ports.admin, 25000);
    assert_eq!(config.transport.own_ports, [15001, 15006, 25008]);
    assert_eq!(config.capture.ports.hbone, 25008);
    assert_eq!(config.capture.node, "one");
    assert_eq!(
        config.capture.prober,
        Prober::Cgroup("/a.slice/k.service".into())
    );
    assert_eq!(read("capture: {prober: none}").capture.prober, Prober::None);
    assert_eq!(read(&config.to_yaml()), config);
    assert_eq!(read(&config.to_json().to_string()), config);
}

#[test]
fn all_mistakes_are_reported_together() {
    let text = "
manifest: /etc/manifests
runFolder: run
trustDomain: Example.org
onUnsupported: wide
drainDeadline: 30
identity:
  svidLifetime: 48h
capture: {prober: kubelet}
ports:
  outbound: 15006
  admin: 0
transport:
  streamWindow: 33554432
  connectTimout: 1s
telemetry:
  accessLog: {format: yaml, file: access.log}
  log: {level: inof}
";
    insta::assert_snapshot!(mistakes(text), @r#"
    config.yaml:2:1: unknown field `manifest`; did you mean `manifests`?
    config.yaml:3:12: runFolder: must be an absolute path without `..`
    config.yaml:4:14: trustDomain: "Example.org": 'E' cannot stand in a trust domain (lower-case letters, digits, '.', '-', '_')
    config.yaml:5:16: onUnsupported: must be widen or reject, not the text "wide"; did you mean widen?
    config.yaml:6:16: drainDeadline: must be a duration such as 10s, 5m or 24h, not the number 30
    config.yaml:8:17: identity.svidLifetime: must be 1s to 1day
    config.yaml:9:19: capture.prober: must be auto, none or the path of a cgroup without `..`, such as /system.slice/kubelet.service
    config.yaml:10:1: ports.inbound: 15006 is also ports.outbound; choose another port
    config.yaml:12:10: ports.admin: must be a number from 1 to 65535, not the number 0
    config.yaml:13:1: transport.connectionWindow: must be at least streamWindow (33554432), or no stream could fill its window
    config.yaml:15:3: transport: unknown field `connectTimout`; did you mean `connectTimeout`?
    config.yaml:17:23: telemetry.accessLog.format: must be text or json, not the text "yaml"
    config.yaml:17:35: telemetry.accessLog.file: must be stdout, stderr or an absolute path
    config.yaml:18:16: telemetry.log.level: `inof` is not a log level; use off, error, warn, info, debug or trace, or `target=level`, separated by commas: `info,interceptor::transport=debug`
    "#);
}

#[test]
fn a_second_document_and_a_wrong_node_are_mistakes() {
    assert_eq!(
        mistakes("node: one\n---\nnode: two\n"),
        "config.yaml:3:1: one document is enough: remove the `---` and join them"
    );
    let wrong = Config::parse("config.yaml", b"", Some("a/b")).unwrap_err();
    assert_eq!(
        wrong[0].to_string(),
        "config.yaml: the node's name given by --node must be at most 253 letters, digits, '-', \
         '_' and '.', not beginning with '.'"
    );
}

#[test]
fn a_missing_file_says_what_to_do() {
    let mistakes = Config::load(Path::new("/nowhere/config.yaml"), None).unwrap_err();
    assert_eq!(
        mistakes[0].to_string(),
        "/nowhere/config.yaml: cannot be read: No such file or directory (os error 2); write one \
         (an empty file is all defaults) or name another"
    );
}

#[test]
fn the_example_for_systemd_is_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/config.yaml");
    assert!(Config::load(&path, Some("one")).is_ok());
}

#[test]
fn docs_list_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's switch, not configuration"
    )]
    if std::env::var("INTERCEPTOR_GEN").is_ok() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, markdown()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap_or_default(),
        markdown(),
        "run: INTERCEPTOR_GEN=1 cargo test -p interceptor docs_list_every_key"
    );
}

proptest! {
    #[test]
    fn any_right_numbers_survive_showing_and_reading(
        flows in 16..=16 * 1024 * 1024_u32,
        millis in 100..=300_000_u64,
        streams in 1..=10_000_usize,
    ) {
        let mut config = read("");
        config.capture.sizes.flows = flows;
        config.transport.connect_timeout = Duration::from_millis(millis);
        config.transport.max_streams = streams;
        prop_assert_eq!(read(&config.to_yaml()), config);
    }

    #[test]
    fn nothing_panics_on_arbitrary_text(text in "\\PC*") {
        drop(Config::parse("config.yaml", text.as_bytes(), Some("one")));
    }
}
