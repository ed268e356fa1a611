//! The catalogue: every metric, what it counts and with which labels. `docs/metrics.md` is made
//! from it, and a test compares it with what is really exposed.

use std::fmt::Write as _;

use interceptor_common::Counter;

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows; exposed with suffix `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Its name, without the suffix that its kind adds.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// What it counts.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
}

impl Definition {
    /// The name of its samples, as queries use it.
    pub fn sample_name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge => self.name.to_owned(),
        }
    }
}

/// Istio's traffic labels, in ztunnel's order.
pub const TRAFFIC_LABELS: &[&str] = &[
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "request_protocol",
    "response_flags",
    "connection_security_policy",
];

macro_rules! catalogue {
    ($($(#[$doc:meta])* $constant:ident = $kind:ident $name:literal, $labels:expr, $help:literal;)*) => {
        $($(#[$doc])* pub(super) const $constant: Definition = Definition {
            name: $name,
            kind: Kind::$kind,
            help: $help,
            labels: $labels,
        };)*

        /// All metrics, in the order of the exposition.
        pub const CATALOGUE: &[Definition] = &[$($constant),*];
    };
}

catalogue! {
    TCP_OPENED = Counter "istio_tcp_connections_opened", TRAFFIC_LABELS,
        "Connections opened, carried or not";
    TCP_CLOSED = Counter "istio_tcp_connections_closed", TRAFFIC_LABELS,
        "Connections closed, whatever became of them";
    TCP_FAILED = Counter "istio_tcp_connections_failed", TRAFFIC_LABELS,
        "Connections that were refused, could not be carried, or were cut; response_flags says which";
    TCP_RECEIVED = Counter "istio_tcp_received_bytes", TRAFFIC_LABELS,
        "Bytes that the server received (the request), for both reporters";
    TCP_SENT = Counter "istio_tcp_sent_bytes", TRAFFIC_LABELS,
        "Bytes that the server sent (the response), for both reporters";
    OPEN = Gauge "interceptor_connections_open", &["reporter"],
        "Connections being carried now";
    DENIED = Counter "interceptor_connections_denied", &["reporter", "policy", "reason"],
        "Connections refused by policy or mode; at the source (the peer refused) the policy is in the access line only";
    FAILED = Counter "interceptor_connections_failed", &["reporter", "reason"],
        "Connections that should have been carried and could not be";
    CUT = Counter "interceptor_connections_cut", &["reporter", "policy", "reason"],
        "Connections that were carried until what their verdict rested on changed";
    PLAINTEXT = Counter "interceptor_connections_plaintext", &["reporter", "reason"],
        "Connections carried without mutual TLS, and why";
    SHADOWS = Counter "interceptor_policy_shadow_connections", &["policy", "effect", "source_principal"],
        "Connections of which a policy that only reports (AUDIT, dry-run) said something; effect is what enforcing it would have changed: would_refuse, would_allow, no_change, audited";
    HANDSHAKES_FAILED = Counter "interceptor_handshake_failures", &["reason"],
        "TLS handshakes of peers that failed on port 15008";
    SAME_NODE_GRANTS = Gauge "interceptor_same_node_grants", &[],
        "Pairs of a workload and an address whose connections go from socket to socket inside of the node";
    SAME_NODE_UNPUBLISHED = Gauge "interceptor_same_node_unpublished", &[],
        "Pairs that could, and take the agent's path because the kernel has no room for them";
    SAME_NODE_REFUSED = Counter "interceptor_same_node_grants_refused", &[],
        "Pairs that were not granted for want of room: all of capture.maxGrants, or their source workload's share, a quarter";
    SAME_NODE_OPEN = Gauge "interceptor_same_node_connections_open", &[],
        "Connections open from socket to socket; each is reported by both ends";
    SAME_NODE_LOST = Counter "interceptor_same_node_events_lost", &[],
        "Events of such connections for which the kernel had no room, since its maps were created";
    SAME_NODE_UNSEEN = Counter "interceptor_same_node_ends_unseen", &[],
        "Such connections whose end was found by comparing with the sockets that are open, after events were lost";
    KERNEL_EVENTS = Counter "interceptor_kernel_events", &["event"],
        "Outcomes in the kernel programs, summed over CPUs, since their maps were created";
    MAP_ENTRIES = Gauge "interceptor_kernel_map_entries", &["map"],
        "Entries in use in a kernel map";
    MAP_CAPACITY = Gauge "interceptor_kernel_map_capacity", &["map"],
        "Entries that fit into a kernel map";
    PROGRAMS = Gauge "interceptor_kernel_programs", &["program"],
        "Attachments of a kernel program";
    LOSSES = Counter "interceptor_kernel_losses", &["what"],
        "Times that something of the kernel half was found missing, because somebody had taken it away: folder, pin (put back before it matters), attachment, program (capture was not in force until then)";
    READY = Gauge "interceptor_ready", &[],
        "1 when programs are attached and pinned, listeners open and a configuration is in force";
    WORKLOADS = Gauge "interceptor_workloads", &["state"],
        "Workloads of this node: enrolled, or failed to enrol";
    CERTIFICATE_EXPIRY = Gauge "interceptor_certificate_expiry_timestamp_seconds", &["identity"],
        "End of validity of the certificate of a local identity, in Unix time";
    CERTIFICATE_ERRORS = Gauge "interceptor_certificates_failing", &[],
        "Local identities whose last renewal failed";
    ROOT_EXPIRY = Gauge "interceptor_trust_root_expiry_timestamp_seconds", &["trust_domain", "serial"],
        "End of validity of a root that is trusted, in Unix time";
    AUTHORITY_ERROR = Gauge "interceptor_authority_failing", &[],
        "1 while what is in the CA's folder cannot be used and what was read before stays in force";
    BUFFERED = Gauge "interceptor_buffered_bytes", &[],
        "Bytes that connections keep, or have promised to keep, for ends that have not taken them";
    BUFFERED_MOST = Gauge "interceptor_buffered_bytes_max", &[],
        "So many of those (transport.maxBuffered) make all connections go on with small buffers";
    PANICS = Counter "interceptor_task_panics", &[],
        "Tasks of the agent's that ended by a panic, each a fault of its own and told in its log";
    CONFIG_VERSION = Gauge "interceptor_config_version", &[],
        "Number of the configuration snapshot in force; 0 before the first";
    CONFIG_LOADED = Gauge "interceptor_config_loaded_timestamp_seconds", &[],
        "When that snapshot came into force, in Unix time";
    CONFIG_MISTAKES = Gauge "interceptor_config_mistakes", &["severity"],
        "Mistakes in the configuration that was read last; with errors, an older snapshot is in force";
    LINES_LOST = Counter "interceptor_access_lines_lost", &[],
        "Access lines dropped because they could not be written fast enough";
    WARNINGS_SUPPRESSED = Counter "interceptor_log_suppressed", &[],
        "Repeated warnings left out of the agent's own log";
    OVERFLOWED = Counter "interceptor_metric_label_sets_overflowed", &[],
        "Times that a label set had no room and was counted under unknown names";
    BUILD = Gauge "interceptor_build_info", &["version"],
        "1, with the version of the agent";
    ISTIO_BUILD = Gauge "istio_build", &["component", "tag"],
        "1, with the version of the agent, for Istio's dashboards";
    PROCESS_START = Gauge "process_start_time_seconds", &[],
        "When the agent started, in Unix time";
    PROCESS_CPU = Counter "process_cpu_seconds", &[],
        "CPU time of the agent, user and system";
    PROCESS_MEMORY = Gauge "process_resident_memory_bytes", &[],
        "Resident memory of the agent";
    PROCESS_FDS = Gauge "process_open_fds", &[],
        "Open file descriptors of the agent";
    PROCESS_THREADS = Gauge "process_threads", &[],
        "Threads of the agent";
}

/// `docs/metrics.md`.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Metrics\n\n\
         <!-- Made from interceptor/src/telemetry/metrics/catalogue.rs: \
         `INTERCEPTOR_GEN=1 cargo test -p interceptor docs_list_every_metric` -->\n\n\
         Served on port 15020 at `/metrics` (and at `/stats/prometheus`, where Istio's scrape \
         configurations look), as OpenMetrics text.\n\n\
         The `istio_tcp_*` metrics have Istio's names, labels and sense: \"sent\" is what the server \
         sent, for both reporters. A name that is not known is `unknown`. `source_principal` and \
         `destination_principal` are identities proven by certificate, or the identity of the local \
         workload. A connection that is refused or fails counts as opened, closed and failed; its \
         `response_flags` say why: `-` nothing to report, `DENY` refused, or cut, by policy, `CONNECT` \
         the other end could not be reached, `TLS_FAILURE` the TLS handshake failed, \
         `H2_HANDSHAKE_FAILURE` TLS worked and the session on it did not, `IDENTITY_ERROR` no \
         certificate for the workload. `connection_security_policy` is `mutual_tls` over HBONE, \
         `kernel` from socket to socket inside of the node ([same-node.md](same-node.md)), and \
         `unknown` in plaintext.\n\n\
         Every value of `reason` is in [reasons.md](reasons.md), with what it means and who has to act; \
         of `event`, [below](#kernel-events).\n\n\
         No label value is free text from a peer. A metric keeps at most 10,000 label sets; what comes \
         after is counted under `unknown` names and in \
         `interceptor_metric_label_sets_overflowed_total`.\n\n\
         | metric | kind | labels | what |\n|---|---|---|---|\n",
    );
    for definition in CATALOGUE {
        let kind = match definition.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let labels = if definition.labels == TRAFFIC_LABELS {
            "traffic labels, below".to_owned()
        } else {
            code_list(definition.labels)
        };
        // Writing to a String cannot fail.
        writeln!(
            out,
            "| `{}` | {kind} | {labels} | {} |",
            definition.sample_name(),
            definition.help
        )
        .unwrap_or_default();
    }
    out.push_str("\nTraffic labels: ");
    out.push_str(&code_list(TRAFFIC_LABELS));
    out.push_str(".\n");
    kernel_events(&mut out);
    out
}

/// The section about the values of `event`.
fn kernel_events(out: &mut String) {
    out.push_str(
        "\n## Kernel events\n\n\
         Values of `event` in `interceptor_kernel_events_total`, which `interceptor status` lists as \
         well. What begins with `refused_` was not let through; which ways around end there is in \
         [threats.md](threats.md). *Direct* is from socket to socket inside of the node \
         ([same-node.md](same-node.md)), a *flow* what the kernel remembers of a connection, the \
         *prober* is kubelet ([node.md](node.md)).\n\n\
         | event | counts |\n|---|---|\n",
    );
    let mut counters = Counter::ALL.to_vec();
    counters.sort_unstable_by_key(|counter| counter.name());
    for counter in counters {
        let (name, help) = (counter.name(), counter.help());
        // Writing to a String cannot fail.
        writeln!(out, "| `{name}` | {help} |").unwrap_or_default();
    }
}

fn code_list(labels: &[&str]) -> String {
    let quoted: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
    quoted.join(", ")
}
