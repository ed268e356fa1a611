//! Every key of the configuration file: its name, what it sets, what it may be, what it is for.

use std::time::Duration;

use super::setting::{Setting, Words};
use super::{Config, NodePorts};
use crate::identity::MAX_LIFETIME;
use crate::telemetry::access::Format;
use crate::transport;

/// Something that is done with every key: reading, showing, documenting.
pub(super) trait Visit {
    /// One key with a value.
    fn field<T: Setting>(
        &mut self,
        key: &'static str,
        help: &'static str,
        value: &mut T,
        allowed: T::Allowed,
    );

    /// One key with keys below it.
    fn section(&mut self, key: &'static str, help: &'static str, visit: &mut dyn FnMut(&mut Self));
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

/// Visits every key of `config`.
pub(super) fn visit<V: Visit>(v: &mut V, config: &mut Config) {
    mesh(v, config);
    v.field(
        "manifests",
        "The folder of manifests: Pods, Services, policies. Watched; changes take effect at once.",
        &mut config.manifests,
        (),
    );
    v.field(
        "runFolder",
        "Holds the unix socket of the command line, `interceptor.sock`.",
        &mut config.run_folder,
        (),
    );
    connections(v, config);
    let identity = &mut config.identity;
    v.section("identity", "Where certificates come from.", &mut |v| {
        v.field(
            "caDirectory",
            "The folder of the embedded CA. Agents that share it trust each other. Read again when it changes.",
            &mut identity.ca_directory,
            (),
        );
        v.field(
            "svidLifetime",
            "How long a workload's certificate is valid. It is renewed at half of it.",
            &mut identity.svid_lifetime,
            SECOND..=MAX_LIFETIME,
        );
    });
    capture(v, config);
    let (own, node) = (&mut config.mesh.ports, &mut config.node_ports);
    v.section("ports", "Where the agent listens.", &mut |v| {
        v.field(
            "outbound",
            "In each workload: captured outbound connections.",
            &mut own.outbound,
            1..=u16::MAX,
        );
        v.field(
            "inbound",
            "In each workload: plaintext connections to it.",
            &mut own.inbound,
            1..=u16::MAX,
        );
        v.field(
            "hbone",
            "In each workload: tunnels from other agents. The same in the whole mesh.",
            &mut own.hbone,
            1..=u16::MAX,
        );
        node_ports(v, node);
    });
    let section = &mut config.transport;
    v.section("transport", "Tunnels between nodes.", &mut |v| {
        transport(v, section);
    });
    telemetry(v, config);
}

fn connections<V: Visit>(v: &mut V, config: &mut Config) {
    v.field(
        "drainDeadline",
        "How long open connections may take to end when the agent stops; then they are cut.",
        &mut config.drain_deadline,
        Duration::ZERO..=HOUR,
    );
    v.field(
        "maxConnectionsPerWorkload",
        "Connections of one workload, from it and to it, that may be open at this agent at once; TLS \
         connections of peers count as well. More are refused (`too_many_connections`). 0: no bound, \
         until three quarters of the agent's file descriptors are in use; then workloads with more \
         connections than a sixteenth of the descriptors get no more.",
        &mut config.max_connections,
        0..=16 * 1024 * 1024,
    );
}

fn mesh<V: Visit>(v: &mut V, config: &mut Config) {
    let mesh = &mut config.mesh;
    v.field(
        "node",
        "The node's name, as in `spec.nodeName` of its Pods. Default: the host's name. \
         `--node` beats it.",
        &mut mesh.node,
        Words::Node,
    );
    v.field(
        "trustDomain",
        "The trust domain of every identity.",
        &mut mesh.trust_domain,
        (),
    );
    v.field(
        "trustDomainAliases",
        "Other names of the same trust domain, as during a migration.",
        &mut mesh.trust_domain_aliases,
        (),
    );
    v.field(
        "rootNamespace",
        "Policies of this namespace hold for the whole mesh.",
        &mut mesh.root_namespace,
        Words::Dns,
    );
    v.field(
        "clusterDomain",
        "The suffix of Service names.",
        &mut mesh.cluster_domain,
        Words::Dns,
    );
    v.field(
        "onUnsupported",
        "What becomes of policy rules with attributes that only an HTTP proxy sees: `widen` makes \
         DENY match more and ALLOW never, `reject` refuses the policy.",
        &mut mesh.on_unsupported,
        (),
    );
    v.field(
        "sameNode",
        "How two enrolled workloads of this node are connected: `kernel` from socket to socket, with \
         the verdict held by the kernel; `mtls` through the agent, encrypted as between nodes. The \
         annotation `interceptor.dev/same-node` of a workload or namespace beats it.",
        &mut mesh.same_node,
        (),
    );
}

fn capture<V: Visit>(v: &mut V, config: &mut Config) {
    let capture = &mut config.capture;
    let maps = 16..=16 * MIB;
    v.section("capture", "The kernel half.", &mut |v| {
        v.field(
            "cgroupRoot",
            "The cgroup whose processes are seen. Default: the cgroup2 mount, that is, all.",
            &mut capture.cgroup_root,
            (),
        );
        v.field("bpffs", "The BPF file system.", &mut capture.bpffs, ());
        v.field(
            "prober",
            "Whose connections from the host's network to workloads of this node are kubelet's probes \
             and go straight to the application: processes of this cgroup and below it, as in \
             `/proc/PID/cgroup`. `auto` takes those of the usual cgroups of kubelet that exist, see \
             [the node itself](node.md).",
            &mut capture.prober,
            (),
        );
        v.field(
            "maxFlows",
            "Connections whose beginnings the kernel remembers, the agent's own among them: those that were \
             established longest ago are forgotten first, which does them no harm. Direct connections have \
             room for a quarter of it; more of those cost more each. This and the five below take effect \
             after `interceptor uninstall`.",
            &mut capture.sizes.flows,
            maps.clone(),
        );
        v.field(
            "maxWorkloads",
            "Workloads of the node.",
            &mut capture.sizes.workloads,
            maps.clone(),
        );
        v.field(
            "maxRules",
            "Outbound capture rules of all workloads together.",
            &mut capture.sizes.rules,
            maps.clone(),
        );
        v.field(
            "maxInboundPorts",
            "Inbound ports that differ from their workload's default, per address.",
            &mut capture.sizes.inbound_ports,
            maps.clone(),
        );
        v.field(
            "maxGrants",
            "Pairs of a workload and an address between which connections stay in the kernel. One \
             that is granted takes 0.6 KiB in the kernel and about as much in the agent, which remembers up to \
             49,152 others besides.",
            &mut capture.sizes.grants,
            maps.clone(),
        );
        v.field(
            "eventBufferBytes",
            "Buffer for what the kernel tells of such connections, 168 bytes for the end of \
             each, and for the beginning of those that find no room in the table; what it keeps while no \
             agent reads, such as 6,200 ends in 1 MiB. Counts twice in the agent's resident memory. Rounded up to a power of two. Without \
             room events are lost, and counted.",
            &mut capture.sizes.event_bytes,
            64 * KIB..=256 * MIB,
        );
        v.field(
            "debugLog",
            "Log every decision of the kernel programs. Costs microseconds per connection.",
            &mut capture.debug_log,
            (),
        );
    });
}

fn node_ports<V: Visit>(v: &mut V, ports: &mut NodePorts) {
    v.field(
        "admin",
        "On the node, loopback only: administration.",
        &mut ports.admin,
        1..=u16::MAX,
    );
    v.field(
        "metrics",
        "On the node: metrics.",
        &mut ports.metrics,
        1..=u16::MAX,
    );
    v.field(
        "readiness",
        "On the node: readiness.",
        &mut ports.readiness,
        1..=u16::MAX,
    );
}

fn transport<V: Visit>(v: &mut V, transport: &mut transport::Config) {
    timeouts(v, transport);
    carriers(v, transport);
    v.field(
        "maxAcceptedStreams",
        "Streams that a peer may put on one TLS connection.",
        &mut transport.max_accepted_streams,
        1..=10_000,
    );
    v.field(
        "streamWindow",
        "Unread bytes that one stream may have in flight towards us: 64 KiB at first, more while it is \
         fast. Between agents of ours it is not used.",
        &mut transport.stream_window,
        64 * KIB..=64 * MIB,
    );
    v.field(
        "connectionWindow",
        "Unread bytes that one TLS connection may have in flight towards us: 256 KiB at first, more \
         while it is fast. More than `streamWindow`, or one stuck reader stops all.",
        &mut transport.connection_window,
        64 * KIB..=256 * MIB,
    );
    v.field(
        "sendBuffer",
        "Bytes that one stream may have waiting to be written, and memory that they may take.",
        &mut transport.send_buffer,
        16 * 1024..=16 * 1024 * 1024,
    );
    v.field(
        "maxBuffered",
        "Bytes that all connections together may keep for ends that do not take them, or promise to \
         keep, beyond the least that each of them needs. With none left, connections have small \
         buffers and windows.",
        &mut transport.max_buffered,
        1024 * 1024..=1024 * 1024 * 1024 * 1024,
    );
    v.field(
        "maxFrameSize",
        "Largest HTTP/2 frame that we accept.",
        &mut transport.max_frame_size,
        16 * KIB..=16 * MIB - 1,
    );
    v.field(
        "maxRequestHeaders",
        "Largest header list of a CONNECT that we accept.",
        &mut transport.max_request_headers,
        KIB..=MIB,
    );
    v.field(
        "maxResponseHeaders",
        "Largest header list of an answer that we accept.",
        &mut transport.max_response_headers,
        KIB..=MIB,
    );
    v.field(
        "maxHandshakes",
        "Inbound handshakes under way at once.",
        &mut transport.max_handshakes,
        1..=100_000,
    );
    v.field(
        "maxHandshakesPerAddress",
        "Inbound handshakes under way at once from one address.",
        &mut transport.max_handshakes_per_address,
        1..=100_000,
    );
}

fn carriers<V: Visit>(v: &mut V, transport: &mut transport::Config) {
    v.field(
        "maxExclusive",
        "TLS connections per pair of identities and address that one stream at a time has to \
         itself, between agents of ours. 0: HTTP/2 as everybody speaks it.",
        &mut transport.max_exclusive,
        0..=10_000,
    );
    v.field(
        "maxCarriers",
        "TLS connections per pair of identities and address before streams share one; also how \
         many are made at once. Between agents of ours: before streams of small messages share \
         one.",
        &mut transport.max_carriers,
        1..=1024,
    );
    v.field(
        "maxStreams",
        "Streams that we put on one TLS connection, if the peer allows as many.",
        &mut transport.max_streams,
        1..=10_000,
    );
}

fn timeouts<V: Visit>(v: &mut V, transport: &mut transport::Config) {
    let short = Duration::from_millis(100)..=5 * MINUTE;
    let long = SECOND..=24 * HOUR;
    v.field(
        "connectTimeout",
        "How long connecting to a peer's node may take.",
        &mut transport.connect_timeout,
        short.clone(),
    );
    v.field(
        "handshakeTimeout",
        "How long TLS and the HTTP/2 preface together may take, on either end.",
        &mut transport.handshake_timeout,
        short.clone(),
    );
    v.field(
        "answerTimeout",
        "How long a peer may take to answer a CONNECT.",
        &mut transport.answer_timeout,
        short.clone(),
    );
    v.field(
        "idleTimeout",
        "How long a TLS connection without streams is kept for the next one.",
        &mut transport.idle_timeout,
        long.clone(),
    );
    v.field(
        "pingInterval",
        "How long a quiet TLS connection is trusted before it is asked for a sign of life.",
        &mut transport.ping_interval,
        long,
    );
    v.field(
        "pingTimeout",
        "How long it may take to give that sign.",
        &mut transport.ping_timeout,
        short,
    );
}

fn telemetry<V: Visit>(v: &mut V, config: &mut Config) {
    let formats = [("text", Format::Text), ("json", Format::Json)];
    let (access, log) = (&mut config.access_log, &mut config.log);
    v.section("telemetry", "What the agent tells.", &mut |v| {
        v.section(
            "accessLog",
            "One line per connection, at its end or its refusal.",
            &mut |v| {
                v.field("format", "How lines look.", &mut access.format, formats);
                v.field(
                    "file",
                    "Where they go: `stdout`, `stderr` or a file, which may be rotated.",
                    &mut access.destination,
                    (),
                );
            },
        );
        v.section("log", "The agent's own log.", &mut |v| {
            v.field(
                "level",
                "`off`, `error`, `warn`, `info`, `debug` or `trace`, also by target: \
                 `info,interceptor::transport=debug`.",
                &mut log.level,
                Words::Level,
            );
            v.field("format", "How lines look.", &mut log.format, formats);
            v.field(
                "file",
                "Where they go: `stdout`, `stderr` or a file, which may be rotated.",
                &mut log.destination,
                (),
            );
        });
    });
}
